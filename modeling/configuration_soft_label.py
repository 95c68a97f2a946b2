"""What the configurations of all our models have in common."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# The released order of the soft label; the model's own copy of `affectnet_plus.EXPRESSIONS`.
ID2LABEL = dict(enumerate(("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")))
INPUT_SETTINGS = ("image_size", "image_mean", "image_std", "grayscale", "per_image_standardization", "upscale")


@strict
class SoftLabelConfig(PreTrainedConfig):
    r"""
    image_size (`int`), image_mean, image_std (`list[float]`):
        Side of the square RGB input in pixels, and its normalisation after scaling to [0, 1].
    grayscale (`bool`), per_image_standardization (`bool`), upscale (`int`):
        What the model, not the image processor, then does to each normalised image: leave nothing but its luminance,
        standardise it by its own mean and standard deviation, enlarge it to `upscale` times its side.
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
        self.label2id = {label: i for i, label in self.id2label.items()}
        self.problem_type = "multi_label_classification"  # stock pipelines then apply a sigmoid
        self.calibration = dict(self.calibration or {})
        self.training = dict(self.training or {})
        self.evaluation = dict(self.evaluation or {})

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        # Where this package is, its own classes and pipeline run. The code beside a pushed model is for other places,
        # and `custom_pipelines` alone would ask for trust_remote_code.
        if not cls.__module__.startswith("transformers_modules"):
            config_dict = {k: v for k, v in config_dict.items() if k not in ("auto_map", "custom_pipelines")}
        return super().from_dict(config_dict, **kwargs)

    @property
    def prior(self) -> dict[str, float] | None:
        """Per expression the class frequency that its score is calibrated to; None where that was not recorded."""
        known = {name: self.calibration.get(name, {}).get("prior") for name in self.expressions}
        return None if None in known.values() else known

    @property
    def network_size(self) -> int:
        """Side in pixels of what the backbones see."""
        return self.image_size * self.upscale

    @property
    def expressions(self) -> list[str]:
        """Names of the expressions in the order of `logits`."""
        return [self.id2label[i] for i in range(len(self.id2label))]
