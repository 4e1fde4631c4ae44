"""Beside the line, when somebody asks how far an attack came: its stages, gaps, what may be next.

Stages are ATT&CK's tactics, in the order in which they were first seen here. Where nothing was seen
is told as a gap: a host or source that fell silent, a stage that must have been and left no trace.
"""

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import msgspec

from appliance.correlate.chain_silence import Presence, find_silences
from appliance.incident import Chain, ChainStage, Gap, NextStep, Sentence
from appliance.schema import Incident

Body = Mapping[str, Any]
#: (log sources fed here that would show a technique, titles of the rules that watch for it).
Watchers = Callable[[str], tuple[tuple[str, ...], tuple[str, ...]]]

#: ATT&CK's tactics by short name, as its matrices stand: enterprise (release 19 split
#: "defense-evasion" in two), with those that only industrial systems have.
TACTIC_ORDER: Final = (
    "reconnaissance", "resource-development", "initial-access", "execution", "persistence",
    "privilege-escalation", "defense-evasion", "stealth", "defense-impairment", "evasion",
    "credential-access", "discovery", "lateral-movement", "collection", "command-and-control",
    "exfiltration", "inhibit-response-function", "impair-process-control", "impact",
)  # fmt: skip
_PLACES: Final = {tactic: place for place, tactic in enumerate(TACTIC_ORDER)}
#: Tactics that come as soon as another: an attack speaks to its controller when it got in, and
#: hides from then on in whatever way.
_AS_SOON_AS: Final = {
    "command-and-control": "defense-evasion",
    "stealth": "defense-evasion",
    "defense-impairment": "defense-evasion",
    "evasion": "defense-evasion",
}
#: What an attack may do at any time.
_GOALS: Final = ("inhibit-response-function", "impair-process-control", "impact")

#: By stage: the stages that must have come before it.
_BEFORE: Final[Mapping[str, tuple[str, ...]]] = {
    "lateral-movement": ("initial-access", "credential-access"),
    "collection": ("initial-access",),
    "exfiltration": ("initial-access", "collection"),
    "inhibit-response-function": ("initial-access", "lateral-movement"),
    "impair-process-control": ("initial-access", "lateral-movement"),
    "impact": ("initial-access", "execution"),
}

#: Tactics that no matrix has, as an operator's own rules may name them.
_TACTIC: Final = re.compile(r"[a-z]{2,20}(?:-[a-z]{2,20}){0,3}", re.ASCII)
_TECHNIQUE: Final = re.compile(r"T[0-9]{4}(?:\.[0-9]{3})?", re.ASCII)
#: Most stages that no matrix has, values of one stage and ids that a sentence cites.
MAX_OWN_STAGES: Final = 8
MAX_VALUES: Final = 1000
MAX_CITES: Final = 16
#: Most tactics or techniques of one finding.
MAX_TAGS: Final = 64
#: Next steps that are told, and log sources and rules of one.
MAX_NEXT_STEPS: Final = 10
MAX_WATCHERS: Final = 32


class Procedures(Protocol):
    """What is asked of the knowledge base's procedures: `knowledge.procedures.Procedures`."""

    def tactics(self, technique: str) -> tuple[str, ...]:
        """The tactics that a technique serves."""

    def next_steps(
        self, seen: Collection[str], stages: Sequence[str], limit: int
    ) -> list[NextStep]:
        """What usually comes beside techniques, of these tactics, the likeliest first."""


class _Seen(msgspec.Struct):
    """What was seen of one stage so far."""

    first: float = math.inf
    last: float = -math.inf
    count: int = 0
    hosts: dict[str, float] = {}
    techniques: dict[str, float] = {}
    findings: dict[str, float] = {}

    def note_times(self, times: Sequence[float]) -> None:
        self.first = min(self.first, *times)
        self.last = max(self.last, *times)


