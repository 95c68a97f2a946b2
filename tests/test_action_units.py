"""AU experts: tables of three tools, prototypes, training, folds."""

import dataclasses
import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from runs import SMALL, assert_same_weights, train, train_until, weights
from transformers import AutoModelForImageClassification, pipeline

from affectnet_plus import EXPRESSIONS
from affectnet_plus.modeling import ACTION_UNITS, PROTOTYPES, AUConfig, AUForImageClassification, multi_head_loss
from affectnet_plus.synthetic.action_units import PROTOTYPES as DRAWN
from affectnet_plus.training import train_au
from affectnet_plus.training.action_units import load_table, prototype_targets
from affectnet_plus.training.arguments import DataArguments
from affectnet_plus.training.faces import load_split

AU = ["--backbone", "test_vit", *SMALL[SMALL.index("--image_size") :]]


@pytest.fixture(scope="module")
def truth(release) -> pd.DataFrame:
    """What a perfect tool would say: units (0 to 5) of each file."""
    table = pd.read_parquet(release / "ground_truth.parquet").dropna()
    units = table.filter(regex=r"^AU\d+$").rename(columns=lambda name: int(name[2:]))
    folder = table["split"].map({"train": "train_set", "validation": "validation_set"})
    units.index = folder + "/images/" + table["image_id"].astype(str) + ".jpg"
    return units


def openface(units: pd.DataFrame) -> pd.DataFrame:
    table = pd.DataFrame({" confidence": 0.98, " success": 1, "input": "C:\\faces\\" + units.index}, units.index)
    for unit in units:
        table[f" AU{unit:02d}_r"], table[f" AU{unit:02d}_c"] = units[unit], (units[unit] >= 1).astype(float)
    return table


def libreface(units: pd.DataFrame) -> pd.DataFrame:
    table = pd.DataFrame({"frame_path": units.index}, units.index)
    for unit in units:
        table[f"au_{unit}_intensity"], table[f"au_{unit}"] = units[unit], (units[unit] >= 1).astype(int)
    return table


def pyfeat(units: pd.DataFrame) -> pd.DataFrame:
    columns = {f"AU{unit:02d}": (units[unit] >= 1).astype(float) for unit in units}
    return pd.DataFrame({"input": units.index, **columns})


@pytest.fixture(scope="module", params=["train", "validation"])
def split(request, release):
    return load_split(DataArguments(data_dir=str(release)), request.param)


@pytest.mark.parametrize("target", ["intensity", "presence"])
@pytest.mark.parametrize("write", [openface, libreface, pyfeat])
def test_tools_are_told_by_their_columns_and_joined_by_split_and_name(write, target, truth, split, tmp_path):
    write(truth).sample(frac=1, random_state=0).to_csv(tmp_path / "table.csv", index=False)
    table = load_table([str(tmp_path / "table.csv")], target, ACTION_UNITS)
    assert f"{len(split)} of {len(split)} rows of {split.name} found." in table.join(split)
    files = [f"{split.name}_set/images/{image_id}.jpg" for image_id in split.ids]
    wanted = truth.loc[files, [6, 12, 25]].to_numpy()
    wanted = wanted / 5 if target == "intensity" and write is not pyfeat else wanted >= 1
    np.testing.assert_allclose(table.targets(split, [6, 12, 25]), wanted, atol=1e-6)
    present = table.targets(split, [6, 12, 25]) >= [table.present_from[unit] for unit in (6, 12, 25)]
    assert (present == (truth.loc[files, [6, 12, 25]] >= 1)).all(axis=None)


def test_probabilities_are_present_from_a_half(truth, split, tmp_path):
    pyfeat(truth).assign(AU12=np.where(truth[12] >= 1, 0.6, 0.4)).to_csv(tmp_path / "table.csv", index=False)
    table = load_table([str(tmp_path / "table.csv")], "intensity", ACTION_UNITS)
    files = [f"{split.name}_set/images/{image_id}.jpg" for image_id in split.ids]
    present = table.targets(split, [12])[:, 0] >= table.present_from[12]
    assert (present == (truth.loc[files, 12] >= 1)).all() and 0 < present.sum() < len(present)


