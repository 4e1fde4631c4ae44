"""Readers of feeds: STIX bundles, CISA's catalogue, CVE records, MISP events, lists of indicators.

Counts over the real bundles need the set `knowledge`; those tests skip without it (see conftest).
"""

import copy
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.errors import ModelError
from appliance.knowledge.entries import (
    ENTRY_TYPES,
    INDICATOR_KINDS,
    Dropped,
    Indicator,
    Item,
    KnowledgeEntry,
    Link,
)
from appliance.knowledge.readers.cleaning import (
    MAX_TEXT,
    MAX_TITLE,
    clean_prose,
    clean_title,
    drop_marks,
    name_software,
    normalise_indicator,
    parse_time,
    quote_value,
    refang,
    settle_indicator,
)
from appliance.knowledge.readers.cve import read_cve
from appliance.knowledge.readers.indicators import read_indicator_csv
from appliance.knowledge.readers.json_objects import decode_json
from appliance.knowledge.readers.kev import read_kev_csv, read_kev_json
from appliance.knowledge.readers.misp import read_misp
from appliance.knowledge.readers.stix import read_stix
from appliance.knowledge.readers.stix_patterns import MAX_PATTERN, read_pattern

FindData = Callable[[str], Path]
Read = Callable[[bytes, str], Iterator[Any]]
SAMPLES = Path(__file__).parent / "samples" / "knowledge"
SHA256 = "aaaaaaaabbbbbbbbccccccccddddddddeeeeeeeeffffffff0000000011111111"
MD5 = "0123456789abcdef0123456789abcdef"
KEV: dict[str, Any] = {
    "catalogVersion": "2026.02.03",
    "vulnerabilities": [
        {
            "cveID": "CVE-2026-0001", "vendorProject": "Example/Works", "product": "Pump  Control",
            "vulnerabilityName": "Pump Control Command Injection", "dateAdded": "2026-02-01",
            "shortDescription": "It takes commands.\x07", "requiredAction": "Update.",
            "dueDate": "2026-02-20", "knownRansomwareCampaignUse": "Known",
            "notes": "https://example.org/", "cwes": ["CWE-77", "CWE-78"],
        },
    ],
}  # fmt: skip
KEV_CSV = (
    b"cveID,vendorProject,product,vulnerabilityName,dateAdded,shortDescription,requiredAction,"
    b"dueDate,knownRansomwareCampaignUse,notes,cwes\r\n"
    b"CVE-2026-0001,Example/Works,Pump  Control,Pump Control Command Injection,2026-02-01,"
    b'It takes commands.\x07,Update.,2026-02-20,Known,https://example.org/,"CWE-77, CWE-78"\r\n'
)
JSON_READERS: dict[str, tuple[Read, bytes]] = {
    "stix": (read_stix, (SAMPLES / "bundle.json").read_bytes()),
    "attack": (read_stix, (SAMPLES / "attack-extract.json").read_bytes()),
    "kev": (read_kev_json, json.dumps(KEV).encode()),
    "cve": (read_cve, (SAMPLES / "cve-2026-0002.json").read_bytes()),
    "misp": (read_misp, (SAMPLES / "misp-event.json").read_bytes()),
}
READERS: dict[str, tuple[Read, bytes]] = {
    **JSON_READERS,
    "kev_csv": (read_kev_csv, KEV_CSV),
    "indicators": (read_indicator_csv, f"type,value,name\nmd5,{MD5},x\nip,1.2.3.4,y\n".encode()),
}


def check_item(item: Item) -> None:
    """Every item can be stored, shown on a terminal and found again."""
    # What SQLite and a terminal are given: text that encodes.
    msgspec.json.decode(msgspec.json.encode(item), type=type(item))
    if isinstance(item, KnowledgeEntry):
        assert item.type in ENTRY_TYPES and item.id and item.title and item.source
        assert len(item.text) <= MAX_TEXT and len(item.title) <= MAX_TITLE
        lines = [item.title, item.version, item.licence, item.modified, item.url, item.source]
        lines += [*item.aliases, *item.platforms, *item.tactics, *item.text.split("\n")]
        assert all(line.isprintable() for line in lines)
        assert item.id.isprintable() and " " not in item.id
    elif isinstance(item, Link):
        assert item.source and item.target and re.fullmatch(r"[a-z0-9_]+", item.kind)
        assert len(item.text) <= MAX_TEXT
        assert all(line.isprintable() for line in item.text.split("\n"))
    elif isinstance(item, Indicator):
        assert item.kind in INDICATOR_KINDS
        assert normalise_indicator(item.kind, item.value) == item.value
        assert item.name.isprintable() and len(item.name) <= MAX_TITLE
        assert item.confidence is None or 0 <= item.confidence <= 100
    else:
        assert item.reason and item.reason.isprintable() and len(item.reason) < 300


def read_all(read: Read, raw: bytes, name: str = "feed") -> list[Item]:
    items = list(read(raw, name))
    for item in items:
        check_item(item)
    return items


def pick(items: list[Item], kind: type[Any]) -> list[Any]:
    return [item for item in items if isinstance(item, kind)]


