"""Second station of the line, formats `unbound` and `dnsmasq`: two resolvers' query logs.

Unbound (unbound.conf(5): log-queries, log-replies, log-tag-queryreply, log-local-actions,
log-servfail, RPZ's rpz-log), in its own file and inside syslog:

    [1700000000] unbound[1234:0] info: 192.0.2.1 example.com. A IN NOERROR 0.012 0 54

dnsmasq (dnsmasq(8): log-queries, also =extra), which logs by syslog or to a file with syslog's
header, so that it has no file format of its own:

    query[A] example.com from 192.0.2.1

Fields: timestamp (text), pid, thread, severity, message, and of that: action (query, reply, local,
failed; dnsmasq's own words query, forwarded, reply, cached, config, hosts...), address, port, name,
type, class, rcode, seconds, cached, bytes, zone, policy, answer, server, reason. A name is the only
part that a client chooses: Unbound writes it as one word; in dnsmasq's it may hold blanks, and the
address is the last one.
"""

import re
from typing import Any, Final

from appliance.decode.utf8 import escape_bytes, has_bad_bytes, read_text, strip_frame
from appliance.errors import DecodeError
from appliance.schema import Decoded, RawRecord

_NAME: Final = r"\S{1,1100}"
_WORD: Final = r"[A-Z0-9_-]{1,24}"
_ADDRESS: Final = r"(?P<address>[0-9a-fA-F.:]{2,45})"
_SEVERITY: Final = r"(?P<severity>debug|info|notice|warning|error|fatal error|query|reply)"
_FILE: Final = re.compile(
    r"(?:\[(?P<timestamp>\d{9,10})\]|(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?\S{0,6}))"
    rf" \S{{0,64}}?unbound\[(?P<pid>\d{{1,10}}):(?P<thread>[0-9a-f]{{1,8}})\] {_SEVERITY}: "
)
_SYSLOG: Final = re.compile(
    rf"(?:\[(?P<pid>\d{{1,10}}):(?P<thread>[0-9a-f]{{1,8}})\] )?{_SEVERITY}: "
)
_QUESTION: Final = rf"(?P<name>{_NAME}) (?P<type>{_WORD}) (?P<class>{_WORD})"
_FORMS: Final = tuple(
    (action, re.compile(form))
    for action, form in (
        (
            "reply",
            rf"{_ADDRESS} {_QUESTION} (?P<rcode>{_WORD}) (?P<seconds>\d{{1,6}}\.\d{{1,9}})"
            r" (?P<cached>[01]) (?P<bytes>\d{1,6})(?: .{0,128})?$",
        ),
        ("query", rf"{_ADDRESS} {_QUESTION}\s*$"),
        (
            "rpz",
            rf"rpz: applied (?:\[(?P<zone>[^\]]{{1,256}})\] )?(?P<trigger>{_NAME})"
            rf" (?P<policy>[a-z-]{{1,32}}) {_ADDRESS}@(?P<port>\d{{1,5}}) {_QUESTION}\s*$",
        ),
        (
            "local",
            rf"(?P<zone>{_NAME}) (?P<policy>[a-z_]{{1,32}})"
            rf" {_ADDRESS}@(?P<port>\d{{1,5}}) {_QUESTION}\s*$",
        ),
        (
            "failed",
            rf"(?P<rcode>SERVFAIL|validation failure) <{_QUESTION}>:? ?(?P<reason>.{{0,512}})$",
        ),
    )
)  # fmt: skip
#: log-queries=extra puts a serial number and the client before each line.
_EXTRA: Final = re.compile(
    rf"\d{{1,10}} {_ADDRESS}/(?P<port>\d{{1,5}}) (?=[a-z/*])"
)  # fmt: skip
_DNSMASQ: Final = tuple(
    (start, re.compile(form))
    for start, form in (
        (
            "query[",
            r"(?P<action>query)\[(?P<type>[\w=-]{1,24})\] (?P<name>.{1,1100})"
            r" from (?P<from>[0-9a-fA-F.:]{2,45})(?:%\S{1,32})?$",
        ),
        (
            "forwarded ",
            r"(?P<action>forwarded) (?P<name>.{1,1100})"
            r" to (?P<server>[0-9a-fA-F.:]{2,45})(?:[#%]\S{1,32})?$",
        ),
        ("reply ", r"(?P<action>reply) (?P<name>.{1,1100}?) is (?P<answer>.*)$"),
        ("cached ", r"(?P<action>cached)(?:-stale)? (?P<name>.{1,1100}?) is (?P<answer>.*)$"),
        ("config ", r"(?P<action>config) (?P<name>.{1,1100}?) is (?P<answer>.*)$"),
        ("/", r"(?P<action>hosts|(?P<file>/\S{1,512})) (?P<name>.{1,1100}?) is (?P<answer>.*)$"),
    )
)  # fmt: skip
_MAX_PARSED: Final = 4096


def is_unbound(text: str) -> bool:
    """True for a line of Unbound's own log file: time, `unbound[pid:thread]`, severity."""
    return text[:1] in "[2" and _FILE.match(text) is not None


def decode_unbound(record: RawRecord) -> Decoded:
    """Read the record as a line of Unbound's log file. Raises DecodeError when it is none."""
    text = read_text(strip_frame(record.data))
    if repaired := has_bad_bytes(text):
        text = escape_bytes(text)
    head = _FILE.match(text)
    if head is None:
        raise DecodeError("no line of Unbound's log: [seconds] unbound[pid:thread] severity: ...")
    fields = {name: value for name, value in head.groupdict().items() if value}
    if time := fields.pop("time", None):
        fields["timestamp"] = time
    _put_message(fields, text[head.end() :])
    return Decoded("unbound", fields, repaired)


def is_unbound_message(message: str) -> bool:
    """True for a message of the program unbound with its severity."""
    return _SYSLOG.match(message) is not None


def read_unbound(message: str) -> dict[str, Any]:
    """The parts of a syslog message of the program unbound that is about a query. Raises
    DecodeError for another."""
    head = _SYSLOG.match(message)
    if head is None:
        raise DecodeError("no message of Unbound")
    fields = {name: value for name, value in head.groupdict().items() if value}
    _put_message(fields, message[head.end() :])
    if "name" not in fields:
        raise DecodeError("no query")
    return fields


def _put_message(fields: dict[str, Any], body: str) -> None:
    fields["message"] = body
    for action, form in _FORMS:
        if found := form.match(body[:_MAX_PARSED]):
            fields["action"] = action
            fields.update((name, value) for name, value in found.groupdict().items() if value)
            return


def is_dnsmasq(message: str) -> bool:
    """True for a message of the program dnsmasq that begins as one about a query does."""
    if message[:1].isdecimal():
        return _EXTRA.match(message) is not None
    return message.startswith(tuple(start for start, _ in _DNSMASQ))


def read_dnsmasq(message: str) -> dict[str, Any]:
    """The parts of a message of dnsmasq about a query. Raises DecodeError for another."""
    fields: dict[str, Any] = {"message": message}
    body = message[:_MAX_PARSED]
    if extra := _EXTRA.match(body):
        fields |= {"address": extra["address"], "port": extra["port"]}
        body = body[extra.end() :]
    for start, form in _DNSMASQ:
        if body.startswith(start) and (found := form.match(body)):
            parts = {name: value for name, value in found.groupdict().items() if value}
            client = parts.pop("from", None)
            if parts.pop("file", None):
                parts["action"] = "hosts"
            if client is not None:
                fields["address"] = client
            return fields | parts
    raise DecodeError("no query")
