"""What an incident's place in the list comes from: points that add up, each with its words.

Nothing is averaged: the worst level stands whatever the others say, agreement of diverse detectors
adds, what is expected here takes away from the rank and from nothing else.
"""

import math
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final

from appliance.schema import LEVELS, Fold, Level, Reason

#: Points of the worst finding's level, and of each further rule's.
LEVEL_POINTS: Final[dict[Level, float]] = {
    "informational": 1.0, "low": 3.0, "medium": 10.0, "high": 26.0, "critical": 42.0,
}  # fmt: skip
RULE_POINTS: Final[dict[Level, float]] = {
    "informational": 0.2, "low": 0.5, "medium": 2.0, "high": 4.0, "critical": 6.0,
}  # fmt: skip
#: Each further rule, or rarity, counts this much of the one before it.
DECAY: Final = 0.85
MOST_RULE_POINTS: Final = 18.0
MOST_RARITY_POINTS: Final = 30.0
#: Bits that surprise nobody: on every site something unusual happens every day.
DAILY_BITS: Final = 6.0
#: What is at least medium, before a day was watched: nobody can say that it is usual.
UNKNOWN_POINTS: Final = 8.0
SPREAD_POINTS: Final = 3.0
MOST_SPREAD_POINTS: Final = 10.0
STAGE_POINTS: Final = 2.0
MOST_STAGE_POINTS: Final = 10.0
LATE_STAGE_POINTS: Final = 4.0
AGREEMENT_POINTS: Final = 5.0
MOST_AGREEMENT_POINTS: Final = 10.0
KNOWN_POINTS: Final = 6.0
ASSET_POINTS: Final = 5.0
MOST_EXPECTED_POINTS: Final = 12.0
#: An incident below this, none of whose findings is high, is minor.
MINOR_BELOW: Final = 22.0
#: Bits from which on a rule's firing is rare here.
RARE_BITS: Final = 3.0

#: ATT&CK tactics in which an attack has got what it came for, or is about to.
LATE_STAGES: Final = frozenset(
    {"lateral-movement", "collection", "exfiltration", "impact"}
    | {"inhibit-response-function", "impair-process-control"}
)
#: Detectors that look at the same thing in the same way count as one voice.
_OWN: Final = {"sigma": "rules", "sentinel": "the model", "indicators": "indicators"}


def weigh_incident(
    folds: Sequence[Fold], assets: Sequence[tuple[str, float]] = ()
) -> tuple[float, tuple[Reason, ...]]:
    """The score (0..100) of an incident with these rows, and the reasons, the weightiest first.
    `assets` are (pattern of host names, weight 0..3) as the operator configured them."""
    if not folds:
        return 0.0, ()
    reasons = [
        *_weigh_levels(folds),
        *_weigh_rarity(folds),
        *_weigh_unknown(folds),
        *_weigh_spread(folds),
        *_weigh_stages(folds),
        *_weigh_detectors(folds),
        *_weigh_assets(folds, assets),
        *_weigh_expected(folds),
    ]
    score = min(100.0, max(0.0, sum(reason.points for reason in reasons)))
    ranked = sorted(reasons, key=lambda reason: (-abs(reason.points), reason.name, reason.words))
    return round(score, 2), tuple(ranked)


def find_worst(levels: Iterable[Level]) -> Level:
    """The worst of the levels."""
    return max(levels, key=LEVELS.index)


def _weigh_levels(folds: Sequence[Fold]) -> list[Reason]:
    rules: dict[tuple[str, str], Level] = {}
    for fold in folds:
        key = (fold.detector, fold.rule_id)
        rules[key] = find_worst((fold.level, rules.get(key, "informational")))
    worst, *others = sorted(rules.values(), key=LEVELS.index, reverse=True)
    found = [Reason("level", LEVEL_POINTS[worst], f"the worst finding is {worst}")]
    points = sum(RULE_POINTS[level] * DECAY**place for place, level in enumerate(others))
    if others:
        words = f"{len(others)} further rules fired" if len(others) > 1 else "another rule fired"
        found.append(Reason("rules", round(min(MOST_RULE_POINTS, points), 2), words))
    return found


