"""The older releases of AffectNet, the same faces in three layouts, and FER+ in its two."""

import csv
import json
import pathlib
import shutil

import datasets
import numpy as np
import PIL.Image
import pytest
from datasets import load_dataset

from affectnet_plus import EXPRESSIONS, ReleaseError, find_release, recognise
from affectnet_plus.releases.affectnet_2017 import crop_face
from affectnet_plus.releases.check import check
from affectnet_plus.synthetic import synthesize


def load(root, name, **options):
    return load_dataset("affectnet_plus", name, data_dir=str(root), **options)


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    """The same 112 faces in the three layouts."""
    root = tmp_path_factory.mktemp("layouts")
    counts = {"train": 80, "validation": 32, "seed": 4, "num_proc": 1, "image_size": 64}
    synthesize(root / "plus", **counts, unannotated=12)
    synthesize(root / "2021", **counts, layout="2021")
    synthesize(root / "2017", **counts, unannotated=12, layout="2017")
    return root


def test_the_same_rows_come_from_all_three(layouts):
    plus, of_2021, of_2017 = (
        load(layouts / folder, name)
        for folder, name in (("plus", None), ("2021", "affectnet_2021"), ("2017", "affectnet_2017"))
    )
    assert list(plus) == list(of_2021) == ["train", "validation"]
    assert list(of_2017) == ["train", "validation", "automatically_annotated"]
    for split in plus:
        assert plus[split].features == of_2021[split].features == of_2017[split].features
        assert len(plus[split]) > 15
        assert of_2021[split]["image_id"][:] == plus[split]["image_id"][:]
        truth = load(layouts / "plus", "human_annotated_all", split=split)
        kept = [row for row, label in enumerate(truth["label"][:]) if label < len(EXPRESSIONS)]
        assert of_2017[split]["image_id"][:] == kept  # the row of the CSV file
        for other in (of_2021[split], of_2017[split]):
            for ours, theirs in zip(plus[split], other, strict=True):
                assert theirs["label"] == ours["label"]
                assert theirs["valence"] == pytest.approx(ours["valence"])
                assert theirs["arousal"] == pytest.approx(ours["arousal"])
                size = theirs["image"].size[0]
                moved = np.array(theirs["landmarks_68"]) * (64 / size)
                np.testing.assert_allclose(moved, ours["landmarks_68"], atol=1e-4)
                pixels = np.asarray(theirs["image"].resize((64, 64), PIL.Image.Resampling.BOX), float)
                assert np.abs(pixels - np.asarray(ours["image"])).mean() < 4
                for name in ("soft_label", "subset", "age", "gender", "ethnicity", "head_pose", "landmarks_29"):
                    assert theirs[name] is None
    assert {image.size for image in of_2017["validation"]["image"][:]} == {(224, 224)}
    assert len(of_2017["automatically_annotated"]) == 12


@pytest.mark.parametrize("folder, name", [("2021", "affectnet_2021"), ("2017", "affectnet_2017")])
def test_streaming_and_two_processes_give_the_same_rows(layouts, tmp_path, folder, name):
    def plain(dataset):
        return list(dataset.cast_column("image", datasets.Image(decode=False)))

    expected = plain(load(layouts / folder, name, split="train"))
    assert plain(load(layouts / folder, name, split="train", streaming=True)) == expected
    assert plain(load(layouts / folder, name, split="train", num_proc=2, cache_dir=str(tmp_path))) == expected


def test_a_batch_of_rows_without_soft_labels_can_be_had(layouts):
    rows = load(layouts / "2021", "affectnet_2021", split="train").remove_columns("image")
    assert rows.with_format("torch")[:4]["landmarks_68"].shape == (4, 68, 2)
    assert np.isnan(rows.with_format("numpy")[:4]["valence"]).sum() == 0


