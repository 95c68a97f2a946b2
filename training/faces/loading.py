"""Splits of a release or of any other dataset: expressions are matched by name, never by position."""

import contextlib
import os
import re
import warnings
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch.distributed as dist
from datasets.exceptions import DatasetGenerationError

import affectnet_plus
from affectnet_plus import EXPRESSIONS
from affectnet_plus.releases.expressions import label_names, listed
from affectnet_plus.releases.files import check_utf8, shortened
from affectnet_plus.training.faces.corrections import check_splits, corrected
from affectnet_plus.training.faces.joining import joined
from affectnet_plus.training.faces.shares import classes_of, shares_of
from affectnet_plus.training.faces.split import (
    BY_NUMBER,
    METADATA,
    NO_AFFECT,
    Split,
    broken_images,
    without_broken_images,
)
from affectnet_plus.training.faces.votes import join_votes, votes_of_rows


def load_rows(args) -> datasets.DatasetDict:
    """All splits of what `DataArguments` name."""
    if args.data_dir and args.dataset_name:
        raise ValueError("--data_dir names a release, --dataset_name any other dataset: give one of them.")
    if not (args.data_dir or args.dataset_name or os.environ.get(affectnet_plus.DATA_DIR_VARIABLE)):
        raise ValueError(
            f"No data was named: --data_dir (or ${affectnet_plus.DATA_DIR_VARIABLE}) is for a release of AffectNet+, "
            "--dataset_name for any other dataset."
        )
    if args.dataset_name:
        _check_name(args.dataset_name)
    try:
        if args.dataset_name:
            builder = datasets.load_dataset_builder(args.dataset_name, args.dataset_config_name)
            builder.download_and_prepare()
            rows = builder.as_dataset()
        else:
            name = args.dataset_config_name or args.release()[1]
            rows = datasets.load_dataset("affectnet_plus", name, data_dir=args.data_dir, on_error=args.on_error)
    except (FileNotFoundError, ConnectionError) as error:
        where = shortened(repr(args.dataset_name or args.data_dir), 120)
        raise ValueError(f"No dataset at {where}: {shortened(str(error), 150)}") from error
    except affectnet_plus.ReleaseError:
        raise
    except (pa.ArrowInvalid, OSError, DatasetGenerationError) as error:  # such as a part of a Parquet file
        reason = shortened(str(error.__cause__ or error), 100)
        raise ValueError(f"A file of {args.dataset_name!r} cannot be read ({reason}): replace it.") from error
    check_splits(args.corrections, list(rows))
    return rows


def _check_name(folder: str) -> None:
    """Raises `ValueError` where `datasets` would look for something else than this folder."""
    check_utf8(folder, "--dataset_name")
    found = re.search(r"::|\[|\$\w+", folder)  # a chain of file systems, a pattern, a variable
    if found and os.path.isdir(folder) and (found.group()[0] != "$" or os.path.expandvars(folder) != folder):
        raise ValueError(
            f"--dataset_name {shortened(folder, 120)} has {found.group()!r} in its name, which `datasets` does not "
            "take for a part of it: rename the folder."
        )


def load_split(
    args,
    split: str,
    max_samples: int | None = None,
    with_soft_labels: bool = False,
    without_class: bool = False,
    loaded: dict[str, datasets.DatasetDict] | None = None,
) -> Split:
    """Load what `DataArguments` name; raises `ValueError` where the columns or class names do not fit. Where rows have
    shares in place of a label, those of which none is the highest are left out, but `without_class`. Of several
    datasets all rows, the first `max_samples` of each. `loaded` keeps what was loaded, for other splits of it."""
    how, parts = (split, max_samples, with_soft_labels, without_class, {} if loaded is None else loaded), {}
    sources = args.sources()
    if len(sources) == 1:
        return _load_one(sources[0], *how)
    for source in sources:
        name = source.name()
        try:
            part = _load_one(source, *how)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        parts[name if name not in parts else f"{name} ({len(parts) + 1})"] = part
    return joined(parts)


