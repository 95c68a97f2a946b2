"""What earlier runs have left, damaged: one sentence with the file and the cure, before anything is trained."""

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image
from runs import SMALL, SOFT_FER, train_until
from small_models import model_of
from transformers import pipeline

from affectnet_plus.modeling import BUNDLED_ONNX, read_config
from affectnet_plus.training import evaluate_model, label, show_faces, train_ebc, train_soft_fer
from affectnet_plus.training.loop.settings import check_same_settings
from affectnet_plus.training.soft_labels.label_files import check_settings
from affectnet_plus_cli import main

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


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Sound ones."""
    folder = tmp_path_factory.mktemp("models")
    for kind in ("ebc", "au", "soft_fer"):
        model_of(kind).save_pretrained(folder / kind)
    return folder


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def binary(file: Path) -> None:
    file.write_bytes(b"\xff\x00\x81" * 99)


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
        ("config.json", empty),
        ("config.json", binary),
        ("config.json", lambda file: file.write_text("[]")),
        ("config.json", changed(model_type="affectnet_plus_none")),
        ("config.json", changed(image_size="big")),
        ("config.json", changed(id2label=3)),
        ("config.json", changed(id2label={"0": "sad", "7": "happy"})),
        ("config.json", changed(training=["x"])),
        ("config.json", changed(calibration={"sad": {"prior": "x"}})),
        ("model.safetensors", cut),
        ("model.safetensors", empty),
    ],
)
def test_a_damaged_model_is_named_by_all_that_read_it(file, damage, models, ferplus, tmp_path, monkeypatch, capsys):
    for kind in ("ebc", "au", "soft_fer"):
        shutil.copytree(models / kind, tmp_path / kind)
        damage(tmp_path / kind / file)
    data, target = ["--dataset_name", ferplus], ["--output_dir", tmp_path / "out"]
    start = [*SOFT_FER, *data, *target, "--backbone", "test_vit"]
    for script, args, kind in (
        (evaluate_model, [*data, *target, "--model", tmp_path / "ebc"], "ebc"),
        (label, [*data, *target, "--ebc", tmp_path / "ebc", "--au", tmp_path / "au"], "ebc"),
        (label, [*data, *target, "--ebc", models / "ebc", "--au", tmp_path / "au"], "au"),
        (train_soft_fer, [*start, "--teacher", tmp_path / "soft_fer"], "soft_fer"),
        (train_soft_fer, [*start, "--init_from", tmp_path / "soft_fer"], "soft_fer"),
        (train_ebc, [*SMALL, *data, "--output_dir", tmp_path / "ebc"], "ebc"),
    ):
        said = said_by(script, *args, monkeypatch=monkeypatch, capsys=capsys)
        assert f"{tmp_path / kind / file} is damaged (" in said and "copy or train that model anew" in said
    sentence = rf"{re.escape(str(tmp_path / 'soft_fer' / file))} is damaged \(.*copy or train that model anew"
    for said in said_by_those_that_answer(tmp_path / "soft_fer", tmp_path, monkeypatch, capsys):
        assert re.search(sentence, said)
    assert re.search(
        sentence, said_by_command("export-onnx", tmp_path / "soft_fer", tmp_path / "out.onnx", capsys=capsys)
    )
    assert not list(tmp_path.glob("out*"))


def said_by_command(*words, capsys) -> str:
    """The one sentence that `affectnet-plus` ends with."""
    with pytest.raises(SystemExit) as end:
        main(list(map(str, words)))
    said = capsys.readouterr().err
    (message,) = [line for line in said.splitlines() if line.startswith("affectnet-plus: error: ")]
    assert end.value.code == 2 and "Traceback" not in said
    return message


def said_by_those_that_answer(model: Path, tmp_path: Path, monkeypatch, capsys):
    """What is said of a model by all that look at faces with it."""
    Image.new("RGB", (32, 32)).save(tmp_path / "face.png")
    yield said_by_command(
        "predict", tmp_path / "face.png", "--output", tmp_path / "out.csv", "--model", model, capsys=capsys
    )
    if importlib.util.find_spec("gradio"):
        yield said_by_command("app", "--model", model, capsys=capsys)
        yield said_by_command("app", "--model", model, "--export", tmp_path / "out", capsys=capsys)
    args = [
        "--model",
        model,
        "--images",
        tmp_path / "face.png",
        "--num_faces",
        0,
        "--output_file",
        tmp_path / "out.png",
    ]
    yield said_by(show_faces, *args, monkeypatch=monkeypatch, capsys=capsys)
    with pytest.raises(ValueError) as error:
        pipeline("soft-fer", model=str(model))
    yield str(error.value)


@pytest.mark.parametrize(
    "damage", [cut, empty, binary, lambda file: file.write_text("[]"), changed(size="big"), Path.unlink]
)
def test_a_damaged_image_processor_is_named(damage, models, tmp_path, monkeypatch, capsys):
    file = shutil.copytree(models / "soft_fer", tmp_path / "model") / "preprocessor_config.json"
    damage(file)
    for said in said_by_those_that_answer(file.parent, tmp_path, monkeypatch, capsys):
        assert f"{file} is damaged (" in said and "copy or train that model anew" in said
    assert not list(tmp_path.glob("out*"))


def test_what_a_run_keeps_beside_a_model_is_no_part_of_it(tmp_path):
    model_of("ebc").save_pretrained(tmp_path)
    (tmp_path / ".best-happy.safetensors").symlink_to("gone")  # another process has just removed it
    (tmp_path / ".writing-model.safetensors").write_bytes(b"half")
    assert read_config(tmp_path).expressions


@pytest.mark.parametrize("damage", [cut, empty, binary])
def test_a_damaged_onnx_file_is_named(damage, tmp_path, monkeypatch, capsys):
    file = Path(shutil.copy(BUNDLED_ONNX, tmp_path / "model.onnx"))
    damage(file)
    for said in said_by_those_that_answer(file, tmp_path, monkeypatch, capsys):
        assert f"{file} is no ONNX file" in said and "export it anew" in said
    assert not list(tmp_path.glob("out*"))


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


def test_settings_that_are_all_others_are_told_in_a_few():
    settings = {f"setting_{number}": "x" * 500 for number in range(30)}
    with pytest.raises(ValueError, match="setting_0 .was None, now x.* and 26 more. Take the same") as raised:
        check_same_settings(Path("run"), "all", {}, settings)
    assert len(str(raised.value)) < 600
