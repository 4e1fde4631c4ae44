"""YAML -> frozen dataclasses; every error at once, each with file, line and key.

The dataclasses below are the whole configuration: a key that is not a field here is an error, never
ignored. Limits stand together with their defaults.
"""

import os
import types
import typing
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml

from appliance.errors import ConfigError
from appliance.schema import MessageKind

Format = Literal["auto", "json", "syslog3164", "syslog5424", "text"]


@dataclass(frozen=True, slots=True)
class FilesSource:
    """Files and globs, followed as they grow; EVTX, JSON documents and gzip by their content."""

    name: str
    paths: tuple[str, ...]
    type: Literal["files"] = "files"
    format: Format = "auto"
    start_at: Literal["beginning", "end"] = "beginning"
    timezone: str = "UTC"


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
    max_bytes: int = 0
    enterprise: str = "32473"
    kinds: tuple[MessageKind, ...] = ("finding", "update", "incident")


@dataclass(frozen=True, slots=True)
class FileSink:
    """JSON lines, one a finding, each exactly once."""

    name: str
    type: Literal["file"]
    path: str
    kinds: tuple[MessageKind, ...] = ("finding",)


@dataclass(frozen=True, slots=True)
class Correlate:
    """How findings join: a shared entity within `window_seconds` of event time, while the incident
    spans no more than `max_span_seconds`."""

    window_seconds: float = 1800.0
    max_span_seconds: float = 86400.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Every cap of the appliance. What goes over one is counted in `status`."""

    record_bytes: int = 1 << 20
    rejected_bytes: int = 1 << 16
    batch_records: int = 2000
    judge_queue: int = 1000
    outbox_rows: int = 100_000
    findings_rows: int = 1_000_000
    incidents_rows: int = 100_000
    rejected_rows: int = 10_000
    correlation_keys: int = 200_000
    incident_findings: int = 5_000
    files_per_source: int = 10_000


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration. `lines` gives the line of each dotted key, for messages."""

    state_dir: str = "/var/lib/appliance"
    control_socket: str = ""
    hostname: str = ""
    rules: tuple[str, ...] = ()
    models_dir: str = ""
    knowledge_dir: str = ""
    model: bool = True
    rescan_seconds: float = 5.0
    sources: tuple[FilesSource, ...] = ()
    sinks: tuple[SyslogSink | FileSink, ...] = ()
    correlate: Correlate = field(default_factory=Correlate)
    limits: Limits = field(default_factory=Limits)
    path: str = ""
    lines: dict[str, int] = field(default_factory=dict)

    @property
    def store_path(self) -> Path:
        """The SQLite database inside the state directory."""
        return Path(self.state_dir) / "store.db"

    @property
    def control_path(self) -> Path:
        """The Unix socket on which the running daemon answers `status`."""
        return Path(self.control_socket or Path(self.state_dir) / "control.sock")


#: Set by us, never read from the file.
_INTERNAL = frozenset({"path", "lines"})


