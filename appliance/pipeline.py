"""The line as plain functions: read this first.

    source -> decode -> normalise -> detect -> judge -> correlate -> store -> emit

`run` (the daemon) and `scan` both put what their sources give through `process`; what comes out is
one Batch, which the store writes in one transaction. Nothing here reads a clock, opens a file or
knows who called.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import tzinfo
from typing import Any, Protocol, runtime_checkable

import msgspec

from appliance.archive.rows import Flushed, Growth
from appliance.correlate.incidents import Correlator, no_change, read_sign
from appliance.decode import Decoder, decode
from appliance.detect.sentinel.examine import DETECTOR as SENTINEL
from appliance.detect.sentinel.texts import Text, list_texts
from appliance.detect.sentinel.watch import Candidate, Sentinel
from appliance.detect.sigma.correlation import SigmaCorrelator, Watch, make_hit
from appliance.emit.render import (
    render_finding,
    render_incident,
    render_opinion,
    render_origin,
    render_verdicts,
)
from appliance.errors import DecodeError
from appliance.inventory.ledger import SoftwareLedger
from appliance.inventory.observe import Inventory
from appliance.inventory.seen import Sight, Software
from appliance.judge.bench import Answer
from appliance.normalise import FED, normalise
from appliance.normalise.custom import CustomSource
from appliance.schema import (
    LEVELS,
    Checkpoint,
    Detection,
    Finding,
    Hit,
    LogSource,
    Opinion,
    RawRecord,
    Rejected,
    Review,
    RuleInfo,
    Sighting,
    SourceBatch,
    Stage,
    Verdict,
    digest,
    finding_id,
)
from appliance.store import Batch, FindingRow, Outgoing, Store

#: An event may be so many seconds ahead of its receipt, or behind it, before it is counted as
#: `ahead` or `late`: what a clock that is wrong, or a log that is old, looks like.
AHEAD_SECONDS = 60.0
LATE_SECONDS = 300.0
#: Name under which views of log sources that nothing lists are counted.
OTHER_LOGSOURCE = "other"
#: Scope under which the inventory counts.
INVENTORY = "inventory"
#: Scope under which the archive's events are counted.
ARCHIVE = "archive"
#: Rules that a finding of the sentinel names as agreeing.
MAX_AGREEING = 16
#: Waiting findings updated in one transaction.
UPDATE_FINDINGS = 500


class Detector(Protocol):
    """Stateless: one event in, what it thinks of it out. Raises nothing."""

    def detect(self, sighting: Sighting) -> list[Detection]:
        """Detections of one event."""
        ...


@runtime_checkable
class Counting(Protocol):
    """A detector that has more to count than what it finds."""

    def take_counts(self) -> dict[str, int]:
        """By name, since it was last asked."""
        ...


class Judge(Protocol):
    """Gives a finding its first verdict without waiting for anything."""

    def first_verdict(self, rule: RuleInfo) -> tuple[Verdict, bool]:
        """The verdict, and whether a later one will follow."""
        ...


class QuietFilter(Protocol):
    """Knows texts that the sentinel has found ordinary. Raises nothing."""

    def is_quiet(self, text: Text) -> bool:
        """Whether this is one."""
        ...


class Reviewer(Protocol):
    """The operator's word on what a rule finds."""

    def review(self, detection: Detection) -> Review | None:
        """The detection as the operator wants it, None where the rule is switched off."""
        ...


class NoOverrides:
    """The operator says nothing of any rule."""

    def review(self, detection: Detection) -> Review | None:
        """The detection as it is."""
        return Review(detection)


class Archiving(Protocol):
    """Where the records of events are kept (archive/writer.py). Raises nothing."""

    def add(self, record: RawRecord, time: float) -> None:
        """Take in a record of the batch at hand, and its event's time."""
        ...

    def flush(self) -> Flushed:
        """Put them on disk."""
        ...

    def commit(self) -> None:
        """What was flushed is stored."""
        ...

    def rewind(self) -> None:
        """What was flushed is not stored: it comes again."""
        ...

    def close(self) -> None:
        """Let go of the segment at hand."""
        ...

    @property
    def error(self) -> str:
        """Why it can't be written now; empty where it can."""
        ...


