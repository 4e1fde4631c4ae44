"""Third station of the line, web servers: access logs, error logs, and access logs in JSON.

Fields are those of the Sigma taxonomy's category webserver (see `request` for a target's readings),
beside the record's own; `message` is the whole line, in which keyword rules search.

The event's host is the one that sent the record, never what the client asked for: neither a Host
header nor the virtual host in front of a line (which some servers take from that header). A JSON
record is an access log's when it says who asked, for what, and how it was answered, under the names
of nginx (as most configurations choose them), Caddy, Traefik, HAProxy, Apache or the Elastic Common
Schema.
"""

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from glob import has_magic
from typing import Any, Final

from appliance.normalise.entities import make_domain
from appliance.normalise.flatten import flatten
from appliance.normalise.reading import Context, Reading, find_object, is_syslog
from appliance.normalise.request import (
    collect,
    put_client,
    put_proxied,
    put_requests,
    put_status,
    put_target,
)
from appliance.normalise.times import is_plausible, read_time
from appliance.schema import Decoded, Fields, LogSource, View, name_program

WEB: Final = LogSource(category="webserver")
APACHE: Final = LogSource(category="webserver", product="apache", service="apache")
NGINX: Final = LogSource(category="webserver", product="nginx", service="nginx")
PROXY: Final = LogSource(category="proxy")

#: Every log source that this normaliser can produce.
SOURCES: Final = (WEB, APACHE, NGINX, PROXY)

_SERVERS: Final = {"apache": APACHE, "nginx": NGINX}
#: Words in a file's path that say whose log it is, and programs that write JSON to syslog.
_PATH_WORDS: Final = (("nginx", NGINX), ("apache", APACHE), ("httpd", APACHE))
_PROGRAMS: Final = {
    "nginx": NGINX, "apache": APACHE, "apache2": APACHE, "httpd": APACHE,
    "caddy": WEB, "traefik": WEB, "haproxy": WEB, "lighttpd": WEB, "openresty": NGINX,
}  # fmt: skip

_MONTHS: Final = {
    name: number
    for number, name in enumerate(
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"], 1
    )
}
_CLF: Final = re.compile(
    r"(\d{1,2})/(\w{3})\w*\.?/(\d{4})[: ](\d\d):(\d\d):(\d\d)(\.\d{1,9})?(?: ?([+-])(\d\d)(\d\d))?"
)
#: What Squid's combined format has behind the user agent: result and hierarchy.
_SQUID: Final = re.compile(r"((?:TCP|UDP|NONE)_?[A-Z_]{0,64}|NONE):([A-Z][A-Z_]{2,63})")

#: Names of JSON access logs for each field, the likeliest first. After `flatten`.
_JSON_NAMES: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("c-ip", (
        "remote_addr", "request.remote_ip", "request.client_ip", "request.remote_addr",
        "ClientHost", "ClientAddr", "client_ip", "clientip", "client", "remote_ip", "remoteIP",
        "remote_host", "source.ip", "client.ip", "source.address", "client.address",
    )),
    ("c-port", ("remote_port", "request.remote_port", "ClientPort", "client_port", "source.port")),
    ("cs-method", (
        "request_method", "request.method", "RequestMethod", "http_method", "method",
        "http.request.method", "verb",
    )),
    ("target", (
        "request_uri", "request.uri", "RequestPath", "http_uri", "http_path", "uri",
        "url.original", "url.path", "url",
    )),
    ("query", ("http_query", "query_string", "args", "url.query", "query")),
    ("sc-status", (
        "status", "DownstreamStatus", "status_code", "OriginStatus", "http_status",
        "response_code", "http.response.status_code", "response",
    )),
    ("sc-bytes", (
        "body_bytes_sent", "bytes_sent", "size", "DownstreamContentSize", "bytes", "bytes_read",
        "http.response.body.bytes", "http.response.bytes",
    )),
    ("cs-user-agent", (
        "http_user_agent", "request.headers.User-Agent", "request_User-Agent", "user_agent",
        "user_agent.original", "agent", "userAgent",
    )),
    ("cs-referer", (
        "http_referer", "http_referrer", "request.headers.Referer", "request_Referer", "referer",
        "referrer", "http.request.referrer",
    )),
    ("cs-username", ("remote_user", "user_id", "ClientUsername", "user.name", "auth")),
    ("cs-host", (
        "http_host", "request.host", "RequestHost", "RequestAddr", "url.domain", "host_header",
    )),
    ("cs-cookie", ("http_cookie", "request.headers.Cookie", "request_Cookie")),
    ("cs-content-type", ("content_type", "request.headers.Content-Type", "request_Content-Type")),
)  # fmt: skip
_JSON_TIMES: Final = (
    "time_iso8601", "@timestamp", "StartUTC", "time_local", "timestamp", "ts", "time", "msec",
    "date", "datetime", "time_epoch",
)  # fmt: skip
#: One of these top-level names is in every JSON access log; who has none is told at once.
_JSON_MARKS: Final = frozenset(
    {"request", "request_uri", "RequestPath", "http_uri", "http_path", "uri", "url", "url.original"}
    | {"url.path", "http", "http.request.method", "request_method", "http_method"}
)
#: A record that says itself what it is: intrusion detection, Zeek and cloud services have requests.
_JSON_OTHERS: Final = frozenset(
    {"event_type", "id.orig_h", "uid", "eventid", "EventID", "rule", "sensor", "eventSource"}
)


