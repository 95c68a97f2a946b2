#!/usr/bin/env python
"""Make soft labels: EBC and AU experts, fused, on faces that they were not trained on.

    accelerate launch training/label.py --data_dir R --ebc runs/ebc --au runs/au --output_dir runs/soft
    accelerate launch training/label.py --image_dir FACES --model runs/soft --output_dir runs/faces
    accelerate launch training/label.py --labels runs/soft --prior balanced --output_dir runs/soft-balanced

Writes Parquet: split, image_id, and ebc, au, soft_label (8 scores each, six decimals, AffectNet's order), human_label
(an index in that order), its rank among the fused scores, subset (0 easy: rank 1; 1 challenging: 2 or 3; 2 difficult)
and posterior (8 scores: soft_label and human label together, `affectnet_plus.training.evidence`). Scores are calibrated
to the class frequencies --prior, by default the experts' own; --labels expresses labels anew for others, without a
network. Experts that were trained in folds (--num_folds) label the rows they have not seen, and copies of these; all
other rows get the mean of the folds. Killed at any moment, the same command goes on at the last whole file. Several
processes share the files.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from scipy.special import expit
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForImageClassification

from affectnet_plus import EXPRESSIONS, SUBSETS
from affectnet_plus.modeling import FusedConfig, ImageError
from affectnet_plus.training.arguments import (
    DataArguments,
    TrainingDataArguments,
    parse_arguments,
    prior_of_words,
    stop,
    stop_at_image,
)
from affectnet_plus.training.calibration import class_frequencies, prior_numbers, reexpress
from affectnet_plus.training.checkpoints import held, written_beside
from affectnet_plus.training.data import (
    FaceDataset,
    Split,
    files_of,
    images_in,
    load_rows,
    load_split,
    read_soft_labels,
    split_to_label,
)
from affectnet_plus.training.evidence import PRECISION, fit_precision, posterior_of
from affectnet_plus.training.experts import check_outputs, main_process_prepares, share_contents
from affectnet_plus.training.fusion import calibrate_to, fit_fusion, fused_model
from affectnet_plus.training.metrics import js_divergence, ranks_of
from affectnet_plus.training.metrics.slices import subsets_of_ranks
from affectnet_plus.training.write_release import check_target, write_release

SCORES = ("ebc", "au", "soft_label")
DECIMALS = 6  # more than the four that are released: labels may yet be expressed for another prior
UNKNOWN_PRIOR = "unknown (before priors were recorded)"
_CARD = """---
configs:
- config_name: default
  data_files:
{files}
---
# Soft labels

Made by `training/label.py` of affectnet-plus from {data}: `{scores}` are scores in the order {expressions};
`human_label` is an index in that order, `rank` its place among `soft_label`, `subset` 0 easy (rank 1), 1 challenging (2
or 3), 2 difficult. `posterior` is `soft_label` after one human label more: ({precision:.4g} * score + [human label is
this one]) / ({precision:.4g} + 1), affectnet-plus's own.

