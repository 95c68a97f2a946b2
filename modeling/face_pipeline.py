"""From images to answers, whatever runs the network: what `SoftFerPipeline` and `OnnxPipeline` share."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from .compounds import COMPOUND_THRESHOLD, compound_of
from .face_detection import FACE_MARGIN, FACES, FaceDetector, crop_face, detector_of, find_faces
from .files import shortened
from .image_loading import ImageError, load_rgb

FACES_OF_ONE_IMAGE = 32  # that the network sees at a time


class FacePipeline(ABC):
    """Finds faces in images, cuts them out, and words what a network says of them.

    A pipeline has a `model` whose `config` has `expressions`, `framing`, `image_size` and `name_or_path`.
    """

    model: Any
    # Those of the calls, set at construction; a call may have others.
    _preprocess_params: dict[str, Any]
    _postprocess_params: dict[str, Any]

    @abstractmethod
    def run_network(self, pixel_values: np.ndarray) -> Mapping[str, np.ndarray]:
        """(B, 3, size, size) float32 -> `logits` (B, expressions) and, if the model has them, `valence_arousal`
        (B, 2)."""

    @property
    def normalization(self) -> tuple[int, Any, Any]:
        """Side in pixels of what the network sees, and mean and standard deviation of the channels in [0, 1]."""
        config = self.model.config
        return config.image_size, config.image_mean, config.image_std

    @property
    def framing(self) -> dict[str, Any]:
        """How the model wants faces to be cut out: `margin` and `aligned` of `crop_face`."""
        return self.model.config.framing or {"margin": FACE_MARGIN, "aligned": False}

    @property
    def face_detector(self) -> FaceDetector:
        return self._preprocess_params.get("face_detector") or detector_of("default")

    def prepare(self, crops: list[Image.Image]) -> list[tuple[np.ndarray, int]]:
        """Of each face crop its `pixel_values` (3, size, size), and its shorter side in pixels."""
        size, mean, std = self.normalization
        return [(pixel_values_of(crop, size, mean, std), min(crop.size)) for crop in crops]

    def outputs_of(self, pixel_values: list[np.ndarray], batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        """What the network gives for prepared crops, in their order: `logits` and, if it has them, `valence_arousal`.
        For those who do something to them before they are answers, as `predict_video` does."""
        for start in range(0, len(pixel_values), batch_size):
            outputs = self.run_network(np.stack(pixel_values[start : start + batch_size]))
            rows = zip(*outputs.values(), strict=True)
            yield from (dict(zip(outputs, row, strict=True)) for row in rows)

    def answer(self, output: Mapping[str, np.ndarray], side: int, **settings) -> dict[str, Any]:
        """The answer to one of `outputs_of`, whose crop has a shorter side of so many pixels; `settings` are those of
        a call, where they are not the pipeline's."""
        said = self.postprocess(output, **(self._postprocess_params | settings))
        return said | {"low_resolution": side < self.model.config.image_size / 2}

    def preprocess(self, inputs, timeout=None, faces="detect", face_detector=None, on_error="raise") -> dict[str, Any]:
        """Of one image what `prepare` gives for its `crops`, and the `faces` that they are of (None: it is one); or the
        `error` that it cannot be read by, and whether to `skip` it."""
        if isinstance(inputs, dict) and inputs.keys() != {"bytes", "path"}:
            if "image" not in inputs:
                names = shortened(str(list(inputs)))
                raise ValueError(f"A row given to soft-fer has its face under 'image'; this one has {names}.")
            inputs = inputs["image"]
        try:
            image = load_rgb(inputs, timeout)
        except (ImageError, OSError, TypeError) as error:
            return {"crops": [], "error": error, "skip": on_error == "skip"}
        if faces == "crop":
            return {"crops": self.prepare([image]), "faces": None}
        found = find_faces(face_detector or self.face_detector, image)
        return {"crops": self.prepare([crop_face(image, face, **self.framing) for face in found]), "faces": found}

    def answers_to(self, images: list[dict], batch_size: int, settings: dict, first: int | None = None) -> Iterator:
        """To each preprocessed image a list of its faces' answers, or, to a crop, one; None to one that is skipped.

        Args:
            images: of `preprocess`.
            batch_size: faces that the network sees at a time.
            settings: of `postprocess`.
            first: the number of the first image among all that were given, for errors; None: it was given alone.

        Raises:
            ImageError, OSError, TypeError: that of an image that cannot be read, after the answers before it.
        """
        outputs = self.outputs_of([pixel_values for image in images for pixel_values, _ in image["crops"]], batch_size)
        for number, image in enumerate(images):
            if error := image.get("error"):
                said = f"{error}" if first is None else f"{error} (image {first + number} of those given, from 0)"
                if not image["skip"]:
                    raise type(error)(said) from error
                warnings.warn(f"{said} It is skipped.", stacklevel=2)
                yield None
                continue
            answers = [self.answer(next(outputs), side, **settings) for _, side in image["crops"]]
            if image["faces"] is None:
                yield answers[0]
            else:
                yield [answer | face for answer, face in zip(answers, image["faces"], strict=True)]

    def postprocess(
        self, output: Mapping[str, np.ndarray], threshold=None, top_k=None, compound_threshold=COMPOUND_THRESHOLD
    ) -> dict[str, Any]:
        logits = np.asarray(output["logits"], dtype=np.float64)
        affect = output.get("valence_arousal")
        if np.isnan(logits).any() or (affect is not None and np.isnan(affect).any()):
            raise ValueError(
                f"{self.model.config.name_or_path or 'The model'} gives NaN for this face, which is no answer: load it "
                "with dtype=torch.float32; if that changes nothing, its weights are broken, train it anew."
            )
        log_scores = -np.logaddexp(0, -logits)
        # Scores divided by their sum, also where they are too small for that.
        distribution = np.exp(log_scores - log_scores.max())
        distribution /= distribution.sum()
        names = self.model.config.expressions
        soft_label = dict(zip(names, np.exp(log_scores).tolist(), strict=True))
        ranked = sorted(soft_label, key=lambda name: -soft_label[name])
        if threshold is None:
            threshold = 0.5 if top_k is None else 0.0
        shares = dict(zip(names, distribution.tolist(), strict=True))
        return {
            "label": ranked[0],
            "score": soft_label[ranked[0]],
            "soft_label": soft_label,
            "distribution": shares,
            "labels": [name for name in ranked if soft_label[name] >= threshold][:top_k],
            "compound": compound_of(shares, compound_threshold),
        } | ({} if affect is None else dict(zip(("valence", "arousal"), map(float, affect), strict=True)))


