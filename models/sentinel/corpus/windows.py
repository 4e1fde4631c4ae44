"""Reads captures of Windows events with the product's own decode, normalise and Sigma rules.

Three sets: evtx-attack-samples (files of attacks, for the test alone), security-datasets (one file
a capture of one emulated attack, most of it background) and eqllib (two runs of test frameworks).
"""

import gzip
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from appliance.config import Config
from appliance.detect.sentinel.texts import Text, list_texts
from appliance.detect.sigma.engine import SigmaDetector
from appliance.detect.sigma.load import load_rules
from appliance.normalise import feeds
from appliance.pipeline import read_event
from appliance.scan import read_file
from appliance.schema import Sighting, View
from appliance.sources.streams import StreamName
from models.sentinel.corpus.trees import (
    Side,
    Step,
    find_tree,
    judge_step,
    list_started,
    name_node,
    read_pid,
)
from models.sentinel.options import Options
from models.sentinel.rows import Example, Split, draw, find_techniques
from models.sentinel.scrub import has_lab_word, scrub_fields

_FIRED: Final = {"medium": 1, "high": 2, "critical": 2}
#: Kinds of text in which what a process of the tree does is mostly what every process does.
_COMMON_DEEDS: Final = frozenset(
    {"image_load", "registry", "file", "network", "pipe", "access", "dns"}
)
#: Texts of one side and kind that one capture gives at most.
_MAX_TEXTS: Final = 1500
_TEST_PERCENT: Final = 20
_VALID_PERCENT: Final = 10
_SHAPES: Final = {
    1: "sysmon1",
    4688: "4688",
    4104: "4104",
    4103: "4103",
    7045: "7045",
    4697: "4697",
    4698: "4698",
    400: "ps400",
    600: "ps600",
}


class Seen(msgspec.Struct):
    """One event: its step, its texts, its form, and the techniques of the rules that fired."""

    step: Step
    texts: list[Text]
    shape: str
    techniques: tuple[str, ...]


def build_detector(options: Options) -> SigmaDetector:
    """SigmaHQ's rules over the product's matcher. Raises RuleError when there are none."""
    folder = options.data / "sigma"
    paths = [folder / "rules", folder / "rules-emerging-threats"]
    return SigmaDetector(load_rules([path for path in paths if path.is_dir()], feeds=feeds))


def read_sightings(path: Path, logical: str) -> Iterator[Sighting]:
    """The events of one file, those that can be read."""
    config = Config()
    for batch in read_file(StreamName("recipe", logical, logical, str(path), "auto"), config, []):
        for record in batch.records:
            got = read_event(record, UTC)
            if isinstance(got, tuple):
                yield got[0]


def read_capture(path: Path, logical: str, detector: SigmaDetector) -> list[Seen]:
    """Every event of a capture that has a text or starts a process."""
    found: list[Seen] = []
    pids: dict[tuple[str, int], str] = {}
    for sighting in read_sightings(path, logical):
        fields = sighting.views[-1].fields
        step = _read_step(sighting.host, fields, pids)
        texts = list_texts(sighting.views, sighting.host)
        if any(has_lab_word(text.text) for text in texts):
            views = [View(view.logsource, scrub_fields(view.fields)) for view in sighting.views]
            texts = list_texts(views, sighting.host)
        if not texts and not step.starts:
            continue
        detections = [d for d in detector.detect(sighting) if d.level in _FIRED]
        step.fired = max((_FIRED[d.level] for d in detections), default=0)
        techniques = tuple(dict.fromkeys(t for d in detections for t in d.techniques))
        number = fields.get("EventID")
        shape = _SHAPES.get(number) if isinstance(number, int) else None
        found.append(Seen(step, texts, shape or f"event{number}", techniques))
    return found


def _read_step(host: str, fields: dict[str, Any], pids: dict[tuple[str, int], str]) -> Step:
    def text(*names: str) -> str:
        return next((str(fields[name]) for name in names if fields.get(name)), "")

    number = fields.get("EventID")
    starts = number in (1, 4688)
    own = (
        fields.get("NewProcessId")
        if number == 4688
        else fields.get("ProcessId", fields.get("SourceProcessId"))
    )
    if own is None:
        own = fields.get("ExecutionProcessID")
    guid = (
        fields.get("ProcessGuid")
        or fields.get("SourceProcessGUID")
        or fields.get("SourceProcessGuid")
    )
    node = name_node(host, guid, own, pids)
    if number == 1 and (pid := read_pid(own)) is not None:
        pids[host, pid] = node
    above = fields.get("ProcessId") if number == 4688 else fields.get("ParentProcessId")
    return Step(
        node=node,
        image=text("Image", "SourceImage", "NewProcessName", "ProcessName"),
        fired=0,
        parent=name_node(host, fields.get("ParentProcessGuid"), above, pids) if starts else "",
        parent_image=text("ParentImage", "ParentProcessName"),
        command=text("CommandLine"),
        parent_command=text("ParentCommandLine"),
        starts=starts,
    )


