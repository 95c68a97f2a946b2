"""train_soft_fer.py as people run it, the model it makes, and experts that start from it."""

import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from runs import assert_same_weights, train, weights
from scipy.special import logit, softmax
from transformers import AutoModelForImageClassification, pipeline

from affectnet_plus import EXPRESSIONS
from modeling import SoftFerConfig, SoftFerForImageClassification, log_odds_of_softmax
from training import train_ebc, train_soft_fer
from training.arguments import DataArguments
from training.data import load_split

COMMON = ["--image_size", 32, "--per_device_train_batch_size", 16, "--dataloader_num_workers", 1, "--seed", 3]
COMMON += ["--eval_strategy", "no"]


@pytest.fixture(scope="module")
def softmax_runs(ferplus, tmp_path_factory):
    """A classifier taught the human label, whole and in two folds."""
    folder = tmp_path_factory.mktemp("soft_fer")
    args = [*COMMON, "--dataset_name", ferplus, "--target", "hard", "--backbone", "test_vit", "--max_train_steps", 6]
    for more in (["--output_dir", "hard"], ["--output_dir", "folds", "--num_folds", 2]):
        train(*args, *more, script="train_soft_fer.py", cwd=folder)
    return folder


def test_classifier_taught_hard_labels(ferplus, tmp_path):
    args = [*COMMON, "--dataset_name", ferplus, "--target", "hard", "--backbone", "test_efficientnet"]
    args += ["--num_train_epochs", 12, "--learning_rate", 4e-3, "--output_dir", "hard"]
    train(*args, script="train_soft_fer.py", cwd=tmp_path)
    metrics = json.loads((tmp_path / "hard" / "metrics.json").read_text())
    assert metrics["rows"] == 80 and metrics["accuracy"] > 0.5 and metrics["js_divergence"] < 0.25
    config = SoftFerConfig.from_pretrained(tmp_path / "hard")
    record = config.training["all"]
    assert config.activation == "softmax" and record["target"] == "hard" and record["sampler"]["draws"] == 120 * 16
    # Grey 80 is the third class there: surprise, which is our fourth.
    answer = pipeline("soft-fer", model=str(tmp_path / "hard"))(np.full((24, 24), 80, np.uint8))
    assert answer["label"] == "surprise" and sum(answer["soft_label"].values()) == pytest.approx(1, abs=1e-5)
    assert "They sum to one" in (tmp_path / "hard" / "README.md").read_text()


@pytest.mark.parametrize(("target", "activation"), [("soft", "sigmoid"), ("distribution", "softmax")])
def test_it_learns_the_soft_labels_that_label_py_wrote_not_the_human_ones(target, activation, ferplus, tmp_path):
    human = load_split(DataArguments(dataset_name=str(ferplus)), "train")
    soft_label = 0.6 * np.eye(8)[(human.labels + 1) % 8] + 0.2 * np.eye(8)[human.labels]  # another expression leads
    (tmp_path / "soft").mkdir()
    table = pa.table({"image_id": human.ids, "soft_label": soft_label.tolist()})
    pq.write_table(table, tmp_path / "soft" / "train-00000-of-00001.parquet")
    args = [*COMMON, "--dataset_name", ferplus, "--backbone", "test_efficientnet", "--output_dir", "model"]
    args += ["--target", target, "--soft_labels", "soft", "--num_train_epochs", 24, "--learning_rate", 4e-3]
    train(*args, script="train_soft_fer.py", cwd=tmp_path)
    config = SoftFerConfig.from_pretrained(tmp_path / "model")
    assert config.activation == activation and config.training["all"]["soft_labels"] == "label.py"
    faces = [human.image(row) for row in range(40)]
    answers = pipeline("soft-fer", model=str(tmp_path / "model"))(faces)
    led_by = [EXPRESSIONS[(label + 1) % 8] for label in human.labels[:40]]
    assert sum(answer["label"] == name for answer, name in zip(answers, led_by, strict=True)) > 20


