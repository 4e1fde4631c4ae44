"""Third station of the line, its door: a record too wide to be unfolded is cut to size first.

One hostile record of a megabyte can hold half a million values, each of which would become a field
with its whole dotted name. What is over the limits is not dropped: it becomes one field of
compact JSON text, REST, which keyword rules search like any other and whose presence says that the
event was cut.
"""

import json
from itertools import islice
from typing import Any, Final

import msgspec

#: Name of the field that holds what was cut: a JSON list of {dotted name: what is missing there}.
#: For a list that is the number of its elements that became the one text at its end.
REST: Final = "_rest"
#: Most children of one object or list. Events of real systems have up to 60.
MAX_CHILDREN: Final = 512
#: Most objects, lists and values of a whole record. Events of real systems have up to 110.
MAX_NODES: Final = 2048
#: What has children: the types that JSON readers make.
_NESTED: Final = (dict, list)
#: Longest name in REST, in characters.
_MAX_PATH: Final = 128


def is_wide(record: dict[str, Any]) -> bool:
    """True for a record over the limits of `trim`."""
    room = MAX_NODES
    level: list[Any] = [record]
    while level:
        deeper = []
        for parent in level:
            room -= len(parent)
            if room < 0 or len(parent) > MAX_CHILDREN:
                return True
            children = parent.values() if isinstance(parent, dict) else parent
            deeper.extend([child for child in children if type(child) in _NESTED])
        level = deeper
    return False


def trim(record: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A copy of the record within the limits, and what is missing in it, for REST.

    What lies near the top comes first, and no single object or list can use up the room of its
    siblings, so that whoever fills one can't push the others out.
    """
    kept: dict[str, Any] = {}
    rest: list[dict[str, Any]] = []
    room = MAX_NODES
    level: list[tuple[str, Any, Any]] = [("", record, kept)]
    while level:
        deeper: list[tuple[str, Any, Any]] = []
        for path, source, target in level:
            size = min(len(source), MAX_CHILDREN, room)
            room -= size
            if isinstance(source, dict):
                children = iter(source.items())
                for name, child in islice(children, size):
                    target[name] = _open(f"{path}.{name[:_MAX_PATH]}", child, deeper)
                missing: Any = dict(children)
            else:
                elements = iter(source)
                target.extend(_open(path, child, deeper) for child in islice(elements, size))
                if over := list(elements):
                    target.append(write_json(over))
                missing = len(over)
            if missing:
                rest.append({path[1:]: missing})
        level = deeper
    return kept, rest


def _open(path: str, child: Any, deeper: list[tuple[str, Any, Any]]) -> Any:
    """A plain value itself; for a nested one its empty copy, which `deeper` says how to fill."""
    if not isinstance(child, dict | list):
        return child
    copy: Any = {} if isinstance(child, dict) else []
    deeper.append((path[:_MAX_PATH], child, copy))
    return copy


def write_json(value: Any) -> str:
    """The value as compact JSON text. What no JSON can hold is written as its text."""
    try:
        return msgspec.json.encode(value).decode()
    except (UnicodeEncodeError, OverflowError, TypeError):
        # A lone surrogate or a number over 64 bits: no decoder makes one.
        return json.dumps(value, default=str, separators=(",", ":"))
