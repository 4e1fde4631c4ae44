"""Third station of the line, product zeek: every log of the network monitor Zeek.

A log's `_path` is the Sigma service, and its fields keep Zeek's names (`id.orig_h`), which Sigma's
rules for Zeek use. Where the Sigma taxonomy has a category, the record has that view too, with the
taxonomy's names beside Zeek's: dns, http as proxy and webserver, conn as firewall. Logs that the
table of services does not list have the product alone.

A record of the tab-separated form is Zeek's because its header says so. A JSON one names its log in
`_path` where the writer was told to; else it has the fields of a log (`ts`, `uid`, `id.orig_h`, or
those in _MARKS), and which log it is, is told by the name of its file where that fits, else by the
fields. What a record says of the host is about the ends of a connection: the event's host is the
sensor (`_system_name`, or the sender in the syslog header).
"""

import re
from functools import lru_cache
from typing import Any, Final

import msgspec

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

#: Logs of Zeek itself, of its own policy scripts, and of the ICSNPP packages (parsers for
#: industrial protocols), by `_path`.
SERVICES: Final = (
    "analyzer", "arp", "broker", "capture_loss", "cluster", "config", "conn", "dce_rpc", "dhcp",
    "dnp3", "dns", "dpd", "files", "ftp", "geneve", "gtpv1", "http", "intel", "irc", "kerberos",
    "known_certs", "known_devices", "known_hosts", "known_modbus", "known_services", "ldap",
    "ldap_search", "loaded_scripts", "mdns", "modbus", "modbus_register_change", "mqtt_connect",
    "mqtt_publish", "mqtt_subscribe", "mysql", "netcontrol", "netcontrol_drop", "notice",
    "notice_alarm", "ntlm", "ntp", "ocsp", "openflow", "packet_filter", "pe", "postgresql", "print",
    "quic", "radius", "rdp", "redis", "reporter", "rfb", "signatures", "sip", "smb_cmd",
    "smb_files", "smb_mapping", "smtp", "snmp", "socks", "software", "ssh", "ssl", "stats",
    "syslog", "telemetry", "traceroute", "tunnel", "unknown_protocols", "websocket", "weird",
    "weird_stats", "x509",
    "bacnet", "bacnet_device_control", "bacnet_discovery", "bacnet_property", "bsap_ip_header",
    "bsap_ip_rdb", "cip", "cip_identity", "cip_io", "cotp", "dnp3_control", "dnp3_objects",
    "dnp3_read_objects", "ecat_registers", "enip", "ge_srtp", "genisys", "hart_ip", "iec104",
    "modbus_detailed", "modbus_mask_write_register", "modbus_read_device_identification",
    "modbus_read_write_multiple_registers", "omron_fins", "opcua_binary", "profinet_io_cm",
    "s7comm", "s7comm_known_devices", "s7comm_plus", "s7comm_read_szl", "s7comm_upload_download",
    "synchrophasor", "synchrophasor_cmd", "tds", "tds_rpc", "tds_sql_batch",
)  # fmt: skip

_ZEEK: Final = LogSource(product="zeek")
_OWN: Final = {path: LogSource(product="zeek", service=path) for path in SERVICES}
#: The taxonomy's categories that a log is too.
_CATEGORIES: Final[dict[str, tuple[LogSource, ...]]] = {
    "conn": (FIREWALL,),
    "dns": (DNS,),
    "http": HTTP_SOURCES,
}
#: Every log source that this normaliser can produce.
SOURCES: Final = (_ZEEK, *_OWN.values(), DNS, FIREWALL, *HTTP_SOURCES)

