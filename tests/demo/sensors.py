"""Before the line: writes records as a web server, auditd, Zeek and Suricata write them.

Everything made here is SYNTHETIC: hosts, accounts, addresses and identifiers are invented, only the
shapes are real: nginx's "combined" access log; auditd's file with `log_format = ENRICHED` and
`name_format = HOSTNAME`; Zeek 6's ASCII writer, with the package ICSNPP-S7COMM; Suricata 7's
EVE log. Times are seconds since the Unix epoch, UTC.
"""

import hashlib
import json
import re
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

#: Zeek's logs that the demonstration has.
ZeekLog = Literal["conn", "dns", "smb_files", "s7comm"]

_ENDS: Final = (
    ("ts", "time"),
    ("uid", "string"),
    ("id.orig_h", "addr"),
    ("id.orig_p", "port"),
    ("id.resp_h", "addr"),
    ("id.resp_p", "port"),
)
#: Columns of each log with their types, as Zeek 6 and the package write them.
ZEEK_COLUMNS: Final[dict[ZeekLog, tuple[tuple[str, str], ...]]] = {
    "conn": (
        *_ENDS,
        ("proto", "enum"),
        ("service", "string"),
        ("duration", "interval"),
        ("orig_bytes", "count"),
        ("resp_bytes", "count"),
        ("conn_state", "string"),
        ("local_orig", "bool"),
        ("local_resp", "bool"),
        ("missed_bytes", "count"),
        ("history", "string"),
        ("orig_pkts", "count"),
        ("orig_ip_bytes", "count"),
        ("resp_pkts", "count"),
        ("resp_ip_bytes", "count"),
        ("tunnel_parents", "set[string]"),
    ),
    "dns": (
        *_ENDS,
        ("proto", "enum"),
        ("trans_id", "count"),
        ("rtt", "interval"),
        ("query", "string"),
        ("qclass", "count"),
        ("qclass_name", "string"),
        ("qtype", "count"),
        ("qtype_name", "string"),
        ("rcode", "count"),
        ("rcode_name", "string"),
        ("AA", "bool"),
        ("TC", "bool"),
        ("RD", "bool"),
        ("RA", "bool"),
        ("Z", "count"),
        ("answers", "vector[string]"),
        ("TTLs", "vector[interval]"),
        ("rejected", "bool"),
    ),
    "smb_files": (
        *_ENDS,
        ("fuid", "string"),
        ("action", "enum"),
        ("path", "string"),
        ("name", "string"),
        ("size", "count"),
        ("prev_name", "string"),
        ("times.modified", "time"),
        ("times.accessed", "time"),
        ("times.created", "time"),
        ("times.changed", "time"),
    ),
    "s7comm": (
        *_ENDS,
        ("is_orig", "bool"),
        ("source_h", "addr"),
        ("source_p", "port"),
        ("destination_h", "addr"),
        ("destination_p", "port"),
        ("rosctr_code", "count"),
        ("rosctr_name", "string"),
        ("pdu_reference", "count"),
        ("function_code", "string"),
        ("function_name", "string"),
        ("subfunction_code", "string"),
        ("subfunction_name", "string"),
        ("error_class", "string"),
        ("error_code", "string"),
    ),
}
#: What auditd writes of no login: uid -1 in 32 bits.
UNSET_ID: Final = 4_294_967_295
#: System calls of x86-64 by name, with how many of the arguments tell something here.
SYSCALLS: Final = {"execve": 59, "connect": 42, "openat": 257}
#: Accounts of the web server by number.
ACCOUNTS: Final = {0: "root", 33: "www-data", 1001: "s.lang", UNSET_ID: "unset"}
#: What makes the kernel write a text as hexadecimal digits (kernel/audit.c,
#: audit_string_contains_control).
_CONTROL: Final = re.compile(r"[^!#-~]")


def format_access_time(time: float) -> str:
    """nginx's $time_local, in UTC."""
    return datetime.fromtimestamp(time, UTC).strftime("%d/%b/%Y:%H:%M:%S +0000")


def write_access(
    time: float, client: str, request: str, status: int, size: int, agent: str, referer: str = "-"
) -> str:
    """A line of nginx's predefined format "combined"."""
    stamp = format_access_time(time)
    return f'{client} - - [{stamp}] "{request}" {status} {size} "{referer}" "{agent}"'


def make_zeek_uid(letter: str, *parts: object) -> str:
    """A connection's or file's identifier that depends on the parts alone."""
    return letter + hashlib.blake2b(repr(parts).encode(), digest_size=9).hexdigest()[:17]


def write_zeek_header(log: ZeekLog, opened: float) -> str:
    """The lines at the top of a Zeek log, without the last newline."""
    names, kinds = zip(*ZEEK_COLUMNS[log], strict=True)
    moment = datetime.fromtimestamp(opened, UTC).strftime("%Y-%m-%d-%H-%M-%S")
    return "\n".join(
        (
            "#separator \\x09",
            "#set_separator\t,",
            "#empty_field\t(empty)",
            "#unset_field\t-",
            f"#path\t{log}",
            f"#open\t{moment}",
            "\t".join(("#fields", *names)),
            "\t".join(("#types", *kinds)),
        )
    )


