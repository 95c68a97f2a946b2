"""evaluate_model.py as people run it: figures, intervals, slices and the page, of our models and of other people's."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import ModelCard
from runs import train
from sklearn.metrics import accuracy_score, f1_score, recall_score
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from affectnet_plus import EXPRESSIONS
from affectnet_plus.modeling import SoftFerConfig, SoftFerForImageClassification
from affectnet_plus.synthetic import synthesize
from affectnet_plus.training import evaluate_model
from affectnet_plus.training.arguments import DataArguments
from affectnet_plus.training.faces import known_truth, load_split
from affectnet_plus.training.metrics import HumanLabels, SoftLabels, ValenceArousal
from affectnet_plus.training.metrics.slices import interval, macro_f1_of, mean_of, slices_of
from affectnet_plus.training.reports.pages import render


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A release and an untrained model of ours."""
    folder = tmp_path_factory.mktemp("evaluate")
    synthesize(folder / "AffectNet+", train=0, validation=133, seed=1, num_proc=1, image_size=40)
    torch.manual_seed(0)
    config = SoftFerConfig(backbone="test_vit", image_size=32, activation="softmax")
    SoftFerForImageClassification(config).save_pretrained(folder / "ours")
    return folder


@pytest.fixture(scope="module")
def report(faces):
    args = ["--data_dir", faces / "AffectNet+", "--model", faces / "ours", "--output_dir", "report"]
    train(*args, "--per_device_batch_size", 16, script="evaluate_model.py", cwd=faces)
    return faces / "report"


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A model of somebody else's that numbers seven expressions."""
    folder = tmp_path_factory.mktemp("theirs") / "vit"
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = ViTForImageClassification(ViTConfig(image_size=32, patch_size=16, num_labels=7, **shape))
    model.half().save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_figures_are_those_of_the_written_predictions(report, faces):
    table = pq.read_table(report / "predictions.parquet").to_pandas()
    result = json.loads((report / "metrics.json").read_text())
    split = load_split(DataArguments(data_dir=str(faces / "AffectNet+")), "validation", with_soft_labels=True)
    assert table["image_id"].tolist() == split.ids.tolist() and result["rows"] == len(table) == len(split)
    assert result["accuracy"] == pytest.approx(accuracy_score(table["label"], table["predicted"]), abs=1e-5)
    f1 = f1_score(table["label"], table["predicted"], average="macro", labels=table["label"].unique())
    assert result["macro_f1"] == pytest.approx(f1, abs=1e-5)
    recall = recall_score(table["label"], table["predicted"], labels=EXPRESSIONS, average=None)
    assert list(result["recall"].values()) == pytest.approx(recall.tolist())
    assert np.sum(result["confusion_matrix"]) == len(table)
    truth, name = known_truth(split, DataArguments(data_dir=str(faces)))
    assert result["ground_truth"] == name == "true intensity"
    soft = SoftLabels().compute(predictions=np.stack(table["soft_label"]), references=truth)
    assert {key: result[key] for key in soft} == pytest.approx(soft, abs=1e-5)
    for name in ("accuracy", "macro_f1", "js_divergence"):
        low, high = result["intervals"][name]
        assert low < result[name] < high


def test_compared_with_the_soft_labels_of_a_folder(report, faces, tmp_path):
    """Those that the model itself gave, but for one face in seven."""
    table = pq.read_table(report / "predictions.parquet").to_pandas()
    scores = np.stack(table["soft_label"])
    scores[::7] = 1 - scores[::7]
    (tmp_path / "soft").mkdir()
    labels = pa.table({"image_id": table["image_id"], "soft_label": scores.tolist()})
    pq.write_table(labels, tmp_path / "soft/validation-00000-of-00001.parquet")
    args = ["--data_dir", faces / "AffectNet+", "--model", faces / "ours", "--num_faces", 0, "--output_dir", "out"]
    train(*args, "--soft_labels", "soft", script="evaluate_model.py", cwd=tmp_path)
    result = json.loads((tmp_path / "out/metrics.json").read_text())
    assert result["top1"] == pytest.approx(np.mean(np.arange(len(scores)) % 7 > 0), abs=1e-4)
    assert result["ground_truth"] == "the soft label of label.py"
    margins = result["slices"]["margin"].values()
    right = sum(group["rows"] * group["top1"] for group in margins)
    assert right == pytest.approx(len(scores) * result["top1"], abs=0.05)


