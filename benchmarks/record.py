"""Where figures are kept, and what is kept with them: when, on what machine, with which versions."""

import json
import os
import platform
import subprocess
from datetime import date
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("torch", "timm", "transformers", "accelerate", "datasets", "pyarrow", "numpy", "scikit-learn")


def write_result(file: Path, result: dict) -> None:
    """Write a result as JSON, with how it came about under "measured".

    Args:
        file: in `RESULTS`, NAME.json or NAME-YARDSTICK-SEED.json.
        result: figures, their settings and, where there is one, the seed. Where some are of an earlier result, with
            what that has under "measured": it goes under "measured_before".
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    result = dict(result)
    if "measured" in result:
        result["measured_before"] = [*result.get("measured_before", []), result.pop("measured")]
    file.write_text(json.dumps(result | {"measured": provenance()}, indent=1) + "\n")


def provenance() -> dict:
    """Date, commit, machine and versions of this moment; nothing that names a person or a path."""
    commit = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return {
        "date": date.today().isoformat(),
        "commit": subprocess.run(commit, capture_output=True, text=True).stdout.strip(),
        "machine": machine(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
    }


def machine() -> str:
    """Processor, its cores, and the accelerator if there is one."""
    import torch  # here, because some benchmarks measure the memory of processes without it

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    parts = [models[0] if models else platform.machine(), f"{os.cpu_count()} cores"]
    return ", ".join(parts + ([torch.cuda.get_device_name()] if torch.cuda.is_available() else []))
