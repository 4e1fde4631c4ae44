"""YAML -> frozen dataclasses; every error at once, each with file, line and key.

The dataclasses below are the whole configuration: a key that is not a field here is an error, never
ignored. Limits stand together with their defaults, and with the least and most they may be set to.
"""

import dataclasses
import errno
import glob
import os
import re
import stat
import types
import typing
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
import yaml

from appliance.control import SOCKET_BYTES
from appliance.decode import FORMATS
from appliance.decode.custom import NAME as FORMAT_NAME
from appliance.decode.custom import build_csv_decoder, build_pattern_decoder, check_place
from appliance.detect.sensors.mapped import check_pattern, check_sensor
from appliance.emit.sinks import SinkSettings, build_sink
from appliance.emit.text import cap_text, show_hidden
from appliance.errors import ConfigError
from appliance.normalise.custom import ENTITY_KINDS
from appliance.places import OVERRIDES
from appliance.schema import LEVELS, OWN_SOURCE, RECORD_FORMATS, Level, MessageKind
from appliance.sources.listening import Transport, parse_listen_address, parse_networks
from appliance.sources.tracking import names_path

#: Longest configuration that is read, in bytes: a device named by mistake has no end.
CONFIG_BYTES: Final = 4 << 20
#: Longest name of a source or sink, in characters: it stands in every row of `status`.
NAME_CHARACTERS: Final = 200
#: Longest component of a path in bytes: NAME_MAX of Linux.
COMPONENT_BYTES: Final = 255
#: Longest host name in characters, and of what it is: RFC 5424, section 6 (PRINTUSASCII).
HOSTNAME: Final = re.compile(r"[\x21-\x7e]{1,255}")
#: Control characters and lone surrogates: never part of a name, and no path is meant to hold one.
_NOT_TEXT: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
#: Most rows of a table on disk: at 1 kB a row a terabyte, and far within SQLite's 64 bits.
_MOST_ROWS: Final = 1_000_000_000
#: Most entries of what is kept in memory: at 100 bytes an entry a gigabyte.
_MOST_ENTRIES: Final = 10_000_000


def _bounded(default: Any, least: float, most: float) -> Any:
    """A field with its default, and the least and most that it may be set to."""
    return field(default=default, metadata={"least": least, "most": most})


def _duration(default: float, least: float, most: float) -> Any:
    """A field in seconds, which the file may also give as 30s, 5m, 2h or 1d."""
    return field(default=default, metadata={"least": least, "most": most, "duration": 1})


#: Longest duration that may be set: ten years.
_LONGEST: Final = 10 * 366 * 86400


@dataclass(frozen=True, slots=True)
class FilesSource:
    """Files and globs, followed as they grow; EVTX, JSON documents and gzip by their content.

    Of every source: `expect_every` is how often it speaks at the least (0: no matter), after
    which it counts as silent; `flood_per_second` how many records a second, over a minute, are too
    many (0: no matter).
    """

    name: str
    paths: tuple[str, ...]
    type: Literal["files"] = "files"
    format: str = "auto"
    start_at: Literal["beginning", "end"] = "beginning"
    timezone: str = "UTC"
    expect_every: float = _duration(0.0, 0, _LONGEST)
    flood_per_second: float = _bounded(0.0, 0, 10_000_000)


@dataclass(frozen=True, slots=True)
class JournalSource:
    """systemd's journal: the system's own, or the files in `directory`. `units` and `identifiers`
    (systemd units, syslog identifiers) restrict it to their entries; empty is all."""

    name: str
    type: Literal["journal"]
    directory: str = ""
    units: tuple[str, ...] = ()
    identifiers: tuple[str, ...] = ()
    start_at: Literal["beginning", "end"] = "end"
    timezone: str = "UTC"
    expect_every: float = _duration(0.0, 0, _LONGEST)
    flood_per_second: float = _bounded(0.0, 0, 10_000_000)


@dataclass(frozen=True, slots=True)
class SyslogSource:
    """A listener for syslog: RFC 5426 (udp), RFC 6587 (tcp, both framings) or RELP.

    `address` is host:port or [v6]:port of this host; `allow` are the networks that may send (all,
    when empty); `spool_bytes` caps what waits on disk; `receive_buffer` is the socket's.
    """

    name: str
    type: Literal["syslog"]
    transport: Transport
    address: str
    format: str = "auto"
    timezone: str = "UTC"
    allow: tuple[str, ...] = ()
    spool_bytes: int = _bounded(1 << 30, 1 << 20, 1 << 50)
    max_connections: int = _bounded(256, 1, 65_536)
    idle_seconds: float = _duration(3600.0, 1, _LONGEST)
    receive_buffer: int = _bounded(8 << 20, 1 << 16, 1 << 30)
    expect_every: float = _duration(0.0, 0, _LONGEST)
    flood_per_second: float = _bounded(0.0, 0, 10_000_000)


Source = FilesSource | JournalSource | SyslogSource


