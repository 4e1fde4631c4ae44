"""The ordinary life that the web server, its auditd and the two network sensors log.

SYNTHETIC. None of it may give a finding. As in `noise` it stands close to the attack: scanners that
get 404, downloads by curl, files made by the web server, shares that are read, controllers that are
polled, alerts' neighbours in the EVE log.
"""

from random import Random
from typing import Any, Final

from tests.demo.noise import Habit
from tests.demo.plant import (
    BACKUP_ADDRESS,
    CONTROL_ROOM_ADDRESS,
    CONTROLLER_ADDRESS,
    CONTROLLERS,
    ORDINARY,
    SERVER,
    WEB_SERVER,
    WORKSTATION,
    Draft,
    Pen,
)
from tests.demo.sensors import (
    UNSET_ID,
    describe_arguments,
    describe_message,
    describe_path,
    describe_syscall,
    describe_title,
    encode_socket_address,
    make_zeek_uid,
)

FIREFOX: Final = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:144.0) Gecko/20100101 Firefox/144.0"
PHONE: Final = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 "
    "(KHTML, like Gecko) Version/18.1 Mobile/15E148 Safari/604.1"
)
MONITOR: Final = "nordwatch/2.1"
#: What visitors, the monitoring and the office ask the portal for: request, status, bytes.
REQUESTS: Final = (
    ("GET / HTTP/1.1", 200, 5120),
    ("GET /portal/login.php HTTP/1.1", 200, 2210),
    ("POST /portal/login.php HTTP/1.1", 302, 0),
    ("GET /portal/offers.php?page=2&sort=date HTTP/1.1", 200, 8204),
    ("GET /portal/report.php?id=417&format=pdf HTTP/1.1", 200, 48_211),
    ("POST /portal/upload.php HTTP/1.1", 201, 64),
    ("GET /uploads/pump-list-2026.pdf HTTP/1.1", 200, 120_417),
    ("GET /uploads/logo.png HTTP/1.1", 200, 9210),
    ("GET /css/site.css?v=14 HTTP/1.1", 304, 0),
    ("GET /search.php?q=select+pump+from+catalogue HTTP/1.1", 200, 7741),
    ("GET /favicon.ico HTTP/1.1", 404, 162),
    ("GET /robots.txt HTTP/1.1", 404, 162),
    ("HEAD /health HTTP/1.1", 200, 0),
)
VISITORS: Final = ("198.51.100.77", "198.51.100.140", "192.0.2.61", "192.0.2.93")
#: Names that machines in the plant ask for.
NAMES: Final = (
    ("www.example.com", "198.51.100.20"),
    ("news.example.org", "192.0.2.80"),
    ("updates.example.com", "198.51.100.21"),
    ("nh-fs01.nordhafen.test", SERVER.address),
    ("nh-backup.nordhafen.test", BACKUP_ADDRESS),
    ("d3k7x2a9.cdn.example.net", "198.51.100.22"),
)
#: Programs that root's timers and the administrator start on the web server.
PROGRAMS: Final = (
    ("/usr/sbin/logrotate", ("/usr/sbin/logrotate", "/etc/logrotate.conf")),
    ("/usr/sbin/nginx", ("nginx", "-t", "-q")),
    ("/usr/bin/find", ("find", "/var/lib/php/sessions", "-mmin", "+24", "-delete")),
    ("/usr/bin/systemctl", ("systemctl", "reload", "nginx")),
    ("/usr/bin/rsync", ("rsync", "-a", "/var/www/", "backup@10.20.2.40:web/")),
    ("/usr/bin/df", ("df", "-h")),
)
UNITS: Final = ("logrotate", "apt-daily", "phpsessionclean", "systemd-tmpfiles-clean")


def pick_port(rng: Random) -> int:
    """A client's port."""
    return rng.randrange(49_152, 65_000)


