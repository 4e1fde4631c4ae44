"""What to look for, as SQL over the columns: which rows are worth reading again.

A filter says yes to every row whose event meets what it was made for, and to others: whoever made
it compares the events. All values are bound parameters.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from appliance.archive.columns import ABOUT, FIELD_COLUMNS, SEPARATOR, find_column, storable_text
from appliance.archive.database import quote_name

#: Longest expression that DuckDB is asked to look for.
_MAX_EXPRESSION: Final = 2_000
#: One part of an expression: an escape, a class, or a character.
_PART: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)
#: Escapes that mean the same in a text without case: punctuation, and classes without case.
_PLAIN_ESCAPE: Final = re.compile(r"\\(?:[^\w\s]|[sSdDwAzntr])", re.ASCII)
#: Groups but for those that only group, or set flags.
_REFUSED: Final = re.compile(r"\(\?(?!:|[ims]{1,3}[:)])", re.ASCII)
_ANYTHING: Final = "(?s:.)"


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition of SQL with its values, in order."""

    sql: str
    values: tuple[Any, ...] = ()


#: Says yes to every row.
EVERYTHING: Final = Filter("TRUE")


def all_of(filters: Sequence[Filter]) -> Filter:
    """Rows to which each says yes."""
    return _join(" AND ", [each for each in filters if each != EVERYTHING])


def any_of(filters: Sequence[Filter]) -> Filter:
    """Rows to which one at least says yes."""
    return EVERYTHING if EVERYTHING in filters else _join(" OR ", filters)


def _join(word: str, filters: Sequence[Filter]) -> Filter:
    if not filters:
        return EVERYTHING
    if len(filters) == 1:
        return filters[0]
    sql = word.join(f"({each.sql})" for each in filters)
    return Filter(sql, tuple(value for each in filters for value in each.values))


def has_text(
    field: str | None,
    text: str,
    *,
    starts: bool = False,
    ends: bool = False,
    anycase: bool = False,
) -> Filter:
    """A value of the field (None: of any) holds the text, which has no case; at its beginning, its
    end, or as a whole where both. `anycase`: the field's name has no case either."""
    text = storable_text(text)
    if field is None:
        return _anywhere(text)
    column, names = _find_columns(field, anycase=anycase)
    found = [_in_cell(column, text, starts=starts, ends=ends)] if column else []
    for name, holder in names:
        found.append(_in_json(holder, name, text, starts=starts, ends=ends))
    return any_of(found)


def has_expression(field: str | None, expression: str, *, anycase: bool = False) -> Filter:
    """RE2 finds the expression in a value of the field. Where that can't be told of a text without
    case, every value is taken."""
    if field is None:
        return EVERYTHING
    column, names = _find_columns(field, anycase=anycase)
    found = [has_text(field, "", starts=True, anycase=anycase)]
    wide = widen_expression(expression)
    if column and wide is not None:
        name = quote_name(column)
        found = [
            Filter(
                f"coalesce(starts_with({name}, ?) OR regexp_matches({name}, ?), FALSE)",
                (SEPARATOR, wide),
            )
        ]
        found += [_in_json(holder, key, "", starts=True, ends=False) for key, holder in names]
    return any_of(found)


def widen_expression(expression: str) -> str | None:
    """An expression that, ignoring case, finds in a text without case whenever the given one finds
    in the text itself: what case can change (boundaries of words, refused characters) is left open.
    None where that can't be told."""
    if len(expression) > _MAX_EXPRESSION or not expression.isascii() or "\0" in expression:
        return None
    parts = [_widen_part(found[0]) for found in _PART.finditer(expression)]
    if any(part is None for part in parts):
        return None
    bare = "".join(part for part in parts if part and part[0] not in "\\[")
    if _REFUSED.search(bare.replace(_ANYTHING, "")):
        return None
    return "(?i)" + "".join(part for part in parts if part is not None)


