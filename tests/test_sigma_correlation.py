"""Sigma correlations: what loads, what is found in which windows, and what is kept of it."""

import math
import random
import statistics
import time
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.detect.sigma.correlation import (
    OPERATORS,
    CorrelationRule,
    Expression,
    SigmaCorrelator,
    Threshold,
    Watch,
    WindowLimits,
    find_percentile,
    list_watched,
    make_hit,
    read_measure,
)
from appliance.detect.sigma.load import RuleSet, load_rules
from appliance.schema import Detection, Hit, LogSource, Match, View
from appliance.store import Store
from tests.builders import T0, make_batch, make_detection, make_entities, make_event

BASES = """\
title: Failed
id: 00000000-0000-4000-8000-000000000001
name: failed
logsource: {product: windows}
detection: {s: {f: failed}, condition: s}
---
title: Passed
id: 00000000-0000-4000-8000-000000000002
name: passed
logsource: {product: windows}
detection: {s: {f: passed}, condition: s}
---
title: Third
id: 00000000-0000-4000-8000-000000000003
name: third
logsource: {product: linux}
detection: {s: {f: third}, condition: s}
---
"""
IDS = {
    name: f"00000000-0000-4000-8000-00000000000{n}"
    for n, name in enumerate(("failed", "passed", "third"), 1)
}
COUNT = "type: event_count, rules: [failed], timespan: 1m, condition: {gte: 3}"


def write_rules(folder: Path, *bodies: str, head: str = "") -> RuleSet:
    """The base rules with correlations of these bodies (flow mappings without their braces)."""
    text = BASES + "\n---\n".join(
        f"title: Many {n}\nid: 00000000-0000-4000-8000-0000000001{n:02}\nname: many_{n}\n"
        f"level: high\ntags: [attack.t1110.001, attack.credential-access]\n{head}"
        f"correlation: {{{body}}}\n"
        for n, body in enumerate(bodies)
    )
    path = folder / "rules.yml"
    path.write_text(text)
    return load_rules([path], feeds=lambda _: None)


def compile_one(folder: Path, body: str) -> CorrelationRule:
    rules = write_rules(folder, body)
    assert rules.refused == ()
    return rules.correlations[0]


def make_hits(
    *given: tuple[str, float, dict[str, str]] | tuple[str, float],
    source: str = "logs",
    first: int = 1,
    lag: float = 0.0,
) -> list[Hit]:
    """Hits of (rule's name, seconds after T0, values), received as they happen."""
    hits = []
    for number, (name, at, *rest) in enumerate(given, first):
        values = dict(rest[0]) if rest else {}
        entities = " ".join(f"u:{value}" for value in values.values() if value.isalpha())
        event = make_event(number, T0 + at, entities, source=source, received=T0 + at + lag)
        hits.append(Hit(IDS.get(name, name), event, values))
    return hits


def find(
    rules: CorrelationRule | Sequence[CorrelationRule],
    hits: Iterable[Hit],
    *,
    limits: WindowLimits | None = None,
    split: int = 0,
    replay: bool = False,
) -> list[Detection]:
    """What is found in the hits, put in `split` at a time (0: all at once)."""
    chosen = [rules] if isinstance(rules, CorrelationRule) else list(rules)
    correlator = SigmaCorrelator(chosen, limits or WindowLimits(), replay=replay)
    given = list(hits)
    found: list[Detection] = []
    for start in range(0, len(given), split or max(len(given), 1)):
        found += correlator.advance(given[start : start + (split or len(given))])
        correlator.commit()
    return found


def times(found: Iterable[Detection]) -> list[float]:
    return [detection.event.time - T0 for detection in found]


# -- loading ---------------------------------------------------------------------------------------


def test_a_correlation_loads_and_its_rules_are_silent(tmp_path: Path) -> None:
    rules = write_rules(tmp_path, COUNT + ", group-by: [user, host]")
    assert rules.refused == ()
    (rule,) = rules.correlations
    assert (rule.bases, rule.kind, rule.span) == ((IDS["failed"],), "event_count", 60.0)
    assert rule.info.level == "high"
    assert rule.info.techniques == ("T1110.001",)
    assert rule.info.tactics == ("credential-access",)
    assert rule.info.logsource == LogSource("windows")
    assert (rule.info.path, rule.info.line) == (str(tmp_path / "rules.yml"), 19)
    assert rules.silent == {IDS["failed"]}
    assert rules.counts() == {
        "files": 1, "documents": 4, "loaded": 4, "refused": 0, "correlations": 1, "filters": 0,
    }  # fmt: skip
    watched = list_watched(rules.correlations, rules.silent)
    assert watched == {IDS["failed"]: Watch(("user", "host"), True)}


def test_generate_lets_the_rules_fire_by_themselves(tmp_path: Path) -> None:
    rules = write_rules(tmp_path, COUNT + ", generate: true", COUNT)
    assert len(rules.correlations) == 2
    assert rules.silent == frozenset()


@pytest.mark.parametrize(
    ("spec", "seconds"),
    [("30s", 30), ("5m", 300), ("2h", 7200), ("1d", 86400), ("1w", 604800), ("1M", 2629746),
     ("1y", 31556952)],
)  # fmt: skip
def test_timespans(tmp_path: Path, spec: str, seconds: int) -> None:
    rule = compile_one(tmp_path, COUNT.replace("1m", spec))
    assert (rule.span, rule.timespan) == (seconds, spec)


