"""Lists of indicators through the whole line: `scan`, the daemon, its workers; `config check`."""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import appliance.indicator_files
from appliance.assembly import open_indicators
from appliance.cli import main
from appliance.config import FilesSource
from appliance.detect.indicators.file import IndicatorLike, Written, write_indicators
from appliance.engine import _refuse_broken_base
from appliance.errors import ModelError
from appliance.indicator_files import MAX_KEPT, open_compiled, open_indicator_files
from appliance.knowledge.entries import Indicator
from appliance.status import read_stopped_status
from tests.knowledge_samples import build_sample, make_items
from tests.test_daemon import Box, wait_for
from tests.test_indicators import MD5, Known
from tests.test_scan import read_lines, scan

LIST = """value,type,description,confidence
203.0.113.66,ip,Scanner of X,90
198.51.100.0/24,cidr,Bulletproof,60
evil.example,domain,C2 of Y,
"""
LINES = (
    "Nov 22 09:00:00 jump sshd[71]: Failed password for eve from 203.0.113.66 port 50022 ssh2\n"
    "Nov 22 09:00:01 jump sshd[71]: Failed password for eve from 203.0.113.67 port 50022 ssh2\n"
    "Nov 22 09:00:02 jump sshd[71]: Failed password for eve from 198.51.100.7 port 50022 ssh2\n"
)
WANTED = {"indicator:address:203.0.113.66", "indicator:network:198.51.100.0/24"}


@pytest.fixture
def box() -> Iterator[Box]:
    with tempfile.TemporaryDirectory(prefix="box-") as folder:
        box = Box(Path(folder))
        named = box.folder / "bad.csv"
        named.write_text(LIST)
        box.config = replace(box.config, indicators=(str(named),))
        yield box
        box.stop()


def write_config(folder: Path, *indicators: Path) -> Path:
    log = folder / "auth.log"
    log.write_text(LINES)
    path = folder / "appliance.yaml"
    settings = {
        "state_dir": str(folder),
        "indicators": [str(each) for each in indicators],
        "sources": [{"name": "auth", "paths": [str(log)]}],
    }
    path.write_text(json.dumps(settings))
    return path


def find_mine(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["detector"] == "indicators"]


def test_a_scan_finds_each_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = tmp_path / "bad.csv"
    named.write_text(LIST)
    config = write_config(tmp_path, named)
    out, stats = tmp_path / "out.jsonl", tmp_path / "stats.json"
    code, said, told = scan(
        capsys, tmp_path / "auth.log", "--no-model", "--config", config, "--out", out,
        "--stats", stats,
    )  # fmt: skip
    assert code == 0, told
    assert said
    mine = find_mine(read_lines(out))
    assert sorted(row["rule_id"] for row in mine) == sorted(WANTED)
    (row,) = (row for row in mine if "address" in row["rule_id"])
    assert row["level"] == "high"
    assert row["score"] == 0.9
    assert row["title"] == "Known indicator: address 203.0.113.66 (CSV: bad.csv: Scanner of X)"
    assert row["matched"][:2] == [
        {"field": "src_ip", "value": "203.0.113.66", "pattern": "address 203.0.113.66"},
        {"field": "indicator.source", "value": "CSV: bad.csv", "pattern": ""},
    ]
    assert {"kind": "address", "value": "203.0.113.66"} in row["entities"]
    figures = json.loads(stats.read_text())
    assert figures["indicators"]["events"] == figures["events"] == 3
    assert figures["indicators"]["matched"] == 2
    assert figures["findings"]["by_detector"]["indicators"] == 2
    assert not (tmp_path / "indicators").exists()  # a scan leaves nothing behind


def test_what_was_imported_into_the_knowledge_base_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = Indicator("address", "203.0.113.66", "Feed", "Scanner of X", links=("T1110",))
    build_sample(tmp_path / "kb", [*make_items(), known])
    path = write_config(tmp_path)
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "knowledge_dir": str(tmp_path / "kb")}))
    out = tmp_path / "out.jsonl"
    code, _, told = scan(
        capsys, tmp_path / "auth.log", "--no-model", "--config", path, "--out", out
    )
    assert code == 0, told
    (row,) = find_mine(read_lines(out))
    assert (row["rule_id"], row["level"]) == ("indicator:address:203.0.113.66", "medium")
    assert row["techniques"] == ["T1110"]
    # A base that can't be read is told of; the line runs.
    next((tmp_path / "kb").glob("entries-*.db")).write_bytes(b"x")
    code, _, told = scan(
        capsys, tmp_path / "auth.log", "--no-model", "--config", path, "--out", out
    )
    assert (code, find_mine(read_lines(out))) == (0, []), told


