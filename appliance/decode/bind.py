"""Second station of the line, format `bind`: what BIND 9's named says of its clients' queries.

Read: the categories queries, query-errors, responses, security, update-security, xfer-out and rpz
of a logging channel, with or without time, category and severity, of BIND 9.4 and later (BIND 9
Administrator Reference Manual, "Logging" and "The Query Log"); inside syslog without them.

    22-Nov-2026 10:00:00.123 queries: info: client @0x7f00 192.0.2.1#5353/key k (example.com):
        view internal: query: example.com IN A +E(0)K (192.0.2.53) [ECS 192.0.2.0/24/0]

Fields: timestamp (text), category, severity, client, address, port, key, qname (the name in
parentheses), view, message (what follows), and of that: action (query, response, denied, failed,
rpz), name, type, class, flags, server, ecs, rcode, policy, reason. A name is the only part that a
client chooses; named writes blanks and parentheses in it as escapes (RFC 1035, section 5.1), so
that each form below holds it in one word.
"""

import re
from typing import Any, Final

from appliance.decode.text import TIME_FORMS
from appliance.decode.utf8 import escape_bytes, has_bad_bytes, read_text, strip_frame
from appliance.errors import DecodeError
from appliance.schema import Decoded, RawRecord

#: A name in text: 255 bytes (RFC 1035, section 2.3.4), each at most `\DDD`, and dots.
_NAME: Final = r"[^\s]{1,1100}"
_WORD: Final = r"[A-Z0-9_-]{1,24}"
_CLIENT: Final = (
    r"client (?:@(?P<client>0x[0-9a-fA-F]{1,16}) )?"
    r"(?P<address>[0-9a-fA-F.:]{2,45}(?:%[\w.-]{1,32})?)#(?P<port>\d{1,5})"
)
_SEVERITY: Final = r"debug \d{1,3}|dynamic|info|notice|warning|error|critical"
#: Channel options print-time, print-category and print-severity, each of which may be off.
_CHANNEL: Final = (
    rf"(?:(?P<timestamp>{'|'.join(TIME_FORMS)}) )?"
    rf"(?:(?P<category>(?!(?:{_SEVERITY}): )[a-z][a-z-]{{2,31}}): )?"
    rf"(?:(?P<severity>{_SEVERITY}): )?"
)
_LINE: Final = re.compile(
    rf"{_CHANNEL}{_CLIENT}(?:/key (?P<key>{_NAME}?))?(?: \((?P<qname>{_NAME}?)\))?"
    r": (?:view (?P<view>[^\s:]{1,128}): )?(?P<message>.*)",
    re.DOTALL,
)
_LOOK: Final = re.compile(_CHANNEL + _CLIENT + r"(?:/key | \(|: )")
_ANY: Final = re.compile(rf"{_CHANNEL}(?P<message>.*)", re.DOTALL)
#: The message's forms, with what each says was done.
_FORMS: Final = tuple(
    (start, action, re.compile(form))
    for start, action, form in (
        (
            "query: ",
            "query",
            rf"query: (?P<name>{_NAME}) (?P<class>{_WORD}) (?P<type>{_WORD})"
            r"(?: (?P<flags>[+-][A-Za-z0-9()]{0,32}))?(?: \((?P<server>[0-9a-fA-F.:%]{2,64})\))?"
            r"(?: \[ECS (?P<ecs>[0-9a-fA-F.:/]{1,64})\])?\s*$",
        ),
        (
            "response: ",
            "response",
            rf"response: (?P<name>{_NAME}) (?P<class>{_WORD}) (?P<type>{_WORD})"
            rf" (?P<rcode>{_WORD})(?: (?P<flags>[+-].{{0,128}}))?$",
        ),
        (
            "query failed ",
            "failed",
            rf"query failed \((?P<rcode>[^()]{{1,64}})\) for"
            rf" (?P<name>{_NAME})/(?P<class>{_WORD})/(?P<type>{_WORD}) at (?P<reason>\S{{1,128}})$",
        ),
        (
            "query",
            "denied",
            rf"query(?: \(cache\))? '(?P<name>{_NAME})/(?P<type>{_WORD})/(?P<class>{_WORD})'"
            r" denied(?: \((?P<reason>[^()]{1,128})\))?\s*$",
        ),
        ("query", "denied", r"query(?: \(cache\))? denied\s*$"),
        (
            "zone transfer ",
            "denied",
            rf"zone transfer '(?P<name>{_NAME})/(?P<type>{_WORD})/(?P<class>{_WORD})' denied\s*$",
        ),
        (
            "bad zone transfer ",
            "failed",
            rf"bad zone transfer request: '(?P<name>{_NAME})/(?P<class>{_WORD})':"
            r" (?P<reason>.{1,128})$",
        ),
        (
            "update ",
            "denied",
            rf"update '(?P<name>{_NAME})/(?P<class>{_WORD})' denied(?: \(.{{1,128}}\))?\s*$",
        ),
        (
            "rpz ",
            "rpz",
            r"rpz (?P<trigger>QNAME|IP|CLIENT-IP|NSDNAME|NSIP) (?P<policy>[A-Z-]{1,24}) rewrite"
            rf" (?P<name>{_NAME}?)(?:/(?P<type>{_WORD})/(?P<class>{_WORD}))?"
            rf" via (?P<reason>{_NAME})\s*$",
        ),
    )
)  # fmt: skip
#: Longest message whose parts are looked for, in characters; named cuts its own at 2 kB.
_MAX_PARSED: Final = 4096


def is_bind(text: str) -> bool:
    """True for a line of a logging channel about a client: `client`, address, `#` and port stand
    at their place from the left."""
    return text.find("client ", 0, 160) >= 0 and _LOOK.match(text) is not None


def is_bind_message(message: str) -> bool:
    """True for a message of named that may be about a client, which `read_bind` tells."""
    return message.find("client ", 0, 160) >= 0


def decode_bind(record: RawRecord) -> Decoded:
    """Read the record as a line of named's log; lines about no client have time, category,
    severity and message alone. Raises DecodeError when it is empty."""
    text = read_text(strip_frame(record.data))
    if not text.strip():
        raise DecodeError("empty record")
    if repaired := has_bad_bytes(text):
        text = escape_bytes(text)
    try:
        return Decoded("bind", read_bind(text), repaired)
    except DecodeError:
        match = _ANY.match(text)
        parts = match.groupdict() if match else {"message": text}
        return Decoded("bind", {k: v for k, v in parts.items() if v}, repaired)


def read_bind(message: str) -> dict[str, Any]:
    """The parts of a line about a client. Raises DecodeError for another."""
    match = _LINE.match(message)
    if match is None:
        raise DecodeError("no line of named about a client")
    fields = {name: value for name, value in match.groupdict().items() if value}
    body = match["message"][:_MAX_PARSED]
    if body.startswith("disabled rpz "):
        return fields
    for start, action, form in _FORMS:
        if body.startswith(start) and (found := form.match(body)):
            fields["action"] = action
            fields.update((name, value) for name, value in found.groupdict().items() if value)
            break
    return fields