TEMPORAL = "type: temporal, rules: [failed, passed], timespan: 1m"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (COUNT.replace("failed", "gone"), "the rule 'gone', which it names, is not loaded"),
        (COUNT.replace("[failed]", "[many_0]"), "names itself"),
        (COUNT.replace("gte: 3", "lt: 3"), "'lt: 3' holds also when nothing happens"),
        (COUNT.replace("gte: 3", "lte: 0"), "holds also when nothing happens"),
        (COUNT.replace("gte: 3", "eq: 0"), "holds also when nothing happens"),
        (COUNT.replace("gte: 3", "neq: 3"), "holds also when nothing happens"),
        (COUNT.replace("gte: 3", "gte: 0"), "holds also when nothing happens"),
        (COUNT.replace("gte: 3", "gte: x"), "no valid Sigma correlation condition count"),
        (COUNT.replace("gte: 3", "gte: 3, lt: 9"), "exactly one condition item"),
        (COUNT.replace("gte: 3", "gte: 3, field: f"), "its condition has no field"),
        (COUNT.replace("event_count", "value_count"), "without field reference"),
        (COUNT.replace("event_count", "often"), "no valid Sigma correlation type"),
        (COUNT.replace("1m", "1x"), "Timespan"),
        (COUNT.replace("1m", "0m"), "greater than zero"),
        (COUNT.replace("[failed]", "[failed, failed]"), "names a rule twice"),
        (COUNT + ", group-by: [a, a]", "names a field twice"),
        (COUNT + ", group-by: [u], aliases: {u: {passed: v}}", "does not name"),
        (
            COUNT.replace("[failed]", "[failed, passed]") + ", group-by: [u], aliases: {u: "
            "{passed: v}}",
            "alias 'u' says no field of the rule 'failed'",
        ),
        (
            "type: value_percentile, rules: [failed], timespan: 1m, condition: {gte: 3, field: f}",
            "needs a percentile",
        ),
        (
            "type: value_sum, rules: [failed], timespan: 1m, condition: {lt: 3, field: f}",
            "holds also when nothing happens",
        ),
        (TEMPORAL + ", condition: {gte: 3}", "can never hold"),
        (TEMPORAL + ", condition: not failed and not passed", "holds also when nothing happens"),
        (TEMPORAL + ", condition: failed", "not referenced"),
        (TEMPORAL + ", condition: failed and passed and gone", "not defined"),
        (TEMPORAL + ", condition: (failed and", "Failed to parse"),
        (
            TEMPORAL.replace("temporal", "temporal_ordered") + ", condition: failed and not passed",
            "no place in order",
        ),
        (
            TEMPORAL.replace("temporal", "temporal_ordered") + ", condition: {gte: 1}",
            "needs all of its rules",
        ),
    ],
)
def test_what_cannot_be_judged_is_refused_by_name(tmp_path: Path, body: str, reason: str) -> None:
    rules = write_rules(tmp_path, body)
    assert rules.correlations == ()
    (refused,) = rules.refused
    assert (refused.title, refused.line) == ("Many 0", 19)
    assert reason in refused.reason
    assert rules.silent == frozenset()
    assert len(rules.rules) == 3


def test_a_mean_below_a_number_is_taken(tmp_path: Path) -> None:
    """Of nothing there is no mean: it does not hold in silence."""
    for kind in ("value_avg", "value_median", "value_percentile"):
        extra = ", percentile: 95" if kind == "value_percentile" else ""
        body = f"type: {kind}, rules: [failed], timespan: 1m, condition: {{lt: 3, field: f{extra}}}"
        assert compile_one(tmp_path, body).kind == kind


def test_rules_stand_in_other_files_and_circles_are_refused(tmp_path: Path) -> None:
    body = "correlation: {type: event_count, rules: [%s], timespan: 1m, condition: {gte: 2}}\n"
    for name, base in (("a", "b"), ("b", "a"), ("z", "failed"), ("y", IDS["failed"].upper())):
        (tmp_path / f"{name}.yml").write_text(f"title: {name}\nname: {name}\n{body % base}")
    (tmp_path / "x.yml").write_text(f"title: x\nname: x\n{body % 'y, z'}")
    (tmp_path / "base.yml").write_text(BASES)
    rules = load_rules([tmp_path], feeds=lambda _: None)
    names = [rule.name for rule in rules.correlations]
    assert set(names) == {"x", "y", "z"}
    assert names[-1] == "x"
    assert {refused.title for refused in rules.refused} == {"a", "b"}
    assert all("lead back to it" in refused.reason for refused in rules.refused)