#: Second names of fields, product-neutral or the taxonomy's.
_ENDS: Final = (
    ("id.orig_h", "src_ip"),
    ("id.orig_p", "src_port"),
    ("id.resp_h", "dst_ip"),
    ("id.resp_p", "dst_port"),
)
_NAMES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "dns": (
        ("qtype_name", "record_type"),
        ("qclass_name", "record_class"),
        ("answers", "answer"),
        ("rcode_name", "response_code"),
    ),
    "http": (
        ("method", "cs-method"),
        ("user_agent", "c-useragent"),
        ("user_agent", "cs-user-agent"),
        ("referrer", "cs-referrer"),
        ("referrer", "cs-referer"),
        ("status_code", "sc-status"),
        ("username", "cs-username"),
        ("username", "user"),
        ("version", "cs-version"),
        ("request_body_len", "cs-bytes"),
        ("response_body_len", "sc-bytes"),
        ("id.orig_h", "c-ip"),
    ),
    "dhcp": (("client_addr", "src_ip"), ("server_addr", "dst_ip")),
    "notice": (("src", "src_ip"), ("dst", "dst_ip"), ("p", "dst_port")),
    "ntlm": (("username", "user"),),
    "radius": (("username", "user"),),
    "rdp": (("cookie", "user"),),
}
#: Fields that hold whether something that was tried has worked.
_RESULTS: Final = {
    "ssh": "auth_success",
    "ntlm": "success",
    "kerberos": "success",
    "mysql": "success",
}


def _make_ftp_user(name: str) -> Entity | None:
    """A user that says who it is: before USER was seen, Zeek writes `<unknown>`."""
    return None if name.lower() in ("<unknown>", "anonymous", "ftp") else make_user(name)


#: Fields of each log that make an entity, beside the two ends of its connection.
_ENTITIES: Final[dict[str, tuple[tuple[str, Maker], ...]]] = {
    "conn": (),
    "dns": (("query", make_name),),
    "http": (
        ("host", make_name),
        ("username", make_user),
        ("orig_filenames", make_file),
        ("resp_filenames", make_file),
    ),
    "ssl": (("server_name", make_name),),
    "quic": (("server_name", make_name),),
    "files": (
        ("tx_hosts", make_address),
        ("rx_hosts", make_address),
        ("filename", make_file),
    ),
    "dhcp": (
        ("client_addr", make_address),
        ("assigned_addr", make_address),
        ("server_addr", make_address),
    ),
    "ftp": (("user", _make_ftp_user),),
    "irc": (("user", make_user), ("dcc_file_name", make_file)),
    "known_certs": (("host", make_address),),
    "known_hosts": (("host", make_address),),
    "known_services": (("host", make_address),),
    "notice": (("src", make_address), ("dst", make_address)),
    "radius": (("username", make_user),),
    "rdp": (("cookie", make_user),),
    "signatures": (("src_addr", make_address), ("dst_addr", make_address)),
    "smb_files": (("name", make_file),),
    "smtp": (("x_originating_ip", make_address),),
    "socks": (("user", make_user), ("request.host", make_name)),
    "software": (("host", make_address),),
    "traceroute": (("src", make_address), ("dst", make_address)),
}
_HASHES: Final = ("md5", "sha1", "sha256")
#: Kinds of indicators of the intelligence framework that are entities.
_INDICATORS: Final[dict[str, Maker]] = {
    "Intel::ADDR": make_address,
    "Intel::DOMAIN": make_name,
    "Intel::FILE_NAME": make_file,
    "Intel::USER_NAME": make_user,
}

