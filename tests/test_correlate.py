"""Joining findings into incidents: what joins, what merges, what is forgotten, what survives."""

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.correlate.gathering import NAMED_ENTITIES, NAMED_FINDINGS
from appliance.correlate.incidents import (
    CorrelationLimits,
    Correlator,
    Stored,
    incident_id,
    no_change,
    read_sign,
    read_stored_sign,
)
from appliance.correlate.keys import EVERYWHERE_USERS, linking_keys
from appliance.emit.render import render_finding
from appliance.incident import Case
from appliance.schema import LEVELS, CorrelationChange, Finding, Incident, Level, Span
from appliance.store import FindingRow, Store
from tests.builders import T0, make_batch, make_entities, make_finding, make_incident

WIDE = CorrelationLimits(window=100.0, span=10_000.0, links=10_000, parts=1000)


class Line:
    """A correlator in front of a real store: findings in, batches stored, restarts."""

    def __init__(self, path: Path, limits: CorrelationLimits = WIDE) -> None:
        self.path = path
        self.limits = limits
        self.store = Store(path, durable=False)
        self.correlator = self.open_correlator()

    def open_correlator(self) -> Correlator:
        return Correlator(
            self.limits,
            Stored(
                links=self.store.links(),
                usuals=self.store.usuals(),
                aliases=self.store.aliases(),
                folds=self.store.recent_folds(1000),
                load=self.store.incident,
                load_fold=self.store.fold,
                next_number=self.store.next_incident_number(),
            ),
        )

    def join(self, findings: Sequence[Finding]) -> CorrelationChange:
        """Join what is not stored yet; the changes are pending."""
        known = self.store.known_findings([finding.id for finding in findings])
        for finding in findings:
            if finding.id not in known:
                self.correlator.join(read_sign(finding))
        self.correlator.evict()
        return self.correlator.changes()

    def put(self, *findings: Finding) -> CorrelationChange:
        """One batch: joined, stored, committed."""
        change = self.join(findings)
        rows = [FindingRow(key, T0, 0, "sigma", "r1", {"id": key}) for key in sorted(change.joined)]
        self.store.write_batch(make_batch(rows, change=change))
        self.correlator.commit()
        return change

    def restart(self) -> None:
        self.store.close()
        self.store = Store(self.path, durable=False)
        self.correlator = self.open_correlator()

    def homes(self) -> dict[str, str]:
        """The incident of each finding."""
        return {row["id"]: row["incident"] for row in self.store.iterate_findings()}

    def members(self) -> set[frozenset[str]]:
        """The findings of each incident: what must not depend on the order."""
        groups: dict[str, set[str]] = {}
        for finding, incident in self.homes().items():
            groups.setdefault(incident, set()).add(finding)
        return {frozenset(group) for group in groups.values()}

    def facts(self) -> tuple[list[Incident], dict[str, str], dict[str, tuple[Span, ...]], int]:
        """All that must not depend on batches, retries and restarts."""
        incidents = sorted(self.store.incidents(), key=lambda incident: incident.number)
        return incidents, self.homes(), self.store.links(), self.store.next_incident_number()

    def only(self) -> Incident:
        (incident,) = self.store.incidents()
        return incident


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path / "store.db")


def check_whole(line: Line) -> None:
    """Every finding is in one incident that exists, and is counted there once."""
    incidents, homes, _, _ = line.facts()
    for incident in incidents:
        inside = {key for key, home in homes.items() if home == incident.id}
        assert incident.count == len(inside)
        assert sum(fold.count for fold in incident.folds) == incident.count
        assert set(incident.findings) <= inside
        assert len(set(incident.findings)) == len(incident.findings)
        assert incident.first_seen <= incident.last_seen
        folds = line.store.incident_folds(incident.id)
        assert incident.parts == len(folds)
        assert sum(fold.count for fold in folds) == incident.count
    assert set(homes.values()) == {incident.id for incident in incidents}
    assert len({incident.number for incident in incidents}) == len(incidents)


