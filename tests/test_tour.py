"""The notebook, run as a reader would run it: minutes, so in `make test-slow`."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_tour_runs_from_top_to_bottom(tmp_path, monkeypatch):
    (tmp_path / "training").symlink_to(ROOT / "training")
    (tmp_path / "docs").mkdir()
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    notebook = nbformat.read(ROOT / "docs/tour.ipynb", as_version=4)
    NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(tmp_path / "docs")}}).execute()
    written = {path.name for path in (tmp_path / "docs/tour").iterdir()}
    assert {"faces", "ebc", "au", "soft", "soft_fer", "report", "label_errors.html", "soft_fer.onnx"} <= written
