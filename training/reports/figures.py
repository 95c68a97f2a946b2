"""The figures of the report, as SVG; told apart by colour-blind people, readable at the width of a phone."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from affectnet_plus import EXPRESSIONS, SUBSETS, match_expressions

BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#999999"  # Okabe and Ito's, told apart by colour-blind people
SUBSET_COLOURS = dict(zip(SUBSETS, (BLUE, "#56B4E9", ORANGE), strict=True))
STYLE = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "affectnet-plus"}


def image_of(figure: Figure) -> str:
    """The figure as the source of an <img>."""
    FigureCanvasAgg(figure)
    file = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"


def confusion_matrix(confusion: np.ndarray, expressions: Sequence[str] = EXPRESSIONS) -> Figure:
    """Each row in % of the faces with that human label; rows without faces stay empty.

    Args:
        confusion: (8, 8) counts; rows: human label, columns: prediction.
        expressions: those that are shown.
    """
    shown = match_expressions(expressions)
    confusion = confusion[np.ix_(shown, shown)]
    with rc_context(STYLE):
        figure = Figure(figsize=(4.4, 4.2), layout="constrained")
        axes = figure.subplots()
        faces = confusion.sum(axis=1, keepdims=True)
        shares = np.divide(confusion, faces, out=np.full(confusion.shape, np.nan), where=faces > 0)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for i, j in np.ndindex(shares.shape):
            if not np.isnan(shares[i, j]):
                colour = "white" if shares[i, j] > 0.55 else "black" if shares[i, j] >= 0.005 else "#8a8a8a"
                axes.text(j, i, f"{100 * shares[i, j]:.0f}", ha="center", va="center", color=colour, fontsize=9)
        axes.set_xticks(range(len(expressions)), expressions, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(expressions)), expressions)
        axes.set_xlabel("predicted label")
        axes.set_ylabel("human label (rows: 100 %)")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    return figure


def subset_shares(counts: np.ndarray, expressions: Sequence[str] = EXPRESSIONS) -> Figure:
    """Shares of the difficulty subsets, an expression a bar.

    Args:
        counts: (8, 3) faces by expression and subset.
        expressions: those that are shown.
    """
    counts = counts[match_expressions(expressions)]
    with rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.2), layout="constrained")
        axes = figure.subplots()
        places, left = np.arange(len(expressions)), np.zeros(len(expressions))
        shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        for (name, colour), share in zip(SUBSET_COLOURS.items(), shares.T, strict=True):
            axes.barh(places, share, left=left, color=colour, label=name, height=0.72)
            for place, start, width in zip(places, left, share, strict=True):
                if width >= 9:
                    ink = "white" if colour == BLUE else "black"
                    axes.text(start + width / 2, place, f"{width:.0f}", ha="center", va="center", fontsize=9, color=ink)
            left += share
        axes.set_yticks(places, [f"{name} ({n:,})" for name, n in zip(expressions, counts.sum(axis=1), strict=True)])
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("% of the faces with that human label")
        figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def reliability_diagram(score: np.ndarray, truth: np.ndarray, bins: int = 10) -> Figure:
    """Mean ground truth against mean score, of faces binned by the score of one expression.

    Args:
        score: (N,) in [0, 1].
        truth: (N,) in [0, 1].
        bins: number of equal steps of the score.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(2.3, 2.3), layout="constrained")
        axes = figure.subplots()
        place = np.minimum((score * bins).astype(int), bins - 1)
        rows = np.bincount(place, minlength=bins)
        filled = rows > 0
        means = [np.bincount(place, values, bins)[filled] / rows[filled] for values in (score, truth)]
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1)
        axes.plot(*means, color=BLUE, linewidth=1.2)
        axes.scatter(*means, s=8 + 80 * rows[filled] / rows.max(), color=BLUE, zorder=3, clip_on=False)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_aspect("equal")
        axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
        axes.set_yticks([0, 0.5, 1], ["0", ".5", "1"])
        axes.set_xlabel("mean score")
        axes.set_ylabel("mean ground truth")
    return figure


def human_yardstick(people: Sequence[dict], figure_of: str, label: str) -> Figure:
    """How near some people come to the others, and a model to the same others, each with its 95 % interval.

    Args:
        people: as metrics.json has them.
        figure_of: "js_divergence" or "accuracy".
        label: what to call that.
    """
    sizes = [of["people"] for of in people]
    with rc_context(STYLE):
        figure = Figure(figsize=(4.4, 3.2), layout="constrained")
        axes = figure.subplots()
        rows = (("people", people, BLUE, "o"), ("the model", [of["model"] for of in people], ORANGE, "D"))
        for name, values, colour, marker in rows:
            means = np.array([value[figure_of] for value in values])
            bounds = np.array([value["intervals"][figure_of] for value in values])
            axes.errorbar(sizes, means, abs(bounds.T - means), color=colour, marker=marker, capsize=3, label=name)
        axes.set_xticks(sizes)
        axes.set_xlabel("number of people")
        axes.set_ylabel(label)
        figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def valence_arousal_plane(
    points: np.ndarray, labels: np.ndarray, others: np.ndarray, of_others: np.ndarray, others_are: str
) -> Figure:
    """Where the faces of each expression lie on average, by people and by a model.

    Args:
        points: (N, 2) annotated valence and arousal in [-1, 1].
        labels: (N,) their human labels.
        others: (N, 2) what they are compared with.
        of_others: (N,) the expressions of those.
        others_are: what to call those.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(5.0, 5.0), layout="constrained")
        axes = figure.subplots()
        axes.scatter(*points.T, s=3, color="#cccccc", linewidths=0, rasterized=len(points) > 2000)
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.axvline(0, color=GREY, linewidth=0.8)
        sides = {-1: [], 1: []}
        for i, name in enumerate(EXPRESSIONS):
            pairs = ((points, labels), (others, of_others))
            annotated, other = (at[of == i].mean(axis=0) if (of == i).any() else None for at, of in pairs)
            if annotated is None:
                continue
            if other is not None:
                axes.plot(*zip(annotated, other, strict=True), color=ORANGE, linewidth=1.5)
                axes.scatter(*other, s=34, color=ORANGE, marker="D", zorder=4)
            axes.scatter(*annotated, s=34, color=BLUE, zorder=5)
            sides[1 if annotated[0] > points[:, 0].mean() else -1].append((annotated[1], annotated[0], name))
        for side, texts in sides.items():
            height = -np.inf
            for y, x, name in sorted(texts):  # from below, none on top of another
                height = max(y, height + 0.085)
                text = axes.text(
                    x + 0.05 * side, height, name, va="center", ha="left" if side > 0 else "right", zorder=6
                )
                text.set_path_effects([withStroke(linewidth=3, foreground="white")])
        axes.scatter([], [], color=BLUE, label="mean of faces so labelled by people")
        axes.scatter([], [], color=ORANGE, marker="D", label=f"mean of {others_are}")
        axes.set_xlim(-1.02, 1.02)
        axes.set_ylim(-1.02, 1.02)
        axes.set_aspect("equal")
        axes.set_xlabel("valence")
        axes.set_ylabel("arousal")
        figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    return figure
