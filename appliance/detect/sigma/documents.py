"""From paths to YAML documents with their lines (detect stage, at load time, before `load`).

Rule files come from strangers, so everything here has a cap, and what cannot be read becomes a
RefusedRule with file, line and reason while the rest goes on. The caps guard known ways to stop a
YAML reader: nesting (libyaml's composer recurses on the C stack), aliases that multiply, and
base-60 integers of great length.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from appliance.errors import RuleError

#: Bytes of one rule file. The largest of SigmaHQ has 300 kB.
MAX_FILE_BYTES: Final = 8 << 20
#: Levels of nesting in one document.
MAX_DEPTH: Final = 64
#: Size of one document after its aliases are written out: characters, plus _NODE_COST a node.
MAX_DOCUMENT_SIZE: Final = 1 << 20
#: Documents in one file.
MAX_DOCUMENTS: Final = 10_000
#: Code points of an unquoted number.
MAX_NUMBER_LENGTH: Final = 64
#: Code points of the reason for a refusal.
MAX_REASON: Final = 512
_NODE_COST: Final = 16
_SUFFIXES: Final = frozenset({".yml", ".yaml"})


@dataclass(frozen=True, slots=True)
class RefusedRule:
    """A rule, filter, correlation or whole file that was not loaded, and why. `line` is 1-based:
    that of the error in the YAML, else that of the document; `title` and `rule_id` are empty
    where the document does not say."""

    path: str
    line: int
    title: str
    rule_id: str
    reason: str


def write_reason(text: str) -> str:
    """The text as one printable line of at most MAX_REASON code points: rules hold hostile text,
    and their errors quote it."""
    line = " ".join(text.split())[:MAX_REASON]
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in line)


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document that is a mapping. `line` is 1-based: where the mapping begins."""

    path: str
    line: int
    content: dict[str, Any]

    def refuse(self, reason: str) -> RefusedRule:
        """This document as refused for the reason, with what names it."""
        title, rule_id = self.content.get("title"), self.content.get("id")
        return RefusedRule(
            self.path,
            self.line,
            title if isinstance(title, str) else "",
            rule_id if isinstance(rule_id, str) else "",
            write_reason(reason),
        )


