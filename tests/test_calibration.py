"""Calibration, priors, fusing and the posterior, on what is known to be true."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import expit, logit

from affectnet_plus import EXPRESSIONS
from affectnet_plus.modeling import (
    AUConfig,
    AUForImageClassification,
    EBCConfig,
    EBCForImageClassification,
    FusedConfig,
    mixed_log_odds,
)
from affectnet_plus.training.soft_labels.calibration import fit_calibration, reexpress, shift_of_prior
from affectnet_plus.training.soft_labels.fusion import fit_fusion, fused_model
from affectnet_plus.training.soft_labels.posterior import fit_precision, posterior_of


def test_calibration_finds_what_generated_the_labels():
    rng = np.random.default_rng(0)
    log_odds = rng.normal(0, 2, (40_000, 3))
    true = log_odds @ [0.6, 0.4, 0.0] / 0.8 - 1.5
    is_expression = rng.random(len(true)) < 1 / (1 + np.exp(-true))
    fitted = fit_calibration(log_odds, is_expression)
    assert fitted["backbone_weights"] == pytest.approx([0.6, 0.4, 0.0], abs=0.03)
    assert fitted["temperature"] == pytest.approx(0.8, abs=0.04)
    assert fitted["log_odds_shift"] == pytest.approx(-1.5, abs=0.06)
    assert fitted["prior"] == fitted["validation_frequency"] == is_expression.mean()
    silent = fit_calibration(-np.abs(log_odds), np.arange(len(true)) % 2 == 0)
    assert np.isfinite(list(silent.values())[1]) and sum(silent["backbone_weights"]) == pytest.approx(1)
    few = fit_calibration(log_odds[:30], is_expression[:30])  # say little
    assert few["temperature"] == pytest.approx(1, abs=0.25)
    assert few["backbone_weights"] == pytest.approx([1 / 3] * 3, abs=0.15)


def test_a_score_is_a_frequency_under_the_prior_of_the_rows_it_is_for():
    """AffectNet's contempt: an eighth of the validation rows, 1.3 % of the training rows; an ideal classifier of two
    normal distributions whose means are 2.5 standard deviations apart."""
    rng = np.random.default_rng(0)

    def rows(number, share):
        is_contempt = rng.random(number) < share
        return 2.5 * rng.normal(2.5 * is_contempt) - 2.5**2 / 2, is_contempt

    log_odds, is_contempt = rows(4000, 1 / 8)
    of_train, in_train = rows(400_000, 0.013)
    figures = {}
    for prior in (None, 0.013):
        fitted = fit_calibration(log_odds[:, None], is_contempt, prior)
        scores = expit(of_train / fitted["temperature"] + fitted["log_odds_shift"])
        figures[prior] = scores.mean(), in_train[scores > 0.5].mean(), scores[scores > 0.5].mean()
    mean, precision, _ = figures[None]
    assert mean > 0.05 and precision < 0.35  # calibrated to validation, a training row's score means nothing
    mean, precision, said = figures[0.013]
    assert mean == pytest.approx(0.013, abs=0.002) and precision == pytest.approx(said, abs=0.04)


def test_scores_are_reexpressed_exactly_and_back():
    rng = np.random.default_rng(0)
    train, balanced = rng.dirichlet(np.ones(8)).clip(1e-3), np.full(8, 1 / 8)
    log_odds = rng.normal(0, 12, (500, 8))
    there = reexpress(expit(log_odds), train, balanced)
    np.testing.assert_allclose(there, expit(log_odds + logit(balanced) - logit(train)), rtol=1e-6)
    np.testing.assert_allclose(reexpress(there, balanced, train), expit(log_odds), rtol=1e-6)
    ends = np.array([[0.0] * 8, [1.0] * 8, [1e-300] * 8])
    assert np.array_equal(reexpress(ends, np.full(8, 1e-9), np.full(8, 1 - 1e-9))[:2], ends[:2])
    # One in eight, scored as if it were one in two: the textbook's example by hand, 0.8 = 4 : 1 becomes 4 : 7.
    assert reexpress(np.array([0.8]), [0.5], [1 / 8])[0] == pytest.approx(4 / 11)
    with pytest.raises(ValueError, match="above 0 and below 1"):
        reexpress(ends, np.zeros(8), balanced)


def test_posterior_after_one_human_label():
    scores = np.array([[0.6, 0.2, 0.0], [0.5, 0.5, 0.1], [0.3, 0.1, 0.2]])
    posterior = posterior_of(scores, np.array([1, -1, 0]), 2.0)
    np.testing.assert_allclose(posterior[0], [1.2 / 3, 1.4 / 3, 0])
    np.testing.assert_allclose(posterior[2], [1.6 / 3, 0.2 / 3, 0.4 / 3])
    assert np.isnan(posterior[1]).all()


def test_experts_are_weighted_as_rows_of_the_prior_ask_for():
    rng = np.random.default_rng(0)
    labels = np.arange(4000) % 8
    log_odds = 2.5 * rng.normal(2.5 * np.eye(8)[labels]) - 2.5**2 / 2
    prior = np.array([0.909, *[0.013] * 7])
    right, wrong = (log_odds + shift_of_prior(np.full(8, 0.5), p) for p in (prior, np.full(8, 1 / 8)))
    model = SimpleNamespace(config=FusedConfig())  # no network is asked
    fit_fusion(model, right, wrong, labels, prior)  # the first expert is calibrated to the prior, the second is not
    assert min(model.config.ebc_weights.values()) > 0.6
    fit_fusion(model, right, wrong, labels)  # these rows themselves are balanced
    assert max(model.config.ebc_weights.values()) < 0.4


@pytest.mark.parametrize("precision", [1.0, 6.0])
def test_prior_precision_is_found_where_there_are_several_votes(precision):
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(8), 6000)
    shares = np.array([rng.dirichlet(precision * row + 1e-9) for row in scores])  # of all people, strayed from scores
    votes = np.array([rng.multinomial(10, row) for row in shares])
    labels = np.array([rng.choice(8, p=row) for row in shares])
    assert fit_precision(scores, labels, votes) == pytest.approx(precision, rel=0.2)
    with pytest.raises(ValueError, match="cannot be fitted"):
        fit_precision(scores, np.full(6000, -1), votes)


def test_mixture_is_that_of_the_scores_also_far_from_zero():
    first, second = torch.tensor([[0.3, -40.0, 90.0]]), torch.tensor([[-1.2, -42.0, 80.0]])
    weight = torch.tensor([0.25, 0.5, 1.0])
    mixed = mixed_log_odds(first, second, weight)
    expected = 0.25 * expit(0.3) + 0.75 * expit(-1.2)
    assert mixed[0, 0].item() == pytest.approx(np.log(expected / (1 - expected)), rel=1e-5)
    assert -42 < mixed[0, 1].item() < -40 and mixed[0, 2].item() == pytest.approx(90)


def test_fusion_finds_the_better_expert():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 8, 4000)
    truth = np.eye(8)[labels] * 4 - 3
    good, bad = truth + rng.normal(0, 1, truth.shape), rng.normal(0, 2, truth.shape)
    ebc, au = EBCConfig(backbones=["test_vit"], image_size=32), AUConfig(backbone="test_vit", image_size=32)
    model = fused_model(EBCForImageClassification(ebc), AUForImageClassification(au))
    assert model.config.ebc_weights == {}
    fit_fusion(model, good, bad, labels)
    assert all(weight > 0.8 for weight in model.config.ebc_weights.values())
    fit_fusion(model, bad, good, labels)
    assert all(weight < 0.2 for weight in model.config.ebc_weights.values())
    assert set(model.config.ebc_weights) == set(EXPRESSIONS)
    few = np.flatnonzero(labels < 2)[:10]  # ten rows say little, and nothing of who is better at the others
    fit_fusion(model, bad[few], good[few], labels[few])
    assert 0.2 < model.config.ebc_weights["neutral"] < 0.5
    assert model.config.ebc_weights["contempt"] == pytest.approx(0.5, abs=0.2)
