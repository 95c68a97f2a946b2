"""What somebody who loads a release would notice, on releases of a few files written here."""

import copy
import json
import os
import pathlib
import subprocess
import sys

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from datasets import get_dataset_config_names, get_dataset_split_names, load_dataset, load_dataset_builder

import affectnet_plus
from affectnet_plus import CATEGORIES, EXPRESSIONS, ReleaseError, recognise
from affectnet_plus.releases.check import check
from affectnet_plus.releases.command_line import main

REPOSITORY = pathlib.Path(affectnet_plus.__file__).parent
TRAIN, VALIDATION = "human_annotated/train_set", "human_annotated/validation_set"
UNANNOTATED = "no_human_annotated"


def annotation(label=1, subset=0):
    return {
        "human-label": label,
        "soft-label": [0.5768, 0.1162, 0.459, 0.1063, 0.1044, 0.0605, 0.1925, 0.0913],
        "subset": subset,
        "meta-data": {
            "age": 23,
            "valence": -0.25,
            "arousal": 0.5,
            "gender": {"female": 0.75, "male": 0.25},
            "race": {
                "asian": 0.125,
                "indian": 0.0625,
                "black": 0.25,
                "white": 0.5,
                "middle eastern": 0.03125,
                "latino hispanic": 1.0,
            },
            "pose": {"yaw": -0.25, "pitch": -0.5, "roll": 0.125},
            "landmark-68": list(range(136)),
            "landmark-29": list(range(58)),
        },
    }


SOFT = annotation()["soft-label"]
LANDMARKS = annotation()["meta-data"]["landmark-68"]


def write_pair(root, folder, image_id, content, image=None, suffix="jpg"):
    for part in ("images", "annotations"):
        (root / folder / part).mkdir(parents=True, exist_ok=True)
    path = root / folder / "images" / f"{image_id}.{suffix}"
    if image is not None:
        path.write_bytes(image)
    else:
        PIL.Image.new("RGB", (16, 16), (int(image_id) % 256, 0, 0)).save(path, quality=95)
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    (root / folder / "annotations" / f"{image_id}.json").write_bytes(content)


@pytest.fixture
def release(tmp_path):
    """Every label and subset, and ids whose order as text is not their order as numbers."""
    root = tmp_path / "AffectNet+"
    write_pair(root, TRAIN, 100, annotation(label=1, subset=0))
    write_pair(root, TRAIN, 9, annotation(label=7, subset=2))
    write_pair(root, TRAIN, 10, annotation(label=0, subset=1))
    write_pair(root, TRAIN, 2, annotation(label=8))
    write_pair(root, TRAIN, 3, annotation(label=10))
    write_pair(root, VALIDATION, 9, annotation(label=5, subset=0))
    write_pair(root, VALIDATION, 8, annotation(label=9))
    write_pair(root, UNANNOTATED, 7, {**annotation(label=None), "subset": None})
    return root


@pytest.fixture
def long_release(tmp_path):
    """1,100 pairs: three shards. One image under many names."""
    root = tmp_path / "long"
    write_pair(root, TRAIN, 0, annotation())
    content = annotation()
    for image_id in range(1, 1100):
        os.link(root / TRAIN / "images/0.jpg", root / TRAIN / f"images/{image_id}.jpg")
        content["meta-data"]["age"] = image_id % 80
        (root / TRAIN / f"annotations/{image_id}.json").write_text(json.dumps(content))
    return root


def load(root, name=None, **options):
    return load_dataset("affectnet_plus", name, data_dir=str(root), **options)


def rows(dataset):
    """The rows as plain values, an image by its path."""
    return list(dataset.cast_column("image", datasets.Image(decode=False)))


# What the files say


