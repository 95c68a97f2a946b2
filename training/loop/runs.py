"""What a command trains into one folder: which networks, from which rows and weights, and what it may not overwrite."""

import math
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from huggingface_hub import HfApi
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoModelForImageClassification

from affectnet_plus import EXPRESSIONS
from affectnet_plus.modeling import SoftLabelModel, image_processor_for
from affectnet_plus.releases.writing import alone
from affectnet_plus.training.faces import (
    Augmentation,
    FaceDataset,
    PermutationSampler,
    Split,
    check_enough_rows,
    loader_settings,
)
from affectnet_plus.training.loop.checkpoints import Checkpoints, remove_leftovers
from affectnet_plus.training.loop.fit import Job
from affectnet_plus.training.loop.folders import locked_if_shared
from affectnet_plus.training.loop.initial_weights import WARM_START, load_weights, read_weights
from affectnet_plus.training.loop.jobs import Share, own_networks
from affectnet_plus.training.loop.processes import as_main_process, share_contents
from affectnet_plus.training.loop.settings import left_to_train, run_settings, shares_of_a_step


@dataclass
class Run:
    """Networks of one kind, trained one after the other on one set of rows into one folder."""

    accelerator: Accelerator
    args: object  # OptimizationArguments
    config: object  # of the model without what training brings
    model_class: type[SoftLabelModel]
    output_dir: Path
    train: Split
    evaluation: Split
    settings: dict  # what decides the weights
    initial_weights: list[dict]  # one per backbone, or none
    checkpoints: dict[str, Path]  # to go on from, by the network's name
    to_train: list[str]  # names of networks: expressions, or "all" of a model that has one for all
    first_step: list[int] = field(default_factory=lambda: [0])  # of the next network, as `start_trackers` has it
    shown_in: str = ""  # in trackers and messages, before the network's name
    warm_start: dict | None = None  # as `plan_warm_starts` has it
    locks: ExitStack = field(default_factory=ExitStack)  # of the networks' names in the folder, on the main process
    names: list[str] = field(default_factory=list)  # of all networks that the launch brings to the folder
    share: Share | None = None  # of them that this process trains by itself
    trains_warm_start: bool = False  # before all else, as other processes wait for it
    is_whole: bool = False  # the folder has all of them, and no other process has seen that

    def seed(self, name: str) -> int:
        """The same whichever networks are trained beside it."""
        places = {**{expression: i for i, expression in enumerate(EXPRESSIONS)}, WARM_START: len(EXPRESSIONS)}
        return self.args.seed * len(EXPRESSIONS) + places.get(name, 0)

    def create(self, name: str, create: Callable[[], torch.nn.Module]) -> torch.nn.Module:
        """A network with its initial weights."""
        set_seed(self.seed(name))
        network = create()
        if self.initial_weights:
            load_weights(network, self.initial_weights, self.config, name, self.train.labels)
        return network

    def job(
        self,
        name: str,
        targets: np.ndarray,
        groups: list[np.ndarray],
        turns: list[int] | None = None,
        draws_per_epoch: int | None = None,
        auto_augment: str = "",
    ) -> Job:
        """What `fit` is given beside a network.

        Args:
            name: The network's.
            targets: (rows, n); NaN where unknown.
            groups, turns: Rows that are drawn from in turn, and how often each in a round (`PermutationSampler`).
            draws_per_epoch: As many as there are rows, if nothing is said.
            auto_augment: A policy of timm, in place of the usual augmentation.
        """
        args, accelerator, seed = self.args, self.accelerator, self.seed(name)
        faces_per_step = self.settings["faces_per_step"]
        steps_per_epoch = max(1, round((draws_per_epoch or len(self.train)) / faces_per_step))
        steps = args.max_train_steps or math.ceil(args.num_train_epochs * steps_per_epoch)
        settings = self.settings | shares_of_a_step(accelerator, args)
        checkpoints = Checkpoints(accelerator, self.output_dir, name, settings, self.checkpoints.get(name))
        targets, processor = targets.astype("float32"), image_processor_for(self.config)
        start = checkpoints.step * faces_per_step
        workers = loader_settings(args.dataloader_num_workers, accelerator.device)
        augment = Augmentation(processor, bool(auto_augment))
        in_workers = accelerator.device.type != "cuda"  # not all devices have all that it takes
        train_batches = DataLoader(
            FaceDataset(self.train, processor, targets, auto_augment), args.per_device_train_batch_size,
            collate_fn=augment.collate if in_workers else None,
            sampler=PermutationSampler(groups, seed, steps * faces_per_step, start=start, turns=turns),
            generator=torch.Generator().manual_seed(seed), **workers,
        )  # fmt: skip
        validation_batches = DataLoader(
            FaceDataset(self.evaluation, processor), args.per_device_eval_batch_size,
            persistent_workers=workers["num_workers"] > 0, **workers,
        )  # fmt: skip
        first_step = self.first_step[0]
        self.first_step[0] += steps

        def log(figures: dict[str, float], step: int) -> None:
            named = {f"{self.shown_in}{name}/{key}": value for key, value in figures.items()}
            accelerator.log(named, first_step + step)

        return Job(
            name, self.shown_in + name, accelerator, args, train_batches, validation_batches, steps, steps_per_epoch,
            faces_per_step, seed, bool(np.isnan(targets).any()), checkpoints, log, None if in_workers else augment,
        )  # fmt: skip

    def finish(self, job: Job, network: torch.nn.Module, save: Callable[[torch.nn.Module], None]) -> None:
        """Let the main process save what was trained, and forget its checkpoints."""
        if self.accelerator.is_main_process:
            save(self.accelerator.unwrap_model(network, keep_fp32_wrapper=False, keep_torch_compile=False))
            job.checkpoints.remove()
        self.accelerator.wait_for_everyone()
        self.accelerator.free_memory()


