"""Reload: the new engine is built whole, then takes the old one's place; or nothing changes."""

import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.config import load_config
from appliance.daemon import Daemon
from appliance.errors import StoreError
from tests.rows import read_rows
from tests.test_daemon import ROOT_LOGIN, Box, wait_for

RULE = """\
title: {title}
id: 00000000-0000-0000-0000-00000000000{number}
logsource: {{product: linux, service: sshd}}
detection:
    selection: {{message|contains: '{word}'}}
    condition: selection
level: high
"""


class FileBox(Box):
    """A box whose daemon is started from a configuration file."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.path = folder / "appliance.yaml"
        self.rules = folder / "rules"
        self.rules.mkdir()
        self.log.touch()
        self.put_rule(1, "Root Login", "for root from")
        self.write()
        self.config = load_config(self.path)

    def put_rule(self, number: int, title: str, word: str) -> None:
        text = RULE.format(number=number, title=title, word=word)
        (self.rules / f"{number}.yml").write_text(text)

    def write(self, extra: str = "", sources: str = "") -> None:
        self.path.write_text(
            f"state_dir: {self.folder}/state\nmodel: false\nheartbeat: 0\nrescan_seconds: 0.3\n"
            f"rules: [{self.rules}]\n{extra}\n"
            f"sources:\n  - {{name: auth, paths: [{self.log}]}}\n{sources}\n"
            f"sinks:\n  - {{name: out, type: file, path: {self.out}}}\n"
        )

    def start(self) -> Daemon:
        real = Daemon.__init__

        def opened(daemon: Daemon, *args: object, **settings: object) -> None:
            real(daemon, *args, path=self.path, **settings)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Daemon, "__init__", opened)
            return super().start()

    def reload(self) -> None:
        assert self.daemon is not None
        self.daemon.reload()

    def titles(self) -> list[str]:
        return [row["title"] for row in self.findings()]


@pytest.fixture
def box() -> Iterator[FileBox]:
    with tempfile.TemporaryDirectory(prefix="box-") as folder:
        box = FileBox(Path(folder))
        yield box
        box.stop()


def test_new_rules_and_sources_take_effect_and_nothing_is_read_twice(box: FileBox) -> None:
    box.append(ROOT_LOGIN)
    box.start()
    wait_for(lambda: box.titles() == ["Root Login"])
    other = box.folder / "other.log"
    other.write_text(f"Nov 22 09:00:00 web sshd[1]: {ROOT_LOGIN}\n")
    box.put_rule(2, "Closed", "Connection closed")
    box.write(sources=f"  - {{name: other, paths: [{other}]}}")
    box.reload()
    wait_for(lambda: box.titles() == ["Root Login"] * 2)
    box.append("Connection closed by 203.0.113.9 port 4")
    wait_for(lambda: box.titles() == ["Root Login"] * 2 + ["Closed"])
    facts = box.ask()
    assert [row["seen"] for row in facts["sources"]] == [2, 1]
    assert facts["loaded"] > facts["started"]
    assert facts["troubles"] == []


def test_a_broken_configuration_leaves_the_old_one_running_and_is_said(box: FileBox) -> None:
    box.start()
    box.write(extra="bogus: 1")
    box.reload()
    (trouble,) = wait_for(lambda: box.ask()["troubles"])
    assert trouble["part"] == "configuration"
    assert "bogus: unknown key" in trouble["words"]
    box.append(ROOT_LOGIN)
    wait_for(lambda: box.titles() == ["Root Login"])
    box.write()
    box.reload()
    wait_for(lambda: not box.ask()["troubles"])


def test_a_broken_rule_leaves_the_old_rules_running(box: FileBox) -> None:
    box.start()
    (box.rules / "1.yml").write_text("title: [half a rule\n")
    box.put_rule(2, "Closed", "Connection closed")
    box.reload()
    (trouble,) = wait_for(lambda: box.ask()["troubles"])
    assert "1.yml" in trouble["words"]
    box.append(ROOT_LOGIN)
    box.append("Connection closed by 203.0.113.9 port 4")
    box.append(ROOT_LOGIN)
    wait_for(lambda: box.titles() == ["Root Login"] * 2)


def test_what_needs_a_restart_is_refused(box: FileBox) -> None:
    box.start()
    text = box.path.read_text().replace("/state\n", "/elsewhere\n", 1)
    box.path.write_text(text)
    box.reload()
    (trouble,) = wait_for(lambda: box.ask()["troubles"])
    assert "state_dir: can only be changed by a restart" in trouble["words"]


def test_to_workers_and_back(box: FileBox) -> None:
    box.append(ROOT_LOGIN)
    box.start()
    wait_for(lambda: len(box.titles()) == 1)
    for number, workers in enumerate((2, 1, 3), start=2):
        box.write(extra=f"workers: {workers}")
        box.reload()
        wait_for(lambda w=workers: len(box.ask()["workers"]) == (w > 1))  # type: ignore[misc]
        box.append(ROOT_LOGIN)
        wait_for(lambda n=number: len(box.titles()) == n)  # type: ignore[misc]
    assert box.ask()["sources"][0]["seen"] == 4


def test_another_sink(box: FileBox) -> None:
    box.append(ROOT_LOGIN)
    box.start()
    wait_for(lambda: len(box.titles()) == 1)
    second = box.folder / "second.jsonl"
    box.path.write_text(
        box.path.read_text() + f"  - {{name: second, type: file, path: {second}}}\n"
    )
    box.reload()
    wait_for(lambda: len(box.ask()["sinks"]) == 2)
    box.append(ROOT_LOGIN)
    wait_for(lambda: len(box.titles()) == 2)
    wait_for(lambda: len(read_rows(second)) == 1)
    assert read_rows(second)[0]["id"] == box.findings()[1]["id"]


def test_a_new_rule_that_is_refused_keeps_the_others_from_nothing(box: FileBox) -> None:
    box.start()
    (box.rules / "3.yml").write_text("title: [half a rule\n")
    box.put_rule(2, "Closed", "Connection closed")
    box.reload()
    wait_for(lambda: box.ask()["rules"]["refused"] == 1)
    box.append("Connection closed by 203.0.113.9 port 4")
    wait_for(lambda: box.titles() == ["Closed"])
    assert [t["part"] for t in box.ask()["troubles"]] == ["rules"]


@pytest.mark.parametrize("failing", ["open_sinks", "checkpoints", "links", "counts"])
def test_a_store_that_fails_during_the_reload_leaves_the_old_engine_running(
    box: FileBox, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    daemon = box.start()
    wait_for(lambda: daemon._health.troubles == [])
    box.append(ROOT_LOGIN)
    wait_for(lambda: len(box.titles()) == 1)
    real = getattr(daemon.store, failing)

    def fail(*args: object) -> object:
        # The control socket's questions are answered in another thread.
        if threading.current_thread() is box._thread:
            raise StoreError("database or disk is full")
        return real(*args)

    text = box.path.read_text()
    box.path.write_text(text.replace("rescan_seconds: 0.3", "rescan_seconds: 0.4"))
    with monkeypatch.context() as patch:
        patch.setattr(daemon.store, failing, fail)
        box.reload()
        wait_for(lambda: "disk is full" in daemon._reload_error)
    box.append(ROOT_LOGIN)
    wait_for(lambda: len(box.titles()) == 2)
    box.reload()
    wait_for(lambda: daemon._loaded > daemon.started)
    box.append(ROOT_LOGIN)
    wait_for(lambda: len(box.titles()) == 3)
    assert box.ask()["sources"][0]["seen"] == 3


def test_a_storm_of_signals_and_a_stop_within_it(box: FileBox) -> None:
    box.start()
    for number in range(100):
        box.append(ROOT_LOGIN, f"h{number}")
        box.reload()
        assert box.ask()["running"]
    wait_for(lambda: len(box.titles()) == 100)
    assert len({row["id"] for row in box.findings()}) == 100
    threads = threading.active_count()
    box.reload()
    box.stop()
    assert threads < 30


def test_a_renamed_sink_begins_with_what_comes_from_then_on(box: FileBox) -> None:
    box.append(ROOT_LOGIN)
    box.start()
    wait_for(lambda: len(box.titles()) == 1)
    box.path.write_text(box.path.read_text().replace("name: out", "name: renamed"))
    box.reload()
    wait_for(lambda: [row["name"] for row in box.ask()["sinks"]] == ["renamed"])
    box.append(ROOT_LOGIN)
    wait_for(lambda: len(box.titles()) == 2)
    wait_for(lambda: box.ask()["sinks"][0]["waiting"] == 0)


def test_workers_with_an_unanswered_batch_and_sources_that_come_and_go(box: FileBox) -> None:
    others = [box.folder / f"other{number}.log" for number in range(3)]
    for other in others:
        lines = (f"Nov 22 09:00:00 w{n} sshd[1]: {ROOT_LOGIN}\n" for n in range(600))
        other.write_text("".join(lines))
    limits = "limits: {batch_records: 50}"
    listed = [f"  - {{name: o{n}, paths: [{path}]}}" for n, path in enumerate(others)]
    box.write(extra=f"workers: 2\n{limits}", sources="\n".join(listed[:2]))
    box.config = load_config(box.path)
    box.start()
    for shown in (listed[1:], listed[:1], listed[:2], listed):
        wait_for(lambda: box.ask()["running"])
        box.append(ROOT_LOGIN)
        time.sleep(0.4)
        box.write(extra=f"workers: 2\n{limits}", sources="\n".join(shown))
        box.reload()
    wait_for(lambda: len(box.titles()) >= 1804, 60)
    ids = [row["id"] for row in box.findings()]
    assert len(ids) == len(set(ids)) == 1804
