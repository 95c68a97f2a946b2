"""`affectnet-plus check`: is this copy of a release whole?

Every row is read as loading reads it, and then looked at more closely: images are decoded in full and compared between
splits, values are held against their ranges, subsets against the rank rule.
"""

import copy
import hashlib
import json
import os
import tempfile
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import IO, NamedTuple

import numpy as np
from tqdm import tqdm

from . import affectnet_2017, affectnet_2021, ferplus, plus, rows
from .affectnet_2017 import CsvShard
from .builder import AffectNetPlus
from .expressions import CATEGORIES, EXPRESSIONS, SUBSETS
from .ferplus import VoteShard
from .processes import mapped
from .releases import LAYOUTS, recognise
from .rows import NUMBERS, Damage, Shard

_ODD_VALUE, _RANK_RULE, _DUPLICATE = "value out of range", "rank-rule violation", "duplicate"
# In the order of the page.
KINDS = (*rows.KINDS, _RANK_RULE, _DUPLICATE)
# What another download does not change, and what an interrupted download or unpacking leaves behind.
_IN_THE_DATA = {_ODD_VALUE: "values out of range", _RANK_RULE: "rank-rule violations", _DUPLICATE: "duplicates"}
CURED_BY_DOWNLOAD = tuple(kind for kind in KINDS if kind not in _IN_THE_DATA)

_RANGES = {"valence": (-1, 1), "arousal": (-1, 1), "age": (0, 120), "gender": (0, 1), "ethnicity": (0, 1)}
_SUMS = {"gender": (0.9, 1.1), "ethnicity": (0.9, 1.1)}
_ROUNDING = 1e-5  # of float32
_MOST_OVERSHOOT = 0.25  # of a landmark, in widths or heights of the picture: real ones do overshoot a little
# The columns that the releases call by another name, and the one release that has a file for each.
_KEYS = {"ethnicity": "race", "landmarks_68": "landmark-68"}
_COLUMNS_2017 = {"landmarks_68": "facial_landmarks"}
_ENDINGS_2021 = {"valence": "_val.npy", "arousal": "_aro.npy", "landmarks_68": "_lnd.npy"}

_ALL_SPLITS = {
    plus: ("train", "validation", "no_human_annotated"),
    affectnet_2021: ("train", "validation"),
    affectnet_2017: ("train", "validation", "automatically_annotated"),
    ferplus: ("train", "validation", "test"),
}
# Rows as published, and those of them with one of the eight expressions where that is known.
_PUBLISHED = {
    plus: {"train": (414_799, 287_651), "validation": (5_500, 3_999), "no_human_annotated": (539_607, None)},
    affectnet_2021: {"train": (287_651, 287_651), "validation": (3_999, 3_999)},
    affectnet_2017: {"train": (414_799, None), "validation": (5_500, None)},
    ferplus: {"train": (28_709, None), "validation": (3_589, None), "test": (3_589, None)},
}
NO_LABEL = "no label"
_ROW_NAMES = (*CATEGORIES, NO_LABEL)

_WIDTH = 100
_MOST_SHOWN = 5


class Problem(NamedTuple):
    kind: str  # one of `KINDS`
    split: str
    path: str  # a file, or "training.csv, row 12"
    problem: str  # words that follow the path


