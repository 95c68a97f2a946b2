"""What a model gives for all faces of a loader."""

from contextlib import nullcontext

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from affectnet_plus.training.arguments import exit_with_error

Outputs = dict[str, np.ndarray]  # {"logits": (N, ...), and the other tensors of the model's output}


def predict(
    accelerator: Accelerator,
    model: torch.nn.Module,
    batches: DataLoader,
    description: str | None = None,
    own_rows: bool = False,
) -> Outputs:
    """What `model` puts out, in the order of the rows.

    Args:
        accelerator: What has prepared model and batches.
        model: Gives a tensor, or one of our outputs.
        batches: {"pixel_values": (B, 3, H, W)}; all processes get the rows of all.
        description: Shows a progress bar.
        own_rows: Neither model nor batches are prepared: this process alone has these rows, under the accelerator's
            precision.

    Returns:
        The outputs, float64; {} where there are no rows.
    """
    model.eval()
    shown = description and accelerator.is_local_main_process
    bar = tqdm(batches, desc=description, disable=not shown, leave=not own_rows)
    return joined([outputs_of(accelerator, model, batch["pixel_values"], own_rows) for batch in bar])


@torch.no_grad()
def outputs_of(accelerator: Accelerator, model: torch.nn.Module, faces: torch.Tensor, own_rows: bool) -> Outputs:
    """What `predict` does with one batch."""
    with accelerator.autocast() if own_rows else nullcontext():
        output = model(faces.to(accelerator.device, non_blocking=True))
    output = {"logits": output} if torch.is_tensor(output) else output
    output = {name: values for name, values in output.items() if torch.is_tensor(values)}
    output = output if own_rows else accelerator.gather_for_metrics(output)
    return {name: values.float().cpu().numpy() for name, values in output.items()}


def joined(found: list[Outputs]) -> Outputs:
    """The outputs of batches one after the other, float64."""
    names = found[0] if found else ()
    return {name: np.concatenate([of_batch[name] for of_batch in found]).astype(np.float64) for name in names}


def check_outputs(outputs: np.ndarray, model: str) -> None:
    """End the script where a model gives (N, C) outputs that are no numbers, before anything is made of them."""
    if wrong := int(np.isnan(outputs).any(axis=1).sum()):
        exit_with_error(
            f"{model} gives NaN for {wrong} of {len(outputs)} faces: take --mixed_precision no or bf16, not fp16; if "
            "that changes nothing, its weights are broken."
        )
