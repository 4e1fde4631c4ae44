"""Third station of the line: what an HTTP request's target is in the words of the Sigma taxonomy.

Rules for web servers and proxies (Sigma specification, appendix taxonomy, categories webserver and
proxy) name a part of the target, and expect it as the client wrote it or decoded: some look for
`%252e`, some for `../`. So a field whose text is percent-encoded holds every reading: as written,
decoded once, decoded twice (a server and the application behind it each decode).

`cs-uri-query` holds the query and the whole target too, because that is how rules use it: of
SigmaHQ's rules that test it most name a path. Where the target has no query, the first element is
None, which is what `cs-uri-query: null` asks for.
"""

import re
from functools import lru_cache
from typing import Any, Final

from appliance.normalise.entities import make_address, make_domain, make_host, make_user
from appliance.schema import Entity, Fields

#: How often a target is decoded. A third layer is left to rules that name it as written.
ROUNDS: Final = 2
#: Longest extension of a file name, in characters.
_MAX_EXTENSION: Final = 16

_METHOD: Final = re.compile(r"[A-Za-z][A-Za-z_-]{0,31}")
_ENCODED: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_WIDE: Final = re.compile(r"%u([0-9A-Fa-f]{4})")
_DIGITS: Final = "0123456789abcdefABCDEF"
_BYTES: Final = {(a + b).encode(): bytes([int(a + b, 16)]) for a in _DIGITS for b in _DIGITS}
_AUTHORITY: Final = re.compile(
    r"(?:[^@/\s]{0,256}@)?(\[[0-9A-Fa-f:.]{2,64}\]|[^:/?#\s@\[\]]{1,255})(?::(\d{1,5}))?(?=[/?#]|$)"
)
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,15})://")
_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443, "ftp": 21}
#: Statuses by which a server refuses who or what the client is (RFC 9110 section 15.5).
_REFUSED: Final = frozenset({401, 403, 407})


def split_request(line: str) -> tuple[str, str, str]:
    """Method, target and protocol of a request's first line (RFC 9112 section 3); each "" where
    the line has none. A line that is no request (a TLS greeting, one word) has none of them."""
    method, _, rest = line.partition(" ")
    if not rest or _METHOD.fullmatch(method) is None:
        return "", "", ""
    target, _, protocol = rest.rpartition(" ")
    if protocol[:5] != "HTTP/" or not target:
        return method, rest, ""
    return method, target, protocol


def decode_text(text: str, *, plus: bool = False) -> str:
    """The text percent-decoded once (RFC 3986 section 2.1), with IIS' `%uNNNN`; "+" as a blank
    where `plus` says so. Bytes that are no UTF-8 become `\\xNN`. Linear in the text's length."""
    if plus:
        text = text.replace("+", " ")
    if "%" not in text:
        return text
    if "%u" in text:
        text = _WIDE.sub(_read_wide, text)
    data = text.encode("utf-8", "backslashreplace")
    data = _ENCODED.sub(lambda found: _BYTES[found[1]], data)
    return data.decode("utf-8", "backslashreplace")


def _read_wide(found: re.Match[str]) -> str:
    code = int(found[1], 16)
    return found[0] if 0xD800 <= code < 0xE000 else chr(code)


def list_readings(texts: list[str], *, plus: bool = False) -> list[str]:
    """The texts and what each is decoded once and twice, without repetition."""
    found = dict.fromkeys(texts)
    level = texts
    for round_number in range(ROUNDS):
        # Only the first decoding turns "+" into a blank: what was %2B then stays a plus.
        level = [decode_text(text, plus=plus and round_number == 0) for text in level]
        found.update(dict.fromkeys(level))
    return list(found)


def squash(values: list[Any]) -> Any:
    """A list's only value, or the list."""
    return values[0] if len(values) == 1 else values


def put_target(fields: Fields, targets: list[str]) -> None:
    """Add cs-uri, cs-uri-stem and cs-uri-query of a target's readings as they were written."""
    if len(targets) == 1 and "%" not in (target := targets[0]) and "+" not in target:
        stem, _, query = _strip_origin(target).partition("?")
        fields["cs-uri"] = target
        fields["cs-uri-stem"] = stem
        fields["cs-uri-query"] = [query or None, target]
        return
    stems, queries = [], []
    for target in targets:
        stem, _, query = _strip_origin(target).partition("?")
        stems.append(stem)
        if query:
            queries.append(query)
    fields["cs-uri"] = squash(list_readings(targets))
    fields["cs-uri-stem"] = squash(list_readings(stems))
    asked: list[str | None] = [*list_readings(queries, plus=True)] if queries else [None]
    asked += list_readings(targets, plus=bool(queries))
    fields["cs-uri-query"] = list(dict.fromkeys(asked))


