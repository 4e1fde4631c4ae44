"""Behind judge on the line: joins findings into incidents.

A finding falls into a **fold**: near-identical findings of ten minutes (one rule, host and actor).
What is usual here (`usual`) says whether a fold is *routine* (it goes to the one place for that),
*quiet* (links only by what says "the same actor") or *loud*. Folds that share a key (`keys`) within
its window are one incident, and so are those that these share others with: an incident is a
connected component. A key's times are kept as spans, a fold's as a hull, and both only ever grow:
so the same findings in another order, as far as `usual.LAG` lets them be late, give the same
incidents. Where a cap is met (span, parts) the order decides.

When a finding brings incidents together, they become one: the one opened first keeps its id, the
others' ids stay as aliases. An incident's id is derived from the finding that opened it. A closed
incident takes no more: what would have joined it opens another, which names it as related.

All state lies in `Layered` maps: a batch's changes are kept apart until they are stored (`commit`)
or thrown away (`rollback`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from appliance.correlate.gathering import Gathering
from appliance.correlate.keys import (
    COMMON_HOSTS,
    MOMENT_WINDOW,
    RULE_WINDOW,
    WINDOWS,
    find_subject,
    linking_keys,
)
from appliance.correlate.layered import Layered
from appliance.correlate.priority import RARE_BITS
from appliance.correlate.usual import (
    BUCKET,
    LAG,
    Surprise,
    count_hosts,
    count_hours,
    is_host_noted,
    is_noted,
    measure_surprise,
    note_count,
    note_host,
    note_time,
)
from appliance.schema import (
    LEVELS,
    CorrelationChange,
    Entity,
    EntityKind,
    Finding,
    FoldState,
    Incident,
    Level,
    Span,
    Usual,
    digest,
)

#: Bits up to which, and hours from which on, a rule's firing is routine; never above medium level.
ROUTINE_BITS: Final = 2.5
ROUTINE_HOURS: Final = 3
#: Bits from which on the same rule on another host, or anything else at the same moment, links; and
#: the share of hours with such things above which the moment says nothing.
STRONG_BITS: Final = 4.0
BUSY_SHARE: Final = 0.5
#: Finding ids, entities and keys that a fold keeps: a scan meets any number of addresses.
FOLD_FINDINGS: Final = 8
FOLD_ENTITIES: Final = 24
FOLD_KEYS: Final = 1024
#: Spans that a key keeps however old, and with those that a late finding may still meet.
KEY_SPANS: Final = 4
MOST_SPANS: Final = 24
#: Folds and incidents held in memory beside those of the batch; more are read from the store.
HELD_FOLDS: Final = 20_000
HELD_INCIDENTS: Final = 20_000

#: Kinds whose sharing says "the same actor", however quiet a finding is.
_ACTOR_KINDS: Final[frozenset[EntityKind]] = frozenset({"process", "session", "hash"})
FoldStateName = Literal["routine", "quiet", "loud"]
_STATES: Final[tuple[FoldStateName, ...]] = ("routine", "quiet", "loud")
_WINDOWS: Final[dict[str, float | None]] = {"rule": RULE_WINDOW, "moment": MOMENT_WINDOW}
_WINDOWS.update(WINDOWS.items())
#: Detector, rule, host, ten minutes.
_Kin = tuple[str, str, str, int]
#: Event times beyond this, before or after 1970, are none (seconds).
_LARGEST_TIME: Final = 1e15
_MOMENT: Final = "moment:"
#: Before and after all buckets.
_NEVER: Final = -(1 << 62)
_EVER: Final = 1 << 62
_SITE: Final = "site"
_STRONG: Final = "strong"


class CorrelationLimits(msgspec.Struct, frozen=True):
    """`window` (of keys without one of their own) and `span` in seconds of event time; `links`,
    `usuals` and `parts` are counts. No incident spans more than `span` or holds more than `parts`
    folds, by merging either. `assets` are (pattern of host names, weight 0..3)."""

    window: float = 1800.0
    span: float = 86400.0
    links: int = 200_000
    usuals: int = 200_000
    parts: int = 5_000
    assets: tuple[tuple[str, float], ...] = ()


class Sign(msgspec.Struct, frozen=True):
    """What correlation needs to know of a finding. `time` is the event's, in seconds."""

    id: str
    time: float
    host: str
    detector: str
    rule_id: str
    title: str
    level: Level
    techniques: tuple[str, ...]
    tactics: tuple[str, ...]
    entities: tuple[Entity, ...]


