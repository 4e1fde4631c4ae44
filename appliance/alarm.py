"""Beside the line: what ends its pauses, safe to ring from a signal handler.

threading.Event is not: its methods hold a lock that is not re-entrant, and a handler runs in the
main thread wherever that is, also inside `wait` and `clear`; `set` would then wait for itself for
ever. SimpleQueue.put is documented as re-entrant.
"""

import contextlib
import queue


class Alarm:
    """A flag that any thread or signal handler may set, and that one thread waits for."""

    def __init__(self) -> None:
        self._set = False
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()

    def set(self) -> None:
        """Raise the flag and end the wait, or the next one."""
        self._set = True
        if self._bell.empty():  # what was not heard yet need not be rung again
            self._bell.put(None)

    def is_set(self) -> bool:
        """Whether the flag is up."""
        return self._set

    def clear(self) -> None:
        """Lower the flag. For the waiting thread, before it looks at what there is to do."""
        self._set = False
        with contextlib.suppress(queue.Empty):
            while True:
                self._bell.get_nowait()

    def wait(self, seconds: float) -> bool:
        """Wait until the flag is up, for so many seconds at the most; whether it is. May end
        early when `set` came during `clear`."""
        if not self._set:
            with contextlib.suppress(queue.Empty):
                self._bell.get(timeout=seconds)
        return self._set
