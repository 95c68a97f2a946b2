#!/usr/bin/env python
"""Cut faces out of photographs that come with scikit-image and matplotlib, for the demo and for tests.

    python tests/photographs.py demo/photographs

An astronaut (NASA), Grace Hopper (US Navy), and faces of 25 x 25 pixels from Labeled Faces in the Wild.
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
    astronaut = Image.fromarray(data.astronaut()).crop((168, 58, 280, 170))
    hopper = Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)).crop((160, 110, 370, 320))
    small = [Image.fromarray(img_as_ubyte(face)) for face in data.lfw_subset()[SMALL]]
    names = ["astronaut", "hopper", *(f"lfw-{number:02}" for number in SMALL)]
    for name, face in zip(names, [astronaut, hopper, *small], strict=True):
        face.save(folder / f"{name}.png")


if __name__ == "__main__":
    main()
