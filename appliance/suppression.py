"""Beside the operator's file of overrides: what is suppressed for a while, by command.

A suppression names a scope (rule, host, user, address, detector, file; all that it names must fit),
an end and a reason. A finding in its scope is stored with the reason and kept from sinks and
incidents; it is never dropped. What counts is when its record came in: no log can say that of
itself.
"""

import ipaddress
import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final, Protocol

import msgspec

from appliance.emit.text import show_surrogates
from appliance.errors import UsageError
from appliance.schema import Detection, EntityKind, Review

#: Longest value of a scope and longest reason, in characters.
MOST_VALUE: Final = 512
MOST_REASON: Final = 512
#: Suppressions that hold at a time: each is looked at for the findings of its rule.
MOST_ACTIVE: Final = 1000
#: Seconds that one may hold: what is for ever belongs into the file of overrides.
LONGEST: Final = 366 * 86400.0
#: Stars in one value, and characters that it must have beside them where no rule is named.
_MOST_STARS: Final = 4
_LEAST_LITERAL: Final = 3
#: Shortest prefix of a network: more addresses than these nobody means.
_LEAST_PREFIX: Final = {4: 8, 6: 16}

_AGE: Final = re.compile(r"([0-9]{1,6})([mhdw])")
_AGE_SECONDS: Final = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


