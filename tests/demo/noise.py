"""The demonstration's ordinary life: what the plant's machines log on a quiet day.

SYNTHETIC. None of it may give a finding. It stands close to the attack on purpose: the same
programs (PowerShell, schtasks, vssadmin, wevtutil, sudo), the same people, the same machines.
"""

from collections.abc import Callable
from random import Random
from typing import Final

from tests.demo.plant import (
    ADMIN,
    BACKUP_ADDRESS,
    COLLEAGUES,
    CONTROLLER_ADDRESS,
    DOMAIN,
    EDGE,
    OFFICE,
    ORDINARY,
    POWERSHELL_EXE,
    SERVER,
    SYSTEM32,
    SYSTEM_USER,
    VICTIM,
    WORKSTATION,
    Draft,
    Machine,
    Pen,
    Process,
    logon,
    subject,
    sudo_line,
)
from tests.demo.render import make_guid, make_sid

#: One kind of ordinary event: drafts it at the given offset.
Habit = Callable[[Pen, Random, float], list[Draft]]

NORDWERK: Final = "C:\\Program Files\\Nordwerk\\"
BACKUP: Final = "C:\\Program Files\\NordBackup\\agent.exe"
DEFENDER: Final = "C:\\ProgramData\\Microsoft\\Windows Defender\\Platform\\4.18.26090.9-0\\"
SVCHOST: Final = SYSTEM32 + "svchost.exe"
ONEDRIVE: Final = "C:\\Users\\r.brandt\\AppData\\Local\\Microsoft\\OneDrive\\"