# -- what joins ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["h", "u", "p", "x", "a", "d", "n", "s"])
def test_a_shared_entity_joins(line: Line, kind: str) -> None:
    line.put(make_finding(1, T0, f"{kind}:same f:one"))
    line.put(make_finding(2, T0 + 50, f"{kind}:same f:two", rule="r2"))
    incident = line.only()
    assert incident.id == incident_id(make_finding(1).id)
    assert incident.findings == (make_finding(1).id, make_finding(2, rule="r2").id)
    assert (incident.count, incident.first_seen, incident.last_seen) == (2, T0, T0 + 50)
    check_whole(line)


@pytest.mark.parametrize(
    "entities",
    ["f:c:\\windows\\cmd.exe", *(f"u:{user}" for user in sorted(EVERYWHERE_USERS))],
)
def test_what_every_machine_has_joins_nothing(line: Line, entities: str) -> None:
    assert linking_keys(make_entities(entities)) == []
    line.put(make_finding(1, T0, f"{entities} h:a"), make_finding(2, T0, f"{entities} h:b"))
    assert len(line.store.incidents()) == 2


def test_same_value_of_another_kind_does_not_join(line: Line) -> None:
    line.put(make_finding(1, T0, "h:x"), make_finding(2, T0, "u:x"))
    assert len(line.store.incidents()) == 2


def test_near_identical_findings_fold(line: Line) -> None:
    """One rule on one host by one actor: counted, with first and last, and one row."""
    line.put(*(make_finding(n, T0 + n, "h:web p:1") for n in range(50)))
    incident = line.only()
    (fold,) = incident.folds
    assert (fold.host, fold.count, fold.first, fold.last) == ("web", 50, T0, T0 + 49)
    assert incident.parts == len(line.store.incident_folds(incident.id)) <= 2
    line.put(make_finding(90, T0, "h:web p:2"))  # another actor, the same host
    assert line.only().parts == incident.parts + 1
    assert len(line.only().folds) == 1
    check_whole(line)


def test_findings_without_entities_join_only_their_like(line: Line) -> None:
    line.put(make_finding(1, T0, "h: u:"), make_finding(2, T0, "h:", rule="r2"))
    line.put(make_finding(3, T0, rule="r3"), make_finding(4, T0, rule="r3"))
    assert sorted(i.count for i in line.store.incidents()) == [1, 1, 2]


def test_keys_keep_their_order_each_once() -> None:
    keys = [key for key, _ in linking_keys(make_entities("u:b h:a u:b f:no a:1"))]
    assert keys == ["user:b", "host:a", "address:1"]


@pytest.mark.parametrize(
    ("time", "joins"), [(100.0, True), (100.5, False), (-100.0, True), (-100.5, False)]
)
def test_the_window_reaches_both_ways_and_ends(line: Line, time: float, joins: bool) -> None:
    line.put(make_finding(1, T0, "h:web"))
    line.put(make_finding(2, T0 + time, "h:web", rule="r2"))
    assert len(line.store.incidents()) == (1 if joins else 2)


def test_a_process_links_for_longer_than_a_host(line: Line) -> None:
    line.put(make_finding(1, T0, "h:web p:1"), make_finding(2, T0 + 5000, "h:web p:1"))
    assert line.only().count == 2
    line.put(make_finding(3, T0 + 20_000, "h:web", rule="r2"))
    assert len(line.store.incidents()) == 2


def test_the_window_moves_on_with_the_findings(line: Line) -> None:
    for n in range(6):
        line.put(make_finding(n, T0 + 90 * n, "h:web", rule=f"r{n}"))
    assert line.only().count == 6


def test_a_late_event_joins_where_it_belongs(line: Line) -> None:
    line.put(make_finding(1, T0, "h:web"), make_finding(2, T0 + 90, "h:web", rule="r2"))
    line.put(make_finding(3, T0 - 90, "h:web", rule="r3"))
    incident = line.only()
    assert (incident.first_seen, incident.last_seen) == (T0 - 90, T0 + 90)
    line.put(make_finding(4, T0 - 180, "h:web", rule="r4"))
    assert line.only().count == 4


