"""What `affectnet-plus check` tells of releases that are whole, and of copies with one thing wrong in each."""

import csv
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
from damages import DAMAGES, META, ROWS, TRAIN, UNANNOTATED, VALIDATION, annotation, another_subset, edited, numbered

from affectnet_plus import EXPRESSIONS, ReleaseError
from affectnet_plus.releases.check import check
from affectnet_plus.releases.findings import KINDS
from affectnet_plus.synthetic import synthesize
from affectnet_plus_cli import main

REPOSITORY = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    root = tmp_path_factory.mktemp("layouts")
    options = {**ROWS, "seed": 8, "num_proc": 1, "image_size": 64}
    synthesize(root / "plus", **options, unannotated=9)
    synthesize(root / "2021", **options, layout="2021")
    synthesize(root / "2017", **options, unannotated=9, layout="2017")
    return root


@pytest.fixture
def copied(layouts, tmp_path):
    def copy(layout):
        return pathlib.Path(shutil.copytree(layouts / layout, tmp_path / layout))

    return copy


@pytest.fixture
def release(copied):
    return copied("plus")


def problems(root, tmp_path, **options):
    check(root, num_proc=1, json_file=tmp_path / "found.json", **options)
    return json.loads((tmp_path / "found.json").read_text())["problems"]


@pytest.mark.parametrize("layout", ["plus", "2021", "2017"])
def test_a_whole_release_is_whole(layouts, layout):
    findings = check(layouts / layout, num_proc=1)
    assert findings.whole and findings.page().splitlines()[-1].startswith("Whole: ")
    labels = {"train": [], "validation": []}
    for split, folder in zip(labels, (TRAIN, VALIDATION), strict=True):
        for path in (layouts / "plus" / folder / "annotations").iterdir():
            labels[split].append(json.loads(path.read_text())["human-label"])
        rows = findings.rows[split]
        assert [rows[name] for name in EXPRESSIONS] == np.bincount(labels[split], minlength=11)[:8].tolist()
        with_expression = sum(label < 8 for label in labels[split])
        assert sum(rows.values()) == (ROWS[split] if layout == "plus" else with_expression)
        assert sum(findings.subsets[split].values()) == (with_expression if layout == "plus" else 0)
    if layout == "plus":
        assert list(findings.rows) == ["train", "validation", "no_human_annotated"]
        assert findings.rows["no_human_annotated"] == {**dict.fromkeys(rows, 0), "no label": 9}
        assert findings.page().endswith("Whole: 90 rows in 3 splits, nothing wrong.")
    if layout == "2017":
        left_out = sum(label >= 8 for label in labels["train"])
        assert f"not looked at: {left_out} of train" in " ".join(findings.remarks)
        assert sum(findings.rows["automatically_annotated"].values()) == 9


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_wrong_is_named_and_nothing_else(release, tmp_path, damage):
    happen, kind, said = DAMAGES[damage]
    path = happen(release)
    (problem,) = problems(release, tmp_path)
    assert problem["kind"] == kind in KINDS
    assert problem["path"] == str(release / path)
    assert re.search(said, problem["problem"])
    folder = {TRAIN: "train", VALIDATION: "validation", UNANNOTATED: UNANNOTATED}[
        str(pathlib.PurePath(path).parents[1])
    ]
    assert problem["split"] == folder


def test_flat_and_progressive_images_are_whole(release):
    for n, (place, options) in enumerate(
        ((TRAIN, {}), (TRAIN, {"optimize": True}), (VALIDATION, {"progressive": True}))
    ):
        path = release / place / f"images/{numbered(release, place, n)}.jpg"
        image = PIL.Image.new("RGB", (64, 64), (128, 128, 128 + n))  # the colour that a decoder makes up
        image.paste(PIL.Image.linear_gradient("L").resize((64, 20)))
        image.save(path, **options)
    assert check(release, num_proc=1).whole


