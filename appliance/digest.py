"""Beside the line: the digest of a shift, for who takes over.

What is new, what changed, what was closed, which sources are silent, whether the noise grows, what
was suppressed and expected, and what the appliance could not see. Put together here from the store
and the status, told by report/digest_*.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Protocol

import msgspec

from appliance import __version__
from appliance.incident import Action
from appliance.schema import Fold, Incident, Level
from appliance.store.digest import Shift, Touched

#: Shifts up to this long are told by the hour, longer ones by the day.
LONGEST_BY_HOUR: Final = 49 * 3600.0
#: Slices of the trend, both times together.
MOST_SLICES: Final = 800
#: Rows of one list of the digest.
MOST_ROWS: Final = 200
MOST_EXPECTED: Final = 15


class DigestIncident(msgspec.Struct, frozen=True):
    """One row of the digest: an incident as it is now. `fresh` counts its findings of the time."""

    id: str
    number: int
    title: str
    level: Level
    score: float
    status: str
    assignee: str
    closing: str
    note: str
    hosts: tuple[str, ...]
    tactics: tuple[str, ...]
    count: int
    fresh: int
    first_seen: float
    last_seen: float


class TrendSlice(msgspec.Struct, frozen=True):
    """Findings that came in within one hour or day from `begin` on, by what became of them."""

    begin: float
    incidents: int = 0
    minor: int = 0
    routine: int = 0
    suppressed: int = 0

    @property
    def total(self) -> int:
        """All findings of the slice."""
        return self.incidents + self.minor + self.routine + self.suppressed


class SilentSource(msgspec.Struct, frozen=True):
    """A source that gave nothing in the time, or less than it should. `last` is when it gave
    something last, None for never."""

    name: str
    last: float | None
    words: str


class Trouble(msgspec.Struct, frozen=True):
    """What is not as it should be, as `status` says it."""

    part: str
    words: str
    since: float
    notice: bool


class Digest(msgspec.Struct, frozen=True):
    """The digest of `since` to `until` (epoch seconds). `trend` is that time, `earlier` the same
    length of time before it, in slices of `step` seconds. `minor` and `routine` count incidents
    below a look of their own. `dropped` are (what, how many ever): records nobody saw. `left_out`
    counts incidents over the caps, by list."""

    since: float
    until: float
    step: float
    running: bool
    healthy: bool | None
    troubles: tuple[Trouble, ...]
    new: tuple[DigestIncident, ...]
    changed: tuple[DigestIncident, ...]
    closed: tuple[DigestIncident, ...]
    minor: int
    routine: int
    silent: tuple[SilentSource, ...]
    sources: int
    trend: tuple[TrendSlice, ...]
    earlier: tuple[TrendSlice, ...]
    suppressed: tuple[tuple[str, int], ...]
    expected: tuple[Fold, ...]
    rejected: tuple[tuple[str, str, int], ...]
    dropped: tuple[tuple[str, int], ...]
    actions: tuple[Action, ...]
    left_out: dict[str, int]
    version: str


class Shelf(Protocol):
    """What a digest asks of the store."""

    def shift(self, *, since: float, until: float, begin: float, step: float) -> Shift:
        """What came in."""


def choose_slice(length: float) -> float:
    """Seconds of a slice for a time of `length` seconds: an hour, a day, or more days."""
    step = 3600.0 if length <= LONGEST_BY_HOUR else 86400.0
    while length / step > MOST_SLICES / 2:
        step *= 7
    return step


def build_digest(store: Shelf, status: Mapping[str, Any], *, since: float, until: float) -> Digest:
    """The digest of the time from `since` to `until`; `status` is what `build_status` gives.

    Raises StoreError.
    """
    step = choose_slice(until - since)
    slices = max(1, -int((since - until) // step))
    begin = until - 2 * slices * step
    shift = store.shift(since=since, until=until, begin=begin, step=step)
    trend = cut_trend(shift, begin, step, 2 * slices)
    lists, left_out = _sort_incidents(shift.touched)
    troubles = tuple(_read_trouble(row) for row in status.get("troubles") or ())
    running = bool(status.get("running"))
    return Digest(
        since=since,
        until=until,
        step=step,
        running=running,
        healthy=not any(not t.notice for t in troubles) if running else None,
        troubles=troubles,
        new=lists["new"],
        changed=lists["changed"],
        closed=lists["closed"],
        minor=sum(row.incident.kind == "minor" for row in shift.touched),
        routine=sum(row.incident.kind == "routine" for row in shift.touched),
        silent=find_silent(status, since),
        sources=len(status.get("sources") or ()),
        trend=trend[slices:],
        earlier=trend[:slices],
        suppressed=shift.suppressed,
        expected=list_expected([row.incident for row in shift.touched]),
        rejected=shift.rejected,
        dropped=list_dropped(status),
        actions=shift.actions[-MOST_ROWS:],
        left_out={
            **left_out,
            "incidents": shift.left_out,
            "actions": max(0, len(shift.actions) - MOST_ROWS),
        },
        version=__version__,
    )


def cut_trend(shift: Shift, begin: float, step: float, count: int) -> tuple[TrendSlice, ...]:
    """Every slice in order, also those without any finding."""
    counts: dict[int, dict[str, int]] = {}
    for number, kind, findings in shift.slices:
        name = "incidents" if kind == "incident" else kind
        counts.setdefault(min(max(number, 0), count - 1), {})[name] = findings
    return tuple(
        TrendSlice(begin + number * step, **counts.get(number, {})) for number in range(count)
    )


def _sort_incidents(
    touched: Sequence[Touched],
) -> tuple[dict[str, tuple[DigestIncident, ...]], dict[str, int]]:
    lists: dict[Literal["new", "changed", "closed"], list[DigestIncident]] = {
        "new": [], "changed": [], "closed": [],
    }  # fmt: skip
    for row in touched:
        if row.incident.kind != "incident":
            continue
        if row.case.status == "closed":
            lists["closed"].append(_describe(row))
        elif row.new:
            lists["new"].append(_describe(row))
        else:
            lists["changed"].append(_describe(row))
    kept: dict[str, tuple[DigestIncident, ...]] = {
        name: tuple(rows[:MOST_ROWS]) for name, rows in lists.items()
    }
    over = {str(name): max(0, len(rows) - MOST_ROWS) for name, rows in lists.items()}
    return kept, over


def _describe(row: Touched) -> DigestIncident:
    incident, case = row.incident, row.case
    return DigestIncident(
        incident.id,
        incident.number,
        incident.title,
        incident.level,
        incident.score,
        case.status,
        case.assignee,
        case.closing or "",
        case.note,
        tuple(entity.value for entity in incident.entities if entity.kind == "host"),
        incident.tactics,
        incident.count,
        row.fresh,
        incident.first_seen,
        incident.last_seen,
    )


def list_expected(incidents: Sequence[Incident]) -> tuple[Fold, ...]:
    """What is routine here and came most."""
    folds = [fold for row in incidents if row.kind == "routine" for fold in row.folds]
    folds.sort(key=lambda fold: (-fold.count, fold.title, fold.host))
    return tuple(folds[:MOST_EXPECTED])


def find_silent(status: Mapping[str, Any], since: float) -> tuple[SilentSource, ...]:
    """Sources that gave nothing since `since`, and those of which `status` says that they should
    have spoken."""
    told = {
        str(trouble.get("part")): str(trouble.get("words"))
        for trouble in status.get("troubles") or ()
        if trouble.get("kind") == "silent"
    }
    found = []
    for source in status.get("sources") or ():
        last = source.get("last_received")
        words = told.get(f"source {source['name']}", "")
        if not words and last is None:
            words = "it has never given anything"
        elif not words and last < since:
            words = "it gave nothing in this time"
        if words:
            found.append(SilentSource(str(source["name"]), last, words))
    return tuple(found)


def list_dropped(status: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    """What never became a record or is kept no more, ever, by where."""
    rows = [
        (f"source {source['name']}", int(source.get("dropped") or 0))
        for source in status.get("sources") or ()
    ]
    rows += [
        (f"table {name}", int(queue.get("dropped") or 0))
        for name, queue in (status.get("queues") or {}).items()
    ]
    rows += [
        (f"sink {sink.get('name')}", int(sink.get("lost") or 0))
        for sink in status.get("sinks") or ()
    ]
    return tuple(row for row in rows if row[1])


def _read_trouble(row: Mapping[str, Any]) -> Trouble:
    return Trouble(
        str(row.get("part")),
        str(row.get("words")),
        float(row.get("since") or 0.0),
        bool(row.get("notice")),
    )
