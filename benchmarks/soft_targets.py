#!/usr/bin/env python
"""Is a network taught soft labels better than the same one taught the human label?

    python benchmarks/soft_targets.py FOLDER --seed 1                          # a synthetic release
    python benchmarks/soft_targets.py FOLDER --seed 1 --dataset_name FERPLUS   # real faces
    python benchmarks/soft_targets.py --tables                                 # what all seeds so far have given

Same backbone, budget and seed; only the target differs: the human label, the dataset's own soft label (of a synthetic
release machine-made, of FER+ the votes), and the soft label that label.py makes by experts that saw human labels only
and never the row they label. Measured on validation by evaluate_model.py, against the true intensities or the votes.
FOLDER is that of benchmarks/soft_labels.py, whose experts in folds are used where they are there already.
"""

import json

import numpy as np
from soft_labels import FOLDS, RECIPES, RESULTS, Runner, arguments, data_for, mean_and_spread

EPOCHS = {"synthetic": 30, "ferplus": 12}
TARGETS = {
    "hard": "human label",
    "own": "the dataset's soft labels",
    "made": "soft labels of label.py",
}
FIGURES = {"accuracy": "accuracy", "macro_f1": "macro F1", "js": "JS", "ece": "ECE"}


def main():
    args = arguments(__doc__, "--skip_made", action="store_true", help="leave out the soft labels of label.py")
    if args.tables:
        for yardstick in RECIPES:
            print_table(yardstick)
    else:
        measure(args)


def measure(args) -> None:
    yardstick = "ferplus" if args.dataset_name else "synthetic"
    recipe = RECIPES[yardstick]
    folder = args.folder / f"{yardstick}-{args.seed}"
    run = Runner(args, recipe, data_for(args, folder), folder)
    epochs = EPOCHS[yardstick]
    same = ["--backbone", recipe["backbone"], "--num_train_epochs", epochs, "--learning_rate", recipe["starts"][0][1]]
    flags = {"hard": ["--target", "hard"], "own": ["--target", "distribution"]}
    if not args.skip_made:
        labels = run.label("folds", run.experts("folds", ["--num_folds", FOLDS]), [], "labels-of-all")
        flags["made"] = ["--target", "distribution", "--soft_labels", labels]
    models = {name: folder / "targets" / name for name in flags}
    for name, model in models.items():
        run.train("train_soft_fer.py", model, [*same, *flags[name], "--seed", args.seed])
    result = {"yardstick": yardstick, "seed": args.seed, "epochs": epochs, "mixed_precision": args.mixed_precision}
    result["validation"] = {}
    for name, model in models.items():
        report = folder / "targets" / f"report-{name}"
        run.launch("evaluate_model.py", report, ["--model", model, "--num_faces", 0])
        measured = json.loads((report / "metrics.json").read_text())
        result["rows"] = measured["rows"]
        result["validation"][name] = {figure: round(measured[figure], 5) for figure in FIGURES}
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"soft_targets-{yardstick}-{args.seed}.json"
    file.write_text(json.dumps(result, indent=1) + "\n")
    print(file.read_text())


def print_table(yardstick: str) -> None:
    results = [json.loads(file.read_text()) for file in sorted(RESULTS.glob(f"soft_targets-{yardstick}-*.json"))]
    if not results:
        return
    print(f"\n{yardstick}, validation, {len(results)} seeds\n")
    print(f"| taught | seeds | {' | '.join(FIGURES.values())} |\n{'|---' * (len(FIGURES) + 2)}|")
    for target, title in TARGETS.items():
        held = [result["validation"][target] for result in results if target in result["validation"]]
        if held:
            values = [np.array([figures[name] for figures in held]) for name in FIGURES]
            print(f"| {title} | {len(held)} | {' | '.join(map(mean_and_spread, values))} |")


if __name__ == "__main__":
    main()
