#!/usr/bin/env python
"""Train an EBC: per expression an ensemble of binary classifiers, one-vs-rest (AffectNet+, arXiv 2410.22506, Fig. 2).

    accelerate launch training/train_ebc.py --data_dir /data/AffectNet+ --output_dir runs/ebc
    accelerate launch training/train_ebc.py --dataset_name FOLDER_OR_HUB_ID --output_dir runs/ebc

Expressions are trained one after the other and are independent of each other: --expressions trains some of them into
a folder that may already hold the others, so several machines can share the work. `accelerate launch --mixed_precision
bf16` and several processes work as usual; by --jobs expressions each process trains expressions of its own.
"""

from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F

from affectnet_plus import EXPRESSIONS
from affectnet_plus.modeling import BinaryEnsemble, EBCConfig, EBCForImageClassification, check_backbone
from affectnet_plus.training import experts, loop
from affectnet_plus.training.arguments import (
    NETWORKS_KEPT,
    ExpertArguments,
    FoldArguments,
    OptimizationArguments,
    TrainingDataArguments,
    exit_on_broken_image,
    exit_on_error,
    parse_arguments,
    run_script,
)
from affectnet_plus.training.faces import load_splits
from affectnet_plus.training.loop.initial_weights import normalization_of_start
from affectnet_plus.training.soft_labels.calibration import class_frequencies, fit_calibration, prior_numbers


@dataclass
class EBCArguments(ExpertArguments):
    """What is trained."""

    backbones: list[str] = field(
        default_factory=lambda: list(EBCConfig().backbones),
        metadata={"help": "timm names; each expression gets one classifier of each. Default: the paper's three."},
    )


def main():
    data_args, args, fold_args, ebc_args = all_args = parse_arguments(
        TrainingDataArguments, OptimizationArguments, FoldArguments, EBCArguments, description=__doc__.split("\n\n")[0]
    )
    with exit_on_error():
        config = EBCConfig(
            backbones=ebc_args.backbones,
            shared_backbones=ebc_args.share_backbones,
            **ebc_args.input_settings(),
            backbone_normalization=normalization_of_start(ebc_args, ebc_args.backbones),
        )
        for backbone in config.backbones:
            check_backbone(backbone, config.network_size)
        args = args.with_recipe("experts", ebc_args.pretrained)
        share = loop.share_of_jobs(ebc_args.jobs, args)
        accelerator = loop.create_accelerator(args, share)
        with loop.main_process_prepares(accelerator):  # the others find the cache
            if ebc_args.pretrained:
                BinaryEnsemble(config, pretrained=True)
        train, evaluation = loop.once_per_machine(accelerator, partial(load_splits, data_args))
        loop.cache_faces(accelerator, [train, evaluation], config.image_size, args.cache_images)
        config = experts.fit_to_data(config, ebc_args, train.expressions)
        frequencies = {
            name: class_frequencies(rows.labels, rows.known)
            for name, rows in (("train", train), ("validation", evaluation))
        }
        priors = prior_numbers(ebc_args.prior, frequencies.get, train.expressions)  # of all rows: all folds share it
        runs = loop.plan_runs(
            accelerator, data_args, args, fold_args, ebc_args, config, EBCForImageClassification, ebc_args.expressions,
            train, evaluation, share=share,
        )  # fmt: skip
        experts.plan_warm_starts(runs, ebc_args)
        repo_id = loop.create_private_repo(accelerator, args, fold_args)

    loop.start_trackers(runs, all_args)
    with exit_on_broken_image():
        experts.train_warm_starts(runs)
        for run in runs:  # one, or one for each fold
            experts.warm_start(run)
            pretrained = ebc_args.pretrained and not run.initial_weights
            for expression in run.to_train:
                if expression == "all":  # --share_backbones, ours: all expressions in one network
                    experts.train_shared(run, pretrained, priors)
                    continue
                index = EXPRESSIONS.index(expression)
                is_expression, measured_on = run.train.labels == index, run.evaluation.labels == index  # (rows,)
                ensemble = run.create(expression, partial(BinaryEnsemble, config, pretrained))
                job = run.job(
                    expression, is_expression[:, None], **experts.expression_and_others(run.train, expression)
                )
                ensemble, outputs, record = loop.fit(
                    job, ensemble, ensemble_loss, experts.expression_figures(run.evaluation, expression),
                    experts.best_epoch_by(run),
                )  # fmt: skip
                log_odds = outputs["logits"]  # (rows, backbones)
                known = run.evaluation.known[:, index]
                calibration = fit_calibration(log_odds[known], measured_on[known], priors[index])
                experts.save_expert(run, job, ensemble, log_odds, calibration, record)
                del ensemble, job  # before the next one is made
            loop.evaluate_folder(run)
        loop.finish_runs(runs, args, repo_id)


def ensemble_loss(log_odds: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """BCE of (B, backbones) against (B, 1), summed over the backbones: each learns as if it were alone."""
    classifiers = log_odds.shape[1]
    return F.binary_cross_entropy_with_logits(log_odds, targets.expand_as(log_odds)) * classifiers


if __name__ == "__main__":
    run_script(main, NETWORKS_KEPT)
