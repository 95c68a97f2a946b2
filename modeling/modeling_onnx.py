"""An ONNX file as a model of transformers, so that `pipeline("soft-fer", model="model.onnx")` takes one."""

import functools
import os

import torch
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from .configuration_soft_label import SoftLabelConfig
from .onnx_pipeline import OnnxNetwork, OnnxSettings


@strict
class OnnxConfig(SoftLabelConfig):
    """What a file of `affectnet-plus export-onnx` says of itself."""

    model_type = "affectnet_plus_onnx"

    @classmethod
    def from_onnx(cls, file: str | os.PathLike) -> "OnnxConfig":
        """Raises as `OnnxNetwork` does."""
        said = _settings_in(os.fspath(file), os.stat(file).st_mtime_ns if os.path.exists(file) else None)
        return cls(
            id2label=dict(enumerate(said.expressions)),
            image_size=said.image_size,
            image_mean=said.image_mean,
            image_std=said.image_std,
            framing=said.framing,
            name_or_path=said.name_or_path,
        )


@functools.lru_cache(maxsize=4)
def _settings_in(file: str, time: int | None) -> OnnxSettings:
    return OnnxNetwork(file).config


class OnnxForImageClassification(PreTrainedModel):
    """ONNX Runtime behind the face of a model: for use, not for training; takes `pixel_values` from any device."""

    config_class = OnnxConfig
    main_input_name = "pixel_values"
    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, config: OnnxConfig):
        super().__init__(config)
        self.network = OnnxNetwork(config.name_or_path, "cpu")

    def to(self, device=None, *args, **kwargs):
        """Run on another device from now on, where ONNX Runtime has it; tensors may be on any."""
        if str(device).startswith("cuda"):
            self.network = OnnxNetwork(self.config.name_or_path, device)
        return self

    @classmethod
    def from_pretrained(cls, file, *args, config: OnnxConfig | None = None, **kwargs):
        return cls(config or OnnxConfig.from_onnx(file)).eval()

    def forward(self, pixel_values: torch.Tensor) -> ModelOutput:
        outputs = self.network(pixel_values.detach().float().cpu().numpy())
        return ModelOutput({name: torch.from_numpy(values) for name, values in outputs.items()})

    def save_pretrained(self, save_directory, **kwargs):
        raise ValueError(f"{self.config.name_or_path} is saved by copying it.")
