"""The command line, or a YAML or JSON file in its place, and how a script ends at what the user can mend."""

import sys
from contextlib import contextmanager
from pathlib import Path

import yaml
from huggingface_hub.errors import HfHubHTTPError
from tqdm import tqdm
from transformers import HfArgumentParser

from affectnet_plus.modeling import ImageError
from affectnet_plus.training.arguments.records import DamagedError

_MOST = 1e30  # steps of AdamW and the like divide and multiply it, and float32 ends at 3.4e38


def parse_arguments(*dataclass_types, description: str):
    """The dataclasses filled from the command line, or from the one YAML or JSON file named there.

    A value that cannot be is reported as one sentence, with exit status 2.
    """
    parser = HfArgumentParser(dataclass_types, description=description)
    words = sys.argv[1:]
    try:
        if len(words) == 1 and words[0].endswith((".yaml", ".yml", ".json")):
            words = _words_of_file(words[0])
        groups = parser.parse_args_into_dataclasses(words)
        for name, value in [flag for group in groups for flag in vars(group).items()]:
            if isinstance(value, float) and not abs(value) <= _MOST:
                raise ValueError(f"--{name} {value} is no usable number: give one within {_MOST:g}.")
        return groups
    except (ValueError, OSError) as error:
        exit_with_error(error)


def _words_of_file(path: str) -> list[str]:
    """The file's flags as words of a command line, for argparse to check. JSON is YAML, too."""
    try:
        # BaseLoader leaves words as they are written: `no`, `1e-3`.
        flags = yaml.load(Path(path).read_text(encoding="utf-8"), yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no valid YAML or JSON: {' '.join(str(error).split())}") from error
    if not isinstance(flags, dict):
        raise ValueError(f"{path} holds no flags: lines such as `learning_rate: 1e-3` are expected.")
    words = []
    for flag, value in flags.items():
        if value in ("null", "~", "", []):  # as when it is not there
            continue
        words += [f"--{flag}", *(value if isinstance(value, list) else [value])]
    return words


def exit_with_error(error: Exception | str):
    """End the script with the error's sentence instead of a traceback; for what the user can mend."""
    tqdm.write(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)  # on a line of its own, bar or not
    sys.exit(2)


@contextmanager
def exit_on_error():
    """Around all that comes before the long work: whatever the user can mend is said there."""
    try:
        yield
    except (ValueError, OSError, ImportError, HfHubHTTPError) as error:
        exit_with_error(error)


@contextmanager
def exit_on_broken_image():
    """Around the long work, for what is first opened there; from a worker, the error comes with a traceback in its
    text."""
    try:
        yield
    except ImageError as error:
        message = str(error).strip().splitlines()[-1].partition("ImageError: ")[2] or str(error)
        exit_with_error(f"{message} --on_error skip leaves broken images out.")
    except DamagedError as error:
        exit_with_error(error)
