"""Groups of faces that a model may serve unequally, and how surely a figure of each is known."""

from collections.abc import Callable

import numpy as np
from scipy.stats import bootstrap

from affectnet_plus import ETHNICITIES, EXPRESSIONS, GENDERS, SUBSETS
from affectnet_plus.training.faces import Split

from .soft_labels import ranks_of

RESAMPLES = 1000
OWN_SCORES = "by this model's own scores"
MARGIN = "margin"  # of the ground truth, top-1 minus top-2
_AGES = (20, 35, 50, 65)
_MARGINS = (0.1, 0.3, 0.6)


def subsets_of_ranks(ranks: np.ndarray) -> np.ndarray:
    """Difficulty subsets by the rank of the human label in the soft label.

    Args:
        ranks: (N,) from 1, as `ranks_of` has them.

    Returns:
        (N,) indices into `SUBSETS`: easy for rank 1, challenging for 2 and 3, difficult for others.
    """
    return np.digitize(ranks, [2, 4])


def subsets_of(
    split: Split, ground_truth: np.ndarray | None, ground_truth_name: str, scores: np.ndarray
) -> tuple[np.ndarray, str]:
    """Difficulty subsets: as the dataset says, else by the ground truth, else by the model's own scores.

    Args:
        split: N faces.
        ground_truth: (N, 8) soft labels, or None.
        ground_truth_name: what to call them.
        scores: (N, 8) of the model.

    Returns:
        (N,) indices into `SUBSETS`, -1 where unknown, and where they come from.
    """
    if split.metadata is not None and "subset" in split.metadata.features:
        known = np.array([-1 if value is None else value for value in split.metadata["subset"][:]])
        if (known >= 0).any():
            return known, "as the dataset says"
    ranked, source = (scores, OWN_SCORES) if ground_truth is None else (ground_truth, f"by {ground_truth_name}")
    return np.where(ranked.any(axis=1), subsets_of_ranks(ranks_of(ranked, split.labels)), -1), source


