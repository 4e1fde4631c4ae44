"""Beside the line: the folder that `scan --state` keeps, like a daemon's state directory.

A note beside the store says by which rules and formats, and from which files, so that the commands
that look need no configuration for it.
"""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from appliance.config import Config, FilesSource
from appliance.errors import ConfigError, UsageError

#: Name of the source of everything that a scan reads.
SOURCE: Final = "scan"
#: The note's file in the folder, and its longest (bytes).
KEPT_FILE: Final = "scan.json"
_LONGEST: Final = 16 << 20


class Kept(msgspec.Struct, frozen=True):
    """What a scan notes of itself: `finished` in epoch seconds, `paths` and `rules` (empty: the
    default set) absolute, `-` for standard input."""

    version: str
    finished: float
    paths: tuple[str, ...]
    rules: tuple[str, ...]
    input_format: str


def prepare_state(state: Path) -> bool:
    """Make sure of an empty folder; True when it had to be made. Raises UsageError."""
    try:
        state.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        try:
            full = any(state.iterdir())
        except OSError as error:
            raise UsageError(f"--state: {state}: {error.strerror or error}") from error
        if full:
            reason = "holds something: name a new folder or an empty one"
            raise UsageError(f"--state: {state}: {reason}") from None
        return False
    except OSError as error:
        raise UsageError(f"--state: {state}: {error.strerror or error}") from error
    return True


def clear_state(state: Path, *, made: bool) -> None:
    """Undo what a failed scan put there; the folder itself, too, if it was `made` for it."""
    if made:
        shutil.rmtree(state, ignore_errors=True)
        return
    for path in state.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def keep_in(config: Config, state: Path | None) -> Config | None:
    """The configuration of a scan that keeps its store and archive in the folder; None without
    one."""
    if state is None:
        return None
    return replace(config, state_dir=str(state), archive=replace(config.archive, path=""))


def write_kept(state: Path, kept: Kept) -> None:
    """Put the note there, whole or not at all. Paths that are no UTF-8 are shown with escapes."""
    shown = msgspec.structs.replace(
        kept,
        paths=tuple(_show(path) for path in kept.paths),
        rules=tuple(_show(path) for path in kept.rules),
    )
    new = state / f"{KEPT_FILE}.new"
    with new.open("wb") as out:
        out.write(msgspec.json.format(msgspec.json.encode(shown)) + b"\n")
        out.flush()
        os.fsync(out.fileno())
    new.replace(state / KEPT_FILE)


def _show(path: str) -> str:
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def apply_kept(config: Config, state: Path) -> Config:
    """The configuration with the rules, files and archive of the scan that made the folder;
    unchanged where none did. Raises ConfigError for a note that is damaged, OSError."""
    path = state / KEPT_FILE
    try:
        with path.open("rb") as file:
            kept = msgspec.json.decode(file.read(_LONGEST), type=Kept)
    except (FileNotFoundError, NotADirectoryError):
        return config
    except ValueError as error:  # msgspec's errors
        raise ConfigError([f"{path}: {error}"]) from error
    source = FilesSource(SOURCE, kept.paths, format=kept.input_format)
    others = tuple(spec for spec in config.sources if spec.name != SOURCE)
    return replace(
        config,
        rules=kept.rules or config.rules,
        sources=(*others, source),
        archive=replace(config.archive, path=""),
    )
