"""What a model gives for all faces of a loader."""

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.data_loader import DataLoaderShard
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from affectnet_plus.training.arguments import exit_with_error


@torch.no_grad()
def predict(
    accelerator: Accelerator, model: torch.nn.Module, batches: DataLoader, description: str | None = None
) -> dict[str, np.ndarray]:
    """What `model` puts out, in the order of the rows.

    Args:
        accelerator: Its device and precision are used.
        model: Gives a tensor, or one of our outputs.
        batches: {"pixel_values": (B, 3, H, W)}. A loader that Accelerate has prepared is shared by the processes, and
            all of them get the rows of all; any other is this process's own.
        description: Shows a progress bar.

    Returns:
        {"logits": (N, ...), and the other tensors of the model's output}, float64; {} where there are no rows.
    """
    model.eval()
    shared, found = isinstance(batches, DataLoaderShard), []
    shown = description and accelerator.is_local_main_process
    for batch in tqdm(batches, desc=description, disable=not shown, leave=not shown or shared):
        with accelerator.autocast():
            output = model(batch["pixel_values"].to(accelerator.device))
        output = {"logits": output} if torch.is_tensor(output) else output
        output = {name: values for name, values in output.items() if torch.is_tensor(values)}
        output = accelerator.gather_for_metrics(output) if shared else output
        found.append({name: values.float().cpu().numpy() for name, values in output.items()})
    names = found[0] if found else ()
    return {name: np.concatenate([of_batch[name] for of_batch in found]).astype(np.float64) for name in names}


def check_outputs(outputs: np.ndarray, model: str) -> None:
    """End the script where a model gives (N, C) outputs that are no numbers, before anything is made of them."""
    if wrong := int(np.isnan(outputs).any(axis=1).sum()):
        exit_with_error(
            f"{model} gives NaN for {wrong} of {len(outputs)} faces: take --mixed_precision no or bf16, not fp16; if "
            "that changes nothing, its weights are broken."
        )
