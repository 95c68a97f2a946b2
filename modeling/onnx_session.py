"""ONNX Runtime as we want it."""

import importlib
import importlib.util
import os
from typing import Any


def onnx_session(model: str | bytes, device: Any = None) -> Any:
    """An `onnxruntime.InferenceSession`, with as many threads as OMP_NUM_THREADS says.

    Args:
        model: a file, or its content.
        device: "cpu", "cuda", "cuda:1" ...; None for the best that ONNX Runtime has.

    Raises:
        ImportError: `onnxruntime` is not installed.
        ValueError: no model that it can read, or no such device.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise ImportError(
            'Running ONNX files needs onnxruntime, which is not installed: pip install "affectnet-plus[onnx]".'
        )
    onnxruntime = importlib.import_module("onnxruntime")  # by name, as a pushed model's code shall not ask for it
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or 0)
    options.log_severity_level = 4  # errors are raised; it warns of each weight that it can leave out
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leave the CPU to others
    providers = _providers_for(device, onnxruntime.get_available_providers())
    try:
        return onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as error:  # of a dozen types of its own
        reason = str(error).splitlines()[0][:200]
        name = model if isinstance(model, str) else "The model"
        raise ValueError(
            f"{name} is no ONNX file that ONNX Runtime can read ({reason}): copy or export it anew."
        ) from error


def _providers_for(device: Any, available: list[str]) -> list:
    kind, _, number = str(device or "").partition(":")
    if kind == "cpu":
        return ["CPUExecutionProvider"]
    if kind == "cuda":
        if "CUDAExecutionProvider" not in available:
            raise ValueError(
                f"ONNX Runtime has no CUDA here, only {', '.join(available)}: pip install onnxruntime-gpu."
            )
        return [("CUDAExecutionProvider", {"device_id": number or "0"}), "CPUExecutionProvider"]
    if kind:
        raise ValueError(f'A device of ONNX Runtime is "cpu" or "cuda:N", not {device!r}.')
    return [name for name in available if name in ("CUDAExecutionProvider", "CPUExecutionProvider")]
