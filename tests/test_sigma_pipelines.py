"""pySigma processing pipelines and placeholders that the configuration names."""

import json
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sigma.collection import SigmaCollection
from sigma.correlations import SigmaCorrelationCondition, SigmaCorrelationRule
from sigma.processing.pipeline import ProcessingPipeline
from sigma.processing.transformations import transformations
from sigma.processing.transformations.external import ExternalSourceBaseTransformation

from appliance.assembly import load_configured_rules
from appliance.config import Config, load_config
from appliance.detect.sigma.correlation import (
    SigmaCorrelator,
    WindowLimits,
    list_watched,
    make_hit,
)
from appliance.detect.sigma.engine import SigmaDetector
from appliance.detect.sigma.load import RuleSet, load_rules
from appliance.detect.sigma.match import match_rule
from appliance.detect.sigma.pipelines import TRANSFORMATIONS, read_pipelines
from appliance.errors import ConfigError
from appliance.explain import explain_finding
from appliance.scan import run_scan
from appliance.schema import LogSource, Sighting, View
from tests.builders import T0, make_event

RULE = """\
title: t
logsource: {product: windows, category: process_creation}
detection:
  sel:
    CommandLine|contains|all: [' -enc', http]
    User|neq: backup
    Image|endswith: ['\\\\a.exe', '\\\\b.exe']
  other: {Image|fieldref: ParentImage}
  condition: sel and not other
"""
MAPPING = """\
name: our names
priority: 20
transformations:
  - type: field_name_mapping
    mapping:
      CommandLine: [process.args, process.line]
      User: account
      ParentImage: parent
    rule_conditions:
      - {type: logsource, category: process_creation}
"""


def load(folder: Path, rule: str, *pipelines: str) -> RuleSet:
    (folder / "r.yml").write_text(rule)
    paths = []
    for number, text in enumerate(pipelines):
        paths.append(folder / f"p{number}.yaml")
        paths[-1].write_text(text)
    return load_rules([folder / "r.yml"], feeds=lambda _: None, pipeline=read_pipelines(paths))


HIT: dict[str, Any] = {
    "process.args": "x -enc http",
    "account": "eve",
    "Image": r"c:\a.exe",
    "parent": r"c:\p.exe",
}
NEAR: list[dict[str, Any]] = [
    {**HIT, "process.args": "x -enc"},
    {**HIT, "account": "Backup"},
    {**HIT, "parent": r"c:\A.exe"},
    {**HIT, "Image": r"c:\a.exe.x"},
    {"CommandLine": HIT["process.args"], **{k: v for k, v in HIT.items() if "args" not in k}},
]


def test_fields_are_mapped_before_the_matcher_sees_them(tmp_path: Path) -> None:
    (rule,) = load(tmp_path, RULE, MAPPING).rules
    assert match_rule(rule, HIT) is not None
    line = {k: v for k, v in HIT.items() if "args" not in k} | {"process.line": "http -enc"}
    assert match_rule(rule, line) is not None
    assert all(match_rule(rule, fields) is None for fields in NEAR)


def test_a_rule_of_another_log_source_stays(tmp_path: Path) -> None:
    text = RULE.replace("process_creation", "file_event")
    (rule,) = load(tmp_path, text, MAPPING).rules
    assert match_rule(rule, HIT) is None
    assert match_rule(rule, {**HIT, "CommandLine": "http -enc"}) is not None


def test_the_rules_own_hash_stays(tmp_path: Path) -> None:
    """Its text is what its file says: what was found for the rule is still its."""
    (plain,) = load(tmp_path, RULE).rules
    (mapped,) = load(tmp_path, RULE, MAPPING).rules
    assert plain.info == mapped.info
    assert plain.condition != mapped.condition


def test_pipelines_work_in_the_order_of_their_priority(tmp_path: Path) -> None:
    prefix = "priority: {}\ntransformations: [{{type: field_name_suffix, suffix: {}}}]\n"
    rule = "title: t\nlogsource: {product: a}\ndetection: {s: {f: v}, condition: s}\n"
    loaded = load(tmp_path, rule, prefix.format(30, "_late"), prefix.format(10, "_early"))
    assert match_rule(loaded.rules[0], {"f_early_late": "v"}) is not None
    assert match_rule(loaded.rules[0], {"f_late_early": "v"}) is None


