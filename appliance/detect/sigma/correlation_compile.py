"""From pySigma's parsed correlations to the rules of `correlation` (detect stage, at load time).

pySigma parses the documents; which of them can be judged exactly is decided here. What can't is
refused with the reason. pySigma's errors are caught by `load`.
"""

from collections.abc import Mapping, Sequence
from typing import Final, get_args

from sigma.correlations import (
    CorrelationConditionAND,
    CorrelationConditionItem,
    CorrelationConditionNOT,
    SigmaCorrelationCondition,
    SigmaCorrelationRule,
    SigmaExtendedCorrelationCondition,
    SigmaRuleReference,
)

from appliance.detect.sigma.correlation import (
    MEASURED,
    TEMPORAL,
    CorrelationRule,
    Expression,
    Kind,
    Threshold,
)
from appliance.errors import RuleError
from appliance.schema import RuleInfo

#: Rules that one correlation names, and fields by which it groups.
MAX_BASES: Final = 64
MAX_FIELDS: Final = 16
MAX_CONDITION_LENGTH: Final = 4096
_KINDS: Final[dict[str, Kind]] = {kind: kind for kind in get_args(Kind)}


def list_references(parsed: SigmaCorrelationRule) -> tuple[str, ...]:
    """The rules that the correlation names, as it names them, in order."""
    condition = parsed.condition
    if parsed.rules is not None:
        names = [reference.reference for reference in parsed.rules]
    elif isinstance(condition, SigmaExtendedCorrelationCondition):
        names = condition.get_referenced_rules()
    else:
        names = []
    if not names:
        raise RuleError("the correlation names no rule")
    if not all(isinstance(name, str) for name in names):
        raise RuleError("a rule is named by what is no text")
    if len(names) > MAX_BASES:
        raise RuleError(f"the correlation names more than {MAX_BASES} rules")
    return tuple(names)


def compile_correlation(
    parsed: SigmaCorrelationRule,
    info: RuleInfo,
    bases: Mapping[str, str],
    mapped: Mapping[str, SigmaCorrelationRule] | None = None,
) -> CorrelationRule:
    """The correlation, ready to be judged; `bases` leads from the names of `list_references` to
    rule ids. `mapped` has, by the same names, the correlation with its fields as the events of that
    one rule have them; without it they are those of `parsed` for all. Raises RuleError for what
    can't be judged exactly."""
    kind = _KINDS[parsed.type.name.lower()]
    names = list_references(parsed)
    ids = tuple(bases[name] for name in names)
    if len(set(ids)) != len(ids):
        raise RuleError("the correlation names a rule twice")
    group_by = tuple(parsed.group_by or ())
    if len(group_by) > MAX_FIELDS or len(set(group_by)) != len(group_by):
        raise RuleError(f"group-by names a field twice, or more than {MAX_FIELDS}")
    condition = _read_condition(parsed, kind, names)
    _refuse_silence(kind, condition)
    spoken = {name: parsed if mapped is None else mapped[name] for name in names}
    groups = tuple(
        _find_fields(tuple(each.group_by or ()), each, name, bases) for name, each in spoken.items()
    )
    if any(len(group) != len(group_by) for group in groups):
        raise RuleError("the pipelines make more fields of group-by for one rule than for another")
    values = tuple(
        _find_fields(_read_fields(each, kind), each, name, bases) for name, each in spoken.items()
    )
    return CorrelationRule(
        info=info,
        kind=kind,
        bases=ids,
        names=names,
        group_by=group_by,
        groups=groups,
        values=values,
        span=float(parsed.timespan.seconds),
        timespan=parsed.timespan.spec,
        condition=condition,
        generate=bool(parsed.generate),
        name=parsed.name,
    )


