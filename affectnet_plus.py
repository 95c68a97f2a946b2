"""AffectNet+ for `datasets`: names, features, builder, registration and the command line.

AffectNet+ (Fard, Hosseini, Sweeny, Mahoor; IEEE Transactions on Affective Computing, 2025;
https://arxiv.org/abs/2410.22506) says for each face how far each of eight expressions is present at once.

    from datasets import load_dataset
    import affectnet_plus                                                # makes the name known to `datasets`
    ds = load_dataset("affectnet_plus", data_dir="/data/AffectNet+")     # or set AFFECTNET_PLUS_DIR

The images are licence-gated by the AffectNet team. They are read where they lie and never shipped.
"""

import argparse
import functools
import hashlib
import io
import json
import math
import os
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import datasets
import datasets.inspect
import numpy as np
import orjson
import pyarrow as pa
from datasets.builder import Key
from datasets.exceptions import DatasetGenerationError
from datasets.load import DatasetModule
from datasets.table import table_cast

# The order of every soft label, class index and score vector in this project. It stands here and nowhere else.
EXPRESSIONS = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")
# The eleven values of "human-label": the last three are no expression.
CATEGORIES = (*EXPRESSIONS, "none", "uncertain", "non-face")
SUBSETS = ("easy", "challenging", "difficult")
GENDERS = ("female", "male")
ETHNICITIES = ("asian", "indian", "black", "white", "middle_eastern", "latino_hispanic")
ANGLES = ("yaw", "pitch", "roll")

# What other datasets call the eight; case, spaces, hyphens and underscores do not matter.
SYNONYMS = {
    "neutral": ("neutrality", "natural", "no emotion"),
    "happy": ("happiness", "joy", "joyful"),
    "sad": ("sadness",),
    "surprise": ("surprised", "suprise"),  # the misspelling is a folder of FER2013
    "fear": ("fearful", "afraid", "scared"),
    "disgust": ("disgusted",),
    "anger": ("angry",),
    "contempt": ("contemptuous",),
}


class ReleaseError(DatasetGenerationError, ValueError):
    """A release that cannot be read, said in one sentence with the cure.

    A `DatasetGenerationError` because `datasets` would hide any other error behind "An error occurred while
    generating the dataset"; a `ValueError` because that is what it is to everybody else.
    """


def match_expressions(names: Iterable[str]) -> list[int]:
    """For each class name of any dataset, its index in `EXPRESSIONS`: by name or known synonym, never by position.

    `match_expressions(["angry", "happiness"])` is `[6, 1]`. Fewer than eight names are fine (FER2013 and RAF-DB
    have seven). Raises `ValueError` where a name is unknown or two names mean the same expression.
    """
    names = list(names)
    indices = [_EXPRESSION_INDEX.get(_letters(name)) for name in names]
    known = "; ".join(", ".join((expression, *SYNONYMS[expression])) for expression in EXPRESSIONS)
    if unknown := [name for name, index in zip(names, indices, strict=True) if index is None]:
        raise ValueError(
            f"No expression is known by the name {_listed(unknown)} (all names given: {_listed(names)}). "
            f"Known are: {known}."
        )
    if twice := [name for name, index in zip(names, indices, strict=True) if indices.count(index) > 1]:
        raise ValueError(
            f"Several of the names given mean the same expression: {_listed(twice)} "
            f"(all names given: {_listed(names)}). Known are: {known}."
        )
    return indices


def _letters(name) -> str:
    return re.sub(r"[\s_-]", "", str(name).lower())


