"""The provenance graph over the breaks of the tree: services, tasks, WMI, other hosts."""

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.correlate.provenance import build_provenance
from appliance.incident import Provenance
from appliance.schema import Event
from tests.test_provenance import (
    SYSTEM32,
    act,
    find,
    images,
    make_event,
    security,
    start,
    start_4688,
    verbs,
)

SERVICES = SYSTEM32 + "services.exe"
SVCHOST = SYSTEM32 + "svchost.exe"
WMIPRVSE = SYSTEM32 + "wbem\\WmiPrvSE.exe"
HERE, THERE = "10.1.0.5", "10.1.0.6"


def logon(number: int, at: float, logon_id: str, *, host: str = "ws6", **more: Any) -> Event:
    """A network logon from the other host."""
    fields = {
        "LogonType": "3",
        "TargetUserName": "eve",
        "TargetLogonId": logon_id,
        "IpAddress": HERE,
        "IpPort": "50123",
        **more,
    }
    return security(number, at, 4624, host=host, **fields)


def connection(number: int, at: float, pid: int, port: str = "50123", far: str = "445") -> Event:
    """What the process on this host connected to on the other."""
    return act(
        number,
        at,
        "network_connection",
        pid,
        Initiated="true",
        SourceIp=HERE,
        SourcePort=port,
        DestinationIp=THERE,
        DestinationPort=far,
    )


def own_address(number: int) -> Event:
    """The other host's address, as it tells itself."""
    return act(
        number, 0, "network_connection", 77, "ws6",
        Initiated="true", SourceIp=THERE, SourcePort="1", DestinationIp="203.0.113.1",
        DestinationPort="80", Image=SVCHOST,
    )  # fmt: skip


def verbs_of(graph: Provenance) -> set[str]:
    return {verb for _, verb, _ in verbs(graph)}


def service_story() -> list[Event]:
    """sc.exe on this host installs a service on the other, which starts a shell."""
    return [
        start(1, 0, "C:\\Users\\eve\\tool.exe", 30, 20, ParentImage="C:\\Windows\\explorer.exe"),
        connection(2, 10, 30),
        logon(3, 10, "0x777"),
        security(
            4, 11, 4697, host="ws6", ServiceName="Updater",
            ServiceFileName="%COMSPEC% /C evil.bat", SubjectLogonId="0x777",
        ),
        make_event(
            5, 11.2, {"EventID": 7045, "ServiceName": "Updater",
                      "ImagePath": "%COMSPEC% /C evil.bat"}, service="system", host="ws6",
        ),
        start(
            6, 12, SYSTEM32 + "cmd.exe", 60, 7, host="ws6", ParentImage=SERVICES,
            CommandLine="C:\\Windows\\system32\\cmd.exe /C evil.bat",
        ),
        start(7, 13, SYSTEM32 + "whoami.exe", 61, 60, host="ws6"),
        start(8, 13, "C:\\Apps\\other.exe", 62, 7, host="ws6", ParentImage=SERVICES),
        own_address(9),
    ]  # fmt: skip


def test_service_installed_from_another_host() -> None:
    events = service_story()
    graph = build_provenance(events, [find(events[6])])
    assert images(graph, "root") == {"tool.exe"}
    assert images(graph, "path") == {"cmd.exe", "whoami.exe"}
    assert images(graph, "ancestor") == {"services.exe", "explorer.exe"}
    assert graph.reach == ("ws5", "ws6")
    assert {"logged on as eve", "installed", "started"} <= verbs_of(graph)
    (sentence,) = [s for s in graph.sentences if "led to" in s.text]
    assert {"ws6-0003", "ws6-0004", "ws6-0006", "ws5-0002"} <= set(sentence.cites)
    kinds = {node.kind for node in graph.nodes}
    assert {"service", "session"} <= kinds


def test_what_a_finding_leads_to_on_another_host() -> None:
    """Forwards, too: the finding is on the tool, the service is what came of it."""
    events = service_story()
    graph = build_provenance(events, [find(events[0])])
    assert images(graph, "descendant") == {"cmd.exe", "whoami.exe"}
    assert graph.reach == ("ws5", "ws6")


