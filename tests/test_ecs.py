"""ECS events of Beats and Elastic Agent in Sigma's words: shapes, kinds, forged and odd ones."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.normalise import FED
from appliance.normalise.flatten import flatten
from appliance.schema import Event
from tests.formats import QUICK, find_view, list_entities, measure, read_line

STAMP = "2026-11-22T12:00:00.250Z"


def make(event: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "@timestamp": STAMP,
        "ecs": {"version": "8.11.0"},
        "event": event,
        "host": {"name": "ws5.example.com", "os": {"type": "linux"}},
        **fields,
    }


def read(record: dict[str, Any]) -> Event:
    return read_line(json.dumps(record))


START = make(
    {"category": ["process"], "type": ["start"], "kind": "event", "module": "endpoint"},
    process={
        "pid": 4120, "entity_id": "abc-1", "executable": "/usr/bin/curl", "name": "curl",
        "args": ["curl", "http://a.example/x"], "working_directory": "/tmp",
        "hash": {"sha256": "a1" * 32},
        "parent": {"pid": 77, "executable": "/bin/bash", "command_line": "bash -i"},
    },
    user={"name": "ann", "domain": "EXAMPLE"},
)  # fmt: skip
SIGMA = {
    "Image": "/usr/bin/curl", "CommandLine": "curl http://a.example/x", "ProcessId": 4120,
    "CurrentDirectory": "/tmp", "ParentImage": "/bin/bash", "ParentCommandLine": "bash -i",
    "ParentProcessId": 77, "User": "EXAMPLE\\ann", "Hashes": "SHA256=" + "a1" * 32,
}  # fmt: skip


@pytest.mark.parametrize("shape", ["nested", "dotted", "_source", "syslog"])
def test_process_start(shape: str) -> None:
    record = START if shape != "dotted" else flatten(START)
    text = json.dumps({"_source": record} if shape == "_source" else record)
    event = read_line(f"Nov 22 12:00:00 relay filebeat: {text}" if shape == "syslog" else text)
    view = find_view(event, product="linux", category="process_creation")
    assert {name: view[name] for name in SIGMA} == SIGMA
    assert event.host == "ws5"
    assert event.time_known
    assert event.time % 60 == 0.25
    assert {"host:ws5", "user:example\\ann", "file:/usr/bin/curl"} <= list_entities(event)
    assert "hash:sha256:" + "a1" * 32 in list_entities(event)


def kind(event: dict[str, Any], system: str = "linux", **fields: Any) -> dict[str, Any]:
    record = make(event, **fields)
    return {**record, "host": {"name": "ws5", "os": {"type": system}}}


KINDS: list[tuple[dict[str, Any], dict[str, str | None], dict[str, Any]]] = [
    (
        kind({"category": ["process"], "type": ["start"]}, "windows",
             process={"executable": "C:\\x.exe", "command_line": "x /y",
                      "pe": {"original_file_name": "Y.EXE"}}),
        {"product": "windows", "category": "process_creation"},
        {"Image": "C:\\x.exe", "CommandLine": "x /y", "OriginalFileName": "Y.EXE"},
    ),
    (
        kind({"category": ["process"], "type": ["start"]}, "macos",
             process={"executable": "/bin/ls", "command_line": "ls"}),
        {"product": "macos", "category": "process_creation"},
        {"Image": "/bin/ls"},
    ),
    (
        kind({"category": ["file"], "type": ["creation"]}, file={"path": "/etc/cron.d/x"},
             process={"executable": "/bin/sh"}),
        {"product": "linux", "category": "file_event"},
        {"TargetFilename": "/etc/cron.d/x", "Image": "/bin/sh"},
    ),
    (
        kind({"category": ["file"], "type": ["deletion"]}, "windows", file={"path": "C:\\x"}),
        {"product": "windows", "category": "file_delete"},
        {"TargetFilename": "C:\\x"},
    ),
    (
        kind({"category": ["registry"], "type": ["change"]}, "windows",
             registry={"path": "HKEY_LOCAL_MACHINE\\SOFTWARE\\Run\\x",
                       "data": {"strings": ["y.exe"]}}),
        {"product": "windows", "category": "registry_set"},
        {"TargetObject": "HKLM\\SOFTWARE\\Run\\x", "Details": "y.exe"},
    ),
    (
        kind({"category": ["network"], "type": ["start"]}, process={"executable": "/bin/nc"},
             source={"ip": "192.0.2.5", "port": 1}, network={"direction": "egress"},
             destination={"ip": "203.0.113.7", "port": 4444}),
        {"product": "linux", "category": "network_connection"},
        {"Image": "/bin/nc", "DestinationIp": "203.0.113.7", "DestinationPort": 4444,
         "Initiated": "true", "dst_ip": "203.0.113.7"},
    ),
    (
        kind({"category": ["network"], "dataset": "dns"}, client={"ip": "192.0.2.5"},
             dns={"question": {"name": "a.example.", "type": "TXT"},
                  "answers": [{"data": "v=1"}, {"data": "IEX"}], "response_code": "NOERROR"}),
        {"product": None, "category": "dns"},
        {"query": "a.example", "record_type": "TXT", "answer": ["v=1", "IEX"],
         "src_ip": "192.0.2.5"},
    ),
    (
        kind({"category": ["network"], "type": ["start"]}, "windows",
             process={"executable": "C:\\x.exe"}, dns={"question": {"name": "a.example"}}),
        {"product": "windows", "category": "dns_query"},
        {"QueryName": "a.example", "Image": "C:\\x.exe"},
    ),
    (
        kind({"category": ["network"], "type": ["denied"], "module": "iptables"},
             source={"ip": "203.0.113.9", "port": 1}, destination={"ip": "192.0.2.7", "port": 22}),
        {"product": None, "category": "firewall"},
        {"action": "blocked", "blocked": "true", "src_ip": "203.0.113.9", "dst_port": 22},
    ),
    (
        kind({"category": ["authentication"], "outcome": "failure", "dataset": "system.auth"},
             user={"name": "eve"}, source={"ip": "203.0.113.9", "port": 5},
             process={"name": "sshd"}),
        {"product": "linux", "service": "sshd"},
        {"user": "eve", "src_ip": "203.0.113.9", "result": "failure"},
    ),
    (
        kind({"category": ["web"], "module": "nginx", "dataset": "nginx.access"},
             url={"original": "/a?b=c"}, http={"request": {"method": "GET"},
             "response": {"status_code": 404}}, user_agent={"original": "curl/8"},
             source={"ip": "203.0.113.9"}),
        {"product": None, "category": "webserver"},
        {"cs-uri-query": "/a?b=c", "cs-method": "GET", "sc-status": "404",
         "cs-user-agent": "curl/8"},
    ),
    (
        kind({"category": ["network", "web"], "module": "squid"}, url={"full": "http://a.example/x"},
             http={"request": {"method": "GET"}}),
        {"product": None, "category": "proxy"},
        {"c-uri": "http://a.example/x", "cs-host": "a.example"},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("record", "parts", "fields"), KINDS)
def test_kinds(
    record: dict[str, Any], parts: dict[str, str | None], fields: dict[str, Any]
) -> None:
    for shape in (record, flatten(record)) if "dns" not in record else (record,):
        event = read(shape)
        view = find_view(event, **parts)
        assert {name: view.get(name) for name in fields} == fields
        assert event.mapped
        assert event.host == "ws5"
        assert {v.logsource for v in event.views} <= set(FED)


def test_auditbeat() -> None:
    record = make(
        {"category": ["process"], "type": ["start"], "module": "auditd", "action": "executed"},
        auditd={"message_type": "syscall", "data": {"syscall": "execve", "exit": "0", "key": "k"}},
        process={"executable": "/usr/bin/nmap", "name": "nmap", "args": ["nmap", "-sS", "x"]},
    )
    del record["host"]["os"]
    event = read(record)
    assert find_view(event, product="linux", category="process_creation")["CommandLine"] == (
        "nmap -sS x"
    )
    own = [v.fields for v in event.views if v.logsource.service == "auditd"]
    assert [fields["type"] for fields in own] == ["SYSCALL", "EXECVE"]
    assert (own[0]["exe"], own[0]["comm"], own[0]["syscall"]) == ("/usr/bin/nmap", "nmap", "execve")
    assert [own[1][name] for name in ("a0", "a1", "a2")] == ["nmap", "-sS", "x"]


@pytest.mark.parametrize(
    ("dataset", "service"),
    [("system.syslog", "syslog"), ("system.auth", "auth"), ("nginx.error", "nginx")],
)
def test_lines_of_services(dataset: str, service: str) -> None:
    event = read(make({"dataset": dataset}, message="segfault at 0"))
    assert find_view(event, product="linux", service=service)["message"] == "segfault at 0"
    assert event.views[0].logsource in FED


def test_winlogbeat_stays_with_windows() -> None:
    record = make(
        {"category": ["process"], "type": ["start"], "code": "1", "module": "sysmon"},
        winlog={
            "channel": "Microsoft-Windows-Sysmon/Operational",
            "event_id": "1",
            "computer_name": "dc1.example.com",
            "event_data": {"Image": "C:\\x.exe", "CommandLine": "x"},
        },
        process={"executable": "C:\\other.exe"},
    )
    event = read(record)
    assert find_view(event, category="process_creation")["Image"] == "C:\\x.exe"
    assert len({v.logsource for v in event.views}) == len(event.views) == 2
    assert event.host == "dc1"


@pytest.mark.parametrize(
    "record",
    [
        # Another's JSON with some of the names.
        {"@timestamp": STAMP, "process": {"executable": "/bin/x"}, "event": "start"},
        {"@timestamp": STAMP, "timestamp": STAMP, "rule": {"id": "1"}, "agent": {"name": "x"},
         "data": {"srcip": "192.0.2.1"}},
        {"ecs": {"version": "1"}, "event": {"category": ["process"], "type": ["start"]},
         "process": {"executable": "/bin/x"}},
        {"@timestamp": STAMP, "event": {"category": ["process"], "type": ["start"]},
         "process": {"executable": "/bin/x"}},
        # ECS that Sigma has no words for.
        make({"category": ["package"], "type": ["info"]}),
        make({"kind": "metric", "module": "system"}),
        make({"category": "process", "type": ["info"]}, process={"executable": "/bin/x"}),
        {**make({"category": ["process"], "type": ["start"]}, process={"executable": "/bin/x"}),
         "host": {"name": "ws5"}},
        make({"module": "mysql"}, query="SELECT 1"),
    ],
)  # fmt: skip
def test_others_are_not_mapped(record: dict[str, Any]) -> None:
    assert not read(record).mapped


def test_forged_parts_choose_neither_host_nor_kind() -> None:
    record = kind(
        {"category": ["web"], "module": "nginx"}, "linux",
        url={"original": "/", "domain": "forged"}, http={"request": {"method": "GET"}},
        user_agent={"original": '","host":{"name":"forged"}'}, source={"ip": "203.0.113.9"},
        message="event.category: process host.name: forged",
    )  # fmt: skip
    event = read(record)
    assert event.host == "ws5"
    assert [v.logsource.category for v in event.views] == ["webserver"]
    # A program of the host can't pass an object off as another's event.
    text = json.dumps(START)
    assert {v.logsource.product for v in read_line(f"Nov 22 12:00:00 web sudo: {text}").views} == {
        "linux"
    }
    assert not [
        v
        for v in read_line(f"Nov 22 12:00:00 web sudo: {text}").views
        if v.logsource.category == "process_creation"
    ]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["name", "ip", "executable", "category", "type", "os", "answers"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    ),
    st.sampled_from(["event", "host", "process", "dns", "source", "url", "auditd", "user"]),
)
def test_any_value_anywhere(value: Any, name: str) -> None:
    event = read({**START, name: value})
    assert event.views


def test_hostile_records_end_quickly() -> None:
    wide = {**START, "process": {**START["process"], "args": ["x" * 10] * 20_000}}
    assert measure(lambda: read(wide)) < QUICK
    many = {**START, **{f"a{n}.b": n for n in range(20_000)}}
    assert measure(lambda: read(many)) < QUICK


def test_bad_bytes() -> None:
    data = json.dumps(START).encode().replace(b"bash -i", b"bash \xff")
    view = find_view(read_line(data), category="process_creation")
    assert view["ParentCommandLine"] == "bash \\xff"


SHIPPED = {
    "@timestamp": STAMP,
    "ecs": {"version": "8.0.0"},
    "agent": {"type": "filebeat"},
    "host": {"name": "jump"},
    "log": {"file": {"path": "/var/log/auth.log"}, "offset": 0},
}


@pytest.mark.parametrize("shape", ["nested", "dotted"])
def test_a_line_that_filebeat_wrapped_is_read_as_from_its_file(shape: str) -> None:
    line = "Nov 22 11:59:00 jump sshd[7]: Failed password for eve from 203.0.113.9 port 5 ssh2"
    record = {**SHIPPED, "message": line}
    event = read(record if shape == "nested" else flatten(record))
    view = find_view(event, service="sshd")
    assert (view["user"], view["src_ip"], view["result"]) == ("eve", "203.0.113.9", "failure")
    assert (event.host, event.format, event.mapped) == ("jump", "json", True)
    assert event.time == read_line(line).time


def test_a_wrapped_line_without_a_host_is_the_agents() -> None:
    line = "22-Nov-2026 10:00:00.123 client 192.0.2.1#5: query: a.example IN A +"
    event = read({**SHIPPED, "message": line})
    assert find_view(event, category="dns")["query"] == "a.example"
    assert event.host == "jump"


@pytest.mark.parametrize(
    "message",
    ["hello", json.dumps(START), '{"Event": {"System": {"EventID": 1, "Computer": "forged"}}}', ""],
)
def test_a_wrapped_text_or_object_is_not_read_as_an_event(message: str) -> None:
    event = read({**SHIPPED, "message": message})
    assert not event.mapped
    assert event.host == "jump"
    assert event.views[0].fields["message"] == message


def test_what_a_module_has_read_is_not_read_twice() -> None:
    line = '203.0.113.9 - - [22/Nov/2026:12:00:00 +0000] "GET /a HTTP/1.1" 404 5'
    record = kind(
        {"category": ["web"], "module": "nginx"},
        url={"original": "/a"}, http={"request": {"method": "GET"}},
        log={"file": {"path": "/var/log/nginx/access.log"}}, message=line,
    )  # fmt: skip
    assert len(read(record).views) == 1
