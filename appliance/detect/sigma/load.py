"""Rule files -> RuleSet (detect stage, once at start and at reload).

Whatever cannot be evaluated exactly is refused by name with file, line and reason; nothing is
left out in silence and nothing broken stops the rest.

Decisions:
- No level means medium. Status `unsupported` is refused (the Sigma specification: the rule
  cannot be used in its current state); `deprecated` loads, since whoever names a folder wants
  what is in it.
- A rule without id gets one derived from its content. In a file with `action` documents a rule
  that states no id of its own takes the inherited one, the second and later get derived ones.
- `global` and `repeat` merge as pySigma merges: a global document wins over a rule's own keys, a
  repeat's keys win over those of the rule that it repeats.
- A filter document is ANDed to each rule that it names and whose logsource its own contains, as
  its condition stands (so a filter that is to suppress says `not selection`).
- Correlation documents are refused; the rules that they name load as ordinary rules.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from sigma.filters import SigmaFilter
from sigma.rule import SigmaLogSource, SigmaRule
from sigma.rule.base import SigmaRuleBase

from appliance.detect.sigma.compile import (
    POLICY,
    Placeholders,
    compile_detections,
    guard_pysigma,
)
from appliance.detect.sigma.documents import (
    Document,
    RefusedRule,
    find_rule_files,
    read_documents,
)
from appliance.detect.sigma.match import AllOf, CompiledRule, Node
from appliance.errors import RuleError
from appliance.schema import LEVELS, Level, LogSource, RuleInfo, digest

__all__ = ["CORRELATION_REASON", "Feeds", "RefusedRule", "RuleSet", "load_rules"]

#: Says why no normaliser can produce a logsource, or None when one can.
Feeds = Callable[[LogSource], str | None]

CORRELATION_REASON: Final = "Sigma correlations are not evaluated in this version"
_DEFAULT_LEVEL: Final[Level] = "medium"
_TECHNIQUE: Final = re.compile(r"t[0-9]{4}(\.[0-9]{3})?")
#: Tactic names hold no digits; groups (g0016), software (s0002) and the like do.
_TACTIC: Final = re.compile(r"[a-z]+([_-][a-z]+)*")


@dataclass(frozen=True, slots=True)
class RuleSet:
    """What was loaded and what was refused. `files` are the files read, in order; `documents`
    counts their YAML documents, `correlations` those refused as correlations, `filters` the
    filter documents that were applied."""

    rules: tuple[CompiledRule, ...]
    refused: tuple[RefusedRule, ...]
    files: tuple[Path, ...]
    documents: int
    correlations: int
    filters: int

    def counts(self) -> dict[str, int]:
        """The numbers of all of these, for the ledger and for `scan --stats`."""
        return {
            "files": len(self.files),
            "documents": self.documents,
            "loaded": len(self.rules),
            "refused": len(self.refused),
            "correlations": self.correlations,
            "filters": self.filters,
        }


def load_rules(
    paths: Sequence[Path], *, feeds: Feeds, placeholders: Placeholders | None = None
) -> RuleSet:
    """Load every rule in the files and folders (deep, sorted; each file once).

    `feeds` is asked once per logsource. `placeholders` gives the values of %name% in values with
    the `expand` modifier. Raises RuleError when no path is given, a path does not exist, or a
    path holds no document at all. Makes no network access."""
    if not paths:
        raise RuleError("no rule file or folder was given")
    loading = _Loading(feeds, placeholders or {})
    for path in paths:
        loading.read_path(path)
    return loading.finish()


@dataclass(frozen=True, slots=True)
class _Filter:
    document: Document
    logsource: LogSource
    names: frozenset[str] | None  # None: any rule
    condition: Node

    def applies_to(self, rule: CompiledRule) -> bool:
        if not covers(self.logsource, rule.info.logsource):
            return False
        return self.names is None or rule.info.id in self.names or rule.name in self.names


def covers(stated: LogSource, other: LogSource) -> bool:
    """Whether each part that the first logsource states is the other's part."""
    return (
        stated.product in (None, other.product)
        and stated.category in (None, other.category)
        and stated.service in (None, other.service)
    )


