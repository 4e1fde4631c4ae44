"""The types that travel along the line, in the order in which they appear on it.

source -> RawRecord -> (decode) dict -> (normalise) Sighting -> (detect) Event, Detection
-> (judge) Verdict, Finding -> (correlate) Incident -> store, emit. What cannot go on: Rejected.

All are frozen. Field names follow Sigma (views), ATT&CK (techniques, tactics) and OCSF (finding,
incident, verdict words). Times are seconds since the Unix epoch, UTC, as float.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Final, Literal

import msgspec

Level = Literal["informational", "low", "medium", "high", "critical"]
LEVELS: Final[tuple[Level, ...]] = ("informational", "low", "medium", "high", "critical")

EntityKind = Literal[
    "host", "user", "process", "file", "hash", "address", "domain", "service", "session"
]
VerdictLabel = Literal["true_positive", "suspicious", "benign", "insufficient_data"]
#: What an operator may say that a source's records are; "auto" looks at each.
RECORD_FORMATS: Final = (
    "auto", "json", "syslog3164", "syslog5424", "text",
    "auditd", "zeek", "w3c", "access", "access_error", "squid", "bind", "unbound", "netfilter",
    "cef", "leef",
)  # fmt: skip
#: Name of the source of what the appliance says of itself: its canary, its sources' troubles.
OWN_SOURCE: Final = "appliance"
Stage = Literal["source", "decode", "normalise", "detect"]

#: Fields of one view, under Sigma taxonomy names. Values: str, int, float, bool, None or list.
Fields = dict[str, Any]

#: Told the name of each step around commit and send; tests stop the process there.
OnStep = Callable[[str], None]


def ignore_step(step: str) -> None:
    """Do nothing: the OnStep of every run outside the tests."""


class Cursor(msgspec.Struct, frozen=True):
    """Where a record lies in its source, and the state needed to go on behind it.

    `key` names the stream inside the source (one file of a glob), `position` is the byte offset
    (line formats) or record number (EVTX) of the record's first byte, `next` that of the record
    after it.
    """

    source: str
    key: str
    position: int
    next: int


class Checkpoint(msgspec.Struct, frozen=True):
    """How far one stream of a source has been read; the source alone understands `state`. The
    store keeps it in the transaction that stores what the stream's records led to."""

    source: str
    key: str
    state: bytes


class RawRecord(msgspec.Struct, frozen=True):
    """One whole record as the source framed it, before anything was understood.

    `format` is the configured format name or "auto"; `logical` is the name of the stream that
    enters the record's id (stable over renames and restarts), `path` what an operator can open.
    `truncated` is the full length in bytes when `data` was cut at the record cap, else 0.
    `header` are the lines of the stream that say what the record's columns are (Zeek's `#fields`,
    W3C's `#Fields:`), empty where records tell that themselves.
    """

    data: bytes
    source: str
    path: str
    logical: str
    cursor: Cursor
    received: float
    format: str = "auto"
    truncated: int = 0
    header: bytes = b""


class Decoded(msgspec.Struct, frozen=True):
    """A record's bytes, read. `fields` is the record's own structure under its own names, before
    any normaliser; `repaired` is True when bytes that are no UTF-8 had to be escaped to read it.
    `inner` is what a syslog message holds when that is a record of another format (a CEF event, an
    access log line, a packet filter's line): whether it is believed is the normaliser's decision.
    """

    format: str
    fields: dict[str, Any]
    repaired: bool = False
    inner: "Decoded | None" = None


class LogSource(msgspec.Struct, frozen=True):
    """Sigma specification, section Log Source: any part may be absent."""

    product: str | None = None
    category: str | None = None
    service: str | None = None


class View(msgspec.Struct, frozen=True):
    """One reading of an event in the Sigma taxonomy."""

    logsource: LogSource
    fields: Fields


class Entity(msgspec.Struct, frozen=True):
    """A typed, product-neutral thing that events share. `value` is normalised (lower case where
    the thing is case-insensitive); processes and sessions are scoped by host in the value."""

    kind: EntityKind
    value: str


class Event(msgspec.Struct, frozen=True):
    """One decoded, normalised record that somebody speaks of. `views` is never empty: a record that
    no normaliser knows has one view with an empty LogSource (`mapped` is False and the ledger
    counts it)."""

    id: str
    time: float
    received: float
    host: str
    views: tuple[View, ...]
    entities: tuple[Entity, ...]
    record: RawRecord
    format: str
    mapped: bool = True
    time_known: bool = True


