"""What is usual here: learned, shown, ranked by - and never a way to hide what is high."""

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.correlate.gathering import summarize
from appliance.correlate.incidents import ROUTINE_ID, CorrelationLimits
from appliance.correlate.priority import MINOR_BELOW, weigh_incident
from appliance.correlate.usual import (
    count_hosts,
    count_hours,
    measure_surprise,
    note_count,
    note_host,
    note_time,
)
from appliance.schema import Finding, Fold, Level, Usual
from tests.builders import T0, make_finding
from tests.test_correlate import Line, check_whole

HOUR = 3600.0
#: The beginning of an hour.
START = math.ceil(T0 / HOUR) * HOUR


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path / "store.db", CorrelationLimits())


def learn(
    line: Line, hours: int, *, rule: str = "noise", host: str = "web", level: Level = "medium"
) -> float:
    """The rule fires once an hour for so many hours, and another now and then; when that ends."""
    found = [
        make_finding(1000 + n, START + n * HOUR + 60, f"h:{host}", rule=rule, level=level)
        for n in range(hours)
    ]
    line.put(*found)
    return START + hours * HOUR


def homes_of(line: Line, *findings: Finding) -> list[str]:
    homes = line.homes()
    return [homes[finding.id] for finding in findings]


# -- counting --------------------------------------------------------------------------------------


