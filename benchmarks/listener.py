"""Beside the line: what the syslog listener takes, from the network into the spool.

The receiver is the real child process; the sender is a process of its own (this module, run by
name). Messages have 100 to 200 bytes. TCP is timed from the connection to the orderly end, which
says that all is on disk, RELP to the last answer. UDP tells its sender nothing: it is sent at
growing rates, and what came is counted.
"""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, Final

from appliance.sources.syslog_listen import SyslogListenSource
from benchmarks.children import end_child, read_peak_rss, show_part
from benchmarks.figures import Report

NAME: Final = "listener"
TEXT: Final = "records/s from the network into the spool: TCP, RELP, UDP, and with kill -9"
PATIENCE_SECONDS: Final = 30.0
#: Messages prepared by the sender and sent again and again, each with its own number in front.
PREPARED: Final = 2000
UDP_RATES: Final = (10_000, 20_000, 40_000, 60_000, 80_000, 100_000, 150_000, 200_000)
UDP_SECONDS: Final = 3.0
RELP_WINDOW: Final = 128
KILL_EVERY: Final = 1.0
KILLS: Final = 8
CHUNK_RECORDS: Final = 5000


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this part."""
    group = parser.add_argument_group(NAME, TEXT)
    group.add_argument(
        "--listener-records", type=int, default=500_000, metavar="N",
        help="records sent in each case (500,000)",
    )  # fmt: skip


def measure(options: argparse.Namespace, report: Report, folder: Path) -> None:
    """Print the figures of every case. Raises RuntimeError when the listener does not come up or
    loses something that it may not lose."""
    count = options.listener_records
    command = show_part(NAME, "--listener-records", count)
    for case, transport, kind, connections in (
        ("TCP, newlines, one connection", "tcp", "lines", 1),
        ("TCP, octet counting, one connection", "tcp", "counted", 1),
        ("TCP, newlines, one message a packet, four connections", "tcp", "single", 4),
        ("RELP, four sessions with a window of 128", "relp", "relp", 4),
    ):
        report.begin(NAME, case, command)
        some = count if kind in ("lines", "counted") else count // 5
        _measure_stream(report, folder, transport, kind, some, connections)
    report.begin(NAME, "TCP, newlines, the spool read at the same time", command)
    _measure_stream(report, folder, "tcp", "lines", count, 1, read=True)
    report.begin(NAME, f"UDP, {UDP_SECONDS:g} s at each rate", command)
    _measure_datagrams(report, folder)
    report.begin(NAME, f"TCP, the receiver killed every {KILL_EVERY:g} s", command)
    _measure_kills(report, folder)


@contextmanager
def open_listener(folder: Path, transport: Any) -> Iterator[tuple[SyslogListenSource, int]]:
    """A source with its receiver, and the port. Raises RuntimeError when it does not listen."""
    place = Path(tempfile.mkdtemp(prefix="spool", dir=folder))
    source = SyslogListenSource(
        "bench", transport=transport, address="127.0.0.1:0", folder=place, clock=time.time,
        spool_bytes=4 << 30, pauses=(0.1, 0.1),
    )  # fmt: skip
    try:
        source.start(lambda: None)
        yield source, await_port(source)
    finally:
        source.close()


def await_port(source: SyslogListenSource) -> int:
    """The port once it listens. Raises RuntimeError."""
    until = time.monotonic() + PATIENCE_SECONDS
    while not (facts := source.describe())["listening"]:
        if time.monotonic() > until:
            raise RuntimeError(f"the listener does not come up: {facts['error']}")
        time.sleep(0.01)
    return int(facts["bound"].rpartition(":")[2])


def start_sender(kind: str, port: int, count: int, rate: int = 0) -> subprocess.Popen[bytes]:
    """A sender process; it prints the seconds that it took."""
    words = [sys.executable, "-m", "benchmarks.listener", kind, str(port), str(count), str(rate)]
    return subprocess.Popen(words, stdout=subprocess.PIPE)


def read_seconds(sender: subprocess.Popen[bytes]) -> float:
    """What the sender printed. Raises RuntimeError when it failed."""
    try:
        said, _ = sender.communicate(timeout=10 * PATIENCE_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError("the sender hangs") from error
    finally:
        end_child(sender)
    if sender.returncode:
        raise RuntimeError("the sender was not told that all is on disk")
    return float(said)


def _measure_stream(
    report: Report,
    folder: Path,
    transport: str,
    kind: str,
    count: int,
    connections: int,
    *,
    read: bool = False,
) -> None:
    with open_listener(folder, transport) as (source, port):
        share = count // connections
        senders = [start_sender(kind, port, share) for _ in range(connections)]
        stopping = threading.Event()
        reader = threading.Thread(target=drain, args=(source, stopping))
        if read:
            reader.start()
        seconds = max([read_seconds(sender) for sender in senders])
        stopping.set()
        if read:
            reader.join()
        facts = await_count(source, share * connections)
        sent, size = share * connections, facts["received_bytes"]
        report.add("records", sent / seconds, "/s", sent, "records acknowledged")
        report.add("bytes", size / seconds / 1e6, "MB/s", size, "bytes")
        rss = read_peak_rss(facts["pid"]) if facts["pid"] else 0
        report.add("receiver, peak memory", rss / 2**20, "MiB", 1, "process")
        if not read:
            began = time.perf_counter()
            got = drain(source)
            report.add("read from the spool", got / (time.perf_counter() - began), "/s", got,
                       "records")  # fmt: skip
            if got != sent:
                raise RuntimeError(f"{got} of {sent} records are in the spool")


def await_count(source: SyslogListenSource, count: int) -> dict[str, Any]:
    """Facts once the receiver has told of so many records. Raises RuntimeError."""
    until = time.monotonic() + PATIENCE_SECONDS
    while (facts := source.describe())["received"] < count:
        if time.monotonic() > until:
            raise RuntimeError(f"{facts['received']} of {count} records came")
        time.sleep(0.05)
    return facts


def drain(source: SyslogListenSource, stopping: threading.Event | None = None) -> int:
    """Read the spool as the line does; how many records it gave. Until `stopping`, or its end."""
    found = 0
    while True:
        got = len(source.poll(2000).records)
        source.commit()
        found += got
        if not got and not source.has_more:
            if stopping is None or stopping.is_set():
                return found
            time.sleep(0.01)


def _measure_datagrams(report: Report, folder: Path) -> None:
    with open_listener(folder, "udp") as (source, port):
        report.note(f"receive buffer given: {source.describe()['receive_buffer']:,} bytes")
        best, sent_best = 0.0, 0
        for rate in UDP_RATES:
            before = source.describe()
            count = int(rate * UDP_SECONDS)
            seconds = read_seconds(start_sender("udp", port, count, rate))
            facts = _await_datagrams(source, count, before)
            came = facts["received"] - before["received"]
            lost = count - came
            report.note(
                f"{rate:>7,} /s asked, {count / seconds:>9,.0f} /s sent: {came:,} of {count:,} "
                f"came, {facts['dropped'] - before['dropped']:,} counted as dropped"
            )
            if lost == 0 and count / seconds > best:
                best, sent_best = count / seconds, count
            if count / seconds < 0.8 * rate:
                break  # the sender can't do more
        report.add("records without a loss", best, "/s", sent_best, "datagrams")


def _await_datagrams(
    source: SyslogListenSource, count: int, before: dict[str, Any]
) -> dict[str, Any]:
    until = time.monotonic() + 4.0
    while time.monotonic() < until:
        facts = source.describe()
        came = sum(facts[name] - before[name] for name in ("received", "dropped"))
        if came >= count:
            break
        time.sleep(0.1)
    return source.describe()


def _measure_kills(report: Report, folder: Path) -> None:
    """The sender takes a chunk for delivered at its connection's orderly end, else sends it
    again; every chunk must be there."""
    with open_listener(folder, "tcp") as (source, _):
        acknowledged = again = 0
        numbers = Random(1)
        chunk = b"".join(message + b"\n" for message in prepare(numbers, CHUNK_RECORDS))
        began = time.perf_counter()
        kills = 0
        deadline = began + KILL_EVERY
        while kills < KILLS or time.perf_counter() < deadline:
            if kills < KILLS and time.perf_counter() >= deadline:
                pid = source.describe()["pid"]
                if pid:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                    kills += 1
                deadline = time.perf_counter() + KILL_EVERY
            try:
                send_chunk(await_port(source), chunk)
                acknowledged += 1
            except OSError:
                again += 1
                time.sleep(0.02)
        seconds = time.perf_counter() - began
        source.close()
        got = drain(source)
        whole = acknowledged * CHUNK_RECORDS
        report.add("records", whole / seconds, "/s", whole, "records acknowledged")
        report.add("kills", kills, "", again, "chunks not acknowledged")
        report.note(f"{got:,} records in the spool: none acknowledged is lost"
                    if got >= whole else f"LOST: {got:,} of {whole:,}")  # fmt: skip
        if got < whole:
            raise RuntimeError(f"{whole - got} acknowledged records are lost")


# -- the sender, a process of its own ----------------------------------------------------------


def prepare(rng: Random, count: int) -> list[bytes]:
    """Messages of 100 to 200 bytes."""
    text = "Accepted publickey for deploy from 192.0.2.10 port 50022 ssh2: ED25519 SHA256:"
    lines = [
        f"<38>Nov 22 09:00:{n % 60:02d} web{n % 9} sshd[{n}]: {text}".ljust(200, "x")
        for n in range(count)
    ]
    return [line[: rng.randrange(100, 201)].encode() for line in lines]


def send_chunk(port: int, data: bytes) -> None:
    """Send it, shut down, and wait until the end says that it is on disk. Raises OSError."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        if connection.recv(1) != b"":
            raise OSError("not acknowledged")


