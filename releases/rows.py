"""What all releases have in common: numbered files, rows, what is wrong with one, and how rows become an Arrow table.

A row is a tuple (image_id, image, label, subset, numbers[, votes]):

- `image`: a path, or {"bytes", "path"} where the release has no file of the face itself.
- `label`, `subset`: an index or None.
- `numbers`: the bytes of one `NUMBERS`. A row is packed while it is checked, and a shard is then one array, so no
  Python number lives on. What a row lacks is NaN there, and null in the table.
"""

import collections
import functools
import io
import itertools
import math
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, NamedTuple

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.fs

from . import tree
from .errors import Damage, ReleaseError
from .expressions import ANGLES, ETHNICITIES, EXPRESSIONS, GENDERS, listed
from .files import MOST_ANNOTATION_BYTES, MOST_IMAGE_BYTES

NUMBERS = np.dtype(
    [
        ("soft_label", "f4", 8),
        ("age", "f4"),
        ("valence", "f4"),
        ("arousal", "f4"),
        ("gender", "f4", len(GENDERS)),
        ("ethnicity", "f4", len(ETHNICITIES)),
        ("head_pose", "f4", len(ANGLES)),
        ("landmarks_68", "f4", (68, 2)),
        ("landmarks_29", "f4", (29, 2)),
    ]
)
# "=" and not the default, which turns a number too large for float32 into infinity instead of refusing it.
FLOATS = {count: struct.Struct(f"={count}f") for count in (2, 3, 6, 8, 58, 136, 158)}
# A shard is one Arrow table, one step of a shuffled stream and the least that a process is given.
PAIRS_PER_SHARD = 1000


@functools.cache
def nothing(count: int) -> bytes:
    """As many float32 NaN."""
    return struct.pack(f"={count}f", *[math.nan] * count)


def finite_float32(values: np.ndarray) -> np.ndarray | None:
    """The same numbers as float32, or None where one is not finite, perhaps only as float32."""
    with np.errstate(over="ignore"):
        values = np.asarray(values).astype(np.float32)
    return values if np.isfinite(values).all() else None


def plain_number(text: str) -> str:
    """The same text; `ValueError` where it is one that only Python takes for a number: "0_1", digits of any script."""
    if "_" in text or not text.isascii():
        raise ValueError
    return text


