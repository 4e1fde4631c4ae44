"""Second station of the line, format `syslog3164` (RFC 3164 section 4) and what daemons write.

Read: with and without PRI, with and without host name, a year before or behind the day, fractions
of a second, BSD's `<auth.info>` or `<4.6>` behind the time, rsyslog's ISO 8601 time, tags
`name[pid]:`, `name(module)[pid]:`, `name:` and `name [pid]:`, and "last message repeated".

Fields: timestamp (text), facility, severity, hostname, appname, module (pam_unix of
`su(pam_unix)`), procid, message, and `json` when the message is a JSON object. What a record does
not hold is absent. Host and tag are read at their place from the left and never searched for, so
that no message can forge them.
"""

import re
from typing import Any, Final

from appliance.decode.syslog_parts import (
    FACILITIES,
    MAX_PRI,
    SEVERITIES,
    make_plain,
    name_priority,
    read_json_body,
)
from appliance.decode.utf8 import has_bad_bytes, read_text, strip_frame
from appliance.errors import DecodeError
from appliance.schema import Decoded, RawRecord

_PRI: Final = re.compile(r"<(\d{1,3})>(?:1 (?=\d{4}-|- ))?")
_BSD_TIME: Final = re.compile(
    r"(?:\d{4} )?(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) {1,2}\d{1,2}(?: \d{4})?"
    r" \d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?=[ :]|$)"
)
_ISO_TIME: Final = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?(?=\s|$)"
)
_BSD_PRIORITY: Final = re.compile(r"<(\w{1,10})\.(\w{1,10})> ")
_HOST: Final = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.:%/@-]{0,254}) +")
#: Cisco and others end the host with a colon; only an address may, or tags would be taken for it.
_ADDRESS_COLON: Final = re.compile(r"(\d{1,3}(?:\.\d{1,3}){3}): +")
_TAG: Final = re.compile(
    r"([A-Za-z0-9_/][A-Za-z0-9_./@+:-]{0,127}?)(?:\(([^()\s]{1,64})\))?"
    r"(?:\[([^\]\s]{1,32})\]:?| \[(\d{1,10})\]:|:)(?:\s|$)"
)
_REPEATED: Final = re.compile(r"(?:--- )?last message (?:buffered|repeated) \d")
#: Application logs with an ISO time have the level where syslog has the host.
_LEVELS: Final = frozenset(
    {"trace", "debug", "info", "notice", "warn", "warning", "error", "err", "crit", "critical"}
    | {"alert", "fatal", "severe"}
)


def decode_syslog3164(record: RawRecord) -> Decoded:
    """Read the record as RFC 3164 syslog. Raises DecodeError when it is empty.

    As in RFC 3164 section 4.3, what is no header is message.
    """
    text = read_text(strip_frame(record.data))
    if not text.strip("\0 \t"):
        raise DecodeError("empty record")
    fields = read_line(text)
    body, repaired = read_json_body(fields["message"])
    if body is not None:
        fields["json"] = body
    if has_bad_bytes(text):
        fields, repaired = make_plain(fields), True
    return Decoded("syslog3164", fields, repaired)


def is_syslog3164(text: str) -> bool:
    """True for text that has a PRI, or a time and a tag at their place. No time limit needed:
    only the first few hundred characters are looked at."""
    head = text[:700]
    match = _PRI.match(head)
    if match is not None and int(match[1]) <= MAX_PRI:
        return True
    if (time := _BSD_TIME.match(head)) is None and (time := _ISO_TIME.match(head)) is None:
        return False
    fields = read_line(head)
    if time.re is _ISO_TIME:
        host = fields.get("hostname", "")
        return "appname" in fields and host != "" and host.lower() not in _LEVELS
    return "appname" in fields or _REPEATED.match(fields["message"]) is not None


def read_line(text: str) -> dict[str, Any]:
    """The parts of one line, as told at the top. Never raises."""
    fields: dict[str, Any] = {}
    position = _read_priority(text, fields)
    time = _BSD_TIME.match(text, position) or _ISO_TIME.match(text, position)
    if time is not None:
        fields["timestamp"] = time[0]
        position = _skip_blanks(text, time.end())
        if priority := _BSD_PRIORITY.match(text, position):
            _name_bsd_priority(priority, fields)
            position = priority.end()
    fields["message"] = text[_read_origin(text, position, fields, framed=time is not None) :]
    return fields


def _read_priority(text: str, fields: dict[str, Any]) -> int:
    match = _PRI.match(text)
    if match is None or int(match[1]) > MAX_PRI:
        return 0
    fields["facility"], fields["severity"] = name_priority(int(match[1]))
    return match.end()


def _name_bsd_priority(match: re.Match[str], fields: dict[str, Any]) -> None:
    """FreeBSD's syslogd -v writes numbers and -vv names."""
    facility, severity = match[1], match[2]
    if facility.isdecimal() and severity.isdecimal():
        if int(facility) >= len(FACILITIES) or int(severity) >= len(SEVERITIES):
            return
        facility, severity = FACILITIES[int(facility)], SEVERITIES[int(severity)]
    fields["facility"], fields["severity"] = facility, severity


def _read_origin(text: str, position: int, fields: dict[str, Any], *, framed: bool) -> int:
    """Read host and tag; return where the message begins. Without a time (`framed` False) the
    first word is a host only when a tag follows."""
    if address := _ADDRESS_COLON.match(text, position):
        fields["hostname"] = address[1]
        position = address.end()
    elif tag := _TAG.match(text, position):
        return _read_tag(tag, fields)
    elif host := _HOST.match(text, position):
        tag = _TAG.match(text, host.end())
        if tag is None and not framed:
            return position
        fields["hostname"] = host[1]
        position = host.end()
    if tag := _TAG.match(text, position):
        return _read_tag(tag, fields)
    return position


def _read_tag(match: re.Match[str], fields: dict[str, Any]) -> int:
    fields["appname"] = match[1]
    if match[2]:
        fields["module"] = match[2]
    if pid := match[3] or match[4]:
        fields["procid"] = pid
    return match.end()


def _skip_blanks(text: str, position: int) -> int:
    # Some routers write a colon behind the time.
    if text.startswith(": ", position):
        position += 1
    while position < len(text) and text[position] == " ":
        position += 1
    return position
