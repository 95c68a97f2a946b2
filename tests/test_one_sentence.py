"""Whatever a file holds in place of what is read from it: one short sentence that names the file and the cure."""

import io
import itertools
import json
import os
import re
import sys
import warnings

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from released import TRAIN, annotation, load, write_pair

from affectnet_plus import ReleaseError
from affectnet_plus.modeling import BUNDLED_MODEL
from affectnet_plus.releases.check import check
from affectnet_plus.training import evaluate_model, label, show_faces, show_label_errors, train_ebc
from affectnet_plus.training.arguments import TrainingDataArguments
from affectnet_plus.training.faces import images_in, load_splits
from affectnet_plus_cli import main

MILLION = 1_000_000
NO_UTF8 = os.fsdecode(b"\xff\xfe")


def is_one_sentence(error) -> bool:
    return len(str(error)) < 300 and str(error).isprintable()


def assert_one_row_is_left_out(root, name, file):
    """Raised by loading, left out with "skip", counted by `check`; the other row is there."""
    with pytest.raises(ReleaseError, match=f"{file} .*unpack the release again.*on_error") as error:
        load(root, name)
    assert is_one_sentence(str(error.value).replace(str(root), ""))
    with pytest.warns(UserWarning, match=f"1 broken row.*{file}") as warned:
        assert len(load(root, name, split="train", on_error="skip")) == 1
    assert all(len(str(one.message)) < 800 for one in warned)
    assert check(root, 1).broken == 1


NESTED = {"lists": "[" * 1000 + "]" * 1000, "objects": '{"a":' * 1000 + "1" + "}" * 1000}
VALUES = NESTED | {"digits": "9" * 5000, "text": f'"{"x" * MILLION}"'}


@pytest.mark.parametrize(
    ("key", "value"),
    [(key, "lists") for key in ("human-label", "soft-label", "subset", "meta-data", "age", "gender", "landmark-68")]
    + [("gender", value) for value in VALUES],
)
def test_json(tmp_path, key, value):
    content = annotation()
    (content if key in content else content["meta-data"])[key] = "HERE"
    write_pair(tmp_path, TRAIN, 1, annotation())
    write_pair(tmp_path, TRAIN, 2, json.dumps(content).replace('"HERE"', VALUES[value]).encode())
    assert_one_row_is_left_out(tmp_path, None, "annotations/2.json")


ARRAYS = {
    "text": np.array("x" * MILLION),
    "bytes": np.array(b"x" * MILLION),
    "digits": np.array("9" * MILLION),
    "two dimensions": np.full((3, 3), "x" * 1000),
    "fields": np.zeros((), [(f"field{n}", "f4") for n in range(136)]),
}


@pytest.mark.parametrize("key", ["exp", "lnd"])
@pytest.mark.parametrize("array", ARRAYS)
def test_npy(tmp_path, key, array):
    for n in (1, 2):
        write_pair(tmp_path, "train_set", n, {})
        for name, value in (("exp", "3"), ("val", "-0.5"), ("aro", "0"), ("lnd", np.arange(136.0))):
            np.save(tmp_path / f"train_set/annotations/{n}_{name}.npy", np.array(value))
    np.save(tmp_path / f"train_set/annotations/2_{key}.npy", ARRAYS[array])
    assert_one_row_is_left_out(tmp_path, "affectnet_2021", f"annotations/2_{key}.npy")


HEADER = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"
ROW = "Training,fer0000000.png,9,0,0,0,0,0,0,0,1,0\n"
VOTES = {
    "empty": ("", "begins with nothing, not with the columns"),
    "no rows": (HEADER, "has no rows"),
    "long field": (HEADER + "9" * 200_000 + ROW, "is no CSV file that can be read .field larger"),
    "long header": ("x" * 100_000 + HEADER + ROW, "begins with .*, not with the columns 'Usage'"),
    "many columns": (",".join(f"column {n}" * 9 for n in range(500)), "begins with"),
    "of UTF-16": ((HEADER + ROW).encode("utf-16").decode("latin-1"), "begins with"),
    "long usage": (HEADER + "x" * 10_000 + ROW, "as \"Usage\", not 'Training'"),
    "superscript": (HEADER + ROW.replace("9", "²"), "row 0 has '²', .*as votes, not ten counts"),
    "long votes": (HEADER + ROW.replace("9", "9" * 100_000), "row 0 has .* as votes, not ten counts"),
    "long name": (HEADER + ROW.replace("fer", "f" * 100_000), "row 0 names the image"),
}