def test_several_problems_are_counted_each_by_its_kind_and_row(release, capsys):
    for damage in ("annotation lost", "image lost", "page for an image", "image cut", "valence 3"):
        DAMAGES[damage][0](release)
    edited(META, "age", to=130)(release)  # of the row whose valence is 3
    findings = check(release, num_proc=1)
    assert findings.counts == {
        "image without annotation": 1,
        "annotation without image": 1,
        "unreadable image": 1,
        "truncated image": 1,
        "value out of range": 2,
    }
    assert (findings.num_rows, findings.num_bad_rows, findings.broken) == (90, 5, 4)
    assert sum(sum(rows.values()) for rows in findings.rows.values()) == 86
    assert findings.verdict() == (
        "Not whole: 6 problems in 5 of 90 rows. Missing, unreadable or truncated files (4): download their parts "
        "again. Values out of range (2): in the data, so downloading again does not change them. Loading stops at 4 "
        'broken rows; on_error="skip" leaves them out.'
    )


def test_the_verdict_knows_what_a_download_does_not_cure(release):
    another_subset(release)
    assert check(release, num_proc=1).verdict() == (
        "Not whole: 1 problem in 1 of 90 rows. Rank-rule violations (1): in the data, so downloading again does not "
        "change them. Every row can be loaded."
    )


def test_equal_scores_may_be_of_either_rank(release):
    n = numbered(release, TRAIN)
    content = annotation(release, TRAIN, n)
    label = content["human-label"]
    content["soft-label"] = [0.5 if e in (label, (label + 1) % 8) else 0.1 for e in range(8)]
    for subset, whole in ((0, True), (1, True), (2, False)):
        content["subset"] = subset
        (release / TRAIN / f"annotations/{n}.json").write_text(json.dumps(content))
        findings = check(release, num_proc=1)
        assert findings.whole == whole
    flat = " ".join(findings.page().split())
    assert 'is difficult by "subset"' in flat and "has rank 1 to 2 in" in flat and "is easy or challenging" in flat


def test_overshooting_landmarks_and_sums_near_one_are_released_like_that(release):
    edited(META, "landmark-68", to=lambda points: [79, -15, *points[2:]])(release)
    edited(META, "race", to=lambda scores: dict(zip(scores, (0.5, 0.5, 0.1, 0, 0, 0), strict=True)))(release)
    assert check(release, num_proc=1).whole


def test_remarks_are_no_problems(release):
    images = release / TRAIN / "images"
    first, second, third = (images / f"{numbered(release, TRAIN, place)}.jpg" for place in range(3))
    shutil.copy(first, second)
    PIL.Image.open(third).resize((80, 64)).save(third)
    shutil.rmtree(release / UNANNOTATED)
    findings = check(release, num_proc=1)
    assert findings.whole
    said = "\n".join(findings.remarks)
    assert "Not here: no_human_annotated." in said
    assert "these sizes are found: 64 x 64 (80), 80 x 64 (1)" in said
    assert "1 image of train came before in that split" in said
    assert "train 48 of 414,799, 3" in said and "validation 33 of 5,500, 24 of 3,999 with an expression" in said


def test_every_copy_of_an_image_in_a_later_split_is_a_duplicate(release, tmp_path):
    source = release / TRAIN / f"images/{numbered(release, TRAIN)}.jpg"
    copies = [release / VALIDATION / f"images/{numbered(release, VALIDATION, place)}.jpg" for place in (0, 3)]
    copies.append(release / UNANNOTATED / f"images/{numbered(release, UNANNOTATED)}.jpg")
    for path in copies:
        shutil.copy(source, path)
    found = problems(release, tmp_path)
    assert {(p["kind"], p["path"], p["problem"]) for p in found} == {
        ("duplicate", str(path), f"is the same image as {source}") for path in copies
    }
    assert len(found) == 3


def test_2021_values_and_lost_files_are_named(copied, tmp_path):
    root = copied("2021")
    ids = sorted(int(path.stem) for path in (root / "train_set/images").iterdir())
    folder = root / "train_set/annotations"
    np.save(folder / f"{ids[0]}_val.npy", np.array("1.5"))
    np.save(folder / f"{ids[1]}_lnd.npy", np.full(136, -17.0))
    (folder / f"{ids[2]}_aro.npy").unlink()
    shutil.copy(root / f"train_set/images/{ids[4]}.jpg", next((root / "val_set/images").iterdir()))
    found = {pathlib.Path(p["path"]).name: (p["kind"], p["problem"]) for p in problems(root, tmp_path)}
    kind, what = found.pop(f"{ids[0]}_val.npy")
    assert kind == "value out of range" and "1.5" in what
    kind, what = found.pop(f"{ids[1]}_lnd.npy")
    assert kind == "value out of range" and "has 68 of the 68 points" in what
    assert found.pop(f"{ids[2]}_aro.npy") == ("image without annotation", "is missing")
    assert [kind for kind, _ in found.values()] == ["duplicate"]


