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
- A correlation is refused when a rule that it names is not loaded; a rule that correlations name
  fires by itself too where one of them says `generate: true`, else by the correlation alone.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import msgspec
from sigma.correlations import SigmaCorrelationRule
from sigma.filters import SigmaFilter
from sigma.rule import SigmaDetections, SigmaLogSource, SigmaRule
from sigma.rule.base import SigmaRuleBase

from appliance.detect.sigma.compile import (
    POLICY,
    Placeholders,
    compile_detections,
    guard_pysigma,
)
from appliance.detect.sigma.correlation import CorrelationRule, find_silent
from appliance.detect.sigma.correlation_compile import compile_correlation, list_references
from appliance.detect.sigma.documents import (
    Document,
    RefusedRule,
    find_rule_files,
    read_documents,
)
from appliance.detect.sigma.match import AllOf, CompiledRule, Node
from appliance.detect.sigma.pipelines import Named, Pipeline, map_correlation
from appliance.errors import RuleError
from appliance.schema import LEVELS, Level, LogSource, RuleInfo, digest

__all__ = ["Feeds", "RefusedRule", "RuleSet", "load_rules"]

#: Says why no normaliser can produce a logsource, or None when one can.
Feeds = Callable[[LogSource], str | None]

_DEFAULT_LEVEL: Final[Level] = "medium"
_TECHNIQUE: Final = re.compile(r"t[0-9]{4}(\.[0-9]{3})?")
_ACTOR: Final = re.compile(r"[gs]\d{4}", re.IGNORECASE | re.ASCII)
_CVE: Final = re.compile(r"(?:cve-)?\d{4}-\d{4,}", re.IGNORECASE | re.ASCII)
#: Tactic names hold no digits; groups (g0016), software (s0002) and the like do.
_TACTIC: Final = re.compile(r"[a-z]+([_-][a-z]+)*")


@dataclass(frozen=True, slots=True)
class RuleSet:
    """What was loaded and what was refused. `files` are the files read, in order; `documents`
    counts their YAML documents, `filters` the filter documents that were applied. `correlations`
    stand behind those that they name; `rules` has the rules that they name too. `key` stands for
    all that the set was made from, where a cache knows it."""

    rules: tuple[CompiledRule, ...]
    refused: tuple[RefusedRule, ...]
    files: tuple[Path, ...]
    documents: int
    filters: int
    correlations: tuple[CorrelationRule, ...] = ()
    key: str = field(default="", compare=False)

    @property
    def infos(self) -> tuple[RuleInfo, ...]:
        """What is known of every rule that was loaded, correlations last."""
        return (*(rule.info for rule in self.rules), *(rule.info for rule in self.correlations))

    @property
    def silent(self) -> frozenset[str]:
        """Ids of rules that fire by the correlations alone that name them."""
        return find_silent(self.correlations)

    def without(self, ids: Set[str]) -> "RuleSet":
        """The same but for these rules, and for the correlations that need one of them."""
        off = set(ids)
        for rule in self.correlations:
            if not off.isdisjoint(rule.bases):
                off.add(rule.info.id)
        return replace(
            self,
            rules=tuple(rule for rule in self.rules if rule.info.id not in off),
            correlations=tuple(rule for rule in self.correlations if rule.info.id not in off),
        )

    def counts(self) -> dict[str, int]:
        """The numbers of all of these, for the ledger and for `scan --stats`."""
        return {
            "files": len(self.files),
            "documents": self.documents,
            "loaded": len(self.infos),
            "refused": len(self.refused),
            "correlations": len(self.correlations),
            "filters": self.filters,
        }


def load_rules(
    paths: Sequence[Path],
    *,
    feeds: Feeds,
    placeholders: Placeholders | None = None,
    pipeline: Pipeline | None = None,
) -> RuleSet:
    """Load every rule in the files and folders (deep, sorted; each file once).

    `feeds` is asked once per logsource. `placeholders` gives the values of %name% in values with
    the `expand` modifier; `pipeline` is applied to every rule, filter and correlation. Raises
    RuleError when no path is given, a path does not exist, or a path holds no document at all.
    Makes no network access."""
    if not paths:
        raise RuleError("no rule file or folder was given")
    loading = _Loading(feeds, placeholders or {}, pipeline)
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


