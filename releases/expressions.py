"""The names of everything that is numbered, and how to get from other people's numbers to ours and back."""

import re
from collections.abc import Iterable, Sequence

import numpy as np

from .files import shortened

# The order of every soft label, class index and score vector in this project. It stands here and nowhere else.
EXPRESSIONS = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")
# The eleven values of "human-label": the last three are no expression.
CATEGORIES = (*EXPRESSIONS, "none", "uncertain", "non-face")
SUBSETS = ("easy", "challenging", "difficult")
GENDERS = ("female", "male")
ETHNICITIES = ("asian", "indian", "black", "white", "middle_eastern", "latino_hispanic")
ANGLES = ("yaw", "pitch", "roll")

# What other datasets call the eight; case, spaces, hyphens, underscores and a number before it do not matter.
SYNONYMS = {
    "neutral": ("neutrality", "natural", "no emotion"),
    "happy": ("happiness", "joy", "joyful"),
    "sad": ("sadness",),
    "surprise": ("surprised", "suprise"),  # the misspelling is a folder of FER2013
    "fear": ("fearful", "afraid", "scared"),
    "disgust": ("disgusted",),
    "anger": ("angry",),
    "contempt": ("contemptuous",),
}

# The orders in which people number expressions, in their own spelling. FER2013 and RAF-DB have no contempt.
# Indices count from 0; the label files of RAF-DB count from 1.
LABEL_ORDERS = {
    "affectnet": EXPRESSIONS,
    "affectnetc25": ("happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt", "neutral"),
    "alphabetical": ("anger", "contempt", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
    "fer2013": ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"),
    "ferplus": ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"),
    "raf-db": ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"),
}


def match_expressions(names: Iterable[str]) -> list[int]:
    """For each class name of any dataset, its index in `EXPRESSIONS`: by name or known synonym, never by position.

    `match_expressions(["angry", "happiness"])` is `[6, 1]`. Fewer than eight names are fine (FER2013 and RAF-DB
    have seven). Raises `ValueError` where a name is unknown or two names mean the same expression.
    """
    names = list(names)
    known = f"{', '.join(EXPRESSIONS)} and affectnet_plus.SYNONYMS of them"
    if unknown := [name for name in names if _letters(name) not in _EXPRESSION_INDEX]:
        raise ValueError(
            f"No expression is known by the name {listed(unknown, letters=40)} (all names given: "
            f"{listed(names, letters=40)}). Known are {known}."
        )
    indices = [_EXPRESSION_INDEX[_letters(name)] for name in names]
    if twice := [name for name, index in zip(names, indices, strict=True) if indices.count(index) > 1]:
        raise ValueError(
            f"Several of the names given mean the same expression: {listed(twice)} (all names given: "
            f"{listed(names, letters=40)})."
        )
    return indices


def convert_indices(indices, source: str | Sequence[str], target: str | Sequence[str], missing: int | None = None):
    """Class indices of one label order as those of another: an array of the same shape.

    `convert_indices([3, 6], "fer2013", "affectnet")` is `[1, 0]`.

    Args:
        indices: whole numbers of any shape, counted from 0.
        source, target: a name in `LABEL_ORDERS`, or the class names themselves in their order.
        missing: what an expression becomes that `target` does not have, e.g. -100 for PyTorch's cross-entropy.

    Raises `ValueError` for an unknown order or name, an index outside the order, and, unless `missing` is given,
    for an expression that `target` does not have.
    """
    from_order, to_order = _order(source), _order(target)
    indices = np.asarray(indices)
    if indices.dtype.kind not in "iu" and indices.size:
        raise ValueError(f"Class indices are whole numbers, not {indices.dtype}.")
    if (wrong := indices[(indices < 0) | (indices >= len(from_order))]).size:
        raise ValueError(
            f"Class index {wrong.flat[0]} is outside the order of {len(from_order)} names, counted from 0."
        )
    absent = [e for e in from_order if e not in to_order]
    if missing is None and (used := [EXPRESSIONS[e] for e in absent if (indices == from_order.index(e)).any()]):
        raise ValueError(f"The target order has no {listed(used)}: leave these rows out, or say missing=-1.")
    table = np.array([to_order.index(e) if e in to_order else missing or 0 for e in from_order])
    if missing is not None:
        table[[from_order.index(e) for e in absent]] = missing
    return table[indices.astype(np.intp)]


def convert_names(names: Iterable[str], target: str | Sequence[str] = "affectnet") -> list[str]:
    """Class names of any dataset in the spelling of another: `convert_names(["joy"], "ferplus")` is `["happiness"]`.

    Names may come again. Raises `ValueError` where a name is unknown or `target` does not have the expression.
    """
    order = _order(target)
    spelling = LABEL_ORDERS[target] if isinstance(target, str) else target
    converted = []
    for name in names:
        (index,) = match_expressions([name])
        if index not in order:
            raise ValueError(f"The target order has no {EXPRESSIONS[index]!r}: leave these rows out.")
        converted.append(spelling[order.index(index)])
    return converted


def convert_scores(scores, source: str | Sequence[str], target: str | Sequence[str], drop: bool = False):
    """Score vectors of one label order as those of another: (..., n) -> (..., m).

    What `source` does not have is NaN, not 0: a model that knows no contempt has not denied it. What `target` does
    not have is an error, or left out if `drop`; nothing is rescaled.

    Raises `ValueError` for an unknown order or name, a last axis of the wrong length, and a column that would be lost.
    """
    from_order, to_order = _order(source), _order(target)
    scores = np.asarray(scores, dtype=float)
    if scores.ndim < 1 or scores.shape[-1] != len(from_order):
        raise ValueError(f"Scores of shape {scores.shape} do not have the {len(from_order)} names of the order last.")
    if not drop and (lost := [EXPRESSIONS[e] for e in from_order if e not in to_order]):
        raise ValueError(f"The target order has no {listed(lost)}: say drop=True to leave that column out.")
    converted = np.full((*scores.shape[:-1], len(to_order)), np.nan)
    for place, expression in enumerate(to_order):
        if expression in from_order:
            converted[..., place] = scores[..., from_order.index(expression)]
    return converted


def _order(order: str | Sequence[str]) -> list[int]:
    if isinstance(order, str):
        if order not in LABEL_ORDERS:
            raise ValueError(f"No label order is called {order!r}. Known are {listed(LABEL_ORDERS)}.")
        order = LABEL_ORDERS[order]
    return match_expressions(order)


def label_names(order: Sequence[str]) -> list[str]:
    """The names that a flag's words mean: those of one of `LABEL_ORDERS`, or the words themselves.

    `label_names(["raf-db"])` begins with "surprise". Raises `ValueError` for one word that is no order.
    """
    if len(order) != 1:
        match_expressions(order)
        return list(order)
    name = order[0].lower().replace("fer+", "ferplus")
    if name not in LABEL_ORDERS:
        raise ValueError(f"No label order is called {order[0]!r}. Known are {listed(LABEL_ORDERS)}.")
    return list(LABEL_ORDERS[name])


def _letters(name) -> str:
    return re.sub(r"^\d+[\s_.-]*(?=\D)|[\s_-]", "", str(name).lower())  # "7_contempt" and "No Emotion", too


def listed(names: Iterable, most: int = 12, letters: int = 200) -> str:
    """The names in quotes, for a message: the first, and up to `most` as long as they have no more than `letters`."""
    names = [shortened(repr(name), min(100, letters)) for name in names]
    shown = names[:1]
    while len(shown) < min(len(names), most) and sum(map(len, shown)) + len(names[len(shown)]) <= letters:
        shown.append(names[len(shown)])
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")


_EXPRESSION_INDEX = {
    _letters(name): index
    for index, expression in enumerate(EXPRESSIONS)
    for name in (expression, *SYNONYMS[expression])
}