def test_a_finding_on_the_installation_is_enough() -> None:
    events = service_story()
    graph = build_provenance(events, [find(events[3])])
    assert images(graph, "root") == {"tool.exe"}
    assert "cmd.exe" in images(graph, "path")


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(9)))
def test_the_order_does_not_matter_over_breaks(order: Sequence[int]) -> None:
    events = service_story()
    findings = [find(events[6])]
    assert build_provenance([events[n] for n in order], findings) == build_provenance(
        events, findings
    )


def test_another_services_command_is_no_link() -> None:
    events = service_story()
    graph = build_provenance(events, [find(events[7])])
    assert images(graph, "root", "path", "descendant") == {"other.exe"}
    assert graph.reach == ("ws6",)


def test_service_of_the_same_host() -> None:
    events = [
        start(1, 0, SYSTEM32 + "sc.exe", 30, 20, CommandLine="sc create BadSvc binPath= C:\\b.exe"),
        act(2, 1, "registry_set", 7, Image=SERVICES, Details="C:\\b.exe",
            TargetObject="HKLM\\System\\CurrentControlSet\\Services\\BadSvc\\ImagePath"),
        start(3, 5, "C:\\b.exe", 60, 7, ParentImage=SERVICES),
    ]  # fmt: skip
    graph = build_provenance(events, [find(events[2])])
    assert images(graph, "path") >= {"sc.exe", "b.exe"}
    assert "b.exe" not in images(graph, "root")


def test_scheduled_task() -> None:
    content = (
        "&lt;Task&gt;&lt;Exec&gt;&lt;Command&gt;C:\\bad.exe&lt;/Command&gt;"
        "&lt;Arguments&gt;-x&lt;/Arguments&gt;&lt;/Exec&gt;&lt;/Task&gt;"
    )
    for text in (content, content.replace("&lt;", "<").replace("&gt;", ">")):
        events = [
            start(1, 0, SYSTEM32 + "schtasks.exe", 30, 20,
                  CommandLine="schtasks /create /tn MyTask /tr C:\\bad.exe"),
            security(2, 1, 4698, TaskName="\\MyTask", TaskContent=text, SubjectLogonId="0x5"),
            start(3, 900, "C:\\bad.exe", 60, 7, CommandLine="C:\\bad.exe -x", ParentImage=SVCHOST),
        ]  # fmt: skip
        graph = build_provenance(events, [find(events[2])])
        assert "schtasks.exe" in images(graph, "path", "root")
        assert {"registered", "started"} <= verbs_of(graph)
        without = build_provenance([events[0], events[2]], [find(events[2])])
        assert "schtasks.exe" in images(without, "path", "root")


def test_task_by_the_schedulers_own_word() -> None:
    events = [
        make_event(1, 0, {"EventID": 106, "TaskName": "\\T"}, service="taskscheduler"),
        make_event(
            2, 9, {"EventID": 129, "TaskName": "\\T", "ProcessID": "60"}, service="taskscheduler"
        ),
        start(3, 9, "C:\\b.exe", 60, 7, ParentImage=SVCHOST),
    ]
    graph = build_provenance(events, [find(events[2])])
    assert ("scheduled task \\T", "started", "b.exe: C:\\b.exe") in verbs(graph)


def test_wmi_call_of_the_same_host() -> None:
    events = [
        start(1, 0, SYSTEM32 + "wmic.exe", 30, 20,
              CommandLine="wmic process call create notepad.exe"),
        start(2, 1, SYSTEM32 + "notepad.exe", 60, 7, ParentImage=WMIPRVSE),
        start(3, 1, SYSTEM32 + "calc.exe", 61, 7, ParentImage=WMIPRVSE),
    ]  # fmt: skip
    graph = build_provenance(events, [find(events[1])])
    assert images(graph, "root", "path") >= {"wmic.exe", "notepad.exe"}
    assert "calc.exe" not in images(graph, "path", "root", "descendant")


def test_wmi_call_from_another_host_by_the_session() -> None:
    events = [
        start(1, 0, "C:\\t.exe", 30, 20),
        connection(2, 10, 30, far="135"),
        logon(3, 10, "0x777"),
        start(4, 12, SYSTEM32 + "cmd.exe", 60, 7, host="ws6", ParentImage=WMIPRVSE,
              LogonId="0x777"),
        start(5, 300, SYSTEM32 + "net.exe", 61, 7, host="ws6", ParentImage=WMIPRVSE,
              LogonId="0x777"),
        own_address(6),
    ]  # fmt: skip
    graph = build_provenance(events, [find(events[3])])
    assert "t.exe" in images(graph, "path", "root")
    # The session is the attack's, so what else ran in it is, too.
    assert "net.exe" in images(graph, "descendant")


