"""What a drawn face truly shows, and how a human annotator and a machine misread it."""

import numpy as np

from affectnet_plus import CATEGORIES, EXPRESSIONS

_COUNT = len(EXPRESSIONS)
_NONE, _UNCERTAIN = CATEGORIES.index("none"), CATEGORIES.index("uncertain")

# How much of one expression (row) an observer sees in another (column), after the confusions that studies of posed
# and spontaneous faces agree on: fear and surprise, disgust and anger, contempt and a faint smile, sad and neutral.
_SEEN_IN = {
    ("surprise", "fear"): 0.35, ("fear", "surprise"): 0.25, ("anger", "disgust"): 0.3, ("disgust", "anger"): 0.25,
    ("happy", "contempt"): 0.25, ("neutral", "contempt"): 0.2, ("neutral", "sad"): 0.2, ("sad", "neutral"): 0.1,
    ("contempt", "happy"): 0.1, ("neutral", "anger"): 0.1, ("sad", "fear"): 0.1,
}  # fmt: skip
_CONFUSION = np.eye(_COUNT)
for (_seen, _shown), _share in _SEEN_IN.items():
    _CONFUSION[EXPRESSIONS.index(_seen), EXPRESSIONS.index(_shown)] = _share

# Where each expression lies on Russell's circumplex (1980): valence, arousal. Our placement.
_VALENCE_AROUSAL = {
    "neutral": (0.0, 0.0), "happy": (0.8, 0.25), "sad": (-0.7, -0.35), "surprise": (0.2, 0.75), "fear": (-0.5, 0.75),
    "disgust": (-0.7, 0.35), "anger": (-0.55, 0.65), "contempt": (-0.55, 0.3),
}  # fmt: skip
_CIRCUMPLEX = np.array([_VALENCE_AROUSAL[name] for name in EXPRESSIONS])

# What was seen in the real release: single scores, and their sum over the eight expressions (rounding kept in mind).
_SCORE_RANGE, _SUM_RANGE = (0.057, 0.717), (1.2, 2.4)


def _intensities(rng: np.random.Generator, mixed: bool) -> np.ndarray:
    """(8,) true intensities: one to three expressions present, neutral what the strongest of them leaves."""
    present = np.zeros(_COUNT)
    first, second, third = rng.permutation(np.arange(1, _COUNT))[:3]
    if mixed:
        present[first] = rng.uniform(0.35, 0.6)
        present[second] = present[first] * rng.uniform(0.7, 1.0)
    elif rng.random() < 1 / _COUNT:
        present[first] = 0.42 * rng.beta(1, 3)
    else:
        present[first] = rng.triangular(0.52, 0.85, 1.0)
        if rng.random() < 0.5:
            present[second] = present[first] * rng.uniform(0.1, 0.6)
            if rng.random() < 0.25:
                present[third] = present[first] * rng.uniform(0.1, 0.4)
    present[0] = 1 - present.max()
    return present


def read_by_human(intensities: np.ndarray, rng: np.random.Generator, temperature: float = 0.15) -> int:
    """An annotator's choice among the eight: softmax over the confused intensities, sampled (the Gumbel-max trick)."""
    return int(np.argmax(_CONFUSION @ intensities / temperature + rng.gumbel(size=_COUNT)))


def intensities_given(label: int | None, rng: np.random.Generator) -> np.ndarray:
    """True intensities of a face that the annotator put into this category; None where there was no annotator."""
    if label is None:
        return _intensities(rng, mixed=rng.random() < 0.1)
    if label == _UNCERTAIN:
        return _intensities(rng, mixed=True)
    if label == _NONE:
        return _intensities(rng, mixed=False)
    while True:
        intensities = _intensities(rng, mixed=False)
        if read_by_human(intensities, rng) == label:
            return intensities


def soft_label_of(intensities: np.ndarray | None, label: int | None, rng: np.random.Generator) -> np.ndarray:
    """(8,) scores, four decimals, in the released range: a machine's noisy reading, noisier on some faces than others.

    No other score equals that of the human label, so that its rank is defined.
    """
    evidence = np.full(_COUNT, 0.15) if intensities is None else 0.5 * (intensities + _CONFUSION @ intensities)
    noise = rng.normal(0, rng.gamma(2.0, 0.75), _COUNT)
    low, high = _SCORE_RANGE
    scores = 1 / (1 + np.exp(2.1 - 3.8 * evidence - noise))
    least, most = ((total - low * _COUNT) / (high - low) for total in _SUM_RANGE)
    total = scores.sum()
    if total > most:
        scores *= most / total
    elif total < least:
        scores = 1 - (1 - scores) * (_COUNT - least) / (_COUNT - total)
    units = np.rint((low + (high - low) * scores) * 1e4).astype(int)
    if label is not None and label < _COUNT:
        while np.count_nonzero(units == units[label]) > 1:
            units[label] += 1
    return units / 1e4


def subset_of(soft_label: np.ndarray, label: int | None) -> int | None:
    """0 easy, 1 challenging, 2 difficult: the human label ranks first, second to third, or lower among the scores."""
    if label is None or label >= _COUNT:
        return None
    rank = 1 + int(np.count_nonzero(soft_label > soft_label[label]))
    return 0 if rank == 1 else 1 if rank <= 3 else 2


def valence_arousal_of(intensities: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(2,) valence and arousal in [-1, 1], read with noise off the circumplex."""
    mean = intensities @ _CIRCUMPLEX / max(1.0, intensities.sum())
    return np.clip(mean + rng.normal(0, 0.07, 2), -1, 1)
