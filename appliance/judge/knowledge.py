"""Judge, the knowledge expert: what is known about what a rule found, with citations.

Its opinion belongs to a rule, not to an event: it is worked out once when a rule loads and cached
by rule hash and base hash. It comes from two places: the ATT&CK tags that the rule states, and
the techniques whose text is nearest to the rule's title and description.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from appliance.schema import Citation, RuleInfo, Verdict

#: Name of this expert in its verdicts.
KNOWLEDGE_EXPERT: Final = "knowledge"

#: What is searched for what is similar: the floor was chosen on these.
SIMILAR_TYPE: Final = "technique"

#: Lowest cosine at which a technique is cited for its similarity, and the share of first citations
#: there that named one of the rule's own techniques (or its parent or child), measured on rules
#: that were not used to choose the floor. benchmarks/knowledge_floor.py prints both; figures with
#: counts are in models/README.md.
SIMILARITY_FLOOR: Final = 0.65
SIMILARITY_PRECISION: Final = 0.60

#: Citations by similarity in one verdict.
MAX_SIMILAR: Final = 3

#: Tags looked at in one rule; more make no sense and would grow the verdict without bound.
MAX_TAGS: Final = 32

#: Steps followed from a revoked technique to the one that took over.
_MAX_SUCCESSION: Final = 5

_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9.\-]{1,32}", re.ASCII)

#: Texts -> unit vectors, float32, shape (len(texts), dims). May raise ModelUnavailable.
Embed = Callable[[Sequence[str]], NDArray[np.float32]]


class Entry(Protocol):
    """What this expert needs of a knowledge entry."""

    @property
    def id(self) -> str:
        """Unique in the base."""

    @property
    def external_id(self) -> str:
        """Id under which its source publishes it."""

    @property
    def title(self) -> str:
        """One line."""

    @property
    def revoked_by(self) -> str | None:
        """External id of the entry that took over."""

    @property
    def deprecated(self) -> bool:
        """Withdrawn without a successor."""


class EntryHit(Protocol):
    """An entry and its cosine with the question."""

    @property
    def entry(self) -> Entry:
        """What was found."""

    @property
    def score(self) -> float:
        """Cosine, -1..1."""


class Base(Protocol):
    """What this expert needs of a knowledge base."""

    def entry(self, entry_id: str, /) -> Entry | None:
        """The entry with this id, revoked or not; also by the id of another release of ATT&CK."""

    def search(
        self, vector: NDArray[np.float32], k: int, wanted: Literal["technique"], /
    ) -> Sequence[EntryHit]:
        """The `k` nearest entries of this type, best first."""


class KnowledgeExpert:
    """Cites what is known about a rule. Holds no state of its own; as thread-safe as `base` and
    `embed`. Without a base (None) nothing can be cited, and every verdict says so."""

    def __init__(self, base: Base | None, embed: Embed, floor: float = SIMILARITY_FLOOR) -> None:
        self._base = base
        self._embed = embed
        self._floor = floor

    def judge_rule(self, rule: RuleInfo) -> Verdict:
        """The full opinion: tags and similarity. Raises ModelUnavailable when the encoder is.

        "suspicious" with at least one citation, else "insufficient_data": never "benign", so that
        no citation and no lack of one can lower a rule's level. Confidence says how sure it is
        that what is cited is about this rule, not that an event is an attack: with tags, the share
        of them that the base knows (the rule's author vouches for each); with similarity alone,
        the best cosine times the precision measured at the floor.
        """
        if self._base is None:
            return _say_insufficient("there is no knowledge base", ())
        tags = _cite_tags(self._base, rule.techniques, rule.others)
        similar = self._cite_similar(self._base, rule, tags.citations)
        citations = (*tags.citations, *similar)
        sentences = [*tags.sentences, *_describe_similar(similar)]
        if not citations:
            sentences.append(f"no entry is at least {self._floor:.2f} similar to the rule's text")
            return _say_insufficient("; ".join(sentences), ())
        return Verdict(
            expert=KNOWLEDGE_EXPERT,
            label="suspicious",
            confidence=_weigh_citations(tags, similar),
            reason="; ".join(sentences),
            citations=citations,
        )

    def judge_rule_by_tags(self, rule: RuleInfo, why: str) -> Verdict:
        """The opinion while the full one cannot be had; `why` says so in words ("the encoder is
        down", "the queue is full"). Needs no model and never raises ModelUnavailable. The label is
        "insufficient_data", with what the rule's own tags name still cited."""
        if self._base is None:
            return _say_insufficient(f"{why}; there is no knowledge base", ())
        tags = _cite_tags(self._base, rule.techniques, rule.others)
        return _say_insufficient("; ".join([why, *tags.sentences]), tags.citations)

    def _cite_similar(
        self, base: Base, rule: RuleInfo, cited: Sequence[Citation]
    ) -> tuple[Citation, ...]:
        vector = self._embed([describe_rule(rule)])[0]
        taken = {citation.id for citation in cited}
        taken |= {_parent_of(citation.id) for citation in cited}
        found: list[Citation] = []
        # Enough hits that those taken already, and parents among the rest, leave MAX_SIMILAR.
        for hit in base.search(vector, len(taken) + 2 * MAX_SIMILAR, SIMILAR_TYPE):
            if hit.score < self._floor or len(found) == MAX_SIMILAR:
                break
            if hit.entry.id in taken:
                continue
            score = min(1.0, hit.score)  # a cosine of unit float32 vectors may exceed 1 by 1e-7
            found.append(Citation(hit.entry.id, hit.entry.title, score, "similarity"))
            taken |= {hit.entry.id, _parent_of(hit.entry.id)}
        return tuple(found)


class _TagCitations:
    """Citations of a rule's tags, what to say about them, and the share of tags that are known."""

    def __init__(self) -> None:
        self.citations: list[Citation] = []
        self.sentences: list[str] = []
        self.known_share = 0.0


def describe_rule(rule: RuleInfo) -> str:
    """The text of a rule that is compared with the base; the floor was calibrated on it."""
    return f"{rule.title}. {rule.description}"


def _cite_tags(base: Base, techniques: Iterable[str], others: Iterable[str]) -> _TagCitations:
    """Of techniques it is said when one is not known; `others` are cited where there are entries:
    few bases hold every vulnerability."""
    tags = _TagCitations()
    unknown: list[str] = []
    replaced: list[str] = []
    given = list(dict.fromkeys(techniques))
    for technique in given[:MAX_TAGS]:
        entry = base.entry(technique)
        if entry is None:
            unknown.append(_quote_id(technique))
            continue
        current = _find_successor(base, entry)
        if entry.id != technique.upper():  # of a release of ATT&CK that the base does not have
            replaced.append(f"{_quote_id(technique)} is {entry.id} in the knowledge base")
        if current.id != entry.id:
            replaced.append(f"{entry.id} is now {current.id}")
        if all(citation.id != current.id for citation in tags.citations):
            tags.citations.append(Citation(current.id, current.title, 1.0, "tag"))
    for name in list(dict.fromkeys(others))[:MAX_TAGS]:
        entry = base.entry(name)
        if entry is not None:
            tags.citations.append(Citation(entry.id, entry.title, 1.0, "tag"))
    if tags.citations:
        names = ", ".join(citation.id for citation in tags.citations)
        tags.sentences.append(f"the rule is tagged {names}")
    tags.sentences.extend(replaced)
    if unknown:
        tags.sentences.append(f"the knowledge base does not know the tags {', '.join(unknown)}")
    if len(given) > MAX_TAGS:
        tags.sentences.append(f"{len(given) - MAX_TAGS} more tags were not looked up")
    tags.known_share = 1.0 - (len(unknown) + max(0, len(given) - MAX_TAGS)) / max(1, len(given))
    return tags


def _find_successor(base: Base, entry: Entry) -> Entry:
    """The entry that took over from a revoked one, or the entry itself."""
    current = entry
    for _ in range(_MAX_SUCCESSION):
        following = base.entry(current.revoked_by) if current.revoked_by else None
        if following is None:
            break
        current = following
    return current


def _weigh_citations(tags: _TagCitations, similar: Sequence[Citation]) -> float:
    by_tag = tags.known_share if tags.citations else 0.0
    by_text = max((citation.score for citation in similar), default=0.0) * SIMILARITY_PRECISION
    return round(max(by_tag, by_text), 4)


def _describe_similar(similar: Sequence[Citation]) -> list[str]:
    if not similar:
        return []
    names = ", ".join(f"{citation.id} ({citation.score:.2f})" for citation in similar)
    return [f"its text is similar to {names}"]


def _say_insufficient(reason: str, citations: Sequence[Citation]) -> Verdict:
    return Verdict(KNOWLEDGE_EXPERT, "insufficient_data", 0.0, reason, tuple(citations))


def _parent_of(entry_id: str) -> str:
    return entry_id.partition(".")[0]


def _quote_id(technique: str) -> str:
    """A tag comes from a rule file: in a sentence only plain ids stand as they are."""
    return technique if _PLAIN_ID.fullmatch(technique) else ascii(technique[:32])
