"""Makes the `soft-fer` task known. Imported by a hook as soon as `transformers.pipelines` has been (`import
affectnet_plus`): before that, our pipeline's base class is not there."""

from pathlib import Path

import wrapt
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification
from transformers.pipelines import PIPELINE_REGISTRY

from .modeling_onnx import OnnxConfig
from .pipeline_soft_fer import SoftFerPipeline
from .saved_models import check_folder
from .soft_label_model import image_processor_for

PIPELINE_REGISTRY.register_pipeline(
    "soft-fer",
    pipeline_class=SoftFerPipeline,
    pt_model=AutoModelForImageClassification,
    default={"model": (str(Path(__file__).with_name("bundled")), "main")},
    type="image",
)
_impl = SoftFerPipeline._registered_impl  # goes into the config of a saved pipeline: no path of this machine
_impl["soft-fer"] = {key: value for key, value in _impl["soft-fer"].items() if key != "default"}


# `pipeline("soft-fer", model="model.onnx")` asks these two classes what the file is, as it does of every model.
def _config(wrapped, _, args, kwargs):
    name = args[0] if args else kwargs.get("pretrained_model_name_or_path")
    if not str(name).endswith(".onnx"):
        if kwargs.get("_from_pipeline") == "soft-fer" and Path(name).is_dir():  # to say what is damaged
            check_folder(name, trust_remote_code=kwargs.get("trust_remote_code"))
        return wrapped(*args, **kwargs)
    config = OnnxConfig.from_onnx(name)
    return (config, {}) if kwargs.get("return_unused_kwargs") else config


def _image_processor(wrapped, _, args, kwargs):
    name = args[0] if args else kwargs.get("pretrained_model_name_or_path")
    if not str(name).endswith(".onnx"):
        return wrapped(*args, **kwargs)
    return image_processor_for(OnnxConfig.from_onnx(name))


wrapt.wrap_function_wrapper(AutoConfig, "from_pretrained", _config)
wrapt.wrap_function_wrapper(AutoImageProcessor, "from_pretrained", _image_processor)
