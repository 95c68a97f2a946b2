"""The training loop: what a step is, what it costs to be stopped, and what a folder holds then."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import one_step
import psutil
import pytest
import torch
from accelerate import Accelerator
from datasets import Image, load_dataset
from runs import TORCHRUN, TRAINING, weights
from transformers import AutoModelForImageClassification

from affectnet_plus.modeling import BinaryEnsemble, EBCConfig, EBCForImageClassification
from affectnet_plus.training import train_ebc
from affectnet_plus.training.evaluate_model import update_card
from affectnet_plus.training.experts.folder import complete_folder
from affectnet_plus.training.loop import Run
from affectnet_plus.training.loop.fit import not_decayed
from affectnet_plus.training.loop.folders import locked, written_beside
from affectnet_plus.training.loop.settings import check_same_settings


@pytest.fixture(scope="module")
def two_ranks(ferplus, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two_ranks")
    script = [sys.executable, *TORCHRUN, one_step.__file__, str(ferplus), str(folder)]
    run = subprocess.run(script, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    return folder


@pytest.mark.parametrize("kind", ["au", "soft_fer"])
def test_unknown_values_are_those_of_one_process(kind, two_ranks, ferplus, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.optim, "AdamW", one_step.plain_steps)
    one = one_step.trained(kind, ferplus, tmp_path / "one", Accelerator(cpu=True))
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    four = one_step.trained(kind, ferplus, tmp_path / "four", accelerator)
    two = np.load(two_ranks / f"{kind}.npz")
    for name in one:
        np.testing.assert_allclose(four[name], one[name], atol=1e-6, rtol=1e-6)
        np.testing.assert_allclose(two[name], one[name], atol=1e-6, rtol=1e-6)


def test_what_is_to_be_trained_is_what_the_main_process_finds(two_ranks):
    says = [(two_ranks / f"refused-{rank}").read_text() for rank in range(2)]
    assert says[0] == says[1] and "of-rank-0 holds a finished model" in says[0]


def test_ranks_share_the_faces_that_one_of_them_has_decoded(two_ranks):
    assert (two_ranks / "shared").read_text() == "80 of 80"


def test_who_prepares_may_take_long_and_who_hangs_may_not(two_ranks):
    assert (two_ranks / "cache").exists() and (two_ranks / "gave_up").exists()


def test_steps_that_fp16_skips_are_made_up_for(ferplus, tmp_path):
    """GradScaler, on the CPU, with a scale at which the first gradients overflow."""
    expected, scaled = (Accelerator(cpu=True) for _ in range(2))
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    args = {"learning_rate": 1e-3, "max_train_steps": 3, "ema_decay": 0.5, "lr_scheduler_type": "linear"}
    expected, ours = (
        one_step.trained("soft_fer", ferplus, tmp_path / f"{number}", accelerator, **args)
        for number, accelerator in enumerate((expected, scaled))
    )
    assert scaled.scaler.get_scale() < 2.0**127
    for name in expected:  # fused AdamW, which is not used beside a scaler, rounds otherwise
        np.testing.assert_allclose(ours[name], expected[name], atol=1e-5)
    fewer = args | {"max_train_steps": 2}
    two_steps = one_step.trained("soft_fer", ferplus, tmp_path / "two", Accelerator(cpu=True), **fewer)
    assert max(np.abs(two_steps[name] - expected[name]).max() for name in expected) > 1e-4


def test_augmented_in_the_loop_as_on_a_gpu_the_weights_are_the_same(ferplus, tmp_path):
    by_loader, in_loop = (
        one_step.trained("soft_fer", ferplus, tmp_path / f"{where}", Accelerator(cpu=True), where, max_train_steps=2)
        for where in (False, True)
    )
    for name in by_loader:
        np.testing.assert_array_equal(in_loop[name], by_loader[name])


def test_no_decay_of_what_timm_names(ferplus, tmp_path):
    ensemble = BinaryEnsemble(EBCConfig(backbones=["test_vit", "test_resnet"], image_size=32))
    named = not_decayed(ensemble) & dict(ensemble.named_parameters()).keys()
    assert named == {"classifiers.0.pos_embed", "classifiers.0.cls_token"}
    still = {"learning_rate": 1e-6, "max_train_steps": 2}  # AdamW's own step is as small, the decay is a half
    start, decayed = (
        one_step.trained("au", ferplus, tmp_path / name, Accelerator(cpu=True), weight_decay=decay, **still)
        for name, decay in (("start", 0.0), ("decayed", 5e5))
    )
    halved = {name for name in start if np.abs(decayed[name]).sum() < 0.6 * np.abs(start[name]).sum()}
    assert halved == {name for name, value in start.items() if value.ndim > 1} - {
        "backbone.pos_embed", "backbone.cls_token",
    }  # fmt: skip


SMALL = ["--backbones", "test_vit", "--image_size", 32, "--per_device_train_batch_size", 8]
SMALL += ["--dataloader_num_workers", 0, "--eval_strategy", "no", "--max_train_steps", 2]


@pytest.fixture
def train_here(ferplus, tmp_path, monkeypatch, capsys):
    """train_ebc.py in this process; gives its sentence where it ends with one."""
    monkeypatch.chdir(tmp_path)

    def run(*flags) -> str:
        words = ["train_ebc.py", *SMALL, "--dataset_name", ferplus, "--output_dir", "ebc", *flags]
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        try:
            train_ebc.main()
        except SystemExit as stopped:
            assert stopped.code == 2
            return [line for line in capsys.readouterr().err.splitlines() if "train_ebc.py: error: " in line][0]
        return ""

    yield run
    torch.use_deterministic_algorithms(False)


def test_what_is_there_is_overwritten_only_where_that_is_asked_for(train_here):
    two = ["--expressions", "happy", "sad"]
    assert not train_here(*two, "--deterministic")
    assert torch.are_deterministic_algorithms_enabled()
    first = weights("ebc")
    records = EBCConfig.from_pretrained("ebc").training
    assert records["happy"]["deterministic"] is True

    says = train_here(*two, "--deterministic", "--seed", 9)
    assert "ebc holds finished experts (happy, sad), of other settings: seed (was 42, now 9)" in says
    for flag in ("--resume_from_checkpoint latest", "--overwrite_output_dir", "--output_dir"):
        assert flag in says
    says = train_here("--expressions", "sad", "contempt", "--deterministic")  # the very same, too
    assert "ebc holds finished experts (sad). Name another" in says
    says = train_here(*two, "--seed", 9, "--resume_from_checkpoint", "latest")
    assert "seed (was 42, now 9), deterministic (was True, now False)" in says and "--init_from" not in says
    says = train_here(*two, "--deterministic", "--max_train_steps", 4, "--resume_from_checkpoint", "latest")
    assert "max_train_steps (was 2, now 4)" in says and "--init_from starts it from a Soft-FER model" in says
    with pytest.raises(ValueError, match="--init_from starts it from this one's weights"):
        check_same_settings(Path("hard"), "all", {"num_train_epochs": 3.0}, {"num_train_epochs": 9.0})
    says = train_here(*two, "--overwrite_output_dir", "--resume_from_checkpoint", "latest")
    assert "give one of them" in says
    assert all((weights("ebc")[name] == first[name]).all() for name in first)

    assert not train_here("--expressions", "sad", "--seed", 9, "--overwrite_output_dir")  # one of them, anew
    now = weights("ebc")
    assert now.keys() == first.keys()
    changed = {name.split(".")[1] for name in now if (now[name] != first[name]).any()}
    assert changed == {"sad"}
    assert EBCConfig.from_pretrained("ebc").training["happy"] == records["happy"]


@pytest.mark.parametrize(("backbone", "learning_rate"), [("test_vit", 1e30), ("test_resnet", 1e9)])
def test_a_run_that_diverges_ends_with_a_sentence_and_saves_nothing(backbone, learning_rate, train_here):
    flags = ["--expressions", "sad", "--backbones", backbone, "--learning_rate", learning_rate]
    for more in (["--checkpointing_steps", 1], ["--checkpointing_steps", 1, "--resume_from_checkpoint", "latest"]):
        says = train_here(*flags, *more)
        assert "nothing can be learned from here: take a lower --learning_rate" in says
        assert not (Path("ebc") / "config.json").exists()
        for checkpoint in Path("ebc").glob("checkpoint-*/*.safetensors"):  # of a step before
            assert all(np.isfinite(values).all() for values in weights(checkpoint.parent).values())


def expert(value: float) -> BinaryEnsemble:
    network = BinaryEnsemble(CONFIG)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(value)
    return network


CONFIG = EBCConfig(backbones=["test_vit"], image_size=32)


def bring(folder: Path, expression: str, value: float) -> None:
    """A trained expert whose weights, calibration and record all say `value`."""
    run = Run(None, None, CONFIG, EBCForImageClassification, folder, None, None, {}, [], {}, [])
    fitted = {"backbone_weights": [1.0], "temperature": value, "log_odds_shift": 0.0}
    complete_folder(run, expression, expert(value), fitted, {"auroc": value})


def update(folder: Path, value: float) -> None:
    config = EBCConfig.from_pretrained(folder)
    of_faces = dict.fromkeys(("data", "data_config", "split", "ground_truth"), "D")
    update_card(folder, of_faces | {"rows": 9, "expressions": ["sad"], "accuracy": value}, config)


def says(folder: Path) -> tuple:
    """What a model's folder says of its weights, its calibration and record, its figures, and its card of both."""
    model = AutoModelForImageClassification.from_pretrained(folder)
    config = model.config
    (value,) = {parameter.unique().item() for name, parameter in model.named_parameters() if "sad" in name}
    assert config.calibration["sad"]["temperature"] == config.training["sad"]["auroc"] == value, "new beside old"
    figures = folder / "metrics.json"
    measured = figures.read_text() if figures.exists() else None
    assert measured in (None, str(value)), "old figures of new weights"
    card = (folder / "README.md").read_text() if (folder / "README.md").exists() else None
    accuracy = config.evaluation.get("accuracy")
    if card is not None:
        assert f"| sad | {value:.3f} |" in card and (accuracy is None or f"value: {accuracy}" in card), "old card"
    return value, accuracy, list(config.expressions)


