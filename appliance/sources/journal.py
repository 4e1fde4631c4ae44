"""First step of the line: the journal of systemd, of this machine or of a folder of journal files.

Each entry becomes one JSON object of the entry's own fields (systemd.journal-fields(7)), with the
address fields `__CURSOR`, `__REALTIME_TIMESTAMP` and `__MONOTONIC_TIMESTAMP` (microseconds, as
decimal text) that the journal itself gives it. Bytes that are no UTF-8 stay what they are.

The library reports little: a damaged file is silently left out, as is one that may not be read. So
what lies on the disk is compared with what the library reads, and a cursor that is no longer in the
journal is a gap, which is said and counted.
"""

import contextlib
import errno
import json
import os
import select
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import msgspec
import orjson
from systemd import journal

from appliance.schema import Checkpoint, Cursor, RawRecord, Rejected, SourceBatch
from appliance.sources.streams import StreamLimits, StreamName, reject_stream

#: Bytes of records given at a time.
BATCH_BYTES: Final = 8 << 20
#: Where journald keeps what is lost with the power, and what is not (systemd-journald.service(8)).
SYSTEM_FOLDERS: Final = ("/run/log/journal", "/var/log/journal")
#: Most journal files of which the sizes are compared: journald keeps 100 (journald.conf(5)).
FILES_CAP: Final = 10_000
#: systemd's name of the kind of thing that a unit without one is: a service.
_UNIT_KINDS: Final = (
    ".service", ".socket", ".device", ".mount", ".automount", ".swap", ".target", ".path",
    ".timer", ".slice", ".scope",
)  # fmt: skip
_BROKEN: Final = (OSError, ValueError)


class Place(msgspec.Struct):
    """What a checkpoint holds: the cursor of the last entry given and its time in microseconds
    since the epoch. `cursor` is empty when the journal held nothing yet."""

    cursor: str = ""
    realtime: int = 0


class Own(msgspec.Struct, frozen=True):
    """Which entries are the appliance's own and would be read in a circle: those of its systemd
    `unit` ("" when it runs in none) and, from `since` (epoch seconds) on, of its process `pid` in
    the boot `boot` (32 hex digits). Only fields that journald itself adds are asked."""

    unit: str = ""
    pid: int = 0
    boot: str = ""
    since: float = 0.0


class _Files(msgspec.Struct):
    """Journal files as they lie on the disk: the identities of the folders that were found, the
    bytes of all files, how many there are and how many of these may not be read."""

    folders: tuple[tuple[str, int, int], ...]
    blocks: int
    count: int
    refused: int


