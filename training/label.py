#!/usr/bin/env python
"""Make soft labels: EBC and AU experts, fused, on faces that they were not trained on.

    accelerate launch training/label.py --data_dir R --ebc runs/ebc --au runs/au --output_dir runs/soft
    accelerate launch training/label.py --image_dir FACES --model runs/soft --output_dir runs/faces
    accelerate launch training/label.py --labels runs/soft --prior balanced --output_dir runs/soft-balanced

Writes Parquet: split, image_id, and ebc, au, soft_label (8 scores each, six decimals, AffectNet's order; null for what
the experts do not know), human_label (an index in that order), its rank among the fused scores, subset (0 easy: rank 1;
1 challenging: 2 or 3; 2 difficult) and posterior (8 scores: soft_label and human label together, see
soft_labels/posterior.py). Scores are calibrated to the class frequencies --prior, by default the experts' own; --labels
expresses labels anew for others, without any network. Experts that were trained in folds (--num_folds) label the rows
they have not seen, and copies of these; all other rows get the mean of the folds. Killed at any moment, the same
command goes on at the last whole file. Several processes share the files.
"""

import itertools
import math
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from scipy.special import expit
from torch.utils.data import ConcatDataset, DataLoader, Subset
from tqdm.auto import tqdm

from affectnet_plus import EXPRESSIONS, match_expressions
from affectnet_plus.modeling import read_model
from affectnet_plus.releases.writing import alone
from affectnet_plus.training.arguments import (
    CACHE_IMAGES,
    WHOLE_FILES_KEPT,
    WORKERS_HELP,
    DataArguments,
    exit_on_broken_image,
    exit_on_error,
    parse_arguments,
    parse_prior,
    run_script,
)
from affectnet_plus.training.faces import FaceDataset, Split, images_in, load_rows, loader_settings, split_to_label
from affectnet_plus.training.loop import (
    as_main_process,
    cache_faces,
    check_outputs,
    once_per_machine,
    predict,
    share_contents,
)
from affectnet_plus.training.loop.folders import locked_for_reading, written_beside
from affectnet_plus.training.loop.predict import joined, outputs_of
from affectnet_plus.training.soft_labels.calibration import prior_of_rows
from affectnet_plus.training.soft_labels.cross_fitting import (
    experts_of,
    expressions_of_experts,
    find_folds,
    folds_by,
    known_rows,
    plan_shards,
    seen_splits,
    warn_of_seen_rows,
)
from affectnet_plus.training.soft_labels.evaluation_rows import check_votes, labels_of, load_evaluation
from affectnet_plus.training.soft_labels.fusion import calibrate_to, fit_fusion, fused_model
from affectnet_plus.training.soft_labels.label_files import (
    LOCK,
    check_settings,
    label_settings,
    label_table,
    report,
    write_card,
    write_settings,
    write_table,
)
from affectnet_plus.training.soft_labels.posterior import PRECISION, fit_precision
from affectnet_plus.training.soft_labels.priors import for_prior, prior_of, prior_of_labels, under_prior_of_experts
from affectnet_plus.training.soft_labels.reexpression import express_anew
from affectnet_plus.training.soft_labels.release_writer import check_target, write_release


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
            "`validation` split, `balanced`, or a number for each expression. Default: the experts'."
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
    tta: bool = field(
        default=False,
        metadata={
            "help": "Test-time augmentation: --ebc and --au average over each face and its horizontal flip: better "
            "scores at twice the time."
        },
    )
    per_device_batch_size: int = field(default=64, metadata={"help": "Faces per device and step."})
    rows_per_file: int = field(default=2000, metadata={"help": "Rows of one file: what a kill can cost."})
    dataloader_num_workers: int | None = field(default=None, metadata={"help": WORKERS_HELP})
    cache_images: str = field(default="no", metadata=CACHE_IMAGES)
    use_cpu: bool = field(default=False, metadata={"help": "Run on the CPU even where there is an accelerator."})

    def __post_init__(self):
        named = bool(self.model) + bool(self.ebc and self.au) + bool(self.labels)
        if named != 1 or bool(self.ebc) != bool(self.au):
            raise ValueError(
                "Name the experts: --ebc and --au together, or --model, a model that has both; or name --labels that "
                "they have made."
            )
        self.prior = parse_prior(self.prior) if self.prior else None
        if self.prior_precision != "fit":
            self.prior_precision = _precision(self.prior_precision)
        of_faces = self.image_dir or self.write_release or self.splits or self.max_samples or self.tta
        if self.labels and (of_faces or self.cache_images != "no"):
            raise ValueError(
                "--labels goes with --prior, --prior_precision and --output_dir only: for anything else label faces by "
                "--ebc and --au, or --model."
            )
        if self.model and self.tta:
            raise ValueError("--tta is for fusing --ebc and --au; a fused --model has it if it was made so.")
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
    with exit_on_error():
        accelerator = Accelerator(cpu=args.use_cpu)
        if args.labels:
            if accelerator.is_main_process:
                with alone(output_dir / LOCK, output_dir):
                    express_anew(data_args, args, output_dir)
            return
        folds = find_folds(args)
        expressions = expressions_of_experts(folds)
        unknown = [name for name in EXPRESSIONS if name not in expressions]
        if unknown and args.write_release:
            raise ValueError(
                f"--write_release: a release has eight scores a face, and these experts do not know "
                f"{', '.join(unknown)}: leave the flag out, or train those experts, too."
            )
        load_all = partial(load, data_args, args, folds)
        splits, evaluation, prior, known = once_per_machine(accelerator, load_all)
        settings = label_settings(data_args, args, splits, folds, accelerator, prior)
        if args.prior_precision == "fit":
            check_votes(data_args, evaluation)
        seen = seen_splits(splits, folds, settings)
        if known is not None or (None not in folds and seen and folds_by(folds) == "content"):
            share_contents(accelerator, [*splits, *([known] if known is not None else [])])
        shards = plan_shards(splits, folds, seen, args.rows_per_file, folds_by(folds), known)
        to_cache = looked_at_again(args, splits, folds, evaluation)
        cache_faces(accelerator, to_cache, experts_of(folds)[0].image_size, args.cache_images)
        locks = ExitStack()
        settings = as_main_process(accelerator, partial(begin, locks, args, output_dir, settings, splits))
        precision = settings["posterior"]["prior_precision"]
    if accelerator.is_main_process:
        if unknown:
            print(f"The experts have {len(expressions)} expressions: null for {', '.join(unknown)}.")
        warn_of_seen_rows(folds, seen)
        write_settings(output_dir, settings)

    with exit_on_broken_image():
        # Fuse the experts, once for each fold.
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
        own_shards = [shards[i] for i in todo[rank * len(todo) // ranks : (rank + 1) * len(todo) // ranks]]
        label(accelerator, args, own_shards, models, output_dir, prior, precision)

    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_card(output_dir, settings)
        report(output_dir, splits, evaluation)
        if args.write_release:
            with exit_on_error():
                write_release(Path(args.write_release), splits, output_dir, show_progress=True)
    locks.close()


def looked_at_again(args, splits: list[Split], folds: dict, evaluation: Split | None) -> list[Split]:
    """The splits whose faces are worth keeping: on disk all, for other commands; in memory what the experts of several
    folds are fused on. `ValueError` where that is asked for and there is nothing."""
    evaluations = [] if evaluation is None else [evaluation]
    if args.cache_images == "disk":
        return splits + evaluations
    again = evaluations if len(folds) * (bool(args.ebc) + (args.prior_precision == "fit")) > 1 else []
    if args.cache_images == "memory" and not again:
        raise ValueError(
            "--cache_images memory: here no face is looked at twice. Leave it out, or take --cache_images disk, where "
            "later commands find the faces."
        )
    return again


def begin(locks: ExitStack, args, output_dir: Path, settings: dict, splits: list[Split]) -> dict:
    """The settings to go on with; nobody else labels there, now and until `locks` are closed. `ValueError` where the
    folder holds labels of other settings, or there is no place for a release."""
    with ExitStack() as stack:
        stack.enter_context(alone(output_dir / LOCK, output_dir))
        check_settings(output_dir, settings)
        if args.write_release:
            check_target(Path(args.write_release), splits)
        for leftover in output_dir.glob(".*.parquet.*"):  # of a killed run
            leftover.unlink()
        locks.push(stack.pop_all())
    return settings


def load(data_args, args, folds: dict) -> tuple[list[Split], Split | None, np.ndarray | None, Split | None]:
    """The rows to label; those to fuse or fit on, where that is to be done; the prior (8,); and the rows that the
    experts in these folds were trained on, where they are known."""
    splits = rows_to_label(data_args, args)
    evaluation = load_evaluation(data_args) if args.ebc or args.prior_precision == "fit" else None
    prior = prior_of_labels(args, prior_of(folds), lambda split: labels_of(data_args, folds, split, evaluation))
    return splits, evaluation, prior, known_rows(data_args, args, folds, splits)


def rows_to_label(data_args, args) -> list[Split]:
    """The rows to label."""
    if args.image_dir:
        if not args.model or data_args.corrections:
            raise ValueError("--image_dir needs --model, and no --corrections: these faces have no human labels.")
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


def fuse(accelerator, args, kinds: dict, evaluation: Split, target: Path, prior: np.ndarray | None) -> None:
    """Fuse an EBC and AU experts, fit how on validation, and save the model, calibrated to `prior` (8,)."""
    experts = []
    for kind in ("ebc", "au"):
        with locked_for_reading(accelerator, Path(kinds[kind])):  # nobody completes it meanwhile
            experts.append(read_model(kinds[kind]))
    ebc, au = experts
    model = fused_model(ebc, au, args.tta)
    outputs = predict_shared(accelerator, args, model, evaluation, f"fusing {target.name}")
    if accelerator.is_main_process:  # also because transformers saves on the first rank only
        of_both = prior_of({None: kinds})
        fit_fusion(
            model, outputs["ebc_logits"], outputs["au_expert_logits"], evaluation.labels, of_both, evaluation.known
        )
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
        of_rows = prior_of_rows(evaluation.labels, prior)  # the votes are those of validation
        scores.append(for_prior(in_our_order(model, expit(logits)), model, of_rows))
    votes, labels = (np.concatenate([values] * len(models)) for values in (evaluation.soft_labels, evaluation.labels))
    return fit_precision(np.concatenate(scores), labels, votes)


def predict_shared(accelerator, args, model, split: Split, description: str) -> dict[str, np.ndarray]:
    """What `predict` gives of all rows, shared by the processes."""
    # Whole batches, so that sums are the same to the last bit however many processes there are.
    batch = args.per_device_batch_size
    starts = np.array_split(np.arange(0, len(split), batch), accelerator.num_processes)[accelerator.process_index]
    rows = [row for start in starts for row in range(start, min(start + batch, len(split)))]
    outputs = gather_object([predict_rows(accelerator, args, model, split, rows, description)])
    names = next(filter(None, outputs))
    return {name: np.concatenate([output[name] for output in outputs if output]) for name in names}


def predict_rows(accelerator, args, model, split: Split, rows, description: str | None = None) -> dict[str, np.ndarray]:
    """{"logits", "ebc_logits", "au_expert_logits"} (rows, expressions) each, by this process alone."""
    faces = Subset(FaceDataset(split, model.image_processor), [int(row) for row in rows])
    settings = loader_settings(args.dataloader_num_workers, accelerator.device)
    batches = DataLoader(faces, args.per_device_batch_size, **settings)
    return predict(accelerator, model.to(accelerator.device), batches, description, own_rows=True)


def in_our_order(model, scores: np.ndarray) -> np.ndarray:
    """(..., expressions of the model) as (..., 8), NaN for what it does not know."""
    ours = np.full((*scores.shape[:-1], len(EXPRESSIONS)), np.nan, dtype=scores.dtype)
    ours[..., match_expressions(model.config.expressions)] = scores
    return ours


def label(accelerator, args, shards: list, models: dict, output_dir: Path, prior, precision: float) -> None:
    """Write the files of these shards. A face is decoded once, for the experts of all folds that label it."""
    total = sum(len(rows) for _, _, rows, _ in shards)
    progress = tqdm(total=total, desc="labelling", unit="face", disable=not accelerator.is_local_main_process)
    loaded: dict = {}  # {fold: model}, as the last file needed them
    batches = None
    for name, split, rows, folds in shards:
        loaded = {fold: loaded.get(fold) or load_expert(accelerator, models[fold]) for fold in folds}
        batches = batches or iter(batches_of(accelerator, args, shards, loaded[folds[0]].image_processor))
        found: dict = {fold: [] for fold in folds}  # the outputs of each batch
        for faces in itertools.islice(batches, math.ceil(len(rows) / args.per_device_batch_size)):
            for fold, model in loaded.items():
                found[fold].append(outputs_of(accelerator, model, faces["pixel_values"], own_rows=True))
            progress.update(len(faces["pixel_values"]))
        scores = []
        for fold, model in loaded.items():
            outputs = joined(found[fold])
            check_outputs(outputs["logits"], str(models[fold]))
            logits = np.stack([outputs[key] for key in ("ebc_logits", "au_expert_logits", "logits")])
            scores.append(in_our_order(model, expit(logits)))
        mean = for_prior(np.mean(scores, axis=0), model, prior)  # (3, rows, 8), as SCORES
        write_table(label_table(split, rows, mean, precision), output_dir / name, accelerator.process_index)
    progress.close()


def load_expert(accelerator, folder: Path):
    """A fused model, under the prior of its experts, ready to be used."""
    return under_prior_of_experts(folder).to(accelerator.device).eval()


def batches_of(accelerator, args, shards: list, image_processor) -> DataLoader:
    """The faces of all shards, one shard after the other, whose last batch may be short; loaded without a break."""
    splits = list({id(split): split for _, split, _, _ in shards}.values())
    first_row = dict(zip(map(id, splits), np.cumsum([0, *map(len, splits)]), strict=False))
    size, batches = args.per_device_batch_size, []
    for _, split, rows, _ in shards:
        places = (first_row[id(split)] + rows).tolist()
        batches += [places[start : start + size] for start in range(0, len(places), size)]
    faces = ConcatDataset([FaceDataset(split, image_processor) for split in splits])
    settings = loader_settings(args.dataloader_num_workers, accelerator.device)
    return DataLoader(faces, batch_sampler=batches, **settings)


if __name__ == "__main__":
    run_script(main, WHOLE_FILES_KEPT)
