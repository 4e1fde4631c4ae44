"""Second station of the line, formats that the configuration describes: a pattern, or a mapping of
a JSON object's or of a CSV line's parts.

    formats:
      - name: shop
        pattern: '(?P<when>\\S+) (?P<src_ip>\\S+) user=(?P<user>\\S+) (?P<message>.*)'
      - name: badges
        json: {user: person.login, src_ip: reader.address}
      - name: alerts
        csv: {when: Time, title: Alert name}

A pattern is an RE2 expression (so that no record can make it take long) and must match the whole
record: what a record says can't be taken for another part by standing where nobody looked. Its
named groups are the fields; `rename` gives those whose Sigma names no group can have
(`cs_uri: cs-uri`). A mapping gives the place, names joined by dots, of each field in a JSON object,
whose own fields stay too. Fields: those, and of a pattern the whole record as `message`.

A CSV line (RFC 4180, but for line breaks inside a field: a record is a line) has as many columns as
the stream's first line, which names them (RawRecord.header), or as the configuration names. Columns
that the mapping does not name are not read; an empty one is absent.
"""

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import re2

from appliance.decode.json_object import read_object
from appliance.decode.utf8 import escape_bytes, has_bad_bytes, read_text, strip_frame
from appliance.errors import DecodeError
from appliance.schema import Decoded, RawRecord

#: Memory in bytes that one pattern may use for its program and its state cache.
PATTERN_MEMORY: Final = 8 << 20
#: What a custom format may be called.
NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
#: What may stand between columns, by the configuration's word.
DELIMITERS: Final[dict[str, str]] = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
#: Most columns of a line: exports of consoles have up to 100.
MAX_COLUMNS: Final = 512
#: Headers that one decoder remembers.
_HEADERS: Final = 64
#: Most steps of one place in a JSON object.
_MAX_STEPS: Final = 32


class PatternDecoder:
    """Reads records of a format by its pattern. `fields` are those that it can give."""

    def __init__(self, name: str, pattern: Any, rename: Mapping[str, str]) -> None:
        self.name = name
        self.fields = {
            rename.get(group, group): number for group, number in pattern.groupindex.items()
        }
        self._pattern = pattern

    def __call__(self, record: RawRecord) -> Decoded:
        """Read one record. Raises DecodeError when it does not match."""
        text = read_text(strip_frame(record.data))
        if repaired := has_bad_bytes(text):
            text = escape_bytes(text)
        match = self._pattern.fullmatch(text)
        if match is None:
            raise DecodeError(f"does not match the pattern of format {self.name}")
        fields: dict[str, Any] = {
            field: value
            for field, number in self.fields.items()
            if (value := match[number]) is not None
        }
        fields.setdefault("message", text)
        return Decoded(self.name, fields, repaired)


def build_pattern_decoder(name: str, pattern: str, rename: Mapping[str, str]) -> PatternDecoder:
    """The decoder of a format whose records match an RE2 expression. Raises ValueError when it
    does not compile, has no named group, or `rename` names a group that is not there."""
    options = re2.Options()
    options.max_mem = PATTERN_MEMORY
    options.log_errors = False
    options.dot_nl = True
    try:
        compiled = re2.compile(pattern, options)
    except (re2.error, UnicodeError) as error:
        reason = error.args[0] if error.args else error
        told = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(f"not an RE2 expression: {told}") from None
    groups = dict(compiled.groupindex)
    if not groups:
        raise ValueError("has no named group (?P<name>...)")
    check_rename(rename, groups)
    return PatternDecoder(name, compiled, rename)


def check_rename(rename: Mapping[str, str], groups: Mapping[str, int]) -> None:
    """Raise ValueError for a group that the pattern does not have, or two fields of one name."""
    for group in rename:
        if group not in groups:
            raise ValueError(f"has no group {group!r}, which rename names")
    fields = [rename.get(group, group) for group in groups]
    for field in fields:
        if fields.count(field) > 1:
            raise ValueError(f"gives the field {field!r} twice")


