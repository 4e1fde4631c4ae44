"""The plain Sigma matcher: every modifier and every rule of its semantics, hit and near miss."""

import re
import time
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sigma.modifiers import modifier_mapping
from sigma.rule import SigmaDetections

from appliance.detect.sigma.compile import Placeholders, compile_detections, guard_pysigma
from appliance.detect.sigma.match import (
    MAX_MATCHES,
    MAX_TEXT,
    CompiledRule,
    Evidence,
    match_rule,
)
from appliance.detect.sigma.patterns import Matches, Parts, Wildcard, build_text_test
from appliance.detect.sigma.values import Value, fold
from appliance.errors import RuleError
from appliance.schema import LogSource, Match, RuleInfo

INFO = RuleInfo("id", "title", "", "medium", (), (), LogSource("windows"), "rule.yml", 1, "hash")


def compile_rule(
    detection: Mapping[str, Any], placeholders: Placeholders | None = None
) -> CompiledRule:
    """A rule of this detection section; `condition` defaults to the one detection 's'."""
    section = {"condition": "s", **detection}
    with guard_pysigma():
        node = compile_detections(SigmaDetections.from_dict(section), placeholders or {})
    return CompiledRule(INFO, node)


def find(item: object, fields: Mapping[str, Any]) -> Evidence | None:
    """The evidence of one detection in the fields."""
    return match_rule(compile_rule({"s": item}), fields)


