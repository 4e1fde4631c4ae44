"""From pySigma's parsed detections to the nodes of `match` (detect stage, at load time).

pySigma applies the modifiers and parses the conditions; what its value types mean is decided here
and in `match`. pySigma's errors leave as RuleError (`guard_pysigma`). Nothing here reads a file
or a socket.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import re2
from sigma import modifiers
from sigma.conditions import (
    ConditionAND,
    ConditionIdentifier,
    ConditionNOT,
    ConditionOR,
    ConditionSelector,
    unwrap_parse_result_operand,
)
from sigma.exceptions import SigmaError
from sigma.policy import SigmaPolicy
from sigma.policy.regex_engine import RegexEngine, RegexPattern
from sigma.rule import SigmaDetection, SigmaDetectionItem, SigmaDetections
from sigma.types import (
    CompareOperators,
    Placeholder,
    SigmaBool,
    SigmaCasedString,
    SigmaCIDRExpression,
    SigmaCompareExpression,
    SigmaExists,
    SigmaExpansion,
    SigmaFieldReference,
    SigmaNull,
    SigmaNumber,
    SigmaRegularExpression,
    SigmaRegularExpressionFlag,
    SigmaString,
    SigmaTimestampPart,
    SigmaType,
    SpecialChars,
    TimestampPart,
)

from appliance.detect.sigma.match import (
    AllOf,
    AnyOf,
    Exists,
    FieldTest,
    IsNull,
    Node,
    Not,
    RefersTo,
    Relation,
)
from appliance.detect.sigma.patterns import (
    AnyTest,
    Compares,
    InNetwork,
    IsNumber,
    Matches,
    Operator,
    TimePart,
    TimePartCompares,
    ValueTest,
    Wildcard,
    build_text_test,
    compile_expression,
)
from appliance.errors import RuleError

#: Values for %name% placeholders, by name without the percent signs.
Placeholders = Mapping[str, Sequence[str]]

#: Code points of one condition. The longest of SigmaHQ has some hundreds.
MAX_CONDITION_LENGTH: Final = 16_384

_OPERATORS: Final[dict[CompareOperators, Operator]] = {
    CompareOperators.LT: "<",
    CompareOperators.LTE: "<=",
    CompareOperators.GT: ">",
    CompareOperators.GTE: ">=",
}
_TIME_PARTS: Final[dict[TimestampPart, TimePart]] = {
    TimestampPart.MINUTE: "minute",
    TimestampPart.HOUR: "hour",
    TimestampPart.DAY: "day",
    TimestampPart.WEEK: "week",
    TimestampPart.MONTH: "month",
    TimestampPart.YEAR: "year",
}
_WILDCARDS: Final = {
    SpecialChars.WILDCARD_MULTI: Wildcard.MANY,
    SpecialChars.WILDCARD_SINGLE: Wildcard.ONE,
}
_REGEX_FLAGS: Final = {
    SigmaRegularExpressionFlag.IGNORECASE: "i",
    SigmaRegularExpressionFlag.MULTILINE: "m",
    SigmaRegularExpressionFlag.DOTALL: "s",
}
#: Modifiers that rewrite a value's characters. A placeholder's value arrives behind them, so
#: after `expand` they would miss it.
_REWRITING: Final[tuple[type[Any], ...]] = (
    modifiers.SigmaBase64Modifier,
    modifiers.SigmaBase64OffsetModifier,
    modifiers.SigmaWideModifier,
    modifiers.SigmaUTF16Modifier,
    modifiers.SigmaUTF16BEModifier,
    modifiers.SigmaWindowsDashModifier,
)


class _QuietEngine(RegexEngine):
    """How pySigma checks expressions: as we compile them. The flags do not matter to a check."""

    def compile(self, pattern: str, flags: int = 0) -> RegexPattern:
        compiled: RegexPattern = compile_expression(pattern)
        return compiled

    @property
    def error(self) -> type[Exception]:
        error: type[Exception] = re2.error
        return error


#: To be given to whatever of pySigma parses a rule.
POLICY: Final = SigmaPolicy(regex_engine=_QuietEngine())


@contextmanager
def guard_pysigma() -> Iterator[None]:
    """The one doorway for pySigma's errors: whatever it raises on a rule becomes a RuleError.

    Rules are written by strangers, and pySigma raises more than its own errors on odd shapes
    (AttributeError, TypeError, RecursionError), so every Exception is meant."""
    try:
        yield
    except RuleError:
        raise
    except RecursionError as error:
        raise RuleError("the rule is nested too deeply") from error
    except SigmaError as error:
        raise RuleError(Exception.__str__(error)) from error
    except Exception as error:
        raise RuleError(f"pySigma cannot read the rule: {error!r}") from error


def compile_detections(detections: SigmaDetections, placeholders: Placeholders) -> Node:
    """The node that says what the detections' conditions say; several conditions are OR-linked.

    Raises RuleError for what cannot be evaluated; pySigma's errors pass (see guard_pysigma)."""
    if any(len(str(condition)) > MAX_CONDITION_LENGTH for condition in detections.condition):
        raise RuleError(f"a condition is longer than {MAX_CONDITION_LENGTH} characters")
    compiler = _Compiler(detections, placeholders)
    conditions = [condition.parse(postprocess=False) for condition in detections.parsed_condition]
    return _join(AnyOf, [compiler.compile_expression(condition) for condition in conditions])


