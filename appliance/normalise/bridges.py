"""Third station of the line: Windows events told again in the words of a Sigma category.

A bridge takes an event's fields as Windows names them and returns the log sources it also is,
with those fields and the category's names beside them. What the channel does not record (such as
OriginalFileName in 4688) stays absent: it is never made up.
"""

import re
from collections.abc import Callable
from typing import Any, Final

from appliance.normalise.channels import (
    DEFENDER,
    DNS_CLIENT,
    POWERSHELL,
    POWERSHELL_CLASSIC,
    POWERSHELL_CORE,
    SECURITY,
    name_category,
)
from appliance.normalise.entities import read_number
from appliance.schema import Fields, LogSource, View

#: Gives the category views of an event, the fields of which it leaves alone.
Bridge = Callable[[Fields], tuple[View, ...]]

_PROCESS_CREATION: Final = name_category("process_creation")
_REGISTRY_EVENT: Final = name_category("registry_event")
_REGISTRY_SET: Final = name_category("registry_set")
_REGISTRY_DELETE: Final = name_category("registry_delete")
_NETWORK: Final = name_category("network_connection")
_FILE_ACCESS: Final = name_category("file_access")
_DNS_QUERY: Final = name_category("dns_query")
_PS_SCRIPT: Final = name_category("ps_script")
_PS_MODULE: Final = name_category("ps_module")
_PS_CLASSIC_START: Final = name_category("ps_classic_start")
_PS_CLASSIC_PROVIDER: Final = name_category("ps_classic_provider_start")
_PS_CLASSIC_SCRIPT: Final = name_category("ps_classic_script")
_ANTIVIRUS: Final = name_category("antivirus")

#: Mandatory label SIDs ([MS-DTYP] section 2.4.2.4) in Sysmon's words.
_INTEGRITY: Final = {
    "S-1-16-0": "Untrusted",
    "S-1-16-4096": "Low",
    "S-1-16-8192": "Medium",
    "S-1-16-8448": "MediumPlus",
    "S-1-16-12288": "High",
    "S-1-16-16384": "System",
    "S-1-16-20480": "ProtectedProcess",
}
#: IANA protocol numbers that have connections.
_PROTOCOLS: Final = {"6": "tcp", "17": "udp", "1": "icmp", "58": "icmpv6"}
_CONTROL_SET: Final = re.compile(r"^(\\REGISTRY\\MACHINE\\SYSTEM\\)ControlSet\d{3}(?=\\|$)", re.I)
#: Kernel names of the hives, in the short form that Sysmon writes.
_HIVES: Final = (("\\registry\\machine", "HKLM"), ("\\registry\\user", "HKU"))
#: 4657 value types: message ids of REG_DWORD, REG_QWORD, REG_BINARY.
_DWORD, _QWORD, _BINARY = "%%1876", "%%1883", "%%1875"


def _copy(fields: Fields, names: dict[str, str]) -> Fields:
    """The fields with those of `names` (Windows name -> category name) under both names."""
    copy = dict(fields)
    for old, new in names.items():
        if old in fields and new not in fields:
            copy[new] = fields[old]
    return copy


_PROCESS_NAMES: Final = {
    "NewProcessName": "Image",
    "ParentProcessName": "ParentImage",
    "SubjectLogonId": "LogonId",
}


def bridge_process_creation(fields: Fields) -> tuple[View, ...]:
    """Security 4688. ProcessId is the creator's there; the category's is the new process's."""
    copy = _copy(fields, _PROCESS_NAMES)
    if "NewProcessId" in fields:
        copy["ProcessId"] = _read_pid(fields["NewProcessId"])
        if "ProcessId" in fields:
            copy["ParentProcessId"] = _read_pid(fields["ProcessId"])
    if "User" not in copy and (user := _name_user(fields)):
        copy["User"] = user
    label = fields.get("MandatoryLabel")
    if isinstance(label, str) and label in _INTEGRITY:
        copy["IntegrityLevel"] = _INTEGRITY[label]
    return (View(_PROCESS_CREATION, copy),)


def _read_pid(value: Any) -> Any:
    number = read_number(value)
    return value if number is None else number


def _name_user(fields: Fields) -> str | None:
    """The account that runs the new process: the target, when 4688 names one, else the subject."""
    for part in ("Target", "Subject"):
        name, domain = fields.get(f"{part}UserName"), fields.get(f"{part}DomainName")
        if isinstance(name, str) and name not in ("", "-"):
            return f"{domain}\\{name}" if isinstance(domain, str) and domain != "-" else name
    return None


