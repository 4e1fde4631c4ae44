"""The indicators detector: each kind found exactly, in any spelling, at the right time; a plain
matcher as its referee; hostile values; a damaged file is refused."""

import hashlib
import ipaddress
import json
import os
import random
import zlib
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from appliance.detect.indicators import values
from appliance.detect.indicators.detector import (
    MAX_FOUND,
    MAX_LAYOUTS,
    IndicatorDetector,
    choose_level,
    name_rule,
)
from appliance.detect.indicators.fields import FIELDS, LETTERS
from appliance.detect.indicators.file import (
    MAGIC,
    MAX_ORIGINS,
    Entry,
    IndicatorFile,
    is_indicator_file,
    write_indicators,
)
from appliance.detect.indicators.values import key_indicator, read_address, split_key
from appliance.errors import ModelError
from appliance.schema import Detection, Fields, LogSource, Sighting, View
from tests.builders import T0, make_record

MD5 = "0cc175b9c0f1b6a831c399e269772661"
SHA1 = "86f7e437faa5a7fce15d1ddcb9eaea9d37766fb8"
SHA256 = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"


@dataclass(frozen=True)
class Known:
    """An indicator as the knowledge base has it."""

    kind: str
    value: str
    source: str = "feed"
    name: str = ""
    valid_from: float | None = None
    valid_until: float | None = None
    confidence: int | None = None
    links: tuple[str, ...] = ()


def build(*known: Known, remember: int = 100) -> IndicatorDetector:
    """The detector of these indicators; its file is gone, but open."""
    with TemporaryDirectory() as folder:
        file = IndicatorFile.open(write_indicators(Path(folder), known).path)
    return IndicatorDetector((file,), remember=remember)


def see(fields: Fields, *others: Fields, time: float = T0) -> Sighting:
    views = tuple(View(LogSource(product="windows"), each) for each in (fields, *others))
    return Sighting(time, T0, "web", views, make_record(), "json")


def ids(found: Iterable[Detection]) -> list[str]:
    return [each.rule_id.removeprefix("indicator:") for each in found]


def look(known: Sequence[Known], fields: Fields, time: float = T0) -> list[str]:
    return ids(build(*known).detect(see(fields, time=time)))


# --- what is found


