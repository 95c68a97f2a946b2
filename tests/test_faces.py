"""Splits of any dataset: columns, folds, what is drawn when."""

import warnings
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from affectnet_plus import EXPRESSIONS, GENDERS, LABEL_ORDERS, match_expressions
from affectnet_plus.synthetic import synthesize
from affectnet_plus.training.arguments import DataArguments, TrainingDataArguments
from affectnet_plus.training.faces import (
    PermutationSampler,
    Split,
    images_in,
    known_truth,
    load_split,
    load_splits,
    split_to_label,
)
from affectnet_plus.training.soft_fer import groups_of


def test_any_release_is_recognised_and_its_broken_rows_can_be_left_out(tmp_path):
    synthesize(tmp_path / "2021", train=60, validation=24, seed=2, num_proc=1, image_size=48, layout="2021")
    split = load_split(DataArguments(data_dir=str(tmp_path / "2021")), "validation", with_soft_labels=True)
    assert len(split) > 8 and split.soft_labels is None
    assert split.image(0).size == (48, 48)
    image = next((tmp_path / "2021/val_set/images").iterdir())
    content = image.read_bytes()
    image.unlink()
    image.write_bytes(content[:-50])
    with pytest.raises(ValueError, match="truncated image.*on_error"):
        load_split(DataArguments(data_dir=str(tmp_path / "2021")), "validation")
    with pytest.warns(UserWarning, match="1 broken row"):
        left = load_split(DataArguments(data_dir=str(tmp_path / "2021"), on_error="skip"), "validation")
    assert len(left) == len(split) - 1


def test_truth_and_name_are_those_of_the_release_that_the_configuration_reads(tmp_path):
    small = {"seed": 2, "num_proc": 1, "image_size": 32}
    synthesize(tmp_path / "AffectNet", train=0, validation=24, unannotated=24, layout="2017", **small)
    synthesize(tmp_path / "AffectNet+", train=0, validation=24, **small)
    for config_name, name in (("affectnet_2017", "AffectNet (2017)"), ("human_annotated", "AffectNet+")):
        args = DataArguments(data_dir=str(tmp_path), dataset_config_name=config_name)
        split = load_split(args, "validation")
        truth, _ = known_truth(split, args)
        assert args.name() == f"synthetic {name}" and (truth.argmax(axis=1) == split.labels).mean() > 0.6
    args = DataArguments(data_dir=str(tmp_path / "AffectNet"))
    split = load_split(args, "automatically_annotated")
    assert len(known_truth(split, args)[0]) == len(split) > 0


def test_columns_as_others_write_them_are_taken_or_named(tmp_path):
    rows = {"image": [Image.new("L", (8, 8))] * 8, "label": list(EXPRESSIONS), "age": [31.5] * 8}
    rows |= {"gender": [dict.fromkeys(GENDERS, 0.5)] * 8, "ethnicity": ["asian"] * 8, "subset": ["easy"] * 8}
    datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).to_parquet(tmp_path / "train.parquet")
    with pytest.warns(UserWarning) as warned:
        split = load_split(DataArguments(dataset_name=str(tmp_path)), "train")
    assert split.metadata["gender"][3] == dict.fromkeys(GENDERS, 0.5) and split.metadata["subset"][:] == [0] * 8
    said = [str(w.message) for w in warned if "is left out" in str(w.message)]
    assert sorted(text.split("'")[1] for text in said) == ["age", "ethnicity"]


def test_columns_in_another_order_or_range_are_noticed(tmp_path):
    names = sorted(EXPRESSIONS)
    labels = np.arange(80) % 8
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    features |= {"soft_label": datasets.List(datasets.Value("float32"), length=8)}
    features |= {name: datasets.Value("float32") for name in ("valence", "arousal")}

    def load(soft_labels):
        rows = {"image": [Image.new("L", (8, 8))] * 80, "label": labels, "soft_label": soft_labels}
        rows |= {"valence": [-2.0, 0.5] * 40, "arousal": [5.0, 0.5] * 40}
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        data = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
        data.to_parquet(folder / "train-00000-of-00001.parquet")
        return load_split(DataArguments(dataset_name=str(folder)), "train", with_soft_labels=True)

    with pytest.warns(UserWarning, match="'arousal' of train is left out: it holds 5 in row 0"):
        split = load(np.eye(8)[labels])  # in the order of the class names
    assert (split.soft_labels.argmax(axis=1) == split.labels).all()
    valence, arousal = split.affect().T
    assert np.isnan(valence[::2]).all() and (valence[1::2] == 0.5).all() and np.isnan(arousal).all()
    with pytest.raises(ValueError, match="in another order than the class names"):
        load(np.eye(8)[[EXPRESSIONS.index(names[label]) for label in labels]])  # in AffectNet's


