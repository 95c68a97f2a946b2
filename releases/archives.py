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
from typing import BinaryIO, NamedTuple

import datasets
import numpy as np

from . import tar_files, zip_files
from .errors import Damage, ReleaseError
from .expressions import listed
from .volumes import (
    Part,
    Volume,
    is_archive,
    is_tar,
    missing_numbers,
    name_of,
    odd_one,
    series_of,
    with_disks,
    with_gap,
)

_FORMAT = 1
_MEMBER = np.dtype(
    [("volume", "i4"), ("offset", "i8"), ("size", "i8"), ("length", "i8"), ("crc", "u4"), ("method", "u1")]
)
_OF_TAR = 255  # as method
_LONGEST_NAME = 255  # as on a disk
_BLOCK = 10_000


class Archives(NamedTuple):
    """A tree of the files in all archives of one place. Folders are named by their path in it, "" the top."""

    folder: str  # of the cache, where what is found out about them is kept
    state: tuple  # another one when an archive is
    volumes: list[Volume]
    folders: dict[str, tuple[int, int]]  # where the files of each stand in the arrays
    inner: dict[str, list[str]]  # the folders right inside each
    names: np.ndarray  # (n,) bytes, ascending in each folder
    members: np.ndarray  # (n,) `_MEMBER`
    damages: list[Damage]

    def files(self, folder: str) -> Iterator[str]:
        start, end = self.folders.get(folder, (0, 0))
        for first in range(start, end, _BLOCK):
            yield from (name.decode() for name in self.names[first : min(first + _BLOCK, end)].tolist())

    def num_bytes(self, folder: str) -> int:
        return int(self.members["length"][slice(*self.folders.get(folder, (0, 0)))].sum())

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
        if method != _OF_TAR:
            return zip_files.content_of(self.volumes[volume], offset, size, length, crc, method, name.encode())
        content = self.volumes[volume].read(offset, length)
        if len(content) < length:
            raise OSError(errno.EIO, f"cut off in {self.volumes[volume].name}")
        return content

    def copy(self, folder: str, name: str, file: BinaryIO) -> None:
        """Writes a file, however large it is, to another one; raises `OSError`, the reason in `strerror`."""
        if (place := self.find(folder, name)) is None:
            raise FileNotFoundError(errno.ENOENT, "no such file")
        volume, offset, size, length, crc, method = self.members[place].item()
        if method != _OF_TAR:
            return zip_files.copy_content(self.volumes[volume], offset, size, length, crc, method, name.encode(), file)
        for start in range(offset, offset + length, _BLOCK * 100):
            file.write(self.volumes[volume].read(start, min(_BLOCK * 100, offset + length - start)))