def test_hours_count_once_they_are_over() -> None:
    usual = Usual()
    for n in range(20):
        note_time(usual, START + n * HOUR)
        note_time(usual, START + n * HOUR + 1800)
    at = int((START + 20 * HOUR) // 600)
    assert usual.hours + len(usual.recent) == 20
    assert count_hours(usual, at + 1) == 20
    assert count_hours(usual, at) == 19  # the last hour ended less than the lag ago
    assert count_hours(usual, at - 6) == 18


def test_an_old_hour_is_not_counted_again_and_again() -> None:
    usual = Usual()
    for n in range(10):
        note_time(usual, START + n * HOUR)
    for n in range(50):
        note_time(usual, START + n)
    assert usual.hours + len(usual.recent) == 10


def test_what_comes_once_a_day_is_usual_after_three_days(line: Line) -> None:
    """A backup at two in the morning, on a site where something is found every hour."""
    day = math.ceil(START / 86400) * 86400.0
    for n in range(6 * 24):
        line.put(make_finding(1000 + n, day + n * HOUR, "h:web", rule=f"r{n % 7}", level="low"))
        if n % 24 == 2:
            backup = make_finding(n, day + n * HOUR + 60, "h:db", rule="backup", level="medium")
            line.put(backup)
            (home,) = homes_of(line, backup)
            # Three whole days with it have to be over: from the fourth on it is expected.
            assert (home == ROUTINE_ID) == (n // 24 >= 3), n // 24


def test_surprise_is_that_of_the_rule_of_succession() -> None:
    site, rule, here = Usual(), Usual(), Usual()
    for n in range(48):
        note_time(site, START + n * HOUR)
        if n < 11:
            note_time(rule, START + n * HOUR)
        if n < 5:
            note_time(here, START + n * HOUR)
    surprise = measure_surprise(site, rule, here, int((START + 50 * HOUR) // 600), 1)
    assert surprise.times == 5
    assert surprise.share == pytest.approx(5 / 48)
    # 5 hours of 48 here are 3.06 bits, 11 of 48 anywhere 2.06 and one for the new host: the less.
    assert surprise.bits == pytest.approx(min(-math.log2(6 / 50), -math.log2(12 / 50) + 1))
    assert surprise.maturity == 1.0
    assert surprise.burst == 0.0


def test_nothing_surprises_before_anything_was_watched() -> None:
    surprise = measure_surprise(Usual(), Usual(), Usual(), int(T0 // 600), 1000)
    assert surprise.steady == 0.0
    assert surprise.burst == 0.0


def test_a_burst_is_many_times_the_most_before() -> None:
    site, here = Usual(), Usual()
    for n in range(30):
        note_time(site, START + n * HOUR)
        note_time(here, START + n * HOUR)
        for _ in range(3):
            note_count(here, int((START + n * HOUR) // 600))
    now = int((START + 31 * HOUR) // 600)
    assert measure_surprise(site, here, here, now, 16).burst == 0.0
    assert measure_surprise(site, here, here, now, 17).burst == pytest.approx(1 + math.log2(17 / 4))
    assert measure_surprise(site, here, here, now, 10**6).burst == 6.0


def test_hosts_are_counted_up_to_eight_the_earliest() -> None:
    usual = Usual()
    for n in reversed(range(20)):
        note_host(usual, f"h{n}", START + n)
    assert [name for name, _ in usual.hosts] == [f"h{n}" for n in range(8)]
    assert count_hosts(usual, int((START + HOUR) // 600)) == 8
    assert count_hosts(usual, int(START // 600)) == 0


# -- what it does ----------------------------------------------------------------------------------


def test_what_fires_every_hour_becomes_routine_and_stays_to_be_seen(line: Line) -> None:
    end = learn(line, 30)
    (routine,) = [i for i in line.store.incidents() if i.kind == "routine"]
    others = [i for i in line.store.incidents() if i.kind != "routine"]
    assert routine.id == ROUTINE_ID
    assert routine.count + sum(i.count for i in others) == 30
    assert routine.count >= 20
    assert routine.score == 0.0
    assert routine.folds[0].expected > 0.5
    line.put(later := make_finding(1, end + 3000, "h:web", rule="noise", level="medium"))
    assert homes_of(line, later) == [ROUTINE_ID]
    check_whole(line)


@pytest.mark.parametrize("level", ["high", "critical"])
def test_what_is_high_is_never_routine(line: Line, level: Level) -> None:
    learn(line, 60, level=level)
    incidents = line.store.incidents()
    assert {i.kind for i in incidents} == {"incident"}
    assert sum(i.count for i in incidents) == 60
    latest = max(incidents, key=lambda one: one.last_seen)
    assert "expected" in {reason.name for reason in latest.reasons}


def test_an_attack_is_not_drawn_into_the_routine_of_its_host(line: Line) -> None:
    end = learn(line, 40)
    noise = make_finding(1, end + 3000, "h:web", rule="noise", level="medium")
    attack = make_finding(2, end + 3001, "h:web", rule="new", level="medium")
    line.put(noise, attack)
    routine, other = homes_of(line, noise, attack)
    assert routine == ROUTINE_ID != other


@pytest.mark.parametrize("together", [True, False])
def test_a_burst_leaves_the_routine_with_all_of_its_ten_minutes(line: Line, together: bool) -> None:
    end = learn(line, 40) + 3600
    flood = [
        make_finding(n, end + n, f"h:web p:{n % 3}", rule="noise", level="medium")
        for n in range(40)
    ]
    for batch in [flood] if together else [[one] for one in flood]:
        line.put(*batch)
    homes = set(homes_of(line, *flood))
    assert len(homes) == 1
    assert ROUTINE_ID not in homes
    incident = line.store.incident(homes.pop())
    assert incident is not None
    assert incident.count == 40
    assert incident.folds[0].rarity >= 3
    check_whole(line)


def test_the_order_of_a_burst_does_not_matter(tmp_path: Path) -> None:
    found = []
    for turn in range(2):
        line = Line(tmp_path / f"{turn}.db", CorrelationLimits())
        end = learn(line, 40) + 3600
        flood = [
            make_finding(n, end + 10 * n, f"h:web p:{n % 3}", rule="noise", level="low")
            for n in range(40)
        ]
        flood.append(make_finding(90, end + 100, "h:web", rule="other", level="medium"))
        for finding in flood if turn else reversed(flood):
            line.put(finding)
        found.append(line.members())
        check_whole(line)
    assert found[0] == found[1]


def test_the_same_rare_rule_on_another_host_links(line: Line) -> None:
    end = learn(line, 40)
    scan = [make_finding(n, end + 3000 + n, f"h:ws{n}", rule="scan", level="low") for n in range(5)]
    line.put(*scan)
    assert len(set(homes_of(line, *scan))) == 1


def test_two_rare_things_at_the_same_moment_link(line: Line) -> None:
    end = learn(line, 40)
    first = make_finding(1, end + 3000, "h:dns", rule="one", level="low")
    second = make_finding(2, end + 3060, "h:web2", rule="two", level="low")
    third = make_finding(3, end + 3400, "h:web3", rule="three", level="low")
    line.put(first, second, third)
    homes = homes_of(line, first, second, third)
    assert homes[0] == homes[1] != homes[2]


def test_before_a_day_was_watched_the_moment_links_nothing(line: Line) -> None:
    end = learn(line, 3)
    first = make_finding(1, end + 3000, "h:dns", rule="one", level="low")
    second = make_finding(2, end + 3001, "h:web2", rule="two", level="low")
    line.put(first, second)
    assert len(set(homes_of(line, first, second))) == 2


# -- rank ------------------------------------------------------------------------------------------


def fold(rule: str, **changed: Any) -> Fold:
    return msgspec.structs.replace(Fold("sigma", rule, rule, "medium", "web", 1, T0, T0), **changed)


def test_points_add_up_and_each_has_its_words() -> None:
    rows = [
        fold("a", level="high", tactics=("execution", "lateral-movement"), rarity=5.0),
        fold("b", detector="sentinel", host="db", rarity=6.0),
        fold("c", detector="indicators", tactics=("execution",)),
    ]
    score, reasons = weigh_incident(rows, [("d*", 2.0)])
    assert score == pytest.approx(sum(reason.points for reason in reasons))
    points: dict[str, float] = {}
    for reason in reasons:
        points[reason.name] = points.get(reason.name, 0.0) + reason.points
        assert reason.words
    assert points["level"] == 26.0
    assert points["rules"] == pytest.approx(2 + 2 * 0.85)
    assert points["rarity"] == pytest.approx(6 + 5 * 0.85 - 6)
    assert points["spread"] == 3.0
    assert points["stage"] == 2 * 2 + 4
    assert points["agreement"] == 10.0
    assert points["knowledge"] == 6.0
    assert points["asset"] == 10.0


def test_before_a_day_was_watched_several_medium_rules_are_no_minor_matter() -> None:
    rows = [fold(rule, tactics=("execution",), watched=0.25) for rule in ("a", "b")]
    score, reasons = weigh_incident(rows)
    assert {reason.name: reason.points for reason in reasons}["unknown"] == 6.0
    assert score == 10 + 2 + 6 + 2
    fresh = [msgspec.structs.replace(row, watched=0.0) for row in rows]
    assert weigh_incident(fresh)[0] >= MINOR_BELOW
    assert weigh_incident([fold("a", level="low", watched=0.0)])[0] == 3.0


def test_the_order_of_rows_does_not_matter() -> None:
    rows = [fold(f"r{n}", rarity=float(n % 4), host=f"h{n % 3}") for n in range(9)]
    assert weigh_incident(rows) == weigh_incident(rows[::-1])


def test_what_is_expected_loses_rank_only() -> None:
    usual = [fold("a", expected=0.9)]
    plain, _ = weigh_incident([fold("a")])
    lower, reasons = weigh_incident(usual)
    assert lower < plain
    assert any(reason.name == "expected" and reason.points < 0 for reason in reasons)
    assert weigh_incident([*usual, fold("new")])[0] > plain


def test_a_high_finding_is_never_minor(line: Line) -> None:
    end = learn(line, 60, level="high")
    line.put(make_finding(1, end + 3000, "h:lone", rule="other", level="low"))
    kinds = {i.level: i.kind for i in line.store.incidents()}
    assert kinds["high"] == "incident"
    assert kinds["low"] == "minor"
    assert MINOR_BELOW < 26.0


def test_a_summary_made_anew_is_what_it_was(line: Line) -> None:
    line.put(
        make_finding(1, T0, "h:a u:eve", tactics=["execution"]),
        make_finding(2, T0 + 30, "h:b u:eve", level="critical", rule="r2"),
        make_finding(3, T0 + 60, "h:b", rule="r2", level="critical"),
    )
    incident = line.only()
    assert summarize(line.store.incident_folds(incident.id), incident) == incident
