"""Folders that are either whole or not there."""

import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator

STATE_FILE = "trainer_state.json"


@contextmanager
def written_beside(folder: Path):
    """Yields a new folder; its files replace those of the same name in `folder` once all are written."""
    beside = folder.parent / f".{folder.name}.writing"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    yield beside
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(beside.iterdir(), key=lambda file: file.name == "config.json"):  # the config speaks for the rest
        os.replace(file, folder / file.name)
    beside.rmdir()


def save_checkpoint(accelerator: Accelerator, output_dir: Path, state: dict) -> None:
    """Save models, optimisers, schedulers and random states of all ranks as output_dir/checkpoint-..., the only one."""
    target = output_dir / f"checkpoint-{state['expression']}-{state['step']}"
    beside = output_dir / ".checkpoint.writing"
    if accelerator.is_main_process:
        shutil.rmtree(beside, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(beside)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (beside / STATE_FILE).write_text(json.dumps(state, indent=1))
        shutil.rmtree(target, ignore_errors=True)
        os.replace(beside, target)
        remove_checkpoints(output_dir, but=target)
    accelerator.wait_for_everyone()


def read_state(checkpoint: Path) -> dict:
    """What `save_checkpoint` was told of the run."""
    return json.loads((checkpoint / STATE_FILE).read_text())


def remove_checkpoints(output_dir: Path, but: Path | None = None) -> None:
    for folder in output_dir.glob("checkpoint-*"):
        if folder != but:
            shutil.rmtree(folder)


def find_checkpoint(output_dir: Path, wanted: str) -> Path | None:
    """The checkpoint called `wanted`, or with "latest" the newest of `output_dir`, None where there is none yet."""
    if wanted != "latest":
        if not (Path(wanted) / STATE_FILE).is_file():
            raise ValueError(f"--resume_from_checkpoint {wanted}: no checkpoint there (looked for {STATE_FILE}).")
        return Path(wanted)
    found = [file.parent for file in output_dir.glob(f"checkpoint-*/{STATE_FILE}")]
    return max(found, key=lambda folder: (folder / STATE_FILE).stat().st_mtime, default=None)
