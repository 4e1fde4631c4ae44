"""Hunts find what a plain look at every event finds: queries, rules, indicators."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.archive.filters import EVERYTHING, widen_expression
from appliance.archive.reader import Archive
from appliance.archive.terms import MAX_QUERY, parse_query
from appliance.assembly import load_configured_rules
from appliance.commands.rules import read_samples
from appliance.config import Config
from appliance.detect.sigma.engine import SigmaDetector
from appliance.detect.sigma.load import RuleSet
from appliance.detect.sigma.patterns import Matches
from appliance.detect.sigma.values import Value, fold
from appliance.errors import RuleError, UsageError
from appliance.hunting import (
    Quarry,
    join_quarries,
    seek_indicator,
    seek_query,
    seek_rule,
    seek_rules,
)
from appliance.places import default_rules
from appliance.schema import Event, RawRecord, Sighting
from tests.archives import READ, build_archive, make_raw
from tests.conftest import FindData

SAMPLES = Path(__file__).parent / "samples" / "decode"
RULES = default_rules()


def list_decoded() -> list[RawRecord]:
    """The records of every format's samples, forged and broken ones too."""
    rows = []
    for path in sorted(SAMPLES.glob("*.jsonl")):
        for text in path.read_text().splitlines():
            sample = json.loads(text)
            if isinstance(sample.get("line"), str):
                rows.append((sample["line"], path.stem, sample.get("header", "")))
    return [
        make_raw(line, number, form=form, header=header)
        for number, (line, form, header) in enumerate(rows)
    ]


def list_ruled(first: int) -> list[RawRecord]:
    """The samples of our own rules: a match and a near miss of each."""
    rows = []
    for path in sorted(RULES.rglob("*.yml")):
        for sample in read_samples(path):
            rows += [(text, sample.format) for text in sample.records or (sample.record,)]
    assert len(rows) > 300
    return [make_raw(text, first + number, form=form) for number, (text, form) in enumerate(rows)]


@pytest.fixture(scope="module")
def records() -> list[RawRecord]:
    found = list_decoded()
    return found + list_ruled(len(found))


@pytest.fixture(scope="module")
def events(records: list[RawRecord]) -> list[Event]:
    return [event for record in records if (event := READ(record)) is not None]


@pytest.fixture(scope="module", params=["all", "none", "some"])
def archive(
    request: pytest.FixtureRequest,
    records: list[RawRecord],
    tmp_path_factory: pytest.TempPathFactory,
) -> Archive:
    return build_archive(
        tmp_path_factory.mktemp("archive"), records, converted=request.param, events=300
    )


def find(archive: Archive, quarry: Quarry, limit: int = 1_000_000) -> list[str]:
    """Ids of the hunt's events."""
    found = archive.hunt(quarry.condition, quarry.verify, limit=limit)
    assert not found.gone
    times = [hit.event.time for hit in found.hits]
    assert times == sorted(times)
    return sorted(hit.event.id for hit in found.hits)


def plain(events: Sequence[Event], quarry: Quarry) -> list[str]:
    """The referee: every event is asked."""
    return sorted(event.id for event in events if quarry.verify(event) is not None)


QUERIES = [
    "EventID=4625",
    "eventid=4625 -LogonType=3",
    "CommandLine=*powershell*",
    "Image=*\\powershell.exe",
    "image=*\\powershell.exe CommandLine~-e[nc]*|down(load)?",
    "CommandLine~^[^c]",
    "commandline~\\bwhoami\\b",
    "-EventID=1",
    "host=*",
    "product=windows category=process_creation",
    "service=sshd",
    "powershell",
    "root",
    "-root -windows",
    '"Accepted password"',
    "src_ip=192.0.2.*",
    "dst_port=443",
    "User=*admin*",
    "user=root",
    "*pass*word*",
    "cs-uri-stem=/*",
    "Hashes=*",
    "source=test",
    "message~(?s)a.b",
    "CommandLine=",
    "nothing-has-this-in-it",
    "query=*example*",
    'CommandLine="*""*"',
    "proto=tcp id.orig_h=192.0.2.7",
]


@pytest.mark.parametrize("text", QUERIES)
def test_a_query_finds_what_a_plain_look_finds(
    text: str, archive: Archive, events: list[Event]
) -> None:
    quarry = seek_query(text)
    assert find(archive, quarry) == plain(events, quarry)


def test_the_queries_find_something(events: list[Event]) -> None:
    empty = {text for text in QUERIES if not plain(events, seek_query(text))}
    assert empty <= {"nothing-has-this-in-it", "CommandLine=", "message~(?s)a.b"}, empty


def test_words_of_the_events_are_found_by_fields_and_anywhere(
    archive: Archive, events: list[Event]
) -> None:
    """Values as they are in the events, whatever characters they hold."""
    rng = random.Random(7)
    values = [
        (name, value)
        for event in events
        for view in event.views
        for name, value in view.fields.items()
        if isinstance(value, str) and value.strip() and "*" not in value
    ]
    strange = [pair for pair in values if not pair[1].isalnum() or not pair[1].isascii()]
    for name, value in rng.sample(values, 12) + rng.sample(strange, 12):
        quoted = '"' + value.replace('"', '""') + '"'
        for text in (f"{name}={quoted}", quoted):
            try:
                quarry = seek_query(text)
            except UsageError:
                assert not name.replace("_", "a").isalnum() or len(text) > MAX_QUERY
                continue
            wanted = plain(events, quarry)
            assert wanted
            assert find(archive, quarry) == wanted, text


