#!/usr/bin/env python
"""Is an EBC on shared backbones (--share_backbones, ours) as good as the paper's, and how much sooner is it done?

    python benchmarks/shared_backbones.py RUNS --seed 1

On a synthetic release, all from one warm start: networks for each expression, as the paper has it; shared backbones for
as many epochs (half the samples), and for as many samples. What is done already is not done again. Seconds are those of
the processor, so that other work beside hardly counts. How long a face takes is measured on backbones of full size with
random weights, EBC and AU experts fused, 224 px, one thread, in turn in one process.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from record import RESULTS, write_result
from runner import Runner
from scipy.special import expit
from soft_labels import data_arguments, data_for, figures, with_truth
from torch.utils.data import DataLoader
from transformers import AutoModelForImageClassification

from affectnet_plus.modeling import AUConfig, EBCConfig, FusedConfig, FusedForImageClassification
from affectnet_plus.training.faces import FaceDataset, Split, load_split
from affectnet_plus.training.loop import predict

WARM_START, EXPERTS, ONE_STEP = 16, 2, 0.001  # epochs
RECIPE = ["--image_size", 48, "--per_image_standardization", "--per_device_train_batch_size", 32]
RECIPE += ["--backbones", "test_resnet", "test_resnet"]
PRIOR = ["--prior", "validation"]  # the rows that are measured
SHARED = ["--share_backbones"]
MODES = {"own": ([], EXPERTS), "shared": (SHARED, EXPERTS), "shared_as_long": (SHARED, 2 * EXPERTS)}  # flags, epochs


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="for the release and runs; that of soft_labels.py will do")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3, help="of timing: the median of so many is reported")
    args = parser.parse_args()
    args.dataset_name, args.jobs, args.workers, args.mixed_precision = None, 1, 1, "no"
    folder = args.folder / f"synthetic-{args.seed}"
    data = data_for(args, folder)
    run = Runner(args, {}, data, folder / "shared_backbones")
    rows = {name: load_split(data_arguments(data), name, with_soft_labels=True) for name in ("train", "validation")}
    still = [*SHARED, "--eval_strategy", "no"]
    start = train(run, "start", [*still, "--warm_start_epochs", WARM_START], ONE_STEP)
    one_step = train(run, "one_step", [*still, "--init_from", start], ONE_STEP)
    result = {"seed": args.seed, "rows": {name: len(split) for name, split in rows.items()}, "recipe": RECIPE}
    result |= {"warm_start": {"epochs": WARM_START, "seconds": seconds(start)}, "modes": {}}
    result |= {"seconds_of_one_step": seconds(one_step), "rounds": args.rounds}
    evaluation = with_truth(rows["validation"], data)
    for mode, (flags, epochs) in MODES.items():
        path = train(run, mode, [*flags, *PRIOR, "--init_from", start], epochs)
        of_mode = {"epochs": epochs, "samples": samples(path), "seconds": seconds(path)}
        result["modes"][mode] = of_mode | measured(path, evaluation)
    result["speed"] = speed(args.rounds)
    write_result(RESULTS / "shared_backbones.json", result)
    print(json.dumps(result, indent=1))


def train(run: Runner, mode: str, flags: list, epochs: float) -> Path:
    target = run.folder / mode / "ebc"
    before = cpu_seconds()
    run.train("train_ebc.py", target, [*RECIPE, *flags, "--num_train_epochs", epochs, "--seed", run.seed])
    taken = target.with_name("ebc.seconds")
    if not taken.exists():
        taken.write_text(str(cpu_seconds() - before))
    return target


def cpu_seconds() -> float:
    """Of all processes that have ended, in seconds of a core."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime


def seconds(folder: Path) -> float:
    """`cpu_seconds` of the command that has written a folder."""
    return round(float(folder.with_name("ebc.seconds").read_text()), 1)


def samples(folder: Path) -> int:
    """Faces drawn by all samplers together; each goes through every backbone once."""
    config = json.loads((folder / "config.json").read_text())
    draws = [record["sampler"]["draws"] for record in config["training"].values()]
    return draws[0] if config["shared_backbones"] else sum(draws)


def measured(folder: Path, evaluation: Split) -> dict[str, float]:
    model = AutoModelForImageClassification.from_pretrained(folder)
    faces = DataLoader(FaceDataset(evaluation, model.image_processor), 64)
    return figures(expit(predict(Accelerator(cpu=True), model, faces)["logits"]), evaluation)


@torch.no_grad()
def speed(rounds: int, batch_size: int = 2) -> dict:
    """Seconds a face of the paper's networks, EBC and AU experts fused, 224 px, one thread."""
    torch.set_num_threads(1)
    networks = {
        name: FusedForImageClassification(
            FusedConfig(ebc=EBCConfig(shared_backbones=shared), au=AUConfig(shared_backbones=shared))
        ).eval()
        for name, shared in (("own", False), ("shared", True))
    }
    images, taken = torch.randn(batch_size, 3, 224, 224), {name: [] for name in networks}
    for round_number in range(-1, rounds):  # one to warm up
        for name, network in networks.items():
            begin = time.process_time()
            network(images)
            if round_number >= 0:
                taken[name].append((time.process_time() - begin) / batch_size)
    ratios = np.divide(taken["own"], taken["shared"])
    return {
        "seconds_a_face": {name: round(float(np.median(values)), 4) for name, values in taken.items()},
        "million_parameters": {
            name: round(sum(weights.numel() for weights in network.parameters()) / 1e6, 1)
            for name, network in networks.items()
        },
        "times_as_fast": {"median": round(float(np.median(ratios)), 2), "from": round(float(ratios.min()), 2)},
    }


if __name__ == "__main__":
    main()
