"""How a drawn face is written: as AffectNet+ is laid out, and as the two older AffectNet releases are."""

import csv
import hashlib
import io
import json
from pathlib import Path

import cv2
import numpy as np

_COLUMNS = (
    "subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "facial_landmarks", "expression",
    "valence", "arousal",
)  # fmt: skip
# Colour is not subsampled: the crop is a JPEG already, and its colour would be averaged a second time on another grid.
_JPEG = [
    cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
]  # fmt: skip
_TABLES = {"train": "training.csv", "validation": "validation.csv", "unannotated": "automatically_annotated.csv"}


def _save(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _write_plus(folder: Path, seed: int, split: str, image_id: int, jpeg: bytes, annotation: dict) -> None:
    _save(folder / "images" / f"{image_id}.jpg", jpeg)
    _save(folder / "annotations" / f"{image_id}.json", json.dumps(annotation).encode())


def _write_2021(folder: Path, seed: int, split: str, image_id: int, jpeg: bytes, annotation: dict) -> None:
    _save(folder / "images" / f"{image_id}.jpg", jpeg)
    meta = annotation["meta-data"]
    arrays = {
        "exp": np.array(str(annotation["human-label"])),
        "val": np.array(str(meta["valence"])),
        "aro": np.array(str(meta["arousal"])),
        "lnd": np.array(meta["landmark-68"], dtype=np.float64),
    }
    for name, array in arrays.items():
        buffer = io.BytesIO()
        np.save(buffer, array)
        _save(folder / "annotations" / f"{image_id}_{name}.npy", buffer.getvalue())


def _surround(face: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, int, int]:
    """The photograph a crop (size, size, 3) may come from, and where in it the crop's corner lies: image, x, y.

    The surroundings are the crop mirrored at its edges, blurred the more the further out.
    """
    size = len(face)
    height, width = np.ceil(size * rng.uniform(1.2, 2.5, 2)).astype(int).tolist()
    x, y = int(rng.integers(width - size + 1)), int(rng.integers(height - size + 1))
    image = cv2.copyMakeBorder(face, y, height - size - y, x, width - size - x, cv2.BORDER_REFLECT_101)
    image, middle = image.astype(np.float32), (size - 1) / 2
    across, down = (np.maximum(np.abs(np.arange(n) - k - middle) - middle, 0) for n, k in ((width, x), (height, y)))
    outside = (np.hypot(across, down[:, None]) / size).astype(np.float32)[..., None]
    for cells, reach in ((16, 0.08), (5, 0.25)):  # cells a side of the crop: to shrink and grow is a cheap blur
        small = cv2.resize(image, (cells * width // size, cells * height // size), interpolation=cv2.INTER_AREA)
        blurred = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
        image += np.minimum(outside / reach, 1) * (blurred - image)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), x, y


def _write_2017(folder: Path, seed: int, split: str, image_id: int, jpeg: bytes, annotation: dict) -> list:
    """Returns the row of the table; the name of the image is a hash, as in the release, and its surroundings' seed."""
    name = hashlib.sha224(f"{seed} {split} {image_id}".encode()).hexdigest()
    path = f"{1 + image_id // 400}/{name}.jpg"  # the image_id is the row number
    face = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    image, x, y = _surround(face, np.random.default_rng(int(name, 16)))
    _save(folder / path, cv2.imencode(".jpg", image, _JPEG)[1].tobytes())
    meta, expression = annotation["meta-data"], annotation["human-label"]
    if expression is None:
        expression = int(np.argmax(annotation["soft-label"]))
    landmarks = (np.reshape(meta["landmark-68"], (68, 2)) + (x, y)).ravel().tolist()
    box = x, y, len(face), len(face)
    return [path, *box, ";".join(map(str, landmarks)), expression, meta["valence"], meta["arousal"]]


def append_rows(root: Path, split: str, rows: list) -> None:
    """Appends rows to the table of a split in the layout of 2017."""
    with open(root / _TABLES[split], "a", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        if not file.tell():
            table.writerow(_COLUMNS)
        table.writerows(rows)


# layout -> what writes a pair (and returns its row of the table, if there is one), and the folder of each split it has
LAYOUTS = {
    "plus": (_write_plus, {"train": "human_annotated/train_set", "validation": "human_annotated/validation_set",
                           "unannotated": "no_human_annotated"}),
    "2021": (_write_2021, {"train": "train_set", "validation": "val_set"}),
    "2017": (_write_2017, {"train": "Manually_Annotated_Images", "validation": "Manually_Annotated_Images",
                           "unannotated": "Automatically_Annotated_Images"}),
}  # fmt: skip