def test_a_late_event_between_two_incidents_makes_them_one(line: Line) -> None:
    line.put(make_finding(1, T0, "h:web"), make_finding(2, T0 + 190, "h:web", rule="r2"))
    assert len(line.store.incidents()) == 2
    line.put(make_finding(3, T0 + 95, "h:web", rule="r3"))
    assert line.only().count == 3
    check_whole(line)


def test_after_the_window_the_key_belongs_to_the_new_incident(line: Line) -> None:
    line.put(make_finding(1, T0, "h:web"))
    line.put(make_finding(2, T0 + 700, "h:web"))
    line.put(make_finding(3, T0 + 750, "h:web"))
    assert sorted(i.count for i in line.store.incidents()) == [1, 2]
    check_whole(line)


def test_what_many_hosts_share_links_nothing_any_more(line: Line) -> None:
    """A domain controller's address: after an hour on six hosts it says nothing."""
    for n in range(6):
        line.put(make_finding(n, T0 - 7200, f"h:ws{n} a:10.0.0.1"))
    assert line.only().count == 6  # nobody could know yet
    line.put(make_finding(20, T0, "h:wsa a:10.0.0.1"), make_finding(21, T0, "h:wsb a:10.0.0.1"))
    line.put(make_finding(22, T0, "h:wsa a:10.9.9.9"), make_finding(23, T0, "h:wsb a:10.9.9.9"))
    assert sorted(i.count for i in line.store.incidents()) == [4, 6]
    line.put(make_finding(24, T0, "h:wsc a:10.0.0.1"))
    assert sorted(i.count for i in line.store.incidents()) == [1, 4, 6]


# -- what an incident says -------------------------------------------------------------------------


def test_level_and_title_are_those_of_the_first_worst(line: Line) -> None:
    line.put(make_finding(1, T0, "h:a", rule="a", level="medium", title="mid"))
    line.put(make_finding(2, T0, "h:a", rule="b", level="critical", title="worst"))
    line.put(make_finding(3, T0 + 1, "h:a", rule="c", level="critical", title="as bad"))
    line.put(make_finding(4, T0, "h:a", rule="d", level="high", title="high"))
    incident = line.only()
    assert (incident.level, incident.title) == ("critical", "worst")


def test_merged_incident_takes_level_and_title_of_the_worst(line: Line) -> None:
    line.put(make_finding(1, T0, "h:a", level="medium", title="mid", tactics=["execution"]))
    line.put(make_finding(2, T0 + 1, "h:b", level="critical", title="worst", tactics=["impact"]))
    change = line.put(make_finding(3, T0, "h:a h:b", rule="r3", level="high", title="bridge"))
    incident = line.only()
    assert (incident.level, incident.title) == ("critical", "worst")
    assert incident.tactics == ("execution", "impact")
    assert change.notable == {incident.id}


def test_entities_and_findings_named_are_capped_and_the_count_is_not(line: Line) -> None:
    for n in range(NAMED_FINDINGS + 5):
        line.put(make_finding(n, T0, " ".join(["h:web", *(f"f:{n}-{k}" for k in range(4))])))
    incident = line.only()
    assert len(incident.findings) == NAMED_FINDINGS
    assert len(incident.entities) == NAMED_ENTITIES
    assert incident.count == NAMED_FINDINGS + 5
    check_whole(line)


def test_hosts_are_named_before_other_entities(line: Line) -> None:
    """On how many an incident is must not depend on what else is in it."""
    crowd = " ".join(f"f:{k}" for k in range(NAMED_ENTITIES + 5))
    line.put(*(make_finding(n, T0, f"h:web u:eve f:{n}a f:{n}b f:{n}c") for n in range(40)))
    line.put(make_finding(90, T0, f"h:web u:eve {crowd}", rule="r2"))
    line.put(make_finding(91, T0, "h:jump u:eve"))
    named = line.only().entities
    assert len(named) == NAMED_ENTITIES
    assert {entity.value for entity in named if entity.kind == "host"} == {"web", "jump"}


