"""The `soft-fer` pipeline: a photograph or a face crop in, soft labels out."""

from collections.abc import Iterator, Sequence, Sized
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, StackDataset
from transformers import Pipeline
from transformers.pipelines.pt_utils import KeyDataset, PipelineDataset, PipelineIterator

from .compounds import COMPOUND_THRESHOLD, compound_of
from .face_detection import FACE_MARGIN, FACES, FaceDetector, crop_face, detector_of, find_faces
from .image_loading import load_rgb, undecoded

_FACES_OF_ONE_IMAGE = 32  # that the network sees at a time


class SoftFerPipeline(Pipeline):
    """How far each expression is present in faces, by any of our models.

        fer = pipeline("soft-fer", model="runs/ebc")
        fer("photo.jpg")
        # [{"label": "happy", "score": 0.71, "soft_label": {"neutral": 0.12, "happy": 0.71, ...},
        #   "distribution": {... sums to 1}, "labels": ["happy", "surprise"], "compound": "happily surprised",
        #   "low_resolution": False, "box": {"x": 31.2, "y": 20.0, "width": 88.1, "height": 120.4},
        #   "detection_score": 0.93, "landmarks": [[52.0, 68.1], ...]}]  # one for each face, the largest first
        fer("crop.jpg", faces="crop")  # an image that is a face crop: one answer, without what a detector says

    Takes a path, URL, PIL image, NumPy array, torch tensor or a dataset row with an `image`; or a list, column,
    generator or dataset of them (the latter two give an iterator). `batch_size` is a number of images; faces found in
    them are shown to the network so many at a time.

    Args, at construction or with each call:
        faces: `"detect"` (default) finds the faces of each image and answers with a list, empty where there are none;
            `"crop"` takes each image for a face crop and answers with one.
        face_detector: `"default"` (CenterFace, by `pip install "affectnet-plus[faces]"`) or a callable from an upright
            RGB array (H, W, 3) to a list of faces, each a dict with a `box` (x, y, width, height in pixels) and, if it
            has them, `score` and `landmarks` (eyes, nose, mouth corners; five (x, y)).
        threshold, top_k: `labels` are the expressions present, highest first: those with a score of at least
            `threshold` (0.5), and no more than `top_k`; with `top_k` alone, the `top_k` highest whatever their score.
        compound_threshold: the least share of `distribution` (0.2) of each of the two expressions, neutral aside, that
            `compound` names ("happily surprised"); it is None where fewer are present.
        timeout: seconds to wait for a URL.

    `soft_label` are independent scores in [0, 1], `distribution` is them divided by their sum, `label` and `score` the
    highest. `low_resolution` says that the face has less than half the pixels a side that the network wants. `box` is
    in pixels of the upright image; the crop is as `config.framing` says. Models with that head add `valence` and
    `arousal`, in [-1, 1].
    """

    _load_processor = False
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, model, *args, **kwargs):
        if not model.config.model_type.startswith("affectnet_plus_"):
            raise ValueError(
                f"soft-fer is for models of affectnet-plus, and {model.config.name_or_path} is a "
                f"{model.config.model_type}: see pipeline('image-classification'), or training/evaluate_model.py."
            )
        super().__init__(model, *args, **kwargs)
        if self._preprocess_params.get("faces", "detect") == "detect":  # say at once what is missing for it
            self._preprocess_params.setdefault("face_detector", detector_of("default"))

    def _sanitize_parameters(
        self,
        threshold: float | None = None,
        top_k: int | None = None,
        timeout: float | None = None,
        faces: str | None = None,
        face_detector: str | FaceDetector | None = None,
        compound_threshold: float | None = None,
    ):
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
        if face_detector is not None:
            preprocess["face_detector"] = detector_of(face_detector)
        return preprocess, {}, postprocess

    def __call__(self, inputs, **kwargs):
        if isinstance(inputs, list) and not inputs:
            return []
        if hasattr(inputs, "features") and hasattr(inputs, "column_names"):  # a Hugging Face dataset
            columns = inputs.column_names  # None in a stream that was mapped
            if columns is not None and "image" not in columns:
                raise ValueError(
                    f"A dataset given to soft-fer has its faces in a column 'image'; this one has {columns}: "
                    "rename_column(..., 'image')."
                )
            inputs = undecoded(inputs, "image")
            streaming = not hasattr(inputs, "__len__")
            inputs = (row["image"] for row in inputs) if streaming else KeyDataset(inputs, "image")
        elif isinstance(inputs, Sequence) and not isinstance(inputs, (str, bytes, list)):
            # A column of a dataset, read row by row: as a list, all images would be decoded at once.
            if hasattr(getattr(inputs, "source", None), "features"):
                inputs = undecoded(inputs.source, inputs.column_name)[inputs.column_name]
            return list(super().__call__(StackDataset(image=inputs), **kwargs))
        elif type(inputs).__name__ == "IterableColumn":
            if hasattr(inputs.source, "features"):
                inputs = undecoded(inputs.source, inputs.column_name)[inputs.column_name]
            inputs = iter(inputs)
        return super().__call__(inputs, **kwargs)

    @property
    def framing(self) -> dict[str, Any]:
        """How the model wants faces to be cut out: `margin` and `aligned` of `crop_face`."""
        return self.model.config.framing or {"margin": FACE_MARGIN, "aligned": False}

    def run_single(self, inputs, preprocess_params, forward_params, postprocess_params):
        image = self.preprocess(inputs, **preprocess_params)
        return next(self._answers([image], _FACES_OF_ONE_IMAGE, forward_params, postprocess_params))

    def get_iterator(self, inputs, num_workers, batch_size, preprocess_params, forward_params, postprocess_params):
        """As transformers', but for images whose faces are several, or none."""
        if isinstance(inputs, Sized):
            prepared = PipelineDataset(inputs, self.preprocess, preprocess_params)
        else:  # each worker would go through all of it
            prepared, num_workers = PipelineIterator(inputs, self.preprocess, preprocess_params), min(num_workers, 1)
        loader = DataLoader(prepared, batch_size=batch_size, num_workers=num_workers, collate_fn=list)
        return (
            answer
            for images in loader
            for answer in self._answers(images, batch_size, forward_params, postprocess_params)
        )

    @property
    def face_detector(self) -> FaceDetector:
        return self._preprocess_params.get("face_detector") or detector_of("default")

    def preprocess(self, inputs, timeout=None, faces="detect", face_detector=None):
        if isinstance(inputs, dict) and inputs.keys() != {"bytes", "path"}:
            if "image" not in inputs:
                raise ValueError(f"A row given to soft-fer has its face under 'image'; this one has {list(inputs)}.")
            inputs = inputs["image"]
        image = load_rgb(inputs, timeout)
        if faces == "crop":
            return {"crops": self.prepare([image]), "faces": None}
        found = find_faces(face_detector or self.face_detector, image)
        return {"crops": self.prepare([crop_face(image, face, **self.framing) for face in found]), "faces": found}

    def prepare(self, crops: list) -> list[tuple[torch.Tensor, int]]:
        """Of each face crop (a PIL image) `pixel_values` (1, 3, size, size), and its shorter side in pixels."""
        return [
            (self.image_processor(images=crop, return_tensors="pt")["pixel_values"].to(self.dtype), min(crop.size))
            for crop in crops
        ]

    def _answers(self, images: list[dict], batch_size: int, forward_params: dict, postprocess_params: dict) -> Iterator:
        """One for each image: a list of its faces' answers, or, of a crop, one."""
        prepared = [pixel_values for image in images for pixel_values, _ in image["crops"]]
        outputs = self._outputs(prepared, batch_size, forward_params)
        for image in images:
            answers = [self._answer(next(outputs), side, postprocess_params) for _, side in image["crops"]]
            if image["faces"] is None:
                yield answers[0]
            else:
                yield [answer | face for answer, face in zip(answers, image["faces"], strict=True)]

    def _outputs(self, prepared: list[torch.Tensor], batch_size: int, forward_params: dict) -> Iterator[dict]:
        for batch in torch.cat(prepared).split(batch_size) if prepared else ():
            output = self.forward({"pixel_values": batch}, **forward_params)
            yield from ({key: values[row] for key, values in output.items()} for row in range(len(batch)))

    def _answer(self, output: dict, side: int, postprocess_params: dict) -> dict[str, Any]:
        return self.postprocess(output, **postprocess_params) | {
            "low_resolution": side < self.model.config.image_size / 2
        }

    def outputs_of(self, pixel_values: list[torch.Tensor], batch_size: int) -> Iterator[dict[str, torch.Tensor]]:
        """What the network gives for prepared crops, in their order: `logits` and, if it has them, `valence_arousal`.
        For those who do something to them before they are answers, as `predict_video` does."""
        return self._outputs(pixel_values, batch_size, self._forward_params)

    def answer(self, output: dict[str, torch.Tensor], side: int) -> dict[str, Any]:
        """The answer to one of `outputs_of`, whose crop has a shorter side of so many pixels."""
        return self._answer(output, side, self._postprocess_params)

    def _forward(self, model_inputs):
        output = self.model(**model_inputs)
        affect = getattr(output, "valence_arousal", None)
        return {"logits": output.logits} | ({} if affect is None else {"valence_arousal": affect})

    def postprocess(self, model_outputs, threshold=None, top_k=None, compound_threshold=COMPOUND_THRESHOLD):
        logits = model_outputs["logits"].float()
        distribution = F.logsigmoid(logits).softmax(dim=0)  # scores / their sum, also where they are too small for that
        affect = model_outputs.get("valence_arousal")
        if any(values.isnan().any() for values in (logits, distribution, affect) if values is not None):
            raise ValueError(
                f"{self.model.config.name_or_path or 'The model'} gives NaN for this face, which is no answer: load it "
                "with dtype=torch.float32; if that changes nothing, its weights are broken, train it anew."
            )
        names = self.model.config.expressions
        soft_label = dict(zip(names, logits.sigmoid().tolist(), strict=True))
        ranked = sorted(soft_label, key=soft_label.get, reverse=True)
        if threshold is None:
            threshold = 0.5 if top_k is None else 0.0
        shares = dict(zip(names, distribution.tolist(), strict=True))
        affect = {} if affect is None else dict(zip(("valence", "arousal"), affect.float().tolist(), strict=True))
        return {
            "label": ranked[0],
            "score": soft_label[ranked[0]],
            "soft_label": soft_label,
            "distribution": shares,
            "labels": [name for name in ranked if soft_label[name] >= threshold][:top_k],
            "compound": compound_of(shares, compound_threshold),
            **affect,
        }
