"""Releases in the archives that they are downloaded as, read where they lie: zips, zips in parts, tars.

All archives of one place are one tree of files. What is in them is looked up once and kept in the cache of `datasets`:
50 bytes a file, which processes share. A path inside goes on where that of the place ends, such as
DOWNLOADS/human_annotated/train_set/images/1.jpg or AffectNet+.zip/human_annotated/train_set/images/1.jpg.
"""

import errno
import functools
import hashlib
import json
import os
import posixpath
import shutil
from collections.abc import Iterator
from typing import NamedTuple

import datasets
import numpy as np
from filelock import FileLock

from . import tar_files, zip_files
from .archive_index import OF_TAR, Index, volumes_of
from .errors import Damage, ReleaseError, unwritable
from .files import MOST_IMAGE_BYTES
from .volumes import Part, Volume, is_archive, is_as_it_was, series_of

_FORMAT = 2
_BLOCK = 10_000


class Archives(NamedTuple):
    """A tree of the files in all archives of one place. Folders are named by their path in it, "" the top."""

    folder: str  # of the cache, where what is found out about them is kept
    state: tuple  # another one when an archive is
    volumes: list[Volume]
    folders: dict[str, tuple[int, int]]  # where the files of each stand in the arrays
    inner: dict[str, list[str]]  # the folders right inside each
    names: np.ndarray  # (n,) bytes, ascending in each folder
    members: np.ndarray  # (n,) `MEMBER`
    damages: list[Damage]

    def files(self, folder: str) -> Iterator[str]:
        start, end = self.folders.get(folder, (0, 0))
        for first in range(start, end, _BLOCK):
            yield from (name.decode() for name in self.names[first : min(first + _BLOCK, end)].tolist())

    def num_bytes(self, folder: str) -> int:
        lengths = self.members["length"][slice(*self.folders.get(folder, (0, 0)))]
        return int(lengths[lengths <= MOST_IMAGE_BYTES].sum())  # others are not read

    def find(self, folder: str, name: str) -> int | None:
        """The place of a file in the arrays."""
        start, end = self.folders.get(folder, (0, 0))
        key = name.encode()
        if start == end or len(key) > self.names.itemsize:
            return None
        place = start + int(np.searchsorted(self.names[start:end], np.array(key, self.names.dtype)))
        return place if place < end and self.names[place] == key else None

    def read(self, folder: str, name: str, most_bytes: int) -> bytes:
        """All of a file; raises `OSError`, the reason in `strerror`."""
        if (place := self.find(folder, name)) is None:
            raise FileNotFoundError(errno.ENOENT, "no such file")
        volume, offset, size, length, crc, method = self.members[place].item()
        if max(length, size) > most_bytes:
            raise OSError(errno.EFBIG, f"{length:,} bytes, more than the {most_bytes:,} that are read")
        if method != OF_TAR:
            return zip_files.content_of(self.volumes[volume], offset, size, length, crc, method, name.encode())
        return b"".join(tar_files.blocks_of(self.volumes[volume], offset, length))

    def blocks(self, folder: str, name: str) -> Iterator[bytes]:
        """A file piece by piece, however large it is; raises `OSError`, the reason in `strerror`."""
        if (place := self.find(folder, name)) is None:
            raise FileNotFoundError(errno.ENOENT, "no such file")
        volume, offset, size, length, crc, method = self.members[place].item()
        if method != OF_TAR:
            return zip_files.blocks_of(self.volumes[volume], offset, size, length, crc, method, name.encode())
        return tar_files.blocks_of(self.volumes[volume], offset, length)


def archives_in(place: str) -> list[str]:
    """The files of the archives in a folder, or of the one that a file is part of."""
    if os.path.isfile(place):
        if not is_archive(os.path.basename(place)):
            return []
        series = ([part.path for part in parts] for parts in series_of(archives_in(os.path.dirname(place))))
        return next((paths for paths in series if place in paths), [])
    if not os.path.isdir(place):
        return []
    with os.scandir(place) as entries:
        return sorted(
            entry.path for entry in entries if entry.name[0] != "." and is_archive(entry.name) and entry.is_file()
        )