WIDE = "c\0m\0d\0"
ITEMS: list[tuple[str, object, list[Any], list[Any]]] = [
    # modifiers and value of field f, values of f that match, values that nearly do
    ("", "cmd.exe", ["cmd.exe", "CMD.EXE", ["x", "Cmd.exe"]], ["cmd.exe ", "xcmd.exe", "", None]),
    ("", ["a", "b"], ["A", "b", ["z", "b"]], ["c", "ab", []]),
    ("", "", [""], [" ", None, [], "x"]),
    ("", "*", ["", "x", 0, False], [None, []]),
    ("", "?", ["x", "ß", "İ", 7], ["", "xy"]),
    ("", "a*b?d", ["abcd", "aXXbcd", "ab*b?d"], ["abd", "abcde", "xabcd"]),
    ("", r"a\*b", ["a*b", "A*B"], ["axb", r"a\*b"]),
    ("", r"a\?", ["a?"], ["ab"]),
    ("", r"C:\\*\x", ["C:\\win\\X", "c:\\\\x"], ["C:win\\x", "C:\\x"]),
    ("", r"a\\\*", [r"a\*"], [r"a\b", "a*"]),
    ("", r"\\\\host", [r"\\host"], [r"\host", r"\\\\host"]),
    (
        "",
        4688,
        [4688, "4688", 4688.0, ["1", 4688]],
        ["04688", "4688 ", 46880, "0x1250", True, None],
    ),
    ("", "4688", [4688, "4688", 4688.0], [4689, "4688.0"]),
    ("", "46*", [4688, "46"], [1468]),
    ("", 1, [1, "1", 1.0], [True, "true", "01"]),
    ("", 1.5, [1.5, "1.5"], [1, "1.50", 15]),
    ("", True, [True, "true", "TRUE"], [False, 1, "1", "yes"]),
    ("", "false", [False, "False"], [0, "", None]),
    ("", None, [None, [], ["x", None]], ["", "null", 0, False, ["x"]]),
    ("", [None, "x"], [None, "X"], ["", "y"]),
    ("", "straße", ["STRAßE", "STRAẞE"], ["STRASSE"]),
    ("", "ΟΔΟΣ", ["οδος", "οδοσ"], ["οδο"]),
    ("", "info", ["INFO"], ["İNFO", "\u0131nfo"]),
    ("", "%x%", ["%X%"], ["x"]),
    ("contains", "mim", ["xMIMx", "mim", ["a", "amim"]], ["mi m", "", None]),
    ("contains", "a*b", ["xaZZbx"], ["ba"]),
    ("contains", "", ["", "x"], [None]),
    ("contains|all", ["a", "b"], ["ba", ["xa", "bx"]], ["a", ["a", "a"]]),
    ("all", ["a*", "*b"], ["a--b"], ["a", "b"]),
    ("startswith", "pre", ["Prefix", "pre"], ["xpre", "pr"]),
    ("startswith", "p?e", ["pXefix"], ["pefix"]),
    ("endswith", r"\cmd.exe", [r"C:\CMD.EXE", r"\cmd.exe"], ["cmd.exe", r"\cmd.exe.bak"]),
    ("cased", "Cmd", ["Cmd"], ["cmd", "CMD"]),
    ("contains|cased", "Cmd", ["xCmdx"], ["xcmdx"]),
    ("startswith|cased", "Cm", ["Cmd"], ["cmd"]),
    ("endswith|cased", "mD", ["CmD"], ["cmd"]),
    ("cased", "A*b*C", ["AxbyC"], ["axbyc", "AxByC"]),
    ("re", "a.c$", ["xxabc", ["q", "abc"]], ["abcd", "ABC", "a\nc", None]),
    ("re", r"^\d{4}$", [4688, "1234"], ["12345"]),
    ("re|i", "ABC", ["xabcx"], ["ab"]),
    ("re|m", "^b$", ["a\nb\nc"], ["ab"]),
    ("re", "^b$", ["b"], ["a\nb\nc"]),
    ("re|s", "a.b", ["a\nb"], ["a\n\nb"]),
    ("re|ignorecase", "ABC", ["xabcx"], ["ab"]),
    ("re|multiline", "^b$", ["a\nb\nc"], ["ab"]),
    ("re|dotall", "a.b", ["a\nb"], ["a\n\nb"]),
    ("re|i|m|s", "^A.C$", ["x\na\nc\ny"], ["xa\nc"]),
    ("re|startswith", "a|b", ["ax", "bx"], ["xa"]),
    ("re|endswith", "a|b", ["xa", "xb"], ["ax"]),
    ("re|contains", "a|b", ["xax"], ["xcx"]),
    ("re", "é", ["café"], ["cafe", "caf\udce9"]),
    ("cidr", "10.0.0.0/8", ["10.1.2.3", "::ffff:10.1.2.3"], ["11.0.0.1", "10.1", "x", 10, ""]),
    ("cidr", "fe80::/10", ["fe80::1", "FE80::1%eth0"], ["fec0::1", "10.0.0.1"]),
    ("cidr", ["10.0.0.0/8", "192.168.0.0/16"], ["192.168.1.1"], ["172.16.0.1"]),
    ("windash", "-x", ["-x", "/X", "\u2013x", "\u2014x", "\u2015x"], ["x", "--x", "+x"]),
    ("windash|contains|all", [" -a", " -b"], ["c /b -a", "c /a /b"], ["c -a"]),
    ("contains|windash", " -a-b ", ["x /a-b y"], ["x /a/b y"]),
    ("base64", "foobar", ["Zm9vYmFy"], ["xZm9vYmFy", "foobar"]),
    ("base64|contains", "foobar", ["xZm9vYmFyx"], ["Zm9vYmF"]),
    ("base64offset|contains", "foobar", ["Zm9vYmFy", "eGZvb2Jhcg==", "eHhmb29iYXI="], ["Zm9vYmF"]),
    ("wide", "cmd", [WIDE, WIDE.upper()], ["cmd", "\0c\0m\0d"]),
    ("utf16be", "cmd", ["\0c\0m\0d"], [WIDE]),
    ("utf16", "cmd", ["\ufeff" + WIDE], [WIDE]),
    ("wide|base64offset|contains", "ping", ["cABpAG4AZw", "eHAAaQBuAGcA"], ["ping"]),
    ("gt", 5, [6, "6", 5.1, "5.5", [1, 9]], [5, "5", "x", None, True, "0x10", "nan"]),
    ("gte", 5, [5, "5", "6e0"], [4.9, "4"]),
    ("lt", 5, [4, "-1", "4.99"], [5, "", "٤"]),
    ("lte", 5, [5, 5.0], [5.01]),
    ("gt", 9007199254740992, ["9007199254740993"], ["9007199254740992"]),
    ("neq", "x", ["y", "", None, ["y"]], ["x", "X", ["y", "x"]]),
    ("neq", 5, [6, "6"], [5, "5"]),
    ("contains|neq", "x", ["abc"], ["axc"]),
    ("neq", ["a", "b"], ["c"], ["a", "b"]),
    ("exists", True, ["", None, 0, []], []),
    ("minute", 30, ["2024-05-06T07:30:59Z", 1714980600], ["2024-05-06T07:31:00", "x", None, True]),
    ("hour", 7, ["2024-05-06 07:59:59.1234567", "2024-05-06T07:00:00+09:00"], ["2024-05-06 08:00"]),
    ("hour|gte", 22, ["2024-05-06T23:00:00"], ["2024-05-06T21:59:59", 22]),
    ("day", 6, ["2024-05-06"], ["2024-06-05"]),
    ("week", 19, ["2024-05-06"], ["2024-05-05"]),
    (
        "month",
        5,
        ["2024-05-06", 1714980600.5, "1714980600.5"],
        ["2024-06-05", "1e400", "99999999999"],
    ),
    ("year", 2024, ["2024-05-06"], ["2023-05-06", "2024-13-01"]),
    ("year|lt", 2024, ["2023-05-06"], ["2024-05-06"]),
    ("fieldref", "g", ["OTHER", ["x", "other"]], ["othe", "g", None]),
    ("fieldref|startswith", "g", ["other stuff"], ["an other"]),
    ("fieldref|endswith", "g", ["an OTHER"], ["other stuff"]),
    ("fieldref|contains", "g", ["an other one"], ["an othe r"]),
    ("fieldref|neq", "g", ["x", None], ["Other"]),
]


