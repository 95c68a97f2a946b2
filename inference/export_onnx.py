"""`affectnet-plus export-onnx`: one of our models as a file for ONNX Runtime."""

import importlib.util
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from affectnet_plus.modeling import HAS_TORCH, OnnxNetwork, OnnxSettings
from affectnet_plus.releases.writing import written_whole

_MOST_BYTES = 2**31 - 2**20  # of one protobuf, weights included
_MOST_DIFFERENCE = 1e-4  # of a score


def export_onnx(model: str, output: str, int8: bool = False) -> None:
    """Write a model as an ONNX file that takes `pixel_values` (B, 3, size, size) and gives `logits` (B, expressions)
    and, if the model has them, `valence_arousal` (B, 2). Its metadata say the expressions, the size, the normalisation
    and the framing that it wants. Scores are compared with PyTorch's before it gets its name.

    Args:
        model: folder or Hub id of one of our models.
        output: FILE.onnx; not there yet.
        int8: weights as whole numbers of eight bits, inputs of layers converted as they come (dynamic quantisation): a
            smaller file and other scores.

    Raises:
        ValueError: the model is none, the file is there already, or the model cannot be written so.
        ImportError: PyTorch or `onnx` is not installed.
    """
    target = Path(output)
    if target.suffix != ".onnx":
        raise ValueError(f"{output} does not end in .onnx, by which an ONNX file is known.")
    if target.exists():
        raise ValueError(f"{output} is there already: delete it, or name another file.")
    for module in ("onnx", "onnxscript", "onnxruntime"):
        if not HAS_TORCH or importlib.util.find_spec(module) is None:
            needed = module if HAS_TORCH else "PyTorch"
            raise ImportError(f'This needs {needed}, which is not installed: pip install "affectnet-plus[train,onnx]".')
    import torch  # here, because the command line does without

    from affectnet_plus.modeling import read_own_model

    network = read_own_model(model).eval()
    config = network.config
    if (size := sum(p.numel() * p.element_size() for p in network.state_dict().values())) > _MOST_BYTES:
        raise ValueError(
            f"{model} has {size / 1e9:.1f} GB, and an ONNX file holds 2.1: train one network by its labels."
        )
    settings = OnnxSettings(
        config.expressions, config.image_size, list(config.image_mean), list(config.image_std), config.framing
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(target) as beside:
        _write(network, settings, beside)
        if int8:
            _quantise(beside)
        difference = _difference(network, beside, torch)
        if difference > _MOST_DIFFERENCE and not int8:
            raise ValueError(
                f"ONNX Runtime gives scores that are {difference:.2g} away from PyTorch's, which is too much: "
                "update torch, onnxscript and onnxruntime, or report it."
            )
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB, scores within {difference:.1g} of PyTorch's on noise.")


def _write(network: Any, settings: OnnxSettings, file: Path) -> None:
    import onnx
    import torch

    example = torch.zeros(2, 3, settings.image_size, settings.image_size)
    names = ["logits"] + (["valence_arousal"] if getattr(network.config, "valence_arousal", False) else [])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        exported = torch.onnx.export(
            program, dynamo=True, input_names=["pixel_values"], output_names=names, verbose=False
        )
    written = exported.model_proto
    for part in (written.graph, *written.graph.node, *written.graph.value_info, *written.graph.initializer):
        part.doc_string = ""  # of each layer the lines of Python that made it, with their folders
        del part.metadata_props[:]
    written.doc_string = "affectnet-plus: logits are log-odds, through a sigmoid the score of each expression."
    onnx.helper.set_model_props(written, settings.metadata())
    onnx.save(written, file)


def _quantise(file: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)  # it advises, on the root logger, to prepare the file by another tool
    quantize_dynamic(file, file, weight_type=QuantType.QInt8)


def _difference(network: Any, file: Path, torch: Any) -> float:
    """The largest of any score between PyTorch and ONNX Runtime, on batches of noise."""
    runtime, noise, largest = OnnxNetwork(file, "cpu"), np.random.default_rng(0), 0.0
    for batch in (1, 3):
        shape = (batch, 3, network.config.image_size, network.config.image_size)
        pixel_values = noise.standard_normal(shape, dtype=np.float32)
        with torch.inference_mode():
            expected = network(torch.from_numpy(pixel_values)).logits.sigmoid()
        got = torch.from_numpy(runtime(pixel_values)["logits"]).sigmoid()
        largest = max(largest, float((got - expected).abs().max()))
    return largest