def _weigh_rarity(folds: Sequence[Fold]) -> list[Reason]:
    best: dict[tuple[str, str], Fold] = {}
    for fold in folds:
        key = (fold.detector, fold.rule_id)
        if key not in best or fold.rarity > best[key].rarity:
            best[key] = fold
    rare = sorted(
        (fold for fold in best.values() if fold.rarity >= RARE_BITS),
        key=lambda fold: (-fold.rarity, fold.rule_id),
    )
    if not rare:
        return []
    bits = sum(fold.rarity * DECAY**place for place, fold in enumerate(rare))
    points = max(0.0, bits - DAILY_BITS)
    if not points:
        return []
    words = f"{len(rare)} of its {len(best)} rules are unusual here, above all: {rare[0].title}"
    return [Reason("rarity", round(min(MOST_RARITY_POINTS, points), 2), words)]


def _weigh_unknown(folds: Sequence[Fold]) -> list[Reason]:
    watched = max(fold.watched for fold in folds)
    if watched >= 1.0 or all(LEVELS.index(f.level) < LEVELS.index("medium") for f in folds):
        return []
    words = "what is usual here is not known yet: findings of less than 24 hours came before it"
    return [Reason("unknown", round(UNKNOWN_POINTS * (1 - watched), 2), words)]


def _weigh_spread(folds: Sequence[Fold]) -> list[Reason]:
    hosts = {fold.host for fold in folds if fold.host}
    if len(hosts) < 2:
        return []
    points = min(MOST_SPREAD_POINTS, SPREAD_POINTS * math.log2(len(hosts)))
    return [Reason("spread", round(points, 2), f"it is on {len(hosts)} hosts")]


def _weigh_stages(folds: Sequence[Fold]) -> list[Reason]:
    stages = sorted({tactic for fold in folds for tactic in fold.tactics})
    if not stages:
        return []
    points = min(MOST_STAGE_POINTS, STAGE_POINTS * len(stages))
    late = sorted(LATE_STAGES.intersection(stages))
    words = f"{len(stages)} stages of an attack: {', '.join(stages)}"
    if len(stages) == 1:
        words = f"one stage of an attack: {stages[0]}"
    found = [Reason("stage", points, words)]
    if late:
        found.append(Reason("stage", LATE_STAGE_POINTS, f"it has come to {', '.join(late)}"))
    return found


def _weigh_detectors(folds: Sequence[Fold]) -> list[Reason]:
    detectors = sorted(
        {
            fold.detector
            for fold in folds
            if fold.rarity >= RARE_BITS or LEVELS.index(fold.level) >= LEVELS.index("medium")
        }
    )
    found = []
    if len(detectors) > 1:
        points = min(MOST_AGREEMENT_POINTS, AGREEMENT_POINTS * (len(detectors) - 1))
        named = ", ".join(_OWN.get(name, name) for name in detectors)
        found.append(Reason("agreement", points, f"{len(detectors)} detectors speak: {named}"))
    if "indicators" in detectors:
        found.append(Reason("knowledge", KNOWN_POINTS, "a known indicator was seen"))
    return found


def _weigh_assets(folds: Sequence[Fold], assets: Sequence[tuple[str, float]]) -> list[Reason]:
    hosts = sorted({fold.host for fold in folds if fold.host})
    weights = [
        (weight, host) for host in hosts for glob, weight in assets if fnmatchcase(host, glob)
    ]
    if not weights:
        return []
    weight, host = max(weights)
    words = f"{host} has the asset weight {weight:g}"
    return [Reason("asset", round(ASSET_POINTS * weight, 2), words)]


def _weigh_expected(folds: Sequence[Fold]) -> list[Reason]:
    """What is usual here takes rank away: by the share of hours in which its least usual rule is
    seen, so that one unusual rule among many usual ones keeps the rank."""
    least = min(folds, key=lambda fold: (fold.expected, fold.rule_id))
    if least.expected < 0.1:
        return []
    points = -MOST_EXPECTED_POINTS * min(1.0, 2 * least.expected)
    words = f"all of it is seen here in {least.expected:.0%} of the hours or more"
    return [Reason("expected", round(points, 2), words)]
