"""Worker processes: the same findings as without, also when one is killed at any moment."""

import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.config import Config, FilesSource
from appliance.daemon import Daemon
from appliance.errors import StoreError
from appliance.store import Batch
from tests.test_daemon import ROOT_LOGIN, Box, wait_for

ORDINARY = b"Nov 22 09:00:00 web1 systemd[1]: Started Session.\n"


@pytest.fixture
def box() -> Iterator[Box]:
    with tempfile.TemporaryDirectory(prefix="box-") as folder:
        box = Box(Path(folder))
        yield box
        box.stop()


def with_workers(box: Box, count: int, workers: int = 2) -> list[Path]:
    """The box with so many file sources, over two worker processes."""
    logs = [box.folder / f"log{number}" for number in range(count)]
    for log in logs:
        log.touch()
    sources = tuple(FilesSource(log.name, (str(log),)) for log in logs)
    box.config = replace(box.config, sources=sources, workers=workers)
    return logs


def login(number: int) -> bytes:
    line = f"Nov 22 09:00:00 jump sshd[71]: {ROOT_LOGIN}\n"
    return line.replace("203.0.113.9", f"203.0.113.{number % 250 + 1}").encode()


def pids(box: Box) -> list[int]:
    workers = box.ask()["workers"]
    return [row["pid"] for row in workers if row["pid"]]


def test_findings_of_all_sources_come(box: Box) -> None:
    logs = with_workers(box, 3)
    for log in logs:
        log.write_bytes(ORDINARY * 10 + login(1))
    box.start()
    found: list[dict[str, Any]] = wait_for(lambda: len(box.findings()) == 3 and box.findings())
    assert {row["source"]["name"] for row in found} == {log.name for log in logs}
    facts = wait_for(lambda: len(pids(box)) == 2 and box.ask())
    assert [row["sources"] for row in facts["workers"]] == [["log0", "log2"], ["log1"]]
    assert {row["seen"] for row in facts["sources"]} == {11}
    assert len({*pids(box), os.getpid()}) == 3


def test_a_killed_worker_loses_and_repeats_nothing(box: Box) -> None:
    logs = with_workers(box, 2)
    box.start()
    wait_for(lambda: len(pids(box)) == 2)
    written = 0
    for round_ in range(6):
        for log in logs:
            with log.open("ab") as file:
                for _ in range(50):
                    file.write(ORDINARY + login(written))
                    written += 1
        time.sleep(0.02 * round_)
        victim = wait_for(lambda: pids(box))[round_ % 2 - 1]
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda v=victim: v not in pids(box))  # type: ignore[misc]
    wait_for(lambda: sum(row["seen"] for row in box.ask()["sources"]) == 2 * written, 60)
    wait_for(lambda: len(box.findings()) >= written)  # the sink follows the store
    assert len(box.findings()) == written
    assert len({row["id"] for row in box.findings()}) == written
    assert sum(row["restarts"] for row in box.ask()["workers"]) == 6


def test_order_within_a_source_is_kept(box: Box) -> None:
    (log, *_) = with_workers(box, 2)
    log.write_bytes(b"".join(ORDINARY + login(number) for number in range(200)))
    box.start()
    wait_for(lambda: len(box.findings()) == 200)
    places = [row["source"]["record"] for row in box.findings()]
    assert places == sorted(places)


def test_the_same_ids_with_and_without_workers(box: Box) -> None:
    logs = with_workers(box, 2)
    for number, log in enumerate(logs):
        log.write_bytes(login(number))
    box.start()
    first = {row["id"] for row in wait_for(lambda: len(box.findings()) == 2 and box.findings())}
    box.stop()
    with tempfile.TemporaryDirectory(prefix="box-") as folder:
        single = Box(Path(folder))
        single.config = replace(single.config, sources=box.config.sources)
        single.start()
        again = wait_for(lambda: len(single.findings()) == 2 and single.findings())
        single.stop()
    assert {row["id"] for row in again} == first


def test_workers_end_with_the_daemon(box: Box) -> None:
    with_workers(box, 2)
    box.start()
    running = wait_for(lambda: len(pids(box)) == 2 and pids(box))
    box.stop()
    for pid in running:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_one_is_the_default() -> None:
    assert Config().workers == 1


def test_a_store_that_fails_has_every_worker_do_its_batch_again(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = with_workers(box, 4)
    for number, log in enumerate(logs):
        log.write_bytes(b"".join(login(number * 50 + n) for n in range(50)))
    daemon = Daemon(box.config)
    real = daemon.store.write_batch
    failures = 0

    def fail_often(batch: Batch) -> None:
        nonlocal failures
        if batch.findings and failures < 3:
            failures += 1
            raise StoreError("disk full")
        real(batch)

    monkeypatch.setattr(daemon.store, "write_batch", fail_often)
    monkeypatch.setattr("appliance.daemon.STORE_RETRY_SECONDS", 0.2)
    thread = threading.Thread(target=daemon.run)
    thread.start()
    try:
        wait_for(lambda: len(box.findings()) == 200, 30)
        assert failures == 3
        assert {row["seen"] for row in box.ask()["sources"]} == {50}
        assert box.ask()["store_error"] == ""
    finally:
        daemon.stop()
        thread.join(20)
    assert len({row["id"] for row in box.findings()}) == 200
