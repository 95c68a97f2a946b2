"""Files with random damage, read under an audit of what that runs and writes; and a long stream."""

import contextlib
import io
import json
import multiprocessing
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
from datasets import load_dataset
from PIL import Image
from released import TRAIN, annotation, write_pair, write_release
from runs import SOFT_FER, Script

from affectnet_plus import LABEL_ORDERS, ReleaseError
from affectnet_plus.releases.check import check
from affectnet_plus.synthetic import synthesize
from affectnet_plus.training import evaluate_model, train_soft_fer
from affectnet_plus.training.action_units import load_table
from affectnet_plus.training.faces import Split, read_soft_labels

from .archives import read_damaged, write_damaged

FORBIDDEN = ("pickle.find_class", "os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect")
MUTATIONS = {
    "release": "annotations and images of AffectNet+",
    "npy": "arrays of AffectNet of 2021",
    "csv": "tables of AffectNet of 2017",
    "ferplus": "tables of FER+ and FER2013",
    "archives": "zips, spans, splits and tars of AffectNet+",
    "au_tables": "tables of action units",
    "soft_labels": "Parquet and settings of label.py",
    "models": "folders of models",
    "checkpoints": "checkpoints of a killed run",
    "onnx": "ONNX files",
}
_ODD = [None, True, -1, 11, 1e39, float("nan"), "", "happy", [], {}, [[0]], 10**400, "\0", "../../x"]
_USAGES = {"FER2013Train": "Training", "FER2013Valid": "PublicTest", "FER2013Test": "PrivateTest"}
_MOST_LETTERS = 600  # some list what is known
_STEPS = ["--backbone", "test_vit", "--max_train_steps", 6, "--checkpointing_steps", 2, "--output_dir", "run"]


def mutate(kind: str, folder: Path, run: Path, rng: random.Random) -> str:
    """What is wrong with how a file of this kind is read that has random damage; "" for nothing."""
    fresh = folder / f"fresh-{kind}"
    if not fresh.exists():
        _make(kind, folder / "inputs", fresh)
    shutil.copytree(fresh, run, dirs_exist_ok=True)
    patterns, read = _READERS[kind]
    if kind == "archives":
        how = write_damaged(run / "R", run / "D", rng)
    else:
        file = rng.choice(sorted(path for pattern in patterns for path in run.glob(pattern)))
        how = f"{file.relative_to(run)} {_damage(file, rng)}"
    wrong = _audited(read, run)
    return f"{how}: {wrong}" if wrong else ""


def _make(kind: str, inputs: Path, fresh: Path) -> None:
    few = {"train": 24, "validation": 11, "num_proc": 1, "image_size": 32}
    if kind in ("release", "npy", "csv"):
        synthesize(fresh / "R", **few, layout={"release": "plus", "npy": "2021", "csv": "2017"}[kind])
    elif kind == "archives":
        write_release(fresh).rename(fresh / "R")
    elif kind == "ferplus":
        _write_ferplus(fresh)
    elif kind == "au_tables":
        fresh.mkdir()
        names = [f"train_set/images/{number}.jpg" for number in range(20)]
        units = pd.DataFrame(np.random.default_rng(0).uniform(0, 5, (20, 3)), columns=[" AU06_r", " AU12_r", " AU25_r"])
        units.assign(frame=1, face=0, confidence=1.0, success=1, input=names).to_csv(fresh / "table.csv", index=False)
    elif kind == "soft_labels":
        shutil.copytree(inputs / "soft", fresh / "soft")
    elif kind == "models":
        shutil.copytree(inputs / "soft_fer", fresh / "model")
        (fresh / "R").symlink_to(inputs / "R")
    elif kind == "onnx":
        fresh.mkdir()
        program = Path(sys.executable).with_name("affectnet-plus")
        assert Script(program, "export-onnx", inputs / "soft_fer", "fer.onnx", cwd=fresh).wait()[0] == 0
        shutil.copy(next((inputs / "faces").iterdir()), fresh / "face.jpg")
    else:
        fresh.mkdir()
        (fresh / "grey").symlink_to(inputs / "grey")
        run = Script("train_soft_fer.py", *SOFT_FER, "--dataset_name", "grey", *_STEPS, cwd=fresh)
        while not list(fresh.glob("run/checkpoint-all-4/*.json")) and run.poll() is None:
            pass
        run.kill()