@pytest.mark.parametrize(
    ("kind", "value", "fields"),
    [
        ("md5", MD5, {"Hashes": f"SHA1={SHA1.upper()},MD5={MD5.upper()},IMPHASH={'1' * 32}"}),
        ("sha1", SHA1.upper(), {"Hashes": f"SHA1={SHA1.upper()},MD5={MD5.upper()}"}),
        ("sha256", SHA256, {"Hashes": f"MD5={'2' * 32},SHA256={SHA256}"}),
        ("sha256", SHA256, {"sha256": SHA256.upper()}),
        ("md5", MD5, {"md5": MD5}),
        ("sha256", SHA256, {"file.hash.sha256": SHA256}),
        ("address", "203.0.113.9", {"src_ip": "203.0.113.9"}),
        ("address", "203.0.113[.]9", {"DestinationIp": "203.0.113.9"}),
        ("address", "203.0.113.9", {"DestinationIp": "::ffff:203.0.113.9"}),
        ("address", "::FFFF:203.0.113.9", {"IpAddress": "203.0.113.9"}),
        ("address", "203.0.113.9", {"ClientIP": "203.0.113.9:57064"}),
        ("address", "2001:DB8:0::7", {"dst_ip": "2001:db8::7"}),
        ("address", "2001:db8::7", {"dst_ip": "[2001:DB8:0:0::7]:443"}),
        ("address", "2001:db8::7", {"SourceIp": "2001:db8::7%12"}),
        ("address", "203.0.113.9", {"answer": ["198.51.100.1", "203.0.113.9"]}),
        ("address", "203.0.113.9", {"QueryResults": "type:  5 a.example;::ffff:203.0.113.9;"}),
        ("address", "203.0.113.9", {"cs-host": "203.0.113.9:8080"}),
        ("address", "203.0.113.9", {"c-uri": "http://203.0.113.9/x"}),
        ("network", "203.0.113.0/24", {"src_ip": "203.0.113.9"}),
        ("network", "203.0.113.77/24", {"src_ip": "::ffff:203.0.113.0"}),
        ("network", "2001:db8::/32", {"src_ip": "2001:db8:ffff::1"}),
        ("network", "203.0.113.9/32", {"src_ip": "203.0.113.9"}),
        ("network", "::ffff:203.0.113.0/120", {"src_ip": "203.0.113.9"}),
        ("domain", "evil.example", {"QueryName": "evil.example"}),
        ("domain", "Evil.Example.", {"QueryName": "WWW.EVIL.example."}),
        ("domain", "evil[.]example", {"query": "a.b.c.evil.example"}),
        ("domain", "*.evil.example", {"tls.sni": "evil.example"}),
        ("domain", "bücher.example", {"server_name": "www.xn--bcher-kva.example"}),
        ("domain", "xn--bcher-kva.example", {"cs-host": "BÜCHER.example:443"}),
        ("domain", "evil.example", {"cs-referer": "https://evil.example/a?b#c"}),
        ("domain", "evil.example", {"CommandLine": "curl -o a http://cdn.evil.example/b.exe"}),
        ("domain", "evil.example", {"QueryResults": "type:  5 x.evil.example;192.0.2.1;"}),
        ("url", "http://evil.example/a.exe", {"c-uri": "http://evil.example/a.exe"}),
        ("url", "hxxp://evil[.]example/a.exe", {"c-uri": "https://u:p@EVIL.example:443/a.exe#x"}),
        ("url", "http://evil.example", {"url": "http://evil.example"}),
        ("url", "http://evil.example/%7ea%2f", {"url": "http://evil.example/~a%2F"}),
        ("url", "http://evil.example:8080/a?b=c", {"c-uri": ["/a", "http://evil.example:8080/a?b=c"]}),
        ("url", "http://[2001:DB8::1]/a", {"url.full": "http://[2001:db8:0::1]/a"}),
        ("url", "http://evil.example/a", {"CommandLine": "iex (iwr 'http://evil.example/a')"}),
        ("url", "http://evil.example/a", {"ScriptBlockText": "get (http://evil.example/a);\n"}),
        ("file", "evil.exe", {"Image": "C:\\Users\\x\\EVIL.exe"}),
        ("file", "C:\\temp\\evil.EXE", {"OriginalFileName": "Evil.exe"}),
        ("file", "evil.sh", {"TargetFilename": "/tmp/evil.sh"}),
        ("file", "evil.exe", {"fileinfo.filename": "a/evil.exe"}),
    ],
)  # fmt: skip
def test_found(kind: str, value: str, fields: Fields) -> None:
    found = build(Known(kind, value)).detect(see(fields))
    assert len(found) == 1
    kind_of = {"203.0.113.9/32": "address"}.get(value, kind)
    assert found[0].rule_id.startswith(f"indicator:{kind_of}:")
    assert found[0].detector == "indicators"
    (name,) = fields
    assert found[0].matched[0].field == name
    assert build(Known(kind, value), remember=0).detect(see(fields)) == found