def _load_one(
    args, split: str, max_samples: int | None, with_soft_labels: bool, without_class: bool, loaded: dict
) -> Split:
    source = repr(args)
    if source not in loaded:  # finding out whether a release is in the cache looks at all of its files
        loaded[source] = load_rows(args)
    dataset = loaded[source]
    if split not in dataset:
        raise ValueError(
            f"The dataset has no split {split!r}, only {', '.join(dataset)}: see the flags that end in split_name."
        )
    rows = dataset[split]
    images = _images(rows, args)
    ids, names, id_source = _ids_and_names(rows, images)  # of all rows, so that a row's id is its own
    if max_samples is not None:
        rows, images = (dataset.select(range(min(max_samples, len(rows)))) for dataset in (rows, images))
    if not len(rows):
        raise ValueError(f"Nothing of {split} is left: the split has no rows, or a flag wants the first 0 of them.")
    shares, votes = shares_of(rows, args), None
    if shares is not None:
        ours, soft_labels, known = classes_of(shares), shares if with_soft_labels else None, ~np.isnan(shares)
    else:
        _check_column(rows, "label_column_name", args)
        labels, class_names = labels_of(rows, args)
        if (missing := np.flatnonzero(labels < 0)).size:
            raise ValueError(
                f"Column {args.label_column_name!r} has no label in {missing.size} rows, first in {missing[0]}: leave "
                "them out."
            )
        to_ours = np.array(affectnet_plus.match_expressions(class_names))
        ours, known = to_ours[labels], np.tile(_known_expressions(dataset, args), (len(rows), 1))
        soft_labels = soft_labels_of(rows, args, ours, to_ours) if with_soft_labels else None
        votes = votes_of_rows(rows, class_names, ours) if with_soft_labels else None
        known |= False if soft_labels is None else ~np.isnan(soft_labels)
    first_ids, names = ids[: len(rows)], names[: len(rows)]
    found = Split(
        split, images, ours, soft_labels, first_ids, names, id_source, _metadata(rows), known=known, votes=votes
    )
    found = corrected(found, args.corrections, ids)
    if (unclear := np.flatnonzero(ours < 0)).size and not without_class:
        warnings.warn(
            f"{unclear.size} rows of {split}, first {unclear[0]}, are left out: no one of their shares is the highest.",
            stacklevel=2,
        )
        if unclear.size == len(rows):
            raise ValueError(f"No row of {split} has one share that is the highest: there is no class to go by.")
    left_out = (found.labels < 0) & ((ours >= 0) | (not without_class))
    found = found.select(np.flatnonzero(~left_out)) if left_out.any() else found
    if args.votes and with_soft_labels and split == args.eval_split_name:
        found = join_votes(found, args.votes, args.votes_label_order)
    return without_broken_images(found) if args.dataset_name and args.on_error == "skip" else found


def load_splits(args, with_soft_labels: bool = False, without_class: bool = False) -> tuple[Split, Split]:
    """The rows to train on, as `load_split` has them, and those to calibrate and measure on. Those are perhaps
    first opened when training is over, so their images are looked at here; a release's are when it is indexed.
    """
    loaded: dict[str, datasets.DatasetDict] = {}
    train = load_split(args, args.train_split_name, args.max_train_samples, with_soft_labels, without_class, loaded)
    evaluation = load_split(args, args.eval_split_name, args.max_eval_samples, with_soft_labels=True, loaded=loaded)
    if args.dataset_name and args.on_error == "raise":
        for problem in broken_images(evaluation).values():
            raise ValueError(f"{problem} --on_error skip leaves broken images out.")
    if args.dataset_name and args.train_split_name != args.eval_split_name:  # `check` tells it of a release
        _warn_of_same_faces(train, evaluation)
    return train, evaluation


