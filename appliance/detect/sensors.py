"""The detector of the detect stage for what an external sensor has found itself: a Suricata alert
and a Zeek notice are detections already.

Only a view that the sensor's own normaliser made counts, so that another product's record can't
raise one by a field that is called so. Levels: Suricata's `alert.severity` is its rule's priority
(Suricata User Guide, "Rules", keyword priority: 1 is the highest, 3 the default); a Zeek notice has
none, most are observations.

A sensor's signatures are not loaded here: a detection's `rule_id` names one by the sensor's own
number or name, and what is known of it is what the alert says.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from appliance.detect.sigma.engine import RuleFault
from appliance.schema import (
    Detection,
    Event,
    Fields,
    Level,
    LogSource,
    Match,
    RuleInfo,
    Sighting,
    View,
)

SURICATA_ALERT: Final = LogSource(product="suricata", service="alert")
ZEEK_NOTICE: Final = LogSource(product="zeek", service="notice")

#: Longest title and longest value of a piece of evidence, in characters.
MAX_TITLE: Final = 200
MAX_VALUE: Final = 512
#: Most techniques or tactics of one alert.
MAX_TAGS: Final = 16

_SEVERITIES: Final[dict[int, Level]] = {1: "high", 2: "medium", 3: "low"}
#: Severities go to 255.
_MAX_SEVERITY: Final = 255
#: Generator and signature ids have 32 bits.
_MAX_ID: Final = 2**32
_TECHNIQUE: Final = re.compile(r"T\d{4}(?:[._]\d{3})?", re.ASCII)
#: ATT&CK's tactics, enterprise and industrial systems, by short name.
TACTICS: Final = frozenset(
    {"reconnaissance", "resource-development", "initial-access", "execution", "persistence"}
    | {"privilege-escalation", "defense-evasion", "credential-access", "discovery"}
    | {"lateral-movement", "collection", "command-and-control", "exfiltration", "impact"}
    | {"evasion", "inhibit-response-function", "impair-process-control"}
)

#: `Module::Name`, as Zeek's enumerations are written.
_NOTE: Final = re.compile(r"[A-Za-z]\w{0,63}::\w{1,63}", re.ASCII)
#: Notices that tell of an attack, by their beginning; with what ATT&CK calls it. Zeek's own policy
#: scripts and the BZAR package (ATTACK::). Every other notice is low.
ATTACKS: Final[tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]] = (
    ("Scan::", ("T1046",), ("discovery",)),
    ("ICMP::ICMPAddressScan", ("T1018",), ("discovery",)),
    ("SSH::Password_Guessing", ("T1110.001",), ("credential-access",)),
    ("SSH::Login_By_Password_Guesser", ("T1110.001",), ("credential-access",)),
    ("FTP::Bruteforcing", ("T1110",), ("credential-access",)),
    ("Heartbleed::", ("T1190",), ("initial-access",)),
    ("HTTP::SQL_Injection_Attacker", ("T1190",), ("initial-access",)),
    ("HTTP::SQL_Injection_Victim", ("T1190",), ("initial-access",)),
    ("Exploit::", (), ()),
    ("CVE_", ("T1190",), ("initial-access",)),
    ("Log4j::", ("T1190",), ("initial-access",)),
    ("ATTACK::Lateral_Movement", (), ("lateral-movement",)),
    ("ATTACK::Execution", (), ("execution",)),
    ("ATTACK::Credential_Access", (), ("credential-access",)),
    ("ATTACK::Discovery", (), ("discovery",)),
    ("ATTACK::", (), ()),
    ("Intel::Notice", (), ()),
    ("TeamCymruMalwareHashRegistry::Match", (), ()),
    ("Signatures::Sensitive_Signature", (), ()),
    ("Signatures::Multiple_Signatures", (), ()),
)

#: What an alert says beside its signature, in the order in which it is shown.
_ALERT_EVIDENCE: Final = (
    "alert.action", "alert.category", "src_ip", "src_port", "dest_ip", "dest_port", "app_proto",
    "http.hostname", "http.url", "http.http_user_agent", "tls.sni", "query", "fileinfo.filename",
)  # fmt: skip
_NOTICE_EVIDENCE: Final = (
    "msg", "sub", "src_ip", "src_port", "dst_ip", "dst_port", "file_desc", "actions",
)  # fmt: skip


class SensorDetector:
    """Passes sensors' own alerts on. Holds no state.

    `rules` and `errors` are empty, as is what `counts` gives: a sensor's signatures are not known
    before they fire, and what fires is counted by its rule id.
    """

    rules: Mapping[str, RuleInfo] = MappingProxyType({})
    errors: Mapping[str, RuleFault] = MappingProxyType({})

    def counts(self) -> dict[str, dict[str, int]]:
        """Nothing: no rule is loaded."""
        return {}

    def detect(self, sighting: Sighting) -> list[Detection]:
        """The alert that the event is, if it is one. Raises nothing."""
        for view in sighting.views:
            source = view.logsource
            if source == SURICATA_ALERT:
                return _read_alert(sighting.event, view)
            if source == ZEEK_NOTICE:
                return _read_notice(sighting.event, view)
        return []


def _read_alert(event: Event, view: View) -> list[Detection]:
    fields = view.fields
    gid, sid = _read_id(fields.get("alert.gid", 1)), _read_id(fields.get("alert.signature_id"))
    if gid is None or sid is None:
        return []
    rule_id = f"suricata:{gid}:{sid}"
    signature = fields.get("alert.signature")
    named = type(signature) is str and signature.strip()
    title = _cap(signature, MAX_TITLE) if named else f"Suricata signature {gid}:{sid}"
    return [
        Detection(
            detector="suricata",
            rule_id=rule_id,
            title=title,
            level=_read_level(fields.get("alert.severity")),
            techniques=_read_techniques(fields.get("alert.metadata.mitre_technique_id")),
            tactics=_read_tactics(fields.get("alert.metadata.mitre_tactic_name")),
            event=event,
            logsource=view.logsource,
            matched=(
                Match("alert.signature", title, rule_id),
                *_list_evidence(fields, _ALERT_EVIDENCE),
            ),
        )
    ]


def _read_notice(event: Event, view: View) -> list[Detection]:
    fields = view.fields
    note = fields.get("note")
    if type(note) is not str or _NOTE.fullmatch(note) is None:
        return []
    rule_id = f"zeek:{note}"
    attack = next((row for row in ATTACKS if note.startswith(row[0])), None)
    return [
        Detection(
            detector="zeek",
            rule_id=rule_id,
            title=f"Zeek notice {note}",
            level="low" if attack is None else "medium",
            techniques=() if attack is None else attack[1],
            tactics=() if attack is None else attack[2],
            event=event,
            logsource=view.logsource,
            matched=(
                Match("note", note, rule_id),
                *_list_evidence(fields, _NOTICE_EVIDENCE),
            ),
        )
    ]


def _read_id(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < _MAX_ID else None


def _read_level(severity: Any) -> Level:
    """The level of a severity; that of Suricata's default for what is none."""
    if type(severity) is not int or not 1 <= severity <= _MAX_SEVERITY:
        return "low"
    return _SEVERITIES.get(severity, "informational")


