"""Knowledge, reading: the simple sorts of STIX 2.1 patterns (OASIS STIX 2.1, section 9).

An indicator is one value that is looked up, so only what is a list of alternatives can be read:
comparisons by "=" and IN (and ISSUBSET for addresses), joined by OR. Where only OR joins, brackets
change nothing, and no tree is needed: the pattern is read in one pass.
"""

import re
from collections.abc import Iterator
from typing import Final

import msgspec

#: Longest pattern that is read, in characters.
MAX_PATTERN: Final = 262_144

_TOKEN: Final = re.compile(
    r"\s*+(?:(?P<text>'(?:[^'\\]|\\.)*+')"
    r"|(?P<path>[a-zA-Z0-9-]{1,64}+:[A-Za-z0-9_.-]{1,128}(?:'[A-Za-z0-9-]{1,32}'|\"[A-Za-z0-9-]{1,32}\")?)"
    r"|(?P<number>-?[0-9]{1,32}+(?:\.[0-9]{1,32}+)?)"
    r"|(?P<word>[A-Za-z]{1,16}+)"
    r"|(?P<mark>!=|<=|>=|[=<>\[\](),]))",
    re.DOTALL,
)
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_OPERATORS: Final = frozenset({"=", "in", "issubset"})
_KINDS: Final = {
    "ipv4-addr:value": "address",
    "ipv6-addr:value": "address",
    "network-traffic:src_ref.value": "address",
    "network-traffic:dst_ref.value": "address",
    "domain-name:value": "domain",
    "url:value": "url",
    "file:name": "file",
    "file:hashes.md5": "md5",
    "file:hashes.sha1": "sha1",
    "file:hashes.sha256": "sha256",
}


class Alternative(msgspec.Struct, frozen=True):
    """One comparison of a pattern: the object path as written, and the value. `kind` is that of an
    indicator, "" where events hold nothing of the sort."""

    path: str
    value: str
    kind: str


class _Token(msgspec.Struct, frozen=True):
    kind: str
    text: str


def read_pattern(pattern: str) -> list[Alternative]:
    """The values of which each alone makes the pattern true, in their order. ValueError with the
    reason when the pattern says anything else (AND, FOLLOWEDBY, NOT, LIKE, a time window, ...)."""
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"the pattern is longer than {MAX_PATTERN} characters")
    tokens = list(_split_tokens(pattern))
    found: list[Alternative] = []
    depth = place = 0
    wants_value = True
    while place < len(tokens):
        token = tokens[place]
        if token.text in ("[", "("):
            depth, place = depth + 1, place + 1
        elif token.text in ("]", ")"):
            depth, place = depth - 1, place + 1
        elif wants_value and token.kind == "path" and depth > 0:
            values, place = _read_comparison(tokens, place)
            found += values
            wants_value = False
        elif not wants_value and token.text.lower() == "or":
            wants_value, place = True, place + 1
        else:
            raise ValueError(_tell_unread(token))
        if depth < 0:
            break
    if depth != 0 or wants_value:
        raise ValueError("the pattern is incomplete")
    return found


def _split_tokens(pattern: str) -> Iterator[_Token]:
    place, end = 0, len(pattern.rstrip())
    while place < end:
        found = _TOKEN.match(pattern, place)
        if found is None:
            raise ValueError(f"the pattern cannot be read at character {place + 1}")
        kind = found.lastgroup or ""
        yield _Token(kind, found[kind])
        place = found.end()


def _read_comparison(tokens: list[_Token], place: int) -> tuple[list[Alternative], int]:
    """The comparison that begins at the place, and the place behind it."""
    path = tokens[place].text
    operator = tokens[place + 1].text.lower() if place + 1 < len(tokens) else ""
    if operator not in _OPERATORS:
        raise ValueError(f"the comparison {operator.upper() or 'without an operator'} is not read")
    kind = _find_kind(path)
    if operator == "issubset" and kind != "address":
        raise ValueError("ISSUBSET is read for addresses only")
    values, place = _read_values(tokens, place + 2, many=operator == "in")
    return [Alternative(path, value, kind) for value in values], place


def _read_values(tokens: list[_Token], place: int, *, many: bool) -> tuple[list[str], int]:
    if not many:
        return [_read_value(tokens, place)], place + 1
    if place >= len(tokens) or tokens[place].text != "(":
        raise ValueError("IN has no list")
    values = [_read_value(tokens, place + 1)]
    place += 2
    while place < len(tokens) and tokens[place].text == ",":
        values.append(_read_value(tokens, place + 1))
        place += 2
    if place >= len(tokens) or tokens[place].text != ")":
        raise ValueError("the list of IN has no end")
    return values, place + 1


def _read_value(tokens: list[_Token], place: int) -> str:
    if place >= len(tokens) or tokens[place].kind != "text":
        raise ValueError("a value is no text")
    return _ESCAPE.sub(r"\1", tokens[place].text[1:-1])


def _find_kind(path: str) -> str:
    plain = path.replace("'", "").replace('"', "").lower()
    if plain.startswith("file:hashes."):
        plain = plain.replace("-", "")
    return _KINDS.get(plain, "")


def _tell_unread(token: _Token) -> str:
    if token.kind == "word":
        return f"the pattern is more than alternatives: {token.text.upper()}"
    return "the pattern is no list of alternatives"
