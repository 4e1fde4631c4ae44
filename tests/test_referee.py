"""The referee: that it finds nothing where there is nothing, and that it can find something."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
import re2

from appliance.detect.sigma.index import Index
from appliance.detect.sigma.load import load_rules
from appliance.detect.sigma.patterns import compile_expression
from appliance.schema import Cursor, Detection, LogSource, RawRecord, Sighting, View
from tests.conftest import FindData
from tests.referee.__main__ import LEAST_SHARE, main
from tests.referee.compare import Referee, Tally
from tests.referee.expressions import make_expression
from tests.referee.pairs import compare_pairs
from tests.referee.sets import compare_set, load_all_rules

RULE = """\
title: A Word
id: 4b8c5b0e-6f5e-4b1c-9b51-0c5f6d0e7a10
logsource: {product: windows, category: process_creation}
detection: {s: {CommandLine|contains: marked}, condition: s}
level: high
"""
EVENT = {
    "Channel": "Microsoft-Windows-Sysmon/Operational",
    "EventID": 1,
    "CommandLine": "c:\\marked.exe",
}


@pytest.fixture
def broken_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that forgets one candidate of each view."""
    find = Index.find

    def forget(self: Index, fields: Mapping[str, Any]) -> int:
        found = find(self, fields)
        return found & (found - 1)

    monkeypatch.setattr(Index, "find", forget)


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A command line for a set of two events, one rule beside our own, and some pairs."""
    data, rules = tmp_path / "data", tmp_path / "rules"
    (data / "one").mkdir(parents=True)
    rules.mkdir()
    lines = [json.dumps(event) + "\n" for event in (EVENT, {**EVENT, "CommandLine": "x"})]
    (data / "one" / "log.json").write_text("".join(lines))
    (rules / "rule.yml").write_text(RULE)
    return ["--data", str(data), "--rules", str(rules), "--pairs", "300"]


def test_made_up_pairs_say_the_same() -> None:
    """Another seed than the command's own."""
    tally = compare_pairs(2000, 2)
    assert not tally.differences, tally.told
    assert tally.events == 2000
    assert tally.share > LEAST_SHARE
    assert tally.detections > tally.matched
    assert len(tally.modifiers) > 25