# --- cleaning


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("md5", MD5.upper(), MD5),
        ("sha256", f" {SHA256.upper()}\n", SHA256),
        ("address", "::ffff:1.2.3.4", "1.2.3.4"),
        ("address", "[2001:DB8:0::1]", "2001:db8::1"),
        ("address", "10.1.2.3", "10.1.2.3"),
        ("network", "192.168.7.9/24", "192.168.7.0/24"),
        ("network", "::ffff:1.2.3.0/120", "1.2.3.0/24"),
        ("domain", "*.Exämple.COM.", "xn--exmple-cua.com"),
        ("domain", "_dmarc.example.co.uk", "_dmarc.example.co.uk"),
        ("url", "HTTP://u:p@Evil.COM:80/a%2fB?x=é#f", "http://evil.com/a%2FB?x=%C3%A9"),
        ("url", "https://[2001:DB8::1]:8443", "https://[2001:db8::1]:8443/"),
        ("url", "evil.com/a", "http://evil.com/a"),
        ("file", "C:\\Users\\Public\\Heron.exe", "Heron.exe"),
        ("file", "/tmp/.x/heron", "heron"),
    ],
)
def test_a_value_has_one_form(kind: str, value: str, expected: str) -> None:
    assert normalise_indicator(kind, value) == expected
    assert normalise_indicator(kind, expected) == expected


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        ("md5", "d41d8cd98f00b204e9800998ecf8427e", "empty file"),
        ("sha1", "DA39A3EE5E6B4B0D3255BFEF95601890AFD80709", "empty file"),
        ("sha256", "0" * 64, "stands for no sha256"),
        ("sha256", MD5, "is no sha256"),
        ("address", "127.0.0.53", "every host itself"),
        ("address", "::1", "every host itself"),
        ("address", "0.0.0.0", "no host"),
        ("address", "255.255.255.255", "broadcast"),
        ("address", "224.0.0.251", "multicast"),
        ("address", "fe80::1%eth0", "every link"),
        ("address", "1.2.3.4.5", "no address"),
        ("network", "0.0.0.0/0", "wider than /8"),
        ("network", "8.0.0.0/7", "wider than /8"),
        ("network", "2000::/15", "wider than /16"),
        ("network", "127.0.0.0/8", "every host itself"),
        ("domain", "com", "bare top-level domain"),
        ("domain", "co.uk", "registry"),
        ("domain", "1.2.3.4", "no domain"),
        ("domain", "a\x00b.com", "no domain"),
        ("domain", "a..com", "no domain"),
        ("domain", f"{'a' * 64}.com", "no domain"),
        ("domain", "ä" * 100_000 + ".com", "no domain"),
        ("url", "http://localhost/x", "no URL"),
        ("url", "http://127.0.0.1/x", "no URL"),
        ("url", "http://[::1", "no URL"),
        ("url", "http://a b.com/", "no URL"),
        ("url", "http://a.com/" + "x" * 10_000, "longer than"),
        ("file", "C:\\Windows\\System32\\SvcHost.exe", "every system"),
        ("file", "*.exe", "pattern"),
        ("file", "/tmp/", "no file name"),
        ("mutex", "x", "no kind"),
        ("domain", "  ", "empty"),
    ],
)
def test_what_would_match_everything_is_refused(kind: str, value: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        normalise_indicator(kind, value)


def test_an_address_with_a_prefix_is_a_network_and_one_of_one_address_is_none() -> None:
    assert settle_indicator("address", "1.2.3.0/24") == ("network", "1.2.3.0/24")
    assert settle_indicator("network", "1.2.3.4/32") == ("address", "1.2.3.4")
    assert settle_indicator("network", "2001:db8::1/128") == ("address", "2001:db8::1")
    with pytest.raises(ValueError, match="every host itself"):
        settle_indicator("network", "127.0.0.1/32")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hxxps://evil[.]com/a", "https://evil.com/a"),
        ("hXXp[:]//evil(.)com", "http://evil.com"),
        ("http[://]evil[dot]com", "http://evil.com"),
        ("fxp://evil{.}com", "ftp://evil.com"),
        ("1[.]2[.]3[.]4", "1.2.3.4"),
        ("https://fine.example/a[b]", "https://fine.example/a[b]"),
        ("httpx://x", "httpx://x"),
    ],
)
def test_defanged_values_are_made_whole(text: str, expected: str) -> None:
    assert refang(text) == expected


def test_times() -> None:
    for text in ("2024-01-01", "2024-01-01T00:00:00Z", "2024-01-01 01:00:00+01:00", "1704067200"):
        assert parse_time(text) == 1_704_067_200.0
    assert parse_time("1704067200500") == 1_704_067_200.5
    assert parse_time("2024-01-01T00:00:00.1234567Z") == pytest.approx(1_704_067_200.123456)
    for text in ("", "x", "2024", "20240101", "1969-12-31", "0001-01-01T00:00:00+14:00", "9" * 99):
        with pytest.raises(ValueError):
            parse_time(text)


def test_texts_are_cleaned() -> None:
    assert clean_prose("a\x00b\u202ec\r\n\n d \t e\u2028f\ud800") == "abc\nd e\nf"
    assert clean_title("a\x1b[2J\nb") == "a[2J b"
    assert len(clean_title("x" * 300)) == MAX_TITLE and clean_title("x" * 300).endswith("x...")
    assert clean_prose("ab " * 99, 10) == "ab ab a..."
    marked = "x (Citation: A (b) c). [N](https://e/w_(f)) <code>y</code> <PID>[z] (q)"
    assert drop_marks(marked) == "x. N y <PID>[z] (q)"
    assert quote_value("a\x1b\nb" + "c" * 999).isprintable()
    assert len(quote_value("c" * 10**7)) < 70
    assert name_software("A/B  C", "D/E") == "software:a b c/d/e"
    assert name_software("n/a", "x") == "software:unknown/x"
    assert name_software("x", "n/a") == ""


