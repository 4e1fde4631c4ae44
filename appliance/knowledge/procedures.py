"""Knowledge, counted: what usually comes next after techniques that were seen.

Campaigns, groups and software of ATT&CK are procedures: each is known to use some techniques (links
of the kind "uses"). Of those that use much of what was seen this counts what else they use, and
holds that against how usual it is at all. These are counts of what reports told: no order in time,
and what is reported often counts often.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from threading import Lock
from typing import Final, Literal, Protocol

import msgspec

from appliance.incident import NextStep
from appliance.knowledge.entries import EntryType, KnowledgeEntry

#: What one procedure counts. A program does less than a whole intrusion, and there are four times
#: as many of them. This and the numbers below were chosen on ATT&CK's groups, each left out in
#: turn; benchmarks/next_steps.py measures on its campaigns.
WEIGHTS: Final[Mapping[EntryType, float]] = {"campaign": 1.0, "group": 1.0, "software": 0.3}
_KINDS: Final[tuple[EntryType, ...]] = ("campaign", "group", "software")

#: The part of the seen techniques that a procedure has to use, and the least number of them, where
#: that many were seen. Where fewer than `_ENOUGH` procedures do, less will do; only one of the seen
#: techniques where fewer than `_FEW` use two.
_PART: Final = 0.5
_LEAST_SEEN: Final = 2
_ENOUGH: Final = 30
_FEW: Final = 10
#: Procedures without which nothing is said, and those of them that must use the next step.
_LEAST_PROCEDURES: Final = 3
_LEAST_USERS: Final = 2
#: Weight of the usual rate in a share: as much as two campaigns.
_SMOOTHING: Final = 2.0
#: A sub-technique stands for its technique when it comes to this part of its estimate.
_SPECIFIC: Final = 0.9
#: Procedures cited for a next step.
_MOST_CITES: Final = 5

Domain = Literal["enterprise", "ics", "mobile"]


class Base(Protocol):
    """What is asked of the knowledge base."""

    def entry(self, id: str) -> KnowledgeEntry | None:  # noqa: A002 - the base's own name
        """The entry with this id, or with one that was renumbered."""

    def list_ends(self, kind: str) -> list[tuple[str, str]]:
        """(from, to) of all links of this kind, as they stand today."""

    def list_entries(self, type: EntryType) -> Iterable[KnowledgeEntry]:  # noqa: A002
        """All entries of one type."""


class _Technique(msgspec.Struct, frozen=True):
    title: str
    tactics: tuple[str, ...]
    domain: Domain


class _Procedure(msgspec.Struct, frozen=True):
    """One campaign, group or program: the techniques it uses, those of its sub-techniques among
    them."""

    id: str
    kind: EntryType
    uses: frozenset[str]

    @property
    def weight(self) -> float:
        return WEIGHTS[self.kind]


#: Chooses of all procedures those that fit what was seen.
_Match = Callable[[Sequence[_Procedure], Collection[str]], list[_Procedure]]


class _Counts(msgspec.Struct, frozen=True):
    """What ATT&CK's matrices have, read once: all techniques that are in force, and by domain the
    procedures that use one of its techniques."""

    techniques: dict[str, _Technique]
    procedures: dict[Domain, tuple[_Procedure, ...]]


class _Candidate(msgspec.Struct, frozen=True):
    """A technique that may come next. `estimate` is the smoothed, weighted share, by which it
    ranks; `users` are the matching procedures that use it, the nearest first."""

    technique: str
    estimate: float
    lift: float
    users: tuple[str, ...]
    of: int


class Procedures:
    """Which techniques go together. Nothing is read before the first question; safe to share
    between threads. Questions raise ModelError when the base cannot be read."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._lock = Lock()
        self._counts: _Counts | None = None

    def tactics(self, technique: str) -> tuple[str, ...]:
        """Short names of the tactics that the technique (an ATT&CK id, also an old one) serves;
        none for one that the base does not know."""
        counts = self._read()
        known = counts.techniques.get(self._settle(technique, counts))
        return () if known is None else known.tactics

    def next_steps(
        self,
        seen: Collection[str],
        stages: Sequence[str],
        limit: int,
        *,
        without: Collection[str] = (),
    ) -> list[NextStep]:
        """What usually comes beside the techniques `seen`, the likeliest first, at most `limit`:
        techniques that serve one of the tactics `stages`; `NextStep.tactic` is the first of these.

        A technique, its sub-techniques and their siblings count as one: one of them seen, none is a
        next step, and a next step names the one that says most. Matching are procedures that use
        half of what was seen, but two techniques; where fewer than thirty do, less will do, and
        one where fewer than ten use two.
        `share` is a plain count: of `of` matching procedures so many use it. Their order, and
        `lift`, come from a share in which software counts less and which few procedures leave near
        to the usual one. `cites` are the technique and matching procedures that use it. Procedures
        in `without` are left out of all counts. Empty where the base tells of no such procedures.
        """
        return self._list_steps(seen, stages, limit, without, _match_procedures)

    def usual_steps(
        self,
        seen: Collection[str],
        stages: Sequence[str],
        limit: int,
        *,
        without: Collection[str] = (),
    ) -> list[NextStep]:
        """As `next_steps`, but of all procedures of the same matrix, whatever they use: what a
        guess without looking would say, to measure the other against."""
        return self._list_steps(seen, stages, limit, without, lambda everyone, _: list(everyone))

    def _list_steps(
        self,
        seen: Collection[str],
        stages: Sequence[str],
        limit: int,
        without: Collection[str],
        match: _Match,
    ) -> list[NextStep]:
        counts = self._read()
        settled = {self._settle(technique, counts) for technique in seen}
        known = sorted(technique for technique in settled if technique in counts.techniques)
        found: list[_Candidate] = []
        for domain in sorted({counts.techniques[technique].domain for technique in known}):
            mine = {t for t in known if counts.techniques[t].domain == domain}
            everyone = [
                procedure
                for procedure in counts.procedures.get(domain, ())
                if procedure.id not in without
            ]
            wanted = _list_wanted(counts, domain, mine, frozenset(stages))
            found += _count_candidates(everyone, match(everyone, mine), wanted)
        found.sort(key=_by_estimate)
        return [_tell_step(counts, candidate, stages) for candidate in found[: max(0, limit)]]

    def _read(self) -> _Counts:
        with self._lock:
            if self._counts is None:
                self._counts = _read_counts(self._base)
            return self._counts

    def _settle(self, technique: str, counts: _Counts) -> str:
        """The id under which the technique is in force today."""
        if technique in counts.techniques:
            return technique
        entry = self._base.entry(technique)
        for _ in range(8):
            if entry is None or not entry.revoked_by:
                break
            entry = self._base.entry(entry.revoked_by)
        return technique if entry is None else entry.id


