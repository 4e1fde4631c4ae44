"""First step of the line: files and globs, followed while they grow, are rotated and come anew.

A file is known by device, inode, its first bytes and the last ones read, so that a renamed file
goes on where it was, a copy behind what its original gave, and a new file under an old name starts
at its beginning. inotify (watchdog) only wakes the line: it drops events silently when its queue
overflows, so a periodic rescan finds whatever it missed. Nothing here is durable: checkpoints are,
in the store's transaction.
"""

import contextlib
import glob
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from appliance.errors import SourceError
from appliance.schema import Checkpoint, Rejected, SourceBatch
from appliance.sources.streams import (
    Stream,
    StreamLimits,
    StreamName,
    Want,
    open_stream,
    reject_stream,
)
from appliance.sources.tracking import (
    COPY_ERRORS,
    StreamState,
    begin_state,
    decode_state,
    encode_state,
    find_fate,
    find_original,
    list_files,
    note_progress,
    read_status,
)

#: A renamed or deleted file is read on this long after its last growth: its writer may not have
#: noticed yet. As long, a damaged gzip or EVTX may still be being written.
GRACE_SECONDS = 30.0

#: EVTX and gzip are read only when nobody has written to them for this long, and a damaged one is
#: looked at again after it.
SETTLE_SECONDS = 1.0

#: Lines that wait to be joined with others are given when their file did not grow for this long.
FLUSH_SECONDS = 2.0

#: Files held open at a time; others are opened again when they grow.
OPEN_FILES = 256

#: Bytes of records given at a time.
BATCH_BYTES = 8 << 20

#: Key of the checkpoint that says that the source has been read before. No file's key is it.
_BEGUN = "#begun"

_WATCHED = frozenset({"modified", "created", "moved", "deleted", "closed"})


class _Tracked:
    """One file of a source: its state as read, its state as committed, and the open stream."""

    def __init__(self, state: StreamState) -> None:
        self.state = state
        self.committed = msgspec.structs.replace(state)
        self.stream: Stream | None = None
        self.grown = 0.0
        self.fed = 0.0  # when bytes were read last
        self.waits_until = 0.0
        self.has_more = False

    @property
    def key(self) -> str:
        return self.state.key

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()
            self.stream = None

    def rewind(self) -> None:
        """Back to what is committed of its reading."""
        old = self.committed
        state = self.state
        state.position, state.overlong_from = old.position, old.overlong_from
        state.tail, state.size, state.header = old.tail, old.size, old.header
        state.refused, state.fresh = old.refused, old.fresh
        self.rewind_stream()

    def rewind_stream(self) -> None:
        """Bring the open stream to where the state is."""
        if self.stream is not None:
            state = self.state
            header = state.header.encode("latin-1")
            self.stream.rewind(state.position, state.overlong_from, header)


