"""Draws what a face detector crops by mistake: patterns, buildings, landscapes, writing, leaves, vehicles, objects."""

import cv2
import numpy as np

from .paint import ellipse, paint, texture

_CORNERS = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])


def _box(x, y, width, height):
    return (x, y) + _CORNERS * (width, height)


def _muted(colour) -> np.ndarray:
    return np.clip(np.mean(colour) + 0.45 * (np.asarray(colour) - np.mean(colour)), 0, 1)


def _sky(rng: np.random.Generator) -> np.ndarray:
    """Two colours that run into each other from top to bottom, with clouds, on the unit square."""
    top, bottom = _muted(rng.uniform(0.15, 0.9, 3)), _muted(rng.uniform(0.15, 0.9, 3))
    rows = np.linspace(0, 1, 16)[None, :, None]
    clouds = rng.normal(0, 0.05, (1, 16, 16)) * rng.random()
    return (top[:, None, None] * (1 - rows) + bottom[:, None, None] * rows + clouds).astype(np.float32)


def _stripes(rng):
    count, slant = int(rng.integers(3, 16)), rng.uniform(-0.6, 0.6)
    colour, duty = rng.uniform(0, 1, 3), rng.uniform(0.2, 0.7)
    for k in np.arange(-2 * count, 2 * count) / count:
        yield np.array([[k, 0], [k + duty / count, 0], [k + duty / count + slant, 1], [k + slant, 1]]), colour, 0
    if rng.random() < 0.5:
        other = rng.uniform(0, 1, 3)
        for k in np.arange(count) / count:
            yield _box(0, k, 1, duty / count), other, 0


def _building(rng):
    wall, pane = rng.uniform(0.2, 0.8, 3), rng.uniform(0, 0.5, 3)
    left, top = rng.uniform(-0.3, 0.2), rng.uniform(-0.2, 0.3)
    yield _box(left, top, 1.5, 1.3), wall, 0
    columns, rows = rng.integers(4, 9), rng.integers(4, 9)
    for row in range(rows):
        for column in range(columns):
            x, y = left + (column + 0.3) * 1.5 / columns, top + (row + 0.3) * 1.2 / rows
            yield _box(x, y, 0.7 / columns, 0.6 / rows), pane + rng.normal(0, 0.08), 0
            yield _box(x, y + 0.6 / rows, 0.7 / columns, 0.1 / rows), wall * 0.6, 0


def _landscape(rng):
    for depth in np.linspace(0.3, 0.95, int(rng.integers(3, 6))):
        ridge = depth + np.cumsum(rng.normal(0, 0.035, 15))
        hill = np.column_stack([np.linspace(-0.05, 1.05, 15), ridge])
        yield np.vstack([hill, [(1.05, 1.1), (-0.05, 1.1)]]), rng.uniform(0.1, 0.6, 3) * (1.2 - 0.6 * depth), 0.004
        for x in rng.random(rng.integers(0, 7)):
            y = float(np.interp(x, hill[:, 0], ridge))
            yield np.array([(x - 0.03, y), (x + 0.03, y), (x, y - rng.uniform(0.08, 0.2))]), (0.08, 0.2, 0.1), 0.003


def _writing(rng):
    paper, ink = rng.uniform(0.7, 1, 3), rng.uniform(0, 0.4, 3)
    yield _box(-0.1, -0.1, 1.2, 1.2), paper, 0
    height = rng.uniform(0.03, 0.12)
    for y in np.arange(0.05, 1, height * 1.8):
        x = rng.uniform(0, 0.1)
        while x < 0.95:
            stroke = rng.uniform(0.15, 0.8) * height
            yield _box(x, y + rng.choice([0, 0.3]) * height, stroke * 0.35, height * rng.uniform(0.5, 1)), ink, 0
            yield _box(x, y + rng.choice([0, 0.4, 0.8]) * height, stroke, height * 0.2), ink, 0
            x += stroke * 1.3 + (rng.random() < 0.2) * height * 0.6


