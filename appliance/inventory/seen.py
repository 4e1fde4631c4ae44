"""Inventory, its types: software that an event reveals, and what becomes of names out of a log.

Names and versions are written by whoever made the program, the package or the request: they are
cut, lose every character that does not print, and never are more than words in a table.
"""

import re
from typing import Final

import msgspec

#: Longest host, name of a vendor or product, and version, in characters.
MAX_HOST: Final = 253
MAX_NAME: Final = 80
MAX_VERSION: Final = 60

#: Words that stand for nothing, lower case.
_NOTHING: Final = frozenset({"", "-", "?", "n/a", "(null)", "null", "none", "unknown", "(none)"})
#: Marks of a trade, as they are and as UTF-8 read as Latin-1.
_MARKS: Final = re.compile(r"Â?[®™©]|\((?:R|TM|C|r|tm|c)\)")
_VERSION: Final = re.compile(r"[vV]?(\d[0-9A-Za-z.+:~_^-]{0,59})")
#: Version resources may be written "1, 2, 3, 4".
_COMMAS: Final = re.compile(r"\d{1,9}(?: ?, ?\d{1,9}){1,3}")


class Product(msgspec.Struct, frozen=True):
    """A piece of software as a record names it; "" for what it does not tell."""

    vendor: str
    product: str
    version: str


class Sight(msgspec.Struct, frozen=True):
    """Software that events of one batch revealed. `how` names the record and the field that say so,
    `first` and `last` are the events' times (epoch seconds). `installed` is True where a package
    manager says so: then it is there until another version of it is, or until it is `gone`; of what
    is gone an empty version means every one."""

    host: str
    vendor: str
    product: str
    version: str
    how: str
    first: float
    last: float
    installed: bool = False
    gone: bool = False


class Software(msgspec.Struct, frozen=True):
    """Software of a host as it is stored, to the hour of its last sight. `removed` is when it was
    taken away or another version took its place, None while it is there as far as known."""

    host: str
    vendor: str
    product: str
    version: str
    how: str
    first_seen: float
    last_seen: float
    removed: float | None = None
    installed: bool = False


def clean_name(value: object, most: int = MAX_NAME) -> str:
    """The text in one line of printing characters, without marks of a trade, cut; "" for what is no
    text or says nothing."""
    if not isinstance(value, str):
        return ""
    text = value[: 4 * most]
    if not text.isprintable():
        text = "".join(char if char.isprintable() else " " for char in text)
    # Blanks that `split` knows beyond the space do not print, so that one kind is left.
    text = " ".join(_MARKS.sub(" ", text).split())[:most].rstrip()
    return "" if text.lower() in _NOTHING else text


def clean_version(value: object) -> str:
    """The version at the beginning of the text: "10.0.17763.1 (WinBuild.160101.0800)" is
    10.0.17763.1; "" when none is there."""
    text = clean_name(value, MAX_VERSION)
    if found := _COMMAS.match(text):
        return found[0].replace(" ", "").replace(",", ".")
    found = _VERSION.match(text)
    return found[1].rstrip(".:~_^-") if found else ""