def test_a_row_says_what_its_files_say(release):
    row = load(release, split="train")[2]
    assert row["image"].size == (16, 16)
    assert row["image"].filename == str(release / TRAIN / "images/100.jpg")
    assert row["image"].getpixel((8, 8))[0] == pytest.approx(100, abs=3)
    assert (row["image_id"], row["label"], row["subset"], row["age"]) == (100, 1, 0, 23)
    assert row["soft_label"] == pytest.approx(annotation()["soft-label"])
    assert (row["valence"], row["arousal"]) == (-0.25, 0.5)
    assert row["gender"] == {"female": 0.75, "male": 0.25}
    assert row["ethnicity"] == {
        "asian": 0.125,
        "indian": 0.0625,
        "black": 0.25,
        "white": 0.5,
        "middle_eastern": 0.03125,
        "latino_hispanic": 1.0,
    }
    assert row["head_pose"] == {"yaw": -0.25, "pitch": -0.5, "roll": 0.125}
    assert row["landmarks_68"] == np.arange(136).reshape(68, 2).tolist()
    assert row["landmarks_29"] == np.arange(58).reshape(29, 2).tolist()


@pytest.mark.parametrize(
    "name, expected",
    [
        (None, {"train": [9, 10, 100], "validation": [9]}),
        ("human_annotated", {"train": [9, 10, 100], "validation": [9]}),
        ("easy", {"train": [100], "validation": [9]}),
        ("challenging", {"train": [10], "validation": []}),
        ("difficult", {"train": [9], "validation": []}),
        ("human_annotated_all", {"train": [2, 3, 9, 10, 100], "validation": [8, 9]}),
        ("no_human_annotated", {"train": [7]}),
    ],
)
def test_each_configuration_has_its_rows_in_numeric_order(release, name, expected):
    assert {split: dataset["image_id"][:] for split, dataset in load(release, name).items()} == expected


def test_class_names_are_in_release_order(release):
    names = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")
    assert names == EXPRESSIONS and ", ".join(names) in " ".join(affectnet_plus.__doc__.split())
    assert load(release, split="train").features["label"].names == list(names)
    everything = load(release, "human_annotated_all", split="train")
    assert everything.features["label"].names == [*names, "none", "uncertain", "non-face"] == list(CATEGORIES)
    assert everything["label"][:] == [8, 10, 7, 0, 1]
    assert everything.features["subset"].names == ["easy", "challenging", "difficult"]


def test_info_names_paper_and_licence(release):
    info = load_dataset_builder("affectnet_plus", data_dir=str(release)).info
    assert "Soft-Labels" in info.citation and "mohammadmahoor" in info.homepage
    assert "research only" in info.license and "do not sum to one" in " ".join(info.description.split()).lower()


NULLABLE = ("subset", "age", "gender", "ethnicity", "head_pose", "landmarks_68", "landmarks_29", "valence", "arousal")


@pytest.fixture
def sparse(tmp_path):
    """A non-face of which nothing more is known, beside a whole row."""
    write_pair(tmp_path / "sparse", TRAIN, 1, {"human-label": 10, "soft-label": SOFT})
    write_pair(tmp_path / "sparse", TRAIN, 2, annotation())
    return tmp_path / "sparse"


def test_what_a_row_lacks_is_null_however_it_is_read(sparse, tmp_path):
    dataset = load(sparse, "human_annotated_all", split="train")
    streamed = load(sparse, "human_annotated_all", split="train", streaming=True)
    dataset.to_parquet(tmp_path / "rows.parquet")
    parquet = datasets.Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path / "cache"))
    assert parquet.features == dataset.features
    for lacking, whole in (rows(dataset), rows(streamed), list(parquet.remove_columns("image"))):
        assert lacking["label"] == 10
        assert [lacking[name] for name in NULLABLE] == [None] * len(NULLABLE)
        assert None not in [whole[name] for name in NULLABLE]


def test_tensors_have_fixed_shapes_and_nan_for_null(sparse):
    dataset = load(sparse, "human_annotated_all", split="train").remove_columns("image")
    for batch in (dataset.with_format("torch")[:], dataset.with_format("numpy")[:]):
        assert tuple(batch["landmarks_68"].shape) == (2, 68, 2)
        assert np.isnan(np.asarray(batch["landmarks_68"][0])).all() and np.isnan(float(batch["valence"][0]))
        assert batch["landmarks_68"][1][3][1] == 7
    row = dataset.with_format("torch")[1]
    assert row["soft_label"].shape == (8,) and row["soft_label"].dtype == torch.float32
    assert row["label"].dtype == torch.int64


