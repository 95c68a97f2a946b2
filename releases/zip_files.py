"""The table of contents of a zip file, also of one in parts, and the bytes of its members.

For a million members: `zipfile` keeps half a kilobyte for each, and takes neither spans nor splits. The format is that
of PKWARE's APPNOTE.TXT 6.3.10, https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT.
"""

import errno
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from .errors import ReleaseError
from .volumes import Volume

_END = struct.Struct("<4s4H2LH")  # the record at the end
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")  # a member in the table of contents
_LOCAL = struct.Struct("<4s5H3L2H")  # a member, before its bytes
_LONGEST_END = _END.size + (1 << 16)
_BLOCK = 1 << 20
_MORE = 320  # bytes of name and extra fields that are read at once with a member's content
_MOST = 1 << 60  # bytes: more only where a number is damaged, and sums of two have their place in 64 bits
STORED, DEFLATED = 0, 8
METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ", 98: "PPMd"}


class Member(NamedTuple):
    """What the table of contents says of one file. `offset`: in the volume."""

    name: bytes
    offset: int
    size: int  # bytes, compressed
    length: int  # bytes
    crc: int
    method: int
    flags: int

    @property
    def is_encrypted(self) -> bool:
        return bool(self.flags & 1)

    @property
    def path(self) -> str:
        try:
            return self.name.decode("utf-8" if self.flags & 0x800 else "ascii")
        except UnicodeDecodeError:
            return self.name.decode("cp437")


class End(NamedTuple):
    """The record at the end: where it stands, and where the table of contents."""

    position: int  # in the volume
    disk: int
    table_disk: int
    num_members: int
    size: int
    offset: int  # in the table's disk

    @property
    def lacking(self) -> int:
        """How many bytes of a zip of one disk are not there; negative: so many are before it that are none of it."""
        return self.offset + self.size - self.position


def find_end(volume: Volume, more_follows: bool = False) -> End | None:
    """The record that a zip ends with; None where the volume does not end with one, unless something follows it."""
    start = max(volume.size - _LONGEST_END, volume.whole_from)
    tail = volume.read(start, volume.size - start)
    place = len(tail)
    while (place := tail.rfind(b"PK\5\6", 0, place)) >= 0:
        if len(tail) >= place + _END.size:
            _, disk, table_disk, _, count, size, offset, comment = _END.unpack_from(tail, place)
            if more_follows or place + _END.size + comment == len(tail):
                return _zip64(volume, start + place) or End(start + place, disk, table_disk, count, size, offset)
    return None


def _zip64(volume: Volume, position: int) -> End | None:
    if not volume.read(max(position - _LOCATOR_64.size, volume.whole_from), _LOCATOR_64.size).startswith(b"PK\6\7"):
        return None
    # Not where the locator says, as parts that are not here move it.
    place = position - _LOCATOR_64.size - _END_64.size
    record = volume.read(place, _END_64.size) if place >= volume.whole_from else b""
    if not record.startswith(b"PK\6\6"):
        return None
    _, _, _, _, disk, table_disk, _, count, size, offset = _END_64.unpack(record)
    return End(place, disk, table_disk, count, min(size, _MOST), min(offset, _MOST))


