"""RFC 5424 messages, judged by a strict parser that shares no code with the writer."""

import re
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.emit.render import render_finding, render_incident
from appliance.emit.syslog import FACILITIES, SEVERITIES, SyslogProfile, format_syslog
from appliance.schema import LEVELS, Message, MessageKind
from tests.test_emit_render import (
    ANY_TEXT,
    HOSTILE,
    check_golden,
    make_finding,
    make_incident,
)

PROFILE = SyslogProfile(hostname="sensor.plant.example", procid="812")
KINDS: tuple[MessageKind, ...] = ("finding", "update", "incident")


@dataclass
class Parsed:
    """A message as the referee read it."""

    priority: int
    timestamp: str
    hostname: str
    app_name: str
    procid: str
    msgid: str
    elements: dict[str, list[tuple[str, str]]]
    text: str

    def params(self, element: str) -> dict[str, str]:
        return dict(self.elements[element])


TIMESTAMP = re.compile(
    r"-|[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
    r"(\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)
SD_NAME = re.compile(r'[^\x00-\x20=\]"\x7f-\U0010ffff]{1,32}')


class Referee:
    """RFC 5424, section 6, ABNF, and nothing lenient. Raises AssertionError."""

    def __init__(self, raw: bytes) -> None:
        self.text = raw.decode("utf-8", "strict")
        self.at = 0

    def take(self, pattern: str | re.Pattern[str]) -> str:
        found = re.compile(pattern).match(self.text, self.at)
        assert found is not None, (pattern, self.text[self.at : self.at + 40])
        self.at = found.end()
        return found.group()

    def parse(self) -> Parsed:
        self.take("<")
        priority = self.take("0(?!\\d)|[1-9][0-9]{0,2}")
        assert int(priority) <= 191
        self.take(">1 ")
        timestamp = self.take(TIMESTAMP)
        hostname, app_name, procid, msgid = (
            self.take(f" [\\x21-\\x7e]{{1,{limit}}}")[1:] for limit in (255, 48, 128, 32)
        )
        self.take(" ")
        elements = self.parse_elements()
        text = ""
        if self.at < len(self.text):
            self.take(" ")
            text = self.text[self.at :]
        if text.startswith("\ufeff"):
            text = text[1:]
        else:
            assert text.isascii(), "a MSG in UTF-8 starts with the byte order mark"
        return Parsed(int(priority), timestamp, hostname, app_name, procid, msgid, elements, text)

    def parse_elements(self) -> dict[str, list[tuple[str, str]]]:
        elements: dict[str, list[tuple[str, str]]] = {}
        if self.text[self.at] == "-":
            self.at += 1
            return elements
        while self.at < len(self.text) and self.text[self.at] == "[":
            self.at += 1
            name = self.take(SD_NAME)
            assert name not in elements
            assert re.fullmatch(r"[^@]+@[0-9.]+", name)
            params = elements[name] = []
            while self.text[self.at] == " ":
                self.at += 1
                key = self.take(SD_NAME)
                self.take('="')
                raw = self.take(r'(?:\\["\\\]]|[^"\\\]])*')
                self.take('"')
                params.append((key, re.sub(r'\\(["\\\]])', r"\1", raw)))
            self.take(r"\]")
        assert elements
        return elements


def parse(raw: bytes) -> Parsed:
    """The message, after asking that no control character or line separator is anywhere in it."""
    assert min(raw) >= 0x20
    for char in raw.decode().replace("\ufeff", "", 1):
        assert not (0x7F <= ord(char) <= 0x9F), char
        assert char not in "\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    return Referee(raw).parse()


def make_message(kind: MessageKind, text: str = "", **changes: Any) -> Message:
    if kind == "incident":
        body = render_incident(make_incident(text))
    else:
        body = render_finding(make_finding(text), "c" * 32, kind=kind)
    body.update(changes)
    return Message(seq=1, kind=kind, id=body["id"], time=1_700_000_020.5, body=body)


@pytest.mark.parametrize(
    "raw",
    [
        b"<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - hello",
        b'<165>1 2003-08-24T05:14:15.000003-07:00 192.0.2.1 app 8710 - [a@1 b="\\"\\]\\\\"] x',
        b"<0>1 - - - - - -",
    ],
)
def test_referee_accepts_what_the_rfc_allows(raw: bytes) -> None:
    parse(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"<192>1 - - - - - -",
        b"<034>1 - - - - - -",
        b"<34>1 2003-10-11T22:14:15.0000003Z - - - - -",
        b"<34>1 2003-10-11 22:14:15Z - - - - -",
        b'<34>1 - - - - - [a@1 b="x]"]',
        b'<34>1 - - - - - [a@1 b="x"y"]',
        b'<34>1 - - - - - [a@1 b="\\x"]',
        b'<34>1 - - - - - [a@1 b="x"][a@1 b="x"]',
        b"<34>1 - - - - - - a\nb",
        "<34>1 - - - - - - caf\u00e9".encode(),
        b"<34>1 - - - - - [a@1 b=x]",
        b"<34>1 - host app 1 two words - -",
    ],
)
def test_referee_refuses_what_the_rfc_forbids(raw: bytes) -> None:
    with pytest.raises(AssertionError):
        parse(raw)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["", HOSTILE], ids=["plain", "hostile"])
