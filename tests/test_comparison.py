"""Several models on the same faces, as people run it: one table, paired differences, other people's scores."""

import csv
import json
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from runs import train
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from affectnet_plus import EXPRESSIONS, LABEL_ORDERS
from affectnet_plus.modeling import BUNDLED_MODEL, BUNDLED_ONNX, SoftFerConfig, SoftFerForImageClassification
from affectnet_plus.training import evaluate_model
from affectnet_plus.training.metrics import SoftLabels
from affectnet_plus.training.metrics.paired import agreement_of, ensemble_of, figures_of
from affectnet_plus.training.metrics.slices import calibration_error_of
from affectnet_plus.training.reports.comparison import folders_of

RECORD = {"sampler": "balanced", "auto_augment": "", "num_train_epochs": 3.0, "max_train_steps": None, "seed": 7}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two of ours that have the same name, and one that numbers seven expressions."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        config = SoftFerConfig(backbone="test_vit", image_size=32, activation="softmax")
        model = SoftFerForImageClassification(config)
        model.config.training = {"all": RECORD} if name == "one" else {}
        model.save_pretrained(folder / name / "soft_fer")
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTForImageClassification(ViTConfig(image_size=32, patch_size=16, num_labels=7, **shape)).save_pretrained(
        folder / "vit"
    )
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / "vit")
    return folder


@pytest.fixture(scope="module")
def alone(models, release):
    """The first, measured by itself; its scores as others would hand them over."""
    args = ["--data_dir", release, "--num_faces", 0, "--output_dir", "alone"]
    train(*args, "--model", "one/soft_fer", script="evaluate_model.py", cwd=models)
    table = pq.read_table(models / "alone/predictions.parquet").to_pandas()
    names = [name.title() for name in LABEL_ORDERS["alphabetical"]]
    scores = pd.DataFrame(np.stack(table["soft_label"]), columns=EXPRESSIONS)
    scores = scores.rename(columns={"happy": "happiness", "sad": "sadness"}).rename(columns=str.title)[names]
    scores.insert(3, "file_name", [f"faces/{row}.jpg" for row in table["image_id"]])
    scores.sample(frac=1, random_state=0).to_csv(models / "their_scores.csv", index=False)
    return models / "alone"


@pytest.fixture(scope="module")
def compared(models, release, alone):
    args = ["--data_dir", release, "--num_faces", 0, "--output_dir", "all", "--model_label_order", "fer2013"]
    args += ["--model", "one/soft_fer", "two/soft_fer", "vit", "--predictions", "their_scores.csv"]
    said = train(*args, script="evaluate_model.py", cwd=models)
    assert "comparison.html" in said and "| one-soft_fer |" in said
    return models / "all"


@pytest.fixture
def comparison(compared):
    return json.loads((compared / "comparison.json").read_text())


def predicted_by(folder: Path) -> pd.DataFrame:
    return pq.read_table(folder / "predictions.parquet").to_pandas()


NAMES = ["one-soft_fer", "two-soft_fer", "vit", "their_scores.csv"]


def test_each_model_is_measured_as_it_is_alone(compared, alone):
    assert sorted(path.name for path in compared.iterdir() if path.is_dir()) == sorted(NAMES)
    assert (compared / NAMES[0] / "metrics.json").read_bytes() == (alone / "metrics.json").read_bytes()
    assert {path.name for path in alone.iterdir()} == {"metrics.json", "predictions.parquet", "report.html"}


def test_table_has_the_figures_of_each_model(compared, comparison):
    assert [model["name"] for model in comparison["models"]] == [*NAMES, "ensemble"]
    for model in comparison["models"][:-1]:
        result = json.loads((compared / model["name"] / "metrics.json").read_text())
        for name in ("accuracy", "macro_f1", "js_divergence"):
            assert model["figures"][name] == {"value": result[name], "interval": result["intervals"][name]}
        low, high = model["figures"]["ece"]["interval"]
        assert model["figures"]["ece"]["value"] == pytest.approx(result["ece"], abs=1e-5)
        assert low < result["ece"] < high
        assert model["recall"] == result["recall"]
        table = predicted_by(compared / model["name"])
        f1 = f1_score(table["label"], table["predicted"], labels=EXPRESSIONS, average=None)
        assert list(model["f1"].values()) == pytest.approx(f1.tolist())
        for by, groups in model["slices"].items():
            assert {name: group["accuracy"] for name, group in groups.items()} == {
                name: group["accuracy"] for name, group in result["slices"][by].items()
            }


