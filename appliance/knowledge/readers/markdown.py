"""Knowledge, reading: the site's own notes and playbooks, written in Markdown.

Format: CommonMark's headings (0.31, sections 4.2 and 4.3), fenced code (4.5) and links, after YAML
front matter with `title`, `tags` and `type` (note, playbook or incident: a closed one of the
site). What is left is plain text.
"""

import re
import unicodedata
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

import msgspec

from appliance.errors import ModelError
from appliance.knowledge.entries import Dropped, EntryType, Item, KnowledgeEntry, Link
from appliance.knowledge.readers.cleaning import clean_prose, clean_title, quote_value
from appliance.knowledge.readers.documents import (
    BrokenDocument,
    Node,
    decode_text,
    read_front_matter,
    take_text,
    take_texts,
)

#: Where the path does not tell whose notes they are.
NOTES_SOURCE: Final = "Site notes"
#: Bytes of a file, sections of a file, ids that one section is linked to.
MAX_FILE_BYTES: Final = 16 << 20
MAX_SECTIONS: Final = 5_000
MAX_LINKS: Final = 1_000
MAX_SLUG: Final = 80
#: Characters of a section that are read: several times what an entry keeps.
MAX_SECTION: Final = 32_000

_HEADING: Final = re.compile(r" {0,3}(#{1,3})[ \t](.{1,1000})")
_CLOSING: Final = re.compile(r"(?<=[ \t])#+\Z|\A#+\Z")
_UNDERLINE: Final = re.compile(r" {0,3}(=+|-{2,})[ \t]*")
_FENCE: Final = re.compile(r" {0,3}(`{3,}|~{3,})")
_DEFINITION: Final = re.compile(r" {0,3}\[[^\[\]]{1,200}\]:.*")
_QUOTE: Final = re.compile(r"\A(?: {0,3}>[ ]?){1,10}")

_COMMENT: Final = re.compile(r" {0,3}<!--")
_HIDDEN: Final = re.compile(
    r"<(script|style|template|iframe|object|svg)\b[^<>]{0,2000}>.*?(?:</\1\s{0,9}>|\Z)",
    re.DOTALL | re.IGNORECASE,
)
#: A tag of HTML by its name, or whatever has attributes; `<host>` in a command is none.
_NAMES: Final = (
    "a|abbr|address|article|aside|audio|b|base|bdi|bdo|blockquote|body|br|button|canvas|caption|"
    "center|cite|code|col|colgroup|dd|del|details|dfn|dialog|div|dl|dt|em|embed|fieldset|"
    "figcaption|figure|font|footer|form|frame|frameset|h[1-6]|head|header|hr|html|i|iframe|img|"
    "input|ins|kbd|label|legend|li|link|main|mark|math|meta|nav|noscript|object|ol|option|p|param|"
    "picture|pre|q|s|samp|script|section|select|small|source|span|strike|strong|style|sub|"
    "summary|sup|svg|table|tbody|td|template|textarea|tfoot|th|thead|tr|tt|u|ul|var|video"
)
_TAG: Final = re.compile(
    rf"</?(?:(?:{_NAMES})(?=[\s/>])[^<>]{{0,2000}}|[A-Za-z][^<>=]{{0,200}}=[^<>]{{0,2000}})>"
    r"|<[!?][^<>]{0,2000}>",
    re.IGNORECASE,
)
_OPEN_TAG: Final = re.compile(rf"<(?=/?(?:{_NAMES})\b|[!?])", re.IGNORECASE)
_LINK: Final = re.compile(
    r"!?\[([^\[\]]{0,1000})\](?:\([^()]{0,2000}(?:\([^()]{0,500}\)[^()]{0,500})?\)|\[[^\[\]]{0,200}\])"
)
_AUTOLINK: Final = re.compile(r"<((?:https?|mailto|ftp):[^<>\s]{0,2000})>")
#: Bold, code, and what stands emphasised between words: patterns such as *.exe keep their star.
_MARKS: Final = re.compile(r"\*\*|`+|(?<![\w*/\\])\*(\w(?:[^*\n]{0,300}\w)?)\*(?![\w*])")

