"""Other people's soft labels: a column for each expression, or a list in an order that is named."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from affectnet_plus import EXPRESSIONS, LABEL_ORDERS, match_expressions
from affectnet_plus.modeling import said_as_damage
from affectnet_plus.releases.expressions import label_names
from affectnet_plus.training.faces.split import Split
from affectnet_plus.training.faces.tables import (
    FORMATS,
    expression_columns,
    expression_index,
    list_column,
    places_of,
    read_table,
)

_FLAG = "--soft_labels"


def is_table(path: str) -> bool:
    """Whether `--soft_labels` names a file, or a folder of files that label.py did not write."""
    folder = Path(path)
    if folder.is_file():
        return True
    if not folder.is_dir() or (folder / "label.json").exists():
        return False
    files = [file for file in folder.iterdir() if file.suffix in FORMATS]
    parts = [file for file in files if file.match("*-*-of-*.parquet")]
    if len(parts) < len(files) or not parts:
        return bool(files)
    with said_as_damage(parts[0], "write it anew"):
        return not {"image_id", "soft_label"} <= set(pq.read_schema(parts[0]).names)


def expressions_in_table(path: str, split: str, order: Sequence[str] = ()) -> list[str]:
    """The expressions that its columns or the order name."""
    indices = _columns(read_table(path, split, _FLAG), path, order)[0]
    return [EXPRESSIONS[i] for i in sorted(indices)]


def scores_of_table(path: str, split: Split, order: Sequence[str] = ()) -> np.ndarray:
    """(N, 8) in [0, 1], NaN for what the table does not have, in the order of the split's rows.

    Args:
        path: what `--soft_labels` names.
        split: N rows.
        order: of the scores in a list, a name in `LABEL_ORDERS` or the names themselves.

    Raises:
        ValueError: a row has no label, a score is outside 0 to 1, the order is not said or cannot be right, or the
            labels are of other faces.
    """
    table = read_table(path, split.name, _FLAG)
    indices, values = _columns(table, path, order)
    if (wrong := (values < 0) | (values > 1 + 1e-6)).any():
        row = int(wrong.any(axis=1).argmax())
        raise ValueError(
            f"{path}: scores of {int(wrong.any(axis=1).sum())} rows are not from 0 to 1, e.g. {values[wrong][0]:g} in "
            f"row {row}: divide percentages by 100, counts of votes by their sum."
        )
    places = places_of(table, split, str(path))
    scores = np.full((len(split), len(EXPRESSIONS)), np.nan)
    scores[:, indices] = np.where(places[:, None] < 0, np.nan, values[places])
    if (missing := np.isnan(scores).all(axis=1)).any():
        raise ValueError(
            f"{path} has no label for {int(missing.sum())} rows of {split.name}, e.g. {split.ids[missing][0]}: add "
            "them, or leave these rows out of the data."
        )
    _check_faces(table, places, scores, split, path)
    return scores


def _columns(table: pd.DataFrame, path: str, order: Sequence[str]) -> tuple[list[int], np.ndarray]:
    """Indices into `EXPRESSIONS`, and (rows, indices) numbers."""
    by_name, in_list = expression_columns(table), list_column(table)
    if len(by_name) > 1:
        columns = table[list(by_name)].apply(pd.to_numeric, errors="coerce")
        if (text := columns.isna() & table[list(by_name)].notna()).any(axis=None):
            raise ValueError(f"{path}: column {text.any().idxmax()!r} does not hold numbers only.")
        return list(by_name.values()), columns.to_numpy(np.float64)
    if in_list is None:
        raise ValueError(
            f"{path} has no soft labels: name its columns by the expressions ({', '.join(EXPRESSIONS)}), or write a "
            "list column `soft_label` and say its order by --soft_labels_order."
        )
    if not order:
        raise ValueError(
            f"{path}: the scores in {in_list!r} have no order: say theirs by --soft_labels_order, "
            f"{', '.join(LABEL_ORDERS)} or the names themselves."
        )
    names = label_names(order)
    lengths = {len(row) if isinstance(row, (list, np.ndarray)) else 0 for row in table[in_list]}
    if lengths != {len(names)}:
        raise ValueError(
            f"{path}: {in_list!r} does not hold a list of {len(names)} numbers in every row, one for each name of "
            "--soft_labels_order."
        )
    with said_as_damage(path, f"write numbers into {in_list!r}"):
        return match_expressions(names), np.array(table[in_list].tolist(), dtype=np.float64)


def _check_faces(table: pd.DataFrame, places: np.ndarray, scores: np.ndarray, split: Split, path: str) -> None:
    """Raises `ValueError` where most human labels in the table are others, or, where it has none, its highest scores
    have nothing to do with those of the rows."""
    labelled = split.labels >= 0
    if "human_label" in table:
        index_of = {name: expression_index(name) for name in table["human_label"].unique()}  # numbers say nothing
        said = table["human_label"].map(index_of).to_numpy()[places]
        both = labelled & (said >= 0)
        if both.any() and (share := float((said != split.labels)[both].mean())) > 0.5:
            raise ValueError(
                f"{path} is of other faces that have the same ids, or of other human labels: they are not those "
                f"written there in {share:.0%} of the rows of {split.name}. Label these rows."
            )
    human, highest = split.labels[labelled], np.nan_to_num(scores[labelled], nan=-1).argmax(axis=1)
    by_chance = sum((human == i).mean() * (highest == i).mean() for i in range(len(EXPRESSIONS)))
    if len(human) >= 100 and (agreement := float((human == highest).mean())) < by_chance:
        raise ValueError(
            f"{path} is of other faces that have the same ids, or its order is another: the highest score is the human "
            f"label's in {agreement:.0%} of the rows of {split.name}, no more than by chance."
        )
