"""Flags that the training scripts share, spelled as in transformers' examples."""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml
from tqdm import tqdm
from transformers import HfArgumentParser

import affectnet_plus
from affectnet_plus import EXPRESSIONS


def is_synthetic(release: str) -> bool:
    return (Path(release) / "ground_truth.parquet").is_file()


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
        metadata={"help": "Column that holds the human label. Class names are matched by name, never by index."},
    )
    soft_label_column_name: str = field(
        default="soft_label",
        metadata={
            "help": "Column that validation is compared with where it exists: scores, one per class name of the label, "
            "in that order; 'none' for no column. Experts never learn from it; a Soft-FER model does, unless it is "
            "given other targets."
        },
    )
    eval_split_name: str = field(default="validation", metadata={"help": "Split to calibrate and measure on."})

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
        names = {"ferplus": "FER+", "affectnet_2017": "AffectNet (2017)", "affectnet_2021": "AffectNet (2021)"}
        return "synthetic " * is_synthetic(folder) + names.get(layout, "AffectNet+")


@dataclass
class TrainingDataArguments(DataArguments):
    """Which faces, to train on."""

    train_split_name: str = field(default="train", metadata={"help": "Split to train on."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on the first N rows only."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Measure on the first N rows only."})


# Epochs and peak learning rates where none are named. Experts from scratch: those of benchmarks/results, small networks
# on the synthetic release (one seed so far). Soft-FER, and all with pretrained weights: common practice, not measured.
RECIPES = {
    "experts": {
        "scratch": {"num_train_epochs": 2.0, "learning_rate": 3e-4},
        "pretrained": {"num_train_epochs": 2.0, "learning_rate": 5e-5},
    },
    "warm start": {
        "scratch": {"num_train_epochs": 30.0, "learning_rate": 4e-3},
        "pretrained": {"num_train_epochs": 5.0, "learning_rate": 2e-4},
    },
    "Soft-FER": {
        "scratch": {"num_train_epochs": 30.0, "learning_rate": 4e-3},
        "pretrained": {"num_train_epochs": 8.0, "learning_rate": 2e-4},
    },
}


def _said_of(setting: str, *kinds: str) -> str:
    return "; ".join(
        f"{kind}: {recipe['scratch'][setting]:g}, with --pretrained {recipe['pretrained'][setting]:g}"
        for kind, recipe in RECIPES.items()
        if kind in (kinds or ("experts", "Soft-FER"))
    )