def read_web(decoded: Decoded, context: Context) -> Reading | None:
    """Read a line of a web server's access or error log; None for other records."""
    if decoded.format == "access":
        return _read_access(decoded.fields, context)
    if decoded.format == "access_error":
        return _read_error(decoded.fields, context)
    return None


def _read_access(record: dict[str, Any], context: Context) -> Reading:
    fields: Fields = record.copy()
    request = fields.get("request", "")
    put_client(fields)
    time = read_clf(fields.get("timestamp", ""), context)
    proxied = _find_squid(fields)
    if proxied is not None:
        return _read_combined_squid(fields, request, proxied, context, time)
    put_requests(fields, request if type(request) is list else [request])
    put_status(fields, with_user="user" in fields)
    if (vhost := fields.get("vhost")) is not None:
        fields["cs-host"] = _strip_port(vhost)
    return Reading(
        views=(View(_name_server(context.path), fields),),
        entities=collect(fields, context.host),
        host=context.host,
        time=time,
    )


def _find_squid(fields: Fields) -> re.Match[str] | None:
    """Squid's result and hierarchy, which stand alone behind the user agent."""
    extra = fields.get("extra")
    if extra is None or len(extra) != 1:
        return None
    return _SQUID.fullmatch(extra[0])


def _read_combined_squid(
    fields: Fields, request: Any, found: re.Match[str], context: Context, time: float | None
) -> Reading:
    lines = request if type(request) is list else [request]
    put_requests(fields, lines)
    put_status(fields, with_user="user" in fields)
    fields["s-action"], fields["s-hierarchy"] = found[1], found[2]
    # A proxy's rules ask for the empty user agent, which the log writes as "-".
    fields["c-useragent"] = fields.get("cs-user-agent", "")
    destination = None
    targets = fields.get("cs-uri")
    if targets is not None:
        target = targets if type(targets) is str else targets[0]
        method = fields["cs-method"]
        destination = put_proxied(fields, target, method if type(method) is str else "")
    return Reading(
        views=(View(PROXY, fields),),
        entities=collect(fields, context.host, destination),
        host=context.host,
        time=time,
    )


def _read_error(record: dict[str, Any], context: Context) -> Reading:
    fields = flatten(record)
    put_client(fields)
    if (request := fields.get("request")) is not None:
        put_requests(fields, [request])
    elif type(uri := fields.get("modsecurity.uri")) is str:
        put_target(fields, [uri])
    if (user := fields.get("cs-username")) is not None:
        fields["user"] = user
        fields["result"] = "failure"
    elif _is_refusal(fields):
        fields["result"] = "failure"
    name = fields.get("s-name", "")
    return Reading(
        views=(View(_SERVERS.get(fields.get("server", ""), WEB), fields),),
        # The server name of nginx is the configured one.
        entities=collect(fields, context.host, make_domain(name) if name.strip("_.*~") else None),
        host=context.host,
        time=read_time(fields.get("timestamp"), context),
    )


_REFUSALS: Final = (
    "client denied by server configuration", "access forbidden by rule", "client used wrong auth",
    "ModSecurity: Access denied", "auth failed", "digest: auth failed", "get_password failed",
    "password doesn't match", "no user/password was provided for basic",
)  # fmt: skip


def _is_refusal(fields: Fields) -> bool:
    return type(error := fields.get("error")) is str and error.startswith(_REFUSALS)


