"""What a rule cannot fire without (detect stage, at load time; read by `index`).

A rule's condition becomes a Need: an AND/OR tree of things to be found in the view's texts. Each
part of the condition that says nothing of a text (a `not`, a null, a number's size) is left out,
so the Need is weaker than the rule and never stronger: where it is not met the rule cannot fire,
where it is met the plain matcher decides. None is the Need that is always met.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from appliance.detect.sigma.match import (
    AllOf,
    AnyOf,
    Exists,
    FieldTest,
    IsNull,
    Node,
    Not,
    RefersTo,
)
from appliance.detect.sigma.patterns import (
    AnyTest,
    Compares,
    Contains,
    EndsWith,
    Equals,
    InNetwork,
    IsNumber,
    Matches,
    StartsWith,
    TimePartCompares,
    ValueTest,
    Wildcards,
)
from appliance.detect.sigma.values import fold

#: Code points of a literal that are looked for: a longer one is as rare by its beginning or end.
MAX_LITERAL: Final = 64
#: A literal between two wildcards that is shorter than this says little and is found everywhere.
_MIN_MIDDLE: Final = 3
#: Ways to fire that are told apart in one rule.
MAX_BRANCHES: Final = 16
#: Nodes that evaluate without raising, whatever the view holds. A rule with any other is evaluated
#: always: what it raises must be counted for every event.
_KNOWN: Final = (AllOf, AnyOf, Exists, FieldTest, IsNull, Not, RefersTo)
_KNOWN_TESTS: Final = (
    AnyTest,
    Compares,
    Contains,
    EndsWith,
    Equals,
    InNetwork,
    IsNumber,
    Matches,
    StartsWith,
    TimePartCompares,
    Wildcards,
)


@dataclass(frozen=True, slots=True)
class Literal:
    """The folded text of a value of `field` (None: of any) holds `text`; at its beginning when
    `starts`, at its end when `ends`, and it is the whole text when both."""

    field: str | None
    text: str
    starts: bool = False
    ends: bool = False


@dataclass(frozen=True, slots=True)
class Expression:
    """RE2 finds the expression in the text of a value of `field` (None: of any)."""

    field: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Every:
    """Each of them is met."""

    parts: "tuple[Need, ...]"


@dataclass(frozen=True, slots=True)
class Some:
    """At least one of them is met."""

    parts: "tuple[Need, ...]"


Atom = Literal | Expression
Need = Literal | Expression | Every | Some


def find_need(node: Node) -> Need | None:
    """What a view must hold for the node to match; None when nothing is known to be needed."""
    return _need_node(node) if is_known(node) else None


def is_known(node: Node) -> bool:
    """Whether the node and all within it are of the kinds that are known to raise nothing."""
    if type(node) not in _KNOWN:
        return False
    if isinstance(node, AllOf | AnyOf):
        return all(map(is_known, node.children))
    if isinstance(node, Not):
        return is_known(node.child)
    return not isinstance(node, FieldTest) or all(map(_is_known_test, node.tests))


def _is_known_test(test: ValueTest) -> bool:
    if isinstance(test, AnyTest):
        return all(map(_is_known_test, test.tests))
    return type(test) in _KNOWN_TESTS


def _need_node(node: Node) -> Need | None:
    match node:
        case AllOf():
            return _join_every([_need_node(child) for child in node.children])
        case AnyOf():
            return _join_some([_need_node(child) for child in node.children])
        case FieldTest():
            needs = [_need_test(node.field, test) for test in node.tests]
            return _join_every(needs) if node.every else _join_some(needs)
        case RefersTo():
            return _join_every([_need_value(node.field), _need_value(node.other)])
        case _:  # an absence, or a presence without a value
            return None


def _need_test(field: str | None, test: ValueTest) -> Need | None:  # noqa: PLR0911
    match test:
        case Equals():
            return _need_text(field, test.literal, starts=True, ends=True)
        case StartsWith():
            return _need_text(field, test.literal, starts=True)
        case EndsWith():
            return _need_text(field, test.literal, ends=True)
        case Contains():
            return _need_text(field, test.literal)
        case Wildcards():
            return _need_chunks(field, test)
        case IsNumber():  # equal numbers are written alike
            return _need_text(field, test.pattern, starts=True, ends=True)
        case Matches():
            return Expression(field, test.expression)
        case AnyTest():
            return _join_some([_need_test(field, inner) for inner in test.tests])
        case _:
            return _need_value(field)


def find_bars(node: Node) -> frozenset[Literal]:
    """Literals each of which, where it is found, says for sure that the rule does not fire: what
    the condition's `not` parts refuse. A literal is the whole of what its test asks."""
    if not is_known(node):
        return frozenset()
    if isinstance(node, AllOf):
        return frozenset().union(*map(find_bars, node.children))
    return _list_enough(node.child) if isinstance(node, Not) else frozenset()


