"""Decode and normalise over the real data sets: nothing rejected without need, nothing unmapped.

Needs the sets `windows`, `linux` and `sigma`; skips without them (see conftest).
"""

import gzip
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import evtx
import orjson
import yaml

from appliance.decode import decode
from appliance.errors import DecodeError
from appliance.normalise import FED, feeds, normalise
from appliance.schema import Cursor, Event, LogSource, RawRecord

FindData = Callable[[str], Path]
#: After the newest record of the sets.
RECEIVED = 1_790_000_000.0
#: The zone in which fail2ban's own suite runs.
FAIL2BAN_ZONE = ZoneInfo("Europe/Zurich")
ADDRESS = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b")


def read(data: bytes, received: float = RECEIVED, zone: tzinfo = FAIL2BAN_ZONE) -> Event:
    record = RawRecord(data, "test", "x", "x", Cursor("test", "x", 0, len(data)), received)
    return normalise(record, decode(record), zone=zone).event


def list_lines(path: Path) -> list[bytes]:
    return [line for line in path.read_bytes().split(b"\n") if line.strip()]


def list_evtx_records(path: Path) -> Iterator[bytes]:
    for record in evtx.PyEvtxParser(str(path)).records_json():
        assert record is not None
        yield record["data"].encode()


def read_windows_sets(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.glob("evtx-attack-samples/**/*.evtx")):
        for data in list_evtx_records(path):
            yield "evtx-attack-samples", data
    for path in sorted(folder.glob("security-datasets/**/*.json")):
        for data in list_lines(path):
            yield "security-datasets", data
    for path in sorted(folder.glob("eqllib/*.json*")):
        text = path.read_bytes()
        for value in orjson.loads(gzip.decompress(text) if path.suffix == ".gz" else text):
            yield "eqllib", orjson.dumps(value)


def test_windows_sets_decode_and_map(shared_data: FindData) -> None:
    counts: Counter[tuple[str, str]] = Counter()
    sources: set[LogSource] = set()
    for name, data in read_windows_sets(shared_data("windows")):
        try:
            event = read(data)
        except DecodeError:
            counts[name, "rejected"] += 1
            continue
        counts[name, "decoded"] += 1
        counts[name, "mapped"] += event.mapped
        counts[name, "timed"] += event.time_known
        counts[name, "hosted"] += bool(event.host)
        sources.update(view.logsource for view in event.views)
    assert sources <= set(FED)
    for name, minimum in (
        ("evtx-attack-samples", 8_000),
        ("security-datasets", 120_000),
        ("eqllib", 100_000),
    ):
        decoded = counts[name, "decoded"]
        assert decoded >= minimum, counts
        assert counts[name, "rejected"] <= decoded * 0.01, counts
        assert counts[name, "mapped"] == decoded, counts
        assert counts[name, "timed"] == decoded, counts
        if name != "eqllib":  # those exports name no host
            assert counts[name, "hosted"] == decoded, counts


def read_fail2ban(folder: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Each line with what the comment above it expects; an empty dict for no expectation."""
    for path in sorted(path for path in folder.glob("**/*") if path.is_file()):
        expected: dict[str, Any] = {}
        for line in list_lines(path):
            comment, sign, text = line.partition(b"failJSON:")
            if sign and comment.startswith(b"#"):
                expected = json.loads(text)
                yield {}, line
                continue
            yield ({} if line.startswith(b"#") else expected), line
            if not line.startswith(b"#"):
                expected = {}


def test_fail2ban_lines_decode_with_the_expected_time(shared_data: FindData) -> None:
    counts: Counter[str] = Counter()
    wrong = []
    now = datetime(2005, 8, 14, 12, tzinfo=FAIL2BAN_ZONE)
    for expected, line in read_fail2ban(shared_data("linux") / "fail2ban-logs"):
        counts["lines"] += 1
        received, want = RECEIVED, None
        if expected.get("time") and expected.get("match"):
            # One expectation of the set has a day of one digit.
            text = expected["time"].replace("-7T", "-07T")
            want = datetime.fromisoformat(text).replace(tzinfo=FAIL2BAN_ZONE)
            # Its suite takes "now" to be in August 2005, for lines without a year.
            received = (now if want.year in (2004, 2005) else want).timestamp() + 60
        try:
            event = read(line, received)
        except DecodeError:
            counts["rejected"] += 1
            continue
        counts[event.format] += 1
        if event.format.startswith("syslog") and want is not None:
            counts["timed"] += 1
            if not event.time_known or abs(event.time - want.timestamp()) > 1.01:
                wrong.append(line)
    assert counts["lines"] > 2_500, counts
    assert counts["rejected"] <= counts["lines"] * 0.01, counts
    assert counts["syslog3164"] > 500, counts
    assert counts["timed"] > 400, counts
    assert wrong == []


def test_auth_log_says_who_and_from_where(shared_data: FindData) -> None:
    counts: Counter[str] = Counter()
    for line in list_lines(shared_data("linux") / "gtkcyber" / "auth.log"):
        event = read(line)
        counts["lines"] += 1
        fields = event.views[0].fields
        if event.views[0].logsource.service == "sshd" and ADDRESS.search(fields["message"]):
            counts["with address"] += 1
            counts["read"] += "src_ip" in fields
    assert counts["with address"] > 8_000, counts
    assert counts["read"] > counts["with address"] * 0.99, counts


#: Log sources of SigmaHQ's rules for Windows and Linux that nothing here gives yet.
UNFED = {
    LogSource("windows", "file_rename"),
}


#: Products of SigmaHQ's rules of which some log source is read; None: rules that name no product.
READ: set[str | None] = {None, "windows", "linux", "macos", "zeek"}


def test_what_feeds_the_rules_of_sigmahq(shared_data: FindData) -> None:
    found: Counter[LogSource] = Counter()
    for path in sorted(shared_data("sigma").glob("**/*.yml")):
        for rule in yaml.load_all(path.read_text("utf-8"), yaml.CSafeLoader):
            source = (rule or {}).get("logsource", {})
            parts = (source.get(name) for name in ("product", "category", "service"))
            found[LogSource(*parts)] += 1
    ours = {source for source in found if source.product in ("windows", "linux")}
    assert len(ours) > 60
    assert {source for source in ours if feeds(source) is not None} == UNFED
    fed = {source.product for source in found if feeds(source) is None}
    # A product that we do not read is never fed by another one's records.
    assert fed == READ
    for source in found:
        reason = feeds(source)
        assert reason is None or reason.startswith("no source of this version produces ")
