"""Sigma correlations (detect stage, the half with state): hits of rules -> Detections.

A correlation keeps, for each group of its group-by values, the events of a sliding window in the
order of (event time, event id). At each event the condition is judged over the window that ends
there: all events before it that are at most the timespan older. Events at which it holds, none
further than the timespan from the one before, are one burst, and a burst is one detection: of the
event at which it began, or, where late events made it so, of the last of them. Late events are put
where they belong; one further behind the newest of its stream than the bound is counted and left
out. So what is found depends on the events and not on how they came in batches.

State is a key-value map; a batch's changes are noted apart until they are stored (`commit`) or
thrown away (`rollback`). The semantics: Sigma correlation rules specification 2.1, and where it is
silent docs/decisions/0013-correlations-slide-and-tell-a-burst-once.md.
"""

import math
import operator
import re
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fractions import Fraction
from typing import Final, Literal

import msgspec

from appliance.detect.sigma.values import flatten, fold, write_text
from appliance.schema import (
    Detection,
    Entity,
    Event,
    Fields,
    Hit,
    LogSource,
    Match,
    RuleInfo,
    View,
    WindowChange,
    WindowEvent,
    WindowGroup,
    digest,
)

DETECTOR: Final = "sigma"
Kind = Literal[
    "event_count", "value_count", "temporal", "temporal_ordered",
    "value_sum", "value_avg", "value_median", "value_percentile",
]  # fmt: skip
MEASURED: Final = frozenset({"value_sum", "value_avg", "value_median", "value_percentile"})
TEMPORAL: Final = frozenset({"temporal", "temporal_ordered"})
OPERATORS: Final[dict[str, tuple[str, Callable[..., bool]]]] = {
    "gt": (">", operator.gt),
    "gte": (">=", operator.ge),
    "lt": ("<", operator.lt),
    "lte": ("<=", operator.le),
    "eq": ("=", operator.eq),
    "neq": ("!=", operator.ne),
}
#: Contributing events that a detection lists; entities that a group keeps, the last seen.
NAMED_EVENTS: Final = 16
NAMED_ENTITIES: Final = 64
#: Streams whose newest time a group keeps.
MAX_MARKS: Final = 32
#: An event's claim to be later than its receipt by more than this moves no mark, in seconds.
AHEAD_SECONDS: Final = 60.0
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
_SEPARATOR: Final = "\x1f"


@dataclass(frozen=True, slots=True)
class Threshold:
    """A number that what is counted or measured is compared with. `percentile` in 0..100."""

    operator: str
    number: int | float
    percentile: int = 50

    def holds(self, measure: int | float | Fraction) -> bool:
        """Whether the measure stands so to the number."""
        return OPERATORS[self.operator][1](measure, self.number)

    def describe(self) -> str:
        """As an operator reads it: ">= 10"."""
        return f"{OPERATORS[self.operator][0]} {self.number}"


@dataclass(frozen=True, slots=True)
class Expression:
    """An extended condition: `kind` is "rule" (then `base` is its place), "and", "or" or "not"."""

    kind: Literal["rule", "and", "or", "not"]
    parts: tuple["Expression", ...] = ()
    base: int = -1

    def holds(self, present: Callable[[int], bool]) -> bool:
        """Whether it is true where `present` says which rules were met."""
        if self.kind == "rule":
            return present(self.base)
        if self.kind == "not":
            return not self.parts[0].holds(present)
        every = all if self.kind == "and" else any
        return every(part.holds(present) for part in self.parts)


@dataclass(frozen=True, slots=True)
class CorrelationRule:
    """One correlation, checked and ready. `bases` are ids of the rules that it names, `names` how
    it names them; `groups` and `values` give for each base the fields of the group-by values and
    of what is counted or measured; `span` in seconds, `timespan` as written. `generate` lets the
    bases fire by themselves."""

    info: RuleInfo
    kind: Kind
    bases: tuple[str, ...]
    names: tuple[str, ...]
    group_by: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]
    values: tuple[tuple[str, ...], ...]
    span: float
    timespan: str
    condition: Threshold | Expression
    generate: bool = False
    name: str | None = None

    @property
    def fields(self) -> tuple[tuple[str, ...], ...]:
        """The fields that hits of each base must bring."""
        return tuple(
            tuple(dict.fromkeys((*group, *value)))
            for group, value in zip(self.groups, self.values, strict=True)
        )


