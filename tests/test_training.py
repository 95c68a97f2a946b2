"""train_ebc.py as people run it: real processes, a small release, small networks."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from runs import ACCELERATE, SMALL, Script, assert_same_weights, train, train_until, weights
from scipy.spatial.distance import cosine
from scipy.special import expit, logit
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score
from transformers import AutoModelForImageClassification, pipeline

from affectnet_plus import EXPRESSIONS, GENDERS
from affectnet_plus.modeling import EBCConfig, FusedConfig
from affectnet_plus.synthetic import synthesize
from affectnet_plus.training import train_ebc
from affectnet_plus.training.arguments import DataArguments
from affectnet_plus.training.faces import PermutationSampler, Split, images_in, known_truth, load_split
from affectnet_plus.training.metrics import OneVsRest, SoftLabels, js_divergence, js_divergences, nan_to_none
from affectnet_plus.training.soft_labels.calibration import fit_calibration, reexpress, shift_of_prior
from affectnet_plus.training.soft_labels.fusion import fit_fusion
from affectnet_plus.training.soft_labels.posterior import fit_precision, posterior_of


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
    assert list(pipeline("soft-fer", model=str(unbroken))(str(photo))["soft_label"]) == ["happy", "contempt"]


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
    answers = pipeline("soft-fer", model=str(tmp_path / "ebc"))(greys)
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
        (["--data_dir", "{release}", "--dataset_name", "{ferplus}"], ["--data_dir", "--dataset_name"]),
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
    ids=lambda value: value[-2].lstrip("-") if isinstance(value[0], str) and value[0].startswith("--") else None,
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
        ("[0.5, 0.5]", "or a number for each of neutral happy"),
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


def test_any_release_is_recognised_and_its_broken_rows_can_be_left_out(tmp_path):
    synthesize(tmp_path / "2021", train=60, validation=24, seed=2, num_proc=1, image_size=48, layout="2021")
    split = load_split(DataArguments(data_dir=str(tmp_path / "2021")), "validation", with_soft_labels=True)
    assert len(split) > 8 and split.soft_labels is None
    assert split.image(0).size == (48, 48)
    image = next((tmp_path / "2021/val_set/images").iterdir())
    content = image.read_bytes()
    image.unlink()
    image.write_bytes(content[:-50])
    with pytest.raises(ValueError, match="truncated image.*on_error"):
        load_split(DataArguments(data_dir=str(tmp_path / "2021")), "validation")
    with pytest.warns(UserWarning, match="1 broken row"):
        left = load_split(DataArguments(data_dir=str(tmp_path / "2021"), on_error="skip"), "validation")
    assert len(left) == len(split) - 1


def test_truth_and_name_are_those_of_the_release_that_the_configuration_reads(tmp_path):
    small = {"seed": 2, "num_proc": 1, "image_size": 32}
    synthesize(tmp_path / "AffectNet", train=0, validation=24, unannotated=24, layout="2017", **small)
    synthesize(tmp_path / "AffectNet+", train=0, validation=24, **small)
    for config_name, name in (("affectnet_2017", "AffectNet (2017)"), ("human_annotated", "AffectNet+")):
        args = DataArguments(data_dir=str(tmp_path), dataset_config_name=config_name)
        split = load_split(args, "validation")
        truth, _ = known_truth(split, args)
        assert args.name() == f"synthetic {name}" and (truth.argmax(axis=1) == split.labels).mean() > 0.6
    args = DataArguments(data_dir=str(tmp_path / "AffectNet"))
    split = load_split(args, "automatically_annotated")
    assert len(known_truth(split, args)[0]) == len(split) > 0


def test_columns_as_others_write_them_are_taken_or_named(tmp_path):
    rows = {"image": [Image.new("L", (8, 8))] * 8, "label": list(EXPRESSIONS), "age": [31.5] * 8}
    rows |= {"gender": [dict.fromkeys(GENDERS, 0.5)] * 8, "ethnicity": ["asian"] * 8, "subset": ["easy"] * 8}
    datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).to_parquet(tmp_path / "train.parquet")
    with pytest.warns(UserWarning) as warned:
        split = load_split(DataArguments(dataset_name=str(tmp_path)), "train")
    assert split.metadata["gender"][3] == dict.fromkeys(GENDERS, 0.5) and split.metadata["subset"][:] == [0] * 8
    said = [str(w.message) for w in warned if "is left out" in str(w.message)]
    assert sorted(text.split("'")[1] for text in said) == ["age", "ethnicity"]


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


def test_columns_in_another_order_or_range_are_noticed(tmp_path):
    names = sorted(EXPRESSIONS)
    labels = np.arange(80) % 8
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    features |= {"soft_label": datasets.List(datasets.Value("float32"), length=8)}
    features |= {name: datasets.Value("float32") for name in ("valence", "arousal")}

    def load(soft_labels):
        rows = {"image": [Image.new("L", (8, 8))] * 80, "label": labels, "soft_label": soft_labels}
        rows |= {"valence": [-2.0, 0.5] * 40, "arousal": [5.0, 0.5] * 40}
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        data = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
        data.to_parquet(folder / "train-00000-of-00001.parquet")
        return load_split(DataArguments(dataset_name=str(folder)), "train", with_soft_labels=True)

    with pytest.warns(UserWarning, match="'arousal' of train is left out: it holds 5 in row 0"):
        split = load(np.eye(8)[labels])  # in the order of the class names
    assert (split.soft_labels.argmax(axis=1) == split.labels).all()
    valence, arousal = split.affect().T
    assert np.isnan(valence[::2]).all() and (valence[1::2] == 0.5).all() and np.isnan(arousal).all()
    with pytest.raises(ValueError, match="in another order than the class names"):
        load(np.eye(8)[[EXPRESSIONS.index(names[label]) for label in labels]])  # in AffectNet's


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


def test_sampler_continues_where_it_was():
    is_expression = np.arange(50) < 7
    groups = [np.flatnonzero(is_expression), np.flatnonzero(~is_expression)]
    draws = list(PermutationSampler(groups, seed=5, num_draws=200))
    assert [is_expression[row] for row, _ in draws] == [True, False] * 100
    for side in (0, 1):  # nothing comes twice before everything has come once
        rows = [row for row, _ in draws[side::2]]
        size = 7 if side == 0 else 43
        assert all(len(set(rows[i : i + size])) == size for i in range(0, len(rows) - size, size))
    assert len({seed for _, seed in draws}) == 200
    assert list(PermutationSampler(groups, seed=5, num_draws=200, start=77)) == draws[77:]
    assert list(PermutationSampler(groups, seed=6, num_draws=200)) != draws


def test_calibration_finds_what_generated_the_labels():
    rng = np.random.default_rng(0)
    log_odds = rng.normal(0, 2, (40_000, 3))
    true = log_odds @ [0.6, 0.4, 0.0] / 0.8 - 1.5
    is_expression = rng.random(len(true)) < 1 / (1 + np.exp(-true))
    fitted = fit_calibration(log_odds, is_expression)
    assert fitted["backbone_weights"] == pytest.approx([0.6, 0.4, 0.0], abs=0.03)
    assert fitted["temperature"] == pytest.approx(0.8, abs=0.04)
    assert fitted["log_odds_shift"] == pytest.approx(-1.5, abs=0.06)
    assert fitted["prior"] == fitted["validation_frequency"] == is_expression.mean()
    silent = fit_calibration(-np.abs(log_odds), np.arange(len(true)) % 2 == 0)
    assert np.isfinite(list(silent.values())[1]) and sum(silent["backbone_weights"]) == pytest.approx(1)
    few = fit_calibration(log_odds[:30], is_expression[:30])  # say little
    assert few["temperature"] == pytest.approx(1, abs=0.25)
    assert few["backbone_weights"] == pytest.approx([1 / 3] * 3, abs=0.15)


def test_a_score_is_a_frequency_under_the_prior_of_the_rows_it_is_for():
    """AffectNet's contempt: an eighth of the validation rows, 1.3 % of the training rows; an ideal classifier of two
    normal distributions whose means are 2.5 standard deviations apart."""
    rng = np.random.default_rng(0)

    def rows(number, share):
        is_contempt = rng.random(number) < share
        return 2.5 * rng.normal(2.5 * is_contempt) - 2.5**2 / 2, is_contempt

    log_odds, is_contempt = rows(4000, 1 / 8)
    of_train, in_train = rows(400_000, 0.013)
    figures = {}
    for prior in (None, 0.013):
        fitted = fit_calibration(log_odds[:, None], is_contempt, prior)
        scores = expit(of_train / fitted["temperature"] + fitted["log_odds_shift"])
        figures[prior] = scores.mean(), in_train[scores > 0.5].mean(), scores[scores > 0.5].mean()
    mean, precision, _ = figures[None]
    assert mean > 0.05 and precision < 0.35  # calibrated to validation, a training row's score means nothing
    mean, precision, said = figures[0.013]
    assert mean == pytest.approx(0.013, abs=0.002) and precision == pytest.approx(said, abs=0.04)


def test_scores_are_reexpressed_exactly_and_back():
    rng = np.random.default_rng(0)
    train, balanced = rng.dirichlet(np.ones(8)).clip(1e-3), np.full(8, 1 / 8)
    log_odds = rng.normal(0, 12, (500, 8))
    there = reexpress(expit(log_odds), train, balanced)
    np.testing.assert_allclose(there, expit(log_odds + logit(balanced) - logit(train)), rtol=1e-6)
    np.testing.assert_allclose(reexpress(there, balanced, train), expit(log_odds), rtol=1e-6)
    ends = np.array([[0.0] * 8, [1.0] * 8, [1e-300] * 8])
    assert np.array_equal(reexpress(ends, np.full(8, 1e-9), np.full(8, 1 - 1e-9))[:2], ends[:2])
    # One in eight, scored as if it were one in two: the textbook's example by hand, 0.8 = 4 : 1 becomes 4 : 7.
    assert reexpress(np.array([0.8]), [0.5], [1 / 8])[0] == pytest.approx(4 / 11)
    with pytest.raises(ValueError, match="above 0 and below 1"):
        reexpress(ends, np.zeros(8), balanced)


def test_posterior_after_one_human_label():
    scores = np.array([[0.6, 0.2, 0.0], [0.5, 0.5, 0.1], [0.3, 0.1, 0.2]])
    posterior = posterior_of(scores, np.array([1, -1, 0]), 2.0)
    np.testing.assert_allclose(posterior[0], [1.2 / 3, 1.4 / 3, 0])
    np.testing.assert_allclose(posterior[2], [1.6 / 3, 0.2 / 3, 0.4 / 3])
    assert np.isnan(posterior[1]).all()


def test_experts_are_weighted_as_rows_of_the_prior_ask_for():
    rng = np.random.default_rng(0)
    labels = np.arange(4000) % 8
    log_odds = 2.5 * rng.normal(2.5 * np.eye(8)[labels]) - 2.5**2 / 2
    prior = np.array([0.909, *[0.013] * 7])
    right, wrong = (log_odds + shift_of_prior(np.full(8, 0.5), p) for p in (prior, np.full(8, 1 / 8)))
    model = SimpleNamespace(config=FusedConfig())  # no network is asked
    fit_fusion(model, right, wrong, labels, prior)  # the first expert is calibrated to the prior, the second is not
    assert min(model.config.ebc_weights.values()) > 0.6
    fit_fusion(model, right, wrong, labels)  # these rows themselves are balanced
    assert max(model.config.ebc_weights.values()) < 0.4


@pytest.mark.parametrize("precision", [1.0, 6.0])
def test_prior_precision_is_found_where_there_are_several_votes(precision):
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(8), 6000)
    shares = np.array([rng.dirichlet(precision * row + 1e-9) for row in scores])  # of all people, strayed from scores
    votes = np.array([rng.multinomial(10, row) for row in shares])
    labels = np.array([rng.choice(8, p=row) for row in shares])
    assert fit_precision(scores, labels, votes) == pytest.approx(precision, rel=0.2)
    with pytest.raises(ValueError, match="cannot be fitted"):
        fit_precision(scores, np.full(6000, -1), votes)


def test_copies_of_a_picture_are_in_one_fold_whatever_their_ids_and_splits(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("train", "validation"):
        (tmp_path / name).mkdir()
    faces = [Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)) for _ in range(60)]
    for number, face in enumerate(faces):
        face.save(tmp_path / f"train/{number}.png")
        face.save(tmp_path / f"{'train' if number % 2 else 'validation'}/copy-{number}.png")
    splits = {name: images_in(str(tmp_path / name), "raise") for name in ("train", "validation")}
    for split in splits.values():
        split.name = "unlike"  # ids and name would make other folds of them
    fold_of = {Path(i).name: f for split in splits.values() for i, f in zip(split.ids, split.folds(5), strict=True)}
    assert all(fold_of[str(number)] == fold_of[f"copy-{number}"] for number in range(60))
    assert set(fold_of.values()) == set(range(5)) and splits["train"].folds_by == "content"
    by_id = dict(zip(splits["train"].ids, splits["train"].folds(5, "id"), strict=True))
    assert sum(by_id[str(n)] != by_id[f"copy-{n}"] for n in range(1, 60, 2)) > 15
    in_memory = {"image": [{"bytes": (tmp_path / f"train/{n}.png").read_bytes(), "path": None} for n in range(60)]}
    features = datasets.Features({"image": datasets.Image(decode=False)})
    ids = np.arange(60).astype(str)
    parquet = Split("other", datasets.Dataset.from_dict(in_memory, features), np.zeros(60, int), None, ids, ids, "id")
    assert parquet.folds(5).tolist() == [fold_of[str(number)] for number in range(60)]
    assert parquet.select(np.arange(40, 50)).folds(5).tolist() == [fold_of[str(number)] for number in range(40, 50)]


def test_folds_go_by_id_where_images_are_no_files():
    features = datasets.Features({"image": datasets.Image(decode=False)})
    images = datasets.Dataset.from_dict({"image": [{"bytes": None, "path": f"hub://{n}"} for n in range(20)]}, features)
    ids = np.arange(20).astype(str)
    split = Split("train", images, np.zeros(20, int), None, ids, ids, "id")
    assert split.folds(2).tolist() == split.folds(2, "id").tolist() and split.folds_by == "id"
    assert split.select(np.arange(3)).folds_by == "id"
    with pytest.raises(ValueError, match="cannot be read as files"):
        split.folds(2, "content")


def test_metric_is_scikit_learns_and_says_where_it_is_undefined():
    rng = np.random.default_rng(0)
    scores, labels = rng.random((60, 3)), rng.integers(0, 2, 60)  # no row of the third
    metric = OneVsRest(["a", "b", "c"])
    for part in range(0, 60, 20):
        metric.add_batch(predictions=scores[part : part + 20], references=labels[part : part + 20])
    result = metric.compute()
    assert result["auroc"]["b"] == pytest.approx(roc_auc_score(labels == 1, scores[:, 1]))
    assert result["average_precision"]["a"] == pytest.approx(average_precision_score(labels == 0, scores[:, 0]))
    assert np.isnan(result["auroc"]["c"])
    assert result["mean_auroc"] == pytest.approx(np.mean([result["auroc"][name] for name in "ab"]))
    assert json.loads(json.dumps(nan_to_none([result]), allow_nan=False))[0]["auroc"]["c"] is None


def test_js_divergence_of_known_distributions():
    assert js_divergence(np.array([[2.0, 2.0]]), np.array([[0.5, 0.5]])) == pytest.approx(0)
    assert js_divergence(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])) == pytest.approx(np.log(2))
    scores = np.random.default_rng(0).random((500, 8))
    assert (js_divergences(scores, scores * (1 + 1e-15)) < 1e-12).all()  # not undefined
    assert np.isnan(js_divergence(np.full((3, 8), np.nan), np.eye(3, 8)))  # and what is undefined is not 0


def test_picture_of_faces_with_their_bars(unbroken, release, tmp_path):
    photo = next((release / "human_annotated/validation_set/images").iterdir())
    args = ["--model", unbroken, "--data_dir", release, "--images", photo, "--num_faces", 5]
    said = train(*args, "--output_file", "out/faces.png", script="show_faces.py", cwd=tmp_path)
    assert said.count("labelled ") == 5 and photo.name in said
    picture = Image.open(tmp_path / "out" / "faces.png")
    assert picture.width > 1000 and len(picture.convert("RGB").getcolors(2**20)) > 1000


def test_soft_label_metrics_against_scipy_and_by_hand():
    rng = np.random.default_rng(0)
    scores, truth = rng.random((300, 8)), rng.dirichlet(np.ones(8), 300)
    metric = SoftLabels()
    result = metric.compute(predictions=scores, references=truth)
    assert result == metric.compute(predictions=scores.tolist(), references=torch.from_numpy(truth))
    tied = metric.compute(predictions=scores.round(1), references=truth.round(1))
    for decimals, figures in ((20, result), (1, tied)):
        pairs = zip(scores.round(decimals), truth.round(decimals), strict=True)
        rank_correlations, distances = zip(*((spearmanr(*pair)[0], cosine(*pair)) for pair in pairs), strict=True)
        assert figures["spearman"] == pytest.approx(np.mean(rank_correlations), abs=1e-9)
        assert figures["cosine"] == pytest.approx(1 - np.mean(distances), abs=1e-9)
    order = scores.argsort(axis=1)
    assert result["top2"] == pytest.approx((order[:, -2:] == truth.argmax(axis=1)[:, None]).any(axis=1).mean())
    assert result["mae"] == pytest.approx(np.abs(scores - truth).mean())
    # Half the faces show it, half do not; a score of 0.9 for those and 0.2 for these is 0.1 and 0.2 beside the truth.
    one = np.column_stack([np.repeat([0.9, 0.2], 50), np.repeat([0.1, 0.8], 50), np.zeros(100)])
    true = np.column_stack([np.repeat([1.0, 0.0], 50), np.repeat([0.0, 1.0], 50), np.zeros(100)])
    assert metric.compute(predictions=one, references=true)["ece"] == pytest.approx(0.1)
    perfect = metric.compute(predictions=truth, references=truth)
    same = {"mae": 0, "js_divergence": 0, "kl": 0, "cosine": 1, "top1": 1, "top2": 1, "spearman": 1, "ece": 0}
    assert perfect == pytest.approx(same, abs=1e-5)
