"""Readers of files and folders: every sample gives what it says, nothing hostile gets through."""

import bz2
import gzip
import io
import itertools
import json
import lzma
import os
import re
import tarfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import ModelError
from appliance.knowledge.entries import (
    ENTRY_TYPES,
    Dropped,
    Indicator,
    Item,
    KnowledgeEntry,
    Link,
)
from appliance.knowledge.readers import READERS, archives, documents, files, read_file, read_path
from appliance.knowledge.readers.archives import SourceFile, tell_name
from appliance.knowledge.readers.atomic import read_atomic, read_stockpile
from appliance.knowledge.readers.documents import BrokenDocument, Document, read_documents
from appliance.knowledge.readers.gtfobins import FUNCTIONS, read_gtfobins
from appliance.knowledge.readers.indicators import read_indicator_csv
from appliance.knowledge.readers.lolbas import read_lolbas
from appliance.knowledge.readers.markdown import find_ids, read_markdown
from appliance.knowledge.readers.package import PACKAGE_FILES, find_package_data, read_package
from appliance.knowledge.readers.recognise import Look
from appliance.knowledge.readers.sigma import name_sigma_source, read_sigma
from appliance.knowledge.readers.stix import read_stix

SAMPLES = Path(__file__).parent / "samples" / "knowledge"

LOLBAS = b"""---
Name: Tool.exe
Description: A tool.
Created: 2020-01-02
Commands:
  - Command: tool.exe /get {REMOTEURL}
    Description: Saves a file.
    Category: Download
    MitreID: T1105
  - Command: tool.exe /run
    Description: Runs a file.
    Category: Execute
    MitreID: T1218
  - Command: tool.exe /x
    MitreID: nonsense
Full_Path:
  - Path: C:\\Windows\\tool.exe
Aliases:
  - Alias: Tool64.exe
"""
GTFOBINS = b"""---
functions:
  file-read:
  - code: |-
      tool /path/to/input-file
    contexts:
      sudo:
      unprivileged:
  inherit:
  - from: less
...
"""
ATOMIC = b"""attack_technique: t1003.001
display_name: "OS Credential Dumping: LSASS Memory"
atomic_tests:
- name: Dump it
  auto_generated_guid: 0BE2230C-9ab3-4ac2-8826-3199b9a0ebf8
  description: Dumps the memory.
  supported_platforms: [windows, "iaas:aws"]
  input_arguments:
    out: {description: where, type: path, default: 'C:\\dump.bin'}
  executor:
    command: 'dump.exe #{out} #{unknown}'
    name: command_prompt
- description: has no name
"""
STOCKPILE = b"""- id: 92777481-42c0-4148-89a8-1cd6cc4db23d
  name: Disable the firewall
  description: Disables it.
  tactic: defense-evasion
  technique: {attack_id: T1562.004}
  platforms:
    windows:
      psh:
        command: Set-NetFirewallProfile -Enabled False
"""
RULE = b"title: A rule\nlogsource: {product: linux}\ndetection: {s: {a: b}, condition: s}\n"
CVE_NAME = "CVE-2021-44228"

Zip = Callable[..., Path]


def entries(items: Iterable[Item]) -> dict[str, KnowledgeEntry]:
    found = [item for item in items if isinstance(item, KnowledgeEntry)]
    by_id = {entry.id: entry for entry in found}
    assert len(by_id) == len(found)
    return by_id


def links(items: Iterable[Item]) -> set[tuple[str, str, str]]:
    found = [item for item in items if isinstance(item, Link)]
    keys = {(link.source, link.kind, link.target) for link in found}
    assert len(keys) == len(found)
    return keys


def drops(items: Iterable[Item]) -> list[Dropped]:
    return [item for item in items if isinstance(item, Dropped)]


def items_of(path: Path) -> list[Item]:
    return [item for _, item in read_path(path)]


def assert_clean(found: Iterable[tuple[str, Item]]) -> None:
    """Whatever a stranger wrote: printing characters, one line where one is due, bounded."""
    for name, item in found:
        assert name.isprintable()
        if isinstance(item, Dropped):
            assert item.where.isprintable() and item.reason.isprintable() and item.reason
            assert len(item.reason) <= 400
        elif isinstance(item, KnowledgeEntry):
            assert item.id.isprintable() and len(item.id) <= 600
            assert item.title.isprintable() and 0 < len(item.title) <= 200
            assert item.text.replace("\n", "").isprintable() and len(item.text) <= 8_000
            assert item.type in ENTRY_TYPES
        elif isinstance(item, Link):
            assert item.source and item.target and item.origin
            assert item.text.replace("\n", "").isprintable() and len(item.text) <= 8_000


# --- formats -----------------------------------------------------------------------------------


