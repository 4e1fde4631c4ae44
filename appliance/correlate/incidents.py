"""Behind judge on the line: joins findings into incidents by the entities they share.

A finding joins the incident in which one of its entities was seen no longer than the window before
or after, in event time. When it shares entities with several incidents, they become one: the one
opened first keeps its id, the others' ids stay as aliases. An incident's id is derived from the
finding that opened it, so the same input gives the same ids.

State is a plain key-value map; a batch's changes are kept apart until they are stored (`commit`) or
thrown away (`rollback`).
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import chain, islice
from typing import TypeVar

import msgspec

from appliance.schema import (
    LEVELS,
    CorrelationChange,
    Entity,
    EntityKind,
    Finding,
    Incident,
    Link,
    digest,
)

T = TypeVar("T")

#: Kinds whose sharing means something. A file name or a service is shared by every healthy host.
LINKING_KINDS: frozenset[EntityKind] = frozenset(
    {"host", "user", "process", "hash", "address", "session", "domain"}
)

#: Accounts that exist on every machine: two hosts that share them share nothing.
EVERYWHERE_USERS = frozenset(
    {
        "system",
        "root",
        "administrator",
        "local service",
        "network service",
        "anonymous logon",
        "nt authority\\system",
        "nt authority\\local service",
        "nt authority\\network service",
        "nt authority\\anonymous logon",
    }
)

#: Finding ids and entities that an incident itself names; the store knows all findings by incident.
NAMED_FINDINGS = 64
NAMED_ENTITIES = 64


class CorrelationLimits(msgspec.Struct, frozen=True):
    """`window` and `span` in seconds of event time; `links` and `findings` are counts. No incident
    spans more than `span` or holds more than `findings`, by merging either."""

    window: float = 1800.0
    span: float = 86400.0
    links: int = 200_000
    findings: int = 5_000


def linking_keys(entities: Iterable[Entity]) -> list[str]:
    """The correlation keys of a finding's entities, in their order, each once."""
    keys: dict[str, None] = {}
    for entity in entities:
        if entity.kind not in LINKING_KINDS or not entity.value:
            continue
        if entity.kind == "user" and entity.value in EVERYWHERE_USERS:
            continue
        keys[f"{entity.kind}:{entity.value}"] = None
    return list(keys)


def incident_id(finding: str) -> str:
    """Id of the incident that a finding opens."""
    return digest("incident", finding)


