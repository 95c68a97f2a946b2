"""Human labels as a person has corrected them in the page of show_label_errors.py (`--corrections`)."""

import hashlib
from functools import cache

import numpy as np
import pandas as pd
import torch.distributed as dist

from affectnet_plus import EXPRESSIONS
from affectnet_plus.releases.files import shortened, text_of_csv_cell
from affectnet_plus.training.faces.split import Split

COLUMNS = ["split", "image_id", "human_label", "corrected_label", "decision"]
NONE = "none"  # a face of none of the expressions, or no face
_LABELS = [*EXPRESSIONS, NONE]


def read_corrections(file: str) -> pd.DataFrame:
    """The rows of a `corrections.csv`, each once.

    Args:
        file: CSV with `COLUMNS`: `decision` is accept, correct or skip; `corrected_label` an expression or "none", and
            looked at where the decision is correct.

    Returns:
        `COLUMNS` as strings, `corrected_label` being the human label where nothing is corrected.

    Raises:
        ValueError: it cannot be read, lacks a column, says something unknown, or says two things of one row.
    """
    named = f"--corrections {shortened(file, 100)}"
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig").map(text_of_csv_cell)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{named} cannot be read as CSV: {shortened(str(error), 100)}") from error
    if missing := [name for name in COLUMNS if name not in table]:
        raise ValueError(f"{named} has no column {', '.join(missing)}: the page of show_label_errors.py saves all.")
    of_decision = table["corrected_label"].where(table["decision"] == "correct", table["human_label"])
    table = table[COLUMNS].assign(corrected_label=of_decision)
    for column, known in (
        ("decision", ["accept", "correct", "skip"]),
        ("human_label", EXPRESSIONS),
        ("corrected_label", _LABELS),
    ):
        if (wrong := ~table[column].isin(known)).any():
            row = int(wrong.argmax())
            value = shortened(repr(table[column].iloc[row]), 40)
            raise ValueError(f"{named} has {value} as {column} in its row {row + 1}: it is one of {', '.join(known)}.")
    table = table.drop_duplicates()
    if (twice := table.duplicated(["split", "image_id"])).any():
        row = table[twice].iloc[0]
        raise ValueError(
            f"{named} says two things of {shortened(row.image_id, 60)} of {shortened(row.split, 40)}: leave one of "
            "them out."
        )
    return table


def described_corrections(file: str | None) -> dict | None:
    """For records: how many labels the file changes, how many rows it takes away, and a hash of its decisions."""
    if file is None:
        return None
    table = read_corrections(file).sort_values(COLUMNS)
    left_out = int((table["corrected_label"] == NONE).sum())
    return {
        "corrected": int((table["corrected_label"] != table["human_label"]).sum()) - left_out,
        "left_out": left_out,
        "sha256": hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()[:16],
    }


def check_splits(file: str | None, splits: list[str]) -> None:
    """Raises `ValueError` where corrections are of another split than the dataset has."""
    if file and (unknown := sorted(set(read_corrections(file)["split"]) - set(splits))):
        raise ValueError(
            f"--corrections {shortened(file, 100)} has rows of {shortened(repr(unknown[0]), 40)}, and the dataset has "
            f"the splits {shortened(', '.join(splits))}: they are another dataset's."
        )


def corrected(split: Split, file: str | None, all_ids: np.ndarray | None = None) -> Split:
    """The split with the labels that a person has corrected.

    Args:
        split: N rows with the dataset's own labels.
        file: of `read_corrections`, or None: nothing is changed.
        all_ids: where `split` is the first rows of it, the ids of the whole split.

    Returns:
        The same rows; -1 where a face is of none of the expressions.

    Raises:
        ValueError: the corrections are not of these rows.
    """
    if file is None:
        return split
    table = read_corrections(file)
    table = table[table["split"] == split.name]
    named = f"--corrections {shortened(file, 100)}"
    if (unknown := ~table["image_id"].isin(split.ids if all_ids is None else all_ids)).any():
        raise ValueError(
            f"{named} has {int(unknown.sum())} rows that {split.name} has not, e.g. image_id "
            f"{shortened(table['image_id'][unknown].iloc[0], 40)}: take those made of this dataset and configuration."
        )
    place = {row_id: row for row, row_id in enumerate(split.ids.tolist())}
    table = table[table["image_id"].isin(place)]
    rows = table["image_id"].map(place).to_numpy(int)
    was, now = (table[column].map(_LABELS.index).to_numpy(int) for column in ("human_label", "corrected_label"))
    if (other := np.flatnonzero(split.labels[rows] != was)).size:
        row = table.iloc[other[0]]
        here = split.labels[rows[other[0]]]
        raise ValueError(
            f"{named} has {row.human_label} as the human label of {shortened(row.image_id, 40)} of {split.name}, and "
            f"the dataset {EXPRESSIONS[here] if here >= 0 else 'no expression'}: they are another dataset's."
        )
    left_out = now == _LABELS.index(NONE)
    if (unknown := ~left_out & (now != was) & ~split.known[rows, np.where(left_out, 0, now)]).any():
        raise ValueError(f"{named} has {_LABELS[now[unknown][0]]}, for which {split.name} has no class: say none.")
    split.labels = split.labels.copy()
    split.labels[rows] = np.where(left_out, -1, now)
    if not (dist.is_initialized() and dist.get_rank()):
        changed = int((now != was).sum() - left_out.sum())
        _say(f"--corrections: {changed} labels of {split.name} corrected, {left_out.sum()} rows without a label.")
    return split


@cache  # the same rows are read for several purposes
def _say(text: str) -> None:
    print(text)
