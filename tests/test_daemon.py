"""The daemon: live findings, dead models, failing stores, honest status, no way out."""

import contextlib
import json
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.cli import main
from appliance.config import Config, FileSink, FilesSource, SyslogSink
from appliance.control import ask_daemon
from appliance.daemon import Daemon
from appliance.errors import ApplianceError, StoreError
from appliance.store import Batch
from tests.rows import read_rows

ROOT_LOGIN = "Accepted password for root from 203.0.113.9 port 50022 ssh2"
TITLE = "Root Logged In Over SSH With a Password"


def wait_for(enough: Callable[[], Any], seconds: float = 15.0) -> Any:
    """Wait until `enough` gives something true; fail when it does not in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        value = enough()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


class Box:
    """A daemon in a thread of the test, on a scratch directory with a short name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "auth.log"
        self.out = folder / "findings.jsonl"
        self.config = Config(
            heartbeat=0.0,
            state_dir=str(folder / "state"),
            model=False,
            knowledge_dir=str(folder),
            models_dir=str(folder),
            rescan_seconds=0.3,
            sources=(FilesSource("auth", (str(self.log),)),),
            sinks=(FileSink("out", "file", str(self.out)),),
        )
        self.daemon: Daemon | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> Daemon:
        daemon = Daemon(self.config)
        self._thread = threading.Thread(target=daemon.run)
        self._thread.start()
        self.daemon = daemon
        wait_for(self.config.control_path.exists)
        return daemon

    def stop(self) -> None:
        if self.daemon is not None and self._thread is not None:
            self.daemon.stop()
            self._thread.join(30)
            assert not self._thread.is_alive()
        self.daemon = None

    def append(self, text: str, host: str = "jump") -> None:
        with self.log.open("a") as out:
            out.write(f"Nov 22 09:00:00 {host} sshd[71]: {text}\n")

    def findings(self) -> list[dict[str, Any]]:
        return [row for row in read_rows(self.out) if row["kind"] != "heartbeat"]

    def ask(self) -> dict[str, Any]:
        answer = ask_daemon(self.config.control_path, {"ask": "status"})
        assert answer is not None
        return answer


@pytest.fixture
def box() -> Iterator[Box]:
    with tempfile.TemporaryDirectory(prefix="box-") as folder:
        box = Box(Path(folder))
        yield box
        box.stop()


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    said = capsys.readouterr()
    return code, said.out, said.err


def test_live_and_again_after_a_restart(box: Box) -> None:
    box.append(ROOT_LOGIN)
    box.start()
    wait_for(lambda: len(box.findings()) == 1)
    box.append(ROOT_LOGIN, "other")
    wait_for(lambda: len(box.findings()) == 2)
    box.stop()
    box.append(ROOT_LOGIN, "third")
    box.start()
    found = wait_for(lambda: len(box.findings()) == 3 and box.findings())
    assert [body["host"] for body in found] == ["jump", "other", "third"]
    assert {body["title"] for body in found} == {TITLE}
    assert {body["kind"] for body in found} == {"finding"}


