"""On the way out, under the syslog sink: UDP, one datagram a message (RFC 5426).

Datagrams can be lost anywhere and nobody notices. The socket is connected, so that a refusal by
the receiver's machine is reported where the network brings it back.
"""

import os
import socket
from typing import Final

from appliance.emit.syslog_tcp import parse_address

#: Payload of the largest IPv4 datagram: 65535 less the headers of IP and UDP.
LARGEST_DATAGRAM: Final = 65507


class UdpTransport:
    """One connected UDP socket. Raises ValueError for a bad address."""

    def __init__(self, address: str, *, send_timeout: float = 10.0) -> None:
        self._host_port = parse_address(address)
        self._send_timeout = send_timeout
        self._socket: socket.socket | None = None
        self.target = f"udp://{address}"

    @property
    def connected(self) -> bool:
        """Whether a socket is open now; says nothing about the receiver."""
        return self._socket is not None

    def send(self, payload: bytes) -> None:
        """Send one datagram. Raises OSError: too long, refused, no route."""
        if self._socket is None:
            self._socket = self._connect()
        self._socket.send(payload)
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:  # on the same machine a refusal is known at once
            raise OSError(error, os.strerror(error))

    def _connect(self) -> socket.socket:
        host, port = self._host_port
        failure: OSError = OSError(f"no address for {host}")
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_DGRAM
        ):
            opened = socket.socket(family, kind, protocol)
            try:
                opened.settimeout(self._send_timeout)
                opened.connect(address)
            except OSError as error:
                opened.close()
                failure = error
            else:
                return opened
        raise failure

    def has_left(self) -> bool:
        """Always: nothing more can be known of a datagram."""
        return True

    def await_left(self) -> None:
        """Return at once."""

    def close(self) -> None:
        """Close the socket, if any. Raises nothing."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
