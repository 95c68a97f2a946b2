"""How an expression's binary classifiers are combined: weights, temperature and shift, fitted on validation."""

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

_DOUBT = 30.0  # 1 / (2 variance) of what 1 / temperature may be, around 1, before validation is seen
_SMALLEST_SCALE = 0.05  # 1 / temperature


def fit_calibration(log_odds: np.ndarray, is_expression: np.ndarray, prior: str) -> dict:
    """The likeliest sigmoid(log_odds (N, K) @ weights / temperature + shift) where `is_expression` (N,) was observed.

    Equal weights and temperature 1 are believed until rows speak against it (a normal distribution with standard
    deviation 0.13 of 1 / temperature): of a rare expression validation holds few rows. Convex in weights / temperature
    (at least 0) and shift. The classifiers saw as many faces of the expression as others; `prior="validation"` lets the
    shift undo that, so that scores are frequencies of the validation split; `prior="balanced"` keeps it at 0. Returns
    `backbone_weights` (sum 1), `temperature`, `log_odds_shift`.
    """
    rows, classifiers = log_odds.shape
    target = is_expression.astype(np.float64)
    row_weights = weights_of_rows(is_expression, prior)

    def loss(parameters):
        scales, shift = parameters[:-1], parameters[-1]
        logits = log_odds @ scales + shift
        error = row_weights * (expit(logits) - target)
        surprise = scales - 1 / classifiers
        value = row_weights @ (np.logaddexp(0, logits) - target * logits) + _DOUBT * classifiers * surprise @ surprise
        return value / rows, np.append(log_odds.T @ error + 2 * _DOUBT * classifiers * surprise, error.sum()) / rows

    shift_bounds = (0.0, 0.0) if prior == "balanced" else (None, None)
    start = np.append(np.full(classifiers, 1 / classifiers), 0.0)
    fitted = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * classifiers + [shift_bounds])
    scales, shift = fitted.x[:-1], fitted.x[-1]
    total = scales.sum()
    if total < _SMALLEST_SCALE:  # classifiers that say nothing: keep them equal, and nearly silent
        total, scales = _SMALLEST_SCALE, np.full(classifiers, _SMALLEST_SCALE / classifiers)
    return {
        "backbone_weights": [float(s) for s in scales / total],
        "temperature": float(1 / total),
        "log_odds_shift": float(shift),
    }


def weights_of_rows(is_expression: np.ndarray, prior: str) -> np.ndarray:
    """(N,) with mean 1: all equal, or, where `prior` is "balanced", half for each side, as in training."""
    if prior != "balanced":
        return np.ones(len(is_expression))
    sides = np.bincount(is_expression.astype(int), minlength=2)
    return 0.5 * len(is_expression) / sides[is_expression.astype(int)]