@dataclass
class _Loading:
    """What has been read so far."""

    feeds: Feeds
    placeholders: Placeholders
    rules: dict[str, CompiledRule] = field(default_factory=dict)
    refused: list[RefusedRule] = field(default_factory=list)
    filters: list[_Filter] = field(default_factory=list)
    files: dict[Path, Path] = field(default_factory=dict)  # resolved -> as named
    fed: dict[LogSource, str | None] = field(default_factory=dict)
    documents: int = 0
    correlations: int = 0

    def read_path(self, path: Path) -> None:
        documents = self.documents
        fresh = [file for file in find_rule_files(path) if file.resolve() not in self.files]
        for file in fresh:
            self.files[file.resolve()] = file
            self._read_file(file)
        if fresh and self.documents == documents:
            raise RuleError(f"{path}: holds no rule")

    def _read_file(self, file: Path) -> None:
        readable: list[Document] = []
        for document in read_documents(file):
            self.documents += 1
            if isinstance(document, RefusedRule):
                self.refused.append(document)
            else:
                readable.append(document)
        for merged in merge_actions(readable):
            if isinstance(merged, RefusedRule):
                self.refused.append(merged)
            else:
                self._read_document(merged)

    def _read_document(self, document: Document) -> None:
        try:
            if "correlation" in document.content:
                self.correlations += 1
                raise RuleError(CORRELATION_REASON)
            if "filter" in document.content:
                self.filters.append(self._load_filter(document))
                return
            rule = self._load_rule(document)
        except RuleError as error:
            self.refused.append(document.refuse(str(error)))
            return
        self.rules[rule.info.id] = rule

    def _load_rule(self, document: Document) -> CompiledRule:
        content = document.content
        with guard_pysigma():
            text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
            if "timeframe" in content.get("detection", ()):
                raise RuleError("'timeframe' belongs to aggregations, which are correlations now")
            rule = SigmaRule.from_dict(rename_modifiers(content, text), policy=POLICY)
            info = _describe_rule(rule, document, digest(text))
        self._check_rule(rule, info)  # unguarded: `feeds` is not pySigma
        with guard_pysigma():
            condition = compile_detections(rule.detection, self.placeholders)
        return CompiledRule(info, condition, rule.name)

    def _check_rule(self, rule: SigmaRule, info: RuleInfo) -> None:
        first = self.rules.get(info.id)
        if first is not None:
            where = f"{first.info.path}:{first.info.line}"
            raise RuleError(f"rule id {info.id} is already used by {where}")
        if str(rule.status) == "unsupported":
            raise RuleError("the rule's own status is 'unsupported'")
        if info.logsource not in self.fed:
            self.fed[info.logsource] = self.feeds(info.logsource)
        reason = self.fed[info.logsource]
        if reason is not None:
            raise RuleError(reason)

    def _load_filter(self, document: Document) -> _Filter:
        content = document.content
        with guard_pysigma():
            text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
            parsed = SigmaFilter.from_dict(rename_modifiers(content, text), policy=POLICY)
            rules = parsed.filter.rules
            names = (
                None
                if isinstance(rules, str)
                else frozenset(_normalise_id(rule.reference) for rule in rules)
            )
            condition = compile_detections(parsed.filter, self.placeholders)
            logsource = _read_logsource(parsed.logsource)
        return _Filter(document, logsource, names, condition)

    def finish(self) -> RuleSet:
        applied = 0
        for each in self.filters:
            named = [rule for rule in self.rules.values() if each.applies_to(rule)]
            applied += bool(named)
            if not named:
                self.refused.append(each.document.refuse("the filter applies to no loaded rule"))
            for rule in named:
                condition = AllOf((rule.condition, each.condition))
                self.rules[rule.info.id] = replace(rule, condition=condition)
        return RuleSet(
            tuple(self.rules.values()),
            tuple(self.refused),
            tuple(self.files.values()),
            self.documents,
            self.correlations,
            applied,
        )