@dataclass(frozen=True, slots=True)
class SyslogSink:
    """RFC 5424 over TCP with octet counting (RFC 6587), UDP (RFC 5426) or a unix socket.

    `address` is host:port, [v6]:port, or a socket's path for unix; `max_bytes` 0 is the
    transport's default.
    """

    name: str
    type: Literal["syslog"]
    transport: Literal["tcp", "udp", "unix"]
    address: str
    facility: str = "local4"
    max_bytes: int = _bounded(0, 0, 1 << 20)
    enterprise: str = "32473"
    kinds: tuple[MessageKind, ...] = (
        "finding", "update", "incident", "heartbeat", "audit", "test",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class FileSink:
    """JSON lines, one a finding, each exactly once."""

    name: str
    type: Literal["file"]
    path: str
    kinds: tuple[MessageKind, ...] = ("finding", "heartbeat", "test")


@dataclass(frozen=True, slots=True)
class Correlate:
    """How findings join: a shared entity within `window_seconds` of event time, while the incident
    spans no more than `max_span_seconds`. `late` is how far an event may be behind the newest of
    its stream to be counted by Sigma correlations. `assets` gives hosts a weight in the ranking:
    pattern of names to 0..3, of which the largest counts."""

    window_seconds: float = _bounded(1800.0, 1, 10 * 366 * 86400)
    max_span_seconds: float = _bounded(86400.0, 1, 10 * 366 * 86400)
    late: float = _duration(300.0, 0, _LONGEST)
    assets: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Health:
    """When something counts as a trouble. Of a source, over the last `window`: more than
    `rejected_share` of at least `rejected_records` records rejected; more than half of its events
    ahead of the clock. `free_share` is the part of the disk that must be free."""

    window: float = _duration(600.0, 10, 86400)
    rejected_share: float = _bounded(0.05, 0, 1)
    rejected_records: int = _bounded(20, 1, 1_000_000)
    free_share: float = _bounded(0.05, 0, 1)


@dataclass(frozen=True, slots=True)
class Sentinel:
    """The small model that judges events. `budget` is how many of its findings a host's ordinary
    day may give; `model` its GGUF file or folder (empty: the one that is shipped); `processes` the
    children that run it, one a core to spare. At most `queue` events of `queue_bytes` bytes wait
    for it, `cache` texts' scores are remembered. The same text on the same host is one finding
    within `repeat` (0: each is one)."""

    enabled: bool = True
    budget: float = _bounded(10.0, 0.001, 100_000)
    model: str = ""
    processes: int = _bounded(1, 1, 16)
    queue: int = _bounded(10_000, 1, _MOST_ENTRIES)
    queue_bytes: int = _bounded(64 << 20, 1 << 16, 1 << 34)
    cache: int = _bounded(100_000, 1, _MOST_ENTRIES)
    repeat: float = _duration(86400.0, 0, _LONGEST)


@dataclass(frozen=True, slots=True)
class ArchiveSettings:
    """The events' records, kept to be hunted in. `path` is its folder (empty: `archive` in the
    state directory); what came in longer ago than `keep` goes (0: never), and the oldest while all
    is over `max_bytes` (0: no limit). A segment is full at `segment_bytes` of records or
    `segment_events`; nothing is written while less than `min_free` bytes are free on the disk."""

    enabled: bool = True
    path: str = ""
    keep: float = _duration(30 * 86400.0, 0, _LONGEST)
    max_bytes: int = _bounded(20 << 30, 0, 1 << 50)
    segment_bytes: int = _bounded(128 << 20, 1 << 16, 1 << 34)
    segment_events: int = _bounded(250_000, 1, 100_000_000)
    min_free: int = _bounded(1 << 30, 0, 1 << 50)


@dataclass(frozen=True, slots=True)
class Limits:
    """Every cap of the appliance. What goes over one is counted in `status`."""

    record_bytes: int = _bounded(1 << 20, 1, 64 << 20)  # one is held in memory whole
    rejected_bytes: int = _bounded(1 << 16, 1, 64 << 20)
    batch_records: int = _bounded(2000, 1, 100_000)  # a batch too, and its transaction
    batch_bytes: int = _bounded(8 << 20, 1 << 16, 1 << 30)  # of all sources' records together
    judge_queue: int = _bounded(1000, 1, _MOST_ENTRIES)
    outbox_rows: int = _bounded(100_000, 1, _MOST_ROWS)
    findings_rows: int = _bounded(1_000_000, 1, _MOST_ROWS)
    incidents_rows: int = _bounded(100_000, 1, _MOST_ROWS)
    rejected_rows: int = _bounded(10_000, 1, _MOST_ROWS)
    correlation_keys: int = _bounded(200_000, 1, _MOST_ENTRIES)
    correlation_groups: int = _bounded(10_000, 1, _MOST_ENTRIES)  # of each Sigma correlation
    correlation_events: int = _bounded(100_000, 1, _MOST_ENTRIES)  # of each, all groups together
    incident_folds: int = _bounded(5_000, 1, _MOST_ENTRIES)
    files_per_source: int = _bounded(10_000, 1, _MOST_ENTRIES)
    store_bytes: int = _bounded(10 << 30, 16 << 20, 1 << 50)


@dataclass(frozen=True, slots=True)
class Retention:
    """How many days findings and rejected records are kept after they came in; 0 is for ever. An
    incident stays, also where its findings go."""

    findings_days: float = _bounded(365.0, 0, 36_600)
    rejected_days: float = _bounded(30.0, 0, 36_600)


@dataclass(frozen=True, slots=True)
class FormatSource:
    """The log source in which Sigma's rules look for a format's records: at least one part."""

    product: str = ""
    category: str = ""
    service: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a text that holds an expression (RE2, found anywhere) stands for."""

    match: str
    give: str


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a finding: the text of `field`, or what `table` has for that text, else what the
    first of `patterns` that it holds gives, else `otherwise`, which alone is a constant."""

    field: str = ""
    table: dict[str, str] = dataclasses.field(default_factory=dict)
    patterns: tuple[Choice, ...] = ()
    otherwise: str = ""


@dataclass(frozen=True, slots=True)
class LevelPart:
    """A finding's level: by `table`, text of `field` -> level; by `at_least`, level -> the least
    number that has it; by the text itself, when it is a level; else `otherwise`, where no signature
    tells it."""

    field: str = ""
    table: dict[str, str] = dataclasses.field(default_factory=dict)
    at_least: dict[str, float] = dataclasses.field(default_factory=dict)
    otherwise: Level = "low"


@dataclass(frozen=True, slots=True)
class Signature:
    """What is known of the signatures whose text holds an expression (RE2)."""

    match: str
    level: str = ""
    techniques: tuple[str, ...] = ()
    tactics: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FindingPart:
    """The records of a format are findings of another detector (see `detect.sensors.mapped`).

    `sensor` is that detector's name, in the operator's words alone; `signatures` are held against
    the text of `signature` (the title, when empty), the first that fits decides what the fields
    leave open; `where` says which records are findings: field -> its texts; `evidence` names the
    fields that a finding shows."""

    sensor: Part = field(default_factory=Part)
    rule_id: Part = field(default_factory=Part)
    title: Part = field(default_factory=Part)
    level: LevelPart = field(default_factory=LevelPart)
    techniques: Part = field(default_factory=Part)
    tactics: Part = field(default_factory=Part)
    signature: str = ""
    signatures: tuple[Signature, ...] = ()
    where: dict[str, tuple[str, ...]] = field(default_factory=dict)
    evidence: tuple[str, ...] = ()


#: The format's records are no findings.
NO_FINDING: Final = FindingPart()


@dataclass(frozen=True, slots=True)
class Format:
    """A format of records that is described here (see `decode.custom`): by `pattern`, with
    `rename` for its groups, by `json`, field name -> place, or by `csv`, field name -> column, with
    `delimiter` between columns, which the first line names, or `columns`. `time` and `host` name
    the fields that hold the time and the host, `entities` those of other kinds: kind -> fields.
    `finding` says how its records are findings, if they are."""

    name: str
    logsource: FormatSource
    pattern: str = ""
    rename: dict[str, str] = field(default_factory=dict)
    json: dict[str, str] = field(default_factory=dict)
    csv: dict[str, str] = field(default_factory=dict)
    delimiter: Literal["comma", "semicolon", "tab", "pipe"] = "comma"
    columns: tuple[str, ...] = ()
    time: str = ""
    host: str = ""
    entities: dict[str, tuple[str, ...]] = field(default_factory=dict)
    finding: FindingPart = NO_FINDING


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration.

    Of rules: `placeholders` gives the values of %name% under the modifier `expand`, `pipelines` are
    files of pySigma transformations, `overrides` is the operator's file of levels and suppressions
    (a configuration that was read names OVERRIDES where it names none and that is there).
    `indicators` are lists of indicators in any form that the knowledge base takes in.
    """

    state_dir: str = "/var/lib/appliance"
    control_socket: str = ""
    hostname: str = ""
    rules: tuple[str, ...] = ()
    models_dir: str = ""
    knowledge_dir: str = ""
    indicators: tuple[str, ...] = ()
    model: bool = True
    rescan_seconds: float = _bounded(5.0, 0.1, 86400)
    placeholders: dict[str, tuple[str, ...]] = field(default_factory=dict)
    pipelines: tuple[str, ...] = ()
    overrides: str = ""
    heartbeat: float = _duration(60.0, 0, 86400)
    workers: int = _bounded(1, 1, 64)
    sources: tuple[Source, ...] = ()
    sinks: tuple[SyslogSink | FileSink, ...] = ()
    correlate: Correlate = field(default_factory=Correlate)
    health: Health = field(default_factory=Health)
    sentinel: Sentinel = field(default_factory=Sentinel)
    limits: Limits = field(default_factory=Limits)
    retention: Retention = field(default_factory=Retention)
    archive: ArchiveSettings = field(default_factory=ArchiveSettings)
    formats: tuple[Format, ...] = ()

    @property
    def headed_formats(self) -> frozenset[str]:
        """The formats whose files name their columns in the first line."""
        return frozenset(spec.name for spec in self.formats if spec.csv and not spec.columns)

    @property
    def store_path(self) -> Path:
        """The SQLite database inside the state directory."""
        return Path(self.state_dir) / "store.db"

    @property
    def archive_path(self) -> Path:
        """The archive's folder."""
        return Path(self.archive.path or Path(self.state_dir) / "archive")

    @property
    def control_path(self) -> Path:
        """The Unix socket on which the running daemon answers `status`."""
        return Path(self.control_socket or Path(self.state_dir) / "control.sock")


def describe_sink(spec: SyslogSink | FileSink) -> SinkSettings:
    """A sink as the way out takes it: of `run` and of the check alike."""
    kinds = frozenset(spec.kinds)
    if isinstance(spec, FileSink):
        return SinkSettings(type="file", address=spec.path, kinds=kinds)
    return SinkSettings(
        type="syslog",
        address=spec.address,
        transport=spec.transport,
        facility=spec.facility,
        enterprise=spec.enterprise,
        max_bytes=spec.max_bytes or None,
        kinds=kinds,
    )


_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)([smhd])")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class _Problems:
    """Collects what is wrong, so that all of it can be said at once."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.found: list[tuple[int, str]] = []
        self.lines: dict[str, int] = {}
        self._keys: set[str] = set()

    def add(self, line: int, key: str, reason: str) -> None:
        shown = show_hidden(cap_text(key, NAME_CHARACTERS))
        where = f"{self.path}:{line}: {shown}: " if key else f"{self.path}:{line}: "
        self.found.append((line, where + show_hidden(reason)))
        self._keys.add(key)

    def has(self, key: str) -> bool:
        """Whether something is wrong with this key's value already."""
        return key in self._keys

    def say(self, key: str, reason: str) -> None:
        """Add a problem of a key whose line is already known."""
        self.add(self.lines.get(key, 1), key, reason)

    def texts(self) -> list[str]:
        return [text for _, text in sorted(self.found, key=lambda pair: pair[0])]


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _scalar(node: yaml.Node) -> Any:
    if not isinstance(node, yaml.ScalarNode):
        return MISSING
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, yaml.YAMLError):
        # What SafeLoader raises for `!!bool maybe`, `!!timestamp foo`, `!!int ""`.
        return MISSING
    finally:
        loader.dispose()


