"""Detect, what the sensors' readers have in common: texts, tags and evidence of an alert, each with
its limits. What a sensor says is text that somebody else may have chosen."""

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from appliance.schema import LEVELS, Detection, Event, Fields, Level, Match, View

#: What reads a sensor's view: its alert, or nothing. Raises nothing.
AlertReader = Callable[[Event, View], list[Detection]]

#: Longest title and longest value of a piece of evidence, in characters.
MAX_TITLE: Final = 200
MAX_VALUE: Final = 512
#: Most techniques or tactics of one alert.
MAX_TAGS: Final = 16

_TECHNIQUE: Final = re.compile(r"T\d{4}(?:[._]\d{3})?", re.ASCII)
#: ATT&CK's tactics, enterprise and industrial systems, by short name.
TACTICS: Final = frozenset(
    {"reconnaissance", "resource-development", "initial-access", "execution", "persistence"}
    | {"privilege-escalation", "defense-evasion", "credential-access", "discovery"}
    | {"lateral-movement", "collection", "command-and-control", "exfiltration", "impact"}
    | {"evasion", "inhibit-response-function", "impair-process-control"}
)


def read_techniques(value: Any) -> tuple[str, ...]:
    """ATT&CK ids of a text or a list of texts, each once."""
    found = (text.strip().upper() for text in list_texts(value))
    return tuple(
        dict.fromkeys(text.replace("_", ".") for text in found if _TECHNIQUE.fullmatch(text))
    )


def read_tactics(value: Any) -> tuple[str, ...]:
    """ATT&CK short names of a text or a list of texts ("Defense Evasion"), each once."""
    found = (text.strip().lower().replace("_", "-").replace(" ", "-") for text in list_texts(value))
    return tuple(dict.fromkeys(text for text in found if text in TACTICS))


def list_texts(value: Any) -> list[str]:
    """A text or the first texts of a list, those that are short enough for a tag."""
    values = value[:MAX_TAGS] if type(value) is list else [value]
    return [text for text in values if type(text) is str and len(text) <= MAX_VALUE]


def list_evidence(fields: Fields, names: Iterable[str]) -> tuple[Match, ...]:
    """What else the alert says; by which pattern of its signature is the sensor's knowledge."""
    found = []
    for name in names:
        value = fields.get(name)
        if value is None or value in ("", []):
            continue
        if type(value) is list:
            value = ", ".join(cap(part, MAX_VALUE) for part in value[:MAX_TAGS])
        found.append(Match(name, cap(value, MAX_VALUE), ""))
    return tuple(found)


def cap(value: Any, limit: int) -> str:
    """The value's text, cut to `limit` characters."""
    text = value if type(value) is str else str(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def name_title(value: Any, otherwise: str) -> str:
    """The text as a title, `otherwise` where it is none."""
    named = type(value) is str and value.strip()
    return cap(value.strip(), MAX_TITLE) if named else otherwise


def raise_level(level: Level, other: Level) -> Level:
    """The more severe of the two."""
    return max(level, other, key=LEVELS.index)
