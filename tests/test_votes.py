"""People's votes: the tables they come in, whose faces they are, and what some people and a model are worth by them."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset
from runs import train

from affectnet_plus import EXPRESSIONS, LABEL_ORDERS, match_expressions
from affectnet_plus.modeling import SoftFerConfig, SoftFerForImageClassification
from affectnet_plus.synthetic import synthesize
from affectnet_plus.training.arguments import DataArguments, TrainingDataArguments
from affectnet_plus.training.faces import known_truth, load_split
from affectnet_plus.training.metrics.human import drawn, human_yardstick
from affectnet_plus.training.soft_labels.evaluation_rows import check_votes

CODES = {name: code for code, name in enumerate(LABEL_ORDERS["affectnetc25"])}
PEOPLE = 25


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("votes") / "AffectNet"
    synthesize(root, train=40, validation=120, seed=5, num_proc=1, image_size=40, layout="2017")
    return root


@pytest.fixture(scope="module")
def split(root):
    return load_split(DataArguments(data_dir=str(root)), "validation", with_soft_labels=True)


@pytest.fixture(scope="module")
def votes(root, split):
    """(rows, 8) of 25 people, drawn from the true intensities."""
    truth, _ = known_truth(split, DataArguments(data_dir=str(root)))
    shares = (truth + 0.01) / (truth + 0.01).sum(axis=1, keepdims=True)
    return np.random.default_rng(0).multinomial(PEOPLE, shares)


@pytest.fixture(scope="module")
def of_participants(split, votes):
    """As AffectNetC25 has them, of the first sixty faces."""
    code_of = np.argsort(match_expressions(CODES))
    codes = [np.repeat(code_of, row) for row in votes[:60]]
    table = pd.DataFrame(codes, columns=[f"participant{i}" for i in range(PEOPLE)])
    table.insert(0, "filename", [f"{name}.jpg" for name in split.names[:60]])
    return table.rename_axis("index").reset_index()


def by_expression(split, values):
    spelt = ["neutral", "happiness", "sadness", "surprised", "fear", "disgust", "angry", "contempt"]
    return pd.DataFrame(values, columns=spelt).assign(image_id=split.ids)


def load(root, path, **more):
    with pytest.warns(UserWarning, match=r"[\d,]+ of [\d,]+ rows of validation have votes in --votes"):
        return load_split(
            DataArguments(data_dir=str(root), votes=str(path), **more), "validation", with_soft_labels=True
        )


def test_codes_of_participants_become_shares_of_the_rows_they_are_of(root, split, votes, of_participants, tmp_path):
    of_participants.sample(frac=1, random_state=1).to_csv(tmp_path / "c25.csv", index=False)
    found = load(root, tmp_path / "c25.csv", votes_label_order=["affectnetc25"])
    assert found.ids.tolist() == split.ids[:60].tolist() and (found.labels == split.labels[:60]).all()
    np.testing.assert_array_equal(found.votes, votes[:60])
    np.testing.assert_allclose(found.soft_labels, votes[:60] / PEOPLE)
    check_votes(DataArguments(data_dir=str(root), votes=str(tmp_path / "c25.csv")), found)
    with pytest.raises(ValueError, match="--prior_precision fit: validation has no soft labels"):
        check_votes(DataArguments(data_dir=str(root)), split)
    columns = [f"participant{i}" for i in range(PEOPLE)]
    names = of_participants.assign(**{c: of_participants[c].map(dict(enumerate(CODES))) for c in columns})
    names.iloc[0, -1] = None
    names.to_parquet(tmp_path / "names.parquet")
    named = load(root, tmp_path / "names.parquet")
    np.testing.assert_array_equal(named.votes[1:], votes[1:60])
    assert named.votes[0].sum() == PEOPLE - 1


def test_counts_and_shares_are_told_apart(root, split, votes, tmp_path):
    some = np.where(np.arange(len(votes))[:, None] < 10, 0, votes)
    as_ferplus = by_expression(split, some).rename(columns={"image_id": "Image name"})
    without_name = as_ferplus[:2].assign(**{"Image name": None})  # as FER+ has them
    as_ferplus["Image name"] = [f"{name}.png" for name in split.names]
    pd.concat([as_ferplus, without_name]).to_csv(tmp_path / "counts.csv", index=False)
    by_expression(split, votes / PEOPLE).drop(columns="contempt").query("neutral < 2").to_csv(tmp_path / "shares.csv")
    counts = load(root, tmp_path / "counts.csv")
    np.testing.assert_array_equal(counts.votes, votes[10:])
    with pytest.raises(ValueError, match="nor shares that sum to one"):  # those for contempt are missing
        load_split(DataArguments(data_dir=str(root), votes=str(tmp_path / "shares.csv")), "validation", None, True)
    by_expression(split, votes / PEOPLE).to_csv(tmp_path / "shares.csv")
    shares = load(root, tmp_path / "shares.csv")
    assert shares.votes is None
    np.testing.assert_allclose(shares.soft_labels, votes / PEOPLE)


REFUSED = {
    "no order": (lambda t: t, [], "'participant0' and its like number the expressions: say by --votes_label_order"),
    "wrong order": (lambda t: t, ["affectnet"], "in that called affectnetc25: give the right one"),
    "few names": (lambda t: t, ["fer2013"], "holds 7 as a code, and --votes_label_order has 7 names"),
    "other faces": (lambda t: t.assign(filename="x" + t["filename"]), ["affectnetc25"], "none of its rows is one of"),
    "twice": (lambda t: pd.concat([t, t]), ["affectnetc25"], "60 rows more than faces"),
    "misspelt": (
        lambda t: t.assign(participant0="hapy"),
        [],
        "holds 'hapy', .* as votes, which name no expression: write names",
    ),
    "nothing": (lambda t: t[["filename"]], [], "has no votes: a column for each expression"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_meant_is_refused_in_a_sentence(what, root, of_participants, tmp_path):
    change, order, message = REFUSED[what]
    change(of_participants).to_csv(tmp_path / "t.csv", index=False)
    args = DataArguments(data_dir=str(root), votes=str(tmp_path / "t.csv"), votes_label_order=order)
    with pytest.raises(ValueError, match=message) as refusal:
        load_split(args, "validation", with_soft_labels=True)
    assert len(str(refusal.value)) < 300 + len(str(tmp_path))


def test_flags_that_do_not_go_together():
    with pytest.raises(ValueError, match="--votes_label_order is of --votes"):
        DataArguments(votes_label_order=["affectnetc25"])
    with pytest.raises(ValueError, match="--votes are of one dataset"):
        TrainingDataArguments(dataset_name=["a", "b"], votes="t.csv")


def test_evaluation_measures_the_faces_that_have_votes(root, votes, of_participants, tmp_path):
    of_participants.to_csv(tmp_path / "c25.csv", index=False)
    torch.manual_seed(0)
    SoftFerForImageClassification(SoftFerConfig(backbone="test_vit", image_size=32)).save_pretrained(tmp_path / "m")
    args = ["--data_dir", root, "--votes", "c25.csv", "--votes_label_order", "affectnetc25", "--model", "m"]
    train(*args, "--output_dir", "report", "--num_faces", 0, script="evaluate_model.py", cwd=tmp_path)
    result = json.loads((tmp_path / "report/metrics.json").read_text())
    assert (result["rows"], result["ground_truth"]) == (60, "the share of people's votes")
    scores = np.array(pq.read_table(tmp_path / "report/predictions.parquet")["soft_label"].to_pylist())
    expected = human_yardstick(votes[:60], scores.astype("float32"))
    assert [of["people"] for of in result["human_yardstick"]["people"]] == list(range(1, 13))
    assert result["human_yardstick"]["people"][0]["js_divergence"] == expected["people"][0]["js_divergence"]
    assert result["human_yardstick"]["worth"]["js_divergence"]["bound"] == "at most"  # untrained
    page = (tmp_path / "report/report.html").read_text()
    assert "Human yardstick" in page and "at most 1.0 person by JS divergence" in " ".join(page.split())


def test_a_column_of_votes_is_read_in_the_order_of_the_classes_or_not_at_all(ferplus, tmp_path):
    rows = load_dataset(str(ferplus), split="validation")
    counts = np.random.default_rng(0).multinomial(4, np.full(10, 0.1), len(rows))
    counts[range(len(rows)), rows["label"][:]] += 9
    wrong = np.roll(counts, 1, axis=1)
    for name, column in (("right", counts), ("wrong", wrong)):
        (tmp_path / name).mkdir()
        rows.add_column("votes", column.tolist()).to_parquet(tmp_path / name / "validation.parquet")
    found = load_split(DataArguments(dataset_name=str(tmp_path / "right")), "validation", with_soft_labels=True)
    order = match_expressions(rows.features["label"].names)
    np.testing.assert_array_equal(found.votes[:, order], counts[:, :8])
    assert (found.select(np.array([3, 1])).votes == found.votes[[3, 1]]).all()
    with pytest.warns(UserWarning, match="Column 'votes' of validation is not read"):
        found = load_split(DataArguments(dataset_name=str(tmp_path / "wrong")), "validation", with_soft_labels=True)
    assert found.votes is None


def test_draws_are_those_of_an_urn():
    votes = np.tile([[5, 3, 0, 2]], (20_000, 1))
    some = drawn(votes, 4, np.random.default_rng(0))
    assert (some.sum(axis=1) == 4).all() and (some <= votes).all()
    np.testing.assert_allclose(some.mean(axis=0), [2, 1.2, 0, 0.8], atol=0.02)
    variance = 4 * 0.5 * 0.5 * 6 / 9  # of the hypergeometric distribution
    assert some[:, 0].var() == pytest.approx(variance, abs=0.02)


def test_one_person_against_the_others_is_what_can_be_counted_by_hand():
    votes = np.array([[4, 0], [3, 1]])
    result = human_yardstick(np.repeat(votes, 400, axis=0), np.full((800, 2), 0.5))
    one = result["people"][0]
    # 4:0 always agree. Of 3:1 three meet 2:1 and agree, one meets 3:0 and does not.
    assert one["accuracy"] == pytest.approx((1 + 3 / 4) / 2, abs=0.01)
    assert one["model"]["accuracy"] == 0.5
    assert one["intervals"]["accuracy"][0] < one["accuracy"] < one["intervals"]["accuracy"][1]
    assert len(result["people"]) == 2 and one["rows"] == 800


def test_who_votes_like_the_others_is_worth_as_many_as_he_knows():
    """A model whose scores are three more people's votes is worth three people."""
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(8, 0.3), 3000)
    votes, three = rng.multinomial(12, shares), rng.multinomial(3, shares)
    worth = human_yardstick(votes, three)["worth"]
    assert worth["js_divergence"]["people"] == pytest.approx(3, abs=0.2)
    assert worth["js_divergence"]["interval"][0] < 3 < worth["js_divergence"]["interval"][1]
    assert human_yardstick(votes, shares)["worth"]["js_divergence"]["bound"] == "at least"
    assert human_yardstick(votes, 1 - shares)["worth"]["accuracy"] | {"interval": 0} == {
        "people": 1.0, "bound": "at most", "interval": 0,
    }  # fmt: skip


def test_the_figures_are_the_same_every_time():
    votes = np.random.default_rng(1).multinomial(10, np.full(len(EXPRESSIONS), 1 / 8), 50)
    assert human_yardstick(votes, votes + 1.0) == human_yardstick(votes, votes + 1.0)
