"""First step of the line: files and globs, followed while they grow, are rotated and come anew.

A file is known by device, inode and a fingerprint of its first bytes, so that a renamed file goes
on where it was and a new file under an old name starts at its beginning. inotify (watchdog) only
wakes the line: it drops events silently when its queue overflows, so a periodic rescan finds
whatever it missed. Nothing here is durable: checkpoints are, in the store's transaction.
"""

import glob
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from appliance.errors import SourceError
from appliance.schema import Checkpoint, Cursor, RawRecord, Rejected, SourceBatch
from appliance.sources.streams import Stream, StreamLimits, StreamName, open_stream

#: First bytes that tell a file from another that got its inode.
FINGERPRINT_BYTES = 256

#: A renamed file is read on this long after its last growth: its writer may not have noticed yet.
ROTATED_GRACE_SECONDS = 30.0

#: EVTX and gzip are read only when nobody has written to them for this long.
SETTLE_SECONDS = 1.0

#: Files held open at a time; others are opened again when they grow.
OPEN_FILES = 256

#: Key of the checkpoint that says that the source has been read before. No file's key is it.
_BEGUN = "#begun"

_WATCHED = frozenset({"modified", "created", "moved", "deleted", "closed"})


class StreamState(msgspec.Struct):
    """What a checkpoint holds of one file. `size` is the file's size when it was read to its end
    for good (EVTX, gzip, a renamed or deleted file), else -1; `refused` says that it is no log;
    `gone` that it was deleted, and only keeps its generation from being given again."""

    logical: str
    generation: int
    path: str
    device: int
    inode: int
    fingerprint: str
    fingerprinted: int
    position: int
    size: int = -1
    refused: bool = False
    gone: bool = False


class _Tracked:
    """One file of a source: its state as read, its state as committed, and the open stream."""

    def __init__(self, state: StreamState) -> None:
        self.state = state
        self.committed = msgspec.structs.replace(state)
        self.stream: Stream | None = None
        self.grown = 0.0
        self.waits_until = 0.0
        self.has_more = False

    @property
    def key(self) -> str:
        """The stream's name in ids and checkpoints; one to one also for names that are no UTF-8."""
        name = self.state.logical.replace("\\", "\\\\")
        name = os.fsencode(name).decode("utf-8", "backslashreplace")
        return f"{name}#{self.state.generation}"

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()
            self.stream = None