@pytest.mark.parametrize(
    "text",
    ["[", "(Citation:", "[a](", "[a](b(", " ", "\n", "\x00", "(Citation: (", "<", "](", "\u202e"],
)
def test_a_huge_text_is_cleaned_quickly(text: str) -> None:
    huge = text * (20_000_000 // len(text))
    begun = time.perf_counter()
    assert len(clean_prose(drop_marks(huge))) <= MAX_TEXT
    assert len(clean_title(huge)) <= MAX_TITLE
    refang(huge)
    for kind in INDICATOR_KINDS:
        with pytest.raises(ValueError):
            normalise_indicator(kind, huge)
    assert time.perf_counter() - begun < 2.0


@given(kind=st.sampled_from(INDICATOR_KINDS), value=st.text(max_size=60))
def test_a_form_is_its_own_form(kind: str, value: str) -> None:
    try:
        settled = normalise_indicator(kind, value)
    except ValueError:
        return
    assert normalise_indicator(kind, settled) == settled and settled.isprintable()


@given(
    value=st.from_regex(
        r"(https?://)?([a-zäß0-9-]{1,8}\.){1,3}(com|de|zip)(:[0-9]{1,5})?(/[ -~é]{0,9})?(#a)?",
        fullmatch=True,
    )
)
def test_a_url_s_form_is_its_own_form(value: str) -> None:
    try:
        settled = normalise_indicator("url", value)
    except ValueError:
        return
    assert normalise_indicator("url", settled) == settled and settled.isascii()


# --- STIX


def test_attack_comes_with_its_ids_and_all_it_links() -> None:
    items = read_all(read_stix, JSON_READERS["attack"][1])
    entries = {entry.id: entry for entry in pick(items, KnowledgeEntry)}
    assert {entry.source for entry in entries.values()} == {"MITRE ATT&CK Enterprise"}
    assert {entry.version for entry in entries.values()} == {"18.9"}
    assert {entry_id: entry.type for entry_id, entry in entries.items()} == {
        "TA0002": "tactic",
        "TA0104": "tactic",
        # Its ATT&CK id is that of a technique.
        "course-of-action--1": "mitigation",
        "M1038": "mitigation",
        "T1059": "technique",
        "T1059.004": "technique",
        "T1000": "technique",
        "S0001": "software",
        "C0001": "campaign",
        "A0001": "asset",
        "DET0001": "strategy",
        "AN0001": "analytic",
        "DC0032": "log_source",
    }
    technique = entries["T1059"]
    assert technique.text == "Runs sh." and technique.platforms == ("Linux",)
    assert technique.tactics == ("execution", "no-such")
    assert technique.url == "https://attack.mitre.org/techniques/T1059"
    assert entries["T1059.004"].title == "Interpreter: Unix Shell"
    assert entries["T1000"].revoked and entries["T1000"].revoked_by == "T1059"
    assert entries["course-of-action--1"].deprecated
    assert entries["course-of-action--1"].external_id == "T1059"
    assert entries["S0001"].aliases == ("netcat",)
    assert entries["C0001"].text == "Seen from 2025-01-01 to 2025-02-01."
    assert entries["A0001"].text == "Related: File Server: Stores."
    assert entries["DET0001"].text == "Analytics: AN0001 (Linux)"
    assert entries["AN0001"].title == "Analytic 0001: Detect shells (Linux)"
    assert "Logs: auditd:SYSCALL: execve" in entries["AN0001"].text
    assert {(link.source, link.kind, link.target, link.text) for link in pick(items, Link)} == {
        ("T1059", "in", "TA0002", ""),
        ("DET0001", "has", "AN0001", ""),
        ("AN0001", "reads", "DC0032", "auditd:SYSCALL: execve"),
        ("T1059.004", "subtechnique_of", "T1059", ""),
        ("T1000", "revoked_by", "T1059", ""),
        ("S0001", "uses", "T1059.004", "nc can run /bin/sh."),
        ("DET0001", "detects", "T1059.004", ""),
        ("M1038", "mitigates", "T1059", ""),
    }
    assert sorted(drop.reason for drop in pick(items, Dropped)) == [
        '"has": its end "x-mitre-analytic--9" is not in this file',
        'its end "identity--1" is no entry',
        'no tactic of this file is called "act"',
        'no tactic of this file is called "no-such"',
    ]


def test_a_vendor_s_bundle_keeps_its_own_ids_and_never_speaks_for_attack() -> None:
    items = read_all(read_stix, JSON_READERS["stix"][1], "bundle.json")
    entries = {entry.id: entry for entry in pick(items, KnowledgeEntry)}
    group = "intrusion-set--22222222-2222-4222-8222-222222222222"
    malware = "malware--44444444-4444-4444-8444-444444444444"
    report = "report--11111111-1111-4111-8111-111111111111"
    assert {entry_id: entry.type for entry_id, entry in entries.items()} == {
        report: "note", group: "group", malware: "software", "CVE-2026-0001": "vulnerability",
    }  # fmt: skip
    assert entries[malware].title == "HeronDrop"
    assert entries[group].source == "STIX: Marsh Heron against water works"
    assert entries[group].text == "A group.\nIt waits." and entries[group].licence == "TLP:AMBER"
    assert [(link.source, link.kind, link.target) for link in pick(items, Link)] == [
        (report, "about", group),
        (report, "about", "T1059.001"),
        (group, "uses", "T1059.001"),
    ]
    reasons = " / ".join(drop.reason for drop in pick(items, Dropped))
    for reason in (
        "a second object with this id", "no id of a", "is no object", "is told by ATT&CK itself",
        'a "ipv4-addr" is neither', "is not in this file", "revoked or deprecated by its source",
        "SHA-512", "every host itself", "more than alternatives: AND", 'language "yara"',
        "revoked by its source",
    ):  # fmt: skip
        assert reason in reasons
    assert len(pick(items, Dropped)) == 13


def test_indicators_of_a_bundle() -> None:
    items = read_all(read_stix, JSON_READERS["stix"][1])
    first, second = 1_769_904_000.0, 1_801_440_000.0
    malware = ("malware--44444444-4444-4444-8444-444444444444",)
    source = "STIX: Marsh Heron against water works"
    name = "HeronDrop files [malicious-activity]"
    assert pick(items, Indicator) == [
        Indicator("sha256", SHA256, source, name, first, second, 80, malware),
        Indicator("md5", MD5, source, name, first, second, 80, malware),
        Indicator("file", "herondrop.exe", source, name, first, second, 80, malware),
        Indicator("address", "198.51.100.7", source, "", first, links=("T1071.001",)),
        Indicator("network", "203.0.113.0/24", source, "", first, links=("T1071.001",)),
        Indicator("domain", "heron.example", source, "", first, links=("T1071.001",)),
        Indicator("url", "http://heron.example/a", source, "", first, links=("T1071.001",)),
    ]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("[file:hashes.'SHA-256' = 'a']", [("sha256", "a")]),
        ('[file:hashes."SHA-1" = \'a\']', [("sha1", "a")]),
        ("[file:hashes.MD5='a']", [("md5", "a")]),
        ("([ipv4-addr:value = 'a']) OR [ipv6-addr:value = 'b']",
         [("address", "a"), ("address", "b")]),
        ("[ipv4-addr:value ISSUBSET '1.0.0.0/8']", [("address", "1.0.0.0/8")]),
        ("[(url:value = 'it\\'s' OR domain-name:value IN ('b','c'))]",
         [("url", "it's"), ("domain", "b"), ("domain", "c")]),
        ("[mutex:name = 'AND']", [("", "AND")]),
    ],
)  # fmt: skip
def test_patterns_of_alternatives(pattern: str, expected: list[tuple[str, str]]) -> None:
    assert [(found.kind, found.value) for found in read_pattern(pattern)] == expected


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("[a:b = 'c' AND d:e = 'f']", "AND"),
        ("[a:b = 'c'] FOLLOWEDBY [d:e = 'f']", "FOLLOWEDBY"),
        ("[a:b = 'c'] WITHIN 5 SECONDS", "WITHIN"),
        ("[a:b = 'c'] REPEATS 5 TIMES", "REPEATS"),
        ("[a:b NOT = 'c']", "NOT"),
        ("[NOT a:b = 'c']", "NOT"),
        ("[a:b LIKE 'c%']", "LIKE"),
        ("[a:b != 'c']", "!="),
        ("[file:size = 5]", "a value is no text"),
        ("[url:value ISSUBSET '1.0.0.0/8']", "addresses only"),
        ("[url:value IN 'a']", "no list"),
        ("[url:value IN ('a' 'b')]", "no end"),
        ("[url:value = 'a' OR]", "incomplete|alternatives"),
        ("[url:value = 'a'", "incomplete"),
        ("url:value = 'a'", "alternatives"),
        ("[url:value = 'a'] [url:value = 'b']", "alternatives"),
        ("]", "incomplete"),
        ("", "incomplete"),
        ("[url:value = 'a", "cannot be read"),
        ("[" * MAX_PATTERN, "incomplete"),
        ("'" + "\\" * (MAX_PATTERN - 1), "cannot be read"),
        ("a" * MAX_PATTERN, "cannot be read|alternatives|AAA"),
        ("[url:value IN (" + "'a'," * 60_000, "a value is no text"),
        ("[" + "x" * MAX_PATTERN, "longer than"),
    ],
)
def test_other_patterns_are_refused_with_the_reason(pattern: str, reason: str) -> None:
    begun = time.perf_counter()
    with pytest.raises(ValueError, match=reason):
        read_pattern(pattern)
    assert time.perf_counter() - begun < 2.0


