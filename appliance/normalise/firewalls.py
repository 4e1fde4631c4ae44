"""Third station of the line: messages of network firewalls that have forms of their own.

Cisco ASA (Syslog Messages guide) and IOS, NetScreen ScreenOS (Messages Log Reference), SonicWall
(Log Event Reference), Junos (structured data, RFC 5424 section 6.3) and Check Point (Log Exporter).
Views are in Sigma's category firewall (src_ip, src_port, dst_ip, dst_port, action, user), but for
IOS, which runs on routers and switches too.
"""

import re
from typing import Any, Final

from appliance.normalise.entities import make_address, make_host, make_user, name_host
from appliance.normalise.flatten import flatten
from appliance.normalise.forms import MAX_MESSAGE
from appliance.normalise.reading import Context, Reading, is_host_program, is_syslog
from appliance.normalise.times import read_time
from appliance.schema import Decoded, Entity, Fields, LogSource, View

ASA: Final = LogSource(product="cisco", category="firewall", service="asa")
IOS: Final = LogSource(product="cisco", service="ios")
SCREENOS: Final = LogSource(product="juniper", category="firewall", service="screenos")
JUNOS: Final = LogSource(product="juniper", category="firewall", service="junos")
SONICWALL: Final = LogSource(product="sonicwall", category="firewall")
CHECKPOINT: Final = LogSource(product="checkpoint", category="firewall")

#: Every log source that this normaliser can produce.
SOURCES: Final = (ASA, IOS, SCREENOS, JUNOS, SONICWALL, CHECKPOINT)

_IP: Final = r"\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]{2,40}"


def _end(name: str, *, interface: bool = True) -> str:
    """One end of a connection: `interface:address/port`."""
    zone = r"(?:[\w.-]{1,64}:)?" if interface else ""
    return rf"{zone}(?P<{name}_ip>{_IP})(?:/(?P<{name}_port>\d{{1,5}}))?"


