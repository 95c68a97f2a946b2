"""The synthetic release: its layout, its truth, and that what was drawn is faces."""

import csv
import hashlib
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest

from affectnet_plus import CATEGORIES, ETHNICITIES, EXPRESSIONS, GENDERS
from affectnet_plus.synthetic import synthesize
from affectnet_plus.synthetic.action_units import ACTION_UNITS
from affectnet_plus.synthetic.layouts import LAYOUTS
from affectnet_plus.synthetic.release import SPLITS
from affectnet_plus_cli import main

FOLDERS = LAYOUTS["plus"][1]


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """(root, rows): every row is its truth, its annotation and the paths of both files."""
    root = tmp_path_factory.mktemp("synthetic") / "AffectNet+"
    synthesize(root, train=380, validation=275, unannotated=25, seed=3, num_proc=2)
    rows = pq.read_table(root / "ground_truth.parquet").to_pylist()
    for row in rows:
        folder = root / FOLDERS[row["split"]]
        row["image"] = folder / "images" / f"{row['image_id']}.jpg"
        row["annotation"] = json.loads((folder / "annotations" / f"{row['image_id']}.json").read_text())
    return root, rows


def digests(root: Path) -> dict:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_same_bytes(tmp_path):
    arguments = {"train": 70, "validation": 11, "unannotated": 3, "image_size": 48}
    synthesize(tmp_path / "one", seed=1, num_proc=1, **arguments)
    synthesize(tmp_path / "two", seed=1, num_proc=2, **arguments)
    synthesize(tmp_path / "other", seed=2, num_proc=2, **arguments)
    one, two, other = (digests(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert one["ground_truth.parquet"] != other["ground_truth.parquet"]
    assert not set(one.values()) & set(other.values())


def test_layout(release):
    root, rows = release
    top = sorted(path.name for path in root.iterdir())
    assert top == ["ground_truth.parquet", "human_annotated", "no_human_annotated"]
    for split, folder in FOLDERS.items():
        ids = [row["image_id"] for row in rows if row["split"] == split]
        assert ids == sorted(set(ids)) and ids != list(range(ids[0], ids[0] + len(ids)))
        assert {path.name for path in (root / folder / "images").iterdir()} == {f"{i}.jpg" for i in ids}
        assert {path.name for path in (root / folder / "annotations").iterdir()} == {f"{i}.json" for i in ids}
    assert [sum(row["split"] == split for row in rows) for split in SPLITS] == [380, 275, 25]
    assert {cv2.imread(str(row["image"])).shape for row in rows} == {(224, 224, 3)}


def test_annotations_have_the_released_keys_types_and_ranges(release):
    for row in release[1]:
        annotation, label = row["annotation"], row["annotation"]["human-label"]
        assert list(annotation) == ["human-label", "soft-label", "subset", "meta-data"]
        assert label is None if row["split"] == "unannotated" else label in range(len(CATEGORIES))
        soft_label = annotation["soft-label"]
        assert len(soft_label) == len(EXPRESSIONS)
        assert all(0.057 <= score <= 0.718 and score == round(score, 4) for score in soft_label)
        assert 1.19 <= sum(soft_label) <= 2.44

        meta = annotation["meta-data"]
        assert isinstance(meta["age"], int) and 0 < meta["age"] < 100
        assert list(meta["gender"]) == list(GENDERS)
        assert list(meta["race"]) == [name.replace("_", " ") for name in ETHNICITIES]
        for scores in (meta["gender"].values(), meta["race"].values()):
            assert abs(sum(scores) - 1) < 0.04 and all(0 <= v <= 1 and v == round(v, 2) for v in scores)
        assert all(abs(angle) < 0.45 and angle == round(angle, 2) for angle in meta["pose"].values())
        if label is None or label < len(EXPRESSIONS):
            assert -1 <= meta["valence"] <= 1 and -1 <= meta["arousal"] <= 1
        else:
            assert meta["valence"] == meta["arousal"] == -2
        for key, count in (("landmark-68", 136), ("landmark-29", 58)):
            assert len(meta[key]) == count and all(isinstance(value, int) for value in meta[key])
        if row["yaw"] is not None:
            degrees = [row[angle] for angle in meta["pose"]]
            assert np.allclose(np.array(degrees) / 90, list(meta["pose"].values()), atol=0.0051)
            assert min(meta["landmark-68"]) >= -5 and max(meta["landmark-68"]) <= 229


def test_subset_is_the_rank_of_the_human_label(release):
    subsets = []
    for row in release[1]:
        label, soft_label = row["annotation"]["human-label"], row["annotation"]["soft-label"]
        if label is None or label >= len(EXPRESSIONS):
            assert row["annotation"]["subset"] is None
            continue
        rank = 1 + sorted(soft_label, reverse=True).index(soft_label[label])
        assert soft_label.count(soft_label[label]) == 1
        assert row["annotation"]["subset"] == (0 if rank == 1 else 1 if rank <= 3 else 2)
        subsets.append(row["annotation"]["subset"])
    assert (np.bincount(subsets) / len(subsets) >= 0.1).all()


def test_classes_are_imbalanced_as_in_the_real_release(release):
    labels = {split: [r["annotation"]["human-label"] for r in release[1] if r["split"] == split] for split in SPLITS}
    train, validation = (np.bincount(labels[split], minlength=len(CATEGORIES)) for split in ("train", "validation"))
    counts = dict(zip(CATEGORIES, train.tolist(), strict=True))
    assert counts["happy"] > counts["neutral"] > counts["sad"] > counts["surprise"] > counts["contempt"] >= 8
    assert 0.25 < sum(train[len(EXPRESSIONS) :]) / sum(train) < 0.4
    assert validation.tolist() == [25] * len(CATEGORIES)
    assert labels["train"] != sorted(labels["train"])


@pytest.mark.parametrize("layout", ["plus", "2017"])
def test_validation_is_balanced_or_distributed_like_train(tmp_path, layout):
    def counts(folder, split):
        if layout == "plus":
            annotations = (tmp_path / folder / FOLDERS[split] / "annotations").iterdir()
            labels = [json.loads(path.read_text())["human-label"] for path in annotations]
        else:
            with (tmp_path / folder / TABLES[split]).open() as file:
                labels = [int(row["expression"]) for row in csv.DictReader(file)]
        return np.bincount(labels, minlength=len(CATEGORIES)).tolist()

    arguments = ["--train", "33", "--validation", "33", "--image_size", "32", "--num_proc", "1", "--layout", layout]
    main_exits(["synthesize", str(tmp_path / "as it is"), *arguments])
    main_exits(["synthesize", str(tmp_path / "train"), *arguments, "--validation_frequencies", "train"])
    assert counts("as it is", "validation") == [3] * len(CATEGORIES)
    assert counts("train", "validation") == counts("train", "train") == counts("as it is", "train") != [3] * 11


def main_exits(arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert not stopped.value.code


def test_truth_is_an_intensity_vector_that_the_human_label_mostly_reads(release):
    right = []
    for row in release[1]:
        intensities = [row[f"intensity_{name}"] for name in EXPRESSIONS]
        label = row["annotation"]["human-label"]
        if label == CATEGORIES.index("non-face"):
            assert {key for key in row if row[key] is not None} == {"split", "image_id", "image", "annotation"}
            continue
        assert all(0 <= value <= 1 for value in intensities)
        assert intensities[0] == pytest.approx(1 - max(intensities[1:]), abs=1e-6)
        assert 1 <= np.count_nonzero(intensities[1:]) <= 3
        assert all(0 <= row[f"AU{unit:02d}"] <= 5 for unit in ACTION_UNITS)
        if label is not None and label < len(EXPRESSIONS):
            right.append(int(np.argmax(intensities)) == label)
    assert 0.8 < np.mean(right) < 0.95
    people = {split: {row["identity"] for row in release[1] if row["split"] == split} - {None} for split in SPLITS}
    assert not people["train"] & people["validation"]
    assert len(people["train"]) < 0.8 * sum(row["split"] == "train" and row["yaw"] is not None for row in release[1])


def test_no_two_images_are_alike(release):
    hashes = {hashlib.sha256(row["image"].read_bytes()).hexdigest() for row in release[1]}
    assert len(hashes) == len(release[1])
    small = np.array([cv2.resize(cv2.imread(str(row["image"]), 0), (16, 16)).ravel() for row in release[1]], float)
    nearest = [np.sort(np.abs(small - image).mean(axis=1))[1] for image in small]
    assert min(nearest) > 2


def test_real_face_detector_finds_faces_and_only_faces(release):
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")

    def found(row):
        grey = cv2.copyMakeBorder(cv2.imread(str(row["image"]), 0), *[70] * 4, cv2.BORDER_REPLICATE)
        return len(cascade.detectMultiScale(grey, 1.1, 3, minSize=(80, 80))) > 0

    faces = [found(row) for row in release[1] if row["yaw"] is not None and abs(row["yaw"]) < 15]
    others = [found(row) for row in release[1] if row["yaw"] is None]
    assert len(faces) > 300 and np.mean(faces) >= 0.8
    assert len(others) > 80 and np.mean(others) <= 0.1


COUNTS = {"train": 60, "validation": 24, "image_size": 64}
COLUMNS = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
TABLES = {"train": "training.csv", "validation": "validation.csv", "unannotated": "automatically_annotated.csv"}


def synthesize_as(root: Path, layout: str, num_proc: int) -> Path:
    unannotated = {} if layout == "2021" else {"unannotated": 6}
    synthesize(root / layout, seed=4, num_proc=num_proc, layout=layout, **COUNTS, **unannotated)
    return root / layout


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    """The same faces in each layout: layout -> root."""
    root = tmp_path_factory.mktemp("layouts")
    return {layout: synthesize_as(root, layout, num_proc=2) for layout in LAYOUTS}


def pixels(path: Path) -> np.ndarray:
    return np.asarray(PIL.Image.open(path)).astype(int)


def read_plus(root: Path) -> list:
    """(split, N, JPEG path, annotation) of every row, as the ground truth orders them."""
    rows = []
    for truth in pq.read_table(root / "ground_truth.parquet", columns=["split", "image_id"]).to_pylist():
        folder, image_id = root / FOLDERS[truth["split"]], truth["image_id"]
        annotation = json.loads((folder / "annotations" / f"{image_id}.json").read_text())
        rows.append((truth["split"], image_id, folder / "images" / f"{image_id}.jpg", annotation))
    return rows


def truth_without_ids(root: Path, keep=None) -> list:
    rows = pq.read_table(root / "ground_truth.parquet").drop(["image_id"]).to_pylist()
    return [row for row, kept in zip(rows, keep, strict=True) if kept] if keep else rows


def test_2021_holds_the_same_rows(layouts):
    root, expected = layouts["2021"], set()
    rows = read_plus(layouts["plus"])
    kept = [row[3]["human-label"] in range(len(EXPRESSIONS)) for row in rows]
    for (split, image_id, image, annotation), keep in zip(rows, kept, strict=True):
        if not keep:
            continue
        folder, meta = {"train": "train_set", "validation": "val_set"}[split], annotation["meta-data"]
        exp, val, aro, lnd = (
            np.load(root / folder / "annotations" / f"{image_id}_{name}.npy") for name in ("exp", "val", "aro", "lnd")
        )
        assert all(array.shape == () and array.dtype.kind == "U" for array in (exp, val, aro))
        assert int(exp.item()) == annotation["human-label"]
        assert [float(val.item()), float(aro.item())] == [meta["valence"], meta["arousal"]]
        assert lnd.shape == (136,) and lnd.dtype == np.float64 and lnd.tolist() == meta["landmark-68"]
        assert (root / folder / "images" / f"{image_id}.jpg").read_bytes() == image.read_bytes()
        expected |= {f"{folder}/images/{image_id}.jpg"}
        expected |= {f"{folder}/annotations/{image_id}_{name}.npy" for name in ("exp", "val", "aro", "lnd")}
    assert set(digests(root)) == expected | {"ground_truth.parquet"}
    truth = pq.read_table(root / "ground_truth.parquet")
    ids = [row[:2] for row, keep in zip(rows, kept, strict=True) if keep]
    assert list(zip(*truth.select(["split", "image_id"]).to_pydict().values(), strict=True)) == ids
    assert truth.schema == pq.read_schema(layouts["plus"] / "ground_truth.parquet")
    assert truth_without_ids(root) == truth_without_ids(layouts["plus"], kept)


def test_2017_holds_the_same_rows(layouts):
    root, paths, categories, places, differences = layouts["2017"], [], set(), [], []
    for split, table in TABLES.items():
        rows = [row for row in read_plus(layouts["plus"]) if row[0] == split]
        lines = (root / table).read_text().splitlines()
        assert lines[0] == COLUMNS and not any(line == COLUMNS for line in lines[1:])
        for line, (*_, image, annotation) in zip(csv.DictReader(lines), rows, strict=True):
            meta, label = annotation["meta-data"], annotation["human-label"]
            folder = "Automatically_Annotated_Images" if split == "unannotated" else "Manually_Annotated_Images"
            assert re.fullmatch(r"1/[0-9a-f]{56}\.jpg", line["subDirectory_filePath"])
            paths.append(f"{folder}/{line['subDirectory_filePath']}")

            expression = int(line["expression"])
            assert expression == (np.argmax(annotation["soft-label"]) if split == "unannotated" else label)
            assert [float(line["valence"]), float(line["arousal"])] == [meta["valence"], meta["arousal"]]
            x, y, width, height = (int(line[f"face_{name}"]) for name in ("x", "y", "width", "height"))
            assert width == height == 64 and x >= 0 and y >= 0
            points = np.array([int(value) for value in line["facial_landmarks"].split(";")]).reshape(68, 2)
            assert (points - (x, y)).ravel().tolist() == meta["landmark-68"]

            original, crop = pixels(root / paths[-1]), pixels(image)
            assert all(1.2 * 64 <= side <= 2.5 * 64 for side in original.shape[:2])
            differences.append(np.abs(original[y : y + height, x : x + width] - crop).mean())
            categories.add((split, expression))
            places.append((x / (original.shape[1] - width), y / (original.shape[0] - height)))
    assert {expression for split, expression in categories if split == "train"} == set(range(len(CATEGORIES)))
    assert {expression for split, expression in categories if split == "unannotated"} <= set(range(len(EXPRESSIONS)))
    assert np.allclose(np.mean(places, axis=0), 0.5, atol=0.15) and np.min(np.std(places, axis=0)) > 0.2
    assert max(differences) < 3
    assert len(set(paths)) == len(paths)
    assert set(digests(root)) == {*paths, *TABLES.values(), "ground_truth.parquet"}
    truth = pq.read_table(root / "ground_truth.parquet")
    assert truth["image_id"].to_pylist() == [*range(60), *range(24), *range(6)]
    assert truth.schema == pq.read_schema(layouts["plus"] / "ground_truth.parquet")
    assert truth_without_ids(root) == truth_without_ids(layouts["plus"])


@pytest.mark.parametrize("layout", ["2021", "2017"])
def test_older_layouts_same_seed_same_bytes(layouts, tmp_path, layout):
    assert digests(synthesize_as(tmp_path, layout, num_proc=1)) == digests(layouts[layout])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_split_of_no_images_leaves_nothing(tmp_path, layout):
    synthesize(tmp_path, train=0, validation=12, num_proc=1, image_size=32, layout=layout)
    names = {"plus": ["human_annotated"], "2021": ["val_set"], "2017": ["Manually_Annotated_Images", "validation.csv"]}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["ground_truth.parquet", *names[layout]])


@pytest.mark.parametrize("counts", [{"train": 1}, {"validation": 1}, {"train": 20, "validation": 6}])
def test_small_releases(tmp_path, counts):
    root = tmp_path / "made" / "on the way"
    synthesize(root, **{"train": 0, "validation": 0, **counts}, num_proc=1, image_size=32)
    table = pq.read_table(root / "ground_truth.parquet")
    assert len(table) == len(list(root.rglob("*.jpg"))) == len(list(root.rglob("*.json"))) == sum(counts.values())
    assert not (root / "no_human_annotated").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"train": -1}, "train must be at least 0, got -1"),
        ({"validation": 2.5}, "validation must be a whole number, got 2.5"),
        ({"train": 0, "validation": 0}, "Nothing to synthesize"),
        ({"seed": -3}, "seed must be at least 0"),
        ({"num_proc": 0}, "num_proc must be at least 1"),
        ({"image_size": 8}, "image_size must be at least 32"),
        ({"image_size": 10**6}, "image_size must be at most"),
        ({"validation_frequencies": "real"}, "validation_frequencies must be 'balanced' or 'train', got 'real'"),
        ({"layout": "2019"}, "layout must be one of 'plus', '2021', '2017', got '2019'"),
        ({"layout": "2021", "unannotated": 3}, "no place for images without a human label: set unannotated to 0"),
        ({"layout": "2021", "train": 0, "validation": 1, "num_proc": 1}, "no image that layout '2021' holds"),
    ],
)
def test_absurd_arguments(tmp_path, arguments, says):
    with pytest.raises(ValueError, match=says):
        synthesize(tmp_path / "release", **arguments)
    assert not (tmp_path / "release").exists()


def test_nothing_is_mixed_into_what_exists(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="already holds 'notes.txt'.*new or empty folder"):
        synthesize(tmp_path, train=1)
    with pytest.raises(FileExistsError, match="is a file"):
        synthesize(tmp_path / "notes.txt", train=1)
    with pytest.raises(ValueError, match="Cannot write"):
        synthesize(tmp_path / "notes.txt" / "release", train=1)
    (tmp_path / "empty").mkdir()
    synthesize(tmp_path / "empty", train=1, validation=0, num_proc=1, image_size=32)
    assert len(list((tmp_path / "empty").rglob("*.jpg"))) == 1


def test_an_interrupted_run_leaves_no_release(tmp_path):
    root = tmp_path / "release"
    code = f"from synthetic import synthesize; synthesize({str(root)!r}, train=100_000, num_proc=2, image_size=32)"
    run = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests run in the background ignore it
    )
    try:
        while not any(root.rglob("*.jpg")):
            assert run.poll() is None
            time.sleep(0.1)
        assert not (root / "human_annotated").exists() and not (root / "ground_truth.parquet").exists()
        run.send_signal(signal.SIGINT)
        assert run.wait(timeout=20) != 0
    finally:
        run.kill()
    assert not root.exists()