@given(pattern=st.lists(st.sampled_from(
    ["[", "]", "(", ")", "url:value", "file:hashes.MD5", "=", "IN", "'a'", ",", "OR", "AND", "5"]
)).map(" ".join))  # fmt: skip
def test_a_pattern_is_read_or_refused(pattern: str) -> None:
    try:
        found = read_pattern(pattern)
    except ValueError as error:
        assert str(error)
    else:
        assert found and "AND" not in pattern.replace("'AND'", "")


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("enterprise-attack.json", "MITRE ATT&CK Enterprise"),
        ("ics-attack.json", "MITRE ATT&CK ICS"),
    ],
)
def test_all_of_attack_comes_out(shared_data: FindData, file: str, source: str) -> None:
    raw = (shared_data("knowledge") / "mitre-attack" / file).read_bytes()
    objects = json.loads(raw)["objects"]
    told = Counter(item["type"] for item in objects)
    items = read_all(read_stix, raw, file)
    assert pick(items, Dropped) == []
    entries = {entry.id: entry for entry in pick(items, KnowledgeEntry)}
    assert len(entries) == len(pick(items, KnowledgeEntry))
    assert {entry.source for entry in entries.values()} == {source}
    types = Counter(entry.type for entry in entries.values())
    assert types == Counter(
        {
            "technique": told["attack-pattern"],
            "tactic": told["x-mitre-tactic"],
            "group": told["intrusion-set"],
            "software": told["malware"] + told["tool"],
            "campaign": told["campaign"],
            "mitigation": told["course-of-action"],
            "strategy": told["x-mitre-detection-strategy"],
            "analytic": told["x-mitre-analytic"],
            "asset": told["x-mitre-asset"],
            "log_source": told["x-mitre-data-component"] + told["x-mitre-data-source"],
        }
    )
    assert types["technique"] > 90
    kinds = Counter(link.kind for link in pick(items, Link))
    relations = Counter(
        item["relationship_type"].replace("-", "_")
        for item in objects
        if item["type"] == "relationship"
    )
    assert {kind: kinds[kind] for kind in relations} == dict(relations)
    assert sum(relations.values()) == told["relationship"] > 1_000
    assert kinds["has"] == sum(len(item.get("x_mitre_analytic_refs", [])) for item in objects)
    for kind, field in (("in", "kill_chain_phases"), ("reads", "x_mitre_log_source_references")):
        assert kinds[kind] == sum(len(item.get(field, [])) for item in objects)
    for key in ("revoked", "x_mitre_deprecated"):
        withdrawn = [
            item for item in objects if item.get(key) is True and item["type"] != "relationship"
        ]
        name = key.removeprefix("x_mitre_")
        assert sum(getattr(entry, name) for entry in entries.values()) == len(withdrawn)
    assert sum(entry.revoked_by is not None for entry in entries.values()) == kinds["revoked_by"]
    assert not any("(Citation" in item.text for item in [*entries.values(), *pick(items, Link)])


