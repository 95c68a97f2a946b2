"""Our models in the training and export code of people who know transformers and not us."""

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from small_models import KINDS, model_of
from transformers import AutoModelForImageClassification, Trainer, TrainingArguments, pipeline

from affectnet_plus import EXPRESSIONS
from affectnet_plus.modeling import (
    ACTION_UNITS,
    SoftFerConfig,
)


def trained(model, folder, images, labels, **settings) -> Trainer:
    """By the stock Trainer, on the CPU."""
    rows = [{"pixel_values": image, "labels": label} for image, label in zip(images, labels, strict=True)]
    settings = {"max_steps": 2, "learning_rate": 1e-2, "logging_steps": 1, "optim": "sgd"} | settings
    args = TrainingArguments(folder, report_to="none", use_cpu=True, save_strategy="no", **settings)
    trainer = Trainer(model, args, train_dataset=rows)
    trainer.train()
    return trainer


def logged(trainer: Trainer, key: str) -> list[float]:
    return [entry[key] for entry in trainer.state.log_history if key in entry]


@pytest.mark.parametrize(
    ("kind", "num_labels"), [("ebc", 3), ("au", 7), ("fused", 3), ("soft_fer", 3), ("soft_fer", 7)]
)
def test_with_other_classes_weights_are_new_where_they_have_to_be(kind, num_labels, tmp_path):
    model_of(kind).save_pretrained(tmp_path / "ours")
    saved = load_file(tmp_path / "ours/model.safetensors")
    torch.manual_seed(7)
    model = AutoModelForImageClassification.from_pretrained(
        tmp_path / "ours", num_labels=num_labels, ignore_mismatched_sizes=True
    )
    torch.manual_seed(7)
    fresh = type(model)(model.config).state_dict()  # as timm initialises
    for name, weight in model.state_dict().items():
        expected = saved[name] if name in saved and saved[name].shape == weight.shape else fresh[name]
        assert torch.equal(weight, expected), name
    labels = [f"LABEL_{i}" for i in range(num_labels)]
    assert model.config.expressions == labels and model.config.label2id["LABEL_2"] == 2
    assert not model.config.evaluation and not model.config.calibration and not model.config.training
    if kind == "fused":
        assert model.config.ebc.expressions == model.config.au.expressions == labels and not model.config.ebc_weights
        assert not model.config.ebc.calibration and not model.config.au.calibration
    # What everybody does next: train on class indices, save, use.
    indices = torch.arange(8) % num_labels
    trainer = trained(model, tmp_path, torch.randn(8, 3, 32, 32), indices, max_steps=1)
    assert np.isfinite(logged(trainer, "loss")).all() and logged(trainer, "loss")[0] > 0
    trainer.save_model(tmp_path / "theirs")
    answer = pipeline("soft-fer", faces="crop", model=str(tmp_path / "theirs"))(np.zeros((32, 32, 3), np.uint8))
    assert list(answer["soft_label"]) == labels
    assert "accuracy" not in (tmp_path / "theirs/README.md").read_text()


@pytest.mark.parametrize(
    ("backbone", "size"),
    [
        ("test_resnet", 32),
        ("test_efficientnet", 32),
        ("test_convnext", 32),
        ("test_nfnet", 32),
        ("test_mambaout", 32),
        ("legacy_xception", 64),
        ("levit_128s", 64),
    ],
)
def test_every_family_gets_a_new_head_as_timm_makes_it(backbone, size, tmp_path):
    model_of("soft_fer", backbone, size).save_pretrained(tmp_path)
    torch.manual_seed(7)
    model = AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=3, ignore_mismatched_sizes=True)
    torch.manual_seed(7)
    fresh, saved = type(model)(model.config), load_file(tmp_path / "model.safetensors")
    new = {name for name, weight in saved.items() if model.state_dict()[name].shape != weight.shape}
    assert new
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, fresh.state_dict()[name] if name in new else saved[name]), name
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():  # also by what no state holds
        images = torch.randn(2, 3, size, size)
        assert torch.equal(model(images).logits, fresh.eval()(images).logits)


def test_only_the_expression_with_lost_weights_loses_its_calibration(tmp_path):
    model_of("fused", "test_resnet").save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    lost = ["ebc.experts.sad.classifiers.0.bn1.running_var", "ebc.experts.sad.classifiers.0.fc.weight"]
    save_file({k: v for k, v in saved.items() if k not in lost}, tmp_path / "model.safetensors", {"format": "pt"})
    model, info = AutoModelForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == set(lost)
    assert torch.equal(model.state_dict()[lost[0]], torch.ones(32)) and model.state_dict()[lost[1]].std() > 0.01
    assert set(EXPRESSIONS) - model.config.ebc.calibration.keys() == {"sad"}
    assert set(EXPRESSIONS) - model.config.ebc_weights.keys() == {"sad"}
    assert model.config.au.calibration.keys() == set(EXPRESSIONS) and not model.config.evaluation


