"""The archive's segments in the store: how much of each is good, and what became of it."""

import sqlite3
from collections.abc import Sequence

from appliance.archive.rows import Growth, SegmentRow
from appliance.store.rows import storable
from appliance.store.writing import add_count

_ROW = "name, hour, bytes, events, first, last, state, stored"


def put_segments(db: sqlite3.Connection, growths: Sequence[Growth]) -> None:
    """What a batch added: part of the batch's transaction."""
    db.executemany(
        "INSERT INTO segments (name, hour, bytes, events, first, last)"
        " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET bytes = excluded.bytes,"
        " events = excluded.events, first = excluded.first, last = excluded.last",
        [(g.name, g.hour, g.bytes, g.events, storable(g.first), storable(g.last)) for g in growths],
    )


def list_segments(db: sqlite3.Connection) -> list[SegmentRow]:
    """All of them, by name."""
    rows = db.execute(f"SELECT {_ROW} FROM segments ORDER BY name")  # noqa: S608
    return [SegmentRow(*row) for row in rows]


def settle_segment(db: sqlite3.Connection, row: SegmentRow, unread: int) -> None:
    """A segment has become a Parquet file, as `row` says; `unread` of its records can't be read any
    more."""
    db.execute(
        "UPDATE segments SET state = 'parquet', stored = ?, first = ?, last = ? WHERE name = ?",
        (row.stored, storable(row.first), storable(row.last), row.name),
    )
    if unread:
        add_count(db, "archive", "unread", unread)


def drop_segments(db: sqlite3.Connection, rows: Sequence[SegmentRow], why: str) -> None:
    """Parts that are gone; `why` is what their events are counted as ("expired", ...)."""
    db.executemany("DELETE FROM segments WHERE name = ?", [(row.name,) for row in rows])
    events = sum(row.events for row in rows)
    if events:
        add_count(db, "archive", f"{why}_events", events)
