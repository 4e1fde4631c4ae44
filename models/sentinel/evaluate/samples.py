"""Stage `evaluate`, what is compared: the test's attacks and its real background.

`strict` samples have no near copy in training (they are in examples.jsonl); the others are what the
stage `examples` took out of the test for that (seen.jsonl): the whole stream has both. A file of
attacks keeps all of its texts here, also those that another file has too.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from models.sentinel.rows import Example, draw, read_rows
from models.sentinel.scrub import scrub_text

#: Sources of attacks that training never saw anything of.
WHOLE_SOURCES: Final = ("evtx-attack-samples", "stockpile", "gtkcyber")
#: Sources whose background is real telemetry or real commands. Documentation (tldr), questions
#: (nl2bash) and lists of names are told apart: against them a form is found, not malice.
REAL: Final = frozenset(
    {"security-datasets", "ordinary", "rita", "stratosphere", "loghub", "wazuh-ruleset", "gtkcyber"}
)
#: Rows of validation and test that a small run is content with, about.
_SMALL_ROWS: Final = 1_500


class Sample(msgspec.Struct, frozen=True):
    """One distinct text of one source. `groups` are the files, abilities or captures it is in."""

    text: str
    kind: str
    os: str
    label: int
    source: str
    groups: tuple[str, ...]
    strict: bool
    shape: str
    unseen: bool
    real: bool


class Samples(msgspec.Struct):
    """All that is compared. `attack_texts` maps a source's group to its attack's texts as (kind,
    text), for sources with groups of more than one event."""

    attacks: list[Sample]
    background: list[Sample]
    attack_texts: dict[str, dict[str, set[tuple[str, str]]]]
    labelled: list[Example]
    valid: list[Example]


def gather_samples(work: Path, *, small: bool) -> Samples:
    """Read examples.jsonl, and seen.jsonl and corpus.jsonl where they are. Raises OSError,
    msgspec.MsgspecError."""
    rows: list[tuple[Example, bool]] = []
    for name, strict in (("examples.jsonl", True), ("seen.jsonl", False)):
        if (work / name).is_file():
            held = {(row.kind, row.text) for row, _ in rows}
            rows += [
                (row, strict)
                for row in read_rows(work / name)
                if row.split != "train" and (row.kind, row.text) not in held
            ]
    if small:
        percent = 100 * _SMALL_ROWS / max(len(rows), 1)
        rows = [pair for pair in rows if _is_file(pair[0]) or draw("small", pair[0].text) < percent]
    groups = _gather_groups(work, (row for row, _ in rows))
    owners: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for source, members in groups.items():
        for group, texts in members.items():
            for kind, text in texts:
                owners[source, kind, text].add(group)
    test = [(row, strict) for row, strict in rows if row.split == "test"]
    made = [
        _make_sample(row, strict, owners.get((row.source, row.kind, row.text), set()))
        for row, strict in test
        if row.label is not None or row.attack_event
    ]
    return Samples(
        attacks=[sample for sample in made if sample.label == 1],
        background=[sample for sample in made if sample.label == 0],
        attack_texts=groups,
        labelled=[row for row, strict in test if strict and row.label is not None],
        valid=[row for row, _ in rows if row.split == "valid" and row.label is not None],
    )


def _is_file(row: Example) -> bool:
    return row.source == "evtx-attack-samples" and row.attack_event


def _make_sample(row: Example, strict: bool, groups: set[str]) -> Sample:
    label = 1 if row.attack_event else int(row.label or 0)
    return Sample(
        text=row.text,
        kind=row.kind,
        os=row.os,
        label=label,
        source=row.source,
        groups=tuple(sorted(groups | {row.group})) if label else (row.group,),
        strict=strict,
        shape=row.shape,
        unseen=row.unseen,
        real=row.source in REAL,
    )


def _gather_groups(
    work: Path, rows: Iterable[Example]
) -> dict[str, dict[str, set[tuple[str, str]]]]:
    found: dict[str, dict[str, set[tuple[str, str]]]] = defaultdict(lambda: defaultdict(set))
    kept: set[tuple[str, str, str]] = set()
    for row in rows:
        if row.split == "test" and (row.label == 1 or row.attack_event):
            found[row.source][row.group].add((row.kind, row.text))
            kept.add((row.source, row.kind, row.text))
    # One text of several files is one example; here it counts for each of them.
    for row in _read_corpus(work):
        if row.source in WHOLE_SOURCES and row.attack_event:
            text = scrub_text(row.text)
            if (row.source, row.kind, text) in kept:
                found[row.source][row.group].add((row.kind, text))
    return {source: dict(members) for source, members in found.items()}


def _read_corpus(work: Path) -> Iterator[Example]:
    path = work / "corpus.jsonl"
    if path.is_file():
        yield from read_rows(path)


def pick_background(
    samples: Sequence[Sample], kind: str | None, os: str, *, strict: bool, real: bool = True
) -> list[Sample]:
    """The ordinary texts that attacks of this kind (None: of all kinds) and system are compared
    with. `strict`: without near copies of training. `real`: telemetry and real commands alone."""
    return [
        sample
        for sample in samples
        if (kind is None or sample.kind == kind)
        and sample.os == os
        and (sample.strict or not strict)
        and (sample.real or not real)
    ]
