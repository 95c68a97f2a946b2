#!/usr/bin/env python
"""How many faces a second does a network learn from, loader included, beside timm's train.py and the bare step?

    python benchmarks/training_speed.py --timm_script pytorch-image-models/train.py

ours          training/train_soft_fer.py --target hard, from JPEGs of 224 pixels
cached        the same with --cache_images memory, from the second epoch on
timm          timm's own train.py (its repository has it, its package not), by its defaults
example       as transformers' image-classification example without Trainer does it, written anew here: `imagefolder`,
              torchvision's RandomResizedCrop, flip and normalisation of PIL images, a loader without workers
bare          the step alone, on tensors in memory

All train the same timm network on the same faces in batches of the same size by AdamW on the CPU, in fresh processes
that take turns. Commands run for fewer and for more epochs, and the difference counts, so that starting does not.
Without --timm_script timm is left out.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import RESULTS, write_result

KINDS = {  # network, side, batch, epochs (fewer, more), pairs drawn
    "small": ("test_resnet", 64, 64, (1, 5), 2400),
    "large": ("resnet50", 224, 16, (1, 3), 96),
}
TRAINING = Path(__file__).parents[1] / "training"
CACHED = ("--cache_images", "memory")
OURS = ("ours", "cached")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timm_script", type=Path, help="train.py of timm's repository")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="of network")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)  # in the fresh processes
    args = parser.parse_args()
    if args.measure:
        how, kind, folder = args.measure
        return print(json.dumps(example(kind, Path(folder)) if how == "example" else bare(kind)))
    found = {}
    for kind in args.kinds:
        with tempfile.TemporaryDirectory() as folder:
            found[kind] = measure(kind, Path(folder), args)
    write_result(RESULTS / "training_speed.json", {"rounds": args.rounds, **found})


def measure(kind: str, folder: Path, args) -> dict:
    network, side, batch, epochs, pairs = KINDS[kind]
    faces = write_faces(folder, pairs)
    ours = [TRAINING / "train_soft_fer.py", "--data_dir", folder / "release", "--target", "hard", "--use_cpu"]
    ours += ["--backbone", network, "--image_size", side, "--per_device_train_batch_size", batch]
    ours += ["--eval_strategy", "no", "--checkpointing_steps", "no", "--dataloader_num_workers", 2]
    timm = [args.timm_script, "--data-dir", folder / "folders", "--model", network, "--img-size", side]
    timm += ["--batch-size", batch, "--workers", 2, "--opt", "adamw", "--device", "cpu", "--num-classes", 8]
    timm += ["--output", folder / "timm", "--warmup-epochs", 0]

    def rate(command: list, epochs_flag: str) -> float:
        fewer, more = (seconds(*command, epochs_flag, count) for count in epochs)
        return faces * (epochs[1] - epochs[0]) / (more - fewer)

    def rate_of_ours(*flags) -> float:
        return rate([*ours, *flags, "--overwrite_output_dir", "--output_dir", folder / "model"], "--num_train_epochs")

    ways = {
        "ours": rate_of_ours,
        "cached": lambda: rate_of_ours(*CACHED),
        "timm": lambda: rate(timm, "--epochs"),
        "example": lambda: measured_alone("example", kind, folder),
        "bare": lambda: measured_alone("bare", kind, folder),
    }
    if not args.timm_script:
        del ways["timm"]
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(args.rounds):
        for way, run in ways.items():
            rates[way].append(run())
            print(f"{kind:6} {way:8} {rates[way][-1]:8.1f} faces a second", flush=True)
    medians = {way: statistics.median(values) for way, values in rates.items()}
    ratios = {f"{mine} / {way}": medians[mine] / medians[way] for mine in OURS for way in ways if way not in OURS}
    print(kind, {name: round(value, 2) for name, value in ratios.items()}, flush=True)
    return {
        "network": network, "image_size": side, "batch": batch, "faces": faces, "rates": rates, "medians": medians,
        "ratios": ratios,
    }  # fmt: skip


def write_faces(folder: Path, pairs: int) -> int:
    """A release, and the same faces in a folder a class, as `imagefolder` and timm want them; how many to train on."""
    from datasets import Image, load_dataset

    import affectnet_plus  # noqa: F401
    from affectnet_plus.synthetic import synthesize

    synthesize(folder / "release", train=pairs, validation=40, image_size=224)
    splits = load_dataset("affectnet_plus", data_dir=str(folder / "release"), cache_dir=str(folder / "cache"))
    for name, place in (("train", "train"), ("validation", "val")):
        rows = splits[name].select_columns(["image", "label", "image_id"]).cast_column("image", Image(decode=False))
        for row in rows:
            of_class = folder / "folders" / place / str(row["label"])
            of_class.mkdir(parents=True, exist_ok=True)
            os.link(row["image"]["path"], of_class / f"{row['image_id']}.jpg")
    return len(splits["train"])


def seconds(*command) -> float:
    """What a script takes, from its start to its end."""
    start = time.perf_counter()
    words = list(map(str, [sys.executable, *command]))
    run = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    if run.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{run.stderr[-3000:]}")
    return time.perf_counter() - start


def measured_alone(how: str, kind: str, folder: Path) -> float:
    words = [sys.executable, __file__, "--measure", how, kind, str(folder)]
    run = subprocess.run(words, capture_output=True, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def example(kind: str, folder: Path) -> float:
    """Faces a second of the second epoch."""
    import torch
    from accelerate import Accelerator
    from datasets import load_dataset
    from torchvision.transforms import Compose, Normalize, RandomHorizontalFlip, RandomResizedCrop, ToTensor

    _, side, batch, _, _ = KINDS[kind]
    rows = load_dataset("imagefolder", data_dir=str(folder / "folders/train"), cache_dir=str(folder / "cache"))["train"]
    alter = Compose([RandomResizedCrop(side), RandomHorizontalFlip(), ToTensor(), Normalize([0.5] * 3, [0.5] * 3)])
    rows = rows.with_transform(
        lambda found: {
            "pixel_values": [alter(image.convert("RGB")) for image in found["image"]],
            "labels": found["label"],
        }
    )
    accelerator, (network, optimizer) = Accelerator(cpu=True), network_and_optimizer(kind)
    batches = torch.utils.data.DataLoader(rows, batch_size=batch, shuffle=True)
    network, optimizer, batches = accelerator.prepare(network, optimizer, batches)
    for _ in range(2):
        start = time.perf_counter()
        for found in batches:
            step(network, optimizer, found["pixel_values"], found["labels"])
    return len(rows) / (time.perf_counter() - start)


def bare(kind: str) -> float:
    """Faces a second of the step on tensors in memory, channels last as ours are."""
    import torch

    _, side, batch, epochs, pairs = KINDS[kind]
    network, optimizer = network_and_optimizer(kind)
    faces = torch.randn(batch, 3, side, side).contiguous(memory_format=torch.channels_last)
    labels, steps = torch.arange(batch) % 8, max(3, pairs * epochs[0] // batch)
    for count in (2, steps):  # the first are slower
        start = time.perf_counter()
        for _ in range(count):
            step(network, optimizer, faces, labels)
    return batch * steps / (time.perf_counter() - start)


def network_and_optimizer(kind: str):
    import timm
    import torch

    network = timm.create_model(KINDS[kind][0], num_classes=8).train()
    return network, torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)


def step(network, optimizer, faces, labels) -> None:
    import torch.nn.functional as F

    F.cross_entropy(network(faces), labels).backward()
    optimizer.step()
    optimizer.zero_grad()


if __name__ == "__main__":
    main()