#: Fields of which a JSON record without `_path` has all, for logs that can be told by them.
_MARKS: Final[tuple[tuple[str, frozenset[str]], ...]] = tuple(
    (path, frozenset(names.split()))
    for path, names in (
        ("conn", "uid id.orig_h conn_state"),
        ("dns", "uid id.orig_h trans_id qtype"),
        ("dns", "uid id.orig_h trans_id query"),
        ("dns", "uid id.orig_h trans_id rejected"),
        ("http", "uid id.orig_h trans_depth request_body_len"),
        ("ssl", "uid id.orig_h established resumed"),
        ("files", "fuid source depth seen_bytes"),
        ("x509", "certificate.version certificate.serial"),
        ("smtp", "uid id.orig_h trans_depth helo"),
        ("ssh", "uid id.orig_h auth_attempts"),
        ("ssh", "uid id.orig_h client server"),
        ("rdp", "uid id.orig_h cert_count"),
        ("dce_rpc", "uid id.orig_h endpoint operation"),
        ("smb_files", "uid id.orig_h action times.modified"),
        ("smb_mapping", "uid id.orig_h path share_type"),
        ("kerberos", "uid id.orig_h request_type"),
        ("ntlm", "uid id.orig_h server_nb_computer_name"),
        ("ftp", "uid id.orig_h command user"),
        ("tunnel", "uid id.orig_h tunnel_type action"),
        ("snmp", "uid id.orig_h get_requests"),
        ("analyzer", "analyzer_kind analyzer_name"),
        ("notice", "note msg actions"),
        ("notice", "note msg suppress_for"),
        ("dhcp", "uids msg_types"),
        ("pe", "id machine subsystem"),
        ("software", "host software_type unparsed_version"),
        ("known_services", "host port_num port_proto"),
        ("weird", "name notice peer"),
        ("capture_loss", "ts_delta peer gaps"),
        ("packet_filter", "filter init success"),
        ("reporter", "level message"),
        ("ocsp", "hashAlgorithm serialNumber"),
        ("stats", "peer mem pkts_proc"),
        ("known_hosts", "host"),
        ("known_certs", "host subject serial"),
        ("arp", "operation orig_hw"),
        ("loaded_scripts", "name"),
    )
)
#: Of these the fields say too little: they count where the file has the log's name.
_BY_FILE: Final = frozenset({"known_hosts", "reporter", "arp", "loaded_scripts", "weird"})
_BOTH_ENDS: Final = ("id.orig_h", "id.resp_h")
_RESOLVER_LEFT_OUT: Final = ("id.orig_h",)
_CONNECTION: Final = frozenset({"uid", "id.orig_h", "id.resp_h"})
_FILE_NAME: Final = re.compile(r"(?:open_)?([a-z][a-z0-9_]{0,63})")
_FILE_END: Final = re.compile(r"_\d[\d_]*$")
#: Longest `_path` that is one.
_MAX_PATH: Final = 64


class _Plan(msgspec.Struct, frozen=True):
    """What to do with the records of one log."""

    path: str
    sources: tuple[LogSource, ...]
    names: tuple[tuple[str, str], ...]
    entities: tuple[tuple[str, Maker], ...]
    result: str


def _make_plan(path: str) -> _Plan:
    return _Plan(
        path=path,
        sources=(_OWN.get(path, _ZEEK), *_CATEGORIES.get(path, ())),
        names=_NAMES.get(path, ()),
        entities=_ENTITIES.get(path, ()),
        result=_RESULTS.get(path, ""),
    )


_OTHER: Final = _make_plan("")
_PLANS: Final = {path: _make_plan(path) for path in SERVICES}
#: What the records of each log are, in order; "" is any log without a service of its own.
LOGS: Final[dict[str, tuple[LogSource, ...]]] = {
    plan.path: plan.sources for plan in (_OTHER, *_PLANS.values())
}


def read_zeek(decoded: Decoded, context: Context) -> Reading | None:
    """Read a record of a Zeek log; None when it is none."""
    if decoded.format == "zeek":
        fields = dict(decoded.fields)
        plan = _find_plan_of_path(fields.get("_path") or _name_log(context.path))
    else:
        record = find_object(decoded)
        if "ts" not in record and "_path" not in record and "name" not in record:
            return None
        found = _find_plan(record, context.path)
        if found is None:
            return None
        plan, fields = found
    copy_fields(fields, _ENDS)
    copy_fields(fields, plan.names)
    _put_special(plan, fields)
    host = _name_sensor(fields) or context.host
    return Reading(
        views=tuple([View(source, fields) for source in plan.sources]),
        entities=_collect(plan, fields),
        host=host,
        time=read_time(fields.get("ts"), context),
    )


