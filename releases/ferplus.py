"""FER+: the faces of FER2013 with ten people's votes on the same eight expressions (Barsoum et al., 2016).

https://arxiv.org/abs/1608.01041; the votes are fer2013new.csv of https://github.com/microsoft/FERPlus, the images those
of FER2013: either fer2013.csv or icml_face_data.csv, as Kaggle gives them, or the folders of PNG files that FER+'s own
script makes of the former. Both hold the same rows in the same order.

`image_id` is the row of both CSV files, counted from 0. The number in a name such as "fer0000012.png" is another one:
withdrawn images have none, and three faces of the training set are named twice.
"""

import csv
import io
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import PIL.Image

from . import tree
from .about import FERPLUS
from .expressions import EXPRESSIONS, LABEL_ORDERS, listed, match_expressions
from .files import MOST_ANNOTATION_BYTES
from .rows import (
    PAIRS_PER_SHARD,
    Damage,
    ReleaseError,
    attempts,
    image_of,
    lines_of,
    plain_number,
    times_of_files,
    times_of_folder,
    unknown_numbers,
)

TITLE = "FER+"
NAME = "FER+"
ABOUT = FERPLUS
SPLITS = {"train": (28_709, None), "validation": (3_589, None), "test": (3_589, None)}
MARKS = ("fer2013new.csv",)
VOTES = (*EXPRESSIONS, "unknown", "not_a_face")
_VOTES, _PIXELS = "fer2013new.csv", ("fer2013.csv", "icml_face_data.csv")
_USAGES = {"train": "Training", "validation": "PublicTest", "test": "PrivateTest"}
_FOLDERS = {"train": "FER2013Train", "validation": "FER2013Valid", "test": "FER2013Test"}
_COLUMNS = ("Usage", "Image name", *LABEL_ORDERS["ferplus"], "unknown", "NF")
_TO_OURS = np.array([*(match_expressions(LABEL_ORDERS["ferplus"]).index(e) for e in range(8)), 8, 9])
_SIDE = 48


class VoteShard(NamedTuple):
    """Some rows of fer2013new.csv, as text, and where their images are."""

    votes_path: str
    numbers: list[int]
    lines: list[list[str]]
    folder: str | None  # of the PNG files
    pixels_path: str | None
    offsets: np.ndarray | None  # (n, 2) bytes of each row in the file of pixels
    column: int  # of pixels there

    def __len__(self) -> int:
        return len(self.numbers)


def folders(release: str, config_name: str) -> dict[str, str]:
    """{split: what its images are read from}; one file for all where their pixels are in one."""
    found = {split: os.path.join(release, folder) for split, folder in _FOLDERS.items()}
    found = {split: folder for split, folder in found.items() if tree.is_folder(folder)}
    files = [path for path in (os.path.join(release, name) for name in _PIXELS) if tree.is_file(path)]
    if not found and files:
        found = dict.fromkeys(_FOLDERS, files[0])
    if not found:
        raise tree.lacking(
            release,
            f"{release} has {_VOTES} but no images: put {' or '.join(_PIXELS)} of FER2013 beside it, or the folders "
            f"{listed(_FOLDERS.values())} that FER+'s script makes of it.",
        )
    return found


def shards(release: str, config) -> dict[str, tuple[list[VoteShard], list[Damage]]]:
    path = os.path.join(release, _VOTES)
    try:
        text = tree.read(path, MOST_ANNOTATION_BYTES).decode("utf-8-sig", "replace")
        header, *lines = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
    except (OSError, csv.Error) as error:  # the latter: such as a value of more than 131,072 characters
        reason = getattr(error, "strerror", None) or error
        raise ReleaseError(f"{path} is no CSV file that can be read ({reason}): download it again.") from None
    if tuple(header) != _COLUMNS:
        raise ReleaseError(
            f"{path} begins with {listed(header, letters=60) or 'nothing'}, not with the columns "
            f"{listed(_COLUMNS, letters=60)}: download it again."
        )
    if not lines:
        raise ReleaseError(f"{path} has no rows: download it again.")
    places = folders(release, config.name)
    offsets, column = None, 0
    if tree.is_file(pixels := next(iter(places.values()))):
        offsets, column = _line_offsets(pixels)
        if len(offsets) != len(lines):
            raise ReleaseError(
                f"{pixels} has {len(offsets)} rows and {path} {len(lines)}: they go together "
                "row by row, so download both again."
            )
    found: dict[str, tuple[list[VoteShard], list[Damage]]] = {}
    for split, place in places.items():
        numbers = [i for i, line in enumerate(lines) if line and line[0] == _USAGES[split]]
        chunks = [numbers[start : start + PAIRS_PER_SHARD] for start in range(0, len(numbers), PAIRS_PER_SHARD)]
        found[split] = (
            [
                VoteShard(
                    path,
                    chunk,
                    [lines[i] for i in chunk],
                    None if offsets is not None else place,
                    None if offsets is None else place,
                    None if offsets is None else offsets[chunk],
                    column,
                )
                for chunk in chunks
            ],
            [],
        )
    strays = sorted({line[0] if line else "" for line in lines}.difference(_USAGES.values()))
    if strays:
        raise ReleaseError(
            f'{path} has {listed(strays, letters=60)} as "Usage", not {listed(_USAGES.values())}: download it again.'
        )
    return found