_ATTACK: Final = re.compile(
    r"\b(?:[Tt]\d{4}(?:\.\d{3})?|TA\d{4}|DET\d{4}|AN\d{4}|[GSCMA]\d{4})\b(?!-)", re.ASCII
)
_CVE: Final = re.compile(r"\bCVE-\d{4}-\d{4,19}\b", re.ASCII | re.IGNORECASE)
_UUID: Final = re.compile(
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", re.IGNORECASE
)
_TAGGED: Final = re.compile(r"attack\.([a-z]{1,3}\d{4}(?:\.\d{3})?)", re.ASCII | re.IGNORECASE)
_TECHNIQUE: Final = re.compile(r"T\d{4}")
#: What the front matter may call a file.
_TYPES: Final[dict[str, EntryType]] = {
    "": "note",
    "note": "note",
    "playbook": "playbook",
    "incident": "incident",
}


class _Section(msgspec.Struct):
    """A heading ("" for what stands before the first), its level 1..3 and the lines below it, each
    with whether it is code."""

    heading: str
    level: int
    lines: list[tuple[str, bool]]


class _Front(msgspec.Struct, frozen=True):
    title: str
    tags: tuple[str, ...]
    type: EntryType
    modified: str
    source: str


def read_markdown(raw: bytes, name: str, source: str = NOTES_SOURCE) -> Iterator[Item]:
    """One entry `note:<name>#<slug>` a section that says something, under a heading of level 1 to
    3 (deeper ones stay in the text), with links "about" to every ATT&CK id, CVE and rule named in
    it; a playbook "answers" the techniques it names. Where the source tells the folder
    ("Site notes: <folder>") the id is `note:<folder>/<name>#<slug>`. Raises ModelError for what is
    no text, is larger than MAX_FILE_BYTES or says nothing."""
    if len(raw) > MAX_FILE_BYTES:
        raise ModelError(f"{name}: Markdown of more than {MAX_FILE_BYTES >> 20} MB")
    matter, body = read_front_matter(decode_text(raw, name))
    if isinstance(matter, BrokenDocument):
        yield Dropped(f"{name}:{matter.line}", f"front matter: {matter.reason}")
        matter = None
    front, reason = _read_front(matter.content if matter else None, source)
    if reason:
        yield Dropped(name, reason)
    slugs: dict[str, int] = {}
    title, found = front.title, 0
    lead = _lead_ids(name, source)
    for number, section in enumerate(_split_sections(body)):
        if number > MAX_SECTIONS:
            yield Dropped(name, f"more than {MAX_SECTIONS} sections: the rest is left out")
            break
        if section.level == 1 and not front.title:
            title = section.heading
        text = clean_prose(_write_plain(section.lines))
        slug = _make_slug(section.heading, slugs)
        if text:
            found += 1
            yield from _make_items(f"{lead}#{slug}", section, text, title, front)
    if not found:
        raise ModelError(f"{name}: Markdown without text")


def _lead_ids(name: str, source: str) -> str:
    """How the ids of a file's entries begin. The folder belongs to it, else the README.md of two
    folders would be one; always, else that of docs/ and docs/docs/ would. A file that was given by
    itself is its own folder."""
    folder = source.removeprefix(f"{NOTES_SOURCE}: ")
    return f"note:{name}" if folder in (source, name) else f"note:{folder}/{name}"


def _read_front(content: Node, source: str) -> tuple[_Front, str]:
    """What the front matter says, and why a part of it does not count ("" when all does)."""
    given = take_text(content, "type").strip().lower()
    kind = _TYPES.get(given, "note")
    reason = "" if given in _TYPES else f"type {quote_value(given)} is read as note"
    words = [word for tag in take_texts(content, "tags") for word in tag.split(",")]
    tags = tuple(dict.fromkeys(tag for word in words[:200] if (tag := clean_title(word))))
    day = clean_title(take_text(content, "date") or take_text(content, "modified"))[:10]
    modified = f"{day}T00:00:00Z" if re.fullmatch(r"\d{4}-\d{2}-\d{2}", day, re.ASCII) else ""
    return _Front(clean_title(take_text(content, "title")), tags, kind, modified, source), reason