def test_remote_shell_whose_logon_names_no_address() -> None:
    """WinRM's logons lack it: the credentials used for that server tell."""
    events = [
        start(1, 0, "C:\\t.exe", 30, 20),
        security(2, 9, 4648, TargetServerName="WS6", TargetUserName="eve", ProcessId=hex(30),
                 ProcessName="C:\\t.exe"),
        logon(3, 10, "0x777", IpAddress="-", IpPort="-"),
        start(4, 11, SYSTEM32 + "wsmprovhost.exe", 60, 7, host="ws6", LogonId="0x777",
              ParentImage=SVCHOST),
    ]  # fmt: skip
    graph = build_provenance(events, [find(events[3])])
    assert images(graph, "path") >= {"wsmprovhost.exe"}
    assert graph.reach == ("ws5", "ws6")
    assert "t.exe" in images(graph, "root", "path")


def test_logon_from_an_address_that_nobody_knows() -> None:
    events = [
        logon(1, 10, "0x777", IpAddress="203.0.113.66"),
        start(2, 11, SYSTEM32 + "cmd.exe", 60, 7, host="ws6", LogonId="0x777",
              ParentImage=WMIPRVSE),
    ]  # fmt: skip
    graph = build_provenance(events, [find(events[1])])
    assert images(graph, "root") == {"cmd.exe"}
    assert "203.0.113.66" in {node.label for node in graph.nodes if node.kind == "address"}
    assert any("203.0.113.66" in sentence.text for sentence in graph.missing)


def test_who_opened_a_share_is_not_who_logged_on() -> None:
    """A document opened from that host stands on a command line, too; the account tells."""
    events = [
        start(1, 0, "C:\\Office\\EXCEL.EXE", 30, 20, CommandLine="EXCEL.EXE \\\\WS6\\s\\x.xlsx"),
        start(2, 1, "C:\\tool.exe", 31, 21, CommandLine="tool.exe \\\\WS6", User="CORP\\bob"),
        start(3, 2, "C:\\implant.exe", 32, 22, ParentImage="C:\\Windows\\explorer.exe"),
        connection(4, 3, 99),
        logon(5, 10, "0x777", IpPort="-"),
        start(6, 11, SYSTEM32 + "cmd.exe", 60, 7, host="ws6", LogonId="0x777",
              ParentImage=WMIPRVSE),
    ]  # fmt: skip
    alone = build_provenance(events, [find(events[5])])
    assert images(alone, "root", "path") == {"cmd.exe"}
    assert any("ws5" in sentence.text for sentence in alone.missing)
    suspect = build_provenance(events, [find(events[5]), find(events[2])])
    assert images(suspect, "root") == {"implant.exe"}
    assert suspect.reach == ("ws5", "ws6")


def test_a_local_logon_is_no_link() -> None:
    for address in ("127.0.0.1", "::1", "-"):
        events = [
            logon(1, 10, "0x777", IpAddress=address, LogonType="2"),
            start(2, 11, SYSTEM32 + "cmd.exe", 60, 7, host="ws6", LogonId="0x777",
                  ParentImage="C:\\Windows\\explorer.exe"),
        ]  # fmt: skip
        graph = build_provenance(events, [find(events[1])])
        assert {node.kind for node in graph.nodes} == {"process"}


def test_two_possible_logons_are_no_cause() -> None:
    """A service without a session: with two remote logons right before, neither is named."""
    events = [
        start(1, 0, "C:\\t.exe", 30, 20),
        connection(2, 10, 30),
        logon(3, 10, "0x777"),
        logon(4, 10.5, "0x778", IpAddress="203.0.113.9"),
        start(5, 11, "C:\\b.exe", 60, 7, host="ws6", ParentImage=SERVICES),
        own_address(6),
    ]
    two = build_provenance(events, [find(events[4])])
    assert "t.exe" not in images(two, "root", "path")
    one = build_provenance([events[0], events[1], events[2], *events[4:]], [find(events[4])])
    assert "t.exe" in images(one, "root", "path")


