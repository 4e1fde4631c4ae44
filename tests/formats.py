"""Records of one line, read whole, for the tests of single formats."""

import time
from collections.abc import Callable
from datetime import UTC, tzinfo
from typing import Any

from appliance.decode import decode
from appliance.normalise import normalise
from appliance.schema import Cursor, Decoded, Event, RawRecord

#: After the newest record of the tests: 2027-01-15 08:00 UTC.
RECEIVED = 1_800_000_000.0
#: Longest time in seconds that a hostile record of 100 kB may take.
QUICK = 1.0


def make_line(line: str | bytes, format_name: str = "auto") -> RawRecord:
    """The line as a record; a lone surrogate stands for a byte that is no UTF-8."""
    data = line if isinstance(line, bytes) else line.encode("utf-8", "surrogateescape")
    cursor = Cursor("test", "x.log", 0, len(data))
    return RawRecord(data, "test", "/var/log/x.log", "x.log", cursor, RECEIVED, format_name)


def decode_line(line: str | bytes, format_name: str = "auto") -> Decoded:
    """The decoded line."""
    return decode(make_line(line, format_name))


def read_line(line: str | bytes, format_name: str = "auto", zone: tzinfo = UTC) -> Event:
    """The line as an event."""
    record = make_line(line, format_name)
    return normalise(record, decode(record), zone=zone).event


def find_view(event: Event, **parts: str | None) -> dict[str, Any]:
    """The fields of the one view whose log source has these parts."""
    found = [
        view.fields
        for view in event.views
        if all(getattr(view.logsource, name) == value for name, value in parts.items())
    ]
    assert len(found) == 1, (parts, [view.logsource for view in event.views])
    return found[0]


def list_entities(event: Event) -> set[str]:
    """ "kind:value" of each entity."""
    return {f"{entity.kind}:{entity.value}" for entity in event.entities}


def measure(action: Callable[[], object]) -> float:
    """Seconds that the action takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
