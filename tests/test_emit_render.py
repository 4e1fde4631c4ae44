"""The objects a JSON reader gets: exact content, caps, hostile text, golden files."""

import json
import math
import os
import sys
import unicodedata
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.emit.render import (
    MAX_ENTITIES,
    MAX_FINDINGS,
    MAX_MATCHED,
    MAX_VALUE,
    collect_citations,
    decide_verdict,
    render_finding,
    render_incident,
    render_time,
    to_json_line,
)
from appliance.emit.text import HIDDEN, cap_text, show_hidden
from appliance.schema import (
    Citation,
    Cursor,
    Detection,
    Entity,
    Event,
    Finding,
    Incident,
    LogSource,
    Match,
    RawRecord,
    Verdict,
    VerdictLabel,
    View,
)

GOLDEN = Path(__file__).parent / "golden" / "emit"
CONTRACT = {
    "id", "time", "host", "detector", "rule_id", "title", "level", "score", "techniques",
    "tactics", "logsource", "source", "entities", "matched", "verdict", "verdicts", "citations",
    "incident",
}  # fmt: skip
HOSTILE = (
    'x\n<0>1 - - - - - [finding@32473 id="forged"] \r\0\x1b]0;owned\x07\x7f\x85\x9b2J'
    '\u2028\u2029\u202egnp.exe\u2066\ufeff\U000e0041 \udc80\ud800 "]\\ =ü日本'
)
#: Any text at all, lone surrogates too, with the dangerous characters made likely.
ANY_TEXT = st.text(
    st.one_of(st.characters(exclude_categories=()), st.sampled_from(HOSTILE)), max_size=60
)


def check_golden(name: str, made: bytes) -> None:
    """Compare with the golden file; REFRESH_GOLDEN=1 writes it anew."""
    path = GOLDEN / name
    if os.environ.get("REFRESH_GOLDEN") == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made)
    assert made == path.read_bytes()


def make_finding(text: str = "", **changes: Any) -> Finding:
    """A finding with two experts; `text` is appended to everything a log or rule may decide."""
    record = RawRecord(
        data=b"raw",
        source="sysmon" + text,
        path="/var/log/sysmon.evtx" + text,
        logical="sysmon.evtx",
        cursor=Cursor(source="sysmon", key="sysmon.evtx", position=4711, next=4712),
        received=1_700_000_010.0,
    )
    view = View(LogSource(product="windows", category="process_creation"), {"Image": "x"})
    event = Event(
        id="e" * 32,
        time=1_700_000_000.25,
        received=1_700_000_010.0,
        host="ws01" + text,
        views=(view,),
        entities=(Entity("host", "ws01" + text), Entity("user", "corp\\alice" + text)),
        record=record,
        format="evtx",
    )
    fields: dict[str, Any] = {
        "detector": "sigma",
        "rule_id": "3d4ebe4c-0000-4000-8000-000000000001" + text,
        "title": "Encoded PowerShell command" + text,
        "level": "high",
        "techniques": ("T1059.001", "T1027") if not text else ("T1059.001", text),
        "tactics": ("execution", "defense-evasion"),
        "event": event,
        "logsource": LogSource(product="windows", category="process_creation"),
        "matched": (
            Match("CommandLine", "powershell -enc SQBFAFgA" + text, "* -enc *" + text),
            Match(None, "SQBFAFgA" + text, "SQBFAFgA"),
        ),
    }
    verdicts = (
        Verdict("detection", "suspicious", 0.7, "Two rules agree." + text),
        Verdict(
            "knowledge",
            "insufficient_data",
            0.0,
            "Nothing similar is known." + text,
            (
                Citation("attack:T1027", "Obfuscated Files", 0.61, "similarity"),
                Citation("attack:T1059.001", "PowerShell" + text, 1.0, "tag"),
                Citation("attack:T1027", "Obfuscated Files", 1.0, "tag"),
            ),
        ),
    )
    return Finding("f" * 32, Detection(**{**fields, **changes}), verdicts)


def make_incident(text: str = "", findings: int = 2) -> Incident:
    """An incident over two hosts."""
    return Incident(
        id="c" * 32,
        number=7,
        status="open",
        level="critical",
        title="Execution and credential access on ws01" + text,
        entities=(
            Entity("host", "ws01" + text),
            Entity("user", "alice" + text),
            Entity("host", "dc,01" + text),
        ),
        findings=tuple(f"{number:032x}" for number in range(findings)),
        count=findings + 40,
        tactics=("execution", "credential-access"),
        first_seen=1_700_000_000.25,
        last_seen=1_700_003_600.0,
        aliases=("a" * 32,),
    )


def label(name: VerdictLabel) -> Verdict:
    return Verdict("x", name, 0.5, "")


def test_finding_is_exactly_the_contract() -> None:
    body = render_finding(make_finding(), None)
    assert set(body) == CONTRACT
    assert body["time"] == "2023-11-14T22:13:20.250000Z"
    assert body["source"] == {"name": "sysmon", "path": "/var/log/sysmon.evtx", "record": 4711}
    assert body["logsource"] == {
        "product": "windows",
        "category": "process_creation",
        "service": None,
    }
    assert body["entities"][1] == {"kind": "user", "value": "corp\\alice"}
    assert body["matched"][1] == {"field": None, "value": "SQBFAFgA", "pattern": "SQBFAFgA"}
    assert body["verdict"] == "suspicious"
    assert [entry["label"] for entry in body["verdicts"]] == ["suspicious", "insufficient_data"]
    assert [(entry["id"], entry["score"]) for entry in body["citations"]] == [
        ("attack:T1027", 1.0),
        ("attack:T1059.001", 1.0),
    ]
    assert body["incident"] is None
    assert render_finding(make_finding(), "c" * 32)["incident"] == "c" * 32


