"""The demonstration's scenario, offline: what must be found is found, and nothing else is."""

from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest

from appliance.decode import decode
from appliance.detect.sensors import SensorDetector
from appliance.detect.sigma.engine import SigmaDetector
from appliance.detect.sigma.load import load_rules
from appliance.normalise import feeds
from appliance.schema import Cursor, Detection, RawRecord
from tests.demo.plant import ORDINARY, SYSLOG_FILES, ZEEK_FILES
from tests.demo.player import FILES, play
from tests.demo.receiver import Received
from tests.demo.run import (
    LEAST_BEATS,
    MACHINES,
    compare_incidents,
    compare_with_truth,
    judge_health,
    list_expected,
    read_step,
)
from tests.demo.scenario import LENGTH_S, SILENCE, Step, begin_files, build_scenario
from tests.demo.sensors import encode_audit_text, write_audit, write_zeek

RULES: Final = Path(__file__).resolve().parent.parent / "rules"
START: Final = 1_795_000_000.0


@cache
def load_detector() -> SigmaDetector:
    """Our rules, loaded once."""
    return SigmaDetector(load_rules([RULES], feeds=feeds))


def detect_steps(steps: list[Step]) -> list[tuple[Step, list[Detection]]]:
    """Each step with what our rules and the sensors' own say of it."""
    events = [(step, read_step(step, number, START)) for number, step in enumerate(steps)]
    detectors = (load_detector(), SensorDetector())
    silent = load_rules([RULES], feeds=feeds).silent  # only correlations ask for these
    return [
        (
            step,
            [
                found
                for detector in detectors
                for found in detector.detect(event)
                if found.rule_id not in silent
            ],
        )
        for step, event in events
    ]


def test_every_step_of_the_attack_is_found() -> None:
    found = detect_steps(build_scenario(START))
    wrong = [
        (step.truth, [d.title for d in detections], step.note)
        for step, detections in found
        if step.truth is not None and [d.title for d in detections] != [step.truth]
    ]
    assert not wrong
    assert sum(step.truth is not None for step, _ in found) >= 30


def test_nothing_ordinary_is_found() -> None:
    found = detect_steps(build_scenario(START))
    ordinary = [(step, detections) for step, detections in found if step.truth is None]
    assert 550 <= len(ordinary) <= 700
    assert sum(step.note == ORDINARY for step, _ in ordinary) >= 550
    wrong = [(d.title, step.line) for step, detections in ordinary for d in detections]
    assert not wrong
    assert not load_detector().errors


def test_every_line_is_read_and_its_time_known() -> None:
    for number, step in enumerate(build_scenario(START)):
        event = read_step(step, number, START)
        assert event.mapped
        assert event.time_known
        # Zeek's own form names no sensor.
        named = {"nh-ids01"} if step.file == "eve.json" else MACHINES
        assert event.host in ({""} if step.file in ZEEK_FILES.values() else named)
        # RFC 3164 tells whole seconds.
        exact = 1.0 if step.file in SYSLOG_FILES else 0.002
        assert abs(event.time - (START + step.offset_s)) < exact


def test_findings_hang_together_by_shared_things() -> None:
    """From the first finding every other one is reached by shared hosts, users and addresses."""
    events = [
        detections[0].event for _, detections in detect_steps(build_scenario(START)) if detections
    ]
    # Every Linux host has a root, so sharing it joins nothing.
    groups = [
        {e for e in event.entities if e.kind in {"host", "user", "address"} and e.value != "root"}
        for event in events
    ]
    reached, rest = set(groups[0]), groups[1:]
    while joined := [group for group in rest if group & reached]:
        reached = reached.union(*joined)
        rest = [group for group in rest if group not in joined]
    assert not rest
    assert {e.value for e in reached} >= MACHINES


def test_scenario_is_the_same_for_the_same_start() -> None:
    assert build_scenario(START) == build_scenario(START)
    assert build_scenario(START) != build_scenario(START + 60.0)


def test_scenario_is_short_ordered_and_in_all_files() -> None:
    steps = build_scenario(START)
    offsets = [step.offset_s for step in steps]
    assert offsets == sorted(offsets)
    assert offsets[0] >= 0.0
    assert 22.0 <= offsets[-1] <= LENGTH_S <= 30.0
    files = Counter(step.file for step in steps)
    assert set(files) == set(FILES)
    assert min(files.values()) >= 10
    assert all("\n" not in step.line for step in steps if step.file != "audit.log")
    # A connection alone is no attack: what was done in it is told by the other logs.
    for name in set(FILES) - {"conn.log"}:
        assert any(step.truth and step.file == name for step in steps)


def test_the_sensor_speaks_steadily_and_then_never_again() -> None:
    steps = [s for s in build_scenario(START) if s.file in ZEEK_FILES.values()]
    offsets = [step.offset_s for step in steps]
    assert max(offsets) <= SILENCE.from_s
    gaps = [after - before for before, after in pairwise([0.0, *offsets, SILENCE.from_s])]
    # Neither may it seem silent before it is, nor be found silent before the other steps are told.
    assert max(gaps) * 4 < SILENCE.expect_every_s
    last = max(step.offset_s for step in build_scenario(START) if step.truth)
    assert last < SILENCE.from_s + SILENCE.expect_every_s < LENGTH_S + 5.0


