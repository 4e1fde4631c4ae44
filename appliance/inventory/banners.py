"""Inventory, what programs say of themselves over the network and when they start.

User agents (RFC 9110 section 10.1.5), Server headers (section 10.2.4), SSH identification strings
(RFC 4253 section 4.2), and the messages with which services begin. A user agent and a client's
banner are whatever the client chose to say.
"""

import re
from typing import Any, Final

from appliance.inventory.seen import Product, clean_name, clean_version

#: Longest user agent or banner that is read, in characters, and most products of a Server header.
MAX_BANNER: Final = 512
MAX_TOKENS: Final = 6

_CHROME: Final = ("Google", "Chrome")
_EDGE: Final = ("Microsoft", "Edge")
_FIREFOX: Final = ("Mozilla", "Firefox")
#: Product token of a user agent -> vendor and product. Of several the first in this order counts:
#: every browser names those that it wants to be taken for.
_AGENTS: Final[dict[str, tuple[str, str]]] = {
    "Edg": _EDGE, "EdgA": _EDGE, "EdgiOS": _EDGE, "Edge": _EDGE,
    "OPR": ("Opera", "Opera"), "Vivaldi": ("Vivaldi", "Vivaldi"),
    "YaBrowser": ("Yandex", "Yandex Browser"),
    "SamsungBrowser": ("Samsung", "Samsung Internet"),
    "Thunderbird": ("Mozilla", "Thunderbird"), "SeaMonkey": ("Mozilla", "SeaMonkey"),
    "Firefox": _FIREFOX, "FxiOS": _FIREFOX,
    "HeadlessChrome": _CHROME, "CriOS": _CHROME, "Chrome": _CHROME,
    "curl": ("curl", "curl"), "Wget": ("GNU", "Wget"), "wget": ("GNU", "Wget"),
    "python-requests": ("Python", "Requests"), "Python-urllib": ("Python", "Python"),
    "aiohttp": ("aio-libs", "aiohttp"), "Java": ("", "Java"),
    "Apache-HttpClient": ("Apache", "HttpClient"), "okhttp": ("Square", "OkHttp"),
    "Go-http-client": ("Go", "net/http client"), "libwww-perl": ("", "libwww-perl"),
    "WindowsPowerShell": ("Microsoft", "Windows PowerShell"),
    "PowerShell": ("Microsoft", "PowerShell"),
    "git": ("Git", "Git"),
}  # fmt: skip
_AGENT: Final = re.compile(
    rf"(?:^|[ (;])({'|'.join(map(re.escape, _AGENTS))})/(\d[0-9A-Za-z._-]{{0,39}})"
)
_ORDER: Final = {name: place for place, name in enumerate(_AGENTS)}
_SAFARI: Final = re.compile(r" Version/(\d[0-9.]{0,19}) (?:Mobile/\w{1,16} )?Safari/")
_EXPLORER: Final = re.compile(r"MSIE (\d{1,2}\.\d{1,2})|Trident/7\.0;[^()]{0,200} rv:(\d{1,2}\.\d)")
_SYSTEM: Final = re.compile(
    r"Windows NT (?P<windows>\d{1,2}\.\d)|Android (?P<android>\d[0-9.]{0,9})"
    r"|(?P<ipad>iPad; )?(?:U; )?CPU (?:iPhone )?OS (?P<ios>\d{1,2}(?:_\d{1,2}){1,2})"
    r"|Mac OS X (?P<mac>\d{1,2}[._]\d{1,2}(?:[._]\d{1,2})?)"
)
#: What browsers say of every macOS since 2020.
_FROZEN_MACOS: Final = frozenset({"10.15", "10.15.7"})

#: Product token of a Server header -> vendor and product.
_SERVERS: Final[dict[str, tuple[str, str]]] = {
    "apache": ("Apache", "HTTP Server"), "nginx": ("F5", "nginx"),
    "openresty": ("OpenResty", "OpenResty"), "microsoft-iis": ("Microsoft", "IIS"),
    "openssl": ("OpenSSL", "OpenSSL"), "php": ("PHP Group", "PHP"),
    "apache-coyote": ("Apache", "Tomcat Coyote"), "tomcat": ("Apache", "Tomcat"),
    "jetty": ("Eclipse", "Jetty"), "lighttpd": ("lighttpd", "lighttpd"),
    "werkzeug": ("Pallets", "Werkzeug"), "python": ("Python", "Python"),
    "gunicorn": ("gunicorn", "gunicorn"), "miniserv": ("Webmin", "Webmin"),
    "mod_ssl": ("Apache", "mod_ssl"), "mod_perl": ("Apache", "mod_perl"),
    "squid": ("Squid", "Squid"), "cups": ("Apple", "CUPS"),
}  # fmt: skip
_TOKEN: Final = re.compile(r"([A-Za-z][A-Za-z0-9_.-]{1,39})[/(](\d[0-9A-Za-z._+~-]{0,39})")

