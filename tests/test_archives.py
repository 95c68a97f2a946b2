"""Releases read from the archives they are downloaded as: the same rows as from files, and what is wrong with them."""

import hashlib
import os
import random
import shutil
import subprocess
import warnings
import zipfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from archived import cut, files_of, spanned, tarred, under, write, zipped, zipped64
from released import TRAIN, VALIDATION, annotation, load, write_pair, write_release

from affectnet_plus import ReleaseError
from affectnet_plus.releases.check import check
from affectnet_plus.releases.export import export

pytestmark = pytest.mark.filterwarnings("ignore:The images in the archives", "ignore:.*is decompressed once")


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    root = tmp_path_factory.mktemp("release") / "AffectNet+"
    write_release(root.parent)
    for n in range(200, 260):
        write_pair(root, TRAIN, n, annotation(label=n % 8, subset=n % 3))
    return root


@pytest.fixture(scope="module")
def files(release):
    return files_of(release)


def contents(place, **options):
    """{split: rows with the bytes of their images}."""
    found = {}
    for split, rows in load(place, "human_annotated_all", **options).items():
        rows = list(rows.cast_column("image", datasets.Image(decode=False)))
        for row in rows:
            image = row.pop("image")
            row["bytes"] = image["bytes"] or Path(image["path"]).read_bytes()
            row["name"] = os.path.basename(image["path"])
        found[split] = rows
    return found


def page(place):
    return check(place, 1).page().partition("\n")[2]


def numbered(name, parts, first=1, width=3):
    return {f"{name}{index:0{width}}": part for index, part in enumerate(parts, first)}


def split(files, size=9000):
    return numbered("a.zip.", cut(zipped(files), size))