#: Programs that people at the workstation start from the desktop.
DESKTOP: Final = (
    (EDGE, f'"{EDGE}" --single-argument https://www.example.com/'),
    (EDGE, f'"{EDGE}" --type=renderer --lang=de --renderer-client-id=14'),
    (OFFICE + "EXCEL.EXE", f'"{OFFICE}EXCEL.EXE" "\\\\NH-FS01\\projects\\pump list.xlsx"'),
    (OFFICE + "OUTLOOK.EXE", f'"{OFFICE}OUTLOOK.EXE"'),
    (NORDWERK + "hmi.exe", f'"{NORDWERK}hmi.exe" D:\\HMI\\station3.prj'),
    (NORDWERK + "plcview.exe", f'"{NORDWERK}plcview.exe" --plc 10.20.4.21'),
    (SYSTEM32 + "notepad.exe", '"C:\\Windows\\System32\\notepad.exe" D:\\HMI\\readme.txt'),
    (SYSTEM32 + "mstsc.exe", '"C:\\Windows\\System32\\mstsc.exe" /v:NH-FS01'),
    (SYSTEM32 + "calc.exe", '"C:\\Windows\\System32\\calc.exe"'),
    (SYSTEM32 + "rundll32.exe", "rundll32.exe shell32.dll,Control_RunDLL desk.cpl"),
)
#: What services and the task scheduler start on any Windows machine.
BACKGROUND: Final = (
    (SVCHOST, "C:\\Windows\\system32\\svchost.exe -k netsvcs -p -s wuauserv"),
    (SVCHOST, "C:\\Windows\\system32\\svchost.exe -k LocalService -p -s fdPHost"),
    (SYSTEM32 + "taskhostw.exe", "taskhostw.exe Install $(Arg0)"),
    (SYSTEM32 + "RuntimeBroker.exe", "C:\\Windows\\System32\\RuntimeBroker.exe -Embedding"),
    (SYSTEM32 + "usoclient.exe", "C:\\Windows\\system32\\usoclient.exe StartScan"),
    (SYSTEM32 + "wbem\\WmiPrvSE.exe", "C:\\Windows\\system32\\wbem\\wmiprvse.exe -Embedding"),
    (SYSTEM32 + "SearchProtocolHost.exe", "SearchProtocolHost.exe Global\\UsGthrFltPipe 1 2"),
    (SYSTEM32 + "gpupdate.exe", "gpupdate.exe /target:computer"),
    (SYSTEM32 + "sc.exe", "C:\\Windows\\system32\\sc.exe start w32time task_started"),
    (SYSTEM32 + "backgroundTaskHost.exe", "backgroundTaskHost.exe -ServerName:App.AppX.mca"),
    (DEFENDER + "MpCmdRun.exe", f'"{DEFENDER}MpCmdRun.exe" -SignatureUpdate -ScheduleJob'),
    (NORDWERK + "collector.exe", f'"{NORDWERK}collector.exe" --poll 5'),
)
#: What administrators and their scripts type; each is near a line of the attack.
ADMINISTRATION: Final = (
    (POWERSHELL_EXE, f'powershell.exe -NoProfile -File "{NORDWERK}rotate-logs.ps1"'),
    (POWERSHELL_EXE, "powershell.exe -Command Get-Service HistorianCollector"),
    (SYSTEM32 + "ipconfig.exe", "ipconfig /all"),
    (SYSTEM32 + "net.exe", "net use P: \\\\NH-FS01\\projects /persistent:yes"),
    (SYSTEM32 + "net.exe", "net stop HistorianCollector"),
    (SYSTEM32 + "schtasks.exe", 'schtasks /query /tn "\\NordBackup" /v /fo list'),
    (SYSTEM32 + "vssadmin.exe", "vssadmin list shadows /for=C:"),
    (SYSTEM32 + "wevtutil.exe", "wevtutil qe System /c:20 /rd:true /f:text"),
    (SYSTEM32 + "reg.exe", "reg query HKLM\\SOFTWARE\\Nordwerk /v Version"),
    (SYSTEM32 + "certutil.exe", "certutil -hashfile D:\\fw\\plc-2.4.bin SHA256"),
    (SYSTEM32 + "nltest.exe", "nltest /sc_verify:nordhafen.test"),
    (SYSTEM32 + "robocopy.exe", "robocopy D:\\HMI \\\\NH-FS01\\backup\\hmi /mir /r:1"),
    (SYSTEM32 + "tasklist.exe", "tasklist /svc"),
    (SYSTEM32 + "whoami.exe", "whoami /groups"),
    (SYSTEM32 + "netsh.exe", "netsh advfirewall show allprofiles state"),
    (SYSTEM32 + "msiexec.exe", "msiexec /i \\\\NH-FS01\\software\\hmi-2.4.1.msi /qn"),
)
ADMIN_COMMANDS: Final = (
    "/usr/bin/systemctl restart nginx",
    "/usr/bin/systemctl status auditd",
    "/usr/bin/apt-get update",
    "/usr/bin/journalctl -u ssh -n 100",
    "/usr/bin/tail -n 50 /var/log/auth.log",
    "/usr/sbin/visudo -c",
    "/bin/sh /opt/nordwerk/rotate.sh",
    "/usr/bin/vim /etc/nginx/nginx.conf",
    "/usr/sbin/ufw status verbose",
    "/bin/chmod 2775 /srv/projects",
)
CRON_COMMANDS: Final = (
    ("root", "   cd / && run-parts --report /etc/cron.hourly"),
    ("root", "command -v debian-sa1 > /dev/null && debian-sa1 1 1"),
    ("backup", "/opt/nordbackup/push.sh --to 10.20.2.40 --quiet"),
    ("monitor", "curl -fsS -o /dev/null http://10.20.2.40/health || logger -t health down"),
    ("root", "find /tmp -mtime +7 -delete"),
)


def make_process(
    rng: Random, machine: Machine, image: str, line: str, user: str, parent_image: str
) -> Process:
    """A process with a parent that has run for long."""
    parent = Process(machine, parent_image, parent_image, user, 900 + 4 * rng.randrange(300))
    return Process(machine, image, line, user, 3000 + 4 * rng.randrange(2400), parent)


def pick_machine(rng: Random) -> Machine:
    """One of the two Windows machines."""
    return rng.choice((WORKSTATION, SERVER))


