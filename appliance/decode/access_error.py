r"""Second station of the line, format `access_error`: one line of a web server's error log.

Read: Apache HTTP Server (directive `ErrorLogFormat`; 2.2's `[time] [level] [client a]` and 2.4's
`[time] [module:level] [pid n:tid n] [client a:port] AHnnnnn:`), nginx (core module, directive
`error_log`: `time [level] pid#tid: *connection text, client: a, server: s, request: "r"`), and
lighttpd (`time: (file.c.line) text`). Inside syslog they come without the time.

Fields: server ("apache", "nginx", "lighttpd"), timestamp (text), level, module, pid, c-ip, c-port,
error (the text), code (`AH01630`), s-name (nginx's own server name), request, cs-host, cs-referer,
upstream, cs-username where the text names who failed to log in, modsecurity (its fields id, msg,
severity, uri ...), and message, the whole line.

Apache's client stands at its place from the left, before anything a client wrote. nginx puts it
behind a text that may hold a user name or a path, and before the request and the referer, all the
client's and none of them escaped: where `, client: ` occurs more than once, c-ip holds every
reading, the last one behind which the line is well-formed first.
"""

import re
from itertools import islice
from typing import Any, Final

from appliance.decode.utf8 import escape_bytes, has_bad_bytes, read_text, strip_frame
from appliance.errors import DecodeError
from appliance.schema import Decoded, RawRecord

#: Programs that write such lines to syslog.
PROGRAMS: Final = frozenset(
    {"nginx", "apache", "apache2", "httpd", "lighttpd", "openresty", "angie", "tengine"}
)

_LEVEL: Final = r"(?:emerg|alert|crit|error|warn|notice|info|debug|trace[1-8])"
_APACHE_TIME: Final = (
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) (?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
    r" {1,2}\d{1,2} \d\d:\d\d:\d\d(?:\.\d{1,9})? \d{4}"
)
_CLIENT: Final = r"\[(?:client|remote) (?:\[([0-9A-Fa-f:.]{2,64})\]:(\d{1,5})|([^\s\[\]]{1,255}))\]"
_APACHE: Final = re.compile(
    rf"(?:\[({_APACHE_TIME})\] )?\[(?:([\w-]{{0,64}}):)?({_LEVEL})\](?: |$)"
    rf"(?:\[pid (\d{{1,10}})(?::tid \w{{1,20}})?\] )?(?:{_CLIENT} ?)?"
)
_AGAIN: Final = re.compile(rf"(?:{_CLIENT} )")
_CODE: Final = re.compile(r"(?:\([^()]{1,64}\)[^:]{1,128}: )?(AH\d{5}): ")
_REFERER: Final = re.compile(r".*, referer: (\S.*)$", re.DOTALL)
_MODSECURITY: Final = re.compile(r'\[([a-z_]{1,16}) "([^"\\]*+(?:\\.[^"\\]*+)*+)"\]', re.DOTALL)
#: Most fields of one ModSecurity message; tags alone may be a dozen.
_MAX_MODSECURITY: Final = 64

_NGINX: Final = re.compile(
    rf"(?:(\d{{4}}/\d\d/\d\d \d\d:\d\d:\d\d) )?\[({_LEVEL})\]"
    r" (\d{1,10})[#:]\d{1,10}(?::? \*\d{1,20})?:?(?: |$)"
)
_NGINX_CLIENT: Final = re.compile(r", client: ([0-9A-Za-z_.:%-]{2,255})(?=[, ]|$)")
#: What nginx writes behind its text, in its order. The request's target has no blank where the
#: request was one.
_NGINX_TAIL: Final = re.compile(
    r'(?:, server: ([^\s,"]{0,255}))?'
    r'(?:, request: "([^\s"]{1,64} [^\s"]{1,16384} HTTP/[\d.]{1,3})")?'
    r'(?:, subrequest: "[^"]{0,1024}")?(?:, upstream: "([^"]{0,16384})")?'
    r'(?:, host: "([^\s"]{0,255})")?(?:, referrer: "([^"]{0,16384})")?\s*$'
)
#: The same at its beginning, for lines whose request is none.
_NGINX_LOOSE: Final = re.compile(r'(?:, server: ([^\s,"]{0,255}))?(?:, request: "([^"]{0,16384}))?')
_MAX_READINGS: Final = 8

_LIGHTTPD: Final = re.compile(
    r"(?:(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d): )?\(?([\w./-]{1,64}\.c\.\d{1,6})\) "
)
_LIGHTTPD_CLIENT: Final = re.compile(r"(?:, | )IP: ([0-9A-Fa-f.:]{2,64})\s*$")

#: Who failed to log in, by server; anchored at both ends where something follows the name.
USERS: Final = {
    server: tuple(re.compile(form, re.DOTALL) for form in forms)
    for server, forms in {
        "apache": (
            r"user (?P<user>.{0,256}): (?:authentication|authorization) failure for ",
            r"(?:Digest: )?user (?P<user>.{0,256}): password mismatch: ",
            r"(?:Digest: )?user `(?P<user>.{0,256})' in realm `",
            r"Authorization of user (?P<user>.{0,256}) to access ",
            r"user (?P<user>.{0,256}?) not found(?::|$)",
        ),
        "nginx": (
            r'user "(?P<user>.{0,256})": password mismatch$',
            r'user "(?P<user>.{0,256})":? was not found in "[^"]{0,1024}"$',
            r"PAM: user '(?P<user>.{0,256})' - not authenticated: ",
        ),
        "lighttpd": (
            r"password doesn't match for .{0,1024} username: (?P<user>.{0,256}?),? IP: \S{1,64}$",
            r"(?:digest: )?auth failed for {1,2}(?P<user>.{0,256}) : wrong password",
        ),
    }.items()
}