def test_slices_cover_the_faces(report, faces):
    slices = json.loads((report / "metrics.json").read_text())["slices"]
    of_metadata = {"subset", "gender", "ethnicity", "age", "head pose"}
    assert set(slices) == of_metadata | {"expression", "margin"}
    table = pq.read_table(report / "predictions.parquet").to_pandas()
    for groups in slices.values():
        assert sum(group["rows"] for group in groups.values()) == len(table)
        right = sum(group["accuracy"] * group["rows"] for group in groups.values())
        assert right == pytest.approx((table["label"] == table["predicted"]).sum(), abs=0.01)
    split = load_split(DataArguments(data_dir=str(faces / "AffectNet+")), "validation")
    rows = slices_of(split)["gender"]["female"]
    scores = [split.metadata[int(row)]["gender"] for row in rows]
    assert scores and all(score["female"] > score["male"] for score in scores)
    votes = [[4, 4, 2, 0, 0], [5, 4, 1, 0, 0], [5, 2, 1, 1, 1], [7, 1, 1, 1, 0], [0, 0, 0, 0, 0]]
    truth = ((np.array(votes) / 10) @ np.eye(5, 8)).astype("float32")
    margins = slices_of(split.select(np.arange(5)), ground_truth=truth)["margin"]
    assert {name: list(rows) for name, rows in margins.items()} == {
        "under 0.1": [0],
        "0.1 to 0.3": [1],
        "0.3 to 0.6": [2],
        "0.6 and over": [3],
    }


def test_page_holds_everything_itself(report):
    page = (report / "report.html").read_text()
    assert not re.search(r'(?:src|href)="(?!data:)', page) and "http" not in page
    for title in ("Confusion matrix", "Difficulty subsets", "Largest errors", "Calibration", "Per-group performance"):
        assert title in page
    assert page.count("data:image/jpeg") == 18 and page.count("data:image/svg+xml") == 4 + 1 + 8 + 1


def test_names_of_users_data_are_text_on_pages():
    page = render("by_subset.html.jinja", title="<b>", network="<script>", columns=["<i>"], lines=[], matrices={})
    assert "<b>" not in page and "<script>" not in page and "&lt;i&gt;" in page and "--score: #0072B2" in page


def test_two_processes_measure_what_one_measures(report, faces):
    args = ["--data_dir", faces / "AffectNet+", "--model", faces / "ours", "--output_dir", "two"]
    train(*args, "--per_device_batch_size", 9, script="evaluate_model.py", cwd=faces, processes=2)  # 133: ragged
    one, two = (json.loads((folder / "metrics.json").read_text()) for folder in (report, faces / "two"))
    assert one["rows"] == two["rows"] and one["confusion_matrix"] == two["confusion_matrix"]
    for name in ("accuracy", "macro_f1", "js_divergence", "kl", "mae", "cosine", "spearman", "ece"):
        assert one[name] == pytest.approx(two[name], abs=1e-6)


