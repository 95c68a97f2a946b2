"""The report of an evaluation: one self-contained page."""

import html
from pathlib import Path

import numpy as np
from sklearn.metrics import confusion_matrix

from affectnet_plus import EXPRESSIONS, SUBSETS
from affectnet_plus.training import figures, pages
from affectnet_plus.training.faces import Split
from affectnet_plus.training.slices import OWN_SCORES, subsets_of

_STYLE = """
.headline { display: flex; flex-wrap: wrap; gap: .6rem 2.2rem; margin: 1rem 0 }
.headline div { min-width: 7rem } .headline b { display: block; font-size: 1.7rem; font-weight: 600; line-height: 1.2 }
.headline small, .quiet { color: #555; font-weight: 400 }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 1rem }
.figures figure { margin: 0 } .figures img { width: 100%; max-width: 34rem; height: auto }
.figures.small { grid-template-columns: repeat(auto-fill, minmax(min(44%, 13rem), 1fr)); max-width: 60rem }
figcaption { font-weight: 600; font-size: .95rem }
.faces { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: 1rem 1.6rem }
.faces article { display: grid; grid-template-columns: auto 1fr; gap: .2rem .7rem; align-content: start }
.faces p { grid-column: 1 / 3; margin: 0; font-size: 13px }
.scale { position: relative; height: 1.1rem; min-width: 5rem;
  background: linear-gradient(#ddd, #ddd) center/100% 1px no-repeat }
.scale span { position: absolute; top: .45rem; height: .2rem; background: #56B4E9 }
.scale i { position: absolute; top: .25rem; width: .6rem; height: .6rem; margin-left: -.3rem; border-radius: 50%;
  background: #0072B2 }
.slices { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 34rem), 1fr)); gap: 0 2rem }
.slices table { width: 100% } .slices th, .slices td { white-space: nowrap }
@media (max-width: 40rem) { .slices th, .slices td { padding: .35rem .25rem }
  .slices table { font-size: 12px } .slices th { white-space: normal } .scale { min-width: 3rem } }
.scroll { overflow-x: auto } td.wide { width: 40% }
"""
_SMALL = 30  # rows, below which a slice says too little to be compared
_COLUMNS = {"macro_f1": "macro F1", "js": "JS", "top1": "top-1"}  # of slices


def write_report(
    path: Path, result: dict, scores: np.ndarray, affect: np.ndarray, split: Split, truth: np.ndarray | None,
    num_faces: int, settings: dict,
) -> None:  # fmt: skip
    """`result` as metrics.json has it; `scores` (N, 8); `affect` (N, 2) or (N, 0); `truth` (N, 8) or None. Raises
    `ImageError`."""
    predicted = scores.argmax(axis=1)
    subset, source = subsets_of(split, truth, result["truth"], scores)
    sections = [
        _headline(result),
        _confusions(split.labels, predicted, subset, source),
        _subsets(split.labels, subset, source),
        _faces(split, scores, truth, result["truth"], num_faces) if num_faces else "",
        _reliability(scores, split, truth, result["truth"]),
        _plane(split, predicted, affect, result),
        _slices(result),
        _settings(result, settings),
    ]
    title = f"{result['model']} on {result['split']}"
    path.write_text(pages.page(title, f"<h1>{html.escape(title)}</h1>" + "\n".join(sections), _STYLE), "utf-8")


def write_comparison(folder: Path, results: dict[str, dict], rows: dict[str, int], network: str) -> str:
    """As the paper's Fig. 5: models trained on one subset each, on the same faces. `results` as metrics.json has them;
    `rows` each was trained on; `network`, what they all are. Writes by_subset.html and by_subset.md into `folder`;
    returns the latter, a table."""
    heads = {"accuracy": "accuracy", "macro_f1": "macro F1", "js": "JS", "ece": "calibration error"}
    heads = {key: head for key, head in heads.items() if all(key in result for result in results.values())}
    held = [name for name in SUBSETS if all(name in result["slices"].get("subset", {}) for result in results.values())]
    columns = ["trained on", "faces", *heads.values(), *(f"accuracy on {name}" for name in held)]
    lines = []
    for name, result in results.items():
        figures_of = [result[key] for key in heads]
        figures_of += [result["slices"]["subset"][subset]["accuracy"] for subset in held]
        lines.append([name, f"{rows[name]:,}", *(f"{value:.4f}" for value in figures_of)])
    text = "\n".join(f"| {' | '.join(line)} |" for line in [columns, ["---"] * len(columns), *lines]) + "\n"
    (folder / "by_subset.md").write_text(text, "utf-8")
    table = "".join(f"<tr>{''.join(f'<td>{cell}' for cell in line)}" for line in lines)
    matrices = [
        _figure(figures.confusion_matrix(np.array(result["confusion"])), f"trained on {name} ({rows[name]:,} faces)")
        for name, result in results.items()
    ]
    title = f"Trained on one subset, measured on all of {next(iter(results.values()))['split']}"
    body = (
        f"<h1>{html.escape(title)}</h1><p>{html.escape(network)}</p>"
        f'<div class="scroll"><table><tr>{"".join(f"<th>{c}" for c in columns)}{table}'
        f'</table></div><h2>What is taken for what</h2><div class="figures">{"".join(matrices)}</div>'
    )
    (folder / "by_subset.html").write_text(pages.page(title, body, _STYLE), "utf-8")
    return text


