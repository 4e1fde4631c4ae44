"""Derives what a command leaves behind, by what the command says: the registry value that
`reg add` sets, the service that `sc create` makes, the task of `schtasks /create`. Attacks in
captures are few in these kinds, and what Windows logs of such a command is known exactly."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

_VALUE: Final = r"(?:\"([^\"]*?(?:\\\"[^\"]*){0,8})\"(?=\s|$)|'([^']*)'|(\S+))"
_REG: Final = re.compile(rf"\breg(?:\.exe)?\"?\s+add\s+{_VALUE}(.*)", re.IGNORECASE)
_SERVICE: Final = re.compile(
    rf"\bsc(?:\.exe)?\"?\s+(?:\\\\\S+\s+)?(?:create|config)\s+{_VALUE}\s.*?binpath=\s?{_VALUE}",
    re.IGNORECASE,
)
_NEW_SERVICE: Final = re.compile(
    rf"new-service\s.*?-name\s+{_VALUE}.*?-binarypathname\s+{_VALUE}", re.IGNORECASE
)
_TASK: Final = re.compile(r"\bschtasks(?:\.exe)?\"?\s+.*?/create\b(.*)", re.IGNORECASE)
_PROPERTY: Final = re.compile(
    rf"(?:set|new)-itemproperty\s+(?:-path\s+)?{_VALUE}\s+(?:-name\s+)?{_VALUE}\s.*?-value\s+{_VALUE}",
    re.IGNORECASE,
)
_HIVES: Final[Mapping[str, str]] = {
    "hkey_local_machine": "HKLM",
    "hklm": "HKLM",
    "hkey_current_user": "HKU\\S-1-5-21-1000000001-200000002-300000003-1001",
    "hkcu": "HKU\\S-1-5-21-1000000001-200000002-300000003-1001",
    "hkey_users": "HKU",
    "hku": "HKU",
    "hkey_classes_root": "HKCR",
    "hkcr": "HKCR",
}
_TYPES: Final = re.compile(r"/t\s+reg_(\w+)", re.IGNORECASE)


def derive_deeds(command: str, image: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    """(kind, fields, form) of what a command line of Windows leaves behind. `image` runs it."""
    command = command[:4096]
    if (match := _REG.search(command)) is not None:
        key, rest = _first(match, 1), match[4]
        name, data = _option("/v", rest), _option("/d", rest)
        target = _join_key(key, name or "(Default)")
        if target:
            yield (
                "registry",
                {"TargetObject": target, "Details": _show(data or "", rest), "Image": "reg.exe"},
                "sysmon13",
            )
    if (match := _PROPERTY.search(command)) is not None:
        target = _join_key(_first(match, 1).replace(":", "", 1), _first(match, 4))
        if target:
            data = _first(match, 7)
            details = f"DWORD (0x{int(data):08x})" if data.isdigit() and len(data) < 9 else data
            yield (
                "registry",
                {"TargetObject": target, "Details": details, "Image": image or "powershell.exe"},
                "sysmon13",
            )
    for pattern in (_SERVICE, _NEW_SERVICE):
        if (match := pattern.search(command)) is not None:
            yield (
                "service",
                {"ServiceName": _first(match, 1), "ImagePath": _first(match, 4)},
                "7045",
            )
    if (match := _TASK.search(command)) is not None:
        name, action = _option("/tn", match[1]), _option("/tr", match[1])
        if name and action:
            yield "task", {"TaskName": f"\\{name.lstrip(chr(92))}", "Command": action}, "4698"


def _first(match: re.Match[str], group: int) -> str:
    """The one of three alternatives that matched: in double quotes, in single ones, bare."""
    return match[group] or match[group + 1] or match[group + 2] or ""


def _option(name: str, text: str) -> str:
    match = re.search(rf"{name}\s+{_VALUE}", text, re.IGNORECASE)
    return _first(match, 1) if match is not None else ""


def _join_key(key: str, name: str) -> str:
    hive, _, rest = re.sub(
        r"^(?:registry::|microsoft\.powershell\.core\\registry::)", "", key, flags=re.IGNORECASE
    ).partition("\\")
    short = _HIVES.get(hive.rstrip(":").lower())
    return f"{short}\\{rest.strip(chr(92))}\\{name}" if short and rest else ""


def _show(data: str, rest: str) -> str:
    """Data as Sysmon writes it."""
    kind = _TYPES.search(rest)
    if kind is not None and kind[1].lower() == "dword":
        try:
            return f"DWORD (0x{int(data, 0):08x})"
        except ValueError:
            return data
    return "Binary Data" if kind is not None and kind[1].lower() == "binary" else data
