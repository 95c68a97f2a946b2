#!/usr/bin/env python
"""Measure a model, overall and by groups of the faces, and write a report.

    accelerate launch training/evaluate_model.py --data_dir R --model runs/soft_fer --output_dir runs/report
    accelerate launch training/evaluate_model.py --data_dir R --model someone/fer-vit --output_dir runs/theirs

Takes any of our models, and any image-classification model of the Hub whose classes are expressions: they are matched
by name, or, where the model only numbers them, by --model_label_order. Writes metrics.json (figures with 95 % bootstrap
intervals), predictions.parquet and report.html, which holds faces: keep pages of restricted faces to yourself.
"""

import json
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from affectnet_plus import EXPRESSIONS, LABEL_ORDERS, match_expressions
from affectnet_plus.modeling import (
    BUNDLED_MODEL,
    CARD_METRICS,
    SoftLabelModel,
    model_card,
    read_config,
    read_image_processor,
    read_model,
)
from affectnet_plus.releases.expressions import label_names
from affectnet_plus.releases.writing import alone, is_no_room
from affectnet_plus.training.arguments import (
    NOTHING_KEPT,
    WORKERS_HELP,
    DataArguments,
    exit_on_broken_image,
    exit_on_error,
    exit_with_error,
    parse_arguments,
    run_script,
)
from affectnet_plus.training.faces import (
    FaceDataset,
    Split,
    described_corrections,
    known_truth,
    load_split,
    loader_settings,
    read_soft_labels,
)
from affectnet_plus.training.loop import as_main_process, check_outputs, once_per_machine, predict
from affectnet_plus.training.loop.folders import locked, locked_for_reading, written_beside
from affectnet_plus.training.metrics import nan_to_none
from affectnet_plus.training.metrics.evaluation import measure
from affectnet_plus.training.reports import write_report


