"""The line as functions: what goes in is found, stored or rejected, counted, and repeatable."""

import copy
import json
from collections.abc import Iterator, Sequence
from datetime import UTC
from pathlib import Path
from typing import Any

import msgspec
import pytest

import appliance.pipeline
from appliance.correlate.incidents import CorrelationLimits, Correlator, Stored
from appliance.judge.bench import Answer
from appliance.normalise import normalise
from appliance.pipeline import UPDATE_FINDINGS, Detector, Line, Reader, apply_answers, process
from appliance.schema import (
    Checkpoint,
    Decoded,
    Detection,
    RawRecord,
    Rejected,
    RuleInfo,
    Sighting,
    SourceBatch,
    Verdict,
)
from appliance.store import Batch, Store
from tests.builders import T0, make_batch, make_detection, make_record, make_rule, make_verdict


class FieldDetector:
    """Fires the rules that the record's field `fire` names, in that order, repeats included."""

    def __init__(self) -> None:
        self.looked_at = 0

    def detect(self, event: Sighting) -> list[Detection]:
        self.looked_at += 1
        fields = event.views[0].fields
        return [
            make_detection(event.event, rule=rule) for rule in str(fields.get("fire", "")).split()
        ]


class FirstWord:
    """A judge that says the same of every rule; `pending` are the rules that get more later."""

    def __init__(self, *pending: str) -> None:
        self.pending = pending

    def first_verdict(self, rule: RuleInfo) -> tuple[Verdict, bool]:
        return make_verdict(f"first {rule.id}"), rule.id in self.pending


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "store.db", durable=False)
    yield store
    store.close()


def make_reader(detector: Detector | None = None) -> Reader:
    return Reader(
        detectors={"sigma": detector or FieldDetector()},
        zones={"logs": UTC, "other": UTC},
        timer=lambda: 0.0,
    )


def make_line(store: Store, *pending: str, sinks: bool = True) -> Line:
    return Line(
        rules={name: make_rule(name) for name in ("r1", "r2", "r3")},
        judge=FirstWord(*pending),
        correlator=Correlator(
            CorrelationLimits(),
            Stored(
                links=store.links(),
                usuals=store.usuals(),
                aliases=store.aliases(),
                load=store.incident,
                load_fold=store.fold,
                next_number=store.next_incident_number(),
            ),
        ),
        known=store.known_findings,
        sinks=sinks,
        timer=lambda: 0.0,
    )


def put(store: Store, line: Line, *batches: SourceBatch) -> Batch:
    """Through the line and into the store, as the daemon does."""
    batch = process(batches, make_reader(), line)
    store.write_batch(batch)
    line.commit()
    return batch


def records(*texts: str, source: str = "logs", first: int = 0) -> list[RawRecord]:
    return [
        make_record(first + n, text.encode("utf-8", "surrogateescape"), source=source)
        for n, text in enumerate(texts)
    ]


def source_batch(*texts: str, source: str = "logs", first: int = 0) -> SourceBatch:
    return SourceBatch(records(*texts, source=source, first=first), [], [])


SYSMON = (
    '{"EventID": 1, "Channel": "Microsoft-Windows-Sysmon/Operational", "Computer": "web",'
    ' "UtcTime": "2023-11-14 22:00:00.000", "Image": "C:\\\\a.exe", "fire": "%s"}'
)


# -- counts ----------------------------------------------------------------------------------------


def test_seen_is_decoded_and_rejected_and_every_record_is_somewhere(store: Store) -> None:
    line = make_line(store)
    refused = Rejected(make_record(90, b"\x00" * 5), "source", "cannot be framed")
    batches = [
        SourceBatch(records(SYSMON % "r1", "no json", "[1, 2", '{"a": 1}'), [refused], []),
        source_batch("{}", "{", source="other"),
    ]
    batch = put(store, line, *batches)
    counts = store.counts()
    for source, seen in (("logs", 5), ("other", 2)):
        row = counts[f"source:{source}"]
        assert row["seen"] == seen == row["decoded"] + row["rejected"]
        assert row["evaluated"] == row["decoded"]
    assert counts["source:logs"]["rejected"] == 3
    assert counts["source:logs"]["findings"] == counts["detector:sigma"]["fired"] == 1
    assert counts["level:high"]["findings"] == 1
    assert [r.stage for r in batch.rejected] == ["source", "decode", "decode", "decode"]
    stored = {row["data"] for row in store.rejected_rows(10)}
    assert stored == {b"\x00" * 5, b"no json", b"[1, 2", b"{"}
    assert all(row["reason"] for row in store.rejected_rows(10))


def test_unmapped_and_repaired_are_counted(store: Store) -> None:
    line = make_line(store)
    put(store, line, source_batch(SYSMON % "", '{"what": "ever"}', '{"a": "\udcff\udcfe"}'))
    row = store.counts()["source:logs"]
    assert (row["decoded"], row["unmapped"], row["repaired"]) == (3, 2, 1)


