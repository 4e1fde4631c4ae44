"""The sentinel's thinking (detect stage): texts -> scores, and for a text over its threshold what
can be said of it: which technique, what is known of that, which words did it.

The encoder (a child process) and the knowledge base come in as Protocols. Nothing here lowers or
drops what another detector found: all that comes of it are detections of the sentinel's own.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from appliance.detect.sentinel.heads import Heads, Vectors
from appliance.detect.sentinel.texts import KINDS, Text, find_kind
from appliance.schema import (
    Citation,
    Detection,
    Event,
    Guess,
    LogSource,
    Match,
    Opinion,
    RuleInfo,
    WordWeight,
    digest,
)

DETECTOR: Final = "sentinel"
#: Words that are left out one by one to see what each weighs, and those that are told.
MAX_WORDS: Final = 24
TOLD_WORDS: Final = 6
#: Least log-odds that a word must weigh to be told.
LEAST_WEIGHT: Final = 0.05
#: Techniques told; those at least so likely are the finding's own.
TOLD_TECHNIQUES: Final = 3
LIKELY: Final = 0.5
#: Entries of the knowledge base asked for, cited at the most, and the least cosine of a citation.
ASKED_ENTRIES: Final = 24
CITED_ENTRIES: Final = 3
LEAST_COSINE: Final = 0.5
#: A score over the threshold of a budget so many times stricter makes the finding high.
STRICTER: Final = 10.0
#: Digits of a told score: what is behind them differs from one processor to the next.
DIGITS: Final = 4

_TITLES: Final = {
    "process": "Process Start",
    "script": "Script",
    "registry": "Registry Change",
    "service": "Service Installed",
    "task": "Scheduled Task",
    "file": "File Written",
    "image_load": "Module Loaded",
    "network": "Network Connection",
    "pipe": "Named Pipe",
    "access": "Process Access",
    "thread": "Remote Thread",
    "wmi": "WMI Activity",
    "dns": "DNS Query",
    "url": "Web Request",
    "log": "Log Message",
}


class Embedder(Protocol):
    """The sentinel's encoder."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Means over the last layer, shape (len(texts), dims). Raises ModelUnavailable."""
        ...

    def wait_ready(self, timeout: float) -> bool:
        """Whether it is there within so many seconds."""
        ...


class TechniqueWeigher(Protocol):
    """Another expert on techniques, beside the head."""

    def weigh(self, text: str) -> NDArray[np.float64]:
        """Logits of the heads' techniques, in their order."""
        ...


class Entry(Protocol):
    """What is needed of a knowledge entry."""

    @property
    def id(self) -> str:
        """Unique in the base."""

    @property
    def external_id(self) -> str:
        """Id under which its source publishes it: a technique's is ATT&CK's."""

    @property
    def title(self) -> str:
        """One line."""


class Near(Protocol):
    """An entry and its cosine with what was asked."""

    @property
    def entry(self) -> Entry:
        """What was found."""

    @property
    def score(self) -> float:
        """Cosine, -1..1."""


class Knowledge(Protocol):
    """The knowledge base's techniques."""

    def search_techniques(self, vector: Vectors, k: int) -> Sequence[Near]:
        """The `k` nearest, best first. `vector`: a unit vector, shape (384,)."""
        ...


class Examined(msgspec.Struct, frozen=True):
    """A text's score, and what is to be said of it where it is over the threshold."""

    score: float
    opinion: Opinion | None


