"""Faces decoded once: their pixels at the size that a network is shown, in RAM or in a file that stays."""

import contextlib
import hashlib
import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import datasets
import numpy as np
import PIL.features
import psutil
import xxhash
from filelock import FileLock
from PIL import Image
from tqdm.auto import tqdm

from affectnet_plus.modeling import ImageError, image_loading
from affectnet_plus.releases.files import size_of

RESAMPLING = Image.Resampling.BILINEAR


class FaceCache:
    """Faces of a split, each written by whichever process decodes it first and read by all.

    Each lies beside a hash of its pixels, seeded by the state that its image file was in when the split was loaded. So
    nobody waits for anybody, and a face that is half written, was lost in a crash or is of a file that has changed
    since is none: it is decoded anew.

    Args:
        file: of (faces,) records, zeros at first; opened to read and write.
        size: (width, height) of the faces.
        states: (rows,) uint64 of their image files.
        places: (rows,) of their records in the file. Default: in their order.
    """

    def __init__(self, file: BinaryIO, size: tuple[int, int], states: np.ndarray, places: np.ndarray | None = None):
        self._file, self.size, self.states = file, size, states
        self._places = np.arange(len(states)) if places is None else places
        records = np.memmap(file, record_type(size), "r+").view(np.ndarray)
        self._hashes, self._pixels = records["hash"], records["pixels"]

    @property
    def path(self) -> str:
        """Opens the file in other processes of this machine; it need have no name."""
        return f"/proc/{os.getpid()}/fd/{self._file.fileno()}" if sys.platform == "linux" else self._file.name

    def __reduce__(self):  # a map would be pickled by its content
        return open_cache, (self.path, self.size, self.states, self._places)

    def select(self, rows: np.ndarray) -> "FaceCache":
        return FaceCache(self._file, self.size, self.states[rows], self._places[rows])

    def read(self, row: int) -> Image.Image | None:
        """The face of a row, RGB; None where it is not there."""
        place = self._places[row]
        pixels = self._pixels[place].copy()  # another process may write there
        return Image.fromarray(pixels) if self._hash(pixels, row) == self._hashes[place] else None

    def write(self, row: int, face: Image.Image) -> None:
        pixels, place = np.asarray(face), self._places[row]
        self._pixels[place], self._hashes[place] = pixels, self._hash(pixels, row)

    def _hash(self, pixels: np.ndarray, row: int) -> int:
        return xxhash.xxh3_64_intdigest(pixels, int(self.states[row]))


def record_type(size: tuple[int, int]) -> np.dtype:
    """Of a face in a file; `size` is (width, height)."""
    return np.dtype([("hash", "u8"), ("pixels", "u1", (*size[::-1], 3))], align=True)


def open_cache(path: str, size: tuple[int, int], states: np.ndarray, places: np.ndarray | None = None) -> FaceCache:
    """What `FaceCache` makes of the file at `path`."""
    return FaceCache(open(path, "r+b"), size, states, places)


