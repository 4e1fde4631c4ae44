"""The attack chain: stages in order, silences that are some and that are none, what is missing."""

import random
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import pytest

from appliance.correlate.chain import (
    TACTIC_ORDER,
    build_chain,
    find_last_seen,
    list_later,
    read_time,
)
from appliance.incident import Chain, NextStep
from appliance.schema import Fold, Incident
from tests.builders import make_incident

T0 = 1_767_225_600.0  # 2026-01-01 00:00 UTC
HOUR = 3600.0
Row = tuple[str, str, float, int]


def make_body(
    key: str, time: str | None, tactics: Sequence[str] = (), **fields: Any
) -> dict[str, Any]:
    techniques = fields.pop("techniques", ())
    return {"id": key, "time": time, "host": "ws1", "tactics": list(tactics),
            "techniques": list(techniques), "source": {"name": "auth"}, **fields}  # fmt: skip


def at(minute: int) -> str:
    return f"2026-01-01T{minute // 60:02}:{minute % 60:02}:00.000000Z"


class KnownProcedures:
    """Answers what it was given, and remembers what it was asked."""

    def __init__(self, tactics: dict[str, tuple[str, ...]], steps: Sequence[NextStep] = ()) -> None:
        self.known = tactics
        self.steps = steps
        self.asked: list[tuple[list[str], tuple[str, ...]]] = []

    def tactics(self, technique: str) -> tuple[str, ...]:
        return self.known.get(technique, ())

    def next_steps(
        self, seen: Collection[str], stages: Sequence[str], limit: int
    ) -> list[NextStep]:
        self.asked.append((list(seen), tuple(stages)))
        return list(self.steps)[:limit]


