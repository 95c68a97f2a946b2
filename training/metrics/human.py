"""The human yardstick: how near some people's votes come to the others', and how many people a model is worth."""

from collections.abc import Sequence

import numpy as np

from affectnet_plus import EXPRESSIONS, match_expressions
from affectnet_plus.training.faces import Split

from .slices import RESAMPLES
from .soft_labels import js_divergences

_FIGURES = ("js_divergence", "accuracy")  # of people and of the model, each
_BATCH = 50_000_000  # numbers of resampled rows at a time


def yardstick_of(split: Split, scores: np.ndarray, expressions: Sequence[str] = EXPRESSIONS) -> dict:
    """What metrics.json holds of it, under "human_yardstick"; empty where no row has two votes.

    Args:
        split: N rows.
        scores: (N, 8) of the model, in [0, 1].
        expressions: those that are measured; votes for others are left out.
    """
    if split.votes is None:
        return {}
    shown = match_expressions(expressions)
    votes, scores = split.votes[:, shown], scores[:, shown]
    rows = (votes.sum(axis=1) > 1) & scores.any(axis=1)
    return {"human_yardstick": human_yardstick(votes[rows], scores[rows])} if rows.any() else {}


def human_yardstick(votes: np.ndarray, scores: np.ndarray, draws: int = 20, seed: int = 0) -> dict:
    """People against people, and a model against the same people.

    Of each row's n votes k are drawn without replacement. They, and the model, are compared with the n - k others; rows
    with no others are left out. k goes from 1 to half of the median n: n - k against k people is the same again.

    Args:
        votes: (N, C) how many people chose each class, at least two in a row.
        scores: (N, C) of the model, at least 0, none of them all 0.
        draws: how often they are drawn, for each k.
        seed: of drawing and resampling.

    Returns:
        `people`: for each k the `rows`, `js_divergence` (nats, of distributions) and `accuracy` (most votes are for
        what most others voted for; of several that are equal, one by chance), each a mean over rows and draws, their
        95 % bootstrap `intervals` over rows, and the same of the `model`. `worth`: by each of the two figures, how many
        `people` are as good as the model, interpolated linearly between whole numbers and cut to those measured
        (`bound`: "at most" or "at least", else None), with its `interval`.
    """
    rng = np.random.default_rng(seed)
    sizes = np.arange(1, max(1, int(np.median(votes.sum(axis=1))) // 2) + 1)
    values = np.stack([_figures(votes, scores, size, draws, rng) for size in sizes], axis=1)  # (N, sizes, 2, 2)
    means, resampled = np.nanmean(values, axis=0), _resampled_means(values, rng)
    bounds = np.nanpercentile(resampled, [2.5, 97.5], axis=0)

    def figures(size: int, whose: int) -> dict:
        found = {name: round(float(means[size, i, whose]), 5) for i, name in enumerate(_FIGURES)}
        intervals = {name: bounds[:, size, i, whose].round(5).tolist() for i, name in enumerate(_FIGURES)}
        return found | {"intervals": intervals}

    rows = np.isfinite(values[:, :, 0, 0]).sum(axis=0)
    people = [
        {"people": int(k), "rows": int(rows[i])} | figures(i, 0) | {"model": figures(i, 1)} for i, k in enumerate(sizes)
    ]
    worth = {}
    for i, (name, sign) in enumerate(zip(_FIGURES, (1, -1), strict=True)):
        ahead = sign * (resampled[:, :, i, 0] - resampled[:, :, i, 1])
        (number,) = _worth(sign * (means[None, :, i, 0] - means[None, :, i, 1]))
        of_model = sign * (means[:, i, 0] - means[:, i, 1])
        bound = "at most" if of_model[0] < 0 else "at least" if (of_model > 0).all() else None
        interval = np.percentile(_worth(ahead), [2.5, 97.5]).round(2).tolist()
        worth[name] = {"people": round(float(number), 2), "bound": bound, "interval": interval}
    return {"draws": draws, "seed": seed, "people": people, "worth": worth}


def _figures(votes: np.ndarray, scores: np.ndarray, size: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """(N, figure, people or model) means over the draws; NaN for rows that have no other votes."""
    found = np.full((len(votes), 2, 2), np.nan)
    enough = votes.sum(axis=1) > size
    votes, scores = votes[enough], scores[enough]
    sums = np.zeros((len(votes), 2, 2))
    for _ in range(draws):
        some = drawn(votes, size, rng)
        for i, one in enumerate((some, scores)):
            sums[:, 0, i] += js_divergences(one, votes - some)
            sums[:, 1, i] += _agreement(one, votes - some)
    found[enough] = sums / draws
    return found


def drawn(votes: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """(N, C) of `votes` (N, C), `size` of each row without replacement: multivariate hypergeometric, class by class."""
    others, missing, found = votes.sum(axis=1), np.full(len(votes), size), np.zeros_like(votes)
    for column in range(votes.shape[1]):
        others = others - votes[:, column]
        found[:, column] = rng.hypergeometric(votes[:, column], others, missing)
        missing = missing - found[:, column]
    return found


def _agreement(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N,) the chance that the highest of both are the same, where of several that are equal one is taken by chance."""
    first, second = (values == values.max(axis=1, keepdims=True) for values in (first, second))
    return (first & second).sum(axis=1) / (first.sum(axis=1) * second.sum(axis=1))


def _resampled_means(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(resamples, ...) means over the rows of `values` (N, ...), drawn with replacement; NaN is left out."""
    rows = len(values)
    known, flat = np.isfinite(values).reshape(rows, -1).astype(float), np.nan_to_num(values).reshape(rows, -1)
    step, means = max(1, _BATCH // rows), []
    for start in range(0, RESAMPLES, step):
        times = rng.multinomial(rows, np.full(rows, 1 / rows), size=min(step, RESAMPLES - start)).astype(float)
        with np.errstate(invalid="ignore"):
            means.append(times @ flat / (times @ known))
    return np.concatenate(means).reshape(RESAMPLES, *values.shape[1:])


def _worth(ahead: np.ndarray) -> np.ndarray:
    """(R,) how many people a model is worth, that is ahead of k people by `ahead` (R, sizes), k = 1, 2 ..."""
    behind = np.nan_to_num(ahead) <= 0
    first = np.where(behind.any(axis=1), behind.argmax(axis=1), ahead.shape[1])
    last = np.clip(first, 1, ahead.shape[1] - 1)[:, None]  # interpolated between the size before and this one
    if ahead.shape[1] == 1:
        return np.ones(len(ahead))
    before, after = (np.take_along_axis(ahead, at, axis=1)[:, 0] for at in (last - 1, last))
    between = last[:, 0] + before / np.where(before == after, 1, before - after)
    return np.where(first == 0, 1, np.where(first == ahead.shape[1], ahead.shape[1], between))
