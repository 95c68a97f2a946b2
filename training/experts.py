"""How networks are trained: the loop, what may run beside and after it, an expert's calibration and its folder."""

import hashlib
import itertools
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list, set_seed
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score
from timm.optim import param_groups_weight_decay
from timm.utils import ModelEmaV3
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForImageClassification, get_scheduler

from affectnet_plus import EXPRESSIONS
from affectnet_plus.modeling import INPUT_SETTINGS, ImageError, SoftLabelModel, image_processor_for
from affectnet_plus.training.arguments import stop, stop_at_image
from affectnet_plus.training.calibration import fit_calibration
from affectnet_plus.training.checkpoints import (
    BEST_FILE,
    find_checkpoints,
    finish_moves,
    held,
    locked,
    locked_if_shared,
    read_state,
    remove_checkpoints,
    save_checkpoint,
    written_beside,
)
from affectnet_plus.training.data import FaceDataset, PermutationSampler, Split, check_enough_rows
from affectnet_plus.training.initial_weights import load_weights, parts_of, read_weights
from affectnet_plus.training.metrics import OneVsRest, defined, js_divergence

_PATIENCE = timedelta(days=7)  # of processes that wait for what one prepares for all
_SMALLEST_SCALE = 1e-4  # of an fp16 loss, which starts at 65536: below it, no scale will do
_CURE = (
    "nothing can be learned from here: take a lower --learning_rate, or --mixed_precision no or bf16 instead of fp16."
)


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
    checkpoints: dict[str, Path]
    parts: list[str]  # still to be trained: expressions, or the one part of a model that has no others
    first_step: int = 0  # of its next part in trackers, whose steps may only grow over all runs of a command
    tracked_as: str = ""  # in trackers, before the part's name
    warm_start: dict | None = None  # as `plan_warm_starts` has it

    def draws_per_epoch(self, part: str) -> int:
        """Of an expert two per row of its expression: all of them once, and as many others."""
        if part in EXPRESSIONS:
            return 2 * int((self.train.labels == EXPRESSIONS.index(part)).sum())
        return len(self.train)

    def steps(self, part: str) -> tuple[int, int]:
        """Optimiser steps of an epoch, and of all."""
        of_epoch = max(1, round(self.draws_per_epoch(part) / self.settings["faces_per_step"]))
        return of_epoch, self.args.max_train_steps or math.ceil(self.args.num_train_epochs * of_epoch)


def create_accelerator(args, fold_args) -> Accelerator:
    if fold_args.fold_per_rank:
        _leave_the_other_ranks(fold_args)
    if args.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True)  # cuDNN's are those, too, then
        torch.backends.cudnn.benchmark = False  # which would choose among them by their speed
    accelerator = Accelerator(
        cpu=args.use_cpu,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        log_with=args.report_to,
        project_dir=args.output_dir,
    )
    if args.report_to and not accelerator.log_with:
        raise ValueError(f"--report_to {args.report_to} is not installed here: pip install {args.report_to}")
    return accelerator


@contextmanager
def main_process_prepares(accelerator: Accelerator):
    """The main process goes first, e.g. to fill the cache that the others will find, and may take days; all go on
    together. Everywhere else a process that waits for long waits for one that hangs: usual timeouts hold there."""
    if not dist.is_initialized():
        with accelerator.main_process_first():
            yield
        return
    patient = dist.new_group(backend="gloo", timeout=_PATIENCE)
    try:
        if not accelerator.is_main_process:
            dist.barrier(patient)
        yield
    finally:  # what stops the main process, the others see as well
        if accelerator.is_main_process:
            dist.barrier(patient)
    dist.barrier(patient)
    dist.destroy_process_group(patient)


def share_contents(accelerator: Accelerator, splits: Sequence[Split]) -> None:
    """Let the main process hash the images of these splits, and tell the other processes."""
    unread = list({id(split): split for split in splits if split.folds_by is None}.values())
    if not unread:
        return
    with main_process_prepares(accelerator):
        if accelerator.is_main_process:
            for split in unread:
                split.read_contents()
    read = broadcast_object_list([(split.contents, split.folds_by) for split in unread])
    for split, (contents, folds_by) in zip(unread, read, strict=True):
        split.contents, split.folds_by = contents, folds_by


