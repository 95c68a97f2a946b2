#!/usr/bin/env python
"""How fast is a release read from the archives it is downloaded as, beside the same release as files?

    python benchmarks/archives.py --pairs 50000

Writes a release as `benchmarks/dataset_against_peers.py` does, and a zip of it (deflated, as zips usually are). Each is
read in fresh processes on one core with an empty cache: `load_dataset`, then `affectnet-plus export`. Files and zip
take turns, three times, and the best of each counts. Peak memory is that of loading, also with four times the pairs.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from dataset_against_peers import write_files
from record import RESULTS, write_result

_LOAD = """
import resource, sys, time
import datasets, affectnet_plus
datasets.disable_progress_bars()
start = time.perf_counter()
rows = datasets.load_dataset("affectnet_plus", data_dir=sys.argv[1], split="train")
print(len(rows), time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
TURNS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", metavar="N", type=int, default=50_000)
    parser.add_argument("--json", type=Path, default=RESULTS / "archives.json", help="for all figures")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), args.pairs)
        small, large = (places(Path(folder), name) for name in ("ours", "larger"))
        figures = {kind: {"index (rows/s)": 0.0, "export (s)": float("inf")} for kind in small}
        for _ in range(TURNS):
            for kind, place in small.items():
                count, seconds, megabytes = load(place)
                figures[kind]["rows"] = count
                figures[kind]["index (rows/s)"] = max(figures[kind]["index (rows/s)"], count / seconds)
                figures[kind]["peak memory (MB)"] = megabytes
                figures[kind]["export (s)"] = min(figures[kind]["export (s)"], export(place))
        for kind, place in large.items():
            figures[kind]["peak memory, 4 times the pairs (MB)"] = load(place)[2]
    goals = {
        "first index, times as fast as from files (goal: 0.7)": figures["zip"]["index (rows/s)"]
        / figures["files"]["index (rows/s)"],
        "export, times as long as from files (goal: 1)": figures["zip"]["export (s)"] / figures["files"]["export (s)"],
        "memory with 4 times the pairs, times as much (goal: 1.2)": figures["zip"][
            "peak memory, 4 times the pairs (MB)"
        ]
        / figures["zip"]["peak memory (MB)"],
    }
    for kind, found in figures.items():
        print(kind, {name: round(value, 1) for name, value in found.items()})
    for name, value in goals.items():
        print(f"{name}: {value:.2f}")
    write_result(args.json, {"pairs": args.pairs, "figures": figures, "goals": goals})


def places(folder: Path, name: str) -> dict[str, Path]:
    """A release as files, and as a zip of them."""
    archive = folder / f"{name}.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted((folder / name).rglob("*")):
            file.write(path, path.relative_to(folder))
    return {"files": folder / name, "zip": archive}


def fresh(command: list[str], folder: str) -> str:
    environment = {**os.environ, "HF_DATASETS_CACHE": folder, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def load(place: Path) -> tuple[int, float, float]:
    with tempfile.TemporaryDirectory(dir=place.parent) as cache:
        count, seconds, megabytes = fresh([sys.executable, "-c", _LOAD, str(place)], cache).split()
    return int(count), float(seconds), float(megabytes)


def export(place: Path) -> float:
    with tempfile.TemporaryDirectory(dir=place.parent) as cache:
        start, out = time.perf_counter(), os.path.join(cache, "out")
        fresh([shutil.which("affectnet-plus") or "affectnet-plus", "export", str(place), out, "--num_proc", "1"], cache)
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
