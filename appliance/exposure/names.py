"""Exposure, names: what logs and catalogues call the same piece of software.

Catalogues say "Apache / HTTP Server", a package is called apache2, a program's own resource says
"Apache Software Foundation / Apache HTTP Server". Names are folded (case, punctuation, legal forms,
versions, the vendor's name in front), then a table maps what is known to be one thing to one name.
What is not in the table meets only by folded names, so that a list of exposures may miss some.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

#: Words that tell nothing of who made a thing.
_LEGAL: Final = frozenset(
    {"the", "inc", "incorporated", "corp", "corporation", "ltd", "limited", "llc", "gmbh", "co"}
    | {"company", "ag", "sa", "sas", "srl", "bv", "plc", "foundation", "project", "software"}
    | {"technologies", "technology", "systems", "team", "community", "developers", "developer"}
    | {"group", "networks", "labs", "org", "com"}
)
_WORD: Final = re.compile(r"[a-z0-9][a-z0-9+#]*")
_BRACKETS: Final = re.compile(r"\([^()]{0,80}\)|\[[^\[\]]{0,80}\]")
_VERSION_BEHIND: Final = re.compile(r" v?\d{1,9}(?:\.\d{1,9}){1,5}[a-z0-9.-]{0,20}$")
_BITS: Final = re.compile(r" (?:x64|x86|x86 64|64 bit|32 bit|amd64|arm64|for windows|for linux)$")
_YEAR: Final = re.compile(r" (?:20[0-2]\d|97)$")
_JOINED: Final = re.compile(r",? and |, | / ")

#: Names that many things have: alone they say nothing.
_COMMON: Final = frozenset(
    {"server", "gateway", "client", "clients", "agent", "tools", "core", "framework", "kernel"}
    | {"software", "web", "data center", "multiple products", "multiple devices", "windows"}
    | {"office", "word", "project", "reader", "edge", "ios", "sdk", "firewall", "routers", "router"}
    | {"mobile devices", "management", "manager", "console", "frontend", "viewer", "sense", "salt"}
    | {"frontend", "services", "service", "gateways", "devices", "workstation", "player", "air"}
    | {"outlook", "sentry", "director", "controllers", "command center", "tomcat coyote", "air"}
)

#: Parts of lists that are no names at all, whoever makes them.
_VAGUE: Final = frozenset(
    {"server", "gateway", "client", "agent", "data center", "software", "web", "services"}
    | {"center", "gateways", "devices", "routers", "frontend", "edition", "web ui"}
)

#: Folded vendor -> the one that is meant.
_VENDORS: Final[dict[str, str]] = {
    "igor pavlov": "7 zip", "7zip": "7 zip",
    "alexander roshal": "rarlab", "win rar": "rarlab", "winrar": "rarlab",
    "adobe systems": "adobe", "oracle america": "oracle", "sun microsystems": "oracle",
    "python": "python", "mozilla": "mozilla", "openbsd": "openbsd", "openssh": "openbsd",
    "nginx": "f5", "f5 nginx": "f5", "broadcom": "vmware", "pulse secure": "ivanti",
    "mobileiron": "ivanti", "php": "php", "fsf": "gnu", "gnu project": "gnu",
    "connectwise": "connectwise", "screenconnect": "connectwise", "meta platforms": "facebook",
    "meta": "facebook", "hashicorp": "hashicorp", "apache httpd": "apache",
    "linux kernel": "linux", "kernel org": "linux", "todd miller": "sudo",
    "sysinternals www sysinternals": "microsoft", "sysinternals": "microsoft",
    "microsoft windows": "microsoft", "citrix": "citrix", "cloud": "citrix",
    "freedesktop": "polkit", "red hat polkit": "polkit",
}  # fmt: skip

#: A thing's one name -> what it is called: (vendor, product), both folded; a vendor of "" stands
#: for every vendor, and for packages, which name none.
_SAME: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "apache/http server": (
        ("apache", "http server"), ("apache", "httpd"), ("apache", "apache http server"),
        ("", "apache2"), ("", "apache2 bin"), ("", "httpd"), ("", "httpd core"),
    ),
    "apache/tomcat": (
        ("apache", "tomcat"), ("", "tomcat"), ("", "tomcat8"), ("", "tomcat9"), ("", "tomcat10"),
        ("apache", "tomcat coyote"),
    ),
    "apache/log4j": (
        ("apache", "log4j2"), ("apache", "log4j"), ("apache", "apache log4j"),
        ("apache", "apache log4j2"), ("", "liblog4j2 java"), ("", "log4j"),
    ),
    "apache/struts": (("apache", "struts"), ("apache", "struts 1"), ("apache", "apache struts")),
    "openbsd/openssh": (
        ("openbsd", "openssh"), ("", "openssh"), ("", "openssh server"), ("", "openssh client"),
        ("", "openssh clients"), ("openbsd", "openssh for windows"), ("", "openssh sftp server"),
    ),
    "gnu/bash": (("gnu", "bourne again shell"), ("gnu", "bash"), ("", "bash")),
    "gnu/glibc": (
        ("gnu", "c library"), ("gnu", "gnu c library"), ("gnu", "glibc"), ("", "glibc"),
        ("", "libc6"), ("", "libc bin"),
    ),
    "linux/kernel": (
        ("linux", "kernel"), ("linux", "linux"), ("linux", "linux kernel"), ("", "linux image"),
        ("", "kernel"), ("", "kernel core"), ("", "linux"), ("", "kernel default"),
    ),
    "sudo/sudo": (("sudo", "sudo"), ("", "sudo"), ("", "sudo ldap")),
    "polkit/polkit": (
        ("red hat", "polkit"), ("polkit", "polkit"), ("", "polkit"), ("", "policykit 1"),
        ("", "polkitd"),
    ),
    "exim/exim": (
        ("exim", "exim"), ("exim", "exim4"), ("", "exim"), ("", "exim4"),
        ("", "exim4 daemon light"), ("", "exim4 daemon heavy"), ("", "exim4 base"),
        ("exim", "mail transfer agent"), ("exim", "exim internet mailer"),
    ),
    "samba/samba": (("samba", "samba"), ("", "samba"), ("", "samba common")),
    "openssl/openssl": (("openssl", "openssl"), ("", "openssl"), ("", "libssl1 1"),
                        ("", "libssl3"), ("", "openssl libs")),
    "php/php": (("php", "php"), ("", "php"), ("", "php fpm"), ("", "php cli")),
    "imagemagick/imagemagick": (("imagemagick", "imagemagick"), ("", "imagemagick")),
    "xz/xz": (("", "xz utils"), ("tukaani", "xz"), ("", "xz")),
    "vim/vim": (("vim", "vim"), ("", "vim")),
    "7 zip/7 zip": (("7 zip", "7 zip"), ("", "7 zip"), ("", "7zip"), ("", "p7zip full")),
    "rarlab/winrar": (("rarlab", "winrar"), ("", "winrar")),
    "putty/putty": (("simon tatham", "putty"), ("putty", "putty"), ("", "putty"),
                    ("", "putty tools"), ("simon tatham", "putty suite")),
    "google/chrome": (
        ("google", "chrome"), ("google", "google chrome"), ("", "google chrome stable"),
        ("google", "chrome enterprise"),
    ),
    "microsoft/edge": (
        ("microsoft", "edge"), ("microsoft", "microsoft edge"),
        ("microsoft", "edge chromium based"), ("", "microsoft edge stable"),
        ("microsoft", "edge webview2 runtime"), ("microsoft", "edge web platform"),
    ),
    "mozilla/firefox": (
        ("mozilla", "firefox"), ("mozilla", "firefox esr"), ("", "firefox"), ("", "firefox esr"),
    ),
    "mozilla/thunderbird": (("mozilla", "thunderbird"), ("", "thunderbird")),
    "microsoft/internet explorer": (
        ("microsoft", "internet explorer"), ("microsoft", "windows internet explorer"),
    ),
    "microsoft/iis": (
        ("microsoft", "iis"), ("microsoft", "internet information services"),
        ("microsoft", "internet information server"),
    ),
    "microsoft/exchange": (
        ("microsoft", "exchange server"), ("microsoft", "exchange"),
    ),
    "microsoft/sharepoint": (
        ("microsoft", "sharepoint"), ("microsoft", "sharepoint server"),
        ("microsoft", "sharepoint foundation"), ("microsoft", "sharepoint enterprise server"),
        ("", "sharepoint"),
    ),
    "microsoft/net framework": (("microsoft", "net framework"), ("microsoft", "net framework 4")),
    "microsoft/office": (
        ("microsoft", "office"), ("microsoft", "office 365 proplus"),
        ("microsoft", "365 apps for enterprise"), ("microsoft", "office professional plus"),
    ),
    "microsoft/defender": (
        ("microsoft", "defender"), ("microsoft", "malware protection"),
        ("microsoft", "malware protection engine"), ("microsoft", "windows defender"),
    ),
    "adobe/reader": (
        ("adobe", "reader"), ("adobe", "acrobat reader"), ("adobe", "acrobat reader dc"),
        ("adobe", "acrobat"), ("adobe", "acrobat dc"), ("adobe", "acrobat and reader"),
        ("adobe", "reader and acrobat"), ("adobe", "adobe acrobat"),
    ),
    "adobe/flash player": (
        ("adobe", "flash player"), ("adobe", "flash player and air"),
        ("adobe", "shockwave flash"), ("macromedia", "shockwave flash"),
    ),
    "oracle/java se": (
        ("oracle", "java se"), ("oracle", "java"), ("oracle", "java platform se"),
        ("oracle", "java runtime environment"), ("", "java"), ("oracle", "jre"), ("oracle", "jdk"),
        ("oracle", "java platform se 8"),
    ),
    "vmware/esxi": (("vmware", "esxi"), ("vmware", "vmware esxi"), ("", "esx base")),
    "vmware/tools": (("vmware", "tools"), ("vmware", "vmware tools"), ("", "open vm tools")),
    "atlassian/confluence": (
        ("atlassian", "confluence"), ("atlassian", "confluence server"),
        ("atlassian", "confluence data center"), ("atlassian", "confluence server and data center"),
        ("atlassian", "confluence data center and server"),
    ),
    "gitlab/gitlab": (
        ("gitlab", "gitlab"), ("gitlab", "gitlab ce ee"), ("gitlab", "ce ee"),
        ("", "gitlab ce"), ("", "gitlab ee"), ("gitlab", "community and enterprise editions"),
        ("gitlab", "gitlab community and enterprise editions"),
    ),
    "fortinet/fortios": (("fortinet", "fortios"), ("fortinet", "fortinet fortios")),
    "f5/nginx": (("f5", "nginx"), ("", "nginx"), ("", "nginx core"), ("f5", "nginx open source")),
    "isc/bind": (("isc", "bind"), ("isc", "bind 9"), ("", "bind9"), ("", "bind")),
    "git/git": (("git", "git"), ("", "git"), ("software freedom conservancy", "git")),
    "redis/redis": (("redis", "redis"), ("", "redis"), ("", "redis server")),
    "zimbra/collaboration": (
        ("synacor", "zimbra collaboration suite"), ("zimbra", "collaboration"),
        ("synacor", "zimbra collaboration"),
    ),
    "cisco/anyconnect": (
        ("cisco", "anyconnect secure"), ("cisco", "anyconnect secure mobility client"),
        ("cisco", "anyconnect"),
    ),
    "teamviewer/teamviewer": (("teamviewer", "teamviewer"), ("", "teamviewer")),
    "connectwise/screenconnect": (
        ("connectwise", "screenconnect"), ("connectwise", "screenconnect client"),
    ),
}  # fmt: skip
_NAMED: Final[dict[tuple[str, str], str]] = {
    named: name for name, all_named in _SAME.items() for named in all_named
}
#: Parts of Windows under names of their own.
_WINDOWS_PARTS: Final = frozenset(
    {"win32k", "smbv1 server", "smbv1", "graphics device interface", "mshtml", "active directory"}
    | {"dwm core library", "smartscreen prompt", "streaming service", "streaming service proxy"}
    | {"enhanced cryptographic provider", "xml core services", "directx graphics kernel"}
    | {"graphics component", "remote desktop services", "task scheduler", "netlogon", "http sys"}
    | {"group policy", "hyper v", "update notification manager", "wordpad"}
)
#: Engines and what is built on them: an engine's versions are not theirs.
_BUILT_ON: Final[dict[str, tuple[str, ...]]] = {
    "chromium": ("google/chrome", "microsoft/edge", "opera/opera", "brave/brave", "vivaldi/vivaldi",
                 "chromium/chromium", "/chromium", "/chromium browser"),
}  # fmt: skip
WINDOWS: Final = "microsoft/windows"


def fold(text: str) -> str:
    """Lower case, words alone: "Apache HTTP Server (x64)" is "apache http server x64"."""
    return " ".join(_WORD.findall(text[:400].lower().replace("&", " and ")))


@lru_cache(maxsize=8_192)
def fold_vendor(text: str) -> str:
    """A vendor's name without legal forms; "" for one that says nothing."""
    folded = fold(_BRACKETS.sub(" ", text[:400]))
    words = [word for word in folded.split() if word not in _LEGAL]
    name = " ".join(words) or folded
    return "" if name in ("unknown", "n a") else _VENDORS.get(name, name)


