"""`python -m tests.referee`: every real set, then pairs that are made up.

Exit status: 0 nothing differs, 1 something does, 2 nothing can be said (a set without an event,
made-up pairs that hardly ever match, rules that do not load)."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from appliance.errors import ApplianceError
from tests.referee.compare import Referee, Tally
from tests.referee.pairs import PairTally, compare_pairs
from tests.referee.sets import SetTally, compare_set, list_sets, load_all_rules

#: A smaller share of pairs whose rule fires would make of most pairs a test of nothing.
LEAST_SHARE: Final = 0.05
#: So many rules must use every modifier.
ALL_MODIFIERS: Final = 2000
_COLUMNS: Final = "{:<12} {:>6} {:>9} {:>9} {:>9} {:>8} {:>11} {:>11} {:>7}"


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.referee",
        description="Compare the Sigma index with the plain matcher: ids, evidence, order, log"
        " source and ledgers, over all real sets and over made-up pairs of event and rule.",
        epilog="Exit status 1 when anything differs, 2 when a set or the pairs say nothing.",
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="each folder in it is a set of logs"
    )
    parser.add_argument(
        "--rules", type=Path, required=True, metavar="DIR", help="Sigma rules beside our own"
    )
    parser.add_argument(
        "--pairs", type=int, default=100_000, metavar="N", help="made-up pairs (100,000)"
    )
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="every N-th record of each set (1)"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of the pairs (1)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both parts and print what they came to; the exit status."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.pairs < 1 or options.every < 1:
        parser.error("--pairs and --every must be at least 1")
    try:
        sets = _run_sets(options.data, options.rules, options.every)
    except (ApplianceError, OSError) as error:
        print(f"referee: {error}", file=sys.stderr)
        return 2
    pairs = _run_pairs(options.pairs, options.seed)
    complaints = list(_complain(sets, pairs))
    for complaint in complaints:
        print(f"not a test: {complaint}")
    tallies: list[Tally] = [*sets, pairs]
    differences = sum(tally.differences for tally in tallies)
    print(f"{differences:,} differences over {sum(one.events for one in tallies):,} events")
    if differences:
        return 1
    return 2 if complaints else 0


def _run_sets(data: Path, rules: Path, every: int) -> list[SetTally]:
    referee = Referee(load_all_rules(rules))
    loaded = referee.rules
    print(f"{len(loaded.rules):,} rules, {len(loaded.refused):,} refused; every {every}. record")
    words = ("set", "files", "records", "events", "mapped", "rejected", "detections")
    print(_COLUMNS.format(*words, "differences", "s"), flush=True)
    tallies = []
    for folder in list_sets(data):
        with TemporaryDirectory() as spool:
            tally = compare_set(referee, folder, Path(spool), every)
        tallies.append(tally)
        figures = (
            *(tally.files, tally.records, tally.events, tally.mapped, tally.rejected),
            *(tally.detections, tally.differences),
        )
        shown = [f"{figure:,}" for figure in figures]
        print(_COLUMNS.format(tally.name, *shown, f"{tally.seconds:.0f}"), flush=True)
        _tell(tally)
    return tallies


def _run_pairs(count: int, seed: int) -> PairTally:
    began = time.monotonic()
    tally = compare_pairs(count, seed)
    print(
        f"{tally.events:,} pairs of seed {seed}: {tally.matched:,} ({tally.share:.1%}) match their"
        f" rule; {tally.rules:,} rules in {tally.sets:,} indexes ({tally.refused:,} refused),"
        f" {tally.detections:,} detections, {tally.differences:,} differences,"
        f" {time.monotonic() - began:.0f} s; digest {tally.digest[:16]}"
    )
    used = ", ".join(f"{name} {number:,}" for name, number in sorted(tally.modifiers.items()))
    print(f"rules by modifier: {used}", flush=True)
    _tell(tally)
    return tally


def _tell(tally: Tally) -> None:
    for words in tally.told:
        print(f"  DIFFERS {words}")
    if tally.differences > len(tally.told):
        print(f"  and {tally.differences - len(tally.told):,} more")


def _complain(sets: Sequence[SetTally], pairs: PairTally) -> list[str]:
    """Why what was compared would say nothing."""
    complaints = [f"the set {one.name} has no event" for one in sets if not one.events]
    if not sets:
        complaints.append("there is no set")
    elif not any(one.detections for one in sets):
        complaints.append("no rule fires on any set")
    if pairs.share < LEAST_SHARE:
        complaints.append(f"only {pairs.share:.1%} of the pairs match their rule")
    if pairs.unused and pairs.rules >= ALL_MODIFIERS:
        complaints.append(f"no rule uses {', '.join(pairs.unused)}")
    return complaints


if __name__ == "__main__":
    sys.exit(main())