def test_sigma_rules_correlations_and_filters() -> None:
    raw = (SAMPLES / "sigma_collection.yml").read_bytes()
    items = list(read_sigma(raw, "collection.yml", "Ours"))
    found = entries(items)
    rule = found["sigma:0e95725d-7320-415d-80f7-004da920fc11"]
    assert rule.type == "rule"
    assert rule.title == "Failed logon of one account"
    assert "A logon failed." in rule.text
    assert "Forgotten passwords" in rule.text and "Level: low." in rule.text
    assert rule.platforms == ("Windows",) and rule.tactics == ("credential-access",)
    assert rule.source == "Ours" and rule.modified == "2024-01-09T00:00:00Z"
    (correlation,) = [entry for entry in found.values() if entry.title == "Many failed logons"]
    assert re.fullmatch(r"sigma:sha256-[0-9a-f]{32}", correlation.id)
    assert "event_count by TargetUserName within 5m" in correlation.text
    filter_id = "sigma:5d8fd9da-6916-45ef-8d4d-3fa9d19d1a64"
    assert len(found) == 3
    assert links(items) == {
        (rule.id, "watches", "T1110.001"),
        (rule.id, "watches", "G0016"),
        (rule.id, "watches", "S0002"),
        (rule.id, "watches", "T9999"),
        (rule.id, "watches", CVE_NAME),
        (correlation.id, "watches", "T1110"),
        (correlation.id, "correlates", rule.id),
        (filter_id, "filters", rule.id),
    }
    reasons = {item.where.partition(":")[2]: item.reason for item in drops(items)}
    assert len(reasons) == 4
    assert "no_such_rule" in reasons["28"]
    assert reasons["45"] == "YAML anchors and aliases are not read"
    assert reasons["51"].startswith("YAML: ")
    assert reasons["52"] == "no title"


def test_sigma_global_document_and_ids_of_content() -> None:
    raw = b"action: global\ntitle: Both\nid: 0e95725d-7320-415d-80f7-004da920fc11\n"
    raw += b"".join(b"---\ndetection: {s: {a: %d}, condition: s}\n" % number for number in (1, 2))
    found = entries(read_sigma(raw, "x.yml"))
    assert len(found) == 2
    assert all(entry.title == "Both" and "sha256" in entry.id for entry in found.values())
    again = entries(read_sigma(raw.replace(b"a: 1", b"a:  1"), "y.yml"))
    assert list(again) == list(found)


def test_sigma_source_by_folders() -> None:
    assert name_sigma_source(("/", "mnt", "sigma-master"), "sigma-master") == "SigmaHQ"
    assert name_sigma_source(("rules-emerging-threats", "2021"), "x") == "SigmaHQ"
    assert name_sigma_source(("/", "mnt", "own"), "own") == "Sigma rules: own"
    assert name_sigma_source(("sigmatic",), "") == "Sigma rules"


def test_lolbas() -> None:
    items = list(read_lolbas(LOLBAS, "Tool.yml"))
    (entry,) = entries(items).values()
    assert entry.id == "lolbas:tool.exe" and entry.type == "binary"
    assert entry.aliases == ("Tool", "Tool64.exe")
    assert "tool.exe /get {REMOTEURL}" in entry.text and "C:\\Windows\\tool.exe" in entry.text
    assert links(items) == {(entry.id, "abuses", "T1105"), (entry.id, "abuses", "T1218")}
    (text,) = [item.text for item in items if isinstance(item, Link) and item.target == "T1105"]
    assert text == "Download: Saves a file. tool.exe /get {REMOTEURL}"
    assert [item.reason for item in drops(items)] == [
        'a command\'s MitreID "NONSENSE" is no technique'
    ]


def test_gtfobins() -> None:
    items = list(read_gtfobins(GTFOBINS, "_gtfobins/Tool"))
    (entry,) = entries(items).values()
    assert entry.id == "gtfobins:tool" and entry.title == "Tool"
    assert "file-read (sudo, unprivileged): tool /path/to/input-file" in entry.text
    assert links(items) == {
        (entry.id, "abuses", "T1005"),
        (entry.id, "abuses", "T1548.003"),
        (entry.id, "inherits", "gtfobins:less"),
    }
    (alias,) = entries(read_gtfobins(b"---\nalias: tool\n...\n", "t")).values()
    assert "another name of tool" in alias.text


def test_atomic_and_stockpile() -> None:
    items = list(read_atomic(ATOMIC, "T1003.001.yaml"))
    (entry,) = entries(items).values()
    assert entry.id == "atomic:0be2230c-9ab3-4ac2-8826-3199b9a0ebf8" and entry.type == "note"
    assert "Command (command_prompt): dump.exe C:\\dump.bin #{unknown}" in entry.text
    assert entry.platforms == ("Windows", "IaaS")
    assert links(items) == {(entry.id, "tests", "T1003.001")}
    assert [item.reason for item in drops(items)] == ["test 2 has no name"]
    items = list(read_stockpile(STOCKPILE, "x.yml"))
    (entry,) = entries(items).values()
    assert "Command (psh): Set-NetFirewallProfile" in entry.text
    assert entry.platforms == ("Windows",) and entry.tactics == ("defense-evasion",)
    assert links(items) == {(entry.id, "tests", "T1562.004")}