class JournalSource:
    """Follows the journal. The interface is that of every source: `poll` gives records; when what
    they led to is stored, `commit` is called, else `rewind`, and the same records come again. One
    thread calls all of these; `describe` may be called by another.

    `units` and `identifiers` choose entries that have one of the units (`ssh` is `ssh.service`) or
    one of the SYSLOG_IDENTIFIERs; without any, every entry is taken. `directory` "" is the journal
    of this machine.
    """

    def __init__(
        self,
        name: str,
        *,
        clock: Callable[[], float],
        checkpoints: Iterable[Checkpoint] = (),
        directory: str = "",
        units: Iterable[str] = (),
        identifiers: Iterable[str] = (),
        start_at: str = "beginning",
        limits: StreamLimits | None = None,
        own: Own | None = None,
        rescan_seconds: float = 5.0,
    ) -> None:
        self.name = name
        self.has_more = False
        self._clock = clock
        self._directory = directory
        self._units = tuple(units)
        self._identifiers = tuple(identifiers)
        self._skip_present = start_at == "end"
        self._limits = limits or StreamLimits()
        self._own = own or Own()
        self._rescan_seconds = rescan_seconds
        self._next_look = 0.0
        self._key = f"journal:{directory}"
        self._place = Place()
        self._begun = self._offered = False
        for checkpoint in checkpoints:
            if checkpoint.key == self._key:
                self._place = msgspec.json.decode(checkpoint.state, type=Place)
                self._begun = self._offered = True
        self._committed = self._place
        self._reader: _Entries | None = None
        self._seek_needed = True
        self._standing = False  # on an entry that has not been given yet
        self._gap_noted = ""
        self._files = _Files((), 0, 0, 0)
        self._missing = 0
        self._error = ""
        self._said = ""
        self._notices: list[Rejected] = []
        self._wake: Callable[[], None] | None = None
        self._watcher: _Watcher | None = None
        self._counts = {"gaps": 0, "own_entries": 0, "damaged_entries": 0, "overlong_entries": 0}

    def start(self, wake: Callable[[], None]) -> None:
        """Begin watching; `wake` is called (from another thread) when the journal changed."""
        self._wake = wake
        if self._reader is not None:
            self._watch(self._reader)

    def close(self) -> None:
        """Stop watching and close the journal."""
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher = None
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def poll(self, limit: int, data: int = BATCH_BYTES) -> SourceBatch:
        """About `limit` new entries of about `data` bytes at the most, in the journal's order.
        Never raises for what the journal is or contains."""
        now = self._clock()
        batch = SourceBatch([], [], [])
        self.has_more = False
        try:
            reader = self._look(now)
            if reader is not None and limit > 0 and data > 0:
                self._turn_to_place(reader)
                self._read(reader, batch, limit, data, now)
        except _BROKEN as error:
            self._fail(f"cannot be read: {_say(error)}")
        self._note_error(now)
        batch.rejected.extend(self._notices)
        # What may not be read yet has not been begun: "end" is still to be found in it.
        self._offered = self._begun or (self._reader is not None and not self._files.refused)
        if self._offered and (self._place != self._committed or not self._begun):
            state = msgspec.json.encode(self._place)
            batch.checkpoints.append(Checkpoint(self.name, self._key, state))
        return batch

    def commit(self) -> None:
        """What the last poll gave is stored: never give it again."""
        self._committed = self._place
        self._begun = self._offered
        self._notices.clear()

    def rewind(self) -> None:
        """What was polled since the last commit was not stored: give it again."""
        self._place = self._committed
        self._seek_needed = True

    def describe(self) -> dict[str, Any]:
        """Facts for `status`. `error` is why the journal, or a part of it, can't be read; `gaps`
        counts how often entries went before they were read, `unread_bytes` what lies in journal
        files that are damaged or may not be read, `last_entry` the time of the last entry given."""
        return {
            "journal": self._directory or "system",
            "error": self._error,
            "watching": self._watcher is not None,
            "files": self._files.count,
            "unreadable_files": self._files.refused,
            "unread_bytes": self._missing,
            "last_entry": self._place.realtime / 1e6 if self._place.realtime else None,
            **self._counts,
        }

    # -- opening and looking ---------------------------------------------------------------------

    def _look(self, now: float) -> "_Entries | None":
        """The open journal, opened anew when its folders are others now; None when it can't be."""
        reader = self._reader
        # A clock that was set back must not stop the looking.
        due = now >= self._next_look or now < self._next_look - 2 * self._rescan_seconds
        if due:
            self._next_look = now + self._rescan_seconds
            files = list_files(self._directory)
            before = self._files
            if (files.folders, files.refused) != (before.folders, before.refused):
                self.close()  # the library does not look at these again
                reader = None
            self._files = files
            if reader is None:
                reader = self._open()
        if reader is None:
            return None
        if self._watcher is not None:
            self._watcher.acknowledge()
        # Files were added or removed: what was to be read next may be among them.
        if reader.process() == journal.INVALIDATE:
            self._seek_needed = True
        if due:
            self._compare(reader)
        return reader

    def _open(self) -> "_Entries | None":
        try:
            reader = _Entries(path=self._directory) if self._directory else _Entries()
            reader.data_threshold = self._limits.record_bytes + 1
            self._choose(reader)
            # Before the first entry is looked for: it makes the library look into the folders.
            reader.fileno()
        except _BROKEN as error:
            self._error = f"cannot be opened: {_say(error)}"
            return None
        self._reader = reader
        self._seek_needed = True
        self._watch(reader)
        return reader

    def _choose(self, reader: "_Entries") -> None:
        """Matches of one field are joined by OR; `add_disjunction` begins another alternative."""
        alternatives: list[list[str]] = []
        for unit in self._units:
            full = unit if unit.endswith(_UNIT_KINDS) else f"{unit}.service"
            alternatives.append([f"_SYSTEMD_UNIT={full}"])
            # What the service manager itself says of the unit.
            alternatives.append(["_PID=1", f"UNIT={full}"])
        alternatives.extend([f"SYSLOG_IDENTIFIER={name}"] for name in self._identifiers)
        for matches in alternatives:
            for match in matches:
                reader.add_match(match)
            reader.add_disjunction()

    def _watch(self, reader: "_Entries") -> None:
        if self._wake is not None and self._watcher is None:
            self._watcher = _Watcher(reader.fileno(), self._wake)
            self._watcher.start()

    def _compare(self, reader: "_Entries") -> None:
        """Find out whether the library reads everything that lies there."""
        files = self._files
        missing = max(0, files.blocks - reader.get_usage())
        where = self._directory or " or ".join(SYSTEM_FOLDERS)
        # Twice: files may come and go between the two looks.
        lasting = missing if missing and self._missing else 0
        self._missing = missing
        if not files.count:
            self._error = f"no journal files in {where}"
        elif files.refused:
            self._error = (
                f"{files.refused} of {files.count} journal files may not be read:"
                " the user must be in the group systemd-journal"
            )
        elif lasting:
            self._error = f"{lasting} bytes of journal files cannot be read: damaged"
        elif not missing:
            self._error = ""

    def _fail(self, reason: str) -> None:
        """Close, and open again at the next look."""
        self._error = reason
        self.close()

    def _note_error(self, now: float) -> None:
        """List what can't be read: once, until the reason is another."""
        kind = self._error.strip("0123456789")
        if kind != self._said:
            self._said = kind
            if kind:
                self._notices.append(self._reject(self._error, now))

    def _reject(self, reason: str, now: float) -> Rejected:
        path = self._directory or "journal"
        name = StreamName(self.name, self._key, self._key, path, "journal")
        return reject_stream(name, reason, now, position=self._place.realtime)

    # -- finding the place -------------------------------------------------------------------------

    def _turn_to_place(self, reader: "_Entries") -> None:
        """Stand where reading goes on, if that is not where the reader stands already."""
        if not self._seek_needed:
            return
        self._standing = False
        if self._place.cursor:
            self._seek_cursor(reader)
        elif self._skip_present and not self._begun:
            self._seek_end(reader)
        else:
            reader.seek_head()
        self._seek_needed = False

    def _seek_end(self, reader: "_Entries") -> None:
        """Stand behind what the journal holds now."""
        reader.seek_tail()
        if reader.back():
            self._place = Place(reader.cursor(), reader.realtime())
        else:
            reader.seek_head()

    def _seek_cursor(self, reader: "_Entries") -> None:
        """Stand on the entry given last. When it is gone: on the one that follows its place, by
        number, time since boot or time of day, whichever the journal still knows."""
        cursor = self._place.cursor
        reader.flush_matches()  # its unit may be chosen no longer
        self._seek(reader)
        there = reader.forward() and reader.stands_on(cursor)
        self._choose(reader)
        self._seek(reader)
        found = reader.forward()
        if found and reader.stands_on(cursor):
            return
        self._standing = found
        if there or (found and follows(cursor, reader.cursor())):
            return
        if not found and not self._seek_other(reader):
            self._seek(reader)
        self._note_gap()

    def _seek(self, reader: "_Entries") -> None:
        try:
            reader.seek_cursor(self._place.cursor)
        except ValueError:  # it has lost its form
            reader.seek_realtime(self._place.realtime)

    def _seek_other(self, reader: "_Entries") -> bool:
        """Stand before a journal that is another one than that which was read, and was written
        while the clock was behind: all of it is new. False when the journal is none."""
        cursor = self._place.cursor
        reader.seek_tail()
        if not reader.back() or same_sequence(cursor, reader.cursor()):
            return False
        reader.seek_head()
        if not reader.forward() or same_sequence(cursor, reader.cursor()):
            return False
        self._standing = True
        return True

    def _note_gap(self) -> None:
        if self._gap_noted == self._place.cursor:
            return
        self._gap_noted = self._place.cursor
        self._counts["gaps"] += 1
        reason = (
            f"the entry last read (time {self._place.realtime / 1e6:.6f}) is no longer in the"
            " journal: entries that came behind it may be lost"
        )
        self._notices.append(self._reject(reason, self._clock()))

    # -- reading -----------------------------------------------------------------------------------

    def _read(
        self, reader: "_Entries", batch: SourceBatch, limit: int, data: int, now: float
    ) -> None:
        for _ in range(limit):
            if not self._standing and not reader.forward():
                return
            self._standing = False
            cursor = reader.cursor()
            realtime = reader.realtime()
            fields, reason = self._read_fields(reader, cursor, realtime)
            self._place = Place(cursor, realtime)
            if fields is None or not self._is_own(fields, realtime):
                data -= self._give(batch, fields or {}, reason, now)
                if data <= 0:
                    break
        self.has_more = True

    def _read_fields(
        self, reader: "_Entries", cursor: str, realtime: int
    ) -> tuple[dict[str, Any] | None, str]:
        """The entry's fields, or None and why there are none."""
        try:
            fields = reader.fields()
            monotonic = reader.monotonic()
        except _BROKEN as error:
            return None, f"damaged journal entry {cursor}: {_say(error)}"
        if not fields:
            return None, f"damaged journal entry {cursor}: no field of it can be read"
        # Behind the others: no field of the entry can take the place of these.
        fields["__CURSOR"] = cursor.encode()
        fields["__REALTIME_TIMESTAMP"] = b"%d" % realtime
        fields["__MONOTONIC_TIMESTAMP"] = b"%d" % monotonic
        return fields, ""

    def _is_own(self, fields: dict[str, Any], realtime: int) -> bool:
        own = self._own
        by_unit = bool(own.unit) and fields.get("_SYSTEMD_UNIT") == own.unit.encode()
        by_process = (
            own.pid > 0
            and realtime >= own.since * 1e6
            and fields.get("_PID") == b"%d" % own.pid
            and fields.get("_BOOT_ID") == own.boot.encode()
        )
        self._counts["own_entries"] += by_unit or by_process
        return by_unit or by_process

    def _give(self, batch: SourceBatch, fields: dict[str, Any], reason: str, now: float) -> int:
        """Put one entry into the batch; return its length in bytes."""
        data = write_entry(fields) if fields else b""
        cursor = self._place.cursor
        sequence, number = split_cursor(cursor)
        cap = self._limits.record_bytes
        kept, full = data, 0
        if len(data) > cap:
            self._counts["overlong_entries"] += 1
            kept, full = data[: self._limits.rejected_bytes], len(data)
            reason = f"journal entry of {full} bytes or more is longer than the cap of {cap}"
        elif reason:
            self._counts["damaged_entries"] += 1
            kept = cursor.encode()
        record = RawRecord(
            data=kept,
            source=self.name,
            path=self._directory or "journal",
            logical=f"journal:{sequence}",
            cursor=Cursor(self.name, f"{self._key}#{sequence}", number, number + 1),
            received=now,
            format="journal",
            truncated=full,
        )
        if reason:
            batch.rejected.append(Rejected(record, "source", reason))
        else:
            batch.records.append(record)
        return len(data)