MORE = [
    (
        "{type: change_logsource, product: linux, category: network_connection}",
        {"f": "v"},
        {"f": "w"},
    ),
    ("{type: add_condition, conditions: {host: web}}", {"f": "v", "host": "web"}, {"f": "v"}),
    ("{type: replace_string, regex: '^v$', replacement: w}", {"f": "w"}, {"f": "v"}),
    ("{type: map_string, mapping: {v: [x, y]}}", {"f": "y"}, {"f": "v"}),
    ("{type: set_value, value: 5}", {"f": 5}, {"f": "v"}),
    ("{type: field_name_prefix, prefix: win.}", {"win.f": "v"}, {"f": "v"}),
    (
        "{type: nest, items: [{type: field_name_mapping, mapping: {f: g}}]}",
        {"g": "v"},
        {"f": "v"},
    ),
]


@pytest.mark.parametrize(("item", "hit", "miss"), MORE)
def test_other_transformations(
    tmp_path: Path, item: str, hit: dict[str, Any], miss: dict[str, Any]
) -> None:
    rule = "title: t\nlogsource: {product: a}\ndetection: {s: {f: v}, condition: s}\n"
    loaded = load(tmp_path, rule, f"transformations: [{item}]\n")
    assert loaded.refused == ()
    assert match_rule(loaded.rules[0], hit) is not None
    assert match_rule(loaded.rules[0], miss) is None


def test_another_log_source_is_asked_for(tmp_path: Path) -> None:
    rule = "title: t\nlogsource: {product: a}\ndetection: {s: {f: v}, condition: s}\n"
    item = "{type: change_logsource, product: linux, category: process_creation}"
    (loaded,) = load(tmp_path, rule, f"transformations: [{item}]\n").rules
    assert loaded.info.logsource == LogSource("linux", "process_creation")


def test_a_rule_that_a_pipeline_refuses_is_refused_by_name(tmp_path: Path) -> None:
    loaded = load(
        tmp_path, RULE, "transformations: [{type: rule_failure, message: not on this site}]\n"
    )
    assert [refused.title for refused in loaded.refused] == ["t"]
    assert "not on this site" in loaded.refused[0].reason


def test_filters_are_mapped_too(tmp_path: Path) -> None:
    filters = (
        "---\ntitle: f\nlogsource: {product: windows, category: process_creation}\n"
        "filter: {rules: any, sel: {User: ci}, condition: not sel}\n"
    )
    loaded = load(tmp_path, RULE + filters, MAPPING)
    assert loaded.refused == ()
    assert match_rule(loaded.rules[0], HIT) is not None
    assert match_rule(loaded.rules[0], {**HIT, "account": "ci"}) is None
    assert match_rule(loaded.rules[0], {**HIT, "User": "ci"}) is not None


# -- correlations ----------------------------------------------------------------------------------

WINDOWS, LINUX = LogSource("windows", "process_creation"), LogSource("linux", "process_creation")
TWO = """\
title: Windows
id: 00000000-0000-4000-8000-000000000001
name: win
logsource: {product: windows, category: process_creation}
detection: {s: {Program: a.exe}, condition: s}
---
title: Linux
id: 00000000-0000-4000-8000-000000000002
name: lin
logsource: {product: linux, category: process_creation}
detection: {s: {Program: a}, condition: s}
---
title: Many
id: 00000000-0000-4000-8000-00000000000a
name: many
"""
ON_WINDOWS = "rule_conditions: [{type: logsource, product: windows}]"
RENAMED = (
    "transformations: [{type: field_name_mapping, mapping: {Program: Image, Account: User,"
    f" Target: Computer, Size: Length}}, {ON_WINDOWS}}}]\n"
)


def find_counted(
    rules: RuleSet, events: Iterable[tuple[LogSource, dict[str, Any]]]
) -> list[dict[str, str]]:
    """What the correlations found: of each finding the fields that its evidence names."""
    detector = SigmaDetector(rules)
    watched = list_watched(rules.correlations, rules.silent)
    correlator = SigmaCorrelator(rules.correlations, WindowLimits())
    hits = []
    for n, (logsource, fields) in enumerate(events):
        base = make_event(n, T0 + n)
        views = (View(logsource, fields),)
        event = Sighting(base.time, base.received, base.host, views, base.record, "json")
        hits += [make_hit(found, watched[found.rule_id]) for found in detector.detect(event)]
    return [
        {match.field: match.value for match in found.matched if match.field is not None}
        for found in correlator.advance(hits)
    ]


def on_windows(**fields: Any) -> tuple[LogSource, dict[str, Any]]:
    return WINDOWS, {"Image": "a.exe", **fields}


