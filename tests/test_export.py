"""What somebody who exports a release, or who is given an export, would notice."""

import json
import os
import pathlib
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time

import datasets
import pandas
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard

import affectnet_plus
from affectnet_plus import features
from affectnet_plus.releases import export as export_module
from affectnet_plus.releases.export import export
from affectnet_plus.releases.find import is_export
from affectnet_plus.synthetic import synthesize
from affectnet_plus_cli import main

REPOSITORY = pathlib.Path(affectnet_plus.__file__).parent
CONFIGURATIONS = {
    "human_annotated": ["train", "validation"],
    "easy": ["train", "validation"],
    "challenging": ["train", "validation"],
    "difficult": ["train"],
    "human_annotated_all": ["train", "validation"],
    "no_human_annotated": ["train"],
}


@pytest.fixture(scope="module")
def release(varied_release):
    return varied_release


def original(root, name, split):
    """The rows that `datasets` gives of the release itself, with the content of the images."""
    rows = []
    dataset = load_dataset("affectnet_plus", name, data_dir=str(root), split=split)
    for row in dataset.cast_column("image", datasets.Image(decode=False)):
        path, content = row["image"]["path"], row["image"]["bytes"]
        row["image"] = {
            "bytes": pathlib.Path(path).read_bytes() if content is None else content,
            "path": os.path.basename(path),
        }
        rows.append(row)
    if name == "human_annotated_all":
        rows.sort(key=lambda row: row["label"] >= 8)
    return rows


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(*args, **environment):
    """`affectnet-plus`, in a process of its own."""
    code = "import sys; from affectnet_plus_cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, *map(str, args)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **environment}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


STRANGER = """
import pickle, sys
sys.modules["affectnet_plus"] = None  # as if it were not installed
import datasets
found = {}
for name in datasets.get_dataset_config_names("affectnet_plus"):
    for streaming in (False, True):
        for split, dataset in datasets.load_dataset("affectnet_plus", name, streaming=streaming).items():
            assert next(iter(dataset))["image"].size == (32, 32)
            rows = list(dataset.cast_column("image", datasets.Image(decode=False)))
            found[name, split, streaming] = rows, dataset.features
found["default"] = list(datasets.load_dataset(sys.argv[1])["validation"].remove_columns("image"))
with open(sys.argv[2], "wb") as file:
    pickle.dump(found, file)
"""


@pytest.fixture(scope="module")
def read_by_a_stranger(exported):
    """Everything that plain `datasets` reads by the bare name, {(configuration, split, streaming): rows, features}."""
    dump = exported.parent / "found.pickle"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", STRANGER, str(exported), str(dump)]
    subprocess.run(command, cwd=exported.parent, env=environment, check=True)
    return pickle.loads(dump.read_bytes())


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_plain_datasets_reads_the_same_rows(name, streaming, release, read_by_a_stranger):
    found = {key[1]: value for key, value in read_by_a_stranger.items() if key[0] == name and key[2] == streaming}
    assert list(found) == CONFIGURATIONS[name]
    for split, (rows, own_features) in found.items():
        assert rows and rows == original(release, name, split)
        categories = affectnet_plus.CATEGORIES if name == "human_annotated_all" else affectnet_plus.EXPRESSIONS
        assert own_features == features(categories)


def test_the_default_is_that_of_the_builder(release, read_by_a_stranger):
    default = load_dataset("affectnet_plus", data_dir=str(release), split="validation")
    assert read_by_a_stranger["default"] == list(default.remove_columns("image"))


def test_every_row_is_in_a_file_once(release, exported):
    files = sorted(str(path.relative_to(exported)) for path in exported.rglob("*.parquet"))
    assert {name.split("-")[0] for name in files} == {
        "human_annotated/train",
        "human_annotated/validation",
        "without_expression/train",
        "without_expression/validation",
        "no_human_annotated/train",
    }
    assert "human_annotated/train-00002-of-00003.parquet" in files
    rows = {name: pq.read_metadata(exported / name).num_rows for name in files}
    everything = sum(
        len(list((release / folder).rglob("*.jpg"))) for folder in ("human_annotated", "no_human_annotated")
    )
    assert max(rows.values()) == 30 and sum(rows.values()) == everything


def test_pandas_reads_a_file(exported):
    table = pandas.read_parquet(exported / "human_annotated/validation-00000-of-00002.parquet")
    assert table["image"][0]["bytes"].startswith(b"\xff\xd8") and table["soft_label"][0].shape == (8,)
    assert table["age"].dtype.kind in "if" and len(table["landmarks_68"][0]) == 68


