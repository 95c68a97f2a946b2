#!/usr/bin/env python
"""Is the synthetic release worth believing? Faces a second on one core; how often OpenCV's frontal-face Haar cascade,
which has only ever seen real faces, finds one; shares of the subsets; how often the human label is the true dominant.

    python benchmarks/synthetic_faces.py --train 1500
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
from datasets import load_dataset
from record import RESULTS, write_result

import affectnet_plus
from affectnet_plus import CATEGORIES, EXPRESSIONS, SUBSETS
from affectnet_plus.synthetic import synthesize

CASCADE = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--train", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        release = Path(folder) / "AffectNet+"
        start = time.perf_counter()
        synthesize(release, train=args.train, validation=0, seed=args.seed, num_proc=1)
        seconds = time.perf_counter() - start
        rows = load_dataset(
            affectnet_plus.__name__, "human_annotated_all", data_dir=str(release), split="train", cache_dir=folder
        )
        truth = pq.read_table(release / "ground_truth.parquet").to_pandas().set_index("image_id")
        truth = truth.loc[rows["image_id"][:]]
        labels, subsets = np.array(rows["label"][:]), np.array(rows["subset"][:], dtype=float)
        found = np.array([finds_a_face(image) for image in rows["image"]])
    is_face = labels != CATEGORIES.index("non-face")
    frontal = is_face & (truth["yaw"].abs() < 15).to_numpy()
    expression = labels < len(EXPRESSIONS)
    dominant = truth[[f"intensity_{name}" for name in EXPRESSIONS]].to_numpy()[expression].argmax(axis=1)
    result = {
        "seed": args.seed,
        "pairs": args.train,
        "pairs_a_second": round(args.train / seconds, 1),
        "frontal_faces": int(frontal.sum()),
        "frontal_faces_detected": round(float(found[frontal].mean()), 4),
        "non_faces": int((~is_face).sum()),
        "non_faces_detected": round(float(found[~is_face].mean()), 4),
        "subsets": {name: round(float((subsets[expression] == i).mean()), 4) for i, name in enumerate(SUBSETS)},
        "human_label_is_dominant": round(float((dominant == labels[expression]).mean()), 4),
        "labels": {name: Counter(labels.tolist())[i] for i, name in enumerate(CATEGORIES)},
    }
    write_result(RESULTS / "synthetic_faces.json", result)
    print(json.dumps(result, indent=1))


def finds_a_face(image) -> bool:
    """The frames are tight, so the crop is padded by 70 of 224 pixels."""
    grey = cv2.copyMakeBorder(np.asarray(image.convert("L")), 70, 70, 70, 70, cv2.BORDER_REPLICATE)
    return len(CASCADE.detectMultiScale(grey, 1.1, 3, minSize=(80, 80))) > 0


if __name__ == "__main__":
    main()
