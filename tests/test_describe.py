"""What `affectnet-plus describe` tells of a dataset: the numbers are its rows', and the page needs nothing else."""

import itertools
import json
import re
import shutil

import datasets
import numpy as np
import pandas as pd
import pytest
from damages import ROWS, TRAIN, VALIDATION
from PIL import Image

import affectnet_plus
from affectnet_plus import EXPRESSIONS
from affectnet_plus.synthetic import synthesize
from affectnet_plus.training.faces.duplicates import NEAR, Fingerprints, near_duplicates
from affectnet_plus_cli import main


def described(tmp_path, *arguments):
    page = tmp_path / "page.html"
    with pytest.raises(SystemExit) as stop:
        main(["describe", *map(str, arguments), "--output", str(page), "--num_proc", "1"])
    assert not stop.value.code
    return json.loads(page.with_suffix(".json").read_text()), page.read_text()


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """With a file of train that stands in validation as well, and another of nearly the same picture."""
    root = tmp_path_factory.mktemp("described") / "release"
    synthesize(root, train=120, validation=60, seed=4, num_proc=1, image_size=64)
    images = [sorted((root / split / "images").iterdir()) for split in (TRAIN, VALIDATION)]
    shutil.copy(images[0][0], images[1][0])
    Image.open(images[0][1]).save(images[0][2], quality=60)
    return root


def test_the_numbers_are_those_of_the_rows(release, tmp_path):
    numbers, page = described(tmp_path, release)
    rows = datasets.load_dataset("affectnet_plus", "human_annotated_all", data_dir=str(release), split="train")
    found = numbers["splits"]["train"]
    names = rows.features["label"].names
    labels = pd.Series(rows["label"][:]).map(lambda index: names[index])
    assert {name: count for name, count in found["labels"].items() if count} == labels.value_counts().to_dict()
    scores = pd.DataFrame(rows["soft_label"][:], columns=EXPRESSIONS)
    by_label = scores.groupby(labels).mean().reindex(EXPRESSIONS).to_numpy()
    np.testing.assert_allclose(np.array(found["soft_labels"]["mean_by_label"], float), by_label, atol=1e-4)
    np.testing.assert_allclose(found["soft_labels"]["correlation"], scores.corr(), atol=1e-4)
    both = ((scores.happy >= 0.5) & (scores.neutral >= 0.5)).mean()
    assert found["soft_labels"]["together"][0][1] == pytest.approx(both, abs=1e-4)
    assert sum(found["soft_labels"]["present"]) == sum(found["soft_labels"]["histogram"]["fear"]) == len(rows)
    valence = pd.Series(rows["valence"][:])
    mean = valence[labels == "happy"].mean()
    assert found["valence_arousal"]["mean"]["happy"][0] == pytest.approx(mean, abs=1e-4)
    assert np.sum(found["valence_arousal"]["density"]) == valence.notna().sum()
    groups = found["groups"]["gender"]
    shares = np.array(list(groups["shares"].values()))
    assert groups["gap"]["happy"] == pytest.approx(np.ptp(shares[:, EXPRESSIONS.index("happy")]), abs=2e-5)
    assert "data:image/jpeg" not in page and not re.search(r"(src|href)=\"(?!data:)", page)


def test_copies_and_near_copies_are_found(release, tmp_path):
    numbers, page = described(tmp_path, release, "--faces")
    duplicates = numbers["duplicates"]
    assert duplicates["same_file"] == {"train": 0, "validation": 0, "train, validation": 1}
    assert duplicates["near"]["train"] == 1 and len(duplicates["nearest"]) == sum(duplicates["near"].values())
    (pair,) = [pair for pair in duplicates["nearest"] if all(split == "train" for split, _ in pair["rows"])]
    assert pair["bits"] <= NEAR
    assert not numbers["check"]["whole"] and sum(numbers["check"]["problems"].values()) == 1
    assert page.count("data:image/jpeg") > 20 and "Nearest pairs" in page and "68 points" in page


