"""AffectNet+: faces in the wild, each with a soft label that says how far eight expressions are present at once.

    from datasets import load_dataset
    import affectnet_plus                     # makes the dataset known to `datasets`, the models to `transformers`
    ds = load_dataset("affectnet_plus", data_dir="/data/AffectNet+")     # or set AFFECTNET_PLUS_DIR
    fer = pipeline("soft-fer")                                           # that of `transformers`

The eight, in the order of every soft label and class index, are neutral, happy, sad, surprise, fear, disgust, anger,
contempt. A soft label holds a confidence in [0, 1] for each; they are independent and do not sum to one.

Fard, Hosseini, Sweeny, Mahoor: "AffectNet+: A Database for Enhancing Facial Expression Recognition with Soft-Labels",
IEEE Transactions on Affective Computing, 2025, https://arxiv.org/abs/2410.22506. The images are licence-gated by the
AffectNet team. They are read where they lie and never shipped.

This file has the columns (`features`), the configurations and the builder. How the files of each release are read is in
`affectnet_plus.releases`. Importing this imports neither PyTorch nor `transformers`.
"""

import functools
import importlib
import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import datasets
import datasets.inspect
import wrapt
from datasets.builder import Key
from datasets.load import DatasetModule
from datasets.table import table_cast

# `affectnet_plus.releases`, `.modeling`, `.training` and `.synthetic` lie beside this file in a clone, and in a folder
# of its name where it is installed, so that an installation takes no name but this and the command's. A module with a
# path is a package.
_installed = Path(__file__).with_suffix("")
__path__ = [str(_installed if (_installed / "releases").is_dir() else _installed.parent)]

