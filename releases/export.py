"""`affectnet-plus export`: a release as Parquet with embedded images and a card, which `datasets` reads on its own.

Everything is written below OUT/.unfinished, a folder that `datasets` does not look into, and moved at the end. A file
there that has its name is whole, so an export that was killed goes on where it stopped.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.fingerprint import Hasher
from huggingface_hub import DatasetCard, HfApi, constants, get_token
from huggingface_hub.errors import HTTPError, RepositoryNotFoundError  # the former is httpx's or httpx2's
from tqdm import tqdm

from . import skipped, tree
from .dataset_card import dataset_card, with_labels
from .expressions import EXPRESSIONS
from .files import check_utf8
from .find import UNFINISHED, is_export, recognise
from .processes import end_if_given_up, forks_end_with_this, mapped
from .rows import Damage, ReleaseError, check_image, read
from .writing import alone

ROWS_PER_FILE = 10_000  # 90 MB of faces of 224 x 224
_ROWS_PER_GROUP = 250  # what a reader of one row has to read, and what a process holds: 2 MB
_STATE, _FORMAT, _LOCK = "state.json", 1, "lock"


class _File(NamedTuple):
    name: str  # folder/split-00000-of-00001.parquet
    rows: datasets.Dataset
    features: datasets.Features


def export(
    root: str | os.PathLike,
    out: str | os.PathLike,
    push: str | None = None,
    on_error: str = "raise",
    num_proc: int | None = None,
    rows_per_file: int = ROWS_PER_FILE,
) -> None:
    """Writes the release in `root`, of whatever layout, to the folder `out`; a killed export is taken up again.

    The same release and `rows_per_file` give the same bytes, whatever `num_proc` and however often it was killed.

    Args:
        root: the release, or the folder it lies in.
        out: a new or empty folder, an unfinished export of the same files or, with `push`, a whole export.
        push: a dataset repository on the Hub, made private; "name" or "organisation/name".
        on_error: "raise" or "skip" what is broken, as in `load_dataset`; the card says how many rows were left out.
        num_proc: number of processes, by default one per core.
        rows_per_file: rows of one Parquet file.

    Raises:
        ValueError: there is no such release or it is broken; `out` holds something else; a number is absurd; `push`
            is public or cannot be reached, before anything is written.
    """
    num_proc = os.cpu_count() or 1 if num_proc is None else num_proc
    for name, value in (("num_proc", num_proc), ("rows_per_file", rows_per_file)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    out = os.path.abspath(os.path.expanduser(out))
    check_utf8(out)
    if push:
        push = _own_repository(push)
    if _is_whole(out):
        if not push:
            raise ValueError(f"{out} already holds a whole export: name a new folder.")
        print(f"{out} already holds a whole export, which is pushed as it is.")
    else:
        if os.path.isfile(out):
            raise ValueError(f"{out} is a file: name a new folder.")
        with alone(os.path.join(out, UNFINISHED, _LOCK), out):
            _export(root, out, on_error, num_proc, rows_per_file)
        if os.path.exists(os.path.join(out, UNFINISHED)):
            os.rmdir(os.path.join(out, UNFINISHED))
    if push:
        _push(out, push)


def _is_whole(out: str) -> bool:
    if not is_export(out) or os.path.exists(os.path.join(out, UNFINISHED, _STATE)):
        return False
    with open(os.path.join(out, "README.md"), encoding="utf-8") as card:
        return "affectnet-plus export" in card.read()


def _export(root: str | os.PathLike, out: str, on_error: str, num_proc: int, rows_per_file: int) -> None:
    release, config_name = recognise(root)
    options = {} if on_error == "raise" else {"on_error": on_error}  # a default that is passed makes another cache
    builders = [
        datasets.load_dataset_builder("affectnet_plus", name, data_dir=release, **options)
        for name in _sources(release, config_name)
    ]
    state = {
        "format": _FORMAT,
        "release": release,
        # Another one as soon as a file of the release, or the code that reads it, is another one.
        "state of its files": Hasher.hash([(builder.config_id, builder.hash) for builder in builders]),
        "on_error": on_error,
        "rows_per_file": rows_per_file,
    }
    _refuse_other(out, state)
    with forks_end_with_this():
        for builder in builders:
            builder.download_and_prepare(num_proc=num_proc)
    files = [file for builder in builders for file in _files(builder, rows_per_file)]
    if not files:
        raise ReleaseError(f"{release} has no rows to export.")
    unfinished = os.path.join(out, UNFINISHED)
    _remove_halves(unfinished)  # of a killed run
    try:
        with open(os.path.join(unfinished, "new"), "w", encoding="utf-8") as file:
            json.dump(state, file, indent=1)
        os.replace(os.path.join(unfinished, "new"), os.path.join(unfinished, _STATE))
        _write(out, files, num_proc)
    except BaseException:
        _remove_halves(unfinished)
        raise

    num_skipped = sum(len(skipped.read(builder.cache_dir)) for builder in builders)
    places = {file.name: place for file in files if (place := _place(out, file.name))}
    card = dataset_card(release, config_name, places, num_skipped)
    card.save(os.path.join(unfinished, "README.md"))
    # The card first: from then on `datasets` misses what is not there, and does not take the rest for all there is.
    for name in ("README.md", *dict.fromkeys(file.name.split("/")[0] for file in files)):
        if os.path.exists(os.path.join(unfinished, name)):
            os.replace(os.path.join(unfinished, name), os.path.join(out, name))
    _remove_halves(unfinished)
    os.remove(os.path.join(unfinished, _STATE))
    num_rows = sum(len(file.rows) for file in files)
    left_out = f" {num_skipped:,} broken rows left out." if num_skipped else ""
    print(f"{out}: {num_rows:,} rows in {len(files):,} files.{left_out}")


def _sources(release: str, config_name: str) -> list[str]:
    """The configurations that together have every row once."""
    if config_name != "human_annotated":
        return [config_name]
    found = {"human_annotated": "human_annotated_all", "no_human_annotated": "no_human_annotated"}
    return [name for folder, name in found.items() if tree.is_folder(os.path.join(release, folder))]


def _files(builder: datasets.DatasetBuilder, rows_per_file: int) -> Iterator[_File]:
    for split, rows in builder.as_dataset().items():
        kinds = {builder.config.name: (rows, rows.features)}
        if builder.config.name == "human_annotated_all":
            is_expression = rows.data["label"].to_numpy() < len(EXPRESSIONS)
            of_expressions = with_labels(rows.features, EXPRESSIONS)
            kinds = {
                "human_annotated": (rows.select(np.flatnonzero(is_expression)), of_expressions),
                "without_expression": (rows.select(np.flatnonzero(~is_expression)), rows.features),
            }
        for folder, (rows_of_kind, own_features) in kinds.items():
            starts = range(0, len(rows_of_kind), rows_per_file)
            for index, start in enumerate(starts):
                name = f"{folder}/{split}-{index:05d}-of-{len(starts):05d}.parquet"
                end = min(start + rows_per_file, len(rows_of_kind))
                yield _File(name, rows_of_kind.select(range(start, end)), own_features)


def _refuse_other(out: str, state: dict) -> None:
    """Raises `ValueError` unless `out` is new, empty, or an unfinished export of the same state."""
    path = os.path.join(out, UNFINISHED, _STATE)
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        if others := [f"{key} {found.get(key)!r}, not {state[key]!r}" for key in state if found.get(key) != state[key]]:
            raise ValueError(
                f"{out} holds an unfinished export of another state ({'; '.join(others)}): name a new folder, or "
                "delete that one."
            )
    elif os.path.isdir(out) and (others := sorted({*os.listdir(out)} - {UNFINISHED})):
        raise ValueError(f"{out} already holds {others[0]!r}: name a new or empty folder.")


def _remove_halves(unfinished: str) -> None:
    with os.scandir(unfinished) as entries:
        for entry in entries:
            if entry.is_file() and entry.name not in (_STATE, _LOCK):
                os.remove(entry)


# ---------------------------------------------------------------------------------------------------------------
# Files


def _place(out: str, name: str) -> str | None:
    """Where a file lies that has been written: at its place, or still below .unfinished."""
    places = os.path.join(out, name), os.path.join(out, UNFINISHED, name)
    return next(filter(os.path.exists, places), None)


def _write(out: str, files: list[_File], num_proc: int) -> None:
    unfinished = os.path.join(out, UNFINISHED)
    missing = [file for file in files if not _place(out, file.name)]
    for folder in {file.name.split("/")[0] for file in missing}:
        os.makedirs(os.path.join(unfinished, folder), exist_ok=True)
    num_rows, num_missing = (sum(len(file.rows) for file in some) for some in (files, missing))
    with (
        tqdm(total=num_rows, initial=num_rows - num_missing, desc="Exporting", unit="row") as progress,
        mapped(_write_file, [(unfinished, file) for file in missing], num_proc) as counts,
    ):
        for count in counts:
            progress.update(count)


def _write_file(job: tuple[str, _File]) -> int:
    unfinished, (name, rows, own_features) = job
    temporary = os.path.join(unfinished, f"{name.replace('/', '-')}.{os.getpid()}")
    rows, schema = rows.with_format("arrow"), own_features.arrow_schema
    with pq.ParquetWriter(temporary, schema, use_dictionary=False, write_page_index=True) as writer:
        for start in range(0, len(rows), _ROWS_PER_GROUP):
            end_if_given_up()
            writer.write_table(_embedded(rows[start : start + _ROWS_PER_GROUP], schema))
    os.replace(temporary, os.path.join(unfinished, name))
    return len(rows)


def _embedded(table: pa.Table, schema: pa.Schema) -> pa.Table:
    images = []
    for image in table["image"].to_pylist():
        path, content = image["path"], image["bytes"]
        if content is None:
            try:
                content = read(path, "unreadable image")
                check_image(content, path)
            except Damage as damage:  # it was sound when it was cached
                raise ReleaseError(
                    f"{damage}, which it was not when it was cached: put it back and export to a new folder."
                ) from None
        images.append({"bytes": content, "path": os.path.basename(path)})
    columns = {**dict(zip(table.column_names, table.columns, strict=True)), "image": images}
    columns["image"] = pa.array(images, schema.field("image").type)
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


# ---------------------------------------------------------------------------------------------------------------
# The Hub


def _own_repository(name: str) -> str:
    """The whole name of a repository; raises `ValueError` where it is public or the Hub cannot be asked."""
    with _plain_errors(name), contextlib.suppress(RepositoryNotFoundError):
        name = name if "/" in name else f"{HfApi().whoami()['name']}/{name}"
        _require_private(name)
    return name


def _require_private(name: str) -> None:
    if HfApi().repo_info(name, repo_type="dataset").private is not True:
        raise ValueError(
            f"The repository {name} is public, and these images must not be: make it private in its settings, or "
            "name a new one."
        )


def _push(out: str, name: str) -> None:
    with _plain_errors(name):
        url = HfApi().create_repo(name, repo_type="dataset", private=True, exist_ok=True)
        _require_private(name)
        terms = DatasetCard.load(os.path.join(out, "README.md")).data["license_link"]
        print(
            f"Pushing to {url}, which is private. The images keep their own licence ({terms}): share the repository "
            "only with people who have been given access to them."
        )
        HfApi().upload_folder(
            repo_id=name,
            repo_type="dataset",
            folder_path=out,
            allow_patterns=["README.md", "*.parquet"],
            commit_message="Written by affectnet-plus export",
        )


@contextlib.contextmanager
def _plain_errors(name: str) -> Iterator[None]:
    if not get_token():
        raise ValueError(f"Cannot push to {name} without a token: run `hf auth login`, or set HF_TOKEN.")
    try:
        yield
    except (HTTPError, OSError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        cure = "The same command goes on where this stopped."
        raise ValueError(f"Cannot push to {name} at {constants.ENDPOINT}: {reason}. {cure}") from error
