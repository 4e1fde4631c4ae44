"""Detect, sensor zeek: what its policy scripts and packages notice (notice.log). A notice has no
severity: most are observations, and low."""

import re
from typing import Final

from appliance.detect.sensors.alert import list_evidence
from appliance.schema import Detection, Event, LogSource, Match, View

SOURCE: Final = LogSource(product="zeek", service="notice")

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

_EVIDENCE: Final = (
    "msg", "sub", "src_ip", "src_port", "dst_ip", "dst_port", "file_desc", "actions",
)  # fmt: skip


def read_notice(event: Event, view: View) -> list[Detection]:
    """The notice of a record, none where it has no name that Zeek writes."""
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
                *list_evidence(fields, _EVIDENCE),
            ),
        )
    ]
