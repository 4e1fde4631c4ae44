"""The syslog sinks against receivers on the loopback, and the table that builds every sink."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.emit.file import FileSink
from appliance.emit.sinks import SINKS, TRANSPORTS, DeliveryFailed, Sink, SinkSettings, build_sink
from appliance.emit.syslog_tcp import TcpTransport, frame_octets, parse_address
from appliance.schema import Message, MessageKind, SinkPosition
from tests.test_emit_render import HOSTILE
from tests.test_emit_syslog import make_message, parse

WAIT = 10.0


def make_messages(first: int, last: int, kind: MessageKind = "finding") -> list[Message]:
    return [
        Message(seq, kind, f"{seq:032x}", 1_700_000_000.0, make_message(kind, HOSTILE).body)
        for seq in range(first, last + 1)
    ]


def read_id(raw: bytes) -> int:
    ((_, params),) = parse(raw).elements.items()
    return int(dict(params)["id"], 16)


def read_frames(stream: Any) -> Iterator[bytes]:
    """Octet-counted frames (RFC 6587, section 3.4.1) until the stream ends."""
    while True:
        digits = b""
        while not digits.endswith(b" "):
            byte = stream.read(1)
            if not byte:
                assert digits == b""
                return
            digits += byte
        assert digits[:-1].isdigit()
        assert not digits.startswith(b"0")
        frame = stream.read(int(digits))
        assert len(frame) == int(digits)
        yield frame


class StreamReceiver:
    """Accepts connections one after the other and keeps whole frames; `limit` frames after which
    it closes a connection."""

    def __init__(self, listener: socket.socket, limit: int | None = None) -> None:
        self.listener = listener
        self.limit = limit
        self.frames: list[bytes] = []
        self.connections = 0
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            with peer, peer.makefile("rb") as stream:
                peer.settimeout(WAIT)
                self.connections += 1
                with contextlib.suppress(OSError):
                    for count, frame in enumerate(read_frames(stream), 1):
                        with self.changed:
                            self.frames.append(frame)
                            self.changed.notify_all()
                        if count == self.limit:
                            break
            with self.changed:
                self.changed.notify_all()

    def wait_for(self, count: int) -> list[int]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.frames) >= count, WAIT)
            return [read_id(frame) for frame in self.frames]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(WAIT)
        assert not self.thread.is_alive()


def listen_tcp(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if family == socket.AF_INET6:
            pytest.skip(f"no IPv6 here: {error}")
        raise


def name_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def build(transport: str, address: str, **changes: Any) -> Sink:
    settings = SinkSettings("syslog", address, transport, **changes)  # type: ignore[arg-type]
    return build_sink("out", settings, hostname="sensor", procid="1")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_tcp_delivers_every_message_in_order(host: str) -> None:
    receiver = StreamReceiver(listen_tcp(host))
    sink = build("tcp", name_of(receiver.listener))
    try:
        position = sink.deliver(make_messages(1, 100), SinkPosition())
        assert position == SinkPosition(seq=100)
        sink.deliver(make_messages(95, 120), position)
        assert receiver.wait_for(120) == list(range(1, 121))
        assert receiver.connections == 1
        state = sink.state()
        assert (state.connected, state.sent, state.acknowledged) == (True, 120, False)
    finally:
        sink.close()
        receiver.close()
    assert not sink.state().connected


def test_tcp_receiver_that_closes_after_each_message_gets_them_all() -> None:
    receiver = StreamReceiver(listen_tcp(), limit=1)
    sink = build("tcp", name_of(receiver.listener))
    position = SinkPosition()
    try:
        for last in range(1, 11):
            position = sink.deliver(make_messages(position.seq + 1, last), position)
            receiver.wait_for(last)
            wait_until_closed(sink)
        assert receiver.wait_for(10) == list(range(1, 11))
        assert receiver.connections == 10
        assert sink.state().failures == 0
    finally:
        sink.close()
        receiver.close()


def wait_until_closed(sink: Any) -> None:
    opened = sink._transport._socket
    opened.settimeout(WAIT)
    assert opened.recv(1, socket.MSG_PEEK) == b""


def test_tcp_nobody_listens_then_somebody_does() -> None:
    listener = listen_tcp()
    address = name_of(listener)
    listener.close()
    sink = build("tcp", address)
    with pytest.raises(DeliveryFailed) as caught:
        sink.deliver(make_messages(1, 2), SinkPosition())
    assert caught.value.position == SinkPosition()
    state = sink.state()
    assert (state.failures, state.connected, state.sent) == (1, False, 0)
    assert address in state.last_error
    receiver = StreamReceiver(listen_tcp(port=parse_address(address)[1]))
    try:
        assert sink.deliver(make_messages(1, 2), SinkPosition()).seq == 2
        assert receiver.wait_for(2) == [1, 2]
        assert sink.state().last_error == ""
    finally:
        sink.close()
        receiver.close()


def test_tcp_receiver_that_never_reads_fails_in_time_and_keeps_the_rest() -> None:
    with listen_tcp() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        transport = TcpTransport(name_of(listener), send_timeout=0.3)
        sink: Any = build("tcp", name_of(listener))
        sink._transport = transport
        messages = make_messages(1, 5000)
        with pytest.raises(DeliveryFailed, match=r"timed out|acknowledge") as caught:
            sink.deliver(messages, SinkPosition())
        assert 0 <= caught.value.position.seq < 5000
        assert not transport.connected


def test_tcp_reset_is_noticed_and_sent_again() -> None:
    with listen_tcp() as listener:
        sink = build("tcp", name_of(listener))
        position = sink.deliver(make_messages(1, 1), SinkPosition())
        peer, _ = listener.accept()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()  # unread data and no linger: a reset
        with pytest.raises(DeliveryFailed) as caught:
            sink.deliver(make_messages(2, 2), position)
        assert caught.value.position == position
        assert sink.deliver(make_messages(2, 2), position).seq == 2
        peer, _ = listener.accept()
        sink.close()
        with peer, peer.makefile("rb") as stream:
            assert [read_id(frame) for frame in read_frames(stream)] == [2]


def test_tcp_reset_after_the_last_message_is_noticed() -> None:
    with listen_tcp() as listener:
        peers: list[socket.socket] = []

        def die_with_the_message_unread(step: str) -> None:
            if step == "syslog.send.after":
                peers.append(listener.accept()[0])
                peers[-1].settimeout(WAIT)
                assert peers[-1].recv(1, socket.MSG_PEEK)
                if len(peers) == 1:
                    peers[0].close()  # with data unread: the kernel resets the connection

        settings = SinkSettings("syslog", name_of(listener))
        sink = build_sink("out", settings, hostname="h", on_step=die_with_the_message_unread)
        with pytest.raises(DeliveryFailed, match="reset") as caught:
            sink.deliver(make_messages(1, 1), SinkPosition())
        assert caught.value.position == SinkPosition()
        assert sink.deliver(make_messages(1, 1), SinkPosition()).seq == 1
        sink.close()
        with peers[1], peers[1].makefile("rb") as stream:
            assert [read_id(frame) for frame in read_frames(stream)] == [1]


def test_tcp_receiver_that_talks_without_end_is_dropped() -> None:
    with listen_tcp() as listener:
        sink = build("tcp", name_of(listener))
        position = sink.deliver(make_messages(1, 1), SinkPosition())
        peer, _ = listener.accept()
        with peer:
            peer.sendall(b"hello\r\n")
            assert sink.deliver(make_messages(2, 2), position).seq == 2
            peer.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                while True:
                    peer.send(b"x" * 65536)
            sink.deliver(make_messages(3, 3), position)
        sink.close()


def receive_datagrams(receiver: socket.socket, count: int) -> list[int]:
    receiver.settimeout(WAIT)
    return [read_id(receiver.recv(65536)) for _ in range(count)]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_udp_sends_one_datagram_a_message(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as receiver:
        try:
            receiver.bind((host, 0))
        except OSError as error:
            pytest.skip(f"no {host} here: {error}")
        sink = build("udp", name_of(receiver))
        assert sink.deliver(make_messages(1, 20), SinkPosition()).seq == 20
        assert receive_datagrams(receiver, 20) == list(range(1, 21))
        assert not sink.state().acknowledged
        sink.close()


def test_udp_message_stays_within_its_limit() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        sink = build("udp", name_of(receiver))
        long = make_message("finding", "A" * 60_000)
        sink.deliver([long], SinkPosition())
        receiver.settimeout(WAIT)
        raw = receiver.recv(65536)
        sink.close()
    assert 1900 < len(raw) <= 2048
    assert parse(raw).params("finding@32473")["id"] == long.id


def test_udp_refusal_is_an_error() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        address = name_of(receiver)
    sink = build("udp", address)
    with pytest.raises(DeliveryFailed, match="refused") as caught:
        sink.deliver(make_messages(1, 3), SinkPosition())
    assert caught.value.position == SinkPosition()


def test_unix_datagram_and_a_restart_of_the_receiver(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    sink = build("unix", path)
    with pytest.raises(DeliveryFailed, match="No such file"):
        sink.deliver(make_messages(1, 1), SinkPosition())
    position = SinkPosition()
    for last in (3, 6):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
            receiver.bind(path)
            first = position.seq + 1
            position = sink.deliver(make_messages(first, last), position)
            assert receive_datagrams(receiver, 3) == [first, first + 1, last]
        Path(path).unlink()
    with pytest.raises(DeliveryFailed):
        sink.deliver(make_messages(7, 7), position)
    assert not sink.state().connected


def test_unix_receiver_that_does_not_read_is_an_error_in_time(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(path)
        sink: Any = build("unix", path)
        sink._transport._send_timeout = 0.2
        with pytest.raises(DeliveryFailed, match="timed out") as caught:
            sink.deliver(make_messages(1, 5000), SinkPosition())
        delivered = caught.value.position.seq
        assert 0 < delivered < 5000
        assert receive_datagrams(receiver, delivered) == list(range(1, delivered + 1))


def test_unix_stream_is_framed(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "log"))
    listener.listen()
    receiver = StreamReceiver(listener)
    sink = build("unix", str(tmp_path / "log"))
    try:
        assert sink.deliver(make_messages(1, 5), SinkPosition()).seq == 5
        assert receiver.wait_for(5) == [1, 2, 3, 4, 5]
    finally:
        sink.close()
        receiver.close()


def test_kinds_and_steps(tmp_path: Path) -> None:
    steps: list[str] = []
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(path)
        settings = SinkSettings("syslog", path, "unix", kinds=frozenset({"incident"}))
        sink = build_sink("out", settings, hostname="h", on_step=steps.append)
        batch = [*make_messages(1, 2), *make_messages(3, 3, "incident"), *make_messages(4, 4)]
        assert sink.deliver(batch, SinkPosition()).seq == 4
        assert receive_datagrams(receiver, 1) == [3]
        sink.close()
    assert steps == ["syslog.send.before", "syslog.send.after"]
    assert (sink.state().sent, sink.state().skipped) == (1, 3)


def test_octets_are_counted_not_characters() -> None:
    assert frame_octets("é".encode()) == b"2 \xc3\xa9"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.0.0.5:601", ("10.0.0.5", 601)),
        ("collector.example:6514", ("collector.example", 6514)),
        ("[::1]:514", ("::1", 514)),
        ("[fe80::1%eth0]:514", ("fe80::1%eth0", 514)),
    ],
)
def test_addresses(address: str, expected: tuple[str, int]) -> None:
    assert parse_address(address) == expected


@pytest.mark.parametrize(
    "address",
    ["", "host", "host:", ":514", "::1:514", "host:0", "host:65536", "a b:1", "[::1]", "höst:1",
     "host:\u0661", "a:1\n", "[x]:1"],
)  # fmt: skip
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(ValueError, match=r"host:port|port"):
        parse_address(address)


def test_the_tables_name_everything(tmp_path: Path) -> None:
    assert set(SINKS) == {"file", "syslog"}
    assert set(TRANSPORTS) == {"tcp", "udp", "unix"}
    file = build_sink("f", SinkSettings("file", str(tmp_path / "x")), hostname="h")
    assert isinstance(file, FileSink)
    assert not (tmp_path / "x").exists()
    assert build("udp", "127.0.0.1:514").state().target == "udp://127.0.0.1:514"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"type": "smoke"}, "type"),
        ({"transport": "pigeon"}, "transport"),
        ({"address": "nowhere"}, "host:port"),
        ({"facility": "x"}, "facility"),
        ({"max_bytes": 0}, "max_bytes"),
        ({"max_bytes": 65508, "transport": "udp"}, "max_bytes"),
        ({"enterprise": "x"}, "enterprise"),
        ({"transport": "unix", "address": ""}, "path"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], reason: str) -> None:
    given = {"type": "syslog", "address": "127.0.0.1:601", **changes}
    with pytest.raises(ValueError, match=reason):
        build_sink("out", SinkSettings(**given), hostname="h")
