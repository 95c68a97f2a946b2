#!/usr/bin/env python
"""Train AU experts: per expression one network that learns its action units and the expression together, one-vs-rest
(AffectNet+, arXiv 2410.22506, Fig. 3).

    accelerate launch training/train_au.py --data_dir /data/AffectNet+ --output_dir runs/au
    accelerate launch training/train_au.py --data_dir /data/AffectNet+ --au_labels openface.csv --output_dir runs/au

Action units come from a table that OpenFace 2, LibreFace or py-feat wrote (--au_labels), joined on split and file name;
without one, from the EMFACS prototype of each row's human label, which is a guess. Everything else is as in
train_ebc.py: expressions are independent, --jobs expressions gives each process its own, and --num_folds trains experts
for cross-fitting.
"""

from dataclasses import dataclass, field
from functools import partial

import numpy as np

from affectnet_plus import EXPRESSIONS
from affectnet_plus.modeling import (
    AUConfig,
    AUForImageClassification,
    MultiHeadClassifier,
    check_backbone,
    multi_head_loss,
)
from affectnet_plus.training import experts, loop
from affectnet_plus.training.action_units import ActionUnitTable, load_table, presence_auroc, prototype_targets
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
from affectnet_plus.training.faces import Split, load_splits
from affectnet_plus.training.loop import Run
from affectnet_plus.training.loop.initial_weights import normalization_of_start
from affectnet_plus.training.soft_labels.calibration import class_frequencies, fit_calibration, prior_numbers


@dataclass
class AUArguments(ExpertArguments):
    """What is trained."""

    backbone: str = field(default=AUConfig().backbone, metadata={"help": "timm name. Default: the paper's."})
    au_labels: list[str] = field(
        default_factory=list,
        metadata={
            "help": "CSV or Parquet of action units as OpenFace 2, LibreFace or py-feat write it, a folder with a CSV "
            "for each image, or a synthetic release's ground_truth.parquet; one for all rows, or one for those of "
            "training and one for those of validation. Default: the EMFACS prototype of the human label."
        },
    )
    au_target: str = field(
        default="intensity",
        metadata={
            "help": "What the heads learn where the table has both: intensity (a fifth of it) or presence.",
            "choices": ["intensity", "presence"],
        },
    )
    au_strongest: int | None = field(
        default=None,
        metadata={
            "help": "The highest intensity on the table's scale. Default: 5, FACS's; of a table in which none is above "
            "1 it has to be said.",
            "choices": [1, 5],
        },
    )
    au_loss_weight: float = field(
        default=1.0, metadata={"help": "Loss = BCE of the expression + this * mean BCE of its action units."}
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.au_loss_weight >= 0:
            raise ValueError(f"--au_loss_weight is at least 0, not {self.au_loss_weight}.")


def main():
    data_args, args, fold_args, au_args = all_args = parse_arguments(
        TrainingDataArguments, OptimizationArguments, FoldArguments, AUArguments, description=__doc__.split("\n\n")[0]
    )
    with exit_on_error():
        config = AUConfig(
            backbone=au_args.backbone, shared_backbones=au_args.share_backbones, **au_args.input_settings(),
            backbone_normalization=normalization_of_start(au_args, [au_args.backbone]),
        )  # fmt: skip
        check_backbone(config.backbone, config.network_size)
        args = args.with_recipe("experts", au_args.pretrained)
        share = loop.share_of_jobs(au_args.jobs, args)
        accelerator = loop.create_accelerator(args, share)
        with loop.main_process_prepares(accelerator):  # the others find the cache
            if au_args.pretrained:
                MultiHeadClassifier(config, EXPRESSIONS[0], pretrained=True)
        train, evaluation = loop.once_per_machine(accelerator, partial(load_splits, data_args))
        loop.cache_faces(accelerator, [train, evaluation], config.image_size, args.cache_images)
        config = experts.fit_to_data(config, au_args, train.expressions)
        table = None
        if au_args.au_labels:
            splits = (train.name, evaluation.name)
            table = load_table(au_args.au_labels, au_args.au_target, config.action_units, splits, au_args.au_strongest)
            table.check_names(train, evaluation)
            report = [*table.notes, table.join(train), table.join(evaluation)]
            if accelerator.is_main_process:
                print("\n".join(report))
        source = {"au_labels": "EMFACS prototypes"}
        if table is not None:
            source = {"au_labels": f"{table.name} ({table.source})", "au_labels_sha256": table.sha256}
            source["au_target"] = au_args.au_target
        frequencies = {
            name: class_frequencies(rows.labels, rows.known)
            for name, rows in (("train", train), ("validation", evaluation))
        }
        priors = prior_numbers(au_args.prior, frequencies.get, train.expressions)  # of all rows: all folds share it
        runs = loop.plan_runs(
            accelerator, data_args, args, fold_args, au_args, config, AUForImageClassification, au_args.expressions,
            train, evaluation, source, share,
        )  # fmt: skip
        experts.plan_warm_starts(runs, au_args)
        repo_id = loop.create_private_repo(accelerator, args, fold_args)

    loop.start_trackers(runs, all_args)
    loss = partial(multi_head_loss, au_loss_weight=au_args.au_loss_weight)
    with exit_on_broken_image():
        experts.train_warm_starts(runs)
        for run in runs:  # one, or one for each fold
            experts.warm_start(run)
            pretrained = au_args.pretrained and not run.initial_weights
            for expression in run.to_train:
                if expression == "all":  # --share_backbones, ours: all expressions in one network
                    units = [targets_of(run.train, e, config.action_units[e], table)[:, 1:] for e in config.expressions]
                    figures = partial(unit_figures, run, table)
                    experts.train_shared(run, pretrained, priors, units, au_args.au_loss_weight, figures)
                    continue
                index, units = EXPRESSIONS.index(expression), config.action_units[expression]
                measured_on = run.evaluation.labels == index  # (rows,)
                network = run.create(expression, partial(MultiHeadClassifier, config, expression, pretrained))
                targets = targets_of(run.train, expression, units, table)  # (rows, 1 + units)
                job = run.job(expression, targets, **experts.expression_and_others(run.train, expression))
                network, outputs, record = loop.fit(
                    job, network, loss, experts.expression_figures(run.evaluation, expression, slice(1)),
                    experts.best_epoch_by(run),
                )  # fmt: skip
                log_odds, of_units = outputs["logits"][:, :1], outputs["logits"][:, 1:]
                known = run.evaluation.known[:, index]
                calibration = fit_calibration(log_odds[known], measured_on[known], priors[index])
                figures = unit_figures(run, table, expression, of_units)
                experts.save_expert(run, job, network, log_odds, calibration, record, figures)
                del network, job  # before the next one is made
            loop.evaluate_folder(run)
        loop.finish_runs(runs, args, repo_id)


def targets_of(split: Split, expression: str, units: list[int], table: ActionUnitTable | None) -> np.ndarray:
    """(rows, 1 + units): is it the expression, and how strong is each of its units."""
    of_units = prototype_targets(split.labels, units) if table is None else table.targets(split, units)
    return np.column_stack([split.labels == EXPRESSIONS.index(expression), of_units]).astype("float32")


def unit_figures(run: Run, table: ActionUnitTable | None, expression: str, log_odds: np.ndarray) -> dict:
    """For the expert's record: how well its units' log-odds (rows, units) tell validation faces that show them."""
    units = run.config.action_units[expression]
    targets = targets_of(run.evaluation, expression, units, table)[:, 1:]
    return {"au_auroc": presence_auroc(targets, log_odds, units, table)} if units else {}


if __name__ == "__main__":
    run_script(main, NETWORKS_KEPT)
