"""Backbones by name, from timm: a network with a classifier of the asked size."""

import copy
import difflib
from contextlib import contextmanager
from contextvars import ContextVar

import timm
import timm.data
import torch
import torch.nn.functional as F
from torch import nn

_in_shape: ContextVar[dict | None] = ContextVar("_in_shape", default=None)  # networks on the meta device, by kind
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow makes an image grey


def create_backbone(name: str, num_outputs: int, image_size: int, pretrained: bool = False) -> nn.Module:
    """timm architecture `name`: (B, 3, image_size, image_size) -> (B, num_outputs).

    `pretrained` takes timm's weights (from the Hub or its cache) for all but the last layer. `ValueError` where timm
    has no such architecture (with the nearest names) or no weights.
    """
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=8, cutoff=0.4)
        raise ValueError(
            f"timm {timm.__version__} knows no backbone called {name!r}. Nearest names: {', '.join(near) or 'none'}; "
            f'`timm.list_models("*resnet*")` lists others, `pip install -U timm` brings new ones.'
        )
    made = _in_shape.get()
    if made is not None and torch.get_default_device().type == "meta":
        kind = (name, num_outputs, image_size, torch.get_default_dtype())
        if kind not in made:
            made[kind] = _create_model(name, num_outputs, image_size)
        return copy.deepcopy(made[kind])
    try:
        return _create_model(name, num_outputs, image_size, pretrained)
    except (OSError, RuntimeError, ValueError) as error:
        if not pretrained:
            raise
        raise ValueError(
            f"No pretrained weights of {name} to be had ({str(error).splitlines()[0]}): they come from the Hub or its "
            "cache. Go online once, take another backbone, or train from scratch."
        ) from error


def _create_model(name: str, num_outputs: int, image_size: int, pretrained: bool = False) -> nn.Module:
    # Only architectures that are built for one size (ViT and kin) take it as an argument.
    pretrained_cfg = timm.get_pretrained_cfg(name, allow_unregistered=True)
    size = {"img_size": image_size} if pretrained_cfg is not None and pretrained_cfg.fixed_input_size else {}
    return timm.create_model(name, pretrained=pretrained, num_classes=num_outputs, **size)


@contextmanager
def one_network_of_each_kind():
    """In here, networks that have a shape only (on the meta device, as `from_pretrained` begins) are copies of one: a
    model has many, of few kinds, and making one takes long. Not for longer: timm's own settings may change."""
    token = _in_shape.set({})
    try:
        yield
    finally:
        _in_shape.reset(token)


def backbones_of(config) -> list[str]:
    """timm names of the backbones that each network of a model with this config has."""
    return config.backbones if hasattr(config, "backbones") else [config.backbone]


def pretrained_normalization(backbones: list[str]) -> list[dict[str, list[float]]]:
    """Per timm name the `mean` and `std` (RGB, of pixels in [0, 1]) that its pretrained weights were trained with, as
    `config.backbone_normalization` takes them."""
    found = []
    for name in backbones:
        pretrained_cfg = timm.get_pretrained_cfg(name)  # None where there is no such name: `create_backbone` says so
        of_data = timm.data.resolve_data_config(pretrained_cfg=pretrained_cfg.to_dict() if pretrained_cfg else {})
        found.append({key: [float(value) for value in of_data[key]] for key in ("mean", "std")})
    return found


def network_inputs(pixel_values: torch.Tensor, config) -> list[torch.Tensor]:
    """(B, 3, H, W) as each backbone of a model with this config takes it, (B, 3, `config.network_size`, ...): where the
    config says so, luminance alone, in all three channels; standardised, each image by its own mean and standard
    deviation over all pixels and channels; enlarged (bilinear); normalised as the backbone's weights were trained."""
    if config.grayscale:
        # Of the image before it was normalised, but for a factor and a shift that are the same for all images.
        weights = pixel_values.new_tensor(config.image_std) * pixel_values.new_tensor(_LUMA)
        luma = (pixel_values * (weights / weights.sum()).reshape(3, 1, 1)).sum(dim=1, keepdim=True)
        pixel_values = luma.expand_as(pixel_values)
    if config.per_image_standardization:
        # An even image has no deviation: it becomes 0.
        pixel_values = pixel_values - pixel_values.mean(dim=(1, 2, 3), keepdim=True)
        norm = torch.linalg.vector_norm(pixel_values, dim=(1, 2, 3), keepdim=True)  # a tenth of torch.std's time
        pixel_values = pixel_values / (norm / (pixel_values[0].numel() - 1) ** 0.5).clamp(min=1e-3)
    if config.upscale > 1:
        pixel_values = F.interpolate(pixel_values, scale_factor=config.upscale, mode="bilinear")
    pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)  # 1.1 to 5 times as fast
    # An image that was standardised by itself has no common normalisation left to exchange.
    each = None if config.per_image_standardization else config.backbone_normalization
    each = each or [None] * len(backbones_of(config))
    return [pixel_values if trained is None else _renormalized(pixel_values, config, trained) for trained in each]


def network_input(pixel_values: torch.Tensor, config) -> torch.Tensor:
    """`network_inputs` of a model with one backbone."""
    (only,) = network_inputs(pixel_values, config)
    return only


def _renormalized(pixel_values: torch.Tensor, config, trained: dict[str, list[float]]) -> torch.Tensor:
    """From the image processor's normalisation to that of the weights; bilinear enlarging in between changes nothing
    of it."""
    mean, std = config.image_mean, config.image_std
    if config.grayscale:  # all three channels are (luma - this mean) / this deviation
        mean, std = ([sum(w * value for w, value in zip(_LUMA, of_rgb, strict=True))] * 3 for of_rgb in (mean, std))
    channels = list(zip(mean, std, trained["mean"], trained["std"], strict=True))
    scale = [s / trained_s for _, s, _, trained_s in channels]
    shift = [(m - trained_m) / trained_s for m, _, trained_m, trained_s in channels]
    scale, shift = (pixel_values.new_tensor(values).reshape(3, 1, 1) for values in (scale, shift))
    return pixel_values * scale + shift


def against_rest(outputs: torch.Tensor) -> torch.Tensor:
    """(..., 1 + rest outputs) -> (..., 1): log-odds of the first class against all others together. With one output,
    that is the output itself."""
    own, rest = outputs[..., :1], outputs[..., 1:]
    return own - rest.logsumexp(dim=-1, keepdim=True) if outputs.shape[-1] > 1 else own


def check_backbone(name: str, image_size: int) -> None:
    """Raise `ValueError` where `create_backbone` would, or where the network cannot take images of this size."""
    try:
        with torch.device("meta"):  # in shape only
            create_backbone(name, 1, image_size).eval()(torch.zeros(1, 3, image_size, image_size))
    except NotImplementedError:  # an operation that has no shape-only form
        pass
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"Backbone {name} cannot be had for images of {image_size} pixels: {reason}.") from error
