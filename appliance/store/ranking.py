"""Incidents in the order in which they deserve to be looked at."""

import sqlite3

import msgspec

from appliance.schema import Incident


def rank_incidents(
    db: sqlite3.Connection,
    *,
    since: float,
    level: int,
    status: str | None,
    kind: str,
    limit: int,
) -> list[tuple[Incident, str]]:
    """Incidents of this kind with the status of their case ("open" where nobody did anything): the
    closed behind all others, then by score, level, time."""
    rows = db.execute(
        "SELECT i.body, COALESCE(c.status, 'open') AS state FROM incidents AS i"
        " LEFT JOIN cases AS c ON c.incident = i.id"
        " WHERE i.merged_into IS NULL AND i.last_seen >= ? AND i.level >= ?"
        " AND i.kind = ? AND (?4 IS NULL OR state = ?4)"
        " ORDER BY state = 'closed', i.score DESC, i.level DESC, i.last_seen DESC, i.number DESC"
        " LIMIT ?",
        (since, level, kind, status, limit),
    ).fetchall()
    return [(msgspec.json.decode(body, type=Incident), state) for body, state in rows]
