"""train_soft_fer.py as people run it, the model it makes, and experts that start from it."""

import json
import re
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from datasets import Value, load_dataset
from runs import SOFT_FER, assert_same_weights, refused, train, train_until
from timm.utils import ModelEmaV3
from transformers import AutoModelForImageClassification, pipeline

from affectnet_plus import EXPRESSIONS
from affectnet_plus.modeling import SoftFerConfig, SoftFerForImageClassification
from affectnet_plus.training import label, train_ebc, train_soft_fer
from affectnet_plus.training.arguments import DataArguments, FoldArguments, OptimizationArguments, TrainingDataArguments
from affectnet_plus.training.faces import load_split, load_splits, read_soft_labels
from affectnet_plus.training.loop import fit, plan_runs
from affectnet_plus.training.soft_fer import SoftFerArguments, add_soft_labels, warn_of_absent_expressions
from affectnet_plus.training.soft_labels.label_files import label_table


def test_classifier_taught_hard_labels(ferplus, tmp_path):
    args = [*SOFT_FER, "--dataset_name", ferplus, "--target", "hard", "--backbone", "test_efficientnet"]
    args += ["--num_train_epochs", 12, "--learning_rate", 4e-3, "--output_dir", "hard"]
    train(*args, script="train_soft_fer.py", cwd=tmp_path)
    metrics = json.loads((tmp_path / "hard" / "metrics.json").read_text())
    assert metrics["rows"] == 80 and metrics["accuracy"] > 0.5 and metrics["js_divergence"] < 0.25
    config = SoftFerConfig.from_pretrained(tmp_path / "hard")
    record = config.training["all"]
    assert config.activation == "softmax" and record["target"] == "hard" and record["drawn"]["draws"] == 120 * 16
    # Grey 80 is the third class there: surprise, which is our fourth.
    answer = pipeline("soft-fer", faces="crop", model=str(tmp_path / "hard"))(np.full((24, 24), 80, np.uint8))
    assert answer["label"] == "surprise" and sum(answer["soft_label"].values()) == pytest.approx(1, abs=1e-5)
    assert "These scores sum to one" in (tmp_path / "hard" / "README.md").read_text()


def test_it_learns_the_soft_labels_that_label_py_wrote_not_the_human_ones(ferplus, tmp_path):
    human = load_split(DataArguments(dataset_name=str(ferplus)), "train")
    soft_label = 0.6 * np.eye(8)[(human.labels + 1) % 8] + 0.2 * np.eye(8)[human.labels]  # another expression leads
    (tmp_path / "soft").mkdir()
    table = pa.table({"image_id": human.ids, "soft_label": soft_label.tolist()})
    pq.write_table(table, tmp_path / "soft" / "train-00000-of-00001.parquet")
    args = [*SOFT_FER, "--dataset_name", ferplus, "--backbone", "test_efficientnet", "--output_dir", "model"]
    args += ["--target", "soft", "--soft_labels", "soft", "--num_train_epochs", 24, "--learning_rate", 4e-3]
    train(*args, script="train_soft_fer.py", cwd=tmp_path)
    config = SoftFerConfig.from_pretrained(tmp_path / "model")
    assert config.activation == "sigmoid" and config.training["all"]["soft_labels"] == "label.py"
    faces = [human.image(row) for row in range(40)]
    answers = pipeline("soft-fer", faces="crop", model=str(tmp_path / "model"))(faces)
    led_by = [EXPRESSIONS[(label + 1) % 8] for label in human.labels[:40]]
    assert sum(answer["label"] == name for answer, name in zip(answers, led_by, strict=True)) > 20


def test_labels_of_rows_known_by_their_number_alone_are_for_those_rows_alone(ferplus, tmp_path):
    human = load_split(DataArguments(dataset_name=str(ferplus)), "train")
    pq.write_table(
        label_table(human, np.arange(160), np.tile(np.eye(8)[human.labels], (3, 1, 1))),
        tmp_path / "train-00000-of-00001.parquet",
    )
    settings = {"splits": {"train": {"ids": human.id_source}}}
    (tmp_path / "label.json").write_text(json.dumps(settings))
    assert (read_soft_labels(tmp_path, human).argmax(axis=1) == human.labels).all()
    rows = load_dataset(str(ferplus), split="train").select(range(3, 160))
    (tmp_path / "fewer").mkdir()
    rows.to_parquet(tmp_path / "fewer" / "train.parquet")
    fewer = load_split(DataArguments(dataset_name=str(tmp_path / "fewer")), "train")
    with pytest.raises(ValueError, match="of 160, here they have number of the row, of 157.*image_id"):
        read_soft_labels(tmp_path, fewer)


