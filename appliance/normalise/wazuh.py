"""Third station of the line, product wazuh: alerts of the Wazuh manager (alerts.json, or the index
that its Filebeat fills; Wazuh documentation, "Alert management" and "Decoders syntax").

The fields keep Wazuh's names, nested ones dotted (`rule.id`, `data.srcip`). What Wazuh read of the
original record (`data`, `syscheck`) makes the entities and the product-neutral fields.

The event's host is the agent. The manager itself (agent 000) also forwards what devices without an
agent sent by syslog: then it is the host of the syslog header. A name that the original record says
of anybody is never the event's host.
"""

import re
from functools import partial
from typing import Any, Final

from appliance.normalise.entities import (
    collect_entities,
    make_address,
    make_file,
    make_hashes,
    make_host,
    make_process_by_id,
    make_user,
    name_host,
    read_number,
)
from appliance.normalise.flatten import flatten
from appliance.normalise.reading import Context, Reading, find_object
from appliance.normalise.times import read_time
from appliance.normalise.traffic import (
    Maker,
    add_entities,
    copy_fields,
    list_entities,
    make_name,
)
from appliance.schema import Decoded, Entity, Fields, LogSource, View

ALERT: Final = LogSource(product="wazuh", service="alert")
#: Every log source that this normaliser can produce.
SOURCES: Final = (ALERT,)

#: The manager's own agent.
_MANAGER: Final = "000"
_RULE: Final = re.compile(r"\d{1,10}", re.ASCII)
_AGENT: Final = re.compile(r"\d{1,10}", re.ASCII)
_NAMES: Final = (
    ("data.srcip", "src_ip"),
    ("data.src_ip", "src_ip"),
    ("data.win.eventdata.ipAddress", "src_ip"),
    ("data.win.eventdata.sourceIp", "src_ip"),
    ("data.srcport", "src_port"),
    ("data.src_port", "src_port"),
    ("data.dstip", "dst_ip"),
    ("data.dest_ip", "dst_ip"),
    ("data.win.eventdata.destinationIp", "dst_ip"),
    ("data.dstport", "dst_port"),
    ("data.dest_port", "dst_port"),
    ("data.dstuser", "user"),
    ("data.win.eventdata.targetUserName", "user"),
    ("data.srcuser", "user"),
)
#: Fields that make an entity.
_ENTITIES: Final[tuple[tuple[str, Maker], ...]] = (
    ("agent.ip", make_address),
    ("data.srcip", make_address),
    ("data.dstip", make_address),
    ("data.src_ip", make_address),
    ("data.dest_ip", make_address),
    ("data.srcuser", make_user),
    ("data.dstuser", make_user),
    ("data.dns.rrname", make_name),
    ("data.dns.query.rrname", make_name),
    ("data.http.hostname", make_name),
    ("data.tls.sni", make_name),
    ("data.fileinfo.filename", make_file),
    ("data.file", make_file),
    ("data.audit.exe", make_file),
    ("data.audit.file.name", make_file),
    ("data.virustotal.source.file", make_file),
    ("data.win.system.computer", make_host),
    ("syscheck.path", make_file),
    ("syscheck.audit.user.name", make_user),
    ("syscheck.audit.effective_user.name", make_user),
    ("syscheck.audit.process.name", make_file),
)
#: Digests; of a file that changed, what it was before and what it is.
_HASHES: Final = (
    "syscheck.md5_after", "syscheck.sha1_after", "syscheck.sha256_after",
    "syscheck.md5_before", "syscheck.sha1_before", "syscheck.sha256_before",
    "data.fileinfo.md5", "data.fileinfo.sha256",
    "data.virustotal.source.md5", "data.virustotal.source.sha1",
)  # fmt: skip
_WINDOWS: Final = "data.win.eventdata."
#: Most fields of a Windows event: Sysmon's have up to 30.
_MAX_WINDOWS: Final = 128


def read_wazuh(decoded: Decoded, context: Context) -> Reading | None:
    """Read an alert; None when the record is none."""
    record = find_object(decoded)
    if isinstance(source := record.get("_source"), dict):
        record = source
    if not _is_alert(record):
        return None
    fields = flatten(record)
    copy_fields(fields, _NAMES)
    if result := _judge_result(fields.get("rule.groups")):
        fields.setdefault("result", result)
    host = _name_host(record) or context.host
    time = read_time(record.get("timestamp"), context)
    return Reading(
        views=(View(ALERT, fields),),
        entities=partial(_collect, fields, host),
        host=host,
        time=read_time(record.get("@timestamp"), context) if time is None else time,
    )


def _is_alert(record: dict[str, Any]) -> bool:
    """True for a record that has what each alert has: rule, agent, manager, and a time."""
    rule = record.get("rule")
    if type(rule) is not dict or type(rule.get("level")) is not int:
        return False
    agent, manager = record.get("agent"), record.get("manager")
    if type(agent) is not dict or type(manager) is not dict:
        return False
    told = (rule.get("id"), agent.get("id"), manager.get("name"), rule.get("description"))
    if not all(type(text) is str for text in told):
        return False
    return bool(
        _RULE.fullmatch(rule["id"])
        and _AGENT.fullmatch(agent["id"])
        and ("timestamp" in record or "@timestamp" in record)
    )


def _name_host(record: dict[str, Any]) -> str:
    agent = record["agent"]
    if agent["id"] == _MANAGER and isinstance(header := record.get("predecoder"), dict):
        sender = header.get("hostname")
        if type(sender) is str and (name := name_host(sender)):
            return name
    name = agent.get("name")
    return name_host(name) if type(name) is str else ""


def _judge_result(groups: Any) -> str:
    """The outcome that the rule's groups tell of (Wazuh's ruleset: authentication_success,
    authentication_failed, authentication_failures)."""
    if type(groups) is not list:
        return ""
    if "authentication_success" in groups:
        return "success"
    failed = "authentication_failed" in groups or "authentication_failures" in groups
    return "failure" if failed else ""


def _collect(fields: Fields, host: str) -> tuple[Entity, ...]:
    found: dict[Entity | None, None] = {make_host(host) if host else None: None}
    for name, make in _ENTITIES:
        if name in fields:
            add_entities(found, fields[name], make)
    for name in _HASHES:
        if type(value := fields.get(name)) is str:
            found.update(dict.fromkeys(make_hashes(value)))
    for prefix in ("data.audit", "syscheck.audit.process"):
        pid = fields.get(f"{prefix}.pid", fields.get(f"{prefix}.id"))
        image = fields.get(f"{prefix}.exe", fields.get(f"{prefix}.name"))
        found[make_process_by_id(host, pid, image)] = None
    if windows := _restore_windows(fields):
        event_id = read_number(fields.get("data.win.system.eventID")) or 0
        found.update(dict.fromkeys(collect_entities(windows, host, event_id)))
    return list_entities(found)


def _restore_windows(fields: Fields) -> Fields:
    """The data of a Windows event under Windows' own names: Wazuh begins each with a small letter
    and doubles backslashes."""
    found: Fields = {}
    for name, value in fields.items():
        if not name.startswith(_WINDOWS) or type(value) is not str:
            continue
        own = name[len(_WINDOWS) :]
        doubled = "\\\\" in value[1:]
        found[own[:1].upper() + own[1:]] = value.replace("\\\\", "\\") if doubled else value
        if len(found) >= _MAX_WINDOWS:
            break
    return found
