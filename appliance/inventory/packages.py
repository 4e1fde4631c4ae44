"""Inventory, package managers: lines of their own logs, and the same lines in syslog.

Formats: dpkg.log (dpkg(1), "status-logger" and its log), apt's history.log (stanzas of fields, one
line each, under a Start-Date), yum.log and dnf.rpm.log (an action and a package as name, epoch,
version, release, architecture), zypper's history (fields between "|"), pacman.log. auditd's
SOFTWARE_UPDATE names the same package in `sw`.
"""

import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final, NamedTuple

from appliance.inventory.seen import MAX_VERSION, clean_name

#: Most packages of one line, and the longest line that is read, in bytes.
MAX_PACKAGES: Final = 2_000
MAX_LINE: Final = 1 << 17

_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9.+_@-]{0,79}"
_STAMP: Final = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
_DPKG: Final = re.compile(
    rf"{_STAMP} (?P<action>install|upgrade|remove|purge|status installed) (?P<name>{_NAME})"
    r"(?::[a-z0-9-]{1,20})? (?P<first>\S{1,80})(?: (?P<second>\S{1,80}))?\s*$"
)
_APT: Final = re.compile(
    rf"(?P<name>{_NAME})(?::[a-z0-9-]{{1,20}})? "
    r"\((?P<versions>[^()\s,]{1,80}(?:, [^()\s,]{1,80})?)(?:, automatic)?\)"
)
_APT_GONE: Final = frozenset({"Remove", "Purge"})
_APT_COME: Final = frozenset({"Install", "Upgrade", "Downgrade", "Reinstall"})
_RPM: Final = re.compile(
    r"(?:^|[\s:])(?P<action>Installed|Updated|Upgrade|Upgraded|Downgrade|Downgraded|Reinstall|Install"
    r"|Erase|Erased|Removed|Obsoleted): (?P<package>[^\s,]{3,200})\s*$"
)
#: yum says Updated of the new version, dnf says Upgrade of it and Upgraded of the old one.
_RPM_GONE: Final = frozenset({"Erase", "Erased", "Removed", "Obsoleted"})
_RPM_OLD: Final = frozenset({"Upgraded", "Downgraded"})
_ARCH: Final = re.compile(
    r"\.(?:x86_64|noarch|i[3-6]86|aarch64|armv7hl|ppc64le|ppc64|s390x|src|riscv64)$"
)
_PACMAN: Final = re.compile(
    r"\[[^\[\]]{1,40}\] (?:\[ALPM\] )?(?P<action>installed|upgraded|downgraded|reinstalled|removed)"
    rf" (?P<name>{_NAME}) \((?P<first>\S{{1,80}})(?: -> (?P<second>\S{{1,80}}))?\)\s*$"
)
_ZYPPER: Final = re.compile(
    rf"{_STAMP}\|(?P<action>install|remove ?)\|(?P<name>{_NAME})\|(?P<version>[^|\s]{{1,80}})\|"
)


class Package(NamedTuple):
    """A package that came (with its version) or went ("": whichever it was)."""

    name: str
    version: str
    gone: bool


#: A line of a package manager's log -> what it says came and went.
PackageReader = Callable[[str], Iterator[Package]]


def read_dpkg(line: str) -> Iterator[Package]:
    """A line of dpkg.log."""
    found = _DPKG.match(line[:400])
    if found is None:
        return
    action = found["action"]
    if action in ("remove", "purge"):
        yield Package(found["name"], "", gone=True)
        return
    # install and upgrade name the old version ("<none>") and the new one.
    version = found["first"] if action.startswith("status") else found["second"]
    if version and version[0].isdigit():
        yield Package(found["name"], version[:MAX_VERSION], gone=False)


def read_apt(line: str) -> Iterator[Package]:
    """A line of apt's history.log: "Upgrade: bash:amd64 (5.0-4, 5.1-2), ..."."""
    action, colon, rest = line[:MAX_LINE].partition(": ")
    if not colon or (action not in _APT_COME and action not in _APT_GONE):
        return
    for found in islice(_APT.finditer(rest), MAX_PACKAGES):
        if action in _APT_GONE:
            yield Package(found["name"], "", gone=True)
            continue
        parts = [part for part in found["versions"].split(", ") if part != "automatic"]
        if parts:
            yield Package(found["name"], parts[-1][:MAX_VERSION], gone=False)


def read_rpm(line: str) -> Iterator[Package]:
    """A line of yum.log, dnf.log or dnf.rpm.log, or what yum and dnf write to syslog."""
    found = _RPM.search(line[:400])
    if found is None or found["action"] in _RPM_OLD:
        return
    package = split_rpm(found["package"])
    if package is not None:
        name, version = package
        gone = found["action"] in _RPM_GONE
        yield Package(name, "" if gone else version, gone)


def split_rpm(text: str) -> tuple[str, str] | None:
    """Name and `[epoch:]version-release` of "bash-4.2.46-34.el7.x86_64", with the epoch before the
    name (yum) or before the version (dnf), with or without the architecture; the bare name, as yum
    has it of what it erases, has no version. None for what is no package."""
    epoch, colon, rest = text[:200].partition(":")
    if colon and epoch.isascii() and epoch.isdigit():
        text = rest
    else:
        epoch = ""
    text = _ARCH.sub("", text)
    parts = text.rsplit("-", 2)
    if len(parts) != 3 or not parts[1][:1].isdigit():
        return (text, "") if re.fullmatch(_NAME, text) else None
    name, version, release = parts
    if not re.fullmatch(_NAME, name):
        return None
    if epoch and epoch != "0" and ":" not in version:
        version = f"{epoch}:{version}"
    return name, clean_name(f"{version.removeprefix('0:')}-{release}", MAX_VERSION)


def read_pacman(line: str) -> Iterator[Package]:
    """A line of pacman.log."""
    if found := _PACMAN.match(line[:400]):
        gone = found["action"] == "removed"
        version = found["second"] or found["first"]
        yield Package(found["name"], "" if gone else version[:MAX_VERSION], gone)


def read_zypper(line: str) -> Iterator[Package]:
    """A line of zypper's history."""
    if found := _ZYPPER.match(line[:400]):
        gone = found["action"].startswith("remove")
        yield Package(found["name"], "" if gone else found["version"][:MAX_VERSION], gone)


#: What a file's name must hold to be a package manager's log, its reader, and how it is called.
FILES: Final[tuple[tuple[str, PackageReader, str], ...]] = (
    ("dpkg.log", read_dpkg, "dpkg.log: line"),
    ("apt/history.log", read_apt, "apt history.log: line"),
    ("apt-history.log", read_apt, "apt history.log: line"),
    ("yum.log", read_rpm, "yum.log: line"),
    ("dnf.rpm.log", read_rpm, "dnf.rpm.log: line"),
    ("zypp/history", read_zypper, "zypper history: line"),
    ("pacman.log", read_pacman, "pacman.log: line"),
)


def find_file_reader(path: str) -> tuple[PackageReader, str] | None:
    """Who reads the lines of a file with this name, and what the line is called; None for every
    other file. A line elsewhere that looks like theirs says nothing."""
    folded = path.lower()
    for word, reader, how in FILES:
        if word in folded:
            return reader, how
    if folded.rpartition("/")[2].startswith("history.log"):
        return read_apt, "apt history.log: line"
    return None
