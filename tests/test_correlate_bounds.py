"""Incidents at their bounds: late findings, folds of many keys, bursts, and tables that grow."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.correlate.gathering import Gathering
from appliance.correlate.incidents import (
    FOLD_KEYS,
    MOST_SPANS,
    CorrelationLimits,
    Correlator,
    Sign,
    Stored,
    read_sign,
)
from appliance.correlate.layered import Layered
from appliance.schema import Entity, FoldState, Level, Span
from appliance.store import Store, StoreLimits
from appliance.store.database import FOLD_SECONDS
from tests.builders import T0, make_batch, make_finding, make_incident
from tests.test_correlate import Line
from tests.test_correlate_usual import learn

START = T0 - T0 % 3600
LEVELS: tuple[Level, ...] = ("low", "medium", "low", "informational", "high")


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path / "store.db", CorrelationLimits())


# -- order -----------------------------------------------------------------------------------------


def make_sign(number: int, time: float, host: str, rule: str, entities: list[Entity]) -> Sign:
    level = LEVELS[sum(rule.encode()) % len(LEVELS)]
    return Sign(f"{number:032x}", time, host, "sigma", rule, rule, level, (), (), tuple(entities))


def draw_entities(chance: random.Random, host: str) -> list[Entity]:
    found = [Entity("host", host)]
    if chance.random() < 0.4:
        found.append(Entity("process", f"{host}|{chance.randrange(12)}"))
    if chance.random() < 0.4:
        found.append(Entity("user", f"u{chance.randrange(4)}"))
    if chance.random() < 0.3:
        found.append(Entity("address", f"10.0.0.{chance.randrange(5)}"))
    return found


def draw_findings(chance: random.Random) -> list[Sign]:
    """Three days: what fires each hour, what fires now and then, crowds, bursts, rare moments."""
    hosts = [f"h{n}" for n in range(chance.choice((1, 2, 4, 9)))]
    times: list[tuple[float, str, str, bool]] = []
    host = chance.choice(hosts)
    times += [(n * 3600 + chance.random() * 3600, host, "r1", True) for n in range(72)]
    for _ in range(chance.randrange(60)):
        times.append((chance.random() * 259200, chance.choice(hosts), f"r{n_of(chance, 8)}", True))
    for _ in range(chance.randrange(4)):
        at, host, rule = chance.random() * 259200, chance.choice(hosts), f"r{n_of(chance, 8)}"
        wide = chance.choice((100, 600, 1800))
        for _ in range(chance.randrange(8, 40)):
            times.append((at + chance.random() * wide, host, rule, chance.random() < 0.7))
    for _ in range(chance.randrange(1, 4)):
        at = 259200 * chance.choice((0.5, 0.8, 0.95))
        for n in range(chance.randrange(3, 12)):
            step = chance.choice((115, 121, 125, 130))
            times.append((at + n * step, chance.choice(hosts), f"m{n_of(chance, 40)}", False))
    return [
        make_sign(number, START + at, host, rule, draw_entities(chance, host) if full else [])
        for number, (at, host, rule, full) in enumerate(times)
    ]


def n_of(chance: random.Random, most: int) -> int:
    return chance.randrange(most)


def group(order: list[Sign], chance: random.Random) -> set[frozenset[str]]:
    """The findings of each incident, joined in this order, in batches, some of them twice."""
    correlator = Correlator(CorrelationLimits(span=1e9))
    fold_of: dict[str, str] = {}
    home_of: dict[str, str] = {}
    merged: dict[str, str] = {}
    while order:
        size = chance.randrange(1, 30)
        batch, order = order[:size], order[size:]
        if chance.random() < 0.2:
            for sign in batch:
                correlator.join(sign)
            correlator.changes()
            correlator.rollback()
        for sign in batch:
            correlator.join(sign)
        change = correlator.changes()
        correlator.commit()
        fold_of.update(change.folded)
        home_of.update({key: fold.incident for key, fold in change.folds.items()})
        merged.update(change.merged)
    groups: dict[str, set[str]] = {}
    for finding, fold in fold_of.items():
        home = home_of[fold]
        while home in merged:
            home = merged[home]
        groups.setdefault(home, set()).add(finding)
    return {frozenset(members) for members in groups.values()}


@pytest.mark.parametrize("seed", range(60))
def test_ten_minutes_late_is_not_too_late(seed: int) -> None:
    chance = random.Random(seed)
    signs = sorted(draw_findings(chance), key=lambda sign: (sign.time, sign.id))
    late = {sign.id: sign.time + 600 * chance.random() for sign in signs}
    shuffled = sorted(signs, key=lambda sign: late[sign.id])
    assert group(shuffled, chance) == group(signs, chance)


def test_a_moment_is_known_for_as_long_as_something_may_come_late(line: Line) -> None:
    end = learn(line, 40) + 3000
    times = (0, 240, 370, 500, 630, 110)  # the last one belongs to the first
    found = [
        make_finding(n, end + at, f"h:ws{n}", rule=f"rare{n}", level="low")
        for n, at in enumerate(times)
    ]
    for finding in found:
        line.put(finding)
    homes = [line.homes()[finding.id] for finding in found]
    assert homes[0] == homes[5]
    assert len(set(homes)) == 5


def test_a_key_has_a_cap_of_spans(line: Line) -> None:
    line.limits = CorrelationLimits(window=1.0)
    line.restart()
    line.put(*(make_finding(n, T0 + 10 * n, "h:a", rule=f"r{n}") for n in range(40)))
    assert len(line.store.links()["host:a"]) == MOST_SPANS


# -- how much is looked at -------------------------------------------------------------------------


def count_calls(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> list[int]:
    calls = [0]
    inner: Callable[..., Any] = getattr(owner, name)

    def counted(*args: Any, **named: Any) -> Any:
        calls[0] += 1
        return inner(*args, **named)

    monkeypatch.setattr(owner, name, counted)
    return calls


def test_a_scan_of_many_addresses_is_no_square(monkeypatch: pytest.MonkeyPatch) -> None:
    correlator = Correlator(CorrelationLimits())
    calls = count_calls(monkeypatch, Correlator, "_stretch")
    for number in range(1500):
        address = f"10.0.{number // 250}.{number % 250}"
        finding = make_finding(number, T0, f"h:a u:eve a:{address}", level="medium")
        correlator.join(read_sign(finding))
    assert calls[0] <= 1500 * 5
    change = correlator.changes()
    (fold,) = change.folds.values()
    assert fold.count == 1500
    assert len(fold.keys) == FOLD_KEYS
    assert len(change.incidents) == 1


def test_a_burst_of_many_actors_is_no_square(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    end = learn(line, 40) + 3600
    calls = count_calls(monkeypatch, Layered, "get")
    flood = [
        make_finding(n, end + n / 10, f"h:web p:{n}", rule="noise", level="medium")
        for n in range(400)
    ]
    change = line.join(flood)
    assert {fold.state for fold in change.folds.values()} == {"loud"}
    assert calls[0] <= 400 * 40


def test_findings_of_a_fold_are_found_by_an_index(line: Line) -> None:
    asked: list[str] = []
    end = learn(line, 40) + 3600
    flood = [make_finding(n, end + n, "h:web", rule="noise", level="medium") for n in range(40)]
    line.put(*flood[:5])
    db = line.store._db
    db.set_trace_callback(asked.append)
    line.put(*flood[5:])  # leaves the routine
    with line.store.working(actor="anna", now=T0) as desk:
        home = line.homes()[flood[0].id]
        (state, *_) = desk.states(home)
        desk.rest_of(state.id, [], 10)
        desk.seal(home)
    db.set_trace_callback(None)
    told = [sql for sql in asked if "findings" in sql and "fold = " in sql]
    assert sum(sql.startswith("UPDATE") for sql in told) >= 2
    for sql in told:
        plan = " ".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}"))
        assert "SCAN findings" not in plan, sql


# -- what grows ------------------------------------------------------------------------------------


def test_folds_have_a_cap_and_go_with_their_findings(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db", durable=False, limits=StoreLimits(folds=5))
    correlator = Correlator(CorrelationLimits())
    for number in range(12):
        correlator.join(read_sign(make_finding(number, T0 + number, "h:a", rule=f"r{number}")))
    change = correlator.changes()
    newest = max(fold.last for fold in change.folds.values())
    store.write_batch(make_batch(change=change, latest={("source:x", "last_received"): T0}))
    assert store.sizes()["folds"] == 5
    assert store.counts()["store"]["folds_over_cap"] == 7
    (incident,) = change.incidents
    assert min(fold.last for fold in store.incident_folds(incident)) == newest - 4
    store.expire(newest + FOLD_SECONDS + 100)  # none of their findings is stored
    assert store.sizes()["folds"] == 0
    assert store.counts()["store"]["folds_expired"] == 5


def test_folds_stay_while_a_finding_does(line: Line) -> None:
    line.put(make_finding(1, T0, "h:a"))
    line.store.expire(T0 + 100 * FOLD_SECONDS)
    assert line.store.sizes()["folds"] == 1


def test_what_all_is_measured_by_is_not_forgotten() -> None:
    correlator = Correlator(CorrelationLimits(usuals=5))
    for number in range(50):
        correlator.join(read_sign(make_finding(number, T0 + number, "h:a", rule=f"r{number}")))
        correlator.evict()
        change = correlator.changes()
        assert change.usuals.get("site", ...) is not None
        correlator.commit()
    assert correlator.usuals <= 7
    assert correlator.forgotten >= 90


# -- what operators did ----------------------------------------------------------------------------


def test_what_was_split_stays_apart_after_both_were_merged() -> None:
    first, second = (make_incident(letter * 32, number=n) for n, letter in ((1, "c"), (2, "d")))
    first = msgspec.structs.replace(first, apart=("b" * 32,))
    second = msgspec.structs.replace(second, apart=("a" * 32,))
    stored = {one.id: one for one in (first, second)}
    correlator = Correlator(
        CorrelationLimits(),
        Stored(
            links={
                f"host:{host}": (Span(one.id, T0, T0),)
                for host, one in (("x", first), ("y", second))
            },
            aliases={"a" * 32: first.id, "b" * 32: second.id},
            load=stored.get,
            next_number=3,
        ),
    )
    assert correlator.join(read_sign(make_finding(1, T0, "h:x h:y"))) == first.id
    assert correlator.changes().merged == {}


def test_an_incident_that_began_anew_holds_no_less_than_nothing() -> None:
    correlator = Correlator(CorrelationLimits())
    for number in range(5):
        correlator.join(read_sign(make_finding(number, T0, "h:a")))
    (fold,) = correlator.changes().folds.values()
    assert isinstance(fold, FoldState)
    gathering = Gathering("aa" * 16, 1)
    gathering.add(fold, 1, T0, T0)
    gathering.take_out(fold)
    assert (gathering.count, gathering.parts) == (0, 0)