@dataclass
class OptimizationArguments:
    """How long, how fast, how often saved."""

    output_dir: str = field(metadata={"help": "Folder for the model, its card, metrics and checkpoints."})
    num_train_epochs: float | None = field(
        default=None,
        metadata={
            "help": "An epoch of an expert is two draws per row of its expression: all of them once, as many others. "
            "So an epoch of all eight costs twice the rows of the split. An epoch of a Soft-FER model is each row "
            "once. Default: " + _said_of("num_train_epochs")
        },
    )
    max_train_steps: int | None = field(
        default=None,
        metadata={
            "help": "Optimiser steps per expression, and of a warm start, instead of a number of epochs. "
            "Of a rare expression these may be very many epochs, each of them measured: see --eval_strategy."
        },
    )
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Faces per device and step."})
    per_device_eval_batch_size: int = field(default=128, metadata={"help": "Faces per device when measuring."})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "Batches per optimiser step."})
    learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate of AdamW. Default: " + _said_of("learning_rate")}
    )
    weight_decay: float = field(
        default=0.05,
        metadata={
            "help": "Weight decay of AdamW, on all but biases, norms and what timm names (tokens, position tables)."
        },
    )
    max_grad_norm: float = field(default=1.0, metadata={"help": "Gradients are clipped to this norm; 0: not at all."})
    ema_decay: float = field(
        default=0.0,
        metadata={"help": "Measure and save an exponential moving average of the weights, e.g. 0.999; 0: the weights."},
    )
    lr_scheduler_type: str = field(
        default="cosine",
        metadata={
            "help": "How the learning rate goes on after the warm-up.",
            "choices": ["cosine", "linear", "constant_with_warmup"],
        },
    )
    warmup_steps: float = field(
        default=0.05, metadata={"help": "Linear warm-up: steps, or below 1 a share of all steps."}
    )
    seed: int = field(default=42, metadata={"help": "Of initial weights, sampler and augmentation."})
    dataloader_num_workers: int = field(default=2, metadata={"help": "Processes that decode images, per device."})
    eval_strategy: str = field(
        default="epoch",
        metadata={
            "help": "Measure on validation after each epoch, or only at the end: then the last weights are kept, not "
            "the best.",
            "choices": ["epoch", "no"],
        },
    )
    checkpointing_steps: str = field(
        default="epoch", metadata={"help": "Save the state of the run every N steps, 'epoch' or 'no'."}
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={"help": "'latest' or a checkpoint folder: go on in mid-epoch, to the weights of an unbroken run."},
    )
    overwrite_output_dir: bool = field(
        default=False,
        metadata={"help": "Train anew what --output_dir holds already, finished or begun; the rest of it stays."},
    )
    deterministic: bool = field(
        default=False,
        metadata={
            "help": "Only algorithms that give the same bits each time, so that the same command gives the very same "
            "weights on a GPU, too, if more slowly; on the CPU it does so anyway."
        },
    )
    report_to: str | None = field(
        default=None, metadata={"help": "Tracker: tensorboard, wandb, ... as Accelerate knows them."}
    )
    use_cpu: bool = field(default=False, metadata={"help": "Run on the CPU even where there is an accelerator."})
    push_to_hub: bool = field(default=False, metadata={"help": "Push the finished model, private, with its code."})
    hub_model_id: str | None = field(default=None, metadata={"help": "Default: the name of --output_dir."})

    def __post_init__(self):
        positive = ["per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"]
        positive += ["learning_rate", "max_train_steps" if self.max_train_steps is not None else "num_train_epochs"]
        for name in positive:
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"--{name} has to be above 0, not {getattr(self, name)}.")
        for name in ("weight_decay", "max_grad_norm", "dataloader_num_workers", "warmup_steps", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} is at least 0, not {getattr(self, name)}.")
        if self.seed >= 2**28:  # seeds of the parts follow from it, and NumPy takes those below 2**32
            raise ValueError(f"--seed is below {2**28}, not {self.seed}.")
        if self.overwrite_output_dir and self.resume_from_checkpoint:
            raise ValueError("--overwrite_output_dir trains anew, --resume_from_checkpoint goes on: give one of them.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"--ema_decay is from 0 to below 1, not {self.ema_decay}.")
        if self.checkpointing_steps not in ("epoch", "no") and not (
            self.checkpointing_steps.isdigit() and int(self.checkpointing_steps) > 0
        ):
            raise ValueError(
                f"--checkpointing_steps is a number of steps, 'epoch' or 'no', not {self.checkpointing_steps!r}."
            )

    def with_recipe(self, kind: str, pretrained: bool) -> "OptimizationArguments":
        """The same with epochs and learning rate of the recipe where none are named."""
        recipe = RECIPES[kind]["pretrained" if pretrained else "scratch"]
        return replace(self, **{name: v for name, v in recipe.items() if getattr(self, name) is None})


PRIORS = ("train", "validation", "balanced")


def prior_of_words(words: str | list) -> str | list[float]:
    """What --prior says: one of `PRIORS`, or a number per expression; `ValueError` where it is neither."""
    words = [words] if isinstance(words, str) else words
    if len(words) == 1 and words[0] in PRIORS:
        return words[0]
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if len(numbers) != len(EXPRESSIONS):
        raise ValueError(
            f"--prior takes {', '.join(PRIORS)}, or a number for each of {' '.join(EXPRESSIONS)}, not "
            f"{' '.join(map(str, words))!r}."
        )
    if not all(0 < number < 1 for number in numbers) or abs(sum(numbers) - 1) > 1e-3:
        raise ValueError(
            f"--prior {' '.join(map(str, words))}: class frequencies are above 0 and below 1 and sum to 1, these to "
            f"{sum(numbers):g}."
        )
    return numbers


@dataclass
class NetworkArguments:
    """What all our networks have in common."""

    image_size: int = field(default=224, metadata={"help": "Faces are scaled to this many pixels a side."})
    per_image_standardization: bool = field(
        default=False,
        metadata={
            "help": "Standardise each face by its own mean and standard deviation, so that light and contrast of the "
            "photograph count for little. For networks from scratch; pretrained ones have not learnt it."
        },
    )
    grayscale: bool = field(
        default=False,
        metadata={
            "help": "Show the network nothing but luminance: for training faces that are grey, as FER2013's, so that "
            "the model is at home in colour photographs, too."
        },
    )
    upscale: int = field(
        default=1,
        metadata={
            "help": "Enlarge faces by this factor inside the network: many networks halve their input early, and small "
            "faces would be lost."
        },
    )
    pretrained: bool = field(default=False, metadata={"help": "Start from timm's pretrained weights (needs the Hub)."})
    init_from: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Start from weights of your own: folders of train_soft_fer.py, or of train_ebc.py and train_au.py "
            "for what their warm start made (with the same folds, if any), or files with a timm model's state. Experts "
            "take the last layer, too, where it is a softmax of the expressions. One per backbone, or one for all."
        },
    )

    def __post_init__(self):
        if self.image_size < 16:
            raise ValueError(f"--image_size is at least 16 pixels, not {self.image_size}.")
        if self.upscale < 1:
            raise ValueError(f"--upscale is a factor of at least 1, not {self.upscale}.")
        if self.pretrained and self.init_from:
            raise ValueError("--pretrained and --init_from both name the weights to start from: give one of them.")

    def input_settings(self) -> dict:
        """What goes into a model's config."""
        names = ("image_size", "per_image_standardization", "grayscale", "upscale")
        return {name: getattr(self, name) for name in names}