def _join(kind: type[AllOf] | type[AnyOf], nodes: Sequence[Node]) -> Node:
    return nodes[0] if len(nodes) == 1 else kind(tuple(nodes))


@dataclass
class _Compiler:
    """Compiles one rule; each named detection once, however often the condition names it."""

    detections: SigmaDetections
    placeholders: Placeholders
    compiled: dict[str, Node] = field(default_factory=dict)

    def compile_expression(self, expression: object) -> Node:
        expression = unwrap_parse_result_operand(expression)
        match expression:
            case ConditionIdentifier():
                return self._compile_named(expression.identifier)
            case ConditionSelector():
                return self._compile_selector(expression)
            case ConditionNOT():
                return Not(self.compile_expression(expression.args[0]))
            case ConditionAND() | ConditionOR():
                kind = AllOf if isinstance(expression, ConditionAND) else AnyOf
                return _join(kind, [self.compile_expression(arg) for arg in expression.args])
            case _:
                raise RuleError(f"condition holds an unknown part {type(expression).__name__}")

    def _compile_selector(self, selector: ConditionSelector) -> Node:
        found = selector.resolve_referenced_detections(self.detections)
        if not found:
            raise RuleError(f"condition '{' of '.join(selector.args)}' names no detection")
        kind = AllOf if selector.cond_class is ConditionAND else AnyOf
        return _join(kind, [self._compile_named(identifier.identifier) for identifier in found])

    def _compile_named(self, name: str) -> Node:
        if name not in self.detections.detections:
            raise RuleError(f"condition names the detection '{name}', which the rule lacks")
        if name not in self.compiled:
            self.compiled[name] = self._compile_detection(self.detections.detections[name])
        return self.compiled[name]

    def _compile_detection(self, detection: SigmaDetection) -> Node:
        kind = AllOf if detection.item_linking is ConditionAND else AnyOf
        return _join(kind, [self._compile_part(item) for item in detection.detection_items])

    def _compile_part(self, part: SigmaDetection | SigmaDetectionItem) -> Node:
        if isinstance(part, SigmaDetection):
            return self._compile_detection(part)
        return _ItemCompiler(part, self.placeholders).compile_item()


