"""The `soft-fer` pipeline: a face image in, its soft label out."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch.utils.data import StackDataset
from transformers import Pipeline
from transformers.pipelines.pt_utils import KeyDataset

from .image_loading import load_rgb, undecoded


class SoftFerPipeline(Pipeline):
    """How far each expression is present in a face, by any of our models.

        fer = pipeline("soft-fer", model="runs/ebc")
        fer("photo.jpg")
        # {"label": "happy", "score": 0.71, "soft_label": {"neutral": 0.12, "happy": 0.71, ...},
        #  "distribution": {... sums to 1}, "labels": ["happy", "surprise"]}

    Takes a path, URL, PIL image, NumPy array, torch tensor or a dataset row with an `image`; or a list, column,
    generator or dataset of them (the latter two give an iterator). The image is expected to be a face crop.
    `batch_size` as usual.

    `soft_label` are independent scores in [0, 1], `distribution` is them divided by their sum, `label` and `score` the
    highest. `labels` are the expressions present, highest first: those with a score of at least `threshold` (0.5), and
    no more than `top_k`; with `top_k` alone, the `top_k` highest whatever their score. Models with that head add
    `valence` and `arousal`, in [-1, 1].
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

    def _sanitize_parameters(self, threshold: float | None = None, top_k: int | None = None, timeout=None):
        postprocess = {}
        if threshold is not None:
            if not 0 <= threshold <= 1:
                raise ValueError(f"threshold is a score from 0 to 1, not {threshold}.")
            postprocess["threshold"] = threshold
        if top_k is not None:
            if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
                raise ValueError(f"top_k is a whole number from 1, not {top_k!r}.")
            postprocess["top_k"] = top_k
        return {} if timeout is None else {"timeout": timeout}, {}, postprocess

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

    def preprocess(self, inputs, timeout=None):
        if isinstance(inputs, dict) and inputs.keys() != {"bytes", "path"}:
            if "image" not in inputs:
                raise ValueError(f"A row given to soft-fer has its face under 'image'; this one has {list(inputs)}.")
            inputs = inputs["image"]
        return self.image_processor(images=load_rgb(inputs, timeout), return_tensors="pt").to(self.dtype)

    def _forward(self, model_inputs):
        output = self.model(**model_inputs)
        affect = getattr(output, "valence_arousal", None)
        return {"logits": output.logits} | ({} if affect is None else {"valence_arousal": affect})

    def postprocess(self, model_outputs, threshold=None, top_k=None):
        logits = model_outputs["logits"][0].float()
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
        affect = {} if affect is None else dict(zip(("valence", "arousal"), affect[0].float().tolist(), strict=True))
        return {
            "label": ranked[0],
            "score": soft_label[ranked[0]],
            "soft_label": soft_label,
            "distribution": dict(zip(names, distribution.tolist(), strict=True)),
            "labels": [name for name in ranked if soft_label[name] >= threshold][:top_k],
            **affect,
        }
