"""The pipeline that commands work with."""

import importlib
import os
import sys
from typing import Any

from affectnet_plus.modeling import BUNDLED_MODEL, BUNDLED_ONNX, HAS_TORCH, OnnxPipeline


def pipeline_of(model: str | None, device: str | None, faces: str = "detect", face_detector: str = "default") -> Any:
    """The `soft-fer` pipeline that flags ask for.

    Args:
        model: folder or Hub id of one of our models, or a file of `affectnet-plus export-onnx`, which runs without
            PyTorch; None for the bundled one, whichever way it can be run.
        device: "cpu", "cuda:0" ...; None for the best there is.
        faces: "detect" or "crop".
        face_detector: "default", or MODULE:NAME of a callable.

    Raises:
        ValueError: the model or the detector is none.
        ImportError: what they need is not installed.
    """
    detector: Any = face_detector if face_detector == "default" else _callable_named(face_detector)
    if model is None:
        model = str(BUNDLED_MODEL if HAS_TORCH else BUNDLED_ONNX)
    if model.endswith(".onnx"):
        return OnnxPipeline(model, device, faces=faces, face_detector=detector)
    if not HAS_TORCH:
        raise ImportError(
            f'--model {model} needs PyTorch, timm and transformers: pip install "affectnet-plus[torch]", or export it '
            "by affectnet-plus export-onnx where PyTorch is."
        )
    from affectnet_plus.modeling import read_pipeline  # here, because ONNX files do without

    where = {"device": device} if device else {}
    return read_pipeline(model, "--model", faces=faces, face_detector=detector, **where)


def _callable_named(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        sys.path.insert(0, os.getcwd())
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f'--face_detector is "default" or MODULE:NAME of a callable, not {name!r} ({error}).'
        ) from error
    finally:
        sys.path.pop(0)
