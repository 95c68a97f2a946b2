"""What `on_error="skip"` leaves out of a table: noted beside it while it is built, and told whenever it is loaded."""

import glob
import json
import os
from collections.abc import Iterable

from .rows import Damage


def path(folder: str) -> str:
    """The file of a whole table, with a line for each row that it lacks; there is none where it lacks none."""
    return os.path.join(folder, "skipped.jsonl")


def begin(folder: str) -> None:
    """Removes what a killed build has left."""
    for leftover in glob.glob(os.path.join(glob.escape(folder), "skipped*")):
        os.remove(leftover)


def note(folder: str, split: str, damages: list[Damage]) -> None:
    """Adds rows, to a file for each process, as several build one table."""
    with open(os.path.join(folder, f"skipped-{os.getpid()}.jsonl"), "ab") as file:
        for damage in damages:
            line = {"split": split, "path": damage.path, "problem": damage.what, "kind": damage.kind}
            file.write(json.dumps(line).encode() + b"\n")


def finish(folder: str) -> None:
    """Makes one file of those of all processes."""
    if parts := sorted(glob.glob(os.path.join(glob.escape(folder), "skipped-*"))):
        with open(path(folder), "wb") as whole:
            for part in parts:
                with open(part, "rb") as file:
                    whole.write(file.read())
                os.remove(part)


def read(folder: str) -> list[dict]:
    """All rows that a whole table lacks, each with its split, path, problem and kind."""
    if not os.path.exists(path(folder)):
        return []
    with open(path(folder), "rb") as file:
        return [json.loads(line) for line in file]


def summary(where: str, problems: Iterable[str], count: int) -> str:
    """One sentence with the first three problems."""
    first = "; ".join(problem for problem, _ in zip(problems, range(3), strict=False))
    return f"{count} broken row(s) of {where} left out: {first}{' ...' if count > 3 else ''}."
