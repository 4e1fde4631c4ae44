"""Detect, sensor defender: events of Microsoft Defender Antivirus (Microsoft Learn, "Review event
logs and error codes to troubleshoot issues with Microsoft Defender Antivirus", and "Attack surface
reduction rules reference").

A threat's level is the severity that Defender gives it, whatever was done about it: that a file was
removed says nothing of how it came. A rule or protection that blocks tells of what was tried; one
in audit mode, that it went on.
"""

import re
from typing import Any, Final

import msgspec

from appliance.detect.sensors.alert import cap, list_evidence, name_title
from appliance.schema import Detection, Event, Fields, Level, LogSource, Match, View

SOURCE: Final = LogSource(product="windows", service="windefend")


class Kind(msgspec.Struct, frozen=True):
    """What an event id says. `threat` takes level and name from the event's threat, `rule` the name
    and techniques from the attack surface reduction rule that it names."""

    title: str
    level: Level
    techniques: tuple[str, ...] = ()
    tactics: tuple[str, ...] = ()
    threat: bool = False
    rule: bool = False


#: Impair Defenses: Disable or Modify Tools.
_IMPAIR: Final = ("T1562.001",)
_EVADE: Final = ("defense-evasion",)
#: Every event that is a finding, by its id. What only says that a scan ran, that signatures came or
#: that protection is on is none.
KINDS: Final[dict[int, Kind]] = {
    1006: Kind("found malware", "high", threat=True),
    1007: Kind("acted on malware", "high", threat=True),
    1008: Kind("failed to act on malware", "high", threat=True),
    1009: Kind("restored an item from quarantine", "medium", _IMPAIR, _EVADE, threat=True),
    1010: Kind("failed to restore an item from quarantine", "low", threat=True),
    1011: Kind("deleted an item from quarantine", "low"),
    1012: Kind("failed to delete an item from quarantine", "low"),
    1013: Kind("deleted its history of malware", "medium", ("T1070",), ("defense-evasion",)),
    1015: Kind("detected suspicious behaviour", "high", threat=True),
    1116: Kind("detected malware", "high", threat=True),
    1117: Kind("acted on malware", "high", threat=True),
    1118: Kind("failed to act on malware", "high", threat=True),
    1119: Kind("failed critically to act on malware", "critical", threat=True),
    1120: Kind("deduced the hashes of malware", "informational", threat=True),
    1121: Kind("blocked by rule", "medium", rule=True),
    1122: Kind("would have blocked by rule", "low", rule=True),
    1123: Kind("blocked a change of a protected folder", "medium", ("T1486",), ("impact",)),
    1124: Kind("would have blocked a change of a protected folder", "low"),
    1125: Kind("would have blocked a connection", "low"),
    1126: Kind("blocked a connection", "medium"),
    1127: Kind("blocked a change of protected sectors", "medium", ("T1561",), ("impact",)),
    1128: Kind("would have blocked a change of protected sectors", "low"),
    1129: Kind("a user went past a block by rule", "medium", rule=True),
    1131: Kind("blocked by rule", "medium", rule=True),
    1132: Kind("would have blocked by rule", "low", rule=True),
    1133: Kind("blocked by rule", "medium", rule=True),
    1134: Kind("would have blocked by rule", "low", rule=True),
    1160: Kind("detected potentially unwanted software", "low", threat=True),
    2001: Kind("failed to update its security intelligence", "informational"),
    2003: Kind("failed to update its engine", "informational"),
    3002: Kind("real-time protection failed", "medium", _IMPAIR, _EVADE),
    5001: Kind("real-time protection was switched off", "high", _IMPAIR, _EVADE),
    5004: Kind("real-time protection was configured", "low"),
    5007: Kind("its configuration changed", "informational"),
    5008: Kind("its engine failed", "medium", _IMPAIR, _EVADE),
    5010: Kind("scanning for malware was switched off", "high", _IMPAIR, _EVADE),
    5012: Kind("scanning for viruses was switched off", "high", _IMPAIR, _EVADE),
    5013: Kind("tamper protection blocked a change", "medium", _IMPAIR, _EVADE),
    5101: Kind("its platform has expired", "medium"),
}  # fmt: skip

#: Severities of threats: 1 low, 2 moderate, 4 high, 5 severe. Severe is every trojan.
_SEVERITIES: Final[dict[str, Level]] = {"1": "low", "2": "medium", "4": "high", "5": "high"}
#: What a change of the configuration does when the setting's name holds this, lower case: takes
#: something out of what is looked at, or switches protection off.
_TAMPERING: Final = (
    "\\exclusions\\", "\\disableantispyware", "\\disableantivirus", "\\disablerealtimemonitoring",
    "\\disablebehaviormonitoring", "\\disableioavprotection", "\\disablescriptscanning",
    "\\disableonaccessprotection", "\\disableblockatfirstseen", "\\features\\tamperprotection",
    "\\threatiddefaultaction", "\\threatseveritydefaultaction", "\\asronlyexclusions",
    "\\asr\\rules\\", "\\mpenablepus",
)  # fmt: skip
#: What the family in a threat's name (`HackTool:Win32/Mimikatz`) is used for; lower case.
_FAMILIES: Final[tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]] = (
    ("ransom:", ("T1486",), ("impact",)),
    ("/mimikatz", ("T1003.001",), ("credential-access",)),
    ("pws:", ("T1555",), ("credential-access",)),
    ("backdoor:", (), ("command-and-control",)),
    ("exploit:", (), ("execution",)),
)
_NUMBER: Final = re.compile(r"\d{1,12}", re.ASCII)
_GUID: Final = re.compile(r"\{?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\}?", re.ASCII)

