"""Fusing EBC and AU experts: weight, temperature and shift of each expression, fitted on validation."""

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from modeling import FusedConfig, FusedForImageClassification, mixed_log_odds
from training.calibration import fit_calibration


def fused_model(ebc, au, mirrored: bool = False) -> FusedForImageClassification:
    """The two models as one, with equal weights. `ValueError` where expressions or input differ."""
    config = FusedConfig(ebc=ebc.config, au=au.config, mirrored=mirrored)
    with torch.device("meta"):  # only the frame
        model = FusedForImageClassification(config)
    model.ebc, model.au = ebc, au
    return model.eval()


def fit_fusion(model, ebc_logits: np.ndarray, au_logits: np.ndarray, labels: np.ndarray, prior: str) -> None:
    """Write into the model's config what makes `labels` (N,), indices of its expressions, most likely under its scores.

    `ebc_logits`, `au_logits`: (N, expressions) of validation rows. First the weight between the two, as the share that
    mixes their scores best; then the temperature and shift of the mixture.
    """
    for i, name in enumerate(model.config.expressions):
        ebc, au = (torch.from_numpy(logits[:, i].astype(np.float64)) for logits in (ebc_logits, au_logits))
        is_expression = torch.from_numpy(labels == i)

        def mixed(weight, ebc=ebc, au=au):
            return mixed_log_odds(ebc, au, torch.tensor(weight, dtype=torch.float64))

        def loss(weight, mixed=mixed, is_expression=is_expression):
            log_odds = mixed(weight)
            return float(torch.nn.functional.softplus(torch.where(is_expression, -log_odds, log_odds)).mean())

        weight = round(float(minimize_scalar(loss, bounds=(0, 1), method="bounded").x), 4)  # convex in the weight
        fitted = fit_calibration(mixed(weight).numpy()[:, None], is_expression.numpy(), prior)
        model.config.ebc_weights[name] = weight
        model.config.calibration[name] = {key: fitted[key] for key in ("temperature", "log_odds_shift")}