def test_a_base_that_breaks_is_a_trouble_and_no_reload(box: Box, tmp_path: Path) -> None:
    known = Indicator("address", "203.0.113.66", "Feed", "Scanner of X")
    kb = tmp_path / "kb"
    build_sample(kb, [*make_items(), known])
    box.config = replace(box.config, indicators=(), knowledge_dir=str(kb))
    old = open_indicators(box.config, tmp_path / "kept")
    assert old is not None
    assert old.missing == ""
    (kb / "manifest.json").write_bytes(b"{")
    new = open_indicators(box.config, tmp_path / "kept")
    assert new is not None
    assert "none of the knowledge base's are looked for" in new.missing
    with pytest.raises(ModelError, match="none of the knowledge base's"):
        _refuse_broken_base(new, old)
    _refuse_broken_base(new, new)  # it was broken before: whatever else changed may come
    _refuse_broken_base(old, new)
    _refuse_broken_base(None, old)
    box.start()
    troubles = wait_for(lambda: [t for t in box.ask()["troubles"] if t["part"] == "indicators"])
    assert not troubles[0]["notice"]
    old.close()


def test_a_scan_without_lists_says_nothing_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, stats = tmp_path / "out.jsonl", tmp_path / "stats.json"
    config = write_config(tmp_path)
    scan(capsys, tmp_path / "auth.log", "--no-model", "--config", config, "--out", out,
         "--stats", stats)  # fmt: skip
    assert find_mine(read_lines(out)) == []
    assert json.loads(stats.read_text())["indicators"] == {}


@pytest.mark.parametrize("content", [b"", b"{", b"\x00" * 64, b"appliance indicators 1 x\n"])
def test_a_list_that_is_none_stops_the_start(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = tmp_path / "bad.csv"
    named.write_bytes(content)
    config = write_config(tmp_path, named)
    for words in (["config", "check", str(config)],
                  ["scan", str(tmp_path / "auth.log"), "--config", str(config)]):  # fmt: skip
        assert main(words) != 0
        assert "bad.csv" in capsys.readouterr().err


def test_config_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = tmp_path / "bad.csv"
    config = write_config(tmp_path, named)
    assert main(["config", "check", str(config)]) == 3
    assert "indicators[0]" in capsys.readouterr().err
    named.write_text(LIST)
    assert main(["config", "check", str(config)]) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_the_daemon_finds_each_once(
    box: Box, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = [box.folder / f"log{number}" for number in range(2)]
    for log in logs:
        log.write_text(LINES)
    sources = tuple(FilesSource(log.name, (str(log),)) for log in logs)
    box.config = replace(box.config, workers=workers, sources=sources)
    box.start()
    wait_for(lambda: len(find_mine(box.findings())) == 4)
    facts = wait_for(lambda: (f := box.ask()["indicators"]).get("matched") == 4 and f)
    assert facts["events"] >= 6
    assert [file["kinds"] for file in facts["files"]] == [{"address": 1, "domain": 1, "network": 1}]
    assert {row["rule_id"] for row in find_mine(box.findings())} == WANTED
    with logs[0].open("a") as out:
        out.write(LINES)
    wait_for(lambda: len(find_mine(box.findings())) == 6)
    box.stop()
    assert read_stopped_status(box.config)["indicators"]["matched"] == 6
    assert len(list((box.folder / "state" / "indicators").iterdir())) == 1


def test_a_list_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = tmp_path / "bad.csv"
    named.write_text(LIST)
    folder = tmp_path / "kept"
    (first,) = open_indicator_files([str(named)], folder)
    made: list[Path] = []

    def write(folder: Path, indicators: Iterable[IndicatorLike], name: str) -> Written:
        made.append(folder)
        return write_indicators(folder, indicators, name)

    monkeypatch.setattr(appliance.indicator_files, "write_indicators", write)
    (again,) = open_indicator_files([str(named)], folder)
    assert (again.path, again.sha256, made) == (first.path, first.sha256, [])
    raw = bytearray(first.path.read_bytes())
    raw[-1] ^= 1
    first.path.write_bytes(raw)  # damaged: made again
    (again,) = open_indicator_files([str(named)], folder)
    assert (again.sha256, len(made)) == (first.sha256, 1)
    named.write_text(LIST + "203.0.113.1,ip,,\n")
    (other,) = open_indicator_files([str(named)], folder)
    assert (other.layout.keys, len(made)) == (4, 2)


def test_what_is_compiled_already_is_opened_as_it_is(tmp_path: Path) -> None:
    path = write_indicators(tmp_path, [Known("md5", MD5)]).path
    (file,) = open_indicator_files([str(path)], tmp_path / "none")
    assert file.path == path
    assert not (tmp_path / "none").exists()
    with pytest.raises(ModelError, match="cannot be read"):
        open_indicator_files([str(tmp_path / "gone")], tmp_path)


def test_old_files_go(tmp_path: Path) -> None:
    for number in range(MAX_KEPT + 4):
        opened = open_compiled(tmp_path, str(number), lambda: [Known("md5", MD5)])
        os.utime(opened.path, (number, number))
    assert len(list(tmp_path.iterdir())) == MAX_KEPT


def test_a_folder_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot be written"):
        open_compiled(tmp_path / "file", "key", lambda: [Known("md5", MD5)])
