"""What networks have in common, and what experts have."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from affectnet_plus import EXPRESSIONS, match_expressions
from affectnet_plus.training.arguments.optimization import RECIPES, recipe_values

PRIORS = ("train", "validation", "balanced")


def parse_prior(words: str | list) -> str | list[float]:
    """What --prior says: one of `PRIORS`, or a number per expression; `ValueError` where it is neither."""
    words = [words] if isinstance(words, str) else words
    if len(words) == 1 and words[0] in PRIORS:
        return words[0]
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if not 2 <= len(numbers) <= len(EXPRESSIONS):  # as many as there are expressions, which the data say
        raise wrong_prior(words, EXPRESSIONS)
    if not all(0 < number < 1 for number in numbers) or abs(sum(numbers) - 1) > 1e-3:
        raise ValueError(
            f"--prior {' '.join(map(str, words))}: class frequencies are above 0 and below 1 and sum to 1, these to "
            f"{sum(numbers):g}."
        )
    return numbers


def wrong_prior(words: Iterable, expressions: Iterable[str]) -> ValueError:
    return ValueError(
        f"--prior takes {', '.join(PRIORS)}, or a number for each of {' '.join(expressions)}, not "
        f"{' '.join(map(str, words))!r}."
    )


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
    face_margin: float | None = field(
        default=None,
        metadata={
            "help": "How the faces were cut out, for the model's config: what is left around the face on each side, as "
            'a part of its side (0.1: a tenth). `pipeline("soft-fer")` cuts faces out of photographs alike. '
            "Default: not known; faces are then cut as FER+'s are, 0.07."
        },
    )
    aligned_faces: bool = field(
        default=False,
        metadata={"help": "Say in the model's config that the faces were turned until the eyes were level."},
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
        if self.face_margin is not None and not -0.5 < self.face_margin <= 5:
            raise ValueError(f"--face_margin is a part of the face's side, -0.5 to 5, not {self.face_margin}.")
        if self.aligned_faces and self.face_margin is None:
            raise ValueError("--aligned_faces goes with --face_margin: how much is left around the faces?")
        if self.pretrained and self.init_from:
            raise ValueError("--pretrained and --init_from both name the weights to start from: give one of them.")

    def input_settings(self) -> dict:
        """What goes into a model's config."""
        names = ("image_size", "per_image_standardization", "grayscale", "upscale")
        framing = None
        if self.face_margin is not None:
            framing = {"margin": self.face_margin, "aligned": self.aligned_faces}
        return {name: getattr(self, name) for name in names} | {"framing": framing}


@dataclass
class ExpertArguments(NetworkArguments):
    """What all experts have in common."""

    warm_start_epochs: float | None = field(
        default=None,
        metadata={
            "help": "Before the experts, train each backbone once as a softmax classifier of all expressions, so many "
            "epochs of all rows; all experts go on from it, last layer included. 0: none; then say "
            "also how long and how fast, as the usual epochs are few. Default: 0 with "
            "--init_from, else " + recipe_values("num_train_epochs", "warm start")
        },
    )
    warm_start_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Its peak learning rate. Default: " + recipe_values("learning_rate", "warm start")},
    )
    rest_outputs: int | None = field(
        default=None,
        metadata={
            "help": "Outputs of each network beside the expression's own, for kinds of 'rest': log-odds = own - "
            "logsumexp(rest). With 7 it goes on from a softmax classifier of all eight with its last layer, too. "
            "Default: after a warm start or with --init_from as many as there are other expressions, else 0."
        },
    )
    share_backbones: bool = field(
        default=False,
        metadata={
            "help": "Ours, not the paper's: one network per backbone with heads for all expressions, trained "
            "together; each face counts in each head as under that expression's own balanced sampler. An epoch is one "
            "draw per row of the split."
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
        default_factory=list,
        metadata={"help": f"Some of: {' '.join(EXPRESSIONS)}. Default: all that the dataset has a class for."},
    )
    jobs: str = field(
        default="ddp",
        metadata={
            "help": "How the processes of a launch share the work: all train each network together (ddp), or each "
            "trains networks of its own (expressions: of all expressions and folds, so that they take about as long). "
            "Then the weights are those of one process.",
            "choices": ["ddp", "expressions"],
        },
    )
    prior: list[str] = field(
        default_factory=lambda: ["train"],
        metadata={
            "help": "The class frequencies that scores are calibrated to: those of the human labels in the training "
            "split (`train`, the default: training rows are what soft labels are for) or in the `validation` split, "
            "`balanced` (all alike), or numbers that sum to 1, one for each expression of the dataset, in this order."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        self.prior = parse_prior(self.prior)
        self.expressions = [EXPRESSIONS[i] for i in sorted(match_expressions(self.expressions))]
        if self.share_backbones and self.expressions:
            raise ValueError(
                "--share_backbones trains the heads of all expressions together, --expressions some of them: leave one "
                "of the two out."
            )
        recipe = RECIPES["warm start"]["pretrained" if self.pretrained else "scratch"]
        if self.warm_start_epochs is None:
            self.warm_start_epochs = 0.0 if self.init_from else recipe["num_train_epochs"]
        if self.warm_start_learning_rate is None:
            self.warm_start_learning_rate = recipe["learning_rate"]
        for name in ("rest_outputs", "warm_start_epochs"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"--{name} is at least 0, not {getattr(self, name)}.")
        if not self.warm_start_learning_rate > 0:
            raise ValueError(f"--warm_start_learning_rate has to be above 0, not {self.warm_start_learning_rate}.")
