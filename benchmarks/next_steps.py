"""Beside the line: whether what usually comes next is what came next.

From each campaign of the knowledge base the later half of its techniques (by the stages they serve)
is hidden. From the other half the next steps are told with the campaign left out of the counts, and
held against a guess that looks at nothing: what all procedures use most. A step counts as a hit
when the hidden half has this very technique, or a sub-technique of it. A second case also leaves
out what is not independent of the campaign: the groups it is attributed to, their other campaigns,
and the software that it used.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Final, NamedTuple

from appliance.correlate.chain import TACTIC_ORDER, list_later
from appliance.errors import ModelError
from appliance.incident import NextStep
from appliance.knowledge.base import KnowledgeBase
from appliance.knowledge.entries import EntryType, KnowledgeEntry, Link
from appliance.knowledge.generation import read_generation
from appliance.knowledge.procedures import Base, Procedures, name_family
from appliance.knowledge.readers.stix import read_stix
from appliance.places import find_knowledge
from benchmarks.children import show_part
from benchmarks.figures import Report

NAME: Final = "next_steps"
TEXT: Final = "next steps of campaigns, left out one at a time, against a guess by base rate"

#: Techniques that a campaign must be known for, and next steps that are looked at.
LEAST_TECHNIQUES: Final = 6
FIRST: Final = (5, 10)
#: Techniques seen where only a few of the half are: as many as a young incident has.
FEW: Final = 4

Ask = Callable[..., list[NextStep]]


class StixBase:
    """A base straight from STIX bundles, for what no package brings (the ICS matrix's links)."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._entries: dict[str, KnowledgeEntry] = {}
        self._links: list[Link] = []
        for file in files:
            for item in read_stix(file.read_bytes(), file.name):
                if isinstance(item, KnowledgeEntry):
                    self._entries.setdefault(item.id, item)
                elif isinstance(item, Link):
                    self._links.append(item)

    def entry(self, id: str) -> KnowledgeEntry | None:  # noqa: A002 - the base's own name
        """The entry with this id."""
        return self._entries.get(id)

    def list_ends(self, kind: str) -> list[tuple[str, str]]:
        """(from, to) of the links of this kind."""
        return sorted({(link.source, link.target) for link in self._links if link.kind == kind})

    def list_entries(self, type: EntryType) -> Iterable[KnowledgeEntry]:  # noqa: A002
        """All entries of one type."""
        return [entry for entry in self._entries.values() if entry.type == type]


class Trial(NamedTuple):
    """A campaign in two halves. `kin` are the procedures that are not independent of it."""

    campaign: str
    seen: tuple[str, ...]
    hidden: frozenset[str]
    stages: tuple[str, ...]
    kin: frozenset[str]


class Score(NamedTuple):
    """Of one trial, by how many first steps are looked at: the share of them that are hits, whether
    there is any, and the share of the hidden techniques (each with its sub-techniques) found."""

    hits: dict[int, float]
    any: dict[int, float]
    found: dict[int, float]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this part."""
    parser.add_argument(
        "--steps-stix",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="next_steps: STIX bundles to count instead of the knowledge base",
    )


def measure(options: argparse.Namespace, report: Report, _: Path) -> None:
    """Time of the first answer, then every case."""
    words = ["--steps-stix", *map(str, options.steps_stix)] if options.steps_stix else []
    base = _open_base(options.steps_stix)
    trials = list_trials(base)
    command = show_part(NAME, *words)
    report.begin(NAME, "time", command)
    if not trials:
        report.note("the base tells of no campaign with enough techniques")
        return
    begin = time.perf_counter()
    procedures = Procedures(base)
    first = trials[0]
    procedures.next_steps(first.seen, first.stages, max(FIRST))
    report.add(
        "first answer", (time.perf_counter() - begin) * 1000, "ms", 1, "answer, with loading"
    )
    begin = time.perf_counter()
    for trial in trials:
        procedures.next_steps(trial.seen, trial.stages, max(FIRST))
    spent = (time.perf_counter() - begin) * 1000 / len(trials)
    report.add("each further answer", spent, "ms", len(trials), "answers")
    for kin in (False, True):
        for few in (False, True):
            case = "campaign and its kin left out" if kin else "campaign left out"
            report.begin(NAME, case + (f", {FEW} techniques seen" if few else ""), command)
            tried = [_take_few(trial) for trial in trials] if few else trials
            _report_case(report, procedures, tried, kin=kin)


def _open_base(bundles: Sequence[Path]) -> Base:
    if bundles:
        return StixBase(bundles)
    folder = find_knowledge()
    if folder is None:
        raise ModelError("there is no knowledge base: build one (appliance kb build)")
    return KnowledgeBase.open(folder, read_generation(folder).manifest.encoder)


def _report_case(
    report: Report, procedures: Procedures, trials: Sequence[Trial], *, kin: bool
) -> None:
    asked: Mapping[str, Ask] = {
        "next steps": procedures.next_steps,
        "base rate": procedures.usual_steps,
    }
    for name, ask in asked.items():
        scores = [score_trial(trial, ask, kin=kin) for trial in trials]
        for first in FIRST:
            for told, values in (
                ("are hits", [score.hits[first] for score in scores]),
                ("have a hit", [score.any[first] for score in scores]),
                ("find of the hidden", [score.found[first] for score in scores]),
            ):
                mean = 100 * fmean(values)
                report.add(f"{name}: first {first} {told}", mean, "%", len(scores), "campaigns")


def score_trial(trial: Trial, ask: Ask, *, kin: bool) -> Score:
    """What the first steps that `ask` tells come to."""
    without = {trial.campaign, *(trial.kin if kin else ())}
    steps = ask(trial.seen, trial.stages, max(FIRST), without=without)
    hit = [step.technique in trial.hidden for step in steps]
    families = {name_family(technique) for technique in trial.hidden}
    return Score(
        {first: sum(hit[:first]) / first for first in FIRST},
        {first: float(any(hit[:first])) for first in FIRST},
        {first: sum(hit[:first]) / len(families) for first in FIRST},
    )


def list_trials(base: Base) -> list[Trial]:
    """The campaigns with enough techniques whose later half holds something new, by id."""
    techniques = {
        entry.id: entry
        for entry in base.list_entries("technique")
        if not entry.revoked and not entry.deprecated
    }
    uses: dict[str, set[str]] = {}
    for user, used in base.list_ends("uses"):
        uses.setdefault(user, set()).add(used)
    kin = _find_kin(base, uses)
    trials = []
    for campaign in sorted(entry.id for entry in base.list_entries("campaign")):
        own = sorted(
            uses.get(campaign, set()) & techniques.keys(), key=lambda t: _order(techniques[t])
        )
        if len(own) < LEAST_TECHNIQUES:
            continue
        seen, later = own[: len(own) // 2], own[len(own) // 2 :]
        families = {name_family(technique) for technique in seen}
        hidden = {t for t in later if name_family(t) not in families}
        hidden |= {name_family(technique) for technique in hidden}
        if hidden:
            stages = list_later(TACTIC_ORDER[_order(techniques[seen[-1]])[0]])
            trials.append(
                Trial(campaign, tuple(seen), frozenset(hidden), stages, kin.get(campaign, _NONE))
            )
    return trials


_NONE: Final[frozenset[str]] = frozenset()


def _order(technique: KnowledgeEntry) -> tuple[int, int, str]:
    """By the earliest stage that it serves, then by the latest."""
    places = [TACTIC_ORDER.index(tactic) for tactic in technique.tactics]
    return min(places), max(places), technique.id


def _find_kin(base: Base, uses: Mapping[str, set[str]]) -> dict[str, frozenset[str]]:
    software = {entry.id for entry in base.list_entries("software")}
    groups: dict[str, set[str]] = {}
    campaigns: dict[str, set[str]] = {}
    for campaign, group in base.list_ends("attributed_to"):
        groups.setdefault(campaign, set()).add(group)
        campaigns.setdefault(group, set()).add(campaign)
    kin = {}
    for entry in base.list_entries("campaign"):
        own = groups.get(entry.id, set())
        siblings = set[str]().union(*(campaigns[group] for group in own))
        kin[entry.id] = frozenset(own | siblings | (uses.get(entry.id, set()) & software))
    return kin


def _take_few(trial: Trial) -> Trial:
    """With a few of the seen techniques only, evenly from the first to the last."""
    count = len(trial.seen)
    few = min(FEW, count)
    seen = tuple(trial.seen[place * count // few] for place in range(few))
    return trial._replace(seen=seen)
