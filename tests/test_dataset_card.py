"""The card of an exported dataset."""

import re

import datasets
import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard

from affectnet_plus import features
from affectnet_plus.releases.export import export
from affectnet_plus.synthetic import synthesize


@pytest.fixture(scope="module")
def release(varied_release):
    return varied_release


def test_the_card(release, exported):
    card = DatasetCard.load(exported / "README.md")
    assert (
        card.data["license"] == "other"
        and card.data["license_link"] == "http://mohammadmahoor.com/pages/databases/affectnet/"
    )
    assert card.data["task_categories"] == ["image-classification"] and card.data["size_categories"] == ["n<1K"]
    text = " ".join(card.text.split())
    for said in (
        "research only",
        "signed agreement",
        "Do not make them public",
        "@article{fard2025affectnetplus",
        "0 neutral, 1 happy, 2 sad, 3 surprise, 4 fear, 5 disgust, 6 anger, 7 contempt, 8 none, 9 uncertain, 10 non",
        "They do **not** sum to one",
        "divide a soft label by its sum",
        "Their unit is not documented",
        "The faces of this copy are drawn, not photographed",
    ):
        assert said in text
    for name in features():
        assert f"`{name}`" in text
    counts = {
        row[0]: row[1:] for line in card.text.splitlines() if line[:1] == "|" and (row := re.findall(r"[\w,-]+", line))
    }
    train = load_dataset("affectnet_plus", "human_annotated_all", data_dir=str(release), split="train")
    assert int(counts["happy"][0]) == train["label"][:].count(1) > 0
    assert int(counts["difficult"][0]) == train["subset"][:].count(2) > 0 and counts["difficult"][1] == "0"


def test_the_card_of_photographs_says_who_may_ask(few, tmp_path):
    (few / "ground_truth.parquet").unlink()
    export(few, tmp_path / "out", num_proc=1)
    card = DatasetCard.load(tmp_path / "out/README.md")
    assert "AffectNet agreement" in card.data["extra_gated_prompt"]
    assert "drawn" not in card.text


def test_the_card_of_an_older_release_promises_no_soft_labels(tmp_path):
    counts = {"train": 40, "validation": 0, "num_proc": 1, "image_size": 64}
    synthesize(tmp_path / "2017", **counts, unannotated=20, layout="2017")
    synthesize(tmp_path / "2021", **counts, layout="2021")
    for layout in ("2017", "2021"):
        export(tmp_path / layout, tmp_path / f"out{layout}", num_proc=1)
        card = DatasetCard.load(tmp_path / f"out{layout}/README.md")
        assert "soft-labels" not in card.data["tags"] and "each with a soft label" not in card.text
        assert "It has no soft labels" in card.text and "@article{mollahosseini2019affectnet" in card.text
        assert ("are a network's, not people's" in card.text) == (layout == "2017")
        info = datasets.load_dataset_builder(
            "affectnet_plus", f"affectnet_{layout}", data_dir=str(tmp_path / layout)
        ).info
        assert "It has no soft labels" in info.description and "mollahosseini2019" in info.citation