def unknown_numbers() -> np.ndarray:
    """One writable `NUMBERS` of nothing but NaN: what releases with few columns start from."""
    return np.frombuffer(bytearray(nothing(NUMBERS.itemsize // 4)), NUMBERS).reshape(())


# ---------------------------------------------------------------------------------------------------------------
# Files

_THREADS = 4
_MOST_N = 2**63 - 1  # the column is int64
_MOST_LINE = 1 << 20


def read(path: str, kind: str = "unreadable annotation") -> bytes:
    """All of a file; raises `Damage`, also where it is a pipe, a device or larger than any image or annotation is."""
    try:
        return tree.read(path, MOST_ANNOTATION_BYTES if kind == "unreadable annotation" else MOST_IMAGE_BYTES)
    except OSError as error:
        raise Damage(f"cannot be read ({error.strerror})", kind, path) from None


def lines_of(file: BinaryIO, path: str) -> Iterator[bytes]:
    """The lines of a CSV file from where it stands; `ReleaseError` at one so long that it is none."""
    while line := file.readline(_MOST_LINE):
        if len(line) == _MOST_LINE:
            raise ReleaseError(f"{path} has a line of more than {_MOST_LINE:,} bytes: download it again.")
        yield line


def numbered_files(folder: str, endings: tuple[str, ...], kind: str) -> tuple[np.ndarray, np.ndarray, dict]:
    """All N, ascending, and the file names (bytes), of the files called N + ending; anything else there is a stray.

    Where one N has two files, neither is taken, as nobody can say which is right, nor is an N that has no place in 64
    bits: the third value is {N: Damage}.
    """
    damages = {}

    def fits(name: str) -> bool:
        if (n := _number_of(name)) > _MOST_N:
            damages[n] = Damage(f"has a number above {_MOST_N}", kind, f"{folder}/{name}")
        return n <= _MOST_N

    found = (name for name in tree.file_names(folder) if _is_numbered(name, endings) and fits(name))
    # Arrays block by block: a list of all names would take ten times their memory.
    blocks = [
        (np.array([_number_of(name) for name in block], np.int64), np.array(block, "S")) for block in _blocks(found)
    ]
    if not blocks:
        return np.zeros(0, np.int64), np.zeros(0, "S1"), damages
    ids, names = (np.concatenate(column) for column in zip(*blocks, strict=True))
    order = np.lexsort((names, ids))
    ids, names = ids[order], names[order]
    same = ids[1:] == ids[:-1]
    twice = np.append(same, False) | np.insert(same, 0, False)
    for n in np.unique(ids[twice]).tolist():
        first, *others = names[ids == n].astype(str).tolist()
        damages[n] = Damage(f"is not the only file of its number: there is {listed(others)}", kind, f"{folder}/{first}")
    return ids[~twice], names[~twice], damages


def _is_numbered(name: str, endings: tuple[str, ...]) -> bool:
    digits = len(name) - len(name.lstrip("0123456789"))
    return digits > 0 and name[digits:].lower() in endings


def _number_of(name: str) -> int:
    return int(name[: len(name) - len(name.lstrip("0123456789"))])


def times_of_files(folder: str) -> int:
    """Changes when a file of the folder is added, removed, replaced or overwritten in place.

    pyarrow and threads, because they ask the disk for many files at once: half the time of `os.scandir` on two cores,
    and more is gained where the disk is on a network.
    """
    look, total = pyarrow.fs.LocalFileSystem().get_file_info, times_of_folder(folder)
    pending: collections.deque[Future[int]] = collections.deque()

    def times(paths: list[str]) -> int:
        return sum([hash((file.mtime_ns or 0, file.size or 0)) for file in look(paths)])

    with os.scandir(folder) as entries, ThreadPoolExecutor(_THREADS) as pool:
        for paths in _blocks(entry.path for entry in entries):
            pending.append(pool.submit(times, paths))
            if len(pending) > 2 * _THREADS:  # so that memory does not grow with the folder
                total += pending.popleft().result()
        return total + sum(block.result() for block in pending)


def _blocks(items: Iterator[str], size: int = 2000) -> Iterator[list[str]]:
    return iter(lambda: list(itertools.islice(items, size)), [])


def times_of_folder(folder: str) -> int:
    """Changes when a file is added, removed or replaced by another: ctime, as unpacking an archive sets mtime back."""
    status = os.stat(folder)
    return status.st_mtime_ns + status.st_ctime_ns


# ---------------------------------------------------------------------------------------------------------------
# Images

_JPEG, _PNG, _JPEG_END = b"\xff\xd8\xff", b"\x89PNG", b"\xff\xd9"
_HOLE = bytes(512)  # an interrupted copy leaves zeros; compressed pixels hardly ever do
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # in between the pixels of a baseline JPEG there is none
_MORE = bytes(range(1, 255)) * 2  # codes of pixels
# A block of 8 x 8 takes two codes of a bit or more; in a progressive JPEG one may stand for the end of many blocks.
_MOST_PIXELS_PER_BYTE = 512
_sound_headers: dict[int, set[bytes]] = {}  # by length
_MOST_HEADERS = 2000


def check_image(content: bytes, path: str) -> None:
    """Raises `Damage` unless the content is a JPEG or PNG that decodes to its last row.

    Decoding each image would take ten times as long as everything else. But images of one source share their JPEG
    header (tables and size), and what libjpeg refuses is a header, a marker amid the pixels or a file that ends too
    soon. So one image a header is decoded, and the others are known by that header, their end and the absence of holes
    and markers. A JPEG that was cut and given an end is known only by decoding it, as `affectnet-plus check` does.
    """
    if content.startswith(_JPEG) and content.endswith(_JPEG_END):
        for length, headers in _sound_headers.items():
            if (
                content[:length] in headers
                and _HOLE not in content
                and not _MARKER.search(content, length, len(content) - 2)
            ):
                return
    decode_image(content, path)
    if (length := _header_length(content)) and sum(map(len, _sound_headers.values())) < _MOST_HEADERS:
        _sound_headers.setdefault(length, set()).add(content[:length])


def decode_image(content: bytes, path: str, photograph: bool = False) -> PIL.Image.Image:
    """The image, decoded in full; raises `Damage`.

    In a photograph as it was found, large flat areas and the padding of what a camera noted down can be zeros too:
    there only zeros up to the end are a hole.
    """
    if not content.startswith((_JPEG, _PNG)):
        what = f"is no JPEG or PNG image (it starts with {content[:4]!r})" if content else "is empty"
        raise Damage(what, "unreadable image", path)
    if photograph:
        holed = content.endswith(_HOLE) and not content.rstrip(b"\0").endswith(_JPEG_END)
    else:
        holed = _HOLE in content
    if content.startswith(_JPEG) and holed:
        raise Damage("has a hole, 512 zero bytes or more, as an interrupted copy leaves", "truncated image", path)
    try:
        with PIL.Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            if image.format == "JPEG" and image.width * image.height > _MOST_PIXELS_PER_BYTE * len(content):
                what = f"says {image.width} x {image.height} pixels, more than its {len(content):,} bytes can hold"
                raise Damage(what, "unreadable image", path)
            image.load()
            if image.format == "JPEG" and _lacks_pixels(image, content):
                raise Damage("lacks a part of its pixels", "truncated image", path)
            return image
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, PIL.Image.DecompressionBombError) as error:
        if "truncated" in str(error) or (content.startswith(_JPEG) and not content.rstrip(b"\0").endswith(_JPEG_END)):
            raise Damage("is a truncated image: its end is missing", "truncated image", path) from None
        raise Damage("is an image that cannot be decoded", "unreadable image", path) from None


def _lacks_pixels(image: PIL.Image.Image, content: bytes) -> bool:
    """Whether a JPEG that decodes comes to its end before its pixels are complete: libjpeg then makes up the others.

    Those have one colour, or in a progressive image few details. There more is put before the end: where all pixels
    are known it is passed over.
    """
    width, height = image.size
    corner = image.crop((max(width - 8, 0), max(height - 8, 0), width, height)).getextrema()
    flat = all(band[0] == band[1] for band in (corner if isinstance(corner[0], tuple) else (corner,)))
    if not (flat or image.info.get("progressive")):
        return False
    end = content.rindex(_JPEG_END)
    with PIL.Image.open(io.BytesIO(content[:end] + _MORE + _JPEG_END), formats=("JPEG",)) as longer:
        return longer.tobytes() != image.tobytes()


def _header_length(content: bytes) -> int:
    """Bytes up to and with the start of scan of a JPEG, 0 for anything else."""
    place = 2
    while content[place : place + 1] == b"\xff" and len(content) >= place + 4:
        size = int.from_bytes(content[place + 2 : place + 4], "big")
        if content[place + 1] == 0xDA:
            return place + 2 + size
        place += 2 + size
    return 0


# ---------------------------------------------------------------------------------------------------------------
# Shards and rows


class Shard(NamedTuple):
    """Some pairs of one folder in the order of N. Arrays, not lists: 400,000 pairs take 12 MB, not 70."""

    folder: str
    image_ids: np.ndarray  # (n,) int64
    annotations: np.ndarray  # (n,) bytes, file names
    images: np.ndarray  # (n,) bytes, file names

    def __len__(self) -> int:
        return len(self.image_ids)


def pair_shards(folder: str, annotation_endings: tuple[str, ...]) -> tuple[list[Shard], list[Damage]]:
    """The pairs of images/ and annotations/ in the numeric order of N, and what has no partner."""
    image_folder, annotation_folder = _parts(folder)
    image_ids, images, doubled = numbered_files(image_folder, (".jpg", ".jpeg", ".png"), "unreadable image")
    annotation_ids, annotations, more = numbered_files(annotation_folder, annotation_endings, "unreadable annotation")
    doubled |= more
    damages, left_out = list(doubled.values()), np.array([n for n in doubled if n <= _MOST_N], np.int64)
    for ids, names, others, where, kind, what in (
        (image_ids, images, annotation_ids, image_folder, "image without annotation", "has no annotation"),
        (annotation_ids, annotations, image_ids, annotation_folder, "annotation without image", "has no image"),
    ):
        lonely = names[~(np.isin(ids, others) | np.isin(ids, left_out))].astype(str)
        damages += [Damage(what, kind, os.path.join(where, name)) for name in lonely]
    paired = np.intersect1d(image_ids, annotation_ids, assume_unique=True)
    images, annotations = images[np.isin(image_ids, paired)], annotations[np.isin(annotation_ids, paired)]
    if not len(paired) and not doubled:
        first = annotation_endings[0]
        raise tree.lacking(
            folder, f"{folder} has no pair images/N.jpg and annotations/N{first}: unpack the release again."
        )
    return [
        Shard(folder, *(column[start : start + PAIRS_PER_SHARD] for column in (paired, annotations, images)))
        for start in range(0, len(paired), PAIRS_PER_SHARD)
    ], damages


def _parts(folder: str) -> tuple[str, str]:
    parts = os.path.join(folder, "images"), os.path.join(folder, "annotations")
    for part in parts:
        if not tree.is_folder(part):
            found = listed(sorted(name for name, _ in tree.entries(folder))) or "nothing"
            raise tree.lacking(
                folder,
                f"{folder} has no folder {os.path.basename(part)}/ (found {found}): unpack all parts of the release "
                "into one folder.",
            )
    return parts


def pair_times(folder: str, on_error: str) -> tuple:
    """Images are read where they lie, so an overwritten one needs no new table, unless it was left out as broken."""
    images, annotations = _parts(folder)
    if state := tree.state(folder):
        return folder, state
    return folder, times_of_files(annotations), (times_of_files if on_error == "skip" else times_of_folder)(images)


def image_of(path: str, keep_bytes: bool) -> str | dict:
    """What a row keeps of an image file: its path, or its bytes, too. Raises `Damage` where it is broken."""
    content = read(path, "unreadable image")
    check_image(content, path)
    return {"bytes": content, "path": path} if keep_bytes else path


def attempts(read_row: Callable, items: Iterable[tuple]) -> Iterator[tuple | Damage]:
    """A row, or what is wrong with it, for each item; nothing for one that the configuration leaves out."""
    for item in items:
        try:
            row = read_row(*item)
        except Damage as damage:
            row = damage
        if row is not None:
            yield row


def table(rows: list[tuple], features: datasets.Features) -> pa.Table:
    """The rows of one shard, at least one, in the columns of `features`."""
    image_ids, images, labels, subsets, packed, *votes = zip(*rows, strict=True)
    numbers = np.frombuffer(b"".join(packed), NUMBERS)
    if isinstance(images[0], str):
        stored = features["image"].cast_storage(pa.array(images, pa.string()))
    else:
        kept = [pa.array([image[name] for image in images]) for name in ("bytes", "path")]
        stored = pa.StructArray.from_arrays(kept, ["bytes", "path"])
    columns = {
        "image": stored,
        "image_id": pa.array(image_ids, pa.int64()),
        "label": pa.array(labels, pa.int64()),
        "subset": pa.array(subsets, pa.int64()),
        "soft_label": pa.FixedSizeListArray.from_arrays(
            numbers["soft_label"].reshape(-1), len(EXPRESSIONS), mask=pa.array(np.isnan(numbers["soft_label"][:, 0]))
        ),
        "age": pa.array(numbers["age"], from_pandas=True).cast(pa.int32()),
        "valence": pa.array(numbers["valence"], from_pandas=True),
        "arousal": pa.array(numbers["arousal"], from_pandas=True),
        "gender": _structs(numbers["gender"], GENDERS),
        "ethnicity": _structs(numbers["ethnicity"], ETHNICITIES),
        "head_pose": _structs(numbers["head_pose"], ANGLES),
        "landmarks_68": _points(numbers["landmarks_68"], features["landmarks_68"]),
        "landmarks_29": _points(numbers["landmarks_29"], features["landmarks_29"]),
    }
    if votes:
        columns["votes"] = pa.array(votes[0], features.arrow_schema.field("votes").type)
    return pa.table([columns[name] for name in features], schema=features.arrow_schema)


def _structs(values: np.ndarray, names: tuple[str, ...]) -> pa.Array:  # (rows, n)
    fields = [pa.array(column) for column in values.T]
    return pa.StructArray.from_arrays(fields, list(names), mask=pa.array(np.isnan(values[:, 0])))


def _points(values: np.ndarray, feature: datasets.Array2D) -> pa.Array:  # (rows, n, 2)
    missing = np.isnan(values[:, 0, 0])
    values = values[~missing]
    points = pa.ListArray.from_arrays(np.arange(values.size // 2 + 1, dtype=np.int32) * 2, values.reshape(-1))
    ends = np.cumsum(~missing, dtype=np.int32) * feature.shape[0]
    faces = pa.ListArray.from_arrays(np.insert(ends, 0, 0), points, mask=pa.array(missing))
    return pa.ExtensionArray.from_storage(feature(), faces)
