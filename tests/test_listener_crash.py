"""kill -9 of the receiver, of the line, and of both under load: what was acknowledged is there, and
nothing is stored twice.

The line is this module, run as a process: the real source and its receiver, in front of a ledger
that keeps every record with its id in the transaction of the checkpoint, as the store does with
what records lead to.
"""

import contextlib
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.schema import Checkpoint, event_id
from appliance.sources.syslog_listen import SyslogListenSource

#: How often each run is killed; `make crash` kills more often.
KILLS = int(os.environ.get("CRASH_LISTENER_KILLS", "15"))
SENDERS = 3
#: Small enough to be full at times, so that segments come and go.
SPOOL_BYTES = 2 << 20


def serve(folder: Path, transport: Any, port: int) -> None:
    """The line: until it is killed, or told to stop."""
    db = sqlite3.connect(folder / "ledger.db")
    db.execute("CREATE TABLE IF NOT EXISTS records (id TEXT, data BLOB)")
    db.execute("CREATE TABLE IF NOT EXISTS checkpoints (key TEXT PRIMARY KEY, state BLOB)")
    wake = threading.Event()
    source = SyslogListenSource(
        "net",
        transport=transport,
        address=f"127.0.0.1:{port}",
        folder=folder / "spool",
        clock=time.time,
        checkpoints=[
            Checkpoint("net", key, state)
            for key, state in db.execute("SELECT key, state FROM checkpoints")
        ],
        spool_bytes=SPOOL_BYTES,
        pauses=(0.02, 0.2),
    )
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    source.start(wake.set)
    while not stopping.is_set():
        wake.clear()
        batch = source.poll(300)
        if batch.checkpoints:
            rows = [(event_id(record), record.data) for record in batch.records]
            rows += [("rejected", refused.record.data) for refused in batch.rejected]
            with db:
                db.executemany("INSERT INTO records VALUES (?, ?)", rows)
                db.executemany(
                    "REPLACE INTO checkpoints VALUES (?, ?)",
                    [(c.key, c.state) for c in batch.checkpoints],
                )
            source.commit()
        if not source.has_more:
            wake.wait(0.05)
    source.close()


