"""Rules kept in a cache: the same rules come out, and nothing that is no longer so."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from appliance.detect.sigma.cache import Cache
from appliance.detect.sigma.load import Feeds, RuleSet, load_rules
from appliance.detect.sigma.rule_cache import load_cached
from appliance.errors import RuleError
from appliance.schema import LogSource

RULE = """title: {title}
logsource: {{product: windows}}
detection:
  a: {{'f|re': 'a+', 'g|cidr': 10.0.0.0/8, 'h|windash|contains': ' -a', i: 5, j: null}}
  b: [x, 'y*z?']
  c: {{'k|minute': 5, 'l|gte': 3.5, 'm|exists': true, 'n|fieldref': o, 'p|cased': 'Ab?c*d'}}
  condition: (a and not b) or c
"""


class Loads:
    """Counts how often rules are really loaded."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, paths: Sequence[Path], feeds: Feeds) -> RuleSet:
        """As load_rules."""
        self.count += 1
        return load_rules(paths, feeds=feeds)


def feed_all(logsource: LogSource) -> None:
    """Everything is fed."""


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """A folder with a rule, a broken rule, and a filter."""
    folder = tmp_path / "rules"
    folder.mkdir()
    (folder / "a.yml").write_text(RULE.format(title="one"))
    (folder / "b.yml").write_text("title: broken\n")
    return folder


def describe(rules: RuleSet) -> list[object]:
    """All that two rule sets must have in common; nodes are compared as values."""
    return [rules.rules, rules.refused, rules.files, rules.correlations, rules.counts()]


def test_the_same_rules_come_out(tmp_path: Path, rules: Path) -> None:
    """Every kind of node and test, refused rules and files."""
    load, cache = Loads(), Cache(tmp_path / "cache")
    first = load_cached([rules], cache, feeds=feed_all, load=load)
    second = load_cached([rules], cache, feeds=feed_all, load=load)
    assert load.count == 1
    assert describe(first) == describe(second)
    assert len(second.rules) == len(second.refused) == 1


def test_what_has_changed_is_loaded_anew(tmp_path: Path, rules: Path) -> None:
    """Files, their names, what the caller adds, what is fed."""
    load, cache = Loads(), Cache(tmp_path / "cache")

    def reload(about: Sequence[str] = (), feeds: Feeds = feed_all) -> RuleSet:
        return load_cached([rules], cache, feeds=feeds, load=load, about=about)

    reload()
    reload(["pipeline"])
    assert load.count == 2
    (rules / "c.yml").write_text(RULE.format(title="two"))
    assert len(reload().rules) == 2
    assert load.count == 3
    (rules / "c.yml").rename(rules / "d.yml")
    assert reload().files[-1].name == "d.yml"
    (rules / "d.yml").write_text(RULE.format(title="three"))
    assert [rule.info.title for rule in reload().rules] == ["one", "three"]
    assert load.count == 5
    assert not reload(feeds=lambda _: "nothing feeds it").rules
    assert load.count == 6


def test_spoilt_cache_is_not_trusted(tmp_path: Path, rules: Path) -> None:
    """Cut, changed, empty, and what has the right digest and is no rule set."""
    load, folder = Loads(), tmp_path / "cache"
    cache = Cache(folder)
    load_cached([rules], cache, feeds=feed_all, load=load)
    (kept,) = folder.iterdir()
    good = kept.read_bytes()
    for number, bad in enumerate((b"", good[:-3], good[:-1] + b"\0", b"x" + good)):
        kept.write_bytes(bad)
        assert load_cached([rules], cache, feeds=feed_all, load=load).rules
        assert load.count == 2 + number
    for body in (b"", b"\x91\xa4list", b"\x92\xa4list\x01", b"\x91\xa9os.system", b"\xc0"):
        cache.write(kept.name, body)
        before = load.count
        assert load_cached([rules], cache, feeds=feed_all, load=load).rules
        assert load.count == before + 1


def test_errors_are_those_of_load(tmp_path: Path) -> None:
    """A path that does not exist."""
    with pytest.raises(RuleError):
        load_cached([tmp_path / "no"], Cache(tmp_path), feeds=feed_all, load=Loads())


def test_a_rule_that_cannot_be_kept_does_no_harm(tmp_path: Path) -> None:
    """A number over 64 bits has no place in msgpack."""
    rule = RULE.format(title="big").replace("i: 5", f"i: {2**70}")
    (tmp_path / "r.yml").write_text(rule)
    load, cache = Loads(), Cache(tmp_path / "cache")
    for count in (1, 2):
        assert load_cached([tmp_path / "r.yml"], cache, feeds=feed_all, load=load).rules
        assert load.count == count
