"""`affectnet-plus describe`: a dataset at a glance, as a page and as numbers."""

import itertools
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import ImageDraw
from tqdm.auto import tqdm

from affectnet_plus import EXPRESSIONS, SUBSETS
from affectnet_plus.releases.check import check
from affectnet_plus.releases.processes import mapped
from affectnet_plus.releases.writing import written_whole
from affectnet_plus.training.arguments import DataArguments
from affectnet_plus.training.faces import Split, label_counts, load_rows, split_to_describe
from affectnet_plus.training.faces.duplicates import (
    BITS,
    NEAR,
    Fingerprints,
    fingerprints,
    joined_fingerprints,
    near_duplicates,
)
from affectnet_plus.training.metrics import nan_to_none
from affectnet_plus.training.metrics.description import LEAST_ROWS, PRESENT, describe_split

from . import description_figures as figures
from . import pages
from .figures import image_of
from .figures import subset_shares as subset_figure

_IMAGES_A_JOB = 500
_MOST_PAIRS = 100  # that the JSON names
_SHOWN_PAIRS = 6
_FACES_A_CELL = 3
_LANDMARKS = 8  # faces with their landmarks drawn


def describe(
    root: str | None, output: str, json_file: str | None = None, faces: bool = False, num_proc: int | None = None,
    **data,
) -> None:  # fmt: skip
    """Write what is in a release, an export or any other dataset: a page, and all of its numbers as JSON.

    Args:
        root: a release, or the folder it lies in; None with `dataset_name`.
        output: the page, FILE.html.
        json_file: where the numbers go; by default beside the page, FILE.json.
        faces: put thumbnails of faces into the page.
        num_proc: processes; by default one a core.
        data: other fields of `DataArguments`.

    Raises:
        ValueError: `output` is no page, or there is no such dataset.
        OSError: one of the two cannot be written.
    """
    num_proc = num_proc or os.cpu_count() or 1
    page_file = Path(output)
    if page_file.suffix not in (".html", ".htm"):
        raise ValueError(f"--output is a page, such as description.html, not {output}.")
    for place in (page_file, numbers_file := Path(json_file or page_file.with_suffix(".json"))):
        if place.is_dir():
            raise IsADirectoryError(f"{place} is a folder: name a file.")
        place.parent.mkdir(parents=True, exist_ok=True)
    args = DataArguments(data_dir=root, on_error="raise" if data.get("dataset_name") else "skip", **data)
    if not (args.dataset_name or args.dataset_config_name) and args.release()[1] == "human_annotated":
        args.dataset_config_name = "human_annotated_all"  # with the faces that are labelled as none of the eight
    findings = None if args.dataset_name else check(root, num_proc)
    with warnings.catch_warnings():
        if findings is not None:  # which tells the same of broken rows
            warnings.simplefilter("ignore")
        rows = load_rows(args)
    splits = {name: split_to_describe(of_split, args) for name, of_split in rows.items()}
    labels = {name: label_counts(rows[name], split, args) for name, split in splits.items()}
    names = dict.fromkeys(itertools.chain.from_iterable(labels.values()))
    found = _fingerprints(splits, num_proc)
    numbers = {
        "data": args.name(),
        "splits": {
            name: {"labels": {label: labels[name].get(label, 0) for label in names}, **describe_split(split)}
            for name, split in splits.items()
        },
        "duplicates": _duplicates(splits, found),
        "unreadable_images": int((~found.readable).sum()),
        "check": None if findings is None else {
            "whole": findings.whole, "verdict": findings.verdict(), "problems": dict(findings.counts),
            "rows": findings.rows, "remarks": findings.remarks,
        },
    }  # fmt: skip
    page = _page(numbers, splits, findings, faces)
    with written_whole(numbers_file) as beside, written_whole(page_file) as page_beside:
        beside.write_text(json.dumps(nan_to_none(numbers), indent=1) + "\n")
        page_beside.write_text(page, encoding="utf-8")
    print(f"Page: {page_file}, numbers: {numbers_file}")


