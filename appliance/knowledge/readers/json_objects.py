"""Knowledge, reading: JSON of a foreign source, where any field may be missing or of a wrong type.

The fields of an object are asked for by the type they must have; anything else counts as absent.
"""

from collections.abc import Iterable
from typing import Any, Final, TypeGuard

import orjson

from appliance.errors import ModelError

#: A JSON object; nothing is known of its values.
JsonObject = dict[str, Any]

#: What CPython spends, in bytes, on an object, a list, half a text, an element (measured: within a
#: tenth for lists of one sort of value, and too much for objects).
_COSTS: Final = ((b"{", 184), (b"[", 96), (b'"', 16), (b",", 56))
#: A file may be spread out to this, in bytes, or to ten times its size, whichever is more.
_FREE: Final = 256 * 1024 * 1024
_MOST_TIMES: Final = 10


def decode_json(raw: bytes, name: str) -> Any:
    """The file's JSON value (RFC 8259; a byte order mark is passed over). Raises ModelError when
    the bytes are no JSON, are nested deeper than 1,024, or are so full of small values ("{},{},")
    that the value would take more than ten times the file's size in memory."""
    spread = len(raw) + sum(raw.count(mark) * cost for mark, cost in _COSTS)
    if spread > max(_FREE, _MOST_TIMES * len(raw)):
        raise ModelError(f"{name}: it would take {spread >> 20} MiB of memory to read")
    try:
        return orjson.loads(memoryview(raw)[3:] if raw.startswith(b"\xef\xbb\xbf") else raw)
    except orjson.JSONDecodeError as error:
        raise ModelError(f"{name}: not JSON: {error}") from None


def is_object(value: object) -> TypeGuard[JsonObject]:
    """Whether the value is a JSON object."""
    return isinstance(value, dict)


def read_object(value: JsonObject, key: str) -> JsonObject:
    """The object in the field; an empty one where there is none."""
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def read_text(value: JsonObject, key: str) -> str:
    """The text in the field; "" where there is none."""
    found = value.get(key)
    return found if isinstance(found, str) else ""


def read_list(value: JsonObject, key: str) -> list[Any]:
    """The list in the field; an empty one where there is none."""
    found = value.get(key)
    return found if isinstance(found, list) else []


def read_texts(value: JsonObject, key: str) -> list[str]:
    """The texts of the list in the field, without what isn't text."""
    return [text for text in read_list(value, key) if isinstance(text, str)]


def read_objects(value: JsonObject, key: str) -> list[JsonObject]:
    """The objects of the list in the field, without what is none."""
    return [found for found in read_list(value, key) if isinstance(found, dict)]


def is_set(value: JsonObject, key: str) -> bool:
    """Whether the field says true."""
    return value.get(key) is True


def keep_unique(texts: Iterable[str]) -> tuple[str, ...]:
    """The texts in their order, each once, without empty ones."""
    return tuple(dict.fromkeys(text for text in texts if text))
