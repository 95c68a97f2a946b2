#!/usr/bin/env python
"""Train an EBC: per expression an ensemble of binary classifiers, one-vs-rest (AffectNet+, arXiv 2410.22506, Fig. 2).

    accelerate launch training/train_ebc.py --data_dir /data/AffectNet+ --output_dir runs/ebc
    accelerate launch training/train_ebc.py --dataset_name FOLDER_OR_HUB_ID --output_dir runs/ebc

Expressions are trained one after the other and are independent of each other: --expressions trains some of them into
a folder that may already hold the others, so several machines can share the work. `accelerate launch --mixed_precision
bf16` and several processes work as usual.
"""

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from filelock import FileLock
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError as HTTPError
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import get_scheduler

from affectnet_plus import EXPRESSIONS, match_expressions
from modeling import (
    BinaryEnsemble,
    EBCConfig,
    EBCForImageClassification,
    ImageError,
    check_backbone,
    image_processor_for,
)
from training.arguments import DataArguments, OptimizationArguments, parse_arguments, stop
from training.calibration import fit_calibration
from training.checkpoints import find_checkpoints, read_state, remove_checkpoints, save_checkpoint, written_beside
from training.data import BalancedSampler, FaceDataset, Split, check_enough_rows, load_split
from training.metrics import OneVsRest, js_divergence


@dataclass
class EBCArguments:
    """What is trained."""

    backbones: list[str] = field(
        default_factory=lambda: list(EBCConfig().backbones),
        metadata={"help": "timm names; each expression gets one classifier of each. Default: the paper's three."},
    )
    image_size: int = field(default=224, metadata={"help": "Faces are scaled to this many pixels a side."})
    expressions: list[str] = field(
        default_factory=lambda: list(EXPRESSIONS), metadata={"help": f"Some of: {' '.join(EXPRESSIONS)}. Default: all."}
    )
    pretrained: bool = field(default=False, metadata={"help": "Start from timm's pretrained weights (needs the Hub)."})
    prior: str = field(
        default="validation",
        metadata={
            "help": "What scores are calibrated to: the frequencies of the validation split, or 'balanced', as if each "
            "expression were as frequent as all others together.",
            "choices": ["validation", "balanced"],
        },
    )

    def __post_init__(self):
        if self.image_size < 16:
            raise ValueError(f"--image_size is at least 16 pixels, not {self.image_size}.")


def main():
    data_args, args, ebc_args = parse_arguments(
        DataArguments, OptimizationArguments, EBCArguments, description=__doc__.split("\n\n")[0]
    )
    output_dir = Path(args.output_dir)
    # Everything the user can mend is said here, before any long work.
    try:
        expressions = [EXPRESSIONS[i] for i in sorted(match_expressions(ebc_args.expressions))]
        config = EBCConfig(backbones=ebc_args.backbones, image_size=ebc_args.image_size)
        for backbone in config.backbones:
            check_backbone(backbone, config.image_size)
        check_same_network(output_dir, config)
        accelerator = Accelerator(
            cpu=args.use_cpu,
            gradient_accumulation_steps=args.gradient_accumulation_steps,
            log_with=args.report_to,
            project_dir=args.output_dir,
        )
        with accelerator.main_process_first():  # the others find the cache
            if ebc_args.pretrained:
                BinaryEnsemble(config, pretrained=True)
            train = load_split(data_args, data_args.train_split_name, data_args.max_train_samples)
            evaluation = load_split(
                data_args, data_args.eval_split_name, data_args.max_eval_samples, with_soft_labels=True
            )
        check_enough_rows(train, evaluation, expressions)
        settings = run_settings(data_args, args, ebc_args, train, accelerator)
        checkpoints = {}
        if args.resume_from_checkpoint:
            finished = finished_expressions(output_dir, settings)
            expressions = [name for name in expressions if name not in finished]
            checkpoints = find_checkpoints(output_dir, args.resume_from_checkpoint)
            for expression in checkpoints.keys() & expressions:
                check_same_settings(checkpoints[expression], settings)
        if args.report_to and not accelerator.log_with:
            raise ValueError(f"--report_to {args.report_to} is not installed here: pip install {args.report_to}")
        if args.push_to_hub and accelerator.is_main_process:  # no access is better known now
            repo_id = HfApi().create_repo(args.hub_model_id or output_dir.name, private=True, exist_ok=True).repo_id
    except (ValueError, OSError, ImportError, HTTPError) as error:
        stop(error)
    if accelerator.is_main_process:
        output_dir.mkdir(parents=True, exist_ok=True)
    if args.report_to:
        settings_of_run = {key: str(value) for a in (data_args, args, ebc_args) for key, value in vars(a).items()}
        accelerator.init_trackers("train_ebc", config=settings_of_run)

    try:
        for expression in expressions:
            checkpoint = checkpoints.get(expression)
            train_expression(accelerator, args, ebc_args, config, settings, train, evaluation, expression, checkpoint)
        evaluate_folder(accelerator, args, evaluation)
    except ImageError as error:  # from a worker it comes with a traceback in its text
        stop(str(error).strip().splitlines()[-1].partition("ImageError: ")[2] or error)
    if args.push_to_hub and accelerator.is_main_process:
        EBCForImageClassification.from_pretrained(output_dir).push_to_hub(repo_id, private=True)
    accelerator.end_training()