@pytest.mark.parametrize(
    ("kind", "value", "fields"),
    [
        ("domain", "evil.example", {"QueryName": "notevil.example"}),
        ("domain", "evil.example", {"QueryName": "evil.example.net"}),
        ("domain", "www.evil.example", {"QueryName": "evil.example"}),
        ("domain", "evil.example", {"Image": "C:\\evil.example"}),
        ("address", "203.0.113.9", {"src_ip": "203.0.113.99"}),
        ("address", "203.0.113.9", {"CommandLine": "ping 203.0.113.9"}),
        ("address", "203.0.113.9", {"src_ip": "203.0.113.09"}),
        ("address", "2001:db8::7", {"src_ip": "2001:db8::70"}),
        ("network", "203.0.113.0/25", {"src_ip": "203.0.113.128"}),
        ("network", "203.0.113.0/25", {"src_ip": "203.0.112.255"}),
        ("network", "2001:db8::/33", {"src_ip": "2001:db8:8000::"}),
        ("network", "203.0.113.0/24", {"src_ip": "2001:db8::cb00:7109"}),
        ("md5", MD5, {"Hashes": f"IMPHASH={MD5}"}),
        ("md5", MD5, {"Hashes": f"SHA256={MD5}"}),
        ("md5", MD5, {"Hashes": f"MD5={MD5}0"}),
        ("md5", MD5, {"Description": MD5}),
        ("url", "http://evil.example/a", {"c-uri": "http://evil.example/A"}),
        ("url", "http://evil.example/a", {"c-uri": "http://evil.example/a/"}),
        ("url", "http://evil.example/a", {"c-uri": "http://evil.example:81/a"}),
        ("url", "http://evil.example/a", {"c-uri": "http://x.evil.example/a"}),
        ("url", "http://evil.example/a", {"c-uri": "/a"}),
        ("file", "evil.exe", {"Image": "C:\\evil.exe\\good.exe"}),
        ("file", "evil.exe", {"Image": "C:\\notevil.exe"}),
        ("file", "evil.exe", {"CommandLine": "evil.exe"}),
    ],
)
def test_not_found(kind: str, value: str, fields: Fields) -> None:
    assert look([Known(kind, value)], fields) == []


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("md5", MD5[1:]), ("md5", SHA1), ("sha1", "g" * 40), ("md5", "0" * 32),
        ("md5", "d41d8cd98f00b204e9800998ecf8427e"),
        ("sha1", "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
        ("sha256", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ("address", "127.0.0.1"), ("address", "0.0.0.0"), ("address", "::1"), ("address", "x"),
        ("address", "255.255.255.255"), ("address", "fe80::1"), ("address", "224.0.0.1"),
        ("address", "1.2.3.256"), ("address", ""), ("address", "203.0.113.0/24"),
        ("network", "0.0.0.0/0"), ("network", "10.0.0.0/8"), ("network", "192.168.0.0/16"),
        ("network", "64.0.0.0/7"), ("network", "2000::/3"), ("network", "x/24"), ("network", ""),
        ("network", "203.0.113.0/33"), ("network", "127.0.0.1/32"), ("network", "1" * 500),
        ("domain", "com"), ("domain", ""), ("domain", "."), ("domain", "a..b"),
        ("domain", "203.0.113.9"), ("domain", "a b.example"), ("domain", "x" * 64 + ".example"),
        ("domain", "a." * 200 + "example"), ("domain", "a.example\n"  "b"), ("domain", "\ud800.a"),
        ("url", "http://"), ("url", "/a"), ("url", "http://x.example/" + "a" * 3000),
        ("url", "http://x.example/\x1b[2J"), ("url", "http://x.example/\ud800"),
        ("url", "mailto:x"), ("url", "http://host/a"), ("url", "http://a..b/"),
        ("file", ""), ("file", "C:\\"), ("file", "a" * 300), ("file", "a\x00b"), ("file", "\ud800"),
        ("imphash", MD5), ("", "x"), (None, "x"), (["md5"], MD5), ("md5", None), ("domain", 7),
    ],
)  # fmt: skip
def test_refused(kind: Any, value: Any, tmp_path: Path) -> None:
    written = write_indicators(tmp_path, [Known(kind, value), Known("md5", MD5)])
    assert (written.values, written.refused) == (1, 1)
    ((about, reason),) = written.reasons
    assert reason
    assert len(about) < 300
    assert about.isprintable()


def test_every_kind_has_its_letter() -> None:
    assert set(FIELDS.values()) == set(LETTERS)
    for kind, value in (
        ("md5", MD5), ("sha1", SHA1), ("sha256", SHA256), ("address", "203.0.113.9"),
        ("network", "203.0.113.0/24"), ("domain", "evil.example"), ("file", "evil.exe"),
    ):  # fmt: skip
        key = key_indicator(kind, value)
        assert split_key(key) == (kind, value)
        assert any(chr(key[0]) in letters for letters in LETTERS.values())


# --- what is said of it


def test_what_a_finding_says() -> None:
    known = [
        Known("domain", "evil.example", "feed A", "Emotet C2", None, None, 40, ("T1071.001",)),
        Known("domain", "evil.example", "feed B", "Botnet", None, None, 85, ("G0016", "T1071.001")),
        Known("domain", "evil.example", "feed C", "no more", None, T0, 100, ("T1105",)),
    ]
    fields = {"QueryName": "www.evil.example", "c-uri": "http://evil.example/"}
    (found,) = build(*known).detect(see(fields))
    assert found.rule_id == "indicator:domain:evil.example"
    assert found.title == "Known indicator: domain evil.example (feed B: Botnet)"
    assert (found.level, found.score) == ("high", 0.85)
    assert found.techniques == ("T1071.001",)
    assert [(m.field, m.value, m.pattern) for m in found.matched] == [
        ("QueryName", "www.evil.example", "domain evil.example"),
        ("c-uri", "http://evil.example/", "domain evil.example"),
        ("indicator.source", "feed B", ""),
        ("indicator.name", "Botnet", ""),
        ("indicator.confidence", "85", ""),
        ("indicator.links", "G0016, T1071.001", ""),
        ("indicator.source", "feed A", ""),
        ("indicator.name", "Emotet C2", ""),
        ("indicator.confidence", "40", ""),
        ("indicator.links", "T1071.001", ""),
    ]


