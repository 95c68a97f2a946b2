"""AffectNet as released in 2017: lists of original photographs in CSV files, each with a face box and landmarks.

The rows' images are the faces, cut out as `crop_face` says. They are kept in the cache, as JPEG: the release has no
file of them. `image_id` is the number of the row in its CSV file, counted from 0.
"""

import csv
import io
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import PIL.Image

from . import tree
from .about import AFFECTNET
from .expressions import EXPRESSIONS, listed
from .files import RASTER_FORMATS, shortened
from .rows import (
    PAIRS_PER_SHARD,
    Damage,
    ReleaseError,
    attempts,
    decode_image,
    finite_float32,
    lines_of,
    plain_number,
    read,
    times_of_files,
    times_of_folder,
    unknown_numbers,
)

TITLE = "AffectNet, release of 2017 (CSV)"
NAME = "AffectNet (2017)"
ABOUT = AFFECTNET
SPLITS = {"train": (414_799, None), "validation": (5_500, None), "automatically_annotated": None}
_FILES = {
    "train": "training.csv",
    "validation": "validation.csv",
    "automatically_annotated": "automatically_annotated.csv",
}
_FOLDERS = ("Manually_Annotated_Images", "Automatically_Annotated_Images")
# Lists and images may lie in folders of their own, as they were unpacked.
MARKS = (
    *_FILES.values(),
    *(f"{name}/" for name in _FOLDERS),
    *(f"{kind}_Annotated{ending}/" for kind in ("Manually", "Automatically") for ending in ("", "_compressed")),
    *(
        f"{kind}nnotated_file_list{s}/"
        for kind in ("Manually_A", "Automatically_A", "Automatically_a")
        for s in ("", "s")
    ),
)
_COLUMNS = (
    "subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "facial_landmarks", "expression",
    "valence", "arousal",
)  # fmt: skip
_NULL = ("", "null", "none", "nan")
SIZE = 224


class CsvShard(NamedTuple):
    """Some lines of a CSV file: it is read by pieces, as all its landmarks would take gigabytes."""

    path: str
    file: str  # where it can be read by pieces
    columns: tuple[str, ...]
    first_row: int
    start: int  # bytes
    end: int
    image_folders: tuple[str, ...]
    num_rows: int

    def __len__(self) -> int:
        return self.num_rows


def _found(release: str, names) -> dict[str, str]:
    """Where each of these files or folders lies: in the release, or one or two folders further in."""
    places = [release, *_folders_in(release)]
    places += [inner for place in places[1:] for inner in _folders_in(place)]
    paths = ((name, os.path.join(place, name)) for name in names for place in reversed(places))
    return {name: path for name, path in paths if tree.exists(path)}


def _folders_in(folder: str) -> list[str]:
    """In the order of their names; none of the many that hold photographs, and none that begins with a dot."""
    if os.path.basename(folder) in _FOLDERS:
        return []
    try:
        entries = list(tree.entries(folder))
        return sorted(os.path.join(folder, name) for name, is_dir in entries if name[0] != "." and is_dir)
    except PermissionError:  # as lost+found in the root of a disk
        return []


def folders(release: str, config_name: str) -> dict[str, str]:
    found = _found(release, _FILES.values())
    if odd := [path for path in found.values() if not tree.is_file(path)]:
        raise ReleaseError(f"{odd[0]} is no regular file: put the list there, as downloaded.")
    return {split: found[name] for split, name in _FILES.items() if name in found}


def shards(release: str, config) -> dict[str, tuple[list[CsvShard], list[Damage]]]:
    image_folders = (*_found(release, _FOLDERS).values(), release)
    if len(image_folders) == 1:
        message = f"{release} has lists of images but no folder {' or '.join(_FOLDERS)}: unpack them beside it."
        raise tree.lacking(release, message)
    lists = folders(release, config.name)
    if not lists:
        message = (
            f"{release} has images but no list of them: put {' or '.join(_FILES.values())} into it, as downloaded."
        )
        raise tree.lacking(release, message)
    found = {split: _lines(path, image_folders) for split, path in lists.items()}
    for lines, *_ in found.values():  # before hours of cutting faces out of what another list names
        _check_unpacked(lines)
    # Lists may lie beside the archives of their photographs: what is wrong with those is then said here.
    damages = [] if any(map(tree.state, lists.values())) else tree.damages(image_folders[:-1])
    first = next(iter(found))
    return {split: (lines, damages if split == first else []) for split, lines in found.items()}


