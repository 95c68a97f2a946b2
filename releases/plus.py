"""The AffectNet+ release: human_annotated/{train_set,validation_set} and no_human_annotated, one JSON per image."""

import json
import math
import operator
import os
import struct
from collections.abc import Iterator

import orjson

from . import tree
from .about import AFFECTNET_PLUS
from .expressions import ANGLES, CATEGORIES, ETHNICITIES, EXPRESSIONS, GENDERS, SUBSETS, listed
from .files import shortened
from .rows import FLOATS, Damage, Shard, attempts, image_of, nothing, pair_shards, pair_times, read

TITLE = "AffectNet+"
NAME = "AffectNet+"
ABOUT = AFFECTNET_PLUS
SPLITS = {"train": (414_799, 287_651), "validation": (5_500, 3_999), "no_human_annotated": (539_607, None)}
MARKS = ("human_annotated/", "no_human_annotated/")  # a folder that holds one of them is this release
_HUMAN_ANNOTATED = {"train": "human_annotated/train_set", "validation": "human_annotated/validation_set"}
_NO_HUMAN_ANNOTATED = {"train": "no_human_annotated"}


def folders(release: str, config_name: str) -> dict[str, str]:
    """{split: folder with images/ and annotations/} of what lies on disk; somebody may hold validation only."""
    looked_for = _NO_HUMAN_ANNOTATED if config_name == "no_human_annotated" else _HUMAN_ANNOTATED
    found = {split: os.path.join(release, *path.split("/")) for split, path in looked_for.items()}
    found = {split: folder for split, folder in found.items() if tree.is_folder(folder)}
    if not found:
        raise tree.lacking(
            release,
            f'{release} has nothing for "{config_name}": looked for {listed(looked_for.values())}, '
            f"found {listed(sorted(name for name, _ in tree.entries(release)))}.",
        )
    return found


def shards(release: str, config) -> dict[str, tuple[list[Shard], list[Damage]]]:
    return {split: pair_shards(folder, (".json",)) for split, folder in folders(release, config.name).items()}


def times(release: str, config) -> list:
    return [pair_times(folder, config.on_error) for folder in folders(release, config.name).values()]


def rows(shard: Shard, config) -> Iterator[tuple | Damage]:
    """The rows of a shard that the configuration keeps, and what is wrong with the others."""
    images, annotations = (os.path.join(shard.folder, part, "") for part in ("images", "annotations"))
    name, archived = config.name, tree.is_archived(shard.folder)

    def read_row(image_id: int, annotation_name: bytes, image_name: bytes) -> tuple | None:
        path = annotations + annotation_name.decode()
        try:
            annotation = _annotation(read(path))
            label = None if name == "no_human_annotated" else _human_label(annotation)
            has_expression = label is not None and label < len(EXPRESSIONS)
            if not has_expression and name not in ("no_human_annotated", "human_annotated_all"):
                return None
            # The rank of the human label among the soft label's scores: without an expression there is none.
            subset = _choice(_get(annotation, "subset", True), "subset", len(SUBSETS)) if has_expression else None
            if name in SUBSETS and subset != SUBSETS.index(name):
                return None
            numbers = _numbers(annotation, complete=has_expression or label is None)
        except Damage as damage:
            damage.path = path
            raise
        return image_id, image_of(images + image_name.decode(), archived), label, subset, numbers

    columns = (shard.image_ids, shard.annotations, shard.images)
    return attempts(read_row, zip(*(column.tolist() for column in columns), strict=True))


# ---------------------------------------------------------------------------------------------------------------
# What one annotation says

_RACE_KEYS = tuple(name.replace("_", " ") for name in ETHNICITIES)  # "middle eastern" in the release
NUMBER_TYPES = frozenset((int, float))  # a JSON true is neither, though Python counts bool as an int
_FLOAT32_MAX = 3.4e38
_FIRST_KEYS = operator.itemgetter("age", "valence", "arousal", "landmark-68")
_GENDER, _RACE, _POSE = (operator.itemgetter(*keys) for keys in (GENDERS, _RACE_KEYS, ANGLES))


def _annotation(content: bytes) -> dict:
    try:
        try:
            annotation = orjson.loads(content)  # in a third of json's time
        except ValueError:
            # json also takes a byte order mark, and NaN, which the checks below then name by its key.
            annotation = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Damage(f"does not parse as JSON ({shortened(str(error))})" if content else "is empty") from None
    if type(annotation) is not dict:
        raise Damage(f"holds {_shown(annotation)}, not an object with the annotation's keys")
    return annotation


def _human_label(annotation: dict) -> int:
    return _choice(_get(annotation, "human-label", True), "human-label", len(CATEGORIES))


def _numbers(annotation: dict, complete: bool) -> bytes:
    """The bytes of one `NUMBERS`. `complete`: all metadata must be there; a non-face may lack any of it."""
    return _all_numbers(annotation) or _numbers_by_key(annotation, complete)


