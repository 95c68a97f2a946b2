"""The training loop: one network, from its first step or its checkpoint to the weights that are kept.

It is given batches of faces and targets, a loss and a measure, and knows nothing of expressions, folds or folders.
"""

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from timm.optim import param_groups_weight_decay
from timm.utils import ModelEmaV3
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import get_scheduler

from affectnet_plus.training.arguments import OptimizationArguments, exit_with_error
from affectnet_plus.training.loop.checkpoints import Checkpoints
from affectnet_plus.training.loop.initial_weights import backbones_in
from affectnet_plus.training.loop.predict import predict
from affectnet_plus.training.loop.processes import shows_progress

_SMALLEST_SCALE = 1e-4  # of an fp16 loss, which starts at 65536: below it, no scale will do
_CURE = (
    "nothing can be learned from here: take a lower --learning_rate, or --mixed_precision no or bf16 instead of fp16."
)


@dataclass
class Job:
    """What the loop is given beside a network.

    Attributes:
        name: Of the network.
        title: In progress bars and messages.
        accelerator: Of all processes.
        args: Learning rate, schedule, decay, clipping, accumulation, moving average; how often to measure and to save.
        train_batches: {"pixel_values": (B, 3, H, W), "targets": (B, n), NaN where unknown}, from step
            `checkpoints.step` on.
        validation_batches: {"pixel_values"} of all validation rows, in their order.
        steps, steps_per_epoch: Optimiser steps.
        faces_per_step: Of all processes together.
        seed: What batches are altered by.
        has_unknown_targets: Whether any target is NaN, on any process.
        checkpoints: Where to go on from, and what saves.
        log: (figures, step) -> None, for trackers.
        augment: Makes a batch of what is loaded, on the device; None: batches come ready.
    """

    name: str
    title: str
    accelerator: Accelerator
    args: OptimizationArguments
    train_batches: DataLoader
    validation_batches: DataLoader
    steps: int
    steps_per_epoch: int
    faces_per_step: int
    seed: int
    has_unknown_targets: bool
    checkpoints: Checkpoints
    log: Callable[[dict[str, float], int], None]
    augment: Callable[[dict], dict] | None = None


