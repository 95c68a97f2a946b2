"""A 3-D face of 68 landmarks moved by facial action units.

Action units are those of the Facial Action Coding System (Ekman & Friesen, 1978), intensity 0 (absent) to 5 (maximum,
FACS "E"); the units of an expression are its EMFACS prototype (Friesen & Ekman, 1983). Landmarks are in the iBUG 300-W
order (Sagonas et al., 2013). Shape and displacements are our own estimates for an average adult, in millimetres: x to
the image's right, y down, z towards the viewer, the origin midway between the pupils.
"""

import numpy as np

from affectnet_plus import EXPRESSIONS

ACTION_UNITS = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26)

# How strongly each unit takes part in the full expression (1 = intensity 5).
PROTOTYPES = {
    "neutral": {},
    "happy": {6: 0.85, 12: 0.95, 25: 0.8},
    "sad": {1: 0.9, 4: 0.5, 15: 0.95, 17: 0.6},
    "surprise": {1: 0.95, 2: 0.95, 5: 0.9, 25: 0.7, 26: 0.9},
    "fear": {1: 0.9, 2: 0.45, 4: 0.75, 5: 0.95, 7: 0.4, 20: 0.95, 26: 0.45},
    "disgust": {9: 0.95, 10: 0.95, 15: 0.5, 17: 0.5},
    "anger": {4: 1.0, 5: 0.55, 7: 0.8, 23: 0.95},
    "contempt": {12: 0.7, 14: 1.0},
}