def test_a_release_of_another_layout_is_told_by_name(layouts):
    with pytest.raises(
        ReleaseError, match=r'2021 .*npy.*, not AffectNet\+: load_dataset."affectnet_plus", "affectnet_2021"'
    ):
        load(layouts / "2021", None)
    with pytest.raises(ReleaseError, match='"human_annotated", .... reads it'):
        load(layouts / "plus", "affectnet_2017")
    assert find_release(layouts, "affectnet_2017") == str(layouts / "2017")
    for name in ("human_annotated", "no_human_annotated"):  # the first holds a train_set/, as 2021's does
        with pytest.raises(ReleaseError, match=r"is a part of AffectNet\+: name the folder around it, .*plus\."):
            load(layouts / "plus" / name, "affectnet_2021")


def test_which_of_several_releases_is_meant_is_not_guessed(layouts, tmp_path):
    for folder in ("2017", "2021", "plus"):
        assert recognise(layouts / folder)[0] == str(layouts / folder)
    with pytest.raises(
        ReleaseError, match=r"'2017 .*', '2021 .*', 'plus \(AffectNet\+\)': name one of them as data_dir"
    ):
        recognise(layouts)
    for path in (*(layouts / "2021").iterdir(), *(layouts / "plus").glob("*_annotated")):
        (tmp_path / path.name).symlink_to(path)
    with pytest.raises(ReleaseError, match="several releases.*: unpack each into a folder of its own"):
        recognise(tmp_path)
    assert len(load(tmp_path, "affectnet_2021", split="validation")) == len(load(tmp_path, None, split="validation"))


def write_2017(root, rows, header=True):
    columns = "subDirectory_filePath face_x face_y face_width face_height facial_landmarks expression valence arousal"
    with (root / "training.csv").open("w", newline="") as file:
        csv.writer(file).writerows(([columns.split()] if header else []) + rows)
    folder = root / "Manually_Annotated_compressed" / "Manually_Annotated_Images" / "7"
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(200), np.arange(100)[:, None]
    PIL.Image.fromarray(pixels).save(folder / "a.png")


LANDMARKS = np.stack([np.linspace(60, 110, 68), np.linspace(20, 70, 68)], axis=1)
TEXT = ";".join(f"{x:.2f};{y:.2f}" for x, y in LANDMARKS)


def test_the_face_is_the_box_and_its_landmarks_within_the_image(tmp_path):
    write_2017(
        tmp_path,
        [
            ["7/a.png", 50, 30, 40, 50, TEXT, 1, 0.5, -0.25],  # x 50 to 110, y 20 to 80
            ["7/a.png", -10, -10, 400, 300, "NULL", 0, -2, -2],  # the whole image
            ["7/a.png", "NULL", "NULL", "NULL", "NULL", TEXT, 2, 0, 0],  # x 60 to 110, y 20 to 70
            ["7/a.png", 0, 0, 10, 10, TEXT, 10, -2, -2],  # no expression
        ],
        header=False,
    )
    first, second, third = load(tmp_path, "affectnet_2017", split="train")
    for row, (left, right, top, bottom) in (
        (first, (50, 110, 20, 80)),
        (second, (0, 200, 0, 100)),
        (third, (60, 110, 20, 70)),
    ):
        pixels = np.asarray(row["image"], float)
        assert pixels.shape == (224, 224, 3)
        # A pixel's value is where it lay: the middle of the first and the last pixel of the crop.
        step = (right - left) / 224 / 2
        assert pixels[112, [2, 221], 0] == pytest.approx([left + 4 * step, right - 5 * step], abs=3)
        step = (bottom - top) / 224 / 2
        assert pixels[[2, 221], 112, 1] == pytest.approx([top + 4 * step, bottom - 5 * step], abs=3)
    np.testing.assert_allclose(first["landmarks_68"], (LANDMARKS - (50, 20)) * 224 / 60, atol=0.05)
    assert (first["valence"], first["arousal"], first["label"]) == (0.5, -0.25, 1)
    assert second["landmarks_68"] is None and second["valence"] is None and second["arousal"] is None
    assert third["image_id"] == 2


