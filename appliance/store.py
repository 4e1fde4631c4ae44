"""The one transaction: what a batch of records led to, and that the records were read, together.

One SQLite database in WAL mode holds checkpoints, counts, findings, incidents, correlation keys,
the rejected and the outbox. This is the only home of sqlite3. Raw events are not in it.

A commit is on disk before it returns (synchronous=FULL): after any crash the database is as some
commit left it, and the sources go on behind the records of that commit.
"""

import math
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import orjson

from appliance.emit.text import show_surrogates
from appliance.errors import StoreError
from appliance.schema import (
    LEVELS,
    Checkpoint,
    CorrelationChange,
    Incident,
    Link,
    Message,
    MessageKind,
    OnStep,
    Rejected,
    SinkPosition,
    ignore_step,
)

Row = dict[str, Any]

#: Findings read in one turn of `Store.iterate_findings`: others wait no longer than for these.
PAGE_FINDINGS: Final = 500

#: One script a schema version, applied in order and never changed once released.
MIGRATIONS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE checkpoints (
        source TEXT NOT NULL, key TEXT NOT NULL, state BLOB NOT NULL,
        PRIMARY KEY (source, key)) WITHOUT ROWID;
    CREATE TABLE counts (
        scope TEXT NOT NULL, name TEXT NOT NULL, value REAL NOT NULL,
        PRIMARY KEY (scope, name)) WITHOUT ROWID;
    CREATE TABLE findings (
        number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, time REAL NOT NULL,
        level INTEGER NOT NULL, detector TEXT NOT NULL, rule_id TEXT NOT NULL,
        incident TEXT NOT NULL, pending INTEGER NOT NULL, body BLOB NOT NULL);
    CREATE INDEX findings_pending ON findings (rule_id) WHERE pending = 1;
    CREATE INDEX findings_time ON findings (time);
    CREATE INDEX findings_incident ON findings (incident);
    CREATE TABLE incidents (
        id TEXT PRIMARY KEY, number INTEGER NOT NULL, level INTEGER NOT NULL,
        first_seen REAL NOT NULL, last_seen REAL NOT NULL, merged_into TEXT, body BLOB NOT NULL);
    CREATE INDEX incidents_number ON incidents (number);
    CREATE TABLE links (
        key TEXT PRIMARY KEY, incident TEXT NOT NULL, first REAL NOT NULL, last REAL NOT NULL);
    CREATE TABLE rejected (
        number INTEGER PRIMARY KEY AUTOINCREMENT, received REAL NOT NULL, source TEXT NOT NULL,
        path TEXT NOT NULL, position INTEGER NOT NULL, stage TEXT NOT NULL, reason TEXT NOT NULL,
        length INTEGER NOT NULL, data BLOB NOT NULL);
    CREATE TABLE outbox (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, id TEXT NOT NULL,
        time REAL NOT NULL, body BLOB NOT NULL);
    CREATE TABLE sinks (
        name TEXT PRIMARY KEY, seq INTEGER NOT NULL, length INTEGER NOT NULL,
        identity TEXT NOT NULL, delivered INTEGER NOT NULL, lost INTEGER NOT NULL);
    CREATE TABLE verdicts (
        rule_hash TEXT NOT NULL, base_hash TEXT NOT NULL, body BLOB NOT NULL,
        PRIMARY KEY (rule_hash, base_hash)) WITHOUT ROWID;
    """,
)


#: SQLite keeps 63 bits and the sign.
LARGEST_INTEGER: Final = (1 << 63) - 1


class StoreLimits(msgspec.Struct, frozen=True):
    """Rows kept of each growing table, and bytes kept of each rejected record."""

    findings: int = 1_000_000
    incidents: int = 100_000
    rejected: int = 10_000
    rejected_bytes: int = 1 << 16
    outbox: int = 100_000
    verdicts: int = 50_000


class FindingRow(msgspec.Struct, frozen=True):
    """A finding as stored: what is searched, and the body that readers get. `level` is the index
    in schema.LEVELS; `pending` says that an expert has not answered yet."""

    id: str
    time: float
    level: int
    detector: str
    rule_id: str
    body: Row
    pending: bool = False


class Outgoing(msgspec.Struct, frozen=True):
    """A message that has no place in the outbox yet."""

    kind: MessageKind
    id: str
    time: float
    body: Row


class Batch(msgspec.Struct):
    """All that one turn of the line changes. `counts` maps (scope, name) to what is added;
    `latest` to what the value becomes when it is larger."""

    checkpoints: list[Checkpoint]
    findings: list[FindingRow]
    correlation: CorrelationChange
    rejected: list[Rejected]
    counts: dict[tuple[str, str], float]
    latest: dict[tuple[str, str], float]
    messages: list[Outgoing]


class Store:
    """The database. Safe to use from several threads: one lock, one connection, short turns.

    Every method raises StoreError when the database can't be read or written.
    """

    def __init__(
        self,
        path: Path,
        *,
        limits: StoreLimits | None = None,
        on_step: OnStep = ignore_step,
        migrations: Sequence[str] = MIGRATIONS,
        read_only: bool = False,
        durable: bool = True,
    ) -> None:
        self.path = path
        self._limits = limits or StoreLimits()
        self._on_step = on_step
        self._lock = threading.RLock()
        with _store_errors(path):
            self._db = _connect(path, read_only=read_only)
            try:
                if not read_only:
                    _prepare(self._db, durable=durable)
                self.version = _migrate(self._db, migrations, read_only=read_only)
            except BaseException:
                self._db.close()
                raise

    def close(self) -> None:
        """Close the database; another may open it at once."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _store_errors(self.path):
            yield self._db

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it or nothing."""
        with self._lock, _store_errors(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._on_step("store.commit.before")
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            self._on_step("store.commit.after")

    # -- writing -------------------------------------------------------------------------------

    def write_batch(self, batch: Batch) -> None:
        """The one transaction: everything of the batch, or StoreError and nothing of it."""
        with self._writing() as db:
            _put_checkpoints(db, batch.checkpoints)
            self._on_step("store.checkpoints.after")
            joined = batch.correlation.joined
            db.executemany(
                "INSERT OR IGNORE INTO findings"
                " (id, time, level, detector, rule_id, incident, pending, body)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        f.id,
                        _storable(f.time),
                        f.level,
                        f.detector,
                        f.rule_id,
                        joined[f.id],
                        f.pending,
                        _dump(f.body),
                    )
                    for f in batch.findings
                ],
            )
            _put_correlation(db, batch.correlation)
            self._on_step("store.findings.after")
            _put_rejected(db, batch.rejected, self._limits.rejected_bytes)
            _put_messages(db, batch.messages)
            _put_counts(db, batch)
            self._trim(db, batch)

    def update_findings(self, bodies: Mapping[str, Row], messages: Sequence[Outgoing]) -> None:
        """The experts' later word: into the stored findings and to the sinks in one transaction."""
        with self._writing() as db:
            db.executemany(
                "UPDATE findings SET body = ?, pending = 0 WHERE id = ?",
                [(_dump(body), key) for key, body in bodies.items()],
            )
            _put_messages(db, messages)

    def put_verdict(self, rule_hash: str, base_hash: str, body: bytes) -> None:
        """Cache what the knowledge expert found for a rule, for this knowledge base."""
        with self._writing() as db:
            db.execute(
                "INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?)", (rule_hash, base_hash, body)
            )
            db.execute("DELETE FROM verdicts WHERE base_hash != ?", (base_hash,))
            (kept,) = db.execute("SELECT COUNT(*) FROM verdicts").fetchone()
            if kept > self._limits.verdicts:  # of rules long edited: a cache, begun anew
                db.execute("DELETE FROM verdicts WHERE rule_hash != ?", (rule_hash,))

    def settle_findings(self, rules: Sequence[str]) -> None:
        """Findings of these rules wait for no expert any more: nobody is left to answer."""
        with self._writing() as db:
            db.executemany(
                "UPDATE findings SET pending = 0 WHERE pending = 1 AND rule_id = ?",
                [(rule,) for rule in rules],
            )

    def open_sinks(self, names: Sequence[str]) -> None:
        """Know these sinks and no others. A new one starts with what comes from now on; what only
        sinks that are gone had still to read is no longer kept."""
        with self._writing() as db:
            marks = ",".join("?" * len(names))
            db.execute(f"DELETE FROM sinks WHERE name NOT IN ({marks})", tuple(names))  # noqa: S608
            for name in names:
                db.execute(
                    "INSERT OR IGNORE INTO sinks SELECT ?, "
                    "COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'outbox'), 0), "
                    "0, '', 0, 0",
                    (name,),
                )
            _drop_delivered(db)

    def commit_sink(self, name: str, position: SinkPosition, delivered: int, lost: int) -> None:
        """A sink has come to `position`; what all sinks have is no longer kept."""
        with self._writing() as db:
            db.execute(
                "UPDATE sinks SET seq = ?, length = ?, identity = ?, "
                "delivered = delivered + ?, lost = lost + ? WHERE name = ?",
                (position.seq, position.length, position.identity, delivered, lost, name),
            )
            _drop_delivered(db)

    def _trim(self, db: sqlite3.Connection, batch: Batch) -> None:
        """Keep every table under its cap; what goes is counted."""
        limits = self._limits
        for table, key, cap, grew in (
            ("findings", "number", limits.findings, batch.findings),
            ("rejected", "number", limits.rejected, batch.rejected),
            ("outbox", "seq", limits.outbox, batch.messages),
        ):
            if not grew:
                continue
            newest = db.execute(f"SELECT MAX({key}) FROM {table}").fetchone()[0]  # noqa: S608
            gone = db.execute(
                f"DELETE FROM {table} WHERE {key} <= ?",  # noqa: S608
                ((newest or 0) - cap,),
            ).rowcount
            if gone:
                _add_count(db, "store", f"{table}_over_cap", gone)
        if batch.correlation.incidents:
            self._trim_incidents(db)

    def _trim_incidents(self, db: sqlite3.Connection) -> None:
        """Forget the incidents (and ids merged into others) untouched for longest: every write
        gives a row the highest rowid, so that a merged id goes before what it leads to."""
        rows = db.execute("SELECT COUNT(*) FROM incidents").fetchone()[0]
        surplus = rows - self._limits.incidents
        if surplus > 0:
            db.execute(
                "DELETE FROM incidents WHERE rowid IN"
                " (SELECT rowid FROM incidents ORDER BY rowid LIMIT ?)",
                (surplus,),
            )
            _add_count(db, "store", "incidents_over_cap", surplus)

    # -- reading, for the line -------------------------------------------------------------------

    def checkpoints(self, source: str) -> list[Checkpoint]:
        """Stored checkpoints of a source."""
        with self._reading() as db:
            rows = db.execute("SELECT key, state FROM checkpoints WHERE source = ?", (source,))
            return [Checkpoint(source, key, state) for key, state in rows]

    def links(self) -> dict[str, Link]:
        """Correlation keys, oldest first."""
        with self._reading() as db:
            rows = db.execute("SELECT key, incident, first, last FROM links ORDER BY rowid")
            return {key: Link(incident, first, last) for key, incident, first, last in rows}

    def aliases(self) -> dict[str, str]:
        """Ids of merged incidents and the id each went into."""
        with self._reading() as db:
            rows = db.execute("SELECT id, merged_into FROM incidents WHERE merged_into IS NOT NULL")
            return dict(rows.fetchall())

    def incident(self, key: str) -> Incident | None:
        """One incident, not merged, by its full id."""
        with self._reading() as db:
            row = db.execute(
                "SELECT body FROM incidents WHERE id = ? AND merged_into IS NULL", (key,)
            ).fetchone()
        return None if row is None else msgspec.json.decode(row[0], type=Incident)

    def next_incident_number(self) -> int:
        """The number that the next incident gets: above every number ever stored, also where the
        incident is no longer kept."""
        with self._reading() as db:
            (number,) = db.execute(
                "SELECT MAX(COALESCE((SELECT MAX(number) FROM incidents), 0), COALESCE((SELECT"
                " value FROM counts WHERE scope = 'store' AND name = 'incident_number'), 0)) + 1"
            ).fetchone()
        return int(number)

    def known_findings(self, ids: Sequence[str]) -> set[str]:
        """Which of these findings are stored already."""
        with self._reading() as db:
            return {
                key
                for key in ids
                if db.execute("SELECT 1 FROM findings WHERE id = ?", (key,)).fetchone()
            }

    def verdict(self, rule_hash: str, base_hash: str) -> bytes | None:
        """What was cached for a rule by `put_verdict`."""
        with self._reading() as db:
            row = db.execute(
                "SELECT body FROM verdicts WHERE rule_hash = ? AND base_hash = ?",
                (rule_hash, base_hash),
            ).fetchone()
        return None if row is None else bytes(row[0])

    def verdicts(self, base_hash: str) -> dict[str, bytes]:
        """All cached verdicts of a knowledge base, by rule hash."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT rule_hash, body FROM verdicts WHERE base_hash = ?", (base_hash,)
            )
            return {rule_hash: bytes(body) for rule_hash, body in rows}

    def messages(self, name: str, limit: int) -> tuple[SinkPosition, list[Message], int]:
        """A sink's position, the next messages behind it, and how many were lost to the outbox's
        cap before them (before whatever comes next, where no message is left).

        `lost` counts from the position: it stays until the position has moved over the gap.
        """
        with self._reading() as db:
            row = db.execute(
                f"SELECT seq, length, identity, {_LOST} FROM sinks WHERE name = ?",  # noqa: S608
                (name,),
            ).fetchone()
            if row is None:
                raise StoreError(f"{self.path}: sink {name!r} was not opened")
            *place, lost = row
            position = SinkPosition(*place)
            rows = db.execute(
                "SELECT seq, kind, id, time, body FROM outbox WHERE seq > ? ORDER BY seq LIMIT ?",
                (position.seq, limit),
            ).fetchall()
        found = [
            Message(seq, kind, key, time, orjson.loads(body)) for seq, kind, key, time, body in rows
        ]
        return position, found, lost

    # -- reading, for people -----------------------------------------------------------------------

    def finding_bodies(
        self,
        *,
        since: float = -math.inf,
        level: int = 0,
        incident: str | None = None,
        limit: int = -1,
    ) -> list[Row]:
        """Bodies of findings by event time, oldest first, each with its incident as it is now.

        `since` in epoch seconds, `level` an index in LEVELS, `limit` keeps the newest (-1: all).
        """
        query = "SELECT body, incident FROM findings WHERE time >= ? AND level >= ?"
        values: list[Any] = [since, level]
        if incident is not None:
            query += " AND incident = ?"
            values.append(incident)
        # The newest are wanted when there is a limit, the oldest first in what is given.
        query += " ORDER BY time DESC, number DESC LIMIT ?"
        with self._reading() as db:
            rows = db.execute(query, (*values, limit)).fetchall()
        return [_finding_body(*row) for row in reversed(rows)]

    def pending_rules(self) -> list[str]:
        """Rules with findings on which an expert has not answered yet."""
        with self._reading() as db:
            rows = db.execute("SELECT DISTINCT rule_id FROM findings WHERE pending = 1")
            return [rule for (rule,) in rows]

    def pending_findings(self, rule_id: str, limit: int) -> list[Row]:
        """Bodies of a rule's findings on which an expert has not answered yet."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT body, incident FROM findings WHERE pending = 1 AND rule_id = ?"
                " ORDER BY number LIMIT ?",
                (rule_id, limit),
            ).fetchall()
        return [_finding_body(*row) for row in rows]

    def findings_by_ids(self, ids: Sequence[str]) -> dict[str, Row]:
        """Bodies of these findings (those that exist), by id."""
        found: dict[str, Row] = {}
        with self._reading() as db:
            for key in ids:
                row = db.execute(
                    "SELECT body, incident FROM findings WHERE id = ?", (key,)
                ).fetchone()
                if row is not None:
                    found[key] = _finding_body(*row)
        return found

    def iterate_findings(self) -> Iterator[Row]:
        """All bodies in the order of their events' times. The store is free between pages: a slow
        reader holds up nobody."""
        last: tuple[float, int] = (-math.inf, 0)
        while True:
            with self._reading() as db:
                rows = db.execute(
                    "SELECT time, number, body, incident FROM findings"
                    " WHERE (time, number) > (?, ?) ORDER BY time, number LIMIT ?",
                    (*last, PAGE_FINDINGS),
                ).fetchall()
            for _, _, body, incident in rows:
                yield _finding_body(body, incident)
            if len(rows) < PAGE_FINDINGS:
                return
            last = (rows[-1][0], rows[-1][1])

    def incidents(
        self, *, since: float = -math.inf, level: int = 0, limit: int = -1
    ) -> list[Incident]:
        """Incidents, the worst and latest first."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT body FROM incidents"
                " WHERE merged_into IS NULL AND last_seen >= ? AND level >= ?"
                " ORDER BY level DESC, last_seen DESC, number DESC LIMIT ?",
                (since, level, limit),
            ).fetchall()
        return [msgspec.json.decode(body, type=Incident) for (body,) in rows]

    def find_ids(self, prefix: str) -> list[tuple[str, str]]:
        """('finding'|'incident', full id) of everything whose id starts with `prefix` (hex digits);
        a merged incident's id leads to the one it went into."""
        if not prefix or not set(prefix) <= set("0123456789abcdef"):
            return []
        high = prefix + "g"
        with self._reading() as db:
            findings = db.execute(
                "SELECT id FROM findings WHERE id >= ? AND id < ? LIMIT 10", (prefix, high)
            ).fetchall()
            incidents = db.execute(
                "SELECT id, merged_into FROM incidents WHERE id >= ? AND id < ? LIMIT 10",
                (prefix, high),
            ).fetchall()
        aliases = self.aliases()
        found = [("finding", key) for (key,) in findings]
        for key, merged in incidents:
            target = merged or key
            while target in aliases:
                target = aliases[target]
            if ("incident", target) not in found:
                found.append(("incident", target))
        return found

    def rejected_rows(self, limit: int) -> list[Row]:
        """The newest rejected records with their bytes, newest first."""
        names = (
            "number",
            "received",
            "source",
            "path",
            "position",
            "stage",
            "reason",
            "length",
            "data",
        )
        with self._reading() as db:
            rows = db.execute(
                f"SELECT {', '.join(names)} FROM rejected ORDER BY number DESC LIMIT ?",  # noqa: S608
                (limit,),
            ).fetchall()
        return [dict(zip(names, row, strict=True)) for row in rows]

    def rejected_reasons(self) -> list[tuple[str, str, str, int]]:
        """(source, stage, reason, count) of the rejected that are still kept."""
        with self._reading() as db:
            return db.execute(
                "SELECT source, stage, reason, COUNT(*) FROM rejected"
                " GROUP BY source, stage, reason ORDER BY COUNT(*) DESC"
            ).fetchall()

    def counts(self) -> dict[str, dict[str, float]]:
        """Every count, by scope ("source:NAME", "detector:NAME", "store") and name."""
        found: dict[str, dict[str, float]] = {}
        with self._reading() as db:
            for scope, name, value in db.execute("SELECT scope, name, value FROM counts"):
                found.setdefault(scope, {})[name] = value
        return found

    def sizes(self) -> dict[str, int]:
        """Rows of each growing table and the database's size in bytes."""
        with self._reading() as db:
            sizes = {
                table: int(db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])  # noqa: S608
                for table in ("findings", "incidents", "links", "rejected", "outbox")
            }
        sizes["bytes"] = self.path.stat().st_size if self.path.exists() else 0
        return sizes

    def sinks(self) -> list[Row]:
        """Per sink: name, delivered, waiting (messages behind its position), lost (to the outbox's
        cap before the sink had them, also while it is down and has not come to the gap)."""
        with self._reading() as db:
            rows = db.execute(
                f"SELECT name, delivered, lost + {_LOST},"  # noqa: S608
                " (SELECT COUNT(*) FROM outbox WHERE outbox.seq > sinks.seq)"
                " FROM sinks ORDER BY name"
            ).fetchall()
        return [
            {"name": name, "delivered": delivered, "waiting": waiting, "lost": lost}
            for name, delivered, lost, waiting in rows
        ]


