"""Normalise: every product's shapes in Sigma's words, forged lines, and any record at all."""

import json
import tracemalloc
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.decode import decode
from appliance.normalise import FED, entities, feeds, linux, matches, normalise
from appliance.normalise.bridges import read_context, shorten_registry_path
from appliance.normalise.channels import CHANNELS, SERVICES
from appliance.normalise.entities import (
    MAX_VALUE,
    cap_value,
    make_address,
    make_domain,
    make_file,
    make_hashes,
    make_host,
    make_process,
    make_session,
    make_user,
    name_host,
)
from appliance.normalise.flatten import MAX_NAME, flatten
from appliance.normalise.reading import Context
from appliance.normalise.times import read_time
from appliance.normalise.trim import MAX_CHILDREN, MAX_NODES, REST, is_wide, trim, write_json
from appliance.schema import Cursor, Decoded, Event, LogSource, RawRecord, event_id

#: 2026-03-01 12:00 UTC.
RECEIVED = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
CET = timezone(timedelta(hours=1))


def make_record(data: bytes, received: float = RECEIVED) -> RawRecord:
    return RawRecord(
        data=data,
        source="test",
        path="/var/log/sample.log",
        logical="sample.log",
        cursor=Cursor("test", "sample.log", 0, len(data)),
        received=received,
    )


def read(line: str | dict[str, Any], received: float = RECEIVED, zone: timezone = UTC) -> Event:
    text = json.dumps(line) if isinstance(line, dict) else line
    record = make_record(text.encode("utf-8", "surrogateescape"), received)
    return normalise(record, decode(record), zone=zone).event


def find_fields(event: Event, **parts: str) -> dict[str, Any]:
    """The fields of the one view of product windows or linux with these parts."""
    found = [
        view.fields
        for view in event.views
        if all(getattr(view.logsource, name) == value for name, value in parts.items())
    ]
    assert len(found) == 1, (parts, [view.logsource for view in event.views])
    return found[0]


def list_values(event: Event, kind: str) -> set[str]:
    return {entity.value for entity in event.entities if entity.kind == kind}


SYSMON_DATA = {
    "UtcTime": "2026-03-01 11:00:00.250",
    "ProcessGuid": "{11111111-2222-3333-4444-555555555555}",
    "ProcessId": 4120,
    "Image": "C:\\Windows\\System32\\whoami.exe",
    "CommandLine": "whoami /all",
    "User": "EXAMPLE\\ann",
    "LogonId": "0x9f1",
    "IntegrityLevel": "High",
    "Hashes": "MD5=" + "AB" * 16 + ",SHA256=" + "CD" * 32 + ",IMPHASH=" + "00" * 16,
    "ParentProcessGuid": "{11111111-2222-3333-4444-666666666666}",
    "ParentImage": "C:\\Windows\\System32\\cmd.exe",
}
SYSMON_CHANNEL = "Microsoft-Windows-Sysmon/Operational"


def make_xml_event(
    event_id: int, channel: str | None, data: Any, provider: str = "Example", **parts: Any
) -> dict[str, Any]:
    return {
        "Event": {
            "#attributes": {"xmlns": "http://schemas.microsoft.com/win/2004/08/events/event"},
            "System": {
                "Provider": {"#attributes": {"Name": provider}},
                "EventID": event_id,
                "Level": 4,
                "Keywords": "0x8020000000000000",
                "TimeCreated": {"#attributes": {"SystemTime": "2026-03-01T11:00:00.250000Z"}},
                "Channel": channel,
                "Computer": "WS1.example.test",
                "Security": {"#attributes": {"UserID": "S-1-5-18"}},
            },
            **({"EventData": data} if data is not None else {}),
            **parts,
        }
    }


WINLOG = {
    "channel": SYSMON_CHANNEL,
    "event_id": "1",
    "provider_name": "Microsoft-Windows-Sysmon",
    "computer_name": "WS1.example.test",
    "event_data": SYSMON_DATA,
}
SYSMON_SHAPES: dict[str, dict[str, Any]] = {
    "evtx": make_xml_event(1, SYSMON_CHANNEL, SYSMON_DATA, "Microsoft-Windows-Sysmon"),
    "xmltodict": {
        "Event": {
            "System": {
                "Provider": {"@Name": "Microsoft-Windows-Sysmon"},
                "EventID": "1",
                "TimeCreated": {"@SystemTime": "2026-03-01T11:00:00.250000Z"},
                "Channel": SYSMON_CHANNEL,
                "Computer": "WS1.example.test",
            },
            "EventData": {
                "Data": [{"@Name": name, "#text": value} for name, value in SYSMON_DATA.items()]
            },
        }
    },
    "winlogbeat": {"@timestamp": "2026-03-01T11:00:00.250Z", "winlog": WINLOG},
    "winlogbeat dotted": {
        "@timestamp": "2026-03-01T11:00:00.250Z",
        **{f"winlog.{name}": value for name, value in WINLOG.items() if name != "event_data"},
        **{f"winlog.event_data.{name}": value for name, value in SYSMON_DATA.items()},
    },
    "winlogbeat 6": {
        "@timestamp": "2026-03-01T11:00:00.250Z",
        "log_name": SYSMON_CHANNEL,
        "event_id": 1,
        "source_name": "Microsoft-Windows-Sysmon",
        "computer_name": "WS1.example.test",
        "event_data": SYSMON_DATA,
    },
    "exported document": {
        "_index": "x",
        "_source": {"@timestamp": "2026-03-01T11:00:00.250Z", "winlog": WINLOG},
    },
    "nxlog": {
        **SYSMON_DATA,
        "EventID": 1,
        "Channel": SYSMON_CHANNEL,
        "SourceName": "Microsoft-Windows-Sysmon",
        "Hostname": "WS1.example.test",
        "host": "collector.example.test",
        "EventTime": "2026-03-01 06:00:00",
        "@timestamp": "2026-03-01T11:00:03.000Z",
    },
}


@pytest.mark.parametrize("shape", SYSMON_SHAPES)
def test_sysmon_process_in_every_shape(shape: str) -> None:
    event = read(SYSMON_SHAPES[shape])
    assert event.mapped
    assert event.time_known
    assert event.time == pytest.approx(RECEIVED - 3600 + 0.25)
    assert event.host == "ws1"
    fields = find_fields(event, category="process_creation")
    assert fields["EventID"] == 1
    assert type(fields["EventID"]) is int
    assert fields["Channel"] == SYSMON_CHANNEL
    assert fields["Provider_Name"] == "Microsoft-Windows-Sysmon"
    assert fields["Computer"] == "WS1.example.test"
    assert {name: fields[name] for name in SYSMON_DATA} == SYSMON_DATA
    assert find_fields(event, service="sysmon") is fields
    assert list_values(event, "host") == {"ws1"}
    assert list_values(event, "user") == {"example\\ann"}
    assert list_values(event, "session") == {"ws1:0x9f1"}
    assert list_values(event, "hash") == {"md5:" + "ab" * 16, "sha256:" + "cd" * 32}
    assert list_values(event, "process") == {
        "11111111-2222-3333-4444-555555555555",
        "11111111-2222-3333-4444-666666666666",
    }
    assert list_values(event, "file") == {
        "c:\\windows\\system32\\whoami.exe",
        "c:\\windows\\system32\\cmd.exe",
    }


