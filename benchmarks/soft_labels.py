#!/usr/bin/env python
"""How near do soft labels come to the truth, and is each step of making them worth it?

    python benchmarks/soft_labels.py FOLDER --seed 1                          # a synthetic release, true intensities
    python benchmarks/soft_labels.py FOLDER --seed 1 --dataset_name FERPLUS   # real faces, ten people's votes
    python benchmarks/soft_labels.py FOLDER --seed 1 --dataset_name FERPLUS --one_vote

One run is one seed: EBC and AU experts, on all rows and in two folds, and label.py, by the plain lines of the README.
With --one_vote the human label of each face, of train as of validation, is one vote drawn from its ten, as AffectNet
has one annotator, and labels are compared with the other votes. What is done already is not done again, so a killed run
goes on. Figures go to benchmarks/results, tables of all seeds into docs/results.md by benchmarks/tables.py.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from datasets import load_dataset
from record import RESULTS, write_result
from runner import Runner
from scipy.optimize import minimize_scalar
from scipy.special import log_expit, log_softmax, logit, softmax
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader, Dataset
from transformers import AutoModelForImageClassification

from affectnet_plus import EXPRESSIONS
from affectnet_plus.modeling import mixed_log_odds
from affectnet_plus.synthetic import synthesize
from affectnet_plus.training.arguments import DataArguments
from affectnet_plus.training.faces import FaceDataset, Split, known_truth, load_split, read_soft_labels
from affectnet_plus.training.loop import predict
from affectnet_plus.training.metrics import SoftLabels
from affectnet_plus.training.soft_labels.calibration import fit_calibration, reexpress
from affectnet_plus.training.soft_labels.fusion import fit_fusion, fused_model
from affectnet_plus.training.soft_labels.posterior import PRECISION, fit_precision, posterior_of
from affectnet_plus.training.soft_labels.release_writer import DECIMALS

FOLDS = 2
HALVES = {"validation": "validation", "train": "folds"}  # rows measured: what --only calls it
PARTS = 10  # of validation: what is fitted on nine of them is measured on the tenth
# What is trained, by the lines of the README: epochs and learning rates are the defaults where nothing else is said.
RECIPES = {
    "synthetic": {
        "all": ["--image_size", 48, "--per_image_standardization", "--per_device_train_batch_size", 32],
        "ebc": ["--backbones", *["test_resnet"] * 3],
        "au": ["--backbone", "test_resnet"],
        "label_rows": None,
    },
    "ferplus": {
        # Enlarged, as this small network halves them early.
        "all": [
            *["--image_size", 48, "--upscale", 2, "--per_image_standardization", "--per_device_train_batch_size", 64],
            *["--checkpointing_steps", "no"],
        ],
        "ebc": [
            *["--backbones", *["test_resnet"] * 2],
            *["--warm_start_epochs", 28, "--warm_start_learning_rate", 6e-3],
        ],
        "au": ["--backbone", "test_resnet", "--warm_start_epochs", 6],
        "au_from_ebc": True,  # AU experts go on from the warm start of the EBC, for these epochs more
        "label_rows": 4000,  # of the training rows, by experts that saw them and by experts that did not
    },
}


def main():
    only = {"choices": list(HALVES.values()), "help": "one half of it: the other takes as long"}
    one_vote = {"action": "store_true", "help": "of --dataset_name (with counts in `votes`): one vote as human label"}
    measure(arguments(__doc__, {"--only": only, "--one_vote": one_vote}))


def arguments(doc: str, own_flags: dict[str, dict]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=doc.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="for releases, runs and labels; 400 MB a synthetic seed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dataset_name", help="FER+ as a dataset (train, validation), instead of a synthetic release")
    for flag, more in own_flags.items():
        parser.add_argument(flag, **more)
    parser.add_argument("--jobs", type=int, default=1, help="commands that run at a time")
    parser.add_argument("--workers", type=int, default=1, help="processes that load faces, of each command")
    parser.add_argument("--mixed_precision", default="no", choices=["no", "bf16"])
    return parser.parse_args()


def measure(args) -> None:
    """All of it, or one half of it beside what the file of results holds of the other."""
    yardstick = "ferplus" if args.dataset_name else "synthetic"
    recipe = RECIPES[yardstick]
    yardstick += "_one_vote" * args.one_vote
    folder = args.folder / f"{yardstick}-{args.seed}"
    data = data_for(args, folder)
    run = Runner(args, recipe, data, folder)
    file = RESULTS / f"soft_labels-{yardstick}-{args.seed}.json"
    result = {"yardstick": yardstick, "seed": args.seed, "mixed_precision": args.mixed_precision}
    result["recipe"] = {half: recipe for half in HALVES if args.only in (None, HALVES[half])}
    beside(file, result, bool(args.only))
    if args.only != "folds":
        result |= measure_validation(run, data)
    if args.only != "validation":
        result |= measure_folds(run, data, recipe["label_rows"])
    write_result(file, beside(file, result, bool(args.only)))
    print(file.read_text())


def beside(file: Path, result: dict, only_half: bool) -> dict:
    """What the file holds of the other half, and the result; the other half may have been written in the meantime."""
    earlier = json.loads(file.read_text()) if only_half and file.exists() else {}
    if earlier.get("mixed_precision", result["mixed_precision"]) != result["mixed_precision"]:
        sys.exit(f"{file} is of another precision: measure both halves anew, without --only.")
    return earlier | result | {"recipe": earlier.get("recipe", {}) | result["recipe"]}


def measure_validation(run: "Runner", data: list) -> dict:
    evaluation = with_truth(load_split(data_arguments(data), "validation", with_soft_labels=True), data)
    kinds = run.experts("all")
    labels = run.label("all", kinds, ["--splits", "validation"])
    model = AutoModelForImageClassification.from_pretrained(labels / "model")
    of_train, of_validation = priors_of(model)
    written = read_soft_labels(labels, evaluation)
    views = log_odds_of(model, evaluation, run.precision)
    fused = fused_model(model.ebc, model.au, tta=True)
    everything = np.arange(len(evaluation))
    starts = [path for kind in ("au", "ebc") for path in sorted(kinds[kind].glob("warm_start/*"))]
    outputs = [start_outputs(start, evaluation) for start in starts]
    measured = {
        **references(evaluation),
        "softmax": figures(softmax(outputs[0], axis=1), evaluation),
        "softmax_temperature": figures(held_out(cooled, evaluation, outputs[0])["softmax"], evaluation),
        "starts": figures(np.mean([softmax(o, axis=1) for o in outputs], axis=0), evaluation),
        "uncalibrated": figures(scores_of(fused, views, everything)["fused"], evaluation),
        **{
            name: figures(scores, evaluation) for name, scores in held_out(calibrated, evaluation, fused, views).items()
        },
        "fused_on_the_same": figures(reexpress(written, of_train, of_validation), evaluation),
        "as_written": figures(written, evaluation),
    }
    return {"validation_rows": len(evaluation), "validation": measured, "cost": run.cost("all")}


def data_for(args, folder: Path) -> list[str]:
    """The flag that names the faces; a synthetic release is drawn where there is none."""
    if args.dataset_name and getattr(args, "one_vote", False):
        return ["--dataset_name", str(one_vote_a_face(args.dataset_name, folder / "data", args.seed))]
    if args.dataset_name:
        return ["--dataset_name", args.dataset_name]
    release = folder / "AffectNet+"
    if not release.exists():  # a third of all pairs has no expression: 4,000 and 800 faces are left
        synthesize(release, train=5970, validation=1100, seed=args.seed, image_size=64)
    return ["--data_dir", str(release)]


def priors_of(model) -> list[np.ndarray]:
    """(8,) each: what the experts of a fused model are calibrated to, and how frequent validation's labels are."""
    calibrations = [model.ebc.config.calibration[name] for name in EXPRESSIONS]
    return [np.array([c[key] for c in calibrations]) for key in ("prior", "validation_frequency")]