def members(volume: Volume, end: End) -> Iterator[Member]:
    """All members, in the order of the table of contents; raises `ReleaseError` where that is damaged."""
    before = 0 if end.disk else -end.lacking
    read = volume.offset_of(end.table_disk, end.offset) + before
    stop, block, place, found = read + end.size, b"", 0, 0
    while True:
        damaged = (
            f"{volume} has a damaged table of contents (file {found + 1:,} of {end.num_members:,}): download it again."
        )
        if len(block) - place < _BLOCK // 4 and read < stop:
            more = volume.read(read, min(_BLOCK, stop - read))
            if not more:
                raise ReleaseError(damaged)
            block, place, read = block[place:] + more, 0, read + len(more)
        if place == len(block):
            break
        if len(block) - place < _ENTRY.size:
            raise ReleaseError(damaged)
        fields = _ENTRY.unpack_from(block, place)
        signature, _, _, flags, method, _, _, crc, size, length, name_size, extra_size, comment_size, disk = fields[:14]
        offset, start = fields[16], place + _ENTRY.size
        extra = start + name_size
        place = extra + extra_size + comment_size
        if signature != b"PK\1\2" or place > len(block):
            raise ReleaseError(damaged)
        if 0xFFFFFFFF in (size, length, offset) or disk == 0xFFFF:
            length, size, offset, disk = _large(block[extra : extra + extra_size], length, size, offset, disk)
        offset = volume.offset_of(disk, offset) + before
        yield Member(block[start:extra], offset, size, length, crc, method, flags)
        found += 1
    if found & 0xFFFF != end.num_members & 0xFFFF:  # writers without Zip64 count no further
        raise ReleaseError(damaged)


def _large(extra: bytes, *values: int) -> list[int]:
    """Zip64: those values that had no place in their field."""
    numbers, place = list(values), 0
    while place + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, place)
        place += 4
        if kind == 1:
            for index, width in enumerate((8, 8, 8, 4)):
                if numbers[index] == (0xFFFF if width == 4 else 0xFFFFFFFF):
                    numbers[index] = int.from_bytes(extra[place : place + width], "little")
                    place += width
            break
        place += size
    return [min(number, _MOST) for number in numbers]


def content_of(volume: Volume, offset: int, size: int, length: int, crc: int, method: int, name: bytes) -> bytes:
    """The bytes of a member, of which only the end of its path is given; raises `OSError`, the reason in `strerror`."""
    found = volume.read(offset, _LOCAL.size + _MORE + size)
    start = _start_of_content(volume, found, name)
    content = found[start : start + size]
    if len(content) < size:
        content += volume.read(offset + start + len(content), size - len(content))
    if method == DEFLATED:
        try:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, length + 1)
        except zlib.error:
            raise _damaged(volume, "it cannot be decompressed") from None
    if len(content) != length or zlib.crc32(content) != crc:
        raise _damaged(volume, "its checksum is another")
    return content


def blocks_of(
    volume: Volume, offset: int, size: int, length: int, crc: int, method: int, name: bytes
) -> Iterator[bytes]:
    """The same piece by piece, however many they are."""
    place = offset + _start_of_content(volume, volume.read(offset, _LOCAL.size + (1 << 16)), name)
    stream = zlib.decompressobj(-zlib.MAX_WBITS) if method == DEFLATED else None
    found, written = 0, 0
    for start in range(place, place + size, _BLOCK):
        block = volume.read(start, min(_BLOCK, place + size - start))
        try:
            content = block if stream is None else stream.decompress(block)
        except zlib.error:
            raise _damaged(volume, "it cannot be decompressed") from None
        found, written = zlib.crc32(content, found), written + len(content)
        if written > length:
            break
        yield content
    if written != length or found != crc:
        raise _damaged(volume, "its checksum is another")


def _start_of_content(volume: Volume, found: bytes, name: bytes) -> int:
    """How many bytes after its beginning the content of a member begins, whose name is to be as in the table."""
    if len(found) >= _LOCAL.size and found.startswith(b"PK\3\4"):
        *_, name_size, extra_size = _LOCAL.unpack_from(found)
        here = found[_LOCAL.size : _LOCAL.size + name_size]
        # Where names are no ASCII, the table may have them in another encoding.
        if here.endswith(name) or not here.isascii() or name_size > _MORE:
            return _LOCAL.size + name_size + extra_size
    raise _damaged(volume, "there is something else in its place")


def _damaged(volume: Volume, reason: str) -> OSError:
    return OSError(errno.EIO, f"damaged in {volume.name}: {reason}")
