"""Beside the line: events per second, memory and load time of `appliance scan`.

Each run is a process of its own, timed from outside. "Whole process" counts from its start to its
end, interpreter and imports included; "line only" counts what the scan itself measured from decode
to store, with the wait for the experts' verdicts in it and the loading of rules left out.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from appliance.places import find_knowledge, find_models
from appliance.schema import LEVELS
from benchmarks.children import appliance_command, run_to_end, show_command, show_part
from benchmarks.figures import Report
from benchmarks.plant_logs import write_plant_logs

NAME: Final = "scan_speed"
TEXT: Final = "events/s, peak memory and load time of `appliance scan`"
STAGES: Final = ("decode", "detect", "judge", "correlate", "store")
MEDIUM: Final = LEVELS.index("medium")
MIB: Final = 2**20


@dataclass(frozen=True, slots=True)
class Run:
    """One scan: its own figures; from outside its seconds, and its and the encoder's bytes."""

    stats: dict[str, Any]
    seconds: float
    rss: int
    encoder_rss: int

    @property
    def line_seconds(self) -> float:
        """Seconds from decode to store."""
        return sum(float(self.stats["seconds"][stage]) for stage in STAGES)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this part."""
    group = parser.add_argument_group(NAME, TEXT)
    group.add_argument("--runs", type=int, default=3, metavar="N", help="scans a case (3)")
    group.add_argument(
        "--events", type=int, default=30_000, metavar="N", help="synthetic events (30,000)"
    )
    group.add_argument(
        "--attack-every", type=int, default=1, metavar="N",
        help="the synthetic intrusion in every N-th round of about 640 events (1)",
    )  # fmt: skip
    group.add_argument("--data", type=Path, metavar="DIR", help="scan these files too")
    group.add_argument(
        "--pattern", default="*", metavar="GLOB", help="only those of --data with such names (*)"
    )
    group.add_argument(
        "--rules", type=Path, metavar="DIR", help="Sigma rules for --data and for one more start_up"
    )


def measure(options: argparse.Namespace, report: Report, folder: Path) -> None:
    """Print the figures of every case. Raises RuntimeError when a scan fails."""
    logs = folder / "plant"
    logs.mkdir()
    plant = write_plant_logs(logs, options.events, options.attack_every)
    every = options.attack_every
    command = show_part(
        NAME, "--runs", options.runs, "--events", options.events, "--attack-every", every
    )
    about = f"synthetic, {plant.lines:,} lines, {plant.attack:,} of them attack, default rules"
    for model in _choose_models(report):
        _measure_case(report, folder, options.runs, command, about, [logs], None, model)
    if options.data is not None:
        _measure_data(options, report, folder)


def _measure_data(options: argparse.Namespace, report: Report, folder: Path) -> None:
    data, rules = folder / "data", options.rules
    copy_files(options.data, options.pattern, data)
    words = ["--runs", options.runs, "--data", options.data, "--pattern", options.pattern]
    command = show_part(NAME, *words, *(["--rules", rules] if rules else []))
    about = f"{options.data.name}/**/{options.pattern}, "
    about += f"rules under {rules.name}" if rules else "default rules"
    for model in _choose_models(report):
        runs = _measure_case(report, folder, options.runs, command, about, [data], rules, model)
        _count_files(report, folder, runs)


def copy_files(source: Path, pattern: str, target: Path) -> None:
    """Copy the files whose names match, at any depth, with their times. Raises RuntimeError when
    there is none."""
    found = [path for path in sorted(source.rglob(pattern)) if path.is_file()]
    if not found:
        raise RuntimeError(f"no file under {source} is named {pattern}")
    for path in found:
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)


def _choose_models(report: Report) -> list[bool]:
    """Without and with the model; only without where none is built, which is said."""
    if find_models() is not None and find_knowledge() is not None:
        return [False, True]
    report.note("no encoder or knowledge base is built: measured without the model only")
    return [False]


def _measure_case(
    report: Report,
    folder: Path,
    count: int,
    command: str,
    about: str,
    paths: Sequence[Path],
    rules: Path | None,
    model: bool,
) -> list[Run]:
    words: list[str | Path] = ["scan", *paths]
    if rules is not None:
        words += ["--rules", rules]
    if not model:
        words.append("--no-model")
    shown = ["DIR" if word in paths else "RULES" if word == rules else word for word in words]
    report.begin(NAME, f"{about}, {'with' if model else 'without'} the model", command)
    inner = show_command(*shown, "--stats", "FILE", "--out", "FILE", "--quiet")
    report.note(f"each run: {inner}")
    runs = [_scan_once(words, folder) for _ in range(count)]
    _report_runs(report, runs, model)
    return runs


def _scan_once(words: Sequence[str | Path], folder: Path) -> Run:
    stats, out = folder / "stats.json", folder / "findings.jsonl"
    command = appliance_command(*words, "--stats", stats, "--out", out, "--quiet")
    ended = run_to_end(command, folder, weigh=True)
    if ended.code != 0:
        raise RuntimeError(f"scan ended with {ended.code}: {ended.output}")
    return Run(json.loads(stats.read_bytes()), ended.seconds, ended.rss, ended.children_rss)


def _report_runs(report: Report, runs: Sequence[Run], model: bool) -> None:
    first = runs[0].stats
    events = int(first["events"])
    of = f"runs of {events:,} events"
    report.add_runs("whole process", [events / run.seconds for run in runs], "events/s", of)
    report.add_runs("line only", [events / run.line_seconds for run in runs], "events/s", of)
    report.add_runs("whole process, time", [run.seconds for run in runs], "s")
    rules = first["rules"]
    of = f"runs with {rules['loaded']:,} rules"
    report.add_runs("load (rules, store, model's start)", _pick(runs, "load"), "s", of)
    before = [run.seconds - run.stats["seconds"]["total"] for run in runs]
    report.add_runs("interpreter, imports, output, exit", before, "s")
    for stage in STAGES:
        report.add_runs(f"  {stage}", _pick(runs, stage), "s")
    peaks = [run.rss / MIB for run in runs]
    report.add_runs("peak RSS of the scan", peaks, "MiB")
    if model and all(run.encoder_rss for run in runs):
        report.add_runs("peak RSS of the encoder", [r.encoder_rss / MIB for r in runs], "MiB")
    elif model:
        report.note("in at least one run no encoder process was seen: not a figure with the model")
    size = first["bytes"] / 1e6
    report.add("read", size, "MB", first["files"], "files")
    report.add("rejected", first["rejected"], "records", events + first["rejected"], "records")
    found = first["findings"]
    report.add("findings", found["total"], "findings", events, "events")
    report.add("incidents", first["incidents"], "incidents", found["total"], "findings")
    given = rules["loaded"] + rules["refused"]
    report.add("refused", rules["refused"], "rules", given, "rules")
    if any(run.stats["findings"] != found or run.stats["events"] != events for run in runs):
        report.note("the runs do not agree on events and findings")


def _pick(runs: Sequence[Run], stage: str) -> list[float]:
    return [float(run.stats["seconds"][stage]) for run in runs]


def _count_files(report: Report, folder: Path, runs: Sequence[Run]) -> None:
    """Files with at least one finding of level medium or above, of the last run."""
    hit: set[str] = set()
    with (folder / "findings.jsonl").open("rb") as lines:
        for line in lines:
            body = json.loads(line)
            if LEVELS.index(body["level"]) >= MEDIUM:
                hit.add(body["source"]["path"])
    files = int(runs[-1].stats["files"])
    report.add("files with a finding medium or above", len(hit), "files", files, "files")