@pytest.mark.parametrize("case", VOTES)
def test_votes(tmp_path, case):
    content, said = VOTES[case]
    (tmp_path / "fer2013new.csv").write_text(content)
    (tmp_path / "FER2013Train").mkdir()
    PIL.Image.new("L", (48, 48)).save(tmp_path / "FER2013Train/fer0000000.png")
    with pytest.raises(ReleaseError, match=f"fer2013new.csv.* {said}.*(download it|unpack the release) again") as error:
        load(tmp_path, "ferplus")
    assert is_one_sentence(str(error.value).replace(str(tmp_path), ""))


def png() -> bytes:
    stream = io.BytesIO()
    PIL.Image.new("L", (8, 8)).save(stream, "PNG")
    return stream.getvalue()


IMAGES = pa.array([{"bytes": png(), "path": None}] * 4)
NUMBERED = {"names": ["happy", "sad"], "_type": "ClassLabel"}
SCORES = {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"}
TABLES = {  # columns, what their features are said to be, the sentence
    "label 99": ({"label": [0, 99, 1, 1]}, {"label": NUMBERED}, "'label' of train holds 99 .*names for 0 to 1"),
    "label -5": ({"label": [0, -5, 1, 1]}, {"label": NUMBERED}, "'label' of train holds -5 .*names for 0 to 1"),
    "long names": ({"label": ["x" * MILLION, "y", "z", "happy"]}, {}, "No expression is known by .*Known are neutral"),
    "integers": ({"image": [1, 2, 3, 4]}, {}, "'image' of train holds .*no images: name another --image_column_name"),
    "numbers": ({"image": [0.5] * 4}, {}, "'image' of train holds .*no images: name another --image_column_name"),
    "no image": ({"image": [{"bytes": None, "path": None}] * 4}, {}, "'image' of train has 4 rows without an image"),
    "other struct": ({"image": [{"a": 1}] * 4}, {}, "'image' of train has 4 rows without an image"),
    "one of none": (
        {"image": [{"bytes": None, "path": None}, *IMAGES.to_pylist()[1:]]},
        {},
        "'image' of train has 1 rows without an image: leave",
    ),
    "long path": ({"image": ["x" * MILLION] * 4}, {}, "xxx is not a readable image.*--on_error skip"),
    "lines": ({"image": [{"bytes": b"x", "path": "a\nb" * 999}] * 4}, {}, "is not a readable image.*--on_error skip"),
    "words": (
        {"label": [0, 0, 1, 1], "soft_label": [["a", "b"]] * 4},
        {"label": NUMBERED, "soft_label": SCORES},
        "'soft_label' of train holds .*, no scores: see --soft_label_column_name",
    ),
    "long shares": ({"label": None, "happy": ["x" * MILLION] * 4, "sad": [0.5] * 4}, {}, "row 0: .*xxx' is no share"),
    "columns": ({"image": None} | {f"column {n}": [1] * 4 for n in range(400)}, {}, "No column 'image' in train"),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table_of_others(tmp_path, case):
    changed, features, said = TABLES[case]
    columns = {"image": IMAGES, "label": ["happy", "sad"] * 2} | changed
    table = pa.table({name: values for name, values in columns.items() if values is not None})
    if features:
        said_of_it = {"info": {"features": {"image": {"_type": "Image"}} | features}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(said_of_it)})
    pq.write_table(table, tmp_path / "train.parquet")
    args = TrainingDataArguments(dataset_name=str(tmp_path), eval_split_name="train")
    with warnings.catch_warnings(), pytest.raises(ValueError, match=said) as error:
        warnings.simplefilter("ignore")
        load_splits(args, with_soft_labels=True)
    assert is_one_sentence(error.value)


@pytest.mark.parametrize("content", [b"", b"garbage", b"PAR1" + bytes(100) + b"PAR1"])
@pytest.mark.parametrize("first", [True, False])
def test_a_file_that_is_no_table(tmp_path, content, first):
    (tmp_path / f"train-{0 if first else 2}.parquet").write_bytes(content)
    pq.write_table(pa.table({"image": IMAGES, "label": ["happy", "sad"] * 2}), tmp_path / "train-1.parquet")
    with pytest.raises(ValueError, match=f"A file of '{tmp_path}' cannot be read .*: replace it") as error:
        load_splits(TrainingDataArguments(dataset_name=str(tmp_path)))
    assert is_one_sentence(error.value)


@pytest.mark.parametrize("name", ["a::b", "$HOME", "[1]", NO_UTF8])
def test_names_that_other_libraries_take_for_more(tmp_path, name):
    """A release under such a name is read, as far as Arrow can keep the name; a table is not, and that is said."""
    folder = tmp_path / name
    folder.mkdir()
    with pytest.raises(ValueError, match="--dataset_name .* in its name.*rename") as error:
        load_splits(TrainingDataArguments(dataset_name=str(folder)))
    assert is_one_sentence(error.value)
    write_pair(folder, TRAIN, 1, annotation())
    if name.isprintable():
        assert [row["image"].size for row in load(folder, split="train")] == [(16, 16)]
        return
    for use in (load, lambda root: check(root, 1)):
        with pytest.raises(ReleaseError, match="data_dir .* has bytes in its name that are no UTF-8: rename") as error:
            use(folder)


@pytest.mark.parametrize(
    "words",
    [
        ["synthesize", NO_UTF8],
        ["check", "few", "--json", f"{NO_UTF8}.json"],
        ["export", "few", NO_UTF8],
        ["predict", "faces", "--output", f"{NO_UTF8}.csv"],
        ["predict", "faces", "--output", "rows.csv", "--annotate", NO_UTF8],
        ["predict", "faces", "--output", "rows.csv", "--plot", f"{NO_UTF8}.html"],
        ["predict", "strange", "--output", "rows.csv"],
        ["export-onnx", str(BUNDLED_MODEL), f"{NO_UTF8}.onnx"],
        ["app", "--export", NO_UTF8],
        ["export", "../few", "here"],
    ],
    ids=" ".join,
)
def test_names_that_are_no_utf8_are_refused_by_commands_before_any_work(words, few, monkeypatch, capsys):
    folder = few.parent
    for name in ("faces/1.png", f"strange/{NO_UTF8}.png"):
        (folder / name).parent.mkdir()
        (folder / name).write_bytes(png())
    (folder / NO_UTF8).mkdir()
    monkeypatch.chdir(folder / NO_UTF8 if "here" in words else folder)  # there "here" itself is fine
    before = sorted(folder.rglob("*"))
    with pytest.raises(SystemExit) as end:
        main(words)
    said = capsys.readouterr()
    assert end.value.code == 2 and not said.out and sorted(folder.rglob("*")) == before
    assert re.fullmatch(
        r"affectnet-plus: error: \S*\?\?\S* has bytes in its name that are no UTF-8: rename .*\n", said.err
    )


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        (train_ebc, ["--output_dir", NO_UTF8]),
        (evaluate_model, ["--output_dir", NO_UTF8]),
        (label, ["--model", "m", "--output_dir", "out", "--write_release", NO_UTF8]),
        (show_faces, ["--images", f"{NO_UTF8}.png", "--num_faces", "0", "--output_file", "faces.png"]),
        (show_label_errors, ["--soft_labels", "soft", "--output_file", f"{NO_UTF8}.html"]),
    ],
)
def test_names_that_are_no_utf8_are_refused_by_scripts_before_any_work(script, flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["script.py", *flags])
    with pytest.raises(SystemExit) as end:
        script.main()
    assert end.value.code == 2 and not os.listdir(tmp_path)
    flag = next(before for before, word in itertools.pairwise(flags) if NO_UTF8 in word)
    said = capsys.readouterr().err
    assert re.fullmatch(rf"script.py: error: {flag} \?\?\S* has bytes in its name that are no UTF-8: rename .*\n", said)


def test_an_image_whose_name_is_no_utf8(tmp_path):
    (tmp_path / f"{NO_UTF8}.png").write_bytes(png())
    with pytest.raises(ValueError, match=r"--image_dir \S*/\?\?.png has bytes in its name that are no UTF-8: rename"):
        images_in(str(tmp_path), "raise")


def test_variables_in_the_name_of_a_release(tmp_path, monkeypatch):
    write_pair(tmp_path, TRAIN, 1, annotation())
    monkeypatch.setenv("RELEASES", str(tmp_path.parent))
    assert len(load(f"$RELEASES/{tmp_path.name}", split="train")) == 1


def test_a_name_that_is_nowhere():
    with pytest.raises(ValueError, match="No dataset at 'nobody/nothing': .*reach") as error:
        load_splits(TrainingDataArguments(dataset_name="nobody/nothing"))
    assert is_one_sentence(error.value)
