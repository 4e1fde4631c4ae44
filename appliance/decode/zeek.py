r"""Second station of the line, format `zeek`: one line of a Zeek log in its tab-separated form.

Zeek documentation, "Zeek Log Formats", ASCII writer. What the columns are stands at the top of each
file, in lines that begin with `#`: `#separator` (in escaped form, a tab as `\x09`),
`#set_separator`, `#empty_field`, `#unset_field`, `#path` (the log's name), `#fields`, `#types`. The
source keeps them and gives them with each record (RawRecord.header). Zeek writes a separator, a
control character or a backslash inside a value as `\xNN` or `\\`, so that a value can be no column.

Fields: one a column under Zeek's own name, typed as `#types` says (time and interval in seconds,
count, int and port, bool, set and vector as lists, everything else text), and `_path`, which is
what Zeek's JSON writer calls the log's name. An unset column is absent, an empty one is "" or an
empty list. A value that is none of its type (a masked time) stays text.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import msgspec

from appliance.decode.json_object import decode_json
from appliance.decode.utf8 import escape_bytes, has_bad_bytes, read_text, strip_frame
from appliance.errors import DecodeError
from appliance.schema import Decoded, RawRecord

#: Longest header in bytes, and most columns: Zeek's own logs have up to 2 kB and 50.
MAX_HEADER: Final = 65_536
MAX_COLUMNS: Final = 1024
#: Headers remembered at once: a Zeek host writes some forty logs.
_CACHE: Final = 256

_ESCAPE: Final = re.compile(r"\\(?:\\|x([0-9A-Fa-f]{2}))")
_CONTAINER: Final = re.compile(r"(?:set|vector|table)\[(\w{1,32})\]")
#: A number that 64 bits hold has at most 20 digits.
_MAX_DIGITS: Final = 20

#: Reads the text of one column.
_Read = Callable[[str], Any]


class _Columns(msgspec.Struct, frozen=True):
    """What a header says of the lines below it. `readers` has None for text, which is most."""

    separator: str
    unset: str
    path: str
    names: tuple[str, ...]
    readers: tuple[_Read | None, ...]
    read_text: _Read


def decode_zeek(record: RawRecord) -> Decoded:
    """Read the record as one line of the log that its header describes, or as JSON where it has
    none: who names this format may have either writer. Raises DecodeError."""
    if not record.header and record.data[:1] == b"{":
        return decode_json(record)
    columns = _read_header(record.header)
    text = read_text(strip_frame(record.data))
    if text[:1] == "#":
        raise DecodeError("a line of a Zeek log's header or end, not a record")
    values = text.split(columns.separator)
    if len(values) != len(columns.names):
        raise DecodeError(
            f"Zeek line of {len(values)} columns, its header has {len(columns.names)}"
        )
    fields: dict[str, Any] = {"_path": columns.path} if columns.path else {}
    unset, read_plain = columns.unset, columns.read_text
    for name, read, value in zip(columns.names, columns.readers, values, strict=True):
        if value != unset:
            fields[name] = read_plain(value) if read is None else read(value)
    return Decoded("zeek", fields, has_bad_bytes(text))


def is_zeek_header(header: bytes) -> bool:
    """True for the header lines of a Zeek log: they say how its columns are separated, or name
    them behind a tab (a W3C header names them behind a colon)."""
    return header.startswith(b"#separator ") or b"#fields\t" in header


@lru_cache(maxsize=_CACHE)
def _read_header(header: bytes) -> _Columns:
    """What the header lines say; of a line that occurs twice (a log that was appended to after a
    restart) the last counts. Raises DecodeError when they name no columns."""
    if not header:
        raise DecodeError("Zeek line without the #fields line of its log")
    if len(header) > MAX_HEADER:
        raise DecodeError(f"Zeek header of {len(header)} bytes is over the limit of {MAX_HEADER}")
    separator = "\t"
    parts: dict[str, list[str]] = {}
    for line in escape_bytes(read_text(header)).replace("\r", "").split("\n"):
        if line.startswith("#separator "):
            separator = _unescape(line[len("#separator ") :].strip(" ")) or "\t"
        elif line[:1] == "#":
            name, *values = line[1:].split(separator)
            parts[name] = values
    names = parts.get("fields", [])
    types = parts.get("types", [])
    if not names:
        raise DecodeError("Zeek header without a #fields line")
    if len(names) > MAX_COLUMNS or len(names) != len(types):
        raise DecodeError(f"Zeek header of {len(names)} columns and {len(types)} types")
    unset = _first(parts, "unset_field", "-")
    empty = _first(parts, "empty_field", "(empty)")
    comma = _first(parts, "set_separator", ",")
    return _Columns(
        separator=separator,
        unset=unset,
        path=_unescape(_first(parts, "path", "")),
        names=tuple(names),
        readers=tuple(_find_reader(kind, comma, unset, empty) for kind in types),
        read_text=_make_text_reader(empty),
    )


def _first(parts: dict[str, list[str]], name: str, default: str) -> str:
    values = parts.get(name)
    return values[0] if values and values[0] else default


def _find_reader(kind: str, comma: str, unset: str, empty: str) -> _Read | None:
    if match := _CONTAINER.fullmatch(kind):
        read = _SCALARS.get(match[1]) or _make_text_reader(empty)
        return _make_list_reader(read, comma, unset, empty)
    return _SCALARS.get(kind)


def _make_list_reader(read: _Read, comma: str, unset: str, empty: str) -> _Read:
    def read_list(value: str) -> list[Any]:
        if value == empty:
            return []
        return [None if part == unset else read(part) for part in value.split(comma)]

    return read_list


def _make_text_reader(empty: str) -> _Read:
    def read_plain(value: str) -> str:
        if value == empty:
            return ""
        return value if "\\" not in value and value.isascii() else _unescape(value)

    return read_plain


def _unescape(value: str) -> str:
    r"""The text that Zeek escaped. Escaped bytes that are UTF-8 together become characters; those
    that are not stay `\xNN`."""
    value = _ESCAPE.sub(_read_escape, value)
    if has_bad_bytes(value):
        value = escape_bytes(read_text(value.encode("utf-8", "surrogateescape")))
    return value


def _read_escape(match: re.Match[str]) -> str:
    if match[1] is None:
        return "\\"
    code = int(match[1], 16)
    # A byte beyond ASCII is part of a character, as PEP 383 writes it.
    return chr(code if code < 0x80 else 0xDC00 + code)


def _read_float(value: str) -> float | str:
    try:
        number = float(value)
    except ValueError:
        return _unescape(value)
    # Comparing leaves out NaN and the infinities too.
    return number if -1e300 < number < 1e300 else value


def _read_int(value: str) -> int | str:
    digits = value[1:] if value[:1] == "-" else value
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > _MAX_DIGITS:
        return _unescape(value)
    number = int(value)
    return number if -(2**63) <= number < 2**64 else value


def _read_bool(value: str) -> bool | str:
    return True if value == "T" else False if value == "F" else _unescape(value)


#: Types whose values are no text.
_SCALARS: Final[dict[str, _Read]] = {
    "time": _read_float,
    "interval": _read_float,
    "double": _read_float,
    "count": _read_int,
    "int": _read_int,
    "port": _read_int,
    "bool": _read_bool,
}
