"""Datasets that have shares of the expressions in place of a label: lists of numbers, or a column for each."""

import json

import datasets
import numpy as np
import pytest
from PIL import Image
from runs import SOFT_FER, refused, train
from transformers import AutoConfig

from affectnet_plus import LABEL_ORDERS, match_expressions
from affectnet_plus.training import train_ebc
from affectnet_plus.training.arguments import DataArguments
from affectnet_plus.training.faces import load_split

ORDER = LABEL_ORDERS["fer2013"]


def write(folder, number=16, split="train", **columns):
    """Grey levels that tell the class, and these columns."""
    faces = [Image.new("L", (24, 24), 30 * (i % 7) + 20) for i in range(number)]
    rows = datasets.Dataset.from_dict({"image": faces} | columns).cast_column("image", datasets.Image())
    folder.mkdir(exist_ok=True)
    rows.to_parquet(folder / f"{split}-00000-of-00001.parquet")


def shares(number=16) -> np.ndarray:
    """Mostly one expression, in the order of FER2013; the third row is torn between two, the fourth shows nothing."""
    scores = 0.6 * np.eye(7)[np.arange(number) % 7] + 0.4 / 7
    scores[2], scores[3] = [0, 0.5, 0, 0.5, 0, 0, 0], 0
    return scores


@pytest.mark.parametrize("kind", ["list", "columns"])
def test_the_highest_share_is_the_label_where_there_is_one(kind, tmp_path):
    if kind == "list":
        write(tmp_path / "faces", soft_label=shares().tolist())
        args = DataArguments(dataset_name=str(tmp_path / "faces"), label_order=["fer2013"])
    else:
        write(tmp_path / "faces", **dict(zip(ORDER, shares().T.tolist(), strict=True)), age=[30] * 16)
        args = DataArguments(dataset_name=str(tmp_path / "faces"))
    split = load_split(args, "train", with_soft_labels=True, without_class=True)
    ours = match_expressions(ORDER)
    assert split.labels.tolist() == [-1 if i in (2, 3) else ours[i % 7] for i in range(16)]
    np.testing.assert_allclose(split.soft_labels[:, ours], shares())
    assert np.isnan(split.soft_labels[:, 7]).all() and "contempt" not in split.expressions
    with pytest.warns(UserWarning, match="2 rows of train, first 2, are left out"):
        assert len(load_split(args, "train")) == 14


def test_zeros_and_ones_say_which_are_shown(tmp_path):
    write(tmp_path / "faces", 3, happy=[1, 0, 1], surprised=[True, False, False], sad=[0, 0, 0])
    split = load_split(DataArguments(dataset_name=str(tmp_path / "faces")), "train", None, True, without_class=True)
    assert split.labels.tolist() == [-1, -1, 1] and split.expressions == ["happy", "sad", "surprise"]
    assert split.soft_labels[0, 1:4].tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([0.5, 0.5], "row 5: 2 numbers where 7 are expected"),
        ([-0.1, *[0.1] * 6], "row 5: -0.1 is no share from 0 to 1."),
        ([float("nan"), *[0.1] * 6], "row 5: nan is no share"),
        ([None, *[0.1] * 6], "row 5: None is no share"),
        (None, "row 5: None where 7 are expected"),
        ([3.0, *[0.0] * 6], "row 5: 3.0 is no share from 0 to 1: divide counts of votes by their sum"),
    ],
)
def test_what_is_no_share_is_one_sentence_with_its_row(value, says, tmp_path, monkeypatch, capsys):
    scores = [[*row] for row in shares().tolist()]
    scores[5] = value
    for split in ("train", "validation"):
        write(tmp_path / "faces", split=split, soft_label=scores)
    flags = ["--dataset_name", tmp_path / "faces", "--label_order", "fer2013"]
    said = refused(train_ebc, flags, tmp_path / "ebc", monkeypatch, capsys)
    assert f"Column 'soft_label' of train, {says}" in said and len(said) < 300


def test_scores_without_an_order_are_refused(tmp_path, monkeypatch, capsys):
    write(tmp_path / "faces", soft_label=shares().tolist())
    said = refused(train_ebc, ["--dataset_name", tmp_path / "faces"], tmp_path / "ebc", monkeypatch, capsys)
    assert "has no column 'label', and the scores in 'soft_label' have no order: say theirs by --label_order" in said


def test_a_network_learns_shares_also_of_rows_without_a_class(tmp_path):
    scores = shares(70)
    scores[3] = 1 / 7
    for split in ("train", "validation"):
        write(tmp_path / "faces", 70, split, soft_label=scores.tolist())
    args = ["--dataset_name", tmp_path / "faces", "--label_order", "fer2013"]
    model = [*SOFT_FER, "--backbone", "test_vit", "--target", "distribution", "--sampler", "balanced"]
    said = train(*args, *model, "--max_train_steps", 4, "--output_dir", "m", script="train_soft_fer.py", cwd=tmp_path)
    assert "2 rows of validation, first 2, are left out" in said and "rows of train" not in said
    config = AutoConfig.from_pretrained(tmp_path / "m")
    assert config.training["all"]["rows"] == 70 and len(config.expressions) == 7
    metrics = json.loads((tmp_path / "m/metrics.json").read_text())
    assert metrics["rows"] == 68 and 0 <= metrics["js_divergence"] < np.log(2)