@dataclass
class _ItemCompiler:
    """Compiles one item: a field (or keyword), its modifiers and its values."""

    item: SigmaDetectionItem
    placeholders: Placeholders

    def compile_item(self) -> Node:
        self._check_modifiers()
        every = self.item.value_linking is ConditionAND
        leaves = [self._compile_value(value) for value in self.item.value or [SigmaNull()]]
        tests = tuple(leaf for leaf in leaves if isinstance(leaf, ValueTest))
        nodes = [leaf for leaf in leaves if isinstance(leaf, Node)]
        if tests:
            nodes.append(FieldTest(self.item.field, tests, every))
        node = _join(AllOf if every else AnyOf, nodes)
        return Not(node) if self.item.negated else node

    def _check_modifiers(self) -> None:
        used = self.item.modifiers
        if modifiers.SigmaFieldReferenceModifier in used and (
            modifiers.SigmaCaseSensitiveModifier in used
        ):
            raise RuleError("modifier 'cased' with 'fieldref' is not supported")
        if modifiers.SigmaExpandModifier in used:
            behind = used[used.index(modifiers.SigmaExpandModifier) + 1 :]
            if any(modifier in _REWRITING for modifier in behind):
                raise RuleError("modifier 'expand' must stand behind modifiers that encode")

    def _compile_value(self, value: SigmaType) -> ValueTest | Node:
        name = self.item.field
        match value:
            case SigmaNull() | SigmaExists() | SigmaFieldReference() if name is None:
                raise RuleError(f"{type(value).__name__[5:]} needs a field, not a keyword")
            case SigmaNull():
                return IsNull(name or "")
            case SigmaExists():
                return Exists(name or "", value.exists)
            case SigmaFieldReference():
                return RefersTo(name or "", value.field, _find_relation(value))
            case _:
                return self._compile_test(value)

    def _compile_test(self, value: SigmaType) -> ValueTest:  # noqa: PLR0911 - one type, one line
        match value:
            case SigmaExpansion():
                return _any_test([self._compile_test(inner) for inner in value.values])
            case SigmaString() | SigmaRegularExpression() if value.contains_placeholder():
                expanded = self._expand(value)
                return _any_test([self._compile_test(inner) for inner in expanded])
            case SigmaString():
                return self._compile_string(value)
            case SigmaRegularExpression():
                return Matches(self._write_expression(value))
            case SigmaCIDRExpression():
                return InNetwork(value.network)
            case SigmaCompareExpression():
                return _compile_comparison(value.number, _OPERATORS[value.op])
            case SigmaTimestampPart():
                return _compile_comparison(value, "==")
            case SigmaNumber():
                if self.item.field is None:
                    return self._compile_string(SigmaString(str(value.number)))
                return IsNumber(value.number)
            case SigmaBool():
                return self._compile_string(SigmaString("true" if value.boolean else "false"))
            case _:
                raise RuleError(f"a value of type {type(value).__name__} cannot be evaluated")

    def _compile_string(self, value: SigmaString) -> ValueTest:
        parts: list[str | Wildcard] = []
        for part in value.s:
            if isinstance(part, SpecialChars):
                parts.append(_WILDCARDS[part])
            elif isinstance(part, str) and parts and isinstance(parts[-1], str):
                parts[-1] += part
            elif isinstance(part, str):
                parts.append(part)
        if self.item.field is None:  # a keyword is searched anywhere in a value
            parts = _surround(parts)
        return build_text_test(parts, cased=isinstance(value, SigmaCasedString))

    def _write_expression(self, value: SigmaRegularExpression) -> str:
        """The expression in RE2's syntax. pySigma pads for whole-value matching; we search, so
        `startswith` and `endswith` are anchored here."""
        expression = str(value.regexp)
        used = self.item.modifiers
        if modifiers.SigmaStartswithModifier in used:
            expression = rf"\A(?:{expression})"
        if modifiers.SigmaEndswithModifier in used:
            expression = rf"(?:{expression})\z"
        flags = "".join(sorted(_REGEX_FLAGS[flag] for flag in value.flags))
        return f"(?{flags}){expression}" if flags else expression

    def _expand(self, value: SigmaString | SigmaRegularExpression) -> Sequence[SigmaType]:
        """The value with each placeholder replaced by each of its values. Wildcards count in
        values put into strings; values put into regular expressions are expression text."""
        escape = isinstance(value, SigmaString)

        def replace(placeholder: Placeholder) -> Iterator[SigmaString]:
            values = self.placeholders.get(placeholder.name)
            if not values:
                raise RuleError(f"placeholder %{placeholder.name}% has no value")
            return (SigmaString(text, escape=escape) for text in values)

        expanded = value.replace_placeholders(replace)
        if isinstance(value, SigmaCasedString):
            return [
                SigmaCasedString.from_sigma_string(text)
                for text in expanded
                if isinstance(text, SigmaString)
            ]
        return expanded


def _any_test(tests: Sequence[ValueTest]) -> ValueTest:
    return tests[0] if len(tests) == 1 else AnyTest(tuple(tests))


def _surround(parts: list[str | Wildcard]) -> list[str | Wildcard]:
    many = Wildcard.MANY
    head = [] if parts[:1] == [many] else [many]
    tail = [] if parts[-1:] == [many] else [many]
    return [*head, *parts, *tail] if parts else [many]


def _compile_comparison(number: SigmaNumber, sign: Operator) -> ValueTest:
    if isinstance(number, SigmaTimestampPart):
        return TimePartCompares(_TIME_PARTS[number.timestamp_part], sign, number.number)
    return Compares(sign, number.number)


def _find_relation(value: SigmaFieldReference) -> Relation:
    if value.starts_with and value.ends_with:  # pySigma's way to write `contains`
        return "contains"
    if value.starts_with:
        return "startswith"
    return "endswith" if value.ends_with else "equals"
