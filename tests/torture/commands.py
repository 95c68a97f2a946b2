"""The long commands on small inputs, and what each has to give however it was disturbed."""

import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from runs import SMALL, SOFT_FER, Script, write_grey_faces
from small_models import model_of

from affectnet_plus.releases.export import export
from affectnet_plus.synthetic import synthesize

PROGRAM = Path(sys.executable).with_name("affectnet-plus")
GO_ON = ["--resume_from_checkpoint", "latest"]
_SMALL_STEPS = ["--max_train_steps", 24, "--checkpointing_steps", 4]
_TRAINED = ["**/model.safetensors"]


@dataclass
class Command:
    """Reads ../inputs and writes to out/ in the folder that it runs in."""

    name: str
    script: str | Path
    args: list
    results: list[str] = field(default_factory=lambda: ["**/*"])  # patterns below out/ of what is always the same
    go_on: list = field(default_factory=list)  # flags to go on with

    def start(self, folder: Path, go_on: bool = False) -> Script:
        (folder / "out").mkdir(parents=True, exist_ok=True)
        environment = {"HF_DATASETS_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "TMPDIR": str(folder)}
        args = [*self.args, *(self.go_on if go_on else [])]
        return Script(self.script, *args, cwd=folder, environment=environment)

    def found(self, folder: Path) -> dict[str, str]:
        """Digests of the results."""
        out = folder / "out"
        files = {path for pattern in self.results for path in out.glob(pattern) if path.is_file()}
        shown = {path for path in files if not any(part.startswith(".") for part in path.relative_to(out).parts)}
        return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(shown)}


def small_inputs(folder: Path) -> None:
    """A release, its export, models of each kind, a dataset with soft labels, labels, pictures."""
    synthesize(folder / "R", train=64, validation=32, seed=1, num_proc=1, image_size=32)
    write_grey_faces(folder / "grey")
    for kind in ("ebc", "au", "fused", "soft_fer"):
        model_of(kind).save_pretrained(folder / kind)
    images = sorted((folder / "R").rglob("*.jpg"))[:24]
    (folder / "faces").mkdir()
    for image in images:
        Image.open(image).resize((64, 64)).save(folder / "faces" / image.name)
    labels = Script("label.py", "--data_dir", "R", "--model", "fused", "--output_dir", "soft", "--rows_per_file", 16,
                    "--dataloader_num_workers", 0, cwd=folder)  # fmt: skip
    status, _, error = labels.wait()
    assert not status, error
    export(folder / "R", folder / "exported", num_proc=1)


def commands() -> list[Command]:
    """The quickest first."""
    on_release, on_grey = ["--data_dir", "../inputs/R"], ["--dataset_name", "../inputs/grey"]
    labelled = ["--output_dir", "out", "--rows_per_file", 8, "--dataloader_num_workers", 0]
    experts = [*SMALL, *on_grey, "--expressions", "happy", "sad", *_SMALL_STEPS, "--output_dir", "out"]
    au = [word for word in experts if word not in ("--backbones", "test_vit", "test_vit3")]
    return [
        Command("synthesize", PROGRAM, ["synthesize", "out/R", "--train", 96, "--validation", 32, "--image_size", 32]),
        Command("check", PROGRAM, ["check", "../inputs/R", "--json", "out/found.json", "--num_proc", 2]),
        Command(
            "describe", PROGRAM, ["describe", "../inputs/R", "--output", "out/page.html", "--faces", "--num_proc", 2]
        ),
        Command("export", PROGRAM, ["export", "../inputs/R", "out/E", "--rows_per_file", 8, "--num_proc", 2]),
        Command(
            "predict", PROGRAM,
            ["predict", "../inputs/faces", "--faces", "crop", "--output", "out/rows.csv", "--annotate", "out/drawn"],
        ),
        Command("label", "label.py", [*on_release, "--model", "../inputs/fused", *labelled], ["*.parquet", "*.json"]),
        Command(
            "train_soft_fer", "train_soft_fer.py",
            [*SOFT_FER, *on_grey, "--backbone", "test_vit", *_SMALL_STEPS, "--output_dir", "out"], _TRAINED, GO_ON,
        ),
        Command("train_ebc", "train_ebc.py", experts, _TRAINED, GO_ON),
        Command("train_au", "train_au.py", [*au, "--backbone", "test_vit"], _TRAINED, GO_ON),
        Command(
            "evaluate_model", "evaluate_model.py",
            [*on_release, "--model", "../inputs/soft_fer", "--output_dir", "out", "--dataloader_num_workers", 0],
            ["metrics.json", "predictions.parquet"],
        ),
        Command(
            "show_label_errors", "show_label_errors.py",
            [*on_release, "--soft_labels", "../inputs/soft", "--output_file", "out/page.html"],
        ),
        Command(
            "show_faces", "show_faces.py",
            [*on_release, "--model", "../inputs/soft_fer", "--num_faces", 4, "--output_file", "out/faces.png"], [],
        ),
        Command("export-onnx", PROGRAM, ["export-onnx", "../inputs/soft_fer", "out/fer.onnx"], []),
    ]  # fmt: skip


@dataclass
class Ended:
    """How a run ended, and what is wrong with that."""

    status: int
    error: str  # its last line
    wrong: str = ""


def end_of(run: Script, seconds: float = 300) -> Ended:
    """Waits for a run; it may not hang, crash, end in a traceback, or leave processes."""
    wrong = "" if wait_until(lambda: run.poll() is not None, seconds) else f"hangs after {seconds:.0f} s"
    pid = run.pid
    if not wrong and not wait_until(lambda: not session(pid), 15):
        wrong = f"leaves processes: {session(pid)}"
    for other in session(pid):
        os.kill(other, signal.SIGKILL)
    run.kill()
    status, _, error = run.wait()
    lines = [line for line in error.replace("\r", "\n").splitlines() if line.strip()]
    for word in ("Exception ignored", "Traceback (most recent call last)"):
        wrong = wrong or (f"{error[error.index(word) :][:2000]}" if word in error else "")
    said = [line for line in lines if ": error: " in line or ": interrupted. " in line]
    return Ended(status, said[-1] if said else (lines[-1] if lines else ""), wrong)


def session(pid: int) -> list[int]:
    """Living processes of the session that a run leads, but itself where it has ended."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, _, of_session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if int(of_session) == pid and state not in "ZX":
                found.append(int(entry.name))
    return found


def wait_until(done: Callable[[], object], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def begun(run: Script) -> bool:
    """Whether the command itself runs: it has taken over SIGALRM by then, with Ctrl-C."""
    try:
        caught = next(line for line in Path(f"/proc/{run.pid}/status").read_text().splitlines() if "SigCgt" in line)
    except (OSError, StopIteration):
        return True
    return bool(int(caught.split()[1], 16) >> (signal.SIGALRM - 1) & 1) or run.poll() is not None


def new_folder(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def described(results: dict, expected: dict) -> str:
    differing = sorted(name for name in {*results, *expected} if results.get(name) != expected.get(name))
    return f"other results: {json.dumps(differing[:4])}"
