"""The plain matcher against a second, slower reading of Sigma that shares no code with it.

The reference takes pySigma's own fully resolved condition tree (ours is built from the unresolved
one) and tests values with Python's `re`. Both must fire on the same rules and fields.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from sigma.conditions import (
    ConditionAND,
    ConditionFieldEqualsValueExpression,
    ConditionNOT,
    ConditionOR,
    ConditionValueExpression,
)
from sigma.rule import SigmaDetections, SigmaRule
from sigma.types import (
    CompareOperators,
    SigmaBool,
    SigmaCasedString,
    SigmaCIDRExpression,
    SigmaCompareExpression,
    SigmaExists,
    SigmaExpansion,
    SigmaFieldReference,
    SigmaNull,
    SigmaNumber,
    SigmaRegularExpression,
    SigmaString,
    SpecialChars,
)

from appliance.detect.sigma.compile import compile_detections
from appliance.detect.sigma.load import load_rules
from appliance.detect.sigma.match import CompiledRule, match_rule
from appliance.schema import LogSource, RuleInfo

INFO = RuleInfo("id", "title", "", "medium", (), (), LogSource("windows"), "rule.yml", 1, "hash")
Fields = Mapping[str, Any]


def scalars(raw: object) -> Iterator[object]:
    """Values in a value, without None (shallow logs only: this may recurse)."""
    if isinstance(raw, list):
        for element in raw:
            yield from scalars(element)
    elif isinstance(raw, dict):
        yield from scalars(list(raw.values()))
    elif raw is not None:
        yield raw


def text_of(raw: object) -> str:
    """A value as text."""
    if isinstance(raw, bool):
        return str(raw).lower()
    return f"{raw:.0f}" if isinstance(raw, float) and raw == int(raw) else str(raw)


@cache
def compile_expression(body: str, flags: int) -> re.Pattern[str]:
    """Compiled once: `re` itself remembers too few."""
    return re.compile(body, flags)


def judge_string(value: SigmaString, text: str, *, keyword: bool) -> bool:
    """A Sigma string as a regular expression."""
    table = {SpecialChars.WILDCARD_MULTI: ".*", SpecialChars.WILDCARD_SINGLE: "."}
    body = "".join(
        table[part] if isinstance(part, SpecialChars) else re.escape(str(part)) for part in value.s
    )
    flags = re.DOTALL if isinstance(value, SigmaCasedString) else re.DOTALL | re.IGNORECASE
    expression = compile_expression(body if keyword else rf"(?:{body})\Z", flags)
    return (expression.search if keyword else expression.match)(text) is not None


def judge_value(value: object, raw: object, *, keyword: bool) -> bool:
    """One value of a rule against one value of a log."""
    text = text_of(raw)
    match value:
        case SigmaExpansion():
            return any(judge_value(inner, raw, keyword=keyword) for inner in value.values)
        case SigmaString():
            return judge_string(value, text, keyword=keyword)
        case SigmaRegularExpression():
            flags = 0
            for flag in value.flags:
                flags |= value.sigma_to_python_flags[flag]
            return re.search(str(value.regexp), text, flags) is not None
        case SigmaCIDRExpression():
            try:
                return ip_address(text) in value.network
            except ValueError:
                return False
        case SigmaCompareExpression():
            if re.fullmatch(r"-?\d+(\.\d+)?", text) is None or isinstance(raw, bool):
                return False
            left, right = float(text), value.number.number
            return {
                CompareOperators.LT: left < right,
                CompareOperators.LTE: left <= right,
                CompareOperators.GT: left > right,
                CompareOperators.GTE: left >= right,
            }[value.op]
        case SigmaNumber():
            number = str(value.number)
            return number in text if keyword else number == text and not isinstance(raw, bool)
        case SigmaBool():
            word = str(value.boolean).lower()
            return word in text.lower() if keyword else word == text.lower()
    raise AssertionError(f"the reference does not know {value!r}")


def judge_field(name: str, value: object, fields: Fields) -> bool:
    """One value of a rule against one field."""
    raw = fields.get(name)
    if isinstance(value, SigmaNull):
        return raw is None or raw == [] or (isinstance(raw, list) and None in raw)
    if isinstance(value, SigmaExists):
        return (name in fields) == value.exists
    if isinstance(value, SigmaFieldReference):
        others = [text_of(other).lower() for other in scalars(fields.get(value.field))]
        return any(judge_reference(value, text_of(one).lower(), others) for one in scalars(raw))
    return any(judge_value(value, one, keyword=False) for one in scalars(raw))


def judge_reference(value: SigmaFieldReference, text: str, others: list[str]) -> bool:
    """A field against another field."""
    if value.starts_with and value.ends_with:
        return any(other in text for other in others)
    if value.starts_with:
        return any(text.startswith(other) for other in others)
    if value.ends_with:
        return any(text.endswith(other) for other in others)
    return text in others


def judge(node: object, fields: Fields) -> bool:
    """pySigma's condition tree."""
    match node:
        case ConditionAND():
            return all(judge(arg, fields) for arg in node.args)
        case ConditionOR():
            return any(judge(arg, fields) for arg in node.args)
        case ConditionNOT():
            return not judge(node.args[0], fields)
        case ConditionFieldEqualsValueExpression():
            return judge_field(node.field, node.value, fields)
        case ConditionValueExpression():
            values = scalars(dict(fields))
            return any(judge_value(node.value, one, keyword=True) for one in values)
    raise AssertionError(f"the reference does not know {node!r}")


