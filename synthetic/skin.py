"""The skin as a relief: forms and wrinkles raised by traits, age and action units, lit by a key light and the sky."""

import cv2
import numpy as np

from .paint import curve, ellipse, paint
from .portrait import Portrait

_SLOPE = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], np.float32) / 8  # Sobel


class _Layer:
    """Heights at 1/step of the image's resolution: each shape overwrites those before; the blur makes forms of them."""

    def __init__(self, p: Portrait, step: int):
        self.heights, self.step, self.scale = np.zeros((p.size // step,) * 2, np.float32), step, p.scale / step

    def add(self, height: float, shape: np.ndarray, width: float | None = None) -> None:
        fixed = [np.rint(shape * (16 / self.step)).astype(np.int32)]
        if width is None:
            cv2.fillPoly(self.heights, fixed, height, shift=4)
        else:
            cv2.polylines(self.heights, fixed, False, height, max(1, round(width * self.scale)), shift=4)

    def blurred(self, sigma: float) -> np.ndarray:
        return cv2.GaussianBlur(self.heights, (0, 0), max(sigma * self.scale, 0.4))


def _forms(p: Portrait) -> np.ndarray:
    """Heights (size / 2, size / 2) in millimetres above the egg of the head."""
    traits, age, male = p.identity.shape, p.identity.wrinkles, p.identity.gender[1]
    large, small = _Layer(p, 4), _Layer(p, 2)
    large.add(4, p.oval(0, [51, 57], 29, 22))
    for side in (0, 1):
        smile = max(p.unit(6, side), 0.8 * p.unit(12, side))
        large.add(4.5 + 1.5 * traits["cheekbones"] + 4.5 * smile, p.oval(side, [36, 41], 19, 14, -2, 24 - 4 * smile))
        large.add(-2.5 + 1.5 * traits["fullness"] - 3 * p.unit(14, side), p.oval(side, 48, 9, 15, 18, -4))
        large.add(-6 - 1.5 * traits["eye_depth"] - male, p.oval(side, [36, 39], 21, 12, 0, -3))
        large.add(3.5 + 1.5 * male + 1.5 * p.unit(4), p.part(side, [17, 18, 19, 20, 21]) - p.axes[1], 9)
    large.add(7, np.array([p.at([21, 22], -3), p.at([21, 22], 3), p.at(35, 0, 4), p.at(31, 0, 4)]))
    large.add(5 + 2 * p.unit(17), p.oval(0, 8, 17, 11, 0, -13))

    small.add(3.4 + 0.8 * traits["nose_bridge"], np.array([p.at([21, 22], 0, 2), *p.points[27:30]]), 8)
    small.add(8, p.oval(0, 30, 8.5, 8))
    small.add(7, p.points[29:31], 9)
    for side in (0, 1):
        small.add(4.5 + 2 * p.unit(9, side), p.oval(side, 31, 6, 6.5, -1, -2))
        eye = p.part(side, [36, 37, 38, 39, 40, 41])
        small.add(3.2, eye.mean(axis=0) + (eye - eye.mean(axis=0)) * (1.12, 1.5))
        fold = p.line(side, (31, 3, -5), (31, 12, 6), (48, 8, -5), (48, 9, 4 + 4 * age))  # nasolabial
        depth = 0.8 + 1.4 * age + 2.6 * max(p.unit(12, side), 0.9 * p.unit(10, side), 0.8 * p.unit(9, side))
        small.add(-depth, fold, 3)
        small.add(0.7 * depth, fold + (5 if side else -5) * p.axes[0], 5)
        bag = p.line(side, (39, -1, 7), ([40, 41], 0, 9), (36, -2, 9))
        small.add(-0.4 - 1.3 * age - 1.6 * p.unit(6, side), bag, 2)
        small.add(-1 - 2.5 * p.unit(14, side) - 1.5 * p.unit(15, side), p.oval(side, 48, 3, 4, 4))
    small.add(3, p.points[48:60])
    small.add(-1.8, p.points[[33, 51]], 3)
    small.add(-3 - 3 * p.unit(17), curve([p.at(59, 0, 5), p.at(57, 0, 7), p.at(55, 0, 5)]), 5)
    for x, y in p.rng.uniform((-13, -22), (13, -4), (9, 2)):  # the chin bunches up
        if p.unit(17) > 0.2:
            small.add(-2 * p.unit(17), p.oval(0, 8, 2.5, 2.5, x, y))
    half = (p.size // 2,) * 2
    smooth = cv2.blur(cv2.resize(large.blurred(5), half), (3, 3))  # without the creases of the enlargement
    return smooth + cv2.blur(small.blurred(1.9), (2, 2))


def _wrinkles(p: Portrait) -> np.ndarray:
    """Heights (size, size) in millimetres of lines; those of age deepen where a unit folds the skin."""
    age, layer = 0.35 * p.identity.wrinkles, _Layer(p, 1)

    def fold(depth, width, side, *stops):
        if depth > 0.15:
            layer.add(-depth, p.line(side, *stops), width)

    for row, shift in enumerate(
        p.rng.normal(0, 1, 4)
    ):  # the forehead, lifted at its middle by AU 1, at its sides by AU 2
        y, arch = -14 - 9.5 * row + shift, 4 * (p.unit(1) - p.unit(2))
        fold(age + p.unit(1), 1.3, 0, (20, -2, y + 2), ([21, 22], 0, y - arch), (23, 2, y + 2))
        for side in (0, 1):
            fold(age + 1.1 * p.unit(2), 1.3, side, (20, -2, y + 2), (18, 0, y + 3), (17, -4, y + 6, -4))
    for side in (0, 1):
        glabella, nose, smile = 0.6 * age + 1.6 * p.unit(4), p.unit(9, side), p.unit(12, side)
        fold(glabella, 1.8, side, (21, -3.5, -9), (21, -2.5, 0), (21, -3, 7))
        fold(nose, 1.6, side, (39, -4, 3), (29, 8, 0, -8))
        for angle in (-0.5, -0.05, 0.4, 0.75):  # crow's feet
            fold(1.2 * age + 0.8 * p.unit(6, side), 1.3, side, (36, 5, 7 * angle), (36, 15, 15 * angle + 1, -8))
        lid = 0.3 + 0.9 * age + 0.8 * p.unit(7, side) + p.unit(6, side)
        fold(lid, 1.2, side, (39, 0, 3), (40, 0, 3.2), (41, 0, 3.4), (36, 0, 4))
        cheek = 0.6 * smile + 1.5 * p.unit(14, side) + 0.8 * p.unit(20, side)
        fold(cheek, 1.8, side, (48, 8, -10), (48, 11, -1), (48, 8, 9))
        fold(1.2 * p.unit(15, side), 2.2, side, (48, 2, 2), (48, 6, 9), (48, 5, 15))
    for y in (2, 6, 10):
        fold(2.2 * p.unit(9), 1.5, 0, (27, 8, y, -5), (27, 0, y - 1.5), (27, -8, y, -5))
    return layer.blurred(0.85)


def _egg_normals(p: Portrait) -> np.ndarray:
    """Unit normals (size / 4, size / 4, 3) of the ellipsoid of the head, levelled out beyond its edge."""
    grid = np.linspace(0, p.size, p.size // 4, endpoint=False, dtype=np.float32) + 1.5
    centre = p.turn @ (0, 14, -72)
    x = ((grid - p.origin[0]) / p.view[0])[None, :] - np.float32(centre[0])  # millimetres
    y = ((grid - p.origin[1]) / p.view[1])[:, None] - np.float32(centre[1])
    q = (p.turn @ np.diag(np.array([80.0 * p.width, 124, 104]) ** -2.0) @ p.turn.T).astype(np.float32)
    b = q[0, 2] * x + q[1, 2] * y
    c = q[0, 0] * x * x + 2 * q[0, 1] * x * y + q[1, 1] * y * y - 1
    z = (np.sqrt(np.maximum(b * b - q[2, 2] * c, 0.03 * q[2, 2])) - b) / q[2, 2]
    normals = cv2.merge([q[axis, 0] * x + q[axis, 1] * y + q[axis, 2] * z for axis in range(3)])
    return normals / np.sqrt((normals * normals).sum(axis=-1, keepdims=True))


def _flush(p: Portrait, skin: np.ndarray) -> None:
    """Blood in cheeks and nose, dark eye sockets, freckles, on skin at half the size."""
    for side in (0, 1):
        socket = p.oval(side, [36, 39], 20, 12, 0, 1) / 2
        paint(skin, socket, (0.86, 0.78, 0.78), 0.6, 2.5 * p.scale, multiply=True)
    rosy = 1 - p.identity.rosiness * np.array([0.06, 0.22, 0.2])
    shapes = [p.oval(0, 30, 11, 9, 0, -2) / 2, *(p.oval(side, [36, 41], 17, 14, 2, 26) / 2 for side in (0, 1))]
    paint(skin, shapes, rosy, 1, 4 * p.scale, multiply=True)
    if p.identity.freckles:
        spots = (p.points[30] + p.rng.normal(0, 1, (60, 2)) * (26, 11) @ p.axes[:2]) / 2
        spots = [ellipse(spot, 0.3 * p.axes[0], 0.3 * p.axes[1], 6) for spot in spots]
        paint(skin, spots, (0.7, 0.56, 0.48), 0.7 * p.identity.freckles, 0.3, multiply=True)


def _beard(p: Portrait, skin: np.ndarray, light: np.ndarray) -> None:
    person = p.identity
    cover = max(person.beard, 0.35 * person.stubble * person.gender[1] ** 4)
    moustache = max(person.moustache, 0.8 * cover)
    hairs = (0.9 + 0.12 * p.texture("straight", 2) + 0.14 * p.texture("skin", 1)) * light
    colour = (0.55 * person.brow + 0.45 * person.hair).astype(np.float32)[:, None, None] * hairs
    if cover > 0.05:
        jaw = p.points[2:15] + 0.02 * (p.points[2:15] - p.points[30])
        inner = [p.at(31, 14, 16, side=1), p.at(48, 8, -2, side=1), p.at(57, 0, 6), p.at(48, 8, -2), p.at(31, 14, 16)]
        paint(skin, np.concatenate([jaw, inner]), colour, 0.85 * cover, 5 * p.scale)
        paint(skin, p.oval(0, 8, 18, 11, 0, -7), colour, 0.6 * cover, 4 * p.scale)
    if moustache > 0.05:
        left = [(33, 0, 4), (31, -4, 9), (48, 6, 4), (50, 0, -2)]
        lip = [p.at(*stop) for stop in left] + [p.at(*stop, side=1) for stop in left[:0:-1]]
        paint(skin, np.array(lip), colour, 0.9 * moustache, 1.6 * p.scale)


def lit_skin(p: Portrait) -> np.ndarray:
    """Image (3, size, size) of skin over the whole canvas.

    Lambert with a soft terminator, light of the sky, darker cavities, Blinn's gloss; shadows are redder, as light
    scatters in skin. What is soft is computed at half the size.
    """
    nx, ny, nz = cv2.split(cv2.resize(_egg_normals(p), (p.size // 2,) * 2, interpolation=cv2.INTER_CUBIC))
    forms, step = _forms(p), p.scale / 2
    nx -= cv2.Sobel(forms, cv2.CV_32F, 1, 0, ksize=3, scale=step / 8)
    ny -= cv2.Sobel(forms, cv2.CV_32F, 0, 1, ksize=3, scale=step / 8)
    norm = 1 / cv2.sqrt(nx * nx + ny * ny + nz * nz)

    def facing(direction):
        x, y, z = (direction / np.linalg.norm(direction)).astype(np.float32)
        return (nx * x + ny * y + nz * z) * norm

    diffuse = np.maximum((facing(p.light) + np.float32(0.3)) / np.float32(1.3), 0)
    sky = np.float32(0.8) - np.float32(0.2) * ny * norm
    cavity = np.clip(1 + 0.035 * (forms - cv2.stackBlur(forms, (2 * round(18 * step) + 1,) * 2)), 0.6, 1.12)
    light = (np.float32(p.ambient) * sky + np.float32(p.key) * diffuse) * cavity
    gloss = np.float32(0.3 * p.key * p.identity.oiliness) * cv2.pow(np.maximum(facing(p.light + (0, 0, 1)), 0), 16)
    tones = zip(p.identity.skin, (0.9, 1.0, 1.06), strict=True)
    skin = np.stack([np.float32(tone) * cv2.pow(light, bleed) for tone, bleed in tones])
    _flush(p, skin)

    *skin, gloss = cv2.split(cv2.resize(cv2.merge([*skin, gloss]), (p.size, p.size)))
    # Lines are shallow: their shading is the slope along the light, and what lies deeper is darker.
    lines = _wrinkles(p)
    slope = np.float32(-0.25 * p.key * p.scale) * (p.light[0] * _SLOPE + p.light[1] * _SLOPE.T)
    lines = cv2.filter2D(lines, cv2.CV_32F, slope) + np.float32(0.12) * lines + np.float32(1)
    mottle = p.texture("skin", 0)
    grains = zip(skin, (0.018, 0.026, 0.028), strict=True)
    skin = np.stack([channel * ((1 + np.float32(grain) * mottle) * lines) for channel, grain in grains])
    if p.identity.stubble:
        _beard(p, skin, cv2.resize(light, (p.size, p.size)))
    return skin + gloss
