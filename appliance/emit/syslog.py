"""On the way out, before the syslog transports: one outbox message as one RFC 5424 message.

The format is RFC 5424, section 6: `<PRI>1 TIMESTAMP HOSTNAME APP-NAME PROCID MSGID [SD] MSG`. What
a machine needs is in one structured data element, `finding@N`, `incident@N`, `heartbeat@N` or
`test@N`; MSG is a sentence for people. Both carry the id to de-duplicate by.

Nothing that a log says can leave its quotation: controls, line separators, bidirectional controls
and lone surrogates are made visible first, then quotes, backslashes and brackets are escaped
(section 6.3.3). In lists joined by commas, a comma inside an entry is shown as `\\x2c`.

A local daemon behind `/dev/log` may expect the older RFC 3164 format there and show the header as
text; it then still gets the priority right, and every value.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from appliance.emit.render import render_time
from appliance.emit.text import show_hidden
from appliance.schema import Message, MessageKind

#: RFC 5424, section 6.2.1, table 1, under the names of syslog.h.
FACILITIES: Final[dict[str, int]] = {
    "kern": 0,
    "user": 1,
    "mail": 2,
    "daemon": 3,
    "auth": 4,
    "syslog": 5,
    "lpr": 6,
    "news": 7,
    "uucp": 8,
    "cron": 9,
    "authpriv": 10,
    "ftp": 11,
    "ntp": 12,
    "audit": 13,
    "alert": 14,
    "clock": 15,
    **{f"local{number}": 16 + number for number in range(8)},
}
#: Findings go to a facility for local use: in auth or authpriv they would stand among the login
#: records that the same collector judges. Which of the eight is a habit and nothing more; a site
#: where other programs log to local4 names another.
DEFAULT_FACILITY: Final = "local4"

#: RFC 5424, section 6.2.1, table 2: 2 critical, 3 error, 4 warning, 5 notice, 6 informational.
#: 0 and 1 (emergency, alert) stay unused: many daemons write them to every terminal.
SEVERITIES: Final[dict[str, int]] = {
    "critical": 2,
    "high": 3,
    "medium": 4,
    "low": 5,
    "informational": 6,
}
#: For a level nobody knows: seen by people, without claiming to be an error.
UNKNOWN_SEVERITY: Final = 4

APP_NAME: Final = "appliance"
MESSAGE_IDS: Final[dict[MessageKind, str]] = {
    "finding": "FINDING",
    "update": "UPDATE",
    "incident": "INCIDENT",
    "heartbeat": "HEARTBEAT",
    "audit": "AUDIT",
    "test": "TEST",
}
#: The structured data element of a kind (RFC 5424, section 6.3.2: at most 32 characters with the
#: enterprise number).
ELEMENTS: Final[dict[MessageKind, str]] = {
    "finding": "finding",
    "update": "finding",
    "incident": "incident",
    "heartbeat": "heartbeat",
    "audit": "audit",
    "test": "test",
}
#: How the sentence of a kind begins, before the id.
_OPENINGS: Final[dict[MessageKind, str]] = {
    "finding": "Finding ",
    "update": "Update of finding ",
    "incident": "Incident ",
    "heartbeat": "Heartbeat ",
    "audit": "Audit entry ",
    "test": "Test message ",
}
#: Reserved for documentation (RFC 5612); an operator who has an enterprise number puts it here.
DEFAULT_ENTERPRISE: Final = "32473"

#: Every receiver takes 480 bytes (RFC 5424, section 6.1); 2048 is what it should take, and what
#: it should take in a datagram (RFC 5426, section 3.2); 8192 is what common receivers do take.
SMALLEST_LIMIT: Final = 480
DATAGRAM_BYTES: Final = 2048
STREAM_BYTES: Final = 8192
LARGEST_LIMIT: Final = 1024 * 1024

#: Bytes that a value keeps before a less important one is left out altogether.
LEAST_VALUE: Final = 16
#: Most parameters of a heartbeat: one for each total that its body gives.
MOST_TOTALS: Final = 64
CUT_MARK: Final = b"..."
#: RFC 5424, section 6.4: a MSG in UTF-8 starts with it. A MSG in ASCII needs none.
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"

MAX_HOSTNAME: Final = 255
MAX_PROCID: Final = 128
MAX_SD_ID: Final = 32
#: Length of the ids made by `appliance.schema.digest`.
ID_LENGTH: Final = 32

#: A parameter's name (RFC 5424, section 6.3.3): PRINTUSASCII without `=`, blank, `]` and `"`.
_PARAMETER: Final = re.compile(r"[!#-<>-\[\^-~]{1,32}")
_NOT_PRINTABLE: Final = re.compile(r"[^\x21-\x7e]")
_SD_SPECIAL: Final = re.compile(r'(["\\\]])')


@dataclass(frozen=True, slots=True)
class SyslogProfile:
    """What one syslog output says of itself. `hostname` is the appliance's own name, `procid` its
    process id or "-", `enterprise` the private enterprise number of the data elements,
    `max_bytes` the longest message in bytes without framing.

    Raises ValueError, with a reason for the operator, for an unknown facility, a number that is
    none, or a limit into which not even header and id fit.
    """

    hostname: str
    facility: str = DEFAULT_FACILITY
    procid: str = "-"
    enterprise: str = DEFAULT_ENTERPRISE
    max_bytes: int = STREAM_BYTES

    def __post_init__(self) -> None:
        if self.facility not in FACILITIES:
            known = ", ".join(FACILITIES)
            raise ValueError(f"facility {self.facility!r} is unknown; known are {known}")
        if not re.fullmatch(r"[0-9]+(\.[0-9]+)*", self.enterprise, re.ASCII):
            raise ValueError(f"enterprise {self.enterprise!r} is no enterprise number")
        if any(len(f"{name}@{self.enterprise}") > MAX_SD_ID for name in ELEMENTS.values()):
            raise ValueError(f"enterprise {self.enterprise!r} is too long")
        if not SMALLEST_LIMIT <= self.max_bytes <= LARGEST_LIMIT:
            raise ValueError(f"max_bytes must be {SMALLEST_LIMIT} to {LARGEST_LIMIT}")
        needed = max(_measure_frame(kind, self) for kind in MESSAGE_IDS)
        if needed > self.max_bytes:
            raise ValueError(f"max_bytes must be at least {needed} for this host name and procid")


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of the message that may be shortened: only the text between opening and closing."""

    opening: bytes
    text: str
    closing: bytes
    in_data: bool

    def write(self) -> bytes:
        return _encode_text(self.text, self.in_data)

    def write_cut(self, limit: int) -> bytes:
        """The text in at most `limit` bytes, cut between characters and never in an escape."""
        whole = self.write()
        if len(whole) <= limit:
            return whole
        kept: list[bytes] = []
        room = limit - len(CUT_MARK)
        for character in self.text:
            token = _encode_text(character, self.in_data)
            room -= len(token)
            if room < 0:
                break
            kept.append(token)
        return b"".join(kept) + CUT_MARK


