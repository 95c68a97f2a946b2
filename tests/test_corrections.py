"""Label errors reviewed in a browser, and what comes after with the labels that a person has corrected."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from runs import SOFT_FER, train
from small_models import model_of

from affectnet_plus import EXPRESSIONS
from affectnet_plus.releases.files import csv_cell, text_of_csv_cell
from affectnet_plus.training.arguments import DataArguments
from affectnet_plus.training.faces import load_rows, load_split, read_soft_labels, split_to_label
from affectnet_plus.training.soft_labels.label_files import label_table, write_table

COLUMNS = ["split", "image_id", "human_label", "corrected_label", "decision"]


@pytest.fixture(scope="module")
def page_file(release, tmp_path_factory):
    """The page of six faces, by scores that nobody has learnt."""
    folder = tmp_path_factory.mktemp("review")
    split = load_split(DataArguments(data_dir=str(release)), "train")
    scores = np.random.default_rng(1).random((3, len(split), 8))
    (folder / "soft").mkdir()
    write_table(label_table(split, np.arange(len(split)), scores), folder / "soft/train-00000-of-00001.parquet")
    args = ["--data_dir", release, "--soft_labels", "soft", "--num_faces", 6, "--output_file", "errors.html"]
    train(*args, script="show_label_errors.py", cwd=folder)
    return folder / "errors.html"


def reviewed(page) -> str:
    return page.locator(".review output").inner_text()


def saved(page, file) -> pd.DataFrame:
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "corrections.csv"
    download.value.save_as(file)
    return pd.read_csv(file, dtype=str, keep_default_na=False)


@pytest.fixture(scope="module")
def corrections(page_file, chromium):
    """What is saved after: the first is right, the second is another, the third is none, the fourth is skipped."""
    table = pd.read_csv(page_file.with_suffix(".csv"), dtype=str)
    other = [next(name for name in EXPRESSIONS if name != human) for human in table["human_label"]]
    context = chromium.new_context(viewport={"width": 420, "height": 800})
    page, asked = context.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_file.as_uri())
    assert reviewed(page) == "0 of 6 reviewed"
    page.keyboard.press("a")
    page.keyboard.press(str(EXPRESSIONS.index(other[1]) + 1))
    page.keyboard.press("n")
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    assert reviewed(page) == "5 of 6 reviewed"
    page.keyboard.press("u")
    page.reload()  # as after a night
    assert reviewed(page) == "4 of 6 reviewed"
    current = page.locator("tr[aria-current]")
    assert current.get_attribute("data-image-id") == table["image_id"][4]
    assert current.evaluate("row => row.getBoundingClientRect().top") < 800
    page.keyboard.press("k")
    page.keyboard.press("ArrowDown")
    assert current.get_attribute("data-image-id") == table["image_id"][4]
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
    file = page_file.with_name("corrections.csv")
    written = saved(page, file)
    expected = table.head(4)[["split", "image_id", "human_label"]]
    expected["corrected_label"] = [table["human_label"][0], other[1], "none", ""]
    expected["decision"] = ["accept", "correct", "correct", "skip"]
    pd.testing.assert_frame_equal(written, expected, check_dtype=False)
    assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
    context.close()
    return file


def test_review_by_mouse_and_undo_of_a_change(page_file, chromium, tmp_path):
    context = chromium.new_context()
    page = context.new_page()
    page.goto(page_file.as_uri())
    page.locator(".label-errors tbody tr").nth(2).locator("img").click()
    page.get_by_role("button", name="label is right").click()
    page.keyboard.press("Space")  # skips: the button that was clicked is not pressed again
    assert [row.decision for row in saved(page, tmp_path / "c.csv").itertuples()] == ["accept", "skip"]
    page.locator(".label-errors tbody tr").nth(2).click()
    page.get_by_role("button", name="skip").click()
    page.get_by_role("button", name="undo").click()
    assert [row.decision for row in saved(page, tmp_path / "c.csv").itertuples()] == ["accept", "skip"]
    context.close()


def test_trainers_and_evaluation_take_the_corrections(corrections, release, tmp_path):
    table = pd.read_csv(corrections, dtype=str, keep_default_na=False)
    plain = load_split(DataArguments(data_dir=str(release)), "train")
    args = [*SOFT_FER, "--data_dir", release, "--target", "hard", "--backbone", "test_vit", "--output_dir", "out"]
    args += ["--max_train_steps", 2, "--max_eval_samples", 16, "--corrections"]
    said = train(*args, corrections, script="train_soft_fer.py", cwd=tmp_path)
    assert "1 labels of train corrected, 1 rows without a label" in said
    (record,) = json.loads((tmp_path / "out/config.json").read_text())["training"].values()
    assert record["rows"] == len(plain) - 1
    assert record["corrections"].items() >= {"corrected": 1, "left_out": 1}.items()

    table.head(1).to_csv(tmp_path / "other.csv", index=False)
    refused = train(
        *args, "other.csv", "--resume_from_checkpoint", "latest", script="train_soft_fer.py", cwd=tmp_path, expect=2
    )
    assert "corrections" in refused and "other settings" in refused

    args = ["--data_dir", release, "--model", "out", "--eval_split_name", "train", "--max_samples", 400]
    args += ["--corrections", corrections, "--output_dir", "figures"]
    train(*args, script="evaluate_model.py", cwd=tmp_path)
    results = [json.loads(file.read_text()) for file in (tmp_path / "figures").glob("*.json")]
    assert [result["corrections"] for result in results if "corrections" in result] == [record["corrections"]]


@pytest.fixture(scope="module")
def three(release):
    """The first three rows of train: accepted, corrected, and none."""
    split = load_split(DataArguments(data_dir=str(release)), "train", 3)
    human = [EXPRESSIONS[label] for label in split.labels]
    other = next(name for name in EXPRESSIONS if name != human[1])
    return pd.DataFrame(
        zip(["train"] * 3, split.ids, human, [human[0], other, "none"], ["accept", "correct", "correct"], strict=True),
        columns=COLUMNS,
    )


def test_labels_are_those_corrected_whoever_reads_them(three, release, tmp_path):
    three.to_csv(tmp_path / "c.csv", index=False)
    plain = load_split(DataArguments(data_dir=str(release)), "train")
    args = DataArguments(data_dir=str(release), corrections=str(tmp_path / "c.csv"))
    labels = plain.labels.copy()
    labels[1:3] = EXPRESSIONS.index(three["corrected_label"][1]), -1
    rows = load_rows(args)
    assert split_to_label(rows["train"], args).labels.tolist() == labels.tolist()
    to_train = load_split(args, "train")
    assert to_train.labels.tolist() == labels[labels >= 0].tolist()
    assert to_train.ids.tolist() == plain.ids[labels >= 0].tolist()
    assert load_split(args, "train", 1).labels.tolist() == labels[:1].tolist()  # the others are in the split, too
    assert (load_split(args, "validation").labels >= 0).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.drop(columns="decision"), "has no column decision"),
        (lambda t: t.assign(corrected_label="joy"), "'joy' as corrected_label"),
        (lambda t: t.assign(decision="maybe"), "'maybe' as decision"),
        (
            lambda t: t.assign(image_id=["nobody", *t["image_id"][1:]]),
            "rows that train has not, e.g. image_id nobody",
        ),
        (lambda t: t.assign(human_label=t["human_label"].map(lambda n: "fear" if n != "fear" else "sad")), "another"),
        (lambda t: t.assign(split="test"), "has rows of 'test'"),
        (lambda t: pd.concat([t, t.assign(decision="skip")]), "says two things of"),
        (lambda t: t.head(0).drop(columns=list(t)), "cannot be read as CSV"),
    ],
)
def test_corrections_that_do_not_fit_are_refused(three, release, tmp_path, change, says):
    change(three).to_csv(tmp_path / "c.csv", index=False)
    args = DataArguments(data_dir=str(release), corrections=str(tmp_path / "c.csv"))
    with pytest.raises(ValueError, match=says) as refused:
        load_split(args, "train")
    assert "--corrections" in str(refused.value) and len(str(refused.value)) < 400


@pytest.mark.parametrize("text", ["=1+1", "-5", "'quoted", "plain", "", "@x", "'"])
def test_cells_of_a_spreadsheet_are_read_back(text):
    assert text_of_csv_cell(csv_cell(text)) == text


def test_labels_are_made_and_used_with_the_labels_that_a_person_has_corrected(release, tmp_path):
    split = load_split(DataArguments(data_dir=str(release)), "validation")
    names = [EXPRESSIONS[label] for label in split.labels[:2]]
    corrected = ["none", next(name for name in EXPRESSIONS if name != names[1])]
    table = {"split": split.name, "image_id": split.ids[:2], "human_label": names, "corrected_label": corrected}
    pd.DataFrame(table | {"decision": "correct"}).to_csv(tmp_path / "c.csv", index=False)
    model_of("fused").save_pretrained(tmp_path / "fused")
    args = ["--data_dir", release, "--model", "fused", "--splits", "validation", "--output_dir", "soft"]
    said = train(*args, "--corrections", "c.csv", script="label.py", cwd=tmp_path)
    assert said.count("1 labels of validation corrected, 1 rows without a label") == 1
    (file,) = (tmp_path / "soft").glob("validation-*.parquet")
    rows = pq.read_table(file).to_pandas().set_index("image_id").loc[split.ids]
    assert pd.isna(rows["human_label"].iloc[0]) and not pd.isna(rows["soft_label"].iloc[0]).any()
    assert rows["human_label"].iloc[1:].tolist() == [EXPRESSIONS.index(corrected[1]), *split.labels[2:]]
    record = json.loads((tmp_path / "soft/label.json").read_text())["corrections"]
    assert (record["corrected"], record["left_out"]) == (1, 1)
    assert "other settings (corrections)" in train(*args, script="label.py", cwd=tmp_path, expect=2)
    others = split.select(np.arange(1, len(split)))  # with the label as it was
    with pytest.raises(ValueError, match="posterior of 1 rows of validation was made with another human label"):
        read_soft_labels(str(tmp_path / "soft"), others, "posterior")
    assert len(read_soft_labels(str(tmp_path / "soft"), others)) == len(others)