def test_students_learn_the_posterior_where_label_py_wrote_one(ferplus, tmp_path):
    split = load_split(DataArguments(dataset_name=str(ferplus)), "train")
    scores = np.stack([np.full((160, 8), level) for level in (0.1, 0.2, 0.3)])
    table = label_table(split, np.arange(160), scores, precision=3)
    wanted = {None: (0.9 + np.eye(8)[split.labels]) / 4, "soft_label": scores[2], "ebc": scores[0]}
    pq.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    for column, values in wanted.items():
        args = SoftFerArguments(soft_labels=str(tmp_path), soft_labels_column=column)
        assert add_soft_labels(split, args)["soft_labels_column"] == (column or "posterior")
        np.testing.assert_allclose(split.soft_labels, values, atol=1e-6)
    pq.write_table(table.drop_columns(["posterior"]), tmp_path / "train-00000-of-00001.parquet")
    assert add_soft_labels(split, SoftFerArguments(soft_labels=str(tmp_path)))["soft_labels_column"] == "soft_label"
    with pytest.raises(ValueError, match="has no column 'posterior', only .*soft_label"):
        add_soft_labels(split, SoftFerArguments(soft_labels=str(tmp_path), soft_labels_column="posterior"))
    split.labels = np.full(160, -1)
    pq.write_table(label_table(split, np.arange(160), scores), tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="no posterior, as no human label, for 160 rows"):
        add_soft_labels(split, SoftFerArguments(soft_labels=str(tmp_path)))


def test_prior_precision_is_fitted_to_votes_and_recorded(ferplus, tmp_path, monkeypatch, capsys):
    """The votes of these faces are all for the human label, which then counts for nearly everything."""
    split = load_split(DataArguments(dataset_name=str(ferplus)), "validation")
    (tmp_path / "soft").mkdir()
    scores = np.full((3, 80, 8), 1 / 8)
    pq.write_table(label_table(split, np.arange(80), scores), tmp_path / "soft/validation-00000-of-00001.parquet")
    settings = {"data": "ferplus", "splits": {"validation": {}}, "prior": dict.fromkeys(EXPRESSIONS, 0.125)}
    (tmp_path / "soft/label.json").write_text(json.dumps(settings))
    flags = ["label.py", "--labels", tmp_path / "soft", "--prior_precision", "fit", "--output_dir", tmp_path / "anew"]
    monkeypatch.setattr(sys, "argv", [*map(str, flags), "--dataset_name", str(ferplus)])
    label.main()
    said = json.loads((tmp_path / "anew/label.json").read_text())["posterior"]
    assert said["how"] == "fitted to the votes of validation" and 0.01 <= said["prior_precision"] < 0.05
    np.testing.assert_allclose(
        read_soft_labels(tmp_path / "anew", split, "posterior"), np.eye(8)[split.labels], atol=0.05
    )
    np.testing.assert_allclose(read_soft_labels(tmp_path / "anew", split), 1 / 8)  # the experts' own opinion stays


EVERYTHING = ["--target", "mixed", "--hard_weight", 0.3, "--valence_arousal", "--mixup_alpha", 0.2, "--ema_decay", 0.9]
EVERYTHING += ["--sampler", "square_root", "--metric_for_best_model", "macro_f1", "--backbone", "test_efficientnet"]


def test_valence_and_arousal_and_the_means_to_train_better(ferplus, tmp_path):
    args = [*SOFT_FER[:-2], "--dataset_name", ferplus, *EVERYTHING, "--num_train_epochs", 15, "--learning_rate", 6e-3]
    said = train(*args, "--output_dir", "model", script="train_soft_fer.py", cwd=tmp_path)
    record = SoftFerConfig.from_pretrained(tmp_path / "model").training["all"]
    assert record["accuracy"] > 0.5 and record["ccc"] > 0.5 and record["sampler"] == "square_root"
    measured = [float(part) for part in re.findall(r"macro_f1 ([0-9.]+)", said)]
    assert len(measured) == 14 and record["macro_f1"] >= max(measured) - 1e-4  # of all epochs the best
    assert not list((tmp_path / "model").glob(".best*"))
    fer = pipeline("soft-fer", faces="crop", model=str(tmp_path / "model"))
    dark, light = (fer(np.full((24, 24), grey, np.uint8)) for grey in (30, 220))
    assert dark["valence"] < light["valence"] and -1 <= light["arousal"] < dark["arousal"] <= 1
    assert "valence and arousal" in (tmp_path / "model/README.md").read_text()
    args = ["--dataset_name", ferplus, "--model", "model", "--output_dir", "report", "--num_faces", 0]
    train(*args, script="evaluate_model.py", cwd=tmp_path)
    result = json.loads((tmp_path / "report/metrics.json").read_text())
    assert result["macro_f1"] == pytest.approx(record["macro_f1"], abs=0.02) and result["arousal"]["rows"] == 70
    assert np.mean([result[name]["ccc"] for name in ("valence", "arousal")]) == pytest.approx(record["ccc"], abs=0.02)
    assert pq.read_table(tmp_path / "report/predictions.parquet")["valence"].to_numpy().std() > 0.1
    assert "concordance correlation coefficient" in (tmp_path / "report/report.html").read_text()


