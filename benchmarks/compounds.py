#!/usr/bin/env python
"""Is the compound that an answer names the pair of expressions that the face was drawn to show?

    python benchmarks/compounds.py RUNS --seeds 14 15

RUNS is that of benchmarks/soft_labels.py, whose validation labels of synthetic releases (fused experts) are taken.
Two are present where two true intensities other than neutral's are at least 0.3.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq
from record import RESULTS, write_result

from affectnet_plus import EXPRESSIONS
from affectnet_plus.modeling import COMPOUND_THRESHOLD, strongest_pair

PRESENT = 0.3  # true intensity
THRESHOLDS = (0.1, 0.15, COMPOUND_THRESHOLD, 0.25, 0.3)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="of benchmarks/soft_labels.py")
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    args = parser.parse_args()
    figures = [of_seed(args.folder / f"synthetic-{seed}") for seed in args.seeds]
    result = {
        "seeds": args.seeds,
        "faces": figures[0].pop("faces"),
        "threshold": COMPOUND_THRESHOLD,
        "by_threshold": {
            str(threshold): {
                name: round(float(np.mean([of_seed[threshold][name] for of_seed in figures])), 4)
                for name in figures[0][threshold]
            }
            for threshold in THRESHOLDS
        },
    }
    write_result(RESULTS / "compounds.json", result)
    print(json.dumps(result, indent=1))


def of_seed(folder: Path) -> dict:
    labels = (
        pyarrow.dataset.dataset(sorted((folder / "all/labels").glob("validation-*.parquet"))).to_table().to_pandas()
    )
    truth = pq.read_table(folder / "AffectNet+/ground_truth.parquet").to_pandas()
    truth = truth[truth["split"] == "validation"]
    truth = truth.set_index(truth["image_id"].astype(str)).loc[labels["image_id"].astype(str)]
    true = pairs(truth[[f"intensity_{name}" for name in EXPRESSIONS]].to_numpy(), PRESENT)
    scores = np.array(labels["soft_label"].tolist())
    two = np.array([bool(both) for both in true])
    found = {"faces": len(true)}
    for threshold in THRESHOLDS:
        named = pairs(scores / scores.sum(axis=1, keepdims=True), threshold)
        right = np.array([both == other for both, other in zip(named, true, strict=True)])
        any_named = np.array([bool(both) for both in named])
        found[threshold] = {
            "two_present": two.mean(),
            "pair_named_where_two": right[two].mean(),
            "some_named_where_two": any_named[two].mean(),
            "some_named_where_fewer": any_named[~two].mean(),
        }
    return found


def pairs(rows: np.ndarray, threshold: float) -> list[frozenset]:
    return [frozenset(strongest_pair(dict(zip(EXPRESSIONS, row, strict=True)), threshold)) for row in rows]


if __name__ == "__main__":
    main()
