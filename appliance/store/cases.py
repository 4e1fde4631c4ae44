"""What operators do: cases, suppressions, the audit log, and incidents merged and split by hand.

Functions over a connection within a transaction, and `StoreDesk`, which is the `casework.Desk`.
The audit log's table has no trigger against changes: whoever can write to the file can drop one,
and a backup with a trigger is not restored. The chain tells, and `audit_head`, and the sinks.
"""

import sqlite3
from collections.abc import Iterable, Sequence

import msgspec
import orjson

from appliance.audit import (
    FAULT,
    ITSELF,
    Chain,
    Entry,
    Head,
    follow_chain,
    link_entry,
    write_details,
)
from appliance.errors import StoreError
from appliance.incident import Action, Case
from appliance.refolding import Placed
from appliance.schema import LEVELS, FoldState, Incident, MessageKind, Span, digest
from appliance.store.rows import Outgoing, Row, storable
from appliance.store.writing import put_messages, reach_count
from appliance.suppression import Scope, Suppression

#: Seconds after its end for which a suppression is listed; the audit log knows it for ever.
_KEPT_SECONDS = 400 * 86400.0
#: Ids that fit a prefix, at the most: two say that it is ambiguous.
_MOST_FITTING = 10


# -- the audit log ---------------------------------------------------------------------------------


def read_head(db: sqlite3.Connection) -> Head | None:
    """The newest entry as it is remembered beside the log, None when that is gone."""
    row = db.execute("SELECT number, hash FROM audit_head").fetchone()
    return None if row is None else Head(int(row[0]), str(row[1]))


def append_entry(
    db: sqlite3.Connection, entry: Entry, *, actor: str, now: float, seen: Head | None = None
) -> Action:
    """Write an entry behind what is remembered as the newest, so that a log whose end was cut off
    never looks whole again. Where the two do not agree, or what the daemon has `seen` is not there,
    an entry of its own says so first."""
    head, last = read_head(db), _read_last(db)
    lost = seen if seen is not None and not audit_holds(db, seen) else None
    if head != last or lost is not None:
        known = lost or head or last
        # The number that nobody has used: a row that is there must not be in the way.
        start = Head(max(known.number, last.number), known.hash)
        told = known.number if lost or head else None
        details = {"remembered": told, "there": last.number}
        fault = Entry(FAULT, "audit", details)
        _put_entry(db, link_entry(fault, actor=ITSELF, time=now, head=start))
        head = read_head(db)
    action = link_entry(entry, actor=actor, time=now, head=head or last)
    _put_entry(db, action)
    return action


def _read_last(db: sqlite3.Connection) -> Head:
    row = db.execute("SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1").fetchone()
    return Head() if row is None else Head(int(row[0]), str(row[1]))


def _put_entry(db: sqlite3.Connection, action: Action) -> None:
    db.execute(
        "INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            action.number,
            action.time,
            action.actor,
            action.action,
            action.subject,
            write_details(action.details),
            action.previous,
            action.hash,
        ),
    )
    db.execute("INSERT OR REPLACE INTO audit_head VALUES (1, ?, ?)", (action.number, action.hash))


def list_actions(
    db: sqlite3.Connection, subjects: Sequence[str] | None, since: float, limit: int
) -> list[Action]:
    """Entries about these subjects (None: all), the newest `limit` of them, oldest first."""
    query = "SELECT number, time, actor, action, subject, details, previous, hash FROM audit"
    values: list[object] = [since]
    query += " WHERE time >= ?"
    if subjects is not None:
        query += f" AND subject IN ({','.join('?' * len(subjects))})"
        values += subjects
    query += " ORDER BY number DESC LIMIT ?"
    rows = db.execute(query, (*values, limit)).fetchall()
    return [
        Action(number, time, str(actor), str(action), str(subject), _load(details), str(before),
               str(key))
        for number, time, actor, action, subject, details, before, key in reversed(rows)
    ]  # fmt: skip


def _load(details: bytes) -> Row:
    """What an entry says; of one that somebody spoilt, that it can't be read."""
    try:
        loaded = orjson.loads(details)
    except (orjson.JSONDecodeError, TypeError):
        loaded = None
    return loaded if isinstance(loaded, dict) else {"unreadable": True}


def verify_log(db: sqlite3.Connection) -> Chain:
    """Follow the whole chain."""
    rows = db.execute(
        "SELECT number, time, actor, action, subject, details, previous, hash FROM audit"
        " ORDER BY number"
    )
    return follow_chain(rows, read_head(db))


