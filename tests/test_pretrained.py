"""--pretrained: each backbone sees the pixels that its own weights were trained on, whatever its neighbours see."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from runs import TRAINING
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForImageClassification

from affectnet_plus.modeling import (
    AUConfig,
    AUForImageClassification,
    EBCConfig,
    EBCForImageClassification,
    FusedConfig,
    FusedForImageClassification,
    SoftFerConfig,
    SoftFerForImageClassification,
    create_backbone,
    network_inputs,
    pretrained_normalization,
)
from affectnet_plus.training.arguments import NetworkArguments
from affectnet_plus.training.loop.initial_weights import normalization_of_start, read_weights
from affectnet_plus.training.loop.settings import check_same_network

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
HALF = {"mean": [0.5] * 3, "std": [0.5] * 3}
CLIP = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}


@pytest.fixture(scope="module")
def face() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def normalized(image: Image.Image, trained: dict) -> torch.Tensor:
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64) / 255
    return torch.from_numpy((pixels - trained["mean"]) / trained["std"]).permute(2, 0, 1).float()


def seen_by_backbones(model, image: Image.Image) -> list[torch.Tensor]:
    """What the timm models inside are given, for the image as the model's own processor prepares it."""
    seen = []
    for module in model.modules():
        if hasattr(module, "pretrained_cfg"):
            module.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    with torch.no_grad():
        model.eval()(**model.image_processor(images=image, return_tensors="pt"))
    return seen


def test_normalization_is_what_timm_says_of_the_weights():
    names = ["resnet50", "efficientnet_b3", "legacy_xception", "vit_base_patch16_clip_224"]
    assert pretrained_normalization(names) == [IMAGENET, IMAGENET, HALF, CLIP]
    for name in ("legacy_xception", "test_efficientnet"):
        with torch.device("meta"):
            of_timm = timm.data.resolve_model_data_config(create_backbone(name, 1, 64))
        (found,) = pretrained_normalization([name])
        assert (tuple(found["mean"]), tuple(found["std"])) == (of_timm["mean"], of_timm["std"])


@pytest.mark.parametrize("grayscale", [False, True])
def test_each_backbone_sees_its_own_normalisation(grayscale, face, tmp_path):
    backbones = ["test_vit", "test_efficientnet", "test_vit"]
    normalization = [*pretrained_normalization(backbones[:2]), CLIP]
    assert normalization == [HALF, IMAGENET, CLIP]
    settings = {"image_size": 32, "grayscale": grayscale, "id2label": {0: "happy"}}
    ebc = EBCConfig(backbones=backbones, backbone_normalization=normalization, **settings)
    au = AUConfig(backbone="test_vit", backbone_normalization=[HALF], **settings)
    soft_fer = SoftFerConfig(backbone="test_vit", backbone_normalization=[HALF], **settings)
    expected = [*normalization, HALF]
    image = face.convert("L").convert("RGB") if grayscale else face
    for model, trained in (
        (EBCForImageClassification(ebc), normalization),
        (AUForImageClassification(au), [HALF]),
        (SoftFerForImageClassification(soft_fer), [HALF]),
        (FusedForImageClassification(FusedConfig(ebc=ebc.to_dict(), au=au.to_dict())), expected),
    ):
        model.save_pretrained(tmp_path)
        assert "[0.5, 0.5, 0.5]" in (tmp_path / "README.md").read_text()
        seen = seen_by_backbones(AutoModelForImageClassification.from_pretrained(tmp_path), image)
        assert len(seen) == len(trained)
        for pixels, of_weights in zip(seen, trained, strict=True):
            torch.testing.assert_close(pixels, normalized(image, of_weights), atol=1e-5, rtol=1e-5)
    if grayscale:  # of a colour photograph the same luminance, but for Pillow's rounding
        for pixels, of_weights in zip(seen_by_backbones(model, face), expected, strict=True):
            torch.testing.assert_close(pixels, normalized(face.convert("L"), of_weights), atol=0.02, rtol=0)


def test_without_it_and_for_standardised_images_pixels_are_untouched():
    pixel_values = torch.randn(2, 3, 32, 32)
    plain = EBCConfig(backbones=["test_vit", "test_vit"], image_size=32)
    assert plain.backbone_normalization is None
    for pixels in network_inputs(pixel_values, plain):
        assert torch.equal(pixels, pixel_values)
    partly = EBCConfig(**plain.to_dict() | {"backbone_normalization": [None, HALF]})
    first, second = network_inputs(pixel_values, partly)
    assert torch.equal(first, pixel_values) and not torch.equal(second, pixel_values)
    standardised = {"per_image_standardization": True, "backbone_normalization": [HALF, HALF]}
    alone = EBCConfig(**plain.to_dict() | {"per_image_standardization": True})
    for pixels, untouched in zip(
        network_inputs(pixel_values, EBCConfig(**plain.to_dict() | standardised)),
        network_inputs(pixel_values, alone),
        strict=True,
    ):
        assert torch.equal(pixels, untouched)