@pytest.mark.parametrize(
    ("confidence", "level"),
    [(None, "medium"), (100, "high"), (80, "high"), (79, "medium"), (50, "medium"), (49, "low"),
     (0, "low"), (-5, "low"), (900, "high")],
)  # fmt: skip
def test_levels(confidence: int | None, level: str) -> None:
    weaker = {"high": "medium", "medium": "low", "low": "informational"}
    (found,) = build(Known("md5", MD5, confidence=confidence)).detect(see({"md5": MD5}))
    assert found.level == level == choose_level("md5", confidence)
    assert 0 <= found.score <= 1
    (found,) = build(Known("file", "e.exe", confidence=confidence)).detect(see({"Image": "e.exe"}))
    assert found.level == weaker[level]


def test_one_finding_an_event_and_value() -> None:
    known = [Known("address", "203.0.113.9"), Known("network", "203.0.113.0/24"),
             Known("network", "203.0.0.0/16"), Known("address", "203.0.113.10")]  # fmt: skip
    fields = {"src_ip": "203.0.113.9", "c-ip": "203.0.113.9", "dst_ip": "203.0.113.10"}
    detector = build(*known)
    found = detector.detect(see(fields, dict(fields), {"SourceIp": "203.0.113.9"}))
    assert ids(found) == [
        "address:203.0.113.9", "network:203.0.113.0/24", "network:203.0.0.0/16",
        "address:203.0.113.10",
    ]  # fmt: skip
    assert detector.take_counts() == {
        "events": 1, "fields": 7, "matched": 4, "early": 0, "expired": 0, "faults": 0,
    }  # fmt: skip
    assert set(detector.take_counts().values()) == {0}


def test_two_files_are_one_to_an_event(tmp_path: Path) -> None:
    paths = [
        write_indicators(tmp_path, [Known("md5", MD5, f"feed {number}", confidence=number)]).path
        for number in (60, 90)
    ]
    files = [IndicatorFile.open(path) for path in paths]
    (found,) = IndicatorDetector(files).detect(see({"md5": MD5}))
    assert found.level == "high"
    assert [m.value for m in found.matched if m.field == "indicator.source"] == [
        "feed 90", "feed 60",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("begins", "ends", "count"),
    [
        (None, None, {"matched": 1}),
        (T0, None, {"matched": 1}),
        (T0 + 0.001, None, {"early": 1}),
        (None, T0, {"expired": 1}),
        (None, T0 + 0.001, {"matched": 1}),
        (T0 - 9, T0 + 9, {"matched": 1}),
        (T0 - 9, T0 - 8, {"expired": 1}),
        (T0 + 8, T0 + 9, {"early": 1}),
    ],
)
def test_validity(begins: float | None, ends: float | None, count: dict[str, int]) -> None:
    known = Known("md5", MD5, valid_from=begins, valid_until=ends)
    detector = build(known)
    for _ in range(2):  # what is remembered of a value is not whether it was valid
        found = detector.detect(see({"md5": MD5}))
        assert len(found) == count.get("matched", 0)
        counts = detector.take_counts()
        assert {name: counts[name] for name in ("matched", "early", "expired") if counts[name]} == (
            count
        )
    assert len(detector.detect(see({"md5": MD5}, time=float("nan")))) == count.get("matched", 0)


def test_long_values_have_ids_that_differ() -> None:
    one, other = (f"http://evil.example/{'a' * 500}{end}" for end in "bc")
    detector = build(Known("url", one), Known("url", other))
    found = [detector.detect(see({"url": url}))[0].rule_id for url in (one, other)]
    assert len(set(found)) == 2
    assert all(len(each) < 200 for each in found)
    assert name_rule("domain", "a.example") == "indicator:domain:a.example"


# --- the plain matcher, as referee

