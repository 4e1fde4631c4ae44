"""The one transaction: what a batch of records led to, and that the records were read, together.

One SQLite database in WAL mode holds checkpoints, counts, findings, incidents, correlation keys,
the rejected and the outbox. This folder is the only home of sqlite3. Raw events are not in it.

A commit is on disk before it returns (synchronous=FULL): after any crash the database is as some
commit left it, and the sources go on behind the records of that commit.
"""

import math
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import orjson

from appliance.archive.rows import SegmentRow
from appliance.audit import Chain, Entry, Head
from appliance.errors import StoreError
from appliance.incident import Action, Case
from appliance.inventory.seen import Software
from appliance.schema import (
    Checkpoint,
    CorrelationChange,
    FoldState,
    Incident,
    Message,
    OnStep,
    SinkPosition,
    Span,
    Usual,
    WindowEvent,
    WindowGroup,
    ignore_step,
)
from appliance.store.cases import (
    StoreDesk,
    append_entry,
    audit_holds,
    count_suppressed,
    drop_lost_cases,
    list_actions,
    list_suppressions,
    read_case,
    read_head,
    verify_log,
)
from appliance.store.digest import Shift, read_shift
from appliance.store.migrations import MIGRATIONS, migrate
from appliance.store.ranking import rank_incidents
from appliance.store.rows import (
    Batch,
    FindingDelivery,
    Outgoing,
    Row,
    SinkProgress,
    StoreLimits,
    dump,
    finding_body,
    storable,
    store_errors,
)
from appliance.store.segments import (
    drop_segments,
    list_segments,
    put_segments,
    settle_segment,
)
from appliance.store.upkeep import used_bytes
from appliance.store.writing import (
    add_count,
    number_messages,
    put_checkpoints,
    put_correlation,
    put_counts,
    put_messages,
    put_rejected,
    put_software,
    put_windows,
)
from appliance.suppression import Suppression

#: Findings read in one turn of `Store.iterate_findings`: others wait no longer than for these.
PAGE_FINDINGS: Final = 500