Class frequencies that scores are calibrated to (prior): {prior}. `label.py --labels` expresses them for others.
`label.json` says by which experts.
"""


@dataclass
class LabelArguments:
    """What labels what."""

    output_dir: str = field(metadata={"help": "Folder for the labels, and for the fused model that makes them."})
    ebc: str | None = field(default=None, metadata={"help": "Folder of train_ebc.py."})
    au: str | None = field(default=None, metadata={"help": "Folder of train_au.py, with the same folds or none."})
    model: str | None = field(
        default=None, metadata={"help": "Instead of both: a folder of label.py, or a fused model (folder or Hub id)."}
    )
    image_dir: str | None = field(
        default=None, metadata={"help": "Label the face images in this folder, instead of a release or dataset."}
    )
    labels: str | None = field(
        default=None,
        metadata={"help": "Express the labels in this folder of label.py anew, by --prior and --prior_precision."},
    )
    prior: list[str] = field(
        default_factory=list,
        metadata={
            "help": "The class frequencies that labels are calibrated to: those of the human labels in the `train` or "
            "`validation` split, `balanced`, or eight numbers. Default: the experts'."
        },
    )
    prior_precision: str = field(
        default=str(PRECISION),
        metadata={
            "help": "How many votes the experts' scores count for beside the one human label in the column "
            "`posterior`; `fit`: fitted on validation, where a dataset's soft labels are shares of people's votes."
        },
    )
    write_release: str | None = field(
        default=None,
        metadata={"help": "Also write images and labels there as a release in the layout of AffectNet+."},
    )
    splits: list[str] = field(default_factory=list, metadata={"help": "Which splits. Default: all."})
    max_samples: int | None = field(default=None, metadata={"help": "Label the first N rows of each split only."})
    mirrored: bool = field(
        default=False,
        metadata={
            "help": "Let --ebc and --au look at each face and its mirror image: better scores at twice the time."
        },
    )
    per_device_batch_size: int = field(default=64, metadata={"help": "Faces per device and step."})
    rows_per_file: int = field(default=2000, metadata={"help": "Rows of one file: what a kill can cost."})
    dataloader_num_workers: int = field(default=2, metadata={"help": "Processes that decode images, per device."})
    use_cpu: bool = field(default=False, metadata={"help": "Run on the CPU even where there is an accelerator."})

    def __post_init__(self):
        named = bool(self.model) + bool(self.ebc and self.au) + bool(self.labels)
        if named != 1 or bool(self.ebc) != bool(self.au):
            raise ValueError(
                "Name the experts: --ebc and --au together, or --model, a model that has both; or name --labels that "
                "they have made."
            )
        self.prior = prior_of_words(self.prior) if self.prior else None
        if self.prior_precision != "fit":
            self.prior_precision = _precision(self.prior_precision)
        if self.labels and (self.image_dir or self.write_release or self.splits or self.max_samples or self.mirrored):
            raise ValueError(
                "--labels goes with --prior, --prior_precision and --output_dir only: for anything else label faces by "
                "--ebc and --au, or --model."
            )
        if self.model and self.mirrored:
            raise ValueError("--mirrored is for fusing --ebc and --au; a fused --model mirrors if it was made so.")
        for name in ("per_device_batch_size", "rows_per_file", "max_samples"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"--{name} has to be above 0, not {getattr(self, name)}.")


def _precision(word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf"):
        raise ValueError(f"--prior_precision is a number of votes above 0, or fit, not {word!r}.")
    return number


def main():
    data_args, args = parse_arguments(DataArguments, LabelArguments, description=__doc__.split("\n\n")[0])
    output_dir = Path(args.output_dir)
    # Everything the user can mend is said here, before any long work.
    try:
        accelerator = Accelerator(cpu=args.use_cpu)
        if args.labels:
            if accelerator.is_main_process:
                express_anew(data_args, args, output_dir)
            return
        folds = find_folds(args)
        with main_process_prepares(accelerator):  # the others find the cache
            splits = load(data_args, args)
            evaluation = load_evaluation(data_args) if args.ebc or args.prior_precision == "fit" else None
            prior = prior_of_labels(args, prior_of(folds), lambda split: labels_of(data_args, folds, split, evaluation))
            known = known_rows(data_args, args, folds, splits)
        settings = label_settings(data_args, args, splits, folds, accelerator, prior)
        if args.prior_precision == "fit":
            check_votes(data_args, evaluation)
        seen = seen_splits(splits, folds, settings)
        if known is not None or (None not in folds and seen and folds_by(folds) == "content"):
            share_contents(accelerator, [*splits, *([known] if known is not None else [])])
        shards = plan_shards(splits, folds, seen, args.rows_per_file, folds_by(folds), known)
        precision = check_settings(output_dir, settings)
        if args.write_release:
            check_target(Path(args.write_release), splits)
    except (ValueError, OSError) as error:
        stop(error)
    if accelerator.is_main_process:
        warn_of_seen_rows(folds, seen)
        write_settings(output_dir, settings)

    try:
        models = {fold: output_dir / ("model" if fold is None else f"models/fold-{fold}") for fold in folds}
        if args.model:
            models = {fold: kinds["model"] for fold, kinds in folds.items()}
        else:
            not_there = [fold for fold in folds if not (models[fold] / "config.json").exists()]
            for fold in broadcast_object_list([not_there])[0]:  # the main process's word
                fuse(accelerator, args, folds[fold], evaluation, models[fold], prior)
        if precision is None:
            precision = fit_on(accelerator, args, models, evaluation, prior)
            settings["posterior"]["prior_precision"] = precision
            if accelerator.is_main_process:
                write_settings(output_dir, settings)
        # The main process looks what is there already, so that all deal the rest out alike. Neighbours share a model.
        (todo,) = broadcast_object_list([[i for i, shard in enumerate(shards) if not (output_dir / shard[0]).exists()]])
        rank, ranks = accelerator.process_index, accelerator.num_processes
        own = [shards[i] for i in todo[rank * len(todo) // ranks : (rank + 1) * len(todo) // ranks]]
        label(accelerator, args, own, models, output_dir, prior, precision)
    except ImageError as error:
        stop_at_image(error)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        for leftover in output_dir.glob(".*.parquet.*"):  # of a killed run
            leftover.unlink()
        write_card(output_dir, settings)
        report(output_dir, splits, evaluation)
        if args.write_release:
            write_release(Path(args.write_release), splits, output_dir, show_progress=True)


def find_folds(args) -> dict[int | None, dict[str, str]]:
    """{fold, or None where there are none: {"ebc": folder, "au": folder} or {"model": ...}}."""
    if args.model:
        folds = {int(path.name[5:]): {"model": str(path)} for path in sorted(Path(args.model).glob("models/fold-*"))}
        if (Path(args.model) / "model").is_dir():
            folds = {None: {"model": str(Path(args.model) / "model")}}
        folds = folds or {None: {"model": args.model}}
        for kinds in folds.values():
            if AutoConfig.from_pretrained(kinds["model"]).model_type != FusedConfig.model_type:
                raise ValueError(f"--model {kinds['model']} is not a fused model: give --ebc and --au.")
        trained = {record.get("num_folds") for part in experts_of(folds) for record in part.training.values()}
        if None not in folds and trained != {len(folds)}:
            raise ValueError(f"--model {args.model} has {len(folds)} of its folds only: run its label.py to the end.")
        return folds
    found = {}
    for kind in ("ebc", "au"):
        folder = Path(getattr(args, kind))
        folds = sorted(int(path.name[5:]) for path in folder.glob("fold-*") if path.name[5:].isdigit())
        whole = (folder / "config.json").exists()
        if whole == bool(folds):
            what = "holds a model and folds" if whole else "holds no model (config.json) and no fold-0"
            raise ValueError(f"--{kind} {folder} {what}: name a folder that train_{kind}.py wrote.")
        for fold in folds or [None]:
            path = folder / (f"fold-{fold}" if folds else "")
            config = AutoConfig.from_pretrained(path)
            if config.model_type != f"affectnet_plus_{kind}":
                raise ValueError(f"--{kind} {path} is a {config.model_type}: name a folder that train_{kind}.py wrote.")
            if tuple(config.expressions) != EXPRESSIONS:
                missing = [name for name in EXPRESSIONS if name not in config.expressions]
                raise ValueError(f"--{kind} {path} lacks {', '.join(missing)}: train_{kind}.py --expressions ...")
            if folds and {record.get("num_folds") for record in config.training.values()} != {len(folds)}:
                raise ValueError(f"--{kind} {folder} has {len(folds)} of its folds only: train the others, too.")
            found.setdefault(fold, {})[kind] = str(path)
    if any(len(kinds) < 2 for kinds in found.values()):
        raise ValueError(f"--ebc {args.ebc} and --au {args.au} do not have the same folds: train both alike.")
    for kinds in found.values():
        FusedConfig(**{kind: AutoConfig.from_pretrained(path) for kind, path in kinds.items()})  # do they fit?
    prior_of(found)
    folds_by(found)
    return found


def load_evaluation(data_args) -> Split:
    """The labelled rows on which experts are fused: of all expressions and subsets, whatever is labelled."""
    return load_split(of_all_labelled(data_args), data_args.eval_split_name, with_soft_labels=True)


def of_all_labelled(data_args):
    if data_args.dataset_config_name in (*SUBSETS, "human_annotated_all", "no_human_annotated"):
        return replace(data_args, dataset_config_name="human_annotated")
    return data_args


def load(data_args, args) -> list[Split]:
    """The rows to label."""
    if args.image_dir:
        if not args.model:
            raise ValueError("--image_dir needs --model: there are no validation labels to fuse --ebc and --au on.")
        return [first_rows(images_in(args.image_dir, data_args.on_error), args.max_samples)]
    rows = load_rows(data_args)
    if unknown := [name for name in args.splits if name not in rows]:
        raise ValueError(f"The dataset has no split {unknown[0]!r}, only {', '.join(rows)}: see --splits.")
    if args.write_release and data_args.dataset_config_name == "human_annotated_all":
        raise ValueError(
            "--write_release writes rows with one of the eight expressions, or none: not human_annotated_all."
        )
    return [first_rows(split_to_label(rows[name], data_args), args.max_samples) for name in args.splits or rows]


def first_rows(split: Split, max_samples: int | None) -> Split:
    return split if max_samples is None else split.select(np.arange(min(max_samples, len(split))))


def plan_shards(
    splits: list[Split], folds: dict, seen: list[str], rows_per_file: int, by: str = "id", known: Split | None = None
) -> list[tuple[str, Split, np.ndarray, list]]:
    """(file name, split, rows, folds whose experts label them), as many rows as go into a file. `known`: the rows that
    experts were trained on, whose copies in other splits are labelled by the experts that have not seen them."""
    shards = []
    for split in splits:
        seen_rows = np.full(len(split), split.name in seen)
        if known is not None and known.contents is not None and split.contents is not None:
            seen_rows |= np.isin(split.contents, known.contents)
        groups = [(np.arange(len(split)), list(folds))]
        if None not in folds and seen_rows.any():
            fold_of = split.folds(len(folds), by)
            of_fold = [(np.flatnonzero(seen_rows & (fold_of == fold)), [fold]) for fold in folds]
            groups = [(np.flatnonzero(~seen_rows), list(folds)), *of_fold]
        parts = [
            (rows[start : start + rows_per_file], labelled_by)
            for rows, labelled_by in groups
            for start in range(0, len(rows), rows_per_file)
        ]
        for number, (rows, labelled_by) in enumerate(parts):
            shards.append((f"{split.name}-{number:05d}-of-{len(parts):05d}.parquet", split, rows, labelled_by))
    return shards


def folds_by(folds: dict) -> str:
    """What the experts' folds go by, "content" or "id"; `ValueError` where they do not agree."""
    found = {record.get("folds_by", "id") for part in experts_of(folds) for record in part.training.values()}
    if len(found) > 1:
        raise ValueError("The experts' folds go by the images' content and by ids: train all of them with one version.")
    return found.pop() if found else "id"


