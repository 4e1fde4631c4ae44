"""Our own correlations: each has what an operator needs, and does on its samples what they say.

A sample's line is an object `{"expect": "match" | "near_miss", "why", "records", "format"}`, the
records one after another, through the real line.
"""

import json
import uuid
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from appliance.commands.rules import run_samples
from appliance.detect.sigma.load import RuleSet, load_rules
from appliance.normalise import feeds
from appliance.schema import LEVELS
from tests.test_rules_content import ADDRESS, INVENTED, PATHS, TACTIC, TECHNIQUE

FOLDER: Final = Path(__file__).resolve().parent.parent / "rules" / "correlations"
FILES: Final = sorted(FOLDER.glob("*.yml"))
NAMES: Final = [path.stem for path in FILES]


@cache
def load_own() -> RuleSet:
    rules = load_rules([FOLDER], feeds=feeds)
    assert rules.refused == ()
    return rules


def read_documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text("utf-8")))


def test_there_are_some_and_each_does_what_its_samples_say() -> None:
    assert len(FILES) >= 6
    results = list(run_samples(load_own()))
    assert [result.problem for result in results if result.problem] == []
    told = {result.rule.id for result in results}
    last = {read_documents(path)[-1]["id"] for path in FILES}
    assert told == last  # all others are silent by themselves


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_metadata_is_complete(path: Path) -> None:
    *bases, last = read_documents(path)
    assert "correlation" in last
    for rule in (*bases, last):
        assert uuid.UUID(rule["id"]).version == 4
        assert rule["level"] in LEVELS
        assert len(rule["description"]) >= 40
    for rule in bases:
        assert rule["name"]
        if "correlation" not in rule:
            assert rule["level"] == "informational"
    assert last["falsepositives"]
    assert any(TECHNIQUE.fullmatch(tag) for tag in last["tags"])
    assert all(TECHNIQUE.fullmatch(tag) or TACTIC.fullmatch(tag) for tag in last["tags"])


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_samples_are_invented_and_many(path: Path) -> None:
    lines = path.with_suffix(".samples.jsonl").read_text("utf-8").splitlines()
    samples = [json.loads(line) for line in lines]
    assert sum(sample["expect"] == "match" for sample in samples) >= 2
    assert sum(sample["expect"] == "near_miss" for sample in samples) >= 3
    for match in ADDRESS.finditer("\n".join(r for s in samples for r in s["records"])):
        address = ip_address(match[0])
        inner = any(address in network for network in INVENTED)
        assert inner or address.is_multicast, match[0]


def test_ids_are_not_used_twice() -> None:
    ids = [rule["id"] for path in (*PATHS, *FILES) for rule in read_documents(path)]
    assert len(set(ids)) == len(ids)