def build_chain(
    incident: Incident,
    findings: Sequence[Body],
    presence: Presence,
    procedures: Procedures | None,
    watchers: Watchers,
) -> Chain:
    """The chain of the incident. `findings` are bodies as `scan --out` writes them, in any order;
    `presence` counts the archived events of its hosts, (source, host, beginning of a time slice in
    epoch seconds, events); without `procedures` stages come from tags alone and no next step is
    told. Findings beyond those given count by the incident's folds.

    Raises nothing for any text; ModelError from `procedures`."""
    placed = [(body, _list_tactics(body, procedures)) for body in findings]
    seen: dict[str, _Seen] = {}
    for body, tactics in placed:
        for tactic in tactics:
            _note_finding(seen.setdefault(tactic, _Seen()), body, tactic, procedures)
    _note_folds(seen, incident, procedures)
    stages = _order_stages(seen, incident)
    techniques = _list_techniques(incident, findings)
    return Chain(
        stages=stages,
        gaps=(*_sort_gaps([*find_silences(incident, presence), *_find_holes(stages)]),),
        next_steps=_tell_next(techniques, stages, procedures, watchers),
        unplaced=sum(not tactics for _, tactics in placed),
    )


# -- stages ----------------------------------------------------------------------------------------


def _list_tactics(body: Body, procedures: Procedures | None) -> tuple[str, ...]:
    """The tactics that the finding names, else those of its techniques."""
    return _find_tactics(
        _list_texts(body.get("tactics")), _list_texts(body.get("techniques")), procedures
    )


def _find_tactics(
    tactics: Iterable[str], techniques: Iterable[str], procedures: Procedures | None
) -> tuple[str, ...]:
    named = dict.fromkeys(tactic for tactic in tactics if _TACTIC.fullmatch(tactic))
    if not named and procedures is not None:
        for technique in techniques:
            if _TECHNIQUE.fullmatch(technique):
                named.update(dict.fromkeys(procedures.tactics(technique)))
    return tuple(named)


def _list_texts(value: Any) -> list[str]:
    values = value[:MAX_TAGS] if type(value) in (list, tuple) else ()
    return [text for text in values if type(text) is str]


def _note_finding(seen: _Seen, body: Body, tactic: str, procedures: Procedures | None) -> None:
    time = read_time(body.get("time"))
    when = math.inf if time is None else time
    seen.count += 1
    if time is not None:
        seen.note_times((time,))
    host, name = body.get("host"), body.get("id")
    if type(host) is str and host:
        _note(seen.hosts, host, when)
    if type(name) is str and name:
        _note(seen.findings, name, when)
    for technique in _choose_techniques(_list_texts(body.get("techniques")), tactic, procedures):
        _note(seen.techniques, technique, when)


def _choose_techniques(
    techniques: Iterable[str], tactic: str, procedures: Procedures | None
) -> list[str]:
    """Those that serve the tactic, as far as that is known: a rule that names two tactics names a
    technique for each."""
    named = [technique for technique in techniques if _TECHNIQUE.fullmatch(technique)]
    if procedures is None:
        return named
    serving = [
        technique
        for technique in named
        if tactic in (known := procedures.tactics(technique)) or not known
    ]
    # The rule's author says so even where ATT&CK does not.
    return serving or named


def _note_folds(seen: dict[str, _Seen], incident: Incident, procedures: Procedures | None) -> None:
    """Folds count all findings, also those that are not given: as far as they know of more, of
    longer, of other stages."""
    counts: dict[str, int] = {}
    for fold in incident.folds:
        for tactic in _find_tactics(fold.tactics, fold.techniques, procedures):
            stage = seen.setdefault(tactic, _Seen())
            counts[tactic] = counts.get(tactic, 0) + fold.count
            times = [time for time in (fold.first, fold.last) if math.isfinite(time)]
            if times:
                stage.note_times(times)
            if fold.host:
                _note(stage.hosts, fold.host, fold.first)
            for technique in _choose_techniques(fold.techniques, tactic, procedures):
                _note(stage.techniques, technique, fold.first)
    for tactic, count in counts.items():
        seen[tactic].count = max(seen[tactic].count, count)


def _note(firsts: dict[str, float], value: str, time: float) -> None:
    firsts[value] = min(time, firsts.get(value, math.inf))


def _order_stages(seen: Mapping[str, _Seen], incident: Incident) -> tuple[ChainStage, ...]:
    """By first time; what began at once stands in ATT&CK's order."""
    own = sorted(
        (tactic for tactic in seen if tactic not in _PLACES),
        key=lambda tactic: (-seen[tactic].count, tactic),
    )
    kept = [tactic for tactic in seen if tactic in _PLACES] + own[:MAX_OWN_STAGES]
    stages = [_make_stage(tactic, seen[tactic], incident) for tactic in kept]
    return tuple(sorted(stages, key=lambda stage: (stage.first, *_place(stage.tactic))))


