"""Configuration of the AU-based classifier (AffectNet+, arXiv 2410.22506, Fig. 3)."""

from huggingface_hub.dataclasses import strict

from .configuration_soft_label import SoftLabelConfig

# The action units (FACS numbers) that EMFACS ties to each expression (Friesen & Ekman, 1983). The paper's own
# assignment is not known here. Neutral is the absence of all of them.
PROTOTYPES = {
    "neutral": (),
    "happy": (6, 12, 25),
    "sad": (1, 4, 15, 17),
    "surprise": (1, 2, 5, 25, 26),
    "fear": (1, 2, 4, 5, 7, 20, 26),
    "disgust": (9, 10, 15, 17),
    "anger": (4, 5, 7, 23),
    "contempt": (12, 14),
}
ACTION_UNITS = {
    name: list(units or sorted({unit for other in PROTOTYPES.values() for unit in other}))
    for name, units in PROTOTYPES.items()
}


@strict
class AUConfig(SoftLabelConfig):
    r"""
    backbone (`str`):
        timm architecture of each expression's multi-head network; the paper's by default.
    action_units (`dict[str, list[int]]`):
        Per expression the FACS numbers of its unit heads, in the order of its `au_logits`; by default those of its
        EMFACS prototype (neutral: of all prototypes), which is affectnet-plus's own choice.
    rest_outputs (`int`):
        Outputs that each network has beside the expression's own, for kinds of "rest" to tell apart: log-odds = own
        output - logsumexp(rest outputs). With 0, the default, the own output is the log-odds. affectnet-plus's own
        addition; with 7 it can start from a classifier of all eight expressions and know what that knows.
    shared_backbones (`bool`):
        One network has the multi-head classifiers of all expressions as its heads.
        affectnet-plus's own way to save time; the paper trains networks for each expression.

    The rest is `SoftLabelConfig`'s.
    """

    model_type = "affectnet_plus_au"

    backbone: str = "resnet50"
    action_units: dict[str, list[int]] | None = None
    rest_outputs: int = 0
    shared_backbones: bool = False

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.action_units is None:
            self.action_units = {name: ACTION_UNITS.get(name, []) for name in self.expressions}
        self.adopt_labels()

    def adopt_labels(self) -> None:
        """As `SoftLabelConfig`; classes that are none of the eight expressions have no units unless they are given."""
        super().adopt_labels()
        units = self.action_units or {}
        lacking = [name for name in self.expressions if name not in units]
        if missing := [name for name in lacking if name in ACTION_UNITS]:
            raise ValueError(f"action_units lacks {', '.join(missing)}: give each expression a list, empty or not.")
        self.action_units = units | {name: [] for name in lacking}
