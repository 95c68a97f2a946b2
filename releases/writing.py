"""What is written to a disk: by one run at a time, whole or not at all, and what is said where there is no room."""

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from .find import UNFINISHED

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_NO_ROOM_IN_WORDS = re.compile(  # of libraries that have their own errors; the last are PyTorch's
    r"no space left on device|disk quota exceeded|file too large|file write failed|unexpected pos \d+ vs \d+"
    r"|\d+ requested and \d+ written",  # NumPy's
    re.I,
)


@contextlib.contextmanager
def alone(lock_file: str | os.PathLike, place: str | os.PathLike) -> Iterator[None]:
    """Hold a lock as long as `place` is written to. The system lets go of it when a process ends, however it does.

    Args:
        lock_file: is made where it is not there, and its folder, too; neither is left, unless there is more in that.
        place: what to call what is written.

    Raises:
        ValueError: another run holds it.
    """
    lock_file = Path(lock_file)
    new = [folder for folder in lock_file.parents if not folder.exists()]
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"Another run is writing {place}: wait for its end, or name another place.") from error
    try:
        yield
    finally:
        lock_file.unlink(missing_ok=True)  # while it is held: whoever has opened it sees that it is gone
        lock.release()
        with contextlib.suppress(OSError):  # only empty folders go
            for folder in new:
                folder.rmdir()


@contextlib.contextmanager
def written_whole(file: str | os.PathLike) -> Iterator[Path]:
    """Yields the name of a new file, of the same ending, that takes the place of `file` once it is whole; where it does
    not become whole, `file` stays as it was. Raises `ValueError` where another run is writing it."""
    file = Path(file)
    if not file.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "There is no such folder", os.fspath(file.parent))
    beside = file.with_name(f".writing-{file.name}")
    with alone(file.with_name(f".{file.name}.lock"), file):
        try:
            beside.unlink(missing_ok=True)  # of a killed run
            yield beside
            os.replace(beside, file)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def moved_whole(root: str | os.PathLike) -> Iterator[Path]:
    """Yields a new folder below `root/.unfinished`, whose entries are moved into `root` once all is written.

    Where that fails, nothing of it is left; a killed run leaves `.unfinished`, with which `root` is no release. Raises
    `ValueError` where another run writes to `root`, or nobody may.
    """
    unfinished = Path(root) / UNFINISHED
    folder = unfinished / "new"
    try:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(alone(unfinished / "lock", root))
                shutil.rmtree(folder, ignore_errors=True)  # of a killed run
                folder.mkdir()
            except OSError as error:
                raise ValueError(
                    f"Cannot write to {root} ({error.strerror}): name a folder that you may write to."
                ) from error
            try:
                yield folder
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            for name in sorted(os.listdir(folder)):  # stopped in between, .unfinished stays and says so
                os.replace(folder / name, Path(root) / name)
            folder.rmdir()
    finally:
        if unfinished.exists():
            with contextlib.suppress(OSError):  # only an empty folder goes
                unfinished.rmdir()


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it comes from."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def is_no_room(error: BaseException) -> bool:
    """Whether a disk was too small for what was to be written."""
    return any(
        getattr(cause, "errno", None) in _NO_ROOM or _NO_ROOM_IN_WORDS.search(str(cause)) for cause in causes(error)
    )


def no_room(error: BaseException, places: Iterable[str | os.PathLike]) -> str:
    """The sentence of an error that `is_no_room`.

    Args:
        error: names the file, perhaps.
        places: where the run writes else; the one on the fullest disk is named.
    """
    names = [getattr(cause, "filename", None) for cause in causes(error)]
    places = [os.fspath(name) for name in names if isinstance(name, str)][:1] or [*places, tempfile.gettempdir()]
    free, place = min((_free(place), os.fspath(place)) for place in places)
    return f"{place} could not be written whole: there is no room on its disk, of which {free / 1e6:,.1f} MB are free."


def _free(place: str | os.PathLike) -> int:
    folder = Path(place).absolute()
    while not folder.is_dir():
        folder = folder.parent
    return shutil.disk_usage(folder).free