def test_the_best_epoch_is_kept_and_the_average_is_of_the_weights(ferplus, tmp_path):
    """The loop itself, as only it can be told which epoch is the best."""
    data_args = TrainingDataArguments(dataset_name=str(ferplus))
    args = OptimizationArguments(
        output_dir=str(tmp_path), num_train_epochs=3, per_device_train_batch_size=16, learning_rate=5e-3,
        max_grad_norm=0, ema_decay=0.6, dataloader_num_workers=0, use_cpu=True,
    )  # fmt: skip
    model_args = train_soft_fer.SoftFerArguments(backbone="test_vit", image_size=32)
    config = SoftFerConfig(backbone="test_vit", image_size=32)
    splits = load_splits(data_args, with_soft_labels=True)
    (run,) = plan_runs(
        Accelerator(cpu=True), data_args, args, FoldArguments(), model_args, config, SoftFerForImageClassification,
        ["all"], *splits,
    )  # fmt: skip
    trained, before_step, measured = [], [], []

    def create() -> torch.nn.Module:
        trained.append(train_soft_fer.RawOutputs(config))
        return trained[0]

    def look(pixel_values, targets, seed):
        before_step.append([weights.detach().clone() for weights in trained[0].parameters()])
        return pixel_values, targets

    def measure(outputs):
        measured.append(outputs["logits"])
        return {"score": (0.1, 0.9, 0.2)[len(measured) - 1]}

    job = run.job("all", train_soft_fer.targets_of(splits[0], model_args), groups=[np.arange(len(splits[0]))])
    kept, outputs, record = fit(job, run.create("all", create), F.cross_entropy, measure, ("score", 1), look)
    assert record["best_step"] == 20 and len(measured) == 3
    outputs = outputs["logits"]
    np.testing.assert_allclose(outputs, measured[1], atol=1e-5)
    assert np.abs(outputs - measured[2]).max() > 1e-3
    decay_at = ModelEmaV3(trained[0], decay=args.ema_decay, use_warmup=True).get_decay
    average = before_step[0]
    for step, held in enumerate(before_step[1:21], start=1):  # as they are after that step
        decay = decay_at(step)
        average = [decay * a + (1 - decay) * w for a, w in zip(average, held, strict=True)]
    for ours, theirs, raw in zip(kept.parameters(), average, before_step[20], strict=True):
        torch.testing.assert_close(ours.detach(), theirs, atol=1e-5, rtol=1e-4)
        assert raw.std() == 0 or not torch.allclose(ours, raw, atol=1e-5)


def test_what_two_processes_measured_is_what_the_saved_model_gives(ferplus, tmp_path):
    """Each has seen other faces, and its batch norms have other statistics, until they agree."""
    args = [*SOFT_FER[:-2], "--dataset_name", ferplus, *EVERYTHING, "--num_train_epochs", 3, "--learning_rate", 6e-3]
    train(*args, "--output_dir", "model", script="train_soft_fer.py", cwd=tmp_path, processes=2)
    record = SoftFerConfig.from_pretrained(tmp_path / "model").training["all"]
    args = ["--dataset_name", ferplus, "--model", "model", "--num_faces", 0, "--output_dir", "report"]
    train(*args, script="evaluate_model.py", cwd=tmp_path)
    result = json.loads((tmp_path / "report/metrics.json").read_text())
    for name in ("accuracy", "macro_f1", "js_divergence"):
        assert result[name] == pytest.approx(record[name], abs=1e-4), name
    assert np.mean([result[name]["ccc"] for name in ("valence", "arousal")]) == pytest.approx(record["ccc"], abs=1e-4)
    assert record["faces_per_step"] == 32


