"""What a Soft-FER model learns, and from which rows."""

import hashlib
import sys

import numpy as np

from affectnet_plus import EXPRESSIONS, SUBSETS, match_expressions
from affectnet_plus.releases.expressions import listed
from affectnet_plus.training.faces import Split, columns_of, expressions_of, is_table, read_soft_labels
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


def expressions_to_learn(train: Split, model_args: SoftFerArguments, teacher=None) -> list[str]:
    """Those asked for, by default all that are known of what is learned from; `ValueError` where they are not."""
    known = np.ones(len(EXPRESSIONS), dtype=bool)
    if model_args.soft_labels:
        known &= np.isin(EXPRESSIONS, expressions_of(model_args.soft_labels, train.name, model_args.soft_labels_order))
    elif model_args.learns_soft_labels and train.soft_labels is not None:
        known &= ~np.isnan(train.soft_labels).all(axis=0)
    if teacher:
        known &= np.isin(EXPRESSIONS, teacher.config.expressions)
    if model_args.target in ("hard", "mixed"):
        known &= train.known.any(axis=0)
    names = [EXPRESSIONS[i] for i in np.flatnonzero(known)]
    if missing := [name for name in model_args.expressions if name not in names]:
        raise ValueError(f"--expressions: nothing is known of {', '.join(missing)} here, only of {', '.join(names)}.")
    names = model_args.expressions or names
    if len(names) < 2:
        raise ValueError(f"A model tells at least two expressions apart, and here is only {', '.join(names)}.")
    return names


def labelled_as(split: Split, expressions: list[str]) -> Split:
    """Without the rows whose human label is another expression, which are counted."""
    among = np.isin(split.labels, [-1, *match_expressions(expressions)])
    if among.all():
        return split
    if not among.any():
        raise ValueError(f"No row of {split.name} is labelled {' or '.join(expressions)}.")
    others = {EXPRESSIONS[i]: int(number) for i, number in enumerate(np.bincount(split.labels[~among])) if number}
    print(
        f"train_soft_fer.py: {int((~among).sum()):,} rows of {split.name} are left out, as the model has no such "
        f"expression: {', '.join(f'{name} {number:,}' for name, number in others.items())}.",
        file=sys.stderr,
    )
    return split.select(np.flatnonzero(among))


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
        train.soft_labels = read_soft_labels(folder, train, column, model_args.soft_labels_order)
        record = {"soft_labels": "a table"}
        if not is_table(folder):
            record = {"soft_labels": "label.py", "soft_labels_column": column}
    if train.soft_labels is None:
        raise ValueError(
            f"{train.name} has no soft labels: make them by label.py and name its folder by --soft_labels, name "
            "their column by --soft_label_column_name, or take --target hard."
        )
    empty = ~np.nan_to_num(train.soft_labels[:, match_expressions(model_args.expressions or EXPRESSIONS)]).any(axis=1)
    if model_args.target != "soft" and empty.any():
        raise ValueError(
            f"--target {model_args.target}: {int(empty.sum())} rows of {train.name} have only zeros as soft label, "
            "which is no distribution: leave them out, or take --target soft."
        )
    digest = hashlib.sha256(train.soft_labels.astype("float32").tobytes()).hexdigest()[:16]
    return record | {"soft_labels_sha256": digest}


def human_targets(split: Split) -> np.ndarray:
    """(rows, 8) 1 for the human label, 0 for other expressions, NaN where they are not known of the row."""
    one_hot = np.eye(len(EXPRESSIONS) + 1)[split.labels][:, :-1]  # the last: no class
    return np.where(split.known, one_hot, np.nan)


def complete_by_human_labels(train: Split) -> None:
    """Let the human label stand in where one of several datasets has no soft labels, and say so."""
    if train.soft_labels is None or not (lacking := np.isnan(train.soft_labels).all(axis=1)).any():
        return
    train.soft_labels = np.where(lacking[:, None], human_targets(train), train.soft_labels)
    print(
        f"train_soft_fer.py: {int(lacking.sum()):,} rows of {train.name} have no soft label: their human label is "
        "learned in its place.",
        file=sys.stderr,
    )


def targets_of(split: Split, model_args: SoftFerArguments) -> np.ndarray:
    """(rows, expressions) float32, and two columns more with valence and arousal; NaN where unknown."""
    targets = _of_expressions(split, model_args)
    return np.hstack([targets, split.affect()]) if model_args.valence_arousal else targets


def _of_expressions(split: Split, model_args: SoftFerArguments) -> np.ndarray:
    """(rows, expressions) float32. Where a teacher says everything, rows may have no soft labels: their human label
    stands in, unlearned."""
    columns = match_expressions(model_args.expressions or EXPRESSIONS)
    human = human_targets(split)[:, columns].astype("float32")
    targets = human
    if model_args.target != "hard" and split.soft_labels is not None:
        targets = split.soft_labels[:, columns].astype("float32")
        if model_args.target != "soft":
            targets = targets / np.maximum(np.nansum(targets, axis=1, keepdims=True), 1e-12)
        if model_args.target == "mixed":
            targets = model_args.hard_weight * human + (1 - model_args.hard_weight) * targets
    return targets


def warn_of_absent_expressions(split: Split, model_args: SoftFerArguments) -> None:
    """Of the expressions that no target says anything of, as where a class of the dataset has no rows."""
    any_shows = np.nan_to_num(_of_expressions(split, model_args)).any(axis=0)
    if absent := [
        name for name, shown in zip(model_args.expressions or EXPRESSIONS, any_shows, strict=True) if not shown
    ]:
        print(
            f"train_soft_fer.py: warning: no row of {split.name} shows {listed(absent)}: the model will learn that "
            "nobody does; without it, by --expressions, it has no such output.",
            file=sys.stderr,
        )


def groups_of(labels: np.ndarray, sampler: str) -> tuple[list[np.ndarray], list[int] | None]:
    """Groups to draw from, those without a class another one, and how often each in a round."""
    if sampler == "none":
        return [np.arange(len(labels))], None
    groups = [rows for i in range(-1, len(EXPRESSIONS)) if len(rows := np.flatnonzero(labels == i))]
    if sampler == "balanced":
        return groups, None
    roots = np.sqrt([len(rows) for rows in groups])
    return groups, np.maximum(1, np.rint(200 * roots / roots.sum())).astype(int).tolist()
