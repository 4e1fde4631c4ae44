"""Before the line: the demonstration's plant, its play repeated until there is enough to measure.

SYNTHETIC. Each round is one play of ordinary noise, and in every n-th the intrusion too, behind the
round before it in time and with record numbers that go on. The noise differs from round to round,
so that no cache of whole lines can flatter the line. The same arguments give the same bytes.
"""

import os
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from random import Random
from typing import Final, TextIO

from tests.demo.plant import Draft, File, Machine, Pen
from tests.demo.player import FILES
from tests.demo.scenario import (
    LENGTH_S,
    SEED,
    begin_files,
    draft_intrusion,
    draft_ordinary,
    write_draft,
)

#: 2026-09-21 14:13:20 UTC: a first second that never changes.
START: Final = 1_790_000_000.0
FIRST_NUMBER: Final = 51_200
#: The logs in which each line is a record: not so audit.log, whose lines are joined, and Zeek's,
#: which begin with a header.
LINE_LOGS: Final = ("auth.log", "security.jsonl", "sysmon.jsonl")


@dataclass(frozen=True, slots=True)
class PlantLogs:
    """What was written: `lines` in all files, an audit event counting as one, of which `attack` are
    steps that must be found."""

    folder: Path
    lines: int
    attack: int
    size: int


def write_plant_logs(folder: Path, lines: int, attack_every: int = 1) -> PlantLogs:
    """Write whole rounds into the folder's files until there are at least so many records.

    The files' last change is the last record's time, as auth.log's year is told by it.
    """
    written = attack = number = 0
    numbers: dict[tuple[Machine, File], int] = {}
    handles: dict[str, TextIO] = {
        name: (folder / name).open("w", encoding="utf-8") for name in FILES
    }
    for name, head in begin_files(START).items():
        handles[name].write(head)
    try:
        while written < lines:
            start = START + number * LENGTH_S
            drafts = draft_round(start, number, with_attack=number % attack_every == 0)
            _write_round(drafts, start, numbers, handles)
            written += len(drafts)
            attack += sum(draft.truth is not None for draft in drafts)
            number += 1
    finally:
        for handle in handles.values():
            handle.close()
    last = START + number * LENGTH_S
    for name in FILES:
        os.utime(folder / name, (last, last))
    size = sum((folder / name).stat().st_size for name in FILES)
    return PlantLogs(folder, written, attack, size)


def draft_round(start: float, number: int, *, with_attack: bool) -> list[Draft]:
    """One play from `start` (epoch seconds), in order of time."""
    pen = Pen(start)
    drafts = draft_ordinary(pen, Random(SEED + number))
    if with_attack:
        drafts += draft_intrusion(pen)
    return sorted(drafts, key=lambda draft: draft.offset_s)


def _write_round(
    drafts: list[Draft],
    start: float,
    numbers: dict[tuple[Machine, File], int],
    handles: dict[str, TextIO],
) -> None:
    for draft in drafts:
        number = numbers.get((draft.machine, draft.file), FIRST_NUMBER)
        numbers[draft.machine, draft.file] = number + 1
        handles[draft.file].write(write_draft(draft, start, number, UTC) + "\n")
