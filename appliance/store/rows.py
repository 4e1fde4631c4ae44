"""What is handed to the store and read from it, and how values are made fit for it."""

import math
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import orjson

from appliance.archive.rows import Growth
from appliance.errors import StoreError
from appliance.inventory.seen import Software
from appliance.schema import (
    Checkpoint,
    CorrelationChange,
    MessageKind,
    Rejected,
    WindowChange,
)

Row = dict[str, Any]


class StoreLimits(msgspec.Struct, frozen=True):
    """Rows kept of each growing table, and bytes kept of each rejected record.

    `findings_seconds` and `rejected_seconds` say how long a row is kept after its record came in,
    `software_seconds` how long after it was removed or, where no package manager speaks of it, last
    seen; `store_bytes` how large the database may grow (0: no limit). These four are looked at once
    in EXPIRE_SECONDS, a bounded number of rows each time.
    """

    findings: int = 1_000_000
    incidents: int = 100_000
    folds: int = 1_000_000
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
    segments: list[Growth] = msgspec.field(default_factory=list)


#: SQLite keeps 63 bits and the sign.
LARGEST_INTEGER: Final = (1 << 63) - 1


def storable(time: float) -> float:
    """The time, or 0 where it is no number: SQL has no NaN, and JSON neither NaN nor infinity.
    One forged time must not keep a batch from being stored, or an incident from being read."""
    return time if math.isfinite(time) else 0.0


def dump(body: Row) -> bytes:
    return orjson.dumps(body)


def finding_body(body: bytes, incident: str) -> Row:
    row: Row = orjson.loads(body)
    row["incident"] = incident or None
    return row


@contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """The doorway where sqlite3's errors become ours, those for values that it can't hold, too."""
    try:
        yield
    except (sqlite3.Error, OverflowError, UnicodeError) as error:
        raise StoreError(f"{path}: {error}") from error
