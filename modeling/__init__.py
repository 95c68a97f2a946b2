"""The models. Importing this makes them and the `soft-fer` task known to `transformers`."""

from transformers import AutoConfig, AutoModelForImageClassification
from transformers.pipelines import PIPELINE_REGISTRY

from .backbone import check_backbone, create_backbone
from .configuration_ebc import EBCConfig
from .image_loading import ImageError, load_rgb, open_rgb
from .modeling_ebc import BinaryEnsemble, EBCForImageClassification, EBCOutput
from .pipeline_soft_fer import SoftFerPipeline
from .soft_label_model import SoftLabelModel, image_processor_for

AutoConfig.register(EBCConfig.model_type, EBCConfig, exist_ok=True)
AutoModelForImageClassification.register(EBCConfig, EBCForImageClassification, exist_ok=True)
PIPELINE_REGISTRY.register_pipeline(
    "soft-fer", pipeline_class=SoftFerPipeline, pt_model=AutoModelForImageClassification, type="image"
)

__all__ = [
    "BinaryEnsemble",
    "EBCConfig",
    "EBCForImageClassification",
    "EBCOutput",
    "ImageError",
    "SoftFerPipeline",
    "SoftLabelModel",
    "check_backbone",
    "create_backbone",
    "image_processor_for",
    "load_rgb",
    "open_rgb",
]
