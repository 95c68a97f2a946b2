"""Who a drawn person is: continuous traits of shape, colour, hair and age, and the resting face they make."""

from dataclasses import dataclass

import numpy as np

from affectnet_plus import ETHNICITIES, GENDERS

from .action_units import ACTION_UNITS, MEAN_FACE, MIRROR

SHAPE_TRAITS = (
    "face_width", "face_length", "jaw_width", "chin_length", "cheekbones", "fullness",
    "eye_size", "eye_opening", "eye_spacing", "eye_tilt", "eye_depth",
    "brow_height", "brow_arch", "brow_slope", "brow_thickness",
    "nose_width", "nose_length", "nose_projection", "nose_bridge",
    "mouth_width", "mouth_height", "upper_lip", "lower_lip", "forehead", "hairline",
)  # fmt: skip

# Points of the head beyond the 68 landmarks: the hairline from temple to temple (9), mirrored like the face.
_HAIRLINE = [(-69, -10, -38), (-66, -36, -26), (-55, -57, -10), (-31, -69, 0), (0, -73, 4)]
HAIRLINE = np.array(_HAIRLINE + [(-x, y, z) for x, y, z in _HAIRLINE[-2::-1]], float)

# Mean lightness of the skin for each of `ETHNICITIES`, 0 dark to 1 fair.
_SKIN = {"asian": 0.72, "indian": 0.42, "black": 0.15, "white": 0.86, "middle_eastern": 0.62, "latino_hispanic": 0.6}
_SKIN_RAMP = [[72, 46, 34], [112, 74, 52], [160, 112, 82], [200, 152, 120], [226, 184, 156], [240, 206, 184]]
_SKIN_RAMP = np.array(_SKIN_RAMP) / 255
_HAIR_RAMP = np.array([[22, 18, 17], [44, 31, 24], [82, 54, 36], [128, 88, 54], [186, 148, 98]]) / 255
_IRIS_RAMP = np.array([[50, 30, 20], [82, 52, 30], [106, 88, 52], [92, 112, 92], [100, 132, 158]]) / 255


@dataclass
class Identity:
    """A person. Colours are RGB from 0 to 1; what is said to be a share runs from 0 to 1."""

    age: int  # years
    gender: np.ndarray  # (2,) scores in the order of GENDERS
    ethnicity: np.ndarray  # (6,) scores in the order of ETHNICITIES
    shape: dict  # each of SHAPE_TRAITS, standard normal
    detail: np.ndarray  # (68, 3) what traits do not say, asymmetry included, in millimetres
    skin: np.ndarray
    hair: np.ndarray
    brow: np.ndarray
    iris: np.ndarray
    lip: np.ndarray  # the lips' tint over the skin
    rosiness: float  # share
    hair_volume: float  # millimetres above the skull; 0 is bald
    hair_length: float  # share: 0 short, 1 over the shoulders
    fringe: float  # share of the forehead under a fringe
    parting: float  # -1 image left to 1 image right
    beard: float  # share
    stubble: float  # share
    moustache: float  # share
    makeup: float  # share
    glasses: int  # 0 none, 1 thin, 2 thick frames
    frame: np.ndarray  # colour of the glasses
    freckles: float  # share
    oiliness: float  # share
    gain: np.ndarray  # (16,) how strongly each action unit is moved; now and then one hardly is
    rest: np.ndarray  # (16,) action units of the resting face
    contempt_side: int
    texture: tuple  # where the skin and hair textures are cut

    @property
    def wrinkles(self) -> float:
        """Share of the age lines, 0 below about 28 years, 1 at 75."""
        return float(np.clip((self.age - 28) / 47, 0, 1))


def _ramp(colours: np.ndarray, position: float) -> np.ndarray:
    steps = np.linspace(0, 1, len(colours))
    return np.array([np.interp(position, steps, channel) for channel in colours.T])


