"""The one transaction: all of a batch or nothing; caps, schema versions, sinks and readers."""

import math
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.errors import StoreError
from appliance.schema import Checkpoint, SinkPosition, Span
from appliance.store import MIGRATIONS, PAGE_FINDINGS, Batch, Outgoing, Store, StoreLimits
from tests.builders import (
    T0,
    make_batch,
    make_change,
    make_incident,
    make_messages,
    make_rejected,
    make_row,
)

A, B, C = "aa" * 16, "bb" * 16, "cc" * 16
STEPS = ["store.checkpoints.after", "store.findings.after", "store.commit.before"]


class Injected(Exception):
    """The failure that a test puts into a step."""


class Stopper:
    """An OnStep that raises when it is told `step`, once."""

    def __init__(self, step: str = "") -> None:
        self.step = step
        self.told: list[str] = []

    def __call__(self, step: str) -> None:
        self.told.append(step)
        if step == self.step:
            self.step = ""
            raise Injected(step)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = Store(path)
    yield store
    store.close()


def dump_all(path: Path) -> dict[str, list[Any]]:
    """Every row of every table, as another process sees it."""
    db = sqlite3.connect(path)
    names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    assert "findings" in names
    rows = {name: db.execute(f"SELECT * FROM {name}").fetchall() for name in names}
    db.close()
    return {name: sorted(found, key=repr) for name, found in rows.items()}


def full_batch(number: int = 2) -> Batch:
    """A batch that changes every table a batch can change."""
    row = make_row(number)
    merged, kept = make_incident(B, 2), make_incident(A, 1)
    change = make_change(
        [merged, kept],
        links={"host:web": (Span(A, T0, T0 + number),), "host:gone": None},
        merged={B: A},
        joined={row.id: A},
    )
    return make_batch(
        [row],
        change=change,
        checkpoints=[Checkpoint("logs", "k", b"%d" % number), Checkpoint("logs", "old", b"")],
        rejected=[make_rejected(number)],
        counts={("source:logs", "seen"): 2.0},
        latest={("source:logs", "last_event"): T0 + number},
        messages=make_messages(2),
    )


def first_batch() -> Batch:
    row = make_row(1)
    change = make_change(
        [make_incident(A, 1)], links={"host:gone": (Span(A, T0, T0),)}, joined={row.id: A}
    )
    return make_batch(
        [row],
        change=change,
        checkpoints=[Checkpoint("logs", "k", b"1"), Checkpoint("logs", "old", b"x")],
    )


# -- the transaction -----------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
def test_failure_at_a_step_leaves_nothing_and_batch_can_be_written_again(
    tmp_path: Path, step: str
) -> None:
    stopper = Stopper()
    store = Store(tmp_path / "store.db", on_step=stopper)
    store.open_sinks(["out"])
    store.write_batch(first_batch())
    before = dump_all(store.path)
    stopper.step = step
    with pytest.raises(Injected):
        store.write_batch(full_batch())
    assert dump_all(store.path) == before
    store.write_batch(full_batch())
    store.close()

    other = Store(tmp_path / "other.db")
    other.open_sinks(["out"])
    other.write_batch(first_batch())
    other.write_batch(full_batch())
    other.close()
    assert dump_all(store.path) == dump_all(other.path)
    changed = [name for name, rows in dump_all(store.path).items() if rows != before[name]]
    assert set(changed) >= {
        "checkpoints", "counts", "findings", "incidents", "links", "rejected", "outbox",
    }  # fmt: skip


def test_every_step_is_told_in_order(path: Path) -> None:
    stopper = Stopper()
    store = Store(path, on_step=stopper)
    store.write_batch(full_batch())
    store.close()
    assert stopper.told == [*STEPS, "store.commit.after"]


def test_committed_batch_is_there_when_what_comes_after_the_commit_fails(path: Path) -> None:
    store = Store(path, on_step=Stopper("store.commit.after"))
    with pytest.raises(Injected):
        store.write_batch(full_batch())
    assert len(store.finding_bodies()) == 1
    store.write_batch(make_batch([make_row(3)]))
    assert len(store.finding_bodies()) == 2
    store.close()


