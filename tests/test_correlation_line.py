"""Sigma correlations on the whole line: daemon, restarts, workers, failing stores, reload, scan."""

import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.cli import main
from appliance.config import FilesSource
from appliance.control import ask_daemon
from appliance.errors import StoreError
from appliance.store import Batch, Store
from tests.test_daemon import Box, wait_for
from tests.test_reload import FileBox

RULES = """\
title: Refused
id: 00000000-0000-4000-8000-000000000001
name: refused
logsource: {product: linux, service: sshd}
detection:
  selection: {message|startswith: 'Failed password for '}
  condition: selection
level: low
---
title: Guessing
id: 00000000-0000-4000-8000-000000000002
correlation:
  type: event_count
  rules: [refused]
  group-by: [src_ip]
  timespan: 10m
  condition: {gte: 5}
level: high
"""


def write_rules(folder: Path, text: str = RULES) -> str:
    rules = folder / "rules"
    rules.mkdir(exist_ok=True)
    (rules / "guess.yml").write_text(text)
    return str(rules)


def refused(number: int, address: int = 9, user: str = "eve", second: int | None = None) -> str:
    at = number if second is None else second
    clock = f"09:{at // 60 % 60:02}:{at % 60:02}"
    return (
        f"Nov 20 {clock} jump sshd[{number}]: Failed password for {user}"
        f" from 203.0.113.{address} port {1000 + number} ssh2\n"
    )


@pytest.fixture
def box() -> Iterator[Box]:
    with tempfile.TemporaryDirectory(prefix="box-") as folder:
        box = Box(Path(folder))
        box.config = replace(box.config, rules=(write_rules(box.folder),))
        yield box
        box.stop()


def put(box: Box, *lines: str) -> None:
    with box.log.open("a") as out:
        out.write("".join(lines))


def seen(box: Box, count: int) -> Callable[[], bool]:
    """Whether so many records were seen; no answer is not yet."""

    def is_seen() -> bool:
        facts = ask_daemon(box.config.control_path, {"ask": "status"})
        return facts is not None and sum(row["seen"] for row in facts["sources"]) == count

    return is_seen


def test_a_burst_is_one_finding_with_what_led_to_it(box: Box) -> None:
    put(box, *(refused(n, user=f"u{n}") for n in range(8)))
    box.start()
    (found,) = wait_for(box.findings)
    assert (found["title"], found["level"], found["detector"]) == ("Guessing", "high", "sigma")
    assert found["time"].endswith("09:00:04.000000Z")
    assert found["source"]["name"] == "auth"
    assert found["event"]["length"] == len(refused(4, user="u4")) - 1
    assert found["rule"]["line"] == 10
    assert [(m["field"], m["value"], m["pattern"]) for m in found["matched"][:2]] == [
        ("src_ip", "203.0.113.9", "group-by"),
        ("event_count", "5", ">= 5 within 10m"),
    ]
    assert found["matched"][-1]["pattern"] == found["event"]["id"]
    kinds = {(e["kind"], e["value"]) for e in found["entities"]}
    assert {("user", f"u{n}") for n in range(5)} | {("address", "203.0.113.9")} <= kinds
    facts = box.ask()
    assert facts["rules"]["loaded"] == 2
    groups = facts["queues"]["correlation_groups"]
    assert (groups["depth"], groups["cap"], groups["dropped"]) == (1, 10_000, 0)
    assert facts["queues"]["correlation_events"]["depth"] == 8


def test_the_window_goes_on_after_a_restart(box: Box) -> None:
    put(box, *(refused(n) for n in range(4)))
    box.start()
    wait_for(seen(box, 4))
    box.stop()
    box.start()
    assert box.findings() == []
    put(box, refused(4))
    (found,) = wait_for(box.findings)
    box.stop()
    box.start()
    put(box, refused(5))
    wait_for(seen(box, 6))
    assert [row["id"] for row in box.findings()] == [found["id"]]  # the burst is told already


