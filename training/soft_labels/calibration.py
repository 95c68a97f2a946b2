"""How an expression's binary classifiers are combined: weights, temperature and shift, fitted on validation; and the
prior, the class frequencies that scores are calibrated to."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from affectnet_plus import EXPRESSIONS, match_expressions
from affectnet_plus.training.arguments.network import wrong_prior

_DOUBT = 30.0  # 1 / (2 variance) of what 1 / temperature may be, around 1, before validation is seen
_SMALLEST_SCALE = 0.05  # 1 / temperature


def fit_calibration(log_odds: np.ndarray, is_expression: np.ndarray, prior: float | None = None) -> dict:
    """The likeliest sigmoid(log_odds (N, K) @ weights / temperature + shift) where `is_expression` (N,) was observed.

    Equal weights and temperature 1 are believed until rows speak against it (a normal distribution with standard
    deviation 0.13 of 1 / temperature): of a rare expression validation holds few rows. Convex in weights / temperature
    (at least 0) and shift. The classifiers saw as many faces of the expression as others; the shift undoes that.

    So fitted, scores are frequencies of the validation rows. `prior`, in (0, 1), is how frequent the expression is
    where the scores will be used (None: as in validation): the shift then grows by logit(prior) - logit(frequency in
    validation) (Saerens, Latinne, Decaestecker, "Adjusting the outputs of a classifier to new a priori probabilities",
    2002). Returns `backbone_weights` (sum 1), `temperature`, `log_odds_shift`, `prior` and `validation_frequency`.
    Raises `ValueError` where `prior` is given and validation holds only one of the two kinds of rows.
    """
    rows, classifiers = log_odds.shape
    target = is_expression.astype(np.float64)

    def loss(parameters):
        scales, shift = parameters[:-1], parameters[-1]
        logits = log_odds @ scales + shift
        error = expit(logits) - target
        surprise = scales - 1 / classifiers
        value = (np.logaddexp(0, logits) - target * logits).sum() + _DOUBT * classifiers * surprise @ surprise
        return value / rows, np.append(log_odds.T @ error + 2 * _DOUBT * classifiers * surprise, error.sum()) / rows

    start = np.append(np.full(classifiers, 1 / classifiers), 0.0)
    fitted = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * classifiers + [(None, None)])
    scales, shift = fitted.x[:-1], fitted.x[-1]
    total = scales.sum()
    if total < _SMALLEST_SCALE:  # classifiers that say nothing: keep them equal, and nearly silent
        total, scales = _SMALLEST_SCALE, np.full(classifiers, _SMALLEST_SCALE / classifiers)
    frequency = target.mean()
    if prior is not None:
        shift += shift_of_prior(frequency, prior)
    return {
        "backbone_weights": [float(s) for s in scales / total],
        "temperature": float(1 / total),
        "log_odds_shift": float(shift),
        "prior": float(frequency if prior is None else prior),
        "validation_frequency": float(frequency),
    }


def shift_of_prior(from_prior, to_prior) -> np.ndarray:
    """What log-odds grow by when an expression is as frequent as `to_prior` says instead of `from_prior`: arrays of one
    shape, or numbers, each in (0, 1), else `ValueError`; NaN where both are."""
    priors = np.stack([from_prior, to_prior]).astype(np.float64)
    if not ((priors > 0) & (priors < 1) | np.isnan(priors).all(axis=0)).all():
        raise ValueError(f"A prior is above 0 and below 1 for every expression, not {from_prior} or {to_prior}.")
    return logit(priors[1]) - logit(priors[0])


def reexpress(scores: np.ndarray, from_prior: Sequence[float], to_prior: Sequence[float]) -> np.ndarray:
    """Scores (..., C) in [0, 1] that are calibrated to class frequencies `from_prior` (C,), for `to_prior` (C,).

    Their odds grow by the odds of the new prior over the odds of the old one (Saerens, Latinne, Decaestecker 2002); 0
    and 1 stay what they are, and what is NaN in both priors becomes NaN.
    """
    odds = np.exp(shift_of_prior(from_prior, to_prior))
    present = np.asarray(scores, dtype=np.float64) * odds
    return present / (present + (1 - np.asarray(scores, dtype=np.float64)))


def class_frequencies(labels: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
    """(8,) shares of the expressions among `labels` (N,), indices, each among the rows where it is `known` (N, 8), all
    by default; -1, no expression, does not count."""
    counts = np.bincount(labels[labels >= 0], minlength=len(EXPRESSIONS))
    return counts / np.maximum(1, counts.sum() if known is None else known[labels >= 0].sum(axis=0))


def prior_of_rows(labels: np.ndarray, prior: np.ndarray | None) -> np.ndarray | None:
    """`prior` (8,) with the class frequencies of `labels` (N,) in its place; as it is where they lack an expression."""
    frequencies = class_frequencies(labels)
    known = np.ones(len(EXPRESSIONS), dtype=bool) if prior is None else ~np.isnan(prior)
    return np.where(known, frequencies, np.nan) if frequencies[known].all() else prior


def prior_numbers(
    asked: str | Sequence[float], frequencies_in: Callable[[str], np.ndarray], expressions: Sequence[str]
) -> np.ndarray:
    """(8,) what --prior asks for of these expressions, NaN for others. `frequencies_in("train")` and
    `frequencies_in("validation")` give the `class_frequencies` of a split, and are called only where they are asked
    for; one that has no rows of an expression gives 0. `ValueError` where numbers are not one for each."""
    prior, wanted = np.full(len(EXPRESSIONS), np.nan), match_expressions(expressions)
    if not isinstance(asked, str):
        if len(asked) != len(wanted):
            raise wrong_prior(asked, expressions)
        prior[wanted] = asked
    elif asked == "balanced":
        prior[wanted] = 1 / len(wanted)
    else:
        prior[wanted] = frequencies_in(asked)[wanted]
    return prior