def known_rows(data_args, args, folds: dict, splits: list[Split]) -> Split | None:
    """The rows that experts in folds by content were trained on, where this dataset has them; else None."""
    records = [record for part in experts_of(folds) for record in part.training.values()]
    if None in folds or args.image_dir or folds_by(folds) != "content" or records[0]["data"] != data_args.name():
        return None
    config_name, split = (records[0][key] for key in ("data_config", "split"))
    there = [rows for rows in splits if rows.name == split and args.max_samples is None]
    if there and config_name == (data_args.dataset_config_name or "default"):
        return there[0]  # so that its images are hashed only once
    wanted = replace(data_args, dataset_config_name=None if config_name == "default" else config_name)
    rows = load_rows(wanted)
    return split_to_label(rows[split], wanted) if split in rows else None


def seen_splits(splits: list[Split], folds: dict, settings: dict) -> list[str]:
    """Splits that experts may have been trained on; `ValueError` where their folds would be others.

    Going by names, so that no row is labelled by an expert that has seen it also where a dataset goes by another name,
    as an exported release does.
    """
    seen = set()
    records = [record for part in experts_of(folds) for record in part.training.values()]
    for split in splits if settings["data_config"] != "no_human_annotated" else ():
        for record in records:
            if record.get("split") != split.name:
                continue
            if record.get("folds_by") == "content" or record.get("ids") == split.id_source:
                seen.add(split.name)
            elif record.get("data") == settings["data"]:
                raise ValueError(
                    f"The experts know the rows of {split.name} by {record.get('ids')}, these rows have "
                    f"{split.id_source}: label the very dataset that they were trained on."
                )
    return sorted(seen)


