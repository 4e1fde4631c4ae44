"""Third station of the line, product linux: syslog of sshd, sudo, su, cron and everything else.

An event has one view for each Sigma service whose rules are about it: sshd's messages are in
`sshd` and `auth`, sudo's in `sudo` and `auth`, cron's in `cron` and `syslog`.

What a message says of users and addresses is partly written by whoever knocks. So each form is
anchored at both ends, and where free text (a user name) comes before the address, the address is
the last one: `Failed password for x from 198.51.100.1 port 22 ssh2 from 203.0.113.9 port 4 ssh2`
came from 203.0.113.9. In sudo's lines both the directory before `; USER=` and the command behind it
are the user's choice: when it occurs more than once, USER and COMMAND hold every reading.
"""

import re
from itertools import islice
from typing import Any, Final

from appliance.normalise.entities import make_address, make_host, make_user, name_host
from appliance.normalise.flatten import flatten
from appliance.normalise.programs import AUTH_PROGRAMS, HOST_PROGRAMS, OWN_SERVICES
from appliance.normalise.reading import Context, Reading, is_syslog
from appliance.normalise.services import find_forms, read_message
from appliance.normalise.times import read_time
from appliance.schema import Decoded, Entity, Fields, LogSource, View, name_program


def name_service(service: str) -> LogSource:
    """The log source of a Linux service."""
    return LogSource(product="linux", service=service)


SYSLOG: Final = name_service("syslog")
AUTH: Final = name_service("auth")
_AUTH_FACILITIES: Final = frozenset({"auth", "authpriv"})

#: Every log source that this normaliser can produce.
SOURCES: Final = (
    AUTH,
    SYSLOG,
    *(name_service(service) for service in dict.fromkeys(OWN_SERVICES.values())),
)

_ADDRESS: Final = r"(?P<src_ip>[0-9A-Za-z_:.%-]{1,255})"
_NEEDED_PORT: Final = r" port (?P<src_port>\d{1,5})"
_PORT: Final = rf"(?:{_NEEDED_PORT})?"
_END: Final = r"(?: \[preauth\])?\s*$"
_INVALID: Final = r"(?P<invalid>(?:invalid|illegal) user )?"

