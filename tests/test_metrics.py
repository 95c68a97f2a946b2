"""Metrics, against scikit-learn, scipy and by hand."""

import json

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cosine
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from affectnet_plus.training.metrics import OneVsRest, SoftLabels, js_divergence, js_divergences, nan_to_none


def test_metric_is_scikit_learns_and_says_where_it_is_undefined():
    rng = np.random.default_rng(0)
    scores, labels = rng.random((60, 3)), rng.integers(0, 2, 60)  # no row of the third
    metric = OneVsRest(["a", "b", "c"])
    for part in range(0, 60, 20):
        metric.add_batch(predictions=scores[part : part + 20], references=labels[part : part + 20])
    result = metric.compute()
    assert result["auroc"]["b"] == pytest.approx(roc_auc_score(labels == 1, scores[:, 1]))
    assert result["average_precision"]["a"] == pytest.approx(average_precision_score(labels == 0, scores[:, 0]))
    assert np.isnan(result["auroc"]["c"])
    assert result["mean_auroc"] == pytest.approx(np.mean([result["auroc"][name] for name in "ab"]))
    assert json.loads(json.dumps(nan_to_none([result]), allow_nan=False))[0]["auroc"]["c"] is None


def test_js_divergence_of_known_distributions():
    assert js_divergence(np.array([[2.0, 2.0]]), np.array([[0.5, 0.5]])) == pytest.approx(0)
    assert js_divergence(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])) == pytest.approx(np.log(2))
    scores = np.random.default_rng(0).random((500, 8))
    assert (js_divergences(scores, scores * (1 + 1e-15)) < 1e-12).all()  # not undefined
    assert np.isnan(js_divergence(np.full((3, 8), np.nan), np.eye(3, 8)))  # and what is undefined is not 0


def test_soft_label_metrics_against_scipy_and_by_hand():
    rng = np.random.default_rng(0)
    scores, truth = rng.random((300, 8)), rng.dirichlet(np.ones(8), 300)
    metric = SoftLabels()
    result = metric.compute(predictions=scores, references=truth)
    assert result == metric.compute(predictions=scores.tolist(), references=torch.from_numpy(truth))
    tied = metric.compute(predictions=scores.round(1), references=truth.round(1))
    for decimals, figures in ((20, result), (1, tied)):
        pairs = zip(scores.round(decimals), truth.round(decimals), strict=True)
        rank_correlations, distances = zip(*((spearmanr(*pair)[0], cosine(*pair)) for pair in pairs), strict=True)
        assert figures["spearman"] == pytest.approx(np.mean(rank_correlations), abs=1e-9)
        assert figures["cosine"] == pytest.approx(1 - np.mean(distances), abs=1e-9)
    order = scores.argsort(axis=1)
    assert result["top2"] == pytest.approx((order[:, -2:] == truth.argmax(axis=1)[:, None]).any(axis=1).mean())
    assert result["mae"] == pytest.approx(np.abs(scores - truth).mean())
    # Half the faces show it, half do not; a score of 0.9 for those and 0.2 for these is 0.1 and 0.2 beside the truth.
    one = np.column_stack([np.repeat([0.9, 0.2], 50), np.repeat([0.1, 0.8], 50), np.zeros(100)])
    true = np.column_stack([np.repeat([1.0, 0.0], 50), np.repeat([0.0, 1.0], 50), np.zeros(100)])
    assert metric.compute(predictions=one, references=true)["ece"] == pytest.approx(0.1)
    perfect = metric.compute(predictions=truth, references=truth)
    same = {"mae": 0, "js_divergence": 0, "kl": 0, "cosine": 1, "top1": 1, "top2": 1, "spearman": 1, "ece": 0}
    assert perfect == pytest.approx(same, abs=1e-5)
