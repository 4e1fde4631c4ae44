"""Formats that the configuration describes: read, refused with file, line and key, and scanned."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from appliance.assembly import build_formats, build_reader, list_fed
from appliance.cli import main
from appliance.config import Config, dump_config, parse_config
from appliance.decode import decode
from appliance.decode.custom import build_json_decoder, build_pattern_decoder
from appliance.errors import ConfigError, DecodeError
from appliance.normalise import feeds, normalise
from appliance.pipeline import read_event
from appliance.schema import Event, LogSource, RawRecord, Rejected
from tests.formats import QUICK, list_entities, make_line, measure

CONFIG = r"""
sources:
  - {name: shop, paths: [/var/log/shop.log], format: shop, timezone: Europe/Berlin}
  - {name: badges, paths: [/var/log/badges.json], format: badges}
formats:
  - name: shop
    pattern: '(?P<when>\S+ \S+) (?P<node>\S+) (?P<src_ip>\S+) user="(?P<user>[^"]*)" (?P<uri>\S+)(?: ref=(?P<ref>.*))?'
    rename: {uri: cs-uri, ref: cs-referer}
    logsource: {product: shop, category: webserver}
    time: when
    host: node
  - name: badges
    json: {user: person.login, src_ip: reader.address, when: at, doors: doors, first: doors.0}
    logsource: {product: badges}
    time: when
