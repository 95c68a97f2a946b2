"""Two expressions at once, by name."""

import itertools

import pytest

from affectnet_plus import EXPRESSIONS
from affectnet_plus.modeling import COMPOUNDS, compound_of


def shares(**of) -> dict[str, float]:
    rest = (1 - sum(of.values())) / (len(EXPRESSIONS) - len(of))
    return {name: of.get(name, rest) for name in EXPRESSIONS}


@pytest.mark.parametrize(
    ("mixture", "name"),
    [
        ({"happy": 0.5, "surprise": 0.3}, "happily surprised"),
        ({"surprise": 0.5, "happy": 0.3}, "happily surprised"),
        ({"sad": 0.4, "anger": 0.3, "neutral": 0.2}, "sadly angry"),
        ({"disgust": 0.6, "anger": 0.25}, "appalled"),
        ({"anger": 0.6, "disgust": 0.25}, "hatred"),
        ({"anger": 0.4, "disgust": 0.35}, "angrily disgusted"),
        ({"surprise": 0.6, "fear": 0.3}, "awed"),
        ({"fear": 0.6, "surprise": 0.3}, "fearfully surprised"),
        ({"happy": 0.4, "contempt": 0.4}, "contemptuously happy"),
        ({"happy": 0.8}, None),
        ({"neutral": 0.5, "happy": 0.4}, None),
        ({"happy": 0.6, "surprise": 0.19}, None),
    ],
)
def test_a_mixture_has_its_name(mixture, name):
    assert compound_of(shares(**mixture)) == name


def test_every_pair_has_one_name_and_the_threshold_is_a_choice():
    emotions = [name for name in EXPRESSIONS if name != "neutral"]
    assert {frozenset(pair) for pair in itertools.combinations(emotions, 2)} == COMPOUNDS.keys()
    assert len(set(COMPOUNDS.values())) == len(COMPOUNDS)
    assert compound_of(shares(happy=0.6, surprise=0.1), threshold=0.1) == "happily surprised"
    assert compound_of(shares(happy=0.4, surprise=0.4), threshold=0.5) is None
    assert compound_of({"happy": 1.0}) is None and compound_of({"neutral": 0.4, "sad": 0.6}) is None
