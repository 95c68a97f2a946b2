"""What a Soft-FER model learns, and from which rows."""

import hashlib
import sys

import numpy as np

from affectnet_plus import EXPRESSIONS, SUBSETS
from affectnet_plus.releases.expressions import listed
from affectnet_plus.training.faces import Split, columns_of, read_soft_labels
from affectnet_plus.training.soft_fer.arguments import SoftFerArguments


def of_subset(split: Split, subsets: list[str]) -> Split:
    if not subsets:
        return split
    if split.metadata is None or "subset" not in split.metadata.features:
        raise ValueError(f"--subset {' '.join(subsets)}: {split.name} has no column `subset`.")
    wanted = [SUBSETS.index(name) for name in subsets]
    rows = np.flatnonzero(np.isin([-1 if s is None else s for s in split.metadata["subset"][:]], wanted))
    if not len(rows):
        raise ValueError(f"No row of {split.name} is {' or '.join(subsets)}, of {len(split)} rows.")
    return split.select(rows)


def check_affect(split: Split) -> None:
    for name, values in zip(("valence", "arousal"), split.affect().T, strict=True):
        if not np.isfinite(values).any():
            raise ValueError(f"--valence_arousal: {split.name} has no numbers in a column called {name}.")


def add_soft_labels(train: Split, model_args: SoftFerArguments) -> dict:
    """Put what is learned in place; returns what the record says of it."""
    record = {"soft_labels": "of the data"}
    if folder := model_args.soft_labels:
        columns = columns_of(folder, train.name)
        column = model_args.soft_labels_column or ("posterior" if "posterior" in columns else "soft_label")
        train.soft_labels = read_soft_labels(folder, train, column)
        record = {"soft_labels": "label.py", "soft_labels_column": column}
    if train.soft_labels is None:
        raise ValueError(
            f"{train.name} has no soft labels: make them by label.py and name its folder by --soft_labels, name "
            "their column by --soft_label_column_name, or take --target hard."
        )
    empty = ~train.soft_labels.any(axis=1)
    if model_args.target != "soft" and empty.any():
        raise ValueError(
            f"--target {model_args.target}: {int(empty.sum())} rows of {train.name} have only zeros as soft label, "
            "which is no distribution: leave them out, or take --target soft."
        )
    digest = hashlib.sha256(train.soft_labels.astype("float32").tobytes()).hexdigest()[:16]
    return record | {"soft_labels_sha256": digest}


def targets_of(split: Split, model_args: SoftFerArguments) -> np.ndarray:
    """(rows, 8) float32, or (rows, 10) with valence and arousal, NaN where unknown."""
    targets = _of_expressions(split, model_args)
    return np.hstack([targets, split.affect()]) if model_args.valence_arousal else targets


def _of_expressions(split: Split, model_args: SoftFerArguments) -> np.ndarray:
    """(rows, 8) float32. Where a teacher says everything, rows may have no soft labels: their human label stands in,
    unlearned."""
    human = np.eye(len(EXPRESSIONS), dtype="float32")[split.labels]
    targets = human
    if model_args.target != "hard" and split.soft_labels is not None:
        targets = split.soft_labels.astype("float32")
        if model_args.target != "soft":
            targets = targets / np.maximum(targets.sum(axis=1, keepdims=True), 1e-12)
        if model_args.target == "mixed":
            targets = model_args.hard_weight * human + (1 - model_args.hard_weight) * targets
    return targets


def warn_of_absent_expressions(split: Split, model_args: SoftFerArguments) -> None:
    """Of the expressions that no target says anything of, as in a dataset of seven classes."""
    if absent := [EXPRESSIONS[i] for i in np.flatnonzero(~_of_expressions(split, model_args).any(axis=0))]:
        print(
            f"train_soft_fer.py: warning: no row of {split.name} shows {listed(absent)}: the model will learn that "
            "nobody does.",
            file=sys.stderr,
        )


def groups_of(labels: np.ndarray, sampler: str) -> tuple[list[np.ndarray], list[int] | None]:
    """Groups to draw from, and how often each in a round."""
    if sampler == "none":
        return [np.arange(len(labels))], None
    groups = [rows for i in range(len(EXPRESSIONS)) if len(rows := np.flatnonzero(labels == i))]
    if sampler == "balanced":
        return groups, None
    roots = np.sqrt([len(rows) for rows in groups])
    return groups, np.maximum(1, np.rint(200 * roots / roots.sum())).astype(int).tolist()