def test_what_lies_beside_the_images_of_a_folder_is_counted_and_named(tmp_path):
    folder, elsewhere = tmp_path / "faces", tmp_path / "elsewhere"
    for place in (folder / "inside", elsewhere):
        place.mkdir(parents=True)
        Image.new("L", (8, 8)).save(place / "a.png")
    for name in ("b.jfif", "c.JPE", "inside/d.jpg"):
        Image.new("L", (8, 8)).save(folder / name, format="JPEG")
    with warnings.catch_warnings(action="error"):
        assert sorted(images_in(str(folder), "raise").ids) == ["b", "c", "inside/a", "inside/d"]
    (folder / "e.heic").write_bytes(b"")
    (folder / ".hidden").write_bytes(b"")
    (folder / "linked").symlink_to(elsewhere)
    with pytest.warns(UserWarning, match="2 files or links to folders.*'e.heic', 'linked'"):
        assert len(images_in(str(folder), "raise")) == 4


def test_faces_of_validation_in_train_are_counted(tmp_path):
    for split, faces in (("train", range(40)), ("validation", range(38, 48)), ("test", range(60, 68))):
        for n in faces:
            folder = tmp_path / split / EXPRESSIONS[n % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), n).save(folder / f"{split}-{n}.png")
    args = TrainingDataArguments(dataset_name=str(tmp_path))
    with pytest.warns(UserWarning, match="2 of 10 faces of validation are in train as well, byte for byte"):
        load_splits(args)
    args.eval_split_name = "test"
    with warnings.catch_warnings(action="error"):
        load_splits(args)


RAF_DB = ["surprise", "fear", "disgust", "happy", "sad", "anger", "neutral"]


def folders_of(root: Path, names: list[str], of_each: int = 2) -> DataArguments:
    """An image folder whose grey levels tell the classes, which are called so."""
    for number, name in enumerate(names):
        (root / "train" / name).mkdir(parents=True)
        for copy in range(of_each):
            Image.new("L", (8, 8), 20 * number + copy).save(root / "train" / name / f"{number}-{copy}.png")
    return DataArguments(dataset_name=str(root))


def classes_of(split: Split) -> dict[int, str]:
    """By the number of the folder that a face lies in."""
    return {int(name.split("-")[0]): EXPRESSIONS[label] for name, label in zip(split.names, split.labels, strict=True)}


@pytest.mark.parametrize(
    ("folders", "order", "expected"),
    [
        ([str(n) for n in range(8)], ["affectnet"], EXPRESSIONS),
        ([str(n) for n in range(1, 8)], ["raf-db"], RAF_DB),
        ([str(n) for n in range(7)], ["RAF-DB"], RAF_DB),
        (["1", "3", "7"], ["raf-db"], ["surprise", "disgust", "neutral"]),
        (["0", "1"], ["fer+"], ["neutral", "happy"]),
        (["0", "1", "2"], ["joy", "sadness", "anger"], ["happy", "sad", "anger"]),
        ([f"{n}_{name}" for n, name in enumerate(EXPRESSIONS)], [], EXPRESSIONS),
        (["1. Happiness", "2-sad", "3anger"], [], ["happy", "sad", "anger"]),
    ],
)
def test_folders_that_are_numbers(tmp_path, folders, order, expected):
    args = folders_of(tmp_path, folders)
    args.label_order = order
    assert classes_of(load_split(args, "train")) == dict(enumerate(expected))


@pytest.mark.parametrize(
    ("folders", "order", "says"),
    [
        (["0", "1", "2"], [], "'label' numbers its classes.*--label_order.*raf-db"),
        (["1", "2", "3"], ["affectnet"], "neither from 0 nor from 1.*8 names"),
        (["0", "8"], ["affectnet"], "go up to 8.*8 names"),
        (["happy", "sad"], ["affectnet"], "names its classes itself: happy, sad"),
    ],
)
def test_numbers_that_say_nothing_are_refused(tmp_path, folders, order, says):
    args = folders_of(tmp_path, folders)
    args.label_order = order
    with pytest.raises(ValueError, match=says):
        load_split(args, "train")


def test_a_column_of_integers_and_scores_in_an_order(tmp_path):
    labels = np.arange(16) % 8
    order = LABEL_ORDERS["alphabetical"]

    def load(flags, **columns):
        rows = {"image": [Image.new("L", (8, 8))] * 16, "label": labels} | columns
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        data = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
        data.to_parquet(folder / "train-00000-of-00001.parquet")
        return load_split(DataArguments(dataset_name=str(folder), **flags), "train", with_soft_labels=True)

    ours = np.array(match_expressions(order))[labels]
    named = load({"label_order": ["alphabetical"]}, soft_label=np.eye(8)[labels])
    assert (named.labels == ours).all() and (named.soft_labels.argmax(axis=1) == ours).all()
    words = load({"label_order": ["alphabetical"]}, label=[order[i] for i in labels], soft_label=np.eye(8)[labels])
    assert (words.labels == ours).all() and (words.soft_labels.argmax(axis=1) == ours).all()
    from_one = load({"label_order": ["alphabetical"]}, label=labels + 1)
    assert (from_one.labels == ours).all()
    with pytest.raises(ValueError, match="in another order"):
        load({"label_order": ["affectnet"]}, label=[order[i] for i in labels], soft_label=np.eye(8)[labels])
    with pytest.raises(ValueError, match="has no label in 1 rows, first in 3"):
        load({"label_order": ["alphabetical"]}, label=np.where(np.arange(16) == 3, -1, labels))
    for label in (labels / 2, np.arange(16) + 1000):
        with pytest.raises(ValueError, match="'label' holds (float|int)64, no class names and no numbers"):
            load({}, label=label)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    rows = datasets.Dataset.from_dict({"image": [Image.new("L", (8, 8))] * 3, "label": [None] * 3}, features=features)
    assert split_to_label(rows, DataArguments(dataset_name="X")).labels.tolist() == [-1] * 3
    for order, says in ((["ferplusplus"], "No label order is called"), (["happy", "glad"], "No expression.*'glad'")):
        with pytest.raises(ValueError, match=says):
            DataArguments(dataset_name="X", label_order=order)
    with pytest.raises(ValueError, match="a release names them"):
        DataArguments(data_dir="R", label_order=["affectnet"])


