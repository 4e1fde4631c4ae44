"""Third station of the line, product aminer: anomalies of the log data anomaly miner (AMiner wiki,
event output of the JsonConverterHandler).

Fields keep AMiner's names, nested ones dotted. The event's host is `AMiner.ID`, which its operator
gave to the instance; a host that a log line names is the line's. The line's parts, which AMiner's
parser cut out and called by a path (`/model/client_ip`), are entities by what the path's last name
says: a value alone tells no user from a word.
"""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any, Final

from appliance.normalise.entities import (
    make_address,
    make_domain,
    make_file,
    make_host,
    make_user,
    name_host,
)
from appliance.normalise.flatten import flatten
from appliance.normalise.reading import Context, Reading, find_object
from appliance.normalise.times import read_time
from appliance.normalise.traffic import Maker, list_entities, make_name
from appliance.schema import Decoded, Entity, LogSource, View

ANOMALY: Final = LogSource(product="aminer", service="anomaly")
#: Every log source that this normaliser can produce.
SOURCES: Final = (ANOMALY,)

#: Most parts of a line that are looked at.
_MAX_PARTS: Final = 256
#: What the last name of a path is, for each kind of entity, in AMiner's own parsing models.
_PARTS: Final[dict[str, Maker]] = {
    **dict.fromkeys(
        ("ip", "client_ip", "client", "addr", "rhost", "rip", "lip", "source_ip", "src_ip", "ipv4"),
        make_address,
    ),
    **dict.fromkeys(("dst_ip", "dest_ip", "ip_address", "remote_ip", "hostip"), make_address),
    **dict.fromkeys(("user", "username", "acct", "user_name", "ruser", "account"), make_user),
    **dict.fromkeys(("domain", "query", "dns_domain", "record_domain"), make_name),
    **dict.fromkeys(("exe", "file", "filename", "file_path"), make_file),
}


def read_aminer(decoded: Decoded, context: Context) -> Reading | None:
    """Read an anomaly; None when the record is none."""
    record = find_object(decoded)
    component, lines = record.get("AnalysisComponent"), record.get("LogData")
    if type(component) is not dict or type(lines) is not dict:
        return None
    if type(component.get("AnalysisComponentType")) is not str:
        return None
    own = record.get("AMiner")
    name = own.get("ID") if type(own) is dict else None
    name = name if type(name) is str else ""
    host = name_host(name) or context.host
    return Reading(
        views=(View(ANOMALY, flatten(record)),),
        entities=partial(_collect, component, lines, host, name),
        host=host,
        time=_find_time(lines, context),
    )


def _find_time(lines: dict[str, Any], context: Context) -> float | None:
    """The time of the last log line that it took, else of the detection."""
    stamps = lines.get("Timestamps")
    last = stamps[-1] if type(stamps) is list and stamps else stamps
    for value in (last, lines.get("DetectionTimestamp")):
        if (time := read_time(value, context)) is not None:
            return time
    return None


def _collect(
    component: dict[str, Any], lines: dict[str, Any], host: str, name: str
) -> tuple[Entity, ...]:
    found: dict[Entity | None, None] = {make_host(host) if host else None: None}
    found[make_address(name)] = None
    for path, value in islice(_list_parts(component, lines), _MAX_PARTS):
        make = _PARTS.get(path.rpartition("/")[2].lower())
        if make is not None:
            found[make(value)] = None
            if make is make_address:  # a host may be logged by its name
                found[make_domain(value)] = None
    return list_entities(found)


def _list_parts(component: dict[str, Any], lines: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(path, value) of the parts that the anomaly is about, then of the whole line."""
    paths, values = component.get("AffectedLogAtomPaths"), component.get("AffectedLogAtomValues")
    if type(paths) is list and type(values) is list and len(paths) == len(values):
        for path, value in zip(paths, values, strict=True):
            if type(path) is str and type(value) is str:
                yield path, value
    for parsed in (component.get("ParsedLogAtom"), lines.get("AnnotatedMatchElement")):
        if type(parsed) is dict:
            for path, value in parsed.items():
                if type(value) is str:
                    yield path, value