def read_sign(finding: Finding) -> Sign:
    """The finding as correlation sees it."""
    detection = finding.detection
    event = detection.event
    return Sign(
        id=finding.id,
        time=event.time,
        host=event.host,
        detector=detection.detector,
        rule_id=detection.rule_id,
        title=detection.title,
        level=detection.level,
        techniques=detection.techniques,
        tactics=detection.tactics,
        entities=event.entities,
    )


def read_stored_sign(body: Mapping[str, Any], time: float) -> Sign:
    """The same of a stored finding's body and its time."""
    return Sign(
        id=body["id"],
        time=time,
        host=body["host"],
        detector=body["detector"],
        rule_id=body["rule_id"],
        title=body["title"],
        level=body["level"],
        techniques=tuple(body["techniques"]),
        tactics=tuple(body["tactics"]),
        entities=tuple(Entity(row["kind"], row["value"]) for row in body["entities"]),
    )


def incident_id(finding: str) -> str:
    """Id of the incident that a finding opens."""
    return digest("incident", finding)


#: Id of the one place for what is expected.
ROUTINE_ID: Final = digest("incident", "routine")


def no_change() -> CorrelationChange:
    """The change where nothing was joined."""
    return CorrelationChange({}, {}, {}, {}, set())


class Stored(msgspec.Struct, frozen=True):
    """Where the store left correlation: spans by key and what is usual, oldest first; ids of merged
    incidents with what each went into; the folds of the last hours; how to load an incident or a
    fold by its id; the number that the next incident gets."""

    links: Mapping[str, tuple[Span, ...]] = {}
    usuals: Mapping[str, Usual] = {}
    aliases: Mapping[str, str] = {}
    folds: Mapping[str, FoldState] = {}
    load: Callable[[str], Incident | None] = lambda _: None
    load_fold: Callable[[str], FoldState | None] = lambda _: None
    next_number: int = 1


