"""The provenance graph: which process is which, up to the roots, down to the descendants."""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.correlate.provenance import TraceLimits, build_provenance, process_keys
from appliance.incident import Provenance, TraceNode
from appliance.schema import Cursor, Event, LogSource, RawRecord, View

T0 = 1_700_000_000.0
SYSTEM32 = "C:\\Windows\\System32\\"
SYSMON = LogSource(product="windows", service="sysmon")


def make_event(
    number: int,
    at: float,
    fields: dict[str, Any],
    *,
    category: str | None = None,
    service: str | None = None,
    host: str = "ws5",
    product: str = "windows",
) -> Event:
    cursor = Cursor("logs", "k", number, number + 1)
    record = RawRecord(b"{}", "logs", "/x.json", "x.json", cursor, T0, "json")
    views = [View(LogSource(product=product, service=service or "sysmon"), fields)]
    if category is not None:
        views.append(View(LogSource(product=product, category=category), fields))
    identity = f"{host}-{number:04d}"
    return Event(identity, T0 + at, T0 + at, host, tuple(views), (), record, "json")


def start(
    number: int, at: float, image: str, pid: int, parent: int, host: str = "ws5", **more: Any
) -> Event:
    """Sysmon 1 with GUIDs; `parent` is the parent's process id."""
    fields = {
        "EventID": 1,
        "Image": image,
        "CommandLine": image,
        "ProcessId": pid,
        "ProcessGuid": f"{{{host}-{pid}}}",
        "ParentProcessId": parent,
        "ParentProcessGuid": f"{{{host}-{parent}}}",
        "User": "CORP\\eve",
        **more,
    }
    fields = {name: value for name, value in fields.items() if value is not None}
    return make_event(number, at, fields, category="process_creation", host=host)


def start_4688(
    number: int, at: float, image: str, pid: int, parent: int, host: str = "ws5", **more: Any
) -> Event:
    """Security 4688 as the bridge gives it: no GUID, the raw ids in hex."""
    fields = {
        "EventID": 4688,
        "NewProcessId": hex(pid),
        "NewProcessName": image,
        "Image": image,
        "CommandLine": image,
        "ProcessId": pid,
        "ParentProcessId": parent,
        **more,
    }
    return make_event(
        number, at, fields, category="process_creation", service="security", host=host
    )


def act(number: int, at: float, category: str, pid: int, host: str = "ws5", **fields: Any) -> Event:
    """Something that the process with this id did."""
    body = {"ProcessId": pid, "ProcessGuid": f"{{{host}-{pid}}}", **fields}
    return make_event(number, at, body, category=category, host=host)


def security(number: int, at: float, event_id: int, host: str = "ws5", **fields: Any) -> Event:
    """An event of the Security log that has no category."""
    body = {"EventID": event_id, **fields}
    return make_event(number, at, body, service="security", host=host)


def find(event: Event, name: str = "") -> dict[str, Any]:
    """A finding on the event."""
    time_text = "2023-11-14T22:13:20.000000Z"
    return {"id": f"f-{event.id}{name}", "time": time_text, "event": {"id": event.id}}


def images(graph: Provenance, *roles: str) -> set[str]:
    """File names of the processes with such a role."""
    return {
        dict(node.facts).get("Image", "").rpartition("\\")[2].rpartition("/")[2]
        for node in graph.nodes
        if node.kind == "process" and node.role in roles
    }


def named(graph: Provenance, name: str) -> TraceNode:
    """The only process of that file name."""
    (node,) = [
        node
        for node in graph.nodes
        if node.kind == "process" and dict(node.facts).get("Image", "").endswith(name)
    ]
    return node


def verbs(graph: Provenance) -> set[tuple[str, str, str]]:
    """Labels' first words of the edges with their verbs."""
    labels = {node.id: node.label for node in graph.nodes}
    return {(labels[e.source], e.verb, labels[e.target]) for e in graph.edges}


