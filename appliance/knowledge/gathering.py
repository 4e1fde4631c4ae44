"""Knowledge, on its way in: what readers give is checked and sorted by the source that says it.

Readers clean what they read; here nothing is repaired: what does not fit is left out and told.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

import msgspec

from appliance.errors import ModelError
from appliance.knowledge.content import Contribution, SourceKind, is_older
from appliance.knowledge.entries import (
    ENTRY_TYPES,
    INDICATOR_KINDS,
    Dropped,
    Indicator,
    Item,
    KnowledgeEntry,
    Link,
)

#: Bounds of one thing: characters of ids and titles, of texts and of other fields, names in a list;
#: seconds on either side of 1970.
MAX_NAME: Final = 200
MAX_TEXT: Final = 8_000
MAX_FIELD: Final = 2_048
MAX_LIST: Final = 256
_MAX_TIME: Final = 1e12

#: Bounds of what one reading gives: it is joined in memory.
MAX_ENTRIES: Final = 400_000
MAX_LINKS: Final = 2_000_000
MAX_INDICATORS: Final = 2_000_000

#: Left-out things that are kept with their reason; the rest are counted.
MAX_REASONS: Final = 20

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_CONTROL_IN_TEXT: Final = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class Drops(msgspec.Struct):
    """What was left out: how many, and the first of them with their reasons."""

    count: int = 0
    first: list[Dropped] = []

    def add(self, dropped: Dropped) -> None:
        """Count one."""
        self.count += 1
        if len(self.first) < MAX_REASONS:
            self.first.append(dropped)


class Gathered(msgspec.Struct):
    """What was read: by the name of the source what it brought, what was left out of it (under ""
    what belongs to no source that brought anything), and which files it came from."""

    contributions: dict[str, Contribution]
    drops: dict[str, Drops]
    files: dict[str, set[str]]


class _Sorter:
    """Takes items one by one."""

    def __init__(self, kind: SourceKind, read_at: float) -> None:
        self._kind: SourceKind = kind
        self._read_at = read_at
        self._contributions: dict[str, Contribution] = {}
        self._indicators: defaultdict[str, set[bytes]] = defaultdict(set)
        self._drops: defaultdict[str, Drops] = defaultdict(Drops)
        self._files: defaultdict[str, set[str]] = defaultdict(set)
        self._encode = msgspec.json.Encoder().encode
        self._entries = self._links = self._bodies = 0

    def take(self, file: str, item: Item) -> None:
        """Raises ModelError when there is more than a base may hold."""
        match item:
            case Dropped():
                self._drops[file].add(item)
                return
            case KnowledgeEntry():
                problem = check_entry(item)
                source = item.source
            case Link():
                problem = check_link(item)
                source = item.origin
            case Indicator():
                problem = check_indicator(item)
                source = item.source
        if problem:
            self._drops[file].add(Dropped(file, problem))
            return
        self._files[source].add(file)
        contribution = self._contributions.get(source)
        if contribution is None:
            contribution = Contribution(self._kind, source, read_at=self._read_at)
            self._contributions[source] = contribution
        if isinstance(item, KnowledgeEntry):
            self._take_entry(contribution, file, item)
        elif isinstance(item, Link):
            contribution.links.append(item)
            self._links += 1
        else:
            self._indicators[source].add(self._encode(item))
            self._bodies += 1
        if self._entries > MAX_ENTRIES or self._links > MAX_LINKS or self._bodies > MAX_INDICATORS:
            raise ModelError(
                f"{file}: more than a base may hold: {MAX_ENTRIES} entries, {MAX_LINKS} links, "
                f"{MAX_INDICATORS} indicators"
            )

    def _take_entry(self, contribution: Contribution, file: str, entry: KnowledgeEntry) -> None:
        known = contribution.entries.get(entry.id)
        if known is None:
            self._entries += 1
        elif known == entry:
            return
        elif is_older(entry, known):
            self._drops[file].add(Dropped(file, f"{entry.id}: there is a newer one in this source"))
            return
        elif not is_older(known, entry):
            self._drops[file].add(
                Dropped(file, f"{entry.id}: given twice by this source, the last one is kept")
            )
        contribution.entries[entry.id] = entry

    def finish(self) -> Gathered:
        """All of it, in an order that does not depend on the order of reading."""
        for name, contribution in self._contributions.items():
            contribution.entries = dict(sorted(contribution.entries.items()))
            contribution.links = sorted(
                set(contribution.links),
                key=lambda link: (link.source, link.kind, link.target, link.text),
            )
            contribution.indicators = sorted(self._indicators.get(name, ()))
            first = next(iter(contribution.entries.values()), None)
            contribution.version = _find_most(e.version for e in contribution.entries.values())
            contribution.licence = first.licence if first is not None else ""
        return Gathered(self._contributions, self._name_drops(), dict(self._files))

    def _name_drops(self) -> dict[str, Drops]:
        """By source instead of by file."""
        named: defaultdict[str, Drops] = defaultdict(Drops)
        sources: defaultdict[str, list[str]] = defaultdict(list)
        for source, files in self._files.items():
            for file in files:
                sources[file].append(source)
        for file, drops in self._drops.items():
            source = min(sources[file]) if file in sources else ""
            named[source].count += drops.count
            room = MAX_REASONS - len(named[source].first)
            named[source].first.extend(drops.first[:room])
        return dict(named)


def gather_items(
    items: Iterable[tuple[str, Item]], kind: SourceKind, read_at: float = 0.0
) -> Gathered:
    """Check what readers give (each with the file it came from) and sort it by source. Raises
    ModelError when a reader does, or when there is too much."""
    sorter = _Sorter(kind, read_at)
    for file, item in items:
        sorter.take(file, item)
    return sorter.finish()


def check_entry(entry: KnowledgeEntry) -> str:
    """What is wrong with an entry, "" when nothing is."""
    fields = (entry.external_id, entry.version, entry.licence, entry.url, entry.modified)
    lists = (entry.tactics, entry.platforms, entry.aliases)
    checks = (
        (_is_name(entry.id), "not an id"),
        (entry.type in ENTRY_TYPES, f"not a type: {_quote(str(entry.type))}"),
        (_is_name(entry.title), f"no title, or one of more than a line or {MAX_NAME} characters"),
        (_is_text(entry.text), f"a text over {MAX_TEXT} characters or with control characters"),
        (_is_name(entry.source), f"not a source: {_quote(entry.source)}"),
        (
            all(_is_line(field, MAX_FIELD) for field in (*fields, entry.revoked_by or "")),
            f"a field of more than a line or {MAX_FIELD} characters",
        ),
        (
            all(len(names) <= MAX_LIST for names in lists)
            and all(_is_line(name, MAX_NAME) for names in lists for name in names),
            f"more than {MAX_LIST} tactics, platforms or aliases, or one that is too long",
        ),
    )
    return _tell_first(entry.id, checks)


def check_link(link: Link) -> str:
    """What is wrong with a link, "" when nothing is."""
    ends = (link.source, link.kind, link.target, link.origin)
    checks = (
        (all(_is_name(end) for end in ends), "not the id of an end, a kind or a source"),
        (_is_text(link.text), f"a text over {MAX_TEXT} characters or with control characters"),
    )
    return _tell_first(f"{link.source} {link.kind} {link.target}", checks)


def check_indicator(indicator: Indicator) -> str:
    """What is wrong with an indicator, "" when nothing is."""
    bounds = (indicator.valid_from, indicator.valid_until)
    checks = (
        (indicator.kind in INDICATOR_KINDS, f"not a kind: {_quote(str(indicator.kind))}"),
        (indicator.value != "" and _is_line(indicator.value, MAX_FIELD), "not a value"),
        (_is_name(indicator.source), f"not a source: {_quote(indicator.source)}"),
        (
            _is_line(indicator.name, MAX_FIELD)
            and len(indicator.links) <= MAX_LIST
            and all(_is_name(link) for link in indicator.links),
            "its name or its links are too long",
        ),
        # NaN is below nothing.
        (all(bound is None or abs(bound) < _MAX_TIME for bound in bounds), "not a time"),
    )
    return _tell_first(indicator.value, checks)


def _tell_first(about: str, checks: Iterable[tuple[bool, str]]) -> str:
    return next((f"{_quote(about)}: {problem}" for right, problem in checks if not right), "")


def _is_name(text: str) -> bool:
    return text != "" and _is_line(text, MAX_NAME)


def _is_line(text: str, most: int) -> bool:
    return len(text) <= most and not _CONTROL.search(text)


def _is_text(text: str) -> bool:
    return len(text) <= MAX_TEXT and not _CONTROL_IN_TEXT.search(text)


def _quote(text: str) -> str:
    return ascii(text[:60])


def _find_most(values: Iterable[str]) -> str:
    """The value that occurs most, the greatest of those that occur as often."""
    counts: defaultdict[str, int] = defaultdict(int)
    for value in values:
        counts[value] += 1
    return max(counts, key=lambda value: (counts[value], value), default="")