class Correlator:
    """Joins findings, one after another."""

    def __init__(self, limits: CorrelationLimits, stored: Stored | None = None) -> None:
        stored = stored or Stored()
        self._limits = limits
        self._spans: Layered[tuple[Span, ...]] = Layered(stored.links, copy=lambda spans: spans)
        self._usuals: Layered[Usual] = Layered(stored.usuals, copy=_copy_usual)
        self._folds: Layered[FoldState] = Layered(
            stored.folds, copy=_copy_fold, load=stored.load_fold
        )
        self._gatherings: Layered[Gathering] = Layered(
            {}, copy=Gathering.copy, load=lambda key: _resume(stored.load(key))
        )
        #: Folds by rule, host and ten minutes: a burst makes all of them loud.
        self._kin: dict[_Kin, dict[str, None]] = {}
        #: All stored folds of this bucket and later ones are held: nobody need ask the store.
        buckets = [fold.bucket + 1 for fold in stored.folds.values()]
        self._held_from = max(buckets, default=_NEVER if stored.next_number == 1 else _EVER)
        for fold in stored.folds.values():
            self._kin.setdefault(_name_kin(fold), {})[fold.id] = None
        self._aliases = dict(stored.aliases)
        self._merged: dict[str, str] = {}
        self._folded: dict[str, str] = {}
        self._moved: dict[str, None] = {}
        self._born: list[tuple[_Kin, str]] = []
        #: Kin of which this batch has made every fold loud.
        self._loud: set[_Kin] = set()
        self._number = self._next_number = stored.next_number
        self._evicted = self._now_evicted = 0
        self._forgotten = self._now_forgotten = 0

    @property
    def evicted(self) -> int:
        """Keys forgotten for the cap since the start, as far as committed."""
        return self._evicted

    @property
    def keys(self) -> int:
        """Correlation keys held now."""
        return len(self._spans)

    @property
    def usuals(self) -> int:
        """Of how many rules and entities is held what is usual."""
        return len(self._usuals)

    @property
    def forgotten(self) -> int:
        """Of how many this was forgotten for the cap since the start, as far as committed."""
        return self._forgotten

    def join(self, sign: Sign) -> str:
        """Put a finding into its fold and incident; the incident's id, as far as it is known now
        (a later finding of the batch may bring it into another)."""
        if not abs(sign.time) <= _LARGEST_TIME:  # a number of hours must fit 64 bits; no NaN does
            sign = msgspec.structs.replace(sign, time=0.0)
        bucket = int(sign.time // BUCKET)
        surprise = self._learn(sign, bucket)
        fold, touched = self._put_into_fold(sign, bucket, surprise)
        self._folded[sign.id] = fold.id
        state: FoldStateName = "loud" if surprise.burst else fold.base
        if touched is None:
            fold.state = state
            self._place(fold)
        else:
            gathering = self._open_gathering(fold.incident)
            gathering.add(fold, 1, sign.time, sign.time)
            if not gathering.routine:
                gathering.name((sign.id,), sign.entities)
            if _STATES.index(state) > _STATES.index(fold.state):
                self._raise(fold, state)
            elif fold.state != "routine":
                self._link(fold, touched)
        if surprise.burst:
            self._raise_kin(_name_kin(fold))
        else:
            self._loud.discard(_name_kin(fold))
        return self._current(fold.incident)

    def changes(self) -> CorrelationChange:
        """What has changed since the last commit."""
        incidents: dict[str, Incident] = {}
        notable: set[str] = set()
        for key, gathering in self._gatherings.changed().items():
            if gathering is not None:
                incidents[key] = gathering.sum_up(self._limits.assets)
                if key not in self._merged and gathering.is_notable(incidents[key]):
                    notable.add(key)
        folds = {key: fold for key, fold in self._folds.changed().items() if fold is not None}
        for fold in folds.values():
            fold.incident = self._current(fold.incident)
        return CorrelationChange(
            incidents=incidents,
            links=dict(self._spans.changed()),
            merged=dict(self._merged),
            joined={finding: folds[fold].incident for finding, fold in self._folded.items()},
            notable=notable,
            folds=folds,
            folded=dict(self._folded),
            moved={key: folds[key].incident for key in self._moved},
            usuals=dict(self._usuals.changed()),
        )

    def commit(self) -> None:
        """The changes are stored."""
        for gathering in self._gatherings.changed().values():
            if gathering is not None:
                gathering.note_told()
        for layer in self._layers():
            layer.commit()
        for fold in self._folds.forget(HELD_FOLDS):
            self._held_from = max(self._held_from, fold.bucket + 1)
            self._forget_kin(_name_kin(fold), fold.id)
        self._gatherings.forget(HELD_INCIDENTS)
        self._aliases.update(self._merged)
        if len(self._aliases) > self._limits.links:
            self._forget_aliases()
        self._number = self._next_number
        self._evicted += self._now_evicted
        self._forgotten += self._now_forgotten
        self._end_batch()

    def rollback(self) -> None:
        """The changes could not be stored: forget them."""
        for kin, key in self._born:
            self._forget_kin(kin, key)
        for layer in self._layers():
            layer.rollback()
        self._next_number = self._number
        self._end_batch()

    def evict(self) -> None:
        """Forget the keys, and what is usual, untouched for longest where there are more of them
        than the caps."""
        for key in self._spans.oldest(len(self._spans) - self._limits.links):
            self._spans.drop(key)
            self._now_evicted += 1
        for key in self._usuals.oldest(len(self._usuals) - self._limits.usuals):
            if key not in (_SITE, _STRONG):  # all that is usual is measured by these
                self._usuals.drop(key)
                self._now_forgotten += 1

    def _layers(self) -> tuple[Layered[Any], ...]:
        return (self._spans, self._usuals, self._folds, self._gatherings)

    def _end_batch(self) -> None:
        self._merged, self._folded, self._moved = {}, {}, {}
        self._born = []
        self._loud = set()
        self._now_evicted = self._now_forgotten = 0

    # -- what is usual ---------------------------------------------------------------------------

    def _learn(self, sign: Sign, bucket: int) -> Surprise:
        rule = _name_rule(sign)
        name = f"here:{rule}@{sign.host}"
        here = self._usuals.open(name)
        if here is None:
            here = Usual()
            self._usuals.put(name, here)
        count = note_count(here, bucket)
        note_time(here, sign.time)
        anywhere = self._note_hour(f"rule:{rule}", sign.time)
        site = self._note_hour(_SITE, sign.time)
        return measure_surprise(site, anywhere, here, bucket, count)

    def _note_hour(self, key: str, time: float) -> Usual:
        """What is usual of the key, this time noted in it: most often it is known."""
        usual = self._usuals.get(key)
        if usual is None:
            usual = Usual()
            self._usuals.put(key, usual)
        elif not is_noted(usual, time):
            usual = self._usuals.open(key) or usual
        note_time(usual, time)
        return usual

    def _count_hosts(self, key: str, sign: Sign, bucket: int) -> int:
        """With how many hosts an entity was seen before; notes this one."""
        name = f"entity:{key}"
        usual = self._usuals.get(name)
        if usual is None:
            usual = Usual()
            self._usuals.put(name, usual)
        elif not is_host_noted(usual, sign.host, sign.time):
            usual = self._usuals.open(name) or usual
        note_host(usual, sign.host, sign.time)
        return count_hosts(usual, bucket)

    def _is_moment_rare(self, time: float, bucket: int) -> bool:
        """Whether anything as unusual as this is itself rare on the site; notes this one."""
        strong = self._note_hour(_STRONG, time)
        watched = count_hours(self._note_hour(_SITE, time), bucket)
        return count_hours(strong, bucket) <= BUSY_SHARE * watched

    def _list_keys(self, sign: Sign, bucket: int) -> list[str]:
        """The finding's keys, but for what many hosts share."""
        found = []
        for key, kind in linking_keys(sign.entities):
            common = COMMON_HOSTS.get(kind)
            if common is None or not sign.host or self._count_hosts(key, sign, bucket) < common:
                found.append(key)
        return found

    # -- folds -------------------------------------------------------------------------------------

    def _put_into_fold(
        self, sign: Sign, bucket: int, surprise: Surprise
    ) -> tuple[FoldState, list[str] | None]:
        """The finding's fold, the finding counted in it, and those of its keys whose times may have
        changed: None, all of them, where it was opened for this finding."""
        rule = _name_rule(sign)
        key = digest("fold", rule, sign.level, sign.host, find_subject(sign.entities), str(bucket))
        fold = self._folds.open(key, load=bucket < self._held_from)
        fresh = fold is None
        if fold is None:
            fold = _open_fold(key, sign, bucket, surprise)
            self._folds.put(key, fold)
            self._born.append((_name_kin(fold), key))
        else:
            _grow_fold(fold, sign)
        # Also one that was read from the store again.
        self._kin.setdefault(_name_kin(fold), {})[key] = None
        touched = self._list_keys(sign, bucket)
        for name in touched:
            if name not in fold.keys and len(fold.keys) >= FOLD_KEYS:
                continue
            first, last = fold.keys.get(name, (sign.time, sign.time))
            fold.keys[name] = (min(first, sign.time), max(last, sign.time))
        fold.burst = max(fold.burst, round(surprise.maturity * surprise.burst, 3))
        if surprise.steady >= STRONG_BITS:
            named = [f"rule:{rule}"]
            if self._is_moment_rare(sign.time, bucket):
                named.append(_MOMENT)
            fold.keys.update(dict.fromkeys(named, (fold.first, fold.last)))
            touched += named
        return fold, None if fresh else touched

    def _place(self, fold: FoldState) -> None:
        """Put a fold that is in no incident into what it is linked with, or into a new one."""
        if fold.state == "routine":
            gathering = self._open_routine()
            fold.incident = gathering.id
        else:
            gathering = self._link(fold)
            gathering.name(fold.findings, fold.entities)
        gathering.add(fold, fold.count, fold.first, fold.last)
        gathering.parts += 1

    def _raise(self, fold: FoldState, state: FoldStateName) -> None:
        """A fold is more than it was taken for: out of the routine, or linked by more."""
        was, fold.state = fold.state, state
        if was != "routine":
            self._link(fold)
            return
        self._open_gathering(fold.incident).take_out(fold)
        fold.incident = ""
        self._place(fold)
        self._moved[fold.id] = None

    def _raise_kin(self, kin: _Kin) -> None:
        """What the burst of a rule on a host is made of is loud, all of it. Looked at once a batch:
        while the burst lasts, what is new is loud from the beginning."""
        if kin in self._loud:
            return
        for key in list(self._kin.get(kin, ())):
            fold = self._folds.get(key)
            if fold is not None and fold.state != "loud" and (fold := self._folds.open(key)):
                self._raise(fold, "loud")
        self._loud.add(kin)

    def _forget_kin(self, kin: _Kin, key: str) -> None:
        folds = self._kin.get(kin)
        if folds is not None:
            folds.pop(key, None)
            if not folds:
                del self._kin[kin]

    # -- incidents ---------------------------------------------------------------------------------

    def _link(self, fold: FoldState, touched: Sequence[str] | None = None) -> Gathering:
        """Bring the incidents together that the fold's keys lead to, with the fold's own; what the
        fold is in then. `touched` are the keys that may lead to more than before (None: all): a
        fold of many keys is not gone through for each of its findings."""
        active = self._list_active(fold, fold.keys if touched is None else touched)
        members, closed = self._find_members(fold, active)
        if members:
            for other in members[1:]:
                self._merge(members[0], other)
            target = self._open_gathering(members[0])
        else:
            target = self._open_incident(fold)
        target.related.update(dict.fromkeys(closed))
        fold.incident = target.id
        for key, (first, last), window in active:
            self._stretch(key, Span(target.id, first, last), window)
        return target

    def _list_active(
        self, fold: FoldState, keys: Iterable[str]
    ) -> list[tuple[str, tuple[float, float], float]]:
        """Those of the keys by which a fold in its state links, with their times and windows."""
        found = []
        # What names its process and is no more than medium is linked by that, not by where it ran:
        # every host runs much at any time.
        placed = (
            fold.base == "loud"
            and fold.rarity < RARE_BITS
            and LEVELS.index(fold.level) < LEVELS.index("high")
            and any(key.startswith("process:") for key in fold.keys)
        )
        for key in keys:
            kind = key.partition(":")[0]
            if key not in fold.keys or (kind == "host" and placed):
                continue
            if fold.state == "loud" or kind in _ACTOR_KINDS:
                found.append((key, fold.keys[key], self._find_window(kind)))
        if fold.base == "quiet" and fold.host:
            found.append((f"quiet:{fold.host}", (fold.first, fold.last), self._limits.window))
        return found

    def _find_window(self, kind: str) -> float:
        window = _WINDOWS.get(kind)
        return self._limits.window if window is None else window

    def _find_members(
        self, fold: FoldState, active: Sequence[tuple[str, tuple[float, float], float]]
    ) -> tuple[list[str], list[str]]:
        """Open incidents that the keys lead to, the first opened first, the fold's own among them;
        no more of them than one incident may span and hold. And the closed ones."""
        found: dict[str, Gathering] = {}
        closed: dict[str, None] = {}
        own = self._resolve(fold.incident) if fold.incident else None
        for key, (first, last), window in active:
            for span in self._spans.get(key) or ():
                if span.first - window > last or span.last + window < first:
                    continue
                gathering = self._resolve(span.incident)
                if gathering is None or gathering.routine:
                    continue
                if gathering.status == "open":
                    found[gathering.id] = gathering
                else:
                    closed[gathering.id] = None
        first, last, parts = fold.first, fold.last, 1
        members: dict[str, int] = {}
        if own is not None:  # also a closed one: what it has, it keeps
            found.pop(own.id, None)
            closed.pop(own.id, None)
            first, last, parts = min(first, own.first), max(last, own.last), own.parts
            members[own.id] = own.number
        if own is None or own.status == "open":
            for one in sorted(found.values(), key=lambda one: one.number):
                if self._are_apart(one, members):
                    continue
                earliest, latest = min(first, one.first), max(last, one.last)
                total = parts + one.parts
                if latest - earliest <= self._limits.span and total <= self._limits.parts:
                    first, last, parts = earliest, latest, total
                    members[one.id] = one.number
        return sorted(members, key=members.__getitem__), list(closed)

    def _are_apart(self, one: Gathering, members: Iterable[str]) -> bool:
        """Whether an operator split it from one of these: that is not joined again."""
        mine = {self._current(key) for key in one.apart}
        for key in members:
            other = self._gatherings.get(key)
            if other is not None and (
                other.id in mine or one.id in map(self._current, other.apart)
            ):
                return True
        return False

    def _stretch(self, key: str, span: Span, window: float) -> None:
        """The key led to the span's incident in its time: one span with what it now belongs to."""
        old = self._spans.get(key) or ()
        first, last = span.first, span.last
        others = []
        for known in old:
            near = known.first - window <= last and known.last + window >= first
            if near and self._current(known.incident) == span.incident:
                first, last = min(first, known.first), max(last, known.last)
            else:
                others.append(known)
        new = sorted((*others, Span(span.incident, first, last)), key=lambda one: one.last)
        # What comes late may make a fold reach back over all of its ten minutes.
        reach = new[-1].last - LAG - BUCKET - window
        while len(new) > KEY_SPANS and (new[0].last < reach or len(new) > MOST_SPANS):
            del new[0]
        if tuple(new) != old:
            self._spans.put(key, tuple(new))

    def _merge(self, into: str, other: str) -> None:
        target, gone = self._open_gathering(into), self._open_gathering(other)
        target.merge(gone)
        self._merged[other] = into
        # Taken out first: those that went into it stand before it, also in the store.
        self._open_gathering(into)

    def _open_incident(self, fold: FoldState) -> Gathering:
        key = incident_id(fold.findings[0])
        # Of a fold that is new nothing can be stored; of another, after a split, say.
        if fold.count > 1 and (self._current(key) != key or self._gatherings.get(key) is not None):
            key = incident_id(fold.id)
        gathering = Gathering(key, self._next_number)
        self._next_number += 1
        self._gatherings.put(key, gathering)
        return gathering

    def _open_routine(self) -> Gathering:
        gathering = self._gatherings.open(ROUTINE_ID)
        if gathering is None:
            gathering = Gathering(ROUTINE_ID, self._next_number, routine=True)
            self._next_number += 1
            self._gatherings.put(ROUTINE_ID, gathering)
        return gathering

    def _open_gathering(self, incident: str) -> Gathering:
        """The incident as this batch changes it. One that the store no longer has begins anew."""
        key = self._current(incident)
        gathering = self._gatherings.open(key)
        if gathering is None:
            gathering = Gathering(key, self._next_number, routine=key == ROUTINE_ID)
            self._next_number += 1
            self._gatherings.put(key, gathering)
        return gathering

    def _resolve(self, incident: str) -> Gathering | None:
        return self._gatherings.get(self._current(incident))

    def _current(self, incident: str) -> str:
        """The id of the incident that this one went into, or its own."""
        while into := self._merged.get(incident) or self._aliases.get(incident):
            incident = into
        return incident

    def _forget_aliases(self) -> None:
        """Keep only the aliases that a span or fold still needs, each leading to its end at once:
        there are never more of them than spans and folds."""
        named = {span.incident for spans in self._spans.values() for span in spans}
        named.update(fold.incident for fold in self._folds.values())
        needed = named & self._aliases.keys()
        self._aliases = {incident: self._current(incident) for incident in sorted(needed)}


def _name_rule(sign: Sign) -> str:
    return f"{sign.detector}:{sign.rule_id}"


def _name_kin(fold: FoldState) -> _Kin:
    return (fold.detector, fold.rule_id, fold.host, fold.bucket)


def _classify(level: Level, surprise: Surprise) -> FoldStateName:
    """Whether a fold is routine, quiet or loud, as long as it is no burst. What is high is never
    routine: the baseline ranks, it does not hide."""
    rank = LEVELS.index(level)
    if rank >= LEVELS.index("high"):
        return "loud"
    if surprise.times >= ROUTINE_HOURS and surprise.bits < ROUTINE_BITS:
        return "routine"
    if rank >= LEVELS.index("medium") or surprise.steady >= RARE_BITS:
        return "loud"
    return "quiet"


def _open_fold(key: str, sign: Sign, bucket: int, surprise: Surprise) -> FoldState:
    base = _classify(sign.level, surprise)
    return FoldState(
        id=key,
        incident="",
        detector=sign.detector,
        rule_id=sign.rule_id,
        title=sign.title,
        level=sign.level,
        host=sign.host,
        bucket=bucket,
        count=1,
        first=sign.time,
        last=sign.time,
        techniques=sign.techniques,
        tactics=sign.tactics,
        state=base,
        base=base,
        rarity=round(surprise.steady, 3),
        watched=round(surprise.maturity, 3),
        burst=0.0,
        expected=round(surprise.share, 3),
        keys={},
        findings=[sign.id],
        entities=list(sign.entities[:FOLD_ENTITIES]),
    )


def _grow_fold(fold: FoldState, sign: Sign) -> None:
    fold.count += 1
    fold.first, fold.last = min(fold.first, sign.time), max(fold.last, sign.time)
    fold.title = min(fold.title, sign.title)
    if len(fold.findings) < FOLD_FINDINGS:
        fold.findings.append(sign.id)
    for entity in sign.entities:
        if len(fold.entities) >= FOLD_ENTITIES:
            break
        if entity not in fold.entities:
            fold.entities.append(entity)


def _copy_usual(usual: Usual) -> Usual:
    return Usual(
        usual.hours, list(usual.recent), usual.peak, list(usual.buckets), list(usual.hosts),
        usual.days, list(usual.recent_days),
    )  # fmt: skip


def _copy_fold(fold: FoldState) -> FoldState:
    return msgspec.structs.replace(
        fold, keys=dict(fold.keys), findings=list(fold.findings), entities=list(fold.entities)
    )


def _resume(incident: Incident | None) -> Gathering | None:
    return None if incident is None else Gathering.resume(incident)