def train_expression(accelerator, args, ebc_args, config, settings, train, evaluation, expression, checkpoint):
    """Train one expression's classifiers on shared batches, calibrate them, and save them into the model folder."""
    output_dir = Path(args.output_dir)
    index = EXPRESSIONS.index(expression)
    seed = args.seed * len(EXPRESSIONS) + index  # the same whichever expressions are trained beside it
    faces_per_step = args.per_device_train_batch_size * accelerator.num_processes * args.gradient_accumulation_steps
    steps_per_epoch = max(1, round(len(train) / faces_per_step))
    max_steps = args.max_train_steps or math.ceil(args.num_train_epochs * steps_per_epoch)

    set_seed(seed)
    ensemble = BinaryEnsemble(config, pretrained=ebc_args.pretrained)
    optimizer = torch.optim.AdamW(ensemble.parameters(), lr=args.learning_rate, weight_decay=args.weight_decay)
    warmup_steps = args.warmup_steps if args.warmup_steps >= 1 else args.warmup_steps * max_steps
    scheduler = get_scheduler(  # Accelerate steps it once per process
        args.lr_scheduler_type,
        optimizer,
        num_warmup_steps=int(warmup_steps) * accelerator.num_processes,
        num_training_steps=max_steps * accelerator.num_processes,
    )
    ensemble, optimizer, scheduler = accelerator.prepare(ensemble, optimizer, scheduler)

    step = 0
    if checkpoint is not None:
        accelerator.load_state(checkpoint)
        step = read_state(checkpoint)["step"]

    image_processor = image_processor_for(config)
    workers = {"num_workers": args.dataloader_num_workers, "pin_memory": accelerator.device.type == "cuda"}
    sampler = BalancedSampler(
        train.labels == index, seed, num_draws=max_steps * faces_per_step, start=step * faces_per_step
    )
    train_loader = accelerator.prepare(
        DataLoader(
            FaceDataset(train, image_processor), args.per_device_train_batch_size, sampler=sampler,
            generator=torch.Generator().manual_seed(seed), **workers,
        )
    )  # fmt: skip
    eval_loader = accelerator.prepare(
        DataLoader(FaceDataset(evaluation, image_processor), args.per_device_eval_batch_size, **workers)
    )

    first_step = index * max_steps  # for trackers, whose steps may only grow
    progress = tqdm(total=max_steps, initial=step, desc=expression, disable=not accelerator.is_local_main_process)
    ensemble.train()
    for batch in train_loader:
        with accelerator.accumulate(ensemble):
            log_odds = ensemble(batch["pixel_values"])  # (B, backbones)
            target = (batch["labels"] == index).float()[:, None].expand_as(log_odds)
            loss = F.binary_cross_entropy_with_logits(log_odds, target)
            # Summed over the backbones: each learns as if it were alone.
            accelerator.backward(loss * log_odds.shape[1])
            if accelerator.sync_gradients and args.max_grad_norm:
                accelerator.unscale_gradients()
                for classifier in accelerator.unwrap_model(ensemble).classifiers:
                    torch.nn.utils.clip_grad_norm_(classifier.parameters(), args.max_grad_norm)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        if not accelerator.sync_gradients:
            continue
        step += 1
        progress.update()
        if step % 20 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}")
            figures = {f"{expression}/loss": loss.item(), f"{expression}/learning_rate": scheduler.get_last_lr()[0]}
            accelerator.log(figures, first_step + step)
        if step == max_steps:
            break
        if step % steps_per_epoch == 0 and args.eval_strategy == "epoch":
            log_odds, labels = predict(accelerator, ensemble, eval_loader)
            scores = one_vs_rest([expression], log_odds.mean(axis=1, keepdims=True), np.where(labels == index, 0, -1))
            accelerator.log({f"{expression}/auroc": scores["mean_auroc"]}, first_step + step)
            if accelerator.is_main_process:
                progress.write(f"{expression}: epoch {step // steps_per_epoch}, AUROC {scores['mean_auroc']:.4f}")
            ensemble.train()
        every = steps_per_epoch if args.checkpointing_steps == "epoch" else args.checkpointing_steps
        if every != "no" and step % int(every) == 0:
            save_checkpoint(accelerator, output_dir, {"expression": expression, "step": step, "settings": settings})
    progress.close()

    log_odds, labels = predict(accelerator, ensemble, eval_loader)
    fitted = fit_calibration(log_odds, labels == index, ebc_args.prior)
    combined = log_odds @ np.array(fitted["backbone_weights"])[:, None]
    scores = one_vs_rest([expression], combined, np.where(labels == index, 0, -1))
    record = {
        **settings,
        "sampler": {"name": "balanced", "seed": seed, "share_of_expression": 0.5, "draws": max_steps * faces_per_step},
        "rows_of_expression": int((train.labels == index).sum()),
        "steps": max_steps,
        "auroc": scores["mean_auroc"],
        "average_precision": scores["mean_average_precision"],
    }
    figures = {f"{expression}/{name}": record[name] for name in ("auroc", "average_precision")}
    accelerator.log(figures, first_step + max_steps)
    if accelerator.is_main_process:
        print(f"{expression}: AUROC {record['auroc']:.4f}, average precision {record['average_precision']:.4f}")
        ensemble = accelerator.unwrap_model(ensemble, keep_fp32_wrapper=False, keep_torch_compile=False)
        complete_folder(output_dir, config, expression, ensemble, fitted, record)
        remove_checkpoints(output_dir, expression)
    accelerator.wait_for_everyone()
    accelerator.free_memory()