def as_main_process(accelerator: Accelerator, decide: Callable):
    """What `decide` gives on the main process, or the error that it raises there, on all of them."""
    answer = None
    if accelerator.is_main_process:
        try:
            answer = decide()
        except (ValueError, OSError) as error:
            answer = error
    (answer,) = broadcast_object_list([answer])
    if isinstance(answer, Exception):
        raise answer
    return answer


def _leave_the_other_ranks(fold_args) -> None:
    """Go on as a run of one process with its own folds: the rank's, every so many."""
    rank, world, local = (
        int(os.environ.get(name, n)) for name, n in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    fold_args.folds = fold_args.folds[rank::world]
    if not fold_args.folds:
        tqdm.write(f"Process {rank} has no fold left to train: {world} processes for fewer folds.", file=sys.stderr)
        sys.exit(0)
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    os.environ["CUDA_VISIBLE_DEVICES"] = devices[local] if local < len(devices) and devices[local] else str(local)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)


def plan_runs(
    accelerator, data_args, args, fold_args, kind_args, config, model_class, parts, train, evaluation, more=None
) -> list[Run]:
    """One `Run`, or one for each fold; raises `ValueError` where one cannot be. `more` goes into the settings."""
    expressions = [part for part in parts if part in EXPRESSIONS]
    if args.resume_from_checkpoint not in (None, "latest") and len(fold_args.folds) > 1:
        raise ValueError("--resume_from_checkpoint FOLDER is of one fold: name that one by --fold, or say 'latest'.")
    runs = []
    for fold in fold_args.folds:
        output_dir = Path(args.output_dir) / (f"fold-{fold}" if fold is not None else "")
        if fold is not None:
            share_contents(accelerator, [train])
        rows = train if fold is None else train.without_fold(fold, fold_args.num_folds)
        check_enough_rows(rows, evaluation, expressions, "" if fold is None else f" without fold {fold}")
        settings = run_settings(data_args, args, kind_args, rows, accelerator) | (more or {})
        if fold is not None:
            settings |= {"num_folds": fold_args.num_folds, "left_out_fold": fold, "folds_by": train.folds_by}
        weights = read_weights(kind_args.init_from, config, settings)
        if weights:
            settings["init_from"] = [w["said"] for w in weights]
        of_step = settings | shares_of_a_step(accelerator, args)
        decide = partial(_left_to_train, output_dir, list(parts), args, config, settings, of_step)
        left, checkpoints = as_main_process(accelerator, decide)
        run = (accelerator, args, config, model_class, output_dir, rows, evaluation, settings, weights)
        runs.append(Run(*run, checkpoints, left))
        if accelerator.is_main_process:
            output_dir.mkdir(parents=True, exist_ok=True)
    return runs


def _left_to_train(
    output_dir: Path, parts: list[str], args, config, settings: dict, settings_of_step: dict
) -> tuple[list[str], dict[str, Path]]:
    """Which parts are still to be trained, and their checkpoints; `ValueError` where that would mix this run with
    another, or overwrite something unasked."""
    with locked_if_shared(output_dir):
        finish_moves(output_dir)
        check_same_network(output_dir, config)
        records = records_in(output_dir)
        others = {json.dumps(record.get("prior")) for part, record in records.items() if part not in parts}
        if others - {json.dumps(settings.get("prior"))}:
            raise ValueError(
                f"{output_dir} holds other experts with --prior {', '.join(sorted(others))}, this run has "
                f"{json.dumps(settings.get('prior'))}: one model has one prior. Take that one."
            )
        checkpoints = find_checkpoints(output_dir, args.resume_from_checkpoint or "latest")
        if not args.resume_from_checkpoint:
            if not args.overwrite_output_dir:
                check_nothing_is_lost(output_dir, parts, records, checkpoints, settings)
            return parts, {}
        left = [name for name in parts if not settings.items() <= records.get(name, {}).items()]
        for part in left:
            if part in checkpoints:
                saved = read_state(checkpoints[part])["settings"]
                check_same_settings(checkpoints[part], part, saved, settings_of_step)
            elif part in records:
                check_same_settings(output_dir, part, records[part], settings)
        return left, checkpoints


