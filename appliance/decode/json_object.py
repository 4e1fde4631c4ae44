"""Second station of the line, format `json`: one JSON object a record (RFC 8259).

Read by orjson; what it refuses and a log may still hold (control characters inside strings, NaN,
lone surrogates, numbers beyond a double) is read a second time by the json module and then made
plain. A name that occurs twice: the last one wins, in both readers (RFC 8259 section 4 leaves
this open).
"""

import json
import math
import re
from typing import Any, Final

import orjson

from appliance.decode.utf8 import escape_bytes, has_bad_bytes, read_text, strip_frame
from appliance.errors import DecodeError
from appliance.schema import Decoded, RawRecord

#: A log record nests a few levels; a hundred are a bomb for whoever walks them later.
MAX_DEPTH: Final = 64
#: The source's record cap is lower; this one holds for callers without a source.
MAX_BYTES: Final = 16 * 1024 * 1024


#: What the tolerant reader looks for in the bytes first, because a Python call for each number or
#: text of a large record takes long: escaped surrogates, numbers over 64 bits, over a double.
_MAYBE_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_MAYBE_LONG: Final = re.compile(rb"\d{19}")
_MAYBE_INFINITE: Final = re.compile(rb"[eE]\+?\d{3}|\d{300}")


def decode_json(record: RawRecord) -> Decoded:
    """Read the record as one JSON object. Raises DecodeError."""
    fields, repaired = read_object(record.data)
    return Decoded("json", fields, repaired)


def read_object(data: bytes) -> tuple[dict[str, Any], bool]:
    """Return the JSON object in `data` and whether bytes of it had to be escaped.

    Raises DecodeError when it is no JSON, no object, deeper than MAX_DEPTH or over MAX_BYTES.
    """
    if len(data) > MAX_BYTES:
        raise DecodeError(f"JSON of {len(data)} bytes is over the limit of {MAX_BYTES}")
    data = strip_frame(data)
    tolerated = repaired = False
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        tolerated = True
        value, repaired = _read_tolerantly(data, error)
    if not isinstance(value, dict):
        raise DecodeError(f"JSON is {_name_type(value)}, not an object")
    if _has_brackets(data, MAX_DEPTH) and _is_deeper(value, MAX_DEPTH):
        raise DecodeError(f"JSON nests deeper than {MAX_DEPTH} levels")
    if tolerated:
        if _MAYBE_SURROGATE.search(data) is None:
            return value, repaired
        cleaned = _clean(value)
        return cleaned, repaired or cleaned != value
    return value, False


def _read_tolerantly(data: bytes, error: orjson.JSONDecodeError) -> tuple[Any, bool]:
    """Read what orjson refused. True when bytes that are no UTF-8 had to be escaped."""
    text = read_text(data)
    repaired = has_bad_bytes(text)
    if repaired:
        text = escape_bytes(text, doubled=True)
    try:
        value = json.loads(
            text,
            strict=False,
            parse_constant=str,
            parse_float=_read_float if _MAYBE_INFINITE.search(data) else None,
            parse_int=_read_int if _MAYBE_LONG.search(data) else None,
        )
    except RecursionError:
        raise DecodeError(f"JSON nests deeper than {MAX_DEPTH} levels") from None
    except ValueError:
        raise DecodeError(f"not JSON: {str(error)[:120]}") from None
    return value, repaired


def _read_float(text: str) -> float | str:
    value = float(text)
    return value if math.isfinite(value) else text


def _read_int(text: str) -> int | float | str:
    """As orjson does: 64 bits stay whole, more become a double, beyond that the text stays."""
    if len(text) <= 20:
        value = int(text)
        if -(2**63) <= value < 2**64:
            return value
    return _read_float(text)


def _has_brackets(data: bytes, limit: int) -> bool:
    """Whether there are more opening brackets than `limit`: only such text can be that deep, and
    the walk is for the few. Splitting stops there, and is faster than counting."""
    enough = limit + 1
    return len(data.split(b"{", enough)) + len(data.split(b"[", enough)) - 2 > limit


def _is_deeper(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            child
            for parent in level
            for child in (parent.values() if type(parent) is dict else parent)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return False
    return True


def _clean(value: Any) -> Any:
    """The same value without lone surrogates. Depth is known to be within MAX_DEPTH."""
    if isinstance(value, str):
        return escape_bytes(value) if has_bad_bytes(value) else value
    if isinstance(value, dict):
        return {_clean(key): _clean(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_clean(child) for child in value]
    return value


def _name_type(value: Any) -> str:
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        return "a string"
    return "null" if value is None else "a number or boolean"