MEASURE = """
import resource, sys, time
from appliance.knowledge.readers.stix import read_stix
raw = open(sys.argv[1], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begun = time.perf_counter()
count = sum(1 for _ in read_stix(raw, "x"))
spent = time.perf_counter() - begun
print(count, spent, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / len(raw))
"""


def test_attack_is_read_fast_and_in_little_memory(shared_data: FindData) -> None:
    path = shared_data("knowledge") / "mitre-attack" / "enterprise-attack.json"
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], check=True, capture_output=True, text=True
    )
    count, seconds, times = (float(text) for text in done.stdout.split())
    assert count > 30_000
    assert seconds < 20
    assert times < 10


# --- KEV


def test_both_forms_of_kev_say_the_same() -> None:
    items = read_all(read_kev_json, json.dumps(KEV).encode())
    entry, link = items
    assert isinstance(entry, KnowledgeEntry)
    assert entry.id == "CVE-2026-0001" and entry.version == "2026.02.03"
    assert entry.text == (
        "It takes commands.\nProduct: Example/Works Pump Control\nRequired action: Update.\n"
        "Due: 2026-02-20\nKnown exploited since: 2026-02-01\nUsed in ransomware campaigns: Known\n"
        "Weaknesses: CWE-77, CWE-78\nNotes: https://example.org/"
    )
    assert link == Link(entry.id, "affects", "software:example works/pump control", "CISA KEV")
    assert read_all(read_kev_csv, KEV_CSV) == [
        msgspec.structs.replace(entry, version="2026-02-01"), link,
    ]  # fmt: skip


def test_rows_of_kev_that_are_none_are_dropped() -> None:
    row = KEV["vulnerabilities"][0]
    rows = [row, row, 5, {"cveID": "CVE-1"}, {**row, "cveID": "CVE-2026-0003", "product": "n/a"}]
    items = read_all(read_kev_json, json.dumps({"vulnerabilities": rows}).encode(), "k")
    assert [(drop.where, drop.reason) for drop in pick(items, Dropped)] == [
        ("k: vulnerability 2", "CVE-2026-0001 was told before"),
        ("k: vulnerability 3", "int is no object"),
        ("k: vulnerability 4", '"CVE-1" is no CVE id'),
        ("k: vulnerability 5", "CVE-2026-0003 names no product: the entry stays, without a link"),
    ]
    assert len(pick(items, KnowledgeEntry)) == 2
    stray = (
        KEV_CSV + b'"' + b"x" * 200_000 + b"\r\n" + KEV_CSV.splitlines()[1].replace(b"20", b"29", 1)
    )
    items = read_all(read_kev_csv, stray)
    entries = pick(items, KnowledgeEntry)
    assert [entry.id for entry in entries] == ["CVE-2026-0001", "CVE-2926-0001"]
    assert [drop.reason for drop in pick(items, Dropped)] == ['"" is no CVE id']


def test_all_of_kev_comes_out_of_both_forms(shared_data: FindData) -> None:
    folder = shared_data("knowledge") / "cisa-kev"
    raw = (folder / "known_exploited_vulnerabilities.json").read_bytes()
    of_json = read_all(read_kev_json, raw)
    of_csv = read_all(read_kev_csv, (folder / "known_exploited_vulnerabilities.csv").read_bytes())
    assert pick(of_json, Dropped) == pick(of_csv, Dropped) == []
    catalogue = json.loads(raw)
    assert len(pick(of_json, KnowledgeEntry)) == catalogue["count"] > 1_000
    assert len(pick(of_json, Link)) == catalogue["count"]
    assert pick(of_json, Link) == pick(of_csv, Link)
    assert [
        msgspec.structs.replace(entry, version="") for entry in pick(of_json, KnowledgeEntry)
    ] == [msgspec.structs.replace(entry, version="") for entry in pick(of_csv, KnowledgeEntry)]


# --- CVE

CONDITION = re.compile(r"(=|>=|>|<=|<)([^\s,;!<>=]+)")


def parse_statement(text: str) -> list[tuple[bool, list[tuple[str, str]]] | None]:
    """The grammar of the module's first lines, read back: excepted or not, conditions; None "?"."""
    parts: list[tuple[bool, list[tuple[str, str]]] | None] = []
    for part in text.split("; ") if text else []:
        if part == "?":
            parts.append(None)
            continue
        told = part.removeprefix("!")
        conditions = [] if told == "*" else [CONDITION.fullmatch(word) for word in told.split(",")]
        assert all(conditions), part
        parts.append((part != told, [(found[1], found[2]) for found in conditions if found]))
    return parts


def state(**product: Any) -> list[str]:
    record = json.loads(JSON_READERS["cve"][1])
    record["containers"] = {"cna": {"affected": [{"vendor": "v", "product": "p", **product}]}}
    links = pick(read_all(read_cve, json.dumps(record).encode()), Link)
    for link in links:
        parse_statement(link.text)
    return [link.text for link in links]


