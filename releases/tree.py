"""Files and folders of a release, on the disk or in archives: the same functions for both.

A path that is not on the disk may lead into the archives of the folder that it goes on from.
"""

import functools
import os
from collections.abc import Iterable, Iterator

from .archives import Archives, open_archives
from .errors import Damage, ReleaseError, unwritable
from .files import read_regular_file


def is_folder(path: str) -> bool:
    """As `os.path.isdir`."""
    return os.path.isdir(path) or bool((found := _inside(path)) and found[1] in found[0].folders)


def is_file(path: str) -> bool:
    """As `os.path.isfile`."""
    return os.path.isfile(path) or _member(path) is not None


def exists(path: str) -> bool:
    """As `os.path.exists`."""
    return os.path.exists(path) or _member(path) is not None or is_folder(path)


def is_archived(folder: str) -> bool:
    """Whether a folder of a release is in archives; its files are then read, and kept, as bytes."""
    return not os.path.isdir(folder)


def entries(folder: str) -> Iterator[tuple[str, bool]]:
    """(name, whether it is a folder) of everything in a folder, in any order."""
    if os.path.isdir(folder):
        with os.scandir(folder) as listing:
            yield from ((entry.name, entry.is_dir()) for entry in listing)
    if found := _inside(folder):
        archives, inner = found
        yield from ((name, True) for name in archives.inner.get(inner, ()))
        yield from ((name, False) for name in archives.files(inner))


def file_names(folder: str) -> Iterator[str]:
    """The names of everything in a folder that is not in archives, or of the files in one that is."""
    if not is_archived(folder):
        with os.scandir(folder) as listing:
            yield from (entry.name for entry in listing)
    elif found := _inside(folder):
        yield from found[0].files(found[1])


def read(path: str, most_bytes: int) -> bytes:
    """All of a file; raises `OSError`, the reason in `strerror`, as `read_regular_file` does."""
    folder, _, name = path.rpartition(os.sep)
    if (found := _archived.get(folder)) is None:
        try:
            return read_regular_file(path, most_bytes)
        except (FileNotFoundError, NotADirectoryError):
            if (found := _inside(folder)) is None:
                raise
            if not os.path.isdir(folder):
                _archived[folder] = found
    archives, inner = found
    return archives.read(inner, name, most_bytes)


def on_disk(path: str) -> str:
    """Where a file can be read by pieces: its path, or that of a copy in the cache where it is in an archive.

    Raises `ReleaseError` where that is damaged, or the copy cannot be written.
    """
    if os.path.exists(path) or (found := _inside(os.path.dirname(path))) is None:
        return path
    archives, inner = found
    copy = os.path.join(archives.folder, "files", inner, os.path.basename(path))
    if not os.path.exists(copy):
        unfinished = f"{copy}.{os.getpid()}"
        try:
            os.makedirs(os.path.dirname(copy), exist_ok=True)
            with open(unfinished, "wb") as file:
                file.writelines(_blocks(archives, inner, path))
            os.replace(unfinished, copy)
        except OSError as error:
            raise unwritable(copy, error) from None
        finally:
            if os.path.exists(unfinished):
                os.remove(unfinished)
    return copy


def _blocks(archives: Archives, inner: str, path: str) -> Iterator[bytes]:
    try:
        yield from archives.blocks(inner, os.path.basename(path))
    except OSError as error:
        raise ReleaseError(f"{path} cannot be read ({error.strerror}): download it again.") from None


def num_bytes(folder: str) -> int:
    """Of the files in a folder that is in archives; 0 for one that is not."""
    return found[0].num_bytes(found[1]) if is_archived(folder) and (found := _inside(folder)) else 0


def state(path: str) -> tuple | None:
    """Of the archives that a folder or file is in: another one when one of them is. None for one on the disk."""
    return found[0].state if not os.path.exists(path) and (found := _inside(path)) else None


def damages(paths: Iterable[str]) -> list[Damage]:
    """What is wrong with the archives that these folders or files are in, beyond what is wrong with their members."""
    inside = (_inside(path) for path in paths if not os.path.exists(path))
    archives = {found[0].folder: found[0] for found in inside if found}
    return [damage for one in archives.values() for damage in one.damages]


def lacking(folder: str, message: str) -> ReleaseError:
    """What is said where a folder lacks something: the message, or what is wrong with its archives, if something is."""
    found = _inside(folder)
    return ReleaseError(f"{found[0].damages[0]}." if found and found[0].damages else message)


def _member(path: str) -> int | None:
    folder, name = os.path.split(path)
    return found[0].find(found[1], name) if (found := _inside(folder)) else None


_archived: dict[str, tuple[Archives, str]] = {}  # folders that are not on the disk, so that it need not be asked


@functools.lru_cache(maxsize=1 << 16)
def _inside(path: str) -> tuple[Archives, str] | None:
    """The archives that a path leads into, and the rest of it inside of them."""
    place = path
    while not os.path.lexists(place):
        if (parent := os.path.dirname(place)) == place:
            return None
        place = parent
    archives = open_archives(place)
    inner = os.path.relpath(path, place).replace(os.sep, "/")
    return (archives, "" if inner == "." else inner) if archives else None


def forget() -> None:
    """What archives hold is looked up anew, as they may be other ones now."""
    _archived.clear()
    _inside.cache_clear()
    open_archives.cache_clear()