def fit(
    job: Job,
    network: torch.nn.Module,
    loss_function: Callable[..., torch.Tensor],
    measure: Callable[[dict[str, np.ndarray]], dict[str, float]],
    best_by: tuple[str, int] | None = None,
    alter_batch: Callable[[torch.Tensor, torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]] | None = None,
) -> tuple[torch.nn.Module, dict[str, np.ndarray], dict]:
    """Train a network.

    Args:
        job: Batches, steps, settings.
        network: (B, 3, H, W) -> (B, outputs), or one of our models.
        loss_function: (outputs, targets) -> scalar, the mean over a batch. Where targets may be NaN, it is given
            `known` as well: (n,), by how many known values of each target a sum over the batch is to be divided, so
            that the step is that of one process and one batch.
        measure: Figures of validation from the outputs of `predict`.
        best_by: A figure of `measure`, and 1 or -1 as higher or lower is better: the weights of the best epoch are
            kept, not the last ones.
        alter_batch: (pixel_values, targets, seed) -> what the network is shown instead.

    Returns:
        The network (its moving average, where there is one), as Accelerate prepared it; its outputs on validation; and
        what stands in its record. The script ends, with a sentence, where training diverges.
    """
    accelerator, args, checkpoints = job.accelerator, job.args, job.checkpoints
    if accelerator.device.type == "cuda":  # as faces come
        network = network.to(memory_format=torch.channels_last)
    decay_groups = param_groups_weight_decay(network, args.weight_decay, no_weight_decay_list=not_decayed(network))
    # With a scaler, Accelerate would not see that a fused step was skipped.
    fused = accelerator.scaler is None and accelerator.device.type in ("cpu", "cuda")
    optimizer = torch.optim.AdamW(decay_groups, lr=args.learning_rate, fused=fused)
    warmup_steps = args.warmup_steps if args.warmup_steps >= 1 else args.warmup_steps * job.steps
    scheduler = get_scheduler(  # Accelerate steps it once per process
        args.lr_scheduler_type,
        optimizer,
        num_warmup_steps=int(warmup_steps) * accelerator.num_processes,
        num_training_steps=job.steps * accelerator.num_processes,
    )
    ema = ModelEmaV3(network, decay=args.ema_decay, use_warmup=True) if args.ema_decay else None
    network, optimizer, scheduler = accelerator.prepare(network, optimizer, scheduler)
    # What is measured and kept. The moving average is prepared as well, so that it stands in checkpoints.
    kept = network if ema is None else accelerator.prepare_model(ema.module, evaluation_mode=True)
    if args.torch_compile:
        accelerator.unwrap_model(network).compile()  # in place: weights keep their names
    checkpoints.load()
    step = checkpoints.step
    train_batches, validation_batches = accelerator.prepare(job.train_batches, job.validation_batches)

    def validate() -> dict[str, np.ndarray]:
        if ema:
            _share_buffers(accelerator, kept)
        check_weights(accelerator.unwrap_model(kept), job.title, step)
        outputs = predict(accelerator, kept, validation_batches)
        _check_finite_outputs(outputs, job.title, step)
        return outputs

    batches = enumerate(train_batches, start=step * args.gradient_accumulation_steps)
    progress = tqdm(total=job.steps, initial=step, desc=job.title, disable=not shows_progress(accelerator))
    network.train()
    while step < job.steps:
        step_batches = []  # all of a step at once: they share what is known, and fp16 may need them again
        for number, batch in itertools.islice(batches, args.gradient_accumulation_steps):
            batch = job.augment(batch) if job.augment else batch
            pixel_values, targets = batch["pixel_values"], batch["targets"]  # (B, 3, H, W), (B, n)
            if alter_batch:
                batch_seed = (job.seed * 1_000_003 + number) * accelerator.num_processes + accelerator.process_index
                pixel_values, targets = alter_batch(pixel_values, targets, batch_seed)
            step_batches.append((pixel_values, targets))
        known = {}
        if job.has_unknown_targets:
            known["known"] = known_per_batch(accelerator, [targets for _, targets in step_batches])
        of_step = partial(loss_function, **known)
        loss = _optimizer_step(accelerator, network, optimizer, of_step, step_batches, args.max_grad_norm)
        while accelerator.optimizer_step_was_skipped:  # fp16: gradients overflowed, and their scale is lower now
            check_finite(loss, job.title, step + 1)
            if accelerator.scaler.get_scale() < _SMALLEST_SCALE:
                exit_with_error(f"{job.title}: the gradients of step {step + 1} are not finite at any scale, {_CURE}")
            loss = _optimizer_step(accelerator, network, optimizer, of_step, step_batches, args.max_grad_norm)
        scheduler.step()
        step += 1
        if ema:
            ema.update(accelerator.unwrap_model(network), step=step)
        progress.update()

        if step % 20 == 0 or step == job.steps:
            check_finite(loss, job.title, step)
        if step % 20 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}")
            job.log({"loss": loss.item(), "learning_rate": scheduler.get_last_lr()[0]}, step)
        if step == job.steps:
            break
        if step % job.steps_per_epoch == 0 and args.eval_strategy == "epoch":
            figures = measure(validate())
            job.log(figures, step)
            if best_by and _is_better(figures, checkpoints.best, best_by):
                checkpoints.save_best(kept, {"step": step, best_by[0]: figures[best_by[0]]})
            if accelerator.is_main_process:
                progress.write(f"{job.title}: epoch {step // job.steps_per_epoch}, {_listed(figures)}")
            network.train()
        every = job.steps_per_epoch if args.checkpointing_steps == "epoch" else args.checkpointing_steps
        if every != "no" and step % int(every) == 0:
            check_finite(loss, job.title, step)
            check_weights(accelerator.unwrap_model(network), job.title, step)
            checkpoints.save(step)
    progress.close()

    outputs = validate()
    figures = measure(outputs)
    job.log(figures, step)
    record = {"seed": job.seed, "draws": job.steps * job.faces_per_step, "steps": job.steps}
    if checkpoints.best and not _is_better(figures, checkpoints.best, best_by):
        checkpoints.load_best(kept)
        outputs = predict(accelerator, kept, validation_batches)
        record["best_step"] = checkpoints.best["step"]
    return kept, outputs, record


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
        for backbone in backbones_in(accelerator.unwrap_model(network)):  # each learns as if it were alone
            torch.nn.utils.clip_grad_norm_(backbone.parameters(), max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    return torch.stack(losses).mean()


def known_per_batch(accelerator: Accelerator, targets: list[torch.Tensor]) -> torch.Tensor:
    """(n,) known values of each target (B, n) in all batches of a step, of all ranks, divided by the number of these
    batches: sums that are divided by it have as their mean, which is what Accelerate forms, the mean of the step."""
    counts = sum((~of_batch.isnan()).sum(dim=0) for of_batch in targets)
    return accelerator.reduce(counts.float(), "mean") / len(targets)


def not_decayed(network: torch.nn.Module) -> set[str]:
    """Names of the weights that timm's models say no decay is good for (tokens, tables of positions); biases and norms
    are known by their shape."""
    backbones = backbones_in(network)
    return {
        f"{prefix}.{name}".removeprefix(".")
        for prefix, module in network.named_modules()
        if any(module is backbone for backbone in backbones) and hasattr(module, "no_weight_decay")
        for name in module.no_weight_decay()
    }


def check_finite(loss: torch.Tensor, name: str, step: int) -> None:
    """End the run where it has diverged, before anything is saved of it."""
    if not torch.isfinite(loss):
        exit_with_error(f"{name}: the loss of step {step} is {loss.item()}, {_CURE}")


def check_weights(network: torch.nn.Module, name: str, step: int) -> None:
    """The same for the weights: a loss can be finite that was measured before the step which broke them."""
    floats = {key: values for key, values in network.state_dict().items() if values.is_floating_point()}
    finite = torch.stack([values.isfinite().all() for values in floats.values()]).tolist()
    if broken := [key for key, is_finite in zip(floats, finite, strict=True) if not is_finite]:
        exit_with_error(
            f"{name}: after step {step} {len(broken)} of {len(floats)} tensors ({broken[0]}) are not finite, {_CURE}"
        )


def _check_finite_outputs(outputs: dict[str, np.ndarray], name: str, step: int) -> None:
    for values in outputs.values():
        if wrong := int((~np.isfinite(values)).reshape(len(values), -1).any(axis=1).sum()):
            exit_with_error(
                f"{name}: after step {step} the network gives no numbers for {wrong} of {len(values)} faces, {_CURE}"
            )


def _share_buffers(accelerator: Accelerator, network: torch.nn.Module) -> None:
    """A moving average of each rank's own statistics becomes that of the main process, which will be saved."""
    for buffer in accelerator.unwrap_model(network).buffers():
        buffer.copy_(broadcast(buffer.clone()))


def _is_better(figures: dict, best: dict | None, best_by: tuple[str, int]) -> bool:
    """Something undefined (NaN) is better than nothing and worse than anything else."""
    name, sign = best_by
    return best is None or sign * figures[name] > sign * best[name] or np.isnan(best[name]) > np.isnan(figures[name])


def _listed(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
