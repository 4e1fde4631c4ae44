"""Beside the line: what the Sigma engine makes of real Windows events, stage by stage.

One process, one thread; times are processor time of this process, so that others on the machine
change them little. Events are read in batches and let go, as in the line.
"""

import argparse
import gc
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from appliance.decode import decode
from appliance.detect.sigma.cache import Cache, IndexCache
from appliance.detect.sigma.engine import SigmaDetector
from appliance.detect.sigma.load import RuleSet, load_rules
from appliance.detect.sigma.rule_cache import load_cached
from appliance.errors import DecodeError
from appliance.normalise import feeds, normalise
from appliance.normalise.shapes import SHAPES
from appliance.schema import Cursor, Detection, LogSource, RawRecord, Sighting
from benchmarks.figures import Report

NAME: Final = "sigma_speed"
TEXT: Final = "decode, normalise, detect: events/s a core, candidates, cold and warm start"
BATCH: Final = 1000
PLAIN_EVERY: Final = 25
#: Each so-many-th event is put through once more, to share the time out among the stages.
SPLIT_EVERY: Final = 10
MIB: Final = 2**20
_CREATION: Final = re.compile(rb'"EventI[dD]":\s*"?(?:1|4688)"?\s*[,}]')
_CREATION_VIEW: Final = LogSource("windows", "process_creation")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this part; it takes --data and --rules of scan_speed."""
    group = parser.add_argument_group(NAME, TEXT)
    group.add_argument(
        "--sigma-events", type=int, default=100_000, metavar="N",
        help="events of --data (JSON lines, *.json) put through --rules (100,000)",
    )  # fmt: skip
    group.add_argument(
        "--compare-every", type=int, default=PLAIN_EVERY, metavar="N",
        help=f"the plain matcher sees every N-th event, 1 is all ({PLAIN_EVERY})",
    )  # fmt: skip


def measure(options: argparse.Namespace, report: Report, folder: Path) -> None:
    """Print the figures. Raises RuntimeError when fast and plain matcher differ."""
    command = f"python -m benchmarks {NAME} --data DIR --rules DIR"
    if options.data is None or options.rules is None:
        report.begin(NAME, "not measured", command)
        report.note("needs --data (JSON lines of Windows events) and --rules (Sigma rules)")
        return
    paths = [options.rules]
    report.begin(NAME, "start", command)
    rules = _measure_start(report, paths, Cache(folder / "cache"))
    count = options.sigma_events
    report.begin(NAME, f"{options.data.name}, {len(rules.rules):,} rules", command)
    fast = SigmaDetector(rules)
    _measure_stages(report, fast, options.data, count)
    report.add("memory in use at the end (RSS)", read_rss() / MIB, "MiB", len(rules.rules), "rules")
    _measure_doubled(report, rules, options.data, count)
    _measure_plain(report, rules, options.data, count, options.compare_every)
    about = "process creations only (Sysmon 1, Security 4688); nothing caches results"
    report.begin(NAME, about, command)
    _measure_stages(report, SigmaDetector(rules), options.data, None, only=_CREATION)


def _measure_start(report: Report, paths: Sequence[Path], cache: Cache) -> RuleSet:
    def start() -> RuleSet:
        rules = load_cached(paths, cache, feeds=feeds, load=lambda p, f: load_rules(p, feeds=f))
        SigmaDetector(rules, cache=IndexCache(cache)).prepare(SHAPES["windows"])
        return rules

    for name in ("cold start (nothing in the cache)", "warm start"):
        gc.collect()
        began, wall = time.process_time(), time.perf_counter()
        rules = start()
        report.add(name, time.process_time() - began, "s", len(rules.rules), "rules")
        report.add("  by the wall's clock", time.perf_counter() - wall, "s", 1, "run")
    return rules


def read_records(data: Path, only: re.Pattern[bytes] | None = None) -> Iterator[RawRecord]:
    """The lines of all *.json files, or those that the expression is found in."""
    for path in sorted(data.rglob("*.json")):
        if path.parent.name == "_metadata":
            continue
        with path.open("rb") as lines:
            position = 0
            for line in lines:
                end = position + len(line)
                if only is None or only.search(line):
                    cursor = Cursor("bench", str(path), position, end)
                    yield RawRecord(line, "bench", str(path), str(path), cursor, 1.7e9)
                position = end


def read_batches(
    data: Path, count: int | None, only: re.Pattern[bytes] | None = None
) -> Iterator[list[RawRecord]]:
    """So many records in lists of BATCH."""
    records = islice(read_records(data, only), count)
    while batch := list(islice(records, BATCH)):
        yield batch


def _measure_stages(
    report: Report,
    detector: SigmaDetector,
    data: Path,
    count: int | None,
    only: re.Pattern[bytes] | None = None,
) -> None:
    detector.prepare(SHAPES["windows"])
    _settle()
    seconds = dict.fromkeys(("decode", "normalise", "detect"), 0.0)
    events = size = found = rejected = 0
    total = 0.0
    for batch in read_batches(data, count, only):
        if only is not None:
            batch = _keep_creations(batch)  # noqa: PLW2901
        clock = time.process_time()
        for record in batch:
            try:
                sighting = normalise(record, decode(record), zone=UTC)
            except DecodeError:
                rejected += 1
                continue
            found += len(detector.detect(sighting))
        total += time.process_time() - clock
        events += len(batch)
        size += sum(len(record.data) for record in batch)
        _time_stages(batch[::SPLIT_EVERY], detector, seconds)
    events -= rejected
    if not events:
        raise RuntimeError(f"no event under {data}")
    report.add("decode, normalise, detect", events / total, "events/s", events, "events")
    for name, spent in seconds.items():
        share = spent / sum(seconds.values())
        report.add(f"  {name}", share * total / events * 1e6, "us an event", events, "events")
    looks = events + -(-events // SPLIT_EVERY)
    report.add("candidates", detector.candidates / looks, "rules an event", events, "events")
    report.add("detections", found, "detections", events, "events")
    report.add("size of an event", size / events, "bytes", events, "events")
    if rejected:
        report.add("rejected", rejected, "records", events + rejected, "records")


def _keep_creations(batch: Sequence[RawRecord]) -> list[RawRecord]:
    pairs = [(record, normalise(record, decode(record), zone=UTC)) for record in batch]
    return [record for record, sighting in pairs if _is_creation(sighting)]


def _time_stages(
    batch: Sequence[RawRecord], detector: SigmaDetector, seconds: dict[str, float]
) -> None:
    """Add what each stage takes of these records, by a clock that costs little to ask."""
    for record in batch:
        began = time.perf_counter()
        try:
            decoded = decode(record)
        except DecodeError:
            continue
        read = time.perf_counter()
        sighting = normalise(record, decoded, zone=UTC)
        seen = time.perf_counter()
        detector.detect(sighting)
        seconds["decode"] += read - began
        seconds["normalise"] += seen - read
        seconds["detect"] += time.perf_counter() - seen


def _settle() -> None:
    """Rules stay: the garbage collector need not look through them again and again."""
    gc.collect()
    gc.freeze()


def _is_creation(event: Sighting) -> bool:
    return any(view.logsource == _CREATION_VIEW for view in event.views)


def read_rss() -> int:
    """Bytes of memory that this process holds now (proc(5))."""
    text = Path("/proc/self/statm").read_text(encoding="ascii")
    return int(text.split()[1]) * 4096


def double_rules(rules: RuleSet) -> RuleSet:
    """Each rule twice, the second time under another id."""
    again = [
        replace(rule, info=msgspec.structs.replace(rule.info, id=f"{rule.info.id}-again"))
        for rule in rules.rules
    ]
    return replace(rules, rules=(*rules.rules, *again))


def _measure_doubled(report: Report, rules: RuleSet, data: Path, count: int) -> None:
    detector = SigmaDetector(double_rules(rules))
    spent = _time_detector(detector, data, count, every=5)
    again = _time_detector(SigmaDetector(rules), data, count, every=5)
    report.add("detect with each rule twice", spent[0] * 1e6, "us an event", spent[1], "events")
    report.add("  times that of each rule once", spent[0] / again[0], "times", spent[1], "events")


def _time_detector(
    detector: SigmaDetector, data: Path, count: int, every: int
) -> tuple[float, int]:
    """Seconds of detect an event, and the events."""
    detector.prepare(SHAPES["windows"])
    _settle()
    spent, events = 0.0, 0
    for batch in read_batches(data, count):
        read = _read_some(batch, every)
        clock = time.process_time()
        for event in read:
            detector.detect(event)
        spent += time.process_time() - clock
        events += len(read)
    return spent / events, events


def _read_some(batch: Sequence[RawRecord], every: int) -> list[Sighting]:
    return [normalise(record, decode(record), zone=UTC) for record in batch[::every]]


def _measure_plain(report: Report, rules: RuleSet, data: Path, count: int, every: int) -> None:
    """The referee beside the index, on the same events: they must say the same."""
    fast, plain = SigmaDetector(rules), SigmaDetector(rules, indexed=False)
    fast.prepare(SHAPES["windows"])
    _settle()
    events, spent = 0, [0.0, 0.0]
    for batch in read_batches(data, count):
        read = _read_some(batch, every)
        said = [_time(spent, place, one.detect, read) for place, one in enumerate((fast, plain))]
        if said[0] != said[1]:
            raise RuntimeError("the index and the plain matcher do not say the same")
        events += len(read)
    if fast.counts() != plain.counts():
        raise RuntimeError("the ledgers of index and plain matcher differ")
    report.add("plain matcher's detect", spent[1] / events * 1e6, "us an event", events, "events")
    report.add("index's detect", spent[0] / events * 1e6, "us an event", events, "events")
    report.add("  plain over index", spent[1] / spent[0], "times", events, "events")


def _time(
    spent: list[float],
    place: int,
    detect: Callable[[Sighting], list[Detection]],
    events: Sequence[Sighting],
) -> list[list[Detection]]:
    clock = time.process_time()
    said = [detect(event) for event in events]
    spent[place] += time.process_time() - clock
    return said
