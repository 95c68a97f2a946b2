"""What is in a split, in numbers: labels, soft labels, affect and the groups of its faces."""

import warnings

import numpy as np
import pandas as pd

from affectnet_plus import EXPRESSIONS, SUBSETS
from affectnet_plus.training.faces import Split

from .slices import slices_of

PRESENT = 0.5  # a score from which an expression counts as present
LEAST_ROWS = 30  # of a group, below which its shares say too little to be compared
_BINS = 20


def describe_split(split: Split) -> dict:
    """Figures of one split; each part is left out where nothing is known of it.

    Args:
        split: N rows; a label of -1 is none of the eight expressions, or none.

    Returns:
        `rows`; `subsets` {expression: {subset: rows}}; `soft_labels` (see `describe_soft_labels`); `valence_arousal`
        (see `describe_affect`); `groups` {attribute: (see `describe_groups`)}.
    """
    found: dict = {"rows": len(split)}
    if split.metadata is not None and "subset" in split.metadata.features:
        subset = np.array([-1 if value is None else value for value in split.metadata["subset"][:]])
        if (subset >= 0).any():
            found["subsets"] = {
                name: {kind: int(((split.labels == i) & (subset == j)).sum()) for j, kind in enumerate(SUBSETS)}
                for i, name in enumerate(EXPRESSIONS)
            }
    if split.soft_labels is not None and not np.isnan(split.soft_labels).all():
        found["soft_labels"] = describe_soft_labels(split.soft_labels, split.labels)
    affect = split.affect()
    if not np.isnan(affect).all():
        found["valence_arousal"] = describe_affect(affect, split.labels)
    groups = {name: rows for name, rows in slices_of(split).items() if name != "expression"}
    found["groups"] = {name: describe_groups(of_name, split.labels) for name, of_name in groups.items()}
    return found


def describe_soft_labels(scores: np.ndarray, labels: np.ndarray) -> dict:
    """How scores are distributed, and which expressions go together.

    Args:
        scores: (N, 8) in [0, 1]; NaN where unknown.
        labels: (N,) indices into `EXPRESSIONS`, -1 for none.

    Returns:
        `rows` that have any score; `mean` and `histogram` (20 equal steps of the score) of each expression;
        `mean_by_label` (8 x 8: human label, expression); `correlation` (8 x 8, Pearson's, of scores); `together` (8 x
        8: share of rows in which both scores are at least 0.5; the diagonal, the one alone); `present` (9: rows with 0
        to 8 scores of at least 0.5); `entropy` (in nats, of scores divided by their sum: `edges`, `rows`, `mean`). NaN
        where there is nothing to compute it of.
    """
    has = ~np.isnan(scores).all(axis=1)
    scores, labels = scores[has], labels[has]
    present = np.where(np.isnan(scores), np.nan, scores >= PRESENT)
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore")  # of means of nothing, which are NaN
        mean = np.nanmean(scores, axis=0)
        means = [np.nanmean(scores[labels == i], axis=0) for i in range(len(EXPRESSIONS))]
        together = np.nanmean(present[:, :, None] * present[:, None], axis=0)
        shares = np.nan_to_num(scores) / np.nansum(scores, axis=1, keepdims=True)
    correlation = pd.DataFrame(scores).corr().to_numpy()
    entropy = -(shares * np.log(shares, where=shares > 0, out=np.zeros_like(shares))).sum(axis=1)
    entropy = entropy[np.nan_to_num(scores).any(axis=1)]
    rows, edges = np.histogram(entropy, _BINS, (0, np.log(len(EXPRESSIONS))))
    return {
        "rows": len(scores),
        "mean": dict(zip(EXPRESSIONS, mean.round(5).tolist(), strict=True)),
        "histogram": {
            name: np.histogram(column[~np.isnan(column)], _BINS, (0, 1))[0].tolist()
            for name, column in zip(EXPRESSIONS, scores.T, strict=True)
        },
        "mean_by_label": np.round(means, 5).tolist(),
        "correlation": correlation.round(5).tolist(),
        "together": together.round(5).tolist(),
        "present": np.bincount(np.nansum(present, axis=1).astype(int), minlength=9).tolist(),
        "entropy": {
            "edges": edges.round(5).tolist(),
            "rows": rows.tolist(),
            "mean": round(float(entropy.mean()), 5) if len(entropy) else np.nan,
        },
    }


def describe_affect(affect: np.ndarray, labels: np.ndarray) -> dict:
    """Where faces lie on the plane of valence and arousal.

    Args:
        affect: (N, 2) valence and arousal in [-1, 1], NaN where unknown.
        labels: (N,) indices into `EXPRESSIONS`, -1 for none.

    Returns:
        `rows`; `density` (20 x 20 rows: arousal from -1, valence from -1); `mean` {expression: [valence, arousal]}.
    """
    has = ~np.isnan(affect).any(axis=1)
    affect, labels = affect[has], labels[has]
    valence, arousal = affect.T
    return {
        "rows": len(affect),
        "density": np.histogram2d(arousal, valence, _BINS, [(-1, 1), (-1, 1)])[0].astype(int).tolist(),
        "mean": {
            name: affect[labels == i].mean(axis=0).astype(float).round(5).tolist()
            for i, name in enumerate(EXPRESSIONS)
            if (labels == i).any()
        },
    }


def describe_groups(groups: dict[str, np.ndarray], labels: np.ndarray) -> dict:
    """How often each human label is given in groups of the faces.

    Args:
        groups: {group: row numbers}, as `slices_of` has them.
        labels: (N,) indices into `EXPRESSIONS`, -1 for none.

    Returns:
        `rows` {group: rows}; `shares` {group: (8,) of its labelled rows}; `gap` {expression: largest minus smallest
        share}, of groups of at least 30 labelled rows; None where fewer than two groups are so large.
    """
    counts = np.array([np.bincount(labels[rows][labels[rows] >= 0], minlength=8) for rows in groups.values()])
    labelled = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, labelled, out=np.full(counts.shape, np.nan), where=labelled > 0)
    compared = shares[labelled[:, 0] >= LEAST_ROWS]
    return {
        "rows": {name: len(rows) for name, rows in groups.items()},
        "shares": dict(zip(groups, shares.round(5).tolist(), strict=True)),
        "gap": dict(zip(EXPRESSIONS, np.ptp(compared, axis=0).round(5).tolist(), strict=True))
        if len(compared) > 1
        else None,
    }
