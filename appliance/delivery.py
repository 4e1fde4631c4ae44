"""Behind the store on the line: one thread a sink carries the outbox out, each at its own pace.

A sink that is down holds up nobody: its messages wait in the outbox, and it is tried again with
growing pauses. A position is committed only for what the sink says is delivered.
"""

import threading
from collections.abc import Sequence
from typing import Any, Protocol

from appliance.emit.sink import DeliveryFailed, Sink
from appliance.errors import StoreError
from appliance.schema import Message, SinkPosition

BATCH_MESSAGES = 500
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 15.0


class Outbox(Protocol):
    """What the store gives to a delivery."""

    def messages(self, name: str, limit: int) -> tuple[SinkPosition, list[Message], int]:
        """A sink's position, the next messages, and how many were lost before them."""
        ...

    def commit_sink(self, name: str, position: SinkPosition, delivered: int, lost: int) -> None:
        """Keep how far a sink has come."""
        ...


class Delivery:
    """Carries messages to one sink until it is closed."""

    def __init__(self, sink: Sink, outbox: Outbox) -> None:
        self.sink = sink
        self._outbox = outbox
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._idle = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sink {sink.name}", daemon=True)
        self._error = ""

    def start(self) -> None:
        """Begin delivering."""
        self._thread.start()

    def wake(self) -> None:
        """There may be something to deliver."""
        self._idle.clear()
        self._wake.set()

    def close(self, drain_seconds: float) -> None:
        """Deliver what is waiting, for this long at the most, then stop."""
        self.wake()
        self._idle.wait(drain_seconds)
        self._stopping.set()
        self._wake.set()
        self._thread.join(5)
        self.sink.close()

    def describe(self) -> dict[str, Any]:
        """Facts for `status`."""
        state = self.sink.state()
        return {
            "type": state.type,
            "target": state.target,
            "acknowledged": state.acknowledged,
            "connected": state.connected,
            "error": state.last_error or self._error,
        }

    def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                more = self._deliver()
            except (DeliveryFailed, StoreError) as error:
                self._error = str(error)
                self._stopping.wait(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
                continue
            self._error = ""
            pause = FIRST_PAUSE_SECONDS
            if not more:
                self._idle.set()
                self._wake.wait(1.0)

    def _deliver(self) -> bool:
        """Deliver one batch; True when there may be more."""
        position, messages, lost = self._outbox.messages(self.sink.name, BATCH_MESSAGES)
        if not messages:
            return False
        try:
            reached = self.sink.deliver(messages, position)
        except DeliveryFailed as error:
            self._commit(messages, position, error.position, lost)
            raise
        self._commit(messages, position, reached, lost)
        return len(messages) == BATCH_MESSAGES

    def _commit(
        self, messages: Sequence[Message], before: SinkPosition, reached: SinkPosition, lost: int
    ) -> None:
        if reached == before:
            return
        delivered = sum(m.seq <= reached.seq and m.kind in self.sink.kinds for m in messages)
        self._outbox.commit_sink(self.sink.name, reached, delivered, lost)