def test_group_by_is_mapped_as_the_rule_is(tmp_path: Path) -> None:
    """Two each of three users make one group of three no more than one of six."""
    body = "type: event_count, rules: [win], group-by: [Account], timespan: 1h, condition: {gte: 3}"
    rules = load(tmp_path, f"{TWO}correlation: {{{body}}}\n", RENAMED)
    assert rules.refused == ()
    assert rules.correlations[0].group_by == ("User",)
    users = ["eve", "bob", "eve", "ann", "bob"]
    assert find_counted(rules, [on_windows(User=user) for user in users]) == []
    (found,) = find_counted(rules, [on_windows(User=user) for user in [*users, "eve"]])
    assert found["User"] == "eve"
    assert find_counted(rules, [on_windows(Account="eve")] * 9) == []


def test_the_field_that_is_counted_is_mapped(tmp_path: Path) -> None:
    body = (
        "type: value_count, rules: [win], group-by: [Account], timespan: 1h,"
        " condition: {field: Target, gte: 3}"
    )
    rules = load(tmp_path, f"{TWO}correlation: {{{body}}}\n", RENAMED)
    assert rules.correlations[0].values == (("Computer",),)
    same = [on_windows(User="eve", Computer=name) for name in ("a", "b", "a", "b")]
    assert find_counted(rules, same) == []
    assert len(find_counted(rules, [*same, on_windows(User="eve", Computer="c")])) == 1


def test_the_field_that_is_measured_is_mapped(tmp_path: Path) -> None:
    body = "type: value_sum, rules: [win], timespan: 1h, condition: {field: Size, gt: 99}"
    rules = load(tmp_path, f"{TWO}correlation: {{{body}}}\n", RENAMED)
    assert find_counted(rules, [on_windows(Length=33)] * 3) == []
    assert len(find_counted(rules, [on_windows(Length=33)] * 4)) == 1


def test_each_rule_keeps_its_own_names(tmp_path: Path) -> None:
    """A pipeline for one log source leaves the other's events as they are."""
    body = (
        "type: temporal, rules: [win, lin], group-by: [Account], timespan: 1h, condition: {gte: 2}"
    )
    rules = load(tmp_path, f"{TWO}correlation: {{{body}}}\n", RENAMED)
    assert rules.correlations[0].groups == (("User",), ("Account",))
    linux = (LINUX, {"Program": "a", "Account": "eve"})
    assert len(find_counted(rules, [on_windows(User="eve"), linux])) == 1
    assert find_counted(rules, [on_windows(User="bob"), linux]) == []


ALIASED = (
    "correlation: {type: temporal, rules: [win, lin], group-by: [who], timespan: 1h,"
    " condition: {gte: 2}, aliases: {who: {win: Account, lin: user}}}\n"
)


def test_fields_of_aliases_are_mapped_and_the_alias_is_not(tmp_path: Path) -> None:
    text = RENAMED.replace("Size:", "who: nobody, Size:")
    rules = load(tmp_path, TWO + ALIASED, text)
    (rule,) = rules.correlations
    assert (rule.group_by, rule.groups) == (("who",), (("User",), ("user",)))
    linux = (LINUX, {"Program": "a", "user": "eve"})
    assert len(find_counted(rules, [on_windows(User="eve"), linux])) == 1


def test_an_alias_that_is_counted_stays_one(tmp_path: Path) -> None:
    """Also without group-by, where pySigma itself maps the alias away and not its fields."""
    body = (
        "type: value_count, rules: [win], timespan: 1h, condition: {field: who, gte: 2},"
        " aliases: {who: {win: Account}}"
    )
    text = "transformations: [{type: field_name_prefix, prefix: x.}]\n"
    rules = load(tmp_path, f"{TWO}correlation: {{{body}}}\n", text)
    assert rules.correlations[0].values == (("x.Account",),)
    events = [(WINDOWS, {"x.Program": "a.exe", "x.Account": name}) for name in ("eve", "bob")]
    assert len(find_counted(rules, events)) == 1


def test_correlations_over_correlations_are_mapped(tmp_path: Path) -> None:
    inner = (
        "type: event_count, rules: [win], group-by: [Account], timespan: 1h, condition: {gte: 2}"
    )
    outer = (
        "type: event_count, rules: [many], group-by: [Account], timespan: 1h, condition: {gte: 1}"
    )
    head = "---\ntitle: Outer\nid: 00000000-0000-4000-8000-00000000000b\n"
    text = f"{TWO}correlation: {{{inner}}}\n{head}correlation: {{{outer}}}\n"
    rules = load(tmp_path, text, RENAMED)
    assert [rule.groups for rule in rules.correlations] == [(("User",),), (("User",),)]
    (found,) = find_counted(rules, [on_windows(User="eve")] * 2)
    assert found["User"] == "eve"


