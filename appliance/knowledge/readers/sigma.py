"""Knowledge, reading: Sigma rules, correlations and filters as entries, their tags as links.

Format: the Sigma specification 2.0, https://github.com/SigmaHQ/sigma-specification (rules,
correlation rules, filters, tags appendix). What a rule detects is the detect stage's affair; here
it is a text that people search and a link to what the rule watches for.
"""

import hashlib
import re
from collections.abc import Iterator
from typing import Final
from uuid import UUID

import msgspec

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
    take_texts,
)

#: Where the path does not tell whose rules they are.
SIGMA_SOURCE: Final = "Sigma rules"
SIGMAHQ_SOURCE: Final = "SigmaHQ"
SIGMAHQ_LICENCE: Final = "Detection Rule License 1.1"

_ATTACK_ID: Final = re.compile(r"attack\.((?:t\d{4}(?:\.\d{3})?|(?:ta|g|s|c|m)\d{4}))", re.ASCII)
_TACTIC: Final = re.compile(r"attack\.([a-z]{4,20}(?:[-_][a-z]{2,20}){0,3})")
_CVE: Final = re.compile(r"cve[.-](\d{4})[.-](\d{4,19})", re.ASCII)
_DATE: Final = re.compile(r"(\d{4})[-/](\d{1,2})[-/](\d{1,2})", re.ASCII)
#: Folders and archives of the SigmaHQ project as it publishes them.
_SIGMAHQ: Final = re.compile(
    r"sigma(?:hq|-master|-main|-r?\d{4}[\d-]{0,8}|_core\S{0,20}|_all_rules|_emerging\S{0,20})?"
    r"|rules-(?:emerging-threats|threat-hunting)"
)
_PLATFORMS: Final = {"windows": "Windows", "linux": "Linux", "macos": "macOS"}
#: How the kinds of documents are told apart, and what each watches.
_KINDS: Final = ("detection", "correlation", "filter")


class _Rule(msgspec.Struct, frozen=True):
    id: str
    content: dict[str, Node]
    kind: str
    where: str


def read_sigma(raw: bytes, name: str, source: str = SIGMA_SOURCE) -> Iterator[Item]:
    """One entry `sigma:<id>` a rule, correlation or filter, with links "watches" to the techniques,
    tactics, groups, software and CVEs of its tags (known or not), "correlates" from a correlation
    and "filters" from a filter to the rules it names. A rule without an id of its own is named by
    the hash of its content. Raises ModelError when no document of the file is such a thing."""
    rules: list[_Rule] = []
    dropped: list[Dropped] = []
    base: dict[str, Node] = {}
    for document in read_documents(raw, name):
        where = f"{name}:{document.line}"
        if isinstance(document, Document) and _is_global(document.content):
            base = document.content if isinstance(document.content, dict) else {}
            continue
        found = _read_rule(document, base, where)
        if isinstance(found, Dropped):
            dropped.append(found)
        else:
            rules.append(found)
    if not rules:
        reason = f": {dropped[0].reason}" if dropped else ""
        raise ModelError(f"{name}: no Sigma rule{reason}")
    names = {take_text(rule.content, "name"): rule.id for rule in rules}
    for rule in rules:
        yield _make_entry(rule, source)
        yield from _make_links(rule, source, names)
    yield from dropped


def name_sigma_source(folders: tuple[str, ...], label: str) -> str:
    """The source of the rules in a tree: SigmaHQ where one of the folders around them is called as
    that project's are, else by the name of what was given."""
    if any(_SIGMAHQ.fullmatch(folder.lower()) for folder in folders):
        return SIGMAHQ_SOURCE
    return clean_title(f"{SIGMA_SOURCE}: {label}") if label else SIGMA_SOURCE


def _is_global(content: Node) -> bool:
    """A document whose keys hold for those after it (collections of Sigma 1)."""
    return take_text(content, "action") == "global"


def _read_rule(
    document: Document | BrokenDocument, base: dict[str, Node], where: str
) -> _Rule | Dropped:
    if isinstance(document, BrokenDocument):
        return Dropped(where, document.reason)
    if not isinstance(document.content, dict):
        return Dropped(where, "not a mapping")
    content = {**base, **document.content}
    kind = next((kind for kind in _KINDS if isinstance(content.get(kind), dict)), "")
    if not kind:
        return Dropped(where, "neither a Sigma rule nor a correlation nor a filter")
    if not take_text(content, "title").strip():
        return Dropped(where, "no title")
    # The id of a collection is that of no part of it, so the document's own is asked for.
    uuid = _read_uuid(take_text(document.content, "id"))
    return _Rule(uuid or f"sigma:{_hash_rule(content)}", content, kind, where)


