"""Why a rule did not match (detect stage, for who writes rules; never on the line).

`trace_rule` walks a rule's condition over one view and says how much of it held and which parts
failed, with what the view had there instead. Of alternatives the one that came furthest is told.
"""

from dataclasses import dataclass
from typing import Final

from appliance.detect.sigma.match import (
    AllOf,
    AnyOf,
    CompiledRule,
    FieldTest,
    Node,
    Not,
)
from appliance.detect.sigma.values import ViewValues

#: Parts told of one trace, values told of one part, and code points of a text.
MOST_PARTS: Final = 16
MOST_VALUES: Final = 4
MOST_TEXT: Final = 300


@dataclass(frozen=True, slots=True)
class FailedPart:
    """A part of a condition that did not hold. `part` says what was asked, `values` what the field
    held (none: the field is absent, or there is no one field), `why` what is the matter."""

    part: str
    values: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Trace:
    """How far a condition came: `held` of `asked` tests, and the parts that failed. Exclusions
    (`not filter`) count only where they fail: to meet no filter is no progress."""

    held: int
    asked: int
    failed: tuple[FailedPart, ...]

    @property
    def share(self) -> float:
        """The part of the tests that held, 0 to 1."""
        return self.held / self.asked if self.asked else 0.0


def trace_rule(rule: CompiledRule, view: ViewValues) -> Trace:
    """How far the rule came in this view; nothing has failed when it matches."""
    trace = _trace(rule.condition, view)
    return Trace(trace.held, trace.asked, trace.failed[:MOST_PARTS])


def _trace(node: Node, view: ViewValues) -> Trace:
    if isinstance(node, AllOf):
        traces = [_trace(child, view) for child in node.children]
        failed = tuple(part for trace in traces for part in trace.failed)
        return Trace(sum(t.held for t in traces), sum(t.asked for t in traces), failed)
    if isinstance(node, AnyOf):
        return _trace_any(node, view)
    if isinstance(node, Not):
        return _trace_not(node, view)
    return _trace_test(node, view)


def _trace_any(node: AnyOf, view: ViewValues) -> Trace:
    """The alternative that came furthest; one that holds is further than any that does not."""
    traces = [_trace(child, view) for child in node.children]
    best = max(traces, key=lambda t: (not t.failed, t.share, t.held))
    if not best.failed or len(traces) == 1:
        return best
    told = FailedPart(f"one of {len(traces)} alternatives", (), "none holds; the nearest is told")
    return Trace(best.held, best.asked, (told, *best.failed))


def _trace_not(node: Not, view: ViewValues) -> Trace:
    evidence = node.child.match(view)
    if evidence is None:
        return Trace(0, 0, ())
    found = tuple(
        _cut(f"{m.field or 'keyword'} = {m.value} by {m.pattern}") for m in evidence[:MOST_VALUES]
    )
    return Trace(0, 1, (FailedPart(_cut(node.describe()), found, "excluded: what it names holds"),))


def _trace_test(node: Node, view: ViewValues) -> Trace:
    if not isinstance(node, FieldTest):
        held = node.match(view) is not None
        field = getattr(node, "field", None)
        failed = () if held else (_fail(node.describe(), field, view),)
        return Trace(int(held), 1, failed)
    if not node.every:
        held = node.match(view) is not None
        failed = () if held else (_fail(node.describe(), node.field, view),)
        return Trace(int(held), 1, failed)
    values = view.values(node.field)
    missing = [test for test in node.tests if not any(test.holds(value) for value in values)]
    told = tuple(
        _fail(f"{node.field or 'any value'}: {test.pattern}", node.field, view) for test in missing
    )
    return Trace(len(node.tests) - len(missing), len(node.tests), told)


def _fail(part: str, field: str | None, view: ViewValues) -> FailedPart:
    if field is None:
        return FailedPart(_cut(part), (), "no value of the event meets it")
    if field not in view.fields:
        return FailedPart(_cut(part), (), f"the event has no field {_cut(field)}")
    values = tuple(_cut(value.text) for value in view.values(field)[:MOST_VALUES])
    return FailedPart(_cut(part), values, "the event's value does not meet it")


def _cut(text: str) -> str:
    """A text that can be told: no lone surrogates, at most MOST_TEXT code points."""
    plain = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return plain if len(plain) <= MOST_TEXT else f"{plain[:MOST_TEXT]}... ({len(plain)})"