def test_a_cve_record() -> None:
    items = read_all(read_cve, JSON_READERS["cve"][1], "c.json")
    (entry,) = pick(items, KnowledgeEntry)
    assert entry.title == "Pump control takes commands from anyone"
    assert entry.text == (
        "The service answers without asking who calls.\nCVSS 3.1 base score 9.8 CRITICAL"
        " (CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H)\nWeaknesses: CWE-306\n"
        "Solution: Take 2.15.0."
    )
    assert (entry.version, entry.platforms) == ("2026-02-03", ("Linux",))
    assert [(link.kind, link.target, link.text) for link in pick(items, Link)] == [
        (
            "affects",
            "software:example works/pump control",
            ">=2.0,<2.15.0; <=1.4; >=3.0,<3.2; >=3.5,<4.0; =1.9-rc1; >=5.0,<5.0.3; ?",
        ),
        ("affects", "software:kernel/kernel", "*; !<4.19; !>=6.6.1,<=6.6.*"),
        ("affects", "software:registry.npmjs.org/pump-control", "*"),
    ]
    assert pick(items, Dropped) == [
        Dropped("c.json: CVE-2026-0002", "an affected product has no name: the entry stays")
    ]


def test_version_statements() -> None:
    def version(version: str, status: str = "affected", **more: Any) -> dict[str, Any]:
        return {"version": version, "status": status, **more}

    assert state() == [""]
    assert state(defaultStatus="affected") == ["*"]
    assert state(versions=[version("1", "unaffected")]) == []
    assert state(versions=[version("*")]) == ["*"]
    assert state(versions=[version("n/a")]) == ["?"]
    assert state(versions=[version("1.0", lessThan="*")]) == [">=1.0"]
    assert state(versions=[version("0", lessThan="*")]) == ["*"]
    assert state(versions=[version("unspecified", lessThan="2")]) == ["<2"]
    assert state(versions=[version("1"), version("1"), version("2 beta")]) == ["=1; ?"]
    assert state(versions=[version("< 1.2")]) == ["<1.2"]
    assert state(versions=[version(">= 1, < 2; !x")]) == ["?"]
    assert state(versions=[version("1\x00", lessThan="2")]) == ["?"]
    assert state(versions=[version("0", changes=[{"at": "1.5", "status": "unaffected"}])]) == [
        "<1.5"
    ]
    long = state(versions=[version(f"{number}.{'0' * 90}") for number in range(400)])
    assert (
        long[0].endswith("; ?") and len(long[0]) <= MAX_TEXT and len(parse_statement(long[0])) > 50
    )
    many = state(versions=[version(str(number)) for number in range(100_000)])
    assert many[0].endswith("; ?")


def test_a_rejected_cve_is_revoked() -> None:
    record = {
        "cveMetadata": {"cveId": "CVE-2026-0009", "state": "REJECTED"},
        "containers": {
            "cna": {
                "rejectedReasons": [{"lang": "en", "value": "A duplicate."}],
                "replacedBy": ["x", "CVE-2026-0002"],
            }
        },
    }
    sample = json.loads(JSON_READERS["cve"][1])
    items = read_all(read_cve, json.dumps([record, sample, record, 3, {}]).encode(), "l")
    entry, other = pick(items, KnowledgeEntry)
    assert (entry.revoked, entry.revoked_by, entry.text) == (True, "CVE-2026-0002", "A duplicate.")
    assert not other.revoked
    assert [drop.where for drop in pick(items, Dropped)] == [
        "l: record 2: CVE-2026-0002", "l: record 3", "l: record 4", "l: record 5",
    ]  # fmt: skip


# --- MISP


def test_a_misp_event() -> None:
    raw = JSON_READERS["misp"][1]
    items = read_all(read_misp, raw, "m.json")
    (note,) = pick(items, KnowledgeEntry)
    assert note.id == "misp:5b4d1a3e-0000-4000-8000-00000000a001" and note.type == "note"
    assert note.title == "Heron campaign,[31m second wave" and note.licence == "tlp:amber"
    assert note.source == "MISP: Heron campaign,[31m second wave (5b4d1a3e)"
    assert "Threat level: high" in note.text and "They came back on a Sunday." in note.text
    assert [(link.kind, link.target) for link in pick(items, Link)] == [
        ("about", "T1053.005"), ("about", "G0007"), ("about", "T1059.001"),
        ("about", "CVE-2026-0002"),
    ]  # fmt: skip
    found = pick(items, Indicator)
    assert [(indicator.kind, indicator.value) for indicator in found] == [
        ("address", "198.51.100.7"),
        ("address", "198.51.100.8"),
        ("domain", "heron.example"),
        ("address", "198.51.100.9"),
        ("url", "http://heron.example/y"),
        ("sha256", SHA256),
        ("file", "Heron.exe"),
    ]
    assert found[0].name == "C2" and found[0].valid_from == 1_769_904_000.0
    assert all(indicator.valid_until is None for indicator in found)
    assert found[1].name.endswith("(4444)") and found[5].name.endswith("(in|voice.exe)")
    assert found[4].links == (note.id, "T1071.001")
    reasons = {drop.where[-4:]: drop.reason for drop in pick(items, Dropped)}
    assert reasons == {
        "json": "int is no attribute",
        "b004": "context, which is not to be matched (to_ids is not true)",
        "b005": "a vulnerability is told by the event's note",
        "b006": '"mutex" is nothing that is looked up',
        "b007": "deleted by its source",
        "b008": "a comment is told by the event's note",
        "c003": "the sha1 of the empty file is on every system",
    }


def test_the_forms_of_misp_hold_the_same_events() -> None:
    event = json.loads(JSON_READERS["misp"][1])
    expected = read_all(read_misp, json.dumps(event).encode())
    for form in ([event], {"response": [event]}, {"response": event}, event["Event"]):
        assert read_all(read_misp, json.dumps(form).encode()) == expected
    twice = read_all(read_misp, json.dumps([event, event, 5]).encode(), "m")
    assert [drop.where for drop in pick(twice, Dropped)[-2:]] == ["m: event 2", "m: event 3"]
    assert len(pick(twice, KnowledgeEntry)) == 1


