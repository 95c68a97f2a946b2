"""EBC: per expression an ensemble of binary one-vs-rest classifiers (AffectNet+, arXiv 2410.22506, Fig. 2)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutput

from .backbone import against_rest, create_backbone, network_inputs
from .configuration_ebc import EBCConfig
from .shared_backbones import SharedBackbones
from .soft_label_model import SoftLabelModel


class BinaryEnsemble(nn.Module):
    """The binary classifiers of one expression: pixel_values (B, 3, H, W) -> log-odds (B, backbones)."""

    def __init__(self, config: EBCConfig, pretrained: bool = False):
        super().__init__()
        self.config = config
        self.classifiers = nn.ModuleList(
            create_backbone(name, 1 + config.rest_outputs, config.network_size, pretrained) for name in config.backbones
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        pairs = zip(self.classifiers, network_inputs(pixel_values, self.config), strict=True)
        return torch.cat([against_rest(classifier(faces).float()) for classifier, faces in pairs], dim=1)


@dataclass
class EBCOutput(ImageClassifierOutput):
    """`logits` (B, expressions), whose sigmoid is the soft label; `classifier_logits` (B, expressions, backbones), the
    log-odds of each binary classifier before they are combined; `loss` where `labels` were given."""

    classifier_logits: Tensor | None = None


class EBCForImageClassification(SoftLabelModel):
    """One `BinaryEnsemble` per expression of `config.id2label` (with `config.shared_backbones` one `SharedBackbones`
    for all of them), combined into one vector of log-odds.

    Log-odds of an expression = weighted mean of its classifiers' log-odds / temperature + shift, the three fitted on
    validation (`config.calibration`). Scores are independent: they do not sum to one.
    """

    config_class = EBCConfig

    def __init__(self, config: EBCConfig):
        super().__init__(config)
        if config.shared_backbones:
            self.trunks = SharedBackbones(config)
        else:
            self.experts = nn.ModuleDict({name: BinaryEnsemble(config) for name in config.expressions})
        self.post_init()

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs) -> EBCOutput:
        """pixel_values (B, 3, H, W), normalised; labels for a BCE loss, a soft label
        (B, expressions) in [0, 1] or class indices (B,)."""
        if self.config.shared_backbones:
            classifier_logits = self.trunks(pixel_values)
        else:
            classifier_logits = torch.stack([ensemble(pixel_values) for ensemble in self.experts.values()], dim=1)
        logits = self.combine(classifier_logits)
        loss = (
            None if labels is None else F.binary_cross_entropy_with_logits(logits, self.soft_label_of(labels, logits))
        )
        return EBCOutput(loss=loss, logits=logits, classifier_logits=classifier_logits)

    def combine(self, classifier_logits: Tensor) -> Tensor:
        """(B, expressions, backbones) -> (B, expressions)."""
        equal = [1 / len(self.config.backbones)] * len(self.config.backbones)
        fitted = [self.config.calibration.get(name, {}) for name in self.config.expressions]
        weights = classifier_logits.new_tensor([c.get("backbone_weights", equal) for c in fitted])
        return self.calibrate((classifier_logits * weights).sum(dim=-1))
