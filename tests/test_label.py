"""label.py as people run it: cross-fitted labels, restarted, shared by processes; the model that makes them."""

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, load_dataset
from PIL import Image, ImageOps
from runs import SMALL, Script, train, train_until
from transformers import AutoModelForImageClassification, pipeline

import affectnet_plus
from affectnet_plus import EXPRESSIONS
from affectnet_plus.modeling import FusedForImageClassification
from affectnet_plus.releases.check import check
from affectnet_plus.synthetic import synthesize
from affectnet_plus.training import label
from affectnet_plus.training.arguments import DataArguments
from affectnet_plus.training.faces import Split, load_split, read_soft_labels
from affectnet_plus.training.metrics import ranks_of
from affectnet_plus.training.soft_labels.calibration import reexpress
from affectnet_plus.training.soft_labels.fusion import calibrate_to

COMMON = SMALL[SMALL.index("--image_size") :]


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    """Enough faces for two folds of every expression."""
    root = tmp_path_factory.mktemp("release") / "AffectNet+"
    synthesize(root, train=1000, validation=80, unannotated=9, seed=5, num_proc=1, image_size=40)
    return root


@pytest.fixture(scope="module")
def experts(release, tmp_path_factory) -> Path:
    """EBC and AU experts in two folds, hardly trained."""
    folder = tmp_path_factory.mktemp("experts")
    args = [*COMMON, "--data_dir", release, "--max_train_steps", 3, "--num_folds", 2, "--eval_strategy", "no"]
    ebc = [*args, "--backbones", "test_vit3", "--output_dir", "ebc"]
    au = [*args, "--backbone", "test_vit2", "--au_labels", release / "ground_truth.parquet", "--output_dir", "au"]
    runs = [Script(script, *flags, cwd=folder) for script, flags in (("train_ebc.py", ebc), ("train_au.py", au))]
    for run in runs:
        status, _, error = run.wait()
        assert status == 0, error[-3000:]
    return folder


def flags_of(experts, release) -> list:
    return ["--ebc", experts / "ebc", "--au", experts / "au", "--data_dir", release, "--rows_per_file", 100]


@pytest.fixture(scope="module")
def labelled(experts, release) -> Path:
    said = train(*flags_of(experts, release), "--output_dir", "soft", script="label.py", cwd=experts)
    assert "train: " in said and "difficult" in said and "warning" not in said
    return experts / "soft"


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("*.parquet")}


def rows_of(folder: Path, split: str):
    table = pq.read_table(sorted(folder.glob(f"{split}-*.parquet"))).to_pandas()
    return table.set_index("image_id")


def test_every_row_has_its_label_once(labelled, release):
    for split, rows in load_dataset("affectnet_plus", data_dir=str(release)).items():
        table = rows_of(labelled, split)
        assert sorted(table.index) == sorted(str(n) for n in rows["image_id"])
        assert (table["split"] == split).all()
        table = table.loc[[str(n) for n in rows["image_id"]]]
        for name in ("ebc", "au", "soft_label", "posterior"):
            scores = np.stack(table[name])
            assert scores.shape == (len(rows), 8) and 0 <= scores.min() <= scores.max() <= 1
            np.testing.assert_allclose(scores, scores.round(6), atol=1e-7)
        assert table["human_label"].tolist() == rows["label"][:]
        soft_label, human = np.stack(table["soft_label"]), np.array(rows["label"])
        ranks = [sorted(scores, reverse=True).index(scores[h]) + 1 for scores, h in zip(soft_label, human, strict=True)]
        assert table["rank"].tolist() == ranks
        assert table["subset"].tolist() == [0 if rank == 1 else 1 if rank <= 3 else 2 for rank in ranks]
    plain = load_dataset(str(labelled))
    assert set(plain) == {"train", "validation"} and len(plain["train"][0]["soft_label"]) == 8