_ADDRESSES = [
    *(f"198.51.{a}.{b}" for a in (0, 1, 128, 255) for b in (0, 1, 127, 128, 255)),
    *(f"2001:db8:{a}::{b}" for a in ("0", "1", "8000", "ffff") for b in ("0", "1", "ffff")),
    "2001:db8:0:0:8000::", "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", "198.50.255.255", "198.52.0.0",
]  # fmt: skip
_domains = st.lists(st.sampled_from(["a", "b", "ab", "x-y"]), min_size=2, max_size=5).map(".".join)
_urls = st.builds(
    "http://{}{}/{}".format,
    st.one_of(_domains, st.sampled_from(_ADDRESSES[:4])),
    st.sampled_from(["", ":8080"]),
    st.sampled_from(["", "p", "p/q", "P?x=1"]),
)
_networks = st.builds(
    lambda address, prefix: str(
        ipaddress.ip_network(
            (address, max(prefix if ":" not in address else prefix * 4, 9)), strict=False
        )
    ),
    st.sampled_from(_ADDRESSES),
    st.integers(8, 31),
)
_files = st.sampled_from(["a.exe", "b.exe", "a.dll"])
_digests = st.sampled_from([MD5, SHA1, SHA256, "1" * 31 + "2", "3" * 39 + "4"])
_bounds = st.sampled_from([None, T0 - 5, T0, T0 + 5])
_KINDS_OF = {32: "md5", 40: "sha1", 64: "sha256"}
_values = st.one_of(
    st.sampled_from(_ADDRESSES).map(lambda text: ("address", text)),
    _networks.map(lambda text: ("network", text)),
    _domains.map(lambda text: ("domain", text)),
    _urls.map(lambda text: ("url", text)),
    _files.map(lambda text: ("file", text)),
    _digests.map(lambda text: (_KINDS_OF[len(text)], text)),
)
_known = st.builds(
    lambda pair, begins, ends: Known(pair[0], pair[1], valid_from=begins, valid_until=ends),
    _values, _bounds, _bounds,
)  # fmt: skip
_fields = st.fixed_dictionaries(
    {},
    optional={
        "src_ip": st.sampled_from(_ADDRESSES),
        "dst_ip": st.sampled_from(_ADDRESSES),
        "query": _domains,
        "answer": st.lists(st.one_of(_domains, st.sampled_from(_ADDRESSES)), max_size=4),
        "c-uri": _urls,
        "Image": _files.map("C:\\x\\{}".format),
        "Hashes": st.lists(_digests, max_size=3).map(
            lambda found: ",".join(f"{_KINDS_OF[len(text)].upper()}={text}" for text in found)
        ),
        "User": _domains,
    },
)


def match_plainly(known: Known, fields: Fields) -> bool:
    """Whether an event with these fields shows the indicator, asked one by one."""
    url = fields.get("c-uri", "")
    host = url.partition("//")[2].partition("/")[0].partition(":")[0]
    names = [fields.get("query", ""), *fields.get("answer", []), host]
    addresses = [fields.get("src_ip"), fields.get("dst_ip"), *names]
    match known.kind:
        case "domain":
            dotted = "." + known.value
            return any(name == known.value or name.endswith(dotted) for name in names)
        case "address":
            wanted = ipaddress.ip_address(known.value)
            return any(_is_address(text) and ipaddress.ip_address(text) == wanted
                       for text in addresses)  # fmt: skip
        case "network":
            network = ipaddress.ip_network(known.value)
            return any(
                _is_address(text) and ipaddress.ip_address(text) in network for text in addresses
            )
        case "url":
            return bool(url == known.value)
        case "file":
            return bool(fields.get("Image", "").rpartition("\\")[2] == known.value)
        case _:
            return known.value in [
                part.partition("=")[2] for part in fields.get("Hashes", "").split(",")
            ]


def _is_address(text: str | None) -> bool:
    try:
        ipaddress.ip_address(text or "")
    except ValueError:
        return False
    return True


@settings(max_examples=200, deadline=None)
@given(st.lists(_known, max_size=30), st.lists(_fields, min_size=1, max_size=8))
def test_as_the_plain_matcher(known: list[Known], events: list[Fields]) -> None:
    with TemporaryDirectory() as folder:
        file = IndicatorFile.open(write_indicators(Path(folder), known).path)
    detectors = [IndicatorDetector((file,), remember=remember) for remember in (0, 3, 1000)]
    for fields in events:
        wanted = {
            f"{each.kind}:{each.value.removeprefix('http://')}"
            for each in known
            if match_plainly(each, fields)
            and (each.valid_from is None or each.valid_from <= T0)
            and (each.valid_until is None or each.valid_until > T0)
        }
        for detector in detectors:
            found = ids(detector.detect(see(fields)))
            assert len(found) == len(set(found))
            assert set(found) == {_canonical(text) for text in wanted}


def _canonical(text: str) -> str:
    kind, _, value = text.partition(":")
    if kind == "address":
        return f"{kind}:{ipaddress.ip_address(value)}"
    network = kind == "network" and ipaddress.ip_network(value)
    if network and network.prefixlen == network.max_prefixlen:
        return f"address:{network.network_address}"
    return text