def _fingerprints(splits: dict[str, Split], num_proc: int) -> Fingerprints:
    """Of the images of all splits, one after the other."""
    jobs = [
        split.images.select(range(first, min(first + _IMAGES_A_JOB, len(split))))
        for split in splits.values()
        for first in range(0, len(split), _IMAGES_A_JOB)
    ]
    parts = []
    with (
        tqdm(total=sum(map(len, jobs)), desc="Looking for duplicates", unit="image") as progress,
        mapped(fingerprints, jobs, num_proc) as results,
    ):
        for part in results:
            parts.append(part)
            progress.update(len(part.content))
    return joined_fingerprints(parts)


def _duplicates(splits: dict[str, Split], found: Fingerprints) -> dict:
    """The same files, and near-duplicates by pHash, within and between splits."""
    of_split = np.repeat(np.arange(len(splits)), [len(split) for split in splits.values()])
    names = np.array(list(splits))[of_split]
    ids = np.concatenate([split.ids for split in splits.values()])
    contents = {name: found.content[(names == name) & found.readable] for name in splits}
    same = {name: len(content) - len(np.unique(content)) for name, content in contents.items()}
    for one, other in itertools.combinations(splits, 2):
        same[f"{one}, {other}"] = int(np.isin(contents[other], contents[one]).sum())
    pairs, bits = near_duplicates(found)
    near = dict.fromkeys(same, 0)
    for (one, other), count in zip(*np.unique(of_split[pairs], axis=0, return_counts=True), strict=True):
        near[list(splits)[one] if one == other else ", ".join(list(splits)[i] for i in (one, other))] = int(count)
    nearest = np.argsort(bits, kind="stable")[:_MOST_PAIRS]
    return {
        "same_file": same,
        "near": near,
        "near_is": f"at most {NEAR} of {BITS} bits of the pHash differ",
        "nearest": [
            {"rows": [[str(names[row]), str(ids[row])] for row in pairs[i]], "bits": int(bits[i])} for i in nearest
        ],
    }


def _page(numbers: dict, splits: dict[str, Split], findings, with_faces: bool) -> str:
    of_splits = numbers["splits"]
    return pages.render(
        "description.html.jinja",
        title=numbers["data"],
        numbers=numbers,
        findings=findings,
        categories=image_of(figures.shares_by_split({name: found["labels"] for name, found in of_splits.items()})),
        sections=list(_sections(of_splits)),
        gaps=list(_gaps(of_splits)),
        montages={name: _montage(split) for name, split in splits.items()} if with_faces else {},
        pairs=_pairs(splits, numbers["duplicates"]["nearest"]) if with_faces else [],
        landmarks=_landmarks(splits) if with_faces else [],
        least_rows=LEAST_ROWS,
    )


def _sections(of_splits: dict[str, dict]) -> Iterator[tuple[str, str, dict[str, str]]]:
    """(heading, what it says, {caption: figure}) of each that has something to show."""

    def drawn(what: str, draw) -> dict[str, str]:
        return {
            f"{name} ({found[what]['rows']:,} rows)": image_of(draw(found[what]))
            for name, found in of_splits.items()
            if what in found
        }

    def square(key: str, across: str, down: str, **more):
        return lambda found: figures.heat_map(np.array(found[key]), EXPRESSIONS, EXPRESSIONS, across, down, **more)

    yield (
        "Difficulty subsets",
        "Easy: the human label has the highest score of the soft label; challenging: the second or third; difficult: a "
        "lower one.",
        {
            f"{name} ({found['rows']:,} rows)": image_of(
                subset_figure(np.array([[of_name[kind] for kind in SUBSETS] for of_name in found["subsets"].values()]))
            )
            for name, found in of_splits.items()
            if "subsets" in found
        },
    )
    yield (
        "Soft labels",
        "Scores of each expression, 0 to 1, and their mean.",
        drawn("soft_labels", lambda found: figures.score_histograms(found["histogram"], found["mean"])),
    )
    yield (
        "Soft labels by human label",
        "The mean score of each expression among the faces with one human label.",
        drawn("soft_labels", square("mean_by_label", "mean score of", "human label")),
    )
    yield (
        "Expressions that go together",
        "Correlation of scores (Pearson's, 1: they rise together; -1: one in place of the other).",
        drawn("soft_labels", square("correlation", "score of", "score of", diverging=True)),
    )
    yield (
        "Expressions present at once",
        f"% of the faces in which both scores are at least {PRESENT:g}; on the diagonal, one expression alone.",
        drawn("soft_labels", square("together", "score of", "score of", percent=True)),
    )
    yield (
        "How mixed faces are",
        "Entropy of the soft label as a distribution (scores divided by their sum), and expressions at once.",
        drawn("soft_labels", lambda found: figures.mixtures(found["entropy"], found["present"])),
    )
    yield (
        "Valence and arousal",
        "Annotated values, darker where more faces lie (logarithm of their number); dots are means of a human label.",
        drawn("valence_arousal", lambda found: figures.affect_density(np.array(found["density"]), found["mean"])),
    )
    for attribute in dict.fromkeys(itertools.chain.from_iterable(found["groups"] for found in of_splits.values())):
        yield (
            f"Expressions by {attribute}",
            "% of a group's faces with a human label, by that label. Rows: 100 %.",
            {
                name: image_of(_group_figure(found["groups"][attribute], attribute))
                for name, found in of_splits.items()
                if attribute in found["groups"]
            },
        )