#: Attack surface reduction rules: GUID -> what it blocks, and what ATT&CK calls that.
ASR_RULES: Final[dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]]] = {
    "56a863a9-875e-4185-98a7-b882c64b5ce5": (
        "abuse of vulnerable signed drivers", ("T1068",), ("privilege-escalation",)),
    "7674ba52-37eb-4a4f-a9a1-f0f9a1619a2c": (
        "Adobe Reader creating child processes", ("T1204.002",), ("execution",)),
    "d4f940ab-401b-4efc-aadc-ad5f3c50688a": (
        "Office applications creating child processes", ("T1204.002",), ("execution",)),
    "9e6c4e1f-7d60-472f-ba1a-a39ef669e4b2": (
        "stealing credentials from lsass", ("T1003.001",), ("credential-access",)),
    "be9ba2d9-53ea-4cdc-84e5-9b1eeee46550": (
        "executable content from mail", ("T1566.001",), ("initial-access",)),
    "01443614-cd74-433a-b99e-2ecdc07bfc25": (
        "executables that are rare, new or not trusted", ("T1204.002",), ("execution",)),
    "5beb7efe-fd9a-4556-801d-275e5ffc04cc": (
        "obfuscated scripts", ("T1027",), ("defense-evasion",)),
    "d3e037e1-3eb8-44c8-a917-57927947596d": (
        "scripts launching downloaded executables", ("T1059.005", "T1059.007"), ("execution",)),
    "3b576869-a4ec-4529-8536-b80a7769e899": (
        "Office applications creating executables", ("T1204.002",), ("execution",)),
    "75668c1f-73b5-4cf0-bb93-3ecf5cb7cc84": (
        "Office applications injecting code", ("T1055",), ("defense-evasion",)),
    "26190899-1602-49e8-8b27-eb1d0a1ce869": (
        "Office mail programs creating child processes", ("T1204.002",), ("execution",)),
    "e6db77e5-3df2-4cf1-b95a-636979351e5b": (
        "persistence by WMI event subscription", ("T1546.003",), ("persistence",)),
    "d1e49aac-8f56-4280-b9ba-993a6d77406c": (
        "processes from PsExec and WMI", ("T1569.002", "T1047"), ("execution",)),
    "33ddedf1-c6e0-47cb-833e-de6133960387": (
        "restarting in safe mode", ("T1562.009",), ("defense-evasion",)),
    "b2b3f03d-6a65-4f7b-a9c7-1c7ef74a9ba4": (
        "untrusted programs from USB", ("T1091",), ("initial-access",)),
    "c0033c00-d16d-4114-a5a0-dc9b3a7d2ceb": (
        "copied or impersonated system tools", ("T1036.003",), ("defense-evasion",)),
    "a8f5898e-1dc8-49a9-9878-85004b8a61e6": (
        "creation of web shells", ("T1505.003",), ("persistence",)),
    "92e97fa1-2edf-4476-bdd6-9dd0b4dddc7b": (
        "Win32 calls from Office macros", ("T1059.005", "T1106"), ("execution",)),
    "c1db55ab-c21a-4637-bb3f-a12568109d35": (
        "what ransomware does", ("T1486",), ("impact",)),
}  # fmt: skip
_EVIDENCE: Final = (
    "Threat Name", "Severity Name", "Category Name", "Path", "Process Name", "Detection User",
    "Action Name", "Error Code", "Source Name", "Involved File", "Target Commandline",
    "Parent Commandline", "Destination", "User", "Old Value", "New Value", "Hashes", "Message",
)  # fmt: skip


def read_event(event: Event, view: View) -> list[Detection]:
    """What the event says was found, none for an event that is no finding."""
    fields = view.fields
    number = fields.get("EventID")
    kind = KINDS.get(number) if type(number) is int else None
    if kind is None:
        return []
    rule_id, title, level = f"defender:{number}", f"Windows Defender {kind.title}", kind.level
    techniques, tactics = kind.techniques, kind.tactics
    if kind.threat:
        threat = name_title(find(fields, "Threat Name"), "")
        if threat:
            title += f": {threat}"
        if _NUMBER.fullmatch(key := str(find(fields, "Threat ID") or "")):
            rule_id += f":{key}"
        if number not in (1119, 1120, 1160):
            level = _SEVERITIES.get(str(find(fields, "Severity ID") or "").strip(), level)
        more = next((row for row in _FAMILIES if row[0] in threat.lower()), None)
        if more is not None:
            techniques, tactics = (*techniques, *more[1]), (*tactics, *more[2])
    elif kind.rule:
        if guid := _GUID.fullmatch(str(find(fields, "ID") or "").strip().lower()[:40]):
            name, techniques, tactics = ASR_RULES.get(guid[1], (guid[1], (), ()))
            title += f": {name}"
            rule_id += f":{guid[1]}"
    elif number == 5007 and _is_tampering(fields):
        title += ", so that less is protected"
        rule_id += ":tampering"
        level, techniques, tactics = "medium", _IMPAIR, _EVADE
    return [
        Detection(
            detector="defender",
            rule_id=rule_id,
            title=cap(title, 200),
            level=level,
            techniques=techniques,
            tactics=tactics,
            event=event,
            logsource=view.logsource,
            matched=(Match("EventID", str(number), rule_id), *list_evidence(fields, _EVIDENCE)),
        )
    ]


def find(fields: Fields, name: str) -> Any:
    """A field under Defender's own name, or as shippers write it, without blanks."""
    for form in (name, name.replace(" ", ""), name.replace(" ", "_")):
        if (value := fields.get(form)) is not None:
            return value
    return None


def _is_tampering(fields: Fields) -> bool:
    changed = find(fields, "New Value")
    text = changed[:4096].lower() if type(changed) is str else ""
    return any(part in text for part in _TAMPERING)
