"""Which faces."""

import os
from dataclasses import dataclass, field, fields
from pathlib import Path

import affectnet_plus
from affectnet_plus.releases import tree
from affectnet_plus.releases.expressions import label_names
from affectnet_plus.releases.find import LAYOUTS


def is_synthetic(release: str) -> bool:
    """Whether a release was drawn: the truth lies beside it."""
    return tree.is_file(os.path.join(release, "ground_truth.parquet"))


CACHE_IMAGES = {  # of scripts that look at faces several times
    "help": "Decode each face once, and keep its pixels at the network's size: in `memory`, shared by all processes of "
    "a machine, for this run; or on `disk`, in the cache of `datasets`, where later runs find them. The result is the "
    "same to the bit. What they need is said before, 150 KB a face at 224 pixels.",
    "choices": ["no", "memory", "disk"],
}

SOFT_LABELS_ORDER = {  # of scripts that read --soft_labels
    "help": "Of --soft_labels that hold their scores as a list, without names: its order, the names themselves or one "
    f"of {', '.join(affectnet_plus.LABEL_ORDERS)}."
}


@dataclass
class DataArguments:
    """Which faces: a release (`--data_dir`), or any Hugging Face dataset or Parquet folder (`--dataset_name`)."""

    data_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder of a release, or its parent: AffectNet+, AffectNet of 2021 or 2017, FER+. "
            "Default: $AFFECTNET_PLUS_DIR."
        },
    )
    dataset_name: str | None = field(
        default=None, metadata={"help": "Instead of a release: a Hub id or a folder that `load_dataset` can read."}
    )
    dataset_config_name: str | None = field(
        default=None,
        metadata={"help": "Configuration of the dataset; of a release, e.g. easy. Default: the release's first."},
    )
    on_error: str = field(
        default="raise",
        metadata={
            "help": "Broken rows of a release, broken images elsewhere: raise an error, or skip them (they are "
            "counted and named).",
            "choices": ["raise", "skip"],
        },
    )
    image_column_name: str = field(default="image", metadata={"help": "Column that holds the face."})
    label_column_name: str = field(
        default="label",
        metadata={
            "help": "Column that holds the human label. Class names are matched by name, never by index. Without one, "
            "the highest of the scores in --soft_label_column_name, or in a column for each expression, is the label."
        },
    )
    label_order: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Of a dataset that only numbers its classes (folders 0 to 7, a column of integers): their names in "
            f"order, or one of {', '.join(affectnet_plus.LABEL_ORDERS)}. Counted from 0, or from 1 where they are."
        },
    )
    soft_label_column_name: str = field(
        default="soft_label",
        metadata={
            "help": "Column that validation is compared with where it exists: scores, one per class name of the label, "
            "in that order, or in that of --label_order; 'none' for no column. Experts never learn from it; a Soft-FER "
            "model does, unless it is given other targets."
        },
    )
    votes: str | None = field(
        default=None,
        metadata={
            "help": "People's votes on the faces of --eval_split_name, a .csv or .parquet (docs/evaluation.md): only "
            "the faces in it are measured on, by the share of votes."
        },
    )
    votes_label_order: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Of --votes with a column of codes for each participant: the names of 0, 1, ... in order, or one "
            f"of {', '.join(affectnet_plus.LABEL_ORDERS)}."
        },
    )
    eval_split_name: str = field(default="validation", metadata={"help": "Split to calibrate and measure on."})
    corrections: str | None = field(
        default=None,
        metadata={
            "help": "corrections.csv from the page of show_label_errors.py: human labels that a person has corrected. "
            "Rows corrected to none are not trained or measured on."
        },
    )

    def __post_init__(self):
        if self.label_order:
            if not self.dataset_name:
                raise ValueError(
                    "--label_order is for a --dataset_name that numbers its classes; a release names them."
                )
            label_names(self.label_order)
        if self.votes_label_order:
            if not self.votes:
                raise ValueError("--votes_label_order is of --votes: name that table, or leave the flag out.")
            label_names(self.votes_label_order)

    def sources(self) -> list["DataArguments"]:
        """One for each dataset that is named."""
        return [self]

    def release(self) -> tuple[str, str]:
        """The path of the release that is named, and the configuration that reads it."""
        if self.dataset_config_name:
            return affectnet_plus.find_release(self.data_dir, self.dataset_config_name), self.dataset_config_name
        return affectnet_plus.recognise(self.data_dir)

    def name(self) -> str:
        """Of the data, for records and cards: no path of this machine goes there."""
        if self.dataset_name:
            return Path(self.dataset_name).name if Path(self.dataset_name).exists() else self.dataset_name
        folder, layout = self.release()
        return "synthetic " * is_synthetic(folder) + LAYOUTS[layout].NAME


@dataclass
class TrainingDataArguments(DataArguments):
    """Which faces, to train on; also of several datasets."""

    dataset_name: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Instead of a release, or beside one: Hub ids or folders that `load_dataset` can read. Of several "
            "datasets all rows are trained and measured on; an expression that one has no class for is unknown of its "
            "rows, and they count for nothing there."
        },
    )
    train_split_name: str = field(default="train", metadata={"help": "Split to train on."})
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on the first N rows only, of each dataset."}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Measure on the first N rows only, of each dataset."}
    )

    def __post_init__(self):
        self.dataset_name = [self.dataset_name] if isinstance(self.dataset_name, str) else self.dataset_name
        super().__post_init__()
        if len(self.sources()) > 1 and self.dataset_config_name:
            raise ValueError("--dataset_config_name is of one dataset, and several are named: leave it out.")
        if len(self.sources()) > 1 and self.votes:
            raise ValueError("--votes are of one dataset, and several are named: leave them out.")
        if len(self.sources()) > 1 and self.corrections:
            raise ValueError("--corrections is of one dataset, and several are named: leave it out.")

    def sources(self) -> list[DataArguments]:
        common = {f.name: getattr(self, f.name) for f in fields(DataArguments)} | {"dataset_name": None}
        of_names = [DataArguments(**common | {"dataset_name": n, "data_dir": None}) for n in self.dataset_name]
        of_release = [] if self.dataset_name and not self.data_dir else [DataArguments(**common | {"label_order": []})]
        return of_release + of_names

    def name(self) -> str:
        return " + ".join(source.name() for source in self.sources())
