"""Third station of the line: nested fields become the flat ones that Sigma rules name."""

from typing import Any, Final

from appliance.normalise.trim import write_json
from appliance.schema import Fields

#: Longest dotted name, in characters. Below it the rest stays one JSON text: else a long name
#: over many leaves would be repeated for each of them. Names of real systems have up to 40.
MAX_NAME: Final = 128


def flatten(value: dict[str, Any]) -> Fields:
    """The same content with dotted names; lists of plain values stay lists, others are JSON text.

    The depth is the decoder's business (it rejects what nests deeper than 64), the number of
    values that of `trim`.
    """
    fields: Fields = {}
    for name, child in value.items():
        if isinstance(child, dict | list):
            put_nested(fields, name, child)
        else:
            fields[name] = child
    return fields


def put_nested(fields: Fields, name: str, value: Any) -> None:
    """Put `value` into `fields` under `name`, or under names that begin with it and a dot."""
    if isinstance(value, dict):
        if len(name) > MAX_NAME:
            fields[name] = write_json(value)
            return
        for key, child in value.items():
            put_nested(fields, f"{name}.{key}", child)
    elif isinstance(value, list):
        fields[name] = [
            write_json(child) if isinstance(child, dict | list) else child for child in value
        ]
    else:
        fields[name] = value
