"""The one transaction: what a batch of records led to, and that the records were read, together.

One SQLite database in WAL mode holds checkpoints, counts, findings, incidents, correlation keys,
the rejected and the outbox. This is the only home of sqlite3. Raw events are not in it.

A commit is on disk before it returns (synchronous=FULL): after any crash the database is as some
commit left it, and the sources go on behind the records of that commit.
"""

import math
import os
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import orjson

from appliance.emit.text import show_surrogates
from appliance.errors import StoreError
from appliance.inventory.seen import Software
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
    WindowChange,
    WindowEvent,
    WindowGroup,
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
    # When a finding's record came in (of older ones only known: no later than the newest), the
    # outbox row of its first message (0: not known), and from which row on a sink has been told.
    """
    ALTER TABLE findings ADD COLUMN received REAL NOT NULL DEFAULT 0;
    ALTER TABLE findings ADD COLUMN seq INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE sinks ADD COLUMN began INTEGER NOT NULL DEFAULT 0;
    UPDATE findings SET received =
        COALESCE((SELECT MAX(value) FROM counts WHERE name = 'last_received'), time);
    CREATE INDEX findings_received ON findings (received);
    CREATE INDEX rejected_received ON rejected (received);
    """,
    # The operator's reason for keeping a finding from sinks and incidents; empty for all others.
    """
    ALTER TABLE findings ADD COLUMN suppressed TEXT NOT NULL DEFAULT '';
    """,
    # The groups of Sigma correlations (rule: the correlation's hash) and the events in them.
    """
    CREATE TABLE windows (
        number INTEGER PRIMARY KEY, rule TEXT NOT NULL, touched REAL NOT NULL, body BLOB NOT NULL);
    CREATE TABLE window_events (
        number INTEGER NOT NULL, time REAL NOT NULL, id TEXT NOT NULL, base INTEGER NOT NULL,
        value TEXT, held INTEGER NOT NULL,
        PRIMARY KEY (number, time, id, base)) WITHOUT ROWID;
    """,
    # The inventory: software that logs reveal (`removed`: when it was taken away or replaced).
    """
    CREATE TABLE software (
        host TEXT NOT NULL, vendor TEXT NOT NULL, product TEXT NOT NULL, version TEXT NOT NULL,
        how TEXT NOT NULL, first_seen REAL NOT NULL, last_seen REAL NOT NULL, removed REAL,
        installed INTEGER NOT NULL,
        PRIMARY KEY (host, vendor, product, version, how)) WITHOUT ROWID;
    """,
)


#: SQLite keeps 63 bits and the sign.
LARGEST_INTEGER: Final = (1 << 63) - 1


#: Rows that one look at age and size deletes at the most: no commit takes long for it.
EXPIRE_ROWS: Final = 1000
#: Seconds between two such looks, and when the last one left something to do.
EXPIRE_SECONDS: Final = 60.0
EXPIRE_AGAIN_SECONDS: Final = 1.0
#: Test messages whose place in the outbox is remembered.
MOST_TESTS: Final = 100


class StoreLimits(msgspec.Struct, frozen=True):
    """Rows kept of each growing table, and bytes kept of each rejected record.

    `findings_seconds` and `rejected_seconds` say how long a row is kept after its record came in,
    `software_seconds` how long after it was removed or, where no package manager speaks of it, last
    seen; `store_bytes` how large the database may grow (0: no limit). These four are looked at once
    in EXPIRE_SECONDS, a bounded number of rows each time.
    """

    findings: int = 1_000_000
    incidents: int = 100_000
    rejected: int = 10_000
    rejected_bytes: int = 1 << 16
    outbox: int = 100_000
    verdicts: int = 50_000
    findings_seconds: float = 0.0
    rejected_seconds: float = 0.0
    software_seconds: float = 180 * 86400.0
    store_bytes: int = 0


class FindingRow(msgspec.Struct, frozen=True):
    """A finding as stored: what is searched, and the body that readers get. `level` is the index
    in schema.LEVELS; `pending` says that an expert has not answered yet; `received` is when its
    record came in (0: taken to be `time`); `suppressed` is the operator's reason for keeping it
    from sinks and incidents, empty for all others."""

    id: str
    time: float
    level: int
    detector: str
    rule_id: str
    body: Row
    pending: bool = False
    received: float = 0.0
    suppressed: str = ""


