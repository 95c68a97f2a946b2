"""train_ebc.py as people run it: real processes, a small release, small networks."""

import json
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from runs import ACCELERATE, SMALL, Script, assert_same_weights, train, train_until, weights
from transformers import AutoModelForImageClassification, pipeline

from affectnet_plus import EXPRESSIONS
from affectnet_plus.modeling import EBCConfig
from affectnet_plus.training import train_ebc


@pytest.fixture(scope="module")
def broken(ferplus, tmp_path_factory) -> Path:
    """The same with images that are none, and columns with gaps."""
    folder = tmp_path_factory.mktemp("data") / "broken"
    folder.mkdir()
    for file in ferplus.iterdir():
        rows = datasets.Dataset.from_parquet(str(file)).cast_column("image", datasets.Image(decode=False))
        images = rows["image"][:]
        some = [{"bytes": None if i == 5 else image["bytes"], "path": None} for i, image in enumerate(images)]
        rows = rows.add_column("some_images", [None if image["bytes"] is None else image for image in some])
        rows = rows.add_column("some", [-1 if i == 3 else label for i, label in enumerate(rows["label"])])
        rows = rows.add_column("votes", [[7.0, 3.0] + [0.0] * 6] * len(rows))
        rows = rows.remove_columns("image").add_column("image", [{"bytes": b"no image", "path": None}] * len(rows))
        rows = rows.cast_column("image", datasets.Image()).cast_column("some_images", datasets.Image())
        rows.cast_column("some", rows.features["label"]).to_parquet(folder / file.name)
    return folder


@pytest.fixture(scope="module")
def unbroken(release, tmp_path_factory) -> Path:
    """Two expressions trained without a break, from a folder that is not the repository."""
    cwd = tmp_path_factory.mktemp("elsewhere")
    train(
        *SMALL, "--data_dir", release, "--output_dir", "runs/ebc", "--expressions", "happy", "contempt",
        "--max_train_steps", 24, "--report_to", "tensorboard", cwd=cwd, launcher=ACCELERATE,
    )  # fmt: skip
    return cwd / "runs" / "ebc"


def test_folder_is_a_complete_model(unbroken, release):
    config = EBCConfig.from_pretrained(unbroken)
    assert config.expressions == ["happy", "contempt"]
    record = config.training["contempt"]
    assert 0 < record["sampler"].pop("best_step", 24) <= 24  # none where the last one was the best
    assert record["sampler"] == {
        "name": "balanced",
        "share_of_expression": 0.5,
        "draws": 24 * 16,
        "seed": record["sampler"]["seed"],
    }
    assert record["sampler"]["seed"] != config.training["happy"]["sampler"]["seed"]
    fitted = config.calibration["happy"]
    assert sum(fitted["backbone_weights"]) == pytest.approx(1) and fitted["temperature"] > 0
    metrics = json.loads((unbroken / "metrics.json").read_text())
    assert metrics["auroc"]["happy"] == pytest.approx(config.training["happy"]["auroc"], abs=1e-4)
    assert f"{record['average_precision']:.3f}" in (unbroken / "README.md").read_text()
    assert list(unbroken.rglob("events.out.tfevents*"))
    assert not list(unbroken.glob("*checkpoint*"))
    photo = next((release / "human_annotated/validation_set/images").iterdir())
    assert list(pipeline("soft-fer", faces="crop", model=str(unbroken))(str(photo))["soft_label"]) == [
        "happy",
        "contempt",
    ]


