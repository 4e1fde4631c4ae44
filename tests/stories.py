"""Incidents for tests: a store with findings whose records lie in one file."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from appliance.emit.render import render_finding, render_origin
from appliance.schema import (
    LEVELS,
    Cursor,
    Detection,
    Event,
    Finding,
    Incident,
    Level,
    LogSource,
    Match,
    RawRecord,
    RuleInfo,
    Verdict,
    VerdictLabel,
    View,
    event_id,
    finding_id,
)
from appliance.store import FindingRow, Store
from tests.builders import T0, make_batch, make_change, make_entities

SSHD = LogSource(product="linux", service="sshd")


class Story:
    """A store in `folder` with one incident, and its one log file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "auth.log"
        self.path = folder / "store.db"
        self.store = Store(self.path)
        self.events: list[Event] = []
        self.findings: list[Finding] = []
        self._at = 0
        self._log = b""

    def write(
        self, text: str, time: float, host: str, entities: str = "", *, source: str = "auth"
    ) -> Event:
        """One line of the log as an event."""
        data = text.encode()
        cursor = Cursor(source, "auth.log", self._at, self._at + len(data) + 1)
        record = RawRecord(data, source, str(self.log), "auth.log", cursor, T0 + 1, "auto")
        self._at += len(data) + 1
        self._log += data + b"\n"
        self.log.write_bytes(self._log)
        event = Event(
            id=event_id(record),
            time=time,
            received=T0 + 1,
            host=host,
            views=(View(SSHD, {"message": text}),),
            entities=make_entities(entities),
            record=record,
            format="text",
        )
        self.events.append(event)
        return event

    def find(
        self,
        event: Event,
        rule: str = "r1",
        *,
        detector: str = "sigma",
        title: str = "",
        level: Level = "high",
        techniques: Sequence[str] = ("T1110",),
        tactics: Sequence[str] = ("credential-access",),
        verdicts: Sequence[tuple[str, VerdictLabel]] = (("knowledge", "suspicious"),),
    ) -> Finding:
        """A finding on the event."""
        detection = Detection(
            detector=detector,
            rule_id=rule,
            title=title or f"Title of {rule}",
            level=level,
            techniques=tuple(techniques),
            tactics=tuple(tactics),
            event=event,
            logsource=SSHD,
            matched=(Match("message", event.record.data.decode(), "*"),),
        )
        words = tuple(Verdict(expert, label, 0.7, "why") for expert, label in verdicts)
        finding = Finding(finding_id(detector, rule, event.id), detection, words)
        self.findings.append(finding)
        return finding

    def keep(self, **changes: Any) -> Incident:
        """Store all findings as one incident; `changes` are fields of it."""
        first = self.findings[0].detection
        times = [finding.detection.event.time for finding in self.findings]
        worst = max((f.detection for f in self.findings), key=lambda d: LEVELS.index(d.level))
        entities = dict.fromkeys(e for f in self.findings for e in f.detection.event.entities)
        incident = Incident(
            id="ab" * 16,
            number=1,
            status="open",
            level=worst.level,
            title=worst.title,
            entities=tuple(entities),
            findings=tuple(finding.id for finding in self.findings[:64]),
            count=len(self.findings),
            tactics=tuple(dict.fromkeys(t for f in self.findings for t in f.detection.tactics)),
            first_seen=min(times),
            last_seen=max(times),
            techniques=first.techniques,
        )
        incident = msgspec.structs.replace(incident, **changes)
        rows = [make_story_row(finding, incident.id) for finding in self.findings]
        change = make_change([incident], joined={row.id: incident.id for row in rows})
        counts = {
            ("source:auth", "seen"): 100.0,
            ("source:auth", "decoded"): 97.0,
            ("source:auth", "rejected"): 3.0,
            ("logsource", "linux/sshd/-".replace("sshd/-", "-/sshd")): 97.0,
        }
        latest = {("source:auth", "last_event"): incident.last_seen}
        self.store.write_batch(make_batch(rows, change=change, counts=counts, latest=latest))
        return incident


def make_story_row(finding: Finding, incident: str) -> FindingRow:
    """The finding as the line stores it."""
    detection = finding.detection
    rule = make_story_rule(detection.rule_id, techniques=detection.techniques)
    body = {**render_finding(finding, incident), **render_origin(detection.event, rule)}
    return FindingRow(
        finding.id,
        detection.event.time,
        LEVELS.index(detection.level),
        detection.detector,
        detection.rule_id,
        body,
        received=T0,
    )


def make_story_rule(
    name: str, *, techniques: Iterable[str] = (), logsource: LogSource = SSHD
) -> RuleInfo:
    """A loaded rule."""
    return RuleInfo(
        name, f"Title of {name}", "", "high", tuple(techniques), (), logsource, "", 0, name
    )
