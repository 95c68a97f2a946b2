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

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from affectnet_plus import EXPRESSIONS, SUBSETS, match_expressions
from affectnet_plus.modeling import (
    SoftFerConfig,
    SoftFerForImageClassification,
    check_backbone,
    create_backbone,
    log_odds_of_softmax,
    soft_fer_loss,
)
from affectnet_plus.training import loop
from affectnet_plus.training.arguments import (
    NETWORKS_KEPT,
    FoldArguments,
    OptimizationArguments,
    TrainingDataArguments,
    exit_on_broken_image,
    exit_on_error,
    parse_arguments,
    run_script,
)
from affectnet_plus.training.evaluate_model import EvaluationArguments, evaluate, of_expressions
from affectnet_plus.training.faces import Split, indices_among, known_truth, load_splits
from affectnet_plus.training.loop import Job, Run
from affectnet_plus.training.loop.folders import written_beside
from affectnet_plus.training.loop.initial_weights import normalization_of_start
from affectnet_plus.training.loop.predictions import load_model, predict_faces
from affectnet_plus.training.metrics import HumanLabels, ValenceArousal, js_divergence, nan_to_none
from affectnet_plus.training.reports import write_comparison
from affectnet_plus.training.soft_fer import (
    SoftFerArguments,
    add_soft_labels,
    batch_alteration,
    check_affect,
    complete_by_human_labels,
    digest_of,
    expressions_to_learn,
    groups_of,
    labelled_as,
    load_teacher,
    of_subset,
    targets_of,
    warn_of_absent_expressions,
)
from affectnet_plus.training.soft_fer.arguments import BEST