class _Entries(journal.Reader):  # type: ignore[misc]
    """The library's reader with fields as they are: bytes, or a list of them where a field occurs
    more than once. Its own conversion fails for times beyond year 9999 and costs three times as
    much. Everything here may raise OSError, and ValueError for names that are no UTF-8."""

    def forward(self) -> bool:
        """Go to the next entry; False when there is none."""
        return bool(self._next())

    def back(self) -> bool:
        """Go to the previous entry; False when there is none."""
        return bool(self._previous())

    def fields(self) -> dict[str, Any]:
        """The fields of the entry on which the reader stands."""
        return dict(self._get_all())

    def cursor(self) -> str:
        """The entry's address in the journal."""
        return str(self._get_cursor())

    def realtime(self) -> int:
        """When journald received the entry, in microseconds since the epoch."""
        return int(self._get_realtime())

    def monotonic(self) -> int:
        """The same in microseconds since the boot."""
        return int(self._get_monotonic()[0])

    def stands_on(self, cursor: str) -> bool:
        """Whether the entry is the one that the cursor names."""
        try:
            return bool(self.test_cursor(cursor))
        except OSError as error:
            if error.errno == errno.EINVAL:  # it is no cursor
                return False
            raise


class _Watcher(threading.Thread):
    """Tells that the journal changed. Only the file descriptor is touched here: the reader itself
    is the line's thread's, since the library's objects know one thread only."""

    def __init__(self, descriptor: int, wake: Callable[[], None]) -> None:
        super().__init__(name="journal", daemon=True)
        self._descriptor = descriptor
        self._wake = wake
        self._seen = threading.Event()
        self._stopping = threading.Event()
        self._ended, self._end = os.pipe()

    def acknowledge(self) -> None:
        """The line has seen that something changed: tell of the next change, too."""
        self._seen.set()

    def stop(self) -> None:
        """End the thread; the descriptor may be closed afterwards."""
        self._stopping.set()
        self._seen.set()
        os.close(self._end)
        self.join()
        os.close(self._ended)

    def run(self) -> None:
        """Until `stop`."""
        poller = select.poll()
        poller.register(self._descriptor, select.POLLIN)
        poller.register(self._ended, select.POLLIN)
        while True:
            poller.poll()
            self._seen.clear()
            if self._stopping.is_set():
                return
            self._wake()
            # The descriptor stays readable until the line has looked.
            self._seen.wait(1.0)