def find_silent(rules: Iterable[CorrelationRule]) -> frozenset[str]:
    """Ids of the rules, correlations too, that fire by the correlations alone that name them."""
    named: set[str] = set()
    loud: set[str] = set()
    for rule in rules:
        (loud if rule.generate else named).update(rule.bases)
    return frozenset(named - loud)


class WindowLimits(msgspec.Struct, frozen=True):
    """`groups` and `events` are caps of each rule; `late` is how many seconds an event may be
    behind the newest of its stream."""

    groups: int = 10_000
    events: int = 100_000
    late: float = 300.0


def read_measure(text: str) -> int | float | None:
    """A field's text as a number: decimal, finite; None for all else."""
    if len(text) > 128 or _NUMBER.fullmatch(text) is None:
        return None
    try:
        return int(text)
    except ValueError:
        number = float(text)
        return number if math.isfinite(number) else None


def find_percentile(ordered: Sequence[int | float], percentile: int) -> int | float | Fraction:
    """The percentile (0..100) of sorted numbers, linear between neighbours (the inclusive method:
    0 is the smallest, 100 the largest, 50 the median)."""
    place = Fraction(percentile * (len(ordered) - 1), 100)
    below = int(place)
    if place == below:
        return ordered[below]
    low, high = Fraction(ordered[below]), Fraction(ordered[below + 1])
    return low + (high - low) * (place - below)


# -- what is known of the events in a window -------------------------------------------------------


class _Window:
    """The events within the timespan of the last one put in. `low` is the first one's place in the
    group's list, `high` the place behind the last."""

    def __init__(self, rule: CorrelationRule, low: int) -> None:
        self._rule = rule
        self.low = self.high = low

    def add(self, event: WindowEvent) -> None:
        """The next event of the list is in."""
        self.high += 1

    def remove(self, event: WindowEvent) -> None:
        """The first event is too old."""
        self.low += 1

    def measure(self) -> int | float | Fraction | None:
        """What is compared; None where nothing is."""
        return self.high - self.low

    def holds(self) -> bool:
        """Whether the condition is true."""
        measure = self.measure()
        condition = self._rule.condition
        return isinstance(condition, Threshold) and measure is not None and condition.holds(measure)


class _Distinct(_Window):
    """value_count."""

    def __init__(self, rule: CorrelationRule, low: int) -> None:
        super().__init__(rule, low)
        self._seen: Counter[str | None] = Counter()

    def add(self, event: WindowEvent) -> None:
        super().add(event)
        self._seen[event.value] += 1

    def remove(self, event: WindowEvent) -> None:
        super().remove(event)
        self._seen[event.value] -= 1
        if not self._seen[event.value]:
            del self._seen[event.value]

    def measure(self) -> int:
        return len(self._seen)


class _Numbers(_Window):
    """value_sum, value_avg: exact, so that no rounding is left behind by what has gone."""

    def __init__(self, rule: CorrelationRule, low: int) -> None:
        super().__init__(rule, low)
        self._total: int | Fraction = 0

    def _number(self, event: WindowEvent) -> int | Fraction:
        number = read_measure(event.value or "0") or 0
        return number if isinstance(number, int) else Fraction(number)

    def add(self, event: WindowEvent) -> None:
        super().add(event)
        self._total += self._number(event)

    def remove(self, event: WindowEvent) -> None:
        super().remove(event)
        self._total -= self._number(event)

    def measure(self) -> int | Fraction | None:
        if self._rule.kind == "value_sum":
            return self._total
        count = self.high - self.low
        return Fraction(self._total) / count if count else None


class _Ranked(_Window):
    """value_median, value_percentile."""

    def __init__(self, rule: CorrelationRule, low: int) -> None:
        super().__init__(rule, low)
        self._ordered: list[int | float] = []

    def add(self, event: WindowEvent) -> None:
        super().add(event)
        insort(self._ordered, read_measure(event.value or "0") or 0)

    def remove(self, event: WindowEvent) -> None:
        super().remove(event)
        del self._ordered[bisect_left(self._ordered, read_measure(event.value or "0") or 0)]

    def measure(self) -> int | float | Fraction | None:
        condition = self._rule.condition
        if not self._ordered or not isinstance(condition, Threshold):
            return None
        return find_percentile(self._ordered, condition.percentile)


