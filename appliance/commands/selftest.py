"""`selftest`: does every part do its work?"""

import argparse
import time
from itertools import chain
from pathlib import Path
from typing import Any, Final

import msgspec

from appliance.commands.settings import read_config
from appliance.config import Config
from appliance.control import ask_daemon
from appliance.errors import ApplianceError, Exit
from appliance.places import CONFIG
from appliance.selftest import Check, Scene, run_checks
from appliance.view import View, clean

_STYLES: Final = {"ok": "green", "WARN": "yellow", "FAIL": "bold red"}


def selftest(args: argparse.Namespace) -> Exit:
    """`appliance selftest`: exit 1 when a check fails; a bad configuration is exit 3."""
    config = read_config(args)
    view = View()
    status, silent = _ask_status(config)
    scene = Scene(config, _name_config(args), status, time.time())
    checks: list[Check] = []
    for check in chain([silent] if silent else [], run_checks(scene)):
        checks.append(check)
        if not args.json:
            _print_check(view, check)
    failed = sum(check.state == "FAIL" for check in checks)
    warned = sum(check.state == "WARN" for check in checks)
    if args.json:
        view.json(
            {
                "ok": not failed,
                "running": status is not None,
                "failed": failed,
                "warned": warned,
                "checks": [msgspec.to_builtins(check) for check in checks],
            }
        )
    else:
        view.line(f"{len(checks)} checks, {failed} failed, {warned} warnings")
    return Exit.FOUND_OR_FAILED if failed else Exit.DONE


def _print_check(view: View, check: Check) -> None:
    """At once, since some take seconds."""
    view.line(
        f"{check.state:<4}  {clean(check.what)}: {clean(check.words, 4000)}", _STYLES[check.state]
    )


def _ask_status(config: Config) -> tuple[dict[str, Any] | None, Check | None]:
    """The running daemon's status (None when none runs), and the failure to give one."""
    try:
        return ask_daemon(config.control_path, {"ask": "status"}), None
    except ApplianceError as error:
        return None, Check("daemon's answer", "FAIL", str(error))


def _name_config(args: argparse.Namespace) -> str:
    """The file that the configuration came from; empty when it came from none."""
    if args.config:
        return str(Path(args.config))
    return "" if args.state else str(CONFIG)
