"""A release whose files are damaged: what is wrong is named, and nothing half-read is left."""

import copy
import json

import PIL.Image
import pytest
from released import LANDMARKS, SOFT, TRAIN, VALIDATION, annotation, load, write_long_release, write_pair, write_release

from affectnet_plus import ReleaseError


@pytest.fixture
def release(tmp_path):
    return write_release(tmp_path)


@pytest.fixture
def long_release(tmp_path):
    return write_long_release(tmp_path)


def changed(*keys, to):
    content = copy.deepcopy(annotation())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    if to is None:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = to
    return content


DAMAGED_ANNOTATIONS = {
    "empty": (b"", "is empty"),
    "truncated": (json.dumps(annotation()).encode()[:200], "does not parse as JSON"),
    "not text": (b"\xff\xfe\x00\x81", "does not parse as JSON"),
    "two annotations": (json.dumps(annotation()).encode() * 2, "does not parse as JSON"),
    "nested": (b"[" * 100_000, "does not parse as JSON"),
    "not an object": (b"[1, 2]", "not an object"),
    "no label": (changed("human-label", to=None), 'lacks the key "human-label"'),
    "null label": ({**annotation(), "human-label": None}, 'null as "human-label"'),
    "label 11": (changed("human-label", to=11), '11 as "human-label", not a whole number from 0 to 10'),
    "label -1": (changed("human-label", to=-1), '-1 as "human-label"'),
    "label 1.5": (changed("human-label", to=1.5), '1.5 as "human-label"'),
    "label true": (changed("human-label", to=True), 'true as "human-label"'),
    "label in words": (changed("human-label", to="happy"), '"happy" as "human-label"'),
    "no subset": (changed("subset", to=None), 'lacks the key "subset"'),
    "subset 3": (changed("subset", to=3), '3 as "subset", not a whole number from 0 to 2'),
    "no soft label": (changed("soft-label", to=None), 'lacks the key "soft-label"'),
    "null soft label": ({**annotation(), "soft-label": None}, 'null as "soft-label"'),
    "soft label of seven": (changed("soft-label", to=SOFT[:7]), 'a list of 7, .* as "soft-label", not a list of 8'),
    "soft label NaN": (changed("soft-label", to=[float("nan"), *SOFT[1:]]), 'NaN.* as "soft-label"'),
    "soft label infinite": (changed("soft-label", to=[*SOFT[1:], float("inf")]), 'as "soft-label"'),
    "soft label in words": (changed("soft-label", to=["0.5", *SOFT[1:]]), 'as "soft-label"'),
    "soft label true": (changed("soft-label", to=[True, *SOFT[1:]]), 'as "soft-label"'),
    "soft label above 1": (changed("soft-label", to=[1.01, *SOFT[1:]]), r'outside \[0, 1\] in "soft-label"'),
    "soft label below 0": (changed("soft-label", to=[-0.1, *SOFT[1:]]), r'outside \[0, 1\] in "soft-label"'),
    "no metadata": (changed("meta-data", to=None), 'lacks the key "meta-data"'),
    "metadata a list": (changed("meta-data", to=[]), '"meta-data", not an object'),
    "no age": (changed("meta-data", "age", to=None), 'lacks the key "age"'),
    "age 23.5": (changed("meta-data", "age", to=23.5), '23.5 as "age", not whole years'),
    "age huge": (changed("meta-data", "age", to=10**9), '1000000000 as "age", not whole years'),
    "age in words": (changed("meta-data", "age", to="23"), '"23" as "age"'),
    "no valence": (changed("meta-data", "valence", to=None), 'lacks the key "valence"'),
    "valence NaN": (changed("meta-data", "valence", to=float("nan")), 'NaN as "valence"'),
    "arousal huge": (changed("meta-data", "arousal", to=10**400), 'as "arousal", not a finite number'),
    "gender a number": (changed("meta-data", "gender", to=1), '1 as "gender", not an object'),
    "gender without male": (changed("meta-data", "gender", "male", to=None), "\"gender\", not .* 'female', 'male'"),
    "race NaN": (changed("meta-data", "race", "white", to=float("nan")), '"race", not one finite number'),
    "valence 1e39": (changed("meta-data", "valence", to=1e39), '1e\\+39 as "valence", not a finite number'),
    "pose 1e39": (changed("meta-data", "pose", "yaw", to=1e39), '"pose", not one finite number'),
    "landmarks 1e39": (changed("meta-data", "landmark-68", to=[1e39, *LANDMARKS[1:]]), "not a list of 136 finite"),
    "no pose": (changed("meta-data", "pose", to=None), 'lacks the key "pose"'),
    "no landmarks": (changed("meta-data", "landmark-68", to=None), 'lacks the key "landmark-68"'),
    "135 landmarks": (changed("meta-data", "landmark-68", to=LANDMARKS[1:]), "not a list of 136"),
    "landmarks infinite": (changed("meta-data", "landmark-68", to=[1e999, *LANDMARKS[1:]]), "landmark-68"),
    "landmarks huge": (changed("meta-data", "landmark-68", to=[1e300, *LANDMARKS[1:]]), "landmark-68"),
    "landmarks null": (changed("meta-data", "landmark-68", to=[None, *LANDMARKS[1:]]), "landmark-68"),
}


