"""Whether the files of a release are still read to the rows that people have in their caches."""

import csv
import hashlib
import json

import datasets
import numpy as np
import PIL.Image
import pytest
from test_affectnet_plus import TRAIN, UNANNOTATED, annotation, write_pair

from affectnet_plus import READING_FORMAT

# By `READING_FORMAT`, so that rows that are read differently cannot go with the old one.
DIGESTS = {
    "f86340b42b1c596b": {
        "human_annotated_all": "4344cc315cd08850",
        "no_human_annotated": "1c272beeb4df884b",
        "affectnet_2021": "5d0cd8769102c9a2",
        "affectnet_2017": "431053053e9ddde4",
        "ferplus": "08850e163345e34c",
    }
}


def write_plus(root):
    sparse = annotation(label=3, subset=1)
    sparse["meta-data"] |= {"valence": -2, "age": None, "landmark-29": [1, 2]}
    for n, content in enumerate((annotation(), sparse, annotation(label=9), {**annotation(), "subset": 3}, b"{")):
        write_pair(root, TRAIN, n, content, suffix="jpg" if n % 2 else "PNG")
    write_pair(root, UNANNOTATED, 7, annotation(label=None))


def write_2021(root):
    for n, (label, valence) in enumerate((("3", "-0.5"), ("8", "0.25"), ("1", "-2"), ("12", "0"))):
        write_pair(root, "train_set", n, {})
        for name, value in (("exp", label), ("val", valence), ("aro", "0.125"), ("lnd", np.arange(136.0) - n)):
            np.save(root / f"train_set/annotations/{n}_{name}.npy", np.array(value))


def write_2017(root):
    (root / "Manually_Annotated_Images/1").mkdir(parents=True)
    photograph = np.zeros((96, 120, 3), np.uint8)
    photograph[:, 64:] = 240
    PIL.Image.fromarray(photograph).save(root / "Manually_Annotated_Images/1/a.png")
    points = ";".join(map(str, np.linspace(10, 100, 136).round(3)))
    names = ["face_x", "face_y", "face_width", "face_height", "facial_landmarks", "expression", "valence", "arousal"]
    with open(root / "training.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [
                ["subDirectory_filePath", *names],
                ["1/a.png", 32, 16, 64, 64, points, 4, 0.5, -2],
                ["1\\a.png", -8, 16, 64, 200, "NULL", 0, -0.25, 0.75],
                ["1/a.png", 0, 0, 0, 0, points, 7, 0, 0],
                ["1/a.png", 0, 0, 9, 9, points, 9, 0, 0],
                ["1/b.png", 0, 0, 9, 9, points, 1, 0, 0],
            ]
        )


def write_ferplus(root):
    header = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
    votes = ("1,0,0,6,0,0,1,0,2,0", "5,5,0,0,0,0,0,0,0,0", "0,0,1,0,0,0,2,0,7,0", "0,8,0,0,0,0,0,0,0,2", "9,x,,,,,,,,")
    lines = [f"Training,fer{n:07}.png,{line}" for n, line in enumerate(votes)]
    pixels = [f"0,{' '.join(['16'] * 1152 + ['200'] * 1152)},Training"] * len(lines)
    (root / "fer2013new.csv").write_text("\n".join([header, *lines, "Training,,1,0,0,0,0,0,0,0,0,0"]))
    (root / "fer2013.csv").write_text("\n".join(["emotion,pixels,Usage", *pixels, pixels[0]]))


WRITERS = {"affectnet_2021": write_2021, "affectnet_2017": write_2017, "ferplus": write_ferplus}


@pytest.mark.filterwarnings("ignore:.*broken row")  # which rows are broken is part of it
@pytest.mark.parametrize("name", DIGESTS[READING_FORMAT])
def test_rows_are_those_that_were_cached_under_this_format(name, tmp_path):
    WRITERS.get(name, write_plus)(tmp_path)
    options = {"ties": "keep"} if name == "ferplus" else {}
    rows = datasets.load_dataset(
        "affectnet_plus", name, data_dir=str(tmp_path), split="train", on_error="skip", **options
    )
    plain = []
    for row, stored in zip(rows, rows.cast_column("image", datasets.Image(decode=False)), strict=True):
        image = row["image"].convert("L")  # coarsely: encoders and decoders differ in the last bits
        where = stored["image"]["path"].replace(str(tmp_path), ""), stored["image"]["bytes"] is None
        plain.append({**row, "image": [*where, image.size, round(np.asarray(image).mean() / 8)]})
    assert len(plain) == {"no_human_annotated": 1, "affectnet_2021": 2}.get(name, 3)
    digest = hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:16]
    assert digest == DIGESTS[READING_FORMAT][name], (
        f"The rows of {name} are read differently now: give affectnet_plus.READING_FORMAT another value, or caches of "
        f"the earlier rows are taken for these, and store the digests under it.\n{json.dumps(plain, indent=1)}"
    )
