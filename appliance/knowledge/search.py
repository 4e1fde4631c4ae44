"""Knowledge, asked in words: what `kb search` prints.

Entries that the question names by an id come first. The rest are found by meaning, by words and by
those words that look like names (of a file, the number of an event); the lists are joined by
reciprocal rank fusion (Cormack, Clarke, Büttcher, SIGIR 2009): an entry gains 1 / (60 + rank) from
each list that holds it.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

import msgspec

from appliance.errors import ModelUnavailable
from appliance.knowledge.base import KnowledgeBase
from appliance.knowledge.entries import Embed, EntryType, Hit, KnowledgeEntry, SearchResult

#: The constant of reciprocal rank fusion, from the paper.
FUSION_K: Final = 60

#: Entries taken from each list.
_LIST: Final = 50

#: Characters of a question that are looked at for ids, and ids that may be named in it.
_MAX_QUESTION: Final = 8_000
_MAX_NAMED: Final = 64

#: What may be an id: a word with a digit or a colon in it.
_ID: Final = re.compile(r"(?<![\w.:/-])[A-Za-z][\w.:/#-]{2,199}|[0-9a-f]{8}-[\w-]{27}", re.ASCII)
_LEAST_EXTERNAL: Final = 5


class Answer(msgspec.Struct, frozen=True):
    """What was found, best first. `missing` is "" when both meaning and words were asked; else it
    says why meaning was not, and every score but a named id's is 0."""

    results: list[SearchResult]
    missing: str


def search_text(
    base: KnowledgeBase,
    embed: Embed,
    query: str,
    k: int,
    type: EntryType | None = None,  # noqa: A002 - the field's name in the contract
    *,
    platform: str | None = None,
    tactic: str | None = None,
) -> list[SearchResult]:
    """The `k` entries that fit the query best, best first.

    An entry that the query names by its id comes first with score 1.0, revoked or not; the order of
    the rest is the fusion's, their score the cosine of their nearest passage. Raises
    ModelUnavailable when the encoder is, ModelError when it is not the base's.
    """
    if k <= 0:
        return []
    known = _find_named(base, query)
    named = _choose_type(known, type)
    # An id means nothing to the encoder; the title of what it names does.
    text = _ID.sub(lambda found: _title_of(known, found[0]), query[:_MAX_QUESTION])
    count = max(_LIST, 2 * k) + len(named)
    vector = embed([text])[0]
    near = base.search(vector, count, type, platform=platform, tactic=tactic)
    # Techniques have many examples each: there the nearest ones vote.
    voted = base.search_votes if type == "technique" else None
    first = near if voted is None else voted(vector, count, type, platform=platform, tactic=tactic)
    worded = base.search_words(query, count, type, platform=platform, tactic=tactic)
    titled = base.search_names(query, k, type, platform=platform, tactic=tactic)
    ranked = fuse_ranks([first, worded, titled])
    fused = [entry for entry in ranked if entry.id not in _ids(named)]
    fused = fused[: max(0, k - len(_ids(named)))]
    scores = {hit.entry.id: hit.score for hit in near}
    scores |= base.score_entries(vector, [e.id for e in fused if e.id not in scores])
    return [
        *(_make_result(entry, 1.0) for entry in _unique(named.values())),
        *(_make_result(entry, scores.get(entry.id, 0.0)) for entry in fused),
    ][:k]


def answer_query(
    base: KnowledgeBase,
    embed: Embed,
    query: str,
    k: int,
    type: EntryType | None = None,  # noqa: A002
    *,
    platform: str | None = None,
    tactic: str | None = None,
) -> Answer:
    """As `search_text`; when the encoder is unavailable, what the words alone find, and why."""
    try:
        found = search_text(base, embed, query, k, type, platform=platform, tactic=tactic)
        return Answer(found, "")
    except ModelUnavailable as error:
        why = str(error) or "the encoder is unavailable"
    found = search_by_words(base, query, k, type, platform=platform, tactic=tactic)
    return Answer(found, why)


def search_by_words(
    base: KnowledgeBase,
    query: str,
    k: int,
    type: EntryType | None = None,  # noqa: A002
    *,
    platform: str | None = None,
    tactic: str | None = None,
) -> list[SearchResult]:
    """What the query names by id (score 1.0) and what its words find (score 0.0: no cosine was
    worked out), best first. Needs no encoder."""
    if k <= 0:
        return []
    named = _choose_type(_find_named(base, query), type)
    hits = base.search_words(query, k + len(named), type, platform=platform, tactic=tactic)
    found = [hit.entry for hit in hits if hit.entry.id not in _ids(named)]
    return [
        *(_make_result(entry, 1.0) for entry in _unique(named.values())),
        *(_make_result(entry, 0.0) for entry in found),
    ][:k]


def fuse_ranks(lists: Iterable[list[Hit]]) -> list[KnowledgeEntry]:
    """The entries of several ranked lists, those first that stand high in more of them; ids break
    ties."""
    gains: defaultdict[str, float] = defaultdict(float)
    entries: dict[str, KnowledgeEntry] = {}
    for hits in lists:
        for rank, hit in enumerate(hits, 1):
            gains[hit.entry.id] += 1 / (FUSION_K + rank)
            entries[hit.entry.id] = hit.entry
    return sorted(entries.values(), key=lambda entry: (-gains[entry.id], entry.id))


def _find_named(base: KnowledgeBase, query: str) -> dict[str, KnowledgeEntry]:
    """By what the query calls them: entries that it names by an id."""
    named: dict[str, KnowledgeEntry] = {}
    asked: set[str] = set()
    for found in _ID.finditer(query[:_MAX_QUESTION]):
        word = found[0].rstrip(".:/#-")
        if word in asked or not (any(char.isdigit() for char in word) or ":" in word):
            continue
        asked.add(word)
        entry = base.entry(word)
        if entry is not None and _is_named(entry, word):
            named[word] = entry
        if len(asked) == _MAX_NAMED:
            break
    return named


def _choose_type(
    named: dict[str, KnowledgeEntry],
    type: EntryType | None,  # noqa: A002
) -> dict[str, KnowledgeEntry]:
    return {word: entry for word, entry in named.items() if type in (None, entry.type)}


def _is_named(entry: KnowledgeEntry, word: str) -> bool:
    """A short external id may be an ordinary word ("7z"): that names nothing."""
    return len(word) >= _LEAST_EXTERNAL or entry.id.casefold() == word.casefold()


def _title_of(named: dict[str, KnowledgeEntry], found: str) -> str:
    word = found.rstrip(".:/#-")
    entry = named.get(word)
    return found if entry is None else entry.title + found[len(word) :]


def _ids(named: dict[str, KnowledgeEntry]) -> set[str]:
    return {entry.id for entry in named.values()}


def _unique(entries: Iterable[KnowledgeEntry]) -> list[KnowledgeEntry]:
    return list({entry.id: entry for entry in entries}.values())


def _make_result(entry: KnowledgeEntry, score: float) -> SearchResult:
    return SearchResult(
        id=entry.id,
        external_id=entry.external_id,
        type=entry.type,
        title=entry.title,
        score=score,
        source=entry.source,
        version=entry.version,
    )