@dataclass
class Findings:
    """What `check` has found. `counts` and `first` hold the problems by kind, the latter at most 5 of each.

    `num_rows` counts the broken rows too, which `rows` and `subsets` leave out, as loading does. `broken` are those
    problems at which loading stops.
    """

    release: str
    title: str
    layout: str
    rows: dict[str, dict[str, int]] = field(default_factory=dict)  # {split: {expression: n}}
    subsets: dict[str, dict[str, int]] = field(default_factory=dict)
    counts: Counter = field(default_factory=Counter)
    first: dict[str, list[Problem]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    num_rows: int = 0
    num_bad_rows: int = 0
    broken: int = 0

    @property
    def whole(self) -> bool:
        return not self.counts

    def add(self, problem: Problem, all_problems: IO | None) -> None:
        self.counts[problem.kind] += 1
        shown = self.first.setdefault(problem.kind, [])
        if len(shown) < _MOST_SHOWN:
            shown.append(problem)
        if all_problems:
            all_problems.write(json.dumps(problem._asdict()) + "\n")

    def verdict(self) -> str:
        if self.whole:
            return f"Whole: {_counted(self.num_rows, 'row')} in {_counted(len(self.rows), 'split')}, nothing wrong."
        where = f"{self.num_bad_rows:,} of {_counted(self.num_rows, 'row')}"
        said = [f"Not whole: {_counted(self.counts.total(), 'problem')} in {where}."]
        if cured := sum(self.counts[kind] for kind in CURED_BY_DOWNLOAD):
            said.append(f"Missing, unreadable or truncated files ({cured:,}): download their parts again.")
        if kept := sum(self.counts[kind] for kind in _IN_THE_DATA):
            names = ", ".join(name for kind, name in _IN_THE_DATA.items() if self.counts[kind])
            said.append(f"{names.capitalize()} ({kept:,}): in the data, so downloading again does not change them.")
        if self.broken:
            stops = f"Loading stops at {_counted(self.broken, 'broken row')}"
            said.append(f'{stops}; on_error="skip" leaves {"it" if self.broken == 1 else "them"} out.')
        else:
            said.append("Every row can be loaded.")
        return " ".join(said)

    def page(self) -> str:
        lines = [f"{self.title} in {self.release}", ""]
        used = {name for counts in self.rows.values() for name, count in counts.items() if count}
        lines += _table("rows", [n for n in _ROW_NAMES if n in EXPRESSIONS or n in used], self.rows, total=True)
        if any(any(counts.values()) for counts in self.subsets.values()):
            lines += ["", *_table("subsets", SUBSETS, self.subsets)]
        if self.counts:
            lines += ["", "Problems"]
        for kind in (kind for kind in KINDS if self.counts[kind]):
            lines.append(f"  {kind}: {self.counts[kind]:,}")
            for problem in self.first[kind]:
                lines += _wrapped(f"{problem.path} {problem.problem}".replace(self.release + os.sep, ""), "    ")
            if more := self.counts[kind] - len(self.first[kind]):
                lines.append(f"    and {more:,} more (--json FILE lists them all)")
        if self.remarks:
            lines += ["", "Remarks"]
        for remark in self.remarks:
            lines += _wrapped(remark, "  ")
        return "\n".join([*lines, "", *_wrapped(self.verdict(), "", "")])


def check(
    data_dir: str | os.PathLike | None = None, num_proc: int | None = None, json_file: str | os.PathLike | None = None
) -> Findings:
    """Reads all of the release in `data_dir`, of whatever layout, and returns its `Findings`.

    `json_file` gets them too, with every problem and not only the first of each kind.

    Raises `ReleaseError` where there is no release or it lacks whole folders, `ValueError` for an absurd `num_proc`
    and `OSError` where `json_file` cannot be written, each before anything is read.
    """
    num_proc = os.cpu_count() or 1 if num_proc is None else num_proc
    if num_proc < 1:
        raise ValueError(f"num_proc must be at least 1, got {num_proc}.")
    release, config_name = recognise(data_dir)
    if not json_file:
        return _check(release, config_name, num_proc, None)
    if os.path.isdir(json_file):
        raise IsADirectoryError(f"{json_file} is a folder: name a file.")
    unfinished = f"{os.fspath(json_file)}.unfinished"
    with open(unfinished, "w", encoding="utf-8") as file:
        try:
            with tempfile.TemporaryFile("w+", encoding="utf-8") as all_problems:
                findings = _check(release, config_name, num_proc, all_problems)
                _write_json(findings, all_problems, file)
            file.close()
            os.replace(unfinished, json_file)
        except BaseException:
            file.close()
            os.remove(unfinished)
            raise
    return findings


def _write_json(findings: Findings, all_problems: IO, file: IO) -> None:
    """The problems line by line, as there may be many."""
    summary = {key: asdict(findings)[key] for key in ("release", "layout", "rows", "subsets", "remarks")}
    summary |= {"num_rows": findings.num_rows, "num_bad_rows": findings.num_bad_rows, "whole": findings.whole}
    file.write(json.dumps(summary, indent=1).removesuffix("\n}") + ',\n "problems": [')
    all_problems.seek(0)
    for index, line in enumerate(all_problems):
        file.write(("," if index else "") + "\n  " + line.rstrip("\n"))
    file.write("\n ]\n}\n" if findings.counts else "]\n}\n")


def _check(release: str, config_name: str, num_proc: int, all_problems: IO | None) -> Findings:
    layout = LAYOUTS[config_name]
    findings = Findings(release, layout.TITLE, layout.__name__.rpartition(".")[2])
    jobs, pairs = [], {}
    for split, (config, shards, damages) in _splits(release, config_name).items():
        findings.rows[split], findings.subsets[split] = dict.fromkeys(_ROW_NAMES, 0), dict.fromkeys(SUBSETS, 0)
        jobs += [(split, shard, config) for shard in shards]
        pairs[split] = sum(map(len, shards))
        for damage in damages:
            findings.add(Problem(damage.kind, split, damage.path, damage.what), all_problems)
    findings.broken = findings.num_rows = findings.num_bad_rows = findings.counts.total()

    # What is kept of a row: 25 bytes.
    starts = np.cumsum([0, *(len(shard) for _, shard, _ in jobs)])
    digests = np.zeros((starts[-1], 2), np.uint64)
    image_ids = np.full(starts[-1], -1)
    bad = np.zeros(starts[-1], bool)
    sizes, left_out = Counter(), Counter()
    with tqdm(total=int(starts[-1]), desc="Checking", unit="row") as progress:
        for (split, shard, _), start, found in zip(jobs, starts[:-1], mapped(_read, jobs, num_proc), strict=True):
            here = slice(start, start + len(found.image_ids))
            digests[here], image_ids[here], bad[here] = found.digests, found.image_ids, found.bad
            for counts, more in ((findings.rows, found.labels), (findings.subsets, found.subsets)):
                counts[split].update({name: counts[split][name] + count for name, count in more.items()})
            findings.num_rows += len(found.image_ids) + found.broken
            findings.num_bad_rows += found.broken
            findings.broken += found.broken
            sizes += found.sizes
            left_out[split] += len(shard) - len(found.image_ids) - found.broken
            for problem in found.problems:
                findings.add(problem, all_problems)
            progress.update(len(shard))

    repeated, across = Counter(), 0
    for one, other in _same_images(digests, image_ids):
        (split, path), (first_split, first_path) = (_image_at(jobs, starts, image_ids, place) for place in (one, other))
        if split == first_split:
            repeated[split] += 1
        elif layout is ferplus:  # FER2013 itself has such faces
            across += 1
        else:
            findings.add(Problem(_DUPLICATE, split, path, f"is the same image as {first_path}"), all_problems)
            bad[one] = True
    findings.num_bad_rows += int(bad.sum())
    findings.remarks = list(_remarks(layout, findings, pairs, left_out, sizes, repeated))
    if across:
        findings.remarks.append(f"{_counted(across, 'image')} came before in another split; FER2013 itself has such.")
    return findings


def _splits(release: str, config_name: str) -> dict[str, tuple]:
    """{split: (config, shards, damages)} of everything that lies there."""
    names = (config_name,)
    if LAYOUTS[config_name] is plus:
        folders = {"human_annotated_all": "human_annotated", "no_human_annotated": "no_human_annotated"}
        names = [name for name, folder in folders.items() if os.path.isdir(os.path.join(release, folder))]
    found = {}
    for name in names:
        config = copy.copy(AffectNetPlus.builder_configs[name])
        config.on_error = "skip"
        if name == "ferplus":  # a face that loading would leave out can be broken as well
            config.ties = config.unknown = config.not_a_face = "keep"
        for split, (shards, damages) in LAYOUTS[name].shards(release, config).items():
            found[name if name == "no_human_annotated" else split] = config, shards, damages
    return found


# ---------------------------------------------------------------------------------------------------------------
# One shard, in a process of its own


class _Read(NamedTuple):
    """What one shard holds; the arrays are of its n sound rows."""

    labels: Counter
    subsets: Counter
    image_ids: np.ndarray  # (n,)
    digests: np.ndarray  # (n, 2) uint64
    bad: np.ndarray  # (n,) bool: there is a problem, though it loads
    broken: int  # rows that do not load
    sizes: Counter
    problems: list[Problem]


def _read(job: tuple) -> _Read:
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
    return _Read(
        Counter(_ROW_NAMES[label] for label in labels),
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
        for index in np.flatnonzero(odd.any(axis=1)):
            value = values[index][odd[index]][0]
            yield index, _ODD_VALUE, column, f'has {value:.6g} in "{key(column)}", outside [{least}, {most}]'
    for column, (least, most) in _SUMS.items():
        sums = numbers[column].sum(axis=1, dtype=float)
        for index in np.flatnonzero((sums < least - _ROUNDING) | (sums > most + _ROUNDING)):
            what = f'has scores in "{key(column)}" that sum to {sums[index]:.3g}, not to about 1'
            yield index, _ODD_VALUE, column, what
    points, sizes = numbers["landmarks_68"], sizes[:, None]  # (n, 68, 2), (n, 1, 2)
    overshoot = (np.maximum(-points, points - sizes) / sizes).max(axis=2)
    for index in np.flatnonzero((overshoot > _MOST_OVERSHOOT).any(axis=1)):
        count, (x, y) = (overshoot[index] > _MOST_OVERSHOOT).sum(), points[index, overshoot[index].argmax()]
        width, height = sizes[index, 0]
        what = f'has {count} of the 68 points of "{key("landmarks_68")}" far outside the picture of {width} x {height}'
        yield index, _ODD_VALUE, "landmarks_68", f"{what} pixels, one at ({x:.6g}, {y:.6g})"


def _rank_rule(numbers: np.ndarray, labels: np.ndarray, subsets: np.ndarray) -> Iterator[tuple[int, str, str, str]]:
    """The subset is the rank of the label's score in the soft label; with equal scores it may be either rank."""
    ranked = np.flatnonzero(subsets >= 0)
    scores = numbers["soft_label"][ranked]
    own = np.take_along_axis(scores, labels[ranked, None], axis=1)
    best = 1 + (scores > own).sum(axis=1)
    worst = best - 1 + (scores == own).sum(axis=1)
    low, high = np.digitize((best, worst), (2, 4))  # rank 1, 2-3, 4-8
    for place in np.flatnonzero((subsets[ranked] < low) | (subsets[ranked] > high)):
        index, rank = ranked[place], f"{best[place]}" + (f" to {worst[place]}" if worst[place] > best[place] else "")
        label, subset = EXPRESSIONS[labels[index]], SUBSETS[subsets[index]]
        allowed = " or ".join(SUBSETS[low[place] : high[place] + 1])
        what = f'is {subset} by "subset", but its label {label} has rank {rank} in "soft-label", which is {allowed}'
        yield index, _RANK_RULE, "subset", what


def _annotation_path(shard, image_id: int, column: str) -> str:
    if isinstance(shard, CsvShard):
        return f"{shard.path}, row {image_id}"
    if isinstance(shard, VoteShard):
        return f"{shard.votes_path}, row {image_id}"
    name = _name_of(shard, shard.annotations, image_id)
    if name.endswith(".npy"):
        name = name.rpartition("_")[0] + _ENDINGS_2021[column]
    return os.path.join(shard.folder, "annotations", name)


def _image_path(shard, image_id: int) -> str:
    if isinstance(shard, CsvShard):
        return f"{shard.path}, row {image_id}"
    if isinstance(shard, VoteShard):
        name = shard.lines[shard.numbers.index(image_id)][1].strip()
        return os.path.join(shard.folder, name) if shard.folder else f"{shard.pixels_path}, row {image_id}"
    return os.path.join(shard.folder, "images", _name_of(shard, shard.images, image_id))


def _name_of(shard: Shard, names: np.ndarray, image_id: int) -> str:
    return names[np.searchsorted(shard.image_ids, image_id)].decode()


# ---------------------------------------------------------------------------------------------------------------
# What is seen only of all rows together


def _same_images(digests: np.ndarray, image_ids: np.ndarray) -> Iterator[tuple[int, int]]:
    """(place, place of the first one) for each image whose bytes were there before; places with id -1 hold none."""
    order = np.lexsort(digests.T)
    order = order[image_ids[order] >= 0]
    same = np.ones(max(len(order) - 1, 0), bool)
    for half in digests.T:
        half = half[order]
        same &= half[1:] == half[:-1]
    first = -1
    for index in np.flatnonzero(same):
        first = first if index and same[index - 1] else order[index]
        yield order[index + 1], first


def _image_at(jobs: list[tuple], starts: np.ndarray, image_ids: np.ndarray, place: int) -> tuple[str, str]:
    split, shard, _ = jobs[np.searchsorted(starts, place, side="right") - 1]
    return split, _image_path(shard, image_ids[place])


def _remarks(layout, findings: Findings, pairs: dict, left_out: Counter, sizes: Counter, repeated: Counter):
    if absent := [split for split in _ALL_SPLITS[layout] if split not in pairs]:
        yield f"Not here: {' and '.join(absent)}."
    counts = []
    for split, (published, published_expressions) in _PUBLISHED[layout].items():
        if split in pairs:
            counts.append(f"{split} {_against(pairs[split], published)}")
            if published_expressions and published_expressions != published:
                own = sum(findings.rows[split][name] for name in EXPRESSIONS)
                counts[-1] += f", {_against(own, published_expressions)} with an expression"
    if counts:
        yield f"Rows, against the published release: {'; '.join(counts)}."
    if left_out := {split: count for split, count in left_out.items() if count}:
        why = "withdrawn by FER+ itself" if layout is ferplus else "without one of the eight expressions"
        shown = ", ".join(f"{count:,} of {split}" for split, count in left_out.items())
        yield f"Rows {why}, which loading leaves out, were not looked at: {shown}."
    if len(sizes) > 1 or any(width != height for width, height in sizes):
        most = [f"{width} x {height} ({count:,})" for (width, height), count in sizes.most_common(6)]
        more = f" and {len(sizes) - 6} more" if len(sizes) > 6 else ""
        yield f"Images should be square and all alike, but these sizes are found: {', '.join(most)}{more}."
    for split, count in repeated.items():
        yield f"{_counted(count, 'image')} of {split} came before in that split, byte for byte."


# ---------------------------------------------------------------------------------------------------------------
# Words


def _table(title: str, names, columns: dict[str, dict[str, int]], total: bool = False) -> list[str]:
    """Names down, splits across: twelve expressions across would be wider than a page."""
    body = [(name, [counts[name] for counts in columns.values()]) for name in names]
    if total:
        body.append(("total", [sum(counts.values()) for counts in columns.values()]))
    widths = [max(9, len(split)) for split in columns]
    lines = [f"{title:<12}" + "".join(f"  {split:>{width}}" for split, width in zip(columns, widths, strict=True))]
    for name, counts in body:
        cells = (f"  {f'{count:,}' if count else '-':>{width}}" for count, width in zip(counts, widths, strict=True))
        lines.append(f"{name:<12}" + "".join(cells))
    return lines


def _wrapped(text: str, indent: str, more: str = "  ") -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent + more, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _against(count: int, published: int) -> str:
    return f"all {count:,}" if count == published else f"{count:,} of {published:,}"
