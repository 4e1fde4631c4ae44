"""`make demo`: the real daemon, a synthetic intrusion played live into its logs, and what it says.

Exit code 0 when every finding of the scenario's truth came out by syslog and nothing else did, the
intrusion's are one critical incident over the scenario's machines and the silent sensor is an
incident of its own, by syslog and by the command line, `status` names the silent sensor as a
trouble, and the heart beat; 1 when any of this is not so.

The silence is no part of the intrusion's incident because it shares nothing with it: what joins
findings are hosts, accounts, addresses and the like, and all that is known of a silence is the name
of the log source.
"""

import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from appliance.decode import decode
from appliance.detect.sentinel.texts import list_texts
from appliance.normalise import normalise
from appliance.schema import Cursor, RawRecord, Sighting
from appliance.view import LEVEL_STYLES, clean
from tests.demo.plant import JUMP_HOST, ORDINARY, SERVER, WEB_SERVER, WORKSTATION
from tests.demo.player import play
from tests.demo.receiver import Received
from tests.demo.scenario import LENGTH_S, SILENCE, Step, begin_files, build_scenario
from tests.demo.stage import Stage

#: How long the last findings may take after the last line, in seconds. The silence is told some 4 s
#: after the last line: it has to last, and is looked for every 2 s.
PATIENCE_S = 15.0
#: Fewest heartbeats of a play, at one every 5 s.
LEAST_BEATS = 4
#: The machines on which the intrusion happens, as events name a host: no domain, lower case.
MACHINES: Final = {
    machine.name.partition(".")[0].lower()
    for machine in (WORKSTATION, SERVER, JUMP_HOST, WEB_SERVER)
}


class Screen:
    """What the demonstration shows while it goes on; lines come from two threads."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self.lines: Counter[str] = Counter()
        self.beats: list[Received] = []

    def say(self, text: str, style: str = "") -> None:
        """One line, with the seconds since the beginning."""
        with self._lock:
            seconds = time.monotonic() - self._began
            self._console.print(Text.assemble((f"{seconds:5.1f}s  ", "dim"), (text, style)))

    def show_step(self, step: Step) -> None:
        """A record was written to a log: only the attacker's are told, the noise is counted."""
        self.lines[step.file] += 1 + step.line.count("\n")
        if step.note != ORDINARY:
            self.say(f"played   {step.file:<16} {clean(step.note)}", "dim")

    def show_message(self, message: Received) -> None:
        """A message came out of the daemon."""
        params = message.params
        level = params.get("level", "")
        if message.kind == "FINDING":
            said = f"{params.get('technique', ''):<10} {clean(params['title'])}"
            host = clean(params.get("host", ""))
            self.say(f"FINDING  {level:<8} {host:<14} {said}", LEVEL_STYLES.get(level, ""))
        elif message.kind == "INCIDENT":
            self.say(
                f"INCIDENT {level:<8} {clean(params.get('findings', '?'))} findings on "
                f"{clean(params.get('hosts') or 'no host')}: {clean(params.get('tactics', ''))}",
                "bold",
            )
        elif message.kind == "HEARTBEAT":
            self.beats.append(message)
            if len(self.beats) == 1:
                self.say(f"HEARTBEAT {describe_beat(message)} (the first; they go on every 5 s)")


def describe_beat(message: Received) -> str:
    """What a heartbeat says, for people."""
    params = message.params
    well = "all is well" if params.get("healthy") == "true" else "NOT healthy"
    trouble = f": {clean(params['trouble'])}" if params.get("trouble") else ""
    return (
        f"{well}{trouble}; {clean(params.get('sources'))} sources, {clean(params.get('rules'))} "
        f"rules, {clean(params.get('seen'))} records seen"
    )


def list_expected(steps: list[Step]) -> Counter[str]:
    """Titles of all findings that must come, with how many times each."""
    return Counter([*(step.truth for step in steps if step.truth is not None), SILENCE.truth])


def compare_with_truth(steps: list[Step], messages: list[Received]) -> tuple[list[str], list[str]]:
    """Titles that should have come and did not, and titles that came and should not have."""
    expected = list_expected(steps)
    rules = [m for m in messages if m.kind == "FINDING" and not is_sentinel(m.params)]
    ids = {m.params["id"]: m.params["title"] for m in rules}
    found = Counter(ids.values())
    return sorted((expected - found).elements()), sorted((found - expected).elements())


def is_sentinel(params: Mapping[str, str]) -> bool:
    """Whether a finding is the sentinel's."""
    return params.get("rule", "").startswith("sentinel:")