def test_atomic_commands_are_cut() -> None:
    raw = ATOMIC.replace(b"dump.exe", b"dump.exe " + b"#{out}" * 5_000)
    (entry,) = entries(read_atomic(raw, "x.yaml")).values()
    assert len(entry.text) < 900 and entry.text.endswith("...")


def test_markdown() -> None:
    items = list(read_markdown((SAMPLES / "notes.md").read_bytes(), "mail/gateway.md"))
    found = entries(items)
    lead = "note:mail/gateway.md#"
    names = ["top", "what-is-ordinary", "who-to-call", "what-is-ordinary-2"]
    assert list(found) == [lead + name for name in names]
    top, ordinary = found[lead + "top"], found[lead + "what-is-ordinary"]
    assert top.title == "Mail gateway" and top.aliases == ("mail", "attack.t1566")
    assert top.text == "Reached at 10.0.0.5, see the wiki or https://mail.example."
    assert ordinary.title == "Mail gateway: What is ordinary"
    assert "*.exe from partners every night; rule" in ordinary.text
    assert "is not T1105" in ordinary.text
    assert "# not a heading" in ordinary.text and "curl http://<host>/" in ordinary.text
    assert not any(word in ordinary.text for word in ("script", "alert", "<b>", "idden", "T1003"))
    assert "Deeper headings stay" in found[lead + "what-is-ordinary-2"].text
    uuid = "sigma:3eb91f0a-0060-424a-a676-59f5fdd75610"
    said = {(source, target) for source, kind, target in links(items) if kind == "about"}
    assert {target for source, target in said if source == ordinary.id} == {
        "T1105", "T1059.004", uuid, "T1566",
    }  # fmt: skip
    assert (lead + "who-to-call", CVE_NAME) in said


def test_markdown_playbook_answers() -> None:
    raw = b"---\ntype: playbook\n---\n# Phishing\nFor T1566 and G0016.\n"
    items = list(read_markdown(raw, "p.md", "Ours"))
    (entry,) = entries(items).values()
    assert entry.type == "playbook" and entry.source == "Ours" and entry.title == "Phishing"
    assert links(items) == {(entry.id, "answers", "T1566"), (entry.id, "about", "G0016")}
    odd = list(read_markdown(b"---\ntype: novel\ndate: 2024-01-02\n---\nText\n", "p.md"))
    (entry,) = entries(odd).values()
    assert entry.type == "note" and entry.modified == "2024-01-02T00:00:00Z"
    assert len(drops(odd)) == 1


def test_markdown_incident() -> None:
    raw = b"---\ntype: Incident\n---\n# Mail of March\nIt was T1566.\n"
    items = list(read_markdown(raw, "i.md"))
    (entry,) = entries(items).values()
    assert entry.type == "incident" and entry.title == "Mail of March"
    assert links(items) == {(entry.id, "about", "T1566")}
    assert not drops(items)


def test_stix_incident() -> None:
    item = {
        "type": "incident",
        "spec_version": "2.1",
        "id": "incident--b1a6ab96-0a9b-4b6a-8a3b-0a7d6ab7d3b1",
        "name": "Mail of March",
        "description": "A page that asked for passwords.",
    }
    raw = json.dumps({"type": "bundle", "id": "bundle--1", "objects": [item]}).encode()
    (entry,) = entries(read_stix(raw, "i.json")).values()
    assert (entry.type, entry.title) == ("incident", "Mail of March")


def test_two_folders_may_have_notes_of_one_name(tmp_path: Path) -> None:
    """Also where the one lies in the other, which bears the same name."""
    for folder in ("mail", "web", "web/web"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "README.md").write_bytes(b"# Said\nWords.\n")
    mail, web = entries(items_of(tmp_path / "mail")), entries(items_of(tmp_path / "web"))
    assert list(mail) == ["note:mail/README.md#said"]
    assert list(web) == ["note:web/README.md#said", "note:web/web/README.md#said"]
    alone = entries(items_of(tmp_path / "mail" / "README.md"))
    assert list(alone) == ["note:README.md#said"]
    for found in (mail, alone):
        assert [entry.title for entry in found.values()] == ["Said"]


def test_port_behind_an_address_is_cut_off() -> None:
    rows = b"type,value\nip,2.2.2.2:80\nip,[2001:db8::5]:443\nip,2.2.2.0/24\nip,2001:db8::6\n"
    found = list(read_indicator_csv(rows, "list.csv"))
    assert [(item.kind, item.value) for item in found if isinstance(item, Indicator)] == [
        ("address", "2.2.2.2"),
        ("address", "2001:db8::5"),
        ("network", "2.2.2.0/24"),
        ("address", "2001:db8::6"),
    ]
    (found_in_column,) = read_indicator_csv(b"dst_ip,comment\n3.3.3.3:8080,bad\n", "list.csv")
    assert isinstance(found_in_column, Indicator) and found_in_column.value == "3.3.3.3"


