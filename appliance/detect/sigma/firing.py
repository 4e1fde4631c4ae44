"""Whether a rule can fire at all (detect stage, at load time, for `rules check`).

A rule that needs a field which no event of its log source has loads, is evaluated and never fires:
an all-clear that means nothing. `find_lacking` names such fields. It never says so wrongly of the
condition: each test is taken to hold or not to hold, whatever its values, as long as its field can
be there.
"""

from collections.abc import Set
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class _Outlook:
    """What a node can say: `holds` and `fails`; `lacking` are the fields for the want of which it
    can't hold, or (under a negation) can't fail."""

    holds: bool
    fails: bool
    lacking: frozenset[str] = frozenset()


_OPEN = _Outlook(holds=True, fails=True)


def find_lacking(condition: Node, known: Set[str]) -> tuple[str, ...]:
    """The fields that keep the condition from ever holding where an event has none but the known
    fields, sorted; empty when it can hold."""
    outlook = _look(condition, known)
    return () if outlook.holds else tuple(sorted(outlook.lacking))


def _look(node: Node, known: Set[str]) -> _Outlook:  # noqa: PLR0911 - one kind, one line
    match node:
        case AllOf():
            return _look_at_all([_look(child, known) for child in node.children])
        case AnyOf():
            swapped = _look_at_all([_swap(_look(child, known)) for child in node.children])
            return _swap(swapped)
        case Not():
            return _swap(_look(node.child, known))
        case FieldTest() if node.field is not None:
            return _look_at_test({node.field} - known)
        case RefersTo():
            return _look_at_test({node.field, node.other} - known)
        case Exists() if node.field not in known:
            return _Outlook(not node.present, node.present, frozenset({node.field}))
        case IsNull() if node.field not in known:
            return _Outlook(holds=True, fails=False, lacking=frozenset({node.field}))
        case _:
            return _OPEN


def _look_at_test(absent: Set[str]) -> _Outlook:
    return _Outlook(False, True, frozenset(absent)) if absent else _OPEN


def _look_at_all(children: list[_Outlook]) -> _Outlook:
    """All must hold. Where one can't, its fields are lacking; where none can fail, those of all."""
    holds = all(child.holds for child in children)
    fails = any(child.fails for child in children)
    if not holds:
        blame = [child.lacking for child in children if not child.holds]
    else:
        blame = [] if fails else [child.lacking for child in children]
    return _Outlook(holds, fails, frozenset[str]().union(*blame))


def _swap(outlook: _Outlook) -> _Outlook:
    return _Outlook(outlook.fails, outlook.holds, outlook.lacking)
