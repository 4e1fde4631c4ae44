"""A view's field values, prepared once for all rules (detect stage, below `match`).

Semantics of values, chosen where the Sigma rules specification 2.1 leaves them to the system:
- A list-valued field holds several values; a test on the field asks whether any of them meets it.
- Mappings inside a value count as the list of their values.
- Text of a value: bool is "true"/"false", a whole float is written as an integer (4688.0 is
  "4688"), any other number as Python writes it. None has no text: no text test meets it.
- Case is ignored by `fold`: Unicode case folding, one code point to one code point, the same in
  every locale. So "I" folds to "i", the Turkish dotless U+0131 and dotted U+0130 stay themselves,
  "ẞ" folds to "ß" and not to "ss"; composed and decomposed accents stay different. Because
  length never changes, `?` stays one code point and a position in the folded text is one in the
  text.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

#: What Sigma calls one value of a field, as a decoder leaves it.
Scalar = str | int | float | bool

#: More digits than this are never a number that a rule compares with (and Python refuses to
#: write integers beyond its own limit of 4,300 digits).
_MAX_INTEGER_BITS: Final = 4096


@lru_cache(maxsize=4096)
def _fold_character(character: str) -> str:
    for folded in (character.casefold(), character.lower()):
        if len(folded) == 1:
            return folded
    return character


def fold(text: str) -> str:
    """The text without its case; as many code points as before (see the module's words)."""
    if text.isascii():
        return text.lower()
    folded = text.casefold()
    if len(folded) == len(text):  # folding never shrinks, so no code point has grown
        return folded
    return "".join(map(_fold_character, text))


def write_text(raw: object) -> str:
    """The text that string patterns see of a scalar."""
    if isinstance(raw, str):
        return raw
    if isinstance(raw, bool):
        return "true" if raw else "false"
    if isinstance(raw, float) and raw.is_integer():
        raw = int(raw)
    if isinstance(raw, int) and raw.bit_length() > _MAX_INTEGER_BITS:
        return hex(raw)
    if isinstance(raw, bytes):
        return raw.decode("utf-8", "backslashreplace")
    return str(raw)


class Value:
    """One scalar of a field: as decoded (`raw`), as text, and as text without case."""

    __slots__ = ("folded", "raw", "text")

    def __init__(self, raw: object) -> None:
        self.raw = raw
        self.text = write_text(raw)
        self.folded = fold(self.text)


def flatten(raw: object) -> Iterator[object]:
    """The scalars in a field's value, in order, without None. Never recursive: logs nest."""
    stack = [raw]
    while stack:
        top = stack.pop()
        if isinstance(top, list | tuple):
            stack.extend(reversed(top))
        elif isinstance(top, Mapping):
            stack.extend(reversed(list(top.values())))
        elif top is not None:
            yield top


class ViewValues:
    """One view's fields; each field is prepared when the first rule asks for it, then kept."""

    __slots__ = ("_all", "_prepared", "fields")

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields = fields
        self._prepared: dict[str, tuple[Value, ...]] = {}
        self._all: tuple[Value, ...] | None = None

    def values(self, field: str | None) -> tuple[Value, ...]:
        """The values of a field (none when it is absent), or of all fields when it is None."""
        if field is None:
            if self._all is None:
                self._all = tuple(v for name in self.fields for v in self.values(name))
            return self._all
        prepared = self._prepared.get(field)
        if prepared is None:
            prepared = tuple(map(Value, flatten(self.fields.get(field))))
            self._prepared[field] = prepared
        return prepared

    def is_null(self, field: str) -> bool:
        """Whether the field is absent, None, an empty list, or a list with a None in it."""
        raw = self.fields.get(field)
        return raw is None or (isinstance(raw, list | tuple) and (not raw or None in raw))
