"""Knowledge, reading: attacks to try out, Atomic Red Team's tests and Caldera's abilities.

Formats: Atomic Red Team, https://github.com/redcanaryco/atomic-red-team (atomics/T*/T*.yaml,
spec.yaml); Caldera, https://github.com/mitre/stockpile (data/abilities). Nothing of them is ever
run: a command is a text by which people find the technique.
"""

import hashlib
import re
from collections.abc import Iterator
from typing import Final
from uuid import UUID

import msgspec

from appliance.errors import ModelError
from appliance.knowledge.entries import Dropped, Item, KnowledgeEntry, Link
from appliance.knowledge.readers.cleaning import clean_prose, clean_title
from appliance.knowledge.readers.documents import (
    BrokenDocument,
    Node,
    read_documents,
    take_list,
    take_text,
    take_texts,
)
from appliance.knowledge.readers.lolbas import TECHNIQUE

ATOMIC_SOURCE: Final = "Atomic Red Team"
ATOMIC_LICENCE: Final = "MIT"
STOCKPILE_SOURCE: Final = "Caldera Stockpile"
STOCKPILE_LICENCE: Final = "Apache-2.0"

#: Characters of a command that a text shows.
MAX_COMMAND: Final = 600

_ARGUMENT: Final = re.compile(r"#\{([A-Za-z0-9_.-]{1,100})\}")
#: ATT&CK's names of the platforms, by those of the two formats.
_PLATFORMS: Final = {
    "windows": "Windows",
    "linux": "Linux",
    "macos": "macOS",
    "darwin": "macOS",
    "containers": "Containers",
    "office-365": "Office Suite",
    "google-workspace": "Office Suite",
    "azure-ad": "Identity Provider",
    "saas": "SaaS",
    "esxi": "ESXi",
}


class _Test(msgspec.Struct, frozen=True):
    """One thing to try out; `commands` are (executor's name, command)."""

    id: str
    title: str
    told: str
    technique: str
    platforms: tuple[str, ...]
    commands: tuple[tuple[str, str], ...]
    source: str
    licence: str
    tactics: tuple[str, ...] = ()


def read_atomic(raw: bytes, name: str) -> Iterator[Item]:
    """One entry `atomic:<guid>` of type "note" a test, its arguments filled in with their defaults,
    and a link "tests" to the technique. Raises ModelError when the file holds no tests."""
    found = False
    for content, where in _read_contents(raw, name):
        if isinstance(content, Dropped):
            yield content
            continue
        technique = take_text(content, "attack_technique").strip().upper()
        if not TECHNIQUE.fullmatch(technique):
            yield Dropped(where, "attack_technique is no technique")
            continue
        for number, node in enumerate(take_list(content, "atomic_tests"), 1):
            if not clean_title(take_text(node, "name")):
                yield Dropped(where, f"test {number} has no name")
                continue
            found = True
            yield from _make_items(_read_test(node, technique, content))
    if not found:
        raise ModelError(f"{name}: no tests of Atomic Red Team")


def read_stockpile(raw: bytes, name: str) -> Iterator[Item]:
    """One entry `stockpile:<id>` of type "note" an ability, and a link "tests" to its technique.
    Raises ModelError when the file holds no abilities."""
    found = False
    for content, where in _read_contents(raw, name):
        if isinstance(content, Dropped):
            yield content
            continue
        for number, node in enumerate(content if isinstance(content, list) else [content], 1):
            test = _read_ability(node)
            if not TECHNIQUE.fullmatch(test.technique) or not test.title:
                yield Dropped(where, f"ability {number} has no name or no technique")
                continue
            found = True
            yield from _make_items(test)
    if not found:
        raise ModelError(f"{name}: no abilities of Caldera")


def _read_contents(raw: bytes, name: str) -> Iterator[tuple[Node | Dropped, str]]:
    for document in read_documents(raw, name):
        where = f"{name}:{document.line}"
        if isinstance(document, BrokenDocument):
            yield Dropped(where, document.reason), where
        else:
            yield document.content, where


