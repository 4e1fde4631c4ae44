"""pySigma processing pipelines and placeholders that the configuration names."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sigma.processing.transformations import transformations
from sigma.processing.transformations.external import ExternalSourceBaseTransformation

from appliance.assembly import load_configured_rules
from appliance.config import Config, load_config
from appliance.detect.sigma.load import RuleSet, load_rules
from appliance.detect.sigma.match import match_rule
from appliance.detect.sigma.pipelines import TRANSFORMATIONS, read_pipelines
from appliance.errors import ConfigError
from appliance.explain import explain_finding
from appliance.scan import run_scan
from appliance.schema import LogSource

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