def test_two_rules_of_one_name_are_not_guessed_between(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(BASES + BASES.replace("-4000-", "-4001-"))
    (tmp_path / "b.yml").write_text(f"title: x\ncorrelation: {{{COUNT}}}\n")
    rules = load_rules([tmp_path], feeds=lambda _: None)
    assert [refused.reason for refused in rules.refused] == ["2 rules are called 'failed'"]


def test_a_rule_that_is_switched_off_takes_its_correlations_along(tmp_path: Path) -> None:
    bodies = [COUNT.replace("failed", name) for name in ("failed", "many_0", "passed")]
    rules = write_rules(tmp_path, *bodies)
    assert len(rules.correlations) == 3
    left = rules.without({IDS["failed"]})
    assert [rule.name for rule in left.correlations] == ["many_2"]
    assert len(left.rules) == 2


# -- each type -------------------------------------------------------------------------------------


def test_event_count_tells_a_burst_once(tmp_path: Path) -> None:
    rule = compile_one(tmp_path, COUNT)
    found = find(rule, make_hits(*(("failed", at) for at in (0, 10, 20, 30, 70, 200, 210, 220))))
    # The second burst: what was before is over.
    assert times(found) == [20, 220]
    (first, _) = found
    assert (first.detector, first.rule_id, first.level) == ("sigma", rule.info.id, "high")
    assert first.matched[0] == Match("event_count", "3", ">= 3 within 1m")
    assert [match.value for match in first.matched[1:]] == [
        "2023-11-14T22:13:20Z", "2023-11-14T22:13:30Z", "2023-11-14T22:13:40Z",
    ]  # fmt: skip
    assert {match.field for match in first.matched[1:]} == {"failed"}
    assert first.matched[3].pattern == first.event.id


@pytest.mark.parametrize(("last", "found"), [(60.0, [60.0]), (math.nextafter(60, 61), [])])
def test_the_window_holds_what_is_a_timespan_old(
    tmp_path: Path, last: float, found: list[float]
) -> None:
    rule = compile_one(tmp_path, COUNT)
    hits = make_hits(("failed", 0), ("failed", 1))
    late = msgspec.structs.replace(hits[0].event, id="f" * 32, time=T0 + last)
    if last > 60:
        late = msgspec.structs.replace(late, time=math.nextafter(T0 + 60, math.inf))
    assert times(find(rule, [*hits, Hit(IDS["failed"], late, {})])) == found


@pytest.mark.parametrize(
    ("condition", "expected"),
    [("gt: 2", [2]), ("gte: 2", [1]), ("eq: 2", [1]), ("neq: 0", [0]), ("eq: 4", [3])],
)
def test_operators(tmp_path: Path, condition: str, expected: list[float]) -> None:
    rule = compile_one(tmp_path, COUNT.replace("gte: 3", condition))
    assert times(find(rule, make_hits(*(("failed", at) for at in range(5))))) == expected


def test_groups_are_counted_apart_and_without_case(tmp_path: Path) -> None:
    rule = compile_one(tmp_path, COUNT + ", group-by: [user, host]")
    hits = make_hits(
        ("failed", 0, {"user": "eve", "host": "a"}),
        ("failed", 1, {"user": "EVE", "host": "A"}),
        ("failed", 2, {"user": "bob", "host": "a"}),
        ("failed", 3, {"user": "eve"}),  # of no group: counted as partial
        ("failed", 4, {"user": "Eve", "host": "a"}),
        ("failed", 5, {"user": "bob", "host": "a"}),
    )
    correlator = SigmaCorrelator([rule], WindowLimits())
    found = correlator.advance(hits)
    assert times(found) == [4]
    assert [(m.field, m.value) for m in found[0].matched[:2]] == [("user", "eve"), ("host", "a")]
    assert correlator.new_counts() == {"counted": 5, "partial": 1}
    assert correlator.groups == 2


def test_values_do_not_run_into_one_another(tmp_path: Path) -> None:
    rule = compile_one(tmp_path, COUNT.replace("3", "2") + ", group-by: [a, b]")
    odd = [{"a": "x\x1f", "b": "y"}, {"a": "x", "b": "\x1fy"}, {"a": "", "b": "x\x1fy"}]
    assert find(rule, make_hits(*(("failed", n, v) for n, v in enumerate(odd)))) == []


def test_value_count(tmp_path: Path) -> None:
    rule = compile_one(
        tmp_path,
        "type: value_count, rules: [failed], group-by: [src], timespan: 1m,"
        " condition: {gte: 3, field: user}",
    )
    users = ("a", "A", "b", "b", "c")
    hits = make_hits(*(("failed", n, {"src": "x", "user": user}) for n, user in enumerate(users)))
    (found,) = find(rule, hits)
    assert times([found]) == [4]
    assert found.matched[1] == Match("value_count", "3", ">= 3 within 1m")
    assert {entity.value for entity in found.event.entities} == {"x", "a", "A", "b", "c"}
    # A value that has left the window counts no more.
    slow = make_hits(*(("failed", n * 25, {"src": "x", "user": u}) for n, u in enumerate("abacb")))
    assert times(find(rule, slow)) == [75]


def test_value_count_of_several_fields(tmp_path: Path) -> None:
    rule = compile_one(
        tmp_path,
        "type: value_count, rules: [failed], timespan: 1m, condition: {gte: 3, field: [a, b]}",
    )
    pairs = [("1", "1"), ("1", "2"), ("1", "2"), ("2", "1")]
    assert times(find(rule, make_hits(*(("failed", n, {"a": a, "b": b}) for n, (a, b) in
                                        enumerate(pairs))))) == [3]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "condition", "values", "expected"),
    [
        ("value_sum", "gt: 10", ["4", "6", "0.5"], [2]),
        ("value_sum", "gte: 1", ["0.1"] * 10, []),  # 0.1 as a double, ten times exactly: below
        ("value_avg", "gte: 5", ["1", "9"], [1]),
        ("value_avg", "lt: 3", ["9", "1", "-5"], [2]),
        ("value_median", "gt: 4", ["1", "4", "9", "9"], [3]),
        ("value_percentile", "gte: 9, percentile: 50", ["1", "9", "9", "x", "9"], [2]),
    ],
)
def test_measures(
    tmp_path: Path, kind: str, condition: str, values: list[str], expected: list[float]
) -> None:
    rule = compile_one(
        tmp_path,
        f"type: {kind}, rules: [failed], timespan: 1h, condition: {{{condition}, field: size}}",
    )
    hits = make_hits(*(("failed", at, {"size": value}) for at, value in enumerate(values)))
    if kind == "value_sum" and not expected:
        assert sum(Fraction(float(v)) for v in values) > 1  # 0.1 is a little more than a tenth
        expected = [9]
    assert times(find(rule, hits)) == expected


