"""What an event says of address, user, time and result, against what two public sets expect.

fail2ban's sample files state address and time (and here and there the user) of each line that a
filter matches, in a comment above it. Wazuh's rule tests state decoder and rule of each line; from
the rule follow the result (its groups authentication_success and authentication_failed) and where
the user stands, and the address is the first one in the message that is no end of the device's own.

At least 95 % of each must be met. The rest is listed below by file and line with its reason, and a
test fails as well when a listed one is met, so that the lists stay true.
"""

import ipaddress
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from appliance.decode import decode
from appliance.errors import DecodeError
from appliance.normalise import FED, normalise
from appliance.schema import Cursor, Event, LogSource, RawRecord

FindData = Callable[[str], Path]
#: After the newest record of the sets.
RECEIVED: Final = 1_790_000_000.0
#: The zone in which fail2ban's own suite runs, and the day that it takes for today where a line
#: has no year (the years 2004 and 2005 of an expectation stand for such a line).
ZONE: Final = ZoneInfo("Europe/Zurich")
TODAY: Final = datetime(2005, 8, 14, 12, tzinfo=ZONE)


class Line(msgspec.Struct, frozen=True):
    """One line of a set: where it stands, its bytes, what is expected, and its format."""

    file: str
    number: int
    data: bytes
    expected: dict[str, Any]
    format: str = "auto"

    @property
    def place(self) -> str:
        return f"{self.file}:{self.number}"


def read(line: Line, received: float = RECEIVED) -> Event:
    cursor = Cursor("test", "x", 0, len(line.data))
    record = RawRecord(line.data, "test", "x", "x", cursor, received, line.format)
    return normalise(record, decode(record), zone=ZONE).event


def list_values(event: Event, name: str) -> set[str]:
    """Every value that a view has for the field, as text."""
    found: set[str] = set()
    for view in event.views:
        value = view.fields.get(name)
        if value is not None:
            found.update(str(part) for part in (value if isinstance(value, list) else [value]))
    return found


def check_counts(
    counts: Counter[str], misses: dict[str, set[str]], known: dict[str, dict[str, str]]
) -> None:
    """Every kind of expectation is met to 95 %, and what is not is what the lists say."""
    for kind, missed in misses.items():
        assert missed == known[kind].keys(), (kind, sorted(missed ^ known[kind].keys()))
        assert len(missed) <= counts[kind] * 0.05, (kind, counts[kind], len(missed))


# --- fail2ban


def list_fail2ban(folder: Path) -> Iterator[Line]:
    """Each line with what the comment above it expects. A file's options say where lines are those
    of a journal (host and program, no time), which is then their configured format, and what its
    suite puts in front of each."""
    for path in sorted(path for path in folder.glob("**/*") if path.is_file()):
        expected: dict[str, Any] = {}
        whole = part = "auto"
        prefix = b""
        for number, data in enumerate(path.read_bytes().split(b"\n"), 1):
            if not data.strip():
                continue
            if not data.startswith(b"#"):
                name = path.relative_to(folder).as_posix()
                yield Line(name, number, prefix + data.rstrip(b"\r"), expected, part)
                expected = {}
                continue
            sign, _, text = data.partition(b":")
            if sign.endswith(b"failJSON"):
                expected = json.loads(text)
            elif sign.endswith(b"Options"):
                options = json.loads(text)
                options = options[0] if isinstance(options, list) else options
                kind = {"journal": "syslog3164", None: whole}
                part = kind.get(options.get("logtype"), "auto")
                whole = part if sign.endswith(b"fileOptions") else whole
                prefix = options.get("test.prefix-line", "").encode()


def find_time(line: Line) -> datetime | None:
    text = line.expected.get("time")
    # One expectation of the set has a day of one digit.
    return (
        datetime.fromisoformat(text.replace("-7T", "-07T")).replace(tzinfo=ZONE) if text else None
    )