def test_ensemble_is_the_mean_of_the_scores_of_those_that_know_an_expression(compared, comparison):
    tables = [predicted_by(compared / name) for name in NAMES]
    scores = np.stack([np.stack(table["soft_label"]) for table in tables])
    mean = scores.mean(axis=0)
    mean[:, -1] = scores[[0, 1, 3], :, -1].mean(axis=0)  # the third knows no contempt
    accuracy = accuracy_score(tables[0]["label"], np.array(EXPRESSIONS)[mean.argmax(axis=1)])
    assert comparison["models"][-1]["figures"]["accuracy"]["value"] == pytest.approx(accuracy, abs=1e-5)


def test_what_is_the_same_differs_in_nothing_and_agrees_in_all(compared, comparison):
    pairs = {(pair["first"], pair["second"]): pair["figures"] for pair in comparison["differences"]}
    assert len(pairs) == 10
    for figure in pairs["one-soft_fer", "their_scores.csv"].values():
        assert figure["difference"] == pytest.approx(0, abs=1e-5) and not figure["more_than_chance"]
    values = [model["figures"]["accuracy"]["value"] for model in comparison["models"]]
    between = pairs["one-soft_fer", "two-soft_fer"]["accuracy"]
    assert between["difference"] == pytest.approx(values[0] - values[1], abs=1e-5)
    low, high = between["interval"]
    assert low < between["difference"] < high and between["more_than_chance"] == (low > 0 or high < 0)
    first, second = (predicted_by(compared / name)["predicted"] for name in NAMES[:2])
    agreement = comparison["agreement"]
    assert agreement["share"][0][3] == agreement["kappa"][0][3] == 1
    assert agreement["share"][0][1] == pytest.approx((first == second).mean(), abs=1e-5)
    assert agreement["kappa"][1][0] == pytest.approx(cohen_kappa_score(first, second), abs=1e-5)


def test_cost_and_recipe_are_known_of_models_alone(models, comparison):
    ours, other, theirs, file, ensemble = comparison["models"]
    assert file["cost"] is None and ensemble["cost"] is None and ours["cost"]["device"].startswith("CPU")
    for model, folder, network in ((ours, "one/soft_fer", SoftFerForImageClassification), (theirs, "vit", None)):
        loaded = (network or ViTForImageClassification).from_pretrained(models / folder)
        assert model["cost"]["parameters"] == loaded.num_parameters()
        assert model["cost"]["ms_per_face"] > 0 and model["cost"]["batch_size"] == 64
    patches, width, inner = 5, 16, 16  # four and the class token; the head sees one
    of_patches = 2 * 4 * (3 * 16 * 16) * width
    of_layer = 2 * patches * (4 * width * width + 2 * width * inner) + 2 * 2 * patches * patches * width
    assert theirs["cost"]["flops"] == of_patches + of_layer + 2 * width * 7
    assert ours["recipe"] == {"sampler": "balanced", "augmentation": "default", "epochs": "3", "seed": "7"}
    assert other["recipe"] == theirs["recipe"] == file["recipe"] == {}


def test_the_table_in_three_formats(compared, comparison):
    best = max(model["figures"]["accuracy"]["value"] for model in comparison["models"])
    lines = (compared / "comparison.md").read_text().splitlines()
    assert len(lines) == 2 + 5 + 2 and f"**{best:.3f}**" in "".join(lines)
    assert lines[-1].startswith(f"{comparison['rows']} faces of validation of synthetic AffectNet+")
    latex = (compared / "comparison.tex").read_text()
    assert r"their\_scores.csv & " in latex and f"\\textbf{{{best:.3f} (" in latex and r"95 \% boot" in latex
    assert latex.count(r" \\") == 1 + 5 and r"\toprule" in latex
    page = (compared / "comparison.html").read_text()
    assert not re.search(r'(?:src|href)="', page) and "http" not in page
    for title in (
        "Figures and intervals",
        "Differences",
        "Agreement",
        "Per-class figures",
        "By gender",
        "not corrected",
    ):
        assert title in page
    assert page.count('class="apart"') == 1 + sum(
        figure["more_than_chance"] for pair in comparison["differences"] for figure in pair["figures"].values()
    )


def test_two_processes_compare_what_one_compares(models, release, alone):
    args = ["--data_dir", release, "--num_faces", 0, "--model", "one/soft_fer", "two/soft_fer", "--max_samples", 40]
    found = []
    for processes in (1, 2):
        train(*args, "--output_dir", f"by{processes}", script="evaluate_model.py", cwd=models, processes=processes)
        found.append(json.loads((models / f"by{processes}/comparison.json").read_text()))
        for model in found[-1]["models"]:
            model.pop("cost")
    assert found[0]["agreement"] == found[1]["agreement"]
    for one, two in zip(*(of["models"] for of in found), strict=True):
        for name, figure in one["figures"].items():
            assert two["figures"][name]["value"] == pytest.approx(figure["value"], abs=1e-5)


