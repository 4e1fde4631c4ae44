"""Linux audit: records decoded and read as events; nothing a user chose becomes a field."""

import json
import time
from datetime import UTC
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.decode import decode, detect_format
from appliance.decode.auditd import (
    decode_auditd,
    is_audit_message,
    is_auditd,
    is_journal_message,
    read_auditd,
)
from appliance.errors import DecodeError
from appliance.normalise import normalise
from appliance.normalise.auditd import AUDITD, FILE, NETWORK, PROCESS, SOURCES
from appliance.normalise.linux import AUTH
from appliance.normalise.sockaddr import read_sockaddr
from appliance.schema import Cursor, Event, LogSource, RawRecord

SERIAL = "msg=audit(1626611363.720:348501): "
SYSCALL = (
    f"type=SYSCALL {SERIAL}arch=c000003e syscall=59 success=yes exit=0 a0=55c0 a1=55c1 a2=55c2"
    " a3=0 items=1 ppid=722076 pid=724395 auid=1000 uid=0 gid=0 euid=33 suid=0 fsuid=0 egid=0"
    ' sgid=0 fsgid=0 tty=pts3 ses=3 comm="perl" exe="/usr/bin/perl" subj==unconfined key="exec"'
    '\x1dARCH=x86_64 SYSCALL=execve AUID="user" UID="root"'
)
EXECVE = f'type=EXECVE {SERIAL}argc=3 a0="perl" a1="-e" a2=7072696E7420226122'
CWD = f'type=CWD {SERIAL}cwd="/root"'
PATH = f'type=PATH {SERIAL}item=0 name="/usr/bin/perl" inode=40 mode=0100755 nametype=NORMAL'
TITLE = f"type=PROCTITLE {SERIAL}proctitle=7065726C002D6500"
EXECUTION = [SYSCALL, EXECVE, CWD, PATH, TITLE, f"type=EOE {SERIAL}"]


def make(lines: list[str] | str | bytes, name: str = "auto") -> RawRecord:
    if isinstance(lines, list):
        lines = "\n".join(lines)
    data = lines if isinstance(lines, bytes) else lines.encode()
    return RawRecord(data, "t", "audit.log", "x", Cursor("t", "x", 0, 1), 1.8e9, name)


def read(lines: list[str] | str | bytes) -> Event:
    record = make(lines)
    return normalise(record, decode(record), zone=UTC).event


def records(lines: list[str] | str | bytes) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = decode_auditd(make(lines)).fields["records"]
    return found


def find(event: Event, source: LogSource, kind: str = "") -> dict[str, Any]:
    return next(
        view.fields
        for view in event.views
        if view.logsource == source and kind in ("", view.fields.get("type"))
    )


def entities(event: Event) -> set[str]:
    return {f"{entity.kind}:{entity.value}" for entity in event.entities}


def login(text: str) -> dict[str, Any]:
    line = f"type=USER_LOGIN {SERIAL}pid=9 uid=0 auid=4294967295 ses=4294967295 msg='{text}'"
    return find(read(line), AUTH)


# -- decode ------------------------------------------------------------


def test_an_event_is_its_records() -> None:
    decoded = decode(make(EXECUTION))
    assert decoded.format == "auditd"
    assert decoded.fields["id"] == "1626611363.720:348501"
    assert decoded.fields["timestamp"] == "1626611363.720"
    kinds = [record["type"] for record in decoded.fields["records"]]
    assert kinds == ["SYSCALL", "EXECVE", "CWD", "PATH", "PROCTITLE"]
    syscall, execve, *_, title = decoded.fields["records"]
    assert (syscall["comm"], syscall["subj"], syscall["AUID"]) == ("perl", "=unconfined", "user")
    assert execve["argv"] == ["perl", "-e", 'print "a"']
    assert title["argv"] == ["perl", "-e"]


def test_values_in_quotes_are_never_taken_for_digits() -> None:
    (execve,) = records(f'type=EXECVE {SERIAL}argc=2 a0="6C73" a1=6C73')
    assert execve["argv"] == ["6C73", "ls"]
    (path,) = records(f'type=PATH {SERIAL}name="dead" inode=2 x="a b"')
    assert (path["name"], path["inode"], path["x"]) == ("dead", "2", "a b")


