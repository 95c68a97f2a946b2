#!/usr/bin/env python
"""Measure a model, overall and by groups of the faces, and write a report.

    accelerate launch training/evaluate_model.py --data_dir R --model runs/soft_fer --output_dir runs/report
    accelerate launch training/evaluate_model.py --data_dir R --model runs/a runs/b someone/vit --output_dir runs/all

Takes any of our models, and any image-classification model of the Hub whose classes are expressions: they are matched
by name, or, where the model only numbers them, by --model_label_order. Writes metrics.json (figures with 95 % bootstrap
intervals), predictions.parquet and report.html, which holds faces: keep pages of restricted faces to yourself. Of
several models, each has these in a folder of its own, and comparison.html, .md, .tex and .json are of all.
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
from accelerate import Accelerator

from affectnet_plus import EXPRESSIONS, LABEL_ORDERS, match_expressions
from affectnet_plus.modeling import (
    BUNDLED_MODEL,
    CARD_METRICS,
    model_card,
    read_config,
)
from affectnet_plus.releases.writing import alone, is_no_room
from affectnet_plus.training.arguments import (
    SOFT_LABELS_ORDER,
    WORKERS_HELP,
    DataArguments,
    exit_on_broken_image,
    exit_on_error,
    exit_with_error,
    parse_arguments,
    run_script,
)
from affectnet_plus.training.faces import (
    Split,
    described_corrections,
    known_truth,
    load_split,
    soft_labels_to_compare,
)
from affectnet_plus.training.faces.soft_label_tables import predictions_of_table
from affectnet_plus.training.loop import as_main_process, once_per_machine
from affectnet_plus.training.loop.folders import locked, locked_for_reading, written_beside
from affectnet_plus.training.loop.predictions import Predictions, load_model, predict_faces
from affectnet_plus.training.metrics import nan_to_none
from affectnet_plus.training.metrics.evaluation import measure
from affectnet_plus.training.reports import write_report
from affectnet_plus.training.reports.comparison import compare, folders_of, write_model_comparison


@dataclass
class EvaluationArguments:
    """What is measured."""

    output_dir: str = field(metadata={"help": "Folder for metrics.json, predictions.parquet and report.html."})
    model: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Our models, also as ONNX files, or other image-classification models: folders or Hub ids. Several "
            "are compared on the same faces. Default: the bundled model."
        },
    )
    predictions: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Beside or instead of models, scores that somebody else has made: CSV files with image_id or "
            "file_name and a column for each expression, or our predictions.parquet."
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
            "help": "Compare scores with those that label.py wrote into this folder, or with other people's (a .csv, "
            ".parquet or .npz, or a folder of these), instead of what the dataset knows: how near a student comes to "
            "its teachers."
        },
    )
    soft_labels_order: list[str] = field(default_factory=list, metadata=SOFT_LABELS_ORDER)
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
        self.model = [name for name in self.model if name]
        if self.update_card and not self.model:
            raise ValueError("--update_card is for a --model of your own; the bundled model's card stays as it is.")
        if self.update_card and len(self.model + self.predictions) > 1:
            raise ValueError("--update_card is for one --model: measure each of these by itself.")
        if not self.model and not self.predictions:
            self.model = [str(BUNDLED_MODEL)]
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
        folders = folders_of(args.output_dir, args.model + args.predictions)
        loaded = []
        for model in args.model:
            with locked_for_reading(accelerator, Path(model)):
                loaded.append(load_model(model, args))
        load = partial(load_split, data_args, data_args.eval_split_name, args.max_samples, with_soft_labels=True)
        split = once_per_machine(accelerator, load)
        known = known_truth(split, data_args)
        if args.soft_labels:
            known = soft_labels_to_compare(args.soft_labels, split, args.soft_labels_order)
        args.expressions = expressions_to_measure(args.expressions, split, *known)
        split, known = of_expressions(args.expressions, split, *known)
        found = [Predictions(file, *predictions_of_table(file, split)) for file in args.predictions]
        # The last thing, so that nothing is left of a run that cannot begin.
        lock = alone(Path(args.output_dir) / ".evaluation.lock", args.output_dir)
        locks = ExitStack()
        as_main_process(accelerator, partial(locks.enter_context, lock))
    try:
        with exit_on_broken_image():
            several = len(folders) > 1
            found = [predict_faces(accelerator, args, model, split, with_cost=several) for model in loaded] + found
            results = [
                evaluate(accelerator, data_args, args, of_model, split, *known, folder)
                for folder, of_model in zip(folders, found, strict=True)
            ]
            if several and accelerator.is_main_process:
                comparison = compare(folders, found, results, split, known[0], protocol_of(data_args))
                with written_beside(Path(args.output_dir)) as folder:
                    print(write_model_comparison(folder, comparison))
    except OSError as error:  # what was there before is still there
        if is_no_room(error):
            raise  # to `run_script`
        exit_with_error(error)
    if accelerator.is_main_process:
        if len(args.expressions) < len(EXPRESSIONS):
            print(f"Measured on faces labelled {', '.join(args.expressions)}, among these only.", file=sys.stderr)
        for folder, result in zip(folders, results, strict=True):
            print(f"{folder}: " * bool(folder) + summary(result), file=sys.stderr)
        print(f"Report: {Path(args.output_dir) / ('comparison.html' if several else 'report.html')}")
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
    accelerator, data_args, args, found: Predictions, split: Split, ground_truth: np.ndarray | None,
    ground_truth_name: str, subfolder: str = "",
) -> dict | None:  # fmt: skip
    """Measure a model and write metrics.json, predictions.parquet and report.html into `args.output_dir`.

    Args:
        accelerator: of all processes.
        data_args: which data.
        args: `EvaluationArguments`.
        found: what it says of the faces.
        split: N labelled faces.
        ground_truth: (N, 8) soft labels in [0, 1], or None.
        ground_truth_name: what to call them.
        subfolder: of `args.output_dir`, where that holds several models.

    Returns:
        What metrics.json holds; None on all processes but the main one.

    Raises:
        ImageError: a face cannot be read.
    """
    if not accelerator.is_main_process:
        return None
    scores, affect = np.split(found.outputs, [len(EXPRESSIONS)], axis=1)
    scores = among(args.expressions, scores)
    output_dir = Path(args.output_dir) / subfolder
    output_dir.mkdir(parents=True, exist_ok=True)
    result = {
        "model": found.name,
        "expressions_not_known_to_the_model": [name for name in EXPRESSIONS if name not in found.expressions],
        "data": data_args.name(),
        "data_config": data_args.dataset_config_name or "default",
        "split": split.name,
        **({"corrections": described_corrections(data_args.corrections)} if data_args.corrections else {}),
        "expressions": args.expressions,
        "ground_truth": ground_truth_name,
        **measure(scores, affect, split, ground_truth, ground_truth_name, args.expressions),
    }
    settings = {name: value for name, value in vars(args).items() if name not in ("model", "predictions", "output_dir")}
    settings |= {"processes": accelerator.num_processes, "mixed_precision": accelerator.mixed_precision}
    with written_beside(output_dir) as folder:
        (folder / "metrics.json").write_text(json.dumps(nan_to_none(result), indent=1) + "\n")
        pq.write_table(predictions(scores, affect, split, args.expressions), folder / "predictions.parquet")
        write_report(folder / "report.html", result, scores, affect, split, ground_truth, args.num_faces, settings)
    if args.update_card:
        update_card(Path(found.model), result, found.config)
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


def protocol_of(data_args) -> str:
    """How the human label of a release was made, where that is a choice: a sentence, or ""."""
    if data_args.dataset_name or data_args.release()[1] != "ferplus":
        return ""
    return (
        "FER+: the label is the expression with the most of ten people's votes; ties, and faces whose most votes are "
        "for unknown or not a face, are left out."
    )


def summary(result: dict) -> str:
    """One line of what metrics.json holds."""
    names = [name for name in ("accuracy", "macro_f1", "js_divergence", "ece") if name in result]
    return f"{result['rows']:,} faces of {result['split']}: " + ", ".join(f"{n} {result[n]:.4f}" for n in names)


if __name__ == "__main__":
    run_script(main, "Whole reports are kept, and what was there before: give the same command again.")