def experts_of(folds: dict) -> list:
    """The configs of all EBCs and AU experts."""
    configs = [AutoConfig.from_pretrained(path) for kinds in folds.values() for path in kinds.values()]
    return [part for c in configs for part in ((c.ebc, c.au) if hasattr(c, "ebc") else (c,))]


def prior_of(folds: dict) -> np.ndarray | None:
    """(8,) the class frequencies that experts, or a fused model, are calibrated to; None where none of them knows, and
    `ValueError` where they do not agree."""
    configs = [AutoConfig.from_pretrained(path) for kinds in folds.values() for path in kinds.values()]
    priors = [None if c.prior is None else np.array([c.prior[name] for name in EXPRESSIONS]) for c in configs]
    for other in priors[1:]:
        if (other is None) != (priors[0] is None):
            raise ValueError(
                f"Some experts are calibrated to {UNKNOWN_PRIOR} class frequencies: train all of them anew."
            )
        if other is not None and (apart := np.abs(other - priors[0])).max() > 1e-6:
            i = int(apart.argmax())
            raise ValueError(
                f"The experts are calibrated to different class frequencies ({EXPRESSIONS[i]} {priors[0][i]:.4f} and "
                f"{other[i]:.4f}): train all of them with one --prior to fuse them."
            )
    return priors[0]


