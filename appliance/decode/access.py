r"""Second station of the line, format `access`: one line of a web server's access log.

Read: the common and the combined log format (Apache HTTP Server, mod_log_config, "Common Log
Format" and "Combined Log Format"; nginx, ngx_http_log_module, format `combined`), with a virtual
host in front (`%v:%p`), with more fields behind, with months in another language, with times
without a zone and with a blank before the clock (Python's http.server, Werkzeug); and HAProxy's
HTTP format inside syslog (HAProxy configuration manual, section "HTTP log format").

Fields, under the names of the W3C extended format: c-ip (address, or host name where the server
resolves it), c-port, c-ident, cs-username, timestamp (text), request (the request's first line, as
the client sent it), sc-status, sc-bytes (text), cs-referer, cs-user-agent, vhost, extra (a list of
what stands behind), and message, the whole line. What the log writes as "-" is absent. The server's
escapes of printable characters are undone; control characters and bytes stay `\xNN`.

A client chooses the user, the request, the referer and the user agent, all of which servers write
with quotes escaped. So the request begins at the first quote that is not escaped, the time is the
last bracket before it (or the first with a quote behind it, where a server escapes nothing), and
the request ends at the next such quote. Servers that escape nothing let a client write
`" 200 5 "-" "` into its request: where the line can be read so that the request ends later,
request, sc-status and sc-bytes are lists of every reading.
"""

import re
from itertools import islice
from typing import Any, Final

from appliance.decode.utf8 import escape_bytes, has_bad_bytes, read_text, strip_frame
from appliance.errors import DecodeError
from appliance.schema import Decoded, RawRecord

#: Programs that write access lines to syslog.
PROGRAMS: Final = frozenset(
    {"nginx", "apache", "apache2", "httpd", "haproxy", "lighttpd", "caddy", "traefik"}
    | {"openresty", "angie", "tengine", "varnishncsa", "squid"}
)
HAPROXY: Final = frozenset({"haproxy"})

#: Longest text before the request, in characters. A user name of 6 kB fits into the 8 kB that
#: servers take as one header, and each byte of it may be written as four characters.
_MAX_PREFIX: Final = 32_768
#: A head of this length without a request may be one that a long user name filled.
_LONG_HEAD: Final = 4000
#: Most fields behind the user agent, and most readings of a request.
_MAX_EXTRA: Final = 32
_MAX_READINGS: Final = 8

_TIME: Final = r"\d{1,2}/[^\W\d_]{3,5}\.?/\d{4}[: ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?: ?[+-]\d{4})?"
_QUOTED: Final = r'"([^"\\]*+(?:\\.[^"\\]*+)*+)"'
#: The common case at one go: three words, time, request, status, bytes, and perhaps the rest.
_COMBINED: Final = re.compile(
    rf'([^\s"\[\]]{{1,255}}) ([^\s"\[\]]{{1,64}}) ([^\s"\[\]]{{1,256}}) \[({_TIME}) ?\] {_QUOTED}'
    rf" (\d{{3}}) (\d{{1,18}}|-)(?: {_QUOTED} {_QUOTED})?(?= |$)",
    re.DOTALL,
)
_SIMPLE: Final = re.compile(
    rf'[\w.:%-]{{1,255}} [\w.@-]{{1,64}} [^\s"\[\]]{{1,256}} \[{_TIME} ?\] "'
)
#: What may begin an access line: an address, a name with a dot, "localhost" or "-", perhaps behind
#: a virtual host, then the identity. Syslog's month or time is none of these.
_START: Final = re.compile(
    r"(?:[\w*-][\w.*-]{0,254}(?::\d{1,5})? )?"
    r"(?:\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?|(?=[^:\s]*:[^:\s]*:)[0-9A-Fa-f:.]{2,64}|\[[0-9A-Fa-f:.]{2,64}\](?::\d{1,5})?"
    r"|[A-Za-z0-9_-][\w.-]{0,250}\.[A-Za-z0-9-]{1,63}\.?|localhost|-)"
    r"(?: {1,4}[\w.@-]{1,64})? "
)
_MARK: Final = re.compile(r"\[\d{1,2}/[^\W\d_]{3,5}\.?/\d{4}[: ]\d\d:\d\d:\d\d")
#: All before the first quote that is not escaped; Apache writes an empty user as two quotes.
_PREFIX: Final = re.compile(r'[^"\\]*+(?:(?:\\.|""(?= \[))[^"\\]*+)*+(?=")', re.DOTALL)
#: The time at the end of that, with perhaps a virtual host behind it.
_BRACKET: Final = re.compile(rf'\[({_TIME}) ?\] (?:([^\s"\[\]]{{1,255}}) )?')
#: The same where a user holds a quote that its server did not escape.
_LATER: Final = re.compile(rf'\[({_TIME}) ?\] (?:([^\s"\[\]]{{1,255}}) )?(?=")')
_REQUEST: Final = re.compile(_QUOTED, re.DOTALL)
_STATUS: Final = re.compile(r'" (\d{3}|-)(?: (\d{1,18}|-))?(?=\s|$)')
_AGAIN: Final = re.compile(r' HTTP/\d(?:\.\d)?" (\d{3}) (\d{1,18}|-)(?= |$)')
_FIELD: Final = re.compile(r'[ \t]+(?:"([^"\\]*+(?:\\.[^"\\]*+)*+)(?:"|$)|([^\s"]\S*+))', re.DOTALL)
_ESCAPE: Final = re.compile(r'\\(?:(["\\])|x([2-6][0-9A-Fa-f]|7[0-9A-Ea-e]))')
_ADDRESS: Final = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}|(?=[^:]*:[^:]*:)[0-9A-Fa-f:.]{2,64}")
_ADDRESS_PORT: Final = re.compile(
    r"(?:(\d{1,3}(?:\.\d{1,3}){3})|\[([0-9A-Fa-f:.]{2,64})\])(?::(\d{1,5}))?"
)
_VHOST_PORT: Final = re.compile(r"[\w*-][\w.*-]{0,254}:\d{1,5}|\[[0-9A-Fa-f:.]{2,64}\]:\d{1,5}")

