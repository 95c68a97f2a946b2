#!/usr/bin/env python
"""Photographs that come with scikit-image and matplotlib, and faces out of them, for the demo and for tests.

    python tests/photographs.py demo/photographs

An astronaut (NASA), Grace Hopper (US Navy), the two side by side as one photograph, and faces of 25 x 25 pixels from
Labeled Faces in the Wild.
"""

import argparse
from pathlib import Path

from matplotlib.cbook import get_sample_data
from PIL import Image
from skimage import data, img_as_ubyte

SMALL = [0, 13, 28, 29, 44, 49, 52, 53, 63, 83]  # of Labeled Faces in the Wild: many expressions


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="for the faces, as PNG")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    photographs = Image.fromarray(data.astronaut()), Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False))
    both = Image.new("RGB", (sum(photo.width for photo in photographs), max(photo.height for photo in photographs)))
    both.paste(photographs[0], (0, 0))
    both.paste(photographs[1], (photographs[0].width, 0))
    both.save(folder / "two-people.png")
    astronaut = photographs[0].crop((168, 58, 280, 170))
    hopper = photographs[1].crop((160, 110, 370, 320))
    small = [Image.fromarray(img_as_ubyte(face)) for face in data.lfw_subset()[SMALL]]
    names = ["astronaut", "hopper", *(f"lfw-{number:02}" for number in SMALL)]
    for name, face in zip(names, [astronaut, hopper, *small], strict=True):
        face.save(folder / f"{name}.png")


if __name__ == "__main__":
    main()