def start_desktop_program(pen: Pen, rng: Random, at: float) -> list[Draft]:
    """Somebody opens a program."""
    image, line = rng.choice(DESKTOP)
    user = rng.choice((VICTIM, f"{DOMAIN}\\m.keller"))
    explorer = "C:\\Windows\\explorer.exe"
    process = make_process(rng, WORKSTATION, image, line, user, explorer)
    return [pen.start_process(at, process)]


def start_background_program(pen: Pen, rng: Random, at: float) -> list[Draft]:
    """Windows, the antivirus or the historian starts something."""
    image, line = rng.choice(BACKGROUND)
    parent = SYSTEM32 + "services.exe" if image == SVCHOST else SVCHOST
    process = make_process(rng, pick_machine(rng), image, line, SYSTEM_USER, parent)
    return [pen.start_process(at, process)]


def administer(pen: Pen, rng: Random, at: float) -> list[Draft]:
    """An administrator types a command."""
    image, line = rng.choice(ADMINISTRATION)
    process = make_process(rng, pick_machine(rng), image, line, ADMIN, SYSTEM32 + "cmd.exe")
    return [pen.start_process(at, process)]


def connect_out(pen: Pen, rng: Random, at: float) -> list[Draft]:
    """The browser, the HMI, the file client and the backup talk to whom they always talk to."""
    image, user, address, port, name = rng.choice(
        (
            (EDGE, VICTIM, "198.51.100.20", 443, "www.example.com"),
            (EDGE, VICTIM, "192.0.2.80", 443, "news.example.org"),
            (OFFICE + "OUTLOOK.EXE", VICTIM, "10.20.2.12", 443, "nh-mail01"),
            (NORDWERK + "hmi.exe", VICTIM, f"10.20.4.{rng.randrange(20, 30)}", 4840, "-"),
            (NORDWERK + "collector.exe", SYSTEM_USER, "10.20.4.21", 502, "-"),
            ("System", SYSTEM_USER, SERVER.address, 445, "nh-fs01"),
            (BACKUP, SYSTEM_USER, BACKUP_ADDRESS, 8443, "nh-backup"),
            (SVCHOST, SYSTEM_USER, CONTROLLER_ADDRESS, 53, "nh-dc01"),
        )
    )
    process = make_process(rng, WORKSTATION, image, image, user, SVCHOST)
    return [pen.connect(at, process, address, port, name)]


def set_registry_value(pen: Pen, rng: Random, at: float) -> list[Draft]:
    """Programs keep their settings; OneDrive and the printer start with the user."""
    user_hive = f"HKU\\{make_sid('r.brandt')}\\Software\\"
    image, target, details = rng.choice(
        (
            (
                ONEDRIVE + "OneDriveSetup.exe",
                user_hive + "Microsoft\\Windows\\CurrentVersion\\Run\\OneDrive",
                f'"{ONEDRIVE}OneDrive.exe" /background',
            ),
            (
                SYSTEM32 + "msiexec.exe",
                "HKLM\\SOFTWARE\\Microsoft\\Windows\\CurrentVersion\\Run\\KyoceraStatus",
                "C:\\Program Files\\Kyocera\\status.exe",
            ),
            (
                NORDWERK + "hmi.exe",
                user_hive + "Nordwerk\\HMI\\LastProject",
                "D:\\HMI\\station3.prj",
            ),
            (
                SVCHOST,
                "HKLM\\System\\CurrentControlSet\\Services\\W32Time\\SecureTimeLimits\\"
                "SecureTimeEstimated",
                "QWORD (0x01dc5b7a-0x1a2b3c4d)",
            ),
            (
                SYSTEM32 + "gpscript.exe",
                "HKLM\\SOFTWARE\\Policies\\Microsoft\\Windows Defender\\Scan\\ScheduleDay",
                "DWORD (0x00000001)",
            ),
        )
    )
    process = make_process(rng, WORKSTATION, image, image, VICTIM, SVCHOST)
    return [pen.set_value(at, process, target, details)]


