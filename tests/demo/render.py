"""Before the line: writes log records in the shapes in which real forwarders hand them over.

Everything made here is SYNTHETIC: hosts, accounts, identifiers and hashes are invented, only the
shapes are real. The shapes are those of three forwarders of Windows events (the event's own
JSON form with Event/System/EventData, winlogbeat 8, NXLog's im_msvistalog with to_json()) and of
two syslog writers (RFC 3164 section 4.1, RFC 5424 section 6). Times are seconds since the Unix
epoch, UTC.
"""

import hashlib
import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any, Final, Literal

Shape = Literal["event", "winlogbeat", "nxlog"]

SYSMON: Final = "Microsoft-Windows-Sysmon/Operational"
SECURITY: Final = "Security"
SYSTEM: Final = "System"
POWERSHELL: Final = "Microsoft-Windows-PowerShell/Operational"

#: Providers by channel: name and GUID, as the operating system registers them.
PROVIDERS: Final[dict[str, tuple[str, str]]] = {
    SYSMON: ("Microsoft-Windows-Sysmon", "{5770385F-C22A-43E0-BF4C-06F5698FFBD9}"),
    SECURITY: ("Microsoft-Windows-Security-Auditing", "{54849625-5478-4994-A5BA-3E3B0328C30D}"),
    SYSTEM: ("Service Control Manager", "{555908D1-A6D7-4695-8E1E-26931D2012F4}"),
    POWERSHELL: ("Microsoft-Windows-PowerShell", "{A0C1853B-5C40-4B15-8766-3CF1C58F985A}"),
}
#: Events 1102 and 104 come from the event log service itself and carry UserData.
LOG_CLEARED_IDS: Final = frozenset({104, 1102})
EVENTLOG: Final = ("Microsoft-Windows-Eventlog", "{FC65DDD8-D6EF-4962-83D5-6E5CFE9CE148}")
LOG_CLEARED_SPACE: Final = "http://manifests.microsoft.com/win/2004/08/windows/eventlog"
EVENT_SPACE: Final = "http://schemas.microsoft.com/win/2004/08/events/event"
#: Severity of RFC 5424 section 6.2.1 with facility authpriv (10): 10 * 8 + 6.
AUTHPRIV_INFO: Final = 86


@dataclass(frozen=True, slots=True)
class WindowsRecord:
    """One Windows event before a forwarder gave it a shape. `fields` is its EventData."""

    channel: str
    event_id: int
    computer: str
    time: float
    number: int
    fields: dict[str, Any]


def make_guid(*parts: object) -> str:
    """A GUID in braces that depends on the parts alone, so that a play can be repeated."""
    seed = hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()
    return "{" + str(uuid.UUID(bytes=seed, version=4)).upper() + "}"


def make_hashes(text: str) -> str:
    """Sysmon's Hashes field with invented digests that depend on the text alone."""
    raw = text.lower().encode()
    md5 = hashlib.blake2b(raw, digest_size=16).hexdigest().upper()
    sha256 = hashlib.blake2b(raw, digest_size=32).hexdigest().upper()
    return f"MD5={md5},SHA256={sha256}"


def format_sysmon_time(time: float) -> str:
    """Sysmon's UtcTime: milliseconds and no zone letter."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def format_iso_time(time: float) -> str:
    """ISO 8601 with milliseconds and Z, as winlogbeat writes @timestamp."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def read_base_name(path: str) -> str:
    """The last part of a Windows path."""
    return path.rsplit("\\", 1)[-1]