def test_arguments_in_pieces_and_over_records() -> None:
    (execve,) = records(
        [
            f'type=EXECVE {SERIAL}argc=3 a0="/bin/echo" a1_len=8 a1[0]=C3',
            f"type=EXECVE {SERIAL}a1[1]=A462",
            f'type=EXECVE {SERIAL}a1[2]="c" a2="z"',
        ]
    )
    assert execve["argv"] == ["/bin/echo", "äbc", "z"]
    assert execve["argc"] == "3"


def test_encoded_values() -> None:
    (record,) = records(f"type=SYSCALL {SERIAL}comm=612062 exe=2F612062 key=6101620163 tty=(none)")
    assert (record["comm"], record["exe"]) == ("a b", "/a b")
    assert record["key"] == ["a", "b", "c"]
    assert records(f"type=SYSCALL {SERIAL}key=(null)")[0]["key"] is None
    (tty,) = records(f"type=USER_TTY {SERIAL}pid=1 data=7375202D")
    assert tty["data"] == "su -"
    assert records(f"type=TTY {SERIAL}data=61FF")[0]["data"] == "a\\xff"


def test_numbers_of_types_have_names() -> None:
    assert records(f"type=UNKNOWN[1420] {SERIAL}subj_apparmor=x")[0]["type"] == "MAC_TASK_CONTEXTS"
    assert records(f"type=UNKNOWN[1999] {SERIAL}x=y")[0]["type"] == "UNKNOWN[1999]"
    fields = read_auditd('audit: type=1400 audit(1.5:2): apparmor="DENIED" name="/x"')
    assert fields["records"] == [{"type": "AVC", "apparmor": "DENIED", "name": "/x"}]


def test_old_forms() -> None:
    (record,) = records(f"type=LOGIN {SERIAL}login pid=1 uid=0 old auid=4294967295 new auid=5")
    assert (record["old-auid"], record["auid"]) == ("4294967295", "5")
    text = 'PAM: session open acct=root : exe="/usr/sbin/crond" (hostname=?, addr=?, res=success)'
    (record,) = records(f"type=USER_START {SERIAL}user pid=1 uid=0 msg='{text}'")
    assert (record["op"], record["acct"]) == ("PAM: session open", "root")
    assert (record["hostname"], record["addr"], record["res"]) == ("?", "?", "success")
    text = 'avc:  denied  { read write } for  pid=1 comm="x" tclass=dir'
    (record,) = records(f"type=AVC {SERIAL}{text}")
    assert (record["seresult"], record["seperms"], record["pid"]) == ("denied", "read write", "1")


def test_what_is_no_audit_event_is_rejected() -> None:
    for data in (b"", b"\n", b"type=SYSCALL x", b"\xff\xfe", b"type=X msg=audit(1.1:1)x", b"\x00"):
        with pytest.raises(DecodeError):
            decode_auditd(make(data))
    with pytest.raises(DecodeError, match="different audit events"):
        decode_auditd(make([SYSCALL, CWD.replace("348501", "348502")]))
    with pytest.raises(DecodeError, match="not an audit record"):
        decode_auditd(make([SYSCALL, "type=PATH"]))
    with pytest.raises(DecodeError):
        read_auditd("hello")


def test_only_audit_records_look_like_audit_records() -> None:
    assert is_auditd(SYSCALL)
    assert is_auditd(f"node=web.example {SYSCALL}")
    assert detect_format(SYSCALL.encode()) == "auditd"
    for text in (
        "type=SYSCALL",
        "type=conn msg=hello",
        'type=x msg="audit(1.1:1)"',
        " " + SYSCALL,
        "Jan  1 00:00:00 host prog: " + SYSCALL,
        "node=x type=",
        "<13>Jan  1 00:00:00 host audispd: " + SYSCALL,
    ):
        assert not is_auditd(text), text
    assert not is_audit_message("Type checks passed: type=1400 audit")
    assert not is_journal_message("ACPI: x=1")


def test_a_damaged_record_is_read_as_far_as_it_goes() -> None:
    for cut in range(len(SYSCALL) + 1):
        data = SYSCALL[:cut]
        if is_auditd(data):
            assert records(data)[0]["type"] == "SYSCALL"
        else:
            with pytest.raises(DecodeError):
                decode_auditd(make(data))


def test_bytes_that_are_no_utf8() -> None:
    decoded = decode(make(SYSCALL.encode().replace(b'"perl"', b'"p\xffrl"')))
    assert decoded.repaired
    assert decoded.fields["records"][0]["comm"] == "p\\xffrl"
    json.dumps(decoded.fields).encode("utf-8")


