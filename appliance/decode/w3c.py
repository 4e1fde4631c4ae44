"""Second station of the line, format `w3c`: one line of a W3C extended log file.

W3C working draft "Extended Log File Format" (WD-logfile-960323): the `#Fields:` directive names the
columns, the source keeps it with the other directives and gives it with each record
(RawRecord.header). Written so by Internet Information Services, Exchange, the Windows Firewall and
several proxies.

Fields: each column under its own name, text; timestamp ("2026-03-01 09:00:00 UTC", from `date` and
`time`, or from `#Date:` where the lines hold the time only; without "UTC" where the header says
`#Time Format: Local`), software (of `#Software:`), and message, the whole line. "-" is absent.
Exchange writes its columns with commas (RFC 4180), and the time as one column `date-time`.
Values stay as written: that blanks are "+" in some columns is the normaliser's knowledge.
"""

import csv
import re
from functools import lru_cache
from typing import Any, Final

import msgspec

from appliance.decode.utf8 import escape_bytes, has_bad_bytes, read_text, strip_frame
from appliance.errors import DecodeError
from appliance.schema import Decoded, RawRecord

#: Longest header in bytes, most columns: IIS and proxies have up to 100.
MAX_HEADER: Final = 65_536
MAX_COLUMNS: Final = 512
_CACHE: Final = 64

_FIELDS: Final = re.compile(rb"(?mi:^)#Fields:")
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d")
_CLOCK: Final = re.compile(r"\d\d:\d\d:\d\d(?:\.\d{1,9})?")
#: A column of a format that quotes, and one that does not; both end at white space.
_COLUMN: Final = re.compile(r'[ \t]*+(?:"((?:[^"]|"")*+)"(?![^ \t])|([^ \t]++))')


class _Columns(msgspec.Struct, frozen=True):
    """What a header says of the lines below it. `date` is that of `#Date:`, "" for none; `zone`
    goes behind each time. `commas` stand between columns instead of blanks."""

    names: tuple[str, ...]
    software: str
    date: str
    zone: str
    commas: bool


def decode_w3c(record: RawRecord) -> Decoded:
    """Read the record as a line under its header. Raises DecodeError without a header, and when
    the line has another number of columns."""
    columns = read_header(record.header)
    text = read_text(strip_frame(record.data))
    if not text.strip():
        raise DecodeError("empty record")
    if text[:1] == "#":
        raise DecodeError("a directive of a W3C log, not a record")
    repaired = has_bad_bytes(text)
    if repaired:
        text = escape_bytes(text)
    split = _split_commas if columns.commas else _split
    values = split(text, len(columns.names))
    fields: dict[str, Any] = {"message": text}
    for name, value in zip(columns.names, values, strict=True):
        if value not in ("-", ""):
            fields[name] = value
    if columns.software:
        fields.setdefault("software", columns.software)
    date, clock = fields.get("date", columns.date), fields.get("time", "")
    if _DATE.fullmatch(date) and _CLOCK.fullmatch(clock):
        fields["timestamp"] = f"{date} {clock}{columns.zone}"
    elif moment := fields.get("date-time", fields.get("DateTime")):
        fields["timestamp"] = moment
    return Decoded("w3c", fields, repaired)


def is_w3c_header(header: bytes) -> bool:
    """True for header lines that name the columns of a W3C log."""
    return _FIELDS.search(strip_frame(header)) is not None


@lru_cache(maxsize=_CACHE)
def read_header(header: bytes) -> _Columns:
    """The columns that the last `#Fields:` of the header names. Raises DecodeError."""
    if not header:
        raise DecodeError("no #Fields: line before this record")
    if len(header) > MAX_HEADER:
        raise DecodeError(f"W3C header of {len(header)} bytes is over the limit of {MAX_HEADER}")
    names: tuple[str, ...] = ()
    software = date = ""
    zone = " UTC"
    commas = False
    for line in escape_bytes(read_text(strip_frame(header))).splitlines():
        directive, _, value = line.partition(":")
        value = value.strip()
        match directive.strip().lower():
            case "#fields":
                commas = "," in value and " " not in value
                names = tuple(value.split("," if commas else None))
            case "#software":
                software = value
            case "#date" | "#start-date":
                date = value[:10]
            case "#time format":
                zone = "" if value.lower() == "local" else " UTC"
    if not names:
        raise DecodeError("no #Fields: line before this record")
    if len(names) > MAX_COLUMNS:
        raise DecodeError(f"{len(names)} columns are over the limit of {MAX_COLUMNS}")
    if len(set(names)) < len(names) or not {"message", "timestamp"}.isdisjoint(names):
        names = _tell_apart(names)
    return _Columns(names, software, date, zone, commas)


def _tell_apart(names: tuple[str, ...]) -> tuple[str, ...]:
    """A second column of one name gets a number, and so does one that we call so ourselves."""
    seen = {"message": 1, "timestamp": 1}
    apart = []
    for name in names:
        seen[name] = count = seen.get(name, 0) + 1
        apart.append(name if count == 1 else f"{name}.{count}")
    return tuple(apart)


def _split_commas(text: str, count: int) -> list[str]:
    try:
        values = next(csv.reader([text]), [])
    except csv.Error as error:
        raise DecodeError(f"columns with commas: {error}") from None
    if len(values) != count:
        raise DecodeError(f"{len(values)} columns where the #Fields: line names {count}")
    return values


def _split(text: str, count: int) -> list[str]:
    """The line's values. Quotes count only where the line has too many columns without them: in
    a log that does not quote, a client's quote is a character like any other."""
    # Not split(): a client's value may hold blanks that are none in ASCII.
    values = [value for value in text.split(" ") if value]
    if len(values) == count:
        return values
    if "\t" in text and len(tabbed := text.split("\t")) == count:
        return tabbed
    if len(values) > count and '"' in text:
        quoted = [
            found[1].replace('""', '"') if found[1] is not None else found[2]
            for found in _COLUMN.finditer(text)
        ]
        if len(quoted) == count:
            return quoted
    raise DecodeError(f"{len(values)} columns where the #Fields: line names {count}")