class _Problems:
    """Collects what is wrong, so that all of it can be said at once."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.found: list[tuple[int, str]] = []
        self.lines: dict[str, int] = {}

    def add(self, line: int, key: str, reason: str) -> None:
        where = f"{self.path}:{line}: {key}: " if key else f"{self.path}:{line}: "
        self.found.append((line, where + reason))

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
    except (ValueError, yaml.YAMLError):
        return node.value
    finally:
        loader.dispose()


def _describe(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(kind))
    return {str: "text", int: "a whole number", float: "a number", bool: "true or false"}.get(
        kind, "a mapping"
    )


def _read_value(node: yaml.Node, kind: Any, key: str, problems: _Problems) -> Any:
    problems.lines[key] = _line(node)
    origin = get_origin(kind)
    if origin is tuple:
        if not isinstance(node, yaml.SequenceNode):
            problems.add(_line(node), key, "must be a list")
            return ()
        item = get_args(kind)[0]
        return tuple(
            _read_value(child, item, f"{key}[{i}]", problems) for i, child in enumerate(node.value)
        )
    if origin in (typing.Union, types.UnionType):
        return _read_tagged(node, get_args(kind), key, problems)
    if is_dataclass(kind):
        return _read_mapping(node, typing.cast(type, kind), key, problems)
    value = _scalar(node)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if origin is Literal:
        good = value in get_args(kind)
    else:
        good = isinstance(value, kind) and not (kind is not bool and isinstance(value, bool))
    if not good:
        shown = node.value if isinstance(node, yaml.ScalarNode) else "a list or mapping"
        problems.add(_line(node), key, f"must be {_describe(kind)}, not {str(shown)[:80]!r}")
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and value <= 0:
        problems.add(_line(node), key, f"must be greater than 0, not {value}")
    return value


def _read_tagged(node: yaml.Node, choices: tuple[Any, ...], key: str, problems: _Problems) -> Any:
    """A mapping whose `type` key says which dataclass it is."""
    tags: dict[str, type] = {}
    for choice in choices:
        hint = typing.get_type_hints(choice)["type"]
        tags[get_args(hint)[0]] = choice
    named = ""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if name.value == "type" and isinstance(value, yaml.ScalarNode):
                named = value.value
    if named not in tags:
        problems.add(_line(node), f"{key}.type", "must be one of " + ", ".join(sorted(tags)))
        return None
    return _read_mapping(node, tags[named], key, problems)


def _read_mapping(node: yaml.Node, kind: type, key: str, problems: _Problems) -> Any:
    if not isinstance(node, yaml.MappingNode):
        problems.add(_line(node), key, "must be a mapping of keys to values")
        return None
    hints = typing.get_type_hints(kind)
    internal = _INTERNAL if kind is Config else frozenset()
    known = {f.name: f for f in fields(kind) if f.name not in internal}
    values: dict[str, Any] = {}
    for name_node, value_node in node.value:
        name = str(name_node.value)
        dotted = f"{key}.{name}" if key else name
        if name not in known:
            problems.add(_line(name_node), dotted, "unknown key; known: " + ", ".join(known))
        elif name in values:
            problems.add(_line(name_node), dotted, "given twice")
        else:
            values[name] = _read_value(value_node, hints[name], dotted, problems)
    for name, spec in known.items():
        required = spec.default is MISSING and spec.default_factory is MISSING
        if required and name not in values:
            problems.add(_line(node), f"{key}.{name}" if key else name, "is missing")
            values[name] = None
    return kind(**values)


def _check_unique(config: Config, problems: _Problems) -> None:
    for group, items in (("sources", config.sources), ("sinks", config.sinks)):
        seen: dict[str, int] = {}
        for i, item in enumerate(items):
            name = getattr(item, "name", None)
            key = f"{group}[{i}].name"
            if name is not None and name in seen:
                problems.say(key, f"{name!r} is already used on line {seen[name]}")
            if name is not None:
                seen[name] = problems.lines.get(key, 1)


def _check_address(sink: SyslogSink, key: str, problems: _Problems) -> None:
    if sink.transport == "unix" or not isinstance(sink.address, str):
        return
    host, _, port = sink.address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        problems.say(f"{key}.address", f"must be host:port, not {sink.address!r}")


def _check_source(source: FilesSource, key: str, problems: _Problems) -> None:
    if source.paths == ():
        problems.say(f"{key}.paths", "must name at least one path")
    for j, path in enumerate(source.paths or ()):
        if isinstance(path, str) and not path.startswith("/"):
            problems.say(f"{key}.paths[{j}]", f"must be an absolute path, not {path!r}")
    if isinstance(source.timezone, str):
        try:
            ZoneInfo(source.timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            problems.say(f"{key}.timezone", f"no such time zone: {source.timezone!r}")


def _check_file(sink: FileSink, key: str, written: dict[str, str], problems: _Problems) -> None:
    """Its folder must be there, and no other sink may write the file: each would take the other's
    lines for its own cut-off ones."""
    path = os.path.realpath(sink.path)
    if not Path(path).parent.is_dir():
        problems.say(key, f"no such folder: {Path(sink.path).parent}")
    if path in written:
        problems.say(key, f"{sink.path} is also written by sink {written[path]!r}")
    written[path] = sink.name


def _check_places(config: Config, problems: _Problems) -> None:
    """What must be there before the start: rules, zones, folders that sinks write to."""
    for i, rules in enumerate(config.rules):
        if isinstance(rules, str) and not Path(rules).exists():
            problems.say(f"rules[{i}]", f"no such file or folder: {rules}")
    for name in ("models_dir", "knowledge_dir"):
        given = getattr(config, name)
        if given and isinstance(given, str) and not Path(given).is_dir():
            problems.say(name, f"no such folder: {given}")
    for i, source in enumerate(config.sources):
        if isinstance(source, FilesSource):
            _check_source(source, f"sources[{i}]", problems)
    written: dict[str, str] = {}
    for i, sink in enumerate(config.sinks):
        if isinstance(sink, SyslogSink):
            _check_address(sink, f"sinks[{i}]", problems)
        elif isinstance(sink, FileSink) and isinstance(sink.path, str):
            _check_file(sink, f"sinks[{i}].path", written, problems)


def parse_config(text: str, path: str) -> Config:
    """Read a configuration from YAML text; `path` is only named in messages.

    Raises ConfigError with every problem found: syntax, unknown and missing keys, wrong types,
    values out of range, names used twice, files and folders that are not there.
    """
    problems = _Problems(path)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConfigError([f"{path}:{mark.line + 1 if mark else 1}: {error.problem}"]) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError([f"{path}:1: not readable as YAML: {error}"]) from error
    if node is None:
        raise ConfigError([f"{path}:1: the file is empty; name at least one source"])
    config = _read_mapping(node, Config, "", problems)
    if config is not None:
        _check_unique(config, problems)
        _check_places(config, problems)
        if not config.sources:
            problems.say("sources", "name at least one source")
    if problems.found:
        raise ConfigError(problems.texts())
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    return Config(**{**values, "path": path, "lines": problems.lines})


def load_config(path: Path) -> Config:
    """Read and check the configuration file. Raises ConfigError (also when it can't be read)."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: cannot be read: {error}"]) from error
    return parse_config(text, str(path))
