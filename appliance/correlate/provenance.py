"""Beside the line, when somebody asks where an incident came from: the provenance graph.

`build_provenance` takes the events of the incident's hosts around its time and the findings, and
gives the processes from which it came, those that came of them, and what they touched: little
else. It is a pure function of the set of events; their order does not matter.

    notes (what each event says) -> processes (which is which) -> links (over the breaks of the
    tree) -> story (up to the roots, down to the descendants) -> graph, capped -> sentences
"""

import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from appliance.correlate.provenance_hosts import HostMap
from appliance.correlate.provenance_links import Hop, Linker, Ref, Thing
from appliance.correlate.provenance_notes import Note, take_notes
from appliance.correlate.provenance_processes import Process, ProcessTable
from appliance.correlate.provenance_story import Story, sort_processes
from appliance.correlate.provenance_text import clean_text, word_time
from appliance.correlate.provenance_touched import Touching, label_process, make_thing
from appliance.correlate.provenance_words import word_missing, word_story
from appliance.incident import Provenance, TraceEdge, TraceNode
from appliance.schema import Event

#: Most ids that a node or an edge cites.
MAX_EVENTS: Final = 64
MAX_FINDINGS: Final = 256


class TraceLimits(msgspec.Struct, frozen=True):
    """Caps of a graph: `nodes`, `edges`; `events` that are looked at (those with findings and the
    starts of processes first, then the nearest in time), `depth` of a way up or down in processes,
    `children` without a finding of one process, `touched` things of each kind a process."""

    nodes: int = 400
    edges: int = 1500
    events: int = 500_000
    depth: int = 64
    children: int = 40
    touched: int = 12


#: The caps where nobody names others.
LIMITS: Final = TraceLimits()


class ProcessKey(msgspec.Struct, frozen=True):
    """How a traced process is known elsewhere: `guid` as Sysmon has it, lower case without braces,
    "" for none; `start` in seconds since the epoch, None where nobody recorded it; `events` are ids
    of events that tell of it."""

    node: str
    host: str
    guid: str
    pid: int | None
    start: float | None
    image: str
    command: str
    user: str
    role: str
    events: tuple[str, ...]


def build_provenance(
    events: Iterable[Event],
    findings: Sequence[dict[str, Any]],
    *,
    limits: TraceLimits = LIMITS,
) -> Provenance:
    """The provenance of the findings (bodies as of `render_finding`, with event.id) among the
    events. Raises nothing for any event or body; what does not fit is left out, and counted."""
    found, times = _read_findings(findings)
    notes, left_out = take_notes(events, found.keys(), times, max(1, limits.events))
    table = ProcessTable(notes)
    hosts = HostMap(notes)
    linker = Linker(table, notes, hosts, found.keys())
    by_event = {note.event: note for note in notes}
    story = Story(
        table,
        linker.list_links(),
        by_event,
        found,
        depth=max(1, limits.depth),
        fan_out=max(0, limits.children),
    )
    graph = _Graph(story, found, limits)
    graph.draw(Touching(table, hosts, frozenset(found)), linker)
    nodes, edges = graph.cap()
    kept = {node.id for node in nodes}
    roots = tuple(root.id for root in story.roots if root.id in kept)
    reach = _list_reach(story, nodes)
    return Provenance(
        nodes=nodes,
        edges=edges,
        roots=roots,
        reach=reach,
        sentences=word_story(story, reach, nodes),
        missing=word_missing(story, left_out, [ids[0] for ids in found.values()]),
        cut=graph.cut + story.too_deep + story.too_many,
    )


def process_keys(provenance: Provenance) -> tuple[ProcessKey, ...]:
    """The processes of a graph under the names by which others know them, in order of time;
    system parents that stand above (role "ancestor") included."""
    return tuple(
        _read_key(node, dict(node.facts)) for node in provenance.nodes if node.kind == "process"
    )


def _read_key(node: TraceNode, facts: dict[str, str]) -> ProcessKey:
    pid = facts.get("ProcessId", "")
    return ProcessKey(
        node=node.id,
        host=node.host,
        guid=facts.get("ProcessGuid", ""),
        pid=int(pid) if pid else None,
        start=node.first if "Started" in facts else None,
        image=facts.get("Image", ""),
        command=facts.get("CommandLine", ""),
        user=facts.get("User", ""),
        role=node.role,
        events=node.events,
    )