def one_vote_a_face(dataset_name: str, folder: Path, seed: int) -> Path:
    """The same faces, whose `label` is one vote for an expression, drawn from `votes`, and whose `soft_label` are the
    shares of the other votes for one; faces with fewer than two such votes are left out."""
    if folder.exists():
        return folder
    rng = np.random.default_rng(seed)
    unfinished = folder.with_name(".data")
    unfinished.mkdir(parents=True, exist_ok=True)
    for split, rows in load_dataset(dataset_name).items():
        names = rows.features["label"].names
        votes = np.array(rows["votes"][:])[:, : len(names)]
        some = np.flatnonzero(votes.sum(axis=1) >= 2)
        rows, votes = rows.select(some), votes[some]
        drawn = (rng.random((len(votes), 1)) < np.cumsum(votes / votes.sum(axis=1, keepdims=True), axis=1)).argmax(
            axis=1
        )
        votes[np.arange(len(votes)), drawn] -= 1
        others = votes / votes.sum(axis=1, keepdims=True)
        features = rows.features
        rows = rows.remove_columns(["label", "soft_label"])
        rows = rows.add_column("label", drawn.tolist(), feature=features["label"])
        rows.add_column("soft_label", others.tolist(), feature=features["soft_label"]).to_parquet(
            unfinished / f"{split}-00000-of-00001.parquet"
        )
    return unfinished.rename(folder)


