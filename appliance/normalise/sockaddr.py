"""Third station of the line, Linux audit: a socket's address as the kernel holds it (`saddr`).

Layouts of struct sockaddr_in, _in6, _un and _nl (linux/in.h, in6.h, un.h, netlink.h); the family
comes first, in the machine's byte order, port and address in the network's.
"""

import ipaddress
from typing import Any, Final

#: Families that linux/socket.h names and that say where a connection leads.
_INET: Final = 2
_INET6: Final = 10
_UNIX: Final = 1
_NETLINK: Final = 16


def read_sockaddr(raw: bytes) -> dict[str, Any]:
    """`family` (inet, inet6, unix, netlink or a number) and what that family has: `addr` and
    `port`, or `path` (an abstract socket's begins with @). Empty when it is none."""
    if len(raw) < 2:
        return {}
    family = int.from_bytes(raw[:2], "little")
    if family > 0xFF:
        family = int.from_bytes(raw[:2], "big")
    if family == _INET and len(raw) >= 8:
        address = str(ipaddress.IPv4Address(raw[4:8]))
        return {"family": "inet", "addr": address, "port": int.from_bytes(raw[2:4], "big")}
    if family == _INET6 and len(raw) >= 24:
        address = str(ipaddress.IPv6Address(raw[8:24]))
        return {"family": "inet6", "addr": address, "port": int.from_bytes(raw[2:4], "big")}
    if family == _UNIX:
        path = raw[2:]
        name = b"@" + path[1:].rstrip(b"\0") if path[:1] == b"\0" else path.partition(b"\0")[0]
        return {"family": "unix", "path": name.decode("utf-8", "backslashreplace")}
    return {"family": "netlink" if family == _NETLINK else family}
