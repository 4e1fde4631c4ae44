"""Rules that need a field which no event of their log source has."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.assembly import find_unreachable, load_configured_rules
from appliance.cli import main
from appliance.config import Config
from appliance.detect.sigma.firing import find_lacking
from appliance.detect.sigma.match import AllOf, AnyOf, Exists, FieldTest, IsNull, Node, Not
from appliance.detect.sigma.patterns import Equals
from appliance.detect.sigma.values import ViewValues
from appliance.normalise import FED
from appliance.normalise.known_fields import KNOWN_FIELDS
from appliance.pipeline import read_event
from appliance.scan import list_files, read_file
from appliance.schema import LogSource, Rejected
from appliance.sources.streams import StreamName
from tests.test_sigma_match import compile_rule

KNOWN = {"Image", "User"}
CASES: list[tuple[Mapping[str, Any], tuple[str, ...]]] = [
    ({"s": {"Image": "x"}}, ()),
    ({"s": {"CommandLine": "x"}}, ("CommandLine",)),
    ({"s": {"image": "x"}}, ("image",)),
    ({"s": {"Image": "x", "CommandLine": "y", "Other": "z"}}, ("CommandLine", "Other")),
    ({"s": [{"Image": "x"}, {"CommandLine": "y"}]}, ()),
    ({"s": [{"A": "x"}, {"B": "y"}]}, ("A", "B")),
    ({"s": {"Image": "x"}, "f": {"B": "y"}, "condition": "s and not f"}, ()),
    ({"s": {"B": "y"}, "condition": "not s"}, ()),
    ({"s": {"B": None}}, ()),
    ({"s": {"B": None}, "condition": "not s"}, ("B",)),
    ({"s": {"B|neq": "x"}}, ()),
    ({"s": {"B|exists": True}}, ("B",)),
    ({"s": {"B|exists": False}}, ()),
    ({"s": {"Image|exists": False}}, ()),
    ({"s": {"Image|fieldref": "User"}}, ()),
    ({"s": {"Image|fieldref": "Parent"}}, ("Parent",)),
    ({"s": ["keyword"]}, ()),
    ({"s": {"A|contains|all": ["x", "y"]}}, ("A",)),
    ({"a": {"A": 1}, "b": {"User": 1}, "condition": "1 of them"}, ()),
    ({"a": {"A": 1}, "b": {"User": 1}, "condition": "all of them"}, ("A",)),
]


@pytest.mark.parametrize(("detection", "lacking"), CASES)
def test_fields_that_are_lacking_are_named(
    detection: Mapping[str, Any], lacking: tuple[str, ...]
) -> None:
    assert find_lacking(compile_rule(detection).condition, KNOWN) == lacking


NAMES = ("a", "b", "c")
LEAVES = st.one_of(
    st.builds(lambda n, v: FieldTest(n, (Equals(v, False, v),)), st.sampled_from(NAMES),
              st.sampled_from("xy")),
    st.builds(IsNull, st.sampled_from(NAMES)),
    st.builds(Exists, st.sampled_from(NAMES), st.booleans()),
)  # fmt: skip
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(AllOf, st.lists(inner, min_size=1, max_size=3).map(tuple)),
        st.builds(AnyOf, st.lists(inner, min_size=1, max_size=3).map(tuple)),
    ),
    max_leaves=8,
)


@given(TREES, st.sets(st.sampled_from(NAMES)))
def test_it_is_never_said_of_a_condition_that_can_hold(condition: Node, known: set[str]) -> None:
    """Every event that has no field but the known ones, with every value that a test names."""
    if not find_lacking(condition, known):
        return
    for names in chain.from_iterable(combinations(sorted(known), n) for n in range(4)):
        for values in (("x",) * 3, ("y",) * 3, ("x", "y", "x"), ("y", "x", "y"), (None,) * 3):
            view = ViewValues(dict(zip(names, values, strict=False)))
            assert condition.match(view) is None


def test_the_table_names_log_sources_that_are_fed() -> None:
    assert len(KNOWN_FIELDS) >= 15
    assert KNOWN_FIELDS.keys() <= set(FED)
    for fields in KNOWN_FIELDS.values():
        assert {"EventID", "Computer", "Channel"} <= fields


def test_the_table_is_what_real_events_have(shared_data: Callable[[str], Path]) -> None:
    """Nothing that an event of a closed log source has is missing in the table."""
    folder = shared_data("windows") / "evtx-attack-samples"
    seen: dict[LogSource, set[str]] = {}
    for logical, path in list_files([str(folder)], folder).files[:60]:
        name = StreamName("t", logical, logical, str(path), "auto")
        for batch in read_file(name, Config(), []):
            for record in batch.records:
                result = read_event(record, UTC)
                if not isinstance(result, Rejected):
                    for view in result[0].views:
                        seen.setdefault(view.logsource, set()).update(view.fields)
    closed = seen.keys() & KNOWN_FIELDS.keys()
    assert len(closed) > 5
    for source in closed:
        assert seen[source] <= KNOWN_FIELDS[source], source


RULES = """\
title: Never
id: 00000000-0000-4000-8000-000000000001
tags: [attack.t1033]
logsource: {product: windows, category: image_load}
detection: {s: {Image: a, CommandLine: b}, condition: s}
---
title: Fine
id: 00000000-0000-4000-8000-000000000002
tags: [attack.t1033]
logsource: {product: windows, category: image_load}
detection: {s: {ImageLoaded: a}, condition: s}
---
title: Open
id: 00000000-0000-4000-8000-000000000003
logsource: {product: windows}
detection: {s: {NoSuchField: a}, condition: s}
"""


CORRELATION = """\
---
title: Many Nevers
id: 00000000-0000-4000-8000-00000000000a
correlation:
  type: event_count
  rules: [{rules}]
  group-by: [Computer]
  timespan: 5m
  condition: {{gte: 3}}
"""
NEVER, FINE = (f"00000000-0000-4000-8000-00000000000{n}" for n in (1, 2))


@pytest.mark.parametrize(("named", "count"), [(NEVER, 2), (f"{NEVER}, {FINE}", 1)])
def test_correlations_of_nothing_but_such_rules(tmp_path: Path, named: str, count: int) -> None:
    path = tmp_path / "r.yml"
    path.write_text(RULES + CORRELATION.format(rules=named))
    rules = load_configured_rules(Config(), [str(path)])
    assert rules.refused == ()
    assert len(find_unreachable(rules, Config())) == count


def test_rules_check_names_them_and_loads_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where one log source of a rule is open, nothing is said."""
    path = tmp_path / "r.yml"
    path.write_text(RULES)
    assert main(["rules", "check", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["loaded"] == 3
    (row,) = facts["cannot_fire"]
    assert (row["title"], row["fields"], row["line"]) == ("Never", ["CommandLine"], 1)
    assert "no known event of windows/image_load has" in row["reason"]
    assert main(["rules", "check", str(path)]) == 0
    said = capsys.readouterr().out
    assert "can't fire: " in said
    assert "needs CommandLine" in said
    assert "3 rules loaded, 0 refused, 1 loaded can't fire" in said
    words = [str(path), "--state", str(tmp_path)]
    assert main(["rules", "coverage", "--json", *words]) == 0
    assert json.loads(capsys.readouterr().out)["techniques"]["T1033"]["unfed"] == 1
    assert main(["rules", "scorecard", *words]) == 0
    assert "NO FIELD CommandLine" in capsys.readouterr().out