def measure_folds(run: "Runner", data: list, rows: int | None) -> dict:
    """Training rows, labelled by the experts of one fold that have not seen them, and of the other that have."""
    labels = run.label("folds", run.experts("folds", FOLDS), ["--splits", "validation"])
    train = with_truth(load_split(data_arguments(data), "train", with_soft_labels=True), data)
    fold_of = train.folds(FOLDS)
    more = ["--splits", "train", *(["--max_samples", rows] if rows else [])]
    wanted = np.arange(min(rows or len(train), len(train)))
    train, fold_of = train.select(wanted), fold_of[wanted]
    by_fold = []
    for fold in range(FOLDS):
        name = f"labels-of-{fold}"
        run.label("folds", {"model": labels / f"models/fold-{fold}"}, more, name)
        by_fold.append(read_soft_labels(run.folder / "folds" / name, train))
    scores = {  # every expert has seen a row but those of its fold
        "seen": np.stack(by_fold)[(fold_of + 1) % FOLDS, np.arange(len(train))],
        "cross_fitted": np.stack(by_fold)[fold_of, np.arange(len(train))],
    }
    model = AutoModelForImageClassification.from_pretrained(labels / "models/fold-0")  # all folds have the same
    scores["of_validation"] = reexpress(scores["cross_fitted"], *priors_of(model))
    scores["posterior"] = posterior_of(scores["cross_fitted"], train.labels, PRECISION)
    fitted = None
    if "--dataset_name" in data:  # several votes a face: also on validation, where the precision is fitted
        evaluation = load_split(data_arguments(data), "validation", with_soft_labels=True)
        fitted = fit_precision(read_soft_labels(labels, evaluation), evaluation.labels, evaluation.soft_labels)
        scores["posterior_fitted"] = posterior_of(scores["cross_fitted"], train.labels, fitted)

    def compared(rows: np.ndarray) -> dict:
        split = train.select(rows)
        of_rows = {name: figures(values[rows], split) for name, values in scores.items()}
        return {"rows": len(rows), **references(split), **of_rows}

    result = {"train": compared(wanted), "precision": PRECISION, "precision_fitted": fitted}
    result["js_by_human_share"] = {
        f"{share:.1f}": figures(posterior, train)["js_divergence"]
        for share in np.arange(1, 11) / 10
        for posterior in [posterior_of(scores["cross_fitted"], train.labels, 1 / share - 1)]
    }
    is_wrong = train.labels != train.soft_labels.argmax(axis=1)
    if is_wrong.any():  # FER+'s label is that of most votes
        result["train, wrongly labelled"] = compared(np.flatnonzero(is_wrong))
        result["auroc_of_wrong_labels"] = {
            name: auroc_of_margin(values, train.labels, is_wrong) for name, values in scores.items()
        }
    return result


def auroc_of_margin(scores: np.ndarray, labels: np.ndarray, is_wrong: np.ndarray) -> float:
    """How well wrong labels are found by the margin of show_label_errors.py: highest score minus their own."""
    margin = scores.max(axis=1) - scores[np.arange(len(labels)), labels]
    return round(float(roc_auc_score(is_wrong, margin)), 5)


def data_arguments(data: list) -> DataArguments:
    return DataArguments(**{data[0].removeprefix("--"): data[1]})


def with_truth(split: Split, data: list) -> Split:
    """FER+ holds the votes as its soft label; of a synthetic release, whose own are made up, take the intensities."""
    split.soft_labels, _ = known_truth(split, data_arguments(data))
    return split


def figures(scores: np.ndarray, split: Split) -> dict[str, float]:
    """Of scores rounded as label.py does it: rows with ties and rows without have other rank correlations."""
    metric, scores = SoftLabels(), scores.round(DECIMALS)
    result = metric.compute(predictions=scores, references=split.soft_labels)
    of_labels = metric.compute(predictions=scores, references=np.eye(len(EXPRESSIONS))[split.labels])
    more = {"ece_labels": of_labels["ece"], "auroc": auroc(np.array(scores), split.soft_labels.argmax(axis=1))}
    return {name: round(value, 5) for name, value in (result | more).items()}


def auroc(scores: np.ndarray, dominant: np.ndarray) -> float:
    """Mean over the expressions, one against the others, of the score (rows, 8) against the true first expression."""
    kinds = [i for i in range(len(EXPRESSIONS)) if 0 < (dominant == i).sum() < len(dominant)]
    return float(np.mean([roc_auc_score(dominant == i, scores[:, i]) for i in kinds]))


