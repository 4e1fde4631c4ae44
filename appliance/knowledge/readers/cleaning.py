"""Knowledge, reading: what every reader does to the texts, times and values of a foreign source.

A source is hostile: its texts go to a terminal, its values into the detector. So texts lose every
character that does not print and everything over a length, and an indicator that would match what
every healthy system does is refused here, with the reason.
"""

import ipaddress
import re
from datetime import UTC, datetime
from typing import Final, cast

from appliance.knowledge.entries import IndicatorKind

#: Longest text of an entry or a link, and longest title, in characters.
MAX_TEXT: Final = 8_000
MAX_TITLE: Final = 200
#: Longest URL. The longest that browsers and proxies agree on is 2,048 characters.
MAX_URL: Final = 4_096
#: Longest file name that a file system takes, in characters.
MAX_FILE: Final = 255
#: Longest domain name in its text form, RFC 1035 section 2.3.4.
MAX_DOMAIN: Final = 253
#: Shortest prefix of a network: anything shorter holds a good part of the Internet.
MIN_PREFIX: Final = {4: 8, 6: 16}

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_HASH_LENGTHS: Final = {"md5": 32, "sha1": 40, "sha256": 64}
HASH_KINDS: Final[dict[int, IndicatorKind]] = {32: "md5", 40: "sha1", 64: "sha256"}
_HEX: Final = re.compile(r"[0-9a-f]+")
#: Digests of no bytes at all: every host holds empty files.
_EMPTY_FILE: Final = frozenset(
    {
        "d41d8cd98f00b204e9800998ecf8427e",
        "da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    }
)
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
#: Registries below a country's domain under which anyone may register.
_REGISTRIES: Final = frozenset(
    f"{second}.{country}"
    for second in ("ac", "co", "com", "edu", "gob", "gov", "go", "net", "ne", "or", "org")
    for country in (
        "ar", "at", "au", "bd", "br", "cn", "co", "eg", "es", "hk", "id", "il", "in", "jp", "ke",
        "kr", "mx", "my", "ng", "nz", "pe", "ph", "pk", "pl", "sa", "sg", "th", "tr", "tw", "ua",
        "uk", "ve", "vn", "za",
    )
)  # fmt: skip
#: Names that an attacker may borrow but that every system has.
_COMMON_FILES: Final = frozenset(
    {
        # Windows
        "svchost.exe", "explorer.exe", "lsass.exe", "csrss.exe", "services.exe", "winlogon.exe",
        "wininit.exe", "smss.exe", "spoolsv.exe", "taskhost.exe", "taskhostw.exe", "conhost.exe",
        "dllhost.exe", "rundll32.exe", "regsvr32.exe", "cmd.exe", "powershell.exe", "pwsh.exe",
        "wscript.exe", "cscript.exe", "mshta.exe", "msiexec.exe", "regedit.exe", "reg.exe",
        "schtasks.exe", "net.exe", "net1.exe", "sc.exe", "whoami.exe", "certutil.exe",
        "bitsadmin.exe", "notepad.exe", "calc.exe", "chrome.exe", "firefox.exe", "msedge.exe",
        "iexplore.exe", "outlook.exe", "winword.exe", "excel.exe", "wmiprvse.exe", "wmic.exe",
        "setup.exe", "install.exe", "update.exe", "updater.exe", "uninstall.exe", "kernel32.dll",
        "ntdll.dll", "user32.dll", "advapi32.dll", "desktop.ini", "thumbs.db", "autorun.inf",
        # Unix
        "bash", "sh", "dash", "zsh", "ls", "cat", "ps", "ssh", "sshd", "cron", "sudo", "su",
        "python", "python3", "perl", "curl", "wget", "systemd", "init", "passwd", "shadow",
        "authorized_keys", "libc.so.6",
        # anywhere
        "index.html", "index.htm", "index.php", "readme.md", "readme.txt", "license", "license.txt",
        "setup.py", "package.json", "favicon.ico", "robots.txt", "config.json", "manifest.json",
    }
)  # fmt: skip
_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ftp": 21}
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,31}://")
_PERCENT: Final = re.compile(r"%[0-9A-Fa-f]{2}")
#: What RFC 3986 section 3 does not let stand in a path and query; "[", "]" and "|" are tolerated.
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9%/:?@!$&'()*+,;=._~\[\]|-]+")
#: Scheme, authority, path, query (RFC 3986 appendix B), and the authority's host and port.
_URL: Final = re.compile(r"([A-Za-z0-9+.-]+)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.DOTALL)
_AUTHORITY: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+))(?::([0-9]{0,5}))?")
_DEFANGED_DOT: Final = re.compile(r"\[\.\]|\(\.\)|\{\.\}|\[dot\]|\(dot\)", re.IGNORECASE)
_DEFANGED_COLON: Final = re.compile(r"\[:(//)?\]")
_DEFANGED_SCHEME: Final = re.compile(r"^(?:h(?:xx|\*\*|tt)p(s?)|fxp)(?=\[?:)", re.IGNORECASE)
#: A citation's name may hold brackets, and a link's target too; every run is bounded.
_CITATION: Final = re.compile(
    r" {0,3}\(Citation:(?>[^()]{0,300})(?:\((?>[^()]{0,300})\)(?>[^()]{0,300})){0,4}\)"
)
_LINK: Final = re.compile(
    r"\[([^\[\]]{0,400})\]\((?>[^()\s]{0,2000})(?:\((?>[^()\s]{0,400})\)(?>[^()\s]{0,400})){0,4}\)"
)
_BREAK: Final = re.compile(r"<(?:br ?/?|/?p|/?li|/?ul)>")
_TAG: Final = re.compile(r"</?(?:code|pre|b|i|u|em|strong)>")
#: Last second of the year 9999.
_LAST_TIME: Final = 253_402_300_799.0
_EPOCH_TIME: Final = re.compile(r"[0-9]{9,10}(?:\.[0-9]{1,9})?")
_EPOCH_MILLISECONDS: Final = re.compile(r"[0-9]{13}")
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def clean_prose(text: str, most: int = MAX_TEXT) -> str:
    """The text as paragraphs joined by "\\n", each without runs of white space and without
    characters that do not print (controls, bidirectional overrides, lone surrogates); at most
    `most` (>= 4) characters, cut with "...". Linear in min(len(text), 4 * most)."""
    lines = (_clean_line(line) for line in text[: 4 * most].splitlines())
    return _cut("\n".join(line for line in lines if line), most, more=len(text) > 4 * most)