def macro_story() -> list[Event]:
    """explorer -> winword -> cmd -> powershell -> whoami, and what else goes on."""
    return [
        start(1, 0, "C:\\Windows\\explorer.exe", 100, 90),
        start(2, 10, "C:\\Office\\WINWORD.EXE", 200, 100),
        start(3, 15, "C:\\Windows\\splwow64.exe", 210, 200),
        start(4, 20, SYSTEM32 + "cmd.exe", 300, 200, CommandLine="cmd.exe /c powershell -enc x"),
        start(5, 21, SYSTEM32 + "powershell.exe", 400, 300, CommandLine="powershell -enc x"),
        start(6, 30, SYSTEM32 + "whoami.exe", 500, 400),
        start(7, 25, "C:\\Apps\\chrome.exe", 600, 100),
        start(8, 26, "C:\\Apps\\chrome.exe", 610, 600),
    ]


def test_root_is_the_last_ancestor_below_the_desktop() -> None:
    events = macro_story()
    graph = build_provenance(events, [find(events[4])])
    assert images(graph, "root") == {"WINWORD.EXE"}
    assert images(graph, "path") == {"cmd.exe", "powershell.exe"}
    assert images(graph, "descendant") == {"whoami.exe"}
    assert images(graph, "ancestor") == {"explorer.exe"}
    assert graph.roots == (named(graph, "WINWORD.EXE").id,)
    assert graph.reach == ("ws5",)
    assert graph.cut == 0
    assert named(graph, "powershell.exe").findings == ("f-ws5-0005",)
    assert named(graph, "powershell.exe").events == ("ws5-0005",)


def test_sentences_cite_what_is_there() -> None:
    events = macro_story()
    graph = build_provenance(events, [find(events[4])])
    known = {event.id for event in events} | {"f-ws5-0005"}
    assert graph.sentences
    for sentence in (*graph.sentences, *graph.missing):
        assert sentence.cites
        assert set(sentence.cites) <= known
    assert "winword.exe" in graph.sentences[0].text


def test_a_documents_ordinary_children_are_left_out() -> None:
    """What an office program started before the first suspicious act is its own; not after."""
    events = [*macro_story(), start(9, 40, "C:\\Temp\\later.exe", 700, 200)]
    graph = build_provenance(events, [find(events[3])])
    shown = images(graph, "root", "path", "descendant")
    assert "splwow64.exe" not in shown
    assert "later.exe" in shown
    assert "chrome.exe" not in shown


def test_process_id_used_again_is_another_process() -> None:
    events = [
        start_4688(1, 0, "C:\\good.exe", 50, 10),
        security(2, 100, 4689, ProcessId="0x32", ProcessName="C:\\good.exe"),
        start_4688(3, 200, "C:\\evil.exe", 50, 20),
        start_4688(4, 50, "C:\\early.exe", 60, 50),
        start_4688(5, 300, "C:\\late.exe", 61, 50),
    ]
    early = build_provenance(events, [find(events[3])])
    late = build_provenance(events, [find(events[4])])
    assert "good.exe" in images(early, "path", "root")
    assert "evil.exe" not in images(early, "path", "root", "descendant")
    assert "evil.exe" in images(late, "path", "root")
    assert "good.exe" not in images(late, "path", "root", "descendant")


def test_a_parent_that_ended_is_not_the_one() -> None:
    """Its id is in use again by something that nobody saw start."""
    events = [
        start_4688(1, 0, "C:\\good.exe", 50, 10),
        security(2, 100, 4689, ProcessId="0x32", ProcessName="C:\\good.exe"),
        start_4688(3, 300, "C:\\child.exe", 60, 50),
    ]
    graph = build_provenance(events, [find(events[2])])
    assert "good.exe" not in images(graph, "root", "path", "ancestor", "descendant")
    assert any("recorded by nobody" in sentence.text for sentence in graph.missing)


