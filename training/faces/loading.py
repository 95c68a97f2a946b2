"""Splits of a release or of any other dataset: expressions are matched by name, never by position."""

import contextlib
import os
import warnings
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import affectnet_plus
from affectnet_plus import EXPRESSIONS
from affectnet_plus.releases.files import RASTER_ENDINGS
from affectnet_plus.training.faces.split import METADATA, NO_AFFECT, Split, broken_images, without_broken_images

BY_NUMBER = "number of the row"


def load_rows(args) -> datasets.DatasetDict:
    """All splits of what `DataArguments` name."""
    if args.data_dir and args.dataset_name:
        raise ValueError("--data_dir names a release, --dataset_name any other dataset: give one of them.")
    if not (args.data_dir or args.dataset_name or os.environ.get(affectnet_plus.DATA_DIR_VARIABLE)):
        raise ValueError(
            f"No data was named: --data_dir (or ${affectnet_plus.DATA_DIR_VARIABLE}) is for a release of AffectNet+, "
            "--dataset_name for any other dataset."
        )
    try:
        if args.dataset_name:
            builder = datasets.load_dataset_builder(args.dataset_name, args.dataset_config_name)
            builder.download_and_prepare()
            rows = builder.as_dataset()
        else:
            name = args.dataset_config_name or args.release()[1]
            rows = datasets.load_dataset("affectnet_plus", name, data_dir=args.data_dir, on_error=args.on_error)
    except FileNotFoundError as error:
        raise ValueError(f"No dataset at {args.dataset_name or args.data_dir!r}: {error}") from error
    return rows


def load_split(args, split: str, max_samples: int | None = None, with_soft_labels: bool = False) -> Split:
    """Load what `DataArguments` name; raises `ValueError` where the columns or class names do not fit."""
    rows = load_rows(args)
    if split not in rows:
        raise ValueError(
            f"The dataset has no split {split!r}, only {', '.join(rows)}: see the flags that end in split_name."
        )
    rows = rows[split]
    images = _images(rows, args)
    ids, names, id_source = _ids_and_names(rows, images)  # of all rows, so that a row's id is its own
    if max_samples is not None:
        rows, images = (dataset.select(range(min(max_samples, len(rows)))) for dataset in (rows, images))
    if not len(rows):
        raise ValueError(f"Nothing of {split} is left: the split has no rows, or a flag wants the first 0 of them.")
    _check_column(rows, "label_column_name", args)
    labels, class_names = _labels(rows, args.label_column_name)
    to_ours = np.array(affectnet_plus.match_expressions(class_names))
    soft_labels = _soft_labels(rows, args, labels, to_ours) if with_soft_labels else None
    ids, names = ids[: len(rows)], names[: len(rows)]
    loaded = Split(split, images, to_ours[labels], soft_labels, ids, names, id_source, _metadata(rows))
    return without_broken_images(loaded) if args.dataset_name and args.on_error == "skip" else loaded


def load_splits(args, with_soft_labels: bool = False) -> tuple[Split, Split]:
    """The rows to train on, `with_soft_labels` or without, and those to calibrate and measure on. Those are perhaps
    first opened when training is over, so their images are looked at here; a release's are when it is indexed.
    """
    train = load_split(args, args.train_split_name, args.max_train_samples, with_soft_labels)
    evaluation = load_split(args, args.eval_split_name, args.max_eval_samples, with_soft_labels=True)
    if args.dataset_name and args.on_error == "raise":
        for problem in broken_images(evaluation).values():
            raise ValueError(f"{problem} --on_error skip leaves broken images out.")
    return train, evaluation


def split_to_label(rows: datasets.Dataset, args) -> Split:
    """A split whose rows may have no label, or one that is no expression: -1 then."""
    labels, column = np.full(len(rows), -1), args.label_column_name
    if column != type(args).label_column_name:
        _check_column(rows, "label_column_name", args)
    feature = rows.features.get(column)
    if feature is not None:
        if not isinstance(feature, datasets.ClassLabel) and getattr(feature, "dtype", None) != "string":
            raise ValueError(f"Column {column!r} holds {feature}, no class names: see --label_column_name.")
        values = rows[column][:]
        names = getattr(feature, "names", None) or sorted({value for value in values if value is not None})
        place = {**{name: i for i, name in enumerate(names)}, **{i: i for i in range(len(names))}}
        of_name = np.full(len(names) + 1, -1)  # the last: no label
        of_expression = [i for i, name in enumerate(names) if name not in affectnet_plus.CATEGORIES[len(EXPRESSIONS) :]]
        of_name[of_expression] = affectnet_plus.match_expressions([names[i] for i in of_expression])
        labels = of_name[[place.get(value, -1) for value in values]]
    images = _images(rows, args)
    split = Split(str(rows.split), images, labels, None, *_ids_and_names(rows, images), _metadata(rows))
    return without_broken_images(split) if args.dataset_name and args.on_error == "skip" else split