def visit_portal(pen: Pen, rng: Random, at: float) -> list[Draft]:
    """Somebody reads a page of the portal."""
    request, status, size = rng.choice(REQUESTS)
    if request.startswith("HEAD"):
        return [pen.access(at, BACKUP_ADDRESS, request, status, size, MONITOR)]
    agent = rng.choice((FIREFOX, PHONE))
    return [pen.access(at, rng.choice(VISITORS), request, status, size, agent)]


def run_program(pen: Pen, rng: Random, at: float) -> list[Draft]:
    """A timer's or the administrator's program starts on the web server."""
    exe, arguments = rng.choice(PROGRAMS)
    pid = rng.randrange(5000, 9000)
    by_hand = rng.random() < 0.3
    call = describe_syscall(
        "execve", exe, pid=pid, ppid=pid - 3, uid=0, key="exec", items=1,
        auid=1001 if by_hand else UNSET_ID, session=14 if by_hand else UNSET_ID,
        terminal="pts0" if by_hand else "(none)",
    )  # fmt: skip
    return [
        pen.audit(
            at, call, describe_arguments(arguments), ("CWD", 'cwd="/"'),
            describe_path(0, exe, "NORMAL"), describe_title(arguments),
        )
    ]  # fmt: skip


def keep_session(pen: Pen, rng: Random, at: float) -> list[Draft]:
    """PHP keeps a visitor's session in a file."""
    name = f"/var/lib/php/sessions/sess_{rng.randrange(16**26):026x}"
    pool = ("php-fpm: pool www",)
    call = describe_syscall(
        "openat", "/usr/sbin/php-fpm8.2", pid=rng.choice((2114, 2115)), ppid=2101, uid=33,
        key="webfiles", items=2,
    )  # fmt: skip
    folder = describe_path(0, "/var/lib/php/sessions", "PARENT", mode="041733")
    made = describe_path(1, name, "CREATE", 33, "0100600")
    return [pen.audit(at, call, ("CWD", 'cwd="/var/www"'), folder, made, describe_title(pool))]


def ask_backend(pen: Pen, rng: Random, at: float) -> list[Draft]:
    """nginx asks the catalogue's server inside."""
    address = encode_socket_address("10.20.2.12", 8443)
    call = describe_syscall("connect", "/usr/sbin/nginx", pid=1804, ppid=1801, uid=33, key="net")
    title = describe_title(("nginx: worker process",))
    return [pen.audit(at, call, ("SOCKADDR", f"saddr={address}"), title)]


def turn_unit(pen: Pen, rng: Random, at: float) -> list[Draft]:
    """systemd starts a unit, and it ends."""
    text = (
        f'unit={rng.choice(UNITS)} comm="systemd" exe="/usr/lib/systemd/systemd" hostname=? '
        "addr=? terminal=? res=success"
    )
    return [
        pen.audit(at, describe_message("SERVICE_START", text, pid=1)),
        pen.audit(at + 0.2, describe_message("SERVICE_STOP", text, pid=1)),
    ]


def log_in_to_web_server(pen: Pen, rng: Random, at: float) -> list[Draft]:
    """The Linux administrator logs in on the web server with his key."""
    text = (
        'op=login id=1001 exe="/usr/sbin/sshd" hostname=10.20.1.31 addr=10.20.1.31 '
        "terminal=/dev/pts/0 res=success"
    )
    pid = rng.randrange(9000, 9900)
    return [pen.audit(at, describe_message("USER_LOGIN", text, pid=pid, auid=1001, session=14))]


def describe_connection(rng: Random, service: str, protocol: str = "tcp") -> dict[str, Any]:
    """What Zeek says of a connection that was made and closed."""
    sent, got = rng.randrange(80, 4000), rng.randrange(80, 90_000)
    return {
        "proto": protocol,
        "service": service,
        "duration": rng.uniform(0.01, 0.6),
        "orig_bytes": sent,
        "resp_bytes": got,
        "conn_state": "SF",
        "local_orig": True,
        "local_resp": True,
        "missed_bytes": 0,
        "history": "Dd" if protocol == "udp" else "ShADadFf",
        "orig_pkts": 6 + sent // 1400,
        "orig_ip_bytes": sent + 320,
        "resp_pkts": 5 + got // 1400,
        "resp_ip_bytes": got + 280,
    }