def test_both_recorders_tell_of_one_process() -> None:
    image = SYSTEM32 + "cmd.exe"
    events = [
        start(1, 0, image, 50, 40, CommandLine="cmd /c %TEMP%"),
        start_4688(2, 3, image, 50, 40, CommandLine="cmd /c %%TEMP%%"),
        start(3, 5, SYSTEM32 + "net.exe", 60, 50),
        start_4688(4, 6, SYSTEM32 + "net.exe", 60, 50),
    ]
    graph = build_provenance(events, [find(events[3])])
    assert named(graph, "cmd.exe").events == ("ws5-0001", "ws5-0002")
    assert named(graph, "net.exe").events == ("ws5-0003", "ws5-0004")
    assert named(graph, "net.exe").findings == ("f-ws5-0004",)


def test_both_recorders_where_sysmon_lacks_the_id_and_the_other_the_zone() -> None:
    image = SYSTEM32 + "cmd.exe"
    without_id = start(1, 0, image, 50, 40, ProcessId=None)
    graph = build_provenance([without_id, start_4688(2, 1, image, 50, 40)], [find(without_id)])
    assert dict(named(graph, "cmd.exe").facts)["ProcessId"] == "50"
    with_zone = start_4688(2, 5 * 3600.0, image, 50, 40)
    graph = build_provenance([start(1, 0, image, 50, 40), with_zone], [find(with_zone)])
    assert len(named(graph, "cmd.exe").events) == 2


def test_two_starts_with_the_same_id_are_two() -> None:
    """4688 tells a start again once: the next is another process."""
    image = SYSTEM32 + "cmd.exe"
    events = [
        start(1, 0, image, 50, 40),
        start_4688(2, 1, image, 50, 40),
        start_4688(3, 2, image, 50, 40),
    ]
    graph = build_provenance(events, [find(events[0]), find(events[2])])
    assert sum(dict(n.facts).get("Image") == image for n in graph.nodes) == 2


def test_missing_parent_is_said() -> None:
    child = start(1, 0, SYSTEM32 + "whoami.exe", 60, 50, ParentImage="C:\\x\\agent7.exe")
    graph = build_provenance([child], [find(child)])
    assert images(graph, "root") == {"agent7.exe"}
    assert dict(named(graph, "agent7.exe").facts)["Recorded"] == "no"
    (sentence,) = graph.missing
    assert "agent7.exe (pid 50)" in sentence.text
    assert sentence.cites


def test_a_system_name_does_not_make_a_system_parent() -> None:
    """svchost.exe that a document started, or in a user's folder, is the attack's."""
    events = [
        start(1, 0, "C:\\Office\\WINWORD.EXE", 200, 100, ParentImage="C:\\Windows\\explorer.exe"),
        start(2, 1, SYSTEM32 + "svchost.exe", 300, 200, CommandLine="svchost.exe -k netsvcs"),
        start(3, 2, SYSTEM32 + "whoami.exe", 400, 300),
        start(4, 3, "C:\\Users\\eve\\svchost.exe", 500, 4, ParentImage=SYSTEM32 + "services.exe"),
        start(5, 4, SYSTEM32 + "net.exe", 600, 500),
    ]
    graph = build_provenance(events, [find(events[2]), find(events[4])])
    assert images(graph, "root") == {"WINWORD.EXE", "svchost.exe"}
    assert images(graph, "path") == {"svchost.exe", "whoami.exe", "net.exe"}


def test_siblings_below_a_system_parent_are_left_out() -> None:
    events = [
        start(1, 0, SYSTEM32 + "svchost.exe", 20, 4, CommandLine="svchost.exe -k netsvcs"),
        start(2, 1, "C:\\a.exe", 30, 20),
        start(3, 2, "C:\\b.exe", 31, 20),
        act(4, 3, "file_event", 20, Image=SYSTEM32 + "svchost.exe", TargetFilename="C:\\x.dll"),
    ]
    graph = build_provenance(events, [find(events[1]), find(events[3])])
    assert images(graph, "root", "path", "descendant") == {"a.exe"}
    assert "b.exe" not in images(graph, "ancestor", "touched")


