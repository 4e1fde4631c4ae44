"""On the way out, under the syslog sink: TCP with octet counting (RFC 6587, section 3.4.1).

Octet counting, not newline framing: the receiver is told each message's length, so that no
content can end one. Plain TCP tells the sender little: bytes count as having left once the other
side's kernel has acknowledged them, which tells a dead network from a living one, though not a
receiver that dies before it reads.
"""

import fcntl
import re
import select
import socket
import struct
import termios
import time
from typing import Final

#: Seconds without traffic before the first probe, between probes, and probes until the end.
KEEPALIVE: Final = (60, 10, 3)
#: Seconds between two looks at the bytes still on their way.
POLL_SECONDS: Final = 0.005
#: Reads from a receiver that talks back; it has nothing to say, so the rest ends the connection.
MAX_DISCARDED_READS: Final = 16


def parse_address(address: str) -> tuple[str, int]:
    """`host:port` or `[IPv6]:port` as host and port. Raises ValueError with the reason.

    A host name is looked up with the system's resolver at each connect; a numeric address needs
    no lookup.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+(?:%\w+)?)\]|([^\s:\[\]]+)):([0-9]{1,5})", address)
    if match is None or not address.isascii() or not address.isprintable():
        raise ValueError(f"{address!r} is not host:port (IPv6 in brackets: [::1]:601)")
    port = int(match[3])
    if not 1 <= port <= 65535:
        raise ValueError(f"port {port} is not 1 to 65535")
    return match[1] or match[2], port


def look_up_address(address: str) -> list[str]:
    """The numeric addresses that `host:port` stands for, by the system's resolver; nothing is sent
    to them. Raises ValueError for a bad address, OSError or UnicodeError when there is none."""
    host, port = parse_address(address)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def frame_octets(payload: bytes) -> bytes:
    """The message behind its length in decimal and a space (RFC 6587, section 3.4.1)."""
    return b"%d %b" % (len(payload), payload)


class TcpTransport:
    """One TCP connection, opened at the first message and again after it was lost.

    `connect_timeout` is for each address of the host, `send_timeout` for one message and for the
    acknowledgement of a batch; both in seconds. Raises ValueError for a bad address.
    """

    def __init__(
        self, address: str, *, connect_timeout: float = 5.0, send_timeout: float = 10.0
    ) -> None:
        self._host_port = parse_address(address)
        self._connect_timeout = connect_timeout
        self._send_timeout = send_timeout
        self._socket: socket.socket | None = None
        self.target = f"tcp://{address}"

    @property
    def connected(self) -> bool:
        """Whether a socket is open now."""
        return self._socket is not None

    def send(self, payload: bytes) -> None:
        """Send one framed message. A connection that the receiver closed is opened anew, unless
        something sent before may not have arrived: then ConnectionResetError. Raises OSError."""
        if self._socket is not None and self._is_closed_by_peer(self._socket):
            if not self.has_left():
                raise ConnectionResetError("the receiver closed the connection")
            self.close()
        if self._socket is None:
            self._socket = self._connect()
        self._socket.sendall(frame_octets(payload))

    def _connect(self) -> socket.socket:
        opened = socket.create_connection(self._host_port, self._connect_timeout)
        try:
            idle, interval, probes = KEEPALIVE
            opened.settimeout(self._send_timeout)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes)
        except OSError:
            opened.close()
            raise
        return opened

    @staticmethod
    def _is_closed_by_peer(opened: socket.socket) -> bool:
        # Asked with poll: a socket with a timeout waits in recv, whatever the flags say.
        poll = select.poll()
        poll.register(opened, select.POLLIN)
        for _ in range(MAX_DISCARDED_READS):
            if not poll.poll(0):
                return False
            if not opened.recv(65536):
                return True
        return True

    def has_left(self) -> bool:
        """Whether the other side's kernel has acknowledged every byte sent. Raises OSError."""
        if self._socket is None:
            return True
        raw = fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, bytes(4))
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:  # a reset also empties the queue
            raise OSError(error, "the receiver reset the connection")
        return bool(struct.unpack("i", raw)[0] == 0)

    def await_left(self) -> None:
        """Wait for the acknowledgement. Raises TimeoutError, or OSError when it can't come."""
        for _ in range(max(1, int(self._send_timeout / POLL_SECONDS))):
            if self.has_left():
                return
            time.sleep(POLL_SECONDS)
        raise TimeoutError("the receiver does not acknowledge what was sent")

    def close(self) -> None:
        """Close the connection, if any. Raises nothing."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
