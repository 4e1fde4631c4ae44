"""On the way out, at its end: messages as syslog, over one of three transports.

At least once where a transport can tell that something went wrong: a message is sent again
unless it surely left, and a receiver de-duplicates by id. None of the transports has an
acknowledgement from the receiver itself (plain syslog has none), so a message that reached its
kernel can still be lost there, over UDP anywhere: `acknowledged` is always False.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import msgspec

from appliance.emit.sink import ALL_KINDS, DeliveryFailed, SinkState
from appliance.emit.syslog import SyslogProfile, format_syslog
from appliance.schema import Message, MessageKind, OnStep, SinkPosition, ignore_step

T = TypeVar("T")


class Transport(Protocol):
    """Carries whole syslog messages to one receiver; opens by itself when a message is sent.

    Methods raise OSError (or UnicodeError, for a host name that is none); the caller then closes.
    """

    @property
    def target(self) -> str:
        """The receiver, as `status` names it: `tcp://10.0.0.5:601`."""
        ...

    @property
    def connected(self) -> bool:
        """Whether a socket is open now."""
        ...

    def send(self, payload: bytes) -> None:
        """Send one message, framed as the transport demands."""
        ...

    def has_left(self) -> bool:
        """Whether all that was sent has reached the other side as far as can be known; at once."""
        ...

    def await_left(self) -> None:
        """Wait until `has_left`; raise TimeoutError when that takes too long."""
        ...

    def close(self) -> None:
        """Close the socket, if any. Raises nothing."""
        ...


class SyslogSink:
    """RFC 5424 messages over a transport (RFC 6587, RFC 5426 or a local socket).

    `on_step` is told `syslog.send.before` and `syslog.send.after` around each message.
    """

    def __init__(
        self,
        name: str,
        transport: Transport,
        profile: SyslogProfile,
        kinds: frozenset[MessageKind] = ALL_KINDS,
        on_step: OnStep = ignore_step,
    ) -> None:
        self.name = name
        self.kinds = kinds
        self._transport = transport
        self._profile = profile
        self._on_step = on_step
        self._sent = self._skipped = self._failures = 0
        self._last_error = ""

    def deliver(self, messages: Sequence[Message], position: SinkPosition) -> SinkPosition:
        """Send the messages behind `position`; see `Sink.deliver`.

        Returns when the transport says that all have left. Raises DeliveryFailed with the
        position up to which that is known.
        """
        sure = reached = position
        for message in messages:
            if message.seq <= position.seq:
                continue
            if message.kind in self.kinds:
                self._send(message, sure)
            else:
                self._skipped += 1
            reached = msgspec.structs.replace(position, seq=message.seq)
            if self._attempt(self._transport.has_left, sure):
                sure = reached
        if sure.seq != reached.seq:
            self._attempt(self._transport.await_left, sure)
        self._last_error = ""
        return reached

    def _send(self, message: Message, sure: SinkPosition) -> None:
        payload = format_syslog(message, self._profile)
        self._on_step("syslog.send.before")
        self._attempt(lambda: self._transport.send(payload), sure)
        self._sent += 1
        self._on_step("syslog.send.after")

    def _attempt(self, action: Callable[[], T], sure: SinkPosition) -> T:
        """The one doorway of socket errors."""
        try:
            return action()
        except (OSError, UnicodeError) as error:
            self._transport.close()
            self._failures += 1
            self._last_error = f"{self._transport.target}: {error}"
            raise DeliveryFailed(self._last_error, sure) from error

    def state(self) -> SinkState:
        """See `Sink.state`."""
        return SinkState(
            name=self.name,
            type="syslog",
            target=self._transport.target,
            acknowledged=False,
            connected=self._transport.connected,
            sent=self._sent,
            skipped=self._skipped,
            failures=self._failures,
            last_error=self._last_error,
            counters={},
        )

    def close(self) -> None:
        """See `Sink.close`."""
        self._transport.close()