def label_capture(events: list[Seen]) -> Iterator[tuple[Text, Side, Seen]]:
    """Each text of the capture once, with the strongest side that one of its events is on."""
    steps = [event.step for event in events]
    tree, started = find_tree(steps), list_started(steps)
    order: dict[Side, int] = {"attack": 0, "tree": 1, "unclear": 2, "background": 3}
    best: dict[Text, tuple[Side, Seen]] = {}
    for event in events:
        side = judge_step(event.step, tree, started)
        for text in event.texts:
            known = best.get(text)
            if known is None or order[side] < order[known[0]]:
                best[text] = (side, event)
    for text, (side, event) in best.items():
        yield text, side, event


def make_examples(
    events: list[Seen],
    source: str,
    group: str,
    split: Split,
    techniques: list[str],
    *,
    by_file: bool,
) -> Iterator[Example]:
    """The capture's examples. With `by_file` no event has a label of its own: what is plausibly the
    attack is marked, and the techniques are the file's."""
    counts: Counter[tuple[str, Side]] = Counter()
    for text, side, event in label_capture(events):
        counts[text.kind, side] += 1
        if counts[text.kind, side] > _MAX_TEXTS:
            continue
        attack = side == "attack" or (side == "tree" and text.kind not in _COMMON_DEEDS)
        label: int | None = 1 if attack else 0 if side == "background" else None
        weight = 1.0
        if side == "tree":
            weight = 0.6
        yield Example(
            text=text.text,
            kind=text.kind,
            label=None if by_file else label,
            source=source,
            group=group,
            shape=event.shape,
            os="windows",
            weight=weight,
            techniques=(list(event.techniques) or techniques) if attack else [],
            split=split,
            attack_event=attack,
            explicit=side == "attack" and event.step.fired >= 2,
        )


def read_evtx(options: Options, detector: SigmaDetector) -> Iterator[Example]:
    """evtx-attack-samples: for the test alone."""
    root = options.data / "windows" / "evtx-attack-samples"
    for path in _some(sorted(root.rglob("*.evtx")), options):
        name = str(path.relative_to(root))
        events = read_capture(path, name, detector)
        techniques = find_techniques(path.name.replace("_", " "))
        yield from make_examples(
            events, "evtx-attack-samples", name, "test", techniques, by_file=True
        )


def split_capture(name: str) -> Split:
    """One capture in five is for the test, one in ten for validation, by its name."""
    number = draw("capture", name)
    if number < _TEST_PERCENT:
        return "test"
    return "valid" if number < _TEST_PERCENT + _VALID_PERCENT else "train"


def read_security_datasets(options: Options, detector: SigmaDetector) -> Iterator[Example]:
    """security-datasets: train, validation and test by capture."""
    root = options.data / "windows" / "security-datasets"
    known = _read_metadata(root / "_metadata")
    for path in _some(sorted(root.rglob("*.json")), options):
        name = path.stem.partition("__")[0]
        events = read_capture(path, str(path.relative_to(root)), detector)
        yield from make_examples(
            events,
            "security-datasets",
            name,
            split_capture(name),
            known.get(name, []),
            by_file=False,
        )


def _read_metadata(folder: Path) -> dict[str, list[str]]:
    """The techniques of each capture, by the name of its archive."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.yaml")):
        document = yaml.safe_load(path.read_text(encoding="utf-8", errors="replace"))
        ids = []
        for row in document.get("attack_mappings") or ():
            sub = str(row.get("sub-technique") or "")
            ids.append(
                f"{row['technique']}.{sub}"
                if re.fullmatch(r"\d{3}", sub)
                else str(row["technique"])
            )
        for file in document.get("files") or ():
            stem = Path(str(file.get("link", ""))).name.split(".")[0]
            found.setdefault(stem, []).extend(ids)
    return {name: list(dict.fromkeys(ids)) for name, ids in found.items()}


def read_eqllib(options: Options, detector: SigmaDetector) -> Iterator[Example]:
    """eqllib's Sysmon events: weak labels, for training alone."""
    for path in sorted((options.data / "windows" / "eqllib").glob("sysmon-*.json.gz")):
        with tempfile.TemporaryDirectory(prefix="recipe-") as folder:
            plain = Path(folder, path.stem)
            with gzip.open(path, "rb") as packed, plain.open("wb") as file:
                shutil.copyfileobj(packed, file)
            events = read_capture(plain, path.name, detector)
        for row in make_examples(events, "eqllib", path.stem, "train", [], by_file=False):
            row.weight = round(row.weight * 0.6, 2)
            yield row


def _some(paths: list[Path], options: Options) -> Iterable[Path]:
    return paths[:: max(1, len(paths) // 8)] if options.small else paths


def read_windows(options: Options) -> Iterator[Example]:
    """The three sets, one after another, with one loading of the rules."""
    detector = build_detector(options)
    for read in (read_evtx, read_security_datasets, read_eqllib):
        yield from read(options, detector)
