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
    shares = {name: share for name, share in distribution.items() if name != "neutral"}
    first, second = sorted(shares, key=lambda name: shares[name], reverse=True)[:2] if len(shares) > 1 else ("", "")
    if not first or shares[second] < threshold:
        return None
    if shares[first] >= PREVAILS * shares[second] and (first, second) in _PREVAILING:
        return _PREVAILING[first, second]
    return COMPOUNDS.get(frozenset((first, second)))