def prior_of_labels(args, from_prior: np.ndarray | None, labels_of: Callable[[str], np.ndarray]) -> np.ndarray | None:
    """(8,) what labels shall be calibrated to, where scores are to `from_prior`, None if that is unknown."""
    if args.prior is None:
        return from_prior
    if from_prior is None:
        raise ValueError(
            f"--prior: what these scores are calibrated to is {UNKNOWN_PRIOR}. Leave --prior out, or train the experts "
            "anew."
        )
    prior = prior_numbers(args.prior, labels_of)
    if not ((prior > 0) & (prior < 1)).all():
        name = EXPRESSIONS[int(((prior <= 0) | (prior >= 1)).argmax())]
        raise ValueError(f"--prior {args.prior}: no row there is {name}, or all are. Give eight numbers instead.")
    return prior


def labels_of(data_args, folds: dict, split: str, evaluation: Split | None) -> np.ndarray:
    """The human labels of the split that experts were trained on ("train"), or of the validation split."""
    if split == "validation":
        return (evaluation or load_evaluation(data_args)).labels
    record = next(record for part in experts_of(folds) for record in part.training.values())
    return load_split(of_all_labelled(data_args), record.get("split", TrainingDataArguments.train_split_name)).labels


def check_votes(data_args, evaluation: Split) -> None:
    """Raise `ValueError` where nothing says that the soft labels of the split are several people's votes."""
    of_release = not data_args.dataset_name and data_args.release()[1] != "ferplus"
    sums = None if evaluation.soft_labels is None else evaluation.soft_labels.sum(axis=1)
    if of_release or sums is None or (sums > 1.01).any():
        what = "has no soft labels" if sums is None else "has soft labels that are no shares of people's votes"
        raise ValueError(
            f"--prior_precision fit: {evaluation.name} {what}. From one human label a face it cannot be fitted, as the "
            "likelihood of single labels does not depend on it: give a number."
        )


def warn_of_seen_rows(folds: dict, seen: list[str]) -> None:
    if None in folds and seen:
        tqdm.write(
            f"label.py: warning: if these are the rows that the experts were trained on ({', '.join(seen)}), their "
            "labels repeat the human's. Train with --num_folds to label every row by experts that have not seen it."
        )


