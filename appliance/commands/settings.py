"""Which configuration a command works with, and small readings of arguments that several share."""

import argparse
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from appliance.config import Config, load_config
from appliance.errors import ApplianceError, ConfigError, UsageError
from appliance.kept import apply_kept
from appliance.places import CONFIG
from appliance.schema import LEVELS
from appliance.store import Store

_AGE = re.compile(r"(\d{1,9})([smhdw])")
_AGE_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def read_config(args: argparse.Namespace) -> Config:
    """The configuration that --config or --state names, else the system's own.

    Raises ConfigError."""
    if args.config:
        config = load_config(Path(args.config))
    elif getattr(args, "state", None):
        config = Config()
    elif is_there(CONFIG):
        config = load_config(CONFIG)
    else:
        raise ConfigError([f"{CONFIG}: no such file; name one with --config"])
    if getattr(args, "state", None):
        config = replace(config, state_dir=args.state, control_socket="")
        config = apply_kept(config, Path(args.state))
    return config


def is_there(path: Path) -> bool:
    """True also for what may not be looked at: reading it will say why."""
    try:
        return path.is_file()
    except OSError:
        return True


def open_store(config: Config) -> Store:
    """The store, to read from. Raises StoreError."""
    if not config.store_path.is_file():
        raise ApplianceError(f"{config.store_path}: no store there: the appliance has never run")
    return Store(config.store_path, read_only=True)


def parse_since(text: str | None, now: float) -> float:
    """ "2h", "7d" (before now) or an ISO 8601 time (UTC unless it says) as epoch seconds; None
    is the beginning. Raises UsageError."""
    if text is None:
        return float("-inf")
    age = _AGE.fullmatch(text)
    if age:
        return now - int(age[1]) * _AGE_SECONDS[age[2]]
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"--since {text!r}: give 30m, 2h, 7d or 2026-11-22T09:00") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def parse_level(text: str | None) -> int:
    """A level's rank; 0 for None."""
    return 0 if text is None else [str(level) for level in LEVELS].index(text)