def test_killed_in_mid_epoch_it_goes_on_to_the_very_same_weights(unbroken, release, tmp_path):
    args = [*SMALL, "--data_dir", release, "--output_dir", "ebc", "--expressions", "happy", "contempt"]
    args += ["--max_train_steps", 24, "--checkpointing_steps", 5, "--resume_from_checkpoint", "latest"]
    # Killed in the second expression, after a checkpoint: no epoch has ended there.
    train_until((tmp_path / "ebc" / "checkpoint-contempt-5").exists, *args, cwd=tmp_path)
    assert EBCConfig.from_pretrained(tmp_path / "ebc").expressions == ["happy"]
    assert list((tmp_path / "ebc").glob("checkpoint-contempt-*")), "killed before the first checkpoint"
    assert "happy: " not in train(*args, cwd=tmp_path)  # what was finished is not trained again
    assert_same_weights(tmp_path / "ebc", unbroken)
    config, expected = EBCConfig.from_pretrained(tmp_path / "ebc"), EBCConfig.from_pretrained(unbroken)
    assert config.calibration == expected.calibration


def test_expressions_complete_each_other(unbroken, release, tmp_path):
    for expression in ("contempt", "happy"):
        train(
            *SMALL, "--data_dir", release, "--output_dir", "ebc", "--expressions", expression,
            "--max_train_steps", 24, cwd=tmp_path,
        )  # fmt: skip
    assert EBCConfig.from_pretrained(tmp_path / "ebc").expressions == ["happy", "contempt"]
    assert_same_weights(tmp_path / "ebc", unbroken)
    said = train(
        *SMALL, "--backbones", "test_vit", "--data_dir", release, "--output_dir", "ebc", cwd=tmp_path, expect=2
    )
    assert "holds a model with backbones ['test_vit', 'test_vit3']" in said


def test_dataset_with_another_label_order_is_matched_by_name(ferplus, tmp_path):
    train(
        *SMALL, "--backbones", "test_efficientnet", "--dataset_name", ferplus, "--output_dir", "ebc",
        "--warm_start_epochs", 16, "--num_train_epochs", 1, "--eval_strategy", "no", cwd=tmp_path,
    )  # fmt: skip
    metrics = json.loads((tmp_path / "ebc" / "metrics.json").read_text())
    assert metrics["rows"] == 80
    assert metrics["mean_auroc"] > 0.9
    assert metrics["accuracy"] > 0.5
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "ebc")
    assert tuple(model.config.expressions) == EXPRESSIONS
    # The grey of class i, in the order of that dataset.
    greys = [np.full((24, 24), 30 * i + 20, np.uint8) for i in range(8)]
    answers = pipeline("soft-fer", faces="crop", model=str(tmp_path / "ebc"))(greys)
    there = ["neutral", "happy", "surprise", "sad", "anger", "disgust", "fear", "contempt"]
    assert sum(answer["label"] == name for answer, name in zip(answers, there, strict=True)) >= 6
    assert metrics["js_divergence"] < 0.25


def test_two_processes_train_the_model_of_one(ferplus, tmp_path):
    args = [*SMALL, "--dataset_name", ferplus, "--expressions", "sad", "--max_train_steps", 4]
    two = [*args, "--output_dir", "two", "--gradient_accumulation_steps", 2]
    train(*two, cwd=tmp_path, processes=2)
    record = EBCConfig.from_pretrained(tmp_path / "two").training["sad"]
    assert record["faces_per_step"] == 16 * 2 * 2 and record["sampler"]["draws"] == 4 * 64
    assert json.loads((tmp_path / "two" / "metrics.json").read_text())["rows"] == 80
    train(*args, "--output_dir", "one", "--per_device_train_batch_size", 64, cwd=tmp_path)
    ours, theirs = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], atol=2e-4)


def test_two_runs_share_a_folder(ferplus, tmp_path):
    args = [*SMALL, "--dataset_name", ferplus, "--output_dir", "ebc", "--max_train_steps", 12]
    args += ["--checkpointing_steps", 1, "--expressions"]
    for run in [Script("train_ebc.py", *args, name, cwd=tmp_path) for name in ("sad", "fear")]:
        status, _, error = run.wait()
        assert status == 0, error[-3000:]
    assert EBCConfig.from_pretrained(tmp_path / "ebc").expressions == ["sad", "fear"]


