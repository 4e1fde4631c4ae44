"""Reading the archive: what happened in a time, single records, and what a hunt finds.

Converted hours are asked through DuckDB, the others record by record. Whatever comes out was read
again from its record, as the line reads it.
"""

import heapq
import math
import os
import re
import sys
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import count, groupby
from pathlib import Path
from typing import Any, Final

import msgspec
import orjson

from appliance.archive.convert import ReadRecord
from appliance.archive.database import MEMORY_BYTES, THREADS, Database, quote_name
from appliance.archive.filters import Filter
from appliance.archive.rows import SegmentRow
from appliance.archive.segments import read_segment, unpack_name
from appliance.archive.writer import PARQUET, PARQUET_SUFFIX, SEGMENT_SUFFIX, SEGMENTS
from appliance.errors import ArchiveError
from appliance.schema import Cursor, Event, Match, RawRecord, event_id

#: What is needed to have a record again, in the order of `_make_record`.
_RECORD: Final = (
    "record", "source", "path", "logical", "key", "position", "next", "received", "format",
    "truncated", "header", "names",
)  # fmt: skip
_CHOSEN: Final = ", ".join(map(quote_name, _RECORD))
#: Of each Parquet file its events, and their first and last time.
_RANGES: Final = (
    "SELECT file_name, sum(row_group_num_rows), min(CAST(stats_min_value AS DOUBLE)),"
    " max(CAST(stats_max_value AS DOUBLE)) FROM parquet_metadata(?)"
    " WHERE path_in_schema = 'time' GROUP BY file_name"
)
#: Parquet files are asked together until they hold so many events.
_TOGETHER: Final = 250_000
_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)

#: Why an event is what was looked for; None where it is not.
Verify = Callable[[Event], Sequence[Match] | None]
#: Told how many parts of the archive were searched, how many there are, and the hits so far.
OnProgress = Callable[[int, int, int], None]


class Hit(msgspec.Struct, frozen=True):
    """An event that a hunt found, and what matched."""

    event: Event
    matched: tuple[Match, ...]


class Hunt(msgspec.Struct):
    """What a hunt came to. `hits` are in order of time, the newest `limit`; `more` says that there
    are others before them. `events` were in the parts that had to be searched, `compared` of them
    were read again; `unread` records can't be read any more; `gone` names parts that are not there
    or damaged, with the reason."""

    hits: list[Hit]
    events: int = 0
    compared: int = 0
    unread: int = 0
    more: bool = False
    gone: list[str] = msgspec.field(default_factory=list)


