"""On the way out, where it is put together: every way out there is, and its construction.

A working configuration, as settings: `SinkSettings(type="syslog", transport="tcp",
address="10.0.0.5:601")`, `SinkSettings(type="file", address="/var/log/appliance/findings.jsonl")`.
"""

from typing import Final, Literal

import msgspec

from appliance.emit.file import FileSink
from appliance.emit.sink import ALL_KINDS, DeliveryFailed, Sink, SinkState
from appliance.emit.syslog import (
    DATAGRAM_BYTES,
    DEFAULT_ENTERPRISE,
    DEFAULT_FACILITY,
    STREAM_BYTES,
    SyslogProfile,
)
from appliance.emit.syslog_sink import SyslogSink
from appliance.emit.syslog_tcp import TcpTransport
from appliance.emit.syslog_udp import LARGEST_DATAGRAM, UdpTransport
from appliance.emit.syslog_unix import UnixTransport
from appliance.schema import MessageKind, OnStep, ignore_step

__all__ = [
    "SINKS",
    "TRANSPORTS",
    "DeliveryFailed",
    "Sink",
    "SinkSettings",
    "SinkState",
    "build_sink",
]

#: Every type of sink.
SINKS: Final[dict[str, type[FileSink] | type[SyslogSink]]] = {
    "file": FileSink,
    "syslog": SyslogSink,
}
#: Every transport of the syslog sink.
TRANSPORTS: Final[dict[str, type[TcpTransport] | type[UdpTransport] | type[UnixTransport]]] = {
    "tcp": TcpTransport,
    "udp": UdpTransport,
    "unix": UnixTransport,
}
#: Longest message by default, in bytes.
DEFAULT_BYTES: Final[dict[str, int]] = {
    "tcp": STREAM_BYTES,
    "udp": DATAGRAM_BYTES,
    "unix": STREAM_BYTES,
}


class SinkSettings(msgspec.Struct, frozen=True):
    """One sink as configured. `address` is the file's path, the socket's path (unix) or
    `host:port` (tcp, udp; IPv6 in brackets). The rest but `kinds` is for syslog; `max_bytes` None
    stands for the transport's default."""

    type: Literal["file", "syslog"]
    address: str
    transport: Literal["tcp", "udp", "unix"] = "tcp"
    facility: str = DEFAULT_FACILITY
    enterprise: str = DEFAULT_ENTERPRISE
    max_bytes: int | None = None
    kinds: frozenset[MessageKind] = ALL_KINDS


def build_sink(
    name: str,
    settings: SinkSettings,
    *,
    hostname: str,
    procid: str = "-",
    on_step: OnStep = ignore_step,
) -> Sink:
    """The sink that the settings describe; nothing is opened or connected yet.

    `hostname` and `procid` are the appliance's own, for syslog. Raises ValueError with a reason
    for the operator: unknown type or transport, bad address, bad facility, bad limit.
    """
    if settings.type not in SINKS:
        raise ValueError(f"type {settings.type!r} is not one of {', '.join(SINKS)}")
    if SINKS[settings.type] is FileSink:
        return FileSink(name, settings.address, settings.kinds, on_step)
    if settings.transport not in TRANSPORTS:
        raise ValueError(f"transport {settings.transport!r} is not one of {', '.join(TRANSPORTS)}")
    default = DEFAULT_BYTES[settings.transport]
    limit = default if settings.max_bytes is None else settings.max_bytes
    if settings.transport == "udp" and limit > LARGEST_DATAGRAM:
        raise ValueError(f"max_bytes must be at most {LARGEST_DATAGRAM} for a datagram")
    profile = SyslogProfile(hostname, settings.facility, procid, settings.enterprise, limit)
    transport = TRANSPORTS[settings.transport](settings.address)
    return SyslogSink(name, transport, profile, settings.kinds, on_step)
