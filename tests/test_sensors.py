"""A sensor's own alert is a detection, from its own records alone, through to a finding."""

import json
from datetime import UTC
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from appliance.correlate.incidents import CorrelationLimits, Correlator
from appliance.decode import decode
from appliance.detect.sensors import (
    ATTACKS,
    MAX_TITLE,
    SURICATA_ALERT,
    TACTICS,
    ZEEK_NOTICE,
    SensorDetector,
)
from appliance.judge.bench import TagsOnly
from appliance.normalise import FED, normalise
from appliance.pipeline import Line, Reader, describe_foreign_rule, process
from appliance.schema import (
    Cursor,
    Detection,
    LogSource,
    RawRecord,
    RuleInfo,
    Sighting,
    SourceBatch,
    Verdict,
    View,
)
from tests.builders import make_verdict

ALERT: dict[str, Any] = {
    "timestamp": "2023-11-14T22:13:20+0000", "flow_id": 7, "event_type": "alert",
    "src_ip": "203.0.113.4", "src_port": 4444, "dest_ip": "192.0.2.7", "dest_port": 445,
    "proto": "TCP", "host": "tap-01",
    "alert": {
        "action": "blocked", "gid": 1, "signature_id": 2024897, "rev": 3,
        "signature": "ET EXPLOIT ETERNALBLUE", "category": "Attempted Admin", "severity": 1,
        "metadata": {
            "mitre_technique_id": ["T1210", "T1210", "t1059_001", "<b>", 7],
            "mitre_tactic_name": ["Lateral_Movement", "Made Up"],
        },
    },
}  # fmt: skip
NOTICE: dict[str, Any] = {
    "ts": 1_700_000_000.0, "_path": "notice", "note": "SSH::Password_Guessing",
    "msg": "203.0.113.4 appears to be guessing SSH passwords", "src": "203.0.113.4",
    "actions": ["Notice::ACTION_LOG"],
}  # fmt: skip


def make_record(fields: dict[str, Any], number: int = 0) -> RawRecord:
    data = json.dumps(fields).encode()
    cursor = Cursor("sensor", "eve", number, number + 1)
    return RawRecord(data, "sensor", "/var/log/eve.json", "eve", cursor, 1_790_000_000.0)


def read(fields: dict[str, Any]) -> Sighting:
    record = make_record(fields)
    return normalise(record, decode(record), zone=UTC)


def detect(fields: dict[str, Any]) -> list[Detection]:
    return SensorDetector().detect(read(fields))


def with_alert(**parts: Any) -> dict[str, Any]:
    return {**ALERT, "alert": {**ALERT["alert"], **parts}}


def test_a_suricata_alert() -> None:
    (found,) = detect(ALERT)
    assert (found.detector, found.rule_id) == ("suricata", "suricata:1:2024897")
    assert (found.title, found.level, found.score) == ("ET EXPLOIT ETERNALBLUE", "high", 1.0)
    assert found.techniques == ("T1210", "T1059.001")
    assert found.tactics == ("lateral-movement",)
    assert found.logsource == SURICATA_ALERT
    matched = {match.field: match.value for match in found.matched}
    assert matched["alert.signature"] == "ET EXPLOIT ETERNALBLUE"
    assert matched["alert.action"] == "blocked"
    assert (matched["src_ip"], matched["dest_port"]) == ("203.0.113.4", "445")
    assert found.event.host == "tap-01"


@pytest.mark.parametrize(
    ("severity", "level"),
    [
        (1, "high"), (2, "medium"), (3, "low"), (4, "informational"), (255, "informational"),
        (0, "low"), (-1, "low"), (256, "low"), (None, "low"), ("1", "low"), (True, "low"),
        (1.0, "low"), ([1], "low"),
    ],
)  # fmt: skip
def test_levels(severity: Any, level: str) -> None:
    (found,) = detect(with_alert(severity=severity))
    assert found.level == level


@pytest.mark.parametrize("sid", [None, "2024897", -1, 2**32, 1.5, True, [1], {}])
def test_an_alert_without_a_signatures_number_is_none(sid: Any) -> None:
    assert detect(with_alert(signature_id=sid)) == []


@pytest.mark.parametrize("signature", [None, "", "   ", 7, ["x"]])
def test_a_signature_without_a_name_has_its_number(signature: Any) -> None:
    (found,) = detect(with_alert(signature=signature))
    assert found.title == "Suricata signature 1:2024897"


def test_long_and_many_values_are_capped() -> None:
    (found,) = detect(
        with_alert(
            signature="x" * 100_000,
            category="y" * 100_000,
            metadata={"mitre_technique_id": [f"T{n:04}" for n in range(5000)]},
        )
    )
    assert len(found.title) == MAX_TITLE
    assert max(len(match.value) for match in found.matched) <= 512
    assert len(found.techniques) == 16


@pytest.mark.parametrize(
    ("note", "level"),
    [
        ("SSH::Password_Guessing", "medium"),
        ("Scan::Port_Scan", "medium"),
        ("Scan::Address_Scan", "medium"),
        ("Heartbleed::SSL_Heartbeat_Attack_Success", "medium"),
        ("Intel::Notice", "medium"),
        ("ATTACK::Lateral_Movement", "medium"),
        ("SSL::Invalid_Server_Cert", "low"),
        ("CaptureLoss::Too_Much_Loss", "low"),
        ("MyScan::Something", "low"),
    ],
)
def test_a_zeek_notice(note: str, level: str) -> None:
    (found,) = detect({**NOTICE, "note": note})
    assert (found.detector, found.rule_id, found.level) == ("zeek", f"zeek:{note}", level)
    assert found.title == f"Zeek notice {note}"  # not the message: a rule's name, one for all
    matched = {match.field: match.value for match in found.matched}
    assert matched["msg"] == NOTICE["msg"]
    assert matched["actions"] == "Notice::ACTION_LOG"