def test_misp_events_of_the_same_info_are_two_sources() -> None:
    event = json.loads(JSON_READERS["misp"][1])["Event"]
    for info in (event["info"], "x" * 10_000, ""):
        one = {**event, "info": info}
        other = {**one, "uuid": "77777777-0000-4000-8000-00000000a001"}
        items = read_all(read_misp, json.dumps([one, other]).encode())
        first, second = pick(items, KnowledgeEntry)
        assert first.source.endswith(" (5b4d1a3e)") and second.source.endswith(" (77777777)")
        sources = {indicator.source for indicator in pick(items, Indicator)}
        assert sources == {link.origin for link in pick(items, Link)}
        assert sources == {first.source, second.source}
        assert not any("(77777777)" in indicator.name for indicator in pick(items, Indicator))


# --- lists of indicators


def list_values(text: str | bytes) -> list[tuple[str, str]]:
    raw = text.encode() if isinstance(text, str) else text
    return [(item.kind, item.value) for item in pick(read_all(read_indicator_csv, raw), Indicator)]


def test_a_list_with_a_header() -> None:
    text = (
        "# a list\n"
        "IOC,Type,Description,Valid_From,Expires,Confidence,Source,Technique\n"
        '1.2.3.4,ip,"C2, ""main""",2026-01-01,2026-12-31,high,Example CERT,T1071.001\n'
        "203.0.113.0/24,CIDR,,,,90%,,\n"
        f"{SHA256.upper()},FileHash-SHA256,,,,101,,\n"
        f"{MD5},hash,,,,,,\n"
        "hxxps://evil[.]example/a,url,,,,,,\n"
        "evil[.]example,,,,,,,\n"
        "9.9.9.9,ip,,soon,,,,\n"
        "9.9.9.9,ip,,2026-01-02,2026-01-01,,,\n"
        "x@evil.example,email,,,,,,\n"
        ",ip,,,,,,\n"
        "127.0.0.1,ip,,,,,,\n"
    )
    items = read_all(read_indicator_csv, text.encode(), "l.csv")
    found = pick(items, Indicator)
    assert found[0] == Indicator(
        kind="address",
        value="1.2.3.4",
        source="CSV: l.csv",
        name='C2, "main" (Example CERT)',
        valid_from=1_767_225_600.0,
        valid_until=1_798_675_200.0,
        confidence=85,
        links=("T1071.001",),
    )
    assert [(item.kind, item.value, item.confidence) for item in found[1:]] == [
        ("network", "203.0.113.0/24", 90),
        ("sha256", SHA256, None),
        ("md5", MD5, None),
        ("url", "https://evil.example/a", None),
        ("domain", "evil.example", None),
    ]
    assert [(drop.where, drop.reason) for drop in pick(items, Dropped)] == [
        ("l.csv: line 9", '"soon" is no time'),
        ("l.csv: line 10", "its validity ends before it begins"),
        ("l.csv: line 11", '"email" is nothing that is looked up'),
        ("l.csv: line 12", "the row has no value"),
        ("l.csv: line 13", "127.0.0.1 is every host itself"),
    ]


def test_one_value_a_line() -> None:
    text = (
        "; comment\n1.2.3.4\n\n1.2.3.0/24 ; SBL1\n1.2.3.4:443\n[2001:db8::1]:80\n"
        "hxxp://evil[.]example/a,b # c2\n0.0.0.0 ads.example\n// comment\n# comment\n"
        f'"{MD5}"\nupdate9.exe\nevil.example/gate\nlocalhost\nx@y.example\nfoo\n'
    )
    assert list_values(text) == [
        ("address", "1.2.3.4"),
        ("network", "1.2.3.0/24"),
        ("address", "1.2.3.4"),
        ("address", "2001:db8::1"),
        ("url", "http://evil.example/a,b"),
        ("domain", "ads.example"),
        ("md5", MD5),
        ("file", "update9.exe"),
        ("url", "http://evil.example/gate"),
    ]
    items = read_all(read_indicator_csv, text.encode())
    assert [item.name for item in pick(items, Indicator)][1:5:3] == ["SBL1", "c2"]
    assert [drop.where for drop in pick(items, Dropped)] == [
        "feed: line 14", "feed: line 15", "feed: line 16",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '# x\n# "first_seen_utc","ioc_id","ioc_value","ioc_type","malware","reporter"\n'
            '"2024-01-01 10:00:00", "1", "1.2.3.4:443", "ip:port", "Emotet", "abuse"\n',
            [("address", "1.2.3.4")],
        ),
        (f"Indicator type,Indicator\nIPv4,1.2.3.4\nFileHash-MD5,{MD5}\n",
         [("address", "1.2.3.4"), ("md5", MD5)]),
        (
            "uuid,event_id,category,type,value,comment,to_ids,date\n"
            f"a,1,b,filename|md5,x.exe|{MD5},c,1,20240101\na,1,b,ip-dst|port,9.9.9.9|80,c,1,2\n"
            "a,1,b,ip-dst,9.9.9.8,c,0,2\n",
            [("md5", MD5), ("address", "9.9.9.9")],
        ),
        ("ip;domain\n1.2.3.4;a.example\n".encode("utf-16"),
         [("address", "1.2.3.4"), ("domain", "a.example")]),
        ("# IP, domain and URL\nevil.example\n", [("domain", "evil.example")]),
        ("\ufeffmd5\tsize\n" + MD5 + "\t5\n", [("md5", MD5)]),
        # A quote that is never closed takes one line with it, not the file.
        ("value,name\n1.2.3.4,\"x\n1.2.3.5,y\n", [("address", "1.2.3.4"), ("address", "1.2.3.5")]),
    ],
)  # fmt: skip
def test_common_lists(text: str | bytes, expected: list[tuple[str, str]]) -> None:
    assert list_values(text) == expected


