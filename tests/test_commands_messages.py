"""Heartbeats and test messages on their way out, beside findings and incidents."""

import json
from pathlib import Path
from typing import Any

import pytest

from appliance.config import Config, FileSink, SyslogSink
from appliance.emit.file import FileSink as FileWriter
from appliance.emit.sink import ALL_KINDS
from appliance.emit.syslog import ELEMENTS, MESSAGE_IDS, SyslogProfile, format_syslog
from appliance.schema import Message, MessageKind, SinkPosition
from tests.builders import T0

KEY = "ab" * 16
PROFILE = SyslogProfile("box", enterprise="32473")


def make(kind: MessageKind, **body: Any) -> Message:
    return Message(1, kind, KEY, T0, {"kind": kind, "id": KEY, "time": "t", **body})


def test_every_kind_has_its_words() -> None:
    assert set(MESSAGE_IDS) == set(ELEMENTS) == set(ALL_KINDS)
    for kind in ALL_KINDS:
        assert MESSAGE_IDS[kind].encode() in format_syslog(make(kind), PROFILE)


def test_heartbeat() -> None:
    raw = format_syslog(make("heartbeat", healthy=True, seen=7, rate=1.5, version="1"), PROFILE)
    assert raw == (
        b'<166>1 2023-11-14T22:13:20.000000Z box appliance - HEARTBEAT [heartbeat@32473 id="'
        + KEY.encode() + b'" healthy="true" seen="7" rate="1.500" version="1"] Heartbeat '
        + KEY.encode() + b": all is well"
    )  # fmt: skip
    raw = format_syslog(make("heartbeat", healthy=False, trouble="source a is silent"), PROFILE)
    assert raw.startswith(b"<164>")
    assert b'healthy="false"' in raw
    assert raw.endswith(b": NOT healthy: source a is silent")
    assert format_syslog(make("heartbeat"), PROFILE).startswith(b"<164>")  # it does not say so


def test_test_message() -> None:
    raw = format_syslog(make("test", text="hello"), PROFILE)
    assert raw.startswith(b"<165>1 2023-11-14T22:13:20.000000Z box appliance - TEST [test@32473 ")
    assert b'text="hello"] Test message ' in raw
    assert raw.endswith(b": hello")


def test_no_body_forges_another_parameter() -> None:
    raw = format_syslog(
        make("heartbeat", healthy=True, **{'x" y': 1, "a=b": 2, "c]": 3, "": 4, "ü": 5},
             trouble='"] [finding@32473 id="0" \x1b[31m\n<0>1 '),
        PROFILE,
    )  # fmt: skip
    assert raw.count(b"[heartbeat@") == 1
    assert b'[finding@32473 id="0"' not in raw.partition(b"] Heartbeat")[0].replace(b'\\"', b"")
    assert not any(byte < 0x20 for byte in raw)
    data = raw.partition(b" Heartbeat ")[0]
    for name in (b"a=b", b"c]=", b'x"', b"\xc3\xbc"):
        assert name not in data


@pytest.mark.parametrize("kind", ["heartbeat", "test"])
@pytest.mark.parametrize("limit", [480, 2048])
def test_limits_hold(kind: MessageKind, limit: int) -> None:
    body = {f"n{i}": 'ü"]\\' * 100 for i in range(200)}
    raw = format_syslog(
        make(kind, healthy=False, trouble="x" * 10_000, text="y" * 10_000, **body),
        SyslogProfile("box", max_bytes=limit),
    )
    assert len(raw) <= limit
    assert KEY.encode() in raw


def test_defaults_take_them() -> None:
    syslog = SyslogSink("s", "syslog", "tcp", "192.0.2.1:601")
    assert set(syslog.kinds) == ALL_KINDS
    assert "test" in FileSink("f", "file", "/x").kinds
    assert Config().sinks == ()


def test_file_holds_them(tmp_path: Path) -> None:
    sink = FileWriter("f", str(tmp_path / "x"))
    sink.deliver([make("test", text="hello")], SinkPosition())
    sink.close()
    assert json.loads((tmp_path / "x").read_bytes()) == {
        "kind": "test", "id": KEY, "time": "t", "text": "hello",
    }  # fmt: skip
