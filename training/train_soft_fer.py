#!/usr/bin/env python
"""Train a Soft-FER model: one network that gives the soft label of a face at once.

    accelerate launch training/train_soft_fer.py --data_dir R --soft_labels runs/soft --output_dir runs/soft_fer
    accelerate launch training/train_soft_fer.py --data_dir R --target hard --output_dir runs/softmax
    accelerate launch training/train_soft_fer.py --data_dir R --teacher runs/soft/model --output_dir runs/student

--target says what it learns: `soft`, the scores as they are (sigmoid, BCE); `distribution`, the scores divided by their
sum (softmax; cross-entropy, which is the KL divergence but for a constant); `hard`, the human label alone (softmax,
cross-entropy), the classifier that everybody trains; `mixed`, distribution and human label, weighted by --hard_weight.
Its folder can start an EBC or AU experts (their --init_from).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub.errors import HfHubHTTPError as HTTPError
from torch import Tensor, nn
from transformers import AutoModelForImageClassification

from affectnet_plus import EXPRESSIONS, SUBSETS
from affectnet_plus.modeling import (
    SoftFerConfig,
    SoftFerForImageClassification,
    SoftLabelModel,
    check_backbone,
    create_backbone,
    log_odds_of_softmax,
    network_input,
    soft_fer_loss,
)
from affectnet_plus.training.arguments import (
    FoldArguments,
    NetworkArguments,
    OptimizationArguments,
    TrainingDataArguments,
    parse_arguments,
    stop,
)
from affectnet_plus.training.checkpoints import written_beside
from affectnet_plus.training.data import Split, columns_of, known_truth, load_splits, read_soft_labels, timm_policy
from affectnet_plus.training.evaluate_model import EvaluationArguments, evaluate, load_model
from affectnet_plus.training.experts import (
    Run,
    create_accelerator,
    finish_network,
    main_process_prepares,
    plan_runs,
    start_pushing,
    train_network,
    train_runs,
)
from affectnet_plus.training.initial_weights import normalization_of_start
from affectnet_plus.training.metrics import HumanLabels, ValenceArousal, defined, js_divergence
from affectnet_plus.training.reports import write_comparison

PART = "all"  # expressions at once
SOFT_LABELS_COLUMNS = ("posterior", "soft_label", "ebc", "au")
BEST = {"accuracy": 1, "macro_f1": 1, "js_divergence": -1, "ccc": 1}  # 1: the higher the better


@dataclass
class SoftFerArguments(NetworkArguments):
    """What is trained, and towards what."""

    backbone: str = field(default=SoftFerConfig().backbone, metadata={"help": "timm name."})
    target: str = field(
        default="soft",
        metadata={
            "help": "Learn soft labels as they are, as distributions, hard human labels, or distributions and human "
            "labels mixed.",
            "choices": ["soft", "distribution", "hard", "mixed"],
        },
    )
    hard_weight: float = field(default=0.5, metadata={"help": "Of --target mixed: the human label's share."})
    soft_labels: str | None = field(
        default=None,
        metadata={"help": "Folder that label.py wrote. Default: the dataset's own, --soft_label_column_name."},
    )
    soft_labels_column: str | None = field(
        default=None,
        metadata={
            "help": "Which column of --soft_labels: the experts' soft_label, or the posterior after the human label, "
            "too. Default: posterior where the folder has it.",
            "choices": list(SOFT_LABELS_COLUMNS),
        },
    )
    teacher: str | None = field(
        default=None,
        metadata={
            "help": "Distil one of our models (folder or Hub id): what it sees in the augmented face takes the place "
            "of the target, or the share --teacher_weight of it."
        },
    )
    teacher_weight: float = field(default=1.0, metadata={"help": "The teacher's share in the target, 0 to 1."})
    valence_arousal: bool = field(
        default=False, metadata={"help": "Learn valence and arousal as well, where the dataset has them."}
    )
    valence_arousal_weight: float = field(
        default=1.0, metadata={"help": "Weight of their mean squared error in the loss."}
    )
    mirrored: bool = field(
        default=False,
        metadata={
            "help": "The finished model looks at each face and its mirror image: better scores at twice the time."
        },
    )
    subset: list[str] = field(
        default_factory=list, metadata={"help": f"Train on these subsets only: {' '.join(SUBSETS)}. Default: all."}
    )
    by_subset: bool = field(
        default=False,
        metadata={
            "help": "The design of the paper's baseline experiment (its network: --backbone resnet50): train on easy, "
            "challenging, difficult and all faces, into folders of those names, and measure each on the whole "
            "validation set."
        },
    )
    sampler: str = field(
        default="none",
        metadata={
            "help": "Draw faces as they come, each expression as often as any other, or by the square root of their "
            "number.",
            "choices": ["none", "balanced", "square_root"],
        },
    )
    mixup_alpha: float = field(
        default=0.0, metadata={"help": "Mix faces and targets in pairs, by a share from Beta(alpha, alpha); 0: not."}
    )
    auto_augment: str = field(
        default="",
        metadata={
            "help": "A policy of timm, e.g. rand-m9-mstd0.5-inc1, in place of affine, light and contrast; flip and "
            "erasing stay."
        },
    )
    metric_for_best_model: str | None = field(
        default=None,
        metadata={"help": "Keep the weights of the epoch that is best by this, not the last.", "choices": list(BEST)},
    )

    def __post_init__(self):
        super().__post_init__()
        if self.soft_labels and self.target == "hard":
            raise ValueError("--target hard learns human labels only: leave --soft_labels out.")
        if self.soft_labels_column and not self.soft_labels:
            raise ValueError("--soft_labels_column is one of a folder that label.py wrote: name it by --soft_labels.")
        if self.teacher and self.teacher_weight == 1 and (self.soft_labels or self.target in ("hard", "mixed")):
            what = "--soft_labels" if self.soft_labels else f"--target {self.target}"
            raise ValueError(f"--teacher at its full weight leaves nothing of {what}: give a --teacher_weight below 1.")
        if self.valence_arousal_weight < 0:
            raise ValueError(f"--valence_arousal_weight is at least 0, not {self.valence_arousal_weight}.")
        for name in ("hard_weight", "teacher_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"--{name} is a share from 0 to 1, not {getattr(self, name)}.")
        if self.mixup_alpha < 0:
            raise ValueError(f"--mixup_alpha is at least 0, not {self.mixup_alpha}.")
        if self.by_subset and self.subset:
            raise ValueError("--by_subset trains on every subset in turn: leave --subset out.")
        if unknown := [name for name in self.subset if name not in SUBSETS]:
            raise ValueError(f"--subset knows {', '.join(SUBSETS)}, not {unknown[0]!r}.")
        if self.metric_for_best_model == "ccc" and not self.valence_arousal:
            raise ValueError("--metric_for_best_model ccc is that of valence and arousal: give --valence_arousal, too.")
        if self.auto_augment:
            timm_policy(self.auto_augment, self.image_size, (0.5, 0.5, 0.5))

    @property
    def learns_soft_labels(self) -> bool:
        return self.target != "hard" and not (self.teacher and self.teacher_weight == 1)


def main():
    data_args, args, fold_args, model_args = all_args = parse_arguments(
        TrainingDataArguments, OptimizationArguments, FoldArguments, SoftFerArguments,
        description=__doc__.split("\n\n")[0],
    )  # fmt: skip
    # Everything the user can mend is said here, before any long work.
    try:
        config = SoftFerConfig(
            backbone=model_args.backbone,
            activation="sigmoid" if model_args.target == "soft" else "softmax",
            valence_arousal=model_args.valence_arousal,
            mirrored=model_args.mirrored,
            **model_args.input_settings(),
            backbone_normalization=normalization_of_start(model_args, [model_args.backbone]),
        )
        check_backbone(config.backbone, config.network_size)
        if model_args.metric_for_best_model and args.eval_strategy == "no":
            raise ValueError("--metric_for_best_model needs --eval_strategy epoch.")
        if model_args.by_subset and (args.push_to_hub or fold_args.num_folds):
            raise ValueError("--by_subset makes four models: leave --push_to_hub and --num_folds out.")
        if model_args.by_subset and args.resume_from_checkpoint not in (None, "latest"):
            raise ValueError("--resume_from_checkpoint FOLDER is of one of the four models: say 'latest'.")
        if model_args.teacher and fold_args.num_folds:
            raise ValueError("A --teacher has seen the rows that folds leave out: give --soft_labels instead.")
        teacher = load_teacher(model_args, config)
        args = args.with_recipe("Soft-FER", model_args.pretrained)
        taught_by = {"teacher": f"{Path(model_args.teacher).name} (sha256 {digest_of(teacher)})"} if teacher else {}
        accelerator = create_accelerator(args, fold_args)
        with main_process_prepares(accelerator):  # the others find the cache
            if model_args.pretrained:
                create_backbone(config.backbone, len(EXPRESSIONS), config.network_size, pretrained=True)
            train, evaluation = load_splits(data_args, with_soft_labels=model_args.target != "hard")
        if model_args.metric_for_best_model == "js_divergence" and evaluation.soft_labels is None:
            raise ValueError(f"--metric_for_best_model js_divergence: {evaluation.name} has no soft labels.")
        if model_args.valence_arousal:
            check_affect(evaluation)
        runs, wanted = [], {"": model_args.subset}
        if model_args.by_subset:
            wanted = {**{name: [name] for name in SUBSETS}, "all": []}
        for folder, subsets in wanted.items():
            rows = of_subset(train, subsets)
            if model_args.valence_arousal:
                check_affect(rows)
            source = add_soft_labels(rows, model_args) if model_args.learns_soft_labels else {}
            runs += plan_runs(
                accelerator, data_args, replace(args, output_dir=str(Path(args.output_dir) / folder)), fold_args,
                replace(model_args, subset=subsets, by_subset=False), config, SoftFerForImageClassification, [PART],
                rows, evaluation, source | taught_by,
            )  # fmt: skip
        repo_id = start_pushing(accelerator, args, fold_args)
    except (ValueError, OSError, ImportError, HTTPError) as error:
        stop(error)
    compare = partial(compare_subsets, data_args=data_args) if model_args.by_subset else None
    train_runs(runs, partial(train_model, model_args=model_args, teacher=teacher), all_args, repo_id, compare)


def compare_subsets(runs: list[Run], data_args) -> None:
    """A report for each model, and by_subset.md and by_subset.html with all of them side by side."""
    accelerator, args, split = runs[0].accelerator, runs[0].args, runs[0].evaluation
    known = known_truth(split, data_args)
    results = {}
    for run in runs:
        name = run.output_dir.name
        asked = EvaluationArguments(model=str(run.output_dir), output_dir=str(run.output_dir / "report"))
        asked.per_device_batch_size, asked.dataloader_num_workers = (
            args.per_device_eval_batch_size, args.dataloader_num_workers,
        )  # fmt: skip
        results[name] = evaluate(accelerator, data_args, asked, load_model(asked), split, *known)
    if accelerator.is_main_process:
        rows = {run.output_dir.name: len(run.train) for run in runs}
        with written_beside(Path(args.output_dir).parent) as folder:
            network = f"{runs[0].config.backbone}, --target {runs[0].settings['target']}"
            print(write_comparison(folder, results, rows, network))


def load_teacher(model_args: SoftFerArguments, config: SoftFerConfig) -> SoftLabelModel | None:
    if not model_args.teacher:
        return None
    try:
        teacher = AutoModelForImageClassification.from_pretrained(model_args.teacher, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--teacher {model_args.teacher} holds no model ({str(error).splitlines()[0]}). One that label.py fused "
            "lies in its folder as `model`; where it was cross-fitted, give its labels instead, by --soft_labels."
        ) from error
    if not isinstance(teacher, SoftLabelModel) or tuple(teacher.config.expressions) != EXPRESSIONS:
        raise ValueError(f"--teacher {model_args.teacher} is not one of our models with all eight expressions.")
    for name in ("image_size", "image_mean", "image_std"):
        ours, theirs = (getattr(c, name) for c in (config, teacher.config))
        if np.any(np.not_equal(ours, theirs)):
            raise ValueError(
                f"--teacher {model_args.teacher} has {name} {theirs}, this model {ours}, and both look at the same "
                "pixels: train with that one, or let label.py write its labels and give those by --soft_labels."
            )
    return teacher.eval().requires_grad_(False)


def digest_of(model: nn.Module) -> str:
    """Of its weights: cards and versions of libraries may change."""
    digest = hashlib.sha256()
    for _, weights in sorted(model.state_dict().items()):
        digest.update(weights.float().numpy().tobytes())
    return digest.hexdigest()[:16]


def of_subset(split: Split, subsets: list[str]) -> Split:
    if not subsets:
        return split
    if split.metadata is None or "subset" not in split.metadata.features:
        raise ValueError(f"--subset {' '.join(subsets)}: {split.name} has no column `subset`.")
    wanted = [SUBSETS.index(name) for name in subsets]
    rows = np.flatnonzero(np.isin([-1 if s is None else s for s in split.metadata["subset"][:]], wanted))
    if not len(rows):
        raise ValueError(f"No row of {split.name} is {' or '.join(subsets)}, of {len(split)} rows.")
    return split.select(rows)


def check_affect(split: Split) -> None:
    for name, values in zip(("valence", "arousal"), split.affect().T, strict=True):
        if not np.isfinite(values).any():
            raise ValueError(f"--valence_arousal: {split.name} has no numbers in a column called {name}.")


def add_soft_labels(train: Split, model_args: SoftFerArguments) -> dict:
    """Put what is learned in place; returns what the record says of it."""
    record = {"soft_labels": "of the data"}
    if folder := model_args.soft_labels:
        held = columns_of(folder, train.name)
        column = model_args.soft_labels_column or ("posterior" if "posterior" in held else "soft_label")
        train.soft_labels = read_soft_labels(folder, train, column)
        record = {"soft_labels": "label.py", "soft_labels_column": column}
    if train.soft_labels is None:
        raise ValueError(
            f"{train.name} has no soft labels: make them by label.py and name its folder by --soft_labels, name "
            "their column by --soft_label_column_name, or take --target hard."
        )
    empty = ~train.soft_labels.any(axis=1)
    if model_args.target != "soft" and empty.any():
        raise ValueError(
            f"--target {model_args.target}: {int(empty.sum())} rows of {train.name} have only zeros as soft label, "
            "which is no distribution: leave them out, or take --target soft."
        )
    digest = hashlib.sha256(train.soft_labels.astype("float32").tobytes()).hexdigest()[:16]
    return record | {"soft_labels_sha256": digest}


def train_model(run: Run, part: str, model_args: SoftFerArguments, teacher: SoftLabelModel | None) -> None:
    config = run.config
    best = model_args.metric_for_best_model
    groups, turns = groups_of(run.train.labels, model_args.sampler)
    network, outputs, record = train_network(
        run, part, 0,
        partial(Network, config, pretrained=model_args.pretrained),
        partial(loss_of, config=config, valence_arousal_weight=model_args.valence_arousal_weight),
        targets_of(run.train, model_args),
        groups=groups,
        measure=partial(figures, config=config, evaluation=run.evaluation),
        turns=turns,
        auto_augment=model_args.auto_augment,
        alter_batch=batch_alteration(model_args, teacher, run.accelerator),
        best_by=(best, BEST[best]) if best else None,
    )  # fmt: skip
    measured = defined(figures(outputs, config, run.evaluation))
    record = run.settings | {"drawn": record}
    config.training = {part: record | ({"without_mirror_image": measured} if config.mirrored else measured)}

    def save(bare: Network) -> None:
        model = SoftFerForImageClassification(config)
        model.backbone = bare.backbone.cpu()
        with written_beside(run.output_dir) as folder:
            model.save_pretrained(folder)

    finish_network(run, part, network, save)


class Network(nn.Module):
    """pixel_values (B, 3, H, W) -> (B, 8), before the activation; with valence and arousal (B, 10)."""

    def __init__(self, config: SoftFerConfig, pretrained: bool):
        super().__init__()
        self.config = config
        self.backbone = create_backbone(config.backbone, config.num_outputs, config.network_size, pretrained)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.backbone(network_input(pixel_values, self.config)).float()


def loss_of(
    outputs: Tensor, targets: Tensor, config: SoftFerConfig, valence_arousal_weight: float, known: Tensor | None = None
) -> Tensor:
    """Outputs and targets (B, 8), or (B, 10) with valence and arousal, which may be NaN; their errors are divided by
    the number that is `known` (10,), as in `multi_head_loss`."""
    (expressions, affect), (of_expressions, of_affect) = (
        x.tensor_split([len(EXPRESSIONS)], 1) for x in (outputs, targets)
    )
    loss = soft_fer_loss(expressions, of_expressions, config.activation)
    if config.valence_arousal:
        is_known = ~of_affect.isnan()
        number = (is_known if known is None else known[len(EXPRESSIONS) :]).sum()
        errors = F.mse_loss(affect.tanh(), of_affect.nan_to_num(), reduction="none") * is_known
        loss = loss + valence_arousal_weight * errors.sum() / number.clamp(min=1e-6)  # 0 / 0 is 0
    return loss


def groups_of(labels: np.ndarray, sampler: str) -> tuple[list[np.ndarray], list[int] | None]:
    """Groups to draw from, and how often each in a round."""
    if sampler == "none":
        return [np.arange(len(labels))], None
    groups = [rows for i in range(len(EXPRESSIONS)) if len(rows := np.flatnonzero(labels == i))]
    if sampler == "balanced":
        return groups, None
    roots = np.sqrt([len(rows) for rows in groups])
    return groups, np.maximum(1, np.rint(200 * roots / roots.sum())).astype(int).tolist()


def batch_alteration(model_args: SoftFerArguments, teacher: SoftLabelModel | None, accelerator) -> Callable | None:
    """Mixup, then the teacher's view of what came of it: (pixel_values, targets, seed) -> the same two."""
    if not (teacher or model_args.mixup_alpha):
        return None
    if teacher:
        teacher.to(accelerator.device)

    @torch.no_grad()
    def alter(pixel_values: Tensor, targets: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        if model_args.mixup_alpha:
            rng = np.random.default_rng(seed)
            share = rng.beta(model_args.mixup_alpha, model_args.mixup_alpha)
            partners = torch.from_numpy(rng.permutation(len(targets))).to(targets.device)
            pixel_values = pixel_values.lerp(pixel_values[partners], 1 - share)
            targets = targets.lerp(targets[partners], 1 - share)
        if teacher:
            with accelerator.autocast():
                seen = teacher(pixel_values).logits.float().sigmoid()
            if model_args.target != "soft":
                seen = seen / seen.sum(dim=1, keepdim=True)
            of_expressions, of_affect = targets.tensor_split([len(EXPRESSIONS)], dim=1)
            targets = torch.cat([of_expressions.lerp(seen, model_args.teacher_weight), of_affect], dim=1)
        return pixel_values, targets

    return alter


def targets_of(split: Split, model_args: SoftFerArguments) -> np.ndarray:
    """(rows, 8) float32, or (rows, 10) with valence and arousal, NaN where unknown. Where a teacher says everything,
    rows may have no soft labels: their human label stands in, unlearned."""
    human = np.eye(len(EXPRESSIONS), dtype="float32")[split.labels]
    targets = human
    if model_args.target != "hard" and split.soft_labels is not None:
        targets = split.soft_labels.astype("float32")
        if model_args.target != "soft":
            targets = targets / np.maximum(targets.sum(axis=1, keepdims=True), 1e-12)
        if model_args.target == "mixed":
            targets = model_args.hard_weight * human + (1 - model_args.hard_weight) * targets
    return np.hstack([targets, split.affect()]) if model_args.valence_arousal else targets


def figures(outputs: np.ndarray, config: SoftFerConfig, evaluation: Split) -> dict[str, float]:
    """Accuracy and macro F1, where there are soft labels the divergence from them, and the mean concordance of valence
    and arousal."""
    outputs, affect = np.split(outputs, [len(EXPRESSIONS)], axis=1)
    log_odds = torch.from_numpy(outputs)
    if config.activation == "softmax":
        log_odds = log_odds_of_softmax(log_odds)
    human = HumanLabels(EXPRESSIONS, keep_in_memory=True).compute(
        predictions=outputs.argmax(axis=1).tolist(), references=evaluation.labels.tolist()
    )
    result = {name: human[name] for name in ("accuracy", "macro_f1")}
    if evaluation.soft_labels is not None:
        result["js_divergence"] = js_divergence(log_odds.sigmoid().numpy(), evaluation.soft_labels)
    if config.valence_arousal:
        near = ValenceArousal(keep_in_memory=True).compute(
            predictions=np.tanh(affect).tolist(), references=evaluation.affect().tolist()
        )
        result["ccc"] = float(np.mean([near[name]["ccc"] for name in ("valence", "arousal")]))
    return result


if __name__ == "__main__":
    main()
