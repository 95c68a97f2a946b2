"""The columns, the configurations, and `load_dataset("affectnet_plus")`."""

import functools
import glob
import hashlib
import io
import json
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import datasets
import datasets.inspect
from datasets.builder import Key
from datasets.load import DatasetModule
from datasets.table import table_cast

from . import affectnet_2017, affectnet_2021, columns, expressions, ferplus, files, plus, releases, rows
from .columns import about, features
from .expressions import CATEGORIES, EXPRESSIONS, SUBSETS
from .releases import DATA_DIR_VARIABLE, LAYOUTS, find_release
from .rows import PAIRS_PER_SHARD, Damage, ReleaseError


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
    DEFAULT_WRITER_BATCH_SIZE = PAIRS_PER_SHARD

    def __init__(self, *args, config_name: str | None = None, data_dir: str | os.PathLike | None = None, **kwargs):
        # Here, so that a wrong data_dir is an error before anything else happens, and the cache knows the folder.
        name = config_name or self.DEFAULT_CONFIG_NAME
        data_dir = find_release(data_dir, name) if name in LAYOUTS else data_dir
        super().__init__(*args, config_name=config_name, data_dir=data_dir, **kwargs)
        self.config.check()
        self._building = False

    def _info(self) -> datasets.DatasetInfo:
        described = about(self.config.name)
        return datasets.DatasetInfo(
            **{**described, "description": f"{described['description']}\n{self.config.description}"},
            features=features(
                CATEGORIES if self.config.name == "human_annotated_all" else EXPRESSIONS, self.config.name == "ferplus"
            ),
        )

    def _download_and_prepare(self, dl_manager, *args, **kwargs) -> None:
        self._building = True  # in `_output_dir`, a folder that gets its name when it is whole
        for leftover in glob.glob(os.path.join(glob.escape(self._output_dir), "skipped*")):  # of a killed build
            os.remove(leftover)
        super()._download_and_prepare(dl_manager, *args, **kwargs)
        self._building = False
        if parts := sorted(glob.glob(os.path.join(glob.escape(self._output_dir), "skipped-*"))):
            with io.FileIO(os.path.join(self._output_dir, _SKIPPED), "w") as whole:
                for part in parts:
                    with io.FileIO(part) as file:
                        whole.write(file.read())
                    os.remove(part)

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        generators = []
        for split, (shards, damages) in LAYOUTS[self.config.name].shards(self.config.data_dir, self.config).items():
            self._handle(damages, split)
            gen_kwargs = {"shards": shards, "splits": [split] * len(shards)}
            generators.append(datasets.SplitGenerator(name=split, gen_kwargs=gen_kwargs))
        return generators

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
            self._handle(broken, split)
            if good:
                # A cast only where the user passed `features` to load_dataset.
                table = rows.table(good, own_features)
                yield Key(index, 0), table_cast(table, self.info.features.arrow_schema)

    def _handle(self, damages: list[Damage], split: str) -> None:
        if not damages:
            return
        if self.config.on_error == "raise":
            more = f" (and {len(damages) - 1} more problem(s) in {split})" if len(damages) > 1 else ""
            raise ReleaseError(
                f"{damages[0]}{more}: unpack the release again or delete the files of that row, "
                'or pass on_error="skip" to leave broken rows out.'
            )
        if not self._building:  # a stream
            warnings.warn(_skipped(split, map(str, damages), len(damages)), stacklevel=2)
            return
        # A file for each process, as several build one table.
        with io.FileIO(os.path.join(self._output_dir, f"skipped-{os.getpid()}.jsonl"), "a") as file:
            for damage in damages:
                line = {"split": split, "path": damage.path, "problem": damage.what, "kind": damage.kind}
                file.write(json.dumps(line).encode() + b"\n")

    def as_dataset(self, *args, **kwargs):
        path = os.path.join(self._output_dir, _SKIPPED)
        if os.path.exists(path):
            with io.FileIO(path) as file:
                skipped = [json.loads(line) for line in file.readall().splitlines()]
            shown = (f"{row['path']} {row['problem']}" for row in skipped)
            message = _skipped(self.config.data_dir, shown, len(skipped))
            warnings.warn(f"{message} All of them: {path}", stacklevel=2)
        return super().as_dataset(*args, **kwargs)

    def _as_dataset(self, split, in_memory: bool = False) -> datasets.Dataset:
        # `datasets` refuses a split without rows, but a small release may lack, say, difficult validation faces.
        if (info := self.info.splits.get(str(split))) and not info.num_examples:
            return datasets.Dataset(self.info.features.arrow_schema.empty_table(), info=self.info, split=split)
        return super()._as_dataset(split, in_memory)


_SKIPPED = "skipped.jsonl"


def _skipped(where: str, problems: Iterable[str], count: int) -> str:
    first = "; ".join(problem for problem, _ in zip(problems, range(3), strict=False))
    return f"{count} broken row(s) of {where} left out: {first}{' ...' if count > 3 else ''}."


# ---------------------------------------------------------------------------------------------------------------
# load_dataset("affectnet_plus")

# `datasets` replaces `open`, `os.path.join` and the like in a builder's module by versions that take URLs, and imports
# scipy.io and pandas for it: nine tenths of the time of loading from the cache. There is no URL here to be taken.
_patched_for_streaming = True


def register() -> None:
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
        return DatasetModule(__name__, _source_hash(), builder_kwargs={})

    dataset_module_factory.knows_affectnet_plus = True
    for module in (datasets.load, datasets.inspect):
        module.dataset_module_factory = dataset_module_factory


def is_export(folder: str) -> bool:
    """Whether `affectnet-plus export` has written this folder."""
    return os.path.isfile(os.path.join(folder, "README.md")) and bool(
        glob.glob(os.path.join(glob.escape(folder), "*", "*.parquet"))
    )


_READERS = (columns, expressions, files, releases, rows, plus, affectnet_2021, affectnet_2017, ferplus)


@functools.cache
def _source_hash() -> str:
    """Part of the cache's path: what another version of these files has read is not what this one would read."""
    digest = hashlib.sha256()
    for name in (__file__, *(m.__file__ for m in _READERS)):
        with io.FileIO(name) as source:
            digest.update(source.readall())
    return digest.hexdigest()[:16]