def clean_title(text: str) -> str:
    """The text in one line, at most MAX_TITLE characters, cut with "..."."""
    line = _clean_line(" ".join(text[: 4 * MAX_TITLE].splitlines()))
    return _cut(line, MAX_TITLE, more=len(text) > 4 * MAX_TITLE)


def quote_value(value: object) -> str:
    """A hostile value as a reason may cite it: printing, one line, at most 60 characters. What is
    not a text is told by its type, since its form may be as large as the file."""
    if not isinstance(value, str):
        return type(value).__name__
    return f'"{_cut(_clean_line(value[:240]), 60, more=len(value) > 240)}"'


def parse_time(text: str) -> float:
    """Seconds since 1970 of an RFC 3339 or ISO 8601 time, of a date (its first second), of seconds
    (9 or 10 digits) or milliseconds (13) since 1970. Without a zone it is UTC. ValueError for
    anything else, and before 1970."""
    text = text.strip() if len(text) <= 64 else ""
    if _EPOCH_TIME.fullmatch(text):
        return float(text)
    if _EPOCH_MILLISECONDS.fullmatch(text):
        return int(text) / 1_000
    try:
        if not _DATE.match(text):
            raise ValueError
        time = datetime.fromisoformat(text)
        seconds = (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"{quote_value(text)} is no time") from None
    if not 0 <= seconds <= _LAST_TIME:
        raise ValueError(f"{quote_value(text)} is before 1970")
    return seconds


def name_software(vendor: str, product: str) -> str:
    """Id of a piece of software: `software:<vendor>/<product>` in lower case, white space as one
    space. The first "/" parts the two: one in the vendor's name becomes a space. "" when the
    product has no name."""
    maker = _name_part(vendor).replace("/", " ") or "unknown"
    part = _name_part(product)
    return part and f"software:{maker}/{part}"


def _name_part(name: str) -> str:
    part = clean_title(name).lower()
    return "" if part in ("n/a", "unknown", "unspecified", "-", "*") else part