def test_minus_two_is_null_and_missing_optional_keys_are_null(tmp_path):
    content = annotation()
    content["meta-data"].update(valence=-2, arousal=-2.0, age=None)
    del content["meta-data"]["landmark-29"]
    write_pair(tmp_path, TRAIN, 1, content)
    unannotated = annotation()
    del unannotated["human-label"], unannotated["subset"]
    write_pair(tmp_path, UNANNOTATED, 1, unannotated)
    (row,) = load(tmp_path, split="train")
    assert [row[name] for name in ("valence", "arousal", "age", "landmarks_29")] == [None] * 4
    assert row["label"] == 1 and row["landmarks_68"] is not None
    (row,) = load(tmp_path, "no_human_annotated", split="train")
    assert row["label"] is None and row["subset"] is None and row["age"] == 23


def test_harmless_variations_are_read(tmp_path):
    content = annotation()
    content.update({"human-label": 3.0, "subset": 1.0, "added later": float("nan")})
    content["meta-data"].update({"age": 41.0, "landmark-68": [value + 0.5 for value in range(136)]})
    content["meta-data"]["landmark-29"] = {"x": [], "y": []}
    write_pair(tmp_path, TRAIN, "0012", b"\xef\xbb\xbf" + json.dumps(content, indent=2).encode(), suffix="JPEG")
    write_pair(tmp_path, TRAIN, 13, annotation(), suffix="PNG")
    for stray in ("ground_truth.parquet", "readme.txt", f"{TRAIN}/images/Thumbs.db", f"{TRAIN}/annotations/._12.json"):
        (tmp_path / stray).write_bytes(b"stray")
    first, second = load(tmp_path, split="train")
    assert [first[name] for name in ("image_id", "label", "subset", "age", "landmarks_29")] == [12, 3, 1, 41, None]
    assert first["landmarks_68"][0] == [0.5, 1.5]
    assert second["image_id"] == 13 and second["image"].size == (16, 16)


# Where it is looked for


def test_folders_that_begin_with_a_dot_are_no_release(release, tmp_path):
    hidden = release.rename(tmp_path / ".AffectNet+")
    for find in (recognise, load, check):
        with pytest.raises(ReleaseError, match="is no release"):
            find(tmp_path)
        with pytest.raises(ReleaseError, match="its name begins with a dot"):
            find(hidden)
    write_pair(tmp_path / "AffectNet+", TRAIN, 1, annotation())
    assert len(load(tmp_path, split="train")) == 1  # not "several releases"
    lists = tmp_path / "2017/.lists"
    lists.mkdir(parents=True)
    (lists / "training.csv").write_text("1/a.jpg,0,0,9,9,,1,0,0\n")
    (tmp_path / "2017/Manually_Annotated_Images").mkdir()
    with pytest.raises(ReleaseError, match="has images but no list"):
        load(tmp_path / "2017", "affectnet_2017")


@pytest.mark.parametrize("digits", [18, 19, 25])
def test_a_number_of_many_digits_is_read_or_named(release, tmp_path, digits):
    n = int("9" * 18) if digits == 18 else 2**63 - 1 if digits == 19 else int("1" * 25)
    write_pair(release, TRAIN, n, annotation())
    write_pair(release, UNANNOTATED, "0" * 30 + "9", {**annotation(), "human-label": None})
    assert load(release, "no_human_annotated", split="train")["image_id"][:] == [7, 9]
    if digits < 20:
        assert load(release, split="train")["image_id"][:] == [9, 10, 100, n]
        assert check(release, 1).num_rows == 10
        return
    with pytest.raises(ReleaseError, match=f"{n}.* has a number above {2**63 - 1}: unpack"):
        load(release)
    assert check(release, 1).counts["unreadable annotation"] == 1
    with pytest.warns(UserWarning, match="1 broken row"):
        assert load(release, split="train", on_error="skip")["image_id"][:] == [9, 10, 100]