class CustomFormats(msgspec.Struct, frozen=True):
    """Formats that the configuration describes: by name, how each is decoded, and what it is."""

    decoders: Mapping[str, Decoder] = {}
    sources: Mapping[str, CustomSource] = {}


#: The configuration describes none.
NO_FORMATS = CustomFormats()


class Reader(msgspec.Struct):
    """The stateless half of the line, decode to detect, which may run in a process of its own.

    `zones` gives the time zone of each source's year-less or zone-less times; `fed` are the log
    sources whose views are counted; `formats` are those that the configuration describes;
    `watched` are the rules that correlations name; `quiet` knows what the sentinel need not read,
    None where there is no sentinel; `inventory` notes the software that events reveal, None where
    nobody asks; `archive` keeps the records, None where there is none; `seconds` adds up the time
    spent by stage, in seconds of `timer`.
    """

    detectors: Mapping[str, Detector]
    zones: Mapping[str, tzinfo]
    fed: frozenset[LogSource] = frozenset(FED)
    formats: CustomFormats = NO_FORMATS
    watched: Mapping[str, Watch] = {}
    quiet: QuietFilter | None = None
    inventory: Inventory | None = None
    archive: Archiving | None = None
    seconds: dict[str, float] = msgspec.field(
        default_factory=lambda: dict.fromkeys(("decode", "detect"), 0.0)
    )
    timer: Callable[[], float] = time.perf_counter


class Work(msgspec.Struct):
    """What the stateless half made of some records, for the half that has state. `counts` are
    added to what is stored under (scope, name), `latest` kept when larger; `hits` are for the
    correlations, `candidates` for the sentinel, in the order of the records; `software` is what the
    events reveal of it, `segments` what the archive has grown by."""

    detections: list[Detection]
    rejected: list[Rejected]
    checkpoints: list[Checkpoint]
    counts: dict[str, dict[str, int]]
    latest: dict[str, dict[str, float]]
    hits: list[Hit] = msgspec.field(default_factory=list)
    candidates: list[Candidate] = msgspec.field(default_factory=list)
    software: list[Sight] = msgspec.field(default_factory=list)
    segments: list[Growth] = msgspec.field(default_factory=list)


class Line(msgspec.Struct):
    """The half of the line that has state, judge to store, as daemon and scan build it.

    `known` says which finding ids are stored already; `sinks` is False when nobody reads the
    outbox; `overrides` is the operator's word on levels and suppressions; `correlations` are
    Sigma's, where there are any, `sentinel` is where there is a model for it, `software` where the
    inventory is kept; `seconds` adds up
    the time spent by stage, in seconds of `timer`.
    """

    rules: Mapping[str, RuleInfo]
    judge: Judge
    correlator: Correlator | None
    known: Callable[[Sequence[str]], set[str]]
    sinks: bool = True
    overrides: Reviewer = msgspec.field(default_factory=NoOverrides)
    correlations: SigmaCorrelator | None = None
    sentinel: Sentinel | None = None
    software: SoftwareLedger | None = None
    seconds: dict[str, float] = msgspec.field(
        default_factory=lambda: dict.fromkeys(("judge", "correlate"), 0.0)
    )
    timer: Callable[[], float] = time.perf_counter

    def commit(self) -> None:
        """The batch is stored."""
        if self.correlator is not None:
            self.correlator.commit()
        if self.correlations is not None:
            self.correlations.commit()
        if self.sentinel is not None:
            self.sentinel.commit()
        if self.software is not None:
            self.software.commit()

    def rollback(self) -> None:
        """The batch could not be stored: what it changed here is forgotten."""
        if self.correlator is not None:
            self.correlator.rollback()
        if self.correlations is not None:
            self.correlations.rollback()
        if self.sentinel is not None:
            self.sentinel.rollback()
        if self.software is not None:
            self.software.rollback()


class _Tally:
    """Counts of one batch by scope and name, and latest values."""

    def __init__(self, work: Work) -> None:
        self.counts = work.counts
        self.latest = work.latest

    def add(self, scope: str, name: str, count: int = 1) -> None:
        counts = self.counts.setdefault(scope, {})
        counts[name] = counts.get(name, 0) + count

    def reach(self, scope: str, name: str, value: float) -> None:
        latest = self.latest.setdefault(scope, {})
        if latest.get(name, -math.inf) < value:
            latest[name] = value


