"""Archives with random damage: anywhere, in the numbers that say where something is, and with files lost."""

import contextlib
import random
import re
import warnings
from pathlib import Path

import datasets
from archived import FORMS, files_of, write
from datasets import load_dataset

from affectnet_plus import ReleaseError
from affectnet_plus.releases.check import check

_RECORDS = re.compile(rb"PK(?:\x01\x02|\x03\x04|\x05\x06|\x06\x06|\x06\x07)|ustar")


def write_damaged(release: Path, place: Path, rng: random.Random) -> str:
    """A release as an archive of some form, and what is wrong with that."""
    form = rng.choice(list(FORMS))
    parts = {name: bytearray(part) for name, part in FORMS[form](files_of(release)).items() if part}
    name = rng.choice(list(parts))
    how = rng.choice(["lost", "cut", "grown", "flipped", "table", "record", "record"])
    content = parts[max(parts) if how == "table" else name]
    if how == "lost":
        del parts[name]
    elif how == "cut":
        del content[rng.randrange(len(content)) :]
    elif how == "grown":
        content += content[rng.randrange(len(content)) :]
    elif how == "record":
        _damage_record(content, rng)
    else:
        for _ in range(rng.randrange(1, 9)):
            at = rng.randrange(len(content))
            content[-1 - at % 3000 if how == "table" else at] ^= 1 << rng.randrange(8)
    write(place, parts)
    return f"{form}, {name}, {how}"


def _damage_record(content: bytearray, rng: random.Random) -> None:
    """Other numbers in a record of a zip, or in a header of a tar whose checksum is right all the same."""
    records = list(_RECORDS.finditer(content))
    if not records:  # compressed
        return
    record = rng.choice(records)
    size = rng.choice([1, 2, 4, 8, 12])
    odd = rng.choice([bytes(size), b"\xff" * size, b"\x7f" * size, b"7" * size, rng.randbytes(size)])
    if record[0] != b"ustar":
        at = record.start() + rng.randrange(4, 64)
        content[at : at + size] = odd[: len(content) - at]
        return
    start = record.start() - 257
    at = start + rng.choice([rng.randrange(500), 124, 156])  # size, kind
    content[at : at + size] = odd
    content[start + 148 : start + 156] = b" " * 8
    content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + 512])


def read_damaged(run: Path) -> None:
    """Raises `AssertionError` where a row is read that the release does not have."""
    whole = {split: {row["image_id"]: row for row in rows} for split, rows in _contents(run / "R").items()}
    in_tar = any(path.suffix == ".tar" for path in (run / "D").iterdir())
    for on_error in ("raise", "skip"):
        with warnings.catch_warnings(), contextlib.suppress(ReleaseError):
            warnings.simplefilter("ignore")
            for split, rows in _contents(run / "D", on_error=on_error).items():
                # Nothing in a tar says whether the bytes of a member are still what they were.
                assert all(in_tar or row == whole[split][row["image_id"]] for row in rows), "reads a wrong row"
    check(run / "D", num_proc=1)


def _contents(place: Path, **options) -> dict[str, list[dict]]:
    found = load_dataset("affectnet_plus", "human_annotated_all", data_dir=str(place), **options)
    contents = {}
    for split, rows in found.items():
        contents[split] = list(rows.cast_column("image", datasets.Image(decode=False)))
        for row in contents[split]:
            image = row.pop("image")
            row["bytes"] = image["bytes"] or Path(image["path"]).read_bytes()
    return contents
