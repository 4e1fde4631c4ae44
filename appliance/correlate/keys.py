"""What a finding can be linked by: its entities as keys, each with how long it links.

Only what says "the same actor" links: a process, a session, an odd hash for a day; a user, address,
domain or host for the window that the operator set. What many hosts share (a domain controller's
address, an account of the deployment) links nothing: `usual.count_hosts` decides.
"""

from collections.abc import Iterable
from typing import Final

from appliance.schema import Entity, EntityKind

#: Seconds of event time between two findings that one key still links; None: the operator's window.
WINDOWS: Final[dict[EntityKind, float | None]] = {
    "process": 86400.0,
    "session": 43200.0,
    "hash": 86400.0,
    "user": None,
    "address": None,
    "domain": None,
    "service": None,
    "host": None,
}
#: The same rule, rare here, on another host; anything else that is rare here, anywhere.
RULE_WINDOW: Final = 600.0
MOMENT_WINDOW: Final = 120.0

#: Hosts with which an entity was seen before, from which on it links nothing.
COMMON_HOSTS: Final[dict[EntityKind, int]] = {
    "hash": 6, "user": 6, "address": 6, "domain": 4, "service": 3,
}  # fmt: skip

#: Accounts that exist on every machine: two hosts that share them share nothing.
EVERYWHERE_USERS: Final = frozenset(
    {
        "system",
        "root",
        "administrator",
        "local service",
        "network service",
        "anonymous logon",
        "nt authority\\system",
        "nt authority\\local service",
        "nt authority\\network service",
        "nt authority\\anonymous logon",
    }
)
#: Kinds that say who acted, the surest first: near-identical findings of different actors are not
#: one fold.
_SUBJECTS: Final[tuple[EntityKind, ...]] = ("process", "session", "user", "address", "domain")
#: Keys of one finding, at the most: a log decides how many entities a record has.
MOST_KEYS: Final = 64


def linking_keys(entities: Iterable[Entity]) -> list[tuple[str, EntityKind]]:
    """The keys of a finding's entities with their kinds, in their order, each once."""
    keys: dict[str, EntityKind] = {}
    for entity in entities:
        if entity.kind not in WINDOWS or not entity.value:
            continue
        if entity.kind == "user" and entity.value in EVERYWHERE_USERS:
            continue
        keys[f"{entity.kind}:{entity.value}"] = entity.kind
        if len(keys) == MOST_KEYS:
            break
    return list(keys.items())


def find_subject(entities: Iterable[Entity]) -> str:
    """Who acted, as far as the entities tell; empty when they don't."""
    known: dict[str, str] = {}
    for entity in entities:
        known.setdefault(entity.kind, entity.value)
    for kind in _SUBJECTS:
        if kind in known:
            return f"{kind}:{known[kind]}"
    return ""