class Scope(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is suppressed: findings to which all that is named here fits. `rule` and `detector` are
    exact; in `host`, `user` and `file` a star stands for any text, `address` may be a network."""

    rule: str = ""
    detector: str = ""
    host: str = ""
    user: str = ""
    address: str = ""
    file: str = ""

    def describe(self) -> str:
        """As it is written on the command line."""
        named = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return ",".join(f"{name}={value}" for name, value in named if value)


#: What a scope can name, in the order in which it is written.
SCOPE_KEYS: Final[tuple[str, ...]] = Scope.__struct_fields__
_NEXT_KEY: Final = re.compile(rf",(?=(?:{'|'.join(SCOPE_KEYS)})=)")


class Suppression(msgspec.Struct, frozen=True):
    """One suppression. It holds from `created` until `until` (epoch seconds; the first moment at
    which it no longer does); `ended` is when an operator ended it before, 0 where nobody did."""

    number: int
    scope: Scope
    until: float
    because: str
    actor: str
    created: float
    ended: float = 0.0

    def holds(self, now: float) -> bool:
        """Whether it holds for a record that comes in at `now`."""
        return not self.ended and now < self.until


class Reviewer(Protocol):
    """The operator's word on what a rule finds."""

    def review(self, detection: Detection) -> Review | None:
        """The detection as the operator wants it, None where the rule is switched off."""
        ...


class Suppressions:
    """A reviewer that asks another one first, and then the suppressions. Used by one thread."""

    def __init__(self, inner: Reviewer, rows: Iterable[Suppression] = ()) -> None:
        self._inner = inner
        self.replace(rows)

    def replace(self, rows: Iterable[Suppression]) -> None:
        """Go on with these."""
        self._by_rule: dict[str, list[Suppression]] = {}
        self._by_detector: dict[str, list[Suppression]] = {}
        for row in rows:
            if row.ended:
                continue
            scope = row.scope
            index, key = (
                (self._by_rule, scope.rule) if scope.rule else (self._by_detector, scope.detector)
            )
            index.setdefault(key, []).append(row)

    def review(self, detection: Detection) -> Review | None:
        """What the other reviewer says, with the reason of the first suppression that covers the
        detection. A fault while one is looked at suppresses nothing. Raises nothing of its own."""
        said = self._inner.review(detection)
        mine = self._by_rule.get(detection.rule_id, [])
        theirs = self._by_detector.get(detection.detector, [])
        if said is None or said.suppressed or not (mine or theirs):
            return said
        received = detection.event.received
        try:
            for row in (*mine, *theirs):
                if row.holds(received) and covers(row.scope, detection):
                    return msgspec.structs.replace(
                        said, suppressed=row.because, any_rule=not row.scope.rule
                    )
        except Exception:  # the finding goes out: what is not understood must hide nothing
            return said
        return said


def covers(scope: Scope, detection: Detection) -> bool:
    """Whether the scope fits this detection."""
    event = detection.event
    if scope.rule and scope.rule != detection.rule_id:
        return False
    if scope.detector and scope.detector != detection.detector:
        return False
    values: dict[EntityKind, list[str]] = {"host": [event.host]}
    for entity in event.entities:
        values.setdefault(entity.kind, []).append(entity.value)
    texts: tuple[tuple[str, EntityKind], ...] = (
        (scope.host, "host"), (scope.user, "user"), (scope.file, "file"),
    )  # fmt: skip
    for pattern, kind in texts:
        if pattern and not any(fits_text(pattern, value) for value in values.get(kind, ())):
            return False
    addresses = values.get("address", ())
    return not scope.address or any(fits_address(scope.address, value) for value in addresses)


def fits_text(pattern: str, value: str) -> bool:
    """Whether the value is the pattern, in which a star stands for any text; case does not count.
    Takes time by the length of both: each part is looked for once, from left to right."""
    first, *parts = pattern.casefold().split("*")
    text = value.casefold()
    if not parts:
        return text == first
    last = parts.pop()
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    place, end = len(first), len(text) - len(last)
    for part in parts:
        place = text.find(part, place, end)
        if place < 0:
            return False
        place += len(part)
    return True


def fits_address(pattern: str, value: str) -> bool:
    """Whether the address is the pattern's, or in its network."""
    try:
        return ipaddress.ip_address(value) in ipaddress.ip_network(pattern, strict=False)
    except ValueError:
        return False


def read_scope(text: str) -> Scope:
    """ "rule=ID,host=web1" as a scope. A comma belongs to a value unless a known key follows.
    Raises UsageError."""
    found: dict[str, str] = {}
    for part in _NEXT_KEY.split(text):
        key, equals, value = part.partition("=")
        if not equals or key not in SCOPE_KEYS:
            raise UsageError(f"--scope: {part[:60]!r} is none of {', '.join(SCOPE_KEYS)} with =")
        if key in found:
            raise UsageError(f"--scope: {key} is given twice")
        if not value:
            raise UsageError(f"--scope: {key} has no value")
        found[key] = show_surrogates(value)
    return Scope(**found)


def check_scope(scope: Scope) -> None:
    """Raises UsageError, saying why, for a scope that is too broad or that nothing can fit."""
    named = {name: getattr(scope, name) for name in SCOPE_KEYS if getattr(scope, name)}
    if not (scope.rule or scope.detector):
        raise UsageError("the scope is too broad: it must name a rule or a detector")
    if not scope.rule and named.keys() == {"detector"}:
        raise UsageError(
            "the scope is too broad: it is all that the detector finds; name a rule, host, user, "
            "address or file, too"
        )
    for name, value in named.items():
        if len(value) > MOST_VALUE:
            raise UsageError(f"the scope's {name} is longer than {MOST_VALUE} characters")
        if name in ("host", "user", "file") and "*" in value:
            least = 1 if scope.rule else _LEAST_LITERAL
            if len(value.replace("*", "").strip()) < least:
                raise UsageError(
                    f"the scope is too broad: {name}={value} needs {least} characters beside the "
                    "stars"
                )
            if value.count("*") > _MOST_STARS:
                raise UsageError(f"the scope's {name} has more than {_MOST_STARS} stars")
        elif name in ("rule", "detector") and "*" in value:
            raise UsageError(f"the scope's {name} is one id, without stars")
    if scope.address:
        _check_address(scope.address)


def _check_address(value: str) -> None:
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError as error:
        raise UsageError(f"the scope's address: {value!r} is no address and no network") from error
    if network.prefixlen < _LEAST_PREFIX[network.version]:
        raise UsageError(
            f"the scope is too broad: address={value} needs a prefix of at least "
            f"/{_LEAST_PREFIX[network.version]}"
        )


def read_end(text: str, now: float) -> float:
    """ "7d" from now, the end of a day (2027-01-31, UTC) or a moment (UTC unless it says), as epoch
    seconds. Raises UsageError, also for one in the past or too far ahead."""
    until = _read_moment(text, now)
    check_end(until, now)
    return until


def check_end(until: float, now: float) -> None:
    """Raises UsageError for an end in the past or more than a year ahead."""
    if not until > now:
        raise UsageError("the end is in the past")
    if until - now > LONGEST:
        raise UsageError(
            "the end is more than a year ahead: what is for ever belongs into the file of overrides"
        )


def _read_moment(text: str, now: float) -> float:
    age = _AGE.fullmatch(text)
    if age:
        return now + int(age[1]) * _AGE_SECONDS[age[2]]
    try:
        if len(text) == 10:
            day = date.fromisoformat(text) + timedelta(days=1)
            return datetime.combine(day, time(), UTC).timestamp()
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{text[:40]!r} is no end: give 12h, 7d, 2027-01-31 or 2027-01-31T18:00"
        ) from error


def check_reason(text: str, what: str) -> str:
    """The reason, able to be stored. Raises UsageError for an empty or overlong one."""
    if not text.strip():
        raise UsageError(f"{what}: a reason is needed")
    if len(text) > MOST_REASON:
        raise UsageError(f"{what}: is longer than {MOST_REASON} characters")
    return show_surrogates(text)


def describe_suppression(row: Suppression, findings: int) -> dict[str, Any]:
    """One suppression as JSON values; `findings` counts the stored that it suppressed."""
    return {
        "number": row.number,
        "scope": msgspec.to_builtins(row.scope),
        "until": row.until,
        "because": row.because,
        "actor": row.actor,
        "created": row.created,
        "ended": row.ended or None,
        "findings": findings,
    }