class FilesSource:
    """Follows the files that the patterns name.

    `poll` gives records; when what they led to is stored, `commit` is called, else `rewind`, and
    the same records come again. One thread calls all of these; `wake` is called from watchdog's.
    """

    def __init__(
        self,
        name: str,
        patterns: Iterable[str],
        *,
        clock: Callable[[], float],
        checkpoints: Iterable[Checkpoint] = (),
        format: str = "auto",  # noqa: A002 - the configuration's word
        columns: bool = False,
        start_at: str = "beginning",
        limits: StreamLimits | None = None,
        files_cap: int = 10_000,
        rescan_seconds: float = 5.0,
    ) -> None:
        self.name = name
        self._patterns = tuple(patterns)
        self._clock = clock
        self._format = format
        self._columns = columns
        self._limits = limits or StreamLimits()
        self._files_cap = files_cap
        self._rescan_seconds = rescan_seconds
        self._next_scan = 0.0
        self._tracked: dict[str, _Tracked] = {}
        self._active: dict[str, _Tracked] = {}
        self._moved: dict[str, _Tracked] = {}
        self._forgotten: set[str] = set()
        self._notices: list[Rejected] = []
        self._unreadable: dict[str, str] = {}
        self._wake: Callable[[], None] = lambda: None
        self._observer: Any = None
        self._watched: dict[str, tuple[int, Any]] = {}
        self._lock = threading.Lock()
        self._dirty: set[str] = set()
        self.counts = {
            "files_over_cap": 0,
            "truncated_files": 0,
            "vanished_files": 0,
            "copies_followed": 0,
            "header_lines": 0,
        }
        self.watching = False
        self._begun = False
        for checkpoint in checkpoints:
            if checkpoint.key == _BEGUN:
                self._begun = True
                continue
            tracked = _Tracked(decode_state(checkpoint.state))
            self._tracked[tracked.key] = tracked
        # "end" is for what lay there before the appliance first came; later files are read whole,
        # also those that came while it was down.
        self._skip_present = start_at == "end" and not self._begun

    def start(self, wake: Callable[[], None]) -> None:
        """Begin watching; `wake` is called (from another thread) when something changed."""
        self._wake = wake
        try:
            observer = Observer()
            observer.daemon = True
            observer.start()
        except OSError:  # no inotify instance left: the rescan alone finds what comes
            return
        self._observer = observer
        self.watching = True

    def close(self) -> None:
        """Stop watching and close every file."""
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(5)
            self._observer = None
        for tracked in self._tracked.values():
            tracked.close()

    def poll(self, limit: int, data: int = BATCH_BYTES) -> SourceBatch:
        """About `limit` new records from about `data` bytes at the most, in order within each
        file. Never raises for what the files are or contain."""
        now = self._clock()
        self._look(now)
        batch = SourceBatch([], [], [])
        for key, tracked in list(self._active.items()):
            left = limit - len(batch.records) - len(batch.rejected)
            if left <= 0 or data <= 0:
                tracked.has_more = True  # as far as is known: it was not looked at
                continue
            if tracked.waits_until > now:
                tracked.has_more = False
                continue
            del self._active[key]
            given = len(batch.records)
            if self._read(tracked, Want(left, data), now, batch):
                # Behind the others next time, so that one busy file can't starve the rest.
                self._active[key] = tracked
            data -= sum(len(record.data) for record in batch.records[given:])
        self._close_surplus()
        batch.rejected.extend(self._notices)
        batch.checkpoints.extend(
            Checkpoint(self.name, key, encode_state(tracked.state))
            for key, tracked in self._moved.items()
        )
        batch.checkpoints.extend(Checkpoint(self.name, key, b"") for key in self._forgotten)
        if not self._begun:
            batch.checkpoints.append(Checkpoint(self.name, _BEGUN, b"1"))
        return batch

    def commit(self) -> None:
        """What the last poll gave is stored: never give it again."""
        for tracked in self._moved.values():
            tracked.committed = msgspec.structs.replace(tracked.state)
            if tracked.stream is not None and tracked.stream.ended:
                tracked.close()
        self._begun = True
        self._notices.clear()
        self._moved.clear()
        self._forgotten.clear()

    def rewind(self) -> None:
        """What was polled since the last commit was not stored: give it again."""
        for tracked in self._moved.values():
            tracked.rewind()
            self._active[tracked.key] = tracked

    @property
    def has_more(self) -> bool:
        """True when the last poll left readable records behind because of its limits."""
        return any(tracked.has_more for tracked in self._active.values())

    def describe(self) -> dict[str, Any]:
        """Facts for `status`: files followed, bytes behind, bytes of unfinished records, lines that
        name columns (which are no records), and what became of files."""
        live = behind = pending = 0
        for tracked in list(self._tracked.values()):  # asked from another thread
            state, stream = tracked.state, tracked.stream
            if state.gone:
                continue
            live += 1
            unfinished = stream.pending if stream is not None else 0
            pending += unfinished
            status = read_status(state.path)
            if status is None or state.refused or status.st_size == state.size:
                continue
            read = 0 if state.packed else state.position
            behind += max(0, status.st_size - read - unfinished)
        return {
            "files": live,
            "bytes_behind": behind,
            "bytes_unfinished": pending,
            "watching": self.watching,
            "unreadable_files": len(self._unreadable),
            **self._list_missing(),
            **self.counts,
        }

    def _list_missing(self) -> dict[str, list[str]]:
        """Paths that the configuration names one by one and that are not there: `missing` were
        followed before, `absent` never."""
        absent = [p for p in self._patterns if not glob.has_magic(p) and not os.path.lexists(p)]
        followed = {tracked.state.logical for tracked in list(self._tracked.values())}
        return {
            "missing": [path for path in absent if path in followed],
            "absent": [path for path in absent if path not in followed],
        }

    # -- looking for files -------------------------------------------------------------------

    def _look(self, now: float) -> None:
        with self._lock:
            dirty, self._dirty = self._dirty, set()
        by_path = {t.state.path: t for t in self._tracked.values() if dirty and not t.state.gone}
        for path in dirty:
            tracked = by_path.get(path)
            if tracked is None or find_fate(tracked.state, path) != "same":
                self._next_scan = now
            else:
                self._active[tracked.key] = tracked
        # A clock that was set back must not stop the looking.
        if now >= self._next_scan or now < self._next_scan - 2 * self._rescan_seconds:
            self._next_scan = now + self._rescan_seconds
            self._rescan(now)

    def _rescan(self, now: float) -> None:
        listing = list_files(self._patterns, self._files_cap)
        for folder in sorted(listing.folders):
            self._watch(folder)
        for path, reason in listing.problems.items():
            self._say(path, reason)
        by_inode = {(s.st_dev, s.st_ino): path for path, s in reversed(listing.files.items())}
        live = self._follow_known(now, by_inode)
        over = 0
        for path, status in listing.files.items():
            identity = (status.st_dev, status.st_ino)
            if identity in live:
                continue
            if len(live) >= self._files_cap:
                over += 1
                continue
            if self._begin(path, status):
                live.add(identity)
        self.counts["files_over_cap"] = over
        self._forget_markers()
        self._skip_present = False

    def _follow_known(
        self, now: float, by_inode: dict[tuple[int, int], str]
    ) -> set[tuple[int, int]]:
        """Find known files that were renamed, rewritten, grew or went away; give the identities
        of those that are still there as they were."""
        live: set[tuple[int, int]] = set()
        for tracked in list(self._tracked.values()):
            state = tracked.state
            if state.gone:
                continue
            identity = (state.device, state.inode)
            fate = find_fate(state, state.path)
            path = state.path
            if fate == "elsewhere":
                path = by_inode.get(identity) or self._find_sibling(state) or ""
                fate = find_fate(state, path) if path else "elsewhere"
            if fate != "same":
                self._mark_gone(tracked, now, rewritten=fate == "rewritten")
                continue
            live.add(identity)
            if path != state.path:
                state.path = path
                tracked.grown = now
                self._moved[tracked.key] = tracked
                self._active[tracked.key] = tracked
            self._check_size(tracked)
        return live

    def _check_size(self, tracked: _Tracked) -> None:
        state = tracked.state
        status = read_status(state.path)
        if status is None:
            return
        read = state.size if state.size >= 0 else state.position
        if status.st_size != read:
            self._active[tracked.key] = tracked

    def _find_sibling(self, state: StreamState) -> str | None:
        """The file under another name in its folder."""
        try:
            with os.scandir(os.path.dirname(state.path)) as entries:  # noqa: PTH120
                for entry in entries:
                    if entry.inode() == state.inode and find_fate(state, entry.path) == "same":
                        return entry.path
        except (OSError, ValueError):
            return None
        return None

    def _begin(self, path: str, status: os.stat_result) -> bool:
        """Follow a file not seen before."""
        same = [t.state.generation for t in self._tracked.values() if t.state.logical == path]
        try:
            state = begin_state(path, status, max(same, default=-1) + 1)
        except FileNotFoundError:  # renamed or deleted since it was listed: the next look says
            self.counts["vanished_files"] += 1
            return False
        except (OSError, ValueError) as error:
            self._say(path, f"cannot be read: {getattr(error, 'strerror', None) or error}")
            return False
        tracked = _Tracked(state)
        if self._skip_present:
            self._skip_to_end(tracked)
        self._unreadable.pop(path, None)
        self._tracked[tracked.key] = tracked
        self._moved[tracked.key] = tracked
        self._active[tracked.key] = tracked
        return True

    def _skip_to_end(self, tracked: _Tracked) -> None:
        """Stand behind what the file holds now: whole lines of a text, all of what is packed."""
        state = tracked.state
        try:
            stream = open_stream(self._name_stream(state), self._limits)
        except SourceError:
            return
        with contextlib.closing(stream):
            size = os.fstat(stream.fileno()).st_size
            if state.packed:
                want = Want(2000, final=True)
                while not stream.ended:
                    stream.read(want, 0.0)
                state.position, state.size = stream.position, size
            else:
                start = max(0, size - (1 << 16))
                tail = os.pread(stream.fileno(), size - start, start)
                state.position = start + tail.rfind(b"\n") + 1 if b"\n" in tail else size
                stream.pass_over(state.position)
                state.header = stream.header.decode("latin-1")
                note_progress(state, stream.fileno())
            state.fresh = False

    def _mark_gone(self, tracked: _Tracked, now: float, *, rewritten: bool) -> None:
        """The file went away, or others came into its place. What its open handle still has is
        read while its writer may go on; one that was rewritten holds other bytes there."""
        if rewritten:
            self.counts["truncated_files"] += 1
            tracked.close()
        elif tracked.stream is None and tracked.state.size < 0:
            self.counts["vanished_files"] += 1
        self._unreadable.pop(tracked.state.path, None)
        tracked.state.gone = True
        tracked.grown = now
        self._moved[tracked.key] = tracked
        self._active[tracked.key] = tracked

    def _forget_markers(self) -> None:
        """Keep of the deleted files the newest of each name, and no more names than the cap."""
        markers = [t for t in self._tracked.values() if t.state.gone and t.stream is None]
        newest: dict[str, int] = {}
        for tracked in self._tracked.values():
            state = tracked.state
            newest[state.logical] = max(newest.get(state.logical, 0), state.generation)
        surplus = len(markers) - self._files_cap
        for place, tracked in enumerate(markers):
            outdated = tracked.state.generation < newest[tracked.state.logical]
            if (outdated or place < surplus) and tracked.key not in self._moved:
                del self._tracked[tracked.key]
                self._active.pop(tracked.key, None)
                self._forgotten.add(tracked.key)

    def _say(self, path: str, reason: str) -> None:
        """List what can't be read: once, until the reason is another."""
        if self._unreadable.get(path) == reason:
            return
        if len(self._unreadable) < self._files_cap:
            self._unreadable[path] = reason
        name = StreamName(self.name, path, path, path, self._format, self._columns)
        self._notices.append(reject_stream(name, reason, self._clock()))

    def _watch(self, folder: str) -> None:
        """Have the kernel tell of changes in a folder, also when it was made anew."""
        if self._observer is None:
            return
        status = read_status(folder)
        inode, watch = self._watched.get(folder, (0, None))
        if status is not None and status.st_ino == inode:
            return
        if watch is not None:
            del self._watched[folder]
            with contextlib.suppress(KeyError, OSError):
                self._observer.unschedule(watch)
        if status is None or len(self._watched) >= self._files_cap:
            return
        try:
            watch = self._observer.schedule(_Waker(self._note), folder, recursive=False)
        except OSError:  # inotify watches used up: the rescan finds what comes there
            self.watching = False
            return
        self._watched[folder] = (status.st_ino, watch)

    def _note(self, path: str) -> None:
        with self._lock:
            if len(self._dirty) < self._files_cap:
                self._dirty.add(path)
        self._wake()

    # -- reading -------------------------------------------------------------------------------

    def _name_stream(self, state: StreamState) -> StreamName:
        key, path = state.key, state.path
        return StreamName(self.name, key, key, path, self._format, self._columns)

    def _read(self, tracked: _Tracked, want: Want, now: float, batch: SourceBatch) -> bool:
        """Read one file on; True when it is to be looked at again without having grown."""
        state = tracked.state
        tracked.has_more = False
        if not self._open(tracked, now):
            return tracked.waits_until > now
        stream = tracked.stream
        if stream is None:
            return False
        leaving = state.gone or state.renamed
        status = os.fstat(stream.fileno())
        idle = now - (status.st_mtime if stream.packed else tracked.grown) > GRACE_SECONDS
        # What is packed ends with its last byte; whether that is damage is only known later.
        final = idle if stream.packed else leaving and idle
        rests = stream.held > 0 and not 0 <= now - tracked.fed < FLUSH_SECONDS
        taken, headers = stream.taken, stream.header_lines
        got = stream.read(msgspec.structs.replace(want, final=final, flush=rests), now)
        if stream.taken != taken:
            tracked.fed = now
        self.counts["header_lines"] += stream.header_lines - headers
        batch.records.extend(got.records)
        batch.rejected.extend(r for r in got.rejected if not (stream.refused and state.refused))
        if (stream.position, stream.overlong_from) != (state.position, state.overlong_from):
            tracked.grown = now
        if stream.ended:
            state.size = status.st_size
            state.refused = stream.refused
        if got.records or got.rejected or stream.ended or stream.position != state.position:
            state.position, state.overlong_from = stream.position, stream.overlong_from
            state.header = stream.header.decode("latin-1")
            state.fresh = False
            note_progress(state, stream.fileno())
            self._moved[tracked.key] = tracked
        if stream.ended:
            return False
        tracked.has_more = stream.more
        if stream.packed and not stream.more:
            tracked.waits_until = now + SETTLE_SECONDS
        return stream.more or leaving or stream.packed or stream.held > 0

    def _open(self, tracked: _Tracked, now: float) -> bool:
        """Open the file at its position; False when it can't be read now."""
        state, stream = tracked.state, tracked.stream
        if stream is not None:
            if stream.ended:  # read to its end, and grown since
                tracked.rewind_stream()
            return True
        if state.gone:
            return False
        try:
            stream = open_stream(self._name_stream(state), self._limits)
        except SourceError as error:
            if os.path.lexists(state.path):
                self._say(state.path, str(error))
            else:  # a rotation came between: the next look finds where it is
                self._next_scan = now
            return False
        if not self._is_ready(tracked, os.fstat(stream.fileno()), now):
            stream.close()
            return False
        self._unreadable.pop(state.path, None)
        state.size = -1
        tracked.stream = stream
        tracked.rewind_stream()
        tracked.grown = tracked.grown or now
        return True

    def _is_ready(self, tracked: _Tracked, status: os.stat_result, now: float) -> bool:
        """True when the opened file is the one meant, and whole where it must be."""
        state = tracked.state
        if (status.st_dev, status.st_ino) != (state.device, state.inode):
            self._next_scan = 0.0  # renamed between the look and the opening
            return False
        if state.packed and now - SETTLE_SECONDS < status.st_mtime <= now:
            tracked.waits_until = status.st_mtime + SETTLE_SECONDS
            return False
        return not state.fresh or self._follow_copy(tracked, now, status.st_mtime)

    def _follow_copy(self, tracked: _Tracked, now: float, changed: float) -> bool:
        """Take a copy up where its original was left; False when it is not whole yet."""
        state = tracked.state
        try:
            original = find_original(state, (t.state for t in self._tracked.values()))
        except COPY_ERRORS:
            if now - changed <= GRACE_SECONDS:
                tracked.waits_until = now + SETTLE_SECONDS
                return False
            original = None  # damaged: read what can be read
        if original is not None:
            self.counts["copies_followed"] += 1
            state.position, state.header = original.position, original.header
        return True

    def _close_surplus(self) -> None:
        """Keep no more than OPEN_FILES open: the ones that grew last. A deleted file stays open."""
        held = [t for t in self._tracked.values() if t.stream is not None and not t.state.gone]
        surplus = len(held) - OPEN_FILES
        if surplus > 0:
            for tracked in sorted(held, key=lambda t: t.grown)[:surplus]:
                tracked.close()


class _Waker(FileSystemEventHandler):
    """Passes on the paths of changed files, and nothing else (our own reading is an event too)."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Called by watchdog's thread."""
        if event.event_type in _WATCHED and not event.is_directory:
            self._note(os.fsdecode(event.src_path))
            if event.event_type == "moved":
                self._note(os.fsdecode(event.dest_path))