def _line_offsets(path: str) -> tuple[np.ndarray, int]:
    """(rows, 2): where each row of a CSV with a header begins and ends, in bytes; and which column holds pixels."""
    with io.FileIO(tree.on_disk(path)) as raw, io.BufferedReader(raw, 1 << 20) as file:
        header = next(lines_of(file, path), b"")
        ends = np.cumsum([len(header), *(len(line) for line in lines_of(file, path))])
    columns = [name.strip(' "\r\n') for name in header.decode("utf-8-sig", "replace").split(",")]
    if "pixels" not in columns:
        found = listed(columns, letters=60)
        raise ReleaseError(f"{path} has no column 'pixels' in its first line (found {found}): download it again.")
    return np.stack([ends[:-1], ends[1:]], axis=1), columns.index("pixels")


def times(release: str, config) -> list:
    votes = os.path.join(release, _VOTES)
    state: list = [tree.state(votes) or times_of_folder(votes)]
    for place in dict.fromkeys(folders(release, config.name).values()):
        if archived := tree.state(place):
            state.append((place, archived))
            continue
        look = times_of_files if os.path.isdir(place) and config.on_error == "skip" else times_of_folder
        state.append((place, look(place)))
    return state


def rows(shard: VoteShard, config) -> Iterator[tuple | Damage]:
    archived = shard.folder is not None and tree.is_archived(shard.folder)
    file = None if shard.pixels_path is None else io.FileIO(tree.on_disk(shard.pixels_path))

    def read_row(place: int, number: int, line: list[str]) -> tuple | None:
        here = f"{shard.votes_path}, row {number}"
        if len(line) != len(_COLUMNS):
            raise Damage(f"has {len(line)} values, not {len(_COLUMNS)}", path=here)
        name = line[1].strip()
        if not name:  # FER+ itself has withdrawn these: nobody saw a face
            return None
        if not re.fullmatch(r"fer[0-9]{7}\.png", name):
            raise Damage(f"names the image {name[:40]!r}, which is not like 'fer0000012.png'", path=here)
        if not all(re.fullmatch("[0-9]{1,3}", value) and int(value) <= 100 for value in line[2:]):
            raise Damage(f"has {listed(line[2:], letters=40)} as votes, not ten counts", "value out of range", here)
        votes = np.array(line[2:], dtype=int)[_TO_OURS]
        if not votes.any():
            raise Damage("has no votes at all", "value out of range", here)
        leading = np.flatnonzero(votes == votes.max())
        if len(leading) > 1 and config.ties == "drop":
            return None
        if len(leading) == 1 and leading[0] >= len(EXPRESSIONS):
            if (config.unknown if leading[0] == len(EXPRESSIONS) else config.not_a_face) == "drop":
                return None
            label = None
        else:
            label = int(leading[0]) if len(leading) == 1 else None
        numbers = unknown_numbers()
        if (cast := votes[: len(EXPRESSIONS)]).any():
            numbers["soft_label"] = cast / cast.sum()
        image: str | dict
        if shard.folder is not None:
            image = os.path.join(shard.folder, name)
            if not tree.exists(image):
                raise Damage("is missing", "annotation without image", image)
            image = image_of(image, archived)
        else:
            assert file is not None, "a shard without a folder has a file of pixels"
            image = {"bytes": _png(file, shard, place, f"{shard.pixels_path}, row {number}"), "path": name}
        return number, image, label, None, numbers.tobytes(), dict(zip(VOTES, votes.tolist(), strict=True))

    try:
        yield from attempts(read_row, zip(range(len(shard)), shard.numbers, shard.lines, strict=True))
    finally:
        if file is not None:
            file.close()


def _png(file: io.FileIO, shard: VoteShard, place: int, here: str) -> bytes:
    assert shard.offsets is not None
    start, end = shard.offsets[place].tolist()
    file.seek(start)
    fields = file.read(end - start).decode("ascii", "replace").replace('"', "").split(",")
    try:
        pixels = np.array(plain_number(fields[shard.column]).split(), dtype=int)
        if pixels.size != _SIDE**2 or pixels.min() < 0 or pixels.max() > 255:
            raise ValueError
    except (ValueError, IndexError, OverflowError):
        raise Damage(f"does not hold {_SIDE} x {_SIDE} grey values from 0 to 255", "unreadable image", here) from None
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels.astype(np.uint8).reshape(_SIDE, _SIDE)).save(stream, "PNG")
    return stream.getvalue()