#: sshd's messages: result, and the form. `.*` before the address is greedy on purpose.
_SSHD: Final = tuple(
    (start, result, re.compile(form, re.DOTALL))
    for start, result, form in (
        (
            "Accepted ",
            "success",
            rf"Accepted (?P<auth_method>\S+) for (?P<user>.*) from {_ADDRESS}{_PORT}"
            rf"(?: ssh\d?)?(?:: [A-Z0-9-]+ \S+)?{_END}",
        ),
        (
            # Behind the protocol stand the key, for hostbased the client's own names, and for
            # version 1 the name that the client gave itself.
            "Failed ",
            "failure",
            rf"Failed (?P<auth_method>\S+) for {_INVALID}(?P<user>.*) from {_ADDRESS}{_NEEDED_PORT}"
            r" ssh\d?(?:: ruser .*|: [A-Z0-9-]+ [0-9A-Za-z:+/=]+, client user \".*\", client host"
            rf" \".*\"|: [A-Z0-9-]+ \S+)?{_END}",
        ),
        (
            "Failed ",
            "failure",
            rf"Failed (?P<auth_method>\S+) for {_INVALID}(?P<user>.*) from {_ADDRESS}{_PORT}"
            rf"(?: ssh\d?)?(?:: [A-Z0-9-]+ \S+)?{_END}",
        ),
        (
            "Postponed ",
            "",
            rf"Postponed (?P<auth_method>\S+) for {_INVALID}(?P<user>.*) from {_ADDRESS}{_PORT}"
            rf"(?: ssh\d?)?{_END}",
        ),
        (
            "Invalid user",
            "failure",
            rf"(?P<invalid>Invalid user) (?P<user>.*) from {_ADDRESS}{_PORT}{_END}",
        ),
        (
            "Illegal user",
            "failure",
            rf"(?P<invalid>Illegal user) (?P<user>.*) from {_ADDRESS}{_PORT}{_END}",
        ),
        (
            "maximum",
            "failure",
            rf"maximum authentication attempts exceeded for {_INVALID}(?P<user>.*) from"
            rf" {_ADDRESS}{_PORT}(?: ssh\d?)?{_END}",
        ),
        (
            "PAM:",
            "failure",
            rf"PAM: [\w ]{{1,64}} for {_INVALID}(?P<user>.*) from {_ADDRESS}"
            rf"(?: via [0-9A-Za-z_:.%-]{{1,255}})?{_END}",
        ),
        (
            "User ",
            "failure",
            rf"User (?P<user>.*) from {_ADDRESS} not allowed because .{{1,80}}$",
        ),
        (
            "Disconnected from ",
            "",
            rf"Disconnected from (?:(?P<invalid>invalid user )|authenticating user |user )"
            rf"(?P<user>.*) {_ADDRESS}{_NEEDED_PORT}{_END}",
        ),
        ("Disconnected from ", "", rf"Disconnected from {_ADDRESS}{_PORT}{_END}"),
        (
            "Disconnecting: Too many ",
            "failure",
            rf"Disconnecting: Too many authentication failures(?: for (?P<user>.*?))?{_END}",
        ),
        (
            "subsystem request ",
            "",
            r"subsystem request for [\w.-]{1,64} by user (?P<user>.*) failed, subsystem not "
            r"found\s*$",
        ),
        (
            "Disconnecting ",
            "failure",
            rf"Disconnecting (?:(?P<invalid>invalid user )|authenticating user |user )"
            rf"(?P<user>.*) {_ADDRESS}{_NEEDED_PORT}: (?:Change of username or service not "
            rf"allowed: "
            rf"\(.*\) -> \(.*\)|Too many authentication failures){_END}",
        ),
        (
            "Connection ",
            "",
            r"Connection (?:closed|reset) by"
            r" (?:(?P<invalid>invalid user )|authenticating user |user )"
            rf"(?P<user>.*) {_ADDRESS}{_NEEDED_PORT}{_END}",
        ),
        ("Connection ", "", rf"Connection (?:closed|reset) by {_ADDRESS}{_PORT}{_END}"),
        ("Connection from ", "", rf"Connection from {_ADDRESS}{_PORT}(?: on .{{1,80}})?$"),
        (
            "Received disconnect",
            "",
            r"Received disconnect from (?P<src_ip>[^\s:]+|[0-9a-fA-F:.]+)"
            r"(?: port (?P<src_port>\d{1,5}))?: ?\d+:.*$",
        ),
        (
            "Did not receive",
            "failure",
            rf"Did not receive identification string from {_ADDRESS}{_PORT}{_END}",
        ),
        (
            "Bad protocol",
            "failure",
            rf"Bad protocol version identification '.*' from {_ADDRESS}{_PORT}{_END}",
        ),
        ("ROOT LOGIN", "failure", rf"ROOT LOGIN REFUSED FROM {_ADDRESS}{_PORT}{_END}"),
        ("Timeout", "", rf"Timeout before authentication for {_ADDRESS}{_NEEDED_PORT}{_END}"),
        (
            "Timeout",
            "",
            rf"Timeout before authentication for connection from {_ADDRESS} to \S{{1,64}}, pid ="
            r" \d{1,10}\s*$",
        ),
        ("refused connect ", "failure", rf"refused connect from \S{{1,512}} \({_ADDRESS}\)\s*$"),
        (
            "ssh_dispatch_run_fatal: ",
            "",
            rf"ssh_dispatch_run_fatal: Connection from {_ADDRESS}{_NEEDED_PORT}: .*$",
        ),
        ("Read error ", "", rf"Read error from remote host {_ADDRESS}{_PORT}: .*$"),
        (
            "Address ",
            "",
            rf"Address {_ADDRESS} maps to \S{{1,255}}, but this does not map back to the address"
            r"(?: - POSSIBLE BREAK-IN ATTEMPT!?)?\.?\s*$",
        ),
        ("Unable to", "failure", rf"Unable to negotiate with {_ADDRESS}{_PORT}: "),
        (
            "input_userauth",
            "failure",
            rf"input_userauth_request: (?P<invalid>invalid user )(?P<user>.*?){_END}",
        ),
        ("banner exchange", "", rf"banner exchange: Connection from {_ADDRESS}{_NEEDED_PORT}: "),
        (
            "reverse mapping",
            "",
            r"reverse mapping checking getaddrinfo for .* \[(?P<src_ip>[0-9a-fA-F:.]+)\] failed"
            r"(?: - POSSIBLE BREAK-IN ATTEMPT!)?\.?$",
        ),
    )
)  # fmt: skip

#: Solaris' message id, and the level that sshd puts before its own text.
_SSHD_PREFIX: Final = re.compile(
    r"(?:\[ID \d{1,9} \w+\.\w+\] )?(?:kernel: ?\[ *\d{1,12}\.\d{1,9}\]:? )?(?:error: |fatal: )?"
)