def see_connection(pen: Pen, rng: Random, at: float) -> list[Draft]:
    """Zeek sees a connection of the office or of the control room."""
    client = f"10.20.1.{rng.randrange(30, 60)}"
    source, target, port, service = rng.choice(
        (
            (client, SERVER.address, 445, "gssapi,smb"),
            (client, "198.51.100.20", 443, "ssl"),
            (WORKSTATION.address, SERVER.address, 445, "gssapi,smb"),
            (WORKSTATION.address, rng.choice(CONTROLLERS), 4840, "-"),
            (SERVER.address, BACKUP_ADDRESS, 8443, "ssl"),
            (client, CONTROLLER_ADDRESS, 88, "krb_tcp"),
        )
    )
    values = describe_connection(rng, service)
    values["local_resp"] = target.startswith("10.")
    return [pen.zeek(at, "conn", (source, pick_port(rng)), (target, port), values)]


def describe_query(rng: Random, name: str, kind: tuple[int, str], answer: str) -> dict[str, Any]:
    """What Zeek says of a name that was asked for and answered."""
    return {
        "proto": "udp",
        "trans_id": rng.randrange(1, 65_536),
        "rtt": rng.uniform(0.0004, 0.03),
        "query": name,
        "qclass": 1,
        "qclass_name": "C_INTERNET",
        "qtype": kind[0],
        "qtype_name": kind[1],
        "rcode": 0,
        "rcode_name": "NOERROR",
        "AA": False,
        "TC": False,
        "RD": True,
        "RA": True,
        "Z": 0,
        "answers": [answer],
        "TTLs": [300.0],
        "rejected": False,
    }


def see_query(pen: Pen, rng: Random, at: float) -> list[Draft]:
    """Zeek sees a name being asked for."""
    name, answer = rng.choice(NAMES)
    source = (rng.choice((WORKSTATION.address, f"10.20.1.{rng.randrange(30, 60)}")), pick_port(rng))
    values = describe_query(rng, name, (1, "A"), answer)
    return [pen.zeek(at, "dns", source, (CONTROLLER_ADDRESS, 53), values)]


def see_file(pen: Pen, rng: Random, at: float) -> list[Draft]:
    """Zeek sees a document being opened on the projects' share."""
    name = rng.choice(("pump list.xlsx", "station3.prj", "drawings\\p7.dwg", "minutes.docx"))
    source = (f"10.20.1.{rng.randrange(30, 60)}", pick_port(rng))
    then = pen.start - 86_400.0
    values = {
        "fuid": make_zeek_uid("F", source, name, at),
        "action": "SMB::FILE_OPEN",
        "path": "\\\\NH-FS01\\projects",
        "name": name,
        "size": rng.randrange(2_000, 900_000),
        **{f"times.{what}": then for what in ("modified", "accessed", "created", "changed")},
    }
    return [pen.zeek(at, "smb_files", source, (SERVER.address, 445), values)]


def describe_s7_job(
    source: tuple[str, int], target: tuple[str, int], number: int, function: tuple[str, str]
) -> dict[str, Any]:
    """What Zeek says of a request to a Siemens controller; `function` is its code and name."""
    return {
        "is_orig": True,
        "source_h": source[0],
        "source_p": source[1],
        "destination_h": target[0],
        "destination_p": target[1],
        "rosctr_code": 1,
        "rosctr_name": "Job-Request",
        "pdu_reference": number,
        "function_code": function[0],
        "function_name": function[1],
    }


def describe_s7_answer(job: dict[str, Any]) -> dict[str, Any]:
    """What Zeek says of the controller's answer to it."""
    return {
        **job,
        "is_orig": False,
        "source_h": job["destination_h"],
        "source_p": job["destination_p"],
        "destination_h": job["source_h"],
        "destination_p": job["source_p"],
        "rosctr_code": 3,
        "rosctr_name": "ACK-Data",
        "error_class": "No error",
        "error_code": "0x00",
    }


