"""Flags that the training scripts share, spelled as in transformers' examples."""

import sys
from dataclasses import dataclass, field, fields
from pathlib import Path

from transformers import HfArgumentParser


@dataclass
class DataArguments:
    """Which faces: a release (`--data_dir`), or any Hugging Face dataset or Parquet folder (`--dataset_name`)."""

    data_dir: str | None = field(
        default=None, metadata={"help": "AffectNet+ release folder or its parent. Default: $AFFECTNET_PLUS_DIR."}
    )
    dataset_name: str | None = field(
        default=None, metadata={"help": "Instead of a release: a Hub id or a folder that `load_dataset` can read."}
    )
    dataset_config_name: str | None = field(
        default=None, metadata={"help": "Configuration of the dataset; of a release, e.g. human_annotated or easy."}
    )
    image_column_name: str = field(default="image", metadata={"help": "Column that holds the face."})
    label_column_name: str = field(
        default="label",
        metadata={"help": "Column that holds the human label. Class names are matched by name, never by index."},
    )
    soft_label_column_name: str = field(
        default="soft_label",
        metadata={"help": "Column that validation is compared with where it exists; training never reads it."},
    )
    train_split_name: str = field(default="train", metadata={"help": "Split to train on."})
    eval_split_name: str = field(default="validation", metadata={"help": "Split to calibrate and measure on."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on the first N rows only."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Measure on the first N rows only."})


@dataclass
class OptimizationArguments:
    """How long, how fast, how often saved."""

    output_dir: str = field(metadata={"help": "Folder for the model, its card, metrics and checkpoints."})
    num_train_epochs: float = field(
        default=10.0, metadata={"help": "Per expression; one epoch is as many draws as the split has rows."}
    )
    max_train_steps: int | None = field(
        default=None, metadata={"help": "Optimiser steps per expression, instead of --num_train_epochs."}
    )
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Faces per device and step."})
    per_device_eval_batch_size: int = field(default=128, metadata={"help": "Faces per device when measuring."})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "Batches per optimiser step."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate of AdamW."})
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay of AdamW."})
    max_grad_norm: float = field(default=1.0, metadata={"help": "Gradients are clipped to this norm; 0: not at all."})
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
        metadata={"help": "Measure on validation after each epoch, or only at the end.", "choices": ["epoch", "no"]},
    )
    checkpointing_steps: str = field(
        default="epoch", metadata={"help": "Save the state of the run every N steps, 'epoch' or 'no'."}
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={"help": "'latest' or a checkpoint folder: go on in mid-epoch, to the weights of an unbroken run."},
    )
    report_to: str | None = field(
        default=None, metadata={"help": "Tracker: tensorboard, wandb, ... as Accelerate knows them."}
    )
    use_cpu: bool = field(default=False, metadata={"help": "Run on the CPU even where there is an accelerator."})
    push_to_hub: bool = field(default=False, metadata={"help": "Push the finished model, private, with its code."})
    hub_model_id: str | None = field(default=None, metadata={"help": "Default: the name of --output_dir."})

    def __post_init__(self):
        check_choices(self)
        positive = ["per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"]
        positive += ["learning_rate", "max_train_steps" if self.max_train_steps is not None else "num_train_epochs"]
        for name in positive:
            if not getattr(self, name) > 0:
                raise ValueError(f"--{name} has to be above 0, not {getattr(self, name)}.")
        if self.checkpointing_steps not in ("epoch", "no") and not (
            self.checkpointing_steps.isdigit() and int(self.checkpointing_steps) > 0
        ):
            raise ValueError(
                f"--checkpointing_steps is a number of steps, 'epoch' or 'no', not {self.checkpointing_steps!r}."
            )


def check_choices(arguments) -> None:
    """The same `choices` for flags from a file, which argparse does not see."""
    for flag in fields(arguments):
        choices = flag.metadata.get("choices")
        if choices and getattr(arguments, flag.name) not in choices:
            raise ValueError(f"--{flag.name} is one of {', '.join(choices)}, not {getattr(arguments, flag.name)!r}.")


def parse_arguments(*dataclass_types, description: str):
    """The dataclasses filled from the command line, or from the one YAML or JSON file named there.

    A value that cannot be is reported as one sentence, with exit status 2.
    """
    parser = HfArgumentParser(dataclass_types, description=description)
    config_file = sys.argv[1] if len(sys.argv) == 2 else ""
    try:
        if config_file.endswith((".yaml", ".yml")):
            return parser.parse_yaml_file(config_file)
        if config_file.endswith(".json"):
            return parser.parse_json_file(config_file)
        return parser.parse_args_into_dataclasses()
    except (ValueError, OSError) as error:
        stop(error)


def stop(error: Exception):
    """End the script with the error's sentence instead of a traceback; for what the user can mend."""
    print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
    sys.exit(2)
