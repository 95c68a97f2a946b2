"""The canvas of one face: its projected landmarks, and the paper on which offsets from them are millimetres."""

from dataclasses import dataclass

import numpy as np

from .action_units import ACTION_UNITS, MIRROR
from .identity import Identity
from .paint import curve, ellipse, paint, texture

_UNIT = {unit: index for index, unit in enumerate(ACTION_UNITS)}


@dataclass
class Portrait:
    """What the painting functions share. A side is 0, the image's left, or 1, its right."""

    image: np.ndarray  # (3, size, size) float32 RGB
    points: np.ndarray  # (68, 2) landmarks in pixels
    hairline: np.ndarray  # (9, 2)
    axes: np.ndarray  # (3, 2) pixels of a millimetre of the face to the image's right, down and forwards
    origin: np.ndarray  # (2,) pixels of the point midway between the pupils
    view: np.ndarray  # (2,) pixels of a millimetre of the view, across and down
    turn: np.ndarray  # (3, 3) rotation of the head
    light: np.ndarray  # (3,) unit vector towards the key light
    key: float  # strength of the key light
    ambient: float  # strength of the light from everywhere
    yaw: float  # degrees
    units: np.ndarray  # (16, 2) action units at either side, 0 to 5
    identity: Identity
    rng: np.random.Generator

    def __post_init__(self):
        self.size = self.image.shape[-1]
        self.scale = float(np.sqrt(self.view.prod()))  # pixels of a millimetre
        self.width = 1 + 0.04 * self.identity.shape["face_width"]  # of the head, 1 on average

    def unit(self, number: int, side: int | None = None) -> float:
        """Intensity 0 to 1 of an action unit at one side, or the mean of both."""
        left, right = self.units[_UNIT[number]].tolist()
        return ((left + right) / 2 if side is None else right if side else left) / 5

    def at(self, landmark, x: float = 0, y: float = 0, z: float = 0, side: int = 0) -> np.ndarray:
        """A point beside a landmark, or amid several: x outwards, y down, z forwards.

        Landmarks are those of the image-left half; side 1 takes their mirror images.
        """
        index = MIRROR[landmark] if side else landmark
        anchor = self.points[index] if np.ndim(index) == 0 else self.points[index].sum(axis=0) / len(index)
        a, b, c = self.axes
        return anchor + (x if side else -x) * a + y * b + z * c

    def line(self, side: int, *stops: tuple) -> np.ndarray:
        """A smooth curve through the points `at` these stops (landmark, x, y, z)."""
        return curve([self.at(*stop, side=side) for stop in stops])

    def oval(self, side: int, landmark, x_radius, y_radius, x=0, y=0, count=14) -> np.ndarray:
        return ellipse(self.at(landmark, x, y, side=side), x_radius * self.axes[0], y_radius * self.axes[1], count)

    def head(self, x: float, y: float, z: float) -> np.ndarray:
        """A point of the head, x to the image's right, without perspective."""
        return self.origin + x * self.axes[0] + y * self.axes[1] + z * self.axes[2]

    def part(self, side: int, landmarks: list[int]) -> np.ndarray:
        return self.points[MIRROR[landmarks] if side else landmarks]

    def paint(self, shape, colour, alpha=1.0, soft=0.0, width=None, **options) -> None:
        """`paint` with soft and width in millimetres."""
        width = None if width is None else width * self.scale
        paint(self.image, shape, colour, alpha, soft * self.scale, width, **options)

    def shade(self, shape, colour, alpha=1.0, soft=0.0, width=None, clip=None) -> None:
        self.paint(shape, colour, alpha, soft, width, multiply=True, clip=clip)

    def texture(self, name: str, which: int) -> np.ndarray:
        """A window of a noise texture, the person's own."""
        start = self.identity.texture[which] % self.size, self.identity.texture[which - 1] % self.size
        return texture(name, self.size, start)
