#!/usr/bin/env python
"""A page of candidate label errors: the rows whose human label the experts deny most, for a person to look at.

    python training/show_label_errors.py --data_dir R --soft_labels runs/soft --output_file runs/label_errors.html

First come the rows with the largest loss: the binary cross-entropy of all scores against the human label. It finds more
of the known errors of drawn faces than the margin between scores, and than cleanlab's rankings (docs/results.md). All
scores are for equally frequent expressions: under the frequencies of a split most label errors would be sought among
the rare ones. The same table lies beside the page as CSV. In the page a
person accepts or corrects the labels by keyboard, and downloads what the training scripts take as --corrections. The
page holds thumbnails of the faces: keep pages of restricted faces to yourself.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from affectnet_plus import EXPRESSIONS
from affectnet_plus.releases.files import csv_cell
from affectnet_plus.releases.writing import written_whole
from affectnet_plus.training.arguments import (
    NOTHING_KEPT,
    SOFT_LABELS_ORDER,
    DataArguments,
    exit_on_error,
    parse_arguments,
    read_record,
    run_script,
)
from affectnet_plus.training.faces import Split, load_rows, read_soft_labels, split_to_label
from affectnet_plus.training.metrics import ranks_of
from affectnet_plus.training.reports import pages
from affectnet_plus.training.soft_labels.calibration import reexpress
from affectnet_plus.training.soft_labels.priors import numbers_of


@dataclass
class LabelErrorArguments:
    """Which labels, and where the page goes."""

    soft_labels: str = field(
        metadata={"help": "Folder that label.py wrote, or other people's: .csv, .parquet, .npz, or a folder of these."}
    )
    output_file: str = field(
        metadata={"help": "The page, e.g. label_errors.html; label_errors.csv is written beside it."}
    )
    soft_labels_order: list[str] = field(default_factory=list, metadata=SOFT_LABELS_ORDER)
    split: str = field(default="train", metadata={"help": "Which split."})
    num_faces: int = field(default=100, metadata={"help": "How many rows."})


def main():
    data_args, args = parse_arguments(DataArguments, LabelErrorArguments, description=__doc__.split("\n\n")[0])
    with exit_on_error():
        if data_args.corrections:
            raise ValueError("--corrections is for what comes after this page, which shows the dataset's own labels.")
        rows = load_rows(data_args)
        if args.split not in rows:
            raise ValueError(f"The dataset has no split {args.split!r}, only {', '.join(rows)}: see --split.")
        split = split_to_label(rows[args.split], data_args)
        soft_label = read_soft_labels(args.soft_labels, split, order=args.soft_labels_order)
        soft_label = for_equal_frequencies(args.soft_labels, soft_label)
    table = label_errors(split, soft_label, args.num_faces)
    if left_out := int((split.labels >= 0).sum()) - len(rows_to_judge(split, soft_label)):
        print(f"{left_out} rows are left out: the experts do not know the expression that they are labelled as.")
    output_file = Path(args.output_file)
    output_file.parent.mkdir(parents=True, exist_ok=True)
    of_spreadsheets = table.drop(columns=["row"]).map(
        lambda value: csv_cell(value) if isinstance(value, str) else value
    )
    with exit_on_error():
        page = pages.render(
            "label_errors.html.jinja",
            title="Label errors",
            split=split.name,
            expressions=[EXPRESSIONS[i] for i in np.flatnonzero(~np.isnan(soft_label).all(axis=0))],
            labelled=len(rows_to_judge(split, soft_label)),
            rows=[(row, pages.face(split, row.row, soft_label[row.row])) for row in table.itertuples()],
        )
        with written_whole(output_file.with_suffix(".csv")) as table_file, written_whole(output_file) as page_file:
            of_spreadsheets.to_csv(table_file, index=False)
            page_file.write_text(page, encoding="utf-8")
    print(f"Page: {output_file}, table: {output_file.with_suffix('.csv')}")


def for_equal_frequencies(folder: str, scores: np.ndarray) -> np.ndarray:
    """Scores of label.py's folder, brought from the prior that its label.json names to a balanced one.

    Args:
        folder: of label.py.
        scores: (N, 8) in [0, 1], NaN for what the experts do not know.

    Returns:
        (N, 8), as `scores`; the same scores where label.json names no prior.
    """
    settings = Path(folder) / "label.json"
    prior = read_record(settings, "label these rows anew").get("prior") if settings.is_file() else None
    if not isinstance(prior, dict):
        return scores
    from_prior = numbers_of(prior)
    return reexpress(scores, from_prior, np.where(np.isnan(from_prior), np.nan, 1 / len(prior)))


def rows_to_judge(split: Split, soft_label: np.ndarray) -> np.ndarray:
    """Numbers of the rows with a human label of which the scores (N, 8) say something."""
    return np.flatnonzero((split.labels >= 0) & ~np.isnan(soft_label[np.arange(len(split)), split.labels]))


def label_errors(split: Split, soft_label: np.ndarray, number: int) -> pd.DataFrame:
    """The rows whose human label the scores deny most.

    Args:
        split: N rows; those without a human label, or with one that the scores do not know, are left out.
        soft_label: (N, 8) in [0, 1], NaN for what the experts do not know.
        number: how many rows at most.

    Returns:
        A row each: its number, split and image_id, human and predicted label, rank of the human label's score (1 is
        the highest), margin between the highest score and that one (0 to 1), and loss, by which they are sorted.
    """
    rows = rows_to_judge(split, soft_label)
    labels, scores = split.labels[rows], soft_label[rows]
    of_human = scores[np.arange(len(rows)), labels]
    table = pd.DataFrame(
        {
            "row": rows,
            "split": split.name,
            "image_id": split.ids[rows],
            "human_label": [EXPRESSIONS[label] for label in labels],
            "predicted_label": [EXPRESSIONS[best] for best in np.nanargmax(scores, axis=1)],
            "rank": ranks_of(scores, labels),
            "margin": (np.nanmax(scores, axis=1) - of_human).round(4),
            "loss": losses(scores, labels).round(4),
        }
    )
    return table.sort_values(["loss", "margin"], ascending=False, kind="stable").head(number)


def losses(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) nats: binary cross-entropy of (N, 8) scores, NaN where unknown, against the human labels (N,), summed."""
    scores = np.clip(scores, 1e-6, 1 - 1e-6)
    own = scores[np.arange(len(labels)), labels]
    return np.log1p(-own) - np.log(own) - np.nansum(np.log1p(-scores), axis=1)


if __name__ == "__main__":
    run_script(main, NOTHING_KEPT)
