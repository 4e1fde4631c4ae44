"""Our own rules: each has what an operator needs, and does on its samples what they say.

Every sample goes through the real line (decode, normalise, detect). A sample's line is an object
`{"expect": "match" | "near_miss", "why", "record", "format"}`: see docs/rules.md.
"""

import json
import re
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date
from functools import cache
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from appliance.decode import decode
from appliance.detect.sigma.engine import SigmaDetector
from appliance.detect.sigma.load import load_rules
from appliance.normalise import feeds, normalise
from appliance.schema import LEVELS, Cursor, Detection, RawRecord

RULES: Final = Path(__file__).resolve().parent.parent / "rules"
#: Rules that look at single events; those that look at many are in tests/test_correlation_rules.py.
PATHS: Final = sorted(p for p in RULES.rglob("*.yml") if p.parent.name != "correlations")
NAMES: Final = [str(path.relative_to(RULES)) for path in PATHS]
#: 2026-11-18, after every time that the samples tell.
RECEIVED: Final = 1_795_000_000.0
TECHNIQUE: Final = re.compile(r"attack\.t\d{4}(\.\d{3})?")
SYSLOG: Final = re.compile(r"<\d{1,3}>1 |(<\d{1,3}>)?[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d ")
TACTIC: Final = re.compile(r"attack\.[a-z]+(-[a-z]+)*")
ADDRESS: Final = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])")
#: What a folder's rules are about: each names one of these parts of a log source.
LOGSOURCES: Final = {
    "windows": {("product", "windows")},
    "linux": {("product", "linux")},
    "linux/auditd": {("product", "linux")},
    "network": {
        ("product", "zeek"),
        ("category", "dns"),
        ("category", "firewall"),
        ("category", "proxy"),
    },
    "web": {("category", "webserver")},
}
#: RFC 5737, RFC 1918, loopback: the only addresses that samples may name.
INVENTED: Final = tuple(
    ip_network(text)
    for text in (
        "192.0.2.0/24",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "127.0.0.0/8",
    )
)


def read_rule(path: Path) -> dict[str, Any]:
    """The one YAML document of a rule file."""
    rule = yaml.safe_load(path.read_text("utf-8"))
    assert isinstance(rule, dict)
    return rule