@pytest.mark.parametrize(("used", "value", "hits", "misses"), ITEMS)
def test_item_matches_and_nearly_matches(
    used: str, value: object, hits: list[Any], misses: list[Any]
) -> None:
    """One field, one modifier chain: what matches, and what nearly does."""
    item = {f"f|{used}" if used else "f": value}
    assert hits
    for hit in hits:
        assert find(item, {"f": hit, "g": "Other"}) is not None, hit
    for miss in misses:
        assert find(item, {"f": miss, "g": "Other"}) is None, miss


def test_every_modifier_is_tried() -> None:
    """The table above names each modifier that pySigma knows; `expand` has a test of its own."""
    tried = {name for used, *_ in ITEMS for name in used.split("|")} | {"expand"}
    assert modifier_mapping.keys() <= tried


def test_utf16_base64_is_what_powershell_reads() -> None:
    """-EncodedCommand is UTF-16LE in base64; the order mark is encoded as FF FE."""
    assert find({"f|wide|base64": "ping"}, {"f": "cABpAG4AZwA="}) is not None
    assert find({"f|utf16|base64": "p"}, {"f": "//5wAA=="}) is not None


@pytest.mark.parametrize(
    ("item", "hits"),
    [
        ({"f": "x"}, False),
        ({"f": "*"}, False),
        ({"f": ""}, False),
        ({"f": None}, True),
        ({"f|neq": "x"}, True),
        ({"f|exists": False}, True),
        ({"f|exists": True}, False),
        ({"f|gt": 0}, False),
        ({"f|fieldref": "g"}, False),
        ({"f|fieldref": "h"}, False),
    ],
)
def test_absent_field(item: Mapping[str, object], hits: bool) -> None:
    """What an absent field means to each kind of test. Field names keep their case."""
    assert (find(item, {"F": "x", "g": "y"}) is not None) is hits


def test_present_field_fails_exists_false() -> None:
    """`exists` asks for the name, not for the value."""
    assert find({"f|exists": False}, {"f": None}) is None