def draw_identity(rng: np.random.Generator) -> Identity:
    """Draws a person; no trait of appearance depends on an expression."""
    age = int(np.clip(rng.gamma(6.0, 6.0), 6, 85))
    female = rng.random() < 0.5
    score = np.clip(rng.beta(8, 1.6), 0.52, 0.99)
    gender = np.array([score, 1 - score] if female == (GENDERS[0] == "female") else [1 - score, score])
    main = rng.choice(len(ETHNICITIES), p=[0.15, 0.1, 0.13, 0.4, 0.1, 0.12])
    ethnicity = rng.dirichlet(np.full(len(ETHNICITIES), 0.5) + 6 * np.eye(len(ETHNICITIES))[main])

    shape = dict(zip(SHAPE_TRAITS, np.clip(rng.normal(size=len(SHAPE_TRAITS)), -2.2, 2.2), strict=True))
    shape["jaw_width"] += -0.5 if female else 0.5
    shape["brow_thickness"] += -0.7 if female else 0.6
    shape["upper_lip"] += 0.4 if female else -0.4
    child = np.clip((16 - age) / 10, 0, 1)
    shape["eye_size"] += 0.9 * child
    shape["face_length"] -= 1.0 * child

    lightness = float(np.clip(ethnicity @ [_SKIN[name] for name in ETHNICITIES] + rng.normal(0, 0.07), 0, 1))
    skin = np.clip(_ramp(_SKIN_RAMP, lightness) * (1 + rng.normal(0, 0.02, 3)), 0, 1)
    fair = float(np.clip((lightness - 0.66) * 2.2, 0, 1))
    hair = _ramp(_HAIR_RAMP, np.clip(rng.beta(1.2, 3) + fair * rng.beta(1.5, 1.5) - 0.1, 0, 1))
    if rng.random() < 0.04 + 0.1 * fair:
        hair = hair * [1.25, 0.85, 0.65]  # red
    brow = hair * rng.uniform(0.45, 0.85)
    grey = np.clip((age - 45) / 30 + rng.normal(0, 0.2), 0, 1) * (age > 35)
    hair = hair + grey * (rng.uniform(0.55, 0.85) - hair)
    brow = brow + 0.6 * grey * (0.45 - brow)
    makeup = rng.beta(1.2, 1.5) * (female and age > 15 and rng.random() < 0.7)
    red = np.array([[0.9, 0.72, 0.69], [0.86, 0.56, 0.56], [0.84, 0.36, 0.4], [0.68, 0.22, 0.28]])
    lip = _ramp(red, np.clip(0.12 + 0.15 * rng.random() + makeup * rng.random(), 0, 1))

    grown = not female and age > 17
    bald = grown and rng.random() < 0.05 + 0.25 * (age > 45)
    long_hair = rng.random() < (0.75 if female else 0.12)
    bearded = grown and rng.random() < 0.35
    units, detail = len(ACTION_UNITS), rng.normal(0, 0.45, (68, 3))
    return Identity(
        age=age, gender=gender, ethnicity=ethnicity, shape=shape,
        detail=detail + 0.5 * detail[MIRROR] * (-1, 1, 1),
        skin=skin, hair=hair, brow=brow, lip=lip,
        iris=_ramp(_IRIS_RAMP, np.clip(rng.beta(1, 3) + 0.7 * fair * rng.random(), 0, 1)),
        rosiness=rng.uniform(0.1, 0.9) * (0.5 + 0.5 * fair) + 0.3 * makeup,
        hair_volume=0.0 if bald else rng.uniform(6, 20) + 6 * long_hair,
        hair_length=rng.uniform(0.45, 1) if long_hair else rng.uniform(0, 0.3),
        fringe=rng.uniform(0.25, 0.75) * (not bald and rng.random() < 0.25),
        parting=rng.uniform(-1, 1),
        beard=rng.uniform(0.4, 1) * (bearded and rng.random() < 0.6),
        stubble=rng.uniform(0.1, 0.9) * grown,
        moustache=rng.uniform(0.4, 1) * (bearded and rng.random() < 0.7),
        makeup=float(makeup),
        glasses=int(rng.choice(3, p=[0.86, 0.07, 0.07])),
        frame=rng.uniform(0.02, 0.3) + rng.uniform(0, 0.2) * np.array([1, 0.6, 0.3]),
        oiliness=rng.uniform(0.3, 1),
        freckles=rng.uniform(0.3, 1) * (rng.random() < 0.3 * fair),
        gain=np.clip(rng.normal(1, 0.15, units), 0.6, 1.35) * np.where(rng.random(units) < 0.02, 0.2, 1),
        rest=np.clip(rng.normal(-0.2, 0.4, units), 0, 0.9),
        contempt_side=int(rng.integers(2)),
        texture=tuple(rng.integers(0, 1 << 16, 3).tolist()),
    )  # fmt: skip