def _headline(result: dict) -> str:
    cells = []
    for name, title in (
        ("accuracy", "accuracy"),
        ("macro_f1", "macro F1"),
        ("js", "Jensen-Shannon divergence, nats"),
        ("ece", "calibration error"),
    ):
        if name in result:
            low_high = result["intervals"].get(name)
            between = f"<small>{low_high[0]:.3f} to {low_high[1]:.3f}</small>" if low_high else ""
            cells.append(f"<div><b>{result[name]:.3f}</b>{title}<br>{between}</div>")
    missing = result["expressions_not_known_to_the_model"]
    missing = [name for name in missing if name in result["expressions"]]
    said = f" The model does not know {', '.join(missing)}: its score counts as 0." if missing else ""
    if len(result["expressions"]) < len(EXPRESSIONS):
        said += f" Only these expressions are looked at: {', '.join(result['expressions'])}."
    truth = f" Truth is {html.escape(result['truth'])}." if result["truth"] else " No soft labels are known here."
    return (
        f"<p>{result['rows']:,} faces with a human label.{truth}{said} Small numbers are 95 % bootstrap intervals.</p>"
        f'<div class="headline">{"".join(cells)}</div>'
    )


def _figure(figure, caption: str) -> str:
    caption = html.escape(caption)
    return f'<figure><figcaption>{caption}</figcaption><img alt="{caption}" src="{figures.image_of(figure)}"></figure>'


def _confusions(labels: np.ndarray, predicted: np.ndarray, subset: np.ndarray, source: str) -> str:
    def matrix(rows, title: str) -> str:
        counts = confusion_matrix(labels[rows], predicted[rows], labels=range(len(EXPRESSIONS)))
        return _figure(figures.confusion_matrix(counts), f"{title} ({rows.sum():,})")

    shown = [matrix(np.ones(len(labels), dtype=bool), "all faces")]
    said = ""
    if source != OWN_SCORES:  # by its own scores, a model is right about all easy faces and no others
        shown += [matrix(subset == i, name) for i, name in enumerate(SUBSETS) if (subset == i).any()]
        said = f" Subsets {source}."
    return (
        "<h2>What is taken for what</h2><p>Each row adds up to 100 % of the faces with that human label."
        f'{said}</p><div class="figures">{"".join(shown)}</div>'
    )


def _subsets(labels: np.ndarray, subset: np.ndarray, source: str) -> str:
    counts = np.array([[((labels == i) & (subset == j)).sum() for j in range(3)] for i in range(len(EXPRESSIONS))])
    return (
        "<h2>Easy, challenging, difficult</h2><p>Easy: the human label has the highest score of the soft label; "
        f'challenging: the second or third; difficult: a lower one. Here {source}.</p><div class="figures">'
        f"{_figure(figures.subset_shares(counts), 'shares of the subsets')}</div>"
    )


def _faces(split: Split, scores: np.ndarray, truth: np.ndarray | None, truth_name: str, number: int) -> str:
    predicted = scores.argmax(axis=1)
    right = predicted == split.labels
    own = scores[np.arange(len(scores)), split.labels]
    shares = scores / scores.sum(axis=1, keepdims=True)
    entropy = -(shares * np.log(shares.clip(1e-9))).sum(axis=1)
    kinds = (
        ("Most certain", "right, with the largest share of all scores", np.where(right, shares.max(axis=1), -1)),
        ("Most mixed", "scores spread over most expressions", entropy),
        ("Most wrong", "by the largest lead over the human label", np.where(right, -1, scores.max(axis=1) - own)),
    )
    sections = []
    for title, how, order in kinds:
        rows = [row for row in np.argsort(-order, kind="stable")[:number] if order[row] >= 0]
        cells = [
            f"<article>{pages.face(split, row)}"
            f"{pages.bars(scores[row], EXPRESSIONS[split.labels[row]], None if truth is None else truth[row])}"
            f"<p>{html.escape(str(split.ids[row]))}: labelled {EXPRESSIONS[split.labels[row]]}, "
            f"predicted {EXPRESSIONS[predicted[row]]}</p></article>"
            for row in rows
        ]
        if cells:
            sections.append(
                f'<h3>{title} <span class="quiet">({how})</span></h3><div class="faces">{"".join(cells)}</div>'
            )
    tick = "" if truth is None else f" A black tick is {html.escape(truth_name)}."
    return (
        f'<h2>Faces</h2><p><span class="key" style="background:{figures.BLUE}"></span> score of an expression '
        f'<span class="key" style="background:{figures.ORANGE}"></span> score of the human label.{tick}</p>'
        + "".join(sections)
    )


