"""Third station of the line, product suricata: records of the EVE log (Suricata User Guide, section
"EVE JSON Format").

The record's `event_type` is the Sigma service; its fields keep Suricata's names, nested ones dotted
(`alert.signature`, `dest_ip`). Where the Sigma taxonomy has a category, the record has that view
too: dns, http as proxy and webserver, flow, netflow and drop as firewall.

The event's host is the sensor: `host`, which Suricata takes from `sensor-name`, or the sender in
the syslog header. `http.hostname` is what a client asked for and no host of ours.
"""

from itertools import islice
from typing import Any, Final

from appliance.normalise.entities import (
    make_address,
    make_file,
    make_hashes,
    make_user,
    name_host,
)
from appliance.normalise.flatten import flatten
from appliance.normalise.reading import Context, Reading, find_object
from appliance.normalise.times import read_time
from appliance.normalise.traffic import (
    DNS,
    FIREWALL,
    HTTP_SOURCES,
    Maker,
    add_entities,
    copy_fields,
    list_entities,
    make_name,
    put_uri,
)
from appliance.schema import Decoded, Entity, Fields, LogSource, View

#: Event types of Suricata 4 to 8.
SERVICES: Final = (
    "alert", "anomaly", "arp", "bittorrent_dht", "dcerpc", "dhcp", "dnp3", "dns", "doh2", "drop",
    "enip", "file", "fileinfo", "flow", "ftp", "ftp_data", "http", "http2", "ike", "ikev2", "krb5",
    "ldap", "mdns", "metadata", "modbus", "mqtt", "netflow", "nfs", "pgsql", "pop3", "quic", "rdp",
    "rfb", "sip", "smb", "smtp", "snmp", "ssh", "stats", "telnet", "template", "tftp", "tls",
    "websocket",
)  # fmt: skip

#: Records of the rule engine's own alerts.
ALERT: Final = LogSource(product="suricata", service="alert")
_OWN: Final = {name: LogSource(product="suricata", service=name) for name in SERVICES}
#: The taxonomy's categories that an event type is too.
_CATEGORIES: Final[dict[str, tuple[LogSource, ...]]] = {
    "dns": (DNS,),
    "http": HTTP_SOURCES,
    "flow": (FIREWALL,),
    "netflow": (FIREWALL,),
    "drop": (FIREWALL,),
}
_VIEWS: Final = {name: (own, *_CATEGORIES.get(name, ())) for name, own in _OWN.items()}
#: What the records of each type are.
SHAPES: Final[tuple[tuple[LogSource, ...], ...]] = tuple(_VIEWS.values())
#: Every log source that this normaliser can produce.
SOURCES: Final = (*_OWN.values(), DNS, FIREWALL, *HTTP_SOURCES)

_NAMES: Final = (
    ("dest_ip", "dst_ip"),
    ("dest_port", "dst_port"),
    ("dns.rcode", "response_code"),
)
_ENDS_PORTS: Final = {"src_ip": "src_port", "dest_ip": "dest_port"}
_HTTP_NAMES: Final = (
    ("http.http_method", "cs-method"),
    ("http.http_user_agent", "c-useragent"),
    ("http.http_user_agent", "cs-user-agent"),
    ("http.http_refer", "cs-referrer"),
    ("http.http_refer", "cs-referer"),
    ("http.status", "sc-status"),
    ("http.protocol", "cs-version"),
    ("http.length", "sc-bytes"),
    ("src_ip", "c-ip"),
)
#: Names of accounts.
_USERS: Final = ("smb.ntlmssp.user", "krb5.cname", "rdp.cookie", "ftp.user")
#: Fields that make an entity, of an event of any type: an alert has those of its protocol too.
_ENTITIES: Final[tuple[tuple[str, Maker], ...]] = (
    ("dhcp.assigned_ip", make_address),
    ("dhcp.client_ip", make_address),
    ("arp.src_ip", make_address),
    ("arp.dest_ip", make_address),
    ("query", make_name),
    ("http.hostname", make_name),
    ("tls.sni", make_name),
    ("quic.sni", make_name),
    ("fileinfo.filename", make_file),
    ("smb.filename", make_file),
    ("nfs.filename", make_file),
    ("tftp.file", make_file),
    ("ftp_data.filename", make_file),
)
#: Most answers, and most of each group of them, that are read of one record.
MAX_ANSWERS: Final = 256
_HASHES: Final = ("fileinfo.md5", "fileinfo.sha1", "fileinfo.sha256")


