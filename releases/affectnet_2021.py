"""AffectNet as released in 2021: train_set and val_set with images/N.jpg and annotations/N_{exp,val,aro,lnd}.npy."""

import functools
import io
import os
from collections.abc import Iterator

import numpy as np

from . import tree
from .about import AFFECTNET
from .expressions import EXPRESSIONS, listed
from .files import shortened
from .rows import (
    Damage,
    Shard,
    attempts,
    finite_float32,
    image_of,
    pair_shards,
    pair_times,
    plain_number,
    read,
    unknown_numbers,
)

TITLE = "AffectNet, release of 2021 (npy)"
NAME = "AffectNet (2021)"
ABOUT = AFFECTNET
SPLITS = {"train": (287_651, 287_651), "validation": (3_999, 3_999)}
MARKS = ("train_set/", "val_set/")
_FOLDERS = {"train": "train_set", "validation": "val_set"}
_ENDINGS = ("_exp.npy", "_val.npy", "_aro.npy", "_lnd.npy")


def folders(release: str, config_name: str) -> dict[str, str]:
    return {
        split: os.path.join(release, name)
        for split, name in _FOLDERS.items()
        if tree.is_folder(os.path.join(release, name))
    }


def shards(release: str, config) -> dict[str, tuple[list[Shard], list[Damage]]]:
    found = folders(release, config.name)
    if not found:
        names = listed(name for name, _ in tree.entries(release))
        raise tree.lacking(release, f"{release} has neither train_set/ nor val_set/: found {names}.")
    return {split: pair_shards(folder, _ENDINGS[:1]) for split, folder in found.items()}


def times(release: str, config) -> list:
    return [pair_times(folder, config.on_error) for folder in folders(release, config.name).values()]


def rows(shard: Shard, config) -> Iterator[tuple | Damage]:
    images, annotations = (os.path.join(shard.folder, part, "") for part in ("images", "annotations"))
    archived = tree.is_archived(shard.folder)

    def read_row(image_id: int, expression_name: bytes, image_name: bytes) -> tuple | None:
        stem = annotations + expression_name.decode()[: -len(_ENDINGS[0])]
        expression, valence, arousal, landmarks = (_array(stem + ending) for ending in _ENDINGS)
        label = _scalar(expression, stem + _ENDINGS[0])
        if label not in range(11):
            raise Damage(f"holds {label}, not an expression from 0 to 10", "value out of range", stem + _ENDINGS[0])
        if label >= len(EXPRESSIONS):
            return None
        numbers = unknown_numbers()
        numbers["valence"] = _affect(valence, stem + _ENDINGS[1])
        numbers["arousal"] = _affect(arousal, stem + _ENDINGS[2])
        points = finite_float32(landmarks) if landmarks.dtype.kind in "fiu" and landmarks.size == 136 else None
        if points is None:
            raise Damage(
                f"holds {landmarks.size} values of type {shortened(str(landmarks.dtype), 60)}, not 136 finite numbers",
                path=stem + _ENDINGS[3],
            )
        numbers["landmarks_68"] = points.reshape(68, 2)
        return image_id, image_of(images + image_name.decode(), archived), int(label), None, numbers.tobytes()

    columns = (shard.image_ids, shard.annotations, shard.images)
    return attempts(read_row, zip(*(column.tolist() for column in columns), strict=True))


def _affect(array: np.ndarray, path: str) -> float:
    value = _scalar(array, path)
    return np.nan if value == -2 else value


def _scalar(array: np.ndarray, path: str) -> float:
    """The files hold a single text such as "-0.17"."""
    try:
        value = array.reshape(()).item()
        plain_number(str(value))
        value = float(value)
    except (ValueError, TypeError):
        value = np.nan
    if not np.isfinite(value) or abs(value) > 1e6:
        raise Damage(f"holds {_shown(array)}, not one finite number", path=path)
    return value


def _shown(array: np.ndarray) -> str:
    if array.size != 1:
        return f"{array.size} values of shape {array.shape}"
    return shortened(repr(array.item()), 60)


def _array(path: str) -> np.ndarray:
    try:
        content = read(path)
    except Damage as damage:
        if not tree.exists(path):
            raise Damage("is missing", "image without annotation", path) from None
        raise damage
    try:
        # numpy's own reader parses the header anew each time, which takes nine tenths of it; there are few headers.
        header = content[: 10 + int.from_bytes(content[8:10], "little")]
        dtype, shape = _header(header)
        return np.frombuffer(content, dtype, offset=len(header)).reshape(shape)
    except Exception:
        raise Damage("is no npy file" if content else "is empty", path=path) from None


@functools.lru_cache(maxsize=1000)
def _header(header: bytes) -> tuple[np.dtype, tuple]:
    stream = io.BytesIO(header)
    version = np.lib.format.read_magic(stream)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = reader(stream)
    if dtype.hasobject or (fortran_order and len(shape) > 1):
        raise ValueError
    return dtype, shape