def test_release_is_found_by_folder_parent_and_environment(release, monkeypatch, tmp_path):
    expected = rows(load(release, split="train"))
    assert rows(load(release.parent, split="train")) == expected
    monkeypatch.chdir(release.parent)
    assert rows(load("AffectNet+", split="train")) == expected
    monkeypatch.setenv("AFFECTNET_PLUS_DIR", str(release))
    assert rows(load_dataset("affectnet_plus", split="train")) == expected
    write_pair(tmp_path / "other", TRAIN, 1, annotation())
    assert len(load(tmp_path / "other", split="train")) == 1  # data_dir goes first


def test_a_split_that_is_not_there_is_not_offered(tmp_path):
    write_pair(tmp_path, VALIDATION, 1, annotation())
    assert list(load(tmp_path)) == ["validation"]
    assert get_dataset_split_names("affectnet_plus", data_dir=str(tmp_path)) == ["validation"]
    with pytest.raises(ReleaseError, match=r'"no_human_annotated".*found .human_annotated'):
        load(tmp_path, "no_human_annotated")


def test_folders_that_are_no_release(tmp_path, monkeypatch):
    with pytest.raises(ReleaseError, match="data_dir=.*AFFECTNET_PLUS_DIR"):
        load_dataset("affectnet_plus")
    with pytest.raises(ReleaseError, match="nowhere does not exist .*data_dir"):
        load(tmp_path / "nowhere")
    monkeypatch.setenv("AFFECTNET_PLUS_DIR", str(tmp_path / "gone"))
    with pytest.raises(ReleaseError, match=r"gone does not exist .*\$AFFECTNET_PLUS_DIR"):
        load_dataset("affectnet_plus")
    (tmp_path / "AffectNet+_part1.zip").write_bytes(b"PK")
    with pytest.raises(ReleaseError, match="part1.zip is a file, not a folder: unpack"):
        load(tmp_path / "AffectNet+_part1.zip")
    with pytest.raises(ReleaseError, match=r"holds human_annotated/ or no_human_annotated/. Found there: .*part1.zip"):
        load(tmp_path)
    (tmp_path / "one" / TRAIN / "images").mkdir(parents=True)
    with pytest.raises(ReleaseError, match=r"train_set has no folder annotations/ \(found 'images'\)"):
        load(tmp_path)
    (tmp_path / "one" / TRAIN / "annotations").mkdir(parents=True)
    with pytest.raises(ReleaseError, match="has no pair"):
        load(tmp_path)
    (tmp_path / "two" / TRAIN).mkdir(parents=True)
    with pytest.raises(ReleaseError, match="several releases, 'one', 'two'"):
        load(tmp_path)


def test_revision_and_unknown_options_are_refused(release):
    with pytest.raises(ReleaseError, match="data_dir, without revision or data_files"):
        load(release, revision="main")
    with pytest.raises(ValueError, match="colour"):
        load(release, colour="grey")
    with pytest.raises(ValueError, match="simple.*human_annotated.*easy"):
        load(release, "simple")


# Ways to read


@pytest.mark.parametrize("name", ["human_annotated", "challenging", "human_annotated_all", "no_human_annotated"])
def test_streaming_gives_the_same_rows(release, name):
    streamed = load(release, name, streaming=True)
    assert {split: rows(dataset) for split, dataset in streamed.items()} == {
        split: rows(dataset) for split, dataset in load(release, name).items()
    }


def test_streams_shuffle_and_divide_among_workers(long_release):
    streamed = load(long_release, split="train", streaming=True).select_columns("image_id")
    assert streamed.num_shards == 2
    shuffled = [row["image_id"] for row in streamed.shuffle(seed=1, buffer_size=2000)]
    assert shuffled != sorted(shuffled) == list(range(1100))
    loader = torch.utils.data.DataLoader(streamed, batch_size=64, num_workers=2)
    assert sorted(image_id for batch in loader for image_id in batch["image_id"].tolist()) == list(range(1100))


def test_two_processes_give_the_same_rows(long_release, tmp_path):
    one, two = (load(long_release, split="train", num_proc=n, cache_dir=str(tmp_path / f"{n}")) for n in (1, 2))
    assert len(two.cache_files) == 2
    assert one["image_id"][:] == list(range(1100))
    assert rows(one) == rows(two)