def format_syslog(message: Message, profile: SyslogProfile) -> bytes:
    """The message as RFC 5424 bytes, at most `profile.max_bytes` long, without framing.

    TIMESTAMP is the message's own time, `-` when it is no calendar time; the event's own time is
    the parameter `time`. When the values do not fit, the longest are cut first, at a character
    and marked `...`; then the least important are left out; the id is never cut. (An id longer
    than those of this appliance can lengthen the message beyond the limit.) No byte of the
    result is below 0x20. Raises nothing, whatever the body holds.
    """
    values, sentence = _DESCRIBE[message.kind](message.body)
    parts = [
        _Part(f' {name}="'.encode(), text[: profile.max_bytes], b'"', True)
        for name, text in values
        if text
    ]
    tail = _Part(b": ", sentence[: profile.max_bytes], b"", False)
    severity = _rate_message(message)
    stamp = render_time(message.time) or "-"
    opening, data_end, closing = _write_frame(message.kind, message.id, stamp, severity, profile)
    fixed = len(opening) + len(data_end) + len(b" ") + len(BYTE_ORDER_MARK) + len(closing)
    room = profile.max_bytes - fixed
    # The sentence repeats what the data says, so it is the first to be left out.
    fitted = _fit_parts([*parts, tail], room)
    data = b"".join(text for part, text in fitted if part.in_data)
    spoken = closing + b"".join(text for part, text in fitted if not part.in_data)
    mark = b"" if spoken.isascii() else BYTE_ORDER_MARK
    return opening + data + data_end + b" " + mark + spoken


