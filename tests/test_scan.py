"""`appliance scan` end to end: what it finds, what it says of bad input, that it is repeatable."""

import csv
import gzip
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import appliance.scan
from appliance.cli import main
from tests.conftest import FindData, default_signals
from tests.demo.player import FILES
from tests.demo.scenario import begin_files, build_scenario
from tests.test_config import no_rights

START = 1_795_000_000.0
#: How many findings the scenario has.
FINDINGS = sum(step.truth is not None for step in build_scenario(START))

SSHD = "Nov 22 09:00:00 jump sshd[71]: Accepted password for root from 203.0.113.9 port 50022 ssh2"
#: Every key of the contract.
KEYS = {
    "id", "time", "host", "detector", "rule_id", "title", "level", "score", "techniques", "tactics",
    "logsource", "source", "entities", "matched", "verdict", "citations", "incident",
}  # fmt: skip


def scan(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    """Run `appliance scan`; exit code, standard output, standard error."""
    code = main(["scan", *(str(word) for word in words)])
    said = capsys.readouterr()
    return code, said.out, said.err


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """The demonstration's scenario as files."""
    folder = tmp_path / "logs"
    folder.mkdir()
    for name, head in begin_files(START).items():
        (folder / name).write_text(head)
    for step in build_scenario(START):
        with (folder / step.file).open("a") as out:
            out.write(step.line + "\n")
    return folder


def test_the_scenario(logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, stats = tmp_path / "out.jsonl", tmp_path / "stats.json"
    code, said, _ = scan(capsys, logs, "--no-model", "--out", out, "--stats", stats)
    assert code == 0
    truth = sorted(s.truth for s in build_scenario(START) if s.truth)
    found = read_lines(out)
    assert sorted(body["title"] for body in found) == truth
    assert all(body.keys() >= KEYS for body in found)
    assert len({body["incident"] for body in found}) == 1
    assert all(body["verdict"] == "insufficient_data" for body in found)
    figures = json.loads(stats.read_text())
    lines = len(build_scenario(START))
    assert figures["events"] == lines
    assert figures["rejected"] == 0
    assert figures["files"] == len(FILES)
    assert (
        figures["findings"]["total"] == len(truth) == sum(figures["findings"]["by_level"].values())
    )
    # One is an alert of the scenario's Suricata.
    assert figures["findings"]["by_detector"] == {"sigma": len(truth) - 1, "suricata": 1}
    assert {"load", "decode", "detect", "judge", "store", "total"} <= figures["seconds"].keys()
    assert figures["rules"]["loaded"] >= figures["rules"]["evaluated"] > 0
    assert figures["peak_rss_bytes"] > 1 << 20
    assert f"{lines} events in {len(FILES)} files" in said


def test_the_same_again(logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    scan(capsys, logs, "--no-model", "--quiet", "--out", first)
    moved = logs.rename(tmp_path / "elsewhere")
    scan(capsys, moved, "--no-model", "--quiet", "--out", second)
    strip = [{k: v for k, v in body.items() if k != "source"} for body in read_lines(first)]
    assert strip == [{k: v for k, v in b.items() if k != "source"} for b in read_lines(second)]
    assert strip


def test_with_the_model_every_finding_has_its_verdict(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.fixtures_models import ensure_models

    ensure_models()
    first, second = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    assert scan(capsys, logs, "--out", first)[0] == 0
    assert scan(capsys, logs, "--out", second, "--quiet")[0] == 0
    assert first.read_bytes() == second.read_bytes()
    found = read_lines(first)
    assert {body["verdict"] for body in found} == {"suspicious"}
    for body in found:
        if body["detector"] == "sentinel":  # it has no tags: what it cites is near
            continue
        cited = {c["id"] for c in body["citations"] if c["reason"] == "tag"}
        # Those of industrial systems (T0...) are no part of the knowledge base.
        assert {key for key in body["techniques"] if not key.startswith("T0")} <= cited
        assert all(c["title"] and 0 < c["score"] <= 1 for c in body["citations"])
    assert any(c["reason"] == "similarity" for body in found for c in body["citations"])


@pytest.mark.parametrize("name", ["csv", "html", "navigator"])
def test_other_formats(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    out = tmp_path / "out"
    code, *_ = scan(capsys, logs, "--no-model", "--quiet", "--out", out, "--format", name)
    assert code == 0
    text = out.read_text()
    if name == "csv":
        rows = list(csv.DictReader(text.splitlines()))
        assert len(rows) == FINDINGS
        assert "Volume Shadow Copies Deleted" in {row["title"] for row in rows}
    elif name == "html":
        assert text.count("<tr><td") == FINDINGS
        assert "://" not in text.split("<tbody>")[0]
    else:
        layer = json.loads(text)
        assert layer["domain"] == "enterprise-attack"
        scores = {t["techniqueID"]: t["score"] for t in layer["techniques"]}
        assert scores["T1003.001"] == 2


def test_hostile_text_in_every_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "auth.log"
    forged = SSHD.replace("root", "root", 1) + "\x1b[2J<script>alert(1)</script>\u202e=cmd()"
    log.write_text(forged + "\n")
    rules = tmp_path / "rules"
    rules.mkdir()
    (rules / "r.yml").write_text(
        "title: '=HYPERLINK(1)<b>'\nlogsource: {product: linux, service: sshd}\n"
        "detection:\n  keywords: ['for root']\n  condition: keywords\nlevel: high\n"
    )
    for name in ("jsonl", "csv", "html"):
        out = tmp_path / name
        code, said, _ = scan(
            capsys, log, "--no-model", "--rules", rules, "--out", out, "--format", name
        )
        assert code == 0
        text = out.read_text()
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "\x1b" not in said
        if name == "html":
            assert "<script>" not in text
            assert "<b>" not in text
        if name == "csv":
            assert next(csv.DictReader(text.splitlines()))["title"].startswith("'=")


def test_bad_files_are_said_and_the_rest_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    with (folder / "a-huge-line.log").open("wb") as out:
        for _ in range(100):
            out.write(b"x" * 1_000_000)
        out.write(b"\n" + SSHD.encode() + b"\n")
    (folder / "bad-utf8.log").write_bytes(SSHD.replace("jump", "j2").encode() + b"\xff\xfe\n")
    (folder / "cut.evtx").write_bytes(b"ElfFile\x00" + b"\x00" * 3000)
    (folder / "cut.gz").write_bytes(gzip.compress((SSHD + "\n").encode() * 5000)[:-30])
    (folder / "empty").touch()
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00" + bytes(range(256)) * 9)
    (folder / "half.json").write_text('{"EventID": 1}\n{"EventID": \n')
    (folder / "wide.txt").write_bytes(SSHD.encode("utf-16"))
    stats, out_file = tmp_path / "stats.json", tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "appliance", "scan", str(folder), "--no-model"]
    # A process of its own: what is the most memory of this one, other tests decide.
    done = subprocess.run(
        [*command, "--stats", stats, "--out", out_file], capture_output=True, text=True, check=False
    )
    code, said = done.returncode, done.stdout
    assert code == 0
    for reason in ("100000000 bytes is longer", "EVTX", "binary file", "UTF-16", "not JSON",
                   "cannot be read further"):  # fmt: skip
        assert reason in said
    figures = json.loads(stats.read_text())
    assert figures["rejected"] == 6
    assert figures["repaired"] == 1
    assert figures["peak_rss_bytes"] < 250 << 20
    hosts = [body["host"] for body in read_lines(out_file)]
    assert hosts.count("j2") == 1
    assert hosts.count("jump") > 1000


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: folder, "no file to read"),
        (lambda folder: folder / "none", "no such file or folder"),
        (lambda folder: _write(folder / "empty", b""), "files are empty"),
        (lambda folder: _write(folder / "blank", b"\n  \n\r\n"), "files are empty"),
        (lambda folder: _write(folder / "x.bin", b"\x00" * 99), "binary file"),
        (lambda folder: _write(folder / "x.evtx", b"ElfFile\x00"), "EVTX"),
        (lambda folder: _write(folder / "x.json", b'{"a": \n'), "not JSON"),
    ],
)
def test_nothing_readable_is_exit_1_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any, reason: str
) -> None:
    code, said, complaint = scan(capsys, make(tmp_path), "--no-model")
    assert code == 1
    assert said == ""
    assert reason in complaint


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_broken_rules_are_named_and_none_at_all_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = _write(tmp_path / "auth.log", SSHD.encode())
    rules = tmp_path / "rules"
    rules.mkdir()
    (rules / "broken.yml").write_text("title: x\ndetection: [\n")
    code, _, complaint = scan(capsys, log, "--no-model", "--rules", rules)
    assert code == 1
    assert "no rule could be loaded" in complaint
    assert "broken.yml:3" in complaint
    code, _, complaint = scan(capsys, log, "--no-model", "--rules", tmp_path / "none")
    assert code == 1