class _Temporal(_Window):
    """temporal, temporal_ordered. For the order an event's time counts: events of one time are in
    any order, but none follows itself."""

    def __init__(self, rule: CorrelationRule, low: int) -> None:
        super().__init__(rule, low)
        self._met: dict[int, list[tuple[float, str]]] = {}

    def add(self, event: WindowEvent) -> None:
        super().add(event)
        self._met.setdefault(event.base, []).append((event.time, event.id))

    def remove(self, event: WindowEvent) -> None:
        super().remove(event)
        left = self._met[event.base]
        del left[0]
        if not left:
            del self._met[event.base]

    def measure(self) -> int:
        return len(self._met)

    def holds(self) -> bool:
        condition = self._rule.condition
        ordered = self._rule.kind == "temporal_ordered"
        if isinstance(condition, Threshold):
            if not condition.holds(len(self._met)):
                return False
            chain = tuple(Expression("rule", base=n) for n in range(len(self._rule.bases)))
            condition = Expression("and", chain)
        elif not condition.holds(self._met.__contains__):
            return False
        return not ordered or self._follow(condition, (-math.inf, "")) is not None

    def _follow(self, part: Expression, behind: tuple[float, str]) -> tuple[float, str] | None:
        """The earliest event that completes the part in order behind this one; None for none."""
        if part.kind == "rule":
            met = self._met.get(part.base, [])
            for place in range(bisect_left(met, (behind[0], "")), len(met)):
                if met[place][1] != behind[1]:
                    return met[place]
            return None
        if part.kind == "and":
            found: tuple[float, str] | None = behind
            for inner in part.parts:
                if found is not None:
                    found = self._follow(inner, found)
            return found
        ends = [self._follow(inner, behind) for inner in part.parts]
        return min((end for end in ends if end is not None), default=None)


def _open_window(rule: CorrelationRule, low: int) -> _Window:
    if rule.kind == "event_count":
        return _Window(rule, low)
    if rule.kind == "value_count":
        return _Distinct(rule, low)
    if rule.kind in TEMPORAL:
        return _Temporal(rule, low)
    return (_Numbers if rule.kind in ("value_sum", "value_avg") else _Ranked)(rule, low)


# -- one group -------------------------------------------------------------------------------------


def _order(event: WindowEvent) -> tuple[float, str, int]:
    return (event.time, event.id, event.base)


@dataclass(slots=True)
class _Group:
    """A group's head and its events, in order. `turn` is when it was touched last, counted."""

    head: WindowGroup
    entities: dict[Entity, float]
    events: list[WindowEvent]
    turn: int = 0
    window: _Window | None = None


@dataclass(slots=True)
class _Before:
    """What a group was when the batch began, and what was done to it since. `head` is None for a
    group that is new."""

    rule: "_RuleState"
    key: str
    group: _Group
    head: WindowGroup | None
    entities: dict[Entity, float]
    turn: int
    added: dict[tuple[float, str, int], WindowEvent] = field(default_factory=dict)
    removed: dict[tuple[float, str, int], WindowEvent] = field(default_factory=dict)
    flipped: dict[tuple[float, str, int], WindowEvent] = field(default_factory=dict)
    dropped: bool = False


@dataclass(slots=True)
class _RuleState:
    """A rule with its groups, the one that was touched longest ago first, and what feeds it."""

    rule: CorrelationRule
    groups: dict[str, _Group] = field(default_factory=dict)
    events: int = 0
    before: int = 0  # events when the batch began


#: A stored group with its events in any order.
StoredGroup = tuple[WindowGroup, list[WindowEvent]]


