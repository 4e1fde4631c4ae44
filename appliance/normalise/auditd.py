"""Third station of the line, product linux, service auditd: the records of one audit event.

Sigma's rules for auditd name `type` and that record's own fields, so each record is a view of its
own: `type: PATH` with `name`, `type: EXECVE` with `a0`, `a1`. Beside its own fields each has what
SYSCALL says of who did it (exe, comm, key, pid, uid, ...), where it has no field of that name.
What the event as a whole says is in further views: process_creation for execve, file_event for a
PATH that was created, network_connection for connect and accept, `auth` for programs' records of
logins.

Read from the decoder's records, and from the JSON objects (also in syslog) that laurel makes of
them (https://github.com/threathunters-io/laurel, its man page laurel.8, "Log format").
"""

import posixpath
import re
from collections.abc import Iterator
from typing import Any, Final

from appliance.normalise.audit_tables import MACHINES, SYSCALLS
from appliance.normalise.entities import (
    make_address,
    make_file,
    make_host,
    make_process_by_id,
    make_service,
    make_session,
    make_user,
    name_host,
)
from appliance.normalise.flatten import flatten
from appliance.normalise.linux import AUTH, name_service
from appliance.normalise.reading import Context, Reading, find_object
from appliance.normalise.sockaddr import read_sockaddr
from appliance.normalise.times import read_time
from appliance.normalise.trim import write_json
from appliance.schema import Decoded, Entity, Fields, LogSource, View

AUDITD: Final = name_service("auditd")
PROCESS: Final = LogSource(product="linux", category="process_creation")
FILE: Final = LogSource(product="linux", category="file_event")
NETWORK: Final = LogSource(product="linux", category="network_connection")

#: Every log source that this normaliser can produce.
SOURCES: Final = (AUDITD, PROCESS, FILE, NETWORK, AUTH)

#: Most records of one event that become views. The kernel writes fewer than 20.
MAX_RECORDS: Final = 128
#: Most arguments that become fields `a0`, `a1`, ...; all of them are in CommandLine.
MAX_ARGUMENTS: Final = 256

#: What of SYSCALL the event's other records have too.
_SHARED: Final = (
    "exe", "comm", "key", "pid", "ppid", "uid", "auid", "euid", "ses", "tty", "success", "UID",
    "AUID",
)  # fmt: skip
_EXECUTES: Final = frozenset({"execve", "execveat"})
_CONNECTS: Final = frozenset({"connect"})
_ACCEPTS: Final = frozenset({"accept", "accept4"})
#: System calls whose first argument may be a folder that the name counts from (not the cwd), and
#: that argument when it is none: AT_FDCWD, -100 in 32 or 64 bits.
_AT_SUFFIX: Final = ("at", "at2")
_AT_CWD: Final = ("ffffff9c", "ffffffffffffff9c")
#: Records of programs about logins, and their accounts.
_AUTH_TYPES: Final = frozenset(
    {"USER_LOGIN", "USER_LOGOUT", "USER_AUTH", "USER_ACCT", "USER_ERR", "USER_START", "USER_END"}
    | {"USER_CHAUTHTOK", "USER_MGMT", "USER_CMD", "CRED_ACQ", "CRED_DISP", "CRED_REFR", "GRP_AUTH"}
    | {"ADD_USER", "DEL_USER", "ADD_GROUP", "DEL_GROUP", "LOGIN", "ACCT_LOCK", "ACCT_UNLOCK"}
    | {"GRP_MGMT", "GRP_CHAUTHTOK", "CHUSER_ID", "CHGRP_ID", "USER_ROLE_CHANGE"}
    | {"ANOM_LOGIN_FAILURES", "ANOM_LOGIN_TIME", "ANOM_LOGIN_SESSIONS", "ANOM_LOGIN_ACCT"}
    | {"ANOM_LOGIN_LOCATION"}
)
_SUCCESS: Final = frozenset({"success", "yes", "1"})
_FAILURE: Final = frozenset({"failed", "no", "0"})
#: No value, in the words of programs.
_NOTHING: Final = frozenset({"", "?", "(none)", "(null)", "-"})
#: What sshd writes as `acct` instead of a name that no account has.
_NO_ACCOUNT: Final = frozenset({"(unknown user)", "(invalid user)", "(unknown)", "?", ""})
#: Login uid and session of what belongs to no login: -1 in 32 bits.
_UNSET: Final = frozenset({"4294967295", "-1", "unset"})
_ROOT: Final = frozenset({"root", "0"})
_ID: Final = re.compile(r"(\d{1,12}(?:\.\d{1,9})?):\d{1,20}")
_ESCAPED: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_ADDRESS: Final = re.compile(r"[0-9A-Fa-f:.]{2,45}(?:%\w{1,32})?")
#: Keys of laurel's objects that are no records.
_LAUREL_OTHER: Final = frozenset({"ID", "NODE", "PARENT_INFO", "PID", "PPID", "_node"})


