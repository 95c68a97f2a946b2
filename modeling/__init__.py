"""The models. Importing this makes them known to `transformers`; `import affectnet_plus` does so as soon as that is
imported, and makes the `soft-fer` task known as well. Without PyTorch, there are only the parts that find faces and run
ONNX files."""

import importlib.util
from pathlib import Path

from .compounds import COMPOUND_THRESHOLD, COMPOUNDS, compound_of, strongest_pair
from .face_detection import FACE_MARGIN, FACES, CenterFaceDetector, FaceDetector, crop_face, find_faces
from .face_pipeline import pixel_values_of
from .image_loading import ImageError, load_rgb, open_rgb
from .onnx_pipeline import OnnxNetwork, OnnxPipeline, OnnxSettings

# All that models need: who has PyTorch for other things, and not these, has what runs ONNX files.
HAS_TORCH = all(importlib.util.find_spec(name) for name in ("torch", "torchvision", "timm", "transformers"))
BUNDLED_MODEL = Path(__file__).with_name("bundled")  # what `pipeline("soft-fer")` takes when no model is named
BUNDLED_ONNX = BUNDLED_MODEL / "model.onnx"  # the same, where there is no PyTorch

if HAS_TORCH:
    import transformers.pipelines  # noqa: F401  (before our own pipeline, which its hook imports: see register_task)
    from transformers import AutoConfig, AutoModelForImageClassification

    from .backbone import (
        backbones_of,
        check_backbone,
        create_backbone,
        network_input,
        network_inputs,
        pretrained_normalization,
    )
    from .configuration_au import ACTION_UNITS, PROTOTYPES, AUConfig
    from .configuration_ebc import EBCConfig
    from .configuration_fused import FusedConfig
    from .configuration_soft_fer import SoftFerConfig
    from .configuration_soft_label import INPUT_SETTINGS, under_present_names
    from .model_card import CARD_METRICS, model_card
    from .modeling_au import AUForImageClassification, AUOutput, MultiHeadClassifier, multi_head_loss
    from .modeling_ebc import BinaryEnsemble, EBCForImageClassification, EBCOutput
    from .modeling_fused import FusedForImageClassification, FusedOutput, mixed_log_odds
    from .modeling_onnx import OnnxConfig, OnnxForImageClassification
    from .modeling_soft_fer import SoftFerForImageClassification, SoftFerOutput, log_odds_of_softmax, soft_fer_loss
    from .saved_models import (
        DamagedError,
        read_config,
        read_image_processor,
        read_model,
        read_own_model,
        read_pipeline,
        said_as_damage,
    )
    from .soft_label_model import SoftLabelModel, image_processor_for, normalization_of

    for _config, _model in (
        (EBCConfig, EBCForImageClassification),
        (AUConfig, AUForImageClassification),
        (FusedConfig, FusedForImageClassification),
        (SoftFerConfig, SoftFerForImageClassification),
        (OnnxConfig, OnnxForImageClassification),
    ):
        AutoConfig.register(_config.model_type, _config, exist_ok=True)
        AutoModelForImageClassification.register(_config, _model, exist_ok=True)
else:

    def __getattr__(name: str):
        if name in __all__:
            raise ImportError(f'{name} needs PyTorch, timm and transformers: pip install "affectnet-plus[torch]".')
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "ACTION_UNITS",
    "AUConfig",
    "AUForImageClassification",
    "AUOutput",
    "BinaryEnsemble",
    "CARD_METRICS",
    "COMPOUNDS",
    "COMPOUND_THRESHOLD",
    "CenterFaceDetector",
    "DamagedError",
    "EBCConfig",
    "EBCForImageClassification",
    "EBCOutput",
    "FACES",
    "FACE_MARGIN",
    "FaceDetector",
    "FusedConfig",
    "FusedForImageClassification",
    "FusedOutput",
    "INPUT_SETTINGS",
    "BUNDLED_MODEL",
    "BUNDLED_ONNX",
    "HAS_TORCH",
    "ImageError",
    "MultiHeadClassifier",
    "OnnxConfig",
    "OnnxForImageClassification",
    "OnnxNetwork",
    "OnnxPipeline",
    "OnnxSettings",
    "PROTOTYPES",
    "SoftFerConfig",
    "SoftFerForImageClassification",
    "SoftFerOutput",
    "SoftLabelModel",
    "backbones_of",
    "check_backbone",
    "compound_of",
    "create_backbone",
    "crop_face",
    "find_faces",
    "image_processor_for",
    "load_rgb",
    "log_odds_of_softmax",
    "mixed_log_odds",
    "model_card",
    "multi_head_loss",
    "network_input",
    "network_inputs",
    "normalization_of",
    "open_rgb",
    "pixel_values_of",
    "pretrained_normalization",
    "read_config",
    "read_image_processor",
    "read_model",
    "read_own_model",
    "read_pipeline",
    "said_as_damage",
    "soft_fer_loss",
    "strongest_pair",
    "under_present_names",
]
