#!/usr/bin/env python
"""Does an EBC find what the faces show, and nothing else? One-vs-rest AUROC against the *true* dominant expression of
a synthetic release, for an EBC trained on its human labels and for one trained on the same labels shuffled (0.5 means
that nothing but the faces tells the label).

    python benchmarks/ebc_on_synthetic.py /tmp/ebc_on_synthetic
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from datasets import ClassLabel, DatasetDict, load_dataset
from record import RESULTS, write_result
from runner import ONE_THREAD
from sklearn.metrics import roc_auc_score
from transformers import pipeline

import affectnet_plus
from affectnet_plus import EXPRESSIONS
from affectnet_plus.synthetic import synthesize

TRAIN_EBC = Path(__file__).parents[1] / "training" / "train_ebc.py"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="a new folder for release, datasets and models")
    # A third of all pairs has no expression: 4,000 and 800 faces are left.
    parser.add_argument("--train", type=int, default=5970)
    parser.add_argument("--validation", type=int, default=1100)
    parser.add_argument("--image_size", type=int, default=48)
    parser.add_argument("--backbones", nargs="+", default=["test_resnet", "test_resnet", "test_vit"])
    args = parser.parse_args()

    release = args.folder / "AffectNet+"
    # At 112 px: faces are scaled down for the small networks anyway, and a JPEG of 224 px takes four times as long.
    synthesize(release, train=args.train, validation=args.validation, seed=0, image_size=112)
    rows = load_dataset(affectnet_plus.__name__, data_dir=str(release))
    dominant = true_dominant(release, rows["validation"])
    flags = ["--image_size", args.image_size, "--backbones", *args.backbones, "--per_device_train_batch_size", 32]
    result = {
        "seed": 0,
        "train": len(rows["train"]),
        "validation": len(rows["validation"]),
        "flags": flags,
        "auroc": {},
    }
    for name, data in [("human labels", rows), ("shuffled labels", shuffled(rows, seed=0))]:
        parquet, model = args.folder / name / "data", args.folder / name / "ebc"
        parquet.mkdir(parents=True)
        for split in data:
            data[split].select_columns(["image", "label"]).to_parquet(parquet / f"{split}.parquet")
        train(["--dataset_name", parquet, "--output_dir", model, *flags])
        answers = pipeline("soft-fer", faces="crop", model=str(model))(rows["validation"], batch_size=32)
        scores = np.array([list(answer["soft_label"].values()) for answer in answers])
        aurocs = {e: round(roc_auc_score(dominant == i, scores[:, i]), 4) for i, e in enumerate(EXPRESSIONS)}
        result["auroc"][name] = {"mean": round(np.mean(list(aurocs.values())), 4), **aurocs}
    write_result(RESULTS / "ebc_on_synthetic.json", result)
    print(json.dumps(result, indent=1))


def train(flags: list) -> None:
    """Half of the expressions in each of two processes with one thread: networks so small gain nothing by more. One of
    them trains the warm start, for which the other waits."""
    command = [
        sys.executable,
        str(TRAIN_EBC),
        "--eval_strategy",
        "no",
        "--dataloader_num_workers",
        "1",
        "--expressions",
    ]
    runs = [
        subprocess.Popen([*command, *half, *map(str, flags)], env=ONE_THREAD)
        for half in (EXPRESSIONS[:4], EXPRESSIONS[4:])
    ]
    if any([run.wait() for run in runs]):
        sys.exit("Training failed, see above.")


def true_dominant(release: Path, rows) -> np.ndarray:
    truth = pq.read_table(release / "ground_truth.parquet", filters=[("split", "==", "validation")]).to_pandas()
    intensities = truth.set_index("image_id")[[f"intensity_{name}" for name in EXPRESSIONS]]
    return intensities.loc[rows["image_id"][:]].to_numpy().argmax(axis=1)


def shuffled(rows: DatasetDict, seed: int) -> DatasetDict:
    """The same faces and the same labels, dealt out anew within each split."""
    rng = np.random.default_rng(seed)
    labels = ClassLabel(names=list(EXPRESSIONS))
    return DatasetDict(
        {
            split: data.remove_columns("label").add_column(
                "label", rng.permutation(np.array(data["label"][:])), feature=labels
            )
            for split, data in rows.items()
        }
    )


if __name__ == "__main__":
    main()
