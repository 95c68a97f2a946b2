"""What all our models share: saving as a complete folder, and pushing with the code that runs it."""

import copy
import inspect
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import HfApi
from torch import Tensor
from transformers import PreTrainedModel, ViTImageProcessor
from transformers.dynamic_module_utils import custom_object_save

from .backbone import one_network_of_each_kind
from .files import read_regular_file
from .model_card import model_card

_FOR_HUB = (
    "repo_id", "private", "token", "revision", "tags", "commit_message", "commit_description", "create_pr",
)  # fmt: skip


def image_processor_for(config) -> ViTImageProcessor:
    """Turns RGB images into the `pixel_values` that a model of this config expects."""
    size = {"height": config.image_size, "width": config.image_size}
    return ViTImageProcessor(size=size, image_mean=config.image_mean, image_std=config.image_std)


def normalization_of(image_processor) -> tuple[int, Any, Any] | None:
    """Side in pixels, mean and standard deviation of an image processor that is like `image_processor_for`'s: it scales
    to a square and normalises, and nothing else. None of another."""
    settings = image_processor.to_dict()
    size, mean, std = (settings.get(key) for key in ("size", "image_mean", "image_std"))
    if not (size and mean and std and set(size) == {"height", "width"} and size["height"] == size["width"]):
        return None
    like_ours = ViTImageProcessor(size=size, image_mean=mean, image_std=std).to_dict()
    return (size["height"], mean, std) if settings == like_ours else None


def _forget_figures(config, anew: set[str]) -> None:
    """Drop what was fitted and measured with weights that were initialised anew (`anew`, their keys)."""
    config.evaluation = {}
    parts = {key: getattr(config, key) for key in ("ebc", "au") if hasattr(config, key)}
    for name, part in parts.items():
        if of_part := {key.removeprefix(f"{name}.") for key in anew if key.startswith(f"{name}.")}:
            _forget_figures(part, of_part)
    touched = {name for name in config.expressions if any(f"experts.{name}." in key for key in anew)}
    kept = [name for name in config.expressions if name not in touched] if touched else []
    for key in ("calibration", "training", "ebc_weights"):
        if hasattr(config, key):
            setattr(config, key, {name: value for name, value in getattr(config, key).items() if name in kept})


def _name_in_folder(cls: type) -> str:
    return f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}"