def test_group_by_becomes_each_field_that_it_is_mapped_to(tmp_path: Path) -> None:
    """As pySigma has it: the group is of both."""
    body = "type: event_count, rules: [win], group-by: [Account], timespan: 1h, condition: {gte: 2}"
    text = RENAMED.replace("Account: User", "Account: [User, Computer]")
    rules = load(tmp_path, f"{TWO}correlation: {{{body}}}\n", text)
    assert rules.correlations[0].group_by == ("User", "Computer")
    twice = [on_windows(User="eve", Computer="a"), on_windows(User="eve", Computer="b")]
    assert find_counted(rules, twice) == []
    assert len(find_counted(rules, [*twice, twice[0]])) == 1


@pytest.mark.parametrize(
    ("pipeline", "body", "reason"),
    [
        (
            RENAMED.replace("Account: User", "Account: [User, Computer]"),
            ALIASED.partition("{")[2].strip()[:-1],
            "multiple field names",
        ),
        (
            RENAMED.replace("Account: User", "Account: [User, Computer]"),
            "type: temporal, rules: [win, lin], group-by: [Account], timespan: 1h,"
            " condition: {gte: 2}",
            "more fields of group-by for one rule than for another",
        ),
        (
            RENAMED.replace("Target: Computer", "Target: User"),
            "type: event_count, rules: [win], group-by: [Account, Target], timespan: 1h,"
            " condition: {gte: 2}",
            "names a field twice",
        ),
        (
            "transformations: [{type: rule_failure, message: not here, rule_conditions:"
            " [{type: is_sigma_correlation_rule}]}]\n",
            "type: event_count, rules: [win], timespan: 1h, condition: {gte: 2}",
            "not here",
        ),
    ],
)
def test_correlations_that_cannot_be_mapped_are_refused(
    tmp_path: Path, pipeline: str, body: str, reason: str
) -> None:
    rules = load(tmp_path, f"{TWO}correlation: {{{body}}}\n", pipeline)
    assert rules.correlations == ()
    (refused,) = rules.refused
    assert refused.title == "Many"
    assert reason in refused.reason


def test_pipelines_leave_a_correlation_as_pysigma_does(tmp_path: Path) -> None:
    """Where all its rules are of one log source: pySigma itself is the referee."""
    body = (
        "type: value_count, rules: [win], group-by: [Account, Other, who], timespan: 1h,"
        " condition: {field: [Target, Size], gte: 2}, aliases: {who: {win: Account}}"
    )
    text = f"{TWO}correlation: {{{body}}}\n"
    (compiled,) = load(tmp_path, text, RENAMED).correlations
    collection = SigmaCollection.from_yaml(text)
    pipeline = ProcessingPipeline.from_yaml(RENAMED)
    collection.resolve_rule_references()
    for rule in sorted(collection.rules, key=lambda rule: isinstance(rule, SigmaCorrelationRule)):
        pipeline.apply(rule)
    (theirs,) = [rule for rule in collection.rules if isinstance(rule, SigmaCorrelationRule)]
    assert list(compiled.group_by) == theirs.group_by
    assert isinstance(theirs.condition, SigmaCorrelationCondition)
    assert list(compiled.values[0]) == theirs.condition.fieldref
    (alias,) = theirs.aliases
    assert list(compiled.groups[0]) == ["User", "Other", *alias.mapping.values()]


WRONG = [
    ("transformations: [{type: http_placeholders, url: 'http://192.0.2.1/'}]\n", "not taken"),
    ("transformations: [{type: command_placeholders, command: id}]\n", "not taken"),
    ("transformations: [{type: file_placeholders, path: /etc/passwd}]\n", "not taken"),
    (
        "transformations: [{type: nest, items: [{type: command_placeholders, command: id}]}]\n",
        "not taken",
    ),
    (
        "transformations: [{type: add_condition, template: true, conditions: {a: '{{x}}'}}]\n",
        "templates are not taken",
    ),
    ("transformations: [{type: nope}]\n", "'nope' is not taken"),
    ("transformations: [{type: field_name_mapping}]\n", "mapping"),
    ("transformations: {a: b}\n", "must be a list"),
    ("transformations: [a]\n", "not taken"),
    ("transformations: []\n", "no transformations"),
    ("finalizers: [{type: concat}]\ntransformations: [{type: case}]\n", "finalizers: not taken"),
    ("postprocessing: []\n", "postprocessing: not taken"),
    ("a: [\n", "YAML"),
    ("# nothing\n", "holds no pipeline"),
]