def _group_figure(found: dict, attribute: str):
    rows = [f"{group} ({number:,})" for group, number in found["rows"].items()]
    shares = np.array(list(found["shares"].values()), dtype=float)
    return figures.heat_map(shares, rows, EXPRESSIONS, "human label", attribute, percent=True)


def _gaps(of_splits: dict[str, dict]) -> Iterator[tuple[str, str, str, float]]:
    """(split, attribute, expression, gap): the largest of each attribute."""
    for name, found in of_splits.items():
        for attribute, groups in found["groups"].items():
            if groups["gap"]:
                expression = max(groups["gap"], key=groups["gap"].get)
                yield name, attribute, expression, groups["gap"][expression]


def _montage(split: Split) -> dict[str, dict[str, list[str]]]:
    """{expression: {subset: thumbnails}}; of a dataset without subsets, from the highest to the lowest own score."""
    subset = np.full(len(split), -1)
    if split.metadata is not None and "subset" in split.metadata.features:
        subset = np.array([-1 if value is None else value for value in split.metadata["subset"][:]])
    found = {}
    for i, name in enumerate(EXPRESSIONS):
        rows = np.flatnonzero(split.labels == i)
        if (subset[rows] >= 0).any():
            cells = {kind: rows[subset[rows] == j] for j, kind in enumerate(SUBSETS)}
        elif split.soft_labels is not None and len(rows):
            ordered = rows[np.argsort(-np.nan_to_num(split.soft_labels[rows, i]), kind="stable")]
            middle = ordered[max(0, (len(ordered) - _FACES_A_CELL) // 2) :]
            cells = {"highest scores": ordered, "middle": middle, "lowest scores": ordered[-_FACES_A_CELL:]}
        else:
            cells = {"": rows}
        found[name] = {kind: [pages.thumbnail(split.image(row)) for row in of_kind[:_FACES_A_CELL]]
                       for kind, of_kind in cells.items()}  # fmt: skip
    return found


def _pairs(splits: dict[str, Split], nearest: list[dict]) -> list[dict]:
    """The nearest pairs with their thumbnails."""
    place = {name: {row_id: row for row, row_id in enumerate(split.ids.tolist())} for name, split in splits.items()}
    return [
        {"bits": pair["bits"], "faces": [
            (f"{name} {row_id}", pages.thumbnail(splits[name].image(place[name][row_id])))
            for name, row_id in pair["rows"]
        ]}
        for pair in nearest[:_SHOWN_PAIRS]
    ]  # fmt: skip


def _landmarks(splits: dict[str, Split]) -> list[str]:
    """Faces of the first split that has 68 landmarks, with these drawn on them."""
    for split in splits.values():
        if split.metadata is None or "landmarks_68" not in split.metadata.features:
            continue
        some = split.select(np.arange(min(len(split), 10 * _LANDMARKS)))
        drawn = []
        for row, points in enumerate(some.metadata.with_format("numpy")["landmarks_68"][:]):
            if points is None or np.isnan(points := np.asarray(points, dtype=float)).any():
                continue
            image = some.image(row)
            draw, radius = ImageDraw.Draw(image), max(1, image.width // 112)
            for x, y in points:
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=figures.ORANGE)
            drawn.append(pages.thumbnail(image))
        if drawn:
            return drawn[:_LANDMARKS]
    return []
