"""Archives in parts, as they are downloaded: several files that are one.

- spans, each a disk of one zip: AffectNet.z01, AffectNet.z02 ... AffectNet.zip (`zip -s`), offsets counted by disk;
- splits, cut anywhere: AffectNet.zip.001 ..., AffectNet.tar.gz.aa ... (`split -b`), offsets counted through;
- archives of their own that are only numbered: AffectNet+_part1.zip ...
"""

import errno
import io
import os
import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from .files import READ_BYTES

_ARCHIVE = r"\.(?:zip|tar|tgz|tar\.(?:gz|bz2|xz))"
_WHOLE = re.compile(rf"(.+){_ARCHIVE}", re.IGNORECASE)
_DISK = re.compile(r"(.+)\.z(\d{2,4})", re.IGNORECASE)
_SPLIT = re.compile(rf"(.+{_ARCHIVE})\.?(\d{{2,4}}|[a-z]{{2}})", re.IGNORECASE)
_NUMBERED = re.compile(r"(.*?)(\d{1,4})\.zip", re.IGNORECASE)
_LAST = 1 << 30  # the number of the part that has none: AffectNet.zip after AffectNet.z02
UNKNOWN_SIZE = 1 << 40
MOST_PARTS = 9999  # names have no more digits
_MOST_AT_ONCE = 1 << 24


class Part(NamedTuple):
    """One file of several, as it was when it was looked at; one without a `time` is not there."""

    path: str
    number: int
    size: int
    time: int | None = None  # of its last change, in ns

    @property
    def is_missing(self) -> bool:
        return self.time is None


def part_of(path: str, number: int) -> Part:
    """A file that is there, as it is now."""
    status = os.stat(path)
    return Part(path, number, status.st_size, status.st_mtime_ns)


def is_as_it_was(part: Part) -> bool:
    """Whether a file is the one that was looked at, or still missing."""
    is_there = os.path.exists(part.path)
    return not is_there if part.is_missing else is_there and part_of(part.path, part.number) == part


class Volume:
    """The bytes of several files, one after the other. Messages call it by `path`, else by the first of them."""

    def __init__(self, parts: Iterable[Part], path: str = ""):
        self.parts = tuple(parts)
        self.path = path or self.parts[0].path
        self.starts = [0]
        self._descriptors: dict[int, int] = {}
        for part in self.parts:
            self.starts.append(self.starts[-1] + part.size)
        self.size = self.starts[-1]
        missing = [end for part, end in zip(self.parts, self.starts[1:], strict=True) if part.is_missing]
        self.whole_from = max(missing, default=0)  # after the last part that is missing

    def __str__(self) -> str:
        return self.path

    @property
    def name(self) -> str:
        """Without its folder."""
        return os.path.basename(self.path)

    def offset_of(self, disk: int, offset: int) -> int:
        """Where a byte lies that is counted from the beginning of a disk."""
        return self.starts[disk] + offset if disk < len(self.parts) else self.size

    def read(self, offset: int, size: int) -> bytes:
        """At most `size` bytes, fewer at the end; raises `OSError` where a part with some of them is missing."""
        blocks = []
        while size > 0 and 0 <= offset < self.size:
            index = next(index for index, start in enumerate(self.starts) if offset < start) - 1
            block = self._read_part(index, offset - self.starts[index], min(size, self.starts[index + 1] - offset))
            if not block:
                break
            blocks.append(block)
            offset, size = offset + len(block), size - len(block)
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)

    def _read_part(self, index: int, offset: int, size: int) -> bytes:
        part = self.parts[index]
        if part.is_missing:
            raise OSError(errno.ENOENT, f"part of {os.path.basename(part.path)}, which is missing")
        if index not in self._descriptors:
            self._descriptors[index] = os.open(part.path, READ_BYTES)
            status = os.fstat(self._descriptors[index])
            if (status.st_size, status.st_mtime_ns) != (part.size, part.time):
                os.close(self._descriptors.pop(index))
                raise OSError(errno.ESTALE, f"{os.path.basename(part.path)} is another one now: load it again")
        # Not from where the file stands: threads, and processes that were forked, share that.
        return os.pread(self._descriptors[index], size, offset)

    def __del__(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)