def test_truth_of_a_synthetic_release_is_a_table_too(truth, split, release):
    table = load_table([str(release / "ground_truth.parquet")], "intensity", ACTION_UNITS)
    assert table.source == "a synthetic release's truth"
    assert np.nanmax(table.targets(split, ACTION_UNITS["neutral"])) > 0.8


def test_what_the_table_does_not_know_is_unknown_and_said(truth, release, tmp_path):
    split = load_split(DataArguments(data_dir=str(release)), "validation")
    table = openface(truth).drop(columns=[" AU12_r", " AU12_c"])
    files = [f"validation_set/images/{image_id}.jpg" for image_id in split.ids[:4]]
    table.loc[files[0], " success"] = 0
    second = table.loc[[files[1]]].assign(**{" confidence": 0.5, " AU06_r": 5.0})  # a face in the background
    table = pd.concat([second, table.drop(index=files[2])])
    table.to_parquet(tmp_path / "table.parquet")
    loaded = load_table([str(tmp_path / "table.parquet")], "intensity", ACTION_UNITS)
    said = loaded.join(split)
    assert f"{len(split) - 1} of {len(split)} rows" in said and "1 of them without units" in said
    assert f"1 not found: '{split.names[2]}'" in said
    targets = loaded.targets(split, [6, 12])
    assert np.isnan(targets[:, 1]).all() and np.isnan(targets[[0, 2], 0]).all()
    assert targets[1, 0] == pytest.approx(truth.loc[files[1], 6] / 5)
    assert not np.isnan(targets[3:, 0]).any()


def test_of_several_faces_the_surest_is_taken_and_the_others_are_counted(truth, split, tmp_path):
    table = pyfeat(truth).assign(FaceScore=0.9)
    background = table.head(7).assign(AU12=1 - table["AU12"].head(7), FaceScore=[0.5] * 6 + [np.nan])
    pd.concat([background, table]).to_csv(tmp_path / "table.csv", index=False)
    loaded = load_table([str(tmp_path / "table.csv")], "intensity", ACTION_UNITS)
    assert loaded.notes == [
        "table.csv: 7 rows are of further faces in an image and left out; taken is that of the highest FaceScore."
    ]
    files = [f"{split.name}_set/images/{image_id}.jpg" for image_id in split.ids]
    assert (loaded.targets(split, [12])[:, 0] == (truth.loc[files, 12] >= 1)).all()


def test_a_scale_that_is_not_facs_has_to_be_said(truth, split, tmp_path):
    table = libreface(truth).rename(columns={"frame_path": "input_image_path"})
    table[[f"au_{unit}_intensity" for unit in truth]] /= 5
    table.to_csv(tmp_path / "table.csv", index=False)
    with pytest.raises(ValueError, match=r"none of these is above 1\. Say --au_strongest 1 .*--au_strongest 5"):
        load_table([str(tmp_path / "table.csv")], "intensity", ACTION_UNITS)
    files = [f"{split.name}_set/images/{image_id}.jpg" for image_id in split.ids]
    for strongest in (1, 5):
        loaded = load_table([str(tmp_path / "table.csv")], "intensity", ACTION_UNITS, strongest=strongest)
        np.testing.assert_allclose(loaded.targets(split, [12])[:, 0], truth.loc[files, 12] / 5 / strongest, atol=1e-6)