@pytest.mark.parametrize(
    "text",
    [
        "a={" * 33_000,
        "a={ " * 25_000,
        'a="' * 33_000,
        "a" * 100_000,
        "a=" * 50_000,
        "a1[" * 33_000,
        "msg='" * 20_000,
        "(" * 100_000,
        "#035A" * 20_000,
        "'" * 100_000,
        "a0=" + "61" * 50_000,
        "avc: denied { " * 7_000,
        "k=v " * 25_000,
        " ".join(f"a{n}=61" for n in range(12_000)),
    ],
)
@pytest.mark.parametrize("kind", ["EXECVE", "USER_LOGIN", "AVC", "PROCTITLE"])
def test_hostile_lines_end_quickly(text: str, kind: str) -> None:
    begun = time.process_time()
    for line in (f"type={kind} {SERIAL}{text}", f"type={kind} {SERIAL}msg='{text}'"):
        assert read(line).views
    assert time.process_time() - begun < 1.5


def test_lines_that_only_begin_so_are_told_quickly() -> None:
    begun = time.process_time()
    for text in ("node=" + "x" * 100_000, "type=" + "X" * 100_000, "[" + " " * 100_000):
        for _ in range(100):
            assert not is_auditd(text)
            assert not is_journal_message(text)
    assert time.process_time() - begun < 1


@given(st.text(max_size=200))
def test_no_text_raises_anything_but_the_documented_error(text: str) -> None:
    for line in (text, f"type=EXECVE {SERIAL}{text}", f"type=USER_AUTH {SERIAL}msg='{text}'"):
        try:
            event = read(line)
        except DecodeError:
            continue
        json.dumps([view.fields for view in event.views]).encode("utf-8")


# -- forged ------------------------------------------------------------

FORGED = f"type=USER_LOGIN {SERIAL}pid=1 uid=0 res=success"


def test_a_record_in_a_name_stays_a_value() -> None:
    name = f"x\n{FORGED}".encode().hex().upper()
    for kind, field in (("PATH", "name"), ("SYSCALL", "comm"), ("SYSCALL", "exe")):
        event = read(f"type={kind} {SERIAL}{field}={name} item=1")
        assert [view.fields["type"] for view in event.views if "type" in view.fields] == [kind]
        assert event.views[0].fields[field] == f"x\n{FORGED}"
        assert "res" not in event.views[0].fields
    event = read([SYSCALL, f"type=PROCTITLE {SERIAL}proctitle={name}"])
    assert {view.logsource for view in event.views} == {AUDITD, PROCESS}
    (record,) = records(f'type=SYSCALL {SERIAL}comm="{FORGED}" exe="/bin/x"')
    assert (record["comm"], record["exe"]) == (FORGED, "/bin/x")
    assert "pid" not in record


def test_an_account_name_forges_no_field() -> None:
    tail = 'exe="/usr/sbin/sshd" hostname=? addr=203.0.113.9 terminal=ssh res=failed'
    for account in (
        "x' res=success",
        "x res=success addr=10.0.0.1 hostname=10.0.0.1",
        "x'",
        "x uid=0 auid=0 ses=1 pid=1",
        "x\x1dUID=evil AUID=evil",
        "x#035UID=evil",
    ):
        for written in (f'"{account}"', account.encode().hex().upper()):
            fields = login(f"op=login acct={written} {tail}")
            assert fields["user"] == account
            assert (fields["result"], fields["src_ip"]) == ("failure", "203.0.113.9")
            assert (fields["pid"], fields["auid"]) == ("9", "4294967295")
            assert "UID" not in fields


def test_an_account_name_without_quotes_forges_none_that_counts() -> None:
    """Programs of RHEL 5 wrote it as it came."""
    fields = login(
        "PAM: authentication acct=x res=success addr=10.0.0.1 uid=7 op=y : "
        'exe="/usr/sbin/sshd" (hostname=h, addr=203.0.113.9, terminal=ssh res=failed)'
    )
    assert (fields["result"], fields["src_ip"]) == ("failure", "203.0.113.9")
    assert (fields["uid"], fields["user"]) == ("0", "x")


def test_no_text_becomes_the_host() -> None:
    fields = "hostname=evil.example node=evil host=evil terminal=x addr=1.2.3.4 res=failed"
    event = read(f"type=USER_LOGIN {SERIAL}msg='op=login acct=\"node=evil\" {fields}'")
    assert event.host == ""
    assert not any(entity.kind == "host" for entity in event.entities)
    assert read(f"node=Web.example.org {SYSCALL}").host == "web"


