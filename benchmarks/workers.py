"""Beside the line: how much faster several worker processes read than one.

The daemon starts on logs that are there already, as many sources as workers at the most; timed is
from the first record counted to the last, so that loading the rules is not in it.
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from appliance.control import ask_daemon
from benchmarks.children import appliance_command, end_child, show_command, show_part
from benchmarks.figures import Report
from benchmarks.plant_logs import LINE_LOGS, write_plant_logs

NAME: Final = "workers"
TEXT: Final = "records/s of the daemon with one process and with several"
ASK_SECONDS: Final = 0.05
PATIENCE_SECONDS: Final = 600.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this part."""
    group = parser.add_argument_group(NAME, TEXT)
    group.add_argument(
        "--worker-counts", default="1,2", metavar="N,N", help="processes to compare (1,2)"
    )
    group.add_argument(
        "--worker-events", type=int, default=60_000, metavar="N", help="records in all (60,000)"
    )


def measure(options: argparse.Namespace, report: Report, folder: Path) -> None:
    """Print the figures. Raises RuntimeError when the daemon does not read everything."""
    counts = [int(word) for word in options.worker_counts.split(",")]
    logs = folder / "plant"
    logs.mkdir()
    write_plant_logs(logs, options.worker_events // 2, 4)
    sources = _share_out(logs, folder, max(counts))
    lines = sum(path.read_bytes().count(b"\n") for paths in sources for path in paths)
    words = ["--worker-counts", options.worker_counts, "--worker-events", options.worker_events]
    rules = [options.rules.resolve()] if options.rules is not None else []
    if rules:
        words += ["--rules", options.rules]
    rates: dict[int, float] = {}
    for count in counts:
        about = f"workers: {count}, {lines:,} records in {len(sources)} sources"
        report.begin(NAME, about, show_part(NAME, *words))
        report.note(f"the daemon: {show_command('run', '--config', 'FILE')}")
        samples = [_read_once(folder, sources, count, rules, lines) for _ in range(options.runs)]
        report.add_runs("records/s", samples, "records/s")
        rates[count] = sorted(samples)[len(samples) // 2]
    first = counts[0]
    for count in counts[1:]:
        report.add(f"{count} to {first}", rates[count] / rates[first], "times", lines, "records")


def _share_out(logs: Path, folder: Path, count: int) -> list[list[Path]]:
    """The same logs once for each source."""
    sources = []
    for number in range(count):
        place = folder / f"source{number}"
        shutil.copytree(logs, place)
        sources.append([place / name for name in LINE_LOGS])
    return sources


def _read_once(
    folder: Path, sources: Sequence[Sequence[Path]], workers: int, rules: Sequence[Path], lines: int
) -> float:
    place = Path(tempfile.mkdtemp(prefix="s", dir=folder))
    config = {
        "state_dir": str(place / "state"),
        "model": False,
        "workers": workers,
        "rules": [str(path) for path in rules],
        "sources": [
            {"name": f"s{number}", "paths": [str(path) for path in paths]}
            for number, paths in enumerate(sources)
        ],
    }
    path = place / "appliance.yaml"
    path.write_text(json.dumps(config))
    with (place / "daemon.log").open("wb") as log:
        daemon = subprocess.Popen(
            appliance_command("run", "--config", path),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "TMPDIR": str(place)},
        )
        try:
            return _watch(daemon, place, lines)
        finally:
            end_child(daemon)


def _watch(daemon: subprocess.Popen[bytes], place: Path, lines: int) -> float:
    """Records a second between the first look at which some were counted and the last."""
    began = None
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until and daemon.poll() is None:
        answer = ask_daemon(place / "state" / "control.sock", {"ask": "status"})
        now = time.monotonic()
        if answer is not None:
            seen = sum(row["seen"] for row in answer["sources"])
            if seen and began is None:
                began = (now, seen)
            if began is not None and seen >= lines and now > began[0]:
                return float((seen - began[1]) / (now - began[0]))
        time.sleep(ASK_SECONDS)
    raise RuntimeError(f"not read: {(place / 'daemon.log').read_text(errors='backslashreplace')}")
