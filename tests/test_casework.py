"""Working an incident on a store: cases, merge and split, suppressions, and what refuses."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.casework import (
    NOTE_BYTES,
    Ack,
    Assign,
    Close,
    Merge,
    Note,
    Outcome,
    Refused,
    Reopen,
    Request,
    Split,
    Suppress,
    Unsuppress,
    describe_outcome,
    perform,
    read_request,
    write_request,
)
from appliance.correlate.incidents import CorrelationLimits, Correlator, Stored, read_sign
from appliance.emit.render import render_finding, to_json_line
from appliance.emit.syslog import SyslogProfile, format_syslog
from appliance.errors import StoreError, UsageError
from appliance.schema import (
    LEVELS,
    Finding,
    Incident,
    Level,
    finding_id,
)
from appliance.store import Batch, FindingRow, Store, StoreLimits
from appliance.suppression import Scope
from tests.builders import T0, make_detection, make_event

NOW = T0 + 90_000.0
ACTOR = "anna (uid 1000)"


def make(
    number: int,
    entities: str,
    *,
    rule: str = "r1",
    time: float = T0,
    level: Level = "high",
    tactics: Sequence[str] = ("execution",),
) -> Finding:
    event = msgspec.structs.replace(
        make_event(number, time, entities), host=entities[2:].split(maxsplit=1)[0]
    )
    found = make_detection(event, rule=rule, level=level, title=f"T {rule}", tactics=tactics)
    return Finding(finding_id("sigma", rule, event.id), found, ())


def open_correlator(store: Store) -> Correlator:
    return Correlator(
        CorrelationLimits(),
        Stored(
            links=store.links(),
            usuals=store.usuals(),
            aliases=store.aliases(),
            folds=store.recent_folds(1000),
            load=store.incident,
            load_fold=store.fold,
            next_number=store.next_incident_number(),
        ),
    )


def put(store: Store, findings: Sequence[Finding], correlator: Correlator | None = None) -> None:
    """As the line stores them."""
    correlator = correlator or open_correlator(store)
    for finding in findings:
        correlator.join(read_sign(finding))
    change = correlator.changes()
    rows = [
        FindingRow(
            finding.id,
            finding.detection.event.time,
            LEVELS.index(finding.detection.level),
            "sigma",
            finding.detection.rule_id,
            render_finding(finding, change.joined[finding.id]),
        )
        for finding in findings
    ]
    store.write_batch(Batch([], rows, change, [], {}, {}, []))
    correlator.commit()


def home(store: Store, finding: Finding) -> str:
    return str(store.findings_by_ids([finding.id])[finding.id]["incident"])


def do(store: Store, request: Request, now: float = NOW) -> Outcome:
    # As it comes over the socket.
    sent = read_request(msgspec.json.decode(msgspec.json.encode(write_request(request))))
    with store.working(actor=ACTOR, now=now) as desk:
        return perform(sent, desk, now)


def get(store: Store, key: str) -> Incident:
    found = store.incident(key)
    assert found is not None
    return found


def told(store: Store) -> list[dict[str, Any]]:
    return [message.body for message in store.messages("out", 1000)[1]]


ONE = make(1, "h:web u:eve")
TWO = make(2, "h:db u:bob", rule="r2", level="critical", tactics=("impact",), time=T0 + 5)
THREE = make(3, "h:mail u:mia", rule="r3", level="medium", tactics=("discovery",), time=T0 + 9)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "store.db", durable=False)
    store.open_sinks(["out"])
    yield store
    store.close()


@pytest.fixture
def three(store: Store) -> Store:
    """Three incidents of one finding each."""
    put(store, [ONE])
    put(store, [TWO])
    put(store, [THREE])
    assert len({home(store, one) for one in (ONE, TWO, THREE)}) == 3
    return store


def test_a_case_from_its_beginning_to_its_end(three: Store) -> None:
    key = home(three, ONE)
    assert three.case(key).status == "open"
    do(three, Ack(key[:10], "mine"))
    assert three.case(key).status == "acknowledged"
    do(three, Assign(key, "bob"))
    done = do(three, Close(key, "benign", "a backup"), NOW + 5)
    assert done.moved
    case = three.case(key)
    assert (case.status, case.assignee, case.closing, case.note, case.changed) == (
        "closed", "bob", "benign", "a backup", NOW + 5,
    )  # fmt: skip
    assert get(three, key).status == "closed"
    do(three, Note(key, "ticket 7"))
    do(three, Reopen(key, "again"))
    assert get(three, key).status == "open"
    assert (three.case(key).status, three.case(key).closing) == ("open", None)
    actions = three.actions(key)
    assert [a.action for a in actions] == ["ack", "assign", "close", "note", "reopen"]
    assert {a.actor for a in actions} == {ACTOR}
    assert actions[0].details == {"note": "mine"}
    assert actions[2].details == {"as": "benign", "note": "a backup"}
    chain = three.verify_audit()
    assert (chain.faults, chain.entries) == ((), 5)
    # Nothing of another incident was touched.
    assert three.case(home(three, TWO)).status == "open"


def test_sinks_are_told_of_each_change_and_of_the_log(three: Store) -> None:
    key = home(three, ONE)
    do(three, Ack(key))
    do(three, Close(key, "true_positive", "it\x1b[2J was\n<0>1 real"))
    do(three, Note(key, "secret"))
    bodies = told(three)
    assert [body["kind"] for body in bodies] == ["audit", "incident", "audit", "incident", "audit"]
    first, last = bodies[1], bodies[3]
    assert first["case"]["status"] == "acknowledged"
    assert (last["status"], last["case"]["closing"]) == ("closed", "true_positive")
    assert b"\x1b" not in to_json_line(last)
    assert "secret" not in str(bodies)
    actions = three.actions()
    assert [body["hash"] for body in bodies if body["kind"] == "audit"] == [a.hash for a in actions]


def test_a_closed_incident_takes_no_more_and_the_next_names_it(three: Store) -> None:
    key = home(three, ONE)
    do(three, Close(key, "benign", "done"))
    later = make(11, "h:web u:eve", rule="r9", time=T0 + 60)
    put(three, [later])
    assert home(three, later) != key
    assert key in get(three, home(three, later)).related
    # Nor what is near-identical to what it has, at the same time.
    same = make(12, "h:web u:eve", time=T0 + 2)
    put(three, [same])
    assert home(three, same) == home(three, later)
    assert get(three, key).count == 1
    (fold,) = three.incident_folds(key)
    assert (fold.count, fold.findings) == (1, [ONE.id])
    # Opened again, it takes what is its own.
    do(three, Reopen(key))
    last = make(15, "h:web u:eve", rule="r8", time=T0 + 90)
    put(three, [last])
    assert {home(three, one) for one in (ONE, later, same, last)} == {key}
    assert get(three, key).count == 4


def test_merge_and_what_comes_after(three: Store) -> None:
    one, two, three_ = (home(three, f) for f in (ONE, TWO, THREE))
    do(three, Assign(two, "bob"))
    done = do(three, Merge((two, three_, one)))
    assert done.incidents == [one]  # the one opened first
    whole = get(three, one)
    assert (whole.count, whole.level, whole.first_seen, whole.last_seen) == (
        3, "critical", T0, T0 + 9,
    )  # fmt: skip
    assert whole.title == "T r2"
    assert set(whole.aliases) == {two, three_}
    assert set(whole.tactics) == {"execution", "impact", "discovery"}
    assert {e.value for e in whole.entities} >= {"web", "db", "mail", "eve", "bob", "mia"}
    assert {f.rule_id for f in whole.folds} == {"r1", "r2", "r3"}
    assert whole.score > 0
    assert {home(three, f) for f in (ONE, TWO, THREE)} == {one}
    assert {f.incident for f in three.incident_folds(one)} == {one}
    assert len(three.incident_folds(one)) == 3
    assert three.incident(two) is None
    assert three.find_ids(two[:12]) == [("incident", one)]
    assert three.case(one).assignee == "bob"
    # What would have joined the merged one joins the whole.
    later = make(12, "h:db u:bob", rule="r5", time=T0 + 60)
    put(three, [later])
    assert home(three, later) == one
    assert [a.action for a in three.actions(one)] == ["assign", "merge", "merged", "merged"]
    gone = [b for b in told(three) if b.get("merged_into")]
    assert [(b["id"], b["merged_into"], b["status"]) for b in gone] == [
        (two, one, "closed"), (three_, one, "closed"),
    ]  # fmt: skip


def test_merge_into_a_named_one(three: Store) -> None:
    one, two = home(three, ONE), home(three, TWO)
    assert do(three, Merge((one,), into=two)).incidents == [two]
    assert get(three, two).count == 2
    assert three.incident(one) is None


def test_split_of_whole_folds(three: Store) -> None:
    one, two, last = (home(three, f) for f in (ONE, TWO, THREE))
    do(three, Merge((one, two, last)))
    done = do(three, Split(one, (TWO.id[:12],), "another matter"))
    fresh = done.incidents[0]
    assert fresh not in (one, two, last)
    assert home(three, TWO) == fresh
    assert {home(three, ONE), home(three, THREE)} == {one}
    new, left = get(three, fresh), get(three, one)
    assert (new.count, new.level, new.title, new.tactics) == (1, "critical", "T r2", ("impact",))
    assert (left.count, left.level, left.title) == (2, "high", "T r1")
    assert (left.first_seen, left.last_seen) == (T0, T0 + 9)
    assert new.related == (one,)
    assert fresh in left.related
    assert new.number > left.number
    assert [f.findings for f in three.incident_folds(fresh)] == [[TWO.id]]
    assert len(three.incident_folds(one)) == 2
    # Its own entities lead to it from now on; those of the others do not.
    later = make(13, "h:db u:bob", rule="r6", time=T0 + 60)
    other = make(14, "h:web u:eve", rule="r6", time=T0 + 60)
    put(three, [later, other])
    assert home(three, later) == fresh
    assert home(three, other) == one
    assert three.next_incident_number() == new.number + 1
    assert [a.action for a in three.actions(fresh)] == ["split_from"]


def test_split_of_a_part_of_a_fold(store: Store) -> None:
    many = [make(n, "h:web u:eve", time=T0 + n) for n in range(20, 30)]
    put(store, many)
    key = home(store, many[0])
    (whole,) = store.incident_folds(key)
    assert whole.count == 10
    done = do(store, Split(key, tuple(f.id for f in many[7:])))
    fresh = done.incidents[0]
    (part,), (rest,) = store.incident_folds(fresh), store.incident_folds(key)
    assert (part.count, part.first, part.last) == (3, T0 + 27, T0 + 29)
    assert (rest.count, rest.first, rest.last) == (7, T0 + 20, T0 + 26)
    assert rest.id == whole.id != part.id
    assert set(part.findings) == {f.id for f in many[7:]}
    assert not set(rest.findings) & set(part.findings)
    assert (get(store, key).count, get(store, fresh).count) == (7, 3)
    assert {home(store, f) for f in many[7:]} == {fresh}
    assert {home(store, f) for f in many[:7]} == {key}
    # No fold spans incidents, and each finding's fold is its incident's.
    rows = store._db.execute(
        "SELECT DISTINCT findings.incident, folds.incident FROM findings JOIN folds"
        " ON findings.fold = folds.id"
    ).fetchall()
    assert all(mine == its for mine, its in rows)
    assert len(rows) == 2
    # Merged again it is what it was.
    do(store, Merge((key, fresh)))
    assert get(store, key).count == 10
    again = do(store, Split(key, (many[9].id,)))
    assert again.incidents[0] != fresh
    assert get(store, key).count == 9


def test_what_an_earlier_version_stored_without_folds(three: Store) -> None:
    one, two = home(three, ONE), home(three, TWO)
    bare = {"folds": (), "parts": 0, "score": 0.0, "reasons": ()}
    for key in (one, two):
        body = msgspec.json.encode(msgspec.structs.replace(get(three, key), **bare))
        three._db.execute("UPDATE incidents SET body = ? WHERE id = ?", (body, key))
    three._db.execute("UPDATE findings SET fold = ''")
    three._db.execute("DELETE FROM folds")
    do(three, Merge((one, two)))
    whole = get(three, one)
    assert (whole.count, whole.level, whole.title) == (2, "critical", "T r2")
    fresh = do(three, Split(one, (TWO.id,))).incidents[0]
    assert (get(three, fresh).title, get(three, fresh).count) == ("T r2", 1)
    assert (get(three, one).title, get(three, one).level, get(three, one).count) == (
        "T r1", "high", 1,
    )  # fmt: skip
    assert [f.incident for f in three.incident_folds(fresh)] == [fresh]


@pytest.mark.parametrize(
    ("make_request", "said"),
    [
        (lambda one, two: Ack("ffffffff"), "no incident has an id"),
        (lambda one, two: Ack("xyz"), "no incident has an id"),
        (lambda one, two: Ack(""), "no incident has an id"),
        (lambda one, two: Ack("%"), "no incident has an id"),
        (lambda one, two: Ack(ONE.id), "is a finding, of incident"),
        (lambda one, two: Reopen(one), "is not closed"),
        (lambda one, two: Merge((one,)), "can't be merged with itself"),
        (lambda one, two: Merge((one, one)), "which is named already"),
        (lambda one, two: Merge((one, two, one[:12])), "which is named already"),
        (lambda one, two: Merge((one,), into=one), "can't be merged with itself"),
        (lambda one, two: Split(one, (ONE.id,)), "nothing would be left"),
        (lambda one, two: Split(one, (TWO.id,)), "is of incident"),
        (lambda one, two: Split(one, ("ffffffff",)), "no finding has an id"),
        (lambda one, two: Unsuppress(1), "there is no suppression 1"),
    ],
)
def test_what_can_not_be_is_refused_and_changes_nothing(
    three: Store, make_request: Any, said: str
) -> None:
    before = list(three._db.iterdump())
    with pytest.raises(Refused, match=said):
        do(three, make_request(home(three, ONE), home(three, TWO)))
    assert list(three._db.iterdump()) == before


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Close("ab", "benign", " "), "a note is needed"),
        (Note("ab", ""), "a note is needed"),
        (Note("ab", "ü" * NOTE_BYTES), "longer than"),
        (Assign("ab", " "), "name somebody"),
        (Assign("ab", "x" * 1000), "longer than"),
        (Merge(()), "name the incidents"),
        (Merge(("ab",) * 1001), "more than"),
        (Split("ab", ()), "name the findings"),
        (Suppress(Scope(host="web"), NOW + 9, "why"), "must name a rule or a detector"),
        (Suppress(Scope(rule="r1"), NOW, "why"), "in the past"),
        (Suppress(Scope(rule="r1"), float("inf"), "why"), "more than a year"),
        (Suppress(Scope(rule="r1"), NOW + 9, " "), "a reason is needed"),
    ],
)
def test_what_makes_no_sense_is_refused(three: Store, request_: Request, said: str) -> None:
    with (
        pytest.raises(UsageError, match=said),
        three.working(actor=ACTOR, now=NOW) as desk,
    ):
        perform(request_, desk, NOW)
    assert three.actions() == []


@pytest.mark.parametrize(
    "value",
    [None, [], {}, {"act": "rm"}, {"act": "ack"}, {"act": "ack", "id": 7},
     {"act": "close", "id": "a", "closing": "won", "note": "x"},
     {"act": "suppress", "scope": {"rule": "r"}, "until": "x", "because": "y"}],
)  # fmt: skip
def test_what_is_no_request(value: object) -> None:
    with pytest.raises(UsageError, match="no request"):
        read_request(value)


def test_closed_and_ambiguous(three: Store) -> None:
    one, two = home(three, ONE), home(three, TWO)
    do(three, Ack(one))
    with pytest.raises(Refused, match="acknowledged already"):
        do(three, Ack(one))
    do(three, Close(one, "test", "x"))
    with pytest.raises(Refused, match="closed already as test"):
        do(three, Close(one, "benign", "x"))
    for request in (Ack(one), Assign(one, "bob"), Merge((two, one)), Split(one, (ONE.id,))):
        with pytest.raises(Refused, match="is closed: reopen it first"):
            do(three, request)
    twin = two[:31] + ("0" if two[31] != "0" else "1")
    three._db.execute(
        "INSERT INTO incidents SELECT ?, number, level, first_seen, last_seen, NULL, body, score,"
        " kind FROM incidents WHERE id = ?",
        (twin, two),
    )
    with pytest.raises(Refused, match="fits several"):
        do(three, Ack(two[:20]))


def test_the_place_for_the_expected_is_not_closed_nor_merged(three: Store) -> None:
    one, two = home(three, ONE), home(three, TWO)
    body = msgspec.json.encode(msgspec.structs.replace(get(three, two), kind="routine"))
    three._db.execute("UPDATE incidents SET body = ? WHERE id = ?", (body, two))
    for request in (Close(two, "benign", "x"), Merge((one, two))):
        with pytest.raises(Refused, match="the place for what is expected"):
            do(three, request)


def test_a_failure_between_leaves_nothing(three: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = home(three, ONE), home(three, TWO)
    before = list(three._db.iterdump())

    def stop(step: str) -> None:
        if step == "store.commit.before":
            raise StoreError("power")

    monkeypatch.setattr(three, "_on_step", stop)
    with pytest.raises(StoreError, match="power"):
        do(three, Merge((one, two)))
    assert list(three._db.iterdump()) == before


def test_cases_of_incidents_that_went_go_too(tmp_path: Path) -> None:
    with_cap = Store(tmp_path / "s.db", durable=False, limits=StoreLimits(incidents=2))
    put(with_cap, [ONE])
    key = home(with_cap, ONE)
    do(with_cap, Ack(key))
    for finding in (TWO, THREE):
        put(with_cap, [finding])
    assert with_cap.incident(key) is None
    assert with_cap._db.execute("SELECT COUNT(*) FROM cases").fetchone() == (0,)
    assert [a.action for a in with_cap.actions(key)] == ["ack"]  # the log knows it for ever
    with_cap.close()


def test_a_case_follows_when_the_correlator_merges(three: Store) -> None:
    one, two = home(three, ONE), home(three, TWO)
    do(three, Ack(two))
    three._db.execute("UPDATE incidents SET merged_into = ? WHERE id = ?", (one, two))
    assert three.case(one).status == "acknowledged"
    assert three.case(one).incident == one


def test_no_sink_no_message(three: Store) -> None:
    with three.working(actor=ACTOR, now=NOW, sinks=False) as desk:
        perform(Ack(home(three, ONE)), desk, NOW)
    assert told(three) == []
    assert len(three.actions()) == 1


def test_who_sudo_says_it_is_stands_in_the_log_as_a_claim(three: Store) -> None:
    with three.working(actor="root (uid 0)", now=NOW, claimed="anna") as desk:
        done = perform(Ack(home(three, ONE)), desk, NOW)
    assert three.actions()[0].details == {"claimed": "anna"}
    assert three.actions()[0].actor == "root (uid 0)"
    assert describe_outcome(done)["entries"][0]["number"] == 1


def test_suppressions_are_kept_listed_and_ended(three: Store) -> None:
    scope = Scope(rule="r1", host="web")
    done = do(three, Suppress(scope, NOW + 60, "backup"))
    assert done.suppressed
    (row,) = three.suppressions()
    assert (row.number, row.scope, row.until, row.because, row.actor, row.created) == (
        1, scope, NOW + 60, "backup", ACTOR, NOW,
    )  # fmt: skip
    with pytest.raises(Refused, match="suppression 1 holds for this scope"):
        do(three, Suppress(scope, NOW + 90, "again"))
    do(three, Unsuppress(1))
    assert three.suppressions()[0].ended == NOW
    with pytest.raises(Refused, match="holds no longer"):
        do(three, Unsuppress(1))
    assert do(three, Suppress(scope, NOW + 90, "again")).suppression["number"] == 2  # type: ignore[index]
    assert [a.action for a in three.actions()] == ["suppress", "unsuppress", "suppress"]
    assert [a.subject for a in three.actions()][:2] == ["suppression 1", "suppression 1"]
    # Long after its end it is no longer listed.
    do(three, Suppress(Scope(rule="r2"), NOW + 500 * 86400, "x"), NOW + 499 * 86400)
    assert [row.number for row in three.suppressions()] == [3]


def test_syslog_tells_the_case_and_vouches_for_the_log(three: Store) -> None:
    key = home(three, ONE)
    do(three, Close(key, "benign", 'x"] [incident@32473 id="0" \x1b[31m\n<0>1 forged'))
    _, messages, _ = three.messages("out", 10)
    entry, update = (format_syslog(one, SyslogProfile("box")) for one in messages)
    (action,) = three.actions()
    assert f'AUDIT [audit@32473 id="{action.hash[:32]}" number="1" hash="{action.hash}"' in (
        entry.decode()
    )
    assert entry.endswith(f": number 1, {ACTOR}: close".encode())
    assert b' case="closed" ' in update
    assert b' closing="benign" ' in update
    for raw in (entry, update):
        assert not any(byte < 0x20 for byte in raw)
    assert update.replace(b'\\"', b"").count(b'@32473 id="') == 1
