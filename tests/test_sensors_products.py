"""Wazuh's alerts, Defender's events, AMiner's anomalies: each read as its product writes it, each
forged one refused, each hostile one quickly done with."""

import json
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from appliance.decode import decode
from appliance.detect.sensors import SENSORS, SensorDetector
from appliance.detect.sensors.alert import MAX_TITLE, MAX_VALUE, TACTICS
from appliance.detect.sensors.defender import ASR_RULES, KINDS
from appliance.detect.sensors.wazuh import read_level
from appliance.normalise import normalise
from appliance.schema import LEVELS, Detection, LogSource, Sighting, View
from appliance.sources.streams import StreamLimits, StreamName, Want, open_stream
from tests.formats import QUICK, find_view, list_entities, make_line, measure, read_line

#: An alert of sshd as alerts.json has it.
WAZUH: dict[str, Any] = {
    "timestamp": "2026-01-21T00:02:27.123+0000",
    "rule": {
        "level": 10, "description": "sshd: brute force trying to get access to the system.",
        "id": "5763", "frequency": 8, "firedtimes": 1, "mail": False,
        "mitre": {"id": ["T1110"], "tactic": ["Credential Access"], "technique": ["Brute Force"]},
        "groups": ["syslog", "sshd", "authentication_failures"], "pci_dss": ["11.4"],
    },
    "agent": {"id": "003", "name": "web-1.example.com", "ip": "192.0.2.10"},
    "manager": {"name": "siem"}, "id": "1768953747.12345",
    "full_log": "Jan 21 00:02:26 web-1 sshd[7]: Failed password for root from 203.0.113.4 port 4",
    "predecoder": {
        "program_name": "sshd", "timestamp": "Jan 21 00:02:26", "hostname": "other-name",
    },
    "decoder": {"parent": "sshd", "name": "sshd"},
    "data": {"srcip": "203.0.113.4", "srcport": "4", "dstuser": "ann"},
    "location": "/var/log/auth.log",
}  # fmt: skip
#: An anomaly as the JsonConverterHandler writes it.
AMINER: dict[str, Any] = {
    "AnalysisComponent": {
        "AnalysisComponentIdentifier": 4,
        "AnalysisComponentType": "NewMatchPathValueDetector",
        "AnalysisComponentName": "AMiner: New request method in Apache Access log.",
        "Message": "New value(s) detected",
        "PersistenceFileName": "accesslog_request_method",
        "TrainingMode": False,
        "AffectedLogAtomPaths": ["/model/client_ip/client_ip", "/model/user"],
        "AffectedLogAtomValues": ["203.0.113.4", "ann"],
    },
    "LogData": {
        "RawLogData": ['203.0.113.4 - ann [21/Jan/2026:00:02:27 +0000] "PROPFIND / HTTP/1.1" 405'],
        "Timestamps": [1768953747], "DetectionTimestamp": 1768953750.25, "LogLinesCount": 1,
        "AnnotatedMatchElement": {"/model/fm/request/domain": "shop.example.com"},
        "LogResources": ["file:///var/log/apache2/access.log"],
    },
    "AMiner": {"ID": "192.0.2.10"},
}  # fmt: skip


def make_defender(event_id: int, data: dict[str, Any], **system: Any) -> dict[str, Any]:
    """An event as the reader of .evtx files gives it."""
    return {
        "Event": {
            "System": {
                "Provider": {"#attributes": {"Name": "Microsoft-Windows-Windows Defender"}},
                "EventID": event_id, "Computer": "ws5.example.com",
                "Channel": "Microsoft-Windows-Windows Defender/Operational",
                "TimeCreated": {"#attributes": {"SystemTime": "2026-01-21T00:02:27.123Z"}},
                **system,
            },
            "EventData": data,
        }
    }  # fmt: skip