def write_zeek(log: ZeekLog, values: Mapping[str, Any]) -> str:
    """A line of a Zeek log; a column that has no value is unset. Raises KeyError for a value that
    has no column."""
    names = [name for name, _ in ZEEK_COLUMNS[log]]
    for name in values:
        if name not in names:
            raise KeyError(f"{log} has no column {name}")
    return "\t".join(_write_column(values.get(name)) for name in names)


def _write_column(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "T" if value else "F"
    if isinstance(value, float):
        return f"{value:.6f}"
    if isinstance(value, list | tuple):
        return ",".join(_write_column(part) for part in value) or "(empty)"
    return str(value).replace("\\", "\\\\").replace("\t", "\\x09") or "(empty)"


def write_eve(time: float, event_type: str, sensor: str, fields: Mapping[str, Any]) -> str:
    """An object of Suricata's EVE log."""
    moment = datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f+0000")
    head = {"timestamp": moment, "event_type": event_type, "host": sensor}
    return json.dumps({**head, **fields}, ensure_ascii=False)


def encode_audit_text(text: str) -> str:
    """A text in quotes, or its bytes as hexadecimal digits where quotes could not hold it."""
    return text.encode().hex().upper() if _CONTROL.search(text) else f'"{text}"'


def encode_audit_title(arguments: Sequence[str]) -> str:
    """PROCTITLE's value: the arguments with NULs between them, of which the kernel keeps 128
    bytes; one word alone stays text."""
    raw = "\0".join(arguments).encode()[:128]
    return (
        raw.hex().upper() if _CONTROL.search(raw.decode(errors="replace")) else f'"{raw.decode()}"'
    )


def encode_socket_address(address: str, port: int) -> str:
    """An IPv4 `struct sockaddr_in` as hexadecimal digits (ip(7)); AF_INET is in the host's order,
    which is little endian here."""
    raw = b"\x02\x00" + port.to_bytes(2, "big") + socket.inet_aton(address) + bytes(8)
    return raw.hex().upper()


def describe_syscall(
    name: str,
    exe: str,
    *,
    pid: int,
    ppid: int,
    uid: int,
    key: str,
    auid: int = UNSET_ID,
    session: int = UNSET_ID,
    comm: str = "",
    items: int = 0,
    terminal: str = "(none)",
    success: bool = True,
) -> tuple[str, str]:
    """The SYSCALL record, with auditd's translations behind it."""
    comm = comm or exe.rpartition("/")[2]
    ids = ("uid", "gid", "euid", "suid", "fsuid", "egid", "sgid", "fsgid")
    user = ACCOUNTS[uid]
    body = (
        f"arch=c000003e syscall={SYSCALLS[name]} success={'yes' if success else 'no'} "
        f"exit={0 if success else -13} a0={'ffffff9c' if name == 'openat' else '7ffd4a10'} "
        f"a1=55d0c3f2a1b0 a2=55d0c3f2a3e8 a3=0 items={items} ppid={ppid} pid={pid} auid={auid} "
        f"{' '.join(f'{part}={uid}' for part in ids)} tty={terminal} ses={session} "
        f'comm="{comm}" exe="{exe}" subj=unconfined key="{key}"'
    )
    names = " ".join(f'{part.upper()}="{user}"' for part in ids)
    translated = f'ARCH=x86_64 SYSCALL={name} AUID="{ACCOUNTS[auid]}" {names}'
    return "SYSCALL", f"{body}\x1d{translated}"


def describe_path(
    item: int, name: str, kind: str, owner: int = 0, mode: str = "0100755"
) -> tuple[str, str]:
    """A PATH record; `kind` is its nametype (NORMAL, CREATE, PARENT)."""
    inode = 262_144 + int.from_bytes(hashlib.blake2b(name.encode(), digest_size=2).digest(), "big")
    owned = ACCOUNTS[owner]
    return "PATH", (
        f"item={item} name={encode_audit_text(name)} inode={inode} dev=fd:01 mode={mode} "
        f"ouid={owner} ogid={owner} rdev=00:00 nametype={kind} cap_fp=0 cap_fi=0 cap_fe=0 "
        f'cap_fver=0 cap_frootid=0\x1dOUID="{owned}" OGID="{owned}"'
    )


def describe_arguments(arguments: Sequence[str]) -> tuple[str, str]:
    """The EXECVE record."""
    texts = " ".join(f"a{n}={encode_audit_text(text)}" for n, text in enumerate(arguments))
    return "EXECVE", f"argc={len(arguments)} {texts}"


def describe_title(arguments: Sequence[str]) -> tuple[str, str]:
    """The PROCTITLE record, which comes last."""
    return "PROCTITLE", f"proctitle={encode_audit_title(arguments)}"


def describe_message(
    kind: str, text: str, *, pid: int, uid: int = 0, auid: int = UNSET_ID, session: int = UNSET_ID
) -> tuple[str, str]:
    """A record that a program sent: logins, services, sessions. `text` is all of its msg."""
    return kind, (
        f"pid={pid} uid={uid} auid={auid} ses={session} subj=unconfined msg='{text}'"
        f'\x1dUID="{ACCOUNTS[uid]}" AUID="{ACCOUNTS[auid]}"'
    )


def write_audit(time: float, serial: int, node: str, records: Sequence[tuple[str, str]]) -> str:
    """One event: a line a record, all with its node, time and serial number."""
    stamp = f"audit({time:.3f}:{serial})"
    return "\n".join(f"node={node} type={kind} msg={stamp}: {body}" for kind, body in records)
