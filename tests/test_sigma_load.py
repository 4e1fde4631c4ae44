"""Loading Sigma rules: what is in a RuleSet, and what is refused with file, line and reason."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from appliance.detect.sigma import documents
from appliance.detect.sigma.load import RuleSet, load_rules
from appliance.detect.sigma.match import match_rule
from appliance.errors import RuleError
from appliance.schema import LogSource

ID = "5f0b1c55-0bb1-4ef0-8f0e-0d2a3d6f0a01"
RULE = f"""\
title: Test rule
id: {ID}
description: What it is.
status: test
level: high
tags:
    - attack.defense_evasion
    - attack.Credential-Access
    - attack.t1059.001
    - attack.T1003
    - attack.t1003
    - attack.g0016
    - cve.2024-1234
logsource:
    product: windows
    category: process_creation
detection:
    sel:
        Image|endswith: '\\cmd.exe'
    condition: sel
"""
ROOT = Path(__file__).resolve().parent.parent
FOOTER = "logsource: {product: windows}\ndetection: {s: {f: v}, condition: s}\n"


def feed_all(logsource: LogSource) -> str | None:
    """Every logsource can be produced."""
    return None


def load(path: Path, **placeholders: list[str]) -> RuleSet:
    """Everything in the path."""
    return load_rules([path], feeds=feed_all, placeholders=placeholders)


def write(path: Path, text: str | bytes) -> Path:
    """A file with this content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_rule_info_is_filled(tmp_path: Path) -> None:
    """Everything that others need to know of a rule."""
    path = write(tmp_path / "a.yml", "# a comment\n\n" + RULE)
    rules = load(tmp_path)
    (rule,) = rules.rules
    info = rule.info
    assert (info.id, info.title, info.description) == (ID, "Test rule", "What it is.")
    assert info.level == "high"
    assert info.techniques == ("T1059.001", "T1003")
    assert info.others == ("G0016", "CVE-2024-1234")
    assert info.tactics == ("defense-evasion", "credential-access")
    assert info.logsource == LogSource("windows", "process_creation")
    assert (info.path, info.line) == (str(path), 3)
    assert len(info.hash) == 32
    assert rules.files == (path,)
    assert rules.counts() == {
        "files": 1,
        "documents": 1,
        "loaded": 1,
        "refused": 0,
        "correlations": 0,
        "filters": 0,
    }


def test_hash_follows_content_not_layout(tmp_path: Path) -> None:
    """The hash is of what the document says; comments and the order of keys are not part of it."""
    lines = RULE.splitlines(keepends=True)
    same = "".join([lines[1], lines[0], "# x\n", *lines[2:]])
    one = load(write(tmp_path / "1.yml", RULE)).rules[0].info.hash
    assert load(write(tmp_path / "2.yml", same)).rules[0].info.hash == one
    other = load(write(tmp_path / "3.yml", RULE.replace("cmd.exe", "cmd.com"))).rules[0].info.hash
    assert other != one


def test_missing_id_is_derived_and_missing_level_is_medium(tmp_path: Path) -> None:
    """The derived id is a UUID, the same in every file, other for other content."""
    one = load(write(tmp_path / "1.yml", "title: x\n" + FOOTER)).rules[0].info
    two = load(write(tmp_path / "2.yml", "title: x\n" + FOOTER)).rules[0].info
    three = load(write(tmp_path / "3.yml", "title: y\n" + FOOTER)).rules[0].info
    assert UUID(one.id) and one.id == two.id != three.id
    assert one.level == "medium"


def test_folders_are_walked_in_sorted_order_each_file_once(tmp_path: Path) -> None:
    """Both suffixes, deep; other files are not read; overlapping paths count once."""
    for name in ("b/2.yml", "a/3.yaml", "a/1.YML", "c/readme.md"):
        write(tmp_path / name, f"title: {name}\n" + FOOTER)
    rules = load_rules([tmp_path, tmp_path / "a"], feeds=feed_all)
    assert [rule.info.title for rule in rules.rules] == ["a/1.YML", "a/3.yaml", "b/2.yml"]
    assert rules.refused == ()