def process_created(
    time: float,
    image: str,
    command_line: str,
    parent_image: str,
    *,
    parent_command_line: str | None = None,
    user: str = "NORDHAFEN\\m.keller",
    pid: int = 4312,
    parent_pid: int = 2208,
    directory: str = "C:\\Windows\\System32\\",
    integrity: str = "Medium",
    original_name: str | None = None,
    company: str = "Microsoft Corporation",
    guid: str | None = None,
    parent_guid: str | None = None,
) -> dict[str, Any]:
    """EventData of Sysmon event 1 (process creation), all its fields in Sysmon's order.

    `guid` and `parent_guid` tie processes to their parents; without them invented ones are used.
    """
    name = read_base_name(image)
    return {
        "RuleName": "-",
        "UtcTime": format_sysmon_time(time),
        "ProcessGuid": guid or make_guid(image, pid, time),
        "ProcessId": pid,
        "Image": image,
        "FileVersion": "10.0.19041.1 (WinBuild.160101.0800)",
        "Description": name.rsplit(".", 1)[0],
        "Product": "Microsoft® Windows® Operating System",
        "Company": company,
        "OriginalFileName": name if original_name is None else original_name,
        "CommandLine": command_line,
        "CurrentDirectory": directory,
        "User": user,
        "LogonGuid": make_guid("logon", user),
        "LogonId": "0x3e7" if user.endswith("SYSTEM") else "0x5a31c",
        "TerminalSessionId": 0 if user.endswith("SYSTEM") else 1,
        "IntegrityLevel": integrity,
        "Hashes": make_hashes(image),
        "ParentProcessGuid": parent_guid or make_guid(parent_image, parent_pid),
        "ParentProcessId": parent_pid,
        "ParentImage": parent_image,
        "ParentCommandLine": parent_image if parent_command_line is None else parent_command_line,
        "ParentUser": user,
    }


def process_audited(
    image: str,
    command_line: str,
    parent_image: str,
    *,
    user: str = "NORDHAFEN\\m.keller",
    pid: int = 4312,
    parent_pid: int = 2208,
    elevated: bool = False,
) -> dict[str, Any]:
    """EventData of Security event 4688 (process creation), version 2, with its command line."""
    domain, _, name = user.rpartition("\\")
    return {
        "SubjectUserSid": make_sid(name),
        "SubjectUserName": name,
        "SubjectDomainName": domain,
        "SubjectLogonId": "0x5a31c",
        "NewProcessId": hex(pid),
        "NewProcessName": image,
        "TokenElevationType": "%%1937" if elevated else "%%1938",
        "ProcessId": hex(parent_pid),
        "CommandLine": command_line,
        "TargetUserSid": "S-1-0-0",
        "TargetUserName": "-",
        "TargetDomainName": "-",
        "TargetLogonId": "0x0",
        "ParentProcessName": parent_image,
        "MandatoryLabel": "S-1-16-12288" if elevated else "S-1-16-8192",
    }


def make_sid(name: str) -> str:
    """The security identifier of an invented account; the system's own account keeps its own."""
    if name.upper() == "SYSTEM" or name.endswith("$"):
        return "S-1-5-18"
    number = 1100 + hashlib.blake2b(name.lower().encode(), digest_size=1).digest()[0]
    return f"S-1-5-21-1004336348-1177238915-682003330-{number}"


def write_event(record: WindowsRecord) -> str:
    """The event's own structure as JSON: Event, System, EventData (UserData for cleared logs)."""
    provider, guid = find_provider(record)
    system = {
        "Provider": {"#attributes": {"Name": provider, "Guid": guid}},
        "EventID": record.event_id,
        "Version": 0,
        "Level": 4,
        "Task": record.event_id if record.channel == SYSMON else 13312,
        "Opcode": 0,
        "Keywords": "0x8020000000000000",
        "TimeCreated": {"#attributes": {"SystemTime": format_iso_time(record.time)}},
        "EventRecordID": record.number,
        "Correlation": None,
        "Execution": {"#attributes": {"ProcessID": 2384, "ThreadID": 3360}},
        "Channel": record.channel,
        "Computer": record.computer,
        "Security": None,
    }
    event: dict[str, Any] = {"#attributes": {"xmlns": EVENT_SPACE}, "System": system}
    if record.event_id in LOG_CLEARED_IDS:
        cleared = {"#attributes": {"xmlns": LOG_CLEARED_SPACE}, **record.fields}
        event["UserData"] = {"LogFileCleared": cleared}
    else:
        event["EventData"] = record.fields
    return json.dumps({"Event": event}, ensure_ascii=False)