@pytest.mark.slow
def test_killed_it_goes_on_to_the_very_same_weights(ferplus, tmp_path):
    args = [*SOFT_FER[:-2], "--dataset_name", ferplus, *EVERYTHING]
    args += ["--max_train_steps", 22, "--auto_augment", "rand-m5", "--dataloader_num_workers", 1]
    args += ["--checkpointing_steps", 3, "--resume_from_checkpoint", "latest"]
    train(*args, "--output_dir", "unbroken", script="train_soft_fer.py", cwd=tmp_path)
    args += ["--output_dir", "killed"]
    after_an_epoch = "killed/checkpoint-all-1?"
    train_until(lambda: list(tmp_path.glob(after_an_epoch)), *args, script="train_soft_fer.py", cwd=tmp_path)
    assert not (tmp_path / "killed/config.json").exists()
    train(*args, script="train_soft_fer.py", cwd=tmp_path)
    assert_same_weights(tmp_path / "killed", tmp_path / "unbroken")
    finished = (tmp_path / "killed/model.safetensors").stat().st_mtime_ns
    train(*args, script="train_soft_fer.py", cwd=tmp_path)
    assert (tmp_path / "killed/model.safetensors").stat().st_mtime_ns == finished  # nothing is trained again


def test_student_learns_what_its_teacher_sees(softmax_runs, ferplus, tmp_path):
    args = [*SOFT_FER, "--dataset_name", ferplus, "--backbone", "test_efficientnet", "--target", "distribution"]
    args += ["--soft_label_column_name", "none", "--num_train_epochs", 12, "--learning_rate", 4e-3]
    train(
        *args, "--teacher", softmax_runs / "hard", "--output_dir", "student", script="train_soft_fer.py", cwd=tmp_path
    )
    assert SoftFerConfig.from_pretrained(tmp_path / "student").training["all"]["teacher"].startswith("hard (")
    split = load_split(DataArguments(dataset_name=str(ferplus)), "validation")
    teacher, student = (
        pipeline("soft-fer", faces="crop", model=str(folder))([split.image(row) for row in range(40)])
        for folder in (softmax_runs / "hard", tmp_path / "student")
    )
    # The teacher has hardly learned anything: it is its own answers that the student gives.
    scores = [np.array([list(answer["soft_label"].values()) for answer in answers]) for answers in (teacher, student)]
    assert np.abs(scores[0] - scores[1]).mean() < 0.05
    assert np.mean([a["label"] == EXPRESSIONS[label] for a, label in zip(teacher, split.labels, strict=False)]) < 0.6


def test_columns_as_pandas_writes_them(ferplus, tmp_path):
    for file in ferplus.glob("*.parquet"):
        rows = load_dataset("parquet", data_files=str(file), split="train")
        rows = rows.cast_column("valence", Value("float64"))
        if file.name.startswith("train"):
            rows = rows.add_column("subset", [2 if row < 9 else 1 for row in range(len(rows))])
        rows.to_parquet(tmp_path / "data" / file.name)
    args = DataArguments(dataset_name=str(tmp_path / "data"))
    train_split, original = load_split(args, "train"), load_split(DataArguments(dataset_name=str(ferplus)), "train")
    np.testing.assert_array_equal(train_split.affect(), original.affect())
    assert len(train_soft_fer.of_subset(train_split, ["difficult"])) == 9
    with pytest.raises(ValueError, match="No row of train is easy"):
        train_soft_fer.of_subset(train_split, ["easy"])


def test_each_subset_in_one_command(release, tmp_path):
    args = [*SOFT_FER, "--data_dir", release, "--backbone", "test_vit", "--max_train_steps", 2, "--target", "hard"]
    said = train(*args, "--by_subset", "--output_dir", "runs", script="train_soft_fer.py", cwd=tmp_path)
    rows, validation_faces = {}, len(load_dataset("affectnet_plus", data_dir=str(release), split="validation"))
    for name in ("easy", "challenging", "difficult", "all"):
        record = SoftFerConfig.from_pretrained(tmp_path / "runs" / name).training["all"]
        assert record["subset"] == ([] if name == "all" else [name])
        rows[name] = record["rows"]
        measured = json.loads((tmp_path / "runs" / name / "report/metrics.json").read_text())
        assert (
            measured["rows"] == validation_faces and f"| {name} | {rows[name]:,} | {measured['accuracy']:.4f} |" in said
        )
    assert sum(rows.values()) == 2 * rows["all"]
    assert rows["easy"] == len(load_dataset("affectnet_plus", "easy", data_dir=str(release), split="train"))
    page = (tmp_path / "runs/by_subset.html").read_text()
    assert page.count("data:image/svg+xml") == 4 and "trained on difficult" in page