def _read_findings(findings: Sequence[dict[str, Any]]) -> tuple[dict[str, list[str]], list[float]]:
    """Ids of findings by their event's id, and when those were."""
    found: dict[str, list[str]] = {}
    times: list[float] = []
    for body in findings:
        event = body.get("event")
        identity = event.get("id") if isinstance(event, dict) else None
        finding = body.get("id")
        if not isinstance(identity, str) or not isinstance(finding, str) or not finding:
            continue
        found.setdefault(identity, []).append(clean_text(finding, 128))
        try:
            times.append(datetime.fromisoformat(str(body.get("time"))).timestamp())
        except (ValueError, OverflowError):
            continue
    for ids in found.values():
        ids[:] = sorted(set(ids))
    return dict(sorted(found.items())), times


class _Drawn:
    """A node while the graph is drawn. `rank` says what goes first when there are too many."""

    __slots__ = ("events", "findings", "first", "last", "rank", "ref")

    def __init__(self, ref: Ref, rank: int, time: float) -> None:
        self.ref = ref
        self.rank = rank
        self.first = self.last = time
        self.events: dict[str, None] = {}
        self.findings: dict[str, None] = {}


class _Line:
    """An edge while the graph is drawn."""

    __slots__ = ("count", "events", "rank", "time")

    def __init__(self, rank: int, time: float) -> None:
        self.rank = rank
        self.time = time
        self.count = 0
        self.events: dict[str, None] = {}


#: Ranks: what is kept first. Descendants follow by their depth, then what was touched.
_SEED, _CORE, _BREAK, _CONTEXT, _BELOW, _TOUCHED_FOUND, _TOUCHED = 0, 1, 2, 3, 10, 4, 1000


class _Graph:
    def __init__(self, story: Story, found: dict[str, list[str]], limits: TraceLimits) -> None:
        self.story = story
        self.found = found
        self.limits = limits
        self.cut = 0
        self.nodes: dict[str, _Drawn] = {}
        self.lines: dict[tuple[str, str, str], _Line] = {}

    def draw(self, touching: Touching, linker: Linker) -> None:
        """Put everything into the graph."""
        story = self.story
        members = sort_processes(story.members | story.context)
        for process in members:
            self._draw_process(process)
        for process in members:
            parent = process.parent
            if parent is None or parent.id not in self.nodes:
                continue
            if not (parent.is_system and process.is_system):
                self._draw_hop(Hop(parent, process, "started", tuple(process.notes)), _CONTEXT)
        for link in story.links:
            for hop in link.hops:
                self._draw_hop(hop, _BREAK)
        for process in members:
            if process not in story.context or process in story.core:
                self._draw_touched(process, touching)
        self._draw_rest(touching.hosts, linker)

    def _rank(self, process: Process) -> int:
        story = self.story
        if process in story.seeds or process in story.roots:
            return _SEED
        if process in story.core:
            return _CORE
        return _BELOW + story.below[process] if process in story.below else _CONTEXT

    def _draw_process(self, process: Process) -> None:
        drawn = self._put(process, self._rank(process), process.begin)
        acts = [note for note in process.acts if note.event in self.found]
        for note in (*process.notes, *acts):
            self._cite(drawn, note)

    def _put(self, ref: Ref, rank: int, time: float) -> _Drawn:
        drawn = self.nodes.get(ref.id)
        if drawn is None:
            drawn = self.nodes[ref.id] = _Drawn(ref, rank, time)
        drawn.rank = min(drawn.rank, rank)
        drawn.first, drawn.last = min(drawn.first, time), max(drawn.last, time)
        return drawn

    def _cite(self, drawn: _Drawn, note: Note) -> None:
        drawn.last = max(drawn.last, note.time)
        drawn.events[note.event] = None
        if note.event in self.found:
            drawn.findings.update(dict.fromkeys(self.found[note.event]))

    def _draw_hop(self, hop: Hop, rank: int) -> None:
        time = min((note.time for note in hop.notes), default=0.0)
        for end in (hop.source, hop.target):
            drawn = self._put(end, rank, end.begin if isinstance(end, Process) else time)
            if not isinstance(end, Process):
                for note in hop.notes:
                    self._cite(drawn, note)
        key = (hop.source.id, hop.target.id, hop.verb)
        line = self.lines.get(key)
        if line is None:
            line = self.lines[key] = _Line(rank, time)
        line.rank, line.time = min(line.rank, rank), min(line.time, time)
        line.count += 1
        line.events.update(dict.fromkeys(note.event for note in hop.notes))

    def _draw_touched(self, process: Process, touching: Touching) -> None:
        shown: dict[str, set[str]] = {}
        left_out: set[str] = set()
        for hop in touching.list_hops(process):
            has_finding = any(note.event in self.found for note in hop.notes)
            things = shown.setdefault(hop.verb, set())
            is_new = hop.target.id not in things
            if is_new and not has_finding and len(things) >= self.limits.touched:
                left_out.add(hop.target.id)
                continue
            things.add(hop.target.id)
            self._draw_hop(hop, _TOUCHED_FOUND if has_finding else _TOUCHED)
        self.cut += len(left_out - self.nodes.keys())

    def _draw_rest(self, hosts: HostMap, linker: Linker) -> None:
        """Findings on what no process of the story did: on a logon, a service, a connection."""
        shown = {event for drawn in self.nodes.values() for event in drawn.events}
        for event in self.found:
            note = self.story.notes.get(event)
            if note is None or event in shown:
                continue
            hops = linker.trace_logon(note) if note.kind in ("logon", "failed") else ()
            for hop in hops:
                self._draw_hop(hop, _BREAK)
            if not hops:
                self._cite(self._put(make_thing(note, hosts), _TOUCHED_FOUND, note.time), note)

    def cap(self) -> tuple[tuple[TraceNode, ...], tuple[TraceEdge, ...]]:
        """Nodes in order of time and edges between them, the most important kept."""
        ranked = sorted(self.nodes.values(), key=lambda d: (d.rank, d.first, d.ref.id))
        kept = ranked[: max(0, self.limits.nodes)]
        self.cut += len(ranked) - len(kept)
        names = {drawn.ref.id for drawn in kept}
        lines = sorted(
            (
                (line.rank, line.time, key)
                for key, line in self.lines.items()
                if key[0] in names and key[1] in names and key[0] != key[1]
            ),
        )[: max(0, self.limits.edges)]
        nodes = sorted((self._make_node(drawn) for drawn in kept), key=lambda n: (n.first, n.id))
        edges = sorted(
            (self._make_edge(key) for _, _, key in lines),
            key=lambda e: (e.time, e.source, e.target, e.verb),
        )
        return tuple(nodes), tuple(edges)

    def _make_edge(self, key: tuple[str, str, str]) -> TraceEdge:
        line = self.lines[key]
        return TraceEdge(*key, line.time, line.count, tuple(line.events)[:MAX_EVENTS])

    def _make_node(self, drawn: _Drawn) -> TraceNode:
        ref = drawn.ref
        findings, events = tuple(drawn.findings)[:MAX_FINDINGS], tuple(drawn.events)[:MAX_EVENTS]
        if isinstance(ref, Thing):
            role: Any = "path" if drawn.rank == _BREAK else "touched"
            kind, label, facts = ref.kind, ref.label, ref.facts
        else:
            role = self._name_role(ref)
            kind, label, facts = "process", label_process(ref), _list_facts(ref)
        host = clean_text(ref.host, 256)
        first, last = drawn.first, drawn.last
        return TraceNode(ref.id, kind, label, host, first, last, facts, findings, events, role)

    def _name_role(self, process: Process) -> str:
        story = self.story
        if process.is_system:
            # Findings may be on it, yet what it did was asked of it.
            return "ancestor" if process in story.context else "touched"
        if process in story.roots:
            return "root"
        if process in story.core:
            return "path"
        if process in story.below:
            return "descendant"
        return "ancestor" if process in story.context else "touched"


