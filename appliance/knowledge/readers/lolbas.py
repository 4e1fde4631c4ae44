"""Knowledge, reading: LOLBAS, programs and scripts of Windows that attackers borrow.

Format: one YAML document a file with Name, Description, Commands and Full_Path, as in
https://github.com/LOLBAS-Project/LOLBAS, file YML-Template.yml.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import PureWindowsPath
from typing import Final

from appliance.errors import ModelError
from appliance.knowledge.entries import Dropped, Item, KnowledgeEntry, Link
from appliance.knowledge.readers.cleaning import clean_prose, clean_title, quote_value
from appliance.knowledge.readers.documents import (
    BrokenDocument,
    Document,
    Node,
    read_documents,
    take_list,
    take_text,
)

LOLBAS_SOURCE: Final = "LOLBAS"
LOLBAS_LICENCE: Final = "GPL-3.0"

#: An ATT&CK technique's id.
TECHNIQUE: Final = re.compile(r"T\d{4}(?:\.\d{3})?", re.ASCII)
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def read_lolbas(raw: bytes, name: str) -> Iterator[Item]:
    """One entry `lolbas:<name>` a document, and a link "abuses" to each technique of its commands,
    whose text says what they do. Raises ModelError when the file holds no such document."""
    found = False
    for document in read_documents(raw, name):
        where = f"{name}:{document.line}"
        reason = _find_fault(document)
        if reason or isinstance(document, BrokenDocument):
            if not found:
                raise ModelError(f"{where}: {reason}")
            yield Dropped(where, reason)
            continue
        found = True
        yield from _read_binary(document.content, where)
    if not found:
        raise ModelError(f"{name}: no LOLBAS entry")


def _find_fault(document: Document | BrokenDocument) -> str:
    if isinstance(document, BrokenDocument):
        return document.reason
    if not clean_title(take_text(document.content, "Name")):
        return "no Name"
    if not take_list(document.content, "Commands"):
        return "no Commands"
    return ""


def _read_binary(content: Node, where: str) -> Iterator[Item]:
    title = clean_title(take_text(content, "Name"))
    entry_id = f"lolbas:{title.lower()}"
    uses: defaultdict[str, list[str]] = defaultdict(list)
    lines = [take_text(content, "Description")]
    for command in take_list(content, "Commands"):
        told = _describe_command(command)
        lines.append(told)
        technique = take_text(command, "MitreID").strip().upper()
        if TECHNIQUE.fullmatch(technique):
            uses[technique].append(told)
        else:
            yield Dropped(where, f"a command's MitreID {quote_value(technique)} is no technique")
    paths = [take_text(path, "Path").strip() for path in take_list(content, "Full_Path")]
    if any(paths):
        lines.append("Paths: " + "; ".join(path for path in paths if path))
    yield KnowledgeEntry(
        id=entry_id,
        external_id=title,
        type="binary",
        title=title,
        text=clean_prose("\n".join(lines)),
        source=LOLBAS_SOURCE,
        version="",
        licence=LOLBAS_LICENCE,
        platforms=("Windows",),
        aliases=_find_aliases(content, title),
        modified=_find_day(content),
    )
    for technique, told_of in uses.items():
        yield Link(entry_id, "abuses", technique, LOLBAS_SOURCE, clean_prose("\n".join(told_of)))


def _describe_command(command: Node) -> str:
    """ "Download: saves a file from a server. certutil.exe -urlcache ..." in one line."""
    category = take_text(command, "Category").strip()
    told = take_text(command, "Description").strip()
    line = f"{category}: {told}" if category else told
    return " ".join(f"{line} {take_text(command, 'Command')}".split())


def _find_aliases(content: Node, title: str) -> tuple[str, ...]:
    """The name without its suffix, other names, and the same names by path."""
    others = [take_text(alias, "Alias") for alias in take_list(content, "Aliases")]
    names = [PureWindowsPath(title).stem, *others]
    cleaned = dict.fromkeys(clean_title(name) for name in names)
    return tuple(name for name in cleaned if name and name.lower() != title.lower())


def _find_day(content: Node) -> str:
    day = take_text(content, "Created").strip()
    return f"{day}T00:00:00Z" if _DAY.fullmatch(day) else ""