class SoftLabelModel(PreTrainedModel):
    """An image classifier whose `logits` (B, expressions), through a sigmoid, are a soft label."""

    main_input_name = "pixel_values"
    accepts_loss_kwargs = False  # the loss is a batch's mean: `Trainer` divides it when it accumulates gradients
    supports_gradient_checkpointing = True

    def __init__(self, config) -> None:
        config.adopt_labels()
        super().__init__(config)
        self.config: Any

    def _init_weights(self, module):
        # timm has initialised its own weights. What no checkpoint holds (position tables and the like) has to be
        # filled in again after `from_pretrained` has built the model without memory.
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()

    def _set_gradient_checkpointing(self, enable: bool = True, *args, **kwargs):
        for module in self.modules():
            if hasattr(module, "set_grad_checkpointing"):
                try:
                    module.set_grad_checkpointing(enable)
                except AssertionError as error:
                    raise ValueError(f"timm's {type(module).__name__} has no gradient checkpointing.") from error

    @classmethod
    def from_pretrained(cls, *args, output_loading_info: bool = False, **kwargs):
        """As transformers'. Weights that the checkpoint lacks, or has in another size (`ignore_mismatched_sizes`, as
        after `num_labels`), are initialised as timm does; what was fitted and measured with the lost ones leaves the
        config."""
        with one_network_of_each_kind():
            model, loading_info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        anew = set(loading_info["missing_keys"]) | {key for key, *_ in loading_info["mismatched_keys"]}
        if anew:  # they are uninitialised memory
            initialised = cls(copy.deepcopy(model.config)).state_dict()
            with torch.no_grad():
                for key, tensor in model.state_dict().items():
                    if key in anew:
                        tensor.copy_(initialised[key])
            _forget_figures(model.config, anew)
        # Weights mapped from a file lie at odd addresses, where some CPUs' kernels add up in another order: equal
        # weights would give other last bits than they gave before they were saved.
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.device.type == "cpu" and tensor.data_ptr() % 64:
                tensor.data = tensor.data.clone()
        return (model, loading_info) if output_loading_info else model

    def soft_label_of(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Labels as the loss takes them, (B, expressions) in [0, 1]: a soft label as it is, class indices (B,) as
        one-hot. `ValueError` where they are neither."""
        self.config.check_problem_type()
        classes = logits.shape[1]
        if labels.ndim == 1 and not labels.is_floating_point():
            if ((labels < 0) | (labels >= classes)).any():
                raise ValueError(
                    f"labels are class indices from 0 to {classes - 1} ({', '.join(self.config.expressions)}), and "
                    f"these go from {labels.min()} to {labels.max()}: leave other rows out."
                )
            labels = F.one_hot(labels.long(), classes)
        if labels.shape != logits.shape:
            raise ValueError(
                f"labels are soft labels ({len(logits)}, {classes}) or whole-number class indices ({len(logits)},), "
                f"not {labels.dtype} {tuple(labels.shape)}."
            )
        return labels.to(logits)

    def calibrate(self, log_odds: Tensor) -> Tensor:
        """Log-odds (B, expressions) / temperature + shift, as fitted on validation."""
        fitted = [self.config.calibration.get(name, {}) for name in self.config.expressions]
        temperature = log_odds.new_tensor([c.get("temperature", 1.0) for c in fitted])
        shift = log_odds.new_tensor([c.get("log_odds_shift", 0.0) for c in fitted])
        return log_odds / temperature + shift

    @property
    def image_processor(self) -> ViTImageProcessor:
        return image_processor_for(self.config)

    def save_pretrained(
        self,
        save_directory,
        with_code: bool = False,
        is_main_process: bool = True,
        push_to_hub: bool = False,
        **kwargs,
    ) -> None:
        """Write config, safetensors, image processor and card; `with_code` adds the Python files that
        `trust_remote_code=True` needs where this package is not installed. With `push_to_hub`, `repo_id` and the other
        arguments of that method may be given, too."""
        if not is_main_process:
            return
        for_hub = {name: kwargs.pop(name) for name in _FOR_HUB if name in kwargs}
        config = self.config
        try:
            if with_code:
                self.config = copy.deepcopy(config)  # the model in memory goes on without
                self._add_code(Path(save_directory))
            super().save_pretrained(save_directory, **kwargs)
        finally:
            self.config = config
        self.image_processor.save_pretrained(save_directory)
        model_card(config).save(Path(save_directory) / "README.md")
        if push_to_hub:
            sharding = {"max_shard_size": kwargs["max_shard_size"]} if "max_shard_size" in kwargs else {}
            self.push_to_hub(for_hub.pop("repo_id", Path(save_directory).name), **sharding, **for_hub)

    def _add_code(self, folder: Path) -> None:
        from .pipeline_soft_fer import SoftFerPipeline  # here, because models are at home without pipelines

        folder.mkdir(parents=True, exist_ok=True)
        for source in (type(self), SoftFerPipeline):
            custom_object_save(source, folder)
        shutil.copyfile(inspect.getfile(read_regular_file), folder / "files.py")  # the code, not where it comes from
        self.config.auto_map = {
            "AutoConfig": _name_in_folder(self.config_class),
            "AutoModelForImageClassification": _name_in_folder(type(self)),
        }
        self.config.custom_pipelines = {
            "soft-fer": {
                "impl": _name_in_folder(SoftFerPipeline),
                "pt": ["AutoModelForImageClassification"],
                "type": "image",
            }
        }

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        max_shard_size: int | str = "50GB",
        tags: list[str] | None = None,
        **kwargs,
    ) -> str:
        """Upload the complete folder, code included. Own because transformers' replaces the card by an empty one; the
        arguments are the same, `commit_message`, `commit_description` and `create_pr` among them."""
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not revision.startswith("refs/pr"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, with_code=True, max_shard_size=max_shard_size)
            card = model_card(self.config, repo_id)
            card.data["tags"] += [tag for tag in tags or [] if tag not in card.data["tags"]]
            card.save(Path(folder) / "README.md")
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder, revision=revision, **kwargs))