def test_2017_rows_and_photographs_are_named(copied, tmp_path):
    root = copied("2017")
    with (root / "training.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    rows = [n for n, line in enumerate(lines) if int(line[header.index("expression")]) < 8]
    lines[rows[0]][header.index("valence")] = "1.25"
    with (root / "training.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *lines])
    photographs = [root / "Manually_Annotated_Images" / lines[n][0] for n in rows]
    photographs[1].unlink()
    photographs[2].write_bytes(photographs[2].read_bytes()[:-100])
    # The same photograph under another name, with the same box and landmarks.
    with (root / "validation.csv").open("a", newline="") as file:
        csv.writer(file, lineterminator="\n").writerow(lines[rows[3]])
    found = {p["kind"]: (p["path"], p["problem"]) for p in problems(root, tmp_path)}
    assert found.pop("value out of range") == (
        f"{root}/training.csv, row {rows[0]}", 'has 1.25 in "valence", outside [-1, 1]'
    )  # fmt: skip
    assert found.pop("annotation without image")[0] == f"{root}/training.csv, row {rows[1]}"
    assert found.pop("truncated image")[0] == str(photographs[2])
    assert found == {
        "duplicate": (f"{root}/validation.csv, row 33", f"is the same image as {root}/training.csv, row {rows[3]}")
    }


@pytest.mark.parametrize("kept_in", ["folders", "fer2013.csv"])
def test_ferplus_is_read_with_the_faces_that_loading_leaves_out(tmp_path, kept_in):
    names = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF"]
    rows = [  # usage, image name, who leads
        ("Training", "fer0000000.png", "happiness"),
        ("Training", "", "NF"),  # withdrawn, and not counted in names
        ("Training", "fer0000001.png", "unknown"),
        ("PublicTest", "fer0000002.png", "anger"),
        ("PrivateTest", "fer0000003.png", "fear"),
    ]
    faces = np.random.default_rng(0).integers(0, 256, (5, 48, 48), dtype=np.uint8)
    faces[4] = faces[2]
    with (tmp_path / "fer2013new.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["Usage", "Image name", *names]]
            + [[usage, name, *(10 * (leader == category) for category in names)] for usage, name, leader in rows]
        )
    if kept_in == "folders":
        folders = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}
        for (usage, name, _), face in zip(rows, faces, strict=True):
            (tmp_path / folders[usage]).mkdir(exist_ok=True)
            if name:
                PIL.Image.fromarray(face).save(tmp_path / folders[usage] / name)
    else:
        lines = [f"0,{' '.join(map(str, f.ravel()))},{usage}\n" for (usage, _, _), f in zip(rows, faces, strict=True)]
        (tmp_path / "fer2013.csv").write_text("emotion,pixels,Usage\n" + "".join(lines))
    findings = check(tmp_path, num_proc=1)
    assert findings.whole and "1 image came before in another split; FER2013 itself has such." in findings.remarks
    assert findings.rows["train"] == {**dict.fromkeys(findings.rows["train"], 0), "happy": 1, "no label": 1}
    assert "withdrawn by FER+ itself, which loading leaves out, were not looked at: 1 of train" in str(findings.remarks)


def table(page, title):
    """{split: {name: n}} of a table of the page, zeros left out."""
    lines = page[re.search(rf"^{title} ", page, re.M).start() :].split("\n\n")[0].splitlines()
    splits = lines[0].split()[1:]
    cells = [re.fullmatch(r"(\S+(?: \S+)?) {2,}(.+)", line).groups() for line in lines[1:]]
    return {
        split: {name: int(n[k].replace(",", "")) for name, numbers in cells if (n := numbers.split())[k] != "-"}
        for k, split in enumerate(splits)
    }


def test_page_and_json_say_the_same_in_any_number_of_processes(release, tmp_path, capsys):
    for damage in ("annotation lost", "image lost", "label 11", "image cut", "training image unannotated"):
        DAMAGES[damage][0](release)
    for n in [numbered(release, VALIDATION, place) for place in range(3, 10)]:
        (release / VALIDATION / f"annotations/{n}.json").write_text("{}")
    pages, files = [], []
    for num_proc in ("1", "2"):
        with pytest.raises(SystemExit) as stopped:
            main(["check", str(release), "--num_proc", num_proc, "--json", str(tmp_path / f"{num_proc}.json")])
        assert stopped.value.code == 1
        pages.append(capsys.readouterr().out)
        files.append((tmp_path / f"{num_proc}.json").read_text())
    assert pages[0] == pages[1] and files[0] == files[1]
    page, found = pages[0], json.loads(files[0])
    assert found["whole"] is False and (found["release"], found["layout"]) == (str(release), "plus")
    assert page.splitlines()[0] == f"AffectNet+ in {release}"
    for title, key in (("rows", "rows"), ("subsets", "subsets")):
        shown = table(page, title)
        assert {split: {name: n for name, n in names.items() if name != "total"} for split, names in shown.items()} == {
            split: {name: n for name, n in names.items() if n} for split, names in found[key].items()
        }
    assert table(page, "rows")["train"]["total"] == sum(found["rows"]["train"].values())
    flat = " ".join(page.split())
    kinds = [problem["kind"] for problem in found["problems"]]
    for kind in set(kinds):
        assert f"{kind}: {kinds.count(kind)}" in flat
        of_kind = [problem for problem in found["problems"] if problem["kind"] == kind]
        for problem in of_kind[:5]:
            assert f"{problem['path']} {problem['problem']}".replace(f"{release}/", "") in flat
        for problem in of_kind[5:]:
            assert problem["path"].replace(f"{release}/", "") not in flat
    assert kinds.count("unreadable annotation") == 7 and "and 2 more (--json FILE lists them all)" in page
    assert all(remark in flat for remark in found["remarks"])
    assert f"Not whole: {len(kinds)} problems in {found['num_bad_rows']} of {found['num_rows']} rows." in flat
    assert max(len(line) for line in page.splitlines()[1:] if " " in line.strip()) <= 100


def test_exit_status_of_a_real_process(release, tmp_path):
    def run(*arguments):
        return subprocess.run(
            [
                sys.executable,
                "-c",
                "from affectnet_plus_cli import main; main()",
                "check",
                *arguments,
            ],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
        )

    DAMAGES["image cut"][0](release)
    done = run(release.name, "--num_proc", "2")
    assert done.returncode == 1, done.stderr
    assert "truncated image: 1" in done.stdout and "Not whole: 1 problem" in done.stdout
    assert "Checking" in done.stderr and "Checking" not in done.stdout


def test_exit_status_of_the_command(layouts, tmp_path, capsys):
    def status(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main(["check", *map(str, arguments), "--num_proc", "1"])
        return stopped.value.code, capsys.readouterr()

    code, shown = status(layouts / "2021")
    assert code == 0 and shown.out.endswith("nothing wrong.\n")
    (tmp_path / TRAIN / "images").mkdir(parents=True)
    code, shown = status(tmp_path)
    assert code == 2 and not shown.out and shown.err.count("\n") == 1
    assert "has no folder annotations/" in shown.err
    code, shown = status(layouts / "plus", "--json", tmp_path / "nowhere" / "found.json")
    assert code == 2 and "nowhere" in shown.err
    code, shown = status(layouts / "plus", "--json", tmp_path)
    assert code == 2 and "is a folder" in shown.err


def test_an_interrupted_check_leaves_an_earlier_file_as_it_was(layouts, tmp_path, monkeypatch):
    (tmp_path / "found.json").write_text("earlier")
    monkeypatch.setattr(
        "affectnet_plus.releases.check.check_rows", lambda job: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        check(layouts / "plus", num_proc=1, json_file=tmp_path / "found.json")
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]
    assert (tmp_path / "found.json").read_text() == "earlier"


def test_absurd_arguments_are_refused(layouts):
    with pytest.raises(ValueError, match="num_proc must be at least 1, got 0"):
        check(layouts / "plus", num_proc=0)
    with pytest.raises(ReleaseError, match="does not exist"):
        check(layouts / "nowhere")