def _widen_part(part: str) -> str | None:
    if part[0] == "[" and len(part) > 1:
        if "[:" in part:
            return None
        escapes = re.findall(r"\\.", part, re.DOTALL)
        plain = part[1] != "^" and all(map(_PLAIN_ESCAPE.fullmatch, escapes))
        return part if plain else _ANYTHING
    if part[0] != "\\":
        return part
    if part in ("\\b", "\\B"):
        return "(?:)"
    if part == "\\W":
        return _ANYTHING
    return part if _PLAIN_ESCAPE.fullmatch(part) else None


def has_entity(text: str) -> Filter:
    """An entity, written kind:value, holds the text, which has no case."""
    return Filter("contains(entities, ?)", (storable_text(text),))


def has_logsource(product: str | None, category: str | None, service: str | None) -> Filter:
    """A view may be of this log source; None is any."""
    if not (product or category or service):
        return EVERYTHING
    pattern = "/".join(_escape_like(storable_text(part)) if part else "%" for part in (
        product, category, service))  # fmt: skip
    return Filter("logsources LIKE ? ESCAPE '!'", (f"%{pattern}%",))


def _escape_like(text: str) -> str:
    return re.sub(r"([%_!])", r"!\1", text)


def _find_columns(field: str, *, anycase: bool) -> tuple[str, list[tuple[str | None, str]]]:
    """The field's own column ("" for none), and the JSON columns that may hold it, with its name
    there (None: whatever the name)."""
    column = find_column(field) or ""
    names: list[tuple[str | None, str]] = []
    if not column:
        names.append((None if anycase else field, "rest"))
    if anycase and field.lower() in ABOUT:
        names.append((field.lower(), "about"))
    return column, names


def _in_cell(column: str, text: str, *, starts: bool, ends: bool) -> Filter:
    name, several = quote_name(column), SEPARATOR
    if not text:
        return Filter(f"{name} IS NOT NULL")
    if not starts and not ends:
        return Filter(f"coalesce(contains({name}, ?), FALSE)", (text,))
    if starts and ends:
        one, within = f"{name} = ?", several + text + several
    elif starts:
        one, within = f"starts_with({name}, ?)", several + text
    else:
        one, within = f"ends_with({name}, ?)", text + several
    return Filter(
        f"coalesce({one} OR (starts_with({name}, ?) AND contains({name}, ?)), FALSE)",
        (text, several, within),
    )


def _in_json(column: str, field: str | None, text: str, *, starts: bool, ends: bool) -> Filter:
    """By the texts that `columns` writes: {"field":"text"} or {"field":["text","text"]}."""
    inside = _escape_json(text)
    if field is None:
        return Filter(f"coalesce(contains({column}, ?), FALSE)", (inside,))
    key = f'"{_escape_json(storable_text(field))}":'
    if not text:
        return Filter(f"coalesce(contains({column}, ?), FALSE)", (key,))
    if starts:
        tail = '"' if ends else ""
        return Filter(
            f"coalesce(contains({column}, ?) OR"
            f" (contains({column}, ?) AND contains({column}, ?)), FALSE)",
            (f'{key}"{inside}{tail}', f"{key}[", f'"{inside}{tail}'),
        )
    tail = '"' if ends else ""
    return Filter(
        f"coalesce(contains({column}, ?) AND contains({column}, ?), FALSE)",
        (key, inside + tail),
    )


def _anywhere(text: str) -> Filter:
    if not text:
        return EVERYTHING
    cells = [
        Filter(f"coalesce(contains({quote_name(column)}, ?), FALSE)", (text,))
        for column in FIELD_COLUMNS.values()
    ]
    inside = _escape_json(text)
    held = [Filter(f"coalesce(contains({c}, ?), FALSE)", (inside,)) for c in ("rest", "about")]
    return any_of([*held, *cells])


def _escape_json(text: str) -> str:
    return orjson.dumps(text).decode()[1:-1]
