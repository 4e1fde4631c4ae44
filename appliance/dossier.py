"""Beside the line: all that is known of one incident, put together when somebody asks.

From the store its findings, case and actions; from the archive, where there is one, the events
before, between and behind them; from these the provenance graph and the attack chain; the records
themselves; what the sources could see; and what all of it comes to, in sentences that each name
their evidence. `show`, `explain` and every report read the same dossier.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from appliance import __version__
from appliance.config import Config
from appliance.correlate.provenance import build_provenance
from appliance.emit.text import cap_text
from appliance.errors import ApplianceError
from appliance.evidence import find_records
from appliance.feeding import read_seen
from appliance.incident import (
    Action,
    Case,
    Chain,
    Dossier,
    Evidence,
    Provenance,
    Sentence,
    TechniqueRow,
)
from appliance.normalise import matches
from appliance.pipeline import name_logsource
from appliance.schema import LEVELS, Event, Fold, Incident, RawRecord, RuleInfo
from appliance.telling import (
    Body,
    Telling,
    ask,
    keep_cited,
    order_hosts,
    rank_body,
    read_body_time,
    summarise,
)
from appliance.visibility import Presence, choose_step, find_unheard, list_visibility

#: Findings of an incident that a dossier holds, and of these the records that are looked for.
MOST_FINDINGS: Final = 2000
MOST_RECORDS: Final = 500
#: Characters of one record, and of all of them together.
RECORD_CHARACTERS: Final = 16_384
ALL_CHARACTERS: Final = 8 << 20
#: Seconds to look for records in the sources' files.
SEARCH_SECONDS: Final = 20.0

#: Seconds before the first finding and behind the last one in which events are taken from the
#: archive. Close to the findings all kinds of events count; further before them, those by which
#: somebody came in or started what is there now.
BEFORE_SECONDS: Final = 24 * 3600.0
AFTER_SECONDS: Final = 2 * 3600.0
CLOSE_SECONDS: Final = 600.0
#: How far before the findings each further look goes, the nearest first: what is near is not
#: crowded out by what is far.
_LOOKS_BACK: Final = (3600.0, 6 * 3600.0, BEFORE_SECONDS)
PARENT_KINDS: Final = frozenset(
    {
        "process_creation", "process_access", "create_remote_thread", "registry_set",
        "file_event", "security", "system", "taskscheduler", "auditd", "auth", "sshd", "sudo",
        "su", "cron", "login",
    }
)  # fmt: skip
#: Events taken: close to the findings, in each look further back, behind them, and altogether.
CLOSE_EVENTS: Final = 12_000
BACK_EVENTS: Final = 2_000
AFTER_EVENTS: Final = 4_000
MOST_EVENTS: Final = 24_000
#: Pieces of a long incident of which each gives its share, so that a busy hour hides no other.
_PIECES: Final = 16
#: Hosts asked for at once, and passes over hosts that the incident turns out to have reached.
MOST_HOSTS: Final = 256
_PASSES: Final = 2

#: Reads a record again: its event, None where this version rejects it.
ReadEvent = Callable[[RawRecord], Event | None]
#: (log sources fed here that would show a technique, titles of the rules that watch for it).
Watchers = Callable[[str], tuple[tuple[str, ...], tuple[str, ...]]]


class EventArchive(Protocol):
    """What a dossier asks of the archive: `archive.reader.Archive`."""

    def events(
        self,
        *,
        hosts: Collection[str] | None,
        since: float,
        until: float,
        kinds: Collection[str] | None = None,
        limit: int,
    ) -> Iterator[Event]:
        """Events of these hosts between two epoch times, in the order of time."""

    def records(
        self, ids: Collection[str], *, since: float | None = None, until: float | None = None
    ) -> Mapping[str, RawRecord]:
        """Records by event id, as far as they are there, of events between two epoch times."""

    def presence(
        self, hosts: Collection[str] | None, since: float, until: float, step: float
    ) -> Sequence[tuple[str, str, float, int]]:
        """(source, host, beginning of a slice of `step` seconds, events in it)."""


class Shelf(Protocol):
    """What a dossier asks of the store."""

    def incident(self, key: str) -> Incident | None:
        """The incident with this full id."""

    def finding_bodies(
        self, *, incident: str | None = None, limit: int = -1
    ) -> list[dict[str, Any]]:
        """The incident's newest findings, oldest first."""

    def findings_by_ids(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Bodies of those that exist."""

    def counts(self) -> dict[str, dict[str, float]]:
        """The ledger."""


class Cases(Protocol):
    """What operators made of incidents."""

    def case(self, incident: str) -> Case:
        """The incident's case, an open one where nobody did anything."""

    def actions(self, subject: str) -> Sequence[Action]:
        """The audit log's entries about it, oldest first."""


class Entry(Protocol):
    """A knowledge entry, as far as a dossier names it."""

    @property
    def title(self) -> str:
        """Its name."""

    @property
    def tactics(self) -> tuple[str, ...]:
        """The tactics that it serves."""


class Base(Protocol):
    """What a dossier asks of the knowledge base."""

    def entry(self, id: str) -> Entry | None:  # noqa: A002 - the base's own name
        """The entry with this id."""


#: Makes the provenance graph of events and findings, and the attack chain.
Trace = Callable[[Iterable[Event], Sequence[dict[str, Any]]], Provenance]
Link = Callable[[Incident, Sequence[dict[str, Any]], Presence, Watchers], Chain]


def no_chain(_: Incident, __: Sequence[dict[str, Any]], ___: Presence, ____: Watchers) -> Chain:
    """A chain without anything."""
    return Chain()


def no_damage() -> str:
    """Nothing of the archive was left out."""
    return ""


def build_dossier(
    store: Shelf,
    incident_id: str,
    *,
    archive: EventArchive | None,
    base: Base | None,
    rules: Iterable[RuleInfo],
    now: float,
    config: Config | None = None,
    read: ReadEvent | None = None,
    cases: Cases | None = None,
    trace: Trace = build_provenance,
    link: Link = no_chain,
    damage: Callable[[], str] = no_damage,
    timer: Callable[[], float] = time.monotonic,
) -> Dossier:
    """All that is known of the incident with this full id at `now` (epoch seconds).

    `config` tells which files the sources are (default: none is known), `read` makes events of
    records, `rules` are those that are loaded, `cases` the operators' work, `trace` and `link` make
    the provenance graph and the attack chain, `damage` tells why the archive has left out a part of
    itself. Raises ApplianceError when the incident is no longer
    kept, StoreError when the store or the archive can't be read.
    """
    incident = store.incident(incident_id)
    if incident is None:
        raise ApplianceError(f"incident {incident_id} is no longer kept")
    counts = store.counts()
    findings = take_findings(store, incident)
    hosts = order_hosts(findings)
    first, last = incident.first_seen, incident.last_seen
    window = first - BEFORE_SECONDS, min(last + AFTER_SECONDS, max(now, last))
    step = choose_step(*window)
    presence: Presence = ()
    if archive is not None and hosts:
        presence = archive.presence(hosts[:MOST_HOSTS], *window, step)
    evidence, records = gather_evidence(
        findings, archive, config or Config(), timer, seen=(first, last)
    )
    pulled = pull_events(archive, hosts, first, last, until=window[1])
    provenance = trace(_join_events(pulled, findings, records, read), findings)
    for _ in range(_PASSES):
        further = [host for host in provenance.reach if host not in hosts]
        if archive is None or not further or len(pulled) >= MOST_EVENTS:
            break
        hosts += further[:MOST_HOSTS]
        pulled.update(pull_events(archive, further, first, last, until=window[1]))
        provenance = trace(_join_events(pulled, findings, records, read), findings)
    chain = link(incident, findings, presence, watch_rules(rules, counts))
    techniques = list_techniques(findings, base)
    visibility = list_visibility(
        presence, step=step, window=window, seen=(first, last), findings=findings, counts=counts
    )
    folds = incident.folds or fold_findings(findings)
    left_out = max(0, incident.count - len(findings))
    telling = Telling(
        incident=incident,
        findings=findings,
        folds=folds,
        provenance=provenance,
        chain=chain,
        techniques=techniques,
        visibility=visibility,
        unheard=_list_unheard(findings, archive, presence, window),
        archived=any(events for *_, events in presence),
        left_out=left_out,
        damage=damage(),
    )

    def keep(sentences: Iterable[Sentence]) -> tuple[Sentence, ...]:
        knows = None if base is None else (lambda key: base.entry(key) is not None)
        return keep_cited(sentences, _list_ids(findings, pulled, provenance), sources, knows)

    sources = {row.source for row in visibility} | {b["source"]["name"] for b in findings}
    return Dossier(
        incident=msgspec.structs.replace(incident, folds=folds),
        case=cases.case(incident.id) if cases is not None else Case(incident.id),
        actions=tuple(cases.actions(incident.id)) if cases is not None else (),
        findings=tuple(findings),
        findings_left_out=left_out,
        evidence=evidence,
        provenance=msgspec.structs.replace(
            provenance,
            sentences=keep(provenance.sentences),
            missing=keep(provenance.missing),
        ),
        chain=msgspec.structs.replace(
            chain, gaps=tuple(gap for gap in chain.gaps if keep([gap.sentence]))
        ),
        techniques=techniques,
        visibility=visibility,
        summary=keep(summarise(telling)),
        questions=keep(ask(telling)),
        made=now,
        version=__version__,
    )


def _list_unheard(
    findings: Sequence[Body],
    archive: EventArchive | None,
    presence: Presence,
    window: tuple[float, float],
) -> dict[str, list[str]]:
    """Hosts that findings name and that nobody heard in the window: names that are left when the
    incident's own hosts are known are looked for among all."""
    unheard = find_unheard(findings, presence)
    if not unheard or archive is None:
        return unheard
    everywhere = archive.presence(None, *window, window[1] - window[0] + 1.0)
    return find_unheard(findings, everywhere)


def _list_ids(
    findings: Iterable[Body], pulled: Iterable[str], provenance: Provenance
) -> frozenset[str]:
    """Ids of all findings and events that a sentence of the dossier can cite."""
    ids = {body["id"] for body in findings}
    ids.update(body["event"]["id"] for body in findings if (body.get("event") or {}).get("id"))
    ids.update(pulled)
    ids.update(event for node in provenance.nodes for event in node.events)
    return frozenset(ids)


# -- findings --------------------------------------------------------------------------------------


def take_findings(store: Shelf, incident: Incident) -> list[dict[str, Any]]:
    """Bodies of the incident's findings, oldest first: all, or where they are over the cap those
    that it names itself (the first) and the newest."""
    newest = store.finding_bodies(incident=incident.id, limit=MOST_FINDINGS)
    if incident.count <= len(newest):
        return newest
    named = store.findings_by_ids(incident.findings[:MOST_FINDINGS])
    rows = {key: body for key, body in named.items() if body["incident"] == incident.id}
    for body in reversed(newest):
        if len(rows) >= MOST_FINDINGS:
            break
        rows[body["id"]] = body
    return sorted(rows.values(), key=lambda body: (read_body_time(body), body["id"]))


def fold_findings(findings: Iterable[Body]) -> tuple[Fold, ...]:
    """Rows of one rule on one host, the worst and oldest first: where the incident has none."""
    groups: dict[tuple[str, str, str], list[Body]] = {}
    for body in findings:
        key = (body["detector"], body["rule_id"], body["host"])
        groups.setdefault(key, []).append(body)
    folds = []
    for (detector, rule, host), bodies in groups.items():
        worst = min(bodies, key=rank_body)
        times = [read_body_time(body) for body in bodies]
        folds.append(
            Fold(
                detector=detector,
                rule_id=rule,
                title=worst["title"],
                level=worst["level"],
                host=host,
                count=len(bodies),
                first=min(times),
                last=max(times),
                techniques=tuple(worst["techniques"]),
                tactics=tuple(worst["tactics"]),
            )
        )
    return tuple(sorted(folds, key=lambda fold: (-LEVELS.index(fold.level), fold.first)))


def list_techniques(findings: Iterable[Body], base: Base | None) -> tuple[TechniqueRow, ...]:
    """The techniques of the findings in the order in which they came, with the names that the
    knowledge base has for them (without one: none) and the rules that say so."""
    found: dict[str, list[Body]] = {}
    for body in findings:
        for technique in body["techniques"]:
            found.setdefault(technique, []).append(body)
    rows = []
    for technique, bodies in found.items():
        entry = base.entry(technique) if base is not None else None
        said = dict.fromkeys(tactic for body in bodies for tactic in body["tactics"])
        rows.append(
            TechniqueRow(
                technique=technique,
                name=entry.title if entry is not None else "",
                tactics=tuple(entry.tactics) if entry is not None else tuple(said),
                findings=tuple(body["id"] for body in bodies),
                rules=tuple(dict.fromkeys(body["title"] for body in bodies)),
            )
        )
    return tuple(rows)


# -- records and events ----------------------------------------------------------------------------


def gather_evidence(
    findings: Sequence[Body],
    archive: EventArchive | None,
    config: Config,
    timer: Callable[[], float],
    *,
    seen: tuple[float, float],
) -> tuple[tuple[Evidence, ...], dict[str, RawRecord]]:
    """Each finding's record as text, and the records that were found by finding id: from the
    archive (events of the time `seen`), else from its source's file if the finding's id follows
    from what lies there. The first of each rule on each host come before the others when there are
    more than the cap."""
    chosen = _choose_for_records(findings)
    events = {
        body["id"]: body["event"]["id"] for body in chosen if (body.get("event") or {}).get("id")
    }
    kept: Mapping[str, RawRecord] = {}
    if archive is not None and events:
        kept = archive.records(frozenset(events.values()), since=seen[0] - 1, until=seen[1] + 1)
    records = {key: kept[event] for key, event in events.items() if event in kept}
    origin = dict.fromkeys(records, "archive")
    looked = find_records(
        [body for body in chosen if body["id"] not in records],
        config,
        timer,
        seconds=SEARCH_SECONDS,
    )
    why = {key: reason for key, (_, reason) in looked.items()}
    for key, (record, _) in looked.items():
        if record is not None:
            records[key], origin[key] = record, "file"
    left = ALL_CHARACTERS
    rows = []
    for body in findings:
        key = body["id"]
        if key not in records:
            reason = why.get(key, f"not looked for: over the cap of {MOST_RECORDS} records")
            rows.append(Evidence(key, "", "", reason))
            continue
        text = cap_text(records[key].data.decode("utf-8", "backslashreplace"), RECORD_CHARACTERS)
        if len(text) > left:
            reason = f"left out: over the cap of {ALL_CHARACTERS} characters of records"
            rows.append(Evidence(key, "", "", reason))
            continue
        left -= len(text)
        rows.append(Evidence(key, text, origin[key]))
    return tuple(rows), records


def _choose_for_records(findings: Sequence[Body]) -> list[Body]:
    """Whose records are looked for: the first of each rule on each host, then the oldest."""
    if len(findings) <= MOST_RECORDS:
        return list(findings)
    firsts: dict[tuple[str, str, str], Body] = {}
    for body in findings:
        firsts.setdefault((body["detector"], body["rule_id"], body["host"]), body)
    chosen = {body["id"]: body for body in firsts.values()}
    for body in findings:
        if len(chosen) >= MOST_RECORDS:
            break
        chosen.setdefault(body["id"], body)
    return list(chosen.values())[:MOST_RECORDS]


def pull_events(
    archive: EventArchive | None,
    hosts: Sequence[str],
    first: float,
    last: float,
    *,
    until: float,
) -> dict[str, Event]:
    """Events of the hosts by id: all kinds close to the time from `first` to `last` (epoch
    seconds), those by which somebody came or started something up to BEFORE_SECONDS before, all
    kinds up to `until` behind; each look has a share of its own of the caps."""
    if archive is None or not hosts:
        return {}
    wanted = frozenset(hosts[:MOST_HOSTS])
    found: dict[str, Event] = {}

    def take(since: float, to: float, limit: int, kinds: Collection[str] | None = None) -> int:
        count = 0
        for event in archive.events(hosts=wanted, since=since, until=to, kinds=kinds, limit=limit):
            found[event.id] = event
            count += 1
        return count

    begin, end = first - CLOSE_SECONDS, min(last + CLOSE_SECONDS, until)
    if take(begin, end, CLOSE_EVENTS) >= CLOSE_EVENTS:
        found.clear()
        piece = (end - begin) / _PIECES
        for place in range(_PIECES):
            since = begin + place * piece
            take(since, since + piece, CLOSE_EVENTS // _PIECES)
    edge = begin
    for back in _LOOKS_BACK:
        take(first - back, edge, BACK_EVENTS, PARENT_KINDS)
        edge = first - back
    if until > end:
        take(end, until, AFTER_EVENTS)
    return found


def _join_events(
    pulled: Mapping[str, Event],
    findings: Sequence[Body],
    records: Mapping[str, RawRecord],
    read: ReadEvent | None,
) -> list[Event]:
    """The archive's events and, where they are not among them, those of the findings' records, in
    the order of time."""
    events = dict(pulled)
    for body in findings:
        key = (body.get("event") or {}).get("id")
        record = records.get(body["id"])
        if key and record is not None and read is not None and key not in events:
            event = read(record)
            if event is not None:
                events[event.id] = event
    return sorted(events.values(), key=lambda event: (event.time, event.id))


# -- rules -----------------------------------------------------------------------------------------


def watch_rules(rules: Iterable[RuleInfo], counts: Mapping[str, Mapping[str, float]]) -> Watchers:
    """Who would see a technique here: the log sources that came in (by the ledger) and that some
    loaded rule on it, or on one of its sub-techniques, reads, and those rules' titles."""
    seen = [source for source, count in read_seen(counts).items() if count]
    by_technique: dict[str, list[RuleInfo]] = {}
    for rule in rules:
        for technique in {part for name in rule.techniques for part in _with_parent(name)}:
            by_technique.setdefault(technique, []).append(rule)

    def watch(technique: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        sources: dict[str, None] = {}
        titles: dict[str, None] = {}
        for rule in by_technique.get(technique, ()):
            fed = [name_logsource(view) for view in seen if matches(rule.logsource, view)]
            if fed:
                sources.update(dict.fromkeys(fed))
                titles[rule.title] = None
        return tuple(sorted(sources)), tuple(titles)

    return watch


def _with_parent(technique: str) -> tuple[str, ...]:
    parent = technique.partition(".")[0]
    return (technique,) if parent == technique else (technique, parent)