class SigmaCorrelator:
    """All correlations and their groups. `rules` come in an order in which each stands behind
    those that it names; `stored` are groups as the store has them, of rules by their hash.

    With `replay`, hits come in the order of event time (a scan, which has read everything before
    the first of them): then nothing is late, and time is what the events say.
    """

    def __init__(
        self,
        rules: Sequence[CorrelationRule],
        limits: WindowLimits,
        *,
        stored: Iterable[StoredGroup] = (),
        next_number: int = 1,
        replay: bool = False,
    ) -> None:
        self._limits = limits
        self._replay = replay
        self._late = 0.0 if replay else limits.late
        self._states = {rule.info.hash: _RuleState(rule) for rule in rules}
        self._silent = find_silent(rules)
        self._fed: dict[str, list[tuple[_RuleState, int]]] = {}
        for state in self._states.values():
            for place, base in enumerate(state.rule.bases):
                self._fed.setdefault(base, []).append((state, place))
        self._before: dict[int, _Before] = {}
        self._next = self._first = next_number
        self._turn = 0
        self._faults = 0
        #: The last fault, as text; empty while there was none.
        self.fault = ""
        self._now = -math.inf
        self._counts: Counter[str] = Counter()
        self._new_counts: Counter[str] = Counter()
        for head, events in sorted(stored, key=lambda pair: (pair[0].touched, pair[0].number)):
            self._load(head, events)

    def _load(self, head: WindowGroup, events: list[WindowEvent]) -> None:
        state = self._states.get(head.rule)
        if state is None or len(head.values) != len(state.rule.group_by):
            return
        self._turn += 1
        group = _Group(head, dict(head.entities), sorted(events, key=_order), self._turn)
        state.groups[_write_key(head.values)] = group
        state.events += len(events)
        state.before = state.events
        self._next = self._first = max(self._next, head.number + 1)
        self._now = max(self._now, head.touched)

    @property
    def rules(self) -> Mapping[str, RuleInfo]:
        """What is known of each correlation, by id."""
        return {s.rule.info.id: s.rule.info for s in self._states.values()}

    @property
    def groups(self) -> int:
        """Groups held now."""
        return sum(len(state.groups) for state in list(self._states.values()))

    @property
    def events(self) -> int:
        """Events held now, of all groups."""
        return sum(state.events for state in list(self._states.values()))

    @property
    def counts(self) -> dict[str, int]:
        """Since the start, as far as committed: `counted` events; left out: `late` ones, `partial`
        ones that lack a field; for the caps: `evicted_groups`, `evicted_events`."""
        return {name: self._counts[name] for name in COUNTS}

    def new_counts(self) -> dict[str, int]:
        """The same of what is not committed yet."""
        return {name: count for name, count in self._new_counts.items() if count}

    def describe(self) -> dict[str, dict[str, int]]:
        """Queues for `status`: caps are those of all rules together."""
        counts, rules = self.counts, len(self._states)
        return {
            "correlation_groups": {
                "depth": self.groups,
                "cap": self._limits.groups * rules,
                "dropped": counts["evicted_groups"],
            },
            "correlation_events": {
                "depth": self.events,
                "cap": self._limits.events * rules,
                "dropped": counts["evicted_events"],
                "late": counts["late"],
                "partial": counts["partial"],
                "faults": self._faults,
            },
        }

    # -- hits in, detections out -------------------------------------------------------------------

    def advance(self, hits: Sequence[Hit]) -> list[Detection]:
        """What the correlations say of these hits, in the order in which they came."""
        waiting: dict[str, list[tuple[Hit, int]]] = {}
        self._feed(hits, waiting)
        detections: list[Detection] = []
        for key, state in self._states.items():
            mine = waiting.pop(key, None)
            if mine is None:
                continue
            found, holding = self._advance_rule(state, mine)
            if state.rule.info.id not in self._silent:
                detections.extend(detection for _, detection in found)
            self._feed_parents(state.rule, found, holding, waiting)
            self._evict(state)
        return detections

    def _feed(self, hits: Iterable[Hit], waiting: dict[str, list[tuple[Hit, int]]]) -> None:
        for hit in hits:
            self._now = max(self._now, self._arrival(hit.event))
            for state, place in self._fed.get(hit.rule, ()):
                waiting.setdefault(state.rule.info.hash, []).append((hit, place))

    def _feed_parents(
        self,
        rule: CorrelationRule,
        found: list[tuple[Hit, Detection]],
        holding: list[Hit],
        waiting: dict[str, list[tuple[Hit, int]]],
    ) -> None:
        """To those that count, a correlation is met once a burst; to those that look for things
        near one another, at every event at which it holds."""
        for state, place in self._fed.get(rule.info.id, ()):
            given = holding if state.rule.kind in TEMPORAL else [hit for hit, _ in found]
            mine = waiting.setdefault(state.rule.info.hash, []) if given else []
            mine.extend((hit, place) for hit in given)

    def _advance_rule(
        self, state: _RuleState, hits: list[tuple[Hit, int]]
    ) -> tuple[list[tuple[Hit, Detection]], list[Hit]]:
        """What the rule says (each with the hit that it is to a rule above), and the hits at whose
        events its condition holds."""
        fresh: dict[str, list[tuple[WindowEvent, Hit]]] = {}
        for hit, place in hits:
            self._place(state, hit, place, fresh)
        found: list[tuple[Hit, Detection]] = []
        holding: list[Hit] = []
        causes: set[str] = set()
        for key, new in fresh.items():
            group = state.groups[key]
            before = self._before[group.head.number]
            new.sort(key=lambda pair: _order(pair[0]))
            by_order = {_order(event): hit for event, hit in new}
            for first, event in self._sweep(state.rule, group, before, new):
                if event.id in causes:
                    continue  # a finding is one of a rule and an event
                causes.add(event.id)
                told = self._tell(state.rule, group, first, by_order[_order(event)].event)
                found.append((_rise(state.rule, group, told.event), told))
            holding += [_rise(state.rule, group, hit.event) for event, hit in new if event.held]
            self._prune(state, group, before)
        return found, holding

    def _place(
        self,
        state: _RuleState,
        hit: Hit,
        place: int,
        fresh: dict[str, list[tuple[WindowEvent, Hit]]],
    ) -> None:
        """Put a hit into its group, which is made where there is none."""
        rule = state.rule
        shown = [hit.values.get(name) for name in rule.groups[place]]
        value = _read_value(rule, hit, place)
        if None in shown or (rule.values[place] and value is None):
            self._new_counts["partial"] += 1
            return
        values = tuple(text or "" for text in shown)
        key = _write_key(values)
        group = state.groups.get(key)
        if group is None:
            head = WindowGroup(self._next, rule.info.hash, values, {}, [], 0.0)
            self._next += 1
            group = state.groups[key] = _Group(head, {}, [])
            self._before[head.number] = _Before(state, key, group, None, {}, 0)
        before = self._touch(state, key, group)
        event = WindowEvent(_read_time(hit.event), hit.event.id, place, value)
        if self._is_late(group, hit.event, event.time):
            self._new_counts["late"] += 1
            return
        at = bisect_left(group.events, _order(event), key=_order)
        if at < len(group.events) and _order(group.events[at]) == _order(event):
            return  # the very same: counted already
        if group.window is not None and at < group.window.high:
            group.window = None
        group.events.insert(at, event)
        state.events += 1
        self._new_counts["counted"] += 1
        before.added[_order(event)] = event
        for entity in hit.event.entities:
            group.entities[entity] = max(event.time, group.entities.pop(entity, -math.inf))
        while len(group.entities) > NAMED_ENTITIES:
            del group.entities[next(iter(group.entities))]
        fresh.setdefault(key, []).append((event, hit))

    def _touch(self, state: _RuleState, key: str, group: _Group) -> _Before:
        """Note what the group was, once a batch, and make it the one touched last."""
        head = group.head
        before = self._before.get(head.number)
        if before is None:
            kept = msgspec.structs.replace(head, marks=dict(head.marks))
            before = _Before(state, key, group, kept, dict(group.entities), group.turn)
            self._before[head.number] = before
        head.touched = self._now
        self._turn += 1
        group.turn = self._turn
        state.groups[key] = state.groups.pop(key)
        return before

    def _arrival(self, event: Event) -> float:
        return _read_time(event) if self._replay else event.received

    def _is_late(self, group: _Group, event: Event, time: float) -> bool:
        """Whether the event is too far behind its stream; where it is not, move the stream on."""
        if self._replay:
            group.head.marks[""] = (time, time)
            return False
        marks = group.head.marks
        stream = _clean(f"{event.record.source}/{event.record.logical}")
        newest, _ = marks.pop(stream, (-math.inf, 0.0))
        late = time < newest - self._late
        newest = max(newest, min(time, event.received + AHEAD_SECONDS))
        marks[stream] = (newest, event.received)
        while len(marks) > MAX_MARKS:
            del marks[next(iter(marks))]
        return late

    def _sweep(
        self,
        rule: CorrelationRule,
        group: _Group,
        before: _Before,
        new: list[tuple[WindowEvent, Hit]],
    ) -> list[tuple[int, WindowEvent]]:
        """Judge the windows that the new events are in. Gives, for each burst that was not told of
        yet, the place of its first event and the new event that made it so."""
        events, span = group.events, rule.span
        first = bisect_left(events, _order(new[0][0]), key=_order)
        last = new[-1][0].time
        window = group.window
        if window is None or window.high != first:
            window = _open_window(rule, _find_low(events, first, span))
            for event in events[window.low : first]:
                window.add(event)
        begun: list[tuple[int, bool]] = []  # places of bursts, and whether they are told
        earlier = events[first - 1] if first else None
        stop = len(events)
        for place in range(first, len(events)):
            event = events[place]
            if event.time - last > span:
                stop = place
                break
            window.add(event)
            while event.time - events[window.low].time > span:
                window.remove(events[window.low])
            was, event.held = event.held, window.holds()
            self._note_flip(before, event, was=was)
            if event.held:
                if not (earlier and earlier.held and event.time - earlier.time <= span):
                    begun.append((place, was))
                elif was and begun:
                    begun[-1] = (begun[-1][0], True)
            earlier = event
        group.window = window if stop == len(events) else None
        if begun and stop < len(events) and self._goes_on(events, stop, span):
            begun[-1] = (begun[-1][0], True)
        return [(place, _find_cause(new, events[place])) for place, told in begun if not told]

    def _goes_on(self, events: list[WindowEvent], stop: int, span: float) -> bool:
        """Whether the burst at hand goes on into events that were judged, and told of, before."""
        last, after = events[stop - 1], events[stop]
        return last.held and after.held and after.time - last.time <= span

    def _note_flip(self, before: _Before, event: WindowEvent, *, was: bool) -> None:
        key = _order(event)
        if event.held != was and key not in before.added:
            if key in before.flipped:
                del before.flipped[key]
            else:
                before.flipped[key] = event

    def _prune(self, state: _RuleState, group: _Group, before: _Before) -> None:
        """Let go of events that no window can hold any more, were the next event as late as it may
        be."""
        stale = self._now - state.rule.span - self._late
        marks = group.head.marks
        for stream in [name for name, (_, arrived) in marks.items() if arrived < stale]:
            del marks[stream]
        if marks:
            oldest = min(newest for newest, _ in marks.values()) - self._late
            count = 0
            while count < len(group.events) and (
                oldest - group.events[count].time > state.rule.span
            ):
                count += 1
            self._forget(state, group, before, count)

    def _forget(self, state: _RuleState, group: _Group, before: _Before, count: int) -> None:
        """Let go of the first events of a group."""
        if not count:
            return
        for event in group.events[:count]:
            key = _order(event)
            if before.added.pop(key, None) is None:
                was = not event.held if before.flipped.pop(key, None) else event.held
                event.held = was
                before.removed[key] = event
        del group.events[:count]
        state.events -= count
        window = group.window
        if window is not None and window.low >= count:
            window.low -= count
            window.high -= count
        else:
            group.window = None

    def _evict(self, state: _RuleState) -> None:
        """Let go of groups that nothing can join, then of those over the caps, the one touched
        longest ago first; of a group that is over the cap alone, of its oldest events."""
        limits = self._limits
        stale = self._now - state.rule.span - self._late
        while state.groups:
            key, group = next(iter(state.groups.items()))
            over = len(state.groups) > limits.groups or (
                state.events > limits.events and len(state.groups) > 1
            )
            if not over and group.head.touched >= stale:
                break
            if over:
                self._new_counts["evicted_groups"] += 1
            self._drop(state, key, group)
        if state.events > limits.events:
            key, group = next(iter(state.groups.items()))
            surplus = state.events - limits.events
            before = self._touch(state, key, group)
            self._new_counts["evicted_events"] += surplus
            self._forget(state, group, before, surplus)

    def _drop(self, state: _RuleState, key: str, group: _Group) -> None:
        before = self._before.get(group.head.number)
        if before is None:
            before = _Before(state, key, group, group.head, group.entities, group.turn)
            self._before[group.head.number] = before
        before.dropped = True
        state.events -= len(group.events)
        del state.groups[key]

    def _tell(self, rule: CorrelationRule, group: _Group, place: int, event: Event) -> Detection:
        """The detection of the burst that begins at this place, as what this event led to."""
        low = _find_low(group.events, place, rule.span)
        inside = group.events[low : place + 1]
        since = inside[0].time
        seen = [entity for entity, last in group.entities.items() if last >= since]
        entities = tuple(dict.fromkeys((*event.entities, *seen)))
        return Detection(
            detector=DETECTOR,
            rule_id=rule.info.id,
            title=rule.info.title,
            level=rule.info.level,
            techniques=rule.info.techniques,
            tactics=rule.info.tactics,
            event=msgspec.structs.replace(event, entities=entities),
            logsource=event.views[0].logsource if event.views else LogSource(),
            matched=(*_show_group(rule, group), _show_measure(rule, inside), *_show(rule, inside)),
        )

    def note_fault(self, reason: str) -> None:
        """Something failed while hits were put in: all of the batch's changes are thrown away, the
        correlations go on without its hits, and `describe` says so."""
        self.rollback()
        self._faults += 1
        self.fault = reason

    # -- stored, or thrown away --------------------------------------------------------------------

    def changes(self) -> WindowChange:
        """What has changed since the last commit."""
        change = WindowChange({}, [], [])
        for number, before in self._before.items():
            if before.dropped:
                if before.head is not None:
                    change.groups[number] = None
                continue
            group = before.group
            group.head.entities = list(group.entities.items())
            change.groups[number] = group.head
            change.events.extend((number, event) for event in before.added.values())
            change.events.extend((number, event) for event in before.flipped.values())
            change.gone.extend((number, event) for event in before.removed.values())
        return change

    def commit(self) -> None:
        """The changes are stored."""
        self._before.clear()
        self._first = self._next
        self._counts.update(self._new_counts)
        self._new_counts.clear()
        for state in self._states.values():
            state.before = state.events

    def rollback(self) -> None:
        """The changes could not be stored: everything is as it was."""
        for before in self._before.values():
            _restore(before)
        for state in {id(b.rule): b.rule for b in self._before.values()}.values():
            in_order = sorted(state.groups.items(), key=lambda pair: pair[1].turn)
            state.groups.clear()
            state.groups.update(in_order)
            state.events = state.before
        self._before.clear()
        self._next = self._first
        self._new_counts.clear()