def write_file(pen: Pen, rng: Random, at: float) -> list[Draft]:
    """Documents, caches, dumps of programs that hung, a program downloaded by the browser."""
    image, path = rng.choice(
        (
            (OFFICE + "EXCEL.EXE", "D:\\Projects\\~$pump list.xlsx"),
            (EDGE, "C:\\Users\\r.brandt\\Downloads\\hmi-2.4.1-manual.pdf"),
            (EDGE, "C:\\Users\\r.brandt\\Downloads\\plcview-setup.exe"),
            (NORDWERK + "hmi.exe", f"D:\\HMI\\trend-{rng.randrange(1000)}.csv"),
            (SYSTEM32 + "WerFault.exe", "C:\\ProgramData\\Microsoft\\Windows\\WER\\hmi.dmp"),
            (BACKUP, f"D:\\Backup\\delta-{rng.randrange(1000)}.nbk"),
        )
    )
    process = make_process(rng, WORKSTATION, image, image, VICTIM, SVCHOST)
    return [pen.create_file(at, process, path)]


def make_pipe(pen: Pen, rng: Random, at: float) -> list[Draft]:
    """Pipes that browsers, PowerShell and services make."""
    image, name = rng.choice(
        (
            (EDGE, f"\\mojo.{rng.randrange(9999)}.{rng.randrange(9999)}.{rng.randrange(10**15)}"),
            (POWERSHELL_EXE, "\\PSHost.134000000000000000.4312.DefaultAppDomain.powershell"),
            (SVCHOST, "\\srvsvc"),
            (SYSTEM32 + "spoolsv.exe", "\\spoolss"),
            (NORDWERK + "collector.exe", "\\nordwerk_collector"),
        )
    )
    process = make_process(rng, pick_machine(rng), image, image, SYSTEM_USER, SVCHOST)
    return [pen.create_pipe(at, process, name)]


def inspect_lsass(pen: Pen, rng: Random, at: float) -> list[Draft]:
    """The antivirus and Windows itself open LSASS all day."""
    image, granted = rng.choice(
        (
            (DEFENDER + "MsMpEng.exe", "0x1418"),
            (SYSTEM32 + "wbem\\WmiPrvSE.exe", "0x1410"),
            (SVCHOST, "0x1000"),
            (SYSTEM32 + "csrss.exe", "0x1fffff"),
        )
    )
    machine = pick_machine(rng)
    process = make_process(rng, machine, image, image, SYSTEM_USER, SYSTEM32 + "services.exe")
    lsass = Process(machine, SYSTEM32 + "lsass.exe", "lsass.exe", SYSTEM_USER, 712)
    return [pen.open_process(at, process, lsass, granted)]


def resolve_name(pen: Pen, rng: Random, at: float) -> list[Draft]:
    """Names asked for."""
    name, answer = rng.choice(
        (
            ("www.example.com", "198.51.100.20"),
            ("news.example.org", "192.0.2.80"),
            ("nh-fs01.nordhafen.test", SERVER.address),
            ("updates.example.com", "198.51.100.21"),
            ("_ldap._tcp.nordhafen.test", CONTROLLER_ADDRESS),
        )
    )
    process = make_process(rng, WORKSTATION, EDGE, EDGE, VICTIM, "C:\\Windows\\explorer.exe")
    return [pen.query_name(at, process, name, answer)]


def log_on_and_off(pen: Pen, rng: Random, at: float) -> list[Draft]:
    """Somebody uses the file server for a moment; now and then an administrator does."""
    name = rng.choice((*COLLEAGUES, "adm.lang"))
    user, logon_id = f"{DOMAIN}\\{name}", hex(rng.randrange(0x100000, 0xFFFFFF))
    address = f"10.20.1.{rng.randrange(30, 60)}"
    drafts = [pen.security(at, SERVER, 4624, logon(user, address, 3, logon_id))]
    if name == "adm.lang":
        rights = {**subject(user, logon_id), "PrivilegeList": "SeBackupPrivilege"}
        drafts.append(pen.security(at + 0.01, SERVER, 4672, rights))
    off = {
        "TargetUserSid": make_sid(name),
        "TargetUserName": name,
        "TargetDomainName": DOMAIN,
        "TargetLogonId": logon_id,
        "LogonType": "3",
    }
    drafts.append(pen.security(at + 0.2, SERVER, 4634, off))
    return drafts


