"""First step of the line: syslog from the network, over TCP, UDP or RELP.

Two processes: the receiver (a child, see `receiver`) reads the network and writes the spool; the
line reads the spool here. A line that is slow, restarted or killed costs no message that was
received, and what a peer sends is not read in the process that judges it. What was read is deleted
from the spool when the store has it.
"""

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from appliance import child_environment
from appliance.errors import SourceError
from appliance.schema import Checkpoint, Cursor, RawRecord, Rejected, SourceBatch, digest
from appliance.sources.listening import (
    COUNTS,
    WROTE,
    ReceiverFacts,
    ReceiverSettings,
    Transport,
    parse_listen_address,
    parse_networks,
)
from appliance.sources.spool import Block, Damage, Piece, Place, SpoolReader
from appliance.sources.streams import StreamLimits

#: Seconds until a receiver that died is started again: doubled each time, from the first on when
#: one lived for `STEADY_SECONDS`.
FIRST_PAUSE: Final = 0.2
LAST_PAUSE: Final = 30.0
STEADY_SECONDS: Final = 10.0
#: Seconds that a receiver may take to end when it is told to.
END_SECONDS: Final = 8.0
#: Bytes of records given at a time.
BATCH_BYTES: Final = 8 << 20

#: The one checkpoint of a spool.
_KEY: Final = "spool"
_LINE_BYTES: Final = 1 << 16
#: No dot: a name that is told by its digest has one.
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")


def spool_folder(state_dir: Path, source: str) -> Path:
    """Where a source's spool lies. A name that is no plain file name is told by its digest: it may
    hold slashes, or be longer than a file's name may be."""
    if _PLAIN_NAME.fullmatch(source):
        return state_dir / "spool" / source
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", source)[:40]
    return state_dir / "spool" / f"{readable}.{digest(source)}"