def test_zero_input_is_an_error(tmp_path: Path) -> None:
    """No path, no such path, a folder without rule files, a file without a document."""
    with pytest.raises(RuleError, match="no rule file"):
        load_rules([], feeds=feed_all)
    with pytest.raises(RuleError, match="no such file"):
        load(tmp_path / "absent")
    with pytest.raises(RuleError, match="holds no"):
        load(tmp_path)
    with pytest.raises(RuleError, match="holds no rule"):
        load(write(tmp_path / "empty.yml", "# nothing\n---\n"))


BROKEN: list[tuple[str, str | bytes, int, str]] = [
    ("bad yaml", "title: x\nfoo: [1, 2\nbar: }\n", 3, "YAML: "),
    ("tab", "title: x\ndetection:\n\tsel: 1\n", 3, "YAML: "),
    ("list", "\n- a\n- b\n", 2, "not a mapping"),
    ("scalar", "hello\n", 1, "not a mapping"),
    ("duplicate key", "title: x\ntitle: y\n" + FOOTER, 2, "duplicate key 'title'"),
    ("duplicate field", "title: x\ndetection:\n s:\n  f: 1\n  f: 2\n", 5, "duplicate key 'f'"),
    ("key", "1: x\n", 1, "not a string"),
    ("date", "\n\ntitle: 2024-13-45\n", 3, "YAML: "),
    ("tag", "title: !!python/object:os.system x\n", 1, "YAML: "),
    ("utf-8", b"title: x\n\nfoo: \xff\n", 3, "not UTF-8"),
    ("control", "title: x\nfoo: \x01\n", 2, "U+0001"),
    ("large", b"#" * (documents.MAX_FILE_BYTES + 1), 1, "larger than"),
    ("deep", "\nx: " + "[" * 500_000, 2, "nested deeper"),
    ("deep block", "- " * 500_000, 1, "nested deeper"),
    ("number", "x: " + "1:1" * 100_000, 1, "number is too long"),
    ("digits", "x: " + "1" * 5_000, 1, "number is too long"),
    ("long", f"x: {'y' * (documents.MAX_DOCUMENT_SIZE + 1)}", 1, "larger than"),
    ("no title", FOOTER, 1, "title"),
    ("no logsource", "title: x\ndetection: {s: {f: v}, condition: s}\n", 1, "log source"),
    ("logsource", "title: x\n" + FOOTER.replace("windows", "''"), 1, "logsource is empty"),
    ("no detection", "title: x\nlogsource: {product: windows}\n", 1, "detection"),
    ("id", "title: x\nid: 1-2-3\n" + FOOTER, 1, "UUID"),
    ("level", "title: x\nlevel: severe\n" + FOOTER, 1, "severe"),
    ("modifier", "title: x\n" + FOOTER.replace("f:", "f|nope:"), 1, "nope"),
    ("condition", "title: x\n" + FOOTER.replace("condition: s", "condition: t"), 1, "'t'"),
    ("lookahead", "title: x\n" + FOOTER.replace("f: v", "'f|re': '(?!a)b'"), 1, "invalid"),
    ("placeholder", "title: x\n" + FOOTER.replace("f: v", "'f|expand': '%p%'"), 1, "%p%"),
    ("unsupported", "title: x\nstatus: unsupported\n" + FOOTER, 1, "unsupported"),
    ("timeframe", "title: x\n" + FOOTER.replace("{s:", "{timeframe: 1m, s:"), 1, "timeframe"),
    ("action", "title: x\naction: explode\n" + FOOTER, 1, "unknown action"),
]


