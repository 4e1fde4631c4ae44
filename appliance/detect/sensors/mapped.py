"""Detect, any other sensor: the records of a format that the configuration describes, with a
section that says which of their fields a finding's parts are.

The detector's name is one of those that the operator wrote down; a record only chooses among them.
It can't be that of a detector of the appliance itself. A finding's rule id begins with it, so that
no record can name a rule that is loaded here.
"""

import math
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

import msgspec
import re2

from appliance.detect.sensors.alert import (
    MAX_TITLE,
    MAX_VALUE,
    cap,
    list_evidence,
    list_texts,
    read_tactics,
    read_techniques,
)
from appliance.schema import LEVELS, Detection, Fields, Level, Match, Sighting, digest

#: Detectors of the appliance itself, and names that would read like one.
RESERVED: Final = frozenset(
    {"sigma", "indicators", "indicator", "sentinel", "anomaly", "health", "selftest", "appliance"}
    | {"sensors", "judge", "correlation", "correlations"}
)
_SENSOR: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}", re.ASCII)
#: Memory in bytes that one expression may use for its program and its state cache.
_PATTERN_MEMORY: Final = 4 << 20
#: Texts that are remembered with what they led to, and the longest of them in characters.
_REMEMBERED: Final = 8192
_MAX_REMEMBERED: Final = 512
#: Longest text that expressions are held against, and longest name in a rule id, in characters.
_MAX_MATCHED: Final = 8192
_MAX_ID: Final = 128
_SPLIT: Final = re.compile(r"[,;|]")
#: Most fields that a finding shows where the configuration names none.
_MAX_EVIDENCE: Final = 16


class Pick(msgspec.Struct, frozen=True):
    """How one part of a finding is read: `field`'s text by `table`, else by the first of `patterns`
    (expression, what it gives) that it holds, else `otherwise`."""

    field: str = ""
    table: Mapping[str, str] = {}
    patterns: tuple[tuple[str, str], ...] = ()
    otherwise: str = ""


class Row(msgspec.Struct, frozen=True):
    """What is known of signatures whose text holds the expression; "" or () is nothing."""

    match: str
    level: str = ""
    techniques: tuple[str, ...] = ()
    tactics: tuple[str, ...] = ()


class _Known(msgspec.Struct, frozen=True):
    level: Level | None = None
    techniques: tuple[str, ...] = ()
    tactics: tuple[str, ...] = ()


def check_sensor(name: str) -> str:
    """Why no sensor may be called so; empty when it may."""
    if _SENSOR.fullmatch(name) is None:
        return f"must be 1 to 32 of a-z, 0-9, - and _, a letter first, not {name[:80]!r}"
    return f"{name!r} is a detector of the appliance itself" if name in RESERVED else ""


def check_pattern(pattern: str) -> str:
    """Why this is no expression; empty when it is one."""
    try:
        _compile(pattern)
    except ValueError as error:
        return str(error)
    return ""


def _compile(pattern: str) -> Any:
    options = re2.Options()
    options.max_mem = _PATTERN_MEMORY
    options.log_errors = False
    options.dot_nl = True
    try:
        return re2.compile(pattern, options)
    except (re2.error, UnicodeError) as error:
        reason = error.args[0] if error.args else error
        told = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(f"not an RE2 expression: {told}") from None


class FindingMap:
    """Reads findings from the records of one format, see `build_map`."""

    def __init__(
        self,
        *,
        picks: Mapping[str, Pick],
        at_least: Mapping[str, float],
        signature: str,
        rows: tuple[Row, ...],
        where: Mapping[str, tuple[str, ...]],
        evidence: tuple[str, ...],
    ) -> None:
        self._picks = {name: _Picker(pick) for name, pick in picks.items()}
        self._steps = sorted(
            ((least, level) for level in LEVELS if (least := at_least.get(level)) is not None),
            reverse=True,
        )
        self._signature = signature
        compiled = [(_compile(row.match), _read_row(row)) for row in rows]
        self._recall = _remember(lambda text: _find_row(text, compiled))
        self._where = {name: frozenset(texts) for name, texts in where.items()}
        self._evidence = evidence

    def read_finding(self, sighting: Sighting) -> list[Detection]:
        """The finding that a record of the format is; none where `where` says so. Raises nothing.

        A part that the record does not tell takes nothing else away: without a rule id the title
        names the rule, without both it is "unnamed"."""
        view = sighting.views[0]
        fields = view.fields
        if any(_read_text(fields.get(name)) not in texts for name, texts in self._where.items()):
            return []
        picks = self._picks
        sensor = picks["sensor"].choose(fields)
        title = " ".join(picks["title"].pick(fields).split())
        rule = picks["rule_id"].pick(fields).strip() or title or "unnamed"
        title = title or f"{sensor} {rule}"
        rule_id = f"{sensor}:{_name_rule(rule)}"
        text = _read_text(fields.get(self._signature)) if self._signature else title
        known = self._recall(text[:_MAX_MATCHED])
        title = cap(title, MAX_TITLE)
        return [
            Detection(
                detector=sensor,
                rule_id=rule_id,
                title=title,
                level=self._read_level(fields, known),
                techniques=_join(
                    picks["techniques"].list(fields), known.techniques, read_techniques
                ),
                tactics=_join(picks["tactics"].list(fields), known.tactics, read_tactics),
                event=sighting.event,
                logsource=view.logsource,
                matched=(
                    Match(picks["title"].field or None, title, rule_id),
                    *list_evidence(fields, self._list_shown(fields)),
                ),
            )
        ]

    def _list_shown(self, fields: Fields) -> list[str]:
        """The fields that are shown beside the title."""
        shown = self._evidence or list(fields)[:_MAX_EVIDENCE]
        return [name for name in shown if name != self._picks["title"].field]

    def _read_level(self, fields: Fields, known: _Known) -> Level:
        """The field's word or number before what is known of the signature, and that before what
        stands for all."""
        picker = self._picks["level"]
        text = picker.find(fields)
        if text:
            if level := _read_word(picker.table.get(text, picker.table.get(text.lower(), text))):
                return level
            if self._steps and (number := _read_number(text)) is not None:
                # Below the lowest step it is still an alert.
                return next((lv for least, lv in self._steps if number >= least), "informational")
        return known.level or _read_word(picker.otherwise) or "low"


