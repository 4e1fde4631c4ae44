"""The demonstration's invented plant: its machines, its people, and drafts of their records.

SYNTHETIC: no host, account or address here exists. A draft is a record that has its time but not
yet its record number; `scenario` numbers and writes drafts once they are in order.
"""

from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from tests.demo.render import (
    SECURITY,
    SYSMON,
    format_sysmon_time,
    make_guid,
    make_sid,
    process_created,
)
from tests.demo.sensors import ZeekLog, make_zeek_uid, write_access, write_eve, write_zeek

File = Literal[
    "sysmon.jsonl", "security.jsonl", "auth.log", "nginx-access.log", "audit.log", "conn.log",
    "dns.log", "smb_files.log", "s7comm.log", "eve.json",
]  # fmt: skip

DOMAIN: Final = "NORDHAFEN"
SYSTEM32: Final = "C:\\Windows\\System32\\"
EDGE: Final = "C:\\Program Files (x86)\\Microsoft\\Edge\\Application\\msedge.exe"
OFFICE: Final = "C:\\Program Files\\Microsoft Office\\root\\Office16\\"
POWERSHELL_EXE: Final = SYSTEM32 + "WindowsPowerShell\\v1.0\\powershell.exe"
SYSTEM_USER: Final = "NT AUTHORITY\\SYSTEM"


@dataclass(frozen=True, slots=True)
class Machine:
    """One host: the name its logs carry and its address inside the plant."""

    name: str
    address: str


WORKSTATION: Final = Machine("NH-EWS02.nordhafen.test", "10.20.1.15")
SERVER: Final = Machine("NH-FS01.nordhafen.test", "10.20.2.11")
JUMP_HOST: Final = Machine("nh-jump01", "10.20.3.5")
CONTROLLER_ADDRESS: Final = "10.20.2.10"
BACKUP_ADDRESS: Final = "10.20.2.40"
#: The web server in the DMZ with the customers' portal; the sensors at the border and inside; who
#: talks to the controllers of the pumps, and these.
WEB_SERVER: Final = Machine("nh-web01", "10.20.5.8")
BORDER_SENSOR: Final = Machine("nh-ids01", "10.20.5.2")
PLANT_SENSOR: Final = Machine("nh-zeek01", "10.20.3.9")
CONTROL_ROOM_ADDRESS: Final = "10.20.4.10"
CONTROLLERS: Final = ("10.20.4.21", "10.20.4.22", "10.20.4.23")

#: The files of syslog lines, and the Zeek logs, by name.
SYSLOG_FILES: Final = frozenset({"auth.log", "nginx-access.log"})
ZEEK_FILES: Final[dict[ZeekLog, File]] = {
    "conn": "conn.log",
    "dns": "dns.log",
    "smb_files": "smb_files.log",
    "s7comm": "s7comm.log",
}

#: The engineer whose account is stolen; his colleagues live on in peace.
VICTIM: Final = f"{DOMAIN}\\r.brandt"
ADMIN: Final = f"{DOMAIN}\\adm.lang"
#: The note of what belongs to no attack.
ORDINARY: Final = "ordinary"
COLLEAGUES: Final = ("m.keller", "j.petersen", "a.novak")


@dataclass(frozen=True, slots=True)
class Process:
    """A running Windows process, to be a parent or an actor in later records."""

    machine: Machine
    image: str
    command_line: str
    user: str
    pid: int
    parent: "Process | None" = None
    elevated: bool = False

    @property
    def guid(self) -> str:
        """Sysmon's ProcessGuid: the same wherever the process appears."""
        return make_guid(self.machine.name, self.image, self.pid)

    @property
    def integrity(self) -> str:
        """Sysmon's IntegrityLevel."""
        if self.user == SYSTEM_USER:
            return "System"
        return "High" if self.elevated else "Medium"


@dataclass(frozen=True, slots=True)
class Draft:
    """A record at `offset_s` seconds after the play's start. A Windows record has `event_id` and
    `fields`; a syslog line has `program`, `pid` and `message`; an audit event has `records`, type
    and text of each; a sensor's record is a `line`."""

    offset_s: float
    file: File
    machine: Machine
    truth: str | None = None
    note: str = ""
    event_id: int = 0
    fields: tuple[tuple[str, Any], ...] = ()
    program: str = ""
    pid: int | None = None
    message: str = ""
    records: tuple[tuple[str, str], ...] = ()
    line: str = ""

    @property
    def channel(self) -> str:
        """The Windows channel that the file carries."""
        return SYSMON if self.file == "sysmon.jsonl" else SECURITY

    def labelled(self, truth: str | None, note: str) -> "Draft":
        """The same record with what must be found in it, and why it is there."""
        return replace(self, truth=truth, note=note)


