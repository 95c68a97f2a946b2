"""Folders that are either whole or not there. Names hold the part: another run may train another one beside."""

import json
import os
import shutil
from contextlib import contextmanager, nullcontext
from pathlib import Path

from accelerate import Accelerator
from filelock import FileLock

STATE_FILE = "trainer_state.json"
BEST_FILE = "best.safetensors"
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
def held(accelerator: Accelerator, folder: Path):
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


def save_checkpoint(accelerator: Accelerator, output_dir: Path, state: dict, best: Path | None = None) -> None:
    """Save models, optimisers, schedulers, random states of all ranks and the weights in the file `best`, as the part's
    only checkpoint."""
    part = state["part"]
    target = output_dir / f"checkpoint-{part}-{state['step']}"
    beside = output_dir / f".checkpoint-{part}.writing"
    if accelerator.is_main_process:
        shutil.rmtree(beside, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(beside)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if best:
            shutil.copyfile(best, beside / BEST_FILE)
        (beside / STATE_FILE).write_text(json.dumps(state, indent=1))
        if target.exists():
            _remove(target)
        os.replace(beside, target)
        remove_checkpoints(output_dir, part, but=target)
    accelerator.wait_for_everyone()


def read_state(checkpoint: Path) -> dict:
    """What `save_checkpoint` was told of the run."""
    return json.loads((checkpoint / STATE_FILE).read_text())


def remove_checkpoints(output_dir: Path, part: str, but: Path | None = None) -> None:
    for folder in output_dir.glob(f"checkpoint-{part}-*"):
        if folder != but:
            _remove(folder)
    for leftover in output_dir.glob(f".checkpoint-{part}-*.removed"):  # of a killed run
        shutil.rmtree(leftover)


def _remove(checkpoint: Path) -> None:
    """In one move, as half of a checkpoint could be taken for one."""
    removed = checkpoint.with_name(f".{checkpoint.name}.removed")
    shutil.rmtree(removed, ignore_errors=True)
    os.replace(checkpoint, removed)
    shutil.rmtree(removed)


def find_checkpoints(output_dir: Path, wanted: str) -> dict[str, Path]:
    """{part: checkpoint}: the one called `wanted`, or with "latest" the newest of each in `output_dir`."""
    if wanted != "latest" and not (Path(wanted) / STATE_FILE).is_file():
        raise ValueError(f"--resume_from_checkpoint {wanted}: no checkpoint there (looked for {STATE_FILE}).")
    found = output_dir.glob(f"checkpoint-*/{STATE_FILE}") if wanted == "latest" else [Path(wanted) / STATE_FILE]
    found = sorted(found, key=lambda file: file.stat().st_mtime)
    return {read_state(file.parent)["part"]: file.parent for file in found}
