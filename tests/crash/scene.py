"""A scene for crashes: logs that grow and rotate, a daemon that is killed, a collector that stays.

Every line that must be found carries a number of its own, so that what is missing or doubled can be
named.
"""

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from appliance.config import load_config
from appliance.control import ask_daemon
from appliance.errors import ApplianceError
from tests.rows import read_rows

RULE = """\
title: Marked Line
id: 6f1c3f7e-2d0b-4b52-9a4b-6c2f0d8f5a11
status: test
description: Fires on the lines that the crash test marks.
logsource:
  product: windows
  category: process_creation
detection:
  selection:
    CommandLine|contains: marked-
  condition: selection
level: high
---
title: Seven of One Group
id: 6f1c3f7e-2d0b-4b52-9a4b-6c2f0d8f5a12
status: test
description: Fires on the seventh marked line of each group of seven.
correlation:
  type: event_count
  rules: [6f1c3f7e-2d0b-4b52-9a4b-6c2f0d8f5a11]
  generate: true
  group-by: [ParentCommandLine]
  timespan: 1d
  condition: {gte: 7}
level: low
"""
MARKED = "6f1c3f7e-2d0b-4b52-9a4b-6c2f0d8f5a11"
#: Marked lines of one group.
GROUP = 7

CONFIG = """\
state_dir: {folder}/state
model: false
hostname: crash.example.test
rescan_seconds: 0.5
rules: [{folder}/rules]
sources:
  - name: sysmon
    type: files
    paths: ["{folder}/logs/*.jsonl"]
sinks:
  - name: collector
    type: syslog
    transport: tcp
    address: 127.0.0.1:{port}
  - name: findings
    type: file
    path: {folder}/findings.jsonl
limits: {{batch_records: 50}}
"""

_ID = re.compile(rb' id="([0-9a-f]{32})"')


class Collector:
    """A syslog server on loopback: RFC 6587 octet counting, ids of whole FINDING messages kept."""

    def __init__(self) -> None:
        self.ids: Counter[str] = Counter()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._receive, args=(connection,), daemon=True).start()

    def _receive(self, connection: socket.socket) -> None:
        held = b""
        with connection:
            while True:
                try:
                    part = connection.recv(1 << 16)
                except OSError:
                    return
                if not part:
                    return  # a message cut off by the crash is no message
                held += part
                while (space := held.find(b" ")) > 0 and len(held) > space + int(held[:space]):
                    end = space + 1 + int(held[:space])
                    self._keep(held[space + 1 : end])
                    held = held[end:]

    def _keep(self, message: bytes) -> None:
        found = _ID.search(message)
        if b" FINDING " in message and found is not None:
            self.ids[found[1].decode()] += 1

    def close(self) -> None:
        """Stop listening."""
        self._closing.set()
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


