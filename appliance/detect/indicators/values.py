"""The one form in which values are compared (detect stage, indicators): of feeds and of logs alike.

A key is a kind's letter and the value in UTF-8:

- `h`, hashes: MD5, SHA-1, SHA-256 in lower-case hexadecimal digits; their lengths tell them apart.
- `a`, addresses: as `ipaddress` writes them; an IPv4-mapped one (RFC 4291, section 2.5.5.2) as
  IPv4.
- `n`, networks: address and prefix length (RFC 4632), `192.0.2.0/24`.
- `d`, domains: lower case, A-labels (RFC 5891), no dot at the end.
- `u`, URLs: without scheme, user and fragment, the host as above, no default port, the path as it
  is but for percent-encodings (RFC 3986, section 6.2.2). Logs often lack the scheme, and whoever
  serves one file serves it under both.
- `f`, names of files without their folder: lower case.

Feeds write values so that nobody follows them by mistake (`hxxp://evil[.]example`): both sides are
read as what is meant.
"""

import ipaddress
import re
from collections.abc import Callable
from typing import Any, Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Longest values, in characters: a domain's text (RFC 1035, section 2.3.4), a URL, a file's name
#: (NAME_MAX of Linux, 255 characters of Windows).
MAX_DOMAIN: Final = 253
MAX_URL: Final = 2048
MAX_NAME: Final = 255
#: Longest text of an address with its zone and port.
_MAX_ADDRESS: Final = 80
#: Most parts of one text that lists hashes or names: Sysmon has four hashes.
_MAX_PARTS: Final = 32
#: Most URLs looked for in one text, and how far into it, in characters.
MAX_URLS: Final = 32
MAX_TEXT: Final = 1 << 16

_IPV4: Final = re.compile(r"(?:0|[1-9]\d{0,2})(?:\.(?:0|[1-9]\d{0,2})){3}", re.ASCII)
_HEX: Final = re.compile(r"[0-9a-f]++", re.ASCII)
_HASHES: Final = {32: "md5", 40: "sha1", 64: "sha256"}
_PORT: Final = re.compile(r":\d{1,5}\Z", re.ASCII)
_DEFAULT_PORTS: Final = frozenset({":80", ":443"})
_AUTHORITY_END: Final = re.compile(r"[/?#\\]")
_PERCENT: Final = re.compile(r"%([0-9A-Fa-f]{2})", re.ASCII)
_UNRESERVED: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")
_DEFANGED: Final = re.compile(r"[\[({](\.|dot|:|://|/|@|at)[\])}]", re.IGNORECASE)
_MEANT: Final = {"dot": ".", "at": "@"}
_IN_TEXT: Final = re.compile(r"://([^\s\"'<>|^`\x00-\x20]{4,2048})")
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_BLANK: Final = ("", "-", "?", "null", "(null)")

#: Digests of nothing: every empty file has them.
_EMPTY: Final = frozenset(
    {
        "d41d8cd98f00b204e9800998ecf8427e",
        "da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    }
)
#: Networks whole of which no indicator means: a site's own hosts are in them (RFC 1918, RFC 6598,
#: RFC 4193), or no other host is.
_COMMON: Final[tuple[Network, ...]] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8",
        "0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "fc00::/7", "fe80::/10", "ff00::/8",
        "::1/128",
    )
)  # fmt: skip
#: Shortest prefixes of an indicator: Spamhaus' and other lists of networks have none shorter.
_WIDEST: Final = {4: 8, 6: 16}


def make_key(letter: str, text: str) -> bytes:
    """The key of a value in its compared form."""
    return (letter + text).encode("utf-8", "surrogatepass")


def refang(text: str) -> str:
    """The text as it is meant: `[.]`, `(dot)`, `[:]` and the like as the characters they stand
    for."""
    if "[" not in text and "(" not in text and "{" not in text:
        return text
    return _DEFANGED.sub(lambda found: _MEANT.get(found[1].lower(), found[1]), text)


def read_address(text: str) -> Address | None:
    """The address that the text is, with or without brackets, zone or (IPv4, or in brackets) port;
    None for anything else."""
    if len(text) > _MAX_ADDRESS:
        return None
    if ":" in text:
        if text[0] == "[":
            text, _, port = text[1:].partition("]")
            if port and not _PORT.match(port):
                return None
        elif text.count(":") == 1:
            text = _PORT.sub("", text)
    try:
        if _IPV4.fullmatch(text):
            return ipaddress.IPv4Address(text)
        if text.count(":") > 1:
            address = ipaddress.IPv6Address(text.partition("%")[0])
            return address.ipv4_mapped or address
    except ValueError:
        pass
    return None