def test_audit_events_are_lines_of_one_event_each() -> None:
    steps = [step for step in build_scenario(START) if step.file == "audit.log"]
    serials = []
    for step in steps:
        ids = {line.split(" msg=")[1].split(": ")[0] for line in step.line.split("\n")}
        assert len(ids) == 1
        assert all(line.startswith("node=nh-web01 type=") for line in step.line.split("\n"))
        serials.append(int(ids.pop().rpartition(":")[2].rstrip(")")))
    assert serials == list(range(serials[0], serials[0] + len(steps)))


def test_values_forge_no_column_record_or_line() -> None:
    hostile = "x\ttype=USER_LOGIN\nres=success\" '"
    assert encode_audit_text(hostile) == hostile.encode().hex().upper()
    written = write_audit(START, 7, "web", [("PATH", f"name={encode_audit_text(hostile)}")])
    assert "\n" not in written
    data = written.encode()
    cursor = Cursor("demo", "audit.log", 0, 1)
    record = RawRecord(data, "demo", "audit.log", "audit.log", cursor, START)
    assert decode(record).fields["records"] == [{"type": "PATH", "name": hostile}]
    assert write_zeek("dns", {"query": "a\tb"}).count("\t") == write_zeek("dns", {}).count("\t")
    with pytest.raises(KeyError):
        write_zeek("dns", {"querry": "a"})


@pytest.mark.parametrize("name", sorted(SYSLOG_FILES))
def test_syslog_is_in_local_time(name: str) -> None:
    zone = timezone(timedelta(hours=2))
    steps = build_scenario(START, zone)
    first = next(step for step in steps if step.file == name)
    moment = datetime.fromtimestamp(START + first.offset_s, zone)
    assert f"{moment:%b} {moment.day:2d} {moment:%H:%M:%S} nh-" in first.line[:20]


def test_play_writes_every_line_once_and_rotates(tmp_path: Path) -> None:
    steps = build_scenario(START)
    now = [100.0]
    told: list[Step] = []

    def sleep(seconds: float) -> None:
        now[0] += seconds

    begin = begin_files(START)
    play(steps, tmp_path, begin=begin, sleep=sleep, clock=lambda: now[0], on_line=told.append)
    assert told == steps
    assert abs(now[0] - 100.0 - steps[-1].offset_s) < 0.001
    rotated = (tmp_path / "sysmon.jsonl.1").read_text("utf-8").splitlines()
    assert rotated
    for name in FILES:
        # Not splitlines: what stands behind 0x1d is part of an audit record.
        text = (tmp_path / name).read_text("utf-8")
        assert text.endswith("\n")
        assert text.startswith(begin.get(name, ""))
        lines = text.removeprefix(begin.get(name, ""))[:-1].split("\n")
        if name == "sysmon.jsonl":
            lines = rotated + lines
        written = [step.line.split("\n") for step in steps if step.file == name]
        assert lines == [line for several in written for line in several]


STEPS: Final = build_scenario(START)
TRUTH: Final = [step.truth for step in STEPS if step.truth is not None]


def tell_incident(key: str = "i1", **changes: str) -> Received:
    """The last word on the scenario's incident, as a collector gets it."""
    params = {"id": key, "level": "critical", "hosts": ",".join(MACHINES)}
    return Received(0.0, "INCIDENT", {**params, **changes})


def tell_silence(**changes: str) -> Received:
    """The last word on the silent sensor's incident, which is on no host."""
    return Received(0.0, "INCIDENT", {"id": "s1", "level": "high", **changes})


def list_incident(**changes: Any) -> dict[str, Any]:
    """The scenario's incident, as `appliance incidents --json` gives it."""
    ids = [f"f{number}" for number in range(len(TRUTH))]
    return {"level": "critical", "hosts": sorted(MACHINES), "findings": ids, **changes}


def list_silence(**changes: Any) -> dict[str, Any]:
    """The silent sensor's incident in the same list."""
    return {"level": "high", "hosts": [], "findings": ["silent"], **changes}


SILENT: Final = Received(0.0, "FINDING", {"id": "silent", "title": SILENCE.truth, "incident": "s1"})
FOUND: Final = [
    *(
        Received(0.0, "FINDING", {"id": f"f{number}", "title": title, "incident": "i1"})
        for number, title in enumerate(TRUTH)
    ),
    SILENT,
]


def test_the_one_incident_of_the_scenario_is_right() -> None:
    growing = tell_incident(level="high", findings="3", hosts="nh-ews02")
    joined = tell_incident("i0", findings="2", hosts="nh-fs01")
    early = replace(FOUND[0], params={**FOUND[0].params, "incident": "i0"})
    told = [early, *FOUND[1:], growing, joined, tell_silence(), tell_incident(aliases="i0,i9")]
    assert compare_with_truth(STEPS, told) == ([], [])
    assert compare_incidents(STEPS, told) == []
    assert compare_incidents(STEPS, told, [list_incident(), list_silence()]) == []
    assert list_expected(STEPS).total() == len(TRUTH) + 1