#: The names of SigmaCorrelator.counts.
COUNTS: Final = ("counted", "late", "partial", "evicted_groups", "evicted_events")


def _restore(before: _Before) -> None:
    group = before.group
    if before.head is None:
        if before.rule.groups.get(before.key) is group:
            del before.rule.groups[before.key]
        return
    for event in before.flipped.values():
        event.held = not event.held
    kept = [event for event in group.events if _order(event) not in before.added]
    group.events = sorted([*kept, *before.removed.values()], key=_order)
    group.head, group.entities, group.turn = before.head, before.entities, before.turn
    group.window = None
    before.rule.groups[before.key] = group


def _read_time(event: Event) -> float:
    """The event's time; that of its receipt where the event's is no number."""
    return event.time if math.isfinite(event.time) else event.received


def _read_value(rule: CorrelationRule, hit: Hit, place: int) -> str | None:
    """The text of what is counted or measured; None where the event has none."""
    texts = [hit.values.get(name) for name in rule.values[place]]
    if not texts or None in texts:
        return None
    if rule.kind in MEASURED:
        text = texts[0] or ""
        return text if read_measure(text) is not None else None
    return fold(_SEPARATOR.join(text or "" for text in texts))


def _write_key(values: Sequence[str]) -> str:
    """A group's key: its values without case, as all values of Sigma are compared."""
    return digest(*(fold(text) for text in values))