def bridge_registry(fields: Fields) -> tuple[View, ...]:
    """Security 4657 (a value was created, changed or deleted)."""
    copy = _copy(fields, {"ProcessName": "Image"})
    key, value = fields.get("ObjectName"), fields.get("ObjectValueName")
    if isinstance(key, str):
        name = shorten_registry_path(key)
        copy["TargetObject"] = f"{name}\\{value}" if isinstance(value, str) and value else name
    # %%1904 created, %%1905 modified, %%1906 deleted.
    if fields.get("OperationType") == "%%1906":
        copy["EventType"] = "DeleteValue"
        return View(_REGISTRY_EVENT, copy), View(_REGISTRY_DELETE, copy)
    copy["EventType"] = "SetValue"
    copy["Details"] = _word_details(fields.get("NewValueType"), fields.get("NewValue"))
    return View(_REGISTRY_EVENT, copy), View(_REGISTRY_SET, copy)


def shorten_registry_path(path: str) -> str:
    """A kernel registry path in the form that Sysmon writes (HKLM, HKU, CurrentControlSet)."""
    path = _CONTROL_SET.sub(r"\1CurrentControlSet", path[:4096]) + path[4096:]
    for prefix, hive in _HIVES:
        end = len(prefix)
        if path[:end].lower() == prefix and path[end : end + 1] in ("", "\\"):
            return hive + path[end:]
    return path


def _word_details(kind: Any, value: Any) -> Any:
    """The new value as Sysmon's Details words it."""
    if kind == _BINARY:
        return "Binary Data"
    number = read_number(value)
    if number is not None and kind == _DWORD:
        return f"DWORD (0x{number:08x})"
    if number is not None and kind == _QWORD:
        return f"QWORD (0x{number >> 32:08x}-0x{number & 0xFFFFFFFF:08x})"
    return value


_CONNECTION_NAMES: Final = {
    "Application": "Image",
    "ProcessID": "ProcessId",
    "SourceAddress": "SourceIp",
    "DestAddress": "DestinationIp",
    "DestPort": "DestinationPort",
}


def bridge_connection(fields: Fields) -> tuple[View, ...]:
    """Security 5156. Image stays the kernel's device path: which drive letter the volume had is
    not in the record, and a guess could let a filter on C:\\Windows hide another volume's file."""
    copy = _copy(fields, _CONNECTION_NAMES)
    # %%14593 outbound, %%14592 inbound.
    direction = fields.get("Direction")
    if direction in ("%%14593", "%%14592"):
        copy["Initiated"] = "true" if direction == "%%14593" else "false"
    protocol = fields.get("Protocol")
    copy["Protocol"] = _PROTOCOLS.get(str(protocol), protocol)
    return (View(_NETWORK, copy),)


def bridge_file_access(fields: Fields) -> tuple[View, ...]:
    """Security 4663 for files: what the kernel's file trace calls FileName."""
    if fields.get("ObjectType") != "File":
        return ()
    return (View(_FILE_ACCESS, _copy(fields, {"ObjectName": "FileName", "ProcessName": "Image"})),)


def bridge_dns_query(fields: Fields) -> tuple[View, ...]:
    """DNS-Client 3008 (query completed): names are those of the category already."""
    return (View(_DNS_QUERY, fields),)


def bridge_ps_script(fields: Fields) -> tuple[View, ...]:
    """PowerShell 4104 (script block)."""
    return (View(_PS_SCRIPT, fields),)


def bridge_ps_module(fields: Fields) -> tuple[View, ...]:
    """PowerShell 4103 (module log): Payload and ContextInfo as they are."""
    return (View(_PS_MODULE, fields),)


#: Keys of the context that Windows PowerShell writes into its events' text.
_CONTEXT_KEYS: Final = frozenset(
    {"NewEngineState", "PreviousEngineState", "NewProviderState", "ProviderName", "HostName"}
    | {"HostVersion", "HostId", "HostApplication", "EngineVersion", "RunspaceId", "PipelineId"}
    | {"CommandName", "CommandType", "ScriptName", "CommandPath", "CommandLine", "UserId"}
    | {"SequenceNumber", "DetailSequence", "DetailTotal"}
)
#: A context is a few lines; this bounds what a script pasted into one costs.
_MAX_LINES: Final = 2000


