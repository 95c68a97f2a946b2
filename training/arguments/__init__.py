"""The flags of all scripts, spelled as in transformers' examples, and how a script ends at what the user can mend."""

from .command_line import (
    NETWORKS_KEPT,
    NOTHING_KEPT,
    WHOLE_FILES_KEPT,
    exit_on_broken_image,
    exit_on_error,
    exit_with_error,
    parse_arguments,
    run_script,
)
from .data import CACHE_IMAGES, SOFT_LABELS_ORDER, DataArguments, TrainingDataArguments, is_synthetic
from .network import ExpertArguments, NetworkArguments, parse_prior
from .optimization import RECIPES, WORKERS_HELP, FoldArguments, OptimizationArguments
from .records import read_record
