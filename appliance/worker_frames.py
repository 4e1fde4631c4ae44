"""Between the daemon and a worker process: what is said over their pipes, and how it is framed.

A frame is a 4-byte big-endian length and that many bytes of MessagePack (one tagged struct).
"""

import struct
from typing import IO, Any, Final, TypeVar

import msgspec

from appliance.emit.text import show_surrogates
from appliance.pipeline import Work
from appliance.schema import Checkpoint, Detection, RawRecord
from appliance.sources.journal import Own

_PREFIX: Final = struct.Struct(">I")
#: Far over what one batch's records can become.
MAX_FRAME_BYTES: Final = 1 << 30

T = TypeVar("T")


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """To the worker, first: the whole configuration, the sources that are its own, how far each
    has been read, and which of the journal's entries are the daemon's."""

    config: str
    names: tuple[str, ...]
    checkpoints: list[Checkpoint]
    own: Own


class Committed(msgspec.Struct, frozen=True, tag="committed"):
    """To the worker: its work is stored."""


class Rewound(msgspec.Struct, frozen=True, tag="rewound"):
    """To the worker: its work is not stored and is to be done again."""


class Did(msgspec.Struct, frozen=True, tag="did"):
    """From the worker: one batch's work. It waits for the answer."""

    work: Work


class Facts(msgspec.Struct, frozen=True, tag="facts"):
    """From the worker, twice a second: how its sources and rules are."""

    sources: dict[str, Any]
    rule_errors: dict[str, Any]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """From the worker, last: why it can't go on."""

    reason: str


ToWorker = Begin | Committed | Rewound
FromWorker = Did | Facts | Failed


def write_frame(stream: IO[bytes], message: msgspec.Struct) -> None:
    """Write one message. Raises OSError."""
    try:
        body = msgspec.msgpack.encode(message)
    except UnicodeEncodeError:
        # File names that are no UTF-8: they are only shown from here on.
        if not isinstance(message, Did):
            raise
        body = msgspec.msgpack.encode(Did(_show_paths(message.work)))
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


def _show_paths(work: Work) -> Work:
    return msgspec.structs.replace(
        work,
        detections=[_show_detection(found) for found in work.detections],
        rejected=[
            msgspec.structs.replace(
                r, record=_show_record(r.record), reason=show_surrogates(r.reason)
            )
            for r in work.rejected
        ],
    )


def _show_detection(found: Detection) -> Detection:
    event = msgspec.structs.replace(found.event, record=_show_record(found.event.record))
    return msgspec.structs.replace(found, event=event)


def _show_record(record: RawRecord) -> RawRecord:
    return msgspec.structs.replace(
        record, path=show_surrogates(record.path), logical=show_surrogates(record.logical)
    )
