"""Training on several datasets at once: matched by name; what one does not know counts for nothing there."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from runs import SOFT_FER, refused, train
from transformers import AutoConfig

from affectnet_plus import EXPRESSIONS, LABEL_ORDERS
from affectnet_plus.modeling import SoftFerConfig
from affectnet_plus.training import evaluate_model, experts, label, train_ebc, train_soft_fer
from affectnet_plus.training.arguments import TrainingDataArguments
from affectnet_plus.training.experts.warm_start import softmax_loss
from affectnet_plus.training.faces import load_splits
from affectnet_plus.training.soft_labels.calibration import class_frequencies

CONTEMPT = EXPRESSIONS.index("contempt")
EXPERTS = ["--image_size", 32, "--per_device_train_batch_size", 16, "--dataloader_num_workers", 0, "--seed", 3]
EXPERTS += ["--max_train_steps", 3, "--eval_strategy", "no", "--warm_start_epochs", 1]


@pytest.fixture(scope="module")
def raf(tmp_path_factory):
    """Folders of grey faces with the seven names of RAF-DB."""
    folder, rng = tmp_path_factory.mktemp("data") / "raf", np.random.default_rng(1)
    for split, number in (("train", 12), ("validation", 4)):
        for level, name in enumerate(LABEL_ORDERS["raf-db"]):
            (folder / split / name).mkdir(parents=True)
            for i in range(number):
                face = Image.fromarray(rng.normal(30 * level + 20, 6, (24, 24)).astype(np.uint8))
                face.save(folder / split / name / f"{split}_{name}_{i}.png")
    return folder


def test_rows_of_all_are_told_apart_and_unknown_where_one_has_no_class(ferplus, raf, release):
    args = TrainingDataArguments(data_dir=str(release), dataset_name=[str(ferplus), str(raf)])
    train_rows, evaluation = load_splits(args, with_soft_labels=True)
    drawn, measured = (len(split) for split in load_splits(TrainingDataArguments(data_dir=str(release))))
    number = drawn + 160 + 84
    assert train_rows.rows_by_dataset() == {"synthetic AffectNet+": drawn, "ferplus": 160, "raf": 84}
    assert evaluation.rows_by_dataset() == {"synthetic AffectNet+": measured, "ferplus": 80, "raf": 28}
    assert args.name() == "synthetic AffectNet+ + ferplus + raf" and len(set(train_rows.ids)) == number
    of_raf = train_rows.datasets == "raf"
    assert (train_rows.known.all(axis=1) == ~of_raf).all() and not train_rows.known[of_raf, CONTEMPT].any()
    assert np.isnan(train_rows.soft_labels[of_raf]).all() and not np.isnan(train_rows.soft_labels[~of_raf]).any()
    assert train_rows.image(number - 1).size == (24, 24) and train_rows.image(0).size == (64, 64)
    affect = train_rows.affect()
    assert np.isnan(affect[of_raf]).all() and not np.isnan(affect[: drawn + 160, 0]).any()
    assert train_rows.metadata["age"][of_raf.argmax()] is None and train_rows.metadata["age"][0] is not None

    groups = experts.expression_and_others(train_rows, "contempt")["groups"]
    assert not of_raf[groups[1]].any() and sum(map(len, groups)) == drawn + 160
    assert sum(map(len, experts.expression_and_others(train_rows, "happy")["groups"])) == number
    share = class_frequencies(train_rows.labels, train_rows.known)[CONTEMPT]
    assert share == pytest.approx((train_rows.labels == CONTEMPT).sum() / (drawn + 160))


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_what_is_unknown_of_a_face_moves_no_output(activation):
    outputs = torch.randn(4, 8, requires_grad=True)
    targets = torch.eye(8)[:4]
    targets[:2, CONTEMPT] = torch.nan
    loss = train_soft_fer.soft_fer_targets_loss(outputs, targets, SoftFerConfig(activation=activation), 1.0)
    loss.backward()
    assert (outputs.grad[:2, CONTEMPT] == 0).all() and (outputs.grad[2:, CONTEMPT] != 0).all()
    assert (outputs.grad[:, :7] != 0).all()
    if activation == "softmax":
        seven = torch.nn.functional.cross_entropy(outputs[:2, :7], targets[:2, :7], reduction="sum")
        eight = torch.nn.functional.cross_entropy(outputs[2:], targets[2:], reduction="sum")
        torch.testing.assert_close(loss, (seven + eight) / 4)
        known = torch.cat([torch.arange(4.0)[:, None], (~targets.isnan()).float()], dim=1)
        torch.testing.assert_close(softmax_loss(outputs, known), loss)


def test_experts_and_networks_are_trained_on_both_and_say_so(ferplus, raf, tmp_path):
    data = ["--dataset_name", ferplus, raf]
    ebc = [*EXPERTS, *data, "--backbones", "test_vit3", "--expressions", "happy", "contempt", "--num_folds", 2]
    train(*ebc, "--output_dir", "ebc", cwd=tmp_path)
    records = AutoConfig.from_pretrained(tmp_path / "ebc/fold-0").training
    for record in records.values():
        assert record["data"] == "ferplus + raf" and sum(record["rows_by_dataset"].values()) == record["rows"]
        assert record["evaluation_rows_by_dataset"] == {"ferplus": 80, "raf": 28}
    model = [*SOFT_FER, *data, "--backbone", "test_vit", "--target", "distribution", "--max_train_steps", 3]
    said = train(*model, "--output_dir", "student", script="train_soft_fer.py", cwd=tmp_path)
    assert "84 rows of train have no soft label: their human label is learned in its place" in said
    config = AutoConfig.from_pretrained(tmp_path / "student")
    assert config.expressions == list(EXPRESSIONS)
    assert config.training["all"]["rows_by_dataset"] == {"ferplus": 160, "raf": 84}
    card = (tmp_path / "student/README.md").read_text()
    assert "- ferplus\n- raf\n" in card and "rows_by_dataset: {'ferplus': 160, 'raf': 84}" in card
    assert json.loads((tmp_path / "student/metrics.json").read_text())["rows"] == 108


def test_au_experts_are_trained_on_both_with_and_without_a_table(ferplus, raf, tmp_path):
    args = [*EXPERTS, "--warm_start_epochs", 0, "--backbone", "test_resnet", "--dataset_name", ferplus, raf]
    run = partial(train, *args, script="train_au.py", cwd=tmp_path)
    run("--expressions", "happy", "contempt", "--output_dir", "au")
    records = AutoConfig.from_pretrained(tmp_path / "au").training
    assert {record["au_labels"] for record in records.values()} == {"EMFACS prototypes"}
    assert all(0 <= auroc <= 1 for record in records.values() for auroc in record["au_auroc"].values())
    for record in records.values():
        assert record["rows_by_dataset"] == {"ferplus": 160, "raf": 84} and record["data"] == "ferplus + raf"

    rows = [("train", str(i)) for i in range(160)] + [("validation", str(i)) for i in range(80)]
    rows += [("train", f"train_{name}_{i}.png") for name in LABEL_ORDERS["raf-db"] for i in range(12)]
    table = [f"{split},{file},{i % 2},{i % 3 // 2}" for i, (split, file) in enumerate(rows)]
    (tmp_path / "units.csv").write_text("\n".join(["split,file_name,AU06,AU12", *table]))
    said = run("--expressions", "happy", "--output_dir", "table", "--au_labels", "units.csv")
    assert "244 of 244 rows of train found" in said and "80 of 108 rows of validation found; 28 not found" in said
    record = AutoConfig.from_pretrained(tmp_path / "table").training["happy"]
    assert record["au_labels"] == "units.csv (py-feat)" and record["rows_by_dataset"] == {"ferplus": 160, "raf": 84}
    assert record["au_auroc"].keys() == {"AU6", "AU12", "AU25"} and record["au_auroc"]["AU25"] is None


@pytest.mark.parametrize(
    ("script", "flags", "says"),
    [
        (train_ebc, ["--label_column_name", "emotion"], "ferplus: No column 'emotion' in train"),
        (train_ebc, ["--dataset_config_name", "default"], "--dataset_config_name is of one dataset"),
        (train_ebc, ["--dataset_name", "again"], "--dataset_name is given twice: give it once, with the names of all"),
        (train_soft_fer, ["--soft_labels", "soft"], "--soft_labels and --by_subset are of one dataset"),
        (evaluate_model, [], "--dataset_name takes one value here, and RAF is one more: run this once for each"),
        (label, ["--model", "m"], "--dataset_name takes one value here, and RAF is one more: run this once for each"),
    ],
)
def test_what_is_of_one_dataset_is_refused(script, flags, says, ferplus, raf, tmp_path, monkeypatch, capsys):
    said = refused(script, ["--dataset_name", ferplus, raf, *flags], tmp_path / "m", monkeypatch, capsys)
    assert says.replace("RAF", str(raf)) in said and len(said) < 300