def fold_product(text: str, vendor: str) -> str:
    """A product's name without its vendor's (folded) in front, its version and its processor."""
    name = fold(_VERSION_BEHIND.sub("", _BRACKETS.sub(" ", text[:400].lower()).rstrip()))
    for _ in range(2):
        name = _BITS.sub("", name)
    if vendor and name.startswith(f"{vendor} "):
        name = name[len(vendor) + 1 :]
    if vendor == "microsoft":  # "Office 2010", "Exchange Server 2019"
        name = _YEAR.sub("", name)
    return name


@lru_cache(maxsize=16_384)
def name_seen(vendor: str, product: str) -> tuple[str, ...]:
    """Names under which software that a log names may be in a catalogue, the surest first: a name
    of the table, or "vendor/product", "/product" where no vendor is told, and "product/" where the
    product's name may be the vendor's too. An engine that it is built on comes last."""
    maker = fold_vendor(vendor)
    name = fold_product(product, maker)
    if not name:
        return ()
    names: dict[str, None] = {}
    if maker == "microsoft" and name == "windows":
        return (WINDOWS,)
    known = _find_same(maker, name)
    if known is not None:
        names[known] = None
    elif not maker and name.startswith("linux image "):
        names["linux/kernel"] = None
    elif maker:
        names[f"{maker}/{name}"] = None
        # Catalogues know "PaperCut Software International Pty Ltd" by its first word.
        first = maker.partition(" ")[0]
        if first != maker and len(first) > 3:
            other = fold_product(product, first)
            names[_find_same(first, other) or f"{first}/{other}"] = None
    if name not in _COMMON:
        if not maker:
            names[f"/{name}"] = None
        names[f"{name}/{name}"] = None
    for engine, built in _BUILT_ON.items():
        if any(each in names for each in built):
            names[engine] = None
    return tuple(names)


