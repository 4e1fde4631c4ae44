"""pySigma processing pipelines (detect stage, at load time): the operator's own names for fields.

A pipeline is a YAML file of transformations (sigmahq-pysigma.readthedocs.io, "Processing
Pipelines"). It is applied to every rule and filter after it was read and before it is compiled, so
the matcher sees what it made of them; a rule's text stays what its file says. The fields that a
correlation names are mapped as those of the rules that it names are.

Only what works on rules is taken. Transformations that read a file, ask a server or run a command,
templates, and all that works on a query's text are refused: nothing here leaves the process.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

from sigma.correlations import (
    SigmaCorrelationCondition,
    SigmaCorrelationRule,
    SigmaRuleReference,
)
from sigma.processing.pipeline import ProcessingPipeline
from sigma.rule import SigmaRule

from appliance.detect.sigma.compile import POLICY, guard_pysigma
from appliance.detect.sigma.documents import Document, RefusedRule, read_documents
from appliance.errors import ConfigError, RuleError

#: Transformations that may be used: each changes a rule and touches nothing else.
TRANSFORMATIONS: Final = frozenset({
    "add_condition", "add_field", "case", "change_logsource", "convert_type",
    "detection_item_failure", "drop_detection_item", "extract_fields", "field_name_mapping",
    "field_name_prefix", "field_name_prefix_mapping", "field_name_suffix",
    "hashes_fields", "map_string", "nest", "regex", "remove_field", "replace_string",
    "rule_failure", "set_custom_attribute", "set_field", "set_state", "set_value",
    "strict_field_mapping_failure", "value_placeholders", "wildcard_placeholders",
})  # fmt: skip
_KEYS: Final = frozenset({"name", "priority", "transformations", "vars", "allowed_backends"})

#: One pipeline made of all the files, in the order of their priority.
Pipeline = ProcessingPipeline
#: What a correlation names: a rule, or another correlation.
Named = SigmaRule | SigmaCorrelationRule


def read_pipelines(paths: Sequence[Path]) -> Pipeline | None:
    """The pipelines of these files as one, by `priority` and then in the order given; None for no
    file. Raises ConfigError with every file that can't be used, its line and the reason."""
    problems: list[str] = []
    found: list[Pipeline] = []
    for path in paths:
        documents = list(read_documents(path))
        if not documents:
            problems.append(f"{path}:1: holds no pipeline")
        for document in documents:
            try:
                found.append(_read_pipeline(document))
            except RuleError as error:
                problems.append(f"{path}:{document.line}: {error}")
    if problems:
        raise ConfigError(problems)
    if not found:
        return None
    found.sort(key=lambda pipeline: pipeline.priority)
    with guard_pysigma():
        whole = found[0]
        for pipeline in found[1:]:
            whole += pipeline
    return whole


def map_correlation(
    pipeline: Pipeline, parsed: SigmaCorrelationRule, named: Mapping[str, Named]
) -> SigmaCorrelationRule:
    """The correlation as pySigma's pipelines leave it: group-by, the fields of aliases and of the
    condition under their mapped names. `named` are the rules, by reference, that rule conditions
    are asked of: one that any of them meets counts. They must have been through the pipeline, as
    pySigma has them then. An alias itself is never mapped, and its fields always are.

    Raises what pySigma raises (see `guard_pysigma`), as for an alias that leads to two fields."""
    mapped = deepcopy(parsed)
    mapped.referenced_rules = [_refer(reference, rule) for reference, rule in named.items()]
    condition = mapped.condition
    asked = condition.fieldref if isinstance(condition, SigmaCorrelationCondition) else None
    if mapped.group_by is None:
        mapped.group_by = []  # without it pySigma leaves the fields of aliases as they are
    if isinstance(condition, SigmaCorrelationCondition) and asked is not None:
        names = asked if isinstance(asked, list) else [asked]
        aliases = mapped.aliases.aliases
        condition.fieldref = [name for name in names if name not in aliases]
        pipeline.apply(mapped)
        rest = iter(condition.fieldref)
        names = [name if name in aliases else next(rest) for name in names]
        condition.fieldref = names if isinstance(asked, list) else names[0]
    else:
        pipeline.apply(mapped)
    return mapped


def _refer(reference: str, rule: Named) -> SigmaRuleReference:
    found = SigmaRuleReference(reference)
    found.rule = rule
    return found


def _read_pipeline(document: Document | RefusedRule) -> Pipeline:
    if isinstance(document, RefusedRule):
        raise RuleError(document.reason)
    content = document.content
    if odd := sorted(content.keys() - _KEYS):
        raise RuleError(f"{odd[0]}: not taken; known: {', '.join(sorted(_KEYS))}")
    if not content.get("transformations"):
        raise RuleError("has no transformations")
    _check_items(content["transformations"])
    with guard_pysigma():
        return ProcessingPipeline.from_dict(content, policy=POLICY)


def _check_items(items: Any) -> None:
    """Raises RuleError for what is no list of transformations that are taken; those inside `nest`
    too."""
    if not isinstance(items, list):
        raise RuleError("transformations: must be a list")
    for place, item in enumerate(items, 1):
        kind = item.get("type") if isinstance(item, dict) else None
        if kind not in TRANSFORMATIONS:
            known = ", ".join(sorted(TRANSFORMATIONS))
            raise RuleError(f"transformation {place}: type {kind!r} is not taken; known: {known}")
        if any(name == "template" and value for name, value in _walk(item)):
            raise RuleError(f"transformation {place}: templates are not taken")
        if kind == "nest":
            _check_items(item.get("items"))


def _walk(item: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    """Every key and value of nested mappings. The document's depth is bounded."""
    for name, value in item.items():
        yield name, value
        if isinstance(value, dict):
            yield from _walk(value)
