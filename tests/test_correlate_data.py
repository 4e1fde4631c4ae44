"""Correlation on real alerts: another order, as far as the watermark lets it be one, changes
nothing; and the benchmark's reading of a network's file."""

import csv
import json
import random
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from appliance.correlate.incidents import CorrelationLimits, Correlator, Sign
from appliance.correlate.usual import LAG
from appliance.schema import Entity, Level, digest
from benchmarks.ait import correlate_file, list_files, number_rows, score_network, write_lines

SHUFFLES = 20
#: Alerts from before the attack to behind it, and how many of what came before are learned from.
ROWS = 4_000


def read_signs(path: Path) -> list[Sign]:
    """The file's alerts in order of time, at levels that their words suggest."""
    with path.open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: float(row["time"]))
    start = next(n for n, row in enumerate(rows) if row["time_label"] == "service_scans")
    # Every fifth of what came before, so that there is something usual; then all of it.
    chosen = [*rows[: start - 1000 : 5], *rows[start - 1000 : start - 1000 + ROWS]]
    return [
        Sign(
            id=digest("row", str(n)),
            time=float(row["time"]),
            host=row["host"],
            detector=row["name"].partition(":")[0].lower(),
            rule_id=row["name"],
            title=row["name"],
            level=guess_level(row["name"]),
            techniques=(),
            tactics=(),
            entities=(Entity("host", row["host"]), Entity("address", row["ip"])),
        )
        for n, row in enumerate(chosen)
    ]


def guess_level(name: str) -> Level:
    if "Multiple" in name or "brute" in name:
        return "medium"
    return "high" if "ET SCAN" in name else "low"


def group(signs: list[Sign]) -> set[frozenset[str]]:
    """The members of every incident."""
    correlator = Correlator(CorrelationLimits())
    folds: dict[str, str] = {}
    homes: dict[str, str] = {}
    merged: dict[str, str] = {}
    rows = iter(signs)
    while batch := list(islice(rows, 500)):
        for sign in batch:
            correlator.join(sign)
        change = correlator.changes()
        folds.update(change.folded)
        homes.update({key: fold.incident for key, fold in change.folds.items()})
        merged.update(change.merged)
        correlator.commit()
    groups: dict[str, set[str]] = {}
    for finding, fold in folds.items():
        home = homes[fold]
        while home in merged:
            home = merged[home]
        groups.setdefault(home, set()).add(finding)
    return {frozenset(members) for members in groups.values()}


def test_twenty_interleavings_give_the_same_members(shared_data: Callable[[str], Path]) -> None:
    path = next(iter(sorted(shared_data("alerts").rglob("russellmitchell_alerts.csv"))))
    signs = read_signs(path)
    expected = group(signs)
    assert 20 < len(expected) < len(signs) / 20
    rng = random.Random(7)
    for _ in range(SHUFFLES):
        late = sorted(signs, key=lambda sign: sign.time + rng.uniform(0, LAG))
        assert late != signs
        assert group(late) == expected


def test_a_network_of_alerts_becomes_lines(
    shared_data: Callable[[str], Path], tmp_path: Path
) -> None:
    """A cut of a real file through the whole line: every row in exactly one line of the output."""
    source = next(iter(sorted(shared_data("alerts").rglob("shaw_alerts.csv"))))
    folder = tmp_path / "in"
    folder.mkdir()
    path = folder / "shaw_alerts.csv"
    with source.open("rb") as file:
        path.write_bytes(b"".join(islice(file, 3_001)))
    assert list_files(folder) == [path]
    network = correlate_file(path)
    write_lines([network], tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    members = [row for line in lines for row in line["members"]]
    assert sorted(members) == list(range(3_000))
    assert {line["scenario"] for line in lines} == {"shaw"}
    assert [line["score"] for line in lines] == sorted(line["score"] for line in lines)[::-1]
    score = score_network(network, path)
    assert score.rows == 3_000
    assert score.shown == network.shown < 30


def test_rows_are_numbered_by_where_they_begin(tmp_path: Path) -> None:
    path = tmp_path / "x_alerts.csv"
    path.write_bytes(b"time,name\n1,a\n\n22,b\n333,c")
    assert number_rows(path) == {10: 0, 15: 1, 20: 2}


def test_a_folder_without_alerts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "alerts.csv").write_text("time\n1\n")
    with pytest.raises(SystemExit, match=r"no \*_alerts.csv"):
        list_files(tmp_path)
