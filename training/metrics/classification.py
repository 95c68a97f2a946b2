"""Metrics of scores and predicted classes against the human label."""

import numpy as np
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    f1_score,
    recall_score,
    roc_auc_score,
)

from .array_metric import INDEX, ArrayMetric


class OneVsRest(ArrayMetric):
    """Area under the ROC curve and average precision of each expression against all others (scikit-learn).

    Args:
        expressions: names of the classes.

    `compute` takes `predictions` (N, len(expressions)) scores, NaN where a row shall not count, and `references` (N,)
    indices into `expressions`, any other number being a negative. It returns `auroc` and `average_precision`, both
    {expression: float in [0, 1]}, NaN for an expression of which `references` hold none or nothing else, and
    `mean_auroc` and `mean_average_precision` over all others.
    """

    reference = INDEX

    def __init__(self, expressions: list[str], **kwargs):
        self.expressions = list(expressions)
        super().__init__(**kwargs)

    def _compute(self, predictions, references):
        result = {}
        for name, score in (("auroc", roc_auc_score), ("average_precision", average_precision_score)):
            values = []
            for i in range(len(self.expressions)):
                counts = ~np.isnan(predictions[:, i])
                is_expression = references[counts] == i
                known = 0 < is_expression.sum() < len(is_expression)
                values.append(float(score(is_expression, predictions[counts, i])) if known else float("nan"))
            result[name] = dict(zip(self.expressions, values, strict=True))
            result[f"mean_{name}"] = float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")
        return result


class HumanLabels(ArrayMetric):
    """How often one predicted expression is the human label (scikit-learn).

    Args:
        expressions: names of the classes.

    `compute` takes `predictions` and `references`, both (N,) indices into `expressions`. It returns `accuracy`,
    `macro_f1` (mean over those expressions that `references` hold), `balanced_accuracy` (mean recall of the same,
    UAR), `recall` ({expression: float}, NaN for one they do not hold), all in [0, 1], and `confusion_matrix` (rows:
    references, columns: predictions; counts).
    """

    prediction = reference = INDEX

    def __init__(self, expressions: list[str], **kwargs):
        self.expressions = list(expressions)
        super().__init__(**kwargs)

    def _compute(self, predictions, references):
        every, present = np.arange(len(self.expressions)), np.unique(references)
        recall = recall_score(references, predictions, labels=every, average=None, zero_division=np.nan)
        return {
            "accuracy": float(accuracy_score(references, predictions)),
            "macro_f1": float(f1_score(references, predictions, labels=present, average="macro", zero_division=0)),
            "balanced_accuracy": float(np.nanmean(recall)),
            "recall": dict(zip(self.expressions, recall.tolist(), strict=True)),
            "confusion_matrix": confusion_matrix(references, predictions, labels=every).tolist(),
        }
