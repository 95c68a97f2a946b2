"""Makes the `soft-fer` task known. Imported by a hook as soon as `transformers.pipelines` has been (`import
affectnet_plus`): before that, our pipeline's base class is not there."""

from pathlib import Path

from transformers import AutoModelForImageClassification
from transformers.pipelines import PIPELINE_REGISTRY

from .pipeline_soft_fer import SoftFerPipeline

PIPELINE_REGISTRY.register_pipeline(
    "soft-fer",
    pipeline_class=SoftFerPipeline,
    pt_model=AutoModelForImageClassification,
    default={"model": (str(Path(__file__).with_name("bundled")), "main")},
    type="image",
)
_impl = SoftFerPipeline._registered_impl  # goes into the config of a saved pipeline: no path of this machine
_impl["soft-fer"] = {key: value for key, value in _impl["soft-fer"].items() if key != "default"}
