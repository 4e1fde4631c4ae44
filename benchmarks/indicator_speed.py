"""Beside the line: what looking events up among a million indicators costs.

The indicators are generated, the same each time: hashes, addresses, networks, domains, URLs and
file names, and a few values that the events themselves hold, so that something is found.
"""

import argparse
import gc
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC
from itertools import chain
from pathlib import Path
from typing import Final

import msgspec

from appliance.decode import decode
from appliance.detect.indicators.detector import MAX_REMEMBERED, IndicatorDetector
from appliance.detect.indicators.file import IndicatorFile, write_indicators
from appliance.errors import DecodeError
from appliance.normalise import normalise
from appliance.schema import RawRecord, Sighting
from benchmarks.figures import Report
from benchmarks.sigma_speed import MIB, read_batches, read_rss

NAME: Final = "indicator_speed"
TEXT: Final = "the indicators detector: memory, start, time an event, with a million indicators"
SEED: Final = 6
#: Events that are made and then looked up.
AT_ONCE: Final = 25

#: Shares of the generated indicators, in hundredths.
_SHARES: Final = {
    "sha256": 25, "sha1": 8, "md5": 12, "address": 20, "network": 3, "domain": 20, "url": 10,
    "file": 2,
}  # fmt: skip
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
_DIGITS: Final = {"md5": 32, "sha1": 40, "sha256": 64}


class Generated(msgspec.Struct, frozen=True):
    """An indicator as the knowledge base has it."""

    kind: str
    value: str
    source: str = "generated feed"
    name: str = "generated"
    valid_from: float | None = None
    valid_until: float | None = None
    confidence: int | None = 60
    links: tuple[str, ...] = ("T1071",)


def generate(count: int, seed: int) -> Iterator[Generated]:
    """So many indicators of all kinds, all different but by chance."""
    chance = random.Random(seed)
    kinds = [kind for kind, share in _SHARES.items() for _ in range(share)]
    for number in range(count):
        kind = kinds[number % len(kinds)]
        yield Generated(kind, _generate_value(kind, chance), name=f"campaign {number // 1000}")


def _generate_value(kind: str, chance: random.Random) -> str:
    if kind in _DIGITS:
        size = _DIGITS[kind]
        return f"{chance.getrandbits(4 * size):0{size}x}"
    word = "".join(chance.choices(_LETTERS, k=chance.randint(8, 16)))
    if kind == "address":
        if chance.random() < 0.1:
            return f"2001:db8:{chance.getrandbits(16):x}::{chance.getrandbits(16):x}"
        return ".".join(str(chance.randint(*bounds)) for bounds in ((64, 126), *[(0, 255)] * 3))
    if kind == "network":
        return f"{chance.randint(128, 223)}.{chance.randint(0, 255)}.{chance.randint(0, 255)}.0/24"
    if kind == "file":
        return f"{word}.exe"
    name = f"{word}.{chance.choice(('example', 'test', 'invalid'))}"
    return name if kind == "domain" else f"http://{name}/{word[::-1]}.php?id={number_of(word)}"


def number_of(word: str) -> int:
    """A number that belongs to the word."""
    return sum(map(ord, word))


#: Planted: values that Windows events of public collections show.
PLANTED: Final = (
    Generated("file", "mimikatz.exe", "planted", confidence=90),
    Generated("file", "rubeus.exe", "planted", confidence=90),
    Generated("domain", "githubusercontent.com", "planted"),
    Generated("network", "20.190.0.0/16", "planted"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this part; it takes --data of scan_speed."""
    group = parser.add_argument_group(NAME, TEXT)
    group.add_argument(
        "--indicators", type=int, default=1_000_000, metavar="N", help="how many (1,000,000)"
    )
    group.add_argument(
        "--indicator-every", type=int, default=4, metavar="N",
        help="each N-th event of --data (JSON lines, *.json) is looked up (4)",
    )  # fmt: skip


def measure(options: argparse.Namespace, report: Report, folder: Path) -> None:
    """Print the figures. Raises RuntimeError when with and without memory differ."""
    command = f"python -m benchmarks {NAME} --data DIR"
    if options.data is None:
        report.begin(NAME, "not measured", command)
        report.note("needs --data (JSON lines of Windows events)")
        return
    count = options.indicators
    report.begin(NAME, f"{options.data.name}, {count:,} indicators", command)
    before = time.process_time()
    written = write_indicators(folder, [*generate(count, SEED), *PLANTED])
    report.add("writing the file", time.process_time() - before, "s", count, "indicators")
    report.add("  its size", written.path.stat().st_size / MIB, "MiB", count, "indicators")
    gc.collect()
    gc.freeze()
    rss = read_rss()
    before, wall = time.process_time(), time.perf_counter()
    tables = IndicatorFile.open(written.path)
    report.add("opening it", time.process_time() - before, "s", written.values, "values")
    report.add("  by the wall's clock", time.perf_counter() - wall, "s", written.values, "values")
    report.add("  memory it takes (RSS)", (read_rss() - rss) / MIB, "MiB", written.values, "values")
    said = []
    for name, remember in (("without memory of values", 0), ("with it", MAX_REMEMBERED)):
        detector = IndicatorDetector((tables,), remember=remember)
        said.append(_measure_detect(report, detector, options, name))
    if said[0] != said[1]:
        raise RuntimeError("with and without remembered values the findings differ")
    report.add("memory with values remembered (RSS)", (read_rss() - rss) / MIB, "MiB", 1, "run")


def _measure_detect(
    report: Report, detector: IndicatorDetector, options: argparse.Namespace, name: str
) -> list[tuple[str, str]]:
    """The findings, (rule, event). Events are looked up a few at a time when they have just been
    made, nearly as in the line; by processor time, others on the machine change it little."""
    found = []
    count = 0
    spent = 0.0
    for batch in read_batches(options.data, None):
        chosen = batch[:: options.indicator_every]
        for place in range(0, len(chosen), AT_ONCE):
            events = list(_read_events(chosen[place : place + AT_ONCE]))
            clock = time.process_time()
            said = [detector.detect(event) for event in events]
            spent += time.process_time() - clock
            count += len(events)
            found += [(one.rule_id, one.event.id) for one in chain.from_iterable(said)]
    if not count:
        raise RuntimeError(f"no event under {options.data}")
    report.add(f"detect, {name}", spent / count * 1e9, "ns an event", count, "events")
    facts = detector.take_counts()
    report.add("  fields looked up", facts["fields"] / count, "fields an event", count, "events")
    report.add("  found", len(found), "detections", count, "events")
    return found


def _read_events(records: Sequence[RawRecord]) -> Iterator[Sighting]:
    for record in records:
        try:
            yield normalise(record, decode(record), zone=UTC)
        except DecodeError:
            continue


def main() -> int:
    """By itself: `python -m benchmarks.indicator_speed --data DIR`."""
    parser = argparse.ArgumentParser(description=TEXT)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    add_options(parser)
    with tempfile.TemporaryDirectory(prefix="appliance-bench-") as folder:
        measure(parser.parse_args(), Report(), Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
