"""Second station of the line, format `auditd`: the records of one Linux audit event.

One line or several lines of the same event (the source joins them), or the message of a syslog
line of the kernel, auditd or its dispatcher. Form (Linux audit userspace project, auditd(8) and the
"Audit event fields" documentation): `type=T msg=audit(seconds.millis:serial): name=value ...`,
programs' own text in `msg='...'`, and with `log_format = ENRICHED` the translations behind a 0x1d.

Fields: id (`1364481363.243:24287`), timestamp (its seconds), node where given, and `records`: a
list of one object a record, in their order, each with `type` and the record's own names. Text that
was written as hexadecimal digits, because it held a space, a quote or a control character, is
decoded; EXECVE's arguments, also those in pieces or over several records, are the list `argv` of
one record; so are those of PROCTITLE. `key` is a list where there are several.

What an unprivileged user chose can stand in every text. The kernel encodes it, so it can't end its
own quotes; programs did not always. In `msg='...'` the names that programs write behind the user's
text (exe, hostname, addr, terminal, res) are therefore the last ones of that name, all others the
first ones, and none replaces what the kernel itself put before `msg=`.
"""

import re
from itertools import islice
from typing import Any, Final

from appliance.decode.audit_types import TYPES
from appliance.decode.utf8 import escape_bytes, has_bad_bytes, read_text, strip_frame
from appliance.errors import DecodeError
from appliance.schema import Decoded, RawRecord

_ID: Final = r"audit\((?P<id>(?P<time>\d{1,12}(?:\.\d{1,9})?):\d{1,20})\)(?:: ?| |$)"
_HEAD: Final = re.compile(
    rf"(?:node=(?P<node>\S{{1,255}}) )?type=(?P<type>[A-Z0-9_]{{1,40}}(?:\[\d{{1,5}}\])?) msg={_ID}"
)
#: The kernel's own message, with the time since boot that printk may put before it.
_PRINTK: Final = re.compile(
    rf"(?:\[ {{0,8}}\d{{1,10}}\.\d{{1,9}}\] )?(?:audit: )?type ?=(?P<type>\d{{4}}) {_ID}"
)
#: The journal's audit messages leave out the id: `USER_LOGIN pid=1 uid=0 ... msg='...'`.
_JOURNAL: Final = re.compile(r"(?P<type>[A-Z][A-Z0-9_]{2,39}) (?=[a-z][a-z0-9_-]{0,31}=)")

#: Programs that pass records on to syslog: the kernel itself, auditd, and its dispatchers.
PROGRAMS: Final = frozenset({"kernel", "auditd", "audispd", "audisp-syslog", "audisp-remote"})

#: Name and value. A name begins a word; a value ends at white space outside quotes and braces.
_PAIR: Final = re.compile(
    r'(?<![^\s\'(,:])([A-Za-z_][A-Za-z0-9_\[\]-]{0,39}+)=("[^"]*+"|\{[^{}]{0,512}+\}|\S*+)'
)
_AVC: Final = re.compile(r"avc: {1,4}(denied|granted) {1,4}\{ ([^{}]{0,256}?) ?\} for ")
_ARGUMENT: Final = re.compile(r"a(\d{1,6})(?:\[(\d{1,6})\]|(_len))?")
_UNKNOWN: Final = re.compile(r"UNKNOWN\[(\d{1,5})\]")
_DIGITS: Final = re.compile(r"(?:[0-9A-Fa-f]{2})++")
_LOWER: Final = frozenset("abcdef")
#: rsyslog writes the 0x1d before the translations as an octal escape.
_SEPARATOR: Final = re.compile(r"\x1d|#035(?=[A-Z])")

#: Names whose values the kernel and libaudit write in quotes, or as hexadecimal digits.
_ENCODED: Final = frozenset(
    {"acct", "cgroup", "cmd", "comm", "cwd", "data", "device", "dir", "exe", "file", "grp", "key"}
    | {"invalid_context", "name", "new-disk", "new_group", "ocomm", "old-disk", "path", "proctitle"}
    | {"profile", "root_dir", "sw", "vm", "watch"}
)
#: Where plain text without quotes occurs too: only digits as libaudit writes them are decoded.
_SOMETIMES_PLAIN: Final = frozenset({"acct", "grp", "vm", "device", "path", "name", "profile"})
#: What programs write behind the user's text.
_TRAILING: Final = frozenset({"exe", "hostname", "addr", "terminal", "res"})
_ABSENT: Final = frozenset({"(null)"})
#: Names of RHEL 5 with a space in them.
_SPACED: Final = (("old auid=", "old-auid="), ("new auid=", "auid="), ("old ses=", "old-ses="))


