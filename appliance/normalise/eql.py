"""Third station of the line, EQL's common schema for Windows (event_type, subtype, process_path).

Told again in Sigma's words where the type says enough. A registry event has no subtype there, so
it is a registry_event and neither registry_set nor registry_add. The schema names no host.
"""

from functools import partial
from typing import Any, Final

from appliance.normalise.channels import WINDOWS, name_category
from appliance.normalise.entities import collect_entities, name_host
from appliance.normalise.flatten import flatten
from appliance.normalise.reading import Context, Reading, find_object
from appliance.normalise.times import read_time
from appliance.schema import Decoded, Fields, LogSource, View

#: (event_type, subtype) -> category; None as subtype: any other, or none.
CATEGORIES: Final[dict[tuple[str, str | None], LogSource]] = {
    ("process", "create"): name_category("process_creation"),
    ("process", "fork"): name_category("process_creation"),
    ("process", "terminate"): name_category("process_termination"),
    ("image_load", None): name_category("image_load"),
    ("registry", "set"): name_category("registry_set"),
    ("registry", "modify"): name_category("registry_set"),
    ("registry", None): name_category("registry_event"),
    ("file", "delete"): name_category("file_delete"),
    ("file", None): name_category("file_event"),
    ("network", "outgoing"): name_category("network_connection"),
    ("network", "incoming"): name_category("network_connection"),
    ("dns", None): name_category("dns_query"),
}
_TYPES: Final = frozenset(kind for kind, _ in CATEGORIES)

#: EQL name -> Sigma name.
_NAMES: Final = {
    "process_path": "Image",
    "command_line": "CommandLine",
    "parent_process_path": "ParentImage",
    "parent_command_line": "ParentCommandLine",
    "pid": "ProcessId",
    "ppid": "ParentProcessId",
    "unique_pid": "ProcessGuid",
    "unique_ppid": "ParentProcessGuid",
    "user": "User",
    "image_path": "ImageLoaded",
    "registry_path": "TargetObject",
    "registry_data": "Details",
    "file_path": "TargetFilename",
    "source_address": "SourceIp",
    "source_port": "SourcePort",
    "destination_address": "DestinationIp",
    "destination_port": "DestinationPort",
    "destination_host": "DestinationHostname",
    "protocol": "Protocol",
    "query_name": "QueryName",
    "hostname": "Computer",
    "original_file_name": "OriginalFileName",
}


def read_eql(decoded: Decoded, context: Context) -> Reading | None:
    """Read an event of EQL's common schema; None when the record is none."""
    record = find_object(decoded)
    kind = record.get("event_type")
    if not isinstance(kind, str) or kind not in _TYPES or not _is_of_schema(record):
        return None
    fields = flatten(record)
    for name, new in _NAMES.items():
        if name in fields:
            fields[new] = fields[name]
    logon = record.get("logon_id")
    if isinstance(logon, int) and logon >= 0:
        fields["LogonId"] = f"{logon:#x}"
    subtype = record.get("subtype")
    if kind == "network" and subtype in ("outgoing", "incoming"):
        fields["Initiated"] = "true" if subtype == "outgoing" else "false"
    computer = fields.get("Computer")
    host = name_host(computer) if isinstance(computer, str) else ""
    return Reading(
        views=_list_views(kind, subtype, fields),
        entities=partial(collect_entities, fields, host),
        host=host,
        time=read_time(record.get("timestamp"), context),
    )


def _is_of_schema(record: dict[str, Any]) -> bool:
    """Other products have an event_type too; this schema always names the process."""
    return ("process_path" in record or "process_name" in record) and (
        "unique_pid" in record or "pid" in record
    )


def _list_views(kind: str, subtype: Any, fields: Fields) -> tuple[View, ...]:
    source = CATEGORIES.get((kind, subtype)) if isinstance(subtype, str) else None
    source = source or CATEGORIES.get((kind, None)) or WINDOWS
    if source.category == "registry_set":
        return View(CATEGORIES["registry", None], fields), View(source, fields)
    return (View(source, fields),)