def audit_holds(db: sqlite3.Connection, head: Head) -> bool:
    """Whether the entry of this number is there with this hash."""
    if head.number == 0:
        return True
    row = db.execute("SELECT hash FROM audit WHERE number = ?", (head.number,)).fetchone()
    return row is not None and row[0] == head.hash


# -- cases -----------------------------------------------------------------------------------------


def read_case(db: sqlite3.Connection, incident: str) -> Case:
    """The incident's case; where nobody did anything to it, the newest open one of those that were
    merged into it, else an open one."""
    row = db.execute("SELECT body FROM cases WHERE incident = ?", (incident,)).fetchone()
    if row is None:
        row = db.execute(
            # From the few cases up, not from the incident down: that goes through all incidents.
            "WITH RECURSIVE up(mine, id) AS (SELECT c.incident, i.merged_into FROM cases AS c"
            " JOIN incidents AS i ON i.id = c.incident"
            " WHERE c.status != 'closed' AND i.merged_into IS NOT NULL"
            " UNION SELECT up.mine, i.merged_into FROM up JOIN incidents AS i ON i.id = up.id"
            " WHERE i.merged_into IS NOT NULL)"
            " SELECT c.body FROM up JOIN cases AS c ON c.incident = up.mine WHERE up.id = ?"
            " ORDER BY c.changed DESC LIMIT 1",
            (incident,),
        ).fetchone()
    if row is None:
        return Case(incident)
    case = msgspec.json.decode(row[0], type=Case)
    return msgspec.structs.replace(case, incident=incident)


def put_case(db: sqlite3.Connection, case: Case) -> None:
    """Keep a case."""
    db.execute(
        "INSERT OR REPLACE INTO cases VALUES (?, ?, ?, ?)",
        (case.incident, case.status, storable(case.changed), msgspec.json.encode(case)),
    )


def drop_lost_cases(db: sqlite3.Connection) -> None:
    """Forget the cases of incidents that are no longer kept; the audit log knows them."""
    db.execute("DELETE FROM cases WHERE incident NOT IN (SELECT id FROM incidents)")


# -- suppressions ----------------------------------------------------------------------------------


def list_suppressions(db: sqlite3.Connection) -> list[Suppression]:
    """All that are kept, in the order of their numbers."""
    rows = db.execute("SELECT number, body FROM suppressions ORDER BY number").fetchall()
    return [
        msgspec.structs.replace(msgspec.json.decode(body, type=Suppression), number=number)
        for number, body in rows
    ]


def count_suppressed(db: sqlite3.Connection, reason: str) -> int:
    """Findings that are stored as suppressed for this reason."""
    (count,) = db.execute(
        "SELECT COUNT(*) FROM findings WHERE suppressed != '' AND suppressed = ?", (reason,)
    ).fetchone()
    return int(count)


# -- the desk --------------------------------------------------------------------------------------