class SinkProgress(msgspec.Struct, frozen=True):
    """How far a sink has come in the outbox: it was told of rows behind `began` (0 where that was
    not kept) and has passed all up to `seq`; `delivered` and `lost` count messages."""

    name: str
    began: int
    seq: int
    delivered: int
    lost: int


class FindingDelivery(msgspec.Struct, frozen=True):
    """A finding's way out. `received` is when its record came in (epoch seconds), `seq` the outbox
    row of its first message (0: there was none, or it was not kept), `pending` says that an expert
    has not answered, `waiting` are its messages still in the outbox as (row, kind)."""

    received: float
    seq: int
    pending: bool
    waiting: tuple[tuple[int, MessageKind], ...]
    sinks: tuple[SinkProgress, ...]


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
    windows: WindowChange | None = None
    software: list[Software] = msgspec.field(default_factory=list)


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
        self._expire_at = -math.inf
        self._test_seqs: dict[str, int] = {}
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

    def set_limits(self, limits: StoreLimits) -> None:
        """Go on with other caps: what is over them goes with the next batches."""
        with self._lock:
            self._limits = limits

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
            seqs = _number_messages(db, batch.messages)
            self._remember_tests(batch.messages, seqs)
            db.executemany(
                "INSERT OR IGNORE INTO findings"
                " (id, time, level, detector, rule_id, incident, pending, body, received, seq,"
                " suppressed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        f.id,
                        _storable(f.time),
                        f.level,
                        f.detector,
                        f.rule_id,
                        "" if f.suppressed else joined[f.id],
                        f.pending,
                        _dump(f.body),
                        _storable(f.received or f.time),
                        seqs.get(f.id, 0),
                        f.suppressed,
                    )
                    for f in batch.findings
                ],
            )
            _put_correlation(db, batch.correlation)
            if batch.windows is not None:
                _put_windows(db, batch.windows)
            self._on_step("store.findings.after")
            _put_rejected(db, batch.rejected, self._limits.rejected_bytes)
            _put_messages(db, batch.messages)
            _put_software(db, batch.software)
            _put_counts(db, batch)
            self._trim(db, batch)
            newest = [time for (_, name), time in batch.latest.items() if name == "last_received"]
            if newest and (math.isfinite(now := max(newest))):
                self._expire(db, now)

    def _remember_tests(self, messages: Sequence[Outgoing], seqs: Mapping[str, int]) -> None:
        """Where test messages went: once every sink has one, the outbox no longer tells."""
        for message in messages:
            if message.kind == "test":
                self._test_seqs[message.id] = seqs[message.id]
        while len(self._test_seqs) > MOST_TESTS:
            del self._test_seqs[next(iter(self._test_seqs))]

    def expire(self, now: float) -> None:
        """Forget what is too old at `now` (epoch seconds) or too much, when a look is due; does at
        most EXPIRE_ROWS rows of each kind. Batches that bring records do the same by themselves."""
        with self._lock:
            if not self._expire_at - EXPIRE_SECONDS <= now < self._expire_at:
                with self._writing() as db:
                    self._expire(db, now)

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
                    "INSERT OR IGNORE INTO sinks (name, seq, length, identity, delivered, lost,"
                    " began) SELECT ?, seq, 0, '', 0, 0, seq FROM"
                    " (SELECT COALESCE(MAX(seq), 0) AS seq FROM sqlite_sequence"
                    " WHERE name = 'outbox')",
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

    def keep_windows(self, rules: Collection[str]) -> None:
        """Forget the groups of correlations other than these, named by their hashes."""
        with self._reading() as db:
            known = db.execute("SELECT DISTINCT rule FROM windows").fetchall()
        gone = [(rule,) for (rule,) in known if rule not in rules]
        if not gone:
            return
        with self._writing() as db:
            db.executemany(
                "DELETE FROM window_events WHERE number IN"
                " (SELECT number FROM windows WHERE rule = ?)",
                gone,
            )
            db.executemany("DELETE FROM windows WHERE rule = ?", gone)

    def spool(self, rows: Iterable[tuple[float, str, bytes]]) -> None:
        """Put (time, id, body) aside, for `unspool`, in a table of this connection alone."""
        with self._writing() as db:
            db.execute("CREATE TEMP TABLE IF NOT EXISTS spool (time REAL, id TEXT, body BLOB)")
            db.executemany("INSERT INTO temp.spool VALUES (?, ?, ?)", rows)

    def unspool(self) -> Iterator[bytes]:
        """The bodies that were put aside, in the order of (time, id). To be read to the end while
        nothing is put aside."""
        with self._reading() as db:
            there = db.execute("SELECT 1 FROM temp.sqlite_master WHERE name = 'spool'").fetchone()
            rows = db.execute("SELECT body FROM temp.spool ORDER BY time, id") if there else ()
        with _store_errors(self.path):
            for (body,) in rows:
                yield body

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

    def _expire(self, db: sqlite3.Connection, now: float) -> None:
        """Age and size, when a look is due: rows whose record came in too long ago, then, while the
        database holds too many bytes, the oldest rejected, then the oldest findings. Incidents
        stay, also where their findings go. What goes is counted."""
        # A clock that was set back must not put the next look off by as much.
        if self._expire_at - EXPIRE_SECONDS <= now < self._expire_at:
            return
        limits = self._limits
        full = False
        for table, seconds in (
            ("rejected", limits.rejected_seconds),
            ("findings", limits.findings_seconds),
        ):
            if seconds > 0:
                gone = db.execute(
                    f"DELETE FROM {table} WHERE number IN (SELECT number FROM {table}"  # noqa: S608
                    " WHERE received < ? ORDER BY received LIMIT ?)",
                    (now - seconds, EXPIRE_ROWS),
                ).rowcount
                full = full or gone == EXPIRE_ROWS
                if gone:
                    _add_count(db, "store", f"{table}_expired", gone)
        if limits.software_seconds > 0:
            oldest = now - limits.software_seconds
            gone = db.execute(
                "DELETE FROM software WHERE removed < ? OR (NOT installed AND last_seen < ?)",
                (oldest, oldest),
            ).rowcount
            if gone:
                _add_count(db, "store", "software_expired", gone)
        if limits.store_bytes and _used_bytes(db) > limits.store_bytes:
            full = True
            for table in ("rejected", "findings"):
                gone = db.execute(
                    f"DELETE FROM {table} WHERE number IN"  # noqa: S608
                    f" (SELECT number FROM {table} ORDER BY number LIMIT ?)",
                    (EXPIRE_ROWS,),
                ).rowcount
                if gone:
                    _add_count(db, "store", f"{table}_over_bytes", gone)
                    break
        self._expire_at = now + (EXPIRE_AGAIN_SECONDS if full else EXPIRE_SECONDS)

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

    def windows(self) -> list[tuple[WindowGroup, list[WindowEvent]]]:
        """The groups of Sigma correlations with their events, in order."""
        events: dict[int, list[WindowEvent]] = {}
        with self._reading() as db:
            groups = db.execute("SELECT number, body FROM windows ORDER BY number").fetchall()
            for number, time, key, base, value, held in db.execute(
                "SELECT number, time, id, base, value, held FROM window_events"
                " ORDER BY number, time, id, base"
            ):
                event = WindowEvent(time, key, base, value, bool(held))
                events.setdefault(number, []).append(event)
        return [
            (msgspec.json.decode(body, type=WindowGroup), events.get(number, []))
            for number, body in groups
        ]

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
        suppressed: bool = False,
    ) -> list[Row]:
        """Bodies of findings by event time, oldest first, each with its incident as it is now.

        `since` in epoch seconds, `level` an index in LEVELS, `limit` keeps the newest (-1: all);
        those that the operator suppressed, and no others, with `suppressed`.
        """
        query = (
            "SELECT body, incident FROM findings WHERE time >= ? AND level >= ?"
            " AND (suppressed != '') = ?"
        )
        values: list[Any] = [since, level, suppressed]
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

    def delivered(self, key: str) -> dict[str, bool]:
        """For each sink, whether it has passed every message with this id. False for all of them
        while no message with the id was put into the outbox, or none is known of."""
        with self._reading() as db:
            row = db.execute("SELECT MAX(seq) FROM outbox WHERE id = ?", (key,)).fetchone()
            last = row[0]
            if last is None:  # every sink has it, or it never was there
                found = db.execute("SELECT seq FROM findings WHERE id = ?", (key,)).fetchone()
                last = found[0] if found is not None and found[0] else self._test_seqs.get(key)
            sinks = db.execute("SELECT name, seq FROM sinks ORDER BY name").fetchall()
        return {name: last is not None and seq >= last for name, seq in sinks}

    def finding_delivery(self, key: str) -> FindingDelivery | None:
        """What is known of a finding's way out, or None when there is no such finding."""
        with self._reading() as db:
            row = db.execute(
                "SELECT received, seq, pending FROM findings WHERE id = ?", (key,)
            ).fetchone()
            if row is None:
                return None
            waiting = db.execute(
                "SELECT seq, kind FROM outbox WHERE id = ? ORDER BY seq", (key,)
            ).fetchall()
            sinks = db.execute(
                "SELECT name, began, seq, delivered, lost FROM sinks ORDER BY name"
            ).fetchall()
        return FindingDelivery(
            received=row[0],
            seq=row[1],
            pending=bool(row[2]),
            waiting=tuple(waiting),
            sinks=tuple(SinkProgress(*sink) for sink in sinks),
        )

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
        """All bodies in the order of their events' times, but for the suppressed. The store is free
        between pages: a slow reader holds up nobody."""
        last: tuple[float, int] = (-math.inf, 0)
        while True:
            with self._reading() as db:
                rows = db.execute(
                    "SELECT time, number, body, incident FROM findings"
                    " WHERE (time, number) > (?, ?) AND suppressed = ''"
                    " ORDER BY time, number LIMIT ?",
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

    def software(self, host: str | None = None) -> list[Software]:
        """The inventory, of one host or of all, by host, vendor, product, version."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT host, vendor, product, version, how, first_seen, last_seen, removed,"
                " installed FROM software WHERE ?1 IS NULL OR host = ?1"
                " ORDER BY host, vendor, product, version, how",
                (host,),
            ).fetchall()
        return [
            Software(host, vendor, product, version, how, first, last, removed, bool(installed))
            for host, vendor, product, version, how, first, last, removed, installed in rows
        ]

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
                for table in ("findings", "incidents", "links", "rejected", "outbox", "software")
            }
        sizes["bytes"] = self.path.stat().st_size if self.path.exists() else 0
        return sizes

    def sinks(self) -> list[Row]:
        """Per sink: name, delivered, waiting (messages behind its position), lost (to the outbox's
        cap before the sink had them, also while it is down and has not come to the gap)."""
        with self._reading() as db:
            rows = db.execute(
                f"SELECT name, delivered, lost + {_LOST}, {_LAST} - sinks.seq - {_LOST}"  # noqa: S608
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


#: The newest number in the outbox. What is neither passed nor lost waits: worked out, not counted,
#: since counting the messages for a sink that is down reads all of them, every two seconds.
_LAST: Final = "COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'outbox'), sinks.seq)"


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
    row["incident"] = incident or None
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


def _put_windows(db: sqlite3.Connection, change: WindowChange) -> None:
    dropped = [(number,) for number, group in change.groups.items() if group is None]
    db.executemany("DELETE FROM window_events WHERE number = ?", dropped)
    db.executemany("DELETE FROM windows WHERE number = ?", dropped)
    db.executemany(
        "INSERT OR REPLACE INTO windows VALUES (?, ?, ?, ?)",
        [
            (number, group.rule, _storable(group.touched), msgspec.json.encode(group))
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


def _put_software(db: sqlite3.Connection, rows: Sequence[Software]) -> None:
    db.executemany(
        "INSERT OR REPLACE INTO software VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                row.host,
                row.vendor,
                row.product,
                row.version,
                row.how,
                _storable(row.first_seen),
                _storable(row.last_seen),
                None if row.removed is None else _storable(row.removed),
                row.installed,
            )
            for row in rows
        ],
    )


def _put_messages(db: sqlite3.Connection, messages: Sequence[Outgoing]) -> None:
    db.executemany(
        "INSERT INTO outbox (kind, id, time, body) VALUES (?, ?, ?, ?)",
        [(m.kind, m.id, _storable(m.time), _dump(m.body)) for m in messages],
    )


def _number_messages(db: sqlite3.Connection, messages: Sequence[Outgoing]) -> dict[str, int]:
    """The outbox rows that the findings and tests among these messages are going to have, by id:
    within a transaction AUTOINCREMENT gives one number after another."""
    row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'").fetchone()
    first = (row[0] if row else 0) + 1
    return {
        m.id: first + place for place, m in enumerate(messages) if m.kind in ("finding", "test")
    }


def _used_bytes(db: sqlite3.Connection) -> int:
    """Bytes of the database that hold something: freed pages are used again before it grows."""
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    (free,) = db.execute("PRAGMA freelist_count").fetchone()
    (size,) = db.execute("PRAGMA page_size").fetchone()
    return int((pages - free) * size)


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


# -- looking after the database as a file ----------------------------------------------------------

#: Complaints of SQLite's own check that are kept.
MOST_PROBLEMS: Final = 20
#: What a backup must hold to be a store.
_TABLES: Final = frozenset(
    {"checkpoints", "counts", "findings", "incidents", "links", "outbox", "rejected", "sinks"}
)
#: Tables whose rows have a time, with the column that tells it.
_TIMES: Final = {
    "findings": "time", "incidents": "last_seen", "rejected": "received", "software": "last_seen",
}  # fmt: skip


class StoreFacts(msgspec.Struct, frozen=True):
    """A store as a file. Sizes in bytes: `file_bytes` of the database, `wal_bytes` of its
    write-ahead log, `free_bytes` of pages that will be used again. `problems` is what SQLite's
    quick_check says, empty when it says ok; `oldest` and `newest` are epoch seconds by table;
    `counts` are the store's own, among them what it let go, and why."""

    path: str
    schema: int
    known_schema: int
    file_bytes: int
    wal_bytes: int
    used_bytes: int
    free_bytes: int
    page_bytes: int
    problems: tuple[str, ...]
    rows: dict[str, int]
    oldest: dict[str, float | None]
    newest: dict[str, float | None]
    counts: dict[str, float]


def inspect_store(path: Path) -> StoreFacts:
    """Look at the database, read-only, whatever its schema. Raises StoreError when it can't be
    opened or is no database at all."""
    with _store_errors(path), _opened(path) as db:
        names = _list_tables(db)
        rows = {t: _count_rows(db, t) for t in sorted(names & {*_TABLES, *_TIMES})}
        ranges = {
            table: db.execute(f"SELECT MIN({name}), MAX({name}) FROM {table}").fetchone()  # noqa: S608
            for table, name in _TIMES.items()
            if table in names
        }
        (page,) = db.execute("PRAGMA page_size").fetchone()
        (free,) = db.execute("PRAGMA freelist_count").fetchone()
        return StoreFacts(
            path=str(path),
            schema=_read_schema(db),
            known_schema=len(MIGRATIONS),
            file_bytes=_size_of(path),
            wal_bytes=_size_of(_beside(path, "-wal")),
            used_bytes=_used_bytes(db),
            free_bytes=free * page,
            page_bytes=page,
            problems=tuple(_check_database(db)),
            rows=rows,
            oldest={table: first for table, (first, _) in ranges.items()},
            newest={table: last for table, (_, last) in ranges.items()},
            counts=dict(
                db.execute("SELECT name, value FROM counts WHERE scope = 'store'").fetchall()
                if "counts" in names
                else []
            ),
        )


def backup_store(path: Path, target: Path) -> StoreFacts:
    """A consistent copy of the database in one file, also while a daemon writes to it.

    Written under another name, checked, fsynced, then renamed over `target`; readable by the
    owner alone. Raises StoreError when it can't be copied or the copy is not sound, OSError when
    the target's folder takes nothing.
    """
    fresh = target.with_name(f".{target.name}.new")
    fresh.unlink(missing_ok=True)
    os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        _copy_database(path, fresh)
        facts = inspect_store(fresh)
        if reason := _find_fault(facts, fresh):
            raise StoreError(f"{path}: the copy is not sound: {reason}")
        _sync(fresh)
        fresh.replace(target)
        _sync(target.parent)
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            _beside(fresh, suffix).unlink(missing_ok=True)
    return msgspec.structs.replace(facts, path=str(target))


def restore_store(backup: Path, path: Path, kept: Path) -> StoreFacts:
    """Put a backup in the place of the database, which must not be in use.

    The backup is checked first and copied beside the database; what was there is kept as `kept`.
    Sinks go on with what the backup has, but files are not cut to the length it knows: what was
    written to them since stays. Raises StoreError (nothing is changed then), OSError.
    """
    if reason := _find_fault(inspect_store(backup), backup):
        raise StoreError(f"{backup}: {reason}")
    fresh = path.with_name(f".{path.name}.restoring")
    fresh.unlink(missing_ok=True)
    os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))
    try:
        _copy_database(backup, fresh)
        with _store_errors(fresh), _opened(fresh, mode="rw") as db:
            db.execute("UPDATE sinks SET length = 0, identity = ''")
        facts = inspect_store(fresh)
        if reason := _find_fault(facts, fresh):
            raise StoreError(f"{backup}: the copy is not sound: {reason}")
        _sync(fresh)
        _put_aside(path, kept)
        fresh.replace(path)
        _sync(path.parent)
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            _beside(fresh, suffix).unlink(missing_ok=True)
    return msgspec.structs.replace(facts, path=str(path))