def write_winlogbeat(record: WindowsRecord) -> str:
    """A winlogbeat 8 document, as its file output writes it."""
    provider, guid = find_provider(record)
    data_key = "user_data" if record.event_id in LOG_CLEARED_IDS else "event_data"
    # winlogbeat hands every value of the event's data on as a string.
    data = {name: str(value) for name, value in record.fields.items()}
    document = {
        "@timestamp": format_iso_time(record.time),
        "@metadata": {"beat": "winlogbeat", "type": "_doc", "version": "8.15.3"},
        "event": {
            "code": str(record.event_id),
            "kind": "event",
            "provider": provider,
            "created": format_iso_time(record.time + 1.2),
        },
        "log": {"level": "information"},
        "host": {"name": record.computer.lower()},
        "winlog": {
            "channel": record.channel,
            "computer_name": record.computer,
            "event_id": str(record.event_id),
            "provider_name": provider,
            "provider_guid": guid,
            "record_id": record.number,
            "opcode": "Info",
            "process": {"pid": 2384, "thread": {"id": 3360}},
            data_key: data,
        },
        "agent": {"type": "winlogbeat", "version": "8.15.3", "name": record.computer.split(".")[0]},
        "ecs": {"version": "8.0.0"},
    }
    return json.dumps(document, ensure_ascii=False)


def write_nxlog(record: WindowsRecord) -> str:
    """A flat NXLog object: the event's header and data side by side."""
    provider, guid = find_provider(record)
    # EventTime has no zone in this shape; these forwarders are set to UTC.
    moment = datetime.fromtimestamp(record.time, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return json.dumps(
        {
            "EventTime": moment,
            "EventReceivedTime": moment,
            "@timestamp": format_iso_time(record.time),
            "Hostname": record.computer,
            "Keywords": -9214364837600034816,
            "SeverityValue": 2,
            "Severity": "INFO",
            "EventID": record.event_id,
            "SourceName": provider,
            "ProviderGuid": guid,
            "Version": 0,
            "OpcodeValue": 0,
            "RecordNumber": record.number,
            "ExecutionProcessID": 2384,
            "ThreadID": 3360,
            "Channel": record.channel,
            **record.fields,
            "SourceModuleName": "eventlog",
            "SourceModuleType": "im_msvistalog",
        },
        ensure_ascii=False,
    )


def find_provider(record: WindowsRecord) -> tuple[str, str]:
    """Name and GUID of the provider that writes such an event."""
    return EVENTLOG if record.event_id in LOG_CLEARED_IDS else PROVIDERS[record.channel]


def write_windows(record: WindowsRecord, shape: Shape) -> str:
    """The record in the given forwarder's shape, one line."""
    if shape == "event":
        return write_event(record)
    return write_winlogbeat(record) if shape == "winlogbeat" else write_nxlog(record)


def write_syslog_3164(
    time: float, host: str, program: str, pid: int | None, message: str, zone: tzinfo = UTC
) -> str:
    """A line as rsyslog's traditional file format writes it: no priority, local time, no year."""
    moment = datetime.fromtimestamp(time, zone)
    tag = program if pid is None else f"{program}[{pid}]"
    # RFC 3164 section 4.1.2: the day of the month is padded with a space.
    return f"{moment:%b} {moment.day:2d} {moment:%H:%M:%S} {host} {tag}: {message}"


def write_syslog_5424(time: float, host: str, program: str, pid: int | None, message: str) -> str:
    """A line of RFC 5424, facility authpriv, severity informational, no structured data."""
    moment = datetime.fromtimestamp(time, UTC).isoformat(timespec="microseconds")
    process = "-" if pid is None else pid
    stamp = moment.replace("+00:00", "Z")
    return f"<{AUTHPRIV_INFO}>1 {stamp} {host} {program} {process} - - {message}"
