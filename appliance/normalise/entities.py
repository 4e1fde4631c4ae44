"""Third station of the line: the typed, product-neutral things that events share.

Forms (each value at most MAX_VALUE characters, control characters escaped):

- host: first label of the name, lower case ("ws5"), or the address itself. The domain is left
  out because half of all records lack it.
- user: `domain\\name` lower case, the domain's first label, or the bare name. Left out: "-",
  machine accounts (`NAME$`), and the system's own accounts, which every host shares.
- process: ProcessGuid, lower case without braces; else `host:pid:image`.
- file: path as given; lower case when it is a Windows path.
- hash: `sha256:`, `sha1:` or `md5:` and lower-case digits. No imphash: unlike programs share it.
- address: canonical text; an IPv4-mapped one as IPv4. Left out: loopback, unspecified,
  link-local, multicast, and the limited broadcast.
- domain: lower case without the final dot.
- service: lower case. session: `host:0x...`; left out: the system's own logon sessions.
"""

import ipaddress
import re
from collections.abc import Callable
from functools import lru_cache, wraps
from hashlib import blake2b
from typing import Any, Final, TypeVar

from appliance.schema import Entity, Fields

#: Longest value, in characters; a longer one ends in a digest so that two never become one.
MAX_VALUE: Final = 512
T = TypeVar("T")

#: Bound of each cache below. Values repeat a lot; a flood of new ones only costs speed.
_CACHE: Final = 8_192
#: Longest text that a cache keeps, in characters: a cache of long ones would hold gigabytes.
_MAX_REMEMBERED: Final = 256
#: Most hashes of one list: Sysmon knows four kinds.
_MAX_HASHES: Final = 16

_HASH_LENGTHS: Final = {"sha256": 64, "sha1": 40, "md5": 32}
_HEX: Final = re.compile(r"[0-9a-f]+")
_WINDOWS_PATH: Final = re.compile(r"[A-Za-z]:|\\|%|[^/]*\\")
#: Accounts that every Windows host has ([MS-DTYP] section 2.4.2.4, well-known SIDs).
_SYSTEM_DOMAINS: Final = frozenset(
    {"nt authority", "window manager", "font driver host", "nt service", "nt virtual machine"}
    | {"iis apppool", "builtin"}
)
_SYSTEM_USERS: Final = frozenset(
    {"", "-", "n/a", "system", "localsystem", "local system", "local service", "network service"}
    | {"localservice", "networkservice", "anonymous logon"}
)
#: Logon sessions 0, SYSTEM, NETWORK SERVICE, LOCAL SERVICE, ANONYMOUS LOGON.
_SYSTEM_SESSIONS: Final = frozenset({0, 0x3E7, 0x3E4, 0x3E5, 0x3E6})
_NO_NAME: Final = frozenset({"", "-", "localhost", "null", "(null)", "n/a"})

#: Fields that hold a path, an address, a name.
_FILE_FIELDS: Final = (
    "Image", "ParentImage", "TargetFilename", "ImageLoaded", "NewProcessName",
    "ParentProcessName", "ProcessName", "SourceImage", "TargetImage", "Application",
)  # fmt: skip
_ADDRESS_FIELDS: Final = (
    "SourceIp", "DestinationIp", "IpAddress", "SourceAddress", "DestAddress", "ClientAddress",
    "RemoteAddress", "ServerAddress",
)  # fmt: skip
_DOMAIN_FIELDS: Final = ("QueryName", "DestinationHostname")
_HOST_FIELDS: Final = ("WorkstationName", "Workstation")
_HASH_FIELDS: Final = ("Hashes", "Hash")
_USER_FIELDS: Final = ("User", "ParentUser", "SourceUser", "TargetUser")
_ACCOUNT_FIELDS: Final = (
    ("SubjectUserName", "SubjectDomainName"),
    ("TargetUserName", "TargetDomainName"),
    ("AccountName", "Domain"),
)
_SESSION_FIELDS: Final = ("LogonId", "SubjectLogonId", "TargetLogonId")
#: GUID, process id and image of one process; a GUID field may be written in two ways.
_PROCESS_FIELDS: Final = (
    ("ProcessGuid", "ProcessGuid", "ProcessId", "Image"),
    ("ParentProcessGuid", "ParentProcessGuid", "ParentProcessId", "ParentImage"),
    ("SourceProcessGuid", "SourceProcessGUID", "SourceProcessId", "SourceImage"),
    ("TargetProcessGuid", "TargetProcessGUID", "TargetProcessId", "TargetImage"),
)
#: The same for channels without GUIDs.
_PROCESS_ID_FIELDS: Final = (
    ("NewProcessId", "NewProcessName"),
    ("ProcessId", "ProcessName"),
    ("ProcessID", "Application"),
)
#: Kerberos events, where ServiceName is an account.
_KERBEROS: Final = frozenset(range(4768, 4774))