@given(st.lists(st.integers(-1000, 1000) | st.floats(-1e6, 1e6), min_size=2, max_size=60))
def test_percentiles_are_those_of_statistics(numbers: list[int | float]) -> None:
    ordered = sorted(numbers)
    assert float(find_percentile(ordered, 50)) == pytest.approx(statistics.median(ordered))
    cuts = statistics.quantiles(ordered, n=100, method="inclusive")
    for percentile in (1, 10, 25, 75, 90, 95, 99):
        mine = float(find_percentile(ordered, percentile))
        assert mine == pytest.approx(cuts[percentile - 1], rel=1e-9, abs=1e-6)
    assert (find_percentile(ordered, 0), find_percentile(ordered, 100)) == (
        ordered[0],
        ordered[-1],
    )


@pytest.mark.parametrize(
    ("text", "number"),
    [("12", 12), ("-1.5", -1.5), ("1e3", 1000.0), ("0x10", None), ("nan", None), ("inf", None),
     ("1e999", None), ("", None), ("1" * 200, None), ("12 ", None)],
)  # fmt: skip
def test_what_is_a_number(text: str, number: float | None) -> None:
    assert read_measure(text) == number


def test_temporal_needs_all_in_any_order(tmp_path: Path) -> None:
    rule = compile_one(tmp_path, TEMPORAL + ", group-by: [user]")
    eve = {"user": "eve"}
    assert times(find(rule, make_hits(("passed", 0, eve), ("failed", 60, eve)))) == [60]
    assert find(rule, make_hits(("passed", 0, eve), ("failed", 61, eve))) == []
    assert find(rule, make_hits(("passed", 0, eve), ("failed", 1, {"user": "bob"}))) == []
    three = TEMPORAL.replace("passed]", "passed, third]")
    some = compile_one(tmp_path, three + ", condition: {gte: 2}")
    assert times(find(some, make_hits(("third", 0), ("third", 1), ("failed", 2)))) == [2]


def test_temporal_ordered(tmp_path: Path) -> None:
    body = TEMPORAL.replace("temporal", "temporal_ordered").replace("passed]", "passed, third]")
    rule = compile_one(tmp_path, body)
    assert times(find(rule, make_hits(("failed", 0), ("passed", 1), ("third", 2)))) == [2]
    assert find(rule, make_hits(("passed", 0), ("failed", 1), ("third", 2))) == []
    names = ("third", "passed", "failed", "third", "passed", "third")
    assert times(find(rule, make_hits(*((name, at) for at, name in enumerate(names))))) == [5]
    together = make_hits(("third", 0), ("passed", 0), ("failed", 0))
    assert times(find(rule, together)) == [0]  # a log of whole seconds says no order
    one = make_hits(("failed", 0))[0].event
    self_following = [Hit(IDS[name], one, {}) for name in ("failed", "passed", "third")]
    assert find(rule, self_following) == []


def test_extended_conditions(tmp_path: Path) -> None:
    body = TEMPORAL.replace("passed]", "passed, third]")
    rule = compile_one(tmp_path, body + ", condition: failed and (passed or third)")
    assert times(find(rule, make_hits(("third", 0), ("failed", 1)))) == [1]
    assert find(rule, make_hits(("third", 0), ("passed", 1))) == []
    rule = compile_one(tmp_path, body + ", condition: failed and third and not passed")
    assert times(find(rule, make_hits(("failed", 0), ("third", 1)))) == [1]
    assert find(rule, make_hits(("passed", 0), ("failed", 1), ("third", 2))) == []
    ordered = body.replace("temporal", "temporal_ordered")
    rule = compile_one(tmp_path, ordered + ", condition: (failed or passed) and third")
    assert times(find(rule, make_hits(("third", 0), ("passed", 1), ("third", 2)))) == [2]
    without = "type: temporal, timespan: 1m, condition: failed and passed"
    assert compile_one(tmp_path, without).bases == (IDS["failed"], IDS["passed"])