def merge_actions(documents: Iterable[Document]) -> Iterator[Document | RefusedRule]:
    """One file's documents with `action` global, reset and repeat carried out. A rule that only
    inherited its id keeps it when it is the first in the file to use it, else loses it."""
    shared: dict[str, Any] = {}
    previous: dict[str, Any] = {}
    used: set[object] = set()
    for document in documents:
        own = {key: value for key, value in document.content.items() if key != "action"}
        action = document.content.get("action")
        if action == "global":
            shared = previous = own
            continue
        if action == "reset":
            shared = {}
            continue
        if action not in (None, "repeat"):
            yield document.refuse(f"unknown action {action!r}")
            continue
        if action == "repeat":
            content = previous = _merge(previous, own)
        elif "correlation" in own or "filter" in own:
            content = own
        else:
            content = previous = _merge(own, shared)
        if "id" not in own and str(content.get("id")) in used:
            content = {key: value for key, value in content.items() if key != "id"}
        used.add(str(content.get("id")))
        yield replace(document, content=content)


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both mappings in one, deep; `over` wins. Neither is changed."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(below, dict) and isinstance(value, dict)
        merged[key] = _merge(below, value) if both and below is not None else value
    return merged


def rename_modifiers(content: dict[str, Any], text: str) -> dict[str, Any]:
    """The document with `utf16le` of the modifiers appendix written as its alias `wide`, the only
    one of the two that pySigma knows. `text` is the document as JSON."""

    def rename(part: Any) -> Any:
        if isinstance(part, dict):
            return {
                "|".join([name, *("wide" if m == "utf16le" else m for m in used)]): rename(value)
                for key, value in part.items()
                for name, *used in [key.split("|")]
            }
        return [rename(element) for element in part] if isinstance(part, list) else part

    if "|utf16le" not in text:
        return content
    sections: dict[str, Any] = {
        key: rename(content[key]) for key in ("detection", "filter") if key in content
    }
    return {**content, **sections}


def _describe_rule(rule: SigmaRule, document: Document, content_hash: str) -> RuleInfo:
    techniques, tactics = _read_tags(rule)
    level = _DEFAULT_LEVEL if rule.level is None else str(rule.level)
    return RuleInfo(
        id=str(rule.id) if rule.id is not None else str(UUID(hex=content_hash)),
        title=rule.title,
        description=rule.description or "",
        level=next(known for known in LEVELS if known == level),
        techniques=techniques,
        tactics=tactics,
        logsource=_read_logsource(rule.logsource),
        path=document.path,
        line=document.line,
        hash=content_hash,
    )


def _read_tags(rule: SigmaRuleBase) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """ATT&CK techniques and tactics among the rule's tags, in order, each once."""
    names = [tag.name.lower() for tag in rule.tags if tag.namespace.lower() == "attack"]
    techniques = [name.upper() for name in names if _TECHNIQUE.fullmatch(name)]
    tactics = [name.replace("_", "-") for name in names if _TACTIC.fullmatch(name)]
    return tuple(dict.fromkeys(techniques)), tuple(dict.fromkeys(tactics))


def _read_logsource(logsource: SigmaLogSource) -> LogSource:
    parts = (logsource.product, logsource.category, logsource.service)
    if not all(part is None or isinstance(part, str) for part in parts):
        raise RuleError("a part of the logsource is not a string")
    if not any(parts):  # an empty text would never equal an event's part, in silence
        raise RuleError("the logsource is empty")
    product, category, service = (part or None for part in parts)
    return LogSource(product, category, service)


def _normalise_id(reference: str) -> str:
    try:
        return str(UUID(reference))
    except ValueError:
        return reference
