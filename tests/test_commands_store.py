"""`store info|vacuum|backup|restore`, and what the store lets go by age and size."""

import json
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.assembly import store_limits
from appliance.cli import main
from appliance.config import Config, Retention, parse_config
from appliance.daemon import lock_state
from appliance.emit.file import FileSink
from appliance.errors import ConfigError, StoreError
from appliance.schema import Message, SinkPosition
from appliance.store import (
    EXPIRE_AGAIN_SECONDS,
    EXPIRE_ROWS,
    EXPIRE_SECONDS,
    MIGRATIONS,
    Batch,
    Store,
    StoreLimits,
    backup_store,
    inspect_store,
    restore_store,
)
from tests.builders import T0, make_batch, make_messages, make_rejected, make_row

DAY = 86400.0


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    said = capsys.readouterr()
    return code, said.out, said.err


def came_in(batch: Batch, received: float) -> Batch:
    """The batch as if its records had come in then."""
    batch.latest[("source:logs", "last_received")] = received
    return batch


def put(store: Store, numbers: range, received: float = T0, time: float = T0) -> None:
    rows = [replace_row(number, received, time) for number in numbers]
    store.write_batch(came_in(make_batch(rows), received))


def replace_row(number: int, received: float, time: float) -> Any:
    import msgspec

    return msgspec.structs.replace(make_row(number, time=time), received=received)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A state directory whose store holds 50 findings."""
    folder = tmp_path / "state"
    folder.mkdir()
    store = Store(folder / "store.db", durable=False)
    store.open_sinks(["out"])
    put(store, range(1, 51))
    store.close()
    yield folder


def ids(path: Path) -> set[str]:
    with Store(path, read_only=True)._reading() as db:
        return {key for (key,) in db.execute("SELECT id FROM findings")}


# -- info ----------------------------------------------------------------------------------------


def test_info(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = command(capsys, "store", "info", "--state", str(state), "--json")
    facts = json.loads(said)
    assert code == 0
    assert facts["schema"] == facts["known_schema"] == len(MIGRATIONS)
    assert facts["rows"]["findings"] == 50
    assert facts["oldest"]["findings"] == facts["newest"]["findings"] == T0
    assert facts["problems"] == []
    assert facts["caps"]["findings_days"] == 365
    assert facts["used_bytes"] > 0
    code, said, _ = command(capsys, "store", "info", "--state", str(state))
    assert code == 0
    assert "integrity ok" in said


def test_info_of_a_damaged_store(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = state / "store.db"
    db = sqlite3.connect(path)
    (page,) = db.execute(
        "SELECT rootpage FROM sqlite_master WHERE name = 'findings_time'"
    ).fetchone()
    (size,) = db.execute("PRAGMA page_size").fetchone()
    db.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * size + 8)
        file.write(b"\xff" * 64)
    code, said, complaint = command(capsys, "store", "info", "--state", str(state))
    assert code == 1
    assert "DAMAGED" in said or "malformed" in complaint


def test_nothing_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["info"], ["vacuum"], ["backup", str(tmp_path / "b")]):
        code, _, complaint = command(capsys, "store", *words, "--state", str(tmp_path / "none"))
        assert code == 1
        assert "has never run" in complaint
    assert not (tmp_path / "none").exists()


# -- vacuum --------------------------------------------------------------------------------------


def test_vacuum_gives_room_back(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = state / "store.db"
    store = Store(path, durable=False)
    store.write_batch(make_batch(rejected=[make_rejected(n, b"x" * 60_000) for n in range(50)]))
    with store._writing() as db:
        db.execute("DELETE FROM rejected")
    store.close()
    before = path.stat().st_size
    code, said, _ = command(capsys, "store", "vacuum", "--state", str(state), "--json")
    assert code == 0
    assert json.loads(said)["before"] >= before > 1_000_000
    assert path.stat().st_size < 300_000
    assert len(ids(path)) == 50


@pytest.mark.parametrize("words", [["vacuum"], ["restore", "FILE"]])
def test_not_while_the_daemon_runs(
    words: list[str], state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backup_store(state / "store.db", tmp_path / "b.db")
    words = [word.replace("FILE", str(tmp_path / "b.db")) for word in words]
    before = (state / "store.db").read_bytes()
    with lock_state(state):
        code, _, complaint = command(capsys, "store", *words, "--state", str(state))
    assert code == 1
    assert "another daemon is running" in complaint
    assert (state / "store.db").read_bytes() == before
    assert command(capsys, "store", *words, "--state", str(state))[0] == 0


# -- backup --------------------------------------------------------------------------------------


def test_backup_while_somebody_writes(state: Path, tmp_path: Path) -> None:
    """Each copy holds whole batches: ten findings or none of each."""
    store = Store(state / "store.db", durable=False)
    stop = threading.Event()

    def write() -> None:
        number = 100
        while not stop.is_set():
            put(store, range(number, number + 10))
            number += 10

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for place in range(5):
            facts = backup_store(state / "store.db", tmp_path / f"{place}.db")
            assert facts.problems == ()
            assert facts.rows["findings"] % 10 == 0
            assert facts.rows["findings"] >= 50
    finally:
        stop.set()
        writer.join()
        store.close()


def test_backup_command(state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "b.db"
    before = os.umask(0)
    try:
        code, said, _ = command(capsys, "store", "backup", str(target), "--state", str(state))
    finally:
        os.umask(before)
    assert code == 0
    assert "50 findings" in said
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert ids(target) == ids(state / "store.db")
    assert sorted(p.name for p in tmp_path.iterdir() if "b.db" in p.name) == ["b.db"]
    target.write_bytes(b"precious")
    code, _, complaint = command(capsys, "store", "backup", str(target), "--state", str(state))
    assert (code, target.read_bytes()) == (1, b"precious")
    assert "--force" in complaint
    words = ["store", "backup", str(target), "--force", "--state", str(state)]
    assert command(capsys, *words)[0] == 0
    assert len(ids(target)) == 50
    words = ["store", "backup", str(state / "store.db"), "--force", "--state", str(state)]
    code, _, complaint = command(capsys, *words)
    assert code == 1
    assert "the store itself" in complaint


def test_backup_of_an_older_schema(tmp_path: Path) -> None:
    """Before an upgrade is when a backup is made."""
    Store(tmp_path / "store.db", migrations=MIGRATIONS[:1]).close()
    facts = backup_store(tmp_path / "store.db", tmp_path / "b.db")
    assert facts.schema == 1


def test_failed_backup_leaves_nothing(state: Path, tmp_path: Path) -> None:
    target = tmp_path / "b.db"
    target.write_bytes(b"old")
    (tmp_path / "no.db").write_bytes(b"not a database, but of some length" * 100)
    with pytest.raises(StoreError):
        backup_store(tmp_path / "no.db", target)
    assert target.read_bytes() == b"old"
    assert not list(tmp_path.glob(".b.db*"))


# -- restore -------------------------------------------------------------------------------------


def test_restore(state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, target = state / "store.db", tmp_path / "b.db"
    backup_store(path, target)
    had = ids(path)
    store = Store(path, durable=False)
    put(store, range(60, 70))
    with_more = ids(path)
    # As after a crash: the log is not folded in.
    copies = {name: (state / name).read_bytes() for name in ("store.db", "store.db-wal")}
    store.close()
    for name, raw in copies.items():
        (state / name).write_bytes(raw)
    words = ["store", "restore", str(target), "--state", str(state), "--json"]
    code, said, _ = command(capsys, *words)
    facts = json.loads(said)
    assert code == 0
    assert ids(path) == had
    kept = Path(facts["kept"])
    assert kept.parent == state
    assert kept.name.startswith("store.db.before-restore-")
    assert ids(kept) == with_more
    assert not (state / "store.db-wal").exists() or (state / "store.db-wal").stat().st_size == 0
    Store(path).close()  # a daemon goes on with it
    assert ids(path) == had
    assert target.is_file()


def test_restore_where_nothing_was(state: Path, tmp_path: Path) -> None:
    backup_store(state / "store.db", tmp_path / "b.db")
    (tmp_path / "new").mkdir()
    facts = restore_store(tmp_path / "b.db", tmp_path / "new" / "store.db", tmp_path / "kept")
    assert facts.rows["findings"] == 50
    assert not (tmp_path / "kept").exists()


def make_bad(kind: str, folder: Path) -> Path:
    path = folder / "bad.db"
    if kind == "text":
        path.write_text("not a database " * 100)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "other":
        db = sqlite3.connect(path)
        db.executescript("CREATE TABLE t (x); PRAGMA user_version = 1")
        db.close()
    else:
        Store(path).close()
        db = sqlite3.connect(path)
        if kind == "newer":
            db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
        if kind == "trigger":
            db.execute("CREATE TRIGGER t AFTER INSERT ON findings BEGIN DELETE FROM outbox; END")
        db.commit()
        db.close()
    return path


@pytest.mark.parametrize("kind", ["text", "empty", "other", "newer", "trigger"])
def test_what_is_no_backup_is_refused_and_changes_nothing(
    kind: str, state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = ids(state / "store.db")
    bad = make_bad(kind, tmp_path)
    code, _, complaint = command(capsys, "store", "restore", str(bad), "--state", str(state))
    assert code == 1
    assert complaint.startswith("appliance: store restore: ")
    assert ids(state / "store.db") == before
    assert not list(state.glob("*before-restore*"))
    assert not list(state.glob(".store.db*"))


def test_restore_over_a_damaged_store(state: Path, tmp_path: Path) -> None:
    backup_store(state / "store.db", tmp_path / "b.db")
    (state / "store.db").write_bytes(b"\xff" * 100_000)
    restore_store(tmp_path / "b.db", state / "store.db", state / "kept")
    assert len(ids(state / "store.db")) == 50
    assert (state / "kept").read_bytes() == b"\xff" * 100_000


def test_restore_does_not_cut_a_sink_s_file(tmp_path: Path) -> None:
    """The backup knows a shorter file; what was written since stays."""
    path, out = tmp_path / "store.db", tmp_path / "out.jsonl"
    store = Store(path)
    store.open_sinks(["out"])
    sink = FileSink("out", str(out))

    def deliver(opened: Store) -> None:
        position, messages, _ = opened.messages("out", 100)
        opened.commit_sink("out", sink.deliver(messages, position), len(messages), 0)

    store.write_batch(make_batch(messages=make_messages(2)))
    deliver(store)
    backup_store(path, tmp_path / "b.db")
    store.write_batch(make_batch(messages=make_messages(2, start=3)))
    deliver(store)
    store.close()
    restore_store(tmp_path / "b.db", path, tmp_path / "kept")
    store = Store(path)
    store.write_batch(make_batch(messages=make_messages(1, start=9)))
    deliver(store)
    store.close()
    sink.close()
    assert [json.loads(line)["n"] for line in out.read_bytes().splitlines()] == [1, 2, 3, 4, 9]


# -- retention -----------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def count(store: Store, table: str) -> int:
    return store.sizes()[table]


def test_what_came_in_too_long_ago_goes_and_is_counted(path: Path) -> None:
    limits = StoreLimits(findings_seconds=10 * DAY, rejected_seconds=DAY)
    store = Store(path, limits=limits, durable=False)
    put(store, range(1, 4), received=T0, time=T0 - 5000 * DAY)  # old events, fresh records
    batch = make_batch(rejected=[make_rejected(1)])
    store.write_batch(came_in(batch, T0))
    assert (count(store, "findings"), count(store, "rejected")) == (3, 1)
    store.expire(T0 + 2 * DAY)
    assert (count(store, "findings"), count(store, "rejected")) == (3, 0)
    put(store, range(4, 6), received=T0 + 10.5 * DAY)
    assert count(store, "findings") == 2
    assert len(store.incidents()) == 1  # stays, though its findings go
    counts = store.counts()["store"]
    assert (counts["findings_expired"], counts["rejected_expired"]) == (3, 1)
    assert count(store, "incidents") == 1
    store.close()


def test_for_ever(path: Path) -> None:
    store = Store(path, limits=StoreLimits(), durable=False)
    put(store, range(1, 4))
    store.expire(T0 + 1e6 * DAY)
    assert count(store, "findings") == 3
    store.close()


def test_a_look_a_minute_and_rows_with_a_bound(path: Path) -> None:
    store = Store(path, limits=StoreLimits(findings_seconds=DAY), durable=False)
    put(store, range(EXPIRE_ROWS + 200))
    now = T0 + 2 * DAY
    store.expire(now)
    assert count(store, "findings") == 200
    store.expire(now + EXPIRE_AGAIN_SECONDS / 2)
    assert count(store, "findings") == 200  # a second's rest
    store.expire(now + EXPIRE_AGAIN_SECONDS)
    assert count(store, "findings") == 0
    store.write_batch(make_batch([replace_row(n, T0, T0) for n in range(5000, 5003)]))
    store.expire(now + EXPIRE_SECONDS - 1)
    assert count(store, "findings") == 3  # nothing was left: not looked at for a minute
    store.expire(now + EXPIRE_AGAIN_SECONDS + EXPIRE_SECONDS)
    assert count(store, "findings") == 0
    store.close()


def test_a_clock_set_back_does_not_stop_the_looking(path: Path) -> None:
    store = Store(path, limits=StoreLimits(findings_seconds=DAY), durable=False)
    store.expire(T0 + 1000 * DAY)
    put(store, range(1, 4), received=T0 - 10 * DAY)
    store.expire(T0)
    assert count(store, "findings") == 0
    store.close()


def test_a_failed_batch_lets_nothing_go(path: Path) -> None:
    def stop(step: str) -> None:
        if armed and step == "store.commit.before":
            raise RuntimeError(step)

    armed = False
    store = Store(path, limits=StoreLimits(findings_seconds=DAY), durable=False, on_step=stop)
    put(store, range(1, 4))
    armed = True
    with pytest.raises(RuntimeError):
        put(store, range(4, 5), received=T0 + 3 * DAY)
    armed = False
    assert count(store, "findings") == 3
    store.close()


def test_too_many_bytes_rejected_go_first_then_the_oldest_findings(path: Path) -> None:
    store = Store(path, limits=StoreLimits(store_bytes=1 << 20), durable=False)
    put(store, range(1, 6))
    big = [make_rejected(n, b"x" * 40_000) for n in range(100)]
    store.write_batch(came_in(make_batch(rejected=big), T0 + 100))
    assert count(store, "rejected") == 0
    assert count(store, "findings") == 5
    rows = [make_row(n) for n in range(100, 100 + EXPIRE_ROWS)]
    for row in rows:
        row.body["pad"] = "y" * 2000
    store.write_batch(came_in(make_batch(rows), T0 + 200))
    assert count(store, "findings") == 5  # the oldest EXPIRE_ROWS went
    store.expire(T0 + 300)
    assert count(store, "findings") == 5  # under the cap again: nothing more goes
    counts = store.counts()["store"]
    assert counts["rejected_over_bytes"] == 100
    assert counts["findings_over_bytes"] == EXPIRE_ROWS
    store.close()


def test_retention_is_configured(tmp_path: Path) -> None:
    text = "state_dir: " + f"{tmp_path}/s\nsources: [{{name: a, paths: [/x]}}]\n"
    config = parse_config(text + "retention: {findings_days: 7}\n", "x")
    assert config.retention == Retention(findings_days=7.0)
    limits = store_limits(replace(config, limits=replace(config.limits, store_bytes=1 << 30)))
    assert limits.findings_seconds == 7 * DAY
    assert limits.rejected_seconds == 30 * DAY
    assert limits.store_bytes == 1 << 30
    assert Config().retention == Retention(365.0, 30.0)
    with pytest.raises(ConfigError) as error:
        parse_config(text + "retention: {findings_days: -1, days: 3}\n", "x")
    assert "must be 0 to" in str(error.value)
    assert "unknown key" in str(error.value)


# -- schema 2 ------------------------------------------------------------------------------------


def test_migration_from_the_first_schema(path: Path) -> None:
    """Findings of older versions get a time of receipt that is no earlier than the true one."""
    Store(path, migrations=MIGRATIONS[:1]).close()
    db = sqlite3.connect(path)
    db.execute("INSERT INTO counts VALUES ('source:logs', 'last_received', ?)", (T0 + 5,))
    db.execute(
        "INSERT INTO findings (id, time, level, detector, rule_id, incident, pending, body)"
        " VALUES ('aa', ?, 3, 'sigma', 'r', 'i', 0, '{}')",
        (T0 - 4000 * DAY,),
    )
    db.execute("INSERT INTO sinks VALUES ('out', 7, 0, '', 7, 0)")
    db.commit()
    db.close()
    store = Store(path, limits=StoreLimits(findings_seconds=DAY))
    delivery = store.finding_delivery("aa")
    assert delivery is not None
    assert (delivery.received, delivery.seq) == (T0 + 5, 0)
    assert delivery.sinks[0].began == 0
    store.expire(T0 + DAY)
    assert count(store, "findings") == 1
    store.close()


def test_findings_know_their_place_in_the_outbox(path: Path) -> None:
    store = Store(path, durable=False)
    store.open_sinks(["out"])
    store.write_batch(make_batch(messages=make_messages(3)))
    messages = make_messages(2, start=10)
    rows = [make_row(n, key=m.id) for n, m in enumerate(messages)]
    store.write_batch(make_batch(rows, messages=messages))
    store.open_sinks(["out", "late"])
    got = {m.id: m.seq for m in store.messages("out", 100)[1]}
    for message in messages:
        delivery = store.finding_delivery(message.id)
        assert delivery is not None
        assert delivery.seq == got[message.id]
        assert delivery.waiting == ((got[message.id], "finding"),)
    assert delivery is not None
    assert {sink.name: sink.began for sink in delivery.sinks} == {"late": 5, "out": 0}
    assert store.finding_delivery("ff") is None
    store.close()


def test_a_test_message_is_remembered_once_it_was_delivered(path: Path) -> None:
    from appliance.store import Outgoing

    store = Store(path, durable=False)
    store.open_sinks(["out"])
    store.write_batch(make_batch(messages=[Outgoing("test", "ee", T0, {"kind": "test"})]))
    assert store.delivered("ee") == {"out": False}
    (message,) = store.messages("out", 10)[1]
    assert isinstance(message, Message)
    store.commit_sink("out", SinkPosition(message.seq), 1, 0)
    assert store.messages("out", 10)[1] == []
    assert store.delivered("ee") == {"out": True}
    assert store.delivered("dd") == {"out": False}
    store.close()


def test_inspect_changes_nothing(state: Path) -> None:
    before = (state / "store.db").read_bytes()
    inspect_store(state / "store.db")
    assert (state / "store.db").read_bytes() == before