def test_trained_the_same_again_it_is_the_same(softmax_runs, ferplus, tmp_path):
    args = [*COMMON, "--dataset_name", ferplus, "--target", "hard", "--backbone", "test_vit", "--max_train_steps", 6]
    train(*args, "--output_dir", "hard", script="train_soft_fer.py", cwd=tmp_path)
    assert_same_weights(tmp_path / "hard", softmax_runs / "hard")


def test_experts_start_from_it_all_but_the_last_layer(softmax_runs, ferplus, tmp_path):
    still = [*COMMON, "--learning_rate", 1e-12, "--weight_decay", 0, "--max_train_steps", 1, "--dataset_name", ferplus]
    still += ["--expressions", "fear", "--init_from", softmax_runs / "hard"]
    train(*still, "--backbones", "test_vit", "test_vit", "--output_dir", "ebc", cwd=tmp_path)
    train(*still, "--backbone", "test_vit", "--output_dir", "au", script="train_au.py", cwd=tmp_path)
    start = weights(softmax_runs / "hard")
    for folder, prefixes in (
        ("ebc", ["experts.fear.classifiers.0.", "experts.fear.classifiers.1."]),
        ("au", ["experts.fear.backbone."]),
    ):
        trained = weights(tmp_path / folder)
        for prefix in prefixes:
            for name, value in start.items():
                name = name.removeprefix("backbone.")
                if not name.startswith("head."):
                    np.testing.assert_allclose(trained[prefix + name], value, atol=1e-7)
        record = json.loads((tmp_path / folder / "config.json").read_text())["training"]["fear"]
        assert record["init_from"][0].startswith("hard (sha256 ")
        assert "init_from: ['hard (sha256" in (tmp_path / folder / "README.md").read_text()


def test_with_outputs_for_the_rest_they_start_as_the_classifier_they_come_from(softmax_runs, ferplus, tmp_path):
    still = [*COMMON, "--learning_rate", 1e-12, "--weight_decay", 0, "--max_train_steps", 1, "--dataset_name", ferplus]
    still += ["--expressions", "fear", "--init_from", softmax_runs / "hard", "--rest_outputs", 7]
    train(*still, "--backbones", "test_vit", "--output_dir", "ebc", cwd=tmp_path)
    train(*still, "--backbone", "test_vit", "--output_dir", "au", script="train_au.py", cwd=tmp_path)
    pixel_values = torch.randn(9, 3, 32, 32)
    with torch.no_grad():
        start, ebc, au = (
            AutoModelForImageClassification.from_pretrained(folder)
            for folder in (softmax_runs / "hard", tmp_path / "ebc", tmp_path / "au")
        )
        log_odds = start(pixel_values).logits[:, EXPRESSIONS.index("fear")]
        # An eighth of the rows shows fear, half of the faces drawn will.
        torch.testing.assert_close(ebc(pixel_values).classifier_logits[:, 0, 0], log_odds + np.log(7))
        torch.testing.assert_close(au.experts["fear"](pixel_values)[:, 0], log_odds + np.log(7))
        assert au(pixel_values).au_logits[0].shape == (9, 7)
    assert au.config.rest_outputs == ebc.config.rest_outputs == 7


def test_in_folds_they_start_from_weights_of_the_same_fold(softmax_runs, ferplus, tmp_path, monkeypatch, capsys):
    args = [*COMMON, "--learning_rate", 1e-12, "--weight_decay", 0, "--max_train_steps", 1, "--dataset_name", ferplus]
    args += ["--expressions", "fear", "--backbones", "test_vit", "--num_folds", 2]
    train(*args, "--init_from", softmax_runs / "folds", "--output_dir", "ebc", cwd=tmp_path)
    for fold in ("fold-0", "fold-1"):
        start, trained = weights(softmax_runs / "folds" / fold), weights(tmp_path / "ebc" / fold)
        name = "patch_embed.proj.weight"
        np.testing.assert_allclose(trained[f"experts.fear.classifiers.0.{name}"], start[f"backbone.{name}"], atol=1e-7)
    # Weights of all rows would undo the cross-fitting.
    said = stopped(train_ebc, [*args, "--init_from", softmax_runs / "hard"], tmp_path, monkeypatch, capsys)
    assert "hard" in said and "rows that fold 0 of 2 leaves out" in said