def _split_sections(text: str) -> Iterator[_Section]:
    """The sections in order. Headings inside of code or comments are none."""
    section = _Section("", 0, [])
    fence, in_comment = "", False
    for line in text.splitlines():
        mark = _FENCE.match(line)
        if in_comment or (not fence and _COMMENT.match(line)):
            in_comment = "-->" not in line
        elif fence:
            if mark and mark[1].startswith(fence):
                fence = ""
            else:
                section.lines.append((line, True))
        elif mark:
            fence = mark[1]
        elif heading := _HEADING.match(line):
            yield section
            words = _CLOSING.sub("", heading[2].strip())
            section = _Section(_clean_heading(words), len(heading[1]), [])
        elif (under := _UNDERLINE.fullmatch(line)) and _stands_alone(section.lines):
            heading_line = section.lines.pop()[0]
            yield section
            section = _Section(_clean_heading(heading_line), 1 if under[1][0] == "=" else 2, [])
        else:
            section.lines.append((line, False))
    yield section


def _stands_alone(lines: list[tuple[str, bool]]) -> bool:
    """Whether the last line can be a heading that the next line underlines."""
    if not lines or lines[-1][1] or not lines[-1][0].strip():
        return False
    if lines[-1][0].lstrip().startswith((">", "-", "*", "+", "|")):
        return False
    return len(lines) == 1 or not lines[-2][0].strip() or lines[-2][1]


def _clean_heading(text: str) -> str:
    return clean_title(_strip_marks(text))


def _write_plain(lines: list[tuple[str, bool]]) -> str:
    """The section as plain text: code as it stands, all else without markup."""
    runs: list[tuple[list[str], bool]] = []
    size = 0
    for line, is_code in lines:
        size += len(line) + 1
        if size > MAX_SECTION:
            runs.append((["..."], True))
            break
        if not is_code and _DEFINITION.fullmatch(line):
            continue
        if not runs or runs[-1][1] != is_code:
            runs.append(([], is_code))
        runs[-1][0].append(line if is_code else _QUOTE.sub("", line, count=1))
    return "\n".join(
        "\n".join(part) if is_code else _strip_marks("\n".join(part)) for part, is_code in runs
    )


def _strip_marks(text: str) -> str:
    text = _AUTOLINK.sub(r"\1", _HIDDEN.sub("", text[: MAX_SECTION + 1]))
    text = _MARKS.sub(r"\1", _LINK.sub(r"\1", _LINK.sub(r"\1", text)))
    # Removing one tag may make another of what stood around it.
    for _ in range(4):
        text, count = _TAG.subn("", text)
        if not count:
            break
    return _OPEN_TAG.sub("", text)


def _make_slug(heading: str, taken: dict[str, int]) -> str:
    """The heading as a part of an id, unique in its file: "Who to call?" -> who-to-call."""
    form = unicodedata.normalize("NFKC", heading).lower()
    words = "".join(char if char.isalnum() else " " for char in form).split()
    slug = "-".join(words)[:MAX_SLUG].strip("-") or ("section" if heading else "top")
    taken[slug] = number = taken.get(slug, 0) + 1
    if number == 1:
        return slug
    unique = f"{slug}-{number}"
    while unique in taken:
        number += 1
        unique = f"{slug}-{number}"
    taken[slug], taken[unique] = number, 1
    return unique


def _make_items(
    entry_id: str, section: _Section, text: str, title: str, front: _Front
) -> Iterator[Item]:
    heading = section.heading
    whole = PurePosixPath(entry_id.partition(":")[2].partition("#")[0]).stem
    parts = dict.fromkeys(part for part in (title, heading) if part)
    yield KnowledgeEntry(
        id=entry_id,
        external_id="",
        type=front.type,
        title=clean_title(": ".join(parts) or whole) or entry_id,
        text=text,
        source=front.source,
        version="",
        licence="",
        aliases=front.tags,
        modified=front.modified,
    )
    tagged = (found[1].upper() for tag in front.tags if (found := _TAGGED.fullmatch(tag)))
    targets = dict.fromkeys([*find_ids(f"{heading}\n{text}"), *tagged])
    for number, target in enumerate(targets):
        if number == MAX_LINKS:
            yield Dropped(entry_id, f"names more than {MAX_LINKS} ids: the rest is left out")
            return
        answers = front.type == "playbook" and _TECHNIQUE.match(target)
        yield Link(entry_id, "answers" if answers else "about", target, front.source)


def find_ids(text: str) -> list[str]:
    """The ids of ATT&CK, CVEs and rules (`sigma:<uuid>`) that a text names, each once, in the order
    of their kinds."""
    found = [match.upper() for match in _ATTACK.findall(text)]
    found += [match.upper() for match in _CVE.findall(text)]
    found += [f"sigma:{match.lower()}" for match in _UUID.findall(text)]
    return list(dict.fromkeys(found))
