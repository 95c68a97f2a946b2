"""Groups of faces that a model may serve unequally, and how surely a figure of each is known."""

from collections.abc import Callable

import numpy as np
from scipy.stats import bootstrap

from affectnet_plus import ETHNICITIES, EXPRESSIONS, GENDERS, SUBSETS
from affectnet_plus.training.faces import Split
from affectnet_plus.training.metrics import ranks_of

RESAMPLES = 1000
OWN_SCORES = "by this model's own scores"
_AGES = (20, 35, 50, 65)
LEAD = "lead of the first expression"
_LEADS = (0.1, 0.3, 0.6)


def subsets_of_ranks(ranks: np.ndarray) -> np.ndarray:
    """0 easy: rank 1; 1 challenging: 2 or 3; 2 difficult."""
    return np.digitize(ranks, [2, 4])


def subsets_of(split: Split, truth: np.ndarray | None, truth_name: str, scores: np.ndarray) -> tuple[np.ndarray, str]:
    """(N,) 0 easy, 1 challenging, 2 difficult, -1 unknown, and where that comes from."""
    if split.metadata is not None and "subset" in split.metadata.features:
        held = np.array([-1 if v is None else v for v in split.metadata["subset"][:]])
        if (held >= 0).any():
            return held, "as the dataset says"
    ranked, source = (scores, OWN_SCORES) if truth is None else (truth, f"by {truth_name}")
    return np.where(ranked.any(axis=1), subsets_of_ranks(ranks_of(ranked, split.labels)), -1), source


def slices_of(
    split: Split, subset: np.ndarray | None = None, truth: np.ndarray | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """{what faces are sliced by: {slice: its rows}}, of whatever is known of the faces; rows that lack it are in none.

    `subset` (N,) as `subsets_of` has it. `truth` (N, 8): its lead is how far the first expression's share of the row's
    sum is above the second's, 0 to 1: the smaller, the more mixed a face. Head pose goes by thirds of |yaw|, as its
    unit is not documented.
    """
    found = {"expression": _groups(split.labels, EXPRESSIONS)}
    known = {} if split.metadata is None else split.metadata.features

    def column(name: str) -> list:
        return split.metadata[name][:]

    if subset is not None:
        found["subset"] = _groups(subset, SUBSETS)
    if truth is not None:
        total = truth.sum(axis=1, keepdims=True)
        ranked = np.sort(truth / total.clip(min=1e-12), axis=1)
        names = (f"under {_LEADS[0]}", *(f"{a} to {b}" for a, b in zip(_LEADS, _LEADS[1:], strict=False)))
        # Rounded: of ten votes, 5 and 2 are no less than 0.3 apart.
        band = np.where(total[:, 0] > 0, np.digitize((ranked[:, -1] - ranked[:, -2]).round(6), _LEADS), -1)
        found[LEAD] = _groups(band, (*names, f"{_LEADS[-1]} and over"))
    for name, classes in (("gender", GENDERS), ("ethnicity", ETHNICITIES)):
        if name in known:  # the class with the highest score
            scores = [[v[c] for c in classes] if v and None not in v.values() else None for v in column(name)]
            found[name] = _groups([-1 if s is None else int(np.argmax(s)) for s in scores], classes)
    if "age" in known:
        names = (f"under {_AGES[0]}", *(f"{a} to {b - 1}" for a, b in zip(_AGES, _AGES[1:], strict=False)))
        band = [-1 if age is None else int(np.digitize(age, _AGES)) for age in column("age")]
        found["age"] = _groups(band, (*names, f"{_AGES[-1]} and over"))
    if "head_pose" in known:
        yaw = np.array([np.nan if not v or v["yaw"] is None else abs(v["yaw"]) for v in column("head_pose")])
        turned = ~np.isnan(yaw)
        if turned.any():
            band = np.where(turned, np.digitize(yaw, np.quantile(yaw[turned], [1 / 3, 2 / 3])), -1)
            found["head pose"] = _groups(band, ("frontal third", "middle third", "most turned third"))
    return {name: groups for name, groups in found.items() if groups}


def _groups(of_row, names) -> dict[str, np.ndarray]:
    of_row = np.asarray(of_row)
    rows = {name: np.flatnonzero(of_row == i) for i, name in enumerate(names)}
    return {name: held for name, held in rows.items() if len(held)}


def interval(statistic: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, seed: int = 0) -> list[float] | None:
    """95 % bootstrap interval (percentile; scipy) of a figure of `rows`, resampled `RESAMPLES` times.

    `statistic`: (resamples, N) row numbers -> (resamples,). None for fewer than two rows.
    """
    if len(rows) < 2:
        return None
    found = bootstrap(
        (rows,), lambda sample, axis: statistic(np.atleast_2d(sample)), n_resamples=RESAMPLES, vectorized=True,
        batch=max(1, 5_000_000 // len(rows)), method="percentile", rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return [round(float(found.low), 5), round(float(found.high), 5)]


def mean_of(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Of those values that are defined (not NaN)."""
    return lambda rows: np.nanmean(values[rows], axis=1)


def macro_f1_of(predicted: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Macro F1 over those expressions that a sample's labels hold, as `HumanLabels` has it."""
    pairs, classes = labels * len(EXPRESSIONS) + predicted, len(EXPRESSIONS)

    def statistic(rows: np.ndarray) -> np.ndarray:
        counts = np.stack([np.bincount(pairs[sample], minlength=classes**2) for sample in rows])
        confusion = counts.reshape(len(rows), classes, classes)
        held, said = confusion.sum(axis=2), confusion.sum(axis=1)
        f1 = 2 * np.einsum("rcc->rc", confusion) / np.maximum(held + said, 1)
        return f1.sum(axis=1, where=held > 0) / (held > 0).sum(axis=1)

    return statistic