def references(split: Split) -> dict:
    one_hot = np.eye(len(EXPRESSIONS))[split.labels]
    return {
        "one_hot": figures(one_hot, split),
        "smoothed": figures(0.9 * one_hot + 0.1 / len(EXPRESSIONS), split),
    }


def start_outputs(folder: Path, split: Split) -> np.ndarray:
    """(rows, 8) outputs of a classifier before its softmax, up to a constant of the row: the mean of those of each
    face and of its mirror image, as experts have it."""
    model = AutoModelForImageClassification.from_pretrained(folder)
    faces = FaceDataset(split, model.image_processor)
    views = [DataLoader(view, 64) for view in (faces, Mirrored(faces))]
    return np.mean([log_expit(predict(Accelerator(cpu=True), model, view)["logits"]) for view in views], axis=0)


class Mirrored(Dataset):
    def __init__(self, faces: FaceDataset):
        self.faces = faces

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, row: int) -> dict:
        return {"pixel_values": self.faces[row]["pixel_values"].flip(2)}


def held_out(fit, split: Split, *inputs) -> dict[str, np.ndarray]:
    """Scores (rows, 8) by `fit(labels, fitting, measured, *inputs)`, which fits on a part of the rows and gives scores
    for the others: each row is measured once, and never fitted on."""
    parts = np.random.default_rng(0).permutation(len(split)) % PARTS
    scores = {}
    for part in range(PARTS):
        measured = np.flatnonzero(parts == part)
        for name, values in fit(split.labels, np.flatnonzero(parts != part), measured, *inputs).items():
            scores.setdefault(name, np.zeros((len(split), len(EXPRESSIONS))))[measured] = values
    return scores


def cooled(labels: np.ndarray, fitting: np.ndarray, measured: np.ndarray, outputs: np.ndarray) -> dict:
    """A classifier's scores, divided by the temperature under which the human labels are most likely."""

    def loss(temperature):
        return -log_softmax(outputs[fitting] / temperature, axis=1)[np.arange(len(fitting)), labels[fitting]].mean()

    temperature = minimize_scalar(loss, bounds=(0.2, 5), method="bounded").x
    return {"softmax": softmax(outputs[measured] / temperature, axis=1)}


def calibrated(labels: np.ndarray, fitting: np.ndarray, measured: np.ndarray, model, views: list[dict]) -> dict:
    """Scores of both experts and fused: calibrated and weighted as train_ebc.py, train_au.py and label.py do it."""
    for i, name in enumerate(EXPRESSIONS):
        is_expression = labels[fitting] == i
        for expert, log_odds in ((model.ebc, views[0]["ebc"][fitting, i]), (model.au, views[0]["au"][fitting, i])):
            expert.config.calibration[name] = fit_calibration(log_odds, is_expression)
    fitted = scores_of(model, views, fitting)
    fit_fusion(model, logit(fitted["ebc"]), logit(fitted["au"]), labels[fitting])
    return scores_of(model, views, measured)


def log_odds_of(model, split: Split, precision: str) -> list[dict[str, np.ndarray]]:
    """Of the faces and of their mirror images: "ebc" (rows, 8, classifiers), "au" (rows, 8, 1). The model's experts
    forget what they were calibrated to."""
    for expert in (model.ebc, model.au):
        expert.config.calibration = {}
    views = [{"ebc": [], "au": []}, {"ebc": [], "au": []}]
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    for batch in DataLoader(FaceDataset(split, model.image_processor), 64):
        for view, pixel_values in zip(views, (batch["pixel_values"], batch["pixel_values"].flip(3)), strict=True):
            with torch.no_grad(), accelerator.autocast():
                view["ebc"].append(model.ebc(pixel_values).classifier_logits.double().numpy())
                view["au"].append(model.au(pixel_values).logits[..., None].double().numpy())
    return [{kind: np.concatenate(values) for kind, values in view.items()} for view in views]


def scores_of(model, views: list[dict], rows: np.ndarray) -> dict[str, np.ndarray]:
    """ "ebc", "au", "fused", (rows, 8) each, as the model combines log-odds under its present config."""
    ebc, au = (torch.from_numpy(np.stack([view[kind][rows] for view in views])) for kind in ("ebc", "au"))
    ebc = torch.stack([model.ebc.combine(view) for view in ebc]).mean(dim=0)
    au = torch.stack([model.au.calibrate(view[..., 0]) for view in au]).mean(dim=0)
    weights = ebc.new_tensor([model.config.ebc_weights.get(name, 0.5) for name in EXPRESSIONS])
    fused = mixed_log_odds(ebc, au, weights)
    return {name: values.sigmoid().numpy() for name, values in (("ebc", ebc), ("au", au), ("fused", fused))}


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