def refang(text: str) -> str:
    """The value as it was before someone made it safe to click: hxxp, [.], (.), {.}, [dot], [:]."""
    if len(text) > 2 * MAX_URL:
        return text
    text = _DEFANGED_DOT.sub(".", text)
    text = _DEFANGED_SCHEME.sub(lambda found: f"{_scheme_of(found[0])}{found[1] or ''}", text)
    return _DEFANGED_COLON.sub(lambda found: f":{found[1] or ''}", text).replace("[@]", "@")


def settle_indicator(kind: str, value: str) -> tuple[IndicatorKind, str]:
    """Kind and normalised value. Unlike `normalise_indicator` it corrects what sources mix up: an
    "address" with a prefix is a network, a network of one address is an address. ValueError as
    there."""
    if kind == "address" and "/" in value:
        kind = "network"
    if kind == "network":
        network = _parse_network(value)
        if network.prefixlen == network.max_prefixlen:
            return "address", normalise_indicator("address", str(network.network_address))
    return cast(IndicatorKind, kind), normalise_indicator(kind, value)


def normalise_indicator(kind: str, value: str) -> str:
    """The one form of an indicator's value, by its IndicatorKind:

    - md5, sha1, sha256: lower-case hex digits;
    - address: as `ipaddress` writes it, an IPv4-mapped one as IPv4, without a zone;
    - network: address of the network, "/", prefix length (RFC 4632);
    - domain: lower case, A-labels (RFC 5890), no final dot, no leading "*.": it stands for itself
      and the names below it;
    - url: scheme, host and percent escapes in one case (RFC 3986 section 6.2.2), no default port,
      no user information, no fragment, "/" for an empty path; http where no scheme is given;
    - file: the name without its folder, its case as given.

    ValueError with the reason for what is no such value, and for what healthy systems are full of:
    loopback, unspecified, broadcast, multicast and link-local addresses; networks wider than /8
    (IPv4) or /16 (IPv6); top-level domains and countries' registries; digests of the empty file;
    file names that every system has. Private and documentation addresses stay: they may be meant.
    """
    value = value.strip() if len(value) <= 2 * MAX_URL else value
    normalise = _NORMALISERS.get(kind)
    if normalise is None:
        raise ValueError(f"{quote_value(kind)} is no kind of indicator")
    if not value:
        raise ValueError("the value is empty")
    return normalise(kind, value)


def _normalise_hash(kind: str, value: str) -> str:
    digest = value.lower() if len(value) == _HASH_LENGTHS[kind] else ""
    if not _HEX.fullmatch(digest):
        raise ValueError(f"{quote_value(value)} is no {kind}")
    if digest in _EMPTY_FILE:
        raise ValueError(f"the {kind} of the empty file is on every system")
    if digest.count(digest[0]) == len(digest):
        raise ValueError(f"{quote_value(value)} stands for no {kind}")
    return digest


def _normalise_address(_: str, value: str) -> str:
    try:
        if len(value) > 64:
            raise ValueError
        address = _unmap(ipaddress.ip_address(value.strip("[]").partition("%")[0]))
    except ValueError:
        raise ValueError(f"{quote_value(value)} is no address") from None
    _refuse_everywhere(address)
    return str(address)


def _unmap(address: Address) -> Address:
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def _refuse_everywhere(address: Address) -> None:
    """ValueError for an address that every host has or that names no host."""
    for is_so, what in (
        (address.is_unspecified or (address.version == 4 and int(address) >> 24 == 0), "no host"),
        (address.is_loopback, "every host itself"),
        (address.is_multicast, "a multicast group"),
        (address.is_link_local, "some host on every link"),
        (address.version == 4 and int(address) == 0xFFFFFFFF, "every host (broadcast)"),
    ):
        if is_so:
            raise ValueError(f"{address} is {what}")


def _normalise_network(_: str, value: str) -> str:
    network = _parse_network(value)
    if network.prefixlen < MIN_PREFIX[network.version]:
        raise ValueError(
            f"{network} is wider than /{MIN_PREFIX[network.version]} and would match too much"
        )
    _refuse_everywhere(network.network_address)
    return str(network)


def _parse_network(value: str) -> Network:
    try:
        if len(value) > 64:
            raise ValueError
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError(f"{quote_value(value)} is no network") from None
    mapped = network.network_address
    if isinstance(mapped, ipaddress.IPv6Address) and mapped.ipv4_mapped and network.prefixlen >= 96:
        return ipaddress.ip_network((mapped.ipv4_mapped, network.prefixlen - 96))
    return network