class _Audit:
    """One event: its records, and what is asked of them as a whole."""

    __slots__ = ("event_id", "host", "parent", "records", "syscall", "timestamp")

    def __init__(self, records: list[Fields], host: str) -> None:
        self.records = records
        self.host = host
        self.event_id = ""
        self.timestamp: Any = None
        self.parent: Fields = {}
        self.syscall: Fields = next((r for r in records if r.get("type") == "SYSCALL"), {})

    def find(self, kind: str) -> Fields:
        """The first record of the type, empty when there is none."""
        return next((record for record in self.records if record.get("type") == kind), {})


def read_auditd(decoded: Decoded, context: Context) -> Reading | None:
    """Read an audit event; None for other records."""
    if decoded.format == "auditd":
        event = _take_decoded(decoded.fields, context)
    elif _is_laurel(fields := find_object(decoded)):
        event = _take_laurel(fields, context)
    else:
        return None
    for record in event.records:
        _add_meanings(record)
    views = list(_make_views(event))
    return Reading(
        views=tuple(views),
        entities=_collect(views, event),
        host=event.host,
        time=read_time(event.timestamp, context),
    )


def _take_decoded(fields: dict[str, Any], context: Context) -> _Audit:
    # In an event that was cut to size a record may be empty, or text; all of it is in REST.
    records = [
        dict(record)
        for record in fields["records"]
        if isinstance(record, dict) and "type" in record
    ]
    node = fields.get("node")
    host = name_host(node) if isinstance(node, str) else ""
    event = _Audit(records or [{"type": "EOE"}], host or context.host)
    event.event_id = fields.get("id", "")
    event.timestamp = fields.get("timestamp")
    return event


def _is_laurel(fields: dict[str, Any]) -> bool:
    """True for an object whose ID is an audit event's and that holds records by their types."""
    value = fields.get("ID")
    return (
        isinstance(value, str)
        and _ID.fullmatch(value) is not None
        and any(name.isupper() and isinstance(fields[name], dict | list) for name in fields)
    )


def _take_laurel(fields: dict[str, Any], context: Context) -> _Audit:
    records: list[Fields] = []
    for kind, value in fields.items():
        if kind in _LAUREL_OTHER or not kind.isupper():
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, dict):
                records.append(_take_laurel_record(kind, child))
    node = fields.get("NODE")
    host = name_host(node) if isinstance(node, str) else ""
    event = _Audit(records or [{"type": "EOE"}], host or context.host)
    event.event_id = fields["ID"]
    event.timestamp = event.event_id.partition(":")[0]
    parent = fields.get("PARENT_INFO")
    event.parent = parent if isinstance(parent, dict) else {}
    return event


def _take_laurel_record(kind: str, own: dict[str, Any]) -> Fields:
    """The record as the decoder would give it: laurel has lists of arguments, which it may also
    write as one string."""
    record: Fields = {"type": kind}
    for name, value in flatten(own).items():
        plain = name in ("ARGV", "key") or not isinstance(value, list)
        record.setdefault(name, value if plain else write_json(value))
    arguments = record.pop("ARGV", None)
    if isinstance(arguments, list):
        texts = [text if isinstance(text, str) else str(text) for text in arguments]
        if kind == "SYSCALL":
            for place, text in enumerate(texts[:8]):
                record.setdefault(f"a{place}", text.removeprefix("0x"))
        else:
            record["argv"] = texts
    elif isinstance(text := record.pop("ARGV_STR", arguments), str):
        record["argv"] = [text]
    if isinstance(arch := record.get("arch"), str):
        record["arch"] = arch.removeprefix("0x")
    return record


def _add_meanings(record: Fields) -> None:
    """Add what numbers and encodings of the record mean, under auditd's names for that."""
    kind = record.get("type")
    if kind == "SYSCALL" or "syscall" in record:
        _add_syscall(record)
    elif kind == "SOCKADDR":
        _add_address(record)
    result = record.get("res", record.get("success"))
    if result is not None:
        text = str(result)
        if text in _SUCCESS:
            record["result"] = "success"
        elif text in _FAILURE:
            record["result"] = "failure"