def _read_aliases(
    parsed: SigmaCorrelationRule, bases: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """Alias -> rule id -> field."""
    found: dict[str, dict[str, str]] = {}
    for alias in parsed.aliases:
        fields = found[str(alias.alias)] = {}
        for reference, name in alias.mapping.items():
            if reference.reference not in bases:
                raise RuleError(
                    f"alias '{alias.alias}' is of the rule '{reference.reference}', which the"
                    " correlation does not name"
                )
            if not isinstance(name, str):
                raise RuleError(f"alias '{alias.alias}' leads to what is no field")
            fields[bases[reference.reference]] = name
    return found


def _find_fields(
    fields: Sequence[str], parsed: SigmaCorrelationRule, name: str, bases: Mapping[str, str]
) -> tuple[str, ...]:
    """The fields as the events of the rule that is called so have them."""
    aliases = _read_aliases(parsed, bases)
    found = []
    for field in fields:
        alias = aliases.get(field)
        if alias is not None and bases[name] not in alias:
            raise RuleError(f"alias '{field}' says no field of the rule '{name}'")
        found.append(field if alias is None else alias[bases[name]])
    return tuple(found)


def _read_fields(parsed: SigmaCorrelationRule, kind: Kind) -> tuple[str, ...]:
    """What is counted or measured."""
    condition = parsed.condition
    named = condition.fieldref if isinstance(condition, SigmaCorrelationCondition) else None
    if kind != "value_count" and kind not in MEASURED:
        if named is not None:
            raise RuleError(f"{kind} counts events: its condition has no field")
        return ()
    fields = tuple(named) if isinstance(named, list) else (named,)
    if not fields or not all(isinstance(name, str) and name for name in fields):
        raise RuleError(f"the condition of {kind} names no field")
    if len(fields) > (MAX_FIELDS if kind == "value_count" else 1):
        raise RuleError(f"the condition of {kind} names too many fields")
    return tuple(str(name) for name in fields)


def _read_condition(
    parsed: SigmaCorrelationRule, kind: Kind, names: Sequence[str]
) -> Threshold | Expression:
    condition = parsed.condition
    if isinstance(condition, SigmaExtendedCorrelationCondition):
        if len(condition.expression) > MAX_CONDITION_LENGTH:
            raise RuleError(f"the condition is longer than {MAX_CONDITION_LENGTH} characters")
        expression = _read_expression(condition.parsed, list(names))
        if kind == "temporal_ordered" and _has_not(expression):
            raise RuleError("'not' in temporal_ordered: what does not happen has no place in order")
        return expression
    if condition.percentile is not None and kind != "value_percentile":
        raise RuleError(f"{kind} has no percentile")
    percentile = condition.percentile
    if kind == "value_percentile" and (percentile is None or not 0 <= percentile <= 100):
        raise RuleError("value_percentile needs a percentile from 0 to 100")
    threshold = Threshold(
        condition.op.name.lower(), condition.count, 50 if percentile is None else percentile
    )
    if kind in TEMPORAL and not any(threshold.holds(n) for n in range(1, len(names) + 1)):
        raise RuleError(f"the condition can never hold: {len(names)} rules are named")
    if kind == "temporal_ordered" and any(threshold.holds(n) for n in range(1, len(names))):
        raise RuleError("temporal_ordered needs all of its rules: say which in words")
    return threshold


def _read_expression(
    parsed: CorrelationConditionItem | SigmaRuleReference, names: list[str]
) -> Expression:
    if isinstance(parsed, SigmaRuleReference):
        return Expression("rule", base=names.index(parsed.reference))
    parts = tuple(_read_expression(part, names) for part in parsed.args)
    if isinstance(parsed, CorrelationConditionNOT):
        return Expression("not", parts)
    return Expression("and" if isinstance(parsed, CorrelationConditionAND) else "or", parts)


def _has_not(expression: Expression) -> bool:
    return expression.kind == "not" or any(map(_has_not, expression.parts))


def _refuse_silence(kind: Kind, condition: Threshold | Expression) -> None:
    """What holds when nothing happens has no event at which it becomes true: to judge it at every
    moment needs a list of all groups that could be silent, which nobody has."""
    if isinstance(condition, Expression):
        silent = condition.holds(lambda _: False)
        shown = "the condition"
    else:
        # A mean, median or percentile of nothing is no number, which no condition meets.
        silent = kind not in MEASURED - {"value_sum"} and condition.holds(0)
        shown = f"'{condition.operator}: {condition.number}'"
    if silent:
        raise RuleError(
            f"{shown} holds also when nothing happens: a correlation is judged at events only"
        )