KEYWORDS: list[tuple[object, dict[str, Any], bool]] = [
    (["evil"], {"a": "x", "b": "some EVIL text"}, True),
    (["evil"], {"evil": "x"}, False),
    (["evil", "bad"], {"a": "bad"}, True),
    ("ev*l", {"a": "xxevABClxx"}, True),
    ("ev?l", {"a": "xxevillxx"}, True),
    ("ev?l", {"a": "xxevlxx"}, False),
    (["evil"], {"a": ["x", {"b": ["deep EVIL"]}]}, True),
    ({"|all": ["one", "two"]}, {"a": "One", "b": "tWo"}, True),
    ({"|all": ["one", "two"]}, {"a": "one"}, False),
    ({"|re": "^ev.l$"}, {"a": "x", "b": "evil"}, True),
    ({"|re": "^ev.l$"}, {"a": "x evil"}, False),
    ({"|cased": "Evil"}, {"a": "xEvil"}, True),
    ({"|cased": "Evil"}, {"a": "xevil"}, False),
    ({"|contains": "evil"}, {"a": "xevilx"}, True),
    ([4688], {"a": 4688}, True),
    ([4688], {"a": "id=4688;"}, True),
    ([4688], {"a": "id=468"}, False),
    (["*"], {"a": ""}, True),
    (["x"], {}, False),
    ({"|cidr": "10.0.0.0/8"}, {"a": "x", "b": "10.9.9.9"}, True),
]


@pytest.mark.parametrize(("item", "fields", "hits"), KEYWORDS)
def test_keywords_are_searched_in_all_values(
    item: object, fields: dict[str, Any], hits: bool
) -> None:
    """A keyword is a substring of any value, never of a field's name."""
    evidence = find(item, fields)
    assert (evidence is not None) is hits
    assert evidence is None or evidence[0].field is None


A, B, C = {"a": 1}, {"b": 1}, {"c": 1}
CONDITIONS = [
    ("sel_a and sel_b", [A | B], [A, B]),
    ("sel_a or sel_b", [A, B], [C]),
    ("not sel_a", [B, {}], [A]),
    ("sel_a and not sel_b", [A], [A | B, {}]),
    ("not sel_a and sel_b or other", [B, A | C], [A | B, A]),
    ("sel_a or sel_b and other", [A, B | C], [B, C]),
    ("(sel_a or sel_b) and other", [A | C], [A, C]),
    ("not (sel_a or sel_b)", [C], [A, B]),
    ("not not sel_a", [A], [B]),
    ("1 of sel_*", [A, B], [C]),
    ("any of sel_*", [A, B], [C]),
    ("all of sel_*", [A | B], [A, B]),
    ("1 of them", [A, B, C], [{}, {"h": 1}]),
    ("all of them", [A | B | C], [A | B]),
    ("all of sel_* and not 1 of oth*", [A | B], [A | B | C]),
    (["sel_a and sel_b", "other"], [A | B, C], [A, B]),
]


@pytest.mark.parametrize(("condition", "hits", "misses"), CONDITIONS)
def test_conditions(
    condition: object, hits: list[dict[str, int]], misses: list[dict[str, int]]
) -> None:
    """Operators, precedence, selectors; `them` leaves out names that begin with '_'."""
    rule = compile_rule(
        {"sel_a": A, "sel_b": B, "other": C, "_h": {"h": 1}, "condition": condition}
    )
    assert all(match_rule(rule, fields) is not None for fields in hits)
    assert all(match_rule(rule, fields) is None for fields in misses)


NESTED = [
    ([{"a": 1, "b": 1}, {"c": 1}], [A | B, C], [A, B]),
    ([[{"a": 1}, {"b": 1}], {"c": 1}], [A, B, C], [{}]),
    (["evil", {"a": 1}], [A, {"z": "evil"}], [B]),
    ({"a": 1, "b": 1}, [A | B], [A, B]),
    ({"a": [1, 2], "b|neq": 1}, [A, {"a": 2}], [A | B]),
]


