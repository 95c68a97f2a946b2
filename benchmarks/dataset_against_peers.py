#!/usr/bin/env python
"""How fast is the dataset, beside the two usual ways to read the same files?

    python benchmarks/dataset_against_peers.py --pairs 50000

ours          load_dataset("affectnet_plus", data_dir=...)
imagefolder   load_dataset("imagefolder", data_dir=...), with all annotations in one train/metadata.jsonl beside the
              images. (With data_files={"train": ".../train/**"} instead of data_dir its reload takes a quarter.)
torch         a Dataset that lists annotations/ and parses one JSON per item, as public AffectNet+ code does. Its first
              index and its reload are that listing and nothing else, and it does not stream.

Writes a release of so many pairs into a temporary folder: some drawn faces under many names (hard links), annotations
of the released size and types, all different. Each reader sees the same files, in fresh processes, offline, with an
empty cache at first. Files just written come from memory: what is measured is the work, not the disk. But for "all
columns", a row is the decoded image, label and soft label. Ours and torch take turns, and the best run of each
counts. The goals are set for the default number of pairs on an otherwise idle machine.
"""

import argparse
import itertools
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import RESULTS, write_result

INDEX, PEAK, PRIVATE = "first index on one core (rows/s)", "its peak memory (MB)", "its peak private memory (MB)"
RELOAD, RELOAD_WITH_IMPORTS = "cached reload (s)", "cached reload with imports (s)"
RANDOM, RANDOM_ALL = "random access (rows/s)", "random access, all columns (rows/s)"
EPOCH, EPOCH_CPU = "shuffled epoch, 2 workers (rows/s)", "its CPU time (ms a row)"
FIRST_ROW, STREAM = "first streamed row (s)", "streaming (rows/s)"
READERS = ("ours", "larger", "imagefolder", "torch")  # larger: ours on a release of LARGER times the pairs
COLUMNS = ["image", "label", "soft_label"]
RANDOM_ROWS, STREAMED_ROWS, LARGER = 2000, 10_000, 4
clock = time.perf_counter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", metavar="N", type=int, default=50_000)
    parser.add_argument("--json", type=Path, default=RESULTS / "dataset_against_peers.json", help="for all figures")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)  # in the fresh processes
    args = parser.parse_args()
    if args.measure:
        return print(json.dumps(measure(*args.measure)))

    start = clock()
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), args.pairs)
        print(f"{args.pairs:,} pairs written in {clock() - start:.0f} s", flush=True)
        runs = [("index", reader) for reader in ("ours", *READERS)]
        runs += [("use", reader) for reader in (*("ours", "torch") * 3, "imagefolder")]
        runs += [("stream", reader) for reader in ("ours", "imagefolder")]
        runs = [(reader, run(task, reader, folder)) for task, reader in runs]
    if len(contents := {str(figures.pop("content")) for _, figures in runs if "content" in figures}) > 1:
        sys.exit(f"The readers delivered different rows: (count, sum of labels, of soft labels) is {contents}")

    best = {reader: best_of([figures for name, figures in runs if name == reader]) for reader in READERS}
    times = {peer: times_as_fast(best["ours"], best[peer]) for peer in ("imagefolder", "torch")}
    growth = best["larger"].get(PEAK, math.nan) / best["ours"].get(PEAK, math.nan)
    goals = [
        ("first index on one core, rows/s", best["ours"][INDEX], "at least", 18_000),
        ("cached reload, times as fast as imagefolder", times["imagefolder"][RELOAD], "at least", 500),
        ("shuffled epoch, times as fast as torch", times["torch"][EPOCH], "at least", 1),
        (f"peak memory with {LARGER} times the pairs, times as much", growth, "at most", 1.2),
    ]
    show(best, times)
    for what, value, limit, aim in goals:
        met = value >= aim if limit == "at least" else value <= aim
        print(f"{'met   ' if met else 'MISSED'}  {what}: {value:,.2f} (goal: {limit} {aim:,})")
    print(f"{clock() - start:.0f} s in all")
    report = {"pairs": args.pairs, "best": best, "times_as_fast_as": times, "goals": goals, "runs": runs}
    write_result(args.json, report)