"""  # noqa: E501 - one pattern
SHOP = b'2026-11-22 12:00:00 web7.example.com 203.0.113.9 user="EXAMPLE\\ann" /cart?id=1'
BADGE = {
    "at": "2026-11-22T12:00:00Z",
    "person": {"login": "eve"},
    "reader.address": "192.0.2.44",
    "doors": ["north", "south"],
    "extra": {"a": 1},
}


def load(text: str = CONFIG) -> Config:
    return parse_config(text, "a.yaml")


def read(line: bytes, name: str, config: Config | None = None) -> Event:
    config = config or load()
    formats = build_formats(config)
    zones = {spec.name: ZoneInfo(spec.timezone) for spec in config.sources}
    result = read_event(make_line(line, name), zones[name], formats)
    assert not isinstance(result, Rejected), result.reason
    return result[0].event


def test_pattern() -> None:
    event = read(SHOP, "shop")
    (view,) = event.views
    assert view.logsource == LogSource(product="shop", category="webserver")
    assert view.fields == {
        "when": "2026-11-22 12:00:00", "node": "web7.example.com", "src_ip": "203.0.113.9",
        "user": "EXAMPLE\\ann", "cs-uri": "/cart?id=1", "message": SHOP.decode(),
    }  # fmt: skip
    assert event.mapped
    assert (event.host, event.format) == ("web7", "shop")
    # The zone is the source's.
    assert event.time == datetime(2026, 11, 22, 11, tzinfo=UTC).timestamp()
    assert list_entities(event) == {"host:web7", "address:203.0.113.9", "user:example\\ann"}


def test_json() -> None:
    event = read(json.dumps(BADGE).encode(), "badges")
    (view,) = event.views
    assert view.logsource == LogSource(product="badges")
    assert {
        "user": "eve", "src_ip": "192.0.2.44", "doors": ["north", "south"], "first": "north",
        "person.login": "eve", "extra.a": 1,
    }.items() <= view.fields.items()  # fmt: skip
    assert event.time == datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()
    assert list_entities(event) == {"address:192.0.2.44", "user:eve"}


@pytest.mark.parametrize(
    ("line", "name", "reason"),
    [
        (b"hello", "shop", "does not match the pattern of format shop"),
        (b"", "shop", "does not match the pattern of format shop"),
        # The whole record must match: nothing may stand before or behind.
        (b"x " + SHOP, "shop", "does not match the pattern of format shop"),
        (SHOP + b" x", "shop", "does not match the pattern of format shop"),
        (b"hello", "badges", "not JSON"),
        (b"[1]", "badges", "not an object"),
        (b'{"other": 1}', "badges", "has none of the fields of format badges"),
        (b"{}", "nowhere", "unknown format 'nowhere'; known: "),
    ],
)
def test_what_does_not_fit_is_rejected(line: bytes, name: str, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode(make_line(line, name), build_formats(load()).decoders)


def test_forged_text_stays_in_its_group() -> None:
    line = SHOP.replace(b"EXAMPLE\\ann", b"x 198.51.100.1 user=forged")
    event = read(line, "shop")
    assert event.views[0].fields["user"] == "x 198.51.100.1 user=forged"
    assert event.views[0].fields["src_ip"] == "203.0.113.9"
    # A line break in a record (there are such sources) is not the record's end.
    forged = SHOP + b" ref=a\n2026-11-22 12:00:00 forged 6.6.6.6"
    event = read(forged, "shop")
    assert event.host == "web7"
    assert event.views[0].fields["cs-referer"] == "a\n2026-11-22 12:00:00 forged 6.6.6.6"


def test_bad_bytes() -> None:
    formats = build_formats(load())
    record = make_line(SHOP.replace(b"ann", b"\xff"), "shop")
    result = read_event(record, UTC, formats)
    assert not isinstance(result, Rejected)
    event, repaired = result
    assert repaired
    assert event.views[0].fields["user"] == "EXAMPLE\\\\xff"


def test_hostile_records_and_patterns_end_quickly() -> None:
    """What would take a backtracking engine for ever."""
    decoder = build_pattern_decoder("x", r"(?P<a>(?:a+)+)b(?P<c>(?:x|x)*)", {})
    for line in (b"a" * 100_000, b"a" * 50_000 + b"b" + b"x" * 50_000):

        def run(record: RawRecord) -> Any:
            try:
                return decoder(record)
            except DecodeError:
                return None

        record = make_line(line, "x")
        assert measure(lambda record=record: run(record)) < QUICK  # type: ignore[misc]
    places = build_json_decoder("y", {f"f{n}": ".".join(["a"] * 30) for n in range(50)})
    deep = b'{"a":' * 30 + b"1" + b"}" * 30
    assert places(make_line(deep, "y")).fields["f0"] == 1
    assert measure(lambda: places(make_line(deep, "y"))) < QUICK


def test_a_long_record_is_trimmed_like_others() -> None:
    body = {**BADGE, **{f"k{n}": n for n in range(5000)}}
    event = read(json.dumps(body).encode(), "badges")
    assert len(event.views[0].fields) < 3000
    assert event.views[0].fields["_rest"]


def test_feeds() -> None:
    formats = build_formats(load())
    rule = LogSource(product="badges")
    assert feeds(rule) is not None
    assert feeds(rule, formats.sources) is None
    assert LogSource(product="shop", category="webserver") in list_fed(formats)
    reader = build_reader(load(), {})
    assert rule in reader.fed
    assert reader.formats.decoders.keys() == {"shop", "badges"}


def test_the_configuration_survives_its_way_to_a_worker() -> None:
    config = load()
    assert parse_config(dump_config(config), "again", checked=True) == config


@pytest.mark.parametrize(
    ("change", "line", "key", "reason"),
    [
        (("name: shop\n    pattern", "name: json\n    pattern"), 6, "formats[0].name",
         "'json' is a format that the appliance knows"),
        (("name: shop\n    pattern", "name: evtx\n    pattern"), 6, "formats[0].name",
         "'evtx' is a format that the appliance knows"),
        (("name: shop\n    pattern", "name: 'a b'\n    pattern"), 6, "formats[0].name",
         "letters, digits"),
        (("name: badges\n    json", "name: shop\n    json"), 12, "formats[1].name",
         "'shop' is already used on line 6"),
        (("(?P<when>", "((?P<when>"), 7, "formats[0].pattern", "not an RE2 expression"),
        (("(?P<when>", "(?P<when>(?=a)"), 7, "formats[0].pattern", "not an RE2 expression"),
        (("uri: cs-uri,", "url: cs-uri,"), 7, "formats[0].pattern", "has no group 'url'"),
        (("uri: cs-uri,", "uri: user,"), 7, "formats[0].pattern", "gives the field 'user' twice"),
        (("time: when\n    host", "time: then\n    host"), 10, "formats[0].time",
         "the pattern gives no field 'then'"),
        (("host: node", "host: box"), 11, "formats[0].host", "the pattern gives no field 'box'"),
        (("host: node", "host: node\n    json: {a: b}"), 6, "formats[0]",
         "either a pattern or a json mapping"),
        (("json: {user: person.login", "jsn: {user: person.login"), 13, "formats[1].jsn",
         "unknown key"),
        (("json: {user: person.login", "json: {user: person..login"), 13,
         "formats[1].json.user", "names joined by dots"),
        (("json: {user: person.login", "json: {user: [1]"), 13, "formats[1].json.user",
         "must be text"),
        (("json: {user: person.login", "json: {src_ip: x, user: a"), 13,
         "formats[1].json.src_ip", "given twice"),
        (("logsource: {product: badges}", "logsource: {}"), 14, "formats[1].logsource",
         "must name a product, category or service"),
        (("logsource: {product: badges}", "host: x"), 12, "formats[1].logsource", "is missing"),
        (("logsource: {product: badges}", "logsource: {products: x}"), 14,
         "formats[1].logsource.products", "unknown key"),
        (("format: badges}", "format: badge}"), 4, "sources[1].format", "must be one of auto"),
        (("    time: when\n", "    rename: {a: b}\n    time: when\n"), 15, "formats[1].rename",
         "only a pattern"),
    ],
)  # fmt: skip
def test_every_mistake_has_its_line_and_key(
    change: tuple[str, str], line: int, key: str, reason: str
) -> None:
    old, new = change
    head, found, tail = CONFIG.rpartition(old)
    assert found
    with pytest.raises(ConfigError) as caught:
        load(head + new + tail)
    said = [text for text in caught.value.problems if text.startswith(f"a.yaml:{line}: {key}: ")]
    assert len(said) == 1, caught.value.problems
    assert reason in said[0]


def test_no_group_and_neither_shape() -> None:
    text = "sources: [{name: a, paths: [/x]}]\nformats:\n"
    for spec, key, reason in (
        ("{name: b, logsource: {product: b}}", "formats[0]", "either a pattern or a json mapping"),
        ("{name: b, logsource: {product: b}, pattern: x+}", "formats[0].pattern", "no named group"),
        ("{name: b, logsource: {product: b}, json: 5}", "formats[0].json", "must be a mapping"),
        ("5", "formats[0]", "must be a mapping"),
    ):
        with pytest.raises(ConfigError) as caught:
            load(f"{text}  - {spec}\n")
        assert any(
            said.startswith(f"a.yaml:3: {key}: ") and reason in said
            for said in caught.value.problems
        ), (spec, caught.value.problems)


RULE = """\
title: Cart of a Known Bad Client
id: 3f6d7c1e-0f0b-4a5e-9d55-0c5ab19ec001
logsource: {product: shop, category: webserver}
detection:
  selection: {src_ip: 203.0.113.9, cs-uri|startswith: /cart}
  condition: selection
level: high
"""


def test_scan_with_a_custom_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(CONFIG)
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "cart.yml").write_text(RULE)
    log = tmp_path / "shop.log"
    log.write_bytes(SHOP + b"\nhello\n" + SHOP.replace(b"/cart", b"/help") + b"\n")
    words = [
        "scan", str(log), "--no-model", "--config", str(tmp_path / "a.yaml"),
        "--rules", str(tmp_path / "rules"),
    ]  # fmt: skip
    assert main([*words, "--input-format", "shop", "--quiet", "--out", "-"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(body["title"], body["host"]) for body in found] == [
        ("Cart of a Known Bad Client", "web7")
    ]
    assert main([*words, "--input-format", "shop"]) == 0
    said = capsys.readouterr().out
    assert "1  decode: does not match the pattern of format shop" in said
    assert main([*words, "--input-format", "shpo"]) == 2
    assert "'shpo' is none of auto, json" in capsys.readouterr().err


def test_normalise_without_formats_does_not_know_one() -> None:
    """A decoded record of a format whose description is gone is read as any other."""
    record = make_line(SHOP, "shop")
    decoded = decode(record, build_formats(load()).decoders)
    assert not normalise(record, decoded, zone=UTC).mapped