#: Rows that one look at age and size deletes at the most: no commit takes long for it.
EXPIRE_ROWS: Final = 1000
#: Seconds between two such looks, and when the last one left something to do.
EXPIRE_SECONDS: Final = 60.0
EXPIRE_AGAIN_SECONDS: Final = 1.0
#: Seconds for which a fold is kept whose findings are not: what comes late still falls into it.
FOLD_SECONDS: Final = 2 * 86400.0
#: Test messages whose place in the outbox is remembered.
MOST_TESTS: Final = 100


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
        with store_errors(path):
            self._db = connect(path, read_only=read_only)
            try:
                if not read_only:
                    prepare(self._db, durable=durable)
                self.version = migrate(self._db, migrations, read_only=read_only)
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
        with self._lock, store_errors(self.path):
            yield self._db

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it or nothing."""
        with self._lock, store_errors(self.path):
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
            put_checkpoints(db, batch.checkpoints)
            self._on_step("store.checkpoints.after")
            joined = batch.correlation.joined
            seqs = number_messages(db, batch.messages)
            self._remember_tests(batch.messages, seqs)
            db.executemany(
                "INSERT OR IGNORE INTO findings"
                " (id, time, level, detector, rule_id, incident, pending, body, received, seq,"
                " suppressed, fold) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        f.id,
                        storable(f.time),
                        f.level,
                        f.detector,
                        f.rule_id,
                        "" if f.suppressed else joined.get(f.id, ""),
                        f.pending,
                        dump(f.body),
                        storable(f.received or f.time),
                        seqs.get(f.id, 0),
                        f.suppressed,
                        batch.correlation.folded.get(f.id, ""),
                    )
                    for f in batch.findings
                ],
            )
            put_correlation(db, batch.correlation)
            if batch.windows is not None:
                put_windows(db, batch.windows)
            self._on_step("store.findings.after")
            put_rejected(db, batch.rejected, self._limits.rejected_bytes)
            put_messages(db, batch.messages)
            put_software(db, batch.software)
            put_segments(db, batch.segments)
            put_counts(db, batch)
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
                [(dump(body), key) for key, body in bodies.items()],
            )
            put_messages(db, messages)

    def settle_segment(self, row: SegmentRow, unread: int = 0) -> None:
        """A segment of the archive has become a Parquet file (see `store.segments`)."""
        with self._writing() as db:
            settle_segment(db, row, unread)

    def drop_segments(self, rows: Sequence[SegmentRow], why: str) -> None:
        """Parts of the archive are gone: their events are counted as `why`."""
        with self._writing() as db:
            drop_segments(db, rows, why)

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
            drop_delivered(db)

    def commit_sink(self, name: str, position: SinkPosition, delivered: int, lost: int) -> None:
        """A sink has come to `position`; what all sinks have is no longer kept."""
        with self._writing() as db:
            db.execute(
                "UPDATE sinks SET seq = ?, length = ?, identity = ?, "
                "delivered = delivered + ?, lost = lost + ? WHERE name = ?",
                (position.seq, position.length, position.identity, delivered, lost, name),
            )
            drop_delivered(db)

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
        with store_errors(self.path):
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
                add_count(db, "store", f"{table}_over_cap", gone)
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
                    add_count(db, "store", f"{table}_expired", gone)
        if limits.software_seconds > 0:
            oldest = now - limits.software_seconds
            gone = db.execute(
                "DELETE FROM software WHERE removed < ? OR (NOT installed AND last_seen < ?)",
                (oldest, oldest),
            ).rowcount
            if gone:
                add_count(db, "store", "software_expired", gone)
        if limits.store_bytes and used_bytes(db) > limits.store_bytes:
            full = True
            for table in ("rejected", "findings"):
                gone = db.execute(
                    f"DELETE FROM {table} WHERE number IN"  # noqa: S608
                    f" (SELECT number FROM {table} ORDER BY number LIMIT ?)",
                    (EXPIRE_ROWS,),
                ).rowcount
                if gone:
                    add_count(db, "store", f"{table}_over_bytes", gone)
                    break
        full = self._forget_folds(db, now) or full
        self._expire_at = now + (EXPIRE_AGAIN_SECONDS if full else EXPIRE_SECONDS)

    def _forget_folds(self, db: sqlite3.Connection, now: float) -> bool:
        """Folds none of whose findings are kept, among the oldest, and what is over the cap, the
        oldest first; whether there may be more."""
        found = [
            key
            for (key,) in db.execute(
                "SELECT id FROM (SELECT id FROM folds WHERE last < ? ORDER BY last LIMIT ?) AS old"
                " WHERE NOT EXISTS (SELECT 1 FROM findings WHERE fold = old.id AND fold != '')",
                (now - FOLD_SECONDS, EXPIRE_ROWS),
            )
        ]
        db.executemany("DELETE FROM folds WHERE id = ?", [(key,) for key in found])
        if found:
            add_count(db, "store", "folds_expired", len(found))
        surplus = db.execute("SELECT COUNT(*) FROM folds").fetchone()[0] - self._limits.folds
        if surplus > 0:
            gone = db.execute(
                "DELETE FROM folds WHERE id IN (SELECT id FROM folds ORDER BY last LIMIT ?)",
                (min(surplus, EXPIRE_ROWS),),
            ).rowcount
            add_count(db, "store", "folds_over_cap", gone)
        return len(found) == EXPIRE_ROWS or surplus > EXPIRE_ROWS

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
            drop_lost_cases(db)
            add_count(db, "store", "incidents_over_cap", surplus)

    # -- what operators do ---------------------------------------------------------------------

    @contextmanager
    def working(
        self,
        *,
        actor: str,
        now: float,
        claimed: str = "",
        sinks: bool = True,
        seen: Head | None = None,
    ) -> Iterator[StoreDesk]:
        """What an operator asks for is done in one transaction: all of it or nothing. Not while a
        batch of the line is between its beginning and its `write_batch`: it would undo this."""
        with self._writing() as db:
            desk = StoreDesk(db, actor=actor, now=now, claimed=claimed, sinks=sinks, seen=seen)
            yield desk
            desk.flush()

    def log_action(self, entry: Entry, *, actor: str, now: float) -> Action:
        """Write an entry into the audit log."""
        with self._writing() as db:
            return append_entry(db, entry, actor=actor, now=now)

    def case(self, incident: str) -> Case:
        """What operators made of an incident; an open one where nobody did anything."""
        with self._reading() as db:
            return read_case(db, incident)

    def actions(
        self, subject: str | None = None, *, since: float = -math.inf, limit: int = -1
    ) -> list[Action]:
        """The audit log's entries, oldest first: all, or those about an incident and what was
        merged into it. `limit` keeps the newest."""
        with self._reading() as db:
            subjects = None if subject is None else [subject, *self._list_merged(db, subject)]
            return list_actions(db, subjects, since, limit)

    def _list_merged(self, db: sqlite3.Connection, incident: str) -> list[str]:
        rows = db.execute(
            "WITH RECURSIVE gone(id) AS (SELECT id FROM incidents WHERE merged_into = ?"
            " UNION SELECT incidents.id FROM incidents JOIN gone"
            " ON incidents.merged_into = gone.id) SELECT id FROM gone LIMIT 500",
            (incident,),
        ).fetchall()
        return [key for (key,) in rows]

    def audit_head(self) -> Head | None:
        """The newest entry of the audit log as it is remembered beside it, None when that is
        gone."""
        with self._reading() as db:
            return read_head(db)

    def verify_audit(self) -> Chain:
        """Follow the audit log's chain from its beginning."""
        with self._reading() as db:
            return verify_log(db)

    def audit_holds(self, head: Head) -> bool:
        """Whether the audit log has the entry with this number and hash."""
        with self._reading() as db:
            return audit_holds(db, head)

    def suppressions(self) -> list[Suppression]:
        """What was suppressed by command, also what holds no longer."""
        with self._reading() as db:
            return list_suppressions(db)

    def count_suppressed(self, reason: str) -> int:
        """Findings that are stored as suppressed for this reason."""
        with self._reading() as db:
            return count_suppressed(db, reason)

    # -- reading, for the line -------------------------------------------------------------------

    def checkpoints(self, source: str) -> list[Checkpoint]:
        """Stored checkpoints of a source."""
        with self._reading() as db:
            rows = db.execute("SELECT key, state FROM checkpoints WHERE source = ?", (source,))
            return [Checkpoint(source, key, state) for key, state in rows]

    def links(self) -> dict[str, tuple[Span, ...]]:
        """Correlation keys with their spans, those first that were not touched for longest."""
        decode = msgspec.msgpack.Decoder(tuple[Span, ...]).decode
        with self._reading() as db:
            rows = db.execute("SELECT key, spans FROM links ORDER BY rowid")
            return {key: decode(spans) for key, spans in rows}

    def usuals(self) -> dict[str, Usual]:
        """What is usual here, by key, in the same order."""
        decode = msgspec.msgpack.Decoder(Usual).decode
        with self._reading() as db:
            rows = db.execute("SELECT key, body FROM usuals ORDER BY rowid")
            return {key: decode(body) for key, body in rows}

    def fold(self, key: str) -> FoldState | None:
        """One fold by its id."""
        with self._reading() as db:
            row = db.execute("SELECT body, incident FROM folds WHERE id = ?", (key,)).fetchone()
        return None if row is None else _read_fold(*row)

    def recent_folds(self, limit: int) -> dict[str, FoldState]:
        """The folds with the newest findings, oldest first, by id."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT body, incident FROM folds ORDER BY last DESC LIMIT ?", (limit,)
            ).fetchall()
        folds = [_read_fold(*row) for row in reversed(rows)]
        return {fold.id: fold for fold in folds}

    def incident_folds(self, incident: str) -> list[FoldState]:
        """The folds of an incident, in order of time."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT body, incident FROM folds WHERE incident = ?", (incident,)
            ).fetchall()
        return sorted((_read_fold(*row) for row in rows), key=lambda one: (one.first, one.id))

    def iterate_timed(self) -> Iterator[tuple[float, Row]]:
        """(event time, body) of all findings that are not suppressed, in order of time."""
        last: tuple[float, int] = (-math.inf, 0)
        while True:
            with self._reading() as db:
                rows = db.execute(
                    "SELECT time, number, body FROM findings"
                    " WHERE (time, number) > (?, ?) AND suppressed = ''"
                    " ORDER BY time, number LIMIT ?",
                    (*last, PAGE_FINDINGS),
                ).fetchall()
            for time, _, body in rows:
                yield time, orjson.loads(body)
            if len(rows) < PAGE_FINDINGS:
                return
            last = (rows[-1][0], rows[-1][1])

    def put_correlation(self, change: CorrelationChange) -> None:
        """Incidents of findings that are stored already: of a scan, which joins them in the order
        of their times when all are read."""
        with self._writing() as db:
            db.executemany(
                "UPDATE findings SET incident = ?, fold = ? WHERE id = ?",
                [
                    (incident, change.folded[finding], finding)
                    for finding, incident in change.joined.items()
                ],
            )
            put_correlation(db, change)

    def segments(self) -> list[SegmentRow]:
        """The parts of the archive, by name."""
        with self._reading() as db:
            return list_segments(db)

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
        return [finding_body(*row) for row in reversed(rows)]

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
        return [finding_body(*row) for row in rows]

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
                    found[key] = finding_body(*row)
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
                yield finding_body(body, incident)
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
                " ORDER BY score DESC, level DESC, last_seen DESC, number DESC LIMIT ?",
                (since, level, limit),
            ).fetchall()
        return [msgspec.json.decode(body, type=Incident) for (body,) in rows]

    def ranked_incidents(
        self,
        *,
        since: float = -math.inf,
        level: int = 0,
        status: str | None = None,
        kind: str = "incident",
        limit: int = -1,
    ) -> list[tuple[Incident, str]]:
        """Incidents of one kind ("incident", "minor", "routine") with the status of their case,
        the first to be looked at first."""
        with self._reading() as db:
            return rank_incidents(
                db, since=since, level=level, status=status, kind=kind, limit=limit
            )

    def shift(self, *, since: float, until: float, begin: float, step: float) -> Shift:
        """What came in from `since` to `until` (epoch seconds, by receipt), for the digest."""
        with self._reading() as db:
            return read_shift(db, since=since, until=until, begin=begin, step=step)

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
                for table in (
                    "findings", "incidents", "folds", "links", "rejected", "outbox", "software",
                )
            }  # fmt: skip
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


def _read_fold(body: bytes, incident: str) -> FoldState:
    fold = msgspec.msgpack.decode(body, type=FoldState)
    fold.incident = incident
    return fold


def connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=5)


def prepare(db: sqlite3.Connection, *, durable: bool) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")
    db.execute("PRAGMA journal_size_limit = 67108864")


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


def drop_delivered(db: sqlite3.Connection) -> None:
    """Forget the messages that no sink has still to read."""
    db.execute(
        "DELETE FROM outbox WHERE seq <= COALESCE((SELECT MIN(seq) FROM sinks),"
        " (SELECT MAX(seq) FROM outbox))"
    )