@pytest.mark.parametrize(("definition", "hits", "misses"), NESTED)
def test_nested_detections(
    definition: object, hits: list[dict[str, Any]], misses: list[dict[str, Any]]
) -> None:
    """Maps are ANDed, lists of maps ORed, at any depth."""
    rule = compile_rule({"s": definition})
    assert all(match_rule(rule, fields) is not None for fields in hits)
    assert all(match_rule(rule, fields) is None for fields in misses)


def test_placeholders_expand_to_values() -> None:
    """Each value of a placeholder is an alternative, also under `all`; wildcards in it count."""
    table = {"hosts": ["srv*", "dc1"], "n": ["7"]}
    rule = compile_rule({"s": {"f|expand": "%hosts%-%n%"}}, table)
    assert match_rule(rule, {"f": "SRVxyz-7"}) is not None
    assert match_rule(rule, {"f": "dc1-7"}) is not None
    assert match_rule(rule, {"f": "dc2-7"}) is None
    rule = compile_rule({"s": {"f|contains|expand|all": ["%hosts%", "x"]}}, table)
    assert match_rule(rule, {"f": "a dc1 x"}) is not None
    assert match_rule(rule, {"f": "a dc1"}) is None
    rule = compile_rule({"s": {"f|re|expand": "^%n%+$"}}, {"n": ["[0-9]"]})
    assert match_rule(rule, {"f": "123"}) is not None
    rule = compile_rule({"s": {"f|cased|expand": "%hosts%"}}, table)
    assert match_rule(rule, {"f": "dc1"}) is not None
    assert match_rule(rule, {"f": "DC1"}) is None


REFUSED: list[tuple[Mapping[str, object], str]] = [
    ({"s": {"f|expand": "%x%"}}, "placeholder %x% has no value"),
    ({"s": {"f|expand|base64": "%x%"}}, "must stand behind"),
    ({"s": {"f|nope": "x"}}, "nope"),
    ({"s": {"f|re": "(?=x)y"}}, "invalid"),
    ({"s": {"f|re": r"(a)\1"}}, "invalid"),
    ({"s": {"f|re": "a{1,2000}"}}, "invalid"),
    ({"s": {"f|re": "(((a{1,100}){1,10}){1,10})"}}, "RE2|invalid"),
    ({"s": {"f|cidr": "10.0.0.1/8"}}, "CIDR"),
    ({"s": {"f|gt": "x"}}, "incompatible"),
    ({"s": {"f|cased|fieldref": "g"}}, "cased"),
    ({"s": {"f": {"a": "b"}}}, "Unsupported type"),
    ({"s": {"f|contains": 5}}, "incompatible"),
    ({"s": {"|fieldref": "g"}}, "needs a field"),
    ({"s": [None]}, "needs a field"),
    ({"s": {"f": 1}, "condition": "t"}, "lacks"),
    ({"s": {"f": 1}, "condition": "1 of t*"}, "names no detection"),
    ({"s": {"f": 1}, "condition": "s and"}, "Expected"),
    ({"s": {"f": 1}, "condition": "s | count() > 5"}, "pipe syntax"),
    ({"s": {"f": 1}, "condition": 5}, "pySigma"),
    ({"s": {"f": 1}, "condition": "not " * 2000 + "s"}, "nested too deeply"),
    ({"s": {}}, "empty"),
    ({"s": {"f": 1}, "condition": "s and " * 5_000 + "s"}, "longer than"),
    ({"s": {"f|re": "(?<=a)b"}}, "invalid"),
    ({"s": {"f|re": "a++"}}, "invalid"),
    ({"s": {"f|windash": "-a -b -c -d"}}, "at most three"),
    ({"s": {"f|base64": "a*"}}, "wildcards"),
    ({"s": {"f|wide": "caf\u00e9"}}, "ascii"),
    ({"s": {"f|windash|fieldref": "-g"}}, "cannot be evaluated"),
]


