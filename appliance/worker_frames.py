"""Between the daemon and a worker process: what is said over their pipes, and how it is framed.

A frame is a 4-byte big-endian length and that many bytes of MessagePack (one tagged struct).
"""

import struct
from typing import IO, Any, Final, TypeVar

import msgspec

from appliance.emit.render import make_encodable
from appliance.emit.text import show_surrogates
from appliance.pipeline import Work
from appliance.schema import Checkpoint, Cursor, Event, RawRecord
from appliance.sources.journal import Own

_PREFIX: Final = struct.Struct(">I")
#: Far over what one batch's records can become.
MAX_FRAME_BYTES: Final = 1 << 30

T = TypeVar("T")


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """To the worker, first: the whole configuration, the sources that are its own, how far each
    has been read, which of the journal's entries are the daemon's, and whether there is a sentinel
    that wants candidates. `number` is the worker's, from 1."""

    config: str
    names: tuple[str, ...]
    checkpoints: list[Checkpoint]
    own: Own
    sentinel: bool = False
    number: int = 1


class Committed(msgspec.Struct, frozen=True, tag="committed"):
    """To the worker: its work is stored. `quiet` are the texts of its candidates, of this work or
    of earlier ones, that the sentinel found ordinary since (see sentinel/cache.key_text)."""

    quiet: tuple[bytes, ...] = ()


class Rewound(msgspec.Struct, frozen=True, tag="rewound"):
    """To the worker: its work is not stored and is to be done again."""


class Did(msgspec.Struct, frozen=True, tag="did"):
    """From the worker: one batch's work. It waits for the answer. Each of `events` is there once,
    however many rules it met; `owners` names the event of each of the work's detections by its
    place, `candidates` that of each of its candidates. `pack_work` makes one."""

    work: Work
    events: list[Event]
    owners: list[int]
    candidates: list[int] = []

    def unpack(self) -> Work:
        """The work as it was. Raises ValueError when owners and events don't fit."""
        events = self.events
        if any(not 0 <= owner < len(events) for owner in (*self.owners, *self.candidates)):
            raise ValueError("a detection of no event")
        pairs = zip(self.work.detections, self.owners, strict=True)
        detections = [msgspec.structs.replace(d, event=events[owner]) for d, owner in pairs]
        asked = zip(self.work.candidates, self.candidates, strict=True)
        candidates = [msgspec.structs.replace(c, event=events[owner]) for c, owner in asked]
        return msgspec.structs.replace(self.work, detections=detections, candidates=candidates)


class Facts(msgspec.Struct, frozen=True, tag="facts"):
    """From the worker, twice a second: how its sources and rules are, and why the archive can't be
    written, where it can't."""

    sources: dict[str, Any]
    rule_errors: dict[str, Any]
    archive_error: str = ""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """From the worker, last: why it can't go on."""

    reason: str


ToWorker = Begin | Committed | Rewound
FromWorker = Did | Facts | Failed

#: Stands in a packed detection for its event.
_NO_RECORD: Final = RawRecord(b"", "", "", "", Cursor("", "", 0, 0), 0.0)
_NO_EVENT: Final = Event("", 0.0, 0.0, "", (), (), _NO_RECORD, "")


def pack_work(work: Work) -> Did:
    """The work for the pipe. A record that is made to meet a hundred rules must not cross it a
    hundred times."""
    places: dict[int, int] = {}
    events: list[Event] = []

    def place(event: Event) -> int:
        number = places.setdefault(id(event), len(events))
        if number == len(events):
            events.append(event)
        return number

    owners = [place(found.event) for found in work.detections]
    asked = [place(candidate.event) for candidate in work.candidates]
    bare = [msgspec.structs.replace(found, event=_NO_EVENT) for found in work.detections]
    blank = [msgspec.structs.replace(candidate, event=_NO_EVENT) for candidate in work.candidates]
    packed = msgspec.structs.replace(work, detections=bare, candidates=blank)
    return Did(packed, events, owners, asked)


def write_frame(stream: IO[bytes], message: msgspec.Struct) -> None:
    """Write one message. Raises OSError."""
    try:
        body = msgspec.msgpack.encode(message)
    except UnicodeEncodeError:
        # File names that are no UTF-8: they are only shown from here on.
        body = msgspec.msgpack.encode(_show_names(message))
    stream.write(_PREFIX.pack(len(body)) + body)
    stream.flush()


def read_frame(stream: IO[bytes], decoder: msgspec.msgpack.Decoder[T]) -> T | None:
    """The next message; None at the end. Raises OSError, ValueError, msgspec.DecodeError."""
    prefix = stream.read(_PREFIX.size)
    if len(prefix) < _PREFIX.size:
        return None
    (length,) = _PREFIX.unpack(prefix)
    if length > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {length} bytes")
    body = stream.read(length)
    return decoder.decode(body) if len(body) == length else None


def _show_names(message: msgspec.Struct) -> msgspec.Struct:
    if isinstance(message, Did):
        rejected = [
            msgspec.structs.replace(
                r, record=show_record(r.record), reason=show_surrogates(r.reason)
            )
            for r in message.work.rejected
        ]
        hits = [
            msgspec.structs.replace(
                hit,
                event=msgspec.structs.replace(hit.event, record=show_record(hit.event.record)),
            )
            for hit in message.work.hits
        ]
        work = msgspec.structs.replace(message.work, rejected=rejected, hits=hits)
        events = [
            msgspec.structs.replace(event, record=show_record(event.record))
            for event in message.events
        ]
        return Did(work, events, message.owners, message.candidates)
    if isinstance(message, Facts):
        return msgspec.convert(make_encodable(msgspec.to_builtins(message)), Facts)
    if isinstance(message, Failed):
        return Failed(show_surrogates(message.reason))
    return message


def show_record(record: RawRecord) -> RawRecord:
    """The record with names that every encoding has: a file name that is no UTF-8 is only shown
    from here on, its id is worked out already."""
    return msgspec.structs.replace(
        record,
        path=show_surrogates(record.path),
        logical=show_surrogates(record.logical),
        cursor=msgspec.structs.replace(record.cursor, key=show_surrogates(record.cursor.key)),
    )
