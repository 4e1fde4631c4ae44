"""Syslog from the network: framing, the receiver's loop, and the source with its child process."""

import contextlib
import errno
import functools
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.schema import RawRecord, event_id
from appliance.sources import spool
from appliance.sources.listening import (
    ReceiverSettings,
    is_allowed,
    parse_listen_address,
    parse_networks,
)
from appliance.sources.receiver import Receiver
from appliance.sources.relp import RelpFramer
from appliance.sources.spool import Block, Place, SpoolReader, SpoolWriter
from appliance.sources.streams import StreamLimits
from appliance.sources.syslog_frames import SyslogFramer
from appliance.sources.syslog_listen import SyslogListenSource, spool_folder

CAP, KEEP = 200, 50


def cut_chunks(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def frame(data: bytes, size: int = 1 << 18) -> tuple[list[bytes], list[int]]:
    """All records of a connection that sent this in chunks of a size and ended, and the full
    lengths of those that were cut."""
    framer = SyslogFramer(CAP, KEEP)
    parts = [framer.feed(chunk) for chunk in cut_chunks(data, size)] + [framer.finish()]
    return [r for p in parts for r in p.records], [n for p in parts for n in p.cut.values()]


def count(message: bytes) -> bytes:
    return b"%d %b" % (len(message), message)


# -- framing -----------------------------------------------------------------------------------

A, B = b"<34>1 - host app - - - first", b"<13>Oct 11 22:14:15 host su: second"

FRAMINGS = {
    "newline": A + b"\n" + B + b"\n",
    "carriage return": A + b"\r\n" + B + b"\r\n",
    "unfinished": A + b"\n" + B,
    "nul": A + b"\0" + B + b"\0",
    "nul and newline": A + b"\0\n" + B + b"\0\n",
    "blank lines": b"\r\n\n" + A + b"\n\n  \n" + B + b"\n",
    "counted": count(A) + count(B),
    "counted, unfinished": count(A) + count(B + b"xyz")[:-3],
    "counted with newlines between": count(A) + b"\n" + count(B) + b"\r\n",
    "counted, then a line": count(A) + B + b"\n",
    "leading NULs": b"\0\0\0" + A + b"\n" + B,
}


@pytest.mark.parametrize("size", [1 << 18, 7, 1])
@pytest.mark.parametrize("kind", FRAMINGS)
def test_framings(kind: str, size: int) -> None:
    assert frame(FRAMINGS[kind], size) == ([A, B], [])


def test_newlines_and_nuls_inside_a_counted_message_belong_to_it() -> None:
    message = b"<34>one\ntwo\0three\r\n"
    assert frame(count(message) + count(A)) == ([message, A], [])


def test_a_line_that_holds_a_count_swallows_nothing() -> None:
    """An attacker whose text brings a newline can forge a line, but not hide those behind it."""
    data = A + b"\n99999 <34>forged\n" + B + b"\n"
    assert frame(data) == ([A, b"99999 <34>forged", B], [])


@pytest.mark.parametrize(
    "head", [b"1000000000000 <34>", b"-5 <34>", b"0 <34>", b"007 <34>", b"99999999 <34>", b"12<34>"]
)
@pytest.mark.parametrize("size", [1 << 18, 1])
def test_what_is_no_length_is_a_line(head: bytes, size: int) -> None:
    assert frame(head + b"x\n" + B + b"\n", size) == ([head + b"x", B], [])


@pytest.mark.parametrize("size", [1 << 18, 13, 1])
def test_messages_over_the_cap_are_cut(size: int) -> None:
    large = b"<34>" + b"x" * 500
    assert frame(large + b"\n" + A + b"\n", size) == ([large[:KEEP], A], [504])
    assert frame(A + b"\n" + large, size) == ([A, large[:KEEP]], [504])
    assert frame(count(large) + count(A), size) == ([large[:KEEP], A], [504])
    assert frame(b"1000 " + large, size) == ([large[:KEEP]], [504]), "as far as it came"


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\0\n", b"\r\0\n"])
@pytest.mark.parametrize("size", [1 << 18, 13, 1])
def test_the_cap_is_of_the_message_without_its_end(size: int, end: bytes) -> None:
    fits, over = b"<1>" + b"x" * (CAP - 3), b"<1>" + b"x" * (CAP - 2)
    records, cut = frame(fits + end + over + end + fits + end, size)
    assert records == [fits, over[:KEEP], fits]
    assert len(cut) == 1
    assert CAP < cut[0] < CAP + len(end) + 1, "what was not kept may count its end"


@given(
    st.lists(st.binary(max_size=300).map(lambda r: r.translate(None, b"\r\n\0"))),
    st.integers(1, 40),
    st.booleans(),
)
def test_how_it_was_cut_into_packets_makes_no_difference(
    texts: list[bytes], size: int, counted: bool
) -> None:
    messages = [b"<1>" + text for text in texts]
    data = b"".join(count(m) if counted else m + b"\n" for m in messages)
    expected = [m if len(m) <= CAP else m[:KEEP] for m in messages]
    assert frame(data, size) == (expected, [len(m) for m in messages if len(m) > CAP])


@given(st.binary(max_size=400), st.integers(1, 50))
def test_no_bytes_make_a_framer_raise_or_hold_more_than_the_cap(data: bytes, size: int) -> None:
    plain, relp = SyslogFramer(CAP, KEEP), RelpFramer(CAP, KEEP)
    for chunk in cut_chunks(b"5 <34>x" + data, size):
        records = plain.feed(chunk).records
        assert all(len(record) <= CAP for record in records)
        relp.feed(chunk)
        assert max(plain.held, relp.held) <= CAP + 64
    plain.shed()
    plain.finish()


@pytest.mark.parametrize("head", [b"", b"900000 <1>", b"5 <1>xx"])
def test_byte_by_byte_takes_linear_time(head: bytes) -> None:
    framer = SyslogFramer(1 << 20, 1 << 16)
    framer.feed(head)
    began = time.perf_counter()
    for _ in range(500_000):
        framer.feed(b"x")
    assert time.perf_counter() - began < 10


@pytest.mark.parametrize("line", [b"x\n", b"\n", b"1\n", b"\0\r\n", b"9 <\n"])
def test_broken_counting_takes_linear_time(line: bytes) -> None:
    framer = SyslogFramer(1 << 20, 1 << 16)
    began = time.perf_counter()
    framer.feed(count(A) + line * 100_000)
    framer.finish()
    assert time.perf_counter() - began < 5


def test_shedding_keeps_the_beginning_and_tells_the_length() -> None:
    framer = SyslogFramer(CAP, KEEP)
    framer.feed(b"<1>" + b"a" * 100)
    framer.shed()
    assert framer.held == KEEP
    got = framer.feed(b"b\n<2>next\n")
    assert got.records == [b"<1>" + b"a" * 47, b"<2>next"]
    assert got.cut == {0: 104}
    framer = SyslogFramer(CAP, KEEP)
    framer.feed(b"150 <1>" + b"a" * 100)
    framer.shed()
    assert framer.held == KEEP
    got = framer.feed(b"b" * 47 + count(A))
    assert got.records == [b"<1>" + b"a" * 47, A]
    assert got.cut == {0: 150}


def relp(number: int, command: str, data: bytes = b"") -> bytes:
    head = f"{number} {command} {len(data)}".encode()
    return head + (b" " + data if data else b"") + b"\n"


@pytest.mark.parametrize("size", [1 << 18, 5, 1])
def test_relp_frames(size: int) -> None:
    large = b"x" * 500
    data = (
        relp(1, "open", b"relp_version=0\nrelp_software=x")
        + relp(2, "syslog", A)
        + relp(3, "syslog", large)
        + relp(4, "Syslog", b"with\nnewline")
        + relp(5, "close")
        + b"6 close 0 \n"
    )
    framer = RelpFramer(CAP, KEEP)
    frames = [f for chunk in cut_chunks(data, size) for f in framer.feed(chunk)]
    assert not framer.broken
    assert [(f.number, f.command, f.data, f.cut) for f in frames] == [
        (b"1", b"open", b"relp_version=0\nrelp_software=x", 0),
        (b"2", b"syslog", A, 0),
        (b"3", b"syslog", large[:KEEP], 500),
        (b"4", b"syslog", b"with\nnewline", 0),
        (b"5", b"close", b"", 0),
        (b"6", b"close", b"", 0),
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"x" * 60,
        b"1 syslog 999999999 " + b"x" * 99,
        b"1 syslog 5 helloX",
        b"1 syslog -5 \n",
        b"1 syslog 300 " + b"x" * 300 + b"Y",
    ],
)
def test_what_is_no_relp_is_broken_off(data: bytes) -> None:
    framer = RelpFramer(CAP, KEEP)
    assert framer.feed(relp(1, "syslog", A) + data)[0].data == A
    assert framer.broken
    assert framer.feed(relp(2, "syslog", A)) == []


