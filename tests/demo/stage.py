"""The demonstration's stage: a scratch directory, the real daemon on it, a receiver beside it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from appliance.control import ask_daemon
from tests.demo.receiver import Received, SyslogReceiver

#: One source a machine or sensor, as an operator names them.
CONFIG = """\
# Written for the demonstration; every path is inside its scratch directory.
state_dir: {folder}/state
hostname: appliance.demo.test
heartbeat: 5s
sources:
  - name: sysmon
    type: files
    paths: [{folder}/logs/sysmon.jsonl]
  - name: security
    type: files
    paths: [{folder}/logs/security.jsonl]
  - name: auth
    type: files
    paths: [{folder}/logs/auth.log]
  - name: portal
    type: files
    paths: [{folder}/logs/nginx-access.log]
  - name: audit
    type: files
    paths: [{folder}/logs/audit.log]
  - name: suricata
    type: files
    paths: [{folder}/logs/eve.json]
  - name: zeek
    type: files
    paths:
      - {folder}/logs/conn.log
      - {folder}/logs/dns.log
      - {folder}/logs/smb_files.log
      - {folder}/logs/s7comm.log
    expect_every: {expect_every:g}
sinks:
  - name: collector
    type: syslog
    transport: unix
    address: {folder}/syslog.sock
  - name: findings
    type: file
    path: {folder}/findings.jsonl
"""


class Stage:
    """Starts the daemon as its own process; `close` ends it by its id.

    The network sensor counts as silent after `expect_every` seconds (0: never). Raises RuntimeError
    when the daemon does not come up.
    """

    def __init__(
        self,
        folder: Path,
        on_message: Callable[[Received], None],
        *,
        expect_every: float = 0.0,
    ) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.logs.mkdir()
        self.config = folder / "appliance.yaml"
        self.config.write_text(CONFIG.format(folder=folder, expect_every=expect_every))
        self.receiver = SyslogReceiver(folder / "syslog.sock", on_message, time.monotonic)
        self._log = (folder / "daemon.log").open("wb")
        began = time.monotonic()
        self.daemon = subprocess.Popen(
            [sys.executable, "-m", "appliance", "run", "--config", str(self.config)],
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self._await_daemon()
        self.start_seconds = time.monotonic() - began

    def _await_daemon(self) -> None:
        for _ in range(300):
            if self.daemon.poll() is not None:
                break
            if ask_daemon(self.folder / "state" / "control.sock", {"ask": "status"}):
                return
            time.sleep(0.1)
        raise RuntimeError("the daemon did not start:\n" + self.read_log())

    def read_log(self) -> str:
        """What the daemon has said."""
        return (self.folder / "daemon.log").read_text(errors="backslashreplace")

    def ask(self, *words: str) -> str:
        """Output of an `appliance` command on this stage."""
        command = [sys.executable, "-m", "appliance", *words, "--config", str(self.config)]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def ask_json(self, *words: str) -> object:
        """Output of an `appliance` command with --json, read."""
        answer: object = json.loads(self.ask(*words, "--json"))
        return answer

    def close(self) -> int:
        """End the daemon and the receiver; gives the daemon's exit code."""
        if self.daemon.poll() is None:
            self.daemon.send_signal(signal.SIGTERM)
        try:
            code = self.daemon.wait(20)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            code = self.daemon.wait()
        self.receiver.close()
        self._log.close()
        return code
