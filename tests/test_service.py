"""What the daemon tells systemd, and where its messages go."""

import io
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.service import (
    JournalHandler,
    OneLine,
    Service,
    find_own_entries,
    find_priority,
    find_unit,
    is_journal,
    read_watchdog,
    set_up_logging,
)

HOSTILE = "user \x1b[31mroot\nERROR appliance: forged \u202e\udce9"


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Stands for the service manager's end."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(path))
        end.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        yield end


def test_the_manager_is_told(manager: socket.socket) -> None:
    service = Service(environ={}, monotonic=lambda: 12.5)
    service.ready()
    service.reloading()
    service.status(HOSTILE)
    service.status(HOSTILE)
    service.status("x" * 10_000)
    service.stopping()
    got = [manager.recv(65536).decode() for _ in range(5)]
    assert got[0] == "READY=1"
    assert got[1] == "RELOADING=1\nMONOTONIC_USEC=12500000"
    assert got[2].startswith("STATUS=user \\x1b[31mroot\\x0aERROR")
    assert "\n" not in got[2]
    assert len(got[3]) < 400
    assert got[4] == "STOPPING=1"


def test_nothing_happens_outside_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    service = Service(environ={})
    service.ready()
    service.beat(1.0)
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/notify")
    service.ready()
    service.stopping()


def test_the_watchdog_is_fed_by_turns() -> None:
    sent: list[str] = []
    environ = {"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}

    def send(state: str) -> bool:
        sent.append(state)
        return True

    service = Service(environ=environ, send=send)
    assert service.watchdog_seconds == 60
    for now in range(100, 161):
        service.beat(now)
    assert sent == ["WATCHDOG=1"] * 5
    service.beat(50)  # the clock was set back
    assert len(sent) == 6
    service.beat(51)
    assert len(sent) == 6


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, 0),
        ({"WATCHDOG_USEC": "5000000"}, 5),
        ({"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "8"}, 0),
        ({"WATCHDOG_USEC": "soon", "WATCHDOG_PID": "7"}, 0),
        ({"WATCHDOG_USEC": "9" * 400}, 0),
    ],
)
def test_whose_watchdog_it_is(environ: dict[str, str], seconds: float) -> None:
    assert read_watchdog(environ, 7) == seconds


@pytest.mark.parametrize(
    ("line", "unit"),
    [
        ("0::/system.slice/appliance.service", "appliance.service"),
        ("0::/system.slice/system-appliance.slice/appliance@1.service", "appliance@1.service"),
        ("1:name=systemd:/system.slice/appliance.service", "appliance.service"),
        ("0::/user.slice/user-1000.slice/session-1.scope", ""),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/appliance.service", ""),
        ("0::/", ""),
        ("", ""),
    ],
)
def test_the_own_unit(line: str, unit: str) -> None:
    assert find_unit(line) == unit


def test_own_entries_are_those_of_the_process() -> None:
    own = find_own_entries(5.0, environ={})
    assert own.unit == ""
    assert own.pid == os.getpid()
    assert own.since == 5.0
    assert len(own.boot) == 32
    int(own.boot, 16)


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def test_messages_go_to_standard_error_in_one_line_each(root_logger: logging.Logger) -> None:
    stream = io.StringIO()
    set_up_logging(stream, environ={})
    log = logging.getLogger("appliance")
    log.info("%s", HOSTILE)
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        log.exception("failed")
    log.debug("not this")
    lines = stream.getvalue().split("\n")
    assert len(lines) == 3
    assert lines[0].startswith("INFO appliance: user \\x1b[31mroot\\x0aERROR appliance: forged")
    assert lines[1].startswith("ERROR appliance: failed\\x0aTraceback")
    assert lines[2] == ""
    assert stream.getvalue().isascii()


def test_the_journal_is_known_by_device_and_inode(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w") as stream:
        status = os.fstat(stream.fileno())
        right = f"{status.st_dev}:{status.st_ino}"
        assert is_journal(stream, {"JOURNAL_STREAM": right})
        assert isinstance(_handler(stream, right), JournalHandler)
        for other in ("", ":", "0:0", f"{status.st_dev}:0", f"{status.st_dev}"):
            assert not is_journal(stream, {"JOURNAL_STREAM": other})
            assert not isinstance(_handler(stream, other), JournalHandler)
    assert not is_journal(io.StringIO(), {"JOURNAL_STREAM": right})


def _handler(stream: io.TextIOWrapper, value: str) -> logging.Handler:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        return set_up_logging(stream, environ={"JOURNAL_STREAM": value})
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def record(message: str, level: int = logging.WARNING, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("appliance", level, "x.py", 1, "%s", (message,), None)
    made.__dict__.update(extra)
    return made


def test_the_journal_gets_fields() -> None:
    sent: list[str] = []
    handler = JournalHandler(logging.NullHandler(), send=lambda *fields: sent.extend(fields))
    handler.emit(record(HOSTILE, source="auth\nMESSAGE=forged", rule="r1", sink=None))
    assert "PRIORITY=4" in sent
    assert "SYSLOG_IDENTIFIER=appliance" in sent
    assert "APPLIANCE_SOURCE=auth\\x0aMESSAGE=forged" in sent
    assert "APPLIANCE_RULE=r1" in sent
    assert not any(field.startswith("APPLIANCE_SINK") for field in sent)
    assert not any("\n" in field for field in sent)
    "".join(sent).encode("utf-8")


def test_what_the_journal_does_not_take_goes_to_standard_error() -> None:
    def refuse(*_: str) -> None:
        raise OSError("no journal")

    stream = io.StringIO()
    JournalHandler(logging.StreamHandler(stream), send=refuse).emit(record("still here"))
    assert stream.getvalue() == "WARNING appliance: still here\n"


def test_a_very_long_message_is_cut() -> None:
    assert len(OneLine("%(message)s").format(record("x" * 1_000_000))) < 20_000


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.CRITICAL, 2), (logging.ERROR, 3), (35, 4), (logging.INFO, 6), (logging.DEBUG, 7)],
)
def test_priorities(level: int, priority: int) -> None:
    assert find_priority(level) == priority