@pytest.mark.parametrize(
    "text",
    [
        "<scr<b>ipt>alert(1)</scr</b>ipt>",
        "<img src=x onerror=alert(1)>",
        "<x-y onclick=alert(1)>",
        "<script>never closed",
        "[a](javascript:alert(1))",
        "<iframe src='x'></iframe>",
        "<!DOCTYPE html><?php echo 1 ?>",
        "<script",
    ],
)
def test_markdown_keeps_no_html(text: str) -> None:
    (entry,) = entries(read_markdown(f"Before {text} after\n".encode(), "x.md")).values()
    assert "Before" in entry.text
    assert not re.search(r"<[/!?a-z]", entry.text, re.IGNORECASE)
    assert "javascript" not in entry.text


def test_find_ids() -> None:
    text = "T1059.001, t1003, TA0002; G0016 S0002 C0001 M1036 DET0001 AN0001 A0001 cve-2021-44228"
    assert find_ids(text)[:2] == ["T1059.001", "T1003"]
    assert find_ids(text)[-1] == CVE_NAME and len(find_ids(text)) == 11
    assert find_ids("XT1059 T10591 T105 MT1000X CVE-21-1") == []


@pytest.mark.parametrize("text", ["[" * 100_000, "<" * 100_000, "[](" * 30_000, "*a" * 50_000,
                                  "# " + " " * 100_000 + "#", "`" * 100_000, "<a " * 30_000,
                                  "(Citation:" * 9_000, "![a][" * 20_000])  # fmt: skip
def test_markdown_takes_linear_time(text: str) -> None:
    begin = time.perf_counter()
    list(read_markdown(f"Said\n{text}\nSaid\n".encode(), "x.md"))
    assert time.perf_counter() - begin < 2.0


# --- YAML --------------------------------------------------------------------------------------


def read_one(text: str) -> Document | BrokenDocument:
    (found,) = read_documents(text.encode(), "x")
    return found


def test_yaml_scalars_stay_text() -> None:
    found = read_one("a: 2021-12-10\nb: 1:30:00\nc: 0x10\nd:\ne: yes\nf: '~'\n2: [~, '']\n")
    assert isinstance(found, Document)
    assert found.content == {
        "a": "2021-12-10", "b": "1:30:00", "c": "0x10", "d": None, "e": "yes", "f": "~",
        "2": [None, ""],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: &x [1]\nb: [*x, *x]\n", "anchors"),
        ("a: &a [lol]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", "anchors"),
        ("a: !!python/object/apply:os.system [id]\n", "tags"),
        ("a: !own x\n", "tags"),
        ("? [a, b]\n: c\n", "key"),
        ("a: " + "[" * 10_000, "deeper"),
        ("a: " + "{b: " * 10_000, "deeper"),
        ("".join(" " * depth + "a:\n" for depth in range(200)), "deeper"),
        ("- x\n" * 150_000, "values"),
        ("a: " + "b" * (1 << 20), "MB"),
        ("a: [1\nb: 2\n", "YAML: "),
        ("a: \x07\n", "YAML: "),
    ],
)
def test_yaml_refuses(text: str, reason: str) -> None:
    begin = time.perf_counter()
    found = read_one(text)
    assert isinstance(found, BrokenDocument)
    assert reason in found.reason and found.reason.isprintable()
    assert time.perf_counter() - begin < 5.0


def test_yaml_merge_keys_are_plain_keys() -> None:
    found = read_one("a: {<<: {b: c}}\n")
    assert isinstance(found, Document) and found.content == {"a": {"<<": {"b": "c"}}}


def test_yaml_broken_document_spoils_no_other() -> None:
    text = "a: 1\n---\nb: [\n---\n# nothing\n---\nc: 3\n...\n---\nd: |\n  --- x\n"
    found = list(read_documents(text.encode(), "x"))
    assert [(type(one), one.line) for one in found] == [
        (Document, 1), (BrokenDocument, 4), (Document, 7), (Document, 10),
    ]  # fmt: skip


def test_yaml_number_of_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_DOCUMENTS", 10)
    with pytest.raises(ModelError, match="more than 10"):
        list(read_documents(b"---\na: 1\n" * 20, "x"))


# --- what a file is ----------------------------------------------------------------------------