def test_aliases(tmp_path: Path) -> None:
    rule = compile_one(
        tmp_path,
        TEMPORAL + ", group-by: [who], aliases: {who: {failed: TargetUser, passed: user}}",
    )
    assert rule.fields == (("TargetUser",), ("user",))
    hits = make_hits(
        ("failed", 0, {"TargetUser": "eve", "user": "bob"}),
        ("passed", 1, {"user": "bob"}),
        ("passed", 2, {"user": "eve"}),
    )
    (found,) = find(rule, hits)
    assert times([found]) == [2]
    assert found.matched[0] == Match("who", "eve", "group-by")


def test_a_correlation_over_correlations(tmp_path: Path) -> None:
    rules = write_rules(
        tmp_path,
        COUNT + ", group-by: [user]",
        "type: temporal_ordered, rules: [many_0, passed], group-by: [user], timespan: 1m",
        COUNT.replace("failed", "many_0").replace("1m", "1h"),
        "type: temporal, rules: [many_1, third], timespan: 1m, generate: true",
    )
    assert rules.refused == ()
    assert rules.silent == {IDS["failed"], IDS["passed"], rules.correlations[0].info.id}
    eve = {"user": "eve"}
    fails = [("failed", float(at), eve) for at in range(0, 300, 10)]
    hits = make_hits(*fails, ("passed", 310.0, {"user": "bob"}), ("passed", 320.0, eve))
    found = find(rules.correlations, hits)
    # The burst began 300 s before the login: that it still went on is what counts.
    assert [(d.rule_id[-1], d.event.time - T0) for d in found] == [("1", 320)]
    assert ("many_0", "2023-11-14T22:18:10Z") in [(m.field, m.value) for m in found[0].matched]
    bursts = [("failed", float(at + n), eve) for at in (0, 100, 200, 300) for n in range(9)]
    counted = [d for d in find(rules.correlations, make_hits(*bursts)) if d.rule_id[-1] == "2"]
    assert times(counted) == [202]  # the third burst, not the third event


# -- time ------------------------------------------------------------------------------------------


def test_late_events_are_put_where_they_belong(tmp_path: Path) -> None:
    rule = compile_one(tmp_path, COUNT)
    on_time = make_hits(("failed", 0), ("failed", 10), ("failed", 200))
    late = make_hits(("failed", 20), source="other", first=9, lag=200.0)
    assert times(find(rule, [*on_time, *late], split=1)) == [20]


def test_what_is_too_late_for_its_stream_is_counted_and_left_out(tmp_path: Path) -> None:
    rule = compile_one(tmp_path, COUNT)
    hits = make_hits(("failed", 0), ("failed", 10), ("failed", 400), ("failed", 20))
    for split in (0, 1):
        limits = WindowLimits(late=300.0)
        assert find(rule, hits, split=split, limits=limits) == []
    correlator = SigmaCorrelator([rule], WindowLimits(late=300.0))
    correlator.advance(hits)
    assert correlator.new_counts() == {"counted": 3, "late": 1}
    assert times(find(rule, hits, limits=WindowLimits(late=380.0))) == [20]


def test_another_stream_may_be_behind(tmp_path: Path) -> None:
    """A file that is read later, of last week: late is a matter of each stream."""
    rule = compile_one(tmp_path, COUNT)
    now = make_hits(*(("failed", 700_000.0 + at) for at in range(2)))
    old = make_hits(*(("failed", float(at)) for at in range(3)), source="old", first=9, lag=700_000)
    assert times(find(rule, [*now, *old], split=1)) == [2]


def test_a_time_from_the_future_makes_nothing_late(tmp_path: Path) -> None:
    rule = compile_one(tmp_path, COUNT)
    forged = make_hits(("failed", 0))[0]
    event = msgspec.structs.replace(forged.event, time=T0 + 1e9, id="f" * 32)
    odd = msgspec.structs.replace(forged.event, time=math.nan, id="e" * 32)
    hits = [Hit(IDS["failed"], event, {}), Hit(IDS["failed"], odd, {})]
    assert times(find(rule, [*hits, *make_hits(("failed", 1), ("failed", 2))])) == [2]


def test_one_event_counts_once(tmp_path: Path) -> None:
    rule = compile_one(tmp_path, COUNT)
    (hit,) = make_hits(("failed", 0))
    assert find(rule, [hit] * 5, split=2) == []


# -- the referee -----------------------------------------------------------------------------------

SPAN = 10.0


def judge_all(rule: CorrelationRule, hits: Sequence[Hit]) -> list[float]:
    """The beginnings of all bursts, from all events at once, in the plainest way."""
    found: list[float] = []
    groups: dict[tuple[str, ...], list[tuple[float, str, int, str]]] = {}
    for hit in hits:
        for base, key in enumerate(rule.bases):
            if hit.rule == key:
                group = tuple(hit.values[name] for name in rule.group_by)
                row = (hit.event.time, hit.event.id, base, hit.values["v"])
                groups.setdefault(group, []).append(row)
    for rows in groups.values():
        rows.sort()
        before: float | None = None
        for place, (at, *_) in enumerate(rows):
            window = [row for row in rows[: place + 1] if at - row[0] <= rule.span]
            if judge_window(rule, window):
                if before is None or at - before > rule.span:
                    found.append(at)
                before = at
            else:
                before = None
    return sorted(found)


