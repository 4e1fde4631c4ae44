"""The stateless half of the line over some of the sources: in this process, or in one of its own.

A shard gives the Work of one batch at a time, and gives it again after `rewind`. A worker process
that dies is started again from what is stored, so that its uncommitted batch is done anew.
"""

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import IO, Any, Protocol, runtime_checkable

import msgspec

from appliance import child_environment
from appliance.config import Config, Limits, dump_config
from appliance.detect.sentinel.cache import key_text
from appliance.detect.sigma.engine import SigmaDetector
from appliance.errors import StoreError
from appliance.pipeline import Reader, Work, read_records
from appliance.schema import Checkpoint, SourceBatch
from appliance.sources.journal import Own
from appliance.worker_frames import (
    Begin,
    Committed,
    Did,
    Facts,
    Failed,
    FromWorker,
    Rewound,
    read_frame,
    write_frame,
)

#: Seconds before a worker that died is started again: doubled with each death in a row.
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
#: One that lived for so long before is started again at once.
STEADY_SECONDS = 60.0
#: A worker speaks twice a second, but not while it reads a batch: one that has nothing to wait for
#: and says nothing for so long hangs.
HUNG_SECONDS = 60.0
CLOSE_SECONDS = 5.0
#: Texts of a worker's candidates of which it is still to be told whether they are ordinary; of
#: those over it the worker sends the events again.
MOST_ASKED_TEXTS = 10_000

#: Told keys of texts with their kinds, gives those that the sentinel found ordinary.
FindQuiet = Callable[[Mapping[bytes, str]], list[bytes]]


class Source(Protocol):
    """Where records come from. One thread calls all of it but `describe`."""

    name: str

    def start(self, wake: Callable[[], None]) -> None:
        """Begin; `wake` is called, from any thread, when there may be something to poll."""
        ...

    def poll(self, limit: int, data: int) -> SourceBatch:
        """About `limit` new records of about `data` bytes. Raises nothing."""
        ...

    def commit(self) -> None:
        """What was polled is stored."""
        ...

    def rewind(self) -> None:
        """What was polled since the last commit is not stored: it is to be given again."""
        ...

    @property
    def has_more(self) -> bool:
        """True when the last poll left something behind because of its limits."""
        ...

    def describe(self) -> dict[str, Any]:
        """Facts for `status`; also called from another thread."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


@runtime_checkable
class Dropping(Protocol):
    """A source to which records can come faster than it can keep them."""

    @property
    def dropped(self) -> int:
        """Records that were lost so, since this process began."""
        ...


class Shard(Protocol):
    """Some sources with the stateless half of the line. The line's thread calls all of it but
    `describe`."""

    def start(self, wake: Callable[[], None]) -> None:
        """Begin; `wake` is called when there may be something to take."""
        ...

    def take(self) -> Work | None:
        """The work of one batch, when there is some."""
        ...

    def commit(self) -> None:
        """What was taken is stored."""
        ...

    def rewind(self) -> None:
        """What was taken is not stored: it comes again."""
        ...

    @property
    def has_more(self) -> bool:
        """True when more is likely to be there at once."""
        ...

    def describe(self) -> dict[str, Any]:
        """Facts: `sources` by name, `rule_errors` by rule, and `worker` where it is a process."""
        ...

    def begin_close(self) -> None:
        """`close` follows: what takes a while may begin."""
        ...

    def close(self) -> None:
        """Close the sources."""
        ...


class LocalShard:
    """Sources read by this process. `running` maps the names of those that run already to what
    they had `dropped` when that was stored last."""

    def __init__(
        self,
        sources: Sequence[Source],
        reader: Reader,
        limits: Limits,
        *,
        running: Mapping[str, int] | None = None,
    ) -> None:
        self.sources = list(sources)
        self._reader = reader
        self._limits = limits
        self._running = frozenset(running or ())
        self._first = 0  # the source that is asked first
        self.dropped: dict[str, int] = dict(running or {})  # of each source, as stored
        self._dropping = self.dropped  # as taken

    def start(self, wake: Callable[[], None]) -> None:
        """Start the sources."""
        for source in self.sources:
            if source.name not in self._running:
                source.start(wake)

    def take(self) -> Work | None:
        """Poll the sources and put what they have through decode to detect."""
        batches = self._poll()
        self._dropping = {s.name: s.dropped for s in self.sources if isinstance(s, Dropping)}
        lost = {
            name: count - self.dropped.get(name, 0)
            for name, count in self._dropping.items()
            if count > self.dropped.get(name, 0)
        }
        if not lost and not any(b.records or b.rejected or b.checkpoints for b in batches):
            return None
        work = read_records(batches, self._reader)
        for name, count in lost.items():
            work.counts.setdefault(f"source:{name}", {})["dropped"] = count
        return work

    def commit(self) -> None:
        """What was taken is stored."""
        self.dropped = self._dropping
        if self._reader.archive is not None:
            self._reader.archive.commit()
        for source in self.sources:
            source.commit()

    def rewind(self) -> None:
        """What was taken comes again."""
        if self._reader.archive is not None:
            self._reader.archive.rewind()
        for source in self.sources:
            source.rewind()

    @property
    def has_more(self) -> bool:
        """True when a source has more at once."""
        return any(source.has_more for source in self.sources)

    def describe(self) -> dict[str, Any]:
        """Facts for `status`."""
        return {
            "sources": {source.name: source.describe() for source in self.sources},
            "rule_errors": list_rule_errors(self._reader),
            "archive_error": self._reader.archive.error if self._reader.archive is not None else "",
        }

    def begin_close(self) -> None:
        """Nothing: sources close one after another."""

    def close(self) -> None:
        """Close the sources, and the archive's segment."""
        for source in self.sources:
            source.close()
        if self._reader.archive is not None:
            self._reader.archive.close()

    def _poll(self) -> list[SourceBatch]:
        """What the sources have, within one batch's bytes for all of them; the next turn begins
        with another source."""
        left = self._limits.batch_bytes
        batches: list[SourceBatch] = []
        for source in self.sources[self._first :] + self.sources[: self._first]:
            batch = source.poll(self._limits.batch_records, max(left, 0))
            left -= sum(len(record.data) for record in batch.records)
            batches.append(batch)
        self._first = (self._first + 1) % max(len(self.sources), 1)
        return batches


