"""The settings that decide a network's weights: whoever goes on where a run stopped has to agree with them, and nobody
overwrites a finished network unasked."""

import hashlib
import json
from pathlib import Path

from accelerate import Accelerator

from affectnet_plus import EXPRESSIONS
from affectnet_plus.modeling import INPUT_SETTINGS, SoftFerConfig, read_config
from affectnet_plus.releases.expressions import listed
from affectnet_plus.releases.files import shortened
from affectnet_plus.training.faces import Split, described_corrections
from affectnet_plus.training.loop.checkpoints import find_checkpoints, read_state
from affectnet_plus.training.loop.folders import finish_moves, locked_if_shared
from affectnet_plus.training.loop.initial_weights import WARM_START

_SETTINGS_SHOWN = 4


def run_settings(data_args, args, kind_args, train: Split, accelerator: Accelerator) -> dict:
    """What decides the weights; stands in the config, and a resumed run has to agree with it."""
    elsewhere = (
        "expressions", "share_backbones", "au_labels", "au_target", "soft_labels", "soft_labels_column",
        "soft_labels_order", "init_from", "teacher", "jobs",
    )  # fmt: skip
    of_kind = {key: value for key, value in vars(kind_args).items() if key not in elsewhere}
    if args.eval_strategy == "no" and of_kind.get("metric_for_best_model"):
        of_kind["metric_for_best_model"] = "last"  # nothing is measured to choose by
    return {
        "data": data_args.name(),
        "data_config": data_args.dataset_config_name or "default",
        "split": data_args.train_split_name,
        "label_column": data_args.label_column_name,
        "corrections": described_corrections(data_args.corrections),
        "rows": len(train),
        **({"rows_by_dataset": by_dataset} if (by_dataset := train.rows_by_dataset()) else {}),
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
        **({"torch_compile": True} if args.torch_compile else {}),
    }


def shares_of_a_step(accelerator: Accelerator, args) -> dict:
    """How the faces of a step are dealt out: another number of processes cannot go on at a checkpoint."""
    return {"processes": accelerator.num_processes, "gradient_accumulation_steps": args.gradient_accumulation_steps}


def left_to_train(
    output_dir: Path, names: list[str], own: list[str], args, config, settings: dict, settings_of_step: dict
) -> tuple[list[str], dict[str, Path], bool]:
    """Which of this process's `own` networks are still to be trained, their checkpoints, and whether all of these
    `names` are finished; `ValueError` where that would mix this run with another, or overwrite something unasked."""
    with locked_if_shared(output_dir):
        finish_moves(output_dir)
        check_same_network(output_dir, config)
        records = records_in(output_dir)
        others = {json.dumps(record.get("prior")) for name, record in records.items() if name not in names}
        if others - {json.dumps(settings.get("prior"))}:
            raise ValueError(
                f"{output_dir} holds other experts with --prior {', '.join(sorted(others))}, this run has "
                f"{json.dumps(settings.get('prior'))}: one model has one prior. Take that one."
            )
        wanted = args.resume_from_checkpoint or "latest"
        checkpoints = find_checkpoints(output_dir, wanted, own)
        if not args.resume_from_checkpoint:
            if not args.overwrite_output_dir:
                check_nothing_is_lost(output_dir, own, records, checkpoints, settings)
            return own, {}, False
        to_train = [name for name in own if not are_finished([name], records, settings)]
        left = [*to_train, *[WARM_START] * bool(settings.get("warm_start_epochs"))]
        if wanted != "latest" and (others := checkpoints.keys() - {*left}):
            raise ValueError(
                f"--resume_from_checkpoint {wanted} is of {others.pop()!r}, and what is left to train here is "
                f"{listed(left) or 'nothing'}: name a checkpoint of that, or say 'latest'."
            )
        for name in to_train:
            if name in checkpoints:
                saved = read_state(checkpoints[name])["settings"]
                check_same_settings(checkpoints[name], name, saved, settings_of_step)
            elif name in records:
                check_same_settings(output_dir, name, records[name], settings)
        return to_train, checkpoints, are_finished(names, records, settings)


def are_finished(names: list[str], records: dict[str, dict], settings: dict) -> bool:
    """Whether there are records of all these networks, by these settings."""
    return all(settings.items() <= records.get(name, {}).items() for name in names)


def check_same_network(output_dir: Path, config) -> None:
    if not (output_dir / "config.json").exists():
        return
    there = read_config(output_dir)
    of_network = ("model_type", "backbones", "backbone", "action_units", "rest_outputs", "shared_backbones")
    of_network = (*of_network, "valence_arousal")
    if config.model_type == SoftFerConfig.model_type:  # experts complete each other
        of_network = (*of_network, "expressions")
    for key in (*of_network, "activation", "backbone_normalization", *INPUT_SETTINGS):
        ours, theirs = (list(v) if isinstance(v := getattr(c, key, None), tuple) else v for c in (config, there))
        if ours != theirs:
            raise ValueError(
                f"{output_dir} holds a model with {key} {theirs}, this run has {ours}: "
                "name another --output_dir, or delete that one."
            )


def records_in(output_dir: Path) -> dict[str, dict]:
    """The record of each network that a run has completed in this folder."""
    if not (output_dir / "config.json").exists():
        return {}
    config = read_config(output_dir)
    if getattr(config, "shared_backbones", False):  # one network, with an entry for each expression
        return {"all": next(iter(config.training.values()), {})}
    return config.training


def check_nothing_is_lost(
    output_dir: Path, names: list[str], records: dict[str, dict], checkpoints: dict[str, Path], settings: dict
) -> None:
    """A run that trains networks of these `names` anew replaces no finished one and no checkpoint of theirs without
    being told to."""
    finished, begun = ([name for name in names if name in there] for there in (records, checkpoints))
    if not finished and not begun:
        return
    if finished:
        what = f"finished experts ({', '.join(finished)})" if finished[0] in EXPRESSIONS else "a finished model"
        differing = _differing(records[finished[0]], settings)
    else:
        what = f"{checkpoints[begun[0]].name} of a run that was not finished"
        differing = _differing(read_state(checkpoints[begun[0]])["settings"], settings)
    others = f", of other settings: {_first(differing)}" if differing else ""
    raise ValueError(
        f"{output_dir} holds {what}{others}. Name another --output_dir; or go on there, keeping what is finished, by "
        "--resume_from_checkpoint latest with the same settings; or train anew by --overwrite_output_dir (only what "
        "is trained is replaced: one expert, say, by --expressions)."
    )


def check_same_settings(folder: Path, name: str, saved: dict, settings: dict) -> None:
    if differing := _differing(saved, settings):
        longer = {"num_train_epochs", "max_train_steps"} & {text.split()[0] for text in differing}
        start = (
            "a Soft-FER model's weights, or these experts' own warm start"
            if "rest_outputs" in settings
            else "this one's weights"
        )
        cure = f" More steps are a new run, in another --output_dir; --init_from starts it from {start}."
        raise ValueError(
            f"{folder} comes from a run with other settings: {_first(differing)}. Take the same ones, or train anew "
            f"by --overwrite_output_dir, without --resume_from_checkpoint.{cure if longer else ''}"
        )


def _differing(saved: dict, settings: dict) -> list[str]:
    return [f"{key} (was {saved.get(key)}, now {settings[key]})" for key in settings if saved.get(key) != settings[key]]


def _first(differing: list[str]) -> str:
    """All of a few; of many, as where the settings are damaged, the first."""
    more = len(differing) - _SETTINGS_SHOWN
    shown = [shortened(text) for text in differing[:_SETTINGS_SHOWN]]
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