def test_any_working_directory_in_a_new_process(release, tmp_path):
    # A folder of that name, and the folder that holds the package, would each mislead `datasets` by itself.
    (tmp_path / "elsewhere" / "affectnet_plus").mkdir(parents=True)
    script = tmp_path / "script.py"
    script.write_text(
        "import importlib, sys, datasets, affectnet_plus\n"
        "importlib.reload(affectnet_plus)\n"
        "assert not hasattr(datasets.load.dataset_module_factory.__wrapped__, '__wrapped__'), 'wrapped twice'\n"
        "print(len(datasets.load_dataset('affectnet_plus', data_dir=sys.argv[1], split='train', num_proc=2)))\n"
    )
    for folder in (tmp_path / "elsewhere", REPOSITORY):
        done = subprocess.run(
            [sys.executable, script, release],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
        )
        assert done.stdout.strip() == "3", done.stderr


def test_the_cache_is_used_until_files_come_or_go(release):
    def cached():
        (file,) = load(release, split="train").cache_files
        return file["filename"], os.stat(file["filename"]).st_mtime_ns

    first = cached()
    assert cached() == first
    folders = [release / TRAIN / part for part in ("images", "annotations")]
    times = [os.stat(folder).st_mtime_ns for folder in folders]
    write_pair(release, TRAIN, 4, annotation())
    for folder, mtime in zip(folders, times, strict=True):  # as unpacking an archive's next part does
        os.utime(folder, ns=(mtime, mtime))
    assert load(release, split="train")["image_id"][:] == [4, 9, 10, 100]
    for path in ("images/9.jpg", "annotations/9.json"):
        (release / TRAIN / path).unlink()
    assert load(release, split="train")["image_id"][:] == [4, 10, 100]
    assert load(release, "easy", split="train")["image_id"][:] == [4, 100]


# Damage


def changed(*keys, to):
    content = copy.deepcopy(annotation())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    if to is None:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = to
    return content


