"""`make demo`: the real daemon, a synthetic intrusion played live into its logs, and what it says.

Exit code 0 when every finding of the scenario's truth came out by syslog and nothing else did, and
they are one critical incident over the scenario's machines, by syslog and by the command line; 1
when a finding is missing, the ordinary noise raised one, or the incident is not that.
"""

import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from appliance.view import LEVEL_STYLES, clean
from tests.demo.plant import JUMP_HOST, SERVER, WORKSTATION
from tests.demo.player import play
from tests.demo.receiver import Received
from tests.demo.scenario import Step, build_scenario
from tests.demo.stage import Stage

#: How long the last findings may take after the last line, in seconds.
PATIENCE_S = 8.0
#: The machines on which the intrusion happens, as events name a host: no domain, lower case.
MACHINES: Final = {
    machine.name.partition(".")[0].lower() for machine in (WORKSTATION, SERVER, JUMP_HOST)
}


class Screen:
    """What the demonstration shows while it goes on; lines come from two threads."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self.lines: Counter[str] = Counter()

    def say(self, text: str, style: str = "") -> None:
        """One line, with the seconds since the beginning."""
        with self._lock:
            seconds = time.monotonic() - self._began
            self._console.print(Text.assemble((f"{seconds:5.1f}s  ", "dim"), (text, style)))

    def show_step(self, step: Step) -> None:
        """A line was written to a log: only the attacker's are told, the noise is counted."""
        self.lines[step.file] += 1
        if step.truth is not None:
            self.say(f"played   {step.file:<15} {clean(step.note)}", "dim")

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
                f"{clean(params.get('hosts', '?'))}: {clean(params.get('tactics', ''))}",
                "bold",
            )


def compare_with_truth(steps: list[Step], messages: list[Received]) -> tuple[list[str], list[str]]:
    """Titles that should have come and did not, and titles that came and should not have."""
    expected = Counter(step.truth for step in steps if step.truth is not None)
    ids = {m.params["id"]: m.params["title"] for m in messages if m.kind == "FINDING"}
    found = Counter(ids.values())
    return sorted((expected - found).elements()), sorted((found - expected).elements())


def compare_incidents(
    steps: list[Step], messages: list[Received], listed: Sequence[Mapping[str, Any]] | None = None
) -> list[str]:
    """What is wrong with the incidents that were told by syslog, and with those that `appliance
    incidents --json` has `listed`; empty when both are the one that the scenario is.

    By syslog an incident is told when it becomes worse, not at each finding: so its last message
    gives level and machines, and each finding says itself to which it belongs. One that is an alias
    has gone into another.
    """
    found = {m.params["id"]: m.params.get("incident", "") for m in messages if m.kind == "FINDING"}
    last = {m.params["id"]: m.params for m in messages if m.kind == "INCIDENT"}
    aliases = {key: set(params.get("aliases", "").split(",")) for key, params in last.items()}
    merged = set().union(*aliases.values())
    told = [
        (params.get("level", ""), params.get("hosts", "").split(","), held)
        for key, params in last.items()
        if key not in merged
        for held in [{f for f, into in found.items() if into in {key} | aliases[key]}]
    ]
    wrong = _judge_incidents("by syslog", told, steps)
    if listed is not None:
        shown = [(row["level"], row["hosts"], set(row["findings"])) for row in listed]
        wrong += _judge_incidents("by `appliance incidents`", shown, steps)
        if len(told) == len(shown) == 1 and told[0][2] != shown[0][2]:
            wrong.append("the findings of the incident are others than those that came by syslog")
    return wrong


def _judge_incidents(
    where: str, incidents: Sequence[tuple[str, Sequence[str], set[str]]], steps: list[Step]
) -> list[str]:
    if len(incidents) != 1:
        return [f"{where}: {len(incidents)} incidents instead of one"]
    level, hosts, held = incidents[0]
    expected = sum(step.truth is not None for step in steps)
    wrong = []
    if level != "critical":
        wrong.append(f"{where}: the incident is {level} and not critical")
    if set(hosts) != MACHINES:
        wrong.append(f"{where}: it is on {sorted(hosts)} and not on {sorted(MACHINES)}")
    if len(held) != expected:
        wrong.append(f"{where}: it holds {len(held)} findings of {expected}")
    return wrong


def run_demo(folder: Path) -> int:
    """The whole demonstration in a scratch directory."""
    screen = Screen()
    screen.say("starting the daemon on a scratch directory; the scenario is SYNTHETIC")
    stage = Stage(folder, screen.show_message)
    try:
        screen.say(f"the daemon is up after {stage.start_seconds:.1f} s; playing 24 s of logs")
        steps = build_scenario(time.time())
        play(steps, stage.logs, sleep=time.sleep, clock=time.monotonic, on_line=screen.show_step)
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
        for command in (["status"], ["incidents"]):
            screen.say("$ appliance " + " ".join(command))
            sys.stdout.write(stage.ask(*command) + "\n")
        listed = stage.ask_json("incidents")
        assert isinstance(listed, list)
        wrong = compare_incidents(steps, messages, listed)
    finally:
        code = stage.close()
    if code != 0:
        screen.say(f"the daemon ended with {code}:\n{stage.read_log()}", "bold red")
    for title in missing:
        screen.say(f"MISSING  {title}", "bold red")
    for title in surplus:
        screen.say(f"SURPLUS  {title}: the noise raised a finding", "bold red")
    for reason in wrong:
        screen.say(f"WRONG    {clean(reason, 1000)}", "bold red")
    expected = sum(step.truth is not None for step in steps)
    noise = len(steps) - expected
    good = not (missing or surplus or wrong or code)
    screen.say(
        f"{expected - len(missing)} of {expected} expected findings came out by syslog, "
        f"{len(surplus)} from {noise} lines of ordinary noise",
        "bold green" if good else "bold red",
    )
    screen.say(
        "they are not the one critical incident that they should be"
        if wrong
        else f"they are one critical incident on {', '.join(sorted(MACHINES))}, "
        "by syslog and by `appliance incidents`",
        "bold green" if good else "bold red",
    )
    return 0 if good else 1


def main() -> int:
    """Run in a scratch directory that is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="appliance-demo-") as folder:
        return run_demo(Path(folder))


if __name__ == "__main__":
    sys.exit(main())