def test_notable_is_what_is_new_worse_further_or_wider(line: Line) -> None:
    steps: list[tuple[str, Level, list[str], bool]] = [
        ("h:a u:eve", "medium", ["execution"], False),  # minor until here
        ("h:a u:eve", "high", ["execution"], True),
        ("h:a u:eve", "high", ["execution"], False),
        ("h:a u:eve f:x", "medium", [], False),
        ("h:a u:eve", "critical", [], True),
        ("h:a u:eve", "medium", ["impact"], True),
        ("h:b u:eve", "medium", [], True),
        ("h:b u:eve", "high", ["execution"], False),
    ]
    for n, (entities, level, tactics, notable) in enumerate(steps):
        found = make_finding(n, T0 + n, entities, level=level, tactics=tactics, rule=f"r{n}")
        assert bool(line.put(found).notable) == notable, n
    assert line.only().count == len(steps)


# -- caps ------------------------------------------------------------------------------------------


def test_an_incident_ends_at_its_span(tmp_path: Path) -> None:
    line = Line(tmp_path / "s.db", CorrelationLimits(window=100, span=150, links=100, parts=100))
    for n, time in enumerate([0, 100, 150, 151, 200]):
        line.put(make_finding(n, T0 + time, "h:web", rule=f"r{n}"))
    found = sorted(line.store.incidents(), key=lambda i: i.number)
    assert [i.count for i in found] == [3, 2]
    assert all(i.last_seen - i.first_seen <= 150 for i in found)


def test_merging_does_not_go_over_the_caps(tmp_path: Path) -> None:
    limits = CorrelationLimits(window=100, span=150, links=100, parts=4)
    line = Line(tmp_path / "span.db", limits)
    line.put(make_finding(1, T0, "h:a"), make_finding(2, T0 + 90, "h:a", rule="r2"))
    line.put(make_finding(3, T0 + 120, "h:b"), make_finding(4, T0 + 190, "h:b", rule="r2"))
    line.put(make_finding(5, T0 + 110, "h:a h:b", rule="r3"))  # fits either, but not both together
    assert sorted(i.count for i in line.store.incidents()) == [2, 3]
    assert line.store.aliases() == {}
    check_whole(line)

    line = Line(tmp_path / "count.db", limits)
    line.put(*(make_finding(n, T0, "h:a", rule=f"r{n}") for n in range(3)))
    line.put(*(make_finding(n, T0, "h:b", rule=f"r{n}") for n in range(3, 6)))
    line.put(make_finding(6, T0, "h:a h:b", rule="r6"))
    assert sorted(i.count for i in line.store.incidents()) == [3, 4]
    check_whole(line)


# -- merging ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("batches", [[[1, 2, 3]], [[1, 2], [3]], [[1], [2, 3]], [[1], [2], [3]]])
def test_two_incidents_become_one(line: Line, batches: list[list[int]]) -> None:
    entities = {1: "h:a", 2: "h:b", 3: "h:a h:b u:x"}
    for batch in batches:
        line.put(*(make_finding(n, T0, entities[n]) for n in batch))
    incident = line.only()
    assert incident.id == incident_id(make_finding(1).id)
    assert incident.aliases == (incident_id(make_finding(2).id),)
    assert (incident.count, incident.number) == (3, 1)
    assert line.store.find_ids(incident.aliases[0]) == [("incident", incident.id)]
    assert line.store.next_incident_number() == 3
    check_whole(line)


