"""Inference, the line's side: a supervised encoder that may be missing but never in the way.

`EncoderClient` starts the worker process, asks it, and kills it when it does not answer in time.
Every failure is a ModelUnavailable; the next question after the back-off starts a new worker.
"""

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from appliance import child_environment
from appliance.errors import ModelUnavailable
from appliance.inference.frames import (
    MAX_FRAME_BYTES,
    MAX_TEXTS,
    PREFIX,
    Embed,
    FromWorker,
    Hello,
    Refused,
    Vectors,
    pack_frame,
    tidy_text,
)
from appliance.inference.manifest import BuiltModel, SentinelModel, verify_built, verify_sentinel

#: Seconds a worker may take to answer one request of up to `MAX_TEXTS` texts.
REQUEST_TIMEOUT: Final = 10.0

#: Seconds a worker may take from its start to its hello (a cold disk, a busy core).
LOAD_TIMEOUT: Final = 30.0

#: Seconds before a failed worker is started again: doubled with each failure in a row.
FIRST_BACK_OFF: Final = 0.5
LAST_BACK_OFF: Final = 30.0

_REAP_TIMEOUT: Final = 5.0

Phase = Literal["stopped", "starting", "up", "backing_off"]

#: Seconds from any fixed point, never going back.
Clock = Callable[[], float]


class EncoderState(msgspec.Struct, frozen=True):
    """What `status` shows of the encoder. `pid` is None without a worker, `restarts` counts
    workers started after the first, `answered` texts, `failures` all failed workers or requests,
    `retry_in` seconds until a new worker may be started."""

    phase: Phase
    pid: int | None
    restarts: int
    answered: int
    failures: int
    last_error: str | None
    retry_in: float