def test_seven_expressions_are_measured_without_the_eighth(report, faces):
    args = ["--data_dir", faces / "AffectNet+", "--model", faces / "ours", "--num_faces", 0, "--output_dir", "seven"]
    names = ["fear", "anger", "disgust", "happiness", "sadness", "surprise", "neutral"]  # those of RAF-DB
    train(*args, "--expressions", *names, script="evaluate_model.py", cwd=faces)
    result = json.loads((faces / "seven/metrics.json").read_text())
    table = pq.read_table(report / "predictions.parquet").to_pandas()
    table = table[table["label"] != "contempt"]
    scores = np.stack(table["soft_label"])[:, :7]
    predicted = np.array(EXPRESSIONS)[scores.argmax(axis=1)]
    assert result["rows"] == len(table) and result["expressions"] == list(EXPRESSIONS[:7])
    assert result["accuracy"] == pytest.approx((predicted == table["label"]).mean(), abs=1e-4)
    held = [(predicted[table["label"] == name] == name).mean() for name in set(table["label"])]
    assert result["balanced_accuracy"] == pytest.approx(np.mean(held), abs=1e-4)
    data_args = DataArguments(data_dir=str(faces / "AffectNet+"))
    split = load_split(data_args, "validation")
    truth = known_truth(split, data_args)[0][split.labels < 7, :7]
    assert result["mae"] == pytest.approx(np.abs(scores - truth).mean(), abs=1e-4)
    assert "Only these expressions are looked at: neutral, happy" in (faces / "seven/report.html").read_text()


def test_two_expressions_are_enough_and_the_card_says_which(faces, tmp_path):
    folder = shutil.copytree(faces / "ours", tmp_path / "ours")
    args = ["--data_dir", faces / "AffectNet+", "--model", folder, "--num_faces", 0, "--output_dir", tmp_path / "two"]
    train(*args, "--expressions", "happy", "sad", "--update_card", script="evaluate_model.py", cwd=tmp_path)
    result = json.loads((tmp_path / "two/metrics.json").read_text())
    table = pq.read_table(tmp_path / "two/predictions.parquet").to_pandas()
    data_args = DataArguments(data_dir=str(faces / "AffectNet+"))
    split = load_split(data_args, "validation")
    truth = known_truth(split, data_args)[0][np.isin(split.labels, (1, 2))][:, 1:3]
    shown = truth.any(axis=1)  # a wrongly labelled face can show neither
    predicted = np.stack(table["soft_label"])[:, 1:3].argmax(axis=1)
    assert result["rows"] == len(table) == len(truth)
    assert result["top1"] == pytest.approx((predicted == truth.argmax(axis=1))[shown].mean(), abs=1e-4)
    assert result["top2"] == 1
    name = ModelCard.load(folder / "README.md").data.eval_results[0].dataset_name
    assert name == f"synthetic AffectNet+, {len(table)} faces, among happy, sad"