def read_event(
    record: RawRecord, zone: tzinfo, formats: CustomFormats = NO_FORMATS
) -> tuple[Sighting, bool] | Rejected:
    """decode and normalise: the sighting and whether its bytes had to be repaired, or why not.

    A fault in either must neither stop the line nor lose the record, so it rejects it.
    """
    stage: Stage = "decode"
    try:
        decoded = decode(record, formats.decoders)
        stage = "normalise"
        sighting = normalise(record, decoded, zone=zone, custom=formats.sources)
        return sighting, decoded.repaired
    except DecodeError as error:
        return Rejected(record, "decode", str(error))
    except Exception as error:
        return Rejected(record, stage, f"fault: {type(error).__name__}: {error}")


def detect_event(sighting: Sighting, detectors: Mapping[str, Detector]) -> list[Detection]:
    """detect: what every detector says, side by side."""
    return [found for detector in detectors.values() for found in detector.detect(sighting)]


def describe_foreign_rule(detection: Detection) -> RuleInfo:
    """What is known of a rule that is an external sensor's and not loaded here: what its detection
    says. Without a document its hash is that of its name: with another title it is another."""
    return RuleInfo(
        id=detection.rule_id,
        title=detection.title,
        description="",
        level=detection.level,
        techniques=detection.techniques,
        tactics=detection.tactics,
        logsource=detection.logsource,
        path="",
        line=0,
        hash=digest("foreign", detection.detector, detection.rule_id, detection.title),
    )


def judge_detection(detection: Detection, line: Line) -> tuple[Finding, bool]:
    """judge: the finding with the experts' first word, and whether a later one will follow."""
    key = finding_id(detection.detector, detection.rule_id, detection.event.id)
    if detection.opinion is not None:
        return Finding(key, detection, (word_opinion(detection.opinion),)), False
    try:
        rule = line.rules.get(detection.rule_id) or describe_foreign_rule(detection)
        verdict, pending = line.judge.first_verdict(rule)
    except Exception as error:  # an expert's fault takes nothing away: the finding goes out
        reason = f"fault: {type(error).__name__}: {error}"
        verdict, pending = Verdict("judge", "insufficient_data", 0.0, reason), False
    return Finding(key, detection, (verdict,)), pending


def word_opinion(opinion: Opinion) -> Verdict:
    """The sentinel's opinion of its own finding as a verdict: it speaks of an event, so that no
    expert on rules has more to say."""
    near = ", ".join(f"{guess.technique} ({guess.score:.2f})" for guess in opinion.techniques)
    words = " ".join(weight.word for weight in opinion.words)
    reason = (
        f"scores {opinion.score:.4f}, over {opinion.threshold:.4f}, which "
        f"{opinion.budget:g} ordinary events per host and day are expected to pass"
        + (f"; nearest techniques: {near}" if near else "")
        + (f"; what weighs most: {words}" if words else "")
    )
    return Verdict(SENTINEL, "suspicious", opinion.score, reason, opinion.citations)


def read_records(batches: Sequence[SourceBatch], reader: Reader) -> Work:
    """decode to detect: the stateless half. One event is held at a time: what a record becomes can
    be many times its size."""
    work = Work([], [], [point for batch in batches for point in batch.checkpoints], {}, {})
    tally = _Tally(work)
    for batch in batches:
        work.rejected.extend(batch.rejected)
        for record in batch.records:
            refused = _read_record(record, reader, tally, work)
            if refused is not None:
                work.rejected.append(refused)
    for refused in work.rejected:
        _count_rejected(refused, tally)
    if reader.archive is not None:
        _archive_batch(reader.archive, tally, work)
    if reader.inventory is not None:
        work.software, noted = reader.inventory.take()
        for name, count in noted.items():
            tally.add(INVENTORY, name, count)
    for scope, detector in reader.detectors.items():
        if isinstance(detector, Counting):
            for counted, count in detector.take_counts().items():
                if count:
                    tally.add(scope, counted, count)
    return work


def _archive_batch(archive: Archiving, tally: _Tally, work: Work) -> None:
    """The records of the batch, onto the disk."""
    flushed = archive.flush()
    work.segments = flushed.growths
    for name, count in (("archived", flushed.archived), ("lost", flushed.lost)):
        if count:
            tally.add(ARCHIVE, name, count)


