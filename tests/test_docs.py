"""Documents say what is so: links, command lines, snippets, files and figures."""

import argparse
import ast
import doctest
import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser
from transformers import HfArgumentParser

import affectnet_plus_cli

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import tables  # noqa: E402

DOCUMENTS = [ROOT / "README.md", ROOT / "benchmarks/README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
CODE = re.compile(r"`([^`\n]+)`")
SCRIPTS = sorted(path.name for path in (ROOT / "training").glob("*.py") if "def main" in path.read_text())
MADE = ("/dev", "http", "demo/", "runs/")  # no files of the repository
FLAGS_OF_OTHERS = {
    "--help",
    "--cpu",
    "--num_processes",
    "--multi_gpu",
    "--mixed_precision",
    "--nproc_per_node",
    "--force-reinstall",
    "--no-deps",
    "--quiet",
    "--minutes",
    "--wheel-dir",
}


STARTS = ("accelerate launch ", "torchrun ", "affectnet-plus ", "make ", "python ")


def text_of(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def commands() -> list[tuple[str, str]]:
    """(document, command line), of fenced blocks, of code in running text and tables, and of scripts' docstrings."""
    found = []
    for document in DOCUMENTS:
        text = text_of(document)
        blocks = [block for language, block in FENCE.findall(text) if not language]
        lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
        lines += CODE.findall(FENCE.sub("", text))
        found += [(document.name, line) for line in lines if line.startswith(STARTS)]
    for script in sorted(
        [*(ROOT / "training").glob("*.py"), *(ROOT / "benchmarks").glob("*.py"), ROOT / "tests/photographs.py"]
    ):
        lines = map(str.strip, (ast.get_docstring(ast.parse(text_of(script))) or "").splitlines())
        found += [(script.name, line) for line in lines if line.startswith(STARTS)]
    return found


def python_snippets() -> list[tuple[Path, str]]:
    return [
        (path, code) for path in DOCUMENTS for language, code in FENCE.findall(text_of(path)) if language == "python"
    ]


class _Parsed(Exception):
    pass


def arguments_of(script: str, monkeypatch) -> tuple:
    """The dataclasses that a script of training/ reads its command line into."""
    module = importlib.import_module(f"affectnet_plus.training.{Path(script).stem}")

    def note(*dataclass_types, description):
        raise _Parsed(dataclass_types)

    monkeypatch.setattr(module, "parse_arguments", note)
    with pytest.raises(_Parsed) as noted:
        module.main()
    return noted.value.args[0]


def parse(words: list[str], monkeypatch) -> None:
    """Raise `ValueError` or `SystemExit` where a command line is refused, before anything runs."""
    program, *rest = words
    if program == "make":
        targets = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[0].split()
        assert set(rest) <= set(targets), f"make has {targets}"
    elif program == "affectnet-plus":
        parse_only(affectnet_plus_cli.main, rest if len(rest) > 1 else [*rest, "--help"], monkeypatch)  # a mere name
    elif program == "accelerate":
        launched = launch_command_parser().parse_args(rest[1:])
        parse(["python", launched.training_script, *launched.training_script_args], monkeypatch)
    elif program == "torchrun":
        assert rest[0] == "--nproc_per_node"
        parse(["python", *rest[2:]], monkeypatch)
    elif rest[0].startswith("training/"):
        types = arguments_of(rest[0], monkeypatch)
        HfArgumentParser(types).parse_args_into_dataclasses(rest[1:])
    elif rest[0].startswith("benchmarks/"):
        module = importlib.import_module(Path(rest[0]).stem)
        if module is tables:
            assert len(rest) == 1
        else:
            parse_only(module.main, rest[1:], monkeypatch)
    else:
        assert (ROOT / rest[0]).is_file()


def parse_only(main, words: list[str], monkeypatch) -> None:
    """A `main` that uses argparse, as far as its arguments."""
    parse_args = argparse.ArgumentParser.parse_args

    def parse_words(parser, *_):
        try:
            raise _Parsed(parse_args(parser, words))
        except SystemExit as error:
            raise _Parsed if not error.code else error from None  # --help

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_words)
    with pytest.raises(_Parsed):
        main()


@pytest.mark.parametrize(("document", "line"), commands())
def test_every_command_line_is_one(document, line, monkeypatch):
    parse(shlex.split(line, comments=True), monkeypatch)


@pytest.mark.parametrize(
    "line",
    [
        "accelerate launch training/train_ebc.py --data_dir R --mirrored --output_dir runs/ebc",
        "accelerate launch training/label.py --data_dir R --ebc runs/ebc --output_dir runs/soft",
        "accelerate launch training/train_au.py --data_dir R",
        "affectnet-plus export R",
        "python benchmarks/soft_labels.py RUNS --tables",
        "make nothing",
    ],
)
def test_a_wrong_command_line_is_found(line, monkeypatch, capsys):
    with pytest.raises((ValueError, SystemExit, AssertionError)):
        parse(shlex.split(line), monkeypatch)


def test_every_flag_that_is_named_exists(monkeypatch):
    known = set(FLAGS_OF_OTHERS)
    for script in SCRIPTS:
        with monkeypatch.context() as patched:
            parser = HfArgumentParser(arguments_of(script, patched))
        known |= {flag for action in parser._actions for flag in action.option_strings}
    for path in [*(ROOT / "benchmarks").glob("*.py"), ROOT / "affectnet_plus_cli/__init__.py"]:
        known |= set(re.findall(r'"(--\w+)"', path.read_text()))
    for document in DOCUMENTS:
        named = {
            flag for code in CODE.findall(FENCE.sub("", text_of(document))) for flag in re.findall(r"--\w[\w-]*", code)
        }
        assert not named - known, f"{document.name}: {named - known}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text_of(document))):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        file = (document.parent / name).resolve() if name else document
        assert file.exists(), target
        if anchor:
            assert anchor in anchors_of(file), target


def anchors_of(document: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text_of(document)), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_are_named_exist(document):
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in ("demo", "runs", "build")}
    for code in CODE.findall(text_of(document)):
        for word in re.findall(r"[\w./*-]+", code):
            if "/" in word and word.split("/")[0] in folders and not word.startswith(MADE):
                assert list(ROOT.glob(word.rstrip("/."))), word
            elif re.fullmatch(r"\w+\.py", word):
                assert list(ROOT.rglob(word)), word


