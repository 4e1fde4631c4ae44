"""Knowledge, cut into passages: the texts an entry is found by. No disk, no model.

An entry's passages are its title and text in pieces ("lead"); a technique has more: what groups and
software were seen doing ("procedure": the texts of links), what its analytics look for
("analytic"), and the mean of all these vectors ("mean"), which finds what no single passage says.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal

import msgspec

from appliance.knowledge.content import Content, PlacedEntry

PassageKind = Literal["lead", "procedure", "analytic", "mean"]

#: About what the encoder reads of a text (256 tokens).
PIECE_CHARS: Final = 900

#: Links to a technique whose texts are examples of it.
PROCEDURE_LINKS: Final = ("uses",)

#: Procedure examples that lend their words to a technique's mean vector.
MEAN_PROCEDURES: Final = 4

#: Procedures and analytics of one technique that become passages, each.
MAX_LINKED: Final = 1_000


class Passage(msgspec.Struct, frozen=True):
    """A text of the entry at place `owner`. A mean has no text: `parts` are the numbers (places in
    the list of all passages) of leads, analytics and procedures that make it."""

    owner: int
    kind: PassageKind
    text: str = ""
    parts: tuple[tuple[int, ...], ...] = ()

    @property
    def hash(self) -> bytes:
        """SHA-256 of the text: the same text has the same vector. Not for a mean."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).digest()


def gather_passages(content: Content) -> list[Passage]:
    """All passages of a base, ordered by the place of their entry: what search can find. Revoked
    and deprecated entries have none."""
    linked = _Linked(content)
    passages: list[Passage] = []
    texts = _list_lead_texts(content)
    for place, placed in enumerate(content.entries):
        if not placed.shown or not is_searchable(placed):
            continue
        begin = len(passages)
        passages.extend(Passage(place, "lead", text) for text in texts[place])
        if placed.entry.type == "technique":
            leads = tuple(range(begin, begin + len(cut_entry(placed))))
            passages.extend(_gather_linked(linked, placed, place, leads, len(passages)))
    return passages


def is_searchable(placed: PlacedEntry) -> bool:
    """Whether search may find the entry."""
    return not (placed.entry.revoked or placed.entry.deprecated)


def cut_entry(placed: PlacedEntry) -> list[str]:
    """The lead passages: each begins with the title."""
    title = placed.entry.title
    room = max(200, PIECE_CHARS - len(title) - 2)
    return [f"{title}. {piece}" for piece in cut_text(placed.entry.text, room)] or [f"{title}. "]


def cut_text(text: str, most: int) -> list[str]:
    """Pieces of at most `most` characters, cut after a sentence where there is one in the second
    half of a piece, else between words."""
    pieces = []
    rest = text.strip()
    while len(rest) > most:
        window = rest[:most]
        cut = max(window.rfind(mark) for mark in (". ", ".\n", "\n", "; ")) + 1
        if cut < most // 2:
            cut = window.rfind(" ")
        if cut < most // 2:
            cut = most
        pieces.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    if rest:
        pieces.append(rest)
    return pieces


def _list_lead_texts(content: Content) -> defaultdict[int, list[str]]:
    """By place: the pieces of the shown entry, then those of other sources that tell of the same
    thing in other words (a CVE record and the catalogue of exploited ones)."""
    texts: defaultdict[int, list[str]] = defaultdict(list)
    told: defaultdict[int, set[str]] = defaultdict(set)
    for placed in content.entries:
        place = content.shown[placed.entry.id]
        if not is_searchable(placed) or placed.entry.source in told[place]:
            continue
        told[place].add(placed.entry.source)
        pieces = [piece for piece in cut_entry(placed) if piece not in texts[place]]
        texts[place].extend(pieces)
    return texts


class _Linked:
    """Texts of what points at techniques, by the technique's id."""

    def __init__(self, content: Content) -> None:
        has: defaultdict[str, list[str]] = defaultdict(list)
        detects: defaultdict[str, list[str]] = defaultdict(list)
        procedures: defaultdict[str, set[str]] = defaultdict(set)
        for placed in content.links:
            link = placed.link
            if not placed.shown:
                continue
            if link.kind in PROCEDURE_LINKS and link.text:
                procedures[placed.to_id].add(link.text)
            elif link.kind == "has":
                has[placed.from_id].append(placed.to_id)
            elif link.kind == "detects":
                detects[placed.to_id].append(placed.from_id)
        self.procedures = procedures
        self._has = has
        self._detects = detects
        self._content = content

    def list_analytics(self, technique: str) -> Iterator[str]:
        """What the analytics of the technique's strategies look for, by their ids."""
        for strategy in self._detects.get(technique, ()):
            for analytic in self._has.get(strategy, ()):
                place = self._content.shown.get(analytic)
                if place is not None and is_searchable(self._content.entries[place]):
                    text = self._content.entries[place].entry.text
                    if text:
                        yield text


def _gather_linked(
    linked: _Linked, placed: PlacedEntry, place: int, leads: tuple[int, ...], begin: int
) -> Iterator[Passage]:
    entry = placed.entry
    name = entry.title.rpartition(": ")[2]
    analytics = _keep_some(linked.list_analytics(entry.id))
    # The longest say most; the text itself breaks ties, so that a build is reproducible.
    procedures = sorted(
        linked.procedures.get(entry.id, ()), key=lambda text: (-len(text), text)
    )[:MAX_LINKED]  # fmt: skip
    yield from (Passage(place, "analytic", f"{name}. {text}"[:PIECE_CHARS]) for text in analytics)
    yield from (Passage(place, "procedure", text[:PIECE_CHARS]) for text in procedures)
    if analytics or procedures:
        middle = begin + len(analytics)
        few = min(MEAN_PROCEDURES, len(procedures))
        parts = (leads, tuple(range(begin, middle)), tuple(range(middle, middle + few)))
        yield Passage(place, "mean", parts=tuple(part for part in parts if part))


def _keep_some(texts: Iterable[str]) -> Sequence[str]:
    return list(dict.fromkeys(texts))[:MAX_LINKED]
