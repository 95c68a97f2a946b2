"""Soft labels as a release in the layout of AffectNet+, from whatever faces they were made for."""

import contextlib
import csv
import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from affectnet_plus import ANGLES, ETHNICITIES, GENDERS
from affectnet_plus.releases.files import csv_cell, read_regular_file
from affectnet_plus.releases.find import UNFINISHED
from affectnet_plus.releases.rows import Damage, check_image
from affectnet_plus.releases.writing import moved_whole
from affectnet_plus.training.faces import Split
from affectnet_plus.training.metrics import ranks_of
from affectnet_plus.training.metrics.slices import subsets_of_ranks

_FOLDERS = {"train": "human_annotated/train_set", "validation": "human_annotated/validation_set"}
DECIMALS = 4  # as released
_NO_HUMAN_LABEL = "no_human_annotated"
_MOST_N = 2**63 - 1  # larger ones have no place in the column `image_id` of whoever reads them


def check_target(root: Path, splits: list[Split]) -> None:
    """Raise `ValueError` where there is no place for a split, or something lies in `root` already."""
    for split in splits:
        if split.name not in _FOLDERS and (split.labels >= 0).any():
            raise ValueError(
                f"--write_release has no place for labelled faces of {split.name!r}: AffectNet+ has "
                f"{' and '.join(_FOLDERS)} only. Name others by --splits."
            )
    entries = {entry.name for entry in root.iterdir()} if root.is_dir() else set()
    if UNFINISHED in entries and len(entries) > 1:  # stopped while it was moved to its place
        raise ValueError(
            f"--write_release {root} holds what an interrupted run has left ({UNFINISHED} says so): delete {root} and "
            "run this again."
        )
    if entries - {UNFINISHED} or (root.exists() and not root.is_dir()):
        raise ValueError(f"--write_release {root} already holds something: name a new or empty folder.")


def write_release(root: Path, splits: list[Split], labels_dir: Path, show_progress: bool) -> None:
    """Write `images/N.jpg` and `annotations/N.json` of every row. JPEG files that a release may have are written byte
    for byte, others are encoded anew, as JPEG.

    Rows with a human label go to `human_annotated`, the others to `no_human_annotated`. N is the row's id where all ids
    of a folder are numbers below 2 ** 63, and different ones; else rows are counted from 1, and `files.csv` says which
    is which. What is not known of a row (`Split.metadata`) is null.

    All is written below `root/.unfinished` and moved at the end. As long as that folder is there, whenever this is
    killed, `root` does not load.
    """
    table = {}
    for split in splits:
        labels = pq.read_table(sorted(labels_dir.glob(f"{split.name}-*-of-*.parquet")))
        made = dict(zip(labels["image_id"].to_pylist(), labels["soft_label"].to_pylist(), strict=True))
        for row, row_id in enumerate(split.ids.tolist()):
            folder = _FOLDERS[split.name] if split.labels[row] >= 0 else _NO_HUMAN_LABEL
            table.setdefault(folder, []).append((split, row, row_id, made[row_id]))
    with (
        moved_whole(root) as unfinished,
        open(unfinished / "files.csv", "w", newline="", encoding="utf-8") as file,
        tqdm(total=sum(map(len, table.values())), desc="writing", unit="face", disable=not show_progress) as progress,
    ):
        names = csv.writer(file)
        names.writerow(["folder", "image_id", "split", "source"])
        for folder, rows in table.items():
            for part in ("images", "annotations"):
                (unfinished / folder / part).mkdir(parents=True)
            ids = [row_id for _, _, row_id, _ in rows]
            numbers = {int(row_id) for row_id in ids if len(row_id) < 20 and row_id.isdecimal()}
            numbered = len(numbers) == len(ids) and max(numbers) <= _MOST_N
            for count, (split, row, row_id, made) in enumerate(rows, start=1):
                number = int(row_id) if numbered else count
                human = int(split.labels[row])
                soft_label = np.round(made, DECIMALS)
                # Of the scores as they are written: rounded ones may be equal where labels of more decimals were not.
                subset = subsets_of_ranks(ranks_of(soft_label[None], np.array([human])))[0] if human >= 0 else None
                known = {} if split.metadata is None else split.metadata[row]
                annotation = {
                    "human-label": human if human >= 0 else None,
                    "soft-label": soft_label.tolist(),
                    "subset": None if subset is None else int(subset),
                    "meta-data": _meta_data(known),
                }
                (unfinished / folder / f"images/{number}.jpg").write_bytes(_jpeg(split, row))
                (unfinished / folder / f"annotations/{number}.json").write_text(json.dumps(annotation))
                names.writerow([folder, number, csv_cell(split.name), csv_cell(row_id)])
                progress.update()


def _jpeg(split: Split, row: int) -> bytes:
    stored = split.stored(row)
    content = stored["bytes"] if stored["bytes"] is not None else read_regular_file(stored["path"])
    with contextlib.suppress(Damage):  # a JPEG that is padded with zeros, say, is no damaged face
        if content.startswith(b"\xff\xd8\xff"):
            check_image(content, "")
            return content
    buffer = io.BytesIO()
    split.image(row).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def _meta_data(row: dict) -> dict:
    def scores(column: str, names: tuple) -> dict | None:
        values = row.get(column)
        return values and {name.replace("_", " "): round(values[name], 6) for name in names}

    def points(column: str) -> list | None:
        values = row.get(column)
        return None if values is None or not np.isfinite(values).all() else np.rint(values).astype(int).ravel().tolist()

    annotation = {
        "age": row.get("age"),
        "valence": row.get("valence"),
        "arousal": row.get("arousal"),
        "gender": scores("gender", GENDERS),
        "race": scores("ethnicity", ETHNICITIES),
        "pose": scores("head_pose", ANGLES),
        "landmark-68": points("landmarks_68"),
    }
    return annotation | ({"landmark-29": points("landmarks_29")} if row.get("landmarks_29") is not None else {})
