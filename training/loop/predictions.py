"""What any model, ours or somebody else's, says of all faces of a split, and what it costs."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from affectnet_plus import EXPRESSIONS, match_expressions
from affectnet_plus.modeling import SoftLabelModel, read_image_processor, read_model
from affectnet_plus.releases.expressions import label_names
from affectnet_plus.training.faces import FaceDataset, Split, loader_settings
from affectnet_plus.training.loop.predict import check_outputs, predict


@dataclass
class Predictions:
    """Scores of N faces.

    Args:
        model: folder, file or Hub id that they come from.
        outputs: (N, 8) in [0, 1], in the order of `EXPRESSIONS`, 0 for what it does not know, or (N, 10) with valence
            and arousal.
        expressions: those it knows.
        config: of the model; None of scores in a file.
        cost: as `cost_of` has it, where that was asked for.
    """

    model: str
    outputs: np.ndarray
    expressions: list[str]
    config: object = None
    cost: dict | None = None

    @property
    def name(self) -> str:
        """For pages and records: no path of this machine goes there."""
        return Path(self.model).name if Path(self.model).exists() else self.model


@dataclass
class LoadedModel:
    """A network pixel_values (B, 3, H, W) -> scores (B, 8), its image processor, and the expressions it knows."""

    model: str
    network: nn.Module
    image_processor: object
    expressions: list[str]


def load_model(model: str, args) -> LoadedModel:
    """A model of ours or of somebody else's.

    Args:
        model: folder, Hub id, or a file of `affectnet-plus export-onnx`.
        args: `EvaluationArguments`.

    Raises:
        ValueError: there is none, or its classes cannot be matched with our expressions.
    """
    network = read_model(model, "--model", trust_remote_code=args.trust_remote_code, dtype=torch.float32)
    config = network.config
    if args.update_card and not (isinstance(network, SoftLabelModel) and Path(model).is_dir()):
        raise ValueError(f"--update_card is for a folder of one of our models, and --model {model} is none.")
    names = [config.id2label[i] for i in range(len(config.id2label))]
    try:
        own = match_expressions(names)
    except ValueError:  # only numbers
        own = None
    if args.model_label_order and not (own and len(args.model) > 1):  # of several, it is for those that need it
        names = label_names(args.model_label_order)
        if len(names) != len(config.id2label):
            raise ValueError(
                f"--model_label_order has {len(names)} names ({', '.join(names)}), {model} has "
                f"{len(config.id2label)} classes."
            )
    try:
        to_ours = match_expressions(names)
    except ValueError as error:
        raise ValueError(f"{error} Which classes {model} has can be said by --model_label_order.") from error
    if own and own != to_ours:
        raise ValueError(
            f"--model_label_order says {', '.join(names)}, but {model} names its classes itself: "
            f"{', '.join(config.id2label.values())}. Leave the flag out."
        )
    independent = isinstance(network, SoftLabelModel) or config.problem_type == "multi_label_classification"
    processor = getattr(network, "image_processor", None) or read_image_processor(
        model, trust_remote_code=args.trust_remote_code
    )
    return LoadedModel(model, Scores(network, to_ours, independent), processor, [EXPRESSIONS[i] for i in to_ours])


class Scores(nn.Module):
    """Any image classifier as pixel_values (B, 3, H, W) -> (B, 8) scores in our order, 0 for what it does not know, and
    (B, 10) with valence and arousal where it has them.

    Args:
        model: gives `logits` (B, C).
        to_ours: per class of the model, its index into `EXPRESSIONS`.
        independent: its scores are sigmoids, not a softmax.
    """

    def __init__(self, model: nn.Module, to_ours: list[int], independent: bool):
        super().__init__()
        self.model, self.to_ours, self.independent = model, to_ours, independent

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        output = self.model(pixel_values)
        logits, affect = output.logits.float(), getattr(output, "valence_arousal", None)
        scores = logits.sigmoid() if self.independent else logits.softmax(dim=1)
        ours = scores.new_zeros(len(scores), len(EXPRESSIONS))
        ours[:, self.to_ours] = scores
        ours = ours if affect is None else torch.cat([ours, affect.float()], dim=1)
        return ours.to(pixel_values.device)  # ONNX Runtime's are on the CPU


def predict_faces(
    accelerator: Accelerator, args, loaded: LoadedModel, split: Split, with_cost: bool = False
) -> Predictions:
    """What a model says of all faces of a split, on all processes; what it costs is found out by the main one alone.

    Args:
        accelerator: of all processes.
        args: `EvaluationArguments`.
        loaded: the model.
        split: N faces.
        with_cost: find out what it costs as well.

    Raises:
        ImageError: a face cannot be read.
    """
    settings = loader_settings(args.dataloader_num_workers, accelerator.device)
    dataset = FaceDataset(split, loaded.image_processor)
    loader = DataLoader(dataset, args.per_device_batch_size, **settings)
    network = accelerator.prepare_model(loaded.network, evaluation_mode=True)
    description = f"measuring {Path(loaded.model).name}"
    outputs = predict(accelerator, network, accelerator.prepare(loader), description=description)["logits"]
    accelerator.free_memory()
    check_outputs(outputs, loaded.model)
    cost = None
    if with_cost and accelerator.is_main_process:
        batch_size = min(args.per_device_batch_size, len(split))
        cost = cost_of(network, dataset[0]["pixel_values"].shape, batch_size, accelerator.device)
    loaded.network.cpu()  # room for the next one
    return Predictions(loaded.model, outputs, loaded.expressions, loaded.network.model.config, cost)


@torch.no_grad()
def cost_of(network: nn.Module, shape: tuple[int, ...], batch_size: int, device: torch.device) -> dict:
    """What a forward pass costs.

    Args:
        network: takes (B, 3, H, W), on `device`.
        shape: (3, H, W) of a face.
        batch_size: B.
        device: where it is.

    Returns:
        `parameters`; `flops` of one face, a multiplication with its addition being two, as PyTorch counts them in
        convolutions, matrix products and attention; both None of a network that is not PyTorch's. `ms_per_face`, the
        median over some passes of B faces, without reading them; `batch_size` and `device`, in words.
    """
    from torch.utils.benchmark import Timer  # where there is no GPU, it may say so

    faces = torch.randn(batch_size, *shape, device=device)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # not every kernel's are counted
        network(faces[:1])
    parameters = sum(weights.numel() for weights in network.parameters())
    timer = Timer("network(faces)", globals={"network": network, "faces": faces}, num_threads=torch.get_num_threads())
    return {
        "parameters": parameters or None,
        "flops": counter.get_total_flops() or None,
        "ms_per_face": 1000 * timer.blocked_autorange(min_run_time=0.5).median / batch_size,
        "batch_size": batch_size,
        "device": _name_of(device) if parameters else "CPU, by ONNX Runtime",
    }


def _name_of(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, threads: {torch.get_num_threads()}" if device.type == "cpu" else device.type
