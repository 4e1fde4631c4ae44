"""First step of the line: what the line's side and the receiver process of a syslog listener tell
each other, and how an operator writes where to listen and who may send.

The receiver gets ReceiverSettings as one line of JSON on its standard input. It answers on its
standard output with lines: `w` when it has written to the spool, or ReceiverFacts as JSON.
"""

import ipaddress
import re
from collections.abc import Iterable
from typing import Final, Literal

import msgspec

Transport = Literal["tcp", "udp", "relp"]
TRANSPORTS: Final[tuple[Transport, ...]] = ("tcp", "udp", "relp")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: The line that says that there is something to read.
WROTE: Final = b"w\n"
#: Longest error text: a line within PIPE_BUF (4096 bytes) is written whole or not at all.
ERROR_CHARACTERS: Final = 300

_ADDRESS: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|([0-9.]+)):([0-9]{1,5})")


class ReceiverSettings(msgspec.Struct, frozen=True):
    """All that the receiver process has to know. `first` is the least segment number that it may
    use, `cap` the most bytes in the spool, `record_bytes` the longest record, of a longer one
    `keep_bytes` are kept; `idle_seconds` without a byte end a connection; `receive_buffer` is the
    size in bytes to ask the kernel for (UDP); `sync_seconds` is the longest that a record may wait
    for the disk."""

    transport: Transport
    address: str
    folder: str
    first: int
    cap: int
    record_bytes: int
    keep_bytes: int
    allow: tuple[str, ...] = ()
    max_connections: int = 1000
    idle_seconds: float = 86400.0
    receive_buffer: int = 16 << 20
    sync_seconds: float = 0.2
    parent: int = 0


class ReceiverFacts(msgspec.Struct, omit_defaults=True):
    """What the receiver knows of itself. Counts are of this process: `received` records in the
    spool, `bytes` of them, `dropped` datagrams and messages that were lost (by the kernel, or
    still in memory at the end), `refused` connections and datagrams of peers that may not send or
    came over the cap, `accepted` connections, `cut` records over the cap, `broken` connections
    that spoke no such protocol, `torn` unfinished blocks cut off at the start. `listening` says
    that the socket is open, `bound` where; `receive_buffer` is what the kernel gave."""

    listening: bool = False
    bound: str = ""
    error: str = ""
    connections: int = 0
    accepted: int = 0
    received: int = 0
    bytes: int = 0
    dropped: int = 0
    refused: int = 0
    cut: int = 0
    broken: int = 0
    torn: int = 0
    receive_buffer: int = 0


#: Facts that add up over restarts.
COUNTS: Final = (
    "accepted", "received", "bytes", "dropped", "refused", "cut", "broken", "torn",
)  # fmt: skip


def parse_listen_address(address: str) -> tuple[str, int]:
    """`192.0.2.1:514` or `[2001:db8::1]:514` as host and port; a wildcard is written out (`0.0.0.0`
    or `[::]`, which is IPv6 only). Port 0 is any free one. Raises ValueError with the reason.

    No host names: where the appliance listens must not depend on what a resolver says.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ValueError(
            f"{address[:80]!r} is not address:port, as 192.0.2.1:514 or [2001:db8::1]:514"
        )
    host, port = match[1] or match[2], int(match[3])
    ip = ipaddress.ip_address(host)
    if (ip.version == 6) != (match[1] is not None):
        raise ValueError(f"{address[:80]!r}: only IPv6 addresses stand in brackets")
    if port > 65535:
        raise ValueError(f"port {port} is not 1 to 65535")
    return host, port


def parse_networks(allow: Iterable[str]) -> tuple[Network, ...]:
    """Networks as `192.0.2.0/24`, or single addresses. Raises ValueError with the reason."""
    return tuple(ipaddress.ip_network(network) for network in allow)


def is_allowed(host: str, networks: tuple[Network, ...]) -> bool:
    """Whether a peer (a numeric address as the kernel gives it) is within the networks; no
    networks stand for everybody."""
    if not networks:
        return True
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return any(ip in network for network in networks)
