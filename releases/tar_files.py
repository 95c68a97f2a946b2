"""The members of a tar file."""

import bz2
import gzip
import lzma
import os
import shutil
import tarfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import IO

from .errors import ReleaseError
from .files import size_of
from .volumes import Part, Volume, VolumeFile

_COMPRESSED: dict[bytes, Callable] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_MOST_TIMES = 100  # larger than its file: real ones are hardly larger, as images are compressed already
_BLOCK = 1 << 20
_BROKEN = (tarfile.TarError, EOFError, OSError, ValueError, zlib.error, lzma.LZMAError, OverflowError, MemoryError)


def members(volume: Volume) -> Iterator[tuple[str, int, int, str]]:
    """(path, offset, length, why it is not read) of each file in a tar that is not compressed; the last one says where
    it is cut off.
    """
    path = ""
    try:
        with tarfile.open(fileobj=VolumeFile(volume), mode="r:") as tar:
            while member := tar.next():
                tar.members.clear()  # type: ignore[attr-defined] # it would keep them all
                path = member.name
                if member.isreg() and not member.sparse:
                    yield path, member.offset_data, member.size, ""
                elif not member.isdir():
                    yield path, 0, 0, "that are links or devices, which are not read"
            if volume.read(tar.offset, 512) != bytes(512):  # type: ignore[attr-defined]
                raise EOFError("it has no end")
    except _BROKEN as error:
        yield path or "?", 0, 0, f"after which it is cut off or damaged ({str(error)[:60]}): download it again"


def decompressed(volume: Volume, folder: str) -> Volume:
    """The tar that is in a .tar.gz, .tar.bz2 or .tar.xz, in a file in `folder`; itself where it is not compressed.

    Compressed, it could only be read from its beginning.
    """
    head = volume.read(0, 6)
    opened = next((function for magic, function in _COMPRESSED.items() if head.startswith(magic)), None)
    if opened is None:
        return volume
    path = os.path.join(folder, "archive.tar")
    if not os.path.exists(path):
        os.makedirs(folder, exist_ok=True)
        unfinished = f"{path}.{os.getpid()}"
        warnings.warn(
            f"{volume} ({size_of(volume.size)}), which can only be read from its beginning, is decompressed once, to "
            f"{path}.",
            stacklevel=2,
        )
        try:
            with opened(VolumeFile(volume)) as source, open(unfinished, "wb") as target:
                _copy(source, target, volume)
            os.replace(unfinished, path)
        except ReleaseError:
            raise
        except _BROKEN as error:
            if isinstance(error, OSError) and error.errno is not None:
                free = shutil.disk_usage(folder).free
                raise ReleaseError(
                    f"{path} cannot be written ({error.strerror}; {size_of(free)} are free): decompress {volume} "
                    "yourself, or set HF_DATASETS_CACHE to a larger disk."
                ) from None
            raise ReleaseError(f"{volume} is cut off or damaged: download it again.") from None
        finally:
            if os.path.exists(unfinished):
                os.remove(unfinished)
    return Volume([Part(path, 1, os.path.getsize(path))])


def _copy(source: IO[bytes], target: IO[bytes], volume: Volume) -> None:
    while block := source.read(_BLOCK):
        target.write(block)
        if target.tell() > _MOST_TIMES * volume.size + _BLOCK:
            raise ReleaseError(f"{volume} becomes more than {_MOST_TIMES} times as large: it is not what it should be.")
