"""The plain Sigma matcher of the detect stage: condition tree and fields in, evidence out.

This matcher is the referee: a faster one is right when it says the same. It therefore does what
the Sigma rules specification 2.1 says in the most direct way, and keeps what matched.

Every node answers `match(view)`: None for no match, else the evidence. An OR stops at its first
alternative that matches. Evidence is empty where a match is an absence (`not filter`, a null
field), and only there.

Semantics worth knowing:
- `field: null` holds for a field that is absent, None, or an empty list; `field: ''` for a field
  that is present and empty; `field: '*'` for any field that has a value.
- A list-valued field meets a test when any element does. With `|all` each test must be met by
  some element, not all by the same one.
- `|neq` is the negation of the whole item, so an absent field is "not equal".
- A keyword is searched as a substring in every value of the view, not in field names.
- `|fieldref` compares the texts of both fields without case, any element with any element; an
  absent field equals nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from appliance.detect.sigma.patterns import ValueTest
from appliance.detect.sigma.values import Value, ViewValues
from appliance.schema import Match, RuleInfo

#: Caps of evidence: matches kept of one detection, and code points kept of one value or pattern.
MAX_MATCHES: Final = 32
MAX_TEXT: Final = 1024
#: Code points shown before the place that matched, in a value longer than MAX_TEXT.
_LEAD: Final = 128

#: What matched, in the order in which the rule asks.
Evidence = tuple[Match, ...]


def _clean(text: str) -> str:
    """Text that any encoder takes: a lone surrogate is written as an escape."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")[:MAX_TEXT]


def _show(field: str | None, value: Value, test: ValueTest) -> Match:
    text = value.text
    if len(text) > MAX_TEXT:
        start = min(max(0, test.locate(value) - _LEAD), len(text) - MAX_TEXT)
        text = text[start : start + MAX_TEXT]
    return Match(field, _clean(text), _clean(test.pattern))


class Node(ABC):
    """A part of a rule's condition."""

    __slots__ = ()

    @abstractmethod
    def match(self, view: ViewValues) -> Evidence | None:
        """The evidence that the view meets this node, or None."""

    @abstractmethod
    def describe(self) -> str:
        """The node in words, for `explain`."""


@dataclass(frozen=True, slots=True)
class AllOf(Node):
    """Every child matches."""

    children: tuple[Node, ...]

    def match(self, view: ViewValues) -> Evidence | None:
        evidence: Evidence = ()
        for child in self.children:
            found = child.match(view)
            if found is None:
                return None
            evidence += found
        return evidence

    def describe(self) -> str:
        return "(" + " and ".join(child.describe() for child in self.children) + ")"


@dataclass(frozen=True, slots=True)
class AnyOf(Node):
    """At least one child matches; the first that does gives the evidence."""

    children: tuple[Node, ...]

    def match(self, view: ViewValues) -> Evidence | None:
        for child in self.children:
            found = child.match(view)
            if found is not None:
                return found
        return None

    def describe(self) -> str:
        return "(" + " or ".join(child.describe() for child in self.children) + ")"


@dataclass(frozen=True, slots=True)
class Not(Node):
    """The child does not match. An absence has no evidence."""

    child: Node

    def match(self, view: ViewValues) -> Evidence | None:
        return () if self.child.match(view) is None else None

    def describe(self) -> str:
        return f"not {self.child.describe()}"


@dataclass(frozen=True, slots=True)
class FieldTest(Node):
    """Values of one field (None: of all fields, a keyword) meet one or, if `every`, all tests."""

    field: str | None
    tests: tuple[ValueTest, ...]
    every: bool = False

    def match(self, view: ViewValues) -> Evidence | None:
        values = view.values(self.field)
        return self._match_every(values) if self.every else self._match_any(values)

    def _match_any(self, values: tuple[Value, ...]) -> Evidence | None:
        for value in values:
            for test in self.tests:
                if test.holds(value):
                    return (_show(self.field, value, test),)
        return None

    def _match_every(self, values: tuple[Value, ...]) -> Evidence | None:
        found: list[tuple[Value, ValueTest]] = []
        for test in self.tests:
            value = next((value for value in values if test.holds(value)), None)
            if value is None:
                return None
            found.append((value, test))
        return tuple(_show(self.field, value, test) for value, test in found)

    def describe(self) -> str:
        name = "any value" if self.field is None else self.field
        link = " and " if self.every else " or "
        return f"{name}: " + link.join(test.pattern for test in self.tests)


@dataclass(frozen=True, slots=True)
class IsNull(Node):
    """The field is absent, None, an empty list, or a list with a None in it."""

    field: str

    def match(self, view: ViewValues) -> Evidence | None:
        if not view.is_null(self.field):
            return None
        return (Match(self.field, "", "null"),) if self.field in view.fields else ()

    def describe(self) -> str:
        return f"{self.field}: null"


@dataclass(frozen=True, slots=True)
class Exists(Node):
    """The field is present, whatever its value, or (`present` False) absent."""

    field: str
    present: bool

    def match(self, view: ViewValues) -> Evidence | None:
        if (self.field in view.fields) is not self.present:
            return None
        if not self.present:
            return ()
        values = view.values(self.field)
        return (Match(self.field, _clean(values[0].text) if values else "", "exists"),)

    def describe(self) -> str:
        return f"{self.field} {'exists' if self.present else 'is absent'}"


Relation = Literal["equals", "startswith", "endswith", "contains"]


@dataclass(frozen=True, slots=True)
class RefersTo(Node):
    """A value of the field stands in this relation to a value of the other field."""

    field: str
    other: str
    relation: Relation

    def match(self, view: ViewValues) -> Evidence | None:
        for value in view.values(self.field):
            for other in view.values(self.other):
                if self._relates(value.folded, other.folded):
                    pattern = f"{self.relation} {self.other}: {other.text}"
                    return (Match(self.field, _clean(value.text), _clean(pattern)),)
        return None

    def _relates(self, text: str, other: str) -> bool:
        match self.relation:
            case "equals":
                return text == other
            case "startswith":
                return text.startswith(other)
            case "endswith":
                return text.endswith(other)
            case "contains":
                return other in text

    def describe(self) -> str:
        return f"{self.field} {self.relation} {self.other}"


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule ready to be evaluated. `name` is the rule's own optional short name."""

    info: RuleInfo
    condition: Node
    name: str | None = None


def match_view(rule: CompiledRule, view: ViewValues) -> Evidence | None:
    """As `match_rule`, over a view that other rules share."""
    evidence = rule.condition.match(view)
    return None if evidence is None else evidence[:MAX_MATCHES]


def match_rule(rule: CompiledRule, fields: Mapping[str, Any]) -> Evidence | None:
    """Evaluate one rule over one view's fields.

    None: no match. Otherwise the evidence, at most MAX_MATCHES entries whose value and pattern
    are at most MAX_TEXT code points each; empty only when the rule matches by absence."""
    return match_view(rule, ViewValues(fields))
