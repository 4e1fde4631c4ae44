"""Suppressions: what a scope covers, which are refused, and when one holds."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.errors import UsageError
from appliance.pipeline import NoOverrides, Work, join_work
from appliance.schema import Detection, Review
from appliance.store import Store
from appliance.suppression import (
    LONGEST,
    Scope,
    Suppression,
    Suppressions,
    check_scope,
    covers,
    describe_suppression,
    fits_address,
    fits_text,
    read_end,
    read_scope,
)
from tests.builders import T0, make_detection, make_event
from tests.test_pipeline import make_line


def make(entities: str = "h:web u:eve a:192.0.2.7 f:/opt/backup/run.sh", **more: Any) -> Detection:
    return make_detection(make_event(1, T0, entities, received=more.pop("received", T0)), **more)


def row(
    scope: Scope, *, until: float = T0 + 10, number: int = 1, ended: float = 0.0
) -> Suppression:
    return Suppression(number, scope, until, f"why {number}", "anna (uid 1)", T0 - 10, ended)


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("rule=r1", Scope(rule="r1")),
        ("rule=a,b,host=web", Scope(rule="a,b", host="web")),
        ("detector=suricata,address=10.0.0.0/8", Scope(detector="suricata", address="10.0.0.0/8")),
        ("rule=x=y,file=/a, b=c", Scope(rule="x=y", file="/a, b=c")),
        ("rule=r,user=DOM\\eve", Scope(rule="r", user="DOM\\eve")),
    ],
)
def test_scopes_are_read(text: str, scope: Scope) -> None:
    assert read_scope(text) == scope
    assert read_scope(scope.describe()) == scope


@pytest.mark.parametrize("text", ["", "rule", "rule=", "port=1", "rule=a,rule=b", "rule=a,host="])
def test_what_is_no_scope(text: str) -> None:
    with pytest.raises(UsageError, match="--scope"):
        read_scope(text)


@pytest.mark.parametrize(
    "scope",
    [
        Scope(),
        Scope(host="web"),
        Scope(detector="sigma"),
        Scope(rule="*"),
        Scope(rule="r*"),
        Scope(detector="*", host="web"),
        Scope(detector="sigma", host="*"),
        Scope(detector="sigma", user="a*"),
        Scope(rule="r1", file="**"),
        Scope(rule="r1", host="a*b*c*d*e*f"),
        Scope(detector="sigma", address="0.0.0.0/0"),
        Scope(detector="sigma", address="::/0"),
        Scope(detector="sigma", address="10.0.0.0/7"),
        Scope(rule="r1", address="web"),
        Scope(rule="x" * 513),
    ],
)
def test_scopes_that_are_too_broad_or_wrong(scope: Scope) -> None:
    with pytest.raises(UsageError, match="scope"):
        check_scope(scope)


@pytest.mark.parametrize(
    ("scope", "fits"),
    [
        (Scope(rule="r1"), True),
        (Scope(rule="r2"), False),
        (Scope(rule="r1", detector="sigma"), True),
        (Scope(rule="r1", detector="sentinel"), False),
        (Scope(rule="r1", host="WEB"), True),
        (Scope(rule="r1", host="we"), False),
        (Scope(rule="r1", host="w*"), True),
        (Scope(rule="r1", user="eve"), True),
        (Scope(rule="r1", user="bob"), False),
        (Scope(rule="r1", user="web"), False),
        (Scope(rule="r1", file="/opt/backup/*"), True),
        (Scope(rule="r1", file="/opt/*.sh"), True),
        (Scope(rule="r1", file="/srv/*"), False),
        (Scope(rule="r1", address="192.0.2.7"), True),
        (Scope(rule="r1", address="192.0.2.0/24"), True),
        (Scope(rule="r1", address="192.0.3.0/24"), False),
        (Scope(rule="r1", address="2001:db8::/32"), False),
        (Scope(detector="sigma", host="web", user="eve"), True),
        (Scope(detector="sigma", host="web", user="bob"), False),
    ],
)
def test_what_a_scope_covers(scope: Scope, fits: bool) -> None:
    check_scope(scope)
    assert covers(scope, make()) is fits


@pytest.mark.parametrize(
    ("pattern", "value", "fits"),
    [
        ("a*b", "ab", True),
        ("a*b", "aXb", True),
        ("aa*aa", "aaa", False),
        ("*x*", "axb", True),
        ("*x*", "ab", False),
        ("a*b*c", "aXbXc", True),
        ("a*b*c", "acb", False),
        ("a*bc*c", "abc", False),
        ("a.c", "abc", False),
        ("[ab]", "a", False),
        ("Ä*", "äh", True),
        ("*" , "", True),
    ],
)  # fmt: skip
def test_stars(pattern: str, value: str, fits: bool) -> None:
    assert fits_text(pattern, value) is fits


def test_a_hostile_value_ends_quickly() -> None:
    assert not fits_text("a*a*a*a*b", "a" * 1_000_000)
    assert not fits_address("10.0.0.0/8", "1" * 100_000)
    assert not fits_address("10.0.0.0/8", "web")


def test_all_and_each_suppression_is_asked() -> None:
    mine = Suppressions(
        NoOverrides(), [row(Scope(rule="r1", host="db")), row(Scope(rule="r1"), number=2)]
    )
    review = mine.review(make())
    assert review is not None
    assert review.suppressed == "why 2"
    assert mine.review(make(rule="r9")) == Review(make(rule="r9"))
    mine.replace([row(Scope(detector="sigma", user="eve"), number=3)])
    assert mine.review(make(rule="r9")).suppressed == "why 3"  # type: ignore[union-attr]
    mine.replace([])
    assert mine.review(make()).suppressed == ""  # type: ignore[union-attr]


def test_a_sensor_s_rules_are_counted_together_where_none_was_named(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db", durable=False)
    line = make_line(store)
    line.overrides = Suppressions(
        NoOverrides(), [row(Scope(detector="ids", host="web")), row(Scope(rule="ids:named"))]
    )
    found = [
        msgspec.structs.replace(make(rule=rule), detector="ids")
        for rule in ("ids:named", *(f"ids:{n}" for n in range(20)))
    ]
    batch = join_work([Work(found, [], [], {}, {})], line)
    assert all(finding.suppressed for finding in batch.findings)
    told = {scope: n for (scope, name), n in batch.counts.items() if name == "suppressed"}
    assert told == {"rule:ids:named": 1, "rule:ids:*": 20}
    store.close()


def test_it_holds_by_when_the_record_came_in() -> None:
    mine = Suppressions(NoOverrides(), [row(Scope(rule="r1"), until=T0 + 10)])
    for received, held in ((T0 - 1e6, True), (T0 + 9.9, True), (T0 + 10, False), (T0 + 11, False)):
        review = mine.review(make(received=received))
        assert review is not None
        assert bool(review.suppressed) is held
    ended = Suppressions(NoOverrides(), [row(Scope(rule="r1"), ended=T0)])
    assert ended.review(make()).suppressed == ""  # type: ignore[union-attr]


def test_the_file_of_overrides_speaks_first() -> None:
    class Own:
        def __init__(self, said: Review | None) -> None:
            self.said = said

        def review(self, detection: Detection) -> Review | None:
            return self.said

    rows = [row(Scope(rule="r1"))]
    off = Suppressions(Own(None), rows)
    assert off.review(make()) is None
    first = Review(make(), suppressed="ticket 1")
    assert Suppressions(Own(first), rows).review(make()) == first
    lowered = Review(msgspec.structs.replace(make(), level="low"), own_level="high")
    said = Suppressions(Own(lowered), rows).review(make())
    assert said is not None
    assert (said.own_level, said.suppressed) == ("high", "why 1")


def test_a_fault_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bool:
        raise RuntimeError

    monkeypatch.setattr("appliance.suppression.covers", fail)
    assert Suppressions(NoOverrides(), [row(Scope(rule="r1"))]).review(make()) == Review(make())


def test_ends() -> None:
    now = 1_795_392_000.0  # 2026-11-23T00:00Z
    assert read_end("7d", now) == now + 7 * 86400
    assert read_end("12h", now) == now + 43200
    assert read_end("2026-11-23", now) == now + 86400  # to the end of that day
    assert read_end("2026-11-23T18:00", now) == now + 64800
    assert read_end("2026-11-23T18:00+02:00", now) == now + 57600
    for text in ("", "soon", "7", "7y", "2026-13-01", "9999-12-31", "-1d", "\u0667d"):
        with pytest.raises(UsageError):
            read_end(text, now)
    for text, said in (("2026-11-22", "past"), ("0h", "past"), ("367d", "more than a year")):
        with pytest.raises(UsageError, match=said):
            read_end(text, now)
    assert LONGEST > 365 * 86400


def test_as_json() -> None:
    told = describe_suppression(row(Scope(rule="r1", host="web")), 4)
    assert (told["scope"], told["findings"], told["ended"]) == (
        {"rule": "r1", "host": "web"},
        4,
        None,
    )
