"""What every test may ask for: the real data sets, unpacked once, where they are there."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
UNPACKED = ROOT / ".data"

#: Gives the folder of a data set by its name, or skips (fails where CI=true).
FindData = Callable[[str], Path]


def default_signals() -> None:
    """For Popen's preexec_fn: a child that takes signals, also where the tests themselves run
    with some ignored (in the background, under nohup), which a child would inherit."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture(scope="session")
def shared_data() -> FindData:
    """Factory: `shared_data("windows")` is the unpacked set's folder.

    Skips the test when the sets are not beside the checkout; with CI=true that is a failure, so
    that a test can't quietly stop running there.
    """

    def find(name: str) -> Path:
        if not (SHARED / f"{name}.tar.xz").is_file():
            reason = f"data set {name} is not beside this checkout"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
        subprocess.run([str(SHARED / "unpack"), str(UNPACKED), name], check=True)
        return UNPACKED / name

    return find