def is_auditd(text: str) -> bool:
    """True for text that begins as an audit record does."""
    return text.startswith(("type=", "node=")) and _HEAD.match(text) is not None


def is_audit_message(message: str) -> bool:
    """True for a syslog message that holds an audit record with its id."""
    return _HEAD.match(message) is not None or _PRINTK.match(message) is not None


def is_journal_message(message: str) -> bool:
    """True for a message of the journal's audit transport, which holds no id."""
    return is_audit_message(message) or _JOURNAL.match(message) is not None


def decode_auditd(record: RawRecord) -> Decoded:
    """Read the lines of one audit event. Raises DecodeError when the first is no audit record, or
    another one is none or one of another event."""
    text = read_text(strip_frame(record.data))
    repaired = has_bad_bytes(text)
    fields = _read_event(text.split("\n"))
    return Decoded("auditd", _escape(fields) if repaired else fields, repaired)


def read_auditd(message: str) -> dict[str, Any]:
    """Read one record out of a syslog message. Raises DecodeError when it is none."""
    head = _HEAD.match(message) or _PRINTK.match(message) or _JOURNAL.match(message)
    if head is None:
        raise DecodeError("not an audit record")
    found = head.groupdict()
    event = _begin_event(found)
    event["records"] = _join_arguments([_read_record(found["type"], message[head.end() :])])
    return event


def _begin_event(head: dict[str, str | None]) -> dict[str, Any]:
    event: dict[str, Any] = {}
    for name, source in (("id", "id"), ("timestamp", "time"), ("node", "node")):
        if value := head.get(source):
            event[name] = value
    return event


def _read_event(lines: list[str]) -> dict[str, Any]:
    event: dict[str, Any] = {}
    records: list[dict[str, Any]] = []
    place: tuple[str | None, ...] = ()
    for line in lines:
        head = _HEAD.match(line)
        if head is None:
            if line.strip():
                raise DecodeError("not an audit record")
            continue
        node, kind, identity, _ = head.groups()
        if not event:
            event = _begin_event(head.groupdict())
            place = (node, identity)
        elif (node, identity) != place:
            raise DecodeError("records of different audit events")
        body = line[head.end() :]
        if kind != "EOE" or body.strip():
            records.append(_read_record(kind, body))
    if not event:
        raise DecodeError("not an audit record")
    event["records"] = _join_arguments(records) or [{"type": "EOE"}]
    return event


def _escape(value: Any) -> Any:
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, list):
        return [_escape(child) for child in value]
    if isinstance(value, dict):
        return {name: _escape(child) for name, child in value.items()}
    return value


def _read_record(kind: str, body: str) -> dict[str, Any]:
    """One record's fields, of its text behind the id."""
    if kind.isdecimal():
        kind = TYPES.get(kind, f"UNKNOWN[{kind}]")
    elif kind[-1] == "]" and (unknown := _UNKNOWN.fullmatch(kind)):
        kind = TYPES.get(unknown[1], kind)
    record: dict[str, Any] = {"type": kind}
    body, translated = _split_translated(body)
    start = body.find("msg='")
    if start >= 0:
        _put_pairs(record, body[:start], kind)
        end = body.rfind("'")
        _put_message(record, body[start + 5 : end if end > start + 4 else len(body)], kind)
        if end > start + 4:
            _put_pairs(record, body[end + 1 :], kind)
    else:
        if kind == "LOGIN":
            for spaced, name in _SPACED:
                body = body.replace(spaced, name)
        _put_pairs(record, body, kind)
        if kind == "AVC":
            _put_avc(record, body)
    if translated:
        for name, value in _PAIR.findall(translated):
            if name.upper() == name:
                record.setdefault(name, value.strip('"'))
    return record


def _split_translated(body: str) -> tuple[str, str]:
    """The record's own text, and auditd's translations behind it. Inside quotes the separator is
    text that somebody chose."""
    if "\x1d" in body or "#035" in body:
        for match in islice(_SEPARATOR.finditer(body), 16):
            if body.count('"', 0, match.start()) % 2 == 0:
                return body[: match.start()], body[match.end() :]
    return body, ""