def test_landmarks_may_overshoot_an_image_that_ends(tmp_path):
    image = PIL.Image.new("RGB", (100, 100))
    face, moved = crop_face(image, (20, 20, 120, 40), LANDMARKS)
    assert face.size == (224, 224)
    assert moved[:, 0].max() == pytest.approx((110 - 20) * 224 / 80)  # beyond 224, as in the real releases


BROKEN_2017 = {
    "no such image": (["7/b.png", 0, 0, 9, 9, TEXT, 1, 0, 0], "names the image '7/b.png', which is in none of"),
    "short": (["7/a.png", 0, 0], "has 3 values, not 9"),
    "endless": (["7/a.png", *"000000", "9" * 200_000, 0], "has 0 values, not 9"),
    "words": (["7/a.png", "left", 0, 9, 9, TEXT, 1, 0, 0], "has 'left' as \"face_x\", not a finite number"),
    "label 12": (["7/a.png", 0, 0, 9, 9, TEXT, 12, 0, 0], "has '12' as \"expression\", not 0 to"),
    "landmarks": (["7/a.png", 0, 0, 9, 9, "1;2;3", 1, 0, 0], "has '1;2;3' as \"facial_landmarks\", not 68 points"),
    "no face": (["7/a.png", 0, 0, 0, 0, "", 1, 0, 0], "has neither a face box nor landmarks"),
    "leading out": (["../../../secret.png", 0, 0, 9, 9, TEXT, 1, 0, 0], "names the image .*, which is outside the rel"),
    "leading back": ([r"7\..\7\a.png", 0, 0, 9, 9, TEXT, 1, 0, 0], "names the image .*, which is outside the rel"),
    "absolute": (["/etc/hostname", 0, 0, 9, 9, TEXT, 1, 0, 0], "names the image '/etc/hostname', which is in none of"),
    "landmarks 1e39": (["7/a.png", 0, 0, 9, 9, f"1e39;{TEXT[6:]}", 1, 0, 0], 'has \'1e39;.* as "facial_landmarks"'),
    "landmarks 3.3e38": (["7/a.png", 0, 0, 9, 9, f"3.3e38;{TEXT[6:]}", 1, 0, 0], 'has "facial_landmarks" too far away'),
    "valence 1e39": (["7/a.png", 0, 0, 9, 9, TEXT, 1, "1e39", 0], "has '1e39' as \"valence\", not a finite number"),
    "underscore": (["7/a.png", 0, 0, 9, 9, TEXT, 1, "0_1", 0], "has '0_1' as \"valence\", not a finite number"),
    "other digits": (["7/a.png", 0, 0, "٣", 9, TEXT, 1, 0, 0], "has '٣' as \"face_width\", not a finite number"),
    "landmarks 0_1": (["7/a.png", 0, 0, 9, 9, f"0_1;{TEXT[6:]}", 1, 0, 0], 'has \'0_1;.* as "facial_landmarks"'),
    "outside": (["7/a.png", 500, 0, 9, 9, "", 1, 0, 0], "has its face outside the image of 200 x 100 pixels"),
}


@pytest.mark.parametrize("case", BROKEN_2017)
def test_a_bad_row_is_named_or_left_out(tmp_path, case):
    row, said = BROKEN_2017[case]
    write_2017(
        tmp_path, [["7/a.png", 50, 30, 40, 50, TEXT, 1, 0.5, -0.25], row, ["7/a.png", 50, 30, 40, 50, TEXT, 3, 0, 0]]
    )
    PIL.Image.new("RGB", (200, 100)).save(tmp_path / "secret.png")
    with pytest.raises(ReleaseError, match=rf"training.csv, row 1 {said}.*on_error=.skip") as error:
        load(tmp_path, "affectnet_2017")
    assert "\n" not in str(error.value)
    with pytest.warns(UserWarning, match=f"1 broken row.*{said}"):
        assert load(tmp_path, "affectnet_2017", split="train", on_error="skip")["image_id"][:] == [0, 2]