_SRC: Final = _end("src")
_DST: Final = _end("dst")
#: What may stand between two ends: the translated address, or a user's name in parentheses.
_NOTE: Final = r"(?: ?\([^()]{0,128}\)){0,2}"
#: Forms of ASA messages that hold what a peer or an administrator chose: it stands behind the
#: address, or the form is anchored behind it too, and the last address counts.
_ASA_OWN: Final = tuple(
    re.compile(form, re.DOTALL)
    for form in (
        rf"(?:Built|Teardown) local-host {_SRC}\b",
        rf"Shunned packet: {_SRC} =(?:=>)? {_DST}",
        rf"(?P<src_ip>{_IP}) Accessed (?:JAVA )?URL (?P<dst_ip>{_IP}):.*",
        rf"Access denied URL \S{{1,1000}} SRC (?P<src_ip>{_IP}) DEST (?P<dst_ip>{_IP})\b",
        rf"User '(?P<user>[^']{{0,255}})', running '[^']{{1,64}}' from IP (?P<src_ip>{_IP}), ",
        rf"Authentication (?:succeeded|failed) for user '(?P<user>.{{0,255}})' from {_SRC} to "
        rf"{_DST}"
        r" on interface \S{1,64}\s*\Z",
        rf"AAA user .{{0,200}}, [Uu]ser = (?P<user>.{{0,255}}?) ?: user IP = (?P<src_ip>{_IP})"
        rf"\s*\Z",
        rf"Group <[^<>]{{0,255}}> User <(?P<user>.{{0,255}})> IP <(?P<src_ip>{_IP})> "
        rf"Authentication:"
        r" [a-z]{1,16}, .*",
        rf"console enable password incorrect for .{{1,64}} \(from (?P<src_ip>{_IP})\)",
        rf"(?:Begin configuration: )?(?P<src_ip>{_IP}) (?:reading|end|Erase|erase|Write|write)",
        r"(?:Received ARP [a-z]{1,16} collision from|IP address collision detected between host) "
        rf"(?P<src_ip>{_IP})[/ ]",
    )
)
#: Forms of the others, whose text is all the device's: the two ends as it words them.
_ASA_ENDS: Final = tuple(
    re.compile(form)
    for form in (
        rf".{{0,200}}?\bfrom (?:laddr )?{_SRC}{_NOTE}(?: on interface \S{{1,64}})? to {_DST}",
        rf".{{0,200}}?\b(?:for|from) {_SRC}{_NOTE} to {_DST}",
        rf".{{0,200}}?\bsrc {_SRC}{_NOTE} dst {_DST}",
        rf".{{0,200}}?\bsrc = (?P<src_ip>{_IP}), dest = (?P<dst_ip>{_IP})",
        rf".{{0,100}}?remote-peer = (?P<src_ip>{_IP})",
    )
)
#: Messages with a command, a URL or a user's name in front: of them _ASA_ENDS reads nothing.
_ASA_FREE: Final = frozenset(
    {"111008", "111009", "111010", "304001", "304002", "304003", "109005", "109006", "113004"}
    | {"113005", "113012", "113015", "716038", "716039", "611101", "611102", "611103"}
)
_ASA_USERS: Final = tuple(
    re.compile(form)
    for form in (
        r'.{0,300}? for user "(?P<user>[^"]{0,255})"',
        r".{0,300}?\bUname: (?P<user>\S{1,255})",
        r"User '(?P<user>[^']{0,255})' executed ",
        r"User (?P<user>\S{1,255}) (?:executed cmd:|locked out )",
        r".{0,300}?, [Uu]ser(?:name)? = (?P<user>[^\s,:]{1,255})",
        r".{0,300}? for user (?P<user>\S{1,255}) : ",
    )
)
#: Message number -> the result of a login, as the guide words it.
_ASA_RESULTS: Final = {
    "605004": "failure", "605005": "success", "308001": "failure", "113005": "failure",
    "113015": "failure", "113004": "success", "113012": "success", "113006": "failure",
    "611101": "success", "611102": "failure", "109006": "failure", "109005": "success",
    "716039": "failure", "716038": "success",
}  # fmt: skip
_ASA_HEAD: Final = re.compile(
    r"(?:(?P<hostname>[\w.:-]{1,255}) )?(?:: )?%(?P<device>ASA|FTD|PIX|FWSM)-"
    r"(?:\w{1,16}-)?[0-7]-(?P<number>\d{6}):?"
    r" "
)
_ASA_ACTIONS: Final = re.compile(
    r"(?P<deny>(?i:.{0,100}?\b(?:den(?:y|ied)|drop(?:ped)?|discard|rejecting|shunned|"
    r"disallowing)\b))"
    r"|(?P<allow>Built |Login permitted )"
)
_IOS_HEAD: Final = re.compile(
    r"(?:(?P<hostname>[\w.:-]{1,255}) )?(?:: )?%"
    r"(?P<mnemonic>[A-Z][A-Z0-9_]{1,31}-[0-7]-[A-Z0-9_]{1,64}): "
)
_IOS: Final = tuple(
    re.compile(form)
    for form in (
        rf"list \S{{1,64}} (?P<action>denied|permitted) \w{{1,16}} (?P<src_ip>{_IP})"
        rf"\((?P<src_port>\d{{1,5}})\).{{0,64}}? -> (?P<dst_ip>{_IP})\((?P<dst_port>\d{{1,5}})\)",
        rf"Sig:\d{{1,9}} .{{1,200}} \[(?P<src_ip>{_IP}):(?P<src_port>\d{{1,5}}) -> "
        rf"(?P<dst_ip>{_IP}):(?P<dst_port>\d{{1,5}})\]\s*\Z",
        rf"Login failed \[user: (?P<user>.{{0,255}})\] \[Source: (?P<src_ip>{_IP})\] "
        rf"\[localport: .*",
        rf"Login Success \[user: (?P<user>.{{0,255}})\] \[Source: (?P<src_ip>{_IP})\] "
        rf"\[localport: .*",
    )
)
_IOS_RESULTS: Final = {
    "SEC_LOGIN-4-LOGIN_FAILED": "failure",
    "SEC_LOGIN-5-LOGIN_SUCCESS": "success",
}
_SCREENOS_HEAD: Final = re.compile(
    r"(?:[\w.-]{1,64}: )?NetScreen device_id=\S{1,64} {1,4}(?:No Name)?\[(?P<vsys>\w{1,64})\]"
    r"system-(?P<severity>[a-z]{1,16})-(?P<number>\d{5})(?:\([a-z]{1,16}\))?: "
)
_SCREENOS: Final = tuple(
    re.compile(form)
    for form in (
        rf".{{1,100}}! From (?P<src_ip>{_IP}):(?P<src_port>\d{{1,5}}) to (?P<dst_ip>{_IP}):"
        r"(?P<dst_port>\d{1,5}), ",
        rf".{{1,300}}? via [\w-]{{1,16}} from (?:host )?(?P<src_ip>{_IP})(?::"
        rf"(?P<src_port>\d{{1,5}}))?"
        rf" to (?P<dst_ip>{_IP}):(?P<dst_port>\d{{1,5}})(?: by (?P<user>[^\s.]{{1,255}}))?",
        rf".{{1,300}}? via [\w-]{{1,16}} from (?P<src_ip>{_IP}):(?P<src_port>\d{{1,5}}) for admin"
        r" (?P<user>\S{1,255}) ",
    )
)
_SONICWALL_HEAD: Final = re.compile(
    r"(?:(?P<hostname>[\w.:-]{1,255}) )?id=[\w.-]{1,64} {1,2}sn=\w{8,16} time=\""
)
_PAIR: Final = re.compile(
    r'(?<!\S)(?P<name>[A-Za-z_]\w{0,31})=(?:"(?P<quoted>[^"]*)"|(?P<bare>\S*))'
)
_JUNOS_HEAD: Final = re.compile(
    r"(?:\S{20,32} \S{1,255} )?(?P<process>RT_\w{1,16}) - (?P<tag>[A-Z0-9_]{1,64}) "
    r"\[junos@[\d.]{1,64} "
)
_CHECKPOINT_HEAD: Final = re.compile(
    r"(?:1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \S{1,255} )?CheckPoint \d{1,10} - \[action:\""
)
#: A quoted value; a quotation mark in it is escaped (RFC 5424 section 6.3.3, and Check Point).
_QUOTED: Final = r'"(?P<quoted>(?:[^"\\]|\\.)*+)"'
_CHECKPOINT_PAIR: Final = re.compile(rf"(?<=[\[ ])(?P<name>\w{{1,64}}):{{1,2}}{_QUOTED}(?=[;\]])")
#: Names of the pairs -> ours.
_NAMES: Final = {
    "src": "src_ip", "dst": "dst_ip", "usr": "user", "user": "user", "s_port": "src_port",
    "service": "dst_port", "action": "action", "source-address": "src_ip", "username": "user",
    "source-port": "src_port", "destination-address": "dst_ip", "destination-port": "dst_port",
}  # fmt: skip
_STRUCTURED: Final = re.compile(rf"(?<= )(?P<name>[\w-]{{1,32}})={_QUOTED}")
_MAX_PAIRS: Final = 200
_ADDRESS: Final = re.compile(_IP)
_SONICWALL_END: Final = re.compile(rf"(?P<ip>{_IP})?(?::(?P<port>\d{{1,5}}))?(?::.*)?")


