"""Second station of the line, format `syslog5424` (RFC 5424 section 6).

Fields: version, timestamp (text), facility, severity, hostname, appname, procid, msgid,
structured_data (element id -> parameter -> value, or a list of values when a parameter repeats),
message, and `json` when the message is a JSON object. A part that is "-" is absent.
"""

import re
from itertools import islice
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
_ELEMENT_FORM: Final = (
    r'\[([^\s="\]]{1,256}+)((?:\s++[^\s="\]]{1,256}+="(?:[^"\\]++|\\.)*+")*+)\s*+\]'
)
_ELEMENT: Final = re.compile(_ELEMENT_FORM, re.DOTALL)
_MORE_ELEMENTS: Final = re.compile(f"(?:{_ELEMENT_FORM})*+", re.DOTALL)
#: Most elements of a record, and parameters of an element, that are read one by one. Senders have
#: a few; what is beyond stays one text under the name REST.
MAX_ELEMENTS: Final = 256
MAX_PARAMS: Final = 512
REST: Final = "_rest"
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
    for _ in range(MAX_ELEMENTS):
        if (match := _ELEMENT.match(text, position)) is None:
            break
        _read_params(match[2], elements.setdefault(match[1], {}))
        position = match.end()
    if (more := _MORE_ELEMENTS.match(text, position)) and more[0]:
        _add_param(elements.setdefault(REST, {}), REST, more[0])
        position = more.end()
    if position < len(text) and text[position] not in " \n":
        return {}, start
    return elements, position


def _read_params(text: str, params: dict[str, Any]) -> None:
    """Add the parameters in `text`. An element id that comes twice (the RFC forbids it) adds to the
    first: neither may hide the other."""
    position = 0
    for match in islice(_PARAM.finditer(text), MAX_PARAMS):
        position = match.end()
        _add_param(params, match[1], _ESCAPE.sub(r"\1", match[2]))
    if rest := text[position:].strip():
        _add_param(params, REST, rest)


def _add_param(params: dict[str, Any], name: str, value: str) -> None:
    if name not in params:
        params[name] = value
    elif isinstance(params[name], list):
        params[name].append(value)
    else:
        params[name] = [params[name], value]