@functools.lru_cache(maxsize=8)
def open_archives(place: str) -> Archives | None:
    """The archives in a folder, or that of a file; None where there is none, or they are unpacked in that folder.
    Raises `ReleaseError` where one is damaged so that nobody can say what is in it.
    """
    paths = archives_in(place)
    if not paths or any(os.path.isdir(os.path.join(place, mark)) for mark in _marks()[0]):
        return None
    status = [(path, os.stat(path)) for path in paths]
    state = (_FORMAT, place, *((path, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for path, s in status))
    key = hashlib.sha256(repr(state).encode()).hexdigest()[:24]
    folder = os.path.join(datasets.config.HF_DATASETS_CACHE, "affectnet_plus_archives", key)
    if archives := _read_index(folder, state):
        return archives
    try:
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        with FileLock(f"{folder}.lock"):  # other processes wait, and find it then
            if archives := _read_index(folder, state):
                return archives
            shutil.rmtree(folder, ignore_errors=True)  # of a killed run
            try:
                _write_index(place, paths, folder)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
    except OSError as error:
        raise unwritable(folder, error) from None
    if archives := _read_index(folder, state):
        return archives
    raise ReleaseError(f"The archives of {place} have changed while they were read: wait until they are whole.")


def _read_index(folder: str, state: tuple) -> Archives | None:
    """None where there is none that is whole, as after a power cut."""
    try:
        with open(os.path.join(folder, "tree.json"), encoding="utf-8") as file:
            found = json.load(file)
        # As plain arrays, which give an item in a third of a memmap's time.
        names, members = (
            np.load(os.path.join(folder, f"{name}.npy"), mmap_mode="r").view(np.ndarray)
            for name in ("names", "members")
        )
    except (OSError, ValueError, EOFError):
        return None
    volumes = [Volume((Part(*part) for part in parts), path) for parts, path in found["volumes"]]
    if not all(map(is_as_it_was, (part for volume in volumes for part in volume.parts))):
        return None
    folders = {path: (start, end) for path, start, end in found["folders"]}
    inner: dict[str, list[str]] = {path: [] for path in folders}
    for path in folders:
        if path:
            inner[posixpath.dirname(path)].append(posixpath.basename(path))
    return Archives(folder, state, volumes, folders, inner, names, members, [Damage(*d) for d in found["damages"]])


def _write_index(place: str, paths: list[str], folder: str) -> None:
    """Raises `ReleaseError` where an archive cannot be read, `OSError` where this cannot be written."""
    damages: list[Damage] = []
    index = Index(*_marks())
    try:
        for parts in series_of(paths):
            for volume, end in volumes_of(parts, damages):
                if os.path.isdir(place) or any(part.path == place for part in volume.parts):
                    if end is None:
                        volume = tar_files.decompressed(volume, os.path.join(folder, f"tar-{len(index.volumes)}"))
                    index.add(volume, end, damages)
        names, members, folders = index.sorted(place, damages)
    except OSError as error:
        path = error.filename or place
        raise ReleaseError(f"{path} cannot be read ({error.strerror}): download it again.") from None
    os.makedirs(folder, exist_ok=True)
    np.save(os.path.join(folder, "names.npy"), names)
    np.save(os.path.join(folder, "members.npy"), members)
    found = {
        "folders": folders,
        "damages": [(damage.what, damage.kind, damage.path) for damage in damages],
        "volumes": [(volume.parts, volume.path) for volume in index.volumes],
    }
    with open(os.path.join(folder, "new"), "w", encoding="utf-8") as file:
        json.dump(found, file)
    os.replace(file.name, os.path.join(folder, "tree.json"))  # which says that all is whole


@functools.cache
def _marks() -> tuple[set[str], set[str]]:
    """The folders and the files by which releases are known."""
    from .find import LAYOUTS  # here, as its releases are read with this

    marks = {mark for layout in LAYOUTS.values() for mark in layout.MARKS}
    return {mark[:-1] for mark in marks if mark.endswith("/")}, {mark for mark in marks if not mark.endswith("/")}