@pytest.mark.parametrize(("name", "text", "line", "reason"), BROKEN)
def test_broken_rules_are_refused_and_the_rest_loads(
    tmp_path: Path, name: str, text: str | bytes, line: int, reason: str
) -> None:
    """File, line and reason of what is refused, on one line; the good file beside it loads."""
    bad = write(tmp_path / "bad.yml", text)
    write(tmp_path / "good.yml", RULE)
    rules = load(tmp_path)
    assert [rule.info.id for rule in rules.rules] == [ID]
    (refused,) = rules.refused
    assert (refused.path, refused.line) == (str(bad), line), name
    assert reason in refused.reason
    assert "\n" not in refused.reason


def test_refused_rules_are_named(tmp_path: Path) -> None:
    """Title and id are told where the document says them; the line is the document's own."""
    text = RULE + "---\n" + RULE.replace("Image|", "Image|nope|").replace("0a01", "0a02")
    rules = load(write(tmp_path / "two.yml", text))
    (refused,) = rules.refused
    assert (refused.title, refused.rule_id) == ("Test rule", ID.replace("0a01", "0a02"))
    assert refused.line == RULE.count("\n") + 2


def test_documents_before_a_syntax_error_load(tmp_path: Path) -> None:
    """Only what comes after the error is lost, and it is told."""
    rules = load(write(tmp_path / "a.yml", RULE + "---\nx: [\n---\n" + RULE))
    assert len(rules.rules) == 1
    assert len(rules.refused) == 1


def test_too_many_documents_are_refused(tmp_path: Path) -> None:
    """A file can't make loading endless by its number of documents."""
    rules = load(write(tmp_path / "a.yml", "a: b\n---\n" * (documents.MAX_DOCUMENTS + 2)))
    assert "documents" in rules.refused[-1].reason


def test_reasons_are_one_printable_line(tmp_path: Path) -> None:
    """A rule's text that an error quotes can't forge a line or move a terminal's cursor."""
    level = '"\\n\\e[2Jroot: all is well' + "x" * 5_000 + '"'
    text = f"title: x\nlevel: {level}\n" + FOOTER
    (refused,) = load(write(tmp_path / "a.yml", text)).refused
    assert "all is well" in refused.reason
    assert refused.reason.isprintable()
    assert len(refused.reason) < 1_000


def test_a_fault_of_feeds_is_not_the_rules(tmp_path: Path) -> None:
    """What the caller's own function raises reaches the caller."""

    def feeds(logsource: LogSource) -> str | None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        load_rules([write(tmp_path / "a.yml", RULE)], feeds=feeds)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\n"
        + "".join(
            f"b{i}: &b{i} [*{p}, *{p}, *{p}, *{p}]\n"
            for i, p in enumerate(["a", *(f"b{j}" for j in range(40))])
        ),
        "a: &a " + "x" * 100_000 + "\nb: [" + "*a, " * 50_000 + "]\n",
        "a: &a [*a]\n",
    ],
    ids=["billion laughs", "long text", "cycle"],
)
def test_alias_bombs_are_refused_quickly(tmp_path: Path, text: str) -> None:
    """Aliases that multiply, that repeat a long text, or that hold themselves."""
    started = time.perf_counter()
    rules = load(write(tmp_path / "bomb.yml", text))
    assert "aliases" in rules.refused[0].reason
    assert time.perf_counter() - started < 5


def test_modest_aliases_load(tmp_path: Path) -> None:
    """Aliases as people use them are fine."""
    text = "title: x\nlogsource: {product: windows}\n"
    text += "detection: {s: {f: &v [a, b], g: *v}, condition: s}\n"
    (rule,) = load(write(tmp_path / "a.yml", text)).rules
    assert match_rule(rule, {"f": "a", "g": "b"}) is not None
    assert match_rule(rule, {"f": "a", "g": "c"}) is None


