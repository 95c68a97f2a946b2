"""Class names and label orders: what other people call the eight, and how they number them."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from affectnet_plus import EXPRESSIONS, LABEL_ORDERS, convert_indices, convert_names, convert_scores, match_expressions


@pytest.mark.parametrize(
    "names, expected",
    [
        (EXPRESSIONS, [0, 1, 2, 3, 4, 5, 6, 7]),
        (["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"], [6, 5, 4, 1, 2, 3, 0]),  # FER2013
        (["Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger", "Neutral"], [3, 4, 5, 1, 2, 6, 0]),  # RAF-DB
        (["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"],
         [0, 1, 3, 2, 6, 5, 4, 7]),  # FER+
        (["NO_EMOTION", " Fearful", "sur-prised", "contemptuous"], [0, 4, 3, 7]),
        ([], []),
    ],
)  # fmt: skip
def test_class_names_are_matched_by_name(names, expected):
    assert match_expressions(names) == expected


def test_unknown_and_repeated_class_names_list_both_sides():
    with pytest.raises(ValueError) as error:
        match_expressions(["happy", "boredom", "3"])
    assert "'boredom', '3'" in str(error.value) and "all names given: 'happy'" in str(error.value)
    assert "Known are neutral, happy, " in str(error.value) and len(str(error.value)) < 300
    with pytest.raises(ValueError, match="same expression: 'happy', 'joy'"):
        match_expressions(["happy", "sad", "joy"])


def test_the_orders_are_those_that_people_use():
    """As the files of these datasets and models number them (alphabetical: EmotiEffLib's eight)."""
    assert LABEL_ORDERS["affectnet"] == EXPRESSIONS
    assert convert_names(LABEL_ORDERS["alphabetical"]) == [
        "anger", "contempt", "disgust", "fear", "happy", "neutral", "sad", "surprise"
    ]  # fmt: skip
    assert convert_names(LABEL_ORDERS["fer2013"]) == ["anger", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
    assert convert_names(LABEL_ORDERS["ferplus"]) == [
        "neutral", "happy", "surprise", "sad", "anger", "disgust", "fear", "contempt"
    ]  # fmt: skip
    assert convert_names(LABEL_ORDERS["raf-db"]) == ["surprise", "fear", "disgust", "happy", "sad", "anger", "neutral"]


@pytest.mark.parametrize("source", LABEL_ORDERS)
@pytest.mark.parametrize("target", LABEL_ORDERS)
def test_indices_names_and_scores_keep_their_meaning(source, target):
    both = [i for i in range(len(LABEL_ORDERS[source])) if len(LABEL_ORDERS[target]) == 8 or i != _contempt(source)]
    converted = convert_indices(both, source, target)
    names = convert_names([LABEL_ORDERS[source][i] for i in both], target)
    assert [LABEL_ORDERS[target][i] for i in converted] == names
    assert convert_indices(converted, target, source).tolist() == both
    scores = np.random.default_rng(0).uniform(size=(5, 3, len(LABEL_ORDERS[source])))
    moved = convert_scores(scores, source, target, drop=True)
    assert moved.shape == (5, 3, len(LABEL_ORDERS[target]))
    np.testing.assert_array_equal(moved[..., converted], scores[..., both])
    assert np.isnan(np.delete(moved, converted, axis=-1)).all()  # contempt, which the source has never heard of


def _contempt(order):
    names = LABEL_ORDERS[order]
    return names.index("contempt") if "contempt" in names else None


def test_a_model_of_another_order_is_scored_rightly():
    labels = np.array([0, 1, 2, 3, 4, 5, 6, 7, 1, 1])  # ours
    theirs = ["neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt", *["happiness"] * 2]
    answers = np.eye(8)[[LABEL_ORDERS["alphabetical"].index(name) for name in theirs]]
    assert accuracy_score(labels, answers.argmax(1)) < 0.5  # the mistake that people make
    assert accuracy_score(labels, convert_scores(answers, "alphabetical", "affectnet").argmax(1)) == 1


def test_a_list_of_names_is_an_order_too():
    assert convert_indices([[0, 1], [1, 0]], ["joy", "angry"], "affectnet").tolist() == [[1, 6], [6, 1]]
    assert convert_indices(0, "affectnet", ["sad", "neutral"]) == 1
    assert convert_indices([], "affectnet", "ferplus").tolist() == []


def test_nothing_is_lost_in_silence():
    with pytest.raises(ValueError, match="target order has no 'contempt': leave these rows out, or say missing=-1"):
        convert_indices([1, 7], "affectnet", "raf-db")
    assert convert_indices([1, 7], "affectnet", "raf-db", missing=-100).tolist() == [3, -100]
    assert convert_indices([1, 2], "affectnet", "raf-db").tolist() == [3, 4]  # no contempt among them
    with pytest.raises(ValueError, match="no 'contempt'.*drop=True"):
        convert_scores(np.ones(8), "affectnet", "fer2013")
    with pytest.raises(ValueError, match="no 'contempt'"):
        convert_names(["contempt"], "fer2013")
    for wrong in ([8], [-1]):
        with pytest.raises(ValueError, match="outside the order of 8 names"):
            convert_indices(wrong, "affectnet", "ferplus")
    with pytest.raises(ValueError, match="whole numbers, not float64"):
        convert_indices([1.0], "affectnet", "ferplus")
    with pytest.raises(ValueError, match=r"shape \(2, 7\) do not have the 8 names"):
        convert_scores(np.ones((2, 7)), "affectnet", "ferplus")
    with pytest.raises(ValueError, match="No label order is called 'rafdb'. Known are 'affectnet', .*'raf-db'"):
        convert_indices([0], "rafdb", "affectnet")