@dataclass(frozen=True, slots=True)
class Pen:
    """Writes drafts at times from `start` (epoch seconds) on."""

    start: float

    def sysmon(
        self, offset_s: float, machine: Machine, event_id: int, fields: dict[str, Any]
    ) -> Draft:
        """Any Sysmon event; RuleName and UtcTime come first in every one."""
        head = {"RuleName": "-", "UtcTime": format_sysmon_time(self.start + offset_s)}
        return Draft(
            offset_s,
            "sysmon.jsonl",
            machine,
            event_id=event_id,
            fields=tuple({**head, **fields}.items()),
        )

    def start_process(self, offset_s: float, process: Process) -> Draft:
        """Sysmon 1. The process must have a parent."""
        parent = process.parent
        if parent is None:
            raise ValueError("a process that starts needs its parent")
        fields = process_created(
            self.start + offset_s,
            process.image,
            process.command_line,
            parent.image,
            parent_command_line=parent.command_line,
            user=process.user,
            pid=process.pid,
            parent_pid=parent.pid,
            integrity=process.integrity,
            guid=process.guid,
            parent_guid=parent.guid,
            original_name=None if process.image.startswith("C:\\Windows\\System32") else "-",
            company="Microsoft Corporation" if "\\Windows\\" in process.image else "-",
        )
        return self.sysmon(offset_s, process.machine, 1, fields)

    def connect(
        self, offset_s: float, process: Process, address: str, port: int, name: str = "-"
    ) -> Draft:
        """Sysmon 3: the process opens a TCP connection."""
        return self.sysmon(
            offset_s,
            process.machine,
            3,
            {
                **actor(process),
                "User": process.user,
                "Protocol": "tcp",
                "Initiated": "true",
                "SourceIsIpv6": "false",
                "SourceIp": process.machine.address,
                "SourceHostname": process.machine.name,
                "SourcePort": 49_152 + (process.pid * 7 + port) % 16_000,
                "SourcePortName": "-",
                "DestinationIsIpv6": "false",
                "DestinationIp": address,
                "DestinationHostname": name,
                "DestinationPort": port,
                "DestinationPortName": "-",
            },
        )

    def set_value(self, offset_s: float, process: Process, target: str, details: str) -> Draft:
        """Sysmon 13: the process sets a registry value."""
        fields = {
            "EventType": "SetValue",
            **actor(process),
            "TargetObject": target,
            "Details": details,
            "User": process.user,
        }
        return self.sysmon(offset_s, process.machine, 13, fields)

    def create_file(self, offset_s: float, process: Process, path: str) -> Draft:
        """Sysmon 11: the process creates a file."""
        created = format_sysmon_time(self.start + offset_s)
        fields = {**actor(process), "TargetFilename": path, "CreationUtcTime": created}
        return self.sysmon(offset_s, process.machine, 11, {**fields, "User": process.user})

    def create_pipe(self, offset_s: float, process: Process, name: str) -> Draft:
        """Sysmon 17: the process creates a named pipe."""
        fields = {"EventType": "CreatePipe", **actor(process), "PipeName": name}
        fields["User"] = process.user
        return self.sysmon(offset_s, process.machine, 17, fields)

    def query_name(self, offset_s: float, process: Process, name: str, answer: str) -> Draft:
        """Sysmon 22: the process asks for a name."""
        fields = {**actor(process), "QueryName": name, "QueryStatus": "0"}
        fields |= {"QueryResults": f"::ffff:{answer};", "User": process.user}
        return self.sysmon(offset_s, process.machine, 22, fields)

    def open_process(
        self, offset_s: float, process: Process, target: Process, granted: str
    ) -> Draft:
        """Sysmon 10: the process opens another one with the granted rights."""
        return self.sysmon(
            offset_s,
            process.machine,
            10,
            {
                "SourceProcessGUID": process.guid,
                "SourceProcessId": process.pid,
                "SourceThreadId": process.pid + 12,
                "SourceImage": process.image,
                "TargetProcessGUID": target.guid,
                "TargetProcessId": target.pid,
                "TargetImage": target.image,
                "GrantedAccess": granted,
                "CallTrace": "C:\\Windows\\SYSTEM32\\ntdll.dll+9d4c4",
                "SourceUser": process.user,
                "TargetUser": target.user,
            },
        )

    def security(
        self, offset_s: float, machine: Machine, event_id: int, fields: dict[str, Any]
    ) -> Draft:
        """Any event of the Security channel."""
        return Draft(
            offset_s, "security.jsonl", machine, event_id=event_id, fields=tuple(fields.items())
        )

    def syslog(self, offset_s: float, program: str, message: str, pid: int | None = None) -> Draft:
        """A line of the jump host's auth.log."""
        return Draft(offset_s, "auth.log", JUMP_HOST, program=program, pid=pid, message=message)

    def access(
        self, offset_s: float, client: str, request: str, status: int, size: int, agent: str
    ) -> Draft:
        """A line of the web server's access log, which nginx sends by syslog."""
        message = write_access(self.start + offset_s, client, request, status, size, agent)
        return Draft(
            offset_s, "nginx-access.log", WEB_SERVER, program="nginx", pid=None, message=message
        )

    def audit(self, offset_s: float, *records: tuple[str, str]) -> Draft:
        """One event of the web server's auditd."""
        return Draft(offset_s, "audit.log", WEB_SERVER, records=records)

    def zeek(
        self,
        offset_s: float,
        log: ZeekLog,
        source: tuple[str, int],
        target: tuple[str, int],
        values: dict[str, Any],
    ) -> Draft:
        """A line of a Zeek log; `source` and `target` are address and port."""
        ends = {
            "ts": self.start + offset_s,
            "uid": make_zeek_uid("C", source, target, offset_s),
            "id.orig_h": source[0],
            "id.orig_p": source[1],
            "id.resp_h": target[0],
            "id.resp_p": target[1],
        }
        line = write_zeek(log, {**ends, **values})
        return Draft(offset_s, ZEEK_FILES[log], PLANT_SENSOR, line=line)

    def eve(
        self,
        offset_s: float,
        event_type: str,
        source: tuple[str, int],
        target: tuple[str, int],
        fields: dict[str, Any],
        protocol: str = "TCP",
    ) -> Draft:
        """A record of the border's Suricata."""
        flow = int(make_zeek_uid("", source, target)[:12], 16)
        ends = {
            "flow_id": flow,
            "in_iface": "mirror0",
            "src_ip": source[0],
            "src_port": source[1],
            "dest_ip": target[0],
            "dest_port": target[1],
            "proto": protocol,
        }
        line = write_eve(self.start + offset_s, event_type, BORDER_SENSOR.name, {**ends, **fields})
        return Draft(offset_s, "eve.json", BORDER_SENSOR, line=line)


