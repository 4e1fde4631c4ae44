"""Beside the line: operators' requests from the control socket's thread to the line's.

What the line holds in memory between a batch's beginning and its commit must not be changed under
it, so requests are carried out between two turns. Who asks waits for the answer; a request that the
line does not come to in time is withdrawn, and then it is not carried out later either.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from appliance.errors import ApplianceError

#: Seconds until a request that nobody has begun with is withdrawn: less than a client waits.
BEGIN_SECONDS: Final = 4.0
#: Requests that wait at a time.
MOST_WAITING: Final = 100

Question = dict[str, Any]
#: A question and the user id of who asks.
CarryOut = Callable[[Question, int], dict[str, Any]]


class _Errand:
    """One request on its way."""

    def __init__(self, question: Question, user: int) -> None:
        self.question = question
        self.user = user
        self.begun = False
        self.withdrawn = False
        self.done = threading.Event()
        self.answer: dict[str, Any] = {}
        self.error: Exception | None = None


class Handover:
    """`ask` in one thread, `carry_out` in another. `wake` has the second look here soon."""

    def __init__(self, wake: Callable[[], None], *, seconds: float = BEGIN_SECONDS) -> None:
        self._wake = wake
        self._seconds = seconds
        self._lock = threading.Lock()
        self._waiting: deque[_Errand] = deque()
        self._closed = False

    def ask(self, question: Question, user: int) -> dict[str, Any]:
        """Have it carried out and wait for the answer. Raises what carrying it out raised, and
        ApplianceError where nobody came to it: nothing is changed then."""
        errand = _Errand(question, user)
        with self._lock:
            if self._closed:
                raise ApplianceError("the daemon is stopping: nothing was changed")
            if len(self._waiting) >= MOST_WAITING:
                raise ApplianceError("too many requests wait already: nothing was changed")
            self._waiting.append(errand)
        self._wake()
        if not errand.done.wait(self._seconds):
            with self._lock:
                errand.withdrawn = not errand.begun
            if errand.withdrawn:
                raise ApplianceError("the daemon is too busy: nothing was changed, ask again")
            errand.done.wait()
        if errand.error is not None:
            raise errand.error
        return errand.answer

    def carry_out(self, perform: CarryOut) -> None:
        """Carry out all that waits. Raises nothing."""
        while (errand := self._begin()) is not None:
            try:
                errand.answer = perform(errand.question, errand.user)
            except Exception as error:  # it is told to who asked, and must not end the line
                errand.error = error
            finally:
                errand.done.set()

    def _begin(self) -> _Errand | None:
        with self._lock:
            while self._waiting:
                errand = self._waiting.popleft()
                if not errand.withdrawn:
                    errand.begun = True
                    return errand
        return None

    def close(self) -> None:
        """Nobody carries out anything any more."""
        with self._lock:
            self._closed = True
            waiting, self._waiting = list(self._waiting), deque()
        for errand in waiting:
            errand.error = ApplianceError("the daemon is stopping: nothing was changed")
            errand.done.set()