def test_model_of_somebody_else_stands_in_the_same_table(theirs, faces, report):
    args = ["--data_dir", faces / "AffectNet+", "--model", theirs, "--output_dir", "theirs", "--num_faces", 0]
    said = train(*args, script="evaluate_model.py", cwd=faces, expect=2)
    assert "LABEL_0" in said and "--model_label_order" in said
    train(*args, "--model_label_order", "fer2013", script="evaluate_model.py", cwd=faces)
    result = json.loads((faces / "theirs/metrics.json").read_text())
    assert result["expressions_not_known_to_the_model"] == ["contempt"]
    assert result.keys() == json.loads((report / "metrics.json").read_text()).keys()
    table = pq.read_table(faces / "theirs/predictions.parquet").to_pandas()
    scores = np.stack(table["soft_label"])
    assert (scores[:, -1] == 0).all() and scores.sum(axis=1) == pytest.approx(1, abs=1e-5)
    split = load_split(DataArguments(data_dir=str(faces / "AffectNet+")), "validation")
    model = AutoModelForImageClassification.from_pretrained(theirs, dtype=torch.float32)
    pixel_values = ViTImageProcessor.from_pretrained(theirs)(images=split.image(0), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        angry, disgust, fear, happy, sad, surprise, neutral = model(pixel_values).logits.softmax(dim=1)[0].tolist()
    expected = [neutral, happy, sad, surprise, fear, disgust, angry, 0]
    assert scores[0] == pytest.approx(expected, abs=1e-3)  # theirs scales faces by torchvision
    assert "does not know contempt" in (faces / "theirs/report.html").read_text()


def test_figures_go_into_the_card_and_stay_when_it_is_saved_again(faces, theirs, tmp_path):
    folder = shutil.copytree(faces / "ours", tmp_path / "ours")
    args = ["--data_dir", faces / "AffectNet+", "--num_faces", 0, "--update_card"]
    train(*args, "--model", folder, "--output_dir", "out", script="evaluate_model.py", cwd=tmp_path)
    result = json.loads((tmp_path / "out/metrics.json").read_text())
    SoftFerForImageClassification.from_pretrained(folder).save_pretrained(tmp_path / "again")
    for card in (folder, tmp_path / "again"):
        data = ModelCard.load(card / "README.md").data
        figures = {figure.metric_type: figure.metric_value for figure in data.eval_results}
        assert figures["accuracy"] == result["accuracy"] and figures["js_divergence"] == result["js_divergence"]
        assert data.eval_results[0].dataset_split == "validation"
        assert data.eval_results[0].dataset_name == f"synthetic AffectNet+, {result['rows']} faces"
    said = train(
        *args, "--model", theirs, "--model_label_order", "fer2013", "--output_dir", "no", script="evaluate_model.py",
        cwd=tmp_path, expect=2,
    )  # fmt: skip
    assert "--update_card is for a folder of one of our models" in said


def test_two_that_update_one_card_at_once_are_kept_apart(faces, report, tmp_path):
    folder = shutil.copytree(faces / "ours", tmp_path / "ours")
    config, result = AutoConfig.from_pretrained(folder), json.loads((report / "metrics.json").read_text())

    def update(rows: int, stops: bool) -> None:
        def stop(event, args):  # in the middle of it
            if event == "os.rename" and str(args[0]).endswith(".writing"):
                os.kill(os.getpid(), signal.SIGSTOP)

        if stops:
            sys.addaudithook(stop)
        evaluate_model.update_card(folder, result | {"rows": rows}, config)

    start = multiprocessing.get_context("fork").Process
    first, second = (start(target=update, args=(rows, stops)) for rows, stops in ((60, True), (80, False)))
    first.start()
    os.waitpid(first.pid, os.WUNTRACED)
    second.start()
    second.join(1)
    waits = second.is_alive()
    os.kill(first.pid, signal.SIGCONT)
    assert waits
    for process in (first, second):
        process.join()
        assert process.exitcode == 0
    assert AutoConfig.from_pretrained(folder).evaluation["rows"] == 80
    assert ModelCard.load(folder / "README.md").data.eval_results[0].dataset_name.endswith(", 80 faces")
    assert {path.name for path in folder.iterdir()} - {path.name for path in (faces / "ours").iterdir()} == {".lock"}


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--model_label_order", "happy", "sad"], "has 2 names"),
        (["--model_label_order", "alphabetical"], "names its classes itself: neutral, happy"),
        (["--num_faces", "-1"], "--num_faces is at least 0"),
        (["--model", "nowhere"], "--model nowhere is no folder with a model"),
        (["--eval_split_name", "test"], "no split 'test'"),
        (["--expressions", "happy"], "only one"),
        (["--num_faces", "2", "2"], "--num_faces takes one value here, and 2 is one more: leave the others out."),
        (["--no_such_flag", "2"], "There is no flag --no_such_flag: see --help."),
        (["--dataset_name", "X"], "--dataset_name any other dataset: give one of them"),
        (["--expressions", "happy", "bored"], "No expression is known by the name 'bored'"),
        (["--model", "", "--update_card"], "--update_card is for a --model of your own"),
    ],
)
def test_bad_input_is_one_sentence(flags, says, faces, tmp_path, monkeypatch, capsys):
    args = ["--data_dir", faces / "AffectNet+", "--model", faces / "ours", "--output_dir", tmp_path / "out", *flags]
    monkeypatch.setattr(sys, "argv", ["evaluate_model.py", *map(str, args)])
    with pytest.raises(SystemExit) as stopped:
        evaluate_model.main()
    assert stopped.value.code == 2 and says in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_model_that_gives_no_numbers_is_said_before_anything_is_written(faces, tmp_path, monkeypatch, capsys):
    model = SoftFerForImageClassification.from_pretrained(faces / "ours")
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    model.save_pretrained(tmp_path / "broken")
    args = ["--data_dir", faces / "AffectNet+", "--model", tmp_path / "broken", "--output_dir", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["evaluate_model.py", *map(str, args)])
    with pytest.raises(SystemExit):
        evaluate_model.main()
    assert "gives NaN for" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_to_is_said_before_anything_is_measured(faces, tmp_path, monkeypatch, capsys):
    (tmp_path / "report.html").touch()
    args = ["--data_dir", faces / "AffectNet+", "--model", faces / "ours", "--output_dir", tmp_path / "report.html"]
    monkeypatch.setattr(sys, "argv", ["evaluate_model.py", *map(str, args)])
    with pytest.raises(SystemExit):
        evaluate_model.main()
    said = capsys.readouterr().err
    assert "report.html" in said and "measuring" not in said