@pytest.mark.parametrize(("detection", "reason"), REFUSED)
def test_what_cannot_be_evaluated_is_refused(detection: Mapping[str, object], reason: str) -> None:
    """A rule that would be evaluated otherwise than it says does not compile."""
    with pytest.raises(RuleError, match=reason):
        compile_rule(detection)


def test_evidence_names_field_value_and_pattern() -> None:
    """What matched is kept as the log has it, with the rule's pattern."""
    rule = compile_rule(
        {
            "s": {"Image|endswith": r"\CMD.exe", "CommandLine|contains|all": ["/c", "?x"]},
            "f": {"User": "bob"},
            "condition": "s and not f",
        }
    )
    fields = {"Image": r"C:\cmd.EXE", "CommandLine": "cmd /C 1x", "User": "eve"}
    assert match_rule(rule, fields) == (
        Match("Image", r"C:\cmd.EXE", r"*\CMD.exe"),
        Match("CommandLine", "cmd /C 1x", "*/c*"),
        Match("CommandLine", "cmd /C 1x", "*?x*"),
    )


def test_absence_has_no_evidence_but_matches() -> None:
    """A match by absence is an empty tuple, not None."""
    rule = compile_rule({"s": {"f": "x"}, "condition": "not s"})
    assert match_rule(rule, {"f": "y"}) == ()
    assert find({"f": None}, {}) == ()
    assert find({"f": None}, {"f": None}) == (Match("f", "", "null"),)


def test_evidence_is_capped_and_shows_the_place() -> None:
    """A long value is cut around what matched; the number of matches has a cap."""
    text = "é" * 5000 + "NEEDLE" + "z" * 5000
    for item in ({"f|contains": "needle"}, {"f": "*need?e*"}, {"f|re": "NEED.E"}):
        evidence = find(item, {"f": text})
        assert evidence is not None
        assert len(evidence[0].value) == MAX_TEXT
        assert "NEEDLE" in evidence[0].value
    many = find({f"f{i}": "*" for i in range(MAX_MATCHES * 2)}, {f"f{i}": i for i in range(99)})
    assert many is not None and len(many) == MAX_MATCHES


def test_evidence_can_be_encoded_whatever_the_log_held() -> None:
    """Lone surrogates, control characters and odd types never raise."""
    for raw in [
        "x\ud800\x1b[2J\n",
        10**5000,
        float("nan"),
        float("inf"),
        b"\xff",
        {"a": {}},
        [[[]]],
    ]:
        for item in ({"f": "*"}, {"f|re": "."}, {"f|gt": 1}, {"f|hour": 1}, {"f|cidr": "::/0"}):
            for match in find(item, {"f": raw}) or ():
                match.value.encode("utf-8")


def test_deeply_nested_values_do_not_raise() -> None:
    """Nesting in a log is followed without recursion."""
    deep: Any = "evil"
    for _ in range(100_000):
        deep = [deep]
    assert find(["evil"], {"f": deep}) is not None


def test_hostile_patterns_and_texts_stay_fast() -> None:
    """The classic ways to make a matcher backtrack for ever."""
    started = time.perf_counter()
    text = "a" * 100_000
    assert find({"f|re": "^(a+)+$"}, {"f": text + "!"}) is None
    assert find({"f|re": "(a|aa)*b"}, {"f": text}) is None
    assert find({"f|re": "(.*)(.*)(.*)(.*)(.*)[^a]$"}, {"f": text}) is None
    assert find({"f": "*a" * 200 + "b"}, {"f": text}) is None
    assert find({"f": "*a?" * 50 + "*b*"}, {"f": text}) is None
    assert find({"f": "*" + "?" * 50 + "b*"}, {"f": text}) is None
    assert time.perf_counter() - started < 10


PART = st.one_of(st.text("abA.\\*?", min_size=1, max_size=3), st.sampled_from(Wildcard))


