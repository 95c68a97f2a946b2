"""What is in archives: the members of each, brought into one tree."""

import contextlib
import os
import posixpath
import zlib
from collections.abc import Iterator

import numpy as np

from . import tar_files, zip_files
from .errors import Damage, ReleaseError
from .expressions import listed
from .volumes import MOST_PARTS, Part, Volume, is_tar, missing_numbers, name_of, odd_one, with_disks, with_gap

MEMBER = np.dtype(
    [("volume", "i4"), ("offset", "i8"), ("size", "i8"), ("length", "i8"), ("crc", "u4"), ("method", "u1")]
)
OF_TAR = 255  # as method
_LONGEST_NAME = 255  # as on a disk
_BLOCK = 10_000


def volumes_of(parts: list[Part], damages: list[Damage]) -> Iterator[tuple[Volume, zip_files.End | None]]:
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
            if end.disk >= MOST_PARTS:
                raise ReleaseError(f"{part.path} has a damaged end ({end.disk:,} parts before it): download it again.")
            run = with_disks(run, end.disk + 1)
            end = zip_files.find_end(Volume(run))
        yield Volume(run), end
        run = []
    if len(run) == 1 and (end := zip_files.find_end(Volume(run), more_follows=True)):
        yield Volume(run), end
    elif run:
        head = Volume(run).read(0, 4)
        if not head.startswith(b"PK"):
            raise ReleaseError(f"{run[0].path} is no zip file (it begins with {head!r}): download it again.")
        what = "the last part is missing" if len(run) > 1 else "it is cut off"
        raise ReleaseError(f"{run[-1].path} ends without a table of contents, as {what}: download it again.")
    if len(whole) > 1 and (missing := missing_numbers(whole)):
        paths = listed(os.path.basename(name_of(number, whole)) for number in missing)
        damages.append(Damage(f"has its neighbours {paths} missing: download them", "damaged archive", whole[0].path))


class Index:
    """The members of one archive after another, block by block: a list of all would take ten times their memory.

    `mark_folders`, `mark_files`: the names by which releases are known.
    """

    def __init__(self, mark_folders: set[str], mark_files: set[str]) -> None:
        self.volumes: list[Volume] = []
        self._marks = mark_folders, mark_files
        self._folders: list[str] = []
        self._blocks: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # names, folders, members

    def add(self, volume: Volume, end: zip_files.End | None, damages: list[Damage]) -> None:
        """The members of an archive, a tar where it has no `end`. What is not read of it goes into `damages`."""
        number = len(self.volumes)
        self.volumes.append(volume)
        first, ids, marked = len(self._folders), {}, set()
        odd: dict[str, tuple[int, str]] = {}
        names: list[bytes] = []
        places: list[int] = []
        members: list[tuple] = []
        mark_folders, mark_files = self._marks
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
            what = f"has {count:,} file(s) such as {example[:100]!r} {reason}"
            damages.append(Damage(what, "damaged archive", str(volume)))
        self._folders[first:] = _unwrapped(self._folders[first:], marked, mark_folders)
        self._name_missing(number, volume, damages)

    def _flush(self, names: list[bytes], places: list[int], members: list[tuple]) -> None:
        if names:
            self._blocks.append((np.array(names, "S"), np.array(places), np.array(members, MEMBER)))
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
            names, folders, members = np.zeros(0, "S1"), np.zeros(0, int), np.zeros(0, MEMBER)
        self._blocks.clear()
        folders = renumbered[folders]
        order = np.lexsort((names, folders))
        names, folders, members = names[order], folders[order], members[order]
        again = np.zeros(len(names), bool)
        again[1:] = (names[1:] == names[:-1]) & (folders[1:] == folders[:-1])
        same = again.copy()
        of_tar = members["method"] == OF_TAR
        of_tar[1:] |= of_tar[:-1]
        same[1:] &= members["length"][1:] == members["length"][:-1]
        same[1:] &= (members["crc"][1:] == members["crc"][:-1]) | of_tar[1:]
        for index in np.flatnonzero(same & of_tar).tolist():
            same[index] = self._checksum(members[index]) == self._checksum(members[index - 1])
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

    def _checksum(self, member: np.void) -> int:
        number, offset, _, length, crc, method = member.item()
        if method != OF_TAR:
            return crc
        with contextlib.suppress(OSError):  # where it is cut off, which is said elsewhere
            for block in tar_files.blocks_of(self.volumes[number], offset, length):
                crc = zlib.crc32(block, crc)
        return crc


_LEADS_OUT, _OF_MAC = -1, -2
_BAD_NAME = "whose names lead out of it, or are none that a file can have: they are not read"


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


def _of_zip(volume: Volume, end: zip_files.End) -> Iterator[tuple[str, tuple, str]]:
    """(path, member, why it is not read) of each file."""
    for member in zip_files.members(volume, end):
        reason = ""
        if member.is_encrypted:
            reason = "that are encrypted: unpack it with its password"
        elif member.method not in (zip_files.STORED, zip_files.DEFLATED):
            method = zip_files.METHODS.get(member.method, "a method unknown here")
            reason = f"compressed by {method} (method {member.method}), which is not read here: unpack it"
        yield member.path, (member.offset, member.size, member.length, member.crc, member.method), reason


def _of_tar(volume: Volume) -> Iterator[tuple[str, tuple, str]]:
    for path, offset, length, reason in tar_files.members(volume):
        yield path, (offset, length, length, 0, OF_TAR), reason
