"""The bundled model: what a newcomer meets first."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image
from runs import train
from transformers import pipeline

from affectnet_plus import EXPRESSIONS
from affectnet_plus.modeling import BUNDLED_MODEL
from affectnet_plus.training import show_faces

ROOT = Path(__file__).parents[1]
REPORTS = "training/reports/templates/"
FIRST_LINES = """
import affectnet_plus
from transformers import pipeline

print([answer["label"] for answer in pipeline("soft-fer")("astronaut.png")])
"""


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    subprocess.run([sys.executable, ROOT / "tests/photographs.py", folder], check=True)
    return folder


def test_answers_with_no_model_named_and_nothing_cached(photographs, tmp_path):
    empty = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", FIRST_LINES], cwd=photographs, env=os.environ | empty, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "['happy']"


def test_real_faces(photographs):
    fer = pipeline("soft-fer", faces="crop", model=str(BUNDLED_MODEL))
    photo = Image.open(photographs / "astronaut.png")
    coloured, grey = fer(photo), fer(photo.convert("L"))
    assert coloured["soft_label"] == pytest.approx(grey["soft_label"], abs=0.02)
    mirrored = fer(photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert coloured["soft_label"] == pytest.approx(mirrored["soft_label"], abs=1e-3)
    assert sum(coloured["soft_label"].values()) == pytest.approx(1, abs=1e-3)
    laughing, surprised = fer([str(photographs / f"lfw-{number}.png") for number in (53, 29)])
    assert (laughing["label"], surprised["label"]) == ("happy", "surprise")


def test_a_saved_pipeline_holds_no_path_of_this_machine(tmp_path):
    pipeline("soft-fer", faces="crop", model=str(BUNDLED_MODEL)).save_pretrained(tmp_path)
    assert "soft-fer" in (config := (tmp_path / "config.json").read_text()) and str(ROOT) not in config


def test_pictures_of_photographs_need_no_dataset(photographs, tmp_path):
    args = ["--images", photographs / "astronaut.png", photographs / "hopper.png", "--output_file", "faces.png"]
    said = train(*args, "--num_faces", 0, script="show_faces.py", cwd=tmp_path)
    assert "astronaut.png: happy" in said and "hopper.png: " in said
    assert Image.open(tmp_path / "faces.png").width > 400


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--num_faces", "0"], "There is nothing to show"),
        (["--num_faces", "-1"], "There is nothing to show"),
        (["--model", "nowhere"], "--model nowhere is no folder with a model"),
    ],
)
def test_bad_input_is_one_sentence(flags, says, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["show_faces.py", "--output_file", "none.png", *flags])
    with pytest.raises(SystemExit) as stopped:
        show_faces.main()
    assert stopped.value.code == 2 and says in capsys.readouterr().err


def test_measured_when_no_model_is_named(release, tmp_path):
    args = ["--data_dir", release, "--output_dir", "out", "--num_faces", 0, "--max_samples", 40]
    train(*args, script="evaluate_model.py", cwd=tmp_path)
    assert json.loads((tmp_path / "out/metrics.json").read_text())["model"] == BUNDLED_MODEL.name


def test_the_card_says_what_was_measured():
    card, measured = ModelCard.load(BUNDLED_MODEL / "README.md"), ROOT / "benchmarks/results/bundled_model.json"
    measured = json.loads(measured.read_text())
    figures = {figure.metric_type: figure.metric_value for figure in card.data.eval_results}
    for name in ("accuracy", "js_divergence"):
        assert figures[name] == measured["bundled"][name]
    assert f"{measured['rows']:,} faces" in card.data.eval_results[0].dataset_name
    for said in ("What it cannot do", "FER+", "48 x 48", "decide about people"):
        assert said in card.text
    config = json.loads((BUNDLED_MODEL / "config.json").read_text())
    assert tuple(config["id2label"].values()) == EXPRESSIONS and "/" not in json.dumps(config["training"])


def test_comes_with_the_wheel_and_no_face_does(wheel):
    with zipfile.ZipFile(wheel) as files:
        sizes = {file.filename: file.file_size for file in files.infolist()}
    for path in BUNDLED_MODEL.iterdir():
        assert sizes[f"affectnet_plus/modeling/bundled/{path.name}"] == path.stat().st_size
    assert sizes["affectnet_plus/modeling/bundled/model.safetensors"] <= 8e6
    for folder, template in (
        ("releases/", "dataset_card.md.jinja"),
        (REPORTS, "style.css"),
    ):
        assert sizes[f"affectnet_plus/{folder}{template}"]
    assert not [name for name in sizes if name.endswith((".png", ".jpg", ".parquet", ".csv"))]