def archives_in(place: str) -> list[str]:
    """The files of the archives in a folder, or of the one that a file is part of."""
    if os.path.isfile(place):
        around = archives_in(os.path.dirname(place)) if is_archive(os.path.basename(place)) else []
        series = next((parts for parts in series_of(around) if any(part.path == place for part in parts)), [])
        return [part.path for part in series] or [place]
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
    state = (_FORMAT, place, *((path, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for path, s in _statuses(paths)))
    key = hashlib.sha256(repr(state).encode()).hexdigest()[:24]
    folder = os.path.join(datasets.config.HF_DATASETS_CACHE, "affectnet_plus_archives", key)
    if not os.path.exists(os.path.join(folder, "tree.json")):
        _write_index(place, paths, folder)
    with open(os.path.join(folder, "tree.json"), encoding="utf-8") as file:
        found = json.load(file)
    # As plain arrays, which give an item in a third of a memmap's time.
    names, members = (
        np.load(os.path.join(folder, f"{name}.npy"), mmap_mode="r").view(np.ndarray) for name in ("names", "members")
    )
    folders = {path: (start, end) for path, start, end in found["folders"]}
    inner: dict[str, list[str]] = {path: [] for path in folders}
    for path in folders:
        if path:
            inner[posixpath.dirname(path)].append(posixpath.basename(path))
    volumes = [Volume(Part(*part) for part in parts) for parts in found["volumes"]]
    return Archives(folder, state, volumes, folders, inner, names, members, [Damage(*d) for d in found["damages"]])


def _statuses(paths: list[str]) -> Iterator[tuple[str, os.stat_result]]:
    return ((path, os.stat(path)) for path in paths)


# ---------------------------------------------------------------------------------------------------------------
# What is in them


def _write_index(place: str, paths: list[str], folder: str) -> None:
    damages: list[Damage] = []
    volumes: list[Volume] = []
    index = _Index()
    for parts in series_of(paths):
        for volume, end in _volumes(parts, damages):
            if os.path.isfile(place) and all(part.path != place for part in volume.parts):
                continue
            if end is None:
                volume = tar_files.decompressed(volume, os.path.join(folder, f"tar-{len(volumes)}"))
            try:
                index.add(len(volumes), volume, end, damages)
            except OSError as error:
                raise ReleaseError(f"{volume} cannot be read ({error.strerror}): download it again.") from None
            volumes.append(volume)
    names, members, folders = index.sorted(place, damages)
    unfinished = f"{folder}.{os.getpid()}"
    os.makedirs(unfinished, exist_ok=True)
    os.makedirs(folder, exist_ok=True)
    np.save(os.path.join(unfinished, "names.npy"), names)
    np.save(os.path.join(unfinished, "members.npy"), members)
    with open(os.path.join(unfinished, "tree.json"), "w", encoding="utf-8") as file:
        found = {
            "folders": folders,
            "damages": [(damage.what, damage.kind, damage.path) for damage in damages],
            "volumes": [volume.parts for volume in volumes],
        }
        json.dump(found, file)
    for name in ("names.npy", "members.npy", "tree.json"):  # the last one says that it is whole
        os.replace(os.path.join(unfinished, name), os.path.join(folder, name))
    shutil.rmtree(unfinished)


def _volumes(parts: list[Part], damages: list[Damage]) -> Iterator[tuple[Volume, zip_files.End | None]]:
    """The archives that these files are, those of zip with their end; what is missing goes into `damages`."""
    if is_tar(parts[0].path):
        if missing := missing_numbers(parts):
            raise ReleaseError(f"{name_of(missing[0], parts)} is missing: download it, as a tar is read through.")
        yield Volume(parts), None
        return
    run: list[Part] = []
    whole: list[Part] = []
    for part in parts:
        run.append(part)
        end = zip_files.find_end(Volume(run))
        if end is None:
            continue
        if end.disk == 0 and -end.lacking == sum(other.size for other in run[:-1]):
            if run[:-1]:
                raise ReleaseError(f"{run[-2].path} is no whole zip, as its end is missing: download it again.")
            whole.append(part)
        elif end.disk == 0 and end.lacking > 0:
            if (complete := with_gap(run, end.lacking)) is None:
                odd = f"{odd_one(run).path} is not whole" if len(run) > 1 else f"{part.path} lacks its beginning"
                raise ReleaseError(f"{odd}: {end.lacking:,} bytes are missing; download it again.")
            run, end = complete, zip_files.find_end(Volume(complete))
        elif end.disk > 0:
            run = with_disks(run, end.disk + 1)
            end = zip_files.find_end(Volume(run))
        yield Volume(run), end
        run = []
    if run:
        head = Volume(run).read(0, 4)
        if not head.startswith(b"PK"):
            raise ReleaseError(f"{run[0].path} is no zip file (it begins with {head!r}): download it again.")
        what = "the last part is missing" if len(run) > 1 else "it is cut off"
        raise ReleaseError(f"{run[-1].path} ends without a table of contents, as {what}: download it again.")
    if len(whole) > 1 and (missing := missing_numbers(whole)):
        paths = listed(os.path.basename(name_of(number, whole)) for number in missing)
        damages.append(Damage(f"has its neighbours {paths} missing: download them", "damaged archive", whole[0].path))


class _Index:
    """The members of one archive after another, block by block: a list of all would take ten times their memory."""

    def __init__(self) -> None:
        self._folders: list[str] = []
        self._blocks: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # names, folders, members

    def add(self, number: int, volume: Volume, end: zip_files.End | None, damages: list[Damage]) -> None:
        """The members of an archive, its `number` among the others'. What is not read of it goes into `damages`."""
        first, ids, marked = len(self._folders), {}, set()
        odd: dict[str, tuple[int, str]] = {}
        names: list[bytes] = []
        places: list[int] = []
        members: list[tuple] = []
        mark_folders, mark_files = _marks()
        found = _of_zip(volume, end) if end else _of_tar(volume)
        for path, member, reason in found:
            folder, _, name = path.replace("\\", "/").removeprefix("./").rpartition("/")
            if name.startswith("._") or not name:
                continue
            if folder not in ids:
                ids[folder] = _id_of(folder, self._folders)
            if ids[folder] == _OF_MAC:
                continue
            reason = reason or (_BAD_NAME if ids[folder] == _LEADS_OUT or not _is_name(name) else "")
            if reason:
                count, example = odd.get(reason, (0, path))
                odd[reason] = count + 1, example
                continue
            if name in mark_files:
                marked.add(folder)
            names.append(name.encode())
            places.append(ids[folder])
            members.append((number, *member))
            if len(names) == _BLOCK:
                self._flush(names, places, members)
        self._flush(names, places, members)
        for reason, (count, example) in odd.items():
            what = f"has {count:,} file(s) {reason}, such as {example[:100]!r}"
            damages.append(Damage(what, "damaged archive", str(volume)))
        self._folders[first:] = _unwrapped(self._folders[first:], marked, mark_folders)
        self._name_missing(number, volume, damages)

    def _flush(self, names: list[bytes], places: list[int], members: list[tuple]) -> None:
        if names:
            self._blocks.append((np.array(names, "S"), np.array(places), np.array(members, _MEMBER)))
            for values in (names, places, members):
                values.clear()

    def _name_missing(self, number: int, volume: Volume, damages: list[Damage]) -> None:
        """What the parts of an archive would hold that are not here."""
        for index, part in enumerate(volume.parts):
            if part.is_missing:
                count, example = 0, ""
                for names, folders, members in self._blocks:
                    ours = (members["volume"] == number) & (members["offset"] < volume.starts[index + 1])
                    ours &= members["offset"] + members["size"] + 30 > volume.starts[index]
                    if ours.any() and not count:
                        place = int(ours.argmax())
                        example = posixpath.join(self._folders[folders[place]], names[place].decode())
                    count += int(ours.sum())
                what = f"is missing, with {count:,} files such as {example}" if count else "is missing"
                damages.append(Damage(f"{what}: download it", "damaged archive", part.path))

    def sorted(self, place: str, damages: list[Damage]) -> tuple[np.ndarray, np.ndarray, list[tuple[str, int, int]]]:
        """Names and members, by folder and name, and where each folder stands among them."""
        paths = sorted(set(self._folders))
        new_id = {path: index for index, path in enumerate(paths)}
        renumbered = np.array([new_id[path] for path in self._folders] or [0])
        if self._blocks:
            names, folders, members = (np.concatenate(column) for column in zip(*self._blocks, strict=True))
        else:
            names, folders, members = np.zeros(0, "S1"), np.zeros(0, int), np.zeros(0, _MEMBER)
        self._blocks.clear()
        folders = renumbered[folders]
        order = np.lexsort((names, folders))
        names, folders, members = names[order], folders[order], members[order]
        again = np.zeros(len(names), bool)
        again[1:] = (names[1:] == names[:-1]) & (folders[1:] == folders[:-1])
        same = again.copy()
        same[1:] &= (members["length"][1:] == members["length"][:-1]) & (members["crc"][1:] == members["crc"][:-1])
        for index in np.flatnonzero(again & ~same).tolist():
            path = os.path.join(place, paths[folders[index]], names[index].decode())
            damages.append(Damage("is in the archives twice, with different contents", "damaged archive", path))
        names, folders, members = names[~again], folders[~again], members[~again]
        starts = np.searchsorted(folders, np.arange(len(paths) + 1)).tolist()
        found = {path: (starts[index], starts[index + 1]) for index, path in enumerate(paths)}
        for path in paths:
            while path:
                path = posixpath.dirname(path)
                found.setdefault(path, (0, 0))
        return names, members, [(path, *where) for path, where in sorted({"": (0, 0), **found}.items())]


_LEADS_OUT, _OF_MAC = -1, -2
_BAD_NAME = "of names that lead out of it or that no file can have, which are not read"


def _id_of(folder: str, folders: list[str]) -> int:
    parts = folder.split("/") if folder else []
    if "__MACOSX" in parts:
        return _OF_MAC
    if not all(map(_is_name, parts)) or (parts and parts[0].endswith(":")):
        return _LEADS_OUT
    folders.append("/".join(part for part in parts if part != "."))
    return len(folders) - 1


def _is_name(name: str) -> bool:
    try:
        return name not in ("", "..") and "\0" not in name and len(name.encode()) <= _LONGEST_NAME
    except UnicodeEncodeError:
        return False


def _unwrapped(folders: list[str], marked: set[str], marks: set[str]) -> list[str]:
    """Without the folder around the release, which may be another one in each part."""
    for _ in range(2):
        tops = {folder.split("/")[0] for folder in folders}
        starts = {"/".join(folder.split("/")[:2]) for folder in folders} | marked
        wrapping = [top for top in tops if top in marked or any(f"{top}/{mark}" in starts for mark in marks)]
        if len(wrapping) != 1 or "" in marked or tops & marks or not wrapping[0]:
            break
        (top,) = wrapping
        folders = [folder.removeprefix(top).removeprefix("/") if _is_in(folder, top) else folder for folder in folders]
        marked = {folder.removeprefix(top).removeprefix("/") for folder in marked if _is_in(folder, top)}
    return folders


def _is_in(folder: str, top: str) -> bool:
    return folder == top or folder.startswith(f"{top}/")


@functools.cache
def _marks() -> tuple[set[str], set[str]]:
    """The folders and the files by which releases are known."""
    from .find import LAYOUTS  # here, as its releases are read with this

    marks = {mark for layout in LAYOUTS.values() for mark in layout.MARKS}
    return {mark[:-1] for mark in marks if mark.endswith("/")}, {mark for mark in marks if not mark.endswith("/")}


def _of_zip(volume: Volume, end: zip_files.End) -> Iterator[tuple[str, tuple, str]]:
    """(path, member, why it is not read) of each file."""
    for member in zip_files.members(volume, end):
        reason = ""
        if member.is_encrypted:
            reason = "that are encrypted: unpack it with its password"
        elif member.method not in (zip_files.STORED, zip_files.DEFLATED):
            reason = f"compressed by method {member.method}, which is not read here: unpack it"
        yield member.path, (member.offset, member.size, member.length, member.crc, member.method), reason


def _of_tar(volume: Volume) -> Iterator[tuple[str, tuple, str]]:
    for path, offset, length, reason in tar_files.members(volume):
        yield path, (offset, length, length, 0, _OF_TAR), reason
