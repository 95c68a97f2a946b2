"""The members of a tar file."""

import bz2
import errno
import gzip
import lzma
import os
import tarfile
import warnings
import zlib
from collections.abc import Callable, Iterator

from .errors import ReleaseError, unwritable
from .files import size_of
from .volumes import Volume, VolumeFile, part_of

_COMPRESSED: dict[bytes, Callable] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_MOST_TIMES = 100  # larger than its file: real ones are hardly larger, as images are compressed already
_MOST = 1 << 60  # bytes
_BLOCK = 1 << 20
_BROKEN = (
    tarfile.TarError, EOFError, OSError, ValueError, zlib.error, lzma.LZMAError, ArithmeticError, MemoryError,
    RecursionError,
)  # fmt: skip


def members(volume: Volume) -> Iterator[tuple[str, int, int, str]]:
    """(path, offset, length, why it is not read) of each file in a tar that is not compressed; the last one says where
    it is cut off. Raises `ReleaseError` where it is no tar.
    """
    path, place = "", 0
    try:
        with tarfile.open(fileobj=VolumeFile(volume), mode="r:") as tar:
            while member := tar.next():
                tar.members.clear()  # type: ignore[attr-defined] # it would keep them all
                if not 0 <= member.size < _MOST or tar.offset <= place:  # type: ignore[attr-defined]
                    raise ValueError("a size that no file has")
                path, place = member.name, tar.offset  # type: ignore[attr-defined]
                if member.isreg() and not member.sparse:
                    yield path, member.offset_data, member.size, ""
                elif not member.isdir():
                    yield path, 0, 0, "that are links, devices or sparse, which are not read: unpack it"
            rest = volume.read(tar.offset, _BLOCK)  # type: ignore[attr-defined]
            if not rest.startswith(bytes(512)):
                raise EOFError("it has no end")
            if rest.strip(b"\0"):
                yield path or "?", 0, 0, "after which come its end and more, which is not read: unpack it"
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        if not path:
            head = volume.read(0, 6)
            raise ReleaseError(
                f"{volume} is no tar file that can be read (it begins with {head!r}): download it again."
            ) from None
        yield path, 0, 0, f"after which it is cut off or damaged ({str(error)[:60]}): download it again"


def blocks_of(volume: Volume, offset: int, length: int) -> Iterator[bytes]:
    """The bytes of a member piece by piece; raises `OSError`, the reason in `strerror`."""
    for start in range(offset, offset + length, _BLOCK):
        size = min(_BLOCK, offset + length - start)
        if len(block := volume.read(start, size)) < size:
            raise OSError(errno.EIO, f"cut off in {volume.name}")
        yield block


def decompressed(volume: Volume, folder: str) -> Volume:
    """The tar that is in a .tar.gz, .tar.bz2 or .tar.xz, in a file in `folder`; itself where it is not compressed.

    Compressed, it could only be read from its beginning.
    """
    head = volume.read(0, 6)
    opened = next((function for magic, function in _COMPRESSED.items() if head.startswith(magic)), None)
    if opened is None:
        return volume
    path = os.path.join(folder, "archive.tar")
    warnings.warn(
        f"{volume} ({size_of(volume.size)}), which can only be read from its beginning, is decompressed once, to "
        f"{path}.",
        stacklevel=2,
    )
    try:
        os.makedirs(folder)
        with open(path, "wb") as file:
            file.writelines(_decompressed(opened, volume))
    except OSError as error:
        raise unwritable(path, error) from None
    return Volume([part_of(path, 1)], volume.path)


def _decompressed(opened: Callable, volume: Volume) -> Iterator[bytes]:
    num_bytes = 0
    try:
        with opened(VolumeFile(volume)) as source:
            while block := source.read(_BLOCK):
                num_bytes += len(block)
                if num_bytes > _MOST_TIMES * volume.size + _BLOCK:
                    break
                yield block
    except _BROKEN as error:
        reason = "is cut off or damaged"
        if isinstance(error, OSError) and error.errno:
            reason = f"cannot be read ({error.strerror})"
        raise ReleaseError(f"{volume} {reason}: download it again.") from None
    if num_bytes > _MOST_TIMES * volume.size + _BLOCK:
        raise ReleaseError(f"{volume} becomes more than {_MOST_TIMES} times as large: it is not what it should be.")