def _strip_origin(target: str) -> str:
    """The target without scheme and host, where it has them (RFC 9112 section 3.2.2)."""
    if target[:1] == "/" or (scheme := _SCHEME.match(target)) is None:
        return target
    slash = target.find("/", scheme.end())
    return target[slash:] if slash >= 0 else "/"


def put_requests(fields: Fields, lines: list[str]) -> None:
    """Add cs-method, cs-version and the target's fields of a request's readings."""
    if len(lines) == 1:
        method, target, version = split_request(lines[0])
        if not method:
            return
        fields["cs-method"] = method
        if version:
            fields["cs-version"] = version
        put_target(fields, [target])
        return
    parsed = [parts for line in lines if (parts := split_request(line))[0]]
    if not parsed:
        return
    fields["cs-method"] = squash(list(dict.fromkeys(parts[0] for parts in parsed)))
    if versions := list(dict.fromkeys(parts[2] for parts in parsed if parts[2])):
        fields["cs-version"] = squash(versions)
    put_target(fields, [parts[1] for parts in parsed])


def put_proxied(fields: Fields, uri: str, method: str = "") -> Entity | None:
    """Add what a proxy's client asked for: c-uri, its parts, cs-host, r-dns, dst_port and the same
    under the names of web servers. Gives the destination's entity."""
    put_target(fields, [uri])
    fields["c-uri"] = fields["cs-uri"]
    fields["c-uri-stem"] = fields["cs-uri-stem"]
    fields["c-uri-query"] = fields["cs-uri-query"]
    stem = fields["cs-uri-stem"]
    name = (stem if isinstance(stem, str) else stem[-1]).rpartition("/")[2]
    _, dot, extension = name.rpartition(".")
    scheme = _SCHEME.match(uri)
    tunnel = scheme is None and method.upper() == "CONNECT"
    if dot and 0 < len(extension) <= _MAX_EXTENSION and not tunnel:
        fields["c-uri-extension"] = extension
    if scheme is None and not tunnel:
        return None
    authority = _AUTHORITY.match(uri, scheme.end() if scheme else 0)
    if authority is None:
        return None
    return put_destination(
        fields,
        authority[1].strip("[]"),
        authority[2] or _PORTS.get(scheme[1].lower() if scheme else "", 0),
    )


def put_destination(fields: Fields, host: str, port: Any = None) -> Entity | None:
    """Add the host that a proxy's client asked for; give its entity."""
    fields["cs-host"] = host
    if port:
        fields["dst_port"] = int(port)
    if (address := make_address(host)) is not None:
        fields.setdefault("dst_ip", host)
        return address
    if is_address(host):
        fields.setdefault("dst_ip", host)
        return None
    fields["r-dns"] = host
    return make_domain(host)


@lru_cache(maxsize=4096)
def is_address(text: str) -> bool:
    """True for text of an address' form, which a host name does not have."""
    return ":" in text or text.replace(".", "").isdecimal()


def put_status(fields: Fields, *, with_user: bool) -> None:
    """Make sc-status and sc-bytes numbers, and add `result`: a refusal is a failure; any other
    answer is a success only for a client that gave its name. None where readings differ."""
    for name in ("sc-status", "sc-bytes", "cs-bytes"):
        value = fields.get(name)
        if type(value) is str:
            fields[name] = _read_count(value)
        elif type(value) is list:
            fields[name] = [_read_count(text) for text in value]
    status = fields.get("sc-status")
    if type(status) is not int:
        return
    if status in _REFUSED:
        fields["result"] = "failure"
    elif with_user and 200 <= status < 400:
        fields["result"] = "success"


def _read_count(text: Any) -> Any:
    if isinstance(text, str):
        digits = text.lstrip("+")
        return int(digits) if digits.isdecimal() and len(digits) <= 18 else text
    return text


def put_client(fields: Fields) -> None:
    """Add src_ip, src_port and user, where the record has them; a host name is no address."""
    client = fields.get("c-ip")
    if client is not None and (type(client) is list or is_address(client)):
        fields["src_ip"] = client.removeprefix("::ffff:") if type(client) is str else client
    if (port := fields.get("c-port")) is not None:
        fields["src_port"] = _read_count(port)
    if (user := fields.get("cs-username")) is not None:
        fields["user"] = user


def collect(fields: Fields, host: str, *others: Entity | None) -> tuple[Entity, ...]:
    """Entities of a request: the server, the client by each reading, the user, and `others`."""
    found: dict[Entity | None, None] = {}
    if host:
        found[make_host(host)] = None
    client = fields.get("src_ip")
    if type(client) is str:
        found[make_address(client)] = None
    elif type(client) is list:
        for reading in client:
            if type(reading) is str:
                found[make_address(reading)] = None
    if type(user := fields.get("user")) is str:
        found[make_user(user)] = None
    for other in others:
        found[other] = None
    found.pop(None, None)
    return tuple([entity for entity in found if entity is not None])
