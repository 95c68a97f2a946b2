"""Faces for training: any dataset with its labels matched by name, folds, a sampler, augmentation."""

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from PIL import Image
from timm.data.auto_augment import augment_and_mix_transform, auto_augment_transform, rand_augment_transform
from torch.utils.data import Dataset, Sampler
from torchvision.transforms import v2
from tqdm.auto import tqdm

import affectnet_plus
from affectnet_plus import EXPRESSIONS
from affectnet_plus.modeling import ImageError, open_rgb
from affectnet_plus.releases.files import RASTER_ENDINGS, read_regular_file
from affectnet_plus.training.arguments import is_synthetic

_BY_NUMBER = "number of the row"
_NO_AFFECT = -2  # where AffectNet has no valence or arousal
METADATA = ("subset", "age", "gender", "ethnicity", "head_pose", "landmarks_68", "landmarks_29", "valence", "arousal")


@dataclass
class Split:
    """Rows of one split: `labels` (N,) are indices into EXPRESSIONS (-1: none of them), `soft_labels` (N, 8) or None.

    `ids` (N,) tell a row from all others of its split: `image_id` where there is such a column, else the name of the
    image file without its ending, else, where names are missing or come twice, the number of the row. `names` (N,) are
    those names of files, and where they are missing the ids. `metadata` has what the rows have of our other columns
    (`METADATA`), or is None. `contents` (N,) are hashes of the image files, where `read_contents` was called and could
    read them, and `folds_by` says what folds then go by.
    """

    name: str
    images: datasets.Dataset  # one column, undecoded
    labels: np.ndarray
    soft_labels: np.ndarray | None
    ids: np.ndarray
    names: np.ndarray
    id_source: str
    metadata: datasets.Dataset | None = None
    contents: np.ndarray | None = None
    folds_by: str | None = None  # "content" or "id", None: nobody has tried to read contents yet

    def read_contents(self) -> None:
        """Hash every image file, once: what `folds` go by where all of them can be read as files."""
        if self.folds_by is not None:
            return
        hashes = []
        try:
            with (
                ThreadPoolExecutor() as threads,
                tqdm(total=len(self), desc=f"hashing images of {self.name}", unit="image", leave=False) as progress,
            ):
                for rows in self.images.with_format("arrow").iter(1000):
                    hashes += threads.map(_hash_of_file, rows.column(0).to_pylist())
                    progress.update(len(rows))
        except OSError:
            self.folds_by = "id"
            return
        self.contents, self.folds_by = np.array(hashes, dtype=np.uint64), "content"

    def folds(self, num_folds: int, by: str | None = None) -> np.ndarray:
        """(N,) the fold of each row, 0 to `num_folds` - 1, by a hash that is the same everywhere.

        By "content", that of its image file: copies of a picture are in one fold, whatever their ids and splits. By
        "id", that of split and id. By default by content where the files can be read; `ValueError` where that is asked
        for and they cannot.
        """
        if by != "id":
            self.read_contents()
        if by == "content" and self.contents is None:
            raise ValueError(
                f"The images of {self.name} cannot be read as files, and the experts' folds go by their content: label "
                "a copy of the dataset that lies on this machine."
            )
        if (by or self.folds_by) == "content":
            return (self.contents % np.uint64(num_folds)).astype(int)
        return np.array([_hash(f"{self.name}/{row_id}".encode()) % num_folds for row_id in self.ids])

    def select(self, rows: np.ndarray) -> "Split":
        soft_labels = None if self.soft_labels is None else self.soft_labels[rows]
        metadata = None if self.metadata is None else self.metadata.select(rows)
        contents = None if self.contents is None else self.contents[rows]
        columns = {name: getattr(self, name)[rows] for name in ("labels", "ids", "names")}
        return dataclasses.replace(
            self,
            images=self.images.select(rows),
            soft_labels=soft_labels,
            metadata=metadata,
            contents=contents,
            **columns,
        )

    def without_fold(self, fold: int, num_folds: int) -> "Split":
        return self.select(np.flatnonzero(self.folds(num_folds) != fold))

    def affect(self) -> np.ndarray:
        """(N, 2) float32 annotated valence and arousal, NaN where unknown."""
        affect = np.full((len(self), 2), np.nan, dtype="float32")
        for column, name in enumerate(("valence", "arousal")):
            if self.metadata is not None and name in self.metadata.features:
                values = self.metadata[name][:]
                affect[:, column] = [np.nan if value in (None, _NO_AFFECT) else value for value in values]
        return affect

    def __len__(self) -> int:
        return len(self.labels)

    def stored(self, row: int) -> dict:
        """The undecoded image: `path`, `bytes`, one of which may be None."""
        (stored,) = self.images[row].values()
        return stored

    def image(self, row: int) -> Image.Image:
        """Decoded, upright RGB; raises `ValueError` naming the file."""
        stored = self.stored(row)
        name = stored["path"] or f"image of row {row} in {self.name}"
        return open_rgb(stored["path"] if stored["bytes"] is None else BytesIO(stored["bytes"]), name)


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def _hash_of_file(stored: dict) -> int:
    if stored["bytes"] is None and stored["path"] is None:
        raise FileNotFoundError("A row has no image.")
    return _hash(read_regular_file(stored["path"]) if stored["bytes"] is None else stored["bytes"])


