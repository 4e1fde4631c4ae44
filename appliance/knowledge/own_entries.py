"""Knowledge, build time: our own texts, which the package carries as YAML under `own/`.

They make the base useful before anything was imported: ATT&CK for ICS, what events and fields of
logs mean, programs that attackers borrow, playbooks, countermeasures. Every file is a list of
mappings with `id`, `title`, `text` and, as FORMS permits, more. Descriptions are ours throughout;
of ATT&CK only ids, names and tactics are used, which are facts.
"""

import re
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Final

import msgspec

from appliance import __version__
from appliance.errors import ModelError
from appliance.knowledge.entries import EntryType, Item, KnowledgeEntry, Link
from appliance.knowledge.readers.documents import BrokenDocument, Node, read_documents

OWN_SOURCE: Final = "Appliance"
OWN_LICENCE: Final = "Apache-2.0"

#: Characters of a text.
MIN_TEXT: Final = 60
MAX_TEXT: Final = 2000

#: Platforms as ATT&CK names them, so that one filter finds its entries and ours.
PLATFORMS: Final = frozenset({"Windows", "Linux", "ESXi", "Containers", "Network Devices"})


class Form(msgspec.Struct, frozen=True):
    """What the entries of one file look like: the type they become (ICS entries are techniques or
    tactics by their id), a pattern for ids, the key that names techniques, which is also the kind
    of the links, and further keys that an entry may have."""

    type: EntryType
    id: re.Pattern[str]
    link: str
    further: frozenset[str]


_NAMED: Final = frozenset({"aliases", "platforms"})

#: File under `own/` -> its form.
FORMS: Final[Mapping[str, Form]] = {
    "ics.yaml": Form(
        "technique",
        re.compile(r"T08[0-9]{2}|TA01[0-9]{2}"),
        "",
        frozenset({"tactics", "deprecated"}),
    ),
    "log_sources.yaml": Form(
        "log_source", re.compile(r"log:[a-z0-9]+(?:[-_.][a-z0-9]+)*+"), "shows", _NAMED
    ),
    "binaries.yaml": Form(
        "binary", re.compile(r"own-binary:[a-z0-9]+(?:-[a-z0-9]+)*+"), "abuses", _NAMED
    ),
    "playbooks.yaml": Form(
        "playbook", re.compile(r"playbook:[a-z0-9]+(?:-[a-z0-9]+)*+"), "answers", _NAMED
    ),
    "countermeasures.yaml": Form(
        "mitigation", re.compile(r"own-measure:[a-z0-9]+(?:-[a-z0-9]+)*+"), "mitigates", _NAMED
    ),
}

_TECHNIQUE: Final = re.compile(r"T[0-9]{4}(?:\.[0-9]{3})?")
#: Lists of a record; everything else in it is one text.
_LISTS: Final = frozenset({"aliases", "platforms", "tactics", "shows", "abuses", "answers"}) | {
    "mitigates"
}


class _Record(msgspec.Struct, frozen=True):
    """One mapping of a file, checked. `link` holds what stands under the form's link key."""

    id: str
    title: str
    text: str
    aliases: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    tactics: tuple[str, ...] = ()
    link: tuple[str, ...] = ()
    deprecated: bool = False


def read_own() -> Iterator[Item]:
    """All entries of our own and their links. Raises ModelError, naming file and id, when a file
    is missing, is not a list of well-formed records, or an id occurs twice."""
    folder = resources.files("appliance.knowledge") / "own"
    seen: set[str] = set()
    for name, form in FORMS.items():
        try:
            raw = (folder / name).read_bytes()
        except OSError as error:
            raise ModelError(f"own/{name}: cannot be read: {error.strerror}") from error
        for item in read_own_file(raw, name, form):
            if isinstance(item, KnowledgeEntry):
                if item.id in seen:
                    raise ModelError(f"{name}: {item.id}: this id occurs twice")
                seen.add(item.id)
            yield item


def read_own_file(raw: bytes, name: str, form: Form) -> Iterator[Item]:
    """Entries and links of one file. Raises ModelError as `read_own` does; repeated ids are for
    the caller to find."""
    records = [_read_record(node, name, form) for node in _read_list(raw, name)]
    tactics = {
        record.title.lower().replace(" ", "-"): record.id
        for record in records
        if record.id.startswith("TA")
    }
    for record in records:
        yield _make_entry(record, form)
        yield from _make_links(record, name, form, tactics)