def judge_window(rule: CorrelationRule, rows: list[tuple[float, str, int, str]]) -> bool:
    condition = rule.condition
    values = [row[3] for row in rows]
    met = {row[2] for row in rows}
    if isinstance(condition, Expression):
        return judge_words(condition, met)
    numbers = [Fraction(value) for value in values]
    measures: dict[str, Any] = {
        "event_count": lambda: len(rows),
        "value_count": lambda: len({value.casefold() for value in values}),
        "temporal": lambda: len(met),
        "value_sum": lambda: sum(numbers),
        "value_avg": lambda: sum(numbers) / len(numbers),
        "value_median": lambda: statistics.median(numbers),
        "value_percentile": lambda: (
            statistics.quantiles(numbers, n=100, method="inclusive")[condition.percentile - 1]
            if len(numbers) > 1
            else numbers[0]
        ),
    }
    if rule.kind == "temporal_ordered":
        return any(
            all(a[0] <= b[0] for a, b in pairwise(chain))
            for chain in product(*([r for r in rows if r[2] == n] for n in range(len(rule.bases))))
        )
    return bool(OPERATORS[condition.operator][1](measures[rule.kind](), condition.number))


def judge_words(expression: Expression, met: set[int]) -> bool:
    if expression.kind == "rule":
        return expression.base in met
    parts = [judge_words(part, met) for part in expression.parts]
    return {"and": all(parts), "or": any(parts), "not": not parts[0]}[expression.kind]


def make_rule(folder: Path, kind: str, number: int) -> CorrelationRule:
    if kind in ("temporal", "temporal_ordered"):
        body = f"type: {kind}, rules: [failed, passed, third], group-by: [g], timespan: 10s"
    elif kind == "words":
        body = (
            "type: temporal, rules: [failed, passed, third], group-by: [g], timespan: 10s,"
            " condition: failed and (passed or not third)"
        )
    else:
        named = "" if kind == "event_count" else ", field: v"
        extra = ", percentile: 80" if kind == "value_percentile" else ""
        body = (
            f"type: {kind}, rules: [failed, passed, third], group-by: [g], timespan: 10s,"
            f" condition: {{gte: {number}{named}{extra}}}"
        )
    return compile_one(folder, body)


KINDS = (
    "event_count", "value_count", "temporal", "temporal_ordered", "words", "value_sum",
    "value_avg", "value_median", "value_percentile",
)  # fmt: skip


@pytest.fixture(scope="module")
def rules_by_kind(tmp_path_factory: pytest.TempPathFactory) -> dict[str, CorrelationRule]:
    folder = tmp_path_factory.mktemp("rules")
    return {kind: make_rule(folder, kind, 4) for kind in KINDS}


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["failed", "passed", "third"]),
        st.floats(0, 60).map(lambda number: round(number * 2) / 2),
        st.fixed_dictionaries({"g": st.sampled_from("ab"), "v": st.sampled_from("123456")}),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(rows=ROWS, split=st.integers(1, 12), kind=st.sampled_from(KINDS))
def test_in_order_as_the_referee(
    rules_by_kind: dict[str, CorrelationRule],
    rows: list[tuple[str, float, dict[str, str]]],
    split: int,
    kind: str,
) -> None:
    """Whatever the batches, with a rollback and a restart between them."""
    rule = rules_by_kind[kind]
    hits = sorted(make_hits(*rows), key=lambda hit: (hit.event.time, hit.event.id))
    expected = judge_all(rule, hits)
    assert sorted(d.event.time for d in find(rule, hits, split=split)) == expected
    assert sorted(d.event.time for d in find(rule, hits, replay=True, split=split)) == expected


@settings(max_examples=150, deadline=None)
@given(rows=ROWS, split=st.integers(1, 12), kind=st.sampled_from(KINDS), seed=st.integers(0, 99))
def test_out_of_order_no_burst_is_missed_or_told_twice(
    rules_by_kind: dict[str, CorrelationRule],
    rows: list[tuple[str, float, dict[str, str]]],
    split: int,
    kind: str,
    seed: int,
) -> None:
    """In any order: in one batch the very same; in many, no finding comes twice, and no group with
    a burst is without one. (What was told as one burst may be parted by late events, or joined.)"""
    rule = rules_by_kind[kind]
    hits = make_hits(*rows)
    random.Random(seed).shuffle(hits)
    hits = [Hit(h.rule, msgspec.structs.replace(h.event, received=T0 + 99), h.values) for h in hits]
    whole = find(rule, hits)
    in_order = sorted(hits, key=lambda hit: (hit.event.time, hit.event.id))
    assert describe_all(whole) == describe_all(find(rule, in_order))
    assert len(whole) == len(judge_all(rule, hits))
    parts = find(rule, hits, split=split)
    keys = [detection.event.id for detection in parts]
    assert len(set(keys)) == len(keys)
    if kind in ("event_count", "value_count", "temporal", "temporal_ordered", "value_sum"):
        # More events never make these false again.
        assert {d.matched[0] for d in parts} == {d.matched[0] for d in whole}