class SyslogListenSource:
    """Listens on one address, and gives what came.

    `poll` gives records; when what they led to is stored, `commit` is called, else `rewind`, and
    the same records come again. One thread calls all of these; `wake` is called from another.
    `folder` is the spool's own folder; `spool_bytes` may lie in it; `allow` are networks that may
    send, none for everybody; `pauses` are the first and the last pause in seconds before a
    receiver is started again. Raises ValueError when address or networks make no sense.
    """

    def __init__(
        self,
        name: str,
        *,
        transport: Transport,
        address: str,
        folder: Path,
        clock: Callable[[], float],
        checkpoints: Iterable[Checkpoint] = (),
        format: str = "auto",  # noqa: A002 - the configuration's word
        limits: StreamLimits | None = None,
        spool_bytes: int = 1 << 30,
        allow: Sequence[str] = (),
        max_connections: int = 1000,
        idle_seconds: float = 86400.0,
        receive_buffer: int = 16 << 20,
        sync_seconds: float = 0.2,
        pauses: tuple[float, float] = (FIRST_PAUSE, LAST_PAUSE),
    ) -> None:
        parse_listen_address(address)
        parse_networks(allow)
        self.name = name
        self._clock = clock
        self._format = format
        self._limits = limits = limits or StreamLimits()
        place = Place()
        for checkpoint in checkpoints:
            if checkpoint.key == _KEY and checkpoint.state:
                place = msgspec.json.decode(checkpoint.state, type=Place)
        self._reader = SpoolReader(folder, place)
        self._committed = place
        self._read_error = ""
        self._damaged = 0
        self._settings = ReceiverSettings(
            transport=transport,
            address=address,
            folder=str(folder),
            first=1,
            cap=spool_bytes,
            record_bytes=limits.record_bytes,
            keep_bytes=limits.rejected_bytes,
            allow=tuple(allow),
            max_connections=max_connections,
            idle_seconds=idle_seconds,
            receive_buffer=receive_buffer,
            sync_seconds=sync_seconds,
        )
        self._receiver = _Supervisor(pauses)

    def start(self, wake: Callable[[], None]) -> None:
        """Start the receiver; `wake` is called (from another thread) when it has written."""
        self._receiver.start(self._current_settings, wake)

    def close(self) -> None:
        """End the receiver, which first takes what is in the sockets, and close the spool."""
        self._receiver.close()
        self._reader.close()

    def poll(self, limit: int, data: int = BATCH_BYTES) -> SourceBatch:
        """About `limit` records of about `data` bytes at the most, in the order in which they were
        written. Never raises for what was sent or what the spool's files hold."""
        batch = SourceBatch([], [], [])
        try:
            pieces = self._reader.read(limit, data)
            self._read_error = ""
        except SourceError as error:
            self._read_error = str(error)
            return batch
        for piece in pieces:
            if isinstance(piece.found, Damage):
                batch.rejected.append(self._reject_damage(piece.segment, piece.found))
            else:
                self._give_block(piece, piece.found, batch)
        if self._reader.place != self._committed:
            state = msgspec.json.encode(self._reader.place)
            batch.checkpoints.append(Checkpoint(self.name, _KEY, state))
        return batch

    def commit(self) -> None:
        """What the last poll gave is stored: it is deleted with its segment."""
        self._reader.commit()
        self._committed = self._reader.place

    def rewind(self) -> None:
        """What was polled since the last commit was not stored: give it again."""
        self._reader.rewind()

    @property
    def has_more(self) -> bool:
        """True when the last poll left records behind because of its limits."""
        return self._reader.more

    @property
    def dropped(self) -> int:
        """Datagrams that the kernel or a full spool dropped, since the start of this process."""
        return self._receiver.tell()[0].dropped

    def describe(self) -> dict[str, Any]:
        """Facts for `status`. `received` and the other counts are since the start of this process;
        those of a receiver that died count up to its last word, at most a second before."""
        settings = self._settings
        facts, pid, restarts, fault = self._receiver.tell()
        try:
            used, behind = self._reader.measure()
        except OSError as error:
            used = behind = 0
            fault = fault or f"spool can't be read: {error.strerror or error}"
        return {
            "type": "syslog",
            "transport": settings.transport,
            "address": settings.address,
            "bound": facts.bound,
            "listening": facts.listening,
            "error": fault or facts.error or self._read_error,
            "connections": facts.connections,
            "accepted": facts.accepted,
            "received": facts.received,
            "received_bytes": facts.bytes,
            "dropped": facts.dropped,
            "refused": facts.refused,
            "cut": facts.cut,
            "broken": facts.broken,
            "torn_blocks": facts.torn,
            "damaged_blocks": self._damaged,
            "receive_buffer": facts.receive_buffer,
            "spool_bytes": used,
            "spool_cap": settings.cap,
            "bytes_behind": behind,
            "pid": pid,
            "restarts": restarts,
        }

    def _current_settings(self) -> ReceiverSettings:
        """Also in an emptied spool a receiver must not use the numbers of segments that were read
        again."""
        first = self._reader.place.segment + 1
        return msgspec.structs.replace(self._settings, first=first, parent=os.getpid())

    def _give_block(self, piece: Piece, block: Block, batch: SourceBatch) -> None:
        """A block's records. The place of a record's first byte names it."""
        source, path, format_ = self.name, f"syslog {block.peer}", self._format
        logical, received, cut = self._name_segment(piece.segment), block.received, block.cut
        position = block.begin + sum(map(len, block.records[: piece.start]))
        for index in range(piece.start, piece.until):
            data = block.records[index]
            after = position + len(data)
            cursor = Cursor(source, _KEY, position, after)
            full = cut.get(index, 0)
            record = RawRecord(data, source, path, logical, cursor, received, format_, full)
            position = after
            if full:
                batch.rejected.append(Rejected(record, "source", self._explain_cut(full)))
            else:
                batch.records.append(record)

    def _explain_cut(self, length: int) -> str:
        cap = self._limits.record_bytes
        if length > cap:
            return f"record of {length} bytes is longer than the cap of {cap}"
        return f"record of {length} bytes or more was cut: too many unfinished ones at a time"

    def _name_segment(self, number: int) -> str:
        return f"{self.name}/{number}"

    def _reject_damage(self, number: int, damage: Damage) -> Rejected:
        self._damaged += 1
        cursor = Cursor(self.name, _KEY, damage.offset, damage.end)
        length = damage.end - damage.offset
        record = RawRecord(
            data=damage.head,
            source=self.name,
            path=f"syslog {self._settings.transport}",
            logical=self._name_segment(number),
            cursor=cursor,
            received=self._clock(),
            format=self._format,
            truncated=length if length > len(damage.head) else 0,
        )
        reason = f"spool segment {number} is damaged: {length} bytes at {damage.offset} are lost"
        return Rejected(record, "source", reason)