def _no_facts() -> dict[str, Any]:
    return {"sources": {}, "rule_errors": {}, "archive_error": ""}


def list_rule_errors(reader: Reader) -> dict[str, dict[str, Any]]:
    """Rules that failed while they were evaluated: how often, and the last reason."""
    return {
        key: {"count": fault.count, "reason": fault.reason}
        for detector in reader.detectors.values()
        if isinstance(detector, SigmaDetector)
        for key, fault in list(detector.errors.items())
    }


class RemoteShard:
    """Sources read by a worker process, which this supervises. `checkpoints` gives what is stored
    of a source by its name, `find_quiet` what the worker need not send to the sentinel again."""

    def __init__(
        self,
        number: int,
        names: Sequence[str],
        config: Config,
        *,
        checkpoints: Callable[[str], list[Checkpoint]],
        clock: Callable[[], float],
        own: Own,
        find_quiet: FindQuiet | None = None,
    ) -> None:
        self._own = own
        self._find_quiet = find_quiet
        self._asked: dict[bytes, str] = {}
        self._number = number
        self._names = tuple(names)
        self._config = dump_config(config)
        self._checkpoints = checkpoints
        self._clock = clock
        self._wake: Callable[[], None] = lambda: None
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._work: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self._facts = _no_facts()
        self._ended = threading.Event()
        self._taken = False
        self._closed = False
        self._pause = FIRST_PAUSE_SECONDS
        self._again_at = 0.0
        self._spawned_at = 0.0
        self._heard_at = 0.0
        self._deaths = 0
        self._error = ""

    def start(self, wake: Callable[[], None]) -> None:
        """Start the process; where that fails it is tried again, as when it dies."""
        self._wake = wake
        self._try_spawn()

    def take(self) -> Work | None:
        """The work that the process has sent, if any. A process that died is started again."""
        if self._process is None or self._ended.is_set():
            self._tend()
            return None
        try:
            work = self._work.get_nowait()
        except queue.Empty:
            return None
        self._taken = True
        if self._find_quiet is not None:
            for candidate in work.candidates:
                self._asked.update((key_text(text), text.kind) for text in candidate.texts)
        return work

    def commit(self) -> None:
        """Tell the process that its work is stored."""
        self._answer(Committed(self._list_quiet()))
        self._pause = FIRST_PAUSE_SECONDS

    def rewind(self) -> None:
        """Tell the process to do its work again."""
        self._answer(Rewound())

    @property
    def has_more(self) -> bool:
        """True when work has come already."""
        return not self._work.empty()

    def describe(self) -> dict[str, Any]:
        """What the process said last, and how it is."""
        process = self._process
        alive = process is not None and not self._ended.is_set()
        return {
            # What a dead one said last would look like sources that are read.
            **(self._facts if alive else _no_facts()),
            "worker": {
                "number": self._number,
                "sources": list(self._names),
                "pid": process.pid if process is not None and alive else None,
                "restarts": self._deaths,
                "error": self._error or self._find_hang(),
            },
        }

    def begin_close(self) -> None:
        """Ask the process to end, by the end of its input."""
        self._closed = True
        process = self._process
        if process is not None and process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()

    def close(self) -> None:
        """End the process: closing its input asks it to, a signal makes it."""
        self.begin_close()
        self._end()

    def _list_quiet(self) -> tuple[bytes, ...]:
        """What the process asked about that was found ordinary since."""
        if self._find_quiet is None or not self._asked:
            return ()
        quiet = self._find_quiet(self._asked)
        for key in quiet:
            del self._asked[key]
        while len(self._asked) > MOST_ASKED_TEXTS:
            del self._asked[next(iter(self._asked))]
        return tuple(quiet)

    def _find_hang(self) -> str:
        """Why the process is taken to hang, or nothing. One whose work waits here waits itself."""
        now = self._clock()
        if self._taken or not self._work.empty() or now < self._heard_at:
            self._heard_at = now
        quiet = now - self._heard_at
        if quiet < HUNG_SECONDS:
            return ""
        return f"the process has said nothing for {quiet:.0f} s: it hangs"

    def _answer(self, message: Committed | Rewound) -> None:
        if not self._taken:
            return
        self._taken = False
        process = self._process
        if process is not None and process.stdin is not None:
            with suppress(OSError):  # it died: it is started again from what is stored
                write_frame(process.stdin, message)

    def _try_spawn(self) -> None:
        try:
            self._spawn()
        except (OSError, StoreError) as error:
            self._error = f"the process can't be started: {error}"
            self._put_off()

    def _put_off(self) -> None:
        self._again_at = self._clock() + self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)

    def _spawn(self) -> None:
        begin = Begin(
            config=self._config,
            names=self._names,
            checkpoints=[point for name in self._names for point in self._checkpoints(name)],
            own=self._own,
            sentinel=self._find_quiet is not None,
            number=self._number,
        )
        self._work = queue.SimpleQueue()
        self._taken = False
        command = [sys.executable, "-P", "-m", "appliance.worker", "--parent", str(os.getpid())]
        self._process = process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env=child_environment(),
        )
        self._facts = _no_facts()
        self._spawned_at = self._heard_at = self._clock()
        self._ended.clear()
        self._thread = threading.Thread(
            target=self._listen, args=(process, self._work), name=f"worker {self._number}"
        )
        self._thread.daemon = True
        self._thread.start()
        if process.stdin is not None:
            with suppress(OSError):
                write_frame(process.stdin, begin)

    def _tend(self) -> None:
        """The process has ended: start it again when its pause is over."""
        now = self._clock()
        if self._closed:
            return
        if self._process is not None:
            self._end()
            self._deaths += 1
            if now - self._spawned_at >= STEADY_SECONDS:
                self._pause = FIRST_PAUSE_SECONDS
            self._put_off()
        elif now >= self._again_at or now < self._again_at - LONGEST_PAUSE_SECONDS:
            self._try_spawn()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()
        try:
            status = process.wait(CLOSE_SECONDS if self._closed else 0.2)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        if not self._closed and not self._error:
            how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
            self._error = f"the process {how}"
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)
        if process.stdout is not None:
            process.stdout.close()

    def _listen(self, process: subprocess.Popen[bytes], works: queue.SimpleQueue[Work]) -> None:
        """In a thread: what the process says, until it ends."""
        decoder: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)
        stream: IO[bytes] | None = process.stdout
        while stream is not None:
            try:
                message = read_frame(stream, decoder)
                work = message.unpack() if isinstance(message, Did) else None
            except (OSError, ValueError, msgspec.DecodeError) as error:
                self._error = f"the process spoke nonsense: {error}"
                break
            if message is None:
                break
            self._heard_at = self._clock()
            if work is not None:
                self._error = ""
                works.put(work)
                self._wake()
            elif isinstance(message, Facts):
                self._error = ""
                self._facts = {
                    "sources": message.sources,
                    "rule_errors": message.rule_errors,
                    "archive_error": message.archive_error,
                }
            elif isinstance(message, Failed):
                self._error = message.reason
        self._ended.set()
        self._wake()