RECOGNISED: dict[str, tuple[str, bytes]] = {
    "STIX 2.1 bundle": ("a", b'{"type": "bundle", "id": "bundle--1", "objects": []}'),
    "CISA KEV (JSON)": ("a.json", b'{"catalogVersion": "1", "vulnerabilities": []}'),
    "CVE record (JSON 5)": ("a", b'{"dataType": "CVE_RECORD", "cveMetadata": {}}'),
    "MISP event": ("a.json", b'[{"Event": {}}]'),
    "Atomic Red Team": ("a", ATOMIC),
    "LOLBAS": ("a.txt", LOLBAS),
    "Sigma": ("a", RULE),
    "Caldera abilities": ("a", STOCKPILE),
    "GTFOBins": ("tar", GTFOBINS),
    "Markdown notes": ("a.md", b"---\ntitle: x\n---\ntext"),
    "CISA KEV (CSV)": ("a", b"cveID,vendorProject,product\nCVE-2021-1,x,y\n"),
    "indicators (CSV or text)": ("a.txt", b"# list\n198.51.100.7\nevil[.]example\n"),
}


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_recognises_each_format_and_only_it(reader: object) -> None:
    assert {one.name for one in READERS} == set(RECOGNISED)
    for name, (file, raw) in RECOGNISED.items():
        first = next(one for one in READERS if one.is_of(Look(file, raw)))
        assert first.name == name
        marked = raw.decode().encode("utf-16")
        first = next(one for one in READERS if one.is_of(Look(file, marked)))
        assert first.name == name
        first = next(one for one in READERS if one.is_of(Look(file, b"\xef\xbb\xbf" + raw)))
        assert first.name == name
    assert reader in READERS


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("LICENSE", b"Permission is hereby granted, free of charge, to any person.\n" * 10),
        ("a.txt", b"Dear all,\nthe site example.org is down.\nPlease do not call.\n"),
        ("rows.json", b'[{"text": "a"}]'),
        ("conf.yml", b"a: 1\nb: 2\n"),
        ("a.py", b"198.51.100.7\n"),
        ("a", b"\x7fELF\x02\x01\x01" + bytes(100)),
        ("a.txt", b""),
        ("schema.json", b'{"properties": {"vulnerabilities": {}}}'),
        ("a.json", b"[" * 100_000),
        ("a.json", b'{"a":' * 100_000),
        ("a.json", b'{"type": "bundle", '),
        ("bad.yml", b"a: [\n"),
    ],
)
def test_unknown_files_are_refused(name: str, raw: bytes) -> None:
    with pytest.raises(ModelError, match=f"{name}: "):
        list(read_file(SourceFile(name, raw)))


# --- folders -----------------------------------------------------------------------------------


def test_read_path_of_a_mixed_folder(tmp_path: Path) -> None:
    root = tmp_path / "stick"
    (root / "deep" / ".git").mkdir(parents=True)
    (root / "deep" / ".git" / "rule.yml").write_bytes(RULE)
    (root / ".hidden.yml").write_bytes(RULE)
    (root / "deep" / "rule.yml").write_bytes(RULE)
    (root / "Tool.yml").write_bytes(LOLBAS)
    (root / "notes.md").write_bytes(b"# Said\nT1059\n")
    (root / "odd.bin").write_bytes(b"\0\1")
    (root / "broken.md").write_bytes(b"\xff\xfeodd")
    (root / "evil\x1b[31m\nname.yml").write_bytes(RULE)
    (root / "link.yml").symlink_to(root / "Tool.yml")
    (root / "loop").symlink_to(root)
    os.mkfifo(root / "pipe.yml")
    found = list(read_path(root))
    assert_clean(found)
    names = list(dict.fromkeys(name for name, _ in found))
    assert names == [
        "Tool.yml", "broken.md", "deep/rule.yml", "evil\\u001b[31m\\u000aname.yml", "link.yml",
        "loop", "notes.md", "odd.bin", "pipe.yml",
    ]  # fmt: skip
    dropped = {item.where: item.reason for _, item in found if isinstance(item, Dropped)}
    assert dropped.pop("Tool.yml:2").startswith("a command")
    assert set(dropped) == {"broken.md", "link.yml", "loop", "odd.bin", "pipe.yml"}
    assert dropped["link.yml"] == dropped["loop"] == "a link is not followed"
    assert dropped["odd.bin"] == "not text"
    sources = {item.source for _, item in found if isinstance(item, KnowledgeEntry)}
    assert sources == {"LOLBAS", "Sigma rules: stick", "Site notes: stick"}
    assert found == list(read_path(root))


def test_a_single_file_is_refused_as_a_whole(tmp_path: Path) -> None:
    for name, raw in (("a.yml", b"a: ["), ("b.md", b"\xff"), ("c", b"\0"), ("d.yml", b"title: 1")):
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(ModelError, match=f"^{name}: "):
            list(read_path(tmp_path / name))
    (tmp_path / "empty").mkdir()
    (tmp_path / "self").symlink_to("self")
    os.mkfifo(tmp_path / "pipe")
    for wrong in ("empty", "self", "pipe", "missing", "a.yml/x", "nul\0"):
        with pytest.raises(ModelError):
            list(read_path(tmp_path / wrong))


def test_a_given_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.yml").write_bytes(RULE)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert len(entries(items_of(tmp_path / "link"))) == 1


def test_huge_files_are_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(1 << 34)
    (tmp_path / "a.yml").write_bytes(RULE)
    items = items_of(tmp_path)
    assert [item.reason for item in drops(items)] == ["larger than 256 MB"]
    with pytest.raises(ModelError, match="larger than 256 MB"):
        items_of(tmp_path / "huge.json")