def test_windows_event_inside_syslog() -> None:
    body = json.dumps(SYSMON_SHAPES["nxlog"])
    event = read(f"<14>1 2026-03-01T11:00:05Z relay nxlog - - - {body}")
    assert event.format == "syslog5424"
    assert event.host == "ws1"
    assert find_fields(event, category="process_creation")["CommandLine"] == "whoami /all"


def test_sysmon_export_without_channel() -> None:
    event = read({**SYSMON_DATA, "EventId": 1})
    assert event.host == ""
    fields = find_fields(event, category="process_creation")
    assert fields["EventID"] == 1
    assert fields["Channel"] == SYSMON_CHANNEL
    assert not list_values(event, "host")


@pytest.mark.parametrize(
    ("event_id", "event_type", "categories"),
    [
        (12, "CreateKey", {"registry_event", "registry_add"}),
        (12, "DeleteValue", {"registry_event", "registry_delete"}),
        (12, "odd", {"registry_event", "registry_add", "registry_delete"}),
        (13, "SetValue", {"registry_event", "registry_set"}),
        (14, "RenameKey", {"registry_event", "registry_rename"}),
        (18, "ConnectPipe", {"pipe_created"}),
        (26, None, {"file_delete", "file_delete_detected"}),
        (99, None, set()),
    ],
)
def test_sysmon_categories(event_id: int, event_type: str | None, categories: set[str]) -> None:
    data = {"EventType": event_type, "TargetObject": "HKLM\\x"}
    event = read(make_xml_event(event_id, SYSMON_CHANNEL, data))
    assert {view.logsource.category for view in event.views} == {None, *categories}
    assert event.views[0].logsource == CHANNELS[SYSMON_CHANNEL.lower()]


def test_4688_is_process_creation() -> None:
    data = {
        "SubjectUserName": "ann",
        "SubjectDomainName": "EXAMPLE",
        "SubjectLogonId": "0x9f1",
        "NewProcessId": "0x1018",
        "NewProcessName": "C:\\Windows\\System32\\whoami.exe",
        "ProcessId": "0x2b8",
        "ParentProcessName": "C:\\Windows\\System32\\cmd.exe",
        "CommandLine": "whoami /all",
        "MandatoryLabel": "S-1-16-12288",
        "TargetUserName": "-",
        "TargetDomainName": "-",
        "TargetLogonId": "0x0",
    }
    event = read(make_xml_event(4688, "Security", data))
    original = find_fields(event, service="security")
    assert original["ProcessId"] == "0x2b8"
    assert original["TargetUserName"] == "-"
    assert "Image" not in original
    fields = find_fields(event, category="process_creation")
    assert fields["Image"] == "C:\\Windows\\System32\\whoami.exe"
    assert fields["ParentImage"] == "C:\\Windows\\System32\\cmd.exe"
    assert (fields["ProcessId"], fields["ParentProcessId"]) == (0x1018, 0x2B8)
    assert fields["User"] == "EXAMPLE\\ann"
    assert fields["IntegrityLevel"] == "High"
    assert fields["NewProcessName"] == fields["Image"]
    assert "OriginalFileName" not in fields
    assert list_values(event, "process") == {
        "ws1:4120:c:\\windows\\system32\\whoami.exe",
        "ws1:696:c:\\windows\\system32\\cmd.exe",
    }


@pytest.mark.parametrize(
    ("kind", "value", "details"),
    [
        ("%%1876", "1", "DWORD (0x00000001)"),
        ("%%1876", "0x10", "DWORD (0x00000010)"),
        ("%%1883", "4294967297", "QWORD (0x00000001-0x00000001)"),
        ("%%1875", "00ff", "Binary Data"),
        ("%%1873", "calc.exe", "calc.exe"),
    ],
)
def test_4657_is_registry_set(kind: str, value: str, details: str) -> None:
    data = {
        "ObjectName": "\\REGISTRY\\MACHINE\\SYSTEM\\ControlSet001\\Control\\Lsa",
        "ObjectValueName": "RunAsPPL",
        "OperationType": "%%1905",
        "NewValueType": kind,
        "NewValue": value,
        "ProcessName": "C:\\Windows\\regedit.exe",
    }
    event = read(make_xml_event(4657, "Security", data))
    fields = find_fields(event, category="registry_set")
    assert fields["TargetObject"] == "HKLM\\SYSTEM\\CurrentControlSet\\Control\\Lsa\\RunAsPPL"
    assert fields["Details"] == details
    assert fields["Image"] == "C:\\Windows\\regedit.exe"
    assert find_fields(event, category="registry_event")["EventType"] == "SetValue"


def test_4657_deletion_is_registry_delete() -> None:
    data = {"ObjectName": "\\REGISTRY\\USER\\S-1-5-21-1\\Software", "OperationType": "%%1906"}
    event = read(make_xml_event(4657, "Security", data))
    fields = find_fields(event, category="registry_delete")
    assert fields["TargetObject"] == "HKU\\S-1-5-21-1\\Software"
    assert "registry_set" not in {view.logsource.category for view in event.views}


def test_registry_path_is_shortened_at_its_beginning_only() -> None:
    assert shorten_registry_path("\\REGISTRY\\MACHINERY\\x") == "\\REGISTRY\\MACHINERY\\x"
    assert shorten_registry_path("HKLM\\\\REGISTRY\\MACHINE") == "HKLM\\\\REGISTRY\\MACHINE"


def test_5156_is_network_connection() -> None:
    data = {
        "ProcessID": 812,
        "Application": "\\device\\harddiskvolume2\\windows\\system32\\svchost.exe",
        "Direction": "%%14593",
        "SourceAddress": "192.0.2.10",
        "SourcePort": "50000",
        "DestAddress": "203.0.113.7",
        "DestPort": "443",
        "Protocol": "6",
    }
    event = read(make_xml_event(5156, "Security", data))
    fields = find_fields(event, category="network_connection")
    assert fields["Image"] == data["Application"]
    assert (fields["DestinationIp"], fields["DestinationPort"]) == ("203.0.113.7", "443")
    assert (fields["Initiated"], fields["Protocol"]) == ("true", "tcp")
    assert find_fields(event, service="security")["Protocol"] == "6"
    assert list_values(event, "address") == {"192.0.2.10", "203.0.113.7"}


def test_4663_is_file_access_for_files_only() -> None:
    data = {"ObjectType": "File", "ObjectName": "C:\\secret.txt", "ProcessName": "C:\\a.exe"}
    fields = find_fields(read(make_xml_event(4663, "Security", data)), category="file_access")
    assert (fields["FileName"], fields["Image"]) == ("C:\\secret.txt", "C:\\a.exe")
    event = read(make_xml_event(4663, "Security", {**data, "ObjectType": "Key"}))
    assert [view.logsource.service for view in event.views] == ["security"]