def test_rows_without_a_distribution_are_left_out_of_what_needs_one():
    scores, truth = np.random.default_rng(0).random((5, 8)), np.eye(8)[:5]
    all_known = SoftLabels().compute(predictions=scores, references=truth)
    scores, truth = np.vstack([scores, scores[:1]]), np.vstack([truth, np.zeros(8)])
    one_empty = SoftLabels().compute(predictions=scores, references=truth)
    for name in ("js_divergence", "kl", "cosine", "top1", "top2"):
        assert one_empty[name] == pytest.approx(all_known[name])
    assert one_empty["mae"] != pytest.approx(all_known["mae"])


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(60):
        low, high = interval(mean_of(rng.binomial(1, 0.7, 200).astype(float)), np.arange(200), seed)
        held += low <= 0.7 <= high
    assert 51 <= held <= 60
    labels, predicted = rng.integers(0, 5, 300), rng.integers(0, 8, 300)
    rows = np.arange(0, 300, 3)
    expected = f1_score(labels[rows], predicted[rows], average="macro", labels=np.unique(labels[rows]))
    assert macro_f1_of(predicted, labels)(rows[None])[0] == pytest.approx(expected)
    assert interval(mean_of(np.ones(3)), np.arange(1)) is None


def test_metrics_add_up_over_batches_and_leave_unknown_values_out():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 7, 90), rng.integers(0, 8, 90)  # no contempt among the labels
    metric = HumanLabels(EXPRESSIONS)
    for part in range(0, 90, 25):
        metric.add_batch(predictions=predicted[part : part + 25], references=labels[part : part + 25])
    result = metric.compute()
    with pytest.raises(ValueError, match="no rows"):
        metric.compute()
    with pytest.raises(ValueError, match="3 predictions for 2 references"):
        metric.compute(predictions=[0, 1, 2], references=[0, 1])
    assert result["accuracy"] == pytest.approx((labels == predicted).mean()) and np.isnan(result["recall"]["contempt"])
    annotated = rng.uniform(-1, 1, (200, 2))
    said = annotated * 0.5 + 0.1
    annotated[:50, 1] = np.nan
    result = ValenceArousal().compute(predictions=said, references=annotated)
    x, y = said[:, 0], annotated[:, 0]
    ccc = 2 * np.cov(x, y)[0, 1] / (x.var(ddof=1) + y.var(ddof=1) + (x.mean() - y.mean()) ** 2)
    assert result["valence"]["ccc"] == pytest.approx(ccc, abs=1e-6) and result["arousal"]["rows"] == 150
    assert result["valence"]["rmse"] == pytest.approx(np.sqrt(np.mean((x - y) ** 2)))
    assert result["valence"]["sign_agreement"] == pytest.approx(np.mean((x > 0) == (y > 0)))
