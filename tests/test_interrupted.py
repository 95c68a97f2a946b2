"""A release that is being written, killed with SIGKILL at every step on the way to its place."""

import hashlib
import itertools
import multiprocessing
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from PIL import Image

from affectnet_plus import ReleaseError, recognise
from affectnet_plus.releases.check import check
from affectnet_plus.releases.export import export
from affectnet_plus.releases.processes import mapped
from affectnet_plus.synthetic import synthesize
from affectnet_plus.synthetic.layouts import LAYOUTS
from affectnet_plus.training.faces import Split
from affectnet_plus.training.soft_labels.release_writer import check_target, write_release

NAMES = {"plus": "human_annotated", "2021": "affectnet_2021", "2017": "affectnet_2017"}


def killed_at(step: int, work) -> bool:
    """Whether `work` had such a step: a process of its own kills itself before it makes a new folder below .unfinished,
    or moves or removes something there, for that time."""

    def run():
        steps, made = itertools.count(), set()

        def hook(event, args):
            if event in ("os.mkdir", "os.rename", "os.rmdir") and ".unfinished" in str(args[0]):
                is_new = event != "os.mkdir" or args[0] not in made
                made.add(args[0])
                if is_new and next(steps) == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        work()

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def contents(root: Path) -> dict:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def assert_nothing_loads(root: Path, name: str, tmp_path: Path) -> None:
    reads = [recognise, check, lambda folder: load_dataset("affectnet_plus", name, data_dir=str(folder))]
    for read, folder in itertools.product(reads, (root, root.parent)):
        with pytest.raises(ReleaseError, match=r"is not whole: it holds .unfinished, .*Delete .* and run that command"):
            read(folder)
    with pytest.raises(ReleaseError):
        load_dataset("affectnet_plus", name, data_dir=str(root / ".unfinished"))
    with pytest.raises(ReleaseError, match="is not whole"):
        export(root, tmp_path / "exported")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_killed_synthesize_does_not_load_and_begins_anew_or_says_what_to_delete(tmp_path, layout):
    unannotated = {} if layout == "2021" else {"unannotated": 1}

    def work(root=tmp_path / "release/R"):
        synthesize(root, 2, 1, **unannotated, seed=3, num_proc=1, image_size=32, layout=layout)

    root = tmp_path / "release/R"
    work(tmp_path / "whole")
    moved = set()
    for step in itertools.count(1):  # the 0th makes .unfinished: before it there is nothing
        if not killed_at(step, work):
            break
        moved.add(tuple(sorted(os.listdir(root))))
        assert_nothing_loads(root, NAMES[layout], tmp_path)
        if os.listdir(root) != [".unfinished"]:
            with pytest.raises(FileExistsError, match=r"holds an interrupted run \(.unfinished\): delete the folder"):
                work()
            shutil.rmtree(root)
    places = sorted(os.listdir(tmp_path / "whole"))
    assert moved >= {(".unfinished", *places[:count]) for count in range(len(places) + 1)}
    assert contents(root) == contents(tmp_path / "whole")
    assert len(load_dataset("affectnet_plus", NAMES[layout], data_dir=str(root.parent))["train"]) > 0


def faces(ids: list[str], labels: list[int], folder: Path, name: str = "train") -> tuple[Split, Path]:
    """Grey faces with these ids and the file of their soft labels, as label.py writes it."""
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)) for _ in ids]
    rows = datasets.Dataset.from_dict({"image": images}, features=datasets.Features({"image": datasets.Image()}))
    rows = rows.cast_column("image", datasets.Image(decode=False))
    folder.mkdir(exist_ok=True)
    table = {"image_id": ids, "soft_label": [[0.1 * k for k in range(8)]] * len(ids)}
    table["subset"] = pa.array([None if label < 0 else 0 for label in labels], pa.int8())
    pq.write_table(pa.table(table), folder / f"{name}-00000-of-00001.parquet")
    return Split(name, rows, np.array(labels), None, np.array(ids), np.array(ids), "image_id")


