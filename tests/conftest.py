"""Before anything is imported: no network, and a cache of the tests' own."""

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
from runs import write_grey_faces  # noqa: E402

from affectnet_plus.synthetic import synthesize  # noqa: E402


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
    for part in ("releases", "modeling", "synthetic", "training"):
        shutil.copytree(root / part, folder / "source" / part, ignore=ignored)
    for part in ("affectnet_plus.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / part, folder / "source")
    flags = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *flags, folder / "source"], check=True)
    return next(folder.glob("*.whl"))
