"""pySigma processing pipelines (detect stage, at load time): the operator's own names for fields.

A pipeline is a YAML file of transformations (sigmahq-pysigma.readthedocs.io, "Processing
Pipelines"). It is applied to every rule and filter after it was read and before it is compiled, so
the matcher sees what it made of them; a rule's text stays what its file says.

Only what works on rules is taken. Transformations that read a file, ask a server or run a command,
templates, and all that works on a query's text are refused: nothing here leaves the process.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from sigma.processing.pipeline import ProcessingPipeline

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
