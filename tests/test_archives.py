"""Releases read from the archives they are downloaded as: the same rows as from files, and what is wrong with them."""

import hashlib
import multiprocessing
import os
import shutil
import struct
import subprocess
import zipfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from archived import FORMS, cut, files_of, numbered, pieces, spanned, tarred, write, zipped, zipped64
from released import TRAIN, VALIDATION, annotation, load, write_pair, write_release

from affectnet_plus import ReleaseError, find_release
from affectnet_plus.releases.check import check
from affectnet_plus.releases.export import export

IMAGE = f"{TRAIN}/images/205.jpg"
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


@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_index_that_is_not_whole_is_made_again(form, files, release, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    place = write(tmp_path / "downloads", FORMS[form](files))
    expected = load(place, split="train", cache_dir=str(tmp_path / "first"))["image_id"]
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.suffix in (".json", ".npy", ".tar")]
    assert len(kept) == 3 + (form == "tar.gz")
    for number, path in enumerate(kept):
        path.write_bytes(path.read_bytes()[: 10 * (number % 2)])  # as after a power cut
        assert load(place, split="train", cache_dir=str(tmp_path / str(number)))["image_id"] == expected


@pytest.mark.parametrize("form", ["zip", "tar.gz"])
@pytest.mark.parametrize("options", ["size=4k", "ro"])
def test_cache_that_cannot_be_written_is_named(form, options, files, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    cache.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", cache]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    place = write(tmp_path / "downloads", FORMS[form](files))
    try:
        with pytest.raises(ReleaseError, match=r"cache/.* cannot be written \(.*\): set HF_DATASETS_CACHE to a folder"):
            load(place)
        assert not [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    finally:
        subprocess.run(["umount", cache], check=True)


def test_processes_that_look_into_an_archive_at_once(files, release, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    place = write(tmp_path / "downloads", FORMS["tar.gz"](files))
    with multiprocessing.get_context("fork").Pool(3) as pool:
        found = pool.map(find_release, [place] * 3, chunksize=1)
    assert found == [str(place)] * 3
    (index,) = (path for path in (tmp_path / "cache/affectnet_plus_archives").iterdir() if path.is_dir())
    assert sorted(path.name for path in index.rglob("*") if path.is_file()) == [
        "archive.tar", "members.npy", "names.npy", "tree.json",
    ]  # fmt: skip


def test_archive_that_is_replaced_before_it_is_read(files, tmp_path):
    place = write(tmp_path / "downloads", {"a.tar": tarred(files)})
    streamed = load(place, split="train", streaming=True)
    os.replace(place / "a.tar", tmp_path / "a.tar")
    write(place, {"a.tar": tarred(dict(reversed(files.items())))})
    with pytest.raises(ReleaseError, match="a.tar is another one now: load it again"):
        list(streamed)


# what -> the files of a download, from those of the release; words that are to be said
BROKEN = {
    "cut": (lambda files: {"a.zip": zipped(files)[:-400]}, r"a\.zip ends without a table of contents, .* cut off"),
    "no zip": (lambda files: {"a.zip": b"<html>"}, r"a\.zip is no zip file \(it begins with b'<htm'\): download"),
    "empty": (lambda files: {"a.zip": b""}, r"a\.zip is no zip file"),
    "last part missing": (
        lambda files: dict(list(pieces(files).items())[:-1]), "ends without .* as the last part is missing"
    ),
    "two parts missing": (
        lambda files: {k: v for k, v in pieces(files, 4000).items() if k[-3:] not in ("002", "004")},
        r"bytes are missing; download it again",
    ),
    "part cut": (
        lambda files: {k: v[:-100] if k.endswith("2") else v for k, v in pieces(files).items()},
        r"a\.zip\.002 is not whole: 100 bytes are missing; download it again",
    ),
    "table damaged": (
        lambda files: {"a.zip": zipped(files).replace(b"PK\1\2", b"PK\1\3")},
        r"damaged table of contents \(file 1 of \d+\)",
    ),
    "other method": (
        lambda files: {"a.zip": zipped(files, zipfile.ZIP_BZIP2)}, r"compressed by bzip2 \(method 12\), .*: unpack it"
    ),
    "damaged number of disks": (
        lambda files: {"a.zip": with_record(zipped64(files), b"PK\6\6", 16, "<2L", 70_000, 70_000)},
        r"a\.zip has a damaged end \(70,000 parts before it\)",
    ),
    "no tar": (lambda files: {"a.tar.gz": b"<html>"}, r"a\.tar\.gz is no tar file .* \(it begins with b'<html>'\)"),
    "tar that goes backwards": (
        lambda files: {"a.tar": with_size(tarred(files), 2, b"\xff" * 12)}, r"a\.tar has .* after which it is cut off"
    ),
    "tar with a header of 8 GB": (
        lambda files: {"a.tar": with_size(tarred(files), 2, b"77777777777\0", b"x")}, r"a\.tar has .* after which it is"
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
    image = files[IMAGE]
    content[content.index(image) + len(image) // 2] ^= 255
    return {"a.zip": bytes(content)}


def bomb(files):
    content = bytearray(zipped({**files, IMAGE: bytes(1 << 20)}))
    return {"a.zip": bytes(content).replace((1 << 20).to_bytes(4, "little"), (1 << 30).to_bytes(4, "little"))}


def encrypted(files):
    content = bytearray(zipped(files))
    place = content.rindex(IMAGE.encode()) - 46
    content[place + 8] |= 1
    return {"a.zip": bytes(content)}


def with_record(content, signature, offset, layout, *values):
    """With other values in the last record of this kind."""
    content = bytearray(content)
    struct.pack_into(layout, content, content.rindex(signature) + offset, *values)
    return bytes(content)


def with_size(content, number, size, kind=b"0"):
    """With another size in the header of a member, and the checksum of that."""
    content, start = bytearray(content), -512
    for _ in range(number + 1):
        start = content.index(b"ustar", start + 512) - 257
    content[start + 124 : start + 136], content[start + 156 : start + 157] = size, kind
    content[start + 148 : start + 156] = b" " * 8
    content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + 512])
    return bytes(content)


def without_part(make, name):
    return lambda files: {key: part for key, part in make(files).items() if key != name and part}


# what -> the download; rows of train lost, or None where that depends; words that `check` and skipping say
DAMAGED = {
    "image": (damaged_image, {205}, r"images/205\.jpg cannot be read \(damaged in a\.zip: its checksum is another\)"),
    "bomb": (bomb, {205}, r"205\.jpg cannot be read \(1,073,741,824 bytes, more than the 268,435,456 that are read\)"),
    "encrypted": (encrypted, {205}, r"has 1 file\(s\) such as '.*205.jpg' that are encrypted: unpack it with its"),
    "names that lead out": (
        lambda files: {"a.zip": zipped({**files, "../../evil.txt": b"x", "/etc/evil": b"x", "C:/evil": b""})}, set(),
        r"has 3 file\(s\) such as '.*evil.*' whose names lead out of it, .*: they are not read",
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
        lambda files: {"a.zip": zipped(files), "b.zip": zipped({IMAGE: b"other"})}, set(),
        r"images/205\.jpg is in the archives twice, with different contents",
    ),
    "all spans missing but the last": (
        lambda files: {"A.zip": spanned(files, 9000)[-1]}, None, r"A\.z01 is missing, with \d+ files such as human_"
    ),
    "first span missing of a name with a number": (
        lambda files: {
            **{f"A1.z{i:02}": part for i, part in enumerate(spanned(files, 9000)[:-1], 1) if i > 1},
            "A1.zip": spanned(files, 9000)[-1],
        },
        None, r"A1\.z01 is missing, with \d+ files such as human_annotated/",
    ),
    "number of more than 63 bits": (
        lambda files: {"a.zip": with_record(zipped64(files), IMAGE.encode(), len(IMAGE) + 4, "<Q", 2**64 - 1)}, {205},
        r"images/205\.jpg cannot be read \(.* bytes, more than the 268,435,456 that are read\)",
    ),
    "twice, of one size": (
        lambda files: {"a.tar": tarred(files), "b.tar": tarred({IMAGE: files[IMAGE][::-1]})},
        set(), r"images/205\.jpg is in the archives twice, with different contents",
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
    write(place, {"more.zip": zipped({"Manually_Annotated_Images/2/b.jpg": b"x"}, zipfile.ZIP_LZMA)})
    with pytest.raises(ReleaseError, match=r"more\.zip has 1 file.* compressed by LZMA \(method 14\)"):
        load(place, "affectnet_2017", split="train")
    assert not check(place, 1).whole


def test_folder_in_a_zip_is_named_where_something_else_lies_there(tmp_path):
    place = write(tmp_path / "place", {"a.zip": zipped({"photos/1.jpg": b"x"})})
    with pytest.raises(ReleaseError, match="is no release of AffectNet\\+.* Found there: 'a.zip', 'photos/'"):
        load(place)
    os.mkfifo(tmp_path / "pipe.zip")
    write(tmp_path, {"photo.jpg": b"x"})
    for name, words in (("photo.jpg", "is a file, neither"), ("pipe.zip", "is neither")):
        with pytest.raises(ReleaseError, match=f"{name} {words} a folder nor a .zip or .tar"):
            load(tmp_path / name)


def test_validation_alone(files, release, tmp_path):
    place = write(tmp_path / "p", {"val.zip": zipped({n: c for n, c in files.items() if n.startswith(VALIDATION)})})
    assert set(load(place)) == {"validation"}
