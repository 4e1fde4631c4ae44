"""Beside casework: folds as operators divide them, so that none spans two incidents."""

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from appliance.schema import LEVELS, Entity, FoldState, digest

#: Findings of one fold that are read to tell its parts, when it is divided.
FOLD_FINDINGS: Final = 1000
#: Findings and entities that a fold names, and its seconds.
_FOLD_NAMED: Final = 8
_FOLD_ENTITIES: Final = 24
_BUCKET: Final = 600
_ENTITY_KINDS: Final = frozenset(
    ("host", "user", "process", "file", "hash", "address", "domain", "service", "session")
)


class Placed(msgspec.Struct, frozen=True):
    """A stored finding's place: its incident and fold (empty where it has none), its event's time,
    and its body."""

    id: str
    incident: str
    fold: str
    time: float
    body: dict[str, Any]


def take_part(fold: FoldState, mine: Sequence[Placed], into: str) -> FoldState:
    """Some findings of a fold (at least one) as a fold of their own, of the incident `into`; its id
    follows from both."""
    times = [one.time for one in mine]
    told = {f"{entity.kind}:{entity.value}" for one in mine for entity in _entities_of(one.body)}
    keys = {
        key: (max(first, min(times)), min(last, max(times)))
        for key, (first, last) in fold.keys.items()
        if key in told or not _is_entity_key(key)
    }
    return msgspec.structs.replace(
        fold,
        id=digest("fold split", fold.id, into),
        incident=into,
        count=len(mine),
        first=min(times),
        last=max(times),
        keys={key: (min(span), max(span)) for key, span in keys.items()},
        findings=[one.id for one in mine][:_FOLD_NAMED],
        entities=_name_few(mine),
    )


def leave_rest(fold: FoldState, rest: Sequence[Placed], taken: int) -> FoldState:
    """The fold without the `taken` findings that left; `rest` are those that stay, oldest first, up
    to FOLD_FINDINGS of them. Where these are all that stay it says no more than they do."""
    whole = len(rest) < FOLD_FINDINGS and len(rest) == fold.count - taken
    if not whole:
        gone = max(1, fold.count - taken)
        return msgspec.structs.replace(
            fold, count=gone, findings=[one.id for one in rest][:_FOLD_NAMED],
            entities=_name_few(rest),
        )  # fmt: skip
    told = {f"{entity.kind}:{entity.value}" for one in rest for entity in _entities_of(one.body)}
    return msgspec.structs.replace(
        fold,
        count=len(rest),
        first=rest[0].time,
        last=rest[-1].time,
        keys={k: span for k, span in fold.keys.items() if k in told or not _is_entity_key(k)},
        findings=[one.id for one in rest][:_FOLD_NAMED],
        entities=_name_few(rest),
    )


def _is_entity_key(key: str) -> bool:
    return key.partition(":")[0] in _ENTITY_KINDS


def list_keys(state: FoldState) -> set[str]:
    """All correlation keys under which the fold may have led to its incident."""
    quiet = (f"quiet:{state.host}",) if state.host else ()
    return {*state.keys, *quiet, *(f"{e.kind}:{e.value}" for e in state.entities)}


def fold_findings(findings: Sequence[Placed], incident: str) -> list[FoldState]:
    """Findings that are in no fold as folds: one rule on one host in ten minutes."""
    groups: dict[tuple[str, str, str, int], list[Placed]] = {}
    for one in findings:
        body = one.body
        bucket = int(one.time // _BUCKET) if math.isfinite(one.time) else 0
        key = (_text(body, "detector"), _text(body, "rule_id"), _text(body, "host"), bucket)
        groups.setdefault(key, []).append(one)
    states: list[FoldState] = []
    for (detector, rule, host, bucket), mine in groups.items():
        worst = max((one.body for one in mine), key=lambda body: _rank(body.get("level")))
        states.append(
            FoldState(
                id=digest("fold", incident, mine[0].id),
                incident=incident,
                detector=detector,
                rule_id=rule,
                title=_text(worst, "title"),
                level=LEVELS[_rank(worst.get("level"))],
                host=host,
                bucket=bucket,
                count=len(mine),
                first=min(one.time for one in mine),
                last=max(one.time for one in mine),
                techniques=_tags(mine, "techniques"),
                tactics=_tags(mine, "tactics"),
                state="quiet",
                base="quiet",
                rarity=0.0,
                burst=0.0,
                expected=0.0,
                keys={},
                findings=[one.id for one in mine],
                entities=_name_few(mine),
            )
        )
    return states


def _rank(level: object) -> int:
    return LEVELS.index(level) if level in LEVELS else 0


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    return value if isinstance(value, str) else ""


def _tags(mine: Sequence[Placed], name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(tag) for one in mine for tag in one.body.get(name) or ()))


def _entities_of(body: dict[str, Any]) -> list[Entity]:
    return [
        Entity(entry["kind"], str(entry.get("value", "")))
        for entry in body.get("entities") or ()
        if isinstance(entry, dict) and entry.get("kind") in _ENTITY_KINDS
    ]


def _name_few(mine: Sequence[Placed]) -> list[Entity]:
    named = dict.fromkeys(entity for one in mine for entity in _entities_of(one.body))
    return list(named)[:_FOLD_ENTITIES]
