"""Metrics as `evaluate.Metric`s that need no download."""

import datasets
import evaluate
import numpy as np
import torch
from scipy.spatial.distance import cosine, jensenshannon
from scipy.stats import entropy, rankdata
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    f1_score,
    recall_score,
    roc_auc_score,
    root_mean_squared_error,
)


class OneVsRest(evaluate.Metric):
    """Area under the ROC curve and average precision of each expression against the rest (scikit-learn).

    `predictions` (N, len(expressions)) scores, `references` (N,) indices into `expressions`, any other number being
    one of the rest. Returns `auroc` and `average_precision`, both {expression: float}, NaN for an expression of which
    `references` hold none or nothing else, and `mean_auroc` and `mean_average_precision` over all others.
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
            known = [value for value in result[name].values() if not np.isnan(value)]
            result[f"mean_{name}"] = float(np.mean(known)) if known else float("nan")
        return result


class HumanLabels(evaluate.Metric):
    """How often one predicted expression is the human label (scikit-learn).

    `predictions` and `references`: (N,) indices into `expressions`. Returns `accuracy`, `macro_f1` (mean over those
    expressions that `references` hold), `mean_recall` (of the same: balanced accuracy, UAR), `recall` ({expression:
    float}, NaN for one they do not hold) and `confusion` (rows: references, columns: predictions; counts).
    """

    def __init__(self, expressions: list[str], **kwargs):
        self.expressions = list(expressions)
        super().__init__(**kwargs)

    def _info(self):
        index = datasets.Value("int64")
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="",
            features=datasets.Features({"predictions": index, "references": index}),
        )

    def _compute(self, predictions, references):
        held = np.unique(references)
        every = np.arange(len(self.expressions))
        recall = recall_score(references, predictions, labels=every, average=None, zero_division=np.nan)
        return {
            "accuracy": float(accuracy_score(references, predictions)),
            "macro_f1": float(f1_score(references, predictions, labels=held, average="macro", zero_division=0)),
            "mean_recall": float(np.nanmean(recall)),
            "recall": dict(zip(self.expressions, recall.tolist(), strict=True)),
            "confusion": confusion_matrix(references, predictions, labels=every).tolist(),
        }


class ValenceArousal(evaluate.Metric):
    """How near valence and arousal are to the annotated ones.

    `predictions` and `references`: (N, 2), valence and arousal in [-1, 1]; a reference that is NaN is left out. Returns
    for `valence` and for `arousal`: `ccc` (Lin's concordance; torchmetrics; 0 where either never varies), `rmse`
    (scikit-learn), `sign_agreement`
    (share of the rows whose signs are equal, as in AffectNet, Mollahosseini et al., 2017) and `rows`; NaN without rows.
    """

    def _info(self):
        pair = datasets.List(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="",
            features=datasets.Features({"predictions": pair, "references": pair}),
        )

    def _compute(self, predictions, references):
        from torchmetrics.functional import concordance_corrcoef  # seconds to import, and nothing else needs it

        result = {}
        for i, name in enumerate(("valence", "arousal")):
            ours, theirs = np.array(predictions, dtype=float)[:, i], np.array(references, dtype=float)[:, i]
            known = ~np.isnan(theirs)
            ours, theirs = ours[known], theirs[known]
            result[name] = dict.fromkeys(("ccc", "rmse", "sign_agreement"), float("nan")) | {"rows": int(known.sum())}
            if known.any():
                concordance = concordance_corrcoef(torch.from_numpy(ours), torch.from_numpy(theirs))
                result[name]["ccc"] = float(concordance.nan_to_num())
                result[name]["rmse"] = float(root_mean_squared_error(theirs, ours))
                result[name]["sign_agreement"] = float((np.sign(ours) == np.sign(theirs)).mean())
        return result


class SoftLabels(evaluate.Metric):
    """How near soft labels are to the true ones.

    `predictions` and `references`: (N, C) scores from 0 to 1, the references e.g. true intensities or shares of votes.
    Returns, each a mean over rows unless said otherwise:

    - `mae`: absolute error of the scores as they are, over all expressions.
    - `js`: Jensen-Shannon divergence in nats of the distributions (scores divided by their sum; scipy). Here and in the
      next two, rows whose scores are all 0 are left out.
    - `kl`: Kullback-Leibler divergence in nats of the true distribution from the predicted one, whose shares count as
      at least 1e-6 (scipy).
    - `cosine`: cosine similarity of the scores as they are (scipy).
    - `top1`, `top2`: the expression that is strongest in truth has the highest, or one of the two highest, scores;
      rows whose truths are all 0 are left out.
    - `spearman`: rank correlation of a row's C scores with its C true ones, ties at their mean rank; rows whose scores
      or truths are all equal have none and are left out.
    - `ece`: expected calibration error, the mean over expressions: rows in `bins` equal steps of the predicted score,
      |mean score - mean truth| of each bin, weighted by its rows.
    """

    def __init__(self, bins: int = 15, **kwargs):
        self.bins = bins
        super().__init__(**kwargs)

    def _info(self):
        scores = datasets.List(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="",
            features=datasets.Features({"predictions": scores, "references": scores}),
        )

    def _compute(self, predictions, references):
        scores, truth = np.array(predictions), np.array(references)
        held = scores.any(axis=1) & truth.any(axis=1)
        shares = scores[held] / scores[held].sum(axis=1, keepdims=True)
        columns = zip(scores.T, truth.T, strict=True)
        known = truth.any(axis=1)
        order, dominant = scores[known].argsort(axis=1, kind="stable")[:, ::-1], truth[known].argmax(axis=1)
        hits = {f"top{k}": float((order[:, :k] == dominant[:, None]).any(axis=1).mean()) for k in (1, 2)}
        return {
            "mae": float(np.abs(scores - truth).mean()),
            "js": js_divergence(scores, truth),
            "kl": float(np.mean(entropy(truth[held], shares.clip(1e-6), axis=1))),
            "cosine": float(np.mean([1 - cosine(*pair) for pair in zip(scores[held], truth[held], strict=True)])),
            **hits,
            "spearman": _mean_spearman(scores, truth),
            "ece": float(np.mean([_calibration_error(*column, self.bins) for column in columns])),
        }


def _mean_spearman(scores: np.ndarray, truth: np.ndarray) -> float:
    ranks = [rankdata(values, axis=1) for values in (scores, truth)]
    centred = [r - r.mean(axis=1, keepdims=True) for r in ranks]
    spreads = np.prod([np.linalg.norm(c, axis=1) for c in centred], axis=0)
    defined = spreads > 0
    return float(np.mean((centred[0] * centred[1]).sum(axis=1)[defined] / spreads[defined]))


def _calibration_error(score: np.ndarray, truth: np.ndarray, bins: int) -> float:
    place = np.minimum((score * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(place, score - truth, bins)).sum() / len(score))


def defined(value):
    """With None for what is undefined (NaN), which JSON does not know."""
    if isinstance(value, dict):
        return {key: defined(held) for key, held in value.items()}
    if isinstance(value, list):
        return [defined(held) for held in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def ranks_of(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) place of the label's score among the (N, 8) scores of its row, from 1."""
    return 1 + (scores > scores[np.arange(len(labels)), labels, None]).sum(axis=1)


def js_divergence(soft_labels: np.ndarray, reference: np.ndarray) -> float:
    """Mean Jensen-Shannon divergence in nats of two (N, C) arrays of scores, each row divided by its sum; rows that are
    no distribution, because all their scores are 0, are left out."""
    divergences = js_divergences(soft_labels, reference)
    return float(np.nanmean(divergences)) if np.isfinite(divergences).any() else np.nan


def js_divergences(soft_labels: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(N,) the same of each row, NaN where one of the two is no distribution or holds NaN."""
    divergences = np.full(len(soft_labels), np.nan)
    held = soft_labels.any(axis=1) & reference.any(axis=1) & np.isfinite(soft_labels + reference).all(axis=1)
    # Of two that differ in their last bits only, scipy takes the root of a sum that may be below 0.
    with np.errstate(invalid="ignore"):
        divergences[held] = np.nan_to_num(jensenshannon(soft_labels[held], reference[held], axis=1)) ** 2
    return divergences
