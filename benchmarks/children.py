"""Beside the line: the appliance as its own process, timed and weighed from outside."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: How often the memory of a child and of its own children is looked at, in seconds.
LOOK_SECONDS: Final = 0.05
END_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that ended by itself: seconds from start to end, the most resident memory it had,
    and the most that any of its own children had (bytes; 0 when none was seen)."""

    code: int
    seconds: float
    rss: int
    children_rss: int
    output: str


def appliance_command(*words: str | Path) -> list[str]:
    """The `appliance` command of this very interpreter and checkout."""
    return [sys.executable, "-m", "appliance", *map(str, words)]


def show_command(*words: str | Path) -> str:
    """The command as an operator types it."""
    return shlex.join(["appliance", *map(str, words)])


def show_part(name: str, *words: object) -> str:
    """The command that measures a part again."""
    return shlex.join(["python", "-m", "benchmarks", name, *map(str, words)])


def run_to_end(command: Sequence[str], folder: Path, *, weigh: bool = False) -> Ended:
    """Run a command; its temporary files go into `folder`. With `weigh` its memory is looked
    at; without, nothing is done beside it."""
    with tempfile.TemporaryFile(dir=folder) as output:
        began = time.perf_counter()
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "TMPDIR": str(folder)},
        )
        scales = Scales(child.pid) if weigh else None
        try:
            code = child.wait()
            seconds = time.perf_counter() - began
        finally:
            end_child(child)
            own, children = scales.close() if scales else (0, 0)
        output.seek(0)
        said = output.read().decode(errors="backslashreplace")
    return Ended(code, seconds, own, children, said)


def end_child(child: subprocess.Popen[bytes]) -> int:
    """End it by its id, kindly first; gives its exit code."""
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
    return child.wait()


class Scales:
    """Looks at the memory of a process and its children in a thread, so that waiting for its end,
    which is timed, is one blocking call. What a process takes in its last `LOOK_SECONDS` may be
    missed. (getrusage's ru_maxrss would not do: it outlives execve and so may be the parent's.)"""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._own = self._children = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._weigh, daemon=True)
        self._thread.start()

    def _weigh(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            self._own = max(self._own, read_peak_rss(self._pid))
            peaks = map(read_peak_rss, list_children(self._pid))
            self._children = max([self._children, *peaks])

    def close(self) -> tuple[int, int]:
        """The most resident memory that the process had, and that any child of it had, in bytes;
        0 where nothing was seen."""
        self._stopping.set()
        self._thread.join()
        return self._own, self._children


def list_children(pid: int) -> list[int]:
    """Process ids of the children that any thread of the process started (proc_pid_task(5))."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found.extend(map(int, path.read_text().split()))
    return found


def read_peak_rss(pid: int) -> int:
    """VmHWM of a process in bytes (proc_pid_status(5)); 0 when it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
