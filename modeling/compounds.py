"""Two expressions at once, by name."""

from collections.abc import Mapping

# Du, Tao, Martinez, "Compound facial expressions of emotion", PNAS 111 (15), 2014: twelve pairs of basic expressions.
_BASIC = {
    ("happy", "surprise"): "happily surprised",
    ("happy", "disgust"): "happily disgusted",
    ("sad", "fear"): "sadly fearful",
    ("sad", "anger"): "sadly angry",
    ("sad", "surprise"): "sadly surprised",
    ("sad", "disgust"): "sadly disgusted",
    ("fear", "anger"): "fearfully angry",
    ("fear", "surprise"): "fearfully surprised",
    ("fear", "disgust"): "fearfully disgusted",
    ("anger", "surprise"): "angrily surprised",
    ("anger", "disgust"): "angrily disgusted",
    ("disgust", "surprise"): "disgustedly surprised",
}
# Three more of theirs are pairs in which the first prevails. How far is our own reading: `PREVAILS` times the other.
_PREVAILING = {
    ("disgust", "anger"): "appalled",
    ("anger", "disgust"): "hatred",
    ("surprise", "fear"): "awed",
}
# Ours, not theirs: pairs that they leave out, and those of AffectNet's contempt.
_OURS = {
    ("happy", "sad"): "happily sad",
    ("happy", "fear"): "happily fearful",
    ("happy", "anger"): "happily angry",
    ("contempt", "happy"): "contemptuously happy",
    ("contempt", "sad"): "contemptuously sad",
    ("contempt", "surprise"): "contemptuously surprised",
    ("contempt", "fear"): "contemptuously fearful",
    ("contempt", "disgust"): "contemptuously disgusted",
    ("contempt", "anger"): "contemptuously angry",
}
COMPOUNDS = {frozenset(pair): name for pair, name in (_BASIC | _OURS).items()}
PREVAILS = 2.0
COMPOUND_THRESHOLD = 0.2  # of the distribution, see benchmarks/compounds.py


def compound_of(distribution: Mapping[str, float], threshold: float = COMPOUND_THRESHOLD) -> str | None:
    """The compound that a face shows: of the two strongest expressions other than neutral, if both are present.

    Args:
        distribution: per expression its share, summing to one.
        threshold: least share of an expression that is present.

    Returns:
        One of the fifteen names of Du, Tao and Martinez (2014), or of nine of our own (pairs with contempt or that they
        leave out); None where fewer than two are present.
    """
    pair = strongest_pair(distribution, threshold)
    if pair in _PREVAILING and distribution[pair[0]] >= PREVAILS * distribution[pair[1]]:
        return _PREVAILING[pair]
    return COMPOUNDS.get(frozenset(pair))


def strongest_pair(distribution: Mapping[str, float], threshold: float) -> tuple[str, ...]:
    """The two strongest expressions other than neutral, the stronger first; () where not both reach the threshold."""
    ranked = sorted((name for name in distribution if name != "neutral"), key=lambda name: -distribution[name])
    present = tuple(name for name in ranked[:2] if distribution[name] >= threshold)
    return present if len(present) == 2 else ()