def main():
    data_args, args, fold_args, model_args = all_args = parse_arguments(
        TrainingDataArguments, OptimizationArguments, FoldArguments, SoftFerArguments,
        description=__doc__.split("\n\n")[0],
    )  # fmt: skip
    with exit_on_error():
        config = SoftFerConfig(
            backbone=model_args.backbone,
            activation="sigmoid" if model_args.target == "soft" else "softmax",
            valence_arousal=model_args.valence_arousal,
            tta=model_args.tta,
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
        accelerator = loop.create_accelerator(args)
        with loop.main_process_prepares(accelerator):  # the others find the cache
            if model_args.pretrained:
                create_backbone(config.backbone, len(EXPRESSIONS), config.network_size, pretrained=True)
        load = partial(
            load_splits,
            data_args,
            with_soft_labels=model_args.target != "hard",
            without_class=model_args.target in ("soft", "distribution"),
        )
        train, evaluation = loop.once_per_machine(accelerator, load)
        loop.cache_faces(accelerator, [train, evaluation], config.image_size, args.cache_images)
        if len(data_args.sources()) > 1 and (model_args.soft_labels or model_args.by_subset):
            raise ValueError("--soft_labels and --by_subset are of one dataset, and several are named: leave them out.")
        if model_args.learns_soft_labels and not model_args.soft_labels:
            complete_by_human_labels(train)
        model_args.expressions = names = expressions_to_learn(train, model_args, teacher)
        config = SoftFerConfig.from_dict(config.to_dict() | {"id2label": dict(enumerate(names))})
        train, evaluation = labelled_as(train, names), labelled_as(evaluation, names)
        if model_args.metric_for_best_model == "js_divergence" and evaluation.soft_labels is None:
            raise ValueError(f"--metric_for_best_model js_divergence: {evaluation.name} has no soft labels.")
        of_some = {"expressions": names} if len(names) < len(EXPRESSIONS) else {}
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
            if accelerator.is_main_process and not teacher:
                warn_of_absent_expressions(rows, model_args)
            runs += loop.plan_runs(
                accelerator, data_args, replace(args, output_dir=str(Path(args.output_dir) / folder)), fold_args,
                replace(model_args, subset=subsets, by_subset=False), config, SoftFerForImageClassification, ["all"],
                rows, evaluation, source | taught_by | of_some,
            )  # fmt: skip
        repo_id = loop.create_private_repo(accelerator, args, fold_args)

    loop.start_trackers(runs, all_args)
    loss = partial(soft_fer_targets_loss, valence_arousal_weight=model_args.valence_arousal_weight)
    best = model_args.metric_for_best_model
    with exit_on_broken_image():
        for run in runs:  # one, or one for each subset or fold
            for name in run.to_train:  # "all" expressions at once, where it is not finished yet
                groups, turns = groups_of(run.train.labels, model_args.sampler)
                create = partial(RawOutputs, run.config, model_args.pretrained)
                job = run.job(
                    name, targets_of(run.train, model_args), groups, turns, auto_augment=model_args.auto_augment
                )
                network, outputs, record = loop.fit(
                    job,
                    run.create(name, create),
                    partial(loss, config=run.config),
                    partial(figures, config=run.config, evaluation=run.evaluation),
                    (best, BEST[best]) if best else None,
                    batch_alteration(model_args, teacher, accelerator),
                )
                save_model(run, job, network, figures(outputs, run.config, run.evaluation), record)
                del network, job  # before the next one is made
            loop.evaluate_folder(run)
        if model_args.by_subset:
            compare_subsets(runs, data_args)
        loop.finish_runs(runs, args, repo_id)


def save_model(run: Run, job: Job, network: nn.Module, measured: dict[str, float], record: dict) -> None:
    measured = nan_to_none(measured)
    record = run.settings | {"drawn": record}
    training = {job.name: record | ({"without_tta": measured} if run.config.tta else measured)}

    def save(trained: RawOutputs) -> None:
        trained.model.config.training = training
        with written_beside(run.output_dir) as folder:
            trained.model.cpu().save_pretrained(folder)

    run.finish(job, network, save)


class RawOutputs(nn.Module):
    """A Soft-FER model as it is trained: pixel_values (B, 3, H, W) -> (B, expressions) before the activation, and two
    more with valence and arousal."""

    def __init__(self, config: SoftFerConfig, pretrained: bool = False):
        super().__init__()
        model = SoftFerForImageClassification(config, pretrained)
        self.backbone = model.backbone
        self.__dict__["model"] = model  # no submodule: its weights are the backbone's

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model.raw_outputs(pixel_values)


def soft_fer_targets_loss(
    outputs: Tensor, targets: Tensor, config: SoftFerConfig, valence_arousal_weight: float, known: Tensor | None = None
) -> Tensor:
    """Outputs and targets (B, expressions), or (B, expressions + 2) with valence and arousal, which may be NaN; their
    errors are divided by the number that is `known` (expressions + 2,), as in `multi_head_loss`."""
    (expressions, affect), (of_expressions, of_affect) = (
        x.tensor_split([config.num_labels], 1) for x in (outputs, targets)
    )
    loss = known_loss(expressions, of_expressions, config.activation)
    if config.valence_arousal:
        is_known = ~of_affect.isnan()
        number = (is_known if known is None else known[config.num_labels :]).sum()
        errors = F.mse_loss(affect.tanh(), of_affect.nan_to_num(), reduction="none") * is_known
        loss = loss + valence_arousal_weight * errors.sum() / number.clamp(min=1e-6)  # 0 / 0 is 0
    return loss


def known_loss(outputs: Tensor, targets: Tensor, activation: str) -> Tensor:
    """`soft_fer_loss` of (B, expressions); targets that are NaN count for nothing: a softmax is one of the others."""
    unknown = targets.isnan()
    if not unknown.any():
        return soft_fer_loss(outputs, targets, activation)
    if activation == "softmax":
        return soft_fer_loss(
            outputs.masked_fill(unknown, torch.finfo(outputs.dtype).min), targets.nan_to_num(), activation
        )
    errors = F.binary_cross_entropy_with_logits(outputs, targets.nan_to_num(), reduction="none")
    return errors.masked_fill(unknown, 0).mean()


def figures(outputs: dict[str, np.ndarray], config: SoftFerConfig, evaluation: Split) -> dict[str, float]:
    """Accuracy and macro F1, where there are soft labels the divergence from them, and the mean concordance of valence
    and arousal."""
    outputs, affect = np.split(outputs["logits"], [config.num_labels], axis=1)
    log_odds = torch.from_numpy(outputs)
    if config.activation == "softmax":
        log_odds = log_odds_of_softmax(log_odds)
    labels, columns = indices_among(config.expressions, evaluation.labels), match_expressions(config.expressions)
    predicted = np.where(evaluation.known[:, columns], outputs, -np.inf).argmax(axis=1)
    human = HumanLabels(config.expressions).compute(predictions=predicted, references=labels)
    result = {name: human[name] for name in ("accuracy", "macro_f1")}
    if evaluation.soft_labels is not None:
        result["js_divergence"] = js_divergence(log_odds.sigmoid().numpy(), evaluation.soft_labels[:, columns])
    if config.valence_arousal:
        near = ValenceArousal().compute(predictions=np.tanh(affect), references=evaluation.affect())
        result["ccc"] = float(np.mean([near[name]["ccc"] for name in ("valence", "arousal")]))
    return result


def compare_subsets(runs: list[Run], data_args) -> None:
    """A report for each model, and by_subset.md and by_subset.html with all of them side by side."""
    accelerator, args, split = runs[0].accelerator, runs[0].args, runs[0].evaluation
    expressions = runs[0].config.expressions
    split, known = of_expressions(expressions, split, *known_truth(split, data_args))
    results = {}
    for run in runs:
        name = run.output_dir.name
        asked = EvaluationArguments(model=[str(run.output_dir)], output_dir=str(run.output_dir / "report"))
        asked.expressions = expressions
        asked.per_device_batch_size, asked.dataloader_num_workers = (
            args.per_device_eval_batch_size, args.dataloader_num_workers,
        )  # fmt: skip
        predictions = predict_faces(accelerator, asked, load_model(asked.model[0], asked), split)
        results[name] = evaluate(accelerator, data_args, asked, predictions, split, *known)
    if accelerator.is_main_process:
        rows = {run.output_dir.name: len(run.train) for run in runs}
        with written_beside(Path(args.output_dir).parent) as folder:
            network = f"{runs[0].config.backbone}, --target {runs[0].settings['target']}"
            print(write_comparison(folder, results, rows, network))


if __name__ == "__main__":
    run_script(main, NETWORKS_KEPT)