@pytest.mark.parametrize(
    ("channel", "number", "category"),
    [
        ("Microsoft-Windows-PowerShell/Operational", 4104, "ps_script"),
        ("PowerShellCore/Operational", 4104, "ps_script"),
        ("Microsoft-Windows-PowerShell/Operational", 4103, "ps_module"),
        ("Microsoft-Windows-DNS-Client/Operational", 3008, "dns_query"),
    ],
)
def test_events_that_only_change_their_category(channel: str, number: int, category: str) -> None:
    data = {"ScriptBlockText": "x", "Payload": "x", "QueryName": "evil.example.test."}
    event = read(make_xml_event(number, channel, data))
    assert find_fields(event, category=category) == event.views[0].fields
    assert list_values(event, "domain") == {"evil.example.test"}


CLASSIC = (
    "\tNewEngineState=Available\r\n\tPreviousEngineState=None\r\n\r\n\tHostName=ConsoleHost\r\n"
    "\tHostApplication=powershell.exe -nop -c $a=1\r\nEngineVersion is a word here\r\n"
    "\tHostApplication=forged.exe\r\n\tEngineVersion=5.1\r\n\tCommandLine="
)


def test_classic_powershell_start() -> None:
    data = {"Data": {"#text": ["Available", "None", CLASSIC]}}
    event = read(make_xml_event(400, "Windows PowerShell", data))
    fields = find_fields(event, category="ps_classic_start")
    assert fields["HostApplication"].startswith("powershell.exe -nop -c $a=1\n")
    assert fields["EngineVersion"] == "5.1"
    assert fields["Data"] == ["\n".join(["Available", "None", CLASSIC]), *data["Data"]["#text"]]
    assert fields["param1"] == "Available"
    assert "HostApplication" not in find_fields(event, service="powershell-classic")


def test_classic_powershell_command_line_can_not_replace_what_stands_before_it() -> None:
    forged = CLASSIC.replace("-c $a=1", "-c $a=1\r\n\tHostName=forged")
    context = read_context(forged)
    assert context["HostName"] == "ConsoleHost"
    assert "HostName=forged" in context["HostApplication"]
    assert "HostApplication=forged.exe" in context["HostApplication"]


def test_classic_powershell_export_keeps_the_text_as_data() -> None:
    event = read(
        {"EventID": 600, "Channel": "Windows PowerShell", "Message": f"Provider x\n{CLASSIC}"}
    )
    fields = find_fields(event, category="ps_classic_provider_start")
    assert fields["HostApplication"].startswith("powershell.exe")


def test_classic_powershell_pipeline_is_script_and_module() -> None:
    parts = ["line", "\tHostApplication=powershell.exe", 'CommandInvocation(iex): "iex"']
    event = read(make_xml_event(800, "Windows PowerShell", {"Data": {"#text": parts}}))
    assert find_fields(event, category="ps_classic_script")["HostApplication"] == "powershell.exe"
    module = find_fields(event, category="ps_module")
    assert module["Payload"] == 'CommandInvocation(iex): "iex"'
    assert module["ContextInfo"] == "HostApplication=powershell.exe"


def test_defender_is_antivirus_and_names_have_no_blanks() -> None:
    data = {"Threat Name": "Trojan:Win32/Example", "Path": "file:_C:\\Temp\\x.exe"}
    event = read(make_xml_event(1116, "Microsoft-Windows-Windows Defender/Operational", data))
    fields = find_fields(event, category="antivirus")
    assert (fields["Signature"], fields["Filename"]) == ("Trojan:Win32/Example", "C:\\Temp\\x.exe")
    original = find_fields(event, service="windefend")
    assert original["ThreatName"] == original["Threat_Name"] == original["Threat Name"]


def test_user_data_is_flattened_and_can_not_replace_the_channel() -> None:
    data = {
        "LogFileCleared": {
            "#attributes": {"xmlns": "x"},
            "SubjectUserName": "ann",
            "Channel": "Forged",
        }
    }
    event = read(make_xml_event(1102, "Security", None, UserData=data))
    fields = find_fields(event, service="security")
    assert fields["SubjectUserName"] == "ann"
    assert fields["Channel"] == "Security"


def test_event_data_can_not_replace_the_core_fields() -> None:
    data = {"EventID": 1, "Channel": SYSMON_CHANNEL, "Computer": "dc1", "Provider_Name": "x"}
    event = read(make_xml_event(4688, "Security", data))
    fields = find_fields(event, service="security")
    assert (fields["EventID"], fields["Channel"], event.host) == (4688, "Security", "ws1")
    assert fields["Provider_Name"] == "Example"


def test_event_without_channel() -> None:
    """A trace converted to .evtx has none. Only a provider with one channel gets it."""
    event = read(make_xml_event(6, None, {"InterfaceUuid": "x"}, "Microsoft-Windows-RPC"))
    assert [view.logsource for view in event.views] == [LogSource(product="windows")]
    assert "Channel" not in event.views[0].fields
    event = read(make_xml_event(7045, None, {"ServiceName": "x"}, "Service Control Manager"))
    assert find_fields(event, service="system")["Channel"] == "System"


def test_unknown_channel_is_still_windows() -> None:
    event = read(make_xml_event(131, "Microsoft-Windows-Example/Operational", {}))
    assert event.mapped
    assert [view.logsource for view in event.views] == [LogSource(product="windows")]


def test_nxlog_values_take_windows_form() -> None:
    event = read(
        {
            "EventID": "4625",
            "Channel": "security",
            "Hostname": "WS1",
            "Keywords": -9218868437227405312,
            "Severity": "ERROR",
            "EventTime": "2026-03-01 12:00:00",
            "tags": ["a"],
        },
        zone=CET,
    )
    fields = find_fields(event, service="security")
    assert fields["EventID"] == 4625
    assert fields["Keywords"] == "0x8010000000000000"
    assert fields["Level"] == 2
    assert event.time == RECEIVED - 3600


def test_winlogbeat_words_become_numbers() -> None:
    winlog = {**WINLOG, "channel": "Security", "event_id": 4625, "keywords": ["Audit Failure"]}
    event = read({"winlog": winlog, "log": {"level": "information"}, "message": "text"})
    fields = find_fields(event, service="security")
    assert fields["Keywords"] == ["0x8010000000000000"]
    assert (fields["Level"], fields["Message"]) == (4, "text")
    assert not event.time_known


def test_winlogbeat_params_become_data() -> None:
    data = {"param1": "a", "param2": "b"}
    event = read({"winlog": {**WINLOG, "channel": "Application", "event_data": data}})
    assert find_fields(event, service="application")["Data"] == ["a\nb", "a", "b"]


EQL_BASE = {
    "pid": 2012,
    "process_name": "cmd.exe",
    "process_path": "C:\\Windows\\System32\\cmd.exe",
    "unique_pid": "{42FC7E13-CB3E-5C05-0000-0010A0125101}",
    "timestamp": 131883571822010000,
}