def take_fingerprint(file: Path, length: int) -> tuple[str, int]:
    """Digest of the first `length` bytes (fewer when the file is shorter), and how many."""
    with file.open("rb") as handle:
        head = handle.read(length)
    return hashlib.blake2b(head, digest_size=16).hexdigest(), len(head)


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
        start_at: str = "beginning",
        limits: StreamLimits | None = None,
        files_cap: int = 10_000,
        rescan_seconds: float = 5.0,
    ) -> None:
        self.name = name
        self._patterns = tuple(patterns)
        self._clock = clock
        self._format = format
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
        self._watched: set[str] = set()
        self._lock = threading.Lock()
        self._dirty: set[str] = set()
        self.counts = {"files_over_cap": 0, "truncated_files": 0, "vanished_files": 0}
        self.watching = False
        self._begun = False
        for checkpoint in checkpoints:
            if checkpoint.key == _BEGUN:
                self._begun = True
                continue
            tracked = _Tracked(msgspec.convert(json.loads(checkpoint.state), StreamState))
            self._tracked[tracked.key] = tracked
        # "end" is for what lay there before the appliance first came; later files are read whole,
        # also those that came while it was down.
        self._skip_present = start_at == "end" and not self._begun

    def start(self, wake: Callable[[], None]) -> None:
        """Begin watching; `wake` is called (from another thread) when something changed."""
        self._wake = wake
        observer = Observer()
        observer.daemon = True
        try:
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

    def poll(self, limit: int) -> SourceBatch:
        """About `limit` new records at the most, in order within each file. Never raises for what
        the files are or contain."""
        now = self._clock()
        self._look(now)
        batch = SourceBatch([], [], [])
        for key, tracked in list(self._active.items()):
            if len(batch.records) >= limit:
                break
            if tracked.waits_until > now:
                continue
            del self._active[key]
            if self._read(tracked, limit - len(batch.records), now, batch):
                # Behind the others next time, so that one busy file can't starve the rest.
                self._active[key] = tracked
        self._close_surplus()
        batch.rejected.extend(self._notices)
        self._notices.clear()
        batch.checkpoints.extend(
            Checkpoint(self.name, key, _encode_state(tracked.state))
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
        self._begun = True
        self._moved.clear()
        self._forgotten.clear()

    def rewind(self) -> None:
        """What was polled since the last commit was not stored: give it again."""
        for tracked in self._moved.values():
            position, size = tracked.committed.position, tracked.committed.size
            tracked.state.position, tracked.state.size = position, size
            if tracked.stream is not None:
                tracked.stream.rewind(position)
            self._active[tracked.key] = tracked

    @property
    def has_more(self) -> bool:
        """True when the last poll left readable records behind because of its limit."""
        return any(tracked.has_more for tracked in self._active.values())

    def describe(self) -> dict[str, Any]:
        """Facts for `status`: files followed, bytes behind, bytes of unfinished records."""
        behind = pending = 0
        for tracked in list(self._tracked.values()):  # asked from another thread
            if tracked.stream is not None:
                pending += tracked.stream.pending
            if tracked.key in self._active and tracked.state.size < 0:
                try:
                    size = Path(tracked.state.path).stat().st_size
                except OSError:
                    continue
                behind += max(0, size - tracked.state.position)
        return {
            "files": len(self._tracked),
            "bytes_behind": behind,
            "bytes_unfinished": pending,
            "watching": self.watching,
            "unreadable_files": len(self._unreadable),
            **self.counts,
        }

    # -- looking for files -------------------------------------------------------------------

    def _look(self, now: float) -> None:
        with self._lock:
            dirty, self._dirty = self._dirty, set()
        by_path = {t.state.path: t for t in self._tracked.values() if dirty and not t.state.gone}
        for path in dirty:
            tracked = by_path.get(path)
            if tracked is None or not self._is_same(tracked, path):
                self._next_scan = 0.0
            else:
                self._active[tracked.key] = tracked
        if now >= self._next_scan:
            self._next_scan = now + self._rescan_seconds
            self._rescan(now)

    def _rescan(self, now: float) -> None:
        self._follow_known(now)
        known = {
            (t.state.device, t.state.inode): t for t in self._tracked.values() if not t.state.gone
        }
        for path in self._list_paths():
            self._watch(str(Path(path).parent))
            try:
                status = Path(path).stat()
            except OSError:
                continue
            tracked = known.get((status.st_dev, status.st_ino))
            if tracked is not None and self._is_same(tracked, path):
                tracked.state.path = path
            elif len(self._tracked) >= self._files_cap:
                self.counts["files_over_cap"] += 1
            else:
                self._begin(path, status)
        self._skip_present = False

    def _list_paths(self) -> list[str]:
        """Regular files that the patterns name now; a folder stands for all files below it."""
        found: dict[str, None] = {}
        for pattern in self._patterns:
            if Path(pattern).is_dir():
                names = glob.glob(f"{glob.escape(pattern)}/**/*", recursive=True)
                self._watch(pattern)
            else:
                names = glob.glob(pattern, recursive=True)
                self._watch(_static_folder(pattern))
            found.update((name, None) for name in sorted(names) if Path(name).is_file())
        return list(found)

    def _watch(self, folder: str) -> None:
        if self._observer is None or folder in self._watched or not Path(folder).is_dir():
            return
        if len(self._watched) >= self._files_cap:
            return
        try:
            self._observer.schedule(_Waker(self._note), folder, recursive=False)
        except OSError:  # inotify watches used up: the rescan finds what comes there
            self.watching = False
            return
        self._watched.add(folder)

    def _note(self, path: str) -> None:
        with self._lock:
            if len(self._dirty) < self._files_cap:
                self._dirty.add(path)
        self._wake()

    def _follow_known(self, now: float) -> None:
        """Find known files that were renamed, cut in place, grew or went away."""
        for tracked in list(self._tracked.values()):
            state = tracked.state
            if state.gone:
                continue
            path = state.path if self._is_same(tracked, state.path) else self._find_renamed(tracked)
            if path is None:
                self._mark_gone(tracked)
                continue
            if path != state.path:
                state.path = path
                tracked.grown = now
                self._moved[tracked.key] = tracked
                self._active[tracked.key] = tracked
            self._check_size(tracked)

    def _check_size(self, tracked: _Tracked) -> None:
        state = tracked.state
        try:
            size = Path(state.path).stat().st_size
        except OSError:
            return
        if state.size < 0 and size < state.position and not state.refused:
            self._restart(tracked)
        elif size != (state.size if state.size >= 0 else state.position) and not state.refused:
            self._active[tracked.key] = tracked

    def _is_same(self, tracked: _Tracked, path: str) -> bool:
        """True when the file at `path` is the tracked one: same inode, same first bytes."""
        state = tracked.state
        try:
            status = Path(path).stat()
            if (status.st_dev, status.st_ino) != (state.device, state.inode):
                return False
            if not state.fingerprinted or status.st_size < state.fingerprinted:
                return True  # cut to nothing in place: `_restart` decides
            return take_fingerprint(Path(path), state.fingerprinted)[0] == state.fingerprint
        except OSError:
            return False

    def _find_renamed(self, tracked: _Tracked) -> str | None:
        """The tracked file under another name in its folder."""
        folder = Path(tracked.state.path).parent
        try:
            for entry in os.scandir(folder):
                if entry.inode() == tracked.state.inode and self._is_same(tracked, entry.path):
                    return entry.path
        except OSError:
            return None
        return None

    def _begin(self, path: str, status: os.stat_result) -> None:
        """Follow a file not seen before."""
        logical = path
        same = [t.state.generation for t in self._tracked.values() if t.state.logical == logical]
        try:
            fingerprint, length = take_fingerprint(Path(path), FINGERPRINT_BYTES)
            position = _end_of_lines(Path(path)) if self._skip_present else 0
        except OSError as error:
            self._say(path, f"cannot be read: {error.strerror or error}")
            return
        state = StreamState(
            logical, max(same, default=-1) + 1, path, status.st_dev, status.st_ino,
            fingerprint, length, position,
        )  # fmt: skip
        tracked = _Tracked(state)
        self._tracked[tracked.key] = tracked
        self._moved[tracked.key] = tracked
        self._active[tracked.key] = tracked

    def _say(self, path: str, reason: str) -> None:
        """List a file that can't be read: once, until the reason is another."""
        if self._unreadable.get(path) == reason:
            return
        if len(self._unreadable) < self._files_cap:
            self._unreadable[path] = reason
        name = StreamName(self.name, path, path, path)
        cursor = Cursor(name.source, path, 0, 0)
        record = RawRecord(b"", name.source, path, path, cursor, self._clock(), self._format)
        self._notices.append(Rejected(record, "source", reason))

    def _restart(self, tracked: _Tracked) -> None:
        """The file was cut in place: what it holds now is a new stream under the same name."""
        self.counts["truncated_files"] += 1
        path = tracked.state.path
        self._mark_gone(tracked)
        tracked.close()
        try:
            self._begin(path, Path(path).stat())
        except OSError:
            return

    def _mark_gone(self, tracked: _Tracked) -> None:
        """The file was deleted: what its open handle still has is read, then it is only a marker
        of its generation."""
        if tracked.stream is None and tracked.state.size < 0:
            self.counts["vanished_files"] += 1
        tracked.state.gone = True
        self._moved[tracked.key] = tracked
        self._active[tracked.key] = tracked

    def _forget_older(self, logical: str) -> None:
        """One marker a name is enough: the one with the highest generation."""
        gone = [t for t in self._tracked.values() if t.state.logical == logical and t.state.gone]
        newest = max(
            (t.state.generation for t in self._tracked.values() if t.state.logical == logical),
            default=0,
        )
        for tracked in gone:
            if tracked.state.generation < newest and tracked.stream is None:
                del self._tracked[tracked.key]
                self._active.pop(tracked.key, None)
                self._moved.pop(tracked.key, None)
                self._forgotten.add(tracked.key)

    # -- reading -------------------------------------------------------------------------------

    def _read(self, tracked: _Tracked, limit: int, now: float, batch: SourceBatch) -> bool:
        """Read one file on; True when it is to be looked at again without having grown."""
        state = tracked.state
        tracked.has_more = False
        if not self._open(tracked, now):
            return tracked.waits_until > now
        stream = tracked.stream
        if stream is None:
            return False
        renamed = state.path != state.logical
        final = state.gone or stream.content in ("evtx", "gzip") or stream.packed
        final = final or (renamed and now - tracked.grown > ROTATED_GRACE_SECONDS)
        got = stream.read(limit, now, final=final)
        batch.records.extend(got.records)
        batch.rejected.extend(got.rejected)
        if got.records or got.rejected or stream.ended:
            tracked.grown = now
            state.position = stream.position
            state.refused = state.refused or stream.refused
            self._extend_fingerprint(tracked, stream)
            self._moved[tracked.key] = tracked
        if stream.ended:
            state.size = os.fstat(stream.fileno()).st_size
            tracked.close()
            if state.gone:
                self._forget_older(state.logical)
            return False
        tracked.has_more = len(got.records) >= limit
        return tracked.has_more or renamed or state.gone

    def _open(self, tracked: _Tracked, now: float) -> bool:
        """Open the file at its position; False when it can't be read now."""
        state = tracked.state
        if tracked.stream is not None:
            return True
        if state.gone or state.refused:
            return False
        name = StreamName(self.name, tracked.key, tracked.key, state.path, self._format)
        try:
            stream = open_stream(name, self._limits, state.position)
        except SourceError as error:
            self._say(state.path, str(error))
            return False
        status = os.fstat(stream.fileno())
        if (status.st_dev, status.st_ino) != (state.device, state.inode):
            stream.close()  # renamed between the look and the opening
            self._next_scan = 0.0
            return False
        if stream.packed and now - SETTLE_SECONDS < status.st_mtime <= now:
            stream.close()
            tracked.waits_until = status.st_mtime + SETTLE_SECONDS
            return False
        self._unreadable.pop(state.path, None)
        state.size = -1
        tracked.stream = stream
        return True

    def _extend_fingerprint(self, tracked: _Tracked, stream: Stream) -> None:
        if tracked.state.fingerprinted < FINGERPRINT_BYTES:
            head = os.pread(stream.fileno(), FINGERPRINT_BYTES, 0)
            tracked.state.fingerprint = hashlib.blake2b(head, digest_size=16).hexdigest()
            tracked.state.fingerprinted = len(head)

    def _close_surplus(self) -> None:
        """Keep no more than OPEN_FILES open: the ones that grew last. A deleted file stays open."""
        held = [t for t in self._tracked.values() if t.stream is not None and not t.state.gone]
        surplus = len(held) - OPEN_FILES
        if surplus > 0:
            for tracked in sorted(held, key=lambda t: t.grown)[:surplus]:
                tracked.close()


def _encode_state(state: StreamState) -> bytes:
    """As JSON in ASCII: a file's name may hold bytes that are no UTF-8 (as lone surrogates)."""
    return json.dumps(msgspec.to_builtins(state)).encode("ascii")


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


def _static_folder(pattern: str) -> str:
    """The deepest folder of a pattern that holds no wildcard."""
    folder = Path(pattern).parent
    while glob.has_magic(str(folder)):
        folder = folder.parent
    return str(folder)


def _end_of_lines(path: Path) -> int:
    """Offset behind the last newline: where a file that is not to be read from its beginning is
    taken up."""
    with path.open("rb") as handle:
        size = handle.seek(0, os.SEEK_END)
        start = max(0, size - (1 << 16))
        handle.seek(start)
        tail = handle.read()
    return start + tail.rfind(b"\n") + 1 if b"\n" in tail else size