def _describe(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(kind))
    return {
        str: "text",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
    }.get(kind, "a mapping")


def _read_value(
    node: yaml.Node, kind: Any, key: str, problems: _Problems, bounds: typing.Mapping[str, float]
) -> Any:
    """The node's value as `kind`; None, and a problem, when it is none."""
    problems.lines[key] = _line(node)
    origin = get_origin(kind)
    if origin is tuple:
        if not isinstance(node, yaml.SequenceNode):
            problems.add(_line(node), key, "must be a list")
            return ()
        item = get_args(kind)[0]
        return tuple(
            _read_value(child, item, f"{key}[{i}]", problems, bounds)
            for i, child in enumerate(node.value)
        )
    if origin is dict:
        return _read_pairs(node, get_args(kind)[1], key, problems)
    if origin in (typing.Union, types.UnionType):
        return _read_tagged(node, get_args(kind), key, problems)
    if is_dataclass(kind):
        return _read_mapping(node, typing.cast(type, kind), key, problems)
    value = _scalar(node)
    if "duration" in bounds and isinstance(value, str) and (age := _DURATION.fullmatch(value)):
        value = float(age[1]) * _UNITS[age[2]]
    value = _convert(value, kind)
    if value is None:
        shown = node.value if isinstance(node, yaml.ScalarNode) else "a list or mapping"
        wanted = "a duration (30, 30s, 5m, 2h, 1d)" if "duration" in bounds else _describe(kind)
        problems.add(_line(node), key, f"must be {wanted}, not {str(shown)[:80]!r}")
    elif reason := _find_fault(value, bounds):
        problems.add(_line(node), key, reason)
        value = None
    return value