_NAMED: Final = re.compile(r"(Microsoft )?([A-Za-z][\w .-]{1,79}?) v?(\d[\d.]{0,30})")

_SSH_START: Final = re.compile(r"SSH-\d\.\d{1,2}-")
_SSH: Final = re.compile(
    r"([A-Za-z][A-Za-z0-9.]{0,30}?(?:_for_Windows)?)(?:_[Rr]elease)?[_ /-]v?(\d[0-9A-Za-z.]{0,30})"
    r"(?: ((?:Debian|Ubuntu|FreeBSD|Raspbian|NetBSD)[0-9A-Za-z.+~-]{0,30}))?"
)
_SSH_NAMES: Final[dict[str, tuple[str, str]]] = {
    "openssh": ("OpenBSD", "OpenSSH"), "openssh_for_windows": ("OpenBSD", "OpenSSH for Windows"),
    "putty": ("Simon Tatham", "PuTTY"), "winscp": ("WinSCP", "WinSCP"),
    "dropbear": ("Dropbear", "Dropbear SSH"), "libssh": ("libssh", "libssh"),
    "libssh2": ("libssh2", "libssh2"), "paramiko": ("Paramiko", "Paramiko"),
    "cisco": ("Cisco", "IOS SSH server"), "jsch": ("JCraft", "JSch"),
    "filezilla": ("FileZilla", "FileZilla"), "asyncssh": ("AsyncSSH", "AsyncSSH"),
}  # fmt: skip
_SSHD_SAYS: Final = re.compile(
    r"(?:debug1: )?(?:Remote|Client) protocol version \d\.\d{1,2}[,;] (?:remote|client) software"
    r" version (?P<banner>\S.{0,100})$"
)
_SSHD_BEGINS: Final = re.compile(r"(?:debug1: )?sshd version (?P<banner>OpenSSH_\S{1,40})")

#: Program in syslog -> product, and how its message tells the version.
_STARTS: Final[dict[str, tuple[str, str, re.Pattern[str]]]] = {
    program: (vendor, product, re.compile(form))
    for programs, vendor, product, form in (
        (
            "kernel",
            "Linux",
            "Kernel",
            r"(?:\[ {0,12}\d{1,12}\.\d{1,9}\] )?Linux version (\d\S{1,60}) \(",
        ),
        ("systemd", "systemd", "systemd", r"systemd (\d\S{0,40}) (?:\(\S{1,60}\) )?running in "),
        ("exim exim4", "Exim", "Exim", r"(?:\S{1,40} )?exim (\d\S{0,20}) daemon started"),
        ("named", "ISC", "BIND", r"starting BIND (\d\S{0,40})"),
        ("postgres", "PostgreSQL", "PostgreSQL", r".{0,80}?starting PostgreSQL (\d\S{0,20})"),
        (
            "mysqld mariadbd",
            "",
            "MySQL",
            r".{0,80}?mysqld(?: \(mysqld (\d[\w.-]{0,40})\))? (?:starting as process|\(server )",
        ),
        ("smbd nmbd winbindd", "Samba", "Samba", r"\s{0,4}\w{1,20} version (\d\S{0,40}) started"),
        ("dovecot", "Dovecot", "Dovecot", r"(?:master: )?Dovecot v(\d\S{0,20}) .{0,40}starting up"),
        (
            "postfix/master postfix/postfix-script",
            "Postfix",
            "Postfix",
            r"daemon started -- version (\d[\w.-]{0,20})",
        ),
        ("dnsmasq", "Simon Kelley", "dnsmasq", r"started, version (\d\S{0,20}) "),
        ("squid", "Squid", "Squid", r"Starting Squid Cache version (\d\S{0,20}) "),
        ("ntpd", "NTP", "NTP", r"ntpd (\d[\w.]{0,20})@"),
        ("chronyd", "chrony", "chrony", r"chronyd version (\d\S{0,20}) starting"),
        (
            "rsyslogd",
            "Rsyslog",
            "rsyslog",
            r"(?:\s?\[)?origin software=\"rsyslogd\" swVersion=\"(\d[^\" ]{0,20})\"",
        ),
        ("openvpn", "OpenVPN", "OpenVPN", r"OpenVPN (\d\S{0,20}) "),
        ("proftpd", "ProFTPD", "ProFTPD", r".{0,80}?ProFTPD (\d\S{0,20}) "),
        ("charon", "strongSwan", "strongSwan", r".{0,80}?strongSwan (\d[\w.]{0,20})"),
    )
    for program in programs.split()
}
STARTING: Final = frozenset(_STARTS) | {"sshd"}


