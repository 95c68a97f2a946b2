"""Files of action units as pandas tables: CSV, Parquet, or a folder with a CSV for each image."""

import csv
import hashlib
import io
import re
from collections import Counter
from pathlib import Path

import pandas as pd

FILE_COLUMNS = (
    "file_name", "filename", "file", "image_path", "input_image_path", "image", "frame_path", "path", "input", "name",
    "image_id",
)  # fmt: skip
SCORES = ("confidence", "FaceScore")  # of the face detectors of OpenFace and py-feat: the higher, the surer
_USED = re.compile(
    "|".join([r"(AU|au_)\d+(_r|_c|_intensity)?", "intensity_neutral", "split", "success", *SCORES, *FILE_COLUMNS])
)
_UNKNOWN = ["-nan(ind)", "nan(ind)"]  # OpenFace on Windows


def read_table(path: str) -> tuple[pd.DataFrame, str]:
    """The table at `path`, its columns stripped of spaces, and its SHA-256.

    Of a folder these are all CSV files below it; where they do not say of which image they are, their own paths do, as
    OpenFace's FaceLandmarkImg has it. Raises `ValueError`, with the path, where there is no such table.
    """
    file = Path(path)
    try:
        content = _joined(file) if file.is_dir() else file.read_bytes()
        if content.startswith(b"PAR1"):  # whatever the file is called
            table = pd.read_parquet(io.BytesIO(content))
        else:
            table = pd.read_csv(io.BytesIO(content), skipinitialspace=True, na_values=_UNKNOWN, low_memory=False)
    except (OSError, ValueError) as error:
        if getattr(error, "strerror", None):
            raise ValueError(f"--au_labels {path} cannot be read: {error.strerror}.") from error
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"--au_labels {path} is no valid CSV or Parquet: {reason}. Export it anew.") from error
    table.columns = [str(column).strip() for column in table.columns]
    counts = Counter(re.sub(r"\.\d+$", "", column) for column in table.columns)  # pandas numbers what is there twice
    for column, count in counts.items():
        if count > 1 and _USED.fullmatch(column):
            raise ValueError(f"--au_labels {path} has {count} columns {column}, spaces aside: keep one of them.")
    return table, hashlib.sha256(content).hexdigest()


def _joined(folder: Path) -> bytes:
    """The columns that are used, of all CSV files below a folder, as one CSV."""
    joined = io.StringIO()
    writer, first = csv.writer(joined), None
    for file in sorted(folder.rglob("*.csv")):
        with open(file, newline="", encoding="utf-8-sig") as opened:
            header, *rows = [row for row in csv.reader(opened) if row] or [[]]
        names = [name.strip() for name in header]
        used = [place for place, name in enumerate(names) if _USED.fullmatch(name)]
        columns = [names[place] for place in used]
        own = [] if set(columns) & set(FILE_COLUMNS) else [file.relative_to(folder).as_posix()]
        columns = ["file_name"] * len(own) + columns
        if first is None and header:
            writer.writerow(first := columns)
        if header and columns != first:
            raise ValueError(f"{file.name} has other columns than those before it")
        for row in rows:
            if len(row) != len(names):
                raise ValueError(f"{file.name} has {len(names)} columns and a row of {len(row)}")
            writer.writerow(own + [row[place].strip() for place in used])
    if first is None:
        raise ValueError("a folder without CSV files")
    return joined.getvalue().encode()