THREAT: dict[str, Any] = {
    "Product Name": "Microsoft Defender Antivirus", "Threat ID": "2147725349",
    "Threat Name": "HackTool:Win32/Mimikatz.D", "Severity ID": "4", "Severity Name": "High",
    "Category ID": "34", "Category Name": "Tool", "Detection User": "EXAMPLE\\ann",
    "Process Name": "C:\\Windows\\explorer.exe",
    "Path": "containerfile:_C:\\Users\\ann\\m.zip; file:_C:\\Users\\ann\\m.zip->x64/mimikatz.exe; "
    "webfile:_C:\\Users\\ann\\m.zip|https://evil.example.net/m.zip|pid:77,ProcessStart:1",
    "Action Name": "Not Applicable", "Error Code": "0x00000000",
}  # fmt: skip
ASR: dict[str, Any] = {
    "ID": "9E6C4E1F-7D60-472F-BA1A-A39EF669E4B2", "Detection Time": "2026-01-21T00:02:26.000Z",
    "User": "EXAMPLE\\ann", "Path": "C:\\Windows\\System32\\lsass.exe",
    "Process Name": "C:\\Temp\\procdump.exe", "Target Commandline": "procdump -ma lsass",
}  # fmt: skip


def detect(record: dict[str, Any]) -> list[Detection]:
    line = make_line(json.dumps(record))
    return SensorDetector().detect(normalise(line, decode(line), zone=UTC))


def with_part(record: dict[str, Any], name: str, **parts: Any) -> dict[str, Any]:
    return {**record, name: {**record[name], **parts}}


# -- Wazuh -----------------------------------------------------------------------------------------


def test_a_wazuh_alert() -> None:
    (found,) = detect(WAZUH)
    assert (found.detector, found.rule_id, found.level) == ("wazuh", "wazuh:5763", "medium")
    assert found.title == "sshd: brute force trying to get access to the system."
    assert (found.techniques, found.tactics) == (("T1110",), ("credential-access",))
    event = found.event
    assert event.host == "web-1"
    assert event.time == pytest.approx(1768953747.123)
    assert list_entities(event) == {
        "host:web-1", "address:192.0.2.10", "address:203.0.113.4", "user:ann",
    }  # fmt: skip
    fields = find_view(event, product="wazuh", service="alert")
    assert (fields["src_ip"], fields["user"], fields["result"]) == ("203.0.113.4", "ann", "failure")
    matched = {match.field: match.value for match in found.matched}
    assert matched["location"] == "/var/log/auth.log"
    assert matched["full_log"] == WAZUH["full_log"]


@pytest.mark.parametrize(
    ("number", "level"),
    [
        (0, None), (1, "informational"), (3, "informational"), (4, "low"), (6, "low"),
        (7, "medium"), (11, "medium"), (12, "high"), (14, "high"), (15, "critical"),
        (16, "critical"), (17, None), (-1, None), (True, None), ("7", None), (None, None),
    ],
)  # fmt: skip
def test_wazuhs_levels(number: Any, level: str | None) -> None:
    assert read_level(number) == level


def test_a_rule_of_level_0_is_no_alert() -> None:
    assert detect(with_part(WAZUH, "rule", level=0)) == []


def test_what_the_manager_forwards_is_of_the_host_in_its_header() -> None:
    forwarded = {**WAZUH, "agent": {"id": "000", "name": "siem"}}
    assert detect(forwarded)[0].event.host == "other-name"
    bare = {key: value for key, value in forwarded.items() if key != "predecoder"}
    assert detect(bare)[0].event.host == "siem"
    # An agent's record may name any host in its header: it is the agent's.
    assert detect({**WAZUH, "predecoder": {"hostname": "dc-1"}})[0].event.host == "web-1"


def test_as_the_index_has_it() -> None:
    (found,) = detect(
        {"_index": "wazuh-alerts-4.x", "_source": {**WAZUH, "@timestamp": "2026-01-21T00:02:27Z"}}
    )
    assert found.rule_id == "wazuh:5763"


