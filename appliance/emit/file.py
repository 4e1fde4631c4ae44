"""On the way out, at its end: a file of JSON lines in which every message stands exactly once.

Appending to a file and committing the position are two steps, and a crash may come between them.
The position therefore says how long the file was and which file it was (device and inode). What
lies behind that length on the next delivery was never committed: it is cut off and written again.

Where the committed position can't tell (a new file, one that the operator put there, one that
somebody shortened), a small note beside the file, `.NAME.pending`, says before the append where
it begins and with which message. It is gone after the next delivery that does not need it.

The appliance owns what it wrote and nothing else: what was in a foreign file stays.
"""

import contextlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from appliance.emit.render import to_json_line
from appliance.emit.sink import ALL_KINDS, DeliveryFailed, SinkState
from appliance.schema import Message, MessageKind, OnStep, SinkPosition, ignore_step

#: Owner writes, group reads: findings quote logs, which not everybody may read.
FILE_MODE: Final = 0o640
#: Longest note that is read back, in bytes.
MAX_NOTE: Final = 4096


class PendingNote(msgspec.Struct, frozen=True):
    """Where an append began: in which file, at which length, with which outbox row."""

    identity: str
    length: int
    seq: int


class FileSink:
    """JSON lines (RFC 8259 objects, one a line, UTF-8) appended to the file at `path`.

    Raises ValueError for a path that is none. `on_step` is told `file.note.after` (only where a
    note is needed), `file.append.before`, `file.append.after`, `file.fsync.after`.
    """

    def __init__(
        self,
        name: str,
        path: str,
        kinds: frozenset[MessageKind] = ALL_KINDS,
        on_step: OnStep = ignore_step,
    ) -> None:
        if not path or "\0" in path:
            raise ValueError(f"{path!r} is no path")
        self.name = name
        self.kinds = kinds
        self._path = Path(path)
        self._note_path = self._path.with_name(f".{self._path.name}.pending")
        self._on_step = on_step
        self._file: int | None = None
        self._sent = self._skipped = self._failures = 0
        self._recovered = self._replaced = self._shortened = 0
        self._last_error = ""

    def deliver(self, messages: Sequence[Message], position: SinkPosition) -> SinkPosition:
        """Append the messages behind `position` and fsync; see `Sink.deliver`.

        All or none: after DeliveryFailed (directory missing, disk full, read-only, not a regular
        file) the position is the one given, and the file is as long as it was.
        """
        behind = [message for message in messages if message.seq > position.seq]
        wanted = [message for message in behind if message.kind in self.kinds]
        reached = position
        try:
            if wanted:
                reached = self._append(wanted, position)
        except OSError as error:
            self.close()
            self._failures += 1
            self._last_error = f"{self._path}: {error.strerror or error}"
            raise DeliveryFailed(self._last_error, position) from error
        self._sent += len(wanted)
        self._skipped += len(behind) - len(wanted)
        self._last_error = ""
        return msgspec.structs.replace(reached, seq=behind[-1].seq) if behind else position

    def _append(self, messages: Sequence[Message], position: SinkPosition) -> SinkPosition:
        file = self._open()
        status = os.fstat(file)
        identity = _identify(status)
        base = self._find_base(file, status, position, messages[0].seq)
        if status.st_size > base:
            os.ftruncate(file, base)
            self._recovered += 1
        if (identity, base) != (position.identity, position.length):
            self._write_note(PendingNote(identity, base, messages[0].seq))
            self._on_step("file.note.after")
        lines = b"".join(to_json_line(message.body) + b"\n" for message in messages)
        payload = lines if _ends_line(file, base) else b"\n" + lines
        self._on_step("file.append.before")
        self._write_at(file, payload, base)
        self._on_step("file.append.after")
        os.fsync(file)
        self._on_step("file.fsync.after")
        return SinkPosition(messages[-1].seq, base + len(payload), identity)

    def _find_base(
        self, file: int, status: os.stat_result, position: SinkPosition, first: int
    ) -> int:
        """The length at which the committed part of the file ends."""
        identity, size = _identify(status), status.st_size
        note = self._read_note()
        if note is not None:
            if (note.identity, note.seq) == (identity, first) and 0 <= note.length <= size:
                return note.length
            self._note_path.unlink(missing_ok=True)
        if identity == position.identity:
            # Inodes are used again: a file that has no line end there is not the one we left.
            if size >= position.length and _ends_line(file, position.length):
                return position.length
            self._shortened += 1
        elif position.identity:
            self._replaced += 1
        return size

    def _write_at(self, file: int, payload: bytes, base: int) -> None:
        """Write all of it or leave the file as long as it was."""
        written = 0
        view = memoryview(payload)
        try:
            while written < len(view):
                written += os.pwrite(file, view[written:], base + written)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(file, base)
                self._note_path.unlink(missing_ok=True)
            raise

    def _open(self) -> int:
        """The open file; anew when another stands at the path now (log rotation)."""
        if self._file is not None and not self._is_at_path(self._file):
            self.close()
        if self._file is None:
            self._file = self._open_path()
        return self._file

    def _is_at_path(self, file: int) -> bool:
        try:
            return _identify(self._path.stat()) == _identify(os.fstat(file))
        except FileNotFoundError:
            return False

    def _open_path(self) -> int:
        # Non-blocking: a pipe or device at the path is refused below and must not hang before.
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        try:
            file = os.open(self._path, flags | os.O_CREAT | os.O_EXCL, FILE_MODE)
            created = True
        except FileExistsError:
            file = os.open(self._path, flags)
            created = False
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise OSError("not a regular file")
            if created:
                os.fchmod(file, FILE_MODE)
                self._sync_folder()
        except OSError:
            os.close(file)
            raise
        return file

    def _sync_folder(self) -> None:
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _write_note(self, note: PendingNote) -> None:
        temporary = self._note_path.with_name(f"{self._note_path.name}.new")
        file = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            os.write(file, msgspec.json.encode(note))
            os.fsync(file)
        finally:
            os.close(file)
        temporary.replace(self._note_path)
        self._sync_folder()

    def _read_note(self) -> PendingNote | None:
        """The note, if there is one that can be understood. Raises OSError."""
        try:
            file = os.open(self._note_path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        try:
            return msgspec.json.decode(os.read(file, MAX_NOTE), type=PendingNote)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        finally:
            os.close(file)

    def state(self) -> SinkState:
        """See `Sink.state`. Counters: `recovered` uncommitted ends cut off, `replaced` times that
        another file stood at the path, `shortened` times that the file had been cut by others."""
        return SinkState(
            name=self.name,
            type="file",
            target=str(self._path),
            acknowledged=True,
            connected=self._file is not None,
            sent=self._sent,
            skipped=self._skipped,
            failures=self._failures,
            last_error=self._last_error,
            counters={
                "recovered": self._recovered,
                "replaced": self._replaced,
                "shortened": self._shortened,
            },
        )

    def close(self) -> None:
        """See `Sink.close`."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = None


def _identify(status: os.stat_result) -> str:
    """`device:inode`, as `SinkPosition.identity` has it."""
    return f"{status.st_dev}:{status.st_ino}"


def _ends_line(file: int, length: int) -> bool:
    """Whether a line may begin at this length."""
    return length == 0 or os.pread(file, 1, length - 1) == b"\n"