class _DocumentLoader(yaml.CSafeLoader):
    """YAML 1.2, 3.2.1.3: keys of a mapping are unique. PyYAML keeps the last one, which would
    drop a condition of a rule in silence."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"duplicate key {key.value!r}", key.start_mark
                    )
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def find_rule_files(path: Path) -> list[Path]:
    """The file itself, or the folder's *.yml and *.yaml files, deep, in sorted order.

    Links to folders are not followed. Raises RuleError when the path does not exist, the
    folder has no such file, or a folder in it cannot be read."""
    if not os.path.lexists(path):
        raise RuleError(f"{path}: no such file or folder")
    if not path.is_dir():
        return [path]
    found = [
        Path(folder, name)
        for folder, _, names in os.walk(path, onerror=_raise_unreadable)
        for name in names
        if Path(name).suffix.lower() in _SUFFIXES
    ]
    if not found:
        raise RuleError(f"{path}: the folder holds no *.yml or *.yaml file")
    return sorted(found)


def _raise_unreadable(error: OSError) -> None:
    raise RuleError(f"{error.filename}: cannot be read: {error.strerror}") from error


def read_documents(path: Path) -> Iterator[Document | RefusedRule]:
    """Each document of a file that is not empty, or why it cannot be read. Raises nothing for
    what the file holds or whether it can be opened."""
    name = str(path)
    try:
        nodes = _compose(_read_text(path))
    except _Unreadable as error:
        yield from _construct_all(name, error.before)
        yield RefusedRule(name, error.line, "", "", error.reason)
        return
    yield from _construct_all(name, nodes)


class _Unreadable(Exception):
    """The file is broken at this line; `before` are the documents in front of it."""

    def __init__(self, line: int, reason: str, before: tuple[yaml.Node, ...] = ()) -> None:
        super().__init__(reason)
        self.line = line
        self.reason = reason
        self.before = before


def _read_text(path: Path) -> str:
    if not path.is_file():  # a pipe or device would make the reader wait
        raise _Unreadable(1, "not a regular file")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _Unreadable(1, f"cannot be read: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise _Unreadable(1, f"larger than {MAX_FILE_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _Unreadable(line, f"not UTF-8 at byte {error.start}") from error
    odd = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if odd is not None:  # YAML 1.2, 5.1; found here because PyYAML reports it without a line
        line = text.count("\n", 0, odd.start()) + 1
        raise _Unreadable(line, f"holds the character U+{ord(odd.group()):04X}")
    return text


def _compose(text: str) -> list[yaml.Node]:
    _check_events(text)
    nodes: list[yaml.Node] = []
    try:
        loader = yaml.CSafeLoader(text)
        while loader.check_node():
            node = loader.get_node()
            if node is not None:
                nodes.append(node)
    except yaml.YAMLError as error:
        raise _Unreadable(*_locate(error), tuple(nodes)) from error
    return nodes


def _check_events(text: str) -> None:
    """Look through the flat event stream first: composing what is nested too deep would end the
    process, not raise. A syntax error is left for the composer, which keeps what is before it."""
    depth = documents = 0
    try:
        for event in yaml.parse(text, yaml.CSafeLoader):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_DEPTH:
                    raise _Unreadable(_line(event), f"nested deeper than {MAX_DEPTH} levels")
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            elif isinstance(event, yaml.ScalarEvent) and _is_long_number(event):
                raise _Unreadable(_line(event), "a number is too long")
            elif isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > MAX_DOCUMENTS:
                    raise _Unreadable(_line(event), f"more than {MAX_DOCUMENTS} documents")
    except yaml.YAMLError:
        return


def _is_long_number(event: yaml.ScalarEvent) -> bool:
    unquoted = bool(event.implicit[0])
    return (
        unquoted
        and len(event.value) > MAX_NUMBER_LENGTH
        and not event.value.strip("0123456789_:+-.")
    )


def _line(marked: Any) -> int:
    return int(marked.start_mark.line) + 1


def _locate(error: yaml.YAMLError) -> tuple[int, str]:
    """Line (1-based) and reason of a YAML error, on one line."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    parts = [getattr(error, "context", None), getattr(error, "problem", None)]
    reason = ", ".join(part for part in parts if part) or str(error)
    return (mark.line + 1 if mark else 1), write_reason(f"YAML: {reason}")


def _construct_all(path: str, nodes: Iterable[yaml.Node]) -> Iterator[Document | RefusedRule]:
    for node in nodes:
        document = _construct(path, node)
        if document is not None:
            yield document


def _construct(path: str, node: yaml.Node) -> Document | RefusedRule | None:
    """None for an empty document, which a closing `---` makes."""
    line = _line(node)
    try:
        content = _DocumentLoader("").construct_document(node)
    except yaml.YAMLError as error:
        at, reason = _locate(error)
        return RefusedRule(path, at, "", "", reason)
    except Exception as error:  # PyYAML lets ValueError and more out of its scalar constructors
        return RefusedRule(path, line, "", "", write_reason(f"YAML: {error}"))
    if content is None:
        return None
    if not isinstance(content, dict):
        return RefusedRule(path, line, "", "", "the document is not a mapping")
    reason = _check_content(content)
    return RefusedRule(path, line, "", "", reason) if reason else Document(path, line, content)


def _check_content(content: object) -> str:
    """Why the document is too large or has odd keys; "" if it is sound. Walks the tree that
    aliases stand for, and stops at the cap, so cycles and multiplying aliases end there too."""
    size = 0
    stack = [content]
    while stack:
        top = stack.pop()
        size += _NODE_COST
        if isinstance(top, dict):
            if not all(isinstance(key, str) for key in top):
                return "a mapping has a key that is not a string"
            size += sum(map(len, top))
            stack.extend(top.values())
        elif isinstance(top, list):
            stack.extend(top)
        elif isinstance(top, str):
            size += len(top)
        if size + _NODE_COST * len(stack) > MAX_DOCUMENT_SIZE:
            return f"larger than {MAX_DOCUMENT_SIZE} characters with its aliases written out"
    return ""
