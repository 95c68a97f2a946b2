"""FER+, read as its own files have it."""

import csv

import numpy as np
import PIL.Image
import pytest
from datasets import load_dataset

from affectnet_plus import EXPRESSIONS, ReleaseError
from affectnet_plus.training.arguments import DataArguments
from affectnet_plus.training.faces import load_split


def load(root, name, **options):
    return load_dataset("affectnet_plus", name, data_dir=str(root), **options)


FERPLUS_ORDER = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF"]
VOTES = [  # Usage, votes in FER+'s order
    ("Training", [1, 0, 0, 6, 0, 0, 1, 0, 2, 0]),  # sad
    ("Training", [5, 5, 0, 0, 0, 0, 0, 0, 0, 0]),  # a tie
    ("Training", [0, 0, 1, 0, 0, 0, 2, 0, 7, 0]),  # unknown leads
    ("Training", [0, 0, 0, 0, 0, 0, 0, 0, 0, 10]),  # withdrawn: no name
    ("PublicTest", [0, 0, 0, 0, 0, 0, 0, 6, 0, 4]),  # contempt
    ("PublicTest", [0, 2, 0, 0, 0, 0, 0, 0, 0, 8]),  # not a face leads
    ("PrivateTest", [0, 0, 9, 0, 1, 0, 0, 0, 0, 0]),  # surprise
    ("Training", [0, 0, 0, 0, 0, 0, 0, 0, 5, 5]),  # a tie without any expression
]


def name_of(row):
    """Withdrawn images are not counted in names."""
    return f"fer{row - (row > 3):07}.png"


@pytest.fixture(params=["fer2013.csv", "icml_face_data.csv", "folders"])
def ferplus(request, tmp_path):
    """FER+ as people hold it, with noise for faces."""
    pixels = np.random.default_rng(0).integers(0, 256, (len(VOTES), 48, 48), dtype=np.uint8)
    with (tmp_path / "fer2013new.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Usage", "Image name", *FERPLUS_ORDER])
        writer.writerows(
            [usage, "" if votes[9] == 10 else name_of(n), *votes] for n, (usage, votes) in enumerate(VOTES)
        )
    if request.param == "folders":
        for n, (usage, votes) in enumerate(VOTES):
            folder = tmp_path / {"Training": "FER2013Train", "PublicTest": "FER2013Valid"}.get(usage, "FER2013Test")
            folder.mkdir(exist_ok=True)
            if votes[9] < 10:
                PIL.Image.fromarray(pixels[n]).save(folder / name_of(n))
    else:
        texts = [(VOTES[n][0], " ".join(map(str, image.ravel()))) for n, image in enumerate(pixels)]
        if request.param == "fer2013.csv":
            lines = ["emotion,pixels,Usage", *(f"0,{text},{usage}" for usage, text in texts)]
        else:
            lines = ["emotion, Usage, pixels", *(f"0,{usage},{text}" for usage, text in texts)]
        (tmp_path / request.param).write_text("\n".join(lines) + "\n")
    return tmp_path, pixels


def test_ferplus_has_votes_and_their_shares_in_our_order(ferplus):
    root, pixels = ferplus
    rows = load(root, "ferplus")
    assert {split: part["image_id"][:] for split, part in rows.items()} == {
        "train": [0],
        "validation": [4],
        "test": [6],
    }
    (row,) = rows["train"]
    np.testing.assert_array_equal(np.asarray(row["image"]), pixels[0])
    assert rows["train"].features["label"].int2str(row["label"]) == "sad"
    assert row["soft_label"] == pytest.approx([1 / 8, 0, 6 / 8, 0, 1 / 8, 0, 0, 0])
    assert row["votes"] == dict.fromkeys(row["votes"], 0) | {"neutral": 1, "sad": 6, "fear": 1, "unknown": 2}
    assert list(row["votes"]) == [*EXPRESSIONS, "unknown", "not_a_face"]
    assert row["subset"] is None and row["valence"] is None
    assert rows["validation"][0]["label"] == 7 and rows["test"][0]["label"] == 3
    assert next(iter(load(root, "ferplus", split="test", streaming=True)))["votes"] == rows["test"][0]["votes"]