def _fit_parts(parts: list[_Part], room: int) -> list[tuple[_Part, bytes]]:
    """As many leading parts as fit into `room` bytes, the longest texts cut to one length."""
    lengths = [len(part.write()) for part in parts]
    fixed = [len(part.opening) + len(part.closing) for part in parts]
    count = len(parts)

    def cost(limit: int) -> int:
        return sum(fixed[:count]) + sum(min(length, limit) for length in lengths[:count])

    while count and cost(LEAST_VALUE) > room:
        count -= 1
    low, high = LEAST_VALUE, max([LEAST_VALUE, *lengths])
    while low < high:  # the greatest limit that fits; costs grow with the limit
        middle = (low + high + 1) // 2
        if cost(middle) <= room:
            low = middle
        else:
            high = middle - 1
    return [(part, part.opening + part.write_cut(low) + part.closing) for part in parts[:count]]


def _write_frame(
    kind: MessageKind, identifier: str, stamp: str, severity: int, profile: SyslogProfile
) -> tuple[bytes, bytes, bytes]:
    """What is never cut: all up to the id's parameter, the end of the data, the start of MSG."""
    header = (
        f"<{FACILITIES[profile.facility] * 8 + severity}>1 {stamp}"
        f" {clean_header(profile.hostname, MAX_HOSTNAME)} {APP_NAME}"
        f" {clean_header(profile.procid, MAX_PROCID)} {MESSAGE_IDS[kind]} "
    )
    opening = f'{header}[{ELEMENTS[kind]}@{profile.enterprise} id="'.encode()
    spoken = _encode_text(_OPENINGS[kind] + identifier, in_data=False)
    return opening + _encode_text(identifier, in_data=True) + b'"', b"]", spoken


def _measure_frame(kind: MessageKind, profile: SyslogProfile) -> int:
    """Bytes of the shortest message of this kind."""
    stamp = "0001-01-01T00:00:00.000000Z"
    frame = _write_frame(kind, "0" * ID_LENGTH, stamp, SEVERITIES["low"], profile)
    return sum(map(len, frame)) + len(b" ") + len(BYTE_ORDER_MARK)


def clean_header(text: str, limit: int) -> str:
    """A header field: PRINTUSASCII (RFC 5424, section 6: 33 to 126) in at most `limit`
    characters, anything else as `_`; `-` (NILVALUE) for an empty text."""
    return _NOT_PRINTABLE.sub("_", text[:limit]) or "-"


def _encode_text(text: str, in_data: bool) -> bytes:
    """UTF-8 with everything hidden made visible; in data also escaped as section 6.3.3 asks."""
    shown = show_hidden(text)
    return (_SD_SPECIAL.sub(r"\\\1", shown) if in_data else shown).encode()


def _describe_finding(body: dict[str, Any]) -> tuple[list[tuple[str, str]], str]:
    """Parameters, most important first, and the end of the sentence."""
    citations = [entry.get("id") for entry in _entries(body, "citations")]
    values = [
        ("level", _text(body.get("level"))),
        ("title", _text(body.get("title"))),
        ("rule", _text(body.get("rule_id"))),
        ("host", _text(body.get("host"))),
        ("time", _text(body.get("time"))),
        ("incident", _text(body.get("incident"))),
        ("verdict", _text(body.get("verdict"))),
        ("score", _text(body.get("score"))),
        ("technique", _join(body.get("techniques"))),
        ("tactic", _join(body.get("tactics"))),
        ("citation", _join(citations)),
    ]
    host = _text(body.get("host")) or "an unknown host"
    level, title = _text(body.get("level")), _text(body.get("title"))
    return values, f"{level}, on {host}, verdict {_text(body.get('verdict'))}: {title}"


