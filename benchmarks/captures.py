"""Beside the line: what becomes of the attack in captures of emulated attacks.

Each capture goes through `appliance scan`'s own code by itself, with all rules and the sentinel.
Counted are its findings and its incidents; of the captures whose attack a person has labelled
(tests/captures), also how much of the attack's process tree the first-ranked incident holds, and
how much else. An incident holds a process that one of its findings is about, or that stands in its
provenance graph as root, on the path or behind it; what stands there as an ancestor counts for
nothing. Neither do the processes that a label lists under `beside`: the system started them on the
attack's behalf, or they are known by name only.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from hashlib import file_digest
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec
import yaml

from appliance.config import Config
from appliance.correlate.provenance import ProcessKey, build_provenance, process_keys
from appliance.errors import SourceError
from appliance.kept import SOURCE
from appliance.pipeline import read_event
from appliance.places import default_rules
from appliance.scan import read_file, run_scan
from appliance.schema import Event, Fields, Incident, Rejected
from appliance.sources.streams import StreamName
from benchmarks.children import show_part
from benchmarks.figures import Report

NAME: Final = "captures"
TEXT: Final = "incidents of labelled captures of attacks: reduction, recall, precision"
LABELS: Final = Path(__file__).resolve().parent.parent / "tests" / "captures"
LABELLED: Final = "labelled"
#: The bars: so many times fewer incidents than findings, so much of the tree, in so many of 25.
REDUCTION: Final = 10
RECALL: Final = 0.8
#: Roles of provenance that belong to the story.
STORY: Final = frozenset({"root", "path", "descendant"})
CONSOLE: Final = "conhost.exe"

_GUID_FIELDS: Final = ("ProcessGuid", "SourceProcessGuid", "SourceProcessGUID")
_PID_FIELDS: Final = {
    "ProcessGuid": "ProcessId",
    "SourceProcessGuid": "SourceProcessId",
    "SourceProcessGUID": "SourceProcessId",
    "TargetProcessGuid": "TargetProcessId",
    "TargetProcessGUID": "TargetProcessId",
    "ParentProcessGuid": "ParentProcessId",
}
#: How far two records of one start may lie apart, in seconds.
SAME_START_S: Final = 10.0
_NO_GUID: Final = "00000000-0000-0000-0000-000000000000"
#: Records of the Security log that say which process did something.
_SECURITY_ACTS: Final = frozenset({4656, 4657, 4658, 4663, 4670, 4703})


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A record that tells of a process: its line in the file (from 0), the byte at which it begins,
    and its event id."""

    line: int
    at: int
    event: int


class Process(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"as_": "as"}):
    """A labelled process: `guid` as Sysmon gives it, lower case without braces, "" where only the
    Security log tells of it; `pid` as 0x text, "" where no record gives it; `created` is whether
    its start was recorded; `as_` is "parent" where records name it only as another's parent.
    `role` says what it is in the attack, `why` why it is none of it."""

    host: str
    image: str
    created: bool
    records: tuple[Place, ...]
    guid: str = ""
    pid: str = ""
    role: str = ""
    why: str = ""
    as_: str = ""


class Label(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"not_": "not"}):
    """What a person read in a capture. `file` is its path in the data set; `tree` the attack's
    processes, `beside` those that count neither way, `not_` what looks odd and is ordinary."""

    file: str
    sha256: str
    kind: str
    techniques: tuple[str, ...]
    hosts: tuple[str, ...]
    what: str
    tree: tuple[Process, ...]
    beside: tuple[Process, ...]
    not_: tuple[Process, ...]


def read_labels(folder: Path) -> dict[str, Label]:
    """The labels by name. Raises OSError, yaml.YAMLError and msgspec.ValidationError."""
    return {
        path.stem: msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), Label)
        for path in sorted(folder.glob("*.yaml"))
    }


def list_captures(folder: Path) -> list[Path]:
    """The captures below the folder, each content once (the data set files one twice)."""
    seen: set[str] = set()
    found = []
    for path in sorted(folder.rglob("*.json")):
        with path.open("rb") as file:
            content = file_digest(file, "sha256").hexdigest()
        if content not in seen:
            seen.add(content)
            found.append(path)
    return found