def _make_stage(tactic: str, seen: _Seen, incident: Incident) -> ChainStage:
    timed = seen.first <= seen.last
    return ChainStage(
        tactic=tactic,
        first=seen.first if timed else incident.first_seen,
        last=seen.last if timed else incident.last_seen,
        hosts=_by_first(seen.hosts),
        techniques=_by_first(seen.techniques),
        findings=_by_first(seen.findings),
        count=seen.count,
    )


def _by_first(firsts: Mapping[str, float]) -> tuple[str, ...]:
    ordered = sorted(firsts.items(), key=lambda item: (item[1], item[0]))
    return tuple(value for value, _ in ordered[:MAX_VALUES])


def _place(tactic: str) -> tuple[int, str]:
    return (_PLACES.get(tactic, len(_PLACES)), tactic)


def read_time(value: Any) -> float | None:
    """Epoch seconds of a body's time (ISO 8601 with a zone); None for none."""
    if type(value) is not str or len(value) > 40:
        return None
    try:
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


# -- holes -----------------------------------------------------------------------------------------


def _find_holes(stages: Sequence[ChainStage]) -> list[Gap]:
    """Stages that must have been before others and that nothing was seen of, each once: before the
    first stage that asks for it."""
    there = {stage.tactic for stage in stages}
    missing: dict[str, ChainStage] = {}
    for stage in stages:
        for tactic in _BEFORE.get(stage.tactic, ()):
            if tactic not in there and stage.findings:
                missing.setdefault(tactic, stage)
    return [_tell_hole(tactic, stage) for tactic, stage in missing.items()]


def _tell_hole(tactic: str, stage: ChainStage) -> Gap:
    text = (
        f"Nothing was seen of {word_tactic(tactic)}, without which there is hardly any "
        f"{word_tactic(stage.tactic)}: it happened where nobody looks, or earlier."
    )
    cites = stage.findings[:MAX_CITES]
    return Gap(tactic, stage.first, stage.first, Sentence(text, cites), kind="stage")


def word_tactic(tactic: str) -> str:
    """ "lateral-movement" as "lateral movement"."""
    return tactic.replace("-", " ")


def _sort_gaps(gaps: Iterable[Gap]) -> list[Gap]:
    return sorted(gaps, key=lambda gap: (gap.first, gap.last, gap.kind, gap.subject))


# -- next steps ------------------------------------------------------------------------------------


def _list_techniques(incident: Incident, findings: Iterable[Body]) -> list[str]:
    named = set(incident.techniques)
    named.update(technique for fold in incident.folds for technique in fold.techniques)
    for body in findings:
        named.update(_list_texts(body.get("techniques")))
    return sorted(technique for technique in named if _TECHNIQUE.fullmatch(technique))


def _tell_next(
    techniques: Collection[str],
    stages: Sequence[ChainStage],
    procedures: Procedures | None,
    watchers: Watchers,
) -> tuple[NextStep, ...]:
    if procedures is None or not techniques:
        return ()
    later = list_later(find_last_seen(stages))
    steps = procedures.next_steps(techniques, later, MAX_NEXT_STEPS)
    return tuple(_add_watchers(step, watchers) for step in steps)


def _add_watchers(step: NextStep, watchers: Watchers) -> NextStep:
    sources, rules = watchers(step.technique)
    return msgspec.structs.replace(
        step, sources=tuple(sources[:MAX_WATCHERS]), rules=tuple(rules[:MAX_WATCHERS])
    )


def find_last_seen(stages: Iterable[ChainStage]) -> str:
    """The tactic of the newest finding, of several the earliest in an attack: that an attack acts
    on its next host begins with early stages again. "" for no stage that a matrix has."""
    known = [stage for stage in stages if stage.tactic in _PLACES]
    if not known:
        return ""
    newest = max(stage.last for stage in known)
    return min((s.tactic for s in known if s.last == newest), key=_rank)


def list_later(tactic: str) -> tuple[str, ...]:
    """The tactics that come with or after this one, in order, and those that may come at any time;
    all for one that no matrix has."""
    if tactic not in _PLACES:
        return TACTIC_ORDER
    least = _rank(tactic)[0]
    return tuple(each for each in TACTIC_ORDER if _rank(each)[0] >= least or each in _GOALS)


def _rank(tactic: str) -> tuple[int, str]:
    return _place(_AS_SOON_AS.get(tactic, tactic))