FORMS = {
    "zip": lambda files: {"AffectNet+.zip": zipped(files)},
    "zip, stored": lambda files: {"AffectNet+.zip": zipped(files, zipfile.ZIP_STORED)},
    "zip, wrapped": lambda files: {"download.ZIP": zipped(under("AffectNet+", files))},
    "zip with a Mac's files": lambda files: {
        "a.zip": zipped({**files, **under("__MACOSX", {f"{name[:-5]}._{name[-5:]}": b"x" for name in files})})
    },
    "zip64": lambda files: {"AffectNet+.zip": zipped64(files)},
    "zip after a stub": lambda files: {"AffectNet+.zip": b"#!/bin/sh\n" * 9 + zipped(files)},
    "spans": lambda files: {
        **dict(zip((f"A.z{i:02}" for i in range(1, 99)), parts := spanned(files, 9000), strict=False)),
        "A.zip": parts[-1], f"A.z{len(parts):02}": b"",
    },
    "split": lambda files: numbered("AffectNet+.zip.", cut(zipped(files), 9000)),
    "split, letters": lambda files: {
        f"AffectNet+.zip.a{chr(97 + i)}": part for i, part in enumerate(cut(zipped(files), 9000))
    },
    "split, called parts": lambda files: {
        f"AffectNet+_part{i}.zip": part for i, part in enumerate(cut(zipped64(files), 9000), 1)
    },
    "zips of their own": lambda files: {
        f"AffectNet+_part{i}.zip": zipped(under(f"AffectNet+_part{i}", dict(list(files.items())[i - 1 :: 3])))
        for i in (1, 2, 3)
    },
    "tar": lambda files: {"AffectNet+.tar": tarred(under(".", files))},
    "tar.gz": lambda files: {"AffectNet+.tar.gz": tarred(under("AffectNet+", files), "w:gz")},
    "tar.gz, split": lambda files: numbered("AffectNet+.tgz.", cut(tarred(files, "w:gz"), 9000), 0, 2),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_the_same_rows_bytes_and_page_as_from_files(form, files, release, tmp_path):
    parts = {name: part for name, part in FORMS[form](files).items() if part}
    if form not in ("zip", "tar", "tar.gz") and form.split(",")[0] != "zip":
        assert len(parts) > 2 or len(parts) == 1
    place = write(tmp_path / "downloads", parts)
    assert contents(place) == contents(release)
    assert page(place) == page(release)
    if len(parts) == 1 or "zips" not in form:  # and named by one of its files
        (name, *_) = parts
        assert contents(place / name, num_proc=2 if form == "spans" else None) == contents(release)


@pytest.mark.skipif(not shutil.which("zip"), reason="needs the command zip")
def test_spans_of_the_command_zip(release, tmp_path):
    subprocess.run(["zip", "-qr", "-s", "64k", tmp_path / "A.zip", "AffectNet+"], cwd=release.parent, check=True)
    assert len(list(tmp_path.iterdir())) > 1
    assert contents(tmp_path) == contents(release)


def test_streamed_and_exported(release, files, tmp_path):
    place = write(tmp_path / "downloads", {"AffectNet+.zip": zipped(files)})
    streamed = load(place, split="train", streaming=True)
    assert [row["image_id"] for row in streamed] == load(release, split="train")["image_id"]
    for source, out in ((place, tmp_path / "out"), (release, tmp_path / "other")):
        export(source, out, num_proc=1)
    ours, theirs = (
        {path.relative_to(out): hashlib.sha256(path.read_bytes()).hexdigest() for path in out.rglob("*.parquet")}
        for out in (tmp_path / "out", tmp_path / "other")
    )
    assert ours and ours == theirs


def test_size_is_told_before(files, tmp_path):
    place = write(tmp_path / "downloads", {"AffectNet+.zip": zipped(files)})
    with pytest.warns(
        UserWarning, match="images in the archives of .*downloads are copied into the cache, .*: up to 1 MB"
    ):
        load(place)


@pytest.mark.parametrize("folder", ["AffectNet+", "."])
def test_unpacked_release_is_read_though_a_broken_archive_lies_beside_it(folder, release, files, tmp_path):
    place = tmp_path / "downloads"
    shutil.copytree(release / "human_annotated", place / folder / "human_annotated")
    write(place, {"AffectNet+.zip": zipped(files)[:5000]})
    assert contents(place) == contents(release)
    assert not check(place, 1).counts["damaged archive"]


def test_another_archive_is_another_table(files, tmp_path):
    place = write(tmp_path / "downloads", {"AffectNet+.zip": zipped(files)})
    before = load(place, split="train")["image_id"]
    write(place, {"AffectNet+.zip": zipped({name: file for name, file in files.items() if "/200." not in name})})
    assert set(before) - set(load(place, split="train")["image_id"]) == {200}


# what -> the files of a download, from those of the release; words that are to be said
BROKEN = {
    "cut": (lambda files: {"a.zip": zipped(files)[:-400]}, r"a\.zip ends without a table of contents, .* cut off"),
    "no zip": (lambda files: {"a.zip": b"<html>"}, r"a\.zip is no zip file \(it begins with b'<htm'\): download"),
    "empty": (lambda files: {"a.zip": b""}, r"a\.zip is no zip file"),
    "last part missing": (
        lambda files: dict(list(split(files).items())[:-1]), "ends without .* as the last part is missing"
    ),
    "two parts missing": (
        lambda files: {k: v for k, v in split(files, 4000).items() if k[-3:] not in ("002", "004")},
        r"bytes are missing; download it again",
    ),
    "part cut": (
        lambda files: {k: v[:-100] if k.endswith("2") else v for k, v in split(files).items()},
        r"a\.zip\.002 is not whole: 100 bytes are missing; download it again",
    ),
    "table damaged": (
        lambda files: {"a.zip": zipped(files).replace(b"PK\1\2", b"PK\1\3")},
        r"damaged table of contents \(file 1 of \d+\)",
    ),
    "tar.gz cut": (lambda files: {"a.tar.gz": tarred(files, "w:gz")[:-4000]}, r"a\.tar\.gz is cut off or damaged"),
    "bomb": (
        lambda files: {"a.tar.gz": tarred({**files, "0": bytes(20_000_000)}, "w:gz")}, "more than 100 times as large"
    ),
    "tar part missing": (
        lambda files: {k: v for k, v in numbered("a.tar.", cut(tarred(files), 40_000)).items() if k != "a.tar.002"},
        r"a\.tar\.002 is missing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_whole_archive_broken(what, on_error, files, tmp_path):
    make, words = BROKEN[what]
    place = write(tmp_path / "downloads", make(files))
    with pytest.raises(ReleaseError, match=words) as error:
        load(place, on_error=on_error)
    assert len(str(error.value)) < 300 + len(str(tmp_path))
    with pytest.raises(ReleaseError, match=words):
        check(place, 1)


def damaged_image(files):
    content = bytearray(zipped(files, zipfile.ZIP_STORED))
    image = files[f"{TRAIN}/images/205.jpg"]
    content[content.index(image) + len(image) // 2] ^= 255
    return {"a.zip": bytes(content)}


def bomb(files):
    content = bytearray(zipped({**files, f"{TRAIN}/images/205.jpg": bytes(1 << 20)}))
    return {"a.zip": bytes(content).replace((1 << 20).to_bytes(4, "little"), (1 << 30).to_bytes(4, "little"))}


def encrypted(files):
    content = bytearray(zipped(files))
    place = content.rindex(f"{TRAIN}/images/205.jpg".encode()) - 46
    content[place + 8] |= 1
    return {"a.zip": bytes(content)}


def without_part(make, name):
    return lambda files: {key: part for key, part in make(files).items() if key != name and part}


# what -> the download; rows of train lost, or None where that depends; words that `check` and skipping say
DAMAGED = {
    "image": (damaged_image, {205}, r"images/205\.jpg cannot be read \(damaged in a\.zip: its checksum is another\)"),
    "bomb": (bomb, {205}, r"205\.jpg cannot be read \(1,073,741,824 bytes, more than the 268,435,456 that are read\)"),
    "encrypted": (encrypted, {205}, r"has 1 file\(s\) that are encrypted: unpack it with its password, such as .*205"),
    "names that lead out": (
        lambda files: {"a.zip": zipped({**files, "../../evil.txt": b"x", "/etc/evil": b"x", "C:/evil": b""})}, set(),
        r"has 3 file\(s\) of names that lead out of it or that no file can have, which are not read, such as .*evil",
    ),
    "part missing": (
        without_part(FORMS["split"], "AffectNet+.zip.002"), None,
        r"AffectNet\+\.zip\.002 is missing, with \d+ files such as human_annotated/train_set/.*: download it",
    ),
    "first part missing": (
        without_part(FORMS["split"], "AffectNet+.zip.001"), None, r"AffectNet\+\.zip\.001 is missing, with \d+ files"
    ),
    "span missing": (
        without_part(FORMS["spans"], "A.z02"), None, r"A\.z02 is missing, with \d+ files such as human_annotated/"
    ),
    "zip of its own missing": (
        lambda files: {
            "AffectNet+_part1.zip": zipped({name: file for name, file in files.items() if "/25" not in name}),
            "AffectNet+_part3.zip": zipped({name: file for name, file in files.items() if "images/25" in name}),
        },
        set(range(250, 260)),
        r"has its neighbours 'AffectNet\+_part2\.zip' missing: download them",
    ),
    "twice": (
        lambda files: {"a.zip": zipped(files), "b.zip": zipped({f"{TRAIN}/images/205.jpg": b"other"})}, set(),
        r"images/205\.jpg is in the archives twice, with different contents",
    ),
    "tar cut": (lambda files: {"a.tar": tarred(files)[:-60_000]}, None, "after which it is cut off or damaged"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGED)
def test_damage_is_raised_or_left_out(what, files, release, tmp_path):
    make, lost, words = DAMAGED[what]
    place = write(tmp_path / "downloads", make(files))
    with pytest.raises(ReleaseError, match=words):
        load(place)
    with pytest.warns(UserWarning, match="broken row"):
        rows = contents(place, on_error="skip")
    whole = contents(release)
    for split, own in rows.items():
        assert all(row in whole[split] for row in own)  # what is read is right
    if lost is not None:
        assert {r["image_id"] for r in whole["train"]} - {r["image_id"] for r in rows["train"]} == lost
    findings = check(place, 1)
    assert not findings.whole and findings.counts["damaged archive"] + findings.counts["unreadable image"]


@pytest.mark.parametrize("form", ["zip", "zip64", "spans", "split", "zips of their own", "tar", "tar.gz"])
def test_mutations_are_refused_or_left_out(form, files, release, tmp_path):
    """Bit flips, cuts and lost parts: never another error, never a wrong row, nothing written outside of the cache."""
    rng = random.Random(form)
    whole = {split: {row["image_id"]: row for row in rows} for split, rows in contents(release).items()}
    for number in range(int(os.environ.get("AFFECTNET_PLUS_MUTATIONS", 4))):
        parts = {name: bytearray(part) for name, part in FORMS[form](files).items() if part}
        name = rng.choice(list(parts))
        kind = rng.choice(["flip", "flip", "table", "cut", "lost"])
        if kind == "cut":
            del parts[name][rng.randrange(len(parts[name])) :]
        elif kind == "lost":
            del parts[name]
        else:
            last = max(parts)
            name = last if kind == "table" else name
            for _ in range(rng.randrange(1, 9)):
                place = rng.randrange(len(parts[name]))
                parts[name][-1 - place % 3000 if kind == "table" else place] ^= 1 << rng.randrange(8)
        place = write(tmp_path / str(number), parts)
        before = set(tmp_path.rglob("*"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                rows = contents(place, on_error="skip")
            except ReleaseError as error:
                assert len(str(error)) < 320 + len(str(place)), error
                continue
        for split, own in rows.items():
            for row in own:
                expected = whole[split][row["image_id"]]
                # Nothing in a tar says whether the bytes of a member are still what they were.
                assert form == "tar" or {**row, "name": 0} == {**expected, "name": 0}, (number, kind)
        assert set(tmp_path.rglob("*")) == before


def write_2021(root):
    for n, label in enumerate("013"):
        write_pair(root, "train_set", n, {})
        for name, value in (("exp", label), ("val", "0.5"), ("aro", "0.125"), ("lnd", np.arange(136.0))):
            np.save(root / f"train_set/annotations/{n}_{name}.npy", np.array(value))


def write_2017(root):
    write_pair(root, "x", 1, {})
    (root / "Manually_Annotated_Images/1").mkdir(parents=True)
    shutil.copy(root / "x/images/1.jpg", root / "Manually_Annotated_Images/1/a.jpg")
    shutil.rmtree(root / "x")
    columns = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
    (root / "training.csv").write_text(f"{columns}\n1/a.jpg,0,0,16,16,NULL,4,0.5,-2\n1/a.jpg,2,2,12,9,NULL,1,0.5,1\n")


def write_ferplus(root):
    root.mkdir(exist_ok=True)
    votes = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
    (root / "fer2013new.csv").write_text(f"{votes}\nTraining,fer0000000.png,4,6,0,0,0,0,0,0,0,0\n")
    (root / "fer2013.csv").write_text(f"emotion,pixels,Usage\n0,{' '.join(['9'] * 2304)},Training\n")


@pytest.mark.parametrize(
    ("name", "write_files"),
    [("affectnet_2021", write_2021), ("affectnet_2017", write_2017), ("ferplus", write_ferplus)],
)
def test_older_releases(name, write_files, tmp_path):
    root = tmp_path / "old"
    write_files(root)
    expected = list(load(root, name, split="train"))
    assert expected
    for form in ("zip", "zip, wrapped", "tar.gz"):
        place = write(tmp_path / form, FORMS[form](files_of(root)))
        found = list(load(place, name, split="train"))
        assert [{**row, "image": row["image"].tobytes()} for row in found] == [
            {**row, "image": row["image"].tobytes()} for row in expected
        ]
        assert page(place) == page(root)


def test_lists_beside_the_zip_of_their_photographs(tmp_path):
    root = tmp_path / "old"
    write_2017(root)
    photographs = {name: content for name, content in files_of(root).items() if name.endswith("jpg")}
    place = write(tmp_path / "place", {"Manually_Annotated.zip": zipped(photographs)})
    shutil.copy(root / "training.csv", place)
    assert len(load(place, "affectnet_2017", split="train")) == 2


def test_folder_in_a_zip_is_named_where_something_else_lies_there(tmp_path):
    place = write(tmp_path / "place", {"a.zip": zipped({"photos/1.jpg": b"x"})})
    with pytest.raises(ReleaseError, match="is no release of AffectNet\\+.* Found there: 'a.zip', 'photos/'"):
        load(place)
    with pytest.raises(ReleaseError, match="neither a folder nor a .zip or .tar"):
        load(write(tmp_path, {"photo.jpg": b"x"}) / "photo.jpg")


def test_validation_alone(files, release, tmp_path):
    place = write(tmp_path / "p", {"val.zip": zipped({n: c for n, c in files.items() if n.startswith(VALIDATION)})})
    assert set(load(place)) == {"validation"}
