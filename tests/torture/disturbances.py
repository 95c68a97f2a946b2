"""Kills, interrupts, full disks and second runs, each at a random moment; then the same command again."""

import os
import random
import re
import shutil
import signal
import subprocess
import time
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


def full_disk(command: Command, folder: Path, unbroken: Unbroken, rng: random.Random) -> str | None:
    """None where no disk can be mounted."""
    size = unbroken.of(command)[2]
    part = rng.choice(["out", "out", "cache"])
    (folder / part).mkdir()
    kib = max(4, int(rng.uniform(0.02, 1.1) * size / 1024)) if part == "out" else rng.choice([4, 16, 64])
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", folder / part], capture_output=True
    )
    if mounted.returncode:
        return None
    try:
        end = end_of(command.start(folder))
        if (
            end.wrong
            or end.status not in (0, 2)
            or (end.status == 2 and "there is no room on its disk" not in end.error)
        ):
            return f"{kib} KiB for {part}/, status {end.status}: {end.wrong or end.error}"
        if halves := [path.name for pattern in _HALF for path in (folder / "out").rglob(pattern)]:
            return f"{kib} KiB for {part}/: leaves {halves}"
        subprocess.run(["mount", "-o", "remount,size=512m", folder / part], check=True)
        return finished(command, folder, unbroken)
    finally:
        subprocess.run(["umount", "--lazy", folder / part], check=True)


DISTURBANCES = {
    "kills": (kill, "killed by SIGKILL, the same command finishes with what an unbroken run gives"),
    "interrupts": (interrupt, "Ctrl-C: one line, status 130, no process left; the same command finishes"),
    "full_disk": (full_disk, "a full disk: one sentence, status 2, no half left; with room the same command finishes"),
    "two_at_once": (second, "a second run in one folder: one sentence, status 2; the first finishes"),
}