from affectnet_plus.releases import __version__, rows, skipped, tree
from affectnet_plus.releases.expressions import (
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
from affectnet_plus.releases.ferplus import VOTES
from affectnet_plus.releases.files import size_of
from affectnet_plus.releases.find import DATA_DIR_VARIABLE, LAYOUTS, find_release, is_export, recognise
from affectnet_plus.releases.rows import Damage, ReleaseError

__all__ = [
    "ANGLES", "CATEGORIES", "DATA_DIR_VARIABLE", "ETHNICITIES", "EXPRESSIONS", "GENDERS", "LABEL_ORDERS", "SUBSETS",
    "SYNONYMS", "AffectNetPlus", "AffectNetPlusConfig", "FerPlusConfig", "ReleaseError", "__version__",
    "convert_indices", "convert_names", "convert_scores", "features", "find_release", "match_expressions", "recognise",
]  # fmt: skip


def features(categories: tuple[str, ...] = EXPRESSIONS, votes: bool = False) -> datasets.Features:
    """The columns of every configuration. What a row lacks is null.

    - `image`: the face crop, 224 x 224 in AffectNet. The table holds its path, and its bytes only where the release
      has no file of the face itself.
    - `image_id`: N of images/N.jpg, or the row of a CSV file. It repeats across splits: a row is known by (split,
      image_id).
    - `label`: the human label, but that of a network in the split automatically_annotated of the release of 2017.
      Null without any.
    - `soft_label`: (8,) in the order of `EXPRESSIONS`, each in [0, 1] and independent: they do not sum to one.
    - `subset`: the rank of the human label among the soft label's scores (1 easy, 2-3 challenging, 4-8 difficult).
    - `age`: whole years. `gender`, `ethnicity`: a score in [0, 1] per class that sums to about one.
    - `head_pose`: the released numbers, seen in [-0.45, 0.39]. Their unit is not documented; they are not degrees.
    - `landmarks_68`, `landmarks_29`: (68, 2) and (29, 2) of (x, y), pixels of the crop; some lie outside it.
      The 29 are null unless the file has 58 plain numbers, as their layout is not documented.
    - `valence`, `arousal`: [-1, 1]. The release's -2 means not available and is null here.
    - `votes` (FER+ only): how many of ten people chose each expression, "unknown" and "not a face". `soft_label` is
      the share of each expression among the votes for one, and sums to one there.

    Array2D gives batches of landmarks as one array, 30 to 300 times as fast as nested lists, also where some are null.
    `Dataset.to_json` of it writes one number in place of the points (docs/data.md has the cast that helps).
    """
    score = datasets.Value("float32")
    columns = datasets.Features(
        {
            "image": datasets.Image(),
            "image_id": datasets.Value("int64"),
            "label": datasets.ClassLabel(names=list(categories)),
            "soft_label": datasets.List(score, length=len(EXPRESSIONS)),
            "subset": datasets.ClassLabel(names=list(SUBSETS)),
            "age": datasets.Value("int32"),
            "gender": dict.fromkeys(GENDERS, score),
            "ethnicity": dict.fromkeys(ETHNICITIES, score),
            "head_pose": dict.fromkeys(ANGLES, score),
            "landmarks_68": datasets.Array2D((68, 2), "float32"),
            "landmarks_29": datasets.Array2D((29, 2), "float32"),
            "valence": score,
            "arousal": score,
        }
    )
    if votes:
        columns["votes"] = dict.fromkeys(VOTES, datasets.Value("int32"))
    return columns


@dataclass
class AffectNetPlusConfig(datasets.BuilderConfig):
    """`data_dir` is the release itself, as `find_release` gives it.

    `on_error`: "raise" stops at the first row that is broken; "skip" leaves broken rows out, and says how many and
    which in one warning and in a file `skipped.jsonl` beside the cached table.
    """

    on_error: str = "raise"

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        # The key of the cache: other files, another table.
        state = LAYOUTS[self.name].times(self.data_dir, self)
        return super().create_config_id({**config_kwargs, "state": str(state)}, custom_features)

    def check(self) -> None:
        """Raises `ReleaseError` where an option is none that is known."""
        _check_choice("on_error", self.on_error, ("raise", "skip"))


@dataclass
class FerPlusConfig(AffectNetPlusConfig):
    """What becomes of faces without one leading expression: each is "drop" or "keep", then with `label` null.

    `ties`: several of the ten categories share the most votes. `unknown`, `not_a_face`: that category leads.
    Faces whose image name is empty have been withdrawn by FER+ itself and are never read.
    """

    ties: str = "drop"
    unknown: str = "drop"
    not_a_face: str = "drop"

    def check(self) -> None:
        super().check()
        for rule in ("ties", "unknown", "not_a_face"):
            _check_choice(rule, getattr(self, rule), ("drop", "keep"))


def _check_choice(name: str, value, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ReleaseError(f"{name}={value!r} is not known: pass {' or '.join(map(repr, known))}.")


class AffectNetPlus(datasets.ArrowBasedBuilder):
    """Reads a release from disk; one Arrow table per shard of rows, so memory does not grow with the release."""

    BUILDER_CONFIG_CLASS = AffectNetPlusConfig
    BUILDER_CONFIGS = [
        AffectNetPlusConfig(name="human_annotated", description="Rows with one of the eight expressions."),
        *(AffectNetPlusConfig(name=name, description=f"Rows of the subset {name!r}.") for name in SUBSETS),
        AffectNetPlusConfig(name="human_annotated_all", description="Also rows labelled none, uncertain, non-face."),
        AffectNetPlusConfig(name="no_human_annotated", description="Rows that no human has labelled."),
        AffectNetPlusConfig(name="affectnet_2021", description="AffectNet as released in 2021: no soft labels."),
        AffectNetPlusConfig(
            name="affectnet_2017",
            description="AffectNet as released in 2017, faces cut out of the photographs: no soft labels. "
            "The labels of automatically_annotated are a network's, not people's.",
        ),
        FerPlusConfig(name="ferplus", description="FER+: FER2013 with ten people's votes. Not of AffectNet."),
    ]
    DEFAULT_CONFIG_NAME = "human_annotated"
    # Rows per record batch in the cache. The default for images, 100, is meant for embedded bytes.
    DEFAULT_WRITER_BATCH_SIZE = rows.PAIRS_PER_SHARD

    def __init__(self, *args, config_name: str | None = None, data_dir: str | os.PathLike | None = None, **kwargs):
        # Here, so that a wrong data_dir is an error before anything else happens, and the cache knows the folder.
        name = config_name or self.DEFAULT_CONFIG_NAME
        data_dir = find_release(data_dir, name) if name in LAYOUTS else data_dir
        super().__init__(*args, config_name=config_name, data_dir=data_dir, **kwargs)
        self.config.check()
        self._building = False

    def _info(self) -> datasets.DatasetInfo:
        described = LAYOUTS[self.config.name].ABOUT
        categories = CATEGORIES if self.config.name == "human_annotated_all" else EXPRESSIONS
        return datasets.DatasetInfo(
            **{**described, "description": f"{described['description']}\n{self.config.description}"},
            features=features(categories, votes=self.config.name == "ferplus"),
        )

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        generators, layout, release = [], LAYOUTS[self.config.name], self.config.data_dir
        archived = list(layout.folders(release, self.config.name).values())
        self._raise_or_skip(tree.damages(archived), "the archives")
        if self._building and (num_bytes := sum(tree.num_bytes(os.path.join(place, "images")) for place in archived)):
            self._tell_size(num_bytes)
        for split, (shards, damages) in layout.shards(release, self.config).items():
            self._raise_or_skip(damages, split)
            gen_kwargs = {"shards": shards, "splits": [split] * len(shards)}
            generators.append(datasets.SplitGenerator(name=split, gen_kwargs=gen_kwargs))
        return generators

    def _tell_size(self, num_bytes: int) -> None:
        """Before hours of work: images that have no files of their own are copied into the cache."""
        free = shutil.disk_usage(self._output_dir).free
        if num_bytes > free:
            raise ReleaseError(
                f"The cache, {self._cache_dir_root}, has {size_of(free)} free and the images of the archives in "
                f"{self.config.data_dir} need up to {size_of(num_bytes)}: set HF_DATASETS_CACHE to another disk, or "
                "unpack the archives, as images that are files are not copied."
            )
        warnings.warn(
            f"The images in the archives of {self.config.data_dir} are copied into the cache, {self._cache_dir_root}: "
            f"up to {size_of(num_bytes)}.",
            stacklevel=2,
        )

    def _generate_tables(self, shards: list, splits: list[str]):
        own_features = self._info().features
        for index, (shard, split) in enumerate(zip(shards, splits, strict=True)):
            good, broken = [], []
            for row in LAYOUTS[self.config.name].rows(shard, self.config):
                if isinstance(row, Damage):
                    broken.append(row)
                    if self.config.on_error == "raise":
                        break
                else:
                    good.append(row)
            self._raise_or_skip(broken, split)
            if good:
                # A cast only where the user passed `features` to load_dataset.
                table = rows.table(good, own_features)
                yield Key(index, 0), table_cast(table, self.info.features.arrow_schema)

    def _raise_or_skip(self, damages: list[Damage], split: str) -> None:
        if not damages:
            return
        if self.config.on_error == "raise":
            more = f" (and {len(damages) - 1} more problem(s) in {split})" if len(damages) > 1 else ""
            of_archive = damages[0].kind == "damaged archive"  # which says its own cure
            cure = "" if of_archive else ": unpack the release again or delete the files of that row"
            raise ReleaseError(f'{damages[0]}{more}{cure}, or pass on_error="skip" to leave broken rows out.')
        if self._building:
            skipped.note(self._output_dir, split, damages)
        else:  # a stream
            warnings.warn(skipped.summary(split, map(str, damages), len(damages)), stacklevel=2)

    def _download_and_prepare(self, dl_manager, *args, **kwargs) -> None:
        self._building = True  # in `_output_dir`, a folder that gets its name when it is whole
        skipped.begin(self._output_dir)
        super()._download_and_prepare(dl_manager, *args, **kwargs)
        self._building = False
        skipped.finish(self._output_dir)

    def as_dataset(self, *args, **kwargs):
        if found := skipped.read(self._output_dir):
            shown = (f"{row['path']} {row['problem']}" for row in found)
            message = skipped.summary(self.config.data_dir, shown, len(found))
            warnings.warn(f"{message} All of them: {skipped.path(self._output_dir)}", stacklevel=2)
        return super().as_dataset(*args, **kwargs)

    def _as_dataset(self, split, in_memory: bool = False) -> datasets.Dataset:
        # `datasets` refuses a split without rows, but a small release may lack, say, difficult validation faces.
        if (info := self.info.splits.get(str(split))) and not info.num_examples:
            return datasets.Dataset(self.info.features.arrow_schema.empty_table(), info=self.info, split=split)
        return super()._as_dataset(split, in_memory)


# ---------------------------------------------------------------------------------------------------------------
# load_dataset("affectnet_plus")

# Both are part of the cache's path. The format has to become another one when the same files are read to other rows, or
# a table of earlier rows is taken for them: tests/test_reading_format.py says when. The name is of an earlier module.
READING_FORMAT = "f86340b42b1c596b"
_CACHE_NAME = "builder"

# `datasets` replaces `open`, `os.path.join` and the like in a builder's module by versions that take URLs, and imports
# scipy.io and pandas for it: nine tenths of the time of loading from the cache. There is no URL here to be taken.
_patched_for_streaming = True


def _register() -> None:
    """Makes `datasets` find the builder by its bare name, from any working directory.

    `datasets` 5 has no loading scripts and no public registry. Every way in (`load_dataset`,
    `load_dataset_builder`, `get_dataset_config_names` ...) asks `dataset_module_factory` which module serves a name,
    so that one function is wrapped, once, wherever it is held. Every other name passes through untouched, and so
    does a folder ./affectnet_plus that `affectnet-plus export` has written, where no release is named.
    """
    factory = datasets.load.dataset_module_factory
    if getattr(factory, "knows_affectnet_plus", False):
        return

    @functools.wraps(factory)
    def dataset_module_factory(path, revision=None, *args, **kwargs):
        if path != "affectnet_plus":
            return factory(path, revision, *args, **kwargs)
        if not kwargs.get("data_dir") and not os.environ.get(DATA_DIR_VARIABLE) and is_export(path):
            return factory(f"./{path}", revision, *args, **kwargs)
        if revision is not None or kwargs.get("data_files") is not None:
            raise ReleaseError("affectnet_plus reads a folder: name it by data_dir, without revision or data_files.")
        return DatasetModule(__name__, READING_FORMAT, builder_kwargs={"dataset_name": _CACHE_NAME})

    dataset_module_factory.__dict__["knows_affectnet_plus"] = True
    for module in (datasets.load, datasets.inspect):
        module.dataset_module_factory = dataset_module_factory


_register()


# ---------------------------------------------------------------------------------------------------------------
# AutoModelForImageClassification.from_pretrained(...), pipeline("soft-fer")


@wrapt.when_imported("transformers.models.auto.modeling_auto")
def _make_models_known(_) -> None:
    importlib.import_module("affectnet_plus.modeling")


@wrapt.when_imported("transformers.pipelines")
def _make_task_known(_) -> None:
    if importlib.import_module("affectnet_plus.modeling").HAS_TORCH:
        importlib.import_module("affectnet_plus.modeling.register_task")