def test_tta_scores_are_those_of_the_face_and_of_its_flip(labelled, experts, release, tmp_path):
    flags = [*flags_of(experts, release), "--splits", "validation", "--tta", "--output_dir", "tta"]
    train(*flags, script="label.py", cwd=tmp_path)
    assert (
        "Scores are the mean over the image and its horizontal flip"
        in (tmp_path / "tta/models/fold-0/README.md").read_text()
    )
    face = load_dataset("affectnet_plus", data_dir=str(release), split="validation")[0]["image"]
    faces = [face, ImageOps.mirror(face)]
    answers = {}
    for folder in (tmp_path / "tta", labelled):
        fer = pipeline("soft-fer", faces="crop", model=str(folder / "models/fold-0"))
        first, second = (np.array(list(answer["soft_label"].values())) for answer in fer(faces))
        answers[folder.name] = np.abs(first - second).max()
    assert answers["tta"] < 1e-5 < 1e-4 < answers["soft"]


def test_rows_are_labelled_by_experts_that_have_not_seen_them(labelled, experts, release):
    train_rows = load_dataset("affectnet_plus", data_dir=str(release), split="train")
    table = rows_of(labelled, "train")
    ids = np.array([str(n) for n in train_rows["image_id"]])
    folds = load_split(DataArguments(data_dir=str(release)), "train").folds(2)
    for fold in range(2):
        model = labelled / f"models/fold-{fold}"
        recorded = AutoModelForImageClassification.from_pretrained(model).config.ebc.training["happy"]
        assert recorded["left_out_fold"] == fold and recorded["rows"] == (folds != fold).sum()
        assert recorded["folds_by"] == "content"
        rows = np.flatnonzero(folds == fold)[:12]
        answers = pipeline("soft-fer", faces="crop", model=str(model))(train_rows.select(rows), batch_size=4)
        ours = [list(answer["soft_label"].values()) for answer in answers]
        np.testing.assert_allclose(np.stack(table.loc[ids[rows], "soft_label"]), ours, atol=1e-4)
    validation = load_dataset("affectnet_plus", data_dir=str(release), split="validation").select(range(6))
    means = np.mean(
        [
            [list(a["soft_label"].values()) for a in pipeline("soft-fer", faces="crop", model=str(m))(validation)]
            for m in sorted((labelled / "models").iterdir())
        ],
        axis=0,
    )
    table = rows_of(labelled, "validation")
    np.testing.assert_allclose(
        np.stack(table.loc[[str(n) for n in validation["image_id"]], "soft_label"]), means, atol=1e-4
    )


def test_killed_it_goes_on_to_the_same_bytes(labelled, experts, release):
    args = [*flags_of(experts, release), "--output_dir", "killed"]
    folder = experts / "killed"
    train_until(lambda: len(list(folder.glob("*.parquet"))) >= 2, *args, script="label.py", cwd=experts)
    before = {file: file.stat().st_mtime_ns for file in folder.glob("*.parquet")}
    assert 2 <= len(before) < len(digests(labelled)), "killed too late"
    train(*args, script="label.py", cwd=experts)
    assert digests(folder) == digests(labelled)
    assert all(file.stat().st_mtime_ns == time_ns for file, time_ns in before.items())
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in labelled.iterdir())


def test_two_processes_that_share_a_cache_write_the_same_labels(labelled, experts, release):
    flags = [*flags_of(experts, release), "--cache_images", "memory", "--output_dir", "two"]
    train(*flags, script="label.py", cwd=experts, processes=2)
    assert digests(experts / "two") == digests(labelled)


def test_new_faces_are_labelled_by_the_saved_model(labelled, release, tmp_path):
    images = release / "human_annotated/validation_set/images"
    args = ["--image_dir", images, "--model", labelled, "--output_dir", "faces"]
    train(*args, script="label.py", cwd=tmp_path)
    table = rows_of(tmp_path / "faces", "images")
    assert sorted(table.index) == sorted(path.stem for path in images.iterdir())
    assert table[["human_label", "rank", "subset", "posterior"]].isna().all(axis=None)
    image_id = table.index[0]
    models = [pipeline("soft-fer", faces="crop", model=str(labelled / f"models/fold-{fold}")) for fold in range(2)]
    answers = [list(fer(str(images / f"{image_id}.jpg"))["soft_label"].values()) for fer in models]
    np.testing.assert_allclose(table.loc[image_id, "soft_label"], np.mean(answers, axis=0), atol=1e-4)