class Scene:
    """Senders that go on whatever happens, and a line that is killed."""

    def __init__(self, folder: Path, transport: str) -> None:
        self.folder = folder
        self.transport = transport
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.port: int = found.getsockname()[1]
        self.acknowledged: set[int] = set()
        self.sent = 0
        self.refused = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        send = self._send_relp if transport == "relp" else self._send_tcp
        self._threads = [
            threading.Thread(target=self._send_on, args=(send, n)) for n in range(SENDERS)
        ]
        self.line: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.line = subprocess.Popen(
            [sys.executable, "-m", "tests.test_listener_crash",
             str(self.folder), self.transport, str(self.port)],
            cwd=Path(__file__).parent.parent,
        )  # fmt: skip

    def begin(self) -> None:
        for thread in self._threads:
            thread.start()

    def find_receiver(self) -> int | None:
        """The child of the line."""
        if self.line is None:
            return None
        for path in Path(f"/proc/{self.line.pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                for pid in path.read_text().split():
                    return int(pid)
        return None

    def kill_receiver(self) -> bool:
        pid = self.find_receiver()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                return True
        return False

    def kill_line(self) -> None:
        if self.line is not None:
            self.line.kill()
            self.line.wait()

    def _take_numbers(self, count: int) -> range:
        with self._lock:
            first = self.sent + 1
            self.sent += count
            return range(first, first + count)

    def _send_on(self, send: Any, seed: int) -> None:
        rng = random.Random(seed)
        while not self._stopping.is_set():
            try:
                send(rng)
            except (OSError, EOFError):
                self.refused += 1
                time.sleep(0.01)

    def _connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 10)

    def _send_tcp(self, rng: random.Random) -> None:
        """One connection a chunk; its orderly end says that the chunk is on disk."""
        with self._connect() as connection:
            numbers = self._take_numbers(rng.randrange(1, 200))
            messages = [b"<34>%d " % n + b"x" * rng.randrange(200) for n in numbers]
            if rng.random() < 0.5:
                data = b"".join(m + b"\n" for m in messages)
            else:
                data = b"".join(b"%d %b" % (len(m), m) for m in messages)
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            if connection.recv(1) == b"":
                with self._lock:
                    self.acknowledged.update(numbers)

    def _send_relp(self, rng: random.Random) -> None:
        """One session, some windows."""
        with self._connect() as connection, connection.makefile("rb") as answers:
            connection.sendall(b"1 open 14 relp_version=0\n")
            if not answers.readline().startswith(b"1 rsp "):
                raise EOFError
            while not answers.readline().startswith(b"commands="):
                pass
            for _ in range(rng.randrange(1, 20)):
                numbers = self._take_numbers(rng.randrange(1, 100))
                texts = [b"<34>%d " % n + b"x" * rng.randrange(200) for n in numbers]
                connection.sendall(
                    b"".join(
                        b"%d syslog %d %b\n" % (n % 10**9, len(text), text)
                        for n, text in zip(numbers, texts, strict=True)
                    )
                )
                for number in numbers:
                    if answers.readline() != b"%d rsp 6 200 OK\n" % number:
                        raise EOFError
                    with self._lock:
                        self.acknowledged.add(number)

    def finish(self, seconds: float = 60.0) -> list[str]:
        """Stop the senders, let the line read on, and say everything that is wrong."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(30)
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.acknowledged - self.read_numbers().keys():
            time.sleep(0.2)
        if self.line is not None:
            self.line.terminate()
            if self.line.wait(30) != 0:
                return ["the line did not end well"]
        return self.check()

    def read_numbers(self) -> Counter[int]:
        db = sqlite3.connect(self.folder / "ledger.db")
        try:
            rows = db.execute("SELECT data FROM records WHERE id != 'rejected'").fetchall()
        finally:
            db.close()
        # A message that a death cut off may have lost digits of its number.
        return Counter(int(data[4:].split(b" ")[0]) for (data,) in rows if b" " in data)

    def check(self) -> list[str]:
        numbers = self.read_numbers()
        problems = []
        lost = self.acknowledged - numbers.keys()
        if lost:
            problems.append(f"{len(lost)} of {len(self.acknowledged)} acknowledged are lost")
        doubled = [number for number, count in numbers.items() if count > 1]
        if doubled:
            problems.append(f"{len(doubled)} are stored twice, as {doubled[:5]}")
        if not set(numbers) <= set(range(1, self.sent + 1)):
            problems.append("something is stored that nobody sent")
        db = sqlite3.connect(self.folder / "ledger.db")
        try:
            row = db.execute(
                "SELECT COUNT(*) - COUNT(DISTINCT id) FROM records WHERE id != 'rejected'"
            ).fetchone()
            if row != (0,):
                problems.append(f"{row[0]} ids are stored twice")
            (rejected,) = db.execute(
                "SELECT COUNT(*) FROM records WHERE id = 'rejected'"
            ).fetchone()
            if rejected:
                problems.append(f"{rejected} blocks were damaged by a death")
        finally:
            db.close()
        return problems

    def close(self) -> None:
        self._stopping.set()
        self.kill_line()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(30)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="listen-crash-") as name:
        yield Path(name)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("transport", ["tcp", "relp"])
def test_kills_lose_nothing_acknowledged_and_store_nothing_twice(
    folder: Path, transport: str
) -> None:
    rng = random.Random(20261122)
    scene = Scene(folder, transport)
    killed = 0
    try:
        scene.start()
        scene.begin()
        while killed < KILLS:
            time.sleep(rng.uniform(0.1, 1.2))
            what = rng.choice(("receiver", "line", "both"))
            if what == "receiver":
                killed += scene.kill_receiver()
                continue
            if what == "both":
                scene.kill_receiver()
            scene.kill_line()
            killed += 1
            scene.start()
        time.sleep(1.0)
        assert scene.finish() == []
        assert len(scene.acknowledged) > 20 * KILLS, "the senders were hardly heard"
        assert scene.refused > 0, "no sender noticed anything"
    finally:
        scene.close()
    print(
        f"{transport}: {killed} kills, {scene.sent} sent, {len(scene.acknowledged)} acknowledged, "
        f"{sum(scene.read_numbers().values()) if (folder / 'ledger.db').exists() else 0} stored"
    )


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
