"""What configured sources can feed: the tables against what the normalisers do, and the words."""

import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from appliance.cli import main
from appliance.commands import rule_feeds
from appliance.config import Config, FilesSource, Format, FormatSource, JournalSource, SyslogSource
from appliance.decode import FORMATS, INNER, decode
from appliance.detect.sigma.load import load_rules
from appliance.errors import DecodeError, Exit
from appliance.feeding import (
    NEEDS,
    PLACES,
    Feed,
    choose_shapes,
    derive_feed,
    judge_rules,
    list_feeds,
    name_need,
    read_seen,
)
from appliance.normalise import FED, PRODUCTS, channels
from appliance.normalise.bridges import BRIDGES
from appliance.normalise.eql import CATEGORIES
from appliance.normalise.own import CANARY
from appliance.normalise.reading import Context, Reading, is_syslog
from appliance.normalise.shapes import READERS, SHAPES, list_shapes
from appliance.pipeline import read_event
from appliance.places import default_rules
from appliance.scan import list_files, read_file
from appliance.schema import RECORD_FORMATS, Decoded, LogSource, RawRecord, Rejected
from appliance.sources.streams import StreamName
from appliance.store import Store
from tests.builders import make_batch
from tests.formats import RECEIVED, make_line

SAMPLES = Path(__file__).parent / "samples" / "decode"
NOWHERE = LogSource()
WINDOWS = LogSource("windows", "process_creation")


def read_samples() -> Iterator[RawRecord]:
    """Every line of the decoders' samples, and of those beside the rules."""
    for path in sorted(SAMPLES.glob("*.jsonl")):
        for text in path.read_text("utf-8").splitlines():
            sample = json.loads(text)
            record = make_line(sample["line"], sample.get("format", "auto"))
            header = str(sample.get("header", "")).encode()
            yield RawRecord(**{**as_dict(record), "header": header})
    yield make_line("<30>Nov 22 10:00:00 ns dnsmasq[7]: query[A] www.example.com from 192.0.2.7")
    for path in sorted(default_rules().rglob("*.samples.jsonl")):
        for text in path.read_text("utf-8").splitlines():
            sample = json.loads(text)
            for line in (sample.get("record"), *sample.get("records", ())):
                if line:
                    yield make_line(line, sample.get("format", "auto"))


