"""On the way out, under the syslog sink: a local socket such as `/dev/log`.

A datagram socket takes one message a datagram. Where a stream socket listens instead, messages
are framed by octet counting as over TCP.
"""

import errno
import socket

from appliance.emit.syslog_tcp import frame_octets


class UnixTransport:
    """One connected Unix socket, of the kind that listens at `path`. Raises ValueError for a
    path that is none."""

    def __init__(self, path: str, *, send_timeout: float = 10.0) -> None:
        if not path or "\0" in path:
            raise ValueError(f"{path!r} is no path")
        self._path = path
        self._send_timeout = send_timeout
        self._socket: socket.socket | None = None
        self._framed = False
        self.target = f"unix://{path}"

    @property
    def connected(self) -> bool:
        """Whether a socket is open now."""
        return self._socket is not None

    def send(self, payload: bytes) -> None:
        """Send one message; opens anew, once, when the receiver was restarted since the last.

        Raises OSError: nobody listens, the receiver does not read, the message is too long.
        """
        if self._socket is None:
            self._connect()
            self._write(payload)
            return
        try:
            self._write(payload)
        except (ConnectionError, FileNotFoundError):
            self._connect()
            self._write(payload)

    def _write(self, payload: bytes) -> None:
        if self._socket is None:
            raise ConnectionError("not connected")
        if self._framed:
            self._socket.sendall(frame_octets(payload))
        else:
            self._socket.send(payload)

    def _connect(self) -> None:
        self.close()
        try:
            self._socket, self._framed = self._open(socket.SOCK_DGRAM), False
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                raise
            self._socket, self._framed = self._open(socket.SOCK_STREAM), True

    def _open(self, kind: socket.SocketKind) -> socket.socket:
        opened = socket.socket(socket.AF_UNIX, kind)
        try:
            opened.settimeout(self._send_timeout)
            opened.connect(self._path)
        except OSError:
            opened.close()
            raise
        return opened

    def has_left(self) -> bool:
        """Always: what was sent lies in the receiver's queue."""
        return True

    def await_left(self) -> None:
        """Return at once."""

    def close(self) -> None:
        """Close the socket, if any. Raises nothing."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