def write_entry(fields: dict[str, Any]) -> bytes:
    """The fields as one JSON object, sorted by name, so that the same entry always gives the same
    bytes. Bytes that are no UTF-8 are left as they are inside the JSON text; control characters
    are escaped, so that it is one line."""
    try:
        return orjson.dumps(_read_values(fields, "strict"), option=orjson.OPT_SORT_KEYS)
    except (UnicodeDecodeError, orjson.JSONEncodeError):
        values = _read_values(fields, "surrogateescape")
        text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
        return text.encode("utf-8", "surrogateescape")


def _read_values(fields: dict[str, Any], errors: str) -> dict[str, Any]:
    return {
        name: [item.decode("utf-8", errors) for item in value]
        if isinstance(value, list)
        else value.decode("utf-8", errors)
        for name, value in fields.items()
    }


def split_cursor(cursor: str) -> tuple[str, int]:
    """The sequence (128 bits, hex) and the number in it (1 for the first entry) that a cursor
    names; numbers grow by one an entry within a sequence. Without them: ("", 0)."""
    parts = dict(part.partition("=")[::2] for part in cursor.split(";"))
    try:
        number = int(parts.get("i", "0"), 16)
    except ValueError:
        number = 0
    # A database keeps 63 bits.
    return parts.get("s", ""), number & (1 << 63) - 1