def images_in(folder: str, on_error: str) -> Split:
    """The image files in a folder and those inside it, but for names that begin with a dot; `ids` are paths below it,
    without their endings."""
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"--image_dir {folder} is no folder.")
    paths = sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in RASTER_ENDINGS
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and not path.is_dir()  # what is neither a file nor a folder is told of as a broken image
    )
    if not paths:
        raise ValueError(f"--image_dir {folder} holds no image ({', '.join(RASTER_ENDINGS)}).")
    ids = np.array([path.relative_to(root).with_suffix("").as_posix() for path in paths])
    if len(set(ids)) < len(ids):
        ids = np.array([path.relative_to(root).as_posix() for path in paths])
    stored = [{"path": str(path), "bytes": None} for path in paths]
    features = datasets.Features({"image": datasets.Image(decode=False)})
    images = datasets.Dataset.from_dict({"image": stored}, features=features)
    split = Split("images", images, np.full(len(paths), -1), None, ids, ids, "path of the file")
    return without_broken_images(split) if on_error == "skip" else split


def _images(rows: datasets.Dataset, args) -> datasets.Dataset:
    _check_column(rows, "image_column_name", args)
    if nulls := rows.data.column(args.image_column_name).null_count:
        raise ValueError(
            f"Column {args.image_column_name!r} of {rows.split} has {nulls} rows without an image: leave them out."
        )
    return rows.select_columns(args.image_column_name).cast_column(args.image_column_name, datasets.Image(decode=False))


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
        raise ValueError(f"No column {column!r} in {rows.split}, only {', '.join(rows.column_names)}: see --{flag}.")


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


def _labels(rows: datasets.Dataset, column: str) -> tuple[np.ndarray, list[str]]:
    feature = rows.features[column]
    values = rows[column][:]
    if missing := [row for row, value in enumerate(values) if value is None or value == -1]:  # -1: ClassLabel's "none"
        raise ValueError(
            f"Column {column!r} has no label in {len(missing)} rows, first in {missing[0]}: leave them out."
        )
    if isinstance(feature, datasets.ClassLabel):
        return np.array(values, dtype=int), feature.names
    if getattr(feature, "dtype", None) == "string":
        names = sorted(set(values))
        return np.array([names.index(value) for value in values], dtype=int), names
    raise ValueError(
        f"Column {column!r} holds {getattr(feature, 'dtype', feature)} without class names, and an index alone says "
        "nothing: cast it to a ClassLabel with names, or name another --label_column_name."
    )


def _soft_labels(rows: datasets.Dataset, args, labels: np.ndarray, to_ours: np.ndarray) -> np.ndarray | None:
    """Scores in the order of the label's class names, reordered with them; `labels` are (rows,)
    indices of class names. Classes it does not have stay 0."""
    column = args.soft_label_column_name
    if column not in rows.column_names:
        if column not in ("none", type(args).soft_label_column_name):
            _check_column(rows, "soft_label_column_name", args)
        return None
    if not isinstance(rows.features[args.label_column_name], datasets.ClassLabel):
        warnings.warn(
            f"The scores in column {column!r} are not read: they have no order, as {args.label_column_name!r} holds "
            "plain strings. Cast it to a ClassLabel with names in the order of the scores.",
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
    ours = np.zeros((len(rows), len(EXPRESSIONS)))
    values = np.array(values, dtype=np.float64)
    ours[:, to_ours] = values
    if (wrong := ~((ours >= 0) & (ours <= 1 + 1e-6)).all(axis=1)).any():
        raise ValueError(
            f"Column {column!r} of {rows.split} holds scores that are not from 0 to 1 in {int(wrong.sum())} rows, "
            f"first in {int(wrong.argmax())}: divide counts of votes by their sum, percentages by 100."
        )
    if len(to_ours) == len(EXPRESSIONS):
        as_said, as_ours = (np.mean(scores.argmax(axis=1) == to_ours[labels]) for scores in (ours, values))
        if as_ours > as_said + max(0.1, 3 / np.sqrt(len(rows))):
            raise ValueError(
                f"Column {column!r} of {rows.split} looks as if it were in another order than the class names of "
                f"{args.label_column_name!r} ({', '.join(rows.features[args.label_column_name].names)}): read in "
                f"theirs, the highest score is the label's in {as_said:.0%} of the rows, read as "
                f"{', '.join(EXPRESSIONS)} in {as_ours:.0%}. Put the scores into the order of the class names."
            )
    return ours


def check_enough_rows(
    train: Split, evaluation: Split, expressions: list[str], without: str = "", at_least: int = 8
) -> None:
    """One-vs-rest needs rows of both kinds on both sides; AUROC and calibration are undefined otherwise."""
    for split, needed, what in ((train, at_least, f"{train.name}{without}"), (evaluation, 1, evaluation.name)):
        counts = np.bincount(split.labels, minlength=len(EXPRESSIONS))
        for expression in expressions:
            number = counts[EXPRESSIONS.index(expression)]
            if min(number, len(split) - number) < needed:
                enough = [e for e, n in zip(EXPRESSIONS, counts, strict=True) if min(n, len(split) - n) >= needed]
                raise ValueError(
                    f"Too few rows to learn {expression!r}: {what} has {number} of it and {len(split) - number} "
                    f"others, {needed} of each are needed. There are enough for: --expressions {' '.join(enough)}"
                )
