"""Models as ONNX files: `soft-fer` by ONNX Runtime, without PyTorch."""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from .face_detection import FaceDetector, detector_of
from .face_pipeline import FACES_OF_ONE_IMAGE, FacePipeline, settings_of
from .image_loading import undecoded
from .onnx_session import onnx_session


@dataclass
class OnnxSettings:
    """What a file says of itself: its metadata, a JSON value under each name."""

    expressions: list[str]
    image_size: int
    image_mean: list[float]
    image_std: list[float]
    framing: dict | None
    name_or_path: str = ""

    def metadata(self) -> dict[str, str]:
        return {name: json.dumps(getattr(self, name)) for name in _IN_METADATA}


_IN_METADATA = [field.name for field in fields(OnnxSettings) if field.name != "name_or_path"]


class OnnxNetwork:
    """A file that `affectnet-plus export-onnx` has written, ready to run.

    Args:
        file: ends in .onnx.
        device: "cpu", "cuda", "cuda:1" ...; None for the best that ONNX Runtime has.

    Raises:
        ImportError: `onnxruntime` is not installed.
        FileNotFoundError, ValueError: no such file, none that can be read and run, or not one of ours; no such device.
    """

    def __init__(self, file: str | os.PathLike, device: Any = None):
        file = os.fspath(file)
        if not Path(file).is_file():
            raise FileNotFoundError(f"There is no file {file!r} (working directory {Path.cwd()}).")
        self.session = onnx_session(file, device)
        try:
            said = self.session.get_modelmeta().custom_metadata_map
            self.config = OnnxSettings(**{name: json.loads(said[name]) for name in _IN_METADATA}, name_or_path=file)
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"{file} does not say its {error} in its metadata: write it by affectnet-plus export-onnx."
            ) from error
        self.outputs = [output.name for output in self.session.get_outputs()]
        size = self.config.image_size
        try:  # some damage is seen by nothing else
            self(np.zeros((1, 3, size, size), dtype=np.float32))
        except Exception as error:  # of a dozen types of its own
            reason = str(error).splitlines()[0][:200]
            raise ValueError(f"{file} cannot be run ({reason}): copy or export it anew.") from error

    def __call__(self, pixel_values: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(self.outputs, self.session.run(None, {"pixel_values": pixel_values}), strict=True))


class OnnxPipeline(FacePipeline):
    """`SoftFerPipeline` for an ONNX file, without PyTorch and transformers; the same answers.

        fer = OnnxPipeline("model.onnx")
        fer("photo.jpg")                                     # a list, one answer for each face
        fer(["a.jpg", "b.jpg"], batch_size=8)                # a list of them
        fer(row for row in dataset)                          # an iterator

    Args:
        file: of `affectnet-plus export-onnx`.
        device: "cpu", "cuda:0" ...; None for the best that ONNX Runtime has.
        settings: those of `SoftFerPipeline`: faces, face_detector, threshold, top_k, compound_threshold,
            timeout, on_error.
    """

    task = "soft-fer"

    def __init__(self, file: str | os.PathLike, device: Any = None, **settings: Any):
        self._preprocess_params, self._postprocess_params = settings_of(**settings)
        if self._preprocess_params.get("faces", "detect") == "detect":  # say at once what is missing for it
            self._preprocess_params.setdefault("face_detector", detector_of("default"))
        self.model = OnnxNetwork(file, device)

    def __call__(
        self,
        inputs: Any,
        batch_size: int = FACES_OF_ONE_IMAGE,
        *,
        faces: str | None = None,
        face_detector: str | FaceDetector | None = None,
        **settings: Any,
    ) -> Any:
        """An answer to an image, a list of them to a list; to a dataset, a stream or another iterable, an iterator."""
        of_images, of_answers = settings_of(faces=faces, face_detector=face_detector, **settings)
        of_images = self._preprocess_params | of_images
        if hasattr(inputs, "features") and hasattr(inputs, "column_names"):  # a Hugging Face dataset
            inputs = iter(undecoded(inputs, "image"))
        if not (isinstance(inputs, (list, Iterator)) or type(inputs).__name__ in ("Column", "IterableColumn")):
            return next(self.answers_to([self.preprocess(inputs, **of_images)], batch_size, of_answers))
        answers = self._answers(iter(inputs), of_images, of_answers, batch_size)
        return list(answers) if isinstance(inputs, list) else answers

    def _answers(self, images: Iterable, of_images: dict, of_answers: dict, batch_size: int) -> Iterator:
        images = (self.preprocess(image, **of_images) for image in images)
        first = 0
        while some := list(islice(images, batch_size)):
            yield from self.answers_to(some, batch_size, of_answers, first)
            first += len(some)

    def run_network(self, pixel_values: np.ndarray) -> dict[str, np.ndarray]:
        return self.model(pixel_values)