@pytest.mark.parametrize(
    ("kind", "more", "category", "expected"),
    [
        (
            "process",
            {"subtype": "create", "command_line": "cmd /c id", "logon_id": 217055},
            "process_creation",
            {"Image": EQL_BASE["process_path"], "CommandLine": "cmd /c id", "LogonId": "0x34fdf"},
        ),
        ("process", {"subtype": "terminate"}, "process_termination", {"ProcessId": 2012}),
        ("image_load", {"image_path": "C:\\x.dll"}, "image_load", {"ImageLoaded": "C:\\x.dll"}),
        ("registry", {"registry_path": "HKLM\\x"}, "registry_event", {"TargetObject": "HKLM\\x"}),
        ("file", {"file_path": "C:\\a.txt"}, "file_event", {"TargetFilename": "C:\\a.txt"}),
        ("file", {"subtype": "delete", "file_path": "C:\\a"}, "file_delete", {}),
        (
            "network",
            {"subtype": "outgoing", "destination_address": "203.0.113.9"},
            "network_connection",
            {"DestinationIp": "203.0.113.9", "Initiated": "true"},
        ),
        ("dns", {"query_name": "a.example.test"}, "dns_query", {"QueryName": "a.example.test"}),
    ],
)
def test_eql_schema(
    kind: str, more: dict[str, Any], category: str, expected: dict[str, Any]
) -> None:
    event = read({**EQL_BASE, "event_type": kind, **more})
    assert event.mapped
    assert event.time == pytest.approx(1543883582.201)
    fields = find_fields(event, category=category)
    assert {name: fields.get(name) for name in expected} == expected
    assert list_values(event, "process") == {"42fc7e13-cb3e-5c05-0000-0010a0125101"}


def test_eql_registry_event_without_subtype_claims_no_more() -> None:
    event = read({**EQL_BASE, "event_type": "registry", "registry_path": "HKLM\\x"})
    assert {view.logsource.category for view in event.views} == {"registry_event"}


def test_other_event_types_are_not_eql() -> None:
    assert not read({"event_type": "dns", "src_ip": "192.0.2.1"}).mapped


# Linux ------------------------------------------------------------------------------------

#: Message -> what it must say. The address that counts is always 203.0.113.9.
SSHD_LINES: list[tuple[str, dict[str, Any]]] = [
    (
        "Accepted publickey for ann from 203.0.113.9 port 4 ssh2: RSA SHA256:abc",
        {"user": "ann", "result": "success", "auth_method": "publickey", "src_port": "4"},
    ),
    (
        "Failed password for invalid user eve from 203.0.113.9 port 4 ssh2",
        {"user": "eve", "result": "failure", "invalid_user": True},
    ),
    (
        "Failed password for x from 198.51.100.1 port 22 ssh2 from 203.0.113.9 port 4 ssh2",
        {"user": "x from 198.51.100.1 port 22 ssh2", "result": "failure"},
    ),
    (
        "Failed password for invalid user a from 198.51.100.1 port 1 ssh2: RSA b from 203.0.113.9"
        " port 4 ssh2",
        {"result": "failure"},
    ),
    ("Postponed keyboard-interactive for ann from 203.0.113.9 port 4 ssh2 [preauth]", {}),
    ("Invalid user eve from 203.0.113.9 port 4", {"user": "eve", "invalid_user": True}),
    ("Invalid user eve from 198.51.100.1 port 22 from 203.0.113.9", {"result": "failure"}),
    ("Invalid user  from 203.0.113.9", {"invalid_user": True}),
    ("Illegal user eve from 203.0.113.9", {"user": "eve"}),
    (
        "error: maximum authentication attempts exceeded for invalid user eve from 203.0.113.9"
        " port 4 ssh2 [preauth]",
        {"user": "eve", "result": "failure"},
    ),
    ("error: PAM: Authentication failure for ann from 203.0.113.9", {"user": "ann"}),
    ("error: PAM: authentication error for ann from 203.0.113.9 via 192.0.2.1", {"user": "ann"}),
    ("User ann from 203.0.113.9 not allowed because not listed in AllowUsers", {"user": "ann"}),
    (
        "User a from 198.51.100.1 not allowed because x from 203.0.113.9 not allowed because y",
        {"result": "failure"},
    ),
    (
        "Disconnected from invalid user a 198.51.100.1 port 9 203.0.113.9 port 4 [preauth]",
        {"user": "a 198.51.100.1 port 9", "invalid_user": True},
    ),
    ("Disconnected from 203.0.113.9 port 4 [preauth]", {}),
    ("Connection closed by authenticating user root 203.0.113.9 port 4 [preauth]", {}),
    ("Connection reset by 203.0.113.9 port 4", {}),
    ("Connection from 203.0.113.9 port 4 on 192.0.2.1 port 22", {}),
    ("Received disconnect from 203.0.113.9 port 4:11: Bye from 198.51.100.1", {}),
    ("error: Received disconnect from 203.0.113.9: 3: Auth fail [preauth]", {}),
    ("Did not receive identification string from 203.0.113.9 port 4", {}),
    (
        "Bad protocol version identification 'x' from 198.51.100.1' from 203.0.113.9 port 4",
        {"result": "failure"},
    ),
    ("ROOT LOGIN REFUSED FROM 203.0.113.9 port 4 [preauth]", {"result": "failure"}),
    ("fatal: Timeout before authentication for 203.0.113.9 port 4", {}),
    ("Unable to negotiate with 203.0.113.9 port 4: no matching cipher found.", {}),
    ("banner exchange: Connection from 203.0.113.9 port 4: invalid format", {}),
    (
        "reverse mapping checking getaddrinfo for evil.example.test [203.0.113.9] failed - POSSIBLE"
        " BREAK-IN ATTEMPT!",
        {},
    ),
    (
        "pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser="
        " rhost=203.0.113.9  user=ann rhost=198.51.100.1",
        {"result": "failure", "user": "ann rhost=198.51.100.1"},
    ),
    ("message repeated 2 times: [ Failed password for ann from 203.0.113.9 port 4 ssh2]", {}),
    ("[ID 800047 auth.info] Failed none for <invalid username> from 203.0.113.9 port 4 ssh2", {}),
    (
        "Failed hostbased for ann from 203.0.113.9 port 4 ssh2: RSA aa:0b, client user "
        '"ann from 198.51.100.1 port 9 ssh2", client host "pc"',
        {"user": "ann", "result": "failure", "src_port": "4"},
    ),
    (
        "Failed password for x from 198.51.100.1 port 2 ssh2: ruser y from 203.0.113.9 port 4 ssh2",
        {"user": "x from 198.51.100.1 port 2 ssh2: ruser y", "src_port": "4"},
    ),
    (
        "Disconnecting invalid user eve 203.0.113.9 port 4: Change of username or service not "
        "allowed: (eve,ssh-connection) -> (a 198.51.100.1 port 2,ssh-connection) [preauth]",
        {"result": "failure", "src_port": "4"},
    ),
    (
        "Timeout before authentication for connection from 203.0.113.9 to 192.0.2.1, pid = 7",
        {"result": None},
    ),
    ("refused connect from ann@198.51.100.1 (203.0.113.9)", {"result": "failure"}),
    (
        "ssh_dispatch_run_fatal: Connection from 203.0.113.9 port 4: Broken pipe [preauth]",
        {"src_port": "4"},
    ),
    ("Read error from remote host 203.0.113.9: Connection reset by peer", {"result": None}),
    (
        "Address 203.0.113.9 maps to a.example, but this does not map back to the address - "
        "POSSIBLE BREAK-IN ATTEMPT!",
        {"result": None},
    ),
]


