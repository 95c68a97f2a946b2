"""Configurations that people hand to `accelerate launch`."""

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

FILES = sorted((Path(__file__).parents[1] / "training/configs").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_accelerate_reads_it(file):
    config = load_config_from_file(str(file))
    processes = {"one_gpu": 1, "eight_gpus": 8, "several_nodes": 32}[file.stem]
    assert (config.num_processes, config.mixed_precision) == (processes, "bf16")
    assert config.num_machines == (4 if file.stem == "several_nodes" else 1)
    assert f"--config_file training/configs/{file.name} " in file.read_text()