def test_a_table_for_each_split_is_read_as_one_of_both(truth, release, tmp_path):
    splits = [load_split(DataArguments(data_dir=str(release)), name) for name in ("train", "validation")]
    bare, paths = openface(truth), [str(tmp_path / "train.csv"), str(tmp_path / "validation.csv")]
    bare["input"] = [path.split("/")[-1] for path in truth.index]  # names that the splits share
    for path, split in zip(paths, splits, strict=True):
        of_split = bare[truth.index.str.startswith(split.name)]
        if split.name == "train":
            of_split.to_csv(path, index=False)
        else:
            of_split.to_parquet(path)  # whatever it is called
    table = load_table(paths, "intensity", ACTION_UNITS, ("train", "validation"))
    table.check_names(*splits)
    for split in splits:
        assert f"{len(split)} of {len(split)} rows of {split.name} found." in table.join(split)
        files = [f"{split.name}_set/images/{image_id}.jpg" for image_id in split.ids]
        np.testing.assert_allclose(table.targets(split, [12])[:, 0], truth.loc[files, 12] / 5, atol=1e-6)
    pyfeat(truth).to_csv(paths[1], index=False)
    with pytest.raises(ValueError, match="columns of other units"):
        load_table(paths, "intensity", ACTION_UNITS, ("train", "validation"))
    with pytest.raises(ValueError, match="names 3 tables: give one for all rows, or one for each of train and valid"):
        load_table([*paths, paths[0]], "intensity", ACTION_UNITS, ("train", "validation"))


def test_a_folder_has_a_csv_for_each_image_as_openface_writes_them(truth, split, tmp_path):
    table = openface(truth).drop(columns=["input", " success"])
    table.insert(0, "face", 0)
    for file, row in zip(truth.index, table.index, strict=True):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        table.loc[[row]].to_csv((tmp_path / file).with_suffix(".csv"), index=False)
    first = tmp_path / f"{split.name}_set/images/{split.ids[0]}.csv"
    header, row = first.read_text().splitlines()
    column = header.split(",").index(" AU12_r")
    first.write_text(
        "\n".join([header, ",".join([*row.split(",")[:column], "-nan(ind)", *row.split(",")[column + 1 :]])])
    )
    loaded = load_table([str(tmp_path)], "intensity", ACTION_UNITS)
    assert loaded.notes == [f"{tmp_path.name}: 1 values are no numbers (empty or nan): unknown."]
    assert f"{len(split)} of {len(split)} rows of {split.name} found." in loaded.join(split)
    files = [f"{split.name}_set/images/{image_id}.jpg" for image_id in split.ids]
    targets = loaded.targets(split, [12])[:, 0]
    assert np.isnan(targets[0])
    np.testing.assert_allclose(targets[1:], truth.loc[files[1:], 12] / 5, atol=1e-6)


def test_bare_names_that_two_splits_share_are_refused(truth, release, tmp_path):
    splits = [load_split(DataArguments(data_dir=str(release)), name) for name in ("train", "validation")]
    bare = pyfeat(truth).assign(input=[path.split("/")[-1] for path in truth.index])
    bare.to_csv(tmp_path / "table.csv", index=False)
    with pytest.raises(ValueError, match="add a column 'split'"):
        load_table([str(tmp_path / "table.csv")], "presence", ACTION_UNITS).check_names(*splits)
    bare["split"] = [path.split("_set")[0] for path in truth.index]
    bare.to_csv(tmp_path / "table.csv", index=False)
    table = load_table([str(tmp_path / "table.csv")], "presence", ACTION_UNITS)
    table.check_names(*splits)
    assert "of validation found." in table.join(splits[1])
    # As where each expression has a folder with a file of that name.
    twice = dataclasses.replace(splits[1], names=np.array([*splits[1].names[:-1], splits[1].names[0]]))
    with pytest.raises(ValueError, match=f"several rows have the same: '{splits[1].names[0]}'"):
        table.check_names(splits[0], twice)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.rename(columns={"input": "face"}), ["which image", "'file_name'"]),
        (lambda t: t[["input"]], ["no action units", "AU12_r", "au_12", "'input'"]),
        (lambda t: t.assign(AU06=7.0), ["7.0 as AU06 in row 0", "0 to 1"]),
        (lambda t: t.assign(input=t["input"].str.replace(".jpg", "x.jpg")), ["none of its files"]),
        (lambda t: t.assign(FaceScore="x" * 1000), ["xxx as FaceScore in row 0, not a number"]),
        (lambda t: t.assign(**{"AU06 ": 0.0}), ["2 columns AU06, spaces aside: keep one"]),
        (lambda t: t.rename(columns={"AU12": "AU06"}), ["2 columns AU06"]),
        (
            lambda t: pd.concat([t[["input"]], *(t["AU12"].rename(f"AU0{n}_r") for n in range(1, 9))], axis=1),
            [
                "AU03 or AU08, which no tool detects: perhaps OpenFace 3",
                "suggests AU01_c, AU02_c, AU04_c, AU06_c, AU09_c, AU12_c, AU25_c, AU26_c, other sources differ",
                "Name the columns",
            ],
        ),
        (lambda t: t[["input"]].assign(AU45=1.0), ["none of the experts' action units"]),
        (None, ["cannot be read", "no_such.csv"]),
    ],
)
def test_bad_table_is_one_sentence(change, says, truth, release, tmp_path, monkeypatch, capsys):
    path = tmp_path / ("table.csv" if change else "no_such.csv")
    if change:
        change(pyfeat(truth).reset_index(drop=True)).to_csv(path, index=False)
    flags = [*AU, "--data_dir", str(release), "--au_labels", str(path), "--output_dir", str(tmp_path / "au")]
    monkeypatch.setattr(sys, "argv", ["train_au.py", *flags])
    with pytest.raises(SystemExit) as stopped:
        train_au.main()
    assert stopped.value.code == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train_au.py: error: ")]
    assert all(part in said for part in says) and len(said) < 300 + len(str(tmp_path))
    assert not (tmp_path / "au").exists()


