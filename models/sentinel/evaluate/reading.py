"""Stage `evaluate`, reading: files of attacks and captures as the product reads them.

Only here are events seen one by one: which rule fired on which, when, on which host, and with which
raw command line. What was read is kept in --work as JSON lines, one file or capture each.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import msgspec

from appliance.detect.sentinel.texts import Text, find_kind, list_texts
from appliance.detect.sigma.engine import SigmaDetector
from appliance.detect.sigma.load import load_rules
from appliance.normalise import feeds
from appliance.schema import LEVELS, Sighting, View
from models.sentinel.corpus.windows import read_sightings, split_capture
from models.sentinel.options import Options
from models.sentinel.scrub import has_lab_word, scrub_fields

FILES_FILE: Final = "evaluate.files.jsonl"
CAPTURES_FILE: Final = "evaluate.captures.jsonl"
#: Fields of a process event from which its text is written.
RAW_FIELDS: Final = ("CommandLine", "Image", "NewProcessName", "ParentImage", "ParentProcessName")
#: A rule of this level or above makes a file no longer blind to rules.
_LEAST_LEVEL: Final = LEVELS.index("medium")
#: Longer silence than this, in seconds, is not counted as time observed.
_LONGEST_GAP: Final = 900.0
_SMALL_FILES: Final = 10
_SMALL_CAPTURES: Final = 4
_SMALL_RULES: Final = Path("rules", "windows", "process_creation")


class ReadEvent(msgspec.Struct, omit_defaults=True):
    """One event: its texts as (kind, text), its host and time (Unix seconds), whether a rule of
    medium level or above fired on it, and of a process start the raw fields."""

    texts: list[tuple[str, str]]
    host: str = ""
    time: float = 0.0
    fired: bool = False
    raw: dict[str, str] = {}


class ReadFile(msgspec.Struct):
    """One file or capture by its name (that of its examples' group): events read, rules of medium
    level or above that fired with how often, and the events that have a text."""

    name: str
    split: str
    count: int
    rules: dict[str, int]
    events: list[ReadEvent]


def read_attack_files(options: Options) -> list[ReadFile]:
    """Every file of evtx-attack-samples, through decode, normalise and SigmaHQ's Windows rules;
    from the file in --work when that is there. Empty where the set is not."""
    root = options.data / "windows" / "evtx-attack-samples"
    paths = _some(sorted(root.rglob("*.evtx")), _SMALL_FILES, options)
    jobs = [(path, str(path.relative_to(root)), "test") for path in paths]
    return _recall(options.work / FILES_FILE, jobs, options, with_rules=True)


def read_captures(options: Options) -> list[ReadFile]:
    """The captures of security-datasets that are for validation or test, without rules."""
    root = options.data / "windows" / "security-datasets"
    jobs = []
    for path in sorted(root.rglob("*.json")):
        name = path.stem.partition("__")[0]
        if (split := split_capture(name)) != "train":
            jobs.append((path, name, split))
    if options.small:
        jobs = sorted(jobs, key=lambda job: job[0].stat().st_size)
        jobs = [*jobs[:_SMALL_CAPTURES], *[j for j in jobs if j[2] == "valid"][:_SMALL_CAPTURES]]
    return _recall(options.work / CAPTURES_FILE, jobs, options, with_rules=False)


def _some(paths: Sequence[Path], count: int, options: Options) -> Sequence[Path]:
    return paths[:: max(1, len(paths) // count)] if options.small else paths


def _recall(
    kept: Path, jobs: Sequence[tuple[Path, str, str]], options: Options, *, with_rules: bool
) -> list[ReadFile]:
    """What was read before, if it was of the same files; else read now and kept."""
    wanted = [name for _, name, _ in jobs]
    decoder = msgspec.json.Decoder(ReadFile)
    if kept.is_file():
        found = [decoder.decode(line) for line in kept.read_bytes().splitlines()]
        if [file.name for file in found] == wanted:
            return found
    if not jobs:
        return []
    detector = _build_detector(options) if with_rules else None
    found = [read_whole(path, name, split, detector) for path, name, split in jobs]
    new = kept.with_name(f"{kept.name}.new")
    new.write_bytes(b"".join(msgspec.json.encode(file) + b"\n" for file in found))
    new.replace(kept)
    return found


def _build_detector(options: Options) -> SigmaDetector | None:
    folder = options.data / "sigma"
    path = folder / _SMALL_RULES if options.small else folder / "rules" / "windows"
    return SigmaDetector(load_rules([path], feeds=feeds)) if path.is_dir() else None


def read_whole(path: Path, name: str, split: str, detector: SigmaDetector | None) -> ReadFile:
    """All of one file; events that cannot be read are left out, as the product rejects them."""
    file = ReadFile(name, split, 0, {}, [])
    for sighting in read_sightings(path, name):
        file.count += 1
        fired = _list_rules(sighting, detector)
        for rule in fired:
            file.rules[rule] = file.rules.get(rule, 0) + 1
        texts = write_scrubbed(sighting)
        if texts:
            file.events.append(
                ReadEvent(
                    [(text.kind, text.text) for text in texts],
                    sighting.host,
                    sighting.time if sighting.time_known else 0.0,
                    bool(fired),
                    _find_raw(sighting.views),
                )
            )
    return file


def write_scrubbed(sighting: Sighting) -> list[Text]:
    """The event's texts, as the examples have them: without a laboratory's words."""
    texts = list_texts(sighting.views, sighting.host)
    if any(has_lab_word(text.text) for text in texts):
        views = [View(view.logsource, scrub_fields(view.fields)) for view in sighting.views]
        texts = list_texts(views, sighting.host)
    return texts


def _list_rules(sighting: Sighting, detector: SigmaDetector | None) -> list[str]:
    if detector is None:
        return []
    return [
        found.rule_id
        for found in detector.detect(sighting)
        if LEVELS.index(found.level) >= _LEAST_LEVEL
    ]


def _find_raw(views: Sequence[View]) -> dict[str, str]:
    for view in views:
        if find_kind(view.logsource, view.fields) == "process" and view.fields.get("CommandLine"):
            return pick_raw(view.fields)
    return {}


def pick_raw(fields: Mapping[str, Any]) -> dict[str, str]:
    """The fields of RAW_FIELDS that are there, scrubbed."""
    return scrub_fields({name: str(fields[name]) for name in RAW_FIELDS if fields.get(name)})


class Observed(msgspec.Struct, frozen=True):
    """How long hosts were watched: `span_days` from the first to the last event of each host,
    summed up (time zones that a set mixes are in it), `active_days` without silences of over 15
    minutes."""

    captures: int
    hosts: int
    events: int
    span_days: float
    active_days: float


def measure_time(captures: Sequence[ReadFile]) -> Observed:
    """Host-days of these captures."""
    hosts = 0
    span = active = 0.0
    for times in _list_times(captures):
        hosts += 1
        span += times[-1] - times[0]
        active += sum(b - a for a, b in pairwise(times) if b - a <= _LONGEST_GAP)
    events = sum(capture.count for capture in captures)
    return Observed(len(captures), hosts, events, span / 86_400, active / 86_400)


def _list_times(captures: Sequence[ReadFile]) -> Iterator[list[float]]:
    for capture in captures:
        hosts: dict[str, list[float]] = {}
        for event in capture.events:
            if event.time > 0:
                hosts.setdefault(event.host, []).append(event.time)
        for times in hosts.values():
            yield sorted(times)