def train_runs(
    runs: list[Run],
    train_part: Callable[[Run, str], None],
    all_args: tuple,
    repo_id: str | None,
    compare: Callable[[list[Run]], None] | None = None,
    prepare: Callable[[Run], None] | None = None,
) -> None:
    """Train every part of every run, after `prepare`, measure each folder when it is whole, `compare` them, push the
    one where `repo_id` says so."""
    accelerator, args = runs[0].accelerator, runs[0].args
    if accelerator.log_with:
        settings = {key: str(value) for group in all_args for key, value in vars(group).items()}
        accelerator.init_trackers(Path(sys.argv[0]).stem, config=settings)
    for run in runs:
        run.tracked_as = f"{run.output_dir.name}/" if len(runs) > 1 else ""
    try:
        first_step = 0
        for run in runs:
            run.first_step = first_step
            if prepare:
                prepare(run)
            for part in run.parts:
                train_part(run, part)
                run.first_step += run.steps(part)[1]
            run.initial_weights = []
            evaluate_folder(run)
            first_step = run.first_step
        if compare:
            compare(runs)
    except ImageError as error:
        stop_at_image(error)
    if repo_id:
        with locked_if_shared(Path(args.output_dir)):
            model = AutoModelForImageClassification.from_pretrained(args.output_dir)
        model.push_to_hub(repo_id, private=True)
    accelerator.end_training()


