"""The report of an evaluation, and the comparison of models trained on one subset each."""

from pathlib import Path

import numpy as np
from sklearn.metrics import confusion_matrix

from affectnet_plus import EXPRESSIONS, SUBSETS
from affectnet_plus.modeling import CARD_METRICS
from affectnet_plus.training.faces import Split
from affectnet_plus.training.metrics.slices import OWN_SCORES, subsets_of

from . import figures, pages

_SMALL = 30  # rows, below which a slice says too little to be compared
_HEADLINE = ("accuracy", "macro_f1", "js_divergence", "ece")
_OF_SLICES = {key: CARD_METRICS[key] for key in ("macro_f1", "js_divergence")} | {"top1": "top1"}


def write_report(
    path: Path, result: dict, scores: np.ndarray, affect: np.ndarray, split: Split, ground_truth: np.ndarray | None,
    num_faces: int, settings: dict,
) -> None:  # fmt: skip
    """Write the page of one model's evaluation.

    Args:
        path: the page.
        result: as metrics.json has it.
        scores: (N, 8) in [0, 1].
        affect: (N, 2) predicted valence and arousal in [-1, 1], or (N, 0).
        split: the N faces.
        ground_truth: (N, 8) in [0, 1], or None.
        num_faces: how many faces of each kind to show.
        settings: {flag: value} for the last table.

    Raises:
        ImageError: a face cannot be read.
    """
    predicted, names = scores.argmax(axis=1), result["expressions"]
    subset, source = subsets_of(split, ground_truth, result["ground_truth"], scores)
    shown = {key: result[key] for key in ("model", "data", "data_config", "split", "rows")} | settings
    if shown.get("soft_labels"):
        shown["soft_labels"] = Path(shown["soft_labels"]).name  # no path of this machine in a page to publish
    page = pages.render(
        "report.html.jinja",
        title=f"{result['model']} on {result['split']}",
        result=result,
        all_expressions=len(names) == len(EXPRESSIONS),
        unknown=[name for name in result["expressions_not_known_to_the_model"] if name in names],
        headline={key: CARD_METRICS[key] for key in _HEADLINE if key in result},
        confusions=_confusions(split.labels, predicted, subset if source != OWN_SCORES else None, names),
        subset_source=source,
        of_own_scores=source == OWN_SCORES,
        subset_shares=figures.image_of(figures.subset_shares(_counts(split.labels, subset), names)),
        faces=_faces(split, scores, ground_truth, num_faces, names),
        reliability=_reliability(scores, split, ground_truth, names),
        plane=_plane(split, predicted, affect),
        yardstick=_yardstick(result),
        slices=[_slice(by, groups) for by, groups in result["slices"].items()],
        small=_SMALL,
        settings=shown,
    )
    path.write_text(page, "utf-8")


def write_comparison(folder: Path, results: dict[str, dict], rows: dict[str, int], network: str) -> str:
    """Write by_subset.html and by_subset.md: models trained on one subset each, on the same faces (the paper's Fig. 5).

    Args:
        folder: where to.
        results: {subset: as metrics.json has it}.
        rows: {subset: how many faces the model was trained on}.
        network: what all of them are.

    Returns:
        by_subset.md, a table.
    """
    heads = {key: CARD_METRICS[key] for key in _HEADLINE if all(key in result for result in results.values())}
    by_subset = [result["slices"].get("subset", {}) for result in results.values()]
    common = [name for name in SUBSETS if all(name in groups for groups in by_subset)]
    columns = ["trained on", "faces", *heads.values(), *(f"accuracy on {name}" for name in common)]
    lines = []
    for name, result in results.items():
        values = [result[key] for key in heads]
        values += [result["slices"]["subset"][subset]["accuracy"] for subset in common]
        lines.append([name, f"{rows[name]:,}", *(f"{value:.4f}" for value in values)])
    text = "\n".join(f"| {' | '.join(line)} |" for line in [columns, ["---"] * len(columns), *lines]) + "\n"
    (folder / "by_subset.md").write_text(text, "utf-8")
    matrices = {
        f"trained on {name} ({rows[name]:,} faces)": figures.image_of(
            figures.confusion_matrix(np.array(result["confusion_matrix"]), result["expressions"])
        )
        for name, result in results.items()
    }
    title = f"Trained on one subset, measured on all of {next(iter(results.values()))['split']}"
    page = pages.render(
        "by_subset.html.jinja", title=title, network=network, columns=columns, lines=lines, matrices=matrices
    )
    (folder / "by_subset.html").write_text(page, "utf-8")
    return text