def _read_pairs(node: yaml.Node, kind: Any, key: str, problems: _Problems) -> dict[str, Any]:
    """A mapping of free names to texts, to numbers, or to lists of texts."""
    if not isinstance(node, yaml.MappingNode):
        what = {str: "texts", float: "numbers"}.get(kind, "lists of texts")
        problems.add(_line(node), key, f"must be a mapping of names to {what}")
        return {}
    pairs: dict[str, Any] = {}
    for name_node, value_node in node.value:
        name = _read_value(name_node, str, f"{key}.NAME", problems, {})
        if name is None:
            continue
        if name in pairs:
            problems.add(_line(name_node), f"{key}.{name}", "given twice")
        value = _read_value(value_node, kind, f"{key}.{name}", problems, {})
        pairs[name] = value or kind()
    return pairs


def _convert(value: Any, kind: Any) -> Any:
    """The scalar as this kind of value, or None when it is another."""
    if get_origin(kind) is Literal:
        return value if value in get_args(kind) else None
    if isinstance(value, bool) != (kind is bool):
        return None
    if kind is float and isinstance(value, int):
        try:
            return float(value)
        except OverflowError:
            return None
    return value if isinstance(value, kind) else None


def _find_fault(value: Any, bounds: typing.Mapping[str, float]) -> str:
    """Why a value of the right type is refused; empty when it is not."""
    if isinstance(value, str):
        found = _NOT_TEXT.search(value)
        return f"must not hold the character U+{ord(found[0]):04X}" if found else ""
    if isinstance(value, bool) or not bounds:
        return ""
    least, most = bounds["least"], bounds["most"]
    # Not a number is neither.
    return "" if least <= value <= most else f"must be {least:,} to {most:,}, not {value:,}"


def _read_tagged(node: yaml.Node, choices: tuple[Any, ...], key: str, problems: _Problems) -> Any:
    """A mapping whose `type` key says which dataclass it is."""
    tags: dict[str, type] = {}
    for choice in choices:
        hint = typing.get_type_hints(choice)["type"]
        tags[get_args(hint)[0]] = choice
    # The kind that needs no type, where there is one.
    named = next((tag for tag, kind in tags.items() if _has_default_type(kind)), "")
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if name.value == "type" and isinstance(value, yaml.ScalarNode):
                named = value.value
    if named not in tags:
        problems.add(_line(node), f"{key}.type", "must be one of " + ", ".join(sorted(tags)))
        return None
    return _read_mapping(node, tags[named], key, problems)


