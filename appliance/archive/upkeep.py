"""What becomes of segments: which are whole, which files are left from a crash, which must go.

Plain functions over what the store knows; whoever calls them tells the store.
"""

import math
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

import msgspec

from appliance.archive.database import SCRATCH
from appliance.archive.rows import SegmentRow
from appliance.archive.writer import (
    HOUR,
    PARQUET,
    PARQUET_SUFFIX,
    SEGMENT_SUFFIX,
    SEGMENTS,
)

#: Hours after which nobody writes to a segment any more: a writer begins another with the hour.
_IDLE_HOURS = 2


class Recovered(msgspec.Struct):
    """What `recover_folder` found: segments cut to what was stored of them and their bytes cut,
    segments dropped that the store never heard of, Parquet files whose recording a crash took
    (`found`, by name with their bytes), parts whose file is not there, and Parquet files that the
    store does not know, which stay."""

    cut: int = 0
    cut_bytes: int = 0
    dropped: int = 0
    found: dict[str, int] = msgspec.field(default_factory=dict)
    missing: list[SegmentRow] = msgspec.field(default_factory=list)
    foreign: int = 0


def recover_folder(folder: Path, rows: Sequence[SegmentRow]) -> Recovered:
    """Bring the folder to what the store says, while nobody writes to it. Raises OSError."""
    found = Recovered()
    known = {row.name: row for row in rows}
    for path in (folder / SCRATCH).glob("*"):
        if path.is_file():
            path.unlink()
    parquet = {_name(path): path for path in (folder / PARQUET).glob(f"*{PARQUET_SUFFIX}")}
    segments = {_name(path): path for path in (folder / SEGMENTS).glob(f"*{SEGMENT_SUFFIX}")}
    for name, path in segments.items():
        row = known.get(name)
        if row is None:
            path.unlink()
            found.dropped += 1
        elif row.state == "parquet" and name in parquet:
            path.unlink()
        elif (size := path.stat().st_size) > row.bytes:
            with path.open("r+b") as file:
                file.truncate(row.bytes)
            found.cut += 1
            found.cut_bytes += size - row.bytes
    for name, row in known.items():
        if name in segments:
            if row.state == "open" and name in parquet:
                parquet.pop(name).unlink()  # made, but not recorded: it is made again
        elif name not in parquet:
            found.missing.append(row)
        elif row.state == "open":
            found.found[name] = parquet[name].stat().st_size
    found.foreign = sum(1 for name in parquet if name not in known)
    return found


def list_sealed(rows: Sequence[SegmentRow], now: float, left: Container[str]) -> list[SegmentRow]:
    """The segments that nobody writes to any more, oldest first: those that the last run has `left`
    (names), those whose writer has begun another, and those of an hour that is over."""
    newest: dict[str, str] = {}
    for row in rows:
        writer, stamp = _split(row.name)
        newest[writer] = max(newest.get(writer, ""), stamp)
    hour = int(now // HOUR)
    sealed = []
    for row in rows:
        writer, stamp = _split(row.name)
        if row.state == "open" and (
            row.name in left or stamp < newest[writer] or row.hour + _IDLE_HOURS <= hour
        ):
            sealed.append(row)
    return sorted(sealed, key=lambda row: _split(row.name)[1])


def choose_expired(
    rows: Sequence[SegmentRow], now: float, *, keep: float, max_bytes: int
) -> tuple[list[SegmentRow], list[SegmentRow]]:
    """What must go: parts older than `keep` seconds (0: none), and of the others the oldest, while
    all together are over `max_bytes` (0: no matter). Age is that of the hour in which the records
    came in, which no log can forge. A segment that may still be written to stays."""
    hour = int(now // HOUR)
    rows = sorted(rows, key=lambda row: (row.hour, row.name))
    ended = [row for row in rows if row.state == "parquet" or row.hour + _IDLE_HOURS <= hour]
    limit = -math.inf if not keep else now - keep
    old = [row for row in ended if (row.hour + 1) * HOUR <= limit]
    if not max_bytes:
        return old, []
    left = sum(map(count_bytes, rows)) - sum(map(count_bytes, old))
    over: list[SegmentRow] = []
    gone = {row.name for row in old}
    for row in (row for row in ended if row.name not in gone):
        if left <= max_bytes:
            break
        over.append(row)
        left -= count_bytes(row)
    return old, over


def count_bytes(row: SegmentRow) -> int:
    """A part's bytes on disk."""
    return row.stored if row.state == "parquet" else row.bytes


def delete_part(folder: Path, row: SegmentRow) -> None:
    """Delete a part's files. Raises OSError."""
    (folder / SEGMENTS / (row.name + SEGMENT_SUFFIX)).unlink(missing_ok=True)
    (folder / PARQUET / (row.name + PARQUET_SUFFIX)).unlink(missing_ok=True)


def sum_up(rows: Sequence[SegmentRow], counts: Mapping[str, float]) -> dict[str, object]:
    """What `status` says of the archive; `counts` are the store's, of scope "archive"."""
    names = ("archived", "lost", "unread", "expired_events", "over_bytes_events", "missing_events")
    return {
        "events": sum(row.events for row in rows),
        "bytes": sum(map(count_bytes, rows)),
        "oldest": min((row.first for row in rows), default=None),
        "newest": max((row.last for row in rows), default=None),
        "files": sum(row.state == "parquet" for row in rows),
        "waiting": sum(row.state == "open" for row in rows),
        **{name: int(counts.get(name, 0)) for name in names},
    }


def _name(path: Path) -> str:
    return path.name.rpartition(".")[0]


def _split(name: str) -> tuple[str, str]:
    """The writer's number, and when it began the segment, as they stand in a name."""
    _, _, rest = name.partition("-")
    writer, _, stamp = rest.partition("-")
    return writer, stamp
