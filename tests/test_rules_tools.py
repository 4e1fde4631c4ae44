"""`rules coverage`, `rules scorecard` and `rules test --against`."""

import json
from pathlib import Path
from typing import Any

import pytest

from appliance.cli import main
from appliance.detect.sigma.load import load_rules
from appliance.detect.sigma.match import CompiledRule, match_rule
from appliance.detect.sigma.trace import MOST_PARTS, MOST_TEXT, Trace, trace_rule
from appliance.detect.sigma.values import ViewValues
from appliance.report.coverage import build_layer, sum_up_techniques
from appliance.store import Batch, Store
from tests.builders import T0, make_batch

HEAD = "title: t\nlogsource: {product: windows, category: process_creation}\n"


def compile_text(folder: Path, detection: str) -> CompiledRule:
    path = folder / "r.yml"
    path.write_text(HEAD + detection)
    (rule,) = load_rules([path], feeds=lambda _: None).rules
    return rule


DETECTION = """\
detection:
  tool:
    - Image|endswith: '\\whoami.exe'
    - {OriginalFileName: whoami.exe, Company: Microsoft}
  args: {CommandLine|contains|all: [/all, /fo, csv]}
  filter_admin: {User: admin}
  filter_none: {ParentImage: null}
  condition: tool and args and not 1 of filter_*
"""
FULL = {
    "Image": r"C:\whoami.exe",
    "CommandLine": "whoami /all /fo csv",
    "User": "eve",
    "ParentImage": "x",
}


def trace(folder: Path, fields: dict[str, Any]) -> Trace:
    rule = compile_text(folder, DETECTION)
    found = trace_rule(rule, ViewValues(fields))
    assert (match_rule(rule, fields) is None) is bool(found.failed)  # the matcher is the referee
    return found


def test_nothing_has_failed_where_the_rule_matches(tmp_path: Path) -> None:
    assert trace(tmp_path, FULL) == Trace(4, 4, ())


def test_each_test_that_failed_is_told_with_what_was_there(tmp_path: Path) -> None:
    found = trace(tmp_path, {**FULL, "CommandLine": "whoami /all"})
    assert (found.held, found.asked) == (2, 4)
    assert [part.part for part in found.failed] == ["CommandLine: */fo*", "CommandLine: *csv*"]
    assert found.failed[0].values == ("whoami /all",)


def test_an_absent_field_is_told_as_absent(tmp_path: Path) -> None:
    fields = {k: v for k, v in FULL.items() if k != "CommandLine"}
    found = trace(tmp_path, fields)
    assert {part.why for part in found.failed} == {"the event has no field CommandLine"}


def test_an_exclusion_is_told_with_what_it_holds(tmp_path: Path) -> None:
    found = trace(tmp_path, {**FULL, "User": "Admin"})
    (part,) = found.failed
    assert "excluded" in part.why
    assert part.values == ("User = Admin by admin",)
    assert (found.held, found.asked) == (4, 5)


def test_of_alternatives_the_nearest_is_told(tmp_path: Path) -> None:
    fields = {**FULL, "Image": "x.exe", "OriginalFileName": "whoami.exe"}
    found = trace(tmp_path, fields)
    assert [part.part for part in found.failed] == ["one of 2 alternatives", "Company: Microsoft"]
    assert (found.held, found.asked) == (4, 5)


def test_traces_are_bounded(tmp_path: Path) -> None:
    many = ", ".join(f"x{i}" for i in range(200))
    rule = compile_text(tmp_path, f"detection: {{s: {{f|contains|all: [{many}]}}, condition: s}}\n")
    found = trace_rule(rule, ViewValues({"f": "y" * 100_000 + "\ud800"}))
    assert len(found.failed) == MOST_PARTS
    assert all(len(v) < MOST_TEXT + 50 for part in found.failed for v in part.values)
    json.dumps([part.values for part in found.failed]).encode()


def sysmon(**fields: str) -> str:
    record = {
        "EventID": 1,
        "Channel": "Microsoft-Windows-Sysmon/Operational",
        "Computer": "web",
        "UtcTime": "2023-11-14 22:00:00.000",
        **fields,
    }
    return json.dumps(record) + "\n"


@pytest.fixture
def trial(tmp_path: Path) -> list[str]:
    (tmp_path / "r.yml").write_text(HEAD + DETECTION)
    lines = [
        sysmon(**{**FULL, "CommandLine": "whoami"}),
        sysmon(**FULL),
        sysmon(Image="x", User="eve"),
        sysmon(**{**FULL, "CommandLine": "whoami /all /fo"}),
        sysmon(**{**FULL, "User": "admin"}),
        '{"EventID": \n',
        json.dumps({"EventID": 4625, "Channel": "Security", "Computer": "web"}) + "\n",
    ]
    (tmp_path / "log.json").write_text("".join(lines))
    return ["rules", "test", str(tmp_path / "r.yml"), "--against", str(tmp_path / "log.json")]


def test_rules_are_tried_over_logs(trial: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*trial, "--json", "--near", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["events"], found["rejected"], found["refused"]) == (6, 1, [])
    (rule,) = found["rules"]
    assert (rule["events"], rule["fired"], len(rule["matches"])) == (5, 1, 1)
    # 4 of 5 hold with one exclusion in the way, 3 of 4 without a word; `whoami` alone is further.
    assert [(near["held"], near["asked"]) for near in rule["near_misses"]] == [(4, 5), (3, 4)]
    assert rule["near_misses"][1]["failed"][0]["part"] == "CommandLine: *csv*"