class _Supervisor:
    """Keeps one receiver process running, in a thread that lives as long: the kernel ends the
    child with the thread that started it."""

    def __init__(self, pauses: tuple[float, float]) -> None:
        self._pauses = pauses
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._facts = ReceiverFacts()
        self._before = ReceiverFacts()  # counts of the processes before
        self._started = 0
        self._fault = ""
        self._decoder = msgspec.json.Decoder(ReceiverFacts)

    def start(self, settings: Callable[[], ReceiverSettings], wake: Callable[[], None]) -> None:
        """Start the thread; `settings` is asked at each start of a receiver. Does nothing when
        started."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._keep_running, args=(settings, wake), name="receiver", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """Tell the receiver to end; kill it when it does not."""
        self._closing.set()
        with self._lock:
            process = self._process
        if process is not None:
            process.terminate()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        if self._thread is not None:
            self._thread.join(END_SECONDS)

    def tell(self) -> tuple[ReceiverFacts, int | None, int, str]:
        """Facts with counts of all processes, the process id, restarts, and why none runs."""
        with self._lock:
            facts = msgspec.structs.replace(self._facts)
            for count in COUNTS:
                setattr(facts, count, getattr(facts, count) + getattr(self._before, count))
            pid = self._process.pid if self._process is not None else None
            return facts, pid, max(0, self._started - 1), self._fault

    def _keep_running(
        self, settings: Callable[[], ReceiverSettings], wake: Callable[[], None]
    ) -> None:
        first, last = self._pauses
        pause = first
        while not self._closing.is_set():
            began = time.monotonic()
            try:
                process = self._spawn(settings())
            except OSError as error:
                reason = f"the receiver can't be started: {error.strerror or error}"
            else:
                if process is None:
                    return
                self._follow(process, wake)
                code = process.wait()
                for stream in (process.stdin, process.stdout):
                    if stream is not None:
                        with contextlib.suppress(OSError):
                            stream.close()
                reason = f"the receiver ended ({describe_end(code)})"
            if time.monotonic() - began >= STEADY_SECONDS:
                pause = first
            self._note_end(f"{reason}; it is started again in {pause:g} s")
            self._closing.wait(pause)
            pause = min(2 * pause, last)

    def _spawn(self, settings: ReceiverSettings) -> subprocess.Popen[bytes] | None:
        """A new receiver; None when the end came between. Raises OSError."""
        with self._lock:
            if self._closing.is_set():
                return None
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "appliance.sources.receiver"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                close_fds=True,
                start_new_session=True,
                env=child_environment(),
            )
            self._process = process
            self._started += 1
        if process.stdin is not None:
            with contextlib.suppress(OSError):  # it died already: its end is noticed
                process.stdin.write(msgspec.json.encode(settings) + b"\n")
                process.stdin.flush()
        return process

    def _follow(self, process: subprocess.Popen[bytes], wake: Callable[[], None]) -> None:
        """Take what the receiver says until it ends."""
        stream: IO[bytes] | None = process.stdout
        if stream is None:
            return
        while line := stream.readline(_LINE_BYTES):
            if line == WROTE:
                wake()
                continue
            try:
                facts = self._decoder.decode(line)
            except msgspec.DecodeError:
                continue  # cut off by its death
            with self._lock:
                self._facts = facts
                self._fault = ""

    def _note_end(self, reason: str) -> None:
        with self._lock:
            for count in COUNTS:
                value = getattr(self._before, count) + getattr(self._facts, count)
                setattr(self._before, count, value)
            self._facts = ReceiverFacts()
            self._process = None
            self._fault = "" if self._closing.is_set() else reason


def describe_end(code: int) -> str:
    """A process's end in words: Popen's return code."""
    return f"killed by signal {-code}" if code < 0 else f"exit status {code}"