def slices_of(
    split: Split, subset: np.ndarray | None = None, ground_truth: np.ndarray | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """Rows by expression and by whatever else is known of the faces; rows that lack it are in no slice of it.

    Head pose goes by thirds of |yaw|, as its unit is not documented.

    Args:
        split: N faces.
        subset: (N,) as `subsets_of` has it.
        ground_truth: (N, 8) soft labels, each divided by its sum here: the smaller the margin between the highest
            share and the second, 0 to 1, the more mixed a face.

    Returns:
        {what faces are sliced by: {slice: row numbers}}, without empty slices.
    """
    found = {"expression": _groups(split.labels, EXPRESSIONS)}
    known = {} if split.metadata is None else split.metadata.features

    def column(name: str) -> list:
        return split.metadata[name][:]

    if subset is not None:
        found["subset"] = _groups(subset, SUBSETS)
    if ground_truth is not None:
        total = ground_truth.sum(axis=1, keepdims=True)
        ranked = np.sort(ground_truth / total.clip(min=1e-12), axis=1)
        # Rounded: of ten votes, 5 and 2 are no less than 0.3 apart.
        band = np.where(total[:, 0] > 0, np.digitize((ranked[:, -1] - ranked[:, -2]).round(6), _MARGINS), -1)
        found[MARGIN] = _groups(band, _band_names(_MARGINS))
    for name, classes in (("gender", GENDERS), ("ethnicity", ETHNICITIES)):
        if name in known:  # the class with the highest score
            scores = [[v[c] for c in classes] if v and None not in v.values() else None for v in column(name)]
            found[name] = _groups([-1 if s is None else int(np.argmax(s)) for s in scores], classes)
    if "age" in known:
        band = [-1 if age is None else int(np.digitize(age, _AGES)) for age in column("age")]
        found["age"] = _groups(band, _band_names(_AGES, step=1))
    if "head_pose" in known:
        yaw = np.array([np.nan if not v or v["yaw"] is None else abs(v["yaw"]) for v in column("head_pose")])
        turned = ~np.isnan(yaw)
        if turned.any():
            band = np.where(turned, np.digitize(yaw, np.quantile(yaw[turned], [1 / 3, 2 / 3])), -1)
            found["head pose"] = _groups(band, ("frontal third", "middle third", "most turned third"))
    return {name: groups for name, groups in found.items() if groups}


def _band_names(bounds: tuple, step: int = 0) -> list[str]:
    between = [f"{low} to {high - step}" for low, high in zip(bounds, bounds[1:], strict=False)]
    return [f"under {bounds[0]}", *between, f"{bounds[-1]} and over"]


def _groups(of_row, names) -> dict[str, np.ndarray]:
    of_row = np.asarray(of_row)
    rows = {name: np.flatnonzero(of_row == i) for i, name in enumerate(names)}
    return {name: present for name, present in rows.items() if len(present)}


def interval(statistic: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, seed: int = 0) -> list[float] | None:
    """95 % bootstrap interval (percentile; scipy) of a figure of some rows, resampled `RESAMPLES` times.

    Args:
        statistic: (resamples, N) row numbers -> (resamples,) figures.
        rows: (N,) row numbers.
        seed: of the resampling.

    Returns:
        Its lower and upper bound; None for fewer than two rows.
    """
    if len(rows) < 2:
        return None
    found = _bootstrap(statistic, rows, seed).confidence_interval
    return [round(float(found.low), 5), round(float(found.high), 5)]


def resampled(statistic: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, seed: int = 0) -> np.ndarray | None:
    """(RESAMPLES,) figures that `interval` is made of: of the same rows and seed, the same resamples in the same order,
    whatever the statistic. None for fewer than two rows."""
    return None if len(rows) < 2 else _bootstrap(statistic, rows, seed).bootstrap_distribution


def _bootstrap(statistic, rows: np.ndarray, seed: int):
    return bootstrap(
        (rows,), lambda sample, axis: statistic(np.atleast_2d(sample)), n_resamples=RESAMPLES, vectorized=True,
        batch=max(1, 5_000_000 // len(rows)), method="percentile", rng=np.random.default_rng(seed),
    )  # fmt: skip


def mean_of(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The mean of (N,) `values`, those that are NaN left out, as a statistic for `interval`."""
    return lambda rows: np.nanmean(values[rows], axis=1)


def macro_f1_of(predicted: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Macro F1 over those expressions that a sample's labels hold, as in `HumanLabels`, as a statistic for `interval`.

    Args:
        predicted: (N,) indices into `EXPRESSIONS`.
        labels: (N,) the same.
    """
    classes = len(EXPRESSIONS)
    cells = labels * classes + predicted  # of a confusion matrix, row by row

    def statistic(rows: np.ndarray) -> np.ndarray:
        of_sample = cells[rows] + classes**2 * np.arange(len(rows))[:, None]
        counts = np.bincount(of_sample.ravel(), minlength=classes**2 * len(rows))
        confusion = counts.reshape(len(rows), classes, classes)
        present, called = confusion.sum(axis=2), confusion.sum(axis=1)
        f1 = 2 * np.einsum("rcc->rc", confusion) / np.maximum(present + called, 1)
        return f1.sum(axis=1, where=present > 0) / (present > 0).sum(axis=1)

    return statistic


def calibration_error_of(
    scores: np.ndarray, ground_truth: np.ndarray, bins: int = 15
) -> Callable[[np.ndarray], np.ndarray]:
    """`ece` of `SoftLabels`, as a statistic for `interval`.

    Args:
        scores: (N, C) in [0, 1].
        ground_truth: (N, C) the same.
        bins: number of equal steps of the score.
    """
    places, errors = np.minimum((scores * bins).astype(int), bins - 1), scores - ground_truth

    def statistic(rows: np.ndarray) -> np.ndarray:
        first_bins, total = bins * np.arange(len(rows))[:, None], 0
        for place, error in zip(places.T, errors.T, strict=True):
            sums = np.bincount((place[rows] + first_bins).ravel(), error[rows].ravel(), bins * len(rows))
            total += np.abs(sums.reshape(-1, bins)).sum(axis=1)
        return total / (rows.shape[1] * scores.shape[1])

    return statistic