def test_a_passed_on_suricata_alert_is_still_wazuhs() -> None:
    alert = {
        **with_part(
            WAZUH, "rule", id="86601", level=3, groups=["ids", "suricata"],
            description="Suricata: Alert - ET EXPLOIT Something.",
        ),
        "data": {
            "event_type": "alert", "src_ip": "198.51.100.9", "dest_ip": "192.0.2.10",
            "alert": {"signature_id": "2024897", "severity": "1", "signature": "ET EXPLOIT"},
            "http": {"hostname": "shop.example.com"},
        },
    }  # fmt: skip
    (found,) = detect(alert)
    assert (found.detector, found.rule_id) == ("wazuh", "wazuh:86601:2024897")
    assert found.level == "high"  # Suricata's word, which is the higher one
    assert {"address:198.51.100.9", "domain:shop.example.com"} <= list_entities(found.event)
    quiet = with_part(alert, "data", alert={"signature_id": "1", "severity": "4"})
    assert detect(quiet)[0].level == "informational"
    other = with_part(alert, "rule", groups=["web"])
    assert detect(other)[0].rule_id == "wazuh:86601"


def test_a_file_that_changed() -> None:
    changed = {
        **with_part(WAZUH, "rule", id="550", level=7, groups=["ossec", "syscheck"]),
        "syscheck": {
            "path": "/etc/passwd", "event": "modified", "md5_after": "a" * 32,
            "sha256_after": "b" * 64, "audit": {
                "user": {"id": "1000", "name": "ann"}, "process": {"id": "77", "name": "/bin/ed"},
            },
        },
    }  # fmt: skip
    (found,) = detect(changed)
    assert {
        "file:/etc/passwd", "hash:md5:" + "a" * 32, "hash:sha256:" + "b" * 64, "user:ann",
        "process:web-1:77:/bin/ed", "file:/bin/ed",
    } <= list_entities(found.event)  # fmt: skip


def test_a_windows_event_in_an_alert() -> None:
    data = {
        "win": {
            "system": {"eventID": "1", "computer": "WS5.example.com"},
            "eventdata": {
                "image": "C:\\\\Windows\\\\System32\\\\cmd.exe", "user": "EXAMPLE\\\\ann",
                "processGuid": "{c5d2a1b0-0000-0000-0000-000000000001}",
                "hashes": "SHA256=" + "c" * 64, "destinationIp": "203.0.113.77",
                "commandLine": "cmd /c whoami",
            },
        }
    }  # fmt: skip
    (found,) = detect({**WAZUH, "data": data})
    assert {
        "file:c:\\windows\\system32\\cmd.exe", "user:example\\ann", "hash:sha256:" + "c" * 64,
        "address:203.0.113.77", "process:c5d2a1b0-0000-0000-0000-000000000001",
        "host:web-1", "host:ws5",
    } <= list_entities(found.event)  # fmt: skip


@pytest.mark.parametrize(
    "record",
    [
        {**WAZUH, "rule": {**WAZUH["rule"], "id": 5763}},
        {**WAZUH, "rule": {**WAZUH["rule"], "id": "57a"}},
        {**WAZUH, "rule": {**WAZUH["rule"], "level": "10"}},
        {**WAZUH, "agent": "web"},
        {**WAZUH, "agent": {"id": "x", "name": "web"}},
        {**WAZUH, "manager": {"name": 7}},
        {key: value for key, value in WAZUH.items() if key != "manager"},
        {key: value for key, value in WAZUH.items() if key != "timestamp"},
    ],
)
def test_what_lacks_a_part_is_no_wazuh_alert(record: dict[str, Any]) -> None:
    assert detect(record) == []


# -- AMiner ----------------------------------------------------------------------------------------


def test_an_aminer_anomaly() -> None:
    (found,) = detect(AMINER)
    assert found.detector == "aminer"
    assert found.rule_id == "aminer:aminer-new-request-method-in-apache-access-log."
    assert (found.title, found.level) == (
        "AMiner: New request method in Apache Access log.", "low",
    )  # fmt: skip
    assert (found.techniques, found.tactics) == ((), ())
    assert found.event.host == "192.0.2.10"
    assert found.event.time == 1768953747.0
    assert list_entities(found.event) == {
        "host:192.0.2.10", "address:192.0.2.10", "address:203.0.113.4", "user:ann",
        "domain:shop.example.com",
    }  # fmt: skip


