"""Fusing EBC and AU experts: one weight for each expression, fitted on validation."""

import numpy as np
import torch
from affectnet_plus.modeling import FusedConfig, FusedForImageClassification, mixed_log_odds
from affectnet_plus.training.calibration import weights_of_rows
from scipy.optimize import minimize_scalar

_DOUBT = 40.0  # 1 / (2 variance) of what a weight may be, around 0.5, before validation is seen


def fused_model(ebc, au, mirrored: bool = False) -> FusedForImageClassification:
    """The two models as one, with equal weights. `ValueError` where expressions or input differ."""
    config = FusedConfig(ebc=ebc.config, au=au.config, mirrored=mirrored)
    with torch.device("meta"):  # only the frame
        model = FusedForImageClassification(config)
    model.ebc, model.au = ebc, au
    return model.eval()


def fit_fusion(model, ebc_logits: np.ndarray, au_logits: np.ndarray, labels: np.ndarray, prior: str) -> None:
    """Write into the model's config the weights under which `labels` (N,), indices of its expressions, are likeliest.

    `ebc_logits`, `au_logits`: (N, expressions) of validation rows, calibrated; `prior` is what they are calibrated to
    (`fit_calibration`). Halves are believed until rows speak against it (a normal distribution with standard deviation
    0.11). The mixture is not sharpened again to fit the labels: one label a face is more extreme than what many people
    see in it.
    """
    for i, name in enumerate(model.config.expressions):
        ebc, au = (torch.from_numpy(logits[:, i].astype(np.float64)) for logits in (ebc_logits, au_logits))
        is_expression = torch.from_numpy(labels == i)
        row_weights = torch.from_numpy(weights_of_rows(labels == i, prior))

        def loss(weight, ebc=ebc, au=au, is_expression=is_expression, row_weights=row_weights):
            log_odds = mixed_log_odds(ebc, au, torch.tensor(weight, dtype=torch.float64))
            surprise = torch.nn.functional.softplus(torch.where(is_expression, -log_odds, log_odds))
            return float(row_weights @ surprise) + _DOUBT * (weight - 0.5) ** 2

        # Convex in the weight.
        model.config.ebc_weights[name] = round(float(minimize_scalar(loss, bounds=(0, 1), method="bounded").x), 4)
