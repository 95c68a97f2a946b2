"""The `soft-fer` pipeline: a photograph or a face crop in, soft labels out."""

from collections.abc import Iterator, Sequence, Sized

import numpy as np
import torch
from torch.utils.data import DataLoader, StackDataset
from transformers import Pipeline
from transformers.pipelines.pt_utils import KeyDataset, PipelineDataset, PipelineIterator

from .face_detection import detector_of
from .face_pipeline import FACES_OF_ONE_IMAGE, FacePipeline, settings_of
from .files import shortened
from .image_loading import undecoded
from .soft_label_model import image_processor_for, normalization_of


class SoftFerPipeline(FacePipeline, Pipeline):
    """How far each expression is present in faces, by any of our models.

        fer = pipeline("soft-fer", model="runs/ebc")
        fer("photo.jpg")
        # [{"label": "happy", "score": 0.71, "soft_label": {"neutral": 0.12, "happy": 0.71, ...},
        #   "distribution": {... sums to 1}, "labels": ["happy", "surprise"], "compound": "happily surprised",
        #   "low_resolution": False, "box": {"x": 31.2, "y": 20.0, "width": 88.1, "height": 120.4},
        #   "detection_score": 0.93, "landmarks": [[52.0, 68.1], ...]}]  # one for each face, the largest first
        fer("crop.jpg", faces="crop")  # an image that is a face crop: one answer, without what a detector says

    Takes a path, URL, data URI, PIL image, NumPy array, torch tensor or a dataset row with an `image`; or a list,
    column, generator or dataset of them (the latter two give an iterator). `batch_size` is a number of images; faces
    found in them are shown to the network so many at a time.

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
        on_error: of an image that cannot be read: `"raise"` (default) names it and its number among those given, after
            the answers before it; `"skip"` warns and gives None at its place.

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
        self._normalization = normalization_of(self.image_processor or image_processor_for(model.config))
        if self._preprocess_params.get("faces", "detect") == "detect":  # say at once what is missing for it
            self._preprocess_params.setdefault("face_detector", detector_of("default"))

    def _sanitize_parameters(self, **settings):
        preprocess, postprocess = settings_of(**settings)
        return preprocess, {}, postprocess

    def __call__(self, inputs, **kwargs):
        if isinstance(inputs, list) and not inputs:
            return []
        if hasattr(inputs, "features") and hasattr(inputs, "column_names"):  # a Hugging Face dataset
            columns = inputs.column_names  # None in a stream that was mapped
            if columns is not None and "image" not in columns:
                raise ValueError(
                    "A dataset given to soft-fer has its faces in a column 'image'; this one has "
                    f"{shortened(str(columns))}: rename_column(..., 'image')."
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
        if isinstance(inputs, Iterator) and not hasattr(inputs, "read"):  # transformers takes generators only
            inputs = (image for image in inputs)
        return super().__call__(inputs, **kwargs)

    def run_single(self, inputs, preprocess_params, forward_params, postprocess_params):
        image = self.preprocess(inputs, **preprocess_params)
        return next(self.answers_to([image], FACES_OF_ONE_IMAGE, postprocess_params))

    def get_iterator(self, inputs, num_workers, batch_size, preprocess_params, forward_params, postprocess_params):
        """As transformers', but for images whose faces are several, or none."""
        if isinstance(inputs, Sized):
            prepared = PipelineDataset(inputs, self.preprocess, preprocess_params)
        else:  # each worker would go through all of it
            prepared, num_workers = PipelineIterator(inputs, self.preprocess, preprocess_params), min(num_workers, 1)
        loader = DataLoader(prepared, batch_size=batch_size, num_workers=num_workers, collate_fn=list)
        return self._answers(loader, batch_size, postprocess_params)

    def _answers(self, batches, batch_size, postprocess_params):
        first = 0
        for images in batches:
            yield from self.answers_to(images, batch_size, postprocess_params, first)
            first += len(images)

    @property
    def normalization(self):
        return self._normalization

    def prepare(self, crops):
        if self._normalization:
            return super().prepare(crops)
        return [
            (self.image_processor(images=crop, return_tensors="np")["pixel_values"][0], min(crop.size))
            for crop in crops
        ]

    def run_network(self, pixel_values: np.ndarray) -> dict[str, np.ndarray]:
        outputs = self.forward({"pixel_values": torch.from_numpy(pixel_values).to(self.dtype)})
        return {name: values.float().numpy() for name, values in outputs.items()}

    def _forward(self, model_inputs):
        output = self.model(**model_inputs)
        affect = getattr(output, "valence_arousal", None)
        return {"logits": output.logits} | ({} if affect is None else {"valence_arousal": affect})