def _smoothstep(values: np.ndarray, low: float, high: float) -> np.ndarray:
    share = np.clip((values - low) / (high - low), 0, 1)
    return share * share * (3 - 2 * share)


def _scale(points: np.ndarray, index: slice, factors: tuple) -> None:
    centre = points[index].mean(axis=0)
    points[index] = centre + (points[index] - centre) * factors


def resting_face(identity: Identity) -> tuple[np.ndarray, np.ndarray]:
    """The person's 68 landmarks (68, 3) and hairline (9, 3) at rest, in millimetres."""
    t = identity.shape
    face = MEAN_FACE.copy()
    left, right = np.arange(36, 42), np.arange(42, 48)
    for eye, side in ((left, -1), (right, 1)):
        _scale(face, eye, (1 + 0.05 * t["eye_size"], 1 + 0.04 * t["eye_size"] + 0.07 * t["eye_opening"], 1))
        face[eye, 0] += side * 1.2 * t["eye_spacing"]
        face[eye, 1] -= 0.05 * t["eye_tilt"] * (side * face[eye, 0] - 31)
    brows = np.arange(17, 27)
    lateral = (np.abs(face[brows, 0]) - 35) / 20  # -1 inner end, 1 outer end
    face[brows, 1] += 1.6 - 1.8 * t["brow_height"] - 1.0 * t["brow_slope"] * lateral
    face[brows, 1] -= 0.9 * t["brow_arch"] * (1 - lateral**2)
    nose = np.arange(27, 36)
    face[nose, 1] *= 1 + 0.04 * t["nose_length"]
    face[31:36, 0] *= 1 + 0.1 * t["nose_width"]
    face[28:36, 2] += 1.8 * t["nose_projection"] * np.array([0.3, 0.7, 1, 0.5, 0.7, 0.8, 0.7, 0.5])
    mouth = np.arange(48, 68)
    face[mouth, 0] *= 1 + 0.06 * t["mouth_width"]
    face[mouth, 1] += 1.5 * t["mouth_height"] + 51 * 0.04 * t["nose_length"]
    face[50:53, 1] -= 0.9 * t["upper_lip"] + 0.3
    face[[49, 53], 1] -= 0.5 * t["upper_lip"]
    face[56:59, 1] += 1.0 * t["lower_lip"]
    face[[55, 59], 1] += 0.6 * t["lower_lip"]
    face += identity.detail

    hairline = HAIRLINE.copy()
    hairline[:, 1] -= 3 * t["forehead"] + 2.5 * t["hairline"] * np.exp(-((hairline[:, 0] / 45) ** 2))
    for points in (face, hairline):  # what shapes the whole head
        y = points[:, 1]
        points[:, 0] *= (
            1 + 0.04 * t["face_width"] + _smoothstep(y, 30, 110) * (0.05 * t["jaw_width"] + 0.03 * t["fullness"])
        )
        points[:, 1] = y * (1 + 0.03 * t["face_length"]) + _smoothstep(y, 85, 112) * 2.5 * t["chin_length"]
    return face, hairline