def test_faces_that_no_human_has_labelled_get_the_mean_of_the_folds(labelled, experts, release, tmp_path):
    args = ["--ebc", experts / "ebc", "--au", experts / "au", "--data_dir", release]
    args += ["--dataset_config_name", "no_human_annotated", "--output_dir", "soft"]
    assert "warning" not in train(*args, script="label.py", cwd=tmp_path)
    rows = load_dataset("affectnet_plus", "no_human_annotated", data_dir=str(release), split="train").select([4])
    table = rows_of(tmp_path / "soft", "train")
    assert len(table) == 9 and table["subset"].isna().all()
    models = [pipeline("soft-fer", faces="crop", model=str(labelled / f"models/fold-{fold}")) for fold in range(2)]
    answers = [list(next(iter(fer(rows)))["soft_label"].values()) for fer in models]
    np.testing.assert_allclose(table.loc[str(rows[0]["image_id"]), "soft_label"], np.mean(answers, axis=0), atol=1e-4)


def test_labels_become_a_release(labelled, experts, release, tmp_path):
    before = digests(labelled)
    args = [*flags_of(experts, release), "--output_dir", labelled, "--write_release", "new/AffectNet+"]
    train(*args, script="label.py", cwd=tmp_path)
    assert digests(labelled) == before  # nothing was labelled again
    assert check(tmp_path / "new", 1).whole
    old = load_dataset("affectnet_plus", data_dir=str(release))
    for split, rows in load_dataset("affectnet_plus", data_dir=str(tmp_path / "new")).items():
        assert rows["image_id"][:] == old[split]["image_id"][:] and rows["label"][:] == old[split]["label"][:]
        ours = rows_of(labelled, split).loc[[str(n) for n in rows["image_id"]]]
        written = np.array(rows["soft_label"][:])
        np.testing.assert_allclose(written, np.stack(ours["soft_label"]), atol=5.1e-5)  # four decimals
        ranks = 1 + (written > written[np.arange(len(rows)), rows["label"], None]).sum(axis=1)
        assert rows["subset"][:] == np.digitize(ranks, [2, 4]).tolist()  # of the scores as they are written
        columns = ["image", "age", "gender", "ethnicity", "head_pose", "landmarks_68", "landmarks_29", "valence"]
        a, b = (dataset.select_columns(columns)[3] for dataset in (rows, old[split]))
        assert a.pop("image").tobytes() == b.pop("image").tobytes() and json.dumps(a) == json.dumps(b)
    said = train(*args, script="label.py", cwd=tmp_path, expect=2)
    assert "already holds something" in said


def test_a_folder_of_pictures_becomes_a_release(labelled, release, tmp_path):
    image = next((release / "human_annotated/validation_set/images").iterdir())
    (tmp_path / "faces/ann").mkdir(parents=True)
    Image.open(image).save(tmp_path / "faces/ann/1.png")
    (tmp_path / "faces/bob.jpeg").write_bytes(image.read_bytes())
    (tmp_path / "faces/ann.jpg").write_bytes(image.read_bytes()[:-200])
    args = ["--image_dir", "faces", "--model", labelled / "models/fold-0"]
    said = train(*args, "--output_dir", "stopped", script="label.py", cwd=tmp_path, expect=2)
    assert "faces/ann.jpg is not a readable image" in said and "--on_error skip" in said
    args += ["--output_dir", "soft", "--write_release", "AffectNet+", "--on_error", "skip"]
    said = train(*args, script="label.py", cwd=tmp_path)
    assert "1 broken image(s) of images left out: faces/ann.jpg" in said
    assert check(tmp_path, 1).whole
    rows = load_dataset("affectnet_plus", "no_human_annotated", data_dir=str(tmp_path), split="train")
    assert rows["image_id"][:] == [1, 2] and rows["label"][:] == rows["age"][:] == [None, None]
    assert "no_human_annotated,2,images,bob" in (tmp_path / "AffectNet+/files.csv").read_text()
    assert (tmp_path / "AffectNet+/no_human_annotated/images/2.jpg").read_bytes() == image.read_bytes()


