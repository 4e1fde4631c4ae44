"""First step of the line, the child process: reads the network and writes what came to the spool.

`python -m appliance.sources.receiver` reads ReceiverSettings on stdin and serves until SIGTERM, or
until its parent has ended. It then stops accepting, takes what is in the socket buffers, has the
disk hold it, and ends. Nothing that a peer sends is understood here beyond where a message ends.

What tells a sender that its messages are on disk:

- RELP: `200 OK` for each message, only after the disk has it.
- TCP: the orderly end of a connection. A sender that shuts down its side and then reads the end of
  the stream (no reset) knows that all it sent on this connection is on disk. Every other end, also
  the death of this process, is a reset: the sockets have SO_LINGER with zero seconds until then.
- UDP: nothing; what the kernel dropped is counted.

When the spool takes nothing, nothing is read: TCP and RELP senders wait, and the kernel drops (and
counts) what does not fit into the UDP buffer.
"""

import contextlib
import errno
import os
import resource
import select
import selectors
import signal
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from ctypes import CDLL
from pathlib import Path
from typing import Final

import msgspec

from appliance.errors import SourceError
from appliance.sources.listening import (
    ERROR_CHARACTERS,
    WROTE,
    ReceiverFacts,
    ReceiverSettings,
    is_allowed,
    parse_listen_address,
    parse_networks,
)
from appliance.sources.relp import RelpFramer, RelpSession
from appliance.sources.spool import SpoolUnsynced, SpoolWriter
from appliance.sources.syslog_frames import BLANKS, Framed, SyslogFramer

#: Bytes read from a connection at a time.
CHUNK_BYTES: Final = 1 << 18
#: Bytes gathered before they are written; other sockets wait for the next turn.
GATHER_BYTES: Final = 4 << 20
#: Bytes that may wait for a sync, whatever the time.
UNSYNCED_BYTES: Final = 32 << 20
#: Unfinished messages of all connections together; over it they are cut.
HELD_BYTES: Final = 64 << 20
#: Connections taken, and datagrams read, before something else gets its turn.
ACCEPTS_A_TURN: Final = 256
LAST_ACCEPTS: Final = 8
DATAGRAMS_A_TURN: Final = 4096
#: Peers whose permission is remembered.
REMEMBERED_PEERS: Final = 4096
#: Bytes of RELP answers that a sender may leave unread before no more is read from it.
UNREAD_ANSWERS: Final = 1 << 16
#: Descriptors that are not connections.
SPARE_DESCRIPTORS: Final = 32

#: Seconds: between tries to listen or to write, between two words to the line, between facts.
RETRY_SECONDS: Final = 0.5
STALL_SECONDS: Final = 0.1
WAKE_SECONDS: Final = 0.02
FACTS_SECONDS: Final = 1.0
#: Seconds that may go into emptying the sockets at the end, and into ending altogether.
DRAIN_SECONDS: Final = 2.0
END_SECONDS: Final = 10

#: Seconds without traffic before the first probe, between probes, and probes until the end.
KEEPALIVE: Final = (300, 30, 5)
#: socket(7), sock_diag(7): SO_RCVBUFFORCE, and SO_MEMINFO with the place of the drops in it.
_SO_RCVBUFFORCE: Final = 33
_SO_MEMINFO: Final = 55
_MEMINFO: Final = struct.Struct("=9I")
_MEMINFO_DROPS: Final = 8
#: prctl(2): signal this process when the thread that started it ends.
_PR_SET_PDEATHSIG: Final = 1

_RESET: Final = struct.pack("ii", 1, 0)
_ORDERLY: Final = struct.pack("ii", 0, 0)
#: What accept(2) says when there is no room for one more, here or in the kernel.
_NO_ROOM: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

#: One block to write: received, peer, records, full lengths of cut ones.
Gathered = tuple[float, str, Sequence[bytes], Mapping[int, int]]


class Connection:
    """One peer's connection: its socket, who it is, and when it last said something."""

    def __init__(self, opened: socket.socket, peer: str, now: float) -> None:
        self.socket = opened
        self.peer = peer
        self.last = now
        self.held = 0  # bytes of its unfinished message, as counted in the sum of all

    def set_ending(self, orderly: bool) -> None:
        """Whether closing it tells the peer that everything is on disk."""
        with contextlib.suppress(OSError):
            linger = _ORDERLY if orderly else _RESET
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