def test_our_predictions_are_measured_again(models, release, alone):
    args = ["--data_dir", release, "--num_faces", 0, "--output_dir", "again", "--predictions"]
    train(*args, "alone/predictions.parquet", script="evaluate_model.py", cwd=models)
    again, before = (json.loads((models / name / "metrics.json").read_text()) for name in ("again", "alone"))
    assert again.pop("model") == "predictions.parquet" and before.pop("model") == "soft_fer"
    assert again == before and not (models / "again/comparison.json").exists()


def test_an_onnx_file_stands_beside_its_model_and_soft_labels_are_for_all(models, release, alone, tmp_path):
    table = predicted_by(alone)
    (tmp_path / "soft").mkdir()
    labels = pa.table({"image_id": table["image_id"], "soft_label": table["soft_label"]})
    pq.write_table(labels, tmp_path / "soft/validation-00000-of-00001.parquet")
    args = ["--data_dir", release, "--num_faces", 0, "--soft_labels", "soft", "--output_dir", tmp_path / "out"]
    train(*args, "--model", BUNDLED_MODEL, BUNDLED_ONNX, script="evaluate_model.py", cwd=tmp_path)
    comparison = json.loads((tmp_path / "out/comparison.json").read_text())
    assert comparison["ground_truth"] == "the soft label of label.py"
    torch_model, onnx_model, _ = comparison["models"]
    assert [torch_model["name"], onnx_model["name"]] == ["bundled", "model.onnx"]
    for name, figure in torch_model["figures"].items():
        assert onnx_model["figures"][name]["value"] == pytest.approx(figure["value"], abs=2e-3)
    assert comparison["agreement"]["share"][0][1] > 0.98
    assert torch_model["cost"]["flops"] > 1e6 and onnx_model["cost"]["flops"] is None
    assert onnx_model["cost"]["device"] == "CPU, by ONNX Runtime"


def test_caption_names_the_protocol_of_ferplus(tmp_path):
    rng, votes = np.random.default_rng(0), np.eye(10, dtype=int)[np.arange(8)] * 9
    columns = ["Usage", "Image name", *LABEL_ORDERS["ferplus"], "unknown", "NF"]
    (tmp_path / "FER2013Valid").mkdir()
    with (tmp_path / "fer2013new.csv").open("w", newline="") as file:
        csv.writer(file).writerow(columns)
        csv.writer(file).writerows(["PublicTest", f"fer{i:07}.png", *row] for i, row in enumerate(votes))
    for i in range(8):
        face = PIL.Image.fromarray(rng.integers(0, 256, (48, 48), dtype=np.uint8))
        face.save(tmp_path / f"FER2013Valid/fer{i:07}.png")
    args = ["--data_dir", tmp_path, "--num_faces", 0, "--output_dir", "out"]
    train(*args, "--model", BUNDLED_MODEL, BUNDLED_ONNX, script="evaluate_model.py", cwd=tmp_path)
    said = (tmp_path / "out/comparison.md").read_text()
    assert "the most of ten people's votes; ties" in said and "8 faces of validation of FER+" in said