@dataclass
class EvaluationArguments:
    """What is measured."""

    output_dir: str = field(metadata={"help": "Folder for metrics.json, predictions.parquet and report.html."})
    model: str = field(
        default="",
        metadata={
            "help": "One of our models, or an image-classification model: folder or Hub id. Default: the bundled model."
        },
    )
    model_label_order: list[str] = field(
        default_factory=list,
        metadata={
            "help": "For a --model that only numbers its classes: their names in order, or one of "
            f"{', '.join(LABEL_ORDERS)}."
        },
    )
    expressions: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Measure on faces of these labels and among these expressions only, e.g. the seven of RAF-DB, "
            "without contempt; what the model says of others is not looked at. Default: all that the dataset has "
            "a class for and, where there are scores to compare with, these know."
        },
    )
    soft_labels: str | None = field(
        default=None,
        metadata={
            "help": "Compare scores with those that label.py wrote into this folder, instead of what the dataset "
            "knows: how near a student comes to its teachers."
        },
    )
    update_card: bool = field(
        default=False,
        metadata={"help": "Put the figures into the model's card (a folder of ours), as its model-index."},
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with a model of the Hub."})
    max_samples: int | None = field(default=None, metadata={"help": "Measure on the first N rows only."})
    num_faces: int = field(default=6, metadata={"help": "Faces of each kind in the report; 0 for none."})
    per_device_batch_size: int = field(default=64, metadata={"help": "Faces per device and step."})
    dataloader_num_workers: int | None = field(default=None, metadata={"help": WORKERS_HELP})
    use_cpu: bool = field(default=False, metadata={"help": "Run on the CPU even where there is an accelerator."})

    def __post_init__(self):
        if self.update_card and not self.model:
            raise ValueError("--update_card is for a --model of your own; the bundled model's card stays as it is.")
        self.model = self.model or str(BUNDLED_MODEL)
        if len(self.expressions) == 1:
            raise ValueError(f"--expressions are those to choose among, and {self.expressions[0]} is only one.")
        self.expressions = [EXPRESSIONS[i] for i in sorted(match_expressions(self.expressions))]
        for name, least in (("per_device_batch_size", 1), ("max_samples", 1), ("num_faces", 0)):
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise ValueError(f"--{name} is at least {least}, not {getattr(self, name)}.")


def main():
    data_args, args = parse_arguments(DataArguments, EvaluationArguments, description=__doc__.split("\n\n")[0])
    with exit_on_error():
        accelerator = Accelerator(cpu=args.use_cpu)
        with locked_for_reading(accelerator, Path(args.model)):
            loaded = load_model(args)
        load = partial(load_split, data_args, data_args.eval_split_name, args.max_samples, with_soft_labels=True)
        split = once_per_machine(accelerator, load)
        known = known_truth(split, data_args)
        if args.soft_labels:
            known = read_soft_labels(args.soft_labels, split), "the soft label of label.py"
        args.expressions = expressions_to_measure(args.expressions, split, *known)
        split, known = of_expressions(args.expressions, split, *known)
        # The last thing, so that nothing is left of a run that cannot begin.
        lock = alone(Path(args.output_dir) / ".evaluation.lock", args.output_dir)
        locks = ExitStack()
        as_main_process(accelerator, partial(locks.enter_context, lock))
    try:
        with exit_on_broken_image():
            result = evaluate(accelerator, data_args, args, loaded, split, *known)
    except OSError as error:  # what was there before is still there
        if is_no_room(error):
            raise  # to `run_script`
        exit_with_error(error)
    if accelerator.is_main_process:
        if len(args.expressions) < len(EXPRESSIONS):
            print(f"Measured on faces labelled {', '.join(args.expressions)}, among these only.", file=sys.stderr)
        print(summary(result), file=sys.stderr)
        print(f"Report: {Path(args.output_dir) / 'report.html'}")
    locks.close()


def expressions_to_measure(
    asked: list[str], split: Split, ground_truth: np.ndarray | None, ground_truth_name: str
) -> list[str]:
    """Those asked for, by default all that labels and ground truth know; `ValueError` where that one does not."""
    there = np.ones(len(EXPRESSIONS), dtype=bool) if ground_truth is None else ~np.isnan(ground_truth).any(axis=0)
    if missing := [EXPRESSIONS[i] for i in match_expressions(asked) if not there[i]]:
        raise ValueError(
            f"--expressions names {', '.join(missing)}, of which {ground_truth_name} knows nothing: leave it out."
        )
    return asked or [EXPRESSIONS[i] for i in np.flatnonzero(there & split.known.any(axis=0))]


def of_expressions(
    expressions: list[str], split: Split, ground_truth: np.ndarray | None, ground_truth_name: str
) -> tuple[Split, tuple[np.ndarray | None, str]]:
    """The rows labelled as one of these expressions, and how far these alone are present.

    Args:
        expressions: some of `EXPRESSIONS`.
        split: N rows.
        ground_truth: (N, 8) in [0, 1], or None.
        ground_truth_name: what to call them.

    Returns:
        The M rows, and their (M, 8) ground truth with 0 for all other expressions, with its name.

    Raises:
        ValueError: there are none.
    """
    rows = np.flatnonzero(np.isin(split.labels, match_expressions(expressions)))
    if not len(rows):
        raise ValueError(f"No row of {split.name} is labelled {' or '.join(expressions)}: see --expressions.")
    return split.select(rows), (
        None if ground_truth is None else among(expressions, ground_truth[rows]),
        ground_truth_name,
    )


def among(expressions: list[str], scores: np.ndarray) -> np.ndarray:
    """(N, 8) scores with 0 for all other expressions."""
    return np.where(np.isin(EXPRESSIONS, expressions), scores, 0)


def evaluate(
    accelerator, data_args, args, loaded: tuple, split: Split, ground_truth: np.ndarray | None, ground_truth_name: str
) -> dict | None:
    """Measure a model and write metrics.json, predictions.parquet and report.html into `args.output_dir`.

    Args:
        accelerator: of all processes.
        data_args: which data.
        args: `EvaluationArguments`.
        loaded: what `load_model` returns.
        split: N labelled faces.
        ground_truth: (N, 8) soft labels in [0, 1], or None.
        ground_truth_name: what to call them.

    Returns:
        What metrics.json holds; None on all processes but the main one.

    Raises:
        ImageError: a face cannot be read.
    """
    model, image_processor, names = loaded
    settings = loader_settings(args.dataloader_num_workers, accelerator.device)
    loader = DataLoader(FaceDataset(split, image_processor), args.per_device_batch_size, **settings)
    prepared = accelerator.prepare_model(model, evaluation_mode=True), accelerator.prepare(loader)
    outputs = predict(accelerator, *prepared, description=f"measuring {Path(args.model).name}")["logits"]
    accelerator.free_memory()
    check_outputs(outputs, args.model)
    if not accelerator.is_main_process:
        return None
    scores, affect = np.split(outputs, [len(EXPRESSIONS)], axis=1)
    scores = among(args.expressions, scores)
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    result = {
        "model": Path(args.model).name if Path(args.model).exists() else args.model,
        "expressions_not_known_to_the_model": [name for name in EXPRESSIONS if name not in names],
        "data": data_args.name(),
        "data_config": data_args.dataset_config_name or "default",
        "split": split.name,
        **({"corrections": described_corrections(data_args.corrections)} if data_args.corrections else {}),
        "expressions": args.expressions,
        "ground_truth": ground_truth_name,
        **measure(scores, affect, split, ground_truth, ground_truth_name, args.expressions),
    }
    settings = {name: value for name, value in vars(args).items() if name not in ("model", "output_dir")}
    settings |= {"processes": accelerator.num_processes, "mixed_precision": accelerator.mixed_precision}
    with written_beside(output_dir) as folder:
        (folder / "metrics.json").write_text(json.dumps(nan_to_none(result), indent=1) + "\n")
        pq.write_table(predictions(scores, affect, split, args.expressions), folder / "predictions.parquet")
        write_report(folder / "report.html", result, scores, affect, split, ground_truth, args.num_faces, settings)
    if args.update_card:
        update_card(Path(args.model), result, model.model.config)
    return result


def update_card(folder: Path, result: dict, measured) -> None:
    """Put figures into the config of a model's folder, from which cards are made, and write its card anew.

    Args:
        folder: of the model.
        result: as metrics.json has it.
        measured: config of the model that was measured.

    Raises:
        OSError: the folder holds another model by now.
    """
    with locked(folder):  # another run may put its own figures there
        config = read_config(folder)
        if (config.training, config.id2label) != (measured.training, measured.id2label):
            raise OSError(f"--update_card: the model in {folder} was replaced while it was measured: measure it again.")
        keys = ("data", "data_config", "split", "expressions", "rows", "ground_truth", *CARD_METRICS)
        config.evaluation = {key: result[key] for key in keys if nan_to_none(result.get(key)) is not None}
        for name in ("valence", "arousal"):
            if name in result and nan_to_none(result[name]["ccc"]) is not None:
                config.evaluation[f"{name}_ccc"] = round(result[name]["ccc"], 5)
        with written_beside(folder) as beside:
            config.save_pretrained(beside)
            model_card(config).save(beside / "README.md")


def load_model(args) -> tuple[nn.Module, object, list[str]]:
    """The model that `args` name, of ours or of somebody else's.

    Args:
        args: `EvaluationArguments`.

    Returns:
        A network pixel_values (B, 3, H, W) -> scores (B, 8), its image processor, and the expressions it knows.

    Raises:
        ValueError: there is none, or its classes cannot be matched with our expressions.
    """
    model = read_model(args.model, "--model", trust_remote_code=args.trust_remote_code, dtype=torch.float32)
    config = model.config
    if args.update_card and not (isinstance(model, SoftLabelModel) and Path(args.model).is_dir()):
        raise ValueError(f"--update_card is for a folder of one of our models, and --model {args.model} is none.")
    names = [config.id2label[i] for i in range(len(config.id2label))]
    if args.model_label_order:
        names = label_names(args.model_label_order)
        if len(names) != len(config.id2label):
            raise ValueError(
                f"--model_label_order has {len(names)} names ({', '.join(names)}), {args.model} has "
                f"{len(config.id2label)} classes."
            )
    try:
        own = match_expressions(config.id2label.values())
    except ValueError:  # only numbers
        own = None
    try:
        to_ours = match_expressions(names)
    except ValueError as error:
        raise ValueError(f"{error} Which classes {args.model} has can be said by --model_label_order.") from error
    if own and own != to_ours:
        raise ValueError(
            f"--model_label_order says {', '.join(names)}, but {args.model} names its classes itself: "
            f"{', '.join(config.id2label.values())}. Leave the flag out."
        )
    independent = isinstance(model, SoftLabelModel) or config.problem_type == "multi_label_classification"
    processor = getattr(model, "image_processor", None) or read_image_processor(
        args.model, trust_remote_code=args.trust_remote_code
    )
    return Scores(model, to_ours, independent), processor, [EXPRESSIONS[i] for i in to_ours]


class Scores(nn.Module):
    """Any image classifier as pixel_values (B, 3, H, W) -> (B, 8) scores in our order, 0 for what it does not know, and
    (B, 10) with valence and arousal where it has them.

    Args:
        model: gives `logits` (B, C).
        to_ours: per class of the model, its index into `EXPRESSIONS`.
        independent: its scores are sigmoids, not a softmax.
    """

    def __init__(self, model: nn.Module, to_ours: list[int], independent: bool):
        super().__init__()
        self.model, self.to_ours, self.independent = model, to_ours, independent

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        output = self.model(pixel_values)
        logits, affect = output.logits.float(), getattr(output, "valence_arousal", None)
        scores = logits.sigmoid() if self.independent else logits.softmax(dim=1)
        ours = scores.new_zeros(len(scores), len(EXPRESSIONS))
        ours[:, self.to_ours] = scores
        return ours if affect is None else torch.cat([ours, affect.float()], dim=1)


def predictions(scores: np.ndarray, affect: np.ndarray, split: Split, expressions: list[str]) -> pa.Table:
    """What predictions.parquet holds, a row each.

    Args:
        scores: (N, 8) in [0, 1].
        affect: (N, 2) valence and arousal in [-1, 1], or (N, 0).
        split: the N rows.
        expressions: those that are measured; the scores of others are null.
    """
    measured = np.where(np.isin(EXPRESSIONS, expressions), scores, np.nan).astype("float32")
    soft_label = pa.array(measured.ravel(), from_pandas=True)
    columns = {"valence": affect[:, 0], "arousal": affect[:, 1]} if affect.size else {}
    return pa.table(
        columns
        | {
            "split": [split.name] * len(split),
            "image_id": pa.array(split.ids),
            "label": [EXPRESSIONS[label] for label in split.labels],
            "predicted": [EXPRESSIONS[best] for best in scores.argmax(axis=1)],
            "soft_label": pa.FixedSizeListArray.from_arrays(soft_label, len(EXPRESSIONS)),
        }
    )


def summary(result: dict) -> str:
    """One line of what metrics.json holds."""
    names = [name for name in ("accuracy", "macro_f1", "js_divergence", "ece") if name in result]
    return f"{result['rows']:,} faces of {result['split']}: " + ", ".join(f"{n} {result[n]:.4f}" for n in names)


if __name__ == "__main__":
    run_script(main, NOTHING_KEPT)