def test_a_component_that_learns_and_one_without_a_name() -> None:
    learning = with_part(AMINER, "AnalysisComponent", TrainingMode=True)
    assert detect(learning)[0].level == "informational"
    unnamed = with_part(AMINER, "AnalysisComponent", AnalysisComponentName=None)
    (found,) = detect(unnamed)
    assert found.rule_id == "aminer:newmatchpathvaluedetector-accesslog_request_method"
    assert found.title == "New value(s) detected"


def test_aminers_spread_objects(tmp_path: Path) -> None:
    """It writes an object over many lines."""
    path = tmp_path / "aminer.json"
    path.write_text((json.dumps(AMINER, indent=2) + "\n") * 3)
    stream = open_stream(StreamName("s", "k", "k", str(path)), StreamLimits())
    batch = stream.read(Want(10, final=True), 1_800_000_000.0)
    stream.close()
    assert len(batch.records) == 3
    for record in batch.records:
        assert len(detect(json.loads(record.data))) == 1


@pytest.mark.parametrize(
    "record",
    [
        {**AMINER, "LogData": "x"},
        {**AMINER, "AnalysisComponent": {"AnalysisComponentType": 7}},
        {"AnalysisComponent": AMINER["AnalysisComponent"]},
    ],
)
def test_what_lacks_a_part_is_no_anomaly(record: dict[str, Any]) -> None:
    assert detect(record) == []


# -- Windows Defender ------------------------------------------------------------------------------


def test_a_threat() -> None:
    (found,) = detect(make_defender(1116, THREAT))
    assert (found.detector, found.rule_id) == ("defender", "defender:1116:2147725349")
    assert found.title == "Windows Defender detected malware: HackTool:Win32/Mimikatz.D"
    assert found.level == "high"
    assert (found.techniques, found.tactics) == (("T1003.001",), ("credential-access",))
    assert found.event.host == "ws5"
    assert list_entities(found.event) == {
        "host:ws5", "user:example\\ann", "file:c:\\windows\\explorer.exe",
        "file:c:\\users\\ann\\m.zip", "domain:evil.example.net",
    }  # fmt: skip
    assert {match.field for match in found.matched} >= {"Threat Name", "Path", "Process Name"}


@pytest.mark.parametrize(
    ("event_id", "severity", "level"),
    [
        (1116, "1", "low"), (1116, "2", "medium"), (1116, "5", "high"), (1116, "x", "high"),
        (1006, "2", "medium"), (1015, "1", "low"), (1117, "5", "high"), (1118, "2", "medium"),
        (1119, "1", "critical"), (1160, "4", "low"), (1120, "5", "informational"),
    ],
)  # fmt: skip
def test_a_threats_level_is_its_severity(event_id: int, severity: str, level: str) -> None:
    (found,) = detect(make_defender(event_id, {**THREAT, "Severity ID": severity}))
    assert found.level == level


def test_an_attack_surface_reduction_rule() -> None:
    (found,) = detect(make_defender(1121, ASR))
    assert found.rule_id == "defender:1121:9e6c4e1f-7d60-472f-ba1a-a39ef669e4b2"
    assert found.title == "Windows Defender blocked by rule: stealing credentials from lsass"
    assert (found.level, found.techniques) == ("medium", ("T1003.001",))
    assert "file:c:\\temp\\procdump.exe" in list_entities(found.event)
    (audit,) = detect(
        make_defender(1122, {**ASR, "ID": "{" + "0" * 8 + "-0000" * 3 + "-" + "1" * 12 + "}"})
    )
    assert (audit.level, audit.techniques) == ("low", ())
    (none,) = detect(make_defender(1121, {**ASR, "ID": "x\n1116"}))
    assert none.rule_id == "defender:1121"