_SUDO: Final = re.compile(
    r"\s*(?P<user>\S[^:;=]{0,255}?) : (?:(?P<reason>(?!TTY=|PWD=|USER=)[^;]{1,200}?) ; )?"
    r"(?:TTY=(?P<tty>\S*) ; )?(?:PWD=(?P<pwd>.*?) ; )?USER=(?P<target_user>[^;]{0,256}?) ; "
    r"(?:GROUP=(?P<target_group>\S*) ; )?"
    r"(?:TSID=\S* ; )?(?:ENV=.*? ; )?COMMAND=(?P<command>.*)$",
    re.DOTALL,
)
#: What sudo itself calls its parts, which is what Sigma's rules for it name.
_SUDO_NAMES: Final = (
    ("target_user", "USER"),
    ("tty", "TTY"),
    ("pwd", "PWD"),
    ("command", "COMMAND"),
)
_SU: Final = tuple(
    (result, re.compile(form))
    for result, form in (
        ("success", r"\(to (?P<target_user>\S+)\) (?P<user>\S+) on (?P<tty>\S+)$"),
        (
            "failure",
            r"(?:FAILED|BAD) SU \(to (?P<target_user>\S+)\) (?P<user>\S+) on (?P<tty>\S+)$",
        ),
        ("failure", r"BAD SU (?P<user>\S+) to (?P<target_user>\S+) on (?P<tty>\S+)$"),
        ("success", r"Successful su for (?P<target_user>\S+) by (?P<user>\S+)$"),
        ("failure", r"FAILED su for (?P<target_user>\S+) by (?P<user>\S+)$"),
        ("failure", r"failed: (?P<tty>\S+) changing from (?P<user>\S+) to (?P<target_user>\S+)$"),
        ("success", r"(?P<user>\S+) to (?P<target_user>\S+) on (?P<tty>\S+)$"),
        ("success", r"\+ (?P<tty>\S+) (?P<user>[^\s:]+)[:-](?P<target_user>\S+)$"),
        ("failure", r"- (?P<tty>\S+) (?P<user>[^\s:]+)[:-](?P<target_user>\S+)$"),
    )
)  # fmt: skip
_CRON: Final = re.compile(r"\((?P<user>[^()\s]{1,64})\) CMD \((?P<command>.*)\)\s*$", re.DOTALL)
_ACCOUNT: Final = re.compile(
    r"(?:new|delete) (?:user|account):? (?:name=|')(?P<user>[^,'\s]{1,64})"
)
#: pam_unix: ruser is what the peer called itself, blanks and all, so that the last rhost counts,
#: unless " user=" comes before it: then the user's name may hold the last one, and of two readings
#: none is taken. sshd has no ruser, so that what follows its rhost is the user, whatever it says.
_PAM_FAILURE: Final = re.compile(
    r"(?:\(?pam_\w+\)?(?:\([^()]{1,64}\))?:? )?(?:authentication failure|(?:PAM )?\d+ more"
    r" authentication failures?); logname=\S* uid=\d+"
    r" euid=\d+ (?:tty=ssh ruser= rhost=(?P<ssh_ip>\S*)(?:\s+user=(?P<ssh_user>.*))?|"
    r"tty=(?P<tty>\S*) ruser=(?P<ruser>(?:(?! user=).)*) rhost=(?P<src_ip>\S*)"
    r"(?:\s+user=(?P<user>\S*))?)\s*$",
    re.DOTALL,
)
_PAM_UNKNOWN: Final = re.compile(
    r"(?:\(?pam_\w+\)?(?:\([^()]{1,64}\))?:? )?check pass; user unknown\s*$"
)
_PAM_SESSION: Final = re.compile(
    r"(?:pam_\w+\([^()]{1,64}\): )?session (?P<change>opened|closed) for user (?P<user>[^\s"
    r"(]{1,64})"
    r"(?:\(uid=\d+\))?(?: by (?P<by_user>[^\s(]{0,64})(?:\(uid=\d+\))?)?\s*$"
)
_REPEATED: Final = re.compile(r"message repeated \d+ times: \[ (.*)\]$", re.DOTALL)
#: What follows the time where it is not RFC 3164's: host and `program[pid]:`, or, of a program's
#: own file, `program:` alone or `[program]`.
_HEADER: Final = re.compile(
    r"\]? {1,3}(?:(?P<hostname>[A-Za-z0-9_][\w.:-]{0,254}) {1,2}(?=[\w./-]{1,64}\[))?"
    r"(?:(?P<appname>[A-Za-z][\w./-]{0,63})(?:\([^()\s]{1,64}\))?"
    r"(?:\[(?P<procid>\d{1,10})\]:? {1,3}|: {1,3})|\[(?P<bracketed>[a-z][\w.-]{0,63})\]:? )"
)
#: Groups that are no field of their own.
_NO_FIELDS: Final = frozenset({"invalid", "change"})
#: How far from the beginning a line's own time ends at the latest, in characters.
_TIME_ENDS: Final = 80
_MONTHS: Final = frozenset(
    {"Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"}
)
#: Where other logs have a word of their own.
_NO_HOSTS: Final = frozenset(
    {"trace", "debug", "info", "notice", "warn", "warning", "error", "err", "crit", "critical"}
    | {"fatal", "severe"}
)
#: Longest message that is searched for users and addresses, in characters. Of a longer one of
#: sudo's the beginning is: else a command could be made long enough to hide who ran it.
_MAX_PARSED: Final = 4096
#: Another place in a command where sudo's own parts may end (see the top); how many are read.
_SUDO_AGAIN: Final = re.compile(
    r" ; USER=(?P<target_user>[^;]{0,256}?) ; (?:[A-Z]{3,8}=[^;]{0,512} ; ){0,4}COMMAND="
)
_MAX_READINGS: Final = 16
#: `%FACILITY-SEVERITY-MNEMONIC:` begins each message of Cisco's systems (Cisco IOS System Message
#: Guide, "System Log Message Format"); a facility may have parts, as in %SYS-SW1-5-RESTART.
_CISCO: Final = re.compile(
    r"\s{0,16}%[A-Z][A-Z0-9_]{0,31}(?:-[A-Z0-9_]{1,32}){0,3}-[0-7]-[A-Z0-9_]{1,64}(?::|$)"
)


