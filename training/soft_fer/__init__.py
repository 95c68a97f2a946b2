"""Soft-FER models: what they are asked to learn."""

from .arguments import SoftFerArguments
from .targets import (
    add_soft_labels,
    check_affect,
    complete_by_human_labels,
    expressions_to_learn,
    groups_of,
    labelled_as,
    of_subset,
    targets_of,
    warn_of_absent_expressions,
)
from .teacher import batch_alteration, digest_of, load_teacher