def test_snippets_compile():
    for document, code in python_snippets():
        compile(code, str(document), "exec")


def test_the_first_snippet_prints_what_it_says(tmp_path, monkeypatch):
    """Its comments on lines of their own are what the line before gives."""
    monkeypatch.chdir(tmp_path)
    line = next(line for _, line in commands() if line.startswith("affectnet-plus synthesize faces"))
    synthesize = "from affectnet_plus_cli import main; main()"
    subprocess.run([sys.executable, "-c", synthesize, *shlex.split(line, comments=True)[1:]], check=True)
    code = python_snippets()[0][1]
    session = "".join(
        line[2:] if line.startswith("# ") else f">>> {line}" for line in code.splitlines(keepends=True) if line.strip()
    )
    test = doctest.DocTestParser().get_doctest(session, {}, "README", None, None)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    said = []
    runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)


def test_the_readme_is_short():
    assert len(text_of(ROOT / "README.md").splitlines()) <= 150


def test_figures_are_those_of_the_results():
    for file, text in tables.rendered().items():
        assert text_of(file) == text, f"{file.name} is out of date: python benchmarks/tables.py"


def test_tables_take_what_is_there(tmp_path):
    """No result at all; and several seeds, of which one has not everything."""
    assert "0 of 3 seeds" in tables.rendered(tmp_path)[ROOT / "docs/results.md"]
    for seed, js in ((1, 0.1), (2, 0.2)):
        figures = dict.fromkeys(tables.OF_SOFT_LABELS, 0.5)
        del figures["js_divergence"]
        figures["js_divergence" if seed == 1 else "js"] = js  # its former name
        rows = {"rows": 1000, **{row: figures for row in ("one_hot", "cross_fitted", "posterior", "posterior_fitted")}}
        result = {
            "yardstick": "ferplus_one_vote",
            "seed": seed,
            "train": rows,
            "recipe": dict.fromkeys(("validation", "train"), {"ebc": ["--warm_start_epochs", seed]}),
            "precision": 2.0,
            "precision_fitted": 1.5,
        }
        result |= {"js_by_human_share": {"0.1": 0.2}, "measured": {"date": "2026-01-01", "machine": "a GPU"}}
        if seed == 1:
            result |= {"validation_rows": 99, "validation": {"fused": figures}, "cost": {"draws": 5, "minutes": 1.0}}
        (tmp_path / f"soft_labels-ferplus_one_vote-{seed}.json").write_text(json.dumps(result))
    page = tables.rendered(tmp_path)[ROOT / "docs/results.md"]
    assert "| 0.1500 ± 0.0707 |" in page.replace("**", "") and "Validation rows: 99, seed 1" in page
    assert "2 of 3 seeds" in page and "| 2026-01-01 | a GPU |" in page
    assert "seed 1, 2; EBC by `--warm_start_epochs 1`, `--warm_start_epochs 2`" in page
    assert "whose means say little: soft_labels, ferplus_one_vote, train." in page


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_line_of_a_paragraph_begins_like_a_list(document):
    lines = FENCE.sub("", text_of(document)).splitlines()
    begin = re.compile(r"(\d+\.|[-*+]) ")
    for before, line in zip(lines, lines[1:], strict=False):
        assert not begin.match(line) or not before or begin.match(before) or before.startswith("  "), line