def test_the_bare_name_in_that_folder_with_this_package(release, exported, monkeypatch):
    monkeypatch.chdir(exported.parent)
    first = next(iter(load_dataset("affectnet_plus", "easy", split="train", streaming=True)))
    assert not hasattr(first["image"], "filename") or not first["image"].filename
    assert datasets.get_dataset_config_names("affectnet_plus") == list(CONFIGURATIONS)
    assert len(load_dataset("affectnet_plus")["validation"]) == len(original(release, None, "validation"))
    # A release that is named is what is meant.
    named = load_dataset("affectnet_plus", "easy", data_dir=str(release), split="train")
    assert named[0]["image"].filename.startswith(str(release))
    monkeypatch.setenv(affectnet_plus.DATA_DIR_VARIABLE, str(release))
    named = load_dataset("affectnet_plus", "easy", split="train", streaming=True)
    assert next(iter(named))["image"].filename.startswith(str(release))


def test_another_export_of_the_same_name_is_not_taken_from_the_cache(few, tmp_path):
    export(few, tmp_path / "first/export", num_proc=1)
    path = next((few / "human_annotated/train_set/annotations").iterdir())
    content = json.loads(path.read_text())
    content["meta-data"]["age"] = 99
    path.write_text(json.dumps(content))
    export(few, tmp_path / "second/export", num_proc=1)
    ages = [
        load_dataset(str(tmp_path / folder / "export"), "human_annotated_all", split="train")["age"][:]
        for folder in ("first", "second")
    ]
    assert 99 not in ages[0] and 99 in ages[1]


@pytest.mark.parametrize("layout", ["2021", "2017"])
def test_older_releases(layout, tmp_path):
    root, out = tmp_path / "release", tmp_path / "out"
    synthesize(root, train=24, validation=11, layout=layout, num_proc=1, image_size=32)
    export(root, out, num_proc=1)
    name = f"affectnet_{layout}"
    loaded = load_dataset(str(out))
    for split, dataset in loaded.items():
        assert list(dataset.cast_column("image", datasets.Image(decode=False))) == original(root, name, split)
    card = DatasetCard.load(out / "README.md")
    assert [config["config_name"] for config in card.data["configs"]] == [name]
    assert "This release has none" in card.text and "human_annotated" not in card.text


