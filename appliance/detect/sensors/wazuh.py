"""Detect, sensor wazuh: alerts of the Wazuh manager (alerts.json, Wazuh documentation, "Rules
classification").

A rule about another sensor's alerts (Suricata's, Windows Defender's) is still Wazuh's. Where it
only passes on an alert of Suricata, whose signatures all share that one rule, the signature's
number tells them apart and its severity counts, where that is the higher one.
"""

import re
from typing import Any, Final

from appliance.detect.sensors.alert import (
    list_evidence,
    list_texts,
    name_title,
    raise_level,
    read_tactics,
    read_techniques,
)
from appliance.detect.sensors.suricata import read_severity
from appliance.schema import Detection, Event, Fields, Level, LogSource, Match, View

SOURCE: Final = LogSource(product="wazuh", service="alert")

#: The least of Wazuh's levels for each of ours, the highest first: 15 is a severe attack, 12 to 14
#: events of high importance, 7 to 11 "bad words", first-time events, several user errors and
#: integrity warnings, 4 to 6 single errors and attacks of low relevance, 1 to 3 what is allowed.
LEVELS_FROM: Final[tuple[tuple[int, Level], ...]] = (
    (15, "critical"), (12, "high"), (7, "medium"), (4, "low"), (1, "informational"),
)  # fmt: skip
#: Levels end at 16.
_MAX_LEVEL: Final = 16
_RULE: Final = re.compile(r"\d{1,10}", re.ASCII)
_EVIDENCE: Final = (
    "rule.level", "rule.groups", "location", "decoder.name", "data.srcip", "data.srcuser",
    "data.dstuser", "data.url", "data.alert.signature", "data.src_ip", "data.dest_ip",
    "data.win.system.eventID", "data.win.eventdata.image", "data.win.eventdata.commandLine",
    "data.command", "data.audit.command", "syscheck.event", "syscheck.path", "full_log",
)  # fmt: skip


def read_alert(event: Event, view: View) -> list[Detection]:
    """The alert of a record; none where it names no rule, or the rule's level (0) says that it is
    no alert."""
    fields = view.fields
    rule, number = fields.get("rule.id"), fields.get("rule.level")
    level = read_level(number)
    if type(rule) is not str or _RULE.fullmatch(rule) is None or level is None:
        return []
    rule_id = f"wazuh:{rule}"
    if (passed := _find_signature(fields)) is not None:
        rule_id += f":{passed}"
        severity = fields.get("data.alert.severity")
        if type(severity) is str and severity in ("1", "2", "3", "4"):
            severity = int(severity)
        level = raise_level(level, read_severity(severity)) if type(severity) is int else level
    title = name_title(fields.get("rule.description"), f"Wazuh rule {rule}")
    return [
        Detection(
            detector="wazuh",
            rule_id=rule_id,
            title=title,
            level=level,
            techniques=read_techniques(fields.get("rule.mitre.id")),
            tactics=read_tactics(fields.get("rule.mitre.tactic")),
            event=event,
            logsource=view.logsource,
            matched=(Match("rule.description", title, rule_id), *list_evidence(fields, _EVIDENCE)),
        )
    ]


def read_level(number: Any) -> Level | None:
    """Our level for one of Wazuh's; None for 0, which is no alert, and for what is none."""
    if type(number) is not int or not 0 < number <= _MAX_LEVEL:
        return None
    return next(level for least, level in LEVELS_FROM if number >= least)


def _find_signature(fields: Fields) -> str | None:
    """The signature of the Suricata alert that the rule passes on, None where it does not."""
    if "suricata" not in list_texts(fields.get("rule.groups")):
        return None
    sid = str(fields.get("data.alert.signature_id", ""))
    return sid if _RULE.fullmatch(sid) else None