@pytest.mark.parametrize(
    "note", [None, "", 7, "free text", "A::B\n", "A::" + "b" * 64, "Scan::é", "::x", ["Scan::X"]]
)
def test_a_note_that_zeek_does_not_write_is_none(note: Any) -> None:
    assert detect({**NOTICE, "note": note}) == []


def test_the_table_of_attacks_holds_what_attack_knows() -> None:
    prefixes = [row[0] for row in ATTACKS]
    assert len(set(prefixes)) == len(prefixes)
    for number, prefix in enumerate(prefixes):  # a longer one behind its beginning never counts
        assert not any(prefix.startswith(earlier) for earlier in prefixes[:number])
    assert {tactic for row in ATTACKS for tactic in row[2]} <= TACTICS


@pytest.mark.parametrize(
    "logsource",
    [
        source
        for source in (*FED, LogSource(service="alert"), LogSource(service="notice"))
        if source not in (SURICATA_ALERT, ZEEK_NOTICE)
    ],
    ids=str,
)
def test_no_other_products_view_raises_one(logsource: LogSource) -> None:
    fields = {**read(ALERT).views[0].fields, **read(NOTICE).views[0].fields}
    forged = replace(read(ALERT), views=(View(logsource, fields),))
    assert SensorDetector().detect(forged) == []


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"EventID": 1, "Channel": "Security", **ALERT}),
        json.dumps({"Event": {"System": {"EventID": 1}}, **ALERT}),
        "<86>1 2023-11-14T22:00:00Z web sshd 1 - - " + json.dumps(ALERT),
        "<86>1 2023-11-14T22:00:00Z web sudo 1 - - " + json.dumps(NOTICE),
        json.dumps({"message": json.dumps(ALERT), "ts": 1, "host": "x"}),
        "GET /?x=" + json.dumps(ALERT),
    ],
)
def test_other_products_records_raise_none(text: str) -> None:
    cursor = Cursor("s", "k", 0, 1)
    record = RawRecord(text.encode(), "s", "/var/log/x", "x", cursor, 1_790_000_000.0)
    event = normalise(record, decode(record), zone=UTC)
    assert SensorDetector().detect(event) == []


@given(st.dictionaries(
    st.sampled_from([*(f"alert.{n}" for n in ALERT["alert"]), "note", "msg", "src_ip", "actions",
                     "alert.metadata.mitre_technique_id", "alert.metadata.mitre_tactic_name"]),
    st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
                 lambda inner: st.lists(inner, max_size=3)),
))  # fmt: skip
def test_no_fields_raise_anything(fields: dict[str, Any]) -> None:
    for source in (SURICATA_ALERT, ZEEK_NOTICE):
        view = View(source, {"alert.signature_id": 1, "note": "A::B", **fields})
        hostile = replace(read(ALERT), views=(view,))
        for found in SensorDetector().detect(hostile):
            assert len(found.title) <= MAX_TITLE


# Through the line -------------------------------------------------------------------------------


class Expert:
    """Says what it was asked about."""

    def __init__(self) -> None:
        self.asked: list[RuleInfo] = []

    def judge_rule(self, rule: RuleInfo) -> Verdict:
        raise AssertionError("the line does not wait for the full answer")

    def judge_rule_by_tags(self, rule: RuleInfo, why: str) -> Verdict:
        self.asked.append(rule)
        return make_verdict(why)


def test_an_alert_becomes_a_finding_of_a_rule_that_is_not_loaded() -> None:
    expert = Expert()
    line = Line(
        rules={},
        judge=TagsOnly(expert, "no model"),
        correlator=Correlator(CorrelationLimits()),
        known=lambda ids: set(),
    )
    reader = Reader(detectors={"sensors": SensorDetector()}, zones={"sensor": UTC})
    records = [make_record(ALERT, 0), make_record(ALERT, 1), make_record(NOTICE, 2)]
    batch = process([SourceBatch(records, [], [])], reader, line)
    assert batch.rejected == []
    assert [(row.detector, row.rule_id) for row in batch.findings] == [
        ("suricata", "suricata:1:2024897"),
        ("suricata", "suricata:1:2024897"),
        ("zeek", "zeek:SSH::Password_Guessing"),
    ]
    assert len({row.body["incident"] for row in batch.findings}) == 1  # the same attacker
    assert {rule.hash for rule in expert.asked} == {
        describe_foreign_rule(detect(fields)[0]).hash for fields in (ALERT, NOTICE)
    }
    assert expert.asked[0].title == "ET EXPLOIT ETERNALBLUE"


def test_a_foreign_rules_hash_is_that_of_its_name() -> None:
    (one,) = detect(ALERT)
    (same,) = detect({**ALERT, "src_ip": "203.0.113.99"})
    (renamed,) = detect(with_alert(signature="ET EXPLOIT another"))
    rule = describe_foreign_rule(one)
    assert rule.hash == describe_foreign_rule(same).hash != describe_foreign_rule(renamed).hash
    assert (rule.id, rule.level, rule.techniques) == (one.rule_id, "high", one.techniques)