def broken_images(split: Split) -> dict[int, ImageError]:
    """{row: what is wrong} of the images that cannot be decoded, in the order of the rows."""
    problems = {}

    def look(row: int) -> None:
        try:
            split.image(row)
        except ImageError as error:
            problems[row] = error

    with ThreadPoolExecutor() as threads:
        rows = tqdm(range(len(split)), desc=f"looking for broken images in {split.name}", unit="image", leave=False)
        list(threads.map(look, rows))
    return dict(sorted(problems.items()))


def without_broken_images(split: Split) -> Split:
    """Only the rows whose image can be decoded; a warning counts and names the others."""
    problems = broken_images(split)
    if not problems:
        return split
    first = " ".join(map(str, list(problems.values())[:3]))
    warnings.warn(f"{len(problems)} broken image(s) of {split.name} left out: {first}", stacklevel=2)
    return split.select(np.array([row for row in range(len(split)) if row not in problems], dtype=int))


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
    held = [name for name in rows.features if rows.features[name] == ours[name]]
    for name in [name for name in rows.features if name not in held]:
        warnings.warn(
            f"Column {name!r} of {rows.split} is left out: {ours[name]} is expected, and not all of what it holds, "
            f"{rows.features[name]}, is that. Cast or rename it.",
            stacklevel=2,
        )
    for name in {"valence", "arousal"} & set(held):
        values = np.array(rows[name][:], dtype=float)
        if (wrong := ~((np.abs(values) <= 1 + 1e-6) | np.isnan(values) | (values == _NO_AFFECT))).any():
            row = int(wrong.argmax())
            warnings.warn(
                f"Column {name!r} of {rows.split} is left out: it holds {values[row]:g} in row {row}, and -1 to 1 is "
                "expected. Rescale it.",
                stacklevel=2,
            )
            held.remove(name)
    return rows.select_columns(held) if held else None


def _check_column(rows: datasets.Dataset, flag: str, args) -> None:
    if (column := getattr(args, flag)) not in rows.column_names:
        raise ValueError(f"No column {column!r} in {rows.split}, only {', '.join(rows.column_names)}: see --{flag}.")


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


def _ids_and_names(rows: datasets.Dataset, images: datasets.Dataset) -> tuple[np.ndarray, np.ndarray, str]:
    paths = pc.struct_field(images.data.column(0), "path").to_pylist()  # without loading images that are in the table
    names = np.array([Path(path or "").stem for path in paths])
    ids, source = names, "name of the file"
    if "image_id" in rows.column_names:
        ids, source = np.array([str(image_id) for image_id in rows["image_id"]]), "image_id"
    if len(set(ids)) < len(ids):
        ids = np.arange(len(ids)).astype(str)
        source = f"{_BY_NUMBER}, of {len(ids):,}"
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


