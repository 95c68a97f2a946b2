"""The mixture over the time of a video, as stacked areas."""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader

from affectnet_plus.releases.writing import written_whole

from .annotate import COLORS, OTHER

SECONDS = 0.2  # of a point, at first
MOST_POINTS = 600  # of a drawn timeline


def write_timeline(rows: Iterable[dict], file: Path, expressions: list[str]) -> None:
    """Draw the mean distribution of the faces in each video over time, as FILE.html and FILE.png.

    Args:
        rows: of `predict`; those of pictures are left out.
        file: ends in .html.
        expressions: in the order of the areas, from below.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here, because nothing else needs it
    from matplotlib.figure import Figure

    sums: dict[str, dict[int, np.ndarray]] = {}
    for row in rows:
        if row["time"] is not None:
            point = sums.setdefault(row["source"], {})
            shares = np.array([row["distribution"].get(name, 0.0) for name in expressions] + [1.0])
            at = int(row["time"] / SECONDS)
            point[at] = point.get(at, 0.0) + shares
    figure = Figure(figsize=(11, 2.6 * max(1, len(sums)) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(max(1, len(sums)), 1, squeeze=False)[:, 0]
    for axis, (source, points) in zip(axes, sums.items(), strict=False):
        together = -(-(max(points) + 1) // MOST_POINTS)
        total = np.zeros((max(points) // together + 1, len(expressions) + 1))
        for at, values in points.items():
            total[at // together] += values
        with np.errstate(invalid="ignore"):  # no face at that time: a gap
            shares = total[:, :-1] / total[:, -1:]
        times = (np.arange(len(total)) + 0.5) * SECONDS * together
        colors = [COLORS.get(name, OTHER) for name in expressions]
        axis.stackplot(times, shares.T, colors=colors, labels=expressions, linewidth=0)
        axis.set(xlim=(0, len(total) * SECONDS * together), ylim=(0, 1), ylabel="share", title=Path(source).name)
    axes[-1].set_xlabel("seconds")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles[::-1], names[::-1], loc="outside right upper", frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(file.with_suffix(".png")) as beside:
        figure.savefig(beside, dpi=110)
    drawing = io.StringIO()
    figure.savefig(drawing, format="svg")
    svg = drawing.getvalue()
    pages = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    page = pages.get_template("timeline.html.jinja").render(svg=svg[svg.index("<svg") :])
    with written_whole(file) as beside:
        beside.write_text(page, encoding="utf-8")