# -- events ------------------------------------------------------------


def test_an_execution() -> None:
    event = read(["node=web " + line for line in EXECUTION])
    assert event.mapped
    assert (event.host, event.time) == ("web", 1626611363.72)
    process = find(event, PROCESS)
    assert process["Image"] == "/usr/bin/perl"
    assert process["CommandLine"] == 'perl -e print "a"'
    assert process["CurrentDirectory"] == "/root"
    assert (process["User"], process["LogonId"]) == ("root", "3")
    assert (process["ProcessId"], process["ParentProcessId"]) == ("724395", "722076")
    execve = find(event, AUDITD, "EXECVE")
    assert (execve["a0"], execve["a1"], execve["a2"]) == ("perl", "-e", 'print "a"')
    assert (execve["exe"], execve["key"]) == ("/usr/bin/perl", "exec")
    syscall = find(event, AUDITD, "SYSCALL")
    assert (syscall["SYSCALL"], syscall["a0"], syscall["result"]) == ("execve", "55c0", "success")
    assert find(event, AUDITD, "PATH")["name"] == "/usr/bin/perl"
    assert entities(event) == {
        "host:web",
        "user:user",
        "process:web:724395:/usr/bin/perl",
        "file:/usr/bin/perl",
        "session:web:0x3",
    }
    assert {view.logsource for view in event.views} <= set(SOURCES)


def test_a_program_that_could_not_be_run_is_no_process() -> None:
    event = read([SYSCALL.replace("success=yes", "success=no"), EXECVE])
    assert {view.logsource for view in event.views} == {AUDITD}


@pytest.mark.parametrize(
    ("arch", "number", "name"),
    [
        ("c000003e", 59, "execve"),
        ("c000003e", 322, "execveat"),
        ("c000003e", 319, "memfd_create"),
        ("c000003e", 101, "ptrace"),
        ("c000003e", 175, "init_module"),
        ("c000003e", 435, "clone3"),
        ("40000003", 11, "execve"),
        ("40000003", 102, "socketcall"),
        ("c00000b7", 221, "execve"),
        ("c00000b7", 203, "connect"),
        ("c00000b7", 105, "init_module"),
        ("c00000b7", 56, "openat"),
    ],
)
def test_system_calls_have_names(arch: str, number: int, name: str) -> None:
    event = read(f"type=SYSCALL {SERIAL}arch={arch} syscall={number} success=yes")
    assert find(event, AUDITD)["SYSCALL"] == name


def test_an_unknown_system_call_has_none() -> None:
    for arch, number in (("c000003e", "9999"), ("ffff", "1"), ("zz", "1"), ("c000003e", "x")):
        fields = find(read(f"type=SYSCALL {SERIAL}arch={arch} syscall={number}"), AUDITD)
        assert "SYSCALL" not in fields


def test_a_created_file() -> None:
    opened = SYSCALL.replace("execve", "openat").replace("a0=55c0", "a0=ffffff9c")
    parent = f'type=PATH {SERIAL}item=0 name="/etc/cron.d" nametype=PARENT'
    made = f'type=PATH {SERIAL}item=1 name="../x" nametype=CREATE'
    event = read([opened, CWD.replace("/root", "/etc/cron.d"), parent, made])
    fields = find(event, FILE)
    assert (fields["TargetFilename"], fields["Image"]) == ("/etc/x", "/usr/bin/perl")
    assert "file:/etc/x" in entities(event)
    # Counted from a folder that no record names.
    event = read([opened.replace("ffffff9c", "5"), CWD, made])
    assert find(event, FILE)["TargetFilename"] == "../x"


def test_a_connection() -> None:
    call = SYSCALL.replace("SYSCALL=execve", "SYSCALL=connect")
    peer = f"type=SOCKADDR {SERIAL}saddr=0200115CC63364070000000000000000"
    event = read([call, peer])
    fields = find(event, NETWORK)
    assert (fields["DestinationIp"], fields["DestinationPort"]) == ("198.51.100.7", 4444)
    assert (fields["dst_ip"], fields["Initiated"]) == ("198.51.100.7", "true")
    assert "address:198.51.100.7" in entities(event)
    event = read([call.replace("connect", "accept4"), peer])
    fields = find(event, NETWORK)
    assert (fields["SourceIp"], fields["Initiated"]) == ("198.51.100.7", "false")
    event = read([call, f"type=SOCKADDR {SERIAL}saddr=01002F746D702F7300"])
    assert {view.logsource for view in event.views} == {AUDITD}
    assert find(event, AUDITD, "SOCKADDR")["path"] == "/tmp/s"


