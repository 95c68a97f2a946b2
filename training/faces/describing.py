"""Rows as they are, to tell what is in them."""

from collections import Counter

import datasets
import numpy as np

from affectnet_plus import EXPRESSIONS, match_expressions
from affectnet_plus.training.faces.loading import labels_of, soft_labels_of, split_to_label
from affectnet_plus.training.faces.shares import shares_of
from affectnet_plus.training.faces.split import Split

NO_LABEL = "no label"


def split_to_describe(rows: datasets.Dataset, args) -> Split:
    """All rows of a split, whether they have a label and scores or not.

    Args:
        rows: of the split.
        args: `DataArguments`.

    Returns:
        The split, with label -1 and scores NaN where there are none; its `soft_labels` are None where no row has any.

    Raises:
        ValueError: classes or scores cannot be matched with our expressions.
    """
    split = split_to_label(rows, args)
    split.soft_labels = shares_of(rows, args)
    if args.soft_label_column_name in rows.column_names and args.label_column_name in rows.column_names:
        column = args.soft_label_column_name
        has = np.array([value is not None and None not in value for value in rows[column][:]])
        some, found = rows.select(np.flatnonzero(has)), None
        if not args.dataset_name:  # in our order, whatever else the label has classes for
            found = np.array(some[column][:], dtype=np.float64).reshape(-1, len(EXPRESSIONS))
        elif len(some):
            to_ours = np.array(match_expressions(labels_of(rows, args)[1]))
            found = soft_labels_of(some, args, split.labels[has], to_ours)
        if has.any() and found is not None:
            split.soft_labels = np.full((len(rows), len(EXPRESSIONS)), np.nan)
            split.soft_labels[has] = found
    return split


def label_counts(rows: datasets.Dataset, split: Split, args) -> dict[str, int]:
    """Rows by human label: the eight expressions, what else a release has classes for, and those without any.

    Args:
        rows: of the split.
        split: as `split_to_describe` has it.
        args: `DataArguments`.
    """
    counts = Counter(dict.fromkeys(EXPRESSIONS, 0))
    counts.update(EXPRESSIONS[label] for label in split.labels if label >= 0)
    others = int((split.labels < 0).sum())
    if not args.dataset_name and others:
        indices, names = labels_of(rows, args)
        counts.update(names[index] for index in indices if index >= len(EXPRESSIONS))
        others = int((indices < 0).sum())
    return dict(counts) | ({NO_LABEL: others} if others else {})
