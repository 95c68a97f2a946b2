"""A model to distil, and what batches become on their way to the network."""

import hashlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from affectnet_plus import EXPRESSIONS
from affectnet_plus.modeling import SoftFerConfig, SoftLabelModel, read_model
from affectnet_plus.training.soft_fer.arguments import SoftFerArguments


def load_teacher(model_args: SoftFerArguments, config: SoftFerConfig) -> SoftLabelModel | None:
    if not model_args.teacher:
        return None
    try:
        teacher = read_model(model_args.teacher, dtype=torch.float32)
    except ValueError as error:
        raise ValueError(
            f"--teacher {model_args.teacher} holds no model ({str(error).splitlines()[0]}). One that label.py fused "
            "lies in its folder as `model`; where it was cross-fitted, give its labels instead, by --soft_labels."
        ) from error
    if not isinstance(teacher, SoftLabelModel) or set(teacher.config.expressions) - set(EXPRESSIONS):
        raise ValueError(f"--teacher {model_args.teacher} is not one of our models of expressions.")
    for name in ("image_size", "image_mean", "image_std"):
        ours, theirs = (getattr(c, name) for c in (config, teacher.config))
        if np.any(np.not_equal(ours, theirs)):
            raise ValueError(
                f"--teacher {model_args.teacher} has {name} {theirs}, this model {ours}, and both look at the same "
                "pixels: train with that one, or let label.py write its labels and give those by --soft_labels."
            )
    return teacher.eval().requires_grad_(False)


def digest_of(model: nn.Module) -> str:
    """Of its weights: cards and versions of libraries may change."""
    digest = hashlib.sha256()
    for _, weights in sorted(model.state_dict().items()):
        digest.update(weights.float().numpy().tobytes())
    return digest.hexdigest()[:16]


def batch_alteration(model_args: SoftFerArguments, teacher: SoftLabelModel | None, accelerator) -> Callable | None:
    """Mixup, then the teacher's view of what came of it: (pixel_values, targets, seed) -> the same two."""
    if not (teacher or model_args.mixup_alpha):
        return None
    if teacher:
        teacher.to(accelerator.device)

    @torch.no_grad()
    def alter(pixel_values: Tensor, targets: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        if model_args.mixup_alpha:
            rng = np.random.default_rng(seed)
            share = rng.beta(model_args.mixup_alpha, model_args.mixup_alpha)
            partners = torch.from_numpy(rng.permutation(len(targets))).to(targets.device)
            pixel_values = pixel_values.lerp(pixel_values[partners], 1 - share)
            targets = targets.lerp(targets[partners], 1 - share)
        if teacher:
            with accelerator.autocast():
                seen = teacher(pixel_values).logits.float().sigmoid()
            seen = seen[:, [teacher.config.expressions.index(name) for name in model_args.expressions]]
            if model_args.target != "soft":
                seen = seen / seen.sum(dim=1, keepdim=True)
            of_expressions, of_affect = targets.tensor_split([seen.shape[1]], dim=1)
            mixed = of_expressions.lerp(seen, model_args.teacher_weight)
            targets = torch.cat([torch.where(of_expressions.isnan(), seen, mixed), of_affect], dim=1)
        return pixel_values, targets

    return alter