@dataclass
class ExpertArguments(NetworkArguments):
    """What all experts have in common."""

    warm_start_epochs: float | None = field(
        default=None,
        metadata={
            "help": "Before the experts, train each backbone once as a softmax classifier of all expressions, so many "
            "epochs of all rows; all experts go on from it, last layer included. 0: none; then say "
            "also how long and how fast, as the usual epochs are few. Default: 0 with "
            "--init_from, else " + _said_of("num_train_epochs", "warm start")
        },
    )
    warm_start_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Its peak learning rate. Default: " + _said_of("learning_rate", "warm start")},
    )
    rest_outputs: int | None = field(
        default=None,
        metadata={
            "help": "Outputs of each network beside the expression's own, for kinds of 'rest': log-odds = own - "
            "logsumexp(rest). With 7 it goes on from a softmax classifier of all expressions with its last layer, too. "
            "Default: 7 after a warm start or with --init_from, else 0."
        },
    )
    metric_for_best_model: str = field(
        default="auroc",
        metadata={
            "help": "Keep the weights of the epoch that is best by this figure of validation, one expression against "
            "the others; 'last': those of the last epoch.",
            "choices": ["auroc", "average_precision", "last"],
        },
    )
    expressions: list[str] = field(
        default_factory=lambda: list(EXPRESSIONS), metadata={"help": f"Some of: {' '.join(EXPRESSIONS)}. Default: all."}
    )
    prior: list[str] = field(
        default_factory=lambda: ["train"],
        metadata={
            "help": "The class frequencies that scores are calibrated to: those of the human labels in the training "
            "split (`train`, the default: training rows are what soft labels are for) or in the `validation` split, "
            "`balanced` (all alike), or eight numbers in the order of the expressions that sum to 1."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        self.prior = prior_of_words(self.prior)
        recipe = RECIPES["warm start"]["pretrained" if self.pretrained else "scratch"]
        if self.warm_start_epochs is None:
            self.warm_start_epochs = 0.0 if self.init_from else recipe["num_train_epochs"]
        if self.warm_start_learning_rate is None:
            self.warm_start_learning_rate = recipe["learning_rate"]
        if self.rest_outputs is None:
            self.rest_outputs = len(EXPRESSIONS) - 1 if self.warm_start_epochs or self.init_from else 0
        for name in ("rest_outputs", "warm_start_epochs"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} is at least 0, not {getattr(self, name)}.")
        if not self.warm_start_learning_rate > 0:
            raise ValueError(f"--warm_start_learning_rate has to be above 0, not {self.warm_start_learning_rate}.")


@dataclass
class FoldArguments:
    """Cross-fitting: experts that have not seen a row, to label it with."""

    num_folds: int | None = field(
        default=None,
        metadata={
            "help": "Deal the rows into so many folds, by a stable hash of the image file, and train experts for each "
            "on all other folds, one fold after the other: OUTPUT_DIR/fold-0, fold-1, ..."
        },
    )
    fold: int | None = field(default=None, metadata={"help": "Only the experts of this fold, counted from 0."})
    fold_per_rank: bool = field(
        default=False, metadata={"help": "Each process trains folds of its own, instead of all sharing each fold."}
    )

    def __post_init__(self):
        if self.num_folds is None:
            if self.fold is not None or self.fold_per_rank:
                raise ValueError("--fold and --fold_per_rank need --num_folds, the number of all folds.")
            self.folds = [None]
            return
        if self.num_folds < 2:
            raise ValueError(f"--num_folds is at least 2, not {self.num_folds}; leave it out to train on all rows.")
        if self.fold is not None and not 0 <= self.fold < self.num_folds:
            raise ValueError(f"--fold is a number from 0 to {self.num_folds - 1}, not {self.fold}.")
        self.folds = list(range(self.num_folds)) if self.fold is None else [self.fold]


def parse_arguments(*dataclass_types, description: str):
    """The dataclasses filled from the command line, or from the one YAML or JSON file named there.

    A value that cannot be is reported as one sentence, with exit status 2.
    """
    parser = HfArgumentParser(dataclass_types, description=description)
    words = sys.argv[1:]
    try:
        if len(words) == 1 and words[0].endswith((".yaml", ".yml", ".json")):
            words = _words_of_file(words[0])
        return parser.parse_args_into_dataclasses(words)
    except (ValueError, OSError) as error:
        stop(error)


def _words_of_file(path: str) -> list[str]:
    """The file's flags as words of a command line, for argparse to check. JSON is YAML, too."""
    try:
        # BaseLoader leaves words as they are written: `no`, `1e-3`.
        flags = yaml.load(Path(path).read_text(encoding="utf-8"), yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no valid YAML or JSON: {' '.join(str(error).split())}") from error
    if not isinstance(flags, dict):
        raise ValueError(f"{path} holds no flags: lines such as `learning_rate: 1e-3` are expected.")
    words = []
    for flag, value in flags.items():
        if value in ("null", "~", "", []):  # as when it is not there
            continue
        words += [f"--{flag}", *(value if isinstance(value, list) else [value])]
    return words


def no_model(model: str, error: OSError) -> ValueError:
    reason = str(error).splitlines()[0]
    return ValueError(f"--model {model} is no folder with a model, and not to be had from the Hub: {reason}")


def stop(error: Exception | str):
    """End the script with the error's sentence instead of a traceback; for what the user can mend."""
    tqdm.write(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)  # on a line of its own, bar or not
    sys.exit(2)


def stop_at_image(error: Exception):
    """The same for an image that cannot be read; from a worker it comes with a traceback in its text."""
    said = str(error).strip().splitlines()[-1].partition("ImageError: ")[2] or str(error)
    stop(f"{said} --on_error skip leaves broken images out.")