@lru_cache(maxsize=65_536)
def name_listed(vendor: str, product: str) -> tuple[str, ...]:
    """Names of what a catalogue lists, to be met by those of `name_seen`. One row may list several:
    "Firefox and Thunderbird"."""
    maker = fold_vendor(vendor)
    whole = product[:400]
    names: dict[str, None] = {}
    for place, part in enumerate(_list_parts(whole)):
        name = fold_product(part, maker)
        if not name or (place and name in _VAGUE):
            continue
        names.update(dict.fromkeys(_name_part(maker, name)))
    return tuple(names)


def _name_part(maker: str, name: str) -> Iterator[str]:
    if name.startswith("multiple "):
        return
    if maker == "microsoft" and (name.startswith("windows") or name in _WINDOWS_PARTS):
        yield WINDOWS
    if maker == "google" and name.startswith("chromium"):
        yield "chromium"
    known = _find_same(maker, name)
    if known is not None:
        yield known
    else:
        yield f"{maker}/{name}"
    if name not in _COMMON and not name.startswith("chromium"):
        yield f"/{name}"
        if maker in (name, ""):
            yield f"{name}/{name}"


def _list_parts(product: str) -> Iterator[str]:
    yield product
    parts = [part for part in _JOINED.split(product) if part.strip()]
    if 1 < len(parts) <= 8:
        yield from parts


def _find_same(maker: str, name: str) -> str | None:
    found = _NAMED.get((maker, name))
    if found is None and not maker:
        found = _NAMED.get(("", name))
    return found