def test_equal_files_are_two_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        logs.append(_write(tmp_path / name / "auth.log", SSHD.encode()))
    out = tmp_path / "out.jsonl"
    scan(capsys, *logs, "--no-model", "--quiet", "--out", out)
    found = read_lines(out)
    assert len({body["id"] for body in found}) == 2


def test_a_fixed_input_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = _write(tmp_path / "auth.log", SSHD.encode())
    code, said, _ = scan(capsys, log, "--no-model", "--input-format", "text")
    assert code == 0
    assert "findings: 0" in said
    code, _, complaint = scan(capsys, log, "--no-model", "--input-format", "json")
    assert code == 1
    assert "not JSON" in complaint


def test_fail_on_and_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = _write(tmp_path / "auth.log", SSHD.encode())
    code, said, _ = scan(capsys, log, "--no-model", "--quiet", "--out", "-", "--fail-on", "high")
    assert code == 1
    assert json.loads(said)["title"] == "Root Logged In Over SSH With a Password"
    code, *_ = scan(capsys, log, "--no-model", "--quiet", "--fail-on", "critical")
    assert code == 0


def test_public_attack_files(
    shared_data: FindData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """277 EVTX files with SigmaHQ's Windows rules: the bar is 196 files at medium or above."""
    files = shared_data("windows") / "evtx-attack-samples"
    evtx = sorted(files.rglob("*.evtx"))
    assert len(evtx) == 277
    rules = shared_data("sigma") / "rules" / "windows"
    out, stats = tmp_path / "out.jsonl", tmp_path / "stats.json"
    code, *_ = scan(capsys, *evtx, "--no-model", "--rules", rules, "--out", out, "--stats", stats)
    assert code == 0
    figures = json.loads(stats.read_text())
    assert figures["events"] >= 8255
    assert figures["rejected"] == 0
    flagged = {
        body["source"]["path"]
        for body in read_lines(out)
        if body["level"] in ("medium", "high", "critical")
    }
    assert len(flagged) >= 196


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that everybody may enter; a scan lists it without the rights of root."""
    list_files = appliance.scan.list_files

    def list_without_rights(*words: Any) -> appliance.scan.Listing:
        with no_rights():
            return list_files(*words)

    monkeypatch.setattr(appliance.scan, "list_files", list_without_rights)
    with tempfile.TemporaryDirectory(prefix="guarded-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "closed").mkdir(mode=0o000)
        yield folder
        (folder / "closed").chmod(0o700)


def test_what_is_left_out_is_said(
    guarded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write(guarded / "auth.log", SSHD.encode())
    (guarded / "link.log").symlink_to(guarded / "auth.log")
    (guarded / "up").symlink_to(tmp_path)
    (guarded / "dangling").symlink_to("nowhere")
    os.mkfifo(guarded / "pipe")
    stats = tmp_path / "stats.json"
    code, said, _ = scan(capsys, guarded, "--no-model", "--stats", stats)
    assert code == 0
    assert f"source: {guarded}/closed: Permission denied" in said
    assert f"not read: {guarded}/closed: Permission denied" in said
    assert "3 links not followed" in said
    assert "1 sockets, pipes or devices not read" in said
    figures = json.loads(stats.read_text())
    assert (figures["events"], figures["files"], figures["rejected"]) == (1, 1, 1)


def test_a_folder_of_which_nothing_may_be_read(
    guarded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (guarded, guarded / "closed"):
        code, _, complaint = scan(capsys, folder, "--no-model")
        assert code == 1
        assert "closed: Permission denied" in complaint


def test_a_log_that_is_gone_before_the_scan_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = _write(tmp_path / "a.log", SSHD.encode())
    early, late = (_write(tmp_path / name, SSHD.encode()) for name in ("b.log", "c.log"))
    read = appliance.scan.read_file

    def read_and_lose(name: Any, *rest: Any) -> Iterator[Any]:
        if name.path == str(early):
            early.unlink()
        yield from read(name, *rest)
        if name.path == str(late):
            late.unlink()

    monkeypatch.setattr(appliance.scan, "read_file", read_and_lose)
    stats = tmp_path / "stats.json"
    code, said, _ = scan(capsys, kept, early, late, "--no-model", "--stats", stats)
    assert code == 0
    assert "No such file" in said
    figures = json.loads(stats.read_text())
    assert (figures["events"], figures["rejected"]) == (2, 1)
    assert figures["bytes"] == 2 * len(SSHD)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    log, temporary = tmp_path / "auth.log", tmp_path / "tmp"
    log.write_text((SSHD + "\n") * 200_000)
    temporary.mkdir()
    scanner = subprocess.Popen(
        [sys.executable, "-m", "appliance", "scan", str(log), "--no-model", "--quiet"],
        env={**os.environ, "TMPDIR": str(temporary)},
        stderr=subprocess.PIPE,
        preexec_fn=default_signals,
    )
    try:
        until = time.monotonic() + 30
        while not list(temporary.glob("appliance-scan-*/scan.db")):
            assert time.monotonic() < until
            assert scanner.poll() is None
            time.sleep(0.01)
        scanner.send_signal(number)
        _, complaint = scanner.communicate(timeout=30)
    finally:
        scanner.kill()
    assert scanner.returncode == 128 + number
    assert complaint == b""
    assert list(temporary.iterdir()) == []