def _read_techniques(value: Any) -> tuple[str, ...]:
    found = (text.strip().upper() for text in _list_texts(value))
    return tuple(
        dict.fromkeys(text.replace("_", ".") for text in found if _TECHNIQUE.fullmatch(text))
    )


def _read_tactics(value: Any) -> tuple[str, ...]:
    found = (
        text.strip().lower().replace("_", "-").replace(" ", "-") for text in _list_texts(value)
    )
    return tuple(dict.fromkeys(text for text in found if text in TACTICS))


def _list_texts(value: Any) -> list[str]:
    """A text or the first texts of a list, those that are short enough for a tag."""
    values = value[:MAX_TAGS] if type(value) is list else [value]
    return [text for text in values if type(text) is str and len(text) <= MAX_VALUE]


def _list_evidence(fields: Fields, names: tuple[str, ...]) -> tuple[Match, ...]:
    """What else the alert says; by which pattern of its signature is the sensor's knowledge."""
    found = []
    for name in names:
        value = fields.get(name)
        if value is None or value in ("", []):
            continue
        if type(value) is list:
            value = ", ".join(_cap(part, MAX_VALUE) for part in value[:MAX_TAGS])
        found.append(Match(name, _cap(value, MAX_VALUE), ""))
    return tuple(found)


def _cap(value: Any, limit: int) -> str:
    text = value if type(value) is str else str(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
