"""Inventory, Windows: Sysmon's version resources, Windows Installer's events, the system's own.

Sysmon 1, 6, 7 and 29 copy Product, Company and FileVersion out of a file's version resource, which
its maker wrote: a program can call itself anything. Windows' own files count as one product with
the build that most of them carry, three parts of it: how far it is patched, a file does not say.
Windows Installer: events 1033, 1034 and 1035 of source MsiInstaller (name, version, language,
status, manufacturer), 11707 and 11724 (name alone).
"""

import re
from typing import Any, Final

from appliance.inventory.seen import Product, clean_name, clean_version

_WINDOWS_BUILD: Final = re.compile(r"(6\.[0-3]\.\d{4}|10\.0\.\d{5})(?:\.|$)")
#: Windows' own products, in lower case and without marks, whose version is Windows' build.
_OWN: Final = frozenset({"microsoft windows operating system", "windows operating system"})
_SAYS_PRODUCT: Final = re.compile(r"Product: (.{1,200}?) -- (Installation|Removal) ")
#: What installers put behind a product's name: its version, and for which processor it is.
_BEHIND_NAME: Final = re.compile(
    r"[ (-]{1,4}v?\d{1,9}\.\d.{0,80}$"
    r"|[ -]{0,3}\((?:x64|x86|64-bit|32-bit|amd64|arm64)[^()]{0,40}\)$"
)
_STATUS_DONE: Final = frozenset({"0", "1641", "3010"})
MSI_IDS: Final = frozenset({1033, 1034, 1035, 11707, 11724})


def read_resource(company: object, product: object, version: object) -> Product | None:
    """The product of a file's version resource; None where it names none, and for Windows' own
    files whose version is not Windows'."""
    name = clean_name(product)
    if not name:
        return None
    told = clean_version(version)
    if name.lower() in _OWN:
        build = _WINDOWS_BUILD.match(told)
        return Product("Microsoft", "Windows", build[1]) if build else None
    return Product(clean_name(company), name, told)


def read_installer(fields: dict[str, Any], event_id: int) -> tuple[Product, bool] | None:
    """What an event of Windows Installer says came, or went (True)."""
    if fields.get("Provider_Name", "MsiInstaller") != "MsiInstaller":
        return None
    parts = _list_parts(fields)
    if not parts:
        return None
    if event_id in (11707, 11724):
        told = _SAYS_PRODUCT.match(parts[0][:400])
        if told is None:
            return None
        return Product("", _cut_version(told[1]), ""), event_id == 11724
    name = _cut_version(parts[0])
    status = parts[3].strip() if len(parts) > 3 else ""
    if not name or status not in _STATUS_DONE:
        return None
    vendor = clean_name(parts[4]) if len(parts) > 4 else ""
    version = clean_version(parts[1]) if len(parts) > 1 else ""
    return Product(vendor, name, version), event_id == 1034


def _cut_version(name: str) -> str:
    """The name alone: else each version would be another product."""
    name = clean_name(name)
    for _ in range(2):
        name = _BEHIND_NAME.sub("", name).rstrip(" -") or name
    return name


def _list_parts(fields: dict[str, Any]) -> list[str]:
    """The unnamed data of an event, in order: param1, ...; else Data, whose first part is the whole
    where there are several."""
    if "param1" in fields:
        parts = [fields.get(f"param{number}") for number in range(1, 7)]
    else:
        data = fields.get("Data")
        parts = data[1:7] if isinstance(data, list) else [data]
    return [part if isinstance(part, str) else "" for part in parts]


def read_boot(fields: dict[str, Any]) -> Product | None:
    """Event 6009 of source EventLog, at every start: "10.00.", "19041", "", "Multi..."."""
    parts = _list_parts(fields)
    if len(parts) < 2:
        return None
    major, _, minor = parts[0].strip().rstrip(".").partition(".")
    build = parts[1].strip()
    if not (major + minor + build).isascii() or not all(
        part.isdigit() and len(part) < 7 for part in (major, minor, build)
    ):
        return None
    return Product("Microsoft", "Windows", f"{int(major)}.{int(minor)}.{build}")