def vacuum_store(path: Path) -> tuple[int, int]:
    """Write the database anew without its free pages; it must not be in use. Gives its size in
    bytes before and after. Raises StoreError (the disk needs as much room again)."""
    with _store_errors(path), _opened(path, mode="rw") as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        before = _size_of(path)
        db.execute("VACUUM")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return before, _size_of(path)


@contextmanager
def _opened(path: Path, *, mode: str = "ro") -> Iterator[sqlite3.Connection]:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=5)
    try:
        yield db
    finally:
        db.close()


def _copy_database(source: Path, target: Path) -> None:
    """All of it in one step, which one read transaction sees: in pieces, a daemon that writes
    meanwhile would have it begin anew each time."""
    with _store_errors(source), _opened(source) as db, _opened(target, mode="rw") as copy:
        db.backup(copy)
        # One file and not three: WAL is turned on again by the next daemon.
        copy.execute("PRAGMA journal_mode = DELETE")


def _find_fault(facts: StoreFacts, path: Path) -> str:
    """Why a database is no store to go on with; empty when it is one."""
    if facts.problems:
        return f"damaged: {facts.problems[0]}"
    if not 0 < facts.schema <= facts.known_schema:
        return f"has schema {facts.schema}; this version knows 1 to {facts.known_schema}"
    if missing := _TABLES - facts.rows.keys():
        return f"is no store: it has no table {min(missing)}"
    with _store_errors(path), _opened(path) as db:
        # Ours has none: SQL that came with a file would run at our next write.
        foreign = db.execute(
            "SELECT name FROM sqlite_master WHERE type NOT IN ('table', 'index') LIMIT 1"
        ).fetchone()
    return "" if foreign is None else f"holds a trigger or view: {foreign[0]}"


def _put_aside(path: Path, kept: Path) -> None:
    """The database under another name, with its log folded in where it can be, else beside it."""
    if path.exists():
        try:
            with _opened(path, mode="rw") as db:
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error:
            pass  # it may be damaged, which is why it is replaced
        path.replace(kept)
    log = _beside(path, "-wal")
    if log.exists():
        log.replace(_beside(kept, "-wal"))
    _beside(path, "-shm").unlink(missing_ok=True)


def _check_database(db: sqlite3.Connection) -> list[str]:
    rows = db.execute(f"PRAGMA quick_check({MOST_PROBLEMS})").fetchall()
    return [] if rows == [("ok",)] else [str(row[0]) for row in rows]


def _list_tables(db: sqlite3.Connection) -> set[str]:
    return {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _count_rows(db: sqlite3.Connection, table: str) -> int:
    return int(db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])  # noqa: S608


def _read_schema(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _sync(path: Path) -> None:
    """Make a file, or a folder's renames, survive a power cut. Raises OSError."""
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
