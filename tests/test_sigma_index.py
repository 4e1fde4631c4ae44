"""The index in front of the plain matcher: it may let a rule through in vain, it may miss none.

The referee is the same detector without an index: ids, order, views and evidence must be equal.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.detect.sigma import index as index_module
from appliance.detect.sigma.cache import Cache, IndexCache
from appliance.detect.sigma.engine import SigmaDetector
from appliance.detect.sigma.index import Index, compile_database, list_bits
from appliance.detect.sigma.load import load_rules
from appliance.detect.sigma.match import AllOf, AnyOf, FieldTest, IsNull, Node, Not
from appliance.detect.sigma.needs import (
    MAX_LITERAL,
    Every,
    Expression,
    Literal,
    Some,
    find_bars,
    find_need,
)
from appliance.detect.sigma.patterns import (
    Compares,
    IsNumber,
    Matches,
    ValueTest,
    Wildcard,
    build_text_test,
)
from appliance.detect.sigma.values import ViewValues
from appliance.normalise import feeds
from appliance.pipeline import read_event
from appliance.schema import Cursor, LogSource, RawRecord, Sighting, View
from tests.conftest import FindData
from tests.referee.texts import PIECES

MANY, ONE = Wildcard.MANY, Wildcard.ONE
WINDOWS = LogSource("windows")
RECORD = RawRecord(b"{}", "s", "p", "l", Cursor("s", "k", 0, 1), 0.0)


def text_test(*parts: str | Wildcard, cased: bool = False) -> ValueTest:
    """A Sigma string's test."""
    return build_text_test(parts, cased=cased)


def field(name: str | None, *tests: ValueTest, every: bool = False) -> FieldTest:
    """A test of a field."""
    return FieldTest(name, tests, every)


def make_event(fields: Mapping[str, Any], *sources: LogSource) -> Sighting:
    """An event with these fields in one view of each logsource."""
    shared = dict(fields)
    views = tuple(View(source, shared) for source in sources or (WINDOWS,))
    return Sighting(0.0, 0.0, "h", views, RECORD, "json")


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (field("f", text_test("Abc")), Literal("f", "abc", True, True)),
        (field("f", text_test("Abc", MANY)), Literal("f", "abc", True, False)),
        (field("f", text_test(MANY, "Abc")), Literal("f", "abc", False, True)),
        (field("f", text_test(MANY, "Abc", MANY)), Literal("f", "abc")),
        (field("f", text_test("ABC", cased=True)), Literal("f", "abc", True, True)),
        (field(None, text_test(MANY, "K\u212a", MANY)), Literal(None, "kk")),
        (field("f", text_test(MANY)), Literal("f", "", True)),
        (field(None, text_test(MANY)), None),
        (field("f", IsNumber(4688.0)), Literal("f", "4688", True, True)),
        (field("f", Compares(">", 3)), Literal("f", "", True)),
        (field("f", Matches("a+b")), Expression("f", "a+b")),
        (
            field("f", text_test("ab", MANY, "cde", ONE, "fgh", MANY, "ij")),
            Every(
                (
                    Literal("f", "ab", True),
                    Literal("f", "cde"),
                    Literal("f", "fgh"),
                    Literal("f", "ij", False, True),
                )
            ),
        ),
        (field("f", text_test("x" * 100)), Literal("f", "x" * MAX_LITERAL, True)),
        (field("f", text_test(MANY, "x" * 100)), Literal("f", "x" * MAX_LITERAL, False, True)),
        (
            field("f", text_test("a"), text_test("b")),
            Some((Literal("f", "a", True, True), Literal("f", "b", True, True))),
        ),
        (
            field("f", text_test("a"), text_test("b"), every=True),
            Every((Literal("f", "a", True, True), Literal("f", "b", True, True))),
        ),
        (IsNull("f"), None),
        (Not(field("f", text_test("a"))), None),
        (AllOf((Not(IsNull("f")), field("f", text_test("a")))), Literal("f", "a", True, True)),
        (AnyOf((IsNull("f"), field("f", text_test("a")))), None),
    ],
)  # fmt: skip
def test_need_of_a_node(node: Node, expected: object) -> None:
    """What each kind of node cannot match without."""
    assert find_need(node) == expected


class Odd(Node):
    """A node of a kind that nobody knows."""

    def match(self, view: ViewValues) -> None:
        """Never matches."""

    def describe(self) -> str:
        """Its name."""
        return "odd"


def test_an_unknown_node_makes_the_rule_always_evaluated() -> None:
    """What it raises must be counted for each event, wherever it stands."""
    assert find_need(AllOf((field("f", text_test("a")), Odd()))) is None
    assert find_bars(AllOf((Not(field("f", text_test("a"))), Odd()))) == frozenset()