def test_error_of_the_database_is_ours_and_rolls_back(store: Store) -> None:
    bad = make_batch([make_row(1)], messages=make_messages(1))
    bad.counts[("scope", "name")] = None  # type: ignore[assignment]
    with pytest.raises(StoreError, match="NOT NULL"):
        store.write_batch(bad)
    assert store.finding_bodies() == []
    assert store.sizes()["outbox"] == 0


def test_closed_store_raises_our_error(path: Path) -> None:
    store = Store(path)
    store.close()
    with pytest.raises(StoreError):
        store.counts()
    with pytest.raises(StoreError):
        store.write_batch(full_batch())


def test_commit_is_made_durable(path: Path) -> None:
    store = Store(path)
    with store._reading() as db:
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    store.close()


def test_same_finding_twice_is_stored_once_as_it_was_first(store: Store) -> None:
    store.write_batch(make_batch([make_row(1)]))
    again = make_row(1)
    again.body["verdict"] = "other"
    store.write_batch(make_batch([again]))
    assert [body["verdict"] for body in store.finding_bodies()] == ["none"]


def test_checkpoints_are_replaced_and_forgotten(store: Store) -> None:
    store.write_batch(first_batch())
    assert {c.key: c.state for c in store.checkpoints("logs")} == {"k": b"1", "old": b"x"}
    store.write_batch(full_batch())
    assert store.checkpoints("logs") == [Checkpoint("logs", "k", b"2")]
    assert store.checkpoints("other") == []


def test_counts_add_up_and_latest_never_goes_back(store: Store) -> None:
    for last in (T0 + 5, T0 + 3):
        store.write_batch(
            make_batch(
                counts={("source:logs", "seen"): 2}, latest={("source:logs", "last_event"): last}
            )
        )
    assert store.counts()["source:logs"] == {"seen": 4, "last_event": T0 + 5}


@pytest.mark.parametrize("time", [math.nan, math.inf, -math.inf])
def test_time_that_is_no_number_does_not_stop_the_line(store: Store, time: float) -> None:
    change = make_change(
        [make_incident(A, first=time, last=time)],
        links={"host:web": (Span(A, time, time),)},
        joined={make_row(1).id: A},
    )
    batch = make_batch([make_row(1, time=time)], change=change)
    batch.latest[("source:logs", "last_event")] = time
    store.write_batch(batch)
    assert len(store.finding_bodies()) == 1
    (incident,) = store.incidents()
    assert (incident.first_seen, incident.last_seen) == (0.0, 0.0)
    assert list(store.links()) == ["host:web"]
    assert "last_event" not in store.counts().get("source:logs", {})


def test_time_before_the_epoch_is_shown(store: Store) -> None:
    early = make_incident(A, first=-5.0, last=-5.0)
    store.write_batch(make_batch([make_row(1, time=-5.0)], incident=early))
    assert len(store.finding_bodies()) == 1
    assert len(store.incidents()) == 1


# -- the schema ----------------------------------------------------------------------------------

V1 = "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL);"
V2 = "ALTER TABLE notes ADD COLUMN level INTEGER NOT NULL DEFAULT 3; -- a comment at the end"


def read_notes(path: Path) -> tuple[int, list[Any]]:
    db = sqlite3.connect(path)
    version = db.execute("PRAGMA user_version").fetchone()[0]
    rows = db.execute("SELECT * FROM notes").fetchall()
    db.close()
    return version, rows


def make_v1(path: Path) -> None:
    store = Store(path, migrations=[V1])
    assert store.version == 1
    with store._writing() as db:
        db.execute("INSERT INTO notes (text) VALUES ('kept')")
    store.close()


def test_migration_keeps_the_rows(path: Path) -> None:
    make_v1(path)
    store = Store(path, migrations=[V1, V2])
    assert store.version == 2
    store.close()
    assert read_notes(path) == (2, [(1, "kept", 3)])
    store = Store(path, migrations=[V1, V2])
    assert store.version == 2
    store.close()