# -- addresses ---------------------------------------------------------------------------------


def test_addresses() -> None:
    assert parse_listen_address("192.0.2.1:514") == ("192.0.2.1", 514)
    assert parse_listen_address("[2001:db8::1]:6514") == ("2001:db8::1", 6514)
    assert parse_listen_address("[fe80::1%eth0]:514") == ("fe80::1%eth0", 514)
    for bad in ("", "514", "host:514", "192.0.2.1", "[192.0.2.1]:514", "1.2.3:514", "::1:514",
                "192.0.2.1:65536", "[::1]", "192.0.2.256:1", "0.0.0.0:514\n"):  # fmt: skip
        with pytest.raises(ValueError, match=r"."):
            parse_listen_address(bad)


def test_networks() -> None:
    networks = parse_networks(["192.0.2.0/24", "2001:db8::/32"])
    assert is_allowed("192.0.2.7", networks)
    assert is_allowed("::ffff:192.0.2.7", networks)
    assert is_allowed("2001:db8::5%eth0", networks)
    assert not is_allowed("198.51.100.1", networks)
    assert not is_allowed("nonsense", networks)
    assert is_allowed("198.51.100.1", ())
    with pytest.raises(ValueError, match="host bits"):
        parse_networks(["192.0.2.7/24"])