def test_rows_without_an_expression_have_labels_but_no_rank(labelled, experts, release, tmp_path):
    args = ["--data_dir", release, "--dataset_config_name", "human_annotated_all", "--splits", "validation"]
    args += ["--ebc", experts / "ebc/fold-0", "--au", experts / "au/fold-0"]
    train(*args, "--output_dir", "all", script="label.py", cwd=tmp_path)
    rows = load_dataset(affectnet_plus.__name__, "human_annotated_all", data_dir=str(release), split="validation")
    table = rows_of(tmp_path / "all", "validation").loc[[str(n) for n in rows["image_id"]]]
    assert (table["rank"].isna().to_numpy() == (np.array(rows["label"]) >= 8)).all()
    assert table["rank"].isna().any() and table["rank"].notna().any()


def test_experts_without_folds_warn_of_the_rows_they_have_seen(experts, release, tmp_path):
    args = ["--ebc", experts / "ebc/fold-0", "--au", experts / "au/fold-0", "--data_dir", release]
    said = train(*args, "--output_dir", "soft", script="label.py", cwd=tmp_path)
    assert "repeat the human's" in said and "--num_folds" in said
    assert json.loads((tmp_path / "soft/label.json").read_text())["splits"].keys() == {"train", "validation"}
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "soft/model")
    assert isinstance(model, FusedForImageClassification)
    card = (tmp_path / "soft/model/README.md").read_text()
    assert "weight of the EBC" in card
    assert f"(Fig. 2; {', '.join(model.config.ebc.backbones)})" in card
    assert f"(Fig. 3; {model.config.au.backbone})" in card


def test_labels_are_calibrated_to_the_training_rows(labelled, experts, release):
    rows = load_dataset("affectnet_plus", data_dir=str(release))
    shares = {s: np.bincount(rows[s]["label"], minlength=8) / len(rows[s]) for s in rows}
    assert np.abs(shares["train"] - shares["validation"]).max() > 0.2  # balanced for validation, as AffectNet's
    said = json.loads((labelled / "label.json").read_text())
    assert list(said["prior"]) == list(EXPRESSIONS)
    np.testing.assert_allclose(list(said["prior"].values()), shares["train"])  # of all rows, not of a fold's
    assert said["posterior"] == {"prior_precision": 2.0, "how": "given"}
    config = AutoModelForImageClassification.from_pretrained(labelled / "models/fold-1").config
    for i, name in enumerate(EXPRESSIONS):
        for part in (config.ebc, config.au):
            fitted = part.calibration[name]
            assert fitted["prior"] == pytest.approx(shares["train"][i])
            assert fitted["validation_frequency"] == pytest.approx(shares["validation"][i])
    assert config.prior == config.ebc.prior == config.au.prior
    for folder in (labelled, labelled / "models/fold-1", experts / "ebc/fold-0"):
        assert f"contempt {shares['train'][-1]:.4f}" in (folder / "README.md").read_text()
    # Networks that have learned nothing: their scores are the frequencies themselves, in training and validation rows.
    scores = np.stack(rows_of(labelled, "validation")["soft_label"]).mean(axis=0)
    np.testing.assert_allclose(scores, shares["train"], rtol=0.3, atol=0.02)


