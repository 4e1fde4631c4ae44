"""Indexes kept in a cache: one that was read answers as one that was made, and what was changed is
made anew; the daemon and its workers have ready what their sources feed."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from appliance.assembly import (
    build_detectors,
    load_configured_rules,
    open_cache,
    prepare_detectors,
)
from appliance.config import Config, FilesSource, dump_config
from appliance.daemon import Daemon
from appliance.decode import decode
from appliance.detect.sigma import engine
from appliance.detect.sigma.cache import Cache, IndexCache, dump_index, restore_index
from appliance.detect.sigma.engine import SigmaDetector
from appliance.detect.sigma.index import Index
from appliance.detect.sigma.needs import find_bars, find_need
from appliance.normalise import normalise
from appliance.normalise.shapes import SHAPES, list_shapes
from appliance.schema import LogSource, Sighting
from appliance.worker import _Worker
from appliance.worker_frames import Begin
from tests.formats import make_line

FIELDS: list[Mapping[str, Any]] = [
    {},
    {"Image": r"C:\Windows\System32\certutil.exe", "CommandLine": "certutil -urlcache -f http://x"},
    {"Image": "ÄÖÜ\u0130", "CommandLine": "\udcff -enc \v JABhAA", "EventID": 4104},
    {"cs-uri-query": "/?a=../../etc/passwd", "cs-method": "GET", "sc-status": 200},
    {"message": "Failed password for root from 192.0.2.7 port 22 ssh2", "user": ["root", None]},
    {"Data": ["powershell -nop -w hidden", "x" * 5000], "ScriptBlockText": "IEX (New-Object Net"},
]


def build_all() -> Index:
    """One index over all of our rules."""
    conditions = [rule.condition for rule in load_configured_rules(Config()).rules]
    assert len(conditions) > 200
    return Index([find_need(one) for one in conditions], [find_bars(one) for one in conditions])


def test_an_index_that_was_kept_finds_the_same() -> None:
    made = build_all()
    body = dump_index(made)
    assert body is not None
    read = restore_index(body)
    assert read is not None
    assert vars(read).keys() == vars(made).keys()
    found = [made.find(fields) for fields in FIELDS]
    assert [read.find(fields) for fields in FIELDS] == found
    assert len(set(found)) > 3


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", b"\x90", b"\x91\xa4dict", b"\x92\xa4scan\xc4\x01x", b"\x92\xa4nope\x01"]
)
def test_what_is_no_index_counts_as_absent(body: bytes) -> None:
    assert restore_index(body) is None


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rules of each index that is really made."""
    found: list[int] = []

    class Counted(Index):
        def __init__(self, needs: Any, *rest: Any) -> None:
            found.append(len(needs))
            super().__init__(needs, *rest)

    monkeypatch.setattr(engine, "Index", Counted)
    return found


def prepare(config: Config, counts: Mapping[str, Mapping[str, float]] | None = None) -> Any:
    cache = open_cache(config)
    detectors = build_detectors(load_configured_rules(config, cache=cache), cache)
    prepare_detectors(detectors, config, counts or {})
    return detectors["sigma"]


SYSMON = json.dumps(
    {"EventID": 1, "Channel": "Microsoft-Windows-Sysmon/Operational", "Computer": "ws1",
     "UtcTime": "2026-11-22 10:00:00.000", "Image": r"C:\Windows\System32\certutil.exe",
     "OriginalFileName": "CertUtil.exe",
     "CommandLine": "certutil.exe -urlcache -split -f http://192.0.2.7/a.exe a.exe"}
)  # fmt: skip


def sight(line: str) -> Sighting:
    record = make_line(line)
    return normalise(record, decode(record), zone=UTC)


def make_config(folder: Path, declared: str = "auto", *paths: str) -> Config:
    source = FilesSource("it", paths or ("/x.log",), format=declared)
    return Config(state_dir=str(folder / "state"), sources=(source,))