def _write_ferplus(fresh: Path) -> None:
    """With FER2013 as either of the files that Kaggle gives, and as the images that FER+ makes of them."""
    columns = ["Usage", "Image name", *LABEL_ORDERS["ferplus"], "unknown", "NF"]
    lines = [[usage, f"fer{n:07}.png", 7, 2, 0, 0, 0, 0, 0, 0, 1, 0] for n, usage in enumerate(_USAGES.values())]
    pixels = " ".join(["9", "200"] * 1152)
    for name, row in (
        ("R/fer2013.csv", {"emotion": 0, "pixels": pixels, "Usage": ""}),
        ("R2/icml_face_data.csv", {"emotion": 0, " Usage": "", " pixels": pixels}),
        ("R3/legend.csv", {"image": 0}),
    ):
        (fresh / name).parent.mkdir(parents=True)
        pd.DataFrame([row] * len(lines)).to_csv(fresh / name, index=False)
        pd.DataFrame(lines, columns=columns).to_csv((fresh / name).with_name("fer2013new.csv"), index=False)
    for line, folder in zip(lines, _USAGES, strict=True):
        (fresh / "R3" / folder).mkdir()
        Image.linear_gradient("L").resize((48, 48)).save(fresh / "R3" / folder / line[1])


def _damage(file: Path, rng: random.Random) -> str:
    content = bytearray(file.read_bytes())
    if file.suffix == ".json" and rng.random() < 0.6:
        value = json.loads(content)
        return _damage_json(file, value, rng)
    how = rng.choice(["flipped", "cut", "hole", "doubled", "inserted", "foreign", "numbers"])
    place = rng.randrange(len(content) + 1)
    if how == "flipped":
        for _ in range(rng.choice([1, 8, 64])):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del content[place:]
    elif how == "hole":
        content[place : place + 600] = bytes(len(content[place : place + 600]))
    elif how == "doubled":
        content += content[place:]
    elif how == "inserted":
        content[place:place] = rng.randbytes(rng.choice([1, 7, 300]))
    elif how == "foreign":  # a pickle that would run something, and a page
        content[:] = rng.choice([b"cos\nsystem\n(S'touch pwned'\ntR.", b"<html>", b"%!PS\n", b"\x93NUMPY\x03\0", b"PK"])
    else:  # a header that promises much
        content[place : place + 8] = rng.choice([b"\xff" * 8, b"99999999", b"\x7f\xff\xff\xff" * 2, b"-1,NaN,\n"])
    file.write_bytes(content)
    return f"{how} at {place}"


def _damage_json(file: Path, value, rng: random.Random) -> str:
    where, inner = [], value
    while isinstance(inner, (dict, list)) and inner:
        key = rng.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
        where.append(key)
        if not isinstance(inner[key], (dict, list)) or not inner[key] or rng.random() < 0.3:
            break
        inner = inner[key]
    if not where:
        value = rng.choice(_ODD)
    elif rng.random() < 0.3:
        del inner[where[-1]]
    else:
        inner[where[-1]] = rng.choice(_ODD)
    file.write_text(json.dumps(value))
    return f"other at {where}"


def _audited(read: Callable[[Path], None], run: Path, seconds: float = 120) -> str:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_read_audited, args=(read, run, theirs))
    process.start()
    theirs.close()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return f"hangs after {seconds:.0f} s"
    return ours.recv() if ours.poll() else f"ends the process with {process.exitcode}"


def _read_audited(read: Callable[[Path], None], run: Path, answer) -> None:
    seen: list[str] = []
    os.chdir(run)
    datasets.config.HF_DATASETS_CACHE = run / "cache"
    allowed = tuple(os.path.realpath(place) for place in (run, "/dev", "/proc"))
    said = io.StringIO()

    def audit(event: str, args: tuple) -> None:
        if event in FORBIDDEN:
            seen.append(f"{event} {args[:2]}")
        writes = event == "open" and isinstance(args[0], str) and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        if writes and not os.path.realpath(args[0]).startswith(allowed):
            seen.append(f"writes {args[0]}")

    sys.addaudithook(audit)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            read(run)
        wrong = ""
    except (ValueError, OSError, ImportError) as error:
        wrong = f"too long: {error}" if "\n" in str(error) or len(str(error)) > _MOST_LETTERS else ""
    except SystemExit as end:
        lines = [line for line in said.getvalue().splitlines() if ": error: " in line]
        wrong = "" if end.code == 2 and lines and len(lines[-1]) <= _MOST_LETTERS else f"{end.code}: {lines[-1:]}"
    except BaseException as error:
        wrong = f"{type(error).__name__}: {str(error)[:300]}"
    wrong = wrong or (f"allowed {seen[0]}" if seen else "")
    answer.send(wrong)
    os._exit(0)  # nothing of the libraries' own at the end


