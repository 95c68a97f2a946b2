"""How an expression's binary classifiers are combined: weights, temperature and shift, fitted on validation."""

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

_LARGEST_SCALE = 20.0  # 1 / temperature; keeps perfectly separable validation rows from asking for infinity


def fit_calibration(log_odds: np.ndarray, is_expression: np.ndarray, prior: str) -> dict:
    """Maximum likelihood of `is_expression` (N,) under sigmoid(log_odds (N, K) @ weights / temperature + shift).

    Convex in weights / temperature (at least 0) and shift. The classifiers saw as many faces of the expression as
    others; `prior="validation"` lets the shift undo that, so that scores are frequencies of the validation split;
    `prior="balanced"` keeps it at 0. Returns `backbone_weights` (sum 1), `temperature`, `log_odds_shift`.
    """
    classifiers = log_odds.shape[1]
    target = is_expression.astype(np.float64)
    if prior == "balanced":  # each side counts half, as in training
        row_weights = np.where(is_expression, 0.5 / target.sum(), 0.5 / (1 - target).sum())
    else:
        row_weights = np.full(len(target), 1 / len(target))

    def loss(parameters):
        scales, shift = parameters[:-1], parameters[-1]
        logits = log_odds @ scales + shift
        error = row_weights * (expit(logits) - target)
        value = row_weights @ (np.logaddexp(0, logits) - target * logits)
        return value, np.append(log_odds.T @ error, error.sum())

    shift_bounds = (0.0, 0.0) if prior == "balanced" else (None, None)
    start = np.append(np.full(classifiers, 1 / classifiers), 0.0)
    fitted = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=[(0.0, _LARGEST_SCALE)] * classifiers + [shift_bounds]
    )
    scales, shift = fitted.x[:-1], fitted.x[-1]
    total = scales.sum()
    if total < 1 / _LARGEST_SCALE:  # classifiers that say nothing: keep them equal, and nearly silent
        total, scales = 1 / _LARGEST_SCALE, np.full(classifiers, 1 / _LARGEST_SCALE / classifiers)
    return {
        "backbone_weights": [float(s) for s in scales / total],
        "temperature": float(1 / total),
        "log_odds_shift": float(shift),
    }
