"""Inventory, where the line has state: which of the software seen is to be stored.

A row is written when it is new, when it changes, and when its last sight is an hour old: so few
rows go with a batch, and they go in its transaction. What a batch changes here is undone by
`rollback`.

Of what package managers install only one version is there at a time (kernels aside): the one that
was told of last, by the time in the log. What was seen running may be there in several.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from appliance.inventory.seen import Sight, Software

#: Most hosts, rows of all hosts, and rows of a host that were seen and that were installed.
MAX_HOSTS: Final = 4_096
MAX_ROWS: Final = 50_000
MAX_SEEN: Final = 512
MAX_INSTALLED: Final = 4_096
#: Seconds by which a row's last sight may be behind in the store.
STEP_SECONDS: Final = 3600.0
#: Seconds after which the store forgets what is gone, or is no longer seen.
KEEP_SECONDS: Final = 180 * 86400.0
#: Packages that are there in several versions, by how their names begin.
_SIDE_BY_SIDE: Final = ("kernel", "linux-image", "linux-headers", "gpg-pubkey")

_Key = tuple[str, str, str, str, str]
_Group = tuple[str, str, str]


class Caps(msgspec.Struct, frozen=True):
    """How many hosts and rows are kept, and how many rows of a host."""

    hosts: int = MAX_HOSTS
    rows: int = MAX_ROWS
    seen: int = MAX_SEEN
    installed: int = MAX_INSTALLED


class SoftwareLedger:
    """What is known of the site's software; `rows` is what is stored, and `keep_seconds` how long
    the store keeps what is gone or no longer seen (0: for ever). Not thread-safe."""

    def __init__(
        self,
        rows: Iterable[Software] = (),
        caps: Caps | None = None,
        keep_seconds: float = KEEP_SECONDS,
    ) -> None:
        self._caps = caps or Caps()
        self._keep_seconds = keep_seconds
        self._pruned_at = 0.0
        self._known: dict[_Key, Software] = {}
        #: A package's versions; most have one, for which a tuple is the smallest that there is.
        self._groups: dict[_Group, tuple[_Key, ...]] = {}
        self._sizes: dict[str, list[int]] = {}
        self._undo: dict[_Key, Software | None] = {}
        self._dropped = 0
        shared: dict[str, str] = {}
        for row in rows:
            same = msgspec.structs.replace(
                row, **{name: shared.setdefault(text, text) for name, text in _texts(row)}
            )
            self._put(_key(same), same)
        self._undo.clear()

    def join(self, sights: Sequence[Sight]) -> list[Software]:
        """The rows that the sights change, as they are to be stored."""
        changed: dict[_Key, None] = {}
        if sights and self._keep_seconds:
            self._prune(max(sight.last for sight in sights))
        for sight in sights:
            if sight.gone:
                self._remove(sight, changed)
            else:
                self._see(sight, changed)
        return [self._known[key] for key in changed]

    def new_counts(self) -> dict[str, int]:
        """Since it was last asked: sights of software that the caps left out (`dropped`)."""
        dropped, self._dropped = self._dropped, 0
        return {"dropped": dropped} if dropped else {}

    def commit(self) -> None:
        """What was joined is stored."""
        self._undo.clear()

    def rollback(self) -> None:
        """What was joined is not stored: it is forgotten."""
        undo, self._undo = self._undo, {}
        for key, row in undo.items():
            if row is None:
                self._drop(key)
            else:
                self._known[key] = row
        self._undo.clear()

    def describe(self) -> dict[str, Any]:
        """Facts for `status`."""
        return {"depth": len(self._known), "cap": self._caps.rows, "hosts": len(self._sizes)}

    def _see(self, sight: Sight, changed: dict[_Key, None]) -> None:
        key = (sight.host, sight.vendor, sight.product, sight.version, sight.how)
        row = self._known.get(key)
        if row is None:
            if self._is_full(sight):
                self._dropped += 1
                return
            self._put(key, Software(*key, sight.first, sight.last, None, sight.installed))
            changed[key] = None
        else:
            back = row.removed is not None and sight.last >= row.removed
            if back or sight.last - row.last_seen >= STEP_SECONDS or sight.first < row.first_seen:
                self._put(key, msgspec.structs.replace(
                    row,
                    first_seen=min(row.first_seen, sight.first),
                    last_seen=max(row.last_seen, sight.last),
                    removed=None if back else row.removed,
                ))  # fmt: skip
                changed[key] = None
            elif sight.installed and sight.last > row.last_seen:
                # Of versions that come within an hour the order counts.
                self._put(key, msgspec.structs.replace(row, last_seen=sight.last))
                changed[key] = None
        if sight.installed and not sight.product.startswith(_SIDE_BY_SIDE):
            self._supersede(key, changed)

    def _supersede(self, key: _Key, changed: dict[_Key, None]) -> None:
        """Only the version that was told of last is there."""
        group = self._groups[key[:3]]
        if len(group) == 1:
            return
        present = [other for other in group if self._known[other].removed is None]
        # Of two with one time the one that is told of now is the later.
        newest = max(present, key=lambda k: (self._known[k].last_seen, k == key), default=key)
        moment = self._known[newest].last_seen
        for other in present:
            if other[3] != newest[3] and self._known[other].installed:
                self._put(other, msgspec.structs.replace(self._known[other], removed=moment))
                changed[other] = None

    def _remove(self, sight: Sight, changed: dict[_Key, None]) -> None:
        for key in self._groups.get((sight.host, sight.vendor, sight.product), ()):
            row = self._known[key]
            fits = row.installed and row.removed is None and row.last_seen <= sight.last
            if fits and sight.version in ("", row.version):
                self._put(key, msgspec.structs.replace(row, removed=sight.last))
                changed[key] = None

    def _prune(self, now: float) -> None:
        """Forget, once an hour of the logs' time, what the store has forgotten: it makes room."""
        if now - self._pruned_at < STEP_SECONDS:
            return
        self._pruned_at = now
        oldest = now - self._keep_seconds
        for key, row in tuple(self._known.items()):
            last = row.removed if row.removed is not None else row.last_seen
            if last < oldest and (row.removed is not None or not row.installed):
                self._drop(key)

    def _is_full(self, sight: Sight) -> bool:
        caps = self._caps
        sizes = self._sizes.get(sight.host)
        if sizes is None:
            return len(self._sizes) >= caps.hosts or len(self._known) >= caps.rows
        most = caps.installed if sight.installed else caps.seen
        return sizes[sight.installed] >= most or len(self._known) >= caps.rows

    def _put(self, key: _Key, row: Software) -> None:
        before = self._known.get(key)
        self._undo.setdefault(key, before)
        self._known[key] = row
        if before is None:
            self._sizes.setdefault(row.host, [0, 0])[row.installed] += 1
            if row.installed:
                self._groups[key[:3]] = (*self._groups.get(key[:3], ()), key)

    def _drop(self, key: _Key) -> None:
        row = self._known.pop(key)
        sizes = self._sizes[row.host]
        sizes[row.installed] -= 1
        if not any(sizes):
            del self._sizes[row.host]
        if row.installed:
            group = tuple(other for other in self._groups.pop(key[:3]) if other != key)
            if group:
                self._groups[key[:3]] = group


def _texts(row: Software) -> Iterator[tuple[str, str]]:
    """The names that thousands of rows have in common."""
    for name in ("host", "vendor", "product", "version", "how"):
        yield name, getattr(row, name)


def _key(row: Software) -> _Key:
    return (row.host, row.vendor, row.product, row.version, row.how)