def test_trained_the_same_again_it_is_the_same(softmax_runs, ferplus, tmp_path):
    args = [*SOFT_FER, "--dataset_name", ferplus, "--target", "hard", "--backbone", "test_vit", "--max_train_steps", 6]
    train(*args, "--output_dir", "hard", script="train_soft_fer.py", cwd=tmp_path)
    assert_same_weights(tmp_path / "hard", softmax_runs / "hard")


def test_a_dataset_of_seven_classes_is_warned_of(ferplus, capsys):
    split, hard = load_split(DataArguments(dataset_name=str(ferplus)), "train"), SoftFerArguments(target="hard")
    warn_of_absent_expressions(split, hard)
    assert "warning: no row" not in capsys.readouterr().err
    warn_of_absent_expressions(split.select(np.flatnonzero(split.labels != EXPRESSIONS.index("contempt"))), hard)
    assert "warning: no row of train shows 'contempt'" in capsys.readouterr().err


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
        (train_ebc, ["--backbones", "test_vit", "--init_from", "{runs}/hard", "--grayscale"], ["without --grayscale"]),
        (train_ebc, ["--backbones", "test_vit", "--upscale", 0], ["--upscale is a factor of at least 1, not 0"]),
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
            ["No column 'votes'", "--soft_label_column_name"],
        ),
        (
            train_soft_fer,
            ["--backbone", "test_vit", "--soft_label_column_name", "none"],
            ["no soft labels", "--soft_label_column_name", "--target hard"],
        ),
        (train_soft_fer, ["--backbone", "test_vit", "--subset", "easy"], ["--subset easy", "no column `subset`"]),
        (
            train_soft_fer,
            ["--backbone", "test_vit", "--teacher", "{runs}/hard", "--target", "hard"],
            ["leaves nothing of --target hard", "--teacher_weight"],
        ),
        (
            train_soft_fer,
            ["--backbone", "test_vit", "--teacher", "{runs}/hard", "--num_folds", 2],
            ["has seen the rows that folds leave out"],
        ),
        (train_soft_fer, ["--backbone", "test_vit", "--auto_augment", "much"], ["no augmentation 'much'"]),
        (train_soft_fer, ["--backbone", "test_vit", "--teacher", "{runs}/folds"], ["folds", "--soft_labels"]),
        (
            train_soft_fer,
            ["--backbone", "test_vit", "--teacher", "{runs}/hard", "--image_size", "48"],
            ["image_size 32", "this model 48"],
        ),
        (
            train_soft_fer,
            ["--backbone", "test_vit", "--metric_for_best_model", "accuracy"],
            ["--metric_for_best_model", "--eval_strategy epoch"],
        ),
        (train_soft_fer, ["--backbone", "test_vit", "--max_eval_samples", 0], ["validation", "no rows"]),
    ],
)
def test_bad_input_is_one_sentence(script, flags, says, softmax_runs, ferplus, tmp_path, monkeypatch, capsys):
    flags = [str(flag).format(runs=softmax_runs) for flag in flags]
    args = [*SOFT_FER, "--dataset_name", ferplus, "--max_train_steps", 1, *flags]
    said = refused(script, args, tmp_path / "none", monkeypatch, capsys)
    for part in says:
        assert part in said


def test_with_tta_a_face_and_its_flip_have_the_same_scores(tmp_path):
    config = SoftFerConfig(backbone="test_convnext", image_size=48, activation="softmax", tta=True)
    SoftFerForImageClassification(config).save_pretrained(tmp_path)
    face = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    fer = pipeline("soft-fer", faces="crop", model=str(tmp_path))
    scores, of_flip = fer(face)["soft_label"], fer(face[:, ::-1].copy())["soft_label"]
    assert scores == pytest.approx(of_flip, abs=1e-6)
    fer.model.config.tta = False
    assert fer(face)["soft_label"] != pytest.approx(scores, abs=1e-6)
    assert "test-time augmentation" in (tmp_path / "README.md").read_text()


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
    ours = pipeline("soft-fer", faces="crop", model=str(tmp_path))(face)["soft_label"]
    stock = pipeline("image-classification", model=str(tmp_path))(face, top_k=8)
    assert {row["label"]: row["score"] for row in stock} == pytest.approx(
        ours, abs=1e-3
    )  # it scales faces by torchvision