def killed_at_every_move(folder: Path, change: Callable[[Path], None]) -> Iterator[Path]:
    """Folders that a process leaves which is killed before each of its moves in them, and at last the one that it
    completes."""
    moves = ("os.rename", "os.link", "os.remove", "shutil.rmtree")
    for number in range(100):
        left = shutil.copytree(folder, folder.with_name(f"{folder.name}-{number}"))
        child = os.fork()
        if not child:
            count = iter(range(number))

            def kill(event, args, count=count, left=str(left)):
                if event in moves and left in map(os.path.dirname, map(str, args)) and next(count, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(kill)
            try:
                change(left)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        yield left
        if not os.WIFSIGNALED(status):
            return
    raise AssertionError("too many moves")


@pytest.mark.parametrize("change", ["expert anew", "figures"])
def test_killed_at_any_move_a_model_is_the_old_or_the_new_one(change, tmp_path):
    bring(tmp_path / "ebc", "sad", 0.25)
    update(tmp_path / "ebc", 0.125)
    (tmp_path / "ebc/metrics.json").write_text("0.25")
    old = (0.25, 0.125, ["sad"])
    new, how = {
        "expert anew": ((0.75, None, ["sad"]), lambda folder: bring(folder, "sad", 0.75)),
        "figures": ((0.25, 0.5, ["sad"]), lambda folder: update(folder, 0.5)),
    }[change]
    seen, completed = [], []
    for folder in killed_at_every_move(tmp_path / "ebc", how):
        assert (found := says(folder)) in (old, new)
        seen.append(found)
        with locked(folder):  # by whoever comes next
            assert not {".written", "model.new.safetensors"} & set(os.listdir(folder))
        completed.append([(folder / name).read_bytes() for name in ("config.json", "model.safetensors", "README.md")])
    assert seen == sorted(seen, key=lambda found: found == new) and min(seen.count(old), seen.count(new)) > 2
    first_whole = completed.index(completed[-1])
    assert completed == [completed[0]] * first_whole + [completed[-1]] * (len(seen) - first_whole)
    assert first_whole <= seen.index(new)  # what was new stays so


def test_killed_at_any_move_a_report_is_of_one_measurement(tmp_path):
    names = ["metrics.json", "predictions.parquet", "report.html"]

    def write(folder: Path, text: str = "new") -> None:
        with written_beside(folder) as beside:
            for name in names:
                (beside / name).write_text(text)

    write(tmp_path / "report", "old")
    for folder in killed_at_every_move(tmp_path / "report", write):
        found = {(folder / name).read_text() for name in names if (folder / name).exists()}
        assert found in (set(), {"old"}, {"new"})
        write(folder, "again")
        assert {name: (folder / name).read_text() for name in os.listdir(folder)} == dict.fromkeys(names, "again")


def test_figures_of_a_model_that_was_replaced_meanwhile_are_not_put_on_its_card(tmp_path):
    bring(tmp_path / "ebc", "sad", 0.25)
    measured = EBCConfig.from_pretrained(tmp_path / "ebc")
    bring(tmp_path / "ebc", "sad", 0.75)
    with pytest.raises(OSError, match="replaced while it was measured"):
        update_card(tmp_path / "ebc", {"accuracy": 0.5, "rows": 9}, measured)
    assert says(tmp_path / "ebc") == (0.75, None, ["sad"])


def test_a_full_disk_leaves_the_model_as_it_was(tmp_path):
    bring(tmp_path / "ebc", "sad", 0.25)
    for change in (update, lambda folder, value: bring(folder, "sad", value)):
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, most))  # bytes that a file can grow to
        try:
            with pytest.raises(Exception, match="File too large"):
                change(tmp_path / "ebc", 0.75)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        assert says(tmp_path / "ebc") == (0.25, None, ["sad"])


