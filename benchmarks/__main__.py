"""`python -m benchmarks`: every part, or those that are named, one after another."""

import argparse
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from appliance.errors import ApplianceError
from benchmarks import (
    captures,
    correlation_speed,
    endurance,
    indicator_speed,
    knowledge_speed,
    latency,
    listener,
    next_steps,
    scan_speed,
    sigma_speed,
    start_up,
    workers,
)
from benchmarks.figures import Report


class Part(NamedTuple):
    """One group of figures."""

    text: str
    add_options: Callable[[argparse.ArgumentParser], None]
    measure: Callable[[argparse.Namespace, Report, Path], None]


PARTS: Final[dict[str, Part]] = {
    module.NAME: Part(module.TEXT, module.add_options, module.measure)
    for module in (
        scan_speed,
        sigma_speed,
        indicator_speed,
        knowledge_speed,
        start_up,
        latency,
        workers,
        endurance,
        listener,
        captures,
        correlation_speed,
        next_steps,
    )
}


def build_parser() -> argparse.ArgumentParser:
    """Every part with its options."""
    parts = "\n".join(f"  {name:<15} {part.text}" for name, part in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure the appliance and print the figures. None is asserted.",
        epilog=f"parts:\n{parts}\n\nby itself: python -m benchmarks.knowledge_floor --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help="all but endurance when none is named"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all figures as JSON")
    for part in PARTS.values():
        part.add_options(parser)
    return parser


def describe_machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": read_system_name(),
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def read_system_name() -> str:
    """The distribution's name and version (os-release(5)), or the kernel's."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return platform.platform()
    return release.get("PRETTY_NAME", platform.platform())


def main() -> int:
    """Exit status 1 when something could not be measured, 2 for wrong arguments."""
    parser = build_parser()
    options = parser.parse_args()
    unknown = [name for name in options.parts if name not in PARTS]
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if min(options.runs, options.events, options.attack_every, options.starts) < 1:
        parser.error("numbers must be at least 1")
    if min(options.sigma_events, options.compare_every) < 1:
        parser.error("numbers must be at least 1")
    if min(options.indicators, options.indicator_every, options.entries) < 1:
        parser.error("numbers must be at least 1")
    if min(options.burst_lines, options.heap_lines) < 1 or options.burst_rate <= 0:
        parser.error("numbers must be at least 1")
    if options.out is not None and not options.out.parent.is_dir():
        parser.error(f"no such folder: {options.out.parent}")
    # As an exception, so that what was started is ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    facts = describe_machine()
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    report = Report()
    failed = False
    for name in options.parts or [name for name in PARTS if name != endurance.NAME]:
        with tempfile.TemporaryDirectory(prefix="appliance-bench-") as folder:
            try:
                PARTS[name].measure(options, report, Path(folder))
            except (ApplianceError, RuntimeError, OSError) as error:
                print(f"{name}: not measured to its end: {error}", file=sys.stderr)
                failed = True
    facts["load_at_end"] = [round(load, 2) for load in os.getloadavg()]
    print(f"\nload average at the end: {facts['load_at_end']}")
    if options.out is not None:
        options.out.write_bytes(report.to_json(facts))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
