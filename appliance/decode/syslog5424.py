"""Second station of the line, format `syslog5424` (RFC 5424 section 6).

Fields: version, timestamp (text), facility, severity, hostname, appname, procid, msgid,
structured_data (element id -> parameter -> value, or a list of values when a parameter repeats),
message, and `json` when the message is a JSON object. A part that is "-" is absent.
"""

import re
from typing import Any, Final

from appliance.decode.syslog_parts import MAX_PRI, make_plain, name_priority, read_json_body
from appliance.decode.utf8 import has_bad_bytes, read_text, strip_frame
from appliance.errors import DecodeError
from appliance.schema import Decoded, RawRecord

HEADER: Final = re.compile(
    r"<(\d{1,3})>([1-9]\d{0,2}) (-|\d{4}-\d\d-\d\dT\S{8,40}) (\S{1,255}) (\S{1,255}) (\S{1,128})"
    r" (\S{1,128})(?: |$)"
)
#: Longer names than the RFC's 32 characters are in use, and harmless.
_ELEMENT: Final = re.compile(
    r'\[([^\s="\]]{1,256})((?:\s+[^\s="\]]{1,256}="(?:[^"\\]|\\.)*")*)\s*\]', re.DOTALL
)
_PARAM: Final = re.compile(r'\s+([^\s="\]]{1,256})="((?:[^"\\]|\\.)*)"', re.DOTALL)
#: Only these three are escapes (RFC 5424 section 6.3.3); any other backslash stays.
_ESCAPE: Final = re.compile(r'\\(["\\\]])')
_NAMES: Final = ("timestamp", "hostname", "appname", "procid", "msgid")


def decode_syslog5424(record: RawRecord) -> Decoded:
    """Read the record as RFC 5424 syslog. Raises DecodeError when the header is none.

    Structured data that is malformed is left in the message: rejecting the record for it would
    let whoever writes into it hide the rest.
    """
    text = read_text(strip_frame(record.data))
    match = HEADER.match(text)
    if match is None:
        raise DecodeError("no RFC 5424 syslog header")
    priority = int(match[1])
    if priority > MAX_PRI:
        raise DecodeError(f"syslog PRI {priority} is over {MAX_PRI}")
    fields: dict[str, Any] = {"version": int(match[2])}
    fields["facility"], fields["severity"] = name_priority(priority)
    for number, name in enumerate(_NAMES, start=3):
        if match[number] != "-":
            fields[name] = match[number]
    structured, end = _read_structured_data(text, match.end())
    if structured:
        fields["structured_data"] = structured
    message = text[end:].removeprefix(" ").removeprefix("\ufeff")
    fields["message"] = message
    body, repaired = read_json_body(message)
    if body is not None:
        fields["json"] = body
    if has_bad_bytes(text):
        fields, repaired = make_plain(fields), True
    return Decoded("syslog5424", fields, repaired)


def _read_structured_data(text: str, start: int) -> tuple[dict[str, Any], int]:
    """The structured data at `start` and where it ends; nothing and `start` when malformed."""
    if text.startswith("-", start):
        return {}, start + 1
    elements: dict[str, Any] = {}
    position = start
    while match := _ELEMENT.match(text, position):
        elements[match[1]] = _read_params(match[2])
        position = match.end()
    if position < len(text) and text[position] not in " \n":
        return {}, start
    return elements, position


def _read_params(text: str) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for name, raw in _PARAM.findall(text):
        value = _ESCAPE.sub(r"\1", raw)
        if name not in params:
            params[name] = value
        elif isinstance(params[name], list):
            params[name].append(value)
        else:
            params[name] = [params[name], value]
    return params
