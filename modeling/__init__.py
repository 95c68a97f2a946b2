"""The models. Importing this makes them known to `transformers`; `import affectnet_plus` does so as soon as that is
imported, and makes the `soft-fer` task known as well."""

from pathlib import Path

from transformers import AutoConfig, AutoModelForImageClassification

from .backbone import backbones_of, check_backbone, create_backbone, network_input
from .configuration_au import ACTION_UNITS, PROTOTYPES, AUConfig
from .configuration_ebc import EBCConfig
from .configuration_fused import FusedConfig
from .configuration_soft_fer import SoftFerConfig
from .configuration_soft_label import INPUT_SETTINGS
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
IN_THE_BOX = Path(__file__).with_name("in_the_box")  # what `pipeline("soft-fer")` takes when no model is named


def register_task(registry) -> None:
    """Make "soft-fer" known to `transformers.pipelines.PIPELINE_REGISTRY`."""
    from .pipeline_soft_fer import SoftFerPipeline  # here, because models are at home without pipelines

    registry.register_pipeline(
        "soft-fer",
        pipeline_class=SoftFerPipeline,
        pt_model=AutoModelForImageClassification,
        default={"model": (str(IN_THE_BOX), "main")},
        type="image",
    )
    impl = SoftFerPipeline._registered_impl  # goes into the config of a saved pipeline: no path of this machine
    impl["soft-fer"] = {key: value for key, value in impl["soft-fer"].items() if key != "default"}


__all__ = [
    "ACTION_UNITS",
    "AUConfig",
    "AUForImageClassification",
    "AUOutput",
    "BinaryEnsemble",
    "CARD_METRICS",
    "EBCConfig",
    "EBCForImageClassification",
    "EBCOutput",
    "FusedConfig",
    "FusedForImageClassification",
    "FusedOutput",
    "INPUT_SETTINGS",
    "IN_THE_BOX",
    "ImageError",
    "MultiHeadClassifier",
    "PROTOTYPES",
    "SoftFerConfig",
    "SoftFerForImageClassification",
    "SoftFerOutput",
    "SoftLabelModel",
    "backbones_of",
    "check_backbone",
    "create_backbone",
    "image_processor_for",
    "load_rgb",
    "log_odds_of_softmax",
    "mixed_log_odds",
    "model_card",
    "multi_head_loss",
    "network_input",
    "open_rgb",
    "register_task",
    "soft_fer_loss",
]
