"""First step of the line: one file (or standard input) as a stream of whole records.

The content decides how it is framed: EVTX by the `evtx` package, gzip by what is inside, JSON
documents by object, audit records by event, everything else by line, with the lines that name the
columns where the format has such. What is no log at all (binary, UTF-16) is rejected
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
from appliance.schema import RECORD_FORMATS, Cursor, RawRecord, Rejected
from appliance.sources.audit_framing import AuditFramer
from appliance.sources.framing import (
    BOM,
    GZIP_MAGIC,
    SNIFF_BYTES,
    Content,
    Frame,
    Framer,
    JsonFramer,
    LineFramer,
    is_undecided,
    sniff_content,
)
from appliance.sources.header_framing import HEADER_FORMATS, HeaderFramer

#: Bytes read at a time: large enough for speed, small against the memory of the box.
CHUNK_BYTES = 1 << 18

#: Contents that are framed in a way of their own also when the operator names them.
_FRAMED_FORMATS: dict[str, Content] = {"auditd": "auditd", "zeek": "zeek", "w3c": "w3c"}
_LINE_FORMATS = frozenset(RECORD_FORMATS) - {"auto", "json"} - _FRAMED_FORMATS.keys()
#: Contents that are lines of text, whatever way they are framed.
_LINED: frozenset[Content] = frozenset({"lines", "json", "columns", *_FRAMED_FORMATS.values()})
#: What reading a damaged or unfinished gzip raises.
_DAMAGES = (OSError, EOFError, zlib.error)

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
    path an operator can open, and the format its records are in ("auto" or a decoder's name).
    `columns` says that the first line names the columns of the others."""

    source: str
    key: str
    logical: str
    path: str
    format: str = "auto"
    columns: bool = False


class StreamBatch(msgspec.Struct):
    """Records and rejected records of one read, in the stream's order."""

    records: list[RawRecord]
    rejected: list[Rejected]


class Want(msgspec.Struct, frozen=True):
    """How much one read may give: about `records`, from about `data` bytes of the stream. `final`
    says that nothing will be added any more: an unfinished last record is then given out. `flush`
    says that nothing was added for a while: what is held to be joined with later lines is then."""

    records: int
    data: int = 8 << 20
    final: bool = False
    flush: bool = False


