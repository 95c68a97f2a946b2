"""Several people's votes on a face: a dataset's own column, or a table of somebody else's (`--votes`)."""

import dataclasses
import re
import warnings
from collections.abc import Sequence

import datasets
import numpy as np
import pandas as pd

from affectnet_plus import CATEGORIES, EXPRESSIONS, LABEL_ORDERS, match_expressions
from affectnet_plus.releases.expressions import label_names, listed
from affectnet_plus.training.faces.split import Split
from affectnet_plus.training.faces.tables import expression_columns, expression_index, places_of, read_table

_PARTICIPANT = re.compile(r"(participant|annotator|rater|voter|worker|person)[ _-]?\d+", re.IGNORECASE)


def votes_of_rows(rows: datasets.Dataset, class_names: Sequence[str], labels: np.ndarray) -> np.ndarray | None:
    """(N, 8) counts in the column `votes`, or None where there is none that can be read, with a warning.

    Args:
        rows: a struct of counts by name, as in our FER+, or a list of counts, one per class name, perhaps followed by
            such as "unknown", which are left out.
        class_names: of the label.
        labels: (N,) indices into `EXPRESSIONS`.
    """
    if "votes" not in rows.column_names:
        return None
    table, own = pd.DataFrame({"votes": rows["votes"][:]}), list(class_names)
    if isinstance(table["votes"][0], dict):
        table = pd.DataFrame(table["votes"].tolist())
    elif table["votes"].map(lambda row: isinstance(row, list) and 0 <= len(row) - len(own) <= 2).all():
        table = pd.DataFrame([row[: len(own)] for row in table["votes"]], columns=own)
    counts, found = expression_columns(table), None
    if len(counts) > 1 and all(table[name].dtype.kind in "iu" for name in counts):
        found = np.zeros((len(rows), len(EXPRESSIONS)), dtype=int)
        found[:, list(counts.values())] = table[list(counts)]
    # In another order than the classes, or of something else, the label has few of them.
    if found is None or (found < 0).any() or np.mean(found[range(len(rows)), labels] == found.max(axis=1)) < 0.5:
        warnings.warn(
            f"Column 'votes' of {rows.split} is not read: counts are expected, one per class name of the label, most "
            "of them for it in most rows.",
            stacklevel=2,
        )
        return None
    return found


def join_votes(split: Split, path: str, order: Sequence[str] = ()) -> Split:
    """The rows of which a table has votes, with their shares as soft labels and, where it has more than shares, their
    counts as `votes`; a warning says how many.

    Args:
        split: N rows.
        path: a CSV or Parquet file, or a folder of such: a column for each expression with counts or shares, or one for
            each participant with the code or the name of an expression; nothing or -1 is no vote.
        order: of the codes, a name in `LABEL_ORDERS` or the names themselves.

    Raises:
        ValueError: the table cannot be read as that, or is of other rows.
    """
    table = read_table(path, split.name, "--votes")
    places = places_of(table, split, f"--votes {path}")
    if participants := [name for name in table.columns if _PARTICIPANT.fullmatch(name)]:
        votes, known = _of_participants(table[participants], path, order, split.labels, places), True
    else:
        votes, known = _by_expression(table, path)
    rows = np.flatnonzero((places >= 0) & (votes[places].sum(axis=1) > 0))
    if not len(rows):
        raise ValueError(f"--votes {path} has no vote for an expression in any row of {split.name}.")
    votes = votes[places[rows]]
    warnings.warn(
        f"{len(rows):,} of {len(split):,} rows of {split.name} have votes in --votes {path}: only these are measured.",
        stacklevel=2,
    )
    return dataclasses.replace(
        split.select(rows),
        soft_labels=np.where(known, votes / votes.sum(axis=1, keepdims=True), np.nan),
        votes=votes.astype(int) if (votes == votes.round()).all() else None,
    )


def _of_participants(
    table: pd.DataFrame, path: str, order: Sequence[str], labels: np.ndarray, places: np.ndarray
) -> np.ndarray:
    """(rows, 8) counts of the codes or names in columns of participants."""
    codes = table.apply(pd.to_numeric, errors="coerce")
    if (codes.isna() & table.notna()).any(axis=None):
        names = pd.unique(table.to_numpy(object).ravel())
        index_of = {name: expression_index(name) for name in names}
        if unknown := [n for n in names if pd.notna(n) and index_of[n] < 0 and str(n) not in CATEGORIES]:
            raise ValueError(
                f"--votes {path} holds {listed(unknown, 3, 60)} as votes, which name no expression: write names of "
                "expressions only, or codes only."
            )
        codes, names = table.map(index_of.get), list(EXPRESSIONS)
    elif order:
        names = label_names(order)
    else:
        raise ValueError(
            f"--votes {path}: {table.columns[0]!r} and its like number the expressions: say by --votes_label_order in "
            f"which order, {', '.join(LABEL_ORDERS)} or the names themselves (from 0)."
        )
    codes = codes.fillna(-1).to_numpy()
    if (wrong := ~np.isin(codes, range(-1, len(names)))).any():
        raise ValueError(
            f"--votes {path} holds {codes[wrong][0]:g} as a code, and --votes_label_order has {len(names)} names, "
            "counted from 0: give all names; nothing or -1 is no vote."
        )
    counts = np.stack([(codes == code).sum(axis=1) for code in range(len(names))], axis=1)
    if order:
        _check_order(names, counts[places[places >= 0]], labels[places >= 0], path)
    votes = np.zeros((len(table), len(EXPRESSIONS)))
    votes[:, match_expressions(names)] = counts
    return votes


def _check_order(names: list[str], counts: np.ndarray, labels: np.ndarray, path: str) -> None:
    """Raises `ValueError` where in another known order most votes are far oftener those for the human label."""

    def agreement(order: Sequence[str]) -> float:
        return float(np.mean(np.array(match_expressions(order))[counts.argmax(axis=1)] == labels))

    shares = {name: agreement(order) for name, order in LABEL_ORDERS.items() if len(order) == len(names)}
    if not shares:
        return
    better, share = max(shares.items(), key=lambda item: item[1])
    if share > (said := agreement(names)) + max(0.1, 3 / np.sqrt(len(labels))):
        raise ValueError(
            f"--votes {path}: most votes are for the human label in {said:.0%} of the rows in the order of "
            f"--votes_label_order, in {share:.0%} in that called {better}: give the right one."
        )


def _by_expression(table: pd.DataFrame, path: str) -> tuple[np.ndarray, np.ndarray]:
    """(rows, 8) counts or shares, 0 where there is nothing, and (8,) which expressions have a column."""
    columns = expression_columns(table)
    if len(columns) < 2:
        raise ValueError(
            f"--votes {path} has no votes: a column for each expression ({', '.join(EXPRESSIONS)}) or for each person "
            "(participant0, participant1 ...) is expected."
        )
    values = table[list(columns)].apply(pd.to_numeric, errors="coerce").fillna(0).to_numpy(np.float64)
    sums = values.sum(axis=1)
    are_counts = (values == values.round()).all()
    if (values < 0).any() or not (are_counts or np.isclose(sums[sums > 0], 1, atol=0.02).all()):
        raise ValueError(
            f"--votes {path} holds neither whole numbers of votes nor shares that sum to one in every row: write "
            "counts, or divide percentages by 100."
        )
    votes = np.zeros((len(table), len(EXPRESSIONS)))
    votes[:, list(columns.values())] = values
    return votes, np.isin(range(len(EXPRESSIONS)), list(columns.values()))
