"""Faces as a network is trained on them: altered at random, a batch at a time, each face by its own seed alone."""

import math
import random

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data.auto_augment import augment_and_mix_transform, auto_augment_transform, rand_augment_transform
from torch.utils.data import default_collate

FLIPPED = 0.5  # a probability, as ERASED
DEGREES = 14
TRANSLATE = 0.12  # of the side
SCALE = (0.85, 1.15)
JITTER = 0.3  # brightness and contrast are multiplied by 1 - that to 1 + that, in random order
ERASED, ERASED_AREA, ERASED_ASPECT = 0.3, (0.02, 0.2), (0.3, 3.3)
_DRAWS = (
    "flip", "angle", "x", "y", "scale", "brightness", "contrast", "order", "erase", "area", "aspect", "top",
    "left",
)  # fmt: skip
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow makes an image grey


def random_draws(seed: int) -> torch.Tensor:
    """(13,) uniform numbers in [0, 1): all of what is random about one face, so that neither the number of workers nor
    the device changes it."""
    return torch.from_numpy(np.random.default_rng(seed).random(len(_DRAWS), dtype=np.float32))


class Augmentation:
    """Random flip, small affine, light and contrast, erasing; then the image processor's normalisation.

    One affine map a face, in one call for the batch on whatever device it is: torchvision's transforms of a batch give
    all faces of it the same map, and kornia's draw by the batch, not by the face.

    Args:
        image_processor: of the model.
        auto_augment: whether a policy of timm has taken the place of affine, light and contrast.
    """

    def __init__(self, image_processor, auto_augment: bool = False):
        self.mean, self.std = image_processor.image_mean, image_processor.image_std
        self.auto_augment = auto_augment

    def __call__(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What a network is shown.

        Args:
            batch: "faces" (B, 3, H, W) uint8, square, "draws" (B, 13), a row of `random_draws` each, and whatever else.

        Returns:
            The same with "pixel_values" (B, 3, H, W) float32 in their place.
        """
        faces, draws = batch.pop("faces"), batch.pop("draws")
        drawn = dict(zip(_DRAWS, draws.T[..., None, None, None], strict=True))  # (B, 1, 1, 1) each
        x = faces.float().div_(255)
        if self.auto_augment:
            x = torch.where(drawn["flip"] < FLIPPED, x.flip(3), x)
        else:
            x = jittered(moved(x, drawn), drawn)
        x = x.sub_(x.new_tensor(self.mean).reshape(3, 1, 1)).div_(x.new_tensor(self.std).reshape(3, 1, 1))
        return batch | {"pixel_values": x.masked_fill_(is_erased(drawn, *x.shape[2:]), 0)}

    def collate(self, samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The same of samples, for a loader."""
        return self(default_collate(samples))


def moved(x: torch.Tensor, drawn: dict[str, torch.Tensor]) -> torch.Tensor:
    """Flipped, turned and scaled about the centre, shifted; what comes in from outside continues the edge."""
    angle = (drawn["angle"] * 2 - 1) * math.radians(DEGREES)
    scale = SCALE[0] + drawn["scale"] * (SCALE[1] - SCALE[0])
    flip = torch.where(drawn["flip"] < FLIPPED, -1.0, 1.0)
    shift_x, shift_y = ((drawn[axis] * 4 - 2) * TRANSLATE for axis in "xy")  # a side is 2 long here, from -1 to 1
    cos, sin = angle.cos() / scale, angle.sin() / scale
    # From where in the input each place of the output comes: back by the shift, the turn and the scale, then the flip.
    of_x = torch.cat([cos, sin, -cos * shift_x - sin * shift_y], dim=3) * flip
    of_y = torch.cat([-sin, cos, sin * shift_x - cos * shift_y], dim=3)
    grid = F.affine_grid(torch.cat([of_x, of_y], dim=2)[:, 0], list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def jittered(x: torch.Tensor, drawn: dict[str, torch.Tensor]) -> torch.Tensor:
    """Brighter or darker, of more or less contrast, in place; values stay in [0, 1]."""
    brightness, contrast = (1 - JITTER + drawn[name] * 2 * JITTER for name in ("brightness", "contrast"))
    for is_contrast in (drawn["order"] < 0.5, drawn["order"] >= 0.5):
        factor = torch.where(is_contrast, contrast, brightness)
        grey = (x.mean(dim=(2, 3), keepdim=True) * x.new_tensor(_LUMA).reshape(3, 1, 1)).sum(dim=1, keepdim=True)
        x.mul_(factor).add_(torch.where(is_contrast, grey * (1 - factor), 0.0)).clamp_(0, 1)
    return x


def is_erased(drawn: dict[str, torch.Tensor], height: int, width: int) -> torch.Tensor:
    """(B, 1, H, W) bool: a rectangle in some of the faces."""
    area = (ERASED_AREA[0] + drawn["area"] * (ERASED_AREA[1] - ERASED_AREA[0])) * height * width
    low, high = map(math.log, ERASED_ASPECT)
    aspect = (low + drawn["aspect"] * (high - low)).exp()
    inside = drawn["erase"] < ERASED
    for dim, side, length, start in (
        (2, height, (area * aspect).sqrt().round(), drawn["top"]),
        (3, width, (area / aspect).sqrt().round(), drawn["left"]),
    ):
        first = (start * (side - length + 1)).floor()
        places = torch.arange(side, device=area.device).reshape([-1 if d == dim else 1 for d in range(4)])
        inside = inside & (places >= first) & (places < first + length)
    return inside


def timm_policy(name: str, size: int, image_mean):
    """timm's augmentation of that name; `ValueError` where it knows none."""
    fill = tuple(min(255, round(255 * channel)) for channel in image_mean)
    hparams = {"translate_const": int(size * 0.45), "img_mean": fill}
    kinds = {"rand": rand_augment_transform, "augmix": augment_and_mix_transform}
    try:
        return kinds.get(name.partition("-")[0], auto_augment_transform)(name, hparams)
    except (AssertionError, KeyError, ValueError, IndexError) as error:
        raise ValueError(
            f"timm knows no augmentation {name!r}: rand-m9-mstd0.5-inc1, augmix-m3-w3, 3a, v0 and the like are known."
        ) from error


def altered_by(policy, image: Image.Image, seed: int) -> Image.Image:
    """An image under a policy of timm, which draws from these."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    return policy(image)