def read_share(pen: Pen, rng: Random, at: float) -> list[Draft]:
    """A colleague opens or saves a document on the projects' share."""
    name, mask = rng.choice(COLLEAGUES), rng.choice(("0x1", "0x2", "0x100081"))
    fields = {
        **subject(f"{DOMAIN}\\{name}", hex(rng.randrange(0x100000, 0xFFFFFF))),
        "ObjectType": "File",
        "IpAddress": f"10.20.1.{rng.randrange(30, 60)}",
        "IpPort": str(rng.randrange(49_152, 65_000)),
        "ShareName": "\\\\*\\projects",
        "ShareLocalPath": "\\??\\D:\\Projects",
        "RelativeTargetName": rng.choice(("pump list.xlsx", "station3.prj", "drawings\\p7.dwg")),
        "AccessMask": mask,
        "AccessList": "%%4416\r\n\t\t\t\t",
        "AccessReason": "-",
    }
    return [pen.security(at, SERVER, 5145, fields)]


def maintain_windows(pen: Pen, rng: Random, at: float) -> list[Draft]:
    """A product installs its service, an updater its task, an administrator an account."""
    service = {
        **subject(f"{DOMAIN}\\NH-FS01$", "0x3e7"),
        "ServiceName": "NordBackup Agent",
        "ServiceFileName": f'"{BACKUP}" --service',
        "ServiceType": "0x10",
        "ServiceStartType": "2",
        "ServiceAccount": "LocalSystem",
    }
    task = {
        **subject(VICTIM, "0x5a31c"),
        "TaskName": "\\OneDrive Reporting Task",
        "TaskContent": "<Task><Actions><Exec>"
        f"<Command>{ONEDRIVE}OneDriveStandaloneUpdater.exe</Command>"
        "<Arguments>/reporting</Arguments></Exec></Actions></Task>",
    }
    account = {
        **subject(ADMIN),
        "TargetUserName": "t.berg",
        "TargetDomainName": DOMAIN,
        "TargetSid": make_sid("t.berg"),
        "SamAccountName": "t.berg",
        "PrivilegeList": "-",
    }
    process = {
        **subject(f"{DOMAIN}\\NH-FS01$", "0x3e7"),
        "NewProcessId": hex(4 * rng.randrange(600, 3000)),
        "NewProcessName": SYSTEM32 + "conhost.exe",
        "TokenElevationType": "%%1936",
        "ProcessId": "0x4d8",
        "CommandLine": "\\??\\C:\\Windows\\system32\\conhost.exe 0xffffffff -ForceV1",
        "TargetUserSid": "S-1-0-0",
        "TargetUserName": "-",
        "TargetDomainName": "-",
        "TargetLogonId": "0x0",
        "ParentProcessName": BACKUP,
        "MandatoryLabel": "S-1-16-16384",
    }
    event_id, machine, fields = rng.choice(
        (
            (4697, SERVER, service),
            (4698, WORKSTATION, task),
            (4720, SERVER, account),
            (4688, SERVER, process),
            (4688, SERVER, process),
        )
    )
    return [pen.security(at, machine, event_id, dict(fields))]


def run_cron(pen: Pen, rng: Random, at: float) -> list[Draft]:
    """A job runs on the jump host: its session opens, its command, its session closes."""
    (user, command), pid = rng.choice(CRON_COMMANDS), rng.randrange(20_000, 30_000)
    uid = {"root": 0, "backup": 34}.get(user, 998)
    session = "pam_unix(cron:session): session"
    return [
        pen.syslog(at, "CRON", f"{session} opened for user {user}(uid={uid}) by (uid=0)", pid),
        pen.syslog(at + 0.02, "CRON", f"({user}) CMD ({command})", pid + 1),
        pen.syslog(at + 0.3, "CRON", f"{session} closed for user {user}", pid),
    ]