def test_a_killed_write_release_does_not_load_and_goes_on_or_says_what_to_delete(tmp_path):
    split = faces(["1", "2", "3"], [7, 7, -1], tmp_path / "soft")
    root = tmp_path / "release/R"

    def work():
        check_target(root, [split])
        write_release(root, [split], tmp_path / "soft", show_progress=False)

    outcomes = set()
    for step in itertools.count(1):
        if not killed_at(step, work):
            break
        if not os.listdir(root):  # what an earlier run had left is deleted, nothing new is there
            continue
        assert_nothing_loads(root, "human_annotated", tmp_path)
        if os.listdir(root) == [".unfinished"]:
            outcomes.add("goes on")
            continue  # the next step finds what this one has left
        outcomes.add("says so")
        with pytest.raises(ValueError, match="holds what an interrupted run has left .*: delete .* and run this"):
            work()
        shutil.rmtree(root)
    assert outcomes == {"goes on", "says so"}
    assert load_dataset("affectnet_plus", data_dir=str(root), split="train")["image_id"][:] == [1, 2]
    assert load_dataset("affectnet_plus", "no_human_annotated", data_dir=str(root), split="train")["image_id"][:] == [3]
    with pytest.raises(ValueError, match="already holds something"):
        work()


@pytest.mark.parametrize(
    "ids, expected",
    [
        (["9" * 18, str(2**63 - 1)], [10**18 - 1, 2**63 - 1]),
        (["5", str(2**63)], [1, 2]),
        (["1" * 19, "2" * 19, "1" * 25], [1, 2, 3]),
        (["0" * 30 + "7", "3"], [1, 2]),
    ],
)
def test_every_face_that_is_written_is_read(tmp_path, ids, expected):
    split = faces(ids, [7] * len(ids), tmp_path / "soft")
    write_release(tmp_path / "R", [split], tmp_path / "soft", show_progress=False)
    assert load_dataset("affectnet_plus", data_dir=str(tmp_path / "R"), split="train")["image_id"][:] == expected
    findings = check(tmp_path / "R", 1)
    assert findings.whole and findings.num_rows == len(ids)
    listed = [line.split(",")[1::2] for line in (tmp_path / "R/files.csv").read_text().splitlines()[1:]]
    assert listed == [[str(n), row_id] for n, row_id in zip(expected, ids, strict=True)]


def test_a_photograph_padded_with_zeros_is_written_as_a_face_that_is_read(tmp_path):
    split = faces(["1", "2"], [7, 7], tmp_path / "soft")
    for name, exif in (("padded.jpg", b"Exif\0\0" + bytes(2000)), ("plain.jpg", b"")):
        Image.linear_gradient("L").convert("RGB").save(tmp_path / name, exif=exif)
    stored = [{"path": str(tmp_path / name), "bytes": None} for name in ("padded.jpg", "plain.jpg")]
    split.images = datasets.Dataset.from_dict({"image": stored}, features=split.images.features)
    write_release(tmp_path / "R", [split], tmp_path / "soft", show_progress=False)
    padded, plain = load_dataset("affectnet_plus", data_dir=str(tmp_path / "R"), split="train")["image"][:]
    assert np.abs(np.asarray(padded, int) - np.asarray(plain, int)).max() < 8
    images = tmp_path / "R/human_annotated/train_set/images"
    assert (images / "2.jpg").read_bytes() == (tmp_path / "plain.jpg").read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
def test_a_killed_synthesize_leaves_no_process_behind(tmp_path):
    """Which would go on writing into the folder that people are told to delete."""
    options = {"train": 100_000, "num_proc": 2, "image_size": 32}
    run = multiprocessing.get_context("fork").Process(target=synthesize, args=(tmp_path / "R",), kwargs=options)
    run.start()
    while not any(tmp_path.rglob("*.jpg")):
        assert run.is_alive()
        time.sleep(0.05)
    workers = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    run.kill()
    run.join()
    assert workers
    for _ in range(1000):
        if not any(map(is_running, workers)):
            break
        time.sleep(0.01)
    assert not any(map(is_running, workers))


def is_running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def double(number: int) -> int:
    return 2 * number


@pytest.mark.parametrize("name, event", [("_spawn_process", "return"), ("_launch", "return"), ("wait", "call")])
def test_an_interrupt_amid_the_work_of_a_pool_leaves_nothing_that_is_waited_for(name, event):
    """Such as processes that nobody ends: the run would never come to its end."""

    def run():
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        pid = os.getpid()

        def interrupt(frame, what, _):
            if what == event and frame.f_code.co_name == name and os.getpid() == pid:
                sys.settrace(None)
                os.kill(pid, signal.SIGINT)
            return interrupt

        sys.settrace(interrupt)
        with pytest.raises(KeyboardInterrupt), mapped(double, list(range(4)), 2) as doubled:
            list(doubled)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(60)
    if process.is_alive():
        os.killpg(process.pid, signal.SIGKILL)
    assert process.exitcode == 0