def best_of(runs: list[dict]) -> dict:
    values = {name: [figures[name] for figures in runs if name in figures] for name in itertools.chain(*runs)}
    return {name: max(values[name]) if "rows/s" in name else min(values[name]) for name in values}


def times_as_fast(ours: dict, peer: dict) -> dict:
    names = [name for name in ours if name in peer and "MB" not in name]
    return {name: ours[name] / peer[name] if "rows/s" in name else peer[name] / ours[name] for name in names}


def show(best: dict, times: dict) -> None:
    def cell(value):
        return f"{'-' if value is None else f'{value:,.{0 if value >= 100 else 3}f}':>13}"

    print(f"\n{'':87}ours is so many times as fast as")
    print(f"{'':36}" + "".join(f"{name:>13}" for name in (*best, *times)))
    for name in best["ours"]:
        print(f"{name:36}" + "".join(cell(column.get(name)) for column in (*best.values(), *times.values())))
    print(f"larger: ours with {LARGER} times the pairs. torch's first index and reload only list the folder.\n")


def write_files(folder: Path, pairs: int) -> None:
    from affectnet_plus.synthetic import synthesize  # here, so that the fresh processes do not hold what drawing needs

    # Six links a pair are at most 6,000 a face; file systems allow some 65,000.
    synthesize(folder / "drawn", train=max(64, pairs // 1000), validation=0, image_size=224)
    faces = sorted((folder / "drawn").rglob("*.jpg"))
    rows = [json.loads(path.read_text()) for path in sorted((folder / "drawn").rglob("annotations/*.json"))]
    rows = [row for row in rows if row["subset"] is not None]  # those with one of the eight expressions
    ours, larger = (folder / name / "human_annotated/train_set" for name in ("ours", "larger"))
    peer = folder / "imagefolder/train"
    for new in (ours / "images", ours / "annotations", larger / "images", larger / "annotations", peer):
        new.mkdir(parents=True)
    rng = random.Random(0)
    with open(peer / "metadata.jsonl", "w") as metadata:
        for n in range(pairs):
            os.link(faces[n % len(faces)], ours / f"images/{n}.jpg")
            os.link(faces[n % len(faces)], peer / f"{n}.jpg")
            row = rows[n % len(rows)]
            row["meta-data"]["landmark-68"] = [rng.randrange(228) for _ in range(136)]
            (ours / f"annotations/{n}.json").write_text(json.dumps(row))
            named = {"file_name": f"{n}.jpg", "label": row["human-label"], "soft_label": row["soft-label"]}
            metadata.write(json.dumps({**named, "subset": row["subset"], **row["meta-data"]}) + "\n")
    for n in range(LARGER * pairs):
        os.link(ours / f"images/{n % pairs}.jpg", larger / f"images/{n}.jpg")
        os.link(ours / f"annotations/{n % pairs}.json", larger / f"annotations/{n}.json")


def run(task: str, reader: str, folder: str) -> dict:
    """The figures of `measure` in a process of its own, whose private memory is watched from here."""
    here, cache = Path(__file__).resolve(), f"{folder}/cache of {reader}"
    if task == "index":
        shutil.rmtree(cache, ignore_errors=True)
    path = os.pathsep.join(filter(None, (str(here.parents[1]), os.environ.get("PYTHONPATH"))))
    settings = {"HF_HOME": cache, "HF_DATASETS_CACHE": f"{cache}/datasets", "HF_HUB_OFFLINE": "1", "PYTHONPATH": path}
    command = [sys.executable, here, "--measure", task, reader, folder]
    private, process = 0.0, subprocess.Popen(command, env={**os.environ, **settings}, stdout=subprocess.PIPE, text=True)
    while process.poll() is None:
        private = max(private, memory(process.pid, "RssAnon") or 0)
        time.sleep(0.01)
    if process.returncode:
        sys.exit(f"{task} of {reader} failed, see above")
    figures = json.load(process.stdout)
    if PEAK in figures:
        figures[PRIVATE] = private
    shown = (f"{name} {value:,.5g}" for name, value in figures.items() if name != "content")
    print(f"{task:6} {reader:11}  {'; '.join(shown)}", flush=True)
    return figures


def memory(pid: int | str, key: str) -> float | None:
    """VmHWM, the peak of resident memory (`ru_maxrss`, but without the parent's), or RssAnon, the part of it that is
    no file's page, at this moment. In MB; None where there is no /proc or no such process."""
    try:
        return int(re.search(rf"{key}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]) / 1024
    except (OSError, TypeError):
        return None


def measure(task: str, reader: str, folder: str) -> dict:
    if task == "index" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    start = clock()
    load = loader(reader, folder)
    return {"index": first_index, "use": use, "stream": stream}[task](load, clock() - start)


def loader(reader: str, folder: str):
    """Imports what the reader needs, and returns what opens the files."""
    if reader == "torch":
        import torch.utils.data  # noqa: F401

        return lambda: JsonDataset(f"{folder}/ours/human_annotated/train_set")
    import datasets

    if reader != "imagefolder":
        import affectnet_plus  # noqa: F401

    datasets.disable_progress_bars()
    name = "imagefolder" if reader == "imagefolder" else "affectnet_plus"
    return lambda **options: datasets.load_dataset(name, data_dir=f"{folder}/{reader}", split="train", **options)


class JsonDataset:
    """Not derived from `torch.utils.data.Dataset`, which adds nothing, so that the other readers need no torch."""

    def __init__(self, folder: str):
        self.folder = folder
        self.names = sorted(os.listdir(f"{folder}/annotations"))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict:
        import PIL.Image

        name = self.names[index]
        with open(f"{self.folder}/annotations/{name}") as file:
            row = json.load(file)
        image = PIL.Image.open(f"{self.folder}/images/{name.removesuffix('.json')}.jpg")
        image.load()
        return {"image": image, "label": row["human-label"], "soft_label": row["soft-label"], **row["meta-data"]}


def first_index(load, imports: float) -> dict:
    start = clock()
    rows = len(load())
    figures = {INDEX: rows / (clock() - start)}
    return {**figures, PEAK: peak} if (peak := memory("self", "VmHWM")) else figures


def use(load, imports: float) -> dict:
    start = clock()
    dataset = load()
    seconds = clock() - start
    figures = {RELOAD: seconds, RELOAD_WITH_IMPORTS: imports + seconds}
    selected = dataset.select_columns(COLUMNS) if hasattr(dataset, "select_columns") else dataset
    for name, rows in ((RANDOM, selected), (RANDOM_ALL, dataset)):
        indices = random.Random(0).choices(range(len(rows)), k=RANDOM_ROWS)
        start = clock()
        for index in indices:
            rows[index]
        figures[name] = RANDOM_ROWS / (clock() - start)

    from torch.utils.data import DataLoader

    start, cpu = clock(), sum(os.times()[:4])  # user and system, own and of workers that have ended
    rows = labels = soft_labels = 0
    for batch in DataLoader(selected, batch_size=64, shuffle=True, num_workers=2, collate_fn=collate):
        rows += len(batch["pixel_values"])
        labels += int(batch["label"].sum())
        soft_labels += int((batch["soft_label"] * 10_000).round().sum())
    figures |= {EPOCH: rows / (clock() - start), EPOCH_CPU: (sum(os.times()[:4]) - cpu) / rows * 1000}
    return {**figures, "content": (rows, labels, soft_labels)}


def collate(rows: list[dict]) -> dict:
    import numpy as np
    import torch

    pixels = torch.from_numpy(np.stack([np.asarray(row["image"]) for row in rows]))  # (n, height, width, 3)
    return {
        "pixel_values": pixels.permute(0, 3, 1, 2),  # (n, 3, height, width), uint8
        "label": torch.tensor([row["label"] for row in rows]),
        "soft_label": torch.tensor([row["soft_label"] for row in rows]),
    }


def stream(load, imports: float) -> dict:
    import torch.utils.data  # noqa: F401  (`datasets` imports it when it first streams)

    start = clock()
    rows = iter(load(streaming=True).select_columns(COLUMNS))
    next(rows)
    figures = {FIRST_ROW: clock() - start}
    start = clock()
    count = sum(1 for _ in itertools.islice(rows, STREAMED_ROWS))
    return {**figures, STREAM: count / (clock() - start)}


if __name__ == "__main__":
    main()
