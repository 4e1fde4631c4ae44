"""The line as plain functions: read this first.

    source -> decode -> normalise -> detect -> judge -> correlate -> store -> emit

`run` (the daemon) and `scan` both put what their sources give through `process`; what comes out is
one Batch, which the store writes in one transaction. Nothing here reads a clock, opens a file or
knows who called.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import tzinfo
from typing import Protocol

import msgspec

from appliance.correlate.incidents import Correlator
from appliance.decode import decode
from appliance.emit.render import render_finding, render_incident, render_verdicts
from appliance.errors import DecodeError
from appliance.judge.bench import Answer
from appliance.normalise import normalise
from appliance.schema import (
    LEVELS,
    Detection,
    Event,
    Finding,
    RawRecord,
    Rejected,
    RuleInfo,
    SourceBatch,
    Stage,
    Verdict,
    finding_id,
)
from appliance.store import Batch, FindingRow, Outgoing, Store

#: Waiting findings updated in one transaction.
UPDATE_FINDINGS = 500


class Detector(Protocol):
    """Stateless: one event in, what it thinks of it out. Raises nothing."""

    def detect(self, event: Event) -> list[Detection]:
        """Detections of one event."""
        ...


class Judge(Protocol):
    """Gives a finding its first verdict without waiting for anything."""

    def first_verdict(self, rule: RuleInfo) -> tuple[Verdict, bool]:
        """The verdict, and whether a later one will follow."""
        ...


class Line(msgspec.Struct):
    """The stages with their state, as daemon and scan build them.

    `zones` gives the time zone of each source's year-less or zone-less times; `known` says which
    finding ids are stored already; `sinks` is False when nobody reads the outbox; `seconds` adds
    up the time spent by stage, in seconds of `timer`.
    """

    detectors: Mapping[str, Detector]
    rules: Mapping[str, RuleInfo]
    judge: Judge
    correlator: Correlator
    zones: Mapping[str, tzinfo]
    known: Callable[[Sequence[str]], set[str]]
    sinks: bool = True
    seconds: dict[str, float] = msgspec.field(
        default_factory=lambda: dict.fromkeys(("decode", "detect", "judge", "correlate"), 0.0)
    )
    timer: Callable[[], float] = time.perf_counter


class _Tally:
    """Counts of one batch by (scope, name), and latest values."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.latest: dict[tuple[str, str], float] = {}

    def add(self, scope: str, name: str, value: int = 1) -> None:
        self.counts[(scope, name)] += value

    def reach(self, scope: str, name: str, value: float) -> None:
        self.latest[(scope, name)] = max(self.latest.get((scope, name), value), value)


def read_event(record: RawRecord, zone: tzinfo) -> tuple[Event, bool] | Rejected:
    """decode and normalise: the event and whether its bytes had to be repaired, or why not.

    A fault in either must neither stop the line nor lose the record, so it rejects it.
    """
    stage: Stage = "decode"
    try:
        decoded = decode(record)
        stage = "normalise"
        return normalise(record, decoded, zone=zone), decoded.repaired
    except DecodeError as error:
        return Rejected(record, "decode", str(error))
    except Exception as error:
        return Rejected(record, stage, f"fault: {type(error).__name__}: {error}")


def detect_event(event: Event, detectors: Mapping[str, Detector]) -> list[Detection]:
    """detect: what every detector says, side by side."""
    return [found for detector in detectors.values() for found in detector.detect(event)]


def judge_detection(detection: Detection, line: Line) -> tuple[Finding, bool]:
    """judge: the finding with the experts' first word, and whether a later one will follow."""
    key = finding_id(detection.detector, detection.rule_id, detection.event.id)
    verdict, pending = line.judge.first_verdict(line.rules[detection.rule_id])
    return Finding(key, detection, (verdict,)), pending


def process(batches: Sequence[SourceBatch], line: Line) -> Batch:
    """Put records through the line; give all that is to be stored of them.

    Changes only the correlator, whose changes are pending until its `commit` or `rollback`. One
    event is held at a time: what a record becomes can be many times its size.
    """
    tally = _Tally()
    rejected: list[Rejected] = []
    findings: dict[str, tuple[Finding, bool]] = {}
    for batch in batches:
        rejected.extend(batch.rejected)
        for record in batch.records:
            refused = _process_record(record, line, tally, findings)
            if refused is not None:
                rejected.append(refused)
    for refused in rejected:
        _count_rejected(refused, tally)
    return _correlate(batches, findings, rejected, tally, line)