def _read_counts(base: Base) -> _Counts:
    techniques = {
        entry.id: _Technique(entry.title, entry.tactics, _find_domain(entry))
        for entry in base.list_entries("technique")
        if not entry.revoked and not entry.deprecated
    }
    kinds: dict[str, EntryType] = {
        entry.id: kind
        for kind in _KINDS
        for entry in base.list_entries(kind)
        if not entry.revoked and not entry.deprecated
    }
    uses: dict[str, set[str]] = {}
    for user, used in base.list_ends("uses"):
        if user in kinds and used in techniques:
            uses.setdefault(user, set()).update((used, name_family(used)))
    procedures: dict[Domain, list[_Procedure]] = {}
    for name, found in sorted(uses.items()):
        known = frozenset(found & techniques.keys())  # the technique of a sub-technique may be gone
        procedure = _Procedure(name, kinds[name], known)
        for domain in {techniques[technique].domain for technique in known}:
            procedures.setdefault(domain, []).append(procedure)
    return _Counts(techniques, {domain: tuple(each) for domain, each in procedures.items()})


def _find_domain(entry: KnowledgeEntry) -> Domain:
    """Techniques of ATT&CK for industrial control systems are T0800 and above, all others below
    T2000; mobile ones are told by who publishes them only."""
    if entry.id.startswith("T0"):
        return "ics"
    return "mobile" if "mobile" in entry.source.lower() else "enterprise"