class PlainConnection(Connection):
    """A connection of syslog over TCP."""

    def __init__(self, opened: socket.socket, peer: str, now: float, framer: SyslogFramer) -> None:
        super().__init__(opened, peer, now)
        self.framer = framer


class RelpConnection(Connection):
    """A connection of RELP: `out` are answers on their way."""

    def __init__(self, opened: socket.socket, peer: str, now: float, framer: RelpFramer) -> None:
        super().__init__(opened, peer, now)
        self.session = RelpSession(framer)
        self.out = bytearray()


class Receiver:
    """The loop: sockets in, spool out. `tell` takes lines for the line's side and says whether it
    took one, `stop_on` are descriptors that become readable when it is to end. `clock` is epoch
    seconds, `timer` any seconds that never go back. Raises ValueError for settings that make no
    sense."""

    def __init__(
        self,
        settings: ReceiverSettings,
        *,
        tell: Callable[[bytes], bool],
        stop_on: Sequence[int] = (),
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
        open_spool: Callable[..., SpoolWriter] = SpoolWriter,
    ) -> None:
        self.settings = settings
        self.facts = ReceiverFacts()
        self.stopping = False
        self._tell = tell
        self._stop_on = list(stop_on)
        self._clock = clock
        self._timer = timer
        self._open_spool = open_spool
        self._spool: SpoolWriter | None = None
        self._host_port = parse_listen_address(settings.address)
        self._networks = parse_networks(settings.allow)
        self._remembered: dict[str, bool] = {}
        self._selector = selectors.DefaultSelector()
        self._listener: socket.socket | None = None
        self._most = min(settings.max_connections, raise_descriptors(settings.max_connections))
        self._connections: set[Connection] = set()
        self._held = 0
        self._gathered: list[Gathered] = []
        self._gathered_bytes = 0
        self._ending: list[Connection] = []  # told to be on disk once it is so
        self._answering: set[RelpConnection] = set()
        self._first_unsynced = 0.0
        self._unsynced_bytes = 0
        self._stalled = False
        self._errors = {"spool": "", "listen": "", "room": ""}
        self._retry_at = self._wake_at = self._facts_at = self._sweep_at = 0.0
        self._wake_due = False
        self._told = ReceiverFacts()
        self._kernel_drops = 0  # what the kernel had dropped when it was last asked
        self._buffer = memoryview(bytearray(1 << 16))
        for descriptor in self._stop_on:
            self._selector.register(descriptor, selectors.EVENT_READ, self._note_stop)

    # -- the loop --------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until told to stop; then take what is there, and close."""
        while not self.stopping:
            self.turn()
        self._drain()

    def turn(self, longest: float = FACTS_SECONDS) -> None:
        """One look at everything; waits `longest` seconds at the most."""
        now = self._timer()
        if self._listener is None and now >= self._retry_at:
            self._open(now)
            self._report(now)
        if self._stalled:
            self._wait_stalled()
        else:
            self._serve(min(longest, self._find_wait(now)))
        self._sweep(self._timer())
        self._flush()
        self._sync(self._timer())
        self._report(self._timer())

    def _find_wait(self, now: float) -> float:
        due = [FACTS_SECONDS]
        if self._listener is None:
            due.append(self._retry_at - now)
        if self._wake_due:
            due.append(self._wake_at - now)
        if self._unsynced_bytes:
            due.append(self._first_unsynced + self.settings.sync_seconds - now)
        return max(0.0, min(due))

    def _serve(self, seconds: float) -> None:
        for key, events in self._selector.select(seconds):
            key.data(events)
            if self._gathered_bytes >= GATHER_BYTES:
                break

    def _wait_stalled(self) -> None:
        """Nothing is read: only the word to stop is waited for."""
        if select.select(self._stop_on, [], [], STALL_SECONDS)[0]:
            self.stopping = True

    def _note_stop(self, _: int) -> None:
        self.stopping = True

    def _open(self, now: float) -> None:
        """Open the spool, then the socket; what fails is tried again."""
        self._retry_at = now + RETRY_SECONDS
        settings = self.settings
        if self._spool is None:
            try:
                self._spool = self._open_spool(
                    Path(settings.folder), cap=settings.cap, first=settings.first
                )
            except SourceError as error:
                self._errors["spool"] = str(error)
                return
            self._errors["spool"] = ""
            self.facts.torn += self._spool.torn
        try:
            self._listen()
        except OSError as error:
            reason = error.strerror or str(error)
            self._errors["listen"] = f"can't listen on {settings.address}: {reason}"
            return
        self._errors["listen"] = ""
        self._facts_at = 0.0

    def _listen(self) -> None:
        """Raises OSError."""
        host, port = self._host_port
        datagrams = self.settings.transport == "udp"
        kind = socket.SOCK_DGRAM if datagrams else socket.SOCK_STREAM
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=kind, flags=socket.AI_NUMERICHOST
        )[0]
        opened = socket.socket(family, kind)
        try:
            if family == socket.AF_INET6:  # only where the configuration says
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if datagrams:
                self._widen(opened)
            else:
                prepare_listener(opened)
            opened.bind(address)
            if not datagrams:
                opened.listen(1024)
            opened.setblocking(False)
        except OSError:
            opened.close()
            raise
        self._listener = opened
        found = opened.getsockname()
        self.facts.bound = (
            f"[{found[0]}]:{found[1]}" if ":" in found[0] else f"{found[0]}:{found[1]}"
        )
        self.facts.listening = True
        read = self._read_datagrams if datagrams else self._accept
        self._selector.register(opened, selectors.EVENT_READ, read)

    def _widen(self, opened: socket.socket) -> None:
        """Ask for a receive buffer; the kernel gives at most net.core.rmem_max without
        CAP_NET_ADMIN, and says twice what it gives (socket(7))."""
        size = self.settings.receive_buffer
        try:
            opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
        except OSError:
            with contextlib.suppress(OSError):
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        given = opened.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        self.facts.receive_buffer = given // 2

    # -- datagrams -------------------------------------------------------------------------------

    def _read_datagrams(self, _: int) -> None:
        self._take_datagrams()

    def _take_datagrams(self) -> bool:
        """One datagram is one message (RFC 5426, section 3.1), as sent; blank ones are none."""
        if self._listener is None:
            return False
        receive, view = self._listener.recvfrom_into, self._buffer
        by_host: dict[str, list[bytes]] = {}
        count = size = 0
        try:
            while count < DATAGRAMS_A_TURN and size < GATHER_BYTES:
                length, address = receive(view)
                count += 1
                size += length
                data = bytes(view[:length])
                held = by_host.get(address[0])
                if held is None:
                    held = by_host[address[0]] = []
                held.append(data)
        except BlockingIOError:
            pass
        except OSError as error:
            self._errors["listen"] = f"can't receive: {error.strerror or error}"
        if count:
            self._errors["listen"] = ""
        now = self._clock()
        for host, records in by_host.items():
            if self._may_send(host):
                kept = [record for record in records if record.strip(BLANKS)]
                self._gather(now, f"udp {host}", self._cut(kept))
            else:
                self.facts.refused += len(records)
        return count > 0

    def _cut(self, records: list[bytes]) -> Framed:
        most = self.settings.record_bytes
        if max(map(len, records), default=0) <= most:
            return Framed(records, {})
        keep = min(self.settings.keep_bytes, most)
        cut = {i: len(record) for i, record in enumerate(records) if len(record) > most}
        return Framed([r[:keep] if i in cut else r for i, r in enumerate(records)], cut)

    def _may_send(self, host: str) -> bool:
        if not self._networks:
            return True
        known = self._remembered.get(host)
        if known is None:
            if len(self._remembered) >= REMEMBERED_PEERS:
                self._remembered.clear()
            known = self._remembered[host] = is_allowed(host, self._networks)
        return known

    # -- connections -----------------------------------------------------------------------------

    def _accept(self, _: int) -> None:
        if self._listener is None:
            return
        for _turn in range(ACCEPTS_A_TURN):
            try:
                opened, address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._errors["room"] = f"can't take a connection: {error.strerror}"
                    time.sleep(WAKE_SECONDS)  # else the waiting connection turns the loop
                    return
                continue  # it ended before it was taken
            self._admit(opened, address[0])

    def _admit(self, opened: socket.socket, host: str) -> None:
        allowed = self._may_send(host)
        full = len(self._connections) >= self._most
        if full and allowed:
            full = not self._make_room(host)
        if full or not allowed:
            if full:
                self._errors["room"] = f"all {self._most} connections are taken"
            self.facts.refused += 1
            opened.close()
            return
        opened.setblocking(False)
        settings, now = self.settings, self._timer()
        peer = f"{settings.transport} {host}"
        connection: Connection
        if settings.transport == "relp":
            relp = RelpFramer(settings.record_bytes, settings.keep_bytes)
            connection = RelpConnection(opened, peer, now, relp)
        else:
            plain = SyslogFramer(settings.record_bytes, settings.keep_bytes)
            connection = PlainConnection(opened, peer, now, plain)
        self._connections.add(connection)
        self.facts.accepted += 1
        self._watch(connection, selectors.EVENT_READ)

    def _make_room(self, host: str) -> bool:
        """End the most silent connection of a peer that holds more than half of all, for one that
        does not: no peer can keep the others out alone. Whether there is room now."""
        held = Counter(connection.peer for connection in self._connections)
        (greedy, most) = held.most_common(1)[0]
        if 2 * most <= self._most or greedy.endswith(f" {host}"):
            return False
        waiting = set(self._ending)
        theirs = [c for c in self._connections if c.peer == greedy and c not in waiting]
        if not theirs:
            return False
        silent = min(theirs, key=lambda connection: connection.last)
        self._finish(silent)
        self._forget(silent)
        self.facts.refused += 1
        return True

    def _watch(self, connection: Connection, events: int) -> None:
        """Have the loop call for these events, or for none."""
        opened = connection.socket
        known = self._selector.get_map().get(opened)
        if known is None:
            if events:
                self._selector.register(
                    opened, events, lambda found: self._handle(connection, found)
                )
        elif not events:
            self._selector.unregister(opened)
        elif known.events != events:
            self._selector.modify(opened, events, known.data)

    def _handle(self, connection: Connection, events: int) -> bool:
        """Something happened on a connection; whether it gave anything."""
        if connection not in self._connections:
            return False
        if isinstance(connection, RelpConnection) and events & selectors.EVENT_WRITE:
            self._send_answers(connection)
            if connection not in self._connections or not events & selectors.EVENT_READ:
                return False
        try:
            chunk = connection.socket.recv(CHUNK_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:  # the peer reset it
            self._finish(connection)
            self._forget(connection)
            return False
        if not chunk:
            self._note_end(connection)
            return False
        connection.last = self._timer()
        if isinstance(connection, PlainConnection):
            self._gather(self._clock(), connection.peer, connection.framer.feed(chunk))
            self._count_held(connection, connection.framer.held)
            if self._held > HELD_BYTES:
                connection.framer.shed()
                self._count_held(connection, connection.framer.held)
        elif isinstance(connection, RelpConnection):
            self._read_relp(connection, chunk)
        return True

    def _note_end(self, connection: Connection) -> None:
        """The peer has said all: the connection ends when the disk has it."""
        self._finish(connection)
        if isinstance(connection, RelpConnection):
            self._forget(connection)
            return
        self._watch(connection, 0)
        self._ending.append(connection)

    def _finish(self, connection: Connection) -> None:
        """Keep an unfinished message. Not of RELP: there the sender knows that it was not taken,
        and sends it again."""
        if isinstance(connection, PlainConnection):
            self._gather(self._clock(), connection.peer, connection.framer.finish())
        self._count_held(connection, 0)

    def _count_held(self, connection: Connection, held: int) -> None:
        self._held += held - connection.held
        connection.held = held

    def _forget(self, connection: Connection) -> None:
        """Close it, orderly or by a reset, as it is set."""
        self._watch(connection, 0)
        self._connections.discard(connection)
        self._count_held(connection, 0)
        if isinstance(connection, RelpConnection):
            self._answering.discard(connection)
        self._errors["room"] = ""
        connection.socket.close()

    def _gather(self, now: float, peer: str, framed: Framed) -> None:
        if framed.records:
            self._gathered.append((now, peer, framed.records, framed.cut))
            self._gathered_bytes += sum(map(len, framed.records))

    # -- RELP ------------------------------------------------------------------------------------

    def _read_relp(self, connection: RelpConnection, chunk: bytes) -> None:
        session = connection.session
        self._gather(self._clock(), connection.peer, session.feed(chunk))
        self._count_held(connection, session.held)
        if session.broken or self._held > HELD_BYTES:
            self.facts.broken += 1
            self._forget(connection)
        elif session.answers:
            self._answering.add(connection)

    def _send_answers(self, connection: RelpConnection) -> None:
        out = connection.out
        try:
            while out:
                del out[: connection.socket.send(out)]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._forget(connection)
            return
        if connection.session.closing and not out:
            connection.set_ending(orderly=True)
            self._forget(connection)
            return
        events = selectors.EVENT_WRITE if out else 0
        if len(out) < UNREAD_ANSWERS and not connection.session.closing:
            events |= selectors.EVENT_READ
        self._watch(connection, events)

    # -- to the disk -----------------------------------------------------------------------------

    def _flush(self) -> None:
        """Write what was gathered; when that fails it stays, and nothing more is read."""
        if not self._gathered or self._spool is None:
            return
        try:
            written = self._spool.append(self._gathered)
        except SourceError as error:
            self._stalled = True
            self._errors["spool"] = str(error)
            if isinstance(error, SpoolUnsynced):
                self._reset_all()
            return
        now = self._timer()
        if self._stalled:
            for connection in self._connections:  # their silence was ours
                connection.last = now
        self._stalled = False
        self._errors["spool"] = ""
        if not self._unsynced_bytes:
            self._first_unsynced = now
        self._unsynced_bytes += written
        facts = self.facts
        facts.received += sum(len(block[2]) for block in self._gathered)
        facts.cut += sum(len(block[3]) for block in self._gathered)
        facts.bytes += self._gathered_bytes
        self._gathered, self._gathered_bytes = [], 0
        self._wake_due = True

    def _sync(self, now: float) -> None:
        """Have the disk hold what is written when somebody waits for it or it is due, and say so
        to those who wait."""
        if self._gathered or self._spool is None:
            return
        waited = bool(self._ending or self._answering)
        late = now - self._first_unsynced >= self.settings.sync_seconds
        if self._unsynced_bytes and (waited or late or self._unsynced_bytes > UNSYNCED_BYTES):
            self._unsynced_bytes = 0
            try:
                self._spool.sync()
            except SpoolUnsynced as error:
                self._errors["spool"] = str(error)
                self._reset_all()
                return
        for connection in self._ending:
            connection.set_ending(orderly=True)
            self._forget(connection)
        self._ending.clear()
        for relp in list(self._answering):
            relp.out += b"".join(relp.session.answers)
            relp.session.answers.clear()
            self._send_answers(relp)
        self._answering.clear()

    def _reset_all(self) -> None:
        """Nobody may believe that the disk has what it may not have."""
        for connection in list(self._connections):
            connection.set_ending(orderly=False)
            self._finish(connection)
            self._forget(connection)
        self._ending.clear()

    def _sweep(self, now: float) -> None:
        """End connections that have been silent for long. By a reset, which their sender notices
        at its next message instead of losing it."""
        if self._stalled or now < self._sweep_at:
            return
        idle = self.settings.idle_seconds
        self._sweep_at = now + min(FACTS_SECONDS, idle / 4)
        waiting = set(self._ending)
        for connection in [c for c in self._connections if now - c.last > idle]:
            if connection not in waiting:
                self._finish(connection)
                self._forget(connection)

    # -- to the line -----------------------------------------------------------------------------

    def _report(self, now: float) -> None:
        """Say that something was written, and the facts when they changed."""
        if self._wake_due and now >= self._wake_at:
            self._wake_due = False
            self._wake_at = now + WAKE_SECONDS
            self._tell(WROTE)
        facts = self.facts
        facts.error = next(filter(None, self._errors.values()), "")[:ERROR_CHARACTERS]
        facts.connections = len(self._connections)
        urgent = (facts.error, facts.listening) != (self._told.error, self._told.listening)
        if now >= self._facts_at or urgent:
            self._facts_at = now + FACTS_SECONDS
            self._count_drops()
            if facts != self._told and self._tell(msgspec.json.encode(facts) + b"\n"):
                self._told = msgspec.structs.replace(facts)

    def _count_drops(self) -> None:
        if self._listener is None or self.settings.transport != "udp":
            return
        with contextlib.suppress(OSError, struct.error):
            raw = self._listener.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
            drops = _MEMINFO.unpack(raw)[_MEMINFO_DROPS]
            self.facts.dropped += (drops - self._kernel_drops) & 0xFFFFFFFF
            self._kernel_drops = drops

    # -- the end ---------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Take what is in the sockets, as far as the spool takes it, and close everything."""
        until = self._timer() + DRAIN_SECONDS
        datagrams = self.settings.transport == "udp"
        if self._listener is not None and not datagrams:
            for _ in range(LAST_ACCEPTS):
                self._accept(0)
            self._selector.unregister(self._listener)
            self._listener.close()
        self._flush()
        more = True
        while more and not self._stalled and self._timer() < until:
            more = self._take_datagrams() if datagrams else self._take_chunks()
            self._flush()
            self._sync(self._timer())
        for connection in self._connections - set(self._ending):
            self._finish(connection)
        self._flush()
        self._unsynced_bytes = max(self._unsynced_bytes, 1)
        self._sync(self._timer())
        self.facts.dropped += sum(len(block[2]) for block in self._gathered)
        self._reset_all()
        self._count_drops()
        self.facts.listening = False
        self._facts_at = 0.0
        self._report(self._timer())
        if self._listener is not None:
            self._listener.close()
        if self._spool is not None:
            with contextlib.suppress(SpoolUnsynced):
                self._spool.close()
        self._selector.close()

    def _take_chunks(self) -> bool:
        """One chunk of each connection; whether any had one."""
        waiting = set(self._ending)
        more = False
        for connection in list(self._connections):
            if connection not in waiting and not self._stalled:
                more |= self._handle(connection, selectors.EVENT_READ)
                if self._gathered_bytes >= GATHER_BYTES:
                    self._flush()
        return more


def prepare_listener(opened: socket.socket) -> None:
    """What every connection inherits: an end by a reset until another is decided, also when this
    process is killed, and probes that find dead peers. Raises OSError."""
    idle, interval, probes = KEEPALIVE
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes)


