"""Tests of one value: the leaves of a compiled Sigma rule (detect stage, below `match`).

Each test answers `holds(value)` and says where in the value's text it holds (`locate`), so that
evidence cut from a long value shows the right place. Nothing here backtracks: wildcards are
matched leftmost, chunk by chunk, in at most length of pattern times length of text; regular
expressions run in RE2, in time linear in the text.

Semantics: Sigma rules specification 2.1 and its appendix of modifiers 2.1. String tests ignore
case unless `cased`; regular expressions search anywhere and are case-sensitive unless `|i`.
"""

import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Final, Literal

import re2

from appliance.detect.sigma.values import Value, fold, write_text
from appliance.errors import RuleError

#: Memory in bytes that one regular expression may use for its program and its state cache.
REGEX_MEMORY: Final = 2 << 20

Operator = Literal["<", "<=", ">", ">=", "=="]
_OPERATORS: Final[dict[Operator, Callable[[Any, Any], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
}

TimePart = Literal["minute", "hour", "day", "week", "month", "year"]


class Wildcard(Enum):
    """The two wildcards of Sigma strings: any run of code points, and exactly one."""

    MANY = "*"
    ONE = "?"


#: A Sigma string, parsed: literals and wildcards in order.
Parts = Sequence[str | Wildcard]


class ValueTest(ABC):
    """A question to one value. `pattern` is how the rule says it, for evidence."""

    __slots__ = ()
    pattern: str

    @abstractmethod
    def holds(self, value: Value) -> bool:
        """Whether the value meets the test. Raises nothing, whatever the value is."""

    def locate(self, value: Value) -> int:
        """Where in the text of a value that meets the test the reason for it begins."""
        return 0


def write_pattern(parts: Parts) -> str:
    """The Sigma string again: wildcards as they are, literal wildcards escaped."""
    return "".join(
        part.value if isinstance(part, Wildcard) else re.sub(r"([*?])", r"\\\1", part)
        for part in parts
    )


@dataclass(frozen=True, slots=True)
class _TextTest(ValueTest):
    literal: str
    cased: bool
    pattern: str

    def _text(self, value: Value) -> str:
        return value.text if self.cased else value.folded


@dataclass(frozen=True, slots=True)
class Equals(_TextTest):
    """The whole text is the literal."""

    def holds(self, value: Value) -> bool:
        return self.literal == (value.text if self.cased else value.folded)


@dataclass(frozen=True, slots=True)
class Contains(_TextTest):
    """The literal is somewhere in the text."""

    def holds(self, value: Value) -> bool:
        return self.literal in (value.text if self.cased else value.folded)

    def locate(self, value: Value) -> int:
        return self._text(value).find(self.literal)


@dataclass(frozen=True, slots=True)
class StartsWith(_TextTest):
    """The text begins with the literal."""

    def holds(self, value: Value) -> bool:
        return (value.text if self.cased else value.folded).startswith(self.literal)


@dataclass(frozen=True, slots=True)
class EndsWith(_TextTest):
    """The text ends with the literal."""

    def holds(self, value: Value) -> bool:
        return (value.text if self.cased else value.folded).endswith(self.literal)

    def locate(self, value: Value) -> int:
        return len(value.text) - len(self.literal)


@dataclass(frozen=True, slots=True)
class Chunk:
    """What stands between two `*`: literals at fixed offsets, `?` in the gaps."""

    length: int
    literals: tuple[tuple[int, str], ...]

    def fits(self, text: str, at: int) -> bool:
        """Whether the chunk is in the text at this place; the caller has checked the length."""
        return all(text.startswith(literal, at + offset) for offset, literal in self.literals)

    def find(self, text: str, start: int, end: int) -> int:
        """The leftmost place of the chunk within text[start:end], or -1."""
        last = end - self.length
        if not self.literals:
            return start if start <= last else -1
        offset, literal = self.literals[0]
        while start <= last:
            found = text.find(literal, start + offset, end)
            if found < 0 or found - offset > last:
                return -1
            if self.fits(text, found - offset):
                return found - offset
            start = found - offset + 1
        return -1


def _split_chunks(parts: Parts) -> list[Chunk]:
    chunks: list[Chunk] = []
    literals: list[tuple[int, str]] = []
    length = 0
    for part in [*parts, Wildcard.MANY]:
        if part is Wildcard.MANY:
            chunks.append(Chunk(length, tuple(literals)))
            literals, length = [], 0
        elif part is Wildcard.ONE:
            length += 1
        elif isinstance(part, str) and part:
            literals.append((length, part))
            length += len(part)
    return chunks


@dataclass(frozen=True, slots=True)
class Wildcards(ValueTest):
    """The whole text is the chunks in order, with anything between one and the next."""

    chunks: tuple[Chunk, ...]
    cased: bool
    pattern: str

    def holds(self, value: Value) -> bool:
        text = value.text if self.cased else value.folded
        head, *middle = self.chunks
        if not middle:
            return len(text) == head.length and head.fits(text, 0)
        tail = middle.pop()
        if len(text) < sum(chunk.length for chunk in self.chunks):
            return False
        at, end = head.length, len(text) - tail.length
        if not (head.fits(text, 0) and tail.fits(text, end)):
            return False
        # The leftmost place is always good: it leaves the most room for the chunks behind.
        for chunk in middle:
            found = chunk.find(text, at, end)
            if found < 0:
                return False
            at = found + chunk.length
        return True

    def locate(self, value: Value) -> int:
        text = value.text if self.cased else value.folded
        literals = [literal for chunk in self.chunks for _, literal in chunk.literals]
        return max(0, text.find(max(literals, key=len, default="")))


def _shape_literal(parts: Parts) -> tuple[type[_TextTest], str] | None:
    """The plain test that says the same as the parts, if one does."""
    shape = tuple(part if isinstance(part, Wildcard) else "" for part in parts)
    many = Wildcard.MANY
    kinds: dict[tuple[object, ...], type[_TextTest]] = {
        (): Equals,
        ("",): Equals,
        ("", many): StartsWith,
        (many, ""): EndsWith,
        (many, "", many): Contains,
        (many,): Contains,
    }
    kind = kinds.get(shape)
    return None if kind is None else (kind, "".join(p for p in parts if isinstance(p, str)))


def build_text_test(parts: Parts, *, cased: bool = False) -> ValueTest:
    """The test that a value is the Sigma string as a whole, ignoring case unless `cased`."""
    pattern = write_pattern(parts)
    if not cased:
        parts = [fold(part) if isinstance(part, str) else part for part in parts]
    plain = _shape_literal(parts)
    if plain is not None:
        kind, literal = plain
        return kind(literal, cased, pattern)
    return Wildcards(tuple(_split_chunks(parts)), cased, pattern)


def compile_expression(expression: str) -> Any:
    """The expression as an RE2 pattern that keeps to REGEX_MEMORY. Raises re2.error; unlike
    RE2's default it writes nothing to stderr, where a rule's text could forge a line."""
    options = re2.Options()
    options.max_mem = REGEX_MEMORY
    options.never_capture = True
    options.log_errors = False
    return re2.compile(expression, options)


@dataclass(frozen=True, slots=True)
class Matches(ValueTest):
    """A regular expression is found in the text (RE2 syntax and semantics)."""

    expression: str
    pattern: str = field(init=False)
    _compiled: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Compile. Raises RuleError for what RE2 does not take: lookaround, backreferences,
        possessive quantifiers, more than 1,000 repetitions, more memory than REGEX_MEMORY."""
        try:
            compiled = compile_expression(self.expression)
        except (re2.error, UnicodeError) as error:
            message = f"regular expression {self.expression!r} is refused by RE2: {error}"
            raise RuleError(message) from error
        object.__setattr__(self, "_compiled", compiled)
        object.__setattr__(self, "pattern", f"/{self.expression}/")

    def holds(self, value: Value) -> bool:
        return self._compiled.search(value.text.encode("utf-8", "replace")) is not None

    def locate(self, value: Value) -> int:
        encoded = value.text.encode("utf-8", "replace")
        found = self._compiled.search(encoded)
        return 0 if found is None else len(encoded[: found.start()].decode("utf-8", "replace"))


@dataclass(frozen=True, slots=True)
class InNetwork(ValueTest):
    """The text is an IP address in the network; an IPv4-mapped IPv6 address (RFC 4291, 2.5.5.2)
    is in the networks of its IPv4 address too."""

    network: IPv4Network | IPv6Network
    pattern: str = field(init=False)

    def __post_init__(self) -> None:
        """Write the pattern."""
        object.__setattr__(self, "pattern", str(self.network))

    def holds(self, value: Value) -> bool:
        address = _parse_address(value.text)
        if address is None:
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            return address in self.network or address.ipv4_mapped in self.network
        return address in self.network


#: The longest address text: 39 code points of IPv6, and a zone id.
_MAX_ADDRESS_LENGTH: Final = 64


def _parse_address(text: str) -> IPv4Address | IPv6Address | None:
    if len(text) > _MAX_ADDRESS_LENGTH:
        return None
    try:
        return ip_address(text)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class IsNumber(ValueTest):
    """A number of the rule: the value is that number, or text that writes it just so."""

    number: int | float
    pattern: str = field(init=False)

    def __post_init__(self) -> None:
        """Write the pattern."""
        object.__setattr__(self, "pattern", write_text(self.number))

    def holds(self, value: Value) -> bool:
        raw = value.raw
        if isinstance(raw, int | float) and not isinstance(raw, bool):
            return raw == self.number
        return not isinstance(raw, bool) and value.text == self.pattern


_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?", re.ASCII)


def read_number(value: Value) -> int | float | None:
    """The value as a number: numbers, and decimal text. No hexadecimal, no bool, no NaN."""
    raw = value.raw
    if isinstance(raw, bool):
        return None
    if isinstance(raw, int | float):
        return raw
    if len(value.text) > 128 or _NUMBER.fullmatch(value.text) is None:
        return None
    try:
        return int(value.text)
    except ValueError:
        return float(value.text)


@dataclass(frozen=True, slots=True)
class Compares(ValueTest):
    """The value is a number (or decimal text) on the stated side of the rule's number."""

    operator: Operator
    number: int | float
    pattern: str = field(init=False)

    def __post_init__(self) -> None:
        """Write the pattern."""
        object.__setattr__(self, "pattern", f"{self.operator} {self.number}")

    def holds(self, value: Value) -> bool:
        number = read_number(value)
        return number is not None and _OPERATORS[self.operator](number, self.number)


_EPOCH_TEXT: Final = re.compile(r"[0-9]{9,11}(\.[0-9]{1,9})?", re.ASCII)
_MAX_TIME_LENGTH: Final = 64


def read_time(value: Value) -> datetime | None:
    """The value as a time: ISO 8601 text, or seconds since the epoch (read as UTC). The time is
    taken as written: the modifiers appendix rules out any conversion of time zones."""
    raw, text = value.raw, value.text
    if isinstance(raw, bool) or len(text) > _MAX_TIME_LENGTH:
        return None
    try:
        if isinstance(raw, int | float) or _EPOCH_TEXT.fullmatch(text):
            return datetime.fromtimestamp(float(text), UTC)
        return datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        return None


@dataclass(frozen=True, slots=True)
class TimePartCompares(ValueTest):
    """A part of the value's time stands so to the rule's number. `week` is that of ISO 8601."""

    part: TimePart
    operator: Operator
    number: int | float
    pattern: str = field(init=False)

    def __post_init__(self) -> None:
        """Write the pattern."""
        object.__setattr__(self, "pattern", f"{self.part} {self.operator} {self.number}")

    def holds(self, value: Value) -> bool:
        time = read_time(value)
        if time is None:
            return False
        part: int = time.isocalendar().week if self.part == "week" else getattr(time, self.part)
        return _OPERATORS[self.operator](part, self.number)


@dataclass(frozen=True, slots=True)
class AnyTest(ValueTest):
    """At least one of the tests holds: what windash, base64offset and expand make of a value."""

    tests: tuple[ValueTest, ...]
    pattern: str = field(init=False)

    def __post_init__(self) -> None:
        """Write the pattern."""
        object.__setattr__(self, "pattern", " | ".join(test.pattern for test in self.tests))

    def holds(self, value: Value) -> bool:
        return any(test.holds(value) for test in self.tests)

    def locate(self, value: Value) -> int:
        return next((test.locate(value) for test in self.tests if test.holds(value)), 0)