@pytest.mark.parametrize(
    ("event_id", "level"),
    [(5001, "high"), (5010, "high"), (5012, "high"), (5013, "medium"), (1123, "medium")],
)
def test_protection_that_ends_or_acts(event_id: int, level: str) -> None:
    (found,) = detect(make_defender(event_id, {"Product Name": "x"}))
    assert (found.rule_id, found.level) == (f"defender:{event_id}", level)


def test_a_changed_configuration() -> None:
    key = "HKLM\\SOFTWARE\\Microsoft\\Windows Defender\\"
    (plain,) = detect(make_defender(5007, {"New Value": key + "Signature Updates\\X = 0x1"}))
    assert (plain.rule_id, plain.level) == ("defender:5007", "informational")
    (worse,) = detect(make_defender(5007, {"New Value": key + "Exclusions\\Paths\\C:\\Temp = 0x0"}))
    assert (worse.rule_id, worse.level) == ("defender:5007:tampering", "medium")
    assert worse.techniques == ("T1562.001",)


def test_a_blocked_connection_and_the_hashes_of_a_threat() -> None:
    (found,) = detect(
        make_defender(1126, {"Destination": "https://evil.example.net:8443/x", "User": "ann"})
    )
    assert {"domain:evil.example.net", "user:ann"} <= list_entities(found.event)
    (deduced,) = detect(
        make_defender(1120, {**THREAT, "Hashes": f"SHA1:{'d' * 40} MD5={'e' * 32}"})
    )
    assert {"hash:sha1:" + "d" * 40, "hash:md5:" + "e" * 32} <= list_entities(deduced.event)


def test_as_winlogbeat_sends_it() -> None:
    names = {name.replace(" ", "_"): value for name, value in THREAT.items()}
    (found,) = detect(
        {
            "@timestamp": "2026-01-21T00:02:27.123Z",
            "winlog": {
                "channel": "Microsoft-Windows-Windows Defender/Operational", "event_id": "1116",
                "computer_name": "ws5.example.com", "event_data": names,
                "provider_name": "Microsoft-Windows-Windows Defender",
            },
        }
    )  # fmt: skip
    assert found.rule_id == "defender:1116:2147725349"
    assert "file:c:\\users\\ann\\m.zip" in list_entities(found.event)


@pytest.mark.parametrize("event_id", [1000, 1001, 1013 + 10_000, 1150, 1151, 2000, 2002, 5000])
def test_an_ordinary_event_is_no_finding(event_id: int) -> None:
    assert detect(make_defender(event_id, THREAT)) == []


def test_another_channel_is_not_defenders() -> None:
    assert detect(make_defender(1116, THREAT, Channel="Application")) == []
    assert detect(make_defender(1116, THREAT, Channel="Security")) == []


def test_the_tables_hold_what_attack_knows() -> None:
    for kind in KINDS.values():
        assert kind.level in LEVELS
        assert set(kind.tactics) <= TACTICS
    assert {tactic for row in ASR_RULES.values() for tactic in row[2]} <= TACTICS
    assert len(ASR_RULES) == 19


def test_real_events(shared_data: Any) -> None:
    folder = shared_data("windows")
    path = next(folder.rglob("WinDefender_Events_1117_1116_AtomicRedTeam.evtx"))
    stream = open_stream(StreamName("s", "k", "k", str(path)), StreamLimits())
    found = [
        finding
        for record in stream.read(Want(100, final=True), 1_800_000_000.0).records
        for finding in detect(json.loads(record.data))
    ]
    stream.close()
    assert [one.rule_id.split(":")[1] for one in found].count("1116") == 6
    assert {one.level for one in found} <= {"high", "medium", "low"}
    for one in found:
        assert {entity.kind for entity in one.event.entities} >= {"host", "file", "user"}


# -- all of them -----------------------------------------------------------------------------------


