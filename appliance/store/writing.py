"""Each table's part in the one transaction."""

import math
import sqlite3
from collections.abc import Sequence

import msgspec

from appliance.emit.text import show_surrogates
from appliance.inventory.seen import Software
from appliance.schema import LEVELS, Checkpoint, CorrelationChange, Incident, Rejected, WindowChange
from appliance.store.rows import LARGEST_INTEGER, Batch, Outgoing, dump, storable


def put_checkpoints(db: sqlite3.Connection, checkpoints: Sequence[Checkpoint]) -> None:
    for checkpoint in checkpoints:
        if checkpoint.state:
            db.execute(
                "INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?)",
                (checkpoint.source, checkpoint.key, checkpoint.state),
            )
        else:
            db.execute(
                "DELETE FROM checkpoints WHERE source = ? AND key = ?",
                (checkpoint.source, checkpoint.key),
            )


def put_correlation(db: sqlite3.Connection, change: CorrelationChange) -> None:
    if change.incidents:
        newest = max(incident.number for incident in change.incidents.values())
        reach_count(db, "store", "incident_number", newest)
    db.executemany(
        "INSERT OR REPLACE INTO incidents (id, number, level, first_seen, last_seen, body, score,"
        " kind) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [_make_incident_row(incident) for incident in change.incidents.values()],
    )
    for merged, into in change.merged.items():
        # Also one that was opened and merged within this batch has a row: its id may have been
        # worked out by somebody who reads the same logs.
        db.execute("UPDATE incidents SET merged_into = ? WHERE id = ?", (into, merged))
        db.execute("UPDATE findings SET incident = ? WHERE incident = ?", (into, merged))
    for merged, into in change.merged.items():
        db.execute("UPDATE folds SET incident = ? WHERE incident = ?", (into, merged))
        # What operators noted goes along, unless there is a note on what it went into.
        db.execute("UPDATE OR IGNORE cases SET incident = ? WHERE incident = ?", (into, merged))
    _put_folds(db, change)
    # Replaced, what was touched goes to the end, where the newest are.
    for table, column, rows in (
        ("links", "spans", change.links),
        ("usuals", "body", change.usuals),
    ):
        db.executemany(
            f"DELETE FROM {table} WHERE key = ?",  # noqa: S608
            [(key,) for key, row in rows.items() if row is None],
        )
        db.executemany(
            f"INSERT OR REPLACE INTO {table} (key, {column}) VALUES (?, ?)",  # noqa: S608
            [(key, msgspec.msgpack.encode(row)) for key, row in rows.items() if row is not None],
        )


def _make_incident_row(incident: Incident) -> tuple[object, ...]:
    first, last = storable(incident.first_seen), storable(incident.last_seen)
    if (first, last) != (incident.first_seen, incident.last_seen):
        incident = msgspec.structs.replace(incident, first_seen=first, last_seen=last)
    return (
        incident.id,
        incident.number,
        LEVELS.index(incident.level),
        first,
        last,
        msgspec.json.encode(incident),
        incident.score,
        incident.kind,
    )


def _put_folds(db: sqlite3.Connection, change: CorrelationChange) -> None:
    db.executemany(
        "INSERT OR REPLACE INTO folds (id, incident, last, body) VALUES (?, ?, ?, ?)",
        [
            (fold.id, fold.incident, storable(fold.last), msgspec.msgpack.encode(fold))
            for fold in change.folds.values()
        ],
    )
    db.executemany(
        # The index has only what is in a fold, and is used only where the question says so, too.
        "UPDATE findings SET incident = ? WHERE fold = ? AND fold != ''",
        [(incident, fold) for fold, incident in change.moved.items()],
    )


def put_windows(db: sqlite3.Connection, change: WindowChange) -> None:
    dropped = [(number,) for number, group in change.groups.items() if group is None]
    db.executemany("DELETE FROM window_events WHERE number = ?", dropped)
    db.executemany("DELETE FROM windows WHERE number = ?", dropped)
    db.executemany(
        "INSERT OR REPLACE INTO windows VALUES (?, ?, ?, ?)",
        [
            (number, group.rule, storable(group.touched), msgspec.json.encode(group))
            for number, group in change.groups.items()
            if group is not None
        ],
    )
    db.executemany(
        "DELETE FROM window_events WHERE number = ? AND time = ? AND id = ? AND base = ?",
        [(number, event.time, event.id, event.base) for number, event in change.gone],
    )
    db.executemany(
        "INSERT OR REPLACE INTO window_events VALUES (?, ?, ?, ?, ?, ?)",
        [
            (number, event.time, event.id, event.base, event.value, event.held)
            for number, event in change.events
        ],
    )


def put_rejected(db: sqlite3.Connection, rejected: Sequence[Rejected], cap: int) -> None:
    db.executemany(
        "INSERT INTO rejected (received, source, path, position, stage, reason, length, data)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                storable(r.record.received),
                r.record.source,
                show_surrogates(r.record.path),
                min(r.record.cursor.position, LARGEST_INTEGER),
                r.stage,
                show_surrogates(r.reason),
                r.length,
                r.record.data[:cap],
            )
            for r in rejected
        ],
    )


def put_software(db: sqlite3.Connection, rows: Sequence[Software]) -> None:
    db.executemany(
        "INSERT OR REPLACE INTO software VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                row.host,
                row.vendor,
                row.product,
                row.version,
                row.how,
                storable(row.first_seen),
                storable(row.last_seen),
                None if row.removed is None else storable(row.removed),
                row.installed,
            )
            for row in rows
        ],
    )


def put_messages(db: sqlite3.Connection, messages: Sequence[Outgoing]) -> None:
    db.executemany(
        "INSERT INTO outbox (kind, id, time, body) VALUES (?, ?, ?, ?)",
        [(m.kind, m.id, storable(m.time), dump(m.body)) for m in messages],
    )


def number_messages(db: sqlite3.Connection, messages: Sequence[Outgoing]) -> dict[str, int]:
    """The outbox rows that the findings and tests among these messages are going to have, by id:
    within a transaction AUTOINCREMENT gives one number after another."""
    row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'").fetchone()
    first = (row[0] if row else 0) + 1
    return {
        m.id: first + place for place, m in enumerate(messages) if m.kind in ("finding", "test")
    }


def put_counts(db: sqlite3.Connection, batch: Batch) -> None:
    for (scope, name), value in batch.counts.items():
        add_count(db, scope, name, value)
    for (scope, name), value in batch.latest.items():
        if math.isfinite(value):
            reach_count(db, scope, name, value)


def reach_count(db: sqlite3.Connection, scope: str, name: str, value: float) -> None:
    db.execute(
        "INSERT INTO counts VALUES (?, ?, ?) ON CONFLICT (scope, name)"
        " DO UPDATE SET value = MAX(value, excluded.value)",
        (scope, name, value),
    )


def add_count(db: sqlite3.Connection, scope: str, name: str, value: float) -> None:
    db.execute(
        "INSERT INTO counts VALUES (?, ?, ?) ON CONFLICT (scope, name)"
        " DO UPDATE SET value = value + excluded.value",
        (scope, name, value),
    )
