"""What all our models share: saving as a complete folder, and pushing with the code that runs it."""

import tempfile
from pathlib import Path

from huggingface_hub import HfApi
from transformers import PreTrainedModel, ViTImageProcessor
from transformers.dynamic_module_utils import custom_object_save

from .model_card import model_card
from .pipeline_soft_fer import SoftFerPipeline


def image_processor_for(config) -> ViTImageProcessor:
    """Turns RGB images into the `pixel_values` that a model of this config expects."""
    size = {"height": config.image_size, "width": config.image_size}
    return ViTImageProcessor(size=size, image_mean=config.image_mean, image_std=config.image_std)


class SoftLabelModel(PreTrainedModel):
    """An image classifier whose `logits` (B, expressions), through a sigmoid, are a soft label."""

    main_input_name = "pixel_values"

    def _init_weights(self, module):
        # timm has initialised its own weights. What no checkpoint holds (position tables and the like) has to be
        # filled in again after `from_pretrained` has built the model without memory.
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()

    @property
    def image_processor(self) -> ViTImageProcessor:
        return image_processor_for(self.config)

    def save_pretrained(self, save_directory, with_code: bool = False, is_main_process: bool = True, **kwargs) -> None:
        """Write config, safetensors, image processor and card; `with_code` adds the Python files that
        `trust_remote_code=True` needs where this package is not installed."""
        if not is_main_process:
            return
        auto_map = getattr(self.config, "auto_map", None)
        if with_code:
            self._save_code(save_directory)
        super().save_pretrained(save_directory, **kwargs)
        self.image_processor.save_pretrained(save_directory)
        model_card(self.config).save(Path(save_directory) / "README.md")
        if with_code:  # this model, in memory, is still the installed one
            del self.config.custom_pipelines
            self.config.auto_map = auto_map

    def _save_code(self, folder) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for source in (type(self), SoftFerPipeline):
            custom_object_save(source, folder)
        here = {cls: f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}" for cls in (type(self), self.config_class)}
        self.config.auto_map = {
            "AutoConfig": here[self.config_class],
            "AutoModelForImageClassification": here[type(self)],
        }
        # A folder with `custom_pipelines` asks for trust_remote_code even where the task is registered, so this is
        # for pushing only.
        self.config.custom_pipelines = {
            "soft-fer": {
                "impl": f"pipeline_soft_fer.{SoftFerPipeline.__name__}",
                "pt": ["AutoModelForImageClassification"],
                "type": "image",
            }
        }

    def push_to_hub(self, repo_id: str, private: bool | None = None, token=None, **kwargs) -> str:
        """Upload the complete folder, code included. Own because transformers' replaces the card by an empty one."""
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, with_code=True)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder, **kwargs))