@pytest.mark.parametrize(
    ("told", "listed", "reason"),
    [
        ([], [list_incident()], "by syslog: 0 incidents of the intrusion"),
        (
            [tell_incident("i1"), tell_incident("i2")],
            [list_incident()],
            "by syslog: 2 incidents of the intrusion",
        ),
        ([tell_incident(level="high")], [list_incident()], "high and not critical"),
        ([tell_incident(hosts="nh-ews02,nh-fs01")], [list_incident()], "by syslog: it is on"),
        ([tell_incident(), tell_incident(level="low")], [list_incident()], "low and not critical"),
        ([tell_incident()], [], "incidents`: 0 incidents"),
        ([tell_incident()], [list_incident(), list_incident()], "incidents`: 2 incidents"),
        ([tell_incident()], [list_incident(level="medium")], "incidents`: the incident is medium"),
        ([tell_incident()], [list_incident(hosts=["nh-fs01"])], "incidents`: it is on"),
        (
            [tell_incident()],
            [list_incident(findings=[f"g{number}" for number in range(len(TRUTH))])],
            "others than those that came by syslog",
        ),
    ],
)
def test_a_wrong_incident_is_told(
    told: list[Received], listed: list[dict[str, Any]], reason: str
) -> None:
    messages = [*FOUND, tell_silence(), *told]
    (wrong,) = compare_incidents(STEPS, messages, [*listed, list_silence()])
    assert reason in wrong


def test_findings_outside_the_incident_are_told() -> None:
    stray = replace(FOUND[0], params={**FOUND[0].params, "incident": "i7"})
    wrong = compare_incidents(STEPS, [stray, *FOUND[1:], tell_silence(), tell_incident()])
    assert wrong == [f"by syslog: it holds {len(TRUTH) - 1} findings of {len(TRUTH)}"]
    short = list_incident(findings=["f0"])
    wrong = compare_incidents(
        STEPS, [*FOUND, tell_silence(), tell_incident()], [short, list_silence()]
    )
    assert wrong[0] == f"by `appliance incidents`: it holds 1 findings of {len(TRUTH)}"
    assert len(wrong) == 2


def test_missing_and_surplus_findings_are_told() -> None:
    odd = replace(FOUND[1], params={"id": "x", "title": "Odd"})
    assert compare_with_truth(STEPS, [*FOUND[1:], odd, odd]) == ([TRUTH[0]], ["Odd"])
    assert compare_with_truth(STEPS, FOUND[:-1]) == ([SILENCE.truth], [])
    again = replace(SILENT, params={**SILENT.params, "id": "again"})
    assert compare_with_truth(STEPS, [*FOUND, again]) == ([], [SILENCE.truth])


def test_a_silence_that_is_not_by_itself_is_told() -> None:
    joined = replace(SILENT, params={**SILENT.params, "incident": "i1"})
    wrong = compare_incidents(STEPS, [*FOUND[:-1], joined, tell_incident()])
    assert wrong[0] == "by syslog: 0 incidents of a silent sensor alone instead of one"
    assert len(wrong) == 2
    somewhere = tell_silence(hosts="nh-fs01")
    (wrong_host,) = compare_incidents(STEPS, [*FOUND, tell_incident(), somewhere])
    assert "the silent sensor's incident is on ['nh-fs01']" in wrong_host


def beat(number: int) -> Received:
    """A heartbeat."""
    return Received(0.0, "HEARTBEAT", {"id": f"b{number}", "healthy": "true"})


def show_trouble(part: str, words: str, *, notice: bool = False) -> dict[str, Any]:
    """A row of the troubles of `appliance status --json`."""
    return {"part": part, "words": words, "since": 0.0, "notice": notice}


BEATS: Final = [beat(number) for number in range(LEAST_BEATS)]
BLIND: Final = show_trouble(f"source {SILENCE.source}", "silent for 9 s")


def test_heartbeats_and_the_silent_source_in_status_are_judged() -> None:
    disk = show_trouble("disk", "/ has 1.0% free")
    absent = show_trouble("source auth", "auth.log is not there", notice=True)
    assert judge_health(BEATS, {"troubles": [BLIND, disk, absent]}) == []
    (few,) = judge_health(BEATS[1:], {"troubles": [BLIND]})
    assert "heartbeats came" in few
    (double,) = judge_health([*BEATS, BEATS[0]], {"troubles": [BLIND]})
    assert "ids" in double
    (unsaid,) = judge_health(BEATS, {"troubles": [{**BLIND, "notice": True}]})
    assert "does not say" in unsaid
    (other,) = judge_health(BEATS, {"troubles": [BLIND, show_trouble("source auth", "silent")]})
    assert "source auth" in other