def actor(process: Process) -> dict[str, Any]:
    """The fields by which a Sysmon event names the process that acted."""
    return {"ProcessGuid": process.guid, "ProcessId": process.pid, "Image": process.image}


def subject(user: str, logon: str = "0x8f21b4") -> dict[str, str]:
    """The fields by which a Security event names who acted."""
    domain, _, name = user.rpartition("\\")
    return {
        "SubjectUserSid": make_sid(name),
        "SubjectUserName": name,
        "SubjectDomainName": domain,
        "SubjectLogonId": logon,
    }


def logon(user: str, address: str, kind: int, logon_id: str) -> dict[str, Any]:
    """EventData of Security 4624 (an account was logged on); `kind` is Windows' logon type."""
    domain, _, name = user.rpartition("\\")
    return {
        "SubjectUserSid": "S-1-0-0",
        "SubjectUserName": "-",
        "SubjectDomainName": "-",
        "SubjectLogonId": "0x0",
        "TargetUserSid": make_sid(name),
        "TargetUserName": name,
        "TargetDomainName": domain,
        "TargetLogonId": logon_id,
        "LogonType": str(kind),
        "LogonProcessName": "Kerberos" if kind == 3 else "User32",
        "AuthenticationPackageName": "Kerberos" if kind == 3 else "Negotiate",
        "WorkstationName": "-",
        "LogonGuid": make_guid("logon", user, logon_id),
        "IpAddress": address,
        "IpPort": "50122",
        "ProcessName": "-",
        "ElevatedToken": "%%1842",
    }


def sudo_line(user: str, command: str, terminal: str = "pts/0") -> str:
    """sudo's message for an allowed command as root, as sudo 1.9 words it."""
    return f"{user:>8} : TTY={terminal} ; PWD=/home/{user} ; USER=root ; COMMAND={command}"