def test_the_votes_reach_a_measurement(ferplus):
    split = load_split(DataArguments(data_dir=str(ferplus[0])), "train", with_soft_labels=True)
    assert split.votes.tolist() == [[1, 0, 6, 0, 1, 0, 0, 0]]  # without "unknown"


def test_rules_for_faces_without_one_expression_can_be_chosen(ferplus):
    root, _ = ferplus
    rows = load(root, "ferplus", ties="keep", unknown="keep", not_a_face="keep")
    assert {split: part["image_id"][:] for split, part in rows.items()} == {
        "train": [0, 1, 2, 7], "validation": [4, 5], "test": [6]
    }  # fmt: skip
    assert rows["train"]["label"][:] == [2, None, None, None]
    assert rows["train"]["soft_label"][1][:2] == [0.5, 0.5]
    assert rows["train"]["soft_label"][2] == pytest.approx([0, 0, 0, 1 / 3, 2 / 3, 0, 0, 0])
    assert rows["train"]["soft_label"][3] is None
    assert load(root, "ferplus", ties="keep", split="train")["image_id"][:] == [0, 1, 7]
    with pytest.raises(ReleaseError, match="ties='first' is not known: pass 'drop' or 'keep'"):
        load(root, "ferplus", ties="first")


def test_ferplus_that_does_not_fit_together(ferplus):
    root, _ = ferplus
    if pixels := next((root / name for name in ("fer2013.csv", "icml_face_data.csv") if (root / name).exists()), None):
        text = pixels.read_text()
        header, _, rows = text.partition("\n")
        for other in (" x", " 0_"):
            pixels.write_text(f"{header}\n{rows.replace(' ', other, 1)}")
            with pytest.raises(ReleaseError, match=f"{pixels.name}, row 0 does not hold 48 x 48 grey values"):
                load(root, "ferplus")
        pixels.write_text(text + text.splitlines()[1] + "\n")
        with pytest.raises(ReleaseError, match=f"{pixels.name} has 9 rows and .*fer2013new.csv 8"):
            load(root, "ferplus")
        pixels.write_text(text.replace("pixels", "picture", 1))
        with pytest.raises(ReleaseError, match=f"{pixels.name} has no column 'pixels'"):
            load(root, "ferplus")
        pixels.unlink()
        with pytest.raises(ReleaseError, match="but no images: put fer2013.csv or icml_face_data.csv of FER2013"):
            load(root, "ferplus")
    else:
        (root / "FER2013Train/fer0000000.png").unlink()
        with pytest.raises(ReleaseError, match="fer0000000.png is missing"):
            load(root, "ferplus")


@pytest.mark.parametrize(
    "old, new, said",
    [
        (",1,0,0,6,", ",1,0,0,²,", "row 0 has .* as votes, not ten counts"),
        (",1,0,0,6,", f",1,0,0,{'6' * 5000},", "row 0 has .* as votes, not ten counts"),
        ("fer0000000.png", "../../../x.png", "row 0 names the image '../../../x.png', which is not like"),
        ("Usage,", "9" * 200_000 + ",", "fer2013new.csv is no CSV file that can be read .field larger"),
    ],
)
def test_ferplus_votes_that_cannot_be_read(ferplus, old, new, said):
    path = ferplus[0] / "fer2013new.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ReleaseError, match=said):
        load(ferplus[0], "ferplus")


def test_ferplus_votes_that_are_empty(ferplus):
    (ferplus[0] / "fer2013new.csv").write_bytes(b"")
    with pytest.raises(ReleaseError, match="begins with nothing, not with the columns 'Usage'"):
        load(ferplus[0], "ferplus")
