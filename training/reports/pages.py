"""Self-contained HTML pages from the templates beside this file, and what their faces are made of."""

import base64
import io
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from affectnet_plus import EXPRESSIONS
from affectnet_plus.training.faces import Split

from . import figures

_THUMBNAIL = 224  # pixels; shown at half of that, so that it is sharp on dense screens, too
_templates = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
_templates.globals |= {"BLUE": figures.BLUE, "ORANGE": figures.ORANGE}


def render(template: str, **context) -> str:
    """A page.

    Args:
        template: file name in `templates`.
        context: what the template names; every string is escaped.

    Returns:
        HTML that refers to no other file.
    """
    return _templates.get_template(template).render(context)


def face(split: Split, row: int, scores: np.ndarray, ground_truth: np.ndarray | None = None) -> dict:
    """A face as the macros of the templates show it.

    Args:
        split: the faces.
        row: which of them.
        scores: (8,) in [0, 1], in the order of `EXPRESSIONS`; NaN for what is not shown.
        ground_truth: (8,) the same, or None.

    Returns:
        Thumbnail, id, human label, predicted label and scores.

    Raises:
        ImageError: its image cannot be read.
    """
    truths = [None] * len(EXPRESSIONS) if ground_truth is None else ground_truth.tolist()
    return {
        "image": thumbnail(split.image(row)),
        "id": str(split.ids[row]),
        "human_label": EXPRESSIONS[split.labels[row]],
        "predicted": EXPRESSIONS[np.nanargmax(scores)],
        "scores": [bar for bar in zip(EXPRESSIONS, scores.tolist(), truths, strict=True) if not np.isnan(bar[1])],
    }


def thumbnail(image: Image.Image) -> str:
    """A small copy of an RGB image, as the source of an <img>; the image is made small itself."""
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