def train_network(
    run: Run,
    part: str,
    number: int,
    create: Callable[[], torch.nn.Module],
    loss_function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    train_targets: np.ndarray,
    groups: list[np.ndarray],
    measure: Callable[[np.ndarray], dict[str, float]],
    turns: Sequence[int] | None = None,
    auto_augment: str = "",
    alter_batch: Callable[[torch.Tensor, torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]] | None = None,
    best_by: tuple[str, int] | None = None,
) -> tuple[torch.nn.Module, np.ndarray, dict]:
    """The loop: train one network, going on at its checkpoint where there is one.

    Args:
        part, number: what it is called, and its place among the parts; seeds follow from the place.
        create: makes the network, (B, 3, H, W) -> (B, outputs).
        loss_function: (outputs, targets) -> scalar, the mean over a batch. Where `train_targets` has NaN, it is given
            `known` as well: (n,), by how many known values of each target a sum over the batch is to be divided, so
            that the step is that of one process and one batch.
        train_targets: float32 (rows, n); NaN where unknown.
        groups, turns: rows that are drawn from in turn, and how often each in a round (`PermutationSampler`).
        measure: figures of validation from its outputs (rows, outputs).
        auto_augment: a policy of timm, in place of the usual augmentation.
        alter_batch: (pixel_values, targets, seed) -> what the network is shown instead.
        best_by: a figure of `measure`, and 1 or -1 as higher or lower is better: the weights of the best epoch are
            kept, not the last ones.

    Returns:
        The network (its moving average, where there is one), as Accelerate prepared it; its outputs on validation; and
        what stands in its record.
    """
    accelerator, args, output_dir = run.accelerator, run.args, run.output_dir
    seed = args.seed * len(EXPRESSIONS) + number  # the same whichever parts are trained beside it
    faces_per_step, (steps_per_epoch, max_steps) = run.settings["faces_per_step"], run.steps(part)

    set_seed(seed)
    network = create()
    if run.initial_weights:
        load_weights(network, run.initial_weights, run.config, part, run.train.labels)
    groups_of_weights = param_groups_weight_decay(network, args.weight_decay, no_weight_decay_list=not_decayed(network))
    optimizer = torch.optim.AdamW(groups_of_weights, lr=args.learning_rate)
    warmup_steps = args.warmup_steps if args.warmup_steps >= 1 else args.warmup_steps * max_steps
    scheduler = get_scheduler(  # Accelerate steps it once per process
        args.lr_scheduler_type,
        optimizer,
        num_warmup_steps=int(warmup_steps) * accelerator.num_processes,
        num_training_steps=max_steps * accelerator.num_processes,
    )
    ema = ModelEmaV3(network, decay=args.ema_decay, use_warmup=True) if args.ema_decay else None
    network, optimizer, scheduler = accelerator.prepare(network, optimizer, scheduler)
    # Prepared as well, so that it stands in checkpoints.
    kept = network if ema is None else accelerator.prepare_model(ema.module, evaluation_mode=True)

    step, best, best_file = 0, None, _best_file(output_dir, part)
    if (checkpoint := run.checkpoints.get(part)) is not None:
        accelerator.load_state(checkpoint)
        state = read_state(checkpoint)
        step, best = state["step"], state.get("best")
        if best and accelerator.is_main_process:
            shutil.copyfile(checkpoint / BEST_FILE, best_file)

    image_processor = image_processor_for(run.config)
    workers = {"num_workers": args.dataloader_num_workers, "pin_memory": accelerator.device.type == "cuda"}
    draws = max_steps * faces_per_step
    train_loader = accelerator.prepare(
        DataLoader(
            FaceDataset(run.train, image_processor, train_targets, auto_augment), args.per_device_train_batch_size,
            sampler=PermutationSampler(groups, seed, draws, start=step * faces_per_step, turns=turns),
            generator=torch.Generator().manual_seed(seed), **workers,
        )
    )  # fmt: skip
    eval_loader = accelerator.prepare(
        DataLoader(FaceDataset(run.evaluation, image_processor), args.per_device_eval_batch_size, **workers)
    )

    def track(figures: dict) -> None:
        named = {f"{run.tracked_as}{part}/{name}": value for name, value in figures.items()}
        accelerator.log(named, run.first_step + step)

    def look(bare: torch.nn.Module) -> np.ndarray:
        """Its outputs on validation; the run ends where there are none."""
        if ema:
            _agree_on_buffers(accelerator, bare)
        check_weights(accelerator.unwrap_model(bare), part, step)
        outputs = predict(accelerator, bare, eval_loader)
        if wrong := int((~np.isfinite(outputs)).any(axis=1).sum()):
            stop(f"{part}: after step {step} the network gives no numbers for {wrong} of {len(outputs)} faces, {_CURE}")
        return outputs

    unknown = bool(np.isnan(train_targets).any())
    batches = enumerate(train_loader, start=step * args.gradient_accumulation_steps)
    progress = tqdm(total=max_steps, initial=step, desc=part, disable=not accelerator.is_local_main_process)
    network.train()
    while step < max_steps:
        of_step = []  # all batches of a step at once: they share what is known, and fp16 may need them again
        for batch_number, batch in itertools.islice(batches, args.gradient_accumulation_steps):
            pixel_values, targets = batch["pixel_values"], batch["targets"]
            if alter_batch:
                batch_seed = (seed * 1_000_003 + batch_number) * accelerator.num_processes + accelerator.process_index
                pixel_values, targets = alter_batch(pixel_values, targets, batch_seed)
            of_step.append((pixel_values, targets))
        known = {"known": known_per_batch(accelerator, [targets for _, targets in of_step])} if unknown else {}
        go = partial(
            _optimizer_step, accelerator, network, optimizer, partial(loss_function, **known), of_step,
            args.max_grad_norm,
        )  # fmt: skip
        loss = go()
        while accelerator.optimizer_step_was_skipped:  # fp16: gradients overflowed, and their scale is lower now
            check_finite(loss, part, step + 1)
            if accelerator.scaler.get_scale() < _SMALLEST_SCALE:
                stop(f"{part}: the gradients of step {step + 1} are not finite at any scale, {_CURE}")
            loss = go()
        scheduler.step()
        step += 1
        if ema:
            ema.update(accelerator.unwrap_model(network), step=step)
        progress.update()
        if step % 20 == 0 or step == max_steps:
            check_finite(loss, part, step)
        if step % 20 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}")
            track({"loss": loss.item(), "learning_rate": scheduler.get_last_lr()[0]})
        if step == max_steps:
            break
        if step % steps_per_epoch == 0 and args.eval_strategy == "epoch":
            figures = measure(look(kept))
            track(figures)
            if best_by and _is_better(figures, best, best_by):
                best = {"step": step, best_by[0]: figures[best_by[0]]}
                if accelerator.is_main_process:
                    save_file(accelerator.unwrap_model(kept).state_dict(), best_file)
            if accelerator.is_main_process:
                progress.write(f"{part}: epoch {step // steps_per_epoch}, {said(figures)}")
            network.train()
        every = steps_per_epoch if args.checkpointing_steps == "epoch" else args.checkpointing_steps
        if every != "no" and step % int(every) == 0:
            check_finite(loss, part, step)
            check_weights(accelerator.unwrap_model(network), part, step)
            settings = run.settings | shares_of_a_step(accelerator, args)
            state = {"part": part, "step": step, "settings": settings, "best": best}
            save_checkpoint(accelerator, output_dir, state, best_file if best else None)
    progress.close()

    outputs = look(kept)
    figures = measure(outputs)
    track(figures)
    record = {"seed": seed, "draws": draws, "steps": max_steps}
    if best and not _is_better(figures, best, best_by):
        accelerator.wait_for_everyone()
        accelerator.unwrap_model(kept).load_state_dict(load_file(best_file))
        outputs = predict(accelerator, kept, eval_loader)
        record["best_step"] = best["step"]
    return kept, outputs, record