def log_in_with_key(pen: Pen, rng: Random, at: float) -> list[Draft]:
    """An administrator or the backup comes with a key."""
    user, address = rng.choice((("s.lang", "10.20.1.31"), ("backup", BACKUP_ADDRESS)))
    pid, port = rng.randrange(10_000, 20_000), rng.randrange(40_000, 60_000)
    key = "ED25519 SHA256:3nXkO0Jm0pYw5Zp1tTq7nS8kQ2vL4hR6uV9cB1dE2fA"
    session = "pam_unix(sshd:session): session"
    came = f"Accepted publickey for {user} from {address} port {port} ssh2: {key}"
    left = f"Disconnected from user {user} {address} port {port}"
    return [
        pen.syslog(at, "sshd", came, pid),
        pen.syslog(at + 0.02, "sshd", f"{session} opened for user {user} by (uid=0)", pid),
        pen.syslog(at + 0.5, "sshd", left, pid),
    ]


def mistype_password(pen: Pen, rng: Random, at: float) -> list[Draft]:
    """A colleague mistypes a password or a name."""
    pid, port = rng.randrange(10_000, 20_000), rng.randrange(40_000, 60_000)
    source = f"from 10.20.1.{rng.randrange(30, 60)} port {port}"
    text = rng.choice(
        (
            f"Failed password for s.lang {source} ssh2",
            f"Invalid user slang {source}",
            f"Connection closed by authenticating user s.lang {source.removeprefix('from ')}"
            " [preauth]",
        )
    )
    return [pen.syslog(at, "sshd", text, pid)]


def administer_jump_host(pen: Pen, rng: Random, at: float) -> list[Draft]:
    """The Linux administrator uses sudo for one command."""
    session = "pam_unix(sudo:session): session"
    return [
        pen.syslog(at, "sudo", sudo_line("s.lang", rng.choice(ADMIN_COMMANDS))),
        pen.syslog(at + 0.02, "sudo", f"{session} opened for user root(uid=0) by (uid=1001)"),
        pen.syslog(at + 0.2, "sudo", f"{session} closed for user root"),
    ]


def load_image(pen: Pen, rng: Random, at: float) -> list[Draft]:
    """The HMI loads its own libraries."""
    process = make_process(rng, WORKSTATION, NORDWERK + "hmi.exe", "hmi.exe", VICTIM, SVCHOST)
    fields = {
        "ProcessGuid": process.guid,
        "ProcessId": process.pid,
        "Image": process.image,
        "ImageLoaded": NORDWERK + rng.choice(("opcua.dll", "trend.dll", "qt6core.dll")),
        "Signed": "true",
        "Signature": "Nordwerk GmbH",
        "SignatureStatus": "Valid",
        "Hashes": make_guid("image", process.pid).strip("{}").replace("-", "").join(("MD5=", "")),
        "User": process.user,
    }
    return [pen.sysmon(at, WORKSTATION, 7, fields)]


#: Every habit with how often it is chosen, relative to the others.
HABITS: Final[dict[Habit, int]] = {
    start_desktop_program: 6,
    start_background_program: 7,
    administer: 7,
    connect_out: 5,
    set_registry_value: 3,
    write_file: 3,
    make_pipe: 3,
    inspect_lsass: 3,
    resolve_name: 3,
    load_image: 2,
    log_on_and_off: 4,
    read_share: 3,
    maintain_windows: 2,
    run_cron: 3,
    log_in_with_key: 3,
    mistype_password: 2,
    administer_jump_host: 3,
}


def draft_noise(pen: Pen, rng: Random, length_s: float, count: int) -> list[Draft]:
    """At least `count` ordinary drafts over `length_s` seconds, in no order."""
    habits, weights = list(HABITS), list(HABITS.values())
    # Each habit once, so that a short play has all of them.
    chosen = list(habits)
    drafts: list[Draft] = []
    while len(drafts) < count:
        habit = chosen.pop() if chosen else rng.choices(habits, weights)[0]
        drafts += habit(pen, rng, rng.uniform(0.0, length_s - 1.0))
    return [draft.labelled(None, ORDINARY) for draft in drafts]
