"""The Sigma detector: which rules see which views, its ledger, and its doorway for faults."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from appliance.detect.sigma import engine
from appliance.detect.sigma.engine import SigmaDetector
from appliance.detect.sigma.load import RuleSet, covers, load_rules
from appliance.detect.sigma.match import CompiledRule, Evidence, Node
from appliance.detect.sigma.values import ViewValues
from appliance.schema import Cursor, LogSource, Match, RawRecord, RuleInfo, Sighting, View

SYSMON = LogSource("windows", None, "sysmon")
CREATION = LogSource("windows", "process_creation", None)
RECORD = RawRecord(b"{}", "s", "p", "l", Cursor("s", "k", 0, 1), 0.0)


def make_event(*views: tuple[LogSource, Mapping[str, Any]]) -> Sighting:
    """An event with these views."""
    return Sighting(
        0.0, 0.0, "h", tuple(View(source, dict(f)) for source, f in views), RECORD, "json"
    )


def make_detector(folder: Path, *rules: tuple[str, str, str]) -> SigmaDetector:
    """A detector of (title, logsource, detection) rules in YAML flow style."""
    for title, logsource, detection in rules:
        text = f"title: {title}\nlevel: low\ntags: [attack.execution, attack.t1059]\n"
        text += f"logsource: {logsource}\ndetection: {detection}\n"
        (folder / f"{title}.yml").write_text(text)
    return SigmaDetector(load_rules([folder], feeds=lambda logsource: None))


def titles(detector: SigmaDetector, event: Sighting) -> list[str]:
    """The titles of the rules that fire."""
    return [detection.title for detection in detector.detect(event)]


def test_rules_see_views_of_their_logsource(tmp_path: Path) -> None:
    """Each part that the rule states must be the view's; parts it leaves out do not matter."""
    any_f = "{s: {f: '*'}, condition: s}"
    detector = make_detector(
        tmp_path,
        ("r1", "{product: windows}", any_f),
        ("r2", "{category: process_creation}", any_f),
        ("r3", "{product: windows, category: process_creation}", any_f),
        ("r4", "{product: windows, service: sysmon}", any_f),
        ("r5", "{product: linux, category: process_creation}", any_f),
        ("r6", "{product: windows, category: process_creation, service: sysmon}", any_f),
    )
    assert titles(detector, make_event((SYSMON, {"f": 1}))) == ["r1", "r4"]
    assert titles(detector, make_event((CREATION, {"f": 1}))) == ["r1", "r2", "r3"]
    assert titles(detector, make_event((LogSource(), {"f": 1}))) == []
    assert titles(detector, make_event((LogSource("windows"), {"g": 1}))) == []
    assert titles(detector, make_event()) == []


def test_detection_is_filled(tmp_path: Path) -> None:
    """A detection carries the rule's words, the view that matched and the evidence."""
    detector = make_detector(tmp_path, ("t", "{product: windows}", "{s: {f: x*}, condition: s}"))
    event = make_event((SYSMON, {"f": "no"}), (CREATION, {"f": "Xyz"}))
    (detection,) = detector.detect(event)
    (info,) = detector.rules.values()
    assert detection.detector == "sigma"
    assert (detection.rule_id, detection.title, detection.level) == (info.id, "t", "low")
    assert (detection.techniques, detection.tactics) == (("T1059",), ("execution",))
    assert detection.event is event.event
    assert detection.logsource == CREATION
    assert detection.matched == (Match("f", "Xyz", "x*"),)
    assert detection.score == 1.0


def test_a_rule_fires_once_an_event_on_its_first_view(tmp_path: Path) -> None:
    """Several views of one event are one event, in the ledger too."""
    detector = make_detector(tmp_path, ("t", "{product: windows}", "{s: {f: x}, condition: s}"))
    (detection,) = detector.detect(make_event((SYSMON, {"f": "x"}), (CREATION, {"f": "x"})))
    assert detection.logsource == SYSMON
    assert list(detector.counts().values()) == [{"evaluated": 1, "fired": 1, "errors": 0}]