@pytest.mark.parametrize("together", [True, False])
def test_three_incidents_become_one_and_all_ids_lead_there(line: Line, together: bool) -> None:
    findings = [make_finding(n, T0, f"h:{n}") for n in range(3)]
    findings.append(make_finding(3, T0, "h:2 h:0 h:1 u:x"))
    for batch in [findings] if together else [[finding] for finding in findings]:
        change = line.put(*batch)
    incident = line.only()
    ids = [incident_id(finding.id) for finding in findings[:3]]
    assert (incident.id, incident.aliases) == (ids[0], (ids[1], ids[2]))
    assert incident.count == 4
    assert change.notable == {incident.id}
    for key in ids:
        assert line.store.find_ids(key) == [("incident", ids[0])]
    check_whole(line)


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("together", [True, False])
def test_chains_of_merges_lead_to_their_end(line: Line, together: bool, restarts: bool) -> None:
    findings = [make_finding(n, T0, f"h:{n} u:{n}") for n in range(4)]
    # 3 into 2, 2 into 1, 1 into 0
    findings += [make_finding(10 + n, T0, f"h:x{n} u:{n} u:{n + 1}") for n in (2, 1, 0)]
    findings.append(make_finding(20, T0, "h:3"))  # its key has led to 3 all the time
    for batch in [findings] if together else [[finding] for finding in findings]:
        line.put(*batch)
        if restarts:
            line.restart()
    incident = line.only()
    assert incident.count == 8
    assert incident.id == incident_id(findings[0].id)
    assert set(incident.aliases) == {incident_id(f.id) for f in findings[1:4]}
    for alias in incident.aliases:
        assert line.store.find_ids(alias) == [("incident", incident.id)]
    check_whole(line)


def test_a_chain_of_aliases_is_kept_as_long_as_a_span_needs_it() -> None:
    home = incident_id("first")
    chain = {"c": "b", "b": home, "unused": home, "another": home}
    held = make_incident(home)
    correlator = Correlator(
        CorrelationLimits(links=3),
        Stored(
            links={"host:z": (Span("c", T0, T0),)},
            aliases=chain,
            load={home: held}.get,
            next_number=2,
        ),
    )
    correlator.join(read_sign(make_finding(1, T0, "h:other")))
    correlator.commit()
    assert correlator._aliases == {"c": home}
    assert correlator.join(read_sign(make_finding(2, T0, "h:z"))) == home


# -- order, batches, retries, restarts -------------------------------------------------------------


def test_rollback_forgets_everything(line: Line) -> None:
    line.put(make_finding(1, T0, "h:a"), make_finding(2, T0, "h:b"))
    before = line.facts()
    retried = [
        make_finding(3, T0, "h:a h:b u:x"),
        make_finding(4, T0, "h:c"),
        make_finding(5, T0, "h:d"),
    ]
    first = msgspec.json.encode(line.join(retried))
    line.correlator.rollback()
    assert line.correlator.keys == 2
    assert line.correlator.changes() == no_change()
    assert line.facts() == before
    assert msgspec.json.encode(line.join(retried)) == first
    line.correlator.rollback()
    line.put(make_finding(6, T0, "h:e"))
    assert {i.number for i in line.store.incidents()} == {1, 2, 3}
    assert line.correlator.keys == 3


NAMES = ["h:a", "h:b", "h:c", "u:eve", "u:root", "a:10.0.0.1", "f:x", "p:1", "d:evil"]


@st.composite
def findings_lists(draw: st.DrawFn) -> list[Finding]:
    count = draw(st.integers(1, 14))
    return [
        make_finding(
            n,
            T0 + draw(st.integers(0, 12)) * 40.0,
            " ".join(draw(st.lists(st.sampled_from(NAMES), max_size=3, unique=True))),
            level=draw(st.sampled_from(LEVELS)),
            rule=draw(st.sampled_from(["r1", "r2", "r3"])),
            title=f"t{n}",
        )
        for n in range(count)
    ]


LIMITS = [WIDE, CorrelationLimits(window=100, span=200, links=1000, parts=4)]
#: Per batch: its size, how often storing it fails first, whether the process restarts after it.
CUTS = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 2), st.booleans()), max_size=14)


