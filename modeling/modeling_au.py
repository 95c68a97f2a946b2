"""AU experts: per expression one multi-head network that learns action units and the expression together (AffectNet+,
arXiv 2410.22506, Fig. 3)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutput

from .backbone import against_rest, create_backbone, network_input
from .configuration_au import AUConfig
from .shared_backbones import SharedBackbones, units_of
from .soft_label_model import SoftLabelModel


class MultiHeadClassifier(nn.Module):
    """The network of one expression: pixel_values (B, 3, H, W) -> log-odds (B, 1 + units), the expression's first.

    Every head is linear on the pooled features, so all of them are the rows of the backbone's last layer.
    """

    def __init__(self, config: AUConfig, expression: str, pretrained: bool = False):
        super().__init__()
        self.config = config
        self.of_expression = 1 + config.rest_outputs
        heads = self.of_expression + len((config.action_units or {})[expression])
        self.backbone = create_backbone(config.backbone, heads, config.network_size, pretrained)

    def forward(self, pixel_values: Tensor) -> Tensor:
        outputs = self.backbone(network_input(pixel_values, self.config)).float()
        return torch.cat([against_rest(outputs[:, : self.of_expression]), outputs[:, self.of_expression :]], dim=1)


def multi_head_loss(log_odds: Tensor, targets: Tensor, au_loss_weight: float, known: Tensor | None = None) -> Tensor:
    """BCE of the expression + `au_loss_weight` * mean BCE of its units; `log_odds` and `targets` are (B, 1 + units).

    Targets are in [0, 1]: presence, or intensity / 5. NaN is unknown and counts for nothing. `known` (1 + units,), of
    which the units' sum is what the sum of their losses is divided by: by default the known targets; where several
    batches make one step, the mean of these numbers over the batches.
    """
    is_known = ~targets.isnan()
    losses = F.binary_cross_entropy_with_logits(log_odds, targets.nan_to_num(), reduction="none") * is_known
    known = is_known.sum(dim=0) if known is None else known
    expression, units = losses[:, 0].mean(), losses[:, 1:].sum()
    return expression + au_loss_weight * units / known[1:].sum().clamp(min=1e-6)  # 0 / 0 is 0


@dataclass
class AUOutput(ImageClassifierOutput):
    """`logits` (B, expressions), whose sigmoid is the soft label; `au_logits`, for each expression (B, units): the
    sigmoid is the presence of each of `config.action_units[expression]`, or a fifth of its intensity, as taught;
    `loss` where `labels` were given."""

    au_logits: tuple[Tensor, ...] | None = None


class AUForImageClassification(SoftLabelModel):
    """One `MultiHeadClassifier` per expression of `config.id2label` (with `config.shared_backbones` one
    `SharedBackbones` for all of them), calibrated (`config.calibration`)."""

    config_class = AUConfig

    def __init__(self, config: AUConfig):
        super().__init__(config)
        if config.shared_backbones:
            self.trunks = SharedBackbones(config)
        else:
            self.experts = nn.ModuleDict({name: MultiHeadClassifier(config, name) for name in config.expressions})
        self.post_init()

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs) -> AUOutput:
        """pixel_values (B, 3, H, W), normalised; labels for a BCE loss, a soft label
        (B, expressions) in [0, 1] or class indices (B,)."""
        if self.config.shared_backbones:
            units = units_of(self.config)
            log_odds, *au_logits = self.trunks(pixel_values).squeeze(2).split([len(units), *units], dim=1)
        else:
            heads = [expert(pixel_values) for expert in self.experts.values()]
            log_odds = torch.stack([of_expert[:, 0] for of_expert in heads], dim=1)
            au_logits = [of_expert[:, 1:] for of_expert in heads]
        logits = self.calibrate(log_odds)
        loss = (
            None if labels is None else F.binary_cross_entropy_with_logits(logits, self.soft_label_of(labels, logits))
        )
        return AUOutput(loss=loss, logits=logits, au_logits=tuple(au_logits))
