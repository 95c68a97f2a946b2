"""Configuration of the EBC, the ensemble of binary classifiers (AffectNet+, arXiv 2410.22506, Fig. 2)."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# The released order of the soft label; the model's own copy of `affectnet_plus.EXPRESSIONS`.
ID2LABEL = dict(enumerate(("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")))


@strict
class EBCConfig(PreTrainedConfig):
    r"""
    backbones (`list[str]`):
        timm architectures of each expression's binary classifiers; the paper's three by default.
    image_size (`int`), image_mean, image_std (`list[float]`):
        Side of the square RGB input in pixels, and its normalisation after scaling to [0, 1].
    calibration (`dict[str, dict]`):
        Per expression `backbone_weights` (one per backbone, at least 0, sum 1), `temperature` (above 0) and
        `log_odds_shift`, fitted on validation. An expression without an entry has equal weights, 1 and 0. This way of
        combining the classifiers is affectnet-plus's own choice; the paper's is not published in detail.
    training (`dict[str, dict]`):
        Per expression how its classifiers were trained: sampler, seed, steps, optimiser, data, validation figures.

    `id2label` names the expressions this model holds, in the order of `logits`: all eight in the released order by
    default, fewer where only some are trained yet.
    """

    model_type = "affectnet_plus_ebc"

    backbones: list[str] | tuple[str, ...] = ("resnet50", "efficientnet_b3", "legacy_xception")
    image_size: int = 224
    image_mean: list[float] | tuple[float, ...] = (0.485, 0.456, 0.406)
    image_std: list[float] | tuple[float, ...] = (0.229, 0.224, 0.225)
    calibration: dict[str, dict] | None = None
    training: dict[str, dict] | None = None

    def __post_init__(self, **kwargs):
        if self.id2label is None and "num_labels" not in kwargs:
            self.id2label = dict(ID2LABEL)
        super().__post_init__(**kwargs)
        self.label2id = {label: i for i, label in self.id2label.items()}
        self.problem_type = "multi_label_classification"  # stock pipelines then apply a sigmoid
        self.backbones = list(self.backbones)
        self.calibration = dict(self.calibration or {})
        self.training = dict(self.training or {})

    @property
    def expressions(self) -> list[str]:
        """Names of the expressions in the order of `logits`."""
        return [self.id2label[i] for i in range(len(self.id2label))]