def test_bounds_on_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / "root"
    for _ in range(40):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (deep / "a.yml").write_bytes(RULE)
    (item,) = items_of(tmp_path / "root")
    assert isinstance(item, Dropped) and "deeper than 32" in item.reason
    for number in range(20):
        (tmp_path / f"{number}.yml").write_bytes(RULE)
    monkeypatch.setattr(files, "MAX_FILES", 10)
    with pytest.raises(ModelError, match="more than 10 files"):
        items_of(tmp_path)
    monkeypatch.setattr(files, "MAX_FILES", 100)
    monkeypatch.setattr(files, "MAX_TOTAL", 2 * len(RULE))
    with pytest.raises(ModelError, match="to read"):
        items_of(tmp_path)


def test_unreadable_folder_is_told(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    (tmp_path / "shut").mkdir(mode=0)
    (tmp_path / "a.yml").write_bytes(RULE)
    assert "cannot be read" in drops(items_of(tmp_path))[0].reason


@given(st.text(max_size=600))
def test_names_are_told_in_printing_characters(name: str) -> None:
    told = tell_name(name)
    assert told.isprintable() and len(told) <= 400
    told.encode("utf-8")


# --- archives ----------------------------------------------------------------------------------


def make_zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, raw in members.items():
            archive.writestr(zipfile.ZipInfo(name) if method == 0 else name, raw)
    return path


def make_tar(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member, raw in members:
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    return file.getvalue()


def tar_of(members: dict[str, bytes]) -> bytes:
    return make_tar((tarfile.TarInfo(name), raw) for name, raw in members.items())


GOOD = {"t/Tool.yml": LOLBAS, "t/rule.yml": RULE, "t/.git/x.yml": RULE, "t/odd": b"\0"}


def check_good(found: list[tuple[str, Item]], name: str) -> None:
    ids = entries(item for _, item in found)
    assert "lolbas:tool.exe" in ids and len(ids) == 2
    reasons = {item.where: item.reason for _, item in found if isinstance(item, Dropped)}
    assert reasons.pop(f"{name}/t/odd") == "not text"
    assert list(reasons) == [f"{name}/t/Tool.yml:2"]


def test_zip_alone_and_in_a_folder(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "stick.zip", GOOD)
    check_good(list(read_path(path)), "stick.zip")
    check_good(list(read_path(tmp_path)), "stick.zip")


@pytest.mark.parametrize(
    "pack",
    [bytes, gzip.compress, bz2.compress, lzma.compress],
    ids=["tar", "gz", "bz2", "xz"],
)
def test_tar(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    (tmp_path / "stick").write_bytes(pack(tar_of(GOOD)))
    check_good(list(read_path(tmp_path / "stick")), "stick")


def test_xz_of_several_streams(tmp_path: Path) -> None:
    raw = tar_of(GOOD)
    packed = lzma.compress(raw[:700]) + bytes(8) + lzma.compress(raw[700:])
    (tmp_path / "stick").write_bytes(packed)
    check_good(list(read_path(tmp_path / "stick")), "stick")


def test_one_packed_file(tmp_path: Path) -> None:
    (tmp_path / "rule.yml.gz").write_bytes(gzip.compress(RULE))
    assert len(entries(items_of(tmp_path))) == 1


@pytest.mark.parametrize("name", ["../up.yml", "/etc/cron.yml", "a/../../b", "..\\b", "C:\\b.yml"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    path = make_zip(tmp_path / "a.zip", {"good.yml": RULE, name: RULE}, zipfile.ZIP_STORED)
    with pytest.raises(ModelError, match="leads out"):
        items_of(path)
    tar = tmp_path / "a.tar"
    tar.write_bytes(tar_of({"good.yml": RULE, name: RULE}))
    with pytest.raises(ModelError, match="leads out"):
        items_of(tar)
    items = items_of(tmp_path)
    assert not entries(items) and len(drops(items)) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "a.zip"]


def test_archives_in_archives_are_refused(tmp_path: Path) -> None:
    inner = make_zip(tmp_path / "inner.zip", GOOD).read_bytes()
    members = {"a.zip": inner, "b.tar": tar_of(GOOD), "c.gz": gzip.compress(RULE)}
    (tmp_path / "inner.zip").unlink()
    path = make_zip(tmp_path / "outer.zip", members)
    items = items_of(path)
    assert not entries(items)
    assert [item.reason for item in drops(items)] == [
        f"an archive ({kind}) in an archive is not read" for kind in ("zip", "tar", "gzip")
    ]
    (tmp_path / "outer.tgz").write_bytes(gzip.compress(tar_of(members)))
    assert len(drops(items_of(tmp_path / "outer.tgz"))) == 3


def test_links_and_devices_in_archives(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link.yml")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
    members = []
    for number, kind in enumerate(kinds):
        member = tarfile.TarInfo(f"{number}.yml")
        member.type, member.linkname = kind, "/etc/passwd"
        members.append((member, b""))
    (tmp_path / "b.tar").write_bytes(make_tar(members))
    reasons = [item.reason for item in drops(items_of(tmp_path))]
    assert reasons == ["a link or a device"] + ["a link, a device or a file with holes"] * 4


@pytest.mark.parametrize("kind", ["zip", "gz", "bz2", "xz", "tgz"])
def test_bombs_are_refused(tmp_path: Path, kind: str) -> None:
    zeros = bytes(64 << 20)
    path = tmp_path / f"bomb.{kind}"
    if kind == "zip":
        make_zip(path, {"a.json": zeros})
    elif kind == "tgz":
        path.write_bytes(gzip.compress(tar_of({"a.json": zeros})))
    else:
        packers: dict[str, Callable[[bytes], bytes]] = {
            "gz": gzip.compress,
            "bz2": bz2.compress,
            "xz": lambda raw: lzma.compress(raw, preset=0),
        }
        path.write_bytes(packers[kind](zeros))
    with pytest.raises(ModelError, match="would unpack to more than"):
        items_of(path)
    assert len(drops(items_of(tmp_path))) == 1


def test_zip_that_lies_about_a_size(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"a.yml": RULE + b"#" * 40_000_000})
    raw = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = raw.index(mark) + offset
        raw[at : at + 4] = len(RULE).to_bytes(4, "little")
    path.write_bytes(raw)
    with pytest.raises(ModelError):
        items_of(path)


def test_zip_of_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_zip(tmp_path / "a.zip", {f"{number}.yml": b"" for number in range(50)})
    monkeypatch.setattr(archives, "MAX_MEMBERS", 10)
    with pytest.raises(ModelError, match="more than 10 files"):
        items_of(path)
    tar = tmp_path / "a.tar"
    tar.write_bytes(tar_of({f"{number}.yml": b"" for number in range(50)}))
    with pytest.raises(ModelError, match="more than 10 files"):
        items_of(tar)


def test_encrypted_zip(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"a.yml": RULE})
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    with pytest.raises(ModelError, match="encrypted"):
        items_of(path)


def test_tar_with_a_header_of_great_length(tmp_path: Path) -> None:
    member = tarfile.TarInfo("a.yml")
    member.pax_headers = {"comment": "x" * (8 << 20)}
    (tmp_path / "a.tar").write_bytes(make_tar([(member, RULE)]))
    with pytest.raises(ModelError, match="broken"):
        items_of(tmp_path / "a.tar")


def test_archives_that_are_known_by_sight_only(tmp_path: Path) -> None:
    (tmp_path / "a.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(300))
    with pytest.raises(ModelError, match="7z archives are not read"):
        items_of(tmp_path / "a.7z")


def archive_bytes() -> Iterator[bytes]:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in GOOD.items():
            archive.writestr(name, raw)
    yield file.getvalue()
    tar = tar_of(GOOD)
    yield from (tar, gzip.compress(tar, mtime=0), bz2.compress(tar), lzma.compress(tar))


@settings(deadline=None, max_examples=300)
@given(
    which=st.integers(0, 4),
    damage=st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 255)), max_size=8),
    cut=st.integers(0, 20_000),
)
def test_damaged_archives_raise_nothing_else(
    tmp_path_factory: pytest.TempPathFactory,
    which: int,
    damage: list[tuple[int, int]],
    cut: int,
) -> None:
    raw = bytearray(next(itertools.islice(archive_bytes(), which, None)))
    for at, value in damage:
        raw[at % len(raw)] = value
    del raw[max(1, cut) :]
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(raw)
    try:
        assert_clean(read_path(path))
    except ModelError as error:
        assert str(error).isprintable()


# --- anything ----------------------------------------------------------------------------------

SEEDS = [raw for _, raw in RECOGNISED.values()]
SEEDS += [path.read_bytes() for path in sorted(SAMPLES.glob("*")) if path.suffix in (".md", ".yml")]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    raw = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(raw)))
        piece = draw(st.binary(max_size=12) | st.sampled_from(
            [b"&a ", b"*a", b"---\n", b"[", b"{", b": ", b"\n", b"\0", b"\xff", b"!!x ", b"- ",
             b"\x1b[2J", b"\xe2\x80\xae", b"\xed\xa0\x80", b"null", b"2021-01-01", b"? "]
        ))  # fmt: skip
        raw[at : at + draw(st.integers(0, 8))] = piece
    return bytes(raw)