def read_context(text: str) -> Fields:
    """The `Key=value` lines of a Windows PowerShell event. A line that is no known key goes on
    the value before; a key that comes twice keeps its first value, so that a command line with
    line breaks can't replace what the engine wrote before it (what comes behind it, it can: that
    is the format's flaw, and the whole text stays in Data)."""
    context: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in text.split("\n", _MAX_LINES)[:_MAX_LINES]:
        name, sign, value = line.partition("=")
        name = name.strip()
        if sign and name in _CONTEXT_KEYS and name not in context:
            current = context[name] = [value.rstrip("\r")]
        elif current is not None:
            current.append(line.rstrip("\r"))
    return {name: "\n".join(lines).rstrip() for name, lines in context.items()}


def _read_data(fields: Fields) -> tuple[str, list[str]]:
    data = fields.get("Data")
    if isinstance(data, list) and data:
        return str(data[0]), [str(part) for part in data[1:]]
    return (data, []) if isinstance(data, str) else ("", [])


def _add_context(fields: Fields) -> Fields:
    text, _ = _read_data(fields)
    return {**read_context(text), **fields}


def bridge_classic_start(fields: Fields) -> tuple[View, ...]:
    """Windows PowerShell 400 (engine started)."""
    return (View(_PS_CLASSIC_START, _add_context(fields)),)


def bridge_classic_provider(fields: Fields) -> tuple[View, ...]:
    """Windows PowerShell 600 (provider started)."""
    return (View(_PS_CLASSIC_PROVIDER, _add_context(fields)),)


def bridge_classic_pipeline(fields: Fields) -> tuple[View, ...]:
    """Windows PowerShell 800 (pipeline details): its three parts are what 4103 records."""
    text, parts = _read_data(fields)
    if len(parts) >= 3:
        context, payload = parts[1], parts[2]
    else:
        context, _, payload = text.partition("Details:")
    script = View(_PS_CLASSIC_SCRIPT, {**read_context(context), **fields})
    if not payload:
        return (script,)
    copy = {**script.fields, "ContextInfo": context.strip(), "Payload": payload.strip()}
    return script, View(_PS_MODULE, copy)


def bridge_antivirus(fields: Fields) -> tuple[View, ...]:
    """Defender 1116 and 1117 (threat found, acted on)."""
    path = fields.get("Path")
    copy = _copy(fields, {"ThreatName": "Signature"})
    if isinstance(path, str):
        copy["Filename"] = path.replace("file:_", "")
    return (View(_ANTIVIRUS, copy),)


#: (channel, event id) -> bridge, and the log sources it can give.
BRIDGES: Final[dict[tuple[str, int], tuple[Bridge, tuple[LogSource, ...]]]] = {
    (SECURITY, 4688): (bridge_process_creation, (_PROCESS_CREATION,)),
    (SECURITY, 4657): (bridge_registry, (_REGISTRY_EVENT, _REGISTRY_SET, _REGISTRY_DELETE)),
    (SECURITY, 5156): (bridge_connection, (_NETWORK,)),
    (SECURITY, 4663): (bridge_file_access, (_FILE_ACCESS,)),
    (DNS_CLIENT, 3008): (bridge_dns_query, (_DNS_QUERY,)),
    (POWERSHELL, 4104): (bridge_ps_script, (_PS_SCRIPT,)),
    (POWERSHELL_CORE, 4104): (bridge_ps_script, (_PS_SCRIPT,)),
    (POWERSHELL, 4103): (bridge_ps_module, (_PS_MODULE,)),
    (POWERSHELL_CORE, 4103): (bridge_ps_module, (_PS_MODULE,)),
    (POWERSHELL_CLASSIC, 400): (bridge_classic_start, (_PS_CLASSIC_START,)),
    (POWERSHELL_CLASSIC, 600): (bridge_classic_provider, (_PS_CLASSIC_PROVIDER,)),
    (POWERSHELL_CLASSIC, 800): (bridge_classic_pipeline, (_PS_CLASSIC_SCRIPT, _PS_MODULE)),
    (DEFENDER, 1116): (bridge_antivirus, (_ANTIVIRUS,)),
    (DEFENDER, 1117): (bridge_antivirus, (_ANTIVIRUS,)),
}
#: Channels that have any bridge: the others need no look-up with the event id.
BRIDGED: Final = frozenset(channel for channel, _ in BRIDGES)