@settings(max_examples=120, deadline=None)
@given(findings=findings_lists(), cuts=CUTS, limits=st.sampled_from(LIMITS))
def test_batches_retries_and_restarts_change_nothing(
    findings: list[Finding], cuts: list[tuple[int, int, bool]], limits: CorrelationLimits
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole = Line(Path(folder) / "whole.db", limits)
        whole.put(*findings)
        parts = Line(Path(folder) / "parts.db", limits)
        left = list(findings)
        for size, failures, restart in [*cuts, (len(findings), 0, True)]:
            batch, left = left[:size], left[size:]
            for _ in range(failures):
                parts.join(batch)
                parts.correlator.rollback()
            change = parts.put(*batch)
            for home in change.joined.values():
                assert home in change.incidents
                assert home not in change.merged
                assert parts.store.incident(home) is not None
            if restart:
                parts.restart()
        assert parts.members() == whole.members()
        assert describe(parts) == describe(whole)
        check_whole(parts)
        for incident in parts.store.incidents():
            assert incident.parts <= limits.parts
        for line in (whole, parts):
            line.store.close()


def describe(line: Line) -> list[Incident]:
    """The incidents, without what says how they came to be: which were opened and merged."""
    return [
        msgspec.structs.replace(
            incident,
            entities=tuple(sorted(incident.entities, key=lambda e: (e.kind, e.value))),
            findings=tuple(sorted(incident.findings)),
            aliases=tuple(sorted(incident.aliases)),
        )
        for incident in sorted(line.store.incidents(), key=lambda one: one.id)
    ]


@settings(max_examples=150, deadline=None)
@given(findings=findings_lists(), seed=st.integers(0, 1 << 20))
def test_another_order_gives_the_same_incidents(findings: list[Finding], seed: int) -> None:
    shuffled = list(findings)
    random.Random(seed).shuffle(shuffled)
    with tempfile.TemporaryDirectory() as folder:
        first, second = Line(Path(folder) / "1.db"), Line(Path(folder) / "2.db")
        first.put(*findings)
        for finding in shuffled:
            second.put(finding)
        assert second.members() == first.members()
        scores = [
            sorted((i.score, i.level, i.kind, i.tactics, i.count) for i in line.store.incidents())
            for line in (first, second)
        ]
        assert scores[0] == scores[1]
        for line in (first, second):
            check_whole(line)
            line.store.close()


@settings(max_examples=60, deadline=None)
@given(findings=findings_lists(), cuts=CUTS)
def test_retries_and_restarts_change_nothing_where_keys_are_forgotten(
    findings: list[Finding], cuts: list[tuple[int, int, bool]]
) -> None:
    limits = CorrelationLimits(window=100, span=400, links=3, parts=100)
    with tempfile.TemporaryDirectory() as folder:
        plain, restarted = (Line(Path(folder) / f"{n}.db", limits) for n in range(2))
        left = list(findings)
        for size, failures, restart in [*cuts, (len(findings), 0, True)]:
            batch, left = left[:size], left[size:]
            plain.put(*batch)
            for _ in range(failures):
                restarted.join(batch)
                restarted.correlator.rollback()
            restarted.put(*batch)
            assert restarted.correlator.keys <= 3
            if restart:
                restarted.restart()
            assert restarted.facts() == plain.facts()
        check_whole(plain)
        for line in (plain, restarted):
            line.store.close()


def test_a_stored_finding_joins_as_it_did() -> None:
    finding = make_finding(1, T0, "h:a u:eve", tactics=["execution"])
    body = render_finding(finding, None)
    assert read_stored_sign(body, T0) == read_sign(finding)


@pytest.mark.parametrize("time", [float("nan"), float("inf"), -1e15, 1e15, 1e300, 0.0])
def test_a_forged_time_breaks_nothing(line: Line, time: float) -> None:
    line.put(make_finding(1, T0, "h:a"))
    line.put(make_finding(2, time, "h:a", rule="r2"), make_finding(3, T0 + 1, "h:a", rule="r3"))
    line.restart()
    line.put(make_finding(4, T0 + 2, "h:a", rule="r4"))
    assert sorted(i.count for i in line.store.incidents()) == [1, 3]


# -- forgetting keys -------------------------------------------------------------------------------


def keys_of(line: Line) -> list[str]:
    return [key.removeprefix("host:") for key in line.store.links()]


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("together", [False, True])
def test_the_key_unchanged_for_longest_goes_first(
    tmp_path: Path, restarts: bool, together: bool
) -> None:
    line = Line(tmp_path / "s.db", CorrelationLimits(window=100, span=1000, links=3, parts=100))
    line.put(*(make_finding(n, T0, f"h:{name}") for n, name in enumerate("abc")))
    if restarts:
        line.restart()
    again = [
        make_finding(3, T0 - 50, "h:a"),
        make_finding(4, T0 + 1, "h:b"),
        make_finding(5, T0 + 1, "h:a"),
    ]
    for batch in [again] if together else [[finding] for finding in again]:
        line.put(*batch)
    assert keys_of(line) == ["c", "b", "a"]
    if restarts:
        line.restart()
    line.put(make_finding(6, T0, "h:d"))
    assert keys_of(line) == ["b", "a", "d"]
    line.put(make_finding(7, T0, "h:e"), make_finding(8, T0 + 2, "h:b"))
    assert keys_of(line) == ["d", "e", "b"]
    assert line.correlator.keys == 3
    assert line.correlator.evicted == 2


def test_an_evicted_key_joins_nothing_more(tmp_path: Path) -> None:
    line = Line(tmp_path / "s.db", CorrelationLimits(window=100, span=1000, links=1, parts=100))
    line.put(make_finding(1, T0, "h:a"))
    line.put(make_finding(2, T0, "h:b"))
    line.put(make_finding(3, T0, "h:a", rule="r2"))
    assert len(line.store.incidents()) == 3


def test_eviction_is_rolled_back(tmp_path: Path) -> None:
    line = Line(tmp_path / "s.db", CorrelationLimits(window=100, span=1000, links=2, parts=100))
    line.put(make_finding(1, T0, "h:a"), make_finding(2, T0, "h:b"))
    line.join([make_finding(3, T0, "h:c")])
    line.correlator.rollback()
    assert line.correlator.evicted == 0
    line.put(make_finding(4, T0 + 1, "h:a", rule="r2"))
    assert len(line.store.incidents()) == 2
    assert keys_of(line) == ["b", "a"]
    assert line.correlator.evicted == 0


def test_a_key_of_an_incident_that_is_no_longer_kept_opens_a_new_one(line: Line) -> None:
    line.put(make_finding(1, T0, "h:a"))
    correlator = Correlator(WIDE, Stored(links=line.store.links(), next_number=2))
    opened = correlator.join(read_sign(make_finding(2, T0, "h:a", rule="r2")))
    assert opened == incident_id(make_finding(2, rule="r2").id)
    (incident,) = correlator.changes().incidents.values()
    assert (incident.number, incident.count) == (2, 1)


def test_a_closed_incident_takes_nothing_more(line: Line) -> None:
    line.put(make_finding(1, T0, "h:a"))
    closed = msgspec.structs.replace(line.only(), status="closed")
    correlator = Correlator(
        WIDE, Stored(links=line.store.links(), load={closed.id: closed}.get, next_number=2)
    )
    new = make_finding(2, T0, "h:a", rule="r2")
    key = correlator.join(read_sign(new))
    assert key == incident_id(new.id)
    assert correlator.changes().incidents[key].related == (closed.id,)


def test_what_was_split_is_not_joined_again(line: Line) -> None:
    line.put(make_finding(1, T0, "h:a"), make_finding(2, T0, "h:b"))
    one, other = line.store.incidents()
    split = {one.id: one, other.id: msgspec.structs.replace(other, apart=(one.id,))}
    correlator = Correlator(WIDE, Stored(links=line.store.links(), load=split.get, next_number=3))
    home = correlator.join(read_sign(make_finding(3, T0, "h:a h:b u:x", rule="r3")))
    assert home in split
    assert correlator.changes().merged == {}


def test_a_case_goes_where_its_incident_goes(line: Line) -> None:
    line.put(make_finding(1, T0, "h:a"), make_finding(2, T0, "h:b"))
    second = incident_id(make_finding(2).id)
    body = msgspec.json.encode(Case(incident=second, assignee="eve"))
    with line.store._writing() as db:
        db.execute("INSERT INTO cases VALUES (?, 'acknowledged', 1.0, ?)", (second, body))
    line.put(make_finding(3, T0, "h:a h:b u:x", rule="r3"))
    with line.store._reading() as db:
        ((incident, status),) = db.execute("SELECT incident, status FROM cases").fetchall()
    assert (incident, status) == (line.only().id, "acknowledged")