@pytest.mark.parametrize(("message", "expected"), SSHD_LINES)
def test_sshd_line(message: str, expected: dict[str, Any]) -> None:
    event = read(f"Mar  1 11:00:00 bastion sshd[811]: {message}")
    fields = find_fields(event, service="sshd")
    assert fields["src_ip"] == "203.0.113.9"
    assert {name: fields.get(name) for name in expected} == expected
    assert find_fields(event, service="auth") is fields
    assert list_values(event, "address") == {"203.0.113.9"}
    assert (fields["program"], fields["pid"], fields["hostname"]) == ("sshd", "811", "bastion")
    assert fields["message"] == message
    assert event.time == RECEIVED - 3600


#: Messages of sshd that name a user and no address.
SSHD_USERS = [
    ("Disconnecting: Too many authentication failures for eve [preauth]", "eve", "failure"),
    ("input_userauth_request: invalid user eve [preauth]", "eve", "failure"),
    ("subsystem request for netconf by user eve failed, subsystem not found", "eve", None),
]


@pytest.mark.parametrize(("message", "user", "result"), SSHD_USERS)
def test_sshd_line_without_address(message: str, user: str, result: str | None) -> None:
    fields = find_fields(read(f"Mar  1 11:00:00 bastion sshd[811]: {message}"), service="sshd")
    assert (fields["user"], fields.get("result"), "src_ip" in fields) == (user, result, False)


def test_every_sshd_form_has_a_line() -> None:
    messages = [
        message.removeprefix("error: ").removeprefix("fatal: ")
        for message in ([line[0] for line in SSHD_LINES] + [line[0] for line in SSHD_USERS])
    ]
    for start, _, form in linux._SSHD:
        assert any(m.startswith(start) and form.match(m) for m in messages), form.pattern


SU_LINES = [
    ("(to root) ann on pts/0", "success"),
    ("FAILED SU (to root) ann on pts/0", "failure"),
    ("BAD SU ann to root on /dev/ttyp0", "failure"),
    ("Successful su for root by ann", "success"),
    ("FAILED su for root by ann", "failure"),
    ("failed: ttyq4 changing from ann to root", "failure"),
    ("ann to root on /dev/ttyp1", "success"),
    ("+ pts/0 ann:root", "success"),
    ("- pts/0 ann:root", "failure"),
]


@pytest.mark.parametrize(("message", "result"), SU_LINES)
def test_su_line(message: str, result: str) -> None:
    event = read(f"Mar  1 11:00:00 bastion su[5]: {message}")
    fields = find_fields(event, service="auth")
    assert (fields["user"], fields["target_user"], fields["result"]) == ("ann", "root", result)


def test_every_su_form_has_a_line() -> None:
    for _, form in linux._SU:
        assert any(form.match(message) for message, _ in SU_LINES), form.pattern


def test_sudo_line() -> None:
    event = read(
        "Mar  1 11:00:00 bastion sudo:      ann : TTY=pts/2 ; PWD=/home/ann ; USER=#-1 ;"
        " COMMAND=/bin/sh -c echo ; USER=nobody ; COMMAND=/bin/true"
    )
    fields = find_fields(event, service="sudo")
    assert fields["user"] == "ann"
    assert fields["target_user"] == "#-1"
    # What stands behind could be sudo's own word too, so rules see it as well.
    assert fields["USER"] == ["#-1", "nobody"]
    assert fields["tty"] == "pts/2"
    assert fields["pwd"] == "/home/ann"
    assert fields["command"] == "/bin/sh -c echo ; USER=nobody ; COMMAND=/bin/true"
    assert fields["COMMAND"] == [fields["command"], "/bin/true"]
    assert fields["result"] == "success"
    assert [view.logsource.service for view in event.views] == ["sudo", "auth"]


def test_sudo_directory_can_not_forge_the_command() -> None:
    event = read(
        "Mar  1 11:00:00 bastion sudo: eve : TTY=pts/2 ; PWD=/tmp/x ; USER=nobody ;"
        " COMMAND=/bin/true ; USER=root ; GROUP=adm ; COMMAND=/bin/sh"
    )
    fields = find_fields(event, service="sudo")
    assert "root" in fields["USER"]
    assert "/bin/sh" in fields["COMMAND"]


def test_sudo_long_command_hides_nothing() -> None:
    command = "/bin/sh -c " + "x" * 5000 + " end"
    event = read(f"Mar  1 11:00:00 h sudo: eve : TTY=a ; PWD=/ ; USER=root ; COMMAND={command}")
    fields = find_fields(event, service="sudo")
    assert (fields["user"], fields["USER"], fields["COMMAND"]) == ("eve", "root", command)


def test_sudo_user_with_a_blank() -> None:
    event = read(
        "Mar  1 11:00:00 h sudo: EXAMPLE\\jo doe : TTY=a ; PWD=/ ; USER=ann lee ; COMMAND=/bin/id"
    )
    fields = find_fields(event, service="sudo")
    assert (fields["user"], fields["USER"]) == ("EXAMPLE\\jo doe", "ann lee")


def test_sudo_refusal() -> None:
    event = read(
        "Mar  1 11:00:00 bastion sudo[9]: eve : 3 incorrect password attempts ; TTY=pts/0 ;"
        " PWD=/root ; USER=root ; COMMAND=/bin/ls"
    )
    fields = find_fields(event, service="sudo")
    assert (fields["user"], fields["result"]) == ("eve", "failure")
    assert fields["reason"] == "3 incorrect password attempts"


def test_cron_line() -> None:
    event = read("Mar  1 11:00:00 bastion CRON[9]: (root) CMD (  /usr/bin/id)")
    fields = find_fields(event, service="cron")
    assert (fields["user"], fields["command"]) == ("root", "  /usr/bin/id")
    assert [view.logsource.service for view in event.views] == ["cron", "syslog"]


@pytest.mark.parametrize(
    ("line", "services"),
    [
        ("Mar  1 11:00:00 h systemd[1]: Started x", ["syslog"]),
        ("Mar  1 11:00:00 h named[1]: client denied AXFR from x", ["syslog"]),
        ("<86>Mar  1 11:00:00 h daemon[1]: x", ["auth", "syslog"]),
        ("Mar  1 11:00:00 h vsftpd: pam_unix(vsftpd:auth): x", ["vsftpd", "syslog"]),
        ("Mar  1 11:00:00 h vsftpd: x", ["vsftpd", "syslog"]),
        ("Mar  1 11:00:00 h clamd[1]: /x: Trojan FOUND", ["clamav", "syslog"]),
        ("Mar  1 11:00:00 h /usr/sbin/cron[1]: x", ["cron", "syslog"]),
        ("Mar  1 11:00:00 h pkexec[1]: x", ["auth"]),
        ("Mar  1 11:00:00 h last message repeated 2 times", ["syslog"]),
    ],
)
def test_services_of_programs(line: str, services: list[str]) -> None:
    event = read(line)
    found = [view.logsource.service for view in event.views]
    if "pam_" in line:
        services = ["vsftpd", "auth", "syslog"]
    assert found == services
    assert {view.logsource.product for view in event.views} == {"linux"}
    assert event.host == "h"


