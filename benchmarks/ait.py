"""How many incidents a site's alerts become, and whether the attack is among the first of them: the
public AIT Alert Data Set (Landauer et al. 2024, doi:10.5281/zenodo.8263181).

    python -m benchmarks.ait IN OUT [--score]

reads every `*_alerts.csv` or `*_alerts.txt` in IN (columns as `ait_mapping.yaml` names them) by
`appliance scan`'s own line and writes one JSON object a line per incident to OUT: `scenario` (file
name before `_alerts`), `members` (row numbers, 0 for the first row behind the header), `score`
(rank order, higher first), `stages`. What the list of incidents does not show one by one comes
last, in one line each: minor incidents, and what is expected here. Every row is in one line.

`--score` reads the label columns, which nothing else does, and prints the figures. A row is of an
attack when its `time_label` names a phase. An incident counts for a phase when, by distinct (name,
host, ten minutes), at least 80 % of it is attack.
"""

import argparse
import csv
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec
import orjson

from appliance.config import load_config
from appliance.report.scan_files import replace_file
from appliance.scan import run_scan

MAPPING: Final = Path(__file__).with_name("ait_mapping.yaml")
FORMAT: Final = "ait-alerts"
ORDINARY: Final = "false_positive"
PURE: Final = 0.8
FIRST: Final = 10
DAY: Final = 86400
BUCKET: Final = 600


class Network(msgspec.Struct):
    """What one file became: `rows` alerts, the lines of the output, and what is shown of them."""

    scenario: str
    rows: int
    lines: list[dict[str, Any]]
    shown: int
    seconds: float


def list_files(folder: Path) -> list[Path]:
    """The alert files of a folder. Raises SystemExit when there is none."""
    found = sorted(
        path
        for path in folder.iterdir()
        if path.name.endswith(("_alerts.csv", "_alerts.txt")) and path.is_file()
    )
    if not found:
        raise SystemExit(f"{folder}: no *_alerts.csv or *_alerts.txt")
    return found


def name_scenario(path: Path) -> str:
    """The network that a file is of."""
    return path.name.rpartition("_alerts")[0]


def number_rows(path: Path) -> dict[int, int]:
    """Row numbers by the byte at which a row begins; 0 is the first behind the header."""
    numbers: dict[int, int] = {}
    place = 0
    with path.open("rb") as file:
        place += len(file.readline())
        for line in file:
            if line.strip():
                numbers[place] = len(numbers)
            place += len(line)
    return numbers


def correlate_file(path: Path) -> Network:
    """One file through the line."""
    config = replace(load_config(MAPPING), model=False)
    numbers = number_rows(path)
    began = time.perf_counter()
    scan = run_scan([str(path)], config, input_format=FORMAT, on_progress=lambda *_: None)
    try:
        members: dict[str, list[int]] = defaultdict(list)
        for body in scan.store.iterate_findings():
            members[body["incident"] or ""].append(numbers[body["source"]["record"]])
        incidents = scan.store.incidents()
    finally:
        scan.close()
    seconds = time.perf_counter() - began
    found = sum(len(rows) for rows in members.values())
    if found != len(numbers):
        raise SystemExit(f"{path}: {len(numbers)} rows, of which {found} became findings")
    scenario = name_scenario(path)
    shown = [one for one in incidents if one.kind == "incident"]
    lines = [render_line(scenario, members[one.id], one.score, one.tactics) for one in shown]
    for kind, score in (("minor", -1.0), ("routine", -2.0)):
        rows = [row for one in incidents if one.kind == kind for row in members[one.id]]
        if rows:
            lines.append(render_line(scenario, rows, score, ()))
    return Network(scenario, len(numbers), lines, len(shown), seconds)


def render_line(
    scenario: str, rows: Sequence[int], score: float, stages: Sequence[str]
) -> dict[str, Any]:
    """One line of the output."""
    return {
        "scenario": scenario,
        "members": sorted(rows),
        "score": score,
        "stages": list(stages),
    }


# -- scoring ---------------------------------------------------------------------------------------


