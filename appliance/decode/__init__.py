"""Second station of the line: a record's bytes become a dict, or a DecodeError with its reason.

source -> **decode** -> normalise -> detect. One file a format; the table below is all that can
run. Nothing here knows a product: names are those of the record itself.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from appliance.decode.evtx_record import decode_evtx
from appliance.decode.json_object import decode_json
from appliance.decode.syslog3164 import decode_syslog3164, is_syslog3164
from appliance.decode.syslog5424 import HEADER, decode_syslog5424
from appliance.decode.text import decode_text
from appliance.decode.utf8 import read_text, strip_frame
from appliance.errors import DecodeError
from appliance.schema import Decoded, RawRecord, name_program

Decoder = Callable[[RawRecord], Decoded]

#: Formats whose records have a header of syslog's parts and a message.
SYSLOG_FORMATS: Final = frozenset({"syslog3164", "syslog5424", "journal"})


class Inner(msgspec.Struct, frozen=True):
    """A format that travels inside syslog. `read` gets the message and gives the fields of the
    record or raises DecodeError; `looks` is asked first and must be quick."""

    format: str
    looks: Callable[[str], bool]
    read: Callable[[str], dict[str, Any]]
    programs: frozenset[str] | None = None


#: Every format that a record can have, by name.
FORMATS: Final[dict[str, Decoder]] = {
    "json": decode_json,
    "evtx": decode_evtx,
    "syslog5424": decode_syslog5424,
    "syslog3164": decode_syslog3164,
    "text": decode_text,
}

#: Formats of one line that can be told by how it begins, in the order in which they are asked, with
#: what tells them; it gets the head of the line without its end. Asked before syslog and text.
LOOKS: Final[tuple[tuple[str, Callable[[str], bool]], ...]] = ()

#: Formats whose records travel as the message of a syslog line, with what tells them and what reads
#: them, and the programs that write them; None is any program (the normaliser refuses what claims
#: to be a program of the host itself).
INNER: Final[tuple[Inner, ...]] = ()

#: How far `detect_format` looks, in bytes.
_HEAD: Final = 4096


def decode(record: RawRecord) -> Decoded:
    """Read one record in its configured format, or in the one it looks like when that is "auto".

    Raises DecodeError, with a reason fit for an operator, and nothing else.
    """
    if record.format == "auto":
        return _decode_guessed(record)
    return _decode_as(record.format, record)


def _decode_guessed(record: RawRecord) -> Decoded:
    name = detect_format(record.data)
    if name == "evtx":
        # Its marks are words that any object may hold.
        try:
            return _decode_as(name, record)
        except DecodeError:
            name = "json"
    return _decode_as(name, record)


def _decode_as(name: str, record: RawRecord) -> Decoded:
    decoder = FORMATS.get(name)
    if decoder is None:
        raise DecodeError(f"unknown format {name!r}; known: {', '.join(FORMATS)}")
    try:
        decoded = decoder(record)
    except DecodeError as error:
        if record.truncated:
            raise DecodeError(f"{error} (record of {record.truncated} bytes was cut)") from None
        raise
    if name in SYSLOG_FORMATS and (inner := read_inner(decoded)) is not None:
        return msgspec.structs.replace(decoded, inner=inner)
    return decoded


def read_inner(decoded: Decoded) -> Decoded | None:
    """What the message of a syslog record holds, when that is a record of another format; None for
    an ordinary message. Raises nothing: a message that only looks so stays a message."""
    fields = decoded.fields
    message = fields.get("message")
    if not isinstance(message, str) or not message or "json" in fields:
        return None
    program = name_program(fields.get("appname", ""))
    for inner in INNER:
        if (inner.programs is None or program in inner.programs) and inner.looks(message):
            try:
                return Decoded(inner.format, inner.read(message), decoded.repaired)
            except DecodeError:
                return None
    return None


def detect_format(data: bytes) -> str:
    """The name of the format that the bytes look like; "text" when like none. Never raises."""
    data = strip_frame(data)
    head = data.lstrip()[:_HEAD]
    first = head[:1]
    if first == b"{":
        if head.find(b'"Event"', 0, 64) > 0 and head.find(b'"System"', 0, 512) > 0:
            return "evtx"
        # A text line may begin with a brace; JSON goes on with a name or ends at once.
        return "json" if head[1:].lstrip()[:1] in (b'"', b"}", b"") else "text"
    if first == b"[" and head[1:].lstrip()[:1] == b"{":
        return "json"
    text = read_text(data[:_HEAD])
    if first == b"<" and HEADER.match(text):
        return "syslog5424"
    for name, looks in LOOKS:
        if looks(text):
            return name
    return "syslog3164" if is_syslog3164(text) else "text"
