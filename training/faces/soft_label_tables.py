"""Other people's soft labels and predictions: a column for each expression, or a list in an order that is named."""

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
    indices = _columns(read_table(path, split, _FLAG), f"{_FLAG} {path}", order)[0]
    return [EXPRESSIONS[i] for i in sorted(indices)]


def soft_labels_of_table(path: str, split: Split, order: Sequence[str] = ()) -> np.ndarray:
    """(N, 8) as `scores_of_table` has them; raises `ValueError`, too, where the highest have nothing to do with the
    human labels of the rows."""
    scores = scores_of_table(path, split, order)
    labelled = split.labels >= 0
    human, highest = split.labels[labelled], np.nan_to_num(scores[labelled], nan=-1).argmax(axis=1)
    by_chance = sum((human == i).mean() * (highest == i).mean() for i in range(len(EXPRESSIONS)))
    if len(human) >= 100 and (agreement := float((human == highest).mean())) < by_chance:
        raise ValueError(
            f"{path} is of other faces that have the same ids, or its order is another: the highest score is the human "
            f"label's in {agreement:.0%} of the rows of {split.name}, no more than by chance."
        )
    return scores


def predictions_of_table(path: str, split: Split) -> tuple[np.ndarray, list[str]]:
    """Scores that somebody else has made of each face; a list of them is in the order of `EXPRESSIONS`, as in our
    predictions.parquet.

    Args:
        path: what `--predictions` names.
        split: N rows.

    Returns:
        (N, 8) in [0, 1], 0 for what the table does not have, and the expressions that it has.

    Raises:
        ValueError: as `scores_of_table`, and where a score of a row is missing.
    """
    scores = scores_of_table(path, split, EXPRESSIONS, "--predictions")
    known = ~np.isnan(scores).all(axis=0)
    if (lacking := np.isnan(scores[:, known]).any(axis=1)).any():
        raise ValueError(
            f"--predictions {path} lacks scores in {int(lacking.sum())} rows, e.g. of {split.ids[lacking][0]}: give "
            "one for each of its expressions."
        )
    return np.nan_to_num(scores), [name for name, there in zip(EXPRESSIONS, known, strict=True) if there]


def scores_of_table(path: str, split: Split, order: Sequence[str] = (), flag: str = _FLAG) -> np.ndarray:
    """(N, 8) in [0, 1], NaN for what the table does not have, in the order of the split's rows.

    Args:
        path: of the table.
        split: N rows.
        order: of the scores in a list, a name in `LABEL_ORDERS` or the names themselves.
        flag: what named the path.

    Raises:
        ValueError: a row has no scores, one is outside 0 to 1, the order is not said, or most human labels in the
            table are others.
    """
    table, what = read_table(path, split.name, flag), f"{flag} {path}"
    indices, values = _columns(table, what, order)
    if (wrong := (values < 0) | (values > 1 + 1e-6)).any():
        row = int(wrong.any(axis=1).argmax())
        raise ValueError(
            f"{what}: scores of {int(wrong.any(axis=1).sum())} rows are not from 0 to 1, e.g. {values[wrong][0]:g} in "
            f"row {row}: write no logits, divide percentages by 100, counts of votes by their sum."
        )
    places = places_of(table, split, what)
    scores = np.full((len(split), len(EXPRESSIONS)), np.nan)
    scores[:, indices] = np.where(places[:, None] < 0, np.nan, values[places])
    if (missing := np.isnan(scores).all(axis=1)).any():
        raise ValueError(
            f"{what} has no scores for {int(missing.sum())} rows of {split.name}, e.g. {split.ids[missing][0]}: add "
            "them, or leave these rows out of the data."
        )
    _check_human_labels(table, places, split, what)
    return scores


def _columns(table: pd.DataFrame, what: str, order: Sequence[str]) -> tuple[list[int], np.ndarray]:
    """Indices into `EXPRESSIONS`, and (rows, indices) numbers; `what` is the table."""
    by_name, in_list = expression_columns(table), list_column(table)
    if len(by_name) > 1:
        columns = table[list(by_name)].apply(pd.to_numeric, errors="coerce")
        if (text := columns.isna() & table[list(by_name)].notna()).any(axis=None):
            raise ValueError(f"{what}: column {text.any().idxmax()!r} does not hold numbers only.")
        return list(by_name.values()), columns.to_numpy(np.float64)
    if in_list is None:
        raise ValueError(
            f"{what} has no scores: name its columns by the expressions ({', '.join(EXPRESSIONS)}), or write a "
            "list column `soft_label`."
        )
    if not order:
        raise ValueError(
            f"{what}: the scores in {in_list!r} have no order: say theirs by --soft_labels_order, "
            f"{', '.join(LABEL_ORDERS)} or the names themselves."
        )
    names = label_names(order)
    lengths = {len(row) if isinstance(row, (list, np.ndarray)) else 0 for row in table[in_list]}
    if lengths != {len(names)}:
        raise ValueError(
            f"{what}: {in_list!r} does not hold a list of {len(names)} numbers in every row, one for each of "
            f"{', '.join(names)}."
        )
    with said_as_damage(what, f"write numbers into {in_list!r}"):
        return match_expressions(names), np.array(table[in_list].tolist(), dtype=np.float64)


def _check_human_labels(table: pd.DataFrame, places: np.ndarray, split: Split, what: str) -> None:
    """Raises `ValueError` where most human labels in the table, if it has any by name, are others."""
    column = next((name for name in ("human_label", "label") if name in table), None)
    if column is None:
        return
    index_of = {name: expression_index(name) for name in table[column].unique()}  # numbers say nothing
    human = table[column].map(index_of).to_numpy()[places]
    both = (split.labels >= 0) & (human >= 0)
    if both.any() and (share := float((human != split.labels)[both].mean())) > 0.5:
        raise ValueError(
            f"{what} is of other faces that have the same ids, or of other human labels: they are not those written "
            f"there in {share:.0%} of the rows of {split.name}. Name the data that it was made of."
        )