def _read_test(node: Node, technique: str, content: Node) -> _Test:
    executor = node.get("executor") if isinstance(node, dict) else None
    command = take_text(executor, "command") or take_text(executor, "steps")
    family = take_text(content, "display_name")
    guid = _name_test(take_text(node, "auto_generated_guid"), node)
    return _Test(
        id=f"atomic:{guid}",
        title=take_text(node, "name"),
        told=f"A test of {technique} {family}. {take_text(node, 'description')}",
        technique=technique,
        platforms=_name_platforms(take_texts(node, "supported_platforms")),
        commands=((take_text(executor, "name"), _fill_arguments(command, node)),),
        source=ATOMIC_SOURCE,
        licence=ATOMIC_LICENCE,
    )


def _read_ability(node: Node) -> _Test:
    technique = node.get("technique") if isinstance(node, dict) else None
    commands = tuple(_list_commands(node))
    tactic = clean_title(take_text(node, "tactic")).lower()
    return _Test(
        id=f"stockpile:{_name_test(take_text(node, 'id'), node)}",
        title=take_text(node, "name"),
        told=take_text(node, "description"),
        technique=(take_text(technique, "attack_id") or take_text(node, "technique_id"))
        .strip()
        .upper(),
        platforms=_name_platforms([platform for platform, _, _ in commands]),
        commands=tuple((executor, command) for _, executor, command in commands),
        source=STOCKPILE_SOURCE,
        licence=STOCKPILE_LICENCE,
        tactics=(tactic,) if tactic else (),
    )


def _list_commands(node: Node) -> Iterator[tuple[str, str, str]]:
    """Platform, executor and command, in the older form (platforms) and the newer (executors)."""
    for executor in take_list(node, "executors"):
        yield tuple(take_text(executor, key) for key in ("platform", "name", "command"))  # type: ignore[misc]
    platforms = node.get("platforms") if isinstance(node, dict) else None
    for platform, executors in platforms.items() if isinstance(platforms, dict) else ():
        for executor, work in executors.items() if isinstance(executors, dict) else ():
            yield platform, executor, take_text(work, "command")


def _name_test(given: str, node: Node) -> str:
    """The UUID in its usual form; without one a name of the content's own."""
    try:
        if len(given) <= 64:
            return str(UUID(given.strip()))
    except ValueError:
        pass
    return "sha256-" + hashlib.sha256(msgspec.json.encode(node)).hexdigest()[:32]


def _name_platforms(named: list[str]) -> tuple[str, ...]:
    words = dict.fromkeys(clean_title(name).lower() for name in named)
    return tuple(
        dict.fromkeys(
            "IaaS" if word.startswith("iaas") else _PLATFORMS.get(word, word)
            for word in words
            if word
        )
    )


def _fill_arguments(command: str, node: Node) -> str:
    given = node.get("input_arguments") if isinstance(node, dict) else None
    if not isinstance(given, dict):
        return command
    # A default may be a megabyte, and be named a thousand times.
    defaults = {key: take_text(value, "default")[:MAX_COMMAND] for key, value in given.items()}
    return _ARGUMENT.sub(lambda found: defaults.get(found[1], found[0]), command[: 4 * MAX_COMMAND])


def _make_items(test: _Test) -> Iterator[Item]:
    lines = [test.told]
    for executor, command in test.commands:
        shown = clean_prose(command, MAX_COMMAND) if command.strip() else ""
        if shown:
            lines.append(f"Command ({executor}): {shown}" if executor else f"Command: {shown}")
    yield KnowledgeEntry(
        id=test.id,
        external_id=test.id.partition(":")[2],
        type="note",
        title=clean_title(test.title),
        text=clean_prose("\n".join(lines)),
        source=test.source,
        version="",
        licence=test.licence,
        tactics=test.tactics,
        platforms=test.platforms,
    )
    yield Link(test.id, "tests", test.technique, test.source)