class _Picker:
    """A Pick with its expressions compiled, and a memory."""

    def __init__(self, pick: Pick) -> None:
        self.field = pick.field
        self.table = dict(pick.table)
        self.otherwise = pick.otherwise
        self._plain = not pick.table and not pick.patterns
        self._patterns = [(_compile(match), give) for match, give in pick.patterns]
        self._recall = _remember(self._look_up)

    def find(self, fields: Fields) -> str:
        """The field's text, "" where there is none."""
        return _read_text(fields.get(self.field)).strip() if self.field else ""

    def pick(self, fields: Fields) -> str:
        """What stands for the field's text; the text itself where nothing is said of any."""
        text = self.find(fields)
        if self._plain:
            return text or self.otherwise
        return (self._recall(text[:_MAX_MATCHED]) if text else "") or self.otherwise

    def choose(self, fields: Fields) -> str:
        """The same, but never the field's own text."""
        text = "" if self._plain else self.find(fields)
        return (self._recall(text[:_MAX_MATCHED]) if text else "") or self.otherwise

    def list(self, fields: Fields) -> list[str]:
        """What stands for the texts of the field: a list's, or those of one text that commas,
        semicolons or bars separate."""
        value = fields.get(self.field) if self.field else None
        texts = list_texts(value)
        if type(value) is str:
            texts = _SPLIT.split(value[:MAX_VALUE])
        if not self._plain:
            texts = [self._recall(text.strip()) for text in texts]
        told = [text for text in texts if text.strip()]
        return told or (_SPLIT.split(self.otherwise) if self.otherwise else [])

    def _look_up(self, text: str) -> str:
        if (found := self.table.get(text)) is not None:
            return found
        return next((give for match, give in self._patterns if match.search(text)), "")


def build_map(
    *,
    sensor: Pick,
    rule_id: Pick,
    title: Pick,
    level: Pick,
    techniques: Pick,
    tactics: Pick,
    at_least: Mapping[str, float],
    signature: str = "",
    rows: tuple[Row, ...] = (),
    where: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    evidence: tuple[str, ...] = (),
) -> FindingMap:
    """How the records of a format are findings. `sensor` gives the detector's name and must do so
    for every text; `at_least` is level -> the least number that has it; `rows` are held against the
    text of the field `signature` (the title, when ""): the first that fits says what the fields do
    not; of a record that lacks one of the texts in `where` there is no finding; `evidence` are the
    fields that are shown (when empty, the first of the record).

    Raises ValueError for an expression that is none and a name that no sensor may have.
    """
    for name in (*sensor.table.values(), *(give for _, give in sensor.patterns), sensor.otherwise):
        if reason := check_sensor(name):
            raise ValueError(reason)
    picks = {"sensor": sensor, "rule_id": rule_id, "title": title, "level": level}
    picks |= {"techniques": techniques, "tactics": tactics}
    return FindingMap(
        picks=picks,
        at_least=at_least,
        signature=signature,
        rows=rows,
        where=where,
        evidence=evidence,
    )


def _remember(look_up: Callable[[str], Any]) -> Callable[[str], Any]:
    """The same, with a memory for short texts."""
    recall = lru_cache(maxsize=_REMEMBERED)(look_up)
    return lambda text: recall(text) if len(text) <= _MAX_REMEMBERED else look_up(text)


def _find_row(text: str, compiled: list[tuple[Any, _Known]]) -> _Known:
    return next((known for match, known in compiled if match.search(text)), _Known())


def _read_row(row: Row) -> _Known:
    return _Known(
        _read_word(row.level),
        read_techniques(list(row.techniques)),
        read_tactics(list(row.tactics)),
    )


def _read_text(value: Any) -> str:
    """A text, a number's text, or the first of a list; "" for anything else."""
    if type(value) is list and value:
        value = value[0]
    if type(value) is str:
        return value
    return str(value) if type(value) in (int, float) else ""


def _read_word(word: str) -> Level | None:
    lowered = word.strip().lower()
    return next((level for level in LEVELS if level == lowered), None)


def _read_number(text: str) -> float | None:
    try:
        number = float(text) if len(text) <= 32 else None
    except ValueError:
        return None
    return number if number is not None and math.isfinite(number) else None


def _name_rule(text: str) -> str:
    """A name in a rule id: visible, and never so short that two become one."""
    if len(text) <= _MAX_ID and text.isprintable():
        return text
    shown = "".join(char if char.isprintable() else " " for char in text[: 2 * _MAX_ID])
    if len(text) <= _MAX_ID:
        return shown
    return f"{shown[: _MAX_ID - 17]}~{digest(text)[:16]}"


def _join(
    told: list[str], known: tuple[str, ...], read: Callable[[Any], tuple[str, ...]]
) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*read(told), *known))) if told else known


#: No format's records are findings.
NO_MAPS: Final[Mapping[str, FindingMap]] = MappingProxyType({})