@pytest.mark.parametrize(("text", "reason"), WRONG)
def test_what_is_not_taken_is_named_by_file(tmp_path: Path, text: str, reason: str) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(MAPPING)
    bad.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_pipelines([good, bad])
    (problem,) = caught.value.problems
    assert problem.startswith(f"{bad}:")
    assert reason in problem


def test_nothing_that_is_taken_leaves_the_process() -> None:
    """What pySigma keeps among transformations with a source outside is not on the list."""
    assert transformations.keys() >= TRANSFORMATIONS
    for name in TRANSFORMATIONS:
        assert not issubclass(transformations[name], ExternalSourceBaseTransformation)


# -- by configuration ------------------------------------------------------------------------------


def configure(folder: Path, more: str) -> Config:
    path = folder / "a.yaml"
    path.write_text(
        f"state_dir: {folder}/state\nrules: [{folder}/r.yml]\n"
        f"sources: [{{name: a, paths: [/a]}}]\n{more}"
    )
    return load_config(path)


EXPANDED = (
    "title: t\nlogsource: {product: windows, category: process_creation}\n"
    "detection: {s: {'User|expand': '%admins%'}, condition: s}\n---\n"
    "title: other\nlogsource: {product: windows, category: process_creation}\n"
    "detection: {s: {'User|expand': '%nobody%'}, condition: s}\n"
)


def test_placeholders_come_from_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "r.yml").write_text(EXPANDED)
    loaded = load_configured_rules(configure(tmp_path, "placeholders: {admins: [root, adm*]}\n"))
    (rule,) = loaded.rules
    assert match_rule(rule, {"User": "admin"}) is not None
    assert match_rule(rule, {"User": "toor"}) is None
    (refused,) = loaded.refused
    assert (refused.title, refused.reason) == ("other", "placeholder %nobody% has no value")


def test_pipelines_come_from_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "r.yml").write_text(RULE)
    (tmp_path / "p.yaml").write_text(MAPPING)
    (rule,) = load_configured_rules(configure(tmp_path, f"pipelines: [{tmp_path}/p.yaml]\n")).rules
    assert match_rule(rule, HIT) is not None


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("placeholders: {a: []}\n", "placeholders.a: must have at least one value"),
        ("placeholders: {a: b}\n", "placeholders.a: must be a list"),
        ("placeholders: {a: [1]}\n", "placeholders.a[0]: must be text"),
        ("placeholders: [a]\n", "placeholders: must be a mapping of names to lists of texts"),
        ("pipelines: [/nowhere.yaml]\n", "pipelines[0]: no such file: /nowhere.yaml"),
        ("pipelines: [/]\n", "pipelines[0]: no such file: /"),
        ("overrides: /nowhere.yaml\n", "overrides: no such file: /nowhere.yaml"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, more: str, reason: str) -> None:
    (tmp_path / "r.yml").write_text(RULE)
    with pytest.raises(ConfigError) as caught:
        configure(tmp_path, more)
    assert any(reason in problem and ":4: " in problem for problem in caught.value.problems)


def test_explain_shows_the_original(tmp_path: Path) -> None:
    """Also where a pipeline changed what the matcher saw."""
    (tmp_path / "r.yml").write_text(
        "title: t\nlogsource: {product: windows, category: process_creation}\n"
        "detection: {s: {Program: 'c:\\a.exe'}, condition: s}\n"
    )
    (tmp_path / "p.yaml").write_text(
        "transformations: [{type: field_name_mapping, mapping: {Program: Image}}]\n"
    )
    log = tmp_path / "log.json"
    log.write_text(
        json.dumps({"EventID": 1, "Channel": "Microsoft-Windows-Sysmon/Operational",
                    "Computer": "web", "UtcTime": "2023-11-14 22:00:00.000",
                    "Image": "C:\\a.exe"}) + "\n"
    )  # fmt: skip
    config = configure(tmp_path, f"model: false\npipelines: [{tmp_path}/p.yaml]\n")
    done = run_scan([str(log)], config, on_progress=lambda *_: None)
    with closing(done):
        (found,) = done.store.finding_bodies()
        assert found["matched"][0]["field"] == "Image"
        rule = explain_finding(done.store, found["id"], config)["rule"]
        assert "Program: 'c:\\a.exe'" in rule["text"]
