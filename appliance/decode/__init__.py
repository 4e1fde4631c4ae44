"""Second station of the line: a record's bytes become a dict, or a DecodeError with its reason.

source -> **decode** -> normalise -> detect. One file a format; the table below is all that can
run. Nothing here knows a product: names are those of the record itself.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from appliance.decode.access import HAPROXY as HAPROXY_PROGRAMS
from appliance.decode.access import PROGRAMS as ACCESS_PROGRAMS
from appliance.decode.access import (
    decode_access,
    is_access,
    is_haproxy,
    read_access,
    read_haproxy,
)
from appliance.decode.access_error import PROGRAMS as ERROR_PROGRAMS
from appliance.decode.access_error import (
    decode_access_error,
    is_access_error,
    is_access_error_message,
    read_access_error,
)
from appliance.decode.auditd import PROGRAMS as AUDIT_PROGRAMS
from appliance.decode.auditd import (
    decode_auditd,
    is_audit_message,
    is_auditd,
    is_journal_message,
    read_auditd,
)
from appliance.decode.bind import decode_bind, is_bind, is_bind_message, read_bind
from appliance.decode.cef import decode_cef, is_cef, is_cef_rest, is_framed, read_cef
from appliance.decode.evtx_record import decode_evtx
from appliance.decode.journal import decode_journal
from appliance.decode.json_object import decode_json
from appliance.decode.leef import decode_leef, is_leef, is_leef_rest, read_leef
from appliance.decode.netfilter import decode_netfilter, is_netfilter, is_packet, read_netfilter
from appliance.decode.shipped import find_line
from appliance.decode.squid import PROGRAMS as SQUID_PROGRAMS
from appliance.decode.squid import decode_squid, is_squid, read_squid
from appliance.decode.syslog3164 import decode_syslog3164, is_syslog3164
from appliance.decode.syslog5424 import HEADER, decode_syslog5424
from appliance.decode.text import decode_text
from appliance.decode.unbound import (
    decode_unbound,
    is_dnsmasq,
    is_unbound,
    is_unbound_message,
    read_dnsmasq,
    read_unbound,
)
from appliance.decode.utf8 import read_text, strip_frame
from appliance.decode.w3c import decode_w3c, is_w3c_header
from appliance.decode.zeek import decode_zeek, is_zeek_header
from appliance.errors import DecodeError
from appliance.schema import Decoded, RawRecord, name_program

Decoder = Callable[[RawRecord], Decoded]
#: The configuration describes no format.
NO_CUSTOM: Final[Mapping[str, Decoder]] = MappingProxyType({})

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
    "bind": decode_bind,
    "unbound": decode_unbound,
    "netfilter": decode_netfilter,
    "cef": decode_cef,
    "leef": decode_leef,
    "journal": decode_journal,
    "zeek": decode_zeek,
    "access": decode_access,
    "access_error": decode_access_error,
    "squid": decode_squid,
    "w3c": decode_w3c,
    "auditd": decode_auditd,
}

#: Formats whose stream has header lines that name the columns, with what tells them by these lines.
#: Asked first: what a record of such a stream looks like is part of its values.
HEADERS: Final[tuple[tuple[str, Callable[[bytes], bool]], ...]] = (
    ("zeek", is_zeek_header),
    ("w3c", is_w3c_header),
)

#: Formats of one line that can be told by how it begins, in the order in which they are asked, with
#: what tells them; it gets the head of the line without its end. Asked before syslog and text.
LOOKS: Final[tuple[tuple[str, Callable[[str], bool]], ...]] = (
    ("cef", is_cef),
    ("leef", is_leef),
    ("auditd", is_auditd),
    ("syslog3164", is_framed),
    ("netfilter", is_netfilter),
    ("bind", is_bind),
    ("unbound", is_unbound),
    ("access", is_access),
    ("access_error", is_access_error),
    ("squid", is_squid),
)

#: Formats whose records travel as the message of a syslog line, with what tells them and what reads
#: them, and the programs that write them; None is any program (the normaliser refuses what claims
#: to be a program of the host itself).
INNER: Final[tuple[Inner, ...]] = (
    Inner("bind", is_bind_message, read_bind, frozenset({"named", "named-sdb", "bind", "bind9"})),
    Inner("unbound", is_unbound_message, read_unbound, frozenset({"unbound"})),
    Inner("dnsmasq", is_dnsmasq, read_dnsmasq, frozenset({"dnsmasq", "pihole-ftl"})),
    Inner("auditd", is_audit_message, read_auditd, AUDIT_PROGRAMS),
    Inner("auditd", is_journal_message, read_auditd, frozenset({"audit"})),
    Inner("netfilter", is_packet, read_netfilter, frozenset({"kernel", "ulogd"})),
    Inner("access", is_access, read_access, ACCESS_PROGRAMS),
    Inner("access", is_haproxy, read_haproxy, HAPROXY_PROGRAMS),
    Inner("access_error", is_access_error_message, read_access_error, ERROR_PROGRAMS),
    Inner("squid", is_squid, read_squid, SQUID_PROGRAMS),
    Inner("cef", is_cef, read_cef),
    Inner("cef", is_cef_rest, read_cef, frozenset({"cef"})),
    Inner("leef", is_leef, read_leef),
    Inner("leef", is_leef_rest, read_leef, frozenset({"leef"})),
)

#: Formats of which a wrapped line never is.
_NEVER_SHIPPED: Final = frozenset({"json", "evtx", "text"})
#: How far `detect_format` looks, in bytes.
_HEAD: Final = 4096


def decode(record: RawRecord, custom: Mapping[str, Decoder] = NO_CUSTOM) -> Decoded:
    """Read one record in its configured format, or in the one it looks like when that is "auto".
    `custom` are the decoders of formats that the configuration describes, by name.

    Raises DecodeError, with a reason fit for an operator, and nothing else.
    """
    if record.format == "auto":
        return _decode_guessed(record)
    return _decode_as(record.format, record, custom)


def _decode_guessed(record: RawRecord) -> Decoded:
    for name, tells in HEADERS if record.header else ():
        if tells(record.header):
            return _decode_as(name, record)
    name = detect_format(record.data)
    if name == "evtx":
        # Its marks are words that any object may hold.
        try:
            return _decode_as(name, record)
        except DecodeError:
            name = "json"
    return _decode_as(name, record)


def _decode_as(name: str, record: RawRecord, custom: Mapping[str, Decoder] = NO_CUSTOM) -> Decoded:
    decoder = FORMATS.get(name) or custom.get(name)
    if decoder is None:
        raise DecodeError(f"unknown format {name!r}; known: {', '.join((*FORMATS, *custom))}")
    try:
        decoded = decoder(record)
    except DecodeError as error:
        if record.truncated:
            raise DecodeError(f"{error} (record of {record.truncated} bytes was cut)") from None
        raise
    if name in SYSLOG_FORMATS and (inner := read_inner(decoded)) is not None:
        return msgspec.structs.replace(decoded, inner=inner)
    if name == "json" and (line := find_line(decoded.fields)) is not None:
        return msgspec.structs.replace(decoded, inner=_read_shipped(line, record))
    return decoded


def _read_shipped(line: str, record: RawRecord) -> Decoded | None:
    """The line of a log file that a shipper wrapped, when it is of a format that can be told.
    Objects are not: what a program prints must not choose which product's event it is."""
    data = line.encode("utf-8", "surrogatepass")
    name = detect_format(data)
    if name in _NEVER_SHIPPED:
        return None
    try:
        return FORMATS[name](msgspec.structs.replace(record, data=data, header=b""))
    except DecodeError:
        return None


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
                continue
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