def send_stream(port: int, kind: str, count: int) -> None:
    """So many messages on one connection. Raises OSError."""
    messages = prepare(Random(1), PREPARED)
    if kind == "counted":
        framed = [b"%d %b" % (len(message), message) for message in messages]
    else:
        framed = [message + b"\n" for message in messages]
    with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if kind == "single":
            for number in range(count):
                connection.sendall(framed[number % PREPARED])
        else:
            whole = b"".join(framed)
            for _ in range(count // PREPARED):
                connection.sendall(whole)
            connection.sendall(b"".join(framed[: count % PREPARED]))
        connection.shutdown(socket.SHUT_WR)
        if connection.recv(1) != b"":
            raise OSError("not acknowledged")


def send_relp(port: int, count: int) -> None:
    """So many messages in one session, with RELP_WINDOW of them unanswered. Raises OSError."""
    messages = prepare(Random(1), PREPARED)
    with (
        socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as connection,
        connection.makefile("rb") as answers,
    ):
        connection.sendall(b"1 open 14 relp_version=0\n")
        while not answers.readline().startswith(b"commands="):
            pass
        for first in range(0, count, RELP_WINDOW):
            window = range(first, min(count, first + RELP_WINDOW))
            connection.sendall(
                b"".join(
                    b"%d syslog %d %b\n" % (n + 2, len(m), m)
                    for n, m in ((n, messages[n % PREPARED]) for n in window)
                )
            )
            for number in window:
                if answers.readline() != b"%d rsp 6 200 OK\n" % (number + 2):
                    raise OSError("not acknowledged")


def send_datagrams(port: int, count: int, rate: int) -> None:
    """So many datagrams at so many a second, in steps of a millisecond."""
    messages = prepare(Random(1), PREPARED)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(("127.0.0.1", port))
        began = time.perf_counter()
        for number in range(count):
            sender.send(messages[number % PREPARED])
            if number % max(1, rate // 1000) == 0:
                ahead = number / rate - (time.perf_counter() - began)
                if ahead > 0:
                    time.sleep(ahead)


def main() -> int:
    """The sender: KIND PORT COUNT RATE."""
    kind, port, count, rate = sys.argv[1], *map(int, sys.argv[2:])
    began = time.perf_counter()
    try:
        if kind == "udp":
            send_datagrams(port, count, rate)
        elif kind == "relp":
            send_relp(port, count)
        else:
            send_stream(port, kind, count)
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    print(time.perf_counter() - began)
    return 0


if __name__ == "__main__":
    sys.exit(main())