@pytest.mark.parametrize("kind", KINDS)
def test_some_of_our_own_expressions_keep_their_experts(kind, tmp_path):
    model = model_of(kind).eval()
    model.save_pretrained(tmp_path)
    names = ["fear", "happy", "smirk"]
    theirs = AutoModelForImageClassification.from_pretrained(
        tmp_path, id2label=dict(enumerate(names)), ignore_mismatched_sizes=True
    )
    assert theirs.config.expressions == names
    if kind != "soft_fer":  # of one network for all, the head is new
        images = torch.randn(2, 3, 32, 32)
        theirs.config.ebc_weights = {"fear": 0.3, "happy": 0.3}
        with torch.no_grad():
            ours = model(images).logits[:, [EXPRESSIONS.index(name) for name in names[:2]]]
            torch.testing.assert_close(theirs(images).logits[:, :2], ours)
    if kind in ("au", "fused"):
        config = theirs.config if kind == "au" else theirs.config.au
        assert config.action_units["happy"] == list(ACTION_UNITS["happy"]) and config.action_units["smirk"] == []


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_four_times_four_faces_are_sixteen(activation, tmp_path):
    images, labels = torch.randn(32, 3, 32, 32), torch.rand(32, 8)
    runs = []
    for batch, accumulation in ((16, 1), (4, 4)):
        torch.manual_seed(0)
        model = model_of("soft_fer", activation=activation)
        batches = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
        trainer = trained(model, tmp_path, images, labels, **batches)
        runs.append((logged(trainer, "loss"), logged(trainer, "grad_norm"), model.state_dict()))
    (loss, gradient, weights), (loss_4x4, gradient_4x4, weights_4x4) = runs
    assert len(loss) == 2 and loss_4x4 == pytest.approx(loss, rel=1e-3)  # logged with few digits
    assert gradient_4x4 == pytest.approx(gradient, rel=1e-3)
    for name, weight in weights.items():
        torch.testing.assert_close(weights_4x4[name], weight, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_class_indices_are_one_hot_soft_labels(kind):
    model = model_of(kind).eval()
    images, indices = torch.randn(4, 3, 32, 32), torch.tensor([0, 7, 3, 3])
    with torch.no_grad():
        output = model(images, labels=indices)
        expected = F.binary_cross_entropy_with_logits(output.logits, F.one_hot(indices, 8).float())
        torch.testing.assert_close(output.loss, expected)
        torch.testing.assert_close(model(images, labels=F.one_hot(indices, 8)).loss, expected)
        for wrong, says in (
            (torch.tensor([0, 8, 3, 3]), "indices from 0 to 7 .*contempt.*from 0 to 8"),
            (torch.tensor([0, -100, 3, 3]), "from -100 to 3"),
            (torch.tensor([0.0, 7, 3, 3]), "whole-number"),
            (torch.rand(4, 7), r"\(4, 8\).*\(4, 7\)"),
        ):
            with pytest.raises(ValueError, match=says):
                model(images, labels=wrong)


def test_under_softmax_class_indices_are_cross_entropy():
    model = model_of("soft_fer", activation="softmax").eval()
    images, indices = torch.randn(4, 3, 32, 32), torch.tensor([0, 7, 3, 3])
    with torch.no_grad():
        output = model(images, labels=indices)
    torch.testing.assert_close(output.loss, F.nll_loss(output.logits.sigmoid().log(), indices))


@pytest.mark.parametrize("problem_type", ["regression", "single_label_classification"])
def test_a_problem_type_that_cannot_be_is_refused(problem_type, tmp_path):
    says = f"problem_type '{problem_type}' cannot be.*multi_label_classification.*softmax"
    with pytest.raises(ValueError, match=says):
        SoftFerConfig(problem_type=problem_type)
    model = model_of("soft_fer")
    assert model.config.problem_type == "multi_label_classification"
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=says):
        AutoModelForImageClassification.from_pretrained(tmp_path, problem_type=problem_type)
    model.config.problem_type = problem_type
    with pytest.raises(ValueError, match=says):
        model(torch.randn(2, 3, 32, 32), labels=torch.tensor([0, 1]))


@pytest.mark.parametrize("kind", ["soft_fer", "fused"])
def test_tta_is_for_use_and_not_for_training(kind):
    model = model_of(kind, tta=True)
    seen = []
    for module in model.modules():
        if hasattr(module, "pretrained_cfg"):
            module.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        in_training = model.train()(images).logits
        plain = sum(seen)
        seen.clear()
        in_use = model.eval()(images).logits
        assert sum(seen) == 2 * plain
        model.config.tta = False
        torch.testing.assert_close(model(images).logits, in_training)  # test_vit has no dropout
        both = model(images).logits, model(images.flip(dims=(3,))).logits
    if kind == "soft_fer":
        torch.testing.assert_close(in_use, sum(both) / 2)
    assert (in_use - in_training).abs().max() > 1e-3


def test_gradient_checkpointing_changes_no_gradient():
    model, images = model_of("ebc", "test_vit", id2label={0: "happy"}), torch.randn(2, 3, 32, 32)
    gradients = []
    for enable in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
        enable()
        model.zero_grad()
        model(images, labels=torch.ones(2, 1)).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("ebc", {"backbone_normalization": [{"mean": [0.5] * 3, "std": [0.4] * 3}], "id2label": {0: "happy"}}),
        ("au", {"id2label": {0: "happy"}, "rest_outputs": 2}),
        ("fused", {"id2label": {0: "happy"}}),
        (
            "soft_fer",
            {"activation": "softmax", "tta": True, "valence_arousal": True, "grayscale": True, "upscale": 2}
            | {"per_image_standardization": True},
        ),
    ],
)
def test_exported_with_a_dynamic_batch_the_scores_are_the_same(kind, settings, tmp_path):
    torch.manual_seed(0)
    model = model_of(kind, "test_byobnet", **settings).eval()
    program = torch.export.export(model, (torch.randn(2, 3, 32, 32),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.onnx.export(program, f=tmp_path / "model.onnx", dynamo=True, input_names=["pixel_values"], verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for batch in (1, 3, 8):
        images = torch.randn(batch, 3, 32, 32)
        with torch.no_grad():
            expected = model(images)
            exported = program.module()(images)
        logits = torch.from_numpy(session.run(None, {"pixel_values": images.numpy()})[0])
        torch.testing.assert_close(logits.sigmoid(), expected.logits.sigmoid(), atol=1e-4, rtol=0)
        torch.testing.assert_close(exported.logits, expected.logits)
