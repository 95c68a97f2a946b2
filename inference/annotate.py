"""Pictures and videos with a box, a name and eight bars for each face."""

import contextlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from affectnet_plus.releases.writing import written_whole

# Okabe and Ito's colours, which most people can tell apart.
COLORS = {
    "neutral": "#999999", "happy": "#f0e442", "sad": "#56b4e9", "surprise": "#e69f00",
    "fear": "#cc79a7", "disgust": "#009e73", "anger": "#d55e00", "contempt": "#0072b2",
}  # fmt: skip
OTHER = "#bbbbbb"


def annotated(image: Image.Image | np.ndarray, answers: list[dict], bars: bool = True) -> Image.Image:
    """A copy of the picture in which each face has a box, its label or compound, and the bars of its distribution.

    Args:
        image: RGB.
        answers: the pipeline's; without a `box`, the bars stand in the picture's upper left corner.
        bars: False for the number of the `face` in their place, where they are to be seen elsewhere.
    """
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image.copy()
    draw = ImageDraw.Draw(picture, "RGBA")
    size = max(9, round(min(picture.size) / (40 if bars else 25)))
    font = ImageFont.load_default(size)
    boxes: list[tuple] = []
    taken: list[tuple] = []
    titles = []
    for answer in answers:
        box = answer.get("box") or {"x": 0, "y": 0, "width": picture.width - 1, "height": picture.height - 1}
        boxes.append((box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]))
        draw.rectangle(boxes[-1], outline=COLORS.get(answer["label"], OTHER), width=max(2, size // 5))
        name = answer["compound"] or f"{answer['label']} {answer['distribution'][answer['label']]:.2f}"
        titles.append(name if bars else f"{answer['face']}: {name}")
    for answer, title, box in zip(answers, titles, boxes, strict=True):
        shares = answer["distribution"] if bars else {}
        width, height = _size_of_panel(draw, title, shares, size, font)
        place = _free_place(picture.size, box, (width, height), [*boxes, *taken])
        taken.append((*place, place[0] + width, place[1] + height))
        _panel(draw, title, shares, taken[-1], size, font)
    return picture


def _size_of_panel(draw, title: str, shares: dict[str, float], size: int, font) -> tuple[float, float]:
    bars = _width_of_names(draw, shares, font) + 5 * size if shares else 0
    return max(bars, draw.textlength(title, font)) + size, round(1.2 * size) * (len(shares) + 1) + size // 2


def _width_of_names(draw, shares: dict[str, float], font) -> float:
    return max((draw.textlength(name, font) for name in shares), default=0)


def _free_place(picture: tuple, box: tuple, panel: tuple, taken: list[tuple]) -> tuple[float, float]:
    """Left and top of a panel (width, height) under a box, above it or beside it: where it covers least of what is
    taken."""
    (left, top, right, bottom), (width, height) = box, panel
    under, above, edges = bottom + 2, top - height - 2, (left, right - width)
    places = [
        *((edge, under) for edge in edges),
        *((edge, above) for edge in edges),
        (right + 2, top),
        (left - width - 2, top),
    ]
    room = picture[0] - width, picture[1] - height
    places = [tuple(max(0, min(value, most)) for value, most in zip(place, room, strict=True)) for place in places]

    def covered(place: tuple) -> float:
        sides = [
            [min(place[i] + panel[i], other[i + 2]) - max(place[i], other[i]) for i in range(2)] for other in taken
        ]
        return sum(max(0, x) * max(0, y) for x, y in sides)

    return min(places, key=covered)  # the first of those that are as good


def _panel(draw, title: str, shares: dict[str, float], place: tuple, size: int, font) -> None:
    """The title and the bars."""
    line, name_width, (left, top, _, _) = round(1.2 * size), _width_of_names(draw, shares, font), place
    draw.rectangle(place, fill=(0, 0, 0, 150))
    draw.text((left + size // 2, top), title, fill="white", font=font)
    for row, (name, share) in enumerate(shares.items(), start=1):
        y, x = top + row * line, left + size // 2
        draw.text((x, y), name, fill="white", font=font)
        x += name_width + size // 2
        draw.rectangle([x, y + line * 0.2, x + 4 * size, y + line * 0.85], fill=(255, 255, 255, 60))
        draw.rectangle([x, y + line * 0.2, x + 4 * size * share, y + line * 0.85], fill=COLORS.get(name, OTHER))


@contextlib.contextmanager
def video_writer(out: Path, like: Path) -> Iterator[Callable[[Image.Image], None]]:
    """Writes pictures as a video with the frame rate of another, under another name until it is whole."""
    import av

    with av.open(str(like)) as there:
        rate = there.streams.video[0].average_rate or Fraction(25)
    out.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(out) as beside, av.open(str(beside), "w", format="mp4") as container:
        stream = container.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=rate)
        stream.pix_fmt = "yuv420p"

        def write(picture: Image.Image) -> None:
            width, height = (side - side % 2 for side in picture.size)
            if not stream.codec_context.is_open:
                stream.width, stream.height = width, height
            pixels = np.asarray(picture)[:height, :width]
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)

        yield write
        for packet in stream.encode():
            container.mux(packet)
