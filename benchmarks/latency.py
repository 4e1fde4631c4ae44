"""Beside the line: how long after a log line was written its finding is received by syslog.

Four plays on the demonstration's stage, the real daemon with a collector's socket beside it, each
on a stage of its own. A line's time runs from the return of its write to the receipt of the
datagram, a heap's from before its write.
An audit event waits for the one behind it, which tells that it is whole: the scenario's slowest.
The scenario starts as soon as the daemon is up, the others when the experts are through.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path
from random import Random
from typing import Final

from appliance.control import ask_daemon
from benchmarks.children import show_part
from benchmarks.figures import Report, find_quantile
from tests.demo.plant import JUMP_HOST, sudo_line
from tests.demo.player import append_line, play
from tests.demo.receiver import Received
from tests.demo.render import write_syslog_3164
from tests.demo.scenario import LENGTH_S, SEED, Step, begin_files, build_scenario
from tests.demo.stage import Stage

NAME: Final = "latency"
TEXT: Final = "milliseconds from a line written to its finding received; time to work off a heap"
LOG: Final = "auth.log"
PATIENCE_SECONDS: Final = 10.0
HEAP_PATIENCE_SECONDS: Final = 300.0
QUIET_SECONDS: Final = 60.0
MARKED_EVERY: Final = 20
QUANTILES: Final = (("p50", 0.50), ("p90", 0.90), ("p99", 0.99), ("max", 1.0))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this part."""
    group = parser.add_argument_group(NAME, TEXT)
    group.add_argument(
        "--burst-lines", type=int, default=1000, metavar="N", help="lines of the burst (1,000)"
    )
    group.add_argument(
        "--burst-rate", type=float, default=50.0, metavar="N", help="its lines a second (50)"
    )
    group.add_argument(
        "--heap-lines", type=int, default=20_000, metavar="N",
        help="lines appended at once (20,000)",
    )  # fmt: skip


def measure(options: argparse.Namespace, report: Report, folder: Path) -> None:
    """Print the figures of every play. Raises RuntimeError when the daemon does not come up."""
    report.begin(NAME, f"the demonstration's scenario, {LENGTH_S:.0f} s live", show_part(NAME))
    _measure_scenario(report, folder)
    lines, rate = options.burst_lines, options.burst_rate
    report.begin(
        NAME,
        f"{lines:,} lines at {rate:g} a second, each a finding",
        show_part(NAME, "--burst-lines", lines, "--burst-rate", f"{rate:g}"),
    )
    _measure_burst(report, folder, lines, rate)
    for every in (MARKED_EVERY, 1):
        share = "every line" if every == 1 else f"every {every}th line"
        report.begin(
            NAME,
            f"{options.heap_lines:,} lines appended at once, {share} a finding",
            show_part(NAME, "--heap-lines", options.heap_lines),
        )
        _measure_heap(report, folder, options.heap_lines, every)


class Findings:
    """What the collector received: first receipt of each finding by id, in order of receipt."""

    def __init__(self) -> None:
        self.received: dict[str, Received] = {}
        self.kinds: defaultdict[str, int] = defaultdict(int)

    def take(self, message: Received) -> None:
        """Called by the receiver for every message."""
        self.kinds[message.kind] += 1
        if message.kind == "FINDING":
            self.received.setdefault(message.params["id"], message)


@contextmanager
def open_stage(folder: Path) -> Iterator[tuple[Stage, Findings]]:
    """A daemon on a fresh scratch directory; it is ended, having delivered, on leaving."""
    findings = Findings()
    # A Unix socket's path may have 107 bytes only (unix(7)), so the name is short.
    place = Path(tempfile.mkdtemp(prefix="s", dir=folder))
    stage = Stage(place, findings.take)
    try:
        yield stage, findings
    finally:
        stage.close()


def match_steps(
    written: Sequence[tuple[str, float]], findings: Sequence[Received]
) -> tuple[list[float], int]:
    """Milliseconds of each finding, the n-th of a title belonging to the n-th line with that
    title; and how many findings belong to no line. `written` is (title, time) in order."""
    waiting: defaultdict[str, deque[float]] = defaultdict(deque)
    for title, at in written:
        waiting[title].append(at)
    late: list[float] = []
    surplus = 0
    for message in findings:
        times = waiting[message.params["title"]]
        if times:
            late.append((message.at - times.popleft()) * 1000)
        else:
            surplus += 1
    return late, surplus


def _measure_scenario(report: Report, folder: Path) -> None:
    written: list[tuple[str, float]] = []

    def note_step(step: Step) -> None:
        if step.truth is not None:
            written.append((step.truth, time.monotonic()))

    with open_stage(folder) as (stage, findings):
        start = time.time()
        steps = build_scenario(start)
        play(
            steps,
            stage.logs,
            begin=begin_files(start),
            sleep=time.sleep,
            clock=time.monotonic,
            on_line=note_step,
        )
        stage.receiver.wait_for(lambda: len(findings.received) >= len(written), PATIENCE_SECONDS)
    late, surplus = match_steps(written, list(findings.received.values()))
    _report_late(report, late, len(written), surplus)