@pytest.mark.parametrize("damage", DAMAGED_ANNOTATIONS)
def test_a_damaged_annotation_is_named_with_its_key(release, tmp_path, damage):
    content, said = DAMAGED_ANNOTATIONS[damage]
    write_pair(release, TRAIN, 11, content)
    for options in ({}, {"streaming": True}):
        with pytest.raises(
            ReleaseError, match=rf"annotations/11\.json .*{said}.*delete the files of that row"
        ) as error:
            dataset = load(release, split="train", cache_dir=str(tmp_path / "cache"), **options)
            list(dataset)
        assert "\n" not in str(error.value)


DAMAGED_IMAGES = {"empty": (b"", "is empty"), "a page": (b"<html>", "is no JPEG or PNG image .*<htm")}


@pytest.mark.parametrize("damage", DAMAGED_IMAGES)
def test_an_image_that_is_none_is_named(release, damage):
    image, said = DAMAGED_IMAGES[damage]
    write_pair(release, VALIDATION, 11, annotation(), image=image)
    with pytest.raises(ReleaseError, match=rf"images/11\.jpg {said}"):
        load(release, split="train")


def test_files_without_their_partner_are_named(release):
    (release / TRAIN / "images/9.jpg").unlink()
    (release / TRAIN / "annotations/10.json").unlink()
    for options in ({}, {"streaming": True}):
        with pytest.raises(ReleaseError) as error:
            load(release, **options)
        assert "images/10.jpg has no annotation (and 1 more problem(s) in train)" in str(error.value)


def test_two_images_for_one_annotation_are_named(release):
    PIL.Image.new("RGB", (16, 16)).save(release / TRAIN / "images/9.png")
    with pytest.raises(ReleaseError, match=r"images/9\.jpg is not the only file of its number: there is '9\.png'"):
        load(release)


@pytest.mark.parametrize("num_proc", [None, 2])
def test_a_failed_build_says_why_and_leaves_nothing(long_release, tmp_path, num_proc):
    good = (long_release / TRAIN / "annotations/1099.json").read_bytes()
    (long_release / TRAIN / "annotations/1099.json").write_bytes(good[:-9])
    options = {"split": "train", "cache_dir": str(tmp_path / "cache")}
    with pytest.raises(ReleaseError, match=r"annotations/1099\.json does not parse"):
        load(long_release, num_proc=num_proc, **options)
    assert not list((tmp_path / "cache").rglob("*.arrow"))
    # Overwritten in place, so that the very same cache folder is asked for.
    (long_release / TRAIN / "annotations/1099.json").write_bytes(good)
    assert len(load(long_release, num_proc=num_proc, **options)) == 1100
