"""What the configurations of all our models have in common."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# The released order of the soft label; the model's own copy of `affectnet_plus.EXPRESSIONS`.
ID2LABEL = dict(enumerate(("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")))
INPUT_SETTINGS = (
    "image_size",
    "image_mean",
    "image_std",
    "grayscale",
    "per_image_standardization",
    "upscale",
    "framing",
)

_FORMER_NAMES = {  # in models saved before version 0.1
    "mirrored": "tta",
    "without_mirror_image": "without_tta",
    "js": "js_divergence",
    "truth": "ground_truth",
}
_PROBLEM_TYPE = "multi_label_classification"  # stock pipelines then apply a sigmoid


def under_present_names(settings: dict) -> dict:
    """Settings, figures or records of training that may have been written under former names."""
    return {_FORMER_NAMES.get(key, key): value for key, value in settings.items()}


@strict
class SoftLabelConfig(PreTrainedConfig):
    r"""
    image_size (`int`), image_mean, image_std (`list[float]`):
        Side of the square RGB input in pixels, and its normalisation after scaling to [0, 1].
    grayscale (`bool`), per_image_standardization (`bool`), upscale (`int`):
        What the model, not the image processor, then does to each normalised image: leave nothing but its luminance,
        standardise it by its own mean and standard deviation, enlarge it to `upscale` times its side.
    framing (`dict`):
        How training faces were cut out: `margin`, what was left around the face's box on each side as a part of the
        box's side, and `aligned`, whether the eyes were made level. None: not recorded.
    backbone_normalization (`list[dict | None]`):
        Per backbone the `mean` and `std` (RGB) that its weights were trained with where they are others than
        `image_mean` and `image_std`: the model exchanges the one for the other, but with `per_image_standardization`.
        None, of a backbone or of all, leaves images as they are.
    calibration (`dict[str, dict]`):
        Per expression what was fitted on validation: log-odds are divided by `temperature` (above 0), then
        `log_odds_shift` is added. An expression without an entry has 1 and 0. `prior` is how frequent the expression
        is where scores mean what they say, `validation_frequency` how frequent it was where they were fitted.
    training (`dict[str, dict]`):
        Per expression how it was trained: sampler, seed, steps, optimiser, data, validation figures.
    evaluation (`dict`):
        Figures for the card's model-index, and what they were measured on.
    notes (`str`):
        What else the card shall say: the data, whom to ask, what the model cannot do.

    `id2label` names the expressions this model holds, in the order of `logits`: all eight in the released order by
    default, fewer where only some are trained yet.
    """

    image_size: int = 224
    image_mean: list[float] | tuple[float, ...] = (0.485, 0.456, 0.406)
    image_std: list[float] | tuple[float, ...] = (0.229, 0.224, 0.225)
    grayscale: bool = False
    per_image_standardization: bool = False
    upscale: int = 1
    framing: dict | None = None
    backbone_normalization: list[dict | None] | None = None
    calibration: dict[str, dict] | None = None
    training: dict[str, dict] | None = None
    evaluation: dict | None = None
    notes: str = ""

    def __post_init__(self, **kwargs):
        if self.id2label is None and "num_labels" not in kwargs:
            self.id2label = dict(ID2LABEL)
        super().__post_init__(**kwargs)
        if self.upscale < 1:
            raise ValueError(f"upscale is a whole number from 1, not {self.upscale}.")
        if self.framing and not (
            self.framing.keys() <= {"margin", "aligned"} and self.framing.get("margin", -1) > -0.5
        ):
            raise ValueError(f"framing is a `margin` above -0.5 and whether faces are `aligned`, not {self.framing}.")
        backbones = len(getattr(self, "backbones", [""]))
        if self.backbone_normalization and len(self.backbone_normalization) != backbones:
            raise ValueError(
                f"backbone_normalization has {len(self.backbone_normalization)} entries for {backbones} backbone(s): "
                "one for each, or None."
            )
        for trained in self.backbone_normalization or []:
            if trained is not None and [len(trained.get(key, ())) for key in ("mean", "std")] != [3, 3]:
                raise ValueError(f"backbone_normalization has a mean and a std of three channels each, not {trained}.")
        self.problem_type = self.problem_type or _PROBLEM_TYPE
        SoftLabelConfig.adopt_labels(self)
        self.calibration = dict(self.calibration or {})
        for name, fitted in self.calibration.items():
            for key, value in fitted.items():
                is_number = isinstance(value, (int, float)) and abs(value) < 1e9
                if key != "backbone_weights" and value is not None and not is_number:
                    raise ValueError(f"calibration of {name} has {value!r} as {key}, not a number.")
        self.training = dict(self.training or {})
        self.evaluation = dict(self.evaluation or {})

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        # Where this package is, its own classes and pipeline run. The code beside a pushed model is for other places,
        # and `custom_pipelines` alone would ask for trust_remote_code.
        if not cls.__module__.startswith("transformers_modules"):
            config_dict = {k: v for k, v in config_dict.items() if k not in ("auto_map", "custom_pipelines")}
        config_dict = under_present_names(config_dict)
        training = (config_dict.get("training") or {}).items()
        config_dict["training"] = {name: under_present_names(record) for name, record in training}
        config_dict["evaluation"] = under_present_names(config_dict.get("evaluation") or {})
        return super().from_dict(config_dict, **kwargs)

    def adopt_labels(self) -> None:
        """Bring into line what depends on `id2label`, which may have been set since (as `num_labels` does); models
        call this. `ValueError` where `problem_type` is none that they can have."""
        self.label2id = {label: i for i, label in self.id2label.items()}
        self.check_problem_type()

    def check_problem_type(self) -> None:
        if self.problem_type not in (None, _PROBLEM_TYPE):
            raise ValueError(
                f"problem_type {self.problem_type!r} cannot be: `logits` are log-odds of independent scores, whatever "
                f"they are trained under. Leave it out or give {_PROBLEM_TYPE!r}; labels may be soft labels or class "
                "indices, and SoftFerConfig(activation='softmax') learns one class a face by cross-entropy."
            )

    @property
    def prior(self) -> dict[str, float] | None:
        """Per expression the class frequency that its score is calibrated to; None where that was not recorded."""
        calibration = self.calibration or {}
        known: dict = {name: calibration.get(name, {}).get("prior") for name in self.expressions}
        return None if None in known.values() else known

    @property
    def network_size(self) -> int:
        """Side in pixels of what the backbones see."""
        return self.image_size * self.upscale

    @property
    def expressions(self) -> list[str]:
        """Names of the expressions in the order of `logits`."""
        return [self.id2label[i] for i in range(len(self.id2label))]