def judge_rule(detections: SigmaDetections, fields: Fields) -> bool:
    """All conditions of a rule, as pySigma resolves them."""
    return any(judge(condition.parse(), fields) for condition in detections.parsed_condition)


WORD = st.text("aAbB1*?\\ -/", max_size=4)
RULE_VALUE = st.one_of(WORD, st.integers(0, 3), st.booleans(), st.none())
NAME = st.sampled_from(["f", "g"])
ITEM = st.one_of(
    st.tuples(NAME, RULE_VALUE),
    st.tuples(NAME, st.lists(RULE_VALUE, max_size=3)),
    st.tuples(
        st.builds(
            "{}|{}".format,
            NAME,
            st.sampled_from(
                [
                    *("contains", "startswith", "endswith", "contains|all", "all", "cased"),
                    *("contains|cased", "windash", "windash|contains", "contains|windash"),
                    *("neq", "startswith|neq", "contains|neq"),
                ]
            ),
        ),
        st.lists(WORD, min_size=1, max_size=3),
    ),
    st.tuples(
        st.builds("{}|{}".format, NAME, st.sampled_from(["gt", "gte", "lt", "lte"])),
        st.integers(0, 3),
    ),
    st.tuples(st.builds("{}|exists".format, NAME), st.booleans()),
    st.tuples(
        st.builds(
            "{}|{}".format,
            NAME,
            st.sampled_from(["fieldref", "fieldref|startswith", "fieldref|endswith"]),
        ),
        NAME,
    ),
)
MAP = st.lists(ITEM, min_size=1, max_size=2).map(dict)
DETECTION = st.one_of(
    MAP, st.lists(MAP, min_size=1, max_size=2), st.lists(WORD, min_size=1, max_size=2)
)
CONDITION = st.sampled_from(
    ["x1", "x1 and x2", "x1 or not x2", "not (x1 and x2)", "1 of x*", "all of them", "not 1 of x*"]
)
LOG_VALUE = st.recursive(
    st.one_of(WORD, st.integers(0, 3), st.sampled_from([0.5, 2.0]), st.booleans(), st.none()),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=3,
)
FIELDS = st.dictionaries(NAME, LOG_VALUE, max_size=2)


@settings(max_examples=600, deadline=None)
@given(DETECTION, DETECTION, CONDITION, st.lists(FIELDS, min_size=1, max_size=6))
def test_random_rules_equal_the_reference(
    first: object, second: object, condition: str, logs: list[Fields]
) -> None:
    """Random rules over random fields."""
    section = {"x1": first, "x2": second, "condition": condition}
    rule = CompiledRule(INFO, compile_detections(SigmaDetections.from_dict(section), {}))
    for fields in logs:
        found = match_rule(rule, fields) is not None
        assert found is judge_rule(SigmaDetections.from_dict(section), fields)


def read_captures(folder: Path, every: int) -> Iterator[Fields]:
    """Each so-manieth event that is a process creation or a script."""
    seen = 0
    for path in sorted(folder.rglob("*.json")):
        for line in path.read_bytes().splitlines():
            fields = orjson.loads(line)
            if fields.get("EventID") in (1, 4104):
                seen += 1
                if seen % every == 0:
                    yield fields


@pytest.mark.timeout(300)
def test_sigmahq_equals_the_reference_on_real_events(
    shared_data: Callable[[str], Path],
) -> None:
    """Rules of SigmaHQ on captured events, whatever their logsource: the same fire."""
    windows = shared_data("sigma") / "rules" / "windows"
    folders = [windows / "process_creation", windows / "powershell" / "powershell_script"]
    rules = load_rules(folders, feeds=lambda logsource: None).rules
    trees = []
    for rule in rules:
        content = yaml.safe_load(Path(rule.info.path).read_bytes())
        detections = SigmaRule.from_dict(content).detection
        trees.append([condition.parse() for condition in detections.parsed_condition])
    events = list(read_captures(shared_data("windows") / "security-datasets", 20))
    fired = 0
    for fields in events:
        for rule, conditions in zip(rules, trees, strict=True):
            found = match_rule(rule, fields) is not None
            fired += found
            expected = any(judge(condition, fields) for condition in conditions)
            assert found is expected, rule.info.path
    assert len(events) > 50
    assert fired > 10