def not_decayed(network: torch.nn.Module) -> set[str]:
    """Names of the weights that timm's models say no decay is good for (tokens, tables of positions); biases and norms
    are known by their shape."""
    backbones = parts_of(network)
    return {
        f"{prefix}.{name}".removeprefix(".")
        for prefix, module in network.named_modules()
        if any(module is backbone for backbone in backbones) and hasattr(module, "no_weight_decay")
        for name in module.no_weight_decay()
    }


def known_per_batch(accelerator: Accelerator, targets: list[torch.Tensor]) -> torch.Tensor:
    """(n,) known values of each target (B, n) in all batches of a step, of all ranks, divided by the number of these
    batches: sums that are divided by it have as their mean, which is what Accelerate forms, the mean of the step."""
    counts = sum((~of_batch.isnan()).sum(dim=0) for of_batch in targets)
    return accelerator.reduce(counts.float(), "mean") / len(targets)


def _optimizer_step(
    accelerator, network, optimizer, loss_function, batches: list, max_grad_norm: float
) -> torch.Tensor:
    """One step on batches of (pixel_values, targets); returns their mean loss."""
    losses = []
    for number, (pixel_values, targets) in enumerate(batches, start=1):
        with accelerator.no_sync(network) if number < len(batches) else nullcontext():
            outputs = network(pixel_values)  # (B, outputs)
            loss = loss_function(outputs, targets)
            accelerator.backward(loss)
        losses.append(loss.detach())
    if max_grad_norm:
        accelerator.unscale_gradients()
        for backbone in parts_of(accelerator.unwrap_model(network)):  # each learns as if it were alone
            torch.nn.utils.clip_grad_norm_(backbone.parameters(), max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    return torch.stack(losses).mean()


def _agree_on_buffers(accelerator: Accelerator, network: torch.nn.Module) -> None:
    """A moving average of each rank's own statistics becomes that of the main process, which will be saved."""
    for buffer in accelerator.unwrap_model(network).buffers():
        buffer.copy_(broadcast(buffer.clone()))


def _is_better(figures: dict, best: dict | None, best_by: tuple[str, int]) -> bool:
    """Something undefined (NaN) is better than nothing and worse than anything else."""
    name, sign = best_by
    return best is None or sign * figures[name] > sign * best[name] or np.isnan(best[name]) > np.isnan(figures[name])


def _best_file(output_dir: Path, part: str) -> Path:
    return output_dir / f".best-{part}.safetensors"


def finish_network(run: Run, part: str, network: torch.nn.Module, save: Callable[[torch.nn.Module], None]) -> None:
    """Let the main process save what was trained, and forget its checkpoints."""
    accelerator = run.accelerator
    if accelerator.is_main_process:
        save(accelerator.unwrap_model(network, keep_fp32_wrapper=False, keep_torch_compile=False))
        remove_checkpoints(run.output_dir, part)
        _best_file(run.output_dir, part).unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    accelerator.free_memory()


def said(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in figures.items())


def train_expert(
    run: Run,
    expression: str,
    prior: float,
    create: Callable[[], torch.nn.Module],
    loss_function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    train_targets: np.ndarray,
    eval_targets: np.ndarray,
    expression_columns: slice,
    present_from: Sequence[float] = (),
) -> None:
    """Train one expression's network, calibrate it on validation, and save it into the model folder.

    `expression_columns` are those of the outputs that are log-odds of the expression; others are units', which count as
    present where their target is at least `present_from`. `prior` is the expression's frequency that scores are
    calibrated to. The rest is as in `train_network`.
    """
    index, metric = EXPRESSIONS.index(expression), run.settings["metric_for_best_model"]
    is_expression = run.evaluation.labels == index

    def figures(log_odds):
        scores = one_vs_rest([expression], log_odds[:, None], np.where(is_expression, 0, -1))
        return {name: scores[f"mean_{name}"] for name in ("auroc", "average_precision")}

    of_train = run.train.labels == index
    network, outputs, sampled = train_network(
        run, expression, index, create, loss_function, train_targets,
        groups=[np.flatnonzero(of_train), np.flatnonzero(~of_train)],
        measure=lambda outputs: figures(outputs[:, expression_columns].mean(axis=1)),
        best_by=None if metric == "last" else (metric, 1),
    )  # fmt: skip
    log_odds = outputs[:, expression_columns]
    fitted = fit_calibration(log_odds, is_expression, prior)
    steps = sampled.pop("steps")
    record = {
        **run.settings,
        "sampler": {"name": "balanced", "share_of_expression": 0.5, **sampled},
        "rows_of_expression": int(of_train.sum()),
        "steps": steps,
        **figures(log_odds @ np.array(fitted["backbone_weights"])),
    }
    if units := getattr(run.config, "action_units", {}).get(expression):
        record["au_auroc"] = {
            f"AU{unit}": _auroc(eval_targets[:, 1 + i], present_from[i], outputs[:, 1 + i])
            for i, unit in enumerate(units)
        }
    if run.accelerator.is_main_process:
        print(f"{expression}: AUROC {record['auroc']:.4f}, average precision {record['average_precision']:.4f}")
    finish_network(run, expression, network, lambda bare: complete_folder(run, expression, bare, fitted, record))


def _auroc(target: np.ndarray, present_from: float, log_odds: np.ndarray) -> float | None:
    """Of a unit's presence; None where the known rows are all alike."""
    known = ~np.isnan(target)
    present = target[known] >= np.float32(present_from)
    return round(float(roc_auc_score(present, log_odds[known])), 4) if 0 < present.sum() < len(present) else None


@torch.no_grad()
def predict(accelerator: Accelerator, model, loader, description: str | None = None) -> np.ndarray:
    """What `model` puts out, or its `logits`, (N, ...), over the rows of all ranks in order; a `description` shows a
    progress bar."""
    model.eval()
    outputs = []
    for batch in tqdm(loader, desc=description, disable=not (description and accelerator.is_local_main_process)):
        output = model(batch["pixel_values"])
        output = accelerator.gather_for_metrics(getattr(output, "logits", output))
        outputs.append(output.float().cpu().numpy())
    return np.concatenate(outputs).astype(np.float64)


def one_vs_rest(expressions: list[str], scores: np.ndarray, labels: np.ndarray) -> dict:
    return OneVsRest(expressions, keep_in_memory=True).compute(predictions=scores.tolist(), references=labels.tolist())


def complete_folder(run: Run, expression: str, network: torch.nn.Module, fitted: dict, record: dict) -> None:
    """Save the model of all expressions that the folder held and this one; whole at every moment."""
    with locked(run.output_dir):  # another run may bring another expression
        check_same_network(run.output_dir, run.config)
        there = (run.output_dir / "config.json").exists()
        held = run.model_class.from_pretrained(run.output_dir) if there else None
        experts = {**(held.experts if held else {}), expression: network.cpu()}
        names = [name for name in EXPRESSIONS if name in experts]
        config = type(run.config).from_dict(
            run.config.to_dict()
            | {
                "id2label": dict(enumerate(names)),
                "calibration": {**(held.config.calibration if held else {}), expression: fitted},
                "training": {**(held.config.training if held else {}), expression: record},
            }
        )
        with torch.device("meta"):  # only the frame: every expert is put in
            model = run.model_class(config)
        model.experts = torch.nn.ModuleDict({name: experts[name] for name in names})
        with written_beside(run.output_dir) as folder:
            model.save_pretrained(folder)


def evaluate_folder(run: Run) -> None:
    """Measure the model as it was saved: metrics.json with AUROC, accuracy and, where there are soft labels, JS."""
    accelerator, args, evaluation = run.accelerator, run.args, run.evaluation
    with held(accelerator, run.output_dir):
        model = run.model_class.from_pretrained(run.output_dir)
        measured = (run.output_dir / "config.json").read_bytes()
    expressions = model.config.expressions
    dataset = FaceDataset(evaluation, model.image_processor)
    loader = accelerator.prepare(
        DataLoader(dataset, args.per_device_eval_batch_size, num_workers=args.dataloader_num_workers)
    )
    outputs = predict(accelerator, accelerator.prepare_model(model, evaluation_mode=True), loader)
    accelerator.free_memory()  # another fold may follow, whose checkpoints are its own
    if not accelerator.is_main_process:
        return
    labels = evaluation.labels
    own = [EXPRESSIONS.index(name) for name in expressions]
    scores = 1 / (1 + np.exp(-outputs))
    metrics = one_vs_rest(expressions, scores, np.array([own.index(i) if i in own else -1 for i in labels]))
    if len(own) == len(EXPRESSIONS):
        metrics["accuracy"] = float((scores.argmax(axis=1) == labels).mean())
        if evaluation.soft_labels is not None:
            metrics["js_divergence"] = js_divergence(scores, evaluation.soft_labels)
    metrics["rows"] = len(labels)
    said = json.dumps(defined(metrics), indent=1)
    with locked_if_shared(run.output_dir):
        if (run.output_dir / "config.json").read_bytes() == measured:  # or another run measures what it has brought
            with written_beside(run.output_dir) as folder:
                (folder / "metrics.json").write_text(said)
    print(said)


def start_pushing(accelerator: Accelerator, args, fold_args) -> str | None:
    """The private repository that the model will be pushed to: no access is better known before training."""
    if args.push_to_hub and fold_args.num_folds:
        raise ValueError("--push_to_hub pushes one model, --num_folds makes several: leave one of them out.")
    if not (args.push_to_hub and accelerator.is_main_process):
        return None
    repo_id = args.hub_model_id or Path(args.output_dir).name
    return HfApi().create_repo(repo_id, private=True, exist_ok=True).repo_id


def run_settings(data_args, args, kind_args, train: Split, accelerator: Accelerator) -> dict:
    """What decides the weights; stands in the config, and a resumed run has to agree with it."""
    elsewhere = ("expressions", "au_labels", "au_target", "soft_labels", "soft_labels_column", "init_from", "teacher")
    of_kind = {key: value for key, value in vars(kind_args).items() if key not in elsewhere}
    if args.eval_strategy == "no" and of_kind.get("metric_for_best_model"):
        of_kind["metric_for_best_model"] = "last"  # nothing is measured to choose by
    return {
        "data": data_args.name(),
        "data_config": data_args.dataset_config_name or "default",
        "split": data_args.train_split_name,
        "label_column": data_args.label_column_name,
        "rows": len(train),
        "ids": train.id_source,
        "labels_sha256": hashlib.sha256(train.labels.astype("int8").tobytes()).hexdigest()[:16],
        **of_kind,
        "num_train_epochs": args.num_train_epochs,
        "max_train_steps": args.max_train_steps,
        "faces_per_step": args.per_device_train_batch_size
        * args.gradient_accumulation_steps
        * accelerator.num_processes,
        "learning_rate": args.learning_rate,
        "weight_decay": args.weight_decay,
        "max_grad_norm": args.max_grad_norm,
        "ema_decay": args.ema_decay,
        "lr_scheduler_type": args.lr_scheduler_type,
        "warmup_steps": args.warmup_steps,
        "seed": args.seed,
        "mixed_precision": accelerator.mixed_precision,
        "deterministic": args.deterministic,
    }


def shares_of_a_step(accelerator: Accelerator, args) -> dict:
    """How the faces of a step are dealt out: another number of processes cannot go on at a checkpoint."""
    return {"processes": accelerator.num_processes, "gradient_accumulation_steps": args.gradient_accumulation_steps}


def check_finite(loss: torch.Tensor, part: str, step: int) -> None:
    """End the run where it has diverged, before anything is saved of it."""
    if not torch.isfinite(loss):
        stop(f"{part}: the loss of step {step} is {loss.item()}, {_CURE}")


def check_weights(network: torch.nn.Module, part: str, step: int) -> None:
    """The same for the weights: a loss can be finite that was measured before the step which broke them."""
    floats = {name: values for name, values in network.state_dict().items() if values.is_floating_point()}
    finite = torch.stack([values.isfinite().all() for values in floats.values()]).tolist()
    if broken := [name for name, is_finite in zip(floats, finite, strict=True) if not is_finite]:
        stop(f"{part}: after step {step} {len(broken)} of {len(floats)} tensors ({broken[0]}) are not finite, {_CURE}")


def check_outputs(outputs: np.ndarray, model: str) -> None:
    """End the run where a model gives (N, C) outputs that are no numbers, before anything is made of them."""
    if wrong := int(np.isnan(outputs).any(axis=1).sum()):
        stop(
            f"{model} gives NaN for {wrong} of {len(outputs)} faces: take --mixed_precision no or bf16, not fp16; if "
            "that changes nothing, its weights are broken."
        )


def check_same_network(output_dir: Path, config) -> None:
    if not (output_dir / "config.json").exists():
        return
    held = AutoConfig.from_pretrained(output_dir)
    of_network = ("model_type", "backbones", "backbone", "action_units", "rest_outputs", "valence_arousal")
    for key in (*of_network, "activation", "backbone_normalization", *INPUT_SETTINGS):
        ours, theirs = (list(v) if isinstance(v := getattr(c, key, None), tuple) else v for c in (config, held))
        if ours != theirs:
            raise ValueError(
                f"{output_dir} holds a model with {key} {theirs}, this run has {ours}: "
                "name another --output_dir, or delete that one."
            )


def records_in(output_dir: Path) -> dict[str, dict]:
    """The record of each part that a run has completed in this folder."""
    there = (output_dir / "config.json").exists()
    return AutoConfig.from_pretrained(output_dir).training if there else {}


def check_nothing_is_lost(
    output_dir: Path, parts: list[str], records: dict[str, dict], checkpoints: dict[str, Path], settings: dict
) -> None:
    """A run that trains `parts` anew replaces no finished one and no checkpoint of theirs without being told to."""
    finished, begun = ([part for part in parts if part in there] for there in (records, checkpoints))
    if not finished and not begun:
        return
    if finished:
        names = f"finished experts ({', '.join(finished)})" if finished[0] in EXPRESSIONS else "a finished model"
        differing = _differing(records[finished[0]], settings)
    else:
        names = f"{checkpoints[begun[0]].name} of a run that was not finished"
        differing = _differing(read_state(checkpoints[begun[0]])["settings"], settings)
    others = f", of other settings: {', '.join(differing)}" if differing else ""
    raise ValueError(
        f"{output_dir} holds {names}{others}. Name another --output_dir; or go on there, keeping what is finished, by "
        "--resume_from_checkpoint latest with the same settings; or train anew by --overwrite_output_dir (only what "
        "is trained is replaced: one expert, say, by --expressions)."
    )


def check_same_settings(folder: Path, part: str, saved: dict, settings: dict) -> None:
    if differing := _differing(saved, settings):
        longer = {"num_train_epochs", "max_train_steps"} & {text.split()[0] for text in differing}
        start = (
            "a Soft-FER model's weights, or these experts' own warm start"
            if part in EXPRESSIONS
            else "this one's weights"
        )
        cure = f" More steps are a new run, in another --output_dir; --init_from starts it from {start}."
        raise ValueError(
            f"{folder} comes from a run with other settings: {', '.join(differing)}. Take the same ones, or train anew "
            f"by --overwrite_output_dir, without --resume_from_checkpoint.{cure if longer else ''}"
        )


def _differing(saved: dict, settings: dict) -> list[str]:
    return [f"{key} (was {saved.get(key)}, now {settings[key]})" for key in settings if saved.get(key) != settings[key]]
