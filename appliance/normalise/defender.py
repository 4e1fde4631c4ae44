"""Third station of the line, product windows: what Microsoft Defender Antivirus' events are about
(Microsoft Learn, "Review event logs and error codes to troubleshoot issues with Microsoft Defender
Antivirus").

`Path` holds one or more resources as Defender writes them, `;` between them, each with its kind in
front: `file:_C:\\x.exe`, `containerfile:_C:\\a.zip; file:_C:\\a.zip->b.exe` (a file in a file),
`webfile:_C:\\x.exe|https://host/x.exe|pid:7,ProcessStart:...`, `amsi:_C:\\x.ps1`, `process:_pid:7`.
"""

import re
from typing import Any, Final

from appliance.normalise.entities import (
    collect_entities,
    make_file,
    make_hashes,
    make_user,
)
from appliance.normalise.traffic import make_name
from appliance.schema import Entity, Fields

#: Longest text of resources that is read, in characters, and most resources of one event.
_MAX_PATH: Final = 16_384
_MAX_RESOURCES: Final = 16
_RESOURCE: Final = re.compile(r"(?P<kind>[A-Za-z]{1,32}):_(?P<place>.*)", re.DOTALL)
#: Kinds of resources that lie in a file.
_FILES: Final = frozenset(
    {"file", "containerfile", "webfile", "amsi", "emsfile", "startup", "driver", "bootrecord"}
)
_URL_HOST: Final = re.compile(r"https?://(?:[^/@\s]{1,255}@)?([^/:?#\s|]{1,255})", re.IGNORECASE)
_USERS: Final = ("Detection User", "Remediation User", "User")
_PLAIN_FILES: Final = ("Process Name", "Involved File", "Filename")
#: A digest in the text of event 1120 (`SHA1: 3395856c...`, `Sha256=...`).
_DIGEST: Final = re.compile(r"(?<![0-9A-Fa-f])(?:[0-9A-Fa-f]{64}|[0-9A-Fa-f]{40}|[0-9A-Fa-f]{32})"
                            r"(?![0-9A-Fa-f])")  # fmt: skip


def collect_defender(fields: Fields, host: str, event_id: int) -> tuple[Entity, ...]:
    """Every entity of a Defender event, in a fixed order, each once. `host` is in the form of
    `entities.name_host`, "" when unknown."""
    # Defender's ServiceName and its like are its own.
    found: dict[Entity | None, None] = dict.fromkeys(collect_entities(fields, host, event_id))
    for name in _USERS:
        if text := _find(fields, name):
            found[make_user(text)] = None
    for name in _PLAIN_FILES:
        text = _find(fields, name)
        if text and text.lower() != "unknown":
            found[make_file(text)] = None
    _add_resources(found, _find(fields, "Path"))
    if event_id in (1125, 1126) and (text := _find(fields, "Destination")):
        url = _URL_HOST.match(text)
        found[make_name(url[1] if url else text)] = None
    if event_id == 1120:
        for name in ("Hashes", "Threat Resource Hash", "Message"):
            for digest in _DIGEST.findall(_find(fields, name)[:_MAX_PATH])[:_MAX_RESOURCES]:
                found.update(dict.fromkeys(make_hashes(digest)))
    found.pop(None, None)
    # An unknown program is nobody's file.
    return tuple(e for e in found if e is not None and e.value not in ("unknown", "Unknown"))


def _add_resources(found: dict[Entity | None, None], text: str) -> None:
    for part in text[:_MAX_PATH].split("; ")[:_MAX_RESOURCES]:
        match = _RESOURCE.fullmatch(part.strip().rstrip(";"))
        if match is None:
            if part[1:3] == ":\\" or part[:2] == "\\\\":
                found[make_file(part.strip())] = None
            continue
        if match["kind"].lower() not in _FILES:
            continue
        path, _, rest = match["place"].partition("|")
        # What lies in an archive is told by the archive, the file that is there.
        found[make_file(path.partition("->")[0])] = None
        if url := _URL_HOST.match(rest):
            found[make_name(url[1])] = None


def _find(fields: Fields, name: str) -> str:
    """The text of a field under Defender's own name, or as shippers write it, without blanks."""
    for form in (name, name.replace(" ", ""), name.replace(" ", "_")):
        value: Any = fields.get(form)
        if type(value) is str and value:
            return value
    return ""