def test_the_trial_in_words(trial: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(trial) == 0
    said = capsys.readouterr().out
    assert "fired on 1 of 5 events of its log source" in said
    assert "failed: CommandLine: *csv*" in said
    assert "it has whoami /all /fo" in said
    assert "excluded: what it names holds" in said


def test_a_rule_that_never_fires_is_exit_1(
    tmp_path: Path, trial: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log.json").write_text(sysmon(Image="x"))
    assert main(trial) == 1
    (tmp_path / "log.json").write_text(
        json.dumps({"EventID": 4625, "Channel": "Security", "Computer": "web"}) + "\n"
    )
    capsys.readouterr()
    assert main(trial) == 1
    assert "no event has its log source" in capsys.readouterr().out
    assert main([*trial, "--input-format", "nope"]) == 2


def test_a_hostile_log_forges_no_line(
    tmp_path: Path, trial: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    value = "whoami /all /fo\n  fired: forged\x1b[31m" + "x" * 100_000
    (tmp_path / "log.json").write_text(sysmon(**{**FULL, "CommandLine": value}))
    assert main(trial) == 1
    said = capsys.readouterr().out
    assert "\n  fired: forged" not in said
    assert "\x1b" not in said
    assert len(said) < 20_000


# -- coverage and scorecard ------------------------------------------------------------------------

RULES = """\
title: Fired
id: 00000000-0000-4000-8000-000000000001
level: high
tags: [attack.t1033, attack.t1059.001]
logsource: {product: windows, category: process_creation}
detection: {s: {Image: a}, condition: s}
---
title: Silent
id: 00000000-0000-4000-8000-000000000002
tags: [attack.t1059.001, attack.t1003]
logsource: {product: windows, category: image_load}
detection: {s: {Image: a}, condition: s}
---
title: Unfed
id: 00000000-0000-4000-8000-000000000003
tags: [attack.t1003, attack.t1078, attack.t0816]
logsource: {product: nobody, service: nowhere}
detection: {s: {Image: a}, condition: s}
---
title: Untagged
id: 00000000-0000-4000-8000-000000000004
logsource: {product: windows, category: process_creation}
detection: {s: {Image: b}, condition: s}
"""


@pytest.fixture
def state(tmp_path: Path) -> list[str]:
    """A store in which the first rule has fired three of four findings."""
    (tmp_path / "r.yml").write_text(RULES)
    store = Store(tmp_path / "store.db", durable=False)
    batch: Batch = make_batch()
    first = "rule:00000000-0000-4000-8000-000000000001"
    batch.counts = {
        (first, "fired"): 3,
        (first, "suppressed"): 2,
        ("rule:sensors:*", "fired"): 1,
        ("logsource", "windows/process_creation/-"): 10,
    }
    batch.latest = {(first, "last_fired"): T0}
    store.write_batch(batch)
    store.close()
    return [str(tmp_path / "r.yml"), "--state", str(tmp_path)]


def test_coverage(state: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", "coverage", *state, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["stored"] is True
    assert found["techniques"] == {
        "T0816": {"fed": 0, "unfed": 1, "fired": 0, "state": "unfed"},
        "T1003": {"fed": 1, "unfed": 1, "fired": 0, "state": "fed"},
        "T1033": {"fed": 1, "unfed": 0, "fired": 3, "state": "fired"},
        "T1059.001": {"fed": 2, "unfed": 0, "fired": 3, "state": "fired"},
        "T1078": {"fed": 0, "unfed": 1, "fired": 0, "state": "unfed"},
    }
    assert main(["rules", "coverage", *state]) == 0
    said = capsys.readouterr().out
    assert "5 techniques: 2 fired, 1 fed, 2 unfed; 1 of 4 rules name none" in said


def test_coverage_as_a_layer(
    tmp_path: Path, state: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "layer.json"
    assert main(["rules", "coverage", *state, "-o", str(path)]) == 0
    layer = json.loads(path.read_text())
    assert (layer["domain"], layer["versions"]["layer"]) == ("enterprise-attack", "4.5")
    colours = {row["techniqueID"]: row["color"] for row in layer["techniques"]}
    assert colours.keys() == {"T1003", "T1033", "T1059.001", "T1078"}
    assert len(set(colours.values())) == 3
    assert colours["T1033"] == colours["T1059.001"]
    capsys.readouterr()
    assert main(["rules", "coverage", *state, "--ics", "-o", "-"]) == 0
    layer = json.loads(capsys.readouterr().out)
    assert layer["domain"] == "ics-attack"
    assert [row["techniqueID"] for row in layer["techniques"]] == ["T0816"]


def test_layer_of_nothing() -> None:
    assert build_layer(sum_up_techniques([]), industrial=False)["techniques"] == []


def test_scorecard(state: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", "scorecard", *state, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rules"]
    told = [(r["title"], r["evaluated"], r["fired"], r["share"], r["suppressed"]) for r in rows]
    assert told == [
        ("Fired", 10, 3, 0.75, 2),
        ("Untagged", 10, 0, 0.0, 0),
        ("Silent", 0, 0, 0.0, 0),
        ("Unfed", 0, 0, 0.0, 0),
    ]
    assert [r["fed"] for r in rows] == [True, True, True, False]
    assert [r["last_fired"] for r in rows] == [T0, None, None, None]
    assert main(["rules", "scorecard", *state]) == 0
    said = capsys.readouterr().out
    assert "75.0%" in said
    assert "never fed" in said
    assert "NO SOURCE" in said


def test_without_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.yml").write_text(RULES)
    words = [str(tmp_path / "r.yml"), "--state", str(tmp_path / "none")]
    assert main(["rules", "coverage", *words]) == 0
    assert "no store: nothing can have fired" in capsys.readouterr().out
    assert main(["rules", "scorecard", *words]) == 0
    assert "no store: nothing was seen yet" in capsys.readouterr().out
