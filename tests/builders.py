"""Small events, findings and batches for the tests of the line's second half."""

import re
from collections.abc import Iterable, Sequence

from appliance.schema import (
    LEVELS,
    Checkpoint,
    CorrelationChange,
    Cursor,
    Detection,
    Entity,
    EntityKind,
    Event,
    Finding,
    Incident,
    Level,
    LogSource,
    RawRecord,
    Rejected,
    RuleInfo,
    Span,
    Verdict,
    View,
    digest,
    event_id,
    finding_id,
)
from appliance.store import Batch, FindingRow, Outgoing

T0 = 1_700_000_000.0
KINDS: dict[str, EntityKind] = {
    "h": "host",
    "u": "user",
    "p": "process",
    "f": "file",
    "x": "hash",
    "a": "address",
    "d": "domain",
    "s": "service",
    "n": "session",
}


def make_record(
    number: int = 1, data: bytes = b"{}", *, source: str = "logs", received: float = T0
) -> RawRecord:
    cursor = Cursor(source, "k", number, number + 1)
    return RawRecord(data, source, "/var/log/x.json", "x.json", cursor, received, "json")


def make_entities(text: str) -> tuple[Entity, ...]:
    """ "h:web u:eve" is a host and a user; the letters are those of KINDS."""
    words = re.split(r" (?=[a-z]:)", text) if text else []
    pairs = (word.split(":", 1) for word in words)
    return tuple(Entity(KINDS[letter], value) for letter, value in pairs)


def make_event(
    number: int = 1,
    time: float = T0,
    entities: str = "",
    *,
    source: str = "logs",
    received: float = T0,
) -> Event:
    """An event on the first host that `entities` name, else on "web"."""
    record = make_record(number, b"%d" % number, source=source, received=received)
    logsource = LogSource(product="windows")
    named = make_entities(entities)
    return Event(
        id=event_id(record),
        time=time,
        received=received,
        host=next((one.value for one in named if one.kind == "host"), "web"),
        views=(View(logsource, {"Image": "a.exe"}),),
        entities=named,
        record=record,
        format="json",
    )


def make_detection(
    event: Event,
    *,
    rule: str = "r1",
    level: Level = "high",
    title: str = "Title",
    tactics: Sequence[str] = (),
) -> Detection:
    return Detection(
        detector="sigma",
        rule_id=rule,
        title=title,
        level=level,
        techniques=("T1059",),
        tactics=tuple(tactics),
        event=event,
        logsource=LogSource(product="windows"),
        matched=(),
    )


def make_finding(
    number: int = 1,
    time: float = T0,
    entities: str = "",
    *,
    level: Level = "high",
    title: str = "Title",
    tactics: Sequence[str] = (),
    rule: str = "r1",
) -> Finding:
    """A finding of its own event; the same number is the same finding."""
    event = make_event(number, time, entities)
    found = make_detection(event, rule=rule, level=level, title=title, tactics=tactics)
    return Finding(finding_id("sigma", rule, event.id), found, ())


def make_rule(name: str = "r1") -> RuleInfo:
    return RuleInfo(
        id=name,
        title=f"Title of {name}",
        description="Words",
        level="high",
        techniques=("T1059",),
        tactics=("execution",),
        logsource=LogSource(product="windows"),
        path="rules.yml",
        line=1,
        hash=digest("rule", name),
    )


def make_verdict(reason: str = "known", expert: str = "knowledge") -> Verdict:
    return Verdict(expert, "suspicious", 0.5, reason)


def make_row(
    number: int = 1,
    *,
    time: float = T0,
    level: Level = "high",
    rule: str = "r1",
    pending: bool = False,
    key: str | None = None,
) -> FindingRow:
    name = key or digest("row", str(number))
    body = {"id": name, "time": "t", "level": level, "number": number, "verdict": "none"}
    return FindingRow(name, time, LEVELS.index(level), "sigma", rule, body, pending)


def make_incident(
    name: str,
    number: int = 1,
    *,
    level: Level = "high",
    first: float = T0,
    last: float = T0,
) -> Incident:
    return Incident(name, number, "open", level, "Title", (), (), 1, (), first, last)


def make_messages(count: int, *, start: int = 1) -> list[Outgoing]:
    return [
        Outgoing("finding", f"{n:032x}", T0 + n, {"kind": "finding", "n": n})
        for n in range(start, start + count)
    ]


def make_rejected(number: int = 1, data: bytes = b"bad", reason: str = "no JSON") -> Rejected:
    return Rejected(make_record(number, data), "decode", reason)


def make_change(
    incidents: Iterable[Incident] = (),
    *,
    links: dict[str, tuple[Span, ...] | None] | None = None,
    merged: dict[str, str] | None = None,
    joined: dict[str, str] | None = None,
) -> CorrelationChange:
    return CorrelationChange(
        {incident.id: incident for incident in incidents},
        links or {},
        merged or {},
        joined or {},
        set(),
    )


def make_batch(
    findings: Sequence[FindingRow] = (),
    *,
    incident: Incident | None = None,
    change: CorrelationChange | None = None,
    checkpoints: Sequence[Checkpoint] = (),
    rejected: Sequence[Rejected] = (),
    counts: dict[tuple[str, str], float] | None = None,
    latest: dict[tuple[str, str], float] | None = None,
    messages: Sequence[Outgoing] = (),
) -> Batch:
    """A batch whose findings are all in `incident` (made when there is none), or as `change`
    says."""
    if change is None:
        home = incident or make_incident("aa" * 16)
        change = make_change(
            [home] if findings or incident else [], joined={row.id: home.id for row in findings}
        )
    return Batch(
        list(checkpoints), list(findings), change, list(rejected), counts or {}, latest or {},
        list(messages),
    )  # fmt: skip
