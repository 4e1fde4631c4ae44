"""Third station of the line: messages of services that people and machines log in to.

Three ways in: a syslog message is read by its program's forms (`read_message`, asked by linux.py);
a line of a service's own log file names no program and is known by how it goes on behind its time;
two services write JSON. A line that no form holds is left to others, so that nothing is claimed by
its beginning alone.
"""

import re
from functools import lru_cache
from typing import Any, Final

from appliance.normalise import applications, file_transfer, mail, remote, telephony
from appliance.normalise.entities import make_address, make_host, make_user, name_host
from appliance.normalise.flatten import flatten
from appliance.normalise.forms import MAX_MESSAGE, Forms, read_form
from appliance.normalise.reading import Context, Reading, is_syslog
from appliance.normalise.times import read_time
from appliance.schema import Decoded, Entity, Fields, LogSource, View

#: Program that a syslog line names -> the forms of its messages.
PROGRAMS: Final[dict[str, Forms]] = {
    **mail.PROGRAMS,
    **file_transfer.PROGRAMS,
    **telephony.PROGRAMS,
    **remote.PROGRAMS,
    **applications.PROGRAMS,
}


def _name_application(product: str) -> LogSource:
    return LogSource(product=product, category="application")


#: Services' own log files: name, log source, how a line goes on behind its time (or begins, where
#: it has none at its head), forms. The first whose beginning fits is asked, and no other.
_FILES: Final = tuple(
    (name, source or _name_application(name), beginning, forms)
    for name, source, beginning, forms in (
        (
            "asterisk", None,
            r"(?:NOTICE|WARNING|SECURITY|ERROR|VERBOSE|DEBUG) ?\[\d{1,10}\](?:\[C-|:? )",
            telephony.ASTERISK,
        ),
        ("freeswitch", None, r"(?:\d{1,3}\.\d\d% )?\[WARN(?:ING)?\] ", telephony.FREESWITCH),
        ("murmur", None, r"\d{1,6} => <\d", telephony.MURMUR),
        ("halflife", None, r"Bad Rcon: ", telephony.HALF_LIFE),
        ("ejabberd", None, r"(?:\[info\] |I\()<0\.\d", telephony.EJABBERD),
        (
            "vsftpd", LogSource(product="linux", service="vsftpd"),
            r"\[pid \d{1,10}\] ", file_transfer.VSFTPD,
        ),
        (
            "guacamole", LogSource(product="linux", service="guacamole"),
            r"(?:WARNING: |\d\d:\d\d:\d\d\.\d{3} \[)", remote.GUACAMOLE,
        ),
        ("bitwarden", None, r"\[(?:WRN|Warning)\] Failed login", applications.BITWARDEN),
        ("vaultwarden", None, r"\[vaultwarden::", applications.VAULTWARDEN),
        ("centreon", None, r"\|[\d|-]{1,32}\|\[WEB\] ", applications.CENTREON),
        ("gitlab", None, r"Failed Login: ", applications.GITLAB),
        ("grafana", None, r"t=\d{4}-", applications.GRAFANA),
        ("groupoffice", None, r"LOGIN FAILED for user: ", applications.GROUP_OFFICE),
        ("horde", None, r"HORDE ", applications.HORDE),
        ("monit", None, r"(?:error|warning|info) {0,8}: ", applications.MONIT),
        ("monitorix", None, r"- (?:NOT[A-Z]{1,16}|AUTHERR) - ", applications.MONITORIX),
        ("openwebmail", None, r"- \[\d{1,10}\] \(", applications.OPENWEBMAIL),
        (
            "roundcube", None,
            r"(?:<\w{1,16}> )?(?:IMAP Error: |(?:FAILED|Failed|Successful) login for )",
            applications.ROUNDCUBE,
        ),
        (
            "squirrelmail", None,
            r"\d\d/\d\d/\d{4} \d\d:\d\d:\d\d \[LOGIN_",
            applications.SQUIRRELMAIL,
        ),
        ("tine20", None, r"\w{5} \w{5} -- ", applications.TINE20),
        ("directadmin", None, r"'[0-9A-Fa-f:.]{2,45}' ", applications.DIRECTADMIN),
        ("cpanel", None, r"info \[cpsrvd\] ", applications.CPANEL),
        (
            "mysql", None,
            r"(?:\d{1,20} )?\[(?:Warning|Note)\] (?:\[MY-\d{6}\] \[Server\] )?Access denied ",
            applications.MYSQL,
        ),
        ("mssql", None, r"Logon {1,16}Login ", applications.MSSQL),
        (
            "mongodb", None,
            r"(?:[IWE] [A-Z]{1,12} {1,8})?\[\w{1,32}\] (?:end |connection |\S{1,32} auth)",
            applications.MONGODB,
        ),
        (
            "exim", None,
            r"(?:info exim\[\d{1,10}\]: )?(?:\[\d{1,10}\] )?(?:[0-9A-Za-z]{6}-[0-9A-Za-z]{6,11}-"
            r"[0-9A-Za-z]{2,4} )?(?:\w{1,64} authenticator failed|(?:F=\S{1,320} )?H=|SMTP [cp]|"
            r"no MAIL |"
            r"no host |no IP |SA: Action: )",
            mail.EXIM,
        ),
        ("dovecot", None, r"auth\([^\s]{1,320}\)(?:<|: )", mail.DOVECOT),
        (
            "assp", None,
            r"(?:m\d-\d{5}-\d{5} )?\[(?:Worker_\d|TLS-|SSL-)|Blocking [0-9A-Fa-f:.]{2,45} - ",
            mail.ASSP,
        ),
        ("domino", None, r"(?:smtp: |SMTP Server)", mail.DOMINO),
        (
            "kerio", None,
            r"(?:Attempt to deliver |SMTP Spam |IP address |Relay attempt |SMTP: User |Client "
            r"with IP |"
            r"Administration login |Message from IP |Failed [A-Z0-9]{2,12} login )",
            mail.KERIO,
        ),
        ("oracleims", None, r"<co ts=", mail.ORACLE_IMS),
        ("softether", None, r"(?:\S{1,255}  \[\S{1,255}\] \(|Connection \"CID-)", remote.SOFTETHER),
        ("xrdp", None, r"\[INFO ?\] AUTHFAIL: ", remote.XRDP),
        ("3proxy", None, r"(?:PROXY|SOCKS|FTPPR|POP3P|ADMIN)\.\d{1,5} \d{5} ", remote.PROXY3),
        ("stunnel", None, r"LOG\d\[", remote.STUNNEL),
        ("portsentry", None, r"- \d\d/\d\d/\d{4} ", remote.PORTSENTRY),
        ("fail2ban", None, r"fail2ban\.actions", remote.FAIL2BAN),
        ("wazuh", None, r"/\S{1,128}/active-response/bin/", remote.WAZUH_RESPONSE),
        (
            "routeros", None,
            r"(?:[\w.-]{1,255} )?system,(?:error,critical|info,account)",
            remote.ROUTEROS,
        ),
        # Last: a name in brackets is a weak beginning.
        ("znc", None, r"\[[^\[\]]{1,128}\] failed to login ", telephony.ZNC),
    )
)  # fmt: skip
_BEGINNINGS: Final = re.compile(
    "|".join(f"(?P<f{number}>{file[2]})" for number, file in enumerate(_FILES))
)
NEXTCLOUD: Final = _name_application("nextcloud")
COWRIE: Final = _name_application("cowrie")