def test_flags_from_a_file(ferplus, tmp_path):
    (tmp_path / "run.yaml").write_text(
        f"dataset_name: {ferplus}\noutput_dir: ebc\nexpressions: [sad]\nbackbones: [test_vit]\nimage_size: 32\n"
        "max_train_samples: null\ninit_from: []\n"
        "max_train_steps: 2\nlearning_rate: 1e-3\neval_strategy: no\ncheckpointing_steps: 1\n"
    )
    train("run.yaml", cwd=tmp_path)
    assert EBCConfig.from_pretrained(tmp_path / "ebc").expressions == ["sad"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--image_size", "64"], ["--data_dir", "AFFECTNET_PLUS_DIR", "--dataset_name"]),
        (["--data_dir", "/no/such/release"], ["/no/such/release"]),
        (["--data_dir", "{release}", "--image_size", "-1"], ["--image_size", "-1"]),
        (["--dataset_name", "/no/such/folder"], ["/no/such/folder"]),
        (
            ["--dataset_name", "{ferplus}", "--label_column_name", "emotion"],
            ["emotion", "soft_label", "--label_column"],
        ),
        (["--dataset_name", "{ferplus}", "--image_column_name", "face"], ["face", "--image_column_name"]),
        (["--dataset_name", "{ferplus}", "--eval_split_name", "test"], ["test", "train, validation"]),
        (["--dataset_name", "{ferplus}", "--expressions", "happy", "bored"], ["bored", "happy", "contempt"]),
        (["--dataset_name", "{ferplus}", "--backbones", "resnet5x"], ["resnet5x", "resnet50"]),
        (["--dataset_name", "{ferplus}", "--max_train_samples", "20"], ["Too few rows", "neutral"]),
        (["--dataset_name", "{ferplus}", "--checkpointing_steps", "often"], ["--checkpointing_steps", "often"]),
        (["--dataset_name", "{ferplus}", "--learning_rate", "-1"], ["--learning_rate", "-1"]),
        (["--dataset_name", "{ferplus}", "--learning_rate", "1e38"], ["--learning_rate 1e+38 is no usable number"]),
        (["--dataset_name", "{ferplus}", "--weight_decay", "nan"], ["--weight_decay nan is no usable number"]),
        (["--dataset_name", "{ferplus}", "--num_train_epochs", "inf"], ["--num_train_epochs inf is no usable"]),
        (["--dataset_name", "{ferplus}", "--resume_from_checkpoint", "nowhere"], ["nowhere", "no checkpoint"]),
        (["--dataset_name", "{ferplus}", "--backbones", "resnet50.foo"], ["resnet50.foo", "foo"]),
        (["--dataset_name", "{ferplus}", "--report_to", "wandb"], ["wandb", "pip install"]),
        (["--dataset_name", "{ferplus}", "--label_column_name", "soft_label"], ["soft_label", "ClassLabel"]),
        (["--dataset_name", "{broken}", "--label_column_name", "some"], ["no label", "first in 3"]),
        (["--dataset_name", "{broken}", "--image_column_name", "some_images"], ["1 rows without an image"]),
        (["--dataset_name", "{broken}", "--eval_strategy", "no"], ["row", "not a readable image"]),
        (["--dataset_name", "{ferplus}", "--max_grad_norm", "-1"], ["at least 0", "--max_grad_norm"]),
        (["--dataset_name", "{ferplus}", "--seed", "268435456"], ["below 268435456", "--seed"]),
        (["--dataset_name", "{broken}", "--soft_label_column_name", "votes"], ["not from 0 to 1", "first in", "sum"]),
        (["--dataset_name", "{ferplus}", "--pretrained"], ["No pretrained weights of test_vit", "train from scratch"]),
    ],
    ids=lambda value: value[-2].lstrip("-") if len(value) > 1 and str(value[0]).startswith("--") else None,
)
def test_bad_input_is_one_sentence(flags, says, release, ferplus, broken, tmp_path, monkeypatch, capsys):
    flags = [flag.format(release=release, ferplus=ferplus, broken=broken) for flag in flags]
    monkeypatch.setattr(sys, "argv", ["train_ebc.py", *SMALL, "--output_dir", str(tmp_path / "ebc"), *flags])
    with pytest.raises(SystemExit) as stopped:
        train_ebc.main()
    assert stopped.value.code == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train_ebc.py: error: ")]
    for part in says:
        assert part in said
    assert not (tmp_path / "ebc" / "config.json").exists()