def processes_of(marker: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MARKER") == marker and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            pass
    return found


@pytest.fixture
def launched(ferplus, tmp_path):
    """train_ebc.py on two ranks with workers; at the end all of them have to be gone."""
    marker = str(tmp_path)

    def launch(data: Path, *flags) -> subprocess.Popen:
        words = [*SMALL[:-2], "--dataset_name", data, "--output_dir", tmp_path / "ebc", "--expressions", "sad", *flags]
        words += ["--dataloader_num_workers", 1, "--max_train_steps", 100_000, "--checkpointing_steps", 2]
        return subprocess.Popen(
            [sys.executable, *TORCHRUN, TRAINING / "train_ebc.py", "--use_cpu", *map(str, words)],
            cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=os.environ | {"MARKER": marker},
        )  # fmt: skip

    yield launch
    deadline = time.monotonic() + 60
    while (left := processes_of(marker)) and time.monotonic() < deadline:
        time.sleep(0.2)
    for process in left:
        process.kill()
    assert not left


@pytest.mark.slow
def test_a_rank_with_a_broken_image_ends_all(ferplus, launched, tmp_path):
    for split in ("train", "validation"):
        rows = load_dataset(str(ferplus), split=split).cast_column("image", Image(decode=False))
        images = rows["image"][:]
        if split == "train":
            images[3] = {"bytes": b"no image", "path": None}
        rows = rows.remove_columns("image").add_column("image", images).cast_column("image", Image())
        rows.to_parquet(tmp_path / f"data/{split}.parquet")
    process = launched(tmp_path / "data")
    said = process.communicate(timeout=120)[1]
    assert process.returncode != 0 and "not a readable image" in said


def test_a_rank_that_is_killed_ends_all_with_networks_of_their_own_too(ferplus, launched, tmp_path):
    process = launched(ferplus, "--jobs", "expressions", "--expressions", "sad", "fear")
    while not list(tmp_path.glob("ebc/checkpoint-*")) and process.poll() is None:
        time.sleep(0.05)
    (rank,) = [p for p in psutil.Process(process.pid).children() if p.environ().get("RANK") == "1"]
    rank.kill()
    process.communicate(timeout=60)
    assert process.returncode != 0
