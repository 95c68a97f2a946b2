"""The class frequencies that experts' scores and labels are calibrated to."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from affectnet_plus import EXPRESSIONS
from affectnet_plus.modeling import read_config, read_model
from affectnet_plus.training.soft_labels.calibration import class_frequencies, prior_numbers, reexpress
from affectnet_plus.training.soft_labels.fusion import calibrate_to

UNKNOWN_PRIOR = "unknown (before priors were recorded)"


def prior_of(folds: dict) -> np.ndarray | None:
    """(8,) the class frequencies that experts, or a fused model, are calibrated to, NaN for expressions that none has;
    None where none of them knows, and `ValueError` where they do not agree."""
    configs = [read_config(path) for kinds in folds.values() for path in kinds.values()]
    priors = [None if c.prior is None else numbers_of(c.prior) for c in configs]
    for other in priors[1:]:
        if (other is None) != (priors[0] is None):
            raise ValueError(
                f"Some experts are calibrated to {UNKNOWN_PRIOR} class frequencies: train all of them anew."
            )
        if other is not None and np.nanmax(apart := np.abs(other - priors[0])) > 1e-6:
            i = int(np.nanargmax(apart))
            raise ValueError(
                f"The experts are calibrated to different class frequencies ({EXPRESSIONS[i]} {priors[0][i]:.4f} and "
                f"{other[i]:.4f}): train all of them with one --prior to fuse them."
            )
    return priors[0]


def numbers_of(prior: dict[str, float]) -> np.ndarray:
    """(8,) in our order, NaN for what it does not name."""
    return np.array([prior.get(name, np.nan) for name in EXPRESSIONS])


def prior_of_labels(args, from_prior: np.ndarray | None, labels_of: Callable[[str], np.ndarray]) -> np.ndarray | None:
    """(8,) what labels shall be calibrated to, where scores are to `from_prior` (8,), None if that is unknown."""
    if args.prior is None:
        return from_prior
    if from_prior is None:
        raise ValueError(
            f"--prior: what these scores are calibrated to is {UNKNOWN_PRIOR}. Leave --prior out, or train the experts "
            "anew."
        )
    names = [EXPRESSIONS[i] for i in np.flatnonzero(~np.isnan(from_prior))]
    prior = prior_numbers(args.prior, lambda split: class_frequencies(labels_of(split)), names)
    if (wrong := (prior <= 0) | (prior >= 1)).any():
        name = EXPRESSIONS[int(wrong.argmax())]
        raise ValueError(f"--prior {args.prior}: no row there is {name}, or all are. Give numbers instead.")
    return prior


def under_prior_of_experts(path: str | Path) -> torch.nn.Module:
    """A fused model whose scores are calibrated to what its experts' are: so they are averaged over folds before they
    are brought to another prior, as labels that are written already are."""
    model = read_model(path)
    calibrate_to(model.config, None)
    return model


def for_prior(scores: np.ndarray, model, prior: np.ndarray | None) -> np.ndarray:
    """Scores (..., 8) of a model `under_prior_of_experts`, calibrated to `prior` (8,)."""
    from_prior = model.config.prior_of_experts
    if prior is None or from_prior is None:
        return scores
    return reexpress(scores, numbers_of(from_prior), prior)


def described_prior(prior: np.ndarray | None) -> dict[str, float] | str:
    if prior is None:
        return UNKNOWN_PRIOR
    return {name: share for name, share in zip(EXPRESSIONS, prior.tolist(), strict=True) if share == share}
