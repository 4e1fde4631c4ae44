"""Second station of the line, format `journal`: an entry of systemd's journal as one JSON object
(systemd.journal-fields(7), https://systemd.io/JOURNAL_EXPORT_FORMATS/).

Fields: timestamp (seconds since the epoch), hostname, appname, procid, facility, severity, message,
and `json` when the message is a JSON object, as of syslog. Fields that journald itself adds and a
sender can't choose (`_COMM`, `_EXE`, `_UID`, `_SYSTEMD_UNIT`, `_TRANSPORT`, those of an audit
record, ...) stand beside these under their own names; what else the sender chose is in `journal`,
so that it can't be taken for any of these.

The program's name is the sender's claim: `logger -t sshd` makes a line of sshd's. A claim to be a
program of the host itself by a process of an ordinary user is believed only where the program that
ran is that one; else `appname` is the program that ran, and the claim is in `claimed_appname`.
"""

import re
from typing import Any, Final

from appliance.decode.json_object import read_object
from appliance.decode.syslog_parts import FACILITIES, SEVERITIES, read_json_body
from appliance.decode.utf8 import escape_bytes, has_bad_bytes
from appliance.errors import DecodeError
from appliance.schema import Decoded, RawRecord, name_program

#: Programs of the host whose words count: those that normalise as themselves (authentication,
#: services with a log source of their own) and those whose messages are records of another format.
GUARDED: Final = frozenset(
    {"sshd", "sshd-session", "sshd-auth", "sudo", "su", "login", "systemd-logind", "passwd"}
    | {"chpasswd", "gpasswd", "chage", "chfn", "chsh", "useradd", "userdel", "usermod", "groupadd"}
    | {"groupdel", "groupmod", "newusers", "polkitd", "pkexec", "gdm-password", "lightdm", "sssd"}
    | {"unix_chkpwd", "rlogind", "rshd", "doas", "cron", "crond", "anacron", "crontab", "vsftpd"}
    | {"clamd", "clamav", "clamscan", "freshclam", "guacd", "guacamole", "kernel", "systemd"}
    | {
        "audit",
        "auditd",
        "audispd",
        "audisp-syslog",
        "audisp-remote",
        "kauditd",
        "ulogd",
        "ufw",
        "iptables",
        "nft",
    }
    | {"named", "named-sdb", "bind", "bind9", "unbound", "dnsmasq", "pihole-ftl", "cef", "leef"}
    | {"apache", "apache2", "httpd", "nginx", "angie", "openresty", "tengine", "lighttpd", "caddy"}
    | {"traefik", "haproxy", "varnishncsa", "squid", "squid3"}
)
#: Where programs lie that no ordinary user can have put there (file-hierarchy(7)).
_SYSTEM_FOLDERS: Final = ("/usr/", "/bin/", "/sbin/", "/lib/", "/lib64/")
#: What the kernel adds to the path of a program that was replaced while it ran (proc(5)).
_DELETED: Final = " (deleted)"
#: Programs that ordinary users start with root's rights, and that may have ended before journald
#: looked at what ran: their user is that of who started them.
_BRIEF: Final = frozenset(
    {"sudo", "su", "passwd", "gpasswd", "chage", "chfn", "chsh", "pkexec", "doas", "crontab"}
    | {"unix_chkpwd"}
)
#: Transports on which nobody but the kernel and journald itself write.
_OWN_TRANSPORTS: Final = frozenset({"kernel", "audit", "driver"})
#: Name of a program of which nothing is known but that it is not what it says.
_UNKNOWN: Final = "unknown"

_NAME: Final = re.compile(r"_[A-Z0-9][A-Z0-9_]{0,63}")
_DIGITS: Final = re.compile(r"\d{1,18}")
#: Fields that become parts, or address the entry.
_PARTS: Final = frozenset(
    {"MESSAGE", "PRIORITY", "SYSLOG_FACILITY", "SYSLOG_IDENTIFIER", "SYSLOG_PID", "_HOSTNAME"}
    | {"_SOURCE_REALTIME_TIMESTAMP"}
)


def decode_journal(record: RawRecord) -> Decoded:
    """Read the record as one journal entry. Raises DecodeError when it is no JSON object, or one
    without a single field of an entry."""
    entry, repaired = read_object(record.data)
    if not any(name.isupper() for name in entry):
        raise DecodeError("no journal entry: it has none of a journal's fields")
    fields = _read_parts(entry)
    if (source := _name_source(entry, fields)) is not None:
        fields["appname"] = source
    _add_rest(entry, fields)
    body, mended = read_json_body(fields["message"])
    if body is not None:
        fields["json"] = body
    return Decoded("journal", fields, repaired or mended)


