"""Second station of the line, format `leef`: IBM's Log Event Extended Format, 1.0 and 2.0.

    LEEF:1.0|Vendor|Product|Version|EventID|src=192.0.2.1<TAB>usrName=ann
    LEEF:2.0|Vendor|Product|Version|EventID|^|src=192.0.2.1^usrName=ann

Source: IBM QRadar Log Event Extended Format (LEEF) guide, "LEEF event components". The delimiter
of 2.0 is one character or its code (`x5E`, `0x09`), may be empty or left out, and is then the tab,
as always in 1.0. A tab that rsyslog escaped (`#011`, its EscapeControlCharactersOnReceive) counts
as one where the line has no real tab.

Fields: leefVersion, vendor, product, version, eventId (the guide's names) and the attributes' own
names; names that come twice are treated as in CEF.
"""

import re
from typing import Any, Final

from appliance.decode.cef import MAX_PAIRS, put_value
from appliance.decode.utf8 import escape_bytes, has_bad_bytes, read_text, strip_frame
from appliance.errors import DecodeError
from appliance.schema import Decoded, RawRecord

_START: Final = re.compile(r"LEEF: ?(?P<version>[12]\.\d)\|")
_REST: Final = re.compile(r" ?(?P<version>[12]\.\d)\|")
_HEADER: Final = ("leefVersion", "vendor", "product", "version", "eventId")
_DELIMITER: Final = re.compile(r"(?:0?x(?P<code>[0-9A-Fa-f]{1,4})|(?P<char>[^|=])|)\|", re.I)
_MAX_PART: Final = 4096
_MAX_NAME: Final = 64
_ESCAPED_TAB: Final = "#011"


def is_leef(text: str) -> bool:
    """True for text that begins with `LEEF:`, its version and a bar."""
    return text.startswith("LEEF:") and _START.match(text) is not None


def is_leef_rest(message: str) -> bool:
    """True for a message whose `LEEF:` was read as syslog's tag."""
    return _REST.match(message) is not None


def decode_leef(record: RawRecord) -> Decoded:
    """Read the record as one LEEF event. Raises DecodeError."""
    text = read_text(strip_frame(record.data))
    if repaired := has_bad_bytes(text):
        text = escape_bytes(text)
    return Decoded("leef", read_leef(text), repaired)


def read_leef(message: str) -> dict[str, Any]:
    """The parts of one LEEF event. Raises DecodeError when its header is not whole."""
    start = _START.match(message) or _REST.match(message)
    if start is None:
        raise DecodeError("no LEEF: it does not begin with LEEF:1.0| or LEEF:2.0|")
    fields: dict[str, Any] = {"leefVersion": start["version"]}
    position = start.end()
    for name in _HEADER[1:]:
        end = message.find("|", position, position + _MAX_PART)
        if end < 0:
            raise DecodeError(f"LEEF's header ends before {name}")
        fields[name] = message[position:end].strip()
        position = end + 1
    delimiter = "\t"
    if start["version"] >= "2" and (given := _DELIMITER.match(message, position)):
        delimiter = chr(int(given["code"], 16)) if given["code"] else given["char"] or "\t"
        position = given.end()
    _put_attributes(fields, message[position:], delimiter)
    return fields


def _put_attributes(fields: dict[str, Any], text: str, delimiter: str) -> None:
    if delimiter == "\t" and "\t" not in text and _ESCAPED_TAB in text:
        delimiter = _ESCAPED_TAB
    held = value = ""
    for pair in text.split(delimiter, MAX_PAIRS):
        name, sign, content = pair.partition("=")
        name = name.strip()
        if sign and name and len(name) <= _MAX_NAME and not name.isspace():
            if held:
                put_value(fields, held, value.strip(), _HEADER)
            held, value = name, content
        elif held:
            # No name: the delimiter stood inside the value.
            value = f"{value}{delimiter}{pair}"
        elif pair.strip():
            fields["attributes"] = pair.strip()
    if held:
        put_value(fields, held, value.strip(), _HEADER)