def draft_marked_line(number: int) -> str:
    """A line of sudo or sshd that one default rule finds, with a user of its own."""
    user = f"bench{number:06d}"
    if number % 2:
        text = f"Invalid user {user};id from 198.51.100.7 port {20_000 + number % 40_000}"
        return write_syslog_3164(time.time(), JUMP_HOST.name, "sshd", 4000, text, UTC)
    command = sudo_line(user, "/bin/bash")
    return write_syslog_3164(time.time(), JUMP_HOST.name, "sudo", None, command, UTC)


def draft_plain_line(number: int, rng: Random) -> str:
    """A line of sshd that no rule finds."""
    user, port = f"bench{number:06d}", rng.randrange(40_000, 60_000)
    text = f"Failed password for {user} from 198.51.100.7 port {port} ssh2"
    return write_syslog_3164(time.time(), JUMP_HOST.name, "sshd", 4000, text, UTC)


def _await_quiet(stage: Stage, report: Report) -> None:
    """Wait until the experts have worked through the rules, so that the line alone is measured:
    until the encoder has answered something, and nothing more for a second."""
    until = time.monotonic() + QUIET_SECONDS
    before = -1
    while time.monotonic() < until:
        answer = ask_daemon(stage.folder / "state" / "control.sock", {"ask": "status"}) or {}
        models = answer.get("models", {"missing": "", "encoder": {"answered": 0}})
        if models["missing"]:
            report.note(f"without the model: {models['missing']}")
            return
        answered = int(models["encoder"]["answered"])
        if answered > 0 and answered == before:
            return
        before = answered
        time.sleep(1.0)
    report.note(f"the experts were not through with the rules after {QUIET_SECONDS:g} s")


def _measure_burst(report: Report, folder: Path, lines: int, rate: float) -> None:
    written: dict[int, float] = {}
    with open_stage(folder) as (stage, findings):
        path = stage.logs / LOG
        path.touch()
        _await_quiet(stage, report)
        offset, began = 0, time.monotonic()
        for number in range(lines):
            wait = began + number / rate - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            line = draft_marked_line(number)
            append_line(path, line)
            written[offset] = time.monotonic()
            offset += len(line.encode()) + 1
        took = time.monotonic() - began
        stage.receiver.wait_for(lambda: len(findings.received) >= lines, PATIENCE_SECONDS)
    # The syslog message does not name its line; the file sink's does, under the same id.
    places = read_places(stage.folder / "findings.jsonl")
    late = []
    for key, message in findings.received.items():
        at = written.get(places.get(key, -1))
        if at is not None:
            late.append((message.at - at) * 1000)
    report.add("lines written", lines / took, "lines/s", lines, "lines")
    _report_late(report, late, lines, len(findings.received) - len(late))


def read_places(path: Path) -> dict[str, int]:
    """Byte offset of the line of each finding in a file of findings, by the finding's id."""
    with path.open("rb") as lines:
        bodies = [json.loads(line) for line in lines]
    # The heartbeats stand in the file too.
    found = [body for body in bodies if body["kind"] == "finding"]
    return {str(body["id"]): int(body["source"]["record"]) for body in found}


def _measure_heap(report: Report, folder: Path, lines: int, every: int) -> None:
    rng = Random(SEED)
    # The last line is a marked one: its finding ends the measurement.
    marked = {number for number in range(lines) if (lines - 1 - number) % every == 0}
    drafts = [
        draft_marked_line(number) if number in marked else draft_plain_line(number, rng)
        for number in range(lines)
    ]
    with open_stage(folder) as (stage, findings):
        path = stage.logs / LOG
        path.touch()
        _await_quiet(stage, report)
        began = time.monotonic()
        append_line(path, "\n".join(drafts))
        stage.receiver.wait_for(
            lambda: len(findings.received) >= len(marked), HEAP_PATIENCE_SECONDS
        )
        times = sorted(message.at - began for message in findings.received.values())
    report.add("findings received", len(times), "findings", len(marked), "marked lines")
    if times:
        report.add("first finding received", times[0], "s", len(times), "findings")
        report.add("last finding received", times[-1], "s", len(times), "findings")
        report.add("lines worked off", lines / times[-1], "lines/s", lines, "lines")
    others = ", ".join(
        f"{count} {kind}" for kind, count in sorted(findings.kinds.items()) if kind != "FINDING"
    )
    report.note(f"other messages: {others or 'none'}")


def _report_late(report: Report, late: Sequence[float], expected: int, surplus: int) -> None:
    report.add("findings received", len(late), "findings", expected, "marked lines")
    if surplus:
        report.add("findings that belong to no line", surplus, "findings", expected, "marked lines")
    if not late:
        report.note("nothing came: no latency to tell")
        return
    for name, share in QUANTILES:
        report.add(name, find_quantile(late, share), "ms", len(late), "findings")
    slow = find_quantile(late, 0.99)
    report.note(f"p99 is {'under' if slow < 1000 else 'NOT under'} 1 s ({len(late)} findings)")
