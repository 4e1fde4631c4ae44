"""The audit log: its chain, and that whatever is done to it by hand is found."""

import hashlib
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.audit import (
    BEGINNING,
    LAYOUT,
    Entry,
    Head,
    describe_action,
    follow_chain,
    hash_entry,
    link_entry,
    write_details,
)
from appliance.store import Restorer, Store, backup_store, restore_store
from tests.builders import T0

DOC = Path(__file__).resolve().parent.parent / "docs" / "casework.md"
Edit = Callable[[sqlite3.Connection], object]


def fill(store: Store, entries: int = 6) -> list[str]:
    return [
        store.log_action(Entry("note", "ab" * 16, {"note": f"n{n} ü\x1b"}), actor="anna (uid 1)",
                         now=T0 + n / 7).hash
        for n in range(entries)
    ]  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    store = Store(tmp_path / "store.db", durable=False)
    fill(store)
    store.close()
    return tmp_path / "store.db"


def verify(path: Path) -> tuple[str, ...]:
    store = Store(path, read_only=True)
    try:
        return store.verify_audit().faults
    finally:
        store.close()


def change(path: Path, *edits: str) -> None:
    db = sqlite3.connect(path)
    for edit in edits:
        assert db.execute(edit).rowcount, edit
    db.commit()
    db.close()


