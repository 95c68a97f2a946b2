"""Rows that have a share of each expression in place of a class: a list of numbers, or a column for each expression."""

import contextlib

import datasets
import numpy as np

from affectnet_plus import EXPRESSIONS, LABEL_ORDERS, match_expressions
from affectnet_plus.releases.expressions import label_names
from affectnet_plus.releases.files import shortened


def shares_of(rows: datasets.Dataset, args) -> np.ndarray | None:
    """(rows, 8) in [0, 1], NaN for what the dataset does not have; None where it has a column of classes, or none of
    either. Raises `ValueError` that names the first row of which that cannot be said."""
    if args.label_column_name != type(args).label_column_name or args.label_column_name in rows.column_names:
        return None
    column, names = args.soft_label_column_name, [name for name in rows.column_names if _is_expression(name)]
    if column in rows.column_names:
        names, what = label_names(args.label_order), f"Column {column!r}"
        if not names:
            raise ValueError(
                f"{rows.split} has no column {args.label_column_name!r}, and the scores in {column!r} have no order: "
                f"say theirs by --label_order, {', '.join(LABEL_ORDERS)} or the names themselves."
            )
        values = rows[column][:]
    elif len(names) > 1:
        what = f"Columns {', '.join(names)}"
        values = list(zip(*(rows[name][:] for name in names), strict=True))
    else:
        return None
    for row, scores in enumerate(values):
        if problem := _problem(scores, len(names)):
            raise ValueError(f"{what} of {rows.split}, row {row}: {problem}")
    shares = np.full((len(rows), len(EXPRESSIONS)), np.nan)
    shares[:, match_expressions(names)] = np.array(values, dtype=np.float64).reshape(len(rows), len(names))
    return shares


def classes_of(shares: np.ndarray) -> np.ndarray:
    """(rows,) the index of the highest share of each row (rows, 8), -1 where several are as high or none is above 0."""
    highest = np.nanmax(shares, axis=1, initial=0)
    is_highest = shares == highest[:, None]
    return np.where((is_highest.sum(axis=1) == 1) & (highest > 0), is_highest.argmax(axis=1), -1)


def _is_expression(name: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(match_expressions([name]))
    return False


def _problem(scores, number: int) -> str | None:
    if not isinstance(scores, (list, tuple)) or len(scores) != number:
        held = f"{len(scores)} numbers" if isinstance(scores, list) else repr(scores)[:40]
        return f"{held} where {number} are expected, one for each name of --label_order."
    wrong = [score for score in scores if not isinstance(score, (int, float)) or not 0 <= score <= 1 + 1e-6]
    if not wrong:
        return None
    cure = ": divide counts of votes by their sum, percentages by 100" if str(wrong[0])[:1].isdigit() else ""
    return f"{shortened(repr(wrong[0]), 40)} is no share from 0 to 1{cure}."
