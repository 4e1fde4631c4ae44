"""The language of `hunt`: terms with spaces between them, all of which an event must meet.

    field=value     the whole value of the field, without case; * stands for anything
    field~regex     an expression (RE2) is found in a value of the field, without case
    word            is anywhere in a value of any field
    -term           the event must not meet the term

A value or word with a space in it stands in double quotes, in which "" is one quote; a backslash is
a backslash. Names of fields have no case.
"""

import re
from typing import Final, Literal

import msgspec

from appliance.errors import UsageError

#: Longest query, in characters, and most terms.
MAX_QUERY: Final = 16_384
MAX_TERMS: Final = 256
_FIELD: Final = re.compile(r"([A-Za-z0-9_@][\w@.:/\[\]-]*+)([=~])", re.ASCII)

Kind = Literal["is", "matches"]


class Term(msgspec.Struct, frozen=True):
    """One term. `field` None is a word, which may be in any field; `parts` are the texts of a value
    with a `*` between each two of them, or the one expression. `place` is where in the query it
    begins, from 1."""

    field: str | None
    kind: Kind
    parts: tuple[str, ...]
    negated: bool
    place: int


def parse_query(text: str) -> list[Term]:
    """The terms of a query. Raises UsageError, which names the place."""
    if len(text) > MAX_QUERY:
        raise UsageError(f"the query has {len(text)} characters, more than {MAX_QUERY}")
    terms: list[Term] = []
    at = 0
    while True:
        while at < len(text) and text[at].isspace():
            at += 1
        if at == len(text):
            break
        if len(terms) == MAX_TERMS:
            raise _fail(at, f"there are more than {MAX_TERMS} terms")
        term, at = _read_term(text, at)
        terms.append(term)
    if not terms:
        raise UsageError("the query is empty: give field=value, field~regex or a word")
    return terms


def _read_term(text: str, at: int) -> tuple[Term, int]:
    begin = at
    negated = text[at] == "-"
    if negated:
        at += 1
    if at == len(text) or text[at].isspace():
        raise _fail(begin, "a - needs a term behind it")
    found = _FIELD.match(text, at)
    if found is None and text[at] in "=~":
        raise _fail(at, f"{text[at]} needs a field's name before it")
    if found is None:
        parts, at = _read_value(text, at)
        if not any(parts):
            raise _fail(begin, "a word must hold more than *")
        return Term(None, "is", parts, negated, begin + 1), at
    field, sign = found[1], found[2]
    start = found.end()
    if sign == "~":
        expression, at = _read_text(text, start)
        if not expression:
            raise _fail(start, f"{field}~ needs an expression")
        return Term(field, "matches", (expression,), negated, begin + 1), at
    parts, at = _read_value(text, start)
    return Term(field, "is", parts, negated, begin + 1), at


def _read_value(text: str, at: int) -> tuple[tuple[str, ...], int]:
    value, at = _read_text(text, at)
    return tuple(value.split("*")), at


def _read_text(text: str, at: int) -> tuple[str, int]:
    """The text up to the next space, or in quotes."""
    if at >= len(text) or text[at] != '"':
        end = at
        while end < len(text) and not text[end].isspace():
            if text[end] == '"':
                raise _fail(end, "a quote inside a value: put the whole value in quotes")
            end += 1
        return text[at:end], end
    begin, written = at, []
    at += 1
    while True:
        end = text.find('"', at)
        if end < 0:
            raise _fail(begin, "the quote is not closed")
        written.append(text[at:end])
        if text[end + 1 : end + 2] != '"':
            break
        written.append('"')
        at = end + 2
    if end + 1 < len(text) and not text[end + 1].isspace():
        raise _fail(end + 1, "a space must follow the closing quote")
    return "".join(written), end + 1


def _fail(at: int, reason: str) -> UsageError:
    return UsageError(f"query, character {at + 1}: {reason}")