#: Files in which every match is a refused login. Of the others a match may be a probe, a scan, an
#: unwanted message or a ban, which is no login; those that mix both are told by the line's words.
LOGINS: Final = frozenset(
    [
        "bitwarden",
        "centreon",
        "courier-auth",
        "cyrus-imap",
        "dante",
        "directadmin",
        "drupal-auth",
        "ejabberd-auth",
        "freeswitch",
        "froxlor-auth",
        "gitlab",
        "grafana",
        "groupoffice",
        "gssftpd",
        "guacamole",
        "horde",
        "monit",
        "mssql-auth",
        "murmur",
        "mysqld-auth",
        "openwebmail",
        "oracleims",
        "pam-generic",
        "perdition",
        "phpmyadmin-syslog",
        "proftpd",
        "proxmox",
        "pure-ftpd",
        "roundcube-auth",
        "routeros-auth",
        "screensharingd",
        "sieve",
        "softethervpn",
        "sogo-auth",
        "solid-pop3d",
        "squirrelmail",
        "tine20",
        "uwimap-auth",
        "vaultwarden",
        "vsftpd",
        "webmin-auth",
        "wuftpd",
        "xinetd-fail",
        "xrdp",
        "znc-adminlog",
        "dropbear",
    ]
)
MIXED: Final = frozenset(
    [
        "asterisk",
        "assp",
        "courier-smtp",
        "domino-smtp",
        "dovecot",
        "exim",
        "kerio",
        "openvpn",
        "postfix",
        "sendmail-auth",
        "sshd",
        "sshd-journal",
        "slapd",
    ]
)
#: Words of a refused login in the lines of MIXED.
REFUSED: Final = re.compile(
    rb"authenticat[a-z]* (?:failure|failed|error|data)|failed (?:to authenticate|password|"
    rb"publickey|"
    rb"keyboard|md5 auth)|auth failed|auth failure|wrong password|\): unknown user|password "
    rb"mismatch|"
    rb": invalid user|: illegal user|not allowed because|login refused|max(?:imum)? auth|err=49",
    re.IGNORECASE,
)


def is_refused_login(line: Line) -> bool:
    return line.file in LOGINS or (line.file in MIXED and REFUSED.search(line.data) is not None)


_ELSEWHERE: Final = "the address stands in another line of the connection"
_DEMO: Final = "demonstrates how to write a filter: no program logs this"
_LAST: Final = "what comes behind the user's name is sshd's: the last address counts, not the first"
_TWO_READINGS: Final = "ruser and user are both the peer's words: of two readings none is taken"
_TWICE: Final = "a syslog header inside a syslog message, which no nginx writes"
_ZONE: Final = "the set passes over the zone that the line states"
_TAI: Final = "the label is TAI, which was ten seconds ahead of UTC when it was set to the epoch"
_TIME_ELSEWHERE: Final = "the time stands in the line before"
FAIL2BAN_MISSES: Final[dict[str, dict[str, str]]] = {
    "address": {
        "sshd:203": _ELSEWHERE,
        "sshd:208": _ELSEWHERE,
        "sshd:289": _ELSEWHERE,
        "sshd:295": _ELSEWHERE,
        "sshd:301": _ELSEWHERE,
        "sshd:322": _ELSEWHERE,
        "sshd:324": _ELSEWHERE,
        "sshd:359": _ELSEWHERE,
        "sshd:388": _ELSEWHERE,
        "sshd:390": _ELSEWHERE,
        "sshd:396": _ELSEWHERE,
        "sshd-journal:201": _ELSEWHERE,
        "sshd-journal:206": _ELSEWHERE,
        "sshd-journal:277": _ELSEWHERE,
        "sshd-journal:283": _ELSEWHERE,
        "sshd-journal:289": _ELSEWHERE,
        "sshd-journal:329": _ELSEWHERE,
        "sshd-journal:331": _ELSEWHERE,
        "sshd-journal:337": _ELSEWHERE,
        "slapd:14": _ELSEWHERE,
        "sshd:147": _LAST,
        "sshd-journal:145": _LAST,
        "zzz-generic-example:3": _DEMO,
        "zzz-generic-example:6": _DEMO,
        "zzz-generic-example:10": _DEMO,
        "zzz-generic-example:14": _DEMO,
        "zzz-generic-example:16": _DEMO,
        "zzz-generic-example:18": _DEMO,
        "zzz-generic-example:20": _DEMO,
        "zzz-generic-example:25": _DEMO,
        "zzz-generic-example:28": _DEMO,
        "zzz-generic-example:31": _DEMO,
        "zzz-generic-example:35": _DEMO,
        "zzz-generic-example:47": _DEMO,
        "zzz-generic-example:51": _DEMO,
        "zzz-generic-example:53": _DEMO,
        "zzz-generic-example:55": _DEMO,
        "zzz-generic-example:58": _DEMO,
        "pam-generic:23": _TWO_READINGS,
        "nginx-http-auth:25": _TWICE,
    },
    "time": {
        "3proxy:2": _ZONE,
        "3proxy:4": _ZONE,
        "3proxy:6": _ZONE,
        "cowrie:4": _ZONE,
        "cowrie:24": _ZONE,
        "dovecot:2": _TAI,
        "dovecot:5": _TAI,
        "dovecot:8": _TAI,
        "dovecot:10": _TAI,
        "ejabberd-auth:9": _TIME_ELSEWHERE,
        "guacamole:4": _TIME_ELSEWHERE,
        "guacamole:8": _TIME_ELSEWHERE,
        "guacamole:12": _TIME_ELSEWHERE,
        "guacamole:17": "names a time of day and no date",
    },
    "user": {"pam-generic:23": _TWO_READINGS},
    "result": {"pam-generic:23": _TWO_READINGS},
}


