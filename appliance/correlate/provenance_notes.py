"""Beside the line, when somebody asks where an incident came from: what of each event matters.

An event becomes a `Note`: what kind of thing happened, when, where, and the fields that say so.
Events that provenance has no use for are left out here. The choice among too many does not depend
on their order: what starts and ends processes and what findings are on comes first, then what is
near to a finding in time.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable
from typing import Any, Final, Generic, TypeVar

from appliance.correlate.provenance_text import read_text
from appliance.schema import Event, Fields, View

#: Kinds of notes by Sigma category.
CATEGORIES: Final = {
    "process_creation": "start",
    "process_termination": "end",
    "process_access": "access",
    "create_remote_thread": "thread",
    "process_tampering": "tamper",
    "image_load": "image",
    "driver_load": "image",
    "file_event": "file",
    "file_executable_detected": "file",
    "create_stream_hash": "file",
    "registry_set": "registry",
    "registry_event": "registry",
    "registry_add": "registry",
    "network_connection": "connect",
    "dns_query": "dns",
    "pipe_created": "pipe",
    "wmi_event": "wmi",
    "ps_script": "script",
    "ps_module": "script",
}
#: Kinds by the event ids of Windows' own channels.
_SECURITY: Final = {
    4624: "logon", 4625: "failed", 4648: "explicit", 4672: "privilege", 4689: "end",
    4697: "service", 4698: "task", 4702: "task", 5140: "share", 5145: "share",
}  # fmt: skip
_SYSTEM: Final = {7045: "service"}
_SCHEDULER: Final = {106: "task", 140: "task", 129: "run", 200: "run"}
_CHANNELS: Final = {
    "security": _SECURITY,
    "system": _SYSTEM,
    "taskscheduler": _SCHEDULER,
}
#: Records of audit and of sshd that a login is told by.
_LOGINS: Final = frozenset({"USER_LOGIN", "USER_START", "USER_AUTH"})
#: What is kept first when there are too many.
_FIRST: Final = frozenset({"start", "end", "logon", "service", "task", "wmi", "explicit", "thread"})
_SENSORS: Final = frozenset({"zeek", "suricata"})
#: Kinds that are of use only with a finding on them.
_NEEDS_FINDING: Final = frozenset({"image", "failed", "privilege"})


class Note:
    """What one event says. `fields` are those of the view that says it."""

    __slots__ = ("event", "fields", "host", "kind", "source", "time")

    def __init__(self, event: Event, kind: str, fields: Fields) -> None:
        self.time = event.time if math.isfinite(event.time) else 0.0
        self.event = event.id
        self.host = event.host
        self.source = event.record.source
        self.kind = kind
        self.fields = fields

    @property
    def order(self) -> tuple[float, str]:
        """Where it stands among others, whatever the order in which they came."""
        return (self.time, self.event)


T = TypeVar("T")
#: Most things of a time that are looked at when a cause is searched.
MAX_CANDIDATES: Final = 500


class Timeline(Generic[T]):
    """Things in order of time, to find those of a time quickly. They are added in order."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._things: list[T] = []

    def add(self, time: float, thing: T) -> None:
        """Put it behind the others."""
        self._times.append(time)
        self._things.append(thing)

    def list_between(self, since: float, until: float) -> list[T]:
        """The last of those in that time, in order."""
        end = bisect_right(self._times, until)
        start = max(bisect_left(self._times, since), end - MAX_CANDIDATES)
        return self._things[start:end]

    def find_last(self, until: float) -> T | None:
        """The last one until that time."""
        end = bisect_right(self._times, until)
        return self._things[end - 1] if end else None

    def list_around(self, time: float, seconds: float) -> list[T]:
        """Those of that time, the nearest first."""
        near = self.list_between(time - seconds, time + seconds)
        end = bisect_right(self._times, time + seconds)
        times = self._times[end - len(near) : end]
        return [near[at] for at in sorted(range(len(near)), key=lambda at: abs(times[at] - time))]


def classify_event(event: Event) -> tuple[str, Fields]:
    """The kind of the event and the fields of the view that tells it; ("", {}) for no use."""
    for view in event.views:
        category = view.logsource.category
        if category is not None and (kind := CATEGORIES.get(category)):
            return kind, view.fields
    for view in event.views:
        if kind := _classify_service(view):
            return kind, view.fields
    return "", {}


def _classify_service(view: View) -> str:
    product, service = view.logsource.product, view.logsource.service
    if product == "windows" and service is not None:
        table = _CHANNELS.get(service)
        return table.get(_as_key(view.fields.get("EventID")), "") if table else ""
    if product == "zeek" and service == "conn":
        return "flow"
    if product == "linux" and service in ("auth", "sshd") and read_text(view.fields, "src_ip"):
        kind = read_text(view.fields, "type")
        if kind and kind not in _LOGINS:
            return ""
        result = view.fields.get("result")
        return "logon" if result == "success" else "failed" if result == "failure" else ""
    return ""


def _as_key(value: Any) -> int:
    return value if type(value) is int else -1


def take_notes(
    events: Iterable[Event], found: Collection[str], times: Collection[float], limit: int
) -> tuple[list[Note], int]:
    """The notes in order of time, each event once, and how many were left out.

    `found` are ids of events with findings, `times` when those were; at most `limit` notes.
    """
    first, last = (min(times), max(times)) if times else (0.0, 0.0)
    kept: dict[str, Note] = {}
    left_out = 0

    def rank(note: Note) -> tuple[int, float, float, str]:
        near = max(first - note.time, note.time - last, 0.0)
        weight = 0 if note.event in found else 1 if note.kind in _FIRST else 2
        return (weight, near, note.time, note.event)

    for event in events:
        kind, fields = classify_event(event)
        if event.id in found:
            kind, fields = kind or _name_other(event), fields or _find_fields(event)
        elif not kind or kind in _NEEDS_FINDING:
            continue
        kept[event.id] = Note(event, kind, fields)
        if len(kept) > 2 * limit:
            # What is not among the best of a part cannot be among the best of the whole.
            best = sorted(kept.values(), key=rank)[:limit]
            left_out += len(kept) - limit
            kept = {note.event: note for note in best}
    notes = sorted(kept.values(), key=rank)
    left_out += max(0, len(notes) - limit)
    return sorted(notes[:limit], key=lambda note: note.order), left_out


def _name_other(event: Event) -> str:
    """What a network sensor saw is about the ends of a connection, not about the sensor."""
    seen = any(view.logsource.product in _SENSORS for view in event.views)
    return "seen" if seen or not event.host else "other"


def _find_fields(event: Event) -> Fields:
    return event.views[0].fields if event.views else {}
