"""Third station of the line, W3C extended logs: web servers (IIS), proxies, the Windows Firewall.

Which of them a record is, its columns say. Times are UTC (W3C working draft WD-logfile-960323,
section Date; Internet Information Services too), but for the firewall, whose header says Local.
IIS writes a blank in a header as "+": such a column holds both readings, since rules are written
for either.
"""

from typing import Any, Final

from appliance.normalise.entities import make_address, name_host
from appliance.normalise.reading import Context, Reading
from appliance.normalise.request import (
    collect,
    put_client,
    put_destination,
    put_proxied,
    put_status,
    put_target,
)
from appliance.normalise.times import read_time
from appliance.schema import Decoded, Entity, Fields, LogSource, View

IIS: Final = LogSource(category="webserver", service="iis")
WEB: Final = LogSource(category="webserver")
PROXY: Final = LogSource(category="proxy")
FIREWALL: Final = LogSource(category="firewall", product="windows")
#: Every log source that this normaliser can produce.
SOURCES: Final = (IIS, WEB, PROXY, FIREWALL)

_FIREWALL_COLUMNS: Final = ("action", "protocol", "src-ip", "dst-ip")
#: Columns that only proxies have.
_PROXY_COLUMNS: Final = frozenset(
    {"s-action", "s-hierarchy", "cs-uri-scheme", "sc-filter-result", "sc-filter-category", "r-ip"}
    | {"s-supplier-name", "s-supplier-ip", "cs-categories", "rs(Content-Type)", "r-host"}
    | {"cs-uri-port", "x-virus-id", "c-uri"}
)
#: Sigma's names of columns that hold headers.
_HEADERS: Final = (
    ("cs(User-Agent)", "cs-user-agent"),
    ("cs(Referer)", "cs-referer"),
    ("cs(Cookie)", "cs-cookie"),
    ("cs(Host)", "cs-host"),
    ("cs(Content-Type)", "cs-content-type"),
)
#: Columns of those in which a "+" may stand for a blank.
_PLUS: Final = frozenset({"cs-user-agent", "cs-cookie"})


def read_w3c(decoded: Decoded, context: Context) -> Reading | None:
    """Read a W3C record of a web server, a proxy or the Windows Firewall; None for others."""
    if decoded.format != "w3c":
        return None
    record = decoded.fields
    time = read_time(record.get("timestamp"), context)
    if all(name in record for name in _FIREWALL_COLUMNS[:2]) and "cs-method" not in record:
        return _read_firewall(record, context, time)
    if "cs-method" not in record and "cs-uri-stem" not in record and "sc-status" not in record:
        return None
    fields: Fields = record.copy()
    for name, plain in _HEADERS:
        if (value := fields.get(name)) is not None:
            fields[plain] = _read_header(value, plain)
    put_client(fields)
    if not _PROXY_COLUMNS.isdisjoint(fields) or "://" in fields.get("cs-uri", "")[:16]:
        return _read_proxy(fields, context, time)
    return _read_server(fields, context, time)


def _read_header(value: str, name: str) -> Any:
    if name in _PLUS and "+" in value and " " not in value:
        return [value.replace("+", " "), value]
    return value


def _read_server(fields: Fields, context: Context, time: float | None) -> Reading:
    stem, query = fields.get("cs-uri-stem", ""), fields.get("cs-uri-query")
    if stem or query:
        put_target(fields, [stem if query is None else f"{stem}?{query}"])
    elif whole := fields.get("cs-uri"):
        put_target(fields, [whole])
    put_status(fields, with_user="user" in fields)
    host = name_host(fields.get("s-computername", "")) or context.host
    if (server := fields.get("s-ip")) is not None:
        fields["dst_ip"] = server
    if (port := fields.get("s-port")) is not None and port.isdecimal():
        fields["dst_port"] = int(port)
    iis = "Internet Information" in fields.get("software", "") or "sc-win32-status" in fields
    return Reading(
        views=(View(IIS if iis else WEB, fields),),
        entities=collect(fields, host),
        host=host,
        time=time,
    )


def _read_proxy(fields: Fields, context: Context, time: float | None) -> Reading:
    uri = fields.get("c-uri") or fields.get("cs-uri") or _join_uri(fields)
    put_status(fields, with_user="user" in fields)
    fields["c-useragent"] = fields.get("cs-user-agent", "")
    destination: Entity | None = None
    asked = fields.get("cs-host")
    if (peer := fields.get("r-ip", fields.get("s-supplier-ip"))) is not None:
        fields["dst_ip"] = peer
    if uri:
        destination = put_proxied(fields, uri, fields.get("cs-method", ""))
    if destination is None and asked:
        destination = put_destination(fields, asked, None)
    host = name_host(fields.get("s-computername", "")) or context.host
    return Reading(
        views=(View(PROXY, fields),),
        entities=collect(fields, host, destination),
        host=host,
        time=time,
    )


def _join_uri(fields: Fields) -> str:
    """The URL of a proxy that writes its parts into columns."""
    host, stem = fields.get("cs-host", ""), fields.get("cs-uri-stem", fields.get("cs-uri-path", ""))
    if not host:
        return str(stem)
    scheme = fields.get("cs-uri-scheme", "http")
    port = fields.get("cs-uri-port", "")
    if scheme in ("tcp", "ssl"):
        scheme = "https"
    query = fields.get("cs-uri-query", "")
    mark = "?" if query and not query.startswith("?") else ""
    return f"{scheme}://{host}{f':{port}' if port.isdecimal() else ''}{stem}{mark}{query}"


def _read_firewall(record: dict[str, Any], context: Context, time: float | None) -> Reading:
    fields: Fields = record.copy()
    for column, name in (
        ("src-ip", "src_ip"),
        ("dst-ip", "dst_ip"),
        ("src-port", "src_port"),
        ("dst-port", "dst_port"),
    ):
        if (value := fields.get(column)) is not None:
            fields[name] = int(value) if value.isdecimal() and len(value) <= 5 else value
    action = fields["action"].upper()
    fields["blocked"] = action.startswith("DROP")
    if action.startswith("DROP"):
        fields["result"] = "failure"
    elif action.startswith(("OPEN", "ALLOW")):
        fields["result"] = "success"
    target = fields.get("dst_ip")
    return Reading(
        views=(View(FIREWALL, fields),),
        entities=collect(
            fields, context.host, make_address(target) if type(target) is str else None
        ),
        host=context.host,
        time=time,
    )