def test_sampler_continues_where_it_was():
    is_expression = np.arange(50) < 7
    groups = [np.flatnonzero(is_expression), np.flatnonzero(~is_expression)]
    draws = list(PermutationSampler(groups, seed=5, num_draws=200))
    assert [is_expression[row] for row, _ in draws] == [True, False] * 100
    for side in (0, 1):  # nothing comes twice before everything has come once
        rows = [row for row, _ in draws[side::2]]
        size = 7 if side == 0 else 43
        assert all(len(set(rows[i : i + size])) == size for i in range(0, len(rows) - size, size))
    assert len({seed for _, seed in draws}) == 200
    assert list(PermutationSampler(groups, seed=5, num_draws=200, start=77)) == draws[77:]
    assert list(PermutationSampler(groups, seed=6, num_draws=200)) != draws


def test_copies_of_a_picture_are_in_one_fold_whatever_their_ids_and_splits(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("train", "validation"):
        (tmp_path / name).mkdir()
    faces = [Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)) for _ in range(60)]
    for number, face in enumerate(faces):
        face.save(tmp_path / f"train/{number}.png")
        face.save(tmp_path / f"{'train' if number % 2 else 'validation'}/copy-{number}.png")
    splits = {name: images_in(str(tmp_path / name), "raise") for name in ("train", "validation")}
    for split in splits.values():
        split.name = "unlike"  # ids and name would make other folds of them
    fold_of = {Path(i).name: f for split in splits.values() for i, f in zip(split.ids, split.folds(5), strict=True)}
    assert all(fold_of[str(number)] == fold_of[f"copy-{number}"] for number in range(60))
    assert set(fold_of.values()) == set(range(5)) and splits["train"].folds_by == "content"
    by_id = dict(zip(splits["train"].ids, splits["train"].folds(5, "id"), strict=True))
    assert sum(by_id[str(n)] != by_id[f"copy-{n}"] for n in range(1, 60, 2)) > 15
    in_memory = {"image": [{"bytes": (tmp_path / f"train/{n}.png").read_bytes(), "path": None} for n in range(60)]}
    features = datasets.Features({"image": datasets.Image(decode=False)})
    ids = np.arange(60).astype(str)
    parquet = Split("other", datasets.Dataset.from_dict(in_memory, features), np.zeros(60, int), None, ids, ids, "id")
    assert parquet.folds(5).tolist() == [fold_of[str(number)] for number in range(60)]
    assert parquet.select(np.arange(40, 50)).folds(5).tolist() == [fold_of[str(number)] for number in range(40, 50)]


def test_folds_go_by_id_where_images_are_no_files():
    features = datasets.Features({"image": datasets.Image(decode=False)})
    images = datasets.Dataset.from_dict({"image": [{"bytes": None, "path": f"hub://{n}"} for n in range(20)]}, features)
    ids = np.arange(20).astype(str)
    split = Split("train", images, np.zeros(20, int), None, ids, ids, "id")
    assert split.folds(2).tolist() == split.folds(2, "id").tolist() and split.folds_by == "id"
    assert split.select(np.arange(3)).folds_by == "id"
    with pytest.raises(ValueError, match="cannot be read as files"):
        split.folds(2, "content")


def test_groups_are_drawn_as_often_as_the_sampler_says():
    labels = np.repeat(np.arange(8), [400, 100, 100, 25, 25, 25, 25, 4])
    for sampler, expected in (("balanced", np.full(8, 1 / 8)), ("square_root", np.sqrt(np.bincount(labels)))):
        groups, turns = groups_of(labels, sampler)
        rows = [row for row, _ in PermutationSampler(groups, 0, 8000, turns=turns)]
        shares = np.bincount(labels[rows]) / len(rows)
        assert shares == pytest.approx(expected / expected.sum(), abs=0.01)
        of_first = [row for row in rows if labels[row] == 0]
        assert len(set(of_first[:400])) == 400  # none twice before all have come
    sampler = PermutationSampler(groups, 0, 900, turns=turns)
    assert list(PermutationSampler(groups, 0, 900, start=333, turns=turns)) == list(sampler)[333:]