# --- hostile input


@pytest.mark.parametrize("name", READERS)
def test_what_is_no_such_file_is_a_model_error(name: str) -> None:
    read, good = READERS[name]
    for raw in (b"\x00\xff" * 99, b"\x7fELF\x00\x01", b"PK\x03\x04\x00\x00"):
        with pytest.raises(ModelError, match="feed"):
            list(read(raw, "feed"))
    if name in JSON_READERS:
        for raw in (b"", b"null", b"[]", b"{}", b"5", b'"x"', good[:-3], b'{"a": "\\ud800"}'):
            with pytest.raises(ModelError, match="feed"):
                list(read(raw, "feed"))


@pytest.mark.parametrize("name", READERS)
def test_nested_and_cut_files_end_well(name: str) -> None:
    read, good = READERS[name]
    begun = time.perf_counter()
    deep = b"[" * 100_000
    for raw in (deep, deep + b"]" * 100_000, b'{"objects":' * 100_000, good + deep):
        try:
            read_all(read, raw)
        except ModelError:
            assert name not in ("indicators",)
    for end in range(0, len(good), max(1, len(good) // 199)):
        try:
            read_all(read, good[:end])
        except ModelError:
            continue
    assert time.perf_counter() - begun < 20


def test_a_file_that_would_fill_the_memory_is_refused() -> None:
    for part in (b"{},", b"[],", b'{"a":1},', b'"ab",'):
        raw = b'{"objects":[' + part * (24_000_000 // len(part)) + b"0]}"
        begun = time.perf_counter()
        with pytest.raises(ModelError, match="MiB of memory"):
            decode_json(raw, "x")
        assert time.perf_counter() - begun < 5
    assert decode_json(b"\xef\xbb\xbf[1]", "x") == [1]


def list_places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    children: Any = ()
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    for key, child in children:
        yield from list_places(child, (*path, key))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return value


HOSTILE_TEXTS = st.one_of(
    st.text(alphabet=st.characters(codec="utf-8"), max_size=20),
    st.sampled_from(
        [
            "\x00",
            "\x1b[2J",
            "\u202e",
            "x" * 20_000,
            "\n" * 9,
            "T1059",
            "CVE-2026-0001",
            "-1",
            "TRUE",
        ]
    ),
)
HOSTILE = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 2**60), st.floats(allow_nan=False,
              allow_infinity=False), HOSTILE_TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(HOSTILE_TEXTS, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@pytest.mark.parametrize("name", JSON_READERS)
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_wrong_types_anywhere_are_dropped_or_refused(name: str, data: st.DataObject) -> None:
    read, good = JSON_READERS[name]
    value = json.loads(good)
    for _ in range(data.draw(st.integers(1, 3))):
        places = list(list_places(value))
        place = places[data.draw(st.integers(0, len(places) - 1))]
        value = put(value, place, data.draw(HOSTILE))
    try:
        read_all(read, json.dumps(value).encode())
    except ModelError as error:
        assert str(error).startswith("feed: ")


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_changed_bytes_are_dropped_or_refused(name: str, data: st.DataObject) -> None:
    read, good = READERS[name]
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, min(len(good), start + 50)))
    raw = good[:start] + data.draw(st.binary(max_size=50)) + good[end:]
    try:
        read_all(read, raw)
    except ModelError as error:
        assert str(error).startswith("feed: ")


@settings(max_examples=200, deadline=None)
@given(lines=st.lists(st.text(alphabet=st.characters(codec="utf-8"), max_size=60), max_size=8))
def test_any_lines_are_indicators_or_dropped(lines: list[str]) -> None:
    for head in ("value,type,name\n", ""):
        raw = (head + "\n".join(lines)).encode()
        try:
            read_all(read_indicator_csv, raw)
        except ModelError:
            assert b"\x00" in raw


def test_huge_texts_are_cut() -> None:
    huge = "x\x00 [y](" * 2_000_000
    bundle = json.loads(JSON_READERS["attack"][1])
    for item in bundle["objects"]:
        item.update(description=huge[:100_000], name=huge[:100_000])
    bundle["objects"][7].update(description=huge, name=huge, x_mitre_platforms=[huge, huge])
    event = json.loads(JSON_READERS["misp"][1])
    event["Event"].update(info=huge)
    event["Event"]["Attribute"][0].update(comment=huge, value=huge)
    begun = time.perf_counter()
    read_all(read_stix, json.dumps(bundle).encode())
    read_all(read_misp, json.dumps(event).encode())
    read_all(read_kev_json, json.dumps({"vulnerabilities": [
        {**KEV["vulnerabilities"][0], "shortDescription": huge, "product": huge, "notes": huge},
    ]}).encode())  # fmt: skip
    items = read_all(read_indicator_csv, ("1.2.3.4\n" + "y" * 50_000_000 + "\n1.2.3.5\n").encode())
    assert len(pick(items, Indicator)) == 2 and len(pick(items, Dropped)) == 1
    assert time.perf_counter() - begun < 20


def test_a_million_repeated_lines_and_objects_take_seconds() -> None:
    begun = time.perf_counter()
    kinds = Counter[type](type(item) for item in read_indicator_csv(b"1.2.3.4\n" * 1_000_000, "x"))
    assert kinds == {Indicator: 1_000_000}
    assert time.perf_counter() - begun < 60
    begun = time.perf_counter()
    part = b'{"type":"tool","id":"tool--1","name":"nc","description":"%s"},' % (b"x y " * 30)
    raw = b'{"type":"bundle","objects":[' + part * 300_000 + b"0]}"
    kinds = Counter[type](type(item) for item in read_stix(raw, "x"))
    assert kinds == {Dropped: 300_000, KnowledgeEntry: 1}
    assert time.perf_counter() - begun < 30