def test_a_shell_that_was_typed_into_long_before() -> None:
    shell = SYSTEM32 + "cmd.exe"
    events = [
        start(1, 0, shell, 30, 20, ParentImage="C:\\Windows\\explorer.exe"),
        start(2, 10, "C:\\old.exe", 31, 30),
        start(3, 7000, "C:\\near.exe", 32, 30),
        start(4, 7200, "C:\\bad.exe", 33, 30),
    ]
    graph = build_provenance(events, [find(events[3])])
    assert images(graph, "descendant") == {"near.exe"}
    assert images(graph, "root") == {"cmd.exe"}


def test_what_is_touched() -> None:
    events = [
        start(1, 0, "C:\\bad.exe", 30, 20),
        act(2, 1, "file_event", 30, TargetFilename="C:\\drop.dll"),
        act(3, 2, "file_event", 30, TargetFilename="C:\\notes.txt"),
        act(4, 3, "network_connection", 30, DestinationIp="203.0.113.9", DestinationPort="443"),
        act(5, 4, "network_connection", 30, DestinationIp="203.0.113.9", DestinationPort="443"),
        act(6, 5, "dns_query", 30, QueryName="evil.example."),
        act(7, 6, "registry_set", 30, TargetObject="HKU\\x\\CurrentVersion\\Run\\y"),
        act(8, 7, "registry_set", 30, TargetObject="HKU\\x\\Software\\z"),
        make_event(
            9,
            8,
            {
                "SourceProcessGUID": "{ws5-30}",
                "SourceProcessId": 30,
                "TargetProcessGUID": "{ws5-7}",
                "TargetProcessId": 7,
                "TargetImage": SYSTEM32 + "lsass.exe",
            },
            category="process_access",
        ),
    ]
    graph = build_provenance(events, [find(events[0]), find(events[8])])
    touched = {(verb, target.partition(":")[0]) for _, verb, target in verbs(graph)}
    assert {
        ("wrote", "C"),
        ("connected to", "203.0.113.9"),
        ("looked up", "evil.example"),
        ("opened the memory of", "lsass.exe"),
    } <= touched
    labels = {node.label for node in graph.nodes}
    assert "C:\\drop.dll" in labels
    assert "C:\\notes.txt" not in labels
    assert "HKU\\x\\CurrentVersion\\Run\\y" in labels
    assert "HKU\\x\\Software\\z" not in labels
    (edge,) = [edge for edge in graph.edges if edge.verb == "connected to"]
    assert (edge.count, edge.time) == (2, T0 + 3)


def test_a_finding_on_no_process_is_shown() -> None:
    logon = security(1, 0, 4625, TargetUserName="bob", IpAddress="203.0.113.9", LogonType="3")
    graph = build_provenance([logon], [find(logon)])
    assert {node.kind for node in graph.nodes} == {"session", "address"}
    assert {node.findings for node in graph.nodes} == {("f-ws5-0001",)}
    (edge,) = graph.edges
    assert edge.verb == "failed to log on as bob"
    local = security(2, 0, 4625, TargetUserName="bob", IpAddress="-", LogonType="2")
    (node,) = build_provenance([local], [find(local)]).nodes
    assert (node.kind, node.label) == ("user", "bob")


def test_a_finding_whose_event_is_gone() -> None:
    graph = build_provenance([], [{"id": "f1", "event": {"id": "gone"}}])
    assert graph.nodes == ()
    assert graph.missing[0].cites == ("f1",)


@pytest.mark.parametrize(
    "body", [{}, {"id": 3}, {"id": "x", "event": None}, {"id": "x", "event": {"id": []}}]
)
def test_odd_findings_are_passed_over(body: dict[str, Any]) -> None:
    assert build_provenance(macro_story(), [body]) == Provenance()