def test_another_photograph_of_the_same_name_is_cut_anew(tmp_path):
    write_2017(tmp_path, [["7/a.png", 50, 30, 40, 50, TEXT, 1, 0.5, -0.25]])
    (first,) = load(tmp_path, "affectnet_2017", split="train")
    PIL.Image.new("RGB", (200, 100), (255, 255, 255)).save(first["image"].filename or _photograph(tmp_path))
    (second,) = load(tmp_path, "affectnet_2017", split="train")
    assert np.asarray(first["image"]).max() < 250 and np.asarray(second["image"]).min() > 250


def _photograph(root):
    return root / "Manually_Annotated_compressed/Manually_Annotated_Images/7/a.png"


@pytest.mark.parametrize("outer", ["", "Manually_Annotated", "Manually_Annotated_compressed/Manually_Annotated"])
def test_lists_and_photographs_lie_in_the_folders_they_come_in(layouts, tmp_path, outer):
    lists = tmp_path / "Manually_Annotated_file_lists"
    lists.mkdir()
    for name in ("training.csv", "validation.csv"):
        shutil.copy(layouts / "2017" / name, lists)
    images = tmp_path / outer / "Manually_Annotated_Images"
    shutil.copytree(layouts / "2017/Manually_Annotated_Images", images)
    assert recognise(tmp_path) == (str(tmp_path), "affectnet_2017")
    for split in ("train", "validation"):
        columns = ["image_id", "label", "landmarks_68"]
        found, expected = (
            load(root, "affectnet_2017", split=split).select_columns(columns) for root in (tmp_path, layouts / "2017")
        )
        assert list(found) == list(expected)


def test_flat_areas_and_padding_of_a_photograph_are_no_hole(tmp_path):
    write_2017(tmp_path, [["7/a.png", 50, 30, 40, 50, "", 1, 0, 0], ["7/flat.jpg", 1, 1, 50, 50, "", 2, 0, 0]])
    path = _photograph(tmp_path).with_name("flat.jpg")
    PIL.Image.new("RGB", (2000, 1000), "white").save(path, optimize=True, exif=b"Exif\0\0" + bytes(2000))
    flat = path.read_bytes()
    assert bytes(512) in flat[2100:]
    assert np.asarray(load(tmp_path, "affectnet_2017", split="train")[1]["image"]).min() > 250
    assert check(tmp_path, num_proc=1).whole
    path.write_bytes(flat[:-1000] + bytes(1000))  # as a download that had been given its size beforehand leaves it
    with pytest.raises(ReleaseError, match="flat.jpg has a hole"):
        load(tmp_path, "affectnet_2017")


def test_a_list_may_not_lead_out_of_the_release_but_its_folders_may_be_links(tmp_path):
    face = [50, 30, 40, 50, TEXT, 1, 0.5, -0.25]
    (tmp_path / "disk").mkdir()
    write_2017(tmp_path / "disk", [["7/a.png", *face], ["../../../../secret.png", *face]])
    PIL.Image.new("RGB", (200, 100), "red").save(tmp_path / "secret.png")
    release = tmp_path / "release"
    release.mkdir()
    shutil.copy(tmp_path / "disk/training.csv", release)
    (release / "Manually_Annotated_Images").symlink_to(_photograph(tmp_path / "disk").parents[1])
    (tmp_path / "linked").symlink_to(release)
    for root in (release, tmp_path / "linked"):
        with pytest.warns(UserWarning, match="1 broken row.* outside the release"):
            assert load(root, "affectnet_2017", split="train", on_error="skip")["image_id"][:] == [0]
    findings = check(release, num_proc=1)
    assert findings.counts == {"annotation without image": 1} and findings.num_rows == 2


def test_lists_without_images_or_columns(tmp_path):
    (tmp_path / "validation.csv").write_text("subDirectory_filePath,face_x\n")
    with pytest.raises(ReleaseError, match="no folder Manually_Annotated_Images or Automatically_Annotated_Images"):
        load(tmp_path, "affectnet_2017")
    (tmp_path / "Manually_Annotated_Images").mkdir()
    with pytest.raises(ReleaseError, match="lacks the column 'face_y'"):
        load(tmp_path, "affectnet_2017")
    (tmp_path / "validation.csv").unlink()
    for read in (check, lambda root: load(root, "affectnet_2017")):
        with pytest.raises(ReleaseError, match="has images but no list of them: put training.csv or validation.csv"):
            read(tmp_path)


