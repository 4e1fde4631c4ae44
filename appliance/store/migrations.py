"""The schema of the store, one script a version, and how a database is brought up to it."""

import sqlite3
from collections.abc import Sequence
from typing import Final

from appliance.errors import StoreError

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
    # Incidents: folds (near-identical findings of ten minutes), what is usual here, and the spans
    # of time in which an entity led to an incident.
    """
    ALTER TABLE findings ADD COLUMN fold TEXT NOT NULL DEFAULT '';
    CREATE INDEX findings_fold ON findings (fold) WHERE fold != '';
    CREATE TABLE folds (
        id TEXT PRIMARY KEY, incident TEXT NOT NULL, last REAL NOT NULL, body BLOB NOT NULL)
        WITHOUT ROWID;
    CREATE INDEX folds_incident ON folds (incident);
    CREATE INDEX folds_last ON folds (last);
    CREATE TABLE usuals (key TEXT PRIMARY KEY, body BLOB NOT NULL);
    DROP TABLE links;
    CREATE TABLE links (key TEXT PRIMARY KEY, spans BLOB NOT NULL);
    ALTER TABLE incidents ADD COLUMN score REAL NOT NULL DEFAULT 0;
    ALTER TABLE incidents ADD COLUMN kind TEXT NOT NULL DEFAULT 'incident';
    """,
    # Cases, what operators suppress for a while, and the audit log with its newest entry.
    """
    CREATE TABLE cases (
        incident TEXT PRIMARY KEY, status TEXT NOT NULL, changed REAL NOT NULL, body BLOB NOT NULL)
        WITHOUT ROWID;
    CREATE TABLE suppressions (
        number INTEGER PRIMARY KEY AUTOINCREMENT, until REAL NOT NULL, body BLOB NOT NULL);
    CREATE TABLE audit (
        number INTEGER PRIMARY KEY, time REAL NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL,
        subject TEXT NOT NULL, details BLOB NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL);
    CREATE INDEX audit_subject ON audit (subject);
    CREATE TABLE audit_head (
        one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL, hash TEXT NOT NULL);
    INSERT INTO audit_head VALUES (1, 0, printf('%064d', 0));
    CREATE INDEX findings_suppressed ON findings (suppressed) WHERE suppressed != '';
    """,
    # The archive's segments: bytes that are committed, and what became of each.
    """
    CREATE TABLE segments (
        name TEXT PRIMARY KEY, hour INTEGER NOT NULL, bytes INTEGER NOT NULL,
        events INTEGER NOT NULL, first REAL NOT NULL, last REAL NOT NULL,
        state TEXT NOT NULL DEFAULT 'open', stored INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
    """,
)


def migrate(db: sqlite3.Connection, migrations: Sequence[str], *, read_only: bool) -> int:
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


def read_schema(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])
