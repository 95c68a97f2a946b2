"""Draws a person whose face is moved by action units: posed, projected, framed, lit, then painted feature by feature.

Every feature hangs on projected 3-D points, so the landmarks lie on what was drawn whatever the pose. Offsets from a
landmark, widths and blurs are millimetres of the face; colours are RGB from 0 to 1, as seen in full light.
"""

import cv2
import numpy as np

from .action_units import move
from .identity import Identity, resting_face
from .paint import curve, ellipse, paint, polygon_mask, texture
from .portrait import Portrait
from .skin import lit_skin

# Points of the skull in millimetres: directions of a sphere; and how far hair stands off there.
_ANGLE = np.stack(np.meshgrid(np.linspace(-np.pi, np.pi, 13)[:-1], np.linspace(-1.4, 1.4, 7)), axis=-1).reshape(-1, 2)
_SPHERE = np.column_stack([np.sin(_ANGLE[:, 0]), np.tan(_ANGLE[:, 1]), np.cos(_ANGLE[:, 0])]) * np.cos(_ANGLE[:, 1:])
_SKULL = _SPHERE * (72, 88, 88) + (0, -8, -78)
_HAIR_SHARE = np.where(_SKULL[:, 1:2] < -10, 1.0, 0.4)
_NECK = [(-54, 60, -50), (-50, 120, -50), (-62, 220, -45), (62, 220, -45), (50, 120, -50), (54, 60, -50)]
_SHOULDERS = [(-160, 150), (-60, 128), (0, 150), (60, 128), (160, 150), (160, 300), (-160, 300)]


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Rotation (3, 3), degrees: yaw turns the nose to the image's right, pitch lifts it, roll tilts it clockwise."""
    (a, b, c), (sa, sb, sc) = np.cos(np.radians([yaw, pitch, roll])), np.sin(np.radians([yaw, pitch, roll]))
    turn = np.array([[a, 0, sa], [0, 1, 0], [-sa, 0, a]])
    nod = np.array([[1, 0, 0], [0, b, -sb], [0, sb, b]])
    return np.array([[c, -sc, 0], [sc, c, 0], [0, 0, 1]]) @ turn @ nod