def _list_facts(process: Process) -> tuple[tuple[str, str], ...]:
    start = process.start
    facts = (
        ("ProcessGuid", process.guid),
        ("ProcessId", "" if process.pid is None else str(process.pid)),
        ("Image", process.image),
        ("CommandLine", process.command),
        ("User", process.user),
        ("LogonId", process.logon),
        ("IntegrityLevel", process.integrity),
        ("ParentProcessGuid", process.parent_guid),
        ("ParentProcessId", "" if process.parent_pid is None else str(process.parent_pid)),
        ("Started", "" if start is None or not math.isfinite(start) else word_time(start)),
        ("Ended", "" if process.end is None else word_time(process.end)),
        ("Recorded", "" if process.recorded else "no"),
    )
    return tuple((name, clean_text(text)) for name, text in facts if text)


def _list_reach(story: Story, nodes: Sequence[TraceNode]) -> tuple[str, ...]:
    """The hosts of the story, in order of when something of it first happened there."""
    first: dict[str, float] = {}

    def see(host: str, time: float) -> None:
        if host:
            first[host] = min(time, first.get(host, math.inf))

    for process in story.members:
        see(process.host, process.begin if process.recorded else process.seen)
    for node in nodes:
        if node.findings or (node.kind in ("host", "session") and node.role == "path"):
            see(node.host, node.first)
    # What led to something on another host was there before it, whenever it was first recorded.
    for link in story.links:
        if link.cause is not None:
            see(link.cause.host, first.get(link.effect.host, math.inf))
    starts = {root.host for root in story.roots}
    return tuple(sorted(first, key=lambda host: (first[host], host not in starts, host)))