def test_pipes_and_links_do_not_stop_loading(tmp_path: Path) -> None:
    """A FIFO is refused, not waited for; a dangling link too."""
    os.mkfifo(tmp_path / "pipe.yml")
    (tmp_path / "link.yml").symlink_to(tmp_path / "absent")
    rules = load(tmp_path)
    assert [refused.reason for refused in rules.refused] == ["not a regular file"] * 2


def test_duplicate_ids_name_the_first_file(tmp_path: Path) -> None:
    """The second rule with an id is refused; a broken first one does not take the id."""
    first = write(tmp_path / "b.yml", RULE)
    write(tmp_path / "a.yml", RULE.replace("Image|", "Image|nope|"))
    write(tmp_path / "c.yml", RULE.replace(ID, ID.upper()))
    rules = load(tmp_path)
    assert [rule.info.path for rule in rules.rules] == [str(first)]
    assert f"{first}:1" in rules.refused[1].reason


def test_logsource_that_nothing_feeds_is_refused(tmp_path: Path) -> None:
    """The reason is the normalisers' own, asked for once a logsource."""
    asked: list[LogSource] = []

    def feeds(logsource: LogSource) -> str | None:
        asked.append(logsource)
        return "no normaliser for zeek" if logsource.product == "zeek" else None

    for i, product in enumerate(["zeek", "zeek", "windows"]):
        write(tmp_path / f"{i}.yml", f"title: t{i}\n" + FOOTER.replace("windows", product))
    rules = load_rules([tmp_path], feeds=feeds)
    assert len(rules.rules) == 1
    assert {refused.reason for refused in rules.refused} == {"no normaliser for zeek"}
    assert asked == [LogSource("zeek"), LogSource("windows")]


def test_deprecated_rules_load(tmp_path: Path) -> None:
    """Whoever names the folder wants what is in it."""
    assert load(write(tmp_path / "a.yml", "title: x\nstatus: deprecated\n" + FOOTER)).rules


def test_broken_correlations_are_refused_and_their_rules_load(tmp_path: Path) -> None:
    """Counted, named, with their reason; never silent."""
    text = RULE + "---\ntitle: Many\ncorrelation:\n  type: event_count\n  rules: [x]\n"
    rules = load(write(tmp_path / "a.yml", text))
    assert len(rules.rules) == 1
    assert rules.counts()["correlations"] == 0
    assert rules.refused[0].title == "Many"
    assert "without timespan" in rules.refused[0].reason


ACTIONS = """\
action: global
title: Shared
id: 5f0b1c55-0bb1-4ef0-8f0e-0d2a3d6f0a09
level: low
detection:
    condition: s
---
logsource: {product: windows}
detection: {s: {f: one}}
---
logsource: {product: linux}
detection: {s: {f: two}}
---
action: repeat
detection: {s: {f: three}}
---
action: reset
---
title: Alone
logsource: {product: windows}
detection: {s: {f: four}, condition: s}
"""


def test_action_documents(tmp_path: Path) -> None:
    """global is merged into what follows, repeat into what was before, reset ends global."""
    rules = load(write(tmp_path / "a.yml", ACTIONS))
    assert rules.refused == ()
    assert [
        (rule.info.title, rule.info.level, rule.info.logsource.product, rule.info.line)
        for rule in rules.rules
    ] == [
        ("Shared", "low", "windows", 8),
        ("Shared", "low", "linux", 11),
        ("Shared", "low", "linux", 14),
        ("Alone", "medium", "windows", 19),
    ]
    for rule, word in zip(rules.rules, ("one", "two", "three", "four"), strict=True):
        assert match_rule(rule, {"f": word}) is not None
        assert match_rule(rule, {"f": "x" + word}) is None
    assert rules.rules[0].info.id.endswith("0a09")
    assert len({rule.info.id for rule in rules.rules}) == 4


FILTER = """\
title: Not bob
logsource: {{product: windows}}
filter:
    rules: {rules}
    sel_user: {{User: bob}}
    sel_host: {{Host: lab}}
    condition: not 1 of sel_*
"""