@torch.no_grad()
def predict(accelerator: Accelerator, model, loader) -> tuple[np.ndarray, np.ndarray]:
    """What `model` puts out, or its `logits`, (N, ...), and labels (N,), over the rows of all ranks in order."""
    model.eval()
    outputs, labels = [], []
    for batch in loader:
        output = model(batch["pixel_values"])
        output, label = accelerator.gather_for_metrics((getattr(output, "logits", output), batch["labels"]))
        outputs.append(output.float().cpu().numpy())
        labels.append(label.cpu().numpy())
    return np.concatenate(outputs).astype(np.float64), np.concatenate(labels)


def one_vs_rest(expressions: list[str], scores: np.ndarray, labels: np.ndarray) -> dict:
    return OneVsRest(expressions, keep_in_memory=True).compute(predictions=scores.tolist(), references=labels.tolist())


def complete_folder(output_dir, config, expression, ensemble, fitted, record) -> None:
    """Save the model of all expressions that the folder held and this one; whole at every moment."""
    with FileLock(output_dir / ".lock"):  # another run may bring another expression
        check_same_network(output_dir, config)
        held = EBCForImageClassification.from_pretrained(output_dir) if (output_dir / "config.json").exists() else None
        ensembles = {**(held.ensembles if held else {}), expression: ensemble.cpu()}
        names = [name for name in EXPRESSIONS if name in ensembles]
        config = EBCConfig.from_dict(
            config.to_dict()
            | {
                "id2label": dict(enumerate(names)),
                "calibration": {**(held.config.calibration if held else {}), expression: fitted},
                "training": {**(held.config.training if held else {}), expression: record},
            }
        )
        with torch.device("meta"):  # only the frame: every ensemble is put in
            model = EBCForImageClassification(config)
        model.ensembles = torch.nn.ModuleDict({name: ensembles[name] for name in names})
        with written_beside(output_dir) as folder:
            model.save_pretrained(folder)