def _read_record(record: RawRecord, reader: Reader, tally: _Tally, work: Work) -> Rejected | None:
    """decode to detect for one record; why it could not be, or None."""
    seconds, timer = reader.seconds, reader.timer
    began = timer()
    result = read_event(record, reader.zones[record.source], reader.formats)
    read = timer()
    seconds["decode"] += read - began
    if isinstance(result, Rejected):
        return result
    sighting, repaired = result
    if reader.archive is not None:
        reader.archive.add(record, sighting.time)
    try:
        detections = detect_event(sighting, reader.detectors)
        if detections and reader.watched:
            detections = _take_hits(detections, reader.watched, tally, work.hits)
        work.detections.extend(detections)
    except Exception as error:  # as in read_event: counted and listed, never silent
        return Rejected(record, "detect", f"fault: {type(error).__name__}: {error}")
    if reader.quiet is not None:
        _list_candidate(sighting, detections, reader.quiet, tally, work)
    if reader.inventory is not None:
        reader.inventory.note(sighting, reader.zones[record.source])
    seconds["detect"] += timer() - read
    _count_event(sighting, repaired, tally, reader.fed)
    return None


def _list_candidate(
    sighting: Sighting,
    detections: Sequence[Detection],
    quiet: QuietFilter,
    tally: _Tally,
    work: Work,
) -> None:
    """What of the event the sentinel has to read. A fault in this takes nothing else away."""
    try:
        texts = list_texts(sighting.views, sighting.host)
        if not texts:
            return
        fresh = tuple(text for text in texts if not quiet.is_quiet(text))
        if fresh:
            rules = tuple(found.rule_id for found in detections if found.detector == "sigma")
            work.candidates.append(Candidate(sighting.event, fresh, rules))
    except Exception:
        tally.add(SENTINEL, "faults")
        return
    tally.add(SENTINEL, "events")
    tally.add(SENTINEL, "texts", len(texts))
    tally.add(SENTINEL, "known", len(texts) - len(fresh))


def _take_hits(
    detections: list[Detection], watched: Mapping[str, Watch], tally: _Tally, hits: list[Hit]
) -> list[Detection]:
    """What correlations want of the detections goes to the hits; gives those that are findings."""
    found: list[Detection] = []
    for detection in detections:
        watch = watched.get(detection.rule_id) if detection.detector == "sigma" else None
        if watch is not None:
            hits.append(make_hit(detection, watch))
            tally.add(f"rule:{detection.rule_id}", "hits")
        if watch is None or not watch.silent:
            found.append(detection)
    return found


def process(batches: Sequence[SourceBatch], reader: Reader, line: Line) -> Batch:
    """Put records through the whole line; give all that is to be stored of them."""
    return join_work([read_records(batches, reader)], line)


def join_work(works: Sequence[Work], line: Line) -> Batch:
    """Sigma's correlations, judge and correlate: the half that has state. Changes only the line's
    correlators, whose changes are pending until its `commit` or `rollback`."""
    total = Work([], [], [], {}, {})
    tally = _Tally(total)
    findings: dict[str, tuple[Finding, bool]] = {}
    reviews: dict[str, Review] = {}
    began = line.timer()
    correlated = _advance(works, line, tally)
    line.seconds["correlate"] += line.timer() - began
    began = line.timer()
    # Behind the rules' findings, which open their incidents as if there were no sentinel.
    judged = _ask_sentinel(works, line, tally)
    for work in (*works, Work([*correlated, *judged], [], [], {}, {})):
        total.rejected.extend(work.rejected)
        total.checkpoints.extend(work.checkpoints)
        _add_counts(work, tally)
        for detection in work.detections:
            review = line.overrides.review(detection)
            if review is None:
                tally.add(f"rule:{detection.rule_id}", "disabled")
                continue
            finding, pending = judge_detection(review.detection, line)
            findings.setdefault(finding.id, (finding, pending))
            reviews.setdefault(finding.id, review)
    software = _join_software(works, line, tally)
    line.seconds["judge"] += line.timer() - began
    batch = _correlate(total, findings, reviews, tally, line)
    batch.software = software
    batch.segments = [growth for work in works for growth in work.segments]
    return batch