@settings(max_examples=60, deadline=None)
@given(st.lists(_networks, max_size=60), st.randoms(use_true_random=False))
def test_networks_within_networks(networks: list[str], chance: random.Random) -> None:
    parsed = {ipaddress.ip_network(text) for text in networks}
    detector = build(*(Known("network", text) for text in networks))
    edges = [network.network_address for network in parsed]
    edges += [network.broadcast_address for network in parsed]
    near = [edge + step for edge in edges for step in (-1, 0, 1) if 0 < int(edge) + step < 2**32]
    for address in [*near, *map(ipaddress.ip_address, _ADDRESSES)]:
        wanted = sorted(
            (network for network in parsed if address in network), key=lambda each: -each.prefixlen
        )
        found = ids(detector.detect(see({"src_ip": str(address)})))
        assert found == [f"network:{network}" for network in wanted][:MAX_FOUND]


# --- hostile values

_HOSTILE = [
    "", " ", "-", ".", "..", ":", "[", "]", "[]", "[:]", "%", "=", ",", "://", "http://", "a://:",
    "\x00", "\x1b[2J", "\ud800", "a.\udfff", "\ud800.evil.example", "http://\ud800/\udfff",
    "http://[::1", "http://]/", "[203.0.113.9", "1.2.3.4:99999999", "1.2.3.4.5", "999.1.1.1",
    "http://%zz/%", "http://@", "http://a@b@c/", "ä" * 300, "İ.example", "ß" * 64 + ".example",
    "a" * 1_000_000, "." * 1_000_000, "a." * 500_000, ":" * 100_000, "[" * 100_000,
    "://" * 300_000, "MD5=" * 250_000, ",".join(["MD5=" + "a" * 32] * 30_000), "%41" * 300_000,
    "http://" + "a" * 1_000_000, "http://" + "a." * 500_000, "\\" * 1_000_000,
    "\u0661.\u0662.\u0663.\u0664",
    "\n".join(["http://x.example/"] * 50_000), ";" * 1_000_000, "2001:db8::1%" + "a" * 1_000_000,
]  # fmt: skip


@pytest.mark.parametrize("text", _HOSTILE, ids=range(len(_HOSTILE)))
def test_hostile_values(text: str) -> None:
    known = [
        Known("domain", "evil.example"), Known("address", "203.0.113.9"), Known("file", "e.exe"),
        Known("network", "203.0.113.0/24"), Known("network", "2001:db9::/32"), Known("md5", MD5),
        Known("url", "http://evil.example/a"),
    ]  # fmt: skip
    detector = build(*known)
    found = detector.detect(see(dict.fromkeys(FIELDS, text)))
    # A name with a bad label above is below the domain all the same.
    assert ids(found) == (["domain:evil.example"] if "evil.example" in text else [])
    assert detector.detect(see({name: [text] * 200 for name in list(FIELDS)[:3]})) == []
    assert detector.take_counts()["faults"] == 0


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), st.text(max_size=60), max_size=8))
@example({"src_ip": "0x7f.1"})
@example({"query": "\u2488example"})
def test_any_text_raises_nothing(fields: dict[str, str]) -> None:
    build(Known("domain", "a.b"), Known("network", "198.51.0.0/16"), Known("url", "a.b/c"),
          Known("file", "x"), Known("md5", MD5)).detect(see(fields))  # fmt: skip


@pytest.mark.parametrize("value", [None, 7, 7.5, True, {}, {"a": "b"}, [], [None, 7, [], {}], b"x"])
def test_what_is_no_text(value: Any) -> None:
    detector = build(Known("md5", MD5), Known("domain", "evil.example"))
    assert detector.detect(see(dict.fromkeys(FIELDS, value))) == []


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="0123456789abcdef.:[]%x/", max_size=40))
def test_addresses_as_the_library_reads_them(text: str) -> None:
    read = read_address(text)
    if _is_address(text) and "%" not in text:
        wanted = ipaddress.ip_address(text)
        assert read == (getattr(wanted, "ipv4_mapped", None) or wanted)
    elif read is not None:
        assert str(read) in text or ":" in text


def test_what_is_remembered_is_bounded() -> None:
    detector = build(Known("file", "e.exe"), remember=10)
    for number in range(1000):
        detector.detect(see({"Image": f"{number}.exe", f"Field{number}": ""}))
    cache = detector.describe()["cache"]
    assert cache["cap"] == 10 >= cache["depth"] > 0
    assert cache["depth"] + cache["dropped"] == 1000
    assert len(detector._layouts) <= MAX_LAYOUTS
    long = "a" * 300
    detector.detect(see({"Image": long}))
    assert not any(long in known for known in detector._known.values())


def test_a_flood_of_findings_is_cut() -> None:
    known = [Known("file", f"{number}.exe") for number in range(MAX_FOUND + 20)]
    found = build(*known).detect(see({"filename": [each.value for each in known]}))
    assert len(found) == MAX_FOUND