def _remember(make: Callable[[str], T]) -> Callable[[str], T]:
    """The maker, with a cache for short texts."""
    recall = lru_cache(maxsize=_CACHE)(make)

    @wraps(make)
    def remember(text: str) -> T:
        return recall(text) if len(text) <= _MAX_REMEMBERED else make(text)

    return remember


def cap_value(text: str) -> str:
    """The text with control characters escaped, and with a digest for what is over MAX_VALUE."""
    if not text.isprintable():
        text = "".join(
            char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
            for char in text[: 2 * MAX_VALUE]
        ) + (text[2 * MAX_VALUE :] and f"~{_shorten(text)}")
    if len(text) > MAX_VALUE:
        return f"{text[: MAX_VALUE - 17]}~{_shorten(text)}"
    return text


def _shorten(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


@_remember
def name_host(text: str) -> str:
    """The host form of a computer name or address; "" when it is none."""
    text = text.strip().rstrip(".").lower()
    if text in _NO_NAME:
        return ""
    if parsed := _parse_address(text):
        return str(parsed)
    return cap_value(text.lstrip("\\").partition(".")[0])


@_remember
def make_host(text: str) -> Entity | None:
    """A host entity; None for no name."""
    name = name_host(text)
    return Entity("host", name) if name else None


def make_user(name: str, domain: str = "") -> Entity | None:
    """A user entity from `DOMAIN\\name`, `name@realm` or the two parts; None for no person's or
    service's account."""
    if len(name) + len(domain) > _MAX_REMEMBERED:
        return _make_user(name, domain)
    return _recall_user(name, domain)


def _make_user(name: str, domain: str) -> Entity | None:
    if "\\" in name:
        domain, _, name = name.rpartition("\\")
    elif "@" in name and not name.startswith("@"):
        name, _, domain = name.rpartition("@")
    name, domain = name.strip().lower(), domain.strip().lower()
    if name in _SYSTEM_USERS or name.endswith("$") or domain in _SYSTEM_DOMAINS:
        return None
    domain = domain.partition(".")[0]
    if domain in ("", "-"):
        return Entity("user", cap_value(name))
    return Entity("user", cap_value(f"{domain}\\{name}"))


_recall_user: Final = lru_cache(maxsize=_CACHE)(_make_user)


@_remember
def make_file(path: str) -> Entity | None:
    """A file entity; None for no path."""
    path = path.strip().strip('"')
    if path in ("", "-", "System", "Registry", "<unknown process>", "MemCompression"):
        return None
    return Entity("file", cap_value(path.lower() if _WINDOWS_PATH.match(path) else path))


def _parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    if len(text) > 64 or not ("." in text or ":" in text):
        return None
    try:
        address = ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


@_remember
def make_address(text: str) -> Entity | None:
    """An address entity; None for no address, or one that says nothing of who it is."""
    address = _parse_address(text.strip())
    if (
        address is None
        or address.is_loopback
        or address.is_unspecified
        or address.is_link_local
        or address.is_multicast
        or str(address) == "255.255.255.255"
    ):
        return None
    return Entity("address", str(address))


@_remember
def make_domain(text: str) -> Entity | None:
    """A domain entity; None for an address or a name without a dot, which is a host's."""
    name = text.strip().rstrip(".").lower()
    if "." not in name or _parse_address(name) is not None:
        return None
    return Entity("domain", cap_value(name))


def make_service(text: str) -> Entity | None:
    """A service entity; None for no name."""
    name = text.strip().lower()
    return Entity("service", cap_value(name)) if name not in _NO_NAME else None


@_remember
def make_hashes(text: str) -> tuple[Entity, ...]:
    """Hash entities of Sysmon's `SHA1=...,MD5=...` text; a bare digest counts by its length."""
    found = []
    for part in text[: 4 * MAX_VALUE].split(","):
        name, sign, digits = part.strip().lower().partition("=")
        if not sign:
            digits = name
            name = next((kind for kind, size in _HASH_LENGTHS.items() if size == len(digits)), "")
        if _HASH_LENGTHS.get(name) == len(digits) and digits.strip("0") and _HEX.fullmatch(digits):
            found.append(Entity("hash", f"{name}:{digits}"))
    return tuple(found[:_MAX_HASHES])


@_remember
def make_process(guid: str) -> Entity | None:
    """A process entity from its GUID; None for none or all zeros."""
    value = guid.strip("{} ").lower()
    return Entity("process", cap_value(value)) if value.strip("0-") else None


def make_process_by_id(host: str, pid: Any, image: Any) -> Entity | None:
    """A process entity from host, process id (number, decimal or 0x text) and image."""
    number = read_number(pid)
    if not number or not isinstance(image, str) or image in ("", "-"):
        return None
    return Entity("process", cap_value(f"{host}:{number}:{image.lower()}"))


def make_session(host: str, logon: Any) -> Entity | None:
    """A session entity from host and logon id; None for the system's own sessions."""
    number = read_number(logon)
    if number is None or number in _SYSTEM_SESSIONS:
        return None
    return Entity("session", f"{host}:{number:#x}")


def read_number(value: Any) -> int | None:
    """A non-negative number from an int, decimal or 0x text; None when it is none or over 64
    bits."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        if len(value) > 20:
            return None
        try:
            value = int(value, 16) if value[:2] in ("0x", "0X") else int(value)
        except ValueError:
            return None
    return value if isinstance(value, int) and 0 <= value < 2**64 else None


#: Fields whose text alone makes an entity, with its maker.
_MAKERS: Final[tuple[tuple[str, Callable[[str], Entity | None]], ...]] = (
    *((name, make_file) for name in _FILE_FIELDS),
    *((name, make_address) for name in _ADDRESS_FIELDS),
    *((name, make_domain) for name in _DOMAIN_FIELDS),
    *((name, make_host) for name in _HOST_FIELDS),
    *((name, make_user) for name in _USER_FIELDS),
)


def collect_entities(fields: Fields, host: str, event_id: int = 0) -> tuple[Entity, ...]:
    """Every entity of an event with Windows field names, in a fixed order, each once.

    `host` is in the form of `name_host`, "" when unknown.
    """
    found: dict[Entity | None, None] = {}
    if host:
        found[make_host(host)] = None
    for name, make in _MAKERS:
        if (value := fields.get(name)) and type(value) is str:
            found[make(value)] = None
    for name in _HASH_FIELDS:
        if (value := fields.get(name)) and type(value) is str:
            found.update(dict.fromkeys(make_hashes(value)))
    for name, domain in _ACCOUNT_FIELDS:
        if (value := fields.get(name)) and type(value) is str:
            realm = fields.get(domain)
            found[make_user(value, realm if type(realm) is str else "")] = None
    for name in _SESSION_FIELDS:
        if value := fields.get(name):
            found[make_session(host, value)] = None
    _collect_processes(fields, host, found)
    if event_id not in _KERBEROS and type(value := fields.get("ServiceName")) is str:
        found[make_service(value)] = None
    if fields.get("ObjectType") == "File" and type(value := fields.get("ObjectName")) is str:
        found[make_file(value)] = None
    found.pop(None, None)
    return tuple(found)  # type: ignore[arg-type]  # None was taken out


def _collect_processes(fields: Fields, host: str, found: dict[Entity | None, None]) -> None:
    for guid, other, pid, image in _PROCESS_FIELDS:
        value = fields.get(guid) or fields.get(other)
        process = make_process(value) if type(value) is str else None
        if process is None and pid in fields:
            process = make_process_by_id(host, fields[pid], fields.get(image))
        found[process] = None
    for pid, image in _PROCESS_ID_FIELDS:
        if (value := fields.get(pid)) is not None and image in fields:
            found[make_process_by_id(host, value, fields[image])] = None
    # In 4688 ProcessId is the creator's (see the bridge to process_creation).
    if "NewProcessId" in fields and "ParentProcessName" in fields:
        found[make_process_by_id(host, fields.get("ProcessId"), fields["ParentProcessName"])] = None
