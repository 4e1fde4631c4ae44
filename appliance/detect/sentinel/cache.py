"""What the sentinel remembers (detect stage): scores by text, so that what comes again is answered
at once. Bounded; what was not asked for longest goes first. Safe to share between threads."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Generic, TypeVar

from appliance.detect.sentinel.texts import Text

V = TypeVar("V")


def key_text(text: Text) -> bytes:
    """16 bytes that stand for the text."""
    return hashlib.blake2b(
        f"{text.kind}\0{text.text}".encode("utf-8", "surrogatepass"), digest_size=16
    ).digest()


class Memory(Generic[V]):
    """Values by key, at most `cap` (0: none is kept)."""

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self._values: OrderedDict[bytes, V] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: bytes) -> V | None:
        """The value, or None."""
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
            return value

    def put(self, key: bytes, value: V) -> None:
        """Remember a value."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self.cap:
                self._values.popitem(last=False)


class QuietTexts:
    """Texts that another process is known to have scored under the threshold: a worker's. The
    worker alone uses it, in one thread."""

    def __init__(self, cap: int) -> None:
        self._memory: Memory[bool] = Memory(cap)

    def is_quiet(self, text: Text) -> bool:
        """Whether the text is known to be ordinary."""
        return self._memory.get(key_text(text)) is not None

    def learn(self, keys: Iterable[bytes]) -> None:
        """These are ordinary."""
        for key in keys:
            self._memory.put(key, True)
