"""Saved models, read so that whatever is damaged in a folder is said in a sentence with the file and the cure."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
)

_CURE = "copy or train that model anew"
_CONFIG, _PROCESSOR = "config.json", "preprocessor_config.json"


class DamagedError(ValueError):
    """A file that is not what it was when it was written, said in one sentence with its name and the cure."""


@contextmanager
def said_as_damage(name: str | Path, cure: str) -> Iterator[None]:
    """`DamagedError` of the file or folder `name`, whatever the libraries raise that read it."""
    try:
        yield
    except (DamagedError, torch.OutOfMemoryError):
        raise
    except (
        OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, RuntimeError, SafetensorError,
        StrictDataclassError, pickle.UnpicklingError,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise DamagedError(f"{name} is damaged ({reason}): {cure}.") from error


def read_config(name: str | Path, flag: str = "", **options: Any) -> PreTrainedConfig:
    """`AutoConfig.from_pretrained`: `DamagedError` where that or a file of weights in that folder is damaged, another
    `ValueError` where there is none. `flag` is what named it."""
    named, file = f"{flag} {name}".strip(), Path(name) / _CONFIG
    for weights in Path(name).glob("[!.]*.safetensors"):  # not those that a run keeps there meanwhile
        with said_as_damage(weights, _CURE), safe_open(weights, "pt"):
            pass
    if not file.is_file():
        try:
            return AutoConfig.from_pretrained(name, **options)
        except OSError as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{named} is no folder with a model, and not to be had from the Hub: {reason}") from error
    with said_as_damage(file, _CURE):
        config = AutoConfig.from_pretrained(name, **options)
        if sorted(config.id2label) != list(range(len(config.id2label))):
            raise ValueError("id2label")
        return config


def read_model(name: str | Path, flag: str = "", **options: Any) -> PreTrainedModel:
    """`AutoModelForImageClassification.from_pretrained`, with the errors of `read_config`."""
    read_config(name, flag, **{key: value for key, value in options.items() if key != "dtype"})
    with said_as_damage(name, _CURE):
        return AutoModelForImageClassification.from_pretrained(name, **options)


def is_own(config: PreTrainedConfig) -> bool:
    """Whether a model is one of ours."""
    return config.model_type.startswith("affectnet_plus_")


def read_own_model(name: str | Path, flag: str = "", **options: Any) -> PreTrainedModel:
    """`read_model`; `ValueError` also where it is none of ours."""
    config = read_config(name, flag)
    if not is_own(config):
        named = f"{flag} {name}".strip()
        raise ValueError(f"{named} is a {config.model_type}, none of our models: name one that training/ has made.")
    return read_model(name, flag, **options)


def read_image_processor(name: str | Path, **options: Any) -> BaseImageProcessor:
    """`AutoImageProcessor.from_pretrained`; `DamagedError` where that file of a folder is damaged."""
    if not Path(name).is_dir():
        return AutoImageProcessor.from_pretrained(name, **options)
    with said_as_damage(Path(name) / _PROCESSOR, _CURE):
        return AutoImageProcessor.from_pretrained(name, **options)


def check_folder(folder: str | Path, **options: Any) -> None:
    """Raise the errors of `read_config`, and of `read_image_processor` where the model is one of ours."""
    if is_own(read_config(folder, **options)):
        read_image_processor(folder)


def read_pipeline(name: str | Path, flag: str = "", **settings: Any) -> Any:
    """`pipeline("soft-fer", model=name)`, with the errors of `read_own_model` and `read_image_processor`."""
    from transformers import pipeline  # here, because that may be what imports this

    model = read_own_model(name, flag)
    processor = None if str(name).endswith(".onnx") else read_image_processor(name)
    return pipeline("soft-fer", model=model, image_processor=processor, **settings)