# Which process is which --------------------------------------------------------------------------


def name_host(host: str) -> str:
    """The form in which events give hosts: the first label, lower case."""
    return host.partition(".")[0].lower()


def name_program(image: str) -> str:
    """The file's name, lower case."""
    return image.replace("/", "\\").rpartition("\\")[2].lower()


def read_pid(value: Any) -> int | None:
    """A process id from a number or its decimal or 0x text; None for none."""
    try:
        return int(str(value), 0) or None
    except ValueError:
        return None


def read_guid(value: Any) -> str:
    """A process GUID, lower case without braces; "" for none."""
    text = str(value or "").strip("{}").lower()
    return "" if text == _NO_GUID or text.count("-") != 4 else text


class Identities:
    """Tells a capture's processes apart: by GUID, or where a record has none by host, process id
    and program, which mean the process of that GUID where another record gives both."""

    def __init__(self, events: Iterable[Event], label: Label | None) -> None:
        self._guids: dict[tuple[str, int, str], str] = {}
        self._only: dict[tuple[str, int], set[str]] = {}
        for process in (*label.tree, *label.beside, *label.not_) if label else ():
            if process.guid and (pid := read_pid(process.pid)):
                self._learn(name_host(process.host), pid, process.image, process.guid)
        nameless: list[tuple[Event, Fields, str]] = []
        starts: dict[tuple[str, str, str], list[tuple[float, int]]] = {}
        for event in events:
            for view in event.views:
                self._learn_view(event, view.fields)
                if view.logsource.category != "process_creation":
                    continue
                guid, pid = read_guid(view.fields.get("ProcessGuid")), _pid_of(view.fields)
                if guid and not pid:
                    nameless.append((event, view.fields, guid))
                elif pid and not guid:
                    starts.setdefault(_start_key(event, view.fields), []).append((event.time, pid))
        for event, fields, guid in nameless:
            near = starts.get(_start_key(event, fields), [])
            if near:
                apart, pid = min((abs(time - event.time), pid) for time, pid in near)
                if apart <= SAME_START_S:
                    self._learn(event.host, pid, str(fields.get("Image")), guid)
        for (host, program, _), found in starts.items():
            for _, pid in found:
                if (host, pid, program) not in self._guids:
                    self._only.setdefault((host, pid), set()).add(f"{host}:{pid}:{program}")

    def _learn_view(self, event: Event, fields: Fields) -> None:
        for named, numbered in _PID_FIELDS.items():
            guid, pid = read_guid(fields.get(named)), read_pid(fields.get(numbered))
            image = fields.get(named[: -len("ProcessGuid")] + "Image")
            if guid and pid and image:
                self._learn(event.host, pid, str(image), guid)

    def _learn(self, host: str, pid: int, image: str, guid: str) -> None:
        self._guids.setdefault((host, pid, name_program(image)), guid)
        self._only.setdefault((host, pid), set()).add(guid)

    def name(self, host: str, guid: str, pid: int | None, image: str) -> str:
        """One name for the process, whichever record tells of it; "" where nothing says which."""
        if guid:
            return guid
        if pid is None:
            return ""
        program = name_program(image)
        known = self._guids.get((host, pid, program))
        if known is None and not program:
            alike = self._only.get((host, pid), set())
            known = next(iter(alike)) if len(alike) == 1 else None
        return known or f"{host}:{pid}:{program}"

    def name_labelled(self, process: Process) -> str:
        """The name of a labelled process."""
        pid = read_pid(process.pid)
        return self.name(name_host(process.host), process.guid, pid, process.image)

    def name_subject(self, event: Event) -> str:
        """The process that the event is about: which acted or was started; "" for none."""
        for view in event.views:
            if found := self._read_subject(event.host, view.fields, view.logsource.service or ""):
                return found
        return ""

    def _read_subject(self, host: str, fields: Fields, service: str) -> str:
        for named in _GUID_FIELDS:
            if guid := read_guid(fields.get(named)):
                return guid
        if "NewProcessId" in fields:
            image = str(fields.get("NewProcessName") or "")
            return self.name(host, "", read_pid(fields["NewProcessId"]), image)
        if fields.get("EventID") in _SECURITY_ACTS and service == "security":
            image = str(fields.get("ProcessName") or "")
            return self.name(host, "", read_pid(fields.get("ProcessId")), image)
        if service == "powershell" and "ExecutionProcessID" in fields:
            return self.name(host, "", read_pid(fields["ExecutionProcessID"]), "")
        return ""

    def name_traced(self, key: ProcessKey) -> str:
        """The name of a process of the provenance graph."""
        return self.name(key.host, key.guid, key.pid, key.image)