class Correlator:
    """Joins findings, one after another.

    `links` is the stored state, oldest first; `load` gives a stored incident by id (or None when
    it is gone); `next_number` is the number the next incident gets.
    """

    def __init__(
        self,
        limits: CorrelationLimits,
        *,
        links: Mapping[str, Link],
        aliases: Mapping[str, str],
        load: Callable[[str], Incident | None],
        next_number: int = 1,
    ) -> None:
        self._limits = limits
        self._links = dict(links)
        self._aliases = dict(aliases)
        self._load = load
        self._number = next_number
        self._next_number = next_number
        self._change = _empty_change()
        self._evicted = 0
        self._now_evicted = 0

    @property
    def evicted(self) -> int:
        """Links forgotten for the cap since the start, as far as committed."""
        return self._evicted

    @property
    def keys(self) -> int:
        """Correlation keys held now."""
        return len(self._links)

    def join(self, finding: Finding) -> str:
        """Put a finding into its incident and give the incident's id."""
        event = finding.detection.event
        keys = linking_keys(event.entities)
        members = self._find_members(keys, event.time)
        if not members:
            incident = self._open(finding)
            self._change.notable.add(incident.id)
        else:
            incident = members[0]
            for other in members[1:]:
                incident = self._merge(incident, other)
            grown = _add_finding(incident, finding)
            if _is_notable(incident, grown):
                self._change.notable.add(grown.id)
            incident = grown
        # Taken out first: those that went into it stand before it, also in the store.
        self._change.incidents.pop(incident.id, None)
        self._change.incidents[incident.id] = incident
        self._change.joined[finding.id] = incident.id
        for key in keys:
            self._touch(key, incident.id, event.time)
        return incident.id

    def changes(self) -> CorrelationChange:
        """What has changed since the last commit."""
        return self._change

    def commit(self) -> None:
        """The changes are stored."""
        for key, link in self._change.links.items():
            self._links.pop(key, None)
            if link is not None:
                self._links[key] = link
        self._aliases.update(self._change.merged)
        if len(self._aliases) > self._limits.links:
            self._forget_aliases()
        self._number = self._next_number
        self._evicted += self._now_evicted
        self._now_evicted = 0
        self._change = _empty_change()

    def rollback(self) -> None:
        """The changes could not be stored: forget them."""
        self._next_number = self._number
        self._now_evicted = 0
        self._change = _empty_change()

    def evict(self) -> None:
        """Forget the links unseen for longest when there are more than the cap: those of earlier
        batches before those of this one, each in the order in which they were last seen."""
        changed = self._change.links
        held = len(self._links) + sum(
            (link is not None) - (key in self._links) for key, link in changed.items()
        )
        surplus = held - self._limits.links
        if surplus <= 0:
            return
        earlier = (key for key in self._links if key not in changed)
        seen_now = (key for key, link in changed.items() if link is not None)
        for key in list(islice(chain(earlier, seen_now), surplus)):
            changed[key] = None
            self._now_evicted += 1

    def _forget_aliases(self) -> None:
        """Keep only the aliases that a link still needs, each leading to its end at once: there
        are never more of them than links."""
        needed = {link.incident for link in self._links.values()} & self._aliases.keys()
        self._aliases = {incident: self._find_current(incident) for incident in sorted(needed)}

    def _find_current(self, incident: str) -> str:
        """The id of the incident that this one went into, or its own."""
        while into := self._change.merged.get(incident) or self._aliases.get(incident):
            incident = into
        return incident

    def _find_link(self, key: str) -> Link | None:
        if key in self._change.links:
            return self._change.links[key]
        return self._links.get(key)

    def _resolve(self, incident: str) -> Incident | None:
        current = self._find_current(incident)
        return self._change.incidents.get(current) or self._load(current)

    def _find_members(self, keys: list[str], time: float) -> list[Incident]:
        """Open incidents that the keys lead to within the window, the first opened first; no more
        of them than one incident may hold, all taken together."""
        found: dict[str, Incident] = {}
        window = self._limits.window
        for key in keys:
            link = self._find_link(key)
            if link is None or not link.first - window <= time <= link.last + window:
                continue
            incident = self._resolve(link.incident)
            if incident is not None and incident.status == "open":
                found[incident.id] = incident
        first = last = time
        count = 1
        members: list[Incident] = []
        for incident in sorted(found.values(), key=lambda incident: incident.number):
            earliest, latest = min(first, incident.first_seen), max(last, incident.last_seen)
            total = count + incident.count
            if latest - earliest <= self._limits.span and total <= self._limits.findings:
                first, last, count = earliest, latest, total
                members.append(incident)
        return members

    def _touch(self, key: str, incident: str, time: float) -> None:
        old = self._find_link(key)
        first = last = time
        if old is not None and self._find_current(old.incident) == incident:
            first, last = min(old.first, time), max(old.last, time)
        # Taken out first: the order of the links is that in which they were last seen.
        self._change.links.pop(key, None)
        self._change.links[key] = Link(incident, first, last)

    def _open(self, finding: Finding) -> Incident:
        detection = finding.detection
        number, self._next_number = self._next_number, self._next_number + 1
        return Incident(
            id=incident_id(finding.id),
            number=number,
            status="open",
            level=detection.level,
            title=detection.title,
            entities=_name_entities(detection.event.entities),
            findings=(finding.id,),
            count=1,
            tactics=detection.tactics,
            first_seen=detection.event.time,
            last_seen=detection.event.time,
        )

    def _merge(self, kept: Incident, other: Incident) -> Incident:
        # One opened in this batch stays in the change: its number and id are stored nevertheless.
        self._change.merged[other.id] = kept.id
        self._change.notable.discard(other.id)
        self._change.notable.add(kept.id)
        for finding, incident in self._change.joined.items():
            if incident == other.id:
                self._change.joined[finding] = kept.id
        worse = LEVELS.index(other.level) > LEVELS.index(kept.level)
        return msgspec.structs.replace(
            kept,
            level=other.level if worse else kept.level,
            title=other.title if worse else kept.title,
            entities=_name_entities(_union(kept.entities, other.entities)),
            findings=_union(kept.findings, other.findings)[:NAMED_FINDINGS],
            count=kept.count + other.count,
            tactics=_union(kept.tactics, other.tactics),
            first_seen=min(kept.first_seen, other.first_seen),
            last_seen=max(kept.last_seen, other.last_seen),
            aliases=_union(kept.aliases, (other.id, *other.aliases)),
        )


def _empty_change() -> CorrelationChange:
    return CorrelationChange({}, {}, {}, {}, set())


def _union(first: tuple[T, ...], second: tuple[T, ...]) -> tuple[T, ...]:
    """Both, in order, each once."""
    return tuple(dict.fromkeys((*first, *second)))


def _name_entities(entities: tuple[Entity, ...]) -> tuple[Entity, ...]:
    """As many as an incident names, the first ones; hosts before others, since on how many it is
    says how far it went."""
    if len(entities) <= NAMED_ENTITIES:
        return entities
    hosts = [entity for entity in entities if entity.kind == "host"][:NAMED_ENTITIES]
    others = [entity for entity in entities if entity.kind != "host"]
    named = {*hosts, *others[: NAMED_ENTITIES - len(hosts)]}
    return tuple(entity for entity in entities if entity in named)


def _add_finding(incident: Incident, finding: Finding) -> Incident:
    """The incident with one finding more; its title is that of its (first) worst finding."""
    detection = finding.detection
    event = detection.event
    worse = LEVELS.index(detection.level) > LEVELS.index(incident.level)
    return msgspec.structs.replace(
        incident,
        level=detection.level if worse else incident.level,
        title=detection.title if worse else incident.title,
        entities=_name_entities(_union(incident.entities, event.entities)),
        findings=(*incident.findings, finding.id)[:NAMED_FINDINGS],
        count=incident.count + 1,
        tactics=_union(incident.tactics, detection.tactics),
        first_seen=min(incident.first_seen, event.time),
        last_seen=max(incident.last_seen, event.time),
    )


def _is_notable(before: Incident, after: Incident) -> bool:
    """Worth a message: worse than before, a stage further, or one more host."""
    hosts = {entity for entity in after.entities if entity.kind == "host"}
    return (
        before.level != after.level
        or before.tactics != after.tactics
        or not hosts.issubset(before.entities)
    )