def _leaves(rng):
    hue = rng.uniform(0.1, 0.6, 3)
    for _ in range(rng.integers(60, 140)):
        angle, long = rng.uniform(0, np.pi), rng.uniform(0.03, 0.12)
        axis = np.array([np.cos(angle), np.sin(angle)]) * long
        yield ellipse(rng.uniform(0, 1, 2), axis, axis[::-1] * (-0.35, 0.35), 10), hue * rng.uniform(0.4, 1.6), 0.002


def _vehicle(rng):
    paintwork, ground = rng.uniform(0.1, 0.9, 3), rng.uniform(0.35, 0.5)
    yield _box(-0.1, ground + 0.32, 1.2, 0.8), rng.uniform(0.25, 0.5) * np.ones(3), 0.004
    roof = np.array([(0.2, 0), (0.3, -0.22), (0.68, -0.22), (0.85, 0)]) + (0, ground)
    yield roof, paintwork * 0.9, 0.002
    yield (roof - roof.mean(axis=0)) * (0.85, 0.75) + roof.mean(axis=0) + (0, 0.01), (0.2, 0.25, 0.3), 0.002
    yield _box(0.49, ground - 0.22, 0.03, 0.22), paintwork * 0.9, 0
    yield _box(0.04, ground, 0.92, 0.27), paintwork, 0.006
    yield _box(0.04, ground + 0.13, 0.92, 0.015), paintwork * 0.6, 0.002
    for x in (0.24, 0.77):
        for radius, tone in ((0.115, 0.05), (0.06, 0.6), (0.02, 0.2)):
            yield (
                ellipse(np.array([x, ground + 0.28]), np.array([radius, 0]), np.array([0, radius])),
                tone * np.ones(3),
                0.002,
            )


def _objects(rng):
    yield _box(-0.1, rng.uniform(0.5, 0.8), 1.2, 1), rng.uniform(0.2, 0.7, 3), 0.004
    for x in np.sort(rng.uniform(0, 0.9, rng.integers(2, 6))):
        wide, high, colour = rng.uniform(0.06, 0.2), rng.uniform(0.2, 0.6), rng.uniform(0.05, 0.95, 3)
        floor = rng.uniform(0.75, 0.95)
        if rng.random() < 0.6:  # a bottle
            yield _box(x + 0.3 * wide, floor - 1.35 * high, 0.4 * wide, 0.5 * high), colour * 0.9, 0.004
        yield _box(x, floor - high, wide, high), colour, 0.006
        yield _box(x + 0.1 * wide, floor - 0.9 * high, 0.15 * wide, 0.8 * high), colour * 0.5 + 0.5, 0.008
        yield _box(x, floor - 0.6 * high, wide, 0.3 * high), rng.uniform(0, 1, 3), 0


def _cloth(rng):
    tone = rng.uniform(0.2, 0.8, 3)
    for _ in range(rng.integers(5, 14)):  # folds
        x = rng.uniform(-0.2, 1.2, 2)
        fold = np.array([(x[0], -0.1), (x[0] + 0.06, -0.1), (x[1] + 0.1, 1.1), (x[1], 1.1)])
        yield fold, tone * rng.uniform(0.4, 1.4), rng.uniform(0.01, 0.05)


_KINDS = (_stripes, _building, _landscape, _writing, _leaves, _vehicle, _objects, _cloth)


def draw_nonface(rng: np.random.Generator, size: int = 224) -> np.ndarray:
    """Draws an image without any face: float32 RGB (3, size, size), not yet seen by a camera."""
    image = np.stack([cv2.resize(channel, (size, size), interpolation=cv2.INTER_CUBIC) for channel in _sky(rng)])
    zoom, shift = rng.uniform(0.8, 1.5), rng.uniform(-0.15, 0.15, 2)
    tilt = np.radians(rng.normal(0, 8))
    turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    for shape, colour, soft in _KINDS[rng.integers(len(_KINDS))](rng):
        placed = ((np.asarray(shape) - 0.5) @ turn * zoom + 0.5 + shift) * size
        paint(image, placed, _muted(colour), 1.0, soft * size)
    grain = texture("skin", size, rng.integers(0, size, 2))
    image *= 1 + np.float32(rng.uniform(0.01, 0.08)) * grain
    return image
