"""Folders that are either whole or not there. Names hold the part: another run may train another one beside."""

import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator

STATE_FILE = "trainer_state.json"
BEST_FILE = "best.safetensors"


@contextmanager
def written_beside(folder: Path):
    """Yields an empty folder; its files replace those of the same name in `folder` once all are written."""
    beside = folder / ".writing"  # inside: a rename cannot leave a mounted disk
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    yield beside
    for file in sorted(beside.iterdir(), key=lambda file: file.name == "config.json"):  # the config speaks for the rest
        os.replace(file, folder / file.name)
    beside.rmdir()


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
        shutil.rmtree(target, ignore_errors=True)
        os.replace(beside, target)
        remove_checkpoints(output_dir, part, but=target)
    accelerator.wait_for_everyone()


def read_state(checkpoint: Path) -> dict:
    """What `save_checkpoint` was told of the run."""
    return json.loads((checkpoint / STATE_FILE).read_text())


def remove_checkpoints(output_dir: Path, part: str, but: Path | None = None) -> None:
    for folder in output_dir.glob(f"checkpoint-{part}-*"):
        if folder != but:
            shutil.rmtree(folder)


def find_checkpoints(output_dir: Path, wanted: str) -> dict[str, Path]:
    """{part: checkpoint}: the one called `wanted`, or with "latest" the newest of each in `output_dir`."""
    if wanted != "latest" and not (Path(wanted) / STATE_FILE).is_file():
        raise ValueError(f"--resume_from_checkpoint {wanted}: no checkpoint there (looked for {STATE_FILE}).")
    found = output_dir.glob(f"checkpoint-*/{STATE_FILE}") if wanted == "latest" else [Path(wanted) / STATE_FILE]
    found = sorted(found, key=lambda file: file.stat().st_mtime)
    return {read_state(file.parent)["part"]: file.parent for file in found}