class Sighting(msgspec.Struct, frozen=True, dict=True):
    """One decoded, normalised record as the detectors see it. It becomes an Event, with its id and
    its entities, when somebody speaks of it: a fifth of the line's time for what few events need.
    `collect` lists the entities; the other fields are the Event's."""

    time: float
    received: float
    host: str
    views: tuple[View, ...]
    record: RawRecord
    format: str
    collect: Callable[[], tuple[Entity, ...]] = tuple
    mapped: bool = True
    time_known: bool = True

    @cached_property
    def event(self) -> Event:
        """The event: the same object each time."""
        return Event(
            id=event_id(self.record),
            time=self.time,
            received=self.received,
            host=self.host,
            views=self.views,
            entities=self.collect(),
            record=self.record,
            format=self.format,
            mapped=self.mapped,
            time_known=self.time_known,
        )


class RuleInfo(msgspec.Struct, frozen=True):
    """What everybody but the matcher needs to know of a loaded rule. `hash` is the digest of the
    rule's own document, so that what was computed for a rule can be cached; `techniques` are
    ATT&CK ids as tagged ("T1059.001"), `tactics` ATT&CK short names ("defense-evasion"), `others`
    what else the tags name: groups ("G0016"), software ("S0154"), vulnerabilities
    ("CVE-2021-44228")."""

    id: str
    title: str
    description: str
    level: Level
    techniques: tuple[str, ...]
    tactics: tuple[str, ...]
    logsource: LogSource
    path: str
    line: int
    hash: str
    others: tuple[str, ...] = ()


class Match(msgspec.Struct, frozen=True):
    """One piece of evidence: this field held this value and met this pattern of the rule.
    `field` is None for a keyword."""

    field: str | None
    value: str
    pattern: str


class Citation(msgspec.Struct, frozen=True):
    """A knowledge entry that supports a sentence. `reason` says how it was found: 'tag' for a
    link that the rule itself states (score 1.0), 'similarity' for nearest text (cosine)."""

    id: str
    title: str
    score: float
    reason: Literal["tag", "similarity"]


class Guess(msgspec.Struct, frozen=True):
    """A technique that the sentinel takes an event for. `probability` is its head's (0..1),
    `cosine` the likeness of its vector to what is known of the technique, None where that is not
    among the nearest; `score` is the mean of both, the probability where nothing is known."""

    technique: str
    score: float
    probability: float
    cosine: float | None = None


class WordWeight(msgspec.Struct, frozen=True):
    """A word of a judged text, and by how much the log-odds fall when it is left out."""

    word: str
    weight: float


class Opinion(msgspec.Struct, frozen=True):
    """What the sentinel has to say of a text over its threshold. `text` is what it read, `score`
    and `threshold` are in 0..1, `budget` is the findings per host and day that the threshold is
    for, `agrees` the rules that fired on the same event, as far as known."""

    kind: str
    text: str
    score: float
    threshold: float
    budget: float
    strong: bool
    techniques: tuple[Guess, ...] = ()
    tactics: tuple[str, ...] = ()
    words: tuple[WordWeight, ...] = ()
    citations: tuple[Citation, ...] = ()
    agrees: tuple[str, ...] = ()


class Detection(msgspec.Struct, frozen=True):
    """What one detector says of one event. `score` in 0..1; rules score 1.0. `opinion` is the
    sentinel's, None of every other detector."""

    detector: str
    rule_id: str
    title: str
    level: Level
    techniques: tuple[str, ...]
    tactics: tuple[str, ...]
    event: Event
    logsource: LogSource
    matched: tuple[Match, ...]
    score: float = 1.0
    opinion: Opinion | None = None


class Review(msgspec.Struct, frozen=True):
    """What the operator's overrides make of a detection. `own_level` is the level that the rule
    itself gave, where the operator's is another, else None; `suppressed` is the operator's reason
    for keeping the finding from sinks and incidents, empty where it is not kept from them;
    `any_rule` says that this reason is one for any rule of a detector."""

    detection: Detection
    own_level: Level | None = None
    suppressed: str = ""
    any_rule: bool = False


class Verdict(msgspec.Struct, frozen=True):
    """One expert's opinion of one finding. `confidence` in 0..1."""

    expert: str
    label: VerdictLabel
    confidence: float
    reason: str
    citations: tuple[Citation, ...] = ()


class Finding(msgspec.Struct, frozen=True):
    """A detection with its deterministic id and the experts' verdicts."""

    id: str
    detection: Detection
    verdicts: tuple[Verdict, ...]


