"""The figures of a description of a dataset, as SVG."""

from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from affectnet_plus import EXPRESSIONS

from .figures import BLUE, GREY, ORANGE, STYLE

_COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", GREY)  # Okabe and Ito's; a split each


def shares_by_split(counts: dict[str, dict[str, int]]) -> Figure:
    """A group of bars for each category: its share of the rows of each split.

    Args:
        counts: {split: {category: rows}}, the same categories in each.
    """
    names = list(next(iter(counts.values())))
    with rc_context(STYLE):
        figure = Figure(figsize=(5.6, 0.6 + 0.22 * len(names) * (len(counts) + 0.8)), layout="constrained")
        axes = figure.subplots()
        height = 0.8 / len(counts)
        for place, (split, of_split) in enumerate(counts.items()):
            rows = np.array([of_split[name] for name in names])
            shares = 100 * rows / max(rows.sum(), 1)
            at = np.arange(len(names)) + height * (place - (len(counts) - 1) / 2)
            axes.barh(at, shares, height, color=_COLOURS[place % len(_COLOURS)], label=f"{split} ({rows.sum():,})")
            for y, share, number in zip(at, shares, rows, strict=True):
                axes.text(share, y, f" {number:,}", va="center", fontsize=8)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.margins(x=0.14)
        axes.set_xlabel("% of the rows of a split")
        figure.legend(loc="outside upper center", ncols=min(3, len(counts)), frameon=False)
    return figure


def heat_map(
    values: np.ndarray, rows: Sequence[str], columns: Sequence[str], across: str, down: str,
    diverging: bool = False, percent: bool = False,
) -> Figure:  # fmt: skip
    """A matrix with its numbers in it; cells that are NaN stay empty.

    Args:
        values: (R, C) in [0, 1], or in [-1, 1] where `diverging`.
        rows: R names.
        columns: C names.
        across: what the columns are.
        down: what the rows are.
        diverging: whether 0 is the middle of the colours.
        percent: write shares as whole per cent.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(5.0, 1.7 + 0.38 * len(rows)), layout="constrained")
        axes = figure.subplots()
        most = max(float(np.nanmax(np.abs(values))), 1e-6) if not np.isnan(values).all() else 1.0
        scale = {"cmap": "RdBu", "vmin": -1, "vmax": 1} if diverging else {"cmap": "Blues", "vmin": 0, "vmax": most}
        axes.imshow(values, aspect="auto", **scale)
        for i, j in np.ndindex(values.shape):
            if not np.isnan(values[i, j]):
                dark = abs(values[i, j]) > 0.6 * (1 if diverging else most)
                text = f"{100 * values[i, j]:.0f}" if percent else f"{values[i, j]:.2f}".replace("0.", ".", 1)
                axes.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
        axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(rows)), rows)
        axes.set_xlabel(across)
        axes.set_ylabel(down)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    return figure


def score_histograms(histogram: dict[str, list[int]], mean: dict[str, float]) -> Figure:
    """How the scores of each expression are distributed; the lines are their means.

    Args:
        histogram: {expression: rows by equal steps of the score, 0 to 1}.
        mean: {expression: mean score}.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.6), layout="constrained")
        for axes, name in zip(figure.subplots(2, 4, sharex=True).flat, EXPRESSIONS, strict=True):
            rows = np.array(histogram[name])
            edges = np.linspace(0, 1, len(rows) + 1)
            axes.stairs(100 * rows / max(rows.sum(), 1), edges, fill=True, color=BLUE)
            axes.axvline(mean[name], color=ORANGE, linewidth=1.5)
            axes.set_title(f"{name}, {'unknown' if np.isnan(mean[name]) else f'{mean[name]:.2f}'}", fontsize=9)
            axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
            axes.tick_params(labelsize=8)
        figure.supxlabel("score", fontsize=9)
        figure.supylabel("% of the rows", fontsize=9)
    return figure


def mixtures(entropy: dict, present: list[int]) -> Figure:
    """How mixed faces are: entropy of the soft label, and how many scores are at least 0.5.

    Args:
        entropy: `edges` in nats and `rows`.
        present: (9,) rows with 0 to 8 such scores.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(5.6, 2.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.stairs(_percent(entropy["rows"]), entropy["edges"], fill=True, color=BLUE)
        left.axvline(np.log(len(EXPRESSIONS)), color=GREY, linewidth=1)
        left.set_xlabel("entropy in nats (line: all alike)")
        left.set_ylabel("% of the rows")
        right.bar(range(len(present)), _percent(present), color=BLUE)
        right.set_xlabel("expressions at 0.5 or more")
        right.set_xticks(range(len(present)))
    return figure


def affect_density(density: np.ndarray, mean: dict[str, list[float]]) -> Figure:
    """Where on the plane of valence and arousal the faces lie, and the mean of each expression.

    Args:
        density: (B, B) rows: arousal from -1, valence from -1.
        mean: {expression: [valence, arousal]}.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(5.0, 4.6), layout="constrained")
        axes = figure.subplots()
        axes.imshow(np.log1p(density), origin="lower", extent=(-1, 1, -1, 1), cmap="Blues")
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.axvline(0, color=GREY, linewidth=0.8)
        _name_points(axes, mean)
        axes.set_xlabel("valence")
        axes.set_ylabel("arousal")
    return figure


def _name_points(axes: Axes, points: dict[str, list[float]]) -> None:
    """Dots with their names beside them, none on top of another."""
    middle = np.mean([x for x, _ in points.values()]) if points else 0
    for side in (-1, 1):
        height = -np.inf
        here = [(y, x, name) for name, (x, y) in points.items() if (x > middle) == (side > 0)]
        for y, x, name in sorted(here):
            height = max(y, height + 0.1)
            axes.scatter(x, y, s=30, color=ORANGE, edgecolor="black", linewidth=0.6, zorder=5)
            text = axes.text(x + 0.05 * side, height, name, va="center", ha="left" if side > 0 else "right", zorder=6)
            text.set_path_effects([withStroke(linewidth=3, foreground="white")])


def _percent(rows: list[int]) -> np.ndarray:
    return 100 * np.array(rows) / max(sum(rows), 1)