def _check_unpacked(lines: CsvShard) -> None:
    """Raises `ReleaseError` where none of the photographs that the first rows name is there."""
    with io.FileIO(lines.file) as file:
        file.seek(lines.start)
        text = file.read(min(lines.end - lines.start, 1 << 18)).decode("utf-8", "replace")
    place = lines.columns.index(_COLUMNS[0])
    named = [row[place] for row in map(_values, text.splitlines()) if len(row) == len(lines.columns)]
    if named and not any(_place(path, lines.image_folders) for path in named):
        raise ReleaseError(
            f"{lines.path} names images such as {shortened(repr(named[0]))}, but none of its first {len(named)} is in "
            f"{listed(lines.image_folders)}: unpack the images, or keep that list elsewhere."
        )


def _place(path: str, image_folders: tuple[str, ...]) -> str | None:
    """Where the photograph of a row lies; None where it is in none of the folders, or its path leads out of them."""
    if _leads_out(path):
        return None
    parts = path.replace("\\", "/").split("/")
    places = (os.path.join(folder, *parts) for folder in image_folders)
    return next(filter(tree.exists, places), None)


def _leads_out(path: str) -> bool:
    """By its words alone, as people may link the folders of photographs to where they like."""
    return ".." in path.replace("\\", "/").split("/") or os.path.splitdrive(path)[0] != ""


