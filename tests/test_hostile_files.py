"""Pipes, devices, files without end and PostScript among images and annotations: all told of, none waited for."""

import csv
import io
import pathlib
import re
import shutil
import signal

import datasets
import numpy as np
import PIL.Image
import pytest
from datasets import load_dataset
from hostile import EPS, KINDS, ghostscript, put

from affectnet_plus import ReleaseError
from affectnet_plus.releases.check import check
from affectnet_plus.releases.export import export
from affectnet_plus.releases.files import read_regular_file
from affectnet_plus.releases.rows import read
from affectnet_plus.synthetic import synthesize
from affectnet_plus.training.arguments import DataArguments
from affectnet_plus.training.faces import broken_images, images_in, load_split

NAMES = {"plus": "human_annotated_all", "2021": "affectnet_2021", "2017": "affectnet_2017"}
FERPLUS = """\
Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF
Training,fer0000000.png,9,0,0,0,0,0,0,0,1,0
"""
ANNOTATIONS = {"plus": ".json", "2021": "_lnd.npy"}


@pytest.fixture(autouse=True)
def deadline():
    """A test that waits for a pipe fails."""

    def late(*_):  # no `OSError` such as `TimeoutError`, which would be taken for a broken file
        pytest.fail("waited for a file that is none")

    previous = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    root = tmp_path_factory.mktemp("layouts")
    for layout in NAMES:
        synthesize(root / layout, train=24, validation=0, seed=2, num_proc=1, image_size=32, layout=layout)
    return root


@pytest.fixture
def copied(layouts, tmp_path):
    return lambda layout: pathlib.Path(shutil.copytree(layouts / layout, tmp_path / layout))


def load(root, name, **options):
    return load_dataset("affectnet_plus", name, data_dir=str(root), split="train", **options)


def images_of(root) -> list[pathlib.Path]:
    """Of rows that have an expression."""
    if (root / "training.csv").exists():
        with (root / "training.csv").open() as file:
            named = [row for row in csv.DictReader(file) if int(row["expression"]) < 8]
        return [root / "Manually_Annotated_Images" / row["subDirectory_filePath"] for row in named]
    return sorted(root.rglob("images/*"))


def assert_two_are_told_of(root, name, tmp_path, said):
    """By loading, check and export: rows 1 and 2 of the release are broken, all others are there."""
    rows, broken = images_of(root), r"(images|annotations|Manually_Annotated_Images).* "
    with pytest.raises(ReleaseError, match=broken + said):
        load(root, name)
    with pytest.raises(ReleaseError, match=broken + said):
        list(load(root, name, streaming=True))
    with pytest.warns(UserWarning, match="2 broken row"):
        kept = len(load(root, name, on_error="skip"))
    assert len(rows) - 2 <= kept
    findings = check(root, 1)
    assert findings.broken == 2 and not findings.whole
    with pytest.warns(UserWarning, match="2 broken row"):
        export(root, tmp_path / "out", on_error="skip", num_proc=1)
    assert len(load_dataset(str(tmp_path / "out"), split="train")) <= kept


