"""The flags of train_soft_fer.py."""

from dataclasses import dataclass, field

from affectnet_plus import EXPRESSIONS, SUBSETS, match_expressions
from affectnet_plus.modeling import SoftFerConfig
from affectnet_plus.training.arguments import SOFT_LABELS_ORDER, NetworkArguments
from affectnet_plus.training.faces import timm_policy

SOFT_LABELS_COLUMNS = ("posterior", "soft_label", "ebc", "au")
BEST = {"accuracy": 1, "macro_f1": 1, "js_divergence": -1, "ccc": 1}  # 1: the higher the better


@dataclass
class SoftFerArguments(NetworkArguments):
    """What is trained, and towards what."""

    backbone: str = field(default=SoftFerConfig().backbone, metadata={"help": "timm name."})
    target: str = field(
        default="soft",
        metadata={
            "help": "Learn soft labels as they are, as distributions, hard human labels, or distributions and human "
            "labels mixed.",
            "choices": ["soft", "distribution", "hard", "mixed"],
        },
    )
    hard_weight: float = field(default=0.5, metadata={"help": "Of --target mixed: the human label's share."})
    soft_labels: str | None = field(
        default=None,
        metadata={
            "help": "Folder that label.py wrote, or other people's soft labels: a .csv, .parquet or .npz, or a folder "
            "of these (docs/soft_labels.md). Default: the dataset's own, --soft_label_column_name."
        },
    )
    soft_labels_order: list[str] = field(default_factory=list, metadata=SOFT_LABELS_ORDER)
    soft_labels_column: str | None = field(
        default=None,
        metadata={
            "help": "Which column of --soft_labels: the experts' soft_label, or the posterior after the human label, "
            "too. Default: posterior where the folder has it.",
            "choices": list(SOFT_LABELS_COLUMNS),
        },
    )
    expressions: list[str] = field(
        default_factory=list,
        metadata={
            "help": f"Some of: {' '.join(EXPRESSIONS)}. Faces with other human labels are left out. Default: all that "
            "are known of what it learns from: classes of the dataset, labels of label.py, a teacher."
        },
    )
    teacher: str | None = field(
        default=None,
        metadata={
            "help": "Distil one of our models (folder or Hub id): what it sees in the augmented face takes the place "
            "of the target, or the share --teacher_weight of it."
        },
    )
    teacher_weight: float = field(default=1.0, metadata={"help": "The teacher's share in the target, 0 to 1."})
    valence_arousal: bool = field(
        default=False, metadata={"help": "Learn valence and arousal as well, where the dataset has them."}
    )
    valence_arousal_weight: float = field(
        default=1.0, metadata={"help": "Weight of their mean squared error in the loss."}
    )
    tta: bool = field(
        default=False,
        metadata={
            "help": "Test-time augmentation: the finished model averages over each face and its horizontal flip: "
            "better scores at twice the time."
        },
    )
    subset: list[str] = field(
        default_factory=list, metadata={"help": f"Train on these subsets only: {' '.join(SUBSETS)}. Default: all."}
    )
    by_subset: bool = field(
        default=False,
        metadata={
            "help": "The design of the paper's baseline experiment (its network: --backbone resnet50): train on easy, "
            "challenging, difficult and all faces, into folders of those names, and measure each on the whole "
            "validation set."
        },
    )
    sampler: str = field(
        default="none",
        metadata={
            "help": "Draw faces as they come, each expression as often as any other, or by the square root of their "
            "number.",
            "choices": ["none", "balanced", "square_root"],
        },
    )
    mixup_alpha: float = field(
        default=0.0, metadata={"help": "Mix faces and targets in pairs, by a share from Beta(alpha, alpha); 0: not."}
    )
    auto_augment: str = field(
        default="",
        metadata={
            "help": "A policy of timm, e.g. rand-m9-mstd0.5-inc1, in place of affine, light and contrast; flip and "
            "erasing stay."
        },
    )
    metric_for_best_model: str | None = field(
        default=None,
        metadata={"help": "Keep the weights of the epoch that is best by this, not the last.", "choices": list(BEST)},
    )

    def __post_init__(self):
        super().__post_init__()
        self.expressions = [EXPRESSIONS[i] for i in sorted(match_expressions(self.expressions))]
        if self.soft_labels and self.target == "hard":
            raise ValueError("--target hard learns human labels only: leave --soft_labels out.")
        if self.soft_labels_column and not self.soft_labels:
            raise ValueError("--soft_labels_column is one of a folder that label.py wrote: name it by --soft_labels.")
        if self.teacher and self.teacher_weight == 1 and (self.soft_labels or self.target in ("hard", "mixed")):
            what = "--soft_labels" if self.soft_labels else f"--target {self.target}"
            raise ValueError(f"--teacher at its full weight leaves nothing of {what}: give a --teacher_weight below 1.")
        if self.valence_arousal_weight < 0:
            raise ValueError(f"--valence_arousal_weight is at least 0, not {self.valence_arousal_weight}.")
        for name in ("hard_weight", "teacher_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"--{name} is a share from 0 to 1, not {getattr(self, name)}.")
        if self.mixup_alpha < 0:
            raise ValueError(f"--mixup_alpha is at least 0, not {self.mixup_alpha}.")
        if self.by_subset and self.subset:
            raise ValueError("--by_subset trains on every subset in turn: leave --subset out.")
        if unknown := [name for name in self.subset if name not in SUBSETS]:
            raise ValueError(f"--subset knows {', '.join(SUBSETS)}, not {unknown[0]!r}.")
        if self.metric_for_best_model == "ccc" and not self.valence_arousal:
            raise ValueError("--metric_for_best_model ccc is that of valence and arousal: give --valence_arousal, too.")
        if self.auto_augment:
            timm_policy(self.auto_augment, self.image_size, (0.5, 0.5, 0.5))

    @property
    def learns_soft_labels(self) -> bool:
        return self.target != "hard" and not (self.teacher and self.teacher_weight == 1)
