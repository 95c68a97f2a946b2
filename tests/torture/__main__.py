"""The table of promises, tries and failures."""

import argparse
import itertools
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

from .commands import commands, new_folder, small_inputs  # noqa: E402
from .disturbances import DISTURBANCES, Unbroken  # noqa: E402
from .files import MUTATIONS, mutate, stream  # noqa: E402

PARTS = [*DISTURBANCES, *MUTATIONS, "stream"]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="torture", description=__doc__)
    parser.add_argument("parts", metavar="PART", nargs="*", help=f"{', '.join(PARTS)}, or a command's name (all)")
    parser.add_argument("--minutes", type=float, default=50, help="in all, shared by the parts (50)")
    parser.add_argument("--seed", type=int, help="(another one each time)")
    args = parser.parse_args(argv)
    names = [command.name for command in commands()]
    if unknown := [part for part in args.parts if part not in (*PARTS, *names)]:
        parser.error(f"no part {unknown[0]}: there are {', '.join((*PARTS, *names))}")
    seed = random.randrange(10**6) if args.seed is None else args.seed
    parts = [part for part in PARTS if part in args.parts] or PARTS
    some = [command for command in commands() if command.name in args.parts] or commands()
    print(f"Seed {seed}", flush=True)
    begin, rows, failures = time.monotonic(), [], []
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    try:
        small_inputs(new_folder(folder / "inputs"))
        unbroken = Unbroken(folder)
        for place, part in enumerate(parts):
            left = args.minutes * 60 - (time.monotonic() - begin)
            until = time.monotonic() + max(0, left) / (len(parts) - place)
            rng, tries, failed = random.Random(f"{seed} {part}"), 0, 0
            for number in itertools.count():
                if part in DISTURBANCES:
                    try_it, promise = DISTURBANCES[part]
                    command = some[number % len(some)]
                    what, wrong = command.name, try_it(command, new_folder(folder / "run"), unbroken, rng)
                elif part == "stream":
                    promise = "2,000 streamed images take no more memory than 500"
                    what, wrong = part, stream(new_folder(folder / "run"))
                else:
                    promise = (
                        f"{MUTATIONS[part]} with random damage: rows or one sentence; nothing run or written by it"
                    )
                    what, wrong = part, mutate(part, folder, new_folder(folder / "run"), rng)
                if wrong is None:
                    promise += " (not tried: no disk can be mounted here)"
                    break
                tries += 1
                if wrong:
                    failed += 1
                    failures.append(f"{part}, try {number + 1}, {what}: {wrong}")
                    print(*failures[-1:] if failed <= 8 else (), sep="\n", end="\n" * (failed <= 8), flush=True)
                if time.monotonic() > until or part == "stream":
                    break
            rows.append((part, promise, tries, failed))
            print(f"{part:12} {tries:6} tries {failed:4} failures   {promise}", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\n| part | promise | tries | failures |\n|---|---|---|---|\n{chr(10).join(map(_row, rows))}")
    return 1 if failures else 0


def _row(cells: tuple) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    sys.exit(main())