class VolumeFile(io.RawIOBase):
    """A volume as a file that can be read from anywhere."""

    def __init__(self, volume: Volume):
        self._volume, self._place = volume, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MOST_AT_ONCE:  # in a header that is damaged
            raise ValueError("a size that nothing here has")
        return super().read(size) or b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._volume.size}[whence]
        return self._place

    def readinto(self, buffer) -> int:
        content = self._volume.read(self._place, len(buffer))
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)


def is_archive(name: str) -> bool:
    """Whether a file is an archive or a part of one, by its name."""
    return bool(_WHOLE.fullmatch(name) or _DISK.fullmatch(name) or _SPLIT.fullmatch(name))


def is_tar(name: str) -> bool:
    """Whether an archive, or the one that this is a part of, is a tar, by its name."""
    return not re.search(r"\.z(ip|\d+)([.\d]|[a-z]{2})*$", name, re.IGNORECASE)


def series_of(paths: list[str]) -> list[list[Part]]:
    """The files that may belong together, in their order."""
    found: dict[str, list[Part]] = {}
    spanned = {match[1].lower() for path in paths if (match := _DISK.fullmatch(os.path.basename(path)))}
    for path in paths:
        folder, name = os.path.split(path)
        stem, number = name, _LAST
        if match := _DISK.fullmatch(name):
            stem, number = f"{match[1]}.zip", int(match[2])
        elif not _WHOLE.fullmatch(name) and (match := _SPLIT.fullmatch(name)):
            stem, number = match[1], _counted(match[2])
        elif (match := _NUMBERED.fullmatch(name)) and name[:-4].lower() not in spanned:
            stem, number = f"{match[1]}*.zip", int(match[2])
        found.setdefault(os.path.join(folder, stem.lower()), []).append(part_of(path, number))
    return [sorted(parts, key=lambda part: part.number) for _, parts in sorted(found.items())]


def _counted(text: str) -> int:
    if text.isdigit():
        return int(text)
    first, second = (ord(letter) - ord("a") for letter in text.lower())
    return 26 * first + second


def missing_numbers(parts: list[Part]) -> list[int]:
    """The numbers that lie between those of the parts, or before the first, which may be 0 or 1."""
    numbers = {part.number for part in parts} - {_LAST}
    return [number for number in range(1, max(numbers, default=0)) if number not in numbers]


def name_of(number: int, parts: list[Part]) -> str:
    """The path that the part of this number would have."""
    numbered = [part for part in parts if part.number != _LAST]
    if not numbered:
        return f"{os.path.splitext(parts[0].path)[0]}.z{number:02}"
    neighbour = min(numbered, key=lambda part: abs(part.number - number))
    folder, name = os.path.split(neighbour.path)
    match = _DISK.fullmatch(name) or _SPLIT.fullmatch(name) or _NUMBERED.fullmatch(name)
    assert match is not None, "only numbered parts have a number"
    start, end = match.span(2)
    digits = str(number).zfill(end - start) if match[2].isdigit() else "".join(chr(97 + n) for n in divmod(number, 26))
    return os.path.join(folder, name[:start] + digits + name[end:])


def with_disks(parts: list[Part], count: int) -> list[Part]:
    """The disks of a zip in spans: a part for each, those that are not there as missing."""
    if len(parts) == 1:
        parts = [parts[0]._replace(number=_LAST)]
    first = min(1, parts[0].number)
    by_disk = {part.number - first: part for part in parts[:-1]} | {count - 1: parts[-1]}
    if len(parts) == count:
        by_disk = dict(enumerate(parts))
    return [
        by_disk.get(disk) or Part(name_of(disk + first, parts), disk + first, UNKNOWN_SIZE) for disk in range(count)
    ]


def with_gap(parts: list[Part], lacking: int) -> list[Part] | None:
    """The parts of a split, with a missing one of `lacking` bytes in its place; None where nobody can say where."""
    numbers = missing_numbers(parts)
    if not numbers or numbers != list(range(numbers[0], numbers[-1] + 1)):
        return None
    missing = Part(name_of(numbers[0], parts), numbers[0], lacking)
    return sorted([*parts, missing], key=lambda part: part.number)


def odd_one(parts: list[Part]) -> Part:
    """The part that is not whole, by its size: all but the last are equally large."""
    usual = Counter(part.size for part in parts[:-1]).most_common(1)
    return next((part for part in parts[:-1] if part.size != usual[0][0]), parts[-1])
