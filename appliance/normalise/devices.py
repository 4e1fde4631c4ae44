"""Third station of the line: what the readings of network devices and servers have in common.

Their records tell of packets, requests, names and files under names of their own. Told in the
product-neutral names (src_ip, src_port, dst_ip, dst_port, user, result), `list_categories` says
which of Sigma's categories without a product they also are; nothing is made up for a category.
"""

import re
from collections.abc import Callable
from datetime import UTC, timedelta, timezone, tzinfo
from typing import Any, Final

import msgspec

from appliance.normalise.entities import (
    make_address,
    make_domain,
    make_file,
    make_hashes,
    make_host,
    make_user,
)
from appliance.normalise.reading import Context
from appliance.normalise.times import read_time
from appliance.schema import Entity, Fields, LogSource, View

FIREWALL: Final = LogSource(category="firewall")
DNS: Final = LogSource(category="dns")
PROXY: Final = LogSource(category="proxy")
WEBSERVER: Final = LogSource(category="webserver")
ANTIVIRUS: Final = LogSource(category="antivirus")
#: Every log source that `list_categories` can give.
CATEGORIES: Final = (FIREWALL, DNS, PROXY, WEBSERVER, ANTIVIRUS)

#: Words of devices for what they did with a packet or request.
_ALLOWED: Final = frozenset(
    {"accept", "accepted", "allow", "allowed", "permit", "permitted", "pass", "passed", "forward"}
)
_BLOCKED: Final = frozenset(
    {"block", "blocked", "deny", "denied", "drop", "dropped", "reject", "rejected", "discard"}
)
#: Most values of one field that become entities.
_MAX_VALUES: Final = 8
_MAKERS: Final[tuple[tuple[str, Callable[[str], Entity | None]], ...]] = (
    ("src_ip", make_address),
    ("dst_ip", make_address),
    ("user", make_user),
    ("target_user", make_user),
    ("query", make_domain),
    ("answer", make_address),
    ("cs-host", make_domain),
    ("Filename", make_file),
)
_HASHES: Final = ("hash", "md5", "sha1", "sha256")
_TRAILING_ZONE: Final = re.compile(r" (?:(?P<name>[A-Z]{3,4})|(?:GMT)?(?P<offset>[+-]\d\d:?\d\d))$")


class Request(msgspec.Struct, frozen=True):
    """A web request as a device tells it; "" is what it does not tell."""

    url: str
    method: str = ""
    agent: str = ""
    referer: str = ""
    status: str = ""


def judge_action(word: Any) -> bool | None:
    """True for a device's word that it let something pass, False that it did not, else None."""
    if not isinstance(word, str):
        return None
    word = word.strip().lower()
    if word in _ALLOWED:
        return True
    return False if word in _BLOCKED else None


def judge_result(word: Any) -> str:
    """ "success", "failure" or "" for the outcome that a record states."""
    if not isinstance(word, str):
        return ""
    word = word.strip().lower()[:16]
    if word.startswith("succe"):
        return "success"
    return "failure" if word.startswith("fail") else ""


def list_categories(
    fields: Fields, *, request: Request | None = None, threat: str = "", is_server: bool = False
) -> tuple[View, ...]:
    """The category views of a record whose neutral names are in `fields` already.

    `request` is the web request it is about (of a server's own when `is_server`, else a proxy's),
    `threat` the name of what an antivirus found.
    """
    views = []
    if request is not None:
        views.append(_view_server(fields, request) if is_server else _view_proxy(fields, request))
    elif fields.get("query"):
        views.append(View(DNS, fields))
    elif (
        fields.get("src_ip")
        and fields.get("dst_ip")
        and fields.get("action")
        and (fields.get("protocol") or fields.get("dst_port"))
        and not threat
    ):
        allowed = judge_action(fields["action"])
        copy = fields if allowed is None else {**fields, "blocked": str(not allowed).lower()}
        views.append(View(FIREWALL, copy))
    if threat:
        views.append(View(ANTIVIRUS, {**fields, "Signature": threat}))
    return tuple(views)


def split_url(url: str) -> tuple[str, str, str]:
    """Host, path and query of a URL (RFC 3986, section 3) or of the path that a server logs."""
    rest = url
    host = ""
    if "://" in url[:16]:
        rest = url.partition("://")[2]
        end = next((i for i, char in enumerate(rest[:1024]) if char in "/?#"), len(rest))
        host = rest[:end].rpartition("@")[2]
        rest = rest[end:]
        host = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
    path, _, query = rest.partition("?")
    return host, path, query


def _view_proxy(fields: Fields, request: Request) -> View:
    host, path, query = split_url(request.url)
    extension = path.rpartition("/")[2].rpartition(".")
    named: Fields = {
        "c-uri": request.url,
        "cs-host": host,
        "c-uri-query": query,
        "c-uri-stem": path,
        "c-uri-extension": extension[2] if extension[1] else "",
        "cs-method": request.method,
        "c-useragent": request.agent,
        "cs-referrer": request.referer,
        "sc-status": request.status,
    }
    return View(PROXY, {**fields, **{name: value for name, value in named.items() if value}})


def _view_server(fields: Fields, request: Request) -> View:
    host, path, query = split_url(request.url)
    named: Fields = {
        "cs-uri": request.url,
        "cs-host": host,
        # Rules look for paths in it too.
        "cs-uri-query": f"{path}?{query}" if query else path,
        "cs-uri-stem": path,
        "cs-method": request.method,
        "cs-user-agent": request.agent,
        "cs-referer": request.referer,
        "sc-status": request.status,
    }
    return View(WEBSERVER, {**fields, **{name: value for name, value in named.items() if value}})


def collect_neutral(fields: Fields, host: str) -> tuple[Entity, ...]:
    """Entities of a record's neutral names, in a fixed order, each once. `host` is in the form of
    `entities.name_host`, "" when unknown."""
    found: dict[Entity | None, None] = {}
    if host:
        found[make_host(host)] = None
    for name, make in _MAKERS:
        for value in list_texts(fields.get(name)):
            found[make(value)] = None
    for name, held in fields.items():
        if name.lower().endswith(_HASHES):
            for value in list_texts(held):
                found.update(dict.fromkeys(make_hashes(value)))
    found.pop(None, None)
    return tuple(entity for entity in found if entity is not None)


def list_texts(value: Any) -> list[str]:
    """The texts that a field holds: one, the first few of a list, or none."""
    if isinstance(value, str):
        return [value] if value else []
    if isinstance(value, list):
        return [text for text in value[:_MAX_VALUES] if isinstance(text, str) and text]
    return []


def find_text(fields: Fields, *names: str) -> str:
    """The first of the fields that holds exactly one text; "" for none."""
    for name in names:
        if isinstance(value := fields.get(name), str) and value:
            return value
    return ""


def read_zoned_time(value: Any, context: Context) -> float | None:
    """As `times.read_time`, also with a zone behind a time in words (`Nov 22 2026 10:00:00 UTC`,
    `... GMT+02:00`). Another zone's short name says nothing certain: then the source's counts."""
    if not isinstance(value, str) or len(value) > 64:
        return read_time(value, context)
    text = value.strip()
    if match := _TRAILING_ZONE.search(text):
        zone: tzinfo | None = None
        if match["name"] in ("UTC", "GMT"):
            zone = UTC
        elif offset := match["offset"]:
            minutes = int(offset[1:3]) * 60 + int(offset[-2:])
            if minutes < 24 * 60:
                zone = timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes))
        if zone is not None:
            context = msgspec.structs.replace(context, zone=zone)
        text = text[: match.start()]
    return read_time(text, context)