def test_circles_and_own_parents_survive() -> None:
    events = [
        start(1, 0, "C:\\a.exe", 1, 3),
        start(2, 0, "C:\\b.exe", 2, 1),
        start(3, 0, "C:\\c.exe", 3, 2),
        start(4, 0, "C:\\d.exe", 9, 9),
        start_4688(5, 0, "C:\\e.exe", 70, 70),
    ]
    graph = build_provenance(events, [find(event) for event in events])
    assert {"a.exe", "b.exe", "c.exe", "d.exe", "e.exe"} <= images(graph, "root", "path")
    assert all(edge.source != edge.target for edge in graph.edges)


def test_caps_are_counted() -> None:
    desktop = "C:\\Windows\\explorer.exe"
    events = [start(1, 0, "C:\\root.exe", 1, 900, ParentImage=desktop)]
    events += [start(n, n, f"C:\\{n}.exe", n, 1) for n in range(2, 60)]
    bad = find(events[0])
    graph = build_provenance(events, [bad], limits=TraceLimits(children=50, nodes=20, edges=5))
    assert len(graph.nodes) == 20
    assert len(graph.edges) == 5
    assert graph.cut == 8 + 32
    assert graph.roots
    assert images(graph, "root") == {"root.exe"}


def test_depth_is_capped() -> None:
    events = [start(n, n, f"C:\\{n}.exe", n, n - 1) for n in range(2, 100)]
    graph = build_provenance(events, [find(events[0])], limits=TraceLimits(depth=10))
    assert 10 <= len(graph.nodes) <= 13
    assert graph.cut >= 1
    assert any("10 processes" in sentence.text for sentence in graph.missing)
    up = build_provenance(events, [find(events[-1])], limits=TraceLimits(depth=10))
    assert len(up.nodes) <= 13


def test_too_many_events() -> None:
    """Those with findings and the starts stay; the answer does not depend on the order."""
    events = macro_story()
    noise = [act(100 + n, n, "dns_query", 400, QueryName=f"n{n}.example") for n in range(50)]
    limits = TraceLimits(events=10)
    graph = build_provenance([*noise, *events], [find(events[4])], limits=limits)
    assert images(graph, "root") == {"WINWORD.EXE"}
    assert graph == build_provenance([*events, *noise[::-1]], [find(events[4])], limits=limits)
    assert any("beyond the cap" in sentence.text for sentence in graph.missing)


HOSTILE = "\x1b[2J\n\r\u202e\udcff" + "A" * 100_000


def test_hostile_texts_are_made_safe() -> None:
    events = [
        start(1, 0, HOSTILE, 1, 2, CommandLine=HOSTILE, User=HOSTILE, ProcessGuid=HOSTILE),
        act(2, 1, "file_event", 1, ProcessGuid=HOSTILE, TargetFilename=HOSTILE + ".exe"),
        act(3, 2, "dns_query", 1, ProcessGuid=HOSTILE, QueryName=HOSTILE + ".example"),
        security(4, 3, 4697, ServiceName=HOSTILE, ServiceFileName=HOSTILE),
        security(5, 4, 4624, TargetUserName=HOSTILE, IpAddress=HOSTILE, TargetLogonId=HOSTILE),
        security(6, 5, 4698, TaskName=HOSTILE, TaskContent="<Command>" + HOSTILE),
    ]
    graph = build_provenance(events, [find(event) for event in events])
    texts: list[str] = []
    for node in graph.nodes:
        texts += [node.id, node.label, node.host, *(text for pair in node.facts for text in pair)]
    texts += [sentence.text for sentence in (*graph.sentences, *graph.missing)]
    assert texts
    assert all(text.isprintable() and len(text) <= 1200 for text in texts)