def read_suricata(decoded: Decoded, context: Context) -> Reading | None:
    """Read an EVE record; None when it is none."""
    record = find_object(decoded)
    service = record.get("event_type")
    if type(service) is not str or (sources := _VIEWS.get(service)) is None:
        return None
    if not _is_eve(record, service):
        return None
    fields = flatten(record)
    copy_fields(fields, _NAMES)
    if "dns" in record:
        _put_dns(fields, record["dns"])
    if service == "http":
        copy_fields(fields, _HTTP_NAMES)
        host, method = fields.get("http.hostname"), fields.get("http.http_method")
        put_uri(fields, fields.get("http.url"), host, method)
    elif service == "drop":
        fields.setdefault("action", "drop")
    _put_account(fields)
    name = record.get("host")
    host = (name_host(name) if type(name) is str else "") or context.host
    return Reading(
        views=tuple([View(source, fields) for source in sources]),
        entities=_collect(fields, service),
        host=host,
        time=read_time(record.get("timestamp"), context),
    )


def _is_eve(record: dict[str, Any], service: str) -> bool:
    """True for a record that has what each EVE record of its type has."""
    if type(record.get("timestamp")) is not str:
        return False
    return type(record.get("flow_id")) is int or type(record.get(service)) is dict


def _put_dns(fields: Fields, dns: Any) -> None:
    """Add the taxonomy's names for a DNS query or answer, of any version of the format: 1 has one
    record with each answer, 2 a list of answers, 3 a list of queries beside it."""
    if type(dns) is not dict:
        return
    names, types = _list_values(dns.get("queries", dns.get("query")), "rrname", "rrtype")
    for own, values in (("rrname", names), ("rrtype", types)):
        if type(value := dns.get(own)) is str and value not in values:
            values.insert(0, value)
    answers, kinds = _list_values(dns.get("answers", dns.get("answer")), "rdata", "rrtype")
    if type(value := dns.get("rdata")) is str:
        answers.append(value)
    grouped = dns.get("grouped")
    if type(grouped) is dict and not answers:
        for kind, group in islice(grouped.items(), MAX_ANSWERS):
            kinds.append(kind)
            if type(group) is list:
                answers.extend(part for part in group[:MAX_ANSWERS] if type(part) is str)
    for name, values in (("query", names), ("record_type", types or kinds), ("answer", answers)):
        if values and name not in fields:
            fields[name] = values[0] if len(values) == 1 else values


def _list_values(rows: Any, name: str, kind: str) -> tuple[list[str], list[str]]:
    """The texts that the objects of a list (or one object) have under two names, each kind once."""
    if type(rows) is dict:
        rows = [rows]
    values: list[str] = []
    kinds: dict[str, None] = {}
    for row in rows[:MAX_ANSWERS] if type(rows) is list else []:
        if type(row) is dict:
            if type(value := row.get(name)) is str:
                values.append(value)
            if type(value := row.get(kind)) is str:
                kinds[value] = None
    return values, list(kinds)


def _put_account(fields: Fields) -> None:
    for name in _USERS:
        value = fields.get(name)
        if type(value) is str and value:
            fields.setdefault("user", value.removeprefix("mstshash=").removeprefix("Cookie: "))
            return


def _collect(fields: Fields, service: str) -> tuple[Entity, ...]:
    """What the record is about. The sensor is not: every event that it sees would share it, and
    neither is the resolver that a DNS query went to."""
    found: dict[Entity | None, None] = {}
    for name in ("src_ip", "dest_ip"):
        if service == "dns" and fields.get(_ENDS_PORTS[name]) == 53:
            continue
        if type(value := fields.get(name)) is str:
            found[make_address(value)] = None
    for name, make in _ENTITIES:
        if name in fields:
            add_entities(found, fields[name], make)
    if type(user := fields.get("user")) is str:
        realm = fields.get("smb.ntlmssp.domain", fields.get("krb5.realm"))
        found[make_user(user, realm if type(realm) is str else "")] = None
    for name in _HASHES:
        if type(value := fields.get(name)) is str:
            found.update(dict.fromkeys(make_hashes(value)))
    return list_entities(found)
