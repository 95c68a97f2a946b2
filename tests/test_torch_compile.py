"""`--torch_compile`: a minute, so only in `make test-slow`."""

import pytest
from runs import SOFT_FER, train
from transformers import pipeline


@pytest.mark.slow
def test_a_compiled_network_is_saved_as_any_other(ferplus, tmp_path):
    args = [*SOFT_FER, "--dataset_name", ferplus, "--target", "hard", "--backbone", "test_vit", "--max_train_steps", 4]
    for more in (["--output_dir", "plain"], ["--output_dir", "compiled", "--torch_compile", "--ema_decay", 0.9]):
        train(*args, *more, script="train_soft_fer.py", cwd=tmp_path)
    plain, compiled = (pipeline("soft-fer", model=str(tmp_path / name)).model for name in ("plain", "compiled"))
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    assert compiled.config.training["all"]["torch_compile"] and "torch_compile" not in plain.config.training["all"]
