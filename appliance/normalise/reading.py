"""Third station of the line: what one product's normaliser makes of a decoded record."""

from collections.abc import Callable
from datetime import tzinfo
from typing import Any

import msgspec

from appliance.normalise.programs import HOST_PROGRAMS, name_program
from appliance.schema import Decoded, Entity, View


class Reading(msgspec.Struct, frozen=True):
    """One product's reading. `time` is None when the record tells none; `views` is never empty."""

    views: tuple[View, ...]
    entities: tuple[Entity, ...]
    host: str
    time: float | None


class Context(msgspec.Struct, frozen=True):
    """What a record does not hold itself: when it was received (epoch seconds), and the zone of
    times that name none."""

    received: float
    zone: tzinfo


#: A product's normaliser: None when the record is not of that product. Never raises.
Normaliser = Callable[[Decoded, Context], Reading | None]


def find_object(decoded: Decoded) -> dict[str, Any]:
    """The object that a structured record is: a syslog line's JSON body, else the record itself.

    What a program of the host writes is never taken for another product's record: who gets a
    JSON object into a message of sshd or sudo must not choose host, time and event by it.
    """
    body = decoded.fields.get("json")
    if (
        isinstance(body, dict)
        and decoded.format.startswith("syslog")
        and name_program(decoded.fields.get("appname", "")) not in HOST_PROGRAMS
    ):
        return body
    return decoded.fields