def test_a_store_that_fails_counts_nothing_twice(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Store.write_batch
    failures = [3]

    def fail(store: Store, batch: Batch) -> None:
        if batch.windows is not None and batch.windows.events and failures[0]:
            failures[0] -= 1
            raise StoreError("no room")
        write(store, batch)

    monkeypatch.setattr(Store, "write_batch", fail)
    monkeypatch.setattr("appliance.daemon.STORE_RETRY_SECONDS", 0.05)
    put(box, *(refused(n) for n in range(4)))
    box.start()
    wait_for(seen(box, 4), 30)
    assert failures == [0]
    assert box.ask()["queues"]["correlation_events"]["depth"] == 4
    assert box.findings() == []
    put(box, refused(4))
    assert len(wait_for(box.findings)) == 1


def spread(seed: int, files: int) -> list[list[str]]:
    """Guesses at some addresses, those of one address in one file, in the order of time."""
    rng = random.Random(seed)
    logs: list[list[str]] = [[] for _ in range(files)]
    second = 0
    for number in range(300):
        address = rng.randrange(1, 20)
        second += rng.choice((0, 1, 5, 40))
        logs[address % files].append(refused(number, address, second=second % 3600))
    for log in logs:
        log.sort(key=lambda line: line[7:15])
    return logs


def run_over(logs: list[list[str]], workers: int, place: Path) -> list[str]:
    """Ids of the findings; the logs lie in `place`, since their names go into the ids."""
    with tempfile.TemporaryDirectory(prefix="box-") as folder:
        box = Box(Path(folder))
        paths = [place / f"log{n}" for n in range(len(logs))]
        for path, lines in zip(paths, logs, strict=True):
            path.write_text("".join(lines))
        sources = tuple(FilesSource(path.name, (str(path),)) for path in paths)
        box.config = replace(
            box.config, sources=sources, workers=workers, rules=(write_rules(box.folder),)
        )
        box.start()
        try:
            wait_for(seen(box, sum(map(len, logs))), 30)
            time.sleep(0.3)
            return sorted(row["id"] for row in box.findings())
        finally:
            box.stop()


def test_the_same_findings_with_workers(tmp_path: Path) -> None:
    logs = spread(1, 3)
    one = run_over(logs, 1, tmp_path)
    assert len(one) > 10
    assert run_over(logs, 2, tmp_path) == one
    assert run_over(logs, 3, tmp_path) == one


def scan_findings(folder: Path, rules: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    out, stats = folder / "out.jsonl", folder / "stats.json"
    words = ["scan", str(folder / "logs"), "--rules", rules, "--no-model", "--quiet"]
    assert main([*words, "--out", str(out), "--stats", str(stats)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    return rows, json.loads(stats.read_text())


def test_scan_joins_files_by_time_and_says_the_same_twice(tmp_path: Path) -> None:
    """Rotated logs: the older file is read last."""
    rules = write_rules(tmp_path)
    (tmp_path / "logs").mkdir()
    lines = [refused(n) for n in range(7)]
    (tmp_path / "logs" / "auth.log").write_text("".join(lines[3:]))
    (tmp_path / "logs" / "auth.log.1").write_text("".join(lines[:3]))
    first, stats = scan_findings(tmp_path, rules)
    again, _ = scan_findings(tmp_path, rules)
    assert first == again
    assert [(row["title"], row["time"][-16:]) for row in first] == [
        ("Guessing", "09:00:04.000000Z")
    ]
    assert stats["rules"]["loaded"] == 2
    assert stats["findings"]["total"] == 1


def test_scan_finds_what_the_daemon_finds(tmp_path: Path) -> None:
    rules = write_rules(tmp_path)
    (tmp_path / "logs").mkdir()
    logs = spread(2, 2)
    for number, lines in enumerate(logs):
        (tmp_path / "logs" / f"log{number}").write_text("".join(lines))
    rows, _ = scan_findings(tmp_path, rules)
    assert len(rows) == len(run_over(logs, 1, tmp_path)) > 10


def test_reload_keeps_the_window_of_what_did_not_change() -> None:
    with tempfile.TemporaryDirectory(prefix="box-") as folder:
        box = FileBox(Path(folder))
        (box.rules / "guess.yml").write_text(RULES)
        put(box, *(refused(n) for n in range(4)))
        box.start()
        try:
            wait_for(seen(box, 4))
            box.put_rule(3, "Other", "something else")
            loaded = box.ask()["loaded"]
            box.reload()
            wait_for(lambda: box.ask()["loaded"] > loaded)
            assert box.ask()["rules"]["loaded"] == 4
            put(box, refused(4))
            wait_for(lambda: "Guessing" in box.titles())
            (box.rules / "guess.yml").write_text(RULES.replace("gte: 5", "gte: 6"))
            loaded = box.ask()["loaded"]
            box.reload()
            wait_for(lambda: box.ask()["loaded"] > loaded)
            assert box.ask()["queues"]["correlation_events"]["depth"] == 0
        finally:
            box.stop()


def test_explain_shows_the_correlation(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    put(box, *(refused(n) for n in range(5)))
    box.start()
    (found,) = wait_for(box.findings)
    box.stop()
    path = box.folder / "appliance.yaml"
    path.write_text(
        f"state_dir: {box.folder}/state\nrules: [{box.folder}/rules]\nmodel: false\n"
        f"sources:\n  - {{name: auth, paths: [{box.log}]}}\n"
    )
    assert main(["explain", found["id"], "--config", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert "event_count" in facts["rule"]["text"]
    assert "Failed password" in facts["record"]["text"]
