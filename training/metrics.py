"""Metrics as `evaluate.Metric`s that need no download."""

import datasets
import evaluate
import numpy as np
from scipy.spatial.distance import jensenshannon
from sklearn.metrics import average_precision_score, roc_auc_score


class OneVsRest(evaluate.Metric):
    """Area under the ROC curve and average precision of each expression against the rest (scikit-learn).

    `predictions` (N, len(expressions)) scores, `references` (N,) indices into `expressions`, any other number being
    one of the rest. Returns `auroc` and `average_precision`, both {expression: float}, and `mean_auroc` and
    `mean_average_precision`; NaN for an expression of which `references` hold none or nothing else.
    """

    def __init__(self, expressions: list[str], **kwargs):
        self.expressions = list(expressions)
        super().__init__(**kwargs)

    def _info(self):
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="",
            features=datasets.Features(
                {"predictions": datasets.List(datasets.Value("float64")), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references):
        scores, labels = np.array(predictions), np.array(references)
        result = {"auroc": {}, "average_precision": {}}
        for i, expression in enumerate(self.expressions):
            is_expression = labels == i
            defined = 0 < is_expression.sum() < len(labels)
            result["auroc"][expression] = float(roc_auc_score(is_expression, scores[:, i])) if defined else float("nan")
            result["average_precision"][expression] = (
                float(average_precision_score(is_expression, scores[:, i])) if defined else float("nan")
            )
        for name in ("auroc", "average_precision"):
            result[f"mean_{name}"] = float(np.mean(list(result[name].values())))
        return result


def js_divergence(soft_labels: np.ndarray, reference: np.ndarray) -> float:
    """Mean Jensen-Shannon divergence in nats of two (N, C) arrays of scores, each row divided by its sum."""
    return float(np.mean(jensenshannon(soft_labels, reference, axis=1) ** 2))