@pytest.mark.parametrize("rules", ["any", f"[{ID}]", f"['{ID.upper()}', other]", "[by_name]"])
def test_filters_are_applied(tmp_path: Path, rules: str) -> None:
    """By id, by name or to any rule of the logsource, whichever file comes first."""
    write(tmp_path / "a.yml", FILTER.format(rules=rules))
    write(tmp_path / "b.yml", "name: by_name\n" + RULE)
    loaded = load(tmp_path)
    (rule,) = loaded.rules
    assert loaded.counts()["filters"] == 1
    fields = {"Image": r"C:\cmd.exe"}
    assert match_rule(rule, fields) is not None
    assert match_rule(rule, fields | {"User": "Bob"}) is None
    assert match_rule(rule, fields | {"Host": "lab"}) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (FILTER.format(rules="[other]"), "applies to no loaded rule"),
        (FILTER.format(rules="any").replace("windows", "linux"), "applies to no loaded rule"),
        (FILTER.format(rules="any").replace("User: bob", "User: {a: b}"), "Unsupported type"),
        (FILTER.format(rules="any").replace("    rules: any\n", ""), "rules"),
    ],
)
def test_filters_without_effect_are_told(tmp_path: Path, text: str, reason: str) -> None:
    """A filter that does nothing is refused by name; the rule stays as it is."""
    write(tmp_path / "a.yml", text)
    write(tmp_path / "b.yml", RULE)
    rules = load(tmp_path)
    assert match_rule(rules.rules[0], {"Image": r"\cmd.exe", "User": "bob"}) is not None
    assert rules.refused[0].title == "Not bob"
    assert reason in rules.refused[0].reason


def test_utf16le_is_wide(tmp_path: Path) -> None:
    """The appendix names `utf16le` and its alias `wide`."""
    text = "title: x\n" + FOOTER.replace("f: v", "'f|utf16le|base64': ping")
    (rule,) = load(write(tmp_path / "a.yml", text)).rules
    assert match_rule(rule, {"f": "cABpAG4AZwA="}) is not None


def test_placeholders_are_given(tmp_path: Path) -> None:
    """With a value the rule loads."""
    path = write(tmp_path / "a.yml", "title: x\n" + FOOTER.replace("f: v", "'f|expand': '%p%'"))
    (rule,) = load(path, p=["1", "2"]).rules
    assert match_rule(rule, {"f": "2"}) is not None
    assert match_rule(rule, {"f": "3"}) is None


def test_loading_makes_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No socket is opened, and no HTTP client is even imported."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    write(tmp_path / "a.yml", RULE + "---\n" + FILTER.format(rules="any"))
    assert load(tmp_path).refused == ()
    bad = "title: x\n" + FOOTER.replace("f: v", "'f|re': '(?!a)b'")
    write(tmp_path / "b.yml", bad)  # RE2 writes to stderr unless told not to
    code = (
        "import sys, pathlib; from appliance.detect.sigma.load import load_rules\n"
        "load_rules([pathlib.Path(sys.argv[1])], feeds=lambda logsource: None)\n"
        "print([m for m in ('requests', 'urllib3', 'sigma.data.mitre_attack', 'http.client')"
        " if m in sys.modules])"
    )
    argv = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""


def test_sigmahq_loads_or_is_refused_with_reason(shared_data: Callable[[str], Path]) -> None:
    """All rules of SigmaHQ: every document is accounted for."""
    rules = load(shared_data("sigma"))
    assert rules.documents > 3_000
    assert len(rules.rules) + len(rules.refused) == rules.documents
    assert {refused.reason for refused in rules.refused} == {
        "placeholder %known_cdcs% has no value"
    }
    assert len({refused.path for refused in rules.refused}) == 2
    again = [Path(refused.path) for refused in rules.refused]
    given = load_rules(again, feeds=feed_all, placeholders={"known_cdcs": ["dc1"]})
    assert given.refused == ()