def judge_sentinel(steps: Sequence[Step], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Texts that the sentinel found and that no step of the intrusion has. `rows` are the findings
    of `appliance findings --json`."""
    events = [read_step(step) for step in steps if step.note != ORDINARY]
    theirs = {text.text for event in events for text in list_texts(event.views, event.host)}
    found = [row["sentinel"]["text"] for row in rows if row["detector"] == "sentinel"]
    return [f"{text} (sentinel)" for text in found if text not in theirs]


def read_step(step: Step, position: int = 0, start: float = 0.0) -> Sighting:
    """The step's line through decode and normalise, received when it was written, with its file's
    header as the source gives it."""
    data = step.line.encode()
    cursor = Cursor("demo", step.file, position, position + 1)
    header = begin_files(start).get(step.file, "").encode()
    received = start + step.offset_s + 0.1
    record = RawRecord(data, "demo", step.file, step.file, cursor, received, header=header)
    return normalise(record, decode(record), zone=UTC)


def compare_incidents(
    steps: list[Step], messages: list[Received], listed: Sequence[Mapping[str, Any]] | None = None
) -> list[str]:
    """What is wrong with the incidents that were told by syslog, and with those that `appliance
    incidents --json` has `listed`; empty when both are those of the scenario: the intrusion, and
    the silent sensor by itself.

    By syslog an incident is told when it becomes worse, not at each finding: so its last message
    gives level and machines, and each finding says itself to which it belongs. One that is an alias
    has gone into another.
    """
    findings = {m.params["id"]: m.params for m in messages if m.kind == "FINDING"}
    models = {key for key, params in findings.items() if is_sentinel(params)}
    findings = {key: params for key, params in findings.items() if key not in models}
    found = {key: params.get("incident", "") for key, params in findings.items()}
    silent = {key for key, params in findings.items() if params["title"] == SILENCE.truth}
    last = {m.params["id"]: m.params for m in messages if m.kind == "INCIDENT"}
    aliases = {key: set(params.get("aliases", "").split(",")) for key, params in last.items()}
    merged = set().union(*aliases.values())
    told = [
        (params.get("level", ""), [h for h in params.get("hosts", "").split(",") if h], held)
        for key, params in last.items()
        if key not in merged
        for held in [{f for f, into in found.items() if into in {key} | aliases[key]}]
    ]
    wrong = _judge_incidents("by syslog", told, silent, steps)
    if listed is not None:
        shown = [(row["level"], row["hosts"], set(row["findings"]) - models) for row in listed]
        wrong += _judge_incidents("by `appliance incidents`", shown, silent, steps)
        if len(told) == len(shown) and not all(
            any(held == other for _, _, other in shown) for _, _, held in told
        ):
            wrong.append("the findings of the incidents are others than those that came by syslog")
    return wrong


#: Level, hosts, and the findings' ids.
Told = tuple[str, Sequence[str], set[str]]


def _judge_incidents(
    where: str, incidents: Sequence[Told], silent: set[str], steps: list[Step]
) -> list[str]:
    """`silent` are the ids of findings that a source is silent."""
    alone = [told for told in incidents if told[2] and told[2] <= silent]
    others = [told for told in incidents if told not in alone]
    wrong = []
    if len(alone) != 1:
        wrong.append(f"{where}: {len(alone)} incidents of a silent sensor alone instead of one")
    elif alone[0][1]:
        wrong.append(f"{where}: the silent sensor's incident is on {sorted(alone[0][1])}")
    if len(others) != 1:
        return [*wrong, f"{where}: {len(others)} incidents of the intrusion instead of one"]
    level, hosts, held = others[0]
    expected = sum(step.truth is not None for step in steps)
    if level != "critical":
        wrong.append(f"{where}: the incident is {level} and not critical")
    if set(hosts) != MACHINES:
        wrong.append(f"{where}: it is on {sorted(hosts)} and not on {sorted(MACHINES)}")
    if len(held) != expected:
        wrong.append(f"{where}: it holds {len(held)} findings of {expected}")
    return wrong


def judge_health(beats: Sequence[Received], status: Mapping[str, Any]) -> list[str]:
    """What is wrong with the heartbeats that came and with what `appliance status --json` says of
    the silent sensor."""
    wrong = []
    if len(beats) < LEAST_BEATS:
        wrong.append(f"{len(beats)} heartbeats came, {LEAST_BEATS} at least should have")
    ids = {beat.params["id"] for beat in beats}
    if len(ids) != len(beats):
        wrong.append(f"{len(beats)} heartbeats have {len(ids)} ids")
    real = [trouble for trouble in status["troubles"] if not trouble["notice"]]
    named = [t for t in real if t["part"] == f"source {SILENCE.source}" and "silent" in t["words"]]
    if not named:
        wrong.append(f"`appliance status` does not say that source {SILENCE.source} is silent")
    for trouble in real:
        if trouble["part"].startswith("source ") and trouble not in named:
            wrong.append(f"`appliance status` says {trouble['part']}: {trouble['words']}")
    return wrong


def run_demo(folder: Path) -> int:
    """The whole demonstration in a scratch directory."""
    screen = Screen()
    screen.say("starting the daemon on a scratch directory; the scenario is SYNTHETIC")
    stage = Stage(folder, screen.show_message, expect_every=SILENCE.expect_every_s)
    try:
        screen.say(
            f"the daemon is up after {stage.start_seconds:.1f} s; playing {LENGTH_S:.0f} s of logs"
        )
        start = time.time()
        steps = build_scenario(start)
        play(
            steps,
            stage.logs,
            begin=begin_files(start),
            sleep=time.sleep,
            clock=time.monotonic,
            on_line=screen.show_step,
        )
        messages = stage.receiver.messages
        stage.receiver.wait_for(
            lambda: (
                not (compare_with_truth(steps, messages)[0] or compare_incidents(steps, messages))
            ),
            PATIENCE_S,
        )
        written = ", ".join(f"{n} lines of {name}" for name, n in sorted(screen.lines.items()))
        screen.say(f"played {written}")
        missing, surplus = compare_with_truth(steps, messages)
        screen.say("$ appliance status   (its first lines, as a night shift sees them)")
        sys.stdout.write(stage.ask("status").partition("\nrules: ")[0] + "\n")
        screen.say("$ appliance incidents")
        sys.stdout.write(stage.ask("incidents") + "\n")
        sys.stdout.flush()
        listed, status = stage.ask_json("incidents"), stage.ask_json("status")
        rows = stage.ask_json("findings")
        assert isinstance(listed, list) and isinstance(status, dict) and isinstance(rows, list)
        strange = judge_sentinel(steps, rows)
        surplus += strange
        seen = sum(row["detector"] == "sentinel" for row in rows) - len(strange)
        screen.say(f"beside the rules the sentinel found {seen} records of the intrusion")
        wrong = compare_incidents(steps, messages, listed) + judge_health(screen.beats, status)
    finally:
        code = stage.close()
    return tell_result(screen, steps, (missing, surplus, wrong), code, stage.read_log())


def tell_result(
    screen: Screen,
    steps: list[Step],
    result: tuple[list[str], list[str], list[str]],
    code: int,
    log: str,
) -> int:
    """The last lines, and the exit code. `result` is what is missing, surplus and wrong; `code` and
    `log` are the daemon's."""
    missing, surplus, wrong = result
    if code != 0:
        screen.say(f"the daemon ended with {code}:\n{log}", "bold red")
    for title in missing:
        screen.say(f"MISSING  {title}", "bold red")
    for title in surplus:
        screen.say(f"SURPLUS  {title}: the noise raised a finding", "bold red")
    for reason in wrong:
        screen.say(f"WRONG    {clean(reason, 1000)}", "bold red")
    expected = list_expected(steps).total()
    noise = sum(step.note == ORDINARY for step in steps)
    good = not (missing or surplus or wrong or code)
    style = "bold green" if good else "bold red"
    last = f"; the last: {describe_beat(screen.beats[-1])}" if screen.beats else ""
    screen.say(f"{len(screen.beats)} heartbeats came, one every 5 s{last}")
    screen.say(
        f"{expected - len(missing)} of {expected} expected findings came out by syslog, "
        f"{len(surplus)} from {noise} records of ordinary noise",
        style,
    )
    if wrong:
        screen.say("incidents, heartbeats or status are not as they should be", style)
    else:
        screen.say(
            f"{expected - 1} of them are one critical incident on {', '.join(sorted(MACHINES))}, "
            "by syslog and by `appliance incidents`",
            style,
        )
        screen.say(
            f"the silent sensor ({SILENCE.source}) is an incident of its own: a silence names no "
            "host, account or address that the intrusion's findings could share",
            style,
        )
    return 0 if good else 1


def main() -> int:
    """Run in a scratch directory that is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="appliance-demo-") as folder:
        return run_demo(Path(folder))


if __name__ == "__main__":
    sys.exit(main())