@pytest.mark.parametrize(
    ("prior", "says"),
    [
        ("uniform", "--prior takes train, validation, balanced, or a number for each of neutral happy"),
        ("[0.5]", "or a number for each of neutral happy"),
        ("[0.3, 0.3, 0.3, 0.3, 0.1, 0.1, 0.1, 0.1]", "sum to 1, these to 1.6"),
        ("[1, 0, 0, 0, 0, 0, 0, 0]", "above 0 and below 1"),
    ],
)
def test_bad_value_in_a_file_is_said_too(prior, says, tmp_path, monkeypatch, capsys):
    (tmp_path / "run.yaml").write_text(f"output_dir: ebc\nprior: {prior}\n")
    monkeypatch.setattr(sys, "argv", ["train_ebc.py", str(tmp_path / "run.yaml")])
    with pytest.raises(SystemExit):
        train_ebc.main()
    assert says in capsys.readouterr().err


def test_a_broken_image_to_measure_on_is_known_before_training(ferplus, broken, tmp_path, monkeypatch, capsys):
    (tmp_path / "data").mkdir()
    for split, folder in (("train", ferplus), ("validation", broken)):
        rows = datasets.Dataset.from_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
        rows.select_columns(["image", "label"]).to_parquet(tmp_path / f"data/{split}.parquet")
    flags = ["--dataset_name", tmp_path / "data", "--output_dir", tmp_path / "out", "--eval_strategy", "no"]
    monkeypatch.setattr(sys, "argv", ["train_ebc.py", *map(str, flags)])
    with pytest.raises(SystemExit):
        train_ebc.main()
    said = capsys.readouterr().err
    assert "row 0 in validation is not a readable image" in said and "on_error skip" in said and "it/s" not in said


def test_resuming_with_other_settings_is_refused(ferplus, tmp_path, monkeypatch, capsys):
    args = [*SMALL, "--dataset_name", ferplus, "--output_dir", "ebc", "--expressions", "sad", "--max_train_steps", 400]
    args += ["--checkpointing_steps", 2]
    train_until(lambda: list((tmp_path / "ebc").glob("checkpoint-*")), *args, cwd=tmp_path)

    def refused(*flags) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["train_ebc.py", *map(str, [*args, *flags])])
        with pytest.raises(SystemExit):
            train_ebc.main()
        return capsys.readouterr().err

    said = refused("--learning_rate", 0.5, "--resume_from_checkpoint", "latest")
    assert "learning_rate (was 0.0003, now 0.5)" in said
    # As many faces a step, but dealt out otherwise.
    otherwise = ["--per_device_train_batch_size", 8, "--gradient_accumulation_steps", 2]
    said = refused(*otherwise, "--resume_from_checkpoint", "latest")
    assert "gradient_accumulation_steps (was 1, now 2)" in said and "faces_per_step" not in said
    said = refused("--learning_rate", 0.5)
    assert "of a run that was not finished, of other settings: learning_rate (was 0.0003, now 0.5)" in said
    assert list((tmp_path / "ebc").glob("checkpoint-*"))


def test_picture_of_faces_with_their_bars(unbroken, release, tmp_path):
    photo = next((release / "human_annotated/validation_set/images").iterdir())
    args = ["--model", unbroken, "--data_dir", release, "--images", photo, "--num_faces", 5]
    said = train(*args, "--output_file", "out/faces.png", script="show_faces.py", cwd=tmp_path)
    assert said.count("labelled ") == 5 and photo.name in said
    picture = Image.open(tmp_path / "out" / "faces.png")
    assert picture.width > 1000 and len(picture.convert("RGB").getcolors(2**20)) > 1000