def poll_controllers(pen: Pen, rng: Random, at: float) -> list[Draft]:
    """The control room reads a controller's values, as it does every second, and now and then sets
    one."""
    functions = (("0x04", "Read Variable"), ("0x04", "Read Variable"), ("0x05", "Write Variable"))
    source, target = (CONTROL_ROOM_ADDRESS, 50_110), (rng.choice(CONTROLLERS), 102)
    job = describe_s7_job(source, target, rng.randrange(65_536), rng.choice(functions))
    return [
        pen.zeek(at, "s7comm", source, target, job),
        pen.zeek(at + 0.02, "s7comm", source, target, describe_s7_answer(job)),
    ]


def watch_border(pen: Pen, rng: Random, at: float) -> list[Draft]:
    """Suricata tells what passes the border: flows, names, requests, certificates."""
    visitor, web = (rng.choice(VISITORS), pick_port(rng)), (WEB_SERVER.address, 443)
    client, outside = (WORKSTATION.address, pick_port(rng)), ("198.51.100.20", 443)
    kind = rng.choice(("flow", "flow", "dns", "http", "tls", "fileinfo"))
    if kind == "flow":
        flow = {
            "pkts_toserver": 12, "pkts_toclient": 14, "bytes_toserver": 1840,
            "bytes_toclient": rng.randrange(2_000, 90_000), "state": "closed", "reason": "timeout",
            "alerted": False,
        }  # fmt: skip
        return [pen.eve(at, kind, visitor, web, {"app_proto": "tls", "flow": flow})]
    if kind == "dns":
        query = {"type": "query", "id": rng.randrange(65_536), "rrname": "updates.example.com"}
        names = {"dns": {**query, "rrtype": "A", "tx_id": 0, "opcode": 0}}
        source = (CONTROLLER_ADDRESS, pick_port(rng))
        return [pen.eve(at, kind, source, ("192.0.2.53", 53), names, "UDP")]
    if kind == "tls":
        tls = {"subject": "CN=www.example.com", "sni": "www.example.com", "version": "TLS 1.3"}
        return [pen.eve(at, kind, client, outside, {"tls": tls})]
    http = {
        "hostname": "updates.example.com", "url": "/hmi/2.4.1/manifest.json",
        "http_user_agent": "nordwerk-update/2.4", "http_method": "GET", "protocol": "HTTP/1.1",
        "status": 200, "length": 812, "http_content_type": "application/json",
    }  # fmt: skip
    fields: dict[str, Any] = {"http": http, "app_proto": "http"}
    if kind == "fileinfo":
        name = {"filename": "/hmi/2.4.1/manifest.json", "state": "CLOSED", "size": 812}
        fields["fileinfo"] = {**name, "gaps": False, "stored": False, "tx_id": 0}
    return [pen.eve(at, kind, client, ("198.51.100.21", 80), fields)]


#: What goes on to the end, and what the plant's sensor sees while it can; with how many times each.
ON_ALL_THE_TIME: Final[dict[Habit, int]] = {
    visit_portal: 55,
    run_program: 22,
    keep_session: 24,
    ask_backend: 16,
    turn_unit: 5,
    log_in_to_web_server: 2,
    watch_border: 50,
}
SEEN_BY_SENSOR: Final[dict[Habit, int]] = {see_connection: 45, see_query: 35, see_file: 14}


def draft_sensor_noise(pen: Pen, rng: Random, length_s: float, sensor_s: float) -> list[Draft]:
    """Ordinary drafts over `length_s` seconds, those of the plant's sensor over the first
    `sensor_s` of them; in no order. The controllers are polled every second."""
    drafts = [
        draft
        for habits, end in ((ON_ALL_THE_TIME, length_s - 1.0), (SEEN_BY_SENSOR, sensor_s))
        for habit, times in habits.items()
        for _ in range(times)
        for draft in habit(pen, rng, rng.uniform(0.0, end))
    ]
    for second in range(int(sensor_s)):
        drafts += poll_controllers(pen, rng, second + 0.4)
    return [draft.labelled(None, ORDINARY) for draft in drafts]