def test_account_and_session_lines() -> None:
    event = read("Mar  1 11:00:00 h useradd[1]: new user: name=eve, UID=1001, GID=1001")
    assert find_fields(event, service="auth")["user"] == "eve"
    event = read(
        "Mar  1 11:00:00 h login: pam_unix(login:session): session opened for user ann(uid=1000)"
        " by root(uid=0)"
    )
    fields = find_fields(event, service="auth")
    assert (fields["user"], fields["by_user"]) == ("ann", "root")


def test_cisco_is_not_linux() -> None:
    event = read("<189>Mar  1 11:00:00 192.0.2.250: %SYS-5-CONFIG_I: x")
    assert event.host == "192.0.2.250"
    assert [view.logsource for view in event.views] == [LogSource("cisco", None, "ios")]


@pytest.mark.parametrize(
    "message",
    ["%ASA-6-302013: Built", "%SYS-SW1-5-RESTART: x", " %SEC_LOGIN-5-LOGIN_SUCCESS: x"],
)
def test_cisco_forms(message: str) -> None:
    event = read(f"<189>Mar  1 11:00:00 router 1234: {message}")
    assert not any(view.logsource.product == "linux" for view in event.views)


@pytest.mark.parametrize(
    "message",
    [
        "%bob : TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/bin/sh",
        "%SYS-5-CONFIG_I: : TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/bin/sh",
        "%",
    ],
)
def test_percent_sign_does_not_hide_a_line_of_sudo(message: str) -> None:
    event = read(f"Mar  1 11:00:00 h sudo: {message}")
    assert event.mapped
    assert find_fields(event, service="sudo")["message"] == message


def test_percent_sign_does_not_hide_a_line_of_an_unknown_program() -> None:
    assert read("Mar  1 11:00:00 h app[1]: %x 5").mapped


@pytest.mark.parametrize("program", ["sshd", "sudo", "CRON", "/usr/sbin/cron", "su", "kernel"])
@pytest.mark.parametrize("cookie", ["", "@cee: "])
@pytest.mark.parametrize("shape", ["nxlog", "evtx", "winlogbeat", "eql"])
def test_json_in_a_message_of_the_host_is_no_other_product(
    program: str, cookie: str, shape: str
) -> None:
    eql = {"event_type": "process", "pid": 1, "process_path": "x", "hostname": "ws1"}
    body = json.dumps({"hostname": "ws1", "program": "x", **SYSMON_SHAPES.get(shape, eql)})
    event = read(f"Mar  1 10:00:00 bastion {program}[1]: {cookie}{body}")
    assert event.host == "bastion"
    assert event.time == RECEIVED - 7200
    assert {view.logsource.product for view in event.views} == {"linux"}
    assert event.views[0].fields["program"] == program
    assert event.views[0].fields["hostname"] == "bastion"
    assert event.views[0].fields["message"] == cookie + body


@pytest.mark.parametrize("name", ["Event", "winlog"])
def test_field_that_marks_another_shape_does_not_hide_an_event(name: str) -> None:
    event = read({**SYSMON_SHAPES["nxlog"], name: {"x": 1}})
    assert find_fields(event, category="process_creation")["CommandLine"] == "whoami /all"


def test_http_request_does_not_name_the_host_of_the_log() -> None:
    event = read({"ts": RECEIVED, "host": "bank.example.test", "uri": "/", "host.name": "web1"})
    assert event.host == "web1"


# Any product ------------------------------------------------------------------------------


def test_unknown_record_keeps_everything() -> None:
    event = read({"a": {"b": [1, {"c": 2}]}, "host": "WS1.example.test", "ts": RECEIVED - 5})
    assert not event.mapped
    assert event.views[0].logsource == LogSource()
    assert event.views[0].fields["a.b"] == [1, '{"c":2}']
    assert event.host == "ws1"
    assert event.time == RECEIVED - 5


def test_text_is_unmapped_with_its_time() -> None:
    event = read("2026-03-01 11:00:00 hello", zone=CET)
    assert (event.mapped, event.time_known, event.time) == (False, True, RECEIVED - 7200)
    assert event.views[0].fields["message"] == "2026-03-01 11:00:00 hello"


def test_event_has_the_id_of_its_record() -> None:
    record = make_record(b'{"EventID":1}')
    assert normalise(record, decode(record), zone=UTC).event.id == event_id(record)


def make_wide(shape: str) -> str:
    """About a megabyte of one shape of small values, with the word needle at its end."""
    pairs = ",".join(f'"{number:x}":1' for number in range(90_000)) + ',"z":"needle"'
    texts = ",".join(f'"{number:x}"' for number in range(90_000)) + ',"needle"'
    event = json.dumps(make_xml_event(1, "Application", {}))[:-3]
    return {
        "long name": '{"' + "A" * 500 + '":{' + pairs + "}}",
        "name": '{"' + "A" * 100 + '":{' + pairs + "}}",
        "flat": "{" + pairs + "}",
        "empty objects": '{"a":[' + "{}," * 250_000 + '"needle"]}',
        "lists": '{"a":[' + "[1]," * 200_000 + '"needle"]}',
        "blanks": '{"EventID":1,"Channel":"Security",' + pairs.replace('":', ' y":') + "}",
        "event data": event + pairs + "}}}",
        "unnamed data": event + '"Data":[' + texts + "]}}}",
        "winlogbeat": '{"winlog":{"event_id":1,"event_data":{' + pairs + "}}}",
        "structured data": "<14>1 2026-03-01T11:00:00Z h app - - [" + "x" * 250
        + "".join(f' a{number:x}=""' for number in range(90_000)) + ' z="needle"] m',
        "elements": "<14>1 2026-03-01T11:00:00Z h app - - "
        + "".join(f"[{number:x}]" for number in range(120_000)) + '[z a="needle"] m',
        "equal elements": "<14>1 2026-03-01T11:00:00Z h app - - " + '[a b="1"]' * 90_000
        + '[z a="needle"] m',
        "syslog body": "Mar  1 11:00:00 h app[1]: {" + pairs + "}",
    }[shape]  # fmt: skip


WIDE_SHAPES = [
    "long name", "name", "flat", "empty objects", "lists", "blanks", "event data", "unnamed data",
    "winlogbeat", "structured data", "elements", "equal elements", "syslog body",
]  # fmt: skip


@pytest.mark.parametrize("shape", WIDE_SHAPES)
def test_wide_record_stays_small_and_whole(shape: str) -> None:
    line = make_wide(shape)
    event = read(line)
    for view in event.views:
        assert len(view.fields) < 4 * MAX_CHILDREN
        texts = [*view.fields]
        for value in view.fields.values():
            texts += [str(part) for part in value] if isinstance(value, list) else [str(value)]
        assert len(texts) < 8 * MAX_CHILDREN
        assert sum(map(len, texts)) < 4 * len(line)
        assert any("needle" in text for text in texts)
        assert any(name.endswith(REST) for name in view.fields)