def _hash_rule(content: dict[str, Node]) -> str:
    return "sha256-" + hashlib.sha256(msgspec.json.encode(content)).hexdigest()[:32]


def _make_entry(rule: _Rule, source: str) -> KnowledgeEntry:
    content = rule.content
    product = take_text(content.get("logsource"), "product").strip().lower()
    licence = SIGMAHQ_LICENCE if source == SIGMAHQ_SOURCE else ""
    uuid = rule.id.removeprefix("sigma:")
    name = clean_title(take_text(content, "name"))
    return KnowledgeEntry(
        id=rule.id,
        external_id="" if uuid.startswith("sha256-") else uuid,
        type="rule",
        title=clean_title(take_text(content, "title")) or rule.id,
        text=_write_text(rule),
        source=source,
        version="",
        licence=clean_title(take_text(content, "license")) or licence,
        tactics=_find_tactics(content),
        platforms=(_PLATFORMS.get(product, clean_title(product)),) if product else (),
        aliases=(name,) if name else (),
        modified=_find_date(content),
        deprecated=take_text(content, "status").lower() in ("deprecated", "unsupported"),
    )


def _write_text(rule: _Rule) -> str:
    content = rule.content
    parts = [take_text(content, "description")]
    watched = [
        take_text(content.get("logsource"), key) for key in ("product", "category", "service")
    ]
    if any(watched):
        parts.append(f"Log source: {' '.join(word for word in watched if word)}.")
    if rule.kind == "correlation":
        correlation = content["correlation"]
        parts.append(f"Correlation: {_describe_correlation(correlation)}.")
    false_positives = "; ".join(text.strip() for text in take_texts(content, "falsepositives"))
    if false_positives:
        parts.append(f"False positives: {false_positives}")
    if level := take_text(content, "level"):
        parts.append(f"Level: {level}.")
    return clean_prose("\n".join(parts))


def _describe_correlation(node: Node) -> str:
    words = [take_text(node, "type") or "of events"]
    if group := take_texts(node, "group-by"):
        words.append(f"by {', '.join(group)}")
    if timespan := take_text(node, "timespan"):
        words.append(f"within {timespan}")
    return " ".join(words)


def _find_tactics(content: dict[str, Node]) -> tuple[str, ...]:
    tags = (_TACTIC.fullmatch(tag.lower()) for tag in take_texts(content, "tags"))
    return tuple(dict.fromkeys(found[1].replace("_", "-") for found in tags if found))


def _find_date(content: dict[str, Node]) -> str:
    """The rule's last day, RFC 3339; "" where none is given."""
    for key in ("modified", "date"):
        if found := _DATE.fullmatch(take_text(content, key).strip()):
            return f"{found[1]}-{int(found[2]):02}-{int(found[3]):02}T00:00:00Z"
    return ""


def _make_links(rule: _Rule, source: str, names: dict[str, str]) -> Iterator[Link | Dropped]:
    targets = dict.fromkeys(
        target for tag in take_texts(rule.content, "tags") if (target := _read_tag(tag))
    )
    for target in targets:
        yield Link(rule.id, "watches", target, source)
    if rule.kind == "detection":
        return
    verb = "correlates" if rule.kind == "correlation" else "filters"
    for named in dict.fromkeys(take_texts(rule.content.get(rule.kind), "rules")):
        target = names.get(named) or _read_uuid(named)
        if target:
            yield Link(rule.id, verb, target, source)
        elif named.lower() != "any":
            yield Dropped(rule.where, f"{quote_value(named)} names no rule of this file")
    if not take_list(rule.content.get(rule.kind), "rules"):
        yield Dropped(rule.where, f"the {rule.kind} names no rule")


def _read_tag(tag: str) -> str:
    """The id that a tag stands for; "" for tags of another kind."""
    tag = tag.strip().lower()
    if found := _ATTACK_ID.fullmatch(tag):
        return found[1].upper()
    if found := _CVE.fullmatch(tag):
        return f"CVE-{found[1]}-{found[2]}"
    return ""


def _read_uuid(text: str) -> str:
    """The rule's id by its UUID, in its usual form; "" for what is no UUID."""
    try:
        return f"sigma:{UUID(text.strip())}" if len(text) <= 64 else ""
    except ValueError:
        return ""