def _join_software(works: Sequence[Work], line: Line, tally: _Tally) -> list[Software]:
    """The rows of the inventory that change."""
    if line.software is None:
        return []
    rows = line.software.join([sight for work in works for sight in work.software])
    for name, count in line.software.new_counts().items():
        tally.add(INVENTORY, name, count)
    return rows


def _advance(works: Sequence[Work], line: Line, tally: _Tally) -> list[Detection]:
    """What the correlations say of the hits. A fault in them takes nothing else away."""
    hits = [hit for work in works for hit in work.hits]
    if line.correlations is None or not hits:
        return []
    try:
        found = line.correlations.advance(hits)
    except Exception as error:
        line.correlations.note_fault(f"{type(error).__name__}: {error}")
        tally.add("correlations", "faults")
        return []
    for name, count in line.correlations.new_counts().items():
        counts = tally.counts.setdefault("correlations", {})
        counts[name] = counts.get(name, 0) + count
    return found


def _ask_sentinel(works: Sequence[Work], line: Line, tally: _Tally) -> list[Detection]:
    """What the sentinel says, of these events or of earlier ones. A fault in it takes nothing else
    away."""
    if line.sentinel is None:
        return []
    try:
        joined = line.sentinel.join([one for work in works for one in work.candidates])
    except Exception:
        tally.add(SENTINEL, "faults")
        return []
    for name, count in joined.counts.items():
        tally.add(SENTINEL, name, count)
    return joined.detections


def _add_counts(work: Work, tally: _Tally) -> None:
    for scope, values in work.counts.items():
        counts = tally.counts.setdefault(scope, {})
        for name, value in values.items():
            counts[name] = counts.get(name, 0) + value
    for scope, reached in work.latest.items():
        for name, moment in reached.items():
            tally.reach(scope, name, moment)


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
                if "suppressed" not in body
            ]
            store.update_findings(bodies, updates if sinks else [])
            updated += len(bodies)
    return updated


def _correlate(
    work: Work,
    findings: Mapping[str, tuple[Finding, bool]],
    reviews: Mapping[str, Review],
    tally: _Tally,
    line: Line,
) -> Batch:
    began = line.timer()
    known = line.known(list(findings))
    fresh = [pair for key, pair in findings.items() if key not in known]
    for finding, _ in fresh:
        if reviews[finding.id].suppressed:
            _count_suppressed(reviews[finding.id], tally, line)
            continue
        if line.correlator is not None:
            line.correlator.join(read_sign(finding))
        detection = finding.detection
        tally.add(f"detector:{detection.detector}", "fired")
        tally.add(f"level:{detection.level}", "findings")
        tally.add(f"source:{detection.event.record.source}", "findings")
        scope = f"rule:{_name_rule(detection, line)}"
        tally.add(scope, "fired")
        tally.reach(scope, "last_fired", detection.event.received)
    change = no_change()
    if line.correlator is not None:
        line.correlator.evict()
        change = line.correlator.changes()
    agreements = _find_agreements([finding for finding, _ in fresh], reviews)
    rows = [
        _finding_row(
            finding,
            change.joined.get(finding.id),
            pending,
            line.rules,
            reviews[finding.id],
            agreement=agreements.get(finding.id, []),
        )
        for finding, pending in fresh
    ]
    messages: list[Outgoing] = []
    if line.sinks:
        newest = max((f.detection.event.received for f, _ in fresh), default=0.0)
        messages = [
            Outgoing(
                "finding", row.id, finding.detection.event.received, {"kind": "finding", **row.body}
            )
            for row, (finding, _) in zip(rows, fresh, strict=True)
            if not row.suppressed
        ]
        for key in sorted(change.notable & change.incidents.keys()):
            body = render_incident(change.incidents[key])
            messages.append(Outgoing("incident", key, newest, body))
    line.seconds["correlate"] += line.timer() - began
    return Batch(
        checkpoints=work.checkpoints,
        findings=rows,
        correlation=change,
        windows=line.correlations.changes() if line.correlations is not None else None,
        rejected=work.rejected,
        counts=_flatten_counts(work.counts),
        latest=_flatten_counts(work.latest),
        messages=messages,
    )


