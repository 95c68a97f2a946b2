#!/usr/bin/env python
"""Train AU experts: per expression one network that learns its action units and the expression together, one-vs-rest
(AffectNet+, arXiv 2410.22506, Fig. 3).

    accelerate launch training/train_au.py --data_dir /data/AffectNet+ --output_dir runs/au
    accelerate launch training/train_au.py --data_dir /data/AffectNet+ --au_labels openface.csv --output_dir runs/au

Action units come from a table that OpenFace 2, LibreFace or py-feat wrote (--au_labels), joined on split and file name;
without one, from the EMFACS prototype of each row's human label, which is a guess. Everything else is as in
train_ebc.py: expressions are independent, and --num_folds trains experts for cross-fitting.
"""

from dataclasses import dataclass, field
from functools import partial

import numpy as np
from huggingface_hub.errors import HfHubHTTPError as HTTPError

from affectnet_plus import EXPRESSIONS, match_expressions
from affectnet_plus.modeling import (
    AUConfig,
    AUForImageClassification,
    MultiHeadClassifier,
    check_backbone,
    multi_head_loss,
)
from affectnet_plus.training.action_units import ActionUnitTable, load_table, prototype_targets
from affectnet_plus.training.arguments import (
    ExpertArguments,
    FoldArguments,
    OptimizationArguments,
    TrainingDataArguments,
    parse_arguments,
    stop,
)
from affectnet_plus.training.calibration import prior_numbers
from affectnet_plus.training.data import Split, load_splits
from affectnet_plus.training.experts import (
    Run,
    create_accelerator,
    main_process_prepares,
    plan_runs,
    start_pushing,
    train_expert,
    train_runs,
)
from affectnet_plus.training.initial_weights import normalization_of_start
from affectnet_plus.training.warm_start import plan_warm_starts, warm_start


@dataclass
class AUArguments(ExpertArguments):
    """What is trained."""

    backbone: str = field(default=AUConfig().backbone, metadata={"help": "timm name. Default: the paper's."})
    au_labels: str | None = field(
        default=None,
        metadata={
            "help": "CSV or Parquet of action units as OpenFace 2, LibreFace or py-feat write it, or a synthetic "
            "release's ground_truth.parquet. Default: the EMFACS prototype of the human label."
        },
    )
    au_target: str = field(
        default="intensity",
        metadata={
            "help": "What the heads learn where the table has both: intensity (a fifth of it) or presence.",
            "choices": ["intensity", "presence"],
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
    # Everything the user can mend is said here, before any long work.
    try:
        expressions = [EXPRESSIONS[i] for i in sorted(match_expressions(au_args.expressions))]
        config = AUConfig(
            backbone=au_args.backbone, rest_outputs=au_args.rest_outputs, **au_args.input_settings(),
            backbone_normalization=normalization_of_start(au_args, [au_args.backbone]),
        )  # fmt: skip
        check_backbone(config.backbone, config.network_size)
        args = args.with_recipe("experts", au_args.pretrained)
        accelerator = create_accelerator(args, fold_args)
        with main_process_prepares(accelerator):  # the others find the cache
            if au_args.pretrained:
                MultiHeadClassifier(config, expressions[0], pretrained=True)
            train, evaluation = load_splits(data_args)
        table = load_table(au_args.au_labels, au_args.au_target, config.action_units) if au_args.au_labels else None
        if table is not None:
            table.check_names(train, evaluation)
            for split in (train, evaluation):
                report = table.join(split)
                if accelerator.is_main_process:
                    print(report)
        source = {"au_labels": "EMFACS prototypes"}
        if table is not None:
            source = {"au_labels": f"{table.name} ({table.source})", "au_labels_sha256": table.sha256}
            source["au_target"] = au_args.au_target
        labels = {"train": train.labels, "validation": evaluation.labels}
        priors = prior_numbers(au_args.prior, labels.get)  # of all rows: all folds share it
        runs = plan_runs(
            accelerator, data_args, args, fold_args, au_args, config, AUForImageClassification, expressions, train,
            evaluation, source,
        )  # fmt: skip
        plan_warm_starts(runs, au_args)
        repo_id = start_pushing(accelerator, args, fold_args)
    except (ValueError, OSError, ImportError, HTTPError) as error:
        stop(error)
    loss = partial(multi_head_loss, au_loss_weight=au_args.au_loss_weight)

    def train_part(run: Run, expression: str) -> None:
        create = partial(
            MultiHeadClassifier, config, expression, pretrained=au_args.pretrained and not run.initial_weights
        )
        targets = [targets_of(split, expression, config, table) for split in (run.train, run.evaluation)]
        units = config.action_units[expression]
        present_from = [table.present_from.get(unit, 0.5) if table else 0.5 for unit in units]
        train_expert(
            run, expression, priors[EXPRESSIONS.index(expression)], create, loss, *targets, slice(1), present_from
        )

    train_runs(runs, train_part, all_args, repo_id, prepare=warm_start)


def targets_of(split: Split, expression: str, config: AUConfig, table: ActionUnitTable | None) -> np.ndarray:
    """(rows, 1 + units): is it the expression, and how strong is each of its units."""
    units = config.action_units[expression]
    of_units = prototype_targets(split.labels, units) if table is None else table.targets(split, units)
    return np.column_stack([split.labels == EXPRESSIONS.index(expression), of_units]).astype("float32")


if __name__ == "__main__":
    main()
