"""Second station of the line, format `cef`: ArcSight's Common Event Format, revision 16 and later.

    CEF:0|Vendor|Product|Version|SignatureID|Name|Severity|src=192.0.2.1 msg=with blanks act=x

In the header `\\|` and `\\\\` are escapes, in the extension `\\=`, `\\\\`, `\\n` and `\\r`: see
ArcSight, "Common Event Format", sections "Header" and "Extension". A value goes on to the blank
before the next `name=`.

Fields: cefVersion, deviceVendor, deviceProduct, deviceVersion, deviceEventClassId, name, severity
(the specification's names of the header's parts) and the extension's own names. A name that comes
twice has the list of its values: which of them a sender that forgot to escape meant, nobody can
say. What a name of the extension has in common with the header's stands under `extension.NAME`.
"""

import re
from itertools import islice
from typing import Any, Final

from appliance.decode.utf8 import escape_bytes, has_bad_bytes, read_text, strip_frame
from appliance.errors import DecodeError
from appliance.schema import Decoded, RawRecord

_START: Final = re.compile(r"CEF: ?(?=\d{1,2}(?:\.\d{1,2})?\|)")
#: What remains where syslog took `CEF:` for its tag.
_REST: Final = re.compile(r" ?\d{1,2}(?:\.\d{1,2})?\|")
#: A syslog line without a tag.
_FRAMED: Final = re.compile(
    r"(?:<\d{1,3}>)?(?:[A-Z][a-z]{2} {1,2}\d{1,2} (?:\d{4} )?\d\d:\d\d:\d\d(?:\.\d{1,9})?"
    r"|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?)"
    r" [A-Za-z0-9_][A-Za-z0-9_.:%/@-]{0,254} (?:CEF: ?\d{1,2}(?:\.\d{1,2})?|LEEF: ?[12]\.\d)\|"
)
_PART: Final = re.compile(r"((?:[^|\\]|\\.)*+)\|", re.DOTALL)
_HEADER: Final = (
    "cefVersion", "deviceVendor", "deviceProduct", "deviceVersion",
    "deviceEventClassId", "name", "severity",
)  # fmt: skip
_KEY: Final = re.compile(r"(?:^|(?<=\s))([A-Za-z0-9_][A-Za-z0-9_.\-\[\]]{0,63})=")
_ESCAPE: Final = re.compile(r"\\([\\=|nr])")
_PLAIN: Final = {"n": "\n", "r": "\r"}
#: Longest part of the header in characters; the specification's longest name has 512.
_MAX_PART: Final = 4096
#: Most names of one extension. The last one's value is then all that follows.
MAX_PAIRS: Final = 512
#: Most values that one name keeps apart; what comes later is joined to the last.
MAX_VALUES: Final = 16


def is_cef(text: str) -> bool:
    """True for text that begins with `CEF:`, its version and a bar."""
    return text.startswith("CEF:") and _START.match(text) is not None


def is_cef_rest(message: str) -> bool:
    """True for a message whose `CEF:` was read as syslog's tag."""
    return _REST.match(message) is not None


def is_framed(text: str) -> bool:
    """True for a line of syslog with time and host and no tag, whose message is CEF or LEEF."""
    return text.find("EF:", 0, 400) >= 0 and _FRAMED.match(text) is not None


def decode_cef(record: RawRecord) -> Decoded:
    """Read the record as one CEF event. Raises DecodeError."""
    text = read_text(strip_frame(record.data))
    if repaired := has_bad_bytes(text):
        text = escape_bytes(text)
    return Decoded("cef", read_cef(text), repaired)


def read_cef(message: str) -> dict[str, Any]:
    """The parts of one CEF event. Raises DecodeError when its header is not whole."""
    start = _START.match(message)
    position = start.end() if start else 0
    if start is None and not is_cef_rest(message):
        raise DecodeError("no CEF: it does not begin with CEF:0|")
    fields: dict[str, Any] = {}
    for name in _HEADER:
        part = _PART.match(message, position, position + _MAX_PART)
        if part is None:
            # Some senders leave out the bar when there is no extension.
            rest = message[position : position + _MAX_PART]
            if name != "severity" or len(rest) > 16:
                raise DecodeError(f"CEF's header ends before {name}")
            fields[name] = rest.strip()
            return fields
        fields[name] = _unescape(part[1]).strip()
        position = part.end()
    _put_extension(fields, message[position:])
    return fields


def _put_extension(fields: dict[str, Any], text: str) -> None:
    held: re.Match[str] | None = None
    for key in islice(_KEY.finditer(text), MAX_PAIRS):
        if held is not None:
            put_value(fields, held[1], _unescape(text[held.end() : key.start()].strip()), _HEADER)
        elif lead := text[: key.start()].strip():
            fields["extension"] = lead
        held = key
    if held is not None:
        put_value(fields, held[1], _unescape(text[held.end() :].strip()), _HEADER)
    elif text.strip():
        fields["extension"] = text.strip()


def put_value(fields: dict[str, Any], name: str, value: str, header: tuple[str, ...]) -> None:
    """Put a value of the extension into `fields`; a name that is there already gets a list."""
    if name in header:
        name = f"extension.{name}"
    if name not in fields:
        fields[name] = value
        return
    held = fields[name]
    values = held if isinstance(held, list) else [held]
    if len(values) < MAX_VALUES:
        fields[name] = [*values, value]
    else:
        fields[name] = [*values[:-1], f"{values[-1]} {value}"]


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda match: _PLAIN.get(match[1], match[1]), text)
