"""Several models side by side: one page, and its table for Markdown and LaTeX."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import f1_score

from affectnet_plus import EXPRESSIONS, match_expressions
from affectnet_plus.modeling import CARD_METRICS
from affectnet_plus.modeling.saved_models import is_own
from affectnet_plus.training.faces import Split
from affectnet_plus.training.loop.predictions import Predictions
from affectnet_plus.training.metrics import nan_to_none
from affectnet_plus.training.metrics.evaluation import measure
from affectnet_plus.training.metrics.paired import BEST, agreement_of, ensemble_of, figures_of
from affectnet_plus.training.metrics.slices import RESAMPLES

from . import pages

ENSEMBLE = "ensemble"
_RECIPE = {  # columns, and the keys of a record of training
    "sampler": "sampler",
    "augmentation": "auto_augment",
    "mixup": "mixup_alpha",
    "epochs": "num_train_epochs",
    "steps": "max_train_steps",
    "seed": "seed",
    "target": "target",
}
_SHORT = {"accuracy": "accuracy", "macro_f1": "macro F1", "js_divergence": "JS", "ece": "ECE"}
_COST = {"parameters": "parameters (M)", "flops": "GFLOPs a face", "ms_per_face": "ms a face"}
_SCALE = {"parameters": 1e-6, "flops": 1e-9, "ms_per_face": 1}


def folders_of(output_dir: str, models: Sequence[str]) -> list[str]:
    """The folder of each model in `output_dir`, which is what it is called, too: the last part of its name, or as many
    as tell it apart. Of one model "".

    Raises:
        ValueError: one is named twice, or would be written into.
    """
    if len(models) == 1:
        return [""]
    resolved = [str(Path(model).resolve()) if Path(model).exists() else model for model in models]
    if twice := [model for model, path in zip(models, resolved, strict=True) if resolved.count(path) > 1]:
        raise ValueError(f"{twice[0]} is named twice: name each model once.")
    parts = [Path(path.removesuffix("/predictions.parquet")).parts for path in resolved]
    names = []
    for of_model in parts:
        ends = (of_model[-most:] for most in range(1, len(of_model) + 1))
        alone = (end for end in ends if sum(other[-len(end) :] == end for other in parts) == 1)
        names.append("-".join(part.strip("/") for part in next(alone, of_model)))
    names = [name if names.index(name) == i else f"{name}-{i + 1}" for i, name in enumerate(names)]
    for name, path in zip(names, resolved, strict=True):
        folder = Path(output_dir, name).resolve()
        if folder in (Path(path), *Path(path).parents):
            raise ValueError(
                f"--output_dir {output_dir} would put a report into {folder}, which is measured: name another."
            )
    return names


def compare(
    names: Sequence[str], found: Sequence[Predictions], results: Sequence[dict], split: Split,
    ground_truth: np.ndarray | None, protocol: str,
) -> dict:  # fmt: skip
    """What comparison.json holds.

    Args:
        names: of M models.
        found: what they say of the faces.
        results: of each what metrics.json has.
        split: the N faces.
        ground_truth: (N, 8) in [0, 1], 0 but for what is measured, or None.
        protocol: how labels were made, a sentence or "".
    """
    about = {key: results[0][key] for key in ("data", "data_config", "split", "rows", "ground_truth", "expressions")}
    expressions, truth_name = about["expressions"], about["ground_truth"]
    measured = np.isin(EXPRESSIONS, expressions)
    scores = [np.where(measured, of_model.outputs[:, : len(EXPRESSIONS)], 0) for of_model in found]
    scores.append(ensemble_of(scores, [of_model.expressions for of_model in found]))
    no_affect = np.empty((len(split), 0))
    results = [*results, measure(scores[-1], no_affect, split, ground_truth, truth_name, expressions)]
    figures, differences = figures_of(scores, split.labels, ground_truth, expressions)
    names = [*names, ENSEMBLE]
    models = [
        {"name": names[i], "figures": figures[i]}
        | _by_class_and_group(results[i], split.labels, scores[i], expressions)
        for i in range(len(names))
    ]
    for model, of_model in zip(models, found, strict=False):  # all but the ensemble
        model |= {"model": of_model.name, "cost": of_model.cost, "recipe": recipe_of(of_model.config)}
    models[-1] |= {"model": f"mean score of the {len(found)} others", "cost": None, "recipe": {}}
    for pair in differences:
        pair |= {place: names[pair[place]] for place in ("first", "second")}
    comparison = {"protocol": protocol, "resamples": RESAMPLES, "models": models, "differences": differences}
    return nan_to_none(about | comparison | {"agreement": agreement_of(scores)})


def _by_class_and_group(result: dict, labels: np.ndarray, scores: np.ndarray, expressions: list[str]) -> dict:
    shown = match_expressions(expressions)
    f1 = f1_score(labels, scores.argmax(axis=1), labels=shown, average=None, zero_division=np.nan)
    return {
        "recall": {name: result["recall"][name] for name in expressions},
        "f1": dict(zip(expressions, f1.tolist(), strict=True)),
        "slices": {
            by: {group: {key: figures[key] for key in ("rows", "accuracy")} for group, figures in groups.items()}
            for by, groups in result["slices"].items()
            if by != "expression"  # that is the recall
        },
    }


def recipe_of(config) -> dict:
    """How a model of ours was trained, {} for any other: of several networks, all values that there are.

    Args:
        config: of a model, or None.
    """
    if config is None or not is_own(config):
        return {}
    parts = [getattr(config, key) for key in ("ebc", "au") if hasattr(config, key)] or [config]
    records = [record for part in parts for record in part.training.values()]
    found = {}
    for column, key in _RECIPE.items():
        values = [record[key] for record in records if key in record]
        values = ["default" if value == "" else f"{value:g}" if isinstance(value, float) else value for value in values]
        if said := list(dict.fromkeys(str(value) for value in values if value not in (None, "0"))):
            found[column] = ", ".join(said)
    return found


def write_model_comparison(folder: Path, comparison: dict) -> str:
    """Write comparison.html, comparison.md, comparison.tex and comparison.json.

    Args:
        folder: where to.
        comparison: of `compare`.

    Returns:
        comparison.md, a table.
    """
    columns, lines = _table(comparison)
    caption = caption_of(comparison)
    texts = [[_text(cell, "**") for cell in line] for line in lines]
    rule = ["---"] * len(columns)
    markdown = "\n".join(f"| {' | '.join(line)} |" for line in [columns, rule, *texts]) + f"\n\n{caption}\n"
    (folder / "comparison.md").write_text(markdown, "utf-8")
    (folder / "comparison.tex").write_text(_latex(columns, lines, caption), "utf-8")
    (folder / "comparison.json").write_text(json.dumps(comparison, indent=1) + "\n", "utf-8")
    names = [model["name"] for model in comparison["models"]]
    page = pages.render(
        "comparison.html.jinja",
        title=f"{len(names) - 1} models on {comparison['split']}",
        caption=caption,
        comparison=comparison,
        names=names,
        columns=columns,
        lines=lines,
        headings={key: CARD_METRICS[key] for key in comparison["models"][0]["figures"]},
        plots=[_plot(comparison["models"], figure) for figure in comparison["models"][0]["figures"]],
        by_class={"Recall": "recall", "F1": "f1"},
        short=_SHORT,
    )
    (folder / "comparison.html").write_text(page, "utf-8")
    return markdown


def caption_of(comparison: dict) -> str:
    """What was measured on what, for below a table."""
    among = comparison["expressions"]
    return " ".join(
        [
            f"{comparison['rows']:,} faces of {comparison['split']} of {comparison['data']}"
            + (f", among {', '.join(among)}" if len(among) < len(EXPRESSIONS) else "")
            + (f"; soft labels against {comparison['ground_truth']}" if comparison["ground_truth"] else "")
            + ".",
            *([comparison["protocol"]] if comparison["protocol"] else []),
            f"With 95 % bootstrap intervals ({comparison['resamples']:,} resamples of the faces); bold: the best of a "
            f"column; {ENSEMBLE}: the mean of the models' scores.",
            *_about_cost(comparison["models"]),
        ]
    )


def _table(comparison: dict) -> tuple[list[str], list[list[dict]]]:
    """Column names, and a line of cells {"text", "interval", "best"} for each model."""
    models = comparison["models"]
    figures = list(models[0]["figures"])
    costs = [key for key in _COST if any((model["cost"] or {}).get(key) for model in models)]
    recipe = [key for key in _RECIPE if any(model["recipe"].get(key) for model in models)]
    best = {figure: _best([model["figures"][figure]["value"] for model in models], figure) for figure in figures}
    lines = []
    for model in models:
        line = [_cell(model["name"])]
        for figure in figures:
            value, interval = model["figures"][figure].values()
            text = "" if value is None else f"{value:.3f}"
            line.append(_cell(text, interval and "{:.3f} to {:.3f}".format(*interval), value == best[figure]))
        for key in costs:
            value = (model["cost"] or {}).get(key)
            line.append(_cell("" if value is None else f"{value * _SCALE[key]:.3g}"))
        lines.append(line + [_cell(model["recipe"].get(key, "")) for key in recipe])
    return ["model", *(_SHORT[key] for key in figures), *(_COST[key] for key in costs), *recipe], lines


def _best(values: list[float | None], figure: str) -> float:
    return BEST[figure]((value for value in values if value is not None), default=np.nan)


def _cell(text: str, interval: str | None = None, best: bool = False) -> dict:
    return {"text": text, "interval": interval, "best": best}


def _text(cell: dict, bold: str = "") -> str:
    text = cell["text"].replace("|", "\\|") if bold else cell["text"]
    return (bold * cell["best"]) + text + (bold * cell["best"]) + (f" ({cell['interval']})" if cell["interval"] else "")


def _latex(columns: list[str], lines: list[list[dict]], caption: str) -> str:
    """A table for the package booktabs."""
    style = pd.DataFrame([[_text(cell) for cell in line] for line in lines], columns=columns).style
    bold = np.array([["textbf:--rwrap;" if cell["best"] else "" for cell in line] for line in lines])
    style = style.format(escape="latex").format_index(escape="latex", axis=1).hide(axis="index")
    style = style.apply(lambda _: bold, axis=None)
    caption = caption.translate({ord(letter): f"\\{letter}" for letter in "%_&#${}"})
    layout = "l" + "r" * (len(columns) - 1)
    return style.to_latex(hrules=True, column_format=layout, caption=caption, label="tab:comparison", position="t")


def _about_cost(models: list[dict]) -> list[str]:
    """How the cost was measured: no sentence, or one."""
    on: dict[str, list[str]] = {}
    for cost, name in ((model["cost"], model["name"]) for model in models if model["cost"]):
        on.setdefault(f"{cost['device']}, at a batch of {cost['batch_size']}", []).append(name)
    if not on:
        return []
    where = next(iter(on)) if len(on) == 1 else "; ".join(f"{place} ({', '.join(of)})" for place, of in on.items())
    return [f"ms: of a forward pass, without reading faces, in this run on {where}. FLOPs: a multiply-add is two."]


def _plot(models: list[dict], figure: str) -> dict:
    """Each model's value and interval in % of an axis that holds them all."""
    rows = [(model["name"], *model["figures"][figure].values()) for model in models]
    rows = [(name, value, interval or [value, value]) for name, value, interval in rows if value is not None]
    ends = [end for _, _, interval in rows for end in interval] or [0, 1]
    low, high = min(ends), max(ends)
    room = 0.04 * (high - low) or 0.01
    low = max(low - room, 0)
    width = high + room - low
    best = _best([value for _, value, _ in rows], figure)
    return {
        "figure": figure,
        "is_best": "lower" if BEST[figure] is min else "higher",
        "ends": (low, low + width),
        "rows": [
            {
                "name": name,
                "value": value,
                "best": value == best,
                "at": 100 * (value - low) / width,
                "left": 100 * (interval[0] - low) / width,
                "width": 100 * (interval[1] - interval[0]) / width,
            }
            for name, value, interval in rows
        ],
    }
