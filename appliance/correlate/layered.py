"""State with a way back: a batch's changes lie over what is committed until they are stored
(`commit`) or thrown away (`rollback`)."""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Generic, TypeVar

V = TypeVar("V")


class Layered(Generic[V]):
    """A map with the batch's changes on top, in the order in which keys were last written.

    `load` gives what is stored of a key that is not held (None: nothing); `copy` makes what may be
    changed out of what is committed.
    """

    def __init__(
        self,
        held: Mapping[str, V],
        *,
        copy: Callable[[V], V],
        load: Callable[[str], V | None] | None = None,
    ) -> None:
        self._held: dict[str, V] = dict(held)
        self._changed: dict[str, V | None] = {}
        self._copy = copy
        self._load = load

    def __len__(self) -> int:
        added = sum(
            (value is not None) - (key in self._held) for key, value in self._changed.items()
        )
        return len(self._held) + added

    def get(self, key: str) -> V | None:
        """The value, not to be changed."""
        if key in self._changed:
            return self._changed[key]
        value = self._held.get(key)
        if value is None and self._load is not None:
            value = self._load(key)
            if value is not None:
                self._held[key] = value
        return value

    def open(self, key: str, *, load: bool = True) -> V | None:
        """The value as this batch may change it; None where there is none. Without `load` what is
        not held is taken not to be stored."""
        if key in self._changed:
            value = self._changed.pop(key)
        else:
            held = self.get(key) if load else self._held.get(key)
            value = None if held is None else self._copy(held)
            if value is None:
                return None
        self._changed[key] = value
        return value

    def put(self, key: str, value: V) -> None:
        """Set a value, which becomes the newest."""
        self._changed.pop(key, None)
        self._changed[key] = value

    def changed(self) -> dict[str, V | None]:
        """What this batch changed; None is what went."""
        return self._changed

    def oldest(self, surplus: int) -> list[str]:
        """As many keys as `surplus`, those first that were not written for longest."""
        return list(islice(self._by_age(), max(0, surplus)))

    def drop(self, key: str) -> None:
        """Have this batch take the key away."""
        self._changed[key] = None

    def commit(self) -> None:
        """The changes are stored."""
        for key, value in self._changed.items():
            self._held.pop(key, None)
            if value is not None:
                self._held[key] = value
        self._changed = {}

    def rollback(self) -> None:
        """The changes could not be stored: forget them."""
        self._changed = {}

    def values(self) -> Iterator[V]:
        """All values, in no order."""
        yield from (value for key, value in self._held.items() if key not in self._changed)
        yield from (value for value in self._changed.values() if value is not None)

    def forget(self, cap: int) -> list[V]:
        """Hold no more than `cap` committed values; those that went can be loaded again."""
        gone = list(islice(self._held, max(0, len(self._held) - cap)))
        return [self._held.pop(key) for key in gone]

    def _by_age(self) -> Iterator[str]:
        yield from (key for key in self._held if key not in self._changed)
        yield from (key for key, value in self._changed.items() if value is not None)