@contextmanager
def _store_errors(path: Path) -> Iterator[None]:
    """The doorway where sqlite3's errors become ours, those for values that it can't hold, too."""
    try:
        yield
    except (sqlite3.Error, OverflowError, UnicodeError) as error:
        raise StoreError(f"{path}: {error}") from error


def _connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=5)


def _prepare(db: sqlite3.Connection, *, durable: bool) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")
    db.execute("PRAGMA journal_size_limit = 67108864")


def _migrate(db: sqlite3.Connection, migrations: Sequence[str], *, read_only: bool) -> int:
    """Bring the schema to the newest version, each step in a transaction of its own.

    A step that fails leaves its transaction open: the caller closes the connection, which undoes
    it.
    """
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version > len(migrations):
        raise StoreError(
            f"the store has schema {version}; this version knows up to {len(migrations)}: "
            "install the version that wrote it, or start with an empty state directory"
        )
    if read_only and version < len(migrations):
        raise StoreError(f"the store has schema {version}: start the daemon once to bring it up")
    while version < len(migrations):
        version += 1
        # On lines of their own: a script may end in a comment, which must not swallow the COMMIT.
        db.executescript(
            f"BEGIN IMMEDIATE;\n{migrations[version - 1]}\n;"
            f"PRAGMA user_version = {version};\nCOMMIT;"
        )
    return version