def test_a_list_whose_photographs_are_not_there_is_known_before_any_face_is_cut(layouts, tmp_path):
    for path in (layouts / "2017").iterdir():
        if path.name != "Automatically_Annotated_Images":
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "training.csv").unlink()
    header, *lines = (layouts / "2017/training.csv").read_text().splitlines()
    (tmp_path / "training.csv").write_text("\n".join([header, "1/a.jpg,broken", *lines]))  # would be told of first
    with pytest.raises(
        ReleaseError, match="automatically_annotated.csv names images such as .*, or keep that list else"
    ):
        load(tmp_path, "affectnet_2017")


BROKEN_2021 = {
    "no valence": ("val", None, "is missing"),
    "empty": ("aro", b"", "is empty"),
    "no npy": ("exp", b"<html>", "is no npy file"),
    "words": ("exp", np.array("happy"), "holds .happy., not one finite number"),
    "label 12": ("exp", np.array("12"), "holds 12.0, not an expression"),
    "not finite": ("val", np.array("nan"), "holds .nan., not one finite number"),
    "135 landmarks": ("lnd", np.zeros(135), "holds 135 values of type float64, not 136"),
    "landmarks 1e39": ("lnd", np.full(136, 1e39), "holds 136 values of type float64, not 136 finite numbers"),
    "landmarks infinite": ("lnd", np.full(136, -np.inf), "holds 136 values of type float64, not 136 finite numbers"),
    "arousal 1e39": ("aro", np.array("1e39"), "holds .1e39., not one finite number"),
    "underscore": ("val", np.array("0_1"), "holds .0_1., not one finite number"),
    "other digits": ("exp", np.array("٣"), "holds .٣., not one finite number"),
    "objects": ("lnd", np.array([{}] * 136, dtype=object), "is no npy file"),
}


@pytest.mark.parametrize("case", BROKEN_2021)
def test_a_bad_npy_file_is_named_or_left_out(layouts, tmp_path, case):
    key, content, said = BROKEN_2021[case]
    annotations = tmp_path / "train_set/annotations"
    annotations.mkdir(parents=True)
    (tmp_path / "train_set/images").mkdir()
    for n in (1, 2):
        PIL.Image.new("RGB", (224, 224)).save(tmp_path / f"train_set/images/{n}.jpg")
        for name, value in (("exp", "3"), ("val", "-0.5"), ("aro", "-2"), ("lnd", np.arange(136.0))):
            np.save(annotations / f"{n}_{name}.npy", np.array(value))
    first, _ = load(tmp_path, "affectnet_2021", split="train")
    assert (first["label"], first["valence"], first["arousal"], first["landmarks_68"][1]) == (3, -0.5, None, [2, 3])
    path = annotations / f"2_{key}.npy"
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(ReleaseError, match=rf"annotations/2_{key}.npy {said}") as error:
        load(tmp_path, "affectnet_2021")
    assert "\n" not in str(error.value)
    with pytest.warns(UserWarning, match="1 broken row"):
        assert load(tmp_path, "affectnet_2021", split="train", on_error="skip")["image_id"][:] == [1]


def test_synthetic_truth_is_named_as_the_rows_are(layouts):
    """What joins a row of each layout to its truth."""
    for folder, name in (("plus", None), ("2021", "affectnet_2021"), ("2017", "affectnet_2017")):
        truth = datasets.Dataset.from_parquet(str(pathlib.Path(layouts, folder, "ground_truth.parquet")))
        known = {(row["split"], row["image_id"]) for row in truth}
        rows = load(layouts / folder, name, split="validation")
        assert {("validation", image_id) for image_id in rows["image_id"]} <= known, json.dumps(sorted(known)[:5])
