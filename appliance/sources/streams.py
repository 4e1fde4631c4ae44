"""First step of the line: one file (or standard input) as a stream of whole records.

The content decides how it is framed: EVTX by the `evtx` package, gzip by what is inside, JSON
documents by object, everything else by line. What is no log at all (binary, UTF-16) is rejected
once, with its reason. A stream can be closed and taken up again at `position`.
"""

import gzip
import os
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import cast

import msgspec
from evtx import PyEvtxParser

from appliance.errors import SourceError
from appliance.schema import Cursor, RawRecord, Rejected
from appliance.sources.framing import (
    SNIFF_BYTES,
    Content,
    Frame,
    Framer,
    JsonFramer,
    LineFramer,
    sniff_content,
)

#: Bytes read at a time: large enough for speed, small against the memory of the box.
CHUNK_BYTES = 1 << 18

_NO_LOG: dict[Content, str] = {
    "binary": "binary file: no log format that this version reads",
    "utf16": "UTF-16 text: convert it to UTF-8 (for example: iconv -f UTF-16 -t UTF-8)",
}


class StreamLimits(msgspec.Struct, frozen=True):
    """`record_bytes` is the longest record; of a longer one `rejected_bytes` are kept."""

    record_bytes: int = 1 << 20
    rejected_bytes: int = 1 << 16


class StreamName(msgspec.Struct, frozen=True):
    """Who a stream is: its source, its key in the source, the name that enters record ids, the
    path an operator can open, and the format its records are in ("auto" or a decoder's name)."""

    source: str
    key: str
    logical: str
    path: str
    format: str = "auto"


class StreamBatch(msgspec.Struct):
    """Records and rejected records of one read, in the stream's order."""

    records: list[RawRecord]
    rejected: list[Rejected]


