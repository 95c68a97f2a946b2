"""Configuration of the EBC, the ensemble of binary classifiers (AffectNet+, arXiv 2410.22506, Fig. 2)."""

from huggingface_hub.dataclasses import strict

from .configuration_soft_label import SoftLabelConfig


@strict
class EBCConfig(SoftLabelConfig):
    r"""
    backbones (`list[str]`):
        timm architectures of each expression's binary classifiers; the paper's three by default.
    rest_outputs (`int`):
        Outputs that each classifier has beside the expression's own, for kinds of "rest" to tell apart: log-odds = own
        output - logsumexp(rest outputs). With 0, the default, the own output is the log-odds. affectnet-plus's own
        addition; with 7 it can start from a classifier of all eight expressions and know what that knows.
    shared_backbones (`bool`):
        One network per backbone has the binary classifiers of all expressions as its heads.
        affectnet-plus's own way to save time; the paper trains networks for each expression.
    calibration (`dict[str, dict]`):
        Beside temperature and shift, per expression `backbone_weights` (one per backbone, at least 0, sum 1), fitted on
        validation; equal without an entry. This way of combining the classifiers is affectnet-plus's own choice; the
        paper's is not published in detail.

    The rest is `SoftLabelConfig`'s.
    """

    model_type = "affectnet_plus_ebc"

    backbones: list[str] | tuple[str, ...] = ("resnet50", "efficientnet_b3", "legacy_xception")
    rest_outputs: int = 0
    shared_backbones: bool = False

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.backbones = list(self.backbones)