def _add_syscall(record: Fields) -> None:
    arch = record.get("arch")
    if "ARCH" not in record and isinstance(arch, str) and len(arch) <= 16:
        try:
            record["ARCH"] = MACHINES[int(arch, 16)]
        except (ValueError, KeyError):
            return
    name = SYSCALLS.get(record.get("ARCH", ""), {}).get(str(record.get("syscall")))
    if name is not None:
        record.setdefault("SYSCALL", name)


def _add_address(record: Fields) -> None:
    saddr = record.get("saddr")
    if not isinstance(saddr, str) or len(saddr) > 1024:
        return
    try:
        # laurel writes what is no ASCII as in a URL.
        raw = _unescape(saddr) if "%" in saddr else bytes.fromhex(saddr)
    except ValueError:
        return
    for name, value in read_sockaddr(raw).items():
        record.setdefault(name, value)


def _unescape(text: str) -> bytes:
    return _ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), text.encode())


def _make_views(event: _Audit) -> Iterator[View]:
    shared = {name: value for name in _SHARED if (value := event.syscall.get(name)) is not None}
    if user := _name_user(event.syscall):
        shared["user"] = user
    for record in event.records[:MAX_RECORDS]:
        fields = _make_fields(record, event, shared)
        yield View(AUDITD, fields)
        if fields["type"] in _AUTH_TYPES:
            yield View(AUTH, fields)
    called = event.syscall.get("SYSCALL")
    failed = event.syscall.get("success") == "no"
    if not failed and (called in _EXECUTES or (event.find("EXECVE") and not event.syscall)):
        yield View(PROCESS, _describe_process(event))
    if not failed:
        for path in event.records[:MAX_RECORDS]:
            if path.get("type") == "PATH" and path.get("nametype", path.get("objtype")) == "CREATE":
                yield View(FILE, _describe_file(event, path))
    if (called in _CONNECTS or called in _ACCEPTS) and "port" in (peer := event.find("SOCKADDR")):
        yield View(NETWORK, _describe_connection(event, peer, outward=called in _CONNECTS))


def _make_fields(record: Fields, event: _Audit, shared: Fields) -> Fields:
    own = record is event.syscall
    fields: Fields = {"audit_id": event.event_id} if event.event_id else {}
    fields["type"] = record["type"]
    if not own:
        fields.update(shared)
    fields.update(record)
    arguments = fields.pop("argv", None)
    if isinstance(arguments, list):
        if record["type"] == "EXECVE":
            fields.update((f"a{at}", text) for at, text in enumerate(arguments[:MAX_ARGUMENTS]))
            fields["CommandLine"] = " ".join(arguments)
        else:
            fields["proctitle"] = " ".join(arguments)
    if record["type"] in _AUTH_TYPES or "acct" in record or "hostname" in record:
        _put_login(fields)
    elif (own or "uid" in record) and (user := _name_user(fields)):
        fields["user"] = user
    return fields


def _put_login(fields: Fields) -> None:
    """Add the product-neutral fields of a program's record: whose account, from where."""
    fields.pop("user", None)  # who sent the record is not whom it is about
    named = ("acct",) if "acct" in fields else ("ID", "id", "AUID", "auid")
    for name in named:
        value = fields.get(name)
        if isinstance(value, str) and value not in _NO_ACCOUNT and value not in _UNSET:
            fields["user"] = value
            break
    for name in ("addr", "hostname"):
        value = fields.get(name)
        if isinstance(value, str) and _ADDRESS.fullmatch(value) and set(value) & set(".:"):
            fields["src_ip"] = value
            break
    for name, other in (("rport", "src_port"), ("laddr", "dst_ip"), ("lport", "dst_port")):
        if (value := fields.get(name)) not in _NOTHING and value is not None:
            fields[other] = value


def _name_user(fields: Fields) -> str:
    """The user as whom it was done: the name, where auditd or laurel translated it; root is 0 on
    every system; else the number."""
    name = fields.get("UID")
    if isinstance(name, str) and name not in _NOTHING and not name.startswith("unknown("):
        return name
    uid = fields.get("uid")
    if uid is None:
        return ""
    return "root" if str(uid) == "0" else str(uid)