#: How many messages behind a sink's position (a row of `sinks`) are no longer in the outbox.
#: Numbers in it have no gaps, so this is exact.
_LOST: Final = (
    "(COALESCE((SELECT outbox.seq - 1 FROM outbox WHERE outbox.seq > sinks.seq"
    " ORDER BY outbox.seq LIMIT 1),"
    " (SELECT seq FROM sqlite_sequence WHERE name = 'outbox'), sinks.seq) - sinks.seq)"
)


def _drop_delivered(db: sqlite3.Connection) -> None:
    """Forget the messages that no sink has still to read."""
    db.execute(
        "DELETE FROM outbox WHERE seq <= COALESCE((SELECT MIN(seq) FROM sinks),"
        " (SELECT MAX(seq) FROM outbox))"
    )


def _storable(time: float) -> float:
    """The time, or 0 where it is no number: SQL has no NaN, and JSON neither NaN nor infinity.
    One forged time must not keep a batch from being stored, or an incident from being read."""
    return time if math.isfinite(time) else 0.0


def _dump(body: Row) -> bytes:
    return orjson.dumps(body)


def _finding_body(body: bytes, incident: str) -> Row:
    row: Row = orjson.loads(body)
    row["incident"] = incident
    return row


def _put_checkpoints(db: sqlite3.Connection, checkpoints: Sequence[Checkpoint]) -> None:
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


