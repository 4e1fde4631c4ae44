"""Rules as they were compiled, kept in a cache (detect stage, at load time, around `load`).

Reading and parsing thousands of rule files takes seconds, reading what came of it a fraction. The
key is the digest of all that the result depends on: the files and how they were named, this
package's own source, the versions below it, and what the caller adds. What a rule's logsource is
fed by is asked again each time. Stored are the rules' nodes as plain msgpack lists, which build
nothing but the classes listed here.
"""

import dataclasses
import platform
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from importlib.metadata import version
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import msgspec

from appliance import schema
from appliance.detect.sigma import correlation, documents, load, match, patterns
from appliance.detect.sigma.cache import Cache, hold_collector
from appliance.detect.sigma.documents import MAX_FILE_BYTES, find_rule_files
from appliance.detect.sigma.load import Feeds, RuleSet
from appliance.errors import RuleError
from appliance.schema import LogSource, digest

#: Loads the rules of paths; asks for each logsource what feeds it.
Load = Callable[[Sequence[Path], Feeds], RuleSet]

_MODULES: Final[tuple[ModuleType, ...]] = (schema, correlation, documents, load, match, patterns)


def _list_classes() -> Iterator[tuple[str, type]]:
    for module in _MODULES:
        for name, kind in vars(module).items():
            if isinstance(kind, type) and kind.__module__ == module.__name__:
                known = dataclasses.is_dataclass(kind) or issubclass(kind, Enum | msgspec.Struct)
                if known:
                    yield f"{module.__name__.rpartition('.')[2]}.{name}", kind


_BY_NAME: Final[dict[str, type]] = dict(_list_classes())
_NAMES: Final[dict[type, str]] = {kind: name for name, kind in _BY_NAME.items()}


def _list_fields(kind: Any) -> tuple[str, ...]:
    if issubclass(kind, msgspec.Struct):
        names: tuple[str, ...] = kind.__struct_fields__
        return names
    return tuple(field.name for field in dataclasses.fields(kind) if field.init)


_FIELDS: Final[dict[type, tuple[str, ...]]] = {
    kind: _list_fields(kind) for kind in _NAMES if not issubclass(kind, Enum)
}


def load_cached(
    paths: Sequence[Path], cache: Cache, *, feeds: Feeds, load: Load, about: Sequence[str] = ()
) -> RuleSet:
    """What `load` makes of the paths, from the cache when nothing has changed since it was kept.
    `about` is all else that `load` depends on: placeholders, pipelines. Raises what `load` does."""
    key = _name_rules(paths, about)
    if key is not None and (stored := cache.read(key)) is not None:
        with hold_collector():
            found = _read_rules(stored, feeds)
        if found is not None:
            return dataclasses.replace(found, key=key)
    asked: dict[LogSource, str | None] = {}

    def ask(logsource: LogSource) -> str | None:
        asked[logsource] = answer = feeds(logsource)
        return answer

    rules = load(paths, ask)
    # A file that changed while it was read must not be kept under what it was before.
    if key is not None and key == _name_rules(paths, about):
        body = _write_rules(rules, asked)
        if body is not None:
            cache.write(key, body)
            return dataclasses.replace(rules, key=key)
    return rules


def _name_rules(paths: Sequence[Path], about: Sequence[str]) -> str | None:
    """The key; None when a file can't be read, about which `load` has its own words."""
    parts: list[str | bytes] = ["rules", platform.python_version(), version("pysigma")]
    parts += [version("google-re2"), version("msgspec"), str(len(about)), *about]
    try:
        parts += [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
        parts.append(Path(schema.__file__).read_bytes())
        for path in paths:
            parts += ["path", str(path)]
            for file in find_rule_files(path):
                with file.open("rb") as opened:
                    parts += [str(file), opened.read(MAX_FILE_BYTES + 1)]
    except (OSError, RuleError):
        return None
    return digest(*parts)


def _write_rules(rules: RuleSet, asked: dict[LogSource, str | None]) -> bytes | None:
    """None when a rule holds what can't be kept, such as a number over 64 bits."""
    try:
        return msgspec.msgpack.encode(_write([rules, tuple(asked), tuple(asked.values())]))
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None


def _read_rules(stored: bytes, feeds: Feeds) -> RuleSet | None:
    """None for what is no rule set, or one for which other logsources were fed."""
    try:
        rules, asked, answers = _read(msgspec.msgpack.decode(stored))
        if [feeds(logsource) for logsource in asked] != list(answers):
            return None
    except (ValueError, TypeError, KeyError, AttributeError, RuleError, RecursionError):
        return None
    return rules if isinstance(rules, RuleSet) else None


def _write(value: Any) -> Any:
    """The value as msgpack has it: what is no plain scalar is a list that begins with its kind."""
    kind = type(value)
    if value is None or kind in (str, int, float, bool):
        return value
    if kind in (tuple, list, frozenset):
        return [kind.__name__, *map(_write, sorted(value) if kind is frozenset else value)]
    if isinstance(value, Enum) and kind in _NAMES:
        return [_NAMES[kind], value.name]
    if kind in _FIELDS:
        return [_NAMES[kind], *(_write(getattr(value, name)) for name in _FIELDS[kind])]
    if kind in (IPv4Network, IPv6Network):
        return ["network", str(value)]
    if isinstance(value, Path):
        return ["path", str(value)]
    raise TypeError(f"{kind.__name__} cannot be kept")


_PLAIN: Final[dict[str, Callable[[list[Any]], Any]]] = {
    "tuple": tuple,
    "list": list,
    "frozenset": frozenset,
    "network": lambda parts: ip_network(*parts),
    "path": lambda parts: Path(*parts),
}


def _read(value: Any) -> Any:
    if type(value) is not list:
        return value
    name, *rest = value
    parts = [_read(part) if type(part) is list else part for part in rest]
    if (make := _PLAIN.get(name)) is not None:
        return make(parts)
    kind = _BY_NAME[name]
    return kind[parts[0]] if issubclass(kind, Enum) else kind(*parts)
