"""What earlier runs have written beside models, read so that whatever is damaged is said in a sentence."""

import json
from pathlib import Path
from typing import Any

from affectnet_plus.modeling import said_as_damage


def read_record(file: Path, cure: str, **types: type | tuple[type, ...]) -> dict[str, Any]:
    """The JSON object in a file, in which the values of these keys have these `types`; else `DamagedError`."""
    with said_as_damage(file, cure):
        record = json.loads(file.read_bytes())
        if not isinstance(record, dict):
            raise TypeError("no object")
        for key, expected in types.items():
            if not isinstance(value := record.get(key), expected) or isinstance(value, bool):
                raise TypeError(f"{json.dumps(value)[:40]} as {key!r}")
    return record