class Fold(msgspec.Struct, frozen=True):
    """Near-identical findings of an incident, as one row: one rule on one host. `count` findings
    between `first` and `last` (event time); `expected` is how usual this is here, 0..1: the share
    of the hours watched before in which it was seen; `rarity` is how much that surprises, in bits,
    as far as enough was `watched` (0..1) to say."""

    detector: str
    rule_id: str
    title: str
    level: Level
    host: str
    count: int
    first: float
    last: float
    techniques: tuple[str, ...] = ()
    tactics: tuple[str, ...] = ()
    expected: float = 0.0
    rarity: float = 0.0
    watched: float = 1.0


class Reason(msgspec.Struct, frozen=True):
    """Why an incident ranks where it does: `name` of what was weighed (level, rarity, spread,
    stage, asset, agreement, knowledge, expected), `points` it gives or takes, and the words."""

    name: str
    points: float
    words: str


class Incident(msgspec.Struct, frozen=True):
    """Findings that belong together. `id` is derived from the finding that opened it, `number`
    counts incidents in the order of their opening, `count` counts the findings, of which
    `findings` holds the ids of the first few. `aliases` are ids of incidents merged into this.

    `kind` is "minor" below what is worth a look of its own, "routine" for what is expected here
    (one for all of it: a place, no alarm); `score` is its priority in 0..100 with the `reasons`;
    `folds` are its rows, the weightiest first; `tactics` are in the order of their first time;
    `related` are incidents with which it shares entities but not its findings: they were closed, or
    operators split it from them (`apart`); `parts` counts its folds of ten minutes.
    """

    id: str
    number: int
    status: Literal["open", "closed"]
    level: Level
    title: str
    entities: tuple[Entity, ...]
    findings: tuple[str, ...]
    count: int
    tactics: tuple[str, ...]
    first_seen: float
    last_seen: float
    aliases: tuple[str, ...] = ()
    kind: Literal["incident", "minor", "routine"] = "incident"
    score: float = 0.0
    reasons: tuple[Reason, ...] = ()
    folds: tuple[Fold, ...] = ()
    techniques: tuple[str, ...] = ()
    detectors: tuple[str, ...] = ()
    related: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    parts: int = 0


class Span(msgspec.Struct, frozen=True):
    """A time (first and last event time, seconds) in which an entity led to an incident."""

    incident: str
    first: float
    last: float


class Usual(msgspec.Struct):
    """What was seen before of something that repeats: a rule on a host, a rule, an entity.

    `hours` counts distinct hours (event time // 3600) before those in `recent`, which lists the
    newest, in order, `days` and `recent_days` the same of days; `peak` is the largest count of ten
    minutes before those in `buckets`, which lists the newest as (time // 600, count); `hosts` are
    those first seen with it, as (name, time).
    """

    hours: int = 0
    recent: list[int] = msgspec.field(default_factory=list)
    peak: int = 0
    buckets: list[tuple[int, int]] = msgspec.field(default_factory=list)
    hosts: list[tuple[str, float]] = msgspec.field(default_factory=list)
    days: int = 0
    recent_days: list[int] = msgspec.field(default_factory=list)


class FoldState(msgspec.Struct):
    """Near-identical findings of ten minutes: one rule at one level, one host, one subject (a
    process, session, user or address). `state` is "routine" (expected here), "quiet" (too little to
    draw others in) or "loud", `base` what it would be without a burst; `keys` are what links it to
    others, each with the times of its findings; `rarity`, `expected` and `watched` as in Fold,
    `burst` the bits that a sudden number of them adds up to. `findings` and `entities` hold the
    first few."""

    id: str
    incident: str
    detector: str
    rule_id: str
    title: str
    level: Level
    host: str
    bucket: int
    count: int
    first: float
    last: float
    techniques: tuple[str, ...]
    tactics: tuple[str, ...]
    state: Literal["routine", "quiet", "loud"]
    base: Literal["routine", "quiet", "loud"]
    rarity: float
    burst: float
    expected: float
    keys: dict[str, tuple[float, float]]
    findings: list[str]
    entities: list[Entity]
    watched: float = 1.0


