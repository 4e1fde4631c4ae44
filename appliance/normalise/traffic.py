"""Third station of the line: what the network sensors' normalisers share.

The Sigma taxonomy's names for HTTP, and entities from fields that hold one value or a list of them.

Rules of the categories proxy and webserver disagree on what a URI's field holds, and whether it is
decoded. So such a field holds each reading there is, as a list, of which any may match.
"""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final

from appliance.normalise.entities import make_address, make_domain
from appliance.normalise.request import is_address, put_target
from appliance.schema import Entity, Fields, LogSource

DNS: Final = LogSource(category="dns")
FIREWALL: Final = LogSource(category="firewall")
PROXY: Final = LogSource(category="proxy")
WEBSERVER: Final = LogSource(category="webserver")
#: A sensor between client and server sees what a proxy and what the web server would log.
HTTP_SOURCES: Final = (PROXY, WEBSERVER)

#: Most values of one list that become entities.
MAX_EACH: Final = 8
#: Longest extension of a file name, in characters.
MAX_EXTENSION: Final = 16
#: What a name ends in that only turns an address around, or stays on the local link.
_NO_DOMAINS: Final = (".in-addr.arpa", ".ip6.arpa", ".local")

Maker = Callable[[str], Entity | None]


def copy_fields(fields: Fields, names: Iterable[tuple[str, str]]) -> None:
    """Give fields a second name; a field that the record has under that name itself stays."""
    for own, name in names:
        value = fields.get(own)
        if value is not None and name not in fields:
            fields[name] = value


def put_uri(fields: Fields, uri: Any, host: Any, method: Any) -> None:
    """Add the taxonomy's names for what an HTTP request asked for, in all readings of `request`:
    under the names of web servers, and under those of proxies, which have the whole URL too.

    `host` is the Host header, with or without a port. A client that sent no user agent has an empty
    one, as a proxy logs it.
    """
    name = _strip_port(host) if type(host) is str else ""
    if name:
        fields["cs-host"] = name
        if not is_address(name):
            fields["r-dns"] = name
    if method:
        fields.setdefault("c-useragent", "")
    if type(uri) is not str or not uri:
        return
    put_target(fields, [uri])
    readings = fields["cs-uri"]
    if name and uri[0] == "/":
        listed = readings if type(readings) is list else [readings]
        readings = [*listed, f"http://{host}{uri}"]
    fields["c-uri"] = readings
    fields["c-uri-stem"] = stem = fields["cs-uri-stem"]
    fields["c-uri-query"] = fields["cs-uri-query"]
    path = stem if type(stem) is str else stem[-1]
    file_name, dot, extension = path.rpartition("/")[2].rpartition(".")
    if dot and file_name and len(extension) <= MAX_EXTENSION and extension.isalnum():
        fields["c-uri-extension"] = extension


def _strip_port(host: str) -> str:
    head, colon, port = host.rpartition(":")
    return (head if colon and port.isdecimal() else host).strip("[]")


def add_entities(found: dict[Entity | None, None], value: Any, make: Maker) -> None:
    """Add the entities of a text or of the first texts of a list."""
    if type(value) is str:
        found[make(value)] = None
    elif type(value) is list:
        for part in islice(value, MAX_EACH):
            if type(part) is str:
                found[make(part)] = None


def make_name(text: str) -> Entity | None:
    """A domain entity from a name that was asked for or connected to, with or without a port;
    an address entity when it is one. None for names that only turn an address around and for
    those of the local link."""
    name = text.strip().rstrip(".").lower()
    if (address := make_address(name)) is not None:
        return address
    head, colon, port = name.rpartition(":")
    if colon and port.isdecimal():
        name = head
        if (address := make_address(name)) is not None:
            return address
    if name.endswith(_NO_DOMAINS) or len(name.split(None, 1)) > 1:
        return None
    return make_domain(name)


def list_entities(found: dict[Entity | None, None]) -> tuple[Entity, ...]:
    """The entities in the order in which they were found, each once."""
    return tuple(entity for entity in found if entity is not None)
