"""The scripts that make a checkout ready: they end when told to, with all that they started."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import default_signals

ROOT = Path(__file__).resolve().parent.parent

#: Stands for a python whose `-m venv` starts a compiler and waits for it.
SLOW_PYTHON = """#!/bin/sh
[ "$1" = -c ] && exit 0
sleep 300 &
echo $$ $! >{folder}/started.part
mv {folder}/started.part {folder}/started
wait
"""


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_setup_that_is_ended_leaves_nothing_running(
    tmp_path: Path, number: signal.Signals
) -> None:
    for name in ("slow-python", "cc", "c++", "make"):
        tool = tmp_path / name
        tool.write_text(SLOW_PYTHON.format(folder=tmp_path))
        tool.chmod(0o755)
    (tmp_path / "tmp").mkdir()
    setup = subprocess.Popen(
        ["/bin/sh", ROOT / "packaging" / "prepare.sh"],
        env={
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "PYTHON": str(tmp_path / "slow-python"),
            "VENV": str(tmp_path / "venv"),
            "TMPDIR": str(tmp_path / "tmp"),
        },
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=default_signals,
    )
    started: list[int] = []
    try:
        until = time.monotonic() + 20
        while not (tmp_path / "started").exists():
            assert time.monotonic() < until
            assert setup.poll() is None
            time.sleep(0.02)
        started = [int(word) for word in (tmp_path / "started").read_text().split()]
        setup.send_signal(number)
        assert setup.wait(20) == 128 + number
        assert not any(is_alive(pid) for pid in started)
        assert list((tmp_path / "tmp").iterdir()) == []
    finally:
        setup.kill()
        for pid in started:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)


def test_no_check_begins_before_the_setup_is_done(tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    (tmp_path / "packaging").mkdir()
    setup = tmp_path / "packaging" / "prepare.sh"
    setup.write_text("#!/bin/sh\nsleep 0.5\necho setup >>order\n")
    binaries = tmp_path / "venv" / "bin"
    binaries.mkdir(parents=True)
    for name in ("ruff", "mypy", "pytest"):
        (binaries / name).write_text(f"#!/bin/sh\necho {name} >>order\n")
    for script in (setup, *binaries.iterdir()):
        script.chmod(0o755)
    shutil.copy(ROOT / "Makefile", tmp_path)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    subprocess.run(
        ["make", "-j4", "test", "VENV=venv"],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
    )
    order = (tmp_path / "order").read_text().split()
    assert order[0] == "setup"
    assert sorted(order) == ["mypy", "pytest", "ruff", "ruff", "setup"]
