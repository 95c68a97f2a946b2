"""Scores that somebody else has made: a table with a row for each face."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from affectnet_plus import EXPRESSIONS, match_expressions
from affectnet_plus.modeling import said_as_damage
from affectnet_plus.releases.expressions import listed
from affectnet_plus.training.faces.split import Split

_FILE_NAMES = ("file_name", "filename", "file", "image", "path")  # columns, by the first of which rows are matched
_KEYS = ("image_id", *_FILE_NAMES)
_TOLERANCE = 1e-3  # of what was rounded to few decimals


def read_predictions(file: str, split: Split) -> tuple[np.ndarray, list[str]]:
    """Scores from a CSV file, or from a Parquet file such as our predictions.parquet.

    A column `image_id`, or else `file_name`, says which face a row is of; a column for each expression, by its name or
    a known synonym, or `soft_label` (8 scores, as JSON in a CSV file) what the scores are.

    Args:
        file: ends in .csv or .parquet.
        split: N faces; rows of others are not looked at.

    Returns:
        (N, 8) scores in [0, 1], 0 for what the file does not know, and the expressions that it knows.

    Raises:
        ValueError: the file cannot be read, a face has no row or several, or a score is none.
    """
    flag = f"--predictions {file}"
    table = _read(file, flag)
    if "split" in table and (table["split"] == split.name).any():
        table = table[table["split"] == split.name]
    key = next((name for name in _KEYS if name in table), None)
    if key is None:
        raise ValueError(f"{flag} has no column {listed(_KEYS[:2])}, only {listed(table.columns, letters=60)}: add it.")
    keys, wanted = table[key].astype(str), split.ids
    if key in _FILE_NAMES:
        keys, wanted = keys.map(lambda name: Path(name.replace("\\", "/")).stem), split.names
    for where, found in ((f"rows of column {key!r}", keys), (f"faces of {split.name}", pd.Series(wanted))):
        if (twice := found[found.duplicated()]).size:
            raise ValueError(f"{flag} cannot be matched: several {where} are called {twice.iloc[0]}. Give image_id.")
    place = pd.Index(keys).get_indexer(wanted)
    if (missing := np.asarray(wanted)[place < 0]).size:
        raise ValueError(
            f"{flag} has no row for {missing.size} of {len(split)} faces of {split.name}, e.g. {missing[0]} (its own "
            f"are like {listed(keys[:1])}): add them, or measure on the faces that it has."
        )
    table = table.iloc[place]
    if "label" in table and table["label"].isin(EXPRESSIONS).all():  # as in our own files
        others = float((table["label"] != np.array(EXPRESSIONS)[split.labels]).mean())
        if others > 0.5:
            raise ValueError(
                f"{flag} is of other faces that have the same {key}: its labels are not theirs in {others:.0%} of "
                f"the rows of {split.name}. Name the data that it was made on."
            )
    scores = _scores(table, flag)
    known = [name for name, column in zip(EXPRESSIONS, scores.T, strict=True) if not np.isnan(column).all()]
    if not known:
        raise ValueError(f"{flag} has no scores: a column for each expression, or soft_label.")
    wrong = ~((scores >= 0) & (scores <= 1 + _TOLERANCE))[:, match_expressions(known)].all(axis=1)
    if wrong.any():
        raise ValueError(
            f"{flag} has no score from 0 to 1 for each expression in {int(wrong.sum())} rows, e.g. of "
            f"{wanted[wrong.argmax()]}: write probabilities, not logits or per cent."
        )
    return np.nan_to_num(scores).clip(0, 1), known


def _read(file: str, flag: str) -> pd.DataFrame:
    if not Path(file).is_file():
        raise ValueError(f"{flag} is no file: name a .csv or .parquet file with a row for each face.")
    with said_as_damage(file, "write it anew, as CSV or Parquet with a row for each face"):
        return pd.read_parquet(file) if file.endswith(".parquet") else pd.read_csv(file, dtype=str)


def _scores(table: pd.DataFrame, flag: str) -> np.ndarray:
    """(N, 8), NaN for what is not there."""
    if "soft_label" in table:
        with said_as_damage(flag, "each soft_label is a list of 8 scores"):
            values = [json.loads(value) if isinstance(value, str) else value for value in table["soft_label"]]
            scores = np.array([list(value) for value in values], dtype=float)
            if scores.shape != (len(table), len(EXPRESSIONS)):
                raise ValueError(f"shape {scores.shape}")
        return scores
    columns = [name for name in table.columns if _is_expression(name)]
    scores = np.full((len(table), len(EXPRESSIONS)), np.nan)
    scores[:, match_expressions(columns)] = table[columns].apply(pd.to_numeric, errors="coerce")
    return scores


def _is_expression(name: str) -> bool:
    try:
        return bool(match_expressions([name]))
    except ValueError:
        return False
