"""--jobs expressions: processes of one launch that train networks of their own."""

import errno
import itertools
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from accelerate import Accelerator
from runs import SMALL, Script, assert_same_weights, environments, refused, train
from transformers import HfArgumentParser

from affectnet_plus import EXPRESSIONS
from affectnet_plus.modeling import EBCConfig
from affectnet_plus.releases.writing import is_no_room
from affectnet_plus.training import train_ebc
from affectnet_plus.training.arguments import FoldArguments, OptimizationArguments, TrainingDataArguments
from affectnet_plus.training.loop import once_per_machine
from affectnet_plus.training.loop.jobs import deal
from affectnet_plus.training.train_ebc import EBCArguments

SBATCH = Path(__file__).parents[1] / "training/configs/experts.sbatch"
FOLDS = ["--num_folds", 2, "--expressions", "sad", "fear", "anger", "--warm_start_epochs", 1, "--max_train_steps", 4]
FOLDS += ["--backbones", "test_resnet", "--checkpointing_steps", 2, "--eval_strategy", "no", "--use_cpu"]
JOBS = ["--jobs", "expressions"]


def assert_same_folds(folder: Path, other: Path) -> None:
    for fold in ("fold-0", "fold-1"):
        assert_same_weights(folder / fold, other / fold)
        assert_same_weights(folder / fold / "warm_start/0-test_resnet", other / fold / "warm_start/0-test_resnet")
        ours, theirs = (json.loads((root / fold / "metrics.json").read_text()) for root in (folder, other))
        assert ours == theirs and list(ours["auroc"]) == ["sad", "fear", "anger"]
        configs = [EBCConfig.from_pretrained(root / fold) for root in (folder, other)]
        assert configs[0].training == configs[1].training and configs[0].calibration == configs[1].calibration
        assert not list((folder / fold).glob("*checkpoint*"))


@pytest.fixture(scope="module")
def one(ferplus, tmp_path_factory):
    """What one process trains, without jobs."""
    cwd = tmp_path_factory.mktemp("one")
    train(*SMALL, *FOLDS, "--dataset_name", ferplus, "--output_dir", "ebc", cwd=cwd)
    return cwd / "ebc"


def test_two_processes_train_what_one_does_to_the_bit_and_without_a_group(one, ferplus, tmp_path):
    args = [*SMALL, *FOLDS, *JOBS, "--dataset_name", ferplus, "--output_dir", "ebc"]
    args += ["--report_to", "tensorboard"]
    ranks = [{key: value for key, value in rank.items() if "MASTER" not in key} for rank in environments(2)]
    said = []
    for run in [Script("train_ebc.py", *args, cwd=tmp_path, environment=rank) for rank in ranks]:
        status, *both = run.wait()
        assert status == 0, both[1][-3000:]
        said.append("".join(both))
    assert_same_folds(tmp_path / "ebc", one)
    assert len(list(tmp_path.glob("ebc/train_ebc/events*"))) == 2
    assert all(": AUROC" in each for each in said)  # both had something to do
    assert sum(each.count('"mean_auroc"') for each in said) == 2  # whoever brought the last one has measured it
    assert [bool(re.search(r"fold-\d/\w+: +\d+%", each)) for each in said] == [
        True,
        False,
    ]  # a bar each would be a mess


def test_killed_they_go_on_in_another_number(one, ferplus, tmp_path):
    args = [*SMALL, *FOLDS, *JOBS, "--dataset_name", ferplus, "--output_dir", "ebc"]
    runs = [Script("train_ebc.py", *args, cwd=tmp_path, environment=rank) for rank in environments(2)]
    while not list(tmp_path.glob("ebc/fold-*/checkpoint-[sfa]*")) and any(run.poll() is None for run in runs):
        time.sleep(0.005)
    for run in runs:
        run.kill()
    assert not all((tmp_path / "ebc" / fold / "metrics.json").exists() for fold in ("fold-0", "fold-1")), "too late"
    args += ["--resume_from_checkpoint", "latest"]
    train(*args, cwd=tmp_path, processes=3)
    assert_same_folds(tmp_path / "ebc", one)
    said = train(*args, cwd=tmp_path, processes=2)  # nothing is left: what is there is measured
    assert "AUROC" not in said and said.count('"mean_auroc"') == 2