class StoreDesk:
    """The store within one transaction, for one request of `actor` at `now` (epoch seconds).
    `claimed` is who the actor says that they are (sudo's user), empty where they don't; `sinks`
    says whether anybody reads the outbox; `seen` is the newest audit entry that the daemon knows
    of. Messages are put there by `flush`."""

    def __init__(
        self,
        db: sqlite3.Connection,
        *,
        actor: str,
        now: float,
        claimed: str = "",
        sinks: bool = True,
        seen: Head | None = None,
    ) -> None:
        self._db = db
        self._actor = actor
        self._now = now
        self._claimed = claimed
        self._sinks = sinks
        self._seen = seen
        self._messages: list[Outgoing] = []

    def flush(self) -> None:
        """Put into the outbox what was told."""
        if self._sinks:
            put_messages(self._db, self._messages)
        self._messages = []

    def find_incidents(self, prefix: str) -> list[str]:
        """Ids of incidents that start so, those of merged ones led to where they went."""
        if not _is_hex(prefix):
            return []
        rows = self._db.execute(
            "SELECT id, merged_into FROM incidents WHERE id >= ? AND id < ? LIMIT ?",
            (prefix, prefix + "g", _MOST_FITTING),
        ).fetchall()
        return list(dict.fromkeys(self._lead(key, into) for key, into in rows))

    def _lead(self, key: str, into: str | None) -> str:
        seen = {key}
        while into is not None and into not in seen:
            seen.add(into)
            key = into
            row = self._db.execute(
                "SELECT merged_into FROM incidents WHERE id = ?", (key,)
            ).fetchone()
            into = row[0] if row is not None else None
        return key

    def find_findings(self, prefix: str) -> list[tuple[str, str]]:
        """(id, incident) of findings whose ids start so."""
        if not _is_hex(prefix):
            return []
        return self._db.execute(
            "SELECT id, incident FROM findings WHERE id >= ? AND id < ? LIMIT ?",
            (prefix, prefix + "g", _MOST_FITTING),
        ).fetchall()

    def incident(self, key: str) -> Incident | None:
        """The incident with this id, unless it was merged."""
        row = self._db.execute(
            "SELECT body FROM incidents WHERE id = ? AND merged_into IS NULL", (key,)
        ).fetchone()
        return None if row is None else msgspec.json.decode(row[0], type=Incident)

    def case(self, key: str) -> Case:
        """Its case."""
        return read_case(self._db, key)

    def put_case(self, case: Case) -> None:
        """Keep it."""
        put_case(self._db, case)

    def put_incident(self, incident: Incident) -> None:
        """Keep it, a new one or a changed one."""
        put_incident(self._db, incident)

    def next_number(self) -> int:
        """The number of the next incident."""
        return next_incident_number(self._db)

    def states(self, incident: str) -> list[FoldState]:
        """Its folds, by id."""
        rows = self._db.execute(
            "SELECT body FROM folds WHERE incident = ? ORDER BY id", (incident,)
        ).fetchall()
        states = [msgspec.msgpack.decode(body, type=FoldState) for (body,) in rows]
        for state in states:
            state.incident = incident
        return states

    def count_findings(self, incident: str) -> int:
        """How many of its findings are stored."""
        (count,) = self._db.execute(
            "SELECT COUNT(*) FROM findings WHERE incident = ?", (incident,)
        ).fetchone()
        return int(count)

    def put_states(self, states: Iterable[FoldState]) -> None:
        """Keep the folds, each with its incident."""
        self._db.executemany(
            "INSERT OR REPLACE INTO folds (id, incident, last, body) VALUES (?, ?, ?, ?)",
            [(s.id, s.incident, storable(s.last), msgspec.msgpack.encode(s)) for s in states],
        )

    def placed(self, ids: Sequence[str]) -> list[Placed]:
        """Where these findings are, in the order of their times."""
        found = []
        for key in ids:
            row = self._db.execute(f"SELECT {_PLACE} FROM findings WHERE id = ?", (key,)).fetchone()  # noqa: S608
            if row is not None:
                found.append(_place(row))
        return sorted(found, key=lambda one: (one.time, one.id))

    def rest_of(self, fold: str, without: Sequence[str], limit: int) -> list[Placed]:
        """The other findings of a fold, in the order of their times."""
        gone = set(without)
        rows = self._db.execute(
            f"SELECT {_PLACE} FROM findings WHERE fold = ? AND fold != ''"  # noqa: S608
            " ORDER BY time, id LIMIT ?",
            (fold, limit + len(gone)),
        )
        return [_place(row) for row in rows if row[0] not in gone][:limit]

    def unfolded(self, incident: str, limit: int) -> list[Placed]:
        """Findings of an incident that are in no fold, in the order of their times."""
        rows = self._db.execute(
            f"SELECT {_PLACE} FROM findings WHERE incident = ? AND fold = ''"  # noqa: S608
            " ORDER BY time, id LIMIT ?",
            (incident, limit),
        )
        return [_place(row) for row in rows]

    def move_findings(self, ids: Sequence[str], incident: str, fold: str | None) -> None:
        """Put findings into another incident, and fold where one is named."""
        self._db.executemany(
            "UPDATE findings SET incident = ?, fold = COALESCE(?, fold) WHERE id = ?",
            [(incident, fold, key) for key in ids],
        )

    def move_all(self, incident: str, into: str) -> None:
        """Merge: findings, folds and links of one are another's, and its id leads there."""
        states = self.states(incident)
        for state in states:
            state.incident = into
        self.put_states(states)
        self._db.execute("UPDATE findings SET incident = ? WHERE incident = ?", (into, incident))
        self._db.execute("UPDATE incidents SET merged_into = ? WHERE id = ?", (into, incident))
        self._db.execute("DELETE FROM cases WHERE incident = ?", (incident,))

    def seal(self, incident: str) -> None:
        """Close: its folds take no more findings, which go into folds of their own: a fold is found
        by an id that follows from what is in it, and gets another."""
        states = self.states(incident)
        head = self.head() or Head()
        for state in states:
            sealed = digest("fold closed", state.id, head.hash)
            self._db.execute("DELETE FROM folds WHERE id = ?", (state.id,))
            self._db.execute(
                "UPDATE findings SET fold = ? WHERE fold = ? AND fold != ''", (sealed, state.id)
            )
            state.id = sealed
        self.put_states(states)

    def move_links(self, keys: Sequence[str], incident: str, into: str) -> None:
        """What these entities led to is another incident now."""
        move_links(self._db, keys, incident, into)

    def head(self) -> Head | None:
        """The audit log's remembered newest entry."""
        return read_head(self._db)

    def log(self, entry: Entry) -> Action:
        """Write an entry behind the newest, by who asked, now."""
        if self._claimed:
            details = {**entry.details, "claimed": self._claimed}
            entry = msgspec.structs.replace(entry, details=details)
        seen, self._seen = self._seen, None
        return append_entry(self._db, entry, actor=self._actor, now=self._now, seen=seen)

    def tell(self, kind: MessageKind, key: str, body: Row) -> None:
        """Tell the sinks."""
        self._messages.append(Outgoing(kind, key, self._now, body))

    def suppressions(self) -> list[Suppression]:
        """All that are kept."""
        return list_suppressions(self._db)

    def add_suppression(self, scope: Scope, until: float, because: str) -> Suppression:
        """Keep a new one, by who asked, from now on."""
        self._db.execute("DELETE FROM suppressions WHERE until < ?", (self._now - _KEPT_SECONDS,))
        row = Suppression(0, scope, until, because, self._actor, self._now)
        number = self._db.execute(
            "INSERT INTO suppressions (until, body) VALUES (?, ?)",
            (until, msgspec.json.encode(row)),
        ).lastrowid
        return msgspec.structs.replace(row, number=int(number or 0))

    def end_suppression(self, number: int) -> Suppression:
        """It holds no longer, from now on."""
        row = self._db.execute(
            "SELECT body FROM suppressions WHERE number = ?", (number,)
        ).fetchone()
        if row is None:
            raise StoreError(f"there is no suppression {number}")
        held = msgspec.json.decode(row[0], type=Suppression)
        ended = msgspec.structs.replace(held, number=number, ended=self._now)
        self._db.execute(
            "UPDATE suppressions SET body = ? WHERE number = ?",
            (msgspec.json.encode(ended), number),
        )
        return ended


