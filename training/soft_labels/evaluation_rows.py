"""The labelled rows that experts are fused on, and what their human labels say."""

from dataclasses import replace

import numpy as np

from affectnet_plus import SUBSETS
from affectnet_plus.training.arguments import TrainingDataArguments
from affectnet_plus.training.faces import Split, load_split
from affectnet_plus.training.soft_labels.cross_fitting import experts_of


def load_evaluation(data_args) -> Split:
    """The labelled rows on which experts are fused: of all expressions and subsets, whatever is labelled."""
    return load_split(of_all_labelled(data_args), data_args.eval_split_name, with_soft_labels=True)


def of_all_labelled(data_args):
    if data_args.dataset_config_name in (*SUBSETS, "human_annotated_all", "no_human_annotated"):
        return replace(data_args, dataset_config_name="human_annotated")
    return data_args


def labels_of(data_args, folds: dict, split: str, evaluation: Split | None) -> np.ndarray:
    """The human labels of the split that experts were trained on ("train"), or of the validation split."""
    if split == "validation":
        return (evaluation or load_evaluation(data_args)).labels
    record = next(record for part in experts_of(folds) for record in part.training.values())
    return load_split(of_all_labelled(data_args), record.get("split", TrainingDataArguments.train_split_name)).labels


def check_votes(data_args, evaluation: Split) -> None:
    """Raise `ValueError` where nothing says that the soft labels of the split are several people's votes."""
    of_release = not (data_args.dataset_name or data_args.votes) and data_args.release()[1] != "ferplus"
    sums = None if evaluation.soft_labels is None else np.nansum(evaluation.soft_labels, axis=1)
    if of_release or sums is None or (sums > 1.01).any():
        what = "has no soft labels" if sums is None else "has soft labels that are no shares of people's votes"
        raise ValueError(
            f"--prior_precision fit: {evaluation.name} {what}. From one human label a face it cannot be fitted, as the "
            "likelihood of single labels does not depend on it: give a number."
        )
