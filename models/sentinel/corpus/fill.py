"""Fills the blanks that written-down commands have: arguments of tests, placeholders of manuals."""

import random
import re
from collections.abc import Mapping
from typing import Any, Final

_ARGUMENT: Final = re.compile(r"#\{([^{}]{1,80})\}")
_LOLBAS: Final = re.compile(r"\{(REMOTEURL|PATH_SMB|PATH_ABSOLUTE|PATH|CMD)(?::(\.?\w+))?\}")
_TLDR: Final = re.compile(r"\{\{(.{1,200}?)\}\}")
_TLDR_OPTION: Final = re.compile(r"\[(-[^\[\]|]{1,40})\|(--?[^\[\]]{1,60})\]")

#: Names a file may have that say nothing; the same for attacks and for ordinary life.
NAMES: Final = (
    "setup", "update", "test", "data", "file", "output", "report", "a", "tmp1", "invoice",
    "notes", "run", "install", "backup", "config", "export", "job", "list", "x", "result", "main",
    "image", "doc1",
)  # fmt: skip
WINDOWS_FOLDERS: Final = (
    "C:\\Users\\anna\\Downloads\\", "C:\\Users\\jsmith\\Desktop\\", "C:\\Temp\\",
    "C:\\ProgramData\\", "", "C:\\Users\\jsmith\\AppData\\Local\\Temp\\", "C:\\Users\\Public\\",
    "D:\\data\\", "C:\\Windows\\Temp\\", "%TEMP%\\", ".\\", "C:\\tools\\",
    "C:\\Users\\anna\\Documents\\",
)  # fmt: skip
LINUX_FOLDERS: Final = (
    "/tmp/", "/home/anna/", "/var/tmp/", "./", "", "/opt/app/", "/srv/data/", "/root/",
    "/var/log/", "/etc/", "/usr/local/bin/", "~/", "/mnt/data/",
)  # fmt: skip
_WORDS: Final = (
    "alpha", "web1", "backup", "main", "user1", "app", "test", "admin", "default", "42", "8080",
    "eth0", "data", "project", "db01", "nginx", "report",
)  # fmt: skip

#: What a program that an abused one starts is called in examples.
_STARTED: Final = ("calc.exe", "cmd.exe /c whoami", "C:\\Users\\Public\\a.exe", "notepad.exe")
#: What stands for a placeholder of a tldr page that says what it is.
_KNOWN: Final = (
    (
        re.compile(r"ip|address|host"),
        ("192.168.1.10", "10.0.4.2", "web01", "srv.corp.example", "localhost"),
    ),
    (
        re.compile(r"url|http"),
        ("https://www.example.com/file", "http://10.2.3.4/x", "https://site.example"),
    ),
    (re.compile(r"user|login"), ("anna", "jsmith", "root", "www-data", "svc_app")),
    (
        re.compile(r"port|number|count|size|\d"),
        ("1", "3", "5", "10", "22", "80", "443", "1000", "8080"),
    ),
)


def fill_arguments(command: str, arguments: Mapping[str, Any]) -> str:
    """The command with each #{argument} replaced by its default; a default may name others."""
    defaults = {
        name: str((about or {}).get("default", "")) for name, about in (arguments or {}).items()
    }
    for _ in range(4):
        filled = _ARGUMENT.sub(lambda match: defaults.get(match[1].strip(), match[1]), command)
        if filled == command:
            break
        command = filled
    return command


def draw_path(rng: random.Random, *, windows: bool, extension: str = "") -> str:
    """A path that says nothing, in a folder that is drawn."""
    folder = rng.choice(WINDOWS_FOLDERS if windows else LINUX_FOLDERS)
    return f"{folder}{rng.choice(NAMES)}{extension}"


def fill_lolbas(command: str, rng: random.Random) -> str:
    """A command of LOLBAS with its placeholders filled."""

    def fill(match: re.Match[str]) -> str:
        extension = match[2] or ""
        if extension and not extension.startswith("."):
            extension = f".{extension}"
        name = f"{rng.choice(NAMES)}{extension}"
        kind = match[1]
        if kind == "REMOTEURL":
            return rng.choice((f"https://site.example/{name}", f"http://203.0.113.9/{name}"))
        if kind == "PATH_SMB":
            return f"\\\\srv7\\share\\{name}"
        if kind == "CMD":
            return rng.choice(_STARTED)
        return draw_path(rng, windows=True, extension=extension)

    return _LOLBAS.sub(fill, command)


def fill_tldr(command: str, rng: random.Random, *, windows: bool) -> str:
    """A command of a tldr page with its placeholders filled."""

    def fill(match: re.Match[str]) -> str:
        inside = match[1]
        if (option := _TLDR_OPTION.fullmatch(inside)) is not None:
            return str(rng.choice(option.groups()))
        if "path/to" in inside or "path\\to" in inside:
            dot = re.search(r"\.\w{1,6}$", inside.split(" ")[0])
            return draw_path(rng, windows=windows, extension=dot[0] if dot else "")
        if "|" in inside:
            return str(rng.choice(inside.split("|")))
        for pattern, values in _KNOWN:
            if pattern.search(inside):
                return str(rng.choice(values))
        return inside if rng.random() < 0.5 else rng.choice(_WORDS)

    return _TLDR.sub(fill, command)