def _find_low(events: list[WindowEvent], place: int, span: float) -> int:
    """The place of the first event in the window that ends at this place."""
    if place >= len(events):
        return len(events)
    end = events[place].time
    return bisect_left(events, -span, 0, place, key=lambda event: event.time - end)


def _find_cause(new: list[tuple[WindowEvent, Hit]], first: WindowEvent) -> WindowEvent:
    """The new event that made the condition true at this one: the last before it, or itself."""
    behind = [event for event, _ in new if _order(event) <= _order(first)]
    return behind[-1] if behind else new[0][0]


def _rise(rule: CorrelationRule, group: _Group, event: Event) -> Hit:
    """A correlation that holds at an event, as a hit for those that name it."""
    return Hit(rule.info.id, event, dict(zip(rule.group_by, group.head.values, strict=True)))


def _show_group(rule: CorrelationRule, group: _Group) -> list[Match]:
    pairs = zip(rule.group_by, group.head.values, strict=True)
    return [Match(name, value, "group-by") for name, value in pairs]


def _show_measure(rule: CorrelationRule, inside: list[WindowEvent]) -> Match:
    """What was counted or measured over the window, and what it had to be."""
    condition = rule.condition
    if not isinstance(condition, Threshold):
        return Match(rule.kind, str(len(inside)), f"events within {rule.timespan}")
    window = _open_window(rule, 0)
    for event in inside:
        window.add(event)
    measure = window.measure()
    shown = f"{float(measure):.6g}" if isinstance(measure, Fraction) else str(measure)
    return Match(rule.kind, shown, f"{condition.describe()} within {rule.timespan}")


