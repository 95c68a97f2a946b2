"""What earlier runs have left, damaged: one sentence with the file and the cure, before anything is trained."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from runs import SMALL, SOFT_FER, train_until
from small_models import model_of

from affectnet_plus.training import evaluate_model, label, train_ebc, train_soft_fer
from affectnet_plus.training.soft_labels.label_files import check_settings

SAD = [*SMALL, "--backbones", "test_vit", "--expressions", "sad", "--max_train_steps", 400, "--checkpointing_steps", 2]


def said_by(script, *args, monkeypatch, capsys) -> str:
    """The one sentence that it ends with."""
    monkeypatch.setattr(sys, "argv", ["script.py", *map(str, args)])
    with pytest.raises(SystemExit) as end:
        script.main()
    said = capsys.readouterr().err
    (message,) = [line for line in said.splitlines() if line.startswith("script.py: error: ")]
    assert end.value.code == 2 and "Traceback" not in said
    return message.removeprefix("script.py: error: ")


@pytest.fixture(scope="module")
def killed(ferplus, tmp_path_factory) -> Path:
    """A run with its checkpoint."""
    folder = tmp_path_factory.mktemp("killed")
    args = [*SAD, "--dataset_name", ferplus, "--output_dir", "ebc"]
    train_until(lambda: list((folder / "ebc").glob("checkpoint-sad-*/trainer_state.json")), *args, cwd=folder)
    return folder / "ebc"


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


def changed(**values):
    return lambda file: file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("random_states_0.pkl", cut),
        ("random_states_0.pkl", Path.unlink),
        ("random_states_0.pkl", lambda file: shutil.copy(file.with_name("scheduler.bin"), file)),
        ("optimizer.bin", cut),
        ("scheduler.bin", lambda file: file.write_text("?")),
        ("model.safetensors", cut),
        ("trainer_state.json", cut),
        ("trainer_state.json", lambda file: file.write_text("[]")),
        ("trainer_state.json", changed(step="2")),
        ("trainer_state.json", changed(settings=None)),
        ("trainer_state.json", changed(part=["sad"])),
        ("trainer_state.json", changed(best=3)),
    ],
)
def test_a_damaged_checkpoint_is_named(name, damage, killed, ferplus, tmp_path, monkeypatch, capsys):
    (found,) = shutil.copytree(killed, tmp_path / "ebc").glob("checkpoint-sad-*")
    damage(found / name)
    args = [*SAD, "--dataset_name", ferplus, "--output_dir", tmp_path / "ebc", "--resume_from_checkpoint", "latest"]
    said = said_by(train_ebc, *args, monkeypatch=monkeypatch, capsys=capsys)
    assert said.startswith(str(found)) and " is damaged (" in said and "delete that checkpoint's folder" in said
    assert len(said) < 300 + len(str(found)) and not (tmp_path / "ebc/config.json").exists()


def test_a_checkpoint_that_is_not_of_this_run_is_not_passed_over(killed, ferplus, tmp_path, monkeypatch, capsys):
    (found,) = shutil.copytree(killed, tmp_path / "ebc").glob("checkpoint-sad-*")
    args = [*SAD, "--dataset_name", ferplus, "--output_dir", tmp_path / "ebc", "--expressions", "fear"]
    said = said_by(train_ebc, *args, "--resume_from_checkpoint", found, monkeypatch=monkeypatch, capsys=capsys)
    assert f"--resume_from_checkpoint {found} is of 'sad', and what is left to train here is 'fear'" in said


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("config.json", cut),
        ("config.json", lambda file: file.write_text("[]")),
        ("config.json", changed(image_size="big")),
        ("config.json", changed(id2label={"0": "sad", "7": "happy"})),
        ("config.json", changed(training=["x"])),
        ("config.json", changed(calibration={"sad": {"prior": "x"}})),
        ("model.safetensors", cut),
    ],
)
def test_a_damaged_model_is_named_by_all_that_read_it(file, damage, ferplus, tmp_path, monkeypatch, capsys):
    for kind in ("ebc", "au", "soft_fer"):
        model_of(kind).save_pretrained(tmp_path / kind)
        damage(tmp_path / kind / file)
    data, target = ["--dataset_name", ferplus], ["--output_dir", tmp_path / "out"]
    start = [*SOFT_FER, *data, *target, "--backbone", "test_vit"]
    for script, args, kind in (
        (evaluate_model, [*data, *target, "--model", tmp_path / "ebc"], "ebc"),
        (label, [*data, *target, "--ebc", tmp_path / "ebc", "--au", tmp_path / "au"], "ebc"),
        (train_soft_fer, [*start, "--teacher", tmp_path / "soft_fer"], "soft_fer"),
        (train_ebc, [*SMALL, *data, "--output_dir", tmp_path / "ebc"], "ebc"),
    ):
        said = said_by(script, *args, monkeypatch=monkeypatch, capsys=capsys)
        assert f"{tmp_path / kind / file} is damaged (" in said and "copy or train that model anew" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", [cut, changed(splits=[]), lambda file: file.write_text("3")])
def test_a_damaged_record_of_labels_is_named(damage, tmp_path, monkeypatch, capsys):
    (tmp_path / "soft").mkdir()
    file = tmp_path / "soft/label.json"
    file.write_text(json.dumps({"splits": {"train": {}}, "data": "D" * 200}))
    with pytest.raises(ValueError, match=r"label.json is damaged \(.* as 'posterior'\): name another --output_dir"):
        changed(posterior="x")(file)
        check_settings(file.parent, {"posterior": {"prior_precision": None, "how": "fitted"}})
    damage(file)
    args = ["--labels", tmp_path / "soft", "--prior", "balanced", "--output_dir", tmp_path / "out"]
    said = said_by(label, *args, monkeypatch=monkeypatch, capsys=capsys)
    assert f"{file} is damaged (" in said and "label these rows anew" in said
