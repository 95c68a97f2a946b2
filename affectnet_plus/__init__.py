"""AffectNet+ for `datasets`: names, label orders, every release people hold, check and export.

AffectNet+ (Fard, Hosseini, Sweeny, Mahoor; IEEE Transactions on Affective Computing, 2025;
https://arxiv.org/abs/2410.22506) says for each face how far each of eight expressions is present at once.

    from datasets import load_dataset
    import affectnet_plus                                                # makes the name known to `datasets`
    ds = load_dataset("affectnet_plus", data_dir="/data/AffectNet+")     # or set AFFECTNET_PLUS_DIR

The images are licence-gated by the AffectNet team. They are read where they lie and never shipped.
"""

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

register()

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
