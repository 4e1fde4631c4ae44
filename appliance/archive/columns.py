"""What a row of the Parquet files holds, and how an event becomes one.

Beside the record as it came (`record`, and all that is needed to read it again) a row holds texts
to search by, without case: a column for each of FIELDS, all other fields as one JSON object
(`rest`), where the event is from (`about`), its entities. They only say where to look: what is
found is read again from the record and compared as the line compares, so that a cell may hold more
than one value's text, in a form of its own (see `write_cell`).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import orjson

from appliance.archive.segments import pack_name
from appliance.schema import Event, RawRecord, event_id

#: The fields that most rules of SigmaHQ, and most people, ask for.
FIELDS: Final = (
    "Image", "CommandLine", "ParentImage", "ParentCommandLine", "OriginalFileName",
    "TargetFilename", "TargetObject", "Details", "ImageLoaded", "SourceImage", "TargetImage",
    "GrantedAccess", "CallTrace", "PipeName", "EventID", "Provider_Name", "ScriptBlockText",
    "Payload", "ContextInfo", "ServiceName", "ImagePath", "ServiceFileName", "User",
    "SubjectUserName", "TargetUserName", "LogonType", "IpAddress", "IntegrityLevel", "Hashes",
    "DestinationIp", "DestinationPort", "DestinationHostname", "Initiated", "QueryName",
    "ObjectName", "ShareName", "RelativeTargetName", "ProcessName", "CurrentDirectory",
    "cs-method", "cs-uri-query", "cs-uri-stem", "c-uri", "c-useragent", "cs-host", "sc-status",
    "src_ip", "dst_ip", "src_port", "dst_port", "type", "query", "message",
)  # fmt: skip
#: Names under which a row also tells where its event is from, beside the event's own fields.
ABOUT: Final = ("host", "source", "product", "category", "service")
#: Between the values of a cell that holds several.
SEPARATOR: Final = "\x1e"

_BASE: Final = {
    "id": "UUID",
    "time": "DOUBLE",
    "received": "DOUBLE",
    "host": "VARCHAR",
    "source": "VARCHAR",
    "path": "VARCHAR",
    "logical": "VARCHAR",
    "key": "VARCHAR",
    "position": "BIGINT",
    "next": "BIGINT",
    "format": "VARCHAR",
    "truncated": "BIGINT",
    "logsources": "VARCHAR",
    "about": "VARCHAR",
    "entities": "VARCHAR",
    "rest": "VARCHAR",
}
#: Columns that travel as Base64: bytes.
BLOBS: Final = ("header", "names", "record")
#: The column of a field, by its name without case, which DuckDB's names of columns have not either.
FIELD_COLUMNS: Final = {name.lower(): f"f.{name}" for name in FIELDS}
#: Every column with its type in DuckDB.
COLUMNS: Final = {
    **_BASE,
    **dict.fromkeys(FIELD_COLUMNS.values(), "VARCHAR"),
    **dict.fromkeys(BLOBS, "BLOB"),
}

#: The texts of a field's value, without case, as the matcher compares them.
Texts = Callable[[Any], Sequence[str]]
_LARGEST: Final = (1 << 63) - 1


@lru_cache(maxsize=4096)
def find_column(field: str) -> str | None:
    """The column of a field of its own, whatever the case of its name."""
    return FIELD_COLUMNS.get(field.lower())


def storable_text(text: str) -> str:
    """The text as UTF-8 can hold it: a lone surrogate becomes a question mark, one for one."""
    if text.isascii():
        return text
    return text.encode("utf-8", "replace").decode("utf-8")


def merge_fields(event: Event) -> dict[str, list[Any]]:
    """The values of each field in all of the event's views."""
    merged: dict[str, list[Any]] = {}
    done: set[int] = set()
    for view in event.views:
        if id(view.fields) in done:
            continue
        done.add(id(view.fields))
        for name, value in view.fields.items():
            values = merged.setdefault(name, [])
            if not any(value is other for other in values):
                values.append(value)
    return merged