def test_fail2ban_expectations(shared_data: FindData) -> None:
    counts: Counter[str] = Counter()
    misses: dict[str, set[str]] = {kind: set() for kind in FAIL2BAN_MISSES}
    rejected: Counter[str] = Counter()
    sources: set[LogSource] = set()
    for line in list_fail2ban(shared_data("linux") / "fail2ban-logs"):
        counts["lines"] += 1
        expected = line.expected if line.expected.get("match") else {}
        time = find_time(line) if expected else None
        received = RECEIVED
        if time is not None:
            received = (TODAY if time.year in (2004, 2005) else time).timestamp() + 60
        try:
            event = read(line, received)
        except DecodeError as error:
            rejected[str(error)] += 1
            continue
        sources.update(view.logsource for view in event.views)
        if time is not None:
            counts["time"] += 1
            if not event.time_known or abs(event.time - time.timestamp()) > 1.01:
                misses["time"].add(line.place)
        if host := expected.get("host"):
            counts["address"] += 1
            if host not in list_values(event, "src_ip"):
                misses["address"].add(line.place)
        if (user := expected.get("user")) is not None:
            counts["user"] += 1
            if user not in list_values(event, "user"):
                misses["user"].add(line.place)
        if expected and is_refused_login(line):
            counts["result"] += 1
            if list_values(event, "result") != {"failure"}:
                misses["result"].add(line.place)
    assert rejected == {}
    assert sources <= set(FED)
    assert {kind: counts[kind] for kind in ("lines", *misses)} == {
        "lines": 1223,
        "address": 989,
        "time": 882,
        "user": 35,
        "result": 419,
    }
    check_counts(counts, misses, FAIL2BAN_MISSES)


# --- Wazuh


def list_wazuh(folder: Path) -> Iterator[Line]:
    """Each line of the rule tests with its rule, "" where the rule is expected not to fire. The
    files test_*.ini are about the engine itself, with made-up lines."""
    for path in sorted(folder.glob("[!t]*.ini")):
        waiting: list[tuple[int, str, bytes]] = []
        rule = ""
        for number, data in enumerate(path.read_bytes().split(b"\n"), 1):
            if match := re.match(rb"log \d+ (pass|fail) = *(.*?)\r?$", data):
                waiting.append((number, match[1].decode(), match[2]))
            elif match := re.match(rb"rule\s*=\s*(\d+)", data):
                rule = match[1].decode()
            elif data.startswith(b"decoder"):
                for place, kind, text in waiting:
                    yield Line(path.name, place, text, {"rule": rule if kind == "pass" else ""})
                waiting = []


