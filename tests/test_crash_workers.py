"""kill -9 of workers, receivers and the daemon itself at random moments, while files grow and a
sender waits for the word that its records are kept: each of those is found exactly once."""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.control import ask_daemon
from appliance.errors import ApplianceError
from tests.crash.scene import RULE
from tests.rows import read_rows
from tests.test_daemon import wait_for

#: Processes that are killed; hundreds were by hand.
KILLS = int(os.environ.get("CRASH_WORKER_KILLS", "9"))

CONFIG = """\
state_dir: {folder}/state
model: false
heartbeat: 0
workers: 2
rescan_seconds: 0.5
rules: [{folder}/rules]
sources:
  - {{name: net, type: syslog, transport: tcp, address: "127.0.0.1:{port}", format: json}}
  - {{name: files, paths: ["{folder}/logs/*.jsonl"]}}
  - {{name: more, paths: ["{folder}/more/*.jsonl"]}}
sinks:
  - {{name: out, type: file, path: {folder}/findings.jsonl}}
limits: {{batch_records: 20}}
"""


def line(mark: str) -> bytes:
    fields = {
        "EventID": 1,
        "Channel": "Microsoft-Windows-Sysmon/Operational",
        "SourceName": "Microsoft-Windows-Sysmon",
        "Hostname": "host.example.test",
        "UtcTime": "2026-11-22 09:00:00.000",
        "Image": "C:\\Windows\\System32\\cmd.exe",
        "CommandLine": f"evil.exe marked-{mark}-",
    }
    return json.dumps(fields).encode() + b"\n"


class Scene:
    """The daemon in processes of its own, files that grow, and a sender over TCP."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        for name in ("logs", "more", "rules"):
            (folder / name).mkdir()
        (folder / "rules" / "marked.yml").write_text(RULE)
        self.path = folder / "appliance.yaml"
        self.path.write_text(CONFIG.format(folder=folder, port=self.port))
        self.control = folder / "state" / "control.sock"
        self.daemon: subprocess.Popen[bytes] | None = None
        self.written: set[str] = set()
        self.kept: set[str] = set()  # of what was sent, that of which the sender was told so
        self.sent: set[str] = set()
        self._stop = threading.Event()
        self._sender = threading.Thread(target=self._send, daemon=True)
        self._sender.start()

    def start(self) -> None:
        with (self.folder / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen(
                [sys.executable, "-m", "appliance", "run", "--config", str(self.path)],
                stdout=log,
                stderr=log,
                cwd=Path(__file__).parent.parent,
            )

    def write(self, count: int) -> None:
        for folder, letter in (("logs", "f"), ("more", "m")):
            marks = [f"{letter}{len(self.written)}x{number}" for number in range(count)]
            with (self.folder / folder / "a.jsonl").open("ab") as out:
                out.write(b"".join(map(line, marks)))
            self.written.update(marks)

    def _send(self) -> None:
        """Connections with some records each; an orderly end says that all are on disk."""
        number = 0
        while not self._stop.is_set():
            number += 1
            marks = [f"n{number}x{place}" for place in range(5)]
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), 5) as client,
            ):
                client.settimeout(5)
                self.sent.update(marks)
                client.sendall(b"".join(map(line, marks)))
                client.shutdown(socket.SHUT_WR)
                if client.recv(1) == b"":
                    self.kept.update(marks)
            self._stop.wait(0.03)

    def ask(self) -> dict[str, Any] | None:
        try:
            return ask_daemon(self.control, {"ask": "status"})
        except ApplianceError:
            return None

    def kill(self, what: str) -> bool:
        """kill -9 of one of them, when one is there."""
        assert self.daemon is not None
        if what == "daemon":
            self.daemon.kill()
            self.daemon.wait()
            self.start()
            return True
        facts = self.ask()
        if facts is None:
            return False
        workers = [row["pid"] for row in facts["workers"]]
        pids = workers if what == "worker" else [row.get("pid") for row in facts["sources"]]
        for pid in filter(None, pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                return True
        return False

    def findings(self) -> list[dict[str, Any]]:
        rows = read_rows(self.folder / "findings.jsonl")
        return [row for row in rows if row["kind"] == "finding"]

    def count_marks(self) -> Counter[str]:
        found = (re.search(r"marked-(\w+)-", json.dumps(row["matched"])) for row in self.findings())
        return Counter(match[1] for match in found if match is not None)

    def rest(self) -> None:
        """Nothing is sent any more."""
        self._stop.set()
        self._sender.join(20)
        assert not self._sender.is_alive()

    def close(self) -> None:
        self._stop.set()
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait()


@pytest.fixture
def scene() -> Iterator[Scene]:
    with tempfile.TemporaryDirectory(prefix="cw-", ignore_cleanup_errors=True) as folder:
        scene = Scene(Path(folder))
        yield scene
        scene.close()


@pytest.mark.timeout(1800)
def test_kills_lose_nothing_and_repeat_nothing(scene: Scene) -> None:
    rng = random.Random(20261122)
    kinds = ["worker", "receiver", "daemon"]
    scene.start()
    done: Counter[str] = Counter()
    until = time.monotonic() + 20 + 5 * KILLS
    while done.total() < KILLS and time.monotonic() < until:
        what = kinds[done.total() % len(kinds)]
        pause = rng.uniform(0.1, 2.5)
        began = time.monotonic()
        while time.monotonic() - began < pause:
            scene.write(rng.randrange(1, 20))
            time.sleep(rng.uniform(0.005, 0.1))
        done[what] += scene.kill(what)
    assert done.total() == KILLS
    before = len(scene.kept)
    wait_for(lambda: len(scene.kept) > before, 40)  # the listener is there again
    scene.rest()
    must = scene.written | scene.kept
    wait_for(lambda: must <= scene.count_marks().keys(), 60)
    assert scene.daemon is not None
    scene.daemon.send_signal(signal.SIGTERM)
    assert scene.daemon.wait(30) == 0
    marks = scene.count_marks()
    assert [mark for mark, count in marks.items() if count != 1] == []
    assert marks.keys() - must - scene.sent == set()
    assert len({row["id"] for row in scene.findings()}) == len(scene.findings())
    assert len(scene.kept) > 5 * KILLS
