"""What a network learns of action units where no table says them, and how well it has learned them."""

import numpy as np
from sklearn.metrics import roc_auc_score

from affectnet_plus import EXPRESSIONS
from affectnet_plus.modeling import PROTOTYPES
from affectnet_plus.training.action_units.tables import ActionUnitTable


def prototype_targets(labels: np.ndarray, units: list[int]) -> np.ndarray:
    """(rows, units): 1 where a unit belongs to the EMFACS prototype of the row's human label, else 0."""
    table = np.array([[unit in PROTOTYPES[name] for unit in units] for name in EXPRESSIONS], dtype="float32")
    return table[labels].reshape(len(labels), len(units))


def presence_auroc(
    targets: np.ndarray, log_odds: np.ndarray, units: list[int], table: ActionUnitTable | None
) -> dict[str, float | None]:
    """{"AU12": AUROC of the unit's presence ...} of targets and log-odds (rows, units); None where the rows of which it
    is known are all alike."""
    found = {}
    for unit, target, scores in zip(units, targets.T, log_odds.T, strict=True):
        known = ~np.isnan(target)
        present = target[known] >= np.float32(table.present_from.get(unit, 0.5) if table else 0.5)
        has_both = 0 < present.sum() < len(present)
        found[f"AU{unit}"] = round(float(roc_auc_score(present, scores[known])), 4) if has_both else None
    return found