#: Rule -> the result that its groups state, and where the message has the user.
WAZUH_RULES: Final[dict[str, tuple[str, str]]] = {
    "2502": ("failure", r" user=(\S+)"),
    "5301": ("failure", r"BAD SU (\S+) to"),
    "5302": ("failure", r" from (\S+) to"),
    "5305": ("success", r"su: (\S+) to"),
    "5401": ("failure", r"sudo: +(\S+) :"),
    "5403": ("success", r"sudo: +(\S+) :"),
    "5404": ("failure", r"sudo: +(\S+) :"),
    "5405": ("failure", r"sudo: +(\S+) :"),
    "5501": ("success", r"for user (\S+)"),
    "5502": ("", r"for user (\S+)"),
    "5503": ("failure", r" user=(\S+)"),
    "5710": ("failure", r"(?:invalid|Invalid) user (\S+)"),
    "5716": ("failure", r" for (\S+) from"),
    "5756": ("", r"by user (\S+)"),
    "5758": ("failure", r" for (\S+) from"),
    "9610": ("failure", r" user (\S+)\."),
    "9702": ("failure", r" \w+\(([^,()]+),"),
    "9705": ("failure", r"(?:user=<| \w+\()([^,()>]+)[,>]"),
    "9707": ("", r"user=<([^>]+)>"),
    "9770": ("", r"user=<([^>]+)>"),
    "9771": ("failure", r" [\w-]+\(([^,()]+),"),
    "11204": ("failure", r"USER (\S+) "),
    "11206": ("failure", r"(?!)"),
    "11207": ("failure", r"(?!)"),
    "11205": ("success", r"(?:USER|ANON) (\S+):"),
    "11403": ("failure", r"\[(\S+)\] FAIL"),
    "4507": ("success", r"for admin (\S+)"),
    "13102": ("failure", r"(?!)"),
    "51554": ("failure", r" for (\S+):"),
    "51555": ("", r"doas: (\S+) ran"),
    "51556": ("", r"doas: (\S+) ran"),
    "51557": ("failure", r" for (\S+)"),
    "64004": ("", r" for user (\S+)"),
    "64005": ("", r"Uname: (\S+)|User '(\w+)', running"),
    "64007": ("failure", r'user "(\S+)"'),
    "64008": ("", r"Uname: (\S+)"),
    "64009": ("success", r'user "(\S+)"'),
    "64010": ("failure", r"(?!)"),
    "64018": ("failure", r"User = (\w+)"),
    "64019": ("success", r"User = (\w+)"),
    "64020": ("failure", r"User (\w+) locked"),
    "64025": ("", r"User '(\w+)'"),
    "64026": ("", r"User (\w+) executed"),
    "64027": ("", r"Uname: (\w+)"),
    "64251": ("failure", r" user (\S+) from"),
    "64253": ("failure", r" (?:for|user) (\S+) from"),
    "64254": ("failure", r" (?:for|user) (\S+) from"),
    "64255": ("", r"from user (\S+)"),
    "64256": ("success", r" for (\S+) from"),
    "64259": ("", r"authenticating user (\S+)"),
    "64260": ("failure", r"User (\S+) from"),
    "81805": ("failure", r"(?!)"),
    "81806": ("failure", r'DN "(.+)"'),
    "87506": ("failure", r"set_id=(\w+)"),
    "88210": ("", r'"user":"(\w+)"'),
    "88211": ("success", r'"user":"(\w+)"'),
    "88212": ("failure", r"Login failed: '(\w+)'"),
    "88213": ("", r'"user":"(\w+)"'),
    "88214": ("", r'"user":"(\w+)"'),
    "88215": ("", r'"user":"(\w+)"'),
    "88216": ("", r'"user":"(\w+)"'),
}
#: Files whose lines name addresses of no peer.
NO_PEERS: Final = frozenset({"oscap.ini"})
ADDRESS: Final = re.compile(
    r"(?<![\w.-])(?:\d{1,3}(?:\.\d{1,3}){3}(?![\w-]|\.\w|/24)|(?=[\da-f:]*::)[\da-f:]{3,39}"
    r"(?![\w.:]))"
)
#: What stands before an address that is an end of the device's own, of its server or of a network.
OWN_END: Final = re.compile(
    r"(?:fw=|lip=|server = |origin:\"|\bdst\w*\W{1,2}|\bdest\w*[ =\"-]{1,3}| to (?:\S*:)?|-> ?|"
    r"\borigin_ip\W+|Trust,)$",
    re.IGNORECASE,
)
#: Time and host, or what a file has in their place.
HEADER: Final = re.compile(
    r"(?:[A-Z][a-z]{2} {1,2}\d{1,2} [\d:]{8} |\d{4}-\d\d-\d\dT\S+ )\S+ |1 \d{4}-\S+ \S+ "
)