def read_agent(text: str) -> tuple[Product, ...]:
    """The program and the operating system that a user agent claims. Of browsers that tell no more
    than their major version ("Chrome/120.0.0.0") it is the major version."""
    text = text[:MAX_BANNER]
    found = [(name, version) for name, version in _AGENT.findall(text)]
    products = []
    if found:
        name, version = min(found, key=lambda each: _ORDER[each[0]])
        products.append(Product(*_AGENTS[name], clean_version(_cut_zeros(version))))
    elif told := _EXPLORER.search(text):
        products.append(Product("Microsoft", "Internet Explorer", told[1] or told[2]))
    elif told := _SAFARI.search(text):
        products.append(Product("Apple", "Safari", told[1]))
    if told := _SYSTEM.search(text):
        products.append(_name_system(told))
    return tuple(products)


def _cut_zeros(version: str) -> str:
    return version.removesuffix(".0.0.0") if version.endswith(".0.0.0") else version


def _name_system(told: re.Match[str]) -> Product:
    if windows := told["windows"]:
        return Product("Microsoft", "Windows", windows)
    if android := told["android"]:
        return Product("Google", "Android", android.rstrip("."))
    if ios := told["ios"]:
        return Product("Apple", "iPadOS" if told["ipad"] else "iOS", ios.replace("_", "."))
    mac = told["mac"].replace("_", ".")
    return Product("Apple", "macOS", "" if mac in _FROZEN_MACOS else mac)


def read_server(text: str) -> tuple[Product, ...]:
    """The programs that a Server header names with a version."""
    products = []
    for name, version in _TOKEN.findall(text[:MAX_BANNER])[:MAX_TOKENS]:
        vendor, product = _SERVERS.get(name.lower(), ("", name))
        products.append(Product(vendor, clean_name(product), clean_version(version)))
    return tuple(products)


def read_named(text: str) -> Product | None:
    """A name with its version behind it, as in "#Software:" of W3C's logs; None without one."""
    found = _NAMED.fullmatch(text[:200])
    if found is None:
        return None
    vendor, name = ("Microsoft", found[2]) if found[1] else ("", found[2])
    return Product(vendor, clean_name(name), clean_version(found[3]))


def read_ssh(text: str) -> tuple[Product, ...]:
    """The program of an SSH identification string, with or without its "SSH-2.0-". A system that is
    named behind it stays in the version ("7.4p1 Debian-10"): its packages carry fixes that the
    version does not show."""
    text = text[:MAX_BANNER]
    if start := _SSH_START.match(text):
        text = text[start.end() :]
    found = _SSH.match(text)
    if found is None:
        return ()
    vendor, product = _SSH_NAMES.get(found[1].lower(), ("", found[1]))
    version = clean_version(found[2])
    if found[3]:
        version = f"{version} {found[3]}"
    return (Product(vendor, clean_name(product), version),)


def read_start(program: str, message: str) -> tuple[Product, bool] | None:
    """What a message of a program in STARTING says of the program and its version, and whether that
    is the program of the host itself (False: of who connected to it)."""
    if program == "sshd":
        return _read_sshd(message)
    vendor, product, form = _STARTS[program]
    found = form.match(message[:MAX_BANNER])
    if found is None or not found[1]:
        return None
    if product == "MySQL" and "mariadb" in found[1].lower():
        vendor, product = "MariaDB", "MariaDB"
    return Product(vendor, product, clean_version(found[1])), True


def _read_sshd(message: str) -> tuple[Product, bool] | None:
    if "version" not in message:
        return None
    for form, own in ((_SSHD_SAYS, False), (_SSHD_BEGINS, True)):
        if found := form.match(message[:MAX_BANNER]):
            products = read_ssh(found["banner"])
            return (products[0], own) if products else None
    return None


def read_zeek_software(fields: dict[str, Any]) -> Product | None:
    """A record of Zeek's software.log: its name, and its version as it was written or in parts."""
    name = clean_name(fields.get("name"))
    if not name:
        return None
    unparsed = fields.get("unparsed_version")
    kind = fields.get("software_type")
    if isinstance(unparsed, str) and unparsed:
        text = unparsed[:MAX_BANNER]
        if isinstance(kind, str) and kind.startswith("SSH::"):
            products = read_ssh(text)
        elif kind == "HTTP::BROWSER":
            products = read_agent(text)
        else:
            products = read_server(text)
        if products:
            return products[0]
    parts = [fields.get(f"version.{part}") for part in ("major", "minor", "minor2", "minor3")]
    version = ".".join(str(part) for part in parts if part not in (None, "", "-"))
    addition = clean_name(fields.get("version.addl"), 20)
    if addition and " " not in addition:
        version += addition if addition[:1].isalpha() and len(addition) < 4 else f"-{addition}"
    vendor, product = _SERVERS.get(name.lower(), _SSH_NAMES.get(name.lower(), ("", name)))
    return Product(vendor, product, clean_version(version))