def create_caches(splits: Sequence, size: tuple[int, int], where: str) -> list[FaceCache]:
    """One for each split, in RAM ("memory") for as long as a process has it open, or in the cache of `datasets`
    ("disk"), where it is found again. Raises `ValueError` where there is no room."""
    num_bytes = [len(split) * record_type(size).itemsize for split in splits]
    what = f"{sum(map(len, splits)):,} faces of {size[0]} px"
    if where == "memory":
        if not hasattr(os, "memfd_create"):
            raise ValueError("--cache_images memory needs Linux: take --cache_images disk.")
        if sum(num_bytes) > (free := _free_memory()):
            raise _no_room(f"{what} need {size_of(sum(num_bytes))} of memory", free, "take --cache_images disk")
        print(f"Caching {what} in memory: {size_of(sum(num_bytes))}.", file=sys.stderr)
        files = [_file_in_memory(number) for number in num_bytes]
        return [FaceCache(f, size, np.zeros(len(s), np.uint64)) for f, s in zip(files, splits, strict=True)]
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "affectnet_plus_faces"
    folder.mkdir(parents=True, exist_ok=True)
    names, states = zip(*(_name_and_states(split, size) for split in splits), strict=True)
    files = [folder / name for name in names]
    with FileLock(folder / ".lock"):
        new = {f: n for f, n in zip(files, num_bytes, strict=True) if not f.exists() or f.stat().st_size != n}
        needed, free = sum(new.values()), shutil.disk_usage(folder).free
        if needed > free:
            raise _no_room(f"{what} need {size_of(needed)} in {folder}", free, "set HF_DATASETS_CACHE to another disk")
        added = size_of(needed) if new else "the files are there already"
        print(f"Caching {what} in {folder}: {added}.", file=sys.stderr)
        for file, number in new.items():
            _reserve(file, number)
    return [open_cache(str(file), size, of_split) for file, of_split in zip(files, states, strict=True)]


def _no_room(needed: str, free: int, cure: str) -> ValueError:
    return ValueError(
        f"--cache_images: {needed}, and {size_of(free)} are free: {cure}, train at a smaller --image_size, or leave "
        "the flag out."
    )


def _free_memory() -> int:
    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):  # the word "max", or no container
        free = min(free, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return free


def _file_in_memory(num_bytes: int) -> BinaryIO:
    """Without a name, so that it is gone with the last process that has it open, however that ends."""
    file = os.fdopen(os.memfd_create("affectnet_plus_faces"), "r+b")
    file.truncate(num_bytes)
    return file


def _reserve(file: Path, num_bytes: int) -> None:
    """A new file of zeros for which the disk has room: without, who writes to a map of it is killed."""
    file.unlink(missing_ok=True)  # of a killed run
    try:
        with open(file, "xb") as opened:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(opened.fileno(), 0, num_bytes)
            else:
                opened.truncate(num_bytes)
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def _name_and_states(split, size: tuple[int, int]) -> tuple[str, np.ndarray]:
    """What the file of a split is called, which goes by its images, their order, and how they are decoded; and (rows,)
    uint64, other ones for images that have been written anew."""
    decoder = [PIL.__version__, *map(PIL.features.version, ("jpg", "libjpeg_turbo")), RESAMPLING.name]
    decoder.append(Path(image_loading.__file__).read_text(encoding="utf-8"))
    digest = hashlib.blake2b(repr(decoder).encode(), digest_size=8)
    states: list[int] = []
    with (
        ThreadPoolExecutor() as threads,
        tqdm(total=len(split), desc=f"looking at images of {split.name}", unit="image", leave=False) as progress,
    ):
        for rows in split.images.with_format("arrow").iter(1000):
            stored = rows.column(0).to_pylist()
            parts = [stored[start : start + 50] for start in range(0, len(stored), 50)]  # one by one takes longer
            for name, state in chain.from_iterable(threads.map(_names_and_states, parts)):
                digest.update(f"{name}\0".encode())
                states.append(state)
            progress.update(len(rows))
    return f"{split.name}-{len(split)}-{size[0]}px-{digest.hexdigest()}", np.array(states, dtype=np.uint64)


def _names_and_states(stored: list[dict]) -> list[tuple[str, int]]:
    return [_name_and_state(one) for one in stored]


def _name_and_state(stored: dict) -> tuple[str, int]:
    """Of a file: its path, and its size and times, of which nobody can set the last. Else the hash of its bytes."""
    if stored["bytes"] is not None:
        content = xxhash.xxh3_64_intdigest(stored["bytes"])
        return f"{content:x}", content
    path = os.path.abspath(stored["path"])
    try:
        status = os.stat(path)
    except OSError as error:
        raise ImageError(f"{path} is not a readable image ({error.strerror}): replace it or leave it out.") from error
    state = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    return path, xxhash.xxh3_64_intdigest(state.encode())