def read_firewall(decoded: Decoded, context: Context) -> Reading | None:
    """Read a firewall's message, in syslog or as a line of text; None for others'."""
    syslog = is_syslog(decoded)
    if not syslog and decoded.format != "text":
        return None
    record = decoded.fields
    # Every line is asked, and most have none of the marks.
    head = record.get("message", "")[:_MARKED]
    if not (
        "%" in head
        or " sn=" in head
        or "[junos@" in head
        or "CheckPoint " in head
        or "NetScreen device_id=" in head
        or record.get("appname", "")[:1] == "%"
    ) or (syslog and is_host_program(decoded)):
        return None
    message = _join_message(decoded)
    message = message[:MAX_MESSAGE]
    for head, read in _READERS:
        if match := head.match(message):
            source, found = read(match, message[match.end() :])
            named = record.get("hostname") or match.groupdict().get("hostname") or ""
            return _make_reading(source, found, record, context, named)
    return None


def _join_message(decoded: Decoded) -> str:
    """The message with the tag, which a device's own head may have been taken for; of a line of
    text what stands behind its time."""
    record = decoded.fields
    message: str = record.get("message", "")
    if decoded.format == "text":
        stamp = record.get("timestamp")
        if isinstance(stamp, str) and message.startswith(stamp):
            return message[len(stamp) :].lstrip(" :")
        return message
    appname = record.get("appname")
    return f"{appname}: {message}" if isinstance(appname, str) and appname[:1] == "%" else message


def _read_asa(head: re.Match[str], text: str) -> tuple[LogSource, Fields]:
    found: Fields = {"message_id": head["number"]}
    forms = _ASA_OWN if head["number"] in _ASA_FREE else (*_ASA_OWN, *_ASA_ENDS)
    for form in forms:
        if match := form.match(text):
            found.update((name, value) for name, value in match.groupdict().items() if value)
            break
    for form in _ASA_USERS:
        if "user" not in found and (match := form.match(text)):
            found["user"] = match["user"]
    if result := _ASA_RESULTS.get(head["number"]):
        found["result"] = result
    if match := _ASA_ACTIONS.match(text):
        found["action"] = "deny" if match["deny"] else "allow"
    return ASA, found