def name_family(technique: str) -> str:
    """The technique of a sub-technique: "T1059" of "T1059.001"."""
    return technique.partition(".")[0]


def _list_wanted(
    counts: _Counts, domain: Domain, seen: Collection[str], stages: frozenset[str]
) -> set[str]:
    families = {name_family(technique) for technique in seen}
    return {
        name
        for name, technique in counts.techniques.items()
        if technique.domain == domain
        and name_family(name) not in families
        and not stages.isdisjoint(technique.tactics)
    }


def _count_candidates(
    everyone: Sequence[_Procedure], matching: Sequence[_Procedure], wanted: Collection[str]
) -> list[_Candidate]:
    """One candidate for each technique with its sub-techniques."""
    if len(matching) < _LEAST_PROCEDURES:
        return []
    usual = _sum_weights(everyone, wanted)
    here = _sum_weights(matching, wanted)
    all_weight = math.fsum(procedure.weight for procedure in everyone)
    weight = math.fsum(procedure.weight for procedure in matching)
    families: dict[str, list[_Candidate]] = {}
    for technique, used in here.items():
        users = tuple(each.id for each in matching if technique in each.uses)
        if len(users) < _LEAST_USERS:
            continue
        rate = usual[technique] / all_weight
        estimate = (used + _SMOOTHING * rate) / (weight + _SMOOTHING)
        families.setdefault(name_family(technique), []).append(
            _Candidate(technique, estimate, estimate / rate, users, len(matching))
        )
    return [_choose_specific(family) for family in families.values()]


def _match_procedures(everyone: Sequence[_Procedure], seen: Collection[str]) -> list[_Procedure]:
    """Procedures that use enough of what was seen, those that use most of it first."""
    families = {name_family(technique) for technique in seen}
    near = [
        (len(families & procedure.uses), len(procedure.uses.intersection(seen)), procedure)
        for procedure in everyone
    ]
    least = min(_LEAST_SEEN, len(families))
    enough = max(least, math.ceil(_PART * len(families)))
    while enough > 1:
        found = sum(count >= enough for count, _, _ in near)
        if found >= (_ENOUGH if enough > least else _FEW):
            break
        enough -= 1
    matching = [each for each in near if each[0] >= max(1, enough)]
    matching.sort(key=lambda m: (-m[0], -m[1], _KINDS.index(m[2].kind), m[2].id))
    return [procedure for _, _, procedure in matching]


def _sum_weights(procedures: Iterable[_Procedure], wanted: Collection[str]) -> dict[str, float]:
    """By technique: the weight of the procedures that use it."""
    sums: defaultdict[str, float] = defaultdict(float)
    for procedure in procedures:
        for technique in procedure.uses.intersection(wanted):
            sums[technique] += procedure.weight
    return sums


def _choose_specific(family: Sequence[_Candidate]) -> _Candidate:
    """The technique itself, or the sub-technique that makes up most of it."""
    best, *others = sorted(family, key=_by_estimate)
    subs = [each for each in (best, *others) if "." in each.technique]
    if subs and subs[0].estimate >= _SPECIFIC * best.estimate:
        return subs[0]
    return best


def _by_estimate(candidate: _Candidate) -> tuple[float, float, str]:
    return (-candidate.estimate, -candidate.lift, candidate.technique)


def _tell_step(counts: _Counts, candidate: _Candidate, stages: Sequence[str]) -> NextStep:
    technique = counts.techniques[candidate.technique]
    return NextStep(
        technique=candidate.technique,
        name=technique.title,
        tactic=next(stage for stage in stages if stage in technique.tactics),
        share=len(candidate.users) / candidate.of,
        of=candidate.of,
        lift=candidate.lift,
        sources=(),
        rules=(),
        cites=(candidate.technique, *candidate.users[:_MOST_CITES]),
    )