def test_wide_part_does_not_push_out_the_others() -> None:
    data = {f"d{number}": 1 for number in range(5000)}
    record = make_xml_event(1, "Application", data)
    record["Event"] = {"EventData": data, **record["Event"]}
    event = read(record)
    assert (event.host, event.time_known, event.mapped) == ("ws1", True, True)
    fields = event.views[0].fields
    assert fields["Provider_Name"] == "Example"
    rest = json.loads(fields[REST])
    assert rest[0]["Event.EventData"] == {name: 1 for name in data if name not in fields}


def test_trimmed_record_keeps_its_own_field_of_that_name() -> None:
    event = read({REST: "mine", **{f"d{number}": 1 for number in range(3000)}})
    own, rest = event.views[0].fields[REST]
    assert json.loads(own) == "mine"
    assert len(json.loads(rest)[0][""]) == 3001 - MAX_CHILDREN


def test_nodes_are_bounded_in_all() -> None:
    kept, rest = trim({f"a{n}": {f"b{m}": [m] for m in range(500)} for n in range(500)})
    assert sum(1 for part in kept.values() for _ in part) + len(kept) <= MAX_NODES
    assert rest
    assert not is_wide({"a": [{"b": 1}] * 100})
    assert is_wide({"a": [1] * (MAX_CHILDREN + 1)})


def test_whatever_no_json_holds_is_written() -> None:
    assert json.loads(write_json({"n": 10**30, "t": "\ud800"})) == {"n": 10**30, "t": "\ud800"}


def test_long_texts_are_in_no_cache() -> None:
    """Sixteen thousand texts of a megabyte each would be 16 GB."""
    before = entities._recall_user.cache_info()
    tracemalloc.start()
    for number in range(300):
        text = f"{number}" + "x." * 50_000
        for make in (make_file, make_user, name_host, make_host, make_domain, make_address):
            make(text)
        make_hashes(text)
        make_process(text)
        make_user("x", text)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 5_000_000
    assert entities._recall_user.cache_info() == before


def test_hashes_are_capped() -> None:
    text = ",".join(f"MD5={number + 1:032x}" for number in range(50))
    assert len(make_hashes(text)) == 16


def test_long_names_are_not_repeated_for_every_leaf() -> None:
    name = "n" * (MAX_NAME + 1)
    fields = flatten({name: {str(number): {"x": 1} for number in range(1000)}})
    assert list(fields) == [name]
    assert json.loads(fields[name])["7"] == {"x": 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-01T11:00:00Z", RECEIVED - 3600),
        ("2026-03-01T11:00:00.123456789Z", RECEIVED - 3600 + 0.123456),
        ("2026-03-01T12:00:00+01:00", RECEIVED - 3600),
        ("2026-03-01 12:00:00 +0100", RECEIVED - 3600),
        ("2026-03-01 11:00:00 GMT", RECEIVED - 3600),
        ("2026-03-01 12:00:00,500", RECEIVED - 3600 + 0.5),
        ("2026/03/01 12:00:00", RECEIVED - 3600),
        ("Mar  1 12:00:00", RECEIVED - 3600),
        ("Mar 1 2026 12:00:00", RECEIVED - 3600),
        ("2026 Mar  1 12:00:00", RECEIVED - 3600),
        ("Sun Mar 01 12:00:00.25 2026", RECEIVED - 3600 + 0.25),
        ("01/Mar/2026:12:00:00 +0100", RECEIVED - 3600),
        ("01-Mar-2026 12:00:00.123", RECEIVED - 3600 + 0.123),
        ("20260301-12:00:00", RECEIVED - 3600),
        ("@4000000069a41d1a00000000", 1772363024.0),
        ("1772355600.250", 1772355600.25),
        (1772355600, 1772355600.0),
        # Digits that ISO 8601's basic form would read as a day of 1763.
        ("1763121001200", 1763121001.2),
        (1772355600250, 1772355600.25),
        (1772355600250000, 1772355600.25),
        (1772355600250000000, 1772355600.25),
        (134168292002500000, 1772355600.25),
        # A year-less time is never more than a day ahead.
        ("Mar  2 12:59:00", datetime(2026, 3, 2, 11, 59, tzinfo=UTC).timestamp()),
        ("Mar  2 13:01:00", datetime(2025, 3, 2, 12, 1, tzinfo=UTC).timestamp()),
        ("Dec 31 23:59:59", datetime(2025, 12, 31, 22, 59, 59, tzinfo=UTC).timestamp()),
        ("Feb 29 12:00:00", datetime(2024, 2, 29, 11, tzinfo=UTC).timestamp()),
        ("Dec 31 23:59:60", datetime(2025, 12, 31, 22, 59, 59, tzinfo=UTC).timestamp()),
        # None, or absurd.
        ("Feb 30 12:00:00", None),
        ("2026-13-01T00:00:00Z", None),
        ("2027-01-01T00:00:00Z", None),
        ("1601-01-01T00:00:00Z", None),
        ("0001-01-01T00:00:00+23:59", None),
        ("9" * 20, None),
        ("", None),
        ("-", None),
        (0, None),
        (True, None),
        (None, None),
        (float("inf"), None),
        ([], None),
    ],
)
def test_time_forms(text: object, expected: float | None) -> None:
    seconds = read_time(text, Context(received=RECEIVED, zone=CET))
    assert seconds == (None if expected is None else pytest.approx(expected, abs=1e-5))


@pytest.mark.parametrize(
    ("made", "value"),
    [
        (make_host("WS1.Example.Test."), "ws1"),
        (make_host("\\\\WS1"), "ws1"),
        (make_host("192.0.2.1"), "192.0.2.1"),
        (make_host("-"), None),
        (make_user("EXAMPLE\\Ann"), "example\\ann"),
        (make_user("Ann", "example.test"), "example\\ann"),
        (make_user("ann@EXAMPLE.TEST"), "example\\ann"),
        (make_user("Ann", "-"), "ann"),
        (make_user("-"), None),
        (make_user("WS1$", "EXAMPLE"), None),
        (make_user("NT AUTHORITY\\SYSTEM"), None),
        (make_user("UMFD-0", "Font Driver Host"), None),
        (make_file("C:\\A.EXE"), "c:\\a.exe"),
        (make_file("/usr/bin/Xorg"), "/usr/bin/Xorg"),
        (make_file("-"), None),
        (make_address("::ffff:192.0.2.1"), "192.0.2.1"),
        (make_address("2001:DB8:0:0::1"), "2001:db8::1"),
        (make_address("127.0.0.1"), None),
        (make_address("::1"), None),
        (make_address("0.0.0.0"), None),
        (make_address("fe80::1%eth0"), None),
        (make_address("224.0.0.251"), None),
        (make_address("-"), None),
        (make_address("1.2.3"), None),
        (make_domain("Evil.Example.Test."), "evil.example.test"),
        (make_domain("ws1"), None),
        (make_domain("192.0.2.1"), None),
        (make_process("{00000000-0000-0000-0000-000000000000}"), None),
        (make_session("h", "0x3e7"), None),
        (make_session("h", 0x3E4), None),
        (make_session("h", "0x0"), None),
        (make_session("h", "0x9F1"), "h:0x9f1"),
        (make_session("h", 2545), "h:0x9f1"),
        (make_session("h", "x"), None),
    ],
)
def test_entity_forms(made: Any, value: str | None) -> None:
    assert (made.value if made else None) == value