def test_views_do_not_mix(tmp_path: Path) -> None:
    """A rule must be met by one view: fields of two views are not joined."""
    text = "{s: {f: x, g: y}, condition: s}"
    detector = make_detector(tmp_path, ("t", "{product: windows}", text))
    assert titles(detector, make_event((SYSMON, {"f": "x"}), (CREATION, {"g": "y"}))) == []


def test_ledger_counts_events_evaluated_and_fired(tmp_path: Path) -> None:
    """A rule whose logsource never came shows as evaluated 0."""
    text = "{s: {f: x}, condition: s}"
    detector = make_detector(
        tmp_path, ("w", "{product: windows}", text), ("l", "{product: linux}", text)
    )
    for value in ("x", "y", "x"):
        detector.detect(make_event((CREATION, {"f": value})))
    detector.detect(make_event((SYSMON, {})))
    by_title = {detector.rules[rule_id].title: c for rule_id, c in detector.counts().items()}
    assert by_title == {
        "l": {"evaluated": 0, "fired": 0, "errors": 0},
        "w": {"evaluated": 4, "fired": 2, "errors": 0},
    }


def test_logsources_of_hostile_logs_are_capped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forgotten plans keep their counts."""
    monkeypatch.setattr(engine, "MAX_PLANS", 3)
    detector = make_detector(tmp_path, ("t", "{product: linux}", "{s: {f: x}, condition: s}"))
    for i in range(10):
        detector.detect(make_event((LogSource("linux", None, f"made-up-{i}"), {"f": "x"})))
        assert len(detector._plans) <= 3
    assert list(detector.counts().values()) == [{"evaluated": 10, "fired": 10, "errors": 0}]


class Faulty(Node):
    """A node with a fault of its own."""

    def match(self, view: ViewValues) -> Evidence | None:
        """Always raises."""
        raise ZeroDivisionError("a fault")

    def describe(self) -> str:
        """Its name."""
        return "faulty"


def test_a_faulty_rule_is_counted_and_the_others_go_on(tmp_path: Path) -> None:
    """The line never stops because of one rule."""
    good = make_detector(tmp_path, ("t", "{product: windows}", "{s: {f: x}, condition: s}"))
    info = RuleInfo("bad", "bad", "", "low", (), (), LogSource("windows"), "p", 1, "h")
    rules = (CompiledRule(info, Faulty()), *good._rule_set.rules)
    detector = SigmaDetector(RuleSet(rules, (), (), 0, 0, ()))
    for _ in range(3):
        assert titles(detector, make_event((CREATION, {"f": "x"}))) == ["t"]
    assert detector.errors["bad"].count == 3
    assert "a fault" in detector.errors["bad"].reason
    assert detector.counts()["bad"] == {"evaluated": 3, "fired": 0, "errors": 3}


def test_event_is_not_changed(tmp_path: Path) -> None:
    """Detecting leaves the fields alone."""
    detector = make_detector(tmp_path, ("t", "{product: windows}", "{s: [X], condition: s}"))
    fields = {"f": ["X", {"a": ["x"]}]}
    event = make_event((CREATION, fields))
    assert titles(detector, event) == ["t"]
    assert event.views[0].fields == {"f": ["X", {"a": ["x"]}]}


@pytest.mark.parametrize(
    ("stated", "other", "expected"),
    [
        (LogSource("a"), LogSource("a", "b", "c"), True),
        (LogSource("a", "b"), LogSource("a", "b", "c"), True),
        (LogSource("a", None, "c"), LogSource("a", "b", "c"), True),
        (LogSource("a", "b"), LogSource("a"), False),
        (LogSource("a"), LogSource("A"), False),
    ],
)
def test_covers(stated: LogSource, other: LogSource, expected: bool) -> None:
    """A logsource covers those that say at least the same."""
    assert covers(stated, other) is expected