class Score(msgspec.Struct, frozen=True):
    """The figures of one network; `calm` are the most incidents of a day that hold no attack."""

    scenario: str
    rows: int
    shown: int
    attack: int
    calm: int
    phases: tuple[str, ...]
    kept: tuple[str, ...]
    first: tuple[str, ...]


def score_network(network: Network, path: Path) -> Score:
    """Compare with the labels. What is shown in one line (minor, routine) counts as no incident."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row]
    times = [float(row["time"]) for row in rows]
    phases = sorted({row["time_label"] for row in rows} - {ORDINARY})
    kept: set[str] = set()
    first: set[str] = set()
    attack = 0
    calm: Counter[int] = Counter()
    start = min(times)
    for place, line in enumerate(network.lines[: network.shown]):
        labels = {rows[row]["time_label"] for row in line["members"]} - {ORDINARY}
        attack += bool(labels)
        if not labels:
            calm[int((min(times[row] for row in line["members"]) - start) // DAY)] += 1
        elif measure_purity(rows, line["members"]) >= PURE:
            kept |= labels
            first |= labels if place < FIRST else set()
    return Score(
        network.scenario, len(rows), network.shown, attack, max(calm.values(), default=0),
        tuple(phases), tuple(sorted(kept)), tuple(sorted(first)),
    )  # fmt: skip


def measure_purity(rows: Sequence[dict[str, str]], members: Sequence[int]) -> float:
    """Share of an incident's distinct (name, host, ten minutes) that are of an attack."""
    cells: dict[tuple[str, str, int], bool] = {}
    for number in members:
        row = rows[number]
        cell = (row["name"], row["host"], int(float(row["time"]) // BUCKET))
        cells[cell] = cells.get(cell, False) or row["time_label"] != ORDINARY
    return sum(cells.values()) / len(cells)


def describe_scores(scores: Sequence[Score], seconds: float) -> Iterator[str]:
    """The figures in words."""
    for one in scores:
        reduction = 1 - one.shown / one.rows
        missed = sorted(set(one.phases) - set(one.first))
        yield (
            f"{one.scenario}: {one.rows:,} alerts, {one.shown} incidents shown ({reduction:.3%} "
            f"fewer), {one.attack} hold an attack, at most {one.calm} a day hold none; of "
            f"{len(one.phases)} phases {len(one.kept)} are in an incident that counts, "
            f"{len(one.first)} in the first {FIRST}"
            + (f"; not there: {', '.join(missed)}" if missed else "")
        )
    rows, shown = sum(one.rows for one in scores), sum(one.shown for one in scores)
    phases = sum(len(one.phases) for one in scores)
    yield (
        f"all: {rows:,} alerts, {shown} incidents shown ({1 - shown / rows:.3%} fewer), "
        f"{sum(one.attack for one in scores)} hold an attack; of {phases} phases "
        f"{sum(len(one.kept) for one in scores)} kept, {sum(len(one.first) for one in scores)} "
        f"in the first {FIRST}; {rows / seconds:,.0f} alerts/s"
    )


def write_lines(networks: Sequence[Network], out: Path) -> None:
    """All lines to OUT, at once."""
    lines = [orjson.dumps(line) + b"\n" for network in networks for line in network.lines]
    replace_file(out, lambda file: file.writelines(lines))


def main() -> int:
    """Read IN, write OUT."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("folder", type=Path, metavar="IN")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--score", action="store_true", help="compare with the label columns")
    args = parser.parse_args()
    files = list_files(args.folder)
    networks = [correlate_file(path) for path in files]
    write_lines(networks, args.out)
    for network in networks:
        print(
            f"{network.scenario}: {network.rows:,} alerts, {network.shown} incidents shown, "
            f"{network.rows / network.seconds:,.0f} alerts/s",
            file=sys.stderr,
        )
    if args.score:
        scores = [score_network(one, path) for one, path in zip(networks, files, strict=True)]
        for text in describe_scores(scores, sum(one.seconds for one in networks)):
            print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