# --- the file


def test_any_order_makes_the_same_file(tmp_path: Path) -> None:
    known = [
        Known("domain", f"d{number % 50}.example", f"feed {number}", confidence=number)
        for number in range(200)
    ] + [Known("network", f"198.51.{number}.0/24") for number in range(100)]
    first = write_indicators(tmp_path, known)
    assert first.path.name == f"indicators-{first.sha256[:16]}.bin"
    again = write_indicators(tmp_path, [*known[::-1], *known[:10]])
    assert again.values == first.values == 150
    # The counts of what was read differ; the values do not.
    with (
        closing(IndicatorFile.open(again.path)) as one,
        closing(IndicatorFile.open(first.path)) as other,
    ):
        assert [one.read(place) for place in range(150)] == [
            other.read(place) for place in range(150)
        ]
    random.Random(1).shuffle(known)
    assert write_indicators(tmp_path, known).sha256 == first.sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        {first.path.name, again.path.name}
    )


def test_the_best_origins_are_kept(tmp_path: Path) -> None:
    known = [Known("md5", MD5, f"feed {number:03}", confidence=number) for number in range(100)]
    written = write_indicators(tmp_path, known)
    assert (written.values, written.left_out) == (1, 100 - MAX_ORIGINS)
    entry = IndicatorFile.open(written.path).find(key_indicator("md5", MD5))
    assert entry is not None
    assert [origin.confidence for origin in entry.origins] == list(range(99, 99 - MAX_ORIGINS, -1))


def test_an_empty_file(tmp_path: Path) -> None:
    written = write_indicators(tmp_path, [])
    with closing(IndicatorFile.open(written.path)) as file:
        assert file.letters == ""
        assert IndicatorDetector((file,)).detect(see({"src_ip": "203.0.113.9"})) == []


def test_keys_with_equal_sums_are_told_apart(tmp_path: Path) -> None:
    """CRC-32 is easily led: whoever writes a list can have as many as he likes."""
    by_sum: dict[int, list[str]] = {}
    chance = random.Random(1)
    for _ in range(300_000):
        name = f"n{chance.getrandbits(60):x}.example"
        by_sum.setdefault(zlib.crc32(f"d{name}".encode()), []).append(name)
    twins = [name for names in by_sum.values() if len(names) > 1 for name in names]
    assert twins
    half = twins[::2]
    detector = IndicatorDetector(
        (IndicatorFile.open(write_indicators(tmp_path, [Known("domain", n) for n in half]).path),)
    )
    for name in twins:
        assert ids(detector.detect(see({"query": name}))) == (
            [f"domain:{name}"] if name in half else []
        )


