"""Folders of models, whole at every moment, whoever else completes or reads them."""

import json
import os
import shutil
from contextlib import contextmanager, nullcontext
from pathlib import Path

from accelerate import Accelerator
from filelock import FileLock

_CONFIG, _WEIGHTS, _PROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"  # of a model's folder
_FIRST_CONFIG, _NEW_WEIGHTS, _LINK = "config.first.json", "model.new.safetensors", "model.link"  # while it changes
_WRITTEN = ".written"  # whole, on its way into the folder
_LOCK = ".lock"


@contextmanager
def locked(folder: Path):
    """Hold a folder that several commands complete, and complete what a killed one had begun to move into it."""
    with FileLock(folder / _LOCK):
        finish_moves(folder)
        yield


def locked_if_shared(folder: Path):
    """`locked` where commands complete the folder together; any other is read as it is, and nothing is left in it."""
    return locked(folder) if os.access(folder / _LOCK, os.W_OK) else nullcontext()


@contextmanager
def locked_for_reading(accelerator: Accelerator, folder: Path):
    """All processes read the same from a folder: the main one locks it until each has read."""
    with locked_if_shared(folder) if accelerator.is_main_process else nullcontext():
        accelerator.wait_for_everyone()
        yield
        accelerator.wait_for_everyone()


@contextmanager
def written_beside(folder: Path):
    """Yields an empty folder; once all is written, its files take the place of those of the same name in `folder`.

    Killed at any moment, `folder` has the old files or the new ones, no old one beside a new one; a model in it, config
    and weights, loads as the old or as the new one. Moves that a kill has cut short are gone on with by whoever comes
    next (`finish_moves`). Where writing fails, e.g. on a full disk, `folder` stays as it was.
    """
    finish_moves(folder)
    beside = folder / ".writing"  # inside: a rename cannot leave a mounted disk
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
        if (beside / _WEIGHTS).exists():
            config = json.loads((beside / _CONFIG).read_text())
            (beside / _FIRST_CONFIG).write_text(json.dumps(config | {"transformers_weights": _NEW_WEIGHTS}))
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    os.replace(beside, folder / _WRITTEN)
    finish_moves(folder)


def finish_moves(folder: Path) -> None:
    """Move what `written_beside` has written whole; each move can be the last one of a process that is killed.

    Config and weights are two files, and no two files can be replaced at once. So the new weights come under a name of
    their own first; then a config that names them (`transformers_weights`, which `from_pretrained` follows) makes the
    model new in one move; then the weights get their usual name as well; then comes the config as it will stay.
    """
    written = folder / _WRITTEN
    if not written.is_dir():
        return
    names = {file.name for file in written.iterdir()}
    described = sorted(names - {_CONFIG, _FIRST_CONFIG, _WEIGHTS, _PROCESSOR, _LINK})  # cards, figures, pages
    if names - {*described[:1]}:  # one file alone is replaced in one move
        for name in described:
            (folder / name).unlink(missing_ok=True)
    if _WEIGHTS in names:
        (folder / "metrics.json").unlink(missing_ok=True)  # of the old ones

    def move(name: str, to: str) -> None:
        if (written / name).exists():
            os.replace(written / name, folder / to)

    move(_PROCESSOR, _PROCESSOR)
    move(_WEIGHTS, _NEW_WEIGHTS)
    move(_FIRST_CONFIG, _CONFIG)
    if (folder / _NEW_WEIGHTS).exists():
        _link(folder / _NEW_WEIGHTS, written / _LINK)
        move(_LINK, _WEIGHTS)
    move(_CONFIG, _CONFIG)
    (folder / _NEW_WEIGHTS).unlink(missing_ok=True)
    for name in described:
        move(name, name)
    shutil.rmtree(written)


def _link(file: Path, link: Path) -> None:
    link.unlink(missing_ok=True)
    try:
        os.link(file, link)
    except OSError:  # not every file system has links
        shutil.copyfile(file, link)