@pytest.mark.parametrize(
    "broken",
    [
        "DELETE FROM notes; ALTER TABLE notes ADD COLUMN level INTEGER; SELECT nothing FROM gone;",
        "DELETE FROM notes; NOT A STATEMENT",
        "DELETE FROM notes; INSERT INTO notes VALUES (1, NULL)",
    ],
)
def test_failing_migration_leaves_version_and_rows(path: Path, broken: str) -> None:
    make_v1(path)
    with pytest.raises(StoreError):
        Store(path, migrations=[V1, broken])
    assert read_notes(path) == (1, [(1, "kept")])
    store = Store(path, migrations=[V1, V2])
    assert store.version == 2
    store.close()


def test_steps_before_the_failing_one_stay(path: Path) -> None:
    make_v1(path)
    with pytest.raises(StoreError):
        Store(path, migrations=[V1, V2, "DELETE FROM notes; NOT A STATEMENT"])
    assert read_notes(path) == (2, [(1, "kept", 3)])


def test_newer_schema_is_refused_with_advice_and_left_alone(path: Path) -> None:
    Store(path, migrations=[V1, V2]).close()
    for read_only in (False, True):
        with pytest.raises(StoreError, match=r"schema 2.*up to 1.*install the version"):
            Store(path, migrations=[V1], read_only=read_only)
    assert read_notes(path)[0] == 2


def test_reader_refuses_an_older_schema_and_does_not_change_it(path: Path) -> None:
    make_v1(path)
    with pytest.raises(StoreError, match="start the daemon"):
        Store(path, migrations=[V1, V2], read_only=True)
    assert read_notes(path) == (1, [(1, "kept")])


def test_shipped_schema_is_the_number_of_its_scripts(store: Store) -> None:
    assert store.version == len(MIGRATIONS) >= 1