def test_golden_messages(kind: MessageKind, text: str) -> None:
    made = format_syslog(make_message(kind, text), PROFILE)
    parse(made)
    check_golden(f"{'hostile_' if text else ''}{kind}.syslog", made + b"\n")


def test_finding_says_everything() -> None:
    parsed = parse(format_syslog(make_message("finding"), PROFILE))
    assert parsed.priority == 20 * 8 + 3
    assert parsed.timestamp == "2023-11-14T22:13:40.500000Z"
    assert (parsed.hostname, parsed.app_name) == ("sensor.plant.example", "appliance")
    assert (parsed.procid, parsed.msgid) == ("812", "FINDING")
    assert parsed.params("finding@32473") == {
        "id": "f" * 32,
        "level": "high",
        "title": "Encoded PowerShell command",
        "rule": "3d4ebe4c-0000-4000-8000-000000000001",
        "host": "ws01",
        "time": "2023-11-14T22:13:20.250000Z",
        "incident": "c" * 32,
        "verdict": "suspicious",
        "score": "1.000",
        "technique": "T1059.001,T1027",
        "tactic": "execution,defense-evasion",
        "citation": "attack:T1027,attack:T1059.001",
    }
    assert parsed.text.startswith("Finding " + "f" * 32 + ": high, on ws01")


def test_incident_says_everything() -> None:
    parsed = parse(format_syslog(make_message("incident"), PROFILE))
    assert parsed.msgid == "INCIDENT"
    assert parsed.priority == 20 * 8 + 2
    params = parsed.params("incident@32473")
    assert params["id"] == "c" * 32
    assert params["findings"] == "42"
    assert params["hosts"] == "ws01,dc\\x2c01"  # a comma in a name can't make two of it
    assert (params["first"], params["last"]) == (
        "2023-11-14T22:13:20.250000Z",
        "2023-11-14T23:13:20.000000Z",
    )
    assert set(params) == {
        "id", "level", "status", "findings", "first", "last", "title", "hosts", "tactics",
        "aliases",
    }  # fmt: skip


def test_every_level_has_its_severity() -> None:
    assert set(SEVERITIES) == set(LEVELS)
    for level, severity in [("critical", 2), ("high", 3), ("medium", 4), ("low", 5)]:
        raw = format_syslog(make_message("update", level=level), PROFILE)
        assert parse(raw).priority == FACILITIES["local4"] * 8 + severity
    assert parse(format_syslog(make_message("update", level=["odd"]), PROFILE)).priority % 8 == 4


