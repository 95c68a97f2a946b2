"""One shard of a release, looked at more closely than loading does: values against their ranges and the rank rule."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from . import rows
from .affectnet_2017 import CsvShard
from .expressions import EXPRESSIONS, SUBSETS
from .ferplus import VoteShard
from .find import LAYOUTS
from .findings import ODD_VALUE, RANK_RULE, ROW_NAMES, Problem
from .rows import NUMBERS, Damage, Shard

_RANGES: dict[str, tuple[float, float]] = {
    "valence": (-1, 1),
    "arousal": (-1, 1),
    "age": (0, 120),
    "gender": (0, 1),
    "ethnicity": (0, 1),
}
_SUMS: dict[str, tuple[float, float]] = {"gender": (0.9, 1.1), "ethnicity": (0.9, 1.1)}
_ROUNDING = 1e-5  # of float32
_MOST_OVERSHOOT = 0.25  # of a landmark, in widths or heights of the picture: real ones do overshoot a little
# The columns that the releases call by another name, and the one release that has a file for each.
_KEYS = {"ethnicity": "race", "landmarks_68": "landmark-68"}
_COLUMNS_2017 = {"landmarks_68": "facial_landmarks"}
_ENDINGS_2021 = {"valence": "_val.npy", "arousal": "_aro.npy", "landmarks_68": "_lnd.npy"}


class CheckedRows(NamedTuple):
    """What one shard holds; the arrays are of its n sound rows."""

    labels: Counter
    subsets: Counter
    image_ids: np.ndarray  # (n,)
    digests: np.ndarray  # (n, 2) uint64
    bad: np.ndarray  # (n,) bool: there is a problem, though it loads
    broken: int  # rows that do not load
    sizes: Counter
    problems: list[Problem]


def check_rows(job: tuple) -> CheckedRows:
    """Reads the shard of a job (split, shard, config) and looks at each of its rows."""
    split, shard, config = job
    image_ids, labels, subsets, packed, digests, sizes, problems = [], [], [], [], [], [], []
    for row in LAYOUTS[config.name].rows(shard, config):
        try:
            if isinstance(row, Damage):
                raise row
            image_id, image, label, subset, numbers, *_ = row
            if isinstance(image, str):
                content, path = rows.read(image, "unreadable image"), image
            else:
                content, path = image["bytes"], image["path"]
            sizes.append(rows.decode_image(content, path).size)
        except Damage as damage:
            problems.append(Problem(damage.kind, split, damage.path, damage.what))
            continue
        digests.append(hashlib.blake2b(content, digest_size=16).digest())
        image_ids.append(image_id)
        labels.append(-1 if label is None else label)
        subsets.append(-1 if subset is None else subset)
        packed.append(numbers)
    count, broken = len(image_ids), len(problems)
    bad = np.zeros(count, bool)
    if count:
        numbers = np.frombuffer(b"".join(packed), NUMBERS)
        odd = [*_odd_values(shard, numbers, np.array(sizes)), *_rank_rule(numbers, np.array(labels), np.array(subsets))]
        for index, kind, column, what in sorted(odd, key=lambda found: found[0]):
            bad[index] = True
            problems.append(Problem(kind, split, _annotation_path(shard, image_ids[index], column), what))
    return CheckedRows(
        Counter(ROW_NAMES[label] for label in labels),
        Counter(SUBSETS[subset] for subset in subsets if subset >= 0),
        np.array(image_ids, np.int64),
        np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2),
        bad,
        broken,
        Counter(sizes),
        problems,
    )


def _odd_values(shard, numbers: np.ndarray, sizes: np.ndarray) -> Iterator[tuple[int, str, str, str]]:
    """(row, kind, column, words) for each released number that no face has; sizes: (n, 2). NaN is never odd."""

    def key(column: str) -> str:
        return (_COLUMNS_2017 if isinstance(shard, CsvShard) else _KEYS).get(column, column)

    for column, (least, most) in _RANGES.items():
        values = numbers[column].reshape(len(numbers), -1)
        odd = (values < least) | (values > most)
        for index in np.flatnonzero(odd.any(axis=1)).tolist():
            value = values[index][odd[index]][0]
            yield index, ODD_VALUE, column, f'has {value:.6g} in "{key(column)}", outside [{least}, {most}]'
    for column, (least, most) in _SUMS.items():
        sums = numbers[column].sum(axis=1, dtype=float)
        for index in np.flatnonzero((sums < least - _ROUNDING) | (sums > most + _ROUNDING)).tolist():
            what = f'has scores in "{key(column)}" that sum to {sums[index]:.3g}, not to about 1'
            yield index, ODD_VALUE, column, what
    points, sizes = numbers["landmarks_68"], sizes[:, None]  # (n, 68, 2), (n, 1, 2)
    overshoot = (np.maximum(-points, points - sizes) / sizes).max(axis=2)
    for index in np.flatnonzero((overshoot > _MOST_OVERSHOOT).any(axis=1)).tolist():
        count, (x, y) = (overshoot[index] > _MOST_OVERSHOOT).sum(), points[index, overshoot[index].argmax()]
        width, height = sizes[index, 0]
        what = f'has {count} of the 68 points of "{key("landmarks_68")}" far outside the picture of {width} x {height}'
        yield index, ODD_VALUE, "landmarks_68", f"{what} pixels, one at ({x:.6g}, {y:.6g})"


def _rank_rule(numbers: np.ndarray, labels: np.ndarray, subsets: np.ndarray) -> Iterator[tuple[int, str, str, str]]:
    """The subset is the rank of the label's score in the soft label; with equal scores it may be either rank."""
    ranked = np.flatnonzero(subsets >= 0)
    scores = numbers["soft_label"][ranked]
    of_label = np.take_along_axis(scores, labels[ranked, None], axis=1)
    best = 1 + (scores > of_label).sum(axis=1)
    worst = best - 1 + (scores == of_label).sum(axis=1)
    low, high = np.digitize((best, worst), (2, 4))  # rank 1, 2-3, 4-8
    for place in np.flatnonzero((subsets[ranked] < low) | (subsets[ranked] > high)):
        index, rank = ranked[place], f"{best[place]}" + (f" to {worst[place]}" if worst[place] > best[place] else "")
        label, subset = EXPRESSIONS[labels[index]], SUBSETS[subsets[index]]
        allowed = " or ".join(SUBSETS[low[place] : high[place] + 1])
        what = f'is {subset} by "subset", but its label {label} has rank {rank} in "soft-label", which is {allowed}'
        yield index, RANK_RULE, "subset", what


def _annotation_path(shard, image_id: int, column: str) -> str:
    if isinstance(shard, CsvShard):
        return f"{shard.path}, row {image_id}"
    if isinstance(shard, VoteShard):
        return f"{shard.votes_path}, row {image_id}"
    name = _name_of(shard, shard.annotations, image_id)
    if name.endswith(".npy"):
        name = name.rpartition("_")[0] + _ENDINGS_2021[column]
    return os.path.join(shard.folder, "annotations", name)


def image_path(shard, image_id: int) -> str:
    """Where the image of a row lies, in words: a file, or a row of one."""
    if isinstance(shard, CsvShard):
        return f"{shard.path}, row {image_id}"
    if isinstance(shard, VoteShard):
        name = shard.lines[shard.numbers.index(image_id)][1].strip()
        return os.path.join(shard.folder, name) if shard.folder else f"{shard.pixels_path}, row {image_id}"
    return os.path.join(shard.folder, "images", _name_of(shard, shard.images, image_id))


def _name_of(shard: Shard, names: np.ndarray, image_id: int) -> str:
    return names[np.searchsorted(shard.image_ids, image_id)].decode()
