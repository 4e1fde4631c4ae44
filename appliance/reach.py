"""Beside the line: what a process can reach, read from the kernel's own tables.

The promise is that nothing leaves but by what the configuration names. Here the sockets of the
daemon and its children (proc(5): /proc/PID/fd and /proc/PID/net) are held against that.
"""

import ipaddress
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

#: Tables of /proc/PID/net with local and remote address, and what they hold.
_ADDRESSED: Final = {
    "tcp": "tcp", "tcp6": "tcp", "udp": "udp", "udp6": "udp", "udplite": "udplite",
    "udplite6": "udplite", "raw": "raw", "raw6": "raw", "icmp": "icmp", "icmp6": "icmp",
}  # fmt: skip
_SOCKET: Final = re.compile(r"socket:\[(\d+)\]")
#: net/tcp_states.h: TCP_LISTEN.
_TCP_LISTEN: Final = "0A"
#: linux/net.h: __SO_ACCEPTCON, in the Flags of /proc/net/unix.
_UNIX_LISTENS: Final = 0x10000
_DNS_PORT: Final = 53

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class OpenSocket(msgspec.Struct, frozen=True):
    """One socket of a process. `kind` is tcp, udp, udplite, raw, icmp, unix, packet, netlink, or
    "unlisted" for one that is in no table (neither bound nor connected, or of another family);
    addresses are numeric, ports 0 where there is none; `path` is that of a bound unix socket."""

    pid: int
    kind: str
    local: str = ""
    local_port: int = 0
    remote: str = ""
    remote_port: int = 0
    listens: bool = False
    path: str = ""

    def describe(self) -> str:
        """For an operator: `tcp 10.0.0.5:40000 -> 10.0.0.9:601 (pid 7)`."""
        if self.kind == "unix":
            place = f"unix {'listening at' if self.listens else 'bound to'} {self.path}"
        elif self.remote_port:
            place = (
                f"{self.kind} {self.local}:{self.local_port} -> {self.remote}:{self.remote_port}"
            )
        elif self.local:
            place = f"{self.kind} {'listening' if self.listens else 'open'} at "
            place += f"{self.local}:{self.local_port}"
        else:
            place = f"{self.kind} socket"
        return f"{place} (pid {self.pid})"


class Allowed(msgspec.Struct, frozen=True):
    """A way that the configuration names. `kind` is tcp, udp or unix; `listens` tells a way in
    from a way out; `hosts` are numeric addresses (empty: any); `path` is a unix socket's."""

    kind: str
    listens: bool = False
    hosts: frozenset[str] = frozenset()
    port: int = 0
    path: str = ""


def list_family(pid: int, proc: Path = Path("/proc")) -> list[int]:
    """The process and all that descend from it, as far as they are still its children."""
    parents: dict[int, int] = {}
    for entry in proc.iterdir():
        if entry.name.isdigit():
            try:
                # The command, in parentheses, may hold anything; the parent is the second behind.
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1])
            except (OSError, IndexError, ValueError):
                continue  # it has ended
    family = [pid]
    for member in family:
        family.extend(child for child, parent in parents.items() if parent == member)
    return family


def list_sockets(pid: int, proc: Path = Path("/proc")) -> list[OpenSocket]:
    """Every socket that the process holds. Raises OSError: no such process, no right to look."""
    inodes: dict[int, None] = {}
    for entry in (proc / str(pid) / "fd").iterdir():
        try:
            found = _SOCKET.fullmatch(str(entry.readlink()))
        except FileNotFoundError:  # closed meanwhile
            continue
        if found:
            inodes[int(found[1])] = None
    known = dict(_read_tables(pid, proc / str(pid) / "net"))
    return [known.get(inode, OpenSocket(pid, "unlisted")) for inode in inodes]


def _read_tables(pid: int, net: Path) -> Iterator[tuple[int, OpenSocket]]:
    """Every socket of the process's network namespace, by inode."""
    for table, kind in _ADDRESSED.items():
        for row in _read_rows(net / table):
            local, remote = row[1], row[2]
            host, port = read_address(local)
            peer, peer_port = read_address(remote)
            yield int(row[9]), OpenSocket(
                pid, kind, str(host), port, str(peer), peer_port,
                listens=(kind != "tcp" and not peer_port) or row[3] == _TCP_LISTEN,
            )  # fmt: skip
    for row in _read_rows(net / "unix"):
        path = row[7] if len(row) > 7 else ""
        listens = bool(int(row[3], 16) & _UNIX_LISTENS)
        yield int(row[6]), OpenSocket(pid, "unix", listens=listens, path=path)
    for table in ("packet", "netlink"):
        for row in _read_rows(net / table):
            yield int(row[-1]), OpenSocket(pid, table)


def _read_rows(path: Path) -> Iterator[list[str]]:
    """Rows of a table without its header; none where the kernel has no such table."""
    try:
        lines = path.read_text(errors="surrogateescape").splitlines()[1:]
    except FileNotFoundError:
        return
    for line in lines:
        # A unix socket's path is the last column and may hold blanks.
        yield line.split(None, 7) if path.name == "unix" else line.split()


def read_address(text: str) -> tuple[Address, int]:
    """`0100007F:1F90` as address and port: each 32-bit word is in the machine's byte order. An
    IPv4 address inside IPv6 is given as IPv4."""
    digits, _, port = text.partition(":")
    raw = bytes.fromhex(digits)
    if sys.byteorder == "little":
        raw = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
    address = ipaddress.ip_address(raw)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address, int(port, 16)


def find_strangers(sockets: Iterable[OpenSocket], allowed: Iterable[Allowed]) -> list[OpenSocket]:
    """The sockets that no allowed way explains. Of unix sockets only a path of their own counts:
    they can't leave the machine; netlink leads to the kernel alone."""
    ways = list(allowed)
    return [opened for opened in sockets if not _is_explained(opened, ways)]


def _is_explained(opened: OpenSocket, ways: list[Allowed]) -> bool:
    if opened.kind in ("netlink", "unlisted"):
        return True
    if opened.kind == "unix":
        return not opened.path or any(way.path == opened.path for way in ways)
    return any(_explains(way, opened) for way in ways)


def _explains(way: Allowed, opened: OpenSocket) -> bool:
    if way.kind != opened.kind:
        return False
    if way.listens:  # the listener itself, and the connections that it took
        return opened.local_port == way.port and (
            not way.hosts or not opened.listens or opened.local in way.hosts
        )
    return opened.remote_port == way.port and (not way.hosts or opened.remote in way.hosts)


def allow_lookups() -> list[Allowed]:
    """What asking the system's resolver for a name needs."""
    return [Allowed("udp", port=_DNS_PORT), Allowed("tcp", port=_DNS_PORT)]