def _background(size: int, rng: np.random.Generator) -> np.ndarray:
    tone, cells = rng.uniform(0.1, 0.85) + rng.normal(0, 0.05, 3), int(rng.integers(2, 7))
    blobs = rng.normal(0, rng.uniform(0.02, 0.16), (cells, cells, 1)) + rng.normal(0, 0.02, (cells, cells, 3))
    image = cv2.resize((tone + blobs).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    image = np.ascontiguousarray(image.transpose(2, 0, 1))
    for _ in range(rng.integers(0, 3)):  # door frames, shelves, lamps: out of focus
        corner, reach = rng.uniform(-0.2, 1, 2) * size, rng.uniform(0.1, 0.6, 2) * size
        box = corner + reach * np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
        colour = tone + rng.normal(0, 0.16) + rng.normal(0, 0.05, 3)
        paint(image, box, colour, rng.uniform(0.3, 0.8), size * rng.uniform(0.01, 0.04))
    return image


def _hair_colour(p: Portrait) -> np.ndarray:
    """Image (3, size, size) of hair: strands combed away from the face, or hanging straight when long."""
    person, size = p.identity, p.size
    middle = p.head(25 * person.parting, 0, 0)
    start = np.clip(size - np.rint(middle).astype(int), 0, size)
    strands = p.texture("straight", 1) if person.hair_length > 0.6 else texture("radial", size, start)
    rows = np.linspace(0, 1, size, dtype=np.float32)[:, None]
    shine = 0.95 + 0.25 * np.exp(-(((rows - 0.08) / 0.1) ** 2)) - 0.3 * rows + 0.25 * p.light[0] * (rows.T - 0.5)
    shine = shine.astype(np.float32) * np.float32(p.ambient + 0.5 * p.key)
    tone = shine * np.clip(1 + 0.22 * strands, 0.3, 1.9)
    gleam = np.maximum(strands + 0.5, 0) * (0.035 * shine)
    return tone * person.hair.astype(np.float32)[:, None, None] + gleam


def _behind(p: Portrait, hair: np.ndarray, skin: np.ndarray) -> None:
    """Hair behind the face, neck, clothes and ears."""
    person = p.identity
    if person.hair_length > 0.3:
        drop, waves = 20 + 170 * (person.hair_length - 0.3), p.rng.normal(0, 3, (2, 5))
        for sign, wave in zip((-1, 1), waves, strict=True):
            out = [(76 + 0.8 * person.hair_volume + w, y) for w, y in zip(wave, np.linspace(-20, drop, 5), strict=True)]
            lock = [p.head(sign * x, y, -50) for x, y in [*out, (45, drop + 8), (45, 0.5 * drop), (45, -20)]]
            p.paint(curve(lock, closed=True), hair, soft=1)
    p.paint(np.array([p.head(*xyz) for xyz in _NECK]), skin * np.float32(0.72), soft=0.7)
    p.paint(np.array([p.head(x, y, -30) for x, y in _SHOULDERS]), p.rng.uniform(0.05, 0.8, 3), soft=1)
    p.shade(p.points[2:15] + 9 * p.axes[1], (0.45, 0.4, 0.4), 0.75, 7)  # the chin's shadow
    skull = p.head(0, 0, 0) + _SKULL * (1 + person.hair_volume / 85 * _HAIR_SHARE) @ p.axes
    outline = curve(cv2.convexHull(skull.astype(np.float32))[:, 0], closed=True)
    p.paint(outline, hair if person.hair_volume else skin * np.float32(0.9), soft=0.8)
    if person.hair_length < 0.35:
        for sign in (-1, 1):
            centre, y = p.head(sign * 75 * p.width, 20, -62), 29 * p.axes[1]
            z = 13 * p.axes[2] + sign * 6 * p.axes[0]
            p.paint(ellipse(centre, z, y), skin * np.float32(0.92), soft=0.5)
            p.shade(ellipse(centre + 0.1 * y, 0.5 * z, 0.6 * y), (0.6, 0.5, 0.48), 0.7, 2)


def _face(p: Portrait, skin: np.ndarray, hair: np.ndarray) -> None:
    """Lays the skin inside the outline of the face, then hair over the hairline."""
    person, jaw = p.identity, curve(p.points[:17])
    near, far = (0, 1) if p.yaw > 0 else (1, 0)
    turned, sign = min(abs(p.yaw) / 15, 1), (1 if near else -1) * p.width
    ear = [(64, -14, 0), (67, 4, -10), (66, 20, -20), (64, 38, -20)]
    ear = [p.head(sign * x, y, z * turned - 40) for x, y, z in ear]
    brow = [p.at(17, 3, side=far), p.at(36, 5, side=far)]
    outline = cv2.convexHull(np.concatenate([jaw, p.hairline[1:-1], ear, brow]).astype(np.float32))[:, 0]
    if not person.hair_volume:
        return p.paint(outline, skin, soft=3)
    p.paint(outline, skin, soft=0.9)
    edge = curve(p.hairline, steps=12)
    p.shade(edge - 1.5 * p.axes[1], (0.5, 0.45, 0.42), 0.55, 4, width=6)
    roots = edge[p.rng.integers(14, len(edge) - 14, 90)] + p.rng.normal(0, 2, (90, 2)) * p.scale
    away = roots - p.head(0, 60, 0)
    away *= p.scale * 7 / np.linalg.norm(away, axis=1, keepdims=True)
    p.paint(list(np.stack([roots, roots + away], axis=1)), hair, 0.6, 0.4, width=0.9)
    if person.fringe:
        roots, along = curve(p.hairline[1:8], steps=10), np.linspace(-0.5, 0.5, 61)
        swing = np.interp(along, np.linspace(-0.5, 0.5, 7), p.rng.uniform(0.6, 1.1, 7))
        length = 50 * person.fringe * (1 - 2 * along**2) * swing + p.rng.normal(0, 1.6, 61)
        tips = roots + length[:, None] * p.axes[1] + 7 * person.parting * p.axes[0]
        p.shade(np.concatenate([roots, tips[::-1]]), (0.6, 0.55, 0.53), 0.6, 3)
        p.paint(np.concatenate([roots - 4 * p.axes[1], tips[::-1]]), hair, 0.97, 0.7)
        ends = tips + p.rng.uniform(0, 6, (61, 1)) * p.axes[1]
        p.paint(list(np.stack([tips - 16 * p.axes[1], ends], axis=1)), hair * np.float32(0.85), 0.6, 0.4, width=1)


def _eye(p: Portrait, side: int, gaze: np.ndarray) -> None:
    person, tone, (x, y, z) = p.identity, 0.62 + 0.3 * p.key, p.axes
    outer, up_out, up_in, inner, low_in, low_out = p.part(side, [36, 37, 38, 39, 40, 41])
    upper, lower = curve([outer, up_out, up_in, inner]), curve([inner, low_in, low_out, outer])
    opening = np.concatenate([upper, lower[1:-1]])
    clip = polygon_mask(opening, p.size)
    p.paint(opening, np.array([0.93, 0.9, 0.88]) * tone, 1, 0.25)
    p.paint(ellipse(inner, 3.5 * x, 3 * y), (0.78, 0.5, 0.46), 0.7, 1, clip=clip)
    centre = (outer + inner) / 2 + gaze @ p.axes[:2] - 1.4 * y + 2 * z  # the eyeball does not move with the lids
    p.paint(ellipse(centre, 6.1 * x, 6.1 * y), person.iris * 0.35, 1, 0.3, clip=clip)
    p.paint(ellipse(centre, 5.1 * x, 5.1 * y), person.iris * tone * 1.15, 1, 0.7, clip=clip)
    p.paint(ellipse(centre + 2.1 * y, 3.7 * x, 2.4 * y), person.iris * tone * 1.7 + 0.04, 0.6, 1, clip=clip)
    p.paint(ellipse(centre, 2.4 * x, 2.4 * y), (0.02, 0.02, 0.02), 1, 0.25, clip=clip)
    p.shade(upper + y, (0.35, 0.3, 0.3), 0.8, 1, width=3.5, clip=clip)  # the lid's shadow
    glint = centre + 2.6 * p.light[0] * x + (2.4 * p.light[1] - 0.8) * y
    p.paint(ellipse(glint, 1.2 * x, 1.2 * y, 10), (1, 1, 1), 0.5 + 0.5 * p.key, 0.3, clip=clip)

    crease = upper[1:-1] - y * (3.6 + 0.6 * person.shape["eye_depth"] - 2 * p.unit(5, side))
    p.shade(crease, (0.45, 0.36, 0.34), 0.75, 0.6, width=1.1)
    p.shade(crease - 2.5 * y, (0.72, 0.64, 0.62), 0.55, 2.4, width=5)
    if person.makeup > 0.2:
        p.shade(np.concatenate([upper, crease[::-1]]), person.lip * 0.7, 0.5 * person.makeup, 1.2)
    dark = 0.25 * person.brow + 0.02
    p.paint(upper - 0.3 * y, dark, 0.9, 0.3, width=1.1 + 0.7 * person.makeup + 0.3 * person.gender[0])
    p.paint(lower, dark + 0.1, 0.35 + 0.3 * person.makeup, 0.4, width=0.8)
    p.shade(lower + 0.9 * y, (0.82, 0.66, 0.62), 0.5, 0.5, width=1.2)
    if person.gender[0] > 0.5:  # lashes
        roots = upper[1:9]
        away = roots - (outer + inner) / 2 - 6 * y
        away *= p.scale * (2 + 2 * person.makeup) / np.linalg.norm(away, axis=1, keepdims=True)
        p.paint(list(np.stack([roots, roots + away], axis=1)), dark, 0.6, width=0.6)


def _brow(p: Portrait, side: int) -> None:
    brow, (x, y, _) = p.identity.brow, p.axes
    spine = curve(p.part(side, [17, 18, 19, 20, 21]), steps=6)
    along = np.linspace(0, 1, len(spine))[:, None]  # from the tail to the inner end
    thick = np.interp(along, [0, 0.3, 0.75, 1], [0.25, 0.75, 1, 0.75])
    thick = thick * (3.4 + 0.9 * p.identity.shape["brow_thickness"])
    p.paint(np.concatenate([spine - thick * y, (spine + 0.8 * thick * y)[::-1]]), brow * 0.8, 0.6, 0.9)
    pick = p.rng.integers(0, len(spine), 46)
    roots = spine[pick] + p.rng.uniform(-0.7, 0.9, (46, 1)) * thick[pick] * y
    outwards = (5 - 3 * along[pick]) * (x if side else -x)
    tips = roots + outwards - (1 + 3.2 * (along[pick] - 0.45)) * y
    p.paint(list(np.stack([roots, tips], axis=1)), brow * 0.55, 0.75, 0.25, width=0.7)


def _nose(p: Portrait) -> None:
    x, y, _ = p.axes
    for side in (0, 1):
        wrinkle, sign = p.unit(9, side), 1 if side else -1
        flare = 4.2 + 0.5 * p.identity.shape["nose_width"] + 0.8 * wrinkle
        nostril = ellipse(p.at([31, 33], 0.5, -0.2 - 1.2 * wrinkle, side=side), flare * x, 1.9 * y - 0.25 * sign * x)
        p.shade(nostril, (0.2, 0.12, 0.11), 0.85, 0.7)
        wing = p.line(side, (31, -0.5, -8), (31, 2.2, -4), (31, 1.5, 1), (31, -3, 2))
        p.shade(wing, (0.42, 0.3, 0.28), 0.45 + 0.3 * wrinkle, 0.8, width=1.2)
    base = curve([p.at(31, 1, 2), p.at(33, 0, 2), p.at(31, 1, 2, side=1)])
    p.shade(base, (0.5, 0.4, 0.38), 0.6, 1.8, width=3.5)
    if abs(p.yaw) > 8:  # the ridge hides what lies beyond it
        edge = p.line(int(p.yaw > 0), (27, 4), (28, 3.5), (29, 4), (30, 5, 2))
        p.shade(edge, (0.6, 0.5, 0.48), min(0.7, abs(p.yaw) / 45), 1.5, width=2)


def _teeth(p: Portrait, roof: np.ndarray, floor: np.ndarray, gap: float) -> None:
    """The inside of an open mouth: cavity, tongue and teeth; gap in millimetres."""
    cavity, (x, y, _) = np.concatenate([roof, floor[1:-1]]), p.axes
    clip = polygon_mask(cavity, p.size)
    p.paint(cavity, (0.16, 0.05, 0.05), 1, 0.4)
    if gap > 9:
        p.paint(ellipse(p.at(66, 0, -1), 13 * x, 6 * y), (0.5, 0.22, 0.21), 0.9, 1.5, clip=clip)
    enamel = np.array([0.88, 0.85, 0.78]) * (0.6 + 0.35 * p.key)
    bared = min(7, 1 + min(0.5 * gap, 3) + 2 * p.unit(10) + 2.5 * p.unit(12) + 1.5 * p.unit(20))
    arch = bared * np.sqrt(1 - np.linspace(-0.93, 0.93, len(roof))[:, None] ** 2) * y
    p.paint(np.concatenate([roof, (roof + arch)[::-1]]), enamel, 0.97, 0.4, clip=clip)
    seams = [np.array([p.at(62, k, -2), p.at(62, k, bared - 0.5)]) for k in (-13, -8.5, -4.2, 0, 4.2, 8.5, 13)]
    p.shade(seams, (0.7, 0.6, 0.55), 0.4, 0.25, width=0.6, clip=clip)
    p.shade(roof + 0.4 * y, (0.3, 0.2, 0.2), 0.7, 0.7, width=1.6, clip=clip)
    if gap > 5 and p.unit(20) + p.unit(26) > 0.5:
        lower = floor[3:-3]
        p.paint(np.concatenate([lower, (lower - 2.5 * y)[::-1]]), enamel * 0.8, 0.8, 0.4, clip=clip)


def _mouth(p: Portrait) -> None:
    person, y = p.identity, p.axes[1]
    upper, lower = curve(p.points[48:55], steps=4), curve(p.points[[54, 55, 56, 57, 58, 59, 48]], steps=4)
    roof, floor = curve(p.points[60:65], steps=4), curve(p.points[[64, 65, 66, 67, 60]], steps=4)
    full = 0.85 - 0.5 * p.unit(23)
    p.shade(np.concatenate([upper, roof[::-1]]), person.lip * 0.9, full, 0.6)
    p.shade(np.concatenate([roof, floor[1:-1]]), person.lip, 0.3, 0.5)
    p.shade(np.concatenate([floor, lower[::-1]]), person.lip, full - 0.05, 0.6)
    p.paint(p.oval(0, [57, 66], 9, 1.5, 0, 0.5), (1, 0.95, 0.93), (0.1 + 0.2 * person.makeup) * p.key, 1.5)
    gap = np.linalg.norm(p.points[66] - p.points[62]) / np.linalg.norm(y)
    if gap > 1.2:
        _teeth(p, roof, floor, gap)
    else:
        p.shade((roof + floor[::-1]) / 2, (0.3, 0.17, 0.16), 0.85, 0.35, width=1.3)
    for side in (0, 1):
        pulled = p.unit(14, side)
        corner = 0.5 + 0.25 * max(pulled, p.unit(15, side), p.unit(12, side))
        p.shade(p.oval(side, 48, 2.4, 1.8, 0.5, 0.5), (0.5, 0.36, 0.34), corner, 1.1)
        if pulled > 0.2:  # the dimple
            dimple = p.line(side, (48, 6, -7), (48, 8.5, 0), (48, 6, 6))
            p.shade(dimple, (0.62, 0.5, 0.48), 0.8 * pulled, 1.6, width=2.4)
    p.shade(p.points[55:60] + 4 * y, (0.7, 0.6, 0.58), 0.5 + 0.3 * p.unit(17), 2.2, width=4)


def _glasses(p: Portrait) -> None:
    angle, rims = np.linspace(0, 2 * np.pi, 33)[:, None], []
    x, y = (np.sign(wave) * np.abs(wave) ** 0.6 for wave in (np.cos(angle), np.sin(angle)))
    for side in (0, 1):
        rim = p.at([36, 39], 1, 3, 6, side=side) + 24 * x * p.axes[0] + 17 * y * p.axes[1]
        p.paint(rim, (0.9, 0.92, 0.95), 0.12)
        rims.append(rim)
        if (p.yaw if side else -p.yaw) < 10:  # the far arm is hidden
            rims.append(np.array([p.at([36, 39], 25, -3, 6, side=side), p.head(74 if side else -74, 4, -55)]))
    rims.append(curve([p.at([36, 39], -22, 0, 6), p.at(27, 0, -1, 4), p.at([36, 39], -22, 0, 6, side=1)]))
    p.shade([rim + 2 * p.axes[1] for rim in rims], (0.6, 0.55, 0.53), 0.5, 1.5, width=2)
    p.paint(rims, p.identity.frame, 0.95, 0.25, width=1.2 if p.identity.glasses == 1 else 2.8)


def camera(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Exposure, colour cast, blur and noise: float32 (3, size, size) of any range -> uint8 RGB (size, size, 3)."""
    size, gain = image.shape[-1], rng.uniform(0.82, 1.2) * (1 + rng.normal(0, 0.025, (3, 1, 1)))
    image = cv2.merge(tuple(image * gain.astype(np.float32)))
    blur = rng.choice([0, rng.uniform(0.4, 0.9), rng.uniform(0.9, 1.9)], p=[0.35, 0.5, 0.15]) * size / 224
    if blur > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    image += texture("sensor", size, rng.integers(0, size, 2)) * np.float32(rng.gamma(1.5, 0.007))
    if rng.random() < 0.07:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return (np.clip(image, 0, 1) * np.float32(255)).astype(np.uint8)


def draw_face(identity: Identity, units: np.ndarray, pose, rng: np.random.Generator, size: int = 224):
    """Draws one face, framed as the release frames them: the box of landmarks and forehead, scaled to a square.

    Args:
        identity: the person.
        units: (16, 2) intensities 0 to 5 of `ACTION_UNITS`, image left and image right.
        pose: yaw, pitch, roll in degrees (see `rotation`).
        rng: camera distance, framing, light, background, gaze and strands of hair come from it.
        size: height and width in pixels.

    Returns:
        float32 RGB image (3, size, size), not yet seen by a `camera`, and the landmarks (68, 2) in its pixels.
    """
    face, hairline = resting_face(identity)
    face, yaw, turn = move(face, units), pose[0], rotation(*pose)
    far = slice(9, 17) if yaw > 0 else slice(0, 8)
    face[far, 2] *= 1 - 0.9 * min(abs(yaw) / 45, 1)  # 2-D annotators put the far contour where the face ends
    view, distance = np.concatenate([face, hairline]) @ turn.T, rng.uniform(600, 2500)  # to the camera, millimetres
    flat = view[:, :2] * (distance / (distance - view[:, 2:]))

    framed = np.concatenate([flat[:68], 0.85 * flat[68:]])
    low, high = framed.min(axis=0), framed.max(axis=0)
    spare = 0.4 * max(0, (high - low)[1] - (high - low)[0])  # most of the way to a square, as detectors' boxes are
    low, high = low - (spare, 0), high + (spare, 0)
    low, high = low - rng.uniform(0.01, 0.05, 2) * (high - low), high + rng.uniform(0.01, 0.05, 2) * (high - low)
    pixels = size / (high - low)

    azimuth, elevation, key = rng.normal(0, 0.6), rng.uniform(0.05, 0.9), rng.uniform(0.45, 0.85)
    light = [np.sin(azimuth) * np.cos(elevation), -np.sin(elevation), np.cos(azimuth) * np.cos(elevation)]
    points = (flat - low) * pixels
    p = Portrait(
        image=_background(size, rng), points=points[:68], hairline=points[68:], axes=turn[:2].T * pixels,
        origin=-low * pixels, view=pixels, turn=turn, light=np.array(light), key=key,
        ambient=rng.uniform(0.95, 1.2) - 0.8 * key, yaw=yaw, units=units, identity=identity, rng=rng,
    )  # fmt: skip
    skin, hair = lit_skin(p), _hair_colour(p)
    _behind(p, hair, skin)
    _face(p, skin, hair)
    gaze = rng.normal(0, (1.6, 0.6))
    for side in (0, 1):
        _eye(p, side, gaze)
        _brow(p, side)
    _nose(p)
    _mouth(p)
    if identity.glasses:
        _glasses(p)
    return p.image, p.points
