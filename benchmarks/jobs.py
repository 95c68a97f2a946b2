#!/usr/bin/env python
"""How much faster do two processes train eight experts that share them out (--jobs expressions), than one does with two
threads?

    python benchmarks/jobs.py

Small networks, the synthetic release, two cores. The commands take turns, each in an empty folder; figures are ratios
in one turn. A command is timed whole, and from when it begins to plan what it trains: imports and data lie before that.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from record import RESULTS, write_result
from runner import TRAINING

from affectnet_plus.synthetic import synthesize

SMALL = ["--backbones", "test_resnet", "--image_size", "48", "--per_device_train_batch_size", "32", "--use_cpu"]
SMALL += ["--warm_start_epochs", "0", "--eval_strategy", "no", "--dataloader_num_workers", "0"]
COMMANDS = {"one process": (1, 2, []), "jobs": (2, 1, ["--jobs", "expressions"])}  # processes, threads of each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", metavar="N", type=int, default=4000, help="faces")
    parser.add_argument("--epochs", type=float, default=8, help="of each expert")
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    turns = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_DATASETS_CACHE"] = f"{folder}/cache"
        synthesize(f"{folder}/AffectNet+", args.train, 400, image_size=64)
        flags = [*SMALL, "--data_dir", f"{folder}/AffectNet+", "--num_train_epochs", args.epochs]
        timed([*flags, "--expressions", "sad"], Path(folder) / "first", *COMMANDS["one process"])  # fills the cache
        for turn in range(args.turns):
            turns.append({name: timed(flags, Path(folder) / f"{turn}{name}", *how) for name, how in COMMANDS.items()})
            print(json.dumps(turns[-1]), flush=True)
    result = {"train": args.train, "epochs": args.epochs, "seconds": turns, "times_as_fast": {}}
    for part in ("whole", "training"):
        ratios = [turn["one process"][part] / turn["jobs"][part] for turn in turns]
        result["times_as_fast"][part] = {"median": round(float(np.median(ratios)), 2), "lowest": round(min(ratios), 2)}
    write_result(RESULTS / "jobs.json", result)
    print(json.dumps(result["times_as_fast"], indent=1))


def timed(flags: list, output_dir: Path, processes: int, threads: int, jobs: list) -> dict[str, float]:
    """Seconds of the whole command, and of what it does once there is its folder."""
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes, TRAINING / "train_ebc.py"]
    words = [sys.executable, *map(str, [*words, *flags, *jobs, "--output_dir", output_dir])]
    begin = time.perf_counter()
    environment, silent = os.environ | {"OMP_NUM_THREADS": str(threads)}, subprocess.DEVNULL
    run = subprocess.Popen(words, env=environment, stdout=silent, stderr=subprocess.PIPE, text=True)
    while not output_dir.exists() and run.poll() is None:
        time.sleep(0.01)
    planned = time.perf_counter()
    error = run.communicate()[1]
    if run.returncode:
        sys.exit(error)
    end = time.perf_counter()
    return {"whole": round(end - begin, 1), "training": round(end - planned, 1)}


if __name__ == "__main__":
    main()
