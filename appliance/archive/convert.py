"""A sealed segment becomes a Parquet file (zstd), in a process that has time.

Each record is read again as the line reads it, and written as a line of JSON that DuckDB takes in.
The file is written aside, fsynced and renamed; who asked for it records that, then deletes the
segment: whatever stops in between is begun anew, or found done.
"""

import base64
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Final

import msgspec
import orjson

from appliance.archive.columns import BLOBS, COLUMNS, Texts, make_row
from appliance.archive.database import SCRATCH, Database, quote_name, quote_text
from appliance.archive.segments import read_segment
from appliance.archive.writer import (
    PARQUET,
    PARQUET_SUFFIX,
    SEGMENT_SUFFIX,
    SEGMENTS,
    sync_folder,
)
from appliance.errors import ArchiveError
from appliance.schema import Event, OnStep, RawRecord, ignore_step

ReadRecord = Callable[[RawRecord], Event | None]
_ROW_GROUP: Final = 61_440
_LEAST_GROUP: Final = 2_048
_GROUP_BYTES: Final = 128 << 20
#: Kinds of log sources that are told apart in one segment.
MOST_HEAPS: Final = 64
_LEAST_BUFFER: Final = 4 << 20
_MEMORY: Final = 1 << 30


class Converted(msgspec.Struct, frozen=True):
    """What came of a segment: its events, of how many the record can't be read any more, the
    Parquet file's bytes, and the times of its first and last event."""

    events: int
    unread: int
    bytes: int
    first: float
    last: float


def convert_segment(
    folder: Path,
    name: str,
    length: int | None,
    *,
    read: ReadRecord,
    texts: Texts,
    on_step: OnStep = ignore_step,
) -> Converted:
    """Write the Parquet file of a segment's first `length` bytes (None: of all that is whole).

    Raises ArchiveError, OSError when the disk takes it not; the segment stays in any case."""
    source = folder / SEGMENTS / (name + SEGMENT_SUFFIX)
    target = folder / PARQUET / (name + PARQUET_SUFFIX)
    scratch = folder / SCRATCH
    fresh = scratch / f"{name}{PARQUET_SUFFIX}"
    for place in (target.parent, scratch):
        place.mkdir(parents=True, exist_ok=True, mode=0o750)
    counted = _Counted()
    heaps = _Heaps(scratch, name)
    try:
        for record in read_segment(source, length):
            kind, line = _write_line(record, read, texts, counted)
            counted.longest = max(counted.longest, len(line))
            counted.bytes += len(line)
            heaps.write(kind, line)
        heaps.close()
        if not counted.events:
            raise ArchiveError(f"{source}: holds no event")
        _write_parquet(folder, heaps.paths, fresh, counted)
        on_step("archive.parquet.written")
        fresh.chmod(0o640)
        _sync_file(fresh)
        fresh.replace(target)
        sync_folder(target.parent)
        on_step("archive.parquet.renamed")
    finally:
        heaps.close()
        for path in (*heaps.paths, fresh):
            path.unlink(missing_ok=True)
    return Converted(
        counted.events, counted.unread, target.stat().st_size, counted.first, counted.last
    )


class _Counted(msgspec.Struct):
    events: int = 0
    unread: int = 0
    longest: int = 0
    bytes: int = 0
    first: float = math.inf
    last: float = -math.inf


class _Heaps:
    """The lines by kind: records of one log source beside one another are smaller, and most rules
    pass most of them over. What is of more than MOST_HEAPS kinds is put together."""

    def __init__(self, folder: Path, name: str) -> None:
        self._stem = folder / name
        self._files: dict[str, IO[bytes]] = {}
        self.paths: list[Path] = []

    def write(self, kind: str, line: bytes) -> None:
        """Raises OSError."""
        file = self._files.get(kind)
        if file is None:
            if len(self._files) >= MOST_HEAPS:
                kind = ""
            file = self._files.get(kind)
        if file is None:
            path = self._stem.with_name(f"{self._stem.name}-{len(self.paths):03}.jsonl")
            self.paths.append(path)
            file = self._files[kind] = path.open("wb")
        file.write(line)

    def close(self) -> None:
        """Raises OSError."""
        files, self._files = list(self._files.values()), {}
        for file in files:
            file.close()


def _write_line(
    record: RawRecord, read: ReadRecord, texts: Texts, counted: _Counted
) -> tuple[str, bytes]:
    """The log sources, and the line."""
    event = read(record)
    counted.events += 1
    counted.unread += event is None
    row = make_row(record, event, texts)
    counted.first = min(counted.first, row["time"])
    counted.last = max(counted.last, row["time"])
    for name in BLOBS:
        if name in row:
            row[name] = base64.b64encode(row[name]).decode("ascii")
    return row.get("logsources", ""), orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def _write_parquet(folder: Path, lines: Sequence[Path], fresh: Path, counted: _Counted) -> None:
    types = ", ".join(
        f"{quote_name(name)}: {quote_text('VARCHAR' if kind == 'BLOB' else kind)}"
        for name, kind in COLUMNS.items()
    )
    chosen = ", ".join(
        f"from_base64({quote_name(name)}) AS {quote_name(name)}"
        if kind == "BLOB"
        else quote_name(name)
        for name, kind in COLUMNS.items()
    )
    buffer = max(_LEAST_BUFFER, 2 * counted.longest)
    # A group is held whole until it is written.
    fitting = _GROUP_BYTES * counted.events // max(counted.bytes, 1)
    rows = max(_LEAST_GROUP, min(_ROW_GROUP, fitting))
    database = Database(folder, memory=_MEMORY + 4 * buffer, threads=1)
    try:
        database.run(
            f"COPY (SELECT {chosen} FROM read_json(?, format = 'newline_delimited',"  # noqa: S608
            f" maximum_object_size = {buffer}, columns = {{{types}}}))"
            f" TO {quote_text(str(fresh))}"
            " (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 6,"
            f" ROW_GROUP_SIZE {rows})",
            [list(map(str, lines))],
        )
        ((written,),) = database.rows("SELECT count(*) FROM read_parquet(?)", [str(fresh)])
    finally:
        database.close()
    if written != counted.events:
        raise ArchiveError(f"{fresh}: {written} rows of {counted.events} were written")


def _sync_file(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
