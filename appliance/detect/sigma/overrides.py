"""The operator's own word on rules (between detect and judge): levels, rules switched off,
suppressions.

It stands in one file that no update writes, so it outlives every new rule set:

    rules:
      RULE-ID: {level: low, reason: our backup does this every night}
      RULE-ID: {enabled: false, reason: we have no such software}
    suppressions:
      - rule: RULE-ID
        where: {User: backup, "Image|endswith": '\\\\restic.exe', event.host: files1}
        reason: nightly backup, ticket 4711
        expires: 2027-01-31

`where` is a Sigma selection over the fields of one of the event's views, in which `event.host` and
`event.source` are the event's host and the name of its source. A suppression holds until the end
of the day `expires` (UTC), or until that very time. What counts is when a record came in: no log
can say that of itself. Nothing is lowered in silence: whatever is changed here is counted, and the
finding says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml
from sigma.rule import SigmaDetections

from appliance.detect.sigma.compile import (
    POLICY,
    Placeholders,
    compile_detections,
    guard_pysigma,
)
from appliance.detect.sigma.documents import RefusedRule, read_documents, write_reason
from appliance.detect.sigma.match import Node
from appliance.detect.sigma.values import ViewValues
from appliance.errors import ConfigError, RuleError
from appliance.schema import LEVELS, Detection, Event, Level, Review

#: Rules that may be changed, and suppressions: each is looked at for every finding of its rule.
MOST_RULES: Final = 100_000
MOST_SUPPRESSIONS: Final = 10_000
#: Code points of a rule's id, and of a reason.
MOST_ID: Final = 512
MOST_REASON: Final = 512
#: Fields of `where` that no view has: the event's own.
HOST_FIELD: Final = "event.host"
SOURCE_FIELD: Final = "event.source"


@dataclass(frozen=True, slots=True)
class RuleChange:
    """What the operator made of one rule: another level (None: its own), or switched off."""

    level: Level | None
    enabled: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Suppression:
    """Findings of a rule that are kept from sinks and incidents. `until` is the first moment
    (epoch seconds) at which it no longer holds; `where` says it in words."""

    rule: str
    condition: Node
    where: str
    reason: str
    until: float
    line: int


@dataclass(frozen=True)
class Overrides:
    """The operator's file, read. `path` is empty where there is none."""

    path: str = ""
    rules: Mapping[str, RuleChange] = field(default_factory=dict)
    suppressions: tuple[Suppression, ...] = ()
    _by_rule: dict[str, tuple[Suppression, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index the suppressions by rule."""
        grouped: dict[str, tuple[Suppression, ...]] = {}
        for each in self.suppressions:
            grouped[each.rule] = (*grouped.get(each.rule, ()), each)
        object.__setattr__(self, "_by_rule", grouped)

    @property
    def disabled(self) -> frozenset[str]:
        """Ids of the rules that are switched off."""
        return frozenset(key for key, change in self.rules.items() if not change.enabled)

    @property
    def levels(self) -> dict[str, Level]:
        """The level that the operator gives, by rule id."""
        return {key: change.level for key, change in self.rules.items() if change.level}

    def expired(self, now: float) -> list[Suppression]:
        """Suppressions that no longer hold at `now` (epoch seconds)."""
        return [each for each in self.suppressions if each.until <= now]

    def review(self, detection: Detection) -> Review | None:
        """The detection at the operator's level, and why it is suppressed where it is; None when
        its rule is switched off. Raises nothing."""
        change = self.rules.get(detection.rule_id)
        suppressed = self._find_reason(detection)
        if change is None or (change.enabled and change.level in (None, detection.level)):
            return Review(detection, suppressed=suppressed)
        if not change.enabled or change.level is None:
            return None
        changed = msgspec.structs.replace(detection, level=change.level)
        return Review(changed, own_level=detection.level, suppressed=suppressed)

    def _find_reason(self, detection: Detection) -> str:
        """The reason of the first suppression that covers the detection; empty for none. A fault
        while one is evaluated suppresses nothing."""
        mine = self._by_rule.get(detection.rule_id, ())
        received = detection.event.received
        alive = [each for each in mine if received < each.until]
        if not alive:
            return ""
        try:
            views = [ViewValues(fields) for fields in _list_fields(detection.event)]
            for each in alive:
                if any(each.condition.match(view) is not None for view in views):
                    return each.reason
        except Exception:  # the finding goes out: what is not understood must hide nothing
            return ""
        return ""

    def describe(self, now: float) -> dict[str, Any]:
        """Facts for `status`: how much is changed, and which suppressions have expired."""
        return {
            "path": self.path,
            "levels": len(self.levels),
            "disabled": len(self.disabled),
            "suppressions": len(self.suppressions),
            "expired": [
                {
                    "rule": each.rule,
                    "line": each.line,
                    "reason": each.reason,
                    "until": each.until,
                }
                for each in self.expired(now)
            ],
        }


#: The operator has said nothing.
NO_OVERRIDES: Final = Overrides()


def _list_fields(event: Event) -> list[dict[str, Any]]:
    own = {HOST_FIELD: event.host, SOURCE_FIELD: event.record.source}
    return [{**view.fields, **own} for view in event.views]


def read_overrides(path: Path, placeholders: Placeholders | None = None) -> Overrides:
    """Read the operator's file; an empty one says nothing.

    Raises ConfigError with everything that is wrong in it, each with file and line: also with one
    fault nothing of it would hold, and what it suppresses must not come and go by a typing error.
    """
    documents = list(read_documents(path))
    if not documents:
        return Overrides(str(path))
    first = documents[0]
    if isinstance(first, RefusedRule):
        raise ConfigError([f"{path}:{first.line}: {first.reason}"])
    if len(documents) > 1:
        raise ConfigError([f"{path}:{documents[1].line}: must be one document"])
    reading = _Reading(str(path), _find_lines(path), placeholders or {})
    overrides = reading.read(first.content)
    if reading.problems:
        raise ConfigError(reading.problems)
    return overrides


def _find_lines(path: Path) -> dict[tuple[str, int], int]:
    """The line of each entry below `rules` and `suppressions`, by section and place. The text was
    found sound and small by `read_documents` before."""
    node = yaml.compose(path.read_text("utf-8-sig"), Loader=yaml.CSafeLoader)
    lines: dict[tuple[str, int], int] = {}
    for name, section in node.value if isinstance(node, yaml.MappingNode) else ():
        if isinstance(section, yaml.MappingNode):
            entries = [key for key, _ in section.value]
        else:
            entries = section.value if isinstance(section, yaml.SequenceNode) else []
        for place, entry in enumerate(entries):
            lines[name.value, place] = entry.start_mark.line + 1
    return lines


@dataclass
class _Reading:
    """One file being read: collects what is wrong, so that all of it is said at once."""

    path: str
    lines: Mapping[tuple[str, int], int]
    placeholders: Placeholders
    problems: list[str] = field(default_factory=list)

    def read(self, content: Mapping[str, Any]) -> Overrides:
        for key in content.keys() - {"rules", "suppressions"}:
            self._say(1, f"{key}: unknown key; known: rules, suppressions")
        rules: dict[str, RuleChange] = {}
        given = content.get("rules") or {}
        if not isinstance(given, dict) or len(given) > MOST_RULES:
            self._say(1, f"rules: must be a mapping of at most {MOST_RULES:,} rule ids")
            given = {}
        for place, (key, value) in enumerate(given.items()):
            change = self._read_change(key, value, self.lines.get(("rules", place), 1))
            if change is not None:
                rules[key] = change
        listed = content.get("suppressions") or []
        if not isinstance(listed, list) or len(listed) > MOST_SUPPRESSIONS:
            self._say(1, f"suppressions: must be a list of at most {MOST_SUPPRESSIONS:,}")
            listed = []
        read = [
            self._read_suppression(
                f"suppressions[{i}]", each, self.lines.get(("suppressions", i), 1)
            )
            for i, each in enumerate(listed)
        ]
        found = tuple(each for each in read if each is not None)
        return Overrides(self.path, rules, found)

    def _say(self, line: int, reason: str) -> None:
        self.problems.append(f"{self.path}:{line}: {write_reason(reason)}")

    def _check_keys(
        self, where: str, value: object, line: int, known: Sequence[str], needed: Sequence[str]
    ) -> bool:
        if not isinstance(value, dict):
            self._say(line, f"{where}: must be a mapping of {', '.join(known)}")
            return False
        wrong = [f"{where}.{key}: unknown key; known: {', '.join(known)}"
                 for key in value if key not in known]  # fmt: skip
        wrong += [f"{where}.{key}: is missing" for key in needed if key not in value]
        for reason in wrong:
            self._say(line, reason)
        return not wrong

    def _read_change(self, key: str, value: Any, line: int) -> RuleChange | None:
        where = f"rules.{key}"
        known = ("level", "enabled", "reason")
        if not self._check_keys(where, value, line, known, ()):
            return None
        level, enabled = value.get("level"), value.get("enabled", True)
        reason = self._read_reason(where, value.get("reason", ""), line, empty=True)
        if not isinstance(enabled, bool):
            self._say(line, f"{where}.enabled: must be true or false")
            return None
        if level is not None and level not in LEVELS:
            self._say(line, f"{where}.level: must be one of {', '.join(LEVELS)}")
            return None
        if level is None and enabled:
            self._say(line, f"{where}: changes nothing: give a level, or enabled: false")
            return None
        return None if reason is None else RuleChange(level, enabled, reason)

    def _read_reason(self, where: str, value: object, line: int, *, empty: bool) -> str | None:
        if isinstance(value, str) and len(value) <= MOST_REASON and (value.strip() or empty):
            return write_reason(value)
        self._say(line, f"{where}.reason: must be a text of 1 to {MOST_REASON} characters")
        return None

    def _read_suppression(self, where: str, value: Any, line: int) -> Suppression | None:
        known = ("rule", "where", "reason", "expires")
        if not self._check_keys(where, value, line, known, known):
            return None
        rule = value["rule"]
        if not (isinstance(rule, str) and 0 < len(rule) <= MOST_ID):
            self._say(line, f"{where}.rule: must be the id of one rule")
            return None
        condition = self._compile(f"{where}.where", value["where"], line)
        reason = self._read_reason(where, value["reason"], line, empty=False)
        until = _read_end(value["expires"])
        if until is None:
            self._say(line, f"{where}.expires: must be a date (2027-01-31) or a time with a date")
        if condition is None or reason is None or until is None:
            return None
        return Suppression(rule, condition, condition.describe(), reason, until, line)

    def _compile(self, where: str, value: object, line: int) -> Node | None:
        """The selection as a node. It must name a field: without one it would be the whole rule."""
        if not isinstance(value, dict) or not value:
            self._say(line, f"{where}: must be a mapping of fields to values, and not empty")
            return None
        keywords = [name for name in value if not name.partition("|")[0]]
        if keywords:
            self._say(line, f"{where}: {keywords[0]!r} names no field")
            return None
        try:
            with guard_pysigma():
                section = {"selection": value, "condition": "selection"}
                return compile_detections(
                    SigmaDetections.from_dict(section, policy=POLICY), self.placeholders
                )
        except RuleError as error:
            self._say(line, f"{where}: {error}")
            return None


def _read_end(value: object) -> float | None:
    """The first moment after a date (a day of UTC), or the moment given (UTC unless it says)."""
    if isinstance(value, str):
        try:
            value = date.fromisoformat(value) if len(value) == 10 else datetime.fromisoformat(value)
        except ValueError:
            return None
    try:
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
        if isinstance(value, date):
            return datetime.combine(value + timedelta(days=1), time(), UTC).timestamp()
    except OverflowError:  # 9999-12-31: no day follows
        return None
    return None
