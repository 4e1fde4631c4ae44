"""The demonstration's scenario, offline: what must be found is found, and nothing else is."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

from appliance.decode import decode
from appliance.detect.sigma.engine import SigmaDetector
from appliance.detect.sigma.load import load_rules
from appliance.normalise import feeds, normalise
from appliance.schema import Cursor, Detection, Event, RawRecord
from tests.demo.player import FILES, play
from tests.demo.receiver import Received
from tests.demo.run import MACHINES, compare_incidents, compare_with_truth
from tests.demo.scenario import LENGTH_S, Step, build_scenario

RULES: Final = Path(__file__).resolve().parent.parent / "rules"
START: Final = 1_795_000_000.0


@cache
def load_detector() -> SigmaDetector:
    """Our rules, loaded once."""
    return SigmaDetector(load_rules([RULES], feeds=feeds))


def read_step(step: Step, position: int, start: float = START) -> Event:
    """The step's line through decode and normalise, received when it was written."""
    data = step.line.encode()
    cursor = Cursor("demo", step.file, position, position + 1)
    record = RawRecord(data, "demo", step.file, step.file, cursor, start + step.offset_s + 0.1)
    return normalise(record, decode(record), zone=UTC)


def detect_steps(steps: list[Step]) -> list[tuple[Step, list[Detection]]]:
    """Each step with what our rules say of it."""
    detector = load_detector()
    return [(step, detector.detect(read_step(step, n))) for n, step in enumerate(steps)]


def test_every_step_of_the_attack_is_found() -> None:
    found = detect_steps(build_scenario(START))
    missed = [
        (step.truth, step.note)
        for step, detections in found
        if step.truth is not None and step.truth not in {d.title for d in detections}
    ]
    assert not missed
    assert sum(step.truth is not None for step, _ in found) >= 18


def test_nothing_ordinary_is_found() -> None:
    found = detect_steps(build_scenario(START))
    ordinary = [(step, detections) for step, detections in found if step.truth is None]
    assert 250 <= len(ordinary) <= 400
    wrong = [(d.title, step.line) for step, detections in ordinary for d in detections]
    assert not wrong
    assert not load_detector().errors


def test_every_line_is_read_and_its_time_known() -> None:
    for number, step in enumerate(build_scenario(START)):
        event = read_step(step, number)
        assert event.mapped
        assert event.time_known
        assert event.host in {"nh-ews02", "nh-fs01", "nh-jump01"}
        # RFC 3164 tells whole seconds.
        assert abs(event.time - (START + step.offset_s)) < 1.0


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
    assert {"nh-ews02", "nh-fs01", "nh-jump01"} <= {e.value for e in reached}


def test_scenario_is_the_same_for_the_same_start() -> None:
    assert build_scenario(START) == build_scenario(START)
    assert build_scenario(START) != build_scenario(START + 60.0)


def test_scenario_is_short_ordered_and_in_three_files() -> None:
    steps = build_scenario(START)
    offsets = [step.offset_s for step in steps]
    assert offsets == sorted(offsets)
    assert offsets[0] >= 0.0
    assert 20.0 <= offsets[-1] <= LENGTH_S <= 25.0
    files = Counter(step.file for step in steps)
    assert set(files) == set(FILES)
    assert min(files.values()) >= 30
    assert all("\n" not in step.line for step in steps)
    for name in FILES:
        assert any(step.truth and step.file == name for step in steps)


def test_auth_log_is_in_local_time() -> None:
    zone = timezone(timedelta(hours=2))
    steps = build_scenario(START, zone)
    first = next(step for step in steps if step.file == "auth.log")
    moment = datetime.fromtimestamp(START + first.offset_s, zone)
    assert f"{moment:%H:%M:%S}" in first.line


def test_play_writes_every_line_once_and_rotates(tmp_path: Path) -> None:
    steps = build_scenario(START)
    now = [100.0]
    told: list[Step] = []

    def sleep(seconds: float) -> None:
        now[0] += seconds

    play(steps, tmp_path, sleep=sleep, clock=lambda: now[0], on_line=told.append)
    assert told == steps
    assert abs(now[0] - 100.0 - steps[-1].offset_s) < 0.001
    rotated = (tmp_path / "sysmon.jsonl.1").read_text("utf-8").splitlines()
    assert rotated
    for name in FILES:
        lines = (tmp_path / name).read_text("utf-8").splitlines()
        assert lines
        if name == "sysmon.jsonl":
            lines = rotated + lines
        assert lines == [step.line for step in steps if step.file == name]


STEPS: Final = build_scenario(START)
TRUTH: Final = [step.truth for step in STEPS if step.truth is not None]


def tell_incident(key: str = "i1", **changes: str) -> Received:
    """The last word on the scenario's incident, as a collector gets it."""
    params = {"id": key, "level": "critical", "hosts": ",".join(MACHINES)}
    return Received(0.0, "INCIDENT", {**params, **changes})


def list_incident(**changes: Any) -> dict[str, Any]:
    """The scenario's incident, as `appliance incidents --json` gives it."""
    ids = [f"f{number}" for number in range(len(TRUTH))]
    return {"level": "critical", "hosts": sorted(MACHINES), "findings": ids, **changes}


FOUND: Final = [
    Received(0.0, "FINDING", {"id": f"f{number}", "title": title, "incident": "i1"})
    for number, title in enumerate(TRUTH)
]


def test_the_one_incident_of_the_scenario_is_right() -> None:
    growing = tell_incident(level="high", findings="3", hosts="nh-ews02")
    joined = tell_incident("i0", findings="2", hosts="nh-fs01")
    early = replace(FOUND[0], params={**FOUND[0].params, "incident": "i0"})
    told = [early, *FOUND[1:], growing, joined, tell_incident(aliases="i0,i9")]
    assert compare_with_truth(STEPS, told) == ([], [])
    assert compare_incidents(STEPS, told) == []
    assert compare_incidents(STEPS, told, [list_incident()]) == []


@pytest.mark.parametrize(
    ("told", "listed", "reason"),
    [
        ([], [list_incident()], "by syslog: 0 incidents"),
        ([tell_incident("i1"), tell_incident("i2")], [list_incident()], "by syslog: 2 incidents"),
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
    (wrong,) = compare_incidents(STEPS, [*FOUND, *told], listed)
    assert reason in wrong


def test_findings_outside_the_incident_are_told() -> None:
    stray = replace(FOUND[0], params={**FOUND[0].params, "incident": "i7"})
    wrong = compare_incidents(STEPS, [stray, *FOUND[1:], tell_incident()])
    assert wrong == [f"by syslog: it holds {len(TRUTH) - 1} findings of {len(TRUTH)}"]
    short = list_incident(findings=["f0"])
    wrong = compare_incidents(STEPS, [*FOUND, tell_incident()], [short])
    assert wrong[0] == f"by `appliance incidents`: it holds 1 findings of {len(TRUTH)}"
    assert len(wrong) == 2


def test_missing_and_surplus_findings_are_told() -> None:
    odd = replace(FOUND[1], params={"id": "x", "title": "Odd"})
    assert compare_with_truth(STEPS, [*FOUND[1:], odd, odd]) == ([TRUTH[0]], ["Odd"])