# The image-left half and the midline; the other half mirrors it.
_HALF_FACE = {
    0: (-70, 2, -46), 1: (-70, 20, -45), 2: (-68.5, 38, -43), 3: (-65.5, 56, -40), 4: (-59.5, 73, -34),
    5: (-50, 88, -25), 6: (-37.5, 100, -13), 7: (-20, 108.5, -3), 8: (0, 112, 3),
    17: (-56, -17, -10), 18: (-49, -24, 0), 19: (-38, -27, 8), 20: (-27, -25, 13), 21: (-15, -20, 16),
    27: (0, -2, 18), 28: (0, 11, 25), 29: (0, 24, 33), 30: (0, 37, 41),
    31: (-14.5, 46, 21), 32: (-7.5, 49, 25), 33: (0, 51, 28),
    36: (-46.5, 1, -6), 37: (-37.5, -5, 3), 38: (-26.5, -5, 4), 39: (-17, 3.5, 1), 40: (-26.5, 6.5, 4),
    41: (-37, 6.5, 2), 48: (-25, 71, 11), 49: (-15.5, 66, 20), 50: (-6, 63, 25), 51: (0, 64.5, 26),
    57: (0, 82, 24), 58: (-7.5, 81.5, 23), 59: (-16, 78, 18), 60: (-22, 71, 12), 61: (-8, 70.5, 21), 62: (0, 71, 22),
    66: (0, 71.5, 22), 67: (-8, 71.2, 21),
}  # fmt: skip
# The landmark on the other side of the face.
MIRROR = np.array(
    [*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31, 45, 44, 43, 42, 47, 46]
    + [39, 38, 37, 36, 41, 40, 54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
)

# unit -> {landmark of the image-left half: (outwards, down, forwards)} at intensity 5.
_DISPLACEMENTS = {
    1: {17: (0, -1, 0), 18: (0, -2, 0), 19: (0, -5, 0), 20: (0.5, -10, 0), 21: (0, -13, 0), 38: (0, -1, 0)},
    2: {17: (1, -9, 0), 18: (1, -12, 0), 19: (0, -9.5, 0), 20: (0, -4, 0), 21: (0, -1.5, 0), 37: (0, -1, 0)},
    4: {17: (-1, 2, 0), 18: (-1.5, 4, 0), 19: (-3, 6.5, 1), 20: (-5, 9, 2), 21: (-6.5, 10, 2), 37: (0, 0.8, 0),
        38: (0, 1.2, 0), 27: (0, 1, 0)},
    5: {37: (0, -5, 0), 38: (0, -5, 0), 40: (0, 0.6, 0), 41: (0, 0.6, 0)},
    6: {40: (0, -3, 1), 41: (0, -3.2, 1), 36: (0.5, -0.5, 0), 37: (0, 1, 0), 38: (0, 0.6, 0), 17: (0, 1.5, 0),
        1: (1, 0, 0), 2: (1.5, 0, 0), 3: (1.5, 0, 0)},
    7: {40: (0, -2.4, 0), 41: (0, -2.4, 0), 37: (0, 2.2, 0), 38: (0, 2.2, 0)},
    9: {21: (-2.5, 5, 1), 20: (-1.5, 4, 0), 19: (0, 2, 0), 39: (0, -0.5, 0), 28: (0, -1, 0), 29: (0, -2, 0),
        30: (0, -3.5, 0), 31: (1.5, -6, 0), 32: (0.5, -5, 0), 33: (0, -3.5, 0), 40: (0, -2.2, 0), 41: (0, -1.5, 0),
        37: (0, 1, 0), 38: (0, 1.6, 0), 49: (0.5, -4, 0), 50: (0, -5, 0), 51: (0, -4, 0), 61: (0, -1.5, 0)},
    10: {31: (1.5, -2.5, 0), 49: (1, -7.5, 2), 50: (0, -8.5, 2), 51: (0, -6.5, 2), 60: (0, -1, 0), 61: (1, -5.5, 0),
         62: (0, -5, 0), 48: (0, -0.5, 0)},
    12: {48: (9.5, -9.5, -5), 49: (5.5, -4, -3), 50: (2, -0.5, -1), 51: (0, 0.5, -1), 57: (0, 0, -1), 58: (3, -0.5, -1),
         59: (6.5, -3, -3), 60: (9, -9, -5), 61: (3.5, -0.5, -1), 62: (0, 0.8, -1), 66: (0, 0.8, -1),
         67: (3.5, -0.5, -1), 31: (1.5, -0.8, 0), 3: (1.5, 0, 0), 4: (2, -0.5, 0), 5: (1.5, -0.5, 0)},
    14: {48: (5.5, -6.5, -6), 49: (3, -1.5, -3), 50: (1, 0, 0), 59: (3.5, -3.5, -3), 58: (1, -0.5, 0),
         60: (5.5, -6.5, -6)},
    15: {48: (0.5, 10, -1), 49: (0, 4, 0), 59: (0.5, 6.5, 0), 58: (0, 2, 0), 60: (0.5, 9, -1), 61: (0, 0.8, 0),
         67: (0, 1, 0)},
    17: {57: (0, -4.5, 3), 58: (0, -4.2, 3), 59: (0, -2.5, 1), 66: (0, -2.2, 1), 67: (0, -2, 1), 62: (0, -2.2, 0),
         61: (0, -2, 0), 51: (0, -2.2, 1), 50: (0, -2, 1), 8: (0, -4, 1), 7: (0, -3.5, 1), 6: (0, -1.5, 0)},
    20: {48: (11, 2.5, -6), 49: (6.5, 1, -4), 50: (2, 0.5, -1), 58: (3.5, 1, -1), 59: (8, 2.5, -3),
         60: (10.5, 2.5, -5), 61: (4.5, 0.5, -1), 67: (4.5, 2, -1), 66: (0, 1.5, 0), 57: (0, 1, 0), 4: (1, 0, 0),
         5: (1.5, 0, 0)},
    23: {48: (-5, 0.5, 1), 49: (-3, 2.4, 0), 50: (-0.6, 3.6, -1), 51: (0, 3.6, -1), 57: (0, -4.2, -1),
         58: (-1, -4.2, -1), 59: (-3, -2.6, 0), 60: (-4.5, 0.3, 1), 61: (-1, 0.2, 0), 67: (-1, -0.2, 0)},
    25: {50: (0, -1.2, 0), 51: (0, -1, 0), 57: (0, 3, 0), 58: (0, 3, 0), 59: (0, 1.5, 0), 61: (0, -2.2, 0),
         62: (0, -2, 0), 66: (0, 4.8, 0), 67: (0, 4.3, 0)},
    26: {8: (0, 18, -3), 7: (0, 17.5, -3), 6: (0, 15.5, -2), 5: (-0.5, 11.5, -1), 4: (-1, 7, 0), 3: (-0.5, 3.5, 0),
         48: (-2.5, 5, -1), 49: (-1, 1, 0), 57: (0, 16.5, -2), 58: (0, 16, -2), 59: (-1, 11, -1), 60: (-2, 5, -1),
         61: (0, -0.5, 0), 66: (0, 16.5, -2), 67: (0, 15.5, -2)},
}  # fmt: skip


def _both_sides(half: dict) -> np.ndarray:
    """{landmark: (outwards, down, forwards)} of the left half -> (2, 68, 3) displacements: image left, image right."""
    sides = np.zeros((2, 68, 3))
    for point, (outwards, down, forwards) in half.items():
        share = 0.5 if MIRROR[point] == point else 1.0  # the midline is moved half by each side
        sides[0, point] = np.array([-outwards, down, forwards]) * share
        sides[1, MIRROR[point]] = np.array([outwards, down, forwards]) * share
    return sides


MEAN_FACE = np.zeros((68, 3))
for _point, _xyz in _HALF_FACE.items():
    MEAN_FACE[MIRROR[_point]] = np.array(_xyz) * (-1, 1, 1)
    MEAN_FACE[_point] = _xyz
DISPLACEMENTS = np.stack([_both_sides(_DISPLACEMENTS[unit]) for unit in ACTION_UNITS])  # (16, 2, 68, 3)
_WEIGHTS = np.array([[PROTOTYPES[name].get(unit, 0.0) for unit in ACTION_UNITS] for name in EXPRESSIONS])  # (8, 16)


def units_of(intensities: np.ndarray, gain: np.ndarray, rest: np.ndarray, contempt_side: int) -> np.ndarray:
    """The action units of a face that shows several expressions at once.

    Args:
        intensities: (8,) how far each of `EXPRESSIONS` is present, 0 to 1.
        gain: (16,) how strongly this person moves each of `ACTION_UNITS` (1 = average, 0 = does not).
        rest: (16,) the units of this person's resting face, 0 to 5.
        contempt_side: 0 if contempt pulls the corner of the mouth at the image's left, 1 at its right.

    Returns:
        (16, 2) intensities 0 to 5, image left and image right. Where expressions share a unit the strongest counts.
    """
    levels = 5 * gain[:, None] * intensities**0.7 * _WEIGHTS.T
    contempt = EXPRESSIONS.index("contempt")
    both = np.delete(levels, contempt, axis=1).max(axis=1)
    sides = np.stack([both, both], axis=1)
    sides[:, contempt_side] = np.maximum(both, levels[:, contempt])
    return np.clip(np.maximum(sides, rest[:, None]), 0, 5)


def move(face: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Moves a resting face (68, 3), in millimetres, by action units (16, 2)."""
    return face + np.tensordot(units / 5, DISPLACEMENTS, axes=2)