def _has_default_type(kind: type) -> bool:
    return any(f.name == "type" and f.default is not MISSING for f in fields(kind))


def _read_mapping(node: yaml.Node, kind: type, key: str, problems: _Problems) -> Any:
    if not isinstance(node, yaml.MappingNode):
        problems.add(_line(node), key, "must be a mapping of keys to values")
        return None
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in fields(kind)}
    values: dict[str, Any] = {}
    for name_node, value_node in node.value:
        name = str(name_node.value) if isinstance(name_node, yaml.ScalarNode) else "a key"
        dotted = f"{key}.{name}" if key else name
        if name not in known:
            problems.add(_line(name_node), dotted, "unknown key; known: " + ", ".join(known))
        elif name in values:
            problems.add(_line(name_node), dotted, "given twice")
        else:
            bounds = known[name].metadata
            values[name] = _read_value(value_node, hints[name], dotted, problems, bounds)
    for name, spec in known.items():
        required = spec.default is MISSING and spec.default_factory is MISSING
        if required and name not in values:
            problems.add(_line(node), f"{key}.{name}" if key else name, "is missing")
            values[name] = None
    return kind(**values)


def _check_names(config: Config, problems: _Problems) -> None:
    for group, items in (("sources", config.sources), ("sinks", config.sinks)):
        seen: dict[str, int] = {}
        for i, item in enumerate(items):
            name = getattr(item, "name", None)
            key = f"{group}[{i}].name"
            if name is None:
                continue
            if name == OWN_SOURCE and group == "sources":
                problems.say(key, f"{name!r} is what the appliance says of itself")
            if not 0 < len(name) <= NAME_CHARACTERS:
                problems.say(key, f"must have 1 to {NAME_CHARACTERS} characters")
            if name in seen:
                problems.say(key, f"{name!r} is already used on line {seen[name]}")
            seen[name] = problems.lines.get(key, 1)


def _look_at(path: str) -> tuple[os.stat_result | None, str]:
    """What is at the path, or why that can't be known. An empty path is the current folder."""
    try:
        return Path(path).stat(), ""
    except OSError as error:
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
        return None, "" if missing else (error.strerror or str(error))
    except ValueError as error:  # UnicodeError too: the file system's encoding can't express it
        return None, str(error)


def _check_folder(path: str, key: str, problems: _Problems, shown: str = "") -> None:
    status, reason = _look_at(path)
    if status is None or not stat.S_ISDIR(status.st_mode):
        problems.say(key, f"{reason or 'no such folder'}: {shown or path}")


def _check_state(config: Config, problems: _Problems) -> None:
    """The state folder is made at the start, so it may be missing, but nothing else be there."""
    if problems.has("state_dir") or problems.has("control_socket"):
        return
    status, reason = _look_at(config.state_dir)
    if not config.state_dir:
        problems.say("state_dir", "must name a folder")
    elif reason or (status is not None and not stat.S_ISDIR(status.st_mode)):
        problems.say("state_dir", f"{reason or 'not a folder'}: {config.state_dir}")
    else:
        key = "control_socket" if config.control_socket else "state_dir"
        _check_socket(str(config.control_path), key, problems)


def _check_archive(config: Config, problems: _Problems) -> None:
    """Made at the start, as the state's folder is."""
    path = config.archive.path if config.archive is not None else None
    if not path or problems.has("archive.path"):
        return
    status, reason = _look_at(path)
    if not path.startswith("/"):
        problems.say("archive.path", f"must be an absolute path, not {path[:80]!r}")
    elif reason or (status is not None and not stat.S_ISDIR(status.st_mode)):
        problems.say("archive.path", f"{reason or 'not a folder'}: {path}")


def _check_socket(path: str, key: str, problems: _Problems) -> None:
    """Raised by bind and connect, and so only at the start or never said."""
    length = len(path.encode("utf-8", "surrogateescape"))
    if length > SOCKET_BYTES:
        problems.say(
            key, f"the socket's path has {length} bytes, more than {SOCKET_BYTES}: {path[:80]}..."
        )


