"""A dataset without contempt, as FER2013 and RAF-DB, through the whole line: what nobody knows stays unknown."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from huggingface_hub import ModelCard
from PIL import Image
from runs import SOFT_FER, Script, refused, train
from small_models import model_of
from transformers import AutoConfig, pipeline

from affectnet_plus import EXPRESSIONS, LABEL_ORDERS
from affectnet_plus.inference.export_onnx import export_onnx
from affectnet_plus.modeling import EBCConfig
from affectnet_plus.training import label, train_soft_fer
from affectnet_plus.training.arguments import DataArguments
from affectnet_plus.training.faces import load_split

SEVEN = list(EXPRESSIONS[:7])
EXPERTS = ["--image_size", 32, "--per_device_train_batch_size", 16, "--dataloader_num_workers", 0, "--seed", 3]
EXPERTS += ["--max_train_steps", 3, "--eval_strategy", "no"]


def labels_in(folder: Path, split: str = "train"):
    return pq.read_table(sorted(folder.glob(f"{split}-*.parquet")))


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    """Folders of images, named as RAF-DB's classes: seven grey levels."""
    folder, rng = tmp_path_factory.mktemp("data") / "raf", np.random.default_rng(0)
    for split, number in (("train", 30), ("validation", 8)):
        for level, name in enumerate(LABEL_ORDERS["raf-db"]):
            (folder / split / name).mkdir(parents=True)
            for i in range(number):
                face = Image.fromarray(rng.normal(30 * level + 20, 6, (24, 24)).astype(np.uint8))
                face.save(folder / split / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def line(faces, tmp_path_factory) -> Path:
    """From the experts, in two folds, to the report."""
    folder, data = tmp_path_factory.mktemp("line"), ["--dataset_name", faces]
    args = [*EXPERTS, *data, "--num_folds", 2, "--warm_start_epochs", 1]
    ebc = [*args, "--backbones", "test_vit3", "--output_dir", "ebc"]
    au = [*args, "--backbone", "test_vit3", "--output_dir", "au"]
    runs = [Script(script, *flags, cwd=folder) for script, flags in (("train_ebc.py", ebc), ("train_au.py", au))]
    for run in runs:
        status, _, error = run.wait()
        assert status == 0, error[-3000:]
    said = train("--ebc", "ebc", "--au", "au", *data, "--output_dir", "soft", script="label.py", cwd=folder)
    assert "The experts have 7 expressions: null for contempt." in said
    student = [*SOFT_FER, *data, "--backbone", "test_vit", "--max_train_steps", 6, "--soft_labels", "soft"]
    train(*student, "--target", "distribution", "--output_dir", "student", script="train_soft_fer.py", cwd=folder)
    measured = [*data, "--model", "student", "--output_dir", "report", "--update_card"]
    said = train(*measured, script="evaluate_model.py", cwd=folder)
    assert f"Measured on faces labelled {', '.join(SEVEN)}" in said
    return folder


def test_each_model_has_seven_outputs_and_does_not_name_the_eighth(line):
    models = [path.parent for path in line.rglob("config.json")]
    assert len(models) == 4 + 4 + 2 + 1  # experts, their warm starts, fused ones, the student
    for model in models:
        assert AutoConfig.from_pretrained(model).expressions == SEVEN
        for file in model.iterdir():
            assert file.suffix not in (".json", ".md") or "contempt" not in file.read_text(), file
    assert EBCConfig.from_pretrained(line / "ebc/fold-0").rest_outputs == 6
    assert "contempt" not in (line / "report/report.html").read_text()
    card = ModelCard.load(line / "student/README.md")
    assert card.data.eval_results[0].dataset_name.endswith(f"among {', '.join(SEVEN)}")


def test_labels_keep_their_eight_places_and_are_null_in_the_eighth(line, faces):
    assert json.loads((line / "soft/label.json").read_text())["prior"].keys() == set(SEVEN)
    assert "null for contempt" in (line / "soft/README.md").read_text()
    rows = labels_in(line / "soft")
    assert len(rows) == 210
    for column in ("ebc", "au", "soft_label", "posterior"):
        scores = np.array(rows[column].to_pylist(), dtype=float)
        assert scores.shape == (210, 8) and np.isnan(scores[:, 7]).all() and not np.isnan(scores[:, :7]).any()
    labels = load_split(DataArguments(dataset_name=str(faces)), "train")
    assert labels.expressions == SEVEN
    human = dict(zip(labels.ids.tolist(), labels.labels.tolist(), strict=True))
    labels = rows["human_label"].to_numpy()
    assert labels.tolist() == [human[row_id] for row_id in rows["image_id"].to_pylist()]
    soft_label = np.array(rows["soft_label"].to_pylist(), dtype=float)
    ranks = 1 + (soft_label > soft_label[np.arange(210), labels, None]).sum(axis=1)
    assert rows["rank"].to_pylist() == ranks.tolist()


def test_what_is_labelled_by_is_what_the_pipeline_says_under_seven_names(line, faces):
    face = str(faces / "validation/fear/0.png")
    answers = [pipeline("soft-fer", faces="crop", model=str(line / f"soft/models/fold-{k}"))(face) for k in (0, 1)]
    assert all(list(answer["soft_label"]) == SEVEN for answer in answers)
    mean = np.mean([list(answer["soft_label"].values()) for answer in answers], axis=0)
    split = load_split(DataArguments(dataset_name=str(faces)), "validation")
    row = next(i for i in range(len(split)) if split.stored(i)["path"] == face)
    table = labels_in(line / "soft", "validation").to_pandas().set_index("image_id")
    np.testing.assert_allclose(table.loc[split.ids[row], "soft_label"][:7], mean, atol=1e-4)

    fer = pipeline("soft-fer", faces="crop", model=str(line / "student"))
    answer = fer(face)
    assert list(answer["soft_label"]) == SEVEN and sum(answer["soft_label"].values()) == pytest.approx(1, abs=1e-3)
    export_onnx(str(line / "student"), line / "student.onnx")
    onnx = pipeline("soft-fer", faces="crop", model=str(line / "student.onnx"))(face)
    assert onnx["soft_label"] == pytest.approx(answer["soft_label"], abs=1e-4)

    table = pq.read_table(line / "report/predictions.parquet").to_pandas()
    scores = np.stack(table["soft_label"])
    assert np.isnan(scores[:, 7]).all() and scores[:, :7].sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert json.loads((line / "report/metrics.json").read_text())["expressions"] == SEVEN


def test_pages_and_new_priors_take_such_labels(line, faces):
    data = ["--dataset_name", faces]
    train(*data, "--soft_labels", "soft", "--output_file", "errors.html", script="show_label_errors.py", cwd=line)
    assert "contempt" not in (line / "errors.html").read_text()
    train(*data, "--model", "student", "--num_faces", 4, "--output_file", "faces.svg", script="show_faces.py", cwd=line)
    assert "contempt" not in (line / "faces.svg").read_text()
    train("--labels", "soft", "--prior", "balanced", "--output_dir", "balanced", script="label.py", cwd=line)
    assert set(json.loads((line / "balanced/label.json").read_text())["prior"].values()) == {1 / 7}
    scores = np.array(labels_in(line / "balanced")["soft_label"].to_pylist(), dtype=float)
    assert np.isnan(scores[:, 7]).all() and not np.isnan(scores[:, :7]).any()


def test_what_seven_classes_do_not_allow_is_one_sentence(line, faces, tmp_path, monkeypatch, capsys):
    flags = ["--ebc", line / "ebc", "--au", line / "au", "--dataset_name", faces]
    said = refused(label, [*flags, "--write_release", "R"], tmp_path / "soft", monkeypatch, capsys)
    assert "a release has eight scores a face, and these experts do not know contempt" in said
    for kind, names in (("ebc", ["happy", "sad"]), ("au", ["happy", "fear"])):
        model_of(kind, id2label=dict(enumerate(names))).save_pretrained(tmp_path / kind)
    flags = ["--ebc", tmp_path / "ebc", "--au", tmp_path / "au", "--dataset_name", faces]
    said = refused(label, flags, tmp_path / "soft", monkeypatch, capsys)
    assert "The EBC has expressions ['happy', 'sad'], the AU experts have ['happy', 'fear']: train both alike" in said
    flags = ["--dataset_name", faces, "--target", "hard", "--expressions", "happy", "contempt"]
    said = refused(train_soft_fer, flags, tmp_path / "student", monkeypatch, capsys)
    assert "--expressions: nothing is known of contempt here" in said


def test_two_expressions_make_labels_of_two(ferplus, tmp_path):
    args = [*EXPERTS, "--dataset_name", ferplus, "--warm_start_epochs", 0, "--expressions", "happy", "sad"]
    train(*args, "--backbones", "test_vit3", "--output_dir", "ebc", cwd=tmp_path)
    train(*args, "--backbone", "test_vit3", "--output_dir", "au", script="train_au.py", cwd=tmp_path)
    flags = ["--dataset_name", ferplus, "--ebc", "ebc", "--au", "au"]
    train(*flags, "--prior_precision", "fit", "--output_dir", "soft", script="label.py", cwd=tmp_path)
    rows = labels_in(tmp_path / "soft")
    known = ~np.isnan(np.array(rows["soft_label"].to_pylist(), dtype=float))
    assert (known == np.isin(EXPRESSIONS, ["happy", "sad"])).all()
    ranked = np.array([rank is not None for rank in rows["rank"].to_pylist()])
    assert (ranked == np.isin(rows["human_label"].to_numpy(), (1, 2))).all()  # of other labels the experts say nothing
    student = [*SOFT_FER, "--dataset_name", ferplus, "--backbone", "test_vit", "--max_train_steps", 2]
    student += ["--soft_labels", "soft", "--output_dir", "student"]
    said = train(*student, script="train_soft_fer.py", cwd=tmp_path)
    assert "120 rows of train are left out" in said and "neutral 20" in said
    assert AutoConfig.from_pretrained(tmp_path / "student").expressions == ["happy", "sad"]
