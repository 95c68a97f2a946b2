"""Checkpoints of one network, in a folder where other commands may train others beside it: names hold the network's."""

import json
import os
import shutil
from pathlib import Path
from types import NoneType

import torch
from accelerate import Accelerator
from accelerate.utils import load
from safetensors.torch import load_file, save_file

from affectnet_plus.modeling import said_as_damage, under_present_names
from affectnet_plus.releases.writing import written_whole
from affectnet_plus.training.arguments import read_record

STATE_FILE = "trainer_state.json"
_BEST_FILE = "best.safetensors"
_CURE = "delete that checkpoint's folder, and what it is of is trained anew"


class Checkpoints:
    """Where training of a network goes on from, and where its state and its best weights are kept."""

    def __init__(self, accelerator: Accelerator, folder: Path, name: str, settings: dict, found: Path | None = None):
        """`settings` are what whoever goes on has to agree with; `found` is the checkpoint to go on from."""
        self.accelerator, self.folder, self.name, self.settings, self.found = accelerator, folder, name, settings, found
        state = read_state(found) if found else {}
        self.step: int = state.get("step", 0)  # what is found was saved after this one
        self.best: dict | None = state.get("best")  # {"step", and the figure that decides}
        self._best_weights = folder / f".best-{name}.safetensors"

    def load(self) -> None:
        """Put what was found into all that Accelerate has prepared so far; `DamagedError` where that cannot be."""
        if self.found is None:
            return
        with said_as_damage(self.found, _CURE):
            self.accelerator.load_state(self.found)
            # Without them Accelerate goes on, and says nothing.
            random_states = load(self.found / f"random_states_{self.accelerator.process_index}.pkl")
            if not torch.equal(random_states["torch_manual_seed"], torch.get_rng_state()):
                raise ValueError("random_states")
            if self.best:
                load_file(self.found / _BEST_FILE)
        if self.best and self.accelerator.is_main_process:
            shutil.copyfile(self.found / _BEST_FILE, self._best_weights)

    def save(self, step: int) -> None:
        """Save models, optimisers, schedulers, random states of all ranks and the best weights, as the only one."""
        target = self.folder / f"checkpoint-{self.name}-{step}"
        beside = self.folder / f".checkpoint-{self.name}.writing"
        if self.accelerator.is_main_process:
            shutil.rmtree(beside, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            self.accelerator.save_state(beside)
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                if self.best:
                    shutil.copyfile(self._best_weights, beside / _BEST_FILE)
                state = {"part": self.name, "step": step, "settings": self.settings, "best": self.best}
                (beside / STATE_FILE).write_text(json.dumps(state, indent=1))
        except BaseException:  # a full disk, say: the last checkpoint stays
            shutil.rmtree(beside, ignore_errors=True)
            raise
        if self.accelerator.is_main_process:
            if target.exists():
                _remove(target)
            os.replace(beside, target)
            self._remove_all_but(target)
        self.accelerator.wait_for_everyone()

    def save_best(self, network: torch.nn.Module, figures: dict) -> None:
        self.best = figures
        if self.accelerator.is_main_process:
            with written_whole(self._best_weights) as beside:
                save_file(self.accelerator.unwrap_model(network).state_dict(), beside)

    def load_best(self, network: torch.nn.Module) -> None:
        self.accelerator.wait_for_everyone()
        self.accelerator.unwrap_model(network).load_state_dict(load_file(self._best_weights))

    def remove(self) -> None:
        self._remove_all_but(None)
        self._best_weights.unlink(missing_ok=True)

    def _remove_all_but(self, kept: Path | None) -> None:
        for folder in self.folder.glob(f"checkpoint-{self.name}-*"):
            if folder != kept:
                _remove(folder)
        remove_leftovers(self.folder, self.name)


def remove_leftovers(folder: Path, name: str) -> None:
    """What a killed run has left of checkpoints of a network that it was writing or removing."""
    for leftover in (*folder.glob(f".checkpoint-{name}-*.removed"), *folder.glob(f".checkpoint-{name}.writing")):
        shutil.rmtree(leftover)
    (folder / f".writing-.best-{name}.safetensors").unlink(missing_ok=True)


def read_state(checkpoint: Path) -> dict:
    """{"part": the network's name, "step", "settings", "best"}."""
    types = {"part": str, "step": int, "settings": dict, "best": (dict, NoneType)}
    state = read_record(checkpoint / STATE_FILE, _CURE, **types)
    return state | {"settings": under_present_names(state["settings"])}


def find_checkpoints(folder: Path, wanted: str) -> dict[str, Path]:
    """{network's name: checkpoint}: the one called `wanted`, or with "latest" the newest of each in `folder`."""
    if wanted != "latest" and not (Path(wanted) / STATE_FILE).is_file():
        raise ValueError(f"--resume_from_checkpoint {wanted}: no checkpoint there (looked for {STATE_FILE}).")
    found = folder.glob(f"checkpoint-*/{STATE_FILE}") if wanted == "latest" else [Path(wanted) / STATE_FILE]
    found = sorted(found, key=lambda file: file.stat().st_mtime)
    return {read_state(file.parent)["part"]: file.parent for file in found}


def _remove(checkpoint: Path) -> None:
    """In one move, as half of a checkpoint could be taken for one."""
    removed = checkpoint.with_name(f".{checkpoint.name}.removed")
    shutil.rmtree(removed, ignore_errors=True)
    os.replace(checkpoint, removed)
    shutil.rmtree(removed)