#: Columns of a Placed.
_PLACE = "id, incident, fold, time, body"


def _place(row: tuple[str, str, str, float, bytes]) -> Placed:
    key, incident, fold, time, body = row
    return Placed(key, incident, fold, time, orjson.loads(body))


def _is_hex(text: str) -> bool:
    return bool(text) and set(text) <= set("0123456789abcdef")


def put_incident(db: sqlite3.Connection, incident: Incident) -> None:
    """Keep an incident; its row goes to the end, where those are that were touched last."""
    reach_count(db, "store", "incident_number", incident.number)
    db.execute(
        "INSERT OR REPLACE INTO incidents (id, number, level, first_seen, last_seen, body, score,"
        " kind) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            incident.id,
            incident.number,
            LEVELS.index(incident.level),
            storable(incident.first_seen),
            storable(incident.last_seen),
            msgspec.json.encode(incident),
            incident.score,
            incident.kind,
        ),
    )


def next_incident_number(db: sqlite3.Connection) -> int:
    """Above every number ever stored, also where the incident is no longer kept."""
    (number,) = db.execute(
        "SELECT MAX(COALESCE((SELECT MAX(number) FROM incidents), 0), COALESCE((SELECT"
        " value FROM counts WHERE scope = 'store' AND name = 'incident_number'), 0)) + 1"
    ).fetchone()
    return int(number)


def move_links(db: sqlite3.Connection, keys: Sequence[str], incident: str, into: str) -> None:
    """Correlation keys that led to one incident (or to one merged into it) lead to another."""
    rows = db.execute(
        "WITH RECURSIVE mine(id) AS (SELECT ? UNION SELECT incidents.id FROM incidents"
        " JOIN mine ON incidents.merged_into = mine.id) SELECT id FROM mine",
        (incident,),
    )
    mine = {key for (key,) in rows}
    for key in keys:
        row = db.execute("SELECT spans FROM links WHERE key = ?", (key,)).fetchone()
        if row is None:
            continue
        spans = msgspec.msgpack.decode(row[0], type=tuple[Span, ...])
        moved = tuple(
            msgspec.structs.replace(span, incident=into) if span.incident in mine else span
            for span in spans
        )
        if moved != spans:
            db.execute(
                "UPDATE links SET spans = ? WHERE key = ?", (msgspec.msgpack.encode(moved), key)
            )
