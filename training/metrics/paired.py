"""Several models on the same faces: figures and their differences under one resampling, and how often they agree."""

import warnings
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from sklearn.metrics import cohen_kappa_score

from affectnet_plus import EXPRESSIONS, match_expressions

from .slices import calibration_error_of, macro_f1_of, mean_of, resampled
from .soft_labels import js_divergences

BEST = {"accuracy": max, "macro_f1": max, "js_divergence": min, "ece": min}


def figures_of(
    scores: Sequence[np.ndarray], labels: np.ndarray, ground_truth: np.ndarray | None, expressions: Sequence[str]
) -> tuple[list[dict[str, dict]], list[dict]]:
    """The headline figures of some models, and the difference of each two, with 95 % intervals.

    Every resample is of the same rows for all models (paired bootstrap; Koehn, EMNLP 2004, for machine translation;
    Efron and Tibshirani, 1993): what is hard for both is in both, and their difference is known better than either.
    Intervals are percentiles, each by itself: they are not corrected for the number of comparisons. Resamples of the
    calibration error, in which some faces come twice, are further off than the faces: their mean excess is taken off.

    Args:
        scores: of each model (N, 8) in [0, 1], 0 but for `expressions`.
        labels: (N,) indices into `EXPRESSIONS`.
        ground_truth: (N, 8) in [0, 1], 0 but for `expressions`, or None.
        expressions: those that are measured.

    Returns:
        For each model {figure: {"value", "interval"}}; for each pair {"first", "second"} (places in `scores`) and
        "figures" {figure: {"difference" (first minus second), "interval", "more_than_chance"}}. Intervals are None for
        fewer than two rows, and where a figure is undefined.
    """
    every = np.arange(len(labels))
    statistics = [_statistics(of_model, labels, ground_truth, expressions) for of_model in scores]
    values = [{name: float(of(every[None])[0]) for name, of in found.items()} for found in statistics]
    draws = [
        {name: _drawn(of, every, value[name] if name == "ece" else None) for name, of in found.items()}
        for found, value in zip(statistics, values, strict=True)
    ]
    figures = [
        {name: {"value": round(of_model[name], 5), "interval": _interval(drawn[name])} for name in of_model}
        for of_model, drawn in zip(values, draws, strict=True)
    ]
    differences = []
    for first, second in combinations(range(len(scores)), 2):
        found = {}
        for name in values[first]:
            between = None if draws[first][name] is None else draws[first][name] - draws[second][name]
            interval = _interval(between)
            found[name] = {
                "difference": round(values[first][name] - values[second][name], 5) + 0.0,  # no -0
                "interval": interval,
                "more_than_chance": interval is not None and (interval[0] > 0 or interval[1] < 0),
            }
        differences.append({"first": first, "second": second, "figures": found})
    return figures, differences


def _statistics(scores, labels, ground_truth, expressions) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    predicted = scores.argmax(axis=1)
    found = {"accuracy": mean_of((predicted == labels).astype(float)), "macro_f1": macro_f1_of(predicted, labels)}
    if ground_truth is not None:
        shown = match_expressions(expressions)
        found["js_divergence"] = mean_of(js_divergences(scores, ground_truth))
        found["ece"] = calibration_error_of(scores[:, shown], ground_truth[:, shown])
    return found


def _drawn(statistic, rows: np.ndarray, mean: float | None) -> np.ndarray | None:
    """Figures of resamples, shifted to this mean where one is given."""
    drawn = resampled(statistic, rows)
    return drawn if mean is None or drawn is None else drawn - drawn.mean() + mean


def _interval(drawn: np.ndarray | None) -> list[float] | None:
    if drawn is None or np.isnan(drawn).any():
        return None
    return (np.percentile(drawn, [2.5, 97.5]).round(5) + 0.0).tolist()


def agreement_of(scores: Sequence[np.ndarray]) -> dict[str, list[list[float]]]:
    """How often each two of M models predict the same expression.

    Args:
        scores: of each model (N, 8).

    Returns:
        `share` (M, M) of the rows, and `kappa` (M, M), Cohen's, 1 for always and 0 for as often as chance would have
        it (scikit-learn); NaN where neither model ever varies.
    """
    predicted = [of_model.argmax(axis=1) for of_model in scores]
    every = range(len(EXPRESSIONS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is NaN
        kappa = [[round(float(cohen_kappa_score(a, b, labels=every)), 5) for b in predicted] for a in predicted]
    return {"share": [[round(float((a == b).mean()), 5) for b in predicted] for a in predicted], "kappa": kappa}


def ensemble_of(scores: Sequence[np.ndarray], known: Sequence[Sequence[str]]) -> np.ndarray:
    """The mean of models' scores, of each expression over the models that know it.

    Args:
        scores: of each model (N, 8).
        known: of each model the expressions that it knows.

    Returns:
        (N, 8), 0 for an expression that none knows.
    """
    knows = np.array([np.isin(EXPRESSIONS, names) for names in known])[:, None]  # (M, 1, 8)
    return (np.stack(scores) * knows).sum(axis=0) / knows.sum(axis=0).clip(min=1)
