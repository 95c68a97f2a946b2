"""What our HTML pages are made of: one style, thumbnails inside the file, bars of a soft label."""

import base64
import html
import io

import numpy as np

from affectnet_plus import EXPRESSIONS
from affectnet_plus.training.faces import Split

THUMBNAIL = 112  # pixels
STYLE = f"""
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 78rem; padding: 0 1rem; color: #1a1a1a }}
h1 {{ margin-bottom: .2rem }} h2 {{ margin: 2.4rem 0 .4rem }} h3 {{ margin: 1.2rem 0 .3rem; font-size: 1rem }}
p {{ max-width: 48rem }}
table {{ border-collapse: collapse }}
th, td {{ text-align: left; vertical-align: top; padding: .4rem .6rem; border-bottom: 1px solid #ddd }}
td.number, th.number {{ text-align: right; font-variant-numeric: tabular-nums }}
img.face {{ width: {THUMBNAIL}px; height: {THUMBNAIL}px; object-fit: cover; display: block }}
.bars {{ display: grid; grid-template-columns: 5.2rem 1fr 2.4rem; gap: .1rem .4rem; font-size: 12px }}
.bars > span:nth-child(3n) {{ text-align: right; font-variant-numeric: tabular-nums }}
.track {{ position: relative; display: block; align-self: center }}
.bar {{ display: block; background: #0072B2; height: .75rem }} .bar.human {{ background: #E69F00 }}
.track i {{ position: absolute; top: -1px; width: 2px; height: calc(.75rem + 2px); background: #000 }}
.key {{ display: inline-block; width: .8rem; height: .8rem; vertical-align: -1px }}
"""


def page(title: str, body: str, style: str = "") -> str:
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}{style}</style>\n{body}\n</html>\n"
    )


def face(split: Split, row: int) -> str:
    """The face of a row as an <img>; raises `ImageError`."""
    image = split.image(row)
    image.thumbnail((2 * THUMBNAIL, 2 * THUMBNAIL))  # sharp on dense screens, too
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return f'<img class="face" alt="" src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def bars(scores: np.ndarray, human_label: str, truth: np.ndarray | None = None) -> str:
    """The eight scores as bars, that of the human label in another colour; a tick where the truth lies."""
    lines = []
    for i, name in enumerate(EXPRESSIONS):
        tick = "" if truth is None else f'<i style="left:{100 * truth[i]:.1f}%"></i>'
        lines.append(
            f'<span>{name}</span><span class="track"><span class="bar{" human" if name == human_label else ""}" '
            f'style="width:{100 * scores[i]:.1f}%"></span>{tick}</span><span>{scores[i]:.2f}</span>'
        )
    return f'<div class="bars">{"".join(lines)}</div>'
