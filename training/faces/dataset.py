"""Faces as they are loaded."""

import os
from functools import cached_property

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision.transforms.v2.functional import pil_to_tensor

from affectnet_plus.modeling import normalization_of, pixel_values_of
from affectnet_plus.training.faces.augmentation import altered_by, random_draws, timm_policy
from affectnet_plus.training.faces.split import Split


class FaceDataset(Dataset):
    """A split as {"pixel_values": (3, H, W) float}, what the image processor makes of a face; where the sampler gives a
    seed, as {"faces": (3, H, W) uint8, "draws": (13,)}, which `Augmentation` makes pixel values of, a batch at a time.

    Args:
        split: the faces.
        image_processor: of the model.
        targets: (rows, n), given as "targets" (n,).
        auto_augment: a policy of timm ("rand-m9-mstd0.5", "augmix-m3" ...).
    """

    def __init__(self, split: Split, image_processor, targets: np.ndarray | None = None, auto_augment: str = ""):
        self.split = split
        self.image_processor = image_processor
        self.normalization = normalization_of(image_processor)
        self.auto_augment = auto_augment
        self.size = image_processor.size["width"], image_processor.size["height"]
        self.targets = None if targets is None else torch.from_numpy(targets)

    @cached_property
    def policy(self):
        return timm_policy(self.auto_augment, min(self.size), self.image_processor.image_mean)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, torch.Tensor]:
        row, seed = index if isinstance(index, tuple) else (index, None)
        if seed is None:
            sample = {"pixel_values": self._pixel_values(row)}
        else:
            image = self.split.scaled_image(row, self.size)
            image = altered_by(self.policy, image, seed) if self.auto_augment else image
            sample = {"faces": pil_to_tensor(image), "draws": random_draws(seed)}
        return sample | ({} if self.targets is None else {"targets": self.targets[row]})

    def _pixel_values(self, row: int) -> torch.Tensor:
        if self.normalization:  # of our models: as the pipeline does it, which scales alike
            return torch.from_numpy(pixel_values_of(self.split.scaled_image(row, self.size), *self.normalization))
        return self.image_processor(images=self.split.image(row), return_tensors="pt")["pixel_values"][0]


def loader_settings(num_workers: int | None, device: torch.device) -> dict:
    """For `DataLoader`: how faces reach this device without making it wait.

    Args:
        num_workers: None for 2, with a GPU for its share of the cores that this process may use, from 2 to 16.
        device: where the network is.
    """
    on_gpu = device.type == "cuda"
    if num_workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
        num_workers = min(max(cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)), 2), 16) if on_gpu else 2
    ahead = {"prefetch_factor": 4} if on_gpu and num_workers else {}
    return {"num_workers": num_workers, "pin_memory": on_gpu, **ahead}
