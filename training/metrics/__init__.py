"""Metrics as `evaluate.Metric`s that need no download and take NumPy arrays."""

import numpy as np

from .affect import ValenceArousal
from .classification import HumanLabels, OneVsRest
from .soft_labels import SoftLabels, js_divergence, js_divergences, ranks_of

__all__ = [
    "HumanLabels",
    "OneVsRest",
    "SoftLabels",
    "ValenceArousal",
    "nan_to_none",
    "js_divergence",
    "js_divergences",
    "ranks_of",
]


def nan_to_none(value):
    """The same dicts, lists and numbers with None for NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {key: nan_to_none(item) for key, item in value.items()}
    if isinstance(value, list):
        return [nan_to_none(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value
