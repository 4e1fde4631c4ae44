"""Knowledge, joined: what several sources say becomes the content of one base. No disk, no model.

Each source's contribution is kept whole, also where another source's entry with the same id is the
one that is shown: taking a source away or reading it again is then only joining once more.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from appliance.knowledge.entries import KnowledgeEntry, Link

#: How a contribution came: of two entries with one id, the later kind is shown unless it is older.
SourceKind = Literal["package", "own", "rules", "imported"]
_RANKS: Final[dict[SourceKind, int]] = {"package": 0, "own": 1, "rules": 2, "imported": 3}

#: What a name of an entry is. The first three are ids.
NameKind = Literal["id", "external", "renumbered", "title", "alias"]

#: Steps followed from an id to the one that took over.
MAX_SUCCESSION: Final = 8

MAX_NAME: Final = 200

#: Forms of the ids that MITRE ATT&CK gives.
ATTACK_ID: Final = re.compile(
    r"(?:T\d{4}(?:\.\d{3})?|TA\d{4}|[GSCMA]\d{4}|D(?:ET|S|C)\d{4}|AN\d{4})", re.ASCII
)
_NUMBERS: Final = re.compile(r"\d{1,9}(?:\.\d{1,9}){0,3}", re.ASCII)


class Contribution(msgspec.Struct):
    """What one source brought. `indicators` are encoded (JSON of Indicator), sorted, each once;
    `files` maps what was read to its SHA-256 in hex ("" where none was taken); `read_at` is when
    (seconds since 1970, 0 where it does not matter)."""

    kind: SourceKind
    name: str
    version: str = ""
    licence: str = ""
    files: dict[str, str] = {}
    read_at: float = 0.0
    entries: dict[str, KnowledgeEntry] = {}
    links: list[Link] = []
    indicators: list[bytes] = []

    @property
    def key(self) -> tuple[int, str]:
        """Sorts contributions; unique in a base."""
        return _RANKS[self.kind], self.name


class PlacedEntry(msgspec.Struct, frozen=True):
    """An entry, the number of its source, and whether it is the one that is shown for its id."""

    entry: KnowledgeEntry
    source: int
    shown: bool


class PlacedLink(msgspec.Struct, frozen=True):
    """A link, the number of its source, whether it is shown, and what its ends stand for today:
    ids of entries after renumbering and revocation, or the ids themselves."""

    link: Link
    source: int
    shown: bool
    from_id: str
    to_id: str


class Name(msgspec.Struct, frozen=True):
    """A name, case folded, of the entry with this place in `Content.entries`."""

    name: str
    place: int
    kind: NameKind


class Content(msgspec.Struct, frozen=True):
    """All of a base but its vectors. `entries`: the shown ones by id, then the others; `links`
    sorted; numbers of sources are places in `sources`."""

    sources: tuple[Contribution, ...]
    entries: tuple[PlacedEntry, ...]
    links: tuple[PlacedLink, ...]
    names: tuple[Name, ...]
    shown: dict[str, int]


def join_contributions(
    contributions: Iterable[Contribution], renumbered: Mapping[str, str]
) -> Content:
    """The content that these sources make together; their order does not matter. `renumbered` maps
    ids to the ids that they stood for before."""
    sources = tuple(sorted(contributions, key=lambda source: source.key))
    entries = _place_entries(sources)
    shown = {placed.entry.id: place for place, placed in enumerate(entries) if placed.shown}
    resolve = Resolver({name: entries[place].entry for name, place in shown.items()}, renumbered)
    return Content(
        sources=sources,
        entries=entries,
        links=_place_links(sources, resolve),
        names=_list_names(entries, shown, resolve),
        shown=shown,
    )


class Resolver:
    """Finds the entry that an id stands for today."""

    def __init__(
        self, entries: Mapping[str, KnowledgeEntry], renumbered: Mapping[str, str]
    ) -> None:
        self._entries = entries
        self._others: defaultdict[str, list[str]] = defaultdict(list)
        for new, old in sorted(renumbered.items()):
            self._others[new].append(old)
            self._others[old].append(new)
        self._known: dict[str, str] = {}

    @property
    def renumbered(self) -> list[str]:
        """All ids that stand for others, or that others stand for."""
        return sorted(self._others)

    def find_known(self, id: str) -> str | None:  # noqa: A002 - the field's name
        """The id itself, or the one under which its entry is in the base; None when it is not."""
        if id in self._entries:
            return id
        there = [other for other in self._others.get(id, ()) if other in self._entries]
        return there[0] if len(there) == 1 else None

    def find_current(self, id: str) -> str:  # noqa: A002
        """As `find_known`, and on to what took over from a revoked one; the id itself when nobody
        knows it."""
        if id not in self._known:
            current = self.find_known(id) or id
            for _ in range(MAX_SUCCESSION):
                entry = self._entries.get(current)
                following = entry.revoked_by if entry is not None else None
                known = self.find_known(following) if following else None
                if known is None:
                    break
                current = known
            self._known[id] = current
        return self._known[id]


def is_older(entry: KnowledgeEntry, other: KnowledgeEntry) -> bool:
    """Whether the sources say that `entry` is older than `other`: by their dates, else by the
    version where both come from the same source; False when they do not say."""
    if entry.modified and other.modified:
        return entry.modified[:19] < other.modified[:19]
    if entry.source == other.source:
        mine, yours = _NUMBERS.match(entry.version), _NUMBERS.match(other.version)
        if mine and yours:
            return _read_numbers(mine[0]) < _read_numbers(yours[0])
    return False


def _read_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split("."))


def _place_entries(sources: Sequence[Contribution]) -> tuple[PlacedEntry, ...]:
    claims: defaultdict[str, list[tuple[KnowledgeEntry, int]]] = defaultdict(list)
    for number, source in enumerate(sources):
        for entry in source.entries.values():
            claims[entry.id].append((entry, number))
    shown: list[PlacedEntry] = []
    others: list[PlacedEntry] = []
    for _, claimed in sorted(claims.items()):
        best = claimed[0]
        for claim in claimed[1:]:
            if not is_older(claim[0], best[0]):
                best = claim
        shown.append(PlacedEntry(*best, True))
        others.extend(PlacedEntry(*claim, False) for claim in claimed if claim is not best)
    return (*shown, *others)


def _place_links(sources: Sequence[Contribution], resolve: Resolver) -> tuple[PlacedLink, ...]:
    """Where two sources of one name (the package's and an imported one) make the same link, the
    later kind's is shown."""
    says: dict[tuple[str, str, str, str], int] = {}
    for number, source in enumerate(sources):
        for link in source.links:
            says[link.source, link.kind, link.target, link.origin] = number
    placed = []
    for number, source in enumerate(sources):
        for link in dict.fromkeys(source.links):
            shown = says[link.source, link.kind, link.target, link.origin] == number
            ends = resolve.find_current(link.source), resolve.find_current(link.target)
            placed.append(PlacedLink(link, number, shown, *ends))
    return tuple(sorted(placed, key=_sort_link))


def _sort_link(placed: PlacedLink) -> tuple[str, str, str, str, str, int]:
    link = placed.link
    return link.source, link.kind, link.target, link.origin, link.text, placed.source


def _list_names(
    entries: Sequence[PlacedEntry], shown: Mapping[str, int], resolve: Resolver
) -> tuple[Name, ...]:
    names: dict[tuple[str, int], NameKind] = {}

    def add(name: str, place: int, kind: NameKind) -> None:
        folded = " ".join(name.casefold().split())[:MAX_NAME]
        if folded:
            names.setdefault((folded, place), kind)

    for place in shown.values():
        add(entries[place].entry.id, place, "id")
        add(entries[place].entry.external_id, place, "external")
    for other in resolve.renumbered:
        known = resolve.find_known(other)
        if other not in shown and known is not None:
            add(other, shown[known], "renumbered")
    for place in shown.values():
        entry = entries[place].entry
        if entry.revoked or entry.deprecated:
            continue
        add(entry.title, place, "title")
        if entry.type == "technique":
            add(entry.title.rpartition(": ")[2], place, "title")
        for alias in entry.aliases:
            add(alias, place, "alias")
    return tuple(sorted((Name(name, place, kind) for (name, place), kind in names.items()),
                        key=lambda name: (name.name, name.place)))  # fmt: skip