def _listed(names: Iterable, most: int = 12) -> str:
    names = [repr(name) for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


_EXPRESSION_INDEX = {
    _letters(name): index
    for index, expression in enumerate(EXPRESSIONS)
    for name in (expression, *SYNONYMS[expression])
}


# ---------------------------------------------------------------------------------------------------------------
# Where a release lies

DATA_DIR_VARIABLE = "AFFECTNET_PLUS_DIR"
_HUMAN_ANNOTATED = {"train": "human_annotated/train_set", "validation": "human_annotated/validation_set"}
_NO_HUMAN_ANNOTATED = {"train": "no_human_annotated"}


def find_release(data_dir: str | os.PathLike | None = None) -> str:
    """The absolute path of the release in `data_dir`, else in $AFFECTNET_PLUS_DIR: that folder or one right inside it.

    A release is a folder that holds `human_annotated/` or `no_human_annotated/`. Raises `ReleaseError` where there
    is none, or more than one.
    """
    named = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    if not named:
        raise ReleaseError(
            'No release was named: pass data_dir="/path/to/AffectNet+" to load_dataset, '
            f"or set the environment variable {DATA_DIR_VARIABLE}."
        )
    folder = os.path.abspath(os.path.expanduser(named))
    if not os.path.isdir(folder):
        found = "is a file, not a folder: unpack it first" if os.path.isfile(folder) else "does not exist"
        raise ReleaseError(f"{folder} {found} (named by {'data_dir' if data_dir else '$' + DATA_DIR_VARIABLE}).")
    if _is_release(folder):
        return folder
    with os.scandir(folder) as entries:
        entries = sorted((entry.name, entry.is_dir()) for entry in entries)
    releases = [name for name, is_dir in entries if is_dir and _is_release(os.path.join(folder, name))]
    if len(releases) == 1:
        return os.path.join(folder, releases[0])
    if releases:
        raise ReleaseError(f"{folder} holds several releases, {_listed(releases)}: name one of them as data_dir.")
    raise ReleaseError(
        f"{folder} is no AffectNet+ release: neither it nor a folder right inside it holds human_annotated/ or "
        f"no_human_annotated/. Found there: {_listed(name + '/' * is_dir for name, is_dir in entries) or 'nothing'}."
    )


def _is_release(folder: str) -> bool:
    return any(os.path.isdir(os.path.join(folder, part)) for part in ("human_annotated", "no_human_annotated"))


def _split_folders(release: str, config_name: str) -> dict[str, str]:
    """{split: folder with images/ and annotations/} of what lies on disk; somebody may hold validation only."""
    looked_for = _NO_HUMAN_ANNOTATED if config_name == "no_human_annotated" else _HUMAN_ANNOTATED
    folders = {split: os.path.join(release, *path.split("/")) for split, path in looked_for.items()}
    folders = {split: folder for split, folder in folders.items() if os.path.isdir(folder)}
    if not folders:
        raise ReleaseError(
            f'{release} has nothing for "{config_name}": looked for {_listed(looked_for.values())}, '
            f"found {_listed(sorted(os.listdir(release)))}."
        )
    for folder in folders.values():
        for part in ("images", "annotations"):
            if not os.path.isdir(os.path.join(folder, part)):
                raise ReleaseError(
                    f"{folder} has no folder {part}/ (found {_listed(sorted(os.listdir(folder))) or 'nothing'}): "
                    "unpack all parts of the release into one folder."
                )
    return folders


class _Shard(NamedTuple):
    """Some pairs of one folder in the order of N. Arrays, not lists: 400,000 pairs take 12 MB, not 70."""

    folder: str
    image_ids: np.ndarray  # (n,) int64
    annotations: np.ndarray  # (n,) bytes, file names
    images: np.ndarray  # (n,) bytes, file names


# A shard is one Arrow table, one step of a shuffled stream and the least that a process is given.
_PAIRS_PER_SHARD = 500


def _shards(folder: str) -> list[_Shard]:
    """The pairs of a folder, in the numeric order of N whatever order the disk gives."""
    image_ids, images = _numbered_files(os.path.join(folder, "images"), ("jpg", "jpeg", "png"))
    annotation_ids, annotations = _numbered_files(os.path.join(folder, "annotations"), ("json",))
    lonely = {
        "image(s) without an annotation": images[~np.isin(image_ids, annotation_ids)],
        "annotation(s) without an image": annotations[~np.isin(annotation_ids, image_ids)],
    }
    if problems := [f"{len(n)} {what} ({_listed(n.astype(str).tolist(), 5)})" for what, n in lonely.items() if len(n)]:
        raise ReleaseError(f"{folder} has {' and '.join(problems)}: unpack the release again or delete these files.")
    if not len(image_ids):
        raise ReleaseError(f"{folder} has no pair images/N.jpg and annotations/N.json: unpack the release again.")
    return [
        _Shard(folder, *(column[start : start + _PAIRS_PER_SHARD] for column in (image_ids, annotations, images)))
        for start in range(0, len(image_ids), _PAIRS_PER_SHARD)
    ]


def _numbered_files(folder: str, extensions: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """All N, ascending, and the file names, of the files called N.extension; anything else there is a stray."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if _is_numbered(entry.name, extensions)]
    ids = np.array([int(name.partition(".")[0]) for name in names], np.int64)
    order = np.argsort(ids)
    ids, names = ids[order], np.array(names, "S")[order]
    if (twice := np.flatnonzero(ids[1:] == ids[:-1])).size:
        first = names[twice[0] : twice[0] + 2].astype(str)
        raise ReleaseError(f"{folder} has two files for one number, {_listed(first.tolist())}: delete one of them.")
    return ids, names


def _is_numbered(name: str, extensions: tuple[str, ...]) -> bool:
    number, _, extension = name.partition(".")
    return number.isdigit() and number.isascii() and len(number) < 19 and extension.lower() in extensions


# ---------------------------------------------------------------------------------------------------------------
# What one annotation says

_RACE_KEYS = tuple(name.replace("_", " ") for name in ETHNICITIES)  # "middle eastern" in the release
_NUMBER_TYPES = frozenset((int, float))  # a JSON true is neither, though Python counts bool as an int
_FLOAT32_MAX = 3.4e38
# "=" and not the default, which turns a number too large for float32 into infinity instead of refusing it.
_FLOATS = {count: struct.Struct(f"={count}f") for count in (2, 3, 6, 8, 58, 136)}

# The numbers of one row. A row is packed as bytes while it is checked, and a shard is then one array, so no Python
# number lives on. What a row lacks is NaN here, and null in the table.
_NUMBERS = np.dtype(
    [
        ("soft_label", "f4", 8),
        ("age", "f4"),
        ("valence", "f4"),
        ("arousal", "f4"),
        ("gender", "f4", len(GENDERS)),
        ("ethnicity", "f4", len(ETHNICITIES)),
        ("head_pose", "f4", len(ANGLES)),
        ("landmarks_68", "f4", (68, 2)),
        ("landmarks_29", "f4", (29, 2)),
    ]
)


class _Damage(Exception):
    """What is wrong with one annotation, in words that follow the file's name."""


def _annotation(content: bytes) -> dict:
    try:
        try:
            annotation = orjson.loads(content)  # in a third of json's time
        except ValueError:
            # json also takes a byte order mark, and NaN, which the checks below then name by its key.
            annotation = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _Damage(f"does not parse as JSON ({error})" if content else "is empty") from None
    if type(annotation) is not dict:
        raise _Damage(f"holds {_shown(annotation)}, not an object with the annotation's keys")
    return annotation


def _human_label(annotation: dict) -> int:
    return _choice(_get(annotation, "human-label", True), "human-label", len(CATEGORIES))


def _numbers(annotation: dict, complete: bool) -> bytes:
    """The bytes of one `_NUMBERS`. `complete`: all metadata must be there; a non-face may lack any of it."""
    soft_label = _get(annotation, "soft-label", True)
    packed = _packed_list(soft_label, len(EXPRESSIONS), "soft-label")
    if not 0 <= min(soft_label) <= max(soft_label) <= 1:
        raise _Damage(f'has a value outside [0, 1] in "soft-label": {_shown(soft_label)}')
    meta = _get(annotation, "meta-data", complete)
    if type(meta) is not dict and (complete or meta is not None):
        raise _Damage(f'has {_shown(meta)} as "meta-data", not an object')
    meta = meta or {}

    # A value that the release gives as null is unknown. A key that is not there is damage.
    age, valence, arousal = (_get(meta, key, complete) for key in ("age", "valence", "arousal"))
    packed += _FLOATS[3].pack(
        _number(age, "age"),
        _number(None if valence == -2 else valence, "valence"),
        _number(None if arousal == -2 else arousal, "arousal"),
    )
    if age is not None and (age % 1 or abs(age) > 999):
        raise _Damage(f'has {age} as "age", not whole years')
    for key, names in (("gender", GENDERS), ("race", _RACE_KEYS), ("pose", ANGLES)):
        scores = _get(meta, key, complete)
        packed += _nothing(len(names)) if scores is None else _packed_scores(scores, key, names)
    landmarks = _get(meta, "landmark-68", complete)
    packed += _nothing(136) if landmarks is None else _packed_list(landmarks, 136, "landmark-68")
    # Nobody has described "landmark-29": only the layout that "landmark-68" has is taken, any other is left out
    # rather than guessed at.
    return packed + (_packed(meta.get("landmark-29"), 58) or _nothing(58))


def _get(values: dict, key: str, required: bool):
    if required and key not in values:
        raise _Damage(f'lacks the key "{key}"')
    return values.get(key)


def _choice(value, key: str, count: int) -> int:
    if type(value) in _NUMBER_TYPES and value in range(count):
        return int(value)
    raise _Damage(f'has {_shown(value)} as "{key}", not a whole number from 0 to {count - 1}')


def _number(value, key: str) -> float:
    if value is None:
        return math.nan
    if type(value) in _NUMBER_TYPES and -_FLOAT32_MAX < value < _FLOAT32_MAX:
        return value
    raise _Damage(f'has {_shown(value)} as "{key}", not a finite number')


def _packed(values, count: int) -> bytes | None:
    """`count` finite numbers as float32, or None where `values` are not that."""
    try:
        if type(values) is list and _NUMBER_TYPES.issuperset(map(type, values)) and math.isfinite(sum(values)):
            return _FLOATS[count].pack(*values)
    except (struct.error, OverflowError):  # another length; a number too large for float32
        pass
    return None


def _packed_list(values, count: int, key: str) -> bytes:
    if packed := _packed(values, count):
        return packed
    raise _Damage(f'has {_shown(values)} as "{key}", not a list of {count} finite numbers')


def _packed_scores(scores, key: str, names: tuple[str, ...]) -> bytes:
    if type(scores) is not dict:
        raise _Damage(f'has {_shown(scores)} as "{key}", not an object with the keys {_listed(names)}')
    if packed := _packed([scores.get(name) for name in names], len(names)):
        return packed
    raise _Damage(f'has {_shown(scores)} as "{key}", not one finite number for each of {_listed(names)}')


@functools.cache
def _nothing(count: int) -> bytes:
    return _FLOATS[count].pack(*[math.nan] * count)


def _shown(value) -> str:
    shown = json.dumps(value)
    shown = shown if len(shown) <= 60 else shown[:60] + "..."
    return f"a list of {len(value)}, {shown}" if type(value) is list else shown


# ---------------------------------------------------------------------------------------------------------------
# From a shard to an Arrow table

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG"
_READ_BYTES = os.O_RDONLY | getattr(os, "O_BINARY", 0)  # Windows needs to be told


def _read(path: str, size: int | None = None) -> bytes:
    # Not `open`: its file objects take a tenth of all the time, and `datasets` replaces the name in this module by
    # a slower one that also takes URLs.
    try:
        descriptor = os.open(path, _READ_BYTES)
        try:
            return os.read(descriptor, size or os.fstat(descriptor).st_size)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _Damage(f"cannot be read ({error.strerror})") from None


def _read_shard(shard: _Shard, config_name: str) -> dict[str, list]:
    """The rows of a shard that the configuration keeps: lists of image_id, image (path), label, subset, numbers."""
    rows = {"image_id": [], "image": [], "label": [], "subset": [], "numbers": []}
    images, annotations = (os.path.join(shard.folder, part, "") for part in ("images", "annotations"))
    for image_id, annotation_name, image_name in zip(*(column.tolist() for column in shard[1:]), strict=True):
        path = annotations + annotation_name.decode()
        try:
            annotation = _annotation(_read(path))
            label = None if config_name == "no_human_annotated" else _human_label(annotation)
            has_expression = label is not None and label < len(EXPRESSIONS)
            if not has_expression and config_name not in ("no_human_annotated", "human_annotated_all"):
                continue
            # The rank of the human label among the soft label's scores: without an expression there is none.
            subset = _choice(_get(annotation, "subset", True), "subset", len(SUBSETS)) if has_expression else None
            if config_name in SUBSETS and SUBSETS[subset] != config_name:
                continue
            numbers = _numbers(annotation, complete=has_expression or label is None)
            path = images + image_name.decode()
            if not (head := _read(path, 4)).startswith((_JPEG, _PNG)):
                raise _Damage(f"is no JPEG or PNG image (it starts with {head!r})" if head else "is empty")
        except _Damage as damage:
            raise ReleaseError(
                f"{path} {damage}: unpack the release again or delete this pair (image and annotation)."
            ) from None
        for column, value in zip(rows.values(), (image_id, path, label, subset, numbers), strict=True):
            column.append(value)
    return rows


def _table(rows: dict[str, list], features: datasets.Features) -> pa.Table:
    numbers = np.frombuffer(b"".join(rows["numbers"]), _NUMBERS)
    columns = {
        "image": features["image"].cast_storage(pa.array(rows["image"], pa.string())),
        "image_id": pa.array(rows["image_id"], pa.int64()),
        "label": pa.array(rows["label"], pa.int64()),
        "subset": pa.array(rows["subset"], pa.int64()),
        "soft_label": pa.FixedSizeListArray.from_arrays(numbers["soft_label"].reshape(-1), len(EXPRESSIONS)),
        "age": pa.array(numbers["age"], from_pandas=True).cast(pa.int32()),
        "valence": pa.array(numbers["valence"], from_pandas=True),
        "arousal": pa.array(numbers["arousal"], from_pandas=True),
        "gender": _structs(numbers["gender"], GENDERS),
        "ethnicity": _structs(numbers["ethnicity"], ETHNICITIES),
        "head_pose": _structs(numbers["head_pose"], ANGLES),
        "landmarks_68": _points(numbers["landmarks_68"], features["landmarks_68"]),
        "landmarks_29": _points(numbers["landmarks_29"], features["landmarks_29"]),
    }
    return pa.table([columns[name] for name in features], schema=features.arrow_schema)


def _structs(values: np.ndarray, names: tuple[str, ...]) -> pa.Array:  # (rows, n)
    fields = [pa.array(column) for column in values.T]
    return pa.StructArray.from_arrays(fields, list(names), mask=pa.array(np.isnan(values[:, 0])))


def _points(values: np.ndarray, feature: datasets.Array2D) -> pa.Array:  # (rows, n, 2)
    missing = np.isnan(values[:, 0, 0])
    values = values[~missing]
    points = pa.ListArray.from_arrays(np.arange(values.size // 2 + 1, dtype=np.int32) * 2, values.reshape(-1))
    ends = np.cumsum(~missing, dtype=np.int32) * feature.shape[0]
    faces = pa.ListArray.from_arrays(np.insert(ends, 0, 0), points, mask=pa.array(missing))
    return pa.ExtensionArray.from_storage(feature(), faces)


# ---------------------------------------------------------------------------------------------------------------
# The dataset

_DESCRIPTION = """\
AffectNet+: face crops in the wild, each with a soft label: eight independent confidences that say how far each \
expression is present at once. They do not sum to one. Rows also have a human label, a difficulty subset, age, \
gender, ethnicity, head pose, facial landmarks, valence and arousal."""

_CITATION = """\
@article{fard2025affectnetplus,
  title   = {AffectNet+: A Database for Enhancing Facial Expression Recognition with Soft-Labels},
  author  = {Fard, Ali Pourramezan and Hosseini, Mohammad Mehdi and Sweeny, Timothy D. and Mahoor, Mohammad H.},
  journal = {IEEE Transactions on Affective Computing},
  year    = {2025},
  url     = {https://arxiv.org/abs/2410.22506}
}"""

_LICENSE = """\
The images and annotations are for research only, and the AffectNet team grants access on a signed agreement \
(see the homepage). They are read from your own copy; this package ships none of them, and its own licence does not \
extend to them."""


def features(categories: tuple[str, ...] = EXPRESSIONS) -> datasets.Features:
    """The columns of every configuration. What a row lacks is null.

    - `image`: the face crop, 224 x 224 in the release. The table holds its path, never its bytes.
    - `image_id`: N of images/N.jpg. It repeats across splits: a row is known by (split, image_id).
    - `label`: the human label. Null without human annotation.
    - `soft_label`: (8,) in the order of `EXPRESSIONS`, each in [0, 1] and independent: they do not sum to one.
    - `subset`: the rank of the human label among the soft label's scores (1 easy, 2-3 challenging, 4-8 difficult).
    - `age`: whole years. `gender`, `ethnicity`: a score in [0, 1] per class that sums to about one.
    - `head_pose`: the released numbers, seen in [-0.45, 0.39]. Their unit is not documented; they are not degrees.
    - `landmarks_68`, `landmarks_29`: (68, 2) and (29, 2) of (x, y), pixels of the crop; some lie outside it.
      The 29 are null unless the file has 58 plain numbers, as their layout is not documented.
    - `valence`, `arousal`: [-1, 1]. The release's -2 means not available and is null here.

    Array2D gives whole batches of landmarks as one array, 100 times as fast as nested lists do.
    """
    score = datasets.Value("float32")
    return datasets.Features(
        {
            "image": datasets.Image(),
            "image_id": datasets.Value("int64"),
            "label": datasets.ClassLabel(names=list(categories)),
            "soft_label": datasets.List(score, length=len(EXPRESSIONS)),
            "subset": datasets.ClassLabel(names=list(SUBSETS)),
            "age": datasets.Value("int32"),
            "gender": dict.fromkeys(GENDERS, score),
            "ethnicity": dict.fromkeys(ETHNICITIES, score),
            "head_pose": dict.fromkeys(ANGLES, score),
            "landmarks_68": datasets.Array2D((68, 2), "float32"),
            "landmarks_29": datasets.Array2D((29, 2), "float32"),
            "valence": score,
            "arousal": score,
        }
    )


@dataclass
class AffectNetPlusConfig(datasets.BuilderConfig):
    """`data_dir` is the release itself, as `find_release` gives it."""

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        # The key of the cache. A folder's times change whenever a file is added, removed or renamed in it, so
        # four stats see what would otherwise take a stat of every file. ctime besides mtime, because unpacking a
        # further part of the release sets mtime back to what the archive says.
        # A file overwritten in place is not seen: pass download_mode="force_redownload" then.
        state = []
        for folder in _split_folders(self.data_dir, self.name).values():
            for part in ("images", "annotations"):
                status = os.stat(os.path.join(folder, part))
                state += [folder, status.st_mtime_ns, status.st_ctime_ns]
        return super().create_config_id({**config_kwargs, "state": str(state)}, custom_features)


class AffectNetPlus(datasets.ArrowBasedBuilder):
    """Reads a release from disk; one Arrow table per shard of pairs, so memory does not grow with the release."""

    BUILDER_CONFIG_CLASS = AffectNetPlusConfig
    BUILDER_CONFIGS = [
        AffectNetPlusConfig(name="human_annotated", description="Rows with one of the eight expressions."),
        *(AffectNetPlusConfig(name=name, description=f"Rows of the subset {name!r}.") for name in SUBSETS),
        AffectNetPlusConfig(name="human_annotated_all", description="Also rows labelled none, uncertain, non-face."),
        AffectNetPlusConfig(name="no_human_annotated", description="Rows that no human has labelled."),
    ]
    DEFAULT_CONFIG_NAME = "human_annotated"
    # Rows per record batch in the cache. The default for images, 100, is meant for embedded bytes.
    DEFAULT_WRITER_BATCH_SIZE = _PAIRS_PER_SHARD

    def __init__(self, *args, data_dir: str | os.PathLike | None = None, **kwargs):
        # Here, so that a wrong data_dir is an error before anything else happens, and the cache knows the folder.
        super().__init__(*args, data_dir=find_release(data_dir), **kwargs)

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description=f"{_DESCRIPTION}\n{self.config.description}",
            citation=_CITATION,
            homepage="http://mohammadmahoor.com/pages/databases/affectnet/",
            license=_LICENSE,
            features=features(CATEGORIES if self.config.name == "human_annotated_all" else EXPRESSIONS),
        )

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        folders = _split_folders(self.config.data_dir, self.config.name)
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"shards": _shards(folder)})
            for split, folder in folders.items()
        ]

    def _generate_tables(self, shards: list[_Shard]):
        own_features = self._info().features
        for index, shard in enumerate(shards):
            rows = _read_shard(shard, self.config.name)
            if rows["image_id"]:
                # A cast only where the user passed `features` to load_dataset.
                yield Key(index, 0), table_cast(_table(rows, own_features), self.info.features.arrow_schema)

    def _as_dataset(self, split, in_memory: bool = False) -> datasets.Dataset:
        # `datasets` refuses a split without rows, but a small release may lack, say, difficult validation faces.
        if (info := self.info.splits.get(str(split))) and not info.num_examples:
            return datasets.Dataset(self.info.features.arrow_schema.empty_table(), info=self.info, split=split)
        return super()._as_dataset(split, in_memory)


