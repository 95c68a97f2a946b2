"""The soft labels of rows: the files that label.py writes, and what is known to be true."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from affectnet_plus import EXPRESSIONS
from affectnet_plus.modeling import said_as_damage
from affectnet_plus.releases import tree
from affectnet_plus.training.arguments import is_synthetic, read_record
from affectnet_plus.training.faces.soft_label_tables import expressions_in_table, is_table, soft_labels_of_table
from affectnet_plus.training.faces.split import BY_NUMBER, Split


def known_truth(split: Split, args) -> tuple[np.ndarray | None, str]:
    """(rows, 8) what is known of how far each expression is present, or None, and what to call it: the shares of
    `--votes`, else the true intensities of a synthetic release, else the dataset's own soft labels."""
    if args.votes:
        return split.soft_labels, "the share of people's votes"
    folder = None if args.dataset_name else args.release()[0]
    if folder is None or not is_synthetic(folder):
        return split.soft_labels, "" if split.soft_labels is None else "the dataset's soft label"
    name = {"automatically_annotated": "unannotated"}.get(split.name, split.name)  # of 2017's release; as drawn
    truth = tree.on_disk(os.path.join(folder, "ground_truth.parquet"))
    table = pq.read_table(truth, filters=[("split", "==", name)]).to_pandas()
    table = table.set_index(table["image_id"].astype(str))
    return table.loc[split.ids, [f"intensity_{name}" for name in EXPRESSIONS]].to_numpy(np.float64), "true intensity"


def soft_labels_to_compare(path: str, split: Split, order: Sequence[str]) -> tuple[np.ndarray, str]:
    """(rows, 8) as `read_soft_labels` has them, and what to call them."""
    return read_soft_labels(
        path, split, order=order
    ), f"the soft label of {'a table' if is_table(path) else 'label.py'}"


def read_soft_labels(folder: str, split: Split, column: str = "soft_label", order: Sequence[str] = ()) -> np.ndarray:
    """(rows, 8) of a column that label.py wrote for the split, or of somebody else's table, in the order of the split,
    NaN for what experts or table do not know. `order` is that of scores in a list of such a table (`LABEL_ORDERS`);
    raises `ValueError` where a row has none, or where rows may be other ones: nothing but their number tells them
    apart, or most human labels are others."""
    if is_table(folder):
        if column != "soft_label":
            raise ValueError(
                f"{folder} has no {column!r}, as label.py did not write it: leave --soft_labels_column out."
            )
        return soft_labels_of_table(folder, split, order)
    files = files_of(folder, split.name)
    settings = Path(folder) / "label.json"
    labelled_by = None
    if settings.exists():
        splits = read_record(settings, "label these rows anew", splits=dict)["splits"]
        with said_as_damage(settings, "label these rows anew"):
            labelled_by = splits[split.name].get("ids")
    if labelled_by not in (None, split.id_source) and BY_NUMBER in labelled_by + split.id_source:
        raise ValueError(
            f"{folder} knows the rows of {split.name} by {labelled_by}, here they have {split.id_source}, so that a "
            "label may be another row's: label these very rows anew, or give them a column `image_id` before."
        )
    names = columns_of(folder, split.name)
    if column not in names:
        raise ValueError(f"{folder} has no column {column!r}, only {', '.join(names)}: label these rows anew.")
    with_human = {"human_label"} & set(names)  # label.py writes it; others may not
    with said_as_damage(folder, "label these rows anew"):
        table = pa.concat_tables(read_file(file, ["image_id", column, *with_human]) for file in files)
    ids = table["image_id"].to_pylist()
    scores = dict(zip(ids, table[column].to_pylist(), strict=True))
    wanted = split.ids.tolist()
    if missing := [row_id for row_id in wanted if scores.get(row_id) is None]:
        what = f"no {column}, as no human label," if missing[0] in scores else "no label"
        raise ValueError(
            f"{folder} has {what} for {len(missing)} rows of {split.name}, e.g. {missing[0]}: label it anew."
        )
    if with_human and (labelled := split.labels >= 0).any():
        human = dict(zip(ids, table["human_label"].to_pylist(), strict=True))
        others = np.array([human[row_id] for row_id in wanted]) != split.labels
        if column == "posterior" and (count := int(others[labelled].sum())):
            raise ValueError(
                f"{folder}: the posterior of {count} rows of {split.name} was made with another human label: label "
                "them anew, with the same --corrections, or train on --soft_labels_column soft_label."
            )
        if (share := float(others[labelled].mean())) > 0.5:
            raise ValueError(
                f"{folder} is of other faces that have the same ids, or of other human labels: they are not those "
                f"written there in {share:.0%} of the rows of {split.name}. Label these rows."
            )
    return np.array([scores[row_id] for row_id in wanted], dtype=np.float64)


def read_file(file: str | os.PathLike, columns: list[str] | None = None, read=pq.read_table) -> pa.Table | pa.Schema:
    """What `read` gives of a file of label.py, or of some of its columns; raises `ValueError` where it is damaged."""
    with said_as_damage(Path(file), "delete it and label these rows anew"):
        return read(file, columns=columns) if columns else read(file)


def expressions_of(folder: str, split: str, order: Sequence[str] = ()) -> list[str]:
    """The expressions that labels of label.py, or of somebody else's table, know; other scores are null."""
    if is_table(folder):
        return expressions_in_table(folder, split, order)
    settings = Path(folder) / "label.json"
    if not settings.is_file():
        return list(EXPRESSIONS)
    record = read_record(settings, "label these rows anew", expressions=(list, type(None)))
    return record.get("expressions") or list(EXPRESSIONS)


def files_of(folder: str, split: str) -> list[Path]:
    """The files that label.py wrote for a split; raises `ValueError` where some are missing."""
    files = sorted(Path(folder).glob(f"{split}-*-of-*.parquet"))
    if not files or len(files) != int(files[0].stem.rpartition("-")[2]):
        raise ValueError(f"{folder} does not hold all labels of {split} ({len(files)} files): run label.py to its end.")
    return files


def columns_of(folder: str, split: str) -> list[str]:
    """The columns of those files; of somebody else's table, what is read of it."""
    return ["soft_label"] if is_table(folder) else read_file(files_of(folder, split)[0], read=pq.read_schema).names