def _put_pairs(record: dict[str, Any], text: str, kind: str) -> None:
    """Add the names and values; the first of a name counts."""
    plain = kind != "EXECVE"
    for name, value in _PAIR.findall(text):
        if name in record:
            continue
        if plain and name not in _ENCODED and value[:1] not in '"(':  # most values, so at once
            record[name] = value
        else:
            record[name] = _read_value(name, value, kind)


def _put_message(record: dict[str, Any], text: str, kind: str) -> None:
    """Add what a program wrote into `msg='...'`; see the top for which of two values counts."""
    own: dict[str, str] = {}
    bracketed = "(hostname=" in text
    for name, value in _PAIR.findall(text):
        if name not in own or name in _TRAILING:
            own[name] = value.rstrip(",)") if bracketed and name in _TRAILING else value
    for name, value in own.items():
        if name not in record:
            record[name] = _read_value(name, value, kind)
    words = text[: text.find("=")].rpartition(" ")[0].strip(" :") if "=" in text else text
    if words and "op" not in record and "avc:" not in words:
        record["op"] = words[:256]
    if "avc:" in text:
        _put_avc(record, text)


def _put_avc(record: dict[str, Any], text: str) -> None:
    if match := _AVC.search(text[:512]):
        record.setdefault("seresult", match[1])
        record.setdefault("seperms", match[2])


def _read_value(name: str, value: str, kind: str) -> Any:
    if value[:1] == '"':
        return value[1:-1] if len(value) > 1 and value[-1] == '"' else value[1:]
    if value in _ABSENT:
        return None
    if kind == "EXECVE":
        is_argument = name[0] == "a" and (name[1:].isdecimal() or name[-1] == "]")
        return _decode_raw(value) if is_argument else value  # a piece may end within a character
    if name not in _ENCODED or (name in _SOMETIMES_PLAIN and not _LOWER.isdisjoint(value)):
        return value
    return _read_encoded(name, value, kind)


def _read_encoded(name: str, value: str, kind: str) -> Any:
    if name == "data" and kind not in ("TTY", "USER_TTY"):
        return value
    # One real kernel (Ubuntu 17.10) put a quote behind the digits of a key.
    text = _clean(_decode_raw(value.removesuffix('"')))
    if name == "proctitle" and "\0" in text:
        return text.rstrip("\0").split("\0")
    return text.split("\x01") if name == "key" and "\x01" in text else text


def _decode_raw(value: str) -> str:
    """The text that the hexadecimal digits stand for, with bad bytes as surrogates; the value
    itself when they are none."""
    if not _DIGITS.fullmatch(value):
        return value
    return bytes.fromhex(value).decode("utf-8", "surrogateescape")


def _clean(text: str) -> str:
    return escape_bytes(text) if has_bad_bytes(text) else text


def _join_arguments(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records with EXECVE's arguments as one list `argv`, in one record, and PROCTITLE's too.
    An argument over 8 kB comes in pieces (`a1[0]`, `a1[1]`), an event's may come in several records
    (kernel/auditsc.c, audit_log_execve_info)."""
    joined: list[dict[str, Any]] = []
    execve: dict[str, Any] | None = None
    arguments: dict[int, list[str]] = {}
    for record in records:
        if record["type"] == "PROCTITLE" and "proctitle" in record:
            title = record.pop("proctitle")
            record["argv"] = title if isinstance(title, list) else [title or ""]
        if record["type"] != "EXECVE":
            joined.append(record)
            continue
        if execve is None:
            execve = {}
            joined.append(execve)
        for name, value in record.items():
            match = _ARGUMENT.fullmatch(name)
            if match is None:
                execve.setdefault(name, value)
            elif match[3] is None:
                arguments.setdefault(int(match[1]), []).append(value or "")
    if execve is not None:
        execve["argv"] = [_join_pieces(pieces) for _, pieces in sorted(arguments.items())]
    return joined


def _join_pieces(pieces: list[str]) -> str:
    text = "".join(pieces)
    if len(pieces) > 1 and has_bad_bytes(text):  # one may begin with the end of a character
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    return _clean(text)
