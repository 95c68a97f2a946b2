#!/usr/bin/env python
"""What do the experts of the paper's size cost on AffectNet, and is a stream as fast as rows by number?

    python benchmarks/scaling.py

Operations of a face through each network are counted (multiplications and additions of convolutions and matrix
products, a forward pass; training is three). What that means in time follows from a rate, operations a second: on this
machine measured, with the model's error where it can be checked against `training_speed.json` and
`labelling_speed.json`; on a GPU assumed, so that those hours are an estimate.

Rows a second: a release exported to Parquet, JPEGs of 224 pixels, image decoded, label and soft label, by loaders of 2
workers: rows by number in random order, and streamed; in turns, best of three.
"""

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path

import torch
from datasets import load_dataset
from record import RESULTS, write_result
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from affectnet_plus.modeling import AUConfig, EBCConfig, create_backbone
from affectnet_plus.releases.export import export
from affectnet_plus.synthetic import synthesize
from affectnet_plus.training.arguments import RECIPES

ROWS = 287_651  # of AffectNet's training split with one of the eight expressions
LABELLED = 414_799  # pairs of AffectNet+'s training split
GPU_RATE = 60e12  # operations a second, assumed: convolutional networks in bf16 on a GPU of the A100's kind
COLUMNS = ["image", "label", "soft_label"]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    size, epochs = EBCConfig().image_size, RECIPES
    operations = {name: forward_operations(name, size) for name in (*EBCConfig().backbones, AUConfig().backbone)}
    of_ebc = sum(operations[name] for name in EBCConfig().backbones)
    of_au = operations[AUConfig().backbone]
    warm, own = (epochs[kind]["pretrained"]["num_train_epochs"] for kind in ("warm start", "experts"))
    draws = {"warm start": warm * ROWS, "experts": own * 2 * ROWS}  # a draw passes all backbones of an expression
    work = {
        "EBC": 3 * of_ebc * sum(draws.values()),
        "AU experts": 3 * of_au * sum(draws.values()),
        "labels of all pairs": 8 * (of_ebc + of_au) * LABELLED,
    }
    hours = {what: {gpus: total / GPU_RATE / gpus / 3600 for gpus in (1, 8, 64)} for what, total in work.items()}
    result = {
        "rows": ROWS, "labelled": LABELLED, "image_size": size, "draws": draws, "gpu_rate_assumed": GPU_RATE,
        "forward_operations": operations, "hours_estimated": hours, "checked": checked(operations),
        "rows_a_second": rows_a_second(),
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    write_result(RESULTS / "scaling.json", result)


def forward_operations(name: str, size: int) -> int:
    """Of one face."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        create_backbone(name, 1, size).eval()(torch.empty(1, 3, size, size))
    return counter.get_total_flops()


def checked(operations: dict[str, int]) -> dict:
    """This machine's rate in training ResNet-50, and how near it comes to what labelling by an EBC took."""
    training, labelling = (RESULTS / f"{name}_speed.json" for name in ("training", "labelling"))
    if not (training.exists() and labelling.exists()):
        return {}
    large = json.loads(training.read_text())["large"]
    rate = large["medians"]["bare"] * 3 * operations[large["network"]]
    measured = json.loads(labelling.read_text())["faces a second"]["label.py"]
    expected = rate / (8 * sum(operations[name] for name in EBCConfig().backbones))
    return {"rate": rate, "labelling expected": expected, "labelling measured": measured}


def rows_a_second() -> dict[str, float]:
    best: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        synthesize(Path(folder) / "release", train=2000, validation=40, image_size=224)
        export(Path(folder) / "release", Path(folder) / "faces", rows_per_file=200)
        for _ in range(3):
            for how in ("by number", "streamed"):
                rows = load_dataset(str(Path(folder) / "faces"), split="train", streaming=how == "streamed")
                more = {"shuffle": True} if how == "by number" else {}
                loader = DataLoader(
                    rows.select_columns(COLUMNS), 32, num_workers=2, collate_fn=len, **more
                )  # decoded in the workers
                batches = iter(loader)
                next(batches)  # workers have started
                start = time.perf_counter()
                count = sum(itertools.chain(batches))
                best[how] = max(best.get(how, 0), count / (time.perf_counter() - start))
    return best


if __name__ == "__main__":
    main()
