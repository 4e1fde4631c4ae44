"""Detect, sensor suricata: the rule engine's alerts (Suricata User Guide, "EVE JSON Format", event
type alert).

Level: `alert.severity` is the rule's priority (section "Rules", keyword priority: 1 is the highest,
3 the default).
"""

from typing import Any, Final

from appliance.detect.sensors.alert import (
    MAX_TITLE,
    cap,
    list_evidence,
    read_tactics,
    read_techniques,
)
from appliance.schema import Detection, Event, Level, LogSource, Match, View

SOURCE: Final = LogSource(product="suricata", service="alert")

_SEVERITIES: Final[dict[int, Level]] = {1: "high", 2: "medium", 3: "low"}
#: Severities go to 255.
_MAX_SEVERITY: Final = 255
#: Generator and signature ids have 32 bits.
_MAX_ID: Final = 2**32
#: What an alert says beside its signature, in the order in which it is shown.
_EVIDENCE: Final = (
    "alert.action", "alert.category", "src_ip", "src_port", "dest_ip", "dest_port", "app_proto",
    "http.hostname", "http.url", "http.http_user_agent", "tls.sni", "query", "fileinfo.filename",
)  # fmt: skip


def read_alert(event: Event, view: View) -> list[Detection]:
    """The alert of a record, none where it names no signature."""
    fields = view.fields
    gid, sid = _read_id(fields.get("alert.gid", 1)), _read_id(fields.get("alert.signature_id"))
    if gid is None or sid is None:
        return []
    rule_id = f"suricata:{gid}:{sid}"
    signature = fields.get("alert.signature")
    named = type(signature) is str and signature.strip()
    title = cap(signature, MAX_TITLE) if named else f"Suricata signature {gid}:{sid}"
    return [
        Detection(
            detector="suricata",
            rule_id=rule_id,
            title=title,
            level=read_severity(fields.get("alert.severity")),
            techniques=read_techniques(fields.get("alert.metadata.mitre_technique_id")),
            tactics=read_tactics(fields.get("alert.metadata.mitre_tactic_name")),
            event=event,
            logsource=view.logsource,
            matched=(
                Match("alert.signature", title, rule_id),
                *list_evidence(fields, _EVIDENCE),
            ),
        )
    ]


def read_severity(severity: Any) -> Level:
    """The level of a severity; that of Suricata's default for what is none."""
    if type(severity) is not int or not 1 <= severity <= _MAX_SEVERITY:
        return "low"
    return _SEVERITIES.get(severity, "informational")


def _read_id(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < _MAX_ID else None