def known_truth(split: Split, args) -> tuple[np.ndarray | None, str]:
    """(rows, 8) what is known of how far each expression is present, or None, and what to call it: the true intensities
    of a synthetic release, else the dataset's own soft labels."""
    folder = None if args.dataset_name else args.release()[0]
    if folder is None or not is_synthetic(folder):
        return split.soft_labels, "" if split.soft_labels is None else "the dataset's soft label"
    name = {"automatically_annotated": "unannotated"}.get(split.name, split.name)  # of 2017's release; as drawn
    table = pq.read_table(Path(folder) / "ground_truth.parquet", filters=[("split", "==", name)]).to_pandas()
    table = table.set_index(table["image_id"].astype(str))
    return table.loc[split.ids, [f"intensity_{name}" for name in EXPRESSIONS]].to_numpy(np.float64), "true intensity"


def read_soft_labels(folder: str, split: Split, column: str = "soft_label") -> np.ndarray:
    """(rows, 8) of a column that label.py wrote for the split, in its order; raises `ValueError` where a row has none,
    or where rows may be other ones: nothing but their number tells them apart, or most human labels are others."""
    files = files_of(folder, split.name)
    settings = Path(folder) / "label.json"
    labelled_by = json.loads(settings.read_text())["splits"][split.name].get("ids") if settings.exists() else None
    if labelled_by not in (None, split.id_source) and _BY_NUMBER in labelled_by + split.id_source:
        raise ValueError(
            f"{folder} knows the rows of {split.name} by {labelled_by}, here they have {split.id_source}, so that a "
            "label may be another row's: label these very rows anew, or give them a column `image_id` before."
        )
    names = columns_of(folder, split.name)
    if column not in names:
        raise ValueError(f"{folder} has no column {column!r}, only {', '.join(names)}: label these rows anew.")
    with_human = {"human_label"} & set(names)  # label.py writes it; others may not
    table = pq.read_table(files, columns=["image_id", column, *with_human])
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
        if (share := float(others[labelled].mean())) > 0.5:
            raise ValueError(
                f"{folder} is of other faces that have the same ids, or of other human labels: they are not those "
                f"written there in {share:.0%} of the rows of {split.name}. Label these rows."
            )
    return np.array([scores[row_id] for row_id in wanted])


def files_of(folder: str, split: str) -> list[Path]:
    """The files that label.py wrote for a split; raises `ValueError` where some are missing."""
    files = sorted(Path(folder).glob(f"{split}-*-of-*.parquet"))
    if not files or len(files) != int(files[0].stem.rpartition("-")[2]):
        raise ValueError(f"{folder} does not hold all labels of {split} ({len(files)} files): run label.py to its end.")
    return files


def columns_of(folder: str, split: str) -> list[str]:
    """The columns of those files."""
    return pq.read_schema(files_of(folder, split)[0]).names


def check_enough_rows(
    train: Split, evaluation: Split, expressions: list[str], without: str = "", at_least: int = 8
) -> None:
    """One-vs-rest needs rows of both kinds on both sides; AUROC and calibration are undefined otherwise."""
    for split, needed, what in ((train, at_least, f"{train.name}{without}"), (evaluation, 1, evaluation.name)):
        counts = np.bincount(split.labels, minlength=len(EXPRESSIONS))
        for expression in expressions:
            own = counts[EXPRESSIONS.index(expression)]
            if min(own, len(split) - own) < needed:
                enough = [e for e, n in zip(EXPRESSIONS, counts, strict=True) if min(n, len(split) - n) >= needed]
                raise ValueError(
                    f"Too few rows to learn {expression!r}: {what} has {own} of it and {len(split) - own} "
                    f"others, {needed} of each are needed. There are enough for: --expressions {' '.join(enough)}"
                )


