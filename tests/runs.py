"""Training as people run it: real processes, small networks, small data."""

import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

TRAINING = Path(__file__).parents[1] / "training"
SMALL = ["--backbones", "test_vit", "test_vit3", "--image_size", "32", "--per_device_train_batch_size", "16"]
SMALL += ["--dataloader_num_workers", "0", "--seed", "3", "--warm_start_epochs", "0"]
SOFT_FER = ["--image_size", 32, "--per_device_train_batch_size", 16, "--dataloader_num_workers", 0, "--seed", 3]
SOFT_FER += ["--eval_strategy", "no"]
ACCELERATE = ["-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"]
ACCELERATE += ["--mixed_precision", "no", "--dynamo_backend", "no"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]

# Most of a short run is the import of torch, transformers and datasets: one process does it, and is forked for each.
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    [
        f"affectnet_plus.training.{name}"
        for name in ("train_ebc", "train_au", "train_soft_fer", "label", "evaluate_model")
    ]
)


class Script:
    """A script of `training/` in a process of its own, which leads a session of its own."""

    def __init__(self, script: str, *args, cwd, environment: dict[str, str] | None = None):
        self._folder = tempfile.TemporaryDirectory()
        self._files = [os.path.join(self._folder.name, name) for name in ("stdout", "stderr")]
        argv, environment = [str(TRAINING / script), *map(str, args)], os.environ | (environment or {})
        self._process = _forks.Process(target=_run, args=(argv, str(cwd), environment, self._files))
        self._process.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> tuple[int, str, str]:
        """Exit status, standard output and error."""
        self._process.join()
        return self._process.exitcode, *(Path(file).read_text() for file in self._files)

    def kill(self) -> None:
        """It and all that it has started."""
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
        self._process.join()


def _run(argv: list[str], cwd: str, environment: dict[str, str], files: list[str]) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests were started by
    for descriptor, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv, sys.path[0] = argv, os.path.dirname(argv[0])
    runpy.run_path(argv[0], run_name="__main__")


def train(*args, cwd, script="train_ebc.py", expect=0, processes=1, launcher=()) -> str:
    """What a script says. With a `launcher` it is started as the README has it; else it is the same, sooner."""
    if script in ("label.py", "evaluate_model.py") and "--dataloader_num_workers" not in args:
        args += ("--dataloader_num_workers", 0)  # starting them takes longer than the faces do
    if launcher:
        words = [sys.executable, *launcher, TRAINING / script, *args]
        run = subprocess.run(list(map(str, words)), cwd=cwd, capture_output=True, text=True)
        runs = [(run.returncode, run.stdout, run.stderr)]
    else:
        ranks = environments(processes)
        runs = [Script(script, *args, *["--use_cpu"] * (processes > 1), cwd=cwd, environment=rank) for rank in ranks]
        while any(run.poll() is None for run in runs) and not any(run.poll() for run in runs):
            time.sleep(0.01)
        for run in runs if any(run.poll() for run in runs) else ():  # one has failed: others may wait for it
            run.kill()
        runs = sorted((run.wait() for run in runs), key=lambda run: run[0] <= 0)  # what failed, not what was killed
    for status, _, error in runs:
        assert status == expect or (expect and status), error[-3000:]
    return "".join(said for _, *both in runs for said in both)


def train_until(done: Callable[[], object], *args, cwd, script="train_ebc.py") -> None:
    """Start it, and kill it as soon as that is so."""
    run = Script(script, *args, cwd=cwd)
    while not done() and run.poll() is None:
        time.sleep(0.005)
    run.kill()


def environments(processes: int) -> list[dict[str, str]]:
    """What torchrun tells its processes."""
    if processes == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    ranks = [common | {"RANK": rank, "LOCAL_RANK": rank} for rank in range(processes)]
    return [{key: str(value) for key, value in rank.items()} for rank in ranks]


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


def refused(script, args, output_dir: Path, monkeypatch, capsys) -> str:
    """The one sentence that a script's module ends with, run in this process."""
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, args), "--output_dir", str(output_dir)])
    with pytest.raises(SystemExit) as end:
        script.main()
    assert end.value.code == 2 and not (output_dir / "config.json").exists()
    (message,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train.py: error: ")]
    return message