def build_json_decoder(name: str, places: Mapping[str, str]) -> Callable[[RawRecord], Decoded]:
    """The decoder of a format whose records are JSON objects, with the place of each field."""
    steps = [(field, tuple(place.split("."))) for field, place in places.items()]

    def decode_mapped(record: RawRecord) -> Decoded:
        body, repaired = read_object(record.data)
        fields: dict[str, Any] = {}
        for field, way in steps:
            value = _find_place(body, way)
            if value is not None:
                fields[field] = value
        if not fields:
            raise DecodeError(f"has none of the fields of format {name}")
        return Decoded(name, {**body, **fields}, repaired)

    return decode_mapped


class CsvDecoder:
    """Reads lines whose columns a character separates. `columns` are field -> name of its column,
    `names` the columns in their order, empty where the stream's first line tells it."""

    def __init__(
        self, name: str, columns: Mapping[str, str], delimiter: str, names: Sequence[str]
    ) -> None:
        self.name = name
        self._columns = dict(columns)
        self._delimiter = delimiter
        self._fixed = self._place(tuple(names)) if names else None
        self._recall = lru_cache(maxsize=_HEADERS)(self._read_header)

    def __call__(self, record: RawRecord) -> Decoded:
        """Read one line. Raises DecodeError when its columns are not as many as are named."""
        count, places = self._fixed or self._recall(record.header)
        text = read_text(strip_frame(record.data))
        if repaired := has_bad_bytes(text):
            text = escape_bytes(text)
        values = self._split(text)
        if len(values) != count:
            raise DecodeError(f"{len(values)} columns where format {self.name} has {count}")
        fields = {field: value for field, place in places if (value := values[place])}
        if not fields:
            raise DecodeError(f"has none of the fields of format {self.name}")
        return Decoded(self.name, fields, repaired)

    def _read_header(self, header: bytes) -> tuple[int, tuple[tuple[str, int], ...]]:
        text = escape_bytes(read_text(strip_frame(header)))
        if not text.strip():
            raise DecodeError("no header line that names the columns before this record")
        return self._place(tuple(name.strip() for name in self._split(text)))

    def _place(self, names: tuple[str, ...]) -> tuple[int, tuple[tuple[str, int], ...]]:
        """How many columns there are, and at which place each field is."""
        if len(names) > MAX_COLUMNS:
            raise DecodeError(f"{len(names)} columns are over the limit of {MAX_COLUMNS}")
        for column in self._columns.values():
            if names.count(column) != 1:
                often = "no" if column not in names else "more than one"
                raise DecodeError(f"the header line names {often} column {column!r}")
        return len(names), tuple((f, names.index(column)) for f, column in self._columns.items())

    def _split(self, text: str) -> list[str]:
        if '"' not in text:
            return text.split(self._delimiter)
        try:
            return next(csv.reader([text], delimiter=self._delimiter, strict=True), [])
        except csv.Error as error:
            raise DecodeError(f"not CSV: {error}") from None


def build_csv_decoder(
    name: str, columns: Mapping[str, str], delimiter: str, names: Sequence[str] = ()
) -> CsvDecoder:
    """The decoder of a format whose records are lines of columns; `delimiter` is one of DELIMITERS.
    Raises ValueError when `names` are given and lack a column, or name it twice."""
    try:
        return CsvDecoder(name, columns, DELIMITERS[delimiter], names)
    except DecodeError as error:
        raise ValueError(str(error).replace("the header line names", "names")) from None


def check_place(place: str) -> str:
    """Why this is no place in a JSON object; empty when it is."""
    steps = place.split(".")
    if not all(steps):
        return "must be names joined by dots"
    return f"has more than {_MAX_STEPS} names" if len(steps) > _MAX_STEPS else ""


def _find_place(value: Any, way: tuple[str, ...]) -> Any:
    """The value at the place; None when nothing is there. A name may itself hold dots; a number
    is the place in a list, counted from 0."""
    for number, step in enumerate(way):
        if isinstance(value, dict):
            rest = ".".join(way[number:])
            if rest in value:
                return value[rest]
            value = value.get(step)
        elif isinstance(value, list) and step.isdecimal() and len(step) < 6:
            place = int(step)
            value = value[place] if place < len(value) else None
        else:
            return None
    return value