def _normalise_domain(_: str, value: str) -> str:
    domain = _name_domain(value.removeprefix("*."))
    if domain is None:
        raise ValueError(f"{quote_value(value)} is no domain")
    if "." not in domain:
        raise ValueError(f"{quote_value(domain)} is a bare top-level domain or a host's own name")
    if domain in _REGISTRIES:
        raise ValueError(f"{quote_value(domain)} is a registry, under which anyone may register")
    return domain


def _name_domain(value: str) -> str | None:
    """The name in lower-case A-labels without its final dot; None when it is no domain name."""
    name = value.lower().removesuffix(".")
    if not name.isascii():
        try:
            # The codec takes time by the square of a label's length: ask it for short names only.
            name = name.encode("idna").decode("ascii").lower() if len(name) <= MAX_DOMAIN else ""
        except UnicodeError:
            return None
    labels = name.split(".") if len(name) <= MAX_DOMAIN else [""]
    if not all(_LABEL.fullmatch(label) for label in labels) or labels[-1].isdigit():
        return None
    return name


def _normalise_url(_: str, value: str) -> str:
    wrong = ValueError(f"{quote_value(value)} is no URL")
    if len(value) > MAX_URL:
        raise ValueError(f"{quote_value(value)} is longer than {MAX_URL} characters")
    if not value.isprintable() or " " in value or "\\" in value:
        raise wrong
    parts = _URL.fullmatch(value if _SCHEME.match(value) else f"http://{value}")
    where = _AUTHORITY.fullmatch(parts[2].rpartition("@")[2]) if parts else None
    name = _name_url_host(where[1] or where[2]) if where else None
    if not parts or not where or name is None or int(where[3] or 0) > 65_535:
        raise wrong
    scheme, port = parts[1].lower(), int(where[3] or 0)
    told = f":{port}" if port and port != _DEFAULT_PORTS.get(scheme) else ""
    rest = (parts[3] or "/") + (f"?{parts[4]}" if parts[4] else "")
    return f"{scheme}://{name}{told}{_escape_url(rest)}"


def _name_url_host(host: str) -> str | None:
    """A URL's host as an address or a domain name; None when it is neither or every host's."""
    try:
        address = _unmap(ipaddress.ip_address(host))
    except ValueError:
        return _name_domain(host) if host and host != "localhost" else None
    if address.is_loopback or address.is_unspecified:
        return None
    return f"[{address}]" if address.version == 6 else str(address)


def _escape_url(text: str) -> str:
    escaped = _UNSAFE.sub(
        lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8")), text
    )
    return _PERCENT.sub(lambda found: found[0].upper(), escaped)


def _normalise_file(_: str, value: str) -> str:
    name = re.split(r"[/\\]", value[-2 * MAX_FILE :])[-1].strip()
    if not name or len(name) > MAX_FILE or not name.isprintable() or name in (".", ".."):
        raise ValueError(f"{quote_value(value)} is no file name")
    if "*" in name or "?" in name or "%" in name:
        raise ValueError(f"{quote_value(value)} is a pattern, not a file name")
    if name.lower() in _COMMON_FILES or len(name) < 3:
        raise ValueError(f"{quote_value(name)} is a file name that every system may have")
    return name


_NORMALISERS: Final = {
    "md5": _normalise_hash,
    "sha1": _normalise_hash,
    "sha256": _normalise_hash,
    "address": _normalise_address,
    "network": _normalise_network,
    "domain": _normalise_domain,
    "url": _normalise_url,
    "file": _normalise_file,
}


def _scheme_of(defanged: str) -> str:
    return "ftp" if defanged.lower().startswith("fxp") else "http"


def _clean_line(text: str) -> str:
    line = " ".join(text.split())
    return line if line.isprintable() else _drop_unprintable(line)


def _drop_unprintable(line: str) -> str:
    # Dropping may leave two spaces side by side.
    return " ".join("".join(char for char in line if char.isprintable()).split())


def _cut(text: str, most: int, *, more: bool) -> str:
    if len(text) <= most and not more:
        return text
    return f"{text[: most - 3].rstrip()}..."


def drop_marks(text: str) -> str:
    """ATT&CK prose without citation marks, the targets of its links, and markup. Reads no more
    than `clean_prose` does."""
    text = _LINK.sub(r"\1", _CITATION.sub("", text[: 4 * MAX_TEXT]))
    return _TAG.sub("", _BREAK.sub("\n", text))