def test_credentials_of_another_user() -> None:
    events = [
        start(1, 0, SYSTEM32 + "runas.exe", 30, 20),
        security(2, 1, 4648, TargetServerName="localhost", TargetUserName="admin",
                 ProcessId=hex(30), ProcessName=SYSTEM32 + "runas.exe"),
        start(3, 2, SYSTEM32 + "cmd.exe", 60, 7, User="CORP\\admin", ParentImage=SVCHOST),
    ]  # fmt: skip
    graph = build_provenance(events, [find(events[2])])
    assert "runas.exe" in images(graph, "root", "path")
    assert "ran as admin" in verbs_of(graph)


def test_injected_thread() -> None:
    events = [
        start(1, 0, "C:\\inject.exe", 30, 20),
        start(2, -500, SYSTEM32 + "notepad.exe", 60, 5, ParentImage="C:\\Windows\\explorer.exe"),
        make_event(
            3, 10, {"SourceProcessGuid": "{ws5-30}", "TargetProcessGuid": "{ws5-60}",
                    "SourceProcessId": 30, "TargetProcessId": 60},
            category="create_remote_thread",
        ),
        start(4, 11, SYSTEM32 + "whoami.exe", 61, 60),
    ]  # fmt: skip
    graph = build_provenance(events, [find(events[3])])
    assert "inject.exe" in images(graph, "root", "path")
    assert "injected a thread into" in verbs_of(graph)
    forwards = build_provenance(events, [find(events[0])])
    assert {"notepad.exe", "whoami.exe"} <= images(forwards, "descendant")


def test_dropped_file_and_script() -> None:
    events = [
        start(1, 0, "C:\\Office\\WINWORD.EXE", 30, 7, ParentImage="C:\\Windows\\explorer.exe"),
        act(2, 5, "file_event", 30, TargetFilename="C:\\Temp\\d.exe"),
        act(3, 6, "file_event", 30, TargetFilename="C:\\Temp\\s.vbs"),
        start(4, 900, "C:\\TEMP\\D.EXE", 60, 7, ParentImage="C:\\Windows\\explorer.exe"),
        start(5, 950, SYSTEM32 + "wscript.exe", 61, 7, ParentImage="C:\\Windows\\explorer.exe",
              CommandLine='wscript "C:\\Temp\\s.vbs"'),
        start(6, 2, "C:\\Temp\\s.exe", 62, 7, ParentImage="C:\\Windows\\explorer.exe"),
    ]  # fmt: skip
    graph = build_provenance(events, [find(events[3]), find(events[4])])
    assert images(graph, "root") == {"WINWORD.EXE"}
    assert {"wrote", "was run as"} <= verbs_of(graph)
    assert "s.exe" not in images(graph, "root", "path", "descendant")


def test_file_copied_over_the_network() -> None:
    events = [
        start(1, 0, "C:\\t.exe", 30, 20),
        connection(2, 10, 30),
        logon(3, 10, "0x777"),
        security(4, 11, 5145, host="ws6", SubjectLogonId="0x777", ShareName="\\\\*\\ADMIN$",
                 RelativeTargetName="Temp\\d.exe", IpAddress=HERE),
        act(5, 11, "file_event", 4, "ws6", Image="System",
            TargetFilename="C:\\Windows\\Temp\\d.exe"),
        start(6, 60, "C:\\Windows\\Temp\\d.exe", 60, 7, host="ws6", ParentImage=SVCHOST),
        own_address(7),
    ]  # fmt: skip
    graph = build_provenance(events, [find(events[5])])
    assert "t.exe" in images(graph, "root", "path")
    assert "copied" in verbs_of(graph)


def test_wmi_subscription() -> None:
    events = [
        start(1, 0, "C:\\t.exe", 30, 20),
        connection(2, 10, 30, far="135"),
        logon(3, 10, "0x777"),
        make_event(4, 11, {"EventID": 20, "Name": "Bad", "Type": "Script"}, category="wmi_event",
                   host="ws6"),
        start(5, 40, SYSTEM32 + "wbem\\scrcons.exe", 60, 7, host="ws6", ParentImage=SVCHOST),
        own_address(6),
    ]  # fmt: skip
    graph = build_provenance(events, [find(events[4])])
    assert "t.exe" in images(graph, "root", "path")
    assert "WMI subscription Bad" in {node.label for node in graph.nodes}


def test_sensor_saw_the_connection_between_the_hosts() -> None:
    flow = make_event(
        50, 10, {"src_ip": HERE, "dst_ip": THERE, "dst_port": 445}, service="conn",
        product="zeek", host="sensor",
    )  # fmt: skip
    events = [*service_story(), flow]
    graph = build_provenance(events, [find(events[6])])
    (edge,) = [edge for edge in graph.edges if edge.verb.startswith("logged on")]
    assert flow.id in edge.events
    assert "sensor" not in graph.reach