DAMAGED_ANNOTATIONS = {
    "empty": (b"", "is empty"),
    "truncated": (json.dumps(annotation()).encode()[:200], "does not parse as JSON"),
    "not text": (b"\xff\xfe\x00\x81", "does not parse as JSON"),
    "two annotations": (json.dumps(annotation()).encode() * 2, "does not parse as JSON"),
    "nested": (b"[" * 100_000, "does not parse as JSON"),
    "not an object": (b"[1, 2]", "not an object"),
    "no label": (changed("human-label", to=None), 'lacks the key "human-label"'),
    "null label": ({**annotation(), "human-label": None}, 'null as "human-label"'),
    "label 11": (changed("human-label", to=11), '11 as "human-label", not a whole number from 0 to 10'),
    "label -1": (changed("human-label", to=-1), '-1 as "human-label"'),
    "label 1.5": (changed("human-label", to=1.5), '1.5 as "human-label"'),
    "label true": (changed("human-label", to=True), 'true as "human-label"'),
    "label in words": (changed("human-label", to="happy"), '"happy" as "human-label"'),
    "no subset": (changed("subset", to=None), 'lacks the key "subset"'),
    "subset 3": (changed("subset", to=3), '3 as "subset", not a whole number from 0 to 2'),
    "no soft label": (changed("soft-label", to=None), 'lacks the key "soft-label"'),
    "null soft label": ({**annotation(), "soft-label": None}, 'null as "soft-label"'),
    "soft label of seven": (changed("soft-label", to=SOFT[:7]), 'a list of 7, .* as "soft-label", not a list of 8'),
    "soft label NaN": (changed("soft-label", to=[float("nan"), *SOFT[1:]]), 'NaN.* as "soft-label"'),
    "soft label infinite": (changed("soft-label", to=[*SOFT[1:], float("inf")]), 'as "soft-label"'),
    "soft label in words": (changed("soft-label", to=["0.5", *SOFT[1:]]), 'as "soft-label"'),
    "soft label true": (changed("soft-label", to=[True, *SOFT[1:]]), 'as "soft-label"'),
    "soft label above 1": (changed("soft-label", to=[1.01, *SOFT[1:]]), r'outside \[0, 1\] in "soft-label"'),
    "soft label below 0": (changed("soft-label", to=[-0.1, *SOFT[1:]]), r'outside \[0, 1\] in "soft-label"'),
    "no metadata": (changed("meta-data", to=None), 'lacks the key "meta-data"'),
    "metadata a list": (changed("meta-data", to=[]), '"meta-data", not an object'),
    "no age": (changed("meta-data", "age", to=None), 'lacks the key "age"'),
    "age 23.5": (changed("meta-data", "age", to=23.5), '23.5 as "age", not whole years'),
    "age huge": (changed("meta-data", "age", to=10**9), '1000000000 as "age", not whole years'),
    "age in words": (changed("meta-data", "age", to="23"), '"23" as "age"'),
    "no valence": (changed("meta-data", "valence", to=None), 'lacks the key "valence"'),
    "valence NaN": (changed("meta-data", "valence", to=float("nan")), 'NaN as "valence"'),
    "arousal huge": (changed("meta-data", "arousal", to=10**400), 'as "arousal", not a finite number'),
    "gender a number": (changed("meta-data", "gender", to=1), '1 as "gender", not an object'),
    "gender without male": (changed("meta-data", "gender", "male", to=None), "\"gender\", not .* 'female', 'male'"),
    "race NaN": (changed("meta-data", "race", "white", to=float("nan")), '"race", not one finite number'),
    "valence 1e39": (changed("meta-data", "valence", to=1e39), '1e\\+39 as "valence", not a finite number'),
    "pose 1e39": (changed("meta-data", "pose", "yaw", to=1e39), '"pose", not one finite number'),
    "landmarks 1e39": (changed("meta-data", "landmark-68", to=[1e39, *LANDMARKS[1:]]), "not a list of 136 finite"),
    "no pose": (changed("meta-data", "pose", to=None), 'lacks the key "pose"'),
    "no landmarks": (changed("meta-data", "landmark-68", to=None), 'lacks the key "landmark-68"'),
    "135 landmarks": (changed("meta-data", "landmark-68", to=LANDMARKS[1:]), "not a list of 136"),
    "landmarks infinite": (changed("meta-data", "landmark-68", to=[1e999, *LANDMARKS[1:]]), "landmark-68"),
    "landmarks huge": (changed("meta-data", "landmark-68", to=[1e300, *LANDMARKS[1:]]), "landmark-68"),
    "landmarks null": (changed("meta-data", "landmark-68", to=[None, *LANDMARKS[1:]]), "landmark-68"),
}


@pytest.mark.parametrize("damage", DAMAGED_ANNOTATIONS)
def test_a_damaged_annotation_is_named_with_its_key(release, tmp_path, damage):
    content, said = DAMAGED_ANNOTATIONS[damage]
    write_pair(release, TRAIN, 11, content)
    for options in ({}, {"streaming": True}):
        with pytest.raises(
            ReleaseError, match=rf"annotations/11\.json .*{said}.*delete the files of that row"
        ) as error:
            dataset = load(release, split="train", cache_dir=str(tmp_path / "cache"), **options)
            list(dataset)
        assert "\n" not in str(error.value)


DAMAGED_IMAGES = {"empty": (b"", "is empty"), "a page": (b"<html>", "is no JPEG or PNG image .*<htm")}


@pytest.mark.parametrize("damage", DAMAGED_IMAGES)
def test_an_image_that_is_none_is_named(release, damage):
    image, said = DAMAGED_IMAGES[damage]
    write_pair(release, VALIDATION, 11, annotation(), image=image)
    with pytest.raises(ReleaseError, match=rf"images/11\.jpg {said}"):
        load(release, split="train")


def test_files_without_their_partner_are_named(release):
    (release / TRAIN / "images/9.jpg").unlink()
    (release / TRAIN / "annotations/10.json").unlink()
    for options in ({}, {"streaming": True}):
        with pytest.raises(ReleaseError) as error:
            load(release, **options)
        assert "images/10.jpg has no annotation (and 1 more problem(s) in train)" in str(error.value)


