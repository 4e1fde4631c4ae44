"""Working incidents with a daemon, over its socket, and without one; what the daemon heeds."""

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.config import FileSink
from appliance.control import ControlServer, ask_daemon, name_user
from appliance.daemon import lock_state
from appliance.errors import ApplianceError
from appliance.handover import Handover
from appliance.health import sum_up_heartbeat
from appliance.schema import MessageKind
from appliance.selftest import Scene, check_audit
from appliance.store import Store
from tests.test_daemon import ROOT_LOGIN, TITLE, Box, box, command, wait_for

assert box  # the fixture
ME = name_user(os.getuid())


def ask(box: Box, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any, str]:
    """The command with --json; its exit code, what it says, its complaint."""
    code, said, complaint = command(capsys, *words, "--json", "--state", box.config.state_dir)
    return code, json.loads(said) if said else None, complaint


def read(box: Box) -> list[dict[str, Any]]:
    with closing(Store(box.config.store_path, read_only=True)) as store:
        return store.finding_bodies()


def incidents(box: Box) -> dict[str, str]:
    """By host, the incident of its findings."""
    return {row["host"]: row["incident"] for row in read(box)}


@pytest.fixture
def two(box: Box) -> Iterator[Box]:
    """A daemon with an incident on each of two hosts."""

    kinds: tuple[MessageKind, ...] = ("finding", "incident", "audit")
    box.config = replace(box.config, sinks=(FileSink("out", "file", str(box.out), kinds),))
    box.append("Accepted password for root from 203.0.113.9 port 50022 ssh2", "jump")
    box.append("Accepted password for root from 198.51.100.7 port 50022 ssh2", "mail")
    box.start()
    wait_for(lambda: box.config.store_path.exists() and len(incidents(box)) == 2)
    assert len(set(incidents(box).values())) == 2
    yield box


def test_a_case_over_the_socket(two: Box, capsys: pytest.CaptureFixture[str]) -> None:
    key = incidents(two)["jump"]
    incidents_before = set(incidents(two).values())
    code, done, _ = ask(two, capsys, "ack", key[:12], "--note", "mine\x1b[2J")
    assert code == 0
    assert (done["running"], done["incidents"], done["case"]["status"]) == (
        True, [key], "acknowledged",
    )  # fmt: skip
    assert ask(two, capsys, "assign", key, "--to", "bob")[0] == 0
    code, done, _ = ask(two, capsys, "close", key, "--as", "benign", "--note", "our own\nscanner")
    assert (code, done["case"]["closing"]) == (0, "benign")
    code, _, complaint = ask(two, capsys, "ack", key)
    assert code == 1
    assert "is closed: reopen it first" in complaint
    # The daemon puts nothing more into it, and the next one names it.
    two.append("Accepted password for root from 203.0.113.9 port 50024 ssh2", "jump")
    wait_for(lambda: len(read(two)) == 3)
    assert read(two)[-1]["incident"] not in incidents_before
    code, entries, _ = ask(two, capsys, "audit", key)
    assert [e["action"] for e in entries] == ["ack", "assign", "close"]
    assert {e["actor"] for e in entries} == {ME}
    assert entries[0]["details"] == {"note": "mine\x1b[2J"}
    # Shown to people, nothing acts.
    code, said, _ = command(capsys, "audit", "--state", two.config.state_dir)
    assert (code, "\x1b" in said, "mine\\x1b[2J" in said, "our own\\x0ascanner" in said) == (
        0, False, True, True,
    )  # fmt: skip
    assert ask(two, capsys, "reopen", key, "--note", "no")[0] == 0
    rows = wait_for(lambda: [r for r in two.findings() if r["kind"] == "audit"][3:])
    assert rows[0]["action"] == "reopen"
    updates = [r for r in two.findings() if r["kind"] == "incident" and "case" in r]
    assert [(u["status"], u["case"]["status"]) for u in updates] == [
        ("open", "acknowledged"), ("open", "acknowledged"), ("closed", "closed"), ("open", "open"),
    ]  # fmt: skip
    facts = two.ask()
    assert facts["audit"] == {"number": 4, "hash": rows[0]["hash"]}


