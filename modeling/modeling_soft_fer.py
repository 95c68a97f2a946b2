"""Soft-FER: one network that gives all expressions at once; the fast model."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.modeling_outputs import ImageClassifierOutput

from .backbone import create_backbone, network_input
from .configuration_soft_fer import SoftFerConfig
from .soft_label_model import SoftLabelModel


@dataclass
class SoftFerOutput(ImageClassifierOutput):
    """`logits` (B, expressions), whose sigmoid is the soft label; `valence_arousal` (B, 2) in [-1, 1] where the model
    has that head; `loss` of the expressions where `labels` were given."""

    valence_arousal: Tensor | None = None


class SoftFerForImageClassification(SoftLabelModel):
    """One backbone with one output per expression of `config.id2label`, and two more with `config.valence_arousal`.

    `logits` are log-odds whichever way it was trained: their sigmoid is the soft label, which sums to one where
    `config.activation` is "softmax".
    """

    config_class = SoftFerConfig

    def __init__(self, config: SoftFerConfig, pretrained: bool = False):
        super().__init__(config)
        self.backbone = create_backbone(config.backbone, config.num_outputs, config.network_size, pretrained)
        self.post_init()

    def raw_outputs(self, pixel_values: Tensor, tta: bool = False) -> Tensor:
        """pixel_values (B, 3, H, W), normalised -> (B, expressions) before the activation, and two more with valence
        and arousal; `tta`: the mean of those of each face and of its horizontal flip."""
        faces = network_input(pixel_values, self.config)
        if tta:
            faces = torch.cat([faces, faces.flip(dims=(3,))])  # one pass takes two thirds of the time of two
        outputs = self.backbone(faces).float()
        if tta:
            outputs = outputs.unflatten(0, (2, -1))
            outputs = (outputs[0] + outputs[1]) / 2
        return outputs

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs) -> SoftFerOutput:
        """pixel_values (B, 3, H, W), normalised; labels for the loss it was trained under, a soft label
        (B, expressions) in [0, 1] or class indices (B,)."""
        outputs = self.raw_outputs(pixel_values, self.config.tta and not self.training)
        outputs, affect = outputs.tensor_split([len(self.config.expressions)], dim=1)
        loss = (
            None
            if labels is None
            else soft_fer_loss(outputs, self.soft_label_of(labels, outputs), self.config.activation)
        )
        logits = outputs if self.config.activation == "sigmoid" else log_odds_of_softmax(outputs)
        affect = affect.tanh() if self.config.valence_arousal else None
        return SoftFerOutput(loss=loss, logits=self.calibrate(logits), valence_arousal=affect)


def soft_fer_loss(outputs: Tensor, targets: Tensor, activation: str) -> Tensor:
    """Mean BCE of (B, C) scores, or cross-entropy of (B, C) distributions."""
    if activation == "sigmoid":
        return F.binary_cross_entropy_with_logits(outputs, targets)
    return F.cross_entropy(outputs, targets)


def log_odds_of_softmax(outputs: Tensor) -> Tensor:
    """(B, C) -> (B, C): log p / (1 - p) of each p of the softmax, exact also where p is near 0 or 1."""
    classes = outputs.shape[1]
    index = torch.arange(classes, device=outputs.device)
    own = index[:, None] == index  # torch.eye has no counterpart in ONNX Runtime
    others = outputs[:, None, :].expand(-1, classes, -1).masked_fill(own, -torch.inf)
    return outputs - others.logsumexp(dim=2)