#: Every log source that this normaliser can produce.
SOURCES: Final = (*dict.fromkeys(source for _, source, _, _ in _FILES), NEXTCLOUD, COWRIE)

#: What may stand between a leading time and the message: no quotation mark, behind which an access
#: log has the client's words.
_BEHIND_TIME: Final = "])> :"
#: How far from the beginning a line's own time ends at the latest, in characters.
_TIME_ENDS: Final = 80

_NEXTCLOUD_LOGIN: Final = re.compile(
    r"Login failed: '?(?P<user>.*?)'? \(Remote IP: '?(?P<src_ip>[0-9A-Fa-f:.]{2,45})'?\)\s*\Z",
    re.DOTALL,
)
_COWRIE_RESULTS: Final = {"cowrie.login.failed": "failure", "cowrie.login.success": "success"}


@lru_cache(maxsize=1024)
def find_forms(program: str) -> Forms | None:
    """The forms of a program by its name in syslog (`schema.name_program`); of `imapd-ssl`,
    `postfix-incoming` and `perdition.imaps` those of imapd, postfix and perdition."""
    found = PROGRAMS.get(program)
    if found is None:
        found = PROGRAMS.get(program.partition("-")[0]) or PROGRAMS.get(program.partition(".")[0])
    return found


def read_message(program: str, message: str) -> dict[str, str] | None:
    """What a syslog message of the program tells of address, user and result; None for nothing.
    Drupal names its site as the program: it is known by its message."""
    forms = find_forms(program) if len(program) <= 128 else None
    if forms is None:
        return read_form(applications.DRUPAL, message) if message[:4] == "http" else None
    return read_form(forms, message)


