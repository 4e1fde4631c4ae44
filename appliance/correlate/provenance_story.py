"""Beside the line, when somebody asks where an incident came from: what belongs to its story.

Up: from each process that a finding is on to the last ancestor that is no system parent (see
`provenance_rules`), and from there over the breaks of the tree (`provenance_links`) to what caused
it, also on another host, again up. Where that ends is a root. Down: from every top so found all
descendants, and over the strong links what they started elsewhere. Never: from a system parent to
its other children; from a browser, an office program, a server or a shell that a person types into
to what it started before the first suspicious act.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from appliance.correlate.provenance_links import Hop, Link
from appliance.correlate.provenance_notes import Note
from appliance.correlate.provenance_processes import Process, ProcessTable
from appliance.correlate.provenance_rules import (
    HELPERS,
    ORDINARY_HOSTS,
    TYPED_LEAD_S,
    is_typed_into,
)

#: Most descendants that are followed, breadth first: many times what a graph shows.
MAX_BELOW: Final = 4_000
#: Behind every time.
_NEVER: Final = float("inf")


class Story:
    """The processes of the story. `core` are those on the way from a finding to its root, `below`
    the others with the depth below their top, `context` the system parents above the tops; `links`
    are the breaks that were followed, `tops` where the way up ended, `roots` those of them that
    nothing else caused, `too_deep` counts what lies under the depth, `too_many` children without a
    finding beyond the fan-out."""

    def __init__(
        self,
        table: ProcessTable,
        links: Iterable[Link],
        notes: Mapping[str, Note],
        found: Mapping[str, list[str]],
        *,
        depth: int,
        fan_out: int,
    ) -> None:
        self.table = table
        self.notes = notes
        self.found = found
        self.depth = depth
        self.fan_out = fan_out
        self.core: set[Process] = set()
        self.below: dict[Process, int] = {}
        self.context: set[Process] = set()
        self.links: list[Link] = []
        self.too_deep = 0
        self.too_many = 0
        self.seeds: dict[Process, list[Note]] = defaultdict(list)
        self.tops: dict[Process, float] = {}
        self._taken: set[int] = set()
        self._up: dict[Process, list[Link]] = defaultdict(list)
        self._down: dict[Process, list[Link]] = defaultdict(list)
        self._sessions: dict[str, list[Link]] = defaultdict(list)
        self._told: dict[str, list[Link]] = defaultdict(list)
        for link in links:
            self._add_link(link)
        self._find_seeds()
        self._climb_all()
        self._name_clients()
        self.roots = self._find_roots()
        self._descend_all()

    @property
    def members(self) -> set[Process]:
        """Every process of the story but the system parents above it."""
        return self.core | self.below.keys()

    def _add_link(self, link: Link) -> None:
        self._up[link.effect].append(link)
        if link.cause is not None and link.strong:
            self._down[link.cause].append(link)
        for hop in link.hops:
            for end in (hop.source, hop.target):
                if not isinstance(end, Process) and end.kind == "session" and link.strong:
                    self._sessions[end.id].append(link)
            for note in hop.notes:
                if note.event in self.found:
                    self._told[note.event].append(link)

    def _find_seeds(self) -> None:
        starts = {note.event: process for process in self.table.all for note in process.notes}
        for event in sorted(self.found):
            note = self.notes.get(event)
            if note is None:
                continue
            process = starts.get(event) or self.table.actors.get(event)
            if process is not None:
                self.seeds[process].append(note)
            for link in self._told.get(event, ()):
                if note.kind not in ("file", "connect", "flow"):
                    self.seeds[link.effect].append(note)

    # Up -------------------------------------------------------------------------------------

    def _climb_all(self) -> None:
        work = deque(
            (process, min(note.time for note in self.seeds[process]))
            for process in sort_processes(self.seeds)
        )
        while work:
            process, moment = work.popleft()
            if process.is_system:
                self.core.add(process)
                continue
            for link in self._climb(process, moment):
                self._take(link)
                if link.cause is not None and link.cause not in self.core:
                    work.append((link.cause, min(note.time for note in link.hops[-1].notes)))

    def _climb(self, process: Process, first: float) -> list[Link]:
        """Put the way up into the core; the links that lead on from it. `first` is when the
        process did something suspicious."""
        links: list[Link] = []
        above: Process | None = process
        top = process
        for _ in range(self.depth):
            if above is None or above.is_system:
                break
            top = above
            if above not in self.core:
                links += self._up.get(above, ())
                self.core.add(above)
            above = above.parent
        if above is not None and above.is_system:
            self.context.add(above)
        elif above is not None:
            self.too_deep += 1
        self.tops[top] = min(first, self.tops.get(top, _NEVER))
        return links

    def _take(self, link: Link) -> None:
        if id(link) not in self._taken:
            self._taken.add(id(link))
            self.links.append(link)

    def _name_clients(self) -> None:
        """Where only host and account of a logon are known: the process there with findings that
        ran as that account, if all such belong to one tree."""
        for place, link in enumerate(self.links):
            if link.cause is not None or not link.host or not link.user:
                continue
            moment = min((note.time for note in link.hops[0].notes), default=link.effect.begin)
            suspects = [
                process
                for process in sort_processes(self.seeds)
                if process.host == link.host
                and not process.is_system
                and process.user.rpartition("\\")[2].lower() == link.user
                and process.begin <= moment
                and (process.end is None or process.end >= moment - 1)
            ]
            if len({self._find_top(process) for process in suspects}) != 1:
                continue
            cause = max(suspects, key=lambda p: (len(self.seeds[p]), p.begin, p.id))
            first = link.hops[0]
            hop = Hop(cause, first.target, first.verb, first.notes)
            how = f"{link.how}, and by the only findings of that account where it came from"
            self.links[place] = msgspec.structs.replace(
                link, cause=cause, hops=(hop, *link.hops[1:]), how=how
            )

    def _find_roots(self) -> list[Process]:
        """Tops that no other process caused; of a circle the first."""
        caused = {
            self._find_top(link.effect)
            for link in self.links
            if link.cause is not None
            and self._find_top(link.cause) is not self._find_top(link.effect)
        }
        tops = sort_processes(self.tops)
        roots = [top for top in tops if top not in caused]
        return roots or tops[:1]

    def _find_top(self, process: Process) -> Process:
        top = process
        for _ in range(self.depth):
            if top.parent is None or top.parent.is_system:
                break
            top = top.parent
        return top

    # Down -----------------------------------------------------------------------------------

    def _descend_all(self) -> None:
        work = deque((top, self.tops[top], 0) for top in sort_processes(self.tops))
        walked: set[Process] = set()
        while work:
            process, first, depth = work.popleft()
            if process in walked:
                continue
            walked.add(process)
            if process not in self.core and len(self.below) >= MAX_BELOW:
                self.too_many += 1
                continue
            if process not in self.core:
                self.below[process] = depth
                if process.parent is not None and process.parent.is_system:
                    self.context.add(process.parent)
            if process.is_system:
                continue
            for child in self._list_children(process, first):
                if depth >= self.depth:
                    self.too_deep += 1
                    continue
                work.append((child, first, depth + 1))
            for link in self._list_ways_on(process):
                if link.effect.begin < self._since(process, first) or link.effect is process:
                    continue
                self._take(link)
                if not link.effect.is_system:
                    moment = min((note.time for note in link.hops[-1].notes), default=_NEVER)
                    own = self.tops.get(link.effect, moment)
                    start = own if link.how != "the thread that it injected" else moment
                    work.append((link.effect, start, depth + 1))
                else:
                    self.below.setdefault(link.effect, depth + 1)

    def _list_children(self, process: Process, first: float) -> list[Process]:
        """The children that belong to the story. Of a loop's many the first stand for all."""
        children = [
            child
            for child in sort_processes(process.children)
            if self._belongs(process, child, first)
        ]
        others = [child for child in children if child not in self.core]
        if len(others) <= self.fan_out:
            return children
        self.too_many += len(others) - self.fan_out
        left_out = set(others[self.fan_out :])
        return [child for child in children if child not in left_out]

    def _list_ways_on(self, process: Process) -> list[Link]:
        """Strong links from the process, and those of the sessions that brought it here."""
        links = list(self._down.get(process, ()))
        for link in self._up.get(process, ()):
            if id(link) not in self._taken:
                continue
            for hop in link.hops:
                for end in (hop.source, hop.target):
                    if not isinstance(end, Process) and end.label.startswith("network logon"):
                        links += self._sessions.get(end.id, ())
        return links

    def _since(self, process: Process, first: float) -> float:
        """From when on what the process started belongs to the story."""
        if process.name in ORDINARY_HOSTS:
            return first
        if is_typed_into(process.image, process.command) or not process.recorded:
            return first - TYPED_LEAD_S
        return float("-inf")

    def _belongs(self, process: Process, child: Process, first: float) -> bool:
        if child in self.core:
            return True
        if child.is_system and not child.recorded:
            return False
        if process.name in ORDINARY_HOSTS and child.name in HELPERS | {process.name}:
            return False
        return child.begin >= self._since(process, first)


def sort_processes(processes: Iterable[Process]) -> list[Process]:
    """In order of their start, whatever the order in which they came."""
    return sorted(processes, key=lambda process: (process.begin, process.id))