def _counts(labels: np.ndarray, subset: np.ndarray) -> np.ndarray:
    """(8, 3) faces by expression and subset."""
    return np.array([[((labels == i) & (subset == j)).sum() for j in range(3)] for i in range(len(EXPRESSIONS))])


def _confusions(
    labels: np.ndarray, predicted: np.ndarray, subset: np.ndarray | None, expressions: list[str]
) -> dict[str, str]:
    """{caption: figure}, of all faces and of each subset."""
    shown = {"all faces": np.ones(len(labels), dtype=bool)}
    if subset is not None:
        shown |= {name: subset == i for i, name in enumerate(SUBSETS) if (subset == i).any()}
    found = {}
    for name, rows in shown.items():
        counts = confusion_matrix(labels[rows], predicted[rows], labels=range(len(EXPRESSIONS)))
        found[f"{name} ({rows.sum():,})"] = figures.image_of(figures.confusion_matrix(counts, expressions))
    return found


def _faces(
    split: Split, scores: np.ndarray, ground_truth: np.ndarray | None, number: int, expressions: list[str]
) -> dict[str, list[dict]]:
    """{kind: the faces that are most of it}, without empty kinds."""
    right = scores.argmax(axis=1) == split.labels
    of_human = scores[np.arange(len(scores)), split.labels]
    shares = scores / scores.sum(axis=1, keepdims=True)
    entropy = -(shares * np.log(shares.clip(1e-9))).sum(axis=1)
    kinds = {
        "confident": np.where(right, shares.max(axis=1), -1),
        "uncertain": entropy,
        "wrong": np.where(right, -1, scores.max(axis=1) - of_human),
    }
    found, scores = {}, np.where(np.isin(EXPRESSIONS, expressions), scores, np.nan)
    for kind, order in kinds.items():
        rows = [row for row in np.argsort(-order, kind="stable")[:number] if order[row] >= 0]
        found[kind] = [
            pages.face(split, row, scores[row], None if ground_truth is None else ground_truth[row]) for row in rows
        ]
    return {kind: faces for kind, faces in found.items() if faces}


def _reliability(
    scores: np.ndarray, split: Split, ground_truth: np.ndarray | None, expressions: list[str]
) -> dict[str, str]:
    """{expression: figure}"""
    truth = np.eye(len(EXPRESSIONS))[split.labels] if ground_truth is None else ground_truth
    columns = ((name, i) for i, name in enumerate(EXPRESSIONS) if name in expressions)
    return {name: figures.image_of(figures.reliability_diagram(scores[:, i], truth[:, i])) for name, i in columns}


def _plane(split: Split, predicted: np.ndarray, affect: np.ndarray) -> str | None:
    points = split.affect()
    known = ~np.isnan(points).any(axis=1)
    if not known.any():
        return None
    points, labels = points[known], split.labels[known]
    if affect.size:
        plane = figures.valence_arousal_plane(points, labels, affect[known], labels, "predicted values")
    else:
        plane = figures.valence_arousal_plane(points, labels, points, predicted[known], "faces so predicted")
    return figures.image_of(plane)


def _yardstick(result: dict) -> dict[str, str]:
    """{caption: figure}, empty where no row has several votes."""
    people = result.get("human_yardstick", {}).get("people", [])
    labels = {"js_divergence": "JS divergence (nats), 0 is best", "accuracy": "accuracy, 1 is best"} if people else {}
    return {label: figures.image_of(figures.human_yardstick(people, key, label)) for key, label in labels.items()}


def _slice(by: str, groups: dict[str, dict]) -> dict:
    """A table: its figures' names, its rows, and the gap of accuracy between the best and the worst of those that are
    large enough."""
    enough = {name: group["accuracy"] for name, group in groups.items() if group["rows"] >= _SMALL}
    best, worst = (choose(enough, key=enough.get) for choose in (max, min)) if len(enough) > 1 else (None, None)
    return {
        "by": by,
        "columns": {key: name for key, name in _OF_SLICES.items() if any(key in group for group in groups.values())},
        "groups": groups,
        "gap": best and {"best": best, "worst": worst, "accuracy": enough[best] - enough[worst]},
    }