class Examiner:
    """Scores texts for one budget. As thread-safe as its encoder."""

    def __init__(
        self,
        heads: Heads,
        embedder: Embedder,
        knowledge: Knowledge | None,
        budget: float,
        beside: TechniqueWeigher | None = None,
    ) -> None:
        self.heads = heads
        self._beside = beside
        self.embedder = embedder
        self.encoded = 0  # texts, with those that have a word left out
        self._knowledge = knowledge
        self._budget = budget
        self._thresholds = {kind: heads.find_threshold(kind, budget) for kind in KINDS}
        self._strict = {kind: heads.find_threshold(kind, budget / STRICTER) for kind in KINDS}
        recipe = heads.about.recipe
        #: One pseudo-rule a kind, for the ledger and for the operator's overrides.
        self.rules = {rule.id: rule for rule in (_describe_kind(kind, recipe) for kind in KINDS)}

    def find_threshold(self, kind: str) -> float:
        """The score over which a text of this kind is a finding."""
        return self._thresholds[kind]

    def score(self, texts: Sequence[Text]) -> list[float]:
        """Scores of the texts, 0..1. Raises ModelUnavailable."""
        return [float(value) for value in self.heads.score(self._embed(texts))]

    def examine(self, texts: Sequence[Text]) -> list[Examined]:
        """Scores, and the opinions on those over their threshold. Raises ModelUnavailable."""
        if not texts:
            return []
        vectors = self._embed(texts)
        scores = self.heads.score(vectors)
        return [
            Examined(float(score), self._explain(text, vector, float(score)))
            if score > self._thresholds[text.kind]
            else Examined(float(score), None)
            for text, vector, score in zip(texts, vectors, scores, strict=True)
        ]

    def detect(
        self, event: Event, opinions: Sequence[Opinion], agrees: Sequence[str] = ()
    ) -> list[Detection]:
        """One detection a kind of text: that of its highest score."""
        best: dict[str, Opinion] = {}
        for opinion in opinions:
            if opinion.kind not in best or best[opinion.kind].score < opinion.score:
                best[opinion.kind] = opinion
        return [
            Detection(
                detector=DETECTOR,
                rule_id=name_rule(kind),
                title=name_title(kind),
                level="high" if opinion.strong else "medium",
                techniques=tuple(
                    g.technique for g in opinion.techniques if g.probability >= LIKELY
                ),
                tactics=opinion.tactics,
                event=event,
                logsource=_find_logsource(event, kind),
                matched=(
                    Match("text", opinion.text, f"over {opinion.threshold:.{DIGITS}f}"),
                    *(Match("word", w.word, f"{w.weight:+.2f}") for w in opinion.words),
                ),
                score=opinion.score,
                opinion=msgspec.structs.replace(opinion, agrees=tuple(agrees)),
            )
            for kind, opinion in best.items()
        ]

    def _embed(self, texts: Sequence[Text]) -> Vectors:
        return self._encode([text.text for text in texts])

    def _encode(self, texts: Sequence[str]) -> Vectors:
        vectors = self.embedder.embed(texts)
        self.encoded += len(texts)
        return vectors

    def _explain(self, text: Text, vector: Vectors, score: float) -> Opinion:
        near = self._find_near(vector)
        cosines = {hit.entry.external_id: min(1.0, hit.score) for hit in near}
        beside = None if self._beside is None else self._beside.weigh(text.text)
        guesses = [
            Guess(
                name,
                # What is not among the nearest is not near.
                round((chance + max(0.0, cosines.get(name, 0.0))) / 2 if near else chance, DIGITS),
                round(chance, DIGITS),
                round(cosines[name], DIGITS) if name in cosines else None,
            )
            for name, chance in self.heads.guess_techniques(vector, beside)
        ]
        guesses.sort(key=lambda guess: -guess.score)
        kind = text.kind
        return Opinion(
            kind=kind,
            text=text.text,
            score=round(score, DIGITS),
            threshold=round(self._thresholds[kind], DIGITS),
            budget=self._budget,
            strong=score > self._strict[kind],
            techniques=tuple(guesses[:TOLD_TECHNIQUES]),
            tactics=tuple(
                name
                for name, chance in self.heads.guess_tactics(vector)[:TOLD_TECHNIQUES]
                if chance >= LIKELY
            ),
            words=self._weigh_words(text, vector),
            citations=tuple(
                Citation(hit.entry.id, hit.entry.title, min(1.0, hit.score), "similarity")
                for hit in near[:CITED_ENTRIES]
                if hit.score >= LEAST_COSINE
            ),
        )

    def _find_near(self, vector: Vectors) -> Sequence[Near]:
        if self._knowledge is None:
            return []
        return self._knowledge.search_techniques(self.heads.place(vector), ASKED_ENTRIES)

    def _weigh_words(self, text: Text, vector: Vectors) -> tuple[WordWeight, ...]:
        """By how much the log-odds fall with each word left out, the weightiest first."""
        words = text.text.split(" ")
        places = [n for n, word in enumerate(words) if n and any(c.isalnum() for c in word)]
        places = places[:MAX_WORDS]
        if not places:
            return ()
        variants = [" ".join(words[:n] + words[n + 1 :]) for n in places]
        whole = float(self.heads.weigh(vector[np.newaxis])[0])
        left = self.heads.weigh(self._encode(variants))
        weights = [
            WordWeight(words[place], round(whole - float(rest), 2))
            for place, rest in zip(places, left, strict=True)
        ]
        told = sorted(weights, key=lambda weight: -weight.weight)[:TOLD_WORDS]
        return tuple(weight for weight in told if weight.weight >= LEAST_WEIGHT)


def name_rule(kind: str) -> str:
    """The rule id of findings on this kind of text."""
    return f"{DETECTOR}:{kind}"


def name_title(kind: str) -> str:
    """The title of findings on this kind of text."""
    return f"Suspicious {_TITLES[kind]} (Sentinel)"


def _describe_kind(kind: str, recipe: str) -> RuleInfo:
    return RuleInfo(
        id=name_rule(kind),
        title=name_title(kind),
        description="The sentinel, a small model trained on attacks and ordinary events, scores "
        "the event above the threshold of the configured budget.",
        level="medium",
        techniques=(),
        tactics=(),
        logsource=LogSource(),
        path="",
        line=0,
        hash=digest("sentinel", kind, recipe),
    )


def _find_logsource(event: Event, kind: str) -> LogSource:
    """That of the view which has this kind of text."""
    for view in event.views:
        if find_kind(view.logsource, view.fields) == kind:
            return view.logsource
    return event.views[0].logsource
