"""Brushes: smooth curves, soft-edged polygons and strokes, textures. Images are float32 RGB (3, H, W) from 0 to 1."""

from functools import lru_cache

import cv2
import numpy as np


@lru_cache(maxsize=64)
def _spline(count: int, closed: bool, steps: int) -> np.ndarray:
    """Catmull-Rom weights (samples, count) of a curve through `count` points."""
    t = np.arange(steps)[:, None] / steps
    basis = np.hstack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2]) / 2
    spans = count if closed else count - 1
    weights = np.zeros((spans * steps + (not closed), count))
    for span in range(spans):
        for k in range(4):
            point = (span + k - 1) % count if closed else min(max(span + k - 1, 0), count - 1)
            weights[span * steps : (span + 1) * steps, point] += basis[:, k]
    if not closed:
        weights[-1, -1] = 1
    return weights


def curve(points, closed: bool = False, steps: int = 5) -> np.ndarray:
    """A smooth curve (samples, 2) through the points (N, 2)."""
    return _spline(len(points), closed, steps) @ np.asarray(points)


@lru_cache(maxsize=8)
def _circle(count: int) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.column_stack([np.cos(angle), np.sin(angle)])


def ellipse(centre, x, y, count: int = 20) -> np.ndarray:
    """Polygon (count, 2) of the ellipse with semi-axes x and y, two vectors in pixels."""
    return centre + _circle(count) @ np.array((x, y))


@lru_cache(maxsize=2)
def _textures(size: int) -> dict:
    """Noise that is cut to size, not drawn anew for each image: skin, hair (straight, radial) and sensor."""
    rng, side, unit = np.random.default_rng(68), 2 * size, size / 224
    noise = rng.normal(size=(4, side, side)).astype(np.float32)

    def normal(values):
        return (values - values.mean()) / values.std()

    def blur(values, x, y):
        return normal(cv2.GaussianBlur(values, (0, 0), x * unit, sigmaY=y * unit))

    skin = 0.3 * blur(noise[0], 0.9, 0.9) + 0.4 * blur(noise[1], 3, 3) + 0.8 * blur(noise[2], 11, 11)
    straight = 0.7 * blur(noise[3], 0.8, 26) + 0.6 * blur(noise[0], 3.5, 40)
    polar = 0.7 * blur(noise[1], 50, 0.45) + 0.6 * blur(noise[2], 60, 2)  # rows are angles, columns radii
    radial = cv2.warpPolar(polar, (side, side), (size, size), side * 0.75, cv2.WARP_INVERSE_MAP)
    sensor = rng.normal(size=(side, side, 3)).astype(np.float32)
    return {"skin": normal(skin), "straight": normal(straight), "radial": normal(radial), "sensor": sensor}


def texture(name: str, size: int, start) -> np.ndarray:
    """A window (size, size) of a noise texture, mean 0 and deviation 1, from column and row `start` (0 to size)."""
    return _textures(size)[name][start[1] : start[1] + size, start[0] : start[0] + size]


def polygon_mask(polygon: np.ndarray, size: int) -> np.ndarray:
    """(size, size) uint8, 255 inside the polygon."""
    mask = np.zeros((size, size), np.uint8)
    cv2.fillPoly(mask, [np.rint(polygon * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return mask


def paint(image, shape, colour, alpha=1.0, soft=0.0, width=None, multiply=False, clip=None) -> None:
    """Paints a polygon, or several, in place.

    Args:
        shape: polygon (N, 2) in pixels, or a list of them.
        colour: RGB, or an image of it (3, H, W). With `multiply` what lies below is multiplied by it.
        soft: how far the edge is blurred, in pixels.
        width: of a stroke along the points, in pixels; None fills them.
        clip: (H, W) uint8 mask outside which nothing is painted.
    """
    fixed = [np.rint(polygon * 16).astype(np.int32) for polygon in (shape if isinstance(shape, list) else [shape])]
    left, top, across, down = cv2.boundingRect(fixed[0] if len(fixed) == 1 else np.concatenate(fixed))
    pad = int(2.5 * soft + (width or 0) / 2) + 2
    x0, x1 = max(left // 16 - pad, 0), min((left + across) // 16 + pad + 1, image.shape[2])
    y0, y1 = max(top // 16 - pad, 0), min((top + down) // 16 + pad + 1, image.shape[1])
    if x1 <= x0 or y1 <= y0:
        return
    window = (slice(y0, y1), slice(x0, x1))
    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    fixed = [points - np.array((16 * x0, 16 * y0), np.int32) for points in fixed]
    if width is None:
        cv2.fillPoly(mask, fixed, 255, cv2.LINE_AA, 4)
    else:
        cv2.polylines(mask, fixed, False, 255, max(1, round(width)), cv2.LINE_AA, 4)
        alpha *= min(1.0, width)
    if soft > 2:
        mask = cv2.stackBlur(mask, (2 * round(2 * soft) + 1,) * 2)
    elif soft > 0.25:
        mask = cv2.GaussianBlur(mask, (0, 0), soft)
    share = mask * np.float32(alpha / 255)
    if clip is not None:
        share *= clip[window] * np.float32(1 / 255)
    for channel, value in zip(image, colour, strict=True):
        region = channel[window]
        value = value[window] if isinstance(value, np.ndarray) else np.float32(value)
        if multiply:
            region *= 1 + share * (value - 1)
        else:
            region += share * (value - region)
