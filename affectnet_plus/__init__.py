"""AffectNet+ for `datasets`: names, label orders, every release people hold, check and export.

AffectNet+ (Fard, Hosseini, Sweeny, Mahoor; IEEE Transactions on Affective Computing, 2025;
https://arxiv.org/abs/2410.22506) says for each face how far each of eight expressions is present at once.

    from datasets import load_dataset
    import affectnet_plus                     # makes the dataset known to `datasets`, the models to `transformers`
    ds = load_dataset("affectnet_plus", data_dir="/data/AffectNet+")     # or set AFFECTNET_PLUS_DIR
    fer = pipeline("soft-fer")                                           # that of `transformers`

The folders `modeling`, `training` and `synthetic` are `affectnet_plus.modeling` and so on: an installation takes no
other name. Importing this imports neither PyTorch nor `transformers`.

The images are licence-gated by the AffectNet team. They are read where they lie and never shipped.
"""

import importlib
from pathlib import Path

import wrapt

from .builder import AffectNetPlus, AffectNetPlusConfig, FerPlusConfig, register
from .columns import features
from .expressions import (
    ANGLES,
    CATEGORIES,
    ETHNICITIES,
    EXPRESSIONS,
    GENDERS,
    LABEL_ORDERS,
    SUBSETS,
    SYNONYMS,
    convert_indices,
    convert_names,
    convert_scores,
    match_expressions,
)
from .releases import DATA_DIR_VARIABLE, find_release, recognise
from .rows import ReleaseError

_clone = Path(__file__).parents[1]
# Where this is not installed, the other folders lie beside this one.
if (_clone / "setup.cfg").is_file() and (_clone / "modeling").is_dir():
    __path__.append(str(_clone))

register()


@wrapt.when_imported("transformers.models.auto.modeling_auto")
def _make_models_known(_) -> None:
    importlib.import_module("affectnet_plus.modeling")


@wrapt.when_imported("transformers.pipelines")
def _make_task_known(_) -> None:
    importlib.import_module("affectnet_plus.modeling.register_task")


__all__ = [
    "ANGLES",
    "CATEGORIES",
    "DATA_DIR_VARIABLE",
    "ETHNICITIES",
    "EXPRESSIONS",
    "GENDERS",
    "LABEL_ORDERS",
    "SUBSETS",
    "SYNONYMS",
    "AffectNetPlus",
    "AffectNetPlusConfig",
    "FerPlusConfig",
    "ReleaseError",
    "convert_indices",
    "convert_names",
    "convert_scores",
    "features",
    "find_release",
    "match_expressions",
    "recognise",
]
