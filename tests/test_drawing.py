"""Faces as they are drawn: units act where they should, landmarks lie on what is there."""

import numpy as np
import pytest

from affectnet_plus import EXPRESSIONS
from affectnet_plus.synthetic.action_units import ACTION_UNITS, MIRROR, units_of
from affectnet_plus.synthetic.draw import draw_face
from affectnet_plus.synthetic.identity import draw_identity

BROWS, EYES, MOUTH = slice(17, 27), slice(36, 48), slice(48, 68)


def test_action_units_follow_the_expression():
    rest, gain = np.zeros(len(ACTION_UNITS)), np.ones(len(ACTION_UNITS))

    def units(name):
        return dict(
            zip(ACTION_UNITS, units_of(np.eye(8)[EXPRESSIONS.index(name)], gain, rest, 1).tolist(), strict=True)
        )

    assert {unit for unit, sides in units("happy").items() if max(sides) > 1} == {6, 12, 25}
    assert {unit for unit, sides in units("fear").items() if max(sides) > 1} == {1, 2, 4, 5, 7, 20, 26}
    assert not any(max(sides) for sides in units("neutral").values())
    assert units("contempt")[14] == [0, 5]  # one-sided


def drawn(person=0, pose=(0, 0, 0), **units):
    """Grey image and landmarks of a person, with e.g. AU12=5 or AU14=(5, 0); the same light and framing every time."""
    identity = draw_identity(np.random.default_rng(person))
    levels = np.zeros((len(ACTION_UNITS), 2))
    for name, level in units.items():
        levels[ACTION_UNITS.index(int(name[2:]))] = level
    identity.glasses = 0
    image, landmarks = draw_face(identity, levels, pose, np.random.default_rng(person), 224)
    return 255 * image.mean(axis=0), landmarks


@pytest.mark.parametrize(
    ("units", "moved"), [({"AU4": 5}, BROWS), ({"AU5": 5}, EYES), ({"AU15": 5}, MOUTH), ({"AU23": 5}, MOUTH)]
)
def test_a_unit_changes_the_picture_where_it_acts(units, moved):
    for person in range(6):
        (rest, landmarks), (posed, _) = drawn(person), drawn(person, **units)
        changed = np.abs(rest - posed)
        (x0, y0), (x1, y1) = (
            (landmarks[moved].min(axis=0) - 6).astype(int),
            (landmarks[moved].max(axis=0) + 6).astype(int),
        )
        inside = changed[y0:y1, x0:x1].mean()
        outside = (changed.sum() - changed[y0:y1, x0:x1].sum()) / (changed.size - (y1 - y0) * (x1 - x0))
        assert inside > 2 and inside > 4 * outside


@pytest.mark.parametrize("pose", [(0, 0, 0), (18, -6, 10), (-18, 6, -10)])
def test_landmarks_lie_on_what_was_drawn(pose):
    right = []
    for person in range(20):
        image, points = drawn(person, pose, AU5=3, AU25=5, AU26=5)

        def at(xy, image=image):
            x, y = np.rint(xy).astype(int)
            return image[y - 1 : y + 2, x - 1 : x + 2].mean()

        for eye in (points[36:42], points[42:48]):  # the pupil is darker than the white towards the corners
            centre = eye.mean(axis=0)
            right.append(at(centre) < 0.8 * np.mean([at(0.6 * corner + 0.4 * centre) for corner in (eye[0], eye[3])]))
        right.append(
            at(0.25 * points[62] + 0.75 * points[66]) < at(0.5 * (points[57] + points[66]))
        )  # mouth, lower lip
        right += [at(points[brow]) < at(points[brow] - (0, 16)) for brow in (19, 24)]  # brow, forehead
    assert np.mean(right) > 0.9


def test_contempt_pulls_one_corner_of_the_mouth():
    for side, sides in enumerate([(5, 0), (0, 5)]):
        lifted = drawn(0)[1] - drawn(0, AU12=np.multiply(sides, 0.7), AU14=sides)[1]
        corner, other = (54, 48) if side else (48, 54)
        assert lifted[corner, 1] > 6 and abs(lifted[other, 1]) < 2
    assert MIRROR[48] == 54 and (MIRROR[MIRROR] == np.arange(68)).all()
