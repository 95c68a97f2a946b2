"""Experts on shared backbones (--share_backbones; ours, not the paper's): one network per backbone with the heads of
all expressions, each of which learns as under its own balanced sampler. docs/method.md derives the weights.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from affectnet_plus import match_expressions
from affectnet_plus.modeling import SharedBackbones
from affectnet_plus.training.experts.folder import best_epoch_by, expert_record
from affectnet_plus.training.faces import Split
from affectnet_plus.training.loop import Run, fit, one_vs_rest
from affectnet_plus.training.loop.folders import locked, written_beside
from affectnet_plus.training.loop.settings import check_same_network
from affectnet_plus.training.soft_labels.calibration import fit_calibration


def rows_by_class(split: Split) -> list[np.ndarray]:
    """The groups that are drawn from in turn: the rows of each class."""
    return [np.flatnonzero(split.labels == label) for label in np.unique(split.labels)]


def weighted_targets(
    split: Split, expressions: list[str], of_units: Sequence[np.ndarray] = (), au_loss_weight: float = 1.0
) -> np.ndarray:
    """(rows, 2 * heads) for `shared_loss`: the targets of all heads, in [0, 1], and the weights of these targets.

    A weight is the probability of the row under the expression's own sampler over that under `rows_by_class`; 0 where
    the target is not known. `of_units`, for each expression (rows, units) with NaN where unknown, weigh as in
    `multi_head_loss`: `au_loss_weight` over the known units of a row, on average under the expression's own sampler.
    """
    indices = match_expressions(expressions)
    is_own = split.labels[:, None] == np.array(indices)  # (rows, expressions)
    is_other = ~is_own & split.known[:, indices]
    balanced = (is_own / is_own.sum(axis=0) + is_other / is_other.sum(axis=0)) / 2
    _, class_of_row, rows_of_class = np.unique(split.labels, return_inverse=True, return_counts=True)
    drawn = 1 / (len(rows_of_class) * rows_of_class[class_of_row])  # (rows,)
    weights = [balanced / drawn[:, None]]
    for targets, of_expression, ratio in zip(of_units, balanced.T, weights[0].T, strict=False):
        known = ~np.isnan(targets)
        known_in_a_row = of_expression @ known.sum(axis=1)
        weights.append(au_loss_weight * ratio[:, None] * known / max(known_in_a_row, 1e-6))
    return np.nan_to_num(np.hstack([is_own, *of_units, *weights]))


def shared_loss(log_odds: Tensor, targets: Tensor, expressions: int) -> Tensor:
    """Weighted BCE of (B, heads, backbones) against `weighted_targets` (B, 2 * heads): the mean over the experts of all
    expressions, summed over the backbones: each learns as if it were alone."""
    targets, weights = targets.unsqueeze(2).chunk(2, dim=1)  # (B, heads, 1) each
    losses = F.binary_cross_entropy_with_logits(log_odds, targets.expand_as(log_odds), reduction="none")
    return (losses * weights).sum() / (len(losses) * expressions)


def train_shared(
    run: Run,
    pretrained: bool,
    priors: np.ndarray,
    of_units: Sequence[np.ndarray] = (),
    au_loss_weight: float = 1.0,
    figures_of_units: Callable[[str, np.ndarray], dict | None] = lambda expression, log_odds: None,
) -> None:
    """Train all experts of a run together, calibrate each for itself, and save the model.

    Args:
        priors: (8,), as `prior_numbers` gives them.
        of_units, au_loss_weight: As in `weighted_targets`.
        figures_of_units: What an expression's record says of the log-odds of its units, (rows, units) of validation.
    """
    names, evaluation = run.config.expressions, run.evaluation
    network = run.create("all", partial(SharedBackbones, run.config, pretrained))
    job = run.job("all", weighted_targets(run.train, names, of_units, au_loss_weight), rows_by_class(run.train))
    network, outputs, record = fit(
        job, network, partial(shared_loss, expressions=len(names)), partial(_figures, split=evaluation, names=names),
        best_epoch_by(run),
    )  # fmt: skip
    log_odds = outputs["logits"]  # (rows, expressions + units, backbones)
    ends = np.cumsum([len(names), *(targets.shape[1] for targets in of_units)])
    units = np.split(log_odds[..., 0], ends, axis=1)[1:]  # of each expression, and what is left: nothing
    sampler = {"name": "class-balanced", "share_of_expression": 0.5, **record}
    calibration, training = {}, {}
    for i, (name, index) in enumerate(zip(names, match_expressions(names), strict=True)):
        known, measured_on = evaluation.known[:, index], evaluation.labels == index
        calibration[name] = fit_calibration(log_odds[known, i], measured_on[known], priors[index])
        more = figures_of_units(name, units[i]) if of_units else None
        training[name] = expert_record(run, name, log_odds[:, i], calibration[name], sampler, more)
    run.finish(job, network, partial(_save, run, {"calibration": calibration, "training": training}))


def _figures(outputs: dict[str, np.ndarray], split: Split, names: list[str]) -> dict[str, float]:
    """Of the mean log-odds over the backbones, each expression against the others; the mean over expressions."""
    scores = one_vs_rest(names, outputs["logits"][:, : len(names)].mean(axis=2), split)
    return {name: scores[f"mean_{name}"] for name in ("auroc", "average_precision")}


def _save(run: Run, fitted: dict, network: SharedBackbones) -> None:
    config = type(run.config).from_dict(run.config.to_dict() | fitted)
    with torch.device("meta"):
        model = run.model_class(config)
    model.trunks = network.cpu()
    with locked(run.output_dir):
        check_same_network(run.output_dir, config)
        with written_beside(run.output_dir) as folder:
            model.save_pretrained(folder)
