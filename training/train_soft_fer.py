#!/usr/bin/env python
"""Train a Soft-FER model: one network that gives the soft label of a face at once.

    accelerate launch training/train_soft_fer.py --data_dir R --soft_labels runs/soft --output_dir runs/soft_fer
    accelerate launch training/train_soft_fer.py --data_dir R --target hard --output_dir runs/softmax

--target says what it learns: `soft`, the scores as they are (sigmoid, BCE); `distribution`, the scores divided by their
sum (softmax, cross-entropy); `hard`, the human label alone (softmax, cross-entropy), the classifier that everybody
trains. Its folder can start an EBC or AU experts (their --init_from).
"""

import hashlib
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from huggingface_hub.errors import HfHubHTTPError as HTTPError
from torch import nn

from affectnet_plus import EXPRESSIONS
from modeling import (
    SoftFerConfig,
    SoftFerForImageClassification,
    check_backbone,
    create_backbone,
    log_odds_of_softmax,
    network_input,
    soft_fer_loss,
)
from training.arguments import (
    FoldArguments,
    NetworkArguments,
    OptimizationArguments,
    TrainingDataArguments,
    parse_arguments,
    stop,
)
from training.checkpoints import written_beside
from training.data import Split, load_splits, read_soft_labels
from training.experts import (
    Run,
    create_accelerator,
    finish_network,
    plan_runs,
    start_pushing,
    train_network,
    train_runs,
)
from training.metrics import js_divergence

PART = "all"  # expressions at once


@dataclass
class SoftFerArguments(NetworkArguments):
    """What is trained, and towards what."""

    backbone: str = field(default=SoftFerConfig().backbone, metadata={"help": "timm name."})
    target: str = field(
        default="soft",
        metadata={
            "help": "Learn soft labels as they are, as distributions, or hard human labels.",
            "choices": ["soft", "distribution", "hard"],
        },
    )
    soft_labels: str | None = field(
        default=None,
        metadata={"help": "Folder that label.py wrote. Default: the dataset's own, --soft_label_column_name."},
    )

    def __post_init__(self):
        super().__post_init__()
        if self.soft_labels and self.target == "hard":
            raise ValueError("--target hard learns human labels only: leave --soft_labels out.")


def main():
    data_args, args, fold_args, model_args = all_args = parse_arguments(
        TrainingDataArguments, OptimizationArguments, FoldArguments, SoftFerArguments,
        description=__doc__.split("\n\n")[0],
    )  # fmt: skip
    # Everything the user can mend is said here, before any long work.
    try:
        activation = "sigmoid" if model_args.target == "soft" else "softmax"
        config = SoftFerConfig(backbone=model_args.backbone, activation=activation, **model_args.input_settings())
        check_backbone(config.backbone, config.image_size)
        accelerator = create_accelerator(args, fold_args)
        with accelerator.main_process_first():  # the others find the cache
            if model_args.pretrained:
                create_backbone(config.backbone, len(EXPRESSIONS), config.image_size, pretrained=True)
            train, evaluation = load_splits(data_args, with_soft_labels=model_args.target != "hard")
        if model_args.soft_labels:
            train.soft_labels = read_soft_labels(model_args.soft_labels, train)
        if model_args.target != "hard" and train.soft_labels is None:
            raise ValueError(
                f"{train.name} has no soft labels: make them by label.py and name its folder by --soft_labels, name "
                "their column by --soft_label_column_name, or take --target hard."
            )
        if model_args.target == "distribution" and not train.soft_labels.any(axis=1).all():
            raise ValueError(
                f"--target distribution: {int((~train.soft_labels.any(axis=1)).sum())} rows of {train.name} have only "
                "zeros as soft label, which is no distribution: leave them out, or take --target soft."
            )
        source = {}
        if model_args.target != "hard":
            digest = hashlib.sha256(train.soft_labels.astype("float32").tobytes()).hexdigest()[:16]
            source = {
                "soft_labels": "label.py" if model_args.soft_labels else "of the data",
                "soft_labels_sha256": digest,
            }
        runs = plan_runs(
            accelerator, data_args, args, fold_args, model_args, config, SoftFerForImageClassification, [PART], train,
            evaluation, source,
        )  # fmt: skip
        repo_id = start_pushing(accelerator, args, fold_args)
    except (ValueError, OSError, ImportError, HTTPError) as error:
        stop(error)
    train_runs(runs, partial(train_model, model_args=model_args), all_args, repo_id)


def train_model(run: Run, part: str, model_args: SoftFerArguments) -> None:
    config = run.config
    targets = [targets_of(split, model_args.target) for split in (run.train, run.evaluation)]
    network, outputs, record = train_network(
        run, part, 0,
        partial(Network, config, pretrained=model_args.pretrained),
        partial(soft_fer_loss, activation=config.activation),
        *targets,
        groups=[np.arange(len(run.train))],
        measure=partial(figures, config=config, evaluation=run.evaluation),
    )  # fmt: skip
    config.training = {part: run.settings | {"sampler": record} | figures(outputs, config, run.evaluation)}

    def save(bare: Network) -> None:
        model = SoftFerForImageClassification(config)
        model.backbone = bare.backbone.cpu()
        with written_beside(run.output_dir) as folder:
            model.save_pretrained(folder)

    finish_network(run, part, network, save)


class Network(nn.Module):
    """pixel_values (B, 3, H, W) -> (B, 8), before the activation."""

    def __init__(self, config: SoftFerConfig, pretrained: bool):
        super().__init__()
        self.config = config
        self.backbone = create_backbone(config.backbone, len(config.expressions), config.image_size, pretrained)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.backbone(network_input(pixel_values, self.config)).float()


def targets_of(split: Split, target: str) -> np.ndarray:
    """(rows, 8) float32. Rows to measure on may have no soft labels; their targets are not learned."""
    if target == "hard" or split.soft_labels is None:
        return np.eye(len(EXPRESSIONS), dtype="float32")[split.labels]
    soft_labels = split.soft_labels.astype("float32")
    return soft_labels if target == "soft" else soft_labels / soft_labels.sum(axis=1, keepdims=True)


def figures(outputs: np.ndarray, config: SoftFerConfig, evaluation: Split) -> dict[str, float]:
    """Accuracy, and where there are soft labels the divergence from them."""
    log_odds = torch.from_numpy(outputs)
    if config.activation == "softmax":
        log_odds = log_odds_of_softmax(log_odds)
    result = {"accuracy": float((outputs.argmax(axis=1) == evaluation.labels).mean())}
    if evaluation.soft_labels is not None:
        result["js_divergence"] = js_divergence(log_odds.sigmoid().numpy(), evaluation.soft_labels)
    return result


if __name__ == "__main__":
    main()