def _check_source(
    source: Source,
    key: str,
    formats: typing.Sequence[str],
    headed: typing.Container[str],
    problems: _Problems,
) -> None:
    if isinstance(source, FilesSource):
        _check_paths(source, key, problems)
    elif isinstance(source, SyslogSource):
        _check_listener(source, key, problems)
    elif source.directory:
        _check_folder(source.directory, f"{key}.directory", problems)
    if (
        not isinstance(source, JournalSource)
        and source.format is not None
        and source.format not in formats
    ):
        known = ", ".join(formats)
        problems.say(f"{key}.format", f"must be one of {known}, not {source.format[:80]!r}")
    elif isinstance(source, SyslogSource) and source.format in headed:
        problems.say(
            f"{key}.format",
            "what a syslog source receives has no header line: the format must name its columns",
        )
    if source.timezone is not None:
        try:
            ZoneInfo(source.timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            problems.say(f"{key}.timezone", f"no such time zone: {source.timezone!r}")


def _check_paths(source: FilesSource, key: str, problems: _Problems) -> None:
    if source.paths == () and not problems.has(f"{key}.paths"):
        problems.say(f"{key}.paths", "must name at least one path")
    for j, path in enumerate(source.paths or ()):
        if path is not None:
            _check_pattern(path, f"{key}.paths[{j}]", problems)


def _check_listener(source: SyslogSource, key: str, problems: _Problems) -> None:
    try:
        if source.address is not None:
            parse_listen_address(source.address)
    except ValueError as error:
        problems.say(f"{key}.address", str(error))
    for j, network in enumerate(source.allow or ()):
        try:
            parse_networks([] if network is None else [network])
        except ValueError as error:
            problems.say(f"{key}.allow[{j}]", cap_text(str(error), NAME_CHARACTERS))


def _check_pattern(path: str, key: str, problems: _Problems) -> None:
    """What it names may come later, and need not be readable yet; but it must be able to be."""
    if not path.startswith("/"):
        problems.say(key, f"must be an absolute path, not {path[:80]!r}")
    for part in path.split("/"):
        if len(part.encode()) > COMPONENT_BYTES and not glob.has_magic(part):
            problems.say(key, f"{os.strerror(errno.ENAMETOOLONG)}: {part[:80]}...")
            return


def _check_file(sink: FileSink, key: str, written: dict[str, str], problems: _Problems) -> None:
    """Its folder must be there, and no other sink may write the file: each would take the other's
    lines for its own cut-off ones."""
    try:
        path = os.path.realpath(sink.path)
    except (OSError, ValueError) as error:
        problems.say(key, str(error))
        return
    _check_folder(str(Path(path).parent), key, problems, str(Path(sink.path).parent))
    status, reason = _look_at(path)
    if reason and not problems.has(key):
        problems.say(key, f"{reason}: {sink.path}")
    elif status is not None and not stat.S_ISREG(status.st_mode):
        problems.say(key, f"not a regular file: {sink.path}")
    if path in written:
        problems.say(key, f"{sink.path} is also written by sink {written[path]!r}")
    written[path] = sink.name


def _check_sink(spec: SyslogSink | FileSink, hostname: str, key: str, problems: _Problems) -> None:
    """Build the sink as `run` does: each setting alone first, so that all that is wrong is said at
    its key, then all of them together."""
    if problems.has(f"{key}.transport") or problems.has(f"{key}.kinds"):
        return
    is_file = isinstance(spec, FileSink)
    names = ("address",) if is_file else ("address", "facility", "enterprise", "max_bytes")
    keys = {name: f"{key}.path" if is_file else f"{key}.{name}" for name in names}
    given = describe_sink(spec)
    harmless = "/dev/log" if is_file or given.transport == "unix" else "[::1]:514"
    plain = SinkSettings(type=given.type, transport=given.transport, address=harmless)
    for name in names:
        alone = msgspec.structs.replace(plain, **{name: getattr(given, name)})
        if not problems.has(keys[name]) and (reason := _try_sink(alone, hostname)):
            problems.say(keys[name], reason)
    if not any(problems.has(k) for k in keys.values()) and (reason := _try_sink(given, hostname)):
        problems.say(key, reason)


def _try_sink(settings: SinkSettings, hostname: str) -> str:
    """Why `run` would refuse the sink; empty when it would not."""
    try:
        # The longest process id there is: PID_MAX_LIMIT of Linux, 4194304.
        build_sink("", settings, hostname=hostname, procid="4194304")
    except ValueError as error:
        return str(error)
    return ""


def _check_sinks(config: Config, problems: _Problems) -> None:
    written: dict[str, str] = {}
    hostname = config.hostname
    if hostname and not HOSTNAME.fullmatch(hostname):
        problems.say("hostname", "must be 1 to 255 visible ASCII characters without blanks")
        hostname = ""
    for i, sink in enumerate(config.sinks):
        key = f"sinks[{i}]"
        if isinstance(sink, SyslogSink) and sink.transport == "unix" and sink.address is not None:
            if not sink.address.startswith("/"):
                problems.say(f"{key}.address", f"must be an absolute path, not {sink.address!r}")
            _check_socket(sink.address, f"{key}.address", problems)
        if isinstance(sink, SyslogSink | FileSink):
            _check_sink(sink, hostname or "-", key, problems)
        if isinstance(sink, FileSink) and not problems.has(f"{key}.path"):
            _check_file(sink, f"{key}.path", written, problems)


def _check_places(config: Config, problems: _Problems) -> None:
    """What must be there before the start: rules, zones, folders that sinks write to."""
    _check_state(config, problems)
    _check_archive(config, problems)
    for i, rules in enumerate(config.rules):
        if rules is not None:
            status, reason = _look_at(rules)
            if status is None or not rules:
                problems.say(f"rules[{i}]", f"{reason or 'no such file or folder'}: {rules}")
    _check_rule_settings(config, problems)
    sentinel = config.sentinel
    if sentinel is not None and sentinel.model and _look_at(sentinel.model)[0] is None:
        problems.say("sentinel.model", f"no such file or folder: {sentinel.model}")
    for i, path in enumerate(config.indicators):
        status, reason = _look_at(path) if path is not None else (None, "")
        if path is not None and (status is None or not stat.S_ISREG(status.st_mode)):
            problems.say(f"indicators[{i}]", f"{reason or 'no such file'}: {path}")
    for name in ("models_dir", "knowledge_dir"):
        if given := getattr(config, name):
            _check_folder(given, name, problems)
    formats = (*RECORD_FORMATS, *_check_formats(config, problems))
    headed = {spec.name for spec in config.formats if spec and spec.csv and not spec.columns}
    for i, source in enumerate(config.sources):
        if source is not None:
            _check_source(source, f"sources[{i}]", formats, headed, problems)
    _check_sinks(config, problems)
    _check_circles(config, problems)


def _check_rule_settings(config: Config, problems: _Problems) -> None:
    """What rules are loaded with. The files' content is looked at where rules are loaded."""
    for name, values in config.placeholders.items():
        if not values and not problems.has(f"placeholders.{name}"):
            problems.say(f"placeholders.{name}", "must have at least one value")
    named = [(f"pipelines[{i}]", path) for i, path in enumerate(config.pipelines)]
    for key, path in [*named, ("overrides", config.overrides or None)]:
        status, reason = _look_at(path) if path is not None else (None, "")
        if path is not None and (status is None or not stat.S_ISREG(status.st_mode)):
            problems.say(key, f"{reason or 'no such file'}: {path}")


def _check_formats(config: Config, problems: _Problems) -> list[str]:
    """Everything wrong with the formats that are described here; gives their names."""
    seen: dict[str, int] = {}
    for i, spec in enumerate(config.formats):
        if spec is not None:
            if spec.name is not None:
                _check_format_name(spec.name, f"formats[{i}].name", seen, problems)
            _check_described(spec, f"formats[{i}]", problems)
    return list(seen)


def _check_described(spec: Format, key: str, problems: _Problems) -> None:
    source = spec.logsource
    if source is not None and not (source.product or source.category or source.service):
        problems.say(f"{key}.logsource", "must name a product, category or service")
    if any(problems.has(f"{key}.{shape}") for shape in ("pattern", "json", "csv")):
        return
    if sum(map(bool, (spec.pattern, spec.json, spec.csv))) != 1:
        problems.say(key, "must have either a pattern or a json mapping, or a csv mapping")
        return
    if spec.pattern:
        _check_format_pattern(spec, key, problems)
    else:
        _check_format_places(spec, key, problems)
    if spec.csv:
        _check_columns(spec, key, problems)
    elif spec.columns:
        problems.say(f"{key}.columns", "only a csv mapping has columns")
    for kind in spec.entities:
        if kind not in ENTITY_KINDS and not problems.has(f"{key}.entities.{kind}"):
            problems.say(f"{key}.entities.{kind}", f"must be one of {', '.join(ENTITY_KINDS)}")
    if f"{key}.finding" in problems.lines:
        _check_finding(spec, f"{key}.finding", problems)


def _check_columns(spec: Format, key: str, problems: _Problems) -> None:
    for part in ("time", "host"):
        given = getattr(spec, part)
        if given and given not in spec.csv:
            problems.say(f"{key}.{part}", f"the csv mapping gives no field {given[:80]!r}")
    if spec.columns and None not in spec.columns and not problems.has(f"{key}.delimiter"):
        try:
            build_csv_decoder(spec.name or "", spec.csv, spec.delimiter, spec.columns)
        except ValueError as error:
            problems.say(f"{key}.columns", str(error))


def _list_field_names(spec: Format) -> typing.Container[str] | None:
    """The fields that the format's records can have; None where they have others too."""
    if spec.csv:
        return spec.csv
    if spec.json:
        return None
    try:
        found = build_pattern_decoder(spec.name or "", spec.pattern, spec.rename).fields
    except ValueError:
        return None  # said already
    return {*found, "message"}


def _check_finding(spec: Format, key: str, problems: _Problems) -> None:
    """Everything wrong with how a format's records are findings."""
    finding = spec.finding
    known = _list_field_names(spec)
    parts = ("sensor", "rule_id", "title", "level", "techniques", "tactics")
    named = [(f"{key}.{p}.field", getattr(getattr(finding, p), "field", "")) for p in parts]
    named += [(f"{key}.signature", finding.signature)]
    named += [(f"{key}.evidence[{i}]", name) for i, name in enumerate(finding.evidence)]
    named += [(f"{key}.where.{name}", name) for name in finding.where]
    for place, name in named:
        if name and known is not None and name not in known and not problems.has(place):
            problems.say(place, f"the format gives no field {name[:80]!r}")
    for part in parts:
        _check_part(getattr(finding, part), f"{key}.{part}", problems)
    _check_sensor_names(finding.sensor, f"{key}.sensor", problems)
    _check_levels(finding.level, f"{key}.level", problems)
    for i, row in enumerate(finding.signatures):
        where = f"{key}.signatures[{i}]"
        if row is not None and row.match is not None and (reason := check_pattern(row.match)):
            problems.say(f"{where}.match", reason)
        if row is not None and row.level and row.level not in LEVELS:
            problems.say(f"{where}.level", f"must be one of {', '.join(LEVELS)}")


def _check_part(part: Any, key: str, problems: _Problems) -> None:
    for i, row in enumerate(getattr(part, "patterns", ())):
        if row is not None and row.match is not None and (reason := check_pattern(row.match)):
            problems.say(f"{key}.patterns[{i}].match", reason)
    given = part.table or getattr(part, "patterns", ()) or getattr(part, "at_least", {})
    if given and not part.field:
        problems.say(key, "has a table or patterns for no field")


def _check_sensor_names(part: Part, key: str, problems: _Problems) -> None:
    """A record says which of the operator's names it is, never a name of its own."""
    if not part.otherwise and not problems.has(f"{key}.otherwise"):
        problems.lines.setdefault(key, problems.lines[key.rpartition(".")[0]])
        problems.say(key, "must name the sensor in `otherwise`")
    places = [(f"{key}.otherwise", part.otherwise)]
    places += [(f"{key}.table.{name}", value) for name, value in part.table.items()]
    places += [
        (f"{key}.patterns[{i}].give", row.give) for i, row in enumerate(part.patterns) if row
    ]
    for place, name in places:
        if name and (reason := check_sensor(name)):
            problems.say(place, reason)


def _check_levels(part: LevelPart, key: str, problems: _Problems) -> None:
    for name, value in part.table.items():
        if value not in LEVELS and not problems.has(f"{key}.table.{name}"):
            problems.say(f"{key}.table.{name}", f"must be one of {', '.join(LEVELS)}")
    for name in part.at_least:
        if name not in LEVELS and not problems.has(f"{key}.at_least.{name}"):
            problems.say(f"{key}.at_least.{name}", f"must be one of {', '.join(LEVELS)}")


def _check_format_name(name: str, key: str, seen: dict[str, int], problems: _Problems) -> None:
    if not FORMAT_NAME.fullmatch(name):
        problems.say(key, f"must be 1 to 64 letters, digits, - or _, not {name[:80]!r}")
    elif name in RECORD_FORMATS or name in FORMATS:
        problems.say(key, f"{name!r} is a format that the appliance knows")
    elif name in seen:
        problems.say(key, f"{name!r} is already used on line {seen[name]}")
    seen.setdefault(name, problems.lines.get(key, 1))


def _check_format_pattern(spec: Format, key: str, problems: _Problems) -> None:
    try:
        fields = build_pattern_decoder(spec.name or "", spec.pattern, spec.rename).fields
    except ValueError as error:
        problems.say(f"{key}.pattern", str(error))
        return
    for part in ("time", "host"):
        given = getattr(spec, part)
        if given and given not in fields:
            problems.say(f"{key}.{part}", f"the pattern gives no field {given[:80]!r}")


def _check_format_places(spec: Format, key: str, problems: _Problems) -> None:
    if spec.rename:
        problems.say(f"{key}.rename", "only a pattern has groups to rename")
    for field_name, place in spec.json.items() if spec.json else ():
        where = f"{key}.json.{field_name}"
        if not problems.has(where) and (reason := check_place(place)):
            problems.say(where, reason)


def _check_circles(config: Config, problems: _Problems) -> None:
    """No source may read what the appliance itself writes: each finding would be read again."""
    written = [
        (f"sinks[{i}].path", sink.path)
        for i, sink in enumerate(config.sinks)
        if isinstance(sink, FileSink) and sink.path
    ]
    if config.state_dir:
        written.append(("state_dir", str(config.store_path)))
    for source in config.sources:
        for pattern in source.paths or () if isinstance(source, FilesSource) else ():
            for key, path in written:
                if isinstance(pattern, str) and names_path(pattern, os.path.normpath(path)):
                    problems.say(key, f"{path} is followed by source {source.name!r} ({pattern})")


def dump_config(config: Config) -> str:
    """The configuration as YAML that `parse_config` reads back as it was: YAML's own writer knows
    which numbers and characters JSON writes in another way."""
    return yaml.safe_dump(msgspec.to_builtins(config), allow_unicode=False, sort_keys=False)


def parse_config(text: str, path: str, *, checked: bool = False) -> Config:
    """Read a configuration from YAML text; `path` is only named in messages. `checked` says that
    what it names was looked at already, by who wrote the text with `dump_config`.

    Raises ConfigError with every problem found: syntax, unknown and missing keys, wrong types,
    values out of range, names used twice, files and folders that are not there.
    """
    problems = _Problems(path)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConfigError([f"{path}:{mark.line + 1 if mark else 1}: {error.problem}"]) from error
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        # The last two: an escape that names no character ("\\UFFFFFFFF").
        reason = show_hidden(" ".join(str(error).split()))
        raise ConfigError([f"{path}:1: not readable as YAML: {reason}"]) from error
    if node is None:
        raise ConfigError([f"{path}:1: the file is empty; name at least one source"])
    config: Config | None = _read_mapping(node, Config, "", problems)
    if config is not None and not checked:
        _check_names(config, problems)
        _check_places(config, problems)
        if not config.sources and not problems.has("sources"):
            problems.say("sources", "name at least one source")
    if config is None or problems.found:
        raise ConfigError(problems.texts())
    if not config.overrides and _look_at(str(OVERRIDES))[0] is not None:
        return replace(config, overrides=str(OVERRIDES))
    return config


def load_config(path: Path) -> Config:
    """Read and check the configuration file. Raises ConfigError (also when it can't be read)."""
    try:
        with path.open("rb") as file:
            raw = file.read(CONFIG_BYTES + 1)
        text = raw.decode("utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise ConfigError([f"{path}: cannot be read: {reason or error}"]) from error
    if len(raw) > CONFIG_BYTES:
        raise ConfigError([f"{path}: cannot be read: longer than {CONFIG_BYTES} bytes"])
    return parse_config(text, str(path))