def read_web_json(decoded: Decoded, context: Context) -> Reading | None:
    """Read an access log's JSON object, also one inside syslog; None for other records."""
    source = WEB
    body: Any = decoded.fields
    if is_syslog(decoded):
        if (body := decoded.fields.get("json")) is None:
            return None
        program = name_program(decoded.fields.get("appname", ""))
        if program in _PROGRAMS:
            # Its own log: what a client writes is in the values, never the whole message.
            source = _PROGRAMS[program]
        else:
            body = find_object(decoded)
    elif decoded.format != "json":
        return None
    if type(body) is not dict or _JSON_MARKS.isdisjoint(body) or not _JSON_OTHERS.isdisjoint(body):
        return None
    fields = flatten(body)
    known = _collect_names(fields)
    if known is None:
        return None
    return _read_known(fields, known, source, context)


def _collect_names(fields: Fields) -> dict[str, Any] | None:
    """What the record says under any of the names of a JSON access log; None when it does not say
    client, request and status."""
    known: dict[str, Any] = {}
    for name, others in _JSON_NAMES:
        for other in others:
            value = fields.get(other)
            if type(value) is list and len(value) == 1:
                value = value[0]
            if type(value) in (str, int) and value not in ("", "-"):
                known[name] = value
                break
    if type(client := known.get("c-ip")) is not str or not client:
        return None
    line = fields.get("request")
    if type(line) is str and " " in line:
        known["line"] = line
    elif "cs-method" not in known or type(known.get("target")) is not str:
        return None
    status = str(known.get("sc-status", ""))
    if not (status.isdecimal() and len(status) == 3):
        return None
    return known


def _read_known(
    fields: Fields, known: dict[str, Any], source: LogSource, context: Context
) -> Reading:
    line, target, query = (
        known.pop("line", None),
        known.pop("target", None),
        known.pop("query", None),
    )
    fields.update((name, str(value)) for name, value in known.items())
    _split_port(fields)
    if line is not None:
        put_requests(fields, [line])
    elif type(target) is str:
        if type(query) is str and "?" not in target:
            target = f"{target}?{query.removeprefix('?')}"
        put_target(fields, [target])
    put_client(fields)
    put_status(fields, with_user="user" in fields)
    time = None
    for name in _JSON_TIMES:
        value = fields.get(name)
        if value is not None:
            time = read_clf(value, context) if type(value) is str else None
            if time is None:
                time = read_time(value, context)
            if time is not None:
                break
    return Reading(
        views=(View(source if source is not WEB else _name_server(context.path), fields),),
        entities=collect(fields, context.host),
        host=context.host,
        time=time,
    )


def _split_port(fields: Fields) -> None:
    """Caddy (before 2.5) and Traefik's ClientAddr write address and port as one."""
    client = fields["c-ip"]
    address, _, port = client.rpartition(":")
    if port.isdecimal() and (address.count(":") == 0 or address[:1] == "[") and address:
        fields["c-ip"] = address.strip("[]")
        fields.setdefault("c-port", port)


def _strip_port(vhost: str) -> str:
    name, _, port = vhost.rpartition(":")
    return name.strip("[]") if port.isdecimal() and name else vhost.strip("[]")


def name_servers(pattern: str) -> tuple[LogSource, ...]:
    """What access logs that a path or a glob names can be of: a wildcard can stand for any word."""
    named = _name_server(pattern)
    return (named,) if named is not WEB or not has_magic(pattern) else (WEB, APACHE, NGINX)


@lru_cache(maxsize=256)
def _name_server(path: str) -> LogSource:
    lowered = path.lower()
    for word, source in _PATH_WORDS:
        if word in lowered:
            return source
    return WEB


def read_clf(text: str, context: Context) -> float | None:
    """Epoch seconds of an access log's time ("17/May/2015:10:05:03 +0000"); None when it is none
    or not plausible."""
    seconds = _resolve(text, context.zone)
    if seconds is None or not is_plausible(seconds, context.received):
        return None
    return seconds


@lru_cache(maxsize=4096)
def _resolve(text: str, zone: tzinfo) -> float | None:
    found = _CLF.fullmatch(text.rstrip()) if len(text) <= 64 else None
    if found is None:
        return None
    day, name, year, hour, minute, second, fraction, sign, hours, minutes = found.groups()
    month = _MONTHS.get(name.lower())
    if month is None:
        return None
    try:
        if sign is not None:
            offset = timedelta(hours=int(hours), minutes=int(minutes))
            zone = timezone(-offset if sign == "-" else offset) if offset else UTC
        moment = datetime(  # a leap second is written as :60
            int(year), month, int(day), int(hour), int(minute), min(int(second), 59), tzinfo=zone
        )
        return moment.timestamp() + float(fraction or 0)
    except (ValueError, OverflowError):
        return None