# -- where it lies ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a b", "100%", "what?", "a#b", "%41", "é\u2028", "a&mode=ro", "a;b", "'\"", "\udcff"]
)
def test_path_with_odd_characters(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    path = folder / f"{name}.db"
    store = Store(path)
    store.write_batch(make_batch([make_row(1)]))
    reader = Store(path, read_only=True)
    assert len(reader.finding_bodies()) == 1
    reader.close()
    store.close()
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert path.is_file()


def test_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Store(Path("store.db")).close()
    assert (tmp_path / "store.db").is_file()


def test_what_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    content = b"this is a log and no database, long enough for a header\n" * 100
    path.write_bytes(content)
    with pytest.raises(StoreError, match="not a database"):
        Store(path)
    assert path.read_bytes() == content


def test_damaged_database_is_our_error(path: Path) -> None:
    Store(path).close()
    raw = bytearray(path.read_bytes())
    raw[200:4096] = b"\xff" * (4096 - 200)
    path.write_bytes(raw)
    with pytest.raises(StoreError):
        Store(path).finding_bodies()


def test_directory_and_missing_and_unwritable_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent" / "store.db", Path("/proc/store.db")):
        with pytest.raises(StoreError, match=str(path)):
            Store(path)
    with pytest.raises(StoreError):
        Store(tmp_path / "store.db", read_only=True)
    assert not (tmp_path / "store.db").exists()


def test_reader_cannot_write(path: Path) -> None:
    Store(path).close()
    reader = Store(path, read_only=True)
    with pytest.raises(StoreError, match="readonly"):
        reader.write_batch(make_batch([make_row(1)]))
    reader.close()


def test_reader_beside_a_writer_sees_whole_batches(path: Path) -> None:
    store = Store(path, durable=False)
    reader = Store(path, read_only=True)
    done = threading.Event()
    seen: list[Any] = []
    wrong: list[str] = []

    def read() -> None:
        while True:
            ended = done.is_set()
            with reader._reading() as db:
                findings, count = db.execute(
                    "SELECT (SELECT COUNT(*) FROM findings),"
                    " COALESCE((SELECT value FROM counts WHERE name = 'findings'), 0)"
                ).fetchone()
            seen.append((findings, count))
            if findings != count or findings % 3:
                wrong.append(f"{findings} findings, {count} counted")
            if ended:
                return

    thread = threading.Thread(target=read)
    thread.start()
    for turn in range(60):
        rows = [make_row(turn * 3 + n) for n in range(3)]
        store.write_batch(make_batch(rows, counts={("level:high", "findings"): 3}))
    done.set()
    thread.join(30)
    assert not wrong, wrong
    assert seen[-1] == (180, 180)
    reader.close()
    store.close()


def test_threads_share_one_store(path: Path) -> None:
    store = Store(path, durable=False)
    store.open_sinks(["out"])

    def write(first: int) -> None:
        for n in range(first, first + 20):
            store.write_batch(make_batch([make_row(n)], messages=make_messages(1, start=n)))

    threads = [threading.Thread(target=write, args=(100 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        store.messages("out", 10)
    for thread in threads:
        thread.join(30)
    assert len(store.finding_bodies()) == 80
    assert [m.seq for m in store.messages("out", 1000)[1]] == list(range(1, 81))
    store.close()


def test_iterating_holds_up_nobody_and_leaves_out_nothing(path: Path) -> None:
    store = Store(path, durable=False)
    total = PAGE_FINDINGS * 2 + 1
    store.write_batch(make_batch([make_row(n) for n in range(total)]))
    rows = store.iterate_findings()
    assert next(rows)["number"] == 0
    written = threading.Event()

    def write() -> None:
        store.write_batch(make_batch([make_row(total)]))
        written.set()

    thread = threading.Thread(target=write)
    thread.start()
    assert written.wait(10), "a reader that pauses blocks the writer"
    thread.join()
    assert [row["number"] for row in rows] == list(range(1, total + 1))
    store.close()


# -- caps ------------------------------------------------------------------------------------------


def test_findings_rejected_and_outbox_are_capped_and_counted(path: Path) -> None:
    store = Store(path, limits=StoreLimits(findings=3, rejected=2, outbox=4))
    store.open_sinks(["out"])
    for n in (0, 3):
        store.write_batch(
            make_batch(
                [make_row(n + k) for k in range(3)],
                rejected=[make_rejected(n + k, b"%d" % (n + k)) for k in range(3)],
                messages=make_messages(3, start=n),
            )
        )
    assert [row["number"] for row in store.iterate_findings()] == [3, 4, 5]
    assert [row["data"] for row in store.rejected_rows(10)] == [b"5", b"4"]
    assert [m.body["n"] for m in store.messages("out", 10)[1]] == [2, 3, 4, 5]
    counts = store.counts()["store"]
    assert (counts["findings_over_cap"], counts["rejected_over_cap"]) == (3, 4)
    assert counts["outbox_over_cap"] == 2
    store.close()


def test_rejected_record_keeps_its_length_when_its_bytes_are_cut(path: Path) -> None:
    store = Store(path, limits=StoreLimits(rejected_bytes=4))
    store.write_batch(make_batch(rejected=[make_rejected(1, b"0123456789", "a\udcffb")]))
    (row,) = store.rejected_rows(10)
    assert (row["data"], row["length"], row["reason"]) == (b"0123", 10, "a\\udcffb")
    assert store.rejected_reasons() == [("logs", "decode", "a\\udcffb", 1)]
    store.close()


def test_incidents_untouched_for_longest_go_first(path: Path) -> None:
    store = Store(path, limits=StoreLimits(incidents=3))
    names = [f"{n:032x}" for n in range(6)]
    for n in range(3):
        store.write_batch(make_batch(incident=make_incident(names[n], n + 1)))
    store.write_batch(make_batch(incident=make_incident(names[0], 1, last=T0 + 9)))
    store.write_batch(make_batch(incident=make_incident(names[3], 4)))
    assert {i.id for i in store.incidents()} == {names[0], names[2], names[3]}
    assert store.counts()["store"]["incidents_over_cap"] == 1
    # One that this very batch changed is never the one that goes.
    store.write_batch(make_batch([make_row(7)], incident=make_incident(names[0], 1)))
    store.write_batch(make_batch(incident=make_incident(names[4], 5)))
    (body,) = store.finding_bodies()
    assert store.incident(body["incident"]) is not None
    assert store.sizes()["incidents"] == 3
    store.close()


def test_merged_id_goes_before_the_incident_it_leads_to(path: Path) -> None:
    store = Store(path, limits=StoreLimits(incidents=2))
    first, second = make_incident(A, 1), make_incident(B, 2)
    store.write_batch(make_batch(change=make_change([first])))
    store.write_batch(make_batch(change=make_change([second])))
    store.write_batch(make_batch(change=make_change([first], merged={B: A})))
    store.write_batch(make_batch(change=make_change([make_incident(C, 3)])))
    assert store.aliases() == {}
    assert {i.id for i in store.incidents()} == {A, C}
    store.close()


def test_number_of_an_incident_is_never_given_twice(path: Path) -> None:
    store = Store(path, limits=StoreLimits(incidents=1))
    assert store.next_incident_number() == 1
    merged = make_change([make_incident(B, 7), make_incident(A, 1)], merged={B: A})
    store.write_batch(make_batch(change=merged))
    store.close()
    store = Store(path)
    assert store.next_incident_number() == 8
    store.close()


# -- the outbox and its sinks ----------------------------------------------------------------------


def send(store: Store, count: int, start: int = 1) -> None:
    store.write_batch(make_batch(messages=make_messages(count, start=start)))


def test_new_sink_starts_with_what_comes_from_now_on(store: Store) -> None:
    store.open_sinks(["first"])
    send(store, 3)
    store.open_sinks(["first", "second"])
    send(store, 2, 4)
    assert [m.body["n"] for m in store.messages("first", 10)[1]] == [1, 2, 3, 4, 5]
    position, messages, lost = store.messages("second", 10)
    assert (position.seq, [m.body["n"] for m in messages], lost) == (3, [4, 5], 0)


def test_reopened_sink_keeps_its_position(path: Path) -> None:
    store = Store(path)
    store.open_sinks(["out"])
    send(store, 3)
    place = SinkPosition(2, 77, "8:9")
    store.commit_sink("out", place, 2, 0)
    store.close()
    store = Store(path)
    store.open_sinks(["out"])
    position, messages, lost = store.messages("out", 10)
    assert (position, [m.seq for m in messages], lost) == (place, [3], 0)
    assert store.sinks() == [{"name": "out", "delivered": 2, "waiting": 1, "lost": 0}]
    store.close()


def test_outbox_keeps_what_the_slowest_sink_has_to_read(store: Store) -> None:
    store.open_sinks(["fast", "slow"])
    send(store, 4)
    store.commit_sink("fast", SinkPosition(4), 4, 0)
    assert store.sizes()["outbox"] == 4
    store.commit_sink("slow", SinkPosition(3), 3, 0)
    assert store.sizes()["outbox"] == 1


def test_removed_sink_no_longer_holds_back_the_outbox(store: Store) -> None:
    store.open_sinks(["fast", "gone"])
    send(store, 4)
    store.commit_sink("fast", SinkPosition(3), 3, 0)
    store.open_sinks(["fast"])
    assert store.sizes()["outbox"] == 1
    with pytest.raises(StoreError, match="gone"):
        store.messages("gone", 10)
    store.open_sinks([])
    assert (store.sizes()["outbox"], store.sinks()) == (0, [])


def test_numbers_go_on_after_the_outbox_was_empty(store: Store) -> None:
    store.open_sinks(["out"])
    send(store, 2)
    store.commit_sink("out", SinkPosition(2), 2, 0)
    assert store.sizes()["outbox"] == 0
    store.open_sinks(["out", "new"])
    send(store, 1)
    for name in ("out", "new"):
        _, messages, lost = store.messages(name, 10)
        assert ([m.seq for m in messages], lost) == ([3], 0)


def test_outbox_without_sinks_is_capped(path: Path) -> None:
    store = Store(path, limits=StoreLimits(outbox=2))
    send(store, 5)
    assert store.sizes()["outbox"] == 2
    store.open_sinks(["out"])
    assert store.messages("out", 10) == (SinkPosition(5), [], 0)
    store.close()


def test_messages_trimmed_before_a_sink_read_them_are_counted_exactly(path: Path) -> None:
    store = Store(path, limits=StoreLimits(outbox=3))
    store.open_sinks(["out"])
    send(store, 2)
    store.commit_sink("out", SinkPosition(1), 1, 0)
    send(store, 5, 3)  # 2, 3 and 4 are gone, 5 to 7 are there
    position, messages, lost = store.messages("out", 2)
    assert (position.seq, [m.seq for m in messages], lost) == (1, [5, 6], 3)
    assert store.sinks()[0] == {"name": "out", "delivered": 1, "waiting": 3, "lost": 3}
    store.commit_sink("out", SinkPosition(5), 1, lost)
    assert store.messages("out", 10)[2] == 0
    assert store.sinks()[0] == {"name": "out", "delivered": 2, "waiting": 2, "lost": 3}
    send(store, 2, 8)  # 6 is gone
    assert store.messages("out", 10)[2] == 1
    assert store.sinks()[0]["lost"] == 4
    store.close()


def test_messages_of_which_none_is_left_are_lost_too(path: Path) -> None:
    store = Store(path, limits=StoreLimits(outbox=0))
    store.open_sinks(["out"])
    send(store, 4)
    assert store.messages("out", 10) == (SinkPosition(0), [], 4)
    assert store.sinks()[0] == {"name": "out", "delivered": 0, "waiting": 0, "lost": 4}
    store.commit_sink("out", SinkPosition(4), 0, 4)
    assert store.messages("out", 10) == (SinkPosition(4), [], 0)
    assert store.sinks()[0]["lost"] == 4
    store.close()


# -- what readers get ------------------------------------------------------------------------------


def test_finding_bodies_since_level_limit_and_order(store: Store) -> None:
    store.write_batch(
        make_batch(
            [
                make_row(1, time=T0 + 30, level="low"),
                make_row(2, time=T0 + 10, level="critical"),
                make_row(3, time=T0 + 20, level="high"),
                make_row(4, time=T0 + 20, level="high"),
            ]
        )
    )

    def numbers(**asked: Any) -> list[int]:
        return [body["number"] for body in store.finding_bodies(**asked)]

    assert numbers() == [2, 3, 4, 1]
    assert numbers(since=T0 + 20) == [3, 4, 1]
    assert numbers(level=3) == [2, 3, 4]
    assert numbers(limit=2) == [4, 1]
    assert numbers(level=3, limit=2) == [3, 4]
    assert numbers(limit=0) == []
    assert numbers(incident=A) == [2, 3, 4, 1]
    assert numbers(incident=B) == []


def test_incidents_worst_and_latest_first(store: Store) -> None:
    found = [
        make_incident(A, 1, level="high", last=T0 + 5),
        make_incident(B, 2, level="critical", last=T0),
        make_incident(C, 3, level="high", last=T0 + 9),
    ]
    store.write_batch(make_batch(change=make_change(found)))
    assert [i.id for i in store.incidents()] == [B, C, A]
    assert [i.id for i in store.incidents(since=T0 + 5)] == [C, A]
    assert [i.id for i in store.incidents(level=4)] == [B]
    assert [i.id for i in store.incidents(limit=1)] == [B]


def test_findings_follow_their_incident_when_it_is_merged(store: Store) -> None:
    row = make_row(1, pending=True)
    home = make_incident(B, 2)
    store.write_batch(make_batch([row], incident=home))
    store.write_batch(make_batch(change=make_change([make_incident(A, 1)], merged={B: A})))
    assert store.finding_bodies()[0]["incident"] == A
    assert store.findings_by_ids([row.id, "absent"])[row.id]["incident"] == A
    assert store.pending_findings("r1", 10)[0]["incident"] == A
    assert [body["incident"] for body in store.iterate_findings()] == [A]
    assert store.incident(B) is None
    assert store.aliases() == {B: A}


def test_find_ids_by_prefix_and_through_merges(store: Store) -> None:
    finding = "abc" + "0" * 29
    names = {n: n * 32 for n in "123"}
    store.write_batch(
        make_batch(
            change=make_change(
                [make_incident(names[n], int(n)) for n in "321"],
                merged={names["3"]: names["2"], names["2"]: names["1"]},
                joined={finding: names["1"]},
            ),
            findings=[make_row(1, key=finding)],
        )
    )
    assert store.find_ids("abc") == [("finding", finding)]
    assert store.find_ids(finding) == [("finding", finding)]
    for asked in ("1", "2", "33", names["3"]):
        assert store.find_ids(asked) == [("incident", names["1"])]
    for asked in ("", "4", "%", "a%", "_", "ABC", "abd", "1' OR 1=1"):
        assert store.find_ids(asked) == []


def test_known_findings(store: Store) -> None:
    store.write_batch(make_batch([make_row(1)]))
    assert store.known_findings([make_row(1).id, make_row(2).id]) == {make_row(1).id}
    assert store.known_findings([]) == set()


def test_waiting_findings_are_updated_with_their_messages(store: Store) -> None:
    store.open_sinks(["out"])
    rows = [make_row(n, pending=True) for n in (1, 2)] + [make_row(3)]
    store.write_batch(make_batch([*rows, make_row(4, rule="r2", pending=True)]))
    assert sorted(store.pending_rules()) == ["r1", "r2"]
    waiting = store.pending_findings("r1", 10)
    assert [row["number"] for row in waiting] == [1, 2]
    assert [row["number"] for row in store.pending_findings("r1", 1)] == [1]
    bodies = {row["id"]: {**row, "verdict": "suspicious"} for row in waiting}
    store.update_findings(bodies, make_messages(2))
    assert store.pending_rules() == ["r2"]
    verdicts = {row["number"]: row["verdict"] for row in store.finding_bodies()}
    assert verdicts == {1: "suspicious", 2: "suspicious", 3: "none", 4: "none"}
    assert len(store.messages("out", 10)[1]) == 2


def test_update_is_one_transaction(path: Path) -> None:
    stopper = Stopper()
    store = Store(path, on_step=stopper)
    store.open_sinks(["out"])
    row = make_row(1, pending=True)
    store.write_batch(make_batch([row]))
    stopper.step = "store.commit.before"
    with pytest.raises(Injected):
        store.update_findings({row.id: {**row.body, "verdict": "x"}}, make_messages(1))
    assert store.pending_rules() == ["r1"]
    assert store.messages("out", 10)[1] == []
    store.close()


def test_verdicts_of_another_base_are_dropped(store: Store) -> None:
    store.put_verdict("rule1", "base1", b"one")
    store.put_verdict("rule2", "base1", b"two")
    store.put_verdict("rule1", "base1", b"new")
    assert store.verdicts("base1") == {"rule1": b"new", "rule2": b"two"}
    assert store.verdict("rule1", "base1") == b"new"
    assert store.verdict("rule1", "base2") is None
    store.put_verdict("rule1", "base2", b"three")
    assert store.verdicts("base1") == {}
    assert store.verdicts("base2") == {"rule1": b"three"}


def test_links_come_back_in_the_order_in_which_they_were_seen(store: Store) -> None:
    links: list[dict[str, tuple[Span, ...] | None]] = [
        {key: (Span(A, T0, T0),) for key in "abc"},
        {"a": (Span(A, T0, T0 + 1),), "d": (Span(A, T0, T0),)},
        {"b": None, "c": (Span(B, T0, T0),)},
    ]
    for changed in links:
        store.write_batch(make_batch(change=make_change(links=changed)))
    assert list(store.links().items()) == [
        ("a", (Span(A, T0, T0 + 1),)), ("d", (Span(A, T0, T0),)), ("c", (Span(B, T0, T0),)),
    ]  # fmt: skip


def test_sizes(store: Store) -> None:
    store.write_batch(full_batch())
    sizes = store.sizes()
    assert {name: sizes[name] for name in ("findings", "links", "rejected", "outbox")} == {
        "findings": 1, "links": 1, "rejected": 1, "outbox": 2,
    }  # fmt: skip
    assert sizes["bytes"] > 0


def test_what_waits_for_a_sink_that_is_down_is_known_without_reading_it(store: Store) -> None:
    store.open_sinks(["down", "idle"])
    rows = [
        Outgoing("finding", f"{n:032x}", T0, {"kind": "finding", "pad": "x" * 3000})
        for n in range(20_000)
    ]
    store.write_batch(make_batch(messages=rows))
    began = time.perf_counter()
    assert [row["waiting"] for row in store.sinks()] == [20_000, 20_000]
    assert time.perf_counter() - began < 0.01  # counted: 0.03 and more
    position, _, _ = store.messages("down", 1)
    store.commit_sink("down", msgspec.structs.replace(position, seq=19_999), 19_999, 0)
    assert [row["waiting"] for row in store.sinks()] == [1, 20_000]
