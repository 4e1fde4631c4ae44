"""On the way out, at its end: what every sink is, whatever it writes to.

The delivery loop reads outbox messages behind a sink's position, hands them to `deliver`, and
commits the position that comes back. A sink remembers nothing that the position does not say.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import msgspec

from appliance.errors import EmitError
from appliance.schema import Message, MessageKind, SinkPosition

ALL_KINDS: Final[frozenset[MessageKind]] = frozenset(
    ("finding", "update", "incident", "heartbeat", "audit", "test")
)


class DeliveryFailed(EmitError):
    """Not every message went out. `position` is how far delivery surely came, to be committed;
    every message behind it is still to be delivered, and may arrive a second time."""

    def __init__(self, reason: str, position: SinkPosition) -> None:
        super().__init__(reason)
        self.position = position


class SinkState(msgspec.Struct, frozen=True):
    """One sink for `status`. `acknowledged` is False where a message can be lost without anybody
    noticing; `sent` counts messages handed over since start, `skipped` those of kinds that the
    sink does not want, `failures` the calls of `deliver` that raised; `last_error` is the reason
    of the last one, empty once a delivery succeeded. `counters` are the sink's own."""

    name: str
    type: str
    target: str
    acknowledged: bool
    connected: bool
    sent: int
    skipped: int
    failures: int
    last_error: str
    counters: Mapping[str, int]


class Sink(Protocol):
    """One way out. Used by one thread; `state` may be asked from any."""

    name: str
    kinds: frozenset[MessageKind]

    def deliver(self, messages: Sequence[Message], position: SinkPosition) -> SinkPosition:
        """Deliver in order the messages behind `position` and return the position to commit.

        Messages at or before it are ignored; messages of other kinds move it and go nowhere.
        Raises DeliveryFailed (an EmitError), whose own position is to be committed instead.
        """
        ...

    def state(self) -> SinkState:
        """What `status` shows of the sink; touches nothing outside."""
        ...

    def close(self) -> None:
        """Let go of file or socket; the next `deliver` opens them again. Raises nothing."""
        ...