def watch_nothing(technique: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return (), ()


def incident_of(begin: float = T0, end: float = T0 + HOUR, **changes: Any) -> Incident:
    return msgspec.structs.replace(make_incident("i1", first=begin, last=end), **changes)


def chain_of(
    findings: Sequence[dict[str, Any]],
    presence: Sequence[Row] = (),
    procedures: KnownProcedures | None = None,
    incident: Incident | None = None,
) -> Chain:
    return build_chain(incident or incident_of(), findings, presence, procedures, watch_nothing)


# -- stages ----------------------------------------------------------------------------------------

FINDINGS = [
    make_body("f1", at(5), ["initial-access"], techniques=["T1566"]),
    make_body("f2", at(7), ["execution", "persistence"], techniques=["T1053.005"], host="ws2"),
    make_body("f3", at(9), techniques=["T1003.001"], host="ws2"),
    make_body("f4", at(9), ["execution"], techniques=["T1059"]),
    make_body("f5", at(40), ["lateral-movement"], techniques=["T1021"], host="dc1"),
    make_body("f6", at(41), []),
]
KNOWN = KnownProcedures({"T1003.001": ("credential-access",)})


def test_stages_in_order_of_time() -> None:
    chain = chain_of(FINDINGS, procedures=KNOWN)
    assert [stage.tactic for stage in chain.stages] == [
        "initial-access", "execution", "persistence", "credential-access", "lateral-movement",
    ]  # fmt: skip
    execution = chain.stages[1]
    assert (execution.first, execution.last) == (T0 + 7 * 60, T0 + 9 * 60)
    assert execution.hosts == ("ws2", "ws1")
    assert execution.techniques == ("T1053.005", "T1059")
    assert execution.findings == ("f2", "f4")
    assert execution.count == 2
    assert chain.unplaced == 1
    assert chain.gaps == ()


@pytest.mark.parametrize("seed", range(5))
def test_order_of_findings_changes_nothing(seed: int) -> None:
    mixed = list(FINDINGS)
    random.Random(seed).shuffle(mixed)
    assert chain_of(mixed, procedures=KNOWN) == chain_of(FINDINGS, procedures=KNOWN)


def test_without_a_base_stages_come_from_tags_alone() -> None:
    chain = chain_of(FINDINGS)
    assert "credential-access" not in [stage.tactic for stage in chain.stages]
    assert chain.unplaced == 2
    assert chain.next_steps == ()


def test_technique_stands_in_the_stage_that_it_serves() -> None:
    known = KnownProcedures({"T1110": ("credential-access",), "T1021": ("lateral-movement",)})
    body = make_body("f", at(1), ["credential-access", "lateral-movement"],
                     techniques=["T1110", "T1021"])  # fmt: skip
    stages = {stage.tactic: stage.techniques for stage in chain_of([body], procedures=known).stages}
    assert stages == {"credential-access": ("T1110",), "lateral-movement": ("T1021",)}


def test_folds_tell_of_findings_that_are_not_given() -> None:
    fold = Fold("sigma", "r1", "Guessing", "high", "ws9", 500, T0 - HOUR, T0 + HOUR,
                tactics=("execution",), techniques=("T1204",))  # fmt: skip
    chain = chain_of(FINDINGS[3:4], incident=incident_of(folds=(fold,)))
    (stage,) = chain.stages
    assert (stage.count, stage.first, stage.hosts) == (500, T0 - HOUR, ("ws9", "ws1"))
    assert stage.findings == ("f4",)


def test_no_findings_no_chain() -> None:
    assert chain_of([]) == Chain()


# -- holes -----------------------------------------------------------------------------------------


def test_stage_without_what_must_precede_it_is_a_gap() -> None:
    chain = chain_of([FINDINGS[4]])
    assert [(gap.kind, gap.subject) for gap in chain.gaps] == [
        ("stage", "credential-access"), ("stage", "initial-access"),
    ]  # fmt: skip
    for gap in chain.gaps:
        assert gap.sentence.cites == ("f5",)
        assert gap.subject.replace("-", " ") in gap.sentence.text
        assert gap.first == gap.last == T0 + 40 * 60


def test_early_stage_asks_for_nothing_before_it() -> None:
    assert chain_of(FINDINGS[3:4]).gaps == ()


def test_chain_of_an_industrial_system() -> None:
    findings = [
        make_body("f1", at(1), ["initial-access"], techniques=["T0883"]),
        make_body("f2", at(2), ["evasion"], techniques=["T0858"]),
        make_body("f3", at(3), techniques=["T0816"]),
        make_body("f4", at(3), techniques=["T0831"]),
        make_body("f5", at(3), ["impair-process-control"], techniques=["T0855"]),
    ]
    step = NextStep("T0826", "Loss of Availability", "impact", 0.5, 4, 1.2, (), (), ("T0826",))
    known = KnownProcedures({"T0816": ("inhibit-response-function",), "T0831": ("impact",)}, [step])
    chain = chain_of(findings, procedures=known)
    assert [stage.tactic for stage in chain.stages] == [
        "initial-access", "evasion", "inhibit-response-function", "impair-process-control",
        "impact",
    ]  # fmt: skip
    assert [gap.subject for gap in chain.gaps] == ["execution", "lateral-movement"]
    assert chain.next_steps == (step,)
    seen, stages = known.asked[0]
    assert seen == ["T0816", "T0831", "T0855", "T0858", "T0883"]
    assert stages == ("inhibit-response-function", "impair-process-control", "impact")


# -- silences --------------------------------------------------------------------------------------


def beat(source: str, host: str, minutes: Sequence[int]) -> list[Row]:
    return [(source, host, T0 + minute * 60.0, 3) for minute in minutes]


def silences(presence: Sequence[Row], **times: float) -> list[tuple[str, float, float]]:
    gaps = chain_of([], presence, incident=incident_of(**times)).gaps
    assert all(gap.kind == "silence" for gap in gaps)
    return [(gap.subject, (gap.first - T0) / 60, (gap.last - T0) / 60) for gap in gaps]


def test_host_that_fell_silent_and_came_back() -> None:
    rows = beat("auth", "ws1", [*range(20), *range(50, 70)])
    assert silences(rows) == [("ws1", 20, 50)]
    (gap,) = chain_of([], rows).gaps
    assert gap.sentence.cites == ("source:auth",)
    assert gap.sentence.text.startswith(
        "No data from host ws1 between 2026-01-01 00:20:00Z and 2026-01-01 00:50:00Z"
    )


def test_order_of_presence_changes_nothing() -> None:
    rows = beat("auth", "ws1", [*range(20), *range(50, 70)]) + beat("auth", "ws2", range(0, 70, 2))
    mixed = list(rows)
    random.Random(1).shuffle(mixed)
    assert silences(mixed) == silences(rows) == [("ws1", 20, 50)]


@pytest.mark.parametrize(
    "minutes",
    [
        range(0, 600, 30),  # half an hour is its usual pause
        [0, 1, 2, 30, 31, 60, 61, 62, 90, 91, 120, 121, 150, 151],  # so it is in bursts
        [0, 40],  # no rhythm is known
        [*range(20), *range(30, 60)],  # too short to matter
    ],
)
def test_usual_pause_is_no_gap(minutes: Sequence[int]) -> None:
    assert silences(beat("auth", "ws1", minutes), end=T0 + max(minutes) * 60) == []


def test_empty_slices_are_no_data() -> None:
    rows = beat("auth", "ws1", [*range(20), *range(50, 70)])
    rows += [("auth", "ws1", T0 + minute * 60.0, 0) for minute in range(20, 50)]
    assert silences(rows) == [("ws1", 20, 50)]


def test_silence_far_from_the_incident_is_not_told() -> None:
    rows = beat("auth", "ws1", [*range(20), *range(50, 70), *range(70, 400)])
    assert silences(rows, begin=T0 + 300 * 60, end=T0 + 320 * 60) == []
    assert silences(rows, begin=T0 + 100 * 60, end=T0 + 120 * 60) == [("ws1", 20, 50)]


def test_host_that_went_silent_for_good() -> None:
    rows = beat("auth", "ws1", range(30)) + beat("auth", "ws2", range(90))
    assert silences(rows) == [("ws1", 30, 90)]
    (gap,) = chain_of([], rows).gaps
    assert "after 2026-01-01 00:30:00Z" in gap.sentence.text


def test_host_that_was_not_heard_before() -> None:
    rows = beat("auth", "ws1", range(40, 90)) + beat("auth", "ws2", range(90))
    assert silences(rows) == [("ws1", 0, 40)]
    assert "before 2026-01-01 00:40:00Z" in chain_of([], rows).gaps[0].sentence.text


def test_end_of_all_data_is_a_gap_only_if_the_incident_goes_on() -> None:
    rows = beat("auth", "ws1", range(30))
    assert silences(rows, end=T0 + 29 * 60) == []
    assert silences(rows, end=T0 + 60 * 60) == [("ws1", 30, 60)]


def test_silent_source_is_told_once_for_all_its_hosts() -> None:
    spoken = [*range(20), *range(50, 70)]
    rows = [row for host in ("a", "b", "c") for row in beat("auth", host, spoken)]
    rows += [row for host in ("a", "b") for row in beat("web", host, range(70))]
    assert silences(rows) == [("auth", 20, 50)]
    only = [row for row in rows if row[0] == "auth"]
    assert silences(only) == [("auth", 20, 50)]


def test_silence_of_one_source_about_one_host() -> None:
    spoken = [*range(20), *range(50, 70)]
    rows = beat("auth", "a", spoken) + beat("web", "a", range(70)) + beat("auth", "b", range(70))
    assert silences(rows) == [("auth about a", 20, 50)]
    assert chain_of([], rows).gaps[0].sentence.cites == ("source:auth",)


def test_silence_of_a_host_cites_all_its_sources() -> None:
    spoken = [*range(20), *range(50, 70)]
    rows = beat("auth", "a", spoken) + beat("web", "a", spoken) + beat("auth", "b", range(70))
    (gap,) = chain_of([], rows).gaps
    assert (gap.subject, gap.sentence.cites) == ("a", ("source:auth", "source:web"))


def test_silence_of_everything_is_told_once() -> None:
    spoken = [*range(20), *range(50, 70)]
    rows = beat("auth", "a", spoken) + beat("web", "b", spoken)
    assert silences(rows) == [("all sources", 20, 50)]


# -- next steps ------------------------------------------------------------------------------------


def test_next_steps_say_who_would_show_them() -> None:
    steps = [
        NextStep(name, "Name", "impact", 0.5, 9, 2.0, (), (), (name,)) for name in ("T1", "T2")
    ]

    def watch(technique: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return (("linux/auth",), ("Rule",)) if technique == "T1" else ((), ())

    chain = build_chain(incident_of(), FINDINGS, (), KnownProcedures({}, steps), watch)
    assert [(step.technique, step.sources, step.rules) for step in chain.next_steps] == [
        ("T1", ("linux/auth",), ("Rule",)),
        ("T2", (), ()),
    ]


def test_next_steps_come_with_or_after_the_last_stage() -> None:
    known = KnownProcedures({})
    chain = chain_of(FINDINGS, procedures=known)
    assert find_last_seen(chain.stages) == "lateral-movement"
    (asked,) = known.asked
    assert asked[1] == (
        "lateral-movement", "collection", "exfiltration", "inhibit-response-function",
        "impair-process-control", "impact",
    )  # fmt: skip


@pytest.mark.parametrize("tactic", TACTIC_ORDER)
def test_impact_may_always_come(tactic: str) -> None:
    later = list_later(tactic)
    assert tactic in later
    assert "impact" in later
    assert list(later) == sorted(later, key=TACTIC_ORDER.index)


def test_unknown_last_stage_leaves_all_open() -> None:
    assert list_later("") == list_later("own-stage") == TACTIC_ORDER
    assert "discovery" in list_later("command-and-control")


# -- hostile text ----------------------------------------------------------------------------------

HOSTILE = "x\n\x1b[31m\ud800\u202e" + "y" * 100_000


def test_hostile_text_stays_on_its_line() -> None:
    spoken = [*range(20), *range(50, 70)]
    chain = chain_of([], beat(HOSTILE, HOSTILE, spoken) + beat("auth", "b", range(70)))
    (gap,) = chain.gaps
    for text in (gap.subject, gap.sentence.text):
        assert text.isprintable()
        assert len(text) < 500


def test_hostile_findings_make_no_stage_and_no_fault() -> None:
    bodies = [
        make_body("f1", HOSTILE, [HOSTILE, "", 7, None], techniques=[HOSTILE, {}, "T1059"]),  # type: ignore[list-item]
        make_body("f2", None, ["execution"], host=None),
        {"id": "f3", "tactics": "execution", "techniques": 9, "time": 3},
        {},
    ]
    known = KnownProcedures({})
    chain = chain_of(bodies, [("a", "b", float("nan"), 1)], procedures=known)
    (stage,) = chain.stages
    assert (stage.tactic, stage.findings) == ("execution", ("f2",))
    assert (stage.first, stage.last) == (T0, T0 + HOUR)
    assert chain.unplaced == 3
    assert known.asked[0][0] == ["T1059"]


def test_many_made_up_stages_are_few() -> None:
    names = ["stage-" + "".join(chr(97 + int(digit)) for digit in f"{n:03}") for n in range(500)]
    bodies = [make_body(f"f{n}", at(1), [name]) for n, name in enumerate(names)]
    assert 0 < len(chain_of([*bodies, FINDINGS[0]]).stages) <= 20


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-01-01T00:00:00.000000Z", T0),
        ("2026-01-01T02:00:00+02:00", T0),
        ("2026-13-01T00:00:00Z", None),
        ("never", None),
        (None, None),
        (T0, None),
    ],
)
def test_time_of_a_body(text: object, seconds: float | None) -> None:
    assert read_time(text) == seconds