def _all_numbers(annotation: dict) -> bytes | None:
    """All at once where nothing is missing or wrong, as nearly always: half the time of looking at each key."""
    try:
        soft_label, meta = annotation["soft-label"], annotation["meta-data"]
        age, valence, arousal, landmarks = _FIRST_KEYS(meta)
        if len(soft_label) != len(EXPRESSIONS) or len(landmarks) != 136 or -2 in (valence, arousal):
            return None
        scores = *_GENDER(meta["gender"]), *_RACE(meta["race"]), *_POSE(meta["pose"])
        values = [*soft_label, age, valence, arousal, *scores, *landmarks]
        if not (NUMBER_TYPES.issuperset(map(type, values)) and math.isfinite(sum(values))):
            return None
        if min(soft_label) < 0 or max(soft_label) > 1 or age % 1 or abs(age) > 999:
            return None
        packed = FLOATS[158].pack(*values)
    except (KeyError, TypeError, OverflowError, struct.error):
        return None
    return packed + (_packed(meta.get("landmark-29"), 58) or nothing(58))


def _numbers_by_key(annotation: dict, complete: bool) -> bytes:
    """The same for anything else, with the words for what is wrong."""
    soft_label = _get(annotation, "soft-label", True)
    packed = _packed_list(soft_label, len(EXPRESSIONS), "soft-label")
    if not 0 <= min(soft_label) <= max(soft_label) <= 1:
        raise Damage(f'has a value outside [0, 1] in "soft-label": {_shown(soft_label)}', "value out of range")
    meta = _get(annotation, "meta-data", complete)
    if type(meta) is not dict and (complete or meta is not None):
        raise Damage(f'has {_shown(meta)} as "meta-data", not an object')
    meta = meta or {}

    # A value that the release gives as null is unknown. A key that is not there is damage.
    age, valence, arousal = (_get(meta, key, complete) for key in ("age", "valence", "arousal"))
    packed += FLOATS[3].pack(
        _number(age, "age"),
        _number(None if valence == -2 else valence, "valence"),
        _number(None if arousal == -2 else arousal, "arousal"),
    )
    if age is not None and (age % 1 or abs(age) > 999):
        raise Damage(f'has {age} as "age", not whole years', "value out of range")
    for key, names in (("gender", GENDERS), ("race", _RACE_KEYS), ("pose", ANGLES)):
        scores = _get(meta, key, complete)
        packed += nothing(len(names)) if scores is None else _packed_scores(scores, key, names)
    landmarks = _get(meta, "landmark-68", complete)
    packed += nothing(136) if landmarks is None else _packed_list(landmarks, 136, "landmark-68")
    # Nobody has described "landmark-29": only the layout that "landmark-68" has is taken, any other is left out
    # rather than guessed at.
    return packed + (_packed(meta.get("landmark-29"), 58) or nothing(58))


def _get(values: dict, key: str, required: bool):
    if required and key not in values:
        raise Damage(f'lacks the key "{key}"')
    return values.get(key)


def _choice(value, key: str, count: int) -> int:
    if type(value) in NUMBER_TYPES and value in range(count):
        return int(value)
    raise Damage(f'has {_shown(value)} as "{key}", not a whole number from 0 to {count - 1}', "value out of range")


def _number(value, key: str) -> float:
    if value is None:
        return math.nan
    if type(value) in NUMBER_TYPES and -_FLOAT32_MAX < value < _FLOAT32_MAX:
        return value
    raise Damage(f'has {_shown(value)} as "{key}", not a finite number')


def _packed(values, count: int) -> bytes | None:
    """`count` finite numbers as float32, or None where `values` are not that."""
    try:
        if type(values) is list and NUMBER_TYPES.issuperset(map(type, values)) and math.isfinite(sum(values)):
            return FLOATS[count].pack(*values)
    except (struct.error, OverflowError):  # another length; a number too large for float32
        pass
    return None


def _packed_list(values, count: int, key: str) -> bytes:
    if packed := _packed(values, count):
        return packed
    raise Damage(f'has {_shown(values)} as "{key}", not a list of {count} finite numbers')


def _packed_scores(scores, key: str, names: tuple[str, ...]) -> bytes:
    if type(scores) is not dict:
        raise Damage(f'has {_shown(scores)} as "{key}", not an object with the keys {listed(names, 3)}')
    if packed := _packed([scores.get(name) for name in names], len(names)):
        return packed
    raise Damage(f'has {_shown(scores)} as "{key}", not one finite number for each of {listed(names, 3)}')


def _shown(value) -> str:
    try:
        shown = json.dumps(value)
    except RecursionError:
        shown = "values nested too deep to be shown"
    shown = shown if len(shown) <= 40 else shown[:37] + "..."
    return f"a list of {len(value)}, {shown}" if type(value) is list else shown