def _describe_incident(body: dict[str, Any]) -> tuple[list[tuple[str, str]], str]:
    """Parameters, most important first, and the end of the sentence."""
    count = _text(body.get("count"))
    values = [
        ("level", _text(body.get("level"))),
        ("status", _text(body.get("status"))),
        ("findings", count),
        ("first", _text(body.get("first_seen"))),
        ("last", _text(body.get("last_seen"))),
        ("title", _text(body.get("title"))),
        ("hosts", _join(body.get("hosts"))),
        ("tactics", _join(body.get("tactics"))),
        ("aliases", _join(body.get("aliases"))),
    ]
    case = body.get("case")
    if isinstance(case, dict):  # what an operator made of it
        told = [(name, _text(case.get(name))) for name in ("closing", "assignee", "note")]
        places = [("case", _text(case.get("status"))), *((n, v) for n, v in told if v)]
        values[2:2] = places[:2]
        values += places[2:]
    for name in ("merged_into", "split_from"):
        if body.get(name):
            values.insert(2, (name, _text(body.get(name))))
    level, status = _text(body.get("level")), _text(body.get("status"))
    return values, f"{level}, {status}, findings {count}: {_text(body.get('title'))}"


def _describe_heartbeat(body: dict[str, Any]) -> tuple[list[tuple[str, str]], str]:
    """`healthy`, then everything else that the body gives, in its order; the sentence says whether
    all is well and, where it is not, the body's `trouble`."""
    told = [("healthy", _text(body.get("healthy")))]
    for name, value in body.items():
        if name in ("kind", "id", "time", "healthy") or len(told) >= MOST_TOTALS:
            continue
        if _PARAMETER.fullmatch(name):
            told.append((name, _join(value)))
    well = "all is well" if body.get("healthy") is True else "NOT healthy"
    trouble = _text(body.get("trouble"))
    return told, f"{well}{f': {trouble}' if trouble else ''}"


def _describe_test(body: dict[str, Any]) -> tuple[list[tuple[str, str]], str]:
    """The operator's own message: what it says, and when it was asked for."""
    text = _text(body.get("text"))
    return [("time", _text(body.get("time"))), ("text", text)], text


def _describe_audit(body: dict[str, Any]) -> tuple[list[tuple[str, str]], str]:
    """An entry of the audit log: its hash first, which vouches for all entries up to it."""
    names = ("number", "hash", "actor", "action", "subject", "time")
    values = [(name, _text(body.get(name))) for name in names]
    number, actor = _text(body.get("number")), _text(body.get("actor"))
    return values, f"number {number}, {actor}: {_text(body.get('action'))}"


#: How each kind's body becomes parameters and the end of the sentence.
_DESCRIBE: Final = {
    "finding": _describe_finding,
    "update": _describe_finding,
    "incident": _describe_incident,
    "heartbeat": _describe_heartbeat,
    "audit": _describe_audit,
    "test": _describe_test,
}


def _rate_message(message: Message) -> int:
    """Severity: a finding's level; a heartbeat is informational, or a warning when all is not
    well; a test and an audit entry are notices, which a receiver surely keeps."""
    if message.kind in ("test", "audit"):
        return SEVERITIES["low"]
    if message.kind == "heartbeat":
        well = message.body.get("healthy") is True
        return SEVERITIES["informational" if well else "medium"]
    return SEVERITIES.get(_text(message.body.get("level")), UNKNOWN_SEVERITY)


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, int):
        return hex(value) if value.bit_length() > 64 else str(value)
    return str(value)


def _join(values: object) -> str:
    """A list as one value. Repeated parameters are allowed (section 6.3.3), but many receivers
    keep only the last of them."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        return _text(values)
    return ",".join(_text(value).replace(",", "\\x2c") for value in values)


def _entries(body: dict[str, Any], key: str) -> list[dict[str, Any]]:
    entries = body.get(key)
    found = entries if isinstance(entries, list) else []
    return [entry for entry in found if isinstance(entry, dict)]
