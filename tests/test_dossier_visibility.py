"""What was and was not visible: silences, hosts that never speak, records read again in files."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from appliance.config import Config
from appliance.evidence import SEARCH_SECONDS, find_records
from appliance.schema import Cursor, RawRecord, event_id, finding_id
from appliance.visibility import find_silences, find_unheard, list_visibility
from tests.builders import T0


def silences(minutes: list[int], seen: tuple[int, int], last: int = 0) -> list[tuple[float, ...]]:
    """In minutes of a window of 24 hours."""
    found = find_silences(
        [T0 + 60 * minute for minute in minutes],
        step=60.0,
        window=(T0, T0 + 1440 * 60),
        seen=(T0 + 60 * seen[0], T0 + 60 * seen[1]),
        last=T0 + 60 * last,
    )
    return [tuple((edge - T0) / 60 for edge in silence) for silence in found]


def test_silences() -> None:
    steady = list(range(0, 1440, 5))
    assert silences(steady, (100, 200), 1440) == []
    holed = [minute for minute in steady if not 300 < minute < 420]
    assert silences(holed, (290, 310)) == [(301, 420)]
    assert silences(holed, (600, 700)) == []  # not at its time
    assert silences(steady[:100], (400, 600)) == [(496, 1440)]  # it goes on, the source does not
    assert silences(steady[:100], (400, 450), last=495) == []  # the file ended, as files do
    assert silences(steady[:100], (400, 490), last=900) == [(496, 1440)]
    assert silences(steady[100:], (10, 600)) == [(0, 500)]
    slow = list(range(0, 1440, 60))
    assert silences([m for m in slow if m != 300], (200, 400)) == []  # an hour's pause is usual
    assert silences([5], (0, 1440)) == []
    assert silences([], (0, 1440)) == []


def body(key: str, host: str, *entities: tuple[str, str], source: str = "auth") -> dict[str, Any]:
    rows = [{"kind": kind, "value": value} for kind, value in entities]
    return {"id": key, "host": host, "entities": rows, "source": {"name": source}}


def test_hosts_that_are_named_and_never_speak() -> None:
    findings = [
        body("1", "WEB.example.org", ("host", "web"), ("host", "db"), ("host", "quiet")),
        body("2", "web", ("host", "quiet"), ("user", "eve"), ("host", "10.0.0.5")),
    ]
    presence = [("auth", "db.example.org", T0, 5), ("auth", "quiet", T0, 0)]
    assert find_unheard(findings, presence) == {"quiet": ["1", "2"], "10.0.0.5": ["2"]}
    assert find_unheard(findings, presence, heard=["quiet", "10.0.0.5"]) == {}


def test_rows_per_source() -> None:
    findings = [body("1", "web"), body("2", "db", source="dns")]
    presence = [("auth", "web", T0, 5), ("auth", "db", T0 + 60, 2), ("flow", "web", T0, 1)]
    counts = {"source:auth": {"seen": 9.0, "dropped": 2.0, "rejected": 1.0, "last_event": T0}}
    rows = list_visibility(
        presence, step=60.0, window=(T0, T0 + 600), seen=(T0, T0), findings=findings, counts=counts
    )
    assert [(r.source, r.events, r.hosts, r.seen, r.rejected, r.dropped) for r in rows] == [
        ("auth", 7, ("db", "web"), 9, 1, 2),
        ("dns", 0, ("db",), 0, 0, 0),
        ("flow", 1, ("web",), 0, 0, 0),
    ]


# -- records ---------------------------------------------------------------------------------------


def make_body(path: Path, data: bytes, position: int, format_: str = "text") -> dict[str, Any]:
    cursor = Cursor("logs", "log", position, 0)
    record = RawRecord(data, "logs", str(path), "log", cursor, T0)
    return {
        "id": finding_id("sigma", "r1", event_id(record)),
        "detector": "sigma",
        "rule_id": "r1",
        "source": {"name": "logs", "path": str(path), "record": position},
        "event": {"stream": "log", "format": format_, "received": "2023-11-14T22:13:20Z"},
    }


def test_many_records_of_one_packed_file_are_read_in_one_pass(tmp_path: Path) -> None:
    path = tmp_path / "log.gz"
    lines = [f"line {n}".encode() for n in range(3000)]
    with gzip.open(path, "wb") as out:
        out.write(b"\n".join(lines) + b"\n")
    places = [0]
    for line in lines:
        places.append(places[-1] + len(line) + 1)
    bodies = [make_body(path, lines[n], places[n]) for n in range(0, 3000, 10)]
    calls = [0]

    def timer() -> float:
        calls[0] += 1
        return 0.0

    found = find_records(bodies, Config(), timer)
    assert [record.data for record, _ in found.values() if record] == lines[::10]
    assert {record.received for record, _ in found.values() if record} == {T0}
    assert calls[0] < 10  # a look at the clock for each batch of one pass
    forged = make_body(path, b"line x", places[5])
    assert find_records([forged], Config(), timer)[forged["id"]] == (
        None,
        "the file at this path no longer holds the record",
    )


def test_looking_ends(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\ntwo\n")
    bodies = [make_body(path, b"one", 0), make_body(path, b"two", 4)]
    ticks = iter([0.0, SEARCH_SECONDS + 1, SEARCH_SECONDS + 2])
    found = find_records(bodies, Config(), lambda: next(ticks))
    (first, _), (second, why) = found.values()
    assert first is not None
    assert second is None
    assert why == "not found within 20 s of reading"


@pytest.mark.parametrize("path", ["/nowhere/\0/log", "/" + "x" * 5000, "relative.log"])
def test_paths_that_lead_nowhere(path: str) -> None:
    (answer,) = find_records([make_body(Path(path), b"x", 0)], Config(), lambda: 0.0).values()
    assert answer[0] is None
    assert answer[1]
    json.dumps(answer[1])
