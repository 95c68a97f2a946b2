"""The table that `predict` writes: rows as they come, so that a killed run goes on, then the file that is wanted."""

import contextlib
import csv
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from affectnet_plus.releases.files import csv_cell
from affectnet_plus.releases.writing import alone, written_whole

FORMATS = (".jsonl", ".csv", ".parquet")
_BOX = ("x", "y", "width", "height")
_ROWS_AT_A_TIME = 10_000


def row_of(source: Path, frame: int | None, time: float | None, answer: dict) -> dict[str, Any]:
    """A row, from an answer of the pipeline with the `face`'s number."""
    box = answer.get("box", {})
    return {
        "source": str(source),
        "frame": frame,
        "time": time,
        "face": answer["face"],
        **{key: box.get(key) for key in _BOX},
        "detection_score": answer.get("detection_score"),
        "low_resolution": answer["low_resolution"],
        "label": answer["label"],
        "compound": answer["compound"],
        "soft_label": {name: round(score, 5) for name, score in answer["soft_label"].items()},
        "distribution": {name: round(share, 5) for name, share in answer["distribution"].items()},
        "valence": answer.get("valence"),
        "arousal": answer.get("arousal"),
    }


class Journal:
    """Rows as they come, and which files are done: a JSON line each. What a killed run has left of a file that was not
    done is cut off, and the run goes on after it. `ValueError` where another run is at it, or one of other settings."""

    def __init__(self, path: Path, settings: dict):
        self.path, self.settings = path, settings
        self.done: dict[str, dict] = {}

    def __enter__(self) -> "Journal":
        with contextlib.ExitStack() as stack:
            stack.enter_context(alone(self.path.with_name(f"{self.path.name}.lock"), self.path))
            whole = self._read() if self.path.exists() else 0
            self._file = open(self.path, "ab")
            stack.callback(self._close)
            self._file.truncate(whole)
            if not whole:
                self._put({"settings": self.settings})
            self._file.flush()
            self._safe = self._file.tell()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()

    def _close(self) -> None:
        with contextlib.suppress(OSError):  # on a full disk: only rows of a file that is not done are lost
            self._file.close()

    def write(self, row: dict) -> None:
        """Keep a row of the file that is looked at."""
        self._put({"row": row})

    def take_back(self) -> None:
        """Drop the rows of the file that is looked at."""
        self._file.flush()
        self._file.truncate(self._safe)

    def finish(self, source: Path, note: dict) -> None:
        """Its rows are all there; what else is to be said of it goes into the note."""
        self._put({"done": str(source), "note": note})
        self._file.flush()
        self.done[str(source)] = note
        self._safe = self._file.tell()

    def _put(self, entry: dict) -> None:
        self._file.write(json.dumps(entry).encode() + b"\n")

    def _read(self) -> int:
        """Note what is done; return where the last file that is done ends."""
        whole = place = 0
        with open(self.path, "rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                place += len(line)
                entry = json.loads(line)
                if entry.get("settings", self.settings) != self.settings:
                    raise ValueError(
                        f"{self.path} is of a run with other settings ({entry['settings']}): delete it, or give the "
                        "same."
                    )
                if "done" in entry:
                    self.done[entry["done"]] = entry["note"]
                if "row" not in entry:
                    whole = place
        return whole


def rows_in(journal: Path) -> Iterator[dict]:
    """The rows of a journal whose run is done."""
    with open(journal, encoding="utf-8") as lines:
        for line in lines:
            entry = json.loads(line)
            if "row" in entry:
                yield entry["row"]


def write_table(journal: Path, target: Path, expressions: list[str]) -> None:
    """Write the rows as the target's name says, beside it first; a few at a time, as there may be millions.

    Args:
        journal: of a run that is done.
        target: ends in one of `FORMATS`. Lines of JSON hold `soft_label` and `distribution` as dictionaries, tables a
            column `score_...` and `share_...` for each expression.
        expressions: in the order of the columns.
    """
    schema = _schema_of(expressions)
    rows = rows_in(journal)
    with written_whole(target) as beside:
        if target.suffix == ".parquet":
            with pq.ParquetWriter(beside, schema) as out:
                while some := [_flat(row) for row in itertools.islice(rows, _ROWS_AT_A_TIME)]:
                    out.write_table(pa.Table.from_pylist(some, schema=schema))
        else:
            with open(beside, "w", encoding="utf-8", newline="") as out:
                if target.suffix == ".jsonl":
                    out.writelines(json.dumps(row) + "\n" for row in rows)
                else:
                    table = csv.DictWriter(out, fieldnames=schema.names)
                    table.writeheader()
                    table.writerows(map(_cells, rows))


def _flat(row: dict) -> dict:
    rest = {key: value for key, value in row.items() if key not in ("soft_label", "distribution")}
    scores = {f"score_{name}": score for name, score in row["soft_label"].items()}
    return rest | scores | {f"share_{name}": share for name, share in row["distribution"].items()}


def _cells(row: dict) -> dict:
    return {name: csv_cell(value) if isinstance(value, str) else value for name, value in _flat(row).items()}


def _schema_of(expressions: list[str]) -> pa.Schema:
    number, word = pa.float32(), pa.string()
    columns = {"source": word, "frame": pa.int64(), "time": pa.float64(), "face": pa.int64()}
    columns |= {key: number for key in (*_BOX, "detection_score")}
    columns |= {"low_resolution": pa.bool_(), "label": word, "compound": word, "valence": number, "arousal": number}
    columns |= {f"{kind}_{name}": number for kind in ("score", "share") for name in expressions}
    return pa.schema(list(columns.items()))