def plan_runs(
    accelerator, data_args, args, fold_args, kind_args, config, model_class, names, train, evaluation, more=None,
    share: Share | None = None,
) -> list[Run]:  # fmt: skip
    """One `Run`, or one for each fold; raises `ValueError` where one cannot be. `names` are the networks', `more` goes
    into the settings. With a `share`, the folds that this process trains something of; where there is none, the script
    ends."""
    expressions = [name for name in names if name in EXPRESSIONS]
    if getattr(config, "shared_backbones", False):  # one network for all of them
        names = ["all"]
    if args.resume_from_checkpoint not in (None, "latest") and len(fold_args.folds) > 1:
        raise ValueError("--resume_from_checkpoint FOLDER is of one fold: name that one by --fold, or say 'latest'.")
    rows_of_folds = []
    for fold in fold_args.folds:
        rows_of_folds.append(_rows_without(fold, fold_args, train, accelerator))
        check_enough_rows(rows_of_folds[-1], evaluation, expressions, "" if fold is None else f" without fold {fold}")
    runs = []
    dealt = own_networks(share, names, rows_of_folds, args, kind_args)
    for fold, rows, jobs in zip(fold_args.folds, rows_of_folds, dealt, strict=True):
        if not jobs:
            continue
        output_dir = Path(args.output_dir) / (f"fold-{fold}" if fold is not None else "")
        settings = run_settings(data_args, args, kind_args, rows, accelerator) | (more or {})
        if by_dataset := evaluation.rows_by_dataset():
            settings["evaluation_rows_by_dataset"] = by_dataset
        if fold is not None:
            settings |= {"num_folds": fold_args.num_folds, "left_out_fold": fold, "folds_by": train.folds_by}
        weights = read_weights(kind_args.init_from, config, settings)
        if weights:
            settings["init_from"] = [w["description"] for w in weights]
        of_step = settings | shares_of_a_step(accelerator, args)
        own, locks = [name for name in jobs if name != WARM_START], ExitStack()
        decide = partial(left_to_train, output_dir, list(names), own, args, config, settings, of_step)
        to_train, checkpoints, is_whole = as_main_process(accelerator, partial(_alone, locks, output_dir, own, decide))
        run = Run(
            accelerator, args, config, model_class, output_dir, rows, evaluation, settings, weights, checkpoints,
            to_train, locks=locks, names=list(names), share=share,
        )  # fmt: skip
        run.trains_warm_start = WARM_START in jobs and not is_whole
        run.is_whole = is_whole and names[0] in own
        runs.append(run)
    if not runs:
        tqdm.write(f"Process {share.rank} has nothing to train: there are fewer networks than processes.")
        sys.exit(0)
    return runs


def _rows_without(fold: int | None, fold_args, train: Split, accelerator: Accelerator) -> Split:
    if fold is None:
        return train
    share_contents(accelerator, [train])
    if train.datasets is not None and train.folds_by != "content":
        raise ValueError("--num_folds: of several datasets folds go by the images' files, and not all are read.")
    return train.without_fold(fold, fold_args.num_folds)


def _alone(locks: ExitStack, output_dir: Path, names, decide: Callable):
    """What `decide` gives, while nobody else trains these networks there: now, and until `locks` are closed."""
    with ExitStack() as stack:
        for name in names:
            what = str(output_dir) if name == "all" else f"the expert for {name} in {output_dir}"
            stack.enter_context(alone(output_dir / f".{name}.lock", what))
        decided = decide()
        for name in names:
            remove_leftovers(output_dir, name)
        locks.push(stack.pop_all())
    return decided


def start_trackers(runs: list[Run], all_args: tuple) -> None:
    """Trackers, where they are asked for; their steps may only grow over all runs of a command."""
    for run in runs:
        run.first_step = runs[0].first_step
        is_one_of_several = len(runs) > 1 or "left_out_fold" in run.settings
        run.shown_in = f"{run.output_dir.name}/" if is_one_of_several else ""
    if runs[0].accelerator.log_with:
        settings = {key: str(value) for group in all_args for key, value in vars(group).items()}
        runs[0].accelerator.init_trackers(Path(sys.argv[0]).stem, config=settings)


def create_private_repo(accelerator: Accelerator, args, fold_args) -> str | None:
    """The private repository that the model will be pushed to: no access is better known before training."""
    if args.push_to_hub and fold_args.num_folds:
        raise ValueError("--push_to_hub pushes one model, --num_folds makes several: leave one of them out.")
    if not (args.push_to_hub and accelerator.is_main_process):
        return None
    repo_id = args.hub_model_id or Path(args.output_dir).name
    return HfApi().create_repo(repo_id, private=True, exist_ok=True).repo_id


def finish_runs(runs: list[Run], args, repo_id: str | None) -> None:
    """Push the model where `repo_id` says so, and end the trackers."""
    for run in runs:
        run.locks.close()
    if repo_id:
        with locked_if_shared(Path(args.output_dir)):
            model = AutoModelForImageClassification.from_pretrained(args.output_dir)
        model.push_to_hub(repo_id, private=True)
    runs[0].accelerator.end_training()
