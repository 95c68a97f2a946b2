"""The experts of all expressions as heads of shared backbones: affectnet-plus's own, not the paper's."""

import torch
from torch import Tensor, nn

from .backbone import against_rest, backbones_of, create_backbone, network_inputs


class SharedBackbones(nn.Module):
    """One network per backbone with the heads of all experts: pixel_values (B, 3, H, W) -> log-odds
    (B, expressions + units, backbones); the units are those of AU experts, expression by expression.

    Every head is linear on the pooled features, so all of them are the rows of the backbone's last layer: of each
    expression its own output and its rest outputs, then all units.
    """

    def __init__(self, config, pretrained: bool = False):
        super().__init__()
        self.config = config
        self.of_expression = 1 + config.rest_outputs
        self.of_expressions = len(config.expressions) * self.of_expression
        outputs = self.of_expressions + sum(units_of(config))
        self.classifiers = nn.ModuleList(
            create_backbone(name, outputs, config.network_size, pretrained) for name in backbones_of(config)
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        pairs = zip(self.classifiers, network_inputs(pixel_values, self.config), strict=True)
        return torch.stack([self._log_odds(classifier(faces).float()) for classifier, faces in pairs], dim=2)

    def _log_odds(self, outputs: Tensor) -> Tensor:
        of_expressions, of_units = outputs.tensor_split([self.of_expressions], dim=1)
        own = against_rest(of_expressions.unflatten(1, (-1, self.of_expression))).squeeze(2)
        return torch.cat([own, of_units], dim=1)


def units_of(config) -> list[int]:
    """How many unit heads each expression has."""
    units = getattr(config, "action_units", None) or {}
    return [len(units.get(name, ())) for name in config.expressions]