def tell_about(event: Event) -> dict[str, list[Any]]:
    """Where the event is from, as fields."""
    parts: dict[str, list[Any]] = {"host": [event.host], "source": [event.record.source]}
    for view in event.views:
        source = view.logsource
        for name, part in (
            ("product", source.product), ("category", source.category), ("service", source.service)
        ):  # fmt: skip
            if part and part not in parts.setdefault(name, []):
                parts[name].append(part)
    return {name: values for name, values in parts.items() if values}


def write_cell(texts: Iterable[str]) -> str | None:
    """The texts of a field as one: a single one as it is, several each between separators; None
    where there is none."""
    found = list(dict.fromkeys(texts))
    if len(found) < 2:
        return found[0] if found else None
    return SEPARATOR + SEPARATOR.join(found) + SEPARATOR


def make_row(record: RawRecord, event: Event | None, texts: Texts) -> dict[str, Any]:
    """The row of a record and its event (None where it can't be read any more): JSON values but for
    BLOBS, which are bytes."""
    row = _describe_record(record)
    if event is None:
        row.update(id=event_id(record), time=_finite(record.received), host="")
        return row
    row.update(
        id=event.id,
        time=_finite(event.time),
        host=storable_text(event.host),
        logsources=storable_text(write_logsources(event)),
        about=_write_json(tell_about(event), texts),
        entities=write_entities(event, texts),
    )
    rest: dict[str, list[Any]] = {}
    cells: dict[str, list[str]] = {}
    for name, values in merge_fields(event).items():
        column = find_column(name)
        if column is None:
            rest[name] = values
        else:
            cells.setdefault(column, []).extend(_list_texts(values, texts))
    for column, found in cells.items():
        cell = write_cell(found)
        if cell is not None:
            row[column] = cell
    row["rest"] = _write_json(rest, texts)
    return row


def write_logsources(event: Event) -> str:
    """The log sources of the views, a line each: "windows/process_creation/-"."""
    return "\n".join(
        dict.fromkeys(
            "/".join(part or "-" for part in (s.product, s.category, s.service))
            for s in (view.logsource for view in event.views)
        )
    )


def write_entities(event: Event, texts: Texts) -> str:
    """The entities, each on a line of its own, with a line's end before and behind."""
    lines = [text for entity in event.entities for text in texts(f"{entity.kind}:{entity.value}")]
    return storable_text("\n" + "\n".join(lines) + "\n") if lines else ""


def _describe_record(record: RawRecord) -> dict[str, Any]:
    cursor = record.cursor
    names = (record.path, record.logical, cursor.key)
    row: dict[str, Any] = {
        "received": _finite(record.received),
        "source": storable_text(record.source),
        "path": storable_text(record.path),
        "logical": storable_text(record.logical),
        "key": storable_text(cursor.key),
        "position": min(cursor.position, _LARGEST),
        "next": min(cursor.next, _LARGEST),
        "format": record.format,
        "truncated": record.truncated,
        "record": record.data,
    }
    if record.header:
        row["header"] = record.header
    if any(storable_text(name) != name for name in names):
        row["names"] = orjson.dumps([pack_name(name).hex() for name in names])
    return row


def _write_json(fields: Mapping[str, list[Any]], texts: Texts) -> str | None:
    """The fields' texts as a JSON object: a text, or a list of several. Fields without any are left
    out."""
    found: dict[str, str | list[str]] = {}
    for name, values in fields.items():
        written = _list_texts(values, texts)
        if written:
            found[name] = written[0] if len(written) == 1 else written
    if not found:
        return None
    try:
        return orjson.dumps(found).decode()
    except orjson.JSONEncodeError:  # a name that UTF-8 can't hold
        return orjson.dumps({storable_text(n): value for n, value in found.items()}).decode()


def _list_texts(values: list[Any], texts: Texts) -> list[str]:
    """The texts of a field's values, each once."""
    if len(values) == 1:
        found = texts(values[0])
        if len(found) == 1:
            return [storable_text(found[0])]
    else:
        found = [text for value in values for text in texts(value)]
    return list(dict.fromkeys(map(storable_text, found)))


def _finite(time: float) -> float:
    return time if math.isfinite(time) else 0.0
