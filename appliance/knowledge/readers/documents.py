"""Knowledge, reading: a foreign YAML file as documents of plain text.

The files come from strangers. So nothing is constructed: the parser's events are put together here
as dicts, lists and strings, which leaves no tag, date, number or alias to go wrong in. Aliases
and anchors (YAML 1.2, 3.2.2.2) are refused: a few lines of them stand for gigabytes.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import yaml

from appliance.errors import ModelError
from appliance.knowledge.readers.cleaning import clean_title

#: Bytes of one YAML file, and characters of one of its documents.
MAX_FILE_BYTES: Final = 64 << 20
MAX_DOCUMENT: Final = 1 << 20
#: Documents in one file, and levels, scalars and collections in one document.
MAX_DOCUMENTS: Final = 50_000
MAX_DEPTH: Final = 64
MAX_NODES: Final = 100_000

#: A document's content. Scalars are strings as written, without their quotes; an empty one is None.
Node = dict[str, "Node"] | list["Node"] | str | None

#: YAML 1.2, 9.1.2: three dashes at the start of a line begin a document, whatever is around them.
_START: Final = re.compile(r"^---(?=[ \t\r\n]|\Z)", re.MULTILINE)
#: Lines that say nothing of their own: directives (%YAML), comments, empty ones.
_SILENT: Final = re.compile(r"(?:[ \t]*+(?:[%#][^\n]*+)?+\r?\n)*+[ \t]*+(?:[%#][^\n]*+)?+")
_FRONT_END: Final = re.compile(r"\n(?:---|\.\.\.)[ \t]*\r?(?:\n|\Z)")
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_PLAIN_TAG: Final = re.compile(r"tag:yaml\.org,2002:[a-z]+")

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Document(msgspec.Struct, frozen=True):
    """A document that is not empty; `line` (from 1) is where it begins."""

    line: int
    content: Node


class BrokenDocument(msgspec.Struct, frozen=True):
    """A document that cannot be read, the line where it breaks, and why."""

    line: int
    reason: str


def decode_text(raw: bytes, name: str) -> str:
    """The file as text: UTF-8, or UTF-16 where a byte order mark says so. ModelError otherwise."""
    encoding = "utf-16" if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise ModelError(f"{name}: not {encoding[:6].upper()} at byte {error.start}") from None


def read_documents(raw: bytes, name: str) -> Iterator[Document | BrokenDocument]:
    """The documents of a YAML file in order; one that is broken spoils no other. Raises ModelError
    for a file that is too large, is not text, or holds more than MAX_DOCUMENTS."""
    if len(raw) > MAX_FILE_BYTES:
        raise ModelError(f"{name}: YAML of more than {MAX_FILE_BYTES >> 20} MB")
    text = decode_text(raw, name)
    line = 1
    for number, part in enumerate(_split_documents(text)):
        if number > MAX_DOCUMENTS:
            raise ModelError(f"{name}: more than {MAX_DOCUMENTS} YAML documents")
        if not _SILENT.fullmatch(part):
            yield from _read_part(part, line)
        line += part.count("\n")


def read_front_matter(text: str) -> tuple[Document | BrokenDocument | None, str]:
    """What stands between a first line `---` and the next `---` or `...`, and the text behind it.
    No front matter: None and the whole text."""
    if not text.startswith(("---\n", "---\r\n")):
        return None, text
    end = _FRONT_END.search(text, 3, MAX_DOCUMENT)
    if end is None:
        return None, text
    documents = list(_read_part(text[: end.start() + 1], 1))
    body = text[end.end() :]
    first = documents[0] if documents else Document(1, None)
    return first, body


def _split_documents(text: str) -> Iterator[str]:
    start = 0
    for found in _START.finditer(text):
        if found.start() > start:
            yield text[start : found.start()]
        start = found.start()
    yield text[start:]


class _Refused(Exception):
    """The document holds what is not read; `line` counts from 0 within its part."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line
        self.reason = reason


def _read_part(part: str, line: int) -> Iterator[Document | BrokenDocument]:
    """One document, or several that only `...` keeps apart."""
    if len(part) > MAX_DOCUMENT:
        yield BrokenDocument(line, f"a YAML document of more than {MAX_DOCUMENT >> 20} MB")
        return
    try:
        for at, content in _build_documents(yaml.parse(part, _Loader)):
            if content is not None:
                yield Document(line + at, content)
    except _Refused as error:
        yield BrokenDocument(line + error.line, error.reason)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "broken"
        yield BrokenDocument(line + (mark.line if mark else 0), clean_title(f"YAML: {problem}"))
    except (ValueError, RecursionError) as error:
        yield BrokenDocument(line, f"YAML: {type(error).__name__}")


def _build_documents(events: Iterator[Any]) -> Iterator[tuple[int, Node]]:
    """Line (from 0) and content of each document of an event stream."""
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            first = next(events)
            yield first.start_mark.line, _build_node(first, events)


def _build_node(first: Any, events: Iterator[Any]) -> Node:
    """The node that begins with the event, put together without recursion."""
    root: list[Node] = []
    open_nodes: list[dict[str, Node] | list[Node]] = [root]
    keys: list[str | None] = [None]
    event, nodes = first, 0
    while True:
        if isinstance(event, yaml.CollectionEndEvent):
            open_nodes.pop()
            keys.pop()
        else:
            nodes += 1
            _check_event(event, nodes, len(open_nodes))
            inner, key = open_nodes[-1], keys[-1]
            if isinstance(inner, dict) and key is None:
                keys[-1] = _read_key(event)
            else:
                node = _start_node(event)
                if isinstance(inner, dict):
                    inner[key or ""] = node
                    keys[-1] = None
                else:
                    inner.append(node)
                if isinstance(node, dict | list):
                    open_nodes.append(node)
                    keys.append(None)
        if len(open_nodes) == 1:
            return root[0]
        event = next(events)


def _check_event(event: Any, nodes: int, depth: int) -> None:
    line = event.start_mark.line
    if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
        raise _Refused(line, "YAML anchors and aliases are not read")
    if event.tag is not None and event.tag != "!" and not _PLAIN_TAG.fullmatch(event.tag):
        raise _Refused(line, "YAML tags of its own are not read")
    if nodes > MAX_NODES:
        raise _Refused(line, f"a YAML document of more than {MAX_NODES} values")
    if depth > MAX_DEPTH:
        raise _Refused(line, f"YAML nested deeper than {MAX_DEPTH} levels")


def _read_key(event: Any) -> str:
    if not isinstance(event, yaml.ScalarEvent):
        raise _Refused(event.start_mark.line, "a YAML key that is no text")
    return str(event.value)


def _start_node(event: Any) -> Node:
    if isinstance(event, yaml.MappingStartEvent):
        return {}
    if isinstance(event, yaml.SequenceStartEvent):
        return []
    is_null = bool(event.implicit[0]) and event.value in _NULLS
    return None if is_null else str(event.value)


def take_text(node: Node, key: str) -> str:
    """The string at the key of a mapping; "" where there is none or something else."""
    value = node.get(key) if isinstance(node, dict) else None
    return value if isinstance(value, str) else ""


def take_list(node: Node, key: str) -> list[Node]:
    """The list at the key of a mapping, a lone string as a list of one; [] otherwise."""
    value = node.get(key) if isinstance(node, dict) else None
    if isinstance(value, str):
        return [value]
    return value if isinstance(value, list) else []


def take_texts(node: Node, key: str) -> list[str]:
    """The strings of the list at the key of a mapping."""
    return [value for value in take_list(node, key) if isinstance(value, str)]
