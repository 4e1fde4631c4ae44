"""Third station of the line: what one product's normaliser makes of a decoded record."""

from collections.abc import Callable
from datetime import tzinfo
from typing import Any, Final

import msgspec

from appliance.normalise.programs import HOST_PROGRAMS
from appliance.schema import Decoded, Entity, View, name_program


class Reading(msgspec.Struct, frozen=True):
    """One product's reading. `time` is None when the record tells none; `views` is never empty.
    `entities` may be what will list them: few events are ever asked."""

    views: tuple[View, ...]
    entities: tuple[Entity, ...] | Callable[[], tuple[Entity, ...]]
    host: str
    time: float | None

    def list_entities(self) -> tuple[Entity, ...]:
        """What the event shares with others, in a fixed order, each once."""
        return self.entities() if callable(self.entities) else self.entities


class Context(msgspec.Struct, frozen=True):
    """What a record does not hold itself: when it was received (epoch seconds), the zone of times
    that name none, the path of its file, the host that sent it (of the syslog header around it, in
    the form of `entities.name_host`; "" when there is none), and the name of its source."""

    received: float
    zone: tzinfo
    path: str = ""
    host: str = ""
    source: str = ""


#: A product's normaliser: None when the record is not of that product. Never raises.
Normaliser = Callable[[Decoded, Context], Reading | None]

#: Inner formats that the decoder takes from programs of a list of its own alone, so that a program
#: of the host may hold them: it is the packet filter's, the auditor's or the server's own.
OWN_INNER: Final = frozenset(
    {"netfilter", "auditd", "bind", "unbound", "dnsmasq", "squid", "access", "access_error"}
)


def is_syslog(decoded: Decoded) -> bool:
    """True for a record with syslog's parts: a header's host and program, and a message."""
    return decoded.format in ("syslog3164", "syslog5424", "journal")


def is_host_program(decoded: Decoded) -> bool:
    """True for a syslog record of a program of the host itself. What such a program writes is
    never taken for another product's record: who gets a CEF event or a JSON object into a message
    of sshd or sudo must not choose host, time and event by it."""
    return is_syslog(decoded) and name_program(decoded.fields.get("appname", "")) in HOST_PROGRAMS


def find_object(decoded: Decoded) -> dict[str, Any]:
    """The object that a structured record is: a syslog line's JSON body, else the record itself."""
    body = decoded.fields.get("json")
    if isinstance(body, dict) and is_syslog(decoded) and not is_host_program(decoded):
        return body
    return decoded.fields


def find_inner(decoded: Decoded) -> Decoded | None:
    """The record inside a syslog message, when it is to be believed."""
    inner = decoded.inner
    if inner is None or (inner.format not in OWN_INNER and is_host_program(decoded)):
        return None
    return inner
