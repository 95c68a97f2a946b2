"""Before anything is imported: no network, and a cache of the tests' own."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_cache = tempfile.TemporaryDirectory(prefix="affectnet_plus_tests_")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_CACHE"] = _cache.name
os.environ.pop("AFFECTNET_PLUS_DIR", None)


import pytest  # noqa: E402
from hub import hub  # noqa: E402, F401
from playwright.sync_api import sync_playwright  # noqa: E402
from runs import SOFT_FER, train, write_grey_faces  # noqa: E402

from affectnet_plus.releases.export import export  # noqa: E402
from affectnet_plus.synthetic import synthesize  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CAMERA = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]  # a test picture


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CAMERA)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def release(tmp_path_factory):
    """A small synthetic AffectNet+."""
    root = tmp_path_factory.mktemp("release") / "AffectNet+"
    synthesize(root, train=360, validation=160, seed=1, num_proc=1, image_size=64)
    return root


@pytest.fixture(scope="session")
def ferplus(tmp_path_factory):
    """A Parquet folder in the order and with the names of FER+: eight grey levels that tell the class."""
    folder = tmp_path_factory.mktemp("data") / "ferplus"
    write_grey_faces(folder)
    return folder


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """What `pip install` of this checkout would unpack."""
    folder, root = tmp_path_factory.mktemp("wheel"), Path(__file__).parents[1]
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for part in ("affectnet_plus_cli", "inference", "releases", "modeling", "synthetic", "training"):
        shutil.copytree(root / part, folder / "source" / part, ignore=ignored)
    for part in ("affectnet_plus.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / part, folder / "source")
    flags = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *flags, folder / "source"], check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def softmax_runs(ferplus, tmp_path_factory):
    """A classifier taught the human label, whole and in two folds."""
    folder = tmp_path_factory.mktemp("soft_fer")
    args = [*SOFT_FER, "--dataset_name", ferplus, "--target", "hard", "--backbone", "test_vit", "--max_train_steps", 6]
    for more in (["--output_dir", "hard"], ["--output_dir", "folds", "--num_folds", 2]):
        train(*args, *more, script="train_soft_fer.py", cwd=folder)
    return folder


@pytest.fixture(scope="session")
def varied_release(tmp_path_factory):
    """Every label, a face of unknown age, and no difficult validation faces."""
    root = tmp_path_factory.mktemp("release") / "AffectNet+"
    synthesize(root, train=130, validation=50, unannotated=15, seed=3, num_proc=1, image_size=32)
    for path in (root / "human_annotated/validation_set/annotations").iterdir():
        if json.loads(path.read_text())["subset"] == 2:
            (path.parents[1] / f"images/{path.stem}.jpg").unlink()
            path.unlink()
    path = next((root / "human_annotated/train_set/annotations").iterdir())
    content = json.loads(path.read_text())
    content["meta-data"]["age"] = None
    path.write_text(json.dumps(content))
    return root


@pytest.fixture(scope="session")
def exported(varied_release, tmp_path_factory):
    """A folder called `affectnet_plus`, whose train split has more files than one."""
    out = tmp_path_factory.mktemp("work") / "affectnet_plus"
    export(varied_release, out, num_proc=1, rows_per_file=30)
    return out


@pytest.fixture(scope="session")
def _few(tmp_path_factory):
    root = tmp_path_factory.mktemp("few")
    synthesize(root, train=24, validation=11, num_proc=1, image_size=32)
    return root


@pytest.fixture
def few(_few, tmp_path):
    """A release so small that it can be exported often, and the test's own."""
    return shutil.copytree(_few, tmp_path / "few")
