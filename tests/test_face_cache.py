"""Faces decoded once: what comes from a cache is the same to the bit, and never of another face."""

import os
import pickle
import signal
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from runs import SMALL, SOFT_FER, Script, assert_same_weights, refused, train
from torch.utils.data import DataLoader

from affectnet_plus.modeling import SoftFerConfig, image_processor_for
from affectnet_plus.training import train_ebc
from affectnet_plus.training.faces import FaceDataset, Split, images_in
from affectnet_plus.training.faces import split as split_module
from affectnet_plus.training.loop import cache_faces

ROWS = 7
PROCESSOR = image_processor_for(SoftFerConfig(image_size=16))
NEEDS_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="files without a name are Linux's")


@pytest.fixture
def faces(tmp_path) -> Path:
    """A folder of pictures of all kinds, each of its own size."""
    rng = np.random.default_rng(1)
    (tmp_path / "faces").mkdir()
    for row in range(ROWS):
        face = Image.fromarray(rng.integers(0, 255, (20 + row, 30, 3), np.uint8))
        face = face if row else face.convert("L")
        face.save(tmp_path / f"faces/{row}.{('png', 'jpg', 'bmp')[row % 3]}")
    return tmp_path / "faces"


def cached(folder: Path, where: str = "disk") -> Split:
    split = images_in(str(folder), "raise")
    cache_faces(Accelerator(cpu=True), [split], 16, where)
    return split


def shown(split: Split, num_workers: int = 0, auto_augment: str = "") -> list[dict[str, torch.Tensor]]:
    """Its rows as a network is measured and as it is trained on them."""
    faces = FaceDataset(split, PROCESSOR, auto_augment=auto_augment)
    return [
        sample
        for rows in (range(len(split)), [(row, 90 + row) for row in range(len(split))])
        for sample in DataLoader(faces, batch_size=None, sampler=rows, num_workers=num_workers)
    ]


