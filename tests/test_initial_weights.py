"""What a network starts from: weights of another one, and its last layer."""

import json
import os

import numpy as np
import pytest
import torch
from runs import SOFT_FER, refused, train, weights
from transformers import AutoModelForImageClassification

from affectnet_plus import EXPRESSIONS
from affectnet_plus.modeling import (
    EBCConfig,
    EBCForImageClassification,
    SoftFerConfig,
    SoftFerForImageClassification,
    create_backbone,
)
from affectnet_plus.training import train_ebc
from affectnet_plus.training.loop.initial_weights import load_weights, read_weights

STANDING_STILL = [*SOFT_FER, "--learning_rate", 1e-12, "--weight_decay", 0, "--max_train_steps", 1]


def test_experts_start_from_it_all_but_the_last_layer(softmax_runs, ferplus, tmp_path):
    still = [*STANDING_STILL, "--dataset_name", ferplus, "--expressions", "fear", "--init_from", softmax_runs / "hard"]
    train(*still, "--backbones", "test_vit", "test_vit", "--output_dir", "ebc", cwd=tmp_path)
    train(*still, "--backbone", "test_vit", "--output_dir", "au", script="train_au.py", cwd=tmp_path)
    start = weights(softmax_runs / "hard")
    for folder, prefixes in (
        ("ebc", ["experts.fear.classifiers.0.", "experts.fear.classifiers.1."]),
        ("au", ["experts.fear.backbone."]),
    ):
        trained = weights(tmp_path / folder)
        for prefix in prefixes:
            for name, value in start.items():
                name = name.removeprefix("backbone.")
                if not name.startswith("head."):
                    np.testing.assert_allclose(trained[prefix + name], value, atol=1e-7)
        record = json.loads((tmp_path / folder / "config.json").read_text())["training"]["fear"]
        assert record["init_from"][0].startswith("hard (sha256 ")
        assert "init_from: ['hard (sha256" in (tmp_path / folder / "README.md").read_text()


def test_with_outputs_for_the_rest_they_start_as_the_classifier_they_come_from(softmax_runs, ferplus, tmp_path):
    still = [*STANDING_STILL, "--dataset_name", ferplus, "--expressions", "fear"]
    still += ["--init_from", softmax_runs / "hard", "--rest_outputs", 7]
    train(*still, "--backbones", "test_vit", "--output_dir", "ebc", cwd=tmp_path)
    train(*still, "--backbone", "test_vit", "--output_dir", "au", script="train_au.py", cwd=tmp_path)
    pixel_values = torch.randn(9, 3, 32, 32)
    with torch.no_grad():
        start, ebc, au = (
            AutoModelForImageClassification.from_pretrained(folder)
            for folder in (softmax_runs / "hard", tmp_path / "ebc", tmp_path / "au")
        )
        log_odds = start(pixel_values).logits[:, EXPRESSIONS.index("fear")]
        # An eighth of the rows shows fear, half of the faces drawn will.
        torch.testing.assert_close(ebc(pixel_values).classifier_logits[:, 0, 0], log_odds + np.log(7))
        torch.testing.assert_close(au.experts["fear"](pixel_values)[:, 0], log_odds + np.log(7))
        assert au(pixel_values).au_logits[0].shape == (9, 7)
    assert au.config.rest_outputs == ebc.config.rest_outputs == 7


@pytest.mark.parametrize(
    ("sampler", "activation", "odds"),
    [("none", "softmax", 30 / 70), ("balanced", "softmax", 1 / 7), ("none", "sigmoid", None)],
)
def test_what_was_drawn_and_taught_decides_how_they_start(sampler, activation, odds, tmp_path):
    record = {"data": "D", "split": "train", "ids": "image_id", "data_config": "easy", "sampler": sampler}
    config = SoftFerConfig(backbone="test_vit", image_size=32, activation=activation, training={"all": record})
    start = SoftFerForImageClassification(config)
    start.save_pretrained(tmp_path)
    ebc = EBCForImageClassification(EBCConfig(backbones=["test_vit"], image_size=32, rest_outputs=7))
    read = read_weights([str(tmp_path)], ebc.config, record)
    labels = np.repeat(range(8), [30, *[10] * 7])
    load_weights(ebc.experts["neutral"], read, ebc.config, "neutral", labels)
    pixel_values = torch.randn(9, 3, 32, 32)
    with torch.no_grad():
        ours = ebc.eval()(pixel_values).classifier_logits[:, 0, 0]
        theirs = start.eval()(pixel_values).logits[:, 0]
    if odds:
        torch.testing.assert_close(ours, theirs - np.log(odds))
    else:  # eight sigmoids are no softmax to start from: its last layer starts at random
        assert (ours - theirs).std() > 1e-3
    with pytest.raises(ValueError, match="rows that fold 0 of 2 leaves out"):  # easy rows are among all rows
        read_weights(
            [str(tmp_path)], ebc.config, record | {"data_config": "default", "num_folds": 2, "left_out_fold": 0}
        )


def test_in_folds_they_start_from_weights_of_the_same_fold(softmax_runs, ferplus, tmp_path, monkeypatch, capsys):
    args = [*SOFT_FER, "--learning_rate", 1e-12, "--weight_decay", 0, "--max_train_steps", 1, "--dataset_name", ferplus]
    args += ["--expressions", "fear", "--backbones", "test_vit", "--num_folds", 2]
    train(*args, "--init_from", softmax_runs / "folds", "--output_dir", "ebc", cwd=tmp_path)
    for fold in ("fold-0", "fold-1"):
        start, trained = weights(softmax_runs / "folds" / fold), weights(tmp_path / "ebc" / fold)
        name = "patch_embed.proj.weight"
        np.testing.assert_allclose(trained[f"experts.fear.classifiers.0.{name}"], start[f"backbone.{name}"], atol=1e-7)
    # Weights of all rows would undo the cross-fitting.
    said = refused(train_ebc, [*args, "--init_from", softmax_runs / "hard"], tmp_path / "none", monkeypatch, capsys)
    assert "hard" in said and "rows that fold 0 of 2 leaves out" in said


def test_files_of_other_trainers_are_read_or_refused_in_a_sentence(tmp_path):
    config = EBCConfig(backbones=["test_vit"], image_size=32)
    record = {"data": "D", "split": "train", "ids": "image_id", "data_config": "easy"}
    backbone = create_backbone("test_vit", 8, 32)
    file = tmp_path / "weights.pt"
    torch.save({"state_dict": torch.nn.DataParallel(backbone).state_dict(), "epoch": 3}, file)
    (read,) = read_weights([str(file)], config, record)
    assert torch.equal(read["state"]["patch_embed.proj.weight"], backbone.state_dict()["patch_embed.proj.weight"])

    def said() -> str:
        with pytest.raises(ValueError) as error:
            read_weights([str(file)], config, record)
        assert str(error.value).startswith(f"--init_from {file} ") and len(str(error.value)) < 250 + len(str(file))
        return str(error.value)

    torch.save(backbone, file)
    assert "whole pickled model" in said() and "torch.save(model.state_dict(), ...)" in said()
    torch.save(Executed(tmp_path / "executed"), file)
    assert "whole pickled model" in said() and not (tmp_path / "executed").exists()
    for no_state in ({"model": backbone.state_dict(), "epoch": 3}, [1, 2], {}):
        torch.save(no_state, file)
        assert "save a model's state_dict()" in said()
    torch.save(backbone.state_dict(), file)
    file.write_bytes(file.read_bytes()[:-2000])
    assert "is damaged" in said()
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"123")
    assert "is damaged" in said()


class Executed:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)
