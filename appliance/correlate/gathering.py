"""An incident while findings gather in it: what is summed up, and the Incident that it makes.

Everything is a sum, a union, a first or a last: the order in which findings come says nothing. It
decides only which few findings and entities an incident names, where it has too many to name all.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from appliance.correlate.priority import MINOR_BELOW, find_worst, weigh_incident
from appliance.schema import LEVELS, Entity, Fold, FoldState, Incident, Level

#: Finding ids, entities and rows that an incident itself names; the store knows all by incident.
NAMED_FINDINGS: Final = 64
NAMED_ENTITIES: Final = 64
NAMED_FOLDS: Final = 256
#: Most aliases and related incidents that are named.
NAMED_OTHERS: Final = 256

_Key = tuple[str, str, str]
#: Kind, level, tactics, hosts.
_Told = tuple[str, Level, tuple[str, ...], frozenset[str]]


class Gathering:
    """An incident that changes. `routine` is the one place for what is expected."""

    def __init__(self, key: str, number: int, *, routine: bool = False) -> None:
        self.id = key
        self.number = number
        self.status = "open"
        self.routine = routine
        self.rows: dict[_Key, Fold] = {}
        self.entities: dict[Entity, None] = {}
        self.findings: dict[str, None] = {}
        self.count = 0
        self.parts = 0
        self.first = 0.0
        self.last = 0.0
        self.aliases: dict[str, None] = {}
        self.related: dict[str, None] = {}
        self.apart: dict[str, None] = {}
        #: What was told of it last, and what is about to be.
        self.told: _Told | None = None
        self._telling: _Told | None = None

    @classmethod
    def resume(cls, incident: Incident) -> "Gathering":
        """As it was when this Incident was made of it."""
        made = cls(incident.id, incident.number, routine=incident.kind == "routine")
        made.status = incident.status
        made.rows = {_row_key(fold): fold for fold in incident.folds}
        made.entities = dict.fromkeys(incident.entities)
        made.findings = dict.fromkeys(incident.findings)
        made.count = incident.count
        made.parts = incident.parts
        made.first, made.last = incident.first_seen, incident.last_seen
        made.aliases = dict.fromkeys(incident.aliases)
        made.related = dict.fromkeys(incident.related)
        made.apart = dict.fromkeys(incident.apart)
        made.told = _list_told(incident)
        return made

    def copy(self) -> "Gathering":
        """One that changes by itself."""
        made = Gathering(self.id, self.number, routine=self.routine)
        made.status, made.count, made.parts = self.status, self.count, self.parts
        made.first, made.last = self.first, self.last
        made.rows, made.entities = dict(self.rows), dict(self.entities)
        made.findings = dict(self.findings)
        made.aliases, made.related = dict(self.aliases), dict(self.related)
        made.apart = dict(self.apart)
        made.told = self.told
        return made

    def is_notable(self, incident: Incident) -> bool:
        """Whether it has come to be worth a message since the last commit: more than minor, worse,
        a stage further, or on one more host. `incident` is what was summed up."""
        self._telling = now = _list_told(incident)
        if incident.kind != "incident":
            return False
        before = self.told
        return before is None or before[:3] != now[:3] or not now[3] <= before[3]

    def note_told(self) -> None:
        """What was summed up is stored."""
        self.told = self._telling or self.told

    def add(self, fold: FoldState, count: int, first: float, last: float) -> None:
        """`count` more findings of a fold, between `first` and `last`."""
        row = make_row(fold, count, first, last)
        self._add_row(row)
        self._stretch(first, last, empty=self.count == 0)
        self.count += count

    def name(self, findings: Iterable[str], entities: Iterable[Entity]) -> None:
        """Findings and entities that it names, as far as there is room; hosts push others out:
        how far it went is said by them."""
        for finding in findings:
            if len(self.findings) >= NAMED_FINDINGS:
                break
            self.findings[finding] = None
        for entity in entities:
            if entity in self.entities:
                continue
            if len(self.entities) >= NAMED_ENTITIES and not self._make_room(entity):
                continue
            self.entities[entity] = None

    def take_out(self, fold: FoldState) -> None:
        """A fold leaves; what its times were to the whole stays."""
        key = (fold.detector, fold.rule_id, fold.host)
        row = self.rows.get(key)
        if row is not None:
            left = row.count - fold.count
            if left > 0:
                self.rows[key] = msgspec.structs.replace(row, count=left)
            else:
                del self.rows[key]
        # Less than nothing is left where the incident itself was kept no longer, and began anew.
        self.count = max(0, self.count - fold.count)
        self.parts = max(0, self.parts - 1)

    def merge(self, other: "Gathering") -> None:
        """All of another, whose id becomes an alias."""
        for row in other.rows.values():
            self._add_row(row)
        self._stretch(other.first, other.last, empty=self.count == 0)
        self.count += other.count
        self.parts += other.parts
        self.name(other.findings, other.entities)
        for alias in (other.id, *other.aliases):
            if len(self.aliases) < NAMED_OTHERS:
                self.aliases[alias] = None
        self.related.update(other.related)
        self.apart.update(other.apart)

    def sum_up(self, assets: Sequence[tuple[str, float]] = ()) -> Incident:
        """The Incident as it is now."""
        rows = sorted(self.rows.values(), key=_rank_usual if self.routine else _rank_row)
        del rows[NAMED_FOLDS:]
        self.rows = {_row_key(row): row for row in rows}
        score, reasons = weigh_incident(rows, assets)
        level = find_worst(row.level for row in rows) if rows else "informational"
        worst = min((row for row in rows if row.level == level), key=_by_time, default=None)
        minor = score < MINOR_BELOW and LEVELS.index(level) < LEVELS.index("high")
        return Incident(
            id=self.id,
            number=self.number,
            status="open" if self.status == "open" else "closed",
            level=level,
            title="Expected here" if self.routine else worst.title if worst else "",
            entities=tuple(self.entities),
            findings=tuple(self.findings),
            count=self.count,
            tactics=_list_firsts((row.first, row.tactics) for row in rows),
            first_seen=self.first,
            last_seen=self.last,
            aliases=tuple(self.aliases),
            kind="routine" if self.routine else "minor" if minor else "incident",
            score=0.0 if self.routine else score,
            reasons=() if self.routine else reasons,
            folds=tuple(rows),
            techniques=_list_firsts((row.first, row.techniques) for row in rows),
            detectors=tuple(sorted({row.detector for row in rows})),
            related=tuple(self.related)[:NAMED_OTHERS],
            apart=tuple(self.apart)[:NAMED_OTHERS],
            parts=self.parts,
        )

    def _add_row(self, row: Fold) -> None:
        key = _row_key(row)
        known = self.rows.get(key)
        self.rows[key] = row if known is None else _join_rows(known, row)

    def _stretch(self, first: float, last: float, *, empty: bool) -> None:
        self.first = first if empty else min(self.first, first)
        self.last = last if empty else max(self.last, last)

    def _make_room(self, entity: Entity) -> bool:
        """Whether an entity that is no host went for a host."""
        if entity.kind != "host":
            return False
        other = next((known for known in reversed(self.entities) if known.kind != "host"), None)
        if other is None:
            return False
        del self.entities[other]
        return True


def make_row(fold: FoldState, count: int, first: float, last: float) -> Fold:
    """A row of an incident for `count` findings of a fold."""
    return Fold(
        detector=fold.detector,
        rule_id=fold.rule_id,
        title=fold.title,
        level=fold.level,
        host=fold.host,
        count=count,
        first=first,
        last=last,
        techniques=fold.techniques,
        tactics=fold.tactics,
        expected=fold.expected,
        rarity=max(fold.rarity, fold.burst),
        watched=fold.watched,
    )


def summarize(
    folds: Iterable[FoldState], like: Incident, assets: Sequence[tuple[str, float]] = ()
) -> Incident:
    """`like`, with all that follows from its folds worked out anew: after operators merged or split
    it. Id, number, status and aliases stay."""
    made = Gathering.resume(like)
    made.rows, made.entities, made.findings = {}, {}, {}
    made.count = made.parts = 0
    for fold in sorted(folds, key=lambda fold: (fold.first, fold.id)):
        made.add(fold, fold.count, fold.first, fold.last)
        made.name(fold.findings, fold.entities)
        made.parts += 1
    return made.sum_up(assets)


def _list_told(incident: Incident) -> _Told:
    hosts = frozenset(fold.host for fold in incident.folds if fold.host)
    return (incident.kind, incident.level, incident.tactics, hosts)


def _row_key(row: Fold) -> _Key:
    return (row.detector, row.rule_id, row.host)


def _join_rows(known: Fold, row: Fold) -> Fold:
    newer = row.last > known.last
    return msgspec.structs.replace(
        known,
        title=min(known.title, row.title),
        level=find_worst((known.level, row.level)),
        count=known.count + row.count,
        first=min(known.first, row.first),
        last=max(known.last, row.last),
        techniques=tuple(sorted({*known.techniques, *row.techniques})),
        tactics=tuple(sorted({*known.tactics, *row.tactics})),
        expected=row.expected if newer else known.expected,
        rarity=max(known.rarity, row.rarity),
        watched=max(known.watched, row.watched),
    )


def _rank_row(row: Fold) -> tuple[int, float, int, float, str, str]:
    return (-LEVELS.index(row.level), -row.rarity, -row.count, row.first, row.rule_id, row.host)


def _rank_usual(row: Fold) -> tuple[int, str, str]:
    return (-row.count, row.rule_id, row.host)


def _by_time(row: Fold) -> tuple[bool, float, str, str]:
    """The first, a rule before the model: its title says what happened."""
    return (row.detector == "sentinel", row.first, row.rule_id, row.host)


def _list_firsts(rows: Iterable[tuple[float, tuple[str, ...]]]) -> tuple[str, ...]:
    """The names of all rows in the order in which each was first seen."""
    rows = list(rows)
    if len(rows) == 1:
        return tuple(sorted(rows[0][1]))
    firsts: dict[str, float] = {}
    for first, names in rows:
        for name in names:
            firsts[name] = min(first, firsts.get(name, first))
    return tuple(sorted(firsts, key=lambda name: (firsts[name], name)))
