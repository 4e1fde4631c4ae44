"""The types of working an incident: what is told of it beside its findings.

`provenance` and `chain` are worked out from the archive's events when somebody asks; the case is
what operators made of it. `Dossier` holds all of it: `show`, `explain` and every report read that.
Times are seconds since the Unix epoch, UTC. Every `cites` holds ids of findings or events (hex), of
knowledge entries ("T1059.001") or of sources ("source:NAME"): a sentence without one is left out.
"""

from typing import Any, Literal

import msgspec

from appliance.schema import Event, Incident

CaseStatus = Literal["open", "acknowledged", "closed"]
#: How an incident can end: OCSF's verdict words, as far as an operator uses them.
Closing = Literal["true_positive", "benign", "false_positive", "test", "duplicate", "unknown"]


class Sentence(msgspec.Struct, frozen=True):
    """One statement and what supports it."""

    text: str
    cites: tuple[str, ...]


class Action(msgspec.Struct, frozen=True):
    """One entry of the audit log. `subject` is the id of what was acted on, `details` the action's
    own values; `hash` covers this entry and `previous`, the hash of the entry before it."""

    number: int
    time: float
    actor: str
    action: str
    subject: str
    details: dict[str, Any]
    previous: str
    hash: str


class Case(msgspec.Struct, frozen=True):
    """What operators made of an incident. `closing` and `note` are set when it was closed."""

    incident: str
    status: CaseStatus = "open"
    assignee: str = ""
    closing: Closing | None = None
    note: str = ""
    changed: float = 0.0


NodeKind = Literal[
    "process", "user", "session", "file", "registry", "address", "domain", "service", "task", "host"
]


class TraceNode(msgspec.Struct, frozen=True):
    """One thing of the provenance graph. `label` is what a person reads (a process: its image and
    command line's beginning), `facts` more of it by field name; `findings` are ids of findings on
    its events, `events` ids of the events that tell of it, `role` what it is in the story: the
    root cause, on the path, before or behind it."""

    id: str
    kind: NodeKind
    label: str
    host: str
    first: float
    last: float
    facts: tuple[tuple[str, str], ...] = ()
    findings: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    role: Literal["root", "path", "ancestor", "descendant", "touched"] = "path"


class TraceEdge(msgspec.Struct, frozen=True):
    """`source` did `verb` to `target` (started, wrote, connected to, logged on as, ...), first at
    `time`, `count` times, told by `events`."""

    source: str
    target: str
    verb: str
    time: float
    count: int = 1
    events: tuple[str, ...] = ()


class Provenance(msgspec.Struct, frozen=True):
    """Where an incident came from and how far it went. `roots` are ids of nodes, `reach` the hosts
    it came to, in order; `sentences` tell both; `cut` counts nodes left out for the caps;
    `missing` says what could not be followed (a parent whose start nobody recorded)."""

    nodes: tuple[TraceNode, ...] = ()
    edges: tuple[TraceEdge, ...] = ()
    roots: tuple[str, ...] = ()
    reach: tuple[str, ...] = ()
    sentences: tuple[Sentence, ...] = ()
    missing: tuple[Sentence, ...] = ()
    cut: int = 0


class ChainStage(msgspec.Struct, frozen=True):
    """One tactic of the attack chain: when, on which hosts, by which techniques and findings."""

    tactic: str
    first: float
    last: float
    hosts: tuple[str, ...]
    techniques: tuple[str, ...]
    findings: tuple[str, ...]
    count: int


class Gap(msgspec.Struct, frozen=True):
    """Where the chain is not known. "silence": a time in which a host or source of the incident
    said nothing; "stage": the tactic `subject` that must have come before `first` (= `last`) and
    that nothing was seen of."""

    subject: str
    first: float
    last: float
    sentence: Sentence
    kind: Literal["silence", "stage"] = "silence"


class NextStep(msgspec.Struct, frozen=True):
    """What usually follows. `share` (0..1) of `of` procedures (campaigns, groups, software of
    ATT&CK) that use much of what was seen use this, too: a plain count; `lift` is how many times
    more often than all do, drawn towards 1 where `of` is small;
    `sources` are the log sources fed here that would show it, with the `rules` that watch; empty
    means that nothing here would."""

    technique: str
    name: str
    tactic: str
    share: float
    of: int
    lift: float
    sources: tuple[str, ...]
    rules: tuple[str, ...]
    cites: tuple[str, ...]


class Chain(msgspec.Struct, frozen=True):
    """The attack chain: stages in order of time, gaps, what usually comes next. `unplaced` counts
    findings that no stage is known of."""

    stages: tuple[ChainStage, ...] = ()
    gaps: tuple[Gap, ...] = ()
    next_steps: tuple[NextStep, ...] = ()
    unplaced: int = 0


class TechniqueRow(msgspec.Struct, frozen=True):
    """A technique of the incident with how we know: ids of findings, and the entry of ATT&CK."""

    technique: str
    name: str
    tactics: tuple[str, ...]
    findings: tuple[str, ...]
    rules: tuple[str, ...]


class Visibility(msgspec.Struct, frozen=True):
    """What a source showed of the incident's time: its ledger, and the events archived of the
    incident's hosts. `silent` are (first, last) times without any event of it."""

    source: str
    seen: int
    rejected: int
    dropped: int
    events: int
    hosts: tuple[str, ...]
    last: float
    silent: tuple[tuple[float, float], ...] = ()


class Evidence(msgspec.Struct, frozen=True):
    """A finding's record: its bytes as text (made safe only when shown), and where they came from:
    "archive", "file", or "" with the reason why they are not to be had in `missing`."""

    finding: str
    text: str
    origin: str
    missing: str = ""


class Dossier(msgspec.Struct, frozen=True):
    """All that is known of an incident. `findings` are bodies as of `scan --out`, oldest first,
    `findings_left_out` counts those over the cap; `summary`, `questions` are for people who were
    not there. `made` is when the dossier was put together."""

    incident: Incident
    case: Case
    actions: tuple[Action, ...]
    findings: tuple[dict[str, Any], ...]
    findings_left_out: int
    evidence: tuple[Evidence, ...]
    provenance: Provenance
    chain: Chain
    techniques: tuple[TechniqueRow, ...]
    visibility: tuple[Visibility, ...]
    summary: tuple[Sentence, ...]
    questions: tuple[Sentence, ...]
    made: float
    version: str


class ArchivedEvent(msgspec.Struct, frozen=True):
    """An event that came out of the archive: read again from its record by this version."""

    event: Event
    segment: str
