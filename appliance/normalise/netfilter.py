"""Third station of the line, the Linux packet filter's log: Sigma's category firewall.

What was done with the packet stands nowhere but in the prefix that the administrator chose: action
is set when that says it in a word (BLOCK, DROP, REJECT, DENY; ALLOW, ACCEPT, PASS), and absent when
it says nothing or both.
"""

import re
from typing import Any, Final

from appliance.normalise.devices import collect_neutral
from appliance.normalise.reading import Context, Reading
from appliance.normalise.times import read_time
from appliance.schema import Decoded, Fields, LogSource, View

FIREWALL: Final = LogSource(product="linux", category="firewall")
#: Every log source that this normaliser can produce.
SOURCES: Final = (FIREWALL,)

_WORDS: Final = re.compile(r"[A-Za-z]{2,32}")
_BLOCKED: Final = frozenset(
    {"block", "blocked", "drop", "dropped", "reject", "rejected", "deny", "denied"}
)
_ACCEPTED: Final = frozenset({"allow", "allowed", "accept", "accepted", "pass", "passed"})
#: The kernel's name -> the neutral one; ARP's addresses have other names.
_NAMES: Final = (
    ("SRC", "src_ip"),
    ("IPSRC", "src_ip"),
    ("SPT", "src_port"),
    ("DST", "dst_ip"),
    ("IPDST", "dst_ip"),
    ("DPT", "dst_port"),
)


def read_netfilter_packet(decoded: Decoded, context: Context) -> Reading | None:
    """Read a logged packet; None for another record."""
    if decoded.format != "netfilter":
        return None
    record = decoded.fields
    fields: Fields = dict(record)
    for name, new in _NAMES:
        if value := record.get(name):
            fields.setdefault(new, value)
    if protocol := record.get("PROTO"):
        fields["protocol"] = protocol.lower()
    if action := find_action(record.get("prefix", "")):
        # Rules ask for `accept`, or for `blocked` as a word.
        fields["action"] = action
        fields["blocked"] = "true" if action == "blocked" else "false"
    return Reading(
        views=(View(FIREWALL, fields),),
        entities=collect_neutral(fields, context.host),
        host=context.host,
        time=read_time(record.get("timestamp"), context),
    )


def find_action(prefix: Any) -> str:
    """ "blocked" or "accept" where the prefix says so in a word, else ""."""
    words = {word.lower() for word in _WORDS.findall(prefix)}
    blocked, accepted = bool(words & _BLOCKED), bool(words & _ACCEPTED)
    if blocked == accepted:
        return ""
    return "blocked" if blocked else "accept"