def count_rules(rules: RuleSet, events: Sequence[Event]) -> dict[str, list[str]]:
    """The ids of events on which each rule fires, as the line has them."""
    detector = SigmaDetector(rules)
    found: dict[str, list[str]] = {rule.info.id: [] for rule in rules.rules}
    for event in events:
        sighting = Sighting(
            event.time, event.received, event.host, event.views, event.record, event.format,
            lambda event=event: event.entities,  # type: ignore[misc]
        )  # fmt: skip
        for detection in detector.detect(sighting):
            found[detection.rule_id].append(event.id)
    assert not detector.errors
    return found


def check_rules(rules: RuleSet, archive: Archive, events: Sequence[Event], most: int) -> int:
    """Every rule that fires, and some that don't, find the same; how many fired."""
    expected = count_rules(rules, events)
    fired = [rule for rule in rules.rules if expected[rule.info.id]]
    others = [rule for rule in rules.rules if not expected[rule.info.id]]
    chosen = fired[:most] + random.Random(3).sample(others, min(len(others), most // 4))
    for rule in chosen:
        quarry = seek_rules(replace(rules, rules=(rule,), correlations=()))
        assert find(archive, quarry) == sorted(expected[rule.info.id]), rule.info.path
    return len(fired)


def test_rules_find_what_the_line_finds(archive: Archive, events: list[Event]) -> None:
    rules = load_configured_rules(Config(), [str(RULES)], unfed=True)
    assert check_rules(rules, archive, events, 20) > 50


def test_most_rules_look_at_few_events(
    records: list[RawRecord], events: list[Event], tmp_path: Path
) -> None:
    """The filter is worth having: rules compare a small part of what is archived."""
    archive = build_archive(tmp_path, records)
    rules = load_configured_rules(Config(), [str(RULES)], unfed=True)
    shares = []
    for rule in rules.rules[:60]:
        quarry = seek_rules(replace(rules, rules=(rule,), correlations=()))
        found = archive.hunt(quarry.condition, quarry.verify, limit=10)
        shares.append(found.compared / len(events))
    assert sorted(shares)[len(shares) // 2] < 0.02


def test_rules_of_sigmahq_over_real_events(shared_data: FindData, tmp_path: Path) -> None:
    """A set of hosts' events under attack, and the rules that the world writes."""
    folder = shared_data("windows") / "security-datasets"
    lines: list[bytes] = []
    for path in sorted(folder.rglob("*.json"))[::5]:
        if path.stat().st_size < 20_000_000 and "_metadata" not in path.parts:
            lines += path.read_bytes().splitlines()[:400]
    assert len(lines) > 4_000
    rows = [make_raw(line, number) for number, line in enumerate(lines)]
    events = [event for row in rows if (event := READ(row)) is not None]
    rules = load_configured_rules(
        Config(), [str(shared_data("sigma") / "rules" / "windows")], unfed=True
    )
    archive = build_archive(tmp_path, rows, events=3_000)
    assert check_rules(rules, archive, events, 40) > 40


INDICATORS = [
    "203.0.113.9", "192.0.2.7", "::ffff:192.0.2.7", "192.0.2.0/24", "192.0.2.0/23", "2001:db8::/32",
    "example.com", "cmd.exe", "C:\\Windows\\System32\\cmd.exe", "/usr/bin/curl", "powershell.exe",
    "d41d8cd98f00b204e9800998ecf8427e", "a" * 64, "example[.]com", "hxxp://203.0.113.9/x",
    "http://203.0.113.9", "\n", "a\x1eb",
]  # fmt: skip


@pytest.mark.parametrize("text", INDICATORS)
def test_an_indicator_is_found_where_an_entity_is(
    text: str, archive: Archive, events: list[Event]
) -> None:
    if not text.strip():
        with pytest.raises(UsageError):
            seek_indicator(text)
        return
    quarry = seek_indicator(text)
    assert find(archive, quarry) == plain(events, quarry)


def test_every_entity_is_found_as_an_indicator(archive: Archive, events: list[Event]) -> None:
    rng = random.Random(5)
    seen = 0
    for kind in ("address", "domain", "hash", "file"):
        values = sorted({e.value for event in events for e in event.entities if e.kind == kind})
        assert values
        for value in rng.sample(values, min(12, len(values))):
            text = value.partition(":")[2] if kind == "hash" else value
            holding = {
                event.id
                for event in events
                if any(e.kind == kind and e.value == value for e in event.entities)
            }
            found = find(archive, seek_indicator(text))
            assert holding <= set(found), (kind, value)
            seen += 1
    assert seen > 20


def test_all_that_is_given_must_be_met(archive: Archive, events: list[Event]) -> None:
    both = join_quarries([seek_query("EventID=4625"), seek_query("LogonType=3")])
    assert find(archive, both) == find(archive, seek_query("EventID=4625 LogonType=3"))


def test_the_newest_are_kept_and_more_is_said(archive: Archive, events: list[Event]) -> None:
    quarry = seek_query("host=*")
    wanted = sorted((e.time for e in events if quarry.verify(e) is not None), reverse=True)[:25]
    found = archive.hunt(quarry.condition, quarry.verify, limit=25)
    assert sorted((hit.event.time for hit in found.hits), reverse=True) == wanted
    assert found.more


def test_a_time_is_searched_and_no_other(archive: Archive, events: list[Event]) -> None:
    times = sorted(event.time for event in events)
    since, until = times[len(times) // 4], times[3 * len(times) // 4]
    quarry = seek_query("host=*")
    found = archive.hunt(quarry.condition, quarry.verify, since=since, until=until, limit=10**6)
    wanted = sorted(
        e.id for e in events if since <= e.time < until and quarry.verify(e) is not None
    )
    assert sorted(hit.event.id for hit in found.hits) == wanted


def test_nothing_is_asked_that_is_not_bound() -> None:
    """What a query holds never becomes SQL."""
    hostile = "' OR 1=1; DROP TABLE x; --"
    for quarry in (
        seek_query(f'CommandLine="{hostile}" "{hostile}" odd="{hostile}" -x="{hostile}"'),
        seek_query(f'CommandLine~"{hostile}"'),
        seek_indicator(hostile),
    ):
        assert "DROP" not in quarry.condition.sql
        assert quarry.condition.sql.count("?") == len(quarry.condition.values)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", 0), ("   ", 0), ("a=b -", 5), ('a="b', 3), ('a="b"c', 6), ("=x", 1), ("~x", 1),
        ("a~", 3), ("*", 1), ('a=b"c', 4), ("a=b c~[", 5), ("x" * (MAX_QUERY + 1), 0),
        (" ".join(["a"] * 300), 513),
    ],
)  # fmt: skip
def test_a_bad_query_names_the_place(text: str, place: int) -> None:
    with pytest.raises(UsageError) as raised:
        seek_query(text)
    assert not place or f"character {place}:" in str(raised.value)


def test_terms_are_read() -> None:
    terms = parse_query('Image=*\\cmd.exe -user="NT ""A"" *" x~a=b word')
    assert [(t.field, t.kind, t.parts, t.negated) for t in terms] == [
        ("Image", "is", ("", "\\cmd.exe"), False),
        ("user", "is", ('NT "A" ', ""), True),
        ("x", "matches", ("a=b",), False),
        (None, "is", ("word",), False),
    ]


def test_a_rule_file_that_cannot_be_hunted_says_why(tmp_path: Path) -> None:
    broken = tmp_path / "x.yml"
    broken.write_text("title: x\nlogsource: {product: windows}\ndetection: {condition: nope}\n")
    with pytest.raises(RuleError):
        seek_rule(broken, Config())
    with pytest.raises(RuleError, match="no such file"):
        seek_rule(tmp_path / "none.yml", Config())
    correlation = next((RULES / "correlations").glob("*.yml"))
    with pytest.raises(RuleError, match="correlation"):
        seek_rule(correlation, Config())


@pytest.mark.parametrize(
    ("expression", "wide"),
    [
        ("whoami", "(?i)whoami"), (r"\\temp\\[a-z]+\.exe", r"(?i)\\temp\\[a-z]+\.exe"),
        (r"(?i)a|b{2,3}$", "(?i)(?i)a|b{2,3}$"), ("[^]a]b", "(?i)(?s:.)b"),
        ("[a[^b]", "(?i)[a[^b]"),
        (r"\bx\W", "(?i)(?:)x(?s:.)"), (r"\(?<x", r"(?i)\(?<x"), (r"[\W]", "(?i)(?s:.)"),
        ("ä", None), (r"\x41", None), ("(?-i)x", None), (r"[[:alpha:]]", None), (r"\pL", None),
        ("(?P<n>x)", None), (r"\D", r"(?i)\D"), (r"\Qa\E", None),
    ],
)  # fmt: skip
def test_expressions_are_widened_by_what_case_can_change(expression: str, wide: str | None) -> None:
    assert widen_expression(expression) == wide


@settings(max_examples=300, deadline=None)
@given(
    st.text("abAB\u212aK^$.|()[]\\\\bWwSsd*?- ", max_size=12), st.text("abAB\u212aKk -", max_size=9)
)
def test_a_widened_expression_finds_all_that_it_did(expression: str, text: str) -> None:
    try:
        test = Matches(expression)
    except RuleError:
        return
    wide = widen_expression(expression)
    if wide is not None and test.holds(Value(text)):
        assert Matches(wide).holds(Value(fold(text))), (expression, wide, text)


def test_a_hunt_over_everything_compares_everything(archive: Archive, events: list[Event]) -> None:
    found = archive.hunt(EVERYTHING, lambda _: None, limit=1)
    assert found.compared == len(events)