def test_two_images_for_one_annotation_are_named(release):
    PIL.Image.new("RGB", (16, 16)).save(release / TRAIN / "images/9.png")
    with pytest.raises(ReleaseError, match=r"images/9\.jpg is not the only file of its number: there is '9\.png'"):
        load(release)


@pytest.mark.parametrize("num_proc", [None, 2])
def test_a_failed_build_says_why_and_leaves_nothing(long_release, tmp_path, num_proc):
    good = (long_release / TRAIN / "annotations/1099.json").read_bytes()
    (long_release / TRAIN / "annotations/1099.json").write_bytes(good[:-9])
    options = {"split": "train", "cache_dir": str(tmp_path / "cache")}
    with pytest.raises(ReleaseError, match=r"annotations/1099\.json does not parse"):
        load(long_release, num_proc=num_proc, **options)
    assert not list((tmp_path / "cache").rglob("*.arrow"))
    # Overwritten in place, so that the very same cache folder is asked for.
    (long_release / TRAIN / "annotations/1099.json").write_bytes(good)
    assert len(load(long_release, num_proc=num_proc, **options)) == 1100


# The seam in `datasets`, and the command


def test_the_seam_in_datasets_has_not_moved(release):
    moved = (
        f"datasets {datasets.__version__} no longer finds a dataset's module through `dataset_module_factory(path, "
        "revision, ..., data_files=...) -> DatasetModule` as looked up in {where}: affectnet_plus._register must "
        "wrap what has taken its place."
    )
    for module, functions in (
        (datasets.load, ("load_dataset_builder",)),
        (datasets.inspect, ("get_dataset_config_names", "get_dataset_default_config_name")),
    ):
        assert getattr(module.dataset_module_factory, "knows_affectnet_plus", False), moved.format(where=module)
        for function in functions:
            names = getattr(module, function).__code__.co_names
            assert "dataset_module_factory" in names, moved.format(where=f"{module.__name__}.{function}")
    assert get_dataset_config_names("affectnet_plus") == [
        "human_annotated", "easy", "challenging", "difficult", "human_annotated_all", "no_human_annotated",
        "affectnet_2021", "affectnet_2017", "ferplus"
    ], moved.format(where="get_dataset_config_names")  # fmt: skip
    assert datasets.get_dataset_default_config_name("affectnet_plus") == "human_annotated"
    assert get_dataset_split_names("affectnet_plus", "easy", data_dir=str(release)) == ["train", "validation"]
    for module, name in (
        (datasets.streaming, "module._patched_for_streaming"),
        (datasets.builder, "self._download_and_prepare("),
        (datasets.builder, "self._output_dir"),
        (datasets.builder, "self._as_dataset("),
    ):
        used = name in pathlib.Path(module.__file__).read_text()
        assert used, f"{module.__name__} {datasets.__version__} no longer uses {name}, as affectnet_plus.py relies on"


def test_other_names_still_lead_where_they_led(tmp_path):
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    assert load_dataset("csv", data_files=str(tmp_path / "rows.csv"), split="train")[0] == {"a": 1, "b": 2}
    assert load_dataset(str(tmp_path), split="train")[0] == {"a": 1, "b": 2}


def test_the_command_explains_itself(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["synthesize", "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for option in ("ROOT", "--train", "--validation", "--unannotated", "--seed", "--num_proc", "--image_size"):
        assert option in shown
    assert "default: 2000" in shown


def test_the_command_says_what_is_wrong_in_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SystemExit) as stopped:
        main(["synthesize", str(tmp_path / "file" / "release"), "--train", "1", "--validation", "0"])
    assert stopped.value.code == 2
    shown = capsys.readouterr().err.strip().splitlines()[-1]
    assert shown.startswith("affectnet-plus: error: ") and "file" in shown


def test_what_an_extra_is_needed_for_names_it(monkeypatch, tmp_path, capsys):
    for name in [name for name in sys.modules if name.startswith("affectnet_plus.synthetic")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(SystemExit) as stopped:
        main(["synthesize", str(tmp_path / "release")])
    assert stopped.value.code == 2 and 'pip install "affectnet-plus[synthetic]"' in capsys.readouterr().err
