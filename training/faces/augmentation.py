"""Faces as a network is shown them."""

import random
from functools import cached_property

import numpy as np
import torch
from timm.data.auto_augment import augment_and_mix_transform, auto_augment_transform, rand_augment_transform
from torch.utils.data import Dataset
from torchvision.transforms import v2

from affectnet_plus.training.faces.split import Split


class FaceDataset(Dataset):
    """A split as {"pixel_values": (3, size, size) float}, with "targets" (n,) where there are targets (rows, n);
    augmented where the sampler gives a seed."""

    def __init__(self, split: Split, image_processor, targets: np.ndarray | None = None, auto_augment: str = ""):
        self.split = split
        self.image_processor = image_processor
        self.auto_augment = auto_augment
        self.targets = None if targets is None else torch.from_numpy(targets)

    @cached_property
    def augmentation(self) -> v2.Compose:
        return augmentation(self.image_processor, self.auto_augment)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, torch.Tensor]:
        row, seed = index if isinstance(index, tuple) else (index, None)
        image = self.split.image(row)
        if seed is None:
            pixel_values = self.image_processor(images=image, return_tensors="pt")["pixel_values"][0]
        else:
            state = torch.get_rng_state()
            torch.default_generator.manual_seed(seed)  # a tenth of the time of torch.manual_seed
            if self.auto_augment:  # timm's draws from these
                random.seed(seed)
                np.random.seed(seed % 2**32)
            pixel_values = self.augmentation(image)
            torch.set_rng_state(state)
        return {"pixel_values": pixel_values} | ({} if self.targets is None else {"targets": self.targets[row]})


def augmentation(image_processor, auto_augment: str = "") -> v2.Compose:
    """Random flip, small affine, light and contrast, erasing; then what the image processor would do. `auto_augment`, a
    policy of timm ("rand-m9-mstd0.5", "augmix-m3" ...), takes the place of affine, light and contrast."""
    height, width = image_processor.size["height"], image_processor.size["width"]
    if auto_augment:
        altered = [timm_policy(auto_augment, min(height, width), image_processor.image_mean)]
    else:
        altered = [
            v2.Pad((width // 4, height // 4), padding_mode="edge"),  # the affine would bring in black corners
            v2.RandomAffine(
                degrees=14, translate=(0.08, 0.08), scale=(0.85, 1.15), interpolation=v2.InterpolationMode.BILINEAR
            ),
            v2.CenterCrop((height, width)),
            v2.ColorJitter(brightness=0.3, contrast=0.3),
        ]
    return v2.Compose(
        [
            v2.Resize((height, width)),
            v2.RandomHorizontalFlip(),
            *altered,
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(image_processor.image_mean, image_processor.image_std),
            v2.RandomErasing(p=0.3, scale=(0.02, 0.2)),
        ]
    )


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
