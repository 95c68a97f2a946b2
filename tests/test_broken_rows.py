"""What is broken ends in one clear sentence or in the list of what was left out, and nothing good goes with it."""

import io
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import warnings

import numpy as np
import PIL.Image
import pytest
from datasets import load_dataset

from affectnet_plus import ReleaseError
from affectnet_plus.synthetic import synthesize

TRAIN = "human_annotated/train_set"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole") / "AffectNet+"
    synthesize(root, train=240, validation=0, seed=5, num_proc=1, image_size=64)
    return root


@pytest.fixture
def release(whole, tmp_path):
    return pathlib.Path(shutil.copytree(whole, tmp_path / "AffectNet+"))


def load(root, **options):
    return load_dataset("affectnet_plus", data_dir=str(root), split="train", **options)


def load_skipping(root, **options):
    """The rows and what the warnings say."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows = load(root, on_error="skip", **options)
        ids = [row["image_id"] for row in rows.remove_columns("image")]
    return rows, ids, [str(w.message) for w in caught if "left out" in str(w.message)]


def skipped_file(rows):
    return pathlib.Path(rows.cache_files[0]["filename"]).parent / "skipped.jsonl"


def test_broken_rows_are_left_out_told_once_and_listed(release, tmp_path):
    everything = load(release)["image_id"][:]
    annotations, images = (release / TRAIN / part for part in ("annotations", "images"))
    (annotations / f"{everything[0]}.json").write_text("{")
    (annotations / f"{everything[3]}.json").unlink()
    (images / f"{everything[7]}.jpg").unlink()
    (images / f"{everything[9]}.jpg").write_bytes((images / f"{everything[9]}.jpg").read_bytes()[:-100])
    PIL.Image.new("RGB", (64, 64)).save(images / f"{everything[12]}.png")  # two images for one annotation
    expected = [n for i, n in enumerate(everything) if i not in (0, 3, 7, 9, 12)]
    with pytest.raises(ReleaseError, match="on_error=.skip"):
        load(release)
    for num_proc in (None, 2):
        rows, ids, told = load_skipping(release, num_proc=num_proc, cache_dir=str(tmp_path / f"cache{num_proc}"))
        assert ids == expected
        assert len(told) == 1 and "5 broken row(s)" in told[0] and str(skipped_file(rows)) in told[0]
        listed = [json.loads(line) for line in skipped_file(rows).read_text().splitlines()]
        problems = {os.path.basename(row["path"]): (row["kind"], row["problem"]) for row in listed}
        assert problems[f"{everything[0]}.json"][1].startswith("does not parse as JSON")
        assert problems[f"{everything[3]}.jpg"] == ("image without annotation", "has no annotation")
        assert problems[f"{everything[7]}.json"] == ("annotation without image", "has no image")
        assert problems[f"{everything[9]}.jpg"][0] == "truncated image"
        assert f"{everything[12]}.png" in problems[f"{everything[12]}.jpg"][1]
        assert len(problems) == 5
    # Told again when it comes from the cache; not told where nothing is left out.
    assert len(load_skipping(release, cache_dir=str(tmp_path / "cacheNone"))[2]) == 1


def test_a_stream_leaves_out_the_same_rows(release):
    everything = load(release)["image_id"][:]
    (release / TRAIN / f"annotations/{everything[5]}.json").write_text("[]")
    (release / TRAIN / f"images/{everything[6]}.jpg").write_text("<html>")
    _, ids, told = load_skipping(release, streaming=True)
    assert ids == [n for i, n in enumerate(everything) if i not in (5, 6)]
    assert "2 broken row(s)" in " ".join(told) and f"{everything[6]}.jpg" in " ".join(told)


def test_a_whole_release_says_nothing(whole):
    rows, ids, told = load_skipping(whole)
    assert not told and not skipped_file(rows).exists() and ids == load(whole)["image_id"][:]


def test_an_unknown_choice_is_refused(whole):
    with pytest.raises(ReleaseError, match="on_error='ignore' is not known: pass 'raise' or 'skip'"):
        load(whole, on_error="ignore")


# The cache


def test_files_overwritten_in_place_are_read_anew(release):
    """Neither the folder's times nor the file's size change."""
    first = load(release)
    path = release / TRAIN / f"annotations/{first['image_id'][0]}.json"
    content = json.loads(path.read_text())
    content["meta-data"]["age"] = 99 - content["meta-data"]["age"] % 10
    path.write_text(json.dumps(content))
    assert load(release)["age"][0] == content["meta-data"]["age"] != first["age"][0]


def test_a_broken_file_that_is_made_good_comes_back(release):
    everything = load(release)["image_id"][:]
    path = release / TRAIN / f"images/{everything[0]}.jpg"
    good = path.read_bytes()
    path.write_bytes(good[:500])
    assert load_skipping(release)[1] == everything[1:]
    path.write_bytes(good)
    assert load_skipping(release)[1] == everything


def test_a_replaced_image_is_seen_at_once(release):
    rows = load(release)
    path = release / TRAIN / f"images/{rows['image_id'][0]}.jpg"
    PIL.Image.new("RGB", (64, 64), (0, 255, 0)).save(path)
    assert load(release)[0]["image"].getpixel((5, 5))[1] > 250


@pytest.mark.parametrize("num_proc", [1, 2])
def test_a_killed_build_leaves_nothing_that_loads(release, tmp_path, num_proc):
    """The reader ends itself with SIGKILL as it opens one annotation."""
    everything = load(release)["image_id"][:]
    (release / TRAIN / f"annotations/{everything[2]}.json").write_text("{")
    cache = tmp_path / "cache"
    script = (
        "import os, signal, sys, affectnet_plus, datasets\n"
        "def end(event, args):\n"
        "    if event == 'open' and str(args[0]).endswith(sys.argv[3]):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "sys.addaudithook(end)\n"
        "datasets.load_dataset('affectnet_plus', data_dir=sys.argv[1], cache_dir=sys.argv[2], on_error='skip')"
    )
    place = f"annotations/{everything[40]}.json"
    reader = subprocess.run([sys.executable, "-c", script, release, cache, place], start_new_session=True)
    assert reader.returncode == -signal.SIGKILL
    assert any("incomplete" in str(p) for p in cache.rglob("*"))
    rows, ids, told = load_skipping(release, cache_dir=str(cache), num_proc=num_proc)
    assert ids == [n for i, n in enumerate(everything) if i != 2]
    assert len(told) == 1 and "1 broken row(s)" in told[0]


# Mutations


def mutated(content: bytes, rng: random.Random) -> bytes:
    """One of the ways in which disks, downloads and unpacking damage a file."""
    way, place = rng.randrange(8), rng.randrange(len(content))
    other = rng.randbytes(rng.choice((1, 1, 2, 8, 64)))
    if way == 0:
        return content[:place]  # cut off
    if way == 1:
        return content[:place] + bytes(len(content) - place)  # its end never written
    if way == 2:
        return content[:place] + other + content[place + len(other) :]
    if way == 3:
        return content[:place] + content[place + rng.randrange(1, 40) :]  # a piece lost
    if way == 4:
        return content[:place] + other + content[place:]  # a piece too many
    if way == 5:
        return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]  # one bit
    if way == 6:
        return content[:place] + bytes(min(4096, len(content) - place)) + content[place + 4096 :]  # a lost block
    return rng.choice((b"", b"<html>404</html>", content[::-1], rng.randbytes(len(content)), content * 2))


def still_decodes(content: bytes) -> bool:
    try:
        PIL.Image.open(io.BytesIO(content), formats=("JPEG", "PNG")).load()
    except Exception:
        return False
    return True


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part, suffix, count", [("annotations", "json", 2000), ("images", "jpg", 500)])
def test_mutations_end_in_the_list_or_in_a_valid_row(whole, tmp_path, part, suffix, count):
    """Every damaged file is either left out and listed, or still says something valid; nothing else happens."""
    rng = random.Random(part)
    originals = sorted((whole / TRAIN / part).iterdir())
    partner = {"annotations": ("images", "jpg"), "images": ("annotations", "json")}[part]
    for folder in ("images", "annotations"):
        (tmp_path / TRAIN / folder).mkdir(parents=True)
    contents = {}
    for n in range(1, count + 1):
        original = rng.choice(originals)
        contents[n] = mutated(original.read_bytes(), rng)
        (tmp_path / TRAIN / part / f"{n}.{suffix}").write_bytes(contents[n])
        os.link(
            whole / TRAIN / partner[0] / f"{original.stem}.{partner[1]}",
            tmp_path / TRAIN / partner[0] / f"{n}.{partner[1]}",
        )
    rows = load_dataset(
        "affectnet_plus", "human_annotated_all", data_dir=str(tmp_path), split="train", on_error="skip",
        cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    listed = [json.loads(line) for line in skipped_file(rows).read_text().splitlines()]
    left_out = {int(pathlib.Path(line["path"]).stem): line["problem"] for line in listed}
    assert len(left_out) == len(listed) and all(len(problem) < 200 for problem in left_out.values())
    assert sorted([*left_out, *rows["image_id"]]) == list(range(1, count + 1))
    assert len(left_out) > count / 2
    for row in rows:  # decodes each image
        assert all(0 <= score <= 1 for score in row["soft_label"]) and row["image"].size[0] > 0
        assert np.isfinite([value for value in (row["valence"], row["arousal"], row["age"]) if value is not None]).all()
    if part == "images":
        holes = {n for n in left_out if still_decodes(contents[n])}
        assert all("hole" in left_out[n] for n in holes)


@pytest.mark.filterwarnings("ignore")
def test_each_mutation_alone_is_one_clear_error(release):
    """The default: what was left out above is raised here, naming the file."""
    rng = random.Random(0)
    ids = load(release)["image_id"][:]
    raised = 0
    for n in rng.sample(ids, 24):
        path = release / TRAIN / rng.choice((f"annotations/{n}.json", f"images/{n}.jpg"))
        good = path.read_bytes()
        path.write_bytes(mutated(good, rng))
        try:
            load(release)
        except ReleaseError as error:
            assert str(path) in str(error) and "\n" not in str(error) and "on_error" in str(error)
            raised += 1
        path.write_bytes(good)
    assert raised > 8
    assert load(release)["image_id"][:] == ids
