"""Derives the table of known fields (appliance/normalise/known_fields.py) from real events.

    python -m benchmarks.field_table DATA...

Every record under DATA goes through decode and normalise; for each Windows category the names of
its views' fields are collected. Categories of which less than LEAST events are there stay open: of
their events nothing is claimed. What the providers' own schemas name (Sysmon 15: `sysmon -s`) is
added, since the events at hand come from older versions too.
"""

import json
import sys
import tempfile
from collections import Counter
from datetime import UTC
from pathlib import Path
from typing import Final

from appliance.config import Config
from appliance.normalise import known_fields
from appliance.pipeline import read_event
from appliance.scan import list_files, read_file
from appliance.schema import LogSource, Rejected
from appliance.sources.streams import StreamName

#: Events of a category below which it stays open.
LEAST: Final = 200
_PROCESS: Final = "RuleName UtcTime ProcessGuid ProcessId Image User"
_REGISTRY: Final = f"{_PROCESS} EventType TargetObject"
#: Fields by Sigma category: Sysmon's schema 4.90, and the events 4103 and 4104 of the provider
#: Microsoft-Windows-PowerShell.
SCHEMAS: Final[dict[str, str]] = {
    "process_creation": f"{_PROCESS} FileVersion Description Product Company OriginalFileName "
    "CommandLine CurrentDirectory LogonGuid LogonId TerminalSessionId IntegrityLevel Hashes "
    "ParentProcessGuid ParentProcessId ParentImage ParentCommandLine ParentUser",
    "file_change": f"{_PROCESS} TargetFilename CreationUtcTime PreviousCreationUtcTime",
    "network_connection": f"{_PROCESS} Protocol Initiated SourceIsIpv6 SourceIp SourceHostname "
    "SourcePort SourcePortName DestinationIsIpv6 DestinationIp DestinationHostname "
    "DestinationPort DestinationPortName",
    "process_termination": _PROCESS,
    "driver_load": "RuleName UtcTime ImageLoaded Hashes Signed Signature SignatureStatus",
    "image_load": f"{_PROCESS} ImageLoaded FileVersion Description Product Company "
    "OriginalFileName Hashes Signed Signature SignatureStatus",
    "create_remote_thread": "RuleName UtcTime SourceProcessGuid SourceProcessId SourceImage "
    "TargetProcessGuid TargetProcessId TargetImage NewThreadId StartAddress StartModule "
    "StartFunction SourceUser TargetUser",
    "raw_access_thread": f"{_PROCESS} Device",
    "process_access": "RuleName UtcTime SourceProcessGUID SourceProcessId SourceThreadId "
    "SourceImage TargetProcessGUID TargetProcessId TargetImage GrantedAccess CallTrace "
    "SourceUser TargetUser",
    "file_event": f"{_PROCESS} TargetFilename CreationUtcTime",
    "registry_event": f"{_REGISTRY} Details NewName",
    "registry_add": _REGISTRY,
    "registry_delete": _REGISTRY,
    "registry_set": f"{_REGISTRY} Details",
    "registry_rename": f"{_REGISTRY} NewName",
    "create_stream_hash": f"{_PROCESS} TargetFilename CreationUtcTime Hash Contents",
    "pipe_created": f"{_PROCESS} EventType PipeName",
    "wmi_event": "RuleName UtcTime EventType Operation User EventNamespace Name Query Type "
    "Destination Consumer Filter",
    "dns_query": f"{_PROCESS} QueryName QueryStatus QueryResults",
    "file_delete": f"{_PROCESS} TargetFilename Hashes IsExecutable Archived",
    "process_tampering": f"{_PROCESS} Type",
    "ps_script": "MessageNumber MessageTotal ScriptBlockText ScriptBlockId Path",
    "ps_module": "ContextInfo UserData Payload",
}


def collect(paths: list[str]) -> tuple[Counter[LogSource], dict[LogSource, set[str]]]:
    """Events and names of fields by log source."""
    events: Counter[LogSource] = Counter()
    names: dict[LogSource, set[str]] = {}
    with tempfile.TemporaryDirectory() as spool:
        for logical, path in list_files(paths, Path(spool)).files:
            name = StreamName("table", logical, logical, str(path), "auto")
            for batch in read_file(name, Config(), []):
                for record in batch.records:
                    result = read_event(record, UTC)
                    if isinstance(result, Rejected):
                        continue
                    for view in result[0].views:
                        events[view.logsource] += 1
                        names.setdefault(view.logsource, set()).update(view.fields)
    return events, names


def main() -> int:
    """Write the module; say which categories stay open."""
    events, names = collect(sys.argv[1:])
    rows = []
    for category, schema in sorted(SCHEMAS.items()):
        source = LogSource(product="windows", category=category)
        if events[source] >= LEAST:
            known = sorted(n for n in names[source] | set(schema.split()) if n.isprintable())
            rows.append((category, events[source], known))
        else:
            print(f"open: {category}, {events[source]} events", file=sys.stderr)
    text = [
        '"""Fields that events of a log source can have, as far as that is known (normalise,',
        "beside the line). Written by benchmarks/field_table.py: the union of what providers' own",
        "schemas name (Sysmon 4.90, PowerShell's 4103 and 4104) and of what events of three public",
        "collections have (evtx-attack-samples, security-datasets, eqllib); the count behind each",
        'category is that of the events looked at."""',
        "",
        "from typing import Final",
        "",
        "from appliance.schema import LogSource",
        "",
        "_WINDOWS: Final[dict[str, str]] = {",
    ]
    for category, count, known in rows:
        text.append(f"    {json.dumps(category)}: (  # {count:,} events")
        line = ""
        for name in known:
            if len(line) + len(name) > 78:
                text.append(f"        {json.dumps(line)}")
                line = ""
            line += name + " "
        text.append(f"        {json.dumps(line.rstrip())}")
        text.append("    ),")
    text += [
        "}",
        "#: By log source. What is not here is open: nothing is claimed of its events.",
        "KNOWN_FIELDS: Final[dict[LogSource, frozenset[str]]] = {",
        '    LogSource("windows", category): frozenset(names.split())',
        "    for category, names in _WINDOWS.items()",
        "}",
    ]
    Path(known_fields.__file__).write_text("\n".join(text) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