def follows(earlier: str, later: str) -> bool:
    """True when the second cursor's entry was written right behind the first one's."""
    sequence, number = split_cursor(earlier)
    return (sequence, number + 1) == split_cursor(later)


def same_sequence(one: str, other: str) -> bool:
    """True for cursors of one sequence of numbers."""
    return split_cursor(one)[0] == split_cursor(other)[0]


def list_files(directory: str) -> _Files:
    """The journal files that the library reads: those of the folder and of its machines' folders,
    for the system's journal of this machine's. Raises nothing."""
    machine = _read_machine() if not directory else ""
    folders: list[tuple[str, int, int]] = []
    found = _Files((), 0, 0, 0)
    for root in (directory,) if directory else SYSTEM_FOLDERS:
        for folder in (root, *_list_machines(root, machine)):
            try:
                status = Path(folder).stat()
            except OSError:
                continue
            folders.append((folder, status.st_dev, status.st_ino))
            _add_files(folder, found)
    found.folders = tuple(folders)
    return found


def _read_machine() -> str:
    try:
        return Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _list_machines(root: str, machine: str) -> list[str]:
    """Folders of journals, named by the 32 hex digits of a machine's id: of one, or of all."""
    try:
        with os.scandir(root) as entries:
            names = sorted(entry.name for entry in entries if _is_machine(entry.name))
    except OSError:
        return []
    return [os.path.join(root, name) for name in names if machine in ("", name)]  # noqa: PTH118


def _is_machine(name: str) -> bool:
    return len(name.replace("-", "")) == 32 and not name.replace("-", "").strip("0123456789abcdef")


def _add_files(folder: str, found: _Files) -> None:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.endswith((".journal", ".journal~")) or found.count >= FILES_CAP:
                continue
            try:
                status = entry.stat()
            except OSError:  # gone meanwhile, or a link to nothing
                continue
            found.count += 1
            found.blocks += status.st_blocks * 512
            found.refused += not os.access(entry.path, os.R_OK)


def _say(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