def test_one_seed_is_one_run() -> None:
    """All that is made and said is the same again, and with another seed it is not."""
    first, again, other = (compare_pairs(300, seed).digest for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_real_sets_say_the_same(shared_data: FindData, tmp_path: Path) -> None:
    """Some records of each set, with all public rules and our own; the command compares all."""
    referee = Referee(load_all_rules(shared_data("sigma")))
    detections = 0
    for name in ("windows", "linux", "network", "web", "dns", "ordinary"):
        tally = compare_set(referee, shared_data(name), tmp_path, 997)
        assert tally.events >= 10, name
        assert not tally.differences, tally.told
        detections += tally.detections
    assert detections > 10


@pytest.mark.usefixtures("broken_index")
def test_a_forgotten_candidate_is_found_in_pairs() -> None:
    """And told with the rule and the event."""
    tally = compare_pairs(300, 1)
    assert tally.differences > 10
    assert "is missed" in tally.told[0]
    assert '"detection": ' in tally.told[0]


def test_command_says_that_nothing_differs(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """One row a set, one line for the pairs."""
    assert main(words) == 0
    out = capsys.readouterr().out
    assert [line.split()[:4] for line in out.splitlines() if line.startswith("one ")] == [
        ["one", "1", "2", "2"]
    ]
    assert "300 pairs of seed 1" in out
    assert out.endswith("0 differences over 302 events\n")


@pytest.mark.usefixtures("broken_index")
def test_command_fails_and_names_event_and_rule(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A real event."""
    assert main(words) == 1
    out = capsys.readouterr().out
    assert "(log.json at 0): rule 4b8c5b0e-6f5e-4b1c-9b51-0c5f6d0e7a10 ('A Word') is missed" in out


def test_command_fails_on_what_says_nothing(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A set without an event, no set, no rule."""
    (tmp_path / "data" / "two").mkdir()
    (tmp_path / "data" / "two" / "empty.json").touch()
    assert main(words) == 2
    assert "the set two has no event" in capsys.readouterr().out
    (tmp_path / "none").mkdir()
    assert main(["--data", str(tmp_path / "none"), *words[2:]]) == 2
    assert main([*words[:3], str(tmp_path / "missing")]) == 2


RECORD = RawRecord(b"", "s", "p", "l", Cursor("s", "k", 0, 1), 0.0)


def compare_views(folder: Path, detection: str, *views: View) -> Tally:
    """What the referee says of one rule and one event."""
    rule = f"title: t\nlogsource: {{product: windows}}\ndetection: {detection}\n"
    (folder / "rule.yml").write_text(rule)
    referee = Referee(load_rules([folder], feeds=lambda logsource: None))
    tally = Tally()
    assert referee.compare(Sighting(0.0, 0.0, "h", views, RECORD, "json"), tally)
    return tally


@pytest.mark.parametrize(
    ("detection", "fields"),
    [
        (
            "{s: {'f|re': k}, n: {'g|startswith': kel}, condition: s and not n}",
            {"f": "kel", "g": "\xe9"},
        ),
        ('{s: {f: "*"}, n: {"g|startswith": "a\\n"}, condition: s and not n}', {"f": 1, "g": "a"}),
        ('{s: {f: "*"}, n: {"g|endswith": "\\na"}, condition: s and not n}', {"f": 1, "g": "a"}),
        ('{s: {f: "*"}, n: {"g|contains": "\\nabcd"}, condition: not n}', {"g": "abcd"}),
        ("{s: {'f|re': '(?-m)a$', g: b}, condition: s}", {"f": "a", "g": "b"}),
        ("{s: {'f|re': 'x|(?i-m:^a$)', g: b}, condition: s}", {"f": "a", "g": "b"}),
    ],
)
def test_what_it_once_found(tmp_path: Path, detection: str, fields: dict[str, Any]) -> None:
    """A value taken for another field's, a line's end for a value's, flags that unset what the
    index needs."""
    tally = compare_views(tmp_path, detection, View(LogSource("windows"), fields))
    assert not tally.differences, tally.told


def test_views_that_share_their_fields_around_another(tmp_path: Path) -> None:
    """The first view that matches is the place, also when an earlier one shares its fields."""
    shared = {"f": "x"}
    views = (
        View(LogSource("linux"), shared),
        View(LogSource("windows"), {"f": "x", "g": "y"}),
        View(LogSource("windows", None, "s"), shared),
    )
    tally = compare_views(tmp_path, "{s: {f: x}, condition: s}", *views)
    assert not tally.differences, tally.told


def twist_evidence(found: list[Detection]) -> list[Detection]:
    """The same rules, but one kept nothing."""
    return [msgspec.structs.replace(found[0], matched=()), *found[1:]]


def twist_place(found: list[Detection]) -> list[Detection]:
    """The same rules, but one on another view."""
    return [*found[:-1], msgspec.structs.replace(found[-1], logsource=LogSource())]


def twist_order(found: list[Detection]) -> list[Detection]:
    """The same rules the other way round."""
    return found[::-1]


@pytest.mark.parametrize("twist", [twist_evidence, twist_place, twist_order])
def test_each_kind_of_difference_counts(
    twist: Callable[[list[Detection]], list[Detection]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not ids alone."""
    second = RULE.replace("7a10", "7a11").replace("marked", "marked.exe")
    (tmp_path / "rules.yml").write_text(f"{RULE}---\n{second}")
    referee = Referee(load_rules([tmp_path], feeds=lambda logsource: None))
    view = View(LogSource("windows", "process_creation"), EVENT)
    sighting = Sighting(0.0, 0.0, "h", (view,), RECORD, "json")
    before, tally = Tally(), Tally()
    assert len(referee.compare(sighting, before)) == 2
    referee.compare_ledgers(before)
    assert not before.differences
    monkeypatch.setattr(referee.fast, "detect", lambda seen: twist(referee.plain.detect(seen)))
    referee.compare(sighting, tally)
    after = Tally()
    referee.compare_ledgers(after)
    assert (tally.differences, after.differences) == (1, 2)  # the ledger of either rule


def test_expressions_are_found_in_their_samples() -> None:
    """Most of those that RE2 takes."""
    random = Random(1)
    found = tried = 0
    for _ in range(400):
        text, samples = make_expression(random)
        try:
            expression = compile_expression(text)
        except re2.error:
            continue
        tried += 1
        found += any(expression.search(sample.encode("utf-8")) for sample in samples)
    assert tried > 300
    assert found > tried * 0.7