def test_bars_are_what_not_refuses() -> None:
    """Only literals that decide alone, at the top of the condition."""
    refused = AnyOf(
        (
            field("f", text_test("a"), text_test(MANY, ".exe"), text_test("C", cased=True)),
            field("g", text_test("b"), text_test("c"), every=True),
            field("h", text_test(MANY, "long", MANY), text_test(MANY, "ab", MANY)),
        )
    )
    assert find_bars(AllOf((field("f", text_test(MANY)), Not(refused)))) == {
        Literal("f", "a", True, True),
        Literal("f", ".exe", False, True),
        Literal("h", "long"),
        Literal("h", "ab"),
    }
    assert find_bars(AnyOf((Not(refused), IsNull("f")))) == frozenset()


def find(fields: Mapping[str, Any], *nodes: Node) -> list[int]:
    """The candidates among the nodes."""
    index = Index([find_need(node) for node in nodes], [find_bars(node) for node in nodes])
    return list_bits(index.find(fields))


def test_index_leaves_the_few() -> None:
    """A literal in another place, or another field where that can be told, is no candidate."""
    nodes = (
        field("f", text_test("cmd.exe")),
        field("f", text_test(MANY, "cmd.exe")),
        field("g", text_test(MANY, "cmd.exe")),
        field("f", Matches(r"\Ac.d\.exe\z")),
        AllOf((field("f", text_test(MANY)), Not(field("f", text_test(MANY, ".exe"))))),
    )
    assert find({"f": "CMD.EXE"}, *nodes) == [0, 1]
    assert find({"f": "cmd.exe"}, *nodes) == [0, 1, 3]
    assert find({"f": "x\\cmd.exe"}, *nodes) == [1]
    assert find({"g": "cmd.exe"}, *nodes) == [2, 3]  # in which field an expression is is not told
    assert find({"g": "Cmd.exe"}, *nodes) == [2]
    assert find({"f": "cmd.com", "g": ".exe"}, *nodes) == [4]
    assert find({}, *nodes) == []
    assert find({"f": ["a", "Cmd.Exe"], "g": None}, *nodes) == [0, 1]


@pytest.mark.parametrize(
    "expression",
    ["a{1,1000}b", "é", r"\pL", r"(?U)a", r"\Qa\E", "x" * 2000, r"\C", "", "a*", r"[\x{100}]"],
)
def test_expressions_that_are_left_to_the_plain_matcher(expression: str) -> None:
    """No clause can be made of them: the rule is always a candidate."""
    assert find({}, field("f", Matches(expression))) == [0]


@pytest.mark.parametrize("text", ["é", "a\vb", "\u212a", "a\ud800"])
def test_expressions_count_as_found_in_text_that_is_not_plain(text: str) -> None:
    """Where RE2 and Hyperscan may differ RE2 decides."""
    assert find({"f": text}, field("f", Matches("zzz"))) == [0]
    assert find({"f": "plain", "g": text}, field("f", Matches("zzz"))) == []
    rest = field("g", text_test("x"))
    assert find({"f": "plain", "g": text}, field("f", Matches("zzz")), rest) == []
    assert find({"f": "plain", "g": "é"}, field("f", Matches("^pl")), rest) == [0]


RULES = """
- {f: x}
- {'f|contains': [kelvin, 'straße', "\\u017f"]}
- {'f|endswith': ['.exe', 'İ'], 'g|startswith': 'c:'}
- {'f|contains|all': ['a', 'b']}
- {'f|re': '(?i)k[a-z]{2}vin$'}
- {'f|re': '^a\\W+b'}
- {'f|re': '[^\\s]\\S\\x0b?c'}
- {'f|cased': 'Kelvin'}
- {'f|contains|cased': 'AB'}
- {f: 'a*b?c'}
- {f: '?*x'}
- {f: null}
- {'f|exists': true}
- {'g|exists': false}
- {f: ''}
- {f: [1, 4688, -1]}
- {f: 1.5}
- {f: true}
- {'f|gt': 3}
- {'f|cidr': 10.0.0.0/8}
- {'f|fieldref': g}
- {'f|neq': x}
- {'f|contains|windash': ' -a'}
- {'f|base64offset|contains': foo}
- {'f|wide|base64offset|contains': ping}
- [kelvin, 'a"b', 'c\\d', '*', 'true', '15']
- ["ß*\\u017f"]
- {'f|contains': ["\\x01", "\\0", "\\t"]}
- {'f|minute': 5}
"""
CONDITIONS = (
    "a", "not a", "a and not b", "a or b", "a and b", "not a and not b", "1 of them", "a and not c",
    "(a or b) and not c", "all of them", "a and not 1 of b*",
)  # fmt: skip


