"""Knowledge, opened: entries by id, by words and by nearness of meaning. Read-only and verified.

A base is a folder (`generation`) of a SQLite file with the entries, their links and their words
(`entry_file`) and a FAISS index over the vectors of their passages (`index`). Entries are read when
they are asked for, lists of vectors are mapped: memory does not grow with the base.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Final, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from appliance.errors import ModelError
from appliance.knowledge.entries import EntryType, Hit, Indicator, KnowledgeEntry, Link
from appliance.knowledge.entry_file import EntryFile, decode_indicators
from appliance.knowledge.generation import (
    MANIFEST_FILE,
    BaseManifest,
    Generation,
    KnowledgeSource,
    read_generation,
    verify_file,
)
from appliance.knowledge.index import VectorIndex
from appliance.knowledge.lexical import make_match, make_name_match, write_facet

__all__ = [
    "MANIFEST_FILE",
    "BaseInfo",
    "BaseManifest",
    "KnowledgeBase",
    "KnowledgeSource",
    "Neighbour",
]

#: Times that opening is tried again when a new generation came meanwhile.
_OPEN_AGAIN: Final = 3

#: Filters whose rows are remembered.
_CACHED_FILTERS: Final = 32

#: Passages that vote for their entries, and how much more a nearer one counts: of 20 to 200 and 5
#: to 20 the middle, on sentences of reports (benchmarks/technique_search.py).
_VOTERS: Final = 100
_VOTE_SHARPNESS: Final = 8.0

#: Passages asked for at first, for each entry wanted: a technique has hundreds of them.
_PASSAGES_PER_ENTRY: Final = 6

#: Passages that words may find, and the share of all from which on a filter is a common one.
_MAX_WORD_PASSAGES: Final = 2_000
_COMMON: Final = 0.05


class BaseInfo(msgspec.Struct, frozen=True):
    """What `kb info` prints: the manifest, its own SHA-256, and counts of searchable entries by
    type."""

    folder: str
    hash: str
    types: dict[str, int]
    manifest: BaseManifest


class Neighbour(msgspec.Struct, frozen=True):
    """An entry at the other end of a link. `forward` when the link leads from the entry that was
    asked about to this one; `id` is the other end as it stands today (after renumbering and, but
    for "revoked_by", revocation), `entry` its entry, None when the base does not have it."""

    id: str
    forward: bool
    link: Link
    entry: KnowledgeEntry | None


class KnowledgeBase:
    """Entries and their vectors. Use `open`. Safe to share between threads."""

    def __init__(
        self, folder: Path, generation: Generation, entries: EntryFile, index: VectorIndex
    ) -> None:
        self._folder = folder
        self._manifest = generation.manifest
        self._entries = entries
        self._index = index
        self._filters: dict[tuple[str, ...], NDArray[np.bool_]] = {}
        self._lock = Lock()
        #: SHA-256 of the manifest: changes when anything in the base does.
        self.hash: Final = generation.hash

    @classmethod
    def open(cls, folder: Path, encoder_hash: str) -> Self:
        """Open a base for questions encoded by the encoder with this SHA-256.

        Raises ModelError when a file is missing, is not what the manifest says, or the base was
        made with another encoder (its vectors would mean something else).
        """
        generation = read_generation(folder)
        for _ in range(_OPEN_AGAIN):
            try:
                return cls._open(folder, generation, encoder_hash)
            except ModelError:
                # Two builds since the manifest was read have deleted the files that it names.
                following = read_generation(folder)
                if following.hash == generation.hash:
                    raise
                generation = following
        return cls._open(folder, generation, encoder_hash)

    @classmethod
    def _open(cls, folder: Path, generation: Generation, encoder_hash: str) -> Self:
        manifest = generation.manifest
        if manifest.encoder != encoder_hash:
            raise ModelError(
                f"{folder}: made with encoder {manifest.encoder[:16]}, "
                f"this one is {encoder_hash[:16]}: build the base again"
            )
        verify_file(generation.entries, manifest)
        verify_file(generation.vectors, manifest)
        entries = EntryFile.open(generation.entries)
        index = VectorIndex.open(generation.vectors, manifest.index)
        if (index.count, index.dims) != (manifest.vectors, manifest.dims) or len(
            entries.owners
        ) != index.count:
            raise ModelError(f"{folder}: entries and vectors do not fit together")
        return cls(folder, generation, entries, index)

    def close(self) -> None:
        """Close the files; nothing can be asked afterwards."""
        self._entries.close()

    def entry(self, id: str) -> KnowledgeEntry | None:  # noqa: A002 - the field's name
        """The entry with this id, also a revoked or deprecated one; an id in another case, the id
        under which the source publishes it, or one that ATT&CK has renumbered will do."""
        place = self._find(id)
        return None if place is None else self._entries.read_entry(place)

    def technique(self, external_id: str) -> KnowledgeEntry | None:
        """The technique with this ATT&CK id in upper case, also a revoked or deprecated one."""
        place = self._entries.find_id(external_id)
        entry = None if place is None else self._entries.read_entry(place)
        return entry if entry is not None and entry.type == "technique" else None

    def versions(self, id: str) -> list[KnowledgeEntry]:  # noqa: A002
        """What each source says under this id; the entry that is shown comes first."""
        return [self._entries.read_entry(place) for place in self._entries.find_versions(id)]

    def other_ids(self, id: str) -> list[str]:  # noqa: A002
        """Ids under which other releases of ATT&CK know the entry, in upper case."""
        place = self._find(id)
        names = [] if place is None else self._entries.find_other_ids(place)
        return [name.upper() for name in names]

    def links(self, id: str) -> list[Link]:  # noqa: A002
        """Links from and to this entry as the sources state them, also those that name it by an id
        that was revoked or renumbered."""
        return self._entries.find_links(self._settle(id))

    def neighbours(self, id: str) -> list[Neighbour]:  # noqa: A002
        """The other ends of the entry's links, by link; a link to itself is left out."""
        own = self._settle(id)
        found = []
        for start, end, link in self._entries.find_neighbours(own):
            if link.kind == "revoked_by":
                # What was revoked stands for its successor today: both ends would be the successor.
                start, end = self._settle(link.source), self._settle(link.target)  # noqa: PLW2901
            forward = own in (start, link.source)
            other = end if forward else start
            if other != own:
                found.append(Neighbour(other, forward, link, self.entry(other)))
        return found

    def list_ends(self, kind: str) -> list[tuple[str, str]]:
        """(from, to) of all links of this kind ("uses"), as both ends stand today, each once."""
        return self._entries.list_ends(kind)

    def list_entries(self, type: EntryType) -> Iterator[KnowledgeEntry]:  # noqa: A002
        """All entries of one type by id, also revoked and deprecated ones."""
        return self._entries.list_shown(type)

    def indicators(self) -> Iterator[Indicator]:
        """All indicators of all sources, read bit by bit."""
        return decode_indicators(self._entries.list_indicators())

    def search(
        self,
        vector: NDArray[np.float32],
        k: int,
        type: EntryType | None = None,  # noqa: A002 - the field's name in the contract
        *,
        platform: str | None = None,
        tactic: str | None = None,
    ) -> list[Hit]:
        """The `k` nearest entries, best first, optionally of one type, for one platform, of one
        tactic ("Linux"; "credential-access", its name or its ATT&CK id). An entry is as near as
        the nearest of its passages.

        `vector` is a unit vector of shape (dims,). Raises ModelError on another shape or on values
        that are not finite.
        """
        self._check_vector(vector)
        mask = self._find_mask(self._write_facets(type, platform, tactic))
        wanted = min(max(0, _PASSAGES_PER_ENTRY * k), self._index.count)
        nearest: dict[int, float] = {}
        while k > 0:
            rows, scores = self._index.search(vector, wanted, mask)
            nearest = {}
            for place, score in zip(self._entries.owners[rows], scores, strict=True):
                nearest.setdefault(int(place), float(score))
            if len(nearest) >= k or len(rows) < wanted or wanted == self._index.count:
                break
            wanted = min(4 * wanted, self._index.count)
        return [
            Hit(self._entries.read_entry(place), score)
            for place, score in list(nearest.items())[: max(0, k)]
        ]

    def search_votes(
        self,
        vector: NDArray[np.float32],
        k: int,
        type: EntryType | None = None,  # noqa: A002
        *,
        platform: str | None = None,
        tactic: str | None = None,
    ) -> list[Hit]:
        """As `search`, but each of the nearest passages votes for its entry: many passages that are
        fairly near say more than one that is nearest by chance. For entries of one type, whose
        numbers of passages are comparable. The score is the sum of exp(8 (cosine - 1))."""
        self._check_vector(vector)
        if k <= 0:
            return []
        mask = self._find_mask(self._write_facets(type, platform, tactic))
        rows, scores = self._index.search(vector, min(_VOTERS, self._index.count), mask)
        votes: dict[int, float] = {}
        for place, score in zip(self._entries.owners[rows], scores, strict=True):
            weight = math.exp(_VOTE_SHARPNESS * (float(score) - 1.0))
            votes[int(place)] = votes.get(int(place), 0.0) + weight
        ranked = sorted(votes.items(), key=lambda vote: -vote[1])[:k]
        return [Hit(self._entries.read_entry(place), weight) for place, weight in ranked]

    def search_words(
        self,
        query: str,
        k: int,
        type: EntryType | None = None,  # noqa: A002
        *,
        platform: str | None = None,
        tactic: str | None = None,
    ) -> list[Hit]:
        """The `k` entries that fit the query's words best, best first: those that bear the query
        as their name, then by bm25, which is their score (positive, without an upper bound)."""
        if k <= 0:
            return []
        facets = self._write_facets(type, platform, tactic)
        mask = self._find_mask(facets)
        share = 1.0 if mask is None else float(mask.mean())
        # What is common is cheaper to sift afterwards, what is rare would be missed there.
        sift = share >= _COMMON
        match = make_match(query, self._entries.count_word, () if sift else facets)
        most = min(_MAX_WORD_PASSAGES, int((4 * k + 32) / share) if sift else 4 * k + 32)
        found: dict[int, float] = {}
        for row, fit in self._entries.find_words(match, most) if match is not None else []:
            if mask is None or mask[row]:
                found.setdefault(int(self._entries.owners[row]), fit)
        best = 1.0 + max(found.values(), default=0.0)
        named = dict.fromkeys(self._find_titled(query, facets), best)
        places = list(
            {**named, **{place: found[place] for place in found if place not in named}}.items()
        )
        return [Hit(self._entries.read_entry(place), fit) for place, fit in places[:k]]

    def search_names(
        self,
        query: str,
        k: int,
        type: EntryType | None = None,  # noqa: A002
        *,
        platform: str | None = None,
        tactic: str | None = None,
    ) -> list[Hit]:
        """As `search_words`, but only entries whose ids, titles or aliases have a word of the query
        that looks like a name: the number of an event, a file, a path."""
        if k <= 0:
            return []
        facets = self._write_facets(type, platform, tactic)
        match = make_name_match(query, self._entries.count_word, facets)
        found: dict[int, float] = {}
        for row, fit in self._entries.find_words(match, 8 * k) if match is not None else []:
            found.setdefault(int(self._entries.owners[row]), fit)
        return [Hit(self._entries.read_entry(place), fit) for place, fit in list(found.items())[:k]]

    def find_idle_filters(
        self,
        type: EntryType | None = None,  # noqa: A002
        *,
        platform: str | None = None,
        tactic: str | None = None,
    ) -> list[str]:
        """The names of those filters of a search ("type", "platform", "tactic") that alone leave no
        entry."""
        filters = (
            ("type", self._write_facets(type, None, None)),
            ("platform", self._write_facets(None, platform, None)),
            ("tactic", self._write_facets(None, None, tactic)),
        )
        masks = ((name, self._find_mask(facets)) for name, facets in filters)
        return [name for name, mask in masks if mask is not None and not mask.any()]

    def score_entries(self, vector: NDArray[np.float32], ids: list[str]) -> dict[str, float]:
        """By id: the cosine of the entry's nearest passage; entries without passages are left out.
        Raises ModelError as `search`."""
        self._check_vector(vector)
        places = {self._entries.find_id(each): each for each in ids}
        known = np.array([place for place in places if place is not None], np.int32)
        wanted = np.flatnonzero(np.isin(self._entries.owners, known))
        if not len(wanted):
            return {}
        scores: dict[str, float] = {}
        for row, score in zip(*self._index.score_rows(vector, wanted), strict=True):
            scores.setdefault(places[int(self._entries.owners[row])], float(score))
        return scores

    def info(self) -> BaseInfo:
        """What the base holds and where it came from."""
        return BaseInfo(str(self._folder), self.hash, self._entries.count_types(), self._manifest)

    def _check_vector(self, vector: NDArray[np.float32]) -> None:
        if vector.shape != (self._manifest.dims,) or not np.isfinite(vector).all():
            raise ModelError(f"not a vector of {self._manifest.dims} finite numbers")

    def _find(self, id: str) -> int | None:  # noqa: A002
        place = self._entries.find_id(id)
        if place is None:
            for named in self._entries.find_name(id):
                if named.kind in ("id", "external", "renumbered"):
                    return named.place
        return place

    def _settle(self, id: str) -> str:  # noqa: A002
        place = self._find(id)
        return id if place is None else self._entries.read_entry(place).id

    def _find_titled(self, query: str, facets: list[str]) -> list[int]:
        places = dict.fromkeys(named.place for named in self._entries.find_name(query[:200]))
        mask = self._find_mask(facets)
        rows = self._entries.owners if mask is None else self._entries.owners[mask]
        # Entries without passages (revoked, deprecated) are never found by search.
        return [place for place in places if place in rows]

    def _write_facets(
        self, wanted: EntryType | None, platform: str | None, tactic: str | None
    ) -> list[str]:
        facets = [] if wanted is None else [write_facet("type", wanted)]
        if platform is not None:
            facets.append(write_facet("platform", platform))
        if tactic is not None:
            known = self.entry(tactic)
            named = known.title if known is not None and known.type == "tactic" else tactic
            facets.append(write_facet("tactic", named))
        return facets

    def _find_mask(self, facets: list[str]) -> NDArray[np.bool_] | None:
        """Which passages have all these facets; None for no facet. The last few are remembered."""
        if not facets:
            return None
        key = tuple(facets)
        with self._lock:
            known = self._filters.get(key)
        if known is not None:
            return known
        mask = self._entries.find_facet(facets[0])
        for facet in facets[1:]:
            mask = mask & self._entries.find_facet(facet)
        with self._lock:
            self._filters[key] = mask
            if len(self._filters) > _CACHED_FILTERS:
                self._filters.pop(next(iter(self._filters)))
        return mask