def _warn_of_same_faces(train: Split, evaluation: Split) -> None:
    """Says how many image files of `evaluation` are in `train` as well, byte for byte; nothing is decoded for it."""
    if dist.is_initialized() and dist.get_rank():
        return
    hashes = [split.hashes() for split in (train, evaluation)]
    if any(of_split is None for of_split in hashes):  # not on this machine
        return
    if count := int(np.isin(hashes[1], hashes[0]).sum()):
        warnings.warn(
            f"{count:,} of {len(evaluation):,} faces of {evaluation.name} are in {train.name} as well, byte for byte: "
            "figures on them flatter the model. Leave them out of one of the two.",
            stacklevel=2,
        )


def split_to_label(rows: datasets.Dataset, args) -> Split:
    """A split whose rows may have no label, or one that is no expression: -1 then."""
    labels, column = np.full(len(rows), -1), args.label_column_name
    if column != type(args).label_column_name:
        _check_column(rows, "label_column_name", args)
    if column in rows.features:
        indices, names = labels_of(rows, args)
        of_name = np.full(len(names) + 1, -1)  # the last: no label
        of_expression = [i for i, name in enumerate(names) if name not in affectnet_plus.CATEGORIES[len(EXPRESSIONS) :]]
        of_name[of_expression] = affectnet_plus.match_expressions([names[i] for i in of_expression])
        labels = of_name[indices]
    elif (shares := shares_of(rows, args)) is not None:
        labels = classes_of(shares)
    images = _images(rows, args)
    split = Split(str(rows.split), images, labels, None, *_ids_and_names(rows, images), _metadata(rows))
    split = corrected(split, args.corrections)
    return without_broken_images(split) if args.dataset_name and args.on_error == "skip" else split


def _images(rows: datasets.Dataset, args) -> datasets.Dataset:
    _check_column(rows, "image_column_name", args)
    column = args.image_column_name
    try:
        images = rows.select_columns(column).cast_column(column, datasets.Image(decode=False))
    except (pa.ArrowInvalid, NotImplementedError, TypeError, ValueError):
        raise ValueError(
            f"Column {column!r} of {rows.split} holds {shortened(str(rows.features[column]))}, no images: name another "
            "--image_column_name."
        ) from None
    nulls = [pc.is_null(pc.struct_field(images.data.column(0), name)) for name in ("bytes", "path")]
    if count := pc.sum(pc.and_(*nulls)).as_py():
        raise ValueError(f"Column {column!r} of {rows.split} has {count} rows without an image: leave them out.")
    return images


def _metadata(rows: datasets.Dataset) -> datasets.Dataset | None:
    ours = affectnet_plus.features()
    rows = rows.select_columns([name for name in METADATA if name in rows.features])
    for name in list(rows.features):
        if rows.features[name] != ours[name]:  # as pandas and others write them
            with contextlib.suppress(ValueError, TypeError, pa.ArrowInvalid, NotImplementedError):
                rows = rows.cast_column(name, ours[name])
    kept = [name for name in rows.features if rows.features[name] == ours[name]]
    for name in [name for name in rows.features if name not in kept]:
        warnings.warn(
            f"Column {name!r} of {rows.split} is left out: {ours[name]} is expected, and not all of what it holds, "
            f"{rows.features[name]}, is that. Cast or rename it.",
            stacklevel=2,
        )
    for name in {"valence", "arousal"} & set(kept):
        values = np.array(rows[name][:], dtype=float)
        if (wrong := ~((np.abs(values) <= 1 + 1e-6) | np.isnan(values) | (values == NO_AFFECT))).any():
            row = int(wrong.argmax())
            warnings.warn(
                f"Column {name!r} of {rows.split} is left out: it holds {values[row]:g} in row {row}, and -1 to 1 is "
                "expected. Rescale it.",
                stacklevel=2,
            )
            kept.remove(name)
    return rows.select_columns(kept) if kept else None


def _check_column(rows: datasets.Dataset, flag: str, args) -> None:
    if (column := getattr(args, flag)) not in rows.column_names:
        raise ValueError(f"No column {column!r} in {rows.split}, only {listed(rows.column_names)}: see --{flag}.")


