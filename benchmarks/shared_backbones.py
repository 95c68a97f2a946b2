#!/usr/bin/env python
"""Are experts on shared backbones (--share_backbones, ours) as good as a network for each expression, and how much
sooner are they trained and done with a face?

    python benchmarks/shared_backbones.py RUNS --seed 1

On a synthetic release, EBC and AU experts fused by label.py, all from one warm start: a network for each expression, as
the paper has it; shared backbones for as many epochs (half the faces), and for as many faces; and without a warm start,
for a fifth of all faces that the first of them have seen. What is done already is not done again. How long a face takes
is measured on backbones of full size with random weights, 224 px, on the CPU, in turn in one process.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from record import RESULTS, write_result
from runner import Runner
from soft_labels import data_arguments, data_for, figures, with_truth

from affectnet_plus.modeling import AUConfig, EBCConfig, FusedConfig, FusedForImageClassification
from affectnet_plus.training.faces import Split, load_split, read_soft_labels

WARM_START, EXPERTS = 16, 2  # epochs
RECIPE = ["--image_size", 48, "--per_image_standardization", "--per_device_train_batch_size", 32]
KINDS = {"ebc": ["--backbones", "test_resnet", "test_resnet"], "au": ["--backbone", "test_resnet"]}
SHARED = ["--share_backbones"]
COLD = [*SHARED, "--warm_start_epochs", 0, "--learning_rate", 4e-3]  # that of warm starts
MODES = {  # flags, epochs of experts
    "own": ([], EXPERTS),
    "shared": (SHARED, EXPERTS),
    "shared_as_long": (SHARED, 2 * EXPERTS),
    "shared_cold": (COLD, (WARM_START + 2 * EXPERTS) / 5),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="for the release, runs and labels; that of soft_labels.py will do")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3, help="of timing: the median of so many is reported")
    args = parser.parse_args()
    args.dataset_name, args.jobs, args.workers, args.mixed_precision = None, 1, 1, "no"
    folder = args.folder / f"synthetic-{args.seed}"
    data = data_for(args, folder)
    run = Runner(args, {}, data, folder / "shared_backbones")
    splits = [load_split(data_arguments(data), name, with_soft_labels=True) for name in ("train", "validation")]
    start = train(run, "start", "ebc", [*SHARED, "--warm_start_epochs", WARM_START, "--eval_strategy", "no"], 0.001)
    result = {"seed": args.seed, "rows": {split.name: len(split) for split in splits}, "recipe": RECIPE, **KINDS}
    result |= {"warm_start": {"epochs": WARM_START, "seconds": seconds(start)}, "modes": {}}
    for mode, (flags, epochs) in MODES.items():
        result["modes"][mode] = measure(run, mode, flags, epochs, start, with_truth(splits[1], data))
    result["speed"] = speed(args.rounds)
    write_result(RESULTS / "shared_backbones.json", result)
    print(json.dumps(result, indent=1))


def train(run: Runner, mode: str, kind: str, flags: list, epochs: float) -> Path:
    target = run.folder / mode / kind
    units = ["--au_labels", Path(run.data[1]) / "ground_truth.parquet"] if kind == "au" else []
    flags = [*RECIPE, *KINDS[kind], *units, *flags, "--num_train_epochs", epochs, "--seed", run.seed]
    run.train(f"train_{kind}.py", target, flags)
    return target


def measure(run: Runner, mode: str, flags: list, epochs: float, start: Path, evaluation: Split) -> dict:
    """Figures of the EBC alone, and fused with the AU experts; epochs, faces and seconds without the warm start."""
    flags = flags if flags is COLD else [*flags, "--init_from", start]
    kinds = {kind: train(run, mode, kind, flags, epochs) for kind in KINDS}
    labels = run.label(mode, kinds, ["--splits", "validation", "--prior", "validation"])
    return {
        "epochs": epochs,
        "warm_start": flags is not COLD,
        "faces": {kind: faces(path) for kind, path in kinds.items()},
        "seconds": {kind: seconds(path) for kind, path in kinds.items()},
        "seconds_of_labelling": seconds(labels),
        "ebc": figures(read_soft_labels(labels, evaluation, "ebc"), evaluation),
        "fused": figures(read_soft_labels(labels, evaluation), evaluation),
    }


def faces(folder: Path) -> int:
    """Drawn in training, each of which every backbone has seen once."""
    config = json.loads((folder / "config.json").read_text())
    draws = [record["sampler"]["draws"] for record in config["training"].values()]
    return draws[0] if config["shared_backbones"] else sum(draws)


def seconds(folder: Path) -> float:
    """That the command took which has written a folder."""
    return round(60 * float(folder.with_name(f"{folder.name}.log").read_text().rpartition("minutes: ")[2]), 1)


@torch.no_grad()
def speed(rounds: int, batch_size: int = 4) -> dict:
    """Seconds a face of the paper's networks, fused, 224 px."""
    networks = {
        name: FusedForImageClassification(
            FusedConfig(ebc=EBCConfig(shared_backbones=shared), au=AUConfig(shared_backbones=shared))
        ).eval()
        for name, shared in (("own", False), ("shared", True))
    }
    images, taken = torch.randn(batch_size, 3, 224, 224), {name: [] for name in networks}
    for round_number in range(-1, rounds):  # one to warm up
        for name, network in networks.items():
            begin = time.perf_counter()
            network(images)
            if round_number >= 0:
                taken[name].append((time.perf_counter() - begin) / batch_size)
    ratios = np.divide(taken["own"], taken["shared"])
    return {
        "seconds_a_face": {name: round(float(np.median(values)), 4) for name, values in taken.items()},
        "million_parameters": {
            name: round(sum(weights.numel() for weights in network.parameters()) / 1e6, 1)
            for name, network in networks.items()
        },
        "times_as_fast": {"median": round(float(np.median(ratios)), 2), "from": round(float(ratios.min()), 2)},
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    main()
