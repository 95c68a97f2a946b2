"""A release of AffectNet+ with few rows, written file by file."""

import json
import os

import datasets
import PIL.Image
from datasets import load_dataset

TRAIN, VALIDATION = "human_annotated/train_set", "human_annotated/validation_set"
UNANNOTATED = "no_human_annotated"


def annotation(label=1, subset=0):
    return {
        "human-label": label,
        "soft-label": [0.5768, 0.1162, 0.459, 0.1063, 0.1044, 0.0605, 0.1925, 0.0913],
        "subset": subset,
        "meta-data": {
            "age": 23,
            "valence": -0.25,
            "arousal": 0.5,
            "gender": {"female": 0.75, "male": 0.25},
            "race": {
                "asian": 0.125,
                "indian": 0.0625,
                "black": 0.25,
                "white": 0.5,
                "middle eastern": 0.03125,
                "latino hispanic": 1.0,
            },
            "pose": {"yaw": -0.25, "pitch": -0.5, "roll": 0.125},
            "landmark-68": list(range(136)),
            "landmark-29": list(range(58)),
        },
    }


SOFT = annotation()["soft-label"]
LANDMARKS = annotation()["meta-data"]["landmark-68"]


def write_pair(root, folder, image_id, content, image=None, suffix="jpg"):
    for part in ("images", "annotations"):
        (root / folder / part).mkdir(parents=True, exist_ok=True)
    path = root / folder / "images" / f"{image_id}.{suffix}"
    if image is not None:
        path.write_bytes(image)
    else:
        PIL.Image.new("RGB", (16, 16), (int(image_id) % 256, 0, 0)).save(path, quality=95)
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    (root / folder / "annotations" / f"{image_id}.json").write_bytes(content)


def load(root, name=None, **options):
    return load_dataset("affectnet_plus", name, data_dir=str(root), **options)


def rows(dataset):
    """The rows as plain values, an image by its path."""
    return list(dataset.cast_column("image", datasets.Image(decode=False)))


def write_release(tmp_path):
    """Every label and subset, and ids whose order as text is not their order as numbers."""
    root = tmp_path / "AffectNet+"
    write_pair(root, TRAIN, 100, annotation(label=1, subset=0))
    write_pair(root, TRAIN, 9, annotation(label=7, subset=2))
    write_pair(root, TRAIN, 10, annotation(label=0, subset=1))
    write_pair(root, TRAIN, 2, annotation(label=8))
    write_pair(root, TRAIN, 3, annotation(label=10))
    write_pair(root, VALIDATION, 9, annotation(label=5, subset=0))
    write_pair(root, VALIDATION, 8, annotation(label=9))
    write_pair(root, UNANNOTATED, 7, {**annotation(label=None), "subset": None})
    return root


def write_long_release(tmp_path):
    """1,100 pairs: three shards. One image under many names."""
    root = tmp_path / "long"
    write_pair(root, TRAIN, 0, annotation())
    content = annotation()
    for image_id in range(1, 1100):
        os.link(root / TRAIN / "images/0.jpg", root / TRAIN / f"images/{image_id}.jpg")
        content["meta-data"]["age"] = image_id % 80
        (root / TRAIN / f"annotations/{image_id}.json").write_text(json.dumps(content))
    return root