#: HAProxy: client, time, frontend, backend and server, timers, status, bytes, cookies, state,
#: counts, captured headers (in which it encodes quotes), request.
_HAPROXY: Final = re.compile(
    r"([0-9A-Za-z_.:%/-]{2,255}?):(\d{1,5}|-) "
    r"\[(\d{1,2}/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d(?:\.\d{1,9})?)\]"
    r" (\S{1,255}) (\S{1,255}) [+\d/-]{1,64} (-?\d{1,3}) (\+?\d{1,18}|-) (?:\S{1,4096} ){2}"
    r'([\w-]{4}) \d[\d/+]{1,64} \d[\d/+]{1,32}(?: [^"]{0,8192})? "'
)


def decode_access(record: RawRecord) -> Decoded:
    """Read the record as a line of an access log. Raises DecodeError when it is none."""
    text = read_text(strip_frame(record.data))
    repaired = has_bad_bytes(text)
    if repaired:
        text = escape_bytes(text)
    return Decoded("access", read_access(text), repaired)


def is_access(text: str) -> bool:
    """True for the head of a line of an access log: client, time in brackets, quoted request, and
    the status where that much of the line is there."""
    if _SIMPLE.match(text):
        return text.split(" ", 2)[1] == "-" or _START.match(text) is not None
    if (start := _START.match(text)) is None:
        return False
    prefix = _read_prefix(text) if _MARK.search(text) else None
    if prefix is None:
        return len(text) >= _LONG_HEAD and " - " in start[0]
    closed = _REQUEST.match(text, prefix[0])
    return closed is None or _STATUS.search(text, prefix[0]) is not None


def read_access(message: str) -> dict[str, Any]:
    """The fields of one line without bad bytes (see the top). Raises DecodeError when no time in
    brackets with a quote behind it is in the first 32,768 characters."""
    found = _COMBINED.match(message)
    if found is None or message.find(" HTTP/", found.end(5)) >= 0:
        return _read_parts(message)
    fields: dict[str, Any] = {"message": message}
    client, ident, user, time, request, status, size, referer, agent = found.groups()
    _put_client(fields, client, ident, user)
    fields["timestamp"] = time
    fields["request"] = _unescape(request)
    fields["sc-status"] = status
    if size != "-":
        fields["sc-bytes"] = size
    if referer is not None:
        _put_agent(fields, referer, agent)
    if found.end() < len(message):
        _put_extra(fields, message, found.end(), with_agent=referer is None)
    return fields


def is_haproxy(text: str) -> bool:
    """True for a line in HAProxy's HTTP format, as it is inside syslog."""
    return _HAPROXY.match(text) is not None


def read_haproxy(message: str) -> dict[str, Any]:
    """The fields of a line in HAProxy's HTTP format, with its frontend, backend and termination
    state. Raises DecodeError."""
    found = _HAPROXY.match(message)
    if found is None:
        raise DecodeError("not HAProxy's HTTP format")
    client, port, time, frontend, backend, status, size, state = found.groups()
    request = message[found.end() :]
    fields = {
        "message": message,
        "c-ip": client,
        "c-port": port,
        "timestamp": time,
        "request": request[:-1] if request.endswith('"') else request,
        "sc-status": status,
        "sc-bytes": size,
        "frontend": frontend.rstrip("~"),
        "backend": backend,
        "termination_state": state,
    }
    return {name: value for name, value in fields.items() if value not in ("-", "-1")}