@dataclass(frozen=True, slots=True)
class _Draft:
    """A correlation that was read, until all rules are known."""

    document: Document
    parsed: SigmaCorrelationRule
    info: RuleInfo
    references: tuple[str, ...]

    @property
    def names(self) -> set[str]:
        """By which others may name it."""
        return {self.info.id, _normalise_id(self.parsed.name or self.info.id)}


class _Known:
    """Rules by id, and by what correlations may call them."""

    def __init__(self) -> None:
        self.by_id: dict[str, RuleInfo] = {}
        self._by_name: dict[str, dict[str, RuleInfo]] = {}

    def add(self, info: RuleInfo, name: str | None) -> None:
        """Know a rule, under its id and its name."""
        self.by_id[info.id] = info
        for called in {info.id, name or info.id}:
            self._by_name.setdefault(_normalise_id(called), {})[info.id] = info

    def find(self, reference: str) -> list[RuleInfo]:
        """The rules that are called so."""
        return list(self._by_name.get(_normalise_id(reference), {}).values())


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
    pipeline: Pipeline | None = None
    rules: dict[str, CompiledRule] = field(default_factory=dict)
    refused: list[RefusedRule] = field(default_factory=list)
    filters: list[_Filter] = field(default_factory=list)
    files: dict[Path, Path] = field(default_factory=dict)  # resolved -> as named
    fed: dict[LogSource, str | None] = field(default_factory=dict)
    documents: int = 0
    drafts: list["_Draft"] = field(default_factory=list)
    correlations: dict[str, CorrelationRule] = field(default_factory=dict)
    piped: dict[str, Named] = field(default_factory=dict)  # by id, as the pipeline left them

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
                self.drafts.append(self._load_draft(document))
                return
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
            if self.pipeline is not None:
                self.pipeline.apply(rule)
            info = _describe_rule(rule, _read_logsource(rule.logsource), document, digest(text))
        self._check_rule(rule, info)  # unguarded: `feeds` is not pySigma
        with guard_pysigma():
            condition = compile_detections(rule.detection, self.placeholders)
        if self.pipeline is not None:
            self.piped[info.id] = rule
        return CompiledRule(info, condition, rule.name)

    def _load_draft(self, document: Document) -> "_Draft":
        content = document.content
        with guard_pysigma():
            text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
            parsed = SigmaCorrelationRule.from_dict(content, policy=POLICY)
            info = _describe_rule(parsed, LogSource(), document, digest(text))
            references = list_references(parsed)
        if str(parsed.status) == "unsupported":
            raise RuleError("the rule's own status is 'unsupported'")
        return _Draft(document, parsed, info, references)

    def _compile_drafts(self) -> None:
        """Each correlation behind those that it names, wherever they stand in the files."""
        known = _Known()
        for rule in self.rules.values():
            known.add(rule.info, rule.name)
        waiting = self.drafts
        while waiting:
            left: list[_Draft] = []
            names = Counter(name for draft in waiting for name in draft.names)
            for draft in waiting:
                try:
                    if not self._compile_draft(draft, known, names):
                        left.append(draft)
                except RuleError as error:
                    self.refused.append(draft.document.refuse(str(error)))
            if len(left) == len(waiting):
                reason = "the correlation names itself, or others that lead back to it"
                self.refused.extend(draft.document.refuse(reason) for draft in left)
                return
            waiting = left

    def _compile_draft(self, draft: "_Draft", known: "_Known", waiting: Counter[str]) -> bool:
        """Compile it; False when it names one that still waits (all of these are in `waiting`, by
        name). Raises RuleError."""
        key = draft.info.id
        first = known.by_id.get(key)
        if first is not None:
            raise RuleError(f"rule id {key} is already used by {first.path}:{first.line}")
        found: dict[str, RuleInfo] = {}
        for reference in draft.references:
            called = known.find(reference)
            if len(called) > 1:
                raise RuleError(f"{len(called)} rules are called '{reference}'")
            if called:
                found[reference] = called[0]
            elif not waiting[_normalise_id(reference)]:
                raise RuleError(f"the rule '{reference}', which it names, is not loaded")
        if len(found) < len(set(draft.references)):
            return False
        sources = {info.logsource for info in found.values()}
        logsource = sources.pop() if len(sources) == 1 else LogSource()
        info = msgspec.structs.replace(draft.info, logsource=logsource)
        bases = {reference: base.id for reference, base in found.items()}
        with guard_pysigma():
            rule = self._compile_correlation(draft.parsed, info, bases)
        self.correlations[key] = rule
        known.add(info, rule.name)
        return True

    def _compile_correlation(
        self, parsed: SigmaCorrelationRule, info: RuleInfo, bases: Mapping[str, str]
    ) -> CorrelationRule:
        """Each of its rules is asked by itself what the pipeline makes of the fields: of rules of
        several log sources one may be mapped and another not."""
        if self.pipeline is None:
            return compile_correlation(parsed, info, bases)
        named = {reference: self.piped[base] for reference, base in bases.items()}
        whole = map_correlation(self.pipeline, parsed, named)
        mapped = {
            reference: map_correlation(self.pipeline, parsed, {reference: rule})
            for reference, rule in named.items()
        }
        rule = compile_correlation(whole, info, bases, mapped)
        self.piped[info.id] = whole
        return rule

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
            detections: SigmaDetections = parsed.filter
            if self.pipeline is not None:
                # A pipeline works on rules: the filter as the rule that it would be.
                rule = SigmaRule("filter", logsource=parsed.logsource, detection=detections)
                self.pipeline.apply(rule)
                detections = rule.detection
            condition = compile_detections(detections, self.placeholders)
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
        self._compile_drafts()
        return RuleSet(
            tuple(self.rules.values()),
            tuple(self.refused),
            tuple(self.files.values()),
            self.documents,
            applied,
            tuple(self.correlations.values()),
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


def _describe_rule(
    rule: SigmaRuleBase, logsource: LogSource, document: Document, content_hash: str
) -> RuleInfo:
    techniques, tactics = _read_tags(rule)
    level = _DEFAULT_LEVEL if rule.level is None else str(rule.level)
    return RuleInfo(
        id=str(rule.id) if rule.id is not None else str(UUID(hex=content_hash)),
        title=rule.title,
        description=rule.description or "",
        level=next(known for known in LEVELS if known == level),
        techniques=techniques,
        tactics=tactics,
        logsource=logsource,
        path=document.path,
        line=document.line,
        hash=content_hash,
        others=_read_other_tags(rule),
    )


def _read_tags(rule: SigmaRuleBase) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """ATT&CK techniques and tactics among the rule's tags, in order, each once."""
    names = [tag.name.lower() for tag in rule.tags if tag.namespace.lower() == "attack"]
    techniques = [name.upper() for name in names if _TECHNIQUE.fullmatch(name)]
    tactics = [name.replace("_", "-") for name in names if _TACTIC.fullmatch(name)]
    return tuple(dict.fromkeys(techniques)), tuple(dict.fromkeys(tactics))


def _read_other_tags(rule: SigmaRuleBase) -> tuple[str, ...]:
    """Groups, software and vulnerabilities among the rule's tags, in order, each once."""
    found = [
        name.upper() if space == "attack" else f"CVE-{name.upper().removeprefix('CVE-')}"
        for tag in rule.tags
        for space, name in [(tag.namespace.lower(), tag.name.replace(".", "-"))]
        if (space == "attack" and _ACTOR.fullmatch(name))
        or (space == "cve" and _CVE.fullmatch(name))
    ]
    return tuple(dict.fromkeys(found))


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