def test_prototypes_are_those_that_faces_are_drawn_from():
    assert {name: set(units) for name, units in PROTOTYPES.items()} == {n: set(units) for n, units in DRAWN.items()}
    targets = prototype_targets(np.array([EXPRESSIONS.index("fear"), EXPRESSIONS.index("neutral")]), [1, 12, 26])
    assert targets.tolist() == [[1, 0, 1], [0, 0, 0]]


def test_default_is_the_papers_network_with_a_head_for_each_unit():
    assert AUConfig().backbone == "resnet50"
    with torch.device("meta"):
        output = AUForImageClassification(AUConfig(backbone="test_resnet"))(torch.zeros(2, 3, 224, 224))
    assert output.logits.shape == (2, 8)
    assert [logits.shape[1] for logits in output.au_logits] == [16, 3, 4, 5, 7, 4, 4, 2]


def test_loss_skips_what_is_unknown():
    log_odds, targets = torch.randn(4, 3), torch.rand(4, 3)
    targets[1, 2] = targets[3, 1] = float("nan")
    known = torch.nn.functional.binary_cross_entropy_with_logits(log_odds, targets.nan_to_num(), reduction="none")
    of_units = (known[:, 1:].sum() - known[1, 2] - known[3, 1]) / 6
    torch.testing.assert_close(multi_head_loss(log_odds, targets, 0.5), known[:, 0].mean() + 0.5 * of_units)
    assert multi_head_loss(log_odds, targets * float("nan"), 1.0).isfinite()


def test_experts_learn_expression_and_units_and_make_a_complete_model(ferplus, tmp_path):
    args = [*AU, "--backbone", "test_efficientnet", "--dataset_name", ferplus]
    args += ["--expressions", "happy", "fear", "--eval_strategy", "no"]
    args += ["--num_train_epochs", 50, "--learning_rate", 4e-3, "--output_dir", "au"]
    train(*args, script="train_au.py", cwd=tmp_path)
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "au")
    assert isinstance(model, AUForImageClassification) and model.config.expressions == ["happy", "fear"]
    record = model.config.training["happy"]
    assert record["auroc"] > 0.9 and record["au_labels"] == "EMFACS prototypes"
    assert record["au_auroc"]["AU12"] > 0.8  # happy and contempt share it
    assert json.loads((tmp_path / "au/metrics.json").read_text())["auroc"]["happy"] == pytest.approx(record["auroc"])
    assert "AU-based classifier" in (tmp_path / "au/README.md").read_text()
    answer = pipeline("soft-fer", faces="crop", model=str(tmp_path / "au"))(
        np.full((24, 24), 50, np.uint8)
    )  # happiness is the second
    assert answer["label"] == "happy"
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "au")
    pixel_values = torch.randn(2, 3, 32, 32)
    model.save_pretrained(tmp_path / "again")
    assert_same_weights(tmp_path / "au", tmp_path / "again")
    with torch.no_grad():
        assert torch.equal(loaded(pixel_values).logits, model(pixel_values).logits)
    said = train(*args, cwd=tmp_path, script="train_ebc.py", expect=2)
    assert "--backbone" in said or "model_type" in said  # an EBC does not go into this folder


