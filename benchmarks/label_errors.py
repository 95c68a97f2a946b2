#!/usr/bin/env python
"""Which ranking finds label errors best: ours or cleanlab's, all by the same cross-fitted scores?

    pip install cleanlab
    python benchmarks/label_errors.py demo RUNS/synthetic-14 RUNS/synthetic-15

Each folder holds a synthetic release, `AffectNet+`, and what label.py wrote of its training rows by experts that had
not seen them: `soft` (as `make demo` leaves it), or `folds/labels-of-train` (benchmarks/soft_labels.py). An error is a
human label that is not the expression with the highest true intensity. cleanlab takes distributions: scores divided by
their sum, once as label.py wrote them (the prior of the training split) and once for equally frequent expressions, as
show_label_errors.py has them.
"""

import argparse
from pathlib import Path

import numpy as np
from record import RESULTS, write_result
from sklearn.metrics import roc_auc_score

from affectnet_plus.training.arguments import DataArguments
from affectnet_plus.training.faces import known_truth, load_rows, read_soft_labels, split_to_label
from affectnet_plus.training.show_label_errors import for_equal_frequencies, losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", metavar="FOLDER", nargs="+", type=Path)
    parser.add_argument("--json", type=Path, default=RESULTS / "label_errors.json", help="for all figures")
    args = parser.parse_args()
    import cleanlab  # no dependency of this package: it is measured only

    releases = [measure(folder) for folder in args.folders]
    rankings = {
        name: {
            figure: {"mean": float(np.mean(values)), "std": float(np.std(values))}
            for figure in releases[0]["rankings"][name]
            for values in [[release["rankings"][name][figure] for release in releases]]
        }
        for name in releases[0]["rankings"]
    }
    for name, figures in rankings.items():
        print(f"{name:60}", {figure: round(value["mean"], 4) for figure, value in figures.items()})
    write_result(args.json, {"cleanlab": cleanlab.__version__, "rankings": rankings, "releases": releases})


def measure(folder: Path) -> dict:
    """Of one release: its rows and errors, and what each ranking finds of them."""
    data = DataArguments(data_dir=str(folder / "AffectNet+"))
    split = split_to_label(load_rows(data)["train"], data)
    soft = str(next(place for name in ("soft", "folds/labels-of-train") if (place := folder / name).is_dir()))
    truth, _ = known_truth(split, data)
    rows = np.flatnonzero(split.labels >= 0)
    labels, is_error = split.labels[rows], split.labels[rows] != truth[rows].argmax(axis=1)
    scores = read_soft_labels(soft, split)[rows]
    found = {
        name: figures(suspicion, is_error)
        for name, suspicion in rankings(labels, scores, for_equal_frequencies(soft, scores)).items()
    }
    return {"rows": len(rows), "errors": int(is_error.sum()), "rankings": found}


def rankings(labels: np.ndarray, scores: np.ndarray, balanced: np.ndarray) -> dict[str, np.ndarray]:
    """{ranking: (N,) the higher, the more suspicious}, by (N, 8) scores under two priors."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    own = np.arange(len(labels))
    human = balanced[own, labels]
    found = {
        "ours: BCE of all scores": losses(balanced, labels),
        "margin of scores": balanced.max(axis=1) - human,
    }
    for prior, values in (("train's prior", scores), ("equal frequencies", balanced)):
        shares = values / values.sum(axis=1, keepdims=True)
        for method in ("normalized_margin", "self_confidence", "confidence_weighted_entropy"):
            quality = get_label_quality_scores(labels, shares, method=method)
            found[f"cleanlab: {method}, {prior}"] = -quality
        # Those that it calls issues first, each part by their quality.
        issues = find_label_issues(labels, shares)
        found[f"cleanlab: find_label_issues, {prior}"] = issues - get_label_quality_scores(labels, shares)
    return found


def figures(suspicion: np.ndarray, is_error: np.ndarray) -> dict[str, float]:
    """AUROC, and the share of errors among the first 100 and among as many as there are."""
    first = is_error[np.argsort(-suspicion, kind="stable")]
    return {
        "auroc": round(float(roc_auc_score(is_error, suspicion)), 5),
        "precision_at_100": round(float(first[:100].mean()), 5),
        "precision_at_errors": round(float(first[: is_error.sum()].mean()), 5),
    }


if __name__ == "__main__":
    main()
