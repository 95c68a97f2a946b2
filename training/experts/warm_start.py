"""The warm start of experts (ours, not the paper's): each backbone is trained once as a softmax classifier of all
expressions, on the human labels, and every expert goes on from it, last layer included (`rest_outputs`).

One-vs-rest alone, a small or rare expression teaches a network too little to see by, and eight times over: one network
that has seen all rows of all expressions knows more of each.
"""

from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from affectnet_plus import match_expressions
from affectnet_plus.modeling import (
    INPUT_SETTINGS,
    ImageError,
    SoftFerConfig,
    SoftFerForImageClassification,
    backbones_of,
    create_backbone,
    network_inputs,
)
from affectnet_plus.training.arguments import ExpertArguments, exit_with_error
from affectnet_plus.training.faces import Split, indices_among
from affectnet_plus.training.loop import Run, as_main_process, fit, main_process_prepares
from affectnet_plus.training.loop.checkpoints import find_checkpoints, read_state
from affectnet_plus.training.loop.folders import written_beside
from affectnet_plus.training.loop.initial_weights import WARM_START, read_weights
from affectnet_plus.training.loop.settings import (
    check_nothing_is_lost,
    check_same_settings,
    records_in,
    shares_of_a_step,
)
from affectnet_plus.training.metrics import HumanLabels, nan_to_none

_OF_EXPERTS = (
    "prior", "rest_outputs", "metric_for_best_model", "au_loss_weight", "au_labels", "au_labels_sha256", "au_target",
    "au_strongest", "warm_start_epochs", "warm_start_learning_rate",
)  # fmt: skip


class SoftmaxClassifiers(torch.nn.Module):
    """One classifier per backbone: pixel_values (B, 3, H, W) -> (B, backbones * expressions), before the softmax."""

    def __init__(self, config, pretrained: bool = False):
        super().__init__()
        self.config = config
        self.classifiers = torch.nn.ModuleList(
            create_backbone(name, config.num_labels, config.network_size, pretrained) for name in backbones_of(config)
        )

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        pairs = zip(self.classifiers, network_inputs(pixel_values, self.config), strict=True)
        return torch.cat([classifier(faces).float() for classifier, faces in pairs], dim=1)