def test_an_empty_log_is_whole(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db", durable=False)
    chain = store.verify_audit()
    assert (chain.entries, chain.head, chain.faults) == (0, Head(), ())
    assert store.audit_head() == Head(0, BEGINNING)
    assert store.audit_holds(Head())
    store.close()


def test_the_chain(path: Path) -> None:
    store = Store(path, read_only=True)
    actions = store.actions()
    chain = store.verify_audit()
    assert (chain.entries, chain.faults) == (6, ())
    assert chain.head == Head(6, actions[-1].hash) == store.audit_head()
    assert [a.number for a in actions] == [1, 2, 3, 4, 5, 6]
    assert actions[0].previous == "0" * 64
    assert [a.previous for a in actions[1:]] == [a.hash for a in actions[:-1]]
    assert store.audit_holds(chain.head)
    assert not store.audit_holds(Head(6, actions[0].hash))
    assert not store.audit_holds(Head(7, chain.head.hash))
    line = describe_action(actions[0])
    assert line.startswith("audit 1: anna (uid 1): note abab")
    assert line.endswith(actions[0].hash)
    store.close()


def test_the_hash_as_an_outsider_works_it_out() -> None:
    """By hand, from the words of the specification alone."""
    details = b'{"note":"\xc3\xbc"}'
    texts = [LAYOUT, "7", "1700000000.250000", "anna (uid 1)", "note", "abc"]
    raw = b""
    for part in (*(text.encode() for text in texts), details, b"f" * 64):
        raw += len(part).to_bytes(8, "big") + part
    told = (7, 1_700_000_000.25, "anna (uid 1)", "note", "abc")
    assert hash_entry(told, details, "f" * 64) == hashlib.sha256(raw).hexdigest()


def test_the_program_of_the_page_recomputes_the_log(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An outsider has the page, the database and nothing of ours."""
    (code,) = re.findall(r"```python\n(.*?)```", DOC.read_text(), re.DOTALL)
    head = Store(path, read_only=True)
    expected = head.verify_audit().head.hash
    head.close()
    run = compile(code, "page", "exec")
    exec(run, {"__name__": "page", "PATH": str(path)})
    assert capsys.readouterr().out == f"whole: 6 entries, head {expected}\n"
    change(path, "UPDATE audit SET subject = 'x' WHERE number = 2")
    with pytest.raises(AssertionError):
        exec(run, {"__name__": "page", "PATH": str(path)})


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        (["UPDATE audit SET actor = 'bob (uid 2)' WHERE number = 3"], "entry 3 was changed"),
        (["UPDATE audit SET time = time + 1 WHERE number = 1"], "entry 1 was changed"),
        (["UPDATE audit SET action = 'close' WHERE number = 6"], "entry 6 was changed"),
        (["UPDATE audit SET subject = '' WHERE number = 3"], "entry 3 was changed"),
        (["UPDATE audit SET details = '{}' WHERE number = 3"], "entry 3 "),
        (["UPDATE audit SET details = 7 WHERE number = 3"], "entry 3 "),
        (["UPDATE audit SET details = x'ff' WHERE number = 3"], "entry 3 was changed"),
        (["UPDATE audit SET time = 'x' WHERE number = 3"], "entry 3 can't be read"),
        (["UPDATE audit SET time = 9e999 WHERE number = 3"], "entry 3 can't be read"),
        (["UPDATE audit SET actor = x'ff' WHERE number = 3"], "entry 3 can't be read"),
        (["UPDATE audit SET previous = 'x' WHERE number = 3"], "entry 3 does not follow"),
        (["UPDATE audit SET hash = 'x' WHERE number = 3"], "entry 3 was changed"),
        (["DELETE FROM audit WHERE number = 3"], "entry 3 is missing"),
        (["DELETE FROM audit WHERE number = 1"], "entry 1 is missing"),
        (["DELETE FROM audit WHERE number > 4"], "the end is missing: the newest entry was 6"),
        (["DELETE FROM audit"], "the end is missing: the newest entry was 6"),
        (["DELETE FROM audit_head"], "remembered of the newest entry is gone"),
        (["UPDATE audit_head SET hash = 'x'"], "is not the one that was remembered"),
        (["UPDATE audit_head SET number = 5"], "is not the one that was remembered"),
        (["UPDATE audit SET number = 9 WHERE number = 6"], "entry 6 is missing"),
        (
            [
                "UPDATE audit SET number = 100 WHERE number = 2",
                "UPDATE audit SET number = 2 WHERE number = 3",
                "UPDATE audit SET number = 3 WHERE number = 100",
            ],
            "entry 2 does not follow",
        ),
        (
            [
                "INSERT INTO audit SELECT 7, time, actor, action, subject, details, hash, hash"
                " FROM audit WHERE number = 6"
            ],
            "entry 7 was changed",
        ),
    ],
)  # fmt: skip
def test_what_is_done_by_hand_is_found(path: Path, edits: list[str], said: str) -> None:
    assert verify(path) == ()
    change(path, *edits)
    assert any(said in fault for fault in verify(path)), verify(path)
    # And it stays found, however much is written behind it.
    store = Store(path, durable=False)
    fill(store, 3)
    store.close()
    assert verify(path)


def test_a_forged_tail_needs_the_head_outside(path: Path) -> None:
    """Who can write the file can write a whole new chain, which only a head told before shows."""
    store = Store(path, read_only=True)
    told = store.audit_head()
    assert told is not None
    store.close()
    change(
        path,
        "DELETE FROM audit WHERE number > 3",
        "UPDATE audit_head SET number = 3, hash = (SELECT hash FROM audit WHERE number = 3)",
    )
    assert verify(path) == ()
    store = Store(path, read_only=True)
    assert not store.audit_holds(told)
    store.close()


def test_an_entry_behind_a_cut_log_says_so(path: Path) -> None:
    change(path, "DELETE FROM audit WHERE number > 4")
    store = Store(path, durable=False)
    fill(store, 1)
    actions = store.actions()
    assert [(a.number, a.action) for a in actions[4:]] == [(7, "fault"), (8, "note")]
    assert actions[4].details == {"remembered": 6, "there": 4}
    store.close()


def test_many_faults_are_counted(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db", durable=False)
    fill(store, 60)
    store.close()
    change(tmp_path / "store.db", "UPDATE audit SET actor = 'x'")
    faults = verify(tmp_path / "store.db")
    assert len(faults) == 21
    assert faults[-1] == "40 more"


def test_actions_are_found_by_subject_and_time(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db", durable=False)
    for n in range(10):
        store.log_action(Entry("note", f"s{n % 2}", {}), actor="a", now=T0 + n)
    assert [a.number for a in store.actions("s1")] == [2, 4, 6, 8, 10]
    assert [a.number for a in store.actions("s1", since=T0 + 5)] == [6, 8, 10]
    assert [a.number for a in store.actions(limit=2)] == [9, 10]
    assert store.actions("nobody") == []
    change(tmp_path / "store.db", "UPDATE audit SET details = x'ff' WHERE number = 1")
    assert store.actions(limit=-1)[0].details == {"unreadable": True}
    store.close()


def test_restore_says_so_and_goes_on_with_the_backup_s_chain(path: Path, tmp_path: Path) -> None:
    backup_store(path, tmp_path / "b.db")
    store = Store(path, durable=False)
    store.open_sinks(["out"])
    fill(store, 4)
    before = store.audit_head()
    store.close()
    backup_store(path, tmp_path / "c.db")
    restorer = Restorer("root (uid 0)", T0 + 99)
    restore_store(tmp_path / "b.db", path, tmp_path / "kept", restorer)
    store = Store(path, read_only=True)
    actions = store.actions()
    assert (len(actions), actions[-1].action, actions[-1].actor) == (7, "restore", "root (uid 0)")
    assert before is not None
    assert actions[-1].details == {
        "backup": "b.db",
        "replaced": {"number": before.number, "hash": before.hash},
    }
    assert store.verify_audit().faults == ()
    store.close()
    # The other one knows a sink, which is told.
    restore_store(tmp_path / "c.db", path, tmp_path / "kept2", restorer)
    store = Store(path, read_only=True)
    _, messages, _ = store.messages("out", 10)
    assert [m.body["action"] for m in messages] == ["restore"]
    assert messages[0].body["number"] == 11
    store.close()


def test_restore_over_what_can_not_be_read_and_of_an_older_schema(tmp_path: Path) -> None:
    from appliance.store import MIGRATIONS

    Store(tmp_path / "old.db", migrations=MIGRATIONS[:5]).close()
    path = tmp_path / "store.db"
    path.write_bytes(b"\xff" * 100_000)
    restore_store(tmp_path / "old.db", path, tmp_path / "kept", Restorer("a (uid 1)", T0))
    store = Store(path, read_only=True)
    (action,) = store.actions()
    assert action.details == {"backup": "old.db", "replaced": None}
    assert store.verify_audit().faults == ()
    store.close()


texts = st.text(max_size=12)


@given(
    st.lists(st.tuples(texts, texts, texts, st.dictionaries(texts, texts, max_size=3)), max_size=5),
    st.floats(),
)
def test_whatever_is_written_verifies(
    rows: list[tuple[str, str, str, dict[str, str]]], t: float
) -> None:
    head, stored = Head(), []
    for actor, action, subject, details in rows:
        done = link_entry(Entry(action, subject, details), actor=actor, time=t, head=head)
        stored.append((done.number, done.time, done.actor, done.action, done.subject,
                       write_details(done.details), done.previous, done.hash))  # fmt: skip
        head = Head(done.number, done.hash)
    assert follow_chain(stored, head).faults == ()
    if stored:
        assert follow_chain(stored[:-1], head).faults
        assert follow_chain(stored, Head()).faults