def as_dict(record: RawRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


@pytest.fixture(scope="module")
def samples() -> list[RawRecord]:
    """What `read_samples` gives."""
    found = list(read_samples())
    assert len(found) > 1000
    return found


# -- the tables against the normalisers ------------------------------------------------------------


def test_the_tables_name_every_product_and_every_format() -> None:
    assert list(SHAPES) == list(PRODUCTS)
    assert READERS.keys() == FORMATS.keys() | {inner.format for inner in INNER}
    assert NEEDS.keys() == PRODUCTS.keys()
    named = {product for products in READERS.values() for product in products}
    assert named == PRODUCTS.keys() - {"appliance"}


#: What products without a list of their own declare.
DECLARED = {
    "appliance": {CANARY},
    "windows": {
        channels.WINDOWS,
        *channels.CHANNELS.values(),
        *(source for sources in channels.SYSMON_VIEWS.values() for source in sources),
        *(source for _, made in BRIDGES.values() for source in made),
    },
    "windows (EQL schema)": {channels.WINDOWS, *CATEGORIES.values()},
}


@pytest.mark.parametrize("product", PRODUCTS)
def test_each_product_has_the_log_sources_that_its_normaliser_declares(product: str) -> None:
    module = sys.modules[PRODUCTS[product].__module__]
    declared = DECLARED.get(product) or set(module.SOURCES)
    assert {source for shape in SHAPES[product] for source in shape} == declared


def test_together_they_are_all_that_is_fed() -> None:
    sources = {source for shape in list_shapes(SHAPES) for source in shape}
    assert sources == (set(FED) | {CANARY}) - {NOWHERE}


def check_reading(decoded: Decoded, record: RawRecord) -> Reading | None:
    """The product that reads the record may, and its events have the shapes of the table."""
    context = Context(received=RECEIVED, zone=UTC, path=record.path, source=record.source)
    for product, read in PRODUCTS.items():
        reading = read(decoded, context)
        if reading is not None:
            assert product in READERS[decoded.format], (decoded.format, record.data)
            groups: dict[int, tuple[LogSource, ...]] = {}
            for view in reading.views:
                key = id(view.fields)
                groups[key] = (*groups.get(key, ()), view.logsource)
            for shape in groups.values():
                assert shape in SHAPES[product], (product, shape, record.data)
            return reading
    return None


def check_records(records: Iterator[RawRecord] | list[RawRecord]) -> set[str]:
    """`check_reading` of all that can be decoded, and what is inside them; the formats seen."""
    formats: set[str] = set()
    for record in records:
        try:
            decoded = decode(record)
        except DecodeError:
            continue
        outer = check_reading(decoded, record)
        formats.add(decoded.format)
        if decoded.inner is not None and (outer is None or is_syslog(decoded)):
            check_reading(decoded.inner, record)
            formats.add(decoded.inner.format)
    return formats


def test_events_have_the_shapes_of_their_product_and_format(samples: list[RawRecord]) -> None:
    assert check_records(samples) == READERS.keys()


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("windows", "evtx-attack-samples"), ("windows", "security-datasets"),
        ("linux", "."), ("network", "."), ("web", "access-logs"),
    ],
)  # fmt: skip
def test_real_events_have_them_too(
    shared_data: Callable[[str], Path], name: str, folder: str
) -> None:
    root = shared_data(name) / folder
    files = list_files([str(root)], root).files
    count = 0
    for logical, path in files[:: max(1, len(files) // 60)]:
        stream = StreamName("t", logical, logical, str(path), "auto")
        records = (one for batch in read_file(stream, Config(), []) for one in batch.records)
        some = list(islice(records, max(300, 3000 // len(files))))
        check_records(some)
        count += len(some)
    assert count > 1000


# -- sources ---------------------------------------------------------------------------------------


def files(*paths: str, declared: str = "auto") -> FilesSource:
    return FilesSource("it", paths or ("/var/log/x.log",), format=declared)


def listener(declared: str = "auto") -> SyslogSource:
    return SyslogSource("it", "syslog", "tcp", "192.0.2.1:514", format=declared)


@pytest.mark.parametrize("declared", RECORD_FORMATS)
def test_no_sample_gives_what_a_source_of_its_format_cannot_feed(
    samples: list[RawRecord], declared: str
) -> None:
    """Whatever a line is, read as this format it gives nothing else."""
    by_files, by_listener = (
        derive_feed(files(declared=declared), {}),
        derive_feed(listener(declared), {}),
    )
    found = set()
    for sample in samples:
        if declared == "zeek" and sample.data[:1] == b"{" and b'"ts"' not in sample.data:
            continue  # Zeek's JSON is JSON: another product's is no mistake of this table
        record = RawRecord(**{**as_dict(sample), "format": declared})
        result = read_event(record, UTC)
        if not isinstance(result, Rejected):
            met = {view.logsource for view in result[0].views} - {NOWHERE}
            assert met <= by_files.logsources, sample.data
            if not record.header:
                assert met <= by_listener.logsources, sample.data
            found |= met
    assert found


CASES = [
    (files(declared="zeek"), "zeek//conn /dns/ /proxy/", "windows// linux// linux//auditd"),
    (files(declared="access"), "/webserver/", "nginx/webserver/ windows// zeek// linux//"),
    (files("/srv/nginx/a.log", declared="access"), "nginx/webserver/nginx", "apache//"),
    (files("/srv/*/a.log", declared="access"), "nginx/webserver/nginx apache//", "linux//"),
    (files(declared="auditd"), "linux//auditd linux/process_creation/", "linux//sshd windows//"),
    (files(declared="text"), "linux//sshd cisco//", "windows// zeek// /dns/"),
    (files("/d/*.evtx"), "windows/process_creation/", "linux// zeek// /webserver/"),
    (files("/var/log/audit/audit.log"), "linux//auditd", "linux//sshd windows//"),
    (files("/var/log/nginx/*.log"), "/webserver/", "windows// linux//sshd"),
    (files("/opt/zeek/logs/current/*.log"), "zeek//conn /dns/", "windows//"),
    (files("/opt/zeek/logs/current/dns.log"), "zeek//dns /dns/", "zeek//conn /webserver/"),
    (files("/z/conn.*.log.gz", "/z/dns.log", declared="zeek"), "zeek//conn /dns/", "zeek//http"),
    (files("/z/conn*.log", declared="zeek"), "zeek//conn zeek//http", "windows//"),
    (files("/var/log/suricata/eve.json"), "suricata//alert", "zeek// windows//"),
    (files("/var/log/squid/access.log"), "/proxy/", "windows// linux//"),
    (files("/var/log/*.log"), "windows// linux//sshd zeek//conn /webserver/", ""),
    (files("/var/log/audit/audit.log", "/x"), "windows// linux//sshd", ""),
    (files(declared="json"), "windows// suricata//alert /webserver/", "/webserver/iis"),
    (listener(), "windows// zeek//conn linux//sshd cef//", "/webserver/iis"),
    (listener("cef"), "cef// /firewall/", "windows// linux//"),
    (listener("syslog3164"), "linux//sshd cef// linux//auditd windows//", "/webserver/iis"),
    (JournalSource("it", "journal"), "linux//sshd linux//auditd windows//", "/webserver/iis"),
    (
        JournalSource("it", "journal", identifiers=("sshd", "sudo")),
        "linux//sshd linux//sudo linux//auth linux//syslog",
        "linux//cron windows// cef// /dns/",
    ),
    (
        JournalSource("it", "journal", identifiers=("named", "nginx")),
        "/dns/ /webserver/ linux//nginx",
        "linux//cron",
    ),
]  # fmt: skip


def parse_logsources(text: str) -> list[LogSource]:
    return [LogSource(*(part or None for part in name.split("/"))) for name in text.split()]


@pytest.mark.parametrize(("spec", "can", "never"), CASES)
def test_what_a_source_can_feed(
    spec: FilesSource | JournalSource | SyslogSource, can: str, never: str
) -> None:
    feed = derive_feed(spec, {})
    assert [source for source in parse_logsources(can) if not feed.can_feed(source)] == []
    assert [source for source in parse_logsources(never) if feed.can_feed(source)] == []


def test_every_place_is_told_from_a_neighbour() -> None:
    """A place's products are those of its own case above, and nothing of another's."""
    told = [files_ for files_, _, _ in CASES if isinstance(files_, FilesSource)]
    for place, products in PLACES:
        cases = [spec for spec in told if spec.format == "auto" and place.search(spec.paths[0])]
        assert cases, place.pattern
        assert all(product in SHAPES for product in products)
    for path in ("/var/log/auth.log", "/srv/audit.log", "/d/x.evtx.txt", "/var/log/nginx.log"):
        assert derive_feed(files(path), {}).open, path


def test_a_format_of_the_configuration_feeds_its_own_log_source() -> None:
    described = Format("door", FormatSource("doors", "", "lock"), pattern="(?P<a>.*)")
    config = Config(sources=(files(declared="door"), listener()), formats=(described,))
    own, other = list_feeds(config)
    assert own.logsources == {LogSource("doors", None, "lock")}
    assert not own.open
    assert not other.can_feed(LogSource("doors"))


def test_what_comes_inside_other_records_alone_is_told_apart() -> None:
    journal = derive_feed(JournalSource("it", "journal"), {})
    assert journal.can_feed(WINDOWS)
    assert not journal.feeds_itself(WINDOWS)
    assert journal.feeds_itself(LogSource("linux", None, "auditd"))
    shipped = derive_feed(files(declared="json"), {})
    assert shipped.feeds_itself(WINDOWS)
    assert not shipped.feeds_itself(LogSource("cef"))
    assert derive_feed(files(), {}).feeds_itself(LogSource("cef"))


# -- what is prepared ------------------------------------------------------------------------------


def make_feed(spec: FilesSource | JournalSource) -> Feed:
    return derive_feed(spec, {})


def test_of_a_known_format_all_is_prepared() -> None:
    shapes = choose_shapes([make_feed(files(declared="zeek"))], {})
    assert set(shapes) == set(SHAPES["zeek"])


def test_of_an_open_one_what_was_seen() -> None:
    feed = make_feed(files())
    assert choose_shapes([feed], {}) == []
    sysmon, created = channels.SYSMON_VIEWS[1]
    assert choose_shapes([feed], {sysmon: 3, created: 3, NOWHERE: 9}) == [
        (sysmon,), (sysmon, created), (created,),
    ]  # fmt: skip
    assert choose_shapes([feed], {sysmon: 0}) == []


def test_what_a_source_that_is_gone_fed_is_prepared() -> None:
    zeek, sshd = make_feed(files(declared="zeek")), LogSource("linux", None, "sshd")
    assert set(choose_shapes([zeek], {sshd: 5})) == {*SHAPES["zeek"], (sshd,)}


# -- rules -----------------------------------------------------------------------------------------

RULES = """\
title: Windows
id: 00000000-0000-4000-8000-000000000001
name: win
logsource: {product: windows, category: process_creation}
detection: {s: {Image: a}, condition: s}
---
title: Zeek
id: 00000000-0000-4000-8000-000000000002
name: zeek
logsource: {product: zeek, service: conn}
detection: {s: {id.orig_h: a}, condition: s}
---
title: Web
id: 00000000-0000-4000-8000-000000000003
name: web
logsource: {category: webserver}
detection: {s: {cs-method: a}, condition: s}
"""
CORRELATION = """\
---
title: Together
id: 00000000-0000-4000-8000-00000000000a
correlation: {{type: {kind}, rules: [{rules}], timespan: 1m, condition: {condition}}}
"""


def judge(folder: Path, more: str, seen: dict[LogSource, int]) -> dict[str, Any]:
    (folder / "r.yml").write_text(RULES + more)
    loaded = load_rules([folder / "r.yml"], feeds=lambda _: None)
    assert loaded.refused == ()
    feeds = [make_feed(files(declared="zeek"))]
    return {each.rule.title: each for each in judge_rules(loaded, feeds, seen)}


def test_rules_are_fed_possible_or_never(tmp_path: Path) -> None:
    conn = LogSource("zeek", None, "conn")
    judged = judge(tmp_path, "", {conn: 7, LogSource("zeek", None, "dns"): 2})
    assert (judged["Zeek"].state, judged["Zeek"].events) == ("fed", 7)
    assert (judged["Web"].state, judged["Web"].sources) == ("possible", ("it",))
    assert judged["Windows"].state == "never"
    assert "needs Windows event logs" in judged["Windows"].reason


def test_what_was_seen_counts_more_than_what_is_derived(tmp_path: Path) -> None:
    judged = judge(tmp_path, "", {WINDOWS: 3})
    assert (judged["Windows"].state, judged["Windows"].events) == ("fed", 3)
    assert "no source that is configured now" in judged["Windows"].reason


@pytest.mark.parametrize(
    ("kind", "named", "condition", "state"),
    [
        ("event_count", "win", "{gte: 2}", "never"),
        ("event_count", "'win, web'", "{gte: 2}", "possible"),
        ("event_count", "'win, zeek'", "{gte: 2}", "fed"),
        ("temporal", "'win, zeek'", "{gte: 2}", "never"),
        ("temporal", "'win, zeek, web'", "{gte: 2}", "possible"),
        ("temporal", "'web, zeek'", "{gte: 1}", "fed"),
        ("temporal", "'win, zeek, web'", "win and zeek", "never"),
        ("temporal", "'win, zeek, web'", "zeek or win or web", "fed"),
        ("temporal", "'win, zeek'", "zeek and not win", "fed"),
    ],
)
def test_correlations_are_as_their_rules(
    tmp_path: Path, kind: str, named: str, condition: str, state: str
) -> None:
    names = named.strip("'")
    if condition[0] != "{":
        names = ", ".join(name for name in names.split(", ") if name in condition)
    more = CORRELATION.format(kind=kind, rules=names, condition=condition)
    judged = judge(tmp_path, more, {LogSource("zeek", None, "conn"): 7})
    assert judged["Together"].state == state
    assert ("never fed" in judged["Together"].reason) == (state == "never")


def test_needs_name_what_is_usual() -> None:
    assert "Zeek" in name_need(LogSource("zeek"))
    assert "auditd" in name_need(LogSource("linux", None, "auditd"))
    needed = name_need(WINDOWS)
    assert "EVTX" in needed
    assert "EQL" not in needed


def test_only_whole_names_of_the_ledger_are_log_sources() -> None:
    counts = {"logsource": {"windows/process_creation/-": 2.0, "other": 9.0}, "store": {"x": 1.0}}
    assert read_seen(counts) == {WINDOWS: 2}


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with a Zeek source, the rules above, and a store that saw connections."""
    (tmp_path / "r.yml").write_text(RULES)
    path = tmp_path / "a.yaml"
    path.write_text(
        f"state_dir: {tmp_path}\nrules: [{tmp_path}/r.yml]\n"
        "sources: [{name: sensor, paths: [/z/*.log], format: zeek}]\n"
    )
    store = Store(tmp_path / "store.db")
    counts = {("logsource", "zeek/-/conn"): 12.0, ("source:sensor", "seen"): 14.0}
    store.write_batch(make_batch(counts=counts))
    store.close()
    return path


def test_check_tells_what_is_fed(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", "check", "--config", str(config), "--json"]) == Exit.DONE
    facts = json.loads(capsys.readouterr().out)
    assert facts["config"] == str(config)
    assert facts["ledger"] == {"used": True, "reason": ""}
    assert facts["feeding"] == {"never": 1, "possible": 1, "fed": 1}
    (source,) = facts["sources"]
    assert (source["name"], source["records"], source["open"]) == ("sensor", 14, False)
    assert "zeek/conn" in source["can_feed"]
    by_title = {rule["title"]: rule for rule in facts["rules"]}
    assert by_title["Zeek"]["events"] == 12
    assert by_title["Web"]["sources"] == ["sensor"]
    assert "EVTX" in by_title["Windows"]["reason"]
    assert [row["state"] for row in facts["log_sources"]] == ["never", "possible", "fed"]


def test_check_says_it_in_few_words(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", "check", "--config", str(config)]) == Exit.DONE
    said = capsys.readouterr().out
    assert f"configuration: {config}" in said
    places = [said.index(word) for word in ("never: no configured", "nothing seen yet", "fed: 1")]
    assert places == sorted(places)
    assert "windows/process_creation  1      needs Windows event logs: EVTX" in " ".join(
        said.split("\n")
    )
    assert said.endswith("by this configuration: 1 never, 1 possible, 1 fed\n")
    assert len(said.splitlines()) < 25


def test_many_log_sources_are_no_wall_of_text(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    services = list(channels.SERVICES)[: rule_feeds.MOST_ROWS + 5]
    (tmp_path / "r.yml").write_text(
        "---\n".join(
            f"title: t{n}\nlogsource: {{product: windows, service: {name}}}\n"
            "detection: {s: {EventID: 1}, condition: s}\n"
            for n, name in enumerate(services)
        )
    )
    assert main(["rules", "check", "--config", str(config)]) == Exit.DONE
    said = capsys.readouterr().out
    assert "and 5 more log sources with 5 rules" in said


def test_the_systems_own_configuration_is_used(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is left out on demand; without one all is as before."""
    monkeypatch.setattr(rule_feeds, "CONFIG", config)
    assert main(["rules", "check", "--json"]) == Exit.DONE
    assert json.loads(capsys.readouterr().out)["config"] == str(config)
    for words, place in (["--no-config"], config), ([], config.with_name("none.yaml")):
        monkeypatch.setattr(rule_feeds, "CONFIG", place)
        assert main(["rules", "check", "--json", *words, str(config.with_name("r.yml"))]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["config"] is None
        assert "rules" not in facts


def test_without_a_store_it_says_so(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "store.db").unlink()
    assert main(["rules", "check", "--config", str(config)]) == Exit.DONE
    said = capsys.readouterr().out
    assert "nothing is known of what came in: the appliance has never run here" in said
    (tmp_path / "store.db").write_text("no database")
    assert main(["rules", "check", "--config", str(config), "--json"]) == Exit.DONE
    facts = json.loads(capsys.readouterr().out)
    assert not facts["ledger"]["used"]
    assert facts["feeding"] == {"never": 1, "possible": 2, "fed": 0}


def test_exit_codes_stay(tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.yml").write_text(RULES + "---\ntitle: broken\n")
    assert main(["rules", "check", "--config", str(config)]) == Exit.FOUND_OR_FAILED
    assert main(["rules", "check", "--config", str(tmp_path / "none.yaml")]) == Exit.BAD_CONFIG
    capsys.readouterr()