def evaluate_folder(accelerator, args, evaluation: Split) -> None:
    """Measure the model as it was saved: metrics.json with AUROC, accuracy and, where there are soft labels, JS."""
    output_dir = Path(args.output_dir)
    model = EBCForImageClassification.from_pretrained(output_dir)
    expressions = model.config.expressions
    dataset = FaceDataset(evaluation, model.image_processor)
    loader = accelerator.prepare(
        DataLoader(dataset, args.per_device_eval_batch_size, num_workers=args.dataloader_num_workers)
    )
    outputs, labels = predict(accelerator, accelerator.prepare_model(model, evaluation_mode=True), loader)
    if not accelerator.is_main_process:
        return
    own = [EXPRESSIONS.index(name) for name in expressions]
    scores = 1 / (1 + np.exp(-outputs))
    metrics = one_vs_rest(expressions, scores, np.array([own.index(i) if i in own else -1 for i in labels]))
    if len(own) == len(EXPRESSIONS):
        metrics["accuracy"] = float((scores.argmax(axis=1) == labels).mean())
        if evaluation.soft_labels is not None:
            metrics["js_divergence"] = js_divergence(scores, evaluation.soft_labels)
    metrics["rows"] = len(labels)
    (output_dir / "metrics.json").write_text(json.dumps(metrics, indent=1))
    print(json.dumps(metrics, indent=1))


def run_settings(data_args, args, ebc_args, train: Split, accelerator: Accelerator) -> dict:
    """What decides the weights; stands in the config, and a resumed run has to agree with it."""
    return {
        "data": Path(data_args.dataset_name or "AffectNet+").name,  # no path of this machine goes into a card
        "data_config": data_args.dataset_config_name or "default",
        "split": data_args.train_split_name,
        "label_column": data_args.label_column_name,
        "rows": len(train),
        "labels_sha256": hashlib.sha256(train.labels.astype("int8").tobytes()).hexdigest()[:16],
        "backbones": list(ebc_args.backbones),
        "image_size": ebc_args.image_size,
        "num_train_epochs": args.num_train_epochs,
        "max_train_steps": args.max_train_steps,
        "faces_per_step": args.per_device_train_batch_size
        * args.gradient_accumulation_steps
        * accelerator.num_processes,
        "learning_rate": args.learning_rate,
        "weight_decay": args.weight_decay,
        "max_grad_norm": args.max_grad_norm,
        "lr_scheduler_type": args.lr_scheduler_type,
        "warmup_steps": args.warmup_steps,
        "seed": args.seed,
        "pretrained": ebc_args.pretrained,
        "prior": ebc_args.prior,
        "mixed_precision": accelerator.mixed_precision,
    }


def check_same_network(output_dir: Path, config: EBCConfig) -> None:
    if not (output_dir / "config.json").exists():
        return
    held = EBCConfig.from_pretrained(output_dir)
    for key in ("backbones", "image_size"):
        if getattr(held, key) != getattr(config, key):
            raise ValueError(
                f"{output_dir} holds a model with {key} {getattr(held, key)}, this run has {getattr(config, key)}: "
                "name another --output_dir, or delete that one."
            )


def finished_expressions(output_dir: Path, settings: dict) -> set[str]:
    """Expressions that a run with these settings has completed in this folder."""
    if not (output_dir / "config.json").exists():
        return set()
    training = EBCConfig.from_pretrained(output_dir).training
    return {name for name, record in training.items() if settings.items() <= record.items()}


def check_same_settings(checkpoint: Path, settings: dict) -> None:
    saved = read_state(checkpoint)["settings"]
    differing = [
        f"{key} (was {saved.get(key)}, now {settings[key]})" for key in settings if saved.get(key) != settings[key]
    ]
    if differing:
        raise ValueError(
            f"{checkpoint} comes from a run with other settings: {', '.join(differing)}. "
            "Take the same ones, or leave --resume_from_checkpoint out."
        )


if __name__ == "__main__":
    main()