def test_pairs_are_told_apart_by_what_both_see():
    """Of two models whose intervals overlap, one is right wherever the other is, and on a few more."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 8, 400)
    right = rng.random(400) < 0.6
    wrong = (labels + 1) % 8
    better = right | (rng.random(400) < 0.06)
    other = rng.permutation(right)  # as often right as the first, elsewhere
    scores = [np.eye(8)[np.where(hits, labels, wrong)] for hits in (better, right, other)]
    figures, differences = figures_of(scores, labels, None, EXPRESSIONS)
    (low, _), (_, high) = figures[0]["accuracy"]["interval"], figures[1]["accuracy"]["interval"]
    assert low < high
    marked = [pair["figures"]["accuracy"]["more_than_chance"] for pair in differences]
    assert marked == [True, False, False] and set(figures[0]) == {"accuracy", "macro_f1"}
    one_row = figures_of([of_model[:1] for of_model in scores], labels[:1], None, EXPRESSIONS)
    assert one_row[0][0]["accuracy"]["interval"] is None
    assert not one_row[1][0]["figures"]["accuracy"]["more_than_chance"]


def test_a_model_that_is_calibrated_has_its_error_within_the_interval():
    rng = np.random.default_rng(0)
    truth = rng.dirichlet(np.ones(8), 3000)
    scores = [truth, (truth + rng.normal(0, 0.02, truth.shape)).clip(0, 1)]
    figures, _ = figures_of(scores, truth.argmax(axis=1), truth, EXPRESSIONS)
    assert figures[0]["ece"] == {"value": 0, "interval": [0, 0]}
    low, high = figures[1]["ece"]["interval"]
    assert 0 < low < figures[1]["ece"]["value"] < high


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:The BCa")
def test_a_figure_that_is_undefined_has_no_interval():
    labels = np.arange(40) % 8
    scores = [np.zeros((40, 8)), np.eye(8)[labels]]
    figures, (pair,) = figures_of(scores, labels, np.eye(8)[labels], EXPRESSIONS)
    assert figures[0]["js_divergence"]["interval"] is None and np.isnan(figures[0]["js_divergence"]["value"])
    assert not pair["figures"]["js_divergence"]["more_than_chance"] and pair["figures"]["ece"]["more_than_chance"]


def test_resampled_calibration_error_is_that_of_the_metric():
    rng = np.random.default_rng(0)
    scores, truth = rng.random((2, 200, 8))
    rows = rng.integers(0, 200, (3, 200))
    expected = [SoftLabels().compute(predictions=scores[r], references=truth[r])["ece"] for r in rows]
    assert calibration_error_of(scores, truth)(rows) == pytest.approx(expected)


def test_models_that_never_vary_and_expressions_that_nobody_knows():
    never = np.eye(8)[np.zeros(5, dtype=int)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agreement = agreement_of([never, never])
    assert agreement["share"] == [[1, 1], [1, 1]] and np.isnan(agreement["kappa"]).all()
    mean = ensemble_of([never, np.zeros((5, 8))], [["neutral"], ["happy"]])
    assert mean[0].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]


def test_names_are_as_short_as_they_can_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/model", "b/model", "c"):
        Path(name).mkdir(parents=True)
    assert folders_of("out", ["a/model"]) == [""]
    assert folders_of("out", ["a/model", "b/model", "c", "someone/vit"]) == ["a-model", "b-model", "c", "vit"]


def wrong_scores(folder: Path, change) -> Path:
    table = pd.read_csv(folder / "their_scores.csv", dtype=str)
    change(table).to_csv(folder / "wrong.csv", index=False)
    return folder / "wrong.csv"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.iloc[2:], "has no scores for 2 rows"),
        (lambda t: pd.concat([t, t[:1]]), "has 1 rows more than faces"),
        (lambda t: t.assign(label="neutral"), "is of other faces that have the same ids"),
        (lambda t: t.rename(columns={"file_name": "face"}), "has no column that says which face a row is"),
        (lambda t: t[["file_name"]], "has no scores: name its columns by the expressions"),
        (lambda t: t.assign(Anger="-3.2"), "write no logits, divide percentages by 100"),
        (lambda t: t.assign(Anger=["x", *t["Anger"][1:]]), "column 'Anger' does not hold numbers only"),
        (lambda t: t.assign(Anger=["", *t["Anger"][1:]]), "lacks scores in 1 rows"),
        (
            lambda t: t[["file_name"]].assign(soft_label="[0.5, 0.5]"),
            "does not hold a list of 8 numbers in every row",
        ),
    ],
)
def test_files_of_scores_that_cannot_be_are_refused(change, says, models, release, alone, monkeypatch, capsys):
    file = wrong_scores(models, change)
    assert says in refused(["--data_dir", release, "--predictions", file], models / "none", monkeypatch, capsys)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--model", "vit", "./vit"], "vit is named twice"),
        (["--model", "one/soft_fer", "two/soft_fer", "--update_card"], "--update_card is for one --model"),
        (["--model", "one/soft_fer", "--predictions", "gone.csv"], r"--predictions gone\.csv is no \.csv"),
        (["--model", "one/soft_fer", "foreign.onnx"], r"foreign\.onnx does not say its 'expressions'"),
        (["--model", "one/soft_fer", "vit"], "LABEL_0.*--model_label_order"),
    ],
)
def test_what_cannot_be_compared_is_said_before_anything_is_measured(
    flags, says, models, release, monkeypatch, capsys
):  # fmt: skip
    monkeypatch.chdir(models)
    other = onnx.load(BUNDLED_ONNX)
    del other.metadata_props[:]
    onnx.save(other, "foreign.onnx")
    assert re.search(says, refused(["--data_dir", release, *flags], models / "none", monkeypatch, capsys))


def test_no_report_goes_into_a_model(models, release, monkeypatch, capsys):
    monkeypatch.chdir(models)
    args = ["--data_dir", release, "--model", "vit", BUNDLED_MODEL, "--model_label_order", "fer2013"]
    before = sorted(models.rglob("*"))
    said = refused(args, Path(), monkeypatch, capsys)
    assert "would put a report into" in said and sorted(models.rglob("*")) == before


def refused(args, output_dir: Path, monkeypatch, capsys) -> str:
    monkeypatch.setattr(sys, "argv", ["evaluate_model.py", *map(str, args), "--output_dir", str(output_dir)])
    with pytest.raises(SystemExit) as stopped:
        evaluate_model.main()
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "measuring" not in said and not (output_dir / "comparison.json").exists()
    (sentence,) = [line for line in said.splitlines() if line.startswith("evaluate_model.py: error: ")]
    return sentence