def test_a_closed_incident_is_closed_for_the_running_correlator(
    two: Box, capsys: pytest.CaptureFixture[str]
) -> None:
    key = incidents(two)["jump"]
    ask(two, capsys, "close", key, "--as", "test", "--note", "x")
    with two.log.open("a") as out:  # eleven minutes on: another fold
        out.write(f"Nov 22 09:11:00 jump sshd[71]: {ROOT_LOGIN}\n")
    wait_for(lambda: len(read(two)) == 3)
    fresh = read(two)[-1]["incident"]
    assert fresh != key
    with closing(Store(two.config.store_path, read_only=True)) as store:
        opened, closed = store.incident(fresh), store.incident(key)
    assert opened is not None
    assert closed is not None
    assert (opened.related, opened.status) == ((key,), "open")
    assert (closed.status, closed.count) == ("closed", 1)


def test_merge_and_split_while_it_runs(two: Box, capsys: pytest.CaptureFixture[str]) -> None:
    homes = incidents(two)
    first, second = sorted(
        homes.values(), key=lambda key: two.daemon.store.incident(key).number  # type: ignore
    )  # fmt: skip
    code, done, _ = ask(two, capsys, "merge", second[:16], first[:16])
    assert (code, done["incidents"]) == (0, [first])
    assert set(incidents(two).values()) == {first}
    finding = next(row["id"] for row in read(two) if homes[row["host"]] == second)
    code, done, _ = ask(two, capsys, "split", first, finding[:12], "--note", "no")
    assert code == 0
    fresh = done["incidents"][0]
    assert set(incidents(two).values()) == {first, fresh}
    with two.log.open("a") as out:
        for host, source in (("jump", "203.0.113.9"), ("mail", "198.51.100.7")):
            out.write(f"Nov 22 09:11:00 {host} sshd[9]: Accepted password for root from {source}"
                      " port 1 ssh2\n")  # fmt: skip
    wait_for(lambda: len(read(two)) == 4)
    with closing(Store(two.config.store_path, read_only=True)) as store:
        numbers = [one.number for one in store.incidents()]
        assert store.verify_audit().faults == ()
    assert len(numbers) == len(set(numbers))
    by_host: dict[str, set[str]] = {row["host"]: set() for row in read(two)}
    for row in read(two):
        by_host[row["host"]].add(row["incident"])
    assert all(len(keys) == 1 for keys in by_host.values()), by_host
    two.stop()
    two.start()
    assert set(incidents(two).values()) == {first, fresh}