@pytest.fixture(scope="module")
def detectors(tmp_path_factory: pytest.TempPathFactory) -> tuple[SigmaDetector, SigmaDetector]:
    """Some hundreds of rules from all pairs of parts, with an index and without."""
    parts = [line[2:] for line in RULES.strip().splitlines()]
    folder = tmp_path_factory.mktemp("rules")
    choose = random.Random(4)
    sources = (
        "{product: windows}", "{category: process_creation}", "{product: windows, service: x}",
    )  # fmt: skip
    for number in range(400):
        one, two, three = (
            parts[number] if number < len(parts) and place == 0 else choose.choice(parts)
            for place in range(3)
        )
        condition = "a" if number < len(parts) else choose.choice(CONDITIONS)
        body = f"{{a: {one}, b: {two}, c: {three}, condition: {condition}}}"
        text = f"title: r{number}\nlogsource: {choose.choice(sources)}\ndetection: {body}\n"
        (folder / f"{number}.yml").write_text(text)
    rules = load_rules([folder], feeds=lambda logsource: None)
    assert len(rules.rules) > 380, rules.refused[:3]
    return SigmaDetector(rules), SigmaDetector(rules, indexed=False)


def check(detectors: Sequence[SigmaDetector], event: Sighting) -> int:
    """Both say the same; how much they say."""
    fast, plain = detectors
    found = fast.detect(event)
    assert found == plain.detect(event)
    return len(found)


TEXTS = st.lists(st.sampled_from(PIECES), max_size=4).map("".join) | st.text(max_size=8)
SCALARS = (
    TEXTS
    | st.integers(-5, 5)
    | st.sampled_from([4688, 4688.0, 1.5, True, False, None, 2**70, 1e300, float("inf"), b"x\xff"])
)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(TEXTS, SCALARS, max_size=2)
SOURCES = st.lists(
    st.sampled_from(
        [
            WINDOWS,
            LogSource("windows", "process_creation"),
            LogSource("windows", None, "x"),
            LogSource("linux"),
        ]
    ),
    min_size=1,
    max_size=3,
)


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    views=st.lists(
        st.tuples(st.dictionaries(st.sampled_from("fgh"), VALUES), SOURCES), min_size=1, max_size=2
    )
)
def test_fast_says_what_plain_says(
    detectors: tuple[SigmaDetector, SigmaDetector],
    views: list[tuple[dict[str, Any], list[LogSource]]],
) -> None:
    """Made-up events, of views that share their fields and views that do not."""
    made = tuple(View(source, fields) for fields, sources in views for source in sources)
    check(detectors, Sighting(0.0, 0.0, "h", made, RECORD, "json"))


def test_an_index_is_built_for_what_comes_again(tmp_path: Path) -> None:
    """Until then every rule is asked, and what is said is the same."""
    text = "title: t\nlogsource: {product: windows}\ndetection: {s: {f: a}, condition: s}\n"
    (tmp_path / "r.yml").write_text(text)
    rules = load_rules([tmp_path], feeds=lambda logsource: None)
    patient = SigmaDetector(rules, patience=2)
    for number in range(1, 5):
        assert len(patient.detect(make_event({"f": "a"}))) == 1
        assert not patient.detect(make_event({"f": "b"}, LogSource("linux")))
        assert len(patient._indexes) == (number > 2)
    assert patient.evaluated == {next(iter(rules.rules)).info.id: 4}
    prepared = SigmaDetector(rules, patience=2)
    prepared.prepare([(WINDOWS,)])
    assert len(prepared._indexes) == 1


def test_ledgers_are_equal(detectors: tuple[SigmaDetector, SigmaDetector]) -> None:
    """`evaluated` counts events that met the logsource, not candidates."""
    for fields in ({"f": "x"}, {"f": "kelvin.exe", "g": "c:"}, {}):
        check(detectors, make_event(fields, WINDOWS, LogSource("windows", "process_creation")))
    assert detectors[0].counts() == detectors[1].counts()
    assert any(count["fired"] for count in detectors[0].counts().values())


@pytest.mark.parametrize(
    "value",
    [
        "a" * 1_000_000,
        "\x01" * 100_000,
        "\u017f" * 200_000,
        "İ" * 100_000 + ".exe",
        "-".join(PIECES) * 200,
        ["x"] * 20_000,
        [[["x"]]] * 1000,
        {"k": {"k": ["kelvin"]}},
        "\ud800" * 10_000 + "kelvin",
    ],
    ids=range(9),
)
def test_hostile_values(detectors: tuple[SigmaDetector, SigmaDetector], value: Any) -> None:
    """Huge values, tags inside values, what grows when folded, lone surrogates."""
    assert check(detectors, make_event({"f": value, "g": "c:\\"})) > 0


ODD = [
    chr(code) for code in (*range(0x20), 0x17F, 0xDF, 0x130, 0x131, 0x212A, 0x1E9E, 0x3A3, 0x3C2)
]


