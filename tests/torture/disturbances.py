"""Kills, interrupts, full disks and second runs, each at a random moment; then the same command again."""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .commands import Command, Ended, begun, described, end_of, new_folder, session, wait_until

DONE_BEFORE = re.compile(r"already holds|is there already")
ANOTHER = re.compile(r"Another run is writing .*: wait for its end")
_HALF = (".writing*", ".checkpoint-*.writing", "*.unfinished.lock")


class Unbroken:
    """What each command gives undisturbed, and how long that takes."""

    def __init__(self, folder: Path):
        self.folder, self.known = folder, {}

    def of(self, command: Command) -> tuple[dict, float, int]:
        """Results, seconds, bytes written."""
        if command.name not in self.known:
            folder = new_folder(self.folder / f"unbroken-{command.name}")
            start = time.monotonic()
            run = command.start(folder)
            wait_until(lambda: begun(run), 60)
            start = time.monotonic()
            end = end_of(run)
            assert end.status == 0 and not end.wrong, f"{command.name}: {end}"
            size = sum(path.stat().st_size for path in (folder / "out").rglob("*") if path.is_file())
            self.known[command.name] = command.found(folder), time.monotonic() - start, size
        return self.known[command.name]


def finished(command: Command, folder: Path, unbroken: Unbroken) -> str:
    """What is wrong when the same command is given again."""
    expected = unbroken.of(command)[0]
    end = end_of(command.start(folder, go_on=True))
    if "delete the folder and start again" in end.error:  # stopped between two moves
        shutil.rmtree(folder / "out")
        end = end_of(command.start(folder, go_on=True))
    if end.wrong or (end.status and not DONE_BEFORE.search(end.error)):
        return f"again: {end.wrong or end.error}"
    results = command.found(folder)
    return "" if results == expected else described(results, expected)


def kill(command: Command, folder: Path, unbroken: Unbroken, rng: random.Random) -> str:
    run = command.start(folder)
    wait_until(lambda: begun(run), 60)
    time.sleep(rng.random() * unbroken.of(command)[1])
    if run.poll() is None:
        if rng.random() < 0.5:
            run.kill()
        else:  # its children have to see that it is gone
            os.kill(run.pid, signal.SIGKILL)
            if not wait_until(lambda: not session(run.pid), 15):
                left = session(run.pid)
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
                return f"leaves processes: {left}"
    return finished(command, folder, unbroken)


def interrupt(command: Command, folder: Path, unbroken: Unbroken, rng: random.Random) -> str:
    run = command.start(folder)
    wait_until(lambda: begun(run), 60)
    time.sleep(rng.random() * unbroken.of(command)[1])
    if run.poll() is None:
        os.killpg(run.pid, signal.SIGINT)
    end = end_of(run, 60)
    if end.wrong or end.status not in (0, 130) or (end.status == 130 and ": interrupted. " not in end.error):
        return f"status {end.status}: {end.wrong or end.error}"
    return finished(command, folder, unbroken)


def second(command: Command, folder: Path, unbroken: Unbroken, rng: random.Random) -> str:
    first = command.start(folder)
    wait_until(lambda: begun(first), 60)
    time.sleep(rng.random() * 0.5 * unbroken.of(command)[1])
    other = command.start(folder, go_on=rng.random() < 0.5)
    for end in (end_of(first), end_of(other)):
        refused = end.status == 2 and (ANOTHER.search(end.error) or DONE_BEFORE.search(end.error))
        if end.wrong or not (end.status == 0 or refused or _finished_before(end)):
            return f"status {end.status}: {end.wrong or end.error}"
    results, expected = command.found(folder), unbroken.of(command)[0]
    return "" if results == expected else described(results, expected)


def _finished_before(end: Ended) -> bool:
    return end.status == 2 and "holds a finished model" in end.error or "holds finished experts" in end.error


@contextlib.contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[Callable[[], object] | None]:
    """A new disk at `folder`; yields what gives it more room, or None where none can be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        yield None
        return
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=512m", str(folder)], check=True)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def full_disk(command: Command, folder: Path, unbroken: Unbroken, rng: random.Random) -> str | None:
    """None where no disk can be mounted."""
    part = rng.choice(["out", "out", "cache"])
    needed = unbroken.of(command)[2] / 1024
    kib = max(4, int(rng.uniform(0.02, 1.1) * needed)) if part == "out" else rng.choice([4, 16, 64])
    with small_disk(folder / part, kib) as grow:
        if grow is None:
            return None
        end = end_of(command.start(folder))
        said = end.status == 2 and "there is no room on its disk" in end.error
        if end.wrong or not (said or end.status == 0):
            return f"{kib} KiB for {part}/, status {end.status}: {end.wrong or end.error}"
        if halves := [path.name for pattern in _HALF for path in (folder / "out").rglob(pattern)]:
            return f"{kib} KiB for {part}/: leaves {halves}"
        grow()
        return finished(command, folder, unbroken)


DISTURBANCES = {
    "kills": (kill, "killed by SIGKILL, the same command finishes with what an unbroken run gives"),
    "interrupts": (interrupt, "Ctrl-C: one line, status 130, no process left; the same command finishes"),
    "full_disk": (full_disk, "a full disk: one sentence, status 2, no half left; with room the same command finishes"),
    "two_at_once": (second, "a second run in one folder: one sentence, status 2; the first finishes"),
}