def test_folds_leave_each_row_out_once_and_may_be_dealt_to_ranks(ferplus, tmp_path):
    split = load_split(DataArguments(dataset_name=str(ferplus)), "train")
    folds = split.folds(3)
    assert set(folds) == {0, 1, 2} and (folds == split.folds(3)).all()
    assert (split.select(np.arange(40, 80)).folds(3) == folds[40:80]).all()  # a row's fold is its own

    args = [*AU, "--dataset_name", ferplus, "--expressions", "sad", "--max_train_steps", 3, "--num_folds", 3]
    train(*args, "--output_dir", "one", script="train_au.py", cwd=tmp_path)
    train(*args, "--output_dir", "two", "--fold_per_rank", script="train_au.py", cwd=tmp_path, processes=2)
    for fold in range(3):
        assert_same_weights(tmp_path / f"one/fold-{fold}", tmp_path / f"two/fold-{fold}")
        record = AUConfig.from_pretrained(tmp_path / f"one/fold-{fold}").training["sad"]
        assert (record["num_folds"], record["left_out_fold"]) == (3, fold)
        assert record["rows"] == (folds != fold).sum() and record["faces_per_step"] == 16
    # What is finished is not trained again.
    said = train(*args, "--output_dir", "one", "--resume_from_checkpoint", "latest", script="train_au.py", cwd=tmp_path)
    assert "sad: AUROC" not in said
    flags = ["--output_dir", "three", "--fold", 1, "--fold_per_rank"]  # nothing is left for the second process
    train(*args, *flags, script="train_au.py", cwd=tmp_path, processes=2)
    assert [folder.name for folder in (tmp_path / "three").iterdir()] == ["fold-1"]
    assert_same_weights(tmp_path / "three/fold-1", tmp_path / "one/fold-1")
    assert weights(tmp_path / "one/fold-0").keys() == weights(tmp_path / "one/fold-1").keys()


def test_killed_in_the_second_fold_it_goes_on_to_the_very_same_weights(ferplus, tmp_path):
    args = [*AU, "--dataset_name", ferplus, "--expressions", "sad", "fear", "--max_train_steps", 12, "--num_folds", 2]
    train(*args, "--output_dir", "unbroken", script="train_au.py", cwd=tmp_path)
    args += ["--output_dir", "killed", "--checkpointing_steps", 3, "--resume_from_checkpoint", "latest"]
    # Expressions come in AffectNet's order: fear is still to be trained.
    first = tmp_path / "killed/fold-1/checkpoint-sad-3"
    train_until(first.exists, *args, script="train_au.py", cwd=tmp_path)
    assert list((tmp_path / "killed/fold-1").glob("checkpoint-sad-*")), "killed too late"
    train(*args, script="train_au.py", cwd=tmp_path)
    for fold in range(2):
        assert_same_weights(tmp_path / f"killed/fold-{fold}", tmp_path / f"unbroken/fold-{fold}")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--fold", "1"], "--num_folds"),
        (["--num_folds", "1"], "at least 2"),
        (["--num_folds", "3", "--fold", "3"], "from 0 to 2"),
        (["--num_folds", "3", "--push_to_hub"], "--push_to_hub"),
        (["--num_folds", "3", "--resume_from_checkpoint", "checkpoint-sad-5"], "name that one by --fold"),
        (["--au_loss_weight", "-1"], "--au_loss_weight"),
    ],
)
def test_bad_flags_are_one_sentence(flags, says, ferplus, tmp_path, monkeypatch, capsys):
    flags = [*AU, "--dataset_name", str(ferplus), "--output_dir", str(tmp_path / "au"), *flags]
    monkeypatch.setattr(sys, "argv", ["train_au.py", *flags])
    with pytest.raises(SystemExit) as stopped:
        train_au.main()
    assert stopped.value.code == 2 and says in capsys.readouterr().err