@pytest.mark.parametrize("facility", sorted(FACILITIES))
def test_facilities(facility: str) -> None:
    profile = SyslogProfile("h", facility=facility)
    assert parse(format_syslog(make_message("finding"), profile)).priority == (
        FACILITIES[facility] * 8 + 3
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"facility": "local8"},
        {"enterprise": "acme"},
        {"enterprise": "1] x"},
        {"enterprise": "1" * 30},
        {"max_bytes": 479},
        {"max_bytes": 2_000_000},
        {"max_bytes": 480, "procid": "9" * 120},
    ],
)
def test_profiles_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"facility|enterprise|max_bytes"):
        SyslogProfile(**{"hostname": "h" * 255, **wrong})


def test_byte_order_mark_only_for_text_that_is_not_ascii() -> None:
    assert b"\xef\xbb\xbf" not in format_syslog(make_message("finding"), PROFILE)
    assert b"] \xef\xbb\xbfFinding " in format_syslog(make_message("finding", "ü"), PROFILE)


def test_odd_times_and_bodies_still_make_a_message() -> None:
    message = msgspec.structs.replace(make_message("finding"), time=float("inf"))
    assert parse(format_syslog(message, PROFILE)).timestamp == "-"
    empty = Message(seq=1, kind="incident", id="c" * 32, time=0.0, body={})
    assert parse(format_syslog(empty, PROFILE)).params("incident@32473") == {"id": "c" * 32}
    odd = make_message("finding", techniques=7, citations=["x"], score=10**5000, title=["\n"])
    assert parse(format_syslog(odd, PROFILE)).params("finding@32473")["technique"] == "7"


def test_cut_keeps_the_id_and_the_important() -> None:
    message = make_message("finding", 'ü"\x1b' * 3000)
    for limit in (480, 600, 1024, 2048, 8192):
        raw = format_syslog(message, SyslogProfile("h", max_bytes=limit))
        params = parse(raw).params("finding@32473")
        assert limit - 64 <= len(raw) <= limit
        assert params["id"] == "f" * 32
        assert params["level"] == "high"
        assert params["title"].endswith("...")


PLAIN_LIMITS = st.integers(480, 3000)


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    text=ANY_TEXT,
    repeat=st.sampled_from([1, 1, 40]),
    limit=PLAIN_LIMITS,
    hostname=ANY_TEXT,
)
def test_any_text_makes_exactly_one_valid_message(
    kind: MessageKind, text: str, repeat: int, limit: int, hostname: str
) -> None:
    message = make_message(kind, text * repeat)
    raw = format_syslog(message, SyslogProfile(hostname, max_bytes=limit))
    assert len(raw) <= limit
    parsed = parse(raw)
    assert list(parsed.elements) == [("incident" if kind == "incident" else "finding") + "@32473"]
    ((_, params),) = parsed.elements.items()
    assert params[0] == ("id", message.id)
    assert len({name for name, _ in params}) == len(params)
    assert message.id in parsed.text


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(KINDS), identifier=ANY_TEXT, values=st.lists(ANY_TEXT, min_size=6))
def test_any_text_in_any_field_is_quoted(
    kind: MessageKind, identifier: str, values: list[str]
) -> None:
    keys = ("level", "title", "incident", "status", "host", "hosts", "verdict", "time")
    body: dict[str, Any] = dict(zip(keys, values, strict=False))
    raw = format_syslog(Message(1, kind, identifier, 0.0, body), PROFILE)
    parsed = parse(raw)
    assert len(parsed.elements) == 1


def test_clean_text_comes_back_exactly() -> None:
    title = 'C:\\Program Files\\x "quoted" [brackets] = ünïcödé'
    parsed = parse(format_syslog(make_message("finding", title=title), PROFILE))
    assert parsed.params("finding@32473")["title"] == title
