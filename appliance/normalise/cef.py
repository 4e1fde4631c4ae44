"""Third station of the line, CEF events of any device: product cef, and Sigma's categories.

The device names its own fields; those of ArcSight's dictionary ("Common Event Format", "Extension
Dictionary") are told again under the neutral names. Custom fields are there under their label too
(cs1Label=Rule cs1=x gives Rule). The event's host is the device (dvchost, else dvc), or the host of
the syslog header; of a name that comes twice, no one value is believed for it.
"""

import re
from typing import Any, Final

from appliance.normalise.devices import (
    CATEGORIES,
    Request,
    collect_neutral,
    find_text,
    judge_result,
    list_categories,
    read_zoned_time,
)
from appliance.normalise.entities import make_domain, make_host, name_host
from appliance.normalise.reading import Context, Reading
from appliance.schema import Decoded, Entity, Fields, LogSource, View

CEF: Final = LogSource(product="cef")
#: Every log source that this normaliser can produce.
SOURCES: Final = (CEF, *CATEGORIES)

#: ArcSight's name -> the neutral one; the first that is there counts.
_NAMES: Final = (
    ("src", "src_ip"), ("c6a2", "src_ip"), ("spt", "src_port"),
    ("dst", "dst_ip"), ("c6a3", "dst_ip"), ("dpt", "dst_port"),
    ("suser", "user"), ("duser", "user"), ("act", "action"), ("proto", "protocol"),
)  # fmt: skip
_TIMES: Final = ("rt", "deviceReceiptTime", "end", "start")
_LABEL: Final = re.compile(
    r"((?:cs|cn|cfp|c6a|flexString|flexNumber|flexDate|deviceCustomDate)\d)Label"
)
_THREATS: Final = frozenset(
    {"virus name", "virusname", "malware name", "malwarename", "threat name", "threatname"}
    | {"malware", "virus", "threat", "detection name", "vscan_virus_name"}
)
_ANTIVIRUS: Final = re.compile(r"\b(?:anti-?virus|anti-?malware|malware|virus)\b", re.IGNORECASE)
_SERVERS: Final = re.compile(r"\bWAF\b|web application firewall|modsecurity|BIG-?IP ASM", re.I)
#: Where the names of devices are looked into, in characters.
_MAX_SEARCHED: Final = 512


def read_cef_event(decoded: Decoded, context: Context) -> Reading | None:
    """Read a CEF event; None for another record."""
    if decoded.format != "cef":
        return None
    record = decoded.fields
    fields: Fields = dict(record)
    for name, new in _NAMES:
        if (value := record.get(name)) not in (None, ""):
            fields.setdefault(new, value)
    if "suser" in record and record.get("duser"):
        fields["target_user"] = record["duser"]
    if result := judge_result(record.get("outcome")):
        fields["result"] = result
    labels = _read_labels(record)
    if query := _find_query(record, labels):
        fields["query"] = query.rstrip(".")
        if kind := labels.get("query type") or find_text(record, "qtype", "InfobloxDNSQType"):
            fields["record_type"] = kind
    if path := find_text(record, "filePath", "fname"):
        fields["Filename"] = path
    for label, value in labels.items():
        fields.setdefault(label, value)
    host = name_host(find_text(record, "dvchost") or context.host or find_text(record, "dvc"))
    device = " ".join(find_text(record, n) for n in ("deviceVendor", "deviceProduct", "cat"))
    views = list_categories(
        fields,
        request=_find_request(record),
        threat=_find_threat(record, labels, device),
        is_server=_SERVERS.search(device[:_MAX_SEARCHED]) is not None,
    )
    return Reading(
        views=(View(CEF, fields), *views),
        entities=(*collect_neutral(_join_views(fields, views), host), *_name_peers(record)),
        host=host,
        time=_find_time(record, context),
    )


def _find_time(record: dict[str, Any], context: Context) -> float | None:
    for name in _TIMES:
        seconds = read_zoned_time(record.get(name), context)
        if seconds is not None:
            return seconds
    return None


def _read_labels(record: dict[str, Any]) -> dict[str, Any]:
    """Custom fields under their labels."""
    found: dict[str, Any] = {}
    for name, label in record.items():
        if isinstance(label, str) and label and (match := _LABEL.fullmatch(name)):
            value = record.get(match[1])
            if value not in (None, ""):
                found.setdefault(label, value)
    return found


def _find_query(record: dict[str, Any], labels: dict[str, Any]) -> str:
    query = labels.get("DNS Query") or labels.get("Query") or labels.get("query")
    if isinstance(query, str):
        return query
    if find_text(record, "app", "proto").upper() == "DNS":
        return find_text(record, "destinationDnsDomain", "query")
    return ""


def _find_request(record: dict[str, Any]) -> Request | None:
    url = find_text(record, "request", "requestUrl")
    if not url:
        return None
    return Request(
        url=url,
        method=find_text(record, "requestMethod"),
        agent=find_text(record, "requestClientApplication"),
        referer=find_text(record, "requestContext"),
    )


def _find_threat(record: dict[str, Any], labels: dict[str, Any], device: str) -> str:
    for label, value in labels.items():
        if label.lower() in _THREATS and isinstance(value, str):
            return value
    kind = f"{find_text(record, 'deviceEventClassId')} {device}"[:_MAX_SEARCHED]
    has_file = find_text(record, "fname", "filePath", "fileHash")
    return find_text(record, "name") if has_file and _ANTIVIRUS.search(kind) else ""


def _join_views(fields: Fields, views: tuple[View, ...]) -> Fields:
    joined = dict(fields)
    for view in views:
        joined.update(view.fields)
    return joined


def _name_peers(record: dict[str, Any]) -> list[Entity]:
    """The two ends by name: with a dot a domain, else a host."""
    names = [find_text(record, name) for name in ("shost", "dhost")]
    made = [make_domain(name) or make_host(name) for name in names if name]
    return [entity for entity in made if entity is not None]