def _put_correlation(db: sqlite3.Connection, change: CorrelationChange) -> None:
    for changed in change.incidents.values():
        incident = msgspec.structs.replace(
            changed,
            first_seen=_storable(changed.first_seen),
            last_seen=_storable(changed.last_seen),
        )
        _reach_count(db, "store", "incident_number", incident.number)
        db.execute(
            "INSERT OR REPLACE INTO incidents VALUES (?, ?, ?, ?, ?, NULL, ?)",
            (
                incident.id,
                incident.number,
                LEVELS.index(incident.level),
                incident.first_seen,
                incident.last_seen,
                msgspec.json.encode(incident),
            ),
        )
    for merged, into in change.merged.items():
        # Also one that was opened and merged within this batch has a row: its id may have been
        # worked out by somebody who reads the same logs.
        db.execute("UPDATE incidents SET merged_into = ? WHERE id = ?", (into, merged))
        db.execute("UPDATE findings SET incident = ? WHERE incident = ?", (into, merged))
    for key, link in change.links.items():
        # Deleted first: a link that was touched goes to the end, where the newest are.
        db.execute("DELETE FROM links WHERE key = ?", (key,))
        if link is not None:
            db.execute(
                "INSERT INTO links VALUES (?, ?, ?, ?)",
                (key, link.incident, _storable(link.first), _storable(link.last)),
            )