def describe_all(found: Iterable[Detection]) -> list[tuple[str, tuple[Match, ...]]]:
    """Findings without their order: groups come in the order of their first hits."""
    return sorted(((d.event.id, d.matched) for d in found), key=str)


# -- kept, thrown away, capped ---------------------------------------------------------------------


class Kept:
    """A correlator over a store, with restarts."""

    def __init__(self, path: Path, rules: Sequence[CorrelationRule]) -> None:
        self.store = Store(path, durable=False)
        self.rules = rules
        self.correlator = self.open()

    def open(self) -> SigmaCorrelator:
        return SigmaCorrelator(self.rules, WindowLimits(), stored=self.store.windows())

    def put(self, hits: Sequence[Hit]) -> list[Detection]:
        found = self.correlator.advance(hits)
        batch = make_batch()
        batch.windows = self.correlator.changes()
        self.store.write_batch(batch)
        self.correlator.commit()
        return found

    def spoil(self, hits: Sequence[Hit]) -> None:
        """Put hits in whose batch can't be stored."""
        self.correlator.advance(hits)
        self.correlator.changes()
        self.correlator.rollback()


def describe(correlator: SigmaCorrelator) -> list[Any]:
    """All state, comparable."""
    return [
        (key, name, group.head.number, group.head.touched, dict(group.head.marks),
         list(group.entities.items()), group.events)
        for key, state in correlator._states.items()
        for name, group in state.groups.items()
    ]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, split=st.integers(1, 9), kind=st.sampled_from(KINDS), seed=st.integers(0, 99))
def test_restart_and_rollback_change_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    rules_by_kind: dict[str, CorrelationRule],
    rows: list[tuple[str, float, dict[str, str]]],
    split: int,
    kind: str,
    seed: int,
) -> None:
    rule = rules_by_kind[kind]
    hits = make_hits(*rows)
    rng = random.Random(seed)
    if seed % 2:
        hits.sort(key=lambda hit: (hit.event.time, hit.event.id))
    expected = find(rule, hits, split=split)
    kept = Kept(tmp_path_factory.mktemp("store") / "s.db", [rule])
    found: list[Detection] = []
    for start in range(0, len(hits), split):
        if rng.random() < 0.5:
            before = msgspec.msgpack.encode([str(row) for row in describe(kept.correlator)])
            kept.spoil(rng.sample(hits, min(len(hits), 5)))
            assert before == msgspec.msgpack.encode([str(r) for r in describe(kept.correlator)])
        found += kept.put(hits[start : start + split])
        if rng.random() < 0.5:
            state = describe(kept.correlator)
            kept.correlator = kept.open()
            assert [str(row[2:]) for row in sorted(describe(kept.correlator), key=str)] == [
                str(row[2:]) for row in sorted(state, key=str)
            ]
    kept.store.close()
    assert [d.event.id for d in found] == [d.event.id for d in expected]


def test_only_what_changed_is_written(tmp_path: Path) -> None:
    rule = compile_one(tmp_path, COUNT + ", group-by: [user]")
    correlator = SigmaCorrelator([rule], WindowLimits())
    correlator.advance(make_hits(*(("failed", n, {"user": f"u{n}"}) for n in range(100))))
    correlator.commit()
    correlator.advance(make_hits(("failed", 200, {"user": "u7"}), first=500))
    change = correlator.changes()
    assert list(change.groups) == [8]
    assert [event.time - T0 for _, event in change.events] == [200]
    assert change.gone == []
    correlator.commit()
    assert correlator.changes().groups == {}
    correlator.advance(make_hits(("failed", 2000, {"user": "u7"}), first=501))
    assert len(correlator.changes().gone) == 2


def test_groups_over_the_cap_go_oldest_first_and_are_counted(tmp_path: Path) -> None:
    rule = compile_one(tmp_path, COUNT + ", group-by: [user]")
    correlator = SigmaCorrelator([rule], WindowLimits(groups=3))
    for n, user in enumerate(("a", "b", "c", "a", "d")):
        correlator.advance(make_hits(("failed", n, {"user": user}), first=n + 1))
        correlator.commit()
    assert correlator.counts["evicted_groups"] == 1
    assert correlator.describe()["correlation_groups"] == {"depth": 3, "cap": 3, "dropped": 1}
    assert correlator.advance(make_hits(("failed", 9, {"user": "a"}), first=20))
    assert not correlator.advance(make_hits(("failed", 10, {"user": "b"}), first=21))


def test_events_over_the_cap_go_oldest_first_and_are_counted(tmp_path: Path) -> None:
    rule = compile_one(tmp_path, COUNT + ", group-by: [user]")
    kept = Kept(tmp_path / "s.db", [rule])
    kept.correlator = SigmaCorrelator([rule], WindowLimits(events=5))
    for n in range(20):
        kept.put(make_hits(("failed", n, {"user": "a"}), first=n + 1))
    assert (kept.correlator.events, kept.correlator.counts["evicted_events"]) == (5, 15)
    ((_, events),) = kept.store.windows()
    assert [event.time - T0 for event in events] == [15, 16, 17, 18, 19]
    kept.put(make_hits(("failed", 21, {"user": "b"}), first=50))
    assert kept.correlator.counts["evicted_groups"] == 1
    kept.store.close()


