"""The EBC as a transformers model: saving, Auto classes, how classifiers are combined, running from pushed code."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from PIL import Image
from scipy.special import logit, softmax
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, pipeline

import affectnet_plus.modeling as modeling
from affectnet_plus import EXPRESSIONS
from affectnet_plus.modeling import (
    AUConfig,
    EBCConfig,
    EBCForImageClassification,
    SoftFerConfig,
    SoftFerForImageClassification,
    log_odds_of_softmax,
)

TRIO = ["test_resnet", "test_efficientnet", "test_vit"]


def calibrated_model(backbones=TRIO, seed=0) -> EBCForImageClassification:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    calibration = {
        name: {
            "backbone_weights": rng.dirichlet(np.ones(len(backbones))).tolist(),
            "temperature": rng.uniform(0.5, 2),
            "log_odds_shift": rng.normal(),
        }
        for name in EXPRESSIONS
    }
    return EBCForImageClassification(EBCConfig(backbones=backbones, image_size=64, calibration=calibration)).eval()


def test_how_a_model_was_loaded_says_nothing_of_the_next(tmp_path):
    EBCForImageClassification(EBCConfig(backbones=["test_vit"] * 2, image_size=32)).save_pretrained(tmp_path)
    load, fused_attention = EBCForImageClassification.from_pretrained, timm.layers.use_fused_attn()
    for dtype in (torch.bfloat16, torch.float32):
        model = load(tmp_path, dtype=dtype)
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    try:
        for fused in (True, False):
            timm.layers.set_fused_attn(fused)
            blocks = load(tmp_path).experts["happy"].classifiers[1].blocks
            assert {block.attn.fused_attn for block in blocks} == {fused}
    finally:
        timm.layers.set_fused_attn(bool(fused_attention))


@pytest.mark.parametrize("backbone", ["swin_tiny_patch4_window7_224", "eva02_tiny_patch14_224"])
def test_round_trip_of_networks_with_tables_that_no_checkpoint_holds(tmp_path, backbone):
    config = EBCConfig(backbones=[backbone], image_size=56, id2label={0: "happy"})
    model = EBCForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    pixel_values = torch.randn(1, 3, 56, 56)
    with torch.no_grad():
        loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
        assert torch.equal(loaded(pixel_values).logits, model(pixel_values).logits)


@pytest.mark.parametrize(
    "backbones", [TRIO, ["test_convnext", "test_nfnet", "test_byobnet"], ["test_mambaout", "test_vit2", "test_vit3"]]
)
def test_round_trip_is_exact_to_the_bit(tmp_path, backbones):
    model = calibrated_model(backbones)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert isinstance(loaded, EBCForImageClassification)
    assert loaded.config.calibration == model.config.calibration
    pixel_values = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(pixel_values).logits, model(pixel_values).logits)
    saved_again = tmp_path / "again"
    loaded.save_pretrained(saved_again)
    assert (saved_again / "model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    assert json.loads((saved_again / "config.json").read_text()) == json.loads((tmp_path / "config.json").read_text())


def test_saved_folder_is_complete_and_speaks_the_release_order(tmp_path):
    calibrated_model().save_pretrained(tmp_path)
    assert tuple(AutoConfig.from_pretrained(tmp_path).id2label[i] for i in range(8)) == EXPRESSIONS
    assert tuple(EBCConfig().id2label.values()) == EXPRESSIONS
    assert AutoImageProcessor.from_pretrained(tmp_path).size == {"height": 64, "width": 64}
    card = (tmp_path / "README.md").read_text()
    assert "2410.22506" in card and ", ".join(EXPRESSIONS) in card and "not the paper's" in card


def test_the_card_says_whose_licence_and_weights_and_takes_names_as_text(tmp_path):
    record = {"data": "AffectNet+", "pretrained": True, "soft_labels": "<b>*mine*"}
    known = {"training": {"happy": record}, "calibration": {"happy": {"prior": 0.5}}}
    config = EBCConfig(backbones=TRIO, image_size=64, id2label={0: "happy", 1: "<b>a|b"}, **known)
    for data, licence, name in (
        ("AffectNet+", "other", "affectnet_plus"),
        ("synthetic AffectNet+", "unknown", "synthetic-affectnet_plus"),  # but for the pretrained weights
        ("FER+", "other", "fer_plus"),
        ("someone/faces", "unknown", "someone/faces"),
    ):
        record["data"] = data
        modeling.model_card(config).save(tmp_path / "README.md")
        card = ModelCard.load(tmp_path / "README.md")
        assert (card.data.license, card.data.datasets) == (licence, [name])
    assert card.data.base_model == [timm.get_pretrained_cfg(name).hf_hub_id for name in TRIO]
    of_folder, of_repository = (
        str(modeling.model_card(config, repo_id)).partition("```python")[2].partition("```")[0]
        for repo_id in (None, "me/ebc")
    )
    assert "import affectnet_plus" in of_folder and "trust_remote_code" not in of_folder  # which holds no code
    assert "affectnet_plus" not in of_repository and 'model="me/ebc", trust_remote_code=True' in of_repository
    assert r"\<b\>a\|b" in card.text and "<b>" not in card.text.replace("soft_labels: <b>", "")


def test_names_in_a_card_are_no_html():
    tag = "<script>alert(1)</script>"
    record = {"data": tag, "init_from": tag, "teacher": tag}
    figures = {"data": tag, "data_config": tag, "split": tag, "rows": 5, "js_divergence": 0.1, "ground_truth": tag}
    card = modeling.model_card(SoftFerConfig(training={"all": record}, evaluation=figures))
    metadata, _, text = str(card)[3:].partition("\n---")
    assert "<" not in metadata and "scriptalert(1)/script, 5 faces" in metadata
    shown = "".join(text.split("```")[::2])  # but for code
    assert "<" not in shown and f"teacher: {tag}" in text


def test_default_is_the_papers_trio():
    assert EBCConfig().backbones == ["resnet50", "efficientnet_b3", "legacy_xception"]
    with torch.device("meta"):
        ensemble = modeling.BinaryEnsemble(EBCConfig())
        assert ensemble(torch.zeros(2, 3, 224, 224)).shape == (2, 3)


def test_log_odds_are_weighted_cooled_and_shifted():
    model = calibrated_model()
    with torch.no_grad():
        output = model(torch.randn(4, 3, 64, 64))
    assert output.classifier_logits.shape == (4, 8, 3)
    for i, name in enumerate(EXPRESSIONS):
        fitted = model.config.calibration[name]
        expected = output.classifier_logits[:, i] @ torch.tensor(fitted["backbone_weights"])
        expected = expected / fitted["temperature"] + fitted["log_odds_shift"]
        torch.testing.assert_close(output.logits[:, i], expected)


def test_unfitted_ensemble_is_the_plain_mean():
    model = EBCForImageClassification(EBCConfig(backbones=TRIO, image_size=64)).eval()
    with torch.no_grad():
        output = model(torch.randn(2, 3, 64, 64))
    torch.testing.assert_close(output.logits, output.classifier_logits.mean(dim=-1))


def test_some_of_the_expressions_make_a_model_too(tmp_path):
    config = EBCConfig(backbones=["test_vit"], image_size=32, id2label={0: "happy", 1: "fear"})
    EBCForImageClassification(config).save_pretrained(tmp_path)
    answer = pipeline("soft-fer", faces="crop", model=str(tmp_path))(np.zeros((40, 40, 3), np.uint8))
    assert list(answer["soft_label"]) == ["happy", "fear"]


def test_loss_is_bce_on_the_soft_label():
    model = calibrated_model()
    pixel_values, soft_label = torch.randn(4, 3, 64, 64), torch.rand(4, 8)
    output = model(pixel_values, labels=soft_label)
    expected = torch.nn.functional.binary_cross_entropy(output.logits.sigmoid(), soft_label)
    torch.testing.assert_close(output.loss, expected)


def test_stock_image_classification_pipeline_gives_the_same_scores(tmp_path):
    calibrated_model().save_pretrained(tmp_path)
    face = np.random.default_rng(0).integers(0, 256, (80, 70, 3), dtype=np.uint8)
    ours = pipeline("soft-fer", faces="crop", model=str(tmp_path))(face)
    stock = pipeline("image-classification", model=str(tmp_path))(face, top_k=8)
    # It scales faces by torchvision, we by Pillow.
    assert {row["label"]: row["score"] for row in stock} == pytest.approx(ours["soft_label"], abs=1e-3)


def test_unknown_backbone_names_the_nearest():
    with pytest.raises(ValueError, match="resnet5x.*resnet50"):
        EBCForImageClassification(EBCConfig(backbones=["resnet5x"]))


def test_with_standardised_images_light_and_contrast_count_for_nothing(tmp_path):
    torch.manual_seed(0)
    faces = torch.randn(3, 3, 64, 64)
    for config in (
        EBCConfig(backbones=["test_vit"], image_size=64),
        AUConfig(backbone="test_vit", image_size=64),
        SoftFerConfig(backbone="test_vit", image_size=64),
    ):
        standardised = type(config).from_dict(config.to_dict() | {"per_image_standardization": True})
        model = AutoModelForImageClassification.from_config(standardised).eval()
        model.save_pretrained(tmp_path)
        assert "standardises each image" in (tmp_path / "README.md").read_text()
        with torch.no_grad():
            logits = AutoModelForImageClassification.from_pretrained(tmp_path)(faces).logits
            torch.testing.assert_close(model(0.3 * faces + 0.8).logits, logits, atol=1e-4, rtol=1e-4)
            assert logits.std(dim=0).max() > 1e-3  # it does tell faces apart
            assert model(torch.zeros(1, 3, 64, 64)).logits.isfinite().all()  # an even image
            plain = AutoModelForImageClassification.from_config(config).eval()
            plain.load_state_dict(model.state_dict())
            assert (plain(0.3 * faces + 0.8).logits - plain(faces).logits).abs().max() > 1e-3


def test_grey_model_sees_a_colour_photograph_as_its_grey_twin_and_both_enlarged(tmp_path):
    torch.manual_seed(0)
    face = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    for config in (
        EBCConfig(backbones=["test_vit"], image_size=32, grayscale=True, upscale=2),
        AUConfig(backbone="test_vit", image_size=32, grayscale=True, upscale=2),
        SoftFerConfig(backbone="test_vit", image_size=32, grayscale=True, upscale=2),
    ):
        model = AutoModelForImageClassification.from_config(config)
        model.save_pretrained(tmp_path)
        card = (tmp_path / "README.md").read_text()
        assert "nothing but its luminance" in card and "enlarged to 64 x 64 pixels" in card
        fer = pipeline("soft-fer", faces="crop", model=str(tmp_path))
        colour, grey, mirrored = fer([face, face.convert("L"), face.transpose(Image.Transpose.FLIP_LEFT_RIGHT)])
        assert colour["soft_label"] == pytest.approx(grey["soft_label"], abs=2e-3)  # Pillow rounds to 8 bits
        assert colour["soft_label"] != pytest.approx(mirrored["soft_label"], abs=2e-3)
        # The same weights, shown the enlarged image.
        plain = AutoModelForImageClassification.from_config(
            type(config).from_dict(config.to_dict() | {"image_size": 64, "upscale": 1})
        ).eval()
        plain.load_state_dict(fer.model.state_dict())
        pixel_values = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            enlarged = torch.nn.functional.interpolate(pixel_values, scale_factor=2, mode="bilinear")
            torch.testing.assert_close(fer.model(pixel_values).logits, plain(enlarged).logits)


@pytest.mark.parametrize(
    "create",
    [
        lambda: calibrated_model(["test_vit"]),
        lambda: SoftFerForImageClassification(
            SoftFerConfig(backbone="test_vit", image_size=32, activation="softmax", grayscale=True, upscale=2)
        ),
    ],
)
def test_pushed_code_runs_without_this_package(create, tmp_path):
    model = create()
    model.save_pretrained(tmp_path / "pushed", with_code=True)
    face = np.random.default_rng(0).integers(0, 256, (80, 70, 3), dtype=np.uint8)
    np.save(tmp_path / "face.npy", face)
    script = (
        "import sys, json, numpy as np\n"
        "sys.modules.update(dict.fromkeys(('affectnet_plus',)))\n"  # as if not installed
        "from transformers import pipeline\n"
        "fer = pipeline('soft-fer', faces='crop', model='pushed', trust_remote_code=True)\n"
        "print(json.dumps(fer(np.load('face.npy'))))\n"
        # and is trained there on other classes
        "import torch; from transformers import AutoModelForImageClassification as Auto\n"
        "other = {'num_labels': 3, 'ignore_mismatched_sizes': True, 'trust_remote_code': True}\n"
        "model, labels = Auto.from_pretrained('pushed', **other), torch.tensor([0, 2])\n"
        "assert model(torch.randn(2, 3, *2 * [model.config.image_size]), labels=labels).loss.isfinite()\n"
        "model.save_pretrained('theirs')\n"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    theirs = ModelCard.load(tmp_path / "theirs/README.md")
    assert theirs.data.library_name == "transformers" and "LABEL_0" not in theirs.text
    (answer,) = (line for line in run.stdout.splitlines() if line.startswith("{"))
    there = json.loads(answer)["soft_label"]
    for trust in (None, True):  # with this package it opens like any other, by the package's own code
        fer = pipeline("soft-fer", faces="crop", model=str(tmp_path / "pushed"), trust_remote_code=trust)
        assert type(fer.model) is type(model) and fer(face)["soft_label"] == pytest.approx(there)
    fer.model.save_pretrained(tmp_path / "again")
    assert not {"auto_map", "custom_pipelines"} & json.loads((tmp_path / "again/config.json").read_text()).keys()
    model.save_pretrained(tmp_path / "local")  # saving with code has left no trace in the model
    assert "custom_pipelines" not in (tmp_path / "local" / "config.json").read_text()
    assert pipeline("soft-fer", faces="crop", model=str(tmp_path / "local"))(face)["soft_label"] == pytest.approx(there)


def test_every_way_to_push_takes_the_whole_folder(tmp_path, hub):
    SoftFerForImageClassification(SoftFerConfig(backbone="test_vit", image_size=32)).save_pretrained(tmp_path / "model")
    script = (
        "from affectnet_plus.modeling import SoftFerForImageClassification as M; model = M.from_pretrained('model')\n"
        "how = {'private': True, 'revision': 'next', 'tags': ['mine']}\n"
        "model.push_to_hub('me/new', max_shard_size='1GB', **how)\n"
        "model.save_pretrained('new', push_to_hub=True, repo_id='me/new', **how)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(modeling.__file__).parents[1]), **hub.environment}
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert hub.private["me/new"] and any(path.endswith("me/new/branch/next") for path, _ in hub.posted)
    commits = [body for path, body in hub.posted if path.endswith("me/new/commit/next")]
    assert len(commits) == 2
    for commit in commits:
        files = {line["value"]["path"]: line["value"] for line in map(json.loads, commit.splitlines()[1:])}
        assert files.keys() >= {"config.json", "model.safetensors", "preprocessor_config.json", "pipeline_soft_fer.py"}
        card = base64.b64decode(files["README.md"]["content"]).decode()
        assert "AffectNet+ Soft-FER" in card and "- mine" in card and 'model="me/new"' in card


def test_models_from_before_flags_were_renamed_open():
    former = {"mirrored": True, "training": {"all": {"mirrored": True}}, "evaluation": {"js": 0.1, "rows": 5}}
    config = SoftFerConfig.from_dict({"model_type": "affectnet_plus_soft_fer", **former})
    assert config.tta and config.training["all"] == {"tta": True}
    assert config.evaluation["js_divergence"] == 0.1 and "0.1" in str(modeling.model_card(config).data)


def test_a_card_claims_no_licence_that_it_does_not_know():
    def licence(**record):
        return modeling.model_card(SoftFerConfig(training={"all": record} if record else {})).data.license

    assert licence() == "unknown" and licence(data="synthetic AffectNet+") == "apache-2.0"
    assert licence(data="synthetic AffectNet+", pretrained=True) == "unknown"
    assert licence(data="synthetic AffectNet+", init_from=["x"]) == "unknown" and licence(data="AffectNet+") == "other"


def test_log_odds_are_those_of_the_softmax():
    outputs = np.random.default_rng(0).normal(0, 3, (20, 8))
    ours = log_odds_of_softmax(torch.from_numpy(outputs)).numpy()
    np.testing.assert_allclose(ours, logit(softmax(outputs, axis=1)), atol=1e-9)
    assert torch.isfinite(log_odds_of_softmax(torch.tensor([[200.0, 0.0, -200.0]]))).all()