def test_ferplus(tmp_path):
    lines = ["Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"]
    pixels = ["emotion,pixels,Usage"]
    for n, usage in enumerate(("Training", "Training", "PublicTest")):
        lines.append(f"{usage},fer{n:07}.png,1,{7 + n},0,0,0,0,0,0,1,0")
        pixels.append(f"3,{' '.join(str((n + k) % 256) for k in range(2304))},{usage}")
    (tmp_path / "release").mkdir()
    (tmp_path / "release/fer2013new.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "release/fer2013.csv").write_text("\n".join(pixels) + "\n")
    export(tmp_path / "release", tmp_path / "out", num_proc=1)
    for split, dataset in load_dataset(str(tmp_path / "out")).items():
        rows = list(dataset.cast_column("image", datasets.Image(decode=False)))
        assert rows == original(tmp_path / "release", "ferplus", split)
    card = DatasetCard.load(tmp_path / "out/README.md")
    assert "they sum to one" in card.text and "`votes`" in card.text and "FER2013" in card.text
    assert "extra_gated_prompt" not in card.data


def test_broken_rows_stop_it_or_are_counted(few, tmp_path, capsys):
    path = next((few / "human_annotated/train_set/annotations").iterdir())
    path.write_text("{")
    with pytest.raises(ValueError, match=f"{path.name} does not parse"):
        export(few, tmp_path / "out", num_proc=1)
    with pytest.warns(UserWarning, match="1 broken row"):
        export(few, tmp_path / "out", on_error="skip", num_proc=1)
    assert "1 broken rows left out" in capsys.readouterr().out
    assert "1 broken row(s) were left out" in (tmp_path / "out/README.md").read_text()


def test_an_image_that_broke_after_it_was_cached(few, tmp_path):
    load_dataset("affectnet_plus", "human_annotated_all", data_dir=str(few))
    path = next((few / "human_annotated/train_set/images").iterdir())
    with open(path, "r+b") as image:
        image.truncate(500)
    with pytest.raises(ValueError, match=f"{path.name} is a truncated image.*put it back"):
        export(few, tmp_path / "out", num_proc=1)


def children(process):
    path = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


def is_running(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
def test_killed_and_run_again_it_writes_the_same_bytes(release, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    export(release, whole, num_proc=1, rows_per_file=2)
    process = run("export", release, out, "--num_proc", 2, "--rows_per_file", 2)
    while len(written := list(out.glob(".unfinished/*/*.parquet"))) < 5:
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    workers = children(process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = {path.name: path.stat().st_mtime_ns for path in written if path.parent.name == "human_annotated"}
    assert len(workers) == 2
    for _ in range(500):
        if not any(map(is_running, workers)):
            break
        time.sleep(0.01)
    assert not any(map(is_running, workers))
    assert os.listdir(out) == [".unfinished"] and not is_export(out)
    with pytest.raises(FileNotFoundError):
        load_dataset(str(out))

    export(release, out, num_proc=2, rows_per_file=2)
    assert contents(out) == contents(whole)
    assert {name: (out / "human_annotated" / name).stat().st_mtime_ns for name in kept} == kept


def test_stopped_at_any_step_it_goes_on(few, tmp_path, monkeypatch):
    export(few, tmp_path / "whole", num_proc=1)
    for step in range(100):
        out, steps = tmp_path / f"out{step}", iter(range(100))

        def stopping(function, steps=steps, last=step):
            def stopped(*args):
                if next(steps) == last:
                    raise KeyboardInterrupt
                return function(*args)

            return stopped

        try:
            with monkeypatch.context() as patched:
                for name in ("replace", "remove", "rmdir"):
                    patched.setattr(export_module.os, name, stopping(getattr(os, name)))
                export(few, out, num_proc=1)
        except KeyboardInterrupt:
            if not export_module._is_whole(str(out)):
                export(few, out, num_proc=1)
        else:
            break
        assert contents(out) == contents(tmp_path / "whole")
    assert step > 8


@pytest.mark.parametrize(
    "found, message",
    [
        ("file", "is a file: name a new folder"),
        ("something else", "already holds 'notes.txt': name a new or empty folder"),
        ("whole export", "already holds a whole export: name a new folder"),
        ("other rows_per_file", "unfinished export of another state .rows_per_file 7, not 10000."),
        ("changed release", "unfinished export of another state .state of its files '.*', not '.*'."),
    ],
)
def test_nothing_is_overwritten(found, message, few, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    if found == "file":
        out.write_text("mine")
    elif found == "something else":
        out.mkdir()
        (out / "notes.txt").write_text("mine")
    elif found == "whole export":
        export(few, out, num_proc=1)
    else:
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(export_module, "dataset_card", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
            export(few, out, num_proc=1, rows_per_file=7 if found == "other rows_per_file" else 10_000)
        if found == "changed release":
            path = next((few / "human_annotated/train_set/annotations").iterdir())
            path.write_text(path.read_text() + " ")
    before = contents(tmp_path / "out")
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(few), str(out), "--num_proc", "1"])
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err)
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("option", ["num_proc", "rows_per_file"])
def test_absurd_numbers(option, tmp_path):
    with pytest.raises(ValueError, match=f"{option} must be at least 1, got 0"):
        export(tmp_path, tmp_path / "out", **{option: 0})


def test_a_public_repository_is_refused_before_anything_is_done(few, tmp_path, hub):
    process = run("export", few, tmp_path / "out", "--push", "me/public", **hub.environment)
    _, error = process.communicate()
    assert process.returncode == 2
    assert "me/public is public, and these images must not be: make it private" in error
    assert not hub.posted and not (tmp_path / "out").exists()


def test_a_new_repository_is_private_and_gets_every_file(exported, tmp_path, hub):
    shutil.copytree(exported, tmp_path / "out")
    hub.full = True
    process = run("export", "ignored", tmp_path / "out", "--push", "new", **hub.environment)
    _, error = process.communicate()
    assert process.returncode == 2 and "storage limit" in error and "goes on where this stopped" in error
    hub.full = False
    hub.posted.clear()
    process = run("export", "ignored", tmp_path / "out", "--push", "new", **hub.environment)
    said, error = process.communicate()
    assert process.returncode == 0, error
    assert "whole export, which is pushed as it is" in said
    assert "is private. The images keep their own licence (http://mohammadmahoor.com" in said
    assert hub.private["me/new"] and hub.posted[0][0] == "/api/repos/create"
    (commit,) = [body for path, body in hub.posted if "/commit/" in path]
    pushed = [json.loads(line)["value"].get("path") for line in commit.splitlines()][1:]
    assert sorted(pushed) == sorted(map(str, contents(exported)))


def test_without_a_token_or_a_network_it_says_so_before_it_starts(few, tmp_path):
    with pytest.raises(ValueError, match="Cannot push to me/new"):
        export(few, tmp_path / "out", push="me/new")
    assert not (tmp_path / "out").exists()