def find_peer(text: str) -> str | None:
    """The address that the message calls src, or its first that is not an end of the device's own,
    nor masked with zeros."""
    if match := re.search(r'\bsrc:"([\d.]+)"', text):
        return match[1]
    header = HEADER.match(text)
    for match in ADDRESS.finditer(text, header.end() if header else 0):
        try:
            masked = ipaddress.ip_address(match[0]).is_unspecified
        except ValueError:
            masked = True
        if not masked and not OWN_END.search(text[max(0, match.start() - 24) : match.start()]):
            return match[0]
    return None


_LISTED: Final = "the address of an entry in a block list, not of a peer"
_COLUMNS: Final = "IIS columns without the header line that names them"
_MASKED: Final = "the address is masked with letters, which none has"
WAZUH_MISSES: Final[dict[str, dict[str, str]]] = {
    "address": {
        "cisco_asa.ini:41": "names the source by a name",
        "cisco_asa.ini:80": _LISTED,
        "cisco_asa.ini:81": _LISTED,
        "mcafee_epo.ini:2": "an XML document in the message, which is not read",
        "nextcloud.ini:16": "a proxy's address comes first; the client's, in the message, is taken",
        "web_rules.ini:2": _COLUMNS,
        "web_rules.ini:14": _COLUMNS,
        "web_rules.ini:20": _COLUMNS,
        "web_rules.ini:26": _COLUMNS,
    },
    "user": {"proftpd.ini:10": _MASKED},
    "result": {
        "netscreen.ini:16": "the rule says success, the message that the session has timed out",
        "proftpd.ini:10": _MASKED,
        "sshd.ini:97": "the rule says failure, sshd that it has not decided yet",
    },
}


def test_wazuh_expectations(shared_data: FindData) -> None:
    counts: Counter[str] = Counter()
    misses: dict[str, set[str]] = {kind: set() for kind in WAZUH_MISSES}
    rejected: Counter[str] = Counter()
    for line in list_wazuh(shared_data("linux") / "wazuh-ruleset"):
        counts["lines"] += 1
        try:
            event = read(line)
        except DecodeError as error:
            rejected[str(error)] += 1
            continue
        text = line.data.decode("utf-8", "replace")
        if not line.expected["rule"]:
            continue
        peer = None if line.file in NO_PEERS else find_peer(text)
        if peer is not None:
            counts["address"] += 1
            if peer not in list_values(event, "src_ip"):
                misses["address"].add(line.place)
        result, user = WAZUH_RULES.get(line.expected["rule"], ("", r"(?!)"))
        if match := re.search(user, text):
            counts["user"] += 1
            if not set(match.groups()) & list_values(event, "user"):
                misses["user"].add(line.place)
        if result:
            counts["result"] += 1
            if list_values(event, "result") != {result}:
                misses["result"].add(line.place)
    assert rejected == {}
    assert {kind: counts[kind] for kind in ("lines", *misses)} == {
        "lines": 407,
        "address": 218,
        "user": 78,
        "result": 63,
    }
    check_counts(counts, misses, WAZUH_MISSES)


# --- every line of the sets


def list_lines(folder: Path) -> Iterator[Line]:
    for path in sorted(path for path in folder.glob("**/*") if path.is_file()):
        # Tables and texts about the logs are no logs.
        if path.suffix in (".csv", ".md") or path.name == "LICENSE":
            continue
        for number, data in enumerate(path.read_bytes().split(b"\n"), 1):
            if data.strip():
                yield Line(path.name, number, data.rstrip(b"\r"), {})


def test_every_line_of_the_sets_decodes(shared_data: FindData) -> None:
    counts: Counter[str] = Counter()
    rejected: Counter[tuple[str, str]] = Counter()
    folder = shared_data("linux")
    for name in ("loghub", "cowrie", "gtkcyber", "fail2ban-logs", "wazuh-ruleset"):
        for line in list_lines(folder / name):
            counts[name] += 1
            try:
                event = read(line)
            except DecodeError as error:
                rejected[name, str(error)] += 1
                continue
            assert event.views
    assert dict(counts) == {
        "loghub": 28_000,
        "cowrie": 15_530,
        "gtkcyber": 10_567,
        "fail2ban-logs": 2_724,
        "wazuh-ruleset": 2_646,
    }
    assert dict(rejected) == {}
