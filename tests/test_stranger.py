"""What people who do not have this package do with an exported folder."""

import os
import subprocess
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from transformers import AutoConfig

from affectnet_plus import EXPRESSIONS
from affectnet_plus.releases.export import export


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """Python of a virtual environment with all libraries of this one, but without this package."""
    folder = tmp_path_factory.mktemp("stranger") / "venv"
    venv.create(folder)
    (site_packages,) = (folder / "lib").glob("python*/site-packages")
    (site_packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    python = folder / "bin/python"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*args, cwd):
        return subprocess.run([python, *map(str, args)], cwd=cwd, env=environment, capture_output=True, text=True)

    missing = run("-c", "import affectnet_plus", cwd=folder)
    assert "No module named 'affectnet_plus'" in missing.stderr, "this environment has the package after all"
    return run


@pytest.mark.slow
def test_a_stock_trainer_trains_on_an_exported_folder(stranger, release, tmp_path):
    export(release, tmp_path / "faces", num_proc=1)
    done = stranger(Path(__file__).with_name("train_on_export.py"), "faces", "model", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 0 <= float(done.stdout.split("accuracy")[-1].split()[0]) <= 1
    assert tuple(AutoConfig.from_pretrained(tmp_path / "model").id2label.values()) == EXPRESSIONS
    assert (tmp_path / "model/model.safetensors").stat().st_size > 1e6


def test_an_installation_takes_no_other_name(stranger, wheel, tmp_path):
    """Somebody's own `modeling.py` and `training/` stay theirs, also beside ours."""
    with zipfile.ZipFile(wheel) as files:
        files.extractall(tmp_path / "site")
    names = {path.name for path in (tmp_path / "site").iterdir() if path.suffix != ".dist-info"}
    assert names == {"affectnet_plus.py", "affectnet_plus", "affectnet_plus_cli"}
    own = tmp_path / "own"
    (own / "training").mkdir(parents=True)
    (own / "modeling.py").write_text("name = 'my own'")
    (own / "training/__init__.py").write_text("name = 'my own'")
    (own / "run.py").write_text(
        f"import sys; sys.path.append({str(tmp_path / 'site')!r})\n"
        "import affectnet_plus\n"
        "assert not {'torch', 'transformers'} & set(sys.modules), 'slow to import'\n"
        "import modeling, training; assert modeling.name == training.name == 'my own'\n"
        "from transformers import pipeline\n"
        "from datasets import get_dataset_config_names\n"
        "import numpy as np\n"
        "print(pipeline('soft-fer')(np.zeros((48, 48), 'uint8')), get_dataset_config_names('affectnet_plus'))\n"
    )
    done = stranger("run.py", cwd=own)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "human_annotated" in done.stdout
