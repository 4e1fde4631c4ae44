"""The offline security brain: reads logs, finds attacks, tells operators; never calls home."""

import os
from pathlib import Path

__version__ = "0.1.0"


def child_environment() -> dict[str, str]:
    """The environment for a process of our own: ours, with the code that we run ourselves, since
    what another version says over a pipe is nonsense."""
    ours = str(Path(__file__).resolve().parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([ours, inherited]) if inherited else ours
    return {**os.environ, "PYTHONPATH": path}