@pytest.mark.parametrize("layout", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_regular_file_is_a_broken_row(copied, tmp_path, layout, kind):
    root = copied(layout)
    first, second = images_of(root)[:2]
    put(kind, first)
    if layout in ANNOTATIONS:
        put(kind, second.parents[1] / "annotations" / f"{second.stem}{ANNOTATIONS[layout]}")
    else:
        put(kind, second)
    said = r"cannot be read \((no regular file|No such device.*|[0-9,]+ bytes, more than the [0-9,]+ that are read)\)"
    assert_two_are_told_of(root, NAMES[layout], tmp_path, said)


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_that_is_none_is_named(copied, tmp_path, kind):
    root, ferplus = copied("2017"), tmp_path / "ferplus"
    put(kind, root / "validation.csv")
    for use in (check, lambda folder: load(folder, "affectnet_2017")):
        with pytest.raises(ReleaseError, match="validation.csv (is no regular file|has a line of more than 1,048,576)"):
            use(root)
    (ferplus / "FER2013Train").mkdir(parents=True)
    put(kind, ferplus / "fer2013new.csv")
    for use in (check, lambda folder: load(folder, "ferplus")):
        with pytest.raises(ReleaseError, match="is no release|fer2013new.csv is no CSV file .* more than"):
            use(ferplus)
    (ferplus / "FER2013Train").rmdir()
    (ferplus / "fer2013new.csv").unlink()
    (ferplus / "fer2013new.csv").write_text(FERPLUS)
    put(kind, ferplus / "fer2013.csv")
    with pytest.raises(ReleaseError, match="has fer2013new.csv but no images|fer2013.csv has a line of more than"):
        load(ferplus, "ferplus")


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_images_names_what_is_no_regular_file(layouts, tmp_path, kind):
    image = images_of(layouts / "plus")[0]
    for name in ("a.jpg", "odd.png", "inner/b.jpg", ".hidden/c.jpg", ".d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(image, tmp_path / name)
    put(kind, tmp_path / "odd.png")
    (problem,) = broken_images(images_in(tmp_path, "raise")).values()
    assert re.search(r"odd.png is not a readable image \((no regular file|No such device|.* more than)", str(problem))
    with pytest.warns(UserWarning, match="1 broken image.*odd.png"):
        assert images_in(tmp_path, "skip").ids.tolist() == ["a", "inner/b"]


def test_large_files_are_read_whole(tmp_path):
    """100 MB took 47 s when the time grew with the square of the size."""
    content = np.random.default_rng(0).bytes(1 << 16)
    for size in (0, 1, 1 << 16, (1 << 16) + 1, 100 << 20):
        (tmp_path / "file").write_bytes((content * (size // len(content) + 1))[:size])
        assert read_regular_file(tmp_path / "file") == (tmp_path / "file").read_bytes()
        assert len(read(str(tmp_path / "file"), "unreadable image")) == size
    with pytest.raises(OSError, match="104,857,600 bytes, more than the 100 that are read"):
        read_regular_file(tmp_path / "file", 100)


# PostScript


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A Ghostscript that leaves a file when it is started: none of our readers may."""
    (tmp_path / "bin").mkdir()
    started = ghostscript(tmp_path / "bin", monkeypatch)
    with pytest.raises(Exception), PIL.Image.open(io.BytesIO(EPS)) as image:  # noqa: B017 - as Pillow by itself does
        image.load()
    assert started.exists()
    started.unlink()
    yield
    assert not started.exists()


@pytest.mark.parametrize("layout", NAMES)
def test_postscript_is_no_image_of_a_release(trap, copied, tmp_path, layout):
    root = copied(layout)
    for path in images_of(root)[:2]:
        path.write_bytes(EPS)
    assert_two_are_told_of(root, NAMES[layout], tmp_path, "is no")


def test_postscript_is_no_image_of_ferplus(trap, tmp_path):
    (tmp_path / "fer2013new.csv").write_text(FERPLUS)
    (tmp_path / "FER2013Train").mkdir()
    (tmp_path / "FER2013Train/fer0000000.png").write_bytes(EPS)
    with pytest.raises(ReleaseError, match="fer0000000.png is no JPEG or PNG image"):
        load(tmp_path, "ferplus")
    assert check(tmp_path, 1).counts["unreadable image"] == 1


def test_postscript_is_no_image_of_a_folder_or_a_table(trap, tmp_path):
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces/a.jpg").write_bytes(EPS)
    (tmp_path / "faces/b.EPS").write_bytes(EPS)
    (problem,) = broken_images(images_in(tmp_path / "faces", "raise")).values()
    assert "a.jpg is not a readable image: replace it" in str(problem)
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["happy", "sad"])}
    cells = {"image": [{"bytes": EPS, "path": "a.jpg"}], "label": [0]}
    (tmp_path / "table").mkdir()
    datasets.Dataset.from_dict(cells, datasets.Features(features)).to_parquet(tmp_path / "table/train.parquet")
    split = load_split(DataArguments(dataset_name=str(tmp_path / "table")), "train")
    with pytest.raises(ValueError, match="a.jpg is not a readable image"):
        split.image(0)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000"])
def test_raster_formats_are_images(tmp_path, format):
    face = PIL.Image.linear_gradient("L").resize((32, 32)).convert("RGB")
    face.save(tmp_path / "face.png", format)  # whatever the name says
    assert np.abs(np.asarray(images_in(tmp_path, "raise").image(0), int) - np.asarray(face, int)).max() < 16
