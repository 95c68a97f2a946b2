"""Other people's soft labels: the shapes they come in, and what is refused."""

import json

import numpy as np
import pandas as pd
import pytest
from runs import SOFT_FER, train

from affectnet_plus import EXPRESSIONS, LABEL_ORDERS
from affectnet_plus.training.arguments import DataArguments
from affectnet_plus.training.faces import expressions_of, load_split, read_soft_labels

ORDER = list(LABEL_ORDERS["ferplus"])


@pytest.fixture(scope="module")
def split(release):
    return load_split(DataArguments(data_dir=str(release)), "validation")


@pytest.fixture(scope="module")
def wanted(split):
    """(rows, 8): mostly the human label, and different in every row."""
    noise = np.random.default_rng(0).random((len(split), 8)) * 0.4
    return (noise + 0.5 * np.eye(8)[split.labels]).round(6)


@pytest.fixture(scope="module")
def table(split, wanted):
    """In the order and spelling of FER+, rows in another order than the data's."""
    places = [EXPRESSIONS.index(name) for name in ("neutral", "happy", "surprise", "sad", "anger", "disgust", "fear")]
    named = pd.DataFrame(wanted[:, [*places, 7]], columns=ORDER)
    named.insert(0, "image_id", split.ids)
    return named.sample(frac=1, random_state=0)


def npz(table, path, **more):
    np.savez(path, ids=table["image_id"].to_numpy(str), soft_labels=table[ORDER].to_numpy(), **more)


def as_list(table):
    return pd.DataFrame({"image_id": table["image_id"], "soft_label": table[ORDER].to_numpy().tolist()})


def folder_of(table, path):
    path.mkdir()
    table[:50].to_csv(path / "validation_1.csv", index=False)
    table[50:].to_parquet(path / "validation_2.parquet")
    table.assign(neutral=2).to_csv(path / "train.csv", index=False)


def of_both_splits(table, path):
    other = table.assign(split="train", **dict.fromkeys(ORDER, 0.5))
    pd.concat([other, table.assign(split="validation")]).to_csv(path, index=False)


def by_file_name(table, path):
    named = table.rename(columns={"image_id": "File"})
    named.assign(File=[f"images/{name}.jpg" for name in named["File"]]).to_csv(path, index=False)


SHAPES = {
    "columns.csv": lambda table, path: table.to_csv(path, index=False),
    "columns.parquet": lambda table, path: table.to_parquet(path),
    "names.csv": by_file_name,
    "splits.csv": of_both_splits,
    "list.parquet": lambda table, path: as_list(table).to_parquet(path),
    "named.npz": lambda table, path: npz(table, path, expressions=np.array(ORDER)),
    "order.npz": npz,
    "folder": folder_of,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_gives_the_same_scores_in_the_order_of_the_rows(shape, split, wanted, table, tmp_path):
    SHAPES[shape](table, tmp_path / shape)
    order = ["ferplus"] if shape in ("list.parquet", "order.npz") else []
    np.testing.assert_allclose(read_soft_labels(str(tmp_path / shape), split, order=order), wanted)
    assert expressions_of(str(tmp_path / shape), "validation", order) == list(EXPRESSIONS)


def test_what_has_no_column_is_unknown(split, wanted, table, tmp_path):
    table.drop(columns="contempt").to_csv(tmp_path / "seven.csv", index=False)
    scores = read_soft_labels(str(tmp_path / "seven.csv"), split)
    assert np.isnan(scores[:, 7]).all() and (scores[:, :7] == wanted[:, :7]).all()
    assert expressions_of(str(tmp_path / "seven.csv"), "validation") == list(EXPRESSIONS[:7])


REFUSED = {
    "percentages": (lambda t: t.assign(anger=t["anger"] * 100), "rows are not from 0 to 1.*divide percentages by 100"),
    "missing": (lambda t: t[3:], "no scores for 3 rows of validation, e.g. "),
    "twice": (lambda t: pd.concat([t, t[:2]]), "2 rows more than faces, e.g. .* twice"),
    "of other faces": (lambda t: t.assign(image_id=t["image_id"].astype(int) + 9999), "none of its rows is one of"),
    "no key": (lambda t: t.drop(columns="image_id"), "no column that says which face.*image_id or filename"),
    "no scores": (lambda t: t[["image_id"]], "no scores: name its columns by the expressions"),
    "other labels": (lambda t: t.assign(human_label="contempt"), "of other faces .*or of other human labels"),
    "shifted": (lambda t: t.set_axis(["image_id", *ORDER[1:], ORDER[0]], axis=1), "no more than by chance"),
    "one meaning twice": (lambda t: t.assign(happy=0.1), "mean the same expression"),
    "another split": (lambda t: t.assign(split="train"), "no row whose column `split` is 'validation', only 'train'"),
    "words": (lambda t: t.assign(fear="much"), "column 'fear' does not hold numbers only"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_meant_is_refused_in_a_sentence(what, split, table, tmp_path):
    change, message = REFUSED[what]
    change(table).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match=message) as refusal:
        read_soft_labels(str(tmp_path / "t.csv"), split)
    assert len(str(refusal.value)) < 300 + len(str(tmp_path))


def test_a_list_needs_an_order_of_its_length_and_an_npz_no_pickle(split, table, tmp_path):
    as_list(table).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="have no order: say theirs by --soft_labels_order, affectnet"):
        read_soft_labels(str(tmp_path / "t.parquet"), split)
    with pytest.raises(ValueError, match="a list of 7 numbers in every row"):
        read_soft_labels(str(tmp_path / "t.parquet"), split, order=["fer2013"])
    np.savez(tmp_path / "t.npz", ids=table["image_id"].to_numpy(object), soft_labels=table[ORDER].to_numpy())
    with pytest.raises(ValueError, match="t.npz is damaged .*write it anew"):
        read_soft_labels(str(tmp_path / "t.npz"), split)


def test_the_scripts_take_them(release, split, table, tmp_path):
    of_train = load_split(DataArguments(data_dir=str(release)), "train")
    scores = dict(zip(EXPRESSIONS, (0.1 + 0.6 * np.eye(8)[of_train.labels]).T, strict=True))
    pd.DataFrame({"filename": of_train.names, **scores}).drop(columns="contempt").to_csv(tmp_path / "train.csv")
    args = ["--data_dir", release, "--soft_labels", "train.csv"]
    learn = ["--target", "distribution", "--backbone", "test_vit", "--max_train_steps", 2, "--output_dir", "student"]
    train(*SOFT_FER, *args, *learn, script="train_soft_fer.py", cwd=tmp_path)
    config = json.loads((tmp_path / "student/config.json").read_text())
    assert list(config["id2label"].values()) == list(EXPRESSIONS[:7])
    assert '"soft_labels": "a table"' in json.dumps(config["training"])
    train(*args, "--output_file", "errors.html", script="show_label_errors.py", cwd=tmp_path)
    assert not (pd.read_csv(tmp_path / "errors.csv")["margin"] > 0).any()
    as_list(table).to_parquet(tmp_path / "list.parquet")
    measure = ["--data_dir", release, "--model", "student", "--soft_labels", "list.parquet", "--output_dir", "report"]
    train(*measure, "--soft_labels_order", *ORDER, "--num_faces", 0, script="evaluate_model.py", cwd=tmp_path)
    assert json.loads((tmp_path / "report/metrics.json").read_text())["ground_truth"] == "the soft label of a table"