def stopped(script, args, tmp_path, monkeypatch, capsys) -> str:
    """The one sentence it ends with."""
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, args), "--output_dir", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as end:
        script.main()
    assert end.value.code == 2 and not (tmp_path / "none" / "config.json").exists()
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train.py: error: ")]
    return said


@pytest.mark.parametrize(
    ("script", "flags", "says"),
    [
        (
            train_ebc,
            ["--backbones", "test_resnet", "--init_from", "{runs}/hard"],
            ["hard", "no weights of test_resnet"],
        ),
        (train_ebc, ["--backbones", "test_vit", "--init_from", "{runs}/folds"], ["folds", "--num_folds"]),
        (train_ebc, ["--backbones", "test_vit", "--init_from", "nowhere"], ["nowhere", "model.safetensors"]),
        (
            train_ebc,
            ["--backbones", "test_vit", "--init_from", "{runs}/hard", "--per_image_standardization"],
            ["hard", "trained without --per_image_standardization"],
        ),
        (
            train_ebc,
            ["--backbones", *["test_vit"] * 3, "--init_from", "{runs}/hard", "{runs}/hard"],
            ["2 weights for 3 backbones"],
        ),
        (
            train_ebc,
            ["--backbones", "test_vit", "--init_from", "{runs}/hard", "--pretrained"],
            ["--pretrained", "--init_from"],
        ),
        (train_soft_fer, ["--backbone", "test_vit", "--soft_labels", "{runs}/hard"], ["hard", "label.py"]),
        (
            train_soft_fer,
            ["--backbone", "test_vit", "--target", "hard", "--soft_labels", "x"],
            ["--target hard", "--soft_labels"],
        ),
        (
            train_soft_fer,
            ["--backbone", "test_vit", "--soft_label_column_name", "image"],
            ["'image'", "--soft_label_column_name"],
        ),
        (
            train_soft_fer,
            ["--backbone", "test_vit", "--soft_label_column_name", "votes"],
            ["no soft labels", "--soft_label_column_name", "--target hard"],
        ),
    ],
)
def test_bad_input_is_one_sentence(script, flags, says, softmax_runs, ferplus, tmp_path, monkeypatch, capsys):
    flags = [str(flag).format(runs=softmax_runs) for flag in flags]
    args = [*COMMON, "--dataset_name", ferplus, "--max_train_steps", 1, *flags]
    said = stopped(script, args, tmp_path, monkeypatch, capsys)
    for part in says:
        assert part in said


def test_log_odds_are_those_of_the_softmax():
    outputs = np.random.default_rng(0).normal(0, 3, (20, 8))
    ours = log_odds_of_softmax(torch.from_numpy(outputs)).numpy()
    np.testing.assert_allclose(ours, logit(softmax(outputs, axis=1)), atol=1e-9)
    assert torch.isfinite(log_odds_of_softmax(torch.tensor([[200.0, 0.0, -200.0]]))).all()


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_round_trip_and_stock_pipeline(activation, tmp_path):
    config = SoftFerConfig(backbone="test_convnext", image_size=48, activation=activation)
    model = SoftFerForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    pixel_values = torch.randn(3, 3, 48, 48)
    with torch.no_grad():
        loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
        assert torch.equal(loaded(pixel_values).logits, model(pixel_values).logits)
    face = np.random.default_rng(0).integers(0, 256, (60, 50, 3), dtype=np.uint8)
    ours = pipeline("soft-fer", model=str(tmp_path))(face)["soft_label"]
    stock = pipeline("image-classification", model=str(tmp_path))(face, top_k=8)
    assert {row["label"]: row["score"] for row in stock} == pytest.approx(ours)