def _find_plan(record: dict[str, Any], file_path: str) -> tuple[_Plan, Fields] | None:
    """The plan and the flat fields of a JSON record; None when it is no Zeek log's."""
    path = record.get("_path")
    if type(path) is str and ("ts" in record or path in _PLANS):
        return _find_plan_of_path(path), flatten(record)
    log = _name_log(file_path)
    if "ts" not in record and log != "loaded_scripts":
        return None
    fields = flatten(record)
    names = fields.keys()
    told = None
    for path, marks in _MARKS:
        if marks <= names and (path == log or path not in _BY_FILE):
            if path == log:
                return _PLANS[path], fields
            told = told or path
    if names >= _CONNECTION:
        return _PLANS.get(told or log, _OTHER), fields
    return (_PLANS[told], fields) if told else None


def _find_plan_of_path(path: Any) -> _Plan:
    if type(path) is str and len(path) <= _MAX_PATH:
        # The package zeek-open-connections writes what is still open to logs of its own.
        return _PLANS.get(path.lower().removeprefix("open_"), _OTHER)
    return _OTHER


def name_log(file_path: str) -> str:
    """The log that a file's name says, "" for none."""
    return _name_log(file_path)


@lru_cache(maxsize=1024)
def _name_log(file_path: str) -> str:
    """The log that a file's name says: `conn.12:00:00-13:00:00.log.gz`, `dns_20240101.json`; ""
    for none."""
    match = _FILE_NAME.match(file_path.rpartition("/")[2].lower())
    if match is None:
        return ""
    name = _FILE_END.sub("", match[1])
    return name if name in _PLANS else ""


def _name_sensor(fields: Fields) -> str:
    name = fields.get("_system_name")
    return name_host(name) if type(name) is str else ""


def _put_special(plan: _Plan, fields: Fields) -> None:
    if plan.path == "http":
        put_uri(fields, fields.get("uri"), fields.get("host"), fields.get("method"))
    elif plan.path == "kerberos":
        user, _ = _split_principal(fields.get("client"))
        if user and "user" not in fields:
            fields["user"] = user
    if plan.result and "result" not in fields and type(fields.get(plan.result)) is bool:
        fields["result"] = "success" if fields[plan.result] else "failure"


def _collect(plan: _Plan, fields: Fields) -> tuple[Entity, ...]:
    """What the record is about. The sensor is not: every event that it sees would share it, and
    neither is the resolver that a DNS query went to."""
    found: dict[Entity | None, None] = {}
    for name in _RESOLVER_LEFT_OUT if plan.path == "dns" else _BOTH_ENDS:
        if type(value := fields.get(name)) is str:
            found[make_address(value)] = None
    for name, make in plan.entities:
        if name in fields:
            add_entities(found, fields[name], make)
    path = plan.path
    if path in ("files", "intel"):
        _collect_known(fields, found)
    elif path in ("ntlm", "kerberos"):
        _collect_account(fields, found)
    return list_entities(found)


def _collect_account(fields: Fields, found: dict[Entity | None, None]) -> None:
    name, domain = fields.get("username"), fields.get("domainname")
    if type(name) is str:
        found[make_user(name, domain if type(domain) is str else "")] = None
    else:
        found[make_user(*_split_principal(fields.get("client")))] = None


def _split_principal(client: Any) -> tuple[str, str]:
    """Name and realm of a Kerberos client, `name/REALM`; "" for what it lacks."""
    if type(client) is not str:
        return "", ""
    name, slash, realm = client.rpartition("/")
    return (name, realm) if slash else (realm, "")


def _collect_known(fields: Fields, found: dict[Entity | None, None]) -> None:
    """Hashes of a file; the indicator that was seen."""
    for name in _HASHES:
        if type(value := fields.get(name)) is str:
            found.update(dict.fromkeys(make_hashes(value)))
    kind, seen = fields.get("seen.indicator_type"), fields.get("seen.indicator")
    if type(kind) is str and type(seen) is str:
        if kind == "Intel::FILE_HASH":
            found.update(dict.fromkeys(make_hashes(seen)))
        elif make := _INDICATORS.get(kind):
            found[make(seen)] = None
