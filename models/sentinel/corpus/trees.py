"""Tells the attack in a capture from its background, by process trees and rules.

A capture of an emulated attack is mostly background. An event is of the attack when a rule of
medium level or above fires on it, or when its process descends from a root: a process on which a
rule of high level fires, or that a test's command line names, with the shells and foreign programs
that started it. It is background when its process is known, stands outside every tree, is no
interpreter, and no rule fires. All else is unclear.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from models.sentinel.rows import split_words

Side = Literal["attack", "tree", "background", "unclear"]

#: Programs that start what a user or a service asks for: what they start says nothing of them.
_STARTERS: Final = split_words(
    "system smss.exe csrss.exe wininit.exe winlogon.exe services.exe svchost.exe lsass.exe "
    "explorer.exe userinit.exe taskeng.exe taskhost.exe taskhostw.exe wmiprvse.exe "
    "dllhost.exe runtimebroker.exe sihost.exe consent.exe spoolsv.exe wmiapsrv.exe mmc.exe "
    "msiexec.exe searchindexer.exe wsmprovhost.exe w3wp.exe sqlservr.exe tiworker.exe "
    "trustedinstaller.exe windowsazureguestagent.exe waappagent.exe monitoringhost.exe "
    "healthservice.exe nxlog.exe winlogbeat.exe sysmon.exe sysmon64.exe conhost.exe"
)
#: Programs that do what a script tells them: outside a tree their events are unclear.
_INTERPRETERS: Final = split_words(
    "powershell.exe pwsh.exe cmd.exe wscript.exe cscript.exe mshta.exe rundll32.exe "
    "regsvr32.exe python.exe pythonw.exe wmic.exe msbuild.exe installutil.exe regasm.exe "
    "regsvcs.exe bash.exe certutil.exe bitsadmin.exe psexec.exe psexesvc.exe net.exe net1.exe "
    "reg.exe schtasks.exe sc.exe wsmprovhost.exe whoami.exe nltest.exe"
)
_HOMES: Final = re.compile(
    r"(?:\\\?\?\\)?[a-z]:\\(?:windows\\(?!temp)|program files|programdata\\microsoft\\)|"
    r"\\?systemroot\\|system$|registry$|memcompression$|[a-z]:\\packages\\|[a-z]:\\windowsazure\\",
    re.IGNORECASE,
)
_TEST: Final = re.compile(
    r"red_ttp|rta-master|atomicredteam|atomic-red-team|invoke-atomic|\\atomics\\", re.IGNORECASE
)


class Step(msgspec.Struct):
    """What is needed of one event: its process, the process that started it where it tells, and
    the highest level of the rules that fired (0 none, 1 medium, 2 high or critical)."""

    node: str
    image: str
    fired: int
    parent: str = ""
    parent_image: str = ""
    command: str = ""
    parent_command: str = ""
    starts: bool = False


def name_node(host: str, guid: Any, pid: Any, pids: Mapping[tuple[str, int], str]) -> str:
    """The name of a process: its GUID, else the GUID known for host and process id, else these; ""
    for none."""
    if isinstance(guid, str) and guid.strip("{}-0"):
        return guid.strip("{}").lower()
    number = read_pid(pid)
    if number is None:
        return ""
    return pids.get((host, number)) or f"{host}:{number}"


def read_pid(value: Any) -> int | None:
    """A process id as Sysmon (decimal) or the Security log (hexadecimal) has it; None for none."""
    if isinstance(value, int):
        return value
    if isinstance(value, str):
        try:
            return int(value, 16) if value[:2].lower() == "0x" else int(value)
        except ValueError:
            return None
    return None


def _base(path: str) -> str:
    return re.split(r"[\\/]", path)[-1].lower()


def _is_foreign(image: str) -> bool:
    """True for a program that lies where no installed program does."""
    return bool(image) and image[0] != "<" and _HOMES.match(image) is None


def find_tree(steps: Sequence[Step]) -> set[str]:
    """The processes of the attack: every root and all that descends from one."""
    parents: dict[str, tuple[str, str]] = {}
    children: dict[str, list[str]] = {}
    roots: set[str] = set()
    for step in steps:
        if step.starts and step.node:
            if step.parent:
                parents[step.node] = (step.parent, step.parent_image)
                children.setdefault(step.parent, []).append(step.node)
            if _TEST.search(step.command) or _TEST.search(step.parent_command):
                roots.add(step.node)
        if step.fired >= 2 and step.node and _base(step.image) not in _STARTERS:
            roots.add(step.node)
    found: set[str] = set()
    waiting = [_climb(root, parents) for root in sorted(roots)]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += children.get(node, ())
    return found


def _climb(node: str, parents: Mapping[str, tuple[str, str]]) -> str:
    """The process itself, or the outermost shell or foreign program that led to it."""
    for _ in range(32):
        above = parents.get(node)
        if above is None:
            return node
        name, image = above
        base = _base(image)
        if base in _STARTERS or not (base in _INTERPRETERS or _is_foreign(image)):
            return node
        node = name
    return node


def judge_step(step: Step, tree: set[str], seen: set[str]) -> Side:
    """Which side an event is on. `seen` are the processes whose start the capture tells."""
    if step.node in tree:
        return "attack" if step.fired else "tree"
    if step.fired:
        return "attack" if step.fired >= 2 else "unclear"
    if step.starts and _is_foreign(step.parent_image):
        return "unclear"
    base = _base(step.image)
    if not base or base.startswith("<") or base in _INTERPRETERS or _is_foreign(step.image):
        # An installed program's shell that the capture saw start, outside every tree, is known.
        return (
            "background"
            if step.node in seen and base and not _is_foreign(step.image)
            else "unclear"
        )
    return "background"


def list_started(steps: Iterable[Step]) -> set[str]:
    """The processes whose start is told and whose parent is a program of the system."""
    return {
        step.node
        for step in steps
        if step.starts
        and step.node
        and _base(step.parent_image) in _STARTERS
        and _base(step.parent_image) != "explorer.exe"
    }
