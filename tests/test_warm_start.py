"""What an epoch of an expert is, which epoch is kept, and the start that all experts share."""

import re
import sys

import numpy as np
import pytest
from runs import assert_same_weights, train, train_until, weights
from transformers import AutoModelForImageClassification

from affectnet_plus import EXPRESSIONS
from affectnet_plus.modeling import AUConfig, EBCConfig
from affectnet_plus.training import train_ebc
from affectnet_plus.training.arguments import RECIPES, ExpertArguments, OptimizationArguments
from affectnet_plus.training.faces import PermutationSampler
from affectnet_plus.training.loop.initial_weights import read_weights

PLAIN = ["--image_size", 32, "--per_device_train_batch_size", 16, "--dataloader_num_workers", 0, "--seed", 3]
EBC = ["--backbones", "test_resnet", "test_vit3", "--warm_start_epochs", 3]


@pytest.fixture(scope="module")
def warm(ferplus, tmp_path_factory):
    """Two experts by two commands for one folder, and what each said."""
    cwd = tmp_path_factory.mktemp("warm")
    args = [*PLAIN, *EBC, "--dataset_name", ferplus, "--num_train_epochs", 3]
    said = [train(*args, "--expressions", name, "--output_dir", "ebc", cwd=cwd) for name in ("happy", "contempt")]
    return cwd / "ebc", args, said


def test_an_epoch_is_each_row_of_the_expression_once_and_as_many_others(warm):
    folder, _, _ = warm
    for record in EBCConfig.from_pretrained(folder).training.values():
        assert record["rows_of_expression"] == 20
        assert record["steps"] == 3 * round(2 * 20 / 16)  # three epochs, whatever the 160 rows are
        assert record["sampler"]["draws"] == record["steps"] * 16
    own, others = np.arange(20), np.arange(20, 160)
    epoch = [row for row, _ in PermutationSampler([own, others], seed=1, num_draws=40)]
    assert sorted(row for row in epoch if row < 20) == own.tolist()
    assert len({row for row in epoch if row >= 20}) == 20


def test_the_best_epoch_is_kept(warm):
    folder, _, said = warm
    for name, lines in zip(("happy", "contempt"), said, strict=True):
        record = EBCConfig.from_pretrained(folder).training[name]
        measured = [float(auroc) for auroc in re.findall(rf"{name}: epoch \d, auroc ([\d.]+)", lines)]
        assert len(measured) == 2  # after the last epoch it is measured anyway
        assert record["metric_for_best_model"] == "auroc" and record["auroc"] >= max(measured) - 5e-3
        best = int(np.argmax(measured)) + 1
        assert record["sampler"].get("best_step") in (None, best * record["steps"] // 3)


def test_all_experts_go_on_from_one_start_last_layer_included(warm, tmp_path):
    folder, args, said = warm
    assert "warm_start: epoch" in said[0] and "warm_start: epoch" not in said[1]
    made = sorted((folder / "warm_start").iterdir())
    assert [path.name for path in made] == ["0-test_resnet", "1-test_vit3"]
    for path in made:
        config = AutoModelForImageClassification.from_pretrained(path).config
        assert config.activation == "softmax" and config.training["all"]["num_train_epochs"] == 3
        assert 0 <= config.training["all"]["accuracy"] <= 1 and config.training["all"]["faces_per_step"] == 16
    assert EBCConfig.from_pretrained(folder).rest_outputs == 7
    # A learning rate of nothing leaves the start as it is.
    still = [*args, "--expressions", "happy", "--learning_rate", 1e-12, "--weight_decay", 0, "--max_train_steps", 1]
    train(*still, "--init_from", folder, "--warm_start_epochs", 0, "--output_dir", "still", cwd=tmp_path)
    ours, start = weights(tmp_path / "still"), weights(made[0])
    prefix, last = "experts.happy.classifiers.0.", start.pop("backbone.fc.weight")
    np.testing.assert_allclose(ours[f"{prefix}fc.weight"][0], last[EXPRESSIONS.index("happy")], atol=1e-6)
    for name in (name for name in start if "conv" in name and name.endswith("weight")):
        np.testing.assert_allclose(ours[name.replace("backbone.", prefix)], start[name], atol=1e-6)


def test_what_one_folder_holds_has_one_start_and_one_prior(warm, monkeypatch, capsys):
    folder, args, _ = warm

    def refused(*flags) -> str:
        words = ["train_ebc.py", *args, "--output_dir", folder, "--expressions", "sad", *flags]
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        with pytest.raises(SystemExit):
            train_ebc.main()
        return capsys.readouterr().err

    said = refused("--warm_start_epochs", 5)
    assert "warm_start comes from a run with other settings: num_train_epochs (was 3.0, now 5.0)" in said
    said = refused("--prior", "balanced")
    assert 'holds other experts with --prior "train", this run has "balanced": one model has one prior' in said


def test_au_experts_can_go_on_from_the_start_of_an_ebc(warm, ferplus, tmp_path):
    folder, _, _ = warm
    args = [*PLAIN, "--dataset_name", ferplus, "--init_from", folder, "--output_dir", "au", "--num_train_epochs", 1]
    args += ["--eval_strategy", "no"]
    train(*args, "--backbone", "test_vit3", "--expressions", "happy", script="train_au.py", cwd=tmp_path)
    config = AUConfig.from_pretrained(tmp_path / "au")
    assert config.rest_outputs == 7 and not (tmp_path / "au/warm_start").exists()
    assert config.training["happy"]["init_from"][0].startswith("1-test_vit3 (sha256")
    assert config.training["happy"]["metric_for_best_model"] == "last"  # nothing was measured to choose by
    with pytest.raises(ValueError, match="no warm start of test_vit, only of test_resnet, test_vit3"):
        read_weights([str(folder)], AUConfig(backbone="test_vit", image_size=32), {})
    config = AUConfig(backbone="test_vit3", image_size=32)
    with pytest.raises(ValueError, match="holds experts without a warm start: name the folder that they started from"):
        read_weights([str(tmp_path / "au")], config, {})


def test_a_warm_start_that_was_killed_is_gone_on_with_or_refused(warm, ferplus, tmp_path):
    folder, args, _ = warm
    args = [*args, "--expressions", "happy", "--output_dir", "ebc", "--checkpointing_steps", 10]
    train_until((tmp_path / "ebc/checkpoint-warm_start-10").exists, *args, cwd=tmp_path)
    assert not list((tmp_path / "ebc").glob("warm_start/*/config.json")), "killed too late"
    said = train(*args, cwd=tmp_path, expect=2)
    assert "checkpoint-warm_start-" in said and "--resume_from_checkpoint latest" in said
    train(*args, "--resume_from_checkpoint", "latest", cwd=tmp_path)
    for name in ("0-test_resnet", "1-test_vit3"):
        assert_same_weights(tmp_path / "ebc/warm_start" / name, folder / "warm_start" / name)


@pytest.mark.parametrize("start", ["scratch", "pretrained"])
def test_recipes_stand_where_nothing_is_named(start):
    pretrained = start == "pretrained"
    experts = ExpertArguments(pretrained=pretrained)
    of_start = RECIPES["warm start"][start]
    assert experts.warm_start_epochs == of_start["num_train_epochs"]
    assert experts.warm_start_learning_rate == of_start["learning_rate"]
    args = OptimizationArguments(output_dir="x").with_recipe("experts", pretrained)
    assert {name: getattr(args, name) for name in ("num_train_epochs", "learning_rate")} == RECIPES["experts"][start]
    assert OptimizationArguments(output_dir="x", learning_rate=0.5).with_recipe("experts", True).learning_rate == 0.5