def number_ipv4(text: str) -> int | None:
    """The number of an IPv4 address in the compared form, the quick way; None for anything else."""
    if not _IPV4.fullmatch(text):
        return None
    try:
        return int.from_bytes(bytes(map(int, text.split("."))), "big")
    except ValueError:
        return None


def read_domain(text: str) -> str:
    """The name in the compared form; "" for what can be none. Not all that comes through is a
    name: the last MAX_DOMAIN characters of a longer text are taken, from a label's beginning."""
    name = text.strip().rstrip(".").lower()
    if len(name) > MAX_DOMAIN:
        name = name[-MAX_DOMAIN - 1 :].partition(".")[2]
    if not name.isascii():
        try:
            name = name.encode("idna").decode("ascii")
        except UnicodeError:
            return name
    return name


def list_suffixes(name: str) -> list[str]:
    """The name and the domains above it that have a dot, longest first."""
    found = []
    while "." in name:
        found.append(name)
        name = name.partition(".")[2]
    return found


def read_hashes(text: str) -> list[str]:
    """The digests in Sysmon's `SHA1=...,MD5=...,IMPHASH=...` or a text that is one; in the compared
    form. An import hash is none: unlike programs share it."""
    found = []
    for part in text[: _MAX_PARTS * 80].split(",")[:_MAX_PARTS]:
        name, sign, digits = part.rpartition("=")
        digits = digits.strip().lower()
        kind = _HASHES.get(len(digits))
        if kind is None or not _HEX.fullmatch(digits):
            continue
        if not sign or name.strip().lower().replace("-", "") == kind:
            found.append(digits)
    return found


def read_file_name(path: str) -> str:
    """The name in the compared form of the last part of a path; "" where it is none."""
    name = path[-2 * MAX_NAME :].replace("\\", "/").rpartition("/")[2].strip().strip('"').lower()
    return name if len(name) <= MAX_NAME and name not in _BLANK else ""


def read_url(text: str) -> tuple[str, str, str] | None:
    """(host, port, rest) of a URL with its scheme: the host in the compared form, the port with its
    colon or "" for a default one, the rest from the path on. None for anything else."""
    text = refang(text[: MAX_URL + _MAX_ADDRESS]).strip()
    scheme, sign, rest = text.partition("://")
    if not sign or not scheme or len(scheme) > _MAX_PARTS:
        return None
    return _split_authority(rest)


def _split_authority(text: str) -> tuple[str, str, str] | None:
    """The same of what stands behind the scheme."""
    end = _AUTHORITY_END.search(text)
    cut = end.start() if end else len(text)
    host, rest = text[:cut].rpartition("@")[2], text[cut:].partition("#")[0].replace("\\", "/")
    port = ""
    if found := _PORT.search(host):
        port = found[0]
        host = host[: found.start()]
    address = read_address(host)
    name = str(address) if address is not None else read_domain(host)
    if not name:
        return None
    if port in _DEFAULT_PORTS:
        port = ""
    if rest[:1] != "/":
        rest = f"/{rest}"
    return name, port, _PERCENT.sub(_plain_percent, rest) if "%" in rest else rest


def _plain_percent(found: re.Match[str]) -> str:
    char = chr(int(found[1], 16))
    return char if char in _UNRESERVED else f"%{found[1].upper()}"


def write_url(parts: tuple[str, str, str]) -> str:
    """The compared form of a URL's parts."""
    host, port, rest = parts
    return f"[{host}]{port}{rest}" if ":" in host else f"{host}{port}{rest}"


def find_urls(text: str) -> list[tuple[str, str, str]]:
    """The URLs that stand in a text, a command line or a script: each as it is, and without the
    punctuation behind it."""
    found: dict[tuple[str, str, str], None] = {}
    seen: set[str] = set()
    for place in _IN_TEXT.finditer(text[:MAX_TEXT]):
        if len(found) >= MAX_URLS or len(seen) >= 2 * MAX_URLS:
            break
        whole = place[1]
        if whole in seen:
            continue
        seen.add(whole)
        for part in dict.fromkeys((whole, whole.rstrip(".,;:!?)]}\\"))):
            parts = _split_authority(refang(part))
            if parts is not None:
                found[parts] = None
    return list(found)


