"""What a sink's JSON file holds, read while the daemon writes it."""

import json
from pathlib import Path
from typing import Any


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of the whole lines of `path`, none when there is no file yet. A line without
    its end is being written: it is not there yet."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