def read_services(decoded: Decoded, context: Context) -> Reading | None:
    """Read a line of a service's own log file, or a record of Nextcloud or Cowrie; None for
    others'."""
    if decoded.format == "json":
        return _read_object(decoded.fields, context)
    record = decoded.fields
    if decoded.format != "text" and (not is_syslog(decoded) or "appname" in record):
        return None
    message = record.get("message", "")
    if len(message) > MAX_MESSAGE:
        return None
    rest = _cut_time(message, record) if decoded.format == "text" else message
    if (match := _BEGINNINGS.match(rest)) is None or match.lastgroup is None:
        return None
    _, source, _, forms = _FILES[int(match.lastgroup[1:])]
    found = read_form(forms, rest)
    if found is None:
        return None
    time = read_time(_take_time(found) or record.get("timestamp"), context)
    return _make_reading(source, flatten(record) | found, time, context)


def _cut_time(message: str, record: dict[str, Any]) -> str:
    """The text behind the time that the line begins with."""
    stamp = record.get("timestamp")
    if not isinstance(stamp, str):
        return message
    start = message.find(stamp, 0, _TIME_ENDS)
    return message if start < 0 else message[start + len(stamp) :].lstrip(_BEHIND_TIME)


def _take_time(found: dict[str, str]) -> str | None:
    if "clock" in found:
        year, month, day = found.pop("year"), found.pop("month"), found.pop("day")
        return f"{year}-{month}-{day}T{found.pop('clock')}"
    return found.pop("time", None)


def _read_object(record: dict[str, Any], context: Context) -> Reading | None:
    event = record.get("eventid")
    if isinstance(event, str) and event.startswith("cowrie."):
        return _read_cowrie(record, event, context)
    if "reqId" in record and "remoteAddr" in record and isinstance(record.get("app"), str):
        return _read_nextcloud(record, context)
    return None


def _read_cowrie(record: dict[str, Any], event: str, context: Context) -> Reading:
    """A record of the SSH and Telnet honeypot Cowrie (docs, "Output Event Code Reference")."""
    fields = flatten(record)
    if isinstance(user := record.get("username"), str):
        fields["user"] = user
    if result := _COWRIE_RESULTS.get(event):
        fields["result"] = result
    time = read_time(record.get("timestamp"), context)
    sensor = record.get("sensor")
    return _make_reading(COWRIE, fields, time, context, sensor if isinstance(sensor, str) else "")


def _read_nextcloud(record: dict[str, Any], context: Context) -> Reading:
    """A record of nextcloud.log (administration manual, "Logging"). A failed login names its
    address in the message, where a proxy stands before the server."""
    fields = flatten(record)
    if isinstance(address := record.get("remoteAddr"), str) and address:
        fields["src_ip"] = address
    if fields.get("user") == "--":
        del fields["user"]
    message = record.get("message")
    if isinstance(message, str) and len(message) <= MAX_MESSAGE:
        if match := _NEXTCLOUD_LOGIN.match(message):
            fields.update(match.groupdict())
            fields["result"] = "failure"
        elif message.startswith("Login successful: "):
            fields["result"] = "success"
    return _make_reading(NEXTCLOUD, fields, read_time(record.get("time"), context), context)


def _make_reading(
    source: LogSource, fields: Fields, time: float | None, context: Context, sensor: str = ""
) -> Reading:
    named = sensor or fields.get("hostname")
    host = context.host or (name_host(named) if isinstance(named, str) else "")
    found: dict[Entity | None, None] = {make_host(host) if host else None: None}
    if isinstance(address := fields.get("src_ip"), str):
        found[make_address(address)] = None
    if isinstance(user := fields.get("user"), str):
        found[make_user(user)] = None
    return Reading(
        views=(View(source, fields),),
        entities=tuple(entity for entity in found if entity is not None),
        host=host,
        time=time,
    )