def raise_descriptors(wanted: int) -> int:
    """Have the kernel allow so many connections; gives how many it does allow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = max(soft, wanted + SPARE_DESCRIPTORS)
    if soft < wanted + SPARE_DESCRIPTORS and soft < hard:
        soft = min(hard, wanted + SPARE_DESCRIPTORS)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, soft - SPARE_DESCRIPTORS)


def end_with_parent(parent: int) -> None:
    """Ask the kernel for SIGTERM when the thread that started us ends; leave at once when the
    parent (process id) is gone already."""
    CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if parent and os.getppid() != parent:
        raise SystemExit(1)


def watch_signals() -> int:
    """Make SIGTERM a byte on a descriptor, which is given; and the end sure, whatever hangs."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda *_: signal.setitimer(signal.ITIMER_REAL, END_SECONDS))
    # Ctrl-C goes to the whole foreground group: when we end is the parent's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return reading


def main() -> int:
    """Entry point of the child process. Exit status 0 after an orderly end, 1 when its settings
    make no sense or its parent is gone."""
    stop = watch_signals()
    try:
        raw = sys.stdin.buffer.readline(1 << 20)
        settings = msgspec.json.decode(raw, type=ReceiverSettings)
        end_with_parent(settings.parent)
        os.set_blocking(1, False)
        receiver = Receiver(settings, tell=tell_parent, stop_on=(stop, sys.stdin.fileno()))
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    receiver.run()
    return 0


def tell_parent(line: bytes) -> bool:
    """One line, whole or not at all (pipe(7): up to PIPE_BUF); whether it was taken. A parent that
    is behind hears the next; one that is gone nothing."""
    try:
        return os.write(1, line) == len(line)
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
