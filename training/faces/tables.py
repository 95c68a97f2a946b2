"""Other people's tables with a row a face, read and joined to the rows of a split by `image_id` or file name."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from affectnet_plus import match_expressions
from affectnet_plus.modeling import said_as_damage
from affectnet_plus.releases.expressions import listed
from affectnet_plus.releases.files import RASTER_ENDINGS
from affectnet_plus.training.faces.split import BY_NUMBER, Split

FORMATS = (".csv", ".parquet", ".npz")
_KEYS = ("image_id", "filename", "file_name", "file", "image_name", "image name", "image", "path", "name", "id", "ids")
_LISTS = ("soft_label", "soft_labels")


def read_table(path: str | os.PathLike, split: str, flag: str) -> pd.DataFrame:
    """The rows of a split in a CSV, Parquet or NPZ file, or in a folder of such files.

    In a folder, files whose names begin with that of the split are taken where there are any, else all. Rows are those
    whose column `split` says so, where there is one. `flag` is what named the path. An NPZ has `ids` (N,) and
    `soft_labels` (N, C), perhaps `expressions` (C,), their names, and `split` (N,). Raises `ValueError` where there is
    no such file or row, and `DamagedError` where a file cannot be read.
    """
    path = Path(path)
    files = sorted(file for file in path.iterdir() if file.suffix in FORMATS) if path.is_dir() else [path]
    if not all(file.is_file() and file.suffix in FORMATS for file in files) or not files:
        raise ValueError(f"{flag} {path} is no {', '.join(FORMATS)} file and no folder of such files.")
    files = [file for file in files if file.stem.startswith(split)] or files
    table = pd.concat([_read(file, flag) for file in files], ignore_index=True)
    if "split" in table:
        is_of_split = table["split"].astype(str) == split
        if not is_of_split.any():
            raise ValueError(
                f"{flag} {path} has no row whose column `split` is {split!r}, only {listed(table['split'].unique())}."
            )
        table = table[is_of_split].reset_index(drop=True)
    return table


def _read(file: Path, flag: str) -> pd.DataFrame:
    with said_as_damage(f"{flag} {file}", "write it anew"):
        if file.suffix == ".csv":
            names = pd.read_csv(file, nrows=0, encoding="utf-8-sig").columns
            as_text = {name: str for name in names if name.strip().lower() in (*_KEYS, "split")}  # "007" is no 7
            table = pd.read_csv(file, dtype=as_text, encoding="utf-8-sig")
            for name in set(_LISTS) & set(table.columns):
                table[name] = table[name].map(json.loads)
        elif file.suffix == ".parquet":
            columns = [field.name for field in pq.read_schema(file) if not str(field.type).startswith("struct")]
            table = pq.read_table(file, columns=columns).to_pandas()
        else:
            with np.load(file, allow_pickle=False) as arrays:
                table = pd.DataFrame({"ids": arrays["ids"].astype(str)})
                if "split" in arrays:
                    table["split"] = arrays["split"].astype(str)
                names = arrays["expressions"].astype(str).tolist() if "expressions" in arrays else ["soft_label"]
                scores = arrays["soft_labels"].T if "expressions" in arrays else [list(arrays["soft_labels"])]
                table = table.assign(**dict(zip(names, scores, strict=True)))
    return table.rename(columns=lambda name: str(name).strip())


def expression_columns(table: pd.DataFrame) -> dict[str, int]:
    """{column: index into `EXPRESSIONS`} of those that are named by an expression, in any of its spellings; raises
    `ValueError` where two mean the same."""
    found = [name for name in table.columns if expression_index(name) >= 0]
    return dict(zip(found, match_expressions(found), strict=True))


def expression_index(name) -> int:
    """Index into `EXPRESSIONS`, -1 for what is the name of none."""
    try:
        return match_expressions([name])[0]
    except ValueError:
        return -1


def list_column(table: pd.DataFrame) -> str | None:
    """The name of the column that holds a list of scores a row."""
    return next((name for name in _LISTS if name in table), None)


def places_of(table: pd.DataFrame, split: Split, what: str) -> np.ndarray:
    """(N,) the row of the table that is each row of the split, -1 where none is.

    By the pair of its columns (`image_id`, `filename` and their like) and what tells rows of the split apart (ids,
    names of files, with or without folder and ending) that finds the most. `what` is the table. Raises `ValueError`
    where none finds any, or a face comes twice in one of the two.
    """
    columns = [name for name in table.columns if name.lower() in _KEYS]
    if not columns:
        raise ValueError(f"{what} has no column that says which face a row is: call it image_id or filename.")
    ids = [] if split.id_source.startswith(BY_NUMBER) else [(str, split.ids.astype(str))]
    candidates = [
        (pd.Index([key(value) for value in table[name].fillna("")]), ours)
        for name in columns
        for key, ours in (*ids, (_stem, split.names.astype(str)))
    ]
    theirs, ours = max(candidates, key=lambda pair: np.isin(pair[1], pair[0]).sum())
    if not np.isin(ours, theirs).any():
        raise ValueError(
            f"{what}: none of its rows is one of {split.name}. It has {listed(theirs[:2], letters=60)}, the data "
            f"{listed(ours[:2].tolist(), letters=60)}: they are joined by image_id or file name."
        )
    places = pd.Series(range(len(theirs)), theirs)[theirs != ""]  # FER+ has rows without a name
    for keys, where in ((places.index, what), (pd.Index(ours), f"{split.name} of the data")):
        if (twice := keys.duplicated()).any():
            raise ValueError(
                f"{where} has {int(twice.sum())} rows more than faces, e.g. {keys[twice][0]} twice: leave one of each, "
                "or add a column `split` where they are of several splits."
            )
    return places.reindex(ours, fill_value=-1).to_numpy()


def _stem(value) -> str:
    """The name of a file without folder and ending."""
    name = re.split(r"[/\\]", str(value))[-1]
    base, dot, ending = name.rpartition(".")
    return base if dot and f".{ending.lower()}" in RASTER_ENDINGS else name