# Linux -----------------------------------------------------------------------------------------


def linux(number: int, at: float, image: str, pid: int, parent: int, **more: Any) -> Event:
    """An execve as audit's normaliser gives it."""
    fields = {
        "Image": image,
        "CommandLine": image,
        "ProcessId": str(pid),
        "ParentProcessId": str(parent),
        "LogonId": "4",
        "auid": "1000",
        "User": "eve",
        **more,
    }
    return make_event(
        number, at, fields, category="process_creation", service="auditd", product="linux",
        host="jump",
    )  # fmt: skip


def test_ssh_session_leads_to_the_other_host() -> None:
    login = make_event(
        10, 50,
        {"program": "sshd", "pid": "700", "user": "eve", "src_ip": HERE, "src_port": "51000",
         "result": "success"},
        service="sshd", product="linux", host="jump",
    )  # fmt: skip
    events = [
        start(1, 0, "C:\\Program Files\\PuTTY\\plink.exe", 30, 20,
              CommandLine="plink eve@jump", ParentImage=SYSTEM32 + "cmd.exe"),
        act(2, 49, "network_connection", 30, Initiated="true", SourceIp=HERE, SourcePort="51000",
            DestinationIp="10.1.0.9", DestinationPort="22"),
        login,
        linux(3, 51, "/usr/bin/bash", 702, 700, CommandLine="-bash", ParentImage="/usr/sbin/sshd"),
        linux(4, 60, "/usr/bin/id", 703, 702),
        linux(5, 61, "/usr/bin/curl", 704, 702),
        linux(6, 62, "/usr/bin/ls", 900, 899, auid="1001", LogonId="9"),
    ]  # fmt: skip
    graph = build_provenance(events, [find(events[5])])
    assert images(graph, "path") >= {"bash", "curl", "plink.exe"}
    assert images(graph, "descendant") == {"id"}
    assert graph.reach == ("ws5", "jump")
    assert "ls" not in images(graph, "root", "path", "descendant", "ancestor")


def test_audit_session_ties_the_login() -> None:
    login = make_event(
        10, 50,
        {"type": "USER_LOGIN", "ses": "4", "user": "eve", "src_ip": "203.0.113.5",
         "result": "success"},
        service="auth", product="linux", host="jump",
    )  # fmt: skip
    events = [login, linux(3, 51, "/usr/bin/bash", 702, 1, CommandLine="-bash")]
    graph = build_provenance(events, [find(events[1])])
    assert "203.0.113.5" in {node.label for node in graph.nodes if node.kind == "address"}


def test_a_process_that_becomes_another_program_is_one() -> None:
    events = [
        linux(1, 0, "/usr/bin/bash", 702, 700, CommandLine="bash -c 'exec curl x'"),
        linux(2, 1, "/usr/bin/curl", 702, 700),
        linux(3, 2000, "/usr/bin/date", 702, 650),
    ]
    graph = build_provenance(events, [find(events[1])])
    (node,) = [n for n in graph.nodes if dict(n.facts).get("ProcessId") == "702"]
    assert node.events == ("jump-0001", "jump-0002")


def test_cron_is_a_system_parent() -> None:
    events = [
        linux(1, 0, "/usr/sbin/cron", 10, 1),
        linux(2, 60, "/bin/sh", 20, 10, CommandLine="/bin/sh -c /tmp/x"),
        linux(3, 61, "/tmp/x", 21, 20),
        linux(4, 62, "/bin/sh", 30, 10, CommandLine="/bin/sh -c /usr/bin/backup"),
    ]
    graph = build_provenance(events, [find(events[2])])
    assert images(graph, "root") == {"sh"}
    assert len([n for n in graph.nodes if n.role in ("root", "path", "descendant")]) == 2


def test_both_recorders_of_a_service_start_are_one_effect() -> None:
    events = service_story()
    events.append(
        start_4688(
            20, 14, SYSTEM32 + "cmd.exe", 60, 7, host="ws6",
            CommandLine="C:\\Windows\\system32\\cmd.exe /C evil.bat",
        )
    )  # fmt: skip
    graph = build_provenance(events, [find(events[-1])])
    assert images(graph, "root") == {"tool.exe"}