class Scene:
    """The scratch directory with its daemon. `write` appends lines, `check` says what is wrong."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.collector = Collector()
        self.marked = 0
        self.lines = 0
        (folder / "logs").mkdir()
        (folder / "rules").mkdir()
        (folder / "rules" / "marked.yml").write_text(RULE)
        self.config = folder / "appliance.yaml"
        self.config.write_text(CONFIG.format(folder=folder, port=self.collector.port))
        self._control = load_config(self.config).control_path
        self.daemon: subprocess.Popen[bytes] | None = None
        self._log = (folder / "daemon.log").open("ab")

    def write(self, count: int) -> None:
        """Append lines to one of two files; every third is marked. One write may hold several."""
        path = self.folder / "logs" / ("a.jsonl" if self.lines % 2 else "b.jsonl")
        text = ""
        for _ in range(count):
            self.lines += 1
            command = "svchost.exe -k netsvcs"
            if self.lines % 3 == 0:
                self.marked += 1
                command = f"evil.exe marked-{self.marked}-"
            text += json.dumps(
                {
                    "EventID": 1,
                    "Channel": "Microsoft-Windows-Sysmon/Operational",
                    "SourceName": "Microsoft-Windows-Sysmon",
                    "Hostname": f"host{self.lines % 7}.example.test",
                    "UtcTime": "2026-11-22 09:00:00.000",
                    "Image": "C:\\Windows\\System32\\cmd.exe",
                    "CommandLine": command,
                    "ParentCommandLine": f"group-{(self.marked - 1) // GROUP}-",
                    "n": self.lines,
                }
            )
            text += "\n"
        with path.open("a") as out:
            out.write(text)

    def rotate(self, number: int) -> None:
        """Rename one file as logrotate does; it goes on under a name that the pattern misses. Not
        one that no daemon has seen yet, since each was killed before it looked: what comes and goes
        between two looks can't be known."""
        path = self.folder / "logs" / ("a.jsonl" if number % 2 else "b.jsonl")
        if path.exists() and path.stat().st_ino in self._list_inodes():
            path.rename(path.with_name(f"{path.stem}.{number}.old"))

    def _list_inodes(self) -> set[int]:
        """Those of the files that the daemon has a checkpoint of."""
        try:
            rows = self._read_store("SELECT state FROM checkpoints")
        except sqlite3.Error:
            return set()
        states = [json.loads(str(state, "utf-8")) for (state,) in rows]  # type: ignore[call-overload]
        return {state["inode"] for state in states if isinstance(state, dict)}

    def start(self, step: str = "never", times: int = 1) -> None:
        """Start the daemon, to kill itself at a step."""
        self.daemon = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.daemon", str(self.config), step, str(times)],
            stdout=self._log,
            stderr=self._log,
            cwd=Path(__file__).parent.parent.parent,
        )

    def kill(self) -> None:
        """kill -9."""
        if self.daemon is not None:
            os.kill(self.daemon.pid, signal.SIGKILL)
            self.daemon.wait()

    def wait_end(self, seconds: float) -> int | None:
        """The daemon's exit code when it ends by itself within so many seconds."""
        if self.daemon is None:
            return None
        try:
            return self.daemon.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def finish(self, seconds: float = 60.0) -> list[str]:
        """Let the daemon come to rest, stop it properly, and say everything that is wrong."""
        if self.daemon is None or self.daemon.poll() is not None:
            self.start()
        until = time.monotonic() + seconds
        while time.monotonic() < until and self._at_rest() is False:
            time.sleep(0.2)
        if self.daemon is not None:
            self.daemon.send_signal(signal.SIGTERM)
            code = self.daemon.wait(30)
            if code != 0:
                return [f"the daemon ended with {code}: {self._read_log()[-2000:]}"]
        return self.check()

    def _read_log(self) -> str:
        return (self.folder / "daemon.log").read_text(errors="backslashreplace")

    def _at_rest(self) -> bool:
        try:
            seen, waiting = self._read_store(
                "SELECT (SELECT value FROM counts WHERE scope = 'source:sysmon' AND name = 'seen'),"
                " (SELECT COUNT(*) FROM outbox)"
            )[0]
        except sqlite3.Error:
            return False
        if seen != self.lines or waiting:
            return False
        # All may have been there before this daemon began: it is at rest once it answers.
        try:
            return ask_daemon(self._control, {"ask": "status"}) is not None
        except ApplianceError:
            return False

    def _read_store(self, query: str) -> list[tuple[object, ...]]:
        db = sqlite3.connect(f"file:{self.folder}/state/store.db?mode=ro", uri=True)
        try:
            return db.execute(query).fetchall()
        finally:
            db.close()

    def check(self) -> list[str]:
        """What was lost or doubled: in the ledger, the store, the JSON file, at the collector."""
        problems: list[str] = []
        seen = self._read_store(
            "SELECT value FROM counts WHERE scope = 'source:sysmon' AND name = 'seen'"
        )
        if seen != [(self.lines,)]:
            problems.append(f"{self.lines} lines were written, {seen} are counted")
        stored = [json.loads(str(body, "utf-8")) for (body,) in self._read_bodies()]
        problems += self._compare("store", stored)
        rows = read_rows(self.folder / "findings.jsonl")
        written = [row for row in rows if row["kind"] == "finding"]
        problems += self._compare("JSON file", written)
        ids = {body["id"] for body in stored}
        if {body["id"] for body in written} != ids:
            problems.append("store and JSON file hold other ids")
        if self.collector.ids.keys() != ids:
            missing = len(ids - self.collector.ids.keys())
            strange = len(self.collector.ids.keys() - ids)
            problems.append(f"collector: {missing} ids never came, {strange} are not stored")
        return problems

    def _read_bodies(self) -> list[tuple[bytes]]:
        return self._read_store("SELECT body FROM findings")  # type: ignore[return-value]

    def _compare(self, where: str, found: list[dict[str, Any]]) -> list[str]:
        bodies = [body for body in found if body["rule_id"] == MARKED]
        marks = Counter(
            mark
            for body in bodies
            for mark in re.findall(r"marked-(\d+)-", json.dumps(body["matched"]))[:1]
        )
        expected = {str(n) for n in range(1, self.marked + 1)}
        doubled = [mark for mark, count in marks.items() if count > 1]
        lost = sorted(expected - marks.keys())
        problems = []
        if lost:
            problems.append(f"{where}: {len(lost)} of {self.marked} are lost, as {lost[:5]}")
        if doubled or len(bodies) != self.marked:
            problems.append(f"{where}: {len(bodies)} findings for {self.marked} marked lines")
        return problems + self._compare_groups(where, [b for b in found if b not in bodies])

    def _compare_groups(self, where: str, bodies: list[dict[str, Any]]) -> list[str]:
        """Each whole group of marked lines must have been found once, with events of its own:
        one that is lost, or counted twice, makes another number of it."""
        groups: Counter[str] = Counter()
        problems = []
        for body in bodies:
            group, count, *events = body["matched"]
            groups[group["value"]] += 1
            if count["value"] != str(GROUP) or len({e["pattern"] for e in events}) != GROUP:
                problems.append(f"{where}: {group['value']} has {count['value']} of {len(events)}")
        expected = {f"group-{n}-": 1 for n in range(self.marked // GROUP)}
        if groups != expected:
            problems.append(f"{where}: {len(groups)} groups of {len(expected)} were found")
        return problems

    def close(self) -> None:
        """Nothing of the scene goes on running."""
        if self.daemon is not None and self.daemon.poll() is None:
            self.kill()
        self.collector.close()
        self._log.close()