def _ids_and_names(rows: datasets.Dataset, images: datasets.Dataset) -> tuple[np.ndarray, np.ndarray, str]:
    paths = pc.struct_field(images.data.column(0), "path").to_pylist()  # without loading images that are in the table
    names = np.array([Path(path or "").stem for path in paths])
    ids, source = names, "name of the file"
    if "image_id" in rows.column_names:
        ids, source = np.array([str(image_id) for image_id in rows["image_id"]]), "image_id"
    if len(set(ids)) < len(ids):
        ids = np.arange(len(ids)).astype(str)
        source = f"{BY_NUMBER}, of {len(ids):,}"
    return ids, names if all(paths) else ids, source


def labels_of(rows: datasets.Dataset, args) -> tuple[np.ndarray, list[str]]:
    """(rows,) indices of class names, -1 where there is no label, and the names."""
    column, order = args.label_column_name, label_names(args.label_order)
    feature, values = rows.features[column], rows[column][:]
    kind = getattr(feature, "dtype", "")
    if isinstance(feature, datasets.ClassLabel):
        names = feature.names
        if wrong := [value for value in values if value is not None and not -1 <= value < len(names)]:
            raise ValueError(
                f"Column {column!r} of {rows.split} holds {wrong[0]} as a class in {len(wrong)} rows, and it has names "
                f"for 0 to {len(names) - 1}: put -1 where there is no label, or give it all names."
            )
    else:
        numbered = kind.startswith(("int", "uint")) and len(set(values)) <= len(affectnet_plus.CATEGORIES) + 1  # and -1
        if not (numbered or kind == "string"):
            raise ValueError(
                f"Column {column!r} holds {shortened(str(kind or feature))}, no class names and no numbers of classes: "
                "cast it to a ClassLabel with names, or name another --label_column_name."
            )
        names = sorted({str(value) for value in values if value not in (None, -1)})
        place = {name: index for index, name in enumerate(names)}
        values = [place.get(str(value), -1) for value in values]
    if names and all(re.fullmatch("[0-9]+", name) for name in names):
        names = _names_of_numbers(names, order, column)
    elif order and isinstance(feature, datasets.ClassLabel):
        raise ValueError(
            f"--label_order is for numbers, and column {column!r} names its classes itself: {', '.join(names)}. Leave "
            "the flag out."
        )
    return np.array([-1 if value is None else value for value in values], dtype=int), names


def _known_expressions(dataset: datasets.DatasetDict, args) -> np.ndarray:
    """(8,) which expressions its labels have a class for, in any split: plain strings name those alone that occur."""
    known = np.zeros(len(EXPRESSIONS), dtype=bool)
    for rows in dataset.values():
        if args.label_column_name in rows.column_names:
            with contextlib.suppress(ValueError):  # of a split that nobody has asked for
                known[affectnet_plus.match_expressions(labels_of(rows, args)[1])] = True
    return known


def _names_of_numbers(numbers: list[str], order: list[str], column: str) -> list[str]:
    """Class names of numbers that count in an order, from 0 or from 1: whichever their first or last goes with."""
    if not order:
        raise ValueError(
            f"Column {column!r} numbers its classes ({', '.join(numbers[:12])}), and a number alone says nothing: say "
            f"by --label_order in which order they count, {', '.join(affectnet_plus.LABEL_ORDERS)} or the names "
            "themselves."
        )
    counted, most = [int(number) for number in numbers], len(order)
    first = 0 if 0 in counted else 1 if most in counted else None
    if first is None or max(counted) >= first + most:
        wrong = "are neither from 0 nor from 1" if first is None else f"go up to {max(counted)}"
        raise ValueError(
            f"The numbers in column {column!r} ({', '.join(numbers[:12])}) {wrong}, and --label_order has {most} names "
            f"({', '.join(order)}): give all names, or cast the column to a ClassLabel with names."
        )
    return [order[number - first] for number in counted]