def test_a_suppression_takes_effect_at_once_and_outlives_a_restart(
    two: Box, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = read(two)[0]["rule_id"]
    scope = f"rule={rule},host=jump"
    code, done, _ = ask(two, capsys, "suppress", "--scope", scope, "--until", "1h",
                        "--because", "our jump host\x1b")  # fmt: skip
    assert code == 0
    assert done["suppression"]["number"] == 1
    two.append(ROOT_LOGIN, "jump")
    two.append(ROOT_LOGIN, "mail")
    wait_for(lambda: len(read(two)) == 3)
    wait_for(lambda: two.ask()["rules"]["suppressed"] == 1)
    code, held, _ = ask(two, capsys, "findings", "--suppressed")
    assert [(b["host"], b["suppressed"], b["incident"]) for b in held] == [
        ("jump", "our jump host\x1b", None)
    ]
    facts = two.ask()
    assert facts["suppressions"][0]["findings"] == 1
    code, said, _ = command(capsys, "status", "--state", two.config.state_dir)
    assert f"suppression 1: {scope} until" in said
    assert "our jump host\\x1b" in said
    two.stop()
    two.start()
    two.append(ROOT_LOGIN, "jump")
    wait_for(lambda: two.ask()["rules"]["suppressed"] == 2)
    assert ask(two, capsys, "suppress", "--end", "1")[0] == 0
    two.append("Accepted password for root from 203.0.113.9 port 7 ssh2", "jump")
    wait_for(lambda: len(read(two)) == 4)
    assert two.ask()["suppressions"] == []
    code, rows, _ = ask(two, capsys, "suppress", "--list")
    assert [(r["number"], r["holds"], r["findings"]) for r in rows] == [(1, False, 2)]
    assert ask(two, capsys, "suppress", "--end", "1")[0] == 1
    assert {TITLE} == {row["title"] for row in read(two)}


def write_config(box: Box) -> Path:
    """The box's configuration as a file."""
    path = box.folder / "a.yaml"
    path.write_text(
        f"state_dir: {box.config.state_dir}\nmodel: false\n"
        f"knowledge_dir: {box.folder}\nmodels_dir: {box.folder}\n"
        f"sources:\n  - {{name: auth, type: files, paths: [{box.log}]}}\nsinks:\n"
        f"  - {{name: out, type: file, path: {box.out}, kinds: [finding, incident, audit]}}\n"
    )
    return path


def test_a_reload_keeps_the_suppressions(two: Box, capsys: pytest.CaptureFixture[str]) -> None:
    rule = read(two)[0]["rule_id"]
    ask(two, capsys, "suppress", "--scope", f"rule={rule}", "--until", "1h", "--because", "x")
    daemon = two.daemon
    assert daemon is not None
    before = daemon.engine
    daemon._path = write_config(two)
    daemon.reload()
    wait_for(lambda: daemon.engine is not before)
    assert two.ask()["reload_error"] == ""
    two.append(ROOT_LOGIN, "jump")
    wait_for(lambda: two.ask()["rules"]["suppressed"] == 1)
    assert len(read(two)) == 2


def test_without_a_daemon_the_command_does_it(
    two: Box, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    two.stop()
    monkeypatch.setenv("SUDO_USER", "anna\udcff")
    keys = list(incidents(two).values())
    config = write_config(two)
    code, said, complaint = command(capsys, "merge", *keys, "--json", "--config", str(config))
    assert (code, complaint) == (0, "")
    done = json.loads(said)
    assert done["running"] is False
    with closing(Store(two.config.store_path, read_only=True)) as store:
        (entry, _) = store.actions()
    assert entry.actor == ME
    if os.getuid() == 0:
        assert entry.details["claimed"] == "anna\\udcff"
    # The daemon delivers what sinks are owed.
    two.start()
    rows = wait_for(lambda: [r for r in two.findings() if r["kind"] == "audit"])
    assert [r["action"] for r in rows] == ["merge", "merged"]
    assert len(set(incidents(two).values())) == 1


def test_refusals_and_exit_codes(two: Box, capsys: pytest.CaptureFixture[str]) -> None:
    state = ["--state", two.config.state_dir]
    key = incidents(two)["jump"]
    for code, words in (
        (1, ["ack", "ffffffff"]),
        (1, ["split", key, read(two)[0]["id"]]),
        (1, ["merge", key, key]),
        (1, ["suppress", "--end", "9"]),
        (1, ["audit", "ffffffff"]),
        (2, ["close", key, "--as", "won", "--note", "x"]),
        (2, ["close", key, "--as", "benign", "--note", " "]),
        (2, ["note", key, ""]),
        (2, ["note", key, "x" * 5000]),
        (2, ["suppress", "--scope", "host=jump", "--until", "1h", "--because", "x"]),
        (2, ["suppress", "--scope", "rule=x", "--until", "2020-01-01", "--because", "x"]),
        (2, ["suppress", "--scope", "rule=x", "--until", "1h", "--because", ""]),
        (2, ["suppress", "--scope", "rule=x"]),
        (3, ["ack", key, "--config", "/no/such/file.yaml"]),
    ):
        try:
            got, _, complaint = command(capsys, *words, *([] if "--config" in words else state))
        except SystemExit as ended:  # argparse's own
            got, complaint = int(str(ended.code)), capsys.readouterr().err
        assert (got, bool(complaint)) == (code, True), (words, complaint)
    assert command(capsys, "audit", "--json", *state)[1] == "[]\n"
    two.stop()
    assert command(capsys, "ack", "ffffffff", *state)[0] == 1
    assert command(capsys, "ack", key, "--state", str(two.folder / "none"))[0] == 1

    with lock_state(Path(two.config.state_dir)):
        code, _, complaint = command(capsys, "ack", key, *state)
    assert (code, "another daemon" in complaint) == (1, True)


def test_selftest_finds_what_was_done_to_the_log(
    two: Box, capsys: pytest.CaptureFixture[str]
) -> None:
    key = incidents(two)["jump"]
    for text in ("one", "two", "three"):
        assert ask(two, capsys, "note", key, text)[0] == 0

    def look() -> Any:
        return next(check_audit(Scene(two.config, "", two.ask(), time.time())))

    check = look()
    assert check.state == "ok"
    head = two.ask()["audit"]
    assert f"head 3 {head['hash']}" in check.words
    code, said, _ = ask(two, capsys, "audit", "--verify")
    assert (code, said["whole"], said["number"], said["head"]) == (0, True, 3, head["hash"])
    # A tail that was cut off, with all that the database remembers of it.
    with closing(sqlite3.connect(two.config.store_path)) as db:
        db.execute("DELETE FROM audit WHERE number = 3")
        db.execute("UPDATE audit_head SET number = 2,"
                   " hash = (SELECT hash FROM audit WHERE number = 2)")  # fmt: skip
        db.commit()
    check = look()
    assert check.state == "FAIL"
    assert "entry 3, which the daemon wrote" in check.words
    # The next entry makes it plain for ever.
    assert ask(two, capsys, "note", key, "four")[0] == 0
    assert ask(two, capsys, "note", key, "five")[0] == 0
    assert [e["action"] for e in ask(two, capsys, "audit")[1]] == [
        "note", "note", "fault", "note", "note",
    ]  # fmt: skip
    code, said, _ = ask(two, capsys, "audit", "--verify")
    assert (code, said["faults"][0]) == (1, "entry 3 is missing: 4 follows 2")
    with closing(sqlite3.connect(two.config.store_path)) as db:
        db.execute("UPDATE audit SET actor = 'nobody' WHERE number = 1")
        db.commit()
    code, said, _ = ask(two, capsys, "audit", "--verify")
    assert (code, said["whole"]) == (1, False)
    code, text, _ = command(capsys, "audit", "--verify", "--state", two.config.state_dir)
    assert (code, "BROKEN: entry 1 was changed" in text) == (1, True)


def test_heartbeats_carry_the_head(two: Box) -> None:

    body = sum_up_heartbeat(1, time.time(), [], two.ask())
    assert (body["audit"], body["audit_head"]) == (0, "0" * 64)


# -- the socket and the handover -------------------------------------------------------------------


def test_the_socket_says_who_asks(tmp_path: Path) -> None:
    path = Path(os.path.relpath(tmp_path / "c.sock"))
    seen: list[tuple[Any, int]] = []

    def act(question: dict[str, Any], user: int) -> dict[str, Any]:
        seen.append((question["act"], user))
        return {"done": True}

    server = ControlServer(path, lambda _: {"status": True}, act=act)
    server.start()
    try:
        assert ask_daemon(path, {"act": {"x": 1}, "user": 7, "peer": 7}) == {"done": True}
        assert ask_daemon(path, {"ask": "status"}) == {"status": True}
    finally:
        server.close()
    assert seen == [({"x": 1}, os.geteuid())]
    assert name_user(2**31 - 7) == f"unknown (uid {2**31 - 7})"


def test_handover_answers_refuses_and_withdraws() -> None:
    woken = threading.Event()
    desk = Handover(woken.set, seconds=0.2)
    carried: list[int] = []

    def perform(question: dict[str, Any], user: int) -> dict[str, Any]:
        carried.append(question["n"])
        if question["n"] == 13:
            raise ApplianceError("no")
        if question["n"] == 14:
            time.sleep(0.5)  # longer than it waits for a beginning
        return {"n": question["n"], "user": user}

    with pytest.raises(ApplianceError, match="too busy: nothing was changed"):
        desk.ask({"n": 1}, 7)
    assert woken.is_set()
    desk.carry_out(perform)
    assert carried == []  # it was withdrawn
    stop = threading.Event()

    def turn() -> None:
        while not stop.is_set():
            desk.carry_out(perform)
            time.sleep(0.01)

    line = threading.Thread(target=turn)
    line.start()
    try:
        assert desk.ask({"n": 2}, 7) == {"n": 2, "user": 7}
        with pytest.raises(ApplianceError, match=r"^no$"):
            desk.ask({"n": 13}, 7)
        assert desk.ask({"n": 14}, 7)["n"] == 14
    finally:
        stop.set()
        line.join()
    desk.close()
    with pytest.raises(ApplianceError, match="stopping"):
        desk.ask({"n": 3}, 7)


def test_a_daemon_of_another_version_is_not_believed(
    box: Box, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(box.config.state_dir).mkdir()
    server = ControlServer(box.config.control_path, lambda _: {"running": True})
    server.start()
    try:
        code, _, complaint = ask(box, capsys, "ack", "ab")
    finally:
        server.close()
    assert (code, "restart it" in complaint) == (1, True)
