"""How long, how fast, how often saved; and in how many folds."""

from dataclasses import dataclass, field, replace

from affectnet_plus.training.arguments.data import CACHE_IMAGES

WORKERS_HELP = "Processes that decode images, per device. Default: 2; on a GPU its share of the cores, up to 16."

# Epochs and peak learning rates where none are named. Experts from scratch: what was best for small networks
# on the synthetic release (one seed). Soft-FER, and all with pretrained weights: common practice, not measured.
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


def recipe_values(setting: str, *kinds: str) -> str:
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
            "So an epoch of all eight costs twice the rows of the split. An epoch of experts that --share_backbones is "
            "one draw per row, one of a Soft-FER model each row once. Default: " + recipe_values("num_train_epochs")
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
        default=None, metadata={"help": "Peak learning rate of AdamW. Default: " + recipe_values("learning_rate")}
    )
    weight_decay: float = field(
        default=0.05,
        metadata={
            "help": "Weight decay of AdamW, on all but biases, norms and what timm names (tokens, position tables)."
        },
    )
    max_grad_norm: float = field(
        default=1.0, metadata={"help": "Gradients of each backbone are clipped to this norm; 0: not at all."}
    )
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
    dataloader_num_workers: int | None = field(default=None, metadata={"help": WORKERS_HELP})
    mixed_precision: str = field(
        default="auto",
        metadata={
            "help": "What networks compute in. auto: what Accelerate's configuration or `accelerate launch` says, and "
            "where they say nothing or `no`, bf16 on a GPU that has it.",
            "choices": ["auto", "no", "bf16", "fp16"],
        },
    )
    torch_compile: bool = field(
        default=False,
        metadata={"help": "Compile networks (torch.compile): minutes once for each, then faster steps on a GPU."},
    )
    cache_images: str = field(default="no", metadata=CACHE_IMAGES)
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
        metadata={
            "help": "'latest' or a checkpoint folder: go on in mid-epoch. On the CPU that ends with the weights of an "
            "unbroken run; on a GPU see --deterministic."
        },
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
            if (getattr(self, name) or 0) < 0:
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

    def __post_init__(self):
        if self.num_folds is None:
            if self.fold is not None:
                raise ValueError("--fold needs --num_folds, the number of all folds.")
            self.folds = [None]
            return
        if self.num_folds < 2:
            raise ValueError(f"--num_folds is at least 2, not {self.num_folds}; leave it out to train on all rows.")
        if self.fold is not None and not 0 <= self.fold < self.num_folds:
            raise ValueError(f"--fold is a number from 0 to {self.num_folds - 1}, not {self.fold}.")
        self.folds = list(range(self.num_folds)) if self.fold is None else [self.fold]
