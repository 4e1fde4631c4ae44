"""Second station of the line, format `squid`: one line of Squid's native access log.

Squid configuration directive `logformat`, format `squid`: time, milliseconds, client, result and
status, bytes, method, URL, user, hierarchy code and peer, content type; with `log_mime_hdrs` the
headers of request and reply in brackets, and with an own format more fields behind.

Fields: timestamp (text), duration (milliseconds, text), c-ip, s-action (`TCP_MISS`), sc-status,
sc-bytes, cs-method, c-uri, cs-username, s-hierarchy (`HIER_DIRECT`), s-ip (the peer: the origin
server or a parent proxy), rs-content-type, extra, and message, the whole line. "-" is absent. The
URL is the client's choice: the fields behind it are read from the line's end.
"""

import re
from typing import Any, Final

from appliance.decode.utf8 import escape_bytes, has_bad_bytes, read_text, strip_frame
from appliance.errors import DecodeError
from appliance.schema import Decoded, RawRecord

#: Programs that write such lines to syslog.
PROGRAMS: Final = frozenset({"squid", "squid3"})

_HEAD: Final = re.compile(
    r"(\d{9,10}\.\d{1,6}) +(-?\d{1,15}) (\S{1,255}) ([A-Z][A-Z_]{1,63})/(\d{3}) (-?\d{1,18})"
    r" ([A-Za-z][\w-]{0,63}|-) "
)
_HIERARCHY: Final = re.compile(r"([A-Z][A-Z_]{2,63})/(\S{1,512})")
_NAMES: Final = (
    "timestamp", "duration", "c-ip", "s-action", "sc-status", "sc-bytes", "cs-method",
)  # fmt: skip


def decode_squid(record: RawRecord) -> Decoded:
    """Read the record as a line of Squid's native log. Raises DecodeError when it is none."""
    text = read_text(strip_frame(record.data))
    repaired = has_bad_bytes(text)
    if repaired:
        text = escape_bytes(text)
    return Decoded("squid", read_squid(text), repaired)


def is_squid(text: str) -> bool:
    """True for the head of a line of Squid's native log."""
    return text[:1].isdecimal() and _HEAD.match(text) is not None


def read_squid(message: str) -> dict[str, Any]:
    """The fields of one line without bad bytes (see the top). Raises DecodeError."""
    head = _HEAD.match(message)
    if head is None:
        raise DecodeError("not Squid's native format")
    fields: dict[str, Any] = {"message": message}
    fields.update(zip(_NAMES, head.groups(), strict=True))
    rest = message[head.end() :].rstrip()
    tail = rest.rsplit(" ", 3)
    if len(tail) == 4 and (found := _HIERARCHY.fullmatch(tail[2])):
        uri, user, _, kind = tail
    else:
        # More fields behind, or a line that was cut: from the left, where a URL has no blank.
        words = rest.split(" ", 4)
        found = _HIERARCHY.fullmatch(words[2]) if len(words) > 2 else None
        if found is None:
            fields["c-uri"] = rest
            return _drop_absent(fields)
        uri, user, _, kind = (*words[:4], "-")[:4]
        if len(words) > 4:
            fields["extra"] = words[4]
    fields["c-uri"] = uri
    fields["cs-username"] = user
    fields["s-hierarchy"], fields["s-ip"] = found[1], found[2]
    fields["rs-content-type"] = kind
    return _drop_absent(fields)


def _drop_absent(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in ("-", "")}