def read_linux(decoded: Decoded, context: Context) -> Reading | None:
    """Read a syslog record of a Linux program; None for other formats, for Cisco's `%FAC-SEV-`
    messages, and for records that name no program."""
    if decoded.format == "text":
        found = _find_header(decoded.fields)
        if found is None:
            return None
        record = found
    elif is_syslog(decoded):
        record = decoded.fields
    else:
        return None
    message = record.get("message", "")
    appname = record.get("appname", "")
    program = name_program(appname)
    if program not in HOST_PROGRAMS and (_CISCO.match(appname) or _CISCO.match(message)):
        return None
    if not appname and "last message repeated" not in message:
        return None
    fields = _copy_fields(record, appname)
    _put_parts(fields, program, message)
    host = name_host(record.get("hostname", ""))
    return Reading(
        views=tuple([View(source, fields) for source in _list_sources(program, record, message)]),
        entities=_collect(fields, host),
        host=host,
        time=read_time(record.get("timestamp"), context),
    )


def _find_header(record: dict[str, Any]) -> dict[str, Any] | None:
    """The parts of a line of text that has syslog's header behind a time in another form; None for
    any other, and for programs that nothing here knows."""
    message, stamp = record.get("message"), record.get("timestamp")
    if not isinstance(message, str) or not isinstance(stamp, str):
        return None
    start = message.find(stamp, 0, _TIME_ENDS)
    if start < 0 or (match := _HEADER.match(message, start + len(stamp))) is None:
        return None
    appname = match["appname"] or match["bracketed"]
    # With RFC 3164's own time it would be syslog, had the operator not called it text.
    if match["appname"] and stamp[:3] in _MONTHS:
        return None
    program = name_program(appname)
    host = match["hostname"] or ""
    if (
        host.lower() in _NO_HOSTS
        or program in _NO_HOSTS
        or (program not in HOST_PROGRAMS and find_forms(program) is None)
    ):
        return None
    parts = {"timestamp": stamp, "appname": appname, "message": message[match.end() :]}
    if host:
        parts["hostname"] = host
    if match["procid"]:
        parts["procid"] = match["procid"]
    return parts


def _copy_fields(record: dict[str, Any], appname: str) -> Fields:
    fields = flatten({name: value for name, value in record.items() if name != "json"})
    if appname:
        fields["program"] = fields.pop("appname")
    if "procid" in fields:
        fields["pid"] = fields.pop("procid")
    body = record.get("json")
    if isinstance(body, dict):
        for name, value in flatten(body).items():
            fields.setdefault(name, value)
    return fields


def _list_sources(program: str, record: dict[str, Any], message: str) -> list[LogSource]:
    sources = []
    if service := OWN_SERVICES.get(program):
        sources.append(name_service(service))
    if (
        program in AUTH_PROGRAMS
        or record.get("facility") in _AUTH_FACILITIES
        or record.get("module", "").startswith("pam_")
        or message.startswith(("pam_", "(pam_"))
    ):
        sources.append(AUTH)
        if program in AUTH_PROGRAMS:
            return sources
    sources.append(SYSLOG)
    return sources


