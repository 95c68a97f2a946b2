"""Tables of action units as OpenFace 2, LibreFace and py-feat write them."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from affectnet_plus.releases.expressions import listed
from affectnet_plus.training.action_units.files import FILE_COLUMNS, SCORES, read_table
from affectnet_plus.training.faces import Split

_SPLITS = {
    "train": ("train", "train_set", "training", "fer2013train"),
    "validation": ("validation", "validation_set", "valid", "val", "val_set", "fer2013valid"),
    "test": ("test", "test_set", "fer2013test"),
}
_SPLIT_OF = {name: split for split, names in _SPLITS.items() for name in names}
_STRONGEST = 5  # FACS intensities go from 0 to 5 (E)
_PRESENT = 1 / _STRONGEST  # the weakest (A)
# What the eight outputs of OpenFace 3, which have no names and say whether a unit is present, may be: DISFA's units in
# this order. Inferred, not known: its training script (which picks them by their places in the alphabet: au1, au12,
# au15, ...) and one wrapper agree, two other sources do not.
_OF_OPENFACE_3 = (1, 2, 4, 6, 9, 12, 25, 26)


@dataclass
class ActionUnitTable:
    """A table of action units by file: `values` (files, units) in [0, 1], NaN where unknown, under (split, file);
    the split is "" where the table does not say it. From `present_from` on a unit counts as present."""

    name: str
    sha256: str
    source: str
    values: pd.DataFrame  # columns: units
    present_from: dict[int, float]  # by unit
    notes: list[str]  # what of it is not used, or unknown

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


def load_table(
    paths: list[str],
    target: str,
    action_units: dict[str, list[int]],
    splits: tuple[str, ...] = (),
    strongest: int | None = None,
) -> ActionUnitTable:
    """Read a table, or one for each of `splits`; the tool that wrote it is told by its columns.

    `target` is "intensity" (its share of the strongest) or "presence"; a unit of which the table has only the other is
    taken from that. `strongest` is the highest intensity on the table's scale: 5 where it is not said. Raises
    `ValueError` where the table is none of these tools', contradicts itself or lacks all of the units.
    """
    if len(paths) not in (1, len(splits)):
        raise ValueError(
            f"--au_labels names {len(paths)} tables: give one for all rows, or one for each of {' and '.join(splits)}."
        )
    names, read, keys = [Path(path).name for path in paths], [], []
    for path, split in zip(paths, splits if len(paths) > 1 else [""], strict=True):
        table, sha256 = read_table(path)
        of_file = _file_keys(Path(path).name, table)
        if split and not of_file.get_level_values(0).any():
            of_file = pd.MultiIndex.from_product([[_SPLIT_OF.get(split.lower(), split)], of_file.get_level_values(1)])
        read.append((table, sha256, _units_of(Path(path).name, table)))
        keys.append(of_file)
    name, (source, intensities, presences) = ", ".join(names), read[0][2]
    if any(units != read[0][2] for _, _, units in read):
        raise ValueError(f"--au_labels: {name} have columns of other units: give tables that one tool wrote alike.")
    table = pd.concat([table for table, _, _ in read], ignore_index=True)
    table.index = keys[0].append(keys[1:])

    values, present_from, of_intensity = {}, {}, []
    for unit in sorted({unit for units in action_units.values() for unit in units}):
        intensity, presence = intensities.get(unit), presences.get(unit)
        if intensity is not None and (target == "intensity" or presence is None):
            values[unit] = _in_range(name, table, intensity, 0, strongest or _STRONGEST) / (strongest or _STRONGEST)
            if target == "presence":
                values[unit] = (values[unit] >= _PRESENT).where(values[unit].notna())
            present_from[unit] = _PRESENT
            of_intensity.append(intensity)
        elif presence is not None:
            values[unit] = _in_range(name, table, presence, 0, 1)
            present_from[unit] = 0.5
    if not values:
        raise ValueError(f"{name} has columns of {source}, but for none of the experts' action units.")
    if strongest is None and (most := table[of_intensity].apply(pd.to_numeric).max().max()) <= 1:
        raise ValueError(
            f"{name}: intensities go from 0 to {_STRONGEST}, and none of these is above {most:g}. Say --au_strongest 1 "
            f"where they were divided by {_STRONGEST}, or --au_strongest {_STRONGEST} where all faces are that calm."
        )
    values, notes = _one_face_each(name, table, pd.DataFrame(values).astype("float32"))
    sha256 = read[0][1] if len(read) == 1 else hashlib.sha256("".join(sha for _, sha, _ in read).encode()).hexdigest()
    return ActionUnitTable(name, sha256[:16], source, values, present_from, notes)


def _one_face_each(name: str, table: pd.DataFrame, values: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """`values` (rows, units) without those of failed detections and of all but the surest face of an image, and what
    was left out."""
    notes = []
    if unknown := int(values.isna().to_numpy().sum()):
        notes.append(f"{name}: {unknown:,} values are no numbers (empty or nan): unknown.")
    if "success" in table:  # OpenFace found no face
        values[(_in_range(name, table, "success", 0, 1) == 0).to_numpy()] = np.nan
    score = next((column for column in SCORES if column in table), None)
    if score:
        scores = _in_range(name, table, score, -np.inf, np.inf).fillna(-np.inf)
        values = values.iloc[np.argsort(-scores.to_numpy(), kind="stable")]
    if others := int(values.index.duplicated().sum()):
        taken = f"that of the highest {score}" if score else f"the first, as no column is called {' or '.join(SCORES)}"
        notes.append(f"{name}: {others:,} rows are of further faces in an image and left out; taken is {taken}.")
    return values[~values.index.duplicated()], notes


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
        if {3, 8} & {*intensities, *presences}:
            names = ", ".join(f"AU{unit:02d}_c" for unit in _OF_OPENFACE_3)
            raise ValueError(
                f"{name} has AU03 or AU08, which no tool detects: perhaps OpenFace 3's eight outputs, numbered. It "
                f"does not name them; its training script suggests {names}, other sources differ. Name the columns "
                "after the units that they are."
            )
        if intensities or presences:
            return source, intensities, presences
    raise ValueError(
        f"{name} has no action units: looked for columns such as AU12_r and AU12_c (OpenFace 2), au_12 and "
        f"au_12_intensity (LibreFace) or AU12 (py-feat), found {listed(table.columns)}."
    )


def _in_range(name: str, table: pd.DataFrame, column: str, least: float, most: float) -> pd.Series:
    values = pd.to_numeric(table[column], errors="coerce")
    wrong = ((values.isna() & table[column].notna()) | (values < least) | (values > most)).to_numpy()
    if wrong.any():
        row, value = int(np.flatnonzero(wrong)[0]), str(table[column].to_numpy()[wrong][0])
        expected = "a number" if most == np.inf else f"a number from {least} to {most}"
        raise ValueError(
            f"{name} has {value[:40]} as {column} in row {row}, not {expected}: mend it, or empty the cell."
        )
    return values


def _file_keys(name: str, table: pd.DataFrame) -> pd.MultiIndex:
    """(split, stem of the file name) of each row; the split is "" where the table does not say it."""
    column = next((column for column in FILE_COLUMNS if column in table), None)
    if column is None:
        raise ValueError(
            f"{name} does not say which image a row is of: looked for a column {listed(FILE_COLUMNS)}, found "
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
