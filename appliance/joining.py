"""Beside the line: why findings are one incident, why it ranks where it does, who agrees.

Worked out from the findings that are kept, with the very keys by which the correlator joins: an
entity ties those of them that name it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from appliance.correlate.keys import linking_keys
from appliance.incident import Dossier
from appliance.schema import Entity
from appliance.telling import (
    Body,
    find_agreements,
    find_disputes,
    find_lonely,
    group_detectors,
    name_event,
    read_body_time,
)

#: Entities that are named of those that tie findings together, and findings named of each list.
MOST_TIES: Final = 40
MOST_NAMED: Final = 20


def explain_incident(dossier: Dossier) -> dict[str, Any]:
    """The steps behind the incident, as JSON values.

    Keys: incident; reasons (name, points, words, the weightiest first); ties (kind, value,
    findings, rules, hosts, first, last: entities that more than one finding names, those that tie
    most hosts and rules first); untied (findings that share no such entity with another); apart
    (how many groups would remain by shared entities alone); detectors (findings and rules of
    each); agreed, disputed, alone (findings: several detectors on one event; experts who contradict
    one another; the sentinel where no rule speaks); experts (verdicts of each, counted by label);
    expected (rows that were seen here before, with the share of hours); folds, looked_at, left_out
    (counts).
    """
    bodies, incident = dossier.findings, dossier.incident
    ties, groups, untied = find_ties(bodies)
    expected = sorted(
        (fold for fold in incident.folds if fold.expected > 0), key=lambda fold: -fold.expected
    )
    return {
        "incident": incident.id,
        "title": incident.title,
        "kind": incident.kind,
        "score": incident.score,
        "level": incident.level,
        "reasons": [
            msgspec.to_builtins(reason)
            for reason in sorted(incident.reasons, key=lambda reason: -abs(reason.points))
        ],
        "folds": len(incident.folds),
        "looked_at": len(bodies),
        "left_out": dossier.findings_left_out,
        "ties": ties[:MOST_TIES],
        "ties_left_out": max(0, len(ties) - MOST_TIES),
        "apart": groups,
        "untied": _name(untied),
        "detectors": [
            {
                "detector": name,
                "findings": len(rows),
                "rules": len({body["rule_id"] for body in rows}),
            }
            for name, rows in group_detectors(bodies).items()
        ],
        "agreed": _name(find_agreements(bodies)),
        "agreed_events": len({name_event(body) for body in find_agreements(bodies)}),
        "disputed": _name(find_disputes(bodies)),
        "alone": _name(find_lonely(bodies)),
        "experts": count_votes(bodies),
        "expected": [msgspec.to_builtins(fold) for fold in expected],
        "aliases": list(incident.aliases),
        "related": list(incident.related),
    }


def find_ties(bodies: Sequence[Body]) -> tuple[list[dict[str, Any]], int, list[Body]]:
    """Entities that more than one finding names; into how many groups the findings fall by them
    alone; and those that share none with another finding."""
    by_key: dict[str, list[int]] = {}
    for place, body in enumerate(bodies):
        entities = (Entity(entity["kind"], entity["value"]) for entity in body["entities"])
        for key, _ in linking_keys(entities):
            by_key.setdefault(key, []).append(place)
    parents = list(range(len(bodies)))

    def find(place: int) -> int:
        while parents[place] != place:
            parents[place] = parents[parents[place]]
            place = parents[place]
        return place

    ties: list[dict[str, Any]] = []
    tied: set[int] = set()
    for key, places in by_key.items():
        if len(places) < 2:
            continue
        tied.update(places)
        for place in places[1:]:
            parents[find(place)] = find(places[0])
        named = [bodies[place] for place in places]
        times = [read_body_time(body) for body in named]
        kind, _, value = key.partition(":")
        ties.append(
            {
                "kind": kind,
                "value": value,
                "findings": len(places),
                "rules": len({(body["detector"], body["rule_id"]) for body in named}),
                "hosts": sorted({body["host"] for body in named}),
                "first": min(times),
                "last": max(times),
            }
        )
    ties.sort(key=lambda tie: (-len(tie["hosts"]), -tie["rules"], -tie["findings"], tie["value"]))
    groups = len({find(place) for place in range(len(bodies))})
    return ties, groups, [body for place, body in enumerate(bodies) if place not in tied]


def count_votes(bodies: Iterable[Body]) -> dict[str, dict[str, int]]:
    """By expert: how many findings it gave which label."""
    votes: dict[str, Counter[str]] = {}
    for body in bodies:
        for verdict in body["verdicts"]:
            votes.setdefault(verdict["expert"], Counter())[verdict["label"]] += 1
    return {expert: dict(counts.most_common()) for expert, counts in sorted(votes.items())}


def _name(bodies: Sequence[Body]) -> dict[str, Any]:
    """How many, and as rows of what is alike, each with its first id, the first ones."""
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for body in bodies:
        verdicts = {v["expert"]: v["label"] for v in body["verdicts"]}
        key = (body["detector"], body["rule_id"], body["host"], *map(str, verdicts.items()))
        row = rows.setdefault(
            key,
            {
                "id": body["id"],
                "count": 0,
                "time": body["time"],
                "host": body["host"],
                "detector": body["detector"],
                "title": body["title"],
                "verdicts": verdicts,
            },
        )
        row["count"] += 1
    return {"count": len(bodies), "rows": list(rows.values())[:MOST_NAMED]}