def test_groups_that_nothing_can_join_are_let_go(tmp_path: Path) -> None:
    rule = compile_one(tmp_path, COUNT + ", group-by: [user]")
    kept = Kept(tmp_path / "s.db", [rule])
    kept.put(make_hits(("failed", 0, {"user": "a"})))
    kept.put(make_hits(("failed", 1000, {"user": "b"}), first=2))
    assert [head.values for head, _ in kept.store.windows()] == [("b",)]
    assert kept.correlator.counts["evicted_groups"] == 0
    kept.store.close()


def test_state_of_a_rule_that_changed_is_forgotten(tmp_path: Path) -> None:
    one = compile_one(tmp_path, COUNT)
    kept = Kept(tmp_path / "s.db", [one])
    kept.put(make_hits(("failed", 0), ("failed", 1)))
    kept.store.keep_windows({one.info.hash})
    assert len(kept.store.windows()[0][1]) == 2
    other = compile_one(tmp_path, COUNT.replace("3", "4"))
    kept.store.keep_windows({other.info.hash})
    assert kept.store.windows() == []
    kept.store.close()


def test_a_group_that_went_and_came_again_is_restored(tmp_path: Path) -> None:
    rule = compile_one(tmp_path, COUNT + ", group-by: [user]")
    correlator = SigmaCorrelator([rule], WindowLimits(groups=1))
    correlator.advance(make_hits(("failed", 0, {"user": "a"}), ("failed", 1, {"user": "a"})))
    correlator.commit()
    before = str(describe(correlator))
    for number, user in enumerate("bcab", 5):
        correlator.advance(make_hits(("failed", number, {"user": user}), first=number))
    correlator.rollback()
    assert str(describe(correlator)) == before
    assert (correlator.groups, correlator.events) == (1, 2)


def test_names_that_are_no_utf8_are_stored(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "s.db", [compile_one(tmp_path, COUNT)])
    (hit,) = make_hits(("failed", 0))
    record = msgspec.structs.replace(hit.event.record, logical="\udcff\udcfe.log", path="\udcff")
    event = msgspec.structs.replace(hit.event, record=record)
    kept.put([Hit(hit.rule, event, {})])
    assert len(kept.store.windows()) == 1
    kept.store.close()


def test_a_flood_in_one_group_from_two_streams_is_judged_in_time(tmp_path: Path) -> None:
    """One stream two seconds behind the other: every batch has late events."""
    body = "type: value_count, rules: [failed], timespan: 1h, condition: {gte: 100, field: v}"
    rule = compile_one(tmp_path, body)
    hits = []
    for number in range(20_000):
        (hit,) = make_hits(
            ("failed", number * 0.05 - 2.0 * (number % 2), {"v": str(number % 500)}),
            source=f"s{number % 2}", first=number,
        )  # fmt: skip
        hits.append(hit)
    began = time.monotonic()
    assert len(find(rule, hits, split=1000)) == 1
    assert time.monotonic() - began < 20


# -- from detections -------------------------------------------------------------------------------


def test_a_hit_carries_what_is_wanted_and_no_more() -> None:
    event = make_event(1, T0, "h:web")
    fields = {"user": "eve\ud800", "list": ["a", 2, None], "none": None, "long": "x" * 5000}
    view = View(LogSource(product="windows"), fields)
    event = msgspec.structs.replace(event, views=(View(LogSource("linux"), {}), view))
    hit = make_hit(make_detection(event), Watch(("user", "list", "none", "gone", "long"), True))
    assert hit.values["user"] == "eve\\ud800"
    assert hit.values["list"] == "a, 2"
    assert set(hit.values) == {"user", "list", "long"}
    assert len(hit.values["long"]) == 512
    assert (hit.event.record.data, hit.event.record.truncated) == (b"", len(event.record.data))
    assert hit.event.views == (View(LogSource(product="windows"), {}),)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(hit), type=Hit) == hit


def test_of_two_views_the_one_that_matched_gives_the_fields() -> None:
    source = LogSource(product="windows")
    views = tuple(View(source, {"path": path, "user": path[-1]}) for path in ("/a", "/b"))
    event = msgspec.structs.replace(make_event(1, T0), views=views)
    found = msgspec.structs.replace(make_detection(event), matched=(Match("path", "/b", "*b"),))
    assert make_hit(found, Watch(("user",), False)).values == {"user": "b"}


def test_entities_are_those_of_the_window(tmp_path: Path) -> None:
    rule = compile_one(tmp_path, COUNT)
    hits = make_hits(("failed", -500), ("failed", 0), ("failed", 1), ("failed", 2))
    named = []
    for number, hit in enumerate(hits):
        entities = make_entities(f"u:user{number} h:web")
        event = msgspec.structs.replace(hit.event, entities=entities)
        named.append(Hit(hit.rule, event, {}))
    (found,) = find(rule, named)
    assert [entity.value for entity in found.event.entities] == ["user3", "web", "user1", "user2"]


def test_thresholds_say_what_they_are() -> None:
    assert Threshold("gte", 10).describe() == ">= 10"
    assert set(OPERATORS) == {"gt", "gte", "lt", "lte", "eq", "neq"}
