"""What came in during a shift, read at once: incidents touched, counts by slice, what was not read.

Functions over a connection. Times are those at which records came in (epoch seconds), not the
events' own: a shift wants to know what is new to it, also where a log came late.
"""

import sqlite3
from typing import Final

import msgspec

from appliance.incident import Action, Case
from appliance.schema import Incident
from appliance.store.cases import list_actions, read_case

#: Rows of each kind that one digest reads.
MOST_INCIDENTS: Final = 2000
MOST_REASONS: Final = 200
MOST_ACTIONS: Final = 1000


class Touched(msgspec.Struct, frozen=True):
    """An incident that got findings, or was closed. `fresh` counts findings that came in in the
    time, `new` says that none came before."""

    incident: Incident
    case: Case
    fresh: int
    new: bool


class Shift(msgspec.Struct, frozen=True):
    """What a digest is made of. `slices` are (number from the beginning, kind, findings), kind that
    of the incident or "suppressed"; `suppressed` (reason, findings), `rejected` (source, reason,
    records that are still kept); `left_out` counts incidents over the cap."""

    touched: tuple[Touched, ...]
    slices: tuple[tuple[int, str, int], ...]
    suppressed: tuple[tuple[str, int], ...]
    rejected: tuple[tuple[str, str, int], ...]
    actions: tuple[Action, ...]
    left_out: int


def read_shift(
    db: sqlite3.Connection, *, since: float, until: float, begin: float, step: float
) -> Shift:
    """The shift from `since` to `until`; slices of `step` seconds count from `begin` on."""
    touched, left_out = _read_touched(db, since, until)
    slices = db.execute(
        "SELECT CAST((f.received - ?) / ? AS INTEGER) AS slice,"
        " CASE WHEN f.suppressed != '' THEN 'suppressed' ELSE COALESCE(i.kind, 'incident') END"
        " AS kind, COUNT(*) FROM findings AS f LEFT JOIN incidents AS i ON i.id = f.incident"
        " WHERE f.received >= ? AND f.received < ? GROUP BY slice, kind ORDER BY slice, kind",
        (begin, step, begin, until),
    ).fetchall()
    suppressed = db.execute(
        "SELECT suppressed, COUNT(*) FROM findings WHERE suppressed != '' AND received >= ?"
        " AND received < ? GROUP BY suppressed ORDER BY COUNT(*) DESC, suppressed LIMIT ?",
        (since, until, MOST_REASONS),
    ).fetchall()
    rejected = db.execute(
        "SELECT source, reason, COUNT(*) FROM rejected WHERE received >= ? AND received < ?"
        " GROUP BY source, reason ORDER BY COUNT(*) DESC, source, reason LIMIT ?",
        (since, until, MOST_REASONS),
    ).fetchall()
    actions = list_actions(db, None, since, MOST_ACTIONS)
    return Shift(
        touched,
        tuple((int(number), str(kind), int(count)) for number, kind, count in slices),
        tuple((str(reason), int(count)) for reason, count in suppressed),
        tuple((str(source), str(reason), int(count)) for source, reason, count in rejected),
        tuple(action for action in actions if action.time < until),
        left_out,
    )


def _read_touched(
    db: sqlite3.Connection, since: float, until: float
) -> tuple[tuple[Touched, ...], int]:
    fresh = dict(
        db.execute(
            "SELECT incident, COUNT(*) FROM findings WHERE incident != '' AND received >= ?"
            " AND received < ? GROUP BY incident",
            (since, until),
        ).fetchall()
    )
    handled = [
        key
        for (key,) in db.execute(
            "SELECT incident FROM cases WHERE changed >= ? AND changed < ?", (since, until)
        )
    ]
    found = []
    for key in dict.fromkeys([*fresh, *handled]):
        row = db.execute(
            "SELECT body FROM incidents WHERE id = ? AND merged_into IS NULL", (key,)
        ).fetchone()
        if row is None:
            continue
        before = db.execute(
            "SELECT 1 FROM findings WHERE incident = ? AND received < ? LIMIT 1", (key, since)
        ).fetchone()
        count = int(fresh.get(key, 0))
        incident = msgspec.json.decode(row[0], type=Incident)
        # Findings of older times may be kept no more: the incident's own count knows of them.
        new = before is None and incident.count <= count
        found.append(Touched(incident, read_case(db, key), count, new))
    found.sort(key=lambda row: (-row.incident.score, row.incident.number))
    return tuple(found[:MOST_INCIDENTS]), max(0, len(found) - MOST_INCIDENTS)