class Archive:
    """The archive in `folder`. `read` reads a record as the line would (None: rejected);
    `segments` gives what the store knows of it (None: what the folder holds is taken as it is).

    Not for use by several threads at once. Everything raises ArchiveError for what can't be read;
    parts that retention has taken meanwhile are passed over."""

    def __init__(
        self,
        folder: Path,
        read: ReadRecord,
        *,
        segments: Callable[[], Sequence[SegmentRow]] | None = None,
        memory: int = MEMORY_BYTES,
        threads: int = THREADS,
    ) -> None:
        self.folder = folder
        self._read = read
        self._segments = segments or self._list_folder
        self._memory, self._threads = memory, threads
        self._database: Database | None = None
        #: Why parts were left out of what `events`, `records` and `presence` gave.
        self.damaged: list[str] = []
        #: Of records in segments, by their order there: time (NaN: rejected) and host, so that
        #: several looks at one hour read each record once.
        self._noted: dict[str, tuple[array[float], list[str]]] = {}

    def close(self) -> None:
        """Let go of DuckDB."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def parts(self, since: float = -math.inf, until: float = math.inf) -> list[SegmentRow]:
        """The parts of the archive that may hold events of since <= time < until, oldest first."""
        rows = [row for row in self._segments() if row.last >= since and row.first < until]
        return sorted(rows, key=lambda row: (row.first, row.name))

    # -- what others build on ------------------------------------------------------------------

    def events(
        self,
        *,
        hosts: Collection[str] | None,
        since: float,
        until: float,
        kinds: Collection[str] | None = None,
        limit: int,
    ) -> Iterator[Event]:
        """Events of since <= time < until, in order of time, the oldest `limit`; of these hosts
        (None: all), with a view whose category or service is among `kinds` (None: all)."""

        def wanted(event: Event) -> bool:
            return (
                since <= event.time < until
                and (hosts is None or event.host in hosts)
                and (kinds is None or _is_of(event, kinds))
            )

        condition, values = _choose(hosts, since, until)
        if kinds is not None:
            lines = ["contains(logsources || chr(10), ?)" for _ in range(2 * len(kinds))]
            condition += f" AND ({' OR '.join(lines) or 'FALSE'})"
            values += [f"/{kind}{end}" for kind in kinds for end in ("/", "\n")]
        parts = self.parts(since, until)
        slow = heapq.nsmallest(
            limit,
            (
                (event.time, number, event)
                for number, event in enumerate(
                    self._read_open(parts, since, until, self.damaged, hosts)
                )
                if wanted(event)
            ),
        )
        statement = f"{condition} ORDER BY time, received, position LIMIT {int(limit)}"
        quick = self._read_rows(self._select(parts, statement, values))
        merged = heapq.merge(
            (event for _, _, event in slow),
            (event for event in quick if wanted(event)),
            key=lambda event: event.time,
        )
        for number, event in enumerate(merged):
            if number >= limit:
                return
            yield event

    def records(
        self, ids: Collection[str], *, since: float | None = None, until: float | None = None
    ) -> dict[str, RawRecord]:
        """The records of these events, by event id, those that are there; `since` and `until`
        (event time, both included) spare looking elsewhere."""
        wanted = {key for key in ids if _ID.fullmatch(key)}
        if not wanted:
            return {}
        first = -math.inf if since is None else since
        last = math.inf if until is None else math.nextafter(until, math.inf)
        parts = self.parts(first, last)
        found: dict[str, RawRecord] = {}
        condition = "id IN (SELECT unnest(CAST(? AS UUID[])))"
        for row in self._select(parts, condition, [sorted(wanted)]):
            record = _make_record(row)
            found[event_id(record)] = record
        for part in parts:
            if part.state == "open" and len(found) < len(wanted):
                for _, record in self._read_segment(part, self.damaged):
                    key = event_id(record)
                    if key in wanted:
                        found[key] = record
        return {key: record for key, record in found.items() if key in wanted}

    def presence(
        self, hosts: Collection[str] | None, since: float, until: float, step: float
    ) -> list[tuple[str, str, float, int]]:
        """How many events each source gave of each host in each `step` seconds:
        (source, host, bucket's start, events), in order of the start. A bucket starts at a multiple
        of `step`."""
        condition, values = _choose(hosts, since, until)
        parts = self.parts(since, until)
        counts: dict[tuple[str, str, float], int] = {}
        chosen = "source, host, floor(time / ?) AS bucket, count(*)"
        grouped = f"{condition} GROUP BY source, host, bucket"
        for source, host, bucket, events in self._select(
            parts, grouped, values, chosen=chosen, before=[step]
        ):
            key = (source, host, bucket * step)
            counts[key] = counts.get(key, 0) + events
        for event in self._read_open(parts, since, until, self.damaged, hosts):
            key = (event.record.source, event.host, math.floor(event.time / step) * step)
            counts[key] = counts.get(key, 0) + 1
        rows = [(source, host, start, number) for (source, host, start), number in counts.items()]
        return sorted(rows, key=lambda row: (row[2], row[0], row[1]))

    # -- hunting -------------------------------------------------------------------------------

    def hunt(
        self,
        condition: Filter,
        verify: Verify,
        *,
        since: float = -math.inf,
        until: float = math.inf,
        limit: int,
        on_progress: OnProgress = lambda _done, _all, _hits: None,
    ) -> Hunt:
        """The newest `limit` events of since <= time < until to which `verify` says yes.
        `condition` must say yes to all of them; it spares comparing others."""
        found = Hunt([])
        heap: list[tuple[float, int, Hit]] = []
        number = count()
        groups = _group_parts(self.parts(since, until))
        for done, group in enumerate(groups):
            on_progress(done, len(groups), len(heap))
            if len(heap) >= limit and max(part.last for part in group) < heap[0][0]:
                found.more = True
                break
            found.events += sum(part.events for part in group)
            for event in self._list_candidates(group, condition, since, until, found):
                found.compared += 1
                if not since <= event.time < until:
                    continue
                matched = verify(event)
                if matched is None:
                    continue
                hit = (event.time, -next(number), Hit(event, tuple(matched)))
                if len(heap) < limit:
                    heapq.heappush(heap, hit)
                else:
                    found.more = True
                    if limit:
                        heapq.heappushpop(heap, hit)
        found.hits = [hit for _, _, hit in sorted(heap, key=lambda each: (each[0], -each[1]))]
        return found

    def _list_candidates(
        self,
        group: Sequence[SegmentRow],
        condition: Filter,
        since: float,
        until: float,
        found: Hunt,
    ) -> Iterator[Event]:
        """Events of the group to which the condition says yes, each once. What can't be read of it
        is named in `found`; the rest is read part by part then."""
        if group[0].state == "open":
            yield from self._read_open(group, since, until, found.gone)
            return
        given: set[str] = set()
        unread, known = found.unread, len(found.gone)
        try:
            for event in self._ask_group(group, condition, since, until, found):
                if len(group) > 1:
                    given.add(event.id)
                yield event
        except ArchiveError as error:
            if len(group) == 1:
                found.gone.append(f"{self._parquet(group[0]).name}: {error}")
                return
        else:
            return
        found.unread = unread
        del found.gone[known:]
        for part in group:
            for event in self._list_candidates([part], condition, since, until, found):
                if event.id not in given:
                    yield event

    def _ask_group(
        self,
        group: Sequence[SegmentRow],
        condition: Filter,
        since: float,
        until: float,
        found: Hunt,
    ) -> Iterator[Event]:
        limits, values = _choose(None, since, until)
        rows = self._select(
            group, f"{limits} AND ({condition.sql})", [*values, *condition.values], gone=found.gone
        )
        yield from self._read_rows(rows, found)

    # -- reading -------------------------------------------------------------------------------

    def _select(
        self,
        parts: Sequence[SegmentRow],
        condition: str,
        values: Sequence[Any],
        *,
        chosen: str = _CHOSEN,
        before: Sequence[Any] = (),
        gone: list[str] | None = None,
    ) -> Iterator[tuple[Any, ...]]:
        """Rows of the parts that are converted; without those that retention takes meanwhile."""
        paths = [self._parquet(part) for part in parts if part.state == "parquet"]
        given = False
        while there := [str(path) for path in paths if path.exists()]:
            statement = f"SELECT {chosen} FROM read_parquet(?) WHERE {condition}"  # noqa: S608
            try:
                for row in self._open_database().rows(statement, [*before, there, *values]):
                    given = True
                    yield row
                break
            except FileNotFoundError as error:
                if given or all(map(os.path.exists, there)):
                    raise ArchiveError(str(error)) from error
        if gone is not None:
            gone.extend(f"{path.name}: is not there" for path in paths if str(path) not in there)

    def _read_rows(
        self, rows: Iterator[tuple[Any, ...]], found: Hunt | None = None
    ) -> Iterator[Event]:
        for row in rows:
            event = self._read(_make_record(row))
            if event is not None:
                yield event
            elif found is not None:
                found.unread += 1

    def _read_open(
        self,
        parts: Sequence[SegmentRow],
        since: float,
        until: float,
        gone: list[str],
        hosts: Collection[str] | None = None,
    ) -> Iterator[Event]:
        """Events of the parts that are not converted yet, of these hosts (None: all)."""
        for part in parts:
            if part.state != "open":
                continue
            times, names = self._noted.setdefault(part.name, (array("d"), []))
            for number, record in self._read_segment(part, gone):
                if 0 <= number < len(times) and not (
                    since <= times[number] < until and (hosts is None or names[number] in hosts)
                ):
                    continue
                event = self._read(record)
                if number == len(times):
                    times.append(math.nan if event is None else event.time)
                    names.append("" if event is None else sys.intern(event.host))
                if (
                    event is not None
                    and since <= event.time < until
                    and (hosts is None or event.host in hosts)
                ):
                    yield event

    def _read_segment(self, part: SegmentRow, gone: list[str]) -> Iterator[tuple[int, RawRecord]]:
        """A segment's records with their numbers. One that was converted a moment ago is read as
        what it became, in which they have none (-1)."""
        path = self.folder / SEGMENTS / (part.name + SEGMENT_SUFFIX)
        try:
            yield from enumerate(read_segment(path, part.bytes or None))
        except FileNotFoundError:
            converted = msgspec.structs.replace(part, state="parquet")
            for row in self._select([converted], "TRUE", [], gone=gone):
                yield -1, _make_record(row)
        except ArchiveError as error:
            if str(error) not in gone:
                gone.append(str(error))

    def _parquet(self, part: SegmentRow) -> Path:
        return self.folder / PARQUET / (part.name + PARQUET_SUFFIX)

    def _list_folder(self) -> list[SegmentRow]:
        """What the folder holds, where no store says what is good of it."""
        segments = (self.folder / SEGMENTS).glob(f"*{SEGMENT_SUFFIX}")
        rows = {
            name: SegmentRow(name, 0, 0, 0, -math.inf, math.inf, "open")
            for name in (path.name.removesuffix(SEGMENT_SUFFIX) for path in segments)
        }
        paths = [str(path) for path in (self.folder / PARQUET).glob(f"*{PARQUET_SUFFIX}")]
        for path, events, first, last in self._list_ranges(paths):
            name = Path(path).name.removesuffix(PARQUET_SUFFIX)
            rows[name] = SegmentRow(name, 0, 0, int(events), first, last, "parquet")
        return list(rows.values())

    def _list_ranges(self, paths: Sequence[str]) -> list[tuple[str, int, float, float]]:
        """Of each file its events, and their first and last time. One that is damaged may hold
        events of any time: who reads it says why it can't."""
        if not paths:
            return []
        try:
            return list(self._open_database().rows(_RANGES, [list(paths)]))
        except (ArchiveError, FileNotFoundError):
            if len(paths) == 1:
                return [(paths[0], 0, -math.inf, math.inf)]
        return [row for path in paths for row in self._list_ranges([path])]

    def _open_database(self) -> Database:
        if self._database is None:
            self._database = Database(self.folder, memory=self._memory, threads=self._threads)
        return self._database


def _choose(hosts: Collection[str] | None, since: float, until: float) -> tuple[str, list[Any]]:
    condition, values = "time >= ? AND time < ?", [since, until]
    if hosts is None:
        return condition, values
    return f"{condition} AND host IN (SELECT unnest(CAST(? AS VARCHAR[])))", [
        *values, sorted(hosts),
    ]  # fmt: skip


def _is_of(event: Event, kinds: Collection[str]) -> bool:
    return any(
        view.logsource.category in kinds or view.logsource.service in kinds for view in event.views
    )


def _make_record(row: Sequence[Any]) -> RawRecord:
    """A row's record, as it came. Raises ArchiveError."""
    data, source, path, logical, key, position, following, received, form, cut, header, names = row
    if names is not None:
        path, logical, key = (unpack_name(bytes.fromhex(name)) for name in orjson.loads(names))
    cursor = Cursor(source, key, position, following)
    return RawRecord(data, source, path, logical, cursor, received, form, cut, header or b"")


def _group_parts(parts: Sequence[SegmentRow]) -> list[list[SegmentRow]]:
    """The parts, newest first; converted ones that follow one another and hold little together."""
    groups: list[list[SegmentRow]] = []
    newest = sorted(parts, key=lambda row: (row.last, row.name), reverse=True)
    for state, members in groupby(newest, key=lambda row: row.state):
        events = 0
        for place, part in enumerate(members):
            if place == 0 or state == "open" or events + part.events > _TOGETHER:
                groups.append([])
                events = 0
            groups[-1].append(part)
            events += part.events
    return groups