@pytest.mark.parametrize("character", ODD)
def test_each_odd_character(detectors: tuple[SigmaDetector, SigmaDetector], character: str) -> None:
    """Also those that are tags, alone and around what a rule looks for."""
    for text in (character, f"{character}kelvin{character}", f"a{character}b", f"x.exe{character}"):
        check(detectors, make_event({"f": text, "g": f"c:{character}"}))
        check(detectors, make_event({"f": [text, character]}))


def test_keywords_that_are_written_alike() -> None:
    """A lone surrogate and a question mark look the same in the buffer; both rules are asked."""
    nodes = [field(None, text_test(MANY, text, MANY)) for text in ("a\ud800", "a?", 'a"\\')]
    assert find({"f": "a\ud800"}, *nodes) == [0, 1]
    assert find({"f": "A?"}, *nodes) == [0, 1]
    assert find({"f": 'xA"\\x'}, *nodes) == [2]
    also = field("f", text_test("x"))
    assert find({"f": 'xA"\\x', "g": "a?"}, *nodes, also) == [0, 1, 2]


def test_no_bar_in_a_value_that_forges_a_tag(tmp_path: Path) -> None:
    """Who writes the index's own tags into a value takes no rule away."""
    rule = "title: t\nlogsource: {product: windows}\ndetection:\n"
    rule += "  s: {f: '*'}\n  n: {'g|endswith': '.exe'}\n  condition: s and not n\n"
    (tmp_path / "r.yml").write_text(rule)
    rules = load_rules([tmp_path], feeds=lambda logsource: None)
    detector = SigmaDetector(rules)
    assert not detector.detect(make_event({"f": "a", "g": "b.exe"}))
    for digit in index_module._DIGITS:
        assert len(detector.detect(make_event({"f": f".exe{digit}", "g": "b"}))) == 1


def read_set(folder: Path, every: int) -> Iterator[Sighting]:
    """Each so-many-th event of the JSON lines of a folder."""
    number = 0
    for path in sorted(folder.rglob("*.json")):
        with path.open("rb") as lines:
            for line in lines:
                number += 1
                if number % every == 0:
                    cursor = Cursor("s", path.name, number, number + 1)
                    record = RawRecord(line, "s", str(path), path.name, cursor, 1.7e9)
                    result = read_event(record, UTC)
                    if isinstance(result, tuple):
                        yield result[0]


def test_real_events_with_the_public_rules(shared_data: FindData) -> None:
    """A sample of the real events, with every rule of SigmaHQ; `python -m benchmarks sigma_speed`
    compares all of them."""
    rules = load_rules([shared_data("sigma") / "rules"], feeds=feeds)
    fast, plain = SigmaDetector(rules), SigmaDetector(rules, indexed=False)
    events = list(read_set(shared_data("windows") / "security-datasets", 97))
    found = sum(check((fast, plain), event) for event in events)
    assert len(events) > 1000
    assert found > 20
    assert fast.candidates < 10 * len(events)
    assert fast.counts() == plain.counts()


def test_cache_gives_the_same_database(tmp_path: Path) -> None:
    """What was kept is used; what is not as it was is made anew."""
    cache = IndexCache(Cache(tmp_path))
    patterns = ((b"abc", 0), (b"x\\x01y", 0))
    assert cache.open_database(patterns).size() == compile_database(patterns).size()
    (kept,) = tmp_path.iterdir()
    before = kept.read_bytes()
    stamp = kept.stat().st_mtime_ns
    cache.open_database(patterns)
    assert kept.stat().st_mtime_ns == stamp
    other = before.replace(b"1", b"2", 1)
    for bad in (b"", before[:-1], other, before + b"x", b"\0" * len(before)):
        kept.write_bytes(bad)
        assert cache.open_database(patterns).size() > 0
        assert kept.read_bytes() == before
    kept.chmod(0o666)
    kept.write_bytes(before)
    assert Cache(tmp_path).read(kept.name) is None
    cache.open_database(patterns)
    assert Cache(tmp_path).read(kept.name) is not None


def test_cache_that_cannot_be_written_does_no_harm(tmp_path: Path) -> None:
    """A folder that is a file."""
    (tmp_path / "f").write_text("x")
    assert IndexCache(Cache(tmp_path / "f")).open_database(((b"abc", 0),)).size() > 0


def test_detector_with_a_cache_says_the_same(
    tmp_path: Path, detectors: tuple[SigmaDetector, SigmaDetector]
) -> None:
    """Twice: when it is filled, and when it is read."""
    for _ in range(2):
        fast = SigmaDetector(detectors[0]._rule_set, cache=IndexCache(Cache(tmp_path)))
        fast.prepare([(WINDOWS,)])
        assert check((fast, detectors[1]), make_event({"f": "x kelvin.exe", "g": "c:"})) > 0
    assert list(tmp_path.iterdir())
