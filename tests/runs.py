"""Training as people run it: real processes, small networks, small data."""

import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
from PIL import Image
from safetensors.numpy import load_file

TRAINING = Path(__file__).parents[1] / "training"
SMALL = ["--backbones", "test_vit", "test_vit3", "--image_size", "32", "--per_device_train_batch_size", "16"]
SMALL += ["--dataloader_num_workers", "0", "--seed", "3", "--warm_start_epochs", "0"]


ACCELERATE = ["-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"]
ACCELERATE += ["--mixed_precision", "no", "--dynamo_backend", "no"]


def command(*args, script="train_ebc.py", processes=1, launcher=()) -> list[str]:
    """`launcher=ACCELERATE` as the README has it; without one it is the same, sooner."""
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        args = ["--use_cpu", *args]
    return [sys.executable, *launcher, str(TRAINING / script), *map(str, args)]


def train(*args, cwd, expect=0, **options) -> str:
    run = subprocess.run(command(*args, **options), cwd=cwd, capture_output=True, text=True)
    assert run.returncode == expect or (expect and run.returncode), run.stderr[-3000:]
    return run.stdout + run.stderr


def weights(folder) -> dict[str, np.ndarray]:
    return load_file(Path(folder) / "model.safetensors")


def assert_same_weights(folder, other):
    ours, theirs = weights(folder), weights(other)
    assert ours.keys() == theirs.keys()
    differing = [name for name in ours if not np.array_equal(ours[name], theirs[name])]
    assert not differing


def write_grey_faces(folder: Path) -> None:
    rng = np.random.default_rng(0)
    names = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"]
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=names),
            "soft_label": datasets.List(datasets.Value("float32"), length=8),
            "valence": datasets.Value("float32"),
            "arousal": datasets.Value("float32"),
        }
    )
    for split, number in (("train", 160), ("validation", 80)):
        labels = np.arange(number) % 8
        faces = [Image.fromarray((rng.normal(30 * label + 20, 6, (24, 24))).astype(np.uint8)) for label in labels]
        affect = {"valence": labels / 4 - 0.9, "arousal": [None if label == 3 else 0.8 - label / 5 for label in labels]}
        rows = {"image": faces, "label": labels, "soft_label": np.eye(8)[labels], **affect}
        file = folder / f"{split}-00000-of-00001.parquet"
        folder.mkdir(exist_ok=True)
        datasets.Dataset.from_dict(rows, features=features).to_parquet(file)
