"""Beside the line: the records behind findings, read again where their sources still have them.

A record is a finding's only if the finding's own id follows from its bytes: whatever lies at its
place now, another record is never shown for it. Lines are read at once where they lie; EVTX, gzip
and what has a header is read from its beginning, once for all findings in the same file.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from appliance.config import Config, FilesSource
from appliance.errors import SourceError
from appliance.schema import RawRecord, event_id, finding_id
from appliance.sources.header_framing import HEADER_FORMATS
from appliance.sources.streams import StreamLimits, StreamName, Want, open_stream

Body = Mapping[str, Any]

#: Why a record can't be had.
NO_STREAM: Final = "not kept: the finding was stored by a version that did not note its stream"
NO_FILE: Final = "it came from no file that can be read at a position"
OTHER: Final = "the file at this path no longer holds the record"

#: Seconds to look for records in one file that can only be read from its beginning.
SEARCH_SECONDS: Final = 20.0
_READ_RECORDS: Final = 2000


def read_record(
    body: Body, config: Config, timer: Callable[[], float]
) -> tuple[RawRecord | None, str]:
    """The record from which this finding's id follows, or why it can't be had."""
    return find_records([body], config, timer)[body["id"]]


def find_records(
    bodies: Iterable[Body],
    config: Config,
    timer: Callable[[], float],
    *,
    seconds: float = SEARCH_SECONDS,
) -> dict[str, tuple[RawRecord | None, str]]:
    """By finding id: its record, or None and why it can't be had. Looks for at most `seconds` (of
    `timer`) altogether. Raises nothing for what a file holds."""
    found: dict[str, tuple[RawRecord | None, str]] = {}
    files: dict[tuple[str, str, str, bool], list[Body]] = {}
    for body in bodies:
        why_not = _explain_absence(body, config)
        if why_not:
            found[body["id"]] = None, why_not
            continue
        source, event = body["source"], body["event"]
        whole = event["format"] in HEADER_FORMATS or event["format"] in config.headed_formats
        files.setdefault((source["name"], source["path"], event["stream"], whole), []).append(body)
    until = timer() + seconds
    for (source, path, stream, whole), wanted in files.items():
        spec = next((s for s in config.sources if s.name == source), None)
        declared = getattr(spec, "format", "auto")
        columns = declared in config.headed_formats
        name = StreamName(source, stream, stream, path, declared, columns)
        limits = StreamLimits(config.limits.record_bytes, config.limits.rejected_bytes)
        why_not = OTHER
        records: dict[str, RawRecord] = {}
        try:
            _search_file(name, limits, wanted, records, whole=whole, timer=timer, until=until)
        except TimeoutError:
            why_not = f"not found within {seconds:g} s of reading"
        except (OSError, SourceError) as error:
            why_not = f"not readable any more: {error}"
        for body in wanted:
            record = records.get(body["id"])
            found[body["id"]] = (record, "") if record is not None else (None, why_not)
    return found


def _explain_absence(body: Body, config: Config) -> str:
    """Why the finding's record is in no file that can be looked into; "" when it may be."""
    if not body.get("event"):
        return NO_STREAM
    source = body["source"]
    spec = next((s for s in config.sources if s.name == source["name"]), None)
    if not source["path"].startswith("/") or not isinstance(spec, FilesSource | None):
        return NO_FILE
    try:
        there = Path(source["path"]).is_file()
    except (OSError, ValueError):
        there = False
    return "" if there else f"not readable any more: no file at {source['path']}"


def _search_file(
    name: StreamName,
    limits: StreamLimits,
    wanted: Sequence[Body],
    found: dict[str, RawRecord],
    *,
    whole: bool,
    timer: Callable[[], float],
    until: float,
) -> None:
    """Into `found`: the records of these findings. Where a record's position is the offset of its
    line, it is read there; where it is not (EVTX, gzip), or what its columns are stands at the
    file's beginning (`whole`), all of the file is read. Raises TimeoutError when it takes longer
    than `until`, OSError, SourceError."""
    stream = open_stream(name, limits)
    try:
        if stream.packed or whole:
            places: dict[int, list[Body]] = {}
            for body in wanted:
                places.setdefault(body["source"]["record"], []).append(body)
            while places and not stream.ended:
                batch = stream.read(Want(_READ_RECORDS, final=True), read_time(wanted[0]))
                for record in batch.records:
                    _take(record, places, found)
                if not (batch.records or batch.rejected):
                    return
                if timer() > until:
                    raise TimeoutError
            return
    finally:
        stream.close()
    for body in wanted:
        position = body["source"]["record"]
        stream = open_stream(name, limits, position)
        try:
            batch = stream.read(Want(1, final=True), read_time(body))
        finally:
            stream.close()
        for record in batch.records:
            _take(record, {position: [body]}, found)
        if timer() > until:
            raise TimeoutError


def _take(record: RawRecord, places: dict[int, list[Body]], found: dict[str, RawRecord]) -> None:
    """Note the record for those findings at its place from which their ids follow."""
    bodies = places.get(record.cursor.position)
    if bodies is None:
        return
    event = event_id(record)
    left = []
    for body in bodies:
        if finding_id(body["detector"], body["rule_id"], event) == body["id"]:
            found[body["id"]] = msgspec.structs.replace(record, received=read_time(body))
        else:
            left.append(body)
    places[record.cursor.position] = left
    if not left:
        del places[record.cursor.position]


def read_time(body: Body) -> float:
    """When the finding's record came in, as epoch seconds; 0 where that is not kept."""
    return parse_time((body.get("event") or {}).get("received"))


def parse_time(text: str | None) -> float:
    """An ISO 8601 time of a body as epoch seconds, 0 for none."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC).timestamp() if text else 0.0
    except (ValueError, OverflowError):
        return 0.0
