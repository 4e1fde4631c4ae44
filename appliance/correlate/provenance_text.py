"""Beside the line, when somebody asks where an incident came from: texts of its graph, made safe.

What a log says may hold control characters, terminal escapes, half characters and megabytes. Here
it becomes one printable line of bounded length, and values become numbers where they are some.
"""

import math
import re
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final

from appliance.schema import Fields

#: Longest texts, in characters: of a label, of a fact, of what is compared.
MAX_LABEL: Final = 160
MAX_FACT: Final = 1024
MAX_COMPARED: Final = 8192


def clean_text(text: str, limit: int = MAX_FACT) -> str:
    """The text on one line, what cannot be printed escaped, at most `limit` characters."""
    if text.isprintable():
        return text if len(text) <= limit else f"{text[: limit - 3]}..."
    safe = "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text[: limit + 1]
    )
    return safe if len(text) <= limit and len(safe) <= limit else f"{safe[: limit - 3]}..."


def make_id(*parts: str) -> str:
    """A node's id: the parts joined by colons; what is long or unprintable is told by a digest, so
    that no two things share one."""
    text = ":".join(parts)
    if len(text) <= MAX_LABEL and text.isprintable() and not any(":" in part for part in parts[2:]):
        return text
    framed = "\x00".join(f"{len(part)}.{part}" for part in parts)
    shortened = blake2b(framed.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
    return f"{clean_text(parts[0], 16)}:{shortened}"


def read_text(fields: Fields, *names: str) -> str:
    """The first of the fields that holds a text; "" for none, "-" counts as none."""
    for name in names:
        value = fields.get(name)
        if type(value) is str and value and value != "-":
            return value
    return ""


def read_integer(value: Any) -> int | None:
    """A number from an int, decimal or 0x text; None for none, a negative one, or over 64 bits."""
    if type(value) is str:
        if not 0 < len(value) <= 20:
            return None
        try:
            value = int(value, 16) if value[:2] in ("0x", "0X") else int(value)
        except ValueError:
            return None
    return value if type(value) is int and 0 <= value < 2**64 else None


def read_pid(fields: Fields, *names: str) -> int | None:
    """The first of the fields that holds a process id; 0 is none."""
    for name in names:
        if (value := fields.get(name)) is not None and (number := read_integer(value)):
            return number
    return None


def read_guid(fields: Fields, *names: str) -> str:
    """The first of the fields that holds a process's GUID, lower case without braces."""
    for name in names:
        value = fields.get(name)
        if type(value) is str:
            guid = value.strip("{} ").lower()
            if guid.strip("0-"):
                return guid if len(guid) <= MAX_LABEL else make_id("guid", guid)
    return ""


_GUID: Final = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4})-([0-9a-f]{4})-[0-9a-f]{4}-[0-9a-f]{12}")


def read_guid_time(guid: str, before: float) -> float | None:
    """When the process started, which Sysmon's GUIDs hold (second and third group: seconds since
    the epoch, low half first); None where that is no time of the ten years before `before`."""
    match = _GUID.fullmatch(guid)
    if match is None:
        return None
    seconds = float(int(match[2] + match[1], 16))
    return seconds if before - 315_360_000 < seconds <= before + 2 else None


def name_image(image: str) -> str:
    """A program's file name, lower case."""
    return re.split(r"[\\/]", image[-MAX_COMPARED:].strip().strip('"'))[-1].lower()


def word_time(seconds: float) -> str:
    """A time as people read it, UTC, to the second; words for what no calendar holds."""
    if not math.isfinite(seconds):
        return "an unknown time"
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return "an unknown time"
