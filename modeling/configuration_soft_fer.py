"""Configuration of the Soft-FER model: one network for all expressions."""

from huggingface_hub.dataclasses import strict

from .configuration_soft_label import SoftLabelConfig


@strict
class SoftFerConfig(SoftLabelConfig):
    r"""
    backbone (`str`):
        timm architecture with one output per expression.
    activation (`str`):
        What the outputs were trained under: "sigmoid", independent scores, or "softmax", one distribution.
    valence_arousal (`bool`):
        Two outputs more, valence and arousal in [-1, 1] (tanh).
    tta (`bool`):
        Test-time augmentation: outputs are the mean of those of the image and of its horizontal flip, at twice the
        time; not so in training.

    The rest is `SoftLabelConfig`'s.
    """

    model_type = "affectnet_plus_soft_fer"

    backbone: str = "efficientnet_b0"
    activation: str = "sigmoid"
    valence_arousal: bool = False
    tta: bool = False

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.activation not in ("sigmoid", "softmax"):
            raise ValueError(f"activation is 'sigmoid' or 'softmax', not {self.activation!r}.")

    @property
    def num_outputs(self) -> int:
        """Of the backbone."""
        return len(self.id2label) + 2 * self.valence_arousal