def _put_parts(fields: Fields, program: str, message: str) -> None:
    """Add what the message says of user, address, command and result."""
    if len(message) > _MAX_PARSED:
        if program == "sudo" and (match := _SUDO.match(message[:_MAX_PARSED])):
            _put_sudo(fields, match, message[match.start("command") :])
        return
    if repeated := _REPEATED.match(message):
        message = repeated[1].rstrip()
    if program.startswith("sshd") and _put_sshd(fields, message):
        return
    if program == "sudo" and (match := _SUDO.match(message)):
        _put_sudo(fields, match, match["command"])
    elif program == "su" and _put_su(fields, message):
        return
    elif program in ("cron", "crond", "anacron") and (match := _CRON.match(message)):
        _put_match(fields, match)
    elif not _put_pam(fields, message) and (found := read_message(program, message)):
        for name, value in found.items():
            fields.setdefault(name, value)
    elif program in ("useradd", "userdel") and (match := _ACCOUNT.match(message)):
        _put_match(fields, match)


def _put_pam(fields: Fields, message: str) -> bool:
    """Add what a PAM module says, whatever program it was in."""
    if match := _PAM_FAILURE.match(message):
        _put_pam_failure(fields, match)
    elif _PAM_UNKNOWN.match(message):
        fields["result"] = "failure"
    elif match := _PAM_SESSION.match(message):
        _put_match(fields, match)
        if match["change"] == "opened":
            fields["result"] = "success"
    else:
        return False
    return True


def _put_match(fields: Fields, match: re.Match[str]) -> None:
    for name, value in match.groupdict().items():
        # Who gave no name is told from a message that has none.
        if (value or (name == "user" and value is not None)) and name not in _NO_FIELDS:
            fields.setdefault(name, _as_ipv4(value) if name == "src_ip" else value)


def _as_ipv4(address: str) -> str:
    """The address, as IPv4 when it is an IPv4-mapped one in dotted form."""
    return address[7:] if address[:7].lower() == "::ffff:" and "." in address else address


def _put_sshd(fields: Fields, message: str) -> bool:
    if prefix := _SSHD_PREFIX.match(message):
        message = message[prefix.end() :]
    for start, result, form in _SSHD:
        if message.startswith(start) and (match := form.match(message)):
            _put_match(fields, match)
            if result:
                fields["result"] = result
            if match.groupdict().get("invalid"):
                fields["invalid_user"] = True
            return True
    return False


def _put_sudo(fields: Fields, match: re.Match[str], command: str) -> None:
    """Add sudo's parts. `command` is the whole of what `match` may hold but the beginning of."""
    _put_match(fields, match)
    for name, new in _SUDO_NAMES:
        if match[name]:
            fields[new] = match[name]
    if command:
        fields["command"] = fields["COMMAND"] = command
    head = command[:_MAX_PARSED]
    if again := list(islice(_SUDO_AGAIN.finditer(head), _MAX_READINGS)):
        fields["USER"] = [match["target_user"], *(other["target_user"] for other in again)]
        fields["COMMAND"] = [command, *(head[other.end() :] for other in again)]
    reason = match["reason"] or ""
    denied = "incorrect password" in reason or "NOT" in reason or "not allowed" in reason
    fields["result"] = "failure" if denied else "success"


def _put_pam_failure(fields: Fields, match: re.Match[str]) -> None:
    parts = match.groupdict()
    if parts["src_ip"] is None:
        parts |= {"tty": "ssh", "src_ip": parts["ssh_ip"], "user": parts["ssh_user"]}
    # Without an account of that name PAM tells only what the peer called itself.
    parts["user"] = parts["user"] or parts["ruser"]
    for name in ("tty", "ruser", "src_ip", "user"):
        if value := parts[name]:
            fields.setdefault(name, _as_ipv4(value) if name == "src_ip" else value)
    fields["result"] = "failure"


def _put_su(fields: Fields, message: str) -> bool:
    for result, form in _SU:
        if match := form.match(message):
            _put_match(fields, match)
            fields["result"] = result
            return True
    return False


def _collect(fields: Fields, host: str) -> tuple[Entity, ...]:
    found: dict[Entity | None, None] = {}
    if host:
        found[make_host(host)] = None
    for name in ("user", "target_user"):
        if isinstance(value := fields.get(name), str):
            found[make_user(value)] = None
    if isinstance(value := fields.get("src_ip"), str):
        found[make_address(value)] = None
    found.pop(None, None)
    return tuple(entity for entity in found if entity is not None)