def _read_parts(entry: dict[str, Any]) -> dict[str, Any]:
    """Syslog's parts, except for the program."""
    fields: dict[str, Any] = {}
    for name in ("_SOURCE_REALTIME_TIMESTAMP", "__REALTIME_TIMESTAMP"):
        if digits := _read_number(entry, name):
            fields["timestamp"] = int(digits) / 1e6
            break
    if host := _read_text(entry, "_HOSTNAME"):
        fields["hostname"] = host
    if pid := _read_number(entry, "_PID") or _read_number(entry, "SYSLOG_PID"):
        fields["procid"] = pid
    facility = _read_number(entry, "SYSLOG_FACILITY")
    if facility and int(facility) < len(FACILITIES):
        fields["facility"] = FACILITIES[int(facility)]
    elif _read_text(entry, "_TRANSPORT") == "kernel":
        fields["facility"] = FACILITIES[0]
    severity = _read_number(entry, "PRIORITY")
    if severity and int(severity) < len(SEVERITIES):
        fields["severity"] = SEVERITIES[int(severity)]
    fields["message"] = _read_message(entry)
    return fields


def _read_message(entry: dict[str, Any]) -> str:
    """The message; of an audit record in the form in which auditd writes it, with its type and
    number, which journald has taken out of it."""
    value = entry.get("MESSAGE", "")
    lines = value if isinstance(value, list) else [value]
    message = "\n".join(_make_text(line) for line in lines)
    if _read_text(entry, "_TRANSPORT") != "audit":
        return message
    kind = _read_text(entry, "_AUDIT_TYPE_NAME")
    number = _read_number(entry, "_AUDIT_ID")
    time = _read_number(entry, "_SOURCE_REALTIME_TIMESTAMP")
    if not kind or not number or not time or not message.startswith(f"{kind} "):
        return message
    stamp = f"{int(time) // 1_000_000}.{int(time) // 1000 % 1000:03d}"
    return f"type={kind} msg=audit({stamp}:{number}): {message[len(kind) + 1 :]}"


def _name_source(entry: dict[str, Any], fields: dict[str, Any]) -> str | None:
    """The program that wrote the entry; puts a claim that is not believed, and the facility that
    came with it, beside."""
    claim = _read_text(entry, "SYSLOG_IDENTIFIER")
    command = _read_text(entry, "_COMM")
    if not claim:
        claim = command
        if not claim:
            return None
    if _is_believed(claim, entry):
        return claim
    fields["claimed_appname"] = claim
    if "facility" in fields:
        fields["claimed_facility"] = fields.pop("facility")
    path = _strip_deleted(_read_text(entry, "_EXE"))
    ran = path.rpartition("/")[2]
    if ran and path.startswith(_SYSTEM_FOLDERS):
        return ran
    return next((name for name in (ran, command) if name and not is_guarded(name)), _UNKNOWN)


def is_guarded(appname: str) -> bool:
    """True for a name that normalisation takes for a program of the host itself."""
    program = name_program(appname)
    return program in GUARDED or program.startswith("sshd")


def _is_believed(claim: str, entry: dict[str, Any]) -> bool:
    """Whether the writer is what it says, as far as journald has seen it. It is too late for many
    a process that writes one line and ends, as `logger` does."""
    user = _read_number(entry, "_UID")
    if (
        not is_guarded(claim)
        or not user
        or int(user) == 0
        or _read_text(entry, "_TRANSPORT") in _OWN_TRANSPORTS
    ):
        return True
    program = name_program(claim)
    path = _strip_deleted(_read_text(entry, "_EXE"))
    if path:
        ran = path.rpartition("/")[2].lower()
        named = program in (ran, ran.partition(".")[0]) or program.startswith(f"{ran}-")
        return named and path.startswith(_SYSTEM_FOLDERS)
    command = _read_text(entry, "_COMM").lower()
    # The kernel keeps 15 characters of a name (proc(5), comm).
    return command == program[:15] if command else program in _BRIEF


def _strip_deleted(path: str) -> str:
    return path.removesuffix(_DELETED)


def _add_rest(entry: dict[str, Any], fields: dict[str, Any]) -> None:
    """Add what journald says beside the parts, and what else the sender says below `journal`."""
    chosen: dict[str, Any] = {}
    for name, value in entry.items():
        if name in _PARTS or name.startswith("__"):
            continue
        kept = [_make_text(item) for item in value] if isinstance(value, list) else value
        (fields if _NAME.fullmatch(name) else chosen)[name] = kept
    pid = _read_number(entry, "SYSLOG_PID")
    if pid and pid != fields.get("procid"):
        chosen["SYSLOG_PID"] = pid
    if chosen:
        fields["journal"] = chosen


def _read_text(entry: dict[str, Any], name: str) -> str:
    """The field's text; of a field that occurs more than once the first."""
    value = entry.get(name, "")
    if isinstance(value, list):
        value = value[0] if value else ""
    return _make_text(value)


def _read_number(entry: dict[str, Any], name: str) -> str:
    """The field's decimal digits; empty when it holds anything else."""
    text = _read_text(entry, name)
    return text if text.isascii() and _DIGITS.fullmatch(text) else ""


def _make_text(value: Any) -> str:
    text = value if isinstance(value, str) else "" if value is None else str(value)
    return escape_bytes(text) if has_bad_bytes(text) else text