def test_labels_for_another_prior_are_those_of_the_model_under_it(labelled, release, tmp_path, monkeypatch):
    run = ["--model", labelled, "--data_dir", release, "--max_samples", 40, "--output_dir", tmp_path / "run"]
    for more in (run, ["--labels", labelled, "--output_dir", tmp_path / "anew"]):
        flags = ["--prior", "balanced", "--dataloader_num_workers", "0", *map(str, more)]
        monkeypatch.setattr(sys, "argv", ["label.py", *flags])
        label.main()
    for split in ("train", "validation"):
        run, anew, before = (rows_of(folder, split) for folder in (tmp_path / "run", tmp_path / "anew", labelled))
        assert len(run) == 40 and anew.index.equals(before.index)
        anew, before = anew.loc[run.index], before.loc[run.index]
        for name in ("ebc", "au", "soft_label", "posterior"):
            np.testing.assert_allclose(np.stack(run[name]), np.stack(anew[name]), atol=2e-5)
        contempt = np.stack(run["soft_label"])[:, -1], np.stack(before["soft_label"])[:, -1]
        assert contempt[0].mean() > 2 * contempt[1].mean()
        assert (run["rank"] != before["rank"]).any()
        scores, human = np.stack(anew["soft_label"]), anew["human_label"].to_numpy()
        expected = (2 * scores + np.eye(8)[human]) / 3
        np.testing.assert_allclose(np.stack(anew["posterior"]), expected, atol=1e-6)
    said = [json.loads((tmp_path / name / "label.json").read_text()) for name in ("run", "anew")]
    assert said[0]["prior"] == said[1]["prior"] == dict.fromkeys(EXPRESSIONS, 0.125)
    assert said[1]["expressed_anew"] == {
        "labels": "soft",
        "prior": json.loads((labelled / "label.json").read_text())["prior"],
    }
    assert "neutral 0.1250" in (tmp_path / "anew/README.md").read_text()
    # So does a model that is saved with that prior.
    model = AutoModelForImageClassification.from_pretrained(labelled / "models/fold-0")
    pixel_values = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        before = model(pixel_values)
        calibrate_to(model.config, np.full(8, 1 / 8))
        model.save_pretrained(tmp_path / "model")
        after = AutoModelForImageClassification.from_pretrained(tmp_path / "model")(pixel_values)
    for name in ("logits", "ebc_logits", "au_expert_logits"):
        expected = reexpress(before[name].sigmoid().numpy(), list(model.config.ebc.prior.values()), np.full(8, 1 / 8))
        np.testing.assert_allclose(after[name].sigmoid().numpy(), expected, atol=1e-5)
    assert "neutral 0.1250" in (tmp_path / "model/README.md").read_text()


def test_a_copy_of_a_training_row_is_labelled_by_experts_that_have_not_seen_it(labelled, release):
    rows = load_split(DataArguments(data_dir=str(release)), "train")
    validation = load_split(DataArguments(data_dir=str(release)), "validation")
    stored = [rows.stored(row) for row in (3, 4, 5, 6)] + [validation.stored(row) for row in (0, 1)]
    images = Dataset.from_dict({"image": stored}, features=validation.images.features)
    ids = np.arange(6).astype(str)
    mixed = Split("validation", images, np.zeros(6, int), None, ids, ids, "image_id")
    folds = {fold: {"model": str(labelled / f"models/fold-{fold}")} for fold in range(2)}
    for split in (rows, mixed):
        split.read_contents()
    shards = label.plan_shards([mixed], folds, ["train"], 100, label.folds_by(folds), rows)
    labelled_by = {int(row): of_row for _, _, some, of_row in shards for row in some}
    assert labelled_by == {row: [rows.folds(2)[row + 3]] for row in range(4)} | {4: [0, 1], 5: [0, 1]}


def test_labels_of_other_faces_with_the_same_ids_are_refused(labelled, release):
    split = load_split(DataArguments(data_dir=str(release)), "train")
    assert len(read_soft_labels(labelled, split)) == len(split)
    split.labels = np.roll(split.labels, 1)
    with pytest.raises(ValueError, match="of other faces that have the same ids"):
        read_soft_labels(labelled, split)