def _read_prefix(text: str) -> tuple[int, int, str, str | None] | None:
    """Where the request's quote is and where the client's part ends, the time's text, and what
    stands between time and request; None when the line is no access log's."""
    if (prefix := _PREFIX.match(text)) is None or prefix.end() > _MAX_PREFIX:
        return None
    quote = prefix.end()
    start = text.rfind("[", 0, quote)
    bracket = _BRACKET.match(text, start, quote) if start >= 0 else None
    if bracket is None or bracket.end() != quote:
        bracket = _LATER.search(text, quote, _MAX_PREFIX)
    if bracket is None:
        return None
    return bracket.end(), bracket.start(), bracket[1], bracket[2]


def _read_parts(text: str) -> dict[str, Any]:
    prefix = _read_prefix(text)
    if prefix is None:
        raise DecodeError("no access log: no time in brackets before a quoted request")
    quote, start, time, behind = prefix
    fields: dict[str, Any] = {"message": text}
    words = text[:start].split(None, 3)
    if not words:
        raise DecodeError("no access log: no client before the time")
    if len(words) > 2 and _is_vhost(words):
        fields["vhost"] = words.pop(0)
    else:
        words = text[:start].split(None, 2)
    client, ident, user = (*words, "-", "-")[:3]
    _put_client(fields, client, ident, user.rstrip())
    if behind is not None:
        fields.setdefault("vhost", behind)
    fields["timestamp"] = time
    _put_request(fields, text, quote)
    return fields


def _is_vhost(words: list[str]) -> bool:
    """True when the first word is a virtual host, and the second therefore the client."""
    host, client = words[:2]
    if client == "-":
        return False
    if _VHOST_PORT.fullmatch(host):
        return True
    return _ADDRESS.fullmatch(client) is not None and _ADDRESS.fullmatch(host) is None


def _put_client(fields: dict[str, Any], client: str, ident: str, user: str) -> None:
    ported = _ADDRESS_PORT.fullmatch(client) if client[-1:].isdecimal() and ":" in client else None
    if ported is not None:
        fields["c-ip"] = ported[1] or ported[2]
        if ported[3]:
            fields["c-port"] = ported[3]
    elif client != "-":
        fields["c-ip"] = client
    if ident != "-":
        fields["c-ident"] = ident
    if user not in ("-", '""', "- -"):
        fields["cs-username"] = _unescape(user)


def _put_request(fields: dict[str, Any], text: str, quote: int) -> None:
    """Add the request that begins at `quote`, and all behind it."""
    closed = _REQUEST.match(text, quote)
    if closed is None:
        # The line was cut inside its request.
        fields["request"] = _unescape(text[quote + 1 :])
        return
    status = _STATUS.match(text, closed.end() - 1) or _STATUS.search(text, closed.end() - 1)
    if status is None:
        fields["request"] = _unescape(text[quote + 1 : closed.end() - 1])
        _put_extra(fields, text, closed.end(), with_agent=False)
        return
    readings = [(_unescape(text[quote + 1 : status.start()]), status[1], status[2])]
    for again in islice(_AGAIN.finditer(text, status.end()), _MAX_READINGS):
        end = text.index('"', again.start())
        readings.append((_unescape(text[quote + 1 : end]), again[1], again[2]))
    columns = zip(*readings, strict=True)
    for name, values in zip(("request", "sc-status", "sc-bytes"), columns, strict=True):
        known = [value for value in dict.fromkeys(values) if value is not None and value != "-"]
        if known:
            fields[name] = known[0] if len(known) == 1 else known
    _put_extra(fields, text, status.end(), with_agent=True)


def _put_extra(fields: dict[str, Any], text: str, position: int, *, with_agent: bool) -> None:
    """Add what stands behind the bytes: referer and user agent, where two quoted fields come
    first, and the others as `extra`."""
    values: list[str] = []
    quoted = 0
    while len(values) < _MAX_EXTRA and (found := _FIELD.match(text, position)):
        position = found.end()
        if found[1] is not None:
            quoted += quoted == len(values)
            values.append(found[1])
        else:
            values.append(found[2])
    if rest := text[position:].strip():
        values.append(rest)
    if with_agent and quoted >= 2:
        _put_agent(fields, values[0], values[1])
        del values[:2]
    if values:
        fields["extra"] = [_unescape(value) for value in values]


def _put_agent(fields: dict[str, Any], referer: str, agent: str) -> None:
    if referer != "-":
        fields["cs-referer"] = _unescape(referer)
    if agent != "-":
        fields["cs-user-agent"] = _unescape(agent)


def _unescape(text: str) -> str:
    """The text with the server's escapes of printable characters undone."""
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda found: found[1] or chr(int(found[2], 16)), text)
