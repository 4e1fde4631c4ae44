"""Beside the line, when somebody asks where an incident came from: which address is whose.

A host's own address is what it says itself: the near end of a connection that it recorded. What a
client claims at a logon (its workstation's name) counts only where nobody said better.
"""

import ipaddress
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache

from appliance.correlate.provenance_notes import Note
from appliance.correlate.provenance_text import read_text


@lru_cache(maxsize=4096)
def is_plain_address(text: str) -> bool:
    """True for an address that tells one machine from another."""
    if not text or len(text) > 64:
        return False
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return not (
        address.is_loopback
        or address.is_unspecified
        or address.is_multicast
        or address.is_link_local
        or text == "255.255.255.255"
    )


class HostMap:
    """Hosts and their addresses, as the notes tell."""

    def __init__(self, notes: Iterable[Note]) -> None:
        said: dict[str, Counter[str]] = defaultdict(Counter)
        claimed: dict[str, Counter[str]] = defaultdict(Counter)
        self.names: set[str] = set()
        for note in notes:
            if note.kind == "flow":
                continue
            if note.host:
                self.names.add(note.host)
            if (own := _read_own(note)) and note.host:
                said[own][note.host] += 1
            for address, name in _list_claims(note):
                claimed[address][name] += 1
        self._owners: dict[str, str] = {}
        for table in (claimed, said):
            for address, counts in table.items():
                known = [(count, name) for name, count in counts.items() if name in self.names]
                if known:
                    self._owners[address] = max(known)[1]
        for name in self.names:
            if is_plain_address(name):
                self._owners[name] = name
        self.owned = frozenset(self._owners)
        self._names: dict[str, set[str]] = {name: {name} for name in self.names}
        for address, name in self._owners.items():
            self._names[name].add(address)

    def find_owner(self, address: str) -> str:
        """The host whose address it is; "" for none that is known."""
        return self._owners.get(address, "")

    def list_names(self, host: str) -> set[str]:
        """The host's name and addresses."""
        return self._names.get(host, {host})


def _read_own(note: Note) -> str:
    """The near end of a connection that the host recorded; "" for none."""
    if note.kind != "connect":
        return ""
    outward = str(note.fields.get("Initiated", "true")).lower() != "false"
    own = read_text(note.fields, "SourceIp" if outward else "DestinationIp").lower()
    return own if is_plain_address(own) else ""


def _list_claims(note: Note) -> Iterator[tuple[str, str]]:
    """Addresses and names that others say belong together: at a logon, in an answer of DNS."""
    if note.kind == "logon":
        name = read_text(note.fields, "WorkstationName")
        answers = read_text(note.fields, "IpAddress")
    elif note.kind == "dns":
        name = read_text(note.fields, "QueryName")
        answers = read_text(note.fields, "QueryResults")[:1024]
    else:
        return
    for answer in answers.lower().split(";"):
        address = answer.strip().removeprefix("::ffff:")
        if name and is_plain_address(address):
            yield address, name.partition(".")[0].lower()