@settings(deadline=None, max_examples=400)
@given(
    raw=st.binary(max_size=400) | mutated(), name=st.sampled_from(["a", "a.md", "a.yml", "a.csv"])
)
def test_any_bytes_give_items_or_a_model_error(raw: bytes, name: str) -> None:
    readers = (
        read_sigma, read_lolbas, read_gtfobins, read_atomic, read_stockpile, read_markdown,
        lambda raw, name: read_file(SourceFile(name, raw)),
    )  # fmt: skip
    for read in readers:
        try:
            assert_clean((name, item) for item in read(raw, name))
        except ModelError as error:
            assert str(error).startswith(f"{name}:") and str(error).isprintable()


# --- real data ---------------------------------------------------------------------------------


def test_real_package() -> None:
    items = list(read_package(find_package_data()))
    found = entries(items)
    counts = Counter(entry.type for entry in found.values())
    assert counts == {
        "technique": 835, "tactic": 14, "group": 187, "campaign": 52, "software": 787,
        "mitigation": 268, "strategy": 691, "analytic": 1739, "log_source": 147,
    }  # fmt: skip
    kinds = Counter(kind for _, kind, _ in links(items))
    # The relationships are 20,048 altogether, each (source, kind, target) once.
    assert kinds == {
        "uses": 17_270, "mitigates": 1_445, "detects": 691, "subtechnique_of": 477,
        "revoked_by": 140, "attributed_to": 25, "has": 1_739, "reads": 4_124, "in": 1_089,
    }  # fmt: skip
    assert not drops(items)
    assert_clean(("package", item) for item in items)
    assert found["T1059.001"].title == "Command and Scripting Interpreter: PowerShell"
    assert found["T1548.002"].tactics and found["TA0002"].text.startswith("Techniques: ")
    assert "Citation" not in found["T1059.001"].text
    (used,) = [
        item.text
        for item in items
        if isinstance(item, Link) and (item.source, item.target) == ("G0016", "T1059.001")
    ]
    assert "PowerShell" in used
    ends = {end for source, _, target in links(items) for end in (source, target)}
    assert ends <= set(found)
    revoked = [entry for entry in found.values() if entry.revoked]
    assert len(revoked) == 140 and all(entry.revoked_by in found for entry in revoked)


