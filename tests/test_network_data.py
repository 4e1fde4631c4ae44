"""Every record of the real network sensors' logs is read and mapped; what is not, says why.

Needs the set `network`; skips without it (see conftest).
The files' header lines are given to each record as the source would give them. A few of the ICSNPP
baselines have no header at all: their lines can't be read by anyone, and must stay plain text.
"""

import gzip
from collections import Counter
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path

import pytest

from appliance.decode import decode
from appliance.detect.sensors import SensorDetector
from appliance.errors import DecodeError
from appliance.normalise import FED, normalise
from appliance.schema import Cursor, LogSource, RawRecord, Sighting
from tests.conftest import FindData

RECEIVED = 1_790_000_000.0
#: Least records of each family, what share of them must be mapped, and logs that must be there.
FAMILIES = {
    "rita": (250_000, 0.98, {"conn", "dns", "http", "ssl"}),
    "zeek-wrccdc": (150_000, 0.98, {"dns", "ssl", "smb_files", "kerberos", "ntlm", "x509", "pe"}),
    "stratosphere": (4_500, 0.98, {"conn", "notice", "dhcp", "arp", "tunnel", "files"}),
    "icsnpp": (25_000, 0.98, {"modbus_detailed", "dnp3_control", "s7comm_plus", "bacnet"}),
}
EVE = "test6-malicious.suricata.json"


def read_records(path: Path) -> Iterator[RawRecord]:
    """The file's lines as records, each with the header lines above it."""
    header = b""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file):
            if line.startswith(b"#"):
                header += line
            elif line.strip():
                cursor = Cursor("network", path.name, number, number + 1)
                yield RawRecord(
                    line, "network", str(path), path.name, cursor, RECEIVED, header=header
                )


def list_logs(folder: Path) -> list[Path]:
    """Zeek's logs; `conn-summary` is a report for people that zeekctl writes beside them."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.name.endswith((".log", ".log.gz"))
        and not path.name.startswith("conn-summary")
    )


def has_columns(record: RawRecord) -> bool:
    return record.data.startswith(b"{") or b"#fields" in record.header


@pytest.mark.parametrize("family", FAMILIES)
def test_every_record_of_zeeks_is_mapped(family: str, shared_data: FindData) -> None:
    least, share, logs = FAMILIES[family]
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    services: Counter[str | None] = Counter()
    fed = set(FED)
    for path in list_logs(shared_data("network") / family):
        for record in read_records(path):
            if not has_columns(record):
                counts["without header"] += 1
                assert not read(record).mapped
                continue
            counts["records"] += 1
            try:
                event = read(record)
            except DecodeError as error:
                reasons[f"{path.name}: {error}"] += 1
                continue
            counts["mapped"] += event.mapped
            counts["with a time"] += event.time_known
            services[event.views[0].logsource.service] += 1
            assert {view.logsource for view in event.views} <= fed
    print(f"{family}: {dict(counts)}; rejected: {dict(reasons)}; {dict(services)}")
    assert counts["records"] >= least
    assert counts["mapped"] >= share * counts["records"], reasons
    assert counts["mapped"] + sum(reasons.values()) == counts["records"], "read but not mapped"
    assert logs <= services.keys()
    assert services[None] == 0


def read(record: RawRecord) -> Sighting:
    return normalise(record, decode(record), zone=UTC)


def test_every_record_of_suricatas_is_mapped(shared_data: FindData) -> None:
    path = shared_data("network") / "stratosphere" / EVE
    events = [read(record) for record in read_records(path)]
    services = Counter(event.views[0].logsource.service for event in events)
    print(dict(services))
    assert len(events) == 5_000
    assert all(event.mapped and event.time_known for event in events)
    assert all(event.views[0].logsource.product == "suricata" for event in events)
    assert {event.host for event in events} == {"stratosphere"}
    assert services["alert"] == 745
    detector = SensorDetector()
    found = [detection for event in events for detection in detector.detect(event)]
    assert len(found) == 745
    assert {detection.event.views[0].logsource.service for detection in found} == {"alert"}
    print(Counter(detection.level for detection in found), len({d.rule_id for d in found}))


def test_notices_are_detections(shared_data: FindData) -> None:
    detector = SensorDetector()
    notices = 0
    levels: Counter[str] = Counter()
    for path in list_logs(shared_data("network")):
        if path.name.partition(".")[0] != "notice":
            continue
        for record in read_records(path):
            try:
                event = read(record)
            except DecodeError:
                continue
            notices += event.views[0].logsource == LogSource("zeek", None, "notice")
            levels.update(detection.level for detection in detector.detect(event))
    print(notices, dict(levels))
    assert notices >= 230
    assert sum(levels.values()) == notices
    assert levels["medium"] > 0