# -- the loop, in this process -----------------------------------------------------------------


class Bench:
    """A receiver in a thread of this process, on any free port of loopback."""

    def __init__(self, folder: Path, transport: str, host: str = "127.0.0.1", **more: Any) -> None:
        opener = more.pop("open_spool", SpoolWriter)
        address = f"[{host}]:0" if ":" in host else f"{host}:0"
        settings: dict[str, Any] = {
            "transport": transport, "address": address, "folder": str(folder), "first": 1,
            "cap": 1 << 30, "record_bytes": 1 << 20, "keep_bytes": 1 << 16, **more,
        }  # fmt: skip
        self.host = host
        self.lines: list[bytes] = []
        reading, self._stop = os.pipe()
        self._reading = reading
        self.receiver = Receiver(
            ReceiverSettings(**settings), tell=self._tell, stop_on=(reading,), open_spool=opener
        )
        self.reader = SpoolReader(folder, Place())
        self._thread = threading.Thread(target=self.receiver.run, daemon=True)
        self._thread.start()
        wait_for(lambda: self.facts.listening or bool(self.facts.error))

    @property
    def facts(self) -> Any:
        return self.receiver.facts

    @property
    def port(self) -> int:
        return int(self.facts.bound.rpartition(":")[2])

    def _tell(self, line: bytes) -> bool:
        self.lines.append(line)
        return True

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), 20)

    def read(self) -> list[bytes]:
        """Records written since the last look."""
        return [record for _, record in self.read_peers()]

    def read_peers(self) -> list[tuple[str, bytes]]:
        found = []
        while pieces := self.reader.read(10_000, 1 << 24):
            for piece in pieces:
                assert isinstance(piece.found, Block)
                found += [
                    (piece.found.peer, r) for r in piece.found.records[piece.start : piece.until]
                ]
        return found

    def await_records(self, number: int) -> list[bytes]:
        found: list[bytes] = []

        def look() -> bool:
            found.extend(self.read())
            return len(found) >= number

        wait_for(look)
        return found

    def stop(self) -> None:
        if self._stop >= 0:
            os.write(self._stop, b"x")
            self._thread.join(20)
            assert not self._thread.is_alive()
            os.close(self._stop)
            os.close(self._reading)
            self._stop = -1


