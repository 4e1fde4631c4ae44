"""The control socket: who may ask, what is no question, what must not silence it; and `status`."""

import json
import os
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import appliance.control
from appliance.config import Config, FilesSource
from appliance.control import QUESTION_BYTES, ControlServer, ask_daemon, peer_user
from appliance.errors import ApplianceError, StoreError
from appliance.status import build_status, read_stopped_status
from appliance.store import Store, StoreLimits
from tests.builders import T0, make_batch, make_messages, make_rejected, make_row

WAIT = 10.0
Answer = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture
def path() -> Iterator[Path]:
    """A socket's path in a folder with a short name: it has a limit."""
    with tempfile.TemporaryDirectory(prefix="ctl-") as folder:
        yield Path(folder) / "c.sock"


@pytest.fixture
def serve(path: Path) -> Iterator[Callable[[Answer], ControlServer]]:
    servers: list[ControlServer] = []

    def start(answer: Answer) -> ControlServer:
        server = ControlServer(path, answer)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.close()
        assert not server._thread.is_alive()


def echo(question: dict[str, Any]) -> dict[str, Any]:
    return {"asked": question}


def say(path: Path, raw: bytes, *, end: bool = True) -> Any:
    """What the server answers to these bytes; None when it closes without a word."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(WAIT)
        client.connect(str(path))
        try:
            client.sendall(raw)
            if end:
                client.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # refused before all of it was read: the answer is there all the same
        answer = b""
        try:
            while part := client.recv(1 << 16):
                answer += part
        except ConnectionResetError:
            pass
    return json.loads(answer) if answer else None


Serve = Callable[[Answer], ControlServer]


def test_question_and_answer(serve: Serve, path: Path) -> None:
    serve(echo)
    assert ask_daemon(path, {"ask": "status", "x": [1, "é"]}) == {
        "asked": {"ask": "status", "x": [1, "é"]}
    }
    assert ask_daemon(path, {}) == {"asked": {}}


def test_long_answer_comes_whole(serve: Serve, path: Path) -> None:
    serve(lambda _: {"text": "x" * 3_000_000})
    answer = ask_daemon(path, {})
    assert answer is not None
    assert len(answer["text"]) == 3_000_000


def test_question_in_pieces_and_more_behind_it(serve: Serve, path: Path) -> None:
    serve(echo)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        for part in (b'{"a":', b" 1}", b"\n{"):
            client.sendall(part)
            time.sleep(0.02)
        assert json.loads(client.makefile("rb").readline()) == {"asked": {"a": 1}}


def test_only_the_owner_can_reach_the_socket(serve: Serve, path: Path) -> None:
    before = os.umask(0o022)
    os.umask(before)
    serve(echo)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.umask(before) == before


def test_kernel_says_who_asks() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert peer_user(one) == os.geteuid()


@pytest.mark.parametrize(("offset", "may"), [(None, True), (0, True), (1, False), (65534, False)])
def test_only_root_and_the_own_user_may_ask(
    serve: Serve, path: Path, monkeypatch: pytest.MonkeyPatch, offset: int | None, may: bool
) -> None:
    user = 0 if offset is None else os.geteuid() + offset
    monkeypatch.setattr(appliance.control, "peer_user", lambda _: user)
    asked: list[dict[str, Any]] = []

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        asked.append(question)
        return {}

    serve(answer)
    if may:
        assert ask_daemon(path, {}) == {}
    else:
        with pytest.raises(ApplianceError, match="only root"):
            ask_daemon(path, {})
    assert bool(asked) == may


@pytest.mark.parametrize(
    "raw",
    [
        b"\n",
        b"",
        b"status\n",
        b"\xff\xfe\x00\n",
        b"[1]\n",
        b"null\n",
        b'{"a":',
        b'{"a": 1}',
        b"[" * 4000 + b"\n",
        b'{"a": "' + b"x" * QUESTION_BYTES + b'"}\n',
        b"x" * (QUESTION_BYTES * 8),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_question_gets_an_error_and_harms_nobody(
    serve: Serve, path: Path, raw: bytes
) -> None:
    serve(echo)
    assert list(say(path, raw)) == ["error"]
    assert ask_daemon(path, {"n": 1}) == {"asked": {"n": 1}}


def test_who_says_nothing_does_not_block_others_for_long(
    serve: Serve, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appliance.control, "QUESTION_SECONDS", 0.1)
    serve(echo)
    with socket.socket(socket.AF_UNIX) as silent, socket.socket(socket.AF_UNIX) as slow:
        silent.connect(str(path))
        slow.connect(str(path))
        stop = threading.Event()

        def dribble() -> None:
            while not stop.wait(0.03):
                try:
                    slow.sendall(b"x")
                except OSError:
                    return

        thread = threading.Thread(target=dribble)
        thread.start()
        began = time.monotonic()
        assert ask_daemon(path, {}) == {"asked": {}}
        assert time.monotonic() - began < 2.0
        stop.set()
        thread.join(WAIT)
        assert "in time" in json.loads(silent.makefile("rb").readline())["error"]


def test_who_goes_away_before_the_answer_harms_nobody(serve: Serve, path: Path) -> None:
    serve(lambda _: {"text": "x" * 1_000_000})
    for raw in (b"", b"{", b"{}\n"):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(raw)
    assert ask_daemon(path, {}) is not None


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (ApplianceError("no store"), "no store"),
        (ZeroDivisionError("oops"), "fault in the daemon: ZeroDivisionError: oops"),
        (FileNotFoundError(2, "gone"), "fault in the daemon: FileNotFoundError"),
        (ValueError("\udcff"), "fault in the daemon: ValueError"),
    ],
)
def test_a_fault_in_the_answer_is_said_and_the_next_question_answered(
    serve: Serve, path: Path, fault: Exception, said: str
) -> None:
    faults = [fault]

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        if faults:
            raise faults.pop()
        return echo(question)

    serve(answer)
    with pytest.raises(ApplianceError) as caught:
        ask_daemon(path, {})
    assert said in str(caught.value)
    assert ask_daemon(path, {}) == {"asked": {}}


@pytest.mark.parametrize("value", [object(), "\udcff", 1 << 70, {1: 2}])
def test_an_answer_that_is_no_json_is_a_fault_too(serve: Serve, path: Path, value: Any) -> None:
    serve(lambda _: {"value": value})
    with pytest.raises(ApplianceError, match="fault in the daemon"):
        ask_daemon(path, {})
    with pytest.raises(ApplianceError, match="fault in the daemon"):
        ask_daemon(path, {})


def test_stale_socket_is_replaced_and_removed_at_the_end(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    assert ask_daemon(path, {}) is None
    server = ControlServer(path, echo)
    server.start()
    assert ask_daemon(path, {}) == {"asked": {}}
    server.close()
    assert not path.exists()
    assert ask_daemon(path, {}) is None


def test_what_is_no_socket_is_left_alone(path: Path) -> None:
    path.write_text("precious")
    link = path.with_name("link")
    link.symlink_to(path)
    for wrong in (path, link):
        server = ControlServer(wrong, echo)
        with pytest.raises(ApplianceError, match="something else is there"):
            server.start()
        server.close()
    assert path.read_text() == "precious"
    assert link.is_symlink()
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
    with pytest.raises(ApplianceError, match="something else is there"):
        ControlServer(link, echo).start()  # nor a link, wherever it leads
    assert link.is_symlink()


def test_socket_that_cannot_be_made(path: Path) -> None:
    for wrong in (path.parent / "absent" / "c.sock", path.with_name("x" * 200)):
        server = ControlServer(wrong, echo)
        with pytest.raises(ApplianceError, match="control socket"):
            server.start()
        server.close()


def test_asking_where_nobody_can_answer(path: Path) -> None:
    assert ask_daemon(path, {}) is None
    assert ask_daemon(path.with_name("x" * 200), {}) is None  # longer than any socket's path
    path.parent.joinpath("file").touch()
    with pytest.raises(ApplianceError, match="control socket"):
        ask_daemon(path.parent / "file" / "c.sock", {})


@pytest.mark.parametrize("raw", [b"", b"{", b"5\n", b"[]\n"])
def test_who_answers_nonsense(path: Path, raw: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def answer() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(100)
                peer.sendall(raw)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ApplianceError, match="does not answer"):
            ask_daemon(path, {})
        thread.join(WAIT)


def test_daemon_that_hangs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appliance.control, "TIMEOUT_SECONDS", 0.05)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        with pytest.raises(ApplianceError, match="does not answer"):
            ask_daemon(path, {})


# -- status ----------------------------------------------------------------------------------------


def make_config(folder: Path) -> Config:
    return Config(
        state_dir=str(folder), sources=(FilesSource("logs", ()), FilesSource("silent", ()))
    )


def test_status_of_what_never_ran(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="never run"):
        read_stopped_status(make_config(tmp_path))


def test_stopped_status_lists_silent_sources_caps_and_losses(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    store = Store(config.store_path, limits=StoreLimits(rejected=1, outbox=2))
    store.open_sinks(["out"])
    store.write_batch(
        make_batch(
            [make_row(1), make_row(2, time=T0 + 1)],
            rejected=[make_rejected(1), make_rejected(2)],
            counts={
                ("source:logs", "seen"): 5,
                ("source:logs", "rejected"): 2,
                ("detector:sigma", "fired"): 2,
                ("level:high", "findings"): 2,
            },
            latest={("source:logs", "last_event"): T0},
            messages=make_messages(3),
        )
    )
    store.close()
    facts = read_stopped_status(config)
    assert facts["running"] is False
    logs, silent = facts["sources"]
    assert (logs["seen"], logs["rejected"], logs["decoded"], logs["last_event"]) == (5, 2, 0, T0)
    assert (silent["name"], silent["seen"], silent["last_event"]) == ("silent", 0, None)
    assert (facts["detectors"], facts["levels"]) == ({"sigma": 2}, {"high": 2})
    assert facts["queues"]["rejected"] == {
        "depth": 1, "cap": config.limits.rejected_rows, "dropped": 1,
    }  # fmt: skip
    assert facts["sinks"] == [{"name": "out", "delivered": 0, "waiting": 2, "lost": 1}]
    assert [row["number"] for row in facts["last_findings"]] == [1, 2]
    assert facts["store_bytes"] > 0
    json.dumps(facts)


def test_running_status_adds_what_only_the_daemon_knows(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    store = Store(config.store_path)
    store.open_sinks(["out"])
    live: dict[str, Any] = {
        "running": True,
        "sources": {"silent": {"files": 0}},
        "sinks": {"out": {"error": "refused"}},
        "queues": {"judge": {"depth": 1, "cap": 2}},
    }
    facts = build_status(store, config, live)
    store.close()
    assert facts["sources"][1]["files"] == 0
    assert facts["sinks"][0]["error"] == "refused"
    assert facts["queues"]["judge"] == {"depth": 1, "cap": 2}
    assert facts["queues"]["outbox"]["dropped"] == 0
    assert facts["running"] is True
