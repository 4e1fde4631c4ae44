"""Beside the line: the audit log's chain. Every change that an operator makes is one entry, and
each entry's hash covers the hash of the entry before it.

The hash of an entry is SHA-256 over eight texts, each as its length in bytes (eight bytes, the most
significant first) and its UTF-8 bytes:

    "appliance audit 1", number (decimal), time (seconds since 1970 UTC, six digits behind the
    point), actor, action, subject, details (the JSON text as it is stored), previous

`previous` is the hash of the entry before, as 64 hex digits; of the first, 64 zeros. So nobody can
change, take out or put in an entry without all later hashes changing, and the newest hash, told
outside, vouches for the whole log.
"""

import hashlib
import math
from collections.abc import Iterable
from typing import Any, Final

import msgspec
import orjson

from appliance.emit.text import show_hidden, show_surrogates
from appliance.incident import Action

#: Begins what is hashed: another layout gets another number.
LAYOUT: Final = "appliance audit 1"
#: `previous` of the first entry.
BEGINNING: Final = "0" * 64
#: Actor and action of what the appliance itself writes when the log does not end where it should.
ITSELF: Final = "appliance"
FAULT: Final = "fault"
#: What is wrong with a chain, told one by one up to here.
MOST_FAULTS: Final = 20

#: number, time, actor, action, subject, details, previous, hash, as they are stored.
Stored = tuple[Any, Any, Any, Any, Any, Any, Any, Any]
#: number, time, actor, action, subject.
Told = tuple[int, float, str, str, str]


class Entry(msgspec.Struct, frozen=True):
    """What is to be written down: an action that has no place in the chain yet."""

    action: str
    subject: str
    details: dict[str, Any]


class Head(msgspec.Struct, frozen=True):
    """The newest entry's number and hash; number 0 and BEGINNING of an empty log."""

    number: int = 0
    hash: str = BEGINNING


class Chain(msgspec.Struct, frozen=True):
    """A chain that was followed to its end. `entries` counts what is there, `head` is the newest
    that is there; `faults` says what is wrong with it, nothing when it is sound."""

    entries: int
    head: Head
    faults: tuple[str, ...]


def hash_entry(told: Told, details: bytes, previous: str) -> str:
    """The hash of one entry, 64 hex digits. Raises ValueError for a time that is no number,
    UnicodeError for text that is no Unicode."""
    number, time, actor, action, subject = told
    if not math.isfinite(time):
        raise ValueError("its time is no number")
    parts = (LAYOUT, str(number), f"{time:.6f}", actor, action, subject)
    framed = hashlib.sha256()
    for part in (*(text.encode() for text in parts), details, previous.encode()):
        framed.update(len(part).to_bytes(8, "big"))
        framed.update(part)
    return framed.hexdigest()


def write_details(details: dict[str, Any]) -> bytes:
    """The details as they are stored and hashed: one line of JSON with sorted keys."""
    return orjson.dumps(details, option=orjson.OPT_SORT_KEYS)


def link_entry(entry: Entry, *, actor: str, time: float, head: Head) -> Action:
    """The entry as the next one behind `head`. `time` is cut to microseconds."""
    moment = round(time, 6) if math.isfinite(time) else 0.0
    shown = show_surrogates(actor)
    number = head.number + 1
    details = write_details(entry.details)
    told = (number, moment, shown, entry.action, entry.subject)
    key = hash_entry(told, details, head.hash)
    return Action(number, moment, shown, entry.action, entry.subject, entry.details, head.hash, key)


def describe_action(action: Action) -> str:
    """One line of a log: who did what to what, and the hash that vouches for it."""
    return (
        f"audit {action.number}: {show_hidden(action.actor)}: {action.action} {action.subject}, "
        f"head {action.hash}"
    )


def follow_chain(rows: Iterable[Stored], head: Head | None) -> Chain:
    """Follow the entries, in the order of their numbers. `head` is what is remembered of the newest
    beside the log itself, None when that is gone. Raises nothing for what a row holds."""
    faults: list[str] = []
    last = Head()
    entries = 0
    for row in rows:
        entries += 1
        number, previous, key = row[0], row[6], row[7]
        if number != last.number + 1:
            faults.append(_say_gap(last.number, number))
        elif previous != last.hash:
            faults.append(f"entry {number} does not follow from the one before it")
        if reason := _find_fault(row):
            faults.append(f"entry {number} {reason}")
        if row[2:4] == (ITSELF, FAULT):
            faults.append(f"entry {number} says that the log was not whole when it was written")
        last = Head(number, str(key))
    if head is None:
        faults.append("what was remembered of the newest entry is gone")
    elif head.number > last.number:
        faults.append(f"the end is missing: the newest entry was {head.number}, and {last.number} "
                      "is there")  # fmt: skip
    elif head != last:
        faults.append("the newest entry is not the one that was remembered")
    surplus = len(faults) - MOST_FAULTS
    told = (*faults[:MOST_FAULTS], *((f"{surplus} more",) if surplus > 0 else ()))
    return Chain(entries, last, told)


def _say_gap(before: int, number: object) -> str:
    return f"entry {before + 1} is missing: {number} follows {before}"


def _find_fault(row: Stored) -> str:
    """What is wrong with one entry in itself, empty for nothing."""
    number, time, actor, action, subject, details, previous, key = row
    try:
        expected = hash_entry((number, time, actor, action, subject), bytes(details), previous)
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        return f"can't be read: {error}"
    return "" if expected == key else "was changed: its hash is another"