# ---------------------------------------------------------------------------------------------------------------
# load_dataset("affectnet_plus")


def _register() -> None:
    """Makes `datasets` find the builder by its bare name, from any working directory.

    `datasets` 5 has no loading scripts and no public registry. Every way in (`load_dataset`,
    `load_dataset_builder`, `get_dataset_config_names` ...) asks `dataset_module_factory` which module serves a name,
    so that one function is wrapped, once, wherever it is held. Every other name passes through untouched.
    """
    factory = datasets.load.dataset_module_factory
    if getattr(factory, "knows_affectnet_plus", False):
        return

    @functools.wraps(factory)
    def dataset_module_factory(path, revision=None, *args, **kwargs):
        if path != "affectnet_plus":
            return factory(path, revision, *args, **kwargs)
        if revision is not None or kwargs.get("data_files") is not None:
            raise ReleaseError("affectnet_plus reads a folder: name it by data_dir, without revision or data_files.")
        return DatasetModule(__name__, _SOURCE_HASH, builder_kwargs={})

    dataset_module_factory.knows_affectnet_plus = True
    for module in (datasets.load, datasets.inspect):
        module.dataset_module_factory = dataset_module_factory


# Part of the cache's path: what another version of this file has read is not what this one would read.
with io.FileIO(__file__) as _source:
    _SOURCE_HASH = hashlib.sha256(_source.read()).hexdigest()[:16]
