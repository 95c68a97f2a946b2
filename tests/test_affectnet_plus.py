"""What somebody who loads a release would notice, on releases of a few files written here."""

import json
import os
import pathlib
import subprocess
import sys

import datasets
import numpy as np
import pytest
import torch
from datasets import get_dataset_config_names, get_dataset_split_names, load_dataset, load_dataset_builder
from released import (
    SOFT,
    TRAIN,
    UNANNOTATED,
    VALIDATION,
    annotation,
    load,
    rows,
    write_long_release,
    write_pair,
    write_release,
)

import affectnet_plus
from affectnet_plus import CATEGORIES, EXPRESSIONS, ReleaseError, recognise
from affectnet_plus.releases.check import check
from affectnet_plus_cli import main


@pytest.fixture
def release(tmp_path):
    return write_release(tmp_path)


@pytest.fixture
def long_release(tmp_path):
    return write_long_release(tmp_path)


REPOSITORY = pathlib.Path(affectnet_plus.__file__).parent


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
    with pytest.raises(ReleaseError, match="part1.zip ends without a table of contents, .*: download it again"):
        load(tmp_path / "AffectNet+_part1.zip")
    with pytest.raises(ReleaseError, match="part1.zip ends without a table of contents"):
        load(tmp_path)
    os.rename(tmp_path / "AffectNet+_part1.zip", tmp_path / "part1.rar")
    with pytest.raises(ReleaseError, match="part1.rar is a file, neither a folder nor a .zip or .tar"):
        load(tmp_path / "part1.rar")
    with pytest.raises(ReleaseError, match=r"holds human_annotated/ or no_human_annotated/. Found there: .*part1.rar"):
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


def test_rows_written_as_json_have_their_landmarks_when_cast_as_documented(release, tmp_path):
    ds = load(release, split="train")
    snippet = (REPOSITORY / "docs/data.md").read_text().partition("points = ")[2].partition("```")[0]
    names = {"ds": ds, "List": datasets.List, "Value": datasets.Value}
    exec("points = " + snippet.replace("rows.jsonl", f"{tmp_path}/x"), names)
    lines = [json.loads(line) for line in (tmp_path / "x").read_text().splitlines()]
    for name in ("landmarks_68", "landmarks_29"):
        assert [line[name] for line in lines] == ds[name][:]