def softmax_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of (B, classifiers * expressions) against labels, the first column of (B, 1 + expressions), among
    the expressions that the other columns say are known; summed over the classifiers: each learns as if it were
    alone."""
    labels, known = targets[:, :1], targets[:, 1:].bool()
    of_each = outputs.unflatten(1, (-1, known.shape[1]))  # (B, classifiers, expressions)
    of_each = of_each.masked_fill(~known[:, None], -torch.inf)
    labels = labels.long().expand(-1, of_each.shape[1])
    return F.cross_entropy(of_each.flatten(0, 1), labels.flatten()) * of_each.shape[1]


def plan_warm_starts(runs: list[Run], expert_args: ExpertArguments) -> None:
    """Say in each run by which settings its warm start is trained; `ValueError` where its folder holds one, finished or
    begun, by other settings."""
    for run in runs if expert_args.warm_start_epochs else ():
        settings = {key: value for key, value in run.settings.items() if key not in _OF_EXPERTS}
        settings["num_train_epochs"] = expert_args.warm_start_epochs
        settings["learning_rate"] = expert_args.warm_start_learning_rate
        run.warm_start = {"settings": settings, "pretrained": expert_args.pretrained}
        as_main_process(run.accelerator, partial(_check, run))


def _check(run: Run) -> None:
    """Refuse what `_find` refuses, as soon as it can be known."""
    run.output_dir.mkdir(parents=True, exist_ok=True)
    try:
        with _lock(run).acquire(timeout=0):
            _find(run)
    except Timeout:  # it is just being trained: wait until it is there
        pass


def _lock(run: Run) -> FileLock:
    return FileLock(run.output_dir / f".{WARM_START}.lock")


def _find(run: Run) -> dict[str, Path] | None:
    """None where the warm start is there, whole; else the checkpoint to go on from, if there is one. `ValueError` where
    either is of other settings, or a checkpoint there that nobody has asked to go on from."""
    args, settings, folders = run.args, run.warm_start["settings"], _folders(run)
    records = [record for folder in folders for record in records_in(folder).values()]
    if len(records) == len(folders) and all(settings.items() <= record.items() for record in records):
        return None
    if args.overwrite_output_dir:
        return {}
    wanted = args.resume_from_checkpoint or "latest"
    begun = find_checkpoints(run.output_dir, wanted, [WARM_START]).get(WARM_START)
    if begun is None:
        for record in records:
            check_same_settings(run.output_dir / WARM_START, WARM_START, record, settings)
        return {}
    if not args.resume_from_checkpoint:
        check_nothing_is_lost(run.output_dir, [WARM_START], {}, {WARM_START: begun}, settings)
    of_step = settings | shares_of_a_step(run.accelerator, args)
    check_same_settings(begun, WARM_START, read_state(begun)["settings"], of_step)
    return {WARM_START: begun}


def _folders(run: Run) -> list[Path]:
    return [run.output_dir / WARM_START / f"{i}-{name}" for i, name in enumerate(backbones_of(run.config))]


@contextmanager
def _alone(run: Run):
    """Another process or command that trains experts into the folder waits meanwhile, and takes what is made."""
    lock = _lock(run)
    try:
        with main_process_prepares(run.accelerator):
            if run.accelerator.is_main_process:
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    tqdm.write(f"Waiting for the warm start that another process trains in {run.output_dir}.")
                    lock.acquire()
        yield
    finally:
        lock.release()


def train_warm_starts(runs: list[Run]) -> None:
    """First of all those that other processes wait for."""
    for run in runs:
        if run.trains_warm_start:
            warm_start(run)


def warm_start(run: Run) -> None:
    """Train the classifiers where they are not there yet; the experts of `run` then go on from them."""
    if run.warm_start is None or not (run.to_train or run.trains_warm_start):
        return
    try:
        with _alone(run):
            checkpoints = as_main_process(run.accelerator, partial(_find, run))
            if checkpoints is not None:
                _train(run, checkpoints)
        run.initial_weights = read_weights([str(path) for path in _folders(run)], run.config, run.settings)
        run.warm_start = None  # is done
    except ImageError:
        raise
    except ValueError as error:  # another command has brought another one in the meantime
        exit_with_error(error)


def _train(run: Run, checkpoints: dict[str, Path]) -> None:
    config, folders, settings = run.config, _folders(run), run.warm_start["settings"]
    args = replace(run.args, num_train_epochs=settings["num_train_epochs"], learning_rate=settings["learning_rate"])
    run = replace(run, args=args, settings=settings, checkpoints=checkpoints)
    network = run.create(WARM_START, partial(SoftmaxClassifiers, config, run.warm_start["pretrained"]))
    names = config.expressions
    known = run.train.known[:, match_expressions(names)]
    targets = np.column_stack([indices_among(names, run.train.labels), known])
    job = run.job(WARM_START, targets, groups=[np.arange(len(run.train))])
    network, outputs, record = fit(job, network, softmax_loss, partial(_figures, split=run.evaluation, names=names))
    training = settings | {"target": "hard", "sampler": "none", "drawn": record}

    def save(trained: SoftmaxClassifiers) -> None:
        each = np.split(outputs["logits"], len(folders), axis=1)
        same_input = {key: getattr(config, key) for key in INPUT_SETTINGS}
        normalization = config.backbone_normalization or [None] * len(folders)
        for path, backbone, of_weights, classifier, logits in zip(
            folders, backbones_of(config), normalization, trained.classifiers, each, strict=True
        ):
            of_backbone = {"backbone": backbone, "backbone_normalization": of_weights and [of_weights]}
            of_one = SoftFerConfig(**of_backbone, activation="softmax", id2label=dict(config.id2label), **same_input)
            figures = _figures({"logits": logits}, run.evaluation, names)
            of_one.training = {"all": training | nan_to_none(figures)}
            with torch.device("meta"):
                model = SoftFerForImageClassification(of_one)
            model.backbone = classifier.cpu()
            with written_beside(path) as beside:
                model.save_pretrained(beside)

    run.finish(job, network, save)


def _figures(outputs: dict[str, np.ndarray], split: Split, names: list[str]) -> dict[str, float]:
    """Of logits (N, classifiers * expressions): the classifiers' mean distribution against the human labels of the
    split, each among what is known of the row."""
    logits = torch.from_numpy(outputs["logits"]).unflatten(1, (-1, len(names)))
    known = torch.from_numpy(split.known[:, match_expressions(names)])
    logits = logits.masked_fill(~known[:, None], -torch.inf)
    predicted = logits.softmax(dim=2).mean(dim=1).argmax(dim=1)
    human = HumanLabels(names).compute(predictions=predicted, references=indices_among(names, split.labels))
    return {name: human[name] for name in ("accuracy", "macro_f1")}