def _read_ios(head: re.Match[str], text: str) -> tuple[LogSource, Fields]:
    found: Fields = {"mnemonic": head["mnemonic"]}
    for form in _IOS:
        if match := form.match(text):
            found.update((name, value) for name, value in match.groupdict().items() if value)
            break
    if result := _IOS_RESULTS.get(head["mnemonic"]):
        found["result"] = result
    return IOS, found


def _read_screenos(head: re.Match[str], text: str) -> tuple[LogSource, Fields]:
    found: Fields = {"message_id": head["number"], "level": head["severity"]}
    for form in _SCREENOS:
        if match := form.match(text):
            found.update((name, value) for name, value in match.groupdict().items() if value)
            break
    return SCREENOS, found


def _read_sonicwall(head: re.Match[str], text: str) -> tuple[LogSource, Fields]:
    found = _read_pairs(_PAIR, head[0][head[0].find("id=") :] + text)
    for name, ip, port in (("src", "src_ip", "src_port"), ("dst", "dst_ip", "dst_port")):
        version6 = found.get(f"{name}V6")
        match = _SONICWALL_END.match(str(found.get(name, "")))
        address = version6 or (match and match["ip"])
        if address:
            found[ip] = address
        else:
            found.pop(ip, None)
        if match and match["port"]:
            found[port] = match["port"]
    if str(found.get("msg", "")).endswith(("login denied due to bad credentials", "login denied")):
        found["result"] = "failure"
    return SONICWALL, found


def _read_junos(head: re.Match[str], text: str) -> tuple[LogSource, Fields]:
    found: Fields = _read_pairs(_STRUCTURED, f" {text}")
    found["tag"] = head["tag"]
    found.setdefault("action", "deny" if head["tag"].endswith("_DENY") else "")
    if not found["action"]:
        del found["action"]
    return JUNOS, found


def _read_checkpoint(head: re.Match[str], text: str) -> tuple[LogSource, Fields]:
    return CHECKPOINT, _read_pairs(_CHECKPOINT_PAIR, f'[action:"{text}')


def _read_pairs(pair: re.Pattern[str], text: str) -> Fields:
    """The pairs by their own names and by ours; of a name that comes twice the first counts."""
    found: Fields = {}
    for number, match in enumerate(pair.finditer(text)):
        if number >= _MAX_PAIRS:
            break
        parts = match.groupdict()
        value = parts["quoted"] if parts["quoted"] is not None else parts.get("bare") or ""
        found.setdefault(match["name"], value)
        if (name := _NAMES.get(match["name"])) and value not in ("", "N/A"):
            found.setdefault(name, value)
    return found


#: Heads of messages with what reads them, the stricter first.
_READERS: Final = (
    (_ASA_HEAD, _read_asa),
    (_IOS_HEAD, _read_ios),
    (_SCREENOS_HEAD, _read_screenos),
    (_SONICWALL_HEAD, _read_sonicwall),
    (_JUNOS_HEAD, _read_junos),
    (_CHECKPOINT_HEAD, _read_checkpoint),
)
#: How far from the beginning a message's own mark stands at the latest, in characters.
_MARKED: Final = 400


def _make_reading(
    source: LogSource, found: Fields, record: dict[str, Any], context: Context, named: str
) -> Reading:
    host = name_host(named) or context.host
    fields = flatten(record)
    for name, value in found.items():
        if name in _KEPT:
            fields.setdefault(name, value)
        else:
            fields[name] = value
    for name in ("src_ip", "dst_ip"):
        if name in fields and not _ADDRESS.fullmatch(str(fields[name])):
            del fields[name]
    entities: dict[Entity | None, None] = {make_host(host) if host else None: None}
    for name in ("src_ip", "dst_ip"):
        if isinstance(value := fields.get(name), str):
            entities[make_address(value)] = None
    if isinstance(value := fields.get("user"), str):
        entities[make_user(value)] = None
    return Reading(
        views=(View(source, fields),),
        entities=tuple(entity for entity in entities if entity is not None),
        host=host,
        time=read_time(record.get("timestamp") or _find_time(found), context),
    )


#: Names of the record's own parts, which no pair of a message may replace.
_KEPT: Final = frozenset(
    {"message", "hostname", "timestamp", "appname", "program", "procid", "facility", "severity"}
)


def _find_time(found: Fields) -> Any:
    """The time that a device writes as a pair: SonicWall's text, Check Point's seconds."""
    value = found.get("time")
    return value.removesuffix(" UTC") + "Z" if isinstance(value, str) and " UTC" in value else value