def pixel_values_of(image: Image.Image, size: int, mean, std) -> np.ndarray:
    """An RGB image scaled to a square and normalised: (3, size, size) float32. By Pillow, as augmented faces are in
    training; transformers' ViTImageProcessor scales by torchvision, which differs by a grey level here and there."""
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR), dtype=np.float32)
    mean, std = np.asarray(mean, dtype=np.float32) * 255, np.asarray(std, dtype=np.float32) * 255
    return np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1))


def settings_of(
    threshold: float | None = None,
    top_k: int | None = None,
    timeout: float | None = None,
    faces: str | None = None,
    face_detector: str | FaceDetector | None = None,
    compound_threshold: float | None = None,
    on_error: str | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is said to a pipeline, at construction or in a call, as arguments of `preprocess` and of `postprocess`.
    `ValueError` where it cannot be."""
    preprocess: dict[str, Any] = {}
    postprocess: dict[str, Any] = {}
    for name, value in (("threshold", threshold), ("compound_threshold", compound_threshold)):
        if value is not None:
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is a score from 0 to 1, not {value}.")
            postprocess[name] = value
    if top_k is not None:
        if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
            raise ValueError(f"top_k is a whole number from 1, not {top_k!r}.")
        postprocess["top_k"] = top_k
    if timeout is not None:
        preprocess["timeout"] = timeout
    if faces is not None:
        if faces not in FACES:
            raise ValueError(f'faces is "detect" (find them) or "crop" (each image is a face), not {faces!r}.')
        preprocess["faces"] = faces
    if on_error is not None:
        if on_error not in ("raise", "skip"):
            raise ValueError(f'on_error is "raise" or "skip" (None in place of an answer), not {on_error!r}.')
        preprocess["on_error"] = on_error
    if face_detector is not None:
        preprocess["face_detector"] = detector_of(face_detector)
    return preprocess, postprocess
