"""`selftest` and `sink test`: with a daemon, without one, and with one that lies."""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import appliance
import appliance.selftest
from appliance.cli import main
from appliance.config import Config, FileSink, FilesSource, SyslogSink, SyslogSource, load_config
from appliance.control import ControlServer
from appliance.daemon import Daemon
from appliance.errors import ApplianceError
from appliance.reach import Allowed, find_strangers, list_family, list_sockets, read_address
from appliance.selftest import (
    EVENT_AHEAD,
    RECEIVED_AHEAD,
    Check,
    Scene,
    await_delivery,
    check_canary,
    check_clock,
    check_models,
    check_sources,
    judge_room,
    list_ways,
    may_read,
    run_checks,
)
from appliance.store import Store
from tests.builders import T0, make_batch
from tests.rows import read_rows
from tests.test_commands_explain import wait_for
from tests.test_config import no_rights

KEY = "ab" * 16
Answer = Callable[[dict[str, Any]], dict[str, Any]]


class Place:
    """A configuration on a scratch directory with a short name, without a model."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "a.yaml"
        # The daemon runs in this process: its receiver must be one that the configuration names.
        self.siem = folder / "siem"
        self.receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.receiver.bind(str(self.siem))
        self.receiver.settimeout(10)
        self.log = folder / "auth.log"
        self.log.write_text("Nov 22 09:00:00 web cron[7]: an ordinary line\n")
        self.write()

    def write(self, more: str = "", model: str = "false") -> None:
        self.path.write_text(
            f"state_dir: {self.folder}/state\nmodel: {model}\nheartbeat: 0\n"
            f"sources: [{{name: auth, paths: [{self.log}]}}]\n"
            "sinks:\n"
            f"  - {{name: out, type: file, path: {self.folder}/out.jsonl}}\n"
            f"  - {{name: siem, type: syslog, transport: unix, address: {self.siem}}}\n" + more
        )

    @property
    def config(self) -> Config:
        return load_config(self.path)

    def scene(self, **changes: Any) -> Scene:
        return Scene(**{
            "config": self.config, "config_path": str(self.path), "status": None, "now": T0 * 2,
            **changes,
        })  # fmt: skip

    @contextmanager
    def running(self) -> Iterator[Daemon]:
        daemon = Daemon(self.config)
        thread = threading.Thread(target=daemon.run)
        thread.start()
        try:
            wait_for(self.config.control_path.exists)
            yield daemon
        finally:
            daemon.stop()
            thread.join(30)

    @contextmanager
    def answering(self, answer: Answer) -> Iterator[None]:
        """Something that answers in the daemon's place."""
        self.config.control_path.parent.mkdir(exist_ok=True, mode=0o750)
        server = ControlServer(self.config.control_path, answer)
        server.start()
        try:
            yield
        finally:
            server.close()


@pytest.fixture
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="se-") as folder:
        made = Place(Path(folder))
        yield made
        made.receiver.close()


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(list(words))
    said = capsys.readouterr()
    return code, said.out, said.err


def ask(capsys: pytest.CaptureFixture[str], place: Place) -> tuple[int, dict[str, Check]]:
    code, said, complaint = command(capsys, "selftest", "--config", str(place.path), "--json")
    assert complaint == ""
    facts = json.loads(said)
    checks = {row["what"]: Check(**row) for row in facts["checks"]}
    assert len(checks) == len(facts["checks"])
    assert facts["ok"] is (code == 0)
    assert facts["failed"] == sum(check.state == "FAIL" for check in checks.values())
    return code, checks


def states(checks: dict[str, Check], state: str) -> list[str]:
    return [what for what, check in checks.items() if check.state == state]


# -- all of it -----------------------------------------------------------------------------------