def assert_same(ours: list[dict[str, torch.Tensor]], theirs: list[dict[str, torch.Tensor]]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def file_of_cache() -> Path:
    """The newest."""
    files = Path(datasets.config.HF_DATASETS_CACHE).glob(f"affectnet_plus_faces/images-{ROWS}-16px-*")
    return max(files, key=lambda file: file.stat().st_mtime_ns)


@pytest.mark.parametrize("where", [pytest.param("memory", marks=NEEDS_LINUX), "disk"])
def test_once_decoded_no_image_is_read_again_by_any_process(where, faces):
    policy = "rand-m9-mstd0.5-inc1"
    expected, split = shown(images_in(str(faces), "raise"), auto_augment=policy), cached(faces, where)
    assert_same(shown(split, num_workers=2, auto_augment=policy), expected)
    for image in faces.iterdir():
        image.unlink()
    for again in (split, pickle.loads(pickle.dumps(split))):  # as a process that is not forked gets it
        assert_same(shown(again, auto_augment=policy), expected)
    some = np.array([4, 1, 5])
    assert_same(shown(split.select(some[:2]).select(np.array([1])), auto_augment=policy)[:1], [expected[1]])
    with pytest.raises(ValueError, match="not a readable image"):
        split.scaled_image(0, (20, 20))  # of another size nothing is kept


def test_an_image_that_has_changed_is_decoded_anew(faces):
    assert_same(shown(cached(faces)), shown(images_in(str(faces), "raise")))
    changed, times = faces / "2.bmp", os.stat(faces / "2.bmp")
    grey = Image.new("RGB", Image.open(changed).size, (90, 91, 92))
    grey.save(changed)
    os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert changed.stat().st_size == times.st_size and changed.stat().st_mtime_ns == times.st_mtime_ns
    split = cached(faces)
    (faces / "1.jpg").unlink()
    assert split.scaled_image(2, (16, 16)).getcolors() == [(256, (90, 91, 92))]
    split.scaled_image(1, (16, 16))  # the others are still there
    with pytest.raises(ValueError, match="1.jpg is not a readable image"):
        cache_faces(Accelerator(cpu=True), [split], 16, "disk")


def test_what_was_damaged_on_the_disk_is_decoded_anew(faces):
    expected = shown(cached(faces))
    content = bytearray(file_of_cache().read_bytes())
    content[len(content) // 2] ^= 1
    file_of_cache().write_bytes(content)
    assert_same(shown(cached(faces)), expected)
    file_of_cache().write_bytes(content[:1000])  # as when it was killed while it was made
    assert_same(shown(cached(faces)), expected)


@pytest.mark.parametrize(
    ("where", "cure"),
    [
        pytest.param("memory", "take --cache_images disk", marks=NEEDS_LINUX),
        ("disk", "set HF_DATASETS_CACHE to another"),
    ],
)
def test_what_does_not_fit_is_refused(where, cure, faces):
    split = images_in(str(faces), "raise").select(np.arange(20_000) % ROWS)
    says = rf"20,000 faces of 26000 px need 40560\.0 GB.*GB are free: {cure}.*smaller --image_size"
    with pytest.raises(ValueError, match=says):
        cache_faces(Accelerator(cpu=True), [split], 26_000, where)
    assert not list(Path(datasets.config.HF_DATASETS_CACHE).glob("affectnet_plus_faces/*26000px*"))


@NEEDS_LINUX
def test_over_expressions_folds_and_commands_each_face_is_decoded_once(release, tmp_path, monkeypatch):
    decoded: dict[str, list] = {}
    open_rgb = split_module.open_rgb

    def note_and_open(source, name):
        decoded[list(decoded)[-1]].append(name)
        return open_rgb(source, name)

    monkeypatch.setattr(split_module, "open_rgb", note_and_open)
    flags = [*SMALL, "--backbones", "test_vit3", "--data_dir", release, "--num_folds", 2, "--max_train_steps", 6]
    for name, where in (("no", "no"), ("memory", "memory"), ("disk", "disk"), ("again", "disk")):
        decoded[name] = []
        more = ["--expressions", "neutral", "happy", "--cache_images", where, "--output_dir", tmp_path / name]
        monkeypatch.setattr(sys, "argv", ["train_ebc.py", *map(str, [*flags, *more])])
        train_ebc.main()
    for name in ("memory", "disk", "again"):
        for fold in ("fold-0", "fold-1"):
            assert_same_weights(tmp_path / "no" / fold, tmp_path / name / fold)
    assert len(decoded["memory"]) == len(decoded["disk"]) == len(set(decoded["no"])) < len(decoded["no"]) / 3
    assert not decoded["again"]


@NEEDS_LINUX
def test_killed_nothing_is_left_in_memory_and_the_run_goes_on_to_the_same_weights(softmax_runs, ferplus, tmp_path):
    args = [*SOFT_FER, "--dataset_name", ferplus, "--target", "hard", "--backbone", "test_vit", "--max_train_steps", 6]
    args += ["--checkpointing_steps", 2, "--output_dir", "run"]
    run = Script("train_soft_fer.py", *args, "--cache_images", "memory", cwd=tmp_path)
    while not list(tmp_path.glob("run/checkpoint-*/trainer_state.json")) and run.poll() is None:
        time.sleep(0.005)
    os.kill(run.pid, signal.SIGSTOP)
    files = [os.readlink(file) for file in Path(f"/proc/{run.pid}/fd").iterdir()]
    run.kill()
    assert "/memfd:affectnet_plus_faces (deleted)" in files  # without a name: gone with the process
    said = train(
        *args, "--cache_images", "disk", "--resume_from_checkpoint", "latest", cwd=tmp_path, script="train_soft_fer.py"
    )
    assert "Caching 240 faces of 32 px in " in said
    assert_same_weights(tmp_path / "run", softmax_runs / "hard")


def test_processes_with_experts_of_their_own_share_no_memory(ferplus, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    flags = [*SMALL, "--dataset_name", ferplus, "--jobs", "expressions", "--cache_images", "memory"]
    says = refused(train_ebc, flags, tmp_path / "ebc", monkeypatch, capsys)
    assert "share no memory. Take --cache_images disk" in says
