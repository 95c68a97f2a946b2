"""Tables of action units as OpenFace 2, LibreFace and py-feat write them."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from affectnet_plus.releases.expressions import listed
from affectnet_plus.training.faces import Split

_FILE_COLUMNS = (
    "file_name", "filename", "file", "image_path", "image", "frame_path", "path", "input", "name", "image_id",
)  # fmt: skip


_SPLITS = {
    "train": ("train", "train_set", "training", "fer2013train"),
    "validation": ("validation", "validation_set", "valid", "val", "val_set", "fer2013valid"),
    "test": ("test", "test_set", "fer2013test"),
}


_SPLIT_OF = {name: split for split, names in _SPLITS.items() for name in names}
_STRONGEST = 5  # FACS intensities go from 0 to 5 (E)
_PRESENT = 1  # the weakest (A)


@dataclass
class ActionUnitTable:
    """A table of action units by file: `values` (files, units) in [0, 1], NaN where unknown, under (split, file);
    the split is "" where the table does not say it. From `present_from` on a unit counts as present."""

    name: str
    sha256: str
    source: str
    values: pd.DataFrame  # columns: units
    present_from: dict[int, float]  # by unit

    def targets(self, split: Split, units: list[int]) -> np.ndarray:
        """(rows, units) in [0, 1]; NaN where the table has nothing."""
        return self.values.reindex(columns=units).reindex(self._keys(split)).to_numpy("float32")

    def _keys(self, split: Split) -> list[tuple]:
        says_split = self.values.index.get_level_values(0).any()
        own = _SPLIT_OF.get(split.name.lower(), split.name) if says_split else ""
        return [(own, name) for name in split.names]

    def check_names(self, *splits: Split) -> None:
        """Raise `ValueError` where the table does not say which face is meant: names of several rows, or, where it does
        not say the split, in several splits."""
        for split in splits:
            names, counts = np.unique(split.names, return_counts=True)
            if several := listed(names[counts > 1].tolist(), 3):
                raise ValueError(
                    f"{self.name} goes by file names, and in {split.name} several rows have the same: {several}. Give "
                    "each image a name of its own."
                )
        if not self.values.index.get_level_values(0).any():
            first, *others = (set(split.names.tolist()) for split in splits)
            if both := sorted(first.intersection(*others)):
                raise ValueError(
                    f"{self.name} does not say of which split its files are, and {both[0]} is in several "
                    f"({len(both)} names are): add a column 'split'."
                )

    def join(self, split: Split) -> str:
        """What became of the split's rows, in a sentence; raises `ValueError` where none was found."""
        keys = pd.MultiIndex.from_tuples(self._keys(split))
        found = keys.isin(self.values.index)
        if not found.any():
            theirs, ours = (listed([f"{s}/{n}" if s else n for s, n in k[:3]]) for k in (self.values.index, keys))
            raise ValueError(
                f"{self.name}: none of its files is a row of {split.name}. It has {theirs} ..., the data {ours} ...: "
                "the join is by split (a column 'split', or a folder such as train_set in the path) and file name."
            )
        unmatched = split.names[~found].tolist()
        known = self.values.reindex(keys[found]).notna().any(axis=1).sum()
        message = f"{self.name} ({self.source}): {found.sum():,} of {len(split):,} rows of {split.name} found"
        if known < found.sum():
            message += f", {found.sum() - known:,} of them without units"
        if len(unmatched):
            message += f"; {len(unmatched):,} not found: {listed(unmatched, 3)} (their units count for nothing)"
        return message + "."