class PermutationSampler(Sampler):
    """A seeded stream of draws from groups of rows: one group is all rows shuffled, an expression's rows and the others
    in turn are a balanced sampler.

    `turns` says how often each group is drawn in one round, once each by default; within a round, groups come as evenly
    as can be. Each group runs through a new permutation of its rows before any comes again. Draw k depends on (seed, k)
    alone, so a run that was interrupted after `start` draws goes on with the very next one, whatever the number of
    workers. Yields (row, augmentation seed).
    """

    def __init__(
        self, groups: list[np.ndarray], seed: int, num_draws: int, start: int = 0, turns: Sequence[int] | None = None
    ):
        self.groups, self.seed, self.num_draws, self.start = groups, seed, num_draws, start
        turns = turns or [1] * len(groups)
        places = [((turn + 0.5) / count, group, turn) for group, count in enumerate(turns) for turn in range(count)]
        self.turns, self.round = turns, [(group, turn) for _, group, turn in sorted(places)]

    def __len__(self) -> int:
        return self.num_draws - self.start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        permutations: list[tuple[int, np.ndarray | None]] = [(-1, None)] * len(self.groups)
        for draw in range(self.start, self.num_draws):
            rounds, place = divmod(draw, len(self.round))
            group, turn = self.round[place]
            number, place = divmod(rounds * self.turns[group] + turn, len(self.groups[group]))
            if permutations[group][0] != number:
                shuffled = np.random.default_rng((self.seed, group, number)).permutation(self.groups[group])
                permutations[group] = (number, shuffled)
            yield int(permutations[group][1][place]), self.seed * 1_000_003 + draw


class FaceDataset(Dataset):
    """A split as {"pixel_values": (3, size, size) float}, with "targets" (n,) where there are targets (rows, n);
    augmented where the sampler gives a seed."""

    def __init__(self, split: Split, image_processor, targets: np.ndarray | None = None, auto_augment: str = ""):
        self.split = split
        self.image_processor = image_processor
        self.auto_augment = auto_augment
        self.targets = None if targets is None else torch.from_numpy(targets)

    @cached_property
    def augmentation(self) -> v2.Compose:
        return augmentation(self.image_processor, self.auto_augment)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, torch.Tensor]:
        row, seed = index if isinstance(index, tuple) else (index, None)
        image = self.split.image(row)
        if seed is None:
            pixel_values = self.image_processor(images=image, return_tensors="pt")["pixel_values"][0]
        else:
            state = torch.get_rng_state()
            torch.default_generator.manual_seed(seed)  # a tenth of the time of torch.manual_seed
            if self.auto_augment:  # timm's draws from these
                random.seed(seed)
                np.random.seed(seed % 2**32)
            pixel_values = self.augmentation(image)
            torch.set_rng_state(state)
        return {"pixel_values": pixel_values} | ({} if self.targets is None else {"targets": self.targets[row]})


def augmentation(image_processor, auto_augment: str = "") -> v2.Compose:
    """Random flip, small affine, light and contrast, erasing; then what the image processor would do. `auto_augment`, a
    policy of timm ("rand-m9-mstd0.5", "augmix-m3" ...), takes the place of affine, light and contrast."""
    height, width = image_processor.size["height"], image_processor.size["width"]
    if auto_augment:
        altered = [timm_policy(auto_augment, min(height, width), image_processor.image_mean)]
    else:
        altered = [
            v2.Pad((width // 4, height // 4), padding_mode="edge"),  # the affine would bring in black corners
            v2.RandomAffine(
                degrees=14, translate=(0.08, 0.08), scale=(0.85, 1.15), interpolation=v2.InterpolationMode.BILINEAR
            ),
            v2.CenterCrop((height, width)),
            v2.ColorJitter(brightness=0.3, contrast=0.3),
        ]
    return v2.Compose(
        [
            v2.Resize((height, width)),
            v2.RandomHorizontalFlip(),
            *altered,
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(image_processor.image_mean, image_processor.image_std),
            v2.RandomErasing(p=0.3, scale=(0.02, 0.2)),
        ]
    )


def timm_policy(name: str, size: int, image_mean):
    """timm's augmentation of that name; `ValueError` where it knows none."""
    fill = tuple(min(255, round(255 * channel)) for channel in image_mean)
    hparams = {"translate_const": int(size * 0.45), "img_mean": fill}
    kinds = {"rand": rand_augment_transform, "augmix": augment_and_mix_transform}
    try:
        return kinds.get(name.partition("-")[0], auto_augment_transform)(name, hparams)
    except (AssertionError, KeyError, ValueError, IndexError) as error:
        raise ValueError(
            f"timm knows no augmentation {name!r}: rand-m9-mstd0.5-inc1, augmix-m3-w3, 3a, v0 and the like are known."
        ) from error