def _describe_actor(event: _Audit) -> Fields:
    """Image, process id and user of whoever made the system call."""
    syscall = event.syscall
    fields: Fields = {}
    for name, source in (
        ("Image", "exe"),
        ("ProcessId", "pid"),
        ("ParentProcessId", "ppid"),
        ("auid", "auid"),
        ("AUID", "AUID"),
        ("uid", "uid"),
        ("tty", "tty"),
        ("key", "key"),
        ("comm", "comm"),
        ("success", "success"),
    ):
        if (value := syscall.get(source)) is not None:
            fields[name] = value
    if user := _name_user(syscall):
        fields["User"] = fields["user"] = user
    session = syscall.get("ses")
    if session is not None:
        # No login's session: Sysmon for Linux, whose words these are, has 0 there.
        fields["LogonId"] = "0" if str(session) in _UNSET else session
    if event.event_id:
        fields["audit_id"] = event.event_id
    return fields


def _describe_process(event: _Audit) -> Fields:
    fields = _describe_actor(event)
    paths = [record.get("name") for record in event.records if record.get("type") == "PATH"]
    if "Image" not in fields and paths and isinstance(paths[0], str):
        fields["Image"] = paths[0]
    arguments = event.find("EXECVE").get("argv") or event.find("PROCTITLE").get("argv")
    if isinstance(arguments, list):
        fields["CommandLine"] = " ".join(arguments)
    if isinstance(folder := event.find("CWD").get("cwd"), str):
        fields["CurrentDirectory"] = folder
    parent = event.parent
    # laurel's PARENT_INFO, since its version 0.5 the process tree's part in SYSCALL.
    if isinstance(image := parent.get("exe", event.syscall.get("PPID.exe")), str):
        fields["ParentImage"] = image
    if isinstance(arguments := parent.get("ARGV"), list):
        fields["ParentCommandLine"] = " ".join(str(text) for text in arguments)
    return fields


def _describe_file(event: _Audit, path: Fields) -> Fields:
    fields = _describe_actor(event)
    fields["TargetFilename"] = _find_path(event, path.get("name"))
    for name in ("inode", "mode", "ouid", "nametype"):
        if (value := path.get(name)) is not None:
            fields[name] = value
    return fields


def _find_path(event: _Audit, name: Any) -> Any:
    """The whole path, where the record's counts from the working folder."""
    folder = event.find("CWD").get("cwd")
    if not isinstance(name, str) or not isinstance(folder, str) or name.startswith("/"):
        return name
    called = str(event.syscall.get("SYSCALL", ""))
    if called.endswith(_AT_SUFFIX) and event.syscall.get("a0") not in _AT_CWD:
        return name
    return posixpath.normpath(posixpath.join(folder, name))


def _describe_connection(event: _Audit, peer: Fields, *, outward: bool) -> Fields:
    fields = _describe_actor(event)
    address, port = peer.get("addr"), peer.get("port")
    names = ("Destination", "dst") if outward else ("Source", "src")
    fields["Initiated"] = "true" if outward else "false"
    fields[f"{names[0]}Ip"] = fields[f"{names[1]}_ip"] = address
    fields[f"{names[0]}Port"] = fields[f"{names[1]}_port"] = port
    return fields


def _collect(views: list[View], event: _Audit) -> tuple[Entity, ...]:
    """The entities. Of the users root is left out where it only is whom a process runs as: every
    host has one, and most of what is audited runs so."""
    found: dict[Entity | None, None] = {}
    host = event.host
    if host:
        found[make_host(host)] = None
    syscall = event.syscall
    for name in ("AUID", "UID"):
        if isinstance(value := syscall.get(name), str) and value not in _ROOT | _UNSET:
            found[make_user(value)] = None
    if syscall:
        found[make_process_by_id(host, syscall.get("pid"), syscall.get("exe"))] = None
        if isinstance(exe := syscall.get("exe"), str):
            found[make_file(exe)] = None
        _collect_session(syscall, host, found)
    for view in views:
        _collect_view(view, host, found)
    found.pop(None, None)
    return tuple(entity for entity in found if entity is not None)


def _collect_view(view: View, host: str, found: dict[Entity | None, None]) -> None:
    fields = view.fields
    if view.logsource is FILE:
        if isinstance(path := fields.get("TargetFilename"), str):
            found[make_file(path)] = None
        return
    for name in ("src_ip", "dst_ip"):
        if isinstance(value := fields.get(name), str):
            found[make_address(value)] = None
    if view.logsource is AUTH:
        if isinstance(user := fields.get("user"), str) and not user.isdecimal():
            found[make_user(user)] = None
        _collect_session(fields, host, found)
    elif isinstance(unit := fields.get("unit"), str):  # SERVICE_START, SERVICE_STOP
        found[make_service(unit)] = None


def _collect_session(fields: Fields, host: str, found: dict[Entity | None, None]) -> None:
    session = fields.get("ses")
    if session is not None and str(session) not in _UNSET:
        found[make_session(host, session)] = None