@pytest.mark.parametrize("value", [None, 3, -1, 2**70, 1.5, True, [], {}, ["x"], "0x", "1e9", ""])
def test_hostile_types_are_passed_over(value: Any) -> None:
    names = (
        "Image", "CommandLine", "ProcessId", "ProcessGuid", "ParentProcessId", "ParentProcessGuid",
        "LogonId", "User", "TargetFilename", "DestinationIp", "SourceIp", "SourcePort", "Initiated",
        "DestinationPort", "QueryName", "QueryResults", "TargetObject", "Details", "ServiceName",
        "TaskName", "TaskContent", "IpAddress", "IpPort", "TargetLogonId", "LogonType",
    )  # fmt: skip
    fields = dict.fromkeys(names, value)
    categories = (
        "process_creation", "process_termination", "process_access", "create_remote_thread",
        "image_load", "file_event", "registry_set", "network_connection", "dns_query",
        "pipe_created", "wmi_event", "ps_script",
    )  # fmt: skip
    events = [make_event(n, n, dict(fields), category=c) for n, c in enumerate(categories)]
    ids = (4624, 4625, 4648, 4672, 4689, 4697, 4698, 5140, 5145)
    events += [security(100 + n, n, number, **fields) for n, number in enumerate(ids)]
    graph = build_provenance(events, [find(event) for event in events])
    assert isinstance(graph, Provenance)


@pytest.mark.parametrize("at", [float("nan"), float("inf"), -1e300, 1e300])
def test_hostile_times(at: float) -> None:
    events = [msgspec.structs.replace(event, time=at) for event in macro_story()]
    graph = build_provenance(events, [find(events[4])])
    assert "powershell.exe" in images(graph, "path", "root")


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(12)))
def test_the_order_of_events_does_not_matter(order: Sequence[int]) -> None:
    events = [
        *macro_story(),
        start_4688(
            20, 20.5, SYSTEM32 + "cmd.exe", 300, 200, CommandLine="cmd.exe /c powershell -enc x"
        ),
        security(21, 22, 4689, ProcessId="0x12c", ProcessName=SYSTEM32 + "cmd.exe"),
        start_4688(22, 60, SYSTEM32 + "tree.com", 800, 400),
        act(23, 31, "network_connection", 400, DestinationIp="203.0.113.9"),
    ]
    findings = [find(events[4]), find(events[11])]
    assert build_provenance([events[n] for n in order], findings) == build_provenance(
        events, findings[::-1]
    )


def test_the_same_event_twice_counts_once() -> None:
    events = macro_story()
    findings = [find(events[4])]
    assert build_provenance([*events, *events], findings) == build_provenance(events, findings)


def test_process_keys_tell_processes_by_their_names() -> None:
    events = macro_story()
    keys = {key.guid: key for key in process_keys(build_provenance(events, [find(events[4])]))}
    key = keys["ws5-400"]
    assert (key.host, key.pid, key.start, key.role) == ("ws5", 400, T0 + 21, "path")
    assert key.events == ("ws5-0005",)
    assert keys["ws5-200"].role == "root"


def make_crowd(count: int) -> Iterable[Event]:
    for n in range(count // 4):
        at, pid = float(n), 1000 + n
        yield start(4 * n, at, "C:\\a.exe", pid, 1000 + n // 7)
        yield act(4 * n + 1, at, "registry_set", pid, TargetObject=f"HKLM\\Software\\{n}")
        yield act(4 * n + 2, at, "file_event", pid, TargetFilename=f"C:\\{n}.dll")
        yield act(4 * n + 3, at, "network_connection", pid, DestinationIp="203.0.113.9")


def test_many_events_are_looked_at_quickly() -> None:
    """A fifth of what an archive may hand over, in a fifth of the time, generously."""
    events = list(make_crowd(40_000))
    began = time.process_time()
    graph = build_provenance(events, [find(events[40])])
    assert graph.nodes
    assert time.process_time() - began < 8


def test_a_deep_tree_is_no_trouble() -> None:
    events = [start(n, n, "C:\\a.exe", n, n - 1) for n in range(2, 20_000)]
    began = time.process_time()
    graph = build_provenance(events, [find(events[-1])])
    assert len(graph.nodes) <= 66
    assert time.process_time() - began < 8