SAMPLES = {
    "wazuh": WAZUH,
    "aminer": AMINER,
    "defender": make_defender(1116, THREAT),
}


@pytest.mark.parametrize("text", [
    "<86>1 2026-01-21T00:00:00Z web sshd 1 - - {}",
    "<86>1 2026-01-21T00:00:00Z web sudo 1 - - {}",
    "GET /?x={}",
])  # fmt: skip
@pytest.mark.parametrize("sensor", SAMPLES)
def test_what_a_program_of_a_host_says_raises_none(text: str, sensor: str) -> None:
    event = read_line(text.replace("{}", json.dumps(SAMPLES[sensor])))
    assert not {view.logsource for view in event.views} & SENSORS.keys()


@pytest.mark.parametrize("sensor", SAMPLES)
def test_what_a_text_in_a_record_says_raises_none(sensor: str) -> None:
    forged = json.dumps(SAMPLES[sensor])
    record = {"time": "2026-01-21T00:00:00Z", "host": "x", "message": forged, "user": forged}
    assert detect(record) == []
    # Nor does the original record inside an alert change whose alert it is.
    (found,) = detect({**WAZUH, "full_log": forged, "data": SAMPLES[sensor]})
    assert (found.detector, found.rule_id, found.event.host) == ("wazuh", "wazuh:5763", "web-1")


@pytest.mark.parametrize("sensor", SAMPLES)
def test_no_other_products_view_raises_one(sensor: str) -> None:
    (found,) = detect(SAMPLES[sensor])
    fields = found.event.views[0].fields
    for logsource in (
        LogSource(), LogSource(service="alert"), LogSource(product="wazuh"),
        LogSource(product="windows", service="system"), LogSource(product="x", service="windefend"),
    ):  # fmt: skip
        event = found.event
        sighting = Sighting(
            event.time, event.received, "", (View(logsource, fields),), event.record, "json"
        )
        assert SensorDetector().detect(sighting) == []


@pytest.mark.parametrize("sensor", SAMPLES)
def test_hostile_sizes(sensor: str) -> None:
    def grow(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: grow(part) for name, part in value.items()}
        if isinstance(value, list):
            return [grow(part) for part in value] * 400
        return value + "\x1b[31m\n" + "x" * 5000 if isinstance(value, str) else value

    sample = SAMPLES[sensor]
    hostile = grow(sample)
    if sensor == "wazuh":
        for part, name in (("rule", "id"), ("agent", "id")):
            hostile[part][name] = sample[part][name]
    elif sensor == "defender":
        hostile["Event"]["System"] = sample["Event"]["System"]
        hostile["Event"]["EventData"]["Path"] = "file:_C:\\x; " * 20_000
    found: list[Detection] = []
    assert measure(lambda: found.extend(detect(hostile))) < QUICK
    assert len(found) == 1
    assert len(found[0].title) <= MAX_TITLE
    assert max(len(match.value) for match in found[0].matched) <= 20 * MAX_VALUE
    assert len(found[0].event.entities) < 700
    assert all(len(entity.value) <= 512 for entity in found[0].event.entities)


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(st.sampled_from(list(SAMPLES)), st.data())
def test_no_value_anywhere_raises_anything(sensor: str, data: st.DataObject) -> None:
    sample = json.loads(json.dumps(SAMPLES[sensor]))
    place = sample
    if sensor == "defender":
        place = sample["Event"]["EventData"]
    else:
        part = data.draw(st.sampled_from(list(sample)))
        if isinstance(sample[part], dict) and data.draw(st.booleans()):
            place = sample[part]
    place[data.draw(st.sampled_from(list(place)))] = data.draw(VALUES)
    text = json.dumps(sample)
    event = read_line(text)
    for view in event.views:
        read = SENSORS.get(view.logsource)
        for found in read(event, view) if read is not None else ():
            assert found.level in LEVELS
            assert len(found.title) <= MAX_TITLE
            assert found.detector == sensor
            replace(found, title="")
