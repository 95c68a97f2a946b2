"""`affectnet-plus check`: is this copy of a release whole?

Every row is read as loading reads it, and then looked at more closely: images are decoded in full and compared between
splits, values are held against their ranges, subsets against the rank rule.
"""

import itertools
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from types import SimpleNamespace
from typing import IO

import numpy as np
from tqdm import tqdm

from . import ferplus, plus, tree
from .check_rows import check_rows, image_path
from .expressions import EXPRESSIONS, SUBSETS
from .find import LAYOUTS, recognise
from .findings import DUPLICATE, ROW_NAMES, Findings, Problem, counted
from .processes import mapped
from .writing import written_whole


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
    with (
        written_whole(json_file) as beside,
        open(beside, "w", encoding="utf-8") as file,
        tempfile.TemporaryFile("w+", encoding="utf-8") as all_problems,
    ):
        findings = _check(release, config_name, num_proc, all_problems)
        _write_json(findings, all_problems, file)
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
    places = (layout.folders(release, name).values() for name in _configurations(release, config_name))
    for damage in tree.damages(itertools.chain.from_iterable(places)):
        findings.add(Problem(damage.kind, "", damage.path, damage.what), all_problems)
    for split, (config, shards, damages) in _splits(release, config_name).items():
        findings.rows[split], findings.subsets[split] = dict.fromkeys(ROW_NAMES, 0), dict.fromkeys(SUBSETS, 0)
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
    sizes: Counter[tuple[int, int]] = Counter()
    left_out: Counter[str] = Counter()
    with (
        tqdm(total=int(starts[-1]), desc="Checking", unit="row") as progress,
        mapped(check_rows, jobs, num_proc) as rows,
    ):
        for (split, shard, _), start, found in zip(jobs, starts[:-1], rows, strict=True):
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

    repeated: Counter[str] = Counter()
    across = 0
    for one, other in _same_images(digests, image_ids):
        (split, path), (first_split, first_path) = (_image_at(jobs, starts, image_ids, place) for place in (one, other))
        if split == first_split:
            repeated[split] += 1
        elif layout is ferplus:  # FER2013 itself has such faces
            across += 1
        else:
            findings.add(Problem(DUPLICATE, split, path, f"is the same image as {first_path}"), all_problems)
            bad[one] = True
    findings.num_bad_rows += int(bad.sum())
    findings.remarks = list(_remarks(layout, findings, pairs, left_out, sizes, repeated))
    if across:
        findings.remarks.append(f"{counted(across, 'image')} came before in another split; FER2013 itself has such.")
    return findings


def _configurations(release: str, config_name: str) -> list[str]:
    """Those that together read everything that lies there."""
    if LAYOUTS[config_name] is not plus:
        return [config_name]
    folders = {"human_annotated_all": "human_annotated", "no_human_annotated": "no_human_annotated"}
    return [name for name, folder in folders.items() if tree.is_folder(os.path.join(release, folder))]


def _splits(release: str, config_name: str) -> dict[str, tuple]:
    """{split: (config, shards, damages)} of everything that lies there."""
    found = {}
    for name in _configurations(release, config_name):
        # A face of FER+ that loading would leave out can be broken as well.
        config = SimpleNamespace(name=name, on_error="skip", ties="keep", unknown="keep", not_a_face="keep")
        for split, (shards, damages) in LAYOUTS[name].shards(release, config).items():
            found[name if name == "no_human_annotated" else split] = config, shards, damages
    return found


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
    return split, image_path(shard, image_ids[place])


def _remarks(layout, findings: Findings, pairs: dict, left_out: Counter, sizes: Counter, repeated: Counter):
    if absent := [split for split in layout.SPLITS if split not in pairs]:
        yield f"Not here: {' and '.join(absent)}."
    counts = []
    for split, of_publisher in layout.SPLITS.items():
        if split in pairs and of_publisher:
            published, published_expressions = of_publisher
            counts.append(f"{split} {_against(pairs[split], published)}")
            if published_expressions and published_expressions != published:
                expressed = sum(findings.rows[split][name] for name in EXPRESSIONS)
                counts[-1] += f", {_against(expressed, published_expressions)} with an expression"
    if counts:
        yield f"Rows, against the published release: {'; '.join(counts)}."
    if unseen := [f"{count:,} of {split}" for split, count in left_out.items() if count]:
        why = "withdrawn by FER+ itself" if layout is ferplus else "without one of the eight expressions"
        yield f"Rows {why}, which loading leaves out, were not looked at: {', '.join(unseen)}."
    if len(sizes) > 1 or any(width != height for width, height in sizes):
        most = [f"{width} x {height} ({count:,})" for (width, height), count in sizes.most_common(6)]
        more = f" and {len(sizes) - 6} more" if len(sizes) > 6 else ""
        yield f"Images should be square and all alike, but these sizes are found: {', '.join(most)}{more}."
    for split, count in repeated.items():
        yield f"{counted(count, 'image')} of {split} came before in that split, byte for byte."


def _against(count: int, published: int) -> str:
    return f"all {count:,}" if count == published else f"{count:,} of {published:,}"