@pytest.mark.parametrize(
    ("create", "says"),
    [
        (lambda: EBCConfig(backbone_normalization=[HALF]), "1 entries for 3 backbone"),
        (lambda: AUConfig(backbone_normalization=[HALF, HALF]), "2 entries for 1 backbone"),
        (lambda: SoftFerConfig(backbone_normalization=[{"mean": [0.5] * 3}]), "a mean and a std of three channels"),
        (lambda: FusedConfig(backbone_normalization=[HALF]), "ebc and au"),
    ],
)
def test_a_normalisation_that_cannot_be_is_refused(create, says):
    with pytest.raises(ValueError, match=says):
        create()


@pytest.fixture
def hub_cache(tmp_path) -> Path:
    """Pretrained weights of test_vit, as the Hub's cache holds them."""
    torch.manual_seed(0)
    repo = tmp_path / "cache" / f"models--{timm.get_pretrained_cfg('test_vit').hf_hub_id.replace('/', '--')}"
    snapshot = repo / "snapshots" / ("1" * 40)
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text("1" * 40)
    save_file(timm.create_model("test_vit").state_dict(), snapshot / "model.safetensors", {"format": "pt"})
    return tmp_path / "cache"


@pytest.mark.slow
def test_a_pretrained_start_and_experts_that_go_on_from_it(hub_cache, ferplus, tmp_path):
    common = ["--dataset_name", str(ferplus), "--image_size", "32", "--max_train_steps", "1", "--eval_strategy", "no"]
    common += ["--per_device_train_batch_size", "8", "--dataloader_num_workers", "0"]
    start = ["--target", "hard", "--backbone", "test_vit", "--pretrained", "--output_dir", "start"]
    experts = ["--expressions", "happy", "--backbones", "test_vit", "--init_from", "start", "--output_dir", "ebc"]
    script = (  # one after the other in one process, which is sooner
        "import runpy, sys\n"
        f"for name, args in (('train_soft_fer.py', {start}), ('train_ebc.py', {experts})):\n"
        f"    sys.argv = [name, *args, *{common}]\n"
        f"    runpy.run_path({str(TRAINING)!r} + '/' + name, run_name='__main__')\n"
    )
    environment = os.environ | {"HF_HUB_CACHE": str(hub_cache)}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for folder in ("start", "ebc"):
        assert AutoConfig.from_pretrained(tmp_path / folder).backbone_normalization == [HALF]
    from_scratch = SoftFerConfig(backbone="test_vit", image_size=32, activation="softmax")
    with pytest.raises(ValueError, match="holds a model with backbone_normalization .*this run has None"):
        check_same_network(tmp_path / "start", from_scratch)


def test_a_start_is_continued_with_the_normalisation_it_was_trained_with(tmp_path):
    settings = {"image_size": 32, "backbone": "test_vit"}
    SoftFerForImageClassification(SoftFerConfig(**settings)).save_pretrained(tmp_path / "plain")
    of_clip = SoftFerForImageClassification(SoftFerConfig(**settings, backbone_normalization=[CLIP]))
    of_clip.save_pretrained(tmp_path / "folds/fold-0")
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm/config.json").write_text(json.dumps({"pretrained_cfg": HALF}))
    plain, folds, of_timm = (str(tmp_path / name) for name in ("plain", "folds", "timm"))
    for init_from, expected in (
        ([plain], None),
        ([folds], [CLIP, CLIP]),
        ([f"{folds}/fold-0/model.safetensors"], [CLIP, CLIP]),
        ([plain, folds], [None, CLIP]),
        ([of_timm, plain], [HALF, None]),
        ([], None),
    ):
        args = NetworkArguments(init_from=init_from)
        assert normalization_of_start(args, ["test_vit", "test_vit"]) == expected
    record = {"data": "D", "split": "train", "ids": "image_id"}
    with pytest.raises(ValueError, match="plain was trained with the normalisation of the image processor"):
        config = EBCConfig(backbones=["test_vit"], image_size=32, backbone_normalization=[CLIP])
        read_weights([plain], config, record)
    with pytest.raises(ValueError, match="fold-0 was trained with the normalisation .*0.48145466"):
        read_weights([f"{folds}/fold-0"], EBCConfig(backbones=["test_vit"], image_size=32), record)