def test_near_duplicates_are_those_of_a_comparison_of_all(tmp_path):
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 1 << 16, (60, 16)).astype(np.uint16)
    hashes[30:] = hashes[:30]
    for row, changed in enumerate(range(0, 30)):  # 0 to 29 bits, each in the next band
        for bit in range(changed):
            hashes[30 + row, bit % 16] ^= 1 << (bit // 16)
    readable = np.ones(60, bool)
    readable[[3, 59]] = False
    pairs, bits = near_duplicates(Fingerprints(np.arange(60, dtype=np.uint64), hashes, readable))
    apart = {
        (i, j): sum(int(a ^ b).bit_count() for a, b in zip(hashes[i].tolist(), hashes[j].tolist(), strict=True))
        for i, j in itertools.combinations(np.flatnonzero(readable).tolist(), 2)
    }
    assert dict(zip(map(tuple, pairs.tolist()), bits.tolist(), strict=True)) == {
        pair: distance for pair, distance in apart.items() if distance <= NEAR
    }
    assert len(pairs) == NEAR  # the twins with 0 to 15 bits, but for one that is not readable


@pytest.mark.parametrize("layout", ["2021", "2017"])
def test_older_releases_are_described(layout, tmp_path):
    synthesize(tmp_path / "release", **ROWS, seed=8, num_proc=1, image_size=64, layout=layout)
    numbers, page = described(tmp_path, tmp_path / "release")
    train = numbers["splits"]["train"]
    assert sum(train["labels"].values()) == train["rows"] and "soft_labels" not in train
    assert "Valence and arousal" in page and "Soft labels" not in page


def test_any_dataset_is_described(ferplus, tmp_path):
    numbers, page = described(tmp_path, "--dataset_name", ferplus)
    soft = numbers["splits"]["train"]["soft_labels"]
    rows = datasets.load_dataset(str(ferplus), split="train")
    order = affectnet_plus.match_expressions(rows.features["label"].names)
    expected = np.mean(rows["soft_label"][:], axis=0)
    np.testing.assert_allclose([soft["mean"][EXPRESSIONS[i]] for i in order], expected, atol=1e-4)
    assert numbers["check"] is None and "Problems" not in page


def test_nothing_is_said_of_an_expression_without_a_class(ferplus, tmp_path):
    for split in ("train", "validation"):
        rows = datasets.load_dataset(str(ferplus), split=split)
        names = rows.features["label"].names
        rows = rows.select(np.flatnonzero(np.array(rows["label"][:]) != names.index("contempt")))
        scores = [score[:-1] for score in rows["soft_label"]]
        rows = rows.remove_columns("soft_label").add_column("soft_label", scores)
        rows = rows.cast_column("label", datasets.ClassLabel(names=names[:-1]))
        (tmp_path / "seven").mkdir(exist_ok=True)
        rows.to_parquet(tmp_path / "seven" / f"{split}-00000-of-00001.parquet")
    soft = described(tmp_path, "--dataset_name", tmp_path / "seven")[0]["splits"]["train"]["soft_labels"]
    assert soft["mean"]["contempt"] is None and soft["mean"]["happy"] == pytest.approx(1 / 7, abs=0.01)
    contempt = EXPRESSIONS.index("contempt")
    for matrix in ("mean_by_label", "correlation", "together"):
        values = np.array(soft[matrix], dtype=float)
        assert np.isnan(values[:, contempt]).all() and not np.isnan(np.delete(values[:contempt], contempt, 1)).any()


def test_a_configuration_that_is_named_is_described(release, tmp_path):
    whole, named = (
        described(tmp_path, release, *more)[0]["splits"]["train"]
        for more in ([], ["--dataset_config_name", "human_annotated"])
    )
    assert named["rows"] == sum(whole["labels"][name] for name in EXPRESSIONS) < whole["rows"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--output", "page.pdf"], "--output is a page"),
        (["R", "--dataset_name", "D", "--output", "page.html"], "give one of them"),
        (["nowhere", "--output", "page.html"], "nowhere"),
        (["--dataset_name", "nowhere", "--output", "page.html"], "nowhere"),
    ],
)
def test_what_cannot_be_described_is_said_in_one_line(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["describe", *arguments])
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and said in line
    assert not list(tmp_path.iterdir())
