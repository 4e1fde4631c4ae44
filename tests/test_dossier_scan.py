"""`scan --state`: what was found stays, with its records, and needs no configuration to look at."""

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from appliance.cli import main

RULE = """title: Root Login
id: 11111111-2222-4333-8444-555555555555
logsource: {product: linux, service: sshd}
detection:
  s: {message|startswith: 'Accepted password for root'}
  condition: s
level: high
tags: [attack.initial-access, attack.t1078]
"""
LINES = [
    "Nov 22 08:59:00 web sshd[70]: Connection from 203.0.113.9 port 51",
    "Nov 22 09:00:01 web sshd[71]: Accepted password for root from 203.0.113.9 port 51 ssh2",
    "Nov 22 09:00:02 web sshd[72]: Accepted password for root from 203.0.113.9 port 52 ssh2",
]


class Site:
    """A folder with a log and a rule."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys
        self.log = folder / "auth.log"
        self.log.write_text("\n".join(LINES) + "\n")
        os.utime(self.log, (1_795_338_100, 1_795_338_100))  # in the same year
        (folder / "rules").mkdir()
        (folder / "rules" / "root.yml").write_text(RULE)
        self.state = folder / "kept"

    def run(self, *words: str | Path, code: int = 0) -> tuple[str, str]:
        self.capsys.readouterr()
        assert main([str(word) for word in words]) == code
        said = self.capsys.readouterr()
        return said.out, said.err

    def scan(self, *words: str | Path, code: int = 0) -> tuple[str, str]:
        rules = self.folder / "rules"
        return self.run("scan", "--no-model", "--rules", rules, "--quiet", *words, code=code)

    def ask(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--state", self.state, "--json")[0])


@pytest.fixture
def site(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Site:
    monkeypatch.setenv("APPLIANCE_DATA", str(tmp_path / "none"))
    return Site(tmp_path, capsys)


def test_what_was_found_can_be_looked_at_from_anywhere(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(site.folder)
    site.scan("auth.log", "--state", "kept")
    monkeypatch.chdir("/")
    (incident,) = site.ask("incidents", "--all")
    assert incident["count"] == 2
    dossier = site.ask("show", incident["id"])
    assert [evidence["text"] for evidence in dossier["evidence"]] == LINES[1:]
    assert {evidence["origin"] for evidence in dossier["evidence"]} == {"archive"}
    (row,) = dossier["visibility"]
    assert (row["source"], row["seen"], row["events"]) == ("scan", 3, 3)
    assert not any("No event archive" in sentence["text"] for sentence in dossier["questions"])
    facts = site.ask("explain", incident["id"])
    assert {tie["value"] for tie in facts["ties"]} >= {"203.0.113.9", "web"}
    finding = site.ask("explain", dossier["findings"][0]["id"])
    assert finding["record"]["text"] == LINES[1]
    assert finding["rule"]["text"] == RULE.rstrip()
    assert len(site.ask("findings")) == 2


def test_records_are_read_from_the_file_without_an_archive(site: Site) -> None:
    import shutil

    site.scan(site.log, "--state", site.state)
    shutil.rmtree(site.state / "archive")
    (incident,) = site.ask("incidents", "--all")
    dossier = site.ask("show", incident["id"])
    assert [evidence["text"] for evidence in dossier["evidence"]] == LINES[1:]
    assert {evidence["origin"] for evidence in dossier["evidence"]} == {"file"}
    assert any("No event archive" in sentence["text"] for sentence in dossier["questions"])


def test_an_archive_that_is_damaged_is_no_silence(site: Site) -> None:
    site.scan(site.log, "--state", site.state)
    (path,) = (site.state / "archive" / "parquet").iterdir()
    path.write_bytes(b"PAR1" + b"\x55" * 500)
    (incident,) = site.ask("incidents", "--all")
    questions = [sentence["text"] for sentence in site.ask("show", incident["id"])["questions"]]
    assert any("that can't be read: archive: " in text for text in questions)


def test_standard_input_is_kept(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(site.log.read_bytes())))
    site.scan("-", "--state", site.state)
    (incident,) = site.ask("incidents", "--all")
    finding = site.ask("show", incident["id"])["findings"][0]
    assert site.ask("explain", finding["id"])["record"]["text"] == LINES[1]


def test_only_a_new_or_an_empty_folder(site: Site) -> None:
    site.state.mkdir()
    site.scan(site.log, "--state", site.state)
    before = sorted(path.name for path in site.state.iterdir())
    _, complaint = site.scan(site.log, "--state", site.state, code=2)
    assert "holds something" in complaint
    assert sorted(path.name for path in site.state.iterdir()) == before
    _, complaint = site.scan(site.log, "--state", site.log, code=2)
    assert complaint


def test_a_scan_that_fails_leaves_nothing(site: Site) -> None:
    site.log.write_bytes(b"")
    _, complaint = site.scan(site.log, "--state", site.state, code=1)
    assert "no record could be read" in complaint
    assert not site.state.exists()
    site.state.mkdir()
    site.scan(site.log, "--state", site.state, code=1)
    assert list(site.state.iterdir()) == []


def test_a_note_that_is_damaged_is_an_error(site: Site) -> None:
    site.scan(site.log, "--state", site.state)
    (site.state / "scan.json").write_text("{")
    _, complaint = site.run("incidents", "--state", site.state, code=3)
    assert "scan.json" in complaint


def test_without_a_folder_nothing_is_kept(site: Site) -> None:
    before = sorted(path.name for path in site.folder.iterdir())
    site.scan(site.log)
    assert sorted(path.name for path in site.folder.iterdir()) == before