def test_latest_times_and_a_time_that_is_not_known(store: Store) -> None:
    line = make_line(store)
    put(store, line, source_batch('{"a": 1}'))
    assert store.counts()["source:logs"]["last_received"] == T0
    assert "last_event" not in store.counts()["source:logs"]
    put(store, line, source_batch(SYSMON % "", first=10))
    assert store.counts()["source:logs"]["last_event"] == 1_699_999_200.0


def test_a_normalisers_fault_rejects_that_record_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(record: RawRecord, decoded: Decoded, **options: Any) -> Sighting:
        if "poison" in decoded.fields:
            raise KeyError("oops")
        return normalise(record, decoded, **options)

    monkeypatch.setattr(appliance.pipeline, "normalise", faulty)
    batch = put(
        store, make_line(store), source_batch(SYSMON % "r1", '{"poison": 1}', SYSMON % "r2")
    )
    (rejected,) = batch.rejected
    assert rejected.stage == "normalise"
    assert "KeyError" in rejected.reason
    assert rejected.record.data == b'{"poison": 1}'
    assert len(store.finding_bodies()) == 2
    row = store.counts()["source:logs"]
    assert (row["seen"], row["decoded"], row["rejected"], row["evaluated"]) == (3, 2, 1, 2)


def test_nothing_in_nothing_out(store: Store) -> None:
    batch = process([], make_reader(), make_line(store))
    assert batch == make_batch()


def test_checkpoints_of_all_sources_are_in_the_batch(store: Store) -> None:
    marks = [Checkpoint("logs", "k", b"1"), Checkpoint("other", "k", b"2")]
    batch = process(
        [SourceBatch([], [], [mark]) for mark in marks], make_reader(), make_line(store)
    )
    assert batch.checkpoints == marks


# -- findings --------------------------------------------------------------------------------------


def test_the_same_rule_twice_on_one_event_is_one_finding(store: Store) -> None:
    batch = put(store, make_line(store), source_batch(SYSMON % "r1 r1 r2 r1"))
    assert [row.rule_id for row in batch.findings] == ["r1", "r2"]
    assert store.counts()["detector:sigma"]["fired"] == 2
    assert [m.kind for m in batch.messages] == ["finding", "finding", "incident"]
    assert store.incidents()[0].count == 2


def test_the_same_record_twice_in_one_batch_is_one_finding(store: Store) -> None:
    again = source_batch(SYSMON % "r1")
    batch = put(store, make_line(store), again, again)
    assert len(batch.findings) == 1
    assert store.counts()["source:logs"]["seen"] == 2


def test_what_is_stored_already_is_not_found_again(store: Store) -> None:
    put(store, make_line(store), source_batch(SYSMON % "r1"))
    store.open_sinks(["out"])
    line = make_line(store)  # after a restart
    batch = put(store, line, source_batch(SYSMON % "r1"), source_batch(SYSMON % "r1", first=5))
    assert len(batch.findings) == 1
    assert len(store.finding_bodies()) == 2
    assert store.counts()["detector:sigma"]["fired"] == 2
    (incident,) = store.incidents()
    assert incident.count == 2
    assert [m.kind for m in store.messages("out", 10)[1]] == ["finding"]


def test_finding_incident_and_message_agree(store: Store) -> None:
    store.open_sinks(["out"])
    put(store, make_line(store, "r1"), source_batch(SYSMON % "r1"))
    (body,) = store.finding_bodies()
    (incident,) = store.incidents()
    assert body["incident"] == incident.id
    assert body["verdicts"][0]["reason"] == "first r1"
    found, told = store.messages("out", 10)[1]
    assert found.body == {"kind": "finding", **body}
    assert (told.kind, told.id, told.body["findings"]) == ("incident", incident.id, [body["id"]])
    assert store.pending_rules() == ["r1"]


def test_incident_merged_within_the_batch_is_not_told_of(store: Store) -> None:
    one, two, both = (
        json.dumps({**json.loads(SYSMON % "r1"), "Computer": host, "User": user})
        for host, user in (("a", "-"), ("b", "corp\\eve"), ("a", "corp\\eve"))
    )
    batch = put(store, make_line(store), source_batch(one, two, both))
    (incident,) = store.incidents()
    assert (incident.count, len(incident.aliases)) == (3, 1)
    assert [m.id for m in batch.messages if m.kind == "incident"] == [incident.id]
    assert {row["incident"] for row in store.iterate_findings()} == {incident.id}
    assert {m.body["incident"] for m in batch.messages if m.kind == "finding"} == {incident.id}


def test_without_sinks_there_are_no_messages(store: Store) -> None:
    batch = put(store, make_line(store, sinks=False), source_batch(SYSMON % "r1"))
    assert batch.messages == []
    assert len(batch.findings) == 1