class EncoderClient:
    """Turns texts into unit vectors with the help of one worker process. Thread-safe: callers
    take turns."""

    #: What else the worker is told on its command line.
    flags: tuple[str, ...] = ()

    def __init__(
        self,
        model: Path,
        *,
        clock: Clock = time.monotonic,
        request_timeout: float = REQUEST_TIMEOUT,
        load_timeout: float = LOAD_TIMEOUT,
        verbose: bool = False,
    ) -> None:
        self._model = model
        self._clock = clock
        self._request_timeout = request_timeout
        self._load_timeout = load_timeout
        self._verbose = verbose
        self._decoder: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)
        self._lock = threading.Lock()
        self._built: BuiltModel | SentinelModel | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._closed = True
        self._loading_until = 0.0
        self._retry_at = 0.0
        self._back_off = FIRST_BACK_OFF
        self._number = 0
        self._spawned = 0
        self._answered = 0
        self._failures = 0
        self._last_error: str | None = None
        # PR_SET_PDEATHSIG follows the thread that spawned, so one thread lives as long as we do.
        self._spawner: ThreadPoolExecutor | None = None

    @property
    def model_hash(self) -> str:
        """SHA-256 of the model file, from its verified manifest. Raises ModelError."""
        return self._manifest().sha256

    @property
    def dims(self) -> int:
        """Length of the vectors. Raises ModelError when the model does not match its manifest."""
        return self._manifest().dims

    def start(self) -> None:
        """Verify the model file and spawn the worker; loading goes on inside it. Raises ModelError
        when the file is missing or is not what its manifest says. A worker that cannot be spawned
        is tried again after the back-off. Does nothing when started."""
        with self._lock:
            if not self._closed:
                return
            self._manifest()
            self._closed = False
            self._retry_at = 0.0
            self._back_off = FIRST_BACK_OFF
            self._spawner = ThreadPoolExecutor(1, "encoder-spawner")
            with suppress(ModelUnavailable):
                self._spawn()

    def wait_ready(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the worker to have loaded the model. False when it has
        not; never raises."""
        with self._lock:
            try:
                self._require_worker()
                return self._ready or self._await_hello(timeout)
            except ModelUnavailable:
                return False

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors, shape (len(texts), dims), float32, in the order of the texts.

        A text may hold anything; its first 256 tokens count. Raises ModelUnavailable when the
        worker is dead, hung (it is killed), in back-off, or not started.
        """
        with self._lock:
            self._require_worker()
            if not self._ready and not self._await_hello(self._load_timeout):
                raise self._fail(f"not loaded after {self._load_timeout:g} s")
            rows = [
                self._embed_some(texts[begin : begin + MAX_TEXTS])
                for begin in range(0, len(texts), MAX_TEXTS)
            ]
        return np.concatenate(rows) if rows else np.empty((0, self.dims), np.float32)

    def state(self) -> EncoderState:
        """What is known now, without asking the worker or waiting for one that is busy."""
        process = self._process
        alive = process is not None and process.poll() is None
        wait = max(0.0, self._retry_at - self._clock())
        phase: Phase = "stopped"
        if not self._closed:
            phase = ("up" if self._ready else "starting") if alive else "backing_off"
        return EncoderState(
            phase=phase,
            pid=process.pid if process is not None and alive else None,
            restarts=max(0, self._spawned - 1),
            answered=self._answered,
            failures=self._failures,
            last_error=self._last_error,
            retry_in=0.0 if alive else wait,
        )

    def close(self) -> None:
        """End the worker and wait for it. A question that is being answered fails at once."""
        self._closed = True
        if process := self._process:
            _kill(process)  # without the lock: whoever holds it may be waiting for this worker
        with self._lock:
            self._drop_worker()
            if self._spawner is not None:
                self._spawner.shutdown(wait=False)
                self._spawner = None

    def _manifest(self) -> BuiltModel | SentinelModel:
        if self._built is None:
            self._built = self._verify()
        return self._built

    def _verify(self) -> BuiltModel | SentinelModel:
        return verify_built(self._model)

    def _require_worker(self) -> None:
        """A running worker, or ModelUnavailable. A worker that died unasked is a failure too."""
        if self._closed:
            raise ModelUnavailable("the encoder is not started")
        if self._process is None:
            if (wait := self._retry_at - self._clock()) > 0:
                raise ModelUnavailable(
                    f"the encoder is started again in {wait:.1f} s: {self._last_error}"
                )
            self._spawn()
        elif (status := self._process.poll()) is not None:
            raise self._fail(self._describe_end(status))

    def _spawn(self) -> None:
        if self._spawner is None:
            raise ModelUnavailable("the encoder is not started")
        try:
            process = self._spawner.submit(self._popen).result()
        except (OSError, RuntimeError) as error:
            raise self._fail(f"cannot start a worker: {error}") from error
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
        self._spawned += 1
        self._ready = False
        self._loading_until = self._clock() + self._load_timeout
        self._process = process
        if self._closed:  # close() came between; it saw no process to kill
            raise self._fail("closed")

    def _popen(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", "appliance.inference.worker"]
        command += ["--model", str(self._model), "--parent", str(os.getpid()), *self.flags]
        if self._verbose:
            command.append("--verbose")
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if self._verbose else subprocess.DEVNULL,
            close_fds=True,
            start_new_session=True,
            bufsize=0,
            env=_worker_environment(),
        )

    def _await_hello(self, timeout: float) -> bool:
        """True when the worker said hello within `timeout` seconds; False when it needs longer.
        Raises ModelUnavailable when it ended, spoke nonsense or had its time."""
        process = self._process
        if process is None or process.stdout is None:
            raise ModelUnavailable("the encoder is not started")
        left = self._loading_until - self._clock()
        if left <= 0:
            raise self._fail(f"not loaded after {self._load_timeout:g} s")
        if not _wait_for(process.stdout.fileno(), select.POLLIN, min(timeout, left)):
            return False
        message = self._receive(self._request_timeout)
        if isinstance(message, Refused):
            raise self._fail(message.reason)
        built = self._manifest()
        if not isinstance(message, Hello) or message != Hello(built.sha256, built.dims):
            raise self._fail("the worker loaded another model")
        self._ready = True
        return True

    def _embed_some(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self._number += 1
        number = self._number
        self._send(pack_frame(Embed(number, tuple(tidy_text(text) for text in texts))))
        message = self._receive(self._request_timeout)
        if isinstance(message, Refused) and message.number == number:
            # The worker is well, only this request is not: no reason to kill it.
            self._failures += 1
            self._last_error = message.reason
            raise ModelUnavailable(f"the encoder refused: {message.reason}")
        if not isinstance(message, Vectors) or message.number != number:
            raise self._fail("the worker answered something else")
        if len(message.data) != len(texts) * self.dims * 4:
            raise self._fail("the worker answered vectors of another size")
        vectors = np.frombuffer(message.data, "<f4").reshape(len(texts), self.dims)
        if not np.isfinite(vectors).all():
            raise self._fail("the worker answered vectors that are not finite")
        self._answered += len(texts)
        self._back_off = FIRST_BACK_OFF
        return vectors.astype(np.float32)

    def _send(self, frame: bytes) -> None:
        process = self._process
        if process is None or process.stdin is None:
            raise ModelUnavailable("the encoder is not started")
        until = self._clock() + self._request_timeout
        rest = memoryview(frame)
        while rest:
            left = until - self._clock()
            if not _wait_for(process.stdin.fileno(), select.POLLOUT, left):
                raise self._fail(f"took no request in {self._request_timeout:g} s")
            try:
                rest = rest[os.write(process.stdin.fileno(), rest) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise self._fail(self._describe_end(_reap(process))) from error

    def _receive(self, timeout: float) -> FromWorker:
        until = self._clock() + timeout
        (length,) = PREFIX.unpack(self._read_exactly(PREFIX.size, until, timeout))
        if length > MAX_FRAME_BYTES:
            raise self._fail(f"the worker announced a frame of {length} bytes")
        body = self._read_exactly(length, until, timeout)
        try:
            return self._decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._fail("the worker answered something else") from error

    def _read_exactly(self, size: int, until: float, timeout: float) -> bytes:
        process = self._process
        if process is None or process.stdout is None:
            raise ModelUnavailable("the encoder is not started")
        descriptor = process.stdout.fileno()
        got = bytearray()
        while len(got) < size:
            if not _wait_for(descriptor, select.POLLIN, until - self._clock()):
                raise self._fail(f"no answer in {timeout:g} s")
            try:
                chunk = os.read(descriptor, size - len(got))
            except BlockingIOError:
                continue
            if not chunk:
                raise self._fail(self._describe_end(_reap(process)))
            got += chunk
        return bytes(got)

    def _describe_end(self, status: int | None) -> str:
        if self._closed:
            return "closed"
        if status is None:
            return "the worker closed its output"
        if status < 0:
            return f"the worker was ended by signal {-status}"
        return f"the worker ended with status {status}"

    def _fail(self, reason: str) -> ModelUnavailable:
        """Kill the worker, begin the back-off, and give the error to raise."""
        self._drop_worker()
        self._failures += 1
        self._last_error = reason
        self._retry_at = self._clock() + self._back_off
        self._back_off = min(LAST_BACK_OFF, self._back_off * 2)
        return ModelUnavailable(f"the encoder failed: {reason}")

    def _drop_worker(self) -> None:
        process, self._process, self._ready = self._process, None, False
        if process is None:
            return
        _kill(process)
        _reap(process)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


class SentinelClient(EncoderClient):
    """The same for the sentinel: `embed` gives the means over its last layer, of no length in
    particular; a text's first tokens count, as many as the model reads. The worker gives way to
    the line on a full core."""

    flags = ("--sentinel",)

    def _verify(self) -> SentinelModel:
        return verify_sentinel(self._model)


class SentinelClients:
    """Several of them, for a machine with a core to spare for each. Thread-safe."""

    def __init__(self, model: Path, processes: int) -> None:
        self.members = [SentinelClient(model) for _ in range(processes)]
        self._threads = ThreadPoolExecutor(processes, "sentinel") if processes > 1 else None

    @property
    def model_hash(self) -> str:
        """SHA-256 of the model file. Raises ModelError."""
        return self.members[0].model_hash

    def start(self) -> None:
        """Start all. Raises ModelError."""
        for member in self.members:
            member.start()

    def wait_ready(self, timeout: float) -> bool:
        """Whether all have loaded the model, each waited for up to `timeout` seconds."""
        return all(member.wait_ready(timeout) for member in self.members)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As SentinelClient's, each member taking its share. Raises ModelUnavailable when one of
        them is."""
        if self._threads is None or len(texts) < 2 * len(self.members):
            return self.members[0].embed(texts)
        # Dealt out by length, so that all end at about the same time.
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        count = len(self.members)
        shares = [order[first::count] for first in range(count)]
        jobs = [
            self._threads.submit(member.embed, [texts[place] for place in share])
            for member, share in zip(self.members, shares, strict=True)
        ]
        rows = [job.result() for job in jobs]
        found = np.empty((len(texts), rows[0].shape[1]), np.float32)
        for share, vectors in zip(shares, rows, strict=True):
            found[share] = vectors
        return found

    def states(self) -> list[EncoderState]:
        """What is known of each now."""
        return [member.state() for member in self.members]

    def close(self) -> None:
        """End all."""
        for member in self.members:
            member.close()
        if self._threads is not None:
            self._threads.shutdown(wait=False)


def _worker_environment() -> dict[str, str]:
    """The worker's environment: that of any child, but without gdb being started when llama.cpp
    aborts, and with one thread for every library that would take more."""
    return {
        **child_environment(),
        "GGML_NO_BACKTRACE": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _wait_for(descriptor: int, event: int, seconds: float) -> bool:
    """Whether the descriptor became ready (or its other end closed) within `seconds`."""
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(max(0.0, seconds) * 1000))


def _kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL by process id; a stopped process dies of it too. No effect on one already reaped."""
    process.kill()


def _reap(process: subprocess.Popen[bytes]) -> int | None:
    """Exit status, or None when it does not end in time (it is in an uninterruptible call)."""
    try:
        return process.wait(_REAP_TIMEOUT)
    except subprocess.TimeoutExpired:
        return None