def _read_release(run: Path, folder: str = "R") -> None:
    root = run / folder
    names = {
        "human_annotated": "human_annotated", "train_set": "affectnet_2021", "training.csv": "affectnet_2017",
        "fer2013new.csv": "ferplus",
    }  # fmt: skip
    name = next(name for mark, name in names.items() if (root / mark).exists())
    for on_error in ("raise", "skip"):
        with contextlib.suppress(ReleaseError):
            for split in load_dataset(
                "affectnet_plus", name, data_dir=str(root), on_error=on_error, cache_dir=str(run / "cache")
            ).values():
                for row in split:
                    assert row["image"].size
    check(root, num_proc=1)


def _read_ferplus(run: Path) -> None:
    for folder in ("R", "R2", "R3"):
        _read_release(run, folder)


def _read_table(run: Path) -> None:
    load_table([str(run / "table.csv")], "intensity", {"happy": [6, 12], "surprise": [25]})


def _read_soft_labels(run: Path) -> None:
    table = pd.concat(pd.read_parquet(file) for file in sorted((run.parent / "inputs/soft").glob("train-*.parquet")))
    labels, ids = table["human_label"].fillna(-1).to_numpy().astype(int), table["image_id"].to_numpy()
    read_soft_labels(str(run / "soft"), Split("train", None, labels, None, ids, ids, "image_id"))


def _script(main: Callable[[], None], *words) -> None:
    sys.argv = ["script.py", *map(str, words)]
    main()


def _read_model(run: Path) -> None:
    _script(
        evaluate_model.main, "--data_dir", "R", "--model", "model", "--output_dir", "report", "--num_faces", 0,
        "--dataloader_num_workers", 0, "--use_cpu",
    )  # fmt: skip


def _go_on(run: Path) -> None:
    flags = ["--dataset_name", "grey", *_STEPS, "--resume_from_checkpoint", "latest", "--use_cpu"]
    _script(train_soft_fer.main, *SOFT_FER, *flags)


def _read_onnx(run: Path) -> None:
    from affectnet_plus.inference.loading import pipeline_of  # here, as ONNX Runtime has threads

    pipeline_of(str(run / "fer.onnx"), "cpu", "crop", "default")(Image.open(run / "face.jpg"))


_RELEASE = ["R/**/*.json", "R/**/*.jpg"]
_READERS = {
    "release": (_RELEASE, _read_release),
    "npy": (["R/**/*.npy"], _read_release),
    "csv": (["R/*.csv"], _read_release),
    "ferplus": (["R*/*.csv", "R3/*/*.png"], _read_ferplus),
    "archives": ([], read_damaged),
    "au_tables": (["table.csv"], _read_table),
    "soft_labels": (["soft/*.parquet", "soft/label.json"], _read_soft_labels),
    "models": (["model/*.json", "model/*.safetensors"], _read_model),
    "checkpoints": (["run/checkpoint-*/*"], _go_on),
    "onnx": (["*.onnx"], _read_onnx),
}


def stream(run: Path) -> str:
    """What is wrong with the memory that 2,000 streamed images take."""
    buffer = io.BytesIO()
    Image.effect_noise((224, 224), 60).convert("RGB").save(buffer, "JPEG")
    root = run / "AffectNet+"
    write_pair(root, TRAIN, 0, annotation(), image=buffer.getvalue())
    for number in range(1, 2000):
        for part in ("images/{}.jpg", "annotations/{}.json"):
            os.link(root / TRAIN / part.format(0), root / TRAIN / part.format(number))
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_stream, args=(root, theirs))
    process.start()
    process.join()
    if process.exitcode:
        return f"ends with {process.exitcode}"
    rows, grown = ours.recv()
    return "" if rows == 2000 and grown < 30e6 else f"{rows} rows, {grown / 1e6:.0f} MB more than after 500"


def _stream(root: Path, answer) -> None:
    memory, rows = [], 0
    for rows, row in enumerate(load_dataset("affectnet_plus", data_dir=str(root), split="train", streaming=True), 1):
        assert row["image"].getpixel((0, 0))
        if rows in (500, 2000):
            memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE"))
    answer.send((rows, memory[-1] - memory[0]))