def test_socket_addresses() -> None:
    six = bytes.fromhex(
        "0A001F90000000002001 0DB8000000000000000000000001 00000000".replace(" ", "")
    )
    assert read_sockaddr(six) == {"family": "inet6", "addr": "2001:db8::1", "port": 8080}
    big = bytes.fromhex("0002D903000000000000000000000000")
    assert read_sockaddr(big) == {"family": "inet", "addr": "0.0.0.0", "port": 55555}
    assert read_sockaddr(b"\x01\x00\x00abs\x00") == {"family": "unix", "path": "@abs"}
    assert read_sockaddr(b"\x10\x00\x00\x00") == {"family": "netlink"}
    assert read_sockaddr(b"\x02") == read_sockaddr(b"") == {}
    assert read_sockaddr(b"\x02\x00\x11") == {"family": 2}


def test_a_login() -> None:
    text = (
        'op=password acct="dan" exe="/usr/sbin/sshd" hostname=? addr=198.51.100.3 terminal=ssh'
        " res=failed"
    )
    line = f"type=USER_AUTH {SERIAL}pid=1 uid=0 auid=4294967295 ses=4294967295 msg='{text}'"
    event = read(line + '\x1dUID="root" AUID="unset"')
    fields = find(event, AUTH)
    assert (fields["user"], fields["src_ip"], fields["result"]) == (
        "dan",
        "198.51.100.3",
        "failure",
    )
    assert entities(event) == {"user:dan", "address:198.51.100.3"}
    unknown = login("op=login acct=28756E6B6E6F776E207573657229 addr=198.51.100.3 res=failed")
    assert "user" not in unknown
    assert login("op=login id=1000 addr=? hostname=198.51.100.4 res=success")["src_ip"] == (
        "198.51.100.4"
    )


def test_a_login_is_not_of_the_user_whose_program_reports_it() -> None:
    line = f"type=USER_LOGIN {SERIAL}pid=9 uid=0 msg='op=login acct=\"(unknown)\" res=failed'"
    fields = find(read([line, SYSCALL.replace("execve", "sendto")]), AUTH)
    assert "user" not in fields
    assert fields["exe"] == "/usr/bin/perl"


def test_inside_syslog() -> None:
    for message in (
        f"audispd: node=other {EXECVE}",
        f"audisp-syslog: {EXECVE}",
        f'kernel: [49787.970285] audit: type=1309 {SERIAL[4:]}argc=1 a0="perl" a1="-e"',
        'audit[77]: EXECVE argc=2 a0="perl" a1="-e"',
    ):
        event = read(f"<13>Jul 18 12:29:23 db {message}")
        fields = find(event, AUDITD, "EXECVE")
        assert (fields["a0"], fields["a1"]) == ("perl", "-e")
        assert event.host == ("other" if "node=" in message else "db")
        assert event.time_known
    event = read(f"<13>Jul 18 12:29:23 db someapp: {EXECVE}")
    assert all(view.logsource != AUDITD for view in event.views)


LAUREL = {
    "ID": "1626611363.720:348501",
    "NODE": "work",
    "SYSCALL": {
        "arch": "0xc000003e", "syscall": 59, "success": "yes", "exit": 0, "pid": 5, "ppid": 4,
        "uid": 0, "auid": 1000, "ses": 3, "comm": "perl", "exe": "/usr/bin/perl", "key": "k",
        "UID": "root", "AUID": "user", "ARGV": ["0x40000", "0x1", "0x2", "0x3"],
    },
    "EXECVE": {"argc": 2, "ARGV": ["perl", "-e"]},
    "CWD": {"cwd": "/root"},
    "PATH": [{"item": 0, "name": "/etc/x", "nametype": "CREATE"}, {"item": 1, "name": "b"}],
    "SOCKADDR": [{"saddr": "%02%00%11%5c%c63d%07%00%00%00%00%00%00%00%00"}],
    "PARENT_INFO": {"exe": "/bin/bash", "ARGV": ["bash", "-i"], "comm": "bash"},
}  # fmt: skip