def test_what_a_source_feeds_is_ready_and_kept(tmp_path: Path, made: list[int]) -> None:
    """The second start makes no index, and finds the same."""
    config = make_config(tmp_path, "auto", "/logs/*.evtx")
    first = prepare(config)
    cold = len(made)
    assert cold > 10
    sighting = sight(SYSMON)
    found = [one.rule_id for one in first.detect(sighting)]
    assert found
    assert len(made) == cold
    second = prepare(config)
    assert [one.rule_id for one in second.detect(sighting)] == found
    assert len(made) == cold


def test_an_open_source_is_prepared_for_what_it_fed(tmp_path: Path, made: list[int]) -> None:
    config = make_config(tmp_path)
    prepare(config)
    assert made == []
    seen = {"logsource": {"windows/-/sysmon": 1.0, "windows/process_creation/-": 1.0}}
    detector = prepare(config, seen)
    count = len(made)
    assert 0 < count < 6
    detector.detect(sight(SYSMON))
    assert len(made) == count


def test_other_rules_need_other_indexes(tmp_path: Path, made: list[int]) -> None:
    """A rule more, one fewer, or one changed by the configuration alone."""
    folder = tmp_path / "rules"
    folder.mkdir()
    rule = (
        "title: {0}\nlogsource: {{product: windows, category: process_creation}}\n"
        "detection: {{s: {{'Image|expand': '%what%'}}, condition: s}}\n"
    )
    (folder / "a.yml").write_text(rule.format("a"))

    def start(value: str) -> list[str]:
        config = Config(
            state_dir=str(tmp_path / "state"), rules=(str(folder),),
            placeholders={"what": (value,)},
            sources=(FilesSource("it", ("/logs/*.evtx",)),),
        )  # fmt: skip
        made.clear()
        return [one.title for one in prepare(config).detect(sight(SYSMON))]

    assert start("*certutil.exe") == ["a"]
    assert made
    assert start("*certutil.exe") == ["a"]
    assert not made
    assert start("*other.exe") == []
    assert made
    (folder / "b.yml").write_text(rule.format("b"))
    assert start("*certutil.exe") == ["a", "b"]
    assert made


def test_without_a_key_nothing_is_kept(tmp_path: Path, made: list[int]) -> None:
    """Rules that came from no cache say not what they were made from."""
    rules = load_configured_rules(Config())
    assert rules.key == ""
    for _ in range(2):
        made.clear()
        SigmaDetector(rules, cache=IndexCache(Cache(tmp_path))).prepare(SHAPES["linux"])
        assert made


def test_every_shape_can_be_prepared_and_kept(tmp_path: Path, made: list[int]) -> None:
    """None holds what the cache can't write."""
    config = make_config(tmp_path)
    prepare(config).prepare(list_shapes(SHAPES))
    assert len(made) > 30
    made.clear()
    prepare(config).prepare(list_shapes(SHAPES))
    assert made == []
    assert (LogSource(),) not in list_shapes(SHAPES)


def test_daemon_and_worker_have_them_ready_before_the_first_event(tmp_path: Path) -> None:
    """Both of what the daemon reads itself, and of a worker only what its own sources feed."""
    config = Config(
        state_dir=str(tmp_path / "state"), model=False,
        models_dir=str(tmp_path), knowledge_dir=str(tmp_path),
        sources=(
            FilesSource("sensor", ("/z/dns.log",), format="zeek"),
            FilesSource("hosts", ("/logs/*.evtx",)),
        ),
    )  # fmt: skip
    daemon = Daemon(config)
    ready = list_ready(daemon.engine.detectors)
    daemon.stop()
    daemon.run()
    dns, sysmon = LogSource(category="dns"), LogSource("windows", "process_creation")
    assert {dns, sysmon} <= ready
    begin = Begin(dump_config(config), ("sensor",), [], daemon._around.own)
    worker = _Worker(begin, BytesIO(), BytesIO())
    mine = list_ready(worker._shard._reader.detectors)
    worker._shard.close()
    assert dns in mine
    assert sysmon not in mine
    daemon = Daemon(replace(config, workers=2))
    left = list_ready(daemon.engine.detectors)
    daemon.stop()
    daemon.run()
    assert left == set()


def list_ready(detectors: Mapping[str, Any]) -> set[LogSource]:
    """The log sources of the rules over which there is an index."""
    return {source for sources in detectors["sigma"]._indexes for source in sources}
