"""Plays the demonstration's scenario live: appends its lines to growing log files at their times.

Stands where forwarders stand, before the line's sources. Halfway it rotates `sysmon.jsonl` as
logrotate's `create` mode does: the file is renamed to `sysmon.jsonl.1` and a new one begins.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, get_args

from tests.demo.plant import File
from tests.demo.scenario import Step

FILES: Final[tuple[File, ...]] = get_args(File)
ROTATED: Final = "sysmon.jsonl"


def play(
    steps: Sequence[Step],
    directory: Path,
    *,
    begin: Mapping[File, str],
    sleep: Callable[[float], None],
    clock: Callable[[], float],
    on_line: Callable[[Step], None],
) -> None:
    """Append every step's line at its offset from now; returns when all are written.

    `begin` are the first bytes of files that begin with something; `clock` gives seconds, `sleep`
    waits so many, `on_line` is told each step after its line is in the file. Each step is one write
    with its newline. The folder must exist; the files are created when they are not there. Raises
    OSError when a file cannot be written and ValueError for no steps.
    """
    if not steps:
        raise ValueError("there is nothing to play")
    for name in FILES:
        (directory / name).touch()
        if head := begin.get(name):
            append_line(directory / name, head.removesuffix("\n"))
    began = clock()
    rotate_at = find_rotation(steps)
    for number, step in enumerate(steps):
        wait = began + step.offset_s - clock()
        if wait > 0:
            sleep(wait)
        if number == rotate_at:
            rotate_file(directory / ROTATED)
        append_line(directory / step.file, step.line)
        on_line(step)


def find_rotation(steps: Sequence[Step]) -> int:
    """The place of the step before which the file is rotated: half of its lines are written."""
    places = [number for number, step in enumerate(steps) if step.file == ROTATED]
    return places[len(places) // 2] if places else len(steps)


def rotate_file(path: Path) -> None:
    """Rename the file to its name with .1 behind it and begin a new, empty one."""
    path.rename(path.with_name(path.name + ".1"))
    path.touch()


def append_line(path: Path, line: str) -> None:
    """Append the line and its newline by one write."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    try:
        os.write(descriptor, line.encode() + b"\n")
    finally:
        os.close(descriptor)