def _put_rejected(db: sqlite3.Connection, rejected: Sequence[Rejected], cap: int) -> None:
    db.executemany(
        "INSERT INTO rejected (received, source, path, position, stage, reason, length, data)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                _storable(r.record.received),
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


def _put_messages(db: sqlite3.Connection, messages: Sequence[Outgoing]) -> None:
    db.executemany(
        "INSERT INTO outbox (kind, id, time, body) VALUES (?, ?, ?, ?)",
        [(m.kind, m.id, _storable(m.time), _dump(m.body)) for m in messages],
    )


def _put_counts(db: sqlite3.Connection, batch: Batch) -> None:
    for (scope, name), value in batch.counts.items():
        _add_count(db, scope, name, value)
    for (scope, name), value in batch.latest.items():
        if math.isfinite(value):
            _reach_count(db, scope, name, value)


def _reach_count(db: sqlite3.Connection, scope: str, name: str, value: float) -> None:
    db.execute(
        "INSERT INTO counts VALUES (?, ?, ?) ON CONFLICT (scope, name)"
        " DO UPDATE SET value = MAX(value, excluded.value)",
        (scope, name, value),
    )


def _add_count(db: sqlite3.Connection, scope: str, name: str, value: float) -> None:
    db.execute(
        "INSERT INTO counts VALUES (?, ?, ?) ON CONFLICT (scope, name)"
        " DO UPDATE SET value = value + excluded.value",
        (scope, name, value),
    )