def test_package_files_are_pinned(tmp_path: Path) -> None:
    for name in PACKAGE_FILES:
        (tmp_path / name).write_bytes((find_package_data() / name).read_bytes())
    list(itertools.islice(read_package(tmp_path), 1))
    for name in PACKAGE_FILES:
        raw = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(raw + b" ")
        with pytest.raises(ModelError, match="pinned"):
            list(read_package(tmp_path))
        (tmp_path / name).write_bytes(raw)


def test_real_lolbas_and_gtfobins(shared_data: Callable[[str], Path]) -> None:
    root = shared_data("knowledge")
    for folder, count in (("lolbas", 243), ("gtfobins", 478)):
        found = list(read_path(root / folder))
        assert_clean(found)
        items = [item for _, item in found]
        assert len(entries(items)) == len({name for name, _ in found}) == count
        assert not drops(items) and links(items)
    functions = {
        function
        for path in (root / "gtfobins" / "_gtfobins").iterdir()
        for function in re.findall(r"^  ([a-z-]+):$", path.read_text(), re.MULTILINE)
    }
    assert functions and functions <= set(FUNCTIONS)


def test_real_atomic_and_stockpile(shared_data: Callable[[str], Path]) -> None:
    root = shared_data("knowledge")
    for folder, files_, tests in (("atomic-red-team", 341, 1_819), ("stockpile", 209, 209)):
        found = list(read_path(root / folder))
        assert_clean(found)
        items = [item for _, item in found]
        assert len({name for name, _ in found}) == files_
        assert len(entries(items)) == len(links(items)) == tests
        assert not drops(items)


def test_real_sigma(shared_data: Callable[[str], Path]) -> None:
    root = shared_data("sigma")
    found = list(read_path(root))
    assert_clean(found)
    items = [item for _, item in found]
    assert len(entries(items)) == len({name for name, _ in found}) - 1 == 3_754
    assert {entry.source for entry in entries(items).values()} == {"SigmaHQ"}
    assert [item.where for item in drops(items)] == ["LICENSE"]
    watched = Counter(re.sub(r"[-\d.]+.*", "", target) for _, _, target in links(items))
    tagged = re.compile(r"^\s+- (attack\.[tgs]\d{4}\S*|cve\.\d\S*)\s*(?:#.*)?$", re.MULTILINE)
    tags = Counter(
        "CVE" if tag.startswith("cve") else tag[7].upper()
        for path in root.rglob("*.yml")
        for tag in set(tagged.findall(path.read_text("utf-8").lower()))
    )
    assert watched == tags and watched["T"] > 4_000


def test_everything_else_of_the_real_data_is_known(shared_data: Callable[[str], Path]) -> None:
    """All of it imports, but a schema, and sentences that must stay out of the base."""
    found = list(read_path(shared_data("knowledge")))
    assert_clean(found)
    dropped = [item.where for _, item in found if isinstance(item, Dropped)]
    assert dropped == [
        "cisa-kev/known_exploited_vulnerabilities_schema.json", "tram/single_label.json",
    ]  # fmt: skip
    assert len({name for name, _ in found}) == 243 + 478 + 341 + 209 + 2 + 2 + 2
