"""Knowledge, asked in words: what `kb search` prints."""

import re
from typing import Final

from appliance.knowledge.base import KnowledgeBase
from appliance.knowledge.entries import Embed, EntryType, KnowledgeEntry, SearchResult

#: ATT&CK technique ids: T, four digits, and three more for a sub-technique.
_TECHNIQUE_ID: Final = re.compile(r"\bT\d{4}(?:\.\d{3})?\b", re.IGNORECASE)


def search_text(
    base: KnowledgeBase,
    embed: Embed,
    query: str,
    k: int,
    type: EntryType | None = None,  # noqa: A002 - the field's name in the contract
) -> list[SearchResult]:
    """The `k` entries that fit the query best, best first.

    A technique that the query names by its id comes first with score 1.0, revoked or not; the rest
    are nearest by meaning. Raises ModelUnavailable when the encoder is, ModelError when it is not
    the base's.
    """
    if k <= 0:
        return []
    named = _find_named(base, query) if type in (None, "technique") else []
    # An id means nothing to the encoder; the title of what it names does.
    text = _TECHNIQUE_ID.sub(lambda found: _name_of(base, found[0]), query)
    results = [_make_result(entry, 1.0) for entry in named]
    known = {entry.id for entry in named}
    for hit in base.search(embed([text])[0], k + len(named), type):
        if hit.entry.id not in known:
            results.append(_make_result(hit.entry, hit.score))
    return results[:k]


def _find_named(base: KnowledgeBase, query: str) -> list[KnowledgeEntry]:
    ids = dict.fromkeys(found.upper() for found in _TECHNIQUE_ID.findall(query))
    entries = (base.technique(external_id) for external_id in ids)
    return [entry for entry in entries if entry is not None]


def _name_of(base: KnowledgeBase, external_id: str) -> str:
    entry = base.technique(external_id.upper())
    return entry.title if entry is not None else external_id


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
