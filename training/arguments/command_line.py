"""The command line, or a YAML or JSON file in its place, and how a script ends at what the user can mend."""

import ctypes
import itertools
import os
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import yaml
from huggingface_hub.errors import HfHubHTTPError
from tqdm import tqdm
from transformers import HfArgumentParser

from affectnet_plus.modeling import DamagedError, ImageError
from affectnet_plus.releases.files import check_utf8, shortened
from affectnet_plus.releases.processes import ignore_interrupts, interruptible
from affectnet_plus.releases.writing import causes, is_no_room, no_room

NOTHING_KEPT = "Nothing of it is kept, and what was there before is: give the same command again."
WHOLE_FILES_KEPT = "Whole files are kept: the same command goes on after them."
NETWORKS_KEPT = (
    "Finished networks and the last checkpoint are kept: --resume_from_checkpoint latest beside the same flags goes on "
    "from there."
)
_written_to: list[str] = []  # by the script that is running
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
        *groups, unused = parser.parse_args_into_dataclasses(words, return_remaining_strings=True)
        if words.count("--dataset_name") > 1:
            raise ValueError("--dataset_name is given twice: give it once, with the names of all datasets after it.")
        if unused:
            raise ValueError(_of_unused(unused[0], words))
        flags = {name: value for group in groups for name, value in vars(group).items()}
        for name, value in flags.items():
            if isinstance(value, float) and not abs(value) <= _MOST:
                raise ValueError(f"--{name} {value} is no usable number: give one within {_MOST:g}.")
            for word in value if isinstance(value, list) else [value]:
                if isinstance(word, str):
                    check_utf8(word, f"--{name}")
        _written_to[:] = [flags[key] for key in ("output_dir", "output_file", "write_release") if flags.get(key)]
        return groups
    except (ValueError, OSError) as error:
        exit_with_error(error)


def _of_unused(word: str, words: list[str]) -> str:
    """What is said of a word of the command line that no flag has taken."""
    flag = ""
    for before, here in itertools.pairwise(["", *words]):
        flag = before if before.startswith("--") else flag
        if here == word and not before.startswith("--"):
            break
    if word.startswith("--") or not flag:
        return f"There is no flag {shortened(word)}: see --help."
    cure = "run this once for each dataset" if flag == "--dataset_name" else "leave the others out"
    return f"{flag} takes one value here, and {shortened(word)} is one more: {cure}."


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


def run_script(main: Callable[[], None], kept: str) -> None:
    """Run a script's `main`; one that is interrupted, or finds no room on a disk, ends with a sentence.

    Args:
        main: of the script.
        kept: what is left then, and how to go on.
    """
    _keep_memory()
    try:
        with interruptible():
            main()
    except (Exception, KeyboardInterrupt) as error:
        if any(isinstance(cause, KeyboardInterrupt) for cause in causes(error)):
            ignore_interrupts()
            if os.environ.get("RANK", "0") == "0":
                tqdm.write(f"{Path(sys.argv[0]).name}: interrupted. {kept}", file=sys.stderr)
            sys.exit(130)
        if is_no_room(error):
            exit_with_error(f"{no_room(error, _written_to)} {kept}")
        raise


def _keep_memory() -> None:
    """Let glibc keep what it has: it gives large blocks back to the system, to ask for them again in the next step, a
    sixth of the time. What the environment says of malloc stands."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None or any(name.startswith("MALLOC_") for name in os.environ):
        return
    threshold_of_mmap, threshold_of_trim = -3, -1  # malloc.h
    mallopt(threshold_of_mmap, 2**31 - 1) or mallopt(threshold_of_mmap, 2**25)  # the highest in older ones
    mallopt(threshold_of_trim, 2**31 - 1)


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
        if is_no_room(error):
            raise  # to `run_script`
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