def test_kind_is_said_only_when_given() -> None:
    body = render_finding(make_finding(), None, kind="update")
    assert body.pop("kind") == "update"
    assert body == render_finding(make_finding(), None)


@pytest.mark.parametrize("name", ["finding", "incident", "hostile_finding", "hostile_incident"])
def test_golden_lines(name: str) -> None:
    text = HOSTILE if name.startswith("hostile") else ""
    if name.endswith("finding"):
        body = render_finding(make_finding(text), "c" * 32)
    else:
        body = render_incident(make_incident(text))
    check_golden(f"{name}.jsonl", to_json_line(body) + b"\n")


def test_incident_counts_survive_the_cap() -> None:
    body = render_incident(make_incident(findings=MAX_FINDINGS + 5))
    assert len(body["findings"]) == MAX_FINDINGS
    assert body["count"] == MAX_FINDINGS + 45
    assert body["number"] == 7
    assert body["entity_count"] == 3
    assert body["hosts"] == ["ws01", "dc,01"]


@pytest.mark.parametrize(
    ("labels", "decided"),
    [
        ([], "insufficient_data"),
        (["insufficient_data"], "insufficient_data"),
        (["insufficient_data", "benign"], "benign"),
        (["benign", "benign", "suspicious"], "suspicious"),
        (["benign", "true_positive", "suspicious"], "true_positive"),
    ],
)
def test_worst_verdict_decides(labels: list[VerdictLabel], decided: VerdictLabel) -> None:
    assert decide_verdict([label(name) for name in labels]) == decided
    assert decide_verdict([label(name) for name in reversed(labels)]) == decided


def test_citation_order_does_not_depend_on_the_experts() -> None:
    cited = [
        Citation("b", "b", 1.0, "similarity"),
        Citation("c", "c", 1.0, "tag"),
        Citation("a", "a", 0.5, "similarity"),
    ]
    one = Verdict("one", "benign", 1.0, "", tuple(cited))
    two = Verdict("two", "benign", 1.0, "", tuple(reversed(cited)))
    assert [entry.id for entry in collect_citations([one, two])] == ["c", "b", "a"]
    assert collect_citations([one, two]) == collect_citations([two, one])


def test_everything_is_capped() -> None:
    huge = "A" * 1_000_000
    finding = make_finding(huge, matched=(Match("f", huge, huge),) * 10_000)
    line = to_json_line(render_finding(finding, None))
    body = json.loads(line)
    assert len(body["matched"]) == MAX_MATCHED
    assert body["matched"][0]["value"] == "A" * MAX_VALUE + "... (1000000 characters)"
    assert len(line) < 1_000_000
    entities = (Entity("address", "10.0.0.1"),) * (MAX_ENTITIES + 1)
    crowd = msgspec.structs.replace(make_incident(), entities=entities)
    assert len(render_incident(crowd)["entities"]) == MAX_ENTITIES
    assert render_incident(crowd)["entity_count"] == MAX_ENTITIES + 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000000Z"),
        (-1.5, "1969-12-31T23:59:58.500000Z"),
        (-62135596800.0, "0001-01-01T00:00:00.000000Z"),
        (1e18, None),
        (-1e18, None),
        (math.inf, None),
        (math.nan, None),
    ],
)
def test_times(seconds: float, text: str | None) -> None:
    assert render_time(seconds) == text


def test_json_line_of_hostile_text_is_safe_and_exact() -> None:
    line = to_json_line({"a": HOSTILE})
    assert HIDDEN.search(line.decode()) is None
    expected = HOSTILE.replace("\udc80", "\\udc80").replace("\ud800", "\\ud800")
    assert orjson.loads(line) == {"a": expected}
    assert b"\\udb40\\udc41" in line  # the tag character as JSON's surrogate pair


@given(ANY_TEXT)
def test_any_text_makes_one_valid_line(text: str) -> None:
    line = to_json_line(render_finding(make_finding(text), None))
    assert min(line) >= 0x20
    assert HIDDEN.search(line.decode()) is None
    body = orjson.loads(line)
    assert body["id"] == "f" * 32
    assert set(body) == CONTRACT
    if not any("\ud800" <= char <= "\udfff" for char in text):
        assert body["host"] == "ws01" + text


def test_values_that_json_cannot_hold_do_not_raise() -> None:
    deep: Any = []
    for _ in range(2000):
        deep = [deep]
    odd = {"int": 10**5000, "nan": math.nan, "deep": deep, "object": object(), "\udcff": "\udcff"}
    body = json.loads(to_json_line(odd))
    assert int(body["int"], 16) == 10**5000
    assert body["nan"] is None
    assert body["\\udcff"] == "\\udcff"
    assert body["object"].startswith("<object")


def test_hidden_covers_the_unicode_categories() -> None:
    dangerous = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    missed = [
        hex(code)
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) in dangerous and not HIDDEN.match(chr(code))
    ]
    assert missed == []
    assert [char for char in map(chr, range(0x20, 0x7F)) if HIDDEN.match(char)] == []


def test_shown_text_is_one_ascii_safe_line() -> None:
    assert show_hidden("a\x1b\n\u202e\U000e0041\udc80é") == "a\\x1b\\x0a\\u202e\\U000e0041\\udc80é"
    assert cap_text("ab\udc80cd", 3) == "ab\\udc80... (5 characters)"