class Stream:
    """One file read front to back.

    `position` is the byte offset (of the decompressed bytes in gzip) or, in EVTX, the count of
    records behind the last record given out. `read` may be called for ever on a growing file.
    """

    def __init__(
        self, name: StreamName, file: BufferedReader, limits: StreamLimits, position: int = 0
    ) -> None:
        self.name = name
        self.position = position
        self.content: Content | None = None
        self._file = file
        self._bytes: BufferedReader | gzip.GzipFile = file
        self._limits = limits
        self._framer: Framer | None = None
        self._events: Iterator[dict[str, object]] | None = None
        self._ended = False
        self.refused = False

    @property
    def packed(self) -> bool:
        """True for EVTX and gzip, which are read as a whole once nobody writes to them."""
        head = os.pread(self.fileno(), 8, 0)
        return sniff_content(head) in ("evtx", "gzip")

    @property
    def ended(self) -> bool:
        """True when nothing more can come of this stream as it is now."""
        return self._ended

    @property
    def pending(self) -> int:
        """Bytes of a record whose end has not come yet."""
        return self._framer.pending if self._framer else 0

    def fileno(self) -> int:
        """The open file's descriptor, for identity and size."""
        return self._file.fileno()

    def rewind(self, position: int) -> None:
        """Go back to a position that was reached before."""
        self.position = position
        self.content = None
        self._events = None
        self._framer = None
        self._ended = False

    def close(self) -> None:
        """Close the file. What was not given out can be read again from `position`."""
        self._events = None
        self._bytes.close()
        self._file.close()

    def read(self, limit: int, received: float, *, final: bool) -> StreamBatch:
        """Give about `limit` records more, fewer (or none) when the file has no more now.

        `final` says that nothing will be added: an unfinished last record is then given out.
        Never raises for what the file contains.
        """
        batch = StreamBatch([], [])
        if self._ended or not self._open_content(batch, received, final=final):
            return batch
        if self.content == "evtx":
            self._read_events(batch, limit, received)
        else:
            self._read_bytes(batch, limit, received, final=final)
        return batch

    def _open_content(self, batch: StreamBatch, received: float, *, final: bool) -> bool:
        """Find out what the file is, once it has bytes; False while nothing can be read."""
        if self.content is not None:
            return True
        try:
            head, inner = self._sniff(final=final)
        except (OSError, EOFError, zlib.error) as error:
            self._reject_file(batch, received, b"", f"not readable as gzip: {error}")
            return False
        if head is None:
            return False
        if self.position and inner in _NO_LOG:
            inner = "lines"  # it was read before: what came over its beginning is no reason to stop
        self.content = inner
        if inner in _NO_LOG:
            self._reject_file(batch, received, head[:256], _NO_LOG[inner])
            self.refused = True
            return False
        if inner == "evtx":
            return self._open_evtx(batch, received, head)
        kind = JsonFramer if inner == "json" else LineFramer
        limits = self._limits
        self._framer = kind(self.position, limits.record_bytes, limits.rejected_bytes)
        self._bytes.seek(self.position)
        return True

    def _sniff(self, *, final: bool) -> tuple[bytes | None, Content]:
        self._file.seek(0)
        head = self._file.read(SNIFF_BYTES)
        if not head and not final:
            return None, "lines"
        content = sniff_content(head)
        if content == "gzip":
            self._file.seek(0)
            self._bytes = gzip.GzipFile(fileobj=self._file)
            head = self._bytes.read1(SNIFF_BYTES)
            content = sniff_content(head)
            if content in ("gzip", "evtx"):  # a packed pack or EVTX: unpack it first
                content = "binary"
        return head, content

    def _open_evtx(self, batch: StreamBatch, received: float, head: bytes) -> bool:
        try:
            self._events = _iterate_evtx(Path(self.name.path), skip=self.position)
        except SourceError as error:
            self._reject_file(batch, received, head[:256], str(error))
            return False
        return True

    def _read_bytes(self, batch: StreamBatch, limit: int, received: float, *, final: bool) -> None:
        framer = self._framer
        if framer is None:
            return
        while len(batch.records) < limit:
            try:
                # read1 gives what is good before it raises for what is damaged behind it.
                chunk = self._bytes.read1(CHUNK_BYTES)
            except (OSError, EOFError, zlib.error) as error:
                self._take(batch, framer.finish(), received)
                self._reject_file(batch, received, b"", f"cannot be read further: {error}")
                return
            if not chunk:
                if final:
                    self._take(batch, framer.finish(), received)
                    self._ended = True
                return
            self._take(batch, framer.feed(chunk), received)

    def _take(self, batch: StreamBatch, frames: list[Frame], received: float) -> None:
        name = self.name
        for frame in frames:
            record = RawRecord(
                data=frame.data,
                source=name.source,
                path=name.path,
                logical=name.logical,
                cursor=Cursor(name.source, name.key, frame.position, frame.next),
                received=received,
                format=name.format,
                truncated=frame.truncated,
            )
            if frame.truncated:
                cap = self._limits.record_bytes
                reason = f"record of {frame.truncated} bytes is longer than the cap of {cap}"
                batch.rejected.append(Rejected(record, "source", reason))
            else:
                batch.records.append(record)
        if frames:
            self.position = frames[-1].next

    def _read_events(self, batch: StreamBatch, limit: int, received: float) -> None:
        name = self.name
        while self._events is not None and len(batch.records) < limit:
            row = next(self._events, None)
            if row is None:
                self._events = None
                self._ended = True
                return
            self.position += 1
            error = row.get("error")
            number = row.get("event_record_id", self.position)
            record = RawRecord(
                data=str(row.get("data", "")).encode("utf-8", "surrogateescape"),
                source=name.source,
                path=name.path,
                logical=name.logical,
                cursor=Cursor(name.source, name.key, int(cast(int, number)), self.position),
                received=received,
                format="evtx",
            )
            if error:
                batch.rejected.append(Rejected(record, "source", str(error)))
            else:
                batch.records.append(record)

    def _reject_file(self, batch: StreamBatch, received: float, head: bytes, reason: str) -> None:
        """One Rejected for the whole rest of the file, which then counts as read."""
        name = self.name
        cursor = Cursor(name.source, name.key, self.position, self.position)
        record = RawRecord(head, name.source, name.path, name.logical, cursor, received)
        batch.rejected.append(Rejected(record, "source", reason))
        self._ended = True


def _iterate_evtx(path: Path, skip: int) -> Iterator[dict[str, object]]:
    """Records of an EVTX file as `{event_record_id, timestamp, data}`, `data` being JSON text; a
    record that can't be parsed as `{error}`. Raises SourceError when the file itself can't be.

    The parser is native code; its panics are no Exception, so BaseException is its doorway.
    """
    try:
        rows = iter(PyEvtxParser(str(path), number_of_threads=1).records_json())
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        raise SourceError(f"not readable as EVTX: {error}") from error

    def give() -> Iterator[dict[str, object]]:
        count = 0
        failures = 0
        while True:
            try:
                row = cast(dict[str, object], next(rows))
                failures = 0
            except StopIteration:
                return
            except BaseException as error:
                if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
                    raise
                row = {"error": f"EVTX record {count + 1} is not readable: {error}"}
                failures += 1
                if failures > 1000:  # the parser does not get past this place
                    return
            count += 1
            if count > skip:
                yield row

    return give()


def open_stream(name: StreamName, limits: StreamLimits, position: int = 0) -> Stream:
    """Open the file at name.path for reading from `position`. Raises SourceError."""
    try:
        return Stream(name, Path(name.path).open("rb"), limits, position)
    except OSError as error:
        raise SourceError(f"{name.path}: {error.strerror or error}") from error
