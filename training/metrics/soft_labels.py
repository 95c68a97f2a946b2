"""Metrics of soft labels against others, and the distances they are made of."""

import numpy as np
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy, rankdata

from .array_metric import ArrayMetric


class SoftLabels(ArrayMetric):
    """How near soft labels are to the ground truth.

    Args:
        bins: number of equal steps of the score for `ece`.

    `compute` takes `predictions` and `references`, both (N, C) scores from 0 to 1, the references e.g. true intensities
    or shares of votes. It returns, each a mean over rows unless said otherwise:

    - `mae`: absolute error of the scores as they are, over all expressions.
    - `js_divergence`: Jensen-Shannon divergence in nats, 0 to ln 2, of the distributions (scores divided by their sum;
      scipy). Here and in the next two, rows whose scores are all 0 are left out.
    - `kl`: Kullback-Leibler divergence in nats of the reference from the prediction, whose shares count as at least
      1e-6 (scipy).
    - `cosine`: cosine similarity of the scores as they are.
    - `top1`, `top2`: the expression that the reference has strongest has the highest, or one of the two highest,
      scores; rows whose references are all 0 are left out.
    - `spearman`: rank correlation of a row's C scores with its C references, ties at their mean rank; rows whose scores
      or references are all equal have none and are left out.
    - `ece`: expected calibration error, the mean over expressions: rows in `bins` equal steps of the predicted score,
      |mean score - mean reference| of each bin, weighted by its rows.
    """

    def __init__(self, bins: int = 15, **kwargs):
        self.bins = bins
        super().__init__(**kwargs)

    def _compute(self, predictions, references):
        known = references.any(axis=1)
        order = predictions[known].argsort(axis=1, kind="stable")[:, ::-1]
        dominant = references[known].argmax(axis=1)[:, None]
        both = predictions.any(axis=1) & known
        ours, theirs = predictions[both], references[both]
        columns = zip(predictions.T, references.T, strict=True)
        return {
            "mae": float(np.abs(predictions - references).mean()),
            "js_divergence": js_divergence(predictions, references),
            "kl": float(entropy(theirs, (ours / ours.sum(axis=1, keepdims=True)).clip(1e-6), axis=1).mean()),
            "cosine": float(_cosines(ours, theirs).mean()),
            **{f"top{k}": float((order[:, :k] == dominant).any(axis=1).mean()) for k in (1, 2)},
            "spearman": float(np.nanmean(spearman_correlations(predictions, references))),
            "ece": float(np.mean([_calibration_error(*column, self.bins) for column in columns])),
        }


def _cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (first * second).sum(axis=1) / (np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1))


def spearman_correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of each row of one array with that of another.

    Args:
        first: (N, C) numbers.
        second: (N, C) numbers.

    Returns:
        (N,) in [-1, 1], ties at their mean rank; NaN where all numbers of one of the rows are equal.
    """
    first, second = (rankdata(values, axis=1) - (first.shape[1] + 1) / 2 for values in (first, second))
    with np.errstate(invalid="ignore"):
        return _cosines(first, second)


def _calibration_error(score: np.ndarray, truth: np.ndarray, bins: int) -> float:
    place = np.minimum((score * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(place, score - truth, bins)).sum() / len(score))


def ranks_of(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Place of each row's label among its scores.

    Args:
        scores: (N, C) numbers.
        labels: (N,) indices of classes.

    Returns:
        (N,) ranks, 1 for the highest score.
    """
    return 1 + (scores > scores[np.arange(len(labels)), labels, None]).sum(axis=1)


def js_divergence(soft_labels: np.ndarray, reference: np.ndarray) -> float:
    """The mean of `js_divergences` over the rows that have one, NaN where none has."""
    divergences = js_divergences(soft_labels, reference)
    return float(np.nanmean(divergences)) if np.isfinite(divergences).any() else np.nan


def js_divergences(soft_labels: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence of each row, divided by its sum, from that of another array (scipy).

    Args:
        soft_labels: (N, C) scores of at least 0.
        reference: (N, C) the same.

    Returns:
        (N,) nats, 0 to ln 2; NaN where one of the two is no distribution, because all its scores are 0, or holds NaN.
    """
    divergences = np.full(len(soft_labels), np.nan)
    known = soft_labels.any(axis=1) & reference.any(axis=1) & np.isfinite(soft_labels + reference).all(axis=1)
    # Of two that differ in their last bits only, scipy takes the root of a sum that may be below 0.
    with np.errstate(invalid="ignore"):
        divergences[known] = np.nan_to_num(jensenshannon(soft_labels[known], reference[known], axis=1)) ** 2
    return divergences