def load_table(path: str, target: str, action_units: dict[str, list[int]]) -> ActionUnitTable:
    """Read a CSV or Parquet file; the tool that wrote it is told by its columns.

    `target` is "intensity" (a fifth of it) or "presence"; a unit of which the table has only the other is taken from
    that. Raises `ValueError`, with the columns, where the table is none of these or lacks all of the units.
    """
    file = Path(path)
    try:
        content = file.read_bytes()
        table = pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file, skipinitialspace=True)
    except OSError as error:
        raise ValueError(f"--au_labels {path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise ValueError(f"--au_labels {path} is no valid CSV or Parquet file: {error}") from error
    table.columns = [str(column).strip() for column in table.columns]
    source, intensities, presences = _units_of(file.name, table)

    values, present_from = {}, {}
    for unit in sorted({unit for units in action_units.values() for unit in units}):
        intensity, presence = intensities.get(unit), presences.get(unit)
        if intensity is not None and (target == "intensity" or presence is None):
            column = _in_range(file.name, table, intensity, _STRONGEST)
            values[unit] = column / _STRONGEST if target == "intensity" else (column >= _PRESENT).where(column.notna())
            present_from[unit] = _PRESENT / _STRONGEST
        elif presence is not None:
            values[unit] = _in_range(file.name, table, presence, 1)
            present_from[unit] = 0.5
    if not values:
        raise ValueError(f"{file.name} has columns of {source}, but for none of the experts' action units.")
    values = pd.DataFrame(values).astype("float32")
    if "success" in table:  # OpenFace found no face
        values[table["success"].to_numpy() == 0] = np.nan
    values.index = _file_keys(file.name, table)
    if "confidence" in table:
        values = values.iloc[np.argsort(-table["confidence"].to_numpy(), kind="stable")]
    values = values[~values.index.duplicated()]  # of several faces in an image the surest, or the first
    return ActionUnitTable(file.name, hashlib.sha256(content).hexdigest()[:16], source, values, present_from)


def _units_of(name: str, table: pd.DataFrame) -> tuple[str, dict[int, str], dict[int, str]]:
    """Who wrote the table, and its columns of intensities (0 to 5) and presences (0 to 1) by unit."""

    def columns(pattern: str) -> dict[int, str]:
        found = ((re.fullmatch(pattern, column), column) for column in table.columns)
        return {int(match[1]): column for match, column in found if match}

    plain = columns(r"AU(\d+)")
    for source, intensities, presences in (
        ("OpenFace 2", columns(r"AU(\d+)_r"), columns(r"AU(\d+)_c")),
        ("LibreFace", columns(r"au_(\d+)_intensity"), columns(r"au_(\d+)")),
        ("a synthetic release's truth", plain if "intensity_neutral" in table else {}, {}),
        ("py-feat", {}, plain),
    ):
        if intensities or presences:
            return source, intensities, presences
    raise ValueError(
        f"{name} has no action units: looked for columns such as AU12_r and AU12_c (OpenFace 2), au_12 and "
        f"au_12_intensity (LibreFace) or AU12 (py-feat), found {listed(table.columns)}."
    )


def _in_range(name: str, table: pd.DataFrame, column: str, most: int) -> pd.Series:
    values = pd.to_numeric(table[column], errors="coerce")
    wrong = (values.isna() & table[column].notna()) | (values < 0) | (values > most)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"{name} has {table[column].iloc[row]} as {column} in row {row}, not a number from 0 to {most}."
        )
    return values


def _file_keys(name: str, table: pd.DataFrame) -> pd.MultiIndex:
    """(split, stem of the file name) of each row; the split is "" where the table does not say it."""
    column = next((column for column in _FILE_COLUMNS if column in table), None)
    if column is None:
        raise ValueError(
            f"{name} does not say which image a row is of: looked for a column {listed(_FILE_COLUMNS)}, found "
            f"{listed(table.columns)}. Add a column 'file_name'."
        )
    paths = [Path(str(path).replace("\\", "/")) for path in table[column]]
    if "split" in table:
        splits = [_SPLIT_OF.get(str(split).lower(), str(split)) for split in table["split"]]
    else:
        splits = [
            next((_SPLIT_OF[p.lower()] for p in path.parts[-2::-1] if p.lower() in _SPLIT_OF), "") for path in paths
        ]
    return pd.MultiIndex.from_arrays([splits, [path.stem for path in paths]])