def _values(line: str) -> list[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error:  # such as a value of more than 131,072 characters
        return []


def _lines(path: str, image_folders: tuple[str, ...]) -> list[CsvShard]:
    found, copy = [], tree.on_disk(path)
    with io.FileIO(copy) as raw, io.BufferedReader(raw) as file:
        columns = tuple(_values(next(lines_of(file, path), b"").decode("utf-8-sig", "replace")))
        if _COLUMNS[0] not in columns:  # a list without a header: its first line is a row
            columns = _COLUMNS
            file.seek(0)
        if missing := [name for name in _COLUMNS if name not in columns]:
            raise ReleaseError(
                f"{path} lacks the column {listed(missing, letters=60)} (found {listed(columns, letters=60)}): "
                "download it again."
            )
        start, count, row = file.tell(), 0, 0
        for _ in lines_of(file, path):
            count += 1
            if count == PAIRS_PER_SHARD:
                end = file.tell()
                found.append(CsvShard(path, copy, columns, row, start, end, image_folders, count))
                start, row, count = end, row + count, 0
        if count:
            found.append(CsvShard(path, copy, columns, row, start, file.tell(), image_folders, count))
    if not found:
        raise ReleaseError(f"{path} has no rows: download it again.")
    return found


def times(release: str, config) -> list:
    """The cache holds crops, so an overwritten photograph must be seen as well as an overwritten list."""
    state: list[tuple] = [
        (path, tree.state(path) or times_of_folder(path)) for path in folders(release, config.name).values()
    ]
    for folder in _found(release, _FOLDERS).values():
        if archived := tree.state(folder):
            state.append((folder, archived))
        else:
            state += [(entry.path, times_of_files(entry.path)) for entry in os.scandir(folder) if entry.is_dir()]
    return sorted(state, key=str)


def rows(shard: CsvShard, config) -> Iterator[tuple | Damage]:
    with io.FileIO(shard.file) as file:
        file.seek(shard.start)
        lines = io.BytesIO(file.read(shard.end - shard.start)).readlines()

    def read_row(number: int, line: bytes) -> tuple | None:
        here = f"{shard.path}, row {number}"
        values = _values(line.decode("utf-8", "replace"))
        if len(values) != len(shard.columns):
            raise Damage(f"has {len(values)} values, not {len(shard.columns)}", path=here)
        row = dict(zip(shard.columns, values, strict=True))
        label = _number(row, "expression", here)
        if label not in range(12):
            raise Damage(f'has {row["expression"]!r} as "expression", not 0 to 11', "value out of range", here)
        if label >= len(EXPRESSIONS):
            return None
        landmarks = _landmarks(row["facial_landmarks"], here)
        left, top, width, height = (_number(row, name, here) for name in _COLUMNS[1:5])
        if not (width > 0 and height > 0) and landmarks is None:
            raise Damage("has neither a face box nor landmarks", "value out of range", here)
        photograph = _photograph(row[_COLUMNS[0]], shard.image_folders, here)
        face, moved = crop_face(photograph[1], (left, top, width, height), landmarks, here)
        numbers = unknown_numbers()
        numbers["valence"], numbers["arousal"] = (_affect(row, name, here) for name in ("valence", "arousal"))
        if moved is not None:
            points = finite_float32(moved)
            if points is None:
                raise Damage('has "facial_landmarks" too far away to be written', "value out of range", here)
            numbers["landmarks_68"] = points
        stream = io.BytesIO()
        face.save(stream, "JPEG", quality=95, subsampling=0)
        image = {"bytes": stream.getvalue(), "path": photograph[0]}
        return number, image, int(label), None, numbers.tobytes()

    return attempts(read_row, enumerate(lines, shard.first_row))


def crop_face(
    image: PIL.Image.Image, box: tuple[float, float, float, float], landmarks: np.ndarray | None, name: str = "the face"
) -> tuple[PIL.Image.Image, np.ndarray | None]:
    """The face as the later releases show it, 224 x 224, and its landmarks in pixels of that.

    Cut out is the smallest rectangle that holds the face box and all landmarks, as far as it lies in the image; it is
    stretched to a square. How the later releases were cut is not documented: this rule is ours.

    Args:
        box: left, top, width, height in pixels of `image`; NaN where there is none.
        landmarks: (68, 2) or None.

    Raises `Damage` where less than 2 pixels of that rectangle lie in the image.
    """
    left, top, width, height = box
    corners = [] if np.isnan(box).any() or width <= 0 or height <= 0 else [(left, top), (left + width, top + height)]
    points = np.concatenate([np.reshape(part, (-1, 2)) for part in (corners, landmarks) if part is not None])
    low = np.maximum(points.min(axis=0), 0)
    high = np.minimum(points.max(axis=0), image.size)
    if (high - low < 2).any():
        raise Damage(
            f"has its face outside the image of {image.size[0]} x {image.size[1]} pixels", "value out of range", name
        )
    face = image.convert("RGB").resize((SIZE, SIZE), PIL.Image.Resampling.BICUBIC, box=(*low, *high))
    return face, None if landmarks is None else (landmarks - low) * (SIZE / (high - low))


def _photograph(path: str, image_folders: tuple[str, ...], here: str) -> tuple[str, PIL.Image.Image]:
    full = _place(path, image_folders)
    if full is None:
        where = "outside the release" if _leads_out(path) else "in none of the folders of photographs"
        raise Damage(f"names the image {path[:100]!r}, which is {where}", "annotation without image", here)
    return full, _decoded(read(full, "unreadable image"), full)


def _decoded(content: bytes, path: str) -> PIL.Image.Image:
    if content.startswith((b"\xff\xd8\xff", b"\x89PNG")):
        return decode_image(content, path, photograph=True)
    try:  # the photographs also come as bmp and tif
        with PIL.Image.open(io.BytesIO(content), formats=RASTER_FORMATS) as image:
            image.load()
            return image
    except Exception:
        raise Damage("is no image that can be decoded" if content else "is empty", "unreadable image", path) from None


def _number(row: dict, name: str, here: str) -> float:
    text = row[name].strip()
    if text.lower() in _NULL:
        return np.nan
    try:
        value = float(plain_number(text))
    except ValueError:
        value = np.inf
    if not abs(value) < 1e6:
        raise Damage(f'has {row[name][:40]!r} as "{name}", not a finite number', path=here)
    return value


def _affect(row: dict, name: str, here: str) -> float:
    value = _number(row, name, here)
    return np.nan if value == -2 else value


def _landmarks(text: str, here: str) -> np.ndarray | None:
    if text.strip().lower() in _NULL:
        return None
    try:
        points = np.array(plain_number(text).split(";"), dtype=float)
    except ValueError:
        points = np.zeros(0)
    if points.size != 136 or finite_float32(points) is None:
        raise Damage(f'has {text[:40]!r} as "facial_landmarks", not 68 points x;y', path=here)
    return points.reshape(68, 2)
