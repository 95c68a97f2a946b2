"""EBC and AU experts fused into one soft label."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.modeling_outputs import ImageClassifierOutput

from .configuration_fused import FusedConfig
from .modeling_au import AUForImageClassification
from .modeling_ebc import EBCForImageClassification
from .soft_label_model import SoftLabelModel


@dataclass
class FusedOutput(ImageClassifierOutput):
    """`logits` (B, expressions), whose sigmoid is the fused soft label; `ebc_logits` and `au_expert_logits`
    (B, expressions), those of the two models before fusing, under the same prior; `loss` where `labels` were given."""

    ebc_logits: Tensor | None = None
    au_expert_logits: Tensor | None = None


class FusedForImageClassification(SoftLabelModel):
    """Score of an expression = w * EBC + (1 - w) * AU, w fitted on validation (`FusedConfig`), then brought to the
    prior in `config.calibration` where that is another than the experts'."""

    config_class = FusedConfig

    def __init__(self, config: FusedConfig):
        super().__init__(config)
        ebc, au = config.experts
        self.ebc, self.au = EBCForImageClassification(ebc), AUForImageClassification(au)
        self.post_init()

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs) -> FusedOutput:
        """pixel_values (B, 3, H, W), normalised; labels for a BCE loss, a soft label
        (B, expressions) in [0, 1] or class indices (B,)."""
        ebc, au = self.ebc(pixel_values).logits, self.au(pixel_values).logits
        if self.config.tta and not self.training:
            flipped = pixel_values.flip(dims=(3,))
            ebc, au = (ebc + self.ebc(flipped).logits) / 2, (au + self.au(flipped).logits) / 2
        weights = ebc.new_tensor([self.config.ebc_weights.get(name, 0.5) for name in self.config.expressions])
        logits, ebc, au = (self.calibrate(log_odds) for log_odds in (mixed_log_odds(ebc, au, weights), ebc, au))
        loss = None
        if labels is not None:
            loss = F.binary_cross_entropy_with_logits(logits, self.soft_label_of(labels, logits))
        return FusedOutput(loss=loss, logits=logits, ebc_logits=ebc, au_expert_logits=au)


def mixed_log_odds(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """Log-odds of weight * sigmoid(first) + (1 - weight) * sigmoid(second), exact also where they are far from 0."""
    shares = torch.stack([weight, 1 - weight]).log().reshape(2, *[1] * (first.ndim - weight.ndim), *weight.shape)
    log_odds = torch.stack([first, second])
    present = torch.logsumexp(shares + F.logsigmoid(log_odds), dim=0)
    absent = torch.logsumexp(shares + F.logsigmoid(-log_odds), dim=0)
    return present - absent