def _find_agreements(
    findings: Sequence[Finding], reviews: Mapping[str, Review]
) -> dict[str, list[dict[str, Any]]]:
    """Where rules and the sentinel agree on one event: what each finding's body says of the other.
    A rule's finding says so where the sentinel knew at once; the sentinel's always does."""
    said: dict[str, list[dict[str, Any]]] = {}
    mine: dict[str, list[dict[str, Any]]] = {}
    for finding in findings:
        opinion = finding.detection.opinion
        if opinion is None:
            continue
        if opinion.agrees:
            said[finding.id] = [
                {"detector": "sigma", "rule_id": rule} for rule in opinion.agrees[:MAX_AGREEING]
            ]
        if not reviews[finding.id].suppressed:
            rule, score = finding.detection.rule_id, opinion.score
            row = {"detector": SENTINEL, "rule_id": rule, "score": score}
            mine.setdefault(finding.detection.event.id, []).append(row)
    for finding in findings:
        detection = finding.detection
        if detection.detector == "sigma" and detection.event.id in mine:
            said[finding.id] = mine[detection.event.id]
    return said


def _name_rule(detection: Detection, line: Line) -> str:
    """The rule in the ledger. A sensor's signatures are as many as its records claim: they are
    counted together."""
    return detection.rule_id if detection.rule_id in line.rules else f"{detection.detector}:*"


def _count_suppressed(review: Review, tally: _Tally, line: Line) -> None:
    """Under the rule's own id, a sensor's too, where the operator named it: these are few."""
    detection = review.detection
    scope = f"rule:{_name_rule(detection, line) if review.any_rule else detection.rule_id}"
    tally.add(scope, "suppressed")
    tally.reach(scope, "last_suppressed", detection.event.received)


def _flatten_counts(
    values: Mapping[str, Mapping[str, float]],
) -> dict[tuple[str, str], float]:
    return {(scope, name): value for scope, row in values.items() for name, value in row.items()}


def _finding_row(
    finding: Finding,
    incident: str | None,
    pending: bool,
    rules: Mapping[str, RuleInfo],
    review: Review,
    *,
    agreement: list[dict[str, Any]],
) -> FindingRow:
    detection = finding.detection
    rule = rules.get(detection.rule_id) or describe_foreign_rule(detection)
    body = {**render_finding(finding, incident), **render_origin(detection.event, rule)}
    if review.own_level is not None:
        body["rule"]["own_level"] = review.own_level
    if detection.opinion is not None:
        body["sentinel"] = render_opinion(detection.opinion)
    if agreement:
        body["agreement"] = agreement
    if review.suppressed:
        body["suppressed"] = review.suppressed
    return FindingRow(
        id=finding.id,
        time=detection.event.time,
        level=LEVELS.index(detection.level),
        detector=detection.detector,
        rule_id=detection.rule_id,
        body=body,
        pending=pending,
        received=detection.event.received,
        suppressed=review.suppressed,
    )


def _count_rejected(refused: Rejected, tally: _Tally) -> None:
    scope = f"source:{refused.record.source}"
    tally.add(scope, "seen")
    tally.add(scope, "rejected")
    tally.reach(scope, "last_received", refused.record.received)


def _count_event(event: Sighting, repaired: bool, tally: _Tally, fed: frozenset[LogSource]) -> None:
    scope = f"source:{event.record.source}"
    tally.add(scope, "seen")
    tally.add(scope, "decoded")
    tally.add(scope, "evaluated")
    if repaired:
        tally.add(scope, "repaired")
    if not event.mapped:
        tally.add(scope, "unmapped")
    for view in event.views:
        source = view.logsource
        # A log's own text can become a service's name: only what is known to be fed is counted.
        tally.add("logsource", name_logsource(source) if source in fed else OTHER_LOGSOURCE)
    if event.time_known:
        tally.reach(scope, "last_event", event.time)
        if event.time > event.received + AHEAD_SECONDS:
            tally.add(scope, "ahead")
        elif event.time < event.received - LATE_SECONDS:
            tally.add(scope, "late")
    else:
        tally.add(scope, "untimed")
    tally.reach(scope, "last_received", event.received)


def name_logsource(source: LogSource) -> str:
    """A log source as one word of the ledger: "windows/process_creation/-"."""
    return "/".join(part or "-" for part in (source.product, source.category, source.service))