def test_identical_input_gives_identical_output(tmp_path: Path) -> None:
    texts = [SYSMON % "r1 r2", "junk", SYSMON % "r2", '{"host": "x", "fire": "r3"}']
    outputs = []
    for name in ("a.db", "b.db"):
        store = Store(tmp_path / name)
        line = make_line(store, "r2")
        batches = [source_batch(*texts), source_batch(*texts, source="other")]
        given = copy.deepcopy(batches)
        outputs.append(process(batches, make_reader(), line))
        assert batches == given
        line.rollback()
        outputs.append(process(batches, make_reader(), line))
        store.close()
    encoded = {msgspec.json.encode(plain(batch)) for batch in outputs}
    assert len(encoded) == 1
    assert len(outputs[0].findings) == 8


def plain(batch: Batch) -> dict[str, Any]:
    """The batch with text keys, in its own order."""
    parts = msgspec.structs.asdict(batch)
    for name in ("counts", "latest"):
        parts[name] = [(*key, value) for key, value in parts[name].items()]
    parts["correlation"] = msgspec.structs.asdict(batch.correlation)
    parts["correlation"]["notable"] = sorted(batch.correlation.notable)
    return parts


HOSTILE = [
    '{"host": "a\\ud800b", "User": "u\\u0000\\n\\u001b[2J", "fire": "r1"}',
    '{"host": "\udcff\udcfe", "fire": "r1", "EventID": 99999999999999999999999999}',
    '{"@timestamp": "inf", "fire": "r1", "host": "nan"}',
    '{"@timestamp": -1e308, "fire": "r1"}',
    '{"@timestamp": 1e308, "fire": "r1", "src_ip": "10.0.0.1\\u2028"}',
    '{"fire": "r1", "User": "%s"}' % ("x" * 100_000),
    '{"a":' * 500 + "1" + "}" * 500,
    '{"fire": "r1", "Hashes": "MD5=%s", "Image": "\\\\\\\\?\\\\C:\\\\\\ud83d"}' % ("f" * 32),
]


def test_hostile_text_is_stored_or_rejected_and_can_be_read_back(store: Store) -> None:
    store.open_sinks(["out"])
    put(store, make_line(store), source_batch(*HOSTILE))
    row = store.counts()["source:logs"]
    assert row["seen"] == len(HOSTILE) == row["decoded"] + row["rejected"]
    assert len(store.finding_bodies()) == row["findings"] > 4
    assert sum(i.count for i in store.incidents()) == row["findings"]
    assert len(store.messages("out", 100)[1]) >= row["findings"]
    restarted = make_line(store)
    put(store, restarted, source_batch(*HOSTILE, first=100))
    assert len(store.finding_bodies()) == 2 * row["findings"]


# -- the experts' later word -----------------------------------------------------------------------


def answer(name: str = "r1") -> Answer:
    return Answer(make_rule(name), make_verdict(f"later {name}"))


def reasons(store: Store) -> list[tuple[str, Sequence[str]]]:
    return [
        (row["rule_id"], [verdict["reason"] for verdict in row["verdicts"]])
        for row in store.iterate_findings()
    ]


def test_answers_reach_the_findings_that_wait_and_the_sinks(store: Store) -> None:
    store.open_sinks(["out"])
    put(store, make_line(store, "r1", "r2"), source_batch(SYSMON % "r1 r2 r3", SYSMON % "r1"))
    before = len(store.messages("out", 100)[1])
    assert apply_answers([answer(), answer("r3")], "base", store, T0 + 9, sinks=True) == 2
    assert reasons(store) == [
        ("r1", ["later r1"]),
        ("r2", ["first r2"]),
        ("r3", ["first r3"]),  # it had its verdict: nothing waited
        ("r1", ["later r1"]),
    ]
    assert store.pending_rules() == ["r2"]
    updates = store.messages("out", 100)[1][before:]
    assert [(m.kind, m.time) for m in updates] == [("update", T0 + 9)] * 2
    bodies = {body["id"]: body for body in store.finding_bodies()}
    for message in updates:
        assert message.body == {"kind": "update", **bodies[message.id]}
    assert msgspec.json.decode(store.verdicts("base")[make_rule("r1").hash])["reason"] == "later r1"
    assert apply_answers([answer()], "base", store, T0, sinks=True) == 0


def test_answers_write_no_updates_without_sinks(store: Store) -> None:
    put(store, make_line(store, "r1", sinks=False), source_batch(SYSMON % "r1"))
    assert apply_answers([answer()], None, store, T0, sinks=False) == 1
    assert reasons(store) == [("r1", ["later r1"])]
    assert store.sizes()["outbox"] == 0
    assert store.verdicts("base") == {}


def test_more_waiting_findings_than_one_turn_takes(store: Store) -> None:
    store.open_sinks(["out"])
    total = UPDATE_FINDINGS + 3
    texts = [SYSMON % "r1"] * total
    batch = put(store, make_line(store, "r1"), source_batch(*texts))
    assert apply_answers([answer()], "base", store, T0, sinks=True) == total
    assert store.pending_rules() == []
    assert store.sinks()[0]["waiting"] == len(batch.messages) + total


def test_answers_to_nobody(store: Store) -> None:
    assert apply_answers([], "base", store, T0, sinks=True) == 0
    assert apply_answers([answer()], "base", store, T0, sinks=True) == 0