def test_running(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    with place.running() as daemon:
        wait_for(lambda: daemon.status()["sources"][0]["seen"])
        code, checks = ask(capsys, place)
        assert states(checks, "FAIL") == []
        assert code == 0
        for what in ("canary", "canary at sink out", "canary at sink siem", "nothing leaves",
                     "store", "source auth", "sink out", "sink siem", "rights of the state",
                     "rights of the control socket"):  # fmt: skip
            assert checks[what].state == "ok", checks[what]
        canary = read_rows(place.folder / "out.jsonl")[-1]
        assert canary["level"] == "informational"
        assert canary["id"].startswith(checks["canary"].words.split()[1])
        # What no configuration names is seen.
        with socket.socket() as stranger:
            stranger.bind(("127.0.0.1", 0))
            stranger.listen()
            port = stranger.getsockname()[1]
            code, checks = ask(capsys, place)
        assert code == 1
        assert states(checks, "FAIL") == ["nothing leaves"]
        assert f"tcp listening at 127.0.0.1:{port}" in checks["nothing leaves"].words


def test_stopped(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    with place.running():
        pass
    code, checks = ask(capsys, place)
    assert code == 0
    assert states(checks, "FAIL") == []
    assert "sinks were only looked at" in checks["canary"].words
    assert checks["source auth"].words.startswith("1 files or folders can be read")
    assert not (place.folder / "out.jsonl").exists()
    code, said, _ = command(capsys, "selftest", "--config", str(place.path))
    assert code == 0
    lines = said.splitlines()
    assert lines[-1].startswith(f"{len(checks)} checks, 0 failed")
    assert all(line.startswith(("ok    ", "WARN  ")) for line in lines[:-1])


def test_bad_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.yaml").write_text("bogus: 1\n")
    code, said, complaint = command(capsys, "selftest", "--config", str(tmp_path / "bad.yaml"))
    assert (code, said) == (3, "")
    assert "bogus: unknown key" in complaint


def test_with_model_and_base(place: Place) -> None:
    from tests.fixtures_models import ensure_models

    root = ensure_models()
    place.write(f"models_dir: {root}/models\nknowledge_dir: {root}/knowledge\n", model="true")
    checks = {check.what: check for check in check_models(place.scene())}
    assert list(checks) == ["encoder", "encoder's answer", "knowledge base", "knowledge search"]
    assert states(checks, "ok") == list(checks)
    (canary,) = check_canary(place.scene())
    assert canary.state == "ok", canary
    # One byte of the model is another.
    shutil.copytree(root / "models" / "encoder", place.folder / "m" / "encoder")
    weights = place.folder / "m" / "encoder" / "encoder.gguf"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    place.write(f"models_dir: {place.folder}/m\n", model="true")
    (check,) = check_models(place.scene())
    assert check.state == "FAIL"
    assert "its manifest says" in check.words
    # One entry of the base is another.
    shutil.copytree(root / "knowledge", place.folder / "k")
    for entries in (place.folder / "k").glob("entries-*.db"):
        entries.write_bytes(entries.read_bytes()[:-1] + b"\1")
    place.write(f"models_dir: {root}/models\nknowledge_dir: {place.folder}/k\n", model="true")
    *_, check = check_models(place.scene())
    assert (check.what, check.state) == ("knowledge base", "FAIL")


def test_another_model_is_noticed_by_its_answers(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.fixtures_models import ensure_models

    root = ensure_models()
    place.write(f"models_dir: {root}/models\nknowledge_dir: {root}/knowledge\n", model="true")
    monkeypatch.setattr(appliance.selftest, "KNOWN_TEXTS", ("dump lsass memory", "an apple pie"))
    monkeypatch.setattr(appliance.selftest, "KNOWN_QUESTION", "an apple pie")
    checks = {check.what: check.state for check in check_models(place.scene())}
    assert checks["encoder's answer"] == checks["knowledge search"] == "FAIL"


# -- one by one ----------------------------------------------------------------------------------


def find(place: Place, what: str, **changes: Any) -> Check:
    found = [check for check in run_checks(place.scene(**changes)) if check.what == what]
    assert len(found) == 1, found
    return found[0]


def test_daemon(place: Place) -> None:
    assert find(place, "daemon").state == "WARN"
    status = {"pid": os.getpid(), "version": appliance.__version__, "troubles": []}
    assert find(place, "daemon", status=status).state == "ok"
    check = find(place, "daemon", status={**status, "version": "0.0"})
    assert (check.state, "restart" in check.words) == ("WARN", True)
    trouble = {"part": "disk", "words": "full", "since": T0, "notice": False}
    check = find(place, "daemon", status={**status, "troubles": [trouble]})
    assert (check.state, "disk: full" in check.words) == ("WARN", True)
    trouble["notice"] = True
    assert find(place, "daemon", status={**status, "troubles": [trouble]}).state == "ok"


def test_rules(place: Place) -> None:
    rules = place.folder / "rules"
    rules.mkdir()
    (rules / "a.yml").write_text("title: \x1b[31m [\n")
    place.write(f"rules: [{rules}]\n")
    assert find(place, "rules").state == "FAIL"
    (rules / "b.yml").write_text(
        "title: B\nlogsource: {product: linux}\ndetection: {s: {message: x}, condition: s}\n"
    )
    check = find(place, "rules")
    assert (check.state, check.words[:19]) == ("WARN", "1 loaded, 1 refused")
    assert "a.yml:1" in check.words


def test_store(place: Place) -> None:
    assert find(place, "store").state == "WARN"  # it has never run
    assert find(place, "store", status={"pid": os.getpid()}).state == "FAIL"
    path = place.folder / "state" / "store.db"
    path.parent.mkdir(mode=0o750)
    Store(path).close()
    assert find(place, "store").state == "ok"
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    assert find(place, "store").state == "FAIL"
    path.write_bytes(b"\xff" * 10_000)
    assert find(place, "store").state == "FAIL"


def test_rights(place: Place) -> None:
    state = place.folder / "state"
    state.mkdir(mode=0o750)
    for mode, wanted in ((0o750, "ok"), (0o700, "ok"), (0o755, "FAIL"), (0o770, "FAIL")):
        state.chmod(mode)
        assert find(place, "rights of the state").state == wanted, oct(mode)
    for mode, wanted in ((0o644, "ok"), (0o646, "FAIL")):
        place.path.chmod(mode)
        assert find(place, "rights of the configuration").state == wanted, oct(mode)
    with place.answering(lambda _: {}):
        control = state / "control.sock"
        assert find(place, "rights of the control socket").state == "ok"
        control.chmod(0o666)
        assert find(place, "rights of the control socket").state == "FAIL"


def test_clock(place: Place) -> None:
    def judge(now: float) -> str:
        return next(check_clock(place.scene(now=now))).state

    assert judge(1000.0) == "FAIL"  # before this version
    state = place.folder / "state"
    state.mkdir()
    newest = 4e9
    with closing(Store(state / "store.db", durable=False)) as store:
        batch = make_batch()
        batch.latest[("source:auth", "last_received")] = newest
        batch.latest[("source:auth", "last_event")] = newest
        store.write_batch(batch)
        assert judge(newest) == "ok"
        assert judge(newest - RECEIVED_AHEAD - 1) == "FAIL"
        batch.latest[("source:auth", "last_event")] = newest + EVENT_AHEAD + 1
        store.write_batch(batch)
        assert judge(newest) == "WARN"


@pytest.mark.parametrize(
    ("free", "state"), [(0, "FAIL"), (19, "FAIL"), (21, "WARN"), (99, "WARN"), (101, "ok")]
)
def test_room(free: int, state: str) -> None:
    disk = os.statvfs_result((4096, 4096, 1000, 500, free, 0, 0, 0, 0, 255))
    assert judge_room(Path("/x"), disk)[0] == state


def test_sources_as_the_daemon_says(place: Place) -> None:
    def judge(**row: Any) -> str:
        rows = [{"name": "auth", "seen": 5, **row}]
        (check,) = check_sources(place.scene(status={"sources": rows}))
        return check.state

    assert judge() == "ok"
    assert judge(seen=0) == "WARN"
    assert judge(rejected=1) == "WARN"
    assert judge(unreadable_files=1) == "FAIL"
    assert judge(error="port in use") == "FAIL"
    assert judge(listening=False) == "FAIL"
    trouble = {"part": "source auth", "words": "is not read", "notice": False}
    status = {"sources": [{"name": "auth", "seen": 5}], "troubles": [trouble]}
    (check,) = check_sources(place.scene(status=status))
    assert (check.state, check.words) == ("FAIL", "is not read")
    (check,) = check_sources(place.scene(status={"sources": []}))
    assert "restart or reload" in check.words


def test_sources_that_cannot_be_read(place: Place) -> None:
    place.folder.chmod(0o755)
    place.log.chmod(0o000)
    scene = place.scene()
    with no_rights():
        (check,) = check_sources(scene)
    assert check.state == "FAIL"
    assert str(place.log) in check.words
    place.log.unlink()
    (check,) = check_sources(place.scene())
    assert check.state == "WARN"


def test_what_another_user_may_read(place: Place) -> None:
    nobody = 65534
    assert os.geteuid() != nobody
    place.folder.chmod(0o755)
    place.log.chmod(0o644)
    assert may_read(place.log, nobody)
    place.log.chmod(0o640)
    assert not may_read(place.log, nobody)
    place.log.chmod(0o644)
    place.folder.chmod(0o750)
    assert not may_read(place.log, nobody)
    assert may_read(place.log, os.geteuid())


def test_sinks_are_looked_at_without_sending(place: Place) -> None:
    place.write(
        f"  - {{name: local, type: syslog, transport: unix, address: {place.folder}/none}}\n"
        "  - {name: far, type: syslog, transport: tcp, address: 'no.such.host.invalid:514'}\n"
    )
    assert find(place, "sink out").state == "ok"
    assert find(place, "sink siem").state == "ok"
    assert find(place, "sink local").state == "FAIL"
    assert find(place, "sink far").state == "FAIL"
    place.receiver.settimeout(0.2)
    with pytest.raises(TimeoutError):
        place.receiver.recv(10)
    place.folder.chmod(0o555)
    scene = place.scene()
    with no_rights():
        checks = {c.what: c for c in appliance.selftest.check_sinks(scene)}
    place.folder.chmod(0o700)
    assert checks["sink out"].state == "FAIL"


def test_sinks_as_the_daemon_says(place: Place) -> None:
    def judge(**facts: Any) -> str:
        row = {"name": "out", "type": "file", "delivered": 1, "waiting": 0, "lost": 0, "error": ""}
        status = {"sinks": [{**row, **facts}], "pid": os.getpid()}
        return next(appliance.selftest.check_sinks(place.scene(status=status))).state

    assert judge() == "ok"
    assert judge(lost=3) == "WARN"
    assert judge(error="refused") == "FAIL"


# -- the canary, and a daemon that lies ----------------------------------------------------------


class Ticking:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def judge_canary(place: Place, answer: Answer) -> dict[str, Check]:
    clock = Ticking()
    with place.answering(answer):
        scene = place.scene(status={"pid": 1}, timer=clock, sleep=clock.sleep)
        return {check.what: check for check in check_canary(scene)}


def put_finding(place: Place) -> None:
    from tests.builders import make_row

    state = place.folder / "state"
    state.mkdir(exist_ok=True)
    with closing(Store(state / "store.db")) as store:
        store.write_batch(make_batch([make_row(1, key=KEY)]))


def test_canary_that_never_comes(place: Place) -> None:
    state = place.folder / "state"
    state.mkdir()
    Store(state / "store.db").close()
    checks = judge_canary(place, lambda _: {"finding": KEY})
    assert list(checks) == ["canary"]
    assert (checks["canary"].state, "not in the store" in checks["canary"].words) == ("FAIL", True)
    checks = judge_canary(place, lambda _: {"running": True})
    assert checks["canary"].state == "FAIL"


def test_canary_that_a_sink_does_not_get(place: Place) -> None:
    put_finding(place)

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        if question["ask"] == "canary":
            return {"finding": KEY}
        if question["ask"] == "status":
            return {"sinks": [{"name": "siem", "error": "refused"}, {"name": "out", "error": ""}]}
        assert question == {"ask": "delivered", "id": KEY}
        return {"sinks": {"out": True, "siem": False}}

    checks = judge_canary(place, answer)
    assert {what: check.state for what, check in checks.items()} == {
        "canary": "ok", "canary at sink out": "ok", "canary at sink siem": "FAIL",
    }  # fmt: skip
    assert "refused" in checks["canary at sink siem"].words


def test_a_daemon_that_answers_nonsense(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    put_finding(place)

    def nonsense(question: dict[str, Any]) -> dict[str, Any]:
        return {"finding": KEY} if question["ask"] == "canary" else {"sinks": []}

    checks = judge_canary(place, nonsense)
    assert checks["canary at sink out"].words == "the daemon does not say"

    def fail(question: dict[str, Any]) -> dict[str, Any]:
        raise ApplianceError("I will not")

    with place.answering(fail):
        code, found = ask(capsys, place)
    assert code == 1
    assert "I will not" in found["daemon's answer"].words
    assert found["canary"].state == "ok"  # here, in this process


def test_canary_without_its_rule(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What proves that the canary needs the line to be found."""
    (place.folder / "own").mkdir()
    (place.folder / "own" / "x.yml").write_text(
        "title: X\nlogsource: {product: linux}\ndetection: {s: {message: x}, condition: s}\n"
    )
    monkeypatch.setattr(appliance.selftest, "own_rules", lambda: place.folder / "own")
    check = find(place, "canary")
    assert (check.state, "no finding came out" in check.words) == ("FAIL", True)


def test_a_check_that_breaks_stops_no_other(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(scene: Scene) -> Iterator[Check]:
        yield from ()
        raise OSError("broken")

    monkeypatch.setitem(appliance.selftest.CHECKS, "clock", break_down)
    checks = list(run_checks(place.scene()))
    assert Check("clock", "FAIL", "broken") in checks
    assert checks[-1].what == "canary"


# -- sink test -----------------------------------------------------------------------------------


def test_sink_test_with_a_daemon(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sink", "test", "--config", str(place.path)]
    with place.running():
        code, said, _ = command(capsys, *words, "--json")
        facts = json.loads(said)
        assert (code, facts["running"]) == (0, True), said
        assert [(row["name"], row["delivered"]) for row in facts["sinks"]] == [
            ("out", True), ("siem", True),
        ]  # fmt: skip
        assert b" TEST [test@32473 id=" in place.receiver.recv(9000)
        body = read_rows(place.folder / "out.jsonl")[-1]
        assert body["kind"] == "test"
        code, said, _ = command(capsys, *words[:2], "out", *words[2:])
        assert code == 0
        assert "ok    out: delivered" in said
        assert "siem" not in said


def test_sink_test_without_a_daemon(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    place.write(
        f"  - {{name: dead, type: syslog, transport: tcp, address: '127.0.0.1:{port}'}}\n"
        f"  - {{name: few, type: syslog, transport: unix, address: {place.siem},"
        " kinds: [finding]}\n"
    )
    code, said, _ = command(capsys, "sink", "test", "--config", str(place.path), "--json")
    rows = {row["name"]: row for row in json.loads(said)["sinks"]}
    assert code == 1
    assert {name: row["delivered"] for name, row in rows.items()} == {
        "out": True, "siem": True, "dead": False, "few": False,
    }  # fmt: skip
    assert "refused" in rows["dead"]["words"]
    assert "its kinds" in rows["few"]["words"]
    assert b" TEST [test@32473 id=" in place.receiver.recv(9000)
    assert not (place.folder / "out.jsonl").exists()
    place.receiver.settimeout(0.2)
    with pytest.raises(TimeoutError):  # one message, and none for the sink that wants none
        place.receiver.recv(9000)
    assert command(capsys, "sink", "test", "siem", "--config", str(place.path))[0] == 0
    code, _, complaint = command(capsys, "sink", "test", "sie", "--config", str(place.path))
    assert code == 2
    assert "out, siem, dead, few" in complaint


def test_sink_test_that_a_sink_does_not_get(place: Place) -> None:
    clock = Ticking()

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        if question["ask"] == "status":
            return {"sinks": [{"name": "siem", "error": "no route"}]}
        return {"sinks": {"out": clock.now > 3, "siem": False}}

    with place.answering(answer):
        scene = place.scene(timer=clock, sleep=clock.sleep)
        done = await_delivery(scene, KEY, ["out", "siem"])
    assert done["out"] == ""
    assert "no route" in done["siem"]


# -- reach ---------------------------------------------------------------------------------------


def test_addresses_of_the_kernel() -> None:
    if sys.byteorder != "little":
        pytest.skip("the samples are those of a little-endian machine")
    assert [str(part) for part in read_address("0100007F:1F90")] == ["127.0.0.1", "8080"]
    loopback = "0" * 24 + "01000000"
    assert [str(part) for part in read_address(f"{loopback}:0016")] == ["::1", "22"]
    mapped = "0000000000000000FFFF00000100007F"
    assert [str(part) for part in read_address(f"{mapped}:0202")] == ["127.0.0.1", "514"]


def test_sockets_are_seen_and_explained() -> None:
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="so-") as folder:

        def make(*kind: int) -> socket.socket:
            return stack.enter_context(socket.socket(*kind))

        tcp, client, udp, unix = (
            make(), make(), make(socket.AF_INET6, socket.SOCK_DGRAM), make(socket.AF_UNIX),
        )  # fmt: skip
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        client.connect(tcp.getsockname())
        accepted = stack.enter_context(tcp.accept()[0])
        udp.bind(("::1", 0))
        path = f"{folder}/a b"
        unix.bind(path)
        port, udp_port = tcp.getsockname()[1], udp.getsockname()[1]
        opened = list_sockets(os.getpid())
        strangers = {found.describe().partition(" (pid")[0] for found in find_strangers(opened, [])}
        mine = {
            f"tcp listening at 127.0.0.1:{port}",
            f"tcp 127.0.0.1:{client.getsockname()[1]} -> 127.0.0.1:{port}",
            f"tcp 127.0.0.1:{port} -> 127.0.0.1:{accepted.getpeername()[1]}",
            f"udp listening at ::1:{udp_port}",
            f"unix bound to {path}",
        }
        assert mine <= strangers
        ways = [
            Allowed("tcp", listens=True, hosts=frozenset({"127.0.0.1"}), port=port),
            Allowed("tcp", hosts=frozenset({"127.0.0.1"}), port=port),
            Allowed("udp", listens=True, hosts=frozenset({"::1"}), port=udp_port),
            Allowed("unix", path=path),
        ]
        for left_out in range(len(ways)):
            kept = ways[:left_out] + ways[left_out + 1 :]
            left = {f.describe().partition(" (pid")[0] for f in find_strangers(opened, kept)}
            assert left & mine, ways[left_out]
        left = {f.describe().partition(" (pid")[0] for f in find_strangers(opened, ways)}
        assert not left & mine
        elsewhere = [Allowed("tcp", hosts=frozenset({"192.0.2.1"}), port=port)]
        left = {f.describe().partition(" (pid")[0] for f in find_strangers(opened, elsewhere)}
        assert mine <= left


def test_children_are_looked_at_too() -> None:
    program = "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); sys.stdin.read()"  # noqa: E501
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    try:
        port = int(child.stdout.readline())
        assert child.pid in list_family(os.getpid())
        assert [s.local_port for s in list_sockets(child.pid) if s.listens] == [port]
    finally:
        child.communicate()


def test_every_configured_way_is_allowed() -> None:
    config = Config(
        sources=(FilesSource("a", ("/x",)),),
        sinks=(
            FileSink("f", "file", "/f"),
            SyslogSink("t", "syslog", "tcp", "192.0.2.5:601"),
            SyslogSink("u", "syslog", "udp", "[2001:db8::1]:514"),
            SyslogSink("x", "syslog", "unix", "/dev/log"),
            SyslogSink("n", "syslog", "tcp", "no.such.host.invalid:601"),
        ),
    )
    ways = list_ways(config)
    assert Allowed("unix", listens=True, path="/var/lib/appliance/control.sock") in ways
    assert Allowed("tcp", hosts=frozenset({"192.0.2.5"}), port=601) in ways
    assert Allowed("udp", hosts=frozenset({"2001:db8::1"}), port=514) in ways
    assert Allowed("unix", path="/dev/log") in ways
    assert Allowed("tcp", port=601) in ways  # a name that has no address now
    assert Allowed("udp", port=53) in ways  # and is looked up
    listener = SyslogSource("l", "syslog", "relp", "[2001:DB8:0:0::1]:20514")
    assert list_ways(replace(config, sources=(listener,), sinks=()))[1:] == [
        Allowed("tcp", listens=True, hosts=frozenset({"2001:db8::1"}), port=20514)
    ]
    numeric = replace(config, sinks=config.sinks[:4])
    assert not [way for way in list_ways(numeric) if way.port == 53]