class Stream:
    """One file read front to back.

    `position` is the byte offset (of the decompressed bytes in gzip) or, in EVTX, the count of
    records behind what was given out or passed over. `overlong_from` is the offset at which a
    record over the cap began that is not at its end yet, else -1. `header` are the lines that name
    the columns of the records at `position`. `read` may be called for ever on a growing file;
    `more` says that the last one stopped for what was wanted, not for the end. `taken` counts the
    bytes read, `header_lines` the lines that became part of a header.
    """

    def __init__(
        self,
        name: StreamName,
        file: BufferedReader,
        limits: StreamLimits,
        position: int = 0,
        overlong_from: int = -1,
    ) -> None:
        self.name = name
        self.position = position
        self.overlong_from = overlong_from
        self.header = b""
        self.header_lines = 0
        self.taken = 0
        self.content: Content | None = None
        self.more = False
        self.ended = False
        self.refused = False
        self._file = file
        self._bytes: BufferedReader | gzip.GzipFile = file
        self._limits = limits
        self._framer: Framer | None = None
        self._events: Iterator[dict[str, object]] | None = None
        self.packed = sniff_content(os.pread(file.fileno(), 8, 0)) in ("evtx", "gzip")

    @property
    def pending(self) -> int:
        """Bytes of a record whose end has not come yet."""
        return self._framer.pending if self._framer else 0

    @property
    def held(self) -> int:
        """Bytes of whole lines that wait for others to be joined with."""
        return self._framer.held if self._framer else 0

    def fileno(self) -> int:
        """The open file's descriptor, for identity and size."""
        return self._file.fileno()

    def rewind(self, position: int, overlong_from: int = -1, header: bytes = b"") -> None:
        """Go back to where it stood before."""
        self.position = position
        self.overlong_from = overlong_from
        self.header = header
        self.content = None
        self.ended = self.refused = False
        self._events = None
        self._framer = None

    def close(self) -> None:
        """Close the file. What was not given out can be read again from `position`."""
        self._events = None
        self._bytes.close()
        self._file.close()

    def read(self, want: Want, received: float) -> StreamBatch:
        """Give what comes next, nothing when the file has no more now. Never raises for what the
        file contains."""
        batch = StreamBatch([], [])
        self.more = False
        if self.ended or not self._open_content(batch, received, final=want.final):
            return batch
        if self.content == "evtx":
            self._read_events(batch, want, received)
        else:
            self._read_bytes(batch, want, received)
        return batch

    def _open_content(self, batch: StreamBatch, received: float, *, final: bool) -> bool:
        """Find out what the file is, once it has bytes enough; False while it can't be read."""
        if self.content is not None:
            return True
        try:
            head = self._read_head()
        except _DAMAGES as error:
            if final:
                self._reject_file(batch, received, b"", f"not readable as gzip: {error}")
            return False
        if is_undecided(head) and not final:
            return False
        content = self._decide(head)
        if content in _NO_LOG:
            self._reject_file(batch, received, head[:256], _NO_LOG[content])
            self.refused = True
            return False
        if content == "evtx":
            return self._open_evtx(batch, received, head)
        if content == "columns" and self.position and not self.header:
            # The file was read as something else before.
            self.header = head.lstrip(b"\x00").removeprefix(BOM).lstrip().split(b"\n")[0].rstrip()
        self._framer = self._start_framer(content)
        if 0 <= self.overlong_from < self.position:
            self._bytes.seek(self.overlong_from)
            kept = self._bytes.read(
                min(self._limits.rejected_bytes, self.position - self.overlong_from)
            )
            self._framer.resume_overlong(self.overlong_from, kept)
        self._bytes.seek(self.position)
        return True

    def _start_framer(self, content: Content) -> Framer:
        """A framer for what the stream holds, at its position."""
        self.content = content
        cap, keep = self._limits.record_bytes, self._limits.rejected_bytes
        if form := HEADER_FORMATS.get(content):
            return HeaderFramer(self.position, cap, keep, form=form, header=self.header)
        if content == "auditd":
            return AuditFramer(self.position, cap, keep)
        return (JsonFramer if content == "json" else LineFramer)(self.position, cap, keep)

    def pass_over(self, end: int) -> None:
        """Stand at the offset `end`, with the header that is valid there. Only what has a header
        is read for it."""
        batch = StreamBatch([], [])
        opened = self._open_content(batch, 0.0, final=False)
        framer = self._framer
        if opened and isinstance(framer, HeaderFramer):
            while framer.position < end and not framer.broken:
                chunk = self._bytes.read1(min(CHUNK_BYTES, end - framer.position))
                if not chunk:
                    break
                framer.feed(chunk)
            self.rewind(end, header=framer.header)
        else:
            self.rewind(end)

    def _read_head(self) -> bytes:
        """First bytes of the stream, of what is inside when it is gzip."""
        self._file.seek(0)
        if not self.packed or os.pread(self.fileno(), 2, 0) != GZIP_MAGIC:
            return self._file.read(SNIFF_BYTES)
        self._bytes = gzip.GzipFile(fileobj=self._file)
        return self._bytes.read1(SNIFF_BYTES)

    def _decide(self, head: bytes) -> Content:
        content = sniff_content(head)
        if self._bytes is not self._file and content in ("gzip", "evtx"):
            return "binary"  # a packed pack or EVTX: unpack it first
        if self.position and content in _NO_LOG:
            # It was read before: what came over its beginning is no reason to stop.
            content = "lines"
        if content not in _LINED:
            return content
        if self.name.columns:
            return "columns"
        named = self.name.format
        if named == "auto":
            return content
        if named in _FRAMED_FORMATS:
            return _FRAMED_FORMATS[named]
        return "lines" if named in _LINE_FORMATS or content != "json" else content

    def _open_evtx(self, batch: StreamBatch, received: float, head: bytes) -> bool:
        try:
            # By the open file: its name may stand for another one by now.
            path = Path(f"/proc/self/fd/{self.fileno()}")
            self._events = _iterate_evtx(path, skip=self.position)
        except SourceError as error:
            self._reject_file(batch, received, head[:256], str(error))
            return False
        self.content = "evtx"
        return True

    def _read_bytes(self, batch: StreamBatch, want: Want, received: float) -> None:
        framer = self._framer
        if framer is None:
            return
        left = want.data
        while len(batch.records) + len(batch.rejected) < want.records and left > 0:
            try:
                # read1 gives what is good before it raises for what is damaged behind it.
                chunk = self._bytes.read1(min(CHUNK_BYTES, left))
            except _DAMAGES as error:
                if want.final:
                    self._take(batch, framer.finish(), received)
                    self._reject_file(batch, received, b"", f"cannot be read further: {error}")
                else:  # it may still be being written: take it up again where it is whole
                    self.rewind(self.position, self.overlong_from, self.header)
                return
            if not chunk:
                if want.final:
                    self._take(batch, framer.finish(), received)
                    self.ended = True
                elif want.flush and left == want.data:
                    self._take(batch, framer.flush(), received)
                self._note_place(framer)
                if isinstance(framer, HeaderFramer) and framer.broken:
                    self._refuse(batch, received, framer.broken)
                return
            left -= len(chunk)
            self.taken += len(chunk)
            self._take(batch, framer.feed(chunk), received)
            self._note_place(framer)
            if isinstance(framer, HeaderFramer) and framer.broken:
                self._refuse(batch, received, framer.broken)
                return
            if not framer.pending and not chunk.strip(b"\x00"):
                self._skip_hole()
        self.more = True

    def _note_place(self, framer: Framer) -> None:
        self.position = framer.position
        self.overlong_from = framer.overlong_from
        if isinstance(framer, HeaderFramer):
            self.header = framer.header
            self.header_lines += framer.header_lines
            framer.header_lines = 0

    def _refuse(self, batch: StreamBatch, received: float, reason: str) -> None:
        self._reject_file(batch, received, b"", reason)
        self.refused = True

    def _skip_hole(self) -> None:
        """Pass over a hole in a sparse file at once: it reads as NULs without end."""
        if self._bytes is not self._file or self._framer is None:
            return
        try:
            data = os.lseek(self.fileno(), self._file.tell(), os.SEEK_DATA)
        except OSError:  # no data behind, or a file system that does not tell
            return
        content = self.content
        self.rewind(data, header=self.header)
        self._framer = self._start_framer(
            "lines" if content is None or content == "json" else content
        )
        self._file.seek(data)

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
                header=frame.header,
            )
            if frame.truncated:
                cap = self._limits.record_bytes
                reason = f"record of {frame.truncated} bytes is longer than the cap of {cap}"
                batch.rejected.append(Rejected(record, "source", reason))
            else:
                batch.records.append(record)
        if frames:
            self.position = frames[-1].next

    def _read_events(self, batch: StreamBatch, want: Want, received: float) -> None:
        name = self.name
        left = want.data
        while self._events is not None and len(batch.records) + len(batch.rejected) < want.records:
            row = next(self._events, None)
            if row is None:
                self._events = None
                self.ended = True
                return
            error = row.get("error")
            if error and not want.final:  # it may still be being written: look again later
                self.rewind(self.position)
                return
            self.position += 1
            data = str(row.get("data", "")).encode("utf-8", "surrogateescape")
            record = RawRecord(
                data=data,
                source=name.source,
                path=name.path,
                logical=name.logical,
                cursor=Cursor(name.source, name.key, _record_number(row, self.position), 0),
                received=received,
                format="evtx",
            )
            if error:
                batch.rejected.append(Rejected(record, "source", str(error)))
            else:
                batch.records.append(record)
            left -= len(data)
            if left <= 0:
                break
        self.more = True

    def _reject_file(self, batch: StreamBatch, received: float, head: bytes, reason: str) -> None:
        """One Rejected for the whole rest of the file, which then counts as read."""
        batch.rejected.append(reject_stream(self.name, reason, received, head, self.position))
        self.ended = True


def reject_stream(
    name: StreamName, reason: str, received: float, head: bytes = b"", position: int = 0
) -> Rejected:
    """One Rejected for a whole stream, or for all of it behind `position`."""
    cursor = Cursor(name.source, name.key, position, position)
    record = RawRecord(head, name.source, name.path, name.logical, cursor, received, name.format)
    return Rejected(record, "source", reason)


def _record_number(row: dict[str, object], count: int) -> int:
    """The file's own record number, or our count where it can't be one (the file says what it
    likes: up to 64 bits, of which a database keeps 63)."""
    number = row.get("event_record_id")
    return number if isinstance(number, int) and 0 <= number < 1 << 63 else count


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


def open_stream(
    name: StreamName, limits: StreamLimits, position: int = 0, overlong_from: int = -1
) -> Stream:
    """Open the file at name.path for reading from `position`. Raises SourceError."""
    try:
        return Stream(name, Path(name.path).open("rb"), limits, position, overlong_from)
    except (OSError, ValueError) as error:
        raise SourceError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