def _process_record(
    record: RawRecord, line: Line, tally: _Tally, findings: dict[str, tuple[Finding, bool]]
) -> Rejected | None:
    """decode to judge for one record; why it could not be, or None."""
    seconds, timer = line.seconds, line.timer
    began = timer()
    result = read_event(record, line.zones[record.source])
    read = timer()
    seconds["decode"] += read - began
    if isinstance(result, Rejected):
        return result
    event, repaired = result
    try:
        detections = detect_event(event, line.detectors)
        judging = timer()
        seconds["detect"] += judging - read
        for detection in detections:
            finding, pending = judge_detection(detection, line)
            findings.setdefault(finding.id, (finding, pending))
        seconds["judge"] += timer() - judging
    except Exception as error:  # as in read_event: counted and listed, never silent
        return Rejected(record, "detect", f"fault: {type(error).__name__}: {error}")
    _count_event(event, repaired, tally)
    return None


def apply_answers(
    answers: Sequence[Answer], base: str | None, store: Store, now: float, *, sinks: bool
) -> int:
    """The experts' later word: into the findings that wait for it, and to the sinks.

    `base` is the hash of the knowledge base that the answers come from, `now` the time of the
    updates (epoch seconds). Gives how many findings were updated.
    """
    updated = 0
    for answer in answers:
        if base is not None:
            store.put_verdict(answer.rule.hash, base, msgspec.json.encode(answer.verdict))
        fields = render_verdicts([answer.verdict])
        while waiting := store.pending_findings(answer.rule.id, UPDATE_FINDINGS):
            bodies = {str(row["id"]): {**row, **fields} for row in waiting}
            updates = [
                Outgoing("update", key, now, {"kind": "update", **body})
                for key, body in bodies.items()
            ]
            store.update_findings(bodies, updates if sinks else [])
            updated += len(bodies)
    return updated


def _correlate(
    batches: Sequence[SourceBatch],
    findings: Mapping[str, tuple[Finding, bool]],
    rejected: list[Rejected],
    tally: _Tally,
    line: Line,
) -> Batch:
    began = line.timer()
    known = line.known(list(findings))
    fresh = [pair for key, pair in findings.items() if key not in known]
    for finding, _ in fresh:
        line.correlator.join(finding)
        detection = finding.detection
        tally.add(f"detector:{detection.detector}", "fired")
        tally.add(f"level:{detection.level}", "findings")
        tally.add(f"source:{detection.event.record.source}", "findings")
    line.correlator.evict()
    change = line.correlator.changes()
    rows = [_finding_row(finding, change.joined[finding.id], pending) for finding, pending in fresh]
    messages: list[Outgoing] = []
    if line.sinks:
        newest = max((f.detection.event.received for f, _ in fresh), default=0.0)
        messages = [
            Outgoing(
                "finding", row.id, finding.detection.event.received, {"kind": "finding", **row.body}
            )
            for row, (finding, _) in zip(rows, fresh, strict=True)
        ]
        for key in sorted(change.notable & change.incidents.keys()):
            body = render_incident(change.incidents[key])
            messages.append(Outgoing("incident", key, newest, body))
    line.seconds["correlate"] += line.timer() - began
    return Batch(
        checkpoints=[checkpoint for batch in batches for checkpoint in batch.checkpoints],
        findings=rows,
        correlation=change,
        rejected=rejected,
        counts=dict(tally.counts),
        latest=tally.latest,
        messages=messages,
    )


def _finding_row(finding: Finding, incident: str, pending: bool) -> FindingRow:
    detection = finding.detection
    return FindingRow(
        id=finding.id,
        time=detection.event.time,
        level=LEVELS.index(detection.level),
        detector=detection.detector,
        rule_id=detection.rule_id,
        body=render_finding(finding, incident),
        pending=pending,
    )


def _count_rejected(refused: Rejected, tally: _Tally) -> None:
    scope = f"source:{refused.record.source}"
    tally.add(scope, "seen")
    tally.add(scope, "rejected")
    tally.reach(scope, "last_received", refused.record.received)


def _count_event(event: Event, repaired: bool, tally: _Tally) -> None:
    scope = f"source:{event.record.source}"
    tally.add(scope, "seen")
    tally.add(scope, "decoded")
    tally.add(scope, "evaluated")
    if repaired:
        tally.add(scope, "repaired")
    if not event.mapped:
        tally.add(scope, "unmapped")
    if event.time_known:
        tally.reach(scope, "last_event", event.time)
    tally.reach(scope, "last_received", event.received)