def _list_enough(node: Node) -> frozenset[Literal]:
    """Literals each of which alone makes the node match."""
    if isinstance(node, AnyOf):
        return frozenset().union(*map(_list_enough, node.children))
    if isinstance(node, AllOf) and len(node.children) == 1:
        return _list_enough(node.children[0])
    if not isinstance(node, FieldTest) or node.field is None:
        return frozenset()
    if node.every and len(node.tests) > 1:
        return frozenset()
    return frozenset(
        Literal(
            node.field,
            test.literal,
            starts=isinstance(test, Equals | StartsWith),
            ends=isinstance(test, Equals | EndsWith),
        )
        for test in node.tests
        if isinstance(test, Equals | StartsWith | EndsWith | Contains)
        and not test.cased
        and 1 <= len(test.literal) <= MAX_LITERAL
    )


def _need_value(field: str | None) -> Need | None:
    """The field has a value at all."""
    return None if field is None else Literal(field, "", starts=True)


def _need_text(
    field: str | None, text: str, *, starts: bool = False, ends: bool = False
) -> Need | None:
    """The folded text of a cased literal is in the folded text of what holds it."""
    text = fold(text)
    if field is None:  # where in a value is not told apart
        starts = ends = False
    if len(text) > MAX_LITERAL:
        if starts:
            return Literal(field, text[:MAX_LITERAL], starts=True)
        return Literal(field, text[-MAX_LITERAL:], ends=ends)
    if not text:
        return _need_value(field)
    return Literal(field, text, starts, ends)


def _need_chunks(field: str | None, test: Wildcards) -> Need | None:
    """The literals of a pattern with wildcards, those at its ends with the value's ends."""
    needs: list[Need | None] = []
    last = len(test.chunks) - 1
    for place, chunk in enumerate(test.chunks):
        for offset, text in chunk.literals:
            starts = place == 0 and offset == 0
            ends = place == last and offset + len(text) == chunk.length
            if starts or ends or len(text) >= _MIN_MIDDLE:
                needs.append(_need_text(field, text, starts=starts, ends=ends))
    return _join_every(needs) or _need_value(field)


def _join_every(needs: list[Need | None]) -> Need | None:
    parts = tuple(dict.fromkeys(need for need in needs if need is not None))
    return None if not parts else parts[0] if len(parts) == 1 else Every(parts)


def _join_some(needs: list[Need | None]) -> Need | None:
    if any(need is None for need in needs) or not needs:
        return None
    parts = tuple(dict.fromkeys(need for need in needs if need is not None))
    return parts[0] if len(parts) == 1 else Some(parts)


def list_branches(need: Need | None) -> list[Need | None]:
    """The ways to meet the need, one of which is met where it is. A choice between single atoms is
    one way; more than MAX_BRANCHES ways are not told apart."""
    if isinstance(need, Some):
        atoms = [part for part in need.parts if isinstance(part, Literal | Expression)]
        deep = [part for part in need.parts if not isinstance(part, Literal | Expression)]
        ways = [way for part in deep for way in list_branches(part)]
        if atoms:
            ways.append(_join_some([*atoms]))
        return ways if len(ways) <= MAX_BRANCHES else [need]
    if isinstance(need, Every):
        rows: list[tuple[Need | None, ...]] = [()]
        for part in need.parts:
            ways = list_branches(part)
            if len(rows) * len(ways) > MAX_BRANCHES:
                ways = [part]
            rows = [(*row, way) for row in rows for way in ways]
        return [_join_every([*row]) for row in rows]
    return [need]


def list_atoms(need: Need) -> Iterator[Atom]:
    """Every literal and expression in the need, in order."""
    if isinstance(need, Every | Some):
        for part in need.parts:
            yield from list_atoms(part)
    else:
        yield need
