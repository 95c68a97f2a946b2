"""Metrics of valence and arousal."""

import numpy as np
import torch
from sklearn.metrics import root_mean_squared_error

from .array_metric import ArrayMetric


class ValenceArousal(ArrayMetric):
    """How near valence and arousal are to the annotated ones.

    `compute` takes `predictions` and `references`, both (N, 2), valence and arousal in [-1, 1]; a reference that is NaN
    is left out. It returns for `valence` and for `arousal`: `ccc` (Lin's concordance correlation coefficient in
    [-1, 1]; torchmetrics; 0 where either never varies), `rmse` (scikit-learn), `sign_agreement` (share of the rows
    whose signs are equal, SAGR, as in AffectNet, Mollahosseini et al., 2017) and `rows`; NaN without rows.
    """

    def _compute(self, predictions, references):
        from torchmetrics.functional import concordance_corrcoef  # seconds to import, and nothing else needs it

        result = {}
        for i, name in enumerate(("valence", "arousal")):
            known = ~np.isnan(references[:, i])
            ours, theirs = predictions[known, i], references[known, i]
            result[name] = dict.fromkeys(("ccc", "rmse", "sign_agreement"), float("nan")) | {"rows": int(known.sum())}
            if known.any():
                concordance = concordance_corrcoef(torch.from_numpy(ours), torch.from_numpy(theirs))
                result[name]["ccc"] = float(concordance.nan_to_num())
                result[name]["rmse"] = float(root_mean_squared_error(theirs, ours))
                result[name]["sign_agreement"] = float((np.sign(ours) == np.sign(theirs)).mean())
        return result
