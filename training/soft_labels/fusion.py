"""Fusing EBC and AU experts: one weight for each expression, fitted on validation."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from affectnet_plus import match_expressions
from affectnet_plus.modeling import FusedConfig, FusedForImageClassification, mixed_log_odds
from affectnet_plus.training.soft_labels.calibration import shift_of_prior

_DOUBT = 40.0  # 1 / (2 variance) of what a weight may be, around 0.5, before validation is seen


def fused_model(ebc, au, tta: bool = False) -> FusedForImageClassification:
    """The two models as one, with equal weights. `ValueError` where expressions or input differ."""
    config = FusedConfig(ebc=ebc.config, au=au.config, tta=tta)
    with torch.device("meta"):  # only the frame
        model = FusedForImageClassification(config)
    model.ebc, model.au = ebc, au
    return model.eval()


def fit_fusion(
    model, ebc_logits: np.ndarray, au_logits: np.ndarray, labels: np.ndarray, prior: Sequence[float] | None = None,
    known: np.ndarray | None = None,
) -> None:  # fmt: skip
    """Write into the model's config the weights under which `labels` (N,), indices of EXPRESSIONS, are likeliest.

    `ebc_logits`, `au_logits`: (N, expressions of the model) of validation rows, calibrated to the class frequencies
    `prior` (8,); None: to those of these rows. Of an expression only the rows count of which it is `known` (N, 8).
    Halves are believed until rows speak against it (a normal distribution with standard deviation 0.11). The mixture is
    not sharpened again to fit the labels: one label a face is more extreme than what many people see in it.
    """
    names = model.config.expressions
    for column, (i, name) in enumerate(zip(match_expressions(names), names, strict=True)):
        rows = slice(None) if known is None else known[:, i]
        ebc, au = (torch.from_numpy(logits[rows, column].astype(np.float64)) for logits in (ebc_logits, au_logits))
        is_expression = torch.from_numpy(labels[rows] == i)
        row_weights = torch.from_numpy(importance_weights(labels[rows] == i, None if prior is None else prior[i]))

        def loss(weight, ebc=ebc, au=au, is_expression=is_expression, row_weights=row_weights):
            log_odds = mixed_log_odds(ebc, au, torch.tensor(weight, dtype=torch.float64))
            surprise = torch.nn.functional.softplus(torch.where(is_expression, -log_odds, log_odds))
            return float(row_weights @ surprise) + _DOUBT * (weight - 0.5) ** 2

        # Convex in the weight.
        model.config.ebc_weights[name] = round(float(minimize_scalar(loss, bounds=(0, 1), method="bounded").x), 4)


def importance_weights(is_expression: np.ndarray, prior: float | None) -> np.ndarray:
    """(N,) how much more frequent rows like each are where the expression is as frequent as `prior` says: prior /
    frequency for its own rows, (1 - prior) / (1 - frequency) for others; all 1 without a prior."""
    if prior is None:
        return np.ones(len(is_expression))
    counts = np.bincount(is_expression.astype(int), minlength=2)
    wanted = len(is_expression) * np.array([1 - prior, prior])
    return (wanted / np.maximum(counts, 1))[is_expression.astype(int)]


def calibrate_to(config: FusedConfig, prior: np.ndarray | None) -> None:
    """Let a fused model speak under class frequencies `prior` (8,), whatever its experts are calibrated to;
    None: what its experts say, as it is. `ValueError` where it is not known what they are calibrated to."""
    if prior is None:
        config.calibration = {}
        return
    of_experts = config.prior_of_experts
    if of_experts is None:
        raise ValueError("These experts were trained before priors were recorded: train them anew.")
    prior = prior[match_expressions(config.expressions)]
    shifts = shift_of_prior([of_experts[name] for name in config.expressions], prior)
    config.calibration = {
        name: {"prior": float(p), "log_odds_shift": float(shift)}
        for name, p, shift in zip(config.expressions, prior, shifts, strict=True)
    }