def test_laurels_process_tree() -> None:
    tree = {"exe": "/bin/sh", "comm": "sh", "ppid": 1}
    value = {**LAUREL, "SYSCALL": {**LAUREL["SYSCALL"], "PPID": tree}}  # type: ignore[dict-item]
    del value["PARENT_INFO"]
    assert find(read(json.dumps(value)), PROCESS)["ParentImage"] == "/bin/sh"


def test_laurels_objects_in_syslog() -> None:
    value = {name: part for name, part in LAUREL.items() if name != "NODE"}
    event = read(f"<13>Jul 18 12:29:23 db laurel: {json.dumps(value)}")
    assert find(event, PROCESS)["CommandLine"] == "perl -e"
    assert event.host == "db"
    event = read(f"<13>Jul 18 12:29:23 db sudo: {json.dumps(value)}")
    assert all(view.logsource.service != "auditd" for view in event.views)


def test_laurels_objects() -> None:
    event = read(json.dumps(LAUREL))
    assert (event.host, event.time, event.format) == ("work", 1626611363.72, "json")
    process = find(event, PROCESS)
    assert (process["Image"], process["CommandLine"]) == ("/usr/bin/perl", "perl -e")
    assert (process["ParentImage"], process["ParentCommandLine"]) == ("/bin/bash", "bash -i")
    assert (process["User"], process["CurrentDirectory"]) == ("root", "/root")
    assert find(event, AUDITD, "SYSCALL")["a0"] == "40000"
    assert find(event, AUDITD, "EXECVE")["a1"] == "-e"
    assert find(event, FILE)["TargetFilename"] == "/etc/x"
    address = find(event, AUDITD, "SOCKADDR")
    assert (address["addr"], address["port"]) == ("198.51.100.7", 4444)


@pytest.mark.parametrize(
    "change",
    [
        {"SYSCALL": {"SYSCALL": ["execve"], "ARCH": ["x"], "exe": {"a": 1}, "ses": [], "uid": {}}},
        {"SYSCALL": {"ARGV": "x", "type": "USER_LOGIN", "arch": 5, "syscall": None}},
        {"EXECVE": {"ARGV": [1, None, {"a": []}]}, "CWD": {"cwd": 5}, "PATH": [5, None, {}]},
        {"PATH": {"nametype": ["CREATE"], "name": []}, "PARENT_INFO": [], "NODE": {}},
        {"SOCKADDR": [{"saddr": "%zz"}, {"saddr": 5}], "USER_LOGIN": {"acct": [], "addr": {}}},
        {"PARENT_INFO": {"ARGV": [[]], "exe": 5}},
    ],
)
def test_odd_objects_raise_nothing(change: dict[str, Any]) -> None:
    event = read(json.dumps(LAUREL | change))
    assert event.views
    assert all(view.logsource in SOURCES for view in event.views)


def test_other_objects_are_not_laurels() -> None:
    for value in ({"ID": "1.0:1"}, {"ID": "x", "SYSCALL": {}}, {"ID": 5, "SYSCALL": {}}, {"a": 1}):
        assert all(view.logsource != AUDITD for view in read(json.dumps(value)).views)


def test_an_event_of_very_many_records_is_bounded() -> None:
    path = f'type=PATH {SERIAL}item=0 name="/x" nametype=CREATE'
    event = read([SYSCALL, *[path] * 5000])
    assert len(event.views) < 300
    event = read([SYSCALL, f"type=EXECVE {SERIAL}" + " ".join(f'a{n}="x"' for n in range(5000))])
    assert len(find(event, AUDITD, "EXECVE")) < 400


NAMES = [
    "ARGV", "ARGV_STR", "arch", "syscall", "SYSCALL", "ARCH", "exe", "saddr", "name", "nametype",
    "cwd", "key", "acct", "addr", "uid", "UID", "AUID", "ses", "pid", "type", "res", "success",
    "PPID", "unit", "hostname", "port", "a0",
]  # fmt: skip
KINDS = [
    "SYSCALL", "EXECVE", "PATH", "CWD", "SOCKADDR", "USER_LOGIN", "PROCTITLE", "NODE",
    "PARENT_INFO", "SERVICE_START", "LOGIN",
]  # fmt: skip

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(KINDS), values))
def test_no_object_raises_anything(value: dict[str, Any]) -> None:
    event = read(json.dumps({"ID": "1626611363.720:1", **value}))
    assert event.views
    json.dumps([view.fields for view in event.views]).encode("utf-8")
