"""--share_backbones: one network per backbone with the heads of all expressions, trained as each alone would be."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from runs import assert_same_weights, refused, train, train_until, weights
from small_models import model_of
from transformers import AutoModelForImageClassification, pipeline

from affectnet_plus import EXPRESSIONS
from affectnet_plus.modeling import AUConfig, EBCConfig, multi_head_loss
from affectnet_plus.training import train_ebc
from affectnet_plus.training.experts import expression_and_others
from affectnet_plus.training.experts.shared import rows_by_class, shared_loss, weighted_targets
from affectnet_plus.training.faces import PermutationSampler, Split

COMMON = ["--share_backbones", "--image_size", 32, "--per_device_train_batch_size", 16, "--seed", 3]
COMMON += ["--dataloader_num_workers", 0]
EBC = [*COMMON, "--backbones", "test_vit3", "test_resnet", "--warm_start_epochs", 1, "--output_dir", "ebc"]
NAMES = ["happy", "sad", "contempt"]


@pytest.fixture(scope="module")
def runs(ferplus, tmp_path_factory):
    """A folder with an EBC, AU experts that go on from its start, and both fused."""
    folder, data = tmp_path_factory.mktemp("shared"), ["--dataset_name", ferplus]
    said = train(*EBC, *data, "--num_train_epochs", 2, cwd=folder)
    assert "all: epoch 1, auroc 0." in said and "contempt: AUROC " in said
    au = [*COMMON, *data, "--backbone", "test_resnet", "--init_from", "ebc", "--max_train_steps", 4]
    train(*au, "--output_dir", "au", script="train_au.py", cwd=folder)
    train("--ebc", "ebc", "--au", "au", *data, "--output_dir", "soft", script="label.py", cwd=folder)
    return folder


def unbalanced() -> tuple[Split, list[np.ndarray]]:
    """Rows of three expressions, 7, 2 and 3, of which one does not know whether it is sad; and their units."""
    indices = [EXPRESSIONS.index(name) for name in NAMES]
    labels, rng = np.repeat(indices, [7, 2, 3]), np.random.default_rng(0)
    known = np.ones((12, len(EXPRESSIONS)), dtype=bool)
    known[0, EXPRESSIONS.index("sad")] = False
    units = [rng.random((12, number)) for number in (2, 0, 3)]
    units[0][3, 1] = units[2][5] = np.nan
    nothing = np.zeros(12)
    return Split("train", None, labels, None, nothing, nothing, "row", known=known), units


def test_each_head_learns_what_its_expression_s_own_sampler_would_show_it():
    split, units = unbalanced()
    rng, ends = np.random.default_rng(1), np.cumsum([3, 2, 0, 3])
    log_odds = torch.from_numpy(rng.normal(size=(12, 8)))
    targets = torch.from_numpy(weighted_targets(split, NAMES, units, au_loss_weight=0.7))
    drawn = rows_of(PermutationSampler(rows_by_class(split), 0, num_draws=3 * 42))  # 42 of each class: all alike
    for i, name in enumerate(NAMES):
        heads = [i, *range(ends[i], ends[i + 1])]
        of_heads = targets[:, [*heads, *(8 + head for head in heads)]]
        shared = shared_loss(log_odds[drawn][:, heads, None], of_heads[drawn], expressions=1)
        own = expression_and_others(split, name)["groups"]
        seen = rows_of(PermutationSampler(own, 0, num_draws=2 * len(own[0]) * len(own[1])))
        alone = np.column_stack([split.labels == EXPRESSIONS.index(name), units[i]])
        alone = multi_head_loss(log_odds[seen][:, heads], torch.from_numpy(alone)[seen], au_loss_weight=0.7)
        torch.testing.assert_close(shared, alone, atol=1e-6, rtol=0)


def rows_of(sampler: PermutationSampler) -> list[int]:
    return [row for row, _ in sampler]


def test_folder_is_a_complete_model(runs, ferplus):
    config = EBCConfig.from_pretrained(runs / "ebc")
    assert config.shared_backbones and config.expressions == list(EXPRESSIONS) and config.rest_outputs == 7
    assert {name.split(".")[0] for name in weights(runs / "ebc")} == {"trunks"}
    steps = 2 * 160 // 16  # an epoch is a draw per row
    metrics = json.loads((runs / "ebc/metrics.json").read_text())
    for name in EXPRESSIONS:
        record = config.training[name]
        assert record["steps"] == steps and record["sampler"]["draws"] == steps * 16
        assert metrics["auroc"][name] == pytest.approx(record["auroc"], abs=1e-4)
        assert sum(config.calibration[name]["backbone_weights"]) == pytest.approx(1)
    for kind in ("ebc", "au", "soft/model"):
        assert "the paper trains" in (card := (runs / kind / "README.md").read_text()) or "own as well" in card
    record = AUConfig.from_pretrained(runs / "au").training["happy"]
    assert record["au_auroc"].keys() == {"AU6", "AU12", "AU25"} and record["init_from"][0].startswith("1-test_resnet")


def test_experts_are_fused_and_label_faces(runs, ferplus):
    table = pq.read_table(next((runs / "soft").glob("validation-*.parquet")))
    labels = np.array(table["soft_label"].to_pylist())
    assert labels.shape == (80, 8) and np.isfinite(labels).all()
    grey = np.full((24, 24), 90, np.uint8)
    for kind in ("ebc", "au", "soft/model"):
        answer = pipeline("soft-fer", faces="crop", model=str(runs / kind))(grey)
        assert list(answer["soft_label"]) == list(EXPRESSIONS)


def test_every_head_starts_as_the_classifier_it_comes_from(runs, ferplus, tmp_path):
    still = [*EBC, "--dataset_name", ferplus, "--init_from", runs / "ebc", "--warm_start_epochs", 0]
    train(*still, "--learning_rate", 1e-12, "--weight_decay", 0, "--max_train_steps", 1, cwd=tmp_path)
    pixel_values = torch.randn(5, 3, 32, 32)
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "ebc").eval()
    with torch.no_grad():
        ours = model(pixel_values).classifier_logits[..., 0]  # of the backbone without batch norm: one step moves that
        start = AutoModelForImageClassification.from_pretrained(runs / "ebc/warm_start/0-test_vit3").eval()
        # An eighth of the rows shows each expression, half of what counts for its head does.
        torch.testing.assert_close(ours, start(pixel_values).logits + np.log(7), atol=1e-4, rtol=0)


def test_killed_it_goes_on_to_the_same_weights_and_finished_it_stays(runs, ferplus, tmp_path, monkeypatch, capsys):
    args = [*EBC, "--dataset_name", ferplus, "--num_train_epochs", 2, "--checkpointing_steps", 3]
    train_until((tmp_path / "ebc/checkpoint-all-3").exists, *args, cwd=tmp_path)
    assert not (tmp_path / "ebc/config.json").exists(), "killed too late"
    said = train(*args, cwd=tmp_path, expect=2)
    assert "checkpoint-all-" in said and "--resume_from_checkpoint latest" in said
    train(*args, "--resume_from_checkpoint", "latest", cwd=tmp_path)
    assert_same_weights(tmp_path / "ebc", runs / "ebc")
    assert "all: " not in train(*args, "--resume_from_checkpoint", "latest", cwd=tmp_path)
    said = train(*args, cwd=tmp_path, expect=2)
    assert "holds a finished model. Name another --output_dir" in said
    alone = [flag for flag in args if flag != "--share_backbones"]
    said = train(*alone, cwd=tmp_path, expect=2)
    assert "holds a model with shared_backbones True, this run has False" in said


def test_some_expressions_cannot_be_trained_alone(ferplus, tmp_path, monkeypatch, capsys):
    args = [*EBC[:-2], "--dataset_name", ferplus, "--expressions", "happy", "sad"]
    said = refused(train_ebc, args, tmp_path, monkeypatch, capsys)
    assert "--share_backbones trains the heads of all expressions together" in said and "leave one" in said


def test_shared_and_other_experts_are_fused_and_saved(tmp_path):
    shared = model_of("ebc", "test_vit", shared_backbones=True, rest_outputs=7)
    model = model_of("fused", "test_vit", ebc=shared.config.to_dict()).eval()
    model.save_pretrained(tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    pixel_values = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(pixel_values).logits, model(pixel_values).logits)
    shared.save_pretrained(tmp_path / "shared")
    of_three = AutoModelForImageClassification.from_pretrained(
        tmp_path / "shared", num_labels=3, ignore_mismatched_sizes=True
    )
    assert of_three(pixel_values).classifier_logits.shape == (3, 3, 1)
    assert not of_three.config.calibration and not of_three.config.training  # fitted on heads that are lost
