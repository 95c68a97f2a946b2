"""A model of experts, completed one expression at a time."""

from collections.abc import Callable

import numpy as np
import torch
from safetensors.torch import load_file

from affectnet_plus import EXPRESSIONS
from affectnet_plus.training.arguments import ExpertArguments
from affectnet_plus.training.faces import Split
from affectnet_plus.training.loop import Job, Run, one_vs_rest
from affectnet_plus.training.loop.folders import locked, written_beside
from affectnet_plus.training.loop.settings import are_finished, check_same_network


def fit_to_data(config, expert_args: ExpertArguments, expressions: list[str]):
    """The config of experts for data of these expressions; completes the arguments by what the data decide."""
    if expert_args.rest_outputs is None:
        has_start = expert_args.warm_start_epochs or expert_args.init_from
        expert_args.rest_outputs = len(expressions) - 1 if has_start else 0
    expert_args.expressions = expert_args.expressions or expressions
    decided = {"id2label": dict(enumerate(expressions)), "rest_outputs": expert_args.rest_outputs}
    if hasattr(config, "action_units"):
        decided["action_units"] = None  # the default, of these expressions
    return type(config).from_dict(config.to_dict() | decided)


def expression_and_others(split: Split, expression: str) -> dict:
    """For `Run.job`: rows of the expression and others in turn; an epoch is all its rows once, and as many others. Rows
    of which the expression is not known are neither."""
    index = EXPRESSIONS.index(expression)
    is_expression, known = split.labels == index, split.known[:, index]
    groups = [np.flatnonzero(is_expression), np.flatnonzero(~is_expression & known)]
    return {"groups": groups, "draws_per_epoch": 2 * len(groups[0])}


def expression_figures(
    split: Split, expression: str, columns: slice = slice(None)
) -> Callable[[dict[str, np.ndarray]], dict[str, float]]:
    """For `fit`: how well the mean log-odds of an expression's classifiers, `columns` of the logits (N, outputs), tell
    the rows of the split that show it from the others."""
    return lambda outputs: _figures(outputs["logits"][:, columns].mean(axis=1), split, expression)


def best_epoch_by(run: Run) -> tuple[str, int] | None:
    """For `fit`: by which of these figures the best epoch is chosen; None where the last one is kept."""
    metric = run.settings["metric_for_best_model"]
    return None if metric == "last" else (metric, 1)


def _figures(log_odds: np.ndarray, split: Split, expression: str) -> dict[str, float]:
    scores = one_vs_rest([expression], log_odds[:, None], split)
    return {name: scores[f"mean_{name}"] for name in ("auroc", "average_precision")}


def save_expert(
    run: Run,
    job: Job,
    network: torch.nn.Module,
    log_odds: np.ndarray,
    calibration: dict,
    record: dict,
    more: dict | None = None,
) -> None:
    """Complete the model in the run's folder by the expert of `job.name`.

    Args:
        log_odds: (N, classifiers) of validation.
        calibration: What `fit_calibration` has made of them.
        record: What `fit` says of the training; `more` goes into the expert's record as well.
    """
    sampler = {"name": "balanced", "share_of_expression": 0.5, **record}
    record = expert_record(run, job.name, log_odds, calibration, sampler, more)
    run.finish(job, network, lambda trained: complete_folder(run, job.name, trained, calibration, record))


def expert_record(
    run: Run, expression: str, log_odds: np.ndarray, calibration: dict, sampler: dict, more: dict | None
) -> dict:
    """What the config says of an expert, as `save_expert` takes it; prints how good it is."""
    record = {
        **run.settings,
        "sampler": {key: value for key, value in sampler.items() if key != "steps"},
        "rows_of_expression": int((run.train.labels == EXPRESSIONS.index(expression)).sum()),
        "steps": sampler["steps"],
        **_figures(log_odds @ np.array(calibration["backbone_weights"]), run.evaluation, expression),
        **(more or {}),
    }
    if run.accelerator.is_main_process:
        print(
            f"{run.shown_in}{expression}: AUROC {record['auroc']:.4f}, average precision "
            f"{record['average_precision']:.4f}"
        )
    return record


def complete_folder(run: Run, expression: str, network: torch.nn.Module, calibration: dict, record: dict) -> None:
    """Save the model of all expressions that the folder held and this one; whole at every moment."""
    with locked(run.output_dir):  # another run may bring another expression
        check_same_network(run.output_dir, run.config)
        before, weights = None, {}
        if (run.output_dir / "config.json").exists():
            before = type(run.config).from_pretrained(run.output_dir)
            weights = load_file(run.output_dir / "model.safetensors")
        of_others = {key: value for key, value in weights.items() if not key.startswith(f"experts.{expression}.")}
        weights = of_others | {f"experts.{expression}.{key}": v for key, v in network.cpu().state_dict().items()}
        of_experts = {*(before.expressions if before else ()), expression}
        names = [name for name in EXPRESSIONS if name in of_experts]
        config = type(run.config).from_dict(
            run.config.to_dict()
            | {
                "id2label": dict(enumerate(names)),
                "calibration": {**(before.calibration if before else {}), expression: calibration},
                "training": {**(before.training if before else {}), expression: record},
            }
        )
        # One without the other experts can be saved for all: their weights are there, and making networks takes long.
        model = run.model_class(type(config).from_dict(config.to_dict() | {"id2label": {}}))
        model.experts[expression], model.config = network, config
        with written_beside(run.output_dir) as folder:
            model.save_pretrained(folder, state_dict=weights)
        run.is_whole = are_finished(run.names, config.training, run.settings)