def _key_hash(kind: str, value: str) -> bytes:
    digits = value.strip().lower()
    if _HASHES.get(len(digits)) != kind or not _HEX.fullmatch(digits):
        raise ValueError(f"no {kind} digest")
    if digits in _EMPTY or not digits.strip("0"):
        raise ValueError("the digest of nothing")
    return make_key("h", digits)


def _key_address(_: str, value: str) -> bytes:
    address = read_address(refang(value).strip())
    if address is None:
        raise ValueError("no address")
    if (
        address.is_loopback
        or address.is_unspecified
        or address.is_link_local
        or address.is_multicast
        or str(address) == "255.255.255.255"
    ):
        raise ValueError("an address that is every host's")
    return make_key("a", str(address))


def parse_network(text: str) -> Network:
    """The network that the text is, bits beyond its prefix cleared. Raises ValueError."""
    network = ipaddress.ip_network(text, strict=False)
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is not None and network.prefixlen >= 96:
        return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


def _key_network(_: str, value: str) -> bytes:
    text = refang(value).strip()
    if len(text) > _MAX_ADDRESS:
        raise ValueError("no network")
    try:
        network = parse_network(text)
    except ValueError:
        raise ValueError("no network") from None
    if network.prefixlen == network.max_prefixlen:
        return _key_address("", str(network.network_address))
    if network.prefixlen < _WIDEST[network.version]:
        raise ValueError("a network that is too wide to mean anything")
    for common in _COMMON:
        if network.version == common.version and network.supernet_of(common):  # type: ignore[arg-type]
            raise ValueError(f"a network that holds all of {common}")
    return make_key("n", str(network))


def _is_domain(name: str) -> bool:
    labels = name.split(".")
    return len(labels) > 1 and all(map(_LABEL.fullmatch, labels)) and not labels[-1].isdecimal()


def _key_domain(_: str, value: str) -> bytes:
    text = refang(value).strip()
    if len(text) > MAX_DOMAIN + 1:
        raise ValueError("no domain")
    name = read_domain(text).removeprefix("*.")
    if not _is_domain(name):
        raise ValueError("no domain with a dot")
    return make_key("d", name)


def _key_url(_: str, value: str) -> bytes:
    text = refang(value.strip())
    if len(text) > MAX_URL:
        raise ValueError("a URL that is too long")
    parts = read_url(text) if "://" in text else _split_authority(text)
    if parts is None or (read_address(parts[0]) is None and not _is_domain(parts[0])):
        raise ValueError("no URL")
    if not write_url(parts).isprintable():
        raise ValueError("no URL")
    return make_key("u", write_url(parts))


def _key_file(_: str, value: str) -> bytes:
    name = read_file_name(value)
    if not name or not name.isprintable():
        raise ValueError("no file's name")
    return make_key("f", name)


#: How a value of each kind is read.
_KEYS: Final[dict[str, Callable[[str, str], bytes]]] = {
    "md5": _key_hash,
    "sha1": _key_hash,
    "sha256": _key_hash,
    "address": _key_address,
    "network": _key_network,
    "domain": _key_domain,
    "url": _key_url,
    "file": _key_file,
}

#: What a key's letter says; a hash by its length.
_KINDS: Final = {"a": "address", "n": "network", "d": "domain", "u": "url", "f": "file"}


def key_indicator(kind: Any, value: Any) -> bytes:
    """The key of an indicator. Raises ValueError with the reason for one that nothing can be
    looked for by: it is no such value, or every healthy host shows it."""
    read = _KEYS.get(kind) if type(kind) is str else None
    if read is None or type(value) is not str:
        raise ValueError("of a kind that is not known")
    return read(kind, value)


def split_key(key: bytes) -> tuple[str, str]:
    """Kind and value of a key. Raises ValueError for what is none."""
    text = key.decode("utf-8", "surrogatepass")
    letter, value = text[:1], text[1:]
    kind = _HASHES.get(len(value)) if letter == "h" else _KINDS.get(letter)
    if kind is None:
        raise ValueError("no key of an indicator")
    return kind, value