def test_hashes() -> None:
    assert make_hashes("MD5=" + "0" * 32) == ()
    assert make_hashes("MD5=" + "z" * 32) == ()
    assert make_hashes("SHA256=" + "a" * 63) == ()
    assert [entity.value for entity in make_hashes("A" * 40)] == ["sha1:" + "a" * 40]


def test_kerberos_service_name_is_an_account() -> None:
    event = read(make_xml_event(4769, "Security", {"ServiceName": "krbtgt"}))
    assert not list_values(event, "service")
    event = read(make_xml_event(7045, "System", {"ServiceName": "EvilSvc"}))
    assert list_values(event, "service") == {"evilsvc"}


@given(st.text(max_size=3000))
def test_capped_values_are_short_and_printable(text: str) -> None:
    value = cap_value(text)
    assert len(value) <= MAX_VALUE
    assert value.isprintable()


def test_capped_values_stay_apart() -> None:
    assert cap_value("x" * 5000 + "a") != cap_value("x" * 5000 + "b")
    assert cap_value("\n" * 5000 + "a") != cap_value("\n" * 5000 + "b")
    assert name_host("a\nb") == "a\\nb"


# FED and feeds ----------------------------------------------------------------------------


def test_every_service_is_fed() -> None:
    for service in SERVICES:
        assert feeds(LogSource(product="windows", service=service)) is None


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (LogSource(), None),
        (LogSource(product="windows"), None),
        (LogSource(product="linux"), None),
        (LogSource(product="windows", category="process_creation"), None),
        (LogSource(category="antivirus"), None),
        (LogSource(service="sshd"), None),
        (
            LogSource(product="aws", service="cloudtrail"),
            "no source of this version produces product=aws service=cloudtrail",
        ),
        (
            LogSource(product="linux", category="registry_event"),
            "no source of this version produces product=linux category=registry_event",
        ),
        (
            LogSource(product="windows", service="sshd"),
            "no source of this version produces product=windows service=sshd",
        ),
    ],
)
def test_feeds(source: LogSource, reason: str | None) -> None:
    assert feeds(source) == reason


def test_fed_names_each_once() -> None:
    assert len(set(FED)) == len(FED) > 90


# Any record at all ------------------------------------------------------------------------

NAMES = st.sampled_from(
    [
        "Event", "System", "EventData", "UserData", "EventID", "EventId", "#text", "#attributes",
        "Name", "@Name", "Provider", "Channel", "Computer", "TimeCreated", "SystemTime", "Data",
        "winlog", "event_data", "channel", "event_id", "winlog.event_id", "winlog.event_data.Image",
        "_source", "log_name", "UtcTime", "SourceName", "Hostname", "Keywords", "Level", "Severity",
        "Image", "Hashes", "User", "ProcessId", "NewProcessId", "ProcessName", "ProcessGuid",
        "LogonId", "ServiceName", "ObjectName", "ObjectType", "NewValue", "Path", "Threat Name",
        "event_type", "process_path", "pid", "timestamp", "subtype", "logon_id", "host", "message",
        "param1", "@timestamp", "EventType", "Direction", "MandatoryLabel", "keywords", "log",
    ]
)  # fmt: skip
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(
        [
            *(1, 12, 400, 800, 1116, 4657, 4663, 4688, 5156, "4688", "Security", "process"),
            *(SYSMON_CHANNEL, "Windows PowerShell", "registry", "%%1876", "0x3e7", "File", "-"),
            *("Microsoft-Windows-Windows Defender/Operational", "2026-03-01T11:00:00Z"),
        ]
    )
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(NAMES | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=25,
)
OBJECTS = st.dictionaries(NAMES | st.text(max_size=5), VALUES, max_size=8)


def check_event(event: Event) -> None:
    assert event.views
    for view in event.views:
        assert view.logsource in FED
        assert all(isinstance(name, str) for name in view.fields)
        for value in view.fields.values():
            assert isinstance(value, str | int | float | bool | list | None)
    for entity in event.entities:
        assert 0 < len(entity.value) <= 2 * MAX_VALUE
        assert entity.value.isprintable()
    assert event.host.isprintable()
    assert event.mapped or event.views[0].logsource == LogSource()
    assert event.time_known or event.time == RECEIVED


@given(OBJECTS)
def test_any_object_becomes_an_event(value: dict[str, Any]) -> None:
    record = make_record(b"x")
    check_event(normalise(record, Decoded("json", value), zone=UTC).event)


@given(st.dictionaries(NAMES, SCALARS, max_size=6), st.sampled_from([1, 800, 1116, 4657, 4688]))
def test_any_windows_data_becomes_an_event(data: dict[str, Any], number: int) -> None:
    for channel in ("Security", "Windows PowerShell", SYSMON_CHANNEL, None):
        event = read(make_xml_event(number, channel, data))
        assert event.mapped
        check_event(event)


@given(OBJECTS, st.text(max_size=30))
def test_any_syslog_becomes_an_event(body: dict[str, Any], message: str) -> None:
    record = make_record(b"x")
    fields: dict[str, Any] = {"appname": "sshd", "message": message, "json": body}
    check_event(normalise(record, Decoded("syslog3164", fields), zone=UTC).event)


@given(st.binary(max_size=200), st.sampled_from([b"", b"Mar  1 09:00:00 h sshd[1]: Failed "]))
def test_any_bytes_that_decode_become_an_event(data: bytes, start: bytes) -> None:
    record = make_record(start + b"x" + data.replace(b"\0", b""))
    try:
        decoded = decode(record)
    except Exception as error:
        assert type(error).__name__ == "DecodeError"
        return
    check_event(normalise(record, decoded, zone=UTC).event)


@pytest.mark.parametrize(
    "message",
    [
        "Failed password for " + "from 1.2.3.4 port 1 " * 200,
        "Failed password for " + "a " * 100_000,
        "pam_unix(sshd:auth): authentication failure; logname=" + "=" * 4000,
        "User " + " from x not allowed because " * 140,
        "a : x ; TTY= ; PWD=" + " ; USER=x ; ENV= ; TSID= ; " * 140,
        "a : " + " ; USER= ; ENV=" * 270 + "COMMAND",
    ],
)
@pytest.mark.parametrize("program", ["sshd", "sudo", "su", "cron", "useradd"])
@pytest.mark.timeout(5)
def test_long_hostile_message_is_read_in_time(message: str, program: str) -> None:
    assert read(f"Mar  1 11:00:00 bastion {program}[811]: {message}").mapped


def test_matches_needs_every_stated_part() -> None:
    view = LogSource(product="windows", service="security")
    assert matches(LogSource(product="windows"), view)
    assert not matches(LogSource(product="windows", category="process_creation"), view)