def soft_labels_of(rows: datasets.Dataset, args, labels: np.ndarray, to_ours: np.ndarray) -> np.ndarray | None:
    """(rows, 8) scores, NaN for what they do not have. They come in the order of --label_order or of the label's class
    names, which are `to_ours`; `labels` are (rows,) in our order."""
    column = args.soft_label_column_name
    if column not in rows.column_names:
        if column not in ("none", type(args).soft_label_column_name):
            _check_column(rows, "soft_label_column_name", args)
        return None
    names, order = getattr(rows.features[args.label_column_name], "names", None), label_names(args.label_order)
    if order:
        names, to_ours = order, np.array(affectnet_plus.match_expressions(order))
    if names is None:
        warnings.warn(
            f"The scores in column {column!r} are not read: they have no order, as {args.label_column_name!r} holds "
            "plain strings. Say theirs by --label_order, or cast it to a ClassLabel with names in the order of the "
            "scores.",
            stacklevel=2,
        )
        return None
    values = rows[column][:]
    if all(value is None for value in values):  # a release without soft labels
        return None
    if any(not isinstance(value, list) or len(value) != len(to_ours) or None in value for value in values):
        raise ValueError(
            f"Column {column!r} of {rows.split} does not hold {len(to_ours)} scores in every row, one per class name "
            f"of {args.label_column_name!r}: see --soft_label_column_name."
        )
    try:
        values = np.array(values, dtype=np.float64).reshape(len(rows), len(to_ours))
    except (TypeError, ValueError):
        raise ValueError(
            f"Column {column!r} of {rows.split} holds {shortened(str(rows.features[column]))}, no scores: see "
            "--soft_label_column_name."
        ) from None
    if (wrong := ~((values >= 0) & (values <= 1 + 1e-6)).all(axis=1)).any():
        raise ValueError(
            f"Column {column!r} of {rows.split} holds scores that are not from 0 to 1 in {int(wrong.sum())} rows, "
            f"first in {int(wrong.argmax())}: divide counts of votes by their sum, percentages by 100."
        )
    shares = {name: _agreement(values, order, labels) for name, order in affectnet_plus.LABEL_ORDERS.items()}
    better, share = max(shares.items(), key=lambda item: item[1])
    if share > (said := _agreement(values, names, labels)) + max(0.1, 3 / np.sqrt(len(rows))):
        raise ValueError(
            f"Column {column!r} of {rows.split} looks as if it were in another order than the class names of "
            f"{args.label_column_name!r} or --label_order ({', '.join(names)}): read in theirs, the highest score is "
            f"the label's in {said:.0%} of the rows, read as {better} "
            f"({', '.join(affectnet_plus.LABEL_ORDERS[better])}) in {share:.0%}. Put the scores into the order of the "
            "class names."
        )
    ours = np.full((len(rows), len(EXPRESSIONS)), np.nan)
    ours[:, to_ours] = values
    return ours


def _agreement(scores: np.ndarray, order: list[str], labels: np.ndarray) -> float:
    """How often the highest score is the label's, if the scores are in this order."""
    if scores.shape[1] != len(order):
        return 0.0
    return float(np.mean(np.array(affectnet_plus.match_expressions(order))[scores.argmax(axis=1)] == labels))


def check_enough_rows(
    train: Split, evaluation: Split, expressions: list[str], without: str = "", at_least: int = 8
) -> None:
    """One-vs-rest needs rows of both kinds on both sides; AUROC and calibration are undefined otherwise."""
    for split, needed, what in ((train, at_least, f"{train.name}{without}"), (evaluation, 1, evaluation.name)):
        counts = np.bincount(split.labels[split.labels >= 0], minlength=len(EXPRESSIONS))
        others = split.known.sum(axis=0) - counts
        enough = [EXPRESSIONS[i] for i in np.flatnonzero(np.minimum(counts, others) >= needed)]
        for expression in expressions:
            if expression not in enough:
                index = EXPRESSIONS.index(expression)
                raise ValueError(
                    f"Too few rows to learn {expression!r}: {what} has {counts[index]} of it and {others[index]} "
                    f"others, {needed} of each are needed. There are enough for: --expressions {' '.join(enough)}"
                )
