#!/usr/bin/env python
"""Is a network trained on soft targets better than the same one trained on the human label?

    python benchmarks/soft_targets.py FOLDER --seed 1                          # a synthetic release
    python benchmarks/soft_targets.py FOLDER --seed 1 --dataset_name FERPLUS   # real faces

Same backbone, budget and seed; only the target differs: the human label, the dataset's own soft label (of a synthetic
release machine-made, of FER+ the votes), the soft label that label.py makes by experts that never saw the row they
label, nor any soft label or vote, and its posterior after the human label, what label.py's students learn where nothing
else is asked for. It is calibrated and fused by the human labels of validation; and of a synthetic
release its AU experts are taught the true action units, so that there it knows more than human labels say. Measured on
validation by evaluate_model.py, against the true intensities or the votes.
FOLDER is that of benchmarks/soft_labels.py, whose experts in folds are used where they are there already. Some of the
targets can be left for another time: their figures join those that the file of results holds.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from record import RESULTS, write_result
from runner import Runner
from soft_labels import FOLDS, RECIPES, arguments, data_for

EPOCHS = {"synthetic": 30, "ferplus": 12}
STUDENT = ["--backbone", "test_resnet", "--learning_rate", 6e-3, "--warmup_steps", 0.1, "--per_image_standardization"]
SIZE = {"synthetic": [48, 32], "ferplus": [96, 64]}  # of a face in pixels, and of a batch
TARGETS = ("hard", "own", "made", "posterior")
COLUMNS = {"made": "soft_label", "posterior": "posterior"}  # of label.py
FIGURES = ("accuracy", "macro_f1", "js_divergence", "ece")


def main():
    targets = {"nargs": "+", "choices": list(TARGETS), "default": list(TARGETS), "help": "some of them"}
    experts_seed = {"type": int, "help": "of the experts whose labels are learned from FER+; default: --seed"}
    labels = {"type": Path, "help": "written by label.py for the training rows; default: made by experts in folds"}
    measure(arguments(__doc__, {"--targets": targets, "--experts_seed": experts_seed, "--labels": labels}))


def measure(args) -> None:
    yardstick = "ferplus" if args.dataset_name else "synthetic"
    recipe = RECIPES[yardstick]
    folder = args.folder / f"{yardstick}-{args.seed}"
    run = Runner(args, recipe, data_for(args, folder), folder)
    (size, batch), epochs = SIZE[yardstick], EPOCHS[yardstick]
    same = [*STUDENT, "--image_size", size, "--per_device_train_batch_size", batch, "--num_train_epochs", epochs]
    same += ["--eval_strategy", "no"]
    flags = {"hard": ["--target", "hard"], "own": ["--target", "distribution"]}
    result = {"yardstick": yardstick, "seed": args.seed, "epochs": epochs, "mixed_precision": args.mixed_precision}
    file = RESULTS / f"soft_targets-{yardstick}-{args.seed}.json"
    beside(file, result, args.targets)
    if of_experts := [name for name in args.targets if name in COLUMNS]:
        seed = args.experts_seed or args.seed
        if seed != args.seed and not args.dataset_name:
            sys.exit("--experts_seed is for --dataset_name: each synthetic seed has a release of its own.")
        labels = args.labels
        if labels is None:
            labelling = Runner(args, recipe, run.data, args.folder / f"{yardstick}-{seed}", seed)
            experts = labelling.experts("folds", FOLDS)
            labels = labelling.label("folds", experts, ["--splits", "train"], "labels-of-train")
        for name in of_experts:
            of_label = ["--soft_labels", labels, "--soft_labels_column", COLUMNS[name]]
            flags[name] = ["--target", "distribution", *of_label]

    def student(name: str) -> dict:
        model, report = folder / "targets" / name, folder / "targets" / f"report-{name}"
        run.train("train_soft_fer.py", model, [*same, *flags[name], "--seed", args.seed])
        run.launch("evaluate_model.py", report, ["--model", model, "--num_faces", 0])
        return json.loads((report / "metrics.json").read_text())

    with ThreadPoolExecutor(args.jobs) as threads:
        students = dict(zip(args.targets, threads.map(student, args.targets), strict=True))
    held = beside(file, result, args.targets)
    for name, measured in students.items():
        held["validation"][name] = {figure: round(measured[figure], 5) for figure in FIGURES}
        if name in COLUMNS:
            made_by = json.loads((labels / "label.json").read_text())["experts_sha256"]
            held["validation"][name] |= {"experts_seed": seed, "experts_sha256": made_by}
        result["rows"] = measured["rows"]
    write_result(file, held | result)
    print(file.read_text())


def beside(file: Path, settings: dict, targets: list[str]) -> dict:
    """What the file holds of other targets by now, which has to be of these settings."""
    held = json.loads(file.read_text()) if file.exists() else {}
    others = {name: figures for name, figures in held.get("validation", {}).items() if name not in targets}
    if others and any(held[name] != value for name, value in settings.items()):
        sys.exit(f"{file} is of other epochs or another precision: measure all targets anew, without --targets.")
    return held | {"validation": others} if others else {"validation": {}}


if __name__ == "__main__":
    main()
