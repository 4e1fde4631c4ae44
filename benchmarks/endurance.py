"""Beside the line: whether memory stays flat while the daemon works for a long time.

A log grows at a steady rate, with findings among its lines; the resident memory of the daemon and
of every process below it is added up. The first minutes, in which caches fill, are left out.
Not part of a run of all parts, for its length: name it.
"""

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from appliance.control import ask_daemon
from appliance.places import find_knowledge, find_models
from benchmarks.children import (
    appliance_command,
    end_child,
    list_children,
    show_command,
    show_part,
)
from benchmarks.figures import Report
from benchmarks.plant_logs import LINE_LOGS, write_plant_logs

NAME: Final = "endurance"
TEXT: Final = "resident memory of the daemon over minutes of steady work"
TICK_SECONDS: Final = 0.1
LOOK_SECONDS: Final = 5.0
MIB: Final = 2**20


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this part."""
    group = parser.add_argument_group(NAME, TEXT)
    group.add_argument("--minutes", type=float, default=20.0, metavar="N", help="how long (20)")
    group.add_argument(
        "--settle-minutes", type=float, default=3.0, metavar="N", help="not counted at first (3)"
    )
    group.add_argument("--rate", type=int, default=500, metavar="N", help="records/s (500)")
    group.add_argument(
        "--memory-workers", type=int, default=1, metavar="N", help="worker processes (1)"
    )


def measure(options: argparse.Namespace, report: Report, folder: Path) -> None:
    """Print the figures. Raises RuntimeError when the daemon ends or reads nothing."""
    words = ["--minutes", options.minutes, "--rate", options.rate]
    words += ["--memory-workers", options.memory_workers]
    with_model = find_models() is not None and find_knowledge() is not None
    about = f"{options.rate} records/s for {options.minutes:g} minutes"
    report.begin(NAME, f"{about}, {'with' if with_model else 'without'} the model",
                 show_part(NAME, *words))  # fmt: skip
    report.note(f"the daemon: {show_command('run', '--config', 'FILE')}")
    log = folder / "grows.log"
    log.touch()
    second = folder / "grows2.log"
    second.touch()
    config = folder / "appliance.yaml"
    config.write_text(json.dumps({
        "state_dir": str(folder / "state"),
        "model": with_model,
        "workers": options.memory_workers,
        "limits": {"findings_rows": 2000, "incidents_rows": 500, "correlation_keys": 2000},
        "sources": [
            {"name": "one", "paths": [str(log)]}, {"name": "two", "paths": [str(second)]}
        ],
        "sinks": [{"name": "out", "type": "file", "path": str(folder / "out.jsonl")}],
    }))  # fmt: skip
    with (folder / "daemon.log").open("wb") as said:
        daemon = subprocess.Popen(
            appliance_command("run", "--config", config),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env={**os.environ, "TMPDIR": str(folder)},
        )
        try:
            samples, written = _feed(daemon, folder, [log, second], options)
            answer = ask_daemon(folder / "state" / "control.sock", {"ask": "status"})
        finally:
            end_child(daemon)
    if answer is None or daemon.returncode != 0:
        raise RuntimeError((folder / "daemon.log").read_text(errors="backslashreplace"))
    seen = sum(row["seen"] for row in answer["sources"])
    report.add("records read", seen, "records", written, "records written")
    rejected = sum(row["rejected"] for row in answer["sources"])
    report.add("of them rejected", rejected, "records", seen, "records read")
    kept = [size for at, size in samples if at >= options.settle_minutes * 60]
    part = max(1, len(kept) // 5)
    first, last = statistics.median(kept[:part]), statistics.median(kept[-part:])
    report.add("memory, first fifth", first / MIB, "MiB", part, "samples")
    report.add("memory, last fifth", last / MIB, "MiB", part, "samples")
    report.add("change", (last / first - 1) * 100, "%", len(kept), "samples")
    report.add("most", max(kept) / MIB, "MiB", len(kept), "samples")


def _feed(
    daemon: subprocess.Popen[bytes], folder: Path, logs: list[Path], options: argparse.Namespace
) -> tuple[list[tuple[float, int]], int]:
    """Write at the rate; gives (seconds since the beginning, bytes) and the records written. A log
    is renamed away every half minute, as logrotate does."""
    lines = _make_lines(folder)
    samples: list[tuple[float, int]] = []
    began = time.monotonic()
    look_at = rotate_at = 0.0
    written = 0
    while (now := time.monotonic() - began) < options.minutes * 60 and daemon.poll() is None:
        due = int(now * options.rate) - written
        for log, count in zip(logs, (due - due // 2, due // 2), strict=True):
            with log.open("ab") as file:
                file.writelines(itertools.islice(lines, count))
        written += due
        if now >= look_at:
            look_at += LOOK_SECONDS
            samples.append((now, read_tree_rss(daemon.pid)))
        if now >= rotate_at + 30:
            rotate_at += 30
            for log in logs:
                log.rename(log.with_suffix(".1"))
        time.sleep(TICK_SECONDS)
    time.sleep(2)
    return samples, written


def _make_lines(folder: Path) -> Iterator[bytes]:
    """The plant's lines, again and again; each a little different from the time before. Only of
    logs in which a line is a record, so that what was written can be counted."""
    place = folder / "plant"
    place.mkdir()
    write_plant_logs(place, 20_000, 10)
    plain = [
        line
        for path in sorted(place.iterdir())
        if path.name in LINE_LOGS
        for line in path.read_bytes().splitlines(keepends=True)
    ]
    for turn in itertools.count():
        mark = b"nh-%d-" % turn
        for line in plain:
            yield line.replace(b"nh-", mark)


def read_tree_rss(pid: int) -> int:
    """Resident bytes of a process and all below it (VmRSS of proc_pid_status(5))."""
    total = 0
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total = int(line.split()[1]) * 1024
    return total + sum(read_tree_rss(child) for child in list_children(pid))