def merge(parts: list[str | Wildcard]) -> list[str | Wildcard]:
    """Adjacent literals as one, as a parsed Sigma string has them."""
    merged: list[str | Wildcard] = []
    for part in parts:
        if merged and isinstance(part, str) and isinstance(merged[-1], str):
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def as_expression(parts: Parts) -> str:
    """The reference: the pattern as a backtracking regular expression."""
    table = {Wildcard.MANY: ".*", Wildcard.ONE: "."}
    return "".join(re.escape(p) if isinstance(p, str) else table[p] for p in parts)


@given(st.lists(PART, max_size=8).map(merge), st.text("abA.\\*?\n", max_size=12), st.booleans())
def test_wildcards_equal_the_reference(parts: list[str | Wildcard], text: str, cased: bool) -> None:
    """Every plain test and the chunk matcher agree with `re` on what a pattern means."""
    flags = re.DOTALL if cased else re.DOTALL | re.IGNORECASE
    expected = re.fullmatch(as_expression(parts), text, flags) is not None
    assert build_text_test(parts, cased=cased).holds(Value(text)) is expected


@given(st.lists(PART, max_size=8).map(merge), st.lists(st.text("abA.\\*?", max_size=3), max_size=9))
def test_wildcards_match_what_they_were_made_into(
    parts: list[str | Wildcard], filling: list[str]
) -> None:
    """A text made from the pattern matches it: random pairs rarely do."""
    gaps = iter([*filling, *[""] * len(parts)])
    text = "".join(
        p if isinstance(p, str) else next(gaps) if p is Wildcard.MANY else "x" for p in parts
    )
    test = build_text_test(parts)
    assert test.holds(Value(text.upper()))
    assert 0 <= test.locate(Value(text)) <= len(text)


@given(st.text(max_size=20), st.text(max_size=20))
def test_fold_keeps_length_and_is_per_code_point(left: str, right: str) -> None:
    """Positions in folded text are positions in the text, and no context plays a part."""
    assert len(fold(left)) == len(left)
    assert fold(left + right) == fold(left) + fold(right)
    assert fold(fold(left)) == fold(left)


def test_fold_of_every_code_point_is_stable() -> None:
    """All of Unicode: one code point to one, folding twice is folding once, case pairs agree."""
    for code in range(0x110000):
        character = chr(code)
        folded = fold(character)
        assert len(folded) == 1
        assert fold(folded) == folded
        if len(character.lower()) == 1 and len(character.casefold()) == 1:
            assert folded == fold(character.lower())


NAMES = ("a", "b", "c", "d")
Truth = Mapping[str, bool]


def conditions() -> st.SearchStrategy[str]:
    """Random condition texts that both Sigma and Python read."""
    return st.recursive(
        st.sampled_from(NAMES),
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(" ".join),
            inner.map("not ({})".format),
            inner.map("({})".format),
        ),
        max_leaves=8,
    )


@given(conditions())
def test_condition_trees_equal_brute_force(condition: str) -> None:
    """Every assignment of the detections' truth gives what Python's own logic gives."""
    rule = compile_rule({**{name: {name: 1} for name in NAMES}, "condition": condition})
    code = compile(condition, "condition", "eval")
    for bits in range(2 ** len(NAMES)):
        truth = {name: bool(bits >> place & 1) for place, name in enumerate(NAMES)}
        fields = {name: 1 for name, present in truth.items() if present}
        expected = eval(code, {}, dict(truth))
        assert (match_rule(rule, fields) is not None) is expected


def test_nodes_describe_themselves() -> None:
    """`explain` can say a condition in words."""
    rule = compile_rule(
        {
            "s": {"f|contains|all": ["a", "b"], "g": None, "h|exists": True, "i|fieldref": "j"},
            "k": ["word"],
            "condition": "s and not k",
        }
    )
    assert rule.condition.describe() == (
        "((f: *a* and *b* and g: null and h exists and i equals j) and not any value: *word*)"
    )


def test_regular_expression_memory_is_capped() -> None:
    """A pattern that needs too much memory is refused when the rule loads."""
    with pytest.raises(RuleError, match="RE2"):
        Matches("((a{100}){100}){100}")