def decode_access_error(record: RawRecord) -> Decoded:
    """Read the record as a line of an error log. Raises DecodeError when it is none."""
    text = read_text(strip_frame(record.data))
    repaired = has_bad_bytes(text)
    if repaired:
        text = escape_bytes(text)
    return Decoded("access_error", read_access_error(text), repaired)


def is_access_error(text: str) -> bool:
    """True for the head of a line of an error log in a file: with its time, or with Apache's
    level and client."""
    first = text[:1]
    if first == "[":
        found = _APACHE.match(text)
        return found is not None and (found[1] or found[5] or found[7]) is not None
    if not first.isdecimal():
        return False
    return any((found := form.match(text)) and found[1] for form in (_NGINX, _LIGHTTPD))


def is_access_error_message(text: str) -> bool:
    """True for a message that a web server wrote to syslog, where the time may be missing."""
    return text[:1] in "[(0123456789" and any(
        form.match(text) for form in (_APACHE, _NGINX, _LIGHTTPD)
    )


def read_access_error(message: str) -> dict[str, Any]:
    """The fields of one line without bad bytes (see the top). Raises DecodeError."""
    # nginx first: without a time its level is in brackets as Apache's is.
    if found := _NGINX.match(message):
        fields = _read_nginx(message, found)
    elif found := _APACHE.match(message):
        fields = _read_apache(message, found)
    elif found := _LIGHTTPD.match(message):
        fields = _read_lighttpd(message, found)
    else:
        raise DecodeError("no error log of Apache, nginx or lighttpd")
    fields = {name: value for name, value in fields.items() if value not in (None, "", "-")}
    for form in USERS[fields["server"]]:
        if (named := form.match(fields.get("error", ""))) and named["user"]:
            fields["cs-username"] = named["user"]
            break
    return {"message": message, **fields}


def _read_apache(text: str, found: re.Match[str]) -> dict[str, Any]:
    client, port = found[5] or found[7], found[6]
    if found[7] and found[7].count(":") == 1:
        client, _, port = found[7].partition(":")
    position = found.end()
    # ModSecurity writes the client a second time.
    if again := _AGAIN.match(text, position):
        position = again.end()
    error = text[position:]
    fields: dict[str, Any] = {
        "server": "apache",
        "timestamp": found[1],
        "module": found[2],
        "level": found[3],
        "pid": found[4],
        "c-ip": client,
        "c-port": port,
    }
    if referer := _REFERER.match(error):
        fields["cs-referer"] = referer[1]
        error = error[: referer.start(1) - len(", referer: ")]
    if code := _CODE.match(error):
        fields["code"] = code[1]
        error = error[code.end() :]
    fields["error"] = error
    if error.startswith("ModSecurity:"):
        _put_modsecurity(fields, error)
    return fields


def _put_modsecurity(fields: dict[str, Any], error: str) -> None:
    """Add the fields of a ModSecurity message, each as it is written first; tags are a list."""
    parts: dict[str, Any] = {}
    for found in islice(_MODSECURITY.finditer(error), _MAX_MODSECURITY):
        if found[1] == "tag":
            parts.setdefault("tag", []).append(found[2])
        else:
            parts.setdefault(found[1], found[2])
    if parts:
        fields["modsecurity"] = parts


def _read_nginx(text: str, found: re.Match[str]) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "server": "nginx",
        "timestamp": found[1],
        "level": found[2],
        "pid": found[3],
    }
    clients = list(islice(_NGINX_CLIENT.finditer(text, found.end()), _MAX_READINGS))
    if not clients:
        fields["error"] = text[found.end() :]
        return fields
    chosen, tail = _choose_client(text, clients)
    fields["error"] = text[found.end() : chosen.start()]
    addresses = list(dict.fromkeys([chosen[1], *(client[1] for client in clients)]))
    fields["c-ip"] = addresses[0] if len(addresses) == 1 else addresses
    names = ("s-name", "request", "upstream", "cs-host", "cs-referer")
    fields.update(zip(names, tail, strict=False))
    return fields


def _choose_client(
    text: str, clients: list[re.Match[str]]
) -> tuple[re.Match[str], tuple[str | None, ...]]:
    """The last client behind which the line is well-formed, else the first; and what is behind:
    server name, request, upstream, host and referer, as far as they could be read."""
    for client in reversed(clients):
        if tail := _NGINX_TAIL.match(text, client.end()):
            return client, tail.groups()
    loose = _NGINX_LOOSE.match(text, clients[0].end())
    return clients[0], loose.groups() if loose else ()


def _read_lighttpd(text: str, found: re.Match[str]) -> dict[str, Any]:
    client = _LIGHTTPD_CLIENT.search(text, found.end())
    return {
        "server": "lighttpd",
        "timestamp": found[1],
        "module": found[2],
        "error": text[found.end() :],
        "c-ip": client[1] if client else None,
    }
