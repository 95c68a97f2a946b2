"""Faces altered a batch at a time, beside torchvision's transforms of one image."""

import math

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from affectnet_plus.modeling import EBCConfig, image_processor_for
from affectnet_plus.training.faces.augmentation import _DRAWS, Augmentation, random_draws

SIZE = 64
UNCHANGED = {"flip": 1, "scale": 0.5, "erase": 1}  # of numbers in [0, 1) that say how; 0.5 is the middle
PROCESSOR = image_processor_for(EBCConfig(image_size=SIZE))


def smooth_faces(number: int) -> torch.Tensor:
    """(number, 3, SIZE, SIZE) uint8 without edges, so that two ways to interpolate agree."""
    coarse = torch.rand(number, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    return (torch.nn.functional.interpolate(coarse, SIZE, mode="bicubic").clamp(0, 1) * 255).round().byte()


def altered(faces: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Pixel values before the normalisation."""
    pixel_values = Augmentation(PROCESSOR)({"faces": faces, "draws": draws})["pixel_values"]
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (PROCESSOR.image_mean, PROCESSOR.image_std))
    return pixel_values * std + mean


def drawn(**numbers: float) -> torch.Tensor:
    return torch.tensor([[{**dict.fromkeys(_DRAWS, 0.5), **UNCHANGED, **numbers}[name] for name in _DRAWS]])


def affine(face: torch.Tensor, angle: float, x: float, y: float, scale: float) -> torch.Tensor:
    padded = functional.pad(face, [SIZE // 2] * 4, padding_mode="edge")
    moved = functional.affine(
        padded, angle, [x * SIZE, y * SIZE], scale, [0.0, 0.0], interpolation=v2.InterpolationMode.BILINEAR
    )
    return functional.center_crop(moved, [SIZE, SIZE])


@pytest.mark.parametrize(
    "numbers, expected",
    [
        ({}, lambda face: face),
        ({"flip": 0}, functional.horizontal_flip),
        ({"angle": 1}, lambda face: affine(face, 14, 0, 0, 1)),
        ({"x": 1, "y": 0.25}, lambda face: affine(face, 0, 0.12, -0.06, 1)),
        ({"scale": 0}, lambda face: affine(face, 0, 0, 0, 0.85)),
        (
            {"flip": 0, "angle": 0, "x": 0.25, "y": 1, "scale": 1},
            lambda face: affine(functional.horizontal_flip(face), -14, -0.06, 0.12, 1.15),
        ),
        ({"brightness": 1}, lambda face: functional.adjust_brightness(face, 1.3)),
        ({"contrast": 0}, lambda face: functional.adjust_contrast(face, 0.7)),
        (
            {"brightness": 1, "contrast": 1, "order": 0},
            lambda face: functional.adjust_brightness(functional.adjust_contrast(face, 1.3), 1.3),
        ),
        (
            {"brightness": 1, "contrast": 1, "order": 0.5},
            lambda face: functional.adjust_contrast(functional.adjust_brightness(face, 1.3), 1.3),
        ),
    ],
)
def test_each_change_is_that_of_torchvision(numbers, expected):
    (face,) = smooth_faces(1)
    ours = altered(face[None], drawn(**numbers))[0]
    assert (ours - expected(face / 255)).abs().max() < 0.01


def test_a_rectangle_is_erased():
    face = smooth_faces(1)
    numbers = {"erase": 0, "area": 1, "aspect": (math.log(1 / 0.3)) / (math.log(3.3) - math.log(0.3)), "top": 0}
    pixel_values = Augmentation(PROCESSOR)({"faces": face, "draws": drawn(**numbers)})["pixel_values"]
    erased = (pixel_values[0] == 0).all(dim=0)
    side = round(math.sqrt(0.2) * SIZE)
    left = (SIZE - side + 1) // 2
    assert erased[:side, left : left + side].all() and erased.sum() == side**2


def test_many_faces_are_as_torchvision_alters_them():
    """By moments and quantiles: over all pixels, and from face to face."""
    size = [SIZE, SIZE]
    one_by_one = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.Pad(SIZE // 4, padding_mode="edge"),
            v2.RandomAffine(degrees=14, translate=(0.08, 0.08), scale=(0.85, 1.15), interpolation=2),
            v2.CenterCrop(size),
            v2.ColorJitter(brightness=0.3, contrast=0.3),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(PROCESSOR.image_mean, PROCESSOR.image_std),
            v2.RandomErasing(p=0.3, scale=(0.02, 0.2)),
        ]
    )
    faces = smooth_faces(8).repeat(250, 1, 1, 1)
    torch.manual_seed(0)
    theirs = torch.stack([one_by_one(face) for face in faces])
    draws = torch.stack([random_draws(seed) for seed in range(len(faces))])
    ours = Augmentation(PROCESSOR)({"faces": faces, "draws": draws})["pixel_values"]
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype

    def moments(x: torch.Tensor) -> dict[str, torch.Tensor]:
        erased = (x == 0).all(dim=1).float().mean(dim=(1, 2))
        return {
            "of pixels": torch.stack([x.mean(), x.std(), *x.flatten()[::97].quantile(torch.linspace(0.05, 0.95, 7))]),
            "of faces": torch.stack([x.mean(dim=(1, 2, 3)).std(), x.std(dim=(2, 3)).mean(), x.std(dim=(2, 3)).std()]),
            "spread of a pixel": x.unflatten(0, (-1, 8)).std(dim=0).mean(dim=(0, 2, 3)),
            "erased": torch.stack([(erased > 0.01).float().mean(), erased.mean()]),
        }

    for (name, a), b in zip(moments(ours).items(), moments(theirs).values(), strict=True):
        assert (a - b).abs().max() < 0.06, (name, a, b)


def test_a_face_is_altered_by_its_seed_alone():
    """Whatever stands beside it in the batch."""
    faces, draws = smooth_faces(6), torch.stack([random_draws(seed) for seed in range(6)])
    together = altered(faces, draws)
    for row in (0, 5):
        assert torch.equal(altered(faces[row : row + 1], draws[row : row + 1])[0], together[row])
    assert torch.equal(random_draws(3), random_draws(3)) and not torch.equal(random_draws(3), random_draws(4))
