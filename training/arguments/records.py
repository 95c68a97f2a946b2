"""What earlier runs have left, read so that whatever is damaged is said in a sentence: JSON files, configs, models."""

import json
import pickle
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel

from affectnet_plus.modeling import no_model


class DamagedError(ValueError):
    """A file that is not what it was when it was written, said in one sentence with its name and the cure."""


@contextmanager
def said_as_damage(name: str | Path, cure: str):
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


def read_record(file: Path, cure: str, **types: type | tuple[type, ...]) -> dict[str, Any]:
    """The JSON object in a file, in which the values of these keys have these `types`; else `DamagedError`."""
    with said_as_damage(file, cure):
        record = json.loads(file.read_bytes())
        if not isinstance(record, dict):
            raise TypeError("no object")
        for key, expected in types.items():
            if not isinstance(value := record.get(key), expected) or isinstance(value, bool):
                raise TypeError(f"{json.dumps(value)[:40]} as {key!r}")
    return record


def read_config(name: str | Path, flag: str = "", **options) -> PreTrainedConfig:
    """`AutoConfig.from_pretrained`: `DamagedError` where that or a file of weights in that folder is damaged, another
    `ValueError` where there is none. `flag` is what named it."""
    file, cure = Path(name) / "config.json", "copy or train that model anew"
    for weights in Path(name).glob("*.safetensors"):
        with said_as_damage(weights, cure), safe_open(weights, "pt"):
            pass
    if not file.is_file():
        try:
            return AutoConfig.from_pretrained(name, **options)
        except OSError as error:
            raise no_model(f"{flag} {name}".strip(), error) from error
    with said_as_damage(file, cure):
        config = AutoConfig.from_pretrained(name, **options)
        if sorted(config.id2label) != list(range(len(config.id2label))):
            raise ValueError("id2label")
        return config


def read_model(name: str | Path, flag: str = "", **options) -> PreTrainedModel:
    """`AutoModelForImageClassification.from_pretrained`, with the errors of `read_config`."""
    read_config(name, flag, **{key: value for key, value in options.items() if key != "dtype"})
    with said_as_damage(name, "copy or train that model anew"):
        return AutoModelForImageClassification.from_pretrained(name, **options)