def _read_list(raw: bytes, name: str) -> list[Node]:
    """The records of a file that is one YAML document and a list."""
    documents = list(read_documents(raw, name))
    for document in documents:
        if isinstance(document, BrokenDocument):
            raise ModelError(f"{name}: line {document.line}: {document.reason}")
        if len(documents) == 1 and isinstance(document.content, list):
            return document.content
    raise ModelError(f"{name}: not one list of entries")


def _read_record(node: Node, name: str, form: Form) -> _Record:
    if not isinstance(node, dict):
        raise ModelError(f"{name}: an entry that is no mapping")
    label = node.get("id")
    where = f"{name}: {label if isinstance(label, str) else 'an entry without id'}"
    allowed = {"id", "title", "text", *form.further} | ({form.link} - {""})
    unknown = sorted(set(node) - allowed)
    if unknown:
        raise ModelError(f"{where}: unknown key {unknown[0]!r}")
    lists = {key: _take_list(node[key], key, where) for key in sorted(_LISTS & set(node))}
    record = _Record(
        id=_take_text(node, "id", where),
        title=_take_text(node, "title", where),
        text=_take_text(node, "text", where),
        aliases=lists.get("aliases", ()),
        platforms=lists.get("platforms", ()),
        tactics=lists.get("tactics", ()),
        link=lists.get(form.link, ()),
        deprecated=_take_flag(node, where),
    )
    _check_record(record, where, form)
    return record


def _take_text(node: Mapping[str, Node], key: str, where: str) -> str:
    value = node.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ModelError(f"{where}: {key} is missing or no text")
    return value.strip()


def _take_list(value: Node, key: str, where: str) -> tuple[str, ...]:
    texts = [text for text in value if isinstance(text, str)] if isinstance(value, list) else []
    if not isinstance(value, list) or len(texts) != len(value) or not texts:
        raise ModelError(f"{where}: {key} is no list of texts")
    if len(set(texts)) != len(texts):
        raise ModelError(f"{where}: {key} says the same twice")
    return tuple(texts)


def _take_flag(node: Mapping[str, Node], where: str) -> bool:
    value = node.get("deprecated", "false")
    if value not in {"true", "false"}:
        raise ModelError(f"{where}: deprecated is neither true nor false")
    return value == "true"


def _check_record(record: _Record, where: str, form: Form) -> None:
    if not form.id.fullmatch(record.id):
        raise ModelError(f"{where}: not an id of this file")
    if not record.title.isprintable() or len(record.title) > 100:
        raise ModelError(f"{where}: title is not one line of at most 100 characters")
    if not MIN_TEXT <= len(record.text) <= MAX_TEXT:
        raise ModelError(f"{where}: text has {len(record.text)} characters")
    if not record.text.replace("\n", " ").isprintable():
        raise ModelError(f"{where}: text holds control characters")
    for platform in record.platforms:
        if platform not in PLATFORMS:
            raise ModelError(f"{where}: unknown platform {platform!r}")
    for technique in record.link:
        if not _TECHNIQUE.fullmatch(technique):
            raise ModelError(f"{where}: {technique!r} is not a technique id")


def _make_entry(record: _Record, form: Form) -> KnowledgeEntry:
    is_tactic = record.id.startswith("TA")
    return KnowledgeEntry(
        id=record.id,
        external_id=record.id,
        type="tactic" if is_tactic else form.type,
        title=record.title,
        text=record.text,
        source=OWN_SOURCE,
        version=__version__,
        licence=OWN_LICENCE,
        tactics=record.tactics,
        platforms=record.platforms,
        aliases=record.aliases,
        deprecated=record.deprecated,
    )


def _make_links(
    record: _Record, name: str, form: Form, tactics: Mapping[str, str]
) -> Iterator[Link]:
    """Links to techniques by the form's kind; an ICS technique is in its tactics."""
    for technique in record.link:
        yield Link(record.id, form.link, technique, OWN_SOURCE)
    for tactic in record.tactics:
        if tactic not in tactics:
            raise ModelError(f"{name}: {record.id}: unknown tactic {tactic!r}")
        yield Link(record.id, "in", tactics[tactic], OWN_SOURCE)