def test_long_chains_are_searched_quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All keys with one sum: what a list made to be slow would come to."""
    monkeypatch.setattr(zlib, "crc32", lambda _: 7)
    names = [f"n{number}.example" for number in range(2000)]
    written = write_indicators(tmp_path, [Known("domain", name) for name in names])
    with closing(IndicatorFile.open(written.path)) as file:
        reads: list[int] = []
        real = file.read

        def read(place: int) -> Entry:
            reads.append(place)
            return real(place)

        monkeypatch.setattr(file, "read", read)
        for name in (*names[::97], "none.example"):
            reads.clear()
            entry = file.find(f"d{name}".encode())
            assert (entry is not None) == (name in names)
            assert len(reads) <= 12


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    known = [Known("domain", f"d{number}.example") for number in range(40)]
    known += [
        Known("network", text) for text in ("198.51.0.0/16", "198.51.1.0/24", "2001:db8::/32")
    ]
    return write_indicators(tmp_path_factory.mktemp("sound"), known).path.read_bytes()


def seal(body: bytes) -> bytes:
    """A file with a right digest, whatever it holds."""
    return MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def try_all(path: Path) -> None:
    """Open the file and look things up; only ModelError may come of it."""
    try:
        file = IndicatorFile.open(path)
    except ModelError as error:
        assert str(path) in str(error)
        return
    with closing(file):
        detector = IndicatorDetector((file,), remember=0)
        for number in range(60):
            detector.detect(see({"query": f"d{number}.example", "src_ip": f"198.51.1.{number}"}))
        detector.detect(see({"src_ip": "2001:db8::1", "dst_ip": "255.255.255.255"}))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_file_is_refused(sound: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(sound) - 1))
    bit = data.draw(st.integers(0, 7))
    damaged = bytearray(sound)
    damaged[place] ^= 1 << bit
    cut = data.draw(st.sampled_from([None, place]))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.bin"
        path.write_bytes(sound[:cut] if cut is not None else bytes(damaged))
        with pytest.raises(ModelError, match=r"x\.bin"):
            IndicatorFile.open(path)
        path.write_bytes(sound + b"\0")
        with pytest.raises(ModelError):
            IndicatorFile.open(path)


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_a_file_made_to_lead_astray(sound: bytes, data: st.DataObject) -> None:
    """Its digest is right, its content is not: nothing but ModelError, nothing read elsewhere."""
    body = bytearray(sound[len(MAGIC) + 65 :])
    begin = body.index(b"\n") + 1
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(begin, len(body) - 1))
        body[place] = data.draw(st.sampled_from([0, 1, 2, 0x7F, 0x80, 0xFF, 0xC1, 0xDF]))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.bin"
        path.write_bytes(seal(bytes(body)))
        try_all(path)


@pytest.mark.parametrize(
    "change",
    [
        {"bits": 28}, {"bits": -1}, {"bits": 99999}, {"keys": -1}, {"keys": 2**60}, {"v4": 0},
        {"v6": 0}, {"networks": 99}, {"heap": -1}, {"heap": 2**60}, {"keys": "x"}, {"more": 1},
        {"bits": 2}, {"keys": 42}, {"networks": 0}, {"indicators": {"md5": 10**400}},
    ],
)  # fmt: skip
def test_counts_that_make_no_sense(sound: bytes, change: dict[str, Any], tmp_path: Path) -> None:
    line, _, rest = sound[len(MAGIC) + 65 :].partition(b"\n")
    layout = {**json.loads(line), **change}
    path = tmp_path / "x.bin"
    path.write_bytes(seal(json.dumps(layout).encode() + b"\n" + rest))
    with pytest.raises(ModelError, match=r"x\.bin"):
        IndicatorFile.open(path)


def test_what_is_no_file_of_indicators(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with pytest.raises(ModelError, match="cannot be read"):
        IndicatorFile.open(path)
    with pytest.raises(ModelError):
        IndicatorFile.open(tmp_path)
    for content in (b"", b"hello", MAGIC, MAGIC + b"0" * 64, MAGIC + b"0" * 64 + b"\n" * 9):
        path.write_bytes(content)
        with pytest.raises(ModelError):
            IndicatorFile.open(path)
    assert is_indicator_file(path)
    path.write_bytes(b"appliance indicators 2 " + b"0" * 64 + b"\n{}\n")
    assert is_indicator_file(path)
    with pytest.raises(ModelError, match="no file of indicators"):
        IndicatorFile.open(path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match="is no file"):
        IndicatorFile.open(tmp_path / "pipe")


def test_a_file_that_shrinks_is_a_fault_and_no_signal(tmp_path: Path) -> None:
    path = write_indicators(tmp_path, [Known("md5", MD5)]).path
    detector = IndicatorDetector((IndicatorFile.open(path),))
    os.truncate(path, 100)
    assert detector.detect(see({"md5": MD5})) == []
    assert detector.take_counts()["faults"] == 1
    assert "has become shorter" in detector.describe()["fault"]


def test_nothing_is_left_of_a_writing_that_fails(tmp_path: Path) -> None:
    def break_off() -> Iterable[Known]:
        yield Known("md5", MD5)
        raise ModelError("broken")

    with pytest.raises(ModelError, match="broken"):
        write_indicators(tmp_path, break_off())
    assert list(tmp_path.iterdir()) == []


def test_texts_of_a_list_are_one_line(tmp_path: Path) -> None:
    known = Known("md5", MD5, "feed\n\x1b[2J", "x\ud800" * 1000, links=("T1059\n",) * 100)
    entry = IndicatorFile.open(write_indicators(tmp_path, [known]).path).find(f"h{MD5}".encode())
    assert entry is not None
    (origin,) = entry.origins
    assert all(text.isprintable() for text in (origin.source, origin.name, *origin.links))
    assert len(origin.name) == 200
    assert len(origin.links) == 32
    assert msgspec.json.encode(origin)


def test_a_text_full_of_urls_costs_no_more_than_a_few() -> None:
    seen: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        whole = values._split_authority

        def count(text: str) -> tuple[str, str, str] | None:
            seen.append(text)
            return whole(text)

        patch.setattr(values, "_split_authority", count)
        assert values.find_urls("x://\u00e9\u00e9.\u00e9 " * 8192) is not None
        many = " ".join(f"http://h{n}.example/x" for n in range(5000))
        assert len(values.find_urls(many)) <= values.MAX_URLS
    assert len(seen) <= 5 * values.MAX_URLS