class CorrelationChange(msgspec.Struct):
    """What joining a batch of findings changed: stored in the batch's transaction, or thrown away
    with it. `links` maps an entity key to its spans, or to None when it was evicted, `usuals` what
    is usual; `merged` maps an incident's id to the one it went into; `joined` a finding to its
    incident, `folded` to its fold; `moved` a fold of earlier batches to the incident it went to;
    `notable` are ids worth telling a sink about."""

    incidents: dict[str, Incident]
    links: dict[str, tuple[Span, ...] | None]
    merged: dict[str, str]
    joined: dict[str, str]
    notable: set[str]
    folds: dict[str, FoldState] = msgspec.field(default_factory=dict)
    folded: dict[str, str] = msgspec.field(default_factory=dict)
    moved: dict[str, str] = msgspec.field(default_factory=dict)
    usuals: dict[str, Usual | None] = msgspec.field(default_factory=dict)


class Hit(msgspec.Struct, frozen=True):
    """One event that met a rule which a Sigma correlation names. `event` has the view that matched
    only, without its fields; `values` are the texts of those fields that correlations ask for."""

    rule: str
    event: Event
    values: dict[str, str]


class WindowEvent(msgspec.Struct):
    """One event in a group of a Sigma correlation, in the order in which groups keep them. `base`
    is the place of the rule that it met among those that the correlation names, `value` the text
    of the field that is counted or measured, `held` whether the condition was true at it."""

    time: float
    id: str
    base: int
    value: str | None = None
    held: bool = False


class WindowGroup(msgspec.Struct):
    """What a Sigma correlation keeps of one group beside its events. `rule` is the correlation's
    hash, `values` the group-by values as first seen; `marks` gives the newest event time and
    receipt of each stream, `entities` when each was last seen, `touched` the last receipt."""

    number: int
    rule: str
    values: tuple[str, ...]
    marks: dict[str, tuple[float, float]]
    entities: list[tuple[Entity, float]]
    touched: float


class WindowChange(msgspec.Struct):
    """What a batch of hits changed in the groups of Sigma correlations: stored in the batch's
    transaction, or thrown away with it. None is what went; a group takes its events along.
    `events` has (group's number, event)."""

    groups: dict[int, WindowGroup | None]
    events: list[tuple[int, WindowEvent]]
    gone: list[tuple[int, WindowEvent]]


class Rejected(msgspec.Struct, frozen=True):
    """A record that could not go on, with its bytes and the reason. `data` is what the record
    cap left of it, `length` the full length."""

    record: RawRecord
    stage: Stage
    reason: str

    @property
    def length(self) -> int:
        """Full length of the record in bytes, before any cut."""
        return self.record.truncated or len(self.record.data)


MessageKind = Literal["finding", "update", "incident", "heartbeat", "audit", "test"]


class Message(msgspec.Struct, frozen=True):
    """One row of the outbox. `seq` grows by one a message; `id` is the finding's or incident's id;
    `body` is what a JSON reader gets (for a finding: the object of `scan --out`)."""

    seq: int
    kind: MessageKind
    id: str
    time: float
    body: dict[str, Any]


class SinkPosition(msgspec.Struct, frozen=True):
    """How far a sink has come. `seq`: last outbox row delivered. For files also the committed
    `length` in bytes and the file's `identity` ("device:inode"), to truncate to on recovery."""

    seq: int = 0
    length: int = 0
    identity: str = ""


class SourceBatch(msgspec.Struct, frozen=True):
    """What one look at a source gave: records in the order of each stream, what could not be
    framed, and how far each stream that moved has now been read."""

    records: list[RawRecord]
    rejected: list[Rejected]
    checkpoints: list[Checkpoint]


def digest(*parts: str | bytes) -> str:
    """32 hex digits of BLAKE2b over the parts, each length-prefixed: no two lists collide."""
    framed: list[bytes] = []
    for part in parts:
        raw = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        framed += (len(raw).to_bytes(8, "big"), raw)
    return hashlib.blake2b(b"".join(framed), digest_size=16).hexdigest()


def event_id(record: RawRecord) -> str:
    """The same record at the same place of the same source always has the same id."""
    return digest(record.source, record.logical, str(record.cursor.position), record.data)


def finding_id(detector: str, rule_id: str, event: str) -> str:
    """Deterministic finding id: one detector's rule fires once an event."""
    return digest("finding", detector, rule_id, event)


def name_program(appname: str) -> str:
    """The program that a syslog tag names: `/usr/sbin/cron` and `CRON` are cron, `postfix/smtpd`
    is postfix."""
    path = appname.lower()
    return path.rpartition("/")[2] if path[:1] == "/" else path.partition("/")[0]


def highest_level(levels: Sequence[Level]) -> Level:
    """The most severe of the levels; "informational" for none."""
    return max(levels, key=LEVELS.index, default="informational")