def read_samples(path: Path) -> list[dict[str, str]]:
    """The samples beside a rule file, in order."""
    text = path.with_suffix(".samples.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


@cache
def load_detector() -> SigmaDetector:
    """All our rules, loaded once."""
    rules = load_rules(PATHS, feeds=feeds)
    assert not rules.refused, rules.refused
    return SigmaDetector(rules)


def detect_record(text: str, format_name: str) -> list[Detection]:
    """What our rules say of one record, through the real stages."""
    data = text.encode()
    record = RawRecord(
        data=data,
        source="samples",
        path="samples",
        logical="samples",
        cursor=Cursor("samples", "samples", 0, len(data)),
        received=RECEIVED,
        format=format_name,
    )
    return load_detector().detect(normalise(record, decode(record), zone=UTC))


def test_there_are_rules_for_each_kind_of_source() -> None:
    folders = Counter(name_folder(path) for path in PATHS)
    assert folders["windows"] >= 85
    assert folders["linux"] >= 25
    assert folders["linux/auditd"] >= 30
    assert folders["network"] >= 65
    assert folders["web"] >= 15
    assert len(load_detector().rules) == len(PATHS)


def name_folder(path: Path) -> str:
    """A rule's folder below `rules`."""
    return path.parent.relative_to(RULES).as_posix()


def test_ids_and_titles_are_unique() -> None:
    rules = [read_rule(path) for path in PATHS]
    for key in ("id", "title"):
        doubles = [value for value, n in Counter(rule[key] for rule in rules).items() if n > 1]
        assert not doubles


def test_no_samples_without_a_rule() -> None:
    beside = {path.with_suffix(".samples.jsonl") for path in RULES.rglob("*.yml")}
    assert set(RULES.rglob("*.samples.jsonl")) == beside


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_metadata_is_complete(path: Path) -> None:
    rule = read_rule(path)
    assert uuid.UUID(rule["id"]).version == 4
    assert rule["author"] == "offline security brain"
    assert isinstance(rule["date"], date)
    assert rule["status"] in {"stable", "test", "experimental"}
    assert rule["level"] in LEVELS
    assert 10 <= len(rule["title"]) <= 110
    assert len(rule["description"]) >= 40
    assert rule["falsepositives"]
    source = rule["logsource"]
    assert source.items() & LOGSOURCES[name_folder(path)], source
    tags = rule["tags"]
    assert any(TECHNIQUE.fullmatch(tag) for tag in tags)
    assert any(TACTIC.fullmatch(tag) for tag in tags)
    assert all(TECHNIQUE.fullmatch(tag) or TACTIC.fullmatch(tag) for tag in tags)
    assert len(set(tags)) == len(tags)


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_samples_do_what_they_say(path: Path) -> None:
    rule_id = read_rule(path)["id"]
    samples = read_samples(path)
    assert {sample["expect"] for sample in samples} == {"match", "near_miss"}
    for sample in samples:
        assert sample["why"]
        fired = {found.rule_id for found in detect_record(sample["record"], sample["format"])}
        assert (rule_id in fired) == (sample["expect"] == "match"), sample["why"]
    assert not load_detector().errors


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_near_misses_are_no_finding_of_another_rule(path: Path) -> None:
    """An ordinary event must be ordinary to all rules, but for those that say so."""
    for sample in read_samples(path):
        if sample["expect"] == "near_miss" and "rule of its own" not in sample["why"]:
            assert not detect_record(sample["record"], sample["format"]), sample["why"]


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_samples_name_only_invented_addresses(path: Path) -> None:
    for sample in read_samples(path):
        # Four-part versions of programs look alike; their fields say what they are.
        text = re.sub(r'"FileVersion": "[^"]*"', "", sample["record"])
        for match in ADDRESS.finditer(text):
            try:
                address = ip_address(match[0])
            except ValueError:
                continue
            assert any(address in network for network in INVENTED), match[0]


def test_samples_have_many_shapes() -> None:
    shapes: Counter[str] = Counter()
    for path in PATHS:
        for sample in read_samples(path):
            shapes[name_shape(sample["record"])] += 1
    for shape in ("event", "winlogbeat", "nxlog", "3164", "5424", "zeek", "access", "auditd"):
        assert shapes[shape] >= 10, shape


def name_shape(record: str) -> str:
    """Which forwarder's shape a sample is in, "" for those that few samples have."""
    if not record.startswith("{"):
        if record.startswith("type="):
            return "auditd"
        if '] "' in record:
            return "access"
        if SYSLOG.match(record) is None:
            return ""
        return "5424" if record.startswith("<") else "3164"
    fields = json.loads(record)
    if "_path" in fields:
        return "zeek"
    if not fields.keys() & {"Event", "winlog", "EventID"}:
        return ""
    if "Event" in fields:
        return "event"
    return "winlogbeat" if "winlog" in fields else "nxlog"


def test_tags_exist_in_attack(shared_data: Callable[[str], Path]) -> None:
    """Each technique is one of ATT&CK's (for companies or for industrial control systems) and
    belongs to one of the rule's tactics, and each tactic has a technique."""
    knowledge = shared_data("knowledge")
    known = read_techniques(knowledge, "enterprise") | read_techniques(knowledge, "ics")
    assert len(known) > 600
    for path in PATHS:
        tags = [tag.removeprefix("attack.") for tag in read_rule(path)["tags"]]
        techniques = [tag.upper() for tag in tags if TECHNIQUE.fullmatch(f"attack.{tag}")]
        tactics = {tag for tag in tags if tag.upper() not in techniques}
        for technique in techniques:
            assert technique in known, f"{path.name}: {technique}"
            assert known[technique] & tactics, f"{path.name}: {technique}"
        assert tactics <= set().union(*(known[technique] for technique in techniques)), path.name


def read_techniques(folder: Path, matrix: str) -> dict[str, frozenset[str]]:
    """Technique id -> tactics, of what is neither revoked nor deprecated, from the STIX bundle."""
    bundle = json.loads(next(folder.rglob(f"{matrix}-attack.json")).read_text("utf-8"))
    known: dict[str, frozenset[str]] = {}
    for item in bundle["objects"]:
        if item["type"] != "attack-pattern":
            continue
        if item.get("revoked") or item.get("x_mitre_deprecated"):
            continue
        for reference in item["external_references"]:
            if reference["source_name"] == "mitre-attack":
                phases = item["kill_chain_phases"]
                known[reference["external_id"]] = frozenset(p["phase_name"] for p in phases)
    return known
