"""Looking after the database as a file: facts, backup, restore, vacuum."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from appliance.audit import Entry, Head
from appliance.casework import render_action
from appliance.emit.text import show_surrogates
from appliance.errors import StoreError
from appliance.store.cases import append_entry, read_head
from appliance.store.migrations import MIGRATIONS, migrate, read_schema
from appliance.store.rows import Outgoing, store_errors
from appliance.store.writing import put_messages

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
    with store_errors(path), _opened(path) as db:
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
            schema=read_schema(db),
            known_schema=len(MIGRATIONS),
            file_bytes=_size_of(path),
            wal_bytes=_size_of(_beside(path, "-wal")),
            used_bytes=used_bytes(db),
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


class Restorer(msgspec.Struct, frozen=True):
    """Who restores, and when (epoch seconds): what the audit log says of it."""

    actor: str
    now: float


def restore_store(
    backup: Path, path: Path, kept: Path, restorer: Restorer | None = None
) -> StoreFacts:
    """Put a backup in the place of the database, which must not be in use. With `restorer` the
    audit log, which goes back in time with the rest, gets an entry that says so, and up to where
    the log that was there went.

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
        with store_errors(fresh), _opened(fresh, mode="rw") as db:
            db.execute("UPDATE sinks SET length = 0, identity = ''")
            if restorer is not None:
                _log_restore(db, backup, _read_audit_head(path), restorer)
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


def _read_audit_head(path: Path) -> Head | None:
    """The newest audit entry of the database that is replaced; None where there is none to be read:
    it may be damaged, which is why it is replaced."""
    try:
        with _opened(path) as db:
            return read_head(db)
    except (sqlite3.Error, ValueError, UnicodeError):
        return None


def _log_restore(
    db: sqlite3.Connection, backup: Path, before: Head | None, restorer: Restorer
) -> None:
    """Write into the restored database that it was restored; sinks are told when they go on."""
    migrate(db, MIGRATIONS, read_only=False)
    there = {"number": before.number, "hash": before.hash} if before is not None else None
    entry = Entry("restore", "store", {"backup": show_surrogates(backup.name), "replaced": there})
    db.execute("BEGIN IMMEDIATE")
    action = append_entry(db, entry, actor=restorer.actor, now=restorer.now)
    if db.execute("SELECT 1 FROM sinks").fetchone() is not None:
        body = render_action(action)
        put_messages(db, [Outgoing("audit", body["id"], restorer.now, body)])
    db.execute("COMMIT")


def vacuum_store(path: Path) -> tuple[int, int]:
    """Write the database anew without its free pages; it must not be in use. Gives its size in
    bytes before and after. Raises StoreError (the disk needs as much room again)."""
    with store_errors(path), _opened(path, mode="rw") as db:
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
    with store_errors(source), _opened(source) as db, _opened(target, mode="rw") as copy:
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
    with store_errors(path), _opened(path) as db:
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


def used_bytes(db: sqlite3.Connection) -> int:
    """Bytes of the database that hold something: freed pages are used again before it grows."""
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    (free,) = db.execute("PRAGMA freelist_count").fetchone()
    (size,) = db.execute("PRAGMA page_size").fetchone()
    return int((pages - free) * size)
