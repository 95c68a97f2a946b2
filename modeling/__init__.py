"""The models. Importing this makes them known to `transformers`; `import affectnet_plus` does so as soon as that is
imported, and makes the `soft-fer` task known as well."""

from pathlib import Path

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
from .compounds import COMPOUND_THRESHOLD, COMPOUNDS, compound_of, strongest_pair
from .configuration_au import ACTION_UNITS, PROTOTYPES, AUConfig
from .configuration_ebc import EBCConfig
from .configuration_fused import FusedConfig
from .configuration_soft_fer import SoftFerConfig
from .configuration_soft_label import INPUT_SETTINGS, under_present_names
from .face_detection import FACE_MARGIN, FACES, CenterFaceDetector, FaceDetector, crop_face, find_faces
from .image_loading import ImageError, load_rgb, open_rgb
from .model_card import CARD_METRICS, model_card
from .modeling_au import AUForImageClassification, AUOutput, MultiHeadClassifier, multi_head_loss
from .modeling_ebc import BinaryEnsemble, EBCForImageClassification, EBCOutput
from .modeling_fused import FusedForImageClassification, FusedOutput, mixed_log_odds
from .modeling_soft_fer import SoftFerForImageClassification, SoftFerOutput, log_odds_of_softmax, soft_fer_loss
from .soft_label_model import SoftLabelModel, image_processor_for

for _config, _model in (
    (EBCConfig, EBCForImageClassification),
    (AUConfig, AUForImageClassification),
    (FusedConfig, FusedForImageClassification),
    (SoftFerConfig, SoftFerForImageClassification),
):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModelForImageClassification.register(_config, _model, exist_ok=True)
BUNDLED_MODEL = Path(__file__).with_name("bundled")  # what `pipeline("soft-fer")` takes when no model is named

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
    "ImageError",
    "MultiHeadClassifier",
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
    "open_rgb",
    "pretrained_normalization",
    "soft_fer_loss",
    "strongest_pair",
    "under_present_names",
]