def test_status_running_and_stopped(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    state = ["--state", box.config.state_dir]
    assert command(capsys, "status", *state)[0] == 1  # it has never run: there is nothing to say
    box.append(ROOT_LOGIN)
    box.append("session opened for user alice")
    box.log.open("ab").write(b"\x00\x01\x02\x03x\x00\n")
    box.start()
    wait_for(lambda: len(box.findings()) == 1)
    facts = box.ask()
    assert facts["running"] is True
    row = facts["sources"][0]
    assert (row["seen"], row["decoded"], row["rejected"], row["findings"]) == (3, 2, 1, 1)
    assert row["last_event"]
    assert facts["detectors"] == {"sigma": 1}
    assert facts["queues"]["judge"] == {"depth": 0, "cap": 1000}
    assert facts["queues"]["outbox"]["cap"] == box.config.limits.outbox_rows
    assert facts["rules"]["loaded"] > 20
    box.stop()
    code, said, _ = command(capsys, "status", *state)
    assert code == 4
    assert "NOT RUNNING" in said
    code, said, _ = command(capsys, "status", *state, "--json")
    assert code == 4
    stopped = json.loads(said)
    assert stopped["running"] is False
    assert stopped["sources"] == []  # --state alone knows no configuration
    code, said, _ = command(capsys, "rejected", *state, "--json")
    assert code == 0
    assert json.loads(said)[0]["stage"] == "decode"


def test_a_source_that_says_nothing_is_listed(box: Box) -> None:
    quiet = FilesSource("quiet", (str(box.folder / "never.log"),))
    box.config = replace(box.config, sources=(*box.config.sources, quiet))
    box.start()
    row = box.ask()["sources"][1]
    assert (row["name"], row["seen"], row["last_event"], row["files"]) == ("quiet", 0, None, 0)


def test_looking_at_findings_and_incidents(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    box.append(ROOT_LOGIN)
    box.append(ROOT_LOGIN.replace("50022", "50023"))
    box.start()
    wait_for(lambda: len(box.findings()) == 2)
    box.stop()
    state = ["--state", box.config.state_dir]
    bodies = json.loads(command(capsys, "findings", *state, "--json")[1])
    assert len(bodies) == 2
    assert json.loads(command(capsys, "findings", *state, "--json", "--level", "critical")[1]) == []
    assert json.loads(command(capsys, "findings", *state, "--json", "--since", "1h")[1]) in (
        [],
        bodies,
    )
    incidents = json.loads(command(capsys, "incidents", *state, "--all", "--json")[1])
    assert [(i["count"], i["level"]) for i in incidents] == [(2, "high")]
    code, said, _ = command(capsys, "show", bodies[0]["id"][:10], *state)
    assert code == 0
    assert TITLE in said
    code, said, _ = command(capsys, "show", incidents[0]["id"], *state, "--json")
    story = json.loads(said)
    assert [body["id"] for body in story["findings"]] == [body["id"] for body in bodies]
    assert command(capsys, "show", "0123456789ab", *state)[0] == 1
    assert command(capsys, "show", "not-an-id", *state)[0] == 1
    assert command(capsys, "findings", *state, "--since", "yesterday")[0] == 2


def test_no_second_daemon_on_one_state(box: Box) -> None:
    box.start()
    with pytest.raises(ApplianceError, match="another daemon"):
        Daemon(box.config)


def test_a_failing_store_loses_nothing(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = Daemon(box.config)
    real = daemon.store.write_batch
    failures = 0

    def fail_twice(batch: Batch) -> None:
        nonlocal failures
        if batch.findings and failures < 2:
            failures += 1
            raise StoreError("disk full")
        real(batch)

    monkeypatch.setattr(daemon.store, "write_batch", fail_twice)
    monkeypatch.setattr("appliance.daemon.STORE_RETRY_SECONDS", 0.3)
    for number in range(20):
        box.append(ROOT_LOGIN, f"h{number}")
    thread = threading.Thread(target=daemon.run)
    thread.start()
    try:
        wait_for(lambda: failures > 0)
        wait_for(lambda: len(box.findings()) == 20)
        assert failures == 2
        assert box.ask()["store_error"] == ""
        assert box.ask()["sources"][0]["seen"] == 20
    finally:
        daemon.stop()
        thread.join(20)
    assert sorted({body["host"] for body in box.findings()}) == sorted(f"h{n}" for n in range(20))


def test_a_file_whose_name_is_no_utf8(box: Box) -> None:
    box.config = replace(box.config, sources=(FilesSource("auth", (str(box.folder / "*.log"),)),))
    box.start()
    odd = Path(os.fsdecode(os.fsencode(box.folder) + b"/\xff\x1b[31m.log"))
    odd.write_text(f"Nov 22 09:00:00 odd sshd[71]: {ROOT_LOGIN}\n")
    body = wait_for(box.findings)[0]
    assert body["host"] == "odd"
    assert b"\x1b" not in box.out.read_bytes()
    assert box.ask()["sources"][0]["seen"] == 1


def test_a_sink_that_is_down_holds_up_nobody(box: Box) -> None:
    path = str(box.folder / "siem.sock")
    sink = SyslogSink("siem", "syslog", "unix", path)
    box.config = replace(box.config, sinks=(*box.config.sinks, sink))
    box.append(ROOT_LOGIN)
    box.start()
    wait_for(lambda: len(box.findings()) == 1)
    rows = {row["name"]: row for row in box.ask()["sinks"]}
    assert rows["siem"]["waiting"] == 2  # the finding and its incident
    assert rows["siem"]["error"]
    assert rows["out"]["waiting"] == 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(path)
        server.settimeout(20)
        first = server.recv(65536)
    assert b" FINDING " in first
    assert b"\n" not in first


def test_a_dead_or_hung_model_delays_no_finding(box: Box) -> None:
    from tests.fixtures_models import ensure_models

    data = ensure_models()
    rules = box.folder / "rules"
    rules.mkdir()
    for number in range(250):  # enough that the last is not judged ahead at once
        (rules / f"{number:03}.yml").write_text(
            f"title: Marked Line {number:03}\nlogsource: {{product: linux, service: sshd}}\n"
            f"detection:\n  keywords: ['marked-{number:03}-']\n  condition: keywords\nlevel: high\n"
            "tags: [attack.t1021.004]\n"
        )
    box.config = replace(
        box.config,
        model=True,
        rules=(str(rules),),
        models_dir=str(data / "models"),
        knowledge_dir=str(data / "knowledge"),
        sinks=(FileSink("out", "file", str(box.out), ("finding", "update")),),
    )
    box.start()
    pid = wait_for(lambda: box.ask()["models"]["encoder"]["pid"])
    os.kill(pid, signal.SIGSTOP)
    box.append("marked-249- and marked-248-")
    first = wait_for(lambda: len(box.findings()) >= 2 and box.findings(), 5.0)
    assert {body["verdict"] for body in first[:2]} == {"insufficient_data"}
    assert {body["kind"] for body in first[:2]} == {"finding"}
    assert first[0]["citations"][0]["id"] == "T1021.004"
    os.kill(pid, signal.SIGKILL)
    box.append("marked-247-")  # found while the model is dead
    wait_for(lambda: sum(b["kind"] == "finding" for b in box.findings()) == 3, 5.0)
    updated = wait_for(
        lambda: (
            [b for b in box.findings() if b["kind"] == "update" and b["verdict"] == "suspicious"]
            if sum(b["kind"] == "update" for b in box.findings()) >= 2
            else None
        ),
        30.0,
    )
    assert {b["id"] for b in updated} <= {b["id"] for b in box.findings() if b["kind"] == "finding"}
    facts = box.ask()["models"]["encoder"]
    assert facts["pid"] != pid
    assert facts["restarts"] >= 1
    box.stop()
    with contextlib.suppress(ProcessLookupError):
        os.kill(facts["pid"], 0)
        raise AssertionError("the model's process outlived the daemon")


@pytest.mark.parametrize("spoiled", ["models/encoder/encoder.gguf", "knowledge/entries"])
def test_what_does_not_match_its_manifest_does_not_run(box: Box, spoiled: str) -> None:
    from tests.fixtures_models import ensure_models

    data = box.folder / "data"
    shutil.copytree(ensure_models(), data)
    if spoiled == "knowledge/entries":
        named = json.loads((data / "knowledge" / "manifest.json").read_bytes())["files"]
        spoiled = next(f"knowledge/{name}" for name in named if name.startswith("entries-"))
    with (data / spoiled).open("r+b") as file:
        file.seek(1000)
        byte = file.read(1)
        file.seek(1000)
        file.write(bytes([byte[0] ^ 1]))
    box.config = replace(
        box.config,
        model=True,
        models_dir=str(data / "models"),
        knowledge_dir=str(data / "knowledge"),
    )
    box.append(ROOT_LOGIN)
    box.start()
    body = wait_for(box.findings)[0]
    assert body["verdict"] == "insufficient_data"
    facts = box.ask()["models"]
    assert Path(spoiled).name in facts["missing"]
    assert "encoder" not in facts
    assert "knowledge" not in facts


def open_connections(pid: int) -> list[str]:
    """Internet sockets of a process: 'proto local remote' as /proc says."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            target = str(entry.readlink())
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = []
    for proto in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
        for line in Path(f"/proc/{pid}/net/{proto}").read_text().splitlines()[1:]:
            words = line.split()
            if words[9] in inodes:
                found.append(f"{proto} {words[1]} {words[2]}")
    return found


def test_nothing_leaves_but_what_the_configuration_names() -> None:
    from tests.demo.receiver import Received
    from tests.demo.stage import Stage
    from tests.fixtures_models import ensure_models

    ensure_models()
    seen: list[Received] = []
    with tempfile.TemporaryDirectory(prefix="leaves-") as folder:
        stage = Stage(Path(folder), seen.append)
        try:
            with (stage.logs / "auth.log").open("a") as out:
                out.write(f"Nov 22 09:00:00 jump sshd[71]: {ROOT_LOGIN}\n")
            wait_for(lambda: any(message.kind == "FINDING" for message in seen))
            facts = stage.ask_json("status")
            assert isinstance(facts, dict)
            processes = [stage.daemon.pid, facts["models"]["encoder"]["pid"]]
            assert all(processes)
            assert [open_connections(pid) for pid in processes] == [[], []]
        finally:
            assert stage.close() == 0


def test_the_check_for_connections_can_fail() -> None:
    with socket.create_server(("127.0.0.1", 0)):
        assert any(line.startswith("tcp ") for line in open_connections(os.getpid()))