def _reliability(scores: np.ndarray, split: Split, truth: np.ndarray | None, truth_name: str) -> str:
    name = truth_name
    if truth is None:
        truth, name = np.eye(len(EXPRESSIONS))[split.labels], "the human label"
    columns = zip(EXPRESSIONS, scores.T, truth.T, strict=True)
    panels = [_figure(figures.reliability(score, true), expression) for expression, score, true in columns]
    return (
        "<h2>Do scores mean what they say?</h2><p>Faces whose score is about so much, against the mean of "
        f"{html.escape(name)} among them: on the line, they do. The larger the dot, the more faces.</p>"
        + f'<div class="figures small">{"".join(panels)}</div>'
    )


def _plane(split: Split, predicted: np.ndarray, affect: np.ndarray, result: dict) -> str:
    points = split.affect()
    known = ~np.isnan(points).any(axis=1)
    if not known.any():
        return ""
    labels = split.labels[known]
    if not affect.size:
        plane = figures.valence_arousal_plane(points[known], labels, points[known], predicted[known], "called so")
        said = "A long line between the two means of an expression: the model calls other faces so than people do."
    else:
        plane = figures.valence_arousal_plane(points[known], labels, affect[known], labels, "predicted")
        near = ", ".join(
            f"{name} {result[name]['ccc']:.3f} (RMSE {result[name]['rmse']:.3f}, equal signs "
            f"{result[name]['sign_agreement']:.3f})"
            for name in ("valence", "arousal")
        )
        said = f"Concordance of the model's values with them: {near}."
    return (
        f'<h2>Valence and arousal</h2><p>Annotated values of all faces (grey). {said}</p><div class="figures">'
        f"{_figure(plane, 'valence-arousal plane')}</div>"
    )


def _slices(result: dict) -> str:
    sections = []
    for by, groups in result["slices"].items():
        rows = []
        for name, figures_of in groups.items():
            low, high = figures_of["intervals"]["accuracy"] or [figures_of["accuracy"]] * 2
            rows.append(
                f'<tr><td>{html.escape(name)}<td class="number">{figures_of["rows"]:,}'
                f'<td class="number">{figures_of["accuracy"]:.3f}<td class="wide"><div class="scale"><span style="left:'
                f'{100 * low:.1f}%;width:{100 * (high - low):.1f}%"></span><i style="left:'
                f'{100 * figures_of["accuracy"]:.1f}%"></i></div>'
                + "".join(
                    f'<td class="number">{figures_of[key]:.3f}' if key in figures_of else '<td class="number">'
                    for key in _COLUMNS
                    if any(key in other for other in groups.values())
                )
            )
        enough = {name: g["accuracy"] for name, g in groups.items() if g["rows"] >= _SMALL}
        gap = ""
        if len(enough) > 1:
            best, worst = max(enough, key=enough.get), min(enough, key=enough.get)
            gap = f": {enough[best] - enough[worst]:.3f} between {html.escape(best)} and {html.escape(worst)}"
        heads = [head for key, head in _COLUMNS.items() if any(key in g for g in groups.values())]
        sections.append(
            f'<div><h3>By {html.escape(by)}<span class="quiet">{gap}</span></h3><div class="scroll"><table><thead>'
            f'<tr><th><th class="number">faces<th class="number">accuracy<th>95 % interval'
            f'{"".join(f"""<th class="number">{h}""" for h in heads)}</thead>{"".join(rows)}</table></div></div>'
        )
    first = f" Top-1: how often its first expression is that of {html.escape(result['truth'])}." * ("top1" in result)
    return (
        f"<h2>Who is served how well</h2><p>The gap of accuracy is between slices of at least {_SMALL} faces; with "
        f"overlapping intervals it may be chance.{first}</p><div class='slices'>{''.join(sections)}</div>"
    )


def _settings(result: dict, settings: dict) -> str:
    shown = {key: result[key] for key in ("model", "data", "data_config", "split", "rows")} | settings
    if shown.get("soft_labels"):
        shown["soft_labels"] = Path(shown["soft_labels"]).name  # no path of this machine in a page to publish
    rows = "".join(f"<tr><td>{html.escape(k)}<td>{html.escape(str(v))}" for k, v in shown.items())
    return f'<h2>Settings</h2><div class="scroll"><table>{rows}</table></div>'