_register()


# ---------------------------------------------------------------------------------------------------------------
# The command line


def main(argv: list[str] | None = None) -> None:
    """The command `affectnet-plus`. Exit status 2, and one line, where the input is wrong."""
    parser = argparse.ArgumentParser(prog="affectnet-plus", description="Work with AffectNet+ releases.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_synthesize(commands)
    args = vars(parser.parse_args(argv))
    try:
        args.pop("run")(**args)
    except (ValueError, OSError) as error:
        parser.exit(2, f"affectnet-plus: error: {error}\n")


def _add_synthesize(commands) -> None:
    command = commands.add_parser(
        "synthesize",
        help="write a licence-free release to try everything on",
        description="Write a licence-free release of drawn faces, in the layout of AffectNet+ and with the truth "
        "beside it (ROOT/ground_truth.parquet). Same seed, same bytes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.add_argument("root", metavar="ROOT", help="the release folder to write")
    command.add_argument("--train", metavar="N", type=int, default=2000, help="pairs in the training set")
    command.add_argument("--validation", metavar="M", type=int, default=400, help="pairs in the validation set")
    command.add_argument("--unannotated", metavar="K", type=int, default=0, help="pairs without human annotation")
    command.add_argument("--seed", metavar="S", type=int, default=0, help="another seed, other faces")
    command.add_argument("--num_proc", metavar="P", type=int, default=os.cpu_count(), help="processes")
    command.add_argument("--image_size", metavar="PIXELS", type=int, default=224, help="width and height of a crop")
    command.set_defaults(run=_synthesize)


def _synthesize(root: str, **options) -> None:
    from synthetic import synthesize  # here, because drawing needs libraries that reading does not

    synthesize(root, **options)