def label_settings(
    data_args, args, splits: list[Split], folds: dict, accelerator: Accelerator, prior: np.ndarray | None
) -> dict:
    """What decides the labels; stands beside them, and whoever goes on has to agree with it."""

    def digest(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    rows = {
        split.name: {"rows": len(split), "ids": split.id_source, "ids_sha256": digest("\n".join(split.ids))}
        for split in splits
    }
    experts = [digest(json.dumps([c.calibration, c.training], sort_keys=True)) for c in experts_of(folds)]
    return {
        "data": Path(args.image_dir).name if args.image_dir else data_args.name(),
        "data_config": data_args.dataset_config_name or "default",
        "splits": rows,
        "experts_sha256": experts,
        "mirrored": args.mirrored,
        "eval_split": data_args.eval_split_name,
        "mixed_precision": accelerator.mixed_precision,
        "rows_per_file": args.rows_per_file,
        "expressions": list(EXPRESSIONS),
        "prior": said_prior(prior),
        "posterior": said_precision(args.prior_precision, data_args),
    }


def said_prior(prior: np.ndarray | None) -> dict[str, float] | str:
    return UNKNOWN_PRIOR if prior is None else dict(zip(EXPRESSIONS, prior.tolist(), strict=True))


def said_precision(asked: float | str, data_args) -> dict:
    """With None where it is still to be fitted."""
    if asked == "fit":
        return {"prior_precision": None, "how": f"fitted to the votes of {data_args.eval_split_name}"}
    return {"prior_precision": asked, "how": "given"}


def check_settings(output_dir: Path, settings: dict) -> float | None:
    """Raise `ValueError` where the folder holds labels of other settings. Returns the prior precision, None where it is
    still to be fitted; one that was fitted for this folder is taken up."""
    file = output_dir / "label.json"
    saved = json.loads(file.read_text()) if file.exists() else settings
    if (
        settings["posterior"]["prior_precision"] is None
        and saved.get("posterior", {}).get("how", "") == settings["posterior"]["how"]
    ):
        settings["posterior"] = saved["posterior"]
    if differing := [key for key in settings if saved.get(key) != settings[key]]:
        raise ValueError(
            f"{output_dir} holds labels of other settings ({', '.join(differing)}): name another --output_dir, or "
            "delete that one."
        )
    return settings["posterior"]["prior_precision"]


def write_settings(output_dir: Path, settings: dict) -> None:
    output_dir.mkdir(parents=True, exist_ok=True)
    beside = output_dir / ".label.json"
    beside.write_text(json.dumps(settings, indent=1))
    os.replace(beside, output_dir / "label.json")


def fuse(accelerator, args, kinds: dict, evaluation: Split, target: Path, prior: np.ndarray | None) -> None:
    """Fuse an EBC and AU experts, fit how on validation, and save the model, calibrated to `prior` (8,)."""
    experts = []
    for kind in ("ebc", "au"):
        with held(accelerator, Path(kinds[kind])):  # nobody completes it meanwhile
            experts.append(AutoModelForImageClassification.from_pretrained(kinds[kind]))
    ebc, au = experts
    model = fused_model(ebc, au, args.mirrored)
    outputs = predict_shared(accelerator, args, model, evaluation, f"fusing {target.name}")
    if accelerator.is_main_process:  # also because transformers saves on the first rank only
        of_both = prior_of({None: kinds})
        fit_fusion(model, outputs["ebc_logits"], outputs["au_expert_logits"], evaluation.labels, of_both)
        calibrate_to(model.config, prior)
        with written_beside(target) as folder:
            model.cpu().save_pretrained(folder)
    accelerator.wait_for_everyone()


def fit_on(accelerator, args, models: dict, evaluation: Split, prior: np.ndarray | None) -> float:
    """The prior precision, fitted on validation: to the scores of each fold's experts, as training rows get them."""
    scores = []
    for path in models.values():
        model = under_prior_of_experts(path)
        logits = predict_shared(accelerator, args, model, evaluation, "fitting the prior precision")["logits"]
        check_outputs(logits, str(path))
        of_rows = class_frequencies(evaluation.labels)  # the votes are those of validation
        scores.append(for_prior(expit(logits), model, of_rows if of_rows.all() else prior))
    votes, labels = (np.concatenate([values] * len(models)) for values in (evaluation.soft_labels, evaluation.labels))
    return fit_precision(np.concatenate(scores), labels, votes)


def under_prior_of_experts(path: str | Path) -> torch.nn.Module:
    """A fused model whose scores are calibrated to what its experts' are: so they are averaged over folds before they
    are brought to another prior, as labels that are written already are."""
    model = AutoModelForImageClassification.from_pretrained(path)
    calibrate_to(model.config, None)
    return model


def for_prior(scores: np.ndarray, model, prior: np.ndarray | None) -> np.ndarray:
    """Scores (..., 8) of a model `under_prior_of_experts`, calibrated to `prior` (8,)."""
    from_prior = model.config.prior_of_experts
    if prior is None or from_prior is None:
        return scores
    return reexpress(scores, [from_prior[name] for name in EXPRESSIONS], prior)


def predict_shared(accelerator, args, model, split: Split, description: str) -> dict[str, np.ndarray]:
    """What `predict` gives of all rows, shared by the processes."""
    # Whole batches, so that sums are the same to the last bit however many processes there are.
    batch = args.per_device_batch_size
    own = np.array_split(np.arange(0, len(split), batch), accelerator.num_processes)[accelerator.process_index]
    rows = [row for start in own for row in range(start, min(start + batch, len(split)))]
    outputs = gather_object([predict(accelerator, args, model, split, rows, description)])
    return {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}


@torch.no_grad()
def predict(
    accelerator, args, model, split: Split, rows: Sequence[int], description: str | None
) -> dict[str, np.ndarray]:
    """{"logits", "ebc_logits", "au_expert_logits"}, (rows, 8) each."""
    model.to(accelerator.device).eval()
    outputs = {"logits": [], "ebc_logits": [], "au_expert_logits": []}
    dataset = Subset(FaceDataset(split, model.image_processor), [int(row) for row in rows])
    loader = DataLoader(dataset, args.per_device_batch_size, num_workers=args.dataloader_num_workers)
    shown = description and accelerator.is_local_main_process
    for batch in tqdm(loader, desc=description, disable=not shown, leave=False):
        with accelerator.autocast():
            output = model(batch["pixel_values"].to(accelerator.device))
        for name, values in outputs.items():
            values.append(output[name].float().cpu().numpy())
    none = np.zeros((0, len(EXPRESSIONS)))
    return {name: np.concatenate([none, *values]).astype(np.float64) for name, values in outputs.items()}


def label(accelerator, args, shards: list, models: dict, output_dir: Path, prior, precision: float) -> None:
    """Write the files of these shards."""
    total = sum(len(rows) for _, _, rows, _ in shards)
    progress = tqdm(total=total, desc="labelling", unit="face", disable=not accelerator.is_local_main_process)
    held, model = object(), None
    for name, split, rows, folds in shards:
        scores = {}
        for fold in sorted(folds, key=lambda fold: fold != held):  # the one that is loaded first
            if fold != held:
                held, model = fold, under_prior_of_experts(models[fold])
            outputs = predict(accelerator, args, model, split, rows, None)
            check_outputs(outputs["logits"], str(models[fold]))
            scores[fold] = expit(np.stack([outputs[key] for key in ("ebc_logits", "au_expert_logits", "logits")]))
        mean = for_prior(np.mean([scores[fold] for fold in folds], axis=0), model, prior)  # (3, rows, 8), as SCORES
        write_table(label_table(split, rows, mean, precision), output_dir / name, accelerator.process_index)
        progress.update(len(rows))
    progress.close()


def write_table(table: pa.Table, file: Path, process: int = 0) -> None:
    beside = file.with_name(f".{file.name}.{process}")
    pq.write_table(table, beside)
    os.replace(beside, file)


def label_table(split: Split, rows: np.ndarray, scores: np.ndarray, precision: float = PRECISION) -> pa.Table:
    """scores: (3, rows, 8), as `SCORES`."""
    return table_of(split.name, split.ids[rows], split.labels[rows], scores, precision)


def table_of(split: str, ids: np.ndarray, labels: np.ndarray, scores: np.ndarray, precision: float) -> pa.Table:
    """The columns of rows with `ids` (rows,), human `labels` (rows,), -1 for none, and `scores` (3, rows, 8)."""
    scores = scores.round(DECIMALS).astype("float32")
    soft_label, unknown = scores[-1], labels < 0
    ranks = ranks_of(soft_label, np.where(unknown, 0, labels))
    posterior = posterior_of(soft_label.astype(np.float64), labels, precision).round(DECIMALS).astype("float32")
    columns = {
        "split": pa.array([split] * len(ids)),
        "image_id": pa.array(ids),
        **{name: _lists(values) for name, values in zip(SCORES, scores, strict=True)},
        "human_label": pa.array(labels.astype("int8"), mask=unknown),
        "rank": pa.array(ranks.astype("int8"), mask=unknown),
        "subset": pa.array(subsets_of_ranks(ranks).astype("int8"), mask=unknown),
        "posterior": _lists(posterior, unknown),
    }
    return pa.table(columns)


def _lists(values: np.ndarray, unknown: np.ndarray | None = None) -> pa.FixedSizeListArray:
    mask = None if unknown is None else pa.array(unknown)
    return pa.FixedSizeListArray.from_arrays(values.ravel(), len(EXPRESSIONS), mask=mask)


def express_anew(data_args, args, output_dir: Path) -> None:
    """Write the labels of another folder for another prior, or with another prior precision: no network is run, and no
    image is looked at."""
    source = Path(args.labels)
    if not (source / "label.json").is_file():
        raise ValueError(f"--labels {source} is no folder of label.py: it has no label.json.")
    settings = json.loads((source / "label.json").read_text())
    files = {split: files_of(str(source), split) for split in settings["splits"]}
    if missing := {"human_label", *SCORES} - set(pq.read_schema(files[next(iter(files))][0]).names):
        raise ValueError(f"--labels {source} has no {', '.join(sorted(missing))}: label these faces anew.")
    if not isinstance(settings.get("prior"), dict):
        raise ValueError(
            f"--labels {source}: what scores are calibrated to is {UNKNOWN_PRIOR}. Train the experts anew."
        )
    from_prior = np.array([settings["prior"][name] for name in EXPRESSIONS])

    def labels_in(split: str) -> np.ndarray:
        if split not in files:
            raise ValueError(f"--labels {source} has no rows of {split}: give --prior eight numbers.")
        return pq.read_table(files[split], columns=["human_label"])["human_label"].drop_null().to_numpy()

    prior = prior_of_labels(args, from_prior, labels_in)
    settings |= {
        "prior": said_prior(prior),
        "posterior": said_precision(args.prior_precision, data_args),
        "expressed_anew": {"labels": source.name, "prior": settings["prior"]},
    }
    if output_dir.resolve() == source.resolve():
        raise ValueError(f"--output_dir {output_dir} is the folder of --labels itself: name another one.")
    precision = check_settings(output_dir, settings)
    if precision is None:
        evaluation = load_evaluation(data_args)
        check_votes(data_args, evaluation)
        of_rows = class_frequencies(evaluation.labels)
        scores = read_soft_labels(str(source), evaluation)
        scores = reexpress(scores, from_prior, of_rows if of_rows.all() else prior)
        precision = fit_precision(scores, evaluation.labels, evaluation.soft_labels)
        settings["posterior"]["prior_precision"] = precision
    write_settings(output_dir, settings)
    for file in [file for of_split in files.values() for file in of_split]:
        table = pq.read_table(file)
        scores = np.stack([np.array(table[name].to_pylist()).reshape(len(table), -1) for name in SCORES])
        human = table["human_label"].fill_null(-1).to_numpy().astype(int)
        split, ids = table["split"][0].as_py(), np.array(table["image_id"].to_pylist())
        write_table(
            table_of(split, ids, human, reexpress(scores, from_prior, prior), precision), output_dir / file.name
        )
    write_card(output_dir, settings)
    print(f"{sum(map(len, files.values()))} files of {source} expressed anew: {output_dir}")


def write_card(output_dir: Path, settings: dict) -> None:
    prior = settings["prior"]
    card = _CARD.format(
        files="\n".join(f"  - split: {name}\n    path: {name}-*.parquet" for name in settings["splits"]),
        data=settings["data"],
        scores="`, `".join(SCORES),
        expressions=", ".join(EXPRESSIONS),
        precision=settings["posterior"]["prior_precision"],
        prior=prior if isinstance(prior, str) else ", ".join(f"{name} {share:.4f}" for name, share in prior.items()),
    )
    (output_dir / "README.md").write_text(card)


def report(output_dir: Path, splits: list[Split], evaluation: Split | None) -> None:
    """How many rows of each subset, and, where validation has soft labels of its own, how near ours are."""
    for split in splits:
        table = pq.read_table(sorted(output_dir.glob(f"{split.name}-*.parquet")))
        subsets = table["subset"].drop_null().to_numpy()
        said = f"{split.name}: {len(table):,} faces"
        if len(subsets):
            counts = np.bincount(subsets, minlength=3)
            said += ", easy {:,}, challenging {:,}, difficult {:,}".format(*counts)
        known = evaluation is not None and evaluation.soft_labels is not None
        place = {image_id: row for row, image_id in enumerate(table["image_id"].to_pylist())}
        if known and split.name == evaluation.name and all(row_id in place for row_id in evaluation.ids):
            ours = np.stack(table["soft_label"].to_numpy())[[place[row_id] for row_id in evaluation.ids]]
            divergence = js_divergence(ours, evaluation.soft_labels)
            said += f", Jensen-Shannon divergence to the dataset's own soft labels {divergence:.4f}"
        print(said)


if __name__ == "__main__":
    main()