def _pid_of(fields: Fields) -> int | None:
    return read_pid(fields.get("NewProcessId", fields.get("ProcessId")))


def _start_key(event: Event, fields: Fields) -> tuple[str, str, str]:
    image = str(fields.get("Image") or fields.get("NewProcessName") or "")
    return event.host, name_program(image), str(fields.get("CommandLine") or "").strip()


# One capture -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Result:
    """What a capture came to. `shown`, `minor` and `routine` count its incidents by kind. The rest
    is of the first-ranked: `held` of `tree` labelled processes, `others` that are not (by image),
    `missed` by image and role, of which findings of other incidents are about those `elsewhere`;
    `consoles` held and in the tree. `seconds` is what the scan took."""

    name: str
    events: int
    findings: int
    shown: int
    minor: int
    routine: int
    first_findings: int = 0
    tree: int = 0
    held: int = 0
    consoles: tuple[int, int] = (0, 0)
    missed: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    labelled: bool = False
    seconds: float = 0.0

    @property
    def incidents(self) -> int:
        """All but the routine."""
        return self.shown + self.minor

    @property
    def reduced(self) -> bool:
        """Ten times fewer incidents than findings; for less than ten findings one at the most."""
        return self.incidents <= max(1, self.findings // REDUCTION)

    @property
    def recall(self) -> float:
        """Share of the labelled tree that the first-ranked incident holds."""
        return self.held / self.tree if self.tree else 0.0

    @property
    def recall_without_consoles(self) -> float:
        """The same without conhost.exe, which Windows starts beside every console program."""
        tree = self.tree - self.consoles[1]
        return (self.held - self.consoles[0]) / tree if tree else 0.0

    @property
    def precision(self) -> float:
        """Share of the incident's processes that are labelled."""
        total = self.held + len(self.others)
        return self.held / total if total else 0.0


def read_events(path: Path, config: Config) -> list[Event]:
    """The capture's events, with the ids that a scan of the file gives them."""
    name = StreamName(SOURCE, path.name, path.name, str(path), "auto")
    zone = ZoneInfo("UTC")
    events = []
    for batch in read_file(name, config, []):
        for record in batch.records:
            read = read_event(record, zone)
            if not isinstance(read, Rejected):
                events.append(read[0].event)
    return events


def rank_incidents(incidents: Sequence[Incident]) -> list[Incident]:
    """The first to be read first: the highest score, what is routine behind all else."""
    return sorted(incidents, key=lambda one: (one.kind == "routine", -one.score))


def measure_capture(path: Path, name: str, label: Label | None, config: Config) -> Result:
    """Put a capture through the line and compare what comes of it with its label."""
    done = run_scan([str(path)], config, on_progress=lambda *_: None)
    try:
        bodies: list[dict[str, Any]] = list(done.store.iterate_findings())
        incidents = rank_incidents(done.store.incidents())
        stats = done.stats
    finally:
        done.close()
    kinds = [incident.kind for incident in incidents]
    result = Result(
        name, stats["events"], len(bodies), kinds.count("incident"), kinds.count("minor"),
        kinds.count("routine"), seconds=stats["seconds"]["total"],
    )  # fmt: skip
    if label is not None:
        compare(result, label, incidents, bodies, read_events(path, config))
    return result


def compare(
    result: Result,
    label: Label,
    incidents: Sequence[Incident],
    bodies: Sequence[dict[str, Any]],
    events: Sequence[Event],
) -> None:
    """Fill in what the first-ranked incident holds of the label."""
    names = Identities(events, label)
    tree = {names.name_labelled(process): process for process in label.tree}
    beside = {names.name_labelled(process) for process in label.beside}
    by_id = {event.id: event for event in events}
    result.labelled, result.tree = True, len(tree)
    held: set[str] = set()
    images: dict[str, str] = {}
    if incidents:
        own = [body for body in bodies if body["incident"] == incidents[0].id]
        result.first_findings = len(own)
        held = list_held(own, events, by_id, names, images)
        rest = [body for body in bodies if body["incident"] != incidents[0].id]
        missed = list_subjects(rest, by_id, names, {}) & (tree.keys() - held)
        result.elsewhere = sorted(name_program(tree[one].image) for one in missed)
    result.held = len(held & tree.keys())
    result.others = sorted(images.get(one, one) for one in held - tree.keys() - beside)
    result.missed = [
        f"{name_program(process.image)} ({process.role})"
        for one, process in tree.items()
        if one not in held
    ]
    consoles = {one for one, process in tree.items() if name_program(process.image) == CONSOLE}
    result.consoles = (len(consoles & held), len(consoles))


def list_held(
    own: Sequence[dict[str, Any]],
    events: Sequence[Event],
    by_id: Mapping[str, Event],
    names: Identities,
    images: dict[str, str],
) -> set[str]:
    """Names of the processes that an incident with these findings holds; their images go into
    `images`."""
    held = list_subjects(own, by_id, names, images)
    for key in process_keys(build_provenance(events, own)):
        if key.role in STORY and (one := names.name_traced(key)):
            held.add(one)
            images.setdefault(one, name_program(key.image))
    return held


def list_subjects(
    bodies: Iterable[dict[str, Any]],
    by_id: Mapping[str, Event],
    names: Identities,
    images: dict[str, str],
) -> set[str]:
    """Names of the processes that the findings are about."""
    found = set()
    for body in bodies:
        event = by_id.get(body["event"]["id"])
        if event is not None and (one := names.name_subject(event)):
            found.add(one)
            images.setdefault(one, _show_image(event))
    return found


def _show_image(event: Event) -> str:
    for view in event.views:
        for wanted in ("Image", "SourceImage", "NewProcessName", "ProcessName"):
            if isinstance(image := view.fields.get(wanted), str):
                return name_program(image)
    return "a process of the PowerShell log"


# All of them -------------------------------------------------------------------------------------


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this part."""
    group = parser.add_argument_group(NAME, TEXT)
    group.add_argument("--captures", type=Path, metavar="DIR", help="folder of the captures")
    group.add_argument(
        "--only", default="*", metavar="GLOB",
        help=f'captures with such names, or "{LABELLED}": those that have a label (*)',
    )  # fmt: skip
    group.add_argument("--json", type=Path, metavar="FILE", help="write a row for each capture")


def measure(options: argparse.Namespace, report: Report, _: Path) -> None:
    """Print a row of each capture and the totals. Raises RuntimeError when there is none."""
    words: list[str | int | Path] = ["--captures", "DIR"]
    if options.rules is not None:
        words += ["--rules", options.rules.name]
    if options.only != "*":
        words += ["--only", options.only]
    about = "each capture by itself, the sentinel on, default rules"
    about += f" and those under {options.rules.name}" if options.rules else ""
    report.begin(NAME, about, show_part(NAME, *words))
    if options.captures is None:
        report.note("no --captures: not measured")
        return
    rules = [default_rules(), *([options.rules] if options.rules else [])]
    config = Config(rules=tuple(str(path) for path in rules))
    results = []
    print(f"  {HEAD}")
    for result in measure_all(options.captures, options.only, config):
        print(f"  {show_result(result)}", flush=True)
        results.append(result)
    if not results:
        raise RuntimeError(f"no capture under {options.captures} is named {options.only}")
    add_totals(results, report)
    if options.json is not None:
        options.json.write_text(json.dumps([to_row(result) for result in results], indent=1))


def measure_all(folder: Path, only: str, config: Config) -> Iterator[Result]:
    """The results, one after another."""
    labels = {label.file: (name, label) for name, label in read_labels(LABELS).items()}
    for path in list_captures(folder):
        name, label = labels.get(
            path.relative_to(folder).as_posix(), (path.stem.partition("__")[0], None)
        )
        if label is None if only == LABELLED else not fnmatch(name, only):
            continue
        try:
            yield measure_capture(path, name, label, config)
        except SourceError as error:
            raise RuntimeError(f"{name}: {error}") from error


HEAD: Final = (
    f"{'capture':<46} {'events':>6} {'found':>6} {'shown':>5} {'minor':>5} {'rout.':>5}"
    f" {'ratio':>6}  of the tree   precision"
)


def show_result(result: Result) -> str:
    """One line of the table."""
    ratio = result.findings / result.incidents if result.incidents else float(result.findings)
    line = (
        f"{result.name[:46]:<46} {result.events:>6,} {result.findings:>6,} {result.shown:>5}"
        f" {result.minor:>5} {result.routine:>5} {ratio:>6.1f}{' ' if result.reduced else '!'}"
    )
    if not result.labelled:
        return line
    mark = " " if result.recall >= RECALL else "!"
    line += (
        f" {result.held:>3}/{result.tree:<3} {result.recall:>4.0%}{mark} {result.precision:>5.0%}"
    )
    if result.missed:
        line += f"  missed: {', '.join(result.missed)}"
    if result.others:
        line += f"  else: {', '.join(result.others[:8])}"
        line += f" and {len(result.others) - 8} more" if len(result.others) > 8 else ""
    return line


def to_row(result: Result) -> dict[str, Any]:
    """The result as JSON."""
    row = {name: getattr(result, name) for name in Result.__slots__}
    row.update(reduced=result.reduced, recall=result.recall, precision=result.precision)
    row["recall_without_consoles"] = result.recall_without_consoles
    return row


def add_totals(results: Sequence[Result], report: Report) -> None:
    """The figures of all captures together, and the two bars."""
    count, found = len(results), sum(result.findings for result in results)
    report.add("events", sum(result.events for result in results), "events", count, "captures")
    report.add("findings", found, "findings", count, "captures")
    for kind in ("shown", "minor", "routine"):
        total = sum(getattr(result, kind) for result in results)
        report.add(f"incidents, {kind}", total, "incidents", found, "findings")
    many = [result for result in results if result.findings >= REDUCTION]
    few = [result for result in results if 0 < result.findings < REDUCTION]
    held = sum(result.reduced for result in many)
    report.add(f"{REDUCTION} times fewer incidents", held, "captures", len(many), "with 10 or more")
    held = sum(result.reduced for result in few)
    report.add("one incident", held, "captures", len(few), "with 1 to 9 findings")
    labelled = [result for result in results if result.labelled]
    if not labelled:
        return
    total = len(labelled)
    good = sum(result.recall >= RECALL for result in labelled)
    report.add(f"first holds {RECALL:.0%} of the tree", good, "captures", total, "labelled")
    good = sum(result.recall_without_consoles >= RECALL for result in labelled)
    report.add("the same without conhost.exe", good, "captures", total, "labelled")
    good = sum(result.recall >= RECALL and result.precision >= RECALL for result in labelled)
    report.add(f"and is {RECALL:.0%} the tree", good, "captures", total, "labelled")
    trees = sum(result.tree for result in labelled)
    kept = sum(result.held for result in labelled)
    everything = kept + sum(len(result.others) for result in labelled)
    report.add("recall, all trees together", 100 * kept / trees, "%", trees, "processes")
    share = 100 * kept / everything if everything else 0.0
    report.add("precision, all together", share, "%", everything, "processes")