def wait_for(look: Callable[[], bool], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < until, "it does not come"
        time.sleep(0.005)


MakeBench = Callable[..., Bench]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[MakeBench]:
    made: list[Bench] = []

    def make(transport: str, **more: Any) -> Bench:
        made.append(Bench(tmp_path / f"s{len(made)}", transport, **more))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def send_and_wait(connection: socket.socket, data: bytes) -> bool:
    """Send, shut down, and wait for the end: True when it says that all is on disk."""
    try:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(1) == b""
    except OSError:
        return False
    finally:
        connection.close()


def is_reset(connection: socket.socket) -> bool:
    connection.settimeout(20)
    try:
        return connection.recv(1) != b""
    except ConnectionResetError:
        return True


def is_ended(connection: socket.socket) -> bool:
    connection.settimeout(0.1)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_tcp_over_both_families(bench: MakeBench, host: str) -> None:
    one = bench("tcp", host=host)
    assert send_and_wait(one.connect(), A + b"\n" + B)
    assert one.read_peers() == [(f"tcp {host}", A), (f"tcp {host}", B)]
    assert one.facts.received == 2
    assert one.facts.bytes == len(A + B)
    assert one.lines[0].startswith(b'{"listening":true')
    wait_for(lambda: b"w\n" in one.lines)


def test_both_framings_on_one_port(bench: MakeBench) -> None:
    one = bench("tcp")
    assert send_and_wait(one.connect(), count(A) * 3)
    assert send_and_wait(one.connect(), (B + b"\r\n") * 3)
    assert one.read() == [A] * 3 + [B] * 3


def test_the_end_of_a_connection_comes_only_after_the_disk_has_it(bench: MakeBench) -> None:
    may_sync = threading.Event()
    synced = threading.Event()

    def sync(descriptor: int) -> None:
        may_sync.wait(20)
        os.fdatasync(descriptor)
        synced.set()

    one = bench("tcp", open_spool=functools.partial(SpoolWriter, sync=sync))
    connection = one.connect()
    connection.sendall(A + b"\n")
    connection.shutdown(socket.SHUT_WR)
    connection.settimeout(0.5)
    with pytest.raises(TimeoutError):
        connection.recv(1)
    assert not synced.is_set()
    may_sync.set()
    connection.settimeout(20)
    assert connection.recv(1) == b""
    assert synced.is_set()
    connection.close()


def test_a_failed_sync_ends_connections_by_a_reset(bench: MakeBench) -> None:
    failing = [True]

    def sync(descriptor: int) -> None:
        if failing:
            failing.pop()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.fdatasync(descriptor)

    one = bench("tcp", open_spool=functools.partial(SpoolWriter, sync=sync))
    assert not send_and_wait(one.connect(), A + b"\n")
    wait_for(lambda: "Input/output error" in one.facts.error)
    assert send_and_wait(one.connect(), B + b"\n")
    assert one.facts.error == ""


def test_every_other_end_is_a_reset(bench: MakeBench) -> None:
    one = bench("tcp", idle_seconds=0.3)
    idle = one.connect()
    idle.sendall(b"<34>not finish")
    assert is_reset(idle)
    assert one.await_records(1) == [b"<34>not finish"]
    busy = one.connect()
    busy.sendall(A + b"\n<34>cut")
    one.await_records(1)
    one.stop()
    assert is_reset(busy)
    assert one.read() == [b"<34>cut"]


def test_what_a_reset_connection_sent_is_kept(bench: MakeBench) -> None:
    one = bench("tcp")
    connection = one.connect()
    connection.sendall(A + b"\n<34>half")
    assert one.await_records(1) == [A]
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    assert one.await_records(1) == [b"<34>half"]


def test_ten_thousand_connections_over_the_cap_are_refused(bench: MakeBench) -> None:
    one = bench("tcp", max_connections=3)
    held = [one.connect() for _ in range(3)]
    wait_for(lambda: one.facts.connections == 3)
    for _ in range(10_000):
        with socket.socket() as extra:
            extra.settimeout(20)
            with contextlib.suppress(ConnectionResetError):
                extra.connect((one.host, one.port))
    wait_for(lambda: one.facts.refused == 10_000)
    assert "all 3 connections are taken" in one.facts.error
    held[0].sendall(A + b"\n")
    assert one.await_records(1) == [A]
    for connection in held:
        connection.close()
    wait_for(lambda: one.facts.connections == 0)
    assert send_and_wait(one.connect(), B)
    wait_for(lambda: one.facts.error == "")


def test_no_peer_keeps_the_others_out_alone(bench: MakeBench) -> None:
    one = bench("tcp", max_connections=10)
    greedy = [one.connect() for _ in range(10)]
    greedy[0].sendall(b"<1>begun")
    wait_for(lambda: one.facts.connections == 10)
    time.sleep(0.05)
    for connection in greedy[1:]:
        connection.sendall(b"<1>x")
    time.sleep(0.05)
    others = []
    for _ in range(8):
        others.append(socket.create_connection((one.host, one.port), 20, ("127.0.0.2", 0)))
        others[-1].sendall(A + b"\n")
    assert one.await_records(1)[:1] == [b"<1>begun"], "the most silent one goes first"
    wait_for(lambda: one.facts.connections == 10 and one.facts.refused == 8)
    assert is_reset(greedy[0])
    heard = [other for other in others if not is_ended(other)]
    assert len(heard) == 5, "half of all, and no more"
    for connection in greedy + others:
        connection.close()


def test_peers_that_are_not_allowed(bench: MakeBench) -> None:
    one = bench("tcp", allow=("192.0.2.0/24", "127.0.0.2"))
    assert is_reset(one.connect())
    assert one.facts.refused == 1
    connection = socket.create_connection((one.host, one.port), 20, ("127.0.0.2", 0))
    assert send_and_wait(connection, A)
    two = bench("udp", allow=("127.0.0.2",))
    for host in ("127.0.0.1", "127.0.0.2"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind((host, 0))
            sender.sendto(host.encode(), (two.host, two.port))
    assert two.await_records(1) == [b"127.0.0.2"]
    assert two.facts.refused == 1


def test_slow_senders_do_not_hold_up_others(bench: MakeBench) -> None:
    one = bench("tcp")
    slow = [one.connect() for _ in range(20)]
    for byte in A[:10]:
        for connection in slow:
            connection.sendall(bytes((byte,)))
    assert send_and_wait(one.connect(), B)
    assert one.read() == [B]
    for connection in slow:
        connection.close()
    assert one.await_records(20) == [A[:10]] * 20


def test_too_many_unfinished_messages_are_cut(
    bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.sources.receiver.HELD_BYTES", 3000)
    one = bench("tcp", record_bytes=2000, keep_bytes=100)
    senders = [one.connect() for _ in range(3)]
    for sender in senders:
        sender.sendall(b"<1>" + b"x" * 1497)
        time.sleep(0.05)
    senders[2].sendall(b"\n")
    assert [len(record) for record in one.await_records(1)] == [100]
    wait_for(lambda: one.facts.cut == 1)
    for sender in senders:
        sender.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_datagrams(bench: MakeBench, host: str) -> None:
    one = bench("udp", host=host, record_bytes=60_000)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sent = [A, B + b"\n", b"", b"\0\n", b"<1>" + b"x" * 65_000, b"<34>a\nb\0c"]
        for datagram in sent:
            sender.sendto(datagram, (host, one.port))
    got = one.await_records(4)
    assert got == [A, B + b"\n", b"<1>" + b"x" * 59_997, b"<34>a\nb\0c"]
    wait_for(lambda: one.facts.cut == 1)
    assert one.facts.receive_buffer > 0


def test_datagrams_that_the_kernel_drops_are_counted(tmp_path: Path) -> None:
    """The loop is not turned while they come: the buffer runs over."""
    settings = ReceiverSettings(
        "udp", "127.0.0.1:0", str(tmp_path), 1, 1 << 30, 1 << 20, 1 << 16, receive_buffer=4096
    )
    receiver = Receiver(settings, tell=lambda _: True)
    receiver.turn(0)
    port = int(receiver.facts.bound.rpartition(":")[2])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(1000):
            sender.sendto(A, ("127.0.0.1", port))
    until = time.monotonic() + 20
    while receiver.facts.received + receiver.facts.dropped < 1000 and time.monotonic() < until:
        receiver.turn(0.1)
    assert receiver.facts.dropped > 500
    assert receiver.facts.received + receiver.facts.dropped == 1000
    receiver.stopping = True
    receiver.run()


def test_a_full_spool_holds_tcp_back_and_loses_nothing(bench: MakeBench) -> None:
    one = bench("tcp", cap=1 << 20)
    messages = [b"<1>%d " % n + b"y" * 1000 for n in range(20_000)]
    done: list[bool] = []
    sender = threading.Thread(
        target=lambda: done.append(send_and_wait(one.connect(), b"\n".join(messages) + b"\n"))
    )
    sender.start()
    wait_for(lambda: one.facts.error.startswith("spool full: "))
    time.sleep(0.5)
    assert one.reader.measure()[0] <= 1 << 20
    assert not done
    found: list[bytes] = []
    until = time.monotonic() + 60
    while len(found) < len(messages) and time.monotonic() < until:
        found += one.read()
        one.reader.commit()
        time.sleep(0.01)
    sender.join(20)
    assert done == [True]
    assert found == messages
    wait_for(lambda: one.facts.error == "")
    assert one.facts.dropped == 0


def test_a_full_spool_drops_datagrams_and_counts_them(bench: MakeBench) -> None:
    one = bench("udp", cap=200_000, receive_buffer=100_000)
    number = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        while "spool full" not in one.facts.error or number < 3000:
            sender.sendto(b"<1>%d" % number + b"z" * 300, (one.host, one.port))
            number += 1
            if number % 100 == 0:
                time.sleep(0.002)
            assert number < 100_000
    wait_for(lambda: one.facts.dropped > 0)
    found: set[bytes] = set()

    def look() -> bool:
        found.update(one.read())
        one.reader.commit()
        total: int = len(found) + one.facts.dropped
        return total == number and not one.facts.error

    wait_for(look)
    one.stop()
    assert len(found) + one.facts.dropped == number


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_takes_nothing(bench: MakeBench, code: int) -> None:
    failing = threading.Event()
    failing.set()

    def write(descriptor: int, data: bytes) -> int:
        if failing.is_set():
            raise OSError(code, os.strerror(code))
        return os.write(descriptor, data)

    one = bench("tcp", open_spool=functools.partial(SpoolWriter, write=write))
    connection = one.connect()
    connection.sendall(A + b"\n")
    wait_for(lambda: one.facts.error == f"spool can't be written: {os.strerror(code)}")
    connection.sendall(B + b"\n")
    time.sleep(0.3)
    failing.clear()
    connection.shutdown(socket.SHUT_WR)
    assert connection.recv(1) == b""
    connection.close()
    assert one.facts.error == ""
    assert one.read() == [A, B]


def test_an_end_with_a_full_spool_says_what_was_lost(bench: MakeBench) -> None:
    def write(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    one = bench("tcp", open_spool=functools.partial(SpoolWriter, write=write))
    connection = one.connect()
    connection.sendall((A + b"\n") * 5)
    wait_for(lambda: "No space left" in one.facts.error)
    one.stop()
    assert one.facts.dropped == 5
    assert is_reset(connection)


def test_a_spool_that_can_not_be_opened_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("in the way")
    one = Bench(tmp_path / "s", "tcp")
    assert one.facts.error == "spool can't be written: File exists"
    (tmp_path / "s").unlink()
    wait_for(lambda: one.facts.listening)
    assert send_and_wait(one.connect(), A)
    one.stop()
    assert one.read() == [A]


# -- RELP --------------------------------------------------------------------------------------


class RelpClient:
    """The sending side of a RELP session."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._stream = connection.makefile("rb")
        self.number = 0

    def send(self, command: str, data: bytes = b"") -> int:
        self.number += 1
        self._connection.sendall(relp(self.number, command, data))
        return self.number

    def answer(self) -> tuple[int, str, bytes]:
        """Raises OSError or EOFError when none comes."""
        head = b""
        while head.count(b" ") < 3 and not head.endswith(b"\n"):
            byte = self._stream.read(1)
            if not byte:
                raise EOFError
            head += byte
        number, command, length = head.split()
        data = self._stream.read(int(length)) if int(length) else b""
        if head.endswith(b" "):
            assert self._stream.read(1) == b"\n"
        return int(number), command.decode(), data

    def close(self) -> None:
        self._stream.close()
        self._connection.close()


def test_a_relp_session(bench: MakeBench) -> None:
    one = bench("relp")
    client = RelpClient(one.connect())
    client.send("syslog", A)
    assert client.answer() == (1, "rsp", b"500 no such command"), "open comes first"
    client.send("open", b"relp_version=0\nrelp_software=test\ncommands=syslog")
    number, command, data = client.answer()
    assert (number, command) == (2, "rsp")
    assert data.startswith(b"200 OK\nrelp_version=0\n")
    assert b"commands=syslog" in data
    for message in (A, B + b"\nmore", b""):
        client.send("syslog", message)
    assert [client.answer() for _ in range(3)] == [(n, "rsp", b"200 OK") for n in (3, 4, 5)]
    client.send("starttls")
    assert client.answer() == (6, "rsp", b"500 no such command")
    client.send("close")
    assert client.answer() == (7, "rsp", b"")
    assert client.answer() == (0, "serverclose", b"")
    with pytest.raises(EOFError):
        client.answer()
    client.close()
    assert one.read_peers() == [("relp 127.0.0.1", A), ("relp 127.0.0.1", B + b"\nmore")]


def test_relp_answers_only_when_the_disk_has_it(bench: MakeBench) -> None:
    may_sync = threading.Event()

    def sync(descriptor: int) -> None:
        may_sync.wait(20)
        os.fdatasync(descriptor)

    one = bench("relp", open_spool=functools.partial(SpoolWriter, sync=sync))
    connection = one.connect()
    client = RelpClient(connection)
    client.send("open", b"relp_version=0")
    client.answer()
    client.send("syslog", A)
    connection.settimeout(0.3)
    with pytest.raises(TimeoutError):
        connection.recv(1)
    may_sync.set()
    connection.settimeout(20)
    assert connection.recv(100) == b"2 rsp 6 200 OK\n"
    client.close()


def test_an_unfinished_relp_message_is_not_taken(bench: MakeBench) -> None:
    one = bench("relp")
    connection = one.connect()
    connection.sendall(relp(1, "open", b"relp_version=0") + relp(2, "syslog", A) + b"3 syslog 50 <")
    wait_for(lambda: one.facts.received == 1)
    connection.close()
    wait_for(lambda: one.facts.connections == 0)
    assert one.read() == [A]


def test_a_relp_sender_that_reads_no_answers_is_not_read_any_more(bench: MakeBench) -> None:
    one = bench("relp")
    connection = one.connect()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(1.0)
    connection.sendall(relp(1, "open", b"relp_version=0"))
    sent = 0
    with pytest.raises(TimeoutError):
        for _ in range(5_000):
            connection.sendall(relp(2, "syslog", b"<1>x") * 1000)
            sent += 1000
    other = RelpClient(one.connect())
    other.send("open", b"relp_version=0")
    assert other.answer()[0] == 1
    other.close()
    connection.close()


def test_what_is_no_relp_is_ended(bench: MakeBench) -> None:
    one = bench("relp")
    connection = one.connect()
    connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"x" * 100)
    assert is_reset(connection)
    assert one.facts.broken == 1


# -- the source with its child -----------------------------------------------------------------

MakeSource = Callable[..., SyslogListenSource]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeSource]:
    made: list[SyslogListenSource] = []

    def make_source(transport: Any = "tcp", start: bool = True, **more: Any) -> SyslogListenSource:
        made.append(
            SyslogListenSource(
                "net",
                transport=transport,
                folder=tmp_path / "spool",
                clock=time.time,
                pauses=(0.05, 0.4),
                **{"address": "127.0.0.1:0", **more},
            )
        )
        if start:
            made[-1].start(lambda: None)
        return made[-1]

    yield make_source
    for source in made:
        source.close()


def find_port(source: SyslogListenSource) -> int:
    wait_for(lambda: bool(source.describe()["listening"]))
    return int(source.describe()["bound"].rpartition(":")[2])


def connect(source: SyslogListenSource) -> socket.socket:
    return socket.create_connection(("127.0.0.1", find_port(source)), 20)


@pytest.mark.parametrize("words", [["-d"], ["-T"], ["-T", "--octet-count"], ["-T", "--rfc3164"]])
def test_messages_of_a_real_sender(make: MakeSource, words: list[str]) -> None:
    """logger(1) of util-linux, where it is installed."""
    if shutil.which("logger") is None:
        pytest.skip("logger is not installed")
    source = make("udp" if "-d" in words else "tcp")
    port = str(find_port(source))
    for text in ("first message", "second"):
        subprocess.run(
            ["logger", "-n", "127.0.0.1", "-P", port, *words, "-p", "auth.err", "-t", "sshd", text],
            check=True,
        )
    records: list[bytes] = []

    def look() -> bool:
        records.extend(record.data for record in source.poll(10).records)
        source.commit()
        return len(records) == 2

    wait_for(look)
    assert all(record.startswith(b"<35>") for record in records)
    assert [record.rpartition(b" ")[2] for record in records] == [b"message", b"second"]


def test_records_of_the_source(make: MakeSource) -> None:
    woken = threading.Event()
    source = make(start=False, format="syslog5424")
    source.start(woken.set)
    assert send_and_wait(connect(source), A + b"\n" + B + b"\n")
    assert woken.wait(20)
    before = time.time()
    batch = source.poll(10)
    one, two = batch.records
    assert (one.data, two.data) == (A, B)
    assert (one.source, one.path, one.logical) == ("net", "syslog tcp 127.0.0.1", "net/1")
    assert one.format == "syslog5424"
    assert before - 20 < one.received <= before
    assert one.cursor.next == two.cursor.position == one.cursor.position + len(A)
    assert [c.key for c in batch.checkpoints] == ["spool"]
    assert source.describe()["bytes_behind"] == 0
    source.rewind()
    assert source.describe()["bytes_behind"] > 0
    again = source.poll(10)
    assert [event_id(r) for r in again.records] == [event_id(r) for r in batch.records]
    source.commit()
    empty = source.poll(10)
    assert (empty.records, empty.rejected, empty.checkpoints) == ([], [], [])


def test_a_checkpoint_goes_on_inside_a_block(make: MakeSource) -> None:
    source = make()
    assert send_and_wait(connect(source), b"".join(b"<1>%d\n" % n for n in range(100)))
    records: list[RawRecord] = []
    checkpoints: list[Any] = []
    while len(records) < 60:
        batch = source.poll(7)
        assert source.has_more
        records += batch.records
        checkpoints = batch.checkpoints
        source.commit()
    source.close()
    later = make(start=False, checkpoints=checkpoints)
    records += later.poll(1000).records
    assert [r.data for r in records] == [b"<1>%d" % n for n in range(100)]
    assert len({event_id(r) for r in records}) == 100
    positions = [r.cursor.position for r in records]
    assert positions == sorted(positions)


def test_cut_and_damaged_records_are_rejected(make: MakeSource, tmp_path: Path) -> None:
    source = make(limits=StreamLimits(100, 20))
    assert send_and_wait(connect(source), b"<1>" + b"x" * 200 + b"\n" + A + b"\n")
    batch = source.poll(10)
    assert [r.data for r in batch.records] == [A]
    (refused,) = batch.rejected
    assert refused.reason == "record of 203 bytes is longer than the cap of 100"
    assert (refused.length, len(refused.record.data)) == (203, 20)
    source.commit()
    assert send_and_wait(connect(source), b"<1>second\n")
    assert send_and_wait(connect(source), b"<1>third\n")
    (segment,) = spool.list_segments(tmp_path / "spool")
    data = segment.path.read_bytes()
    segment.path.write_bytes(data.replace(b"second", b"sEcond"))
    batch = source.poll(10)
    assert [r.data for r in batch.records] == [b"<1>third"]
    (refused,) = batch.rejected
    assert refused.reason.startswith("spool segment 1 is damaged: ")
    assert b"sEcond" in refused.record.data
    assert source.describe()["damaged_blocks"] == 1


def test_an_address_in_use_is_said_and_tried_again(make: MakeSource) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "127.0.0.1:%d" % taken.getsockname()[1]  # noqa: UP031
        source = make(address=address)
        wait_for(lambda: "Address already in use" in source.describe()["error"])
        assert not source.describe()["listening"]
    assert send_and_wait(connect(source), A)
    assert source.describe()["error"] == ""


def test_a_killed_receiver_is_started_again(make: MakeSource) -> None:
    source = make()
    assert send_and_wait(connect(source), A)
    wait_for(lambda: source.describe()["received"] == 1)
    for number in range(1, 4):
        waiting = connect(source)
        waiting.sendall(B + b"\n")
        time.sleep(0.05)
        pid = source.describe()["pid"]
        os.kill(pid, signal.SIGKILL)
        assert is_reset(waiting), "a death never looks like an orderly end"
        wait_for(lambda n=number: source.describe()["restarts"] == n)  # type: ignore[misc]
        wait_for(lambda: source.describe()["error"] == "")
    wait_for(lambda: source.describe()["error"] == "")
    assert send_and_wait(connect(source), A)
    wait_for(lambda: source.describe()["received"] >= 2)
    records = [r.data for r in source.poll(100).records]
    assert records.count(A) == 2


def test_a_receiver_that_does_not_come_up_says_why(
    make: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    source = make()
    wait_for(lambda: "can't be started: No such file" in source.describe()["error"])
    assert source.poll(10).records == []


def test_closing_takes_what_was_sent(make: MakeSource) -> None:
    source = make()
    connection = connect(source)
    connection.sendall((A + b"\n") * 1000)
    source.close()
    later = make(start=False)
    assert len(later.poll(10_000).records) == 1000
    assert source.describe()["pid"] is None
    connection.close()


def test_a_small_disk_that_is_full_and_then_is_not(tmp_path: Path) -> None:
    """A real one, where file systems may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("file systems can't be mounted here")
    source = SyslogListenSource(
        "net", transport="tcp", address="127.0.0.1:0", folder=place / "spool", clock=time.time
    )
    try:
        source.start(lambda: None)
        messages = [b"<1>%d " % n + b"y" * 500 for n in range(20_000)]
        done: list[bool] = []
        sender = threading.Thread(
            target=lambda: done.append(send_and_wait(connect(source), b"\n".join(messages)))
        )
        (place / "other").write_bytes(b"x" * 1_000_000)  # somebody else's
        sender.start()
        wait_for(lambda: "No space left on device" in source.describe()["error"])
        records: list[bytes] = []
        until = time.monotonic() + 30
        while len(records) < len(messages) and time.monotonic() < until:
            records += [r.data for r in source.poll(10_000).records]
            source.commit()
            time.sleep(0.01)
        sender.join(20)
        assert records == messages
        assert done == [True]
        wait_for(lambda: source.describe()["error"] == "")
    finally:
        source.close()
        subprocess.run(["umount", str(place)], check=True)


def test_the_receiver_ends_with_its_parent(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path\n"
        "from appliance.sources.syslog_listen import SyslogListenSource\n"
        "s = SyslogListenSource('net', transport='udp', address='127.0.0.1:0',\n"
        "    folder=Path(sys.argv[1]), clock=time.time)\n"
        "s.start(lambda: None)\n"
        "while not s.describe()['listening']: time.sleep(0.01)\n"
        "print(s.describe()['pid'], flush=True); time.sleep(100)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "s")], stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert Path(f"/proc/{pid}").exists()
    parent.kill()
    parent.wait()
    parent.stdout.close()

    def is_gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    wait_for(is_gone)


def test_settings_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    for more in ({"address": "host:514"}, {"allow": ("10.0.0.1/8",)}):
        settings: dict[str, Any] = {"address": "127.0.0.1:0", **more}
        with pytest.raises(ValueError, match=r"."):
            SyslogListenSource("net", transport="tcp", folder=tmp_path, clock=time.time, **settings)


def test_every_name_has_a_folder_of_its_own(tmp_path: Path) -> None:
    names = [
        "net",
        "net-2",
        "a/b",
        "a-b",
        "..",
        ".",
        "../../x",
        "x" * 200,
        "x" * 199,
        "\u00e9" * 200,
    ]
    folders = [spool_folder(tmp_path, name) for name in names]
    assert folders[0] == tmp_path / "spool" / "net"
    assert len(set(folders)) == len(names)
    for folder in folders:
        assert folder.parent == tmp_path / "spool"
        folder.mkdir(parents=True)
