"""All figures of one model on one split: what metrics.json holds of them."""

from collections.abc import Sequence

import numpy as np

from affectnet_plus import EXPRESSIONS, match_expressions
from affectnet_plus.training.faces import Split

from . import HumanLabels, SoftLabels, ValenceArousal, js_divergences
from .human import yardstick_of
from .slices import MARGIN, OWN_SCORES, interval, macro_f1_of, mean_of, slices_of, subsets_of


def measure(
    scores: np.ndarray, affect: np.ndarray, split: Split, ground_truth: np.ndarray | None,
    ground_truth_name: str = "the ground truth", expressions: Sequence[str] = EXPRESSIONS,
) -> dict:  # fmt: skip
    """Figures of all rows, with intervals, and for each slice the few that make sense of small groups.

    Args:
        scores: (N, 8) in [0, 1], 0 but for `expressions`.
        affect: (N, 2) predicted valence and arousal in [-1, 1], or (N, 0).
        split: the N rows.
        ground_truth: (N, 8) in [0, 1], 0 but for `expressions`, or None.
        ground_truth_name: what to call it.
        expressions: those that are measured.

    Returns:
        What metrics.json holds of figures.
    """
    predicted = scores.argmax(axis=1)
    statistics = {
        "accuracy": mean_of((predicted == split.labels).astype(float)),
        "macro_f1": macro_f1_of(predicted, split.labels),
    }
    if ground_truth is not None:
        strongest = np.where(ground_truth.any(axis=1), predicted == ground_truth.argmax(axis=1), np.nan)
        statistics |= {"js_divergence": mean_of(js_divergences(scores, ground_truth)), "top1": mean_of(strongest)}

    def figures(rows: np.ndarray, names: list[str]) -> dict:
        values = {name: round(float(statistics[name](rows[None])[0]), 5) for name in names}
        return values | {"intervals": {name: interval(statistics[name], rows) for name in names}}

    every = np.arange(len(split))
    human = HumanLabels(EXPRESSIONS).compute(predictions=predicted, references=split.labels)
    result = {"rows": len(split), **human, **figures(every, list(statistics))}
    if ground_truth is not None:
        ours, theirs = (values[:, match_expressions(expressions)] for values in (scores, ground_truth))
        soft = SoftLabels().compute(predictions=ours, references=theirs)
        result |= {name: round(value, 5) for name, value in soft.items() if name not in statistics}
    result |= yardstick_of(split, scores, expressions)
    annotated = split.affect()
    if affect.size and not np.isnan(annotated).all():
        result |= ValenceArousal().compute(predictions=affect, references=annotated)
    subset, source = subsets_of(split, ground_truth, ground_truth_name, scores)
    result["subset_source"] = source
    left_out = {"expression": ("macro_f1", "top1"), MARGIN: ("macro_f1",)}
    result["slices"] = {
        by: {
            name: {"rows": len(rows)} | figures(rows, [s for s in statistics if s not in left_out.get(by, ("top1",))])
            for name, rows in groups.items()
        }
        # By its own scores a model is right about all easy faces and no others.
        for by, groups in slices_of(split, None if source == OWN_SCORES else subset, ground_truth).items()
    }
    return result
