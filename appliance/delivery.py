"""Behind the store on the line: one thread a sink carries the outbox out, each at its own pace.

A sink that is down holds up nobody: its messages wait in the outbox, and it is tried again with
growing pauses. A position is committed only for what the sink says is delivered.
"""

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from appliance.emit.sink import DeliveryFailed, Sink
from appliance.errors import StoreError
from appliance.schema import Message, SinkPosition

log = logging.getLogger("appliance")

BATCH_MESSAGES = 500
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 15.0
IDLE_SECONDS = 1.0
STOP_SECONDS = 3.0


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
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._stopping = threading.Event()
        self._idle = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sink {sink.name}", daemon=True)
        self._error = ""
        self._refused = 0

    def start(self) -> None:
        """Begin delivering; one that has begun goes on."""
        if not self._thread.is_alive():
            self._thread.start()

    def wake(self) -> None:
        """There may be something to deliver."""
        with self._lock:
            self._idle.clear()
            self._wake.set()

    def begin_close(self) -> None:
        """Deliver what is waiting, without long pauses: a sink that rests after a failure is tried
        at once."""
        self._closing.set()
        self.wake()

    def drain(self, until: float) -> None:
        """Wait until nothing is left to deliver, or until this time of the monotonic clock; then
        have the thread stop."""
        if self._thread.is_alive():
            self._idle.wait(max(0.0, until - time.monotonic()))
        self._stopping.set()
        self._wake.set()

    def finish(self, until: float) -> None:
        """Wait for the thread's end, until this time of the monotonic clock; close the sink."""
        if self._thread.is_alive():
            self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            # It still hangs in the sink and must not find a file or socket of somebody else.
            log.warning("sink %s does not let go; what it holds is sent again", self.sink.name)
        else:
            self.sink.close()

    def describe(self) -> dict[str, Any]:
        """Facts for `status`."""
        state = self.sink.state()
        return {
            "type": state.type,
            "target": state.target,
            "acknowledged": state.acknowledged,
            "connected": state.connected,
            "error": self._error or state.last_error,
            "refused": self._refused,
        }

    def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                more = self._deliver()
            except (DeliveryFailed, StoreError) as error:
                self._error = str(error)
                self._refused += 1
            except Exception as error:  # a fault in one sink: said, and tried again as any failure
                self._error = f"fault in the sink: {type(error).__name__}: {error}"
                self._refused += 1
                log.exception("sink %s", self.sink.name)
            else:
                self._error = ""
                pause = FIRST_PAUSE_SECONDS
                if not more:
                    self._await_more()
                continue
            self._rest(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def _rest(self, seconds: float) -> None:
        """Wait before the next try: this long, or until it is time to drain; then only briefly."""
        if self._closing.is_set():
            self._stopping.wait(FIRST_PAUSE_SECONDS)
        else:
            self._closing.wait(seconds)

    def _await_more(self) -> None:
        with self._lock:
            # Woken since the outbox was looked at: it may hold something again.
            if not self._wake.is_set():
                self._idle.set()
        self._wake.wait(IDLE_SECONDS)

    def _deliver(self) -> bool:
        """Deliver one batch; True when there may be more."""
        position, messages, lost = self._outbox.messages(self.sink.name, BATCH_MESSAGES)
        if not messages:
            if lost:
                beyond = msgspec.structs.replace(position, seq=position.seq + lost)
                self._outbox.commit_sink(self.sink.name, beyond, 0, lost)
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
        if reached.seq == before.seq:
            lost = 0  # still in front of the gap: it is counted when it has been passed
        delivered = sum(m.seq <= reached.seq and m.kind in self.sink.kinds for m in messages)
        self._outbox.commit_sink(self.sink.name, reached, delivered, lost)


def close_deliveries(deliveries: Sequence[Delivery], drain_seconds: float) -> None:
    """Have them all deliver what is waiting, side by side, for this long at the most, then stop;
    so many sinks that hang take no longer than one, `drain_seconds` and STOP_SECONDS."""
    for delivery in deliveries:
        delivery.begin_close()
    until = time.monotonic() + drain_seconds
    for delivery in deliveries:
        delivery.drain(until)
    until = time.monotonic() + STOP_SECONDS
    for delivery in deliveries:
        delivery.finish(until)