def test_page_of_the_labels_that_the_experts_deny_most(labelled, release, tmp_path):
    args = ["--data_dir", release, "--soft_labels", labelled, "--num_faces", 5]
    args += ["--output_file", "out/label_errors.html"]
    train(*args, script="show_label_errors.py", cwd=tmp_path)
    ours, prior = rows_of(labelled, "train"), json.loads((Path(labelled) / "label.json").read_text())["prior"]
    assert prior["contempt"] < 0.1
    balanced = reexpress(np.stack(ours["soft_label"]), [prior[name] for name in EXPRESSIONS], [1 / 8] * 8)
    human = ours["human_label"].to_numpy(int)
    ours["soft_label"], ours["rank"] = balanced.tolist(), ranks_of(balanced, human)
    table = pd.read_csv(tmp_path / "out/label_errors.csv", dtype={"image_id": str}).set_index("image_id")
    is_human = np.eye(len(EXPRESSIONS))[human]
    losses = -np.log(np.where(is_human, balanced, 1 - balanced)).sum(axis=1)
    assert table["loss"].tolist() == pytest.approx(sorted(losses, reverse=True)[:5], abs=1e-3)
    for image_id, row in table.iterrows():
        scores = dict(zip(EXPRESSIONS, ours.loc[image_id, "soft_label"], strict=True))
        assert row["rank"] == ours.loc[image_id, "rank"] and row["predicted_label"] == max(scores, key=scores.get)
        assert row["margin"] == pytest.approx(scores[row["predicted_label"]] - scores[row["human_label"]], abs=1e-3)
    page = (tmp_path / "out/label_errors.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 5 and 'class="bar human"' in page
    args[3] = labelled / "models"
    assert "does not hold all labels of train" in train(*args, script="show_label_errors.py", cwd=tmp_path, expect=2)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--ebc", "{ebc}"], "--ebc and --au together"),
        (["--ebc", "{ebc}", "--au", "{ebc}"], "is a affectnet_plus_ebc"),
        (["--ebc", "{ebc}", "--au", "{au}/fold-0"], "the same folds"),
        (["--ebc", "{release}", "--au", "{au}"], "holds no model"),
        (["--ebc", "{ebc}", "--au", "{balanced}"], "different class frequencies (happy 0.4286 and 0.1250)"),
        (["--model", "{old}", "--prior", "balanced"], "unknown (before priors were recorded)"),
        (["--labels", "{labelled}/models", "--prior", "balanced"], "no label.json"),
        (["--labels", "{labelled}", "--output_dir", "{labelled}"], "the folder of --labels itself"),
        (["--labels", "{labelled}", "--write_release", "new"], "--labels goes with --prior"),
        (["--labels", "{labelled}", "--prior_precision", "0"], "a number of votes above 0, or fit"),
        (["--model", "{labelled}", "--prior_precision", "fit"], "cannot be fitted, as the likelihood of single labels"),
        (["--ebc", "{ebc}", "--au", "{au}", "--splits", "test"], "no split 'test', only train, validation"),
        (["--ebc", "{ebc}", "--au", "{au}", "--image_dir", "{release}"], "--image_dir needs --model"),
        (["--model", "{ebc}/fold-0"], "not a fused model"),
        (["--model", "{labelled}", "--tta"], "--tta is for fusing --ebc and --au"),
        (["--model", "{labelled}", "--label_column_name", "emotion"], "No column 'emotion'"),
        (["--model", "{labelled}", "--label_column_name", "image_id"], "no class names"),
        (["--model", "{half}"], "1 of its folds only"),
        (
            ["--model", "{labelled}", "--dataset_config_name", "human_annotated_all", "--write_release", "new"],
            "not human_annotated_all",
        ),
        (["--ebc", "{ebc}", "--au", "{au}", "--output_dir", "{labelled}"], "labels of other settings (rows_per_file)"),
    ],
)
def test_bad_input_is_one_sentence(flags, says, experts, labelled, release, tmp_path, monkeypatch, capsys):
    paths = {"ebc": experts / "ebc", "au": experts / "au", "release": release, "labelled": labelled, "half": tmp_path}
    (tmp_path / "models").mkdir()
    (tmp_path / "models/fold-0").symlink_to(labelled / "models/fold-0")
    paths["balanced"] = shutil.copytree(experts / "au", tmp_path / "balanced")
    paths["old"] = shutil.copytree(labelled / "models/fold-0", tmp_path / "old")
    for config in paths["balanced"].glob("*/config.json"):
        config.write_text(re.sub('"prior": 0[.][0-9]+', '"prior": 0.125', config.read_text()))
    config = paths["old"] / "config.json"
    config.write_text(re.sub('"prior": 0[.][0-9]+', '"before": 0', config.read_text()))
    flags = [flag.format(**paths) for flag in flags]
    monkeypatch.setattr(
        sys, "argv", ["label.py", "--data_dir", str(release), "--output_dir", str(tmp_path / "soft"), *flags]
    )
    with pytest.raises(SystemExit) as stopped:
        label.main()
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "soft").exists()