def test_what_one_process_cannot_do_is_refused(ferplus, tmp_path, monkeypatch, capsys):
    args = [*SMALL, *JOBS, "--dataset_name", ferplus]
    said = refused(train_ebc, [*args, "--push_to_hub"], tmp_path / "ebc", monkeypatch, capsys)
    assert "--push_to_hub: with --jobs expressions no process has the whole model. Push once all are done" in said
    args += ["--resume_from_checkpoint", "checkpoint-sad-5"]
    assert "with --jobs expressions say 'latest'" in refused(train_ebc, args, tmp_path / "ebc", monkeypatch, capsys)


AFFECTNET = dict(zip(EXPRESSIONS, (74874, 134415, 25459, 14090, 6378, 3803, 24882, 3750), strict=True))


@pytest.mark.parametrize("processes", [1, 2, 3, 8, 60])
@pytest.mark.parametrize("folds", [1, 2, 5])
@pytest.mark.parametrize("warm", [0, 300_000])
def test_all_is_dealt_once_and_processes_end_together(warm, folds, processes):
    """As if all went as fast as expected: no process waits long, and none is much later than the others."""
    dealt = deal([AFFECTNET] * folds, [warm] * folds, processes)
    networks = [job for jobs in dealt for job in jobs if job[1] in EXPRESSIONS]
    assert sorted(networks) == sorted(itertools.product(range(folds), EXPRESSIONS))
    ready, ends = dict.fromkeys(range(folds), 0), []
    for jobs in dealt:
        starts = [fold for fold, name in jobs if name not in EXPRESSIONS]
        assert jobs[: len(starts)] == [(fold, "warm_start") for fold in starts]
        ready |= {fold: (number + 1) * warm for number, fold in enumerate(starts)}
    for jobs in dealt:
        time = 0
        for fold, name in sorted(jobs, key=lambda job: (job[1] in EXPRESSIONS, job[0])):
            time = max(time, ready[fold]) + AFFECTNET[name] if name in EXPRESSIONS else time + warm
        ends.append(time)
    least = max(sum(AFFECTNET.values()) * folds / processes, max(AFFECTNET.values()))  # that it takes at best
    assert max(ends) <= -(-folds // processes) * warm + 1.1 * least


def test_the_slurm_script_trains_each_expression_in_each_fold_once(tmp_path):
    subprocess.run(["bash", "-n", SBATCH], check=True)
    (tmp_path / "accelerate").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "accelerate").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    there = {"PATH": path, "DATA_DIR": "/data/Affect Net+", "OUTPUT_DIR": "runs/ebc", "FOLDS": "2"}
    parser = HfArgumentParser((TrainingDataArguments, OptimizationArguments, FoldArguments, EBCArguments))
    trained = []
    for expressions in (["contempt"], ["happy", "neutral", "sad", "anger", "surprise", "fear", "disgust"]):
        for task in range(2 * len(expressions)):
            environment = there | {"SLURM_ARRAY_TASK_ID": str(task), "FLAGS": "--seed 7 --image_size 48"}
            run = subprocess.run(["bash", SBATCH, *expressions], env=environment, check=True, capture_output=True)
            words = run.stdout.decode().splitlines()
            script = words.index("training/train_ebc.py")
            data, args, folds, experts = parser.parse_args_into_dataclasses(words[script + 1 :])
            assert (data.data_dir, args.resume_from_checkpoint, args.seed) == ("/data/Affect Net+", "latest", 7)
            trained += itertools.product(folds.folds, experts.expressions)
    assert sorted(trained) == sorted(itertools.product(range(2), EXPRESSIONS))


def test_a_script_keeps_the_memory_that_it_frees():
    code = (
        "import psutil\n"
        "from affectnet_plus.training.arguments import run_script\n"
        "def keeps():\n"
        "    before = psutil.Process().memory_info().rss\n"
        "    bytes([1]) * 10**8\n"
        "    print(psutil.Process().memory_info().rss > before + 5 * 10**7)\n"
        "keeps()\n"
        "run_script(keeps, '')\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "True"]


def test_a_full_disk_is_told_as_one_by_whoever_prepares_for_others():
    def prepare():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError) as raised:
        once_per_machine(Accelerator(cpu=True), prepare)
    assert is_no_room(raised.value)