def _show(rule: CorrelationRule, inside: list[WindowEvent]) -> list[Match]:
    """The events of the window, the last NAMED_EVENTS: of each rule the last one in any case."""
    last = {event.base: event for event in inside}
    named = sorted(last.values(), key=_order, reverse=True)[:NAMED_EVENTS]
    chosen = {_order(event): event for event in named}
    for event in reversed(inside):
        if len(chosen) >= NAMED_EVENTS:
            break
        chosen[_order(event)] = event
    return [
        Match(rule.names[event.base], _write_time(event.time), event.id)
        for event in sorted(chosen.values(), key=_order)
    ]


def _write_time(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def strip_event(event: Event, logsource: LogSource) -> Event:
    """The event as a hit carries it: what a finding tells, without the fields of its views and the
    bytes of its record, of which only the length stays."""
    length = event.record.truncated or len(event.record.data)
    record = msgspec.structs.replace(event.record, data=b"", header=b"", truncated=length)
    return msgspec.structs.replace(event, views=(View(logsource, {}),), record=record)


# -- from the stateless half -----------------------------------------------------------------------

#: Longest text of a value, in code points; a longer one goes on as its digest.
MAX_VALUE: Final = 512


class Watch(msgspec.Struct, frozen=True):
    """What correlations want of a rule: these fields of its events, and whether it is silent by
    itself."""

    fields: tuple[str, ...]
    silent: bool


def list_watched(rules: Sequence[CorrelationRule], silent: Set[str]) -> dict[str, Watch]:
    """What is wanted of each rule that correlations name, by its id; other correlations too."""
    fields: dict[str, dict[str, None]] = {}
    for rule in rules:
        for base, wanted in zip(rule.bases, rule.fields, strict=True):
            fields.setdefault(base, {}).update(dict.fromkeys(wanted))
    return {base: Watch(tuple(names), base in silent) for base, names in fields.items()}


def make_hit(detection: Detection, watch: Watch) -> Hit:
    """A rule's detection as correlations take it. A field that holds several values is one: their
    texts in order. A field without any is not there."""
    event = detection.event
    fields = _find_fields(detection)
    values: dict[str, str] = {}
    for name in watch.fields:
        texts = [write_text(value) for value in flatten(fields.get(name))]
        if texts:
            values[name] = _cut(", ".join(texts))
    return Hit(detection.rule_id, strip_event(event, detection.logsource), values)


def _find_fields(detection: Detection) -> Fields:
    """The fields of the view that matched: where several have its logsource, the first that holds
    all of the evidence."""
    views = [view for view in detection.event.views if view.logsource == detection.logsource]
    if len(views) > 1:
        evidence = [(m.field, m.value) for m in detection.matched if m.field is not None]
        for view in views:
            if all(
                any(write_text(raw) == value for raw in flatten(view.fields.get(name)))
                for name, value in evidence
            ):
                return view.fields
    return views[0].fields if views else {}


def _clean(text: str) -> str:
    """Text that any encoder takes: a lone surrogate is written as an escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def _cut(text: str) -> str:
    """The same, of bounded length: two that differ stay different."""
    text = _clean(text)
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 33]}~{digest(text)}"
